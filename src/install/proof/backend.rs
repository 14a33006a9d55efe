//! Where a kube-apiserver's audit log is on its node, and how long an event may take to get there: from its manifest.

use std::time::Duration;

use jiff::SignedDuration;

use crate::manifest::Manifest;

use super::Unprovable;

/// In blocking mode the event is there before the answer; this much is for a machine that is busy starting a server.
const PATIENCE: Duration = Duration::from_secs(10);

/// An API server's log backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBackend {
    /// Where it writes to.
    pub place: LogPlace,
    /// After how long an event that is not there is missing.
    pub patience: Duration,
}

/// Where an audit log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// At this path on the node; rotated files are beside it.
    File(String),
    /// In the log of the API server's own container, which writes it to its standard output.
    Container {
        /// Namespace of the Pod.
        namespace: String,
        /// Name of the Pod in its manifest.
        pod: String,
        /// Name of the container.
        container: String,
    },
}

impl LogBackend {
    /// Reads it from a manifest.
    ///
    /// # Errors
    ///
    /// When there is no log, nothing is logged, or the log cannot be seen from the node.
    pub fn of(manifest: &Manifest) -> Result<Self, Unprovable> {
        let given = |flag: &str| manifest.flag(flag).filter(|value| !value.is_empty());
        if given("audit-policy-file").is_none() {
            return Err(Unprovable::NoPolicy);
        }
        let path = given("audit-log-path").ok_or(Unprovable::NoLog)?;
        let place = if path == "-" {
            LogPlace::Container {
                namespace: manifest.namespace.clone(),
                pod: manifest.name.clone(),
                container: manifest.container.clone(),
            }
        } else {
            let on_node =
                manifest.file_of("audit-log-path").ok_or_else(|| Unprovable::Unreachable(path.to_owned()))?;
            LogPlace::File(on_node)
        };
        Ok(Self { place, patience: PATIENCE + batch_wait(manifest) })
    }
}

/// The longest that a batch of more than one event waits for more of them (`plugin/pkg/audit/buffered`).
fn batch_wait(manifest: &Manifest) -> Duration {
    let batches = manifest.flag("audit-log-mode") == Some("batch")
        && manifest.flag("audit-log-batch-max-size").is_some_and(|size| size != "1");
    let wait = manifest.flag("audit-log-batch-max-wait").filter(|_| batches);
    wait.and_then(|wait| wait.parse::<SignedDuration>().ok())
        .and_then(|wait| Duration::try_from(wait).ok())
        .unwrap_or_default()
}
