//! From an object over its owners to whoever stands at the root.
//!
//! [`Chase::next`] says what is needed, the caller brings it, until nothing is: first the events that name the
//! object, then, where none is its creation, the creates that tell no name. Where a controller made the object, the
//! owner is the next object: as a body or the live object names it, or else by the controller's naming rule. A
//! person, an impersonated user or a program of its own ends the chain.

use jiff::Timestamp;
use serde::Deserialize;

use super::author::Author;
use super::owner::{self, Guess};
use super::{Answer, Bounds, Candidate, Link, Made, Nameless, Search, Unknown, damaged};
use crate::trail::event::OwnerReference;
use crate::trail::query::Query;
use crate::trail::question::Question;
use crate::trail::read::{Coverage, Entry};
use crate::trail::resource::Resource;

/// More owners than any object has; what has more is a circle.
const LONGEST: usize = 8;

/// What the chase needs next.
#[derive(Debug)]
pub enum Need {
    /// The events of this query, each to [`Chase::see`], then [`Chase::seen`].
    Events(Query),
    /// The object as it is in the cluster, to [`Chase::live`]; only asked for in a chase with a cluster.
    Live(Question),
    /// Nothing more: [`Chase::answer`].
    Nothing,
}

/// An object as the API server has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Live {
    /// Its UID.
    pub uid: String,
    /// When it was made, to the second.
    pub creation_timestamp: Option<Timestamp>,
    /// What it belongs to.
    pub owner_references: Vec<OwnerReference>,
}

/// The search for an object's root.
#[derive(Debug)]
pub struct Chase {
    cluster: bool,
    phase: Phase,
    search: Search,
    chain: Vec<Link>,
    /// What says that `search`'s object owns the last link's.
    owned: Option<String>,
    /// The live object's owner.
    live_owner: Option<OwnerReference>,
    /// A creation that is known only once its owner's is.
    pending: Option<Pending>,
    /// Owners of the pending object by its name, yet to be tried.
    guesses: Vec<Guess>,
    alternatives: Vec<Candidate>,
    earlier: usize,
    notes: Vec<String>,
    coverage: Coverage,
    unknown: Option<Unknown>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    Named,
    Creates,
    Over,
}

/// The creates of which one has made an object, as far as its name tells.
#[derive(Debug)]
struct Pending {
    creates: Vec<Nameless>,
    reasons: Vec<String>,
    candidates: Vec<Candidate>,
    existed: Option<Timestamp>,
    place: (String, String),
    resource: Resource,
}

impl Chase {
    /// Begins with the object asked about, and its UID where that is known; `cluster` says whether live objects can be
    /// looked at.
    pub fn new(question: Question, uid: Option<String>, cluster: bool) -> Self {
        let mut search = Search::new(question);
        search.bounds.uid = uid;
        Self {
            cluster,
            phase: if cluster { Phase::Live } else { Phase::Named },
            search,
            chain: Vec::new(),
            owned: None,
            live_owner: None,
            pending: None,
            guesses: Vec::new(),
            alternatives: Vec::new(),
            earlier: 0,
            notes: Vec::new(),
            coverage: Coverage::default(),
            unknown: None,
        }
    }

    /// What is needed next.
    pub fn next(&self) -> Need {
        match self.phase {
            Phase::Live => Need::Live(self.search.question.clone()),
            Phase::Named => Need::Events(self.search.question.named()),
            Phase::Creates => Need::Events(self.search.question.creates()),
            Phase::Over => Need::Nothing,
        }
    }

    /// Takes the live object into account; `None` where there is none.
    pub fn live(&mut self, live: Option<Live>) {
        self.phase = Phase::Named;
        let Some(live) = live else { return };
        let bounds = &mut self.search.bounds;
        // The owner's UID that a body named is that of the object meant; the live one may be a later one.
        if bounds.uid.as_ref().is_some_and(|uid| *uid != live.uid)
            || bounds.by.zip(live.creation_timestamp).is_some_and(|(by, made)| made > by + super::SKEW)
        {
            return;
        }
        (bounds.uid, bounds.created) = (Some(live.uid), live.creation_timestamp);
        let mut owners = live.owner_references;
        owners.sort_by_key(|owner| !owner.controller);
        self.live_owner = owners.into_iter().next();
    }

    /// Takes one event into account.
    pub fn see(&mut self, entry: &Entry) {
        match self.phase {
            Phase::Creates => self.search.see_create(entry),
            Phase::Live | Phase::Named | Phase::Over => self.search.see(entry),
        }
    }

