//! Three control-plane nodes behind a balancer that checks health: one node at a time, none while another is down, and a
//! node that loses its power in the middle comes back to what was wanted.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use crate::cluster::{Cluster, Wanted};
use crate::launch::Lifetime;
use crate::node::Node;
use crate::progress::say;
use crate::suite::Given;
use crate::{network, wait};

use super::operator::{self, CHANGE, Journal, MANIFEST, Starts, Wish, servers};

/// A rollout takes at most this much longer than its nodes one by one.
const LONGER: f64 = 1.15;
/// A controller that would go on in spite of a node that is down would have done so by then.
const HELD: Duration = Duration::from_secs(60);

pub(super) fn run(given: &Given) -> Result<()> {
    let binary =
        given.operator.clone().context("needs the operator: --operator-binary or E2E_OPERATOR_BINARY")?;
    let wanted = Wanted { nodes: 3, operator: Some(binary), lifetime: Lifetime::OfThisProcess };
    let cluster = Cluster::up(&given.state, &wanted)?;
    operator::install(&cluster)?;
    to(&cluster, 1)?;
    whole(&cluster, 1)?;
    one_by_one(&cluster)?;
    none_while_one_is_down(&cluster)?;
    power_cut_in_the_middle(&cluster)
}

/// Changes the age and waits until every node has it.
fn to(cluster: &Cluster, days: u32) -> Result<()> {
    operator::wish(cluster, Wish::now(days))?;
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

/// A rollout, and the same by hand, with clients at the balancer.
fn one_by_one(cluster: &Cluster) -> Result<()> {
    let probe = cluster.probe(network::HUB)?;
    let started = Instant::now();
    to(cluster, 2)?;
    let seconds = started.elapsed().as_secs_f64();
    let ours = probe.stop()?;
    whole(cluster, 2)?;
    let (all, sum) = in_turn(cluster)?;

    operator::pause(cluster)?;
    let probe = cluster.probe(network::HUB)?;
    for node in &cluster.nodes {
        let (before, manifest) = (servers(node)?, fs::read_to_string(node.path(MANIFEST))?);
        operator::swap_by_hand(node, &operator::with_max_age(&manifest, 99)?)?;
        operator::restarted(cluster, node, &before, &mut Starts::default())?;
    }
    let by_hand = probe.stop()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "figure rollout-object-to-ready-seconds {seconds:.1}")?;
    writeln!(out, "figure rollout-to-sum-ratio {:.2}", all / sum)?;
    for (how, seen) in [("ours", &ours), ("mv", &by_hand)] {
        let (fresh, kept) = (seen.fresh_failed.len(), seen.kept_failed);
        writeln!(out, "figure rollout-failed-requests-{how} {}", fresh + kept)?;
        say!(
            "{how}: {fresh} of {} fresh, {kept} of {} kept failed: {:?}",
            seen.fresh,
            seen.kept,
            seen.failures
        );
    }
    ensure!(all <= sum * LONGER, "the rollout took {all:.0} s, its nodes {sum:.0} s");
    let failed = |seen: &crate::probe::Seen| seen.fresh_failed.len() + seen.kept_failed;
    ensure!(failed(&ours) <= failed(&by_hand), "more requests failed than by hand");
    Ok(())
}

/// With a node down nothing is started; when it is back, all three are changed.
fn none_while_one_is_down(cluster: &Cluster) -> Result<()> {
    let [_, _, third] = &cluster.nodes[..] else { bail!("not three nodes") };
    let orders = || cluster.nodes.iter().map(|node| Ok(journal(node)?.order)).collect::<Result<Vec<_>>>();
    third.cut()?;
    let before = orders()?;
    operator::wish(cluster, Wish::now(3))?;
    let end = Instant::now() + HELD;
    wait::until("the time a rollout is held", CHANGE, || Ok((Instant::now() > end).then_some(())))?;
    ensure!(orders()? == before, "a node was changed while another was down");
    let says = cluster.kubectl(&["get", "auditcfg", "default", "--output=jsonpath={.status.conditions}"])?;
    ensure!(says.contains(&third.name), "nothing says that {} is waited for: {says}", third.name);
    cluster.switch_on(third, Lifetime::OfThisProcess)?;
    operator::ready(cluster)?;
    whole(cluster, 3)?;
    in_turn(cluster)?;
    say!("nothing was started while {} was down", third.name);
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
