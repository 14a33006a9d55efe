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
    let (broken, outdated): (Vec<_>, Vec<_>) = nodes
        .iter()
        .filter_map(|(name, node)| broken(name, *node))
        .partition(|b| b.is_of(revision.as_deref()));
    let broken: Vec<_> = broken.into_iter().map(|b| b.problem).collect();
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
        .chain(outdated.iter().map(|b| b.name))
        .collect();
    let verdict = verdict(judged, &counts, &broken, &silent, waiting_on);
    let generation = judged.configuration.metadata.generation;
    let mut conditions = old.conditions;
    for (type_, (holds, reason, message)) in verdict.conditions() {
        condition::set(&mut conditions, type_, holds, reason, message, generation, now);
    }
    AuditConfigurationStatus {
        observed_generation: generation,
        revision,
        waiting_on: waiting_on.filter(|_| counts.ready < counts.total).map(ToString::to_string),
        nodes: Some(counts),
        conditions,
    }
}

type Said = (bool, Reason, String);

struct Verdict {
    ready: Said,
    progressing: Said,
    degraded: Said,
}

impl Verdict {
    fn conditions(self) -> [(Type, Said); 4] {
        let stalled = if self.degraded.0 && !self.progressing.0 && !self.ready.0 {
            self.degraded.clone()
        } else {
            (false, Reason::AsExpected, String::new())
        };
        [
            (Type::Ready, self.ready),
            (Type::Progressing, self.progressing),
            (Type::Degraded, self.degraded),
            (Type::Stalled, stalled),
        ]
    }
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
            format!("{progress}; node `{node}` has no agent that reports on it (of {} such)", silent.len());
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

/// A node with something wrong that a person has to look at.
struct Broken<'a> {
    name: &'a str,
    problem: String,
    node: &'a AuditNode,
}

impl Broken<'_> {
    /// Whether that is about what is wanted now. What was said of the spec before is no failure of a newer one: whoever
    /// has just mended it would be told that it failed, before any node has seen it.
    fn is_of(&self, revision: Option<&str>) -> bool {
        let seen = self.node.status.as_ref().and_then(|status| status.observed_generation);
        self.node.spec.revision.as_deref() == revision && seen == self.node.metadata.generation
    }
}

fn broken<'a>(name: &'a str, node: Option<&'a AuditNode>) -> Option<Broken<'a>> {
    let node = node?;
    let conditions = &node.status.as_ref()?.conditions;
    let broken = [Type::Ready, Type::Proven].into_iter().find_map(|type_| {
        condition::get(conditions, type_)
            .filter(|c| c.status != "True" && condition::needs_a_person(&c.reason))
    })?;
    Some(Broken { name, problem: format!("node `{name}`: {}: {}", broken.reason, broken.message), node })
}
