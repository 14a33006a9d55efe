//! Proof that audit events land: which request to send, what the policy must log of it, and what was found.
//!
//! The idea: a request with an `Audit-ID` of our own, which the server takes over as it is
//! (`pkg/endpoints/filters/audit_init.go`), is looked for in that server's own log. Which events it must leave is known
//! beforehand, by [`evaluate()`]. It needs no credentials, because what is refused is audited all the same; and it is
//! harmless whoever sends it, should everybody be cluster-admin (see `candidate`).
//!
//! A policy that logs none of the requests we know cannot be proved so, and then we say so ([`Unprovable`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::audit::{Attributes, Level, Policy, Stage, User, evaluate};
use crate::manifest::{self, Manifest};

mod backend;
mod candidate;
mod found;

pub use backend::{LogBackend, LogPlace};
pub use candidate::ProbeRequest;
pub use found::{Found, events};

/// Longest [`audit_id`]. The server has no limit; every line of the log and of a condition that names it gets longer.
const ID_LIMIT: usize = 64;

/// Whom the server takes the sender for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// No credentials: `system:anonymous`, where the server allows that.
    Anonymous,
    /// A worthless bearer token: refused with 401. The policy sees no user, so no rule that names users or groups
    /// matches, and the one event has stage `ResponseStarted` (`pkg/endpoints/filters/authn_audit.go`).
    Nobody,
    /// A user with a token of its own.
    User(User),
}

impl Sender {
    /// Who can ask this server without credentials, the quieter one first: a refused log-in is a line in the server's own
    /// log, too, and may wake somebody.
    pub fn without_credentials(manifest: &Manifest) -> Vec<Self> {
        let refused =
            manifest.flag("anonymous-auth").is_some_and(|value| matches!(value, "false" | "0" | "f"));
        if refused { vec![Self::Nobody] } else { vec![Self::Anonymous, Self::Nobody] }
    }

    /// A service account, with the groups every service account has.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::User(User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
        })
    }

    fn user(&self) -> Option<User> {
        match self {
            Self::Anonymous => Some(User {
                name: "system:anonymous".to_owned(),
                groups: vec!["system:unauthenticated".to_owned()],
            }),
            Self::Nobody => None,
            Self::User(user) => Some(user.clone()),
        }
    }

    /// The stages that a request gets to which is neither long-running nor panics.
    fn stages(&self) -> &'static [Stage] {
        match self {
            Self::Nobody => &[Stage::ResponseStarted],
            Self::Anonymous | Self::User(_) => &[Stage::RequestReceived, Stage::ResponseComplete],
        }
    }
}

/// As whom the event will have it.
impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("system:anonymous"),
            Self::Nobody => f.write_str("a refused log-in"),
            Self::User(user) => f.write_str(&user.name),
        }
    }
}

/// A request that the policy logs, and what it must leave in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What to send.
    pub request: ProbeRequest,
    /// As whom.
    pub sender: Sender,
    /// The level of its events, never `None`.
    pub level: Level,
    /// The rule that decides, the first is 0.
    pub rule: usize,
    /// The stages of its events, at least one.
    pub stages: Vec<Stage>,
}

/// Why no event can prove that the log works.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unprovable {
    /// `--audit-policy-file` is not there.
    #[error("the API server has no audit policy, so it logs nothing")]
    NoPolicy,
    /// `--audit-log-path` is not there.
    #[error(
        "the API server has no log backend (`--audit-log-path`): what a webhook was sent cannot be seen on the node"
    )]
    NoLog,
    /// The log is in the container's own file system.
    #[error(
        "`--audit-log-path={0}` is on no folder of the node that is mounted whole (a hostPath volume without subPath): the log cannot be read from outside, and is gone with the container"
    )]
    Unreachable(String),
    /// It is there and may not be read, or is not where it can be.
    #[error("`{log}` cannot be read: {problem}")]
    Unreadable {
        /// The log's path on the node.
        log: String,
        /// Why not.
        problem: String,
    },
    /// The policy logs only what this sender asks, and as that the server could not be asked.
    #[error(
        "the policy logs no request but those of {sender}, as whom the API server could not be asked: {problem}"
    )]
    NotAsked {
        /// As whom.
        sender: Sender,
        /// Why not.
        problem: String,
    },
    /// The policy logs no request that we may send.
    #[error("{}", not_logged(.0))]
    NotLogged(Vec<Dropped>),
}

