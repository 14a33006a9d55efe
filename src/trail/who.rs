//! Who made this object? The creation if the logs hold it, else why it cannot be known.
//!
//! [`Search`] folds events, in any order, into what matters; [`Search::answer`] weighs it at the end. A creation is
//! a finished, successful request that made the object: a `create`, or the 201 of a server-side apply or an
//! upsert. Nothing is guessed: what only may have made the object (a name given by the server at a level without
//! bodies, a request whose outcome is not told) is a [`Candidate`], never the answer.
//!
//! An answer is a chain from the object to its root. Following owners is not done yet, so it has one link; where a
//! controller made the object, a note says so.

mod author;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::event::{Event, ObjectRef, Outcome};
use super::question::Question;
use super::read::{Coverage, Entry};
use super::resource::Scope;

/// How many candidates are named; the nearest ones.
const CANDIDATES: usize = 10;

/// What the logs say about who made an object.
#[derive(Clone, Debug)]
pub struct Answer {
    /// From the object to the root, as far as it is known.
    pub chain: Vec<Link>,
    /// Why the chain does not reach the root; `None` when it does.
    pub unknown: Option<Unknown>,
    /// How many earlier objects of this name the logs saw created.
    pub earlier: usize,
    /// What a reader of the answer should know besides, whole sentences.
    pub notes: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub struct Unknown {
    /// Whole reasons, the decisive one first.
    pub reasons: Vec<String>,
    /// Requests that may have made the object, the likeliest first.
    pub candidates: Vec<Candidate>,
}

/// A request that may have made the object.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The request.
    #[serde(flatten)]
    pub link: Link,
    /// Why it may, and why that is not certain.
    pub why: &'static str,
}

/// One creation: what was made, and by whom.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// What was made.
    pub object: Object,
    /// The authenticated user.
    pub user: String,
    /// Whom `user` acted as.
    pub impersonated_user: Option<String>,
    /// When the request was received; RFC 3339 with microseconds, as the log has it.
    #[serde(serialize_with = "micros")]
    pub time: Option<Timestamp>,
    /// When it was answered.
    #[serde(serialize_with = "micros")]
    pub completed: Option<Timestamp>,
    /// Only the last address is not the client's word.
    #[serde(rename = "sourceIPs")]
    pub source_ips: Vec<String>,
    /// What the client calls itself.
    pub user_agent: String,
    /// `create`; `patch` or `update` where these made the object.
    pub verb: String,
    /// HTTP status.
    pub code: i32,
    /// Why it was allowed, in the authorizer's words (annotation `authorization.k8s.io/reason`).
    pub reason: Option<String>,
    /// The request's ID.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `file:line` of the event.
    pub source: String,
}

/// An object as events name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Lower-case plural.
    pub resource: String,
    /// Empty for the core group.
    pub api_group: String,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Everything seen so far that bears on one question.
#[derive(Debug)]
pub struct Search<'q> {
    question: &'q Question,
    /// By time, user and audit ID: an event read twice (a file and its copy) is one creation.
    creations: BTreeMap<(Option<Timestamp>, String, String), Creation>,
    /// Creates of the object that may or may not have been carried out.
    unclear: Vec<Link>,
    /// Creates of the object that the server refused.
    refused: u64,
    last_refused: Option<Link>,
    /// Creates whose `generateName` can have become the name.
    fitting: Vec<Link>,
    /// Creates that tell no name at all, by user.
    nameless: BTreeMap<String, u64>,
    /// Successful creates of the resource, whatever the name and namespace.
    creates_logged: u64,
    /// Events that name the object.
    named: u64,
    earliest_named: Option<Link>,
    /// The earliest successful write to the object: it existed by then.
    existed: Option<Timestamp>,
    /// Each UID the server confirmed for the name, and when first.
    uids: BTreeMap<String, Timestamp>,
    /// Resource and group of what exists under the name; requests for groups that do not exist are audited too.
    kinds: BTreeSet<(String, String)>,
}

#[derive(Debug)]
struct Creation {
    link: Link,
    uid: Option<String>,
    note: Option<String>,
}

