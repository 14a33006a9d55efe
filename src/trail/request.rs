//! One request, whatever number of stages the log has of it, and the latest requests of a question.
//!
//! The stages of a request share its audit ID, its user and the time it was received; the furthest one tells all that
//! the others do. Requests are kept by time, so that the order of files and nodes does not matter, and only as many
//! as are asked for, so that memory does not grow with the log.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::event::{Event, Stage};
use super::read::Entry;

/// What one request was; its JSON is stable.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// When it was received.
    pub time: Option<Timestamp>,
    /// When it reached `stage`.
    pub stage_time: Option<Timestamp>,
    /// The furthest stage logged.
    #[serde(serialize_with = "stage_name")]
    pub stage: Stage,
    /// Who authenticated.
    pub user: String,
    /// Whom that user acted as.
    pub impersonated_user: Option<String>,
    /// The verb; `apply` in `fieldManager` or body does not change it: it stays `patch`.
    pub verb: String,
    /// `RESOURCE[/SUBRESOURCE][.GROUP]`; empty for other URLs.
    pub resource: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name; empty for lists, and where the server gave it.
    pub name: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// HTTP status, 0 before there is one.
    pub code: i32,
    /// Why it was refused or allowed: the server's message, else the authorizer's reason.
    pub reason: String,
    /// Only the last is not the client's word.
    #[serde(rename = "sourceIPs")]
    pub source_ips: Vec<String>,
    /// What the client calls itself.
    pub user_agent: String,
    /// The request's ID.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `file:line` of that stage.
    pub source: String,
    /// What it changed, as far as bodies tell: `path: old -> new`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    #[serde(skip)]
    state: Option<Value>,
    #[serde(skip)]
    patch: bool,
}

/// The latest requests seen, and of each what is kept of its furthest stage.
#[derive(Debug)]
pub struct Requests<T> {
    /// How many are kept; 0 is all.
    limit: usize,
    kept: BTreeMap<(Option<Timestamp>, String, String), (Stage, T)>,
    let_go: u64,
}

impl<T> Requests<T> {
    /// Keeps the latest `limit` requests; 0 is all.
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: BTreeMap::new(), let_go: 0 }
    }

    /// Takes one stage of a request into account; `keep` says what is kept of it, if it is.
    pub fn see(&mut self, event: &Event, keep: impl FnOnce() -> T) {
        let key = (event.time(), event.audit_id.clone(), event.user.username.clone());
        if self.kept.get(&key).is_some_and(|(kept, _)| rank(*kept) >= rank(event.stage)) {
            return;
        }
        let is_full = self.limit > 0 && self.kept.len() >= self.limit && !self.kept.contains_key(&key);
        if is_full {
            self.let_go += 1;
            if self.kept.first_key_value().is_some_and(|(first, _)| key < *first) {
                return;
            }
            self.kept.pop_first();
        }
        self.kept.insert(key, (event.stage, keep()));
    }

    /// How many earlier ones were let go, about: stages of one request may count several times.
    pub fn let_go(&self) -> u64 {
        self.let_go
    }

    /// What was kept, by time.
    pub fn into_sorted(self) -> Vec<T> {
        self.kept.into_values().map(|(_, kept)| kept).collect()
    }
}

/// Tells of each request, in the order of time, its difference to the body before.
pub fn tell_changes(requests: &mut [Request]) {
    let mut before: Option<Value> = None;
    for request in requests {
        let Some(state) = request.state.take() else { continue };
        if request.patch {
            leaves(&state, "", &mut |path, value| request.changes.push(format!("{path}: {value}")));
        } else {
            if let Some(before) = &before {
                request.changes = difference(before, &state);
            }
            before = Some(state);
        }
    }
}

impl Request {
    /// What an event tells of its request.
    pub fn of(entry: &Entry) -> Self {
        let event = &entry.event;
        let object = event.object_ref.clone().unwrap_or_default();
        let slash = if object.subresource.is_empty() { "" } else { "/" };
        let dot = if object.api_group.is_empty() { "" } else { "." };
        let status = event.response_status.clone().unwrap_or_default();
        let reason = event.annotations.get("authorization.k8s.io/reason").cloned().unwrap_or_default();
        let given = if object.name.is_empty() { event.response_meta() } else { None };
        Self {
            time: event.time(),
            stage_time: event.stage_timestamp,
            stage: event.stage,
            user: event.user.username.clone(),
            impersonated_user: event.impersonated_user.as_ref().map(|user| user.username.clone()),
            verb: event.verb.clone(),
            resource: format!("{}{slash}{}{dot}{}", object.resource, object.subresource, object.api_group),
            namespace: object.namespace,
            name: given.filter(|_| event.verb == "create").map_or(object.name, |given| given.name),
            request_uri: event.request_uri.clone(),
            code: event.code(),
            reason: if status.message.is_empty() { reason } else { status.message },
            source_ips: event.source_ips.clone(),
            user_agent: event.user_agent.clone(),
            audit_id: event.audit_id.clone(),
            source: entry.place.to_string(),
            changes: Vec::new(),
            state: None,
            patch: false,
        }
    }

