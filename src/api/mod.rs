//! The API group `audit-operator.dev/v1alpha1`: its types, every string a user can meet, and the way from a spec to
//! what is rendered.
//!
//! `AuditConfiguration` is what the administrator wants. `AuditNode` is where controller and agent meet: the
//! controller alone writes its `spec`, that node's agent alone its `status`. Field documentation is user
//! documentation (`kubectl explain`).

pub mod configuration;
pub mod convert;
mod duration;
pub mod node;
pub mod rollout;
mod rules;
pub mod schema;

pub use configuration::{AuditConfiguration, AuditConfigurationSpec, AuditConfigurationStatus};
pub use node::{AuditNode, AuditNodeSpec, AuditNodeStatus};

/// Field manager of everything the controller applies.
pub const CONTROLLER_FIELD_MANAGER: &str = "audit-operator-controller";
/// Field manager of what an agent applies: the status of its own AuditNode.
pub const AGENT_FIELD_MANAGER: &str = "audit-operator-agent";
/// The Lease, in the operator's namespace, that the one working controller holds.
pub const LEASE: &str = "audit-operator-controller";
/// Label on every object that the operator makes.
pub const MANAGED_BY_LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "audit-operator");
/// Label on a bundle Secret; its value is the revision.
pub const REVISION_LABEL: &str = "audit-operator.dev/revision";
/// Key in a bundle Secret that holds [`crate::revision::Rendered`] as JSON.
pub const BUNDLE_KEY: &str = "rendered.json";
/// Key in a bundle Secret that holds the policy file, for people.
pub const BUNDLE_POLICY_KEY: &str = "policy.yaml";
/// Annotation of an AuditNode: what the node waits for before its plan is permitted, in words; absent when it waits for
/// nothing. An annotation and no field of `spec`, because it orders nothing: a change of it makes no new generation
/// that the agent would have to look at. An agent cannot write it: it may patch `status` only.
pub const WAITING_ON_ANNOTATION: &str = "audit-operator.dev/waiting-on";
/// Annotation of an AuditNode that a person sets: the identity of a failed install whose very change is to be tried again,
/// because its cause was mended on the node.
pub const RETRY_ANNOTATION: &str = "audit-operator.dev/retry";
/// Label of a control-plane node; kubeadm sets it (with an empty value) on every one.
pub const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";
/// Secrets and bundles kept beside those in use, newest first: enough to look back, bounded.
pub const BUNDLE_HISTORY: usize = 10;

/// Name of the Secret that holds a revision's bundle.
pub fn bundle_name(revision: &str) -> String {
    format!("audit-revision-{revision}")
}

/// A message as an event's note, which may have 1024 bytes.
pub fn event_note(message: &str) -> String {
    const MAX_BYTES: usize = 1000;
    let end = (0..=message.len().min(MAX_BYTES)).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
    message[..end].to_owned()
}
