//! Typed filters over events: the one engine behind every question.
//!
//! A [`Query`] travels: the command line builds it, each control-plane node runs it over its own log, and only what
//! matches leaves the node. A filter is a conjunction of fields, a query a disjunction of filters. Both give a
//! [`Sieve`], so that what cannot match is not even parsed.

use std::ops::RangeInclusive;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::Stage;
use super::glance::{Glance, Target, Text};
use super::read::{Entry, Sink};
use super::resource::Resource;
use super::sieve::{self, Clauses, Sieve};

/// Which events are wanted: those that match one of the filters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Query {
    /// The alternatives.
    pub any: Vec<Filter>,
    /// Nothing whose stage was reached before this time.
    pub since: Option<Timestamp>,
    /// Nothing from this time on.
    pub until: Option<Timestamp>,
}

/// What an event must be; an empty field demands nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Patterns of the user, or of the user it acted as.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<Pattern>,
    /// Verbs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Pattern>,
    /// Resources, with any subresource.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// Subresources; the empty pattern is the object itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subresources: Vec<Pattern>,
    /// Namespaces; what lies in none matches the empty pattern.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Pattern>,
    /// Names of objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Pattern>,
    /// HTTP status codes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<Codes>,
    /// Source addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Pattern>,
    /// Parts of the user agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Stages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageName>,
    /// Audit IDs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audit_ids: Vec<Pattern>,
    /// Words of which one is somewhere in the record, wherever; only for what JSON spells in one way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
    /// No requests for a dry run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_earnest: bool,
}

/// Hands on what matches a query.
pub struct Matching<'a, S> {
    /// The query.
    pub query: &'a Query,
    /// What takes the matches.
    pub sink: &'a mut S,
}

impl<S: Sink> Sink for Matching<'_, S> {
    fn wants(&mut self, glance: &Glance<'_>, bytes: usize) -> bool {
        self.query.matches(glance) && self.sink.wants(glance, bytes)
    }

    fn take(&mut self, entry: Entry, record: &[u8]) {
        self.sink.take(entry, record);
    }
}

/// A text, in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

/// A status code, a class of them (`4xx`), or a range (`400-403`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codes {
    first: i32,
    last: i32,
}

/// A stage by its name in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum StageName {
    /// Before anything was done.
    #[value(name = "RequestReceived", alias = "requestreceived")]
    RequestReceived,
    /// Headers sent.
    #[value(name = "ResponseStarted", alias = "responsestarted")]
    ResponseStarted,
    /// Over.
    #[value(name = "ResponseComplete", alias = "responsecomplete")]
    ResponseComplete,
    /// The handler panicked.
    #[value(name = "Panic", alias = "panic")]
    Panic,
}

/// A word that is no status code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no status code; give one such as `403`, `4xx` or `400-403`")]
pub struct NotACode(String);

impl Query {
    /// What can match, seen from its bytes.
    pub fn sieve(&self) -> Sieve {
        let clauses: Vec<Clauses> = self.any.iter().map(Filter::clauses).collect();
        Sieve::new(&clauses).within(self.since, self.until).answered(self.codes())
    }

    /// The status codes of which each match has one; none where another would do too.
    fn codes(&self) -> Vec<RangeInclusive<i32>> {
        if self.any.iter().any(|filter| filter.codes.is_empty()) {
            return Vec::new();
        }
        self.any.iter().flat_map(|filter| &filter.codes).map(|codes| codes.first..=codes.last).collect()
    }

    /// Whether an event is wanted. What `mentions` demands is left to the sieve.
    pub fn matches(&self, glance: &Glance<'_>) -> bool {
        self.any.iter().any(|filter| filter.matches(glance)) && self.is_in_time(glance)
    }

