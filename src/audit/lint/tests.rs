//! Each warning where it is due, and none where it is not.

use super::*;
use crate::audit::{Profile, load};

/// Each warning as `CODE PATH`, for a server 1.36.
#[track_caller]
fn check(rules: &str, expected: &[&str]) {
    check_on("1.36", rules, expected);
}

#[track_caller]
fn check_on(server: &str, body: &str, expected: &[&str]) {
    let rules = if body.contains("rules:") { body.to_owned() } else { format!("rules:\n{body}") };
    let source = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
    let loaded = load(source.as_bytes(), server.parse().unwrap());
    let policy = loaded.policy.unwrap_or_else(|| panic!("{:?}", loaded.findings));
    let found: Vec<_> = lint(&policy, server.parse().unwrap())
        .iter()
        .map(|finding| format!("{} {}", finding.code, finding.path))
        .collect();
    assert_eq!(found, expected, "{body}");
}

#[test]
fn the_profiles_need_no_warning_on_any_server() {
    for profile in Profile::ALL {
        for server in ["1.24", "1.36", "1.37"] {
            assert_eq!(lint(&profile.policy(), server.parse().unwrap()), [], "{profile:?} on {server}");
        }
    }
}

#[test]
fn bodies_of_secrets_are_told_unless_an_earlier_rule_takes_them_out() {
    let told = ["sensitive-bodies rules[0].level"];
    check("- level: Request\n  verbs: [create]\n", &told);
    check("- level: RequestResponse\n  verbs: [get]\n", &told);
    check("- level: Request\n  resources: [{group: '', resources: ['*']}]\n", &told);
    check("- level: Request\n  resources: [{group: authentication.k8s.io}]\n", &told);
    check(
        "- level: RequestResponse\n  resources: [{group: '', resources: [serviceaccounts/token]}]\n",
        &told,
    );
    check("- level: Request\n  resources: [{group: '', resources: [secrets], resourceNames: [x]}]\n", &told);
    check(
        "- level: RequestResponse\n  resources: [{group: '', resources: [serviceaccounts/token], resourceNames: [x]}]\n",
        &told,
    );
    let taken_out = "- level: Metadata\n  resources:\n  - {group: '', resources: [secrets, configmaps, serviceaccounts/*]}\n  \
                     - {group: authentication.k8s.io, resources: [tokenreviews]}\n";
    check(&format!("{taken_out}- level: RequestResponse\n"), &[]);
    let for_alice = taken_out.replace("level: Metadata", "level: Metadata\n  users: [alice]");
    check(&format!("{for_alice}- level: RequestResponse\n"), &["sensitive-bodies rules[1].level"]);
    check(&format!("{for_alice}- level: RequestResponse\n  users: [alice]\n"), &[]);
}

#[test]
fn no_bodies_no_warning_about_them() {
    check("- level: Metadata\n", &[]);
    check("- level: Request\n  verbs: [get, list, watch, delete]\n", &[]);
    check("- level: RequestResponse\n  verbs: [watch]\n", &[]);
    check(
        "- level: RequestResponse\n  resources: [{group: apps}, {group: '', resources: [pods, secrets/x]}]\n",
        &[],
    );
    check("- level: RequestResponse\n  nonResourceURLs: ['*']\n", &[]);
    check("- level: Request\n  resources: [{group: '', resources: [serviceaccounts/token]}]\n", &[]);
    check(
        "- level: None\n  verbs: [create, update]\n- level: None\n  verbs: [patch]\n- level: Request\n",
        &[],
    );
}

#[test]
fn patches_are_lost_before_1_37_when_their_first_stage_is_omitted() {
    let apps = "resources: [{group: apps}]";
    let told = ["lost-patches rules[0]"];
    let early = format!("omitStages: [RequestReceived]\nrules:\n- level: Request\n  {apps}\n");
    check_on("1.36", &early, &told);
    check_on("1.37", &early, &[]);
    check(&format!("- level: RequestResponse\n  {apps}\n  omitStages: [RequestReceived]\n"), &told);
    check(&format!("- level: Request\n  {apps}\n"), &[]);
    check(&format!("omitStages: [RequestReceived]\nrules:\n- level: Metadata\n  {apps}\n"), &[]);
    check(
        &format!("omitStages: [RequestReceived]\nrules:\n- level: Request\n  {apps}\n  verbs: [create]\n"),
        &[],
    );
    check(
        &format!(
            "omitStages: [RequestReceived]\nrules:\n- level: Metadata\n  verbs: [patch]\n- level: Request\n  {apps}\n"
        ),
        &[],
    );
}

