//! Warnings: a policy that works, but hardly as it was meant.
//!
//! Few, and only such as are certainly true of the policy at hand; where a rule is shadowed in part by earlier ones,
//! what those catch is taken into account ([`covers`]). A warning refuses nothing.

use super::evaluate::matches_resource;
use super::policy::{GroupResources, Level, Policy, Rule, Stage};
use super::{Finding, ServerVersion};

/// Everything that deserves a second look in a policy for a kube-apiserver of version `server`.
pub fn lint(policy: &Policy, server: ServerVersion) -> Vec<Finding> {
    let mut findings = omitted_stages(&policy.omit_stages, "omitStages");
    for (index, rule) in policy.rules.iter().enumerate() {
        let path = format!("rules[{index}]");
        let earlier = &policy.rules[..index];
        if let Some(by) = earlier.iter().position(|earlier| covers(earlier, rule)) {
            let message =
                format!("never decides: rules[{by}] comes first and catches all that this one would");
            findings.push(Finding::warning("unreachable-rule", path, message));
            continue;
        }
        if rule.level != Level::None && rule.users.is_empty() && rule.user_groups.is_empty() {
            findings.extend(omitted_stages(&rule.omit_stages, &format!("{path}.omitStages")));
        }
        findings.extend(sensitive_bodies(rule, earlier, &path));
        findings.extend(lost_patches(policy, rule, earlier, server, &path));
        findings.extend(dead_conditions(rule, &path));
    }
    findings
}

fn omitted_stages(stages: &[Stage], path: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if stages.contains(&Stage::ResponseStarted) {
        let message = "without `ResponseStarted` failed log-ins (401) are not logged, it is their only stage: leave it \
                       out of the list";
        findings.push(Finding::warning("failed-logins-hidden", path, message));
    }
    if stages.contains(&Stage::ResponseComplete) {
        let message =
            "without `ResponseComplete` the log does not tell how requests ended: leave it out of the list";
        findings.push(Finding::warning("results-hidden", path, message));
    }
    findings
}

/// A kind of object whose bodies hold secrets.
struct Sensitive {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    /// Verbs whose request has the secret in its body.
    in_request: &'static [&'static str],
    /// Verbs whose response has.
    in_response: &'static [&'static str],
}

const WRITES: &[&str] = &["create", "update", "patch"];
const WRITES_AND_READS: &[&str] = &["create", "update", "patch", "get", "list"];

static SENSITIVE: [Sensitive; 4] = [
    Sensitive {
        group: "",
        resource: "secrets",
        subresource: "",
        in_request: WRITES,
        in_response: WRITES_AND_READS,
    },
    Sensitive {
        group: "",
        resource: "configmaps",
        subresource: "",
        in_request: WRITES,
        in_response: WRITES_AND_READS,
    },
    Sensitive {
        group: "",
        resource: "serviceaccounts",
        subresource: "token",
        in_request: &[],
        in_response: &["create"],
    },
    Sensitive {
        group: "authentication.k8s.io",
        resource: "tokenreviews",
        subresource: "",
        in_request: &["create"],
        in_response: &["create"],
    },
];

fn sensitive_bodies(rule: &Rule, earlier: &[Rule], path: &str) -> Option<Finding> {
    if rule.level < Level::Request {
        return None;
    }
    let names: Vec<String> =
        SENSITIVE.iter().filter(|kind| logs_bodies_of(rule, earlier, kind)).map(Sensitive::name).collect();
    if names.is_empty() {
        return None;
    }
    let message = format!(
        "logs bodies that hold credentials or settings ({}): put a rule for them at level `Metadata` before this one",
        names.join(", ")
    );
    Some(Finding::warning("sensitive-bodies", format!("{path}.level"), message))
}

