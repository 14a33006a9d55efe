//! Writes what the controller decided: bundles first, then nodes, then what people read.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use tracing::{info, warn};

use crate::api::{self, AuditConfiguration, AuditConfigurationStatus, AuditNode};
use crate::cluster;
use crate::condition::{self, Type};
use crate::revision::Rendered;

use super::decide::Desired;

pub(super) struct Writer {
    configurations: Api<AuditConfiguration>,
    audit_nodes: Api<AuditNode>,
    bundles: Api<Secret>,
    events: Recorder,
}

impl Writer {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        let reporter = Reporter { controller: api::CONTROLLER_FIELD_MANAGER.to_owned(), instance: None };
        Self {
            configurations: Api::all(client.clone()),
            audit_nodes: Api::all(client.clone()),
            bundles: Api::namespaced(client.clone(), namespace),
            events: Recorder::new(client, reporter),
        }
    }

    /// Writes everything in an order that is safe to stop after each line: a node never wants a bundle that is not there.
    pub(super) async fn write(&self, desired: &Desired) -> anyhow::Result<()> {
        for rendered in &desired.bundles {
            let bundle = bundle(rendered);
            cluster::apply(&self.bundles, api::CONTROLLER_FIELD_MANAGER, &bundle)
                .await
                .with_context(|| format!("Secret `{}`", bundle.name_any()))?;
            info!(revision = rendered.revision(), "bundle written");
        }
        for node in &desired.audit_nodes {
            cluster::apply(&self.audit_nodes, api::CONTROLLER_FIELD_MANAGER, node)
                .await
                .with_context(|| format!("AuditNode `{}`", node.name_any()))?;
            info!(
                node = node.name_any(),
                revision = node.spec.revision,
                permit = node.spec.permit.as_ref().map(|p| p.to.as_str()),
                "AuditNode written"
            );
        }
        for (configuration, status) in &desired.statuses {
            let name = configuration.name_any();
            let written =
                cluster::apply_status(&self.configurations, api::CONTROLLER_FIELD_MANAGER, &name, status)
                    .await;
            match written {
                // Deleted since it was seen: there is nobody to tell.
                Err(error) if cluster::is_not_found(&error) => {}
                written => {
                    written.with_context(|| format!("status of AuditConfiguration `{name}`"))?;
                    self.tell(configuration, status).await;
                }
            }
        }
        for name in &desired.finished_audit_nodes {
            ignore_not_found(self.audit_nodes.delete(name, &DeleteParams::default()).await.map(|_| ()))
                .with_context(|| format!("AuditNode `{name}`"))?;
            info!(node = name, "AuditNode removed: nothing of ours is left on the node");
        }
        for name in &desired.surplus_bundles {
            ignore_not_found(self.bundles.delete(name, &DeleteParams::default()).await.map(|_| ()))
                .with_context(|| format!("Secret `{name}`"))?;
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

fn ignore_not_found(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error) if cluster::is_not_found(&error) => Ok(()),
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
