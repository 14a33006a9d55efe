//! Which records are worth reading: byte strings without which a record cannot be an answer.
//!
//! Parsing JSON costs a hundred times what finding a word in it does, and most records of a log answer no question.
//! A sieve only ever lets go what cannot matter: it is built from words that JSON has one spelling for, and whoever
//! parses what is left decides. A whole block is searched at once, not line by line.

use std::ops::RangeInclusive;

use aho_corasick::AhoCorasick;
use jiff::Timestamp;
use memchr::memmem::{Finder, FinderRev};

use super::glance::{ANOTHER, BEGINNING};

/// A search that leaves out what cannot matter.
#[derive(Clone, Debug, Default)]
pub struct Sieve {
    /// One of these is in every record that matters; `None` where no word is known.
    lead: Option<Words>,
    /// A record matters if it has a word of each clause of one of these.
    alternatives: Vec<Vec<Words>>,
    /// A record of another time does not matter.
    window: Option<Box<Window>>,
    /// A record of a request that was answered otherwise does not matter.
    answers: Option<Box<Answers>>,
}

/// A part of time, seen from a record's bytes.
#[derive(Clone, Debug)]
struct Window {
    /// The first moment and the first one after, as [`STAGE_TIME`] is written; empty where there is none.
    since: String,
    until: String,
    stage_time: FinderRev<'static>,
}

/// Status codes, seen from a record's bytes.
#[derive(Clone, Debug)]
struct Answers {
    codes: Vec<RangeInclusive<i32>>,
    status: Finder<'static>,
}

/// What stands before a record's outcome where the API server wrote it. In a text each quote would be escaped, no other field
/// before it is called so and has fields, and the bodies come after it.
const STATUS: &str = r#","responseStatus":{"#;

/// The outcome of a request that went well, up to its code.
const WENT_WELL: &[u8] = br#""metadata":{},"code":"#;

/// What stands before a record's time where the API server wrote it. In a text each quote would be escaped, and of those in
/// bodies the record's own comes last.
const STAGE_TIME: &str = r#","stageTimestamp":""#;
/// The length of a time as the API server writes it: `2026-01-02T03:04:05.000000Z`.
const LENGTH: usize = 27;
/// What the API server writes between the time and the annotations.
const ANNOTATIONS: &[u8] = br#"","annotations":"#;

/// Words of which a record must have one.
#[derive(Clone, Debug)]
enum Words {
    One(Box<Finder<'static>>),
    Many(AhoCorasick),
}

/// Clauses of which each must hold; in a clause, words of which one must be there. The clause that fewest records
/// satisfy comes first.
pub type Clauses = Vec<Vec<String>>;

impl Sieve {
    /// A sieve for records that satisfy one of the alternatives; an alternative without clauses lets all through.
    pub fn new(alternatives: &[Clauses]) -> Self {
        if alternatives.iter().any(Vec::is_empty) {
            return Self::default();
        }
        let lead = alternatives.iter().flat_map(|clauses| clauses[0].clone()).collect::<Vec<_>>();
        Self {
            lead: Words::new(&lead),
            alternatives: alternatives
                .iter()
                .map(|clauses| clauses.iter().filter_map(|words| Words::new(words)).collect())
                .collect(),
            window: None,
            answers: None,
        }
    }

    /// The same sieve, which lets go what the API server wrote outside this part of time too.
    pub(super) fn within(mut self, since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        self.window = (since.is_some() || until.is_some()).then(|| {
            let written =
                |time: Option<Timestamp>| time.map_or_else(String::new, |time| format!("{time:.6}"));
            let stage_time = FinderRev::new(STAGE_TIME);
            Box::new(Window { since: written(since), until: written(until), stage_time })
        });
        self
    }

    /// The same sieve, which lets go what went well with another status code than these too; all are wanted where there is none.
    pub(super) fn answered(mut self, codes: Vec<RangeInclusive<i32>>) -> Self {
        self.answers = (!codes.is_empty()).then(|| Box::new(Answers { codes, status: Finder::new(STATUS) }));
        self
    }

    /// Where the first word is that a record must have, from `from` on; `from` itself where no word is known.
    pub(super) fn find(&self, text: &[u8], from: usize) -> Option<usize> {
        match &self.lead {
            None => (from < text.len()).then_some(from),
            Some(words) => words.find(&text[from..]).map(|at| from + at),
        }
    }

