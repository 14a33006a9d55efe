//! docs/ci.md: its commands are run, and what they print stands below each.
//!
//! A `yaml` block below `<!-- file: PATH -->` is written to that file; the first is what `origin/main` has. A `sh` block is run,
//! and the `text` block after it is its output.

use std::path::Path;
use std::process::Command;

use super::generated;
use crate::markdown::document;
use crate::source::root;

const PAGE: &str = "docs/ci.md";
const COMMIT: &str = "git init --quiet
git add audit
git commit --quiet --message main
git update-ref refs/remotes/origin/main HEAD
";

#[test]
fn what_the_commands_of_the_page_on_ci_print() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("audit")).unwrap();
    let manifest = root().join("tests/data/manifests/kubeadm-1.37.2.yaml");
    std::fs::copy(manifest, folder.path().join("audit/kube-apiserver.yaml")).unwrap();

    let page = document(PAGE);
    let mut made = String::new();
    let mut printed: Option<String> = None;
    let mut file = None;
    let mut is_first = true;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        made.push_str(line);
        made.push('\n');
        if let Some(name) = line.strip_prefix("<!-- file: ").and_then(|rest| rest.strip_suffix(" -->")) {
            file = Some(folder.path().join(name));
        }
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block: String = lines.by_ref().take_while(|l| *l != "```").map(|l| format!("{l}\n")).collect();
        match kind {
            "text" => made.push_str(&printed.take().expect("a command before it")),
            _ => made.push_str(&block),
        }
        made.push_str("```\n");
        match (kind, file.take()) {
            ("sh", _) => printed = Some(run(folder.path(), &block)),
            ("yaml", Some(file)) => {
                std::fs::write(file, &block).unwrap();
                if std::mem::take(&mut is_first) {
                    run(folder.path(), COMMIT);
                }
            }
            _ => {}
        }
    }
    generated(PAGE, &made);
}

/// What a script prints, on either stream.
#[track_caller]
fn run(folder: &Path, script: &str) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_kubectl-audit")).parent().unwrap();
    let others = std::env::var_os("PATH").unwrap();
    let path = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&others));
    let who = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"];
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{script}")])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(path).unwrap())
        .envs(who.map(|name| (name, "ci@example.com")))
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {script}{printed}", output.status);
    printed
}