impl Sensitive {
    /// As a policy's `resources` has it.
    fn name(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Whether a rule decides about some request that has such a body.
fn logs_bodies_of(rule: &Rule, earlier: &[Rule], kind: &Sensitive) -> bool {
    let verbs = if rule.level == Level::Request { kind.in_request } else { kind.in_response };
    let everything = [GroupResources { group: "*".to_owned(), ..GroupResources::default() }];
    let entries = if rule.resources.is_empty() { &everything } else { rule.resources.as_slice() };
    let matches_kind = |entry: &GroupResources| {
        let pattern = |pattern: &String| matches_resource(pattern, kind.resource, kind.subresource);
        (entry.group == kind.group || entry.group == "*")
            && (entry.resources.is_empty() || entry.resources.iter().any(pattern))
    };
    let reached = |entry: &GroupResources, verb: &str| {
        let part = Rule {
            verbs: vec![verb.to_owned()],
            resources: vec![GroupResources {
                group: kind.group.to_owned(),
                resources: vec![kind.name()],
                resource_names: entry.resource_names.clone(),
            }],
            ..rule.clone()
        };
        !earlier.iter().any(|earlier| covers(earlier, &part))
    };
    rule.non_resource_urls.is_empty()
        && entries.iter().filter(|entry| matches_kind(entry)).any(|entry| {
            let verbs = verbs.iter().filter(|verb| holds(&rule.verbs, verb));
            verbs
                .filter(|verb| **verb != "create" || matches_create(entry, kind))
                .any(|verb| reached(entry, verb))
        })
}

/// A create has no name for `resourceNames` to match, unless it is one on a subresource.
fn matches_create(entry: &GroupResources, kind: &Sensitive) -> bool {
    !kind.subresource.is_empty() || holds(&entry.resource_names, "")
}

/// Before 1.37 the event of a patch whose body is not JSON is lost when bodies are logged, all but its first stage.
fn lost_patches(
    policy: &Policy,
    rule: &Rule,
    earlier: &[Rule],
    server: ServerVersion,
    path: &str,
) -> Option<Finding> {
    let omitted = || policy.omit_stages.iter().chain(&rule.omit_stages).any(|s| *s == Stage::RequestReceived);
    let concerned = server < ServerVersion::PATCHES_KEPT
        && rule.level >= Level::Request
        && rule.non_resource_urls.is_empty()
        && holds(&rule.verbs, "patch")
        && omitted();
    if !concerned {
        return None;
    }
    let mut part = Rule { verbs: vec!["patch".to_owned()], ..rule.clone() };
    if part.resources.is_empty() {
        part.resources = vec![GroupResources { group: "*".to_owned(), ..GroupResources::default() }];
    }
    if earlier.iter().any(|earlier| covers(earlier, &part)) {
        return None;
    }
    let message = format!(
        "kube-apiserver {server} loses the event of a patch whose body is not JSON, so with `RequestReceived` omitted \
         anyone can patch without a trace: put a rule for verb `patch` at level `Metadata` before this one, or keep \
         that stage"
    );
    Some(Finding::warning("lost-patches", path, message))
}

/// Strings that no request ever has.
fn dead_conditions(rule: &Rule, path: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut dead = |field: String, message: String| {
        findings.push(Finding::warning("never-matches", format!("{path}.{field}"), message));
    };
    let names = [("users", &rule.users), ("userGroups", &rule.user_groups), ("namespaces", &rule.namespaces)];
    for (field, values) in names {
        for (index, value) in values.iter().enumerate().filter(|(_, value)| value.contains('*')) {
            dead(format!("{field}[{index}]"), no_wildcard(value, field));
        }
    }
    for (index, verb) in rule.verbs.iter().enumerate() {
        if let Some(message) = dead_verb(verb) {
            dead(format!("verbs[{index}]"), message);
        }
    }
    for (at, entry) in rule.resources.iter().enumerate() {
        for (index, pattern) in entry.resources.iter().enumerate() {
            if let Some(message) = dead_resource(pattern) {
                dead(format!("resources[{at}].resources[{index}]"), message);
            }
        }
        for (index, name) in entry.resource_names.iter().enumerate().filter(|(_, name)| name.contains('*')) {
            dead(format!("resources[{at}].resourceNames[{index}]"), no_wildcard(name, "resourceNames"));
        }
        if names_without_name(rule, entry) {
            let message = "a create or deletecollection has no name yet, so the rule never matches: leave the names out";
            dead(format!("resources[{at}].resourceNames"), message.to_owned());
        }
    }
    findings
}

fn no_wildcard(value: &str, field: &str) -> String {
    let advice = if value == "*" { "leave the list out to match all" } else { "write the names out" };
    format!("`*` is no wildcard in `{field}`, so `{value}` matches nothing: {advice}")
}

/// `k8s.io/apiserver` requestinfo.go makes no other verbs but from HTTP methods that nobody sends.
const VERBS: [&str; 14] = [
    "",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "proxy",
    "head",
    "post",
    "put",
    "options",
];

fn dead_verb(verb: &str) -> Option<String> {
    if VERBS.contains(&verb) {
        return None;
    }
    let lower = verb.to_lowercase();
    Some(match lower.as_str() {
        "connect" => {
            "there is no verb `connect` in auditing: exec, attach, port-forward and proxy are `create` or \
                      `get` on the subresource"
                .to_owned()
        }
        "*" => no_wildcard(verb, "verbs"),
        _ if VERBS.contains(&lower.as_str()) => format!("verbs are in lower case: write `{lower}`"),
        _ => format!("no request has the verb `{verb}`: delete it"),
    })
}

fn dead_resource(pattern: &str) -> Option<String> {
    let part_is_dead = |part: &str| part.is_empty() || part.contains('*');
    let dead = match pattern.split('/').collect::<Vec<_>>().as_slice() {
        ["*"] => false,
        [resource] => part_is_dead(resource),
        ["*", subresource] => part_is_dead(subresource),
        [resource, "*"] => part_is_dead(resource),
        [resource, subresource] => part_is_dead(resource) || part_is_dead(subresource),
        _ => true,
    };
    if dead {
        let wildcards = "the wildcards are `*`, `*/subresource` and `resource/*`";
        return Some(format!("no resource is called `{pattern}`: {wildcards}"));
    }
    pattern.contains(|c: char| c.is_ascii_uppercase()).then(|| {
        format!("`{pattern}` has capitals and resources have none: write the plural name, not the kind")
    })
}

/// Names on verbs that go without, and no subresource (a create on `pods/exec` has the Pod's name).
fn names_without_name(rule: &Rule, entry: &GroupResources) -> bool {
    let nameless = |verb: &String| matches!(verb.as_str(), "create" | "deletecollection");
    !entry.resource_names.is_empty()
        && !entry.resource_names.iter().any(String::is_empty)
        && !rule.verbs.is_empty()
        && rule.verbs.iter().all(nameless)
        && entry.resources.iter().all(|pattern| pattern != "*" && !pattern.contains('/'))
}

fn holds(condition: &[String], value: &str) -> bool {
    condition.is_empty() || condition.iter().any(|wanted| wanted == value)
}

/// Whether `earlier` certainly matches every request that `later` matches.
fn covers(earlier: &Rule, later: &Rule) -> bool {
    wider(&earlier.users, &later.users)
        && wider(&earlier.user_groups, &later.user_groups)
        && wider(&earlier.verbs, &later.verbs)
        && covers_target(earlier, later)
}

fn covers_target(earlier: &Rule, later: &Rule) -> bool {
    let about_objects = |rule: &Rule| !(rule.resources.is_empty() && rule.namespaces.is_empty());
    if about_objects(earlier) {
        let covered = |later| earlier.resources.iter().any(|earlier| covers_entry(earlier, later));
        return about_objects(later)
            && wider(&earlier.namespaces, &later.namespaces)
            && (earlier.resources.is_empty()
                || !later.resources.is_empty() && later.resources.iter().all(covered));
    }
    let covered = |later: &String| earlier.non_resource_urls.iter().any(|earlier| covers_url(earlier, later));
    earlier.non_resource_urls.is_empty()
        || !about_objects(later)
            && !later.non_resource_urls.is_empty()
            && later.non_resource_urls.iter().all(covered)
}

fn covers_entry(earlier: &GroupResources, later: &GroupResources) -> bool {
    let everything = ["*".to_owned()];
    let later_resources = if later.resources.is_empty() { &everything } else { later.resources.as_slice() };
    let covered = |later: &String| earlier.resources.iter().any(|earlier| covers_resource(earlier, later));
    (earlier.group == "*" || earlier.group == later.group)
        && (earlier.resources.is_empty()
            || wider(&earlier.resource_names, &later.resource_names) && later_resources.iter().all(covered))
}

fn covers_resource(earlier: &str, later: &str) -> bool {
    let (resource, subresource) = later.split_once('/').unwrap_or((later, ""));
    earlier == later
        || !later.contains('*') && matches_resource(earlier, resource, subresource)
        || earlier == "*"
}

fn covers_url(earlier: &str, later: &str) -> bool {
    earlier == later
        || earlier.ends_with('*') && later.trim_end_matches('*').starts_with(earlier.trim_end_matches('*'))
}

/// Whether the condition `earlier` holds wherever `later` does.
fn wider(earlier: &[String], later: &[String]) -> bool {
    earlier.is_empty() || !later.is_empty() && later.iter().all(|value| earlier.contains(value))
}

#[cfg(test)]
mod tests;
