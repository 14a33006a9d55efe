//! The node: files under its root, the manifests folder, the API server's health, the state of installs. Effects only.
//!
//! Everything is reached through [`Host`], whose root is `/` on the node itself, the mount point of the node's folders
//! in the agent's container, or any folder for image builds. No function here decides anything: [`crate::install`] does.
#![expect(clippy::disallowed_methods, reason = "this is the edge where files are read and written")]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::install::budget::LogBudget;
use crate::install::order::STATE_FOLDER;
use crate::install::{Journal, Memory, NodeFacts, Observed, Order, Relief};
use crate::manifest;

mod confine;
mod disk;
mod file;
mod identity;
mod installer;
mod machine;
mod manifests;
mod proof;
mod proving;
mod server;
mod stand_in;
mod stand_in_log;
mod state;
pub mod unverified;

pub use confine::confine;
pub use disk::{About, Disk, Held, NewFile, RealDisk};
pub use identity::Identity;
pub use machine::{Machine, RealMachine};
pub use proof::Proof;
pub use server::PodLogs;
pub use state::Lock;

/// kubeadm's place for the manifest.
pub const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// Where the kernel tells what each Pod's processes use.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// A node's root and the manifest worked on.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    manifest: String,
    node_name: Option<String>,
    disk: Arc<dyn Disk>,
    machine: Arc<dyn Machine>,
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
    /// The log could grow beyond what is free.
    #[error(
        "`{folder}` has room for {there} MiB of logs, and (maxBackups + 1) × maxSize is {wanted} MiB: make room, lower \
         `spec.log.maxSize` or `spec.log.maxBackups`, or name another `spec.log.path`"
    )]
    Room {
        /// The log's folder.
        folder: String,
        /// What the log may take, in MiB.
        wanted: u64,
        /// What is free or taken by this log already, in MiB.
        there: u64,
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
        let (disk, machine) = (Arc::new(RealDisk), Arc::new(RealMachine));
        Self { root: root.into(), manifest: manifest.into(), node_name, disk, machine }
    }

    /// The same host on another disk and machine.
    pub fn on(self, disk: Arc<dyn Disk>, machine: Arc<dyn Machine>) -> Self {
        Self { disk, machine, ..self }
    }

    fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// The machine it is.
    pub fn machine(&self) -> &dyn Machine {
        self.machine.as_ref()
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
        let manifest = file::read(self.disk(), &path)?.ok_or_else(|| Error::Content {
            path: path.clone(),
            problem: "does not exist: is this a control-plane node that kubeadm set up? (`--manifest` names another place)"
                .to_owned(),
        })?;
        let policy_file = match policy_path {
            Some(path) => file::read(self.disk(), &self.at(path))?,
            None => None,
        };
        Ok(NodeFacts {
            manifest_path: self.manifest.clone(),
            manifest,
            policy_file,
            settled: self.settled()?,
        })
    }

    /// Checks before an order is given: folders that must be writable, room for the log, and rival manifests.
    pub fn preflight(&self, order: &Order) -> Result<(), Error> {
        file::create_folder(self.disk(), &self.at(STATE_FOLDER))?;
        file::check_writable(self.disk(), &self.at(STATE_FOLDER))?;
        if !order.only_files() {
            file::check_writable(self.disk(), &self.manifests_folder())?;
            self.check_room(order)?;
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

    /// Whether the log may grow as far as its flags allow. A full disk under /var takes more than the log with it.
    fn check_room(&self, order: &Order) -> Result<(), Error> {
        let Ok(manifest) = manifest::read(&order.target) else { return Ok(()) };
        let Some(budget) = LogBudget::of(&manifest) else { return Ok(()) };
        let folder = self.at(&budget.folder);
        let used: u64 = file::list(self.disk(), &folder)?
            .iter()
            .filter(|name| budget.is_log(name))
            .filter_map(|name| self.disk().about(&folder.join(name)).ok())
            .map(|about| about.length)
            .sum();
        let Some(there) = folder.ancestors().find(|folder| self.disk().is_folder(folder)) else {
            return Ok(());
        };
        let free = self.disk().free_space(there).map_err(Error::file("ask for the free space of", there))?;
        if used.saturating_add(free) >= budget.bytes {
            return Ok(());
        }
        Err(Error::Room {
            folder: budget.folder,
            wanted: budget.bytes >> 20,
            there: used.saturating_add(free) >> 20,
        })
    }

    /// What the files say now, for [`crate::install::next()`]; nothing of servers, memory and ports.
    pub fn observe_files(&self, order: &Order, journal: &Journal) -> Result<Observed, Error> {
        let bytes = file::read(self.disk(), &self.at(&self.manifest))?;
        let mut staged = true;
        for file in &order.files {
            let there = file::read(self.disk(), &self.at(&file.path))?;
            staged &= there.is_some_and(|bytes| manifest::digest(&bytes) == file.digest());
        }
        Ok(Observed {
            manifest: bytes.as_deref().map(manifest::digest),
            last_known_good: self.last_known_good()?.as_deref().map(manifest::digest),
            staged,
            rivals: self.rivals()?,
            stray_stand_ins: self.stray_stand_ins(order, journal)?,
            stand_in_logs: false,
            stand_in_pods: false,
            server: None,
            stand_in: None,
            free_port: None,
            memory: Memory::default(),
            relief: Relief::Off,
        })
    }

    /// What there is now, for [`crate::install::next()`]. While the forwarder has the API server's port, that is not asked for
    /// its health: the stand-in would answer.
    pub async fn observe(&self, order: &Order, journal: &Journal, relief: Relief) -> Result<Observed, Error> {
        let mut observed = self.observe_files(order, journal)?;
        let Some(node) = &self.node_name else { return Ok(observed) };
        let bytes = file::read(self.disk(), &self.at(&self.manifest))?.unwrap_or_default();
        let server = server::observe(self, node, &bytes, relief == Relief::Holding).await;
        observed.memory = Memory {
            available: self.machine().available_memory(),
            used_by_server: server
                .running
                .as_deref()
                .and_then(|pod| self.machine().memory_of_pod(&self.at(CONTROL_GROUPS), pod)),
        };
        observed.server = Some(server);
        observed.stand_in = match &journal.stand_in {
            Some(stand_in) => Some(self.observe_stand_in(order, node, stand_in).await?),
            None => None,
        };
        observed.free_port = self.machine().free_port(journal.stand_in.as_ref().map(|s| s.port));
        // In this order: of one that has ended all of its log is there.
        observed.stand_in_pods = self.has_stand_in(order);
        observed.stand_in_logs = self.has_stand_in_logs(order)?;
        observed.relief = relief;
        Ok(observed)
    }

    /// Puts in order what a process left that ended in the middle of an order's work. What it had renamed is brought to the disk:
    /// what the next one sees must not be gone after a power cut. What it had not is removed: nobody would come back to it when
    /// the order now ends another way. Who calls this has the lock.
    pub fn take_over(&self, order: &Order) -> Result<(), Error> {
        let files = order.files.iter().map(|file| self.at(&file.path));
        let own = [self.at(&order.manifest), self.at(&order.backup()), self.last_known_good_path()];
        let paths: Vec<PathBuf> = own.into_iter().chain(files).collect();
        let state = self.at(STATE_FOLDER);
        let mut folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
        folders.insert(&state);
        for folder in folders {
            file::sync_folder(self.disk(), folder)?;
            file::sweep(self.disk(), folder)?;
        }
        for log in self.audit_logs(order)? {
            file::sync_folder(self.disk(), log.parent().unwrap_or(&log))?;
        }
        Ok(())
    }

    /// Writes the order's files: 0600, owned by root as kube-apiserver runs as root under kubeadm. Makes the folders of
    /// its logs, too; one on a file system that is read-only for this process is the kubelet's to make.
    pub fn stage(&self, order: &Order) -> Result<(), Error> {
        for folder in &order.log_folders {
            match file::create_folder(self.disk(), &self.at(folder)) {
                Err(Error::File { cause, .. }) if cause.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                made => made?,
            }
        }
        for file in &order.files {
            let path = self.at(&file.path);
            if let Some(folder) = path.parent() {
                file::create_folder(self.disk(), folder)?;
            }
            file::replace(self.disk(), &path, file.content.as_bytes())?;
        }
        Ok(())
    }

    /// Puts the order's target in place of the manifest.
    ///
    /// The manifest is looked at once more: observing takes seconds when a server does not answer, and what somebody else
    /// wrote meanwhile is not ours to replace.
    pub fn swap(&self, order: &Order) -> Result<(), Error> {
        self.must_still_be(order, &order.from)?;
        file::replace(self.disk(), &self.at(&order.manifest), order.target.as_bytes())
    }

    fn must_still_be(&self, order: &Order, digest: &str) -> Result<(), Error> {
        let path = self.at(&order.manifest);
        let there = file::read(self.disk(), &path)?;
        if there.as_deref().map(manifest::digest).as_deref() == Some(digest) {
            return Ok(());
        }
        Err(Error::Content {
            path,
            problem: "was written by somebody else just now, and was left as it is".to_owned(),
        })
    }

    /// Puts the last known good manifest back, and before it what fixed paths held.
    pub fn restore(&self, order: &Order) -> Result<(), Error> {
        self.must_still_be(order, &order.to)?;
        for file in &order.files {
            if let Some(previous) = &file.previous {
                file::replace(self.disk(), &self.at(&file.path), previous.as_bytes())?;
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
        file::replace(self.disk(), &self.at(&order.manifest), &bytes)
    }

    /// A fresh journal if this order has none, the one on the disk otherwise.
    pub fn journal_of(&self, order: &Order, now: Timestamp) -> Result<Journal, Error> {
        Ok(self.journal()?.filter(|j| j.order == order.id).unwrap_or_else(|| Journal::begin(&order.id, now)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::install::next::tests::order;

    /// History 71 of the simulation: killed while it wrote a stand-in's manifest that the order then had no use for.
    #[test]
    fn what_a_process_left_half_written_is_gone_when_the_next_one_takes_over() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), order().manifest, None);
        let folders = [host.manifests_folder(), host.at(STATE_FOLDER), host.at(STATE_FOLDER).join("backups")];
        for folder in &folders {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join(".x.yaml.audit-operator"), "half").unwrap();
            fs::write(folder.join(".x.yaml.swp"), "somebody's").unwrap();
        }
        host.take_over(&order()).unwrap();
        for folder in &folders {
            let left = file::list(&RealDisk, folder).unwrap();
            assert!(left.starts_with(&[".x.yaml.swp".to_owned()]), "{left:?}");
        }
    }

    #[test]
    fn what_somebody_else_wrote_in_the_last_moment_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), order().manifest, None);
        let path = host.at(&order().manifest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "from").unwrap();
        host.keep_last_known_good(&order()).unwrap();
        fs::write(&path, "somebody's").unwrap();
        for result in [host.swap(&order()), host.restore(&order())] {
            assert!(result.unwrap_err().to_string().contains("left as it is"));
            assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        }
        fs::write(&path, "from").unwrap();
        host.swap(&order()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "to");
        host.restore(&order()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "from");
    }
}
