//! Tests of [`super::render`]: specs as people write them, and every finding at the field it belongs to.

use serde_json::{Value, json};

use super::*;

fn spec(value: Value) -> AuditConfigurationSpec {
    serde_json::from_value(value).unwrap()
}

fn rendered(value: Value) -> Rendered {
    render(&spec(value), None, ServerVersion::LATEST).unwrap().0
}

/// The findings' codes and paths, errors only.
#[track_caller]
fn check_refused(value: Value, server: &str, expected: &[(&str, &str)]) {
    let findings = render(&spec(value), None, server.parse().unwrap()).expect_err("should have been refused");
    let found: Vec<_> = findings.iter().filter(|f| f.is_error()).map(|f| (f.code, f.path.as_str())).collect();
    assert_eq!(found, expected);
}

fn flag<'a>(rendered: &'a Rendered, name: &str) -> Option<&'a str> {
    rendered.settings.flags.iter().find(|f| f.name == name).map(|f| f.value.as_str())
}

#[test]
fn the_articles_settings_become_its_flags_and_mounts_and_nothing_else() {
    let rendered = rendered(json!({
        "policy": {"inline": {"rules": [{"level": "Metadata"}]}, "path": "/etc/kubernetes/audit-policy.yaml"},
        "log": {"path": "/var/log/kube-apiserver-audit/audit.log", "maxAge": 1, "maxBackups": 2, "maxSize": 2},
    }));
    let flags: Vec<_> = rendered.settings.flags.iter().map(|f| format!("--{}={}", f.name, f.value)).collect();
    assert_eq!(
        flags,
        [
            "--audit-log-maxage=1",
            "--audit-log-maxbackup=2",
            "--audit-log-maxsize=2",
            "--audit-log-path=/var/log/kube-apiserver-audit/audit.log",
            "--audit-policy-file=/etc/kubernetes/audit-policy.yaml",
        ]
    );
    let [log, policy] = rendered.settings.mounts.as_slice() else { panic!("two mounts are wanted") };
    assert_eq!((log.name.as_str(), log.host_path.as_str()), ("audit-log", "/var/log/kube-apiserver-audit"));
    assert_eq!((log.path_type, log.read_only), (PathType::DirectoryOrCreate, false));
    assert_eq!(
        (policy.name.as_str(), policy.host_path.as_str()),
        ("audit-policy", "/etc/kubernetes/audit-policy.yaml")
    );
    assert_eq!((policy.path_type, policy.read_only), (PathType::File, true));
    assert!(rendered.is_genuine());
}

#[test]
fn every_log_field_becomes_its_flag() {
    let rendered = rendered(json!({
        "policy": {"profile": "Metadata"},
        "log": {
            "compress": true, "format": "legacy", "mode": "batch",
            "batch": {
                "bufferSize": 1, "maxSize": 2, "maxWait": "1m30s", "throttleEnable": true, "throttleQPS": 3,
                "throttleBurst": 4,
            },
            "truncate": {"enabled": true, "maxBatchSize": 6, "maxEventSize": 5},
        },
    }));
    let expected = [
        ("audit-log-compress", "true"),
        ("audit-log-format", "legacy"),
        ("audit-log-mode", "batch"),
        ("audit-log-batch-buffer-size", "1"),
        ("audit-log-batch-max-size", "2"),
        ("audit-log-batch-max-wait", "1m30s"),
        ("audit-log-batch-throttle-enable", "true"),
        ("audit-log-batch-throttle-qps", "3"),
        ("audit-log-batch-throttle-burst", "4"),
        ("audit-log-truncate-enabled", "true"),
        ("audit-log-truncate-max-batch-size", "6"),
        ("audit-log-truncate-max-event-size", "5"),
        ("audit-log-maxage", "30"),
        ("audit-log-maxbackup", "10"),
        ("audit-log-maxsize", "100"),
    ];
    for (name, value) in expected {
        assert_eq!(flag(&rendered, name), Some(value), "{name}");
    }
    // These, the path and the policy file: no flag without a field.
    assert_eq!(rendered.settings.flags.len(), expected.len() + 2);
}

#[test]
fn standard_output_needs_no_mount() {
    let rendered = rendered(json!({"policy": {"profile": "Metadata"}, "log": {"path": "-"}}));
    assert_eq!(flag(&rendered, "audit-log-path"), Some("-"));
    assert_eq!(rendered.settings.mounts.len(), 1);
    assert!(rendered.is_genuine());
}

#[test]
fn rules_go_around_the_policy_in_order() {
    let rule = |user: &str| json!({"level": "None", "users": [user]});
    let rendered = rendered(json!({"policy": {
        "inline": {"rules": [rule("b")]}, "prepend": [rule("a")], "append": [rule("c")],
    }}));
    let places: Vec<_> = ["\"a\"", "\"b\"", "\"c\""].map(|user| rendered.policy.find(user)).to_vec();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{}", rendered.policy);
}

