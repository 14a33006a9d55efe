//! What an event says at a glance: the fields that decide whether it is an answer, borrowed from its record.
//!
//! Most records that are parsed are parsed to be let go, so nothing is copied and bodies are stepped over. Whoever
//! wants the rest reads the record again as an [`Event`](super::event::Event).

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::event::{Outcome, Stage};

/// A text of the record, copied only where it is escaped there.
pub type Text<'a> = Cow<'a, str>;

/// The head of one audit event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Glance<'a> {
    #[serde(borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    api_version: Option<Text<'a>>,
    /// See [`Event::audit_id`](super::event::Event::audit_id).
    #[serde(borrow, rename = "auditID")]
    pub audit_id: Text<'a>,
    /// The stage.
    pub stage: Stage,
    /// Path and query.
    #[serde(borrow, rename = "requestURI", default)]
    pub request_uri: Option<Text<'a>>,
    /// The verb.
    #[serde(borrow)]
    pub verb: Text<'a>,
    /// Who authenticated.
    #[serde(borrow, default)]
    pub user: Option<Name<'a>>,
    /// Whom that user acted as.
    #[serde(borrow, default)]
    pub impersonated_user: Option<Name<'a>>,
    /// Addresses; the last one is not the client's word.
    #[serde(borrow, rename = "sourceIPs", default)]
    pub source_ips: Option<Vec<Text<'a>>>,
    /// The client.
    #[serde(borrow, default)]
    pub user_agent: Option<Text<'a>>,
    /// The object.
    #[serde(borrow, default)]
    pub object_ref: Option<Target<'a>>,
    /// The outcome.
    #[serde(borrow, default)]
    pub response_status: Option<Status<'a>>,
    #[serde(borrow, default)]
    request_received_timestamp: Option<Text<'a>>,
    #[serde(borrow, default)]
    stage_timestamp: Option<Text<'a>>,
}

/// A user's name.
#[derive(Debug, Default, Deserialize)]
pub struct Name<'a> {
    /// The name.
    #[serde(borrow, default)]
    pub username: Text<'a>,
}

/// The object of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target<'a> {
    /// Lower-case plural.
    #[serde(borrow, default)]
    pub resource: Text<'a>,
    /// Its namespace.
    #[serde(borrow, default)]
    pub namespace: Text<'a>,
    /// Its name.
    #[serde(borrow, default)]
    pub name: Text<'a>,
    /// Its UID, as the request had it.
    #[serde(borrow, default)]
    pub uid: Text<'a>,
    /// Its group.
    #[serde(borrow, default)]
    pub api_group: Text<'a>,
    /// Such as `binding`.
    #[serde(borrow, default)]
    pub subresource: Text<'a>,
}

/// The outcome.
#[derive(Debug, Default, Deserialize)]
pub struct Status<'a> {
    /// HTTP status.
    #[serde(default)]
    pub code: i32,
    /// The server's words.
    #[serde(borrow, default)]
    pub message: Option<Text<'a>>,
}

impl<'a> Glance<'a> {
    /// Reads the head of a record; `None` where it is no audit event.
    pub fn of(record: &'a [u8]) -> Option<Self> {
        let glance: Self = serde_json::from_slice(record).ok()?;
        let is_event = glance.kind.as_deref().unwrap_or("Event") == "Event"
            && glance.api_version.as_deref().is_none_or(|version| version.starts_with("audit.k8s.io/"));
        is_event.then_some(glance)
    }

    /// Who authenticated; empty where nobody did.
    pub fn username(&self) -> &str {
        self.user.as_ref().map_or("", |user| &user.username)
    }

    /// HTTP status, 0 where there is none.
    pub fn code(&self) -> i32 {
        self.response_status.as_ref().map_or(0, |status| status.code)
    }

    /// When the request reached the stage, else when it was received.
    pub fn stage_time(&self) -> Option<Timestamp> {
        self.stage_timestamp.as_ref().or(self.request_received_timestamp.as_ref())?.parse().ok()
    }

    /// When the request was received, else when it reached the stage.
    pub fn time(&self) -> Option<Timestamp> {
        self.request_received_timestamp.as_ref().or(self.stage_timestamp.as_ref())?.parse().ok()
    }

    /// What the request came to.
    pub fn outcome(&self) -> Outcome {
        let message = self.response_status.as_ref().and_then(|status| status.message.as_deref());
        Outcome::of(self.stage, self.code(), message.unwrap_or(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_read_and_the_bodies_are_not() {
        let record = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","stage":"ResponseComplete",
            "verb":"create","user":{"username":"jane \u0026 co","groups":["g"]},"sourceIPs":null,
            "objectRef":{"resource":"pods","name":"p"},"responseStatus":{"metadata":{},"code":201},
            "requestObject":{"user":{"username":"forged"}},
            "requestReceivedTimestamp":"2026-01-02T03:04:05.000001Z","stageTimestamp":"2026-01-02T03:04:06.000000Z"}"#;
        let glance = Glance::of(record).unwrap();
        assert_eq!((glance.username(), glance.code()), ("jane & co", 201));
        assert_eq!(glance.outcome(), Outcome::Done);
        assert_eq!(glance.time().unwrap().to_string(), "2026-01-02T03:04:05.000001Z");
        assert_eq!(glance.stage_time().unwrap().to_string(), "2026-01-02T03:04:06Z");
    }

    #[test]
    fn what_is_no_event_has_no_head() {
        for record in [&b"{}"[..], br#"{"kind":"Pod","auditID":"a","stage":"Panic","verb":"get"}"#, b"{"] {
            assert!(Glance::of(record).is_none());
        }
    }
}
