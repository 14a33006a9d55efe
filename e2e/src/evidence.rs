//! What a failed test leaves to be read: the nodes' manifests, journals and logs, and the objects in the API.
//!
//! No keys: `/etc/kubernetes/pki` and the kubeconfigs are not copied, and Secrets are not asked for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::programs::Programs;
use crate::progress::say;
use crate::state::State;

/// Folders of a node's disk.
const FOLDERS: [&str; 5] = [
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/audit",
    "/var/lib/audit-operator",
    "/var/log/pods",
    "/var/log/kubernetes",
];

/// What is asked of the API: resource and output.
const OBJECTS: [(&str, &str); 5] = [
    ("auditconfigurations,auditnodes", "yaml"),
    ("nodes", "yaml"),
    ("pods", "wide"),
    ("pods,daemonsets,deployments", "yaml"),
    ("events", "yaml"),
];

/// As [`collect`]; what hinders it is said and nothing more: there is a better reason to fail.
pub(crate) fn keep(state: &State, name: &str, why: &str) {
    if let Err(error) = Programs::find().and_then(|programs| collect(state, &programs, name, why)) {
        say!("no evidence: {error:#}");
    }
}

/// The same of a cluster and of those in its lanes, for whoever wants to know what an interrupted run was waiting for.
pub(crate) fn keep_of_interrupted(state: &State) {
    let lanes =
        state.lanes().into_iter().enumerate().map(|(n, lane)| (format!("interrupted-lane-{n}"), lane));
    let all = std::iter::once(("interrupted".to_owned(), state.clone())).chain(lanes);
    for (name, state) in all.filter(|(_, state)| !state.nodes().is_empty()) {
        keep(&state, &name, "interrupted\n");
    }
}

/// Copies everything, and why it is wanted, into `$E2E_EVIDENCE/NAME` (default: `e2e/evidence` of the repository). What is missing is
/// left out: a cluster that failed early has little.
pub(crate) fn collect(state: &State, programs: &Programs, name: &str, why: &str) -> Result<()> {
    let base = env::var_os("E2E_EVIDENCE")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/evidence")), PathBuf::from);
    let folder = base.join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("why.txt"), why)?;
    let names = state.nodes();
    for number in names.iter().filter_map(|name| crate::network::number(name)) {
        let node = Node::new(state, programs, number);
        let to = folder.join(&node.name);
        copy(&node.folder().join("log"), &to.join("log"))?;
        for of in FOLDERS {
            copy(&node.path(of), &to.join(of.trim_start_matches('/')))?;
        }
    }
    copy(&state.desk().join("argocd.servers/log"), &folder.join("argocd"))?;
    if let Ok(cluster) = Cluster::running(state) {
        for (resource, form) in OBJECTS {
            let arguments = ["--request-timeout=5s", "get", resource, "--all-namespaces", "--output", form];
            let answer = cluster.kubectl(&arguments).unwrap_or_else(|error| format!("{error:#}\n"));
            fs::write(folder.join(format!("{}-{form}.txt", resource.replace(',', "-"))), answer)?;
        }
    }
    say!("evidence in {}", folder.display());
    Ok(())
}

/// Copies a folder with all below it; nothing when it is not there. Files that go away meanwhile are left out.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy(&entry.path(), &target)?;
        } else {
            let _ = fs::copy(entry.path(), target);
        }
    }
    Ok(())
}
