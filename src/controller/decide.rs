//! What shall be: from a snapshot of the cluster to the objects that have to be written. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::SelectorExt;

use crate::api::rollout::removal_is_approved;
use crate::api::{
    self, AuditConfiguration, AuditConfigurationSpec, AuditConfigurationStatus, AuditNode, AuditNodeSpec,
    convert,
};
use crate::audit::{Finding, ServerVersion};
use crate::condition::{self, Reason, Type};
use crate::revision::Rendered;
use crate::rollout::{self, WaitingOn};

use super::observe::World;
use super::{facts, status};

/// Everything to write; what already is as it shall be is not in it.
#[derive(Debug, Default)]
pub(super) struct Desired {
    /// Bundles to make.
    pub(super) bundles: Vec<Rendered>,
    /// Names of bundle Secrets nobody needs any more.
    pub(super) surplus_bundles: Vec<String>,
    /// AuditNodes to apply: spec and owner only.
    pub(super) audit_nodes: Vec<AuditNode>,
    /// AuditNodes that have served their purpose.
    pub(super) finished_audit_nodes: Vec<String>,
    /// Statuses to apply, with the object they belong to.
    pub(super) statuses: Vec<(AuditConfiguration, AuditConfigurationStatus)>,
    /// Whether a permit could be given if the API servers were asked; then nothing else here is final.
    pub(super) ask: bool,
    /// When to decide again though nothing has changed.
    pub(super) look_again: Option<Duration>,
}

/// What the controller knows beside the stores.
pub(super) struct Known<'a> {
    pub(super) now: Timestamp,
    /// The node it runs on.
    pub(super) own_node: Option<&'a str>,
    /// How long it has seen each node's install in its present state.
    pub(super) ages: &'a BTreeMap<String, Duration>,
    /// What the API servers answered, if they were asked.
    pub(super) answers: Option<&'a BTreeMap<String, Result<(), String>>>,
}

/// One AuditConfiguration, judged.
pub(super) struct Judged<'a> {
    pub(super) configuration: &'a AuditConfiguration,
    pub(super) rendered: Result<Rendered, Invalid>,
    /// Names of the nodes it has.
    pub(super) nodes: Vec<String>,
    /// Nodes it selects but an older configuration has, with that one's name.
    pub(super) conflicts: Vec<(String, String)>,
}

/// Why a configuration cannot be rendered.
pub(super) struct Invalid {
    pub(super) reason: Reason,
    pub(super) message: String,
}

pub(super) fn decide(world: &World, known: &Known<'_>) -> Desired {
    let judged = judge(world);
    let mut audit_nodes = wanted_nodes(world, &judged);
    let decision = rollout::plan(&facts::of(world, &judged, &audit_nodes, known));
    for (name, node) in &mut audit_nodes {
        let old = audit_node(world, name);
        let permit = decision.permits.get(name).cloned().flatten();
        node.spec.permit = permit.map(|change| facts::permit(change, old));
        if let Some(waiting_on) = decision.waiting.get(name) {
            node.annotations_mut().insert(api::WAITING_ON_ANNOTATION.to_owned(), waiting_on.to_string());
        }
        // A permit is for the plan that was seen: it is written only if nothing was reported since.
        if let Some(old) = old
            && node.spec.permit.is_some()
            && node.spec.permit != old.spec.permit
        {
            node.metadata.resource_version = old.resource_version();
        }
    }
    Desired {
        bundles: missing_bundles(world, &judged),
        surplus_bundles: surplus_bundles(world, &judged),
        finished_audit_nodes: finished(world, &audit_nodes),
        statuses: statuses(world, &judged, &decision.waiting, known.now),
        audit_nodes: audit_nodes.into_values().filter(|node| differs(world, node)).collect(),
        ask: decision.ask,
        look_again: decision.look_again,
    }
}

/// Judges every configuration, the oldest first: it keeps the nodes that a newer one selects too.
fn judge(world: &World) -> Vec<Judged<'_>> {
    let server = oldest_server(world);
    let mut configurations: Vec<&AuditConfiguration> = world
        .configurations
        .iter()
        .map(AsRef::as_ref)
        .filter(|c| c.metadata.deletion_timestamp.is_none())
        .collect();
    configurations.sort_by_key(|c| (c.creation_timestamp().map(|t| t.0), c.name_any()));
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    configurations
        .into_iter()
        .map(|configuration| {
            let rendered = render(world, configuration, server);
            let (mut nodes, mut conflicts) = (Vec::new(), Vec::new());
            for node in selected(world, configuration) {
                match owners.get(&node) {
                    Some(owner) => conflicts.push((node, owner.clone())),
                    None => {
                        owners.insert(node.clone(), configuration.name_any());
                        nodes.push(node);
                    }
                }
            }
            Judged { configuration, rendered, nodes, conflicts }
        })
        .collect()
}

