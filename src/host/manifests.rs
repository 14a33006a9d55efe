//! The manifests folder: which other files in it define the same Pod.
//!
//! The kubelet reads every file whose name does not start with a dot, whatever its extension, and of two that define one
//! Pod the last by name wins (facts of `pkg/kubelet/config/file.go`; kubernetes/kubernetes#55596).

use serde::Deserialize;

use crate::manifest;

use super::{Error, Host, file};

#[derive(Deserialize, Default, PartialEq, Eq)]
struct Identity {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Name,
}

#[derive(Deserialize, Default, PartialEq, Eq)]
struct Name {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

impl Host {
    /// Names of the other files in the folder that define the manifest's Pod.
    pub(super) fn rivals(&self) -> Result<Vec<String>, Error> {
        let path = self.at(&self.manifest);
        let (Some(folder), Some(own)) = (path.parent(), path.file_name().map(|n| n.to_string_lossy())) else {
            return Ok(Vec::new());
        };
        let Some(identity) = file::read(self.disk(), &path)?.and_then(|bytes| identity(&bytes)) else {
            return Ok(Vec::new());
        };
        let mut rivals = Vec::new();
        for name in file::list(self.disk(), folder)? {
            let other = folder.join(&name);
            if name.starts_with('.') || name == *own || self.disk().is_folder(&other) {
                continue;
            }
            if file::read(self.disk(), &other)?
                .and_then(|bytes| self::identity(&bytes))
                .is_some_and(|i| i == identity)
            {
                rivals.push(name);
            }
        }
        Ok(rivals)
    }
}

/// Who a manifest says it is: its first document, as the kubelet reads it. `None` when it is not to be read.
fn identity(bytes: &[u8]) -> Option<Identity> {
    let text = manifest::decode(bytes).ok()?;
    let document = serde_yaml::Deserializer::from_str(text).next()?;
    Identity::deserialize(document).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const POD: &str = "kind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\n";

    #[track_caller]
    fn check(files: &[(&str, &str)], rivals: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("kube-apiserver.yaml"), POD).unwrap();
        for (name, text) in files {
            fs::write(root.path().join(name), text).unwrap();
        }
        let host = Host::new(root.path(), "/kube-apiserver.yaml", None);
        assert_eq!(host.rivals().unwrap(), rivals);
    }

    #[test]
    fn a_backup_in_the_folder_is_a_rival_whatever_its_extension() {
        check(&[("kube-apiserver.yaml.bak", POD), ("a", POD)], &["a", "kube-apiserver.yaml.bak"]);
    }

    #[test]
    fn dot_files_other_pods_and_rubbish_are_not() {
        let other = POD.replace("kube-apiserver", "etcd");
        check(
            &[(".kube-apiserver.yaml.swp", POD), ("etcd.yaml", &other), ("notes", "a: [b"), ("empty", "")],
            &[],
        );
    }

    #[test]
    fn only_the_first_document_counts() {
        let second = format!("kind: Pod\nmetadata: {{name: etcd}}\n---\n{POD}");
        check(&[("two.yaml", &second)], &[]);
    }
}
