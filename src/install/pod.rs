//! The installer's own manifest: a static Pod for one order, with the folders that order needs and nothing else.
//!
//! A static Pod because nothing else comes back on a control-plane node whose API server is down; a new name for each
//! order because a static Pod waits for one of the same name to end; no service account because a static Pod can have
//! none, and it needs none.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::order::{self, Order, STATE_FOLDER};
use crate::revision::POLICY_FOLDER;

/// Name of its file in the manifests folder, the same for every order: there is one install at a time.
pub const FILE: &str = "audit-operator-installer.yaml";

/// Where the node's folders are mounted in the container.
const ROOT: &str = "/host";

/// What the installer needs to know of the node it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallerPod<'a> {
    /// The node's name in Kubernetes.
    pub node_name: &'a str,
    /// Our own image; it must be on the node, as the agent runs from it.
    pub image: &'a str,
    /// The API server's port: one below 1024 needs a capability.
    pub port: u16,
    /// Whether one of the folders is another user's than root's: without capabilities root is a stranger there.
    pub strange_folders: bool,
}

/// Name of the Pod for the order of this identity, without the node's name that the kubelet appends.
pub fn name(order_id: &str) -> String {
    format!("audit-operator-installer-{}", order::label(order_id))
}

/// The manifest. JSON is YAML, but people read this file when something is wrong: it is written as YAML.
pub fn manifest(order: &Order, pod: &InstallerPod<'_>) -> String {
    let folders = folders(order);
    let volume = |(i, (path, folder)): (usize, (&String, &Folder))| json!({"name": format!("folder-{i}"), "hostPath": {"path": path, "type": folder.kind}});
    let mount = |(i, (path, folder)): (usize, (&String, &Folder))| json!({"name": format!("folder-{i}"), "mountPath": format!("{ROOT}{path}"), "readOnly": folder.read_only});
    // Beyond reading and writing root's files it may have to take a port below 1024, and a folder may be another user's.
    let needed = [(pod.port < 1024, "NET_BIND_SERVICE"), (pod.strange_folders, "DAC_OVERRIDE")];
    let added: Vec<&str> = needed.iter().filter(|(needed, _)| *needed).map(|(_, name)| *name).collect();
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(&order.id),
            "namespace": "kube-system",
            "labels": {
                "app.kubernetes.io/name": "audit-operator",
                "app.kubernetes.io/component": "installer",
            },
        },
        "spec": {
            // It takes the API server's port over, and asks the API server on the node's own address.
            "hostNetwork": true,
            "priorityClassName": "system-node-critical",
            // system-node-critical's; nobody resolves the name for a static Pod.
            "priority": 2_000_001_000,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 5,
            "securityContext": {
                "runAsUser": 0,
                "runAsGroup": 0,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "installer",
                "image": pod.image,
                "imagePullPolicy": "Never",
                "args": [
                    "installer",
                    format!("--order={}", order.id),
                    format!("--node-name={}", pod.node_name),
                    format!("--root={ROOT}"),
                    format!("--manifest={}", order.manifest),
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"], "add": added},
                },
                "volumeMounts": folders.iter().enumerate().map(mount).collect::<Vec<Value>>(),
            }],
            "volumes": folders.iter().enumerate().map(volume).collect::<Vec<Value>>(),
        },
    });
    serde_yaml::to_string(&manifest).expect("a value of JSON always becomes YAML")
}

/// The node's folders that the installer of this order writes to.
pub fn written_folders(order: &Order) -> Vec<String> {
    let folders = folders(order).into_iter();
    folders.filter(|(_, folder)| !folder.read_only).map(|(path, _)| path).collect()
}

struct Folder {
    kind: &'static str,
    read_only: bool,
}

