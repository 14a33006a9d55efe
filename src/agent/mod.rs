//! The agent: one on each control-plane node. It observes, plans, reports, and puts permitted orders on the disk.
//!
//! It never writes the manifest: [`crate::installer`] does, from the order. It looks at its AuditNode by watch, and at its
//! own node's files by reading them; while nothing changes it sends nothing to the API server. It talks to whatever
//! API server answers; while none does (say, because its own is being restarted) it goes on trying.
#![expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]

mod decide;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::Future;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::api::{self, AuditNode, AuditNodeStatus};
use crate::cluster;
use crate::condition::{self, Type};
use crate::host::{self, Host};
use crate::install::Order;
use crate::revision::Rendered;

use decide::{Bundle, Situation};

/// How often the node's own files are looked at; nothing is sent when they have not changed.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest pause after the API server could not be reached.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What the agent is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Kubernetes name of its node.
    pub node_name: String,
    /// Namespace of the operator: bundles lie there.
    pub namespace: String,
}

/// Runs until `shutdown` ends. An install under way goes on where it is when the agent comes back.
pub async fn run(
    client: Client,
    host: Host,
    options: Options,
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
    info!(node = options.node_name, "watching this node's AuditNode");
    let mut agent = Agent::new(client, host, options, store);
    let mut pause = RETRY.0;
    loop {
        let wait = match agent.look().await {
            Ok(()) => {
                pause = RETRY.0;
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

struct Agent {
    host: Host,
    options: Options,
    store: Store<AuditNode>,
    nodes: Api<AuditNode>,
    bundles: Api<Secret>,
    events: Recorder,
    bundle: Option<Rendered>,
    /// What was reported last, and to which object: one that was deleted and made anew knows nothing.
    reported: Option<(Option<String>, AuditNodeStatus)>,
}

impl Agent {
    fn new(client: Client, host: Host, options: Options, store: Store<AuditNode>) -> Self {
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
            store,
            bundle: None,
            reported: None,
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
        let read = |host: &Host| Ok((host.facts(policy_path.as_deref())?, host.order()?, host.journal()?));
        let (facts, order, journal) = match read(&self.host) {
            Ok((facts, order, journal)) => (Ok(facts), order, journal),
            Err(error) => (Err(host::Error::to_string(&error)), None, None),
        };
        let situation =
            Situation { node: &node, bundle: &bundle, facts, order, journal, now: Timestamp::now() };
        let (mut status, order) = decide::decide(&situation);
        if let Some(order) = &order
            && let Err(error) = self.give(order)
        {
            decide::preflight_failed(&mut status, &node, &error.to_string(), situation.now);
        }
        self.report(&node, status).await
    }

    /// Checks the node and gives the order, unless somebody works on the node right now.
    fn give(&self, order: &Order) -> Result<(), host::Error> {
        let _lock = self.host.lock()?;
        self.host.preflight(order)?;
        self.host.give(order)?;
        info!(order = order.id, from = order.from, to = order.to, "order given");
        Ok(())
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

    /// An event when the reason of Ready is another one than before; an event that gets lost is no failure.
    async fn tell(&self, node: &AuditNode, status: &AuditNodeStatus) {
        let reason = |status: &AuditNodeStatus| {
            condition::get(&status.conditions, Type::Ready).map(|c| c.reason.clone())
        };
        let Some(new) = condition::get(&status.conditions, Type::Ready) else { return };
        let old = self.reported.as_ref().map(|(_, status)| status).or(node.status.as_ref()).and_then(reason);
        if old.as_ref() == Some(&new.reason) {
            return;
        }
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
