//! Writes what the controller decided: bundles first, then nodes, then what people read.
//!
//! Before each write the Lease is looked at, and no write lasts longer than the Lease allows: a controller that has lost it
//! writes nothing more when its successor starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use futures::Future;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use tracing::{info, warn};

use crate::api::{self, AuditConfiguration, AuditConfigurationStatus, AuditNode};
use crate::cluster::{self, lease};
use crate::condition::{self, Type};
use crate::revision::Rendered;

use super::decide::Desired;
use super::memory::Memory;

pub(super) struct Writer {
    configurations: Api<AuditConfiguration>,
    audit_nodes: Api<AuditNode>,
    bundles: Api<Secret>,
    events: Recorder,
    lease: Arc<lease::Lease>,
}

impl Writer {
    pub(super) fn new(client: Client, namespace: &str, lease: Arc<lease::Lease>) -> Self {
        let reporter = Reporter { controller: api::CONTROLLER_FIELD_MANAGER.to_owned(), instance: None };
        Self {
            configurations: Api::all(client.clone()),
            audit_nodes: Api::all(client.clone()),
            bundles: Api::namespaced(client.clone(), namespace),
            events: Recorder::new(client, reporter),
            lease,
        }
    }

    /// Does one write while the Lease is held for long enough.
    async fn guarded<T>(&self, write: impl Future<Output = Result<T, kube::Error>>) -> anyhow::Result<T> {
        self.lease.guard()?;
        let written = tokio::time::timeout(lease::WRITE_TIMEOUT, write).await;
        Ok(written.context("the API server did not answer in time")??)
    }

    /// Writes everything in an order that is safe to stop after each line: a node never wants a bundle that is not there.
    pub(super) async fn write(&self, desired: &Desired, memory: &mut Memory) -> anyhow::Result<()> {
        let manager = api::CONTROLLER_FIELD_MANAGER;
        for rendered in &desired.bundles {
            let bundle = bundle(rendered);
            self.guarded(cluster::apply(&self.bundles, manager, &bundle))
                .await
                .with_context(|| format!("Secret `{}`", bundle.name_any()))?;
            info!(revision = rendered.revision(), "bundle written");
        }
        for node in &desired.audit_nodes {
            let written = self
                .guarded(cluster::apply(&self.audit_nodes, manager, node))
                .await
                .with_context(|| format!("AuditNode `{}`", node.name_any()))?;
            memory.wrote(written);
            info!(
                node = node.name_any(),
                revision = node.spec.revision,
                permit = node.spec.permit.as_ref().map(|p| p.to.as_str()),
                waiting_on = node.annotations().get(api::WAITING_ON_ANNOTATION),
                "AuditNode written"
            );
        }
        for (configuration, status) in &desired.statuses {
            let name = configuration.name_any();
            let write = cluster::apply_status(&self.configurations, manager, &name, status);
            // Deleted since it was seen: there is nobody to tell.
            let written = self.guarded(ignore_not_found(async { write.await.map(|()| true) })).await;
            if written.with_context(|| format!("status of AuditConfiguration `{name}`"))? {
                self.tell(configuration, status).await;
            }
        }
        for name in &desired.finished_audit_nodes {
            let delete =
                async { self.audit_nodes.delete(name, &DeleteParams::default()).await.map(|_| true) };
            let write = ignore_not_found(delete);
            self.guarded(write).await.with_context(|| format!("AuditNode `{name}`"))?;
            info!(node = name, "AuditNode removed: nothing of ours is left on the node");
        }
        for name in &desired.surplus_bundles {
            let delete = async { self.bundles.delete(name, &DeleteParams::default()).await.map(|_| true) };
            let write = ignore_not_found(delete);
            self.guarded(write).await.with_context(|| format!("Secret `{name}`"))?;
        }
        Ok(())
    }

    /// An event when the reason of Ready is another one than before; an event that gets lost is no failure.
    async fn tell(&self, configuration: &AuditConfiguration, status: &AuditConfigurationStatus) {
        let ready = |conditions| {
            condition::get(conditions, Type::Ready).map(|c| (c.status.clone(), c.reason.clone()))
        };
        let old = configuration.status.as_ref().and_then(|s| ready(&s.conditions));
        let Some(new) = condition::get(&status.conditions, Type::Ready) else { return };
        if old == ready(&status.conditions) {
            return;
        }
        let degraded = condition::get(&status.conditions, Type::Degraded).is_some_and(|c| c.status == "True");
        let event = Event {
            type_: if degraded { EventType::Warning } else { EventType::Normal },
            reason: new.reason.clone(),
            note: Some(api::event_note(&new.message)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.events.publish(&event, &configuration.object_ref(&())).await {
            warn!(%error, "an event was not recorded");
        }
    }
}

/// False when the object is not there.
async fn ignore_not_found(
    write: impl Future<Output = Result<bool, kube::Error>>,
) -> Result<bool, kube::Error> {
    match write.await {
        Err(error) if cluster::is_not_found(&error) => Ok(false),
        result => result,
    }
}

fn bundle(rendered: &Rendered) -> Secret {
    let (key, value) = api::MANAGED_BY_LABEL;
    let content = serde_json::to_vec(rendered).expect("a rendering always becomes JSON");
    Secret {
        metadata: ObjectMeta {
            name: Some(api::bundle_name(rendered.revision())),
            labels: Some(BTreeMap::from([
                (key.to_owned(), value.to_owned()),
                (api::REVISION_LABEL.to_owned(), rendered.revision().to_owned()),
            ])),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(BTreeMap::from([
            (api::BUNDLE_KEY.to_owned(), ByteString(content)),
            (api::BUNDLE_POLICY_KEY.to_owned(), ByteString(rendered.policy.clone().into_bytes())),
        ])),
        ..Secret::default()
    }
}
