//! `spec.rollout` and `spec.proof`: how a change is brought to the nodes, and how often a node proves that it logs.
//!
//! Lengths of time are Kubernetes' duration strings here and whole seconds in an AuditNode's spec, so that an agent has
//! nothing left to parse.
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a private scope")]

use std::time::Duration;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Finding;
use crate::install::Rehearsal;

use super::duration;

/// What `approvedRevision` says to approve that the audit settings are taken out.
const NO_REVISION: &str = "none";

/// The bounds of `healthTimeout`.
const HEALTH_TIMEOUT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
/// The bounds of `proof.interval`, when it is not 0.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// How a change is brought to the nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "duration(self.healthTimeout) >= duration('30s') && duration(self.healthTimeout) <= duration('1h')",
    "`healthTimeout` must be from 30s to 1h"
))]
pub struct Rollout {
    /// `Automatic` (the default) brings a new revision to the nodes as soon as it is known. `Manual` changes no node until
    /// `approvedRevision` names the revision.
    #[serde(default)]
    pub approval: Approval,
    /// The revision that may be brought to the nodes under `approval: Manual`; `status.revision` and `kubectl audit
    /// render` say it. `none` approves that the audit settings are taken out when the AuditConfiguration is deleted or no
    /// longer selects a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub approved_revision: Option<String>,
    /// No node gets a permit while this is true; plans are still reported, and an install under way is finished.
    #[serde(default)]
    pub paused: bool,
    /// How long a node's API server may take to become ready with the new manifest, from 30s to 1h; then the node goes back
    /// to the last known good one.
    #[serde(default = "default_health_timeout")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$"))]
    pub health_timeout: String,
    /// Seconds a changed node must have been ready before the next one is changed.
    #[serde(default = "default_min_ready_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub min_ready_seconds: u32,
    /// Whether a second API server may run on a node for the time of a change: it rehearses the change before anything
    /// live is touched, and serves while the live one restarts. `Auto` (the default): where memory allows.
    #[serde(default)]
    pub stand_in: StandIn,
}

fn default_health_timeout() -> String {
    "5m".to_owned()
}

fn default_min_ready_seconds() -> u32 {
    30
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            approval: Approval::default(),
            approved_revision: None,
            paused: false,
            health_timeout: default_health_timeout(),
            min_ready_seconds: default_min_ready_seconds(),
            stand_in: StandIn::default(),
        }
    }
}

/// Who says that a revision may be brought to the nodes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approval {
    /// Nobody has to.
    #[default]
    Automatic,
    /// A person, in `approvedRevision`.
    Manual,
}

/// Whether a second API server may run for the time of a change.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StandIn {
    /// Where memory allows.
    #[default]
    Auto,
    /// Nowhere.
    Never,
}

impl From<StandIn> for Rehearsal {
    fn from(stand_in: StandIn) -> Self {
        match stand_in {
            StandIn::Auto => Self::Auto,
            StandIn::Never => Self::StartOnly,
        }
    }
}

/// How often each node proves that its API server still logs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "duration(self.interval) == duration('0s') || (duration(self.interval) >= duration('1m') && duration(self.interval) <= duration('24h'))",
    "`interval` must be 0s (off) or from 1m to 24h"
))]
pub struct Proof {
    /// Time between two proofs, from 1m to 24h; `0s` switches the repeated proof off. The proof after a change is always
    /// made.
    #[serde(default = "default_interval")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$"))]
    pub interval: String,
}

fn default_interval() -> String {
    "10m".to_owned()
}

impl Default for Proof {
    fn default() -> Self {
        Self { interval: default_interval() }
    }
}

impl Rollout {
    /// `healthTimeout` in whole seconds; `None` when it is no duration or out of bounds.
    pub fn health_timeout_seconds(&self) -> Option<u32> {
        let timeout = duration::parse(&self.health_timeout)?;
        (HEALTH_TIMEOUT.0..=HEALTH_TIMEOUT.1).contains(&timeout).then(|| whole_seconds(timeout))
    }
}

impl Proof {
    /// `interval` in whole seconds, 0 for off; `None` when it is no duration or out of bounds.
    pub fn interval_seconds(&self) -> Option<u32> {
        let interval = duration::parse(&self.interval)?;
        (interval.is_zero() || (INTERVAL.0..=INTERVAL.1).contains(&interval)).then(|| whole_seconds(interval))
    }
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).expect("a day has fewer seconds than u32 holds")
}

/// Whether the audit settings may be taken out of a node.
pub fn removal_is_approved(rollout: &Rollout) -> bool {
    rollout.approval == Approval::Automatic || rollout.approved_revision.as_deref() == Some(NO_REVISION)
}

/// Everything that is wrong with the two sections, each at its field.
pub(super) fn findings(rollout: &Rollout, proof: &Proof) -> Vec<Finding> {
    let mut findings = Vec::new();
    if rollout.health_timeout_seconds().is_none() {
        let message =
            format!("`{}` is not a duration from 30s to 1h, such as `5m` or `1m30s`", rollout.health_timeout);
        findings.push(Finding::operator("health-timeout", "spec.rollout.healthTimeout", message));
    }
    if proof.interval_seconds().is_none() {
        let message = format!(
            "`{}` is neither `0s` (off) nor a duration from 1m to 24h, such as `10m`",
            proof.interval
        );
        findings.push(Finding::operator("proof-interval", "spec.proof.interval", message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(health_timeout: &str, interval: &str, expected: (Option<u32>, Option<u32>), codes: &[&str]) {
        let rollout = Rollout { health_timeout: health_timeout.to_owned(), ..Rollout::default() };
        let proof = Proof { interval: interval.to_owned() };
        assert_eq!((rollout.health_timeout_seconds(), proof.interval_seconds()), expected);
        let found: Vec<_> = findings(&rollout, &proof).iter().map(|f| f.code).collect();
        assert_eq!(found, codes);
    }

    #[test]
    fn lengths_of_time_have_their_bounds() {
        check("5m", "10m", (Some(300), Some(600)), &[]);
        check("30s", "0s", (Some(30), Some(0)), &[]);
        check("1h", "24h", (Some(3600), Some(86_400)), &[]);
        check("29s", "59s", (None, None), &["health-timeout", "proof-interval"]);
        check("1h1s", "24h1s", (None, None), &["health-timeout", "proof-interval"]);
        check("soon", "-1m", (None, None), &["health-timeout", "proof-interval"]);
    }
}
