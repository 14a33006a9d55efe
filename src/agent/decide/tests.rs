//! Tests of [`super::decide`], on the manifest that kubeadm writes.

use serde_json::json;

use super::*;
use crate::api::convert;
use crate::audit::ServerVersion;

const MANIFEST: &str = include_str!("../../../tests/data/manifests/kubeadm-1.37.2.yaml");

fn rendered() -> Rendered {
    let spec = serde_json::from_value(json!({"policy": {"profile": "Metadata"}})).unwrap();
    convert::render(&spec, None, ServerVersion::LATEST).unwrap().0
}

fn node(revision: Option<&str>, permit: Option<Permit>) -> AuditNode {
    let spec = json!({"configuration": "default", "revision": revision, "permit": permit});
    serde_json::from_value(json!({
        "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditNode",
        "metadata": {"name": "n1", "generation": 7}, "spec": spec,
    }))
    .unwrap()
}

fn facts(manifest: &str) -> NodeFacts {
    NodeFacts {
        manifest_path: "/etc/kubernetes/manifests/kube-apiserver.yaml".to_owned(),
        manifest: manifest.as_bytes().to_vec(),
        policy_file: None,
        settled: None,
    }
}

fn now() -> Timestamp {
    "2026-06-01T00:00:00.5Z".parse().unwrap()
}

/// What the agent says and orders when the node holds `manifest`, its AuditNode is `node`, and `last` was ordered.
fn look(
    node: &AuditNode,
    manifest: &str,
    last: Option<(&Order, State, Timestamp)>,
) -> (AuditNodeStatus, Option<Order>) {
    let bundle = match &node.spec.revision {
        Some(_) => Bundle::Rendered(Box::new(rendered())),
        None => Bundle::Nothing,
    };
    decide(&Situation {
        node,
        bundle: &bundle,
        facts: Ok(facts(manifest)),
        order: last.as_ref().map(|(order, ..)| (*order).clone()),
        journal: last.map(|(order, state, since)| Journal::begin(&order.id, since).record(state, since)),
        now: now(),
    })
}

fn permit(status: &AuditNodeStatus) -> Permit {
    let plan = status.plan.as_ref().expect("a plan is reported");
    Permit { from: plan.from.clone(), to: plan.to.clone(), retry_of: None }
}

#[track_caller]
fn check_ready(status: &AuditNodeStatus, ready: &str, reason: Reason, part: &str) {
    let condition = condition::get(&status.conditions, Type::Ready).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        (ready, reason.as_str()),
        "{condition:?}"
    );
    assert!(condition.message.contains(part), "{}", condition.message);
    assert_eq!(condition.observed_generation, Some(7));
}

/// A permitted node and its order.
fn ordered() -> (AuditNode, Order) {
    let revision = rendered().revision().to_owned();
    let (status, _) = look(&node(Some(&revision), None), MANIFEST, None);
    let node = node(Some(&revision), Some(permit(&status)));
    let (_, order) = look(&node, MANIFEST, None);
    (node, order.expect("what is permitted is ordered"))
}

#[test]
fn the_plan_is_reported_and_nothing_ordered_without_a_permit() {
    let revision = rendered().revision().to_owned();
    let (status, order) = look(&node(Some(&revision), None), MANIFEST, None);
    assert_eq!(order, None);
    check_ready(&status, "False", Reason::WaitingForPermit, &revision);
    let plan = status.plan.unwrap();
    assert!(plan.diff.contains("+    - --audit-policy-file=/etc/kubernetes/audit/policy-"), "{}", plan.diff);
    assert_eq!(plan.files, [format!("/etc/kubernetes/audit/policy-{revision}.yaml")]);
    assert_eq!(status.kube_api_server_version.as_deref(), Some("v1.37.2"));
    assert_eq!((status.revision, status.observed_generation), (None, Some(7)));
}

#[test]
fn only_the_permitted_pair_is_ordered() {
    let (_, order) = ordered();
    assert_eq!(order.from, crate::manifest::digest(MANIFEST.as_bytes()));
    assert_eq!(order.to, crate::manifest::digest(order.target.as_bytes()));
    assert_eq!(order.original.as_deref(), Some(MANIFEST));
    let other = Permit { from: order.from, to: "sha256:0".to_owned(), retry_of: None };
    let (_, order) = look(&node(Some(rendered().revision()), Some(other)), MANIFEST, None);
    assert_eq!(order, None);
}

#[test]
fn an_install_under_way_is_said_and_not_ordered_again() {
    let (node, order) = ordered();
    let (status, again) = look(&node, MANIFEST, Some((&order, State::Ordered, now())));
    assert_eq!(again, None);
    check_ready(&status, "False", Reason::Installing, "Ordered");
    let install = status.install.unwrap();
    assert_eq!((install.id, install.state.as_str()), (order.id.clone(), "Ordered"));
    assert!(install.backup.unwrap().contains(&order.id));
}

