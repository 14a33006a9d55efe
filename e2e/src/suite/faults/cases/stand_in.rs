//! The stand-in: killed, out of memory, hung, its port taken.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::fault::is_program;
use crate::node::Node;
use crate::suite::faults::PATIENCE;
use crate::suite::faults::bed::Bed;
use crate::suite::faults::order::{Change, Rehearsal};
use crate::suite::operator::servers;
use crate::{cgroup, process, wait};

use super::{Case, REFUSED, SETTLED, case, nothing};

pub(super) const CASES: &[Case] = &[
    case("stand-in-killed", "stand-in killed while it serves", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
            serves(b)?;
            kill(b)
        })
    }),
    case("stand-in-out-of-memory", "stand-in out of memory while it serves", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
            serves(b)?;
            starve(b)
        })
    }),
    case("rehearsal-hangs", "stand-in hangs during the rehearsal", REFUSED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "rehearsing", hangs)
    })
    .no_outage(),
    case("port-taken", "somebody listens on the stand-in's first port", SETTLED, |b| {
        let listener = Listener::start(b.node())?;
        let expected = b.order(Change::Good, Rehearsal::Auto, "verifying", nothing)?;
        b.ends(expected.order.as_deref())?;
        ensure!(listener.end(b.node())? > 0, "nobody listened");
        Ok(expected)
    }),
];

/// Whether these are the arguments of a stand-in.
pub(super) fn is_stand_in(arguments: &[String]) -> bool {
    is_program(arguments, "kube-apiserver")
        && arguments.iter().any(|a| a == "--endpoint-reconciler-type=none")
}

fn process(bed: &Bed) -> Result<process::Id> {
    wait::until("the stand-in", PATIENCE, || Ok(bed.node().processes(is_stand_in)?.pop()))
}

/// Waits until it answers in the live server's place: that one has let go of the port.
pub(super) fn serves(bed: &Bed) -> Result<()> {
    let live = |id: &process::Id| process::arguments(*id).is_some_and(|arguments| !is_stand_in(&arguments));
    let old: Vec<process::Id> = servers(bed.node())?.into_iter().filter(live).collect();
    let old = old.first().copied().context("the old API server is gone already")?;
    wait::until("the stand-in to serve", PATIENCE, || {
        let listens = listens(bed.node(), old)?;
        ensure!(!listens, "the old API server has the port still");
        ensure!(bed.cluster.api_is_ready(bed.node())?, "nobody answers");
        Ok(Some(()))
    })
}

/// Whether a process has a listening socket on the API server's port, from the kernel's own tables.
pub(super) fn listens(node: &Node, id: process::Id) -> Result<bool> {
    let links = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    let sockets: Vec<String> = links
        .filter_map(|link| fs::read_link(link.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let init = node.init()?;
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{init}/net/{table}")));
    Ok(tables.into_iter().flatten().any(|table| is_listening(&table, &sockets)))
}

/// In a table of /proc/net/tcp: any of these sockets listening (state 0A) on port 6443.
fn is_listening(table: &str, sockets: &[String]) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(state), Some(socket)) = (fields.get(1), fields.get(3), fields.get(9)) else {
            return false;
        };
        *state == "0A" && local.ends_with(":192B") && sockets.iter().any(|s| s == socket)
    })
}

/// Kills it; the kubelet starts it again.
pub(super) fn kill(bed: &Bed) -> Result<()> {
    ensure!(bed.node().kill(is_stand_in)? == 1, "there was no stand-in");
    Ok(())
}

/// It is there and does nothing any more.
pub(super) fn hangs(bed: &Bed) -> Result<()> {
    let pid = Pid::from_raw(process(bed)?).context("a process id is not 0")?;
    kill_process(pid, Signal::STOP).context("pausing the stand-in")
}

/// Leaves it no more memory than it has, and asks it for things that need some, until the kernel ends it.
fn starve(bed: &Bed) -> Result<()> {
    let id = process(bed)?;
    let group = memory_group(id)?;
    let used: u64 = fs::read_to_string(group.join("memory.usage_in_bytes"))?.trim().parse()?;
    fs::write(group.join("memory.limit_in_bytes"), used.to_string()).context("limiting its memory")?;
    let server = format!("--server=https://{}:6443", bed.node().address());
    wait::until("the stand-in to run out of memory", PATIENCE, || {
        let ask = ["--request-timeout=5s", &server, "get", "--raw", "/openapi/v2"];
        let _ = bed.cluster.kubectl(&ask);
        Ok(process::arguments(id).is_none().then_some(()))
    })?;
    bed.note(format!("ended by the kernel at {} MiB", used >> 20));
    Ok(())
}

fn memory_group(id: process::Id) -> Result<PathBuf> {
    let hierarchies = cgroup::of(id)?;
    let memory = hierarchies.into_iter().find(|h| h.option.split(',').any(|o| o == "memory"));
    Ok(memory.context("no memory group")?.own)
}

/// Somebody who has the stand-in's first port.
pub(super) struct Listener(Child);

impl Listener {
    pub(super) fn start(node: &Node) -> Result<Self> {
        let listener = ["TCP-LISTEN:16443,fork,reuseaddr", "EXEC:cat"];
        let socat = node.command("socat")?.args(listener).stdin(Stdio::null()).spawn()?;
        wait::until("the listener", PATIENCE, || Ok(node.processes(is_socat)?.pop()))?;
        Ok(Self(socat))
    }

    /// Ends it; how many processes it was.
    fn end(mut self, node: &Node) -> Result<usize> {
        let ended = node.kill(is_socat)?;
        self.0.wait()?;
        Ok(ended)
    }

    /// It has gone with the node's power.
    pub(super) fn gone(mut self) -> Result<()> {
        self.0.wait().map(drop).context("waiting for the listener's end")
    }
}

fn is_socat(arguments: &[String]) -> bool {
    is_program(arguments, "socat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listening_socket_on_the_port_counts() {
        let table = "  sl  local_address rem_address   st tx rx tr tm->when retrnsmt uid timeout inode\n\
                     0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 0\n\
                     1: 0100007F:192B 0100007F:D0D2 01 00000000:00000000 00:00000000 00000000 0 0 4712 1 0\n\
                     2: 00000000:403B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4713 1 0\n";
        let check = |socket: &str| is_listening(table, &[socket.to_owned()]);
        assert!(check("4711"));
        assert!(!check("4712"), "a connection");
        assert!(!check("4713"), "another port");
        assert!(!check("4714"), "another process");
    }
}
