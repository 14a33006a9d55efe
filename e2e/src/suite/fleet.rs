//! A fleet while it changes: what is wanted changes in the middle, a node joins, one fails, the controller is killed or
//! loses its lease, and an agent's token is stolen. On three control-plane nodes, the third of which joins late.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::fault::is_program;
use crate::launch::Lifetime;
use crate::node::Node;
use crate::progress::say;
use crate::run::output_of;
use crate::suite::Given;
use crate::{network, process, wait};

use super::operator::{self, CHANGE, Journal, LOGS, MANIFEST, NAMESPACE};

const CONTROLLER: &str = "system:serviceaccount:audit-operator:audit-operator-controller";
const NO_SOAK: &str = "minReadySeconds: 0";
/// Seconds; longer than a controller takes to start.
const SOAK: i64 = 40;
/// What is watched for is written within a fraction of a second; what must not be written is waited for this long.
const HELD: Duration = Duration::from_secs(15);

pub(super) fn run(given: &Given) -> Result<()> {
    let mut cluster = given.cluster(2)?;
    operator::install(&cluster)?;
    approval(&cluster)?;
    newer_generation_and_a_new_node(&mut cluster)?;
    stolen_token(&cluster)?;
    a_node_that_fails(&cluster)?;
    controller_killed(&cluster)?;
    lease_lost(&cluster)
}

/// What is wanted; `rollout` is the section of that name, in YAML.
fn wish(cluster: &Cluster, days: u32, rollout: &str) -> Result<()> {
    let object = format!(
        "apiVersion: audit-operator.dev/v1alpha1\nkind: AuditConfiguration\nmetadata: {{name: default}}\nspec:\n  \
         policy: {{inline: {{rules: [{{level: Metadata}}]}}}}\n  log: {{maxAge: {days}, maxBackups: 2, maxSize: 20}}\n  \
         rollout: {{{rollout}}}\n"
    );
    operator::apply(cluster, &object)
}

fn get(cluster: &Cluster, kind: &str, name: &str) -> Result<Value> {
    let words = ["--request-timeout=5s", "get", kind, name, "--output=json"];
    Ok(serde_json::from_str(&cluster.kubectl(&words)?)?)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A condition's reason and message.
fn condition(object: &Value, type_: &str) -> Option<(String, String)> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let one = conditions.iter().find(|c| c["type"] == type_)?;
    Some((text(one, "/reason").to_owned(), text(one, "/message").to_owned()))
}

fn has(node: &Node, days: u32) -> Result<bool> {
    let manifest = fs::read_to_string(node.path(MANIFEST))?;
    Ok(manifest.contains(&format!("    - --audit-log-maxage={days}\n")))
}

/// Every node is whole and has what is wanted.
fn all_have(cluster: &Cluster, days: u32) -> Result<()> {
    operator::ready(cluster)?;
    for node in &cluster.nodes {
        ensure!(has(node, days)?, "{} has not got {days} days", node.name);
        operator::whole(cluster, node, &[&fs::read_to_string(node.path(MANIFEST))?])?;
    }
    Ok(())
}

/// A node whose new manifest is in place and not yet settled.
fn being_changed(cluster: &Cluster, days: u32) -> Result<&Node> {
    wait::until("a node that is being changed", CHANGE, || {
        let is_it = |node: &&Node| {
            let journal = Journal::of(node).ok().flatten();
            journal.is_some_and(|j| j.state == "verifying") && has(node, days).unwrap_or(false)
        };
        Ok(cluster.nodes.iter().find(is_it))
    })
}

/// Requires that of the newest installs each began when the one before had been over for this many seconds.
fn one_at_a_time(cluster: &Cluster, soak: i64) -> Result<()> {
    let mut spans: Vec<(Timestamp, Timestamp, &str)> = Vec::new();
    for node in &cluster.nodes {
        let journal = Journal::of(node)?.with_context(|| format!("no journal on {}", node.name))?;
        let [(first, _), .., (last, _)] = &journal.history[..] else { bail!("a journal without history") };
        spans.push((*first, *last, &node.name));
    }
    spans.sort();
    for pair in spans.windows(2) {
        let ((_, ended, before), (began, _, after)) = (pair[0], pair[1]);
        // Kubernetes counts whole seconds.
        let pause = began.duration_since(ended).as_secs_f64();
        ensure!(
            pause >= 0.0 && pause + 1.0 >= soak as f64,
            "{after} was begun {pause:.1} s after {before} was changed, not {soak}"
        );
    }
    Ok(())
}

