//! A witness of what happens on a node during a change, by inotify: nothing that is there for a moment only is
//! missed, as it would be by looking again and again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::node::Node;
use crate::wait;

use super::stage::{MANIFESTS, SOON};

/// What kubeadm puts into the manifests folder of a control-plane node with its own etcd.
const KUBEADM: [&str; 4] =
    ["etcd.yaml", "kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml"];
/// The kubelet's folder of container logs: `NAMESPACE_POD_UID/CONTAINER/N.log`.
const POD_LOGS: &str = "/var/log/pods";

/// Watches from its start to its end.
#[derive(Debug)]
pub(super) struct Witness {
    manifests: OwnedFd,
    pods: OwnedFd,
    manifests_folder: PathBuf,
    pods_folder: PathBuf,
    server_prefix: String,
}

impl Witness {
    /// Starts watching.
    pub(super) fn start(node: &Node) -> Result<Self> {
        let (manifests_folder, pods_folder) = (node.path(MANIFESTS), node.path(POD_LOGS));
        let written = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE;
        Ok(Self {
            manifests: watch(&manifests_folder, written)?,
            pods: watch(&pods_folder, WatchFlags::CREATE)?,
            manifests_folder,
            pods_folder,
            server_prefix: format!("kube-system_kube-apiserver-{}_", node.name),
        })
    }

    /// Requires that the manifest was swapped once, by a rename, with the installer and its stand-in around it and nothing
    /// else but dot-files ever in the folder, and that kube-apiserver's static Pod was made anew once and its container
    /// started once. Gives the time of the new server's first log line; the server before it has ended by then.
    pub(super) fn one_change(self) -> Result<Timestamp> {
        // The installer goes a moment after it has said that it is done.
        wait::until("the manifests folder to be kubeadm's again", SOON, || {
            let names = visible(&self.manifests_folder)?;
            ensure!(names == KUBEADM, "in the manifests folder are: {names:?}");
            Ok(Some(()))
        })?;
        let seen: Vec<String> = self.seen_manifests()?.iter().map(|line| without_order(line)).collect();
        let wanted = [
            "audit-operator-installer.yaml MOVED_TO",
            "audit-operator-stand-in MOVED_TO",
            "kube-apiserver.yaml MOVED_TO",
            "audit-operator-stand-in DELETE",
            "audit-operator-installer.yaml DELETE",
        ];
        ensure!(seen == wanted, "in the manifests folder there happened: {seen:?}");
        let servers = self.new_servers()?;
        let [uid] = servers.iter().collect::<Vec<_>>()[..] else {
            bail!("kube-apiserver's static Pod was made {} times: {servers:?}", servers.len());
        };
        let logs = self.pods_folder.join(format!("{}{uid}", self.server_prefix)).join("kube-apiserver");
        let starts = visible(&logs)?;
        ensure!(starts == ["0.log"], "its container was started more than once: {starts:?}");
        let log = fs::read_to_string(logs.join("0.log"))?;
        let first = log.split(' ').next().unwrap_or_default();
        first.parse().with_context(|| format!("`{first}` at the start of its log is no time"))
    }

    /// Requires that nothing was written and nothing started.
    pub(super) fn nothing(self) -> Result<()> {
        let (seen, servers) = (self.seen_manifests()?, self.new_servers()?);
        ensure!(seen.is_empty(), "in the manifests folder there happened: {seen:?}");
        ensure!(servers.is_empty(), "the API server was started: {servers:?}");
        Ok(())
    }

    /// What happened to files the kubelet reads.
    fn seen_manifests(&self) -> Result<Vec<String>> {
        let seen = events(&self.manifests)?;
        Ok(seen.into_iter().filter(|line| !line.starts_with('.')).collect())
    }

    /// UIDs of the API server's static Pods that were made.
    fn new_servers(&self) -> Result<BTreeSet<String>> {
        let seen = events(&self.pods)?;
        let folders = seen.iter().filter_map(|line| line.split(' ').next());
        Ok(folders.filter_map(|name| name.strip_prefix(&self.server_prefix)).map(str::to_owned).collect())
    }
}

/// An event of a stand-in's file without the order that is in its name.
fn without_order(line: &str) -> String {
    match line.split_once(' ') {
        Some((name, what)) if name.starts_with("audit-operator-stand-in-") => {
            format!("audit-operator-stand-in {what}")
        }
        _ => line.to_owned(),
    }
}

fn watch(folder: &Path, flags: WatchFlags) -> Result<OwnedFd> {
    let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).context("inotify")?;
    inotify::add_watch(&queue, folder, flags).with_context(|| format!("watching {}", folder.display()))?;
    Ok(queue)
}

/// Everything queued so far, as `NAME WHAT`.
fn events(queue: &OwnedFd) -> Result<Vec<String>> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = Reader::new(queue, &mut buffer);
    let mut seen = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let what = event.events().difference(ReadFlags::ISDIR);
                ensure!(!what.contains(ReadFlags::QUEUE_OVERFLOW), "the kernel dropped inotify events");
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_string_lossy());
                let what: Vec<&str> = what.iter_names().map(|(name, _)| name).collect();
                seen.push(format!("{} {}", name.unwrap_or_default(), what.join("|")));
            }
            Err(Errno::WOULDBLOCK) => return Ok(seen),
            Err(error) => return Err(error).context("reading inotify events"),
        }
    }
}

/// Names in a folder that do not start with a dot, sorted.
fn visible(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let names = entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<std::io::Result<_>>()?;
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_there_for_a_moment_is_seen() {
        let folder = std::env::temp_dir().join(format!("witness-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let queue = watch(&folder, WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE).unwrap();
        fs::write(folder.join("a"), "").unwrap();
        fs::rename(folder.join("a"), folder.join("b")).unwrap();
        fs::remove_file(folder.join("b")).unwrap();
        assert_eq!(events(&queue).unwrap(), ["a CREATE", "b MOVED_TO", "b DELETE"]);
        assert_eq!(events(&queue).unwrap(), [""; 0]);
        fs::remove_dir(&folder).unwrap();
    }
}
