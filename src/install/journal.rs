//! The journal: how far an install is, on the node's disk.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::Level;

use super::clock::{Deadline, Moment};
use super::order::Order;
use super::stand_in::{Role, StandIn};

/// Format of the file. A reader refuses a later one; format 1 (without stand-in and proof) is read as this one.
pub const VERSION: u32 = 2;

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
    /// When it came there, by the wall clock: for people.
    pub since: Timestamp,
    /// What is waited for in this state, in words; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
    /// Every state so far with its time, for people.
    pub history: Vec<(Timestamp, String)>,
    /// The stand-in in use. It is written here before its manifest is written, so that none is ever forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stand_in: Option<StandIn>,
    /// What was rehearsed, so far.
    #[serde(default)]
    pub rehearsed: Rehearsed,
    /// The last attempt to see an event land.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Milliseconds in which neither the API server nor a stand-in answered on this node's port, as far as the installer
    /// saw it.
    #[serde(default)]
    pub unanswered_milliseconds: u64,
}

/// How the change was tried before anything live was touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rehearsed {
    /// Not at all.
    #[default]
    No,
    /// Started without etcd: bad policies and flags are found.
    StartOnly,
    /// Ready beside the live one, and its event landed.
    Full,
}

/// An attempt to see an event land.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Port of the stand-in it was made on; `None` for the live API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stand_in: Option<u16>,
    /// When.
    pub time: Timestamp,
    /// The id of the event, empty when no request was made.
    pub audit_id: String,
    /// The request, e.g. `POST /api/v1/namespaces/default/configmaps?dryRun=All`.
    pub request: String,
    /// Level at which it landed, or should have; `None` when there is nothing that could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Index of the rule that decided, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// From the request to the event in the log.
    pub latency_milliseconds: u64,
    /// What came of it.
    pub result: ProofResult,
    /// In words, empty when it landed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What came of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProofResult {
    /// The event is in the log, at the level the policy gives it.
    Landed,
    /// It is not.
    Missing,
    /// There is nothing that could land.
    Unprovable,
}

/// Where an install is. Each variant carries what the next step needs and nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "name")]
pub enum State {
    /// The order is on the disk, and nothing was done for it yet, or only what does no harm.
    Ordered,
    /// The stand-in tries the change beside the live API server.
    Rehearsing {
        /// When it has to be ready by, and its event to have landed.
        deadline: Deadline,
        /// When it was first seen to listen; of one without etcd only.
        started: Option<Moment>,
    },
    /// The manifest may be swapped at any moment, or is already. `before` are the API server's containers when this began,
    /// `ran` the Pods that ran until the swap.
    Swapping {
        /// The API server's containers before, see [`super::Server::containers`].
        before: BTreeSet<String>,
        /// UIDs of the Pods that ran before: whatever they start later is not the change. More than one where another file
        /// defined the same Pod for a while.
        #[serde(rename = "running", with = "pods")]
        ran: BTreeSet<String>,
        /// When a stand-in has to be ready to serve by.
        #[serde(default = "long_ago")]
        deadline: Deadline,
    },
    /// The new manifest is in place; the API server has until `deadline` to be healthy with it.
    Verifying {
        /// As in `Swapping`.
        before: BTreeSet<String>,
        /// As in `Swapping`.
        #[serde(rename = "running", with = "pods")]
        ran: BTreeSet<String>,
        /// When the last known good manifest is put back.
        deadline: Deadline,
        /// Containers that were there when this began, and again after each reboot: the kubelet starts them all anew, so none
        /// of these starts says that one of them has crashed.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        earlier: BTreeSet<String>,
        /// Whether the node was booted with this manifest. Its kubelet then replaces the Pod that it started from it by no
        /// other before that Pod's API server has answered.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        booted: bool,
        /// Until when the kubelet may not know yet that another file of the same Pod is gone; nothing where there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<Deadline>,
    },
    /// The last known good manifest is put back, or about to be.
    RollingBack {
        /// Why.
        reason: String,
        /// The API server's containers when this began.
        before: BTreeSet<String>,
        /// Pods that the new manifest had started.
        tried: BTreeSet<String>,
        /// When a person is called.
        deadline: Deadline,
        /// When a kubelet that has not started the restored manifest counts as stuck.
        #[serde(default = "long_ago")]
        stuck: Deadline,
        /// Whether the kubelet has started the restored manifest; the API server has the whole time from then on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restored: bool,
    },
    /// The outcome is certain; the stand-in is being taken away and its events are brought to the log.
    Ending {
        /// The final state.
        outcome: Outcome,
        /// When this is given up.
        deadline: Deadline,
    },
    /// Done: the new manifest runs.
    Settled,
    /// Nothing was changed: the reason says why not.
    Refused {
        /// Who found it.
        #[serde(default)]
        by: Refuser,
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

/// Format 1 did not have this deadline: it counts from when it is first looked at.
fn long_ago() -> Deadline {
    Moment { boot: String::new(), milliseconds: 0 }.plus(std::time::Duration::ZERO)
}

/// Pods as the file has them: none and a single one, as nearly always, as earlier versions wrote them.
mod pods {
    use std::collections::BTreeSet;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Pods {
        One(Option<String>),
        Several(BTreeSet<String>),
    }

    pub(super) fn serialize<S: Serializer>(pods: &BTreeSet<String>, to: S) -> Result<S::Ok, S::Error> {
        match pods.len() {
            0 | 1 => pods.first().serialize(to),
            _ => pods.serialize(to),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<String>, D::Error> {
        Ok(match Pods::deserialize(from)? {
            Pods::One(pod) => pod.into_iter().collect(),
            Pods::Several(pods) => pods,
        })
    }
}

/// Who refused an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refuser {
    /// The checks before anything is done, and a kubelet that starts no stand-in: what was found may pass.
    #[default]
    Checks,
    /// The rehearsal, in which the stand-in has run: it will find the same again.
    Rehearsal,
    /// The agent, because the installer did not start.
    Agent,
}

/// How an install ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum Outcome {
    /// See [`State::Settled`].
    Settled,
    /// See [`State::Refused`].
    Refused {
        /// Who found it.
        by: Refuser,
        /// Why.
        reason: String,
    },
    /// See [`State::RolledBack`].
    RolledBack {
        /// Why.
        reason: String,
    },
    /// See [`State::Failed`].
    Failed {
        /// What happened, and what to do.
        reason: String,
    },
}

impl From<Outcome> for State {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Settled => Self::Settled,
            Outcome::Refused { by, reason } => Self::Refused { by, reason },
            Outcome::RolledBack { reason } => Self::RolledBack { reason },
            Outcome::Failed { reason } => Self::Failed { reason },
        }
    }
}

