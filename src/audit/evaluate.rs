//! Which rule decides about a request, and what is logged of it.
//!
//! From `k8s.io/apiserver` `pkg/audit/policy/checker.go`, liberties included: `pods/*` matches `pods` itself, and
//! nothing but `*`, `*/sub` and `res/*` is a wildcard. It needs no server version: a group `*` in a policy that a
//! server has loaded is a wildcard.

use serde::{Serialize, Serializer};

use super::policy::{GroupResources, Level, Policy, Rule, Stage};
use super::request::{Attributes, Target, User};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// How much is logged; [`Level::None`] when no rule matches.
    pub level: Level,
    /// The stages for which no event is created.
    pub omit_stages: StageSet,
    /// Whether `metadata.managedFields` is left out of logged bodies.
    pub omit_managed_fields: bool,
    /// Index of the rule that decided, the first is 0; `None` when no rule matches.
    pub rule: Option<usize>,
}

impl Decision {
    /// Whether an event is written when the request gets to `stage`.
    pub fn logs(&self, stage: Stage) -> bool {
        self.level != Level::None && !self.omit_stages.contains(stage)
    }
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageSet(u8);

impl StageSet {
    /// Whether the stage is in the set.
    pub fn contains(self, stage: Stage) -> bool {
        self.0 & Self::bit(stage) != 0
    }

    /// The stages in alphabetical order.
    pub fn iter(self) -> impl Iterator<Item = Stage> {
        [Stage::Panic, Stage::RequestReceived, Stage::ResponseComplete, Stage::ResponseStarted]
            .into_iter()
            .filter(move |stage| self.contains(*stage))
    }

    fn bit(stage: Stage) -> u8 {
        match stage {
            Stage::RequestReceived => 1,
            Stage::ResponseStarted => 2,
            Stage::ResponseComplete => 4,
            Stage::Panic => 8,
        }
    }
}

impl<'a> FromIterator<&'a Stage> for StageSet {
    fn from_iter<I: IntoIterator<Item = &'a Stage>>(stages: I) -> Self {
        Self(stages.into_iter().fold(0, |bits, stage| bits | Self::bit(*stage)))
    }
}

/// A list of names in alphabetical order.
impl Serialize for StageSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// Evaluates a policy as kube-apiserver does.
///
/// `policy` is what the server holds: that of a [`ValidPolicy`](super::ValidPolicy), or what
/// [`load`](super::load()) says the server made of a file.
pub fn evaluate(policy: &Policy, request: &Attributes) -> Decision {
    let decided = policy.rules.iter().enumerate().find(|(_, rule)| matches(rule, request));
    let rule = decided.map(|(_, rule)| rule);
    let rule_stages = rule.map(|rule| rule.omit_stages.as_slice()).unwrap_or_default();
    Decision {
        level: rule.map_or(Level::None, |rule| rule.level),
        omit_stages: policy.omit_stages.iter().chain(rule_stages).collect(),
        omit_managed_fields: rule
            .and_then(|rule| rule.omit_managed_fields)
            .unwrap_or(policy.omit_managed_fields),
        rule: decided.map(|(index, _)| index),
    }
}

fn matches(rule: &Rule, request: &Attributes) -> bool {
    matches_user(rule, request.user.as_ref())
        && lists(&rule.verbs, &request.verb)
        && matches_target(rule, &request.target)
}

/// Without a user (failed authentication) no rule matches that asks for users or groups.
fn matches_user(rule: &Rule, user: Option<&User>) -> bool {
    let Some(user) = user else { return rule.users.is_empty() && rule.user_groups.is_empty() };
    let in_group = || user.groups.iter().any(|group| rule.user_groups.contains(group));
    lists(&rule.users, &user.name) && (rule.user_groups.is_empty() || in_group())
}

fn matches_target(rule: &Rule, target: &Target) -> bool {
    let about_objects = !(rule.namespaces.is_empty() && rule.resources.is_empty());
    match target {
        Target::Resource(request) if about_objects => {
            lists(&rule.namespaces, &request.namespace)
                && (rule.resources.is_empty()
                    || rule.resources.iter().any(|entry| {
                        matches_entry(
                            entry,
                            &request.group,
                            &request.resource,
                            &request.subresource,
                            &request.name,
                        )
                    }))
        }
        Target::Url { path } if !about_objects && !rule.non_resource_urls.is_empty() => {
            rule.non_resource_urls.iter().any(|pattern| matches_url(pattern, path))
        }
        Target::Resource(_) => rule.non_resource_urls.is_empty(),
        Target::Url { .. } => !about_objects,
    }
}

fn matches_entry(entry: &GroupResources, group: &str, resource: &str, subresource: &str, name: &str) -> bool {
    (entry.group == group || entry.group == "*")
        && (entry.resources.is_empty()
            || lists(&entry.resource_names, name)
                && entry.resources.iter().any(|pattern| matches_resource(pattern, resource, subresource)))
}

/// Whether a string of a rule's `resources` matches.
pub(super) fn matches_resource(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let exactly = if subresource.is_empty() {
        pattern == resource
    } else {
        pattern.strip_prefix(resource).and_then(|rest| rest.strip_prefix('/')) == Some(subresource)
    };
    exactly
        || !subresource.is_empty() && pattern.strip_prefix("*/") == Some(subresource)
        // The server does not ask for a subresource here, although its documentation says so.
        || pattern.strip_suffix("/*") == Some(resource)
}

fn matches_url(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

/// Whether a condition holds: an empty list is none.
fn lists(wanted: &[String], value: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == value)
}
