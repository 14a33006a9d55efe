//! Asking the agents: the same search on every control-plane node, over `pods/exec`.
//!
//! No port is opened. Reading needs `pods/exec` in the operator's namespace and `get` of `auditnodes/log`, a permission of
//! its own that an admission policy of the chart asks for; the same policy lets nothing but this search be run there. The
//! API server audits each such request, with the question in it. The agent's own program filters on the node
//! (`audit-operator trail`), and only what matches leaves it. A node that does not answer is named, never passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::FutureExt as _;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, AttachParams, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::logs::Args;
use super::progress::Progress;
use super::trail::{Asked, PROGRESS, Told};
use crate::trail::event::Event;
use crate::trail::query::Query;
use crate::trail::question::Question;
use crate::trail::read::{Coverage, Entry, Place, Sink};
use crate::trail::scan::Meter as _;
use crate::trail::top::{By, Top};
use crate::trail::who::Live;

const AGENTS: &str = "app.kubernetes.io/component=agent";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const CONTAINER: &str = "agent";
const PROGRAM: &str = "/usr/local/bin/audit-operator";

/// After this long without a word a node is taken not to answer: its agent says how far it is every second.
const SILENCE: Duration = Duration::from_secs(20);

/// The agents of a cluster.
pub(super) struct Nodes {
    runtime: Runtime,
    client: Client,
    namespace: String,
    /// The namespace of the context in the kubeconfig.
    default_namespace: String,
    log: Option<String>,
    /// Agent Pod by node.
    agents: BTreeMap<String, String>,
    /// Nodes that have not answered, and why.
    missing: BTreeMap<String, String>,
}

