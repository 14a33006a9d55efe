//! The controller's Lease: one at a time, and one that has lost it stops before its successor starts.
//!
//! Two clocks make that true, and neither is compared with the other. A candidate takes over when *it* has seen the Lease
//! unchanged for [`DURATION`]; the time written in the Lease is for people. The holder counts [`FENCE`], which is
//! shorter, from before it *sent* its last successful renewal: whatever the candidate has seen, it saw later.
//! Every write asks [`Lease::guard`] first; a write's own time-out fits between the two.
#![expect(clippy::disallowed_methods, reason = "a lease is about time")]

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tracing::{info, warn};

/// How long a candidate must have seen the Lease unchanged.
const DURATION: Duration = Duration::from_secs(15);
/// Pause between renewals, and between a candidate's looks.
const RENEW: Duration = Duration::from_secs(5);
/// How long after its last renewal a holder still holds it. Renewals that fail are repeated within it.
const FENCE: Duration = Duration::from_secs(10);
/// How much of that must be left to begin a write, so that it has arrived or timed out before a successor starts.
const MARGIN: Duration = Duration::from_secs(2);
/// The longest a guarded request may take: with [`FENCE`] it stays within [`DURATION`].
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// A Lease that is held, or was.
#[derive(Debug)]
pub struct Lease {
    api: Api<Object>,
    name: String,
    holder: String,
    held: Mutex<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    object: Object,
    /// Before the last successful renewal was sent; `None` once it was given back.
    since: Option<Instant>,
}

impl Lease {
    /// Waits until it holds the Lease `name`. `holder` names this process and nobody else.
    ///
    /// An API server that does not answer is asked again; nothing else ends the wait.
    pub async fn acquire(client: Client, namespace: &str, name: &str, holder: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            let asked = Instant::now();
            match try_acquire(&api, name, holder, &mut seen, asked).await {
                Ok(Some(object)) => {
                    info!(lease = name, holder, "holding the lease");
                    let held = Mutex::new(Held { object, since: Some(asked) });
                    return Self { api, name: name.to_owned(), holder: holder.to_owned(), held };
                }
                Ok(None) => {}
                Err(error) => warn!(lease = name, %error, "could not ask for the lease"),
            }
            tokio::time::sleep(RENEW.min(DURATION / 10)).await;
        }
    }

    /// Renews until it cannot, and says why then: whoever works under it has to stop at once.
    pub async fn keep(&self) -> anyhow::Error {
        let mut pause = RENEW;
        loop {
            tokio::time::sleep(pause).await;
            let asked = Instant::now();
            let mut object = self.held().object;
            touch(&mut object, &self.holder, false);
            let left = self.left(asked);
            let params = PostParams::default();
            match tokio::time::timeout(left, self.api.replace(&self.name, &params, &object)).await {
                Ok(Ok(object)) => {
                    *self.lock() = Held { object, since: Some(asked) };
                    pause = RENEW;
                }
                // Somebody else has written it: it is not ours any more.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
                    return anyhow::anyhow!("the lease `{}` was taken by another controller", self.name);
                }
                Ok(Err(error)) => {
                    warn!(lease = self.name, %error, "could not renew the lease");
                    pause = RENEW / 10;
                }
                Err(_) => {}
            }
            if self.left(Instant::now()).is_zero() {
                return anyhow::anyhow!(
                    "the lease `{}` could not be renewed for {} s",
                    self.name,
                    FENCE.as_secs()
                );
            }
        }
    }

    /// Whether it is held for long enough to begin a write.
    ///
    /// # Errors
    /// It is not: nothing may be written any more.
    pub fn guard(&self) -> anyhow::Result<()> {
        if self.left(Instant::now()) < MARGIN {
            bail!("the lease `{}` is not held any more", self.name);
        }
        Ok(())
    }

    /// Gives it back, so that a successor need not wait. Nothing may be written afterwards, and [`Lease::guard`] sees to it.
    pub async fn release(&self) -> anyhow::Result<()> {
        let mut object = self.held().object;
        self.lock().since = None;
        touch(&mut object, "", true);
        self.api
            .replace(&self.name, &PostParams::default(), &object)
            .await
            .with_context(|| format!("cannot give back the lease `{}`", self.name))?;
        Ok(())
    }

    fn left(&self, now: Instant) -> Duration {
        let since = self.lock().since;
        since.map_or(Duration::ZERO, |since| FENCE.saturating_sub(now.saturating_duration_since(since)))
    }

    fn held(&self) -> Held {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().expect("nobody panics while holding it")
    }
}

