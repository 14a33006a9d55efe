//! Who and what makes the most requests: counted over everything, in memory that depends on the answer only.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::Stage;
use super::glance::Glance;

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
}

/// Different names that are counted apart; beyond this, new ones are counted together, so that nobody who makes up
/// user agents takes the memory.
const NAMES: usize = 20_000;
/// What the others are called.
const OTHERS: &str = "(others)";

impl Top {
    /// Counts one stage of a request, whose record has so many bytes.
    pub fn see(&mut self, by: By, glance: &Glance<'_>, bytes: usize) {
        let object = glance.object_ref.as_ref();
        let resource;
        let name: &str = match by {
            By::Users => glance.username(),
            By::Verbs => &glance.verb,
            By::Agents => glance.user_agent.as_deref().unwrap_or(""),
            By::Resources => match object {
                None => "(no resource)",
                Some(object) if object.api_group.is_empty() => &object.resource,
                Some(object) => {
                    resource = format!("{}.{}", object.resource, object.api_group);
                    &resource
                }
            },
        };
        let count = self.count(name);
        count.bytes += bytes as u64;
        if !matches!(glance.stage, Stage::ResponseComplete | Stage::Panic) {
            return;
        }
        count.requests += 1;
        let is_long = matches!(&*glance.verb, "watch" | "proxy" | "connect")
            || object.is_some_and(|object| {
                matches!(&*object.subresource, "exec" | "attach" | "portforward" | "proxy" | "log")
            });
        let took = |from: Timestamp, to: Timestamp| u64::try_from(to.duration_since(from).as_micros()).ok();
        if !is_long
            && let Some(took) = glance.time().zip(glance.stage_time()).and_then(|(from, to)| took(from, to))
        {
            count.micros += took;
            count.timed += 1;
            count.slowest = count.slowest.max(took);
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: Self) {
        for (name, more) in other.counts {
            let count = self.count(&name);
            count.requests += more.requests;
            count.bytes += more.bytes;
            count.micros += more.micros;
            count.timed += more.timed;
            count.slowest = count.slowest.max(more.slowest);
        }
    }

    /// The most frequent first.
    pub fn into_sorted(self) -> Vec<(String, Count)> {
        let mut counts: Vec<(String, Count)> = self.counts.into_iter().collect();
        counts.sort_by(|(a, first), (b, second)| (second.requests, a).cmp(&(first.requests, b)));
        counts
    }

    fn count(&mut self, name: &str) -> &mut Count {
        // Looked up once where it is known, which is nearly always.
        if !self.counts.contains_key(name) {
            let name = if self.counts.len() < NAMES { name } else { OTHERS };
            return self.counts.entry(name.to_owned()).or_default();
        }
        self.counts.get_mut(name).expect("it is there")
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
}
