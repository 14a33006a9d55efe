//! `AuditNode`: one control-plane node, where the controller says what may be done and the agent what is.
//!
//! The handshake: the controller sets `spec.revision`; the agent computes the change to its own manifest and reports it
//! as `status.plan`, diff included, before anything is written; the controller puts that plan's two digests into
//! `spec.permit`; the agent carries out exactly that pair and nothing else.
#![allow(clippy::duplicated_attributes, reason = "each printer column has its own type_ and name")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Level;

use super::configuration::ExistingFlags;
use super::rollout::StandIn;

/// One control-plane node's audit settings: what is wanted (written by the controller) and what is (by the agent).
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "audit-operator.dev",
    version = "v1alpha1",
    kind = "AuditNode",
    doc = "One control-plane node's audit settings: what is wanted (written by the controller) and what is (by the agent).",
    plural = "auditnodes",
    shortname = "auditnode",
    category = "audit",
    status = "AuditNodeStatus",
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
    printcolumn(name = "Step", type_ = "string", json_path = ".status.install.state"),
    printcolumn(
        name = "Proven",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Proven")].status"#
    ),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Wanted", type_ = "string", json_path = ".spec.revision", priority = 1),
    printcolumn(name = "API Server", type_ = "string", json_path = ".status.kubeAPIServerVersion"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    // Last, because it is long; empty on a node that waits for nothing.
    printcolumn(
        name = "Waiting On",
        type_ = "string",
        json_path = r".metadata.annotations.audit-operator\.dev/waiting-on"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AuditNodeSpec {
    /// The AuditConfiguration that has this node; absent when none does, and then its audit settings are taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub configuration: Option<String>,
    /// The wanted revision, absent for no audit settings at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
    /// The one plan that may be carried out, absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<Permit>,
    /// What to do about audit flags of somebody else.
    #[serde(default)]
    pub existing_flags: ExistingFlags,
    /// Manifests kept from before each change.
    #[serde(default = "default_keep_backups")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_backups: u32,
    /// Seconds the API server may take to become ready with the new manifest; then the node goes back.
    #[serde(default = "default_health_timeout_seconds")]
    #[schemars(range(min = 30, max = 3600))]
    pub health_timeout_seconds: u32,
    /// Whether a second API server may run for the time of a change.
    #[serde(default)]
    pub stand_in: StandIn,
    /// Whether other control-plane nodes have API servers, too. Then a stand-in says that it is not ready while it serves,
    /// so that balancers turn to the others.
    #[serde(default)]
    pub highly_available: bool,
    /// Seconds between two proofs that an event lands; 0 makes none but those after a change.
    #[serde(default = "default_proof_interval_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub proof_interval_seconds: u32,
    /// The AuditConfiguration whose approval is needed to take this node's settings out, as long as it has not approved
    /// that with `approvedRevision: none`; absent when none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub removal_held_by: Option<String>,
}

fn default_keep_backups() -> u32 {
    10
}

fn default_health_timeout_seconds() -> u32 {
    300
}

fn default_proof_interval_seconds() -> u32 {
    600
}

/// Permission to carry out one plan, identified by both sides of its change.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    /// Digest of the manifest before, `sha256:<hex>`.
    #[schemars(length(max = 80))]
    pub from: String,
    /// Digest of the manifest after.
    #[schemars(length(max = 80))]
    pub to: String,
    /// Identity of the failed install that this permit is another try of; absent when it is none. Without it, a change
    /// that failed on the node is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub retry_of: Option<String>,
}

/// What is on the node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuditNodeStatus {
    /// Generation of the spec the agent has looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Version of this node's kube-apiserver, from the tag of its image.
    #[serde(default, rename = "kubeAPIServerVersion", skip_serializing_if = "Option::is_none")]
    pub kube_api_server_version: Option<String>,
    /// Where this node's own API server answers, e.g. `https://198.51.100.11:6443`; asked before another node is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub api_server_address: Option<String>,
    /// Revision in the manifest on the node's disk, absent when it has no settings of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The change that is wanted and not made yet, absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The last install, absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<Install>,
    /// The last proof that an event lands in this node's log, absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Ready: the wanted revision runs and is healthy. Proven: an event lands in its log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// The change from the manifest on the disk to the one that is wanted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The revision it brings, absent when it takes the settings out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Digest of the manifest on the disk.
    pub from: String,
    /// Digest of the manifest that would be written; equal to `from` when only files are missing.
    pub to: String,
    /// Unified diff of the manifest; values that look like secrets are masked, and a long one is cut.
    pub diff: String,
    /// Files that would be written beside the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// What became of an install.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Install {
    /// The order's identity, as in the journal on the node.
    pub id: String,
    /// The journal's state, e.g. `Verifying`, `Settled`, `RolledBack`.
    pub state: String,
    /// Digest of the manifest before.
    pub from: String,
    /// Digest of the manifest after.
    pub to: String,
    /// When that state was reached.
    pub since: Time,
    /// What there is to say about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The manifest from before, on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// What was rehearsed before the live API server was touched.
    #[serde(default)]
    pub rehearsal: Rehearsal,
    /// The states gone through, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub steps: Vec<Step>,
    /// Milliseconds without an answer on this node's port during the install, absent when they were not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered_milliseconds: Option<i64>,
}

/// What was rehearsed before the live API server was touched.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rehearsal {
    /// A second API server became ready with the new settings and logged an event.
    Full,
    /// Only that a server starts with them, without etcd: memory was short, or `standIn` is `Never`.
    StartOnly,
    /// Nothing.
    #[default]
    None,
}

/// A state that an install went through.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The journal's state.
    #[schemars(length(max = 64))]
    pub state: String,
    /// When it was reached, by the node's clock.
    pub time: Time,
    /// What there is to say about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A proof that an event lands: a harmless request to this node's API server, looked for in its log.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// When the request was made, by the node's clock.
    pub time: Time,
    /// The request's `Audit-ID`, by which its event can be found; absent when no request was made.
    #[serde(default, rename = "auditID", skip_serializing_if = "Option::is_none")]
    pub audit_id: Option<String>,
    /// The request, in words; absent when none was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The level that the policy gives the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The rule of the policy that decides about it, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// Milliseconds from the request to its event in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_milliseconds: Option<i64>,
    /// What came of it.
    pub result: ProofResult,
    /// What there is to say about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What came of a proof.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofResult {
    /// The event was found, at the level that was predicted.
    Landed,
    /// It was not found in time.
    Missing,
    /// The policy logs none of the requests that could prove it, or the log cannot be read.
    Unprovable,
}
