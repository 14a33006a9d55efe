//! The whole module against upstream's own answers (`tests/data/vectors`), against policies that people use, and
//! against noise.
#![expect(clippy::disallowed_methods, reason = "reads test data")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// All vectors that have the given key.
fn vectors(key: &str) -> Vec<Value> {
    let files = ["upstream", "matching", "loading"];
    let read = |name| {
        let text = fs::read(in_repository(&format!("tests/data/vectors/{name}.json"))).unwrap();
        serde_json::from_slice::<Vec<Value>>(&text).unwrap()
    };
    files.into_iter().flat_map(read).filter(|vector| vector.get(key).is_some()).collect()
}

fn text<'v>(vector: &'v Value, pointer: &str) -> &'v str {
    vector.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn user(request: &Value) -> Option<User> {
    let name = request["user"].as_str()?.to_owned();
    let groups = request["groups"].as_array().into_iter().flatten();
    Some(User { name, groups: groups.map(|group| group.as_str().unwrap().to_owned()).collect() })
}

fn expected_attributes(vector: &Value) -> Attributes {
    let get = |name: &str| text(vector, &format!("/attributes/{name}")).to_owned();
    let target = if vector["attributes"]["resourceRequest"] == true {
        Target::Resource(ResourceTarget {
            group: get("apiGroup"),
            resource: get("resource"),
            subresource: get("subresource"),
            namespace: get("namespace"),
            name: get("name"),
        })
    } else {
        Target::Url { path: get("path") }
    };
    Attributes { user: user(&vector["request"]), verb: get("verb"), target }
}

#[test]
fn requests_are_decided_as_upstream_decides_them() {
    let vectors = vectors("expect");
    assert!(vectors.len() > 120, "{} vectors", vectors.len());
    for vector in vectors {
        let id = text(&vector, "/id");
        let policy = load(text(&vector, "/policy").as_bytes(), ServerVersion::LATEST).policy.expect(id);
        let (method, url) = (text(&vector, "/request/method"), text(&vector, "/request/url"));
        let attributes = Attributes::from_request(user(&vector["request"]), method, url).expect(id);
        assert_eq!(attributes, expected_attributes(&vector), "{id}");
        let mut decision = serde_json::to_value(evaluate(&policy, &attributes)).unwrap();
        decision.as_object_mut().unwrap().remove("rule"); // which upstream does not tell
        assert_eq!(decision, vector["expect"], "{id}");
    }
}

#[test]
fn an_event_is_evaluated_as_its_request_was() {
    for vector in vectors("expect") {
        let attributes = expected_attributes(&vector);
        let event = EventRequest {
            request_uri: text(&vector, "/request/url").to_owned(),
            verb: attributes.verb.clone(),
            user: attributes.user.as_ref().map_or_else(EventUser::default, |user| EventUser {
                username: user.name.clone(),
                groups: user.groups.clone(),
            }),
        };
        assert_eq!(Attributes::from_event(event).as_ref(), Ok(&attributes), "{}", text(&vector, "/id"));
    }
}

