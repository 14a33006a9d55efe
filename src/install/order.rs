//! The order: everything one install needs, in one file on the node, so that it can be carried out with no API server.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::manifest;

/// Format of the file; a reader refuses one it does not know.
/// Format 1 had no `rehearsal`.
pub const VERSION: u32 = 2;

/// Where order, journal, backups and last known good lie on a node; never in the manifests folder, whose every file the
/// kubelet runs.
pub const STATE_FOLDER: &str = "/var/lib/audit-operator";

/// How long a new API server may take to be healthy, in seconds. kubeadm's own limit for the same wait
/// (`Timeouts.upgradeManifests`) is 5 minutes too.
pub const HEALTH_TIMEOUT_SECONDS: u32 = 300;

/// One install to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Format, [`VERSION`].
    pub version: u32,
    /// Identity: the time it was given and the first digits of `to`.
    pub id: String,
    /// When it was given.
    pub created: Timestamp,
    /// The revision it brings, `None` when it takes our settings out.
    pub revision: Option<String>,
    /// The manifest's path on the node.
    pub manifest: String,
    /// Digest of the manifest that must be there before.
    pub from: String,
    /// Digest of `target`; equal to `from` when only files are missing.
    pub to: String,
    /// The manifest to write, whole.
    pub target: String,
    /// The manifest from before our first settings, whole: what taking them out brings back byte for byte.
    pub original: Option<String>,
    /// Folders of logs to make, 0700, where they lie on something that can be written to; the kubelet makes the others when
    /// it starts the Pod, 0755.
    #[serde(default)]
    pub log_folders: Vec<String>,
    /// Files to write before the manifest.
    pub files: Vec<OrderedFile>,
    /// Backups of the manifest that are kept on the node, newest first.
    pub keep_backups: u32,
    /// Seconds the new manifest has until it is healthy, and then again the old one when it is put back.
    pub health_timeout_seconds: u32,
    /// Whether a stand-in is used.
    #[serde(default)]
    pub rehearsal: Rehearsal,
    /// Where other control-plane nodes have API servers, too: how long the stand-in goes on serving after it was told to
    /// end, which is at the swap (`--shutdown-delay-duration`). Its /readyz fails all that time, so that a balancer turns
    /// to the others before this node's port goes back to a server that is only starting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_delay_seconds: Option<u32>,
}

/// Whether and how a second API server tries the change before anything live is touched, and serves meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rehearsal {
    /// A whole stand-in that also serves while the live one restarts; where memory is short, only a start without etcd.
    #[default]
    Auto,
    /// Only a start without etcd.
    StartOnly,
    /// Nothing, for break-glass: what is wrong with the change shows on the live API server.
    None,
}

/// A file an install writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderedFile {
    /// Its path on the node.
    pub path: String,
    /// What shall be in it.
    pub content: String,
    /// What was in it before, when the path is a fixed one and so is written over; put back with the manifest.
    pub previous: Option<String>,
}

impl OrderedFile {
    /// Digest of the content.
    pub fn digest(&self) -> String {
        manifest::digest(self.content.as_bytes())
    }
}

impl Order {
    /// The identity of an order given at `created` for a manifest with digest `to`. It must never be given twice, also when
    /// the same change is ordered again in the same second: the journal of the first would be taken for the second's.
    pub fn id(created: Timestamp, to: &str) -> String {
        let digits = to.strip_prefix("sha256:").unwrap_or(to);
        format!("{}-{}", created.strftime("%Y%m%dT%H%M%S%.6fZ"), &digits[..digits.len().min(8)])
    }

    /// Where the manifest from before is kept on the node.
    pub fn backup(&self) -> String {
        format!("{STATE_FOLDER}/backups/kube-apiserver-{}.yaml", self.id)
    }

    /// Whether it changes files only and leaves the manifest as it is.
    pub fn only_files(&self) -> bool {
        self.from == self.to
    }
}

/// An order's identity as a part of Kubernetes names: lower case, without dots.
pub fn label(id: &str) -> String {
    id.to_lowercase().replace('.', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_change_ordered_again_at_once_is_another_order() {
        let at = |time: &str| Order::id(time.parse().expect("a time"), "sha256:0123456789");
        assert_eq!(at("2026-01-02T03:04:05.678901Z"), "20260102T030405.678901Z-01234567");
        assert_ne!(at("2026-01-02T03:04:05.678901Z"), at("2026-01-02T03:04:05.678902Z"));
        assert!(
            at("2026-01-02T03:04:05Z") < at("2026-01-02T03:04:05.1Z"),
            "backups are kept by the order of their names"
        );
    }
}
