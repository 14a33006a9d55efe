//! What the agent reports and orders, from what it sees. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::node::{Install, Permit, Plan, Rehearsal};
use crate::api::{AuditNode, AuditNodeStatus};
use crate::condition::{self, Reason, Type};
use crate::install::{self, Journal, NodeFacts, Order, Planned, State, Wanted};
use crate::revision::Rendered;

/// Pause before an install that was refused for a passing reason (a full disk, an edit at that moment) is tried again.
const RETRY_REFUSED: SignedDuration = SignedDuration::from_secs(60);

/// The wanted revision's bundle.
pub(super) enum Bundle {
    /// No audit settings are wanted.
    Nothing,
    /// These are.
    Rendered(Box<Rendered>),
    /// It cannot be read, in words.
    Unusable(String),
}

/// Everything the agent sees.
pub(super) struct Situation<'a> {
    pub(super) node: &'a AuditNode,
    pub(super) bundle: &'a Bundle,
    pub(super) facts: Result<NodeFacts, String>,
    pub(super) order: Option<Order>,
    pub(super) journal: Option<Journal>,
    pub(super) now: Timestamp,
}

/// The status to report, and the order to give once it passes the preflight.
pub(super) fn decide(situation: &Situation<'_>) -> (AuditNodeStatus, Option<Order>) {
    let node = situation.node;
    let last = last_install(situation);
    let old = node.status.clone().unwrap_or_default();
    let mut status = AuditNodeStatus {
        observed_generation: node.metadata.generation,
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        kube_api_server_version: None,
        revision: None,
        plan: None,
        install: last.map(|(order, journal)| install_status(order, journal)),
        api_server_address: None,
        proof: None,
        conditions: old.conditions,
    };
    let planned = match planned(situation) {
        Ok(planned) => planned,
        Err((reason, message)) => {
            // What cannot be read now was read before: the version says which rules a policy must obey.
            status.kube_api_server_version = old.kube_api_server_version;
            status.revision = old.revision;
            set(&mut status, node, false, reason, message, situation.now);
            return (status, None);
        }
    };
    status.kube_api_server_version = planned.manifest.server_version_tag().map(str::to_owned);
    status.revision = planned.manifest.revision.clone();
    if planned.changes() {
        status.plan = Some(plan_status(&planned));
    }
    let (ready, reason, message) = verdict(situation, &planned, last);
    set(&mut status, node, ready, reason, message, situation.now);
    let order = permitted(node, &planned)
        .filter(|permit| may_try(last, &planned, permit, situation.now))
        .map(|_| planned.order(node.spec.keep_backups, situation.now));
    (status, order)
}

/// The status when the checks before the order failed.
pub(super) fn preflight_failed(status: &mut AuditNodeStatus, node: &AuditNode, error: &str, now: Timestamp) {
    let message = format!("{error}; nothing was written, and it is tried again");
    set(status, node, false, Reason::PreflightFailed, message, now);
}

fn set(
    status: &mut AuditNodeStatus,
    node: &AuditNode,
    ready: bool,
    reason: Reason,
    message: impl Into<String>,
    now: Timestamp,
) {
    condition::set(
        &mut status.conditions,
        Type::Ready,
        ready,
        reason,
        message,
        node.metadata.generation,
        now,
    );
}

fn planned(situation: &Situation<'_>) -> Result<Planned, (Reason, String)> {
    let wanted = match situation.bundle {
        Bundle::Nothing => Wanted::Nothing,
        Bundle::Rendered(rendered) => Wanted::Audit(rendered.clone()),
        Bundle::Unusable(message) => return Err((Reason::BundleUnreadable, message.clone())),
    };
    let facts = situation.facts.as_ref().map_err(|message| (Reason::ManifestUnreadable, message.clone()))?;
    install::plan(facts, &wanted, situation.node.spec.existing_flags.into()).map_err(|error| match &error {
        install::plan::Error::Manifest(_) => (Reason::ManifestRefused, error.to_string()),
        install::plan::Error::Policy { .. } => (Reason::PolicyRefused, error.to_string()),
    })
}

