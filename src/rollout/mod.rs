//! The cluster: which node may be changed next, and why none may. Pure.
//!
//! One control-plane node is disturbed at any time, over all AuditConfigurations, and none while another is not ready:
//! an API server restarts for the better part of a minute, and a second one down at the same time can take etcd's
//! clients and load balancers with it. A permit names one change by both its digests; it is withdrawn as soon as the
//! node reports another one.

/// A change of a node's manifest, by the digests of both its sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Digest before.
    pub from: String,
    /// Digest after.
    pub to: String,
}

/// One control-plane node, as far as the rollout needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Whether its Kubernetes Node is Ready.
    pub healthy: bool,
    /// Whether its AuditConfiguration holds it back.
    pub paused: bool,
    /// The permit it has.
    pub permit: Option<Change>,
    /// The plan it reports for the spec it was given last.
    pub plan: Option<Change>,
    /// What became of its last install.
    pub install: Install,
}

/// What became of a node's last install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Install {
    /// None was ever made, or the last one is done.
    Idle,
    /// One is being carried out.
    UnderWay,
    /// The one for this pair did not succeed.
    Failed(Change),
}

/// Why no further node gets a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// A node is being changed.
    Install {
        /// Which.
        node: String,
    },
    /// A node's install failed; the rollout stands still until its plan becomes another one.
    FailedNode {
        /// Which.
        node: String,
    },
    /// A node is not Ready.
    UnhealthyNode {
        /// Which.
        node: String,
    },
    /// The rollout is paused.
    Paused {
        /// The first node that would be next.
        node: String,
    },
}

impl std::fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Install { node } => write!(f, "node `{node}` is being changed"),
            Self::FailedNode { node } => {
                write!(f, "the change failed on node `{node}`; see `kubectl describe auditnode {node}`")
            }
            Self::UnhealthyNode { node } => write!(f, "node `{node}` is not Ready"),
            Self::Paused { node } => write!(f, "`spec.rollout.paused` is true; node `{node}` would be next"),
        }
    }
}

/// The permit each node shall have, in the order given, and what is waited for if any node still has a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Node name and permit.
    pub permits: Vec<(String, Option<Change>)>,
    /// Why no further node is next.
    pub waiting_on: Option<WaitingOn>,
}

/// Decides the permits of all nodes of the cluster.
///
/// A node that is being changed keeps its permit. Otherwise a permit stays only while it is the node's plan and the
/// rollout is not paused; nodes are taken by name, so that the order can be foretold.
pub fn plan(nodes: &[NodeFacts]) -> Decision {
    let mut nodes: Vec<&NodeFacts> = nodes.iter().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));

    let under_way = nodes.iter().find(|n| n.install == Install::UnderWay);
    // A permit that still is the plan may be taken up at any moment: it counts as a change under way.
    let taken_up = nodes.iter().find(|n| n.may_go() && n.permit == n.plan);
    let failed = nodes.iter().find(|n| n.has_failed());
    let candidate = nodes.iter().find(|n| n.may_go());
    let unhealthy = candidate.and_then(|c| nodes.iter().find(|n| !n.healthy && n.name != c.name));

    let (next, waiting_on) = if let Some(node) = under_way {
        (None, Some(WaitingOn::Install { node: node.name.clone() }))
    } else if let Some(node) = taken_up {
        (Some(node), Some(WaitingOn::Install { node: node.name.clone() }))
    } else if let Some(node) = failed {
        (None, Some(WaitingOn::FailedNode { node: node.name.clone() }))
    } else if let Some(node) = unhealthy {
        (None, Some(WaitingOn::UnhealthyNode { node: node.name.clone() }))
    } else if let Some(node) = candidate {
        (Some(node), Some(WaitingOn::Install { node: node.name.clone() }))
    } else {
        let paused = nodes.iter().find(|n| n.paused && n.plan.is_some());
        (None, paused.map(|n| WaitingOn::Paused { node: n.name.clone() }))
    };
    let permit_of = |node: &NodeFacts| match node.install {
        Install::UnderWay => node.permit.clone(),
        Install::Idle | Install::Failed(_) => {
            node.plan.clone().filter(|_| next.is_some_and(|n| n.name == node.name))
        }
    };
    Decision { permits: nodes.iter().map(|n| (n.name.clone(), permit_of(n))).collect(), waiting_on }
}