#[test]
fn files_are_loaded_as_upstream_loads_them() {
    let vectors = vectors("load");
    assert!(vectors.len() > 180, "{} vectors", vectors.len());
    for vector in vectors {
        let id = text(&vector, "/id");
        let Loaded { policy, findings } = load(text(&vector, "/policy").as_bytes(), ServerVersion::LATEST);
        assert_eq!(policy.is_some(), vector["load"]["ok"] == true, "{id}: {findings:?}");
        let stops = findings.iter().any(Finding::stops_server);
        assert_eq!(stops, policy.is_none(), "{id}: {findings:?}");
        // Upstream leaves the index out of `resources`.
        let field = text(&vector, "/load/field");
        let same_field = |finding: &Finding| {
            let path = finding.path.split_once(".resources[").map_or_else(
                || finding.path.clone(),
                |(rule, rest)| format!("{rule}.resources{}", &rest[rest.find(']').unwrap() + 1..]),
            );
            path == field
        };
        assert!(field.is_empty() || findings.iter().any(same_field), "{id}: {field} is not in {findings:?}");
        if let (Some(policy), Some(expected)) = (&policy, vector["load"].get("policy")) {
            let expected: Policy = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(*policy, expected, "{id}");
        } else if let Some(policy) = &policy {
            assert_eq!(policy.rules.len() as u64, vector["load"]["rules"], "{id}");
            assert_eq!(policy.rules[0].level.as_str(), text(&vector, "/load/firstLevel"), "{id}");
            let users = serde_json::to_value(&policy.rules[0].users).unwrap();
            let upstream = &vector["load"]["firstUsers"];
            assert!(users == *upstream || upstream.is_null() && policy.rules[0].users.is_empty(), "{id}");
        }
    }
}

#[test]
fn only_the_group_wildcard_depends_on_the_version() {
    let old: ServerVersion = "1.35.9".parse().unwrap();
    let mut gated = 0;
    for vector in vectors("policy") {
        let source = text(&vector, "/policy").as_bytes();
        let (then, now) = (load(source, old), load(source, ServerVersion::LATEST));
        let new = then.findings.iter().filter(|finding| finding.stops_server());
        let new: Vec<_> = new.filter(|finding| !now.findings.contains(finding)).collect();
        assert!(new.iter().all(|finding| finding.code == "wildcard-group"), "{new:?}");
        assert_eq!(then.policy, if new.is_empty() { now.policy } else { None });
        gated += usize::from(!new.is_empty());
    }
    assert!(gated > 3, "{gated} vectors have the group `*`");
}

#[test]
fn a_valid_policy_is_one_that_nobody_refuses() {
    for vector in vectors("policy") {
        let source = text(&vector, "/policy").as_bytes();
        let loaded = load(source, ServerVersion::LATEST);
        let (valid, findings) = ValidPolicy::load(source, ServerVersion::LATEST);
        assert_eq!(findings, loaded.findings);
        assert_eq!(valid.is_some(), !findings.iter().any(Finding::is_error));
        assert!(valid.is_none() || valid.as_ref().map(ValidPolicy::policy) == loaded.policy.as_ref());
    }
}

#[test]
fn policies_that_people_use_are_understood() {
    let Ok(folder) = fs::read_dir(in_repository("../shared/corpus/policies")) else { return };
    let (mut loaded, mut valid) = (0, 0);
    for file in folder {
        let path = file.unwrap().path();
        let (policy, findings) = ValidPolicy::load(&fs::read(&path).unwrap(), ServerVersion::LATEST);
        assert!(policy.is_some() || findings.iter().any(Finding::is_error), "{}", path.display());
        assert!(findings.iter().all(|f| f.position.is_some()), "{}: {findings:?}", path.display());
        loaded += 1;
        valid += usize::from(policy.is_some());
    }
    assert!(loaded >= 30 && valid * 10 >= loaded * 7, "{valid} of {loaded} are valid");
}

/// Cases are `tests/data/policies/NAME.yaml`, with what is found in `NAME.txt`: the findings of a server 1.36 as text,
/// and whether it starts.
#[test]
fn findings_say_what_where_why_and_what_next() {
    let folder = in_repository("tests/data/policies");
    let mut cases = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let Loaded { policy, findings } = load(&fs::read(&path).unwrap(), ServerVersion::release(1, 36));
        let line = |finding: &Finding| format!("{}: {finding}\n", finding.severity());
        let server = if policy.is_some() { "starts" } else { "does not start" };
        let found = findings.iter().map(line).collect::<String>() + "kube-apiserver " + server + "\n";
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        assert!(found == expected, "{} gives\n{found}", path.display());
        cases += 1;
    }
    assert!(cases >= 9, "{cases} cases");
}

