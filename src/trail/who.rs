//! Who made this object? The creation if the logs hold it, else why it cannot be known.
//!
//! [`Search`] folds events, in any order, into what matters; [`Search::answer`] weighs it at the end. A creation is
//! a finished, successful request that made the object: a `create`, or the 201 of a server-side apply or an
//! upsert. Nothing is guessed: what only may have made the object (a name given by the server at a level without
//! bodies, a request whose outcome is not told) is a [`Candidate`], never the answer.
//!
//! An answer is a chain from the object to its root, the person or program that nobody else stands behind: [`Chase`]
//! asks for one object after the other, each with a [`Search`] of its own.

mod author;
mod chase;
mod owner;
mod reason;

pub use chase::{Chase, Live, Need};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use author::Author;
use jiff::{SignedDuration, Timestamp};
use reason::{covered, damaged};
use serde::{Serialize, Serializer};

use super::event::{Event, ObjectRef, Outcome, OwnerReference};
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
    /// Other requests that may have made the first object, where who made it is known all the same.
    pub alternatives: Vec<Candidate>,
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
    pub why: String,
}

/// One creation: what was made, and by whom.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// What was made.
    pub object: Object,
    /// The authenticated user.
    pub user: String,
    /// The groups of whoever the request was judged by: the impersonated user, else the user.
    pub groups: Vec<String>,
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
    /// What the link rests on.
    pub how: String,
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

/// Everything seen so far that bears on one object.
#[derive(Debug)]
pub struct Search {
    question: Question,
    /// By time, user and audit ID: an event read twice (a file and its copy) is one creation.
    creations: BTreeMap<(Option<Timestamp>, String, String), Creation>,
    /// Creates of the object that may or may not have been carried out.
    unclear: Vec<Link>,
    /// Creates of the object that the server refused.
    refused: u64,
    last_refused: Option<Link>,
    /// Creates whose `generateName` can have become the name.
    fitting: Vec<Nameless>,
    /// Creates that tell no name at all.
    nameless: Vec<Nameless>,
    /// How many of them are not in `nameless`, for want of room.
    nameless_more: u64,
    /// The owner that the object's bodies name, and where the first of them is.
    owner: Option<(Timestamp, OwnerReference, String)>,
    /// The latest deletion of the object.
    deleted: Option<Link>,
    /// Made no later than this, and the UID it then has.
    bounds: Bounds,
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

#[derive(Clone, Debug)]
struct Creation {
    link: Link,
    uid: Option<String>,
    note: Option<String>,
    author: Author,
    owner: Option<OwnerReference>,
}

/// A create that tells no name.
#[derive(Clone, Debug)]
struct Nameless {
    link: Link,
    author: Author,
}

/// What is known of an object besides the log.
#[derive(Clone, Debug, Default)]
struct Bounds {
    /// It existed at this time.
    by: Option<Timestamp>,
    /// Its UID.
    uid: Option<String>,
    /// When it was made, to the second.
    created: Option<Timestamp>,
}

/// How far the clocks of control-plane nodes are taken to differ at most.
const SKEW: SignedDuration = SignedDuration::from_secs(2);

/// How many creates without a name are kept; the latest ones, which are the likeliest.
const NAMELESS: usize = 2000;

impl Bounds {
    /// Whether a request of this time can have made the object.
    fn allow(&self, link: &Link) -> bool {
        let Some(time) = link.time else { return true };
        let end = link.completed.unwrap_or(time);
        self.by.is_none_or(|by| time <= by + SKEW)
            && self
                .created
                .is_none_or(|at| time <= at + SignedDuration::from_secs(1) + SKEW && end >= at - SKEW)
    }
}

impl Search {
    /// Nothing seen yet.
    pub fn new(question: Question) -> Self {
        Self {
            question,
            creations: BTreeMap::new(),
            unclear: Vec::new(),
            refused: 0,
            last_refused: None,
            fitting: Vec::new(),
            nameless: Vec::new(),
            nameless_more: 0,
            owner: None,
            deleted: None,
            bounds: Bounds::default(),
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
        if !self.question.is_place_of(event, object) {
            return;
        }
        // The server names an object after `objectRef` was taken; then only its response knows the name.
        let given = if creates && object.name.is_empty() { event.response_meta() } else { None };
        match given.as_ref().map_or(object.name.as_str(), |given| &given.name) {
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
                    self.see_sign_of_life(event, object, link);
                }
            }
            _ => {}
        }
    }

