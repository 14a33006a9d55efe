//! Tests of [`super::decide`]: worlds as JSON, and what is to be written.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use super::*;
use crate::api::node::AuditNodeStatus;
use k8s_openapi::api::core::v1::Node;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn configuration(name: &str, created: &str, spec: Value) -> Arc<AuditConfiguration> {
    object(json!({
        "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditConfiguration",
        "metadata": {"name": name, "creationTimestamp": created, "generation": 3}, "spec": spec,
    }))
}

fn node(name: &str, ready: &str) -> Arc<Node> {
    object(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
}

fn world(configurations: Vec<Arc<AuditConfiguration>>) -> World {
    World {
        configurations,
        audit_nodes: Vec::new(),
        nodes: vec![node("n1", "True"), node("n2", "True")],
        bundles: Vec::new(),
        config_maps: BTreeMap::from([("audit-operator".to_owned(), Vec::new())]),
    }
}

fn simple() -> World {
    world(vec![configuration("default", "2026-01-01T00:00:00Z", json!({"policy": {"profile": "Metadata"}}))])
}

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// Decides at a time when every install is old and every API server answers, but for those in `down`.
fn decide_with(world: &World, now: Timestamp, down: &[&str]) -> Desired {
    let answer = |node: &Node| match down.contains(&node.name_any().as_str()) {
        true => Err("/readyz: 500".to_owned()),
        false => Ok(()),
    };
    let answers = facts::servers(world).map(|node| (node.name_any(), answer(node))).collect();
    let known = Known { now, own_node: None, ages: &BTreeMap::new(), answers: None };
    let desired = super::decide(world, &known);
    if desired.ask { super::decide(world, &Known { answers: Some(&answers), ..known }) } else { desired }
}

fn decide(world: &World, now: Timestamp) -> Desired {
    decide_with(world, now, &[])
}

/// Applies what was decided, as an API server would, so that the next decision sees it.
fn apply(world: &mut World, desired: &Desired) {
    for node in &desired.audit_nodes {
        let old = audit_node(world, &node.name_any()).cloned();
        let mut new = node.clone();
        let generation = old.as_ref().and_then(|o| o.metadata.generation).unwrap_or(0);
        let changed = old.as_ref().is_none_or(|old| old.spec != new.spec);
        new.metadata.generation = Some(generation + i64::from(changed));
        new.status = old.and_then(|o| o.status);
        // An agent that has reported once sees each newer spec at once.
        if let Some(seen) = new.status.as_mut().and_then(|s| s.observed_generation.as_mut()) {
            *seen = generation + i64::from(changed);
        }
        world.audit_nodes.retain(|n| n.name_any() != new.name_any());
        world.audit_nodes.push(Arc::new(new));
    }
    for rendered in &desired.bundles {
        let name = api::bundle_name(rendered.revision());
        let labels = json!({api::REVISION_LABEL: rendered.revision()});
        world.bundles.push(object::<Secret>(json!({"metadata": {"name": name, "labels": labels}})));
    }
    for (configuration, status) in &desired.statuses {
        let mut new = configuration.clone();
        new.status = Some(status.clone());
        world.configurations.retain(|c| c.name_any() != new.name_any());
        world.configurations.push(Arc::new(new));
    }
}

#[test]
fn a_node_is_told_whether_it_is_the_only_one() {
    let told = |world: &World| {
        let desired = decide(world, now());
        desired.audit_nodes.iter().map(|node| node.spec.highly_available).collect::<Vec<_>>()
    };
    let mut world = simple();
    assert_eq!(told(&world), [true, true]);
    world.nodes.pop();
    assert_eq!(told(&world), [false]);
}

/// What a node's agent reports.
fn report(world: &mut World, name: &str, change: impl FnOnce(&AuditNodeSpec, &mut AuditNodeStatus)) {
    let mut node = audit_node(world, name).unwrap().clone();
    let mut status = node.status.clone().unwrap_or_default();
    status.observed_generation = node.metadata.generation;
    change(&node.spec, &mut status);
    node.status = Some(status);
    world.audit_nodes.retain(|n| n.name_any() != name);
    world.audit_nodes.push(Arc::new(node));
}

fn reports_plan(world: &mut World, name: &str) {
    report(world, name, |spec, status| {
        let (from, to) = ("old".to_owned(), format!("new-{}", spec.revision.as_deref().unwrap_or("none")));
        status.plan =
            Some(api::node::Plan { revision: spec.revision.clone(), from, to, ..api::node::Plan::default() });
    });
}

fn reports_settled(world: &mut World, name: &str) {
    report(world, name, |spec, status| {
        status.plan = None;
        status.revision = spec.revision.clone();
        let reason = if spec.revision.is_some() { Reason::Settled } else { Reason::NothingWanted };
        condition::set(&mut status.conditions, Type::Ready, true, reason, "", None, now());
    });
}

/// Decides and applies until nothing is left to write.
fn settle(world: &mut World) {
    for _ in 0..10 {
        let desired = decide(world, now());
        if desired.audit_nodes.is_empty() && desired.bundles.is_empty() && desired.statuses.is_empty() {
            return;
        }
        apply(world, &desired);
    }
    panic!("the controller never has enough");
}

fn permitted(world: &World) -> Vec<String> {
    let mut names: Vec<_> =
        world.audit_nodes.iter().filter(|n| n.spec.permit.is_some()).map(|n| n.name_any()).collect();
    names.sort();
    names
}

#[track_caller]
fn check_condition(world: &World, name: &str, type_: Type, status: &str, reason: Reason, part: &str) {
    let configuration = world.configurations.iter().find(|c| c.name_any() == name).unwrap();
    let conditions = &configuration.status.as_ref().unwrap().conditions;
    let condition = condition::get(conditions, type_).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        (status, reason.as_str()),
        "{condition:?}"
    );
    assert!(condition.message.contains(part), "{}", condition.message);
    assert_eq!(condition.observed_generation, Some(3));
}

