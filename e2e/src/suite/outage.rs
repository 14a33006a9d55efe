//! What one change costs a single control plane: by the operator, by the operator without a stand-in, and by a bare `mv` of
//! the same kind of manifest, in turn, in one run.
//!
//! All of them change `--audit-log-maxage` and nothing else. Clients ask the node's address for `/readyz` all the while
//! ([`crate::probe`]), and others, as Pods do, the Service `kubernetes`: an API server that ends takes its address out of
//! that, and a stand-in puts none in. Restarts are counted from the kubelet's log folders.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::launch::Lifetime;
use crate::node::Node;
use crate::probe::Seen;
use crate::progress::say;
use crate::suite::Given;
use crate::wait;

use super::operator::{self, CHANGE, Journal, MANIFEST, Starts, Wish, servers};

/// Fresh connections fail for at most this part of what they do with `mv`.
const DOWN: f64 = 0.12;
/// Failed requests on a connection that stays, in one change.
const KEPT: usize = 5;
/// Without a stand-in they fail for at most this multiple of it.
const DOWN_WITHOUT: f64 = 1.05;
/// From order to `Settled`, against `mv` and a poll for readiness.
const LONGER: f64 = 1.4;
/// After a power cut an API server answers within this many seconds.
const BACK: f64 = 60.0;
/// The clients go on for this long, to see what comes after: a stand-in that ends, a component that gave up.
const AFTER: Duration = Duration::from_secs(10);

/// One change.
#[derive(Clone, Debug)]
struct Change {
    seen: Seen,
    /// Seconds in which fresh connections to the Service `kubernetes` failed.
    service: f64,
    /// From the rename, or the order, to the end of waiting.
    seconds: f64,
    /// Starts of kube-apiserver's container.
    servers: u32,
    /// Restarts of kube-controller-manager and kube-scheduler.
    others: u32,
}

/// How a change is made.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By a bare `mv`.
    ByHand,
    Ours,
    /// The operator without a stand-in.
    Alone,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::ByHand => "mv",
            Self::Ours => "ours",
            Self::Alone => "ours-without-stand-in",
        }
    }
}

/// Everything that was measured.
#[derive(Default)]
struct Costs {
    by_hand: Vec<Change>,
    ours: Vec<Change>,
    /// Without a stand-in.
    alone: Vec<Change>,
    /// The same object once more.
    nothing: Option<Change>,
    /// Seconds from the end of a power cut to an answer.
    back: f64,
}

/// Runs the rounds, prints a line for each change, and ends with the line of the figures. Whether they are within the
/// limits.
pub(super) fn run(given: &Given, rounds: u32) -> Result<bool> {
    let cluster = given.cluster(1)?;
    operator::install(&cluster)?;
    operator::wish(&cluster, Wish::now(1))?;
    operator::ready(&cluster)?;
    let mut costs = Costs::default();
    for round in 1..=rounds {
        // What the one before leaves behind (components that have just restarted, or none did) is no one way's burden.
        let mut ways = [Way::ByHand, Way::Ours, Way::Alone];
        if round % 2 == 0 {
            ways.reverse();
        }
        for way in ways {
            let change = |cluster: &Cluster, starts: &mut Starts| match way {
                Way::ByHand => move_manifest(cluster, 100 + round, starts),
                Way::Ours => order(cluster, Wish::now(200 + round), starts),
                Way::Alone => order(cluster, Wish { stand_in: "Never", ..Wish::now(300 + round) }, starts),
            };
            let change = measured(&cluster, round, way.name(), change)?;
            costs.of(way).push(change);
        }
    }
    let again = Wish::now(400);
    operator::wish(&cluster, again)?;
    operator::ready(&cluster)?;
    costs.nothing =
        Some(measured(&cluster, 1, "nothing", |cluster, starts| no_change(cluster, again, starts))?);
    costs.back = back_after_power_cut(&cluster)?;
    costs.tell()
}

