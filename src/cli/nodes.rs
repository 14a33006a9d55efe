//! Asking the agents: the same search on every control-plane node, over `pods/exec`.
//!
//! No port is opened: who may create `pods/exec` in the operator's namespace may read audit logs, and the API server
//! audits each such request. The agent's own program filters on the node (`audit-operator trail`), and only what
//! matches leaves it. A node that does not answer is named, never passed over.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, AttachParams, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::logs::Args;
use super::trail::{Asked, Told};
use crate::trail::event::Event;
use crate::trail::query::Query;
use crate::trail::question::Question;
use crate::trail::read::{Coverage, Entry, Place, Sink};
use crate::trail::top::{By, Top};
use crate::trail::who::Live;

const AGENTS: &str = "app.kubernetes.io/component=agent";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const PROGRAM: &str = "/usr/local/bin/audit-operator";

/// The agents of a cluster.
pub(super) struct Nodes {
    runtime: Runtime,
    client: Client,
    namespace: String,
    log_dir: String,
    /// Agent Pod by node.
    agents: BTreeMap<String, String>,
    /// Nodes that have not answered, and why.
    missing: BTreeMap<String, String>,
}

impl Nodes {
    pub(super) fn connect(args: &Args) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, agents, nodes) = runtime.block_on(async {
            let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
            let config = match &args.kubeconfig {
                Some(file) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
                None => Config::from_kubeconfig(&options).await?,
            };
            let client = Client::try_from(config)?;
            let pods = Api::<Pod>::namespaced(client.clone(), &args.operator_namespace);
            let agents = pods.list(&ListParams::default().labels(AGENTS)).await.with_context(|| {
                format!("cannot list the agents in the namespace `{}`", args.operator_namespace)
            })?;
            // Without the right to list nodes, a node that never had an agent cannot be missed.
            let nodes =
                Api::<Node>::all(client.clone()).list(&ListParams::default().labels(CONTROL_PLANE)).await;
            let nodes: Vec<String> =
                nodes.map(|nodes| nodes.iter().map(ResourceExt::name_any).collect()).unwrap_or_default();
            anyhow::Ok((client, agents, nodes))
        })?;
        let agents: BTreeMap<String, String> = agents
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .filter_map(|pod| Some((pod.spec.as_ref()?.node_name.clone()?, pod.name_any())))
            .collect();
        anyhow::ensure!(
            !agents.is_empty(),
            "no agent runs in the namespace `{}`; --operator-namespace names another one",
            args.operator_namespace
        );
        let missing = nodes
            .into_iter()
            .filter(|node| !agents.contains_key(node))
            .map(|node| (node, "no agent runs on it".to_owned()))
            .collect();
        let (namespace, log_dir) = (args.operator_namespace.clone(), args.log_dir.clone());
        Ok(Self { runtime, client, namespace, log_dir, agents, missing })
    }

    pub(super) fn scan(&mut self, query: &Query, sink: &mut impl Sink) -> anyhow::Result<Coverage> {
        let asked = Asked { query: query.clone(), top: None };
        self.ask(&asked, &mut |node, told| {
            if let (Some(event), Some(place)) = (told.event, told.place) {
                let record = event.get().as_bytes();
                let file = format!("{node}:{}", place.file).into();
                if let Ok(event) = Event::from_json(record) {
                    sink.take(Entry { event, place: Place { file, line: place.line } }, record);
                }
            }
        })
    }

    pub(super) fn top(&mut self, query: &Query, by: By) -> anyhow::Result<(Top, Coverage)> {
        let asked = Asked { query: query.clone(), top: Some(by) };
        let mut top = Top::default();
        let coverage = self.ask(&asked, &mut |_, told| top.add(told.top.unwrap_or_default()))?;
        Ok((top, coverage))
    }

    /// Asks all agents at once; each line goes to `each` with its node.
    fn ask(&mut self, asked: &Asked, each: &mut dyn FnMut(&str, Told)) -> anyhow::Result<Coverage> {
        let asked = serde_json::to_string(asked)?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let command = [PROGRAM, "trail", "--root", "/host", "--log-dir", &self.log_dir, "--ask", &asked];
        let (lines, mut received) = mpsc::channel::<(String, String)>(64);
        let mut coverage = Coverage::default();
        let mut answered = BTreeSet::new();
        let failures = self.runtime.block_on(async {
            let runs = self.agents.iter().map(|(node, pod)| run(&pods, node, pod, &command, lines.clone()));
            let runs = join_all(runs);
            drop(lines);
            let take = async {
                while let Some((node, line)) = received.recv().await {
                    let Ok(told) = serde_json::from_str::<Told>(&line) else { continue };
                    if let Some(of_node) = &told.coverage {
                        coverage.add(of_node, &format!("{node}:"));
                        answered.insert(node.clone());
                    }
                    each(&node, told);
                }
            };
            let (failures, ()) = futures::join!(runs, take);
            failures
        });
        for (node, failure) in self.agents.keys().zip(failures) {
            if !answered.contains(node) {
                let why = failure
                    .err()
                    .map_or("its answer ended too early".to_owned(), |error| format!("{error:#}"));
                self.missing.insert(node.clone(), why);
            }
        }
        Ok(coverage)
    }

    pub(super) fn live(&self, question: &Question) -> Option<Live> {
        let (resource, client) = (question.resource(), &self.client);
        let group = resource.group()?;
        self.runtime.block_on(async {
            let group = kube::discovery::group(client, group).await.ok()?;
            let found = group.recommended_resources();
            let (kind, _) =
                found.into_iter().find(|(kind, _)| resource.includes(&kind.plural, &kind.group))?;
            let api: Api<DynamicObject> = match question.namespace() {
                "" => Api::all_with(client.clone(), &kind),
                namespace => Api::namespaced_with(client.clone(), namespace, &kind),
            };
            let object = api.get_metadata_opt(question.name()).await.ok()??;
            serde_json::to_value(&object.metadata).and_then(serde_json::from_value).ok()
        })
    }

    pub(super) fn missing(&self) -> Vec<String> {
        let said = |(node, why): (&String, &String)| {
            format!(
                "the control-plane node `{node}` has not answered, so what it logged is missing here: {why}"
            )
        };
        self.missing.iter().map(said).collect()
    }
}

/// Runs the search on one node and passes on what it prints.
async fn run(
    pods: &Api<Pod>,
    node: &str,
    pod: &str,
    command: &[&str],
    lines: mpsc::Sender<(String, String)>,
) -> anyhow::Result<()> {
    let params = AttachParams::default().container("agent").stdout(true).stderr(true).stdin(false);
    let mut process = pods.exec(pod, command.iter().copied(), &params).await?;
    let status = process.take_status();
    let stdout = process.stdout().context("exec gave no standard output")?;
    let stderr = process.stderr().context("exec gave no standard error")?;
    let read = async {
        let mut stdout = BufReader::new(stdout).lines();
        while let Some(line) = stdout.next_line().await? {
            lines.send((node.to_owned(), line)).await?;
        }
        anyhow::Ok(())
    };
    let complain = async {
        let mut said = String::new();
        stderr.take(4096).read_to_string(&mut said).await.map(|_| said)
    };
    let (read, said) = futures::join!(read, complain);
    drop(lines);
    read?;
    if let Some(status) = status
        && let Some(status) = status.await
        && status.status.as_deref() == Some("Failure")
    {
        anyhow::bail!("{} {}", status.message.unwrap_or_default(), said.unwrap_or_default().trim());
    }
    Ok(())
}
