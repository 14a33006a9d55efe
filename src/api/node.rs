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

use super::configuration::ExistingFlags;

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
    printcolumn(name = "Wanted", type_ = "string", json_path = ".spec.revision"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "API Server", type_ = "string", json_path = ".status.kubeAPIServerVersion"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
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
}

fn default_keep_backups() -> u32 {
    10
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
    /// Revision in the manifest on the node's disk, absent when it has no settings of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The change that is wanted and not made yet, absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The last install, absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<Install>,
    /// Ready: the wanted revision runs and is healthy.
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
}
