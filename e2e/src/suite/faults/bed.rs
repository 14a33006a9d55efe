//! What a fault is done on: a cluster of one or three control planes with the operator, auditing switched on and the
//! AuditConfiguration paused. Orders are given by hand to one node, or by the object to all.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, Wanted};
use crate::launch::Lifetime;
use crate::network;
use crate::node::Node;
use crate::progress::say;
use crate::state::State;
use crate::suite::operator::{self, INSTALLER, Journal, MANIFEST, Starts, Wish, servers};
use crate::wait;

use super::PATIENCE;
use super::cases::{Case, Expected};
use super::order::{Change, Given, Rehearsal, Template, reaches};

/// A cluster with the operator, paused, and auditing switched on.
pub(super) struct Bed {
    pub(super) cluster: Cluster,
    template: Template,
    /// Counted up with every change, so that no two are the same.
    number: Cell<u32>,
    /// When the case's order was given.
    given: Cell<Option<Instant>>,
    /// From there to its end.
    took: Cell<Option<Duration>>,
    /// How long it took until an API server answered after a power cut.
    back: RefCell<Vec<Duration>>,
    /// What else there is to say of it, for the table.
    notes: RefCell<Vec<String>>,
}

/// How a case ended that was survived.
#[derive(Debug)]
pub(super) struct Ended {
    /// The journal's last state.
    pub(super) state: String,
    /// Who found what was wrong, and in which words; empty when nothing was.
    pub(super) found: String,
    /// From the order to its end.
    pub(super) took: Duration,
    /// Seconds without answer on fresh connections to the node itself.
    pub(super) down: f64,
    /// The same behind the balancer, where there are several nodes.
    pub(super) behind: Option<f64>,
    /// From a power cut's end to an answer.
    pub(super) back: Vec<Duration>,
    /// What else there is to say.
    pub(super) notes: Vec<String>,
}

impl Bed {
    /// Brings it up in an empty state folder.
    pub(super) fn up(state: &State, operator: Option<PathBuf>, nodes: u8) -> Result<Self> {
        let binary = operator.context("needs the operator: --operator-binary or E2E_OPERATOR_BINARY")?;
        let wanted = Wanted { nodes, operator: Some(binary), lifetime: Lifetime::OfThisProcess };
        let cluster = Cluster::up(state, &wanted)?;
        operator::install(&cluster)?;
        operator::wish(&cluster, Wish::now(1))?;
        let node = cluster.nodes.last().context("a cluster has nodes")?;
        let installer = node.path(INSTALLER);
        let installer =
            wait::until("the installer's manifest", PATIENCE, || Ok(Some(fs::read_to_string(&installer)?)))?;
        operator::ready(&cluster)?;
        operator::pause(&cluster)?;
        let template = Template::new(node, installer)?;
        Ok(Self {
            template,
            cluster,
            number: Cell::new(100),
            given: Cell::default(),
            took: Cell::default(),
            back: RefCell::default(),
            notes: RefCell::default(),
        })
    }

    /// How many nodes it has.
    pub(super) fn nodes(&self) -> u8 {
        u8::try_from(self.cluster.nodes.len()).unwrap_or(u8::MAX)
    }

    /// The node the fault is done on: the only one, or the last to have joined.
    pub(super) fn node(&self) -> &Node {
        self.cluster.nodes.last().expect("a cluster has nodes")
    }

