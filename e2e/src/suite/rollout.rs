//! Three control-plane nodes behind a balancer that checks health: one node at a time, none while another is down, and a
//! node that loses its power in the middle comes back to what was wanted.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use crate::cluster::Cluster;
use crate::launch::Lifetime;
use crate::node::Node;
use crate::probe::{self, Probe, Seen};
use crate::progress::say;
use crate::suite::Given;
use crate::{network, wait};

use super::operator::{self, CHANGE, Journal, MANIFEST, Starts, Wish, servers};

/// A rollout takes at most this much longer than its nodes one by one.
const LONGER: f64 = 1.15;
/// Within this many seconds of the swap the old server has closed its port; the new one opens it 30 s after the swap or later.
const TAKEN_OVER: f64 = 15.0;
/// How often each way is taken, in turn: one loses a request or none.
const ROUNDS: u32 = 3;
/// What everybody may ask an API server for.
const ANY: &str = "/version";
/// A controller that would go on in spite of a node that is down would have done so by then.
const HELD: Duration = Duration::from_secs(60);

pub(super) fn run(given: &Given) -> Result<()> {
    let cluster = installed(given)?;
    whole(&cluster, 1)?;
    one_by_one(&cluster)?;
    none_while_one_is_down(&cluster)?;
    power_cut_in_the_middle(&cluster)
}

/// Three nodes with the operator, and auditing switched on.
pub(super) fn installed(given: &Given) -> Result<Cluster> {
    let cluster = given.cluster(3)?;
    operator::install(&cluster)?;
    to(&cluster, 1)?;
    Ok(cluster)
}

/// Changes the age and waits until every node has it.
fn to(cluster: &Cluster, days: u32) -> Result<()> {
    granted(cluster, Wish::now(days))
}

/// Waits until every node has what is wished.
fn granted(cluster: &Cluster, wish: Wish) -> Result<()> {
    operator::wish(cluster, wish)?;
    operator::ready(cluster)
}

/// Every node runs what its disk says, and that is what was wanted.
fn whole(cluster: &Cluster, days: u32) -> Result<()> {
    for node in &cluster.nodes {
        let manifest = fs::read_to_string(node.path(MANIFEST))?;
        let flag = format!("    - --audit-log-maxage={days}\n");
        ensure!(manifest.contains(&flag), "{} has no {flag}", node.name);
        operator::whole(cluster, node, &[&manifest])?;
    }
    Ok(())
}

/// The journal of a node's last install.
fn journal(node: &Node) -> Result<Journal> {
    Journal::of(node)?.with_context(|| format!("no journal on {}", node.name))
}

/// Requires that no two installs overlapped; gives the time from the first order to the last end, and the sum of each.
fn in_turn(cluster: &Cluster) -> Result<(f64, f64)> {
    let mut spans: Vec<(Timestamp, Timestamp, &str)> = Vec::new();
    let mut sum = 0.0;
    for node in &cluster.nodes {
        let journal = journal(node)?;
        let [(first, _), .., (last, _)] = &journal.history[..] else { bail!("a journal without history") };
        sum += journal.seconds();
        spans.push((*first, *last, &node.name));
    }
    spans.sort();
    for pair in spans.windows(2) {
        ensure!(pair[0].1 <= pair[1].0, "{} and {} were changed at the same time", pair[0].2, pair[1].2);
    }
    Ok((spans[2].1.duration_since(spans[0].0).as_secs_f64(), sum))
}

/// Makes a change of all three nodes with clients at work, and prints what it cost them; gives what those at the balancer saw,
/// and when each node was swapped, which `change` says. They ask for what any client may have: an API server that says it is
/// leaving still answers.
fn cost(
    cluster: &Cluster,
    how: &str,
    change: impl FnOnce(&mut Starts) -> Result<Vec<f64>>,
) -> Result<(Seen, Vec<f64>)> {
    let (mut before, mut after) = (Starts::default(), Starts::default());
    for node in &cluster.nodes {
        before.look(node)?;
    }
    let balanced = cluster.clients(network::HUB, ANY)?;
    let on_nodes =
        cluster.nodes.iter().map(|node| cluster.clients_on(node, ANY)).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    let swaps = change(&mut after)?;
    let seconds = started.elapsed().as_secs_f64();
    let balanced = balanced.stop()?;
    let on_nodes = on_nodes.into_iter().map(Probe::stop).collect::<Result<Vec<_>>>()?;
    let mut restarts = 0;
    for node in &cluster.nodes {
        after.look(node)?;
        restarts += after.since(&before, "kube-controller-manager", node);
        restarts += after.since(&before, "kube-scheduler", node);
    }
    let on_nodes: f64 = on_nodes.iter().map(Seen::down).sum();
    let Seen { fresh, fresh_failed, kept, kept_failed, kept_closed, failures } = &balanced;
    let mut out = std::io::stdout().lock();
    writeln!(out, "figure rollout-seconds-{how} {seconds:.1}")?;
    writeln!(out, "figure rollout-failed-requests-{how} {}", failed(&balanced))?;
    writeln!(out, "figure rollout-closed-between-requests-{how} {kept_closed}")?;
    writeln!(out, "figure rollout-unanswered-on-the-nodes-seconds-{how} {on_nodes:.1}")?;
    writeln!(out, "figure rollout-component-restarts-{how} {restarts}")?;
    say!("{how}: {} of {fresh} fresh, {kept_failed} of {kept} kept failed", fresh_failed.len());
    for (kind, times) in failures {
        let after: Vec<String> = times.iter().map(|at| after_the_last(&swaps, *at)).collect();
        say!("{how}: {kind}: {} s after the last swap", after.join(", "));
    }
    Ok((balanced, swaps))
}