impl<'q> Search<'q> {
    /// Nothing seen yet.
    pub fn new(question: &'q Question) -> Self {
        Self {
            question,
            creations: BTreeMap::new(),
            unclear: Vec::new(),
            refused: 0,
            last_refused: None,
            fitting: Vec::new(),
            nameless: BTreeMap::new(),
            creates_logged: 0,
            named: 0,
            earliest_named: None,
            existed: None,
            uids: BTreeMap::new(),
            kinds: BTreeSet::new(),
        }
    }

    /// Takes one event into account.
    pub fn see(&mut self, entry: &Entry) {
        let event = &entry.event;
        let Some(object) = &event.object_ref else { return };
        if event.is_dry_run() || !self.question.resource().includes(&object.resource, &object.api_group) {
            return;
        }
        let creates = creates(event, object);
        self.creates_logged += u64::from(creates && event.outcome() == Outcome::Done);
        if !self.question.is_place_of(event, object) {
            return;
        }
        // The server names an object after `objectRef` was taken; then only its response knows the name.
        let given = if creates && object.name.is_empty() { event.response_meta() } else { None };
        match given.as_ref().map_or(object.name.as_str(), |given| &given.name) {
            "" if creates => self.see_nameless(entry, object),
            name if name == self.question.name() => {
                self.named += 1;
                if event.outcome() == Outcome::Done {
                    self.kinds.insert((object.resource.clone(), object.api_group.clone()));
                }
                let link = self.link(entry, object);
                if self.earliest_named.as_ref().is_none_or(|earliest| link.time < earliest.time) {
                    self.earliest_named = Some(link.clone());
                }
                if creates {
                    self.see_creation(event, link);
                } else {
                    self.see_sign_of_life(event, object);
                }
            }
            _ => {}
        }
    }

    fn see_creation(&mut self, event: &Event, link: Link) {
        match event.outcome() {
            Outcome::Done => {
                let response = event.response_meta();
                let uid = response.map(|meta| meta.uid).filter(|uid| !uid.is_empty());
                let note = author::note(event, &link.object);
                let key = (link.time, link.user.clone(), link.audit_id.clone());
                self.creations.entry(key).or_insert(Creation { link, uid, note });
            }
            Outcome::Refused => {
                self.refused += 1;
                if self.last_refused.as_ref().is_none_or(|last| link.time > last.time) {
                    self.last_refused = Some(link);
                }
            }
            Outcome::Unclear => self.unclear.push(link),
            Outcome::Pending => {}
        }
    }

    fn see_nameless(&mut self, entry: &Entry, object: &ObjectRef) {
        let event = &entry.event;
        if event.outcome() != Outcome::Done {
            return;
        }
        match event.request_meta() {
            Some(meta) if self.question.can_come_from(&meta.generate_name) => {
                self.fitting.push(self.link(entry, object));
            }
            Some(_) => {}
            // kube-apiserver does not look into what it passes on to an aggregated API server, so there a name
            // may be missing that the client gave.
            None if self.question.looks_generated() || self.question.resource().scope == Scope::Unknown => {
                *self.nameless.entry(event.user.username.clone()).or_default() += 1;
            }
            None => {}
        }
    }

    fn see_sign_of_life(&mut self, event: &Event, object: &ObjectRef) {
        let (Outcome::Done, Some(time)) = (event.outcome(), event.time()) else { return };
        let verb = event.verb.as_str();
        // A read proves less: a watch by name succeeds without the object.
        if matches!(verb, "update" | "patch" | "delete" | "create") {
            self.existed = Some(self.existed.map_or(time, |existed| existed.min(time)));
        }
        // The UIDs the server vouches for: its own answer, and those it compares with the object's.
        let answered = match object.subresource.as_str() {
            "" | "status" => event.response_meta().map(|meta| meta.uid).unwrap_or_default(),
            _ => String::new(),
        };
        let compared = verb == "update" || object.subresource == "binding";
        let uid = if answered.is_empty() && compared { object.uid.clone() } else { answered };
        if !uid.is_empty() {
            let first = self.uids.entry(uid).or_insert(time);
            *first = time.min(*first);
        }
    }