#[test]
fn stages_that_hide_what_one_looks_for_are_told() {
    check_on(
        "1.37",
        "omitStages: [ResponseStarted]\nrules:\n- level: Metadata\n",
        &["failed-logins-hidden omitStages"],
    );
    check(
        "- level: Metadata\n  omitStages: [ResponseStarted]\n",
        &["failed-logins-hidden rules[0].omitStages"],
    );
    check("- level: Metadata\n  omitStages: [ResponseComplete]\n", &["results-hidden rules[0].omitStages"]);
    // A rule that asks for a user never sees a failed log-in.
    check("- level: Metadata\n  users: [a]\n  omitStages: [ResponseStarted]\n", &[]);
    check("- level: None\n  omitStages: [ResponseStarted]\n", &[]);
    check("omitStages: [RequestReceived, Panic]\nrules:\n- level: Metadata\n", &[]);
}

#[test]
fn a_rule_behind_a_wider_one_is_unreachable() {
    let told = ["unreachable-rule rules[1]"];
    check("- level: Metadata\n- level: None\n  users: [a]\n", &told);
    check("- level: None\n  users: [a, b]\n- level: Metadata\n  users: [b]\n  verbs: [get]\n", &told);
    check(
        "- level: None\n  nonResourceURLs: [/health*]\n- level: Metadata\n  nonResourceURLs: [/healthz, /healthz*]\n",
        &told,
    );
    check(
        "- level: None\n  resources: [{group: '', resources: ['pods/*', '*/log']}]\n\
         - level: Metadata\n  namespaces: [x]\n  resources: [{group: '', resources: [pods, pods/exec, nodes/log]}]\n",
        &told,
    );
    check(
        "- level: None\n  resources: [{group: '*'}]\n- level: Metadata\n  resources: [{group: apps}]\n",
        &told,
    );
    check(
        "- level: None\n  resources: [{group: apps, resources: ['*']}]\n- level: Metadata\n  resources: [{group: apps}]\n",
        &told,
    );
    check(
        "- level: None\n  namespaces: [a, b]\n- level: Metadata\n  namespaces: [a]\n  resources: [{group: apps}]\n",
        &told,
    );
}

#[test]
fn a_rule_that_something_reaches_is_not_unreachable() {
    for (first, second) in [
        ("users: [a]", "userGroups: [g]"),
        ("users: [a]", "verbs: [get]"),
        ("verbs: [get]", "verbs: [get, list]"),
        ("nonResourceURLs: ['*']", "verbs: [get]"),
        ("nonResourceURLs: [/a]", "nonResourceURLs: ['/a*']"),
        ("resources: [{group: '*'}]", "verbs: [get]"),
        ("resources: [{group: '*'}]", "nonResourceURLs: [/a]"),
        ("resources: [{group: apps}]", "resources: [{group: '*'}]"),
        ("resources: [{group: '', resources: [pods]}]", "resources: [{group: '', resources: [pods/log]}]"),
        (
            "resources: [{group: '', resources: ['*/log']}]",
            "resources: [{group: '', resources: [pods, pods/log]}]",
        ),
        ("resources: [{group: '', resources: ['pods/*']}]", "resources: [{group: ''}]"),
        (
            "resources: [{group: '', resources: [pods], resourceNames: [a]}]",
            "resources: [{group: '', resources: [pods]}]",
        ),
        ("namespaces: [a]", "resources: [{group: apps}]"),
        ("namespaces: [a]", "namespaces: [a, b]"),
    ] {
        check(&format!("- level: None\n  {first}\n- level: Metadata\n  {second}\n"), &[]);
    }
}

#[test]
fn names_are_told_where_a_request_has_none() {
    let rule = |verbs: &str, resources: &str, names: &str| {
        format!(
            "- level: None\n  verbs: [{verbs}]\n  resources: [{{group: '', resources: [{resources}], resourceNames: [{names}]}}]\n"
        )
    };
    let told = ["never-matches rules[0].resources[0].resourceNames"];
    check(&rule("create", "pods", "x"), &told);
    check(&rule("create, deletecollection", "pods", "x"), &told);
    check(&rule("create, get", "pods", "x"), &[]);
    check(&rule("create", "pods, pods/exec", "x"), &[]);
    check(&rule("create", "pods", "''"), &[]);
}
