//! One history: the node, our processes on it, and whether all is well in the end.

use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use audit_operator::host::{Host, MANIFEST};
use audit_operator::install::State;
use audit_operator::installer;
use futures::Future;
use futures::task::noop_waker;

use crate::agent;
use crate::kubelet::NODE;
use crate::node::{Node, is_stop, taken};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::verdict;
use crate::world::{Process, Stop, World};

/// The longest that the world goes on without our processes being looked at, in milliseconds.
const STEP: u64 = 250;
/// After the last fault everything is over within this time, in milliseconds.
const PATIENCE: u64 = 40 * 60_000;

/// What became of a history.
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
    /// The final state's name.
    pub(crate) outcome: &'static str,
    /// How many orders that took: an agent tries a refused one again.
    pub(crate) orders: usize,
}

/// The history of a seed.
pub(crate) fn run(seed: u64, traced: bool) -> Report {
    let mut rng = Rng::new(seed);
    let scenario = Scenario::new(seed, &mut rng);
    play(scenario, rng, traced)
}

/// The history of a scenario.
pub(crate) fn play(scenario: Scenario, rng: Rng, traced: bool) -> Report {
    let node = Node::new(World::new(scenario, rng, traced));
    let mut history = History { host: host(&node), node, installer: None, twin: None, agent: None };
    history.go_on();
    let state = history.host.journal().ok().flatten().map(|journal| journal.state);
    drop((history.installer.take(), history.twin.take(), history.agent.take()));
    let mut world = history.node.world();
    let (violations, trace) = (std::mem::take(&mut world.violations), world.trace.take().unwrap_or_default());
    let outcome = state.as_ref().map_or("none", State::name);
    Report { scenario: world.scenario.clone(), violations, trace, outcome, orders: world.orders.len() }
}

fn host(node: &Node) -> Host {
    let (disk, machine) = (Arc::new(node.clone()), Arc::new(node.clone()));
    Host::new("/", MANIFEST, Some(NODE.to_owned())).on(disk, machine)
}

struct History {
    node: Node,
    host: Host,
    installer: Option<(String, Program)>,
    /// A second installer of the same order.
    twin: Option<Program>,
    agent: Option<Program>,
}

/// A process of ours that runs.
struct Program {
    process: Process,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

impl Program {
    fn start(node: &Node, name: &'static str, future: impl Future<Output = ()> + 'static) -> Self {
        let mut world = node.world();
        world.numbers += 1;
        let process = Process { number: world.numbers, name };
        world.note(|| format!("{name} starts"));
        Self { process, future: Box::pin(future) }
    }

    /// Lets it work until it waits; what stopped it, if anything did.
    fn work(&mut self, node: &Node) -> Option<Stop> {
        {
            let mut world = node.world();
            let number = self.process.number;
            if world.sleepers.get(&number).is_some_and(|until| *until > world.now) {
                return None;
            }
            world.sleepers.remove(&number);
            world.process = Some(self.process);
        }
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let polled = panic::catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(&mut context)));
        let mut world = node.world();
        world.process = None;
        match polled {
            Ok(Poll::Pending) => taken(&mut world),
            Ok(Poll::Ready(())) => None,
            Err(panic) if is_stop(panic.as_ref()) => taken(&mut world),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                world.violation(format!("a panic: {}", text.unwrap_or_default()));
                Some(Stop::Killed)
            }
        }
    }
}

impl History {
    fn go_on(&mut self) {
        loop {
            self.processes();
            self.node.forward();
            let installer = self.installer.as_mut().and_then(|(_, program)| program.work(&self.node));
            self.stopped(installer, true);
            let twin = self.twin.as_mut().and_then(|program| program.work(&self.node));
            self.stopped(twin, true);
            let agent = self.agent.as_mut().and_then(|program| program.work(&self.node));
            self.stopped(agent, false);
            self.node.forward();
            let mut world = self.node.world();
            if verdict::is_over(&world) {
                drop(world);
                verdict::check(&self.node, &self.host);
                return;
            }
            if world.now > world.last_fault + PATIENCE || !world.violations.is_empty() {
                drop(world);
                verdict::never_over(&self.node, &self.host);
                return;
            }
            let next = world.sleepers.values().min().map_or(STEP, |until| until.saturating_sub(world.now));
            world.pass(next.clamp(10, STEP));
            let stop = taken(&mut world);
            drop(world);
            self.stopped(stop, true);
        }
    }

    /// Starts and ends programs as the kubelet has it.
    fn processes(&mut self) {
        let (order, agent) = {
            let world = self.node.world();
            (world.installer(), world.agent_away_until <= world.now)
        };
        if self.installer.as_ref().map(|(order, _)| order) != order.as_ref() {
            (self.installer, self.twin) = (None, None);
            if let Some(order) = order {
                let program = self.start_installer("installer", &order);
                self.installer = Some((order, program));
            }
        }
        if let Some((order, _)) = &self.installer
            && std::mem::take(&mut self.node.world().twin)
        {
            self.twin = Some(self.start_installer("twin", order));
        }
        if !agent {
            self.agent = None;
        } else if self.agent.is_none() {
            let work = agent::run(self.host.clone(), self.node.clone());
            self.agent = Some(Program::start(&self.node, "agent", work));
        }
    }

    fn start_installer(&self, name: &'static str, order: &str) -> Program {
        let (host, node, id) = (self.host.clone(), self.node.clone(), order.to_owned());
        let work = async move { installer::carry_out_and_leave(&host, &id, &node).await };
        Program::start(&self.node, name, work)
    }

    fn stopped(&mut self, stop: Option<Stop>, installer: bool) {
        match stop {
            None => {}
            Some(Stop::Killed) if installer => {
                (self.installer, self.twin) = (None, None);
                let mut world = self.node.world();
                world.installer_lives = false;
                world.note(|| "the installer is killed".to_owned());
            }
            Some(Stop::Killed) => {
                self.agent = None;
                let mut world = self.node.world();
                world.agent_away_until = world.now + 5_000;
                world.note(|| "the agent is killed".to_owned());
            }
            Some(Stop::PowerCut) => {
                (self.installer, self.twin, self.agent) = (None, None, None);
                self.node.world().power_cut();
            }
        }
        let mut world = self.node.world();
        world.sleepers.clear();
    }
}
