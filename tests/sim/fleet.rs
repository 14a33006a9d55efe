//! Three control-plane nodes and the controllers that see them late: the real rollout plan, with restarts.
//!
//! `src/rollout/tests/walk.rs` has the same world in small steps for proptest to shrink. Here time passes too: nodes soak and
//! are asked for their readiness, controllers come and go with what they remember, and a change takes as long as a node takes.

use std::time::Duration;

use audit_operator::rollout::{Change, Facts, Install, NodeFacts, Readiness, Server, plan};

use crate::rng::Rng;

const NODES: usize = 3;
/// Events before everything works again.
const EVENTS: u64 = 250;
const SOAK: u64 = 30;
/// The revision that is wanted in the end: another than any before.
const LAST: u64 = 99;

/// What the controller writes.
#[derive(Clone, Debug, Default)]
struct Spec {
    generation: u64,
    wanted: u64,
    permit: Option<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ordered,
    Restarting,
    Settled,
    RolledBack,
    Refused,
}

/// What an agent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    observed: u64,
    plan: Option<Change>,
    plan_of: u64,
    install: Option<(Change, Stage)>,
}

#[derive(Clone, Debug, Default)]
struct Machine {
    /// The objects as the API server has them.
    spec: Spec,
    status: Status,
    /// As the agent and the controller have seen them.
    seen_spec: Spec,
    seen_status: Status,
    /// Since when the controller has seen that install.
    since: u64,
    /// What is on the disk, and what is done to it.
    disk: u64,
    install: Option<(Change, Stage)>,
    is_down: bool,
    agent_is_down: bool,
}

impl Machine {
    fn is_disturbed(&self) -> bool {
        matches!(self.install, Some((_, Stage::Restarting)))
    }

    fn is_busy(&self) -> bool {
        matches!(self.install, Some((_, Stage::Ordered | Stage::Restarting)))
    }

    fn serves(&self) -> bool {
        !self.is_down && !self.is_disturbed()
    }
}

/// The fleet of a seed.
struct Fleet {
    machines: Vec<Machine>,
    wanted: u64,
    now: u64,
    rng: Rng,
    trace: Vec<String>,
    violations: Vec<String>,
}

/// What went wrong in the fleet's history of this seed, and what happened until then.
pub(crate) fn run(seed: u64) -> (Vec<String>, Vec<String>) {
    let mut fleet = Fleet {
        machines: vec![Machine::default(); NODES],
        wanted: 1,
        now: 1000,
        rng: Rng::new(!seed),
        trace: Vec::new(),
        violations: Vec::new(),
    };
    for _ in 0..EVENTS {
        fleet.something_happens();
        if !fleet.violations.is_empty() {
            return (fleet.violations, fleet.trace);
        }
    }
    fleet.all_works_again();
    (fleet.violations, fleet.trace)
}

fn change(from: u64, to: u64) -> Change {
    Change { from: from.to_string(), to: to.to_string() }
}

impl Fleet {
    fn note(&mut self, what: String) {
        self.trace.push(format!("{:>5} {what}", self.now));
    }

    fn something_happens(&mut self) {
        self.now += self.rng.between(0, 8);
        let i = self.rng.between(0, NODES as u64) as usize;
        match self.rng.between(0, 40) {
            0..=9 => self.decide(),
            10..=15 => self.reaches_controller(i),
            16..=20 => self.machines[i].seen_spec = self.machines[i].spec.clone(),
            21..=28 => self.look(i),
            29..=34 => {
                let good = self.rng.percent(70);
                self.install(i, good);
            }
            35 => {
                self.wanted = self.rng.between(1, 6);
                self.note(format!("revision {} is wanted", self.wanted));
            }
            36 => self.machines[i].is_down = !self.machines[i].is_down,
            37 => self.machines[i].agent_is_down = !self.machines[i].agent_is_down,
            38 => self.controller_restarts(),
            _ => self.now += 60,
        }
        let busy = self.machines.iter().filter(|machine| machine.is_busy()).count();
        if busy > 1 {
            self.violations.push(format!("{busy} nodes are being changed at once"));
        }
    }

    fn reaches_controller(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        if machine.seen_status.install != machine.status.install {
            machine.since = self.now;
        }
        machine.seen_status = machine.status.clone();
    }

    /// The lease is lost and another one takes over: it lists everything anew, and remembers nothing.
    fn controller_restarts(&mut self) {
        self.note("another controller takes over".to_owned());
        for i in 0..NODES {
            self.machines[i].seen_status = self.machines[i].status.clone();
            self.machines[i].since = self.now;
        }
    }

