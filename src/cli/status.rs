//! `kubectl audit status`: the whole fleet on one screen: what is wanted, what runs, what each node waits for.
//!
//! Reads the API objects and nothing else, with the user's own kubeconfig.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt};
use serde::Serialize;
use tokio::sync::Notify;

use super::{FAILED, Format, OK, Streams};
use crate::api::{self, AuditConfiguration, AuditNode};
use crate::cluster;
use crate::condition::{self, Reason, Type};

/// Arguments of `status`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Go on, and print again whenever something changes; with `-o json` one line each time.
    #[arg(short, long)]
    watch: bool,
    /// The context in the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig [default: KUBECONFIG, else ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Prints the fleet: [`OK`], or [`FAILED`] when something needs a person.
///
/// # Errors
/// The cluster cannot be reached, or may not be asked.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(args).await?;
        if args.watch { watch(client, args, streams).await } else { once(client, args, streams).await }
    })
}

async fn client(args: &Args) -> anyhow::Result<Client> {
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig.context("cannot read the kubeconfig")?, &options);
    Ok(Client::try_from(config.await.context("the kubeconfig cannot be used")?)?)
}

async fn once(client: Client, args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let configurations = Api::<AuditConfiguration>::all(client.clone());
    let nodes = Api::<AuditNode>::all(client);
    let all = ListParams::default();
    let configurations = configurations.list(&all).await.context("cannot list AuditConfigurations")?;
    let nodes = nodes.list(&all).await.context("cannot list AuditNodes")?;
    let fleet = Fleet::new(&configurations.items, &nodes.items);
    match args.output {
        Format::Json => writeln!(streams.out, "{}", serde_json::to_string_pretty(&fleet)?)?,
        Format::Text => fleet.print(streams)?,
    }
    Ok(if fleet.needs_a_person { FAILED } else { OK })
}

async fn watch(client: Client, args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let changed = Arc::new(Notify::new());
    let all = watcher::Config::default;
    let (configurations, a) = cluster::watch(Api::all(client.clone()), all(), |_| {}, changed.clone());
    let (nodes, b) = cluster::watch(Api::all(client), all(), |_| {}, changed.clone());
    let watches = tokio::spawn(async { tokio::join!(a, b) });
    configurations.wait_until_ready().await?;
    nodes.wait_until_ready().await?;
    let mut printed = None;
    while !watches.is_finished() {
        let fleet = Fleet::new(configurations.state(), nodes.state());
        if printed.as_ref() != Some(&fleet) {
            match args.output {
                Format::Json => writeln!(streams.out, "{}", serde_json::to_string(&fleet)?)?,
                Format::Text => {
                    // A terminal is wiped; elsewhere an empty line parts one from the next.
                    let parting = if streams.color { "\x1b[2J\x1b[H" } else { "\n" };
                    streams.out.write_all(if printed.is_some() { parting.as_bytes() } else { b"" })?;
                    fleet.print(streams)?;
                }
            }
            streams.out.flush()?;
            printed = Some(fleet);
        }
        changed.notified().await;
    }
    Ok(OK)
}

/// The JSON answer; stable.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fleet {
    needs_a_person: bool,
    configurations: Vec<Configuration>,
    nodes: Vec<Node>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    name: String,
    revision: Option<String>,
    nodes: u32,
    ready_nodes: u32,
    reason: String,
    waiting_on: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    name: String,
    configuration: Option<String>,
    wanted: Option<String>,
    revision: Option<String>,
    reason: String,
    /// Where the install under way is; absent when none is.
    step: Option<Step>,
    waiting_on: Option<String>,
    proof: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    state: String,
    since: String,
    message: String,
}

impl Fleet {
    fn new<C, N>(configurations: impl IntoIterator<Item = C>, nodes: impl IntoIterator<Item = N>) -> Self
    where
        C: std::borrow::Borrow<AuditConfiguration>,
        N: std::borrow::Borrow<AuditNode>,
    {
        let mut configurations: Vec<_> =
            configurations.into_iter().map(|c| Configuration::new(c.borrow())).collect();
        let mut nodes: Vec<_> = nodes.into_iter().map(|n| Node::new(n.borrow())).collect();
        configurations.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let needs_a_person =
            configurations.iter().any(|c| c.problem.is_some()) || nodes.iter().any(|n| n.problem.is_some());
        Self { needs_a_person, configurations, nodes }
    }

