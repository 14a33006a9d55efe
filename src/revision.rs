//! The revision: a hash of everything that is rendered, and the only place where it is computed.
//!
//! Same content, same revision, on every machine and in CI. The policy file's path may hold the revision itself
//! (`policy-<revision>.yaml`, the default): the hash is taken while the place is still marked [`PLACEHOLDER`], and
//! the mark is replaced afterwards.

use serde::{Deserialize, Serialize};

use crate::audit::ValidPolicy;
use crate::manifest::{self, Flag, Mount, Settings};

/// Folder of the policy files with a revision in their name.
pub const POLICY_FOLDER: &str = "/etc/kubernetes/audit";
/// Stands for the revision in paths until it is known.
pub const PLACEHOLDER: &str = "<revision>";

/// Sixteen hexadecimal digits: 64 bits are enough to never meet twice in a cluster's life, and short enough to read.
const DIGITS: usize = 16;

/// What one revision puts on a node: the policy file and the manifest's settings.
///
/// Only [`Rendered::new`] makes one, so that `settings.revision` always is the hash of the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendered {
    /// Text of the policy file.
    pub policy: String,
    /// Where the policy file lies on the node, absolute.
    pub policy_path: String,
    /// Flags, mounts and the revision itself.
    pub settings: Settings,
}

impl Rendered {
    /// Renders a policy with flags and mounts in which [`PLACEHOLDER`] may stand for the revision.
    pub fn new(policy: &ValidPolicy, policy_path: &str, flags: &[Flag], mounts: &[Mount]) -> Self {
        Self::hashed(policy.to_yaml(), policy_path, flags, mounts)
    }

    fn hashed(policy: String, policy_path: &str, flags: &[Flag], mounts: &[Mount]) -> Self {
        let content = serde_json::to_vec(&(&policy, policy_path, flags, mounts))
            .expect("strings and lists of strings always become JSON");
        let digest = manifest::digest(&content);
        let hex = digest.strip_prefix("sha256:").expect("manifest::digest names its algorithm");
        let revision = hex[..DIGITS].to_owned();
        let fill = |text: &str| text.replace(PLACEHOLDER, &revision);
        let flags = flags.iter().map(|f| Flag { name: f.name.clone(), value: fill(&f.value) }).collect();
        let mounts = mounts
            .iter()
            .map(|m| Mount { host_path: fill(&m.host_path), mount_path: fill(&m.mount_path), ..m.clone() })
            .collect();
        Self { policy, policy_path: fill(policy_path), settings: Settings { flags, mounts, revision } }
    }

    /// The revision's name.
    pub fn revision(&self) -> &str {
        &self.settings.revision
    }

    /// Whether this is a rendering that [`Rendered::new`] could have made: the content hashes to the revision it carries,
    /// and it sets nothing but audit flags and mounts nothing but what they name. A bundle that was damaged or made by
    /// other means is not used, so that the right to write bundles is not the right to set any flag of an API server.
    pub fn is_genuine(&self) -> bool {
        let value =
            |name: &str| self.settings.flags.iter().find(|f| f.name == name).map(|f| f.value.as_str());
        let log_folder =
            value("audit-log-path").and_then(|path| path.rsplit_once('/')).map(|(folder, _)| folder);
        let serves = |m: &Mount| {
            m.host_path == m.mount_path
                && (m.mount_path == self.policy_path || Some(m.mount_path.as_str()) == log_folder)
        };
        self.settings.flags.iter().all(|f| f.name.starts_with("audit-"))
            && value("audit-policy-file") == Some(&self.policy_path)
            && self.settings.mounts.iter().all(serves)
            && self.hashes_to_its_revision()
    }

