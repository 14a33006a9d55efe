//! What a monitoring system asks a process: `/metrics` in Prometheus' text format, `/healthz`, `/readyz`.
//!
//! Off unless an address is given; nothing is sent anywhere. Metrics are gauges and counters of what the API objects say
//! already, so that an alert needs no other source.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::api::node::{AuditNode, AuditNodeStatus, ProofResult};
use crate::condition::{self, Type};

/// Requests served at once; Prometheus and a kubelet need two.
const CONNECTIONS: usize = 16;
/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Labels and their values.
type Labels = Vec<(&'static str, String)>;

/// Whether the process is ready to do its work. It is healthy as long as it answers at all.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Says whether it is.
    pub fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}

/// Serves until the process ends; with no address, it waits for ever and does nothing.
///
/// # Errors
/// The address cannot be had.
pub async fn serve(address: Option<SocketAddr>, registry: Registry, health: Health) -> anyhow::Result<()> {
    let Some(address) = address else { return std::future::pending().await };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot serve at {address}"))?;
    info!(%address, "serving metrics and health");
    accept(listener, Arc::new(registry), health).await;
    Ok(())
}

async fn accept(listener: TcpListener, registry: Arc<Registry>, health: Health) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                warn!(%error, "could not accept a connection");
                // Out of file descriptors, most likely: that does not pass at once.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (registry, health) = (registry.clone(), health.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(request.uri().path(), &registry, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            // A client that went away is no concern of ours.
            let _ = server.serve_connection(TokioIo::new(connection), service).await;
            drop(slot);
        });
    }
}

fn answer(path: &str, registry: &Registry, health: &Health) -> Response<String> {
    let (status, text) = match path {
        "/metrics" => {
            let mut text = String::new();
            encode(&mut text, registry).expect("a String takes everything");
            (StatusCode::OK, text)
        }
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if health.0.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    };
    let kind = if path == "/metrics" {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; charset=utf-8"
    };
    let response = Response::builder().status(status).header(http::header::CONTENT_TYPE, kind).body(text);
    response.expect("these headers are valid")
}

/// What the controller counts.
#[derive(Debug)]
pub struct ControllerMetrics {
    nodes: Family<Labels, Gauge>,
    reconciliations: Family<Labels, Counter>,
    duration: Histogram,
    lease: Gauge,
}

impl ControllerMetrics {
    /// Makes them known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            nodes: Family::default(),
            reconciliations: Family::default(),
            duration: Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
            lease: Gauge::default(),
        };
        let name = |name: &str| format!("audit_operator_{name}");
        registry.register(
            name("nodes"),
            "Nodes by the reason of their Ready condition",
            metrics.nodes.clone(),
        );
        registry.register(name("reconciliations"), "Reconciliations", metrics.reconciliations.clone());
        let help = "Time to decide and write";
        registry.register(name("reconciliation_duration_seconds"), help, metrics.duration.clone());
        registry.register(
            name("lease_held"),
            "Whether this process is the working one",
            metrics.lease.clone(),
        );
        metrics
    }

    /// One reconciliation is over.
    pub fn reconciled(&self, succeeded: bool, took: Duration) {
        let result = if succeeded { "success" } else { "error" };
        self.reconciliations.get_or_create(&vec![("result", result.to_owned())]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts the nodes by reason; one that never reported has the reason `Unknown`.
    pub fn nodes<'a>(&self, nodes: impl Iterator<Item = &'a AuditNode>) {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for node in nodes {
            let ready = node.status.as_ref().and_then(|s| condition::get(&s.conditions, Type::Ready));
            *counts.entry(ready.map_or("Unknown".to_owned(), |c| c.reason.clone())).or_default() += 1;
        }
        self.nodes.clear();
        for (reason, count) in counts {
            self.nodes.get_or_create(&vec![("reason", reason)]).set(count);
        }
    }

    /// Whether this process holds the Lease.
    pub fn lease_held(&self, held: bool) {
        self.lease.set(held.into());
    }
}

/// What an agent says of its node, from the status it reports.
#[derive(Debug)]
pub struct NodeMetrics {
    ready: Family<Labels, Gauge>,
    install: Family<Labels, Gauge>,
    unanswered: Gauge<f64, AtomicU64>,
    proof: Family<Labels, Gauge>,
    proof_time: Gauge<i64, AtomicI64>,
    proof_latency: Gauge<f64, AtomicU64>,
}

