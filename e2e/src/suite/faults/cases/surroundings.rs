//! What is around an install: disks, the network, other writers, other nodes, and an API server that does not stay.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::fault::is_program;
use crate::launch::Lifetime;
use crate::network::SERVICE;
use crate::node::Node;
use crate::suite::faults::PATIENCE;
use crate::suite::faults::bed::Bed;
use crate::suite::faults::order::{Change, Rehearsal};
use crate::suite::operator::{self, Journal, LOGS, MANIFEST, Wish, servers};
use crate::{process, wait};

use super::stand_in::{is_stand_in, listens};
use super::{Case, EITHER, Expected, REFUSED, ROLLED_BACK, SETTLED, case, nothing, pause};

const POLICIES: &str = "/etc/kubernetes/audit";
const COPY: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml.bak";
const LAST_KNOWN_GOOD: &str = "/var/lib/audit-operator/last-known-good/kube-apiserver.yaml";
/// A controller that would go on in spite of a node that is down would have done so by then.
const HELD: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

pub(super) const CASES: &[Case] = &[
    case("server-dies-silent", "the new API server is killed as soon as it runs", EITHER, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", |b| kill_new_server(b, Alive::Runs))
    }),
    case("server-dies-starting", "the new API server is killed as soon as it listens", ROLLED_BACK, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", |b| kill_new_server(b, Alive::Listens))
    })
    .on_both(),
    case("server-dies-after-ready", "the new API server becomes ready and is killed at once", EITHER, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", |b| kill_new_server(b, Alive::Ready))
    })
    .on_both(),
    case(
        "another-writer",
        "somebody else writes the manifest while the new API server starts",
        &["failed", "refused"],
        |b| another_writer(b, "verifying"),
    )
    .in_ci(),
    case(
        "another-writer-rehearsing",
        "somebody else writes the manifest during the rehearsal",
        REFUSED,
        |b| another_writer(b, "rehearsing"),
    ),
    case(
        "bak-file",
        "a copy of the manifest is left in the folder during the rehearsal, and taken away after a minute",
        REFUSED,
        |b| b.order(Change::Good, Rehearsal::Auto, "rehearsing", left_copy),
    ),
    case(
        "bak-file-answers",
        "a copy of the last known good is left in the folder with an unknown flag in the manifest, and taken away when it answers",
        ROLLED_BACK,
        |b| b.order(Change::UnknownFlag, Rehearsal::None, "verifying", copy_that_answers),
    ),
    case("network-cut", "the node's network is cut during the whole install", SETTLED, |b| {
        b.node().unplug()?;
        let expected = b.order(Change::Good, Rehearsal::Auto, "verifying", nothing);
        let ended = expected.and_then(|expected| b.ends(expected.order.as_deref()).map(|_| expected));
        b.node().plug_in()?;
        ended
    }),
    case(
        "network-cut-agent",
        "the agent reaches no API server from its order to the end of it",
        SETTLED,
        |b| {
            b.object(|b| {
                let cut = AgentCut::new(b.node())?;
                b.ends(None)?;
                cut.end()
            })
        },
    )
    .on_both(),
    case(
        "network-cut-member",
        "one of three nodes is cut off, and so without etcd, while its new API server starts, for a minute",
        EITHER,
        |b| {
            b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
                b.node().unplug()?;
                pause(MINUTE)?;
                b.node().plug_in()
            })
        },
    )
    .on_three(),
    case(
        "node-down",
        "a control-plane node is down before the rollout, and comes back later",
        SETTLED,
        node_down,
    )
    .on_three(),
    case("log-folder-deleted", "the log's folder is deleted while the change is rehearsed", EITHER, |b| {
        b.order(Change::Good, Rehearsal::Auto, "rehearsing", |b| Ok(fs::remove_dir_all(b.node().path(LOGS))?))
    }),
    case(
        "log-folder-deleted-later",
        "the log's folder is deleted with nothing under way: the node says so",
        SETTLED,
        |b| {
            let as_wanted = b.object(|b| b.ends(None).map(drop))?;
            fs::remove_dir_all(b.node().path(LOGS))?;
            noticed(b)?;
            Ok(b.order(Change::Good, Rehearsal::Auto, "verifying", nothing)?.after(as_wanted))
        },
    ),
    case(
        "disk-full-logging",
        "the log's disk is full: the node says so, and a change is refused",
        REFUSED,
        |b| {
            let as_wanted = b.object(|b| b.ends(None).map(drop))?;
            let disk = b.off_and_on(|node| node.mount_disk(LOGS, "16m"))?;
            disk.fill()?;
            noticed(b)?;
            let expected = b.order(Change::Good, Rehearsal::Auto, "rehearsing", nothing)?;
            b.ends(expected.order.as_deref())?;
            b.off_and_on(Node::unmount_disks)?;
            Ok(expected.after(as_wanted))
        },
    ),
    case("disk-full-staging", "the disk of the policy files is full", REFUSED, |b| {
        let disk = b.off_and_on(|node| node.mount_disk(POLICIES, "1m"))?;
        disk.fill()?;
        let expected = b.order(Change::BadPolicy, Rehearsal::Auto, "ordered", nothing)?;
        b.ends(expected.order.as_deref())?;
        disk.drain()?;
        // The policy that runs goes back to the node's own disk.
        let files = fs::read_dir(b.node().path(POLICIES))?.flatten().map(|file| file.path());
        let kept: Vec<(PathBuf, Vec<u8>)> =
            files.map(|path| Ok((path.clone(), fs::read(path)?))).collect::<Result<_>>()?;
        b.off_and_on(|node| {
            node.unmount_disks()?;
            kept.iter().try_for_each(|(path, text)| Ok(fs::write(path, text)?))
        })?;
        Ok(expected)
    }),
];

