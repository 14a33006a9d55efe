//! The controller: observe the whole cluster, decide, write what differs. One loop, one reconciliation at a time.
//!
//! It judges the whole world at once rather than one object after the other, because its first duty is a statement over
//! all of them: one control-plane node is disturbed at a time. Everything is watched, nothing is polled, but for the API
//! servers' readiness while a node is about to be changed; a failed write is tried again with growing pauses. It works only
//! while it holds its Lease, and stops until it has it again when it has lost it.
#![expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]

mod ask;
mod decide;
mod facts;
mod memory;
mod observe;
mod status;
mod write;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Future;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::api;
use crate::cluster::{self, lease::Lease};
use crate::telemetry::{ControllerMetrics, Health};

/// Changes come in bursts (a node's status, then its plan): those of this time are judged together.
const SETTLE: Duration = Duration::from_millis(100);
/// First and longest pause after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What the controller is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the operator: bundles and the Lease lie there.
    pub namespace: String,
    /// Further namespaces whose ConfigMaps may hold policies.
    pub config_map_namespaces: Vec<String>,
    /// Names this process in the Lease, and no other: its Pod's name.
    pub identity: String,
    /// The node it runs on, where that is known; it is changed last.
    pub own_node: Option<String>,
}

/// Runs until `shutdown` ends; what is being written then is finished first, and the Lease given back.
///
/// # Errors
/// The watches could not be started.
pub async fn run(
    client: Client,
    options: Options,
    metrics: &ControllerMetrics,
    health: &Health,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut shutdown = pin!(shutdown);
    loop {
        let acquired = Lease::acquire(client.clone(), &options.namespace, api::LEASE, &options.identity);
        let lease = tokio::select! {
            lease = acquired => Arc::new(lease),
            () = &mut shutdown => return Ok(()),
        };
        metrics.lease_held(true);
        let work = reconcile(client.clone(), &options, lease.clone(), metrics, health, &mut shutdown);
        let ended = tokio::select! {
            result = work => Some(result),
            lost = lease.keep() => {
                // Not an end of the process: on a single control plane the API server itself is away for this long with each
                // change that no stand-in serves, and a process that is started again has to wait longer each time.
                warn!(error = format!("{lost:#}"), "stopping until the lease is had again");
                None
            }
        };
        health.set_ready(false);
        metrics.lease_held(false);
        let Some(result) = ended else { continue };
        if result.is_ok()
            && let Err(error) = lease.release().await
        {
            warn!(error = format!("{error:#}"), "the next controller has to wait for the lease");
        }
        return result;
    }
}

async fn reconcile(
    client: Client,
    options: &Options,
    lease: Arc<Lease>,
    metrics: &ControllerMetrics,
    health: &Health,
    mut shutdown: impl Future<Output = ()> + Unpin,
) -> anyhow::Result<()> {
    let changed = Arc::new(Notify::new());
    let (stores, watches) = observe::watch(&client, options, &changed);
    // Ended with this future, also when the lease is lost in the middle.
    let mut running = JoinSet::new();
    running.spawn(watches);
    let writer = write::Writer::new(client, &options.namespace, lease);
    tokio::select! {
        ready = stores.wait_until_ready() => ready?,
        () = &mut shutdown => return Ok(()),
    }
    info!("every store is filled");
    health.set_ready(true);
    let mut memory = memory::Memory::default();
    let mut pause = RETRY.0;
    loop {
        let started = Instant::now();
        let (world, desired) = decide(&stores, &mut memory, options).await;
        let written = writer.write(&desired, &mut memory).await;
        metrics.reconciled(written.is_ok(), started.elapsed());
        metrics.nodes(world.audit_nodes.iter().map(AsRef::as_ref));
        // How long until it looks again by itself, and whether a change wakes it before.
        let (wait, wakes) = match written {
            Ok(()) => {
                pause = RETRY.0;
                (desired.look_again, true)
            }
            Err(error) if error.downcast_ref().is_some_and(cluster::is_conflict) => {
                info!("a node reported in the moment of the decision: deciding again");
                (Some(RETRY.0), false)
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(error, retry_after = ?pause, "could not write");
                let wait = pause;
                pause = (pause * 2).min(RETRY.1);
                (Some(wait), false)
            }
        };
        let timer = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let change = async {
            changed.notified().await;
            tokio::time::sleep(SETTLE).await;
        };
        tokio::select! {
            () = timer => {}
            () = change, if wakes => {}
            () = &mut shutdown => break,
        }
    }
    info!("shutting down");
    Ok(())
}

/// Decides on the stores as they are; asks the API servers when a permit depends on it.
async fn decide(
    stores: &observe::Stores,
    memory: &mut memory::Memory,
    options: &Options,
) -> (observe::World, decide::Desired) {
    let mut answers = None;
    loop {
        let mut world = stores.world();
        memory.overlay(&mut world);
        let now = Timestamp::now();
        let ages = memory.ages(&world, now, Instant::now());
        let own_node = options.own_node.as_deref();
        let known = decide::Known { now, own_node, ages: &ages, answers: answers.as_ref() };
        let desired = decide::decide(&world, &known);
        if !desired.ask {
            return (world, desired);
        }
        answers = Some(ask::all(&world).await);
    }
}
