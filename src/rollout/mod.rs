//! The cluster: which node may be changed next, and why each other one may not. Pure.
//!
//! One control-plane node is disturbed at any time, over all AuditConfigurations, and none while another is not ready:
//! an API server restarts for the better part of a minute, and a second one down at the same time can take etcd's
//! clients and load balancers with it. What makes that true though every message takes time: a permit is given only when
//! no node has one, and a permit taken back counts as given until the node's agent has seen that it is gone.
//!
//! The readiness of the API servers is asked only when a permit is about to be given: [`plan`] says so in
//! [`Decision::ask`], and is called again with the answers.

use std::collections::BTreeMap;
use std::time::Duration;

mod waiting;

pub use waiting::{Hold, WaitingOn};

/// A control-plane node that was not ready is asked again after this long; no watch would tell.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A change that was refused before anything was touched is tried again after this long: what stood against it (a full
/// disk, an edit at that moment) may have passed.
const RETRY_REFUSED: Duration = Duration::from_secs(60);

/// A change of a node's manifest, by the digests of both its sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Digest before.
    pub from: String,
    /// Digest after.
    pub to: String,
}

/// One node that has an AuditNode, as far as the rollout needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// What holds this node alone back.
    pub hold: Option<Hold>,
    /// The permit it has.
    pub permit: Option<Change>,
    /// Whether its agent, if it ever reported, has seen the newest spec: then a permit that is not in it any more cannot
    /// be taken up.
    pub acknowledged: bool,
    /// The plan it reports for what is wanted now.
    pub plan: Option<Change>,
    /// What became of its last install.
    pub install: Install,
    /// How long that has been so, as far as the controller has seen.
    pub age: Duration,
    /// How long it has to have been settled before the next node is changed.
    pub soak: Duration,
    /// What its agent says needs a person: a reason in one word.
    pub trouble: Option<String>,
    /// Whether an event was found missing in its log.
    pub proof_missing: bool,
}

/// What became of a node's last install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Install {
    /// None was ever made.
    Idle,
    /// One is being carried out.
    UnderWay,
    /// It was made; the digest of the manifest it wrote.
    Settled {
        /// That digest.
        to: String,
    },
    /// The one for this pair was given up before anything was touched.
    Refused(Change),
    /// The one for this pair did not succeed.
    Failed {
        /// Its pair.
        change: Change,
        /// Its identity, by which a person can have it tried again.
        id: String,
    },
}

/// A control-plane node, whether or not an AuditConfiguration selects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Whether it serves.
    pub readiness: Readiness,
}

/// Whether a control-plane node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nobody has asked its API server.
    NotAsked,
    /// Its API server answered on its own address.
    Ready,
    /// It does not serve, in words.
    NotReady(String),
}

/// Everything that is decided upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every node with an AuditNode.
    pub nodes: Vec<NodeFacts>,
    /// Every control-plane node.
    pub servers: Vec<Server>,
    /// The node that the controller itself runs on, where it knows.
    pub own_node: Option<String>,
}

/// Who may go, and what the others wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Every node's permit, by its name.
    pub permits: BTreeMap<String, Option<Change>>,
    /// What each node that has a plan waits for.
    pub waiting: BTreeMap<String, WaitingOn>,
    /// Whether the answer depends on API servers that nobody has asked.
    pub ask: bool,
    /// When to decide again though nothing has changed.
    pub look_again: Option<Duration>,
}

/// Decides the permits of all nodes of the cluster.
///
/// A node that is being changed keeps its permit, and so does one whose permit still is its plan, unless it is held back or
/// another node stopped being ready. Without any, the worst node is next: one that does not serve, then one that is not
/// as it shall be (edited by hand, failed, not logging), then the others by name; among equals the controller's own node
/// is the last.
pub fn plan(facts: &Facts) -> Decision {
    let mut nodes: Vec<&NodeFacts> = facts.nodes.iter().collect();
    nodes.sort_by_key(|node| (facts.damage(node), facts.is_own(node), &node.name));
    let kept = kept(facts, &nodes);
    let verdict = match kept {
        Some(node) if node.install == Install::UnderWay => {
            Verdict::wait(WaitingOn::Install { node: node.name.clone() })
        }
        Some(node) => Verdict::wait(WaitingOn::permitted(node)),
        None => next(facts, &nodes),
    };
    let chosen = kept.or(verdict.next);
    let permit = |node: &NodeFacts| match node.install {
        Install::UnderWay => node.permit.clone(),
        _ => node.plan.clone().filter(|_| chosen.is_some_and(|chosen| chosen.name == node.name)),
    };
    let waiting = nodes.iter().filter(|node| node.plan.is_some() || node.install == Install::UnderWay);
    let waiting = waiting.filter_map(|node| {
        let own = node.hold.clone().map(WaitingOn::Hold).filter(|_| node.install != Install::UnderWay);
        Some((node.name.clone(), own.or_else(|| verdict.waiting_on.clone())?))
    });
    Decision {
        waiting: waiting.collect(),
        permits: nodes.iter().map(|node| (node.name.clone(), permit(node))).collect(),
        ask: verdict.ask,
        look_again: verdict.look_again,
    }
}

/// What is to happen when no node has the right of way.
#[derive(Default)]
struct Verdict<'a> {
    next: Option<&'a NodeFacts>,
    waiting_on: Option<WaitingOn>,
    ask: bool,
    look_again: Option<Duration>,
}