    /// The same with the body that tells what it changed, for [`tell_changes`].
    pub fn with_body(entry: &Entry) -> Self {
        let mut request = Self::of(entry);
        request.keep_body(&entry.event);
        request
    }

    fn keep_body(&mut self, event: &Event) {
        if !(200..300).contains(&event.code()) || event.verb.starts_with("delete") {
            return;
        }
        let parse = |text: &str| serde_json::from_str(text).ok();
        self.state = event.response_body().and_then(parse).filter(|body: &Value| body["kind"] != "Status");
        if self.state.is_none() {
            self.patch = event.verb == "patch";
            self.state = event.request_body().and_then(parse);
        }
    }
}

fn rank(stage: Stage) -> u8 {
    match stage {
        Stage::Other => 0,
        Stage::RequestReceived => 1,
        Stage::ResponseStarted => 2,
        Stage::ResponseComplete | Stage::Panic => 3,
    }
}

fn stage_name<S: serde::Serializer>(stage: &Stage, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{stage:?}"))
}

/// What the server changes with every write, whoever asked.
const NOISE: &[&str] = &["metadata.resourceVersion", "metadata.generation", "metadata.managedFields"];

/// What is different, a line for each leaf, by path.
fn difference(old: &Value, new: &Value) -> Vec<String> {
    let flat = |value: &Value| {
        let mut flat = BTreeMap::new();
        leaves(value, "", &mut |path, value| drop(flat.insert(path.to_owned(), value.to_string())));
        flat
    };
    let (old, new) = (flat(old), flat(new));
    let mut changes = Vec::new();
    for path in old.keys().chain(new.keys().filter(|path| !old.contains_key(*path))) {
        let (before, after) = (old.get(path), new.get(path));
        let is_noise = NOISE.iter().any(|noise| path.starts_with(noise));
        if before != after && !is_noise {
            let shown = |value: Option<&String>| value.map_or("(none)".to_owned(), Clone::clone);
            changes.push(format!("{path}: {} -> {}", shown(before), shown(after)));
        }
    }
    changes
}

fn leaves(value: &Value, path: &str, each: &mut dyn FnMut(&str, &Value)) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(key, value)| leaves(value, &below(key), each));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(at, value)| leaves(value, &format!("{path}[{at}]"), each));
        }
        leaf => each(path, leaf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trail::read::{At, Place};

    fn entry(id: &str, second: u32, stage: &str, more: &str) -> Entry {
        let json = format!(
            r#"{{"auditID":"{id}","stage":"{stage}","verb":"update","responseStatus":{{"code":200}},
                "requestReceivedTimestamp":"2026-01-02T03:04:{second:02}.000000Z"{more}}}"#
        );
        let event = Event::from_json(json.as_bytes()).unwrap();
        Entry { event, place: Place { file: "x".into(), at: At::Line(u64::from(second)) } }
    }

    fn ids(requests: Requests<Request>) -> Vec<String> {
        requests.into_sorted().into_iter().map(|r| format!("{} {:?}", r.audit_id, r.stage)).collect()
    }

    fn see(requests: &mut Requests<Request>, entry: &Entry) {
        requests.see(&entry.event, || Request::with_body(entry));
    }

    #[test]
    fn stages_of_one_request_are_one_in_any_order() {
        for stages in [["RequestReceived", "ResponseComplete"], ["ResponseComplete", "RequestReceived"]] {
            let mut requests = Requests::new(0);
            stages.iter().for_each(|stage| see(&mut requests, &entry("a", 1, stage, "")));
            assert_eq!(ids(requests), ["a ResponseComplete"]);
        }
    }

    #[test]
    fn the_latest_are_kept_whatever_the_order() {
        let mut requests = Requests::new(2);
        for second in [3, 1, 4, 2] {
            see(&mut requests, &entry(&second.to_string(), second, "ResponseComplete", ""));
        }
        assert_eq!(requests.let_go(), 2);
        assert_eq!(ids(requests), ["3 ResponseComplete", "4 ResponseComplete"]);
    }

    #[test]
    fn what_changed_is_told_where_bodies_tell() {
        let mut requests = Requests::new(0);
        let body = |replicas: u32, version: u32| {
            format!(
                r#","responseObject":{{"metadata":{{"resourceVersion":"{version}"}},"spec":{{"replicas":{replicas},"a":[1]}}}}"#
            )
        };
        see(&mut requests, &entry("a", 1, "ResponseComplete", &body(1, 7)));
        see(&mut requests, &entry("b", 2, "ResponseComplete", &body(3, 8)));
        let mut requests = requests.into_sorted();
        tell_changes(&mut requests);
        let changes: Vec<Vec<String>> = requests.into_iter().map(|r| r.changes).collect();
        assert_eq!(changes, [vec![], vec!["spec.replicas: 1 -> 3".to_owned()]]);
    }
}
