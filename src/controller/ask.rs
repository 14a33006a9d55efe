//! Asks every control-plane node's API server, on the node's own address, whether it is ready.
//!
//! A load balancer or the `kubernetes` Service would hide the one that is down. Asked as the kubelet's own probe asks
//! (`pkg/probe/http`): without credentials, the certificate not verified; nothing is told and only a yes is believed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::host::unverified;

use super::decide::audit_node;
use super::facts;
use super::observe::World;

/// A server that takes longer than this is not ready to serve alone.
const TIMEOUT: Duration = Duration::from_secs(5);
/// kubeadm's port, for nodes whose agent has not reported an address.
const PORT: u16 = 6443;

/// Each control-plane node's answer, by name; all are asked at once.
pub(super) async fn all(world: &World) -> BTreeMap<String, Result<(), String>> {
    let asked = facts::servers(world).map(|node| async move {
        let answer = match address(world, node) {
            Some(address) => ready(&address).await.map_err(|problem| format!("{address}{problem}")),
            None => Err("it has no InternalIP address".to_owned()),
        };
        (node.name_any(), answer)
    });
    join_all(asked).await.into_iter().collect()
}

/// The address that its agent reports, else the Node's own.
fn address(world: &World, node: &Node) -> Option<String> {
    let status = audit_node(world, &node.name_any()).and_then(|n| n.status.as_ref());
    let reported = status.and_then(|s| s.api_server_address.clone());
    let internal = || {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        let ip = &addresses.iter().find(|a| a.type_ == "InternalIP")?.address;
        Some(if ip.contains(':') { format!("https://[{ip}]:{PORT}") } else { format!("https://{ip}:{PORT}") })
    };
    reported.or_else(internal)
}

async fn ready(address: &str) -> Result<(), String> {
    let config = unverified::config(address).map_err(|e| format!(": {e}"))?;
    let client = kube::Client::try_from(config).map_err(|e| format!(": {e}"))?;
    for path in ["/livez", "/readyz"] {
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| format!("{path}: {e}"))?;
        match tokio::time::timeout(TIMEOUT, client.request_text(request)).await {
            Ok(Ok(_)) => {}
            // With --anonymous-auth=false that is all anybody hears without credentials, and it serves then.
            Ok(Err(kube::Error::Api(status))) if status.code == http::StatusCode::UNAUTHORIZED => {}
            Ok(Err(kube::Error::Api(status))) => {
                let text = status.message.lines().next().unwrap_or_default();
                return Err(format!("{path}: {} {text}", status.code));
            }
            Ok(Err(error)) => return Err(format!("{path}: {}", unverified::cause(&error))),
            Err(_) => return Err(format!("{path}: no answer within {} s", TIMEOUT.as_secs())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn world(address: &str, reported: Option<&str>) -> World {
        let node = json!({
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": address}]},
        });
        let audit_node = json!({
            "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditNode", "metadata": {"name": "n1"}, "spec": {},
            "status": {"apiServerAddress": reported},
        });
        World {
            configurations: Vec::new(),
            audit_nodes: vec![Arc::new(serde_json::from_value(audit_node).unwrap())],
            nodes: vec![Arc::new(serde_json::from_value(node).unwrap())],
            bundles: Vec::new(),
            config_maps: BTreeMap::new(),
        }
    }

    #[track_caller]
    fn check(internal: &str, reported: Option<&str>, expected: &str) {
        let world = world(internal, reported);
        assert_eq!(address(&world, &world.nodes[0]).as_deref(), Some(expected));
    }

    #[test]
    fn the_agents_address_goes_before_the_nodes_own() {
        check("198.51.100.11", None, "https://198.51.100.11:6443");
        check("2001:db8::1", None, "https://[2001:db8::1]:6443");
        check("198.51.100.11", Some("https://198.51.100.11:7443"), "https://198.51.100.11:7443");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_not_ready() {
        // A port that was free a moment ago: nobody listens.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("https://127.0.0.1:{port}");
        let answers = all(&world("192.0.2.1", Some(&address))).await;
        let problem = answers["n1"].clone().unwrap_err();
        assert!(problem.starts_with(&format!("{address}/livez: ")), "{problem}");
    }
}