fn measured(
    cluster: &Cluster,
    round: u32,
    how: &str,
    change: impl Fn(&Cluster, &mut Starts) -> Result<f64>,
) -> Result<Change> {
    let node = &cluster.nodes[0];
    // Nothing is undone while a manifest is changed by hand, and all that the change before disturbed has come back.
    operator::pause(cluster)?;
    quiet(cluster, node)?;
    let (mut before, mut after) = (Starts::default(), Starts::default());
    before.look(node)?;
    let probe = cluster.probe(&node.address())?;
    let service = cluster.clients_of_service(node, "/readyz")?;
    let seconds = change(cluster, &mut after)?;
    let end = Instant::now() + AFTER;
    wait::until("what comes after", CHANGE, || {
        after.look(node)?;
        Ok((Instant::now() > end).then_some(()))
    })?;
    let (seen, service) = (probe.stop()?, service.stop()?.down());
    let since = |program: &str| after.since(&before, program, node);
    let others = since("kube-controller-manager") + since("kube-scheduler");
    let change = Change { seconds, servers: since("kube-apiserver"), others, seen, service };
    let Change { seen, servers, .. } = &change;
    print(&format!(
        "change round={round} by={how} down={:.2} failed={}/{} kept-failed={}/{} seconds={seconds:.1} \
         service-down={service:.2} apiserver-starts={servers} other-restarts={others}",
        seen.down(),
        seen.fresh_failed.len(),
        seen.fresh,
        seen.kept_lost(),
        seen.kept,
    ))?;
    for kind in seen.kinds() {
        say!("{kind}");
    }
    Ok(change)
}

/// By hand: a rename, and a poll until the new API server is ready.
fn move_manifest(cluster: &Cluster, days: u32, starts: &mut Starts) -> Result<f64> {
    let node = &cluster.nodes[0];
    let manifest = fs::read_to_string(node.path(MANIFEST))?;
    let before = servers(node)?;
    let started = Instant::now();
    operator::swap_by_hand(node, &operator::with_max_age(&manifest, days)?)?;
    operator::restarted(cluster, node, &before, starts)?;
    Ok(started.elapsed().as_secs_f64())
}

/// By an object: applied, and waited for until it is Ready; the time is the journal's, from order to `Settled`.
fn order(cluster: &Cluster, wish: Wish, starts: &mut Starts) -> Result<f64> {
    let node = &cluster.nodes[0];
    let before = Journal::of(node)?.context("no journal of the first change")?;
    operator::wish(cluster, wish)?;
    let journal = wait::until("the order to be carried out", CHANGE, || {
        starts.look(node)?;
        let journal = Journal::of(node)?.context("no journal")?;
        Ok((journal.order != before.order && journal.is_final()).then_some(journal))
    })?;
    ensure!(journal.state == "settled", "the change ended as {}: {}", journal.state, journal.reason);
    operator::ready(cluster)?;
    for (time, state) in &journal.history {
        say!("{time} {state}");
    }
    Ok(journal.seconds())
}

/// Until every static Pod is ready again and only one API server runs.
fn quiet(cluster: &Cluster, node: &Node) -> Result<()> {
    let programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
    let pods = programs.map(|program| format!("pod/{program}-{}", node.name));
    let words = ["wait", "--for=condition=Ready", "--timeout=1s", "--namespace=kube-system"];
    let words: Vec<&str> = words.into_iter().chain(pods.iter().map(String::as_str)).collect();
    wait::until("the control plane to be quiet", CHANGE, || {
        cluster.kubectl(&words)?;
        ensure!(servers(node)?.len() == 1, "more than one API server runs");
        Ok(Some(()))
    })
}

/// The object as it is, applied once more, and a change of it that changes nothing on a node.
fn no_change(cluster: &Cluster, wish: Wish, starts: &mut Starts) -> Result<f64> {
    let node = &cluster.nodes[0];
    let before = Journal::of(node)?.context("no journal")?;
    operator::wish(cluster, wish)?;
    operator::wish(cluster, Wish { soak: 1, ..wish })?;
    operator::ready(cluster)?;
    starts.look(node)?;
    let after = Journal::of(node)?.context("no journal")?;
    ensure!(before.order == after.order, "an order was given for no change");
    Ok(0.0)
}