    /// Whether this record can matter.
    pub fn passes(&self, record: &[u8]) -> bool {
        self.window.as_ref().is_none_or(|window| window.may_have(record))
            && self.answers.as_ref().is_none_or(|answers| answers.may_have(record))
            && (self.lead.is_none()
                || self
                    .alternatives
                    .iter()
                    .any(|clauses| clauses.iter().all(|words| words.find(record).is_some())))
    }
}

impl Window {
    /// Whether the record's time is in the window, or cannot be told without reading the record.
    fn may_have(&self, record: &[u8]) -> bool {
        // What the API server writes sorts as text. The window's first moment is cut to a microsecond, and so is its end: what is
        // at the end's own microsecond is left to who reads the record.
        if !record.starts_with(BEGINNING) {
            return true;
        }
        let Some(at) = self.last(record) else { return true };
        let rest = &record[at + STAGE_TIME.len()..];
        let Some((time, rest)) = rest.split_at_checked(LENGTH) else { return true };
        let is_shaped =
            rest.first() == Some(&b'"') && time[10] == b'T' && time[19] == b'.' && time[26] == b'Z';
        !is_shaped
            || (time >= self.since.as_bytes() && (self.until.is_empty() || time <= self.until.as_bytes()))
    }

    /// Where [`STAGE_TIME`] stands for the last time. Mostly the annotations come right behind the time, and nothing behind them:
    /// a byte is found backwards many at a time, a word is not.
    fn last(&self, record: &[u8]) -> Option<usize> {
        let annotated = || {
            let open = memchr::memrchr(b'{', record)?;
            let is_at_the_end = memchr::memchr(b'}', &record[open..])? == record.len() - open - 2;
            let before = record[..open].strip_suffix(ANNOTATIONS).filter(|_| is_at_the_end)?;
            let at = before.len().checked_sub(STAGE_TIME.len() + LENGTH)?;
            before[at..].starts_with(STAGE_TIME.as_bytes()).then_some(at)
        };
        annotated().or_else(|| self.stage_time.rfind(record))
    }
}

impl Answers {
    /// Whether the request's code is wanted, or cannot be told without reading the record.
    fn may_have(&self, record: &[u8]) -> bool {
        self.code(record).is_none_or(|code| self.codes.iter().any(|codes| codes.contains(&code)))
    }

    fn code(&self, record: &[u8]) -> Option<i32> {
        let own = record.strip_prefix(BEGINNING)?;
        let outcome = &own[self.status.find(own)? + STATUS.len()..];
        let (code, rest) = outcome.strip_prefix(WENT_WELL)?.split_at_checked(3)?;
        let is_shaped = rest.first() == Some(&b'}') && code.iter().all(u8::is_ascii_digit);
        // Where two are joined, the outcome may be the other one's.
        let is_alone = is_shaped && ANOTHER.find(own).is_none();
        if is_alone { std::str::from_utf8(code).ok()?.parse().ok() } else { None }
    }
}

impl Words {
    /// `None` without words.
    fn new(words: &[String]) -> Option<Self> {
        match words {
            [] => None,
            [word] => Some(Self::One(Box::new(Finder::new(word).into_owned()))),
            words => Some(Self::Many(
                AhoCorasick::new(words).expect("a few short words fit any automaton's limits"),
            )),
        }
    }

