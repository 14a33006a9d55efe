//! The agent: one on each control-plane node. It observes, plans, reports, and puts permitted orders on the disk.
//!
//! It never writes the manifest: [`crate::installer`] does, from the order, in a static Pod that the agent adds for it and
//! that outlives the agent, a reboot and the API server. It looks at its AuditNode by watch, and at its
//! own node's files by reading them; while nothing changes it sends nothing to the API server. It talks to whatever
//! API server answers; while none does (say, because its own is being restarted) it goes on trying.
#![expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]

mod decide;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::Future;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::api::{self, AuditNode, AuditNodeStatus};
use crate::cluster;
use crate::condition::{self, Reason};
use crate::host::{self, Host, Identity};
use crate::install::chore::Chore;
use crate::install::journal;
use crate::install::pod::InstallerPod;
use crate::install::{Journal, Order};
use crate::manifest;
use crate::revision::Rendered;
use crate::telemetry::{self, NodeMetrics};

use decide::{Bundle, Situation};

/// How often the node's own files are looked at; nothing is sent when they have not changed.
const LOOK: Duration = Duration::from_secs(1);
/// The agent's container in its Pod.
const CONTAINER: &str = "agent";
/// First and longest pause after the API server could not be reached.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What the agent is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Kubernetes name of its node.
    pub node_name: String,
    /// Namespace of the operator: bundles lie there.
    pub namespace: String,
    /// The name of its own Pod, which says what image is on this node: the installer's static Pod is started from that.
    pub pod_name: String,
    /// As whom it proves that events land; without it, as nobody.
    pub identity: Option<Identity>,
}