    /// What has been seen, weighed. `coverage` is that of all the logs the events came from.
    pub fn answer(mut self, coverage: &Coverage) -> Answer {
        let Some((_, latest)) = self.creations.pop_last() else {
            let candidates = self.candidates();
            return self.unknown(self.reasons(coverage), candidates);
        };
        if self.kinds.len() > 1 && self.question.resource().scope == Scope::Unknown {
            return self.unknown(vec![self.ambiguity()], Vec::new());
        }
        if latest.link.time.is_none() && !self.creations.is_empty() {
            let untimed = format!("{} was created more than once, and no event tells when", self.question);
            return self.unknown(vec![untimed], Vec::new());
        }
        if let Some(seen) = self.later_object(&latest) {
            let earlier = format!(
                "the latest creation of {} in the logs ({}) made an earlier object: one with another UID was seen \
                 from {seen:.6} on, and its creation is not in them",
                self.question, latest.link
            );
            return self.unknown(vec![earlier, self.where_else(), covered(coverage)], Vec::new());
        }
        let mut notes = Vec::from_iter(latest.note);
        if coverage.damaged > 0 {
            notes.push(format!("{}; a later creation may be among it", damaged(coverage)));
        }
        Answer { chain: vec![latest.link], unknown: None, earlier: self.creations.len(), notes }
    }

    /// When an object of this name was first seen that is not the one `latest` made: of the UIDs that appear after
    /// a creation, one is its own.
    fn later_object(&self, latest: &Creation) -> Option<Timestamp> {
        let made = latest.link.time?;
        let own = latest.uid.as_ref();
        let others = self.uids.iter().filter(|&(uid, &seen)| seen > made && Some(uid) != own);
        let mut seen: Vec<Timestamp> = others.map(|(_, &seen)| seen).collect();
        seen.sort_unstable();
        if own.is_none() && !seen.is_empty() {
            seen.remove(0);
        }
        seen.last().copied()
    }

    fn candidates(&mut self) -> Vec<Candidate> {
        const UNCLEAR: &str = "names the object, but whether it was carried out is not told";
        const FITTING: &str = "its generateName fits, but which name the server gave is not told";
        let existed = self.existed;
        self.fitting.retain(|link| existed.is_none() || link.time <= existed);
        // The nearest before the object was first written to is the likeliest.
        self.fitting.sort_by_key(|link| Reverse(link.time));
        let unclear = self.unclear.iter().map(|link| Candidate { link: link.clone(), why: UNCLEAR });
        let fitting = self.fitting.iter().map(|link| Candidate { link: link.clone(), why: FITTING });
        unclear.chain(fitting).take(CANDIDATES).collect()
    }

    fn unknown(&self, reasons: Vec<String>, candidates: Vec<Candidate>) -> Answer {
        let unknown = Some(Unknown { reasons, candidates });
        Answer { chain: Vec::new(), unknown, earlier: self.creations.len(), notes: Vec::new() }
    }

    fn link(&self, entry: &Entry, object: &ObjectRef) -> Link {
        let event = &entry.event;
        let slash = if object.subresource.is_empty() { "" } else { "/" };
        let cluster_scoped = match self.question.resource().scope {
            Scope::Cluster => true,
            Scope::Namespaced => false,
            Scope::Unknown => event.path_is_namespaced() == Some(false),
        };
        Link {
            object: Object {
                resource: format!("{}{slash}{}", object.resource, object.subresource),
                api_group: object.api_group.clone(),
                namespace: if cluster_scoped { String::new() } else { object.namespace.clone() },
                name: self.question.name().to_owned(),
            },
            user: event.user.username.clone(),
            impersonated_user: event.impersonated_user.as_ref().map(|user| user.username.clone()),
            time: event.time(),
            completed: event.stage_timestamp,
            source_ips: event.source_ips.clone(),
            user_agent: event.user_agent.clone(),
            verb: event.verb.clone(),
            code: event.code(),
            reason: event.annotations.get("authorization.k8s.io/reason").cloned(),
            audit_id: event.audit_id.clone(),
            source: entry.place.to_string(),
        }
    }
}

/// Whether the request would make the object it names, if it succeeds.
fn creates(event: &Event, object: &ObjectRef) -> bool {
    let verb = event.verb.as_str();
    // Server-side apply and update answer 201 exactly when they made the object, and 200 when they changed it.
    object.subresource.is_empty()
        && (verb == "create" || (matches!(verb, "patch" | "update") && event.code() == 201))
}