/// How long before this moment a node was last swapped.
fn after_the_last(swaps: &[f64], at: f64) -> String {
    let last = swaps.iter().filter(|swap| **swap <= at).max_by(|a, b| a.total_cmp(b));
    last.map_or_else(|| "before the first".to_owned(), |swap| format!("{:.1}", at - swap))
}

fn failed(seen: &Seen) -> usize {
    seen.fresh_failed.len() + seen.kept_failed
}

/// The change by the operator.
fn by_operator(cluster: &Cluster, wish: Wish) -> Result<Vec<f64>> {
    granted(cluster, wish)?;
    cluster.nodes.iter().map(swapped).collect()
}

/// The same change by hand, one node after the other.
fn by_hand(cluster: &Cluster, days: u32, starts: &mut Starts) -> Result<Vec<f64>> {
    let mut swaps = Vec::new();
    for node in &cluster.nodes {
        let (before, manifest) = (servers(node)?, fs::read_to_string(node.path(MANIFEST))?);
        swaps.push(probe::now());
        operator::swap_by_hand(node, &operator::with_max_age(&manifest, days)?)?;
        operator::restarted(cluster, node, &before, starts)?;
    }
    Ok(swaps)
}

/// A rollout with clients at the balancer. The few requests that an API server is answering when it is told to end are lost,
/// by hand too; none is when a node's port goes back to its new server, which answers 500 while it starts.
fn one_by_one(cluster: &Cluster) -> Result<()> {
    let (seen, swaps) = cost(cluster, "ours", |_| by_operator(cluster, Wish::now(2)))?;
    whole(cluster, 2)?;
    let (all, sum) = in_turn(cluster)?;
    writeln!(std::io::stdout(), "figure rollout-to-sum-ratio {:.2}", all / sum)?;
    ensure!(all <= sum * LONGER, "the rollout took {all:.0} s, its nodes {sum:.0} s");
    for at in &seen.fresh_failed {
        let taken_over = swaps.iter().any(|swap| (swap - 1.0..swap + TAKEN_OVER).contains(at));
        ensure!(taken_over, "a request failed at {at}; the servers were told to end at {swaps:?}");
    }
    Ok(())
}

/// When a node's new manifest was in its place, in seconds since 1970.
fn swapped(node: &Node) -> Result<f64> {
    Ok(journal(node)?.swapped()?.as_microsecond() as f64 / 1e6)
}

/// `e2e test relief`: what a rollout costs clients with a stand-in, without one, and by hand. For an idle machine: what is
/// counted are the requests under way at one moment, and a busy one has more of them under way. A connection that is closed
/// between two requests is counted apart: any server that ends does that, and no request is lost.
pub(super) fn relief(given: &Given) -> Result<()> {
    let cluster = installed(given)?;
    let (mut ours, mut mv) = (0, 0);
    for round in 1..=ROUNDS {
        let (with, without) = (Wish::now(10 + round), Wish { stand_in: "Never", ..Wish::now(20 + round) });
        ours += failed(&cost(&cluster, "ours", |_| by_operator(&cluster, with))?.0);
        cost(&cluster, "without-stand-in", |_| by_operator(&cluster, without))?;
        for node in &cluster.nodes {
            ensure!(journal(node)?.rehearsed != "Full", "{} had a stand-in all the same", node.name);
        }
        operator::pause(&cluster)?;
        mv += failed(&cost(&cluster, "mv", |starts| by_hand(&cluster, 90 + round, starts))?.0);
    }
    ensure!(ours <= mv, "{ours} requests failed in {ROUNDS} rollouts, {mv} by hand");
    Ok(())
}

/// With a node down nothing is started; when it is back, all three are changed.
fn none_while_one_is_down(cluster: &Cluster) -> Result<()> {
    let down = operator::node_to_lose(cluster)?;
    let orders = || cluster.nodes.iter().map(|node| Ok(journal(node)?.order)).collect::<Result<Vec<_>>>();
    down.cut()?;
    let before = orders()?;
    operator::wish(cluster, Wish::now(3))?;
    let end = Instant::now() + HELD;
    wait::until("the time a rollout is held", CHANGE, || Ok((Instant::now() > end).then_some(())))?;
    ensure!(orders()? == before, "a node was changed while another was down");
    let says = cluster.kubectl(&["get", "auditcfg", "default", "--output=jsonpath={.status.conditions}"])?;
    ensure!(says.contains(&down.name), "nothing says that {} is waited for: {says}", down.name);
    cluster.switch_on(down, Lifetime::OfThisProcess)?;
    operator::ready(cluster)?;
    whole(cluster, 3)?;
    in_turn(cluster)?;
    say!("nothing was started while {} was down", down.name);
    Ok(())
}

/// The node that is being changed loses its power.
fn power_cut_in_the_middle(cluster: &Cluster) -> Result<()> {
    operator::wish(cluster, Wish::now(4))?;
    let node = wait::until("a node that is being changed", CHANGE, || {
        let is_verifying = |node: &&Node| journal(node).is_ok_and(|journal| journal.state == "verifying");
        Ok(cluster.nodes.iter().find(is_verifying))
    })?;
    node.cut()?;
    cluster.switch_on(node, Lifetime::OfThisProcess)?;
    operator::ready(cluster)?;
    whole(cluster, 4)?;
    in_turn(cluster)?;
    say!("{} lost its power in the middle, and all three have what was wanted", node.name);
    Ok(())
}