#[test]
fn the_schema_is_closed_typed_and_bounded() {
    fn check(schema: &Value, path: &str) {
        match schema["type"].as_str() {
            Some("array") => {
                assert!(schema["maxItems"].is_u64(), "{path} has no maxItems");
                check(&schema["items"], &format!("{path}[]"));
            }
            Some("object") => {
                for (name, property) in schema["properties"].as_object().unwrap() {
                    assert!(property["description"].is_string(), "{path}.{name} is not documented");
                    check(property, &format!("{path}.{name}"));
                }
            }
            Some("string") => {
                let bounded =
                    schema["maxLength"].is_u64() || schema["enum"].is_array() || schema["const"].is_string();
                assert!(bounded, "{path} has no maxLength");
            }
            Some("boolean") => {}
            None if schema["oneOf"].is_array() => {
                schema["oneOf"].as_array().unwrap().iter().for_each(|variant| check(variant, path));
            }
            _ => assert_eq!(schema["type"], serde_json::json!(["boolean", "null"]), "{path}: {schema}"),
        }
    }
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Policy>();
    check(schema.as_value(), "");
}

fn strings() -> impl Strategy<Value = Vec<String>> {
    let awkward = prop::sample::select(vec![
        "",
        "yes",
        "no",
        "012",
        "~",
        "null",
        "<<",
        "*a",
        "&a",
        "!x",
        "# c",
        "a: b",
        "- a",
        "\"",
        "'",
        "\\",
        "\n",
        "\t",
        "\u{0}",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{ffff}",
        "\u{1f600}",
        "[a]",
        "{a}",
        "%",
        "1e3",
        "é",
        "pods",
        "pods/log",
        "pods/*",
        "*/scale",
        "*",
        "get",
        "create",
        "secrets",
        "default",
        "alice",
    ]);
    prop::collection::vec(prop_oneof![awkward.prop_map(str::to_owned), any::<String>()], 0..3)
}

fn stages() -> impl Strategy<Value = Vec<Stage>> {
    prop::collection::vec(prop::sample::select(Stage::ALL.to_vec()), 0..3)
}

prop_compose! {
    fn entry()(
        group in prop::sample::select(vec!["", "apps", "*", "rbac.authorization.k8s.io"]),
        resources in strings(),
        names in strings(),
    ) -> GroupResources {
        let resource_names = if resources.is_empty() { Vec::new() } else { names };
        GroupResources { group: group.to_owned(), resources, resource_names }
    }
}

prop_compose! {
    /// A rule that any current server accepts.
    fn rule()(
        level in prop::sample::select(Level::ALL.to_vec()),
        lists in [strings(), strings(), strings(), strings()],
        resources in prop::collection::vec(entry(), 0..3),
        urls in prop::collection::vec("/[^*]{0,5}[*]?", 0..3),
        omit_stages in stages(),
        omit_managed_fields in any::<Option<bool>>(),
    ) -> Rule {
        let [users, user_groups, verbs, namespaces] = lists;
        let about_objects = !(resources.is_empty() && namespaces.is_empty());
        let non_resource_urls = if about_objects { Vec::new() } else { urls };
        Rule { level, users, user_groups, verbs, resources, namespaces, non_resource_urls, omit_stages, omit_managed_fields }
    }
}

prop_compose! {
    fn policy()(
        rules in prop::collection::vec(rule(), 1..5),
        omit_stages in stages(),
        omit_managed_fields in any::<bool>(),
    ) -> Policy {
        Policy { omit_stages, omit_managed_fields, rules }
    }
}