#[test]
fn one_node_after_the_other_until_all_are_ready_and_then_nothing_is_written() {
    let mut world = simple();
    settle(&mut world);
    assert!(permitted(&world).is_empty(), "permitted before any plan was seen");
    check_condition(&world, "default", Type::Ready, "False", Reason::WaitingForAgent, "n1");
    reports_plan(&mut world, "n1");
    reports_plan(&mut world, "n2");
    settle(&mut world);
    assert_eq!(permitted(&world), ["n1"]);
    check_condition(&world, "default", Type::Progressing, "True", Reason::RollingOut, "`n1` is next");
    reports_settled(&mut world, "n1");
    settle(&mut world);
    assert_eq!(permitted(&world), ["n2"]);
    reports_settled(&mut world, "n2");
    settle(&mut world);
    assert!(permitted(&world).is_empty());
    check_condition(&world, "default", Type::Ready, "True", Reason::AllNodesReady, "2 of 2");
    check_condition(&world, "default", Type::Degraded, "False", Reason::AsExpected, "");
    let desired = decide(&world, "2026-07-01T00:00:00Z".parse().unwrap());
    assert!(desired.audit_nodes.is_empty() && desired.statuses.is_empty() && desired.bundles.is_empty());
}

#[test]
fn a_configuration_that_cannot_be_rendered_changes_nothing_on_any_node() {
    let mut world = simple();
    settle(&mut world);
    let before: Vec<_> = world.audit_nodes.iter().map(|n| n.spec.clone()).collect();
    let broken = json!({"policy": {"inline": {"rules": [{"level": "None", "nonResourceURLs": ["x"]}]}}});
    world.configurations = vec![configuration("default", "2026-01-01T00:00:00Z", broken)];
    settle(&mut world);
    check_condition(
        &world,
        "default",
        Type::Degraded,
        "True",
        Reason::InvalidConfiguration,
        "nonResourceURLs[0]",
    );
    let after: Vec<_> = world.audit_nodes.iter().map(|n| n.spec.clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn the_older_configuration_keeps_a_node_and_the_newer_says_whose_it_is() {
    let mut world = simple();
    let spec = json!({"policy": {"profile": "Forensic"}});
    world.configurations.push(configuration("another", "2026-02-01T00:00:00Z", spec));
    settle(&mut world);
    assert!(world.audit_nodes.iter().all(|n| n.spec.configuration.as_deref() == Some("default")));
    check_condition(
        &world,
        "another",
        Type::Degraded,
        "True",
        Reason::Conflict,
        "`n1` belongs to AuditConfiguration `default`",
    );
}

#[test]
fn a_missing_config_map_its_key_and_a_foreign_namespace_are_told_apart() {
    let refer = |namespace: &str| {
        let reference = json!({"namespace": namespace, "name": "policies", "key": "audit.yaml"});
        configuration("default", "2026-01-01T00:00:00Z", json!({"policy": {"configMapRef": reference}}))
    };
    let mut world = world(vec![refer("elsewhere")]);
    settle(&mut world);
    check_condition(
        &world,
        "default",
        Type::Ready,
        "False",
        Reason::ConfigMapMissing,
        "policyConfigMapNamespaces",
    );

    world.configurations = vec![refer("audit-operator")];
    settle(&mut world);
    check_condition(
        &world,
        "default",
        Type::Ready,
        "False",
        Reason::ConfigMapMissing,
        "there is no ConfigMap",
    );

    let config_map = |key: &str| {
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n";
        object::<ConfigMap>(json!({"metadata": {"name": "policies"}, "data": {key: policy}}))
    };
    world.config_maps.insert("audit-operator".to_owned(), vec![config_map("other")]);
    settle(&mut world);
    check_condition(&world, "default", Type::Ready, "False", Reason::ConfigMapMissing, "it has: `other`");

    world.config_maps.insert("audit-operator".to_owned(), vec![config_map("audit.yaml")]);
    settle(&mut world);
    check_condition(&world, "default", Type::Ready, "False", Reason::WaitingForAgent, "");
}

#[test]
fn a_policy_must_suit_the_oldest_api_server() {
    let star = json!({"policy": {"inline": {"rules": [{"level": "None", "resources": [{"group": "*"}]}]}}});
    let mut world = world(vec![configuration("default", "2026-01-01T00:00:00Z", star)]);
    settle(&mut world);
    report(&mut world, "n2", |_, status| status.kube_api_server_version = Some("v1.35.4".to_owned()));
    settle(&mut world);
    check_condition(&world, "default", Type::Ready, "False", Reason::InvalidConfiguration, "1.36");
}

#[test]
fn a_deleted_configuration_takes_its_settings_out_one_node_at_a_time_and_then_the_audit_nodes_go() {
    let mut world = simple();
    settle(&mut world);
    for name in ["n1", "n2"] {
        reports_settled(&mut world, name);
    }
    settle(&mut world);
    world.configurations.clear();
    settle(&mut world);
    assert!(world.audit_nodes.iter().all(|n| n.spec.revision.is_none() && n.spec.configuration.is_none()));
    assert!(decide(&world, now()).finished_audit_nodes.is_empty(), "gone before its settings were");
    reports_plan(&mut world, "n1");
    reports_plan(&mut world, "n2");
    settle(&mut world);
    assert_eq!(permitted(&world), ["n1"]);
    reports_settled(&mut world, "n1");
    settle(&mut world);
    assert_eq!(decide(&world, now()).finished_audit_nodes, ["n1"]);
}

#[test]
fn paused_permits_nothing() {
    let spec = json!({"policy": {"profile": "Metadata"}, "rollout": {"paused": true}});
    let mut world = world(vec![configuration("default", "2026-01-01T00:00:00Z", spec)]);
    settle(&mut world);
    reports_plan(&mut world, "n1");
    reports_plan(&mut world, "n2");
    settle(&mut world);
    assert!(permitted(&world).is_empty());
    check_condition(&world, "default", Type::Ready, "False", Reason::Paused, "0 of 2");
}

fn both(world: &mut World, reports: fn(&mut World, &str)) {
    for name in ["n1", "n2"] {
        reports(world, name);
    }
}

fn with_rollout(rollout: Value) -> World {
    let spec = json!({"policy": {"profile": "Metadata"}, "rollout": rollout});
    world(vec![configuration("default", "2026-01-01T00:00:00Z", spec)])
}

fn set_rollout(world: &mut World, rollout: Value) {
    let mut changed = (*world.configurations[0]).clone();
    changed.spec.rollout = serde_json::from_value(rollout).unwrap();
    world.configurations = vec![Arc::new(changed)];
}

fn waiting_on<'a>(world: &'a World, name: &str) -> &'a str {
    audit_node(world, name).unwrap().annotations().get(api::WAITING_ON_ANNOTATION).map_or("", String::as_str)
}