/// The oldest API server that agents report: a policy must suit every one of them. Before any is known, the newest,
/// because each agent judges again by its own server's version.
fn oldest_server(world: &World) -> ServerVersion {
    world
        .audit_nodes
        .iter()
        .filter_map(|n| n.status.as_ref()?.kube_api_server_version.as_ref()?.parse().ok())
        .min()
        .unwrap_or(ServerVersion::LATEST)
}

fn selected(world: &World, configuration: &AuditConfiguration) -> Vec<String> {
    let selector = convert::selector(&configuration.spec.node_selector);
    let mut names: Vec<String> = (world.nodes.iter())
        .filter(|node| selector.as_ref().is_some_and(|s| s.matches(node.labels())))
        .map(|node| node.name_any())
        .collect();
    names.sort();
    names
}

fn render(
    world: &World,
    configuration: &AuditConfiguration,
    server: ServerVersion,
) -> Result<Rendered, Invalid> {
    let invalid = |findings: &[Finding]| Invalid {
        reason: Reason::InvalidConfiguration,
        message: findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    };
    let text = config_map_text(world, configuration)?;
    convert::render(&configuration.spec, text.as_deref(), server)
        .map(|(rendered, _warnings)| rendered)
        .map_err(|findings| invalid(&findings))
}

/// The text that `spec.policy.configMapRef` names, if the spec has one.
fn config_map_text(world: &World, configuration: &AuditConfiguration) -> Result<Option<String>, Invalid> {
    let Some(reference) = &configuration.spec.policy.config_map_ref else { return Ok(None) };
    let missing = |message: String| Invalid { reason: Reason::ConfigMapMissing, message };
    let Some(config_maps) = world.config_maps.get(&reference.namespace) else {
        return Err(missing(format!(
            "spec.policy.configMapRef: the operator may not read ConfigMaps in namespace `{}`: name it in the chart's \
             value `policyConfigMapNamespaces`, or move the ConfigMap",
            reference.namespace
        )));
    };
    let Some(config_map) = config_maps.iter().find(|c| c.name_any() == reference.name) else {
        return Err(missing(format!(
            "spec.policy.configMapRef: there is no ConfigMap `{}` in namespace `{}`",
            reference.name, reference.namespace
        )));
    };
    let text = config_map.data.as_ref().and_then(|data| data.get(&reference.key));
    text.cloned().map(Some).ok_or_else(|| {
        let keys = config_map.data.iter().flatten().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>();
        missing(format!(
            "spec.policy.configMapRef: ConfigMap `{}/{}` has no key `{}` (it has: {})",
            reference.namespace,
            reference.name,
            reference.key,
            if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
        ))
    })
}

/// The AuditNode of every node that a configuration has, or had, as it shall be but for the permit.
fn wanted_nodes(world: &World, judged: &[Judged<'_>]) -> BTreeMap<String, AuditNode> {
    let mut wanted = BTreeMap::new();
    for Judged { configuration, rendered, nodes, .. } in judged {
        for name in nodes {
            let old = audit_node(world, name).map(|n| &n.spec);
            let spec = match rendered {
                Ok(rendered) => wanted_spec(world, configuration, rendered, old),
                // A configuration that cannot be rendered changes nothing on any node.
                Err(_) => match old {
                    Some(old) => {
                        AuditNodeSpec { configuration: Some(configuration.name_any()), ..old.clone() }
                    }
                    None => continue,
                },
            };
            wanted.insert(name.clone(), with_owner(world, name, spec));
        }
    }
    for old in &world.audit_nodes {
        // No configuration has it any more: its settings are taken out.
        wanted.entry(old.name_any()).or_insert_with(|| {
            let highly_available = is_highly_available(world);
            let spec =
                AuditNodeSpec { configuration: None, revision: None, highly_available, ..old.spec.clone() };
            with_owner(world, &old.name_any(), spec)
        });
    }
    wanted
}

fn wanted_spec(
    world: &World,
    configuration: &AuditConfiguration,
    rendered: &Rendered,
    old: Option<&AuditNodeSpec>,
) -> AuditNodeSpec {
    let AuditConfigurationSpec { rollout, proof, existing_flags, backups, .. } = &configuration.spec;
    let name = configuration.name_any();
    AuditNodeSpec {
        configuration: Some(name.clone()),
        revision: Some(rendered.revision().to_owned()),
        permit: old.and_then(|spec| spec.permit.clone()),
        existing_flags: *existing_flags,
        keep_backups: backups.keep,
        health_timeout_seconds: rollout.health_timeout_seconds().expect("a rendered spec has no findings"),
        stand_in: rollout.stand_in,
        highly_available: is_highly_available(world),
        proof_interval_seconds: proof.interval_seconds().expect("a rendered spec has no findings"),
        removal_held_by: (!removal_is_approved(rollout)).then_some(name),
    }
}

fn is_highly_available(world: &World) -> bool {
    facts::servers(world).nth(1).is_some()
}

/// An AuditNode that goes when its Node goes.
fn with_owner(world: &World, name: &str, spec: AuditNodeSpec) -> AuditNode {
    let mut node = AuditNode::new(name, spec);
    let (key, value) = api::MANAGED_BY_LABEL;
    node.labels_mut().insert(key.to_owned(), value.to_owned());
    node.metadata.owner_references = world.nodes.iter().find(|n| n.name_any() == name).map(|owner| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.to_owned(),
            uid: owner.uid().unwrap_or_default(),
            ..OwnerReference::default()
        }]
    });
    node
}