impl Search<'_> {
    fn reasons(&self, coverage: &Coverage) -> Vec<String> {
        if coverage.records == 0 {
            let mut reasons = vec!["the logs given hold no event at all".to_owned()];
            reasons.extend((coverage.damaged > 0).then(|| damaged(coverage)));
            return reasons;
        }
        let mut reasons = vec![match &self.earliest_named {
            None => format!("no event in the logs given is about {}", self.question),
            Some(earliest) => format!(
                "{} about {}, but none is its creation (the earliest: {earliest})",
                counted(self.named, "event is", "events are"),
                self.question
            ),
        }];
        if let Some(last) = self.unclear.iter().max_by_key(|link| link.time) {
            let count = counted(self.unclear.len() as u64, "create of it has", "creates of it have");
            reasons.push(format!("{count} no clear outcome and may have made it (the latest: {last})"));
        }
        if let Some(nearest) = self.fitting.first() {
            let count = counted(self.fitting.len() as u64, "create fits", "creates fit");
            reasons.push(format!(
                "{count} whose name the server made up from a generateName (the nearest: {nearest}), but which \
                 name it gave is in the log only at level RequestResponse"
            ));
        }
        if !self.nameless.is_empty() {
            let count = counted(self.nameless.values().sum(), "create", "creates");
            let users: Vec<String> = self
                .nameless
                .iter()
                .take(CANDIDATES)
                .map(|(user, count)| format!("{count} by `{user}`"))
                .collect();
            reasons.push(format!(
                "the server may have made up its name (generateName): {count} of {} there tell no name, which is \
                 in the log only at level RequestResponse: {}",
                self.question.resource(),
                users.join(", ")
            ));
        }
        if let Some(last) = &self.last_refused {
            let count = counted(self.refused, "create of it was", "creates of it were");
            reasons.push(format!("{count} refused (the latest: {last})"));
        }
        reasons.push(self.where_else());
        reasons.push(covered(coverage));
        reasons.extend((coverage.damaged > 0).then(|| damaged(coverage)));
        reasons
    }

    /// Where the creation can be when it is not in the logs given.
    fn where_else(&self) -> String {
        let resource = self.question.resource();
        match self.creates_logged {
            0 => format!(
                "no create of any {resource} is in these logs: the policy may not log it, check with `kubectl audit \
                 evaluate`; or it is older than the oldest line, or in another control-plane node's log"
            ),
            logged => format!(
                "creates of {resource} are logged ({logged} here), so this one may be older than the oldest line, \
                 rotated away, or in the log of another control-plane node"
            ),
        }
    }

    fn ambiguity(&self) -> String {
        let kind = |(resource, group): &(String, String)| match group.as_str() {
            "" => format!("`{resource}.v1.`"),
            group => format!("`{resource}.{group}`"),
        };
        let kinds: Vec<String> = self.kinds.iter().map(kind).collect();
        format!("{} is more than one object in these logs: ask for {}", self.question, kinds.join(" or "))
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` of `{}` by `{}`", self.verb, self.object.resource, self.user)?;
        if let Some(user) = &self.impersonated_user {
            write!(f, " as `{user}`")?;
        }
        if self.code != 0 {
            write!(f, ", {}", self.code)?;
        }
        if let Some(time) = self.time {
            write!(f, ", {time:.6}")?;
        }
        write!(f, ", {}", self.source)
    }
}

fn covered(coverage: &Coverage) -> String {
    let records = counted(coverage.records, "record", "records");
    let logs = counted(coverage.logs as u64, "log", "logs");
    match (coverage.first, coverage.last) {
        (Some(first), Some(last)) => {
            format!("the logs given cover {first:.6} to {last:.6} ({records} in {logs})")
        }
        _ => format!("the logs given do not tell their times ({records} in {logs})"),
    }
}

fn damaged(coverage: &Coverage) -> String {
    let count = counted(coverage.damaged, "damaged place", "damaged places");
    let first =
        coverage.damage.first().map(|damage| format!(" (the first: {}, {})", damage.place, damage.what));
    format!("{count} could not be read{}", first.unwrap_or_default())
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn micros<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| format!("{time:.6}")).serialize(serializer)
}

#[cfg(test)]
mod tests;
