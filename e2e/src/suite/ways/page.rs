//! A page of the documentation, followed as a reader would: its commands, as they stand there, one block after the other.
//!
//! A fenced block `sh` is run by bash on the administrator's machine, `sh node` on the first control-plane node. What a
//! block exports is there in the next. Other blocks are for the eye.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::progress::say;
use crate::run::{ended, tail};
use crate::suite::operator::CHANGE;

/// Where commands are typed: a folder with what the pages need of a checkout, and kubectl's plugin on the PATH.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) folder: PathBuf,
    plugins: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
}

/// One block.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    heading: String,
    line: usize,
    on_node: bool,
    text: String,
}

impl<'a> Desk<'a> {
    /// A fresh one in the cluster's state folder. `kubectl-audit` lies beside the operator's binary.
    pub(super) fn new(cluster: &'a Cluster, operator: &Path, name: &str) -> Result<Self> {
        let folder = cluster.desk().join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        for part in ["charts", "deploy", "docs"] {
            crate::run::output(Command::new("cp").arg("-r").arg(top().join(part)).arg(folder.join(part)))?;
        }
        let plugin = operator.with_file_name("kubectl-audit").canonicalize();
        let plugin = plugin.context("kubectl-audit is not beside the operator; `make static` builds it")?;
        let plugins = plugin.parent().context("a file is in a folder")?.to_owned();
        Ok(Self { cluster, folder, plugins, environment: Vec::new() })
    }

    /// Does what a page says, and calls `after` with each heading when its commands are done and with what they printed.
    pub(super) fn follow(&self, page: &str, mut after: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
        let blocks = blocks_of(page)?;
        ensure!(!blocks.is_empty(), "{page} has no commands");
        let mut said = String::new();
        for (at, block) in blocks.iter().enumerate() {
            say!("{page}:{}: {}", block.line, block.heading);
            let answer = self.type_in(block).with_context(|| format!("{page}, line {}", block.line))?;
            said.push_str(&answer);
            if blocks.get(at + 1).is_none_or(|next| next.heading != block.heading) {
                after(&block.heading, &said)
                    .with_context(|| format!("{page}, after \"{}\"", block.heading))?;
                said.clear();
            }
        }
        Ok(())
    }

    /// Does what a page says under one heading.
    pub(super) fn section(&self, page: &str, heading: &str) -> Result<()> {
        let blocks: Vec<Block> =
            blocks_of(page)?.into_iter().filter(|block| block.heading == heading).collect();
        ensure!(!blocks.is_empty(), "{page} has no commands under \"{heading}\"");
        for block in &blocks {
            say!("{page}:{}: {heading}, once more", block.line);
            self.type_in(block).with_context(|| format!("{page}, line {}", block.line))?;
        }
        Ok(())
    }

    /// Gives what was printed, on standard output and on standard error.
    fn type_in(&self, block: &Block) -> Result<String> {
        let said = if block.on_node {
            let mut command = self.cluster.nodes[0].command("bash")?;
            command.arg("-c").arg(format!("set -euo pipefail\n{}", block.text));
            said(&mut command, &block.text)
        } else {
            self.enter(&block.text)
        }?;
        for line in said.lines() {
            say!("  | {line}");
        }
        Ok(said)
    }

    /// Does commands on the administrator's machine, after those of the page, and gives what they printed.
    pub(super) fn enter(&self, commands: &str) -> Result<String> {
        let kept = self.folder.with_extension("environment");
        let script = format!(
            "set -euo pipefail\n[ ! -e {kept} ] || . {kept}\n{commands}\nexport -p >{kept}\n",
            kept = kept.display()
        );
        said(self.bash()?.arg("-c").arg(script), commands)
    }

    /// Sets a variable of the environment for all commands that follow.
    pub(super) fn set(&mut self, name: &'static str, value: &'static str) {
        self.environment.push((name, value));
    }

    /// bash as the administrator has it, in the folder.
    pub(super) fn bash(&self) -> Result<Command> {
        let mut command = self.cluster.command(Path::new("bash"))?;
        let path = std::env::join_paths(
            std::iter::once(self.plugins.clone()).chain(std::env::split_paths(&self.cluster.search_path()?)),
        )?;
        command.current_dir(&self.folder).env("PATH", path).env("HOME", &self.folder);
        command.envs(self.environment.iter().copied());
        Ok(command)
    }
}

/// What commands print, on standard output and on standard error.
fn said(command: &mut Command, commands: &str) -> Result<String> {
    let ended = ended(command, CHANGE * 2)?;
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(ended.status.success(), "ended with {}:\n{commands}{}", ended.status, tail(&said));
    Ok(said)
}

/// The repository.
pub(super) fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn blocks_of(page: &str) -> Result<Vec<Block>> {
    let path = top().join(page);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(blocks(&text))
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut heading = String::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if let Some(name) = line.strip_prefix("## ") {
            heading = name.to_owned();
        }
        let Some(kind) = line.strip_prefix("```") else { continue };
        let text: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        if matches!(kind, "sh" | "sh node") {
            let (heading, on_node) = (heading.clone(), kind == "sh node");
            found.push(Block { heading, line: at + 1, on_node, text: text.join("\n") });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_commands_are_found_and_others_are_not() {
        let page = "# Page\n## One\n```yaml\na: 1\n```\n```sh\necho a\necho b\n```\n## Two\n```sh node\n# no heading\nc\n```\n";
        let block = |heading: &str, line, on_node, text: &str| Block {
            heading: heading.to_owned(),
            line,
            on_node,
            text: text.to_owned(),
        };
        let expected = [block("One", 6, false, "echo a\necho b"), block("Two", 11, true, "# no heading\nc")];
        assert_eq!(blocks(page), expected);
    }
}