    fn is_in_time(&self, glance: &Glance<'_>) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        // Without a time an event cannot be shown to be outside.
        let Some(time) = glance.stage_time() else { return true };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

impl Filter {
    fn matches(&self, glance: &Glance<'_>) -> bool {
        let object = glance.object_ref.as_ref();
        let any = |patterns: &[Pattern], text: &str| patterns.iter().any(|pattern| pattern.matches(text));
        let demanded =
            |patterns: &[Pattern], text: &Text<'_>| patterns.is_empty() || any(patterns, text.as_str());
        let of_object = |patterns: &[Pattern], field: for<'t> fn(&'t Target<'t>) -> &'t Text<'t>| {
            patterns.is_empty() || object.is_some_and(|object| any(patterns, field(object).as_str()))
        };
        demanded(&self.verbs, &glance.verb)
            && (self.resources.is_empty()
                || object.is_some_and(|object| {
                    let (resource, group) = (object.resource.as_str(), object.api_group.as_str());
                    self.resources.iter().any(|asked| asked.includes(resource, group))
                }))
            && of_object(&self.subresources, |object| &object.subresource)
            && of_object(&self.namespaces, |object| &object.namespace)
            && of_object(&self.names, |object| &object.name)
            && (self.codes.is_empty() || self.codes.iter().any(|codes| codes.include(glance.code())))
            && (self.stages.is_empty() || self.stages.iter().any(|stage| stage.is(glance.stage)))
            && demanded(&self.audit_ids, &glance.audit_id)
            && !(self.in_earnest
                && glance.request_uri.is_some_and(|uri| super::event::asks_for_dry_run(&uri.text())))
            && self.matches_who(glance)
    }

    fn matches_who(&self, glance: &Glance<'_>) -> bool {
        let any = |patterns: &[Pattern], text: &str| patterns.iter().any(|pattern| pattern.matches(text));
        let is_user = self.users.is_empty() || any(&self.users, glance.user.as_str());
        if is_user && self.addresses.is_empty() && self.agents.is_empty() {
            return true;
        }
        // Whoever reads the record whole says what is wrong with it.
        let Some(client) = glance.client() else { return true };
        (is_user || client.impersonated_user.is_some_and(|user| any(&self.users, user.as_str())))
            && (self.addresses.is_empty()
                || client.source_ips.is_some_and(|addresses| {
                    addresses.texts().iter().any(|address| any(&self.addresses, address))
                }))
            && (self.agents.is_empty()
                || client.user_agent.is_some_and(|agent| {
                    let agent = agent.as_str().to_ascii_lowercase();
                    self.agents.iter().any(|part| agent.contains(&part.to_ascii_lowercase()))
                }))
    }

    /// Words that a record must have to match, the rarest first.
    fn clauses(&self) -> Clauses {
        let mut clauses = Clauses::new();
        let patterns = |patterns: &[Pattern]| patterns.iter().map(Pattern::word).collect::<Option<Vec<_>>>();
        let mentions: Option<Vec<_>> = self.mentions.iter().map(|word| sieve::part(word)).collect();
        let codes: Option<Vec<_>> = self.codes.iter().map(|codes| codes.word()).collect();
        let resources =
            self.resources.iter().flat_map(Resource::plurals).map(|plural| format!("\"{plural}\"")).collect();
        let stages = self.stages.iter().map(|stage| format!("\"{stage:?}\"")).collect();
        for words in [
            patterns(&self.audit_ids),
            mentions,
            patterns(&self.names),
            patterns(&self.users),
            patterns(&self.addresses),
            codes,
            patterns(&self.namespaces),
            Some(resources),
            patterns(&self.subresources),
            patterns(&self.verbs),
            Some(stages),
        ] {
            clauses.extend(words.filter(|words: &Vec<String>| !words.is_empty()));
        }
        clauses
    }
}

impl Pattern {
    /// Whether the text is one that the pattern means.
    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(head) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let tail = parts.pop().expect("a split has one part at least");
        for part in parts {
            let Some(at) = text.find(part) else { return false };
            text = &text[at + part.len()..];
        }
        text.ends_with(tail)
    }