/// How far a new API server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alive {
    /// It is a process. Mostly it has not said a word yet, and what ends so is no reason to go back at once.
    Runs,
    /// It listens; its log tells of it.
    Listens,
    /// It listens, and says that it is ready.
    Ready,
}

/// Kills the API server that comes after the one that runs, once it is so far.
pub(super) fn kill_new_server(bed: &Bed, when: Alive) -> Result<()> {
    process::kill(new_server(bed, when)?, is_live)
}

fn is_live(arguments: &[String]) -> bool {
    is_program(arguments, "kube-apiserver") && !is_stand_in(arguments)
}

/// Waits for the API server that comes after the one that runs.
pub(super) fn new_server(bed: &Bed, when: Alive) -> Result<process::Id> {
    let node = bed.node();
    let old = servers(node)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let new = node.processes(is_live)?.into_iter().find(|id| !old.contains(id));
        let far = match new {
            None => false,
            Some(_) if when == Alive::Runs => true,
            Some(id) if when == Alive::Listens => listens(node, id)?,
            Some(id) => listens(node, id)? && bed.cluster.api_is_ready(node)?,
        };
        if let Some(id) = new.filter(|_| far) {
            return Ok(id);
        }
        ensure!(Instant::now() < end, "there is no new API server");
        // Not with the pauses of `wait`: the first second of a server is short.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn another_writer(bed: &Bed, at: &str) -> Result<Expected> {
    let before = fs::read_to_string(bed.node().path(MANIFEST))?;
    let theirs = operator::with_max_age(&before, bed.next())?;
    let write = |bed: &Bed| operator::swap_by_hand(bed.node(), &theirs);
    let mut expected = bed.order(Change::Good, Rehearsal::Auto, at, write)?;
    // Theirs is not ours to undo.
    expected.only = Some(theirs);
    Ok(expected)
}

fn left_copy(bed: &Bed) -> Result<()> {
    let copy = bed.node().path(COPY);
    fs::copy(bed.node().path(MANIFEST), &copy)?;
    pause(MINUTE)?;
    Ok(fs::remove_file(copy)?)
}

fn copy_that_answers(bed: &Bed) -> Result<()> {
    let (node, copy) = (bed.node(), bed.node().path(COPY));
    let old = node.processes(is_live)?;
    fs::copy(node.path(LAST_KNOWN_GOOD), &copy)?;
    wait::until("an answer of the copy's API server", PATIENCE, || {
        let is_new = node.processes(is_live)?.iter().any(|id| !old.contains(id));
        Ok((is_new && bed.cluster.api_is_ready(node)?).then_some(()))
    })?;
    Ok(fs::remove_file(copy)?)
}

/// Nothing the agent sends to the API server's service address arrives.
struct AgentCut<'a>(&'a Node);

impl<'a> AgentCut<'a> {
    fn new(node: &'a Node) -> Result<Self> {
        let cut = Self(node);
        ensure!(cut.answers()?, "the service address does not answer before the cut");
        cut.rule("-I")?;
        ensure!(!cut.answers()?, "the service address answers in spite of the cut");
        Ok(cut)
    }

    fn end(self) -> Result<()> {
        self.rule("-D").map(drop)
    }

    fn rule(&self, change: &str) -> Result<String> {
        self.0.run("iptables", &["-w", "-t", "raw", change, "OUTPUT", "-d", SERVICE, "-j", "DROP"])
    }

    fn answers(&self) -> Result<bool> {
        // A connection is enough: it is refused, or it hangs.
        let connect = format!("exec 3<>/dev/tcp/{SERVICE}/443");
        let mut command = self.0.command("timeout")?;
        Ok(crate::run::ended(command.args(["2", "bash", "-c", &connect]), MINUTE)?.status.success())
    }
}

/// With a node down nothing is started; when it is back, all three are changed.
fn node_down(bed: &Bed) -> Result<Expected> {
    let nodes = &bed.cluster.nodes;
    let orders = || nodes.iter().map(|n| Ok(Journal::of(n)?.map(|j| j.order))).collect::<Result<Vec<_>>>();
    let down = operator::node_to_lose(&bed.cluster)?;
    down.cut()?;
    let (before, days) = (orders()?, bed.next());
    operator::wish(&bed.cluster, Wish::now(days))?;
    pause(HELD)?;
    ensure!(orders()? == before, "a node was changed while {} was down", down.name);
    let says = ["get", "auditcfg", "default", "--output=jsonpath={.status.conditions}"];
    let says = bed.cluster.kubectl(&says)?;
    ensure!(says.contains(&down.name), "nothing says that {} is waited for: {says}", down.name);
    bed.begins();
    bed.cluster.switch_on(down, Lifetime::OfThisProcess)?;
    operator::ready(&bed.cluster)?;
    operator::pause(&bed.cluster)?;
    bed.note(format!("{} was down", down.name));
    Ok(Expected { everywhere: Some(days), ..Expected::default() })
}

/// Waits until the node says that no event lands.
fn noticed(bed: &Bed) -> Result<()> {
    let started = Instant::now();
    let name = &bed.node().name;
    let proven = r#"--output=jsonpath={.status.conditions[?(@.type=="Proven")].status}"#;
    wait::until("the node to say that no event lands", PATIENCE, || {
        let says = bed.cluster.kubectl(&["--request-timeout=5s", "get", "auditnode", name, proven])?;
        ensure!(says == "False", "Proven is {says}");
        Ok(Some(()))
    })?;
    bed.note(format!("noticed after {:.0} s", started.elapsed().as_secs_f64()));
    Ok(())
}