pub(super) fn audit_node<'a>(world: &'a World, name: &str) -> Option<&'a AuditNode> {
    world.audit_nodes.iter().map(AsRef::as_ref).find(|n| n.name_any() == name)
}

fn differs(world: &World, node: &AuditNode) -> bool {
    audit_node(world, &node.name_any()).is_none_or(|old| {
        let waiting_on = |node: &AuditNode| node.annotations().get(api::WAITING_ON_ANNOTATION).cloned();
        old.spec != node.spec
            || old.metadata.owner_references != node.metadata.owner_references
            || waiting_on(old) != waiting_on(node)
    })
}

/// AuditNodes that no configuration has and on whose node nothing of ours is left.
fn finished(world: &World, wanted: &BTreeMap<String, AuditNode>) -> Vec<String> {
    wanted
        .values()
        .filter(|node| node.spec.configuration.is_none())
        .filter_map(|node| audit_node(world, &node.name_any()))
        .filter(|old| {
            let (spec, generation) = (&old.spec, old.metadata.generation);
            let Some(status) = &old.status else { return spec.configuration.is_none() };
            spec.configuration.is_none()
                && status.observed_generation == generation
                && status.revision.is_none()
                && status.plan.is_none()
                && condition::get(&status.conditions, Type::Ready)
                    .is_some_and(|c| c.reason == Reason::NothingWanted.as_str())
        })
        .map(ResourceExt::name_any)
        .collect()
}

fn missing_bundles(world: &World, judged: &[Judged<'_>]) -> Vec<Rendered> {
    let mut missing: Vec<Rendered> = Vec::new();
    for rendered in judged.iter().filter_map(|j| j.rendered.as_ref().ok()) {
        let name = api::bundle_name(rendered.revision());
        let known = world.bundles.iter().any(|b| b.name_any() == name)
            || missing.iter().any(|m| m.revision() == rendered.revision());
        if !known {
            missing.push(rendered.clone());
        }
    }
    missing
}

/// Bundles beyond the history, the oldest first; one that a node has or wants is never surplus.
fn surplus_bundles(world: &World, judged: &[Judged<'_>]) -> Vec<String> {
    let used = |revision: &str| {
        judged.iter().any(|j| j.rendered.as_ref().is_ok_and(|r| r.revision() == revision))
            || world.audit_nodes.iter().any(|n| {
                n.spec.revision.as_deref() == Some(revision)
                    || n.status.as_ref().is_some_and(|s| s.revision.as_deref() == Some(revision))
            })
    };
    let mut unused: Vec<_> = world
        .bundles
        .iter()
        .filter(|b| b.labels().get(api::REVISION_LABEL).is_some_and(|revision| !used(revision)))
        .collect();
    unused.sort_by_key(|b| (b.creation_timestamp().map(|t| t.0), b.name_any()));
    let surplus = unused.len().saturating_sub(api::BUNDLE_HISTORY);
    unused[..surplus].iter().map(|b| b.name_any()).collect()
}

fn statuses(
    world: &World,
    judged: &[Judged<'_>],
    waiting: &BTreeMap<String, WaitingOn>,
    now: Timestamp,
) -> Vec<(AuditConfiguration, AuditConfigurationStatus)> {
    judged
        .iter()
        .filter_map(|judged| {
            let nodes: Vec<_> =
                judged.nodes.iter().map(|name| (name.as_str(), audit_node(world, name))).collect();
            let waiting_on = judged.nodes.iter().find_map(|name| waiting.get(name));
            let status = status::of(judged, &nodes, waiting_on, now);
            let same = judged.configuration.status.as_ref() == Some(&status);
            (!same).then(|| (judged.configuration.clone(), status))
        })
        .collect()
}

#[cfg(test)]
mod tests;