    /// All events of the query have been seen; `coverage` is that of all logs they came from.
    pub fn seen(&mut self, coverage: Coverage) {
        self.coverage = coverage;
        match self.phase {
            Phase::Named => match self.search.creation(&self.coverage) {
                Some(Ok(made)) => self.found(made),
                Some(Err(reasons)) => self.lost(reasons, Vec::new()),
                None if self.pending.is_some() => self.try_next_guess(),
                None => self.phase = Phase::Creates,
            },
            Phase::Creates => self.nameless(),
            Phase::Live | Phase::Over => {}
        }
    }

    /// What has been found.
    pub fn answer(self) -> Answer {
        let mut notes = self.notes;
        if self.coverage.damaged > 0 && self.unknown.is_none() {
            notes.push(format!("{}; a later creation may be among it", damaged(&self.coverage)));
        }
        let Self { chain, unknown, alternatives, earlier, .. } = self;
        Answer { chain, unknown, alternatives, earlier, notes }
    }

    fn found(&mut self, made: Made) {
        if let Some(pending) = self.pending.take()
            && !self.settle(pending, &made)
        {
            return;
        }
        let Made { mut link, author, owner, earlier, notes } = made;
        if let Some(owned) = self.owned.take() {
            link.how = format!("{}; {owned}", link.how);
        }
        if self.chain.is_empty() {
            self.earlier = earlier;
        }
        self.notes.extend(notes);
        self.go_on(link, &author, owner);
    }

    /// Adds a link and turns to its owner, if somebody stands behind its author.
    fn go_on(&mut self, link: Link, author: &Author, owner: Option<(OwnerReference, String)>) {
        let Link { object, time, user, .. } = link.clone();
        self.chain.push(link);
        let live = self.live_owner.take().map(|owner| (owner, "the live object names its owner".to_owned()));
        let owner = owner.or(live);
        let controller = match author {
            Author::Root => return self.phase = Phase::Over,
            // A mirror Pod belongs to its Node, which did not make it.
            Author::Kubelet => return self.phase = Phase::Over,
            Author::ServiceAccount if owner.is_none() => return self.phase = Phase::Over,
            Author::ServiceAccount => None,
            Author::Controller(name) => Some(name.as_deref()),
        };
        if self.chain.len() >= LONGEST {
            return self.lost(vec!["its owners do not come to an end".to_owned()], Vec::new());
        }
        let by = Bounds { by: time, ..Bounds::default() };
        if let Some((owner, says)) = owner
            && let Some(resource) = owner::resource_of(&owner)
        {
            let uid = Some(owner.uid).filter(|uid| !uid.is_empty());
            return self.turn_to(resource, &object.namespace, &owner.name, Bounds { uid, ..by }, says);
        }
        let guesses =
            controller.map(|name| owner::guesses(name, &object.resource, &object.namespace, &object.name));
        match guesses.as_deref() {
            Some([guess]) => {
                let says = format!("naming rule: {}", guess.says);
                self.turn_to(guess.resource.clone(), &object.namespace, &guess.name, by, says);
            }
            _ => self.lost(
                vec![format!(
                    "`{user}` is a controller and makes objects for others, but whom {} `{}` belongs to is in no \
                     body in these logs (levels Request and RequestResponse keep bodies), and its name does not \
                     tell: give creates of {} the level Request",
                    object.resource, object.name, object.resource
                )],
                Vec::new(),
            ),
        }
    }

    fn turn_to(&mut self, resource: Resource, namespace: &str, name: &str, bounds: Bounds, says: String) {
        let namespace = owner::namespace_of(&resource, namespace);
        self.search = Search::new(Question::about(resource, namespace, name));
        self.search.bounds = bounds;
        self.owned = Some(says);
        self.live_owner = None;
        self.phase = if self.cluster { Phase::Live } else { Phase::Named };
    }

