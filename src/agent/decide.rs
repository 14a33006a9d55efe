//! What the agent reports and orders, from what it sees. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::node::{Install, Permit, Plan, Proof, ProofResult, Rehearsal, Step};
use crate::api::{AuditNode, AuditNodeStatus};
use crate::condition::{self, Reason, Status, Type};
use crate::install::chore::{self, Chore};
use crate::install::journal::{self, Refuser, Rehearsed};
use crate::install::{self, Journal, NodeFacts, Order, Planned, State, Wanted};
use crate::revision::Rendered;

/// Pause before an install that was refused for a passing reason (a full disk, an edit at that moment) is tried again.
const RETRY_REFUSED: SignedDuration = SignedDuration::from_secs(60);

/// Pause before a change whose rehearsal failed is rehearsed again: it costs the node the memory of a second API server.
const RETRY_REHEARSAL: SignedDuration = SignedDuration::from_mins(10);

/// How soon a proof is made when there is reason to doubt.
const PROOF_SOON: Duration = Duration::from_secs(60);

/// Steps that are reported.
const STEPS: usize = 32;

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
    /// Whether the installer of `order` is in the manifests folder.
    pub(super) installer: bool,
    /// How long order, journal's state and installer have been as they are, on the agent's own clock.
    pub(super) unchanged: Duration,
    /// The last proof the agent made by itself.
    pub(super) proof: Option<journal::Proof>,
    pub(super) now: Timestamp,
}

/// What is to be done about the installer of the order on the disk.
pub(super) fn chore(situation: &Situation<'_>) -> Option<Chore> {
    let (_, journal) = last_install(situation)?;
    chore::chore(journal, situation.installer, situation.unchanged)
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
        proof: last_proof(situation),
        conditions: old.conditions,
    };
    set_proven(&mut status, situation);
    let planned = match planned(situation) {
        Ok(planned) => planned,
        Err((reason, message)) => {
            // What cannot be read now was read before: the version says which rules a policy must obey.
            status.kube_api_server_version = old.kube_api_server_version;
            status.revision = old.revision;
            status.api_server_address = old.api_server_address;
            set(&mut status, node, false, reason, message, situation.now);
            return (status, None);
        }
    };
    status.kube_api_server_version = planned.manifest.server_version_tag().map(str::to_owned);
    status.revision = planned.manifest.revision.clone();
    status.api_server_address = planned.manifest.server_url();
    if planned.changes() {
        status.plan = Some(plan_status(&planned));
    }
    let (ready, reason, message) = verdict(situation, &planned, last);
    set(&mut status, node, ready, reason, message, situation.now);
    let order = permitted(node, &planned)
        .filter(|permit| may_try(last, &planned, permit, situation.now))
        .map(|_| planned.order(&terms(node), situation.now));
    (status, order)
}

/// What the node's spec says about how a change is made.
fn terms(node: &AuditNode) -> install::plan::Terms {
    install::plan::Terms {
        keep_backups: node.spec.keep_backups,
        health_timeout_seconds: node.spec.health_timeout_seconds,
        rehearsal: node.spec.stand_in.into(),
        highly_available: node.spec.highly_available,
    }
}

/// The status when the checks before the order failed.
pub(super) fn preflight_failed(
    status: &mut AuditNodeStatus,
    node: &AuditNode,
    reason: Reason,
    error: &str,
    now: Timestamp,
) {
    let message = format!("{error}; nothing was written, and it is tried again");
    set(status, node, false, reason, message, now);
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

/// What the agent knows of its own proofs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proving {
    /// Since its last one, or since it was first allowed to make one.
    pub(super) elapsed: Duration,
    /// How much of the interval is let pass, 0.9 to 1.1: not every node at the same moment.
    pub(super) share: f64,
    /// Whether the log's file is gone or cannot grow.
    pub(super) trouble: bool,
}

/// Whether proofs are made at all: of settings that run, unless they are switched off.
pub(super) fn may_prove(node: &AuditNode, status: &AuditNodeStatus) -> bool {
    let ready = condition::get(&status.conditions, Type::Ready);
    node.spec.proof_interval_seconds > 0 && ready.is_some_and(|c| c.reason == Reason::Settled.as_str())
}

/// Whether the next proof is due. After one that failed it is made soon, so that the failure's end is seen; and when the log
/// looks as if events were being lost.
pub(super) fn proof_is_due(node: &AuditNode, status: &AuditNodeStatus, proving: &Proving) -> bool {
    let interval = Duration::from_secs(node.spec.proof_interval_seconds.into());
    let missing = status.proof.as_ref().is_some_and(|proof| proof.result == ProofResult::Missing);
    let interval = if missing || proving.trouble { interval.min(PROOF_SOON) } else { interval };
    may_prove(node, status) && proving.elapsed >= interval.mul_f64(proving.share)
}