impl Verdict<'_> {
    fn wait(waiting_on: WaitingOn) -> Self {
        Self { waiting_on: Some(waiting_on), ..Self::default() }
    }

    fn until(waiting_on: WaitingOn, look_again: Duration) -> Self {
        Self { look_again: Some(look_again), ..Self::wait(waiting_on) }
    }
}

/// The node that has the right of way already: it is being changed, or may begin at any moment.
fn kept<'a>(facts: &Facts, nodes: &[&'a NodeFacts]) -> Option<&'a NodeFacts> {
    let under_way = nodes.iter().find(|node| node.install == Install::UnderWay);
    let may_begin = || {
        nodes.iter().find(|node| {
            node.permit.is_some()
                && node.permit == node.plan
                && node.may_go()
                && !node.was_refused()
                && facts.unready(node).is_none()
        })
    };
    under_way.or_else(may_begin).copied()
}

/// The next node, or what stands against any. `nodes` are sorted, the worst first.
fn next<'a>(facts: &Facts, nodes: &[&'a NodeFacts]) -> Verdict<'a> {
    if let Some((node, id)) = nodes.iter().find_map(|node| Some((node, node.failed()?))) {
        return Verdict::wait(WaitingOn::Failed { node: node.name.clone(), id: id.to_owned() });
    }
    let Some(candidate) = nodes.iter().copied().find(|node| node.may_go()) else { return Verdict::default() };
    if let Some(node) = nodes.iter().find(|node| node.proof_missing && node.plan.is_none()) {
        return Verdict::wait(WaitingOn::Proof { node: node.name.clone() });
    }
    if let Some((node, left)) = nodes.iter().filter_map(|n| Some((n, n.soak_left()?))).max_by_key(|(_, l)| *l)
    {
        return Verdict::until(
            WaitingOn::Soak { node: node.name.clone(), seconds: node.soak.as_secs() },
            left,
        );
    }
    // One that was refused goes again before any other: where one node cannot, the next one seldom can.
    let candidate = nodes.iter().copied().find(|n| n.may_go() && n.was_refused()).unwrap_or(candidate);
    if let Some(left) = RETRY_REFUSED.checked_sub(candidate.age).filter(|_| candidate.was_refused())
        && !left.is_zero()
    {
        return Verdict::until(WaitingOn::Refused { node: candidate.name.clone() }, left);
    }
    if let Some(node) = nodes.iter().find(|node| node.permit.is_some() && node.name != candidate.name) {
        return Verdict::wait(WaitingOn::Agent { node: node.name.clone() });
    }
    if let Some(node) = nodes.iter().find(|node| !node.acknowledged) {
        return Verdict::wait(WaitingOn::Agent { node: node.name.clone() });
    }
    match facts.unready(candidate) {
        Some((node, problem)) => {
            let (node, problem) = (node.to_owned(), problem.to_owned());
            Verdict::until(WaitingOn::NotReady { node, problem }, ASK_AGAIN)
        }
        None if facts.servers.iter().any(|s| s.readiness == Readiness::NotAsked) => {
            Verdict { ask: true, ..Verdict::default() }
        }
        None => Verdict { next: Some(candidate), ..Verdict::wait(WaitingOn::permitted(candidate)) },
    }
}

impl Facts {
    /// How badly a node needs to be changed; the smallest is the worst.
    fn damage(&self, node: &NodeFacts) -> u8 {
        let down = |s: &Server| s.name == node.name && matches!(s.readiness, Readiness::NotReady(_));
        if self.servers.iter().any(down) {
            0
        } else if node.proof_missing || node.trouble.is_some() || node.has_drifted() {
            1
        } else {
            2
        }
    }

    fn is_own(&self, node: &NodeFacts) -> bool {
        self.own_node.as_ref() == Some(&node.name)
    }

    /// Another control-plane node that is known not to serve.
    fn unready(&self, candidate: &NodeFacts) -> Option<(&str, &str)> {
        self.servers.iter().filter(|server| server.name != candidate.name).find_map(|server| {
            match &server.readiness {
                Readiness::NotReady(problem) => Some((server.name.as_str(), problem.as_str())),
                Readiness::Ready | Readiness::NotAsked => None,
            }
        })
    }
}

impl NodeFacts {
    /// The last install's identity, when it failed and is what would be done again.
    fn failed(&self) -> Option<&str> {
        match &self.install {
            Install::Failed { change, id } if self.plan.as_ref() == Some(change) => Some(id),
            _ => None,
        }
    }

    fn was_refused(&self) -> bool {
        matches!(&self.install, Install::Refused(change) if self.plan.as_ref() == Some(change))
    }

    /// Whether it has something to do and nothing of its own stands against it.
    fn may_go(&self) -> bool {
        self.plan.is_some()
            && self.hold.is_none()
            && self.failed().is_none()
            && self.install != Install::UnderWay
    }

    /// Whether somebody else changed what the last install wrote, or its files.
    fn has_drifted(&self) -> bool {
        let Some(plan) = &self.plan else { return false };
        match &self.install {
            Install::Settled { to } => *to != plan.from || plan.from == plan.to,
            _ => false,
        }
    }

    fn soak_left(&self) -> Option<Duration> {
        let settled = matches!(self.install, Install::Settled { .. });
        self.soak.checked_sub(self.age).filter(|left| settled && !left.is_zero())
    }
}

#[cfg(test)]
mod tests;
