//! Disks that are full or read-only: `audit-operator node apply` says which file, and leaves the node as it was.
//!
//! Needs root for the mounts and nothing else: no cluster is brought up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::progress::say;
use crate::run::{LIMIT, ended, output};
use crate::suite::Given;

const MANIFEST: &str = include_str!("../../../tests/data/manifests/kubeadm-1.37.2.yaml");
const CONFIGURATION: &str = "apiVersion: audit-operator.dev/v1alpha1\nkind: AuditConfiguration\n\
                             metadata: {name: default}\nspec: {policy: {profile: Metadata}}\n";
const MANIFESTS: &str = "etc/kubernetes/manifests";
const STATE: &str = "var/lib/audit-operator";

pub(super) fn run(given: &Given) -> Result<()> {
    let binary = given.operator.as_deref().context("needs --operator-binary")?;
    let root = given.state.root().join("disk");
    let _ = fs::remove_dir_all(&root);
    let outcome = cases(binary, &root);
    let _ = fs::remove_dir_all(&root);
    outcome
}

fn cases(binary: &Path, root: &Path) -> Result<()> {
    let node = Node { binary: binary.to_owned(), root: root.to_owned() };
    fs::create_dir_all(root)?;
    fs::write(node.config(), CONFIGURATION)?;

    let manifests = Mounted::new(root.join(MANIFESTS), "1m")?;
    fs::write(node.manifest(), MANIFEST)?;
    manifests.remount("ro")?;
    node.check_refuses("a read-only manifests folder", MANIFESTS, "Read-only file system")?;
    manifests.remount("rw")?;

    manifests.fill()?;
    node.check_refuses("a full disk under the manifests folder", MANIFESTS, "No space left on device")?;
    manifests.drain()?;

    let state = Mounted::new(root.join(STATE), "64k")?;
    state.fill()?;
    node.check_refuses("a full disk under the state folder", STATE, "No space left on device")?;
    state.remount("ro")?;
    node.check_refuses("a read-only state folder", STATE, "Read-only file system")?;
    state.remount("rw")?;
    state.drain()?;
    drop(state);

    let done = node.apply()?;
    ensure!(done.status.success(), "with room again it fails: {}", String::from_utf8_lossy(&done.stderr));
    ensure!(fs::read_to_string(node.manifest())?.contains("--audit-policy-file="), "nothing was applied");
    say!("with room again it is applied");
    Ok(())
}

struct Node {
    binary: PathBuf,
    root: PathBuf,
}

impl Node {
    fn manifest(&self) -> PathBuf {
        self.root.join(MANIFESTS).join("kube-apiserver.yaml")
    }

    fn config(&self) -> PathBuf {
        self.root.join("auditconfig.yaml")
    }

    fn apply(&self) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(["node", "apply", "--root"]).arg(&self.root).arg("--config").arg(self.config());
        ended(&mut command, LIMIT)
    }

    fn check_refuses(&self, what: &str, folder: &str, part: &str) -> Result<()> {
        let output = self.apply()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{what}: {}, said {said}", output.status);
        ensure!(said.contains(part) && said.contains(&format!("/{folder}")), "{what}: said {said}");
        ensure!(fs::read_to_string(self.manifest())? == MANIFEST, "{what}: the manifest was changed");
        for entry in fs::read_dir(self.root.join(MANIFESTS))? {
            let name = entry?.file_name();
            let expected = ["kube-apiserver.yaml", "filler"].iter().any(|n| *n == name);
            ensure!(expected, "{what}: left {name:?} in the manifests folder");
        }
        say!("{what}: {}", said.lines().last().unwrap_or_default());
        Ok(())
    }
}

/// A small file system in memory, gone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf, size: &str) -> Result<Self> {
        fs::create_dir_all(&path)?;
        mount(&["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"], &path)?;
        Ok(Self(path))
    }

    fn remount(&self, mode: &str) -> Result<()> {
        mount(&["-o", &format!("remount,{mode}")], &self.0)
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> Result<()> {
        let more = fs::write(self.0.join("filler"), vec![0; 2 << 20]);
        ensure!(more.is_err(), "the disk is larger than it should be");
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A lazy one also ends a mount that something still uses; there is nobody to tell of an error here.
        let _ = output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn mount(arguments: &[&str], path: &Path) -> Result<()> {
    output(Command::new("mount").args(arguments).arg(path)).map(drop)
}
