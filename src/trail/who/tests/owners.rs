//! From an object over its owners to the human or the machine at the root.

use super::*;

const CONTROLLERS: &str = "system:serviceaccount:kube-system:";

/// A controller's create.
fn by_controller(id: &str, controller: &str, minute: u32, object: Value) -> Value {
    let event = but(&json!({
        "auditID": id, "impersonatedUser": null,
        "user": {"username": format!("{CONTROLLERS}{controller}"), "groups": ["system:serviceaccounts"]},
    }));
    with(with(event, at(minute)), json!({"objectRef": object}))
}

/// A Deployment `web` of `foobar`, and all that follows from it, as a policy that keeps no bodies logs it.
fn deployment() -> Vec<Value> {
    let object = |resource: &str, name: Value| json!({"resource": resource, "apiGroup": "apps", "namespace": "default", "name": name});
    let human = but(&json!({"auditID": "deployment"}));
    let human = with(with(human, at(1)), json!({"objectRef": object("deployments", json!("web"))}));
    let replicas = object("replicasets", json!("web-5d4f8c7b9"));
    let binding = but(&json!({"auditID": "binding", "user": {"username": "system:kube-scheduler"},
        "impersonatedUser": null,
        "objectRef": {"name": "web-5d4f8c7b9-x7k2p", "subresource": "binding", "uid": "u"}}));
    vec![
        human,
        by_controller("replicaset", "deployment-controller", 2, replicas),
        by_controller("pod", "replicaset-controller", 3, json!({"resource": "pods", "namespace": "default"})),
        with(binding, at(4)),
    ]
}

const OF_DEPLOYMENT: &str = "pod/web-5d4f8c7b9-x7k2p";

#[track_caller]
fn check_chain(words: &str, events: &[Value], ids: &[&str]) -> Answer {
    let answer = ask(words, events);
    assert!(answer.unknown.is_none(), "{:?}", answer.unknown);
    assert_eq!(answer.chain.iter().map(|link| link.audit_id.as_str()).collect::<Vec<_>>(), ids);
    answer
}

#[test]
fn a_deployments_pod_leads_to_the_human_without_any_body() {
    let answer = check_chain(OF_DEPLOYMENT, &deployment(), &["pod", "replicaset", "deployment"]);
    let root = &answer.chain[2];
    assert_eq!((root.user.as_str(), root.impersonated_user.as_deref()), ("kubernetes-admin", Some("foobar")));
    let how: Vec<&str> = answer.chain.iter().map(|link| link.how.as_str()).collect();
    assert!(how[0].starts_with("the only create without a name by"), "{how:?}");
    assert!(how[1].contains("naming rule: a ReplicaSet's Pods"), "{how:?}");
    assert!(how[2].contains("naming rule: a Deployment's ReplicaSets"), "{how:?}");
}

#[test]
fn several_creates_of_one_controller_are_one_author() {
    let mut events = deployment();
    events.push(events[2].clone());
    events[4]["auditID"] = json!("second");
    events[4] = with(
        events[4].clone(),
        json!({"stageTimestamp": "2026-03-04T10:03:31.000000Z",
        "requestReceivedTimestamp": "2026-03-04T10:03:30.000000Z"}),
    );
    let answer = check_chain(OF_DEPLOYMENT, &events, &["second", "replicaset", "deployment"]);
    assert!(
        answer.chain[0].how.starts_with("one of 2 creates without a name, all by"),
        "{:?}",
        answer.chain[0]
    );
    assert_eq!(answer.alternatives.len(), 2);
}

#[test]
fn a_stranger_who_may_have_made_the_pod_leaves_it_open() {
    let stranger = with(but(&json!({"auditID": "stranger", "objectRef": {"name": null}})), at(3));
    let mut events = deployment();
    events.push(stranger.clone());
    let said = ["`kubernetes-admin` made an object without a name in that time too"];
    let answer = check_unknown(OF_DEPLOYMENT, &events, &said);
    assert_eq!(answer.unknown.unwrap().candidates.len(), 2);
    events[4] = with(stranger, at(5));
    check_chain(OF_DEPLOYMENT, &events, &["pod", "replicaset", "deployment"]);
}

#[test]
fn an_owner_made_anew_afterwards_is_another_one() {
    let mut events = deployment();
    let mut later = events[0].clone();
    later["auditID"] = json!("later");
    events.push(with(later, at(9)));
    check_chain(OF_DEPLOYMENT, &events, &["pod", "replicaset", "deployment"]);
}

#[test]
fn a_policy_that_drops_controllers_leaves_a_candidate_and_says_so() {
    let mut events = deployment();
    events.remove(2);
    let said =
        ["by its name it belongs to replicasets `web-5d4f8c7b9`", "its own creation is not in the logs"];
    check_unknown(OF_DEPLOYMENT, &events, &said);
    let mut rotated = deployment();
    rotated.remove(0);
    let answer = check_unknown_behind(OF_DEPLOYMENT, &rotated, "pod");
    assert_eq!(answer.chain.len(), 2);
}

#[test]
fn whoever_impersonates_a_controller_is_the_root() {
    let controller = json!({"username": format!("{CONTROLLERS}replicaset-controller"),
                            "groups": ["system:serviceaccounts"]});
    let answer = check_chain(POD, &[but(&json!({"impersonatedUser": controller}))], &["needle"]);
    assert_eq!(answer.chain[0].user, "kubernetes-admin");
}

#[test]
fn an_owner_in_a_body_counts_more_than_a_name() {
    let owner = json!([{"kind": "Deployment", "apiVersion": "apps/v1", "name": "other", "controller": true}]);
    let mut events = deployment();
    events[1]["requestObject"] = json!({"metadata": {"name": "web-5d4f8c7b9", "ownerReferences": owner}});
    let mut other = events[0].clone();
    other["auditID"] = json!("other");
    other["objectRef"]["name"] = json!("other");
    events.push(other);
    check_chain(OF_DEPLOYMENT, &events, &["pod", "replicaset", "other"]);
}

#[test]
fn a_live_object_pins_the_time_and_the_owner() {
    let question = || Question::parse(&[POD.to_owned()], None).unwrap();
    let log = [with(needle(), at(1)), with(but(&json!({"auditID": "second"})), at(5))];
    let log: String = log.iter().map(|event| format!("{event}\n")).collect();
    let live = Live {
        creation_timestamp: Some("2026-03-04T10:01:00Z".parse().unwrap()),
        uid: "u".to_owned(),
        ..Live::default()
    };
    let mut pinned = Chase::new(question(), None, true);
    assert!(matches!(pinned.next(), Need::Live(_)));
    pinned.live(Some(live));
    assert_eq!(chase(pinned, log.as_bytes()).chain[0].audit_id, "needle");
}