    /// No event names the object's creation. Its name may still tell whom it belongs to.
    fn nameless(&mut self) {
        let candidates = self.search.candidates();
        let reasons = self.search.reasons(&self.coverage);
        let search = &self.search;
        let question = &search.question;
        let creates: Vec<Nameless> = search.fitting.iter().chain(&search.nameless).cloned().collect();
        let plural = question.resource().plurals()[0].clone();
        let place = (question.namespace().to_owned(), question.name().to_owned());
        let controllers = creates.iter().filter_map(|create| match &create.author {
            Author::Controller(name) => Some(name.clone()),
            Author::Root | Author::Kubelet | Author::ServiceAccount => None,
        });
        let mut names: Vec<Option<String>> = controllers.collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            // A policy that drops what controllers do drops the create itself; its owner's may be there.
            names.push(None);
        }
        let mut guesses: Vec<Guess> = Vec::new();
        for name in names {
            for guess in owner::guesses(name.as_deref(), &plural, &place.0, &place.1) {
                if !guesses.contains(&guess) {
                    guesses.push(guess);
                }
            }
        }
        if guesses.is_empty() || !search.unclear.is_empty() || search.nameless_more > 0 {
            return self.lost(reasons, candidates);
        }
        let existed = search.existed;
        self.guesses = guesses;
        let resource = question.resource().clone();
        self.pending = Some(Pending { creates, reasons, candidates, existed, place, resource });
        self.try_next_guess();
    }

    fn try_next_guess(&mut self) {
        let Some(pending) = &self.pending else { return };
        if self.guesses.is_empty() {
            let (reasons, candidates) = (pending.reasons.clone(), pending.candidates.clone());
            return self.lost(reasons, candidates);
        }
        let guess = self.guesses.remove(0);
        let latest = pending.creates.iter().filter_map(|create| create.link.time).max();
        let by = pending.existed.or(latest);
        let namespace = pending.place.0.clone();
        let live = self.live_owner.clone();
        // A live object that names another owner proves the guess wrong.
        if live.as_ref().is_some_and(|owner| {
            owner.name != guess.name
                || owner::resource_of(owner).is_none_or(|resource| resource != guess.resource)
        }) {
            return self.try_next_guess();
        }
        let uid = live.map(|owner| owner.uid).filter(|uid| !uid.is_empty());
        let says = match &uid {
            Some(_) => "the live object names its owner".to_owned(),
            None => format!("naming rule: {}", guess.says),
        };
        let kept = self.live_owner.clone();
        self.turn_to(guess.resource, &namespace, &guess.name, Bounds { by, uid, created: None }, says);
        self.live_owner = kept;
        self.phase = Phase::Named;
    }

    /// The owner that the pending object's name tells was made by `made`: between that and when the object was first
    /// seen, its creation must lie. Known is who made it if all creates there are of one author.
    fn settle(&mut self, pending: Pending, made: &Made) -> bool {
        let Pending { creates, mut reasons, candidates, existed, place, resource } = pending;
        let rules = |author: &Author| match author {
            Author::Controller(name) => {
                owner::guesses(name.as_deref(), &resource.plurals()[0], &place.0, &place.1).iter().any(
                    |guess| {
                        guess.name == made.link.object.name && {
                            guess.resource.includes(&made.link.object.resource, &made.link.object.api_group)
                        }
                    },
                )
            }
            Author::Root | Author::Kubelet | Author::ServiceAccount => false,
        };
        let after = |create: &&Nameless| {
            create.link.time.zip(made.link.time).is_none_or(|(create, owner)| create + super::SKEW >= owner)
        };
        let possible: Vec<&Nameless> = creates.iter().filter(after).collect();
        // Another controller of kube-controller-manager names what it makes after owners of its own.
        let foreign = |create: &&&Nameless| {
            !rules(&create.author) && !matches!(create.author, Author::Controller(Some(_)))
        };
        let mut likely = possible.iter().filter(|create| rules(&create.author));
        let stranger = possible.iter().find(foreign);
        let owner = &made.link;
        let Some(nearest) = likely.next() else {
            reasons.push(format!(
                "by its name it belongs to {} `{}`, which was made so: {owner}; but the event of its own creation \
                 is not in the logs",
                owner.object.resource, owner.object.name
            ));
            let why =
                format!("by a naming rule only, it made the owner ({})", self.owned.as_deref().unwrap_or(""));
            self.lost(reasons, vec![Candidate { link: owner.clone(), why }]);
            return false;
        };
        if let Some(stranger) = stranger {
            reasons.push(format!(
                "its name tells that it belongs to {} `{}`, but `{}` made an object without a name in that time too",
                owner.object.resource, owner.object.name, stranger.link.user
            ));
            self.lost(reasons, candidates);
            return false;
        }
        if existed.is_none() {
            self.lost(reasons, candidates);
            return false;
        }
        let more = likely.count();
        let mut link = nearest.link.clone();
        link.how = match more {
            0 => format!(
                "the only create without a name by `{}` that can have made it, between its owner's creation and \
                 when it was first seen",
                link.user
            ),
            more => format!(
                "one of {} creates without a name, all by `{}`, between its owner's creation and when it was first \
                 seen; shown is the latest",
                more + 1,
                link.user
            ),
        };
        self.alternatives = if more > 0 { candidates } else { Vec::new() };
        self.chain.push(link);
        true
    }

    fn lost(&mut self, mut reasons: Vec<String>, candidates: Vec<Candidate>) {
        if let Some(last) = self.chain.last() {
            let object = &last.object;
            reasons.insert(
                0,
                format!("{} `{}` is known, but not who is behind it", object.resource, object.name),
            );
        }
        self.pending = None;
        self.unknown = Some(Unknown { reasons, candidates });
        self.phase = Phase::Over;
    }
}
