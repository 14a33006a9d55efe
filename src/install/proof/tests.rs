//! What is chosen and predicted for whole policies, and what is read out of logs.

use super::*;
use crate::audit::{Profile, ServerVersion, ValidPolicy};

const ID: &str = "audit-operator-x-1";

/// A policy from its rules and, before them, whatever else it has.
fn policy(text: &str) -> Policy {
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}\n");
    let (policy, findings) = ValidPolicy::load(text.as_bytes(), ServerVersion::LATEST);
    policy.unwrap_or_else(|| panic!("{findings:?}")).policy().clone()
}

fn nobodies() -> Vec<Sender> {
    vec![Sender::Anonymous, Sender::Nobody]
}

#[track_caller]
fn check(policy: &Policy, senders: &[Sender], expected: &str) {
    let told = match choose(policy, senders) {
        Ok(chosen) => chosen.to_string(),
        Err(reason) => reason.to_string(),
    };
    assert_eq!(told, expected);
}

#[test]
fn every_profile_can_be_proved_without_credentials() {
    let configmap = "`GET /api/v1/namespaces/default/configmaps/audit-operator-proof` by system:anonymous, to be \
                     logged at Metadata with";
    for (profile, expected) in [
        (
            Profile::Metadata,
            "`GET /version` by system:anonymous, to be logged at Metadata with RequestReceived and \
             ResponseComplete by rules[0]"
                .to_owned(),
        ),
        (Profile::Recommended, format!("{configmap} ResponseComplete by rules[5]")),
        (Profile::WriteRequestBodies, format!("{configmap} ResponseComplete by rules[5]")),
        (Profile::Forensic, format!("{configmap} ResponseComplete by rules[3]")),
    ] {
        check(&profile.policy(), &nobodies(), &expected);
    }
}

#[test]
fn a_refused_login_proves_where_anonymous_requests_are_left_out() {
    check(
        &policy("rules: [{level: None, users: ['system:anonymous']}, {level: Request}]"),
        &nobodies(),
        "`GET /version` by a refused log-in, to be logged at Request with ResponseStarted by rules[1]",
    );
}

#[test]
fn a_service_account_is_asked_for_first_and_others_where_it_is_left_out() {
    let senders = [&[Sender::service_account("ops", "agent")][..], &nobodies()].concat();
    check(
        &policy("rules: [{level: Metadata, userGroups: ['system:serviceaccounts:ops']}]"),
        &senders,
        "`GET /version` by system:serviceaccount:ops:agent, to be logged at Metadata with RequestReceived and \
         ResponseComplete by rules[0]",
    );
    check(
        &policy("rules: [{level: None, userGroups: ['system:serviceaccounts']}, {level: Metadata}]"),
        &senders,
        "`GET /version` by system:anonymous, to be logged at Metadata with RequestReceived and ResponseComplete by \
         rules[1]",
    );
}

#[test]
fn a_request_is_made_up_for_a_rule_that_no_ordinary_one_matches() {
    for (rule, expected) in [
        ("namespaces: [prod]", "GET /api/v1/namespaces/prod/configmaps/audit-operator-proof"),
        ("namespaces: ['']", "GET /api/v1/configmaps/audit-operator-proof"),
        ("nonResourceURLs: [/metrics]", "GET /metrics"),
        ("nonResourceURLs: ['/logs*']", "GET /logsaudit-operator-proof"),
        ("nonResourceURLs: ['*'], verbs: [head]", "HEAD /audit-operator-proof"),
        ("verbs: [list]", "GET /api/v1/namespaces/default/configmaps?limit=1"),
        ("verbs: [delete]", "DELETE /api/v1/namespaces/default/configmaps/audit-operator-proof?dryRun=All"),
        (
            "verbs: [watch, patch]",
            "PATCH /api/v1/namespaces/default/configmaps/audit-operator-proof?dryRun=All",
        ),
        (
            "verbs: [update], resources: [{group: '', resources: ['pods/exec', 'pods/status']}]",
            "PUT /api/v1/namespaces/default/pods/audit-operator-proof/status?dryRun=All",
        ),
        (
            "verbs: [create], resources: [{group: rbac.authorization.k8s.io}]",
            "POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/configmaps?dryRun=All",
        ),
        (
            "verbs: [create], resources: [{group: '', resources: ['*/token']}]",
            "POST /api/v1/namespaces/default/configmaps/audit-operator-proof/token?dryRun=All",
        ),
        (
            "resources: [{group: apps, resources: [deployments], resourceNames: [web]}]",
            "GET /apis/apps/v1/namespaces/default/deployments/web",
        ),
    ] {
        let chosen = choose(&policy(&format!("rules: [{{level: Metadata, {rule}}}]")), &nobodies());
        assert_eq!(chosen.map(|chosen| chosen.request.to_string()), Ok(expected.to_owned()), "{rule}");
    }
}

