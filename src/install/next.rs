//! What comes next in an install: a pure function of the order, the journal's state, what was observed, and the time.
//!
//! Safety rests on three rules that hold in every state: the manifest is swapped only while the one on the disk is the
//! order's `from` and its bytes are kept as last known good; whatever was written by somebody else in between is left
//! alone; and no state is left without the next one being on the disk first.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::journal::State;
use super::order::Order;

/// What was seen on the node just now. Local facts only: none of them needs an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Digest of the manifest, `None` when it is not there.
    pub manifest: Option<String>,
    /// Digest of the last known good manifest that is kept.
    pub last_known_good: Option<String>,
    /// Whether every file of the order is there with the right content.
    pub staged: bool,
    /// Other files in the manifests folder that define the same Pod.
    pub rivals: Vec<String>,
    /// The node's API server; `None` when only files are worked on and there is none to wait for.
    pub server: Option<Server>,
}

/// The node's API server, seen from the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Log files of its containers, `<pod uid>/<n>.log` under /var/log/pods. Each start of a container makes a new one:
    /// the kubelet counts on from the highest number there is (`calcRestartCountByLogDir`).
    pub containers: BTreeSet<String>,
    /// UID of the Pod whose log was written last.
    pub running: Option<String>,
    /// What it answers.
    pub health: Health,
}

/// What the manifest's own probes got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Both livez and readyz answered 200.
    Ready,
    /// Something else, in words.
    NotReady(String),
}

/// The one thing to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copy the manifest, whose digest is the order's `from`, as backup and as last known good.
    KeepLastKnownGood,
    /// Write the order's files.
    Stage,
    /// Put the order's target in place of the manifest, atomically.
    Swap,
    /// Put the last known good manifest back, and before it what fixed paths held.
    Restore,
    /// Write this state into the journal.
    Record(State),
    /// Nothing to do now; observe again soon. What is waited for, in words.
    Wait(String),
    /// Nothing will ever be to do.
    Finished,
}

/// The next step of `order`, whose journal is in `state`.
pub fn next(order: &Order, state: &State, observed: &Observed, now: Timestamp) -> Step {
    match state {
        State::Ordered => ordered(order, observed),
        State::Swapping { before, running } => swapping(order, observed, before, running, now),
        State::Verifying { before, running, deadline } => {
            verifying(order, observed, before, running.as_deref(), *deadline, now)
        }
        State::RollingBack { reason, before, tried, deadline } => {
            rolling_back(order, observed, reason, before, tried, *deadline, now)
        }
        State::Settled | State::Refused { .. } | State::RolledBack { .. } | State::Failed { .. } => {
            Step::Finished
        }
    }
}

/// What follows when a step could not be done; `observed` is what was seen after it. Before the swap nothing was
/// changed, so the install is refused. A manifest that cannot be put back is tried again for as long as it takes.
pub fn after_failure(order: &Order, state: &State, observed: &Observed, error: &str) -> Step {
    match state {
        State::Ordered => Step::Record(State::Refused { reason: error.to_owned() }),
        State::Swapping { .. } if observed.manifest.as_deref() == Some(&order.from) => {
            Step::Record(State::Refused { reason: error.to_owned() })
        }
        State::Swapping { .. } | State::Verifying { .. } | State::RollingBack { .. } => {
            Step::Wait(error.to_owned())
        }
        State::Settled | State::Refused { .. } | State::RolledBack { .. } | State::Failed { .. } => {
            Step::Finished
        }
    }
}

fn ordered(order: &Order, observed: &Observed) -> Step {
    let refuse = |reason: String| Step::Record(State::Refused { reason });
    match &observed.manifest {
        None => return refuse(format!("`{}` is gone", order.manifest)),
        Some(digest) if *digest != order.from => {
            return refuse(format!("`{}` was changed after the plan was made", order.manifest));
        }
        Some(_) => {}
    }
    if !observed.rivals.is_empty() {
        return refuse(rivals_message(&observed.rivals));
    }
    if observed.last_known_good.as_deref() != Some(&order.from) {
        Step::KeepLastKnownGood
    } else if !observed.staged {
        Step::Stage
    } else if order.only_files() {
        Step::Record(State::Settled)
    } else {
        let (before, running) = match &observed.server {
            Some(server) => (server.containers.clone(), server.running.clone()),
            None => Default::default(),
        };
        Step::Record(State::Swapping { before, running })
    }
}

