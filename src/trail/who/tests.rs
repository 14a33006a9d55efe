//! The needle, and everything that looks like it.

use serde_json::{Value, json};

use super::*;
use crate::trail::read;

mod owners;

const POD: &str = "pod/my-suspicious-pod";

/// The creation everybody looks for: `foobar`, impersonated by `kubernetes-admin`, runs a pod in `default`.
fn needle() -> Value {
    json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "stage": "ResponseComplete",
        "auditID": "needle", "verb": "create",
        "requestURI": "/api/v1/namespaces/default/pods?fieldManager=kubectl-run",
        "user": {"username": "kubernetes-admin", "groups": ["kubeadm:cluster-admins", "system:authenticated"]},
        "impersonatedUser": {"username": "foobar", "groups": ["system:authenticated"]},
        "sourceIPs": ["192.168.56.1"],
        "userAgent": "kubectl/v1.33.2 (linux/amd64) kubernetes/a57b6f7",
        "objectRef": {
            "resource": "pods", "namespace": "default", "name": "my-suspicious-pod", "apiVersion": "v1",
        },
        "responseStatus": {"metadata": {}, "code": 201},
        "requestReceivedTimestamp": "2026-03-04T10:20:30.123400Z",
        "stageTimestamp": "2026-03-04T10:20:30.151000Z",
        "annotations": {"authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason":
                "RBAC: allowed by RoleBinding \"foobar-admin/default\" of ClusterRole \"admin\" to User \"foobar\""},
    })
}

/// The needle with some fields changed (JSON merge patch: null takes a field away).
fn but(changes: &Value) -> Value {
    fn merge(into: &mut Value, changes: &Value) {
        match (into, changes) {
            (Value::Object(into), Value::Object(changes)) => {
                for (key, change) in changes {
                    if change.is_null() {
                        into.remove(key);
                    } else {
                        merge(into.entry(key).or_insert(Value::Null), change);
                    }
                }
            }
            (into, change) => *into = change.clone(),
        }
    }
    let mut event = needle();
    merge(&mut event, changes);
    event
}

/// A minute of 2026-03-04, 10 o'clock.
fn at(minute: u32) -> Value {
    json!({"requestReceivedTimestamp": format!("2026-03-04T10:{minute:02}:00.000000Z"),
           "stageTimestamp": format!("2026-03-04T10:{minute:02}:00.020000Z")})
}

fn with(mut event: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("{fields}") };
    event.as_object_mut().unwrap().extend(fields);
    event
}

/// Asks as the command does: through the reader and its sieve.
fn ask_once(words: &str, events: &[Value]) -> Answer {
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let (object, namespace) = (&words[..1], words.get(1).map(String::as_str));
    let question = Question::parse(object, namespace).unwrap();
    let log: String = events.iter().map(|event| format!("{event}\n")).collect();
    chase(Chase::new(question, None, false), log.as_bytes())
}

/// Brings what a chase needs from one log.
fn chase(mut chase: Chase, log: &[u8]) -> Answer {
    loop {
        match chase.next() {
            Need::Nothing => return chase.answer(),
            Need::Live(_) => chase.live(None),
            Need::Events(query) => {
                let mut coverage = Coverage::default();
                let mut found = Vec::new();
                let mut sink = Matching { query: &query, found: &mut found };
                read::read("audit.log", log, &query.sieve(), &mut coverage, &mut sink);
                found.iter().for_each(|entry| chase.see(entry));
                chase.seen(coverage);
            }
        }
    }
}

struct Matching<'a> {
    query: &'a crate::trail::query::Query,
    found: &'a mut Vec<Entry>,
}

impl read::Sink for Matching<'_> {
    fn wants(&mut self, glance: &crate::trail::glance::Glance<'_>, _: usize) -> bool {
        self.query.matches(glance)
    }

    fn take(&mut self, entry: Entry, _: &[u8]) {
        self.found.push(entry);
    }
}

/// Asks, and makes sure that the order of the log does not matter.
#[track_caller]
fn ask(words: &str, events: &[Value]) -> Answer {
    let answer = ask_once(words, events);
    let reversed: Vec<Value> = events.iter().rev().cloned().collect();
    let again = ask_once(words, &reversed);
    let ids = |answer: &Answer| answer.chain.iter().map(|link| link.audit_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&answer), ids(&again), "the order of the log decides");
    assert_eq!(answer.unknown.is_some(), again.unknown.is_some(), "the order of the log decides");
    answer
}