impl NodeMetrics {
    /// Makes them known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            ready: Family::default(),
            install: Family::default(),
            unanswered: Gauge::default(),
            proof: Family::default(),
            proof_time: Gauge::default(),
            proof_latency: Gauge::default(),
        };
        let name = |name: &str| format!("audit_operator_node_{name}");
        registry.register(
            name("ready"),
            "Whether the wanted revision runs, by reason",
            metrics.ready.clone(),
        );
        registry.register(name("install"), "1 for the state of the last install", metrics.install.clone());
        let help = "Seconds without an answer in the last install";
        registry.register(name("install_unanswered_seconds"), help, metrics.unanswered.clone());
        registry.register(name("proof"), "1 for the result of the last proof", metrics.proof.clone());
        registry.register(
            name("proof_timestamp_seconds"),
            "Time of the last proof",
            metrics.proof_time.clone(),
        );
        let help = "Seconds from the last proof's request to its event in the log";
        registry.register(name("proof_latency_seconds"), help, metrics.proof_latency.clone());
        metrics
    }

    /// Takes over what the status says.
    pub fn observe(&self, status: &AuditNodeStatus) {
        self.ready.clear();
        if let Some(ready) = condition::get(&status.conditions, Type::Ready) {
            let labels = vec![("reason", ready.reason.clone())];
            self.ready.get_or_create(&labels).set((ready.status == "True").into());
        }
        self.install.clear();
        if let Some(install) = &status.install {
            self.install.get_or_create(&vec![("state", install.state.clone())]).set(1);
            self.unanswered.set(install.unanswered_milliseconds.unwrap_or_default() as f64 / 1000.0);
        }
        self.proof.clear();
        if let Some(proof) = &status.proof {
            let result = match proof.result {
                ProofResult::Landed => "Landed",
                ProofResult::Missing => "Missing",
                ProofResult::Unprovable => "Unprovable",
            };
            self.proof.get_or_create(&vec![("result", result.to_owned())]).set(1);
            self.proof_time.set(proof.time.0.as_second());
            self.proof_latency.set(proof.latency_milliseconds.unwrap_or_default() as f64 / 1000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use serde_json::json;

    use super::*;

    fn text(registry: &Registry) -> String {
        answer("/metrics", registry, &Health::default()).into_body()
    }

    #[tokio::test]
    async fn it_answers_over_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut registry, health) = (Registry::default(), Health::default());
        ControllerMetrics::register(&mut registry).lease_held(true);
        let ask = async |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
            let exchange = move || {
                let mut connection = std::net::TcpStream::connect(address).unwrap();
                connection.write_all(request.as_bytes()).unwrap();
                let mut answer = String::new();
                connection.read_to_string(&mut answer).unwrap();
                answer
            };
            tokio::task::spawn_blocking(exchange).await.unwrap()
        };
        let server = tokio::spawn(accept(listener, Arc::new(registry), health.clone()));
        assert!(ask("/metrics").await.contains("\naudit_operator_lease_held 1\n"));
        assert!(ask("/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask("/readyz").await.starts_with("HTTP/1.1 503"));
        health.set_ready(true);
        assert!(ask("/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask("/").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }

    #[test]
    fn a_reason_that_no_node_has_any_more_is_not_reported() {
        let mut registry = Registry::default();
        let metrics = ControllerMetrics::register(&mut registry);
        let node = |reason: &str| -> AuditNode {
            serde_json::from_value(json!({
                "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditNode", "metadata": {"name": "n"}, "spec": {},
                "status": {"conditions": [{"type": "Ready", "status": "False", "reason": reason, "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap()
        };
        metrics.nodes([node("Settled"), node("Settled")].iter());
        assert!(text(&registry).contains("audit_operator_nodes{reason=\"Settled\"} 2\n"));
        metrics.nodes([node("RolledBack")].iter());
        let text = text(&registry);
        assert!(
            text.contains("audit_operator_nodes{reason=\"RolledBack\"} 1\n") && !text.contains("Settled")
        );
    }

    #[test]
    fn a_nodes_metrics_follow_its_status() {
        let mut registry = Registry::default();
        let metrics = NodeMetrics::register(&mut registry);
        let status = |result: &str| -> AuditNodeStatus {
            serde_json::from_value(json!({
                "install": {"id": "1", "state": "Settled", "from": "a", "to": "b", "since": "2026-01-01T00:00:00Z",
                    "unansweredMilliseconds": 4200},
                "proof": {"time": "2026-01-01T00:00:00Z", "result": result, "latencyMilliseconds": 250},
            }))
            .unwrap()
        };
        metrics.observe(&status("Landed"));
        metrics.observe(&status("Missing"));
        let text = text(&registry);
        for line in [
            "audit_operator_node_install{state=\"Settled\"} 1",
            "audit_operator_node_install_unanswered_seconds 4.2",
            "audit_operator_node_proof{result=\"Missing\"} 1",
            "audit_operator_node_proof_timestamp_seconds 1767225600",
            "audit_operator_node_proof_latency_seconds 0.25",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
        assert!(!text.contains("Landed"), "{text}");
    }
}
