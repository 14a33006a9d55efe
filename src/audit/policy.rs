//! The audit policy: ordered rules, the first that matches a request decides what is logged of it.
//!
//! These types are `audit.k8s.io/v1` Policy without `apiVersion`, `kind` and `metadata`: what an AuditConfiguration
//! embeds and what kube-apiserver evaluates. Their doc comments become the descriptions in the CRD, so they are
//! written for its reader. A value here may still be invalid; [`ValidPolicy`](super::ValidPolicy) cannot.
//!
//! The bounds are for the API server, which refuses to evaluate expressions over unbounded lists; they are far
//! above what a policy in use needs (the longest name Kubernetes itself makes is a service account's, 339 bytes).
//! Those expressions repeat [`super::validate`] where they can, so that `kubectl apply` refuses what kube-apiserver would
//! not start with; the e2e tests ask a real API server for each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kube-apiserver writes to the audit log, and of which requests.
///
/// The rules are tried in order and the first one that matches a request decides. A request that no rule matches
/// is not logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Stages for which no event is created, for every rule. A rule can add stages, not take them away.
    ///
    /// Beware: without `ResponseStarted` failed log-ins (401) leave no trace, and without `ResponseComplete` hardly
    /// anything does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub omit_stages: Vec<Stage>,

    /// Leave `metadata.managedFields` out of the logged bodies. A rule can say otherwise for its requests.
    #[serde(default, skip_serializing_if = "is_false")]
    pub omit_managed_fields: bool,

    /// The rules in order; the first that matches a request decides. At least one is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub rules: Vec<Rule>,
}

/// One rule: which requests it matches, and how much of them is logged.
///
/// All conditions that are given must hold. A list that is empty or absent matches everything. A rule with
/// `resources` or `namespaces` matches requests for objects only; a rule with `nonResourceURLs` matches other
/// requests only; a rule with neither matches both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.nonResourceURLs) || self.nonResourceURLs.size() == 0 || \
             ((!has(self.resources) || self.resources.size() == 0) && (!has(self.namespaces) || self.namespaces.size() == 0))",
    "message": "a rule is about objects (`resources`, `namespaces`) or about other URLs (`nonResourceURLs`), not both: split it in two",
    "fieldPath": ".nonResourceURLs",
}]))]
pub struct Rule {
    /// How much of the request is logged.
    pub level: Level,

    /// The users the rule applies to, by their exact authenticated name (not the impersonated one). No wildcards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 512)))]
    pub users: Vec<String>,

    /// The groups the rule applies to: the user must be in at least one of them. No wildcards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 512)))]
    pub user_groups: Vec<String>,

    /// The verbs the rule applies to, in lower case: get, list, watch, create, update, patch, delete and
    /// deletecollection for objects, and the HTTP method for other URLs. No wildcards, and there is no `connect`:
    /// `kubectl exec` is `create` or `get` on `pods/exec`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 256)))]
    pub verbs: Vec<String>,

    /// The objects the rule applies to: at least one entry must match. Cannot be used with `nonResourceURLs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub resources: Vec<GroupResources>,

    /// The namespaces the rule applies to; the empty string stands for requests outside any namespace (also lists
    /// across all namespaces). A request on a Namespace itself counts as in that namespace. No wildcards. Cannot be
    /// used with `nonResourceURLs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 256)))]
    pub namespaces: Vec<String>,

    /// The URL paths, other than those of objects, that the rule applies to: `/healthz*` for all that begin so,
    /// `/version` for exactly that, `*` for all. `*` is a wildcard as the last character only.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 512)), transform = with_rules_of_urls)]
    pub non_resource_urls: Vec<String>,

    /// Stages for which this rule's requests create no event, besides the policy's own `omitStages`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub omit_stages: Vec<Stage>,

    /// Leave `metadata.managedFields` out of the bodies logged by this rule; when absent, the policy's own setting
    /// holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omit_managed_fields: Option<bool>,
}

/// Resources of one API group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.resourceNames) || self.resourceNames.size() == 0 || (has(self.resources) && self.resources.size() > 0)",
    "message": "names need resources that they are the names of: add `resources`",
    "fieldPath": ".resourceNames",
}]))]
pub struct GroupResources {
    /// The API group without a version, as `apps` or `rbac.authorization.k8s.io`. Empty is the core group (pods,
    /// secrets, …). `*` is every group; kube-apiserver before 1.36 does not start with that.
    // No default in the CRD: inside a list it would be a difference between Git and the cluster to whoever compares lists
    // as a whole, as Argo CD does. The pattern refuses what the two rules leave; with it they are a DNS subdomain.
    #[serde(default)]
    #[schemars(
        transform = without_default,
        length(max = 253),
        regex(pattern = r"^(\*|[A-Za-z0-9/]([-A-Za-z0-9/]*[A-Za-z0-9/])?(\.[A-Za-z0-9/]([-A-Za-z0-9/]*[A-Za-z0-9/])?)*)?$"),
        extend("x-kubernetes-validations" = [
            {
                "rule": "!self.contains('/')",
                "message": "is not the name of an API group: leave the version out",
            },
            {
                "rule": "self == self.lowerAscii()",
                "message": "is not the name of an API group: write it in lower case",
            },
        ])
    )]
    pub group: String,

    /// The resources by their plural name; empty means all of the group. `pods` is pods without their subresources,
    /// `pods/log` one subresource, `pods/*` pods and all their subresources, `*/scale` that subresource of
    /// everything, `*` everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 256)))]
    pub resources: Vec<String>,

    /// The objects' names; empty means any. Needs `resources`. A create has no name yet, so a rule with names never
    /// matches it. No wildcards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 512)))]
    pub resource_names: Vec<String>,
}

/// How much of a request is logged.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, when, what and the result, but no bodies.
    Metadata,
    /// Also the body of the request.
    Request,
    /// Also the bodies of the request and of the response.
    RequestResponse,
}

/// A moment in the handling of a request at which an event can be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Stage {
    /// Before anything is done with it.
    RequestReceived,
    /// The response headers are sent but not the body: long-running requests (watch, exec) and refused log-ins.
    ResponseStarted,
    /// The response is complete.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

impl Level {
    /// All levels, from nothing to everything.
    pub const ALL: [Self; 4] = [Self::None, Self::Metadata, Self::Request, Self::RequestResponse];

    /// The name used in policies and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

impl Stage {
    /// All stages, in the order of a request's life.
    pub const ALL: [Self; 4] =
        [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    /// The name used in policies and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An attribute cannot put them on a list's items.
fn with_rules_of_urls(schema: &mut schemars::Schema) {
    let rules = serde_json::json!([
        {
            "rule": "self == '*' || self.startsWith('/')",
            "message": "must begin with `/`, or be `*` for every URL",
        },
        {
            "rule": "self.indexOf('*') in [-1, self.size() - 1]",
            "message": "has a `*` that is not its last character: only there is it a wildcard",
        },
    ]);
    let items = schema.get_mut("items").and_then(serde_json::Value::as_object_mut);
    items.expect("it is a list").insert("x-kubernetes-validations".to_owned(), rules);
}

fn without_default(schema: &mut schemars::Schema) {
    schema.remove("default");
}

fn is_false(flag: &bool) -> bool {
    !flag
}
