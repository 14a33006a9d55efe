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
        installer: true,
        unchanged: Duration::ZERO,
        proof: None,
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
        installer: true,
        unchanged: Duration::ZERO,
        proof: None,
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
    let refused = || State::Refused { by: Refuser::Checks, reason: "no space left on device".to_owned() };
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
        installer: true,
        unchanged: Duration::ZERO,
        proof: None,
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
        installer: true,
        unchanged: Duration::ZERO,
        proof: None,
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
        installer: true,
        unchanged: Duration::ZERO,
        proof: None,
        now: now(),
    });
    check_ready(&status, "False", Reason::BundleUnreadable, "Secret is missing");
    assert_eq!(status.kube_api_server_version.as_deref(), Some("v1.37.2"));
}

/// What is to be done about the installer while the journal of the order is in `state`.
#[track_caller]
fn check_chore(state: Option<State>, installer: bool, seconds: u64, chore: Option<Chore>) {
    let (node, order) = ordered();
    let situation = Situation {
        node: &node,
        bundle: &Bundle::Nothing,
        facts: Ok(facts(MANIFEST)),
        journal: state.map(|state| Journal::begin(&order.id, now()).record(state, now())),
        order: Some(order),
        installer,
        unchanged: Duration::from_secs(seconds),
        proof: None,
        now: now(),
    };
    assert_eq!(super::chore(&situation), chore);
}

#[test]
fn an_order_without_an_installer_gets_one_also_after_a_crash_in_between() {
    check_chore(None, false, 0, Some(Chore::AddInstaller));
    check_chore(Some(State::Ordered), false, 0, Some(Chore::AddInstaller));
    check_chore(Some(State::Ordered), true, 9999, None);
}

#[test]
fn an_installer_that_never_starts_is_withdrawn_and_one_that_stays_is_removed() {
    check_chore(None, true, 89, None);
    check_chore(None, true, 90, Some(Chore::Withdraw));
    check_chore(Some(State::Settled), true, 29, None);
    check_chore(Some(State::Settled), true, 30, Some(Chore::RemoveInstaller));
    check_chore(Some(State::Settled), false, 9999, None);
}

#[test]
fn who_refused_an_order_decides_the_reason_and_the_next_try() {
    let (node, order) = ordered();
    for (by, reason, pause) in [
        (Refuser::Rehearsal, Reason::RehearsalFailed, RETRY_REHEARSAL),
        (Refuser::Agent, Reason::InstallerMissing, RETRY_REFUSED),
    ] {
        let refused = || State::Refused { by, reason: "why".to_owned() };
        let (status, again) = look(&node, MANIFEST, Some((&order, refused(), now())));
        assert_eq!(again, None);
        check_ready(&status, "False", reason, "why");
        let just_before = now() - pause + SignedDuration::from_secs(1);
        assert_eq!(look(&node, MANIFEST, Some((&order, refused(), just_before))).1, None);
        assert!(look(&node, MANIFEST, Some((&order, refused(), now() - pause))).1.is_some());
        let clock_set_back = now() + SignedDuration::from_hours(1);
        assert!(look(&node, MANIFEST, Some((&order, refused(), clock_set_back))).1.is_some());
    }
}

#[test]
fn the_newest_proof_of_the_live_server_is_reported() {
    let (node, order) = ordered();
    let proof = |second: i64, stand_in, result| journal::Proof {
        stand_in,
        time: now() + SignedDuration::from_secs(second - 10),
        audit_id: "id".to_owned(),
        request: "POST /x".to_owned(),
        level: None,
        rule: None,
        latency_milliseconds: 3,
        result,
        message: "why".to_owned(),
    };
    let report = |installers: journal::Proof, own: Option<journal::Proof>| {
        let journal = Journal { proof: Some(installers), ..Journal::begin(&order.id, now()) };
        let (status, _) = decide(&Situation {
            node: &node,
            bundle: &Bundle::Rendered(Box::new(rendered())),
            facts: Ok(facts(&order.target)),
            journal: Some(journal.record(State::Settled, now())),
            order: Some(order.clone()),
            installer: true,
            unchanged: Duration::ZERO,
            proof: own,
            now: now(),
        });
        let condition = condition::get(&status.conditions, Type::Proven).expect("Proven").clone();
        (condition.status, condition.reason)
    };
    let is = |status: &str, reason: Reason| (status.to_owned(), reason.as_str().to_owned());
    let landed = journal::ProofResult::Landed;
    let missing = journal::ProofResult::Missing;
    assert_eq!(report(proof(0, None, landed), None), is("True", Reason::ProofLanded));
    assert_eq!(report(proof(0, Some(16443), landed), None), is("Unknown", Reason::ProofPending));
    let own = Some(proof(1, None, missing));
    assert_eq!(report(proof(0, None, landed), own.clone()), is("False", Reason::ProofMissing));
    assert_eq!(report(proof(2, None, landed), own.clone()), is("True", Reason::ProofLanded));
    // Seen before the clock was set back.
    assert_eq!(report(proof(3600, None, landed), own), is("False", Reason::ProofMissing));
}