/// Seconds until an API server answers after a power cut in the middle of a change.
fn back_after_power_cut(cluster: &Cluster) -> Result<f64> {
    let node = &cluster.nodes[0];
    operator::wish(cluster, Wish::now(500))?;
    wait::until("the new API server to be started", CHANGE, || {
        let journal = Journal::of(node)?.context("no journal")?;
        Ok((journal.state == "verifying").then_some(()))
    })?;
    node.cut()?;
    cluster.switch_on(node, Lifetime::OfThisProcess)?;
    let on = Instant::now();
    wait::until("an API server", CHANGE, || Ok(cluster.api_is_ready(node)?.then_some(())))?;
    let back = on.elapsed().as_secs_f64();
    operator::ready(cluster)?;
    Ok(back)
}

impl Costs {
    fn of(&mut self, way: Way) -> &mut Vec<Change> {
        match way {
            Way::ByHand => &mut self.by_hand,
            Way::Ours => &mut self.ours,
            Way::Alone => &mut self.alone,
        }
    }

    /// Prints the figures; whether they are within their limits.
    fn tell(&self) -> Result<bool> {
        let mv = mean(&self.by_hand, |c| c.seen.down());
        let own = mean(&self.ours, |c| c.seen.down());
        let without = mean(&self.alone, |c| c.seen.down()) / mv;
        let longer = mean(&self.ours, |c| c.seconds) / mean(&self.by_hand, |c| c.seconds);
        let kept = self.ours.iter().map(|c| c.seen.kept_lost()).max().unwrap_or_default();
        let others: u32 = self.ours.iter().map(|c| c.others).sum();
        let servers = self.ours.iter().map(|c| c.servers).max().unwrap_or_default();
        let idle = self.nothing.as_ref().map_or(0, |c| c.servers);
        let limits = [
            (own / mv <= DOWN, format!("fresh connections fail for at most {DOWN} of what they do with mv")),
            (without <= DOWN_WITHOUT, format!("without a stand-in for at most {DOWN_WITHOUT} of it")),
            (kept <= KEPT, format!("at most {KEPT} failed requests on a connection that stays")),
            (others == 0, "no restart of kube-controller-manager and kube-scheduler".to_owned()),
            (servers == 1, "one restart of the API server".to_owned()),
            (idle == 0, "no restart of it for no change".to_owned()),
            (
                longer <= LONGER,
                format!("order to Settled in at most {LONGER} of mv and a poll for readiness"),
            ),
            (self.back <= BACK, format!("an answer within {BACK} s of a power cut")),
        ];
        for (_, limit) in limits.iter().filter(|(kept, _)| !kept) {
            say!("not kept: {limit}");
        }
        print(&format!("figure order-to-settled-ratio {longer:.2}"))?;
        print(&format!("figure component-restarts {others}"))?;
        print(&format!("figure apiserver-restarts-per-change {servers}"))?;
        print(&format!("figure apiserver-restarts-for-no-change {idle}"))?;
        print(&format!("figure without-stand-in-ratio {without:.3}"))?;
        for (how, changes) in [("mv", &self.by_hand), ("ours", &self.ours)] {
            let service = mean(changes, |c| c.service);
            print(&format!("figure service-without-answer-seconds-{how} {service:.1}"))?;
        }
        print(&format!("figure answer-after-power-cut-seconds {:.0}", self.back))?;
        print(&format!("outage mv={mv:.2} ours={own:.2} ratio={:.3} kept={kept}", own / mv))?;
        Ok(limits.iter().all(|(kept, _)| *kept))
    }
}

fn mean(changes: &[Change], of: fn(&Change) -> f64) -> f64 {
    changes.iter().map(of).sum::<f64>() / changes.len() as f64
}

fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("writing to standard output")
}
