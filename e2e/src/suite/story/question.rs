//! The question: a Pod is there, and who made it?

use std::fs;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::wait;

use super::log::ADMIN;
use super::stage::{CHANGE, SOON, Stage};

/// Somebody who may do anything in the namespace `default`, impersonated by the administrator, runs a Pod.
pub(super) fn pose(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("somebody runs a suspicious Pod");
    // Where Pods can run: kubeadm keeps them off control-plane nodes, and there is no other here.
    stage.kubectl(&["taint", "nodes", "n1", "node-role.kubernetes.io/control-plane-"])?;
    stage.show(&[
        "create",
        "rolebinding",
        "foobar-admin",
        "--clusterrole=admin",
        "--user=foobar",
        "-n",
        "default",
    ])?;
    stage.show(&[
        "--as",
        "foobar",
        "run",
        "my-suspicious-pod",
        "--image=nginx",
        "--image-pull-policy=IfNotPresent",
        "-n",
        "default",
    ])?;
    let runs = ["wait", "--for=condition=Ready", "pod/my-suspicious-pod", "-n", "default", "--timeout=5s"];
    wait::until("the Pod to run", CHANGE, || stage.kubectl(&runs).map(Some))?;
    // The event of an answer is written when the answer has been sent.
    wait::until("the Pod's creation in the log", SOON, || {
        let events = stage.log().events(Timestamp::MIN, "my-suspicious-pod")?;
        let is_it = |e: &super::log::Event| {
            e.deed() == "create pods default/my-suspicious-pod" && e.stage() == "ResponseComplete"
        };
        Ok(events.iter().any(is_it).then_some(()))
    })
}

/// The audit log knows, and `kubectl audit who` says it.
pub(super) fn answer(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("who created my-suspicious-pod?");
    let folder = stage.log().folder().display().to_string();
    ensure!(fs::exists(&folder)?, "no {folder}");
    let words = ["audit", "who", "pod/my-suspicious-pod", "-n", "default", "--log", &folder];
    let text = stage.show(&words)?;
    ensure!(
        text.starts_with("pods my-suspicious-pod in default was created by foobar\n"),
        "it says:\n{text}"
    );

    let answer = stage.kubectl(&[&words[..], &["-o", "json"]].concat())?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(answer["known"] == true, "not known: {answer}");
    let link = answer.pointer("/chain/0").with_context(|| format!("no one in {answer}"))?;
    ensure!(link["user"] == ADMIN && link["impersonatedUser"] == "foobar", "the wrong users: {link}");
    ensure!(link["verb"] == "create" && link["code"] == 201, "not what was done: {link}");
    ensure!(link["sourceIPs"] == json!([crate::network::HUB]), "not where kubectl ran: {link}");
    let text = |field: &str| link[field].as_str().unwrap_or_default();
    ensure!(text("userAgent").starts_with("kubectl/v1."), "not kubectl: {link}");
    let reason = text("reason");
    ensure!(
        reason.contains(r#"RoleBinding "foobar-admin/default""#) && reason.contains(r#"ClusterRole "admin""#),
        "not why it was allowed: {link}"
    );
    stage.voice.found("foobar, by the hand of kubernetes-admin");
    Ok(())
}
