//! Our own processes: killed at every step, upgraded, uninstalled, and an image that is gone.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::suite::faults::PATIENCE;
use crate::suite::faults::bed::Bed;
use crate::suite::faults::order::{Change, Rehearsal};
use crate::suite::operator::{self, Journal, NAMESPACE};
use crate::{image, wait};

use super::{Case, REFUSED, ROLLED_BACK, SETTLED, case};

pub(super) const CASES: &[Case] = &[
    case("installer-killed", "installer killed in every state", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "ordered", |b| at_every_state(b, &["installer"]))
    })
    .on_both()
    .in_ci(),
    case(
        "installer-killed-rolling-back",
        "installer killed in every state of a roll-back",
        ROLLED_BACK,
        |b| b.order(Change::UnknownFlag, Rehearsal::None, "ordered", |b| at_every_state(b, &["installer"])),
    ),
    case("agent-killed", "agent killed in every state", SETTLED, |b| {
        b.object(|b| at_every_state(b, &["agent"]))
    })
    .on_both(),
    case("agent-and-controller-killed", "agent and controller killed in every state", SETTLED, |b| {
        b.object(|b| at_every_state(b, &["agent", "controller"]))
    })
    .in_ci(),
    case("controller-killed-mid-rollout", "controller killed in every state of every node", SETTLED, |b| {
        b.object(controller_at_every_state)
    })
    .on_three(),
    case("agent-upgraded", "helm upgrade to another image while the new API server starts", SETTLED, |b| {
        b.object(|b| b.reaches("verifying").and_then(|()| upgrade(b)))
    })
    .on_both(),
    case("image-missing", "the installer's image is gone from the node", REFUSED, |b| {
        let images = Images::remove(b.node())?;
        let expected = b.object(|b| b.ends(None).map(drop));
        images.put_back()?;
        expected
    })
    .no_outage(),
    case(
        "helm-uninstall",
        "helm uninstall while the new API server starts; installed again afterwards",
        SETTLED,
        |b| {
            let expected = b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
                let uninstall = ["uninstall", "audit-operator", "-n", NAMESPACE];
                wait::until("helm uninstall", PATIENCE, || operator::helm(&b.cluster, &uninstall).map(Some))
                    .map(drop)
            })?;
            b.ends(expected.order.as_deref())?;
            operator::install(&b.cluster)?;
            Ok(expected)
        },
    )
    .on_both(),
];

/// Kills processes of the operator in every state the journal comes to, until the last.
fn at_every_state(bed: &Bed, verbs: &[&str]) -> Result<()> {
    let order = bed.newest_order()?.id;
    let (mut seen, mut killed) = (String::new(), 0);
    let end = Instant::now() + PATIENCE;
    loop {
        // An order that was just given has no journal yet.
        let journal = Journal::of(bed.node())?.filter(|journal| journal.order == order);
        let state = journal.as_ref().map_or("given", |journal| journal.state.as_str());
        if state != seen {
            for verb in verbs {
                killed += bed.node().kill_operator(verb)?;
            }
            seen = state.to_owned();
        }
        if journal.is_some_and(|journal| journal.is_final()) {
            bed.note(format!("{killed} killed"));
            // The kubelet makes one that ends again and again wait for longer and longer: it is not there in every state.
            ensure!(killed > 1, "too few were there to be killed");
            return Ok(());
        }
        ensure!(Instant::now() < end, "it does not end; it is {seen}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills the controller, wherever it runs, in every state that any node's journal comes to, until every node has settled.
fn controller_at_every_state(bed: &Bed) -> Result<()> {
    let journals = || bed.cluster.nodes.iter().map(Journal::of).collect::<Result<Vec<_>>>();
    let states = |journals: Vec<Option<Journal>>| {
        journals.into_iter().flatten().map(|journal| (journal.order, journal.state)).collect::<Vec<_>>()
    };
    let (before, mut seen, mut killed) = (states(journals()?), Vec::new(), 0);
    let end = Instant::now() + PATIENCE;
    loop {
        let now = states(journals()?);
        if now != seen {
            for node in &bed.cluster.nodes {
                killed += node.kill_operator("controller")?;
            }
            seen.clone_from(&now);
        }
        // The first node's order was there before this began.
        let begun = now.iter().zip(&before).filter(|(now, before)| now.0 != before.0).count() + 1;
        if begun >= now.len() && now.iter().all(|(_, state)| state == "settled") {
            bed.note(format!("{killed} killed"));
            return Ok(());
        }
        ensure!(Instant::now() < end, "it does not end: {now:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The operator's images of a node, by all their names.
struct Images<'a> {
    node: &'a Node,
    names: Vec<String>,
}

impl<'a> Images<'a> {
    fn remove(node: &'a Node) -> Result<Self> {
        let all = containerd(node, &["list", "--quiet"])?;
        let own = operator_image()?;
        let names: Vec<String> = all.lines().filter(|name| name.contains(&own)).map(str::to_owned).collect();
        ensure!(!names.is_empty(), "there is no image of the operator: {all}");
        for name in &names {
            containerd(node, &["remove", name])?;
        }
        Ok(Self { node, names })
    }

    fn put_back(&self) -> Result<()> {
        for archive in fs::read_dir(self.node.state.images())?.flatten() {
            containerd(self.node, &["import", &archive.path().to_string_lossy()])?;
        }
        let imported = format!("docker.io/{}", image::operator_reference());
        for name in self.names.iter().filter(|name| **name != imported) {
            containerd(self.node, &["tag", &imported, name])?;
        }
        Ok(())
    }
}

/// `ctr images` of what Pods run from.
fn containerd(node: &Node, arguments: &[&str]) -> Result<String> {
    node.run("ctr", &[&["--namespace", "k8s.io", "images"][..], arguments].concat())
}

/// The name of the operator's image, without its tag.
fn operator_image() -> Result<String> {
    let reference = image::operator_reference();
    Ok(reference.rsplit_once(':').context("an image has a tag")?.0.to_owned())
}

/// The same program under another name, as a new version comes: every agent is replaced, and names another image for the
/// installers to come.
fn upgrade(bed: &Bed) -> Result<()> {
    let from = format!("docker.io/{}", image::operator_reference());
    let tag = format!("upgraded-{}", bed.next());
    let to = format!("docker.io/{}:{tag}", operator_image()?);
    for node in &bed.cluster.nodes {
        containerd(node, &["tag", &from, &to])?;
    }
    let set = format!("image.tag={tag}");
    let upgrade = ["upgrade", "audit-operator", "charts/audit-operator", "-n", NAMESPACE, "--reuse-values"];
    let upgrade = [&upgrade[..], &["--set", &set]].concat();
    wait::until("helm upgrade", PATIENCE, || operator::helm(&bed.cluster, &upgrade).map(Some))?;
    operator::runs(&bed.cluster)?;
    let agents = ["get", "pods", "-n", NAMESPACE, "--output=jsonpath={.items[*].spec.containers[0].image}"];
    let images = bed.cluster.kubectl(&agents)?;
    ensure!(images.split(' ').all(|image| image.ends_with(&tag)), "they run {images}");
    Ok(())
}