#[test]
fn what_cannot_be_proved_is_said_with_the_rules_that_leave_it_out() {
    let remedy = "; a rule of level Metadata for `nonResourceURLs: [/version]` before all others would do";
    let none = "the policy logs no harmless request that could be sent: ";
    for (text, reasons) in [
        ("rules: [{level: None}]", "rules[0] has level None (`GET /version` and 2 more)"),
        (
            "omitStages: [ResponseComplete]\nrules: [{level: Metadata, omitStages: [RequestReceived, ResponseStarted]}]",
            "rules[0] or the policy omits the stages (`GET /version` and 2 more)",
        ),
        (
            "rules: [{level: None, nonResourceURLs: ['*']}, {level: Metadata, users: [bob]}]",
            "rules[0] has level None (`GET /version`); no rule matches \
             (`GET /api/v1/namespaces/default/configmaps/audit-operator-proof` and 1 more)",
        ),
        (
            "rules: [{level: Metadata, resources: [{group: '', resources: ['pods/exec', 'pods/log']}]}]",
            "no rule matches (`GET /version` and 2 more)",
        ),
        (
            "rules: [{level: Metadata, verbs: [delete], resources: [{group: '', resources: [pods], resourceNames: [a]}]}]",
            "no rule matches (`GET /version` and 2 more)",
        ),
        (
            "rules: [{level: Metadata, nonResourceURLs: ['/debug/*']}]",
            "no rule matches (`GET /version` and 2 more)",
        ),
    ] {
        check(&policy(text), &nobodies(), &format!("{none}{reasons}{remedy}"));
    }
}

#[test]
fn omitted_stages_are_not_waited_for() {
    let stages = |text: &str| choose(&policy(text), &nobodies()).unwrap().stages;
    assert_eq!(
        stages("omitStages: [RequestReceived]\nrules: [{level: Metadata}]"),
        [Stage::ResponseComplete]
    );
    assert_eq!(
        stages("rules: [{level: Metadata, omitStages: [ResponseComplete, Panic]}]"),
        [Stage::RequestReceived]
    );
    let refused = "omitStages: [RequestReceived, ResponseComplete]\nrules: [{level: Metadata}]";
    assert_eq!(stages(refused), [Stage::ResponseStarted], "a refused log-in still has its one stage");
}

#[test]
fn no_candidate_does_harm_for_a_cluster_admin() {
    let verbs = "get, list, watch, create, update, patch, delete, deletecollection, head, post, put";
    let everything = policy(&format!(
        "rules: [{{level: Metadata, verbs: [{verbs}]}}, {{level: Metadata, verbs: [{verbs}], resources: \
         [{{group: '*', resources: ['*', 'pods/exec', '*/scale', 'pods/*'], resourceNames: [a]}}, {{group: apps, \
         resources: [deployments, '*/proxy', '*/status']}}]}}, {{level: Metadata, nonResourceURLs: ['*', '/debug/*', \
         '/a*']}}]"
    ));
    let all: Vec<_> = candidate::candidates(&everything).collect();
    assert!(all.len() > 20, "{all:?}");
    for request in all {
        let writes = !matches!(request.method, "GET" | "HEAD");
        assert_eq!(writes, request.url.ends_with("?dryRun=All"), "{request}");
        assert!(matches!((request.method, request.body), ("PATCH", "{}") | (_, "")), "{request}");
        if matches!(request.method, "PUT" | "PATCH" | "DELETE") {
            assert!(request.url.contains("/audit-operator-proof"), "{request}");
        }
        for long in ["/exec", "/proxy", "watch", "/debug/"] {
            assert!(!request.url.contains(long), "{request}");
        }
    }
}

