//! The status of an AuditConfiguration, from its nodes' statuses. Pure.

use jiff::Timestamp;

use crate::api::AuditNode;
use crate::api::configuration::{AuditConfigurationStatus, NodeCounts};
use crate::condition::{self, Reason, Type};
use crate::rollout::{Hold, WaitingOn};

use super::decide::{Invalid, Judged};

/// The status of one judged configuration whose nodes are `nodes`.
pub(super) fn of(
    judged: &Judged<'_>,
    nodes: &[(&str, Option<&AuditNode>)],
    waiting_on: Option<&WaitingOn>,
    now: Timestamp,
) -> AuditConfigurationStatus {
    let old = judged.configuration.status.clone().unwrap_or_default();
    let revision = match &judged.rendered {
        Ok(rendered) => Some(rendered.revision().to_owned()),
        Err(_) => old.revision.clone(),
    };
    let broken: Vec<_> = nodes.iter().filter_map(|(name, node)| broken(name, *node)).collect();
    let updated =
        |node: &AuditNode| node.status.as_ref().is_some_and(|s| revision.is_some() && s.revision == revision);
    let is_ready = |node: &AuditNode| updated(node) && is_ready(node);
    let count = |test: &dyn Fn(&AuditNode) -> bool| {
        nodes.iter().filter(|(_, node)| node.is_some_and(test)).count() as u32
    };
    let counts = NodeCounts {
        total: nodes.len() as u32,
        updated: count(&updated),
        ready: count(&is_ready),
        failed: broken.len() as u32,
    };
    let silent: Vec<&str> = nodes
        .iter()
        .filter(|(_, node)| node.is_none_or(|n| n.status.is_none()))
        .map(|(name, _)| *name)
        .collect();
    let verdict = verdict(judged, &counts, &broken, &silent, waiting_on);
    let generation = judged.configuration.metadata.generation;
    let mut conditions = old.conditions;
    let (ready, progressing, degraded) = (verdict.ready, verdict.progressing, verdict.degraded);
    condition::set(&mut conditions, Type::Ready, ready.0, ready.1, ready.2, generation, now);
    condition::set(
        &mut conditions,
        Type::Progressing,
        progressing.0,
        progressing.1,
        progressing.2,
        generation,
        now,
    );
    condition::set(&mut conditions, Type::Degraded, degraded.0, degraded.1, degraded.2, generation, now);
    AuditConfigurationStatus {
        observed_generation: generation,
        revision,
        waiting_on: waiting_on.filter(|_| counts.ready < counts.total).map(ToString::to_string),
        nodes: Some(counts),
        conditions,
    }
}

struct Verdict {
    ready: (bool, Reason, String),
    progressing: (bool, Reason, String),
    degraded: (bool, Reason, String),
}

fn verdict(
    judged: &Judged<'_>,
    counts: &NodeCounts,
    broken: &[String],
    silent: &[&str],
    waiting_on: Option<&WaitingOn>,
) -> Verdict {
    let stopped = |reason: Reason, message: String| Verdict {
        ready: (false, reason, message.clone()),
        progressing: (false, Reason::Idle, String::new()),
        degraded: (true, reason, message),
    };
    if let Err(Invalid { reason, message }) = &judged.rendered {
        return stopped(*reason, message.clone());
    }
    let conflict = conflict_message(&judged.conflicts);
    if counts.total == 0 {
        return match conflict {
            Some(message) => stopped(Reason::Conflict, message),
            None => stopped(Reason::NoNodes, "no node matches `spec.nodeSelector`".to_owned()),
        };
    }
    let degraded = match conflict {
        _ if !broken.is_empty() => (true, Reason::NodeFailed, broken.join("\n")),
        Some(message) => (true, Reason::Conflict, message),
        None => (false, Reason::AsExpected, String::new()),
    };
    let progress = format!("{} of {} nodes run the revision and are healthy", counts.ready, counts.total);
    let reason = waiting_on.map_or(Reason::RollingOut, reason);
    let waits = waiting_on.map(|w| format!("; {w}")).unwrap_or_default();
    let (ready, progressing) = if counts.ready == counts.total {
        ((true, Reason::AllNodesReady, progress), (false, Reason::Idle, String::new()))
    } else if !broken.is_empty() {
        let message = format!("{progress}{waits}");
        ((false, Reason::NodeFailed, broken.join("\n")), (false, Reason::NodeFailed, message))
    } else if let Some(node) = silent.first() {
        let message =
            format!("{progress}; node `{node}` has no agent that reports (of {} such)", silent.len());
        ((false, Reason::WaitingForAgent, message.clone()), (true, Reason::WaitingForAgent, message))
    } else {
        let message = format!("{progress}{waits}");
        let goes_on_by_itself =
            !matches!(reason, Reason::Paused | Reason::ApprovalNeeded | Reason::NodeFailed);
        ((false, reason, message.clone()), (goes_on_by_itself, reason, message))
    };
    Verdict { ready, progressing, degraded }
}

/// The condition's reason for what the rollout waits for.
fn reason(waiting_on: &WaitingOn) -> Reason {
    match waiting_on {
        WaitingOn::Hold(Hold::Paused { .. }) => Reason::Paused,
        WaitingOn::Hold(Hold::Approval { .. } | Hold::Removal { .. }) => Reason::ApprovalNeeded,
        WaitingOn::NotReady { .. } => Reason::NodeNotReady,
        WaitingOn::Failed { .. } | WaitingOn::Refused { .. } | WaitingOn::Proof { .. } => Reason::NodeFailed,
        WaitingOn::Agent { .. } => Reason::WaitingForAgent,
        WaitingOn::Install { .. } | WaitingOn::Permitted { .. } | WaitingOn::Soak { .. } => {
            Reason::RollingOut
        }
    }
}

fn conflict_message(conflicts: &[(String, String)]) -> Option<String> {
    if conflicts.is_empty() {
        return None;
    }
    let nodes =
        conflicts.iter().map(|(node, owner)| format!("`{node}` belongs to AuditConfiguration `{owner}`"));
    Some(format!(
        "an older AuditConfiguration has nodes that this one selects too: {}; change one `spec.nodeSelector`",
        nodes.collect::<Vec<_>>().join(", ")
    ))
}

fn is_ready(node: &AuditNode) -> bool {
    node.status
        .as_ref()
        .and_then(|s| condition::get(&s.conditions, Type::Ready))
        .is_some_and(|c| c.status == "True")
}

/// What is wrong with a node that a person has to look at, if so.
fn broken(name: &str, node: Option<&AuditNode>) -> Option<String> {
    let conditions = &node?.status.as_ref()?.conditions;
    let broken = [Type::Ready, Type::Proven].into_iter().find_map(|type_| {
        condition::get(conditions, type_)
            .filter(|c| c.status != "True" && condition::needs_a_person(&c.reason))
    })?;
    Some(format!("node `{name}`: {}: {}", broken.reason, broken.message))
}
