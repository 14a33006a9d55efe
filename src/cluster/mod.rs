//! The cluster: watching objects into stores, and writing them by server-side apply. Effects only.

pub mod lease;

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::{Future, StreamExt};
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, ExponentialBackoff, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::warn;

/// First and longest pause of a watch while the API server is away. Shorter than client-go's 30 s: restarting API servers
/// is what we do, and everybody waits for us to see that one is back.
const RETRY: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(5));

/// Watches objects into a store and tells `changed` of every change. The future must be run; it never ends, and comes
/// back by itself, more and more slowly, while the API server is away.
/// `trim` takes out of each object what nobody will look at, before it is kept.
pub fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    trim: fn(&mut K),
    changed: Arc<Notify>,
) -> (Store<K>, impl Future<Output = ()>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Default,
{
    let (store, writer) = reflector::store();
    let pauses = ExponentialBuilder::new().with_min_delay(RETRY.0).with_max_delay(RETRY.1).with_jitter();
    let backoff = ExponentialBackoff::from(pauses.without_max_times());
    let objects = watcher(api, config).backoff(backoff).modify(move |object| {
        object.managed_fields_mut().clear();
        trim(object);
    });
    let stream = reflector::reflector(writer, objects);
    let run = async move {
        let mut stream = std::pin::pin!(stream);
        let mut broken = false;
        while let Some(event) = stream.next().await {
            match event {
                Ok(_) => broken = false,
                // Once an outage: while an API server restarts every try fails.
                Err(error) if !broken => {
                    broken = true;
                    warn!(kind = %K::kind(&K::DynamicType::default()), %error, "the watch is interrupted");
                }
                Err(_) => {}
            }
            changed.notify_one();
        }
    };
    (store, run)
}

/// Server-side apply: `body` holds every field that `manager` wants to own, and `apiVersion` and `kind`. A
/// `resourceVersion` in it makes the API server refuse when the object is another one by now. Returns the object as written.
pub async fn apply<K>(api: &Api<K>, manager: &str, body: &K) -> Result<K, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug,
{
    api.patch(&body.name_any(), &PatchParams::apply(manager).force(), &Patch::Apply(body)).await
}

/// Server-side apply of a status alone.
pub async fn apply_status<K>(
    api: &Api<K>,
    manager: &str,
    name: &str,
    status: impl Serialize,
) -> Result<(), kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    let body = serde_json::json!({
        "apiVersion": K::api_version(&kind),
        "kind": K::kind(&kind),
        "metadata": {"name": name},
        "status": status,
    });
    api.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(body)).await.map(|_| ())
}

/// Whether an error says that the object is another one by now.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether an error says that the object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