/// The newest proof: the installer's on the live server, the agent's own, or the one reported before this agent started.
fn last_proof(situation: &Situation<'_>) -> Option<Proof> {
    let installers = last_install(situation).and_then(|(_, journal)| journal?.proof.as_ref());
    let installers = installers.filter(|proof| proof.stand_in.is_none());
    let reported = situation.node.status.as_ref().and_then(|status| status.proof.clone());
    let seen = [installers, situation.proof.as_ref()].into_iter().flatten().map(proof_status);
    // One from before the clock was set back would hide every other until then.
    let past = reported.into_iter().chain(seen).filter(|proof| proof.time.0 <= situation.now);
    // Of two in the same second the later one counts.
    past.max_by_key(|proof| proof.time.0)
}

/// The conditions that say something new, compared with what was reported before.
pub(super) fn news<'a>(
    before: Option<&'a AuditNodeStatus>,
    status: &'a AuditNodeStatus,
) -> impl Iterator<Item = &'a Condition> {
    let reason = move |type_| Some(&condition::get(&before?.conditions, type_)?.reason);
    [Type::Ready, Type::Proven].into_iter().filter_map(move |type_| {
        let new = condition::get(&status.conditions, type_)?;
        // A proof that is not made yet is no news.
        let told = new.reason != Reason::ProofPending.as_str() && reason(type_) != Some(&new.reason);
        told.then_some(new)
    })
}

fn proof_status(proof: &journal::Proof) -> Proof {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let landed = proof.result == journal::ProofResult::Landed;
    Proof {
        time: seconds(proof.time),
        audit_id: some(&proof.audit_id),
        request: some(&proof.request),
        level: proof.level,
        rule: proof.rule.and_then(|rule| u32::try_from(rule).ok()),
        latency_milliseconds: i64::try_from(proof.latency_milliseconds).ok().filter(|_| landed),
        result: match proof.result {
            journal::ProofResult::Landed => ProofResult::Landed,
            journal::ProofResult::Missing => ProofResult::Missing,
            journal::ProofResult::Unprovable => ProofResult::Unprovable,
        },
        message: proof.message.clone(),
    }
}

/// The condition Proven: of the settings that run, so only where some do.
fn set_proven(status: &mut AuditNodeStatus, situation: &Situation<'_>) {
    let node = situation.node;
    let (holds, reason, message) = match &status.proof {
        _ if node.spec.revision.is_none() => {
            status.proof = None;
            status.conditions.retain(|c| c.type_ != Type::Proven.as_str());
            return;
        }
        None => (Status::Unknown, Reason::ProofPending, "no proof was made yet".to_owned()),
        Some(proof) => {
            let request = proof.request.as_deref().unwrap_or_default();
            let message = &proof.message;
            match proof.result {
                ProofResult::Landed => {
                    (Status::True, Reason::ProofLanded, format!("the event of `{request}` is in the log"))
                }
                ProofResult::Missing => {
                    (Status::False, Reason::ProofMissing, format!("`{request}` left no event: {message}"))
                }
                ProofResult::Unprovable => (Status::Unknown, Reason::Unprovable, message.clone()),
            }
        }
    };
    let generation = node.metadata.generation;
    condition::set(&mut status.conditions, Type::Proven, holds, reason, message, generation, situation.now);
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
        rehearsal: match journal.map(|j| j.rehearsed).unwrap_or_default() {
            Rehearsed::No => Rehearsal::None,
            Rehearsed::StartOnly => Rehearsal::StartOnly,
            Rehearsed::Full => Rehearsal::Full,
        },
        steps: journal.map(steps).unwrap_or_default(),
        // It grows many times a second while the API server is away: said when it is certain.
        unanswered_milliseconds: journal
            .filter(|j| j.state.is_final())
            .and_then(|j| i64::try_from(j.unanswered_milliseconds).ok()),
    }
}

/// The last states of a journal.
fn steps(journal: &Journal) -> Vec<Step> {
    let surplus = journal.history.len().saturating_sub(STEPS);
    let step = |(time, line): &(Timestamp, String)| {
        let (state, message) = match line.split_once(": ") {
            Some((state, message)) => (state, Some(message.to_owned())),
            None => (line.as_str(), None),
        };
        Step { state: state.to_owned(), time: seconds(*time), message }
    };
    journal.history[surplus..].iter().map(step).collect()
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
            State::Refused { by, reason } if to == (order.from.clone(), order.to.clone()) => {
                let why = match by {
                    Refuser::Checks => Reason::InstallRefused,
                    Refuser::Rehearsal => Reason::RehearsalFailed,
                    Refuser::Agent => Reason::InstallerMissing,
                };
                return (false, why, format!("{reason}; the manifest was not touched"));
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
        State::Refused { by, .. } if same => {
            let pause = if by == Refuser::Rehearsal { RETRY_REHEARSAL } else { RETRY_REFUSED };
            let since = now.duration_since(journal.since);
            // A clock that was set back must not keep it waiting.
            since >= pause || since.is_negative() || permit.retry_of.as_ref() == Some(&order.id)
        }
        State::RolledBack { .. } | State::Failed { .. } if same => {
            permit.retry_of.as_ref() == Some(&order.id)
        }
        _ => journal.state.is_final(),
    }
}

#[cfg(test)]
mod tests;
