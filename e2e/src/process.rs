//! Processes of this machine, told apart by their command lines.
//!
//! The test bed records no process ids: an id on disk outlives its process and may then name a stranger.
//! Everything it starts carries the state folder in its arguments and is found by that; a signal goes through a
//! pidfd opened before the command line is read again, so that it cannot hit a process that reused the id.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

/// A node with three hundred processes is gone in about a second here.
const DEATH: Duration = Duration::from_secs(60);

/// A process id of this machine's own process namespace.
pub(crate) type Id = i32;

/// Every process whose arguments satisfy `ours`. Kernel threads and zombies have no arguments and never do.
pub(crate) fn find(ours: impl Fn(&[String]) -> bool) -> Vec<Id> {
    all().into_iter().filter(|&id| arguments(id).is_some_and(|a| ours(&a))).collect()
}

/// All process ids of this machine.
pub(crate) fn all() -> Vec<Id> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The arguments of a process; `None` when it is gone, a zombie or a kernel thread.
pub(crate) fn arguments(id: Id) -> Option<Vec<String>> {
    let raw = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&raw);
    let arguments: Vec<String> = text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    (!text.is_empty()).then_some(arguments)
}

/// When the process started, in clock ticks since boot. With the id it names one process for ever.
pub(crate) fn started(id: Id) -> Option<u64> {
    stat_field(id, 19)?.parse().ok()
}

/// The id of a process's parent.
pub(crate) fn parent(id: Id) -> Option<Id> {
    stat_field(id, 1)?.parse().ok()
}

/// A field of /proc/ID/stat, counted from the one after the name (which may itself hold spaces and brackets).
fn stat_field(id: Id, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(index).map(str::to_owned)
}

/// A process and everything below it.
pub(crate) fn tree(root: Id) -> BTreeSet<Id> {
    let parents: Vec<(Id, Id)> = all().into_iter().filter_map(|id| Some((id, parent(id)?))).collect();
    let mut found = BTreeSet::from([root]);
    loop {
        let more: Vec<Id> = parents
            .iter()
            .filter(|(id, parent)| found.contains(parent) && !found.contains(id))
            .map(|&(id, _)| id)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// The namespaces a process is in, such as `net:[4026532281]`.
pub(crate) fn namespaces(id: Id) -> BTreeSet<String> {
    ["cgroup", "ipc", "mnt", "net", "pid", "uts"].iter().filter_map(|kind| namespace(id, kind)).collect()
}

/// One namespace of a process, such as `net:[4026532281]` for the kind `net`.
pub(crate) fn namespace(id: Id, kind: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{id}/ns/{kind}")).ok()?;
    Some(link.to_str()?.to_owned())
}

/// Kills the process if `ours` still holds for its arguments, waits until it is gone, and reaps it if it was our
/// own child. The end of a node's PID 1 comes after the end of every process of that node.
pub(crate) fn kill(id: Id, ours: impl Fn(&[String]) -> bool) -> Result<()> {
    let Some(pid) = Pid::from_raw(id) else { bail!("{id} is no process id") };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("opening process {id}")),
    };
    match arguments(id) {
        Some(arguments) if !ours(&arguments) => return Ok(()),
        Some(_) => match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("killing process {id}")),
        },
        // On its way out already: whoever names a process found it by its arguments.
        None => {}
    }
    wait_for_end(&process).with_context(|| format!("ending process {id}"))?;
    // Fails for all but our own children, which would stay zombies otherwise.
    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    Ok(())
}

fn wait_for_end(process: &OwnedFd) -> Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let patience = Timespec { tv_sec: DEATH.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => bail!("still there {} s after SIGKILL", DEATH.as_secs()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::wait;

    fn sleeper(mark: &str) -> std::process::Child {
        // `sh -c` with a trailing argument: the mark is in the command line, as the state folder is in ours.
        let mut command = Command::new("sh");
        command.args(["-c", "read -r line", mark]).stdin(Stdio::piped());
        let child = command.spawn().expect("sh starts");
        // A process that is just being made has no arguments yet.
        let named =
            || Ok(arguments(child.id() as Id).is_some_and(|a| a.iter().any(|a| a == mark)).then_some(()));
        wait::until("sh to have its arguments", DEATH, named).expect("it gets them");
        child
    }

    #[test]
    fn kills_and_reaps_only_what_carries_the_mark() {
        let (mut mine, mut other) = (sleeper("mark-of-this-test"), sleeper("mark-of-another"));
        let ours = |a: &[String]| a.iter().any(|a| a == "mark-of-this-test");
        let (mine_id, other_id) = (mine.id() as Id, other.id() as Id);
        kill(other_id, ours).expect("a stranger is left alone");
        kill(mine_id, ours).expect("ours is killed");
        assert!(other.try_wait().expect("its state").is_none(), "the stranger was killed");
        assert!(parent(mine_id).is_none(), "still in the process table");
        other.kill().expect("end of the test");
        other.wait().expect("end of the test");
        let _ = mine.wait();
    }

    #[test]
    fn a_tree_holds_the_process_and_its_children() {
        let mut child = sleeper("tree");
        let found = tree(std::process::id() as Id);
        assert!(found.contains(&(child.id() as Id)));
        child.kill().expect("end of the test");
        child.wait().expect("end of the test");
    }
}
