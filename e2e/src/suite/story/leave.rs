//! Taking it all away again: the settings, and then the operator.

use anyhow::{Result, ensure};

use crate::image::operator_reference;
use crate::wait;

use super::install::{Original, helm};
use super::stage::{CHANGE, NAMESPACE, Stage};
use super::witness::Witness;

/// Deletes the AuditConfiguration: the manifest is what kubeadm wrote, and what was recorded stays.
pub(super) fn restore(stage: &Stage<'_>, original: &Original) -> Result<()> {
    stage.voice.headline("kubectl delete: the settings are taken out");
    let pods = stage.kubectl(&[
        "get",
        "pods",
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={.items[*].status.containerStatuses[*].restartCount}",
    ])?;
    ensure!(pods == "0 0", "controller and agent were restarted {pods} times");
    let log = stage.log();
    let (names, recorded) = (log.names()?, std::fs::read(log.live())?);
    let witness = Witness::start(stage.node())?;
    stage.show(&["delete", "auditcfg", "default"])?;
    let gone = ["get", "auditnode", "n1", "--ignore-not-found", "--output=name"];
    wait::until("AuditNode n1 to be gone", CHANGE, || {
        let found = stage.kubectl(&gone)?;
        ensure!(found.is_empty(), "there is {found}");
        Ok(Some(()))
    })?;
    witness.one_change()?;
    ensure!(stage.manifest()? == original.manifest, "the manifest is not what kubeadm wrote");
    ensure!(stage.cluster.api_is_alive(stage.node())?, "the API server is not alive");
    let still = std::fs::read(log.live())?;
    ensure!(log.names()? == names && still.starts_with(&recorded), "what was recorded is not all there");
    stage.voice.found("byte for byte kubeadm's manifest; the log is still there");
    Ok(())
}

/// Uninstalls the chart: the operator goes, its CRDs stay.
pub(super) fn uninstall(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("helm uninstall: the operator goes, its CRDs stay");
    let witness = Witness::start(stage.node())?;
    helm(stage, &["uninstall", "audit-operator", "-n", NAMESPACE, "--wait"])?;
    stage.voice.found("helm is done");
    stage.show(&["get", "crd", "auditconfigurations.audit-operator.dev", "auditnodes.audit-operator.dev"])?;
    wait::until("the operator's Pods to be gone", CHANGE, || {
        let found = stage.kubectl(&["get", "pods", "-n", NAMESPACE, "--output=name"])?;
        ensure!(found.is_empty(), "there is {found}");
        Ok(Some(()))
    })?;
    witness.nothing()
}

/// The chart rendered to one file, which kubectl alone installs.
pub(super) fn one_file(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("kubectl apply -f deploy/audit-operator.yaml: the same from one file");
    let file = include_str!("../../../../deploy/audit-operator.yaml");
    let (of_file, imported) = (concat!("audit-operator:", env!("CARGO_PKG_VERSION")), operator_reference());
    ensure!(file.matches(of_file).count() == 2, "not two images {of_file} in the file");
    stage.apply(&file.replace(of_file, &imported))?;
    for workload in ["deployment/audit-operator-controller", "daemonset/audit-operator-agent"] {
        stage.show(&["rollout", "status", workload, "-n", NAMESPACE, "--timeout=10m"])?;
    }
    Ok(())
}