fn folders(order: &Order) -> BTreeMap<String, Folder> {
    let mut folders = BTreeMap::new();
    let mut add = |path: &str, kind, read_only| {
        folders.entry(path.to_owned()).or_insert(Folder { kind, read_only });
    };
    add(parent(&order.manifest), "Directory", false);
    add(STATE_FOLDER, "DirectoryOrCreate", false);
    add(POLICY_FOLDER, "DirectoryOrCreate", false);
    for file in &order.files {
        add(parent(&file.path), "DirectoryOrCreate", false);
    }
    for folder in &order.log_folders {
        add(log_mount(folder), "DirectoryOrCreate", false);
    }
    // A proof's request is chosen by the policy, which may be at a path of its own and not part of this change.
    let target = crate::manifest::read(&order.target).ok();
    if let Some(policy) = target.and_then(|target| target.file_of("audit-policy-file")) {
        add(parent(&policy), "DirectoryOrCreate", true);
    }
    add("/var/log/pods", "Directory", true);
    // How much memory the live API server uses.
    add("/sys/fs/cgroup", "Directory", true);
    folders
}

/// The folder to mount for a log folder: the one above it, because a missing one is to be made by the installer, 0700, and not
/// by the kubelet, 0755; but not one that the whole system shares.
fn log_mount(folder: &str) -> &str {
    let above = parent(folder);
    if above.matches('/').count() >= 3 { above } else { folder }
}

fn parent(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::next::tests::order;

    fn made(order: &Order, port: u16) -> Value {
        made_with(order, port, false)
    }

    fn made_with(order: &Order, port: u16, strange_folders: bool) -> Value {
        let pod = InstallerPod { node_name: "n1", image: "audit-operator:1", port, strange_folders };
        serde_yaml::from_str(&manifest(order, &pod)).expect("YAML")
    }

    #[test]
    fn it_mounts_what_the_order_needs_and_makes_a_missing_log_folder_itself() {
        let order = Order { log_folders: vec!["/var/log/kubernetes/audit".to_owned()], ..order() };
        let pod = made(&order, 6443);
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
        let paths: Vec<_> = volumes.iter().filter_map(|v| v["hostPath"]["path"].as_str()).collect();
        assert_eq!(
            paths,
            [
                "/etc/kubernetes/audit",
                "/etc/kubernetes/manifests",
                "/sys/fs/cgroup",
                "/var/lib/audit-operator",
                "/var/log/kubernetes",
                "/var/log/pods"
            ]
        );
    }

    #[test]
    fn it_sees_a_policy_at_a_path_of_its_own() {
        let target = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec:\n  \
                      containers: [{name: kube-apiserver, command: [kube-apiserver, --audit-policy-file=/p/policy.yaml], volumeMounts: \
                      [{name: p, mountPath: /p/policy.yaml}]}]\n  volumes: [{name: p, hostPath: {path: /etc/audit/strict.yaml}}]\n";
        let order = Order { target: target.to_owned(), ..order() };
        let mut folders = folders(&order);
        assert!(folders.remove("/etc/audit").expect("mounted").read_only);
        assert!(!folders.contains_key("/p"));
    }

    #[test]
    fn it_writes_to_fewer_folders_than_it_sees() {
        let order = Order { log_folders: vec!["/var/log/kubernetes/audit".to_owned()], ..order() };
        assert_eq!(
            written_folders(&order),
            [
                "/etc/kubernetes/audit",
                "/etc/kubernetes/manifests",
                "/var/lib/audit-operator",
                "/var/log/kubernetes"
            ]
        );
    }

    #[test]
    fn a_folder_of_the_whole_system_is_not_mounted_for_a_log() {
        assert_eq!(log_mount("/var/log/kubernetes/audit"), "/var/log/kubernetes");
        assert_eq!(log_mount("/var/log/audit"), "/var/log/audit");
        assert_eq!(log_mount("/audit"), "/audit");
    }

    #[test]
    fn it_has_no_capability_but_for_what_is_seen_to_be_needed_and_no_credentials() {
        let capabilities = |port, strange| {
            let pod = made_with(&order(), port, strange);
            pod["spec"]["containers"][0]["securityContext"]["capabilities"].clone()
        };
        assert_eq!(capabilities(6443, false), json!({"drop": ["ALL"], "add": []}));
        assert_eq!(capabilities(443, false), json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}));
        assert_eq!(capabilities(6443, true), json!({"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}));
        assert_eq!(made(&order(), 6443)["spec"].get("serviceAccountName"), None);
    }
}
