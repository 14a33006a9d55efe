//! A log that stops is noticed, on a real node: its folder deleted, its disk full. And a policy that only the agent's own
//! identity can prove.

use std::fs;
use std::os::unix::fs::chown;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::fault::is_program;
use crate::launch::Lifetime;
use crate::node::Node;
use crate::progress::say;
use crate::suite::Given;
use crate::wait;

use super::operator::{self, CHANGE, Journal, LOGS, audit_node};

const AGENT: &str = "system:serviceaccount:audit-operator:audit-operator-agent";
/// "Within minutes": a minute until the next proof, ten seconds for its event, a second for the report; the rest is for a
/// slow machine.
const MINUTES: Duration = Duration::from_secs(240);

/// Records what the agent does, and nothing that anybody without credentials asks.
const ONLY_THE_AGENT: &str =
    "policy: {inline: {rules: [{level: Metadata, userGroups: ['system:serviceaccounts:audit-operator']}]}}";
const EVERYTHING: &str = "policy: {inline: {rules: [{level: Metadata}]}}";

pub(super) fn run(given: &Given) -> Result<()> {
    let cluster = given.cluster(1)?;
    let node = &cluster.nodes[0];
    // Before anything is there: the node has to be off for it.
    node.cut()?;
    let disk = node.mount_disk(LOGS, "32m")?;
    cluster.switch_on(node, Lifetime::OfThisProcess)?;
    wait::until("the API server", CHANGE, || Ok(cluster.api_is_ready(node)?.then_some(())))?;
    operator::install_with(&cluster, "metrics.enabled=true")?;

    wish(&cluster, ONLY_THE_AGENT, 4)?;
    operator::ready(&cluster)?;
    let id = proof(&cluster, "Landed")?;
    let event = fs::read_to_string(node.path(LOGS).join("audit.log"))?;
    let event = event.lines().find(|line| line.contains(&id)).context("the log has no such event")?;
    ensure!(event.contains(&format!("\"username\":\"{AGENT}\"")), "it is not the agent's own: {event}");
    say!("a policy that records nobody without credentials is proved by the agent's own request");

    wish(&cluster, EVERYTHING, 4)?;
    operator::ready(&cluster)?;
    proof(&cluster, "Landed")?;
    let started = Instant::now();
    disk.fill()?;
    trouble(&cluster, "ProofMissing")?;
    say!("a full disk was said after {:.0} s", started.elapsed().as_secs_f64());
    disk.drain()?;
    proof(&cluster, "Landed")?;
    trouble_is_over(&cluster)?;

    let started = Instant::now();
    for entry in fs::read_dir(node.path(LOGS))? {
        fs::remove_file(entry?.path())?;
    }
    trouble(&cluster, "ProofMissing")?;
    say!("a deleted log was said after {:.0} s", started.elapsed().as_secs_f64());
    // What the runbook says: it is made anew when the API server restarts.
    ensure!(node.kill(|a| is_program(a, "kube-apiserver"))? == 1, "there was not one API server");
    proof(&cluster, "Landed")?;
    trouble_is_over(&cluster)?;
    another_users_folder(&cluster, node)?;
    landlock(&cluster)
}

/// Root without capabilities is a stranger in it, and may make nothing there: the installer gets the one it needs.
fn another_users_folder(cluster: &Cluster, node: &Node) -> Result<()> {
    chown(node.path(LOGS), Some(1000), Some(1000))?;
    wish(cluster, EVERYTHING, 5)?;
    operator::ready(cluster)?;
    let journal = Journal::of(node)?.context("no journal")?;
    ensure!(journal.state == "settled", "it ended as {}: {}", journal.state, journal.reason);
    let names =
        fs::read_dir(node.path(LOGS))?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    let hidden: Vec<_> = names.iter().filter(|name| name.to_string_lossy().starts_with('.')).collect();
    ensure!(hidden.is_empty(), "the stand-in's events were not brought to the log: {hidden:?}");
    proof(cluster, "Landed")?;
    chown(node.path(LOGS), Some(0), Some(0))?;
    say!("a log folder of another user's: the change was made, and the stand-in's events are in the log");
    Ok(())
}

/// Whether it is enforced is the kernel's to say; that it is said is ours.
fn landlock(cluster: &Cluster) -> Result<()> {
    let agents = ["logs", "-n", "audit-operator", "-l", "app.kubernetes.io/component=agent", "--tail=-1"];
    let log = cluster.kubectl(&agents)?;
    let line = log.lines().find(|line| line.contains("landlock")).context("nothing is said of Landlock")?;
    say!("{line}");
    Ok(())
}

fn wish(cluster: &Cluster, policy: &str, size: u32) -> Result<()> {
    let object = format!(
        "apiVersion: audit-operator.dev/v1alpha1\nkind: AuditConfiguration\nmetadata: {{name: default}}\nspec:\n  {policy}\n  \
         log: {{maxBackups: 2, maxSize: {size}}}\n"
    );
    operator::apply(cluster, &object)
}

/// Waits until the node's last proof, of the settings that run now, ended so; gives its Audit-ID.
fn proof(cluster: &Cluster, result: &str) -> Result<String> {
    wait::until(&format!("a proof that {result}"), MINUTES, || {
        let node = audit_node(cluster)?;
        let proof = &node["status"]["proof"];
        ensure!(proof["result"] == result, "the proof is {proof}");
        Ok(Some(proof["auditID"].as_str().context("no Audit-ID")?.to_owned()))
    })
}

/// A condition, an event and a metric say it.
fn trouble(cluster: &Cluster, reason: &str) -> Result<()> {
    wait::until(&format!("{reason} to be said"), MINUTES, || {
        let node = audit_node(cluster)?;
        let conditions = node["status"]["conditions"].as_array().context("no conditions")?;
        let proven = conditions.iter().find(|c| c["type"] == "Proven").context("no condition Proven")?;
        ensure!(proven["reason"] == reason && proven["status"] == "False", "it says {proven}");
        let events = cluster.kubectl(&["get", "events", "-n", "default", "--output=json"])?;
        let events: Value = serde_json::from_str(&events)?;
        let told = |e: &Value| {
            e["reason"] == reason && e["type"] == "Warning" && e["involvedObject"]["name"] == "n1"
        };
        ensure!(events["items"].as_array().is_some_and(|items| items.iter().any(told)), "there is no event");
        metric(cluster, "Missing")?;
        Ok(Some(()))
    })
}

fn trouble_is_over(cluster: &Cluster) -> Result<()> {
    wait::until("the condition to be true again", MINUTES, || {
        let configuration =
            cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=1s", "auditcfg/default"])?;
        metric(cluster, "Landed")?;
        Ok(Some(configuration))
    })
    .map(drop)
}

fn metric(cluster: &Cluster, result: &str) -> Result<()> {
    let metrics = cluster.nodes[0].run("curl", &["-s", "http://127.0.0.1:9469/metrics"])?;
    let line = format!("audit_operator_node_proof{{result=\"{result}\"}} 1");
    ensure!(metrics.contains(&line), "the metrics do not say {line}");
    Ok(())
}
