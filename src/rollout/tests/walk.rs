//! Whole rollouts: a controller and agents that see each other's writes late and in any order.

use proptest::prelude::*;

use super::*;

/// What a controller writes for one node.
#[derive(Clone, Debug, Default)]
struct Spec {
    generation: u64,
    wanted: u8,
    permit: Option<Change>,
}

/// What an agent writes.
#[derive(Clone, Debug, Default)]
struct Status {
    observed: u64,
    plan: Option<Change>,
    plan_of: u8,
    install: Option<(Change, &'static str)>,
}

/// One node: the objects as they are, what each side has seen of them, and the disk.
#[derive(Clone, Debug, Default)]
struct Machine {
    spec: Spec,
    status: Status,
    seen_spec: Spec,
    seen_status: Status,
    disk: u8,
    order: Option<(Change, &'static str)>,
    serves: bool,
}

/// One thing that happens, to the node of that index where it says so.
#[derive(Clone, Debug)]
enum Event {
    /// The controller decides and writes.
    Decide,
    /// A status reaches the controller.
    ToController(usize),
    /// A spec reaches an agent.
    ToAgent(usize),
    /// An agent looks: reports, and gives the order that its permit allows.
    Look(usize),
    /// The installer takes a step: begins, or ends well or badly.
    Install(usize, bool),
    /// The administrator wants another revision.
    Want(u8),
    /// A server stops serving, or comes back.
    Outage(usize),
}

const NODES: usize = 3;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Decide),
        4 => (0..NODES).prop_map(Event::ToController),
        4 => (0..NODES).prop_map(Event::ToAgent),
        6 => (0..NODES).prop_map(Event::Look),
        4 => (0..NODES, any::<bool>()).prop_map(|(i, good)| Event::Install(i, good)),
        1 => (1..5_u8).prop_map(Event::Want),
        1 => (0..NODES).prop_map(Event::Outage),
    ]
}

fn change(from: u8, to: u8) -> Change {
    Change { from: from.to_string(), to: to.to_string() }
}

struct World {
    machines: Vec<Machine>,
    wanted: u8,
}

impl World {
    fn new() -> Self {
        let machine = Machine { serves: true, ..Machine::default() };
        Self { machines: vec![machine; NODES], wanted: 1 }
    }

    /// What the controller sees. A store may lag behind, but never behind the controller's own writes.
    fn facts(&self) -> Facts {
        let nodes = self.machines.iter().enumerate().map(|(i, machine)| {
            let status = &machine.seen_status;
            let install = match &status.install {
                None => Install::Idle,
                Some((change, "Settled")) => Install::Settled { to: change.to.clone() },
                Some((change, "RolledBack")) => Install::Failed { change: change.clone(), id: String::new() },
                Some(_) => Install::UnderWay,
            };
            NodeFacts {
                permit: machine.spec.permit.clone(),
                acknowledged: status.observed == machine.spec.generation || status.observed == 0,
                plan: status.plan.clone().filter(|_| status.plan_of == machine.spec.wanted),
                install,
                soak: Duration::ZERO,
                ..node(&i.to_string())
            }
        });
        let server = |(i, machine): (usize, &Machine)| Server {
            name: i.to_string(),
            readiness: if machine.serves && !self.is_disturbed(i) {
                Readiness::Ready
            } else {
                Readiness::NotReady("down".to_owned())
            },
        };
        Facts {
            nodes: nodes.collect(),
            servers: self.machines.iter().enumerate().map(server).collect(),
            own_node: None,
        }
    }

    fn is_disturbed(&self, i: usize) -> bool {
        matches!(self.machines[i].order, Some((_, "Swapping")))
    }

    fn decide(&mut self) {
        for machine in &mut self.machines {
            if machine.spec.wanted != self.wanted {
                machine.spec.wanted = self.wanted;
                machine.spec.generation += 1;
            }
        }
        let facts = self.facts();
        let decision = plan(&facts);
        let given: Vec<_> = facts
            .nodes
            .iter()
            .filter(|n| decision.permits[&n.name].is_some() && decision.permits[&n.name] != n.permit)
            .collect();
        assert!(given.len() <= 1, "two permits at once: {decision:?}");
        for node in given {
            let unready =
                facts.servers.iter().find(|s| s.name != node.name && s.readiness != Readiness::Ready);
            assert!(unready.is_none(), "{} was permitted while {unready:?}", node.name);
        }
        for (name, permit) in decision.permits {
            let machine = &mut self.machines[name.parse::<usize>().unwrap()];
            if machine.spec.permit != permit {
                machine.spec.permit = permit;
                machine.spec.generation += 1;
            }
        }
    }

    /// As the agent does it: the order is given in the same look whose status does not have it yet.
    fn look(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        let spec = &machine.seen_spec;
        if spec.generation == 0 {
            return;
        }
        let plan = (machine.disk != spec.wanted).then(|| change(machine.disk, spec.wanted));
        machine.status = Status {
            observed: spec.generation,
            plan: plan.clone(),
            plan_of: spec.wanted,
            install: machine.order.clone(),
        };
        let free = match &machine.order {
            None => true,
            Some((_, "Settled")) => true,
            Some((failed, "RolledBack")) => Some(failed) != plan.as_ref(),
            Some(_) => false,
        };
        if free && plan.is_some() && spec.permit == plan {
            machine.order = plan.map(|plan| (plan, "Ordered"));
        }
    }

    fn install(&mut self, i: usize, good: bool) {
        let machine = &mut self.machines[i];
        match &mut machine.order {
            Some((_, state @ "Ordered")) => *state = "Swapping",
            Some((change, state @ "Swapping")) => {
                *state = if good { "Settled" } else { "RolledBack" };
                if good {
                    machine.disk = change.to.parse().unwrap();
                }
            }
            _ => {}
        }
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Decide => self.decide(),
            Event::ToController(i) => self.machines[i].seen_status = self.machines[i].status.clone(),
            Event::ToAgent(i) => self.machines[i].seen_spec = self.machines[i].spec.clone(),
            Event::Look(i) => self.look(i),
            Event::Install(i, good) => self.install(i, good),
            Event::Want(revision) => self.wanted = revision,
            Event::Outage(i) => self.machines[i].serves = !self.machines[i].serves,
        }
        let busy = |m: &&Machine| matches!(m.order, Some((_, "Ordered" | "Swapping")));
        let busy = self.machines.iter().filter(busy).count();
        assert!(busy <= 1, "{busy} nodes are being changed after {event:?}");
    }

    /// Everything works and every message arrives, as often as it takes.
    fn calm(&mut self) {
        self.machines.iter_mut().for_each(|machine| machine.serves = true);
        // Another revision than any that failed.
        self.wanted = 9;
        for _ in 0..40 {
            self.happens(&Event::Decide);
            for i in 0..NODES {
                for event in
                    [Event::ToAgent(i), Event::Look(i), Event::Install(i, true), Event::ToController(i)]
                {
                    self.happens(&event);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn never_two_nodes_and_in_the_end_all(events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        for event in &events {
            world.happens(event);
        }
        world.calm();
        let disks: Vec<u8> = world.machines.iter().map(|machine| machine.disk).collect();
        prop_assert_eq!(disks, vec![9; NODES]);
    }
}
