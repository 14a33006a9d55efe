//! The kube-apiserver static Pod manifest as text: read it, put audit settings in, take them out, show the difference.
//!
//! The idea: a manifest is an administrator's file, so nothing is ever re-serialised. The text is parsed into a tree
//! that knows where every node begins and ends (`tree`), what to change is decided on what the tree says (`pod`,
//! `plan`, `mounts`), and only those bytes are replaced (`splice`). Every other line stays as it is, byte for
//! byte. `guard` then checks the result by other means, and what does not pass it never leaves this module.
//!
//! Why splices on the events of `granit-parser` and not an editing library: `yaml-edit` writes an inserted flag as
//! `'--audit-log-path=…'`, quoted, while kubeadm writes it plain, and the result has to be what kubeadm itself writes.
//! It also covers block lists, flow lists and JSON with the same few operations.
//!
//! Whose is what:
//! - With [`REVISION_ANNOTATION`] on the Pod every `--audit-*` flag is ours, and so is every mount that serves one of
//!   them: the mount from which the API server reads the flag's path, if it is mounted at exactly that file or its
//!   folder and no other argument or environment variable names a path in it. A volume is ours when all its mounts are.
//! - Without it, audit settings belong to somebody else. They are adopted when they say what we want anyway, and
//!   otherwise refused ([`Existing::Refuse`]) or made ours ([`Existing::TakeOver`]).
//! - A flag that is given twice counts with its last value, as for the server. When that value has to change, the
//!   last one is replaced and the earlier ones are removed.
//! - [`unpatch`] removes what is ours. It restores the earlier bytes exactly if there were no audit settings before;
//!   settings that were adopted or taken over are removed with the rest, and live on only in the backup.
//!
//! Places: kubeadm sorts mounts and volumes by volume name and writes `extraArgs` after its own flags in the order
//! they were given (since 1.36, and the patch releases of 1.32 to 1.35 from February 2026: kubernetes/kubernetes
//! PR 135400). So flags go to the end in the order of [`Settings::flags`], and mounts and volumes to their sorted
//! place if the list is sorted: the result is what kubeadm writes for the same settings.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

mod diff;
mod guard;
mod mask;
mod mounts;
mod patch;
mod plan;
mod pod;
mod read;
mod scalar;
mod settings;
mod splice;
#[cfg(test)]
mod tests;
mod tree;

pub use diff::{Diff, diff};
pub use patch::{patch, unpatch};
pub use read::{Manifest, Probe, ReadFlag, Volume, VolumeMount, read};

/// The Pod annotation that says which revision the audit settings in a manifest come from, and that they are ours.
pub const REVISION_ANNOTATION: &str = "audit-operator.dev/revision";

/// The kubelet reads no more of a manifest (`maxConfigLength` in its file source).
const MAX_BYTES: usize = 10 << 20;

/// One command-line flag of kube-apiserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flag {
    /// Name without dashes in front: `audit-log-path`.
    pub name: String,
    /// Value as written after `=`; a boolean flag has `true` or `false`.
    pub value: String,
}

/// A folder or file of the node that kube-apiserver needs to see: one volume and its one mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Volume name: a DNS label.
    pub name: String,
    /// Absolute path on the node.
    pub host_path: String,
    /// Absolute path in the container: a path given to an audit flag, or the folder of one.
    pub mount_path: String,
    /// What the kubelet requires at `host_path`, or creates there.
    pub path_type: PathType,
    /// Whether the container may only read.
    pub read_only: bool,
}

/// The types of a hostPath volume that audit settings use (`v1.HostPathType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathType {
    /// A file that must exist.
    File,
    /// A folder that must exist.
    Directory,
    /// A folder, created when missing (mode 0755).
    DirectoryOrCreate,
    /// A file, created empty when missing.
    FileOrCreate,
}

impl PathType {
    /// The word in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            PathType::File => "File",
            PathType::Directory => "Directory",
            PathType::DirectoryOrCreate => "DirectoryOrCreate",
            PathType::FileOrCreate => "FileOrCreate",
        }
    }
}

/// Everything we want in a manifest, and nothing else of audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The `--audit-*` flags, in the order kubeadm's `extraArgs` has them.
    pub flags: Vec<Flag>,
    /// The mounts these flags need.
    pub mounts: Vec<Mount>,
    /// What [`REVISION_ANNOTATION`] is set to.
    pub revision: String,
}

/// What to do about audit flags that are in a manifest without our annotation and say something else than we want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse, naming each of them.
    Refuse,
    /// They are ours from now on: changed, and removed where not wanted.
    TakeOver,
}

/// One reason why a manifest is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Stable name of the reason, in kebab case.
    pub code: &'static str,
    /// Line of the manifest, counted from 1, where there is one.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Refusal {
    fn new(code: &'static str, line: impl Into<Option<usize>>, message: impl Into<String>) -> Self {
        Self { code, line: line.into(), message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// All the reasons found, at least one, in the order of the manifest where they have a place in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusals(pub Vec<Refusal>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, refusal) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{refusal}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}

impl From<Refusal> for Refusals {
    fn from(refusal: Refusal) -> Self {
        Self(vec![refusal])
    }
}

/// The text of a manifest file, if the kubelet could read it: UTF-8 without NUL, not empty, at most 10 MiB.
pub fn decode(bytes: &[u8]) -> Result<&str, Refusals> {
    if bytes.len() > MAX_BYTES {
        let message =
            format!("the file has {} bytes; the kubelet reads no more than {MAX_BYTES}", bytes.len());
        return Err(Refusal::new("too-long", None, message).into());
    }
    let line_at = |offset: usize| bytes[..offset].iter().filter(|&&b| b == b'\n').count() + 1;
    let text = std::str::from_utf8(bytes).map_err(|e| {
        Refusal::new("not-utf8", line_at(e.valid_up_to()), "not UTF-8 text: is this the manifest?")
    })?;
    if let Some(offset) = text.find('\0') {
        let message = "a NUL byte: the file is damaged, restore it from a backup";
        return Err(Refusal::new("nul-byte", line_at(offset), message).into());
    }
    if text.trim().is_empty() {
        return Err(Refusal::new("empty", None, "the file is empty: restore it from a backup").into());
    }
    Ok(text)
}

/// Content digest by which plans and backups name a manifest: `sha256:` and 64 hex digits.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