impl Nodes {
    pub(super) fn connect(args: &Args) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, default_namespace, agents, nodes) = runtime.block_on(async {
            let mut config = config(args).await?;
            config.connect_timeout = Some(SILENCE);
            let default_namespace = config.default_namespace.clone();
            let client = Client::try_from(config)?;
            let pods = Api::<Pod>::namespaced(client.clone(), &args.operator_namespace);
            let agents = ListParams::default().labels(AGENTS);
            let agents = within(pods.list(&agents)).await?.with_context(|| {
                format!("cannot list the agents in the namespace `{}`", args.operator_namespace)
            })?;
            // Without the right to list nodes, a node that never had an agent cannot be missed.
            let nodes = Api::<Node>::all(client.clone());
            let nodes = within(nodes.list(&ListParams::default().labels(CONTROL_PLANE))).await?;
            anyhow::Ok((client, default_namespace, agents.items, nodes.ok().map(|nodes| nodes.items)))
        })?;
        anyhow::ensure!(
            !agents.is_empty(),
            "no agent runs in the namespace `{}`; --operator-namespace names another one",
            args.operator_namespace
        );
        let mut missing = BTreeMap::new();
        if nodes.is_none() {
            let unlisted = "listing nodes is not allowed, so one without an agent cannot be told".to_owned();
            missing.insert("(unknown)".to_owned(), unlisted);
        }
        for node in nodes.iter().flatten() {
            missing.insert(node.name_any(), "no agent runs on it".to_owned());
        }
        let mut running = BTreeMap::new();
        for pod in agents.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
            if phase == "Running" {
                missing.remove(&node);
                running.insert(node, pod.name_any());
            } else {
                missing.insert(node, format!("its agent `{}` is {phase}", pod.name_any()));
            }
        }
        let (namespace, log) = (args.operator_namespace.clone(), args.node_log.clone());
        Ok(Self { runtime, client, namespace, default_namespace, log, agents: running, missing })
    }

    pub(super) fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    pub(super) fn scan(&mut self, query: &Query, sink: &mut impl Sink) -> anyhow::Result<Coverage> {
        let asked = Asked { query: query.clone(), top: None, follow: false };
        self.ask(&asked, &mut |node, told| {
            if let Some((entry, record)) = entry(node, &told) {
                sink.take(entry, record);
            }
            Ok(())
        })
    }

    /// Hands on what matches on any node as it comes, until `each` fails or no node is left.
    pub(super) fn follow(
        &mut self,
        query: &Query,
        each: &mut dyn FnMut(Entry, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let asked = Asked { query: query.clone(), top: None, follow: true };
        let take = &mut |node: &str, told: Told| match entry(node, &told) {
            Some((entry, record)) => each(entry, record),
            None => Ok(()),
        };
        self.ask(&asked, take).map(drop)
    }

    pub(super) fn top(&mut self, query: &Query, by: By) -> anyhow::Result<(Top, Coverage)> {
        let asked = Asked { query: query.clone(), top: Some(by), follow: false };
        let mut top = Top::default();
        let coverage = self.ask(&asked, &mut |_, told| {
            top.add(told.top.unwrap_or_default());
            Ok(())
        })?;
        Ok((top, coverage))
    }

    /// Asks all agents at once; each line goes to `each` with its node. A node that does not answer once is not asked
    /// again, and an answer from none is an error.
    fn ask(
        &mut self,
        asked: &Asked,
        each: &mut dyn FnMut(&str, Told) -> anyhow::Result<()>,
    ) -> anyhow::Result<Coverage> {
        let (asked_on, asked) = (asked.follow, serde_json::to_string(asked)?);
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let mut command = vec![PROGRAM, "trail", "--root", "/host", "--attended", "--ask", &asked];
        if let Some(log) = &self.log {
            command.extend(["--log", log]);
        }
        let (lines, mut received) = mpsc::channel::<(String, String)>(64);
        let mut coverage = Coverage::default();
        let mut answered = BTreeSet::new();
        let failures = self.runtime.block_on(async {
            let progress = &if asked_on { Progress::silent() } else { Progress::new() };
            let agents = self.agents.iter();
            let runs = agents.map(|(node, pod)| run(&pods, node, pod, &command, lines.clone(), progress));
            let runs = join_all(runs).map(Ok);
            drop(lines);
            let take = async {
                while let Some((node, line)) = received.recv().await {
                    let Ok(told) = serde_json::from_str::<Told>(&line) else { continue };
                    if let Some(of_node) = &told.coverage {
                        coverage.add(of_node, &format!("{node}:"));
                        answered.insert(node.clone());
                    }
                    each(&node, told)?;
                }
                anyhow::Ok(())
            };
            futures::try_join!(runs, take).map(|(failures, ())| failures)
        })?;
        for (node, failure) in self.agents.keys().zip(failures) {
            if !answered.contains(node) {
                let why = failure
                    .err()
                    .map_or("its answer ended too early".to_owned(), |error| format!("{error:#}"));
                self.missing.insert(node.clone(), why);
            }
        }
        self.agents.retain(|node, _| answered.contains(node));
        if self.agents.is_empty() {
            bail!("no control-plane node has answered:\n  {}", self.missing().join("\n  "));
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
    progress: &Progress,
) -> anyhow::Result<()> {
    let params = AttachParams::default().container(CONTAINER).stdin(true).stdout(true).stderr(true);
    let mut process = within(pods.exec(pod, command.iter().copied(), &params)).await?.map_err(explained)?;
    let status = process.take_status();
    // Open as long as somebody waits: its end is what ends the search on the node.
    let attention = process.stdin();
    let stdout = process.stdout().context("exec gave no standard output")?;
    let stderr = process.stderr().context("exec gave no standard error")?;
    let (mut stdout, mut stderr) = (BufReader::new(stdout).lines(), BufReader::new(stderr).lines());
    let (mut said, mut complains, mut so_far) = (String::new(), true, (0, 0));
    loop {
        // Either of them is a sign of life.
        let line = within(async {
            tokio::select! {
                line = stdout.next_line() => line.map(Heard::Answer),
                line = stderr.next_line(), if complains => line.map(Heard::Aside),
            }
        });
        match line.await?? {
            Heard::Answer(Some(line)) => lines.send((node.to_owned(), line)).await?,
            Heard::Answer(None) => break,
            Heard::Aside(Some(line)) => {
                match line.strip_prefix(PROGRESS).and_then(|numbers| numbers.split_once(' ')) {
                    Some((done, expected)) => {
                        let number = |text: &str| text.parse::<u64>().unwrap_or_default();
                        let (done, expected) = (number(done), number(expected));
                        progress.expect(expected.saturating_sub(so_far.1));
                        progress.read(done.saturating_sub(so_far.0));
                        so_far = (done, expected);
                    }
                    None => said.push_str(&line),
                }
            }
            Heard::Aside(None) => complains = false,
        }
    }
    while let Ok(Ok(Some(line))) = within(stderr.next_line()).await {
        if !line.starts_with(PROGRESS) {
            said.push_str(&line);
        }
    }
    drop(lines);
    if let Some(status) = status
        && let Some(status) = within(status).await?
        && status.status.as_deref() == Some("Failure")
    {
        bail!("{}", said.trim().strip_prefix("error: ").unwrap_or(&status.message.unwrap_or_default()));
    }
    drop(attention);
    Ok(())
}

/// The event in a line of an answer, if there is one, by its place on all nodes.
fn entry<'t>(node: &str, told: &'t Told) -> Option<(Entry, &'t [u8])> {
    let (record, place) = (told.event.as_ref()?.get().as_bytes(), told.place.as_ref()?);
    let place = Place { file: format!("{node}:{}", place.file).into(), at: place.at };
    Some((Entry { event: Event::from_json(record).ok()?, place }, record))
}

/// What a node says.
enum Heard {
    Answer(Option<String>),
    Aside(Option<String>),
}

/// Waits for no longer than a node may be silent.
async fn within<T>(answer: impl Future<Output = T>) -> anyhow::Result<T> {
    let silent = || format!("no word from it for {} seconds", SILENCE.as_secs());
    tokio::time::timeout(SILENCE, answer).await.with_context(silent)
}

/// A refusal with what to do about it.
fn explained(error: kube::Error) -> anyhow::Error {
    match &error {
        kube::Error::Api(status) if status.code == 403 => anyhow::Error::new(error).context(
            "reading audit logs is not allowed: it needs `get` of auditnodes/log, and `get` and `create` of pods/exec in \
             the operator's namespace, which the chart's roles `audit-operator-log-reader` give",
        ),
        _ => error.into(),
    }
}

/// The user's own way to the cluster: as kubectl finds it.
async fn config(args: &Args) -> anyhow::Result<Config> {
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig.context("cannot read the kubeconfig")?, &options)
            .await
            .context("the kubeconfig cannot be used")?;
    if let Some(user) = &args.impersonate {
        config.auth_info.impersonate = Some(user.clone());
        config.auth_info.impersonate_groups =
            Some(args.impersonate_group.clone()).filter(|groups| !groups.is_empty());
    }
    Ok(config)
}
