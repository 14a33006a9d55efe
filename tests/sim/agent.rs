//! The agent's part of an install without its API: when it gives the order (again), and its own code for all that it does then.

use std::time::Duration;

use audit_operator::host::{Error, Host};
use audit_operator::install::chore::chore;
use audit_operator::install::journal::Refuser;
use audit_operator::install::pod::InstallerPod;
use audit_operator::install::{Journal, State};

use crate::kubelet::NODE;
use crate::node::Node;
use crate::scenario::PORT;

const LOOK: Duration = Duration::from_secs(1);
const POD: InstallerPod<'_> =
    InstallerPod { node_name: NODE, image: "audit-operator:1", port: PORT, strange_folders: false };
/// Before an order that was refused for a passing reason is given again.
const RETRY: u64 = 60_000;
/// Orders that are given at most.
const ORDERS: usize = 3;

type Stand = (Option<String>, Option<&'static str>, bool);

/// Looks and acts until it is stopped.
pub(crate) async fn run(host: Host, node: Node) {
    let mut since: Option<(Stand, u64)> = None;
    loop {
        // Somebody else has the lock, or the disk is full: next time.
        let _ = look(&host, &node, &mut since);
        host.machine().pause(LOOK).await;
    }
}

fn look(host: &Host, node: &Node, since: &mut Option<(Stand, u64)>) -> Result<(), Error> {
    let (order, journal) = (host.order()?, host.journal()?);
    let journal = journal.filter(|journal| order.as_ref().is_some_and(|order| order.id == journal.order));
    let installer = match &order {
        Some(order) => host.has_installer(&order.id)?,
        None => false,
    };
    let stand = (order.as_ref().map(|o| o.id.clone()), journal.as_ref().map(|j| j.state.name()), installer);
    let uptime = host.machine().now().milliseconds;
    let unchanged = match since {
        Some((before, since)) if *before == stand => uptime.saturating_sub(*since),
        _ => {
            *since = Some((stand, uptime));
            0
        }
    };
    let Some(order) = order else { return give(host, node) };
    let time = Duration::from_millis(unchanged);
    if let Some(chore) = chore(journal.as_ref(), installer, time) {
        return host.do_chore(&chore, &order, &POD);
    }
    let done = journal.as_ref().is_some_and(|journal| journal.state.is_final()) && !installer;
    if done && again(journal.as_ref()) && node.world().orders.len() < ORDERS {
        return if unchanged >= RETRY { give(host, node) } else { Ok(()) };
    }
    node.world().agent_is_done = done;
    Ok(())
}

fn again(journal: Option<&Journal>) -> bool {
    matches!(journal.map(|j| &j.state), Some(State::Refused { by: Refuser::Checks | Refuser::Agent, .. }))
}

fn give(host: &Host, node: &Node) -> Result<(), Error> {
    let now = host.machine().time_of_day();
    let manifest = audit_operator::manifest::digest(&host.facts(None)?.manifest);
    let order = {
        let mut world = node.world();
        let planned = &world.template.planned;
        if planned.from() != manifest {
            world.agent_is_done = true;
            return Ok(());
        }
        let order = world.template.order(&world.scenario.terms(), now);
        world.orders.push(order.clone());
        order
    };
    host.hand_over(&order, &POD)
}
