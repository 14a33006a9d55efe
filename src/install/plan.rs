//! The plan of one node: from the manifest on its disk to the one that is wanted.

use jiff::Timestamp;

use crate::audit::{Finding, ServerVersion, Severity, ValidPolicy};
use crate::manifest::{self, Existing, Manifest, Refusals};
use crate::revision::Rendered;

use super::order::{self, Order, OrderedFile, Rehearsal};
use super::stand_in;

/// What is wanted of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The settings of this rendering.
    Audit(Box<Rendered>),
    /// No settings of ours.
    Nothing,
}

/// What is on a node, read just now.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The manifest's path.
    pub manifest_path: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Content of the policy file at the rendering's path, `None` when it is not there.
    pub policy_file: Option<Vec<u8>>,
    /// The last order that settled, which knows the original manifest.
    pub settled: Option<Order>,
}

/// The outcome of planning: what is there, and what would be written.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The manifest on the disk, read.
    pub manifest: Manifest,
    /// Its text.
    pub text: String,
    /// The text that is wanted; equal to `text` when only files are missing.
    pub target: String,
    /// Files to write.
    pub files: Vec<OrderedFile>,
    /// Warnings about the policy for this server's version.
    pub warnings: Vec<Finding>,
    original: Option<String>,
    wanted: Option<String>,
    log_folders: Vec<String>,
    manifest_path: String,
}

/// How a plan is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Backups of the manifest that are kept on the node.
    pub keep_backups: u32,
    /// Seconds the new manifest has until it is healthy.
    pub health_timeout_seconds: u32,
    /// Whether and how it is tried before.
    pub rehearsal: Rehearsal,
    /// Whether other control-plane nodes have API servers, too.
    pub highly_available: bool,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest is not understood, or somebody else's settings are in it.
    #[error("the manifest cannot be changed safely; nothing was written:\n{0}")]
    Manifest(Refusals),
    /// This node's API server would not start with the policy.
    #[error("kube-apiserver {version} on this node would refuse the policy; nothing was written:\n{}", lines(.findings))]
    Policy {
        /// Version of the node's API server.
        version: ServerVersion,
        /// Every finding.
        findings: Vec<Finding>,
    },
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Plans `wanted` on a node.
///
/// Taking the settings out brings back the original bytes when the manifest is still the one that the last settled
/// order wrote; otherwise (say, after `kubeadm upgrade`) ours are taken out of what is there now.
pub fn plan(facts: &NodeFacts, wanted: &Wanted, existing: Existing) -> Result<Planned, Error> {
    let text = manifest::decode(&facts.manifest).map_err(Error::Manifest)?;
    let read = manifest::read(text).map_err(Error::Manifest)?;
    let original = original(facts, text, &read);
    let (target, files, warnings) = match wanted {
        Wanted::Nothing if read.revision.is_none() => (text.to_owned(), Vec::new(), Vec::new()),
        Wanted::Nothing => {
            let target = match &original {
                Some(original) => original.clone(),
                None => manifest::unpatch(text).map_err(Error::Manifest)?,
            };
            (target, Vec::new(), Vec::new())
        }
        Wanted::Audit(rendered) => {
            let warnings = check_policy(rendered, &read)?;
            let target = manifest::patch(text, &rendered.settings, existing).map_err(Error::Manifest)?;
            (target, missing_files(facts, rendered), warnings)
        }
    };
    let log_folders = log_folders(manifest::read(&target).iter().chain([&read]));
    Ok(Planned {
        text: text.to_owned(),
        target,
        files,
        warnings,
        original,
        wanted: match wanted {
            Wanted::Audit(rendered) => Some(rendered.revision().to_owned()),
            Wanted::Nothing => None,
        },
        log_folders,
        manifest_path: facts.manifest_path.clone(),
        manifest: read,
    })
}

/// The manifest without our settings, byte for byte, when it is known.
fn original(facts: &NodeFacts, text: &str, read: &Manifest) -> Option<String> {
    if read.revision.is_none() {
        return Some(text.to_owned());
    }
    let settled = facts.settled.as_ref()?;
    (settled.to == manifest::digest(text.as_bytes())).then(|| settled.original.clone()).flatten()
}