    fn facts(&self, asked: bool) -> Facts {
        let nodes = self.machines.iter().enumerate().map(|(i, machine)| {
            let status = &machine.seen_status;
            let install = match status.install.clone() {
                None => Install::Idle,
                Some((change, Stage::Settled)) => Install::Settled { to: change.to },
                Some((change, Stage::RolledBack)) => Install::Failed { change, id: String::new() },
                Some((change, Stage::Refused)) => Install::Refused(change),
                Some((_, Stage::Ordered | Stage::Restarting)) => Install::UnderWay,
            };
            NodeFacts {
                name: i.to_string(),
                hold: None,
                permit: machine.spec.permit.clone(),
                acknowledged: status.observed == machine.spec.generation || status.observed == 0,
                plan: status.plan.clone().filter(|_| status.plan_of == machine.spec.wanted),
                install,
                age: Duration::from_secs(self.now - machine.since),
                soak: Duration::from_secs(SOAK),
                trouble: None,
                proof_missing: false,
            }
        });
        let servers = self.machines.iter().enumerate().map(|(i, machine)| Server {
            name: i.to_string(),
            readiness: match (asked, machine.serves()) {
                (false, _) => Readiness::NotAsked,
                (true, true) => Readiness::Ready,
                (true, false) => Readiness::NotReady("down".to_owned()),
            },
        });
        Facts { nodes: nodes.collect(), servers: servers.collect(), own_node: Some("1".to_owned()) }
    }

    fn decide(&mut self) {
        for machine in &mut self.machines {
            if machine.spec.wanted != self.wanted {
                machine.spec.wanted = self.wanted;
                machine.spec.generation += 1;
            }
        }
        let mut decision = plan(&self.facts(false));
        if decision.ask {
            decision = plan(&self.facts(true));
        }
        let mut given = 0;
        for i in 0..NODES {
            let permit = decision.permits[&i.to_string()].clone();
            if permit == self.machines[i].spec.permit {
                continue;
            }
            self.note(format!("node {i} has the permit {permit:?}"));
            if permit.is_some() {
                given += 1;
                let other = (0..NODES).find(|other| *other != i && !self.machines[*other].serves());
                if let Some(other) = other {
                    self.violations.push(format!("node {i} was permitted while node {other} does not serve"));
                }
            }
            let machine = &mut self.machines[i];
            machine.spec.permit = permit;
            machine.spec.generation += 1;
        }
        if given > 1 {
            self.violations.push(format!("{given} permits at once"));
        }
    }

    /// As the agent does it: the order is given in the same look whose status does not have it yet.
    fn look(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        let spec = machine.seen_spec.clone();
        if spec.generation == 0 || machine.agent_is_down {
            return;
        }
        let plan = (machine.disk != spec.wanted).then(|| change(machine.disk, spec.wanted));
        machine.status = Status {
            observed: spec.generation,
            plan: plan.clone(),
            plan_of: spec.wanted,
            install: machine.install.clone(),
        };
        let free = match &machine.install {
            None | Some((_, Stage::Settled | Stage::Refused)) => true,
            Some((failed, Stage::RolledBack)) => Some(failed) != plan.as_ref(),
            Some((_, Stage::Ordered | Stage::Restarting)) => false,
        };
        if free && plan.is_some() && spec.permit == plan {
            machine.install = plan.clone().map(|plan| (plan, Stage::Ordered));
            self.note(format!("node {i} takes up {plan:?}"));
        }
    }

    fn install(&mut self, i: usize, good: bool) {
        let refused = self.rng.percent(30);
        let machine = &mut self.machines[i];
        let Some((change, stage)) = &mut machine.install else { return };
        *stage = match *stage {
            Stage::Ordered if !good && refused => Stage::Refused,
            Stage::Ordered => Stage::Restarting,
            Stage::Restarting if good => {
                machine.disk = change.to.parse().expect("a revision");
                Stage::Settled
            }
            Stage::Restarting => Stage::RolledBack,
            stage => stage,
        };
        let stage = *stage;
        self.note(format!("node {i} is {stage:?}"));
    }

    /// Every message arrives and every server runs, for as long as it takes.
    fn all_works_again(&mut self) {
        for machine in &mut self.machines {
            (machine.is_down, machine.agent_is_down) = (false, false);
        }
        self.wanted = LAST;
        for _ in 0..100 {
            self.now += 10;
            self.decide();
            for i in 0..NODES {
                self.machines[i].seen_spec = self.machines[i].spec.clone();
                self.look(i);
                self.install(i, true);
                self.look(i);
                self.reaches_controller(i);
            }
        }
        let left: Vec<u64> = self.machines.iter().map(|machine| machine.disk).collect();
        if left != [LAST; NODES] {
            self.violations.push(format!("the rollout does not come to its end: {left:?}"));
        }
    }
}