    /// A word that a record with a match must have.
    fn word(&self) -> Option<String> {
        if !self.0.contains('*') {
            return sieve::word(&self.0);
        }
        self.0.split('*').filter_map(sieve::part).max_by_key(String::len)
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::str::FromStr for Pattern {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl Codes {
    /// One code.
    pub const fn one(code: i32) -> Self {
        Self { first: code, last: code }
    }

    fn include(self, code: i32) -> bool {
        (self.first..=self.last).contains(&code)
    }

    /// A code is written without escapes, but where the number stands is not known: nothing for a class.
    fn word(self) -> Option<String> {
        (self.first == self.last).then(|| self.first.to_string())
    }
}

impl std::str::FromStr for Codes {
    type Err = NotACode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let code = |digits: &str| digits.parse::<i32>().ok().filter(|_| digits.len() == 3);
        let codes = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(class), _) => code(&format!("{class}00")).map(|first| (first, first + 99)),
            (None, Some((first, last))) => code(first).zip(code(last)),
            (None, None) => code(text).map(|code| (code, code)),
        };
        let (first, last) = codes.ok_or_else(|| NotACode(text.to_owned()))?;
        Ok(Self { first, last })
    }
}

impl StageName {
    fn is(self, stage: Stage) -> bool {
        matches!(
            (self, stage),
            (Self::RequestReceived, Stage::RequestReceived)
                | (Self::ResponseStarted, Stage::ResponseStarted)
                | (Self::ResponseComplete, Stage::ResponseComplete)
                | (Self::Panic, Stage::Panic)
        )
    }
}

/// Words that are no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time; give a duration before now such as `90m`, `2h30m` or `3d`, or one such as `2026-01-02T03:04:05Z`"
)]
pub struct NotATime(String);

