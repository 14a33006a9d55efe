//! What the controller sees: stores filled by watches, and a snapshot of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::Future;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::Notify;

use crate::api::{self, AuditConfiguration, AuditNode};
use crate::cluster;

use super::Options;

pub(super) struct Stores {
    configurations: Store<AuditConfiguration>,
    audit_nodes: Store<AuditNode>,
    nodes: Store<Node>,
    bundles: Store<Secret>,
    config_maps: BTreeMap<String, Store<ConfigMap>>,
}

/// A snapshot of everything that is decided upon.
pub(super) struct World {
    pub(super) configurations: Vec<Arc<AuditConfiguration>>,
    pub(super) audit_nodes: Vec<Arc<AuditNode>>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) bundles: Vec<Arc<Secret>>,
    /// By namespace; a namespace that is not watched is not in it.
    pub(super) config_maps: BTreeMap<String, Vec<Arc<ConfigMap>>>,
}

/// Watches everything; the future must be run beside the use of the stores.
pub(super) fn watch(
    client: &Client,
    options: &Options,
    changed: &Arc<Notify>,
) -> (Stores, impl Future<Output = ()> + use<>) {
    let all = watcher::Config::default;
    let (configurations, a) = cluster::watch(Api::all(client.clone()), all(), |_| {}, changed.clone());
    let (audit_nodes, b) = cluster::watch(Api::all(client.clone()), all(), |_| {}, changed.clone());
    let (nodes, c) = cluster::watch(Api::all(client.clone()), all(), trim_node, changed.clone());
    let own = Api::namespaced(client.clone(), &options.namespace);
    let (bundles, d) = cluster::watch(own, all().labels(api::REVISION_LABEL), trim_bundle, changed.clone());
    let mut config_maps = BTreeMap::new();
    let mut e = Vec::new();
    for namespace in options.config_map_namespaces.iter().chain([&options.namespace]) {
        let (store, run) =
            cluster::watch(Api::namespaced(client.clone(), namespace), all(), |_| {}, changed.clone());
        config_maps.insert(namespace.clone(), store);
        e.push(run);
    }
    let run = async {
        tokio::join!(a, b, c, d, join_all(e));
    };
    (Stores { configurations, audit_nodes, nodes, bundles, config_maps }, run)
}

/// The names of every image on a node are most of a Node object, and there can be thousands of nodes.
fn trim_node(node: &mut Node) {
    if let Some(status) = &mut node.status {
        status.images = None;
    }
}

/// Of a bundle only its existence is asked.
fn trim_bundle(bundle: &mut Secret) {
    bundle.data = None;
}

impl Stores {
    /// Until each store has listed everything once: a world with half its objects would take settings out of nodes.
    pub(super) async fn wait_until_ready(&self) -> anyhow::Result<()> {
        self.configurations.wait_until_ready().await?;
        self.audit_nodes.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.bundles.wait_until_ready().await?;
        for store in self.config_maps.values() {
            store.wait_until_ready().await?;
        }
        Ok(())
    }

    pub(super) fn world(&self) -> World {
        World {
            configurations: self.configurations.state(),
            audit_nodes: self.audit_nodes.state(),
            nodes: self.nodes.state(),
            bundles: self.bundles.state(),
            config_maps: self.config_maps.iter().map(|(ns, store)| (ns.clone(), store.state())).collect(),
        }
    }
}