/// Nothing is written before the revision is approved; each node says what it waits for; then it is.
fn approval(cluster: &Cluster) -> Result<()> {
    let objects = Watch::start(cluster, "auditcfg", "{.metadata.generation}")?;
    let plans = Watch::start(cluster, "auditnodes", "{.metadata.name} {.status.plan.revision}")?;
    wish(cluster, 1, &format!("{NO_SOAK}, approval: Manual"))?;
    let revision = wait::until("every node's plan", CHANGE, || {
        let wanted = text(&get(cluster, "auditcfg", "default")?, "/status/revision").to_owned();
        for node in &cluster.nodes {
            let plan = get(cluster, "auditnode", &node.name)?;
            ensure!(
                !wanted.is_empty() && text(&plan, "/status/plan/revision") == wanted,
                "{}",
                plan["status"]
            );
        }
        Ok(Some(wanted))
    })?;
    let planned = |node: &Node| plans.first(&format!("{} {revision}", node.name));
    let planned = cluster.nodes.iter().map(planned).collect::<Result<Vec<_>>>()?;
    let last = planned.into_iter().max().context("no nodes")?;
    let seconds = last.saturating_duration_since(objects.first("1")?).as_secs_f64();
    writeln!(std::io::stdout(), "figure object-to-plan-seconds {seconds:.2}")?;
    let waits = |part: &str| {
        wait::until(&format!("`{part}` to be said"), CHANGE, || {
            let configuration = get(cluster, "auditcfg", "default")?;
            let (reason, message) = condition(&configuration, "Ready").context("no condition Ready")?;
            ensure!(reason == "ApprovalNeeded" && message.contains(part), "it says {reason}: {message}");
            let table = cluster.kubectl(&["get", "auditnodes"])?;
            let said = table.matches(part).count();
            ensure!(said == cluster.nodes.len(), "`kubectl get auditnodes` says:\n{table}");
            Ok(Some(()))
        })
    };
    let needed = format!("`spec.rollout.approvedRevision: {revision}`");
    waits(&needed)?;
    wish(cluster, 1, &format!("{NO_SOAK}, approval: Manual, approvedRevision: 0123456789abcdef"))?;
    let end = Instant::now() + HELD;
    wait::until("the time in which nothing may be written", CHANGE, || {
        Ok((Instant::now() > end).then_some(()))
    })?;
    waits(&needed)?;
    for node in &cluster.nodes {
        ensure!(Journal::of(node)?.is_none() && !has(node, 1)?, "{} was changed unapproved", node.name);
    }
    wish(cluster, 1, &format!("{NO_SOAK}, approval: Manual, approvedRevision: {revision}"))?;
    all_have(cluster, 1)?;
    one_at_a_time(cluster, 0)?;
    say!("nothing was written before revision {revision} was approved");
    Ok(())
}

