//! `AuditConfiguration`: what the administrator wants, and how far it is.
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a private scope")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has its own type_ and name")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// Under another name, because the derive brings a `Rule` of its own into scope.
use crate::audit::{Policy, Profile, Rule as PolicyRule};
use crate::manifest::Existing;

use super::rollout::{Proof, Rollout};

/// Audit logging of a kubeadm cluster's API servers: the policy, the log, and the nodes it applies to.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "audit-operator.dev",
    version = "v1alpha1",
    kind = "AuditConfiguration",
    doc = "Audit logging of a kubeadm cluster's API servers: the policy, the log, and the nodes it applies to.",
    plural = "auditconfigurations",
    shortname = "auditcfg",
    category = "audit",
    status = "AuditConfigurationStatus",
    derive = "PartialEq",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes.total"),
    printcolumn(name = "Ready Nodes", type_ = "integer", json_path = ".status.nodes.ready"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Waiting On", type_ = "string", json_path = ".status.waitingOn")
)]
#[serde(rename_all = "camelCase")]
pub struct AuditConfigurationSpec {
    /// Which nodes it applies to; by default every control-plane node of kubeadm. Only nodes that run the agent can
    /// follow. When two AuditConfigurations select one node, the older one has it.
    #[serde(default = "control_plane")]
    #[schemars(transform = super::rules::of_selector)]
    pub node_selector: LabelSelector,
    /// What is recorded.
    pub policy: PolicySource,
    /// The log file backend of kube-apiserver.
    #[serde(default)]
    pub log: LogBackend,
    /// What to do about audit flags that somebody else has put into a manifest: `Refuse` (the default) writes nothing
    /// and names them, unless they are equal to the wanted ones; `TakeOver` replaces and removes them.
    #[serde(default)]
    pub existing_flags: ExistingFlags,
    /// Manifests kept on each node from before each change.
    #[serde(default)]
    pub backups: Backups,
    /// How the change is brought to the nodes, one at a time.
    #[serde(default)]
    pub rollout: Rollout,
    /// How often each node proves that its API server still logs.
    #[serde(default)]
    pub proof: Proof,
}

fn control_plane() -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(super::CONTROL_PLANE_LABEL.to_owned(), String::new())])),
        match_expressions: None,
    }
}

/// The policy: exactly one of `profile`, `inline` and `configMapRef`, with rules before and after it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.profile) ? 1 : 0) + (has(self.inline) ? 1 : 0) + (has(self.configMapRef) ? 1 : 0) == 1",
    "exactly one of `profile`, `inline` and `configMapRef` is needed"
))]
#[x_kube(validation = (
    "!has(self.inline) || (has(self.inline.rules) && self.inline.rules.size() > 0) || \
     (has(self.prepend) && self.prepend.size() > 0) || (has(self.append) && self.append.size() > 0)",
    "a policy needs at least one rule: add `- level: Metadata` to log everything without bodies"
))]
pub struct PolicySource {
    /// A built-in policy: `Metadata` (who did what to which object, of every request), `Recommended` (the same
    /// without the noise of the cluster's own components), `WriteRequestBodies` (also what was sent with writes, never
    /// Secrets), `Forensic` (also what came back).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// A policy in the words of audit.k8s.io/v1 (without `apiVersion` and `kind`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Policy>,
    /// A ConfigMap that holds a whole audit.k8s.io/v1 policy file. A change of it is a change of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapRef>,
    /// Rules before those of the policy; the first rule that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub prepend: Vec<PolicyRule>,
    /// Rules after those of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub append: Vec<PolicyRule>,
    /// A fixed path for the policy file on the nodes, e.g. `/etc/kubernetes/audit-policy.yaml`. By default each revision
    /// has a file of its own, `/etc/kubernetes/audit/policy-<revision>.yaml`, which is safer: an API server that
    /// crashes in the middle of a change never starts with a policy that was not proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 2, max = 512),
        regex(pattern = r"^/[^:*?<>|\s]*[^/:*?<>|\s]$"),
        transform = super::rules::of_policy_path
    )]
    pub path: Option<String>,
}

/// A key of a ConfigMap.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapRef {
    /// Its namespace: the operator's own, or one the chart was told of (`policyConfigMapNamespaces`).
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key whose value is the policy file.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// kube-apiserver's log backend. `path`, `maxAge`, `maxBackups` and `maxSize` are always written to the manifest, because
/// kube-apiserver's own defaults for them changed in 1.36; the other flags only when they are given here.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.batch) || (has(self.mode) && self.mode == 'batch')",
    "`batch` needs `mode: batch`; kube-apiserver ignores it otherwise"
))]
pub struct LogBackend {
    /// The log file, `--audit-log-path`. Its folder is mounted into the API server's Pod, because rotation renames files;
    /// `-` writes to the container's standard output instead and mounts nothing.
    #[serde(default = "default_path")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^(-|/[^:*?<>|\s]+/[^/:*?<>|\s]+)$"),
        transform = super::rules::of_log_path
    )]
    pub path: String,
    /// Days a rotated file is kept, `--audit-log-maxage`; 0 keeps it until `maxBackups` removes it.
    #[serde(default = "default_max_age")]
    #[schemars(range(min = 0, max = 36500))]
    pub max_age: u32,
    /// Rotated files kept, `--audit-log-maxbackup`; 0 keeps all.
    #[serde(default = "default_max_backups")]
    #[schemars(range(min = 0, max = 100000))]
    pub max_backups: u32,
    /// MiB at which the file is rotated, `--audit-log-maxsize`. At least 1: kube-apiserver 1.36 and later take 0 for "never
    /// rotate", earlier ones for 100.
    #[serde(default = "default_max_size")]
    #[schemars(range(min = 1, max = 1048576))]
    pub max_size: u32,
    /// Compress rotated files with gzip, `--audit-log-compress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
    /// `json` or `legacy`, `--audit-log-format`. Only `json` can be searched with `kubectl audit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// `--audit-log-mode`: `blocking` writes within the request, `blocking-strict` also fails a request that cannot be
    /// recorded when it is received, `batch` writes later and drops events when its buffer is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<LogMode>,
    /// The buffer of `mode: batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// What happens to events that are too large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<Truncate>,
}