#[test]
fn under_manual_approval_a_node_says_which_revision_has_to_be_approved() {
    let mut world = with_rollout(json!({"approval": "Manual"}));
    settle(&mut world);
    reports_plan(&mut world, "n1");
    settle(&mut world);
    let revision = audit_node(&world, "n1").unwrap().spec.revision.clone().unwrap();
    assert!(permitted(&world).is_empty());
    let wanted = format!("`default` needs `spec.rollout.approvedRevision: {revision}`");
    assert!(waiting_on(&world, "n1").contains(&wanted), "{}", waiting_on(&world, "n1"));
}

#[test]
fn a_removal_under_manual_approval_waits_for_none() {
    let mut world = with_rollout(json!({"approval": "Manual", "approvedRevision": "another"}));
    settle(&mut world);
    both(&mut world, reports_plan);
    settle(&mut world);
    assert!(permitted(&world).is_empty());
    check_condition(
        &world,
        "default",
        Type::Progressing,
        "False",
        Reason::ApprovalNeeded,
        "approvedRevision",
    );
    let revision = audit_node(&world, "n1").unwrap().spec.revision.clone().unwrap();
    set_rollout(&mut world, json!({"approval": "Manual", "approvedRevision": revision}));
    settle(&mut world);
    assert_eq!(permitted(&world), ["n1"]);
    both(&mut world, reports_settled);
    settle(&mut world);

    let deleted = std::mem::take(&mut world.configurations);
    settle(&mut world);
    both(&mut world, reports_plan);
    settle(&mut world);
    assert!(permitted(&world).is_empty());
    let waits = waiting_on(&world, "n1");
    assert!(
        waits.contains("`spec.rollout.approvedRevision: none` in AuditConfiguration `default`"),
        "{waits}"
    );

    world.configurations = deleted;
    set_rollout(&mut world, json!({"approval": "Manual", "approvedRevision": "none"}));
    settle(&mut world);
    assert!(permitted(&world).is_empty(), "`none` approves no revision");
    world.configurations.clear();
    settle(&mut world);
    both(&mut world, reports_plan);
    settle(&mut world);
    assert_eq!(permitted(&world), ["n1"]);
}