#[test]
fn an_id_is_short_plain_and_no_other_proofs() {
    assert_eq!(
        audit_id("20260102T030405.678901Z-01234567", 3),
        "audit-operator-20260102T030405.678901Z-01234567-3"
    );
    for seed in ["with \"quotes\"", &"x".repeat(100), ""] {
        let id = audit_id(seed, u32::MAX);
        assert!(id.len() <= ID_LIMIT && !id.contains(['"', ' ']), "{id}");
        assert_ne!(id, audit_id(&format!("{seed}y"), u32::MAX));
    }
}

fn json(id: &str, level: &str, stage: &str) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"{level}","auditID":"{id}","stage":"{stage}","requestURI":"/version","verb":"get","user":{{}},"responseStatus":{{"metadata":{{}},"code":403}}}}"#
    )
}

#[track_caller]
fn check_found(line: &str, expected: Option<(Option<Level>, Stage)>) {
    let around = format!("{}\n{line}\nhalf a li", json("other", "Metadata", "ResponseComplete"));
    let found = events(around.as_bytes(), ID);
    let expected: Vec<_> =
        expected.into_iter().map(|(level, stage)| Found { level, stage, code: Some(403) }).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_event_is_found_in_every_format() {
    let complete = json(ID, "Metadata", "ResponseComplete");
    let expected = Some((Some(Level::Metadata), Stage::ResponseComplete));
    check_found(&complete, expected);
    check_found(&format!("2026-01-02T03:04:05.678901234Z stdout F {complete}"), expected);
    let legacy = format!(
        r#"2026-01-02T03:04:05.678901Z AUDIT: id="{ID}" stage="ResponseStarted" ip="127.0.0.1" method="get" user="<none>" groups="<none>" as="<self>" asgroups="<lookup>" user-agent="a \"b\"" namespace="<none>" uri="/version" response="403""#
    );
    check_found(&legacy, Some((None, Stage::ResponseStarted)));
    check_found(&format!("2026-01-02T03:04:05.6Z stdout F {legacy}"), Some((None, Stage::ResponseStarted)));
}

#[test]
fn what_only_mentions_the_id_is_no_event() {
    check_found(&format!(r#"I0102 httplog.go:134] "HTTP" verb="GET" audit-ID="{ID}" resp=403"#), None);
    check_found(&json(&format!("{ID}1"), "Metadata", "ResponseComplete"), None);
    check_found(&json("other", "Metadata", "ResponseComplete").replace("/version", ID), None);
    let whole = json(ID, "Metadata", "ResponseComplete");
    check_found(&whole[..whole.len() - 1], None);
    check_found(&format!("2026-01-02T03:04:05.6Z stderr F {whole}"), None);
    check_found(
        &format!(r#"x AUDIT: id="other" stage="ResponseComplete" user-agent="{ID}" response="403""#),
        None,
    );
}

#[test]
fn events_are_held_against_the_prediction() {
    let chosen = choose(&Profile::Metadata.policy(), &nobodies()).unwrap();
    let at = |level, stage| Found { level, stage, code: None };
    let received = at(Some(Level::Metadata), Stage::RequestReceived);
    let complete = at(Some(Level::Metadata), Stage::ResponseComplete);
    assert_eq!(judge(&chosen, &[]), Verdict::Incomplete);
    assert_eq!(judge(&chosen, std::slice::from_ref(&received)), Verdict::Incomplete);
    assert_eq!(judge(&chosen, &[received.clone(), complete]), Verdict::Landed);
    let other_level = at(Some(Level::Request), Stage::ResponseComplete);
    assert_eq!(judge(&chosen, &[received.clone(), other_level]), Verdict::Differs);
    assert_eq!(judge(&chosen, &[received, at(None, Stage::Panic)]), Verdict::Differs);
    let legacy = [at(None, Stage::RequestReceived), at(None, Stage::ResponseComplete)];
    assert_eq!(judge(&chosen, &legacy), Verdict::Landed, "a legacy line has no level");
}

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    image: registry.k8s.io/kube-apiserver:v1.37.2
    command:
    - kube-apiserver
    - --audit-policy-file=/etc/kubernetes/audit/policy.yaml
    - FLAGS
    volumeMounts:
    - {mountPath: /var/log/, name: logs}
    - {mountPath: /var/log/inside, name: inside}
    - {mountPath: /part, name: part, subPath: a}
  volumes:
  - {name: logs, hostPath: {path: /srv/logs}}
  - {name: inside, emptyDir: {}}
  - {name: part, hostPath: {path: /part}}
";

fn manifest(flags: &[&str]) -> Manifest {
    let flags = flags.join("\n    - ");
    manifest::read(&MANIFEST.replace("FLAGS", if flags.is_empty() { "--v=2" } else { &flags })).unwrap()
}

#[track_caller]
fn check_place(path: &str, expected: Result<&str, &str>) {
    let backend = LogBackend::of(&manifest(&[&format!("--audit-log-path={path}")]));
    let place = backend.map(|backend| match backend.place {
        LogPlace::File(path) => path,
        LogPlace::Container { namespace, pod, container } => format!("{namespace}/{pod}/{container}"),
    });
    match (place, expected) {
        (Ok(place), Ok(expected)) => assert_eq!(place, expected),
        (Err(reason), Err(expected)) => assert!(reason.to_string().contains(expected), "{reason}"),
        (place, _) => panic!("{place:?}"),
    }
}

#[test]
fn the_log_is_where_the_nearest_mount_puts_it() {
    check_place("/var/log/audit/audit.log", Ok("/srv/logs/audit/audit.log"));
    check_place("-", Ok("kube-system/kube-apiserver/kube-apiserver"));
    check_place("/var/log/inside/audit.log", Err("gone with the container"));
    check_place("/part/audit.log", Err("without subPath"));
    check_place("/var/logs/audit.log", Err("`--audit-log-path=/var/logs/audit.log`"));
    check_place("", Err("no log backend"));
}

#[test]
fn without_a_policy_nothing_is_logged() {
    let manifest = manifest(&["--audit-policy-file=", "--audit-log-path=-"]);
    assert_eq!(LogBackend::of(&manifest), Err(Unprovable::NoPolicy));
}

#[test]
fn a_batch_is_waited_for() {
    let seconds = |flags: &[&str]| {
        let flags = [&["--audit-log-path=-"], flags].concat();
        LogBackend::of(&manifest(&flags)).unwrap().patience.as_secs()
    };
    let (size, wait) = ("--audit-log-batch-max-size=5", "--audit-log-batch-max-wait=1m30s");
    assert_eq!(seconds(&[]), 10);
    assert_eq!(seconds(&["--audit-log-mode=batch", size, wait]), 100);
    assert_eq!(seconds(&["--audit-log-mode=batch", wait]), 10, "a batch of one waits for nothing");
    assert_eq!(seconds(&["--audit-log-mode=blocking-strict", size, wait]), 10);
}

#[test]
fn anonymous_requests_are_tried_unless_the_server_refuses_them() {
    assert_eq!(Sender::without_credentials(&manifest(&[])), nobodies());
    assert_eq!(Sender::without_credentials(&manifest(&["--anonymous-auth=false"])), [Sender::Nobody]);
}

#[test]
fn what_is_missing_is_told_with_what_was_seen() {
    let chosen = choose(&Profile::Metadata.policy(), &nobodies()).unwrap();
    let told = |answer: Result<u16, &str>, growth: Growth, found: Vec<Found>| {
        let seen = Seen {
            answer: answer.map_err(str::to_owned),
            found,
            log: "/a.log".to_owned(),
            growth,
            waited: Duration::from_secs(10),
        };
        let text = Outcome::Missing { id: ID.to_owned(), chosen: chosen.clone(), seen }.to_string();
        let (_, seen) = text.split_once("did not land: ").unwrap();
        seen.to_owned()
    };
    let id = format!(" (Audit-ID {ID})");
    assert_eq!(
        told(Ok(403), Growth::Absent, vec![]),
        format!("the server answered 403, but in 10 s `/a.log` did not appear{id}")
    );
    assert_eq!(
        told(Ok(200), Growth::Bytes(12), vec![]),
        format!("the server answered 200, but in 10 s `/a.log` grew by 12 bytes without this event{id}")
    );
    assert_eq!(
        told(Err("connection refused"), Growth::Silent, vec![]),
        format!("the server did not answer (connection refused), and nothing was written to `/a.log`{id}")
    );
    let received = Found { level: Some(Level::Metadata), stage: Stage::RequestReceived, code: None };
    assert_eq!(
        told(Ok(200), Growth::Bytes(12), vec![received]),
        format!("the server answered 200, but in 10 s `/a.log` got RequestReceived at Metadata only{id}")
    );
}