/// Runs until `shutdown` ends. An install under way goes on where it is when the agent comes back.
pub async fn run(
    client: Client,
    host: Host,
    options: Options,
    metrics: &NodeMetrics,
    health: &telemetry::Health,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let changed = Arc::new(Notify::new());
    let own = watcher::Config::default().fields(&format!("metadata.name={}", options.node_name));
    let (store, watch) = cluster::watch(Api::all(client.clone()), own, |_| {}, changed.clone());
    let watch = tokio::spawn(watch);
    let mut shutdown = pin!(shutdown);
    tokio::select! {
        ready = store.wait_until_ready() => ready?,
        () = &mut shutdown => return Ok(()),
    }
    let image = own_image(&client, &options);
    let image = tokio::select! {
        image = image => image?,
        () = &mut shutdown => return Ok(()),
    };
    info!(node = options.node_name, image, "watching this node's AuditNode");
    health.set_ready(true);
    let mut agent = Agent::new(client, host, options, image, store);
    let mut pause = RETRY.0;
    loop {
        let wait = match agent.look().await {
            Ok(()) => {
                pause = RETRY.0;
                if let Some((_, status)) = &agent.reported {
                    metrics.observe(status);
                }
                LOOK
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(error, retry_after = ?pause, "could not report");
                let wait = pause;
                pause = (pause * 2).min(RETRY.1);
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed.notified() => {}
            () = &mut shutdown => break,
        }
    }
    info!("shutting down");
    watch.abort();
    Ok(())
}

/// The image this agent runs from, as its Pod has it by now: whatever rewrote it on the way (kustomize, an admission
/// webhook), this is the one that the node has.
async fn own_image(client: &Client, options: &Options) -> anyhow::Result<String> {
    let pods = Api::<Pod>::namespaced(client.clone(), &options.namespace);
    let mut pause = RETRY.0;
    loop {
        match pods.get(&options.pod_name).await {
            Ok(pod) => {
                let image = image_of(pod);
                return image
                    .with_context(|| format!("Pod `{}` has no container `{CONTAINER}`", options.pod_name));
            }
            // Also when it says that this is forbidden: an API server that has just started says so for a moment.
            Err(error) => {
                warn!(%error, pod = options.pod_name, retry_after = ?pause, "cannot read its own Pod")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

fn image_of(pod: Pod) -> Option<String> {
    pod.spec?.containers.into_iter().find(|container| container.name == CONTAINER)?.image
}

/// The order's identity, its journal's state, and whether its installer is in the manifests folder.
type Stand = (Option<String>, Option<&'static str>, bool);

struct Agent {
    host: Host,
    options: Options,
    /// The image of the installer's static Pod.
    image: String,
    store: Store<AuditNode>,
    nodes: Api<AuditNode>,
    bundles: Api<Secret>,
    events: Recorder,
    bundle: Option<Rendered>,
    /// What was reported last, and to which object: one that was deleted and made anew knows nothing.
    reported: Option<(Option<String>, AuditNodeStatus)>,
    /// Order, journal's state and whether the installer is there, and since when it is so.
    unchanged: Option<(Stand, Instant)>,
    /// The last proof of its own.
    proof: Option<journal::Proof>,
    /// When the last proof was made or seen, and how much of the interval is let pass until the next: not every node at the
    /// same moment.
    proved: Option<(Instant, f64)>,
}

/// Between 0 and 1, another one each time.
fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}

impl Agent {
    fn new(client: Client, host: Host, options: Options, image: String, store: Store<AuditNode>) -> Self {
        let reporter = Reporter {
            controller: api::AGENT_FIELD_MANAGER.to_owned(),
            instance: Some(options.node_name.clone()),
        };
        Self {
            nodes: Api::all(client.clone()),
            bundles: Api::namespaced(client.clone(), &options.namespace),
            events: Recorder::new(client, reporter),
            host,
            options,
            image,
            store,
            bundle: None,
            reported: None,
            unchanged: None,
            proof: None,
            proved: None,
        }
    }

    /// Looks at everything once: reports what is new, and gives the order when there is one to give.
    async fn look(&mut self) -> anyhow::Result<()> {
        let Some(node) = self.store.state().into_iter().next() else { return Ok(()) };
        let bundle = self.bundle(node.spec.revision.as_deref()).await?;
        let policy_path = match &bundle {
            Bundle::Rendered(rendered) => Some(rendered.policy_path.clone()),
            Bundle::Nothing | Bundle::Unusable(_) => None,
        };
        let read = |host: &Host| {
            let (order, journal) = (host.order()?, host.journal()?);
            let installer = match &order {
                Some(order) => host.has_installer(&order.id)?,
                None => false,
            };
            Ok((host.facts(policy_path.as_deref())?, order, journal, installer))
        };
        let (facts, order, journal, installer) = match read(&self.host) {
            Ok((facts, order, journal, installer)) => (Ok(facts), order, journal, installer),
            Err(error) => (Err(host::Error::to_string(&error)), None, None, false),
        };
        let unchanged = self.unchanged_for(order.as_ref(), journal.as_ref(), installer);
        let now = Timestamp::now();
        let situation = Situation {
            node: &node,
            bundle: &bundle,
            facts,
            order,
            journal,
            installer,
            unchanged,
            proof: self.proof.clone(),
            now,
        };
        let (mut status, order) = decide::decide(&situation);
        let done = match (&order, decide::chore(&situation), &situation.order) {
            (Some(order), _, _) => self.give(order),
            (None, Some(chore), Some(order)) => self.do_chore(&chore, order),
            _ => Ok(()),
        };
        match done {
            // `audit-operator node` or the installer is at work.
            Ok(()) | Err(host::Error::Locked(_)) => {}
            Err(error) => {
                let reason = match &error {
                    host::Error::Room { .. } => Reason::DiskBudget,
                    _ => Reason::PreflightFailed,
                };
                decide::preflight_failed(&mut status, &node, reason, &error.to_string(), now);
            }
        }
        self.report(&node, status).await?;
        self.prove(&node).await;
        Ok(())
    }

    /// Repeats the proof when it is due; what comes of it is reported at the next look.
    async fn prove(&mut self, node: &AuditNode) {
        let Some((_, status)) = &self.reported else { return };
        if !decide::may_prove(node, status) {
            self.proved = None;
            return;
        }
        // An agent that just started looks soon: it does not know what happened before.
        let (since, share) = *self.proved.get_or_insert_with(|| (Instant::now(), 0.1 * jitter()));
        let (elapsed, trouble) = (since.elapsed(), self.host.log_is_in_trouble());
        if !decide::proof_is_due(node, status, &decide::Proving { elapsed, share, trouble }) {
            return;
        }
        let proof = self.host.prove_live(self.options.identity.as_ref(), Timestamp::now()).await;
        if proof.result != journal::ProofResult::Landed {
            warn!(result = ?proof.result, message = proof.message, "proof");
        }
        self.proof = Some(proof);
        self.proved = Some((Instant::now(), 0.9 + 0.2 * jitter()));
    }

    /// How long these have been as they are, on the clock that nobody sets.
    fn unchanged_for(
        &mut self,
        order: Option<&Order>,
        journal: Option<&Journal>,
        installer: bool,
    ) -> Duration {
        let journal = journal.filter(|j| order.is_some_and(|o| o.id == j.order));
        let now = (order.map(|o| o.id.clone()), journal.map(|j| j.state.name()), installer);
        match &self.unchanged {
            Some((before, since)) if *before == now => since.elapsed(),
            _ => {
                self.unchanged = Some((now, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Gives the order, unless somebody works on the node right now.
    fn give(&self, order: &Order) -> Result<(), host::Error> {
        self.host.hand_over(order, &self.installer(order))?;
        info!(order = order.id, from = order.from, to = order.to, "order given");
        Ok(())
    }

    fn do_chore(&self, chore: &Chore, order: &Order) -> Result<(), host::Error> {
        self.host.do_chore(chore, order, &self.installer(order))?;
        info!(order = order.id, ?chore, "the installer's manifest");
        Ok(())
    }

    fn installer(&self, order: &Order) -> InstallerPod<'_> {
        InstallerPod {
            node_name: &self.options.node_name,
            image: &self.image,
            port: manifest::read(&order.target).map_or(6443, |manifest| manifest.secure_port()),
            strange_folders: self.host.has_strange_folders(order),
        }
    }

    /// The bundle of the wanted revision; read once, since a revision never changes.
    async fn bundle(&mut self, revision: Option<&str>) -> anyhow::Result<Bundle> {
        let Some(revision) = revision else { return Ok(Bundle::Nothing) };
        if let Some(known) = self.bundle.as_ref().filter(|b| b.revision() == revision) {
            return Ok(Bundle::Rendered(Box::new(known.clone())));
        }
        let name = api::bundle_name(revision);
        let secret = self.bundles.get_opt(&name).await.with_context(|| format!("Secret `{name}`"))?;
        let content = secret.as_ref().and_then(|s| s.data.as_ref()?.get(api::BUNDLE_KEY));
        let rendered = content.and_then(|bytes| serde_json::from_slice::<Rendered>(&bytes.0).ok());
        match rendered.filter(|r| r.is_genuine() && r.revision() == revision) {
            Some(rendered) => {
                self.bundle = Some(rendered.clone());
                Ok(Bundle::Rendered(Box::new(rendered)))
            }
            None => Ok(Bundle::Unusable(format!(
                "Secret `{}/{name}` is missing or was altered: delete it, and the controller makes it anew",
                self.options.namespace
            ))),
        }
    }

    /// Writes the status when it says something new.
    async fn report(&mut self, node: &AuditNode, status: AuditNodeStatus) -> anyhow::Result<()> {
        // What was reported may not be back through the watch yet: compare with both.
        let reported = (node.uid(), status);
        if self.reported.as_ref() == Some(&reported) || node.status.as_ref() == Some(&reported.1) {
            return Ok(());
        }
        let name = node.name_any();
        let written = cluster::apply_status(&self.nodes, api::AGENT_FIELD_MANAGER, &name, &reported.1).await;
        match written {
            Err(error) if cluster::is_not_found(&error) => return Ok(()),
            written => written.with_context(|| format!("status of AuditNode `{name}`"))?,
        }
        self.tell(node, &reported.1).await;
        self.reported = Some(reported);
        Ok(())
    }

    /// An event for each condition whose reason is another one than before; an event that gets lost is no failure.
    async fn tell(&self, node: &AuditNode, status: &AuditNodeStatus) {
        let before = self.reported.as_ref().map(|(_, status)| status).or(node.status.as_ref());
        for new in decide::news(before, status) {
            let event = Event {
                type_: if condition::needs_a_person(&new.reason) {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: new.reason.clone(),
                note: Some(api::event_note(&new.message)),
                action: "Report".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.events.publish(&event, &node.object_ref(&())).await {
                warn!(%error, "an event was not recorded");
            }
        }
    }
}
