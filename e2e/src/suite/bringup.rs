//! The test bed itself: a control plane comes up, runs Pods on its own network, and goes without a trace.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, PATIENCE, Wanted};
use crate::fault::is_program;
use crate::launch::Lifetime;
use crate::leftovers::Footprint;
use crate::machine::BOOT;
use crate::node::Node;
use crate::progress::say;
use crate::suite::Given;
use crate::{process, teardown, wait};

/// On the Pod network, on every node, tolerating what kubeadm taints control-plane nodes with.
const WORKLOAD: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: workload, namespace: default}
spec:
  selector: {matchLabels: {app: workload}}
  template:
    metadata: {labels: {app: workload}}
    spec:
      tolerations: [{operator: Exists}]
      containers:
      - {name: nginx, image: nginx, imagePullPolicy: IfNotPresent}
";

pub(super) fn run(given: &Given) -> Result<()> {
    let wanted = Wanted { nodes: 1, operator: given.operator.clone(), lifetime: Lifetime::OfThisProcess };
    let cluster = Cluster::up(&given.state, &wanted)?;
    control_plane_is_what_kubeadm_made(&cluster)?;
    cluster.apply(WORKLOAD)?;
    pods_reach_the_service_address(&cluster)?;
    all_comes_back_after_a_power_cut(&cluster)?;
    nothing_is_left(given)
}

fn control_plane_is_what_kubeadm_made(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes[0];
    let manifest = std::fs::read_to_string(node.path("/etc/kubernetes/manifests/kube-apiserver.yaml"))?;
    ensure!(manifest.contains("- kube-apiserver\n"), "no kube-apiserver in:\n{manifest}");
    ensure!(!manifest.contains("--audit-"), "auditing is on:\n{manifest}");
    Ok(())
}

fn pods_reach_the_service_address(cluster: &Cluster) -> Result<()> {
    // kube-proxy may still be writing its first rules when the Pod says its first lines.
    let line = wait::until("the workload to reach the service address", PATIENCE, || {
        let log = cluster.kubectl(&["logs", "daemonset/workload", "--tail=1"])?;
        ensure!(log.trim() == "kubernetes 203.0.113.1:443 answers", "the Pod says `{}`", log.trim());
        Ok(Some(log.trim().to_owned()))
    })?;
    let address = cluster.kubectl(&["get", "pods", "--output=jsonpath={.items[0].status.podIP}"])?;
    ensure!(address.starts_with("198.18.11."), "the Pod's address {address} is not of the Pod network");
    say!("a Pod at {address} says: {line}");
    Ok(())
}

fn all_comes_back_after_a_power_cut(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes[0];
    let restarts = |cluster: &Cluster| {
        let count = "jsonpath={.items[0].status.containerStatuses[0].restartCount}";
        cluster.kubectl(&["get", "pods", "--selector=app=workload", "--output", count])
    };
    let (before, boot) = (restarts(cluster)?, boots(node)?);
    let started = Instant::now();
    node.cut()?;
    say!("the power cut took {:.1} s", started.elapsed().as_secs_f64());
    ensure!(!cluster.api_is_alive(node)?, "the API server outlived its node");
    cluster.switch_on(node, Lifetime::OfThisProcess)?;
    // The API remembers the Pod as running until its kubelet says otherwise.
    wait::until("the workload to have been started again", PATIENCE, || {
        let after = restarts(cluster)?;
        ensure!(after != before, "it has restarted {after} times as before the power cut");
        Ok(Some(()))
    })?;
    let after = boots(node)?;
    ensure!(
        boot.0 == boot.1 && after.0 == after.1,
        "a Pod and its node tell of two boots: {boot:?}, {after:?}"
    );
    ensure!(boot.0 != after.0, "it is the same boot as before the power cut: {boot:?}");
    pods_reach_the_service_address(cluster)
}

/// Which boot this is, as the node says and as a Pod on it sees it.
fn boots(node: &Node) -> Result<(String, String)> {
    let workload =
        node.processes(|a| is_program(a, "workload"))?.pop().context("the workload does not run")?;
    let boot = |id: process::Id| -> Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{id}/root/proc/sys/{BOOT}"))?)
    };
    Ok((boot(node.init()?)?, boot(workload)?))
}

fn nothing_is_left(given: &Given) -> Result<()> {
    let footprint = Footprint::of(&given.state);
    let (processes, namespaces, cgroups) = footprint.size();
    ensure!(processes > 15 && namespaces > 10 && cgroups > 5, "the footprint missed things: {footprint:?}");
    teardown::down(&given.state)?;
    // The kernel takes namespaces and their mounts away after the last process has gone.
    wait::until("everything to be gone", Duration::from_secs(30), || {
        let remaining = footprint.remaining();
        ensure!(remaining.is_empty(), "left:\n{}", remaining.join("\n"));
        Ok(Some(()))
    })?;
    say!("gone: {processes} processes, {namespaces} namespaces, {cgroups} control groups");
    Ok(())
}
