//! The audit Event: what one record of an API server's audit log says.
//!
//! The fields are those of `audit.k8s.io/v1` (apiserver `pkg/apis/audit/v1/types.go`) that a question needs.
//! Unknown fields are ignored and most known ones may be absent, since logs also reach us through shippers and
//! from older servers; what cannot be absent is an audit ID, a stage and a verb. The bodies stay raw JSON: a
//! patch is whatever its sender wrote, so nothing may be expected of one before somebody asks for it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// One audit event: one stage of one request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    kind: Option<String>,
    api_version: Option<String>,
    /// How much of the request the policy had recorded.
    #[serde(default)]
    pub level: Level,
    /// The request's ID. The client may choose it (`Audit-ID` header), so it is not always unique.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// The stage of the request this event is about.
    pub stage: Stage,
    /// Path and query as sent, still percent-encoded.
    #[serde(rename = "requestURI", default, deserialize_with = "null_is_default")]
    pub request_uri: String,
    /// `create`, `get`, `patch`... for resources; the HTTP method in lower case for other URLs.
    pub verb: String,
    /// The authenticated user; empty where authentication failed.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user: User,
    /// Who `user` acted as. Absent at `RequestReceived` and where the impersonation was refused.
    pub impersonated_user: Option<User>,
    /// Forwarded addresses first; only the last one is not the client's word.
    #[serde(rename = "sourceIPs", default, deserialize_with = "null_is_default")]
    pub source_ips: Vec<String>,
    /// The client's own description of itself.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user_agent: String,
    /// Present for every resource request, absent for other URLs.
    pub object_ref: Option<ObjectRef>,
    /// Absent at `RequestReceived`.
    pub response_status: Option<ResponseStatus>,
    /// Level `Request` and above, for verbs that send a body.
    request_object: Option<Box<RawValue>>,
    /// Level `RequestResponse`.
    response_object: Option<Box<RawValue>>,
    /// When the API server received the request.
    pub request_received_timestamp: Option<Timestamp>,
    /// When the request reached `stage`.
    pub stage_timestamp: Option<Timestamp>,
    /// Such as `authorization.k8s.io/reason`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

/// How much an event records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Level {
    /// No event at all; never seen in a log.
    None,
    /// Everything but the bodies.
    Metadata,
    /// And the request's body.
    Request,
    /// And the response's body.
    RequestResponse,
    /// Absent, or a word upstream does not know (log shippers use the field for their own levels).
    #[default]
    #[serde(other)]
    Other,
}

/// A stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// Before anything was done about it: no outcome.
    RequestReceived,
    /// Headers sent, body still to come; only long-running requests and failed authentication.
    ResponseStarted,
    /// Over, with its outcome.
    ResponseComplete,
    /// The handler panicked: how far it got is not known.
    Panic,
    /// A word upstream does not know.
    #[serde(other)]
    Other,
}

/// A user as the API server knew it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct User {
    /// The name, such as `system:serviceaccount:kube-system:replicaset-controller`.
    #[serde(default)]
    pub username: String,
    /// The authenticator's ID for it.
    #[serde(default)]
    pub uid: String,
    /// Its groups.
    #[serde(default, deserialize_with = "null_is_default")]
    pub groups: Vec<String>,
    /// What else the authenticator said, such as `authentication.kubernetes.io/pod-name`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The object a resource request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Lower-case plural, such as `pods`.
    #[serde(default)]
    pub resource: String,
    /// For a create this is the body's own word where the path has none, also for a cluster-scoped object.
    #[serde(default)]
    pub namespace: String,
    /// Empty for a list, and for a create whose name the server is to give.
    #[serde(default)]
    pub name: String,
    /// From the body where the request has one; the server has checked it only on `update` and `pods/binding`.
    #[serde(default)]
    pub uid: String,
    /// Empty for the core group.
    #[serde(default)]
    pub api_group: String,
    /// The version, without the group.
    #[serde(default)]
    pub api_version: String,
    /// Such as `binding` or `status`; empty for the object itself.
    #[serde(default)]
    pub subresource: String,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ResponseStatus {
    /// HTTP status.
    #[serde(default)]
    pub code: i32,
    /// `Success` or `Failure`, when the response was a Status.
    #[serde(default)]
    pub status: String,
    /// The server's words, when the response was a Status.
    #[serde(default)]
    pub message: String,
    /// Such as `AlreadyExists`, when the response was a Status.
    #[serde(default)]
    pub reason: String,
}