/// The answer is the event with this audit ID.
#[track_caller]
fn check(words: &str, events: &[Value], audit_id: &str) -> Answer {
    let answer = ask(words, events);
    assert!(answer.unknown.is_none(), "{:?}", answer.unknown);
    let ids: Vec<&str> = answer.chain.iter().map(|link| link.audit_id.as_str()).collect();
    assert_eq!(ids, [audit_id]);
    answer
}

/// There is no answer, and all of these words are said about why.
#[track_caller]
fn check_unknown(words: &str, events: &[Value], said: &[&str]) -> Answer {
    let answer = ask(words, events);
    let Some(unknown) = &answer.unknown else { panic!("known: {:?}", answer.chain) };
    assert!(answer.chain.is_empty());
    let text = unknown.reasons.join("; ");
    for words in said {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    answer
}

/// Everything that resembles the needle; none of it made the pod.
fn decoys() -> Vec<(&'static str, Value)> {
    let meta = json!({"metadata": {"name": "my-suspicious-pod"}});
    let binding = json!({"auditID": "binding", "user": {"username": "system:kube-scheduler"},
        "impersonatedUser": null, "objectRef": {"subresource": "binding", "uid": "1111"},
        "requestURI": "/api/v1/namespaces/default/pods/my-suspicious-pod/binding"});
    vec![
        ("another namespace", but(&json!({"auditID": "x", "objectRef": {"namespace": "prod"}}))),
        ("another resource", but(&json!({"auditID": "x", "objectRef": {"resource": "services"}}))),
        ("another group", but(&json!({"auditID": "x", "objectRef": {"apiGroup": "metrics.k8s.io"}}))),
        ("a longer name", but(&json!({"auditID": "x", "objectRef": {"name": "my-suspicious-pod-2"}}))),
        (
            "dry run",
            but(&json!({"auditID": "x", "requestURI": "/api/v1/namespaces/default/pods?dryRun=All"})),
        ),
        ("forbidden", but(&json!({"auditID": "x", "responseStatus": {"code": 403}}))),
        ("already there", but(&json!({"auditID": "x", "responseStatus": {"code": 409}}))),
        ("invalid", but(&json!({"auditID": "x", "responseStatus": {"code": 422}}))),
        (
            "exec",
            but(
                &json!({"auditID": "x", "responseStatus": {"code": 101}, "objectRef": {"subresource": "exec"}}),
            ),
        ),
        (
            "eviction",
            but(&json!({"auditID": "x", "objectRef": {"subresource": "eviction", "uid": "forged"},
            "responseObject": {"metadata": {"uid": "of something else"}}})),
        ),
        ("binding", but(&binding)),
        (
            "received",
            but(&json!({"stage": "RequestReceived", "responseStatus": null, "impersonatedUser": null})),
        ),
        ("started", but(&json!({"auditID": "x", "stage": "ResponseStarted"}))),
        ("patched", but(&json!({"auditID": "x", "verb": "patch", "responseStatus": {"code": 200}}))),
        ("status", but(&json!({"auditID": "x", "verb": "patch", "objectRef": {"subresource": "status"}}))),
        ("read", but(&json!({"auditID": "x", "verb": "get", "responseStatus": {"code": 200}}))),
        ("deleted", but(&json!({"auditID": "x", "verb": "delete", "responseStatus": {"code": 200}}))),
        (
            "named in a body",
            but(&json!({"auditID": "x", "objectRef": {"name": "other"}, "requestObject": meta})),
        ),
        (
            "named in a URL",
            but(&json!({"auditID": "x", "verb": "get", "objectRef": null,
            "requestURI": "/healthz?x=my-suspicious-pod"})),
        ),
        ("no pod", but(&json!({"auditID": "x", "objectRef": null, "requestURI": "/my-suspicious-pod"}))),
        (
            "server's name for another",
            but(&json!({"auditID": "x", "objectRef": {"name": null},
            "requestObject": meta, "responseObject": {"metadata": {"name": "other"}}})),
        ),
    ]
}

#[test]
fn the_creation_is_told_with_all_it_says() {
    let answer = check(POD, &[needle()], "needle");
    let expected = json!({
        "object": {"resource": "pods", "apiGroup": "", "namespace": "default", "name": "my-suspicious-pod"},
        "user": "kubernetes-admin",
        "impersonatedUser": "foobar",
        "time": "2026-03-04T10:20:30.123400Z",
        "completed": "2026-03-04T10:20:30.151000Z",
        "sourceIPs": ["192.168.56.1"],
        "userAgent": "kubectl/v1.33.2 (linux/amd64) kubernetes/a57b6f7",
        "verb": "create",
        "code": 201,
        "reason": "RBAC: allowed by RoleBinding \"foobar-admin/default\" of ClusterRole \"admin\" to User \"foobar\"",
        "auditID": "needle",
        "source": "audit.log:1",
        "groups": ["system:authenticated"],
        "how": "the event of its creation names it",
    });
    assert_eq!(serde_json::to_value(&answer.chain[0]).unwrap(), expected);
    assert_eq!((answer.earlier, answer.notes.len()), (0, 0), "{:?}", answer.notes);
}

#[test]
fn no_decoy_is_taken_for_the_creation() {
    for (what, decoy) in decoys() {
        assert!(ask(POD, &[decoy]).unknown.is_some(), "{what}");
    }
}

#[test]
fn the_needle_is_found_among_all_decoys() {
    for minute in [1, 59] {
        let mut events: Vec<Value> = decoys().into_iter().map(|(_, decoy)| with(decoy, at(minute))).collect();
        events.insert(events.len() / 2, needle());
        let answer = check(POD, &events, "needle");
        assert_eq!(answer.earlier, 0);
    }
}

#[test]
fn apply_and_upsert_create_when_the_server_says_so() {
    let apply = but(&json!({"auditID": "apply", "verb": "patch"}));
    check(POD, &[apply], "apply");
    let upsert = but(&json!({"auditID": "put", "verb": "update"}));
    check(POD, &[upsert], "put");
}

#[test]
fn the_latest_creation_answers_and_earlier_ones_are_counted() {
    let events = [
        with(needle(), at(1)),
        with(but(&json!({"auditID": "second", "user": {"username": "eve"}})), at(5)),
        with(but(&json!({"auditID": "first-again"})), at(3)),
    ];
    assert_eq!(check(POD, &events, "second").earlier, 2);
}

#[test]
fn without_times_there_is_no_latest_creation() {
    let untimed = |user: &str| {
        but(&json!({"user": {"username": user}, "requestReceivedTimestamp": null, "stageTimestamp": null}))
    };
    check(POD, &[untimed("a")], "needle");
    check_unknown(POD, &[untimed("a"), untimed("b")], &["created more than once, and no event tells when"]);
    check(POD, &[untimed("a"), but(&json!({"auditID": "timed"}))], "timed");
}

#[test]
fn an_event_logged_twice_is_one_creation() {
    assert_eq!(check(POD, &[needle(), needle()], "needle").earlier, 0);
}

#[test]
fn a_shared_audit_id_hides_nobody() {
    let events = [with(needle(), at(1)), with(but(&json!({"user": {"username": "eve"}})), at(2))];
    let answer = check(POD, &events, "needle");
    assert_eq!((answer.chain[0].user.as_str(), answer.earlier), ("eve", 1));
}

#[test]
fn a_later_object_whose_creation_is_not_logged_is_not_answered_with_an_earlier_one() {
    let bound = |uid: &str, minute| {
        let binding = json!({"auditID": uid, "objectRef": {"subresource": "binding", "uid": uid}});
        with(but(&binding), at(minute))
    };
    let made = with(needle(), at(2));
    check(POD, &[bound("before", 1), made.clone(), bound("own", 3)], "needle");
    check_unknown(
        POD,
        &[made.clone(), bound("own", 3), bound("other", 9)],
        &["another UID was seen from 2026-03-04T10:09:00.000000Z on", "audit.log:"],
    );
    let with_uid = with(
        but(&json!({"level": "RequestResponse", "responseObject": {"metadata": {"uid": "own"}}})),
        at(2),
    );
    check_unknown(POD, &[with_uid, bound("other", 3)], &["an earlier object"]);
}

#[test]
fn nothing_found_says_what_was_read_and_where_else_to_look() {
    let events = [with(but(&json!({"objectRef": {"name": "a"}, "verb": "get"})), at(1))];
    check_unknown(
        POD,
        &events,
        &[
            "no event in the logs given is about pods `my-suspicious-pod` in `default`",
            "no create of any pods is in these logs: the policy may not log it, check with `kubectl audit evaluate`",
            "cover 2026-03-04T10:01:00.020000Z to 2026-03-04T10:01:00.020000Z (1 record in 1 log)",
        ],
    );
    let events = [with(but(&json!({"objectRef": {"name": "a"}})), at(1))];
    check_unknown(POD, &events, &["creates of pods are logged (1 here), so this one may be older"]);
    check_unknown(POD, &[], &["the logs given hold no event at all"]);
}

#[test]
fn what_else_was_seen_of_the_object_is_told() {
    let read = but(&json!({"verb": "get", "responseStatus": {"code": 200}}));
    let said = [
        "1 event is about pods `my-suspicious-pod`",
        "`get` of `pods` by `kubernetes-admin` as `foobar`, 200",
    ];
    check_unknown(POD, &[read], &said);
    let refused = but(&json!({"responseStatus": {"code": 403}}));
    check_unknown(POD, &[refused], &["1 create of it was refused", "403"]);
}

#[test]
fn a_create_without_a_clear_outcome_is_a_candidate() {
    for status in [
        json!({"responseStatus": {"code": 504}}),
        json!({"responseStatus": {"code": 500}, "stage": "Panic"}),
        json!({"responseStatus": {"code": 200, "message": "Connection closed early"}}),
    ] {
        let answer = check_unknown(POD, &[but(&status)], &["1 create of it has no clear outcome"]);
        let candidates = answer.unknown.unwrap().candidates;
        assert_eq!(candidates[0].link.audit_id, "needle");
    }
}

const GENERATED: &str = "pod/web-5d4f-x7k2p";

/// A create by the ReplicaSet controller, whose name the server makes up.
fn generated(changes: &Value) -> Value {
    let mut event = but(&json!({
        "auditID": "generated",
        "user": {"username": "system:serviceaccount:kube-system:replicaset-controller",
                 "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system"]},
        "impersonatedUser": null,
        "requestURI": "/api/v1/namespaces/default/pods",
        "objectRef": {"name": null},
    }));
    event.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    event
}

