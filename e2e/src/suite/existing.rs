//! Clusters as they are found: auditing that somebody set up by hand, which is refused, taken over when that is asked for,
//! and given back; and an API server that answers nobody without credentials.

use std::fs;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::progress::say;
use crate::suite::Given;
use crate::wait;

use super::operator::{self, CHANGE, Journal, LOGS, MANIFEST, STATE, Starts, Wish, audit_node, servers};

/// Where the log of before is on the node; in its container it has another path.
const THEIR_LOGS: &str = "/var/log/apiserver";
const THEIR_POLICY: &str = "/etc/kubernetes/audit-policy.yaml";
const RECORDS_ALL: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n";
/// Where flags, mounts and volumes begin in kubeadm's manifest, and what somebody wrote there.
const THEIR_SETTINGS: [(&str, &str); 3] = [
    (
        "    - kube-apiserver\n",
        "    - --audit-policy-file=/etc/kubernetes/audit-policy.yaml\n    - --audit-log-path=/logs/audit.log\n",
    ),
    (
        "    volumeMounts:\n",
        "    - {name: their-logs, mountPath: /logs}\n    \
         - {name: their-policy, mountPath: /etc/kubernetes/audit-policy.yaml, readOnly: true}\n",
    ),
    (
        "  volumes:\n",
        "  - {name: their-logs, hostPath: {path: /var/log/apiserver, type: DirectoryOrCreate}}\n  \
         - {name: their-policy, hostPath: {path: /etc/kubernetes/audit-policy.yaml, type: File}}\n",
    ),
];
/// A new API server begins to log 30 s after the swap or later: what was logged within this time after it, a stand-in logged.
const RELIEVED: i64 = 20;
/// An address that a stand-in sees instead of a client's begins so.
const STAND_IN_SEES: &str = "\"127.64.";

pub(super) fn run(given: &Given) -> Result<()> {
    let cluster = given.cluster(1)?;
    let node = &cluster.nodes[0];
    let kubeadms = fs::read_to_string(node.path(MANIFEST))?;

    fs::write(node.path(THEIR_POLICY), RECORDS_ALL)?;
    let theirs = with_their_settings(&kubeadms)?;
    edit(&cluster, node, &theirs)?;
    operator::install(&cluster)?;
    refused(&cluster, node, &theirs)?;
    taken_over(&cluster, node)?;
    given_back(&cluster, node, &theirs)?;

    edit(&cluster, node, &without_anonymous(&kubeadms)?)?;
    operator::wish(&cluster, Wish::now(2))?;
    settled(&cluster, node)?;
    let proof = audit_node(&cluster)?["status"]["proof"].clone();
    ensure!(proof["result"] == "Landed", "the proof is {proof}");
    say!("a change where nobody is anonymous: {proof}");
    Ok(())
}

/// Edits the manifest by hand and waits for the API server.
fn edit(cluster: &Cluster, node: &Node, manifest: &str) -> Result<()> {
    let before = servers(node)?;
    operator::swap_by_hand(node, manifest)?;
    operator::restarted(cluster, node, &before, &mut Starts::default())
}

/// Nothing is touched, and what is in the way is named.
fn refused(cluster: &Cluster, node: &Node, theirs: &str) -> Result<()> {
    operator::wish(cluster, Wish::now(1))?;
    let message = wait::until("the settings to be refused", CHANGE, || {
        let object = audit_node(cluster)?;
        let conditions = object["status"]["conditions"].as_array().context("no conditions")?;
        let ready = conditions.iter().find(|c| c["type"] == "Ready").context("no condition Ready")?;
        ensure!(ready["reason"] == "ManifestRefused", "it says {ready}");
        Ok(Some(ready["message"].as_str().unwrap_or_default().to_owned()))
    })?;
    for flag in ["--audit-policy-file", "--audit-log-path"] {
        ensure!(message.contains(flag), "{flag} is not named: {message}");
    }
    ensure!(Journal::of(node)?.is_none(), "an order was given");
    operator::whole(cluster, node, &[theirs])?;
    say!("refused: {message}");
    Ok(())
}

fn taken_over(cluster: &Cluster, node: &Node) -> Result<()> {
    let clients = cluster.probe(&node.address())?;
    operator::wish(cluster, Wish { existing: "TakeOver", ..Wish::now(1) })?;
    let journal = settled(cluster, node)?;
    let down = clients.stop()?.down();
    let manifest = fs::read_to_string(node.path(MANIFEST))?;
    ensure!(!manifest.contains("their-"), "somebody's mounts are still there:\n{manifest}");
    recorded(node, &journal, LOGS)?;
    say!("taken over: {down:.1} s without an answer");
    Ok(())
}