/// A request that leaves no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The request.
    pub request: ProbeRequest,
    /// Why not.
    pub why: Why,
}

/// Why a request leaves no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// This rule decides, with level None.
    Level(usize),
    /// This rule decides, and all stages the request gets to are omitted, by it or by the policy.
    Stages(usize),
    /// No rule matches.
    NoRule,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(rule) => write!(f, "rules[{rule}] has level None"),
            Self::Stages(rule) => write!(f, "rules[{rule}] or the policy omits the stages"),
            Self::NoRule => f.write_str("no rule matches"),
        }
    }
}

fn not_logged(dropped: &[Dropped]) -> String {
    let mut requests: BTreeMap<Why, Vec<String>> = BTreeMap::new();
    for one in dropped {
        let of = requests.entry(one.why).or_default();
        let request = format!("`{}`", one.request);
        if !of.contains(&request) {
            of.push(request);
        }
    }
    let reasons: Vec<String> = requests
        .iter()
        .map(|(why, requests)| match requests.as_slice() {
            [first] => format!("{why} ({first})"),
            [first, rest @ ..] => format!("{why} ({first} and {} more)", rest.len()),
            [] => why.to_string(),
        })
        .collect();
    format!(
        "the policy logs no harmless request that could be sent: {}; a rule of level Metadata for `nonResourceURLs: \
         [/version]` before all others would do",
        reasons.join("; ")
    )
}

/// The first request that `policy` logs, by the first of the senders for whom there is one.
///
/// # Errors
///
/// When it logs none of them, with the reason for each.
pub fn choose(policy: &Policy, senders: &[Sender]) -> Result<Chosen, Unprovable> {
    let mut dropped = Vec::new();
    for sender in senders {
        for request in candidate::candidates(policy) {
            match predict(policy, request, sender) {
                Ok(chosen) => return Ok(chosen),
                Err(reason) => dropped.extend(reason),
            }
        }
    }
    Err(Unprovable::NotLogged(dropped))
}

/// What the request leaves in the log; the error is `None` for one that never gets to the policy.
fn predict(policy: &Policy, request: ProbeRequest, sender: &Sender) -> Result<Chosen, Option<Dropped>> {
    let attributes =
        Attributes::from_request(sender.user(), request.method, &request.url).map_err(|_| None)?;
    let decision = evaluate(policy, &attributes);
    let stages: Vec<Stage> = sender.stages().iter().copied().filter(|stage| decision.logs(*stage)).collect();
    let why = match decision.rule {
        None => Why::NoRule,
        Some(rule) if decision.level == Level::None => Why::Level(rule),
        Some(rule) if stages.is_empty() => Why::Stages(rule),
        Some(rule) => {
            let sender = sender.clone();
            return Ok(Chosen { request, sender, level: decision.level, rule, stages });
        }
    };
    Err(Some(Dropped { request, why }))
}

/// The `Audit-ID` of the `n`th request of a proof: the same for the same arguments, no other's, at most 64 characters
/// that need no escaping in any log format. `seed` names the proof, as an order's id does.
pub fn audit_id(seed: &str, n: u32) -> String {
    let plain = |id: &String| {
        id.len() <= ID_LIMIT && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    Some(format!("audit-operator-{seed}-{n}")).filter(plain).unwrap_or_else(|| {
        let digest = manifest::digest(seed.as_bytes());
        let digits = digest.trim_start_matches("sha256:");
        format!("audit-operator-{}-{n}", &digits[..32])
    })
}

/// Whether the events found are those predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some are still missing, and nothing speaks against them.
    Incomplete,
    /// All there.
    Landed,
    /// There is one of another level or stage.
    Differs,
}