    fn print(&self, streams: &mut Streams<'_>) -> io::Result<()> {
        let heading = ["CONFIGURATION", "REVISION", "READY", "REASON"];
        let rows = self.configurations.iter().map(|c| {
            let ready = format!("{}/{}", c.ready_nodes, c.nodes);
            [c.name.clone(), or_dash(c.revision.as_ref()), ready, c.reason.clone()]
        });
        table(heading, rows.collect(), streams)?;
        writeln!(streams.out)?;
        let heading = ["NODE", "CONFIGURATION", "WANTED", "RUNNING", "REASON", "LAST PROOF"];
        let rows = self.nodes.iter().map(|n| {
            let [configuration, wanted, revision, proof] =
                [&n.configuration, &n.wanted, &n.revision, &n.proof].map(|text| or_dash(text.as_ref()));
            let reason = match &n.step {
                Some(step) => format!("{}: {}", n.reason, step.state),
                None => n.reason.clone(),
            };
            [n.name.clone(), configuration, wanted, revision, reason, proof]
        });
        table(heading, rows.collect(), streams)?;
        for node in &self.nodes {
            let name = &node.name;
            match (&node.step, &node.waiting_on) {
                // What a node that is being changed waits for is itself.
                (Some(Step { state, since, message }), _) => {
                    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
                    writeln!(streams.out, "\n{name} is being changed: {state} since {since}{message}")?;
                }
                (None, Some(waiting_on)) => writeln!(streams.out, "\n{name} waits: {waiting_on}")?,
                (None, None) => {}
            }
            if let Some(problem) = &node.problem {
                writeln!(streams.out, "\n{name}: {problem}")?;
            }
        }
        for configuration in &self.configurations {
            if let Some(problem) = &configuration.problem {
                writeln!(streams.out, "\n{}: {problem}", configuration.name)?;
            }
        }
        Ok(())
    }
}

impl Configuration {
    fn new(configuration: &AuditConfiguration) -> Self {
        let status = configuration.status.clone().unwrap_or_default();
        let degraded = condition::get(&status.conditions, Type::Degraded).filter(|c| c.status == "True");
        let counts = status.nodes.unwrap_or_default();
        Self {
            name: configuration.name_any(),
            revision: status.revision,
            nodes: counts.total,
            ready_nodes: counts.ready,
            reason: condition::get(&status.conditions, Type::Ready)
                .map_or_else(unknown, |c| c.reason.clone()),
            waiting_on: status.waiting_on,
            problem: degraded.map(|c| format!("{}: {}", c.reason, c.message)),
        }
    }
}

impl Node {
    fn new(node: &AuditNode) -> Self {
        let status = node.status.clone().unwrap_or_default();
        let broken = [Type::Ready, Type::Proven].into_iter().find_map(|type_| {
            condition::get(&status.conditions, type_)
                .filter(|c| c.status != "True" && condition::needs_a_person(&c.reason))
        });
        let proof = status.proof.as_ref().map(|proof| {
            let latency = proof.latency_milliseconds.map(|ms| format!(" in {ms} ms")).unwrap_or_default();
            format!("{:?}{latency} at {}", proof.result, proof.time.0)
        });
        let reason =
            condition::get(&status.conditions, Type::Ready).map_or_else(unknown, |c| c.reason.clone());
        let install = status.install.as_ref().filter(|_| reason == Reason::Installing.as_str());
        let step = install.map(|install| Step {
            state: install.state.clone(),
            since: install.since.0.to_string(),
            message: install.message.clone(),
        });
        Self {
            name: node.name_any(),
            configuration: node.spec.configuration.clone(),
            wanted: node.spec.revision.clone(),
            reason,
            step,
            waiting_on: node.annotations().get(api::WAITING_ON_ANNOTATION).cloned(),
            problem: broken.map(|c| format!("{}: {}", c.reason, c.message)),
            revision: status.revision,
            proof,
        }
    }
}