/// What a watch tells of objects of a kind, and when. Both ends of a time are seen so, for kubectl takes longer than what is
/// measured.
struct Watch {
    kubectl: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Watch {
    /// Watches what `jsonpath` says of each object.
    fn start(cluster: &Cluster, kind: &str, jsonpath: &str) -> Result<Self> {
        let output = format!("--output=jsonpath={jsonpath}{{\"\\n\"}}");
        let mut command = cluster.kubectl_command()?;
        let mut kubectl = command
            .args(["get", kind, "--watch", &output])
            .stdout(Stdio::piped())
            .spawn()
            .context("kubectl")?;
        let stdout = kubectl.stdout.take().context("its output is piped")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
            }
        });
        Ok(Self { kubectl, lines })
    }

    /// When this was told for the first time.
    fn first(&self, told: &str) -> Result<Instant> {
        wait::until(&format!("a watch to tell `{told}`"), CHANGE, || {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(lines.iter().find(|(_, line)| line == told).map(|(at, _)| *at))
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// A newer generation in the middle of a rollout, and a node that joins meanwhile.
fn newer_generation_and_a_new_node(cluster: &mut Cluster) -> Result<()> {
    wish(cluster, 2, NO_SOAK)?;
    let first = being_changed(cluster, 2)?.name.clone();
    wish(cluster, 3, NO_SOAK)?;
    let third = cluster.add_node(Lifetime::OfThisProcess)?;
    all_have(cluster, 3)?;
    for node in &cluster.nodes {
        let backups = fs::read_dir(node.path(&format!("{}/backups", operator::STATE)))?.count();
        // One for each change: the first had three, the second skipped the one that was superseded, the third was new.
        let changes = if node.name == first {
            3
        } else if node.name == third {
            1
        } else {
            2
        };
        ensure!(backups == changes, "{} was changed {backups} times, not {changes}", node.name);
    }
    one_at_a_time(cluster, 0)?;
    let new = cluster.node(&third)?;
    let revision = text(&get(cluster, "auditcfg", "default")?, "/status/revision").to_owned();
    let time = |path: &str| -> Result<(i64, i64)> {
        let metadata = fs::metadata(new.path(path))?;
        Ok((metadata.mtime(), metadata.mtime_nsec()))
    };
    let (policy, manifest) =
        (time(&format!("/etc/kubernetes/audit/policy-{revision}.yaml"))?, time(MANIFEST)?);
    ensure!(policy < manifest, "{third} had its manifest before its policy");
    say!("{first} was finished and changed again, the other went to the newest at once, and {third} joined");
    Ok(())
}

/// What the token of another node's agent, and one without a node's name, may do: read, and nothing else.
fn stolen_token(cluster: &Cluster) -> Result<()> {
    let [victim, thief, ..] = &cluster.nodes[..] else { bail!("not two nodes") };
    let (victim, thief, stolen) =
        (victim.name.as_str(), thief.name.as_str(), token_of_agent(cluster, thief)?);
    let unbound = cluster.kubectl(&["create", "token", "audit-operator-agent", "-n", NAMESPACE])?;
    let status = |node| (node, "", "status: {agentVersion: 0.0.0}");
    let spec = |node| (node, "", "spec: {permit: {from: a, to: b}}");
    let metadata = |node| (node, ", annotations: {audit-operator.dev/retry: x}", "spec: {}");
    let delete = |node| ["delete", "auditnode", node, "--dry-run=server"];
    let (others, unnamed) = ("may only write the AuditNode of that name", "must carry the name of its node");
    write(cluster, &stolen, status(thief)).context("its own node's status")?;
    must_not(write(cluster, &stolen, status(victim)), others)?;
    must_not(write(cluster, &unbound, status(thief)), unnamed)?;
    must_not(write(cluster, &stolen, spec(thief)), "forbidden")?;
    must_not(write(cluster, &stolen, metadata(thief)), "forbidden")?;
    must_not(as_token(cluster, &stolen, &delete(thief), ""), "forbidden")?;
    must_not(as_token(cluster, &stolen, &["get", "secrets", "-n", NAMESPACE], ""), "forbidden")?;
    // What is refused should somebody ever grant the agents more.
    let resources = "--resource=auditnodes.audit-operator.dev,auditnodes.audit-operator.dev/status";
    let agents = "--serviceaccount=audit-operator:audit-operator-agent";
    cluster.kubectl(&["create", "clusterrole", "too-much", "--verb=*", resources])?;
    cluster.kubectl(&["create", "clusterrolebinding", "too-much", "--clusterrole=too-much", agents])?;
    wait::until("the rights to be granted", CHANGE, || write(cluster, &stolen, spec(thief)).map(Some))?;
    for (token, why) in [(&stolen, others), (&unbound, unnamed)] {
        must_not(write(cluster, token, status(victim)), why)?;
        must_not(write(cluster, token, spec(victim)), why)?;
        must_not(write(cluster, token, metadata(victim)), why)?;
        must_not(as_token(cluster, token, &delete(victim), ""), why)?;
    }
    cluster.kubectl(&["delete", "clusterrolebinding", "too-much"])?;
    cluster.kubectl(&["delete", "clusterrole", "too-much"])?;
    say!(
        "the token of {thief}'s agent writes nothing of {victim}, and one without a node's name nothing at all"
    );
    Ok(())
}

/// Writes a part of an AuditNode as the agent writes it; a dry run goes through authorization and admission, too.
fn write(cluster: &Cluster, token: &str, (node, metadata, part): (&str, &str, &str)) -> Result<String> {
    let object = format!(
        "{{apiVersion: audit-operator.dev/v1alpha1, kind: AuditNode, metadata: {{name: {node}{metadata}}}, {part}}}"
    );
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename=-"];
    let subresource = if part.starts_with("status") { &["--subresource=status"][..] } else { &[] };
    as_token(cluster, token, &[&apply[..], subresource].concat(), &object)
}

/// The token that the kubelet gave to a node's agent: what somebody finds who has broken into that agent.
fn token_of_agent(cluster: &Cluster, node: &Node) -> Result<String> {
    let on = format!("--field-selector=spec.nodeName={}", node.name);
    let agents = ["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent", &on];
    let uid = cluster.kubectl(&[&agents[..], &["--output=jsonpath={.items[0].metadata.uid}"]].concat())?;
    let volume = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected");
    node.run("sh", &["-c", &format!("cat {volume}/kube-api-access-*/token")])
}

/// kubectl with nothing but a token.
fn as_token(cluster: &Cluster, token: &str, words: &[&str], input: &str) -> Result<String> {
    let server = format!("--server=https://{}:{}", network::address(1), network::API_PORT);
    let mut command = cluster.kubectl_command()?;
    command.args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &server]);
    command.arg(format!("--token={}", token.trim())).args(words);
    output_of(&mut command, input.as_bytes())
}

fn must_not(answer: Result<String>, why: &str) -> Result<()> {
    let said = match answer {
        Ok(said) => bail!("it was allowed: {said}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(said.contains(why), "it says {said}");
    Ok(())
}

/// One node loses its log's folder in the middle of the change: it goes back, no other node is begun, and what is said to do
/// then helps.
fn a_node_that_fails(cluster: &Cluster) -> Result<()> {
    wish(cluster, 4, NO_SOAK)?;
    let node = being_changed(cluster, 4)?;
    wait::until("the new API server", CHANGE, || {
        let flags = ["--audit-log-maxage=4", "--secure-port=6443"];
        let is_new = |a: &[String]| flags.iter().all(|flag| a.iter().any(|argument| argument == flag));
        Ok((!node.processes(is_new)?.is_empty()).then_some(()))
    })?;
    fs::remove_dir_all(node.path(LOGS))?;
    let said = wait::until("the failure to be said", CHANGE, || {
        let configuration = get(cluster, "auditcfg", "default")?;
        let (reason, message) = condition(&configuration, "Degraded").context("no condition Degraded")?;
        ensure!(reason == "NodeFailed" && message.contains("RolledBack"), "{reason}: {message}");
        Ok(Some(text(&configuration, "/status/waitingOn").to_owned()))
    })?;
    let end = Instant::now() + HELD;
    wait::until("the time in which no node may begin", CHANGE, || Ok((Instant::now() > end).then_some(())))?;
    let have: Vec<&str> =
        cluster.nodes.iter().filter(|n| has(n, 4).unwrap_or(true)).map(|n| n.name.as_str()).collect();
    ensure!(have.is_empty(), "{} failed, and {have:?} have the change", node.name);
    ensure!(Path::new(&node.path(LOGS)).is_dir(), "the API server from before has no folder for its log");
    let command =
        said.split('`').find_map(|part| part.strip_prefix("kubectl annotate ")).context(said.clone())?;
    cluster.kubectl(&[&["annotate"], &command.split(' ').collect::<Vec<_>>()[..]].concat())?;
    all_have(cluster, 4)?;
    one_at_a_time(cluster, 0)?;
    say!("{} failed and stopped the others; `kubectl annotate {command}` went on", node.name);
    Ok(())
}

/// The controller dies while a node is being changed; the next one keeps to the soak all the same.
fn controller_killed(cluster: &Cluster) -> Result<()> {
    wish(cluster, 5, &format!("minReadySeconds: {SOAK}"))?;
    let node = being_changed(cluster, 5)?;
    let killed: usize = cluster.nodes.iter().map(|n| n.kill_operator("controller")).sum::<Result<usize>>()?;
    ensure!(killed == 1, "{killed} controllers were killed");
    all_have(cluster, 5)?;
    one_at_a_time(cluster, SOAK)?;
    say!("the controller was killed while {} was being changed", node.name);
    Ok(())
}

/// The controller hangs until another has taken its lease and begun, and goes on then: it must write nothing any more.
fn lease_lost(cluster: &Cluster) -> Result<()> {
    let scale = |replicas: &str| {
        let words = ["scale", "deployment/audit-operator-controller", "-n", NAMESPACE, replicas];
        wait::until("kubectl scale", CHANGE, || cluster.kubectl(&words).map(Some))
    };
    scale("--replicas=2")?;
    wait::until("a second controller", CHANGE, || Ok((controllers(cluster)?.len() == 2).then_some(())))?;
    let holder = || Ok::<_, anyhow::Error>(text(&get_lease(cluster)?, "/spec/holderIdentity").to_owned());
    let first =
        wait::until("the lease to be held", CHANGE, || Ok(Some(holder()?).filter(|name| !name.is_empty())))?;
    let stopped = controllers(cluster)?.into_iter().find(|&id| is_of_pod(id, &first));
    let stopped = stopped.with_context(|| format!("no process of {first}"))?;
    let signal = |signal| {
        kill_process(Pid::from_raw(stopped).context("a process id is not 0")?, signal).context("a signal")
    };
    signal(Signal::STOP)?;
    let since = Timestamp::now();
    wish(cluster, 6, NO_SOAK)?;
    let second = wait::until("another holder of the lease", CHANGE, || {
        Ok(Some(holder()?).filter(|name| !name.is_empty() && *name != first))
    })?;
    being_changed(cluster, 6)?;
    signal(Signal::CONT)?;
    all_have(cluster, 6)?;
    one_at_a_time(cluster, 0)?;
    let writes = writes(cluster, since)?;
    ensure!(writes.contains(&second), "the log has no write of {second}: {writes:?}");
    ensure!(!writes.contains(&first), "{first} wrote after it had lost its lease");
    scale("--replicas=1")?;
    say!("{second} took over from {first}, which wrote nothing when it went on");
    Ok(())
}

fn get_lease(cluster: &Cluster) -> Result<Value> {
    let words = ["get", "lease", "audit-operator-controller", "-n", NAMESPACE, "--output=json"];
    Ok(serde_json::from_str(&cluster.kubectl(&words)?)?)
}

fn controllers(cluster: &Cluster) -> Result<Vec<process::Id>> {
    let is_controller =
        |a: &[String]| is_program(a, "audit-operator") && a.get(1).is_some_and(|verb| verb == "controller");
    let found: Vec<_> = cluster.nodes.iter().map(|n| n.processes(is_controller)).collect::<Result<_>>()?;
    Ok(found.concat())
}

fn is_of_pod(id: process::Id, name: &str) -> bool {
    let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == format!("POD_NAME={name}").as_bytes())
}

/// The Pods whose controller wrote an object since then, the lease aside, as the API servers recorded it.
fn writes(cluster: &Cluster, since: Timestamp) -> Result<Vec<String>> {
    let mut pods = Vec::new();
    for node in &cluster.nodes {
        for entry in fs::read_dir(node.path(LOGS))?.flatten() {
            let log = fs::read_to_string(entry.path())?;
            let events = log.lines().filter(|line| line.contains(CONTROLLER));
            for event in events.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                let at: Timestamp = text(&event, "/stageTimestamp").parse()?;
                let is_write = ["create", "update", "patch", "delete"].contains(&text(&event, "/verb"))
                    && event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300)
                    && !["leases", "events"].contains(&text(&event, "/objectRef/resource"));
                if at >= since && text(&event, "/user/username") == CONTROLLER && is_write {
                    let pod = text(&event, "/user/extra/authentication.kubernetes.io~1pod-name/0").to_owned();
                    pods.push(pod);
                }
            }
        }
    }
    pods.sort();
    pods.dedup();
    Ok(pods)
}