fn check_policy(rendered: &Rendered, read: &Manifest) -> Result<Vec<Finding>, Error> {
    // An image by digest only tells no version: the newest rules apply, which is what its makers say of such images.
    let version = read.server_version_tag().and_then(|tag| tag.parse().ok()).unwrap_or(ServerVersion::LATEST);
    let (policy, findings) = ValidPolicy::load(rendered.policy.as_bytes(), version);
    match policy {
        Some(_) => Ok(findings.into_iter().filter(|f| f.severity() == Severity::Warning).collect()),
        None => Err(Error::Policy { version, findings }),
    }
}

/// The node's folders of the log that is to be and of the one that is there: a stand-in with either manifest writes beside it.
fn log_folders<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Vec<String> {
    let mut folders = Vec::new();
    for file in manifests.into_iter().filter_map(|manifest| manifest.file_of("audit-log-path")) {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() && !folders.iter().any(|known| known == folder) {
            folders.push(folder.to_owned());
        }
    }
    folders
}

fn missing_files(facts: &NodeFacts, rendered: &Rendered) -> Vec<OrderedFile> {
    if facts.policy_file.as_deref() == Some(rendered.policy.as_bytes()) {
        return Vec::new();
    }
    // A file named after the revision can only be a damaged copy of itself: there is nothing to put back.
    let fixed_path = !rendered.policy_path.contains(rendered.revision());
    let previous = facts.policy_file.as_ref().and_then(|bytes| String::from_utf8(bytes.clone()).ok());
    vec![OrderedFile {
        path: rendered.policy_path.clone(),
        content: rendered.policy.clone(),
        previous: previous.filter(|_| fixed_path),
    }]
}

impl Planned {
    /// Digest of the manifest on the disk.
    pub fn from(&self) -> String {
        manifest::digest(self.text.as_bytes())
    }

    /// Digest of the manifest that is wanted.
    pub fn to(&self) -> String {
        manifest::digest(self.target.as_bytes())
    }

    /// Whether there is anything to write.
    pub fn changes(&self) -> bool {
        self.text != self.target || !self.files.is_empty()
    }

    /// The revision it brings, `None` when it takes the settings out.
    pub fn revision(&self) -> Option<&str> {
        self.wanted.as_deref()
    }

    /// The unified diff of the manifest, masked and bounded.
    pub fn diff(&self) -> manifest::Diff {
        manifest::diff(&self.text, &self.target, self.manifest_path.trim_start_matches('/'))
    }

    /// The order that carries this plan out on these terms.
    pub fn order(&self, terms: &Terms, now: Timestamp) -> Order {
        let to = self.to();
        Order {
            version: order::VERSION,
            id: Order::id(now, &to),
            created: now,
            revision: self.wanted.clone(),
            manifest: self.manifest_path.clone(),
            from: self.from(),
            to,
            target: self.target.clone(),
            original: self.original.clone(),
            log_folders: self.log_folders.clone(),
            files: self.files.clone(),
            keep_backups: terms.keep_backups,
            health_timeout_seconds: terms.health_timeout_seconds,
            rehearsal: terms.rehearsal,
            shutdown_delay_seconds: terms
                .highly_available
                .then(|| stand_in::shutdown_delay_seconds(self.manifest.termination_grace_seconds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest that logs in `mount_path`, which is `host_path` on the node.
    fn logging(mount_path: &str, host_path: &str) -> Manifest {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: kube-apiserver, namespace: kube-system}}\nspec:\n  containers:\n  \
             - name: kube-apiserver\n    command: [kube-apiserver, --audit-log-path={mount_path}/a.log]\n    volumeMounts: \
             [{{name: log, mountPath: {mount_path}}}]\n  volumes: [{{name: log, hostPath: {{path: {host_path}}}}}]\n"
        );
        manifest::read(&text).unwrap()
    }

    #[test]
    fn the_log_that_comes_back_and_the_one_that_goes_are_both_seen_where_they_are_on_the_node() {
        let (ours, theirs) = (logging("/var/log/ours", "/var/log/ours"), logging("/log", "/var/log/theirs"));
        assert_eq!(log_folders([&theirs, &ours]), ["/var/log/theirs", "/var/log/ours"]);
        assert_eq!(log_folders([&ours, &ours]), ["/var/log/ours"]);
        let none = manifest::read(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec: {containers: \
             [{name: kube-apiserver, command: [kube-apiserver]}]}\n",
        )
        .unwrap();
        assert_eq!(log_folders([&none, &ours]), ["/var/log/ours"]);
    }
}