#[test]
fn a_name_the_server_made_up_is_known_from_its_response() {
    let owner = json!([{"kind": "Zone", "name": "z"}, {"kind": "ReplicaSet", "name": "web-5d4f", "controller": true}]);
    let event = generated(&json!({
        "level": "RequestResponse",
        "requestObject": {"metadata": {"generateName": "web-5d4f-"}},
        "responseObject": {"metadata": {"name": "web-5d4f-x7k2p", "uid": "u", "ownerReferences": owner}},
    }));
    let answer = check_unknown_behind(GENERATED, &[event], "generated");
    assert_eq!(answer.chain[0].object.name, "web-5d4f-x7k2p");
    assert!(answer.unknown.unwrap().reasons[1].contains("is about replicasets `web-5d4f` in `default`"));
}

/// The first link is this event, and what is behind it is not known.
#[track_caller]
fn check_unknown_behind(words: &str, events: &[Value], audit_id: &str) -> Answer {
    let answer = ask(words, events);
    assert_eq!(answer.chain[0].audit_id, audit_id);
    assert!(
        answer.unknown.as_ref().is_some_and(|unknown| unknown.reasons[0].contains("not who is behind it"))
    );
    answer
}

#[test]
fn a_fitting_generate_name_is_a_candidate_and_no_answer() {
    let create = |id: &str, minute, prefix: &str| {
        let body = json!({"auditID": id, "level": "Request", "requestObject": {"metadata": {"generateName": prefix}}});
        with(generated(&body), at(minute))
    };
    let binding = with(
        but(&json!({"auditID": "binding", "user": {"username": "system:kube-scheduler"},
            "objectRef": {"name": "web-5d4f-x7k2p", "subresource": "binding", "uid": "u"}})),
        at(5),
    );
    let events = [
        create("early", 1, "web-5d4f-"),
        create("near", 4, "web-5d4f-"),
        create("late", 6, "web-5d4f-"),
        create("other", 4, "db-"),
        binding,
    ];
    let said = [
        "`create` of `pods/binding`",
        "2 creates fit whose name the server made up",
        "only at level RequestResponse",
    ];
    let answer = check_unknown(GENERATED, &events, &said);
    let candidates = answer.unknown.unwrap().candidates;
    let ids: Vec<&str> = candidates.iter().map(|candidate| candidate.link.audit_id.as_str()).collect();
    assert_eq!(ids, ["near", "early"]);
}

