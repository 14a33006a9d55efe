//! What the API server refuses and warns of: the files of `tests/data/admission`, given to a real one by a dry run.
//!
//! Each begins with what is expected, a line each: `# error PATH: TEXT` or `# warning PATH: TEXT`; none for a good one.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::progress::say;
use crate::run::{LIMIT, ended};
use crate::wait;

use super::page::top;

/// Gives it every file.
pub(super) fn all(cluster: &Cluster) -> Result<()> {
    let folder = top().join("tests/data/admission");
    let mut files = 0;
    // The policy that warns is loaded within seconds of being written.
    wait::until("the first warning", LIMIT, || file(cluster, &folder.join("warning-verb.yaml")).map(Some))?;
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        file(cluster, &path).with_context(|| format!("{}", path.display()))?;
        files += 1;
    }
    say!("{files} objects refused, warned of or taken as they should be");
    Ok(())
}

fn file(cluster: &Cluster, path: &std::path::Path) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
    let mut command = cluster.kubectl_command()?;
    command.args(["apply", "--dry-run=server", "--filename"]).arg(path);
    let ended = ended(&mut command, LIMIT)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    let refused = expected.iter().any(|line| line.starts_with("error "));
    ensure!(ended.status.success() != refused, "kubectl ended with {}: {said}", ended.status);
    for line in &expected {
        ensure!(says(&said, line), "it does not say `{line}` but: {said}");
    }
    ensure!(!expected.is_empty() || said.is_empty(), "it says: {said}");
    Ok(())
}

/// Whether one line has the path and the text.
fn says(said: &str, expected: &str) -> bool {
    let expected = expected.split_once(' ').map_or("", |(_, rest)| rest);
    let (path, text) = expected.split_once(": ").unwrap_or((expected, ""));
    said.lines().any(|line| line.contains(path) && line.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_text_have_to_be_in_one_line() {
        let said = "* spec.a: Invalid value: \"x\": must not\n* spec.b: Required value\n";
        assert!(says(said, "error spec.a: must not"));
        assert!(says(said, "error spec.b"));
        assert!(!says(said, "error spec.b: must not"));
    }
}