#[test]
fn exactly_one_source_is_needed() {
    check_refused(json!({"policy": {}}), "1.37", &[("policy-source", "spec.policy")]);
    let two = json!({"policy": {"profile": "Metadata", "inline": {"rules": [{"level": "None"}]}}});
    check_refused(two, "1.37", &[("policy-source", "spec.policy")]);
}

#[test]
fn all_findings_come_at_once_each_at_its_own_field() {
    let bad = json!({"level": "None", "nonResourceURLs": ["nope"]});
    check_refused(
        json!({
            "policy": {"inline": {"rules": [{"level": "None"}, bad]}, "prepend": [bad], "append": [bad]},
            "log": {"path": "/etc/kubernetes/manifests/audit.log", "maxSize": 0},
        }),
        "1.37",
        &[
            ("url-without-slash", "spec.policy.prepend[0].nonResourceURLs[0]"),
            ("url-without-slash", "spec.policy.inline.rules[1].nonResourceURLs[0]"),
            ("url-without-slash", "spec.policy.append[0].nonResourceURLs[0]"),
            ("log-path", "spec.log.path"),
            ("log-max-size", "spec.log.maxSize"),
        ],
    );
}

#[test]
fn a_policy_with_no_rules_is_refused() {
    let findings =
        render(&spec(json!({"policy": {"inline": {"rules": []}}})), None, ServerVersion::LATEST).unwrap_err();
    assert_eq!(findings.iter().filter(|f| f.is_error()).count(), 1, "{findings:?}");
    assert!(findings[0].path.starts_with("spec.policy.inline"), "{findings:?}");
}

#[test]
fn the_servers_version_decides_about_group_star() {
    let value = json!({"policy": {"inline": {"rules": [{"level": "None", "resources": [{"group": "*"}]}]}}});
    assert!(render(&spec(value.clone()), None, "1.36".parse().unwrap()).is_ok());
    let findings = render(&spec(value), None, "1.35".parse().unwrap()).unwrap_err();
    assert!(findings[0].path.starts_with("spec.policy.inline.rules[0].resources[0].group"), "{findings:?}");
}

#[test]
fn a_config_maps_findings_say_where_in_it() {
    let value = json!({"policy": {"configMapRef": {"namespace": "n", "name": "c", "key": "k"}}});
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n  verb: [get]\n";
    let findings = render(&spec(value.clone()), Some(text), ServerVersion::LATEST).unwrap_err();
    let error = findings.iter().find(|f| f.is_error()).unwrap();
    assert_eq!(error.path, "spec.policy.configMapRef (line 5, column 3) rules[0].verb");
    let fine = text.replace("  verb: [get]\n", "");
    assert!(render(&spec(value), Some(&fine), ServerVersion::LATEST).is_ok());
}

#[test]
fn paths_that_would_hurt_are_refused() {
    let with_log = |path: &str| json!({"policy": {"profile": "Metadata"}, "log": {"path": path}});
    for path in [
        "audit.log",
        "/audit.log",
        "/var/log/audit.log",
        "/etc/kubernetes/pki/audit.log",
        "/var/lib/etcd/a.log",
        "/var/log/../lib/audit/a.log",
        "/var/log/audit/",
        "/var//log/audit.log",
        "/etc/kubernetes/manifests/a/audit.log",
        "/var/log/a b/audit.log",
        "",
    ] {
        check_refused(with_log(path), "1.37", &[("log-path", "spec.log.path")]);
    }
    let with_policy = |path: &str| json!({"policy": {"profile": "Metadata", "path": path}});
    for path in
        ["policy.yaml", "/etc/kubernetes/manifests/policy.yaml", "/etc/kubernetes/pki/policy.yaml", "/etc/"]
    {
        check_refused(with_policy(path), "1.37", &[("policy-path", "spec.policy.path")]);
    }
}

#[test]
fn combinations_that_stop_a_server_are_refused() {
    let with_log = |log: Value| json!({"policy": {"profile": "Metadata"}, "log": log});
    check_refused(with_log(json!({"batch": {}})), "1.37", &[("log-batch-mode", "spec.log.batch")]);
    let throttled = json!({"mode": "batch", "batch": {"throttleEnable": true, "throttleQPS": 1}});
    check_refused(with_log(throttled), "1.37", &[("log-batch-throttle", "spec.log.batch.throttleEnable")]);
    let truncated = json!({"truncate": {"enabled": false, "maxBatchSize": 1}});
    check_refused(with_log(truncated), "1.37", &[("log-truncate-size", "spec.log.truncate.maxBatchSize")]);
    for wait in ["1", "1 s", "s", "1d", "-1s", ""] {
        let batch = json!({"mode": "batch", "batch": {"maxWait": wait}});
        check_refused(with_log(batch), "1.37", &[("log-batch-wait", "spec.log.batch.maxWait")]);
    }
    for wait in ["0", "1s", "1.5h", "1h2m3s", "500ms"] {
        rendered(with_log(json!({"mode": "batch", "batch": {"maxWait": wait}})));
    }
}
