//! The controller: observe the whole cluster, decide, write what differs. One loop, one reconciliation at a time.
//!
//! It judges the whole world at once rather than one object after the other, because its first duty is a statement over
//! all of them: one control-plane node is disturbed at a time. Everything is watched, nothing is polled; a failed write
//! is tried again with growing pauses.
#![expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]

mod decide;
mod observe;
mod status;
mod write;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use tracing::{info, warn};

/// Changes come in bursts (a node's status, then its plan): those of this time are judged together.
const SETTLE: Duration = Duration::from_millis(100);
/// First and longest pause after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What the controller is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the operator: bundles lie there.
    pub namespace: String,
    /// Further namespaces whose ConfigMaps may hold policies.
    pub config_map_namespaces: Vec<String>,
}

/// Runs until `shutdown` ends; what is being written then is finished first.
pub async fn run(client: Client, options: Options, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let changed = Arc::new(Notify::new());
    let (stores, watches) = observe::watch(&client, &options, &changed);
    let watches = tokio::spawn(watches);
    let writer = write::Writer::new(client, &options.namespace);
    let mut shutdown = pin!(shutdown);
    tokio::select! {
        ready = stores.wait_until_ready() => ready?,
        () = &mut shutdown => return Ok(()),
    }
    info!("every store is filled");
    let mut pause = RETRY.0;
    loop {
        let desired = decide::decide(&stores.world(), Timestamp::now());
        let wait = match writer.write(&desired).await {
            Ok(()) => {
                pause = RETRY.0;
                None
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(error, retry_after = ?pause, "could not write");
                let wait = pause;
                pause = (pause * 2).min(RETRY.1);
                Some(wait)
            }
        };
        let woken = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => changed.notified().await,
            }
            tokio::time::sleep(SETTLE).await;
        };
        tokio::select! {
            () = woken => {}
            () = &mut shutdown => break,
        }
    }
    info!("shutting down");
    watches.abort();
    Ok(())
}
