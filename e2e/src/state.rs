//! The state folder: everything a cluster keeps on this machine's disk, and who may work on it.
//!
//! One folder is one cluster. It lies outside the repository (`AUDIT_OPERATOR_STATE`, else `e2e` in the project's
//! cache folder) and is empty but for the lock file when no cluster is up.

use std::env;
use std::fs::{self, File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process;

/// The folder of the lanes in a state folder.
const LANES: &str = "lanes";

/// The state folder of one cluster, by its canonical path.
#[derive(Clone, Debug)]
pub(crate) struct State {
    root: PathBuf,
}

/// Held while a command changes the cluster.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl State {
    /// The folder of this environment; made if missing.
    pub(crate) fn open() -> Result<Self> {
        let root = match env::var_os("AUDIT_OPERATOR_STATE") {
            Some(folder) => PathBuf::from(folder),
            None => cache()?.join("e2e"),
        };
        fs::create_dir_all(&root).with_context(|| format!("making the state folder {}", root.display()))?;
        Self::at(&root)
    }

    /// An existing state folder.
    pub(crate) fn at(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("no state folder {}", root.display()))?;
        // The path becomes part of an overlay's mount options, where these two separate.
        if root.to_string_lossy().contains([',', ':']) {
            bail!("the state folder {} must not have a comma or colon in its path", root.display());
        }
        Ok(Self { root })
    }

    /// A folder in this one for a cluster beside others, numbered from 0; made if missing. It goes with `teardown::down`.
    pub(crate) fn lane(&self, number: usize) -> Result<Self> {
        let root = self.root.join(LANES).join(number.to_string());
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        Self::at(&root)
    }

    /// The lanes there are.
    pub(crate) fn lanes(&self) -> Vec<Self> {
        let entries = fs::read_dir(self.root.join(LANES)).into_iter().flatten().flatten();
        entries.filter_map(|lane| Self::at(&lane.path()).ok()).collect()
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What tells this cluster from others in names the whole machine sees.
    pub(crate) fn mark(&self) -> String {
        let digest = Sha256::digest(self.root.as_os_str().as_bytes());
        digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where the archives of images are that this cluster alone has.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Where commands of the documentation are typed.
    pub(crate) fn desk(&self) -> PathBuf {
        self.root.join("desk")
    }

    /// The folder of one node.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.root.join("nodes").join(name)
    }

    /// Takes the right to change the cluster; refuses when another command has it.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => bail!(
                "another e2e command is at work in {}; end it with Ctrl-C (it cleans up), or wait",
                self.root.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", path.display()))
            }
        }
    }

    /// Whether these are the arguments of `e2e ROLE --state THIS-FOLDER …`, the processes a cluster is made of.
    pub(crate) fn owns(&self, arguments: &[String], role: &str) -> bool {
        let mut rest = arguments.iter().map(String::as_str).skip(1);
        rest.next() == Some(role) && rest.next() == Some("--state") && rest.next() == self.root.to_str()
    }

    /// Whether the arguments name this state folder at all, as those of the programs around our own do.
    pub(crate) fn mentions(&self, arguments: &[String]) -> bool {
        arguments.windows(2).any(|pair| pair[0] == "--state" && Some(pair[1].as_str()) == self.root.to_str())
    }

    /// The process that holds the network between the nodes.
    pub(crate) fn hub(&self) -> Option<process::Id> {
        process::find(|a| self.owns(a, "hub")).first().copied()
    }

    /// The PID 1 of a node, by its id on this machine.
    pub(crate) fn node_init(&self, name: &str) -> Option<process::Id> {
        process::find(|a| self.owns(a, "node-init") && a.windows(2).any(|w| w == ["--name", name]))
            .first()
            .copied()
    }

    /// The names of the nodes that have a folder, running or not.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("nodes")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// The project's cache folder, the same as `e2e/k8s/build` uses.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("AUDIT_OPERATOR_CACHE") {
        return Ok(PathBuf::from(folder));
    }
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME").context("neither HOME nor AUDIT_OPERATOR_CACHE is set")?)
            .join(".cache"),
    };
    Ok(base.join("audit-operator"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn two_folders_have_two_marks() {
        let mark = |root: &str| State { root: PathBuf::from(root) }.mark();
        assert_ne!(mark("/s"), mark("/s2"));
        assert_eq!(mark("/s").len(), 8);
    }

    #[test]
    fn owns_only_its_own_roles_in_its_own_folder() {
        let state = State { root: PathBuf::from("/s") };
        assert!(state.owns(&words("/x/e2e hub --state /s"), "hub"));
        assert!(!state.owns(&words("/x/e2e hub --state /s2"), "hub"), "another folder's hub");
        assert!(!state.owns(&words("/x/e2e node-init --state /s"), "hub"), "another role");
        assert!(!state.owns(&words("unshare --net e2e hub --state /s"), "hub"), "the program around it");
        assert!(state.mentions(&words("unshare --net e2e hub --state /s")));
        assert!(!state.mentions(&words("ls /s")), "only the option counts");
    }
}
