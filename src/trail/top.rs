//! Who and what makes the most requests: counted over everything, in memory that depends on the answer only.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::Stage;
use super::glance::{Glance, Text};

/// What requests are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum By {
    /// The user who authenticated.
    Users,
    /// The verb.
    Verbs,
    /// Resource and group.
    Resources,
    /// The client's description of itself.
    Agents,
}

/// One line of the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Requests that came to an end.
    pub requests: u64,
    /// Bytes of the log, all stages.
    pub bytes: u64,
    /// From received to answered, all requests together, in microseconds; long-running ones left out.
    pub micros: u64,
    /// How many requests `micros` is of.
    pub timed: u64,
    /// The longest of them, in microseconds.
    pub slowest: u64,
}

/// The counts so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Top {
    counts: HashMap<String, Count>,
    /// Bytes of the names in it.
    #[serde(skip)]
    bytes: usize,
}

/// Different names that are counted apart, and their bytes; beyond this, new ones are counted together, so that nobody
/// who makes up user agents takes the memory: each thread counts for itself, and all of them are to stay below 24 MiB.
const NAMES: usize = 10_000;
const NAMES_BYTES: usize = 512 << 10;
/// What the others are called.
const OTHERS: &str = "(others)";

impl Top {
    /// Counts one stage of a request, whose record has so many bytes.
    pub fn see(&mut self, by: By, glance: &Glance<'_>, bytes: usize) {
        let object = glance.object_ref.as_ref();
        let (resource, client);
        let name: &str = match by {
            By::Users => glance.user.as_str(),
            By::Verbs => glance.verb.as_str(),
            By::Agents => {
                client = glance.client().unwrap_or_default();
                client.user_agent.as_ref().map_or("", Text::as_str)
            }
            By::Resources => match object {
                None => "(no resource)",
                Some(object) if object.api_group.as_str().is_empty() => object.resource.as_str(),
                Some(object) => {
                    resource = format!("{}.{}", object.resource.as_str(), object.api_group.as_str());
                    &resource
                }
            },
        };
        let mut seen = Count { bytes: bytes as u64, ..Count::default() };
        if matches!(glance.stage, Stage::ResponseComplete | Stage::Panic) {
            seen.ended(glance);
        }
        self.count(name, &seen);
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: Self) {
        other.counts.iter().for_each(|(name, more)| self.count(name, more));
    }

    /// The most frequent first.
    pub fn into_sorted(self) -> Vec<(String, Count)> {
        let mut counts: Vec<(String, Count)> = self.counts.into_iter().collect();
        counts.sort_by(|(a, first), (b, second)| (second.requests, a).cmp(&(first.requests, b)));
        counts
    }

    fn count(&mut self, name: &str, more: &Count) {
        // Nearly always it is known, and looked up once.
        if let Some(count) = self.counts.get_mut(name) {
            return count.add(more);
        }
        let has_room = self.counts.len() < NAMES && self.bytes + name.len() <= NAMES_BYTES;
        let name = if has_room { name } else { OTHERS };
        self.bytes += name.len();
        self.counts.entry(name.to_owned()).or_default().add(more);
    }
}

impl Count {
    /// One request, which came to its end.
    fn ended(&mut self, glance: &Glance<'_>) {
        self.requests = 1;
        let object = glance.object_ref.as_ref();
        let is_long = matches!(glance.verb.as_str(), "watch" | "proxy" | "connect")
            || object.is_some_and(|object| {
                matches!(object.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
            });
        let took = |from: Timestamp, to: Timestamp| u64::try_from(to.duration_since(from).as_micros()).ok();
        if !is_long
            && let Some(took) = glance.time().zip(glance.stage_time()).and_then(|(from, to)| took(from, to))
        {
            (self.micros, self.timed, self.slowest) = (took, 1, took);
        }
    }

    fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.bytes += more.bytes;
        self.micros += more.micros;
        self.timed += more.timed;
        self.slowest = self.slowest.max(more.slowest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_once_and_bytes_of_every_stage() {
        let record = |stage: &str| {
            format!(
                r#"{{"auditID":"a","stage":"{stage}","verb":"get","user":{{"username":"jane"}},
                    "requestReceivedTimestamp":"2026-01-02T03:04:05.000000Z",
                    "stageTimestamp":"2026-01-02T03:04:05.250000Z"}}"#
            )
        };
        let mut top = Top::default();
        for stage in ["RequestReceived", "ResponseComplete"] {
            top.see(By::Users, &Glance::of(record(stage).as_bytes()).unwrap(), 100);
        }
        let mut both = Top::default();
        both.add(top.clone());
        both.add(top);
        let expected = Count { requests: 2, bytes: 400, micros: 500_000, timed: 2, slowest: 250_000 };
        assert_eq!(both.into_sorted(), [("jane".to_owned(), expected)]);
    }

    #[test]
    fn whoever_makes_up_names_does_not_take_the_memory() {
        let one = Count { requests: 1, ..Count::default() };
        let count = |names: &mut dyn Iterator<Item = String>| {
            let mut top = Top::default();
            names.for_each(|name| top.count(&name, &one));
            let sorted = top.into_sorted();
            (sorted.len(), sorted[0].clone())
        };
        let many = count(&mut (0..2 * NAMES).map(|number| format!("agent-{number}")));
        assert_eq!(many.0, NAMES + 1);
        assert_eq!((many.1.0.as_str(), many.1.1.requests), (OTHERS, NAMES as u64));
        let long = count(&mut (0..2 * NAMES).map(|number| format!("{number:01000}")));
        assert_eq!(long.0, NAMES_BYTES / 1000 + 1);
    }
}