fn swapping(
    order: &Order,
    observed: &Observed,
    before: &BTreeSet<String>,
    running: &Option<String>,
    now: Timestamp,
) -> Step {
    match &observed.manifest {
        // A power cut may have taken back what was not on the disk yet: everything is checked again.
        Some(digest) if *digest == order.from => {
            if observed.last_known_good.as_deref() != Some(&order.from) {
                Step::KeepLastKnownGood
            } else if !observed.staged {
                Step::Stage
            } else {
                Step::Swap
            }
        }
        Some(digest) if *digest == order.to => Step::Record(State::Verifying {
            before: before.clone(),
            running: running.clone(),
            deadline: now + timeout(order),
        }),
        _ => Step::Record(written_by_another(order)),
    }
}

fn verifying(
    order: &Order,
    observed: &Observed,
    before: &BTreeSet<String>,
    running: Option<&str>,
    deadline: Timestamp,
    now: Timestamp,
) -> Step {
    if observed.manifest.as_deref() != Some(&order.to) {
        return Step::Record(written_by_another(order));
    }
    let Some(server) = &observed.server else {
        return Step::Record(State::Settled);
    };
    let started = new_pods(server, before).any(|pod| Some(pod) != running);
    let waits_for = match &server.health {
        Health::Ready if started => return Step::Record(State::Settled),
        Health::NotReady(answer) if started => format!("the new API server is not ready: {answer}"),
        _ => "the kubelet has not started a container from the new manifest".to_owned(),
    };
    if now < deadline {
        return Step::Wait(waits_for);
    }
    Step::Record(State::RollingBack {
        reason: format!("not healthy {} s after the change: {waits_for}", order.health_timeout_seconds),
        before: server.containers.clone(),
        tried: new_pods(server, before).filter(|pod| Some(*pod) != running).map(str::to_owned).collect(),
        deadline: now + timeout(order),
    })
}

fn rolling_back(
    order: &Order,
    observed: &Observed,
    reason: &str,
    before: &BTreeSet<String>,
    tried: &BTreeSet<String>,
    deadline: Timestamp,
    now: Timestamp,
) -> Step {
    match &observed.manifest {
        Some(digest) if *digest == order.to => return Step::Restore,
        Some(digest) if *digest == order.from => {}
        _ => return Step::Record(written_by_another(order)),
    }
    let Some(server) = &observed.server else {
        return Step::Record(State::RolledBack { reason: reason.to_owned() });
    };
    let started = new_pods(server, before).any(|pod| !tried.contains(pod));
    // A kubelet that never took the change has nothing to take back: the old server simply goes on.
    let untouched = tried.is_empty() && server.containers == *before && now >= deadline;
    match &server.health {
        Health::Ready if started => Step::Record(State::RolledBack { reason: reason.to_owned() }),
        Health::Ready if untouched => Step::Record(State::RolledBack {
            reason: format!("{reason}; the kubelet did not react to the manifest at all: is it running?"),
        }),
        Health::NotReady(answer) if started && now < deadline => {
            Step::Wait(format!("the restored API server is not ready: {answer}"))
        }
        _ if now < deadline => Step::Wait("the kubelet has not started the restored manifest".to_owned()),
        _ => Step::Record(State::Failed {
            reason: format!(
                "{reason}; the manifest from before is back in `{}` but no API server of it became healthy: \
                 restart the kubelet on this node and look at its log and at the newest file under /var/log/pods",
                order.manifest
            ),
        }),
    }
}

/// Pods of the containers that are there now and were not before.
fn new_pods<'a>(server: &'a Server, before: &'a BTreeSet<String>) -> impl Iterator<Item = &'a str> {
    server.containers.difference(before).map(|log| log.split_once('/').map_or(log.as_str(), |(pod, _)| pod))
}

fn timeout(order: &Order) -> SignedDuration {
    SignedDuration::from_secs(order.health_timeout_seconds.into())
}

fn written_by_another(order: &Order) -> State {
    State::Failed {
        reason: format!(
            "`{}` was written by somebody else while the change was under way; it was left as it is, and a new plan \
             will be made from it",
            order.manifest
        ),
    }
}

/// Why another manifest of the same Pod stands in the way.
pub fn rivals_message(rivals: &[String]) -> String {
    format!(
        "{} in the manifests folder defines the same Pod, and the kubelet would run the last one by name: move it out \
         of the folder (a backup does not belong there)",
        rivals.iter().map(|r| format!("`{r}`")).collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests;