#[test]
fn settled_is_ready_with_nothing_planned() {
    let (node, order) = ordered();
    let situation = Situation {
        node: &node,
        bundle: &Bundle::Rendered(Box::new(rendered())),
        facts: Ok(NodeFacts { policy_file: Some(rendered().policy.into_bytes()), ..facts(&order.target) }),
        journal: Some(Journal::begin(&order.id, now()).record(State::Settled, now())),
        order: Some(order.clone()),
        now: now(),
    };
    let (status, again) = decide(&situation);
    assert_eq!((again, status.plan.clone()), (None, None));
    assert_eq!(status.revision.as_deref(), Some(rendered().revision()));
    check_ready(&status, "True", Reason::Settled, "runs");

    // A policy file that went missing is a plan of its own, which leaves the manifest as it is.
    let (status, _) = decide(&Situation { facts: Ok(facts(&order.target)), ..situation });
    let plan = status.plan.clone().unwrap();
    assert_eq!(plan.from, plan.to);
    check_ready(&status, "False", Reason::WaitingForPermit, "missing or altered");
}

#[test]
fn what_was_rolled_back_is_not_tried_again_until_it_is_another_change() {
    let (node, order) = ordered();
    let rolled_back = State::RolledBack { reason: "crash loop".to_owned() };
    let (status, again) = look(&node, MANIFEST, Some((&order, rolled_back.clone(), now())));
    assert_eq!(again, None);
    check_ready(&status, "False", Reason::RolledBack, "crash loop");

    let edited = MANIFEST.replace("cpu: 250m", "cpu: 251m");
    let (status, _) = look(&node, &edited, Some((&order, rolled_back.clone(), now())));
    check_ready(&status, "False", Reason::WaitingForPermit, "");
    let node = AuditNode {
        spec: crate::api::AuditNodeSpec { permit: Some(permit(&status)), ..node.spec.clone() },
        ..node
    };
    let (_, again) = look(&node, &edited, Some((&order, rolled_back, now())));
    assert!(again.is_some());
}

#[test]
fn what_was_refused_is_tried_again_after_a_while() {
    let (node, order) = ordered();
    let refused = || State::Refused { reason: "no space left on device".to_owned() };
    let (status, again) = look(&node, MANIFEST, Some((&order, refused(), now())));
    assert_eq!(again, None);
    check_ready(&status, "False", Reason::InstallRefused, "no space left");
    let (_, again) = look(&node, MANIFEST, Some((&order, refused(), now() - RETRY_REFUSED)));
    assert!(again.is_some());
}

#[test]
fn taking_the_settings_out_plans_the_original_bytes() {
    let (_, order) = ordered();
    let node = node(None, None);
    let situation = Situation {
        node: &node,
        bundle: &Bundle::Nothing,
        facts: Ok(NodeFacts { settled: Some(order.clone()), ..facts(&order.target) }),
        journal: None,
        order: None,
        now: now(),
    };
    let (status, _) = decide(&situation);
    assert_eq!(permit(&status).to, crate::manifest::digest(MANIFEST.as_bytes()));
    let (status, _) = look(&node, MANIFEST, None);
    check_ready(&status, "True", Reason::NothingWanted, "");
}

#[test]
fn a_manifest_with_anothers_audit_flags_is_refused_by_name() {
    let theirs = MANIFEST.replace(
        "    - --allow-privileged=true\n",
        "    - --allow-privileged=true\n    - --audit-log-maxage=7\n",
    );
    let (status, order) = look(&node(Some(rendered().revision()), None), &theirs, None);
    assert_eq!(order, None);
    check_ready(&status, "False", Reason::ManifestRefused, "--audit-log-maxage");
}

#[test]
fn a_node_too_old_for_the_policy_refuses_it() {
    let spec = json!({"policy": {"inline": {"rules": [{"level": "None", "resources": [{"group": "*"}]}]}}});
    let rendered =
        convert::render(&serde_json::from_value(spec).unwrap(), None, ServerVersion::LATEST).unwrap().0;
    let node = node(Some(rendered.revision()), None);
    let (status, order) = decide(&Situation {
        node: &node,
        bundle: &Bundle::Rendered(Box::new(rendered)),
        facts: Ok(facts(&MANIFEST.replace("v1.37.2", "v1.35.4"))),
        order: None,
        journal: None,
        now: now(),
    });
    assert_eq!(order, None);
    check_ready(&status, "False", Reason::PolicyRefused, "1.35");
}

#[test]
fn what_cannot_be_read_is_said_and_what_was_known_stays() {
    let mut node = node(Some("r"), None);
    node.status = Some(AuditNodeStatus {
        kube_api_server_version: Some("v1.37.2".to_owned()),
        ..AuditNodeStatus::default()
    });
    let (status, _) = decide(&Situation {
        node: &node,
        bundle: &Bundle::Unusable("Secret is missing".to_owned()),
        facts: Err("cannot read".to_owned()),
        order: None,
        journal: None,
        now: now(),
    });
    check_ready(&status, "False", Reason::BundleUnreadable, "Secret is missing");
    assert_eq!(status.kube_api_server_version.as_deref(), Some("v1.37.2"));
}
