//! Why a node stands still, as data and in words that say what to do.

use std::fmt;

use super::NodeFacts;

/// What holds one node back, whatever the others do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Its AuditConfiguration is paused.
    Paused {
        /// Which.
        configuration: String,
    },
    /// Its AuditConfiguration has to approve the revision.
    Approval {
        /// Which.
        configuration: String,
        /// What `approvedRevision` has to say.
        revision: String,
    },
    /// An AuditConfiguration, which may be gone, has to approve that the settings are taken out.
    Removal {
        /// Which.
        configuration: String,
    },
}

/// What a node with a plan waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// A node is being changed, this one or another.
    Install {
        /// Which.
        node: String,
    },
    /// A node has the permit and has not begun.
    Permitted {
        /// Which.
        node: String,
        /// What its agent says, if that needs a person.
        trouble: Option<String>,
    },
    /// A node's install failed; the rollout stands still until its plan becomes another one or a person has it retried.
    Failed {
        /// Which.
        node: String,
        /// The install's identity.
        id: String,
    },
    /// A node's install was refused before anything was touched; that node goes again first.
    Refused {
        /// Which.
        node: String,
    },
    /// An event of a node does not land.
    Proof {
        /// Which.
        node: String,
    },
    /// A node was changed and has to stay ready for a while.
    Soak {
        /// Which.
        node: String,
        /// For how long.
        seconds: u64,
    },
    /// A node's agent has not seen its newest spec, so that it may still take up an older permit.
    Agent {
        /// Which.
        node: String,
    },
    /// A control-plane node does not serve.
    NotReady {
        /// Which.
        node: String,
        /// In which way.
        problem: String,
    },
    /// This node alone is held back.
    Hold(Hold),
}

impl WaitingOn {
    pub(super) fn permitted(node: &NodeFacts) -> Self {
        Self::Permitted { node: node.name.clone(), trouble: node.trouble.clone() }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused { configuration } => {
                write!(f, "AuditConfiguration `{configuration}` has `spec.rollout.paused: true`")
            }
            Self::Approval { configuration, revision } => write!(
                f,
                "AuditConfiguration `{configuration}` needs `spec.rollout.approvedRevision: {revision}`"
            ),
            Self::Removal { configuration } => write!(
                f,
                "taking the settings out needs `spec.rollout.approvedRevision: none` in AuditConfiguration \
                 `{configuration}`; if it is deleted already, create it again with that and delete it again"
            ),
        }
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install { node } => write!(f, "node `{node}` is being changed"),
            Self::Permitted { node, trouble: None } => write!(f, "node `{node}` is next and has its permit"),
            Self::Permitted { node, trouble: Some(reason) } => {
                write!(f, "node `{node}` has its permit but cannot begin: {reason}")
            }
            Self::Failed { node, id } => write!(
                f,
                "the change failed on node `{node}` (`kubectl describe auditnode {node}` says how); change the \
                 AuditConfiguration, or mend the node and try the same again with `kubectl annotate auditnode {node} \
                 --overwrite audit-operator.dev/retry={id}`"
            ),
            Self::Refused { node } => write!(
                f,
                "node `{node}` refused the change before anything was touched (`kubectl describe auditnode {node}` says \
                 why); change the AuditConfiguration or mend the node; it is tried again by itself, after a minute, or after \
                 ten if its rehearsal failed"
            ),
            Self::Proof { node } => write!(
                f,
                "an audit event of node `{node}` is missing in its log (`kubectl describe auditnode {node}`); the \
                 rollout goes on when the node proves itself again"
            ),
            Self::Soak { node, seconds } => write!(
                f,
                "node `{node}` was changed and has to stay ready for {seconds} s (`spec.rollout.minReadySeconds`)"
            ),
            Self::Agent { node } => write!(
                f,
                "the agent of node `{node}` has not looked at its newest orders; is its Pod running?"
            ),
            Self::NotReady { node, problem } => {
                write!(f, "control-plane node `{node}` is not ready: {problem}")
            }
            Self::Hold(hold) => hold.fmt(f),
        }
    }
}