impl NodeFacts {
    /// Whether its plan is the very one that failed.
    fn has_failed(&self) -> bool {
        matches!((&self.install, &self.plan), (Install::Failed(failed), Some(plan)) if failed == plan)
    }

    /// Whether it has something to do and nothing of its own stands against it.
    fn may_go(&self) -> bool {
        self.plan.is_some() && !self.paused && !self.has_failed() && self.install != Install::UnderWay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(to: &str) -> Change {
        Change { from: "a".to_owned(), to: to.to_owned() }
    }

    fn node(name: &str) -> NodeFacts {
        NodeFacts {
            name: name.to_owned(),
            healthy: true,
            paused: false,
            permit: None,
            plan: Some(pair("b")),
            install: Install::Idle,
        }
    }

    fn permitted(decision: &Decision) -> Vec<&str> {
        decision.permits.iter().filter(|(_, p)| p.is_some()).map(|(n, _)| n.as_str()).collect()
    }

    #[track_caller]
    fn check(nodes: &[NodeFacts], permits: &[&str], waiting_on: Option<WaitingOn>) {
        let decision = plan(nodes);
        assert_eq!(permitted(&decision), permits);
        assert_eq!(decision.waiting_on, waiting_on);
    }

    fn install(node: &str) -> Option<WaitingOn> {
        Some(WaitingOn::Install { node: node.to_owned() })
    }

    #[test]
    fn one_node_at_a_time_by_name() {
        check(&[node("n2"), node("n1"), node("n3")], &["n1"], install("n1"));
    }

    #[test]
    fn a_permit_given_holds_the_others_back() {
        let given = NodeFacts { permit: Some(pair("b")), ..node("n2") };
        check(&[node("n1"), given], &["n2"], install("n2"));
    }

    #[test]
    fn a_node_being_changed_keeps_its_permit_whatever_it_plans_next() {
        let changing = NodeFacts {
            permit: Some(pair("b")),
            plan: Some(pair("c")),
            install: Install::UnderWay,
            ..node("n2")
        };
        let decision = plan(&[node("n1"), changing]);
        assert_eq!(decision.permits, [("n1".to_owned(), None), ("n2".to_owned(), Some(pair("b")))]);
    }

    #[test]
    fn a_permit_for_an_outdated_plan_is_replaced() {
        let moved = NodeFacts { permit: Some(pair("b")), plan: Some(pair("c")), ..node("n1") };
        assert_eq!(plan(&[moved]).permits, [("n1".to_owned(), Some(pair("c")))]);
    }

    #[test]
    fn a_failed_node_stops_the_fleet_until_its_plan_is_another() {
        let failed = NodeFacts { install: Install::Failed(pair("b")), ..node("n1") };
        check(&[failed.clone(), node("n2")], &[], Some(WaitingOn::FailedNode { node: "n1".to_owned() }));
        let mended = NodeFacts { plan: Some(pair("c")), ..failed };
        check(&[mended, node("n2")], &["n1"], install("n1"));
    }

    #[test]
    fn no_node_is_next_while_another_is_not_ready() {
        let sick = NodeFacts { healthy: false, plan: None, ..node("n3") };
        check(&[node("n1"), sick], &[], Some(WaitingOn::UnhealthyNode { node: "n3".to_owned() }));
    }

    #[test]
    fn a_node_that_is_not_ready_may_itself_be_mended() {
        let sick = NodeFacts { healthy: false, ..node("n1") };
        check(&[sick, node("n2")], &["n1"], install("n1"));
    }

    #[test]
    fn paused_nodes_get_nothing_and_do_not_hold_back_others() {
        let paused = NodeFacts { paused: true, permit: Some(pair("b")), ..node("n1") };
        check(std::slice::from_ref(&paused), &[], Some(WaitingOn::Paused { node: "n1".to_owned() }));
        check(&[paused, node("n2")], &["n2"], install("n2"));
    }

    #[test]
    fn nothing_to_do_waits_on_nothing() {
        let done = NodeFacts { plan: None, ..node("n1") };
        let sick = NodeFacts { plan: None, healthy: false, ..node("n2") };
        check(&[done, sick], &[], None);
    }
}