/// One look: takes the Lease when nobody has it. `seen` is the version last seen, and when it was first.
async fn try_acquire(
    api: &Api<Object>,
    name: &str,
    holder: &str,
    seen: &mut Option<(Option<String>, Instant)>,
    now: Instant,
) -> Result<Option<Object>, kube::Error> {
    let written = match api.get_opt(name).await? {
        None => {
            let mut object = Object {
                metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
                spec: None,
            };
            touch(&mut object, holder, true);
            api.create(&PostParams::default(), &object).await
        }
        Some(mut object) => {
            if !may_take(&object, holder, seen, now) {
                return Ok(None);
            }
            touch(&mut object, holder, true);
            // The version in it makes the API server refuse the slower of two candidates.
            api.replace(name, &PostParams::default(), &object).await
        }
    };
    match written {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        written => written.map(Some),
    }
}

/// Whether nobody has it: it was given back, is our own, or has not changed for [`DURATION`] before our eyes.
fn may_take(
    object: &Object,
    holder: &str,
    seen: &mut Option<(Option<String>, Instant)>,
    now: Instant,
) -> bool {
    let version = object.metadata.resource_version.clone();
    let since = match seen {
        Some((known, since)) if *known == version => *since,
        _ => seen.insert((version, now)).1,
    };
    let current = object.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    current.is_empty() || current == holder || now.saturating_duration_since(since) >= DURATION
}

fn touch(object: &mut Object, holder: &str, changes_hands: bool) {
    let spec = object.spec.get_or_insert_with(LeaseSpec::default);
    let now = MicroTime(Timestamp::now());
    spec.holder_identity = Some(holder.to_owned());
    spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
    spec.renew_time = Some(now.clone());
    if changes_hands {
        spec.acquire_time = Some(now);
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + i32::from(!holder.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, holder: &str) -> Object {
        let mut object = Object::default();
        object.metadata.resource_version = Some(version.to_owned());
        touch(&mut object, holder, true);
        object
    }

    fn lease(since: Option<Instant>) -> Lease {
        let config = kube::Config::new("http://192.0.2.1".parse().unwrap());
        let held = Mutex::new(Held { object: object("1", "me"), since });
        let api = Api::namespaced(Client::try_from(config).unwrap(), "audit-operator");
        Lease { api, name: "l".to_owned(), holder: "me".to_owned(), held }
    }

    #[test]
    fn a_lease_is_taken_when_it_was_seen_unchanged_for_its_duration_whatever_its_times_say() {
        let (start, mut seen) = (Instant::now(), None);
        let mut check = |version: &str, holder: &str, seconds: u64, expected: bool| {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(
                may_take(&object(version, holder), "me", &mut seen, now),
                expected,
                "{version} {seconds}"
            );
        };
        check("1", "another", 0, false);
        check("1", "another", 14, false);
        check("2", "another", 15, false);
        check("2", "another", 29, false);
        check("2", "another", 30, true);
        check("3", "", 31, true);
        check("4", "me", 32, true);
    }

    #[tokio::test]
    async fn a_holder_stops_writing_before_anybody_else_can_have_it() {
        let now = Instant::now();
        let ago = |seconds| lease(now.checked_sub(Duration::from_secs(seconds)));
        assert!(ago(7).guard().is_ok());
        assert!(ago(9).guard().is_err());
        assert!(lease(None).guard().is_err());
        assert!(FENCE - MARGIN + WRITE_TIMEOUT < DURATION);
        assert!(FENCE + WRITE_TIMEOUT < DURATION);
    }
}