#[test]
fn no_permit_is_given_while_an_api_server_that_nobody_selects_does_not_answer() {
    let mut world = simple();
    world.nodes.push(node("other", "True"));
    settle(&mut world);
    both(&mut world, reports_plan);
    let desired = decide_with(&world, now(), &["other"]);
    assert!(desired.audit_nodes.iter().all(|n| n.spec.permit.is_none()));
    assert!(desired.look_again.is_some());
    apply(&mut world, &desired);
    assert_eq!(waiting_on(&world, "n1"), "control-plane node `other` is not ready: /readyz: 500");
}

#[test]
fn a_permit_is_written_only_on_the_plan_that_was_seen() {
    let mut world = simple();
    settle(&mut world);
    reports_plan(&mut world, "n1");
    let mut seen = audit_node(&world, "n1").unwrap().clone();
    seen.metadata.resource_version = Some("7".to_owned());
    world.audit_nodes.retain(|n| n.name_any() != "n1");
    world.audit_nodes.push(Arc::new(seen));
    let desired = decide(&world, now());
    let written = desired.audit_nodes.iter().find(|n| n.name_any() == "n1").unwrap();
    assert!(written.spec.permit.is_some());
    assert_eq!(written.resource_version().as_deref(), Some("7"));
}

#[test]
fn an_event_that_does_not_land_degrades_the_configuration() {
    let mut world = simple();
    settle(&mut world);
    both(&mut world, reports_settled);
    report(&mut world, "n2", |_, status| {
        condition::set(
            &mut status.conditions,
            Type::Proven,
            false,
            Reason::ProofMissing,
            "disk",
            None,
            now(),
        );
    });
    settle(&mut world);
    check_condition(
        &world,
        "default",
        Type::Degraded,
        "True",
        Reason::NodeFailed,
        "`n2`: ProofMissing: disk",
    );
}

/// The install of the plan that n1 reports has come to this state, and its id is 42.
fn installed(world: &mut World, state: &str) {
    report(world, "n1", |_, status| {
        let plan = status.plan.clone().unwrap();
        let install = json!({
            "id": "42", "state": state, "from": plan.from, "to": plan.to, "since": "2026-01-01T00:00:00Z",
        });
        status.install = Some(serde_json::from_value(install).unwrap());
    });
    settle(world);
}

#[track_caller]
fn check_is_tried_again_when_named(world: &mut World) {
    let mut annotated = audit_node(world, "n1").unwrap().clone();
    annotated.annotations_mut().insert(api::RETRY_ANNOTATION.to_owned(), "42".to_owned());
    world.audit_nodes.retain(|n| n.name_any() != "n1");
    world.audit_nodes.push(Arc::new(annotated));
    let desired = decide(world, now());
    let permit = desired.audit_nodes.iter().find_map(|n| n.spec.permit.clone()).unwrap();
    assert_eq!(permit.retry_of.as_deref(), Some("42"));
}

#[test]
fn what_failed_is_tried_again_when_a_person_names_it() {
    let mut world = simple();
    settle(&mut world);
    reports_plan(&mut world, "n1");
    installed(&mut world, "RolledBack");
    assert!(permitted(&world).is_empty());
    check_is_tried_again_when_named(&mut world);
}