#[test]
fn creates_that_tell_no_name_are_counted_where_they_can_be_it() {
    let said = [
        "1 create of pods there tell no name",
        "1 by `system:serviceaccount:kube-system:replicaset-controller`",
    ];
    check_unknown(GENERATED, &[generated(&json!({}))], &said);

    let answer = ask(POD, &[generated(&json!({}))]);
    let reasons = answer.unknown.unwrap().reasons.join("; ");
    assert!(!reasons.contains("tell no name"), "no server made up this name: {reasons}");
}

#[test]
fn programs_are_told_from_people_by_group_and_not_by_name() {
    let note = |user: Value, body: Value| {
        let mut event = but(&json!({"impersonatedUser": null, "responseObject": {"metadata": body}}));
        event["user"] = user;
        check(POD, &[event], "needle").notes.join("; ")
    };
    let account = "system:serviceaccount:kube-system:job-controller";
    let accounts = json!(["system:serviceaccounts"]);
    assert!(
        note(json!({"username": account}), json!({})).contains("is named like a service account but is not")
    );
    assert!(
        note(json!({"username": "system:serviceaccount:ci:robot", "groups": accounts}), json!({}))
            .ends_with("is a service account, so a program and not a person")
    );
    let mirror = json!({"ownerReferences": [{"kind": "Node", "name": "n1", "controller": true}]});
    assert!(
        note(json!({"username": "system:node:n1", "groups": ["system:nodes"]}), mirror)
            .contains("static Pod")
    );
    assert_eq!(note(json!({"username": "jane"}), json!({})), "");
}

