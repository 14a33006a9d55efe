//! Which records are worth reading: byte strings without which a record cannot be an answer.
//!
//! Parsing JSON costs a hundred times what finding a word in it does, and most records of a log answer no question.
//! A sieve only ever lets go what cannot matter: it is built from words that JSON has one spelling for, and whoever
//! parses what is left decides. A whole block is searched at once, not line by line.

use aho_corasick::AhoCorasick;
use memchr::memmem::Finder;

/// A search that leaves out what cannot matter.
#[derive(Clone, Debug, Default)]
pub struct Sieve {
    /// One of these is in every record that matters; `None` where no word is known.
    lead: Option<Words>,
    /// A record matters if it has a word of each clause of one of these.
    alternatives: Vec<Vec<Words>>,
}

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
        }
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
        self.lead.is_none()
            || self
                .alternatives
                .iter()
                .any(|clauses| clauses.iter().all(|words| words.find(record).is_some()))
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
    fn words_are_what_json_spells_in_one_way() {
        assert_eq!(word("my-pod").as_deref(), Some("\"my-pod\""));
        assert_eq!(word("a&bcd").as_deref(), Some("bcd"));
        assert_eq!(part("my-pod").as_deref(), Some("my-pod"));
        assert_eq!(word("&"), None);
    }
}