    fn hashes_to_its_revision(&self) -> bool {
        let empty = |text: &str| text.replace(&self.settings.revision, PLACEHOLDER);
        let flags: Vec<_> = (self.settings.flags.iter())
            .map(|f| Flag { name: f.name.clone(), value: empty(&f.value) })
            .collect();
        let mounts: Vec<_> = (self.settings.mounts.iter())
            .map(|m| Mount { host_path: empty(&m.host_path), mount_path: empty(&m.mount_path), ..m.clone() })
            .collect();
        Self::hashed(self.policy.clone(), &empty(&self.policy_path), &flags, &mounts) == *self
    }
}

/// Whether a file of this name in [`POLICY_FOLDER`] is a policy of ours: one with a revision in its name.
pub fn is_policy_file(name: &str) -> bool {
    let revision = name.strip_prefix("policy-").and_then(|rest| rest.strip_suffix(".yaml"));
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    revision.is_some_and(|revision| revision.len() == DIGITS && revision.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Profile, ServerVersion};
    use crate::manifest::PathType;

    fn rendered(profile: Profile, age: &str) -> Rendered {
        let policy = ValidPolicy::new(profile.policy(), ServerVersion::LATEST).unwrap();
        let path = format!("{POLICY_FOLDER}/policy-{PLACEHOLDER}.yaml");
        let flag = |name: &str, value: &str| Flag { name: name.to_owned(), value: value.to_owned() };
        let flags = [flag("audit-log-maxage", age), flag("audit-policy-file", &path)];
        let mount = Mount {
            name: "audit-policy".to_owned(),
            host_path: path.clone(),
            mount_path: path.clone(),
            path_type: PathType::File,
            read_only: true,
        };
        Rendered::new(&policy, &path, &flags, &[mount])
    }

    #[test]
    fn same_content_same_revision_and_another_content_another() {
        let one = rendered(Profile::Metadata, "30");
        assert_eq!(one, rendered(Profile::Metadata, "30"));
        assert_ne!(one.revision(), rendered(Profile::Metadata, "31").revision());
        assert_ne!(one.revision(), rendered(Profile::Recommended, "30").revision());
        // A change of this value restarts every API server once: it must be meant.
        assert_eq!(one.revision().len(), DIGITS);
    }

    #[test]
    fn the_revision_stands_in_every_path() {
        let one = rendered(Profile::Metadata, "30");
        let path = format!("/etc/kubernetes/audit/policy-{}.yaml", one.revision());
        assert_eq!(one.policy_path, path);
        assert_eq!(one.settings.flags[1].value, path);
        assert_eq!(one.settings.mounts[0].host_path, path);
        assert!(one.is_genuine());
    }

    #[test]
    fn a_bundle_made_by_other_means_is_not_genuine() {
        let altered = |change: fn(&mut Rendered)| {
            let mut rendered = rendered(Profile::Metadata, "30");
            change(&mut rendered);
            rendered
        };
        assert!(!altered(|r| r.policy.push('\n')).is_genuine());
        assert!(!altered(|r| r.settings.flags[0].value = "1".to_owned()).is_genuine());
        // Even one whose hash is right must not set another flag or mount another path.
        let rehashed = |flag: &str, host_path: &str| {
            let one = rendered(Profile::Metadata, "30");
            let path = format!("{POLICY_FOLDER}/policy-{PLACEHOLDER}.yaml");
            let policy = ("audit-policy-file".to_owned(), path.clone());
            let flags: Vec<_> = [(flag.to_owned(), "x".to_owned()), policy]
                .map(|(name, value)| Flag { name, value })
                .to_vec();
            let mount = Mount {
                host_path: host_path.replace("POLICY", &path),
                mount_path: path.clone(),
                ..one.settings.mounts[0].clone()
            };
            Rendered::hashed(one.policy, &path, &flags, &[mount])
        };
        assert!(rehashed("audit-log-maxage", "POLICY").is_genuine());
        assert!(!rehashed("anonymous-auth", "POLICY").is_genuine());
        assert!(!rehashed("audit-log-maxage", "/etc/shadow").is_genuine());
    }
}
