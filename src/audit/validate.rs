//! The rules that kube-apiserver checks a policy by, and no others, all of them at once.
//!
//! From `k8s.io/apiserver` `pkg/apis/audit/validation/validation.go`. Paths are the server's, but with the index that
//! it leaves out of `resources`.

use super::policy::{GroupResources, Level, Policy, Rule, Stage};
use super::{Finding, ServerVersion};

/// Everything for which a kube-apiserver of version `server` would not start with `policy`.
pub fn validate(policy: &Policy, server: ServerVersion) -> Vec<Finding> {
    let mut findings = Vec::new();
    if policy.rules.is_empty() {
        let message =
            "a policy needs at least one rule: add `- level: Metadata` to log everything without bodies";
        findings.push(Finding::server("no-rules", "rules", message));
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        validate_rule(rule, &format!("rules[{index}]"), server, &mut findings);
    }
    findings
}

fn validate_rule(rule: &Rule, path: &str, server: ServerVersion, findings: &mut Vec<Finding>) {
    for (index, url) in rule.non_resource_urls.iter().enumerate() {
        validate_url(url, &format!("{path}.nonResourceURLs[{index}]"), findings);
    }
    for (index, resources) in rule.resources.iter().enumerate() {
        validate_resources(resources, &format!("{path}.resources[{index}]"), server, findings);
    }
    let about_objects = !(rule.resources.is_empty() && rule.namespaces.is_empty());
    if about_objects && !rule.non_resource_urls.is_empty() {
        let message = "a rule is about objects (`resources`, `namespaces`) or about other URLs (`nonResourceURLs`), \
                       not both: split it in two";
        findings.push(Finding::server("urls-with-resources", format!("{path}.nonResourceURLs"), message));
    }
}

fn validate_url(url: &str, path: &str, findings: &mut Vec<Finding>) {
    if url == "*" {
        return;
    }
    if !url.starts_with('/') {
        let message = format!("`{url}` must begin with `/`, or be `*` for every URL");
        findings.push(Finding::server("url-without-slash", path, message));
    }
    let mut before_last = url.chars();
    before_last.next_back();
    if before_last.as_str().contains('*') {
        let message =
            format!("`{url}` has a `*` that is not its last character: only there is it a wildcard");
        findings.push(Finding::server("url-wildcard", path, message));
    }
}

fn validate_resources(
    resources: &GroupResources,
    path: &str,
    server: ServerVersion,
    findings: &mut Vec<Finding>,
) {
    let group = resources.group.as_str();
    if group == "*" {
        if server < ServerVersion::WILDCARD_GROUP {
            let message = format!(
                "the group `*` needs kube-apiserver 1.36, and {server} does not start with it: name the groups"
            );
            findings.push(Finding::server("wildcard-group", format!("{path}.group"), message));
        }
    } else if !group.is_empty() && !is_dns1123_subdomain(group) {
        let advice = match group.split_once('/') {
            Some((group, _)) => format!("leave the version out and write `{group}`"),
            None if is_dns1123_subdomain(&group.to_lowercase()) => "write it in lower case".to_owned(),
            None => "write it as in `kubectl api-resources`".to_owned(),
        };
        let message = format!("`{group}` is not the name of an API group: {advice}");
        findings.push(Finding::server("invalid-group", format!("{path}.group"), message));
    }
    if !resources.resource_names.is_empty() && resources.resources.is_empty() {
        let message = "names need resources that they are the names of: add `resources`";
        findings.push(Finding::server("names-without-resources", format!("{path}.resourceNames"), message));
    }
}

/// A DNS subdomain as of RFC 1123: at most 253 characters, labels of lower case letters, digits and inner dashes.
fn is_dns1123_subdomain(name: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| match label.as_bytes() {
        [] => false,
        [only] => is_alphanumeric(*only),
        [first, inner @ .., last] => {
            is_alphanumeric(*first)
                && is_alphanumeric(*last)
                && inner.iter().all(|&byte| is_alphanumeric(byte) || byte == b'-')
        }
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A level that is missing or unknown. The typed [`Level`] cannot be, so this is for who reads text.
pub(super) fn level_unknown(path: String, name: &str) -> Finding {
    let levels = Level::ALL.map(Level::as_str);
    if name.is_empty() {
        let message = format!("a rule needs a level: write `level:` with one of {}", list(&levels));
        return Finding::server("level-required", path, message);
    }
    Finding::server("level-unknown", path, unknown(name, "level", &levels))
}

/// A stage that is unknown, likewise.
pub(super) fn stage_unknown(path: String, name: &str) -> Finding {
    Finding::server("stage-unknown", path, unknown(name, "stage", &Stage::ALL.map(Stage::as_str)))
}

fn unknown(name: &str, noun: &str, known: &[&str]) -> String {
    match known.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        Some(right) => format!("`{name}` is not a {noun}: capitals count, write `{right}`"),
        None => format!("`{name}` is not a {noun}: write one of {}", list(known)),
    }
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}