fn default_path() -> String {
    "/var/log/kubernetes/audit/audit.log".to_owned()
}
fn default_max_age() -> u32 {
    30
}
fn default_max_backups() -> u32 {
    10
}
fn default_max_size() -> u32 {
    100
}

impl Default for LogBackend {
    fn default() -> Self {
        Self {
            path: default_path(),
            max_age: default_max_age(),
            max_backups: default_max_backups(),
            max_size: default_max_size(),
            compress: None,
            format: None,
            mode: None,
            batch: None,
            truncate: None,
        }
    }
}

/// `--audit-log-format`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON event a line.
    #[serde(rename = "json")]
    Json,
    /// One line of text an event.
    #[serde(rename = "legacy")]
    Legacy,
}

/// `--audit-log-mode`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// Within the request.
    #[serde(rename = "blocking")]
    Blocking,
    /// Within the request, which fails when it cannot be recorded at its start.
    #[serde(rename = "blocking-strict")]
    BlockingStrict,
    /// Later, from a buffer.
    #[serde(rename = "batch")]
    Batch,
}

/// The buffer of `mode: batch`. What is not given keeps kube-apiserver's default.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.throttleEnable) || !self.throttleEnable || (has(self.throttleQPS) && has(self.throttleBurst))",
    "`throttleEnable` needs `throttleQPS` and `throttleBurst`; kube-apiserver does not start without them"
))]
pub struct Batch {
    /// Events the buffer holds, `--audit-log-batch-buffer-size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000000))]
    pub buffer_size: Option<u32>,
    /// Events written at once, `--audit-log-batch-max-size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000000))]
    pub max_size: Option<u32>,
    /// The longest an event waits, `--audit-log-batch-max-wait`, e.g. `500ms` or `1m30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^(0|([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+)$"))]
    pub max_wait: Option<String>,
    /// Bound the rate, `--audit-log-batch-throttle-enable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_enable: Option<bool>,
    /// Batches a second, `--audit-log-batch-throttle-qps`.
    #[serde(default, rename = "throttleQPS", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub throttle_qps: Option<u32>,
    /// Batches at once after a pause, `--audit-log-batch-throttle-burst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub throttle_burst: Option<u32>,
}

/// What happens to events that are too large: bodies are dropped, then the event.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.maxBatchSize) ? self.maxBatchSize : 10485760) >= (has(self.maxEventSize) ? self.maxEventSize : 102400)",
    "`maxBatchSize` must be at least `maxEventSize`; kube-apiserver does not start otherwise"
))]
pub struct Truncate {
    /// `--audit-log-truncate-enabled`.
    pub enabled: bool,
    /// Bytes of a batch, `--audit-log-truncate-max-batch-size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1073741824))]
    pub max_batch_size: Option<u32>,
    /// Bytes of an event, `--audit-log-truncate-max-event-size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1073741824))]
    pub max_event_size: Option<u32>,
}

/// What to do about audit flags of somebody else.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingFlags {
    /// Write nothing and name them.
    #[default]
    Refuse,
    /// Replace and remove them.
    TakeOver,
}

impl From<ExistingFlags> for Existing {
    fn from(flags: ExistingFlags) -> Self {
        match flags {
            ExistingFlags::Refuse => Self::Refuse,
            ExistingFlags::TakeOver => Self::TakeOver,
        }
    }
}

/// Manifests kept on each node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Backups {
    /// How many, newest first; they lie in `/var/lib/audit-operator/backups`.
    #[serde(default = "default_keep")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u32,
}

fn default_keep() -> u32 {
    10
}

impl Default for Backups {
    fn default() -> Self {
        Self { keep: default_keep() }
    }
}

/// How far it is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuditConfigurationStatus {
    /// Generation of the spec that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Revision the spec renders to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The selected nodes, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// What the rollout waits for, in words; absent when it waits for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_on: Option<String>,
    /// Ready, Progressing, Degraded and Stalled, always all four.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// The selected nodes, counted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Selected.
    pub total: u32,
    /// Whose manifest holds the revision.
    pub updated: u32,
    /// Which run the revision and are healthy.
    pub ready: u32,
    /// Which need a person: an install failed or was rolled back, or an event does not land.
    pub failed: u32,
}