/// What a body says of the object it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// The name.
    #[serde(default)]
    pub name: String,
    /// What the server was asked to begin the name with.
    #[serde(default)]
    pub generate_name: String,
    /// The UID; only the server's word in a response.
    #[serde(default)]
    pub uid: String,
    /// What the object belongs to.
    #[serde(default, deserialize_with = "null_is_default")]
    pub owner_references: Vec<OwnerReference>,
}

/// An owner as a body names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Such as `ReplicaSet`.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its group and version, such as `apps/v1`.
    #[serde(default)]
    pub api_version: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// Whether this is the owner that manages the object; at most one is.
    #[serde(default, deserialize_with = "null_is_default")]
    pub controller: bool,
}

/// What a create or an apply came to, as far as the event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx answer.
    Done,
    /// A 4xx answer: nothing was changed.
    Refused,
    /// A panic, a 5xx (a timeout may come after the write), or a connection that ended before any answer.
    Unclear,
    /// A stage before the outcome.
    Pending,
}

impl Outcome {
    /// What a request came to, given the stage it reached and the server's answer.
    pub fn of(stage: Stage, code: i32, message: &str) -> Self {
        match stage {
            Stage::Panic => return Self::Unclear,
            Stage::ResponseComplete => {}
            Stage::RequestReceived | Stage::ResponseStarted | Stage::Other => return Self::Pending,
        }
        match code {
            // What the server writes when the handler never answered (filters/audit.go).
            200 if message == "Connection closed early" => Self::Unclear,
            200..300 => Self::Done,
            400..500 => Self::Refused,
            _ => Self::Unclear,
        }
    }
}

impl Event {
    /// Reads one JSON object as an event.
    ///
    /// # Errors
    /// Not JSON, or not an audit event.
    pub fn from_json(record: &[u8]) -> Result<Self, serde_json::Error> {
        let event: Self = match serde_json::from_slice(record) {
            // The server copies a patch into the event byte by byte, so a sender can put invalid UTF-8 there.
            // That must not hide the event.
            Err(_) if std::str::from_utf8(record).is_err() => {
                serde_json::from_str(&String::from_utf8_lossy(record))
            }
            read => read,
        }?;
        let group = event.api_version.as_deref().unwrap_or("audit.k8s.io/v1");
        match event.kind.as_deref().unwrap_or("Event") {
            "Event" if group.starts_with("audit.k8s.io/") => Ok(event),
            kind => Err(serde_json::Error::custom(format!("a {kind} of {group}, not an audit event"))),
        }
    }

    /// When the request came in; the stage's time where an old server or a shipper left that out.
    pub fn time(&self) -> Option<Timestamp> {
        self.request_received_timestamp.or(self.stage_timestamp)
    }

    /// HTTP status, 0 where there is none.
    pub fn code(&self) -> i32 {
        self.response_status.as_ref().map_or(0, |status| status.code)
    }

    /// What the request came to.
    pub fn outcome(&self) -> Outcome {
        let message = self.response_status.as_ref().map_or("", |status| status.message.as_str());
        Outcome::of(self.stage, self.code(), message)
    }

    /// Whether the request asked for no effect.
    pub fn is_dry_run(&self) -> bool {
        asks_for_dry_run(&self.request_uri)
    }

    /// Whether the path lies in a namespace; `None` where the event has no path.
    pub fn path_is_namespaced(&self) -> Option<bool> {
        let path = self.request_uri.split('?').next().filter(|path| !path.is_empty())?;
        Some(memchr::memmem::find(&decoded(path), b"/namespaces/").is_some())
    }

    /// The request's body as JSON, when it was recorded.
    pub fn request_body(&self) -> Option<&str> {
        self.request_object.as_deref().map(RawValue::get)
    }

    /// The response's body as JSON, when it was recorded.
    pub fn response_body(&self) -> Option<&str> {
        self.response_object.as_deref().map(RawValue::get)
    }

    /// The metadata in the request's body, when it was recorded and has any.
    pub fn request_meta(&self) -> Option<ObjectMeta> {
        meta(self.request_object.as_deref())
    }

    /// The metadata in the response's body, when it was recorded and has any.
    pub fn response_meta(&self) -> Option<ObjectMeta> {
        meta(self.response_object.as_deref())
    }
}

fn meta(body: Option<&RawValue>) -> Option<ObjectMeta> {
    #[derive(Deserialize)]
    struct Body {
        metadata: ObjectMeta,
    }
    // serde would read an array, such as a JSON patch, as the fields in their order.
    let body = body?.get();
    if !body.starts_with('{') {
        return None;
    }
    serde_json::from_str::<Body>(body).ok().map(|body| body.metadata)
}

/// Whether a request of this path and query has no effect. The server takes no other value than `All`, so the key
/// decides.
pub(super) fn asks_for_dry_run(uri: &str) -> bool {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| decoded(pair.split('=').next().unwrap_or(pair)) == b"dryRun")
}