/// The rehearsal failed, and the permit stands: the agent tries the same again after ten minutes, or when it is told to.
#[test]
fn a_refused_change_is_tried_again_when_somebody_asks_for_it() {
    let mut world = simple();
    settle(&mut world);
    reports_plan(&mut world, "n1");
    settle(&mut world);
    installed(&mut world, "Refused");
    check_is_tried_again_when_named(&mut world);
}

#[test]
fn a_node_that_was_rolled_back_stops_the_fleet_and_is_named() {
    let mut world = simple();
    settle(&mut world);
    reports_plan(&mut world, "n1");
    reports_plan(&mut world, "n2");
    report(&mut world, "n1", |_, status| {
        let plan = status.plan.clone().unwrap();
        status.install = Some(
            serde_json::from_value(json!({
                "id": "1", "state": "RolledBack", "from": plan.from, "to": plan.to, "since": "2026-01-01T00:00:00Z",
            }))
            .unwrap(),
        );
        condition::set(
            &mut status.conditions,
            Type::Ready,
            false,
            Reason::RolledBack,
            "crash loop",
            None,
            now(),
        );
    });
    settle(&mut world);
    assert!(permitted(&world).is_empty());
    check_condition(
        &world,
        "default",
        Type::Degraded,
        "True",
        Reason::NodeFailed,
        "node `n1`: RolledBack: crash loop",
    );
    check_condition(&world, "default", Type::Stalled, "True", Reason::NodeFailed, "crash loop");
}

#[test]
fn a_failure_of_the_spec_before_is_none_of_the_newer_one() {
    let mut world = simple();
    settle(&mut world);
    let fails = |_: &AuditNodeSpec, status: &mut AuditNodeStatus| {
        let (type_, reason) = (Type::Ready, Reason::RolledBack);
        condition::set(&mut status.conditions, type_, false, reason, "crash loop", None, now());
    };
    report(&mut world, "n1", fails);
    reports_plan(&mut world, "n2");
    settle(&mut world);
    check_condition(&world, "default", Type::Stalled, "True", Reason::NodeFailed, "crash loop");
    let mended = json!({"policy": {"profile": "Forensic"}});
    world.configurations = vec![configuration("default", "2026-01-01T00:00:00Z", mended)];
    // First no node has been told, then none has looked.
    for _ in 0..2 {
        let desired = decide(&world, now());
        apply(&mut world, &desired);
        for type_ in [Type::Degraded, Type::Stalled] {
            check_condition(&world, "default", type_, "False", Reason::AsExpected, "");
        }
        check_condition(&world, "default", Type::Ready, "False", Reason::WaitingForAgent, "`n1`");
        let mut unseen = audit_node(&world, "n1").unwrap().clone();
        unseen.status.as_mut().unwrap().observed_generation = Some(0);
        world.audit_nodes.retain(|n| n.name_any() != "n1");
        world.audit_nodes.push(Arc::new(unseen));
    }
    report(&mut world, "n1", fails);
    settle(&mut world);
    check_condition(&world, "default", Type::Stalled, "True", Reason::NodeFailed, "crash loop");
}

#[test]
fn no_node_matches() {
    let selector = json!({"matchLabels": {"nobody": "has"}});
    let mut world = world(vec![configuration(
        "default",
        "2026-01-01T00:00:00Z",
        json!({"policy": {"profile": "Metadata"}, "nodeSelector": selector}),
    )]);
    settle(&mut world);
    check_condition(&world, "default", Type::Ready, "False", Reason::NoNodes, "nodeSelector");
}

#[test]
fn an_empty_selector_is_refused_rather_than_taken_for_every_node() {
    let spec = json!({"policy": {"profile": "Metadata"}, "nodeSelector": {}});
    let mut world = world(vec![configuration("default", "2026-01-01T00:00:00Z", spec)]);
    settle(&mut world);
    check_condition(
        &world,
        "default",
        Type::Ready,
        "False",
        Reason::InvalidConfiguration,
        "selects every node",
    );
    assert!(world.audit_nodes.is_empty());
}

#[test]
fn unused_bundles_are_kept_for_history_and_no_longer() {
    let mut world = simple();
    settle(&mut world);
    for age in 0..api::BUNDLE_HISTORY + 2 {
        let labels = json!({api::REVISION_LABEL: format!("r{age}")});
        let created = format!("2026-03-{:02}T00:00:00Z", age + 1);
        let metadata =
            json!({"name": format!("audit-revision-r{age}"), "labels": labels, "creationTimestamp": created});
        world.bundles.push(object::<Secret>(json!({"metadata": metadata})));
    }
    assert_eq!(decide(&world, now()).surplus_bundles, ["audit-revision-r0", "audit-revision-r1"]);
}
