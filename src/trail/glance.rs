//! What an event says at a glance: the fields that decide whether it is an answer, borrowed from its record.
//!
//! Most records that are parsed are parsed to be let go, so nothing is copied and bodies are stepped over. Whoever
//! wants the rest reads the record again as an [`Event`](super::event::Event).

mod compact;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use jiff::Timestamp;
use memchr::memmem::Finder;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::event::{Outcome, Stage};

/// How a record begins where the API server wrote it.
pub(super) const BEGINNING: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/"#;
/// Where in what follows a record's beginning another one begins: a crash in the middle of a line has joined the two.
pub(super) static ANOTHER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(BEGINNING));

/// A text of the record, copied only where it is escaped there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value as the record has it; few questions look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a [u8]);

impl Raw<'_> {
    /// The text that it is; empty where it is none.
    pub fn text(&self) -> String {
        serde_json::from_slice(self.0).unwrap_or_default()
    }

    /// The texts that it is a list of; none where it is no such list.
    pub fn texts(&self) -> Vec<String> {
        serde_json::from_slice(self.0).unwrap_or_default()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(raw.get().as_bytes()))
    }
}

/// The head of one audit event.
#[derive(Debug)]
pub struct Glance<'a> {
    /// See [`Event::audit_id`](super::event::Event::audit_id).
    pub audit_id: Text<'a>,
    /// The stage.
    pub stage: Stage,
    /// Path and query.
    pub request_uri: Option<Raw<'a>>,
    /// The verb.
    pub verb: Text<'a>,
    /// Who authenticated; empty where nobody did.
    pub user: Text<'a>,
    /// See [`Self::client`].
    aside: Aside<'a>,
    /// The object.
    pub object_ref: Option<Target<'a>>,
    /// The outcome.
    pub response_status: Option<Status<'a>>,
    request_received_timestamp: Option<Text<'a>>,
    stage_timestamp: Option<Text<'a>>,
}

/// How the client described itself, and how that was read.
#[derive(Debug)]
enum Aside<'a> {
    /// Stepped over; it lies in this place of the record, behind the user's name or behind the user.
    Unread {
        record: &'a str,
        place: Range<usize>,
        within_user: bool,
    },
    Read(Client<'a>),
}

/// Who asks, besides the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client<'a> {
    /// Whom the user acted as.
    pub impersonated_user: Option<Text<'a>>,
    /// Addresses; the last one is not the client's word.
    pub source_ips: Option<Raw<'a>>,
    /// What the client calls itself.
    pub user_agent: Option<Text<'a>>,
}

/// A record as any parser of JSON reads it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    #[serde(borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    api_version: Option<Text<'a>>,
    #[serde(borrow, rename = "auditID")]
    audit_id: Text<'a>,
    stage: Stage,
    #[serde(borrow, rename = "requestURI", default)]
    request_uri: Option<Raw<'a>>,
    #[serde(borrow)]
    verb: Text<'a>,
    #[serde(borrow, default)]
    user: Option<Name<'a>>,
    #[serde(borrow, default)]
    impersonated_user: Option<Name<'a>>,
    #[serde(borrow, rename = "sourceIPs", default)]
    source_ips: Option<Raw<'a>>,
    #[serde(borrow, default)]
    user_agent: Option<Text<'a>>,
    #[serde(borrow, default)]
    object_ref: Option<Target<'a>>,
    #[serde(borrow, default)]
    response_status: Option<Status<'a>>,
    #[serde(borrow, default)]
    request_received_timestamp: Option<Text<'a>>,
    #[serde(borrow, default)]
    stage_timestamp: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Name<'a> {
    #[serde(borrow, default)]
    username: Text<'a>,
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
    #[inline]
    pub fn of(record: &'a [u8]) -> Option<Self> {
        compact::read(record).or_else(|| Self::of_any(record))
    }

    fn of_any(record: &'a [u8]) -> Option<Self> {
        let read: Record<'a> = serde_json::from_slice(record).ok()?;
        let is_event = read.kind.is_none_or(|kind| kind.as_str() == "Event")
            && read.api_version.is_none_or(|version| version.as_str().starts_with("audit.k8s.io/"));
        is_event.then_some(Self {
            audit_id: read.audit_id,
            stage: read.stage,
            request_uri: read.request_uri,
            verb: read.verb,
            user: read.user.map(|user| user.username).unwrap_or_default(),
            aside: Aside::Read(Client {
                impersonated_user: read.impersonated_user.map(|user| user.username),
                source_ips: read.source_ips,
                user_agent: read.user_agent,
            }),
            object_ref: read.object_ref,
            response_status: read.response_status,
            request_received_timestamp: read.request_received_timestamp,
            stage_timestamp: read.stage_timestamp,
        })
    }

    /// Who asks, besides the user; `None` where the record cannot be read after all.
    pub fn client(&self) -> Option<Client<'a>> {
        match &self.aside {
            Aside::Read(client) => Some(client.clone()),
            Aside::Unread { record, place, within_user } => {
                compact::client(&record[place.clone()], *within_user)
                    .or_else(|| Self::of_any(record.as_bytes()).and_then(|glance| glance.client()))
            }
        }
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
        let message = self.response_status.as_ref().and_then(|status| status.message.as_ref());
        Outcome::of(self.stage, self.code(), message.map_or("", Text::as_str))
    }
}

