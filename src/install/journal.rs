//! The journal: how far an install is, on the node's disk.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Format of the file; a reader refuses one it does not know.
pub const VERSION: u32 = 1;

/// How far the order of this identity is, and how it came there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// Format, [`VERSION`].
    pub version: u32,
    /// The order's identity.
    pub order: String,
    /// Where it is.
    pub state: State,
    /// When it came there.
    pub since: Timestamp,
    /// What is waited for in this state, in words; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
    /// Every state so far with its time, for people.
    pub history: Vec<(Timestamp, String)>,
}

/// Where an install is. Each variant carries what the next step needs and nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "name")]
pub enum State {
    /// The order is on the disk, and nothing was done for it yet, or only what does no harm.
    Ordered,
    /// The manifest may be swapped at any moment, or is already. `before` are the API server's containers until then,
    /// `running` the Pod that ran.
    Swapping {
        /// Log files of the API server's containers before, as `<pod uid>/<n>.log`.
        before: BTreeSet<String>,
        /// UID of the Pod that ran before.
        running: Option<String>,
    },
    /// The new manifest is in place; the API server has until `deadline` to be healthy with it.
    Verifying {
        /// As in `Swapping`.
        before: BTreeSet<String>,
        /// As in `Swapping`.
        running: Option<String>,
        /// When the last known good manifest is put back.
        deadline: Timestamp,
    },
    /// The last known good manifest is put back, or about to be.
    RollingBack {
        /// Why.
        reason: String,
        /// Log files of the API server's containers when this began.
        before: BTreeSet<String>,
        /// Pods that the new manifest had started.
        tried: BTreeSet<String>,
        /// When a person is called.
        deadline: Timestamp,
    },
    /// Done: the new manifest runs.
    Settled,
    /// Nothing was changed: the reason says why not.
    Refused {
        /// Why.
        reason: String,
    },
    /// The last known good manifest runs again.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// Neither could be made to run, or somebody else wrote the manifest meanwhile; a person has to look.
    Failed {
        /// What happened, and what to do.
        reason: String,
    },
}

impl State {
    /// The state's name, as in the API object.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ordered => "Ordered",
            Self::Swapping { .. } => "Swapping",
            Self::Verifying { .. } => "Verifying",
            Self::RollingBack { .. } => "RollingBack",
            Self::Settled => "Settled",
            Self::Refused { .. } => "Refused",
            Self::RolledBack { .. } => "RolledBack",
            Self::Failed { .. } => "Failed",
        }
    }

    /// Whether nothing more will be done.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Settled | Self::Refused { .. } | Self::RolledBack { .. } | Self::Failed { .. } => true,
            Self::Ordered | Self::Swapping { .. } | Self::Verifying { .. } | Self::RollingBack { .. } => {
                false
            }
        }
    }

    /// The reason it carries, empty when none.
    pub fn reason(&self) -> &str {
        match self {
            Self::RollingBack { reason, .. }
            | Self::Refused { reason }
            | Self::RolledBack { reason }
            | Self::Failed { reason } => reason,
            Self::Ordered | Self::Swapping { .. } | Self::Verifying { .. } | Self::Settled => "",
        }
    }
}

impl Journal {
    /// The journal of an order that was just given.
    pub fn begin(order: &str, now: Timestamp) -> Self {
        Self {
            version: VERSION,
            order: order.to_owned(),
            state: State::Ordered,
            since: now,
            waiting_for: String::new(),
            history: vec![(now, State::Ordered.name().to_owned())],
        }
    }

    /// The same journal, one state further.
    pub fn record(mut self, state: State, now: Timestamp) -> Self {
        let line = match state.reason() {
            "" => state.name().to_owned(),
            reason => format!("{}: {reason}", state.name()),
        };
        self.history.push((now, line));
        Self { state, since: now, waiting_for: String::new(), ..self }
    }

    /// What there is to say about it, empty when nothing.
    pub fn message(&self) -> String {
        [self.state.reason(), self.waiting_for.as_str()]
            .into_iter()
            .filter(|m| !m.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    }
}