fn unknown() -> String {
    "Unknown".to_owned()
}

fn or_dash(text: Option<&String>) -> String {
    text.map_or("-", String::as_str).to_owned()
}

/// Left-aligned columns, three spaces between them, as kubectl has them.
fn table<const N: usize>(
    heading: [&str; N],
    rows: Vec<[String; N]>,
    streams: &mut Streams<'_>,
) -> io::Result<()> {
    let rows: Vec<_> = std::iter::once(heading.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in &rows {
        let cells = row.iter().enumerate().map(|(i, cell)| format!("{cell:width$}", width = width(i)));
        writeln!(streams.out, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fleet(node_conditions: Value) -> Fleet {
        let configuration = json!({
            "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditConfiguration", "metadata": {"name": "default"},
            "spec": {"policy": {"profile": "Metadata"}},
            "status": {"revision": "r2", "nodes": {"total": 2, "updated": 1, "ready": 1, "failed": 0}},
        });
        let node = json!({
            "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditNode",
            "metadata": {"name": "n1", "annotations": {"audit-operator.dev/waiting-on": "node `n2` is being changed"}},
            "spec": {"configuration": "default", "revision": "r2"},
            "status": {
                "revision": "r1", "conditions": node_conditions,
                "proof": {"time": "2026-01-01T00:00:00Z", "result": "Landed", "latencyMilliseconds": 12},
            },
        });
        let configuration: AuditConfiguration = serde_json::from_value(configuration).unwrap();
        let node: AuditNode = serde_json::from_value(node).unwrap();
        Fleet::new([configuration], [node])
    }

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "why", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn text(fleet: &Fleet) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err, color: false };
        fleet.print(&mut streams).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_fleet_is_on_one_screen() {
        let fleet = fleet(json!([condition("Ready", "False", "WaitingForPermit")]));
        let expected = "\
CONFIGURATION   REVISION   READY   REASON
default         r2         1/2     Unknown

NODE   CONFIGURATION   WANTED   RUNNING   REASON             LAST PROOF
n1     default         r2       r1        WaitingForPermit   Landed in 12 ms at 2026-01-01T00:00:00Z

n1 waits: node `n2` is being changed
";
        assert_eq!(text(&fleet), expected);
        assert!(!fleet.needs_a_person);
    }

    #[test]
    fn a_node_that_is_being_changed_says_how_far_it_is() {
        let mut node: AuditNode = serde_json::from_value(json!({
            "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditNode",
            "metadata": {"name": "n1", "annotations": {"audit-operator.dev/waiting-on": "node `n1` is being changed"}},
            "spec": {"configuration": "default", "revision": "r2"},
            "status": {
                "conditions": [condition("Ready", "False", "Installing")],
                "install": {
                    "id": "i", "state": "Rehearsing", "from": "a", "to": "b", "since": "2026-01-01T00:00:00Z",
                    "message": "it is not ready",
                },
            },
        }))
        .unwrap();
        let no_configuration: [AuditConfiguration; 0] = [];
        let expected = "\
CONFIGURATION   REVISION   READY   REASON

NODE   CONFIGURATION   WANTED   RUNNING   REASON                   LAST PROOF
n1     default         r2       -         Installing: Rehearsing   -

n1 is being changed: Rehearsing since 2026-01-01T00:00:00Z: it is not ready
";
        assert_eq!(text(&Fleet::new(no_configuration.clone(), [node.clone()])), expected);
        // The last install of a node that waits is none under way.
        node.status.as_mut().unwrap().conditions.clear();
        let said = text(&Fleet::new(no_configuration, [node]));
        assert!(said.ends_with("\nn1 waits: node `n1` is being changed\n"), "{said}");
    }

    #[test]
    fn what_needs_a_person_is_said() {
        let fleet = fleet(json!([
            condition("Ready", "True", "Settled"),
            condition("Proven", "False", "ProofMissing"),
        ]));
        assert!(fleet.needs_a_person);
        assert!(text(&fleet).ends_with("\nn1: ProofMissing: why\n"), "{}", text(&fleet));
    }
}
