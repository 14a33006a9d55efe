//! The agent's part of an install, as src/agent has it: the order, the installer's manifest, and what is to be done about both.

use std::time::Duration;

use audit_operator::host::{Error, Host};
use audit_operator::install::journal::Refuser;
use audit_operator::install::pod::InstallerPod;
use audit_operator::install::{Journal, Order, State};
use jiff::Timestamp;

use crate::kubelet::NODE;
use crate::node::Node;
use crate::scenario::PORT;

const LOOK: Duration = Duration::from_secs(1);
const INSTALLER_STARTS: u64 = 90_000;
const INSTALLER_LEAVES: u64 = 30_000;
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
    let done = journal.as_ref().is_some_and(|journal| journal.state.is_final());
    match (done, installer) {
        (false, false) => {
            let _lock = host.lock()?;
            add_installer(host, &order)
        }
        (false, true) if journal.is_none() && unchanged >= INSTALLER_STARTS => withdraw(host, &order),
        (true, true) if unchanged >= INSTALLER_LEAVES => {
            let _lock = host.lock()?;
            host.remove_installer(&order.id)
        }
        (true, false) if again(journal.as_ref()) && node.world().orders.len() < ORDERS => {
            if unchanged >= RETRY { give(host, node) } else { Ok(()) }
        }
        (done, _) => {
            node.world().agent_is_done = done && !installer;
            Ok(())
        }
    }
}

fn again(journal: Option<&Journal>) -> bool {
    matches!(journal.map(|j| &j.state), Some(State::Refused { by: Refuser::Checks, .. }))
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
    let _lock = host.lock()?;
    host.preflight(&order)?;
    host.give(&order)?;
    add_installer(host, &order)
}

fn add_installer(host: &Host, order: &Order) -> Result<(), Error> {
    let pod = InstallerPod { node_name: NODE, image: "audit-operator:1", port: PORT, strange_folders: false };
    host.add_installer(order, &pod)
}

fn withdraw(host: &Host, order: &Order) -> Result<(), Error> {
    let _lock = host.lock()?;
    if host.journal()?.is_some_and(|journal| journal.order == order.id) {
        return Ok(());
    }
    let now: Timestamp = host.machine().time_of_day();
    let state = State::Refused { by: Refuser::Agent, reason: "the installer did not start".to_owned() };
    host.record(order, &Journal::begin(&order.id, now).record(state, now))?;
    host.remove_installer(&order.id)
}