impl State {
    /// The state's name, as in the API object.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ordered => "Ordered",
            Self::Rehearsing { .. } => "Rehearsing",
            Self::Swapping { .. } => "Swapping",
            Self::Verifying { .. } => "Verifying",
            Self::RollingBack { .. } => "RollingBack",
            Self::Ending { .. } => "Ending",
            Self::Settled => "Settled",
            Self::Refused { .. } => "Refused",
            Self::RolledBack { .. } => "RolledBack",
            Self::Failed { .. } => "Failed",
        }
    }

    /// Whether the live manifest may be another than before, or may just have been.
    pub fn may_be_live(&self) -> bool {
        match self {
            Self::Swapping { .. }
            | Self::Verifying { .. }
            | Self::RollingBack { .. }
            | Self::Ending { .. } => true,
            Self::Ordered | Self::Rehearsing { .. } => false,
            Self::Settled | Self::Refused { .. } | Self::RolledBack { .. } | Self::Failed { .. } => false,
        }
    }

    /// Whether nothing more will be done.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Settled | Self::Refused { .. } | Self::RolledBack { .. } | Self::Failed { .. } => true,
            Self::Ordered
            | Self::Rehearsing { .. }
            | Self::Swapping { .. }
            | Self::Verifying { .. }
            | Self::RollingBack { .. }
            | Self::Ending { .. } => false,
        }
    }

    /// The reason it carries, empty when none.
    pub fn reason(&self) -> &str {
        match self {
            Self::RollingBack { reason, .. }
            | Self::Refused { reason, .. }
            | Self::RolledBack { reason }
            | Self::Failed { reason }
            | Self::Ending {
                outcome:
                    Outcome::Refused { reason, .. } | Outcome::RolledBack { reason } | Outcome::Failed { reason },
                ..
            } => reason,
            Self::Ordered
            | Self::Rehearsing { .. }
            | Self::Swapping { .. }
            | Self::Verifying { .. }
            | Self::Ending { outcome: Outcome::Settled, .. }
            | Self::Settled => "",
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
            stand_in: None,
            rehearsed: Rehearsed::No,
            proof: None,
            unanswered_milliseconds: 0,
        }
    }

    /// The same journal, one state further.
    pub fn record(mut self, state: State, now: Timestamp) -> Self {
        // A state that is only given another deadline is no news.
        if state.name() != self.state.name() {
            let line = match state.reason() {
                "" => state.name().to_owned(),
                reason => format!("{}: {reason}", state.name()),
            };
            self.history.push((now, line));
            self.since = now;
        }
        if let (State::Rehearsing { .. }, State::Swapping { .. }) = (&self.state, &state) {
            self.rehearsed = match self.stand_in.as_ref().map(|s| s.role) {
                Some(Role::Candidate) => Rehearsed::Full,
                Some(Role::StartOnly) => Rehearsed::StartOnly,
                Some(Role::LastKnownGood) | None => Rehearsed::No,
            };
        }
        Self { state, waiting_for: String::new(), ..self }
    }

    /// The stand-in whose manifest shall be in the manifests folder now; every other is to go.
    pub fn wanted_stand_in(&self, order: &Order) -> Option<&StandIn> {
        match self.state {
            // It is told to end together with the old server, and serves on; see `Order::shutdown_delay_seconds`.
            State::Verifying { .. } if order.shutdown_delay_seconds.is_some() => None,
            State::Ordered | State::Rehearsing { .. } => self.stand_in.as_ref(),
            State::Swapping { .. } | State::Verifying { .. } | State::RollingBack { .. } => {
                self.stand_in.as_ref().filter(|stand_in| stand_in.serves())
            }
            State::Ending { .. }
            | State::Settled
            | State::Refused { .. }
            | State::RolledBack { .. }
            | State::Failed { .. } => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::clock::Due;
    use crate::install::order::Rehearsal;

    macro_rules! left {
        ($name:literal) => {
            include_str!(concat!("../../tests/data/journal/", $name, ".json"))
        };
    }

    fn read(text: &str) -> Journal {
        serde_json::from_str(text).expect("a journal that an earlier version left")
    }

    #[test]
    fn what_earlier_versions_left_on_a_node_is_read() {
        let state = |text| read(text).state;
        assert!(matches!(state(left!("format-1-swapping")), State::Swapping { ran, .. } if ran.len() == 1));
        assert!(
            matches!(state(left!("format-1-rolling-back")), State::RollingBack { tried, .. } if tried.len() == 1)
        );
        let refused = state(left!("format-1-refused"));
        assert!(
            matches!(refused, State::Refused { by: Refuser::Checks, .. }),
            "what stood against it may pass"
        );
        let order: Order = serde_json::from_str(left!("format-1-order")).expect("an order");
        assert_eq!((order.rehearsal, order.shutdown_delay_seconds), (Rehearsal::Auto, None));
    }

    #[test]
    fn a_deadline_of_an_earlier_format_never_passes_by_itself() {
        let now = Moment { boot: "b".to_owned(), milliseconds: u64::MAX };
        let later = |text| match read(text).state {
            State::Verifying { deadline, earlier, .. } => (deadline.at(&now), earlier.len()),
            state => panic!("{state:?}"),
        };
        assert_eq!(later(left!("format-1-verifying")), (Due::Unknown, 0));
        assert_eq!(later(left!("format-2-verifying")), (Due::Unknown, 0));
        let swapping = read(left!("format-1-swapping")).state;
        assert!(matches!(swapping, State::Swapping { deadline, .. } if deadline.at(&now) == Due::Unknown));
    }

    #[test]
    fn what_this_version_writes_is_read_as_it_was() {
        let journal = read(left!("format-2-verifying"));
        let again: Journal =
            serde_json::from_str(&serde_json::to_string(&journal).expect("JSON")).expect("the same");
        assert_eq!(again, journal);
        assert_eq!((journal.version, journal.stand_in.as_ref().map(|s| s.port)), (VERSION, Some(16443)));
        // An earlier version reads what this one writes where one Pod ran, and no other where several did.
        let ran = |pods: &[&str]| State::Swapping {
            before: BTreeSet::new(),
            ran: pods.iter().map(|pod| (*pod).to_owned()).collect(),
            deadline: long_ago(),
        };
        for (pods, text) in [(&[][..], "null"), (&["a"], "\"a\""), (&["a", "b"], "[\"a\",\"b\"]")] {
            let written = serde_json::to_string(&ran(pods)).expect("JSON");
            assert!(written.contains(&format!("\"running\":{text},")), "{written}");
            assert_eq!(serde_json::from_str::<State>(&written).expect("the same"), ran(pods));
        }
    }
}