/// A point in time: a duration before `now`, a date and time of RFC 3339, or a date (midnight in UTC).
///
/// # Errors
/// The text is none of them.
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp, NotATime> {
    let wrong = || NotATime(text.to_owned());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        return Ok(date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?.timestamp());
    }
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let span = match days.and_then(|days| days.checked_mul(24)) {
        Some(hours) => SignedDuration::try_from_hours(hours).ok_or_else(wrong)?,
        None => text.parse::<SignedDuration>().map_err(|_| wrong())?,
    };
    if span.is_negative() {
        return Err(wrong());
    }
    now.checked_sub(span).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &[u8] = br#"{"auditID":"a1","stage":"ResponseComplete","verb":"create",
        "requestURI":"/api/v1/namespaces/prod/pods?dryRun=All","user":{"username":"jane@example.org"},
        "impersonatedUser":{"username":"foobar"},"sourceIPs":["10.0.0.7"],"userAgent":"kubectl/v1.33 (linux)",
        "objectRef":{"resource":"pods","namespace":"prod","name":"web-1","subresource":"exec"},
        "responseStatus":{"code":403},"requestReceivedTimestamp":"2026-01-02T03:04:05.000000Z"}"#;

    /// Whether the filter takes the event, asked of its fields and of its sieve.
    #[track_caller]
    fn check(filter: Filter, expected: bool) {
        let query = Query { any: vec![filter], ..Query::default() };
        assert_eq!(query.matches(&Glance::of(EVENT).unwrap()), expected, "{query:?}");
        assert!(!expected || query.sieve().passes(EVENT), "the sieve lets a match go: {query:?}");
    }

    fn patterns(text: &str) -> Vec<Pattern> {
        vec![text.into()]
    }

    #[test]
    fn each_field_decides() {
        for (text, expected) in
            [("jane@example.org", true), ("foobar", true), ("jane*", true), ("jane", false)]
        {
            check(Filter { users: patterns(text), ..Filter::default() }, expected);
        }
        for (text, expected) in
            [("web-1", true), ("web-*", true), ("*", true), ("web", false), ("*-2", false)]
        {
            check(Filter { names: patterns(text), ..Filter::default() }, expected);
        }
        for (text, expected) in [("403", true), ("4xx", true), ("400-404", true), ("401", false)] {
            check(Filter { codes: vec![text.parse().unwrap()], ..Filter::default() }, expected);
        }
        for (text, expected) in [("pods", true), ("po", true), ("services", false)] {
            check(Filter { resources: vec![Resource::parse(text).unwrap()], ..Filter::default() }, expected);
        }
        for (text, expected) in [("10.0.0.7", true), ("10.*", true), ("10.0.0.70", false)] {
            check(Filter { addresses: patterns(text), ..Filter::default() }, expected);
        }
        check(Filter { agents: vec!["KubeCTL".to_owned()], ..Filter::default() }, true);
        check(Filter { subresources: patterns("exec"), ..Filter::default() }, true);
        check(Filter { subresources: patterns(""), ..Filter::default() }, false);
        check(Filter { stages: vec![StageName::ResponseComplete], ..Filter::default() }, true);
        check(Filter { stages: vec![StageName::Panic], ..Filter::default() }, false);
        check(Filter { in_earnest: true, ..Filter::default() }, false);
        check(Filter { audit_ids: patterns("a1"), verbs: patterns("create"), ..Filter::default() }, true);
        check(Filter { audit_ids: patterns("a1"), verbs: patterns("get"), ..Filter::default() }, false);
    }

    #[test]
    fn a_client_whose_description_is_not_utf_8_is_still_one_client() {
        let mut record = concat!(
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a","#,
            r#""stage":"ResponseComplete","requestURI":"/api","verb":"get","user":{"username":"jane"},"#,
            r#""sourceIPs":["10.0.0.7"],"userAgent":"?kubectl","objectRef":{"resource":"pods"},"#,
            r#""responseStatus":{"metadata":{},"code":200},"#,
            r#""requestReceivedTimestamp":"2026-01-02T03:04:05.000000Z","#,
            r#""stageTimestamp":"2026-01-02T03:04:05.000000Z"}"#,
        )
        .as_bytes()
        .to_vec();
        *record.iter_mut().find(|byte| **byte == b'?').unwrap() = 0xff;
        let found = |filter: Filter| {
            let query = Query { any: vec![filter], ..Query::default() };
            let mut found = 0;
            let mut sink = |_: Entry| found += 1;
            let mut matching = Matching { query: &query, sink: &mut sink };
            let (sieve, mut coverage) = (query.sieve(), Default::default());
            super::super::read::read("x", &record[..], &sieve, &mut coverage, &mut matching);
            found
        };
        assert_eq!(found(Filter { agents: vec!["kubectl".to_owned()], ..Filter::default() }), 1);
        assert_eq!(found(Filter { agents: vec!["helm".to_owned()], ..Filter::default() }), 0);
        assert_eq!(
            found(Filter { addresses: patterns("10.*"), users: patterns("j*"), ..Filter::default() }),
            1
        );
        assert_eq!(found(Filter { addresses: patterns("10.0.0.8*"), ..Filter::default() }), 0);
    }

    #[test]
    fn a_window_begins_with_its_first_moment_and_ends_before_its_last() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let matches = |since, until| {
            Query { any: vec![Filter::default()], since, until }.matches(&Glance::of(EVENT).unwrap())
        };
        assert!(matches(Some(at), None));
        assert!(!matches(None, Some(at)));
    }

    #[test]
    fn times_are_durations_dates_or_moments() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        let at = |text: &str| time(text, now).unwrap().to_string();
        assert_eq!(at("90m"), "2026-01-09T22:30:00Z");
        assert_eq!(at("3d"), "2026-01-07T00:00:00Z");
        assert_eq!(at("2026-01-02"), "2026-01-02T00:00:00Z");
        assert_eq!(at("2026-01-02T03:04:05+01:00"), "2026-01-02T02:04:05Z");
        for text in ["", "yesterday", "-5m", "99999999999999d", "5"] {
            assert!(time(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", "40", "xx", "4x", "4xxx", "400-", "abc"] {
            assert!(text.parse::<Codes>().is_err(), "{text}");
        }
    }
}