/// A time as the API server writes it, `2026-01-02T03:04:05.000000Z`, or in any other way of RFC 3339.
fn moment(text: &Text<'_>) -> Option<Timestamp> {
    as_written(text.as_str().as_bytes()).or_else(|| text.as_str().parse().ok())
}

fn as_written(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 27] = text.try_into().ok()?;
    let is_shaped = [text[4], text[7], text[10], text[13], text[16], text[19], text[26]] == *b"--T::.Z";
    let mut wrong = !is_shaped;
    let mut two = |at: usize| {
        let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
        wrong |= tens > 9 || ones > 9;
        i64::from(tens) * 10 + i64::from(ones)
    };
    let year = two(0) * 100 + two(2);
    let (month, day, hour, minute, second) = (two(5), two(8), two(11), two(14), two(17));
    let micros = (two(20) * 100 + two(22)) * 100 + two(24);
    // A leap second is the other parser's, and so is what is no date.
    if wrong || !(1970..=9998).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_of_month).contains(&day) {
        return None;
    }
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
        let compact = compact::read(record);
        if let (Some(compact), Some(general)) = (&compact, &Glance::of_any(record)) {
            let told = |glance: &Glance<'_>| {
                let times = (glance.time(), glance.stage_time());
                format!(
                    "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {times:?}",
                    glance.audit_id,
                    glance.stage,
                    glance.request_uri,
                    glance.verb,
                    glance.user,
                    glance.client(),
                    glance.object_ref,
                    glance.response_status,
                )
            };
            assert_eq!(told(compact), told(general), "{}", String::from_utf8_lossy(record));
        }
        compact.is_some()
    }

    const WRITTEN: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/pods?a=b\u0026dryRun=All","verb":"create","user":{"username":"jane \u0026 co","uid":"1","groups":["g","h"],"extra":{"k":["v"]}},"impersonatedUser":{"username":"foobar"},"authenticationMetadata":{"impersonationConstraint":"x"},"sourceIPs":["10.0.0.7","::1"],"userAgent":"kubectl/v1 \"x\"","objectRef":{"resource":"pods","namespace":"n","name":"p","uid":"u","apiGroup":"g","apiVersion":"v1","resourceVersion":"7","subresource":"s"},"responseStatus":{"metadata":{},"status":"Failure","message":"no\nway","details":{"causes":[1,-2.5e3,true,null]},"code":403},"requestObject":{"requestReceivedTimestamp":"forged","stageTimestamp":"forged","user":{"username":"forged"}},"responseObject":{"s":"}\"{","requestReceivedTimestamp":"forged"},"requestReceivedTimestamp":"2026-01-02T03:04:05.000001Z","stageTimestamp":"2026-01-02T03:04:06.000000Z","annotations":{"a/b":"\"requestReceivedTimestamp\":\"forged\""}}"#;

    #[test]
    fn what_the_server_writes_is_read_without_the_general_parser() {
        let written = WRITTEN.replace("\\\\", "\\");
        assert!(check_both(written.as_bytes()));
        let glance = Glance::of(written.as_bytes()).unwrap();
        assert_eq!((glance.user.as_str(), glance.code()), ("jane & co", 403));
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
            assert_eq!(moment(&told(text)), text.parse().ok(), "{text}");
            assert!(moment(&told(text)).is_some());
        }
        for text in
            ["2026-02-30T03:04:05.678901Z", "2026-01-02T24:04:05.678901Z", "2026-01-02t03:04:05.67890aZ", ""]
        {
            assert_eq!(moment(&told(text)), text.parse().ok(), "{text}");
        }
    }

    fn told(text: &str) -> Text<'_> {
        Text(Cow::Borrowed(text))
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
        assert_eq!((glance.user.as_str(), glance.code()), ("jane & co", 201));
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
