//! Why who made an object cannot be known, in words: what was read, what was seen, and what to change.

use std::collections::BTreeMap;

use super::{CANDIDATES, Nameless, Search};
use crate::trail::read::Coverage;

impl Search {
    pub(super) fn reasons(&self, coverage: &Coverage) -> Vec<String> {
        if coverage.records == 0 {
            let mut reasons = vec!["the logs given hold no event at all".to_owned()];
            reasons.extend((coverage.damaged > 0).then(|| damaged(coverage)));
            return reasons;
        }
        let mut reasons = vec![match &self.earliest_named {
            None => format!("no event in the logs given is about {}", self.question),
            Some(earliest) => format!(
                "{} about {}, but none is its creation (the earliest: {earliest})",
                counted(self.named, "event is", "events are"),
                self.question
            ),
        }];
        if let Some(last) = self.unclear.iter().max_by_key(|link| link.time) {
            let count = counted(self.unclear.len() as u64, "create of it has", "creates of it have");
            reasons.push(format!("{count} no clear outcome and may have made it (the latest: {last})"));
        }
        if let Some(Nameless { link: nearest, .. }) = self.fitting.first() {
            let count = counted(self.fitting.len() as u64, "create fits", "creates fit");
            reasons.push(format!(
                "{count} whose name the server made up from a generateName (the nearest: {nearest}), but which \
                 name it gave is in the log only at level RequestResponse"
            ));
        }
        if !self.nameless.is_empty() {
            let mut by_user = BTreeMap::<&str, u64>::new();
            for create in &self.nameless {
                *by_user.entry(&create.link.user).or_default() += 1;
            }
            let users = by_user.iter().take(CANDIDATES).map(|(user, count)| format!("{count} by `{user}`"));
            let users: Vec<String> = users.collect();
            let count = counted(self.nameless.len() as u64 + self.nameless_more, "create", "creates");
            reasons.push(format!(
                "the server may have made up its name (generateName): {count} of {} there tell no name, which is \
                 in the log only at level RequestResponse: {}",
                self.question.resource(),
                users.join(", ")
            ));
        }
        if let Some(last) = &self.last_refused {
            let count = counted(self.refused, "create of it was", "creates of it were");
            reasons.push(format!("{count} refused (the latest: {last})"));
        }
        reasons.push(self.where_else());
        reasons.push(covered(coverage));
        reasons.extend((coverage.damaged > 0).then(|| damaged(coverage)));
        reasons
    }

    /// Where the creation can be when it is not in the logs given.
    pub(super) fn where_else(&self) -> String {
        let resource = self.question.resource();
        match self.creates_logged {
            0 => format!(
                "no create of any {resource} is in these logs: the policy may not log it, check with `kubectl audit \
                 evaluate`, and give `create` of {resource} the level Metadata; or it is older than the oldest line, \
                 or in another control-plane node's log"
            ),
            logged => format!(
                "creates of {resource} are logged ({logged} here), so this one may be older than the oldest line, \
                 rotated away, or in the log of another control-plane node; a larger spec.log.maxSize, maxBackups or \
                 maxAge keeps more"
            ),
        }
    }

    pub(super) fn ambiguity(&self) -> String {
        let kind = |(resource, group): &(String, String)| match group.as_str() {
            "" => format!("`{resource}.v1.`"),
            group => format!("`{resource}.{group}`"),
        };
        let kinds: Vec<String> = self.kinds.iter().map(kind).collect();
        format!("{} is more than one object in these logs: ask for {}", self.question, kinds.join(" or "))
    }
}

pub(super) fn covered(coverage: &Coverage) -> String {
    coverage.to_string()
}

pub(super) fn damaged(coverage: &Coverage) -> String {
    let count = counted(coverage.damaged, "damaged place", "damaged places");
    let first =
        coverage.damage.first().map(|damage| format!(" (the first: {}, {})", damage.place, damage.what));
    format!("{count} could not be read{}", first.unwrap_or_default())
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