/// The order on the disk with its journal; an order without one was just given.
fn last_install<'a>(situation: &'a Situation<'_>) -> Option<(&'a Order, Option<&'a Journal>)> {
    let order = situation.order.as_ref()?;
    Some((order, situation.journal.as_ref().filter(|j| j.order == order.id)))
}

fn install_status(order: &Order, journal: Option<&Journal>) -> Install {
    Install {
        id: order.id.clone(),
        state: journal.map_or("Ordered", |j| j.state.name()).to_owned(),
        from: order.from.clone(),
        to: order.to.clone(),
        since: seconds(journal.map_or(order.created, |j| j.since)),
        message: journal.map(Journal::message).unwrap_or_default(),
        backup: Some(order.backup()),
        rehearsal: Rehearsal::None,
        steps: Vec::new(),
        unanswered_milliseconds: None,
    }
}

/// Kubernetes' times have whole seconds; finer ones would differ from what is read back.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).expect("a second of a valid time stamp is valid"))
}

fn plan_status(planned: &Planned) -> Plan {
    Plan {
        revision: planned.revision().map(str::to_owned),
        from: planned.from(),
        to: planned.to(),
        diff: planned.diff().text,
        files: planned.files.iter().map(|f| f.path.clone()).collect(),
    }
}

fn verdict(
    situation: &Situation<'_>,
    planned: &Planned,
    last: Option<(&Order, Option<&Journal>)>,
) -> (bool, Reason, String) {
    if let Some((order, journal)) = last {
        let to = (planned.from(), planned.to());
        let Some(journal) = journal else {
            return (false, Reason::Installing, "the order is given".to_owned());
        };
        if !journal.state.is_final() {
            let message = format!("{}: {}", journal.state.name(), journal.message());
            return (false, Reason::Installing, message.trim_end_matches([':', ' ']).to_owned());
        }
        match &journal.state {
            // What failed stays said as long as it is what would be done again.
            State::RolledBack { reason } if to == (order.from.clone(), order.to.clone()) => {
                return (false, Reason::RolledBack, reason.clone());
            }
            State::Failed { reason } if to == (order.from.clone(), order.to.clone()) => {
                return (false, Reason::InstallFailed, reason.clone());
            }
            State::Refused { reason } if to == (order.from.clone(), order.to.clone()) => {
                return (false, Reason::InstallRefused, format!("{reason}; the manifest was not touched"));
            }
            _ => {}
        }
    }
    if planned.changes() {
        let files = planned.files.len();
        let message = match (planned.from() == planned.to(), planned.revision()) {
            (true, _) => {
                format!("{files} file(s) of the revision are missing or altered; they will be written again")
            }
            (false, Some(revision)) => format!("the plan for revision {revision} waits for its permit"),
            (false, None) => "the plan to take the audit settings out waits for its permit".to_owned(),
        };
        return (false, Reason::WaitingForPermit, message);
    }
    match &situation.node.spec.revision {
        Some(revision) => {
            let warnings: Vec<_> = planned.warnings.iter().map(ToString::to_string).collect();
            let message = format!("revision {revision} runs\n{}", warnings.join("\n"));
            (true, Reason::Settled, message.trim_end().to_owned())
        }
        None => (true, Reason::NothingWanted, "the manifest has no settings of audit-operator".to_owned()),
    }
}

/// The controller's permit, when it is for exactly this plan.
fn permitted<'a>(node: &'a AuditNode, planned: &Planned) -> Option<&'a Permit> {
    let is_this = |permit: &&Permit| permit.from == planned.from() && permit.to == planned.to();
    node.spec.permit.as_ref().filter(is_this).filter(|_| planned.changes())
}

/// Whether this plan may be tried (again) now.
fn may_try(
    last: Option<(&Order, Option<&Journal>)>,
    planned: &Planned,
    permit: &Permit,
    now: Timestamp,
) -> bool {
    let Some((order, Some(journal))) = last else { return last.is_none() };
    let same = (&order.from, &order.to) == (&planned.from(), &planned.to());
    match journal.state {
        State::Refused { .. } if same => now.duration_since(journal.since) >= RETRY_REFUSED,
        State::RolledBack { .. } | State::Failed { .. } if same => {
            permit.retry_of.as_ref() == Some(&order.id)
        }
        _ => journal.state.is_final(),
    }
}

#[cfg(test)]
mod tests;
