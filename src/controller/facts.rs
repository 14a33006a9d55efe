//! What the rollout decides on, from the objects as they are seen. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::api::node::Permit;
use crate::api::rollout::{Approval, Rollout};
use crate::api::{self, AuditNode, AuditNodeStatus};
use crate::condition::{self, Reason, Type};
use crate::rollout::{Change, Facts, Hold, Install, NodeFacts, Readiness, Server};

use super::decide::{Judged, Known, audit_node};
use super::observe::World;

/// The facts for [`crate::rollout::plan`]. A node's plan counts only when it brings what is wanted now.
pub(super) fn of(
    world: &World,
    judged: &[Judged<'_>],
    wanted: &BTreeMap<String, AuditNode>,
    known: &Known<'_>,
) -> Facts {
    let nodes = wanted.iter().map(|(name, node)| {
        let seen = audit_node(world, name);
        let empty = AuditNodeStatus::default();
        let status = seen.and_then(|n| n.status.as_ref()).unwrap_or(&empty);
        let judged = judged.iter().find(|j| j.nodes.contains(name));
        let rollout = judged.map(|j| &j.configuration.spec.rollout);
        let plan = status.plan.as_ref().filter(|plan| plan.revision == node.spec.revision);
        let reported = status.observed_generation;
        NodeFacts {
            name: name.clone(),
            hold: hold(world, node, rollout),
            permit: node.spec.permit.clone().map(|p| Change { from: p.from, to: p.to }),
            acknowledged: reported.is_none() || reported == seen.and_then(|n| n.metadata.generation),
            plan: plan.map(|p| Change { from: p.from.clone(), to: p.to.clone() }),
            install: seen.map_or(Install::Idle, install),
            age: known.ages.get(name).copied().unwrap_or(Duration::MAX),
            soak: Duration::from_secs(
                rollout.map_or_else(Rollout::default, Clone::clone).min_ready_seconds.into(),
            ),
            trouble: condition::get(&status.conditions, Type::Ready)
                .filter(|c| c.status != "True" && condition::needs_a_person(&c.reason))
                .map(|c| c.reason.clone()),
            proof_missing: condition::get(&status.conditions, Type::Proven)
                .is_some_and(|c| c.reason == Reason::ProofMissing.as_str()),
        }
    });
    Facts {
        nodes: nodes.collect(),
        servers: servers(world).map(|node| server(node, known)).collect(),
        own_node: known.own_node.map(str::to_owned),
    }
}

/// What holds this node alone back.
fn hold(world: &World, node: &AuditNode, rollout: Option<&Rollout>) -> Option<Hold> {
    match (&node.spec.configuration, &node.spec.revision, rollout) {
        (Some(configuration), _, Some(rollout)) if rollout.paused => {
            Some(Hold::Paused { configuration: configuration.clone() })
        }
        (Some(configuration), Some(revision), Some(rollout)) => {
            let approved = rollout.approval == Approval::Automatic
                || rollout.approved_revision.as_ref() == Some(revision);
            (!approved)
                .then(|| Hold::Approval { configuration: configuration.clone(), revision: revision.clone() })
        }
        // No configuration has it any more. The one that had it may have approved since.
        _ => {
            let holder = node.spec.removal_held_by.clone()?;
            let now = world.configurations.iter().find(|c| c.name_any() == holder);
            let approved = now.is_some_and(|c| api::rollout::removal_is_approved(&c.spec.rollout));
            (!approved).then_some(Hold::Removal { configuration: holder })
        }
    }
}

/// Every control-plane node, and every node that has an AuditNode.
pub(super) fn servers(world: &World) -> impl Iterator<Item = &Node> {
    world.nodes.iter().map(AsRef::as_ref).filter(|node| {
        node.labels().contains_key(api::CONTROL_PLANE_LABEL) || audit_node(world, &node.name_any()).is_some()
    })
}

fn server(node: &Node, known: &Known<'_>) -> Server {
    let name = node.name_any();
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let is_up = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let readiness = match known.answers.map(|answers| answers.get(&name)) {
        _ if !is_up => Readiness::NotReady("its Kubernetes Node is not Ready".to_owned()),
        // One that came since the others were asked.
        None | Some(None) => Readiness::NotAsked,
        Some(Some(Ok(()))) => Readiness::Ready,
        Some(Some(Err(problem))) => Readiness::NotReady(problem.clone()),
    };
    Server { name, readiness }
}

fn install(node: &AuditNode) -> Install {
    let Some(install) = node.status.as_ref().and_then(|s| s.install.as_ref()) else { return Install::Idle };
    let change = || Change { from: install.from.clone(), to: install.to.clone() };
    match install.state.as_str() {
        "Settled" => Install::Settled { to: install.to.clone() },
        "Refused" => Install::Refused(change()),
        // A person has asked for another try.
        "RolledBack" | "Failed" if is_to_be_retried(node, install) => Install::Idle,
        "RolledBack" | "Failed" => Install::Failed { change: change(), id: install.id.clone() },
        _ => Install::UnderWay,
    }
}

fn is_to_be_retried(node: &AuditNode, install: &api::node::Install) -> bool {
    node.annotations().get(api::RETRY_ANNOTATION) == Some(&install.id)
}

/// The permit for a change, which says whether it is another try, asked for by a person, of an install that failed or was
/// refused.
pub(super) fn permit(change: Change, old: Option<&AuditNode>) -> Permit {
    let install = old.and_then(|old| Some((old, old.status.as_ref()?.install.as_ref()?)));
    let failed = install.filter(|(old, install)| {
        matches!(install.state.as_str(), "RolledBack" | "Failed" | "Refused")
            && is_to_be_retried(old, install)
    });
    Permit { from: change.from, to: change.to, retry_of: failed.map(|(_, install)| install.id.clone()) }
}
