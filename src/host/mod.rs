//! The node: files under its root, the manifests folder, the API server's health, the state of installs. Effects only.
//!
//! Everything is reached through [`Host`], whose root is `/` on the node itself, the mount point of the node's folders
//! in the agent's container, or any folder for image builds. No function here decides anything: [`crate::install`] does.
#![expect(clippy::disallowed_methods, reason = "this is the edge where files are read and written")]

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::install::order::STATE_FOLDER;
use crate::install::{Journal, NodeFacts, Observed, Order};
use crate::manifest;

mod file;
mod manifests;
mod server;
pub mod stand_in_log;
mod state;

pub use state::Lock;

/// kubeadm's place for the manifest.
pub const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// A node's root and the manifest worked on.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    manifest: String,
    node_name: Option<String>,
}

/// Something that could not be done on the node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} `{path}`: {cause}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not; not the error's `source`, because this message is also read where no chain is printed.
        cause: io::Error,
    },
    /// What is in a file is not what must be in it.
    #[error("`{path}` {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Another process works on this node.
    #[error("another process holds `{0}`: an install is under way on this node; try again when it is done")]
    Locked(PathBuf),
}

impl Error {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::File { action, path, cause }
    }
}

impl Host {
    /// A host whose files lie under `root`. With a `node_name` it has an API server to observe; without, only files.
    pub fn new(root: impl Into<PathBuf>, manifest: impl Into<String>, node_name: Option<String>) -> Self {
        Self { root: root.into(), manifest: manifest.into(), node_name }
    }

    /// Where a path of the node lies for this process.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The manifest's path on the node.
    pub fn manifest_path(&self) -> &str {
        &self.manifest
    }

    /// What planning needs: the manifest, the policy file at `policy_path` if one is wanted, the last settled order.
    pub fn facts(&self, policy_path: Option<&str>) -> Result<NodeFacts, Error> {
        let path = self.at(&self.manifest);
        let manifest = file::read(&path)?.ok_or_else(|| Error::Content {
            path: path.clone(),
            problem: "does not exist: is this a control-plane node that kubeadm set up? (`--manifest` names another place)"
                .to_owned(),
        })?;
        let policy_file = match policy_path {
            Some(path) => file::read(&self.at(path))?,
            None => None,
        };
        Ok(NodeFacts {
            manifest_path: self.manifest.clone(),
            manifest,
            policy_file,
            settled: self.settled()?,
        })
    }

    /// Read-only checks before an order is given: folders that must be writable, and rival manifests.
    pub fn preflight(&self, order: &Order) -> Result<(), Error> {
        file::create_folder(&self.at(STATE_FOLDER))?;
        let mut folders = vec![self.at(STATE_FOLDER)];
        if !order.only_files() {
            folders.extend(self.at(&self.manifest).parent().map(Path::to_owned));
        }
        for file in &order.files {
            folders.extend(self.nearest_folder(&file.path));
        }
        for folder in &folders {
            file::check_writable(folder)?;
        }
        let rivals = self.rivals()?;
        if !rivals.is_empty() {
            let problem = crate::install::next::rivals_message(&rivals);
            return Err(Error::Content {
                path: self.at(&self.manifest),
                problem: format!("has a rival: {problem}"),
            });
        }
        Ok(())
    }

    /// The folder of `path`, or the nearest one above it that exists.
    fn nearest_folder(&self, path: &str) -> Option<PathBuf> {
        let path = self.at(path);
        path.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned)
    }

    /// What there is now, for [`crate::install::next()`].
    pub async fn observe(&self, order: &Order) -> Result<Observed, Error> {
        let bytes = file::read(&self.at(&self.manifest))?;
        let server = match (&self.node_name, &bytes) {
            (Some(node), Some(bytes)) => Some(server::observe(self, node, bytes).await),
            _ => None,
        };
        let mut staged = true;
        for file in &order.files {
            let there = file::read(&self.at(&file.path))?;
            staged &= there.is_some_and(|bytes| manifest::digest(&bytes) == file.digest());
        }
        Ok(Observed {
            manifest: bytes.as_deref().map(manifest::digest),
            last_known_good: self.last_known_good()?.as_deref().map(manifest::digest),
            staged,
            rivals: self.rivals()?,
            server,
        })
    }

    /// Writes the order's files: 0600, owned by root as kube-apiserver runs as root under kubeadm. Makes the folders of
    /// its logs, too; one on a file system that is read-only for this process is the kubelet's to make.
    pub fn stage(&self, order: &Order) -> Result<(), Error> {
        for folder in &order.log_folders {
            match file::create_folder(&self.at(folder)) {
                Err(Error::File { cause, .. }) if cause.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                made => made?,
            }
        }
        for file in &order.files {
            let path = self.at(&file.path);
            if let Some(folder) = path.parent() {
                file::create_folder(folder)?;
            }
            file::replace(&path, file.content.as_bytes())?;
        }
        Ok(())
    }

    /// Puts the order's target in place of the manifest.
    pub fn swap(&self, order: &Order) -> Result<(), Error> {
        file::replace(&self.at(&order.manifest), order.target.as_bytes())
    }

    /// Puts the last known good manifest back, and before it what fixed paths held.
    pub fn restore(&self, order: &Order) -> Result<(), Error> {
        for file in &order.files {
            if let Some(previous) = &file.previous {
                file::replace(&self.at(&file.path), previous.as_bytes())?;
            }
        }
        let bytes = self.last_known_good()?.unwrap_or_default();
        if manifest::digest(&bytes) != order.from {
            return Err(Error::Content {
                path: self.last_known_good_path(),
                problem: format!(
                    "is not the manifest from before the change: put the newest file of `{STATE_FOLDER}/backups` back by hand"
                ),
            });
        }
        file::replace(&self.at(&order.manifest), &bytes)
    }

    /// A fresh journal if this order has none, the one on the disk otherwise.
    pub fn journal_of(&self, order: &Order, now: Timestamp) -> Result<Journal, Error> {
        Ok(self.journal()?.filter(|j| j.order == order.id).unwrap_or_else(|| Journal::begin(&order.id, now)))
    }
}