/// Compares. A line of format `legacy` has no level, so there only the stage is compared.
pub fn judge(chosen: &Chosen, found: &[Found]) -> Verdict {
    let predicted = |event: &Found| {
        chosen.stages.contains(&event.stage) && event.level.is_none_or(|level| level == chosen.level)
    };
    if !found.iter().all(predicted) {
        Verdict::Differs
    } else if chosen.stages.iter().all(|stage| found.iter().any(|event| event.stage == *stage)) {
        Verdict::Landed
    } else {
        Verdict::Incomplete
    }
}

/// How a proof ended. Its text is one sentence for a condition or a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The events landed as predicted.
    Landed {
        /// The request's `Audit-ID`.
        id: String,
        /// What was sent and predicted.
        chosen: Chosen,
        /// From sending the request to seeing its last event.
        latency: Duration,
    },
    /// Events landed, but not those predicted: the server holds another policy, or we evaluate it wrongly.
    Differs {
        /// The request's `Audit-ID`.
        id: String,
        /// What was sent and predicted.
        chosen: Chosen,
        /// What is in the log.
        found: Vec<Found>,
    },
    /// What was predicted did not land in time.
    Missing {
        /// The request's `Audit-ID`.
        id: String,
        /// What was sent and predicted.
        chosen: Chosen,
        /// What was seen instead.
        seen: Seen,
    },
    /// There is nothing that could be sent, or no log that could be read.
    Unprovable(Unprovable),
}

/// What was seen of a request and of the log while its events did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The server's HTTP status, or why there is no answer.
    pub answer: Result<u16, String>,
    /// The events that did come.
    pub found: Vec<Found>,
    /// Where the log was looked for, on the node.
    pub log: String,
    /// What the log did meanwhile.
    pub growth: Growth,
    /// For how long it was watched.
    pub waited: Duration,
}

/// What a log did while it was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Growth {
    /// There is no such file.
    Absent,
    /// It cannot be read.
    Unreadable(String),
    /// Nothing was written to it.
    Silent,
    /// This many bytes were written to it.
    Bytes(u64),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Landed { id, chosen, latency } => {
                write!(f, "{chosen}, landed in {} ms (Audit-ID {id})", latency.as_millis())
            }
            Self::Differs { id, chosen, found } => {
                write!(
                    f,
                    "{chosen}, landed as {}: the server evaluates another policy than we (Audit-ID {id})",
                    list(found)
                )
            }
            Self::Missing { id, chosen, seen } => write!(f, "{chosen}, did not land: {seen} (Audit-ID {id})"),
            Self::Unprovable(reason) => reason.fmt(f),
        }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages: Vec<&str> = self.stages.iter().map(|stage| stage.as_str()).collect();
        let (request, sender, level, rule) = (&self.request, &self.sender, self.level, self.rule);
        write!(
            f,
            "`{request}` by {sender}, to be logged at {level} with {} by rules[{rule}]",
            stages.join(" and ")
        )
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answer {
            Ok(status) => write!(f, "the server answered {status}, but in {} s ", self.waited.as_secs())?,
            Err(problem) => write!(f, "the server did not answer ({problem}), and ")?,
        }
        let log = &self.log;
        match &self.growth {
            _ if !self.found.is_empty() => write!(f, "`{log}` got {} only", list(&self.found)),
            Growth::Absent => write!(f, "`{log}` did not appear"),
            Growth::Unreadable(problem) => write!(f, "`{log}` could not be read: {problem}"),
            Growth::Silent => write!(f, "nothing was written to `{log}`"),
            Growth::Bytes(bytes) => write!(f, "`{log}` grew by {bytes} bytes without this event"),
        }
    }
}

fn list(found: &[Found]) -> String {
    let each: Vec<String> = found.iter().map(Found::to_string).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests;
