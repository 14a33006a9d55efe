//! Conditions: their types, their reasons, and how one is set.
//!
//! Every reason a person can meet is a variant of [`Reason`] and has a heading in `docs/runbook.md` (a test compares).
//! The rules for setting one are Kubernetes' own (`sig-architecture/api-conventions.md`): the time of the last
//! transition moves only when the status does, and `observedGeneration` says which spec was judged.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// The object's wish is carried out.
    Ready,
    /// Work is under way or waits for its turn.
    Progressing,
    /// Something a person has to look at.
    Degraded,
    /// Nothing goes on by itself until a person has looked: what Flux, Helm's `--wait` and others that follow kstatus take for a
    /// failure, where they would wait for Ready in vain.
    Stalled,
    /// A node's audit events land in its log.
    Proven,
}

impl Type {
    /// The string in the API object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::Stalled => "Stalled",
            Self::Proven => "Proven",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl Status {
    /// The string in the API object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a condition has its status; each has a page in `docs/runbook.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// All of them, for the test that compares them with the runbook.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The CamelCase string in the API object.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    /// Every selected node runs the revision.
    AllNodesReady,
    /// The node runs the wanted revision.
    Settled,
    /// The node has no audit settings of ours, and none are wanted.
    NothingWanted,
    /// Nothing is under way.
    Idle,
    /// Nothing is wrong.
    AsExpected,
    /// A node waits for the controller's permit for its plan.
    WaitingForPermit,
    /// An install is being carried out on the node.
    Installing,
    /// Nodes are being changed, one at a time.
    RollingOut,
    /// `spec.rollout.paused` is true.
    Paused,
    /// `spec.rollout.approval` is Manual, and `approvedRevision` does not name what waits.
    ApprovalNeeded,
    /// The rollout waits because a control-plane node is not ready.
    NodeNotReady,
    /// No node matches `spec.nodeSelector`.
    NoNodes,
    /// The agent has not looked at this object's newest spec yet.
    WaitingForAgent,
    /// The AuditConfiguration cannot be rendered; the message lists every finding.
    InvalidConfiguration,
    /// The policy's ConfigMap, or its key, is missing.
    ConfigMapMissing,
    /// An older AuditConfiguration already has one of the selected nodes.
    Conflict,
    /// The Secret with the rendered revision cannot be read or is damaged.
    BundleUnreadable,
    /// The node's kube-apiserver manifest cannot be read.
    ManifestUnreadable,
    /// The manifest is not understood or holds settings of somebody else; nothing was written.
    ManifestRefused,
    /// The node's kube-apiserver version would refuse the policy; nothing was written.
    PolicyRefused,
    /// A check before the install failed (folder, disk, another manifest of the same Pod); nothing was written.
    PreflightFailed,
    /// The install was refused before the manifest was touched.
    InstallRefused,
    /// The new manifest did not become ready; the last known good one is back and healthy.
    RolledBack,
    /// The manifest could not be put right; a person has to.
    InstallFailed,
    /// The change was rehearsed by a second API server and found bad; nothing live was touched.
    RehearsalFailed,
    /// The installer's static Pod did not start; nothing was touched.
    InstallerMissing,
    /// The log's files could grow beyond the free space; nothing was written.
    DiskBudget,
    /// At least one node failed; the rollout stands still.
    NodeFailed,
    /// An audit event was found in the node's log.
    ProofLanded,
    /// A request that the policy logs left no event in the node's log.
    ProofMissing,
    /// It cannot be proved that events land; the message says why.
    Unprovable,
    /// A proof has not been made yet.
    ProofPending,
}

/// Whether an AuditNode whose Ready or Proven condition has this reason needs a person; everything else passes by itself.
pub fn needs_a_person(reason: &str) -> bool {
    const BROKEN: &[Reason] = &[
        Reason::BundleUnreadable,
        Reason::ManifestUnreadable,
        Reason::ManifestRefused,
        Reason::PolicyRefused,
        Reason::PreflightFailed,
        Reason::InstallRefused,
        Reason::RolledBack,
        Reason::InstallFailed,
        Reason::RehearsalFailed,
        Reason::InstallerMissing,
        Reason::DiskBudget,
        Reason::ProofMissing,
    ];
    BROKEN.iter().any(|broken| broken.as_str() == reason)
}

/// Sets `type_` in `conditions`: replaced in place or added; the transition time moves only when the status does.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: Type,
    status: impl Into<Status>,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = status.into().as_str();
    let old = conditions.iter_mut().find(|c| c.type_ == type_.as_str());
    let last_transition_time = match &old {
        Some(c) if c.status == status => c.last_transition_time.clone(),
        // Kubernetes' times have whole seconds; finer ones would differ from what is read back.
        _ => Time(Timestamp::from_second(now.as_second()).expect("a second of a valid time stamp is valid")),
    };
    let new = Condition {
        type_: type_.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: bounded(message.into()),
        observed_generation: generation,
        last_transition_time,
    };
    match old {
        Some(c) => *c = new,
        None => conditions.push(new),
    }
}

/// The condition of this type, if it was ever set.
pub fn get(conditions: &[Condition], type_: Type) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == type_.as_str())
}

/// metav1.Condition allows 32 KiB; a quarter of it is more than anybody reads, and keeps the object small.
fn bounded(mut message: String) -> String {
    const MAX_BYTES: usize = 8 * 1024;
    if message.len() > MAX_BYTES {
        let mut end = MAX_BYTES;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("… (cut)");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        set(&mut conditions, Type::Ready, false, Reason::Installing, "a", Some(1), at(10));
        set(&mut conditions, Type::Ready, false, Reason::RolledBack, "b", Some(2), at(20));
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(
            (conditions[0].reason.as_str(), conditions[0].observed_generation),
            ("RolledBack", Some(2))
        );
        set(&mut conditions, Type::Ready, true, Reason::Settled, "", Some(2), at(30));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time.0, at(30));
    }

    #[test]
    fn a_long_message_is_cut_on_a_character() {
        let mut conditions = Vec::new();
        set(&mut conditions, Type::Ready, true, Reason::Settled, "ä".repeat(9000), None, at(1));
        assert!(conditions[0].message.len() < 9000);
        assert!(conditions[0].message.ends_with("(cut)"));
    }

    #[test]
    fn every_reason_has_a_heading_in_the_runbook() {
        let runbook = include_str!("../docs/runbook.md");
        for reason in Reason::ALL {
            let heading = format!("\n### {}\n", reason.as_str());
            assert!(runbook.contains(&heading), "docs/runbook.md has no heading {}", reason.as_str());
        }
    }
}