fn proof_of(result: ProofResult) -> Proof {
    Proof {
        time: Time(now()),
        audit_id: None,
        request: Some("GET /x".to_owned()),
        level: None,
        rule: None,
        latency_milliseconds: None,
        result,
        message: "why".to_owned(),
    }
}

#[test]
fn what_was_reported_before_the_agent_started_counts_until_there_is_something_newer() {
    let (mut node, order) = ordered();
    let reported = proof_of(ProofResult::Missing);
    node.status = Some(AuditNodeStatus { proof: Some(reported), ..AuditNodeStatus::default() });
    let (status, _) = look(&node, &order.target, Some((&order, State::Settled, now())));
    let condition = condition::get(&status.conditions, Type::Proven).unwrap();
    assert_eq!(condition.reason, "ProofMissing", "a restart of the agent mends no log");
}

#[test]
fn a_proof_is_due_by_its_interval_and_soon_when_there_is_reason_to_doubt() {
    let settled = |result| {
        let mut status = AuditNodeStatus { proof: Some(proof_of(result)), ..AuditNodeStatus::default() };
        condition::set(&mut status.conditions, Type::Ready, true, Reason::Settled, "", None, now());
        status
    };
    let mut node = node(Some("r"), None);
    node.spec.proof_interval_seconds = 600;
    let due = |node: &AuditNode, status: &AuditNodeStatus, seconds, share, trouble| {
        proof_is_due(node, status, &Proving { elapsed: Duration::from_secs(seconds), share, trouble })
    };
    let landed = settled(ProofResult::Landed);
    assert!(!due(&node, &landed, 599, 1.0, false) && due(&node, &landed, 600, 1.0, false));
    assert!(due(&node, &landed, 540, 0.9, false), "not every node at the same moment");
    assert!(!due(&node, &landed, 59, 1.0, true) && due(&node, &landed, 60, 1.0, true));
    assert!(due(&node, &settled(ProofResult::Missing), 60, 1.0, false));
    assert!(!due(&node, &AuditNodeStatus::default(), 9999, 1.0, true), "nothing runs that could be proved");
    node.spec.proof_interval_seconds = 30;
    assert!(due(&node, &settled(ProofResult::Missing), 30, 1.0, true), "never later than asked for");
    node.spec.proof_interval_seconds = 0;
    assert!(!due(&node, &landed, 9999, 1.0, true), "switched off");
}

#[test]
fn a_condition_with_another_reason_is_news_but_for_a_proof_that_is_not_made_yet() {
    let status = |ready: Reason, proven: Reason| {
        let mut status = AuditNodeStatus::default();
        condition::set(&mut status.conditions, Type::Ready, true, ready, "", None, now());
        condition::set(&mut status.conditions, Type::Proven, true, proven, "", None, now());
        status
    };
    let told = |before: Option<&AuditNodeStatus>, after: &AuditNodeStatus| {
        news(before, after).map(|condition| condition.reason.clone()).collect::<Vec<_>>()
    };
    let (pending, landed) =
        (status(Reason::Settled, Reason::ProofPending), status(Reason::Settled, Reason::ProofLanded));
    let missing = status(Reason::Settled, Reason::ProofMissing);
    assert_eq!(told(None, &pending), ["Settled"]);
    assert_eq!(told(Some(&pending), &landed), ["ProofLanded"]);
    assert_eq!(told(Some(&landed), &missing), ["ProofMissing"]);
    assert!(told(Some(&missing), &missing).is_empty());
}