    fn find(&self, text: &[u8]) -> Option<usize> {
        match self {
            Self::One(word) => word.find(text),
            Self::Many(words) => words.find(text).map(|found| found.start()),
        }
    }
}

/// The longest part of a text that JSON spells in one way only (`&` is also `\u0026`, `/` also `\/`); `None` where
/// that is too short to tell records apart.
pub(super) fn word(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:@".contains(c);
    let longest = text.split(|c| !plain(c)).max_by_key(|part| part.len())?;
    (!longest.is_empty()).then(|| if longest == text { format!("\"{text}\"") } else { longest.to_owned() })
}

/// Like [`word`], for a text that may stand inside a longer string.
pub(super) fn part(text: &str) -> Option<String> {
    word(text).map(|word| word.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sieve(alternatives: &[&[&[&str]]]) -> Sieve {
        let owned = |words: &&[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let all: Vec<Clauses> =
            alternatives.iter().map(|clauses| clauses.iter().map(owned).collect()).collect();
        Sieve::new(&all)
    }

    #[test]
    fn a_record_passes_with_a_word_of_each_clause_of_one_alternative() {
        let sieve = sieve(&[&[&["needle", "pin"], &["hay"]], &[&["other"]]]);
        assert!(sieve.passes(b"hay pin"));
        assert!(sieve.passes(b"other"));
        assert!(!sieve.passes(b"needle"));
        assert!(!sieve.passes(b"hay"));
        assert_eq!(sieve.find(b"hay other needle", 5), Some(10));
        assert_eq!(sieve.find(b"hay", 0), None);
    }

    #[test]
    fn without_words_everything_passes() {
        for sieve in [sieve(&[&[]]), sieve(&[&[&["a"]], &[]]), Sieve::default()] {
            assert!(sieve.passes(b"x"));
            assert_eq!((sieve.find(b"xy", 1), sieve.find(b"xy", 2)), (Some(1), None));
        }
    }

    #[test]
    fn what_was_written_outside_a_window_is_let_go_by_its_bytes() {
        let at = |time: &str| -> Timestamp { time.parse().unwrap() };
        let sieve = Sieve::default()
            .within(Some(at("2026-01-02T00:00:00.0000019Z")), Some(at("2026-01-03T00:00:00.0000019Z")));
        let annotated = |time: &str, annotations: &str| {
            format!(
                r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","requestObject":{{"a":1,"stageTimestamp":"2025-01-01T00:00:00.000000Z"}},"stageTimestamp":"{time}","annotations":{{{annotations}}}}}"#
            )
        };
        let record = |time: &str| annotated(time, "");
        for (time, passes) in [
            ("2026-01-02T00:00:00.000000Z", false),
            ("2026-01-02T00:00:00.000001Z", true),
            ("2026-01-03T00:00:00.000001Z", true),
            ("2026-01-03T00:00:00.000002Z", false),
            // Written by somebody else: whoever reads the record decides.
            ("2026-01-01T00:00:00Z", true),
            ("2026-01-01T00:00:00.000000+00:00", true),
        ] {
            // Some have braces in them.
            for annotations in ["", r#""a":"b""#, r#""a":"{","b":"}""#, r#""a":"\"stageTimestamp\":\"{""#] {
                assert_eq!(
                    sieve.passes(annotated(time, annotations).as_bytes()),
                    passes,
                    "{time}, {annotations}"
                );
            }
            let without = record(time).replace(r#","annotations":{}"#, "");
            assert_eq!(sieve.passes(without.as_bytes()), passes, "{time}");
        }
        // A body that looks like an event, in one without annotations.
        let body = r#""a":1,"stageTimestamp":"2025-01-01T00:00:00.000000Z","annotations":{}"#;
        let inside = record("2026-01-02T12:00:00.000000Z").replace(r#","annotations":{}"#, "");
        let looks_like_one = inside.replace(r#""a":1,"stageTimestamp":"2025-01-01T00:00:00.000000Z""#, body);
        assert!(sieve.passes(looks_like_one.as_bytes()) && looks_like_one.contains(body));
        let sorted = record("2026-01-01T00:00:00.000000Z").replace(r#""kind":"Event","#, "");
        assert!(sieve.passes(sorted.as_bytes()));
        assert!(sieve.passes(b"{\"kind\":\"Event\"}"));
    }

    #[test]
    fn what_was_answered_otherwise_is_let_go_by_its_bytes() {
        let sieve = Sieve::default().answered(vec![400..=403, 409..=409]);
        let record = |outcome: &str, more: &str| {
            format!(
                r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","userAgent":",\"responseStatus\":{{"{outcome}{more},"annotations":{{}}}}"#
            )
        };
        let well = |code: &str| format!(r#","responseStatus":{{"metadata":{{}},"code":{code}}}"#);
        let decoy = format!(r#","requestObject":{{"kind":"Event"{}}}"#, well("200"));
        let refused = r#","responseStatus":{"metadata":{},"status":"Failure","code":403}"#;
        for (outcome, more, passes) in [
            (well("200"), "", false),
            (well("404"), "", false),
            (well("403"), "", true),
            (well("409"), "", true),
            // What went wrong has more to say, and may have a body with something that looks like an outcome.
            (refused.to_owned(), "", true),
            (refused.to_owned(), &decoy, true),
            (well("201"), &decoy, false),
            // No outcome yet, and one that somebody else wrote.
            (String::new(), "", true),
            (well("200").replace("{},", "{}, "), "", true),
            (well("2000"), "", true),
        ] {
            assert_eq!(sieve.passes(record(&outcome, more).as_bytes()), passes, "{outcome}{more}");
        }
        let torn = record(&well("200"), "");
        let joined = format!("{}{}", &torn[..torn.len() - 5], record(&well("409"), ""));
        assert!(sieve.passes(joined.as_bytes()), "the second one was answered so");
        assert!(Sieve::default().answered(Vec::new()).passes(torn.as_bytes()));
    }

    #[test]
    fn words_are_what_json_spells_in_one_way() {
        assert_eq!(word("my-pod").as_deref(), Some("\"my-pod\""));
        assert_eq!(word("a&bcd").as_deref(), Some("bcd"));
        assert_eq!(part("my-pod").as_deref(), Some("my-pod"));
        assert_eq!(word("&"), None);
    }
}