/// Undoes percent-encoding as the server does, so that `dry%52un` is not taken for another word.
fn decoded(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = if byte == b'%' { tail.first_chunk::<2>() } else { None };
        let value = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(value.unwrap_or(byte));
        rest = if value.is_some() { &tail[2..] } else { tail };
    }
    out
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(fields: &str) -> Event {
        let json = format!(r#"{{"auditID":"a","stage":"ResponseComplete","verb":"create"{fields}}}"#);
        Event::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn unknown_fields_nulls_and_foreign_levels_are_tolerated() {
        let event = event(
            r#","level":"default","hostname":"n1","user":null,"sourceIPs":null,"annotations":null,
               "requestObject":null,"impersonatedUser":null,"objectRef":{"resource":"pods","new":1}"#,
        );
        assert_eq!(event.level, Level::Other);
        assert_eq!(event.user, User::default());
        assert_eq!(event.object_ref.unwrap().resource, "pods");
    }

    #[test]
    fn what_is_not_an_audit_event_is_refused() {
        for record in [
            r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[]}"#,
            r#"{"kind":"Event","apiVersion":"v1","auditID":"a","stage":"Panic","verb":"get"}"#,
            r#"{"kind":"Pod","auditID":"a","stage":"Panic","verb":"get"}"#,
            r#"{"auditID":"a","verb":"get"}"#,
            r#"{"auditID":"a","stage":"Panic","verb":"get""#,
        ] {
            assert!(Event::from_json(record.as_bytes()).is_err(), "{record}");
        }
    }

    #[test]
    fn invalid_utf8_in_a_patch_does_not_hide_the_event() {
        let json = b"{\"auditID\":\"a\",\"stage\":\"ResponseComplete\",\"verb\":\"patch\",\"requestObject\":\"\xff\"}";
        assert_eq!(Event::from_json(json).unwrap().verb, "patch");
    }

    #[test]
    fn a_dry_run_is_seen_however_it_is_spelt() {
        let dry = |uri: &str| event(&format!(r#","requestURI":"{uri}""#)).is_dry_run();
        assert!(dry("/api/v1/namespaces/default/pods?dryRun=All"));
        assert!(dry("/api/v1/namespaces/default/pods?fieldManager=x&dry%52un=%41ll"));
        assert!(dry(r"/api/v1/namespaces/default/pods?fieldManager=x\u0026dryRun=All"));
        assert!(!dry("/api/v1/namespaces/default/pods?fieldManager=dryRun"));
        assert!(!dry("/api/v1/namespaces/default/pods/dryRun=All"));
    }

    #[test]
    fn only_an_answer_is_an_outcome() {
        let outcome = |stage: &str, status: &str| {
            let json = format!(
                r#"{{"auditID":"a","stage":"{stage}","verb":"create","responseStatus":{{{status}}}}}"#
            );
            Event::from_json(json.as_bytes()).unwrap().outcome()
        };
        assert_eq!(outcome("ResponseComplete", r#""code":201"#), Outcome::Done);
        assert_eq!(outcome("ResponseComplete", r#""code":409"#), Outcome::Refused);
        assert_eq!(outcome("ResponseComplete", r#""code":504"#), Outcome::Unclear);
        assert_eq!(
            outcome("ResponseComplete", r#""code":200,"message":"Connection closed early""#),
            Outcome::Unclear
        );
        assert_eq!(outcome("Panic", r#""code":500"#), Outcome::Unclear);
        assert_eq!(outcome("RequestReceived", ""), Outcome::Pending);
        assert_eq!(outcome("ResponseStarted", r#""code":201"#), Outcome::Pending);
    }

    #[test]
    fn an_encoded_path_still_lies_in_its_namespace() {
        let namespaced = |uri: &str| event(&format!(r#","requestURI":"{uri}""#)).path_is_namespaced();
        assert_eq!(namespaced("/api/v1/%6eamespaces/default/pods"), Some(true));
        assert_eq!(namespaced("/apis/g/v1/widgets?x=/namespaces/a"), Some(false));
        assert_eq!(namespaced(""), None);
    }

    #[test]
    fn bodies_of_any_shape_are_kept_out_of_the_way() {
        assert_eq!(event(r#","requestObject":[{"op":"add"}]"#).request_meta(), None);
        assert_eq!(event(r#","requestObject":{"metadata":5}"#).request_meta(), None);
        let event = event(
            r#","responseObject":{"metadata":{"ownerReferences":[{"kind":"ReplicaSet","name":"web"}]}}"#,
        );
        assert_eq!(event.response_meta().unwrap().owner_references[0].name, "web");
    }
}
