//! What an event says at a glance: the fields that decide whether it is an answer, borrowed from its record.
//!
//! Most records that are parsed are parsed to be let go, so nothing is copied and bodies are stepped over. Whoever
//! wants the rest reads the record again as an [`Event`](super::event::Event).

mod compact;

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::event::{Outcome, Stage};

/// A text of the record, copied only where it is escaped there.
pub type Text<'a> = Cow<'a, str>;

/// A value as the record has it; few questions look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl Raw<'_> {
    /// The text that it is; empty where it is none.
    pub fn text(&self) -> String {
        serde_json::from_str(self.0).unwrap_or_default()
    }

    /// The texts that it is a list of; none where it is no such list.
    pub fn texts(&self) -> Vec<String> {
        serde_json::from_str(self.0).unwrap_or_default()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(raw.get()))
    }
}

/// The head of one audit event.
#[derive(Debug, PartialEq, Eq, Deserialize)]
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
    pub request_uri: Option<Raw<'a>>,
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
    pub source_ips: Option<Raw<'a>>,
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
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Name<'a> {
    /// The name.
    #[serde(borrow, default)]
    pub username: Text<'a>,
}

/// The object of a request.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
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
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
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
        let glance: Self = compact::read(record).or_else(|| serde_json::from_slice(record).ok())?;
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
        moment(self.stage_timestamp.as_ref().or(self.request_received_timestamp.as_ref())?)
    }

    /// When the request was received, else when it reached the stage.
    pub fn time(&self) -> Option<Timestamp> {
        moment(self.request_received_timestamp.as_ref().or(self.stage_timestamp.as_ref())?)
    }

    /// What the request came to.
    pub fn outcome(&self) -> Outcome {
        let message = self.response_status.as_ref().and_then(|status| status.message.as_deref());
        Outcome::of(self.stage, self.code(), message.unwrap_or(""))
    }
}

/// A time as the API server writes it, `2026-01-02T03:04:05.000000Z`, or in any other way of RFC 3339.
fn moment(text: &str) -> Option<Timestamp> {
    as_written(text.as_bytes()).or_else(|| text.parse().ok())
}

fn as_written(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 27] = text.try_into().ok()?;
    let mut numbers = [0_i64; 7];
    let mut field = 0;
    for (byte, model) in text.iter().zip(b"0000-00-00T00:00:00.000000Z") {
        match model {
            b'0' if byte.is_ascii_digit() => numbers[field] = numbers[field] * 10 + i64::from(byte - b'0'),
            b'0' => return None,
            _ if byte != model => return None,
            _ => field += 1,
        }
    }
    let [year, month, day, hour, minute, second, micros] = numbers;
    // A leap second is the other parser's.
    if !(1970..=9998).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    jiff::civil::Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()?;
    // Days since 1970 in the Gregorian calendar, in years that begin with March; quicker than a calendar's own way.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Timestamp::from_microsecond(seconds * 1_000_000 + micros).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both readers say the same of a record, if both say anything: the general one also refuses what is wrong where the
    /// compact one does not look. Whether the compact one said something.
    #[track_caller]
    fn check_both(record: &[u8]) -> bool {
        let general: Option<Glance<'_>> = serde_json::from_slice(record).ok();
        let compact = compact::read(record);
        if let (Some(compact), Some(general)) = (&compact, &general) {
            assert_eq!(compact, general, "{}", String::from_utf8_lossy(record));
        }
        compact.is_some()
    }

    const WRITTEN: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/pods?a=b\u0026dryRun=All","verb":"create","user":{"username":"jane \u0026 co","uid":"1","groups":["g","h"],"extra":{"k":["v"]}},"impersonatedUser":{"username":"foobar"},"sourceIPs":["10.0.0.7","::1"],"userAgent":"kubectl/v1 \"x\"","objectRef":{"resource":"pods","namespace":"n","name":"p","uid":"u","apiVersion":"v1","apiGroup":"g","subresource":"s"},"responseStatus":{"metadata":{},"status":"Failure","message":"no\nway","details":{"causes":[1,-2.5e3,true,null]},"code":403},"requestObject":{"requestReceivedTimestamp":"forged","stageTimestamp":"forged","user":{"username":"forged"}},"responseObject":{"s":"}\"{","requestReceivedTimestamp":"forged"},"requestReceivedTimestamp":"2026-01-02T03:04:05.000001Z","stageTimestamp":"2026-01-02T03:04:06.000000Z","annotations":{"a/b":"\"requestReceivedTimestamp\":\"forged\""}}"#;

    #[test]
    fn what_the_server_writes_is_read_without_the_general_parser() {
        let written = WRITTEN.replace("\\\\", "\\");
        assert!(check_both(written.as_bytes()));
        let glance = Glance::of(written.as_bytes()).unwrap();
        assert_eq!((glance.username(), glance.code()), ("jane & co", 403));
        assert_eq!(glance.time().unwrap().to_string(), "2026-01-02T03:04:05.000001Z");
        assert_eq!(glance.request_uri.unwrap().text(), "/api/v1/pods?a=b&dryRun=All");
    }

    #[test]
    fn what_a_crash_has_joined_is_left_to_the_general_parser() {
        let written = WRITTEN.replace("\\\\", "\\");
        for cut in [100, 500, 800, written.len() - 100] {
            let joined = format!("{}{written}", &written[..cut]);
            assert!(!check_both(joined.as_bytes()), "{joined}");
            assert!(Glance::of(joined.as_bytes()).is_none());
        }
    }

    #[test]
    fn times_are_read_as_written_and_in_any_other_way() {
        for text in [
            "1970-01-01T00:00:00.000000Z",
            "2099-12-31T23:59:59.999999Z",
            "2100-03-01T00:00:00.000001Z",
            "2026-01-02T03:04:05.678901Z",
            "2000-02-29T23:59:59.000000Z",
            "2026-01-02T03:04:05+01:00",
        ] {
            assert_eq!(moment(text), text.parse().ok(), "{text}");
            assert!(moment(text).is_some());
        }
        for text in
            ["2026-02-30T03:04:05.678901Z", "2026-01-02T24:04:05.678901Z", "2026-01-02t03:04:05.67890aZ", ""]
        {
            assert_eq!(moment(text), text.parse().ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn both_readers_agree_on_whatever_is_changed(at in 0usize..1200, byte in any::<u8>(), cut in 0usize..40) {
            let mut record = WRITTEN.replace("\\\\", "\\").into_bytes();
            let at = at % record.len();
            record[at] = byte;
            check_both(&record);
            let end = (at + cut).min(record.len());
            record.drain(at..end);
            check_both(&record);
        }
    }

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