    /// A number no change before had.
    pub(super) fn next(&self) -> u32 {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    /// Something to be said in the table.
    pub(super) fn note(&self, note: String) {
        say!("{note}");
        self.notes.borrow_mut().push(note);
    }

    /// Does a case, and looks whether the cluster survived it.
    pub(super) fn case(&self, case: &Case) -> Result<Ended> {
        let before = self.manifests()?;
        self.back.borrow_mut().clear();
        self.notes.borrow_mut().clear();
        self.given.set(None);
        self.took.set(None);
        let probe = self.cluster.probe(&self.node().address())?;
        let balanced = if self.nodes() > 1 { Some(self.cluster.probe(network::HUB)?) } else { None };
        let expected = (case.run)(self)?;
        let journal = self.ends(expected.order.as_deref())?;
        self.whole(&before, &expected)?;
        let seen = probe.stop()?;
        let behind = balanced.map(|probe| probe.stop()).transpose()?.map(|seen| seen.down());
        say!("without an answer {:.2} s: {:?}", seen.down(), seen.kinds());
        ensure!(
            case.ends.contains(&journal.state.as_str()),
            "it ended as {}, not {}: {}",
            journal.state,
            case.ends.join(" or "),
            journal.reason
        );
        Ok(Ended {
            found: journal.found(),
            state: journal.state,
            took: self.took.get().context("no order was given")?,
            down: seen.down(),
            behind,
            back: self.back.take(),
            notes: self.notes.take(),
        })
    }

    fn manifests(&self) -> Result<Vec<String>> {
        self.cluster.nodes.iter().map(|node| Ok(fs::read_to_string(node.path(MANIFEST))?)).collect()
    }

    /// Every node runs what is on its disk: the one the fault was done on the manifest from before or one that was ordered, the
    /// others, too, where all of them were changed.
    fn whole(&self, before: &[String], expected: &Expected) -> Result<()> {
        for (node, before) in self.cluster.nodes.iter().zip(before) {
            let allowed = match (expected.everywhere, &expected.only) {
                (Some(days), _) => vec![self.changed_to(node, days)?],
                (None, _) if node.number != self.node().number => vec![before.clone()],
                (None, Some(only)) => vec![only.clone()],
                (None, None) => [&expected.manifests[..], std::slice::from_ref(before)].concat(),
            };
            let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
            operator::whole(&self.cluster, node, &allowed)?;
        }
        Ok(())
    }

    /// The manifest of a node that was changed to this age; another revision is in it, too.
    fn changed_to(&self, node: &Node, days: u32) -> Result<String> {
        let manifest = fs::read_to_string(node.path(MANIFEST))?;
        ensure!(manifest == operator::with_max_age(&manifest, days)?, "{} has not {days} days", node.name);
        Ok(manifest)
    }

    /// Gives an order by hand, waits until it is in a state, and does the fault.
    pub(super) fn order(
        &self,
        change: Change,
        rehearsal: Rehearsal,
        at: &str,
        fault: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Expected> {
        let given = self.give(change, rehearsal)?;
        reaches(self.node(), &given.id, at)?;
        fault(self)?;
        let manifests = if change == Change::Good { vec![given.target] } else { Vec::new() };
        Ok(Expected { order: Some(given.id), manifests, ..Expected::default() })
    }

    /// Gives an order by hand.
    pub(super) fn give(&self, change: Change, rehearsal: Rehearsal) -> Result<Given> {
        self.begins();
        self.template.give(self.node(), change, rehearsal, self.next())
    }

    /// From now on the time to the end counts.
    pub(super) fn begins(&self) {
        self.given.set(Some(Instant::now()));
    }

    /// Changes the object, and does the fault when the node has its order; every node must have the change in the end.
    /// Paused again afterwards.
    pub(super) fn object(&self, fault: impl FnOnce(&Self) -> Result<()>) -> Result<Expected> {
        let before = Journal::of(self.node())?.context("no journal")?;
        let days = self.next();
        self.begins();
        operator::wish(&self.cluster, Wish::now(days))?;
        let order = wait::until("an order", PATIENCE, || {
            let order = self.newest_order()?;
            Ok((order.id != before.order).then_some(order))
        })?;
        fault(self)?;
        let journal = self.ends(Some(&order.id))?;
        let settled = journal.state == "settled";
        if settled {
            operator::ready(&self.cluster)?;
        }
        operator::pause(&self.cluster)?;
        Ok(Expected {
            order: Some(order.id),
            manifests: vec![order.target],
            everywhere: settled.then_some(days),
            ..Expected::default()
        })
    }

    /// The order on the node's disk.
    pub(super) fn newest_order(&self) -> Result<Given> {
        let path = self.node().path(&format!("{}/order.json", operator::STATE));
        let order: Value = serde_json::from_slice(&fs::read(path)?)?;
        let text = |field: &str| order[field].as_str().with_context(|| format!("an order has a {field}"));
        Ok(Given { id: text("id")?.to_owned(), target: text("target")?.to_owned() })
    }

    /// Waits until the newest order is in a state.
    pub(super) fn reaches(&self, state: &str) -> Result<()> {
        reaches(self.node(), &self.newest_order()?.id, state)
    }

    /// Waits for the end of an order; without one, of the newest.
    pub(super) fn ends(&self, order: Option<&str>) -> Result<Journal> {
        let newest = self.newest_order()?.id;
        let order = order.unwrap_or(&newest);
        let journal = wait::until("the order's end", PATIENCE, || {
            let journal = Journal::of(self.node())?.context("no journal")?;
            ensure!(
                order == journal.order && journal.is_final(),
                "the journal of {} says {}",
                journal.order,
                journal.state
            );
            Ok(Some(journal))
        })?;
        if self.took.get().is_none() {
            self.took.set(self.given.get().map(|given| given.elapsed()));
        }
        if !journal.reason.is_empty() {
            say!("it says: {}", journal.reason);
        }
        Ok(journal)
    }

    /// Cuts the power and gives it back, and waits until an API server answers.
    pub(super) fn power_cut(&self) -> Result<()> {
        self.node().cut()?;
        self.power_on()
    }

    /// Gives the power back, and waits until an API server answers: how long that takes is a figure.
    pub(super) fn power_on(&self) -> Result<()> {
        self.cluster.switch_on(self.node(), Lifetime::OfThisProcess)?;
        let started = Instant::now();
        self.is_back()?;
        self.back.borrow_mut().push(started.elapsed());
        Ok(())
    }

    /// Switches the node off, does something to its disk, and switches it on again: no fault, but how one is prepared.
    pub(super) fn off_and_on<T>(&self, work: impl FnOnce(&Node) -> Result<T>) -> Result<T> {
        self.node().cut()?;
        let done = work(self.node())?;
        self.cluster.switch_on(self.node(), Lifetime::OfThisProcess)?;
        self.is_back()?;
        Ok(done)
    }

    /// Until the API server answers again.
    pub(super) fn is_back(&self) -> Result<()> {
        wait::until("the API server", PATIENCE, || Ok(self.cluster.api_is_ready(self.node())?.then_some(())))
    }

    /// What the same change costs by a bare `mv`: seconds without answer. The manifest from before is put back by another.
    pub(super) fn by_hand(&self) -> Result<f64> {
        let manifest = fs::read_to_string(self.node().path(MANIFEST))?;
        let probe = self.cluster.probe(&self.node().address())?;
        let before = servers(self.node())?;
        operator::swap_by_hand(self.node(), &operator::with_max_age(&manifest, self.next())?)?;
        operator::restarted(&self.cluster, self.node(), &before, &mut Starts::default())?;
        Ok(probe.stop()?.down())
    }
}