#[test]
fn an_object_outside_namespaces_is_found_whatever_its_body_said() {
    let role = |namespace: &str| {
        but(&json!({"requestURI": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "objectRef": {"resource": "clusterroles", "namespace": namespace, "name": "r",
                          "apiGroup": "rbac.authorization.k8s.io"}}))
    };
    check("clusterrole/r", &[role("")], "needle");
    let answer = check("clusterrole/r ignored", &[role("fancy")], "needle");
    assert_eq!(answer.chain[0].object.namespace, "");
}

#[test]
fn a_custom_kind_of_two_groups_is_asked_back() {
    let gateway = |id: &str, group: &str| {
        but(&json!({"auditID": id, "objectRef": {"resource": "gateways", "name": "g", "apiGroup": group}}))
    };
    let events = [gateway("a", "networking.istio.io"), gateway("b", "gateway.networking.k8s.io")];
    check_unknown(
        "gateway/g",
        &events,
        &["ask for `gateways.gateway.networking.k8s.io` or `gateways.networking.istio.io`"],
    );
    check("gateway.networking.istio.io/g", &events, "a");
    let nonsense = but(&json!({"auditID": "c", "verb": "get", "responseStatus": {"code": 404},
        "objectRef": {"resource": "gateways", "name": "g", "apiGroup": "no.such.group"}}));
    check("gateway/g", &[events[0].clone(), nonsense], "a");
}

#[test]
fn a_name_that_json_escapes_is_found() {
    let log = needle().to_string().replace("my-suspicious-pod", r"a\u0026b");
    let event: Value = serde_json::from_str(&log).unwrap();
    check("pod/a&b", &[event], "needle");
}

#[test]
fn damage_is_told_with_the_answer() {
    let question = Question::parse(&[POD.to_owned()], None).unwrap();
    let log = format!("{}\n{{\"kind\":\n", needle());
    let answer = chase(Chase::new(question, None, false), log.as_bytes());
    assert_eq!(
        answer.notes,
        [
            "1 damaged place could not be read (the first: audit.log:2, cut short); a later creation may be among it"
        ]
    );
}

/// A lab's published log, an array of 511 events. Not part of the repository.
#[test]
#[expect(clippy::disallowed_methods, reason = "reads a published log, where there is one")]
fn who_made_the_pod_in_a_published_log() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/corpus/logs/rminchakov-ctrl__architecture-pro-propdevelopment__Task6__audit-extract.json"
    );
    let Ok(text) = std::fs::read(path) else { return };
    let answer = |object: &str, namespace: &str| {
        let question = Question::parse(&[object.to_owned()], Some(namespace)).unwrap();
        chase(Chase::new(question, None, false), &text)
    };
    for (object, namespace, user) in [
        ("pod/attacker-pod", "secure-ops", "minikube-user"),
        ("ns/secure-ops", "", "minikube-user"),
        ("cm/kube-root-ca.crt", "secure-ops", "system:serviceaccount:kube-system:root-ca-cert-publisher"),
        ("rolebinding/escalate-binding", "secure-ops", "minikube-user"),
        ("pod/kube-apiserver-minikube", "kube-system", "system:node:minikube"),
    ] {
        assert_eq!(answer(object, namespace).chain[0].user, user, "{object}");
    }
    assert!(answer("pod/attacker-pod", "default").unknown.is_some());
}