/// Without the AuditConfiguration it is all as it was, and what the stand-in logged meanwhile is in the log of before.
fn given_back(cluster: &Cluster, node: &Node, theirs: &str) -> Result<()> {
    let clients = cluster.probe(&node.address())?;
    cluster.kubectl(&["delete", "auditcfg", "default", "--timeout=5m"])?;
    wait::until("AuditNode n1 to be gone", CHANGE, || {
        let found = cluster.kubectl(&["get", "auditnode", "n1", "--ignore-not-found", "--output=name"])?;
        ensure!(found.is_empty(), "there is {found}");
        Ok(Some(()))
    })?;
    let down = clients.stop()?.down();
    operator::whole(cluster, node, &[theirs])?;
    let journal = Journal::of(node)?.context("no journal")?;
    recorded(node, &journal, THEIR_LOGS)?;
    say!("given back, byte for byte: {down:.1} s without an answer");
    Ok(())
}

/// Waits until what is wanted is there, with a stand-in's help.
fn settled(cluster: &Cluster, node: &Node) -> Result<Journal> {
    operator::ready(cluster)?;
    let journal = Journal::of(node)?.context("no journal")?;
    ensure!(journal.state == "settled", "it ended as {}: {}", journal.state, journal.reason);
    ensure!(journal.rehearsed == "Full", "it was rehearsed {}", journal.rehearsed);
    let manifest = fs::read_to_string(node.path(MANIFEST))?;
    operator::whole(cluster, node, &[&manifest])?;
    Ok(journal)
}

/// What the stand-in of the last change logged is in this folder's log, with its clients' own addresses, and nothing is left of
/// it elsewhere.
fn recorded(node: &Node, journal: &Journal, folder: &str) -> Result<()> {
    let swapped = journal.swapped()?;
    for folder in [LOGS, THEIR_LOGS, STATE] {
        for entry in fs::read_dir(node.path(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let left = name.starts_with('.') || name.starts_with("stand-in-addresses");
            ensure!(!left, "{name} is left in {folder}");
        }
    }
    for folder in [LOGS, THEIR_LOGS] {
        let log = log(node, folder)?;
        let foreign = log.lines().find(|line| line.contains(STAND_IN_SEES));
        ensure!(foreign.is_none(), "an event in {folder} does not say who asked: {foreign:?}");
    }
    let log = log(node, folder)?;
    let mut relieved = 0;
    for line in log.lines() {
        let event: Value =
            serde_json::from_str(line).with_context(|| format!("a line of {folder}: {line}"))?;
        let at: Timestamp = event["stageTimestamp"].as_str().context("an event without a time")?.parse()?;
        let after = at.duration_since(swapped).as_secs();
        if event["requestURI"] == "/readyz" && at > swapped && after < RELIEVED {
            relieved += 1;
        }
    }
    ensure!(relieved > 0, "no event of the stand-in's is in {folder}");
    say!("{relieved} events of the first {RELIEVED} s after the swap are in {folder}");
    Ok(())
}

/// The log in this folder, with what was rotated.
fn log(node: &Node, folder: &str) -> Result<String> {
    let mut log = String::new();
    for entry in fs::read_dir(node.path(folder))? {
        let path = entry?.path();
        log += &fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(log)
}

fn with_their_settings(manifest: &str) -> Result<String> {
    let mut changed = manifest.to_owned();
    for (place, settings) in THEIR_SETTINGS {
        ensure!(manifest.matches(place).count() == 1, "not one {place:?} in the manifest");
        changed = changed.replace(place, &format!("{place}{settings}"));
    }
    Ok(changed)
}

/// Nobody is anonymous, so that probes can only see whether the port is open.
fn without_anonymous(manifest: &str) -> Result<String> {
    let program = "    - kube-apiserver\n";
    ensure!(manifest.matches(program).count() == 1, "not one {program:?} in the manifest");
    let manifest = manifest.replace(program, &format!("{program}    - --anonymous-auth=false\n"));
    let of_http = |line: &&str| line.starts_with("        path: ") || line.starts_with("        scheme: ");
    let lines = manifest.lines().filter(|line| !of_http(line));
    Ok(lines.map(|line| format!("{line}\n")).collect::<String>().replace("httpGet:", "tcpSocket:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_added_where_kubeadm_has_theirs() {
        let manifest = "    - kube-apiserver\n    - --a=1\n    volumeMounts:\n    - x\n  volumes:\n  - y\n";
        let changed = with_their_settings(manifest).unwrap();
        let place = |text: &str| changed.find(text).unwrap();
        assert!(place("--audit-log-path") < place("--a=1"));
        assert!(
            place("volumeMounts:") < place("mountPath: /logs") && place("mountPath: /logs") < place("- x")
        );
        assert!(place("\n  volumes:") < place("hostPath") && place("hostPath") < place("- y"));
        assert!(with_their_settings("a\n").is_err());
    }

    #[test]
    fn probes_only_see_whether_the_port_is_open() {
        let manifest = "    - kube-apiserver\n      httpGet:\n        path: /livez\n        port: probe-port\n        \
                        scheme: HTTPS\n      periodSeconds: 10\n";
        let expected = "    - kube-apiserver\n    - --anonymous-auth=false\n      tcpSocket:\n        port: probe-port\n      \
                        periodSeconds: 10\n";
        assert_eq!(without_anonymous(manifest).unwrap(), expected);
    }
}
