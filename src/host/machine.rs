//! The machine itself: its clocks, its memory, its ports, and who answers on them.
//!
//! A trait for the same reason as [`Disk`](super::Disk): a simulation has clocks, ports and API servers of its own.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;

use crate::install::Moment;
use crate::install::proof::Outcome;
use crate::install::stand_in::PORTS;
use crate::manifest::Probe;

use super::{Host, Proof, proof, server};

/// A port of the own machine takes a connection or refuses it at once.
const CONNECT: Duration = Duration::from_secs(1);

/// What an install needs of its machine beside files.
pub trait Machine: fmt::Debug + Send + Sync {
    /// Now, on the clock that runs since this machine was booted.
    fn now(&self) -> Moment;
    /// Now, on the clock that people read and set.
    fn time_of_day(&self) -> Timestamp;
    /// Lets so much time pass.
    fn pause(&self, time: Duration) -> BoxFuture<'_, ()>;
    /// Memory that can still be had, in bytes.
    fn available_memory(&self) -> Option<u64>;
    /// What a Pod's processes use, in bytes, without the page cache, by the control groups in this folder.
    fn memory_of_pod(&self, control_groups: &Path, uid: &str) -> Option<u64>;
    /// How many threads a Pod's containers have, its sandbox's one among them, by the control groups in this folder.
    fn threads_of_pod(&self, control_groups: &Path, uid: &str) -> Option<u64>;
    /// Whether the kubelet has not taken a Pod apart yet, by the control groups in this folder.
    fn has_pod(&self, control_groups: &Path, uid: &str) -> bool;
    /// The first port of [`PORTS`] after this one that can be listened on.
    fn free_port(&self, after: Option<u16>) -> Option<u16>;
    /// Whether anything listens on this port of 127.0.0.1.
    fn listens(&self, port: u16) -> BoxFuture<'_, bool>;
    /// Asks as the kubelet's own probe does, at the probe's own host or else at `address`: nothing, or what is wrong in
    /// words.
    fn ask<'a>(&'a self, probe: &'a Probe, address: Option<&'a str>) -> BoxFuture<'a, Result<(), String>>;
    /// See [`Host::prove`].
    fn prove<'a>(&'a self, host: &'a Host, proof: &'a Proof<'a>, seed: &'a str) -> BoxFuture<'a, Outcome>;
}

/// The node's own.
#[derive(Clone, Copy, Debug)]
pub struct RealMachine;

impl Machine for RealMachine {
    fn now(&self) -> Moment {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let time = clock_gettime(ClockId::Boottime);
        let milliseconds = time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000;
        Moment { boot: boot.trim().to_owned(), milliseconds }
    }

    fn time_of_day(&self) -> Timestamp {
        Timestamp::now()
    }

    fn pause(&self, time: Duration) -> BoxFuture<'_, ()> {
        tokio::time::sleep(time).boxed()
    }

    fn available_memory(&self) -> Option<u64> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }

    fn memory_of_pod(&self, control_groups: &Path, uid: &str) -> Option<u64> {
        let group = control_group(control_groups, "memory", uid)?;
        let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
        // Version 1, then 2.
        ["total_rss ", "anon "]
            .iter()
            .find_map(|name| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()))
    }

    fn threads_of_pod(&self, control_groups: &Path, uid: &str) -> Option<u64> {
        let group = control_group(control_groups, "pids", uid)?;
        fs::read_to_string(group.join("pids.current")).ok()?.trim().parse().ok()
    }

    fn has_pod(&self, control_groups: &Path, uid: &str) -> bool {
        control_group(control_groups, "memory", uid).is_some()
    }

    fn free_port(&self, after: Option<u16>) -> Option<u16> {
        PORTS
            .filter(|port| Some(*port) > after)
            .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
    }

    fn listens(&self, port: u16) -> BoxFuture<'_, bool> {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
        connected.map(|connected| matches!(connected, Ok(Ok(_)))).boxed()
    }

    fn ask<'a>(&'a self, probe: &'a Probe, address: Option<&'a str>) -> BoxFuture<'a, Result<(), String>> {
        server::ask(probe, address).boxed()
    }

    fn prove<'a>(&'a self, host: &'a Host, proof: &'a Proof<'a>, seed: &'a str) -> BoxFuture<'a, Outcome> {
        proof::carry_out(host, proof, seed).boxed()
    }
}

/// A Pod's control group, of both versions and both drivers: the folder is named after the Pod's UID, with underscores by
/// systemd's rules. The kubelet makes it before anything of the Pod, and removes it after everything. Version 1 has a tree for
/// each controller.
fn control_group(control_groups: &Path, controller: &str, uid: &str) -> Option<std::path::PathBuf> {
    let names = [format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_"))];
    let roots = [control_groups.join(controller), control_groups.to_owned()];
    roots.iter().find_map(|folder| find(folder, &names, 4))
}

/// The folder below with one of these endings of its name, at most this deep.
fn find(folder: &Path, names: &[String], depth: usize) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let entries: Vec<_> = entries.collect();
    let is_it = |name: &str| names.iter().any(|wanted| name.ends_with(wanted.as_str()));
    if let Some(found) = entries.iter().find(|e| is_it(&e.file_name().to_string_lossy())) {
        return Some(found.path());
    }
    // Pods lie below kubepods and their class of service, nowhere else.
    let may_hold =
        |name: &str| ["kubepods", "burstable", "besteffort"].iter().any(|part| name.contains(part));
    let mut below = entries.iter().filter(|e| may_hold(&e.file_name().to_string_lossy()));
    if depth == 0 { None } else { below.find_map(|e| find(&e.path(), names, depth - 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, stat: &str, bytes: Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("sys/fs/cgroup").join(path);
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("memory.stat"), stat).unwrap();
        let control_groups = root.path().join("sys/fs/cgroup");
        assert_eq!(RealMachine.memory_of_pod(&control_groups, "ab-cd"), bytes);
        assert_eq!(RealMachine.has_pod(&control_groups, "ab-cd"), bytes.is_some());
    }

    #[test]
    fn a_pods_memory_is_found_under_both_versions_and_drivers() {
        check("memory/kubepods/burstable/podab-cd", "cache 9\nrss 1\ntotal_rss 7\n", Some(7));
        check(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice",
            "anon 5\nfile 6\n",
            Some(5),
        );
        check("memory/kubepods/burstable/podother", "total_rss 7\n", None);
        check("system.slice/podab-cd", "anon 5\n", None);
    }

    #[test]
    fn a_pods_threads_are_found_under_both_versions() {
        for path in ["pids/kubepods/burstable/podab-cd", "kubepods.slice/kubepods-podab_cd.slice"] {
            let root = tempfile::tempdir().unwrap();
            let pod = root.path().join(path);
            assert_eq!(RealMachine.threads_of_pod(root.path(), "ab-cd"), None);
            fs::create_dir_all(&pod).unwrap();
            fs::write(pod.join("pids.current"), "12\n").unwrap();
            assert_eq!(RealMachine.threads_of_pod(root.path(), "ab-cd"), Some(12));
        }
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let first = RealMachine.free_port(None).expect("one of a hundred");
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first));
        assert_ne!(RealMachine.free_port(None), Some(first));
        assert!(RealMachine.free_port(Some(first + 1)) > Some(first + 1));
    }

    #[test]
    fn the_clock_runs_and_names_its_boot() {
        let (a, b) = (RealMachine.now(), RealMachine.now());
        assert!(!a.boot.is_empty() && b.since(&a).is_some());
    }
}