    /// Takes one create of the resource into account, after all that names the object.
    pub fn see_create(&mut self, entry: &Entry) {
        let event = &entry.event;
        let Some(object) = &event.object_ref else { return };
        if !creates(event, object)
            || event.is_dry_run()
            || event.outcome() != Outcome::Done
            || !self.question.is_place_of(event, object)
        {
            return;
        }
        self.creates_logged += 1;
        let named = event.response_meta().is_some_and(|meta| !meta.name.is_empty());
        if object.name.is_empty() && !named {
            self.see_nameless(entry, object);
        }
    }

    fn see_creation(&mut self, event: &Event, mut link: Link) {
        match event.outcome() {
            Outcome::Done => {
                let response = event.response_meta();
                let uid = response.map(|meta| meta.uid).filter(|uid| !uid.is_empty());
                let named = event.object_ref.as_ref().is_some_and(|object| !object.name.is_empty());
                link.how = match (named, event.verb.as_str()) {
                    (false, _) => "the server's answer to its creation has the name".to_owned(),
                    (true, "create") => "the event of its creation names it".to_owned(),
                    (true, verb) => format!("the {verb} that made it (201) names it"),
                };
                let note = author::note(event);
                let key = (link.time, link.user.clone(), link.audit_id.clone());
                let (author, owner) = (Author::of(event), author::owner(event));
                self.creations.entry(key).or_insert(Creation { link, uid, note, author, owner });
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
        let found = || Nameless { link: self.link(entry, object), author: Author::of(event) };
        match event.request_meta() {
            Some(meta) if self.question.can_come_from(&meta.generate_name) => {
                let found = found();
                self.fitting.push(found);
            }
            Some(_) => {}
            // kube-apiserver does not look into what it passes on to an aggregated API server, so there a name
            // may be missing that the client gave.
            None if self.question.looks_generated() || self.question.resource().scope == Scope::Unknown => {
                let found = found();
                self.nameless.push(found);
                if self.nameless.len() > 2 * NAMELESS {
                    self.forget_nameless();
                }
            }
            None => {}
        }
    }

    /// Keeps of the creates without a name those that can have made the object, the latest first.
    fn forget_nameless(&mut self) {
        let upper = [self.existed, self.bounds.by].into_iter().flatten().min();
        let bounds = Bounds { by: upper, ..self.bounds.clone() };
        for list in [&mut self.fitting, &mut self.nameless] {
            list.retain(|create| bounds.allow(&create.link));
            list.sort_by_key(|create| Reverse(create.link.time));
            self.nameless_more += list.len().saturating_sub(NAMELESS) as u64;
            list.truncate(NAMELESS);
        }
    }

    fn see_sign_of_life(&mut self, event: &Event, object: &ObjectRef, link: Link) {
        let (Outcome::Done, Some(time)) = (event.outcome(), event.time()) else { return };
        let verb = event.verb.as_str();
        // A read proves less: a watch by name succeeds without the object.
        if matches!(verb, "update" | "patch" | "delete" | "create") {
            self.existed = Some(self.existed.map_or(time, |existed| existed.min(time)));
        }
        if verb == "delete"
            && object.subresource.is_empty()
            && self.deleted.as_ref().is_none_or(|latest| link.time > latest.time)
        {
            self.deleted = Some(link.clone());
        }
        // What the server has stored: its answer, or an update it took. A patch is only what was asked for.
        let stored = matches!(object.subresource.as_str(), "" | "status")
            && matches!(verb, "update" | "patch" | "get" | "delete");
        if stored
            && self.owner.as_ref().is_none_or(|(seen, ..)| time < *seen)
            && let Some(owner) = author::stored_owner(event)
        {
            self.owner = Some((time, owner, link.source));
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

    /// The creation of the object, or why it cannot be told from another one. `None` where no creation names it.
    fn creation(&mut self, coverage: &Coverage) -> Option<Result<Made, Vec<String>>> {
        self.narrow();
        let bounds = self.bounds.clone();
        self.creations.retain(|_, creation| {
            let other = creation.uid.as_ref().zip(bounds.uid.as_ref()).is_some_and(|(a, b)| a != b);
            bounds.allow(&creation.link) && !other
        });
        let (_, latest) = self.creations.pop_last()?;
        if self.kinds.len() > 1 && self.question.resource().scope == Scope::Unknown {
            return Some(Err(vec![self.ambiguity()]));
        }
        if latest.link.time.is_none() && !self.creations.is_empty() {
            let untimed = format!("{} was created more than once, and no event tells when", self.question);
            return Some(Err(vec![untimed]));
        }
        if let Some(seen) = self.later_object(&latest) {
            let earlier = format!(
                "the latest creation of {} in the logs ({}) made an earlier object: one with another UID was seen \
                 from {seen:.6} on, and its creation is not in them",
                self.question, latest.link
            );
            return Some(Err(vec![earlier, self.where_else(), covered(coverage)]));
        }
        let mut notes = Vec::from_iter(latest.note);
        if let Some(deleted) = self.deleted.as_ref().filter(|deleted| deleted.time > latest.link.time) {
            notes.push(format!("it has been deleted since: {deleted}"));
        }
        let owner = latest.owner.map(|owner| (owner, "the body of its creation names its owner".to_owned()));
        let later = self.owner.take().filter(|(seen, ..)| latest.link.time.is_none_or(|made| *seen >= made));
        let owner = owner.or_else(|| {
            later.map(|(_, owner, source)| (owner, format!("its body at {source} names its owner")))
        });
        let earlier = self.creations.len();
        Some(Ok(Made { link: latest.link, author: latest.author, owner, earlier, notes }))
    }

    /// A UID that the log knows tells by when its object existed.
    fn narrow(&mut self) {
        let seen = self.bounds.uid.as_ref().and_then(|uid| self.uids.get(uid)).copied();
        self.bounds.by = [self.bounds.by, seen].into_iter().flatten().min();
    }

    /// When an object of this name was first seen that is not the one `latest` made: of the UIDs that appear after
    /// a creation, one is its own.
    fn later_object(&self, latest: &Creation) -> Option<Timestamp> {
        let made = latest.link.time?;
        let own = latest.uid.as_ref().or(self.bounds.uid.as_ref());
        let by = self.bounds.by;
        let others = self
            .uids
            .iter()
            .filter(|&(uid, &seen)| seen > made && by.is_none_or(|by| seen <= by) && Some(uid) != own);
        let mut seen: Vec<Timestamp> = others.map(|(_, &seen)| seen).collect();
        seen.sort_unstable();
        if own.is_none() && !seen.is_empty() {
            seen.remove(0);
        }
        seen.last().copied()
    }

    /// Requests that may have made the object, the likeliest first.
    fn candidates(&mut self) -> Vec<Candidate> {
        self.forget_nameless();
        let mut candidates = Vec::new();
        let mut add = |link: &Link, why: String| candidates.push(Candidate { link: link.clone(), why });
        for link in &self.unclear {
            add(link, "names the object, but whether it was carried out is not told".to_owned());
        }
        for create in &self.fitting {
            add(&create.link, "its generateName fits, but which name the server gave is not told".to_owned());
        }
        for create in &self.nameless {
            let distance = self.existed.zip(create.link.time).map(|(seen, made)| seen.duration_since(made));
            let when = distance.map_or_else(String::new, |distance| {
                format!(", {:.3} s before the object was first seen", distance.as_secs_f64())
            });
            add(&create.link, format!("it tells no name{when}"));
        }
        candidates.truncate(CANDIDATES);
        candidates
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
            groups: event.impersonated_user.as_ref().unwrap_or(&event.user).groups.clone(),
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
            how: String::new(),
        }
    }
}

/// A creation that is known.
#[derive(Debug)]
struct Made {
    link: Link,
    author: Author,
    /// Whom the object belongs to, and what says so.
    owner: Option<(OwnerReference, String)>,
    earlier: usize,
    notes: Vec<String>,
}

/// Whether the request would make the object it names, if it succeeds.
fn creates(event: &Event, object: &ObjectRef) -> bool {
    let verb = event.verb.as_str();
    // Server-side apply and update answer 201 exactly when they made the object, and 200 when they changed it.
    object.subresource.is_empty()
        && (verb == "create" || (matches!(verb, "patch" | "update") && event.code() == 201))
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

fn micros<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| format!("{time:.6}")).serialize(serializer)
}

#[cfg(test)]
mod tests;