prop_compose! {
    /// A request with a fair chance to be matched by a rule from above.
    fn request()(
        name in prop::option::of(prop::sample::select(vec!["alice", "bob", ""])),
        method in prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH"]),
        url in prop::sample::select(vec![
            "/api/v1/pods", "/api/v1/namespaces/default/pods/alice", "/api/v1/namespaces/default/pods/x/log",
            "/apis/apps/v1/namespaces/default/deployments/x/scale", "/api/v1/secrets", "/healthz", "/", "/metrics",
        ]),
    ) -> Attributes {
        let user = name.map(|name| User { name: name.to_owned(), groups: vec!["get".to_owned(), "é".to_owned()] });
        Attributes::from_request(user, method, url).unwrap()
    }
}

/// What must hold of anything that was loaded.
fn check_consistent(source: &[u8]) {
    let Loaded { policy, findings } = load(source, ServerVersion::LATEST);
    let stops = findings.iter().any(Finding::stops_server);
    assert!(policy.is_some() || findings.iter().any(Finding::is_error), "refused without a reason");
    assert!(!(policy.is_some() && stops), "accepted although the server refuses it: {findings:?}");
    assert!(findings.is_sorted_by_key(|finding| finding.position));
    if let Some(policy) = policy {
        let valid = ValidPolicy::new(policy, ServerVersion::LATEST).expect("what the server holds is valid");
        assert_eq!(
            load(valid.to_yaml().as_bytes(), ServerVersion::LATEST).policy.as_ref(),
            Some(valid.policy())
        );
    }
}

proptest! {
    #[test]
    fn the_text_of_a_policy_loads_as_that_policy(policy in policy()) {
        let valid = ValidPolicy::new(policy, ServerVersion::LATEST).unwrap();
        let (again, findings) = ValidPolicy::load(valid.to_yaml().as_bytes(), ServerVersion::LATEST);
        prop_assert_eq!(again.as_ref(), Some(&valid), "{:?}", findings);
        prop_assert_eq!(again.unwrap().to_yaml(), valid.to_yaml());
        prop_assert!(valid.to_yaml().is_ascii());
    }

    #[test]
    fn json_of_a_policy_loads_as_that_policy(policy in policy()) {
        let mut json = serde_json::to_value(&policy).unwrap();
        json["apiVersion"] = "audit.k8s.io/v1".into();
        let (valid, findings) = ValidPolicy::load(json.to_string().as_bytes(), ServerVersion::LATEST);
        prop_assert_eq!(valid.as_ref().map(ValidPolicy::policy), Some(&policy), "{:?}", findings);
    }

    #[test]
    fn any_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_consistent(&bytes);
    }

    #[test]
    fn any_text_gets_a_verdict(text in "[ \\n\\t:,{}\\[\\]&*!|>'\"%@`#?a-c0-1~<.\\\\-]{0,80}") {
        check_consistent(text.as_bytes());
        check_consistent(format!("apiVersion: audit.k8s.io/v1\nrules:\n- level: None\n{text}").as_bytes());
    }

    #[test]
    fn a_mutilated_policy_gets_a_verdict(
        policy in policy(),
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        insert in "[ \\n\\t:,{}\\[\\]&*!|>'\"%@`#?a-c0-1~<.\\\\-]{0,5}",
    ) {
        let mut text = ValidPolicy::new(policy, ServerVersion::LATEST).unwrap().to_yaml();
        let (a, b) = (cut.0.index(text.len()), cut.1.index(text.len()));
        let range = if b.abs_diff(a) < 20 { a.min(b)..a.max(b) } else { a..a };
        text.replace_range(range, &insert);
        check_consistent(text.as_bytes());
    }

    #[test]
    fn a_rule_that_is_said_to_be_unreachable_never_decides(policy in policy(), requests in prop::collection::vec(request(), 20)) {
        let findings = lint(&policy, ServerVersion::LATEST);
        for index in requests.iter().filter_map(|request| evaluate(&policy, request).rule) {
            let path = format!("rules[{index}]");
            let unreachable = findings.iter().any(|f| f.code == "unreachable-rule" && f.path == path);
            prop_assert!(!unreachable, "{path} decides: {findings:?}");
        }
    }
}
