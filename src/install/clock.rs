//! The node's steady clock: deadlines that no change of the wall clock moves.
//!
//! A deadline has to survive a restart of the installer, so it is written to the disk; and it must not come too early or
//! never because somebody set the clock. So it counts on the clock that runs since the machine was booted, and
//! names that boot: after another boot it says nothing, and is given anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on the node's clock since it was booted (`CLOCK_BOOTTIME`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Milliseconds since then.
    pub milliseconds: u64,
}

/// When something has to be done by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Deadline(Moment);

/// As it may lie on the disk.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Moment(Moment),
    /// Format 1 had the time of day. It belongs to no boot, so it is given anew.
    TimeOfDay(String),
}

impl From<Written> for Deadline {
    fn from(written: Written) -> Self {
        Self(match written {
            Written::Moment(moment) => moment,
            Written::TimeOfDay(time) => Moment { boot: format!("before {time}"), milliseconds: 0 },
        })
    }
}

/// What a deadline says at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// There is time left.
    Later,
    /// It has passed.
    Now,
    /// It is of another boot and says nothing.
    Unknown,
}

impl Moment {
    /// The deadline that long after this moment.
    pub fn plus(&self, time: Duration) -> Deadline {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Deadline(Self { boot: self.boot.clone(), milliseconds: self.milliseconds.saturating_add(time) })
    }

    /// Milliseconds since `earlier`; `None` when a boot lies between the two.
    pub fn since(&self, earlier: &Self) -> Option<u64> {
        (self.boot == earlier.boot).then(|| self.milliseconds.saturating_sub(earlier.milliseconds))
    }
}

impl Deadline {
    /// What it says at `now`.
    pub fn at(&self, now: &Moment) -> Due {
        if self.0.boot != now.boot {
            Due::Unknown
        } else if now.milliseconds < self.0.milliseconds {
            Due::Later
        } else {
            Due::Now
        }
    }

    /// How long until then, nothing when it has passed; `None` when it is of another boot.
    pub fn left(&self, now: &Moment) -> Option<Duration> {
        (self.0.boot == now.boot)
            .then(|| Duration::from_millis(self.0.milliseconds.saturating_sub(now.milliseconds)))
    }

    /// Whether it has passed; one of another boot has not.
    pub fn has_passed(&self, now: &Moment) -> bool {
        self.at(now) == Due::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: &str, milliseconds: u64) -> Moment {
        Moment { boot: boot.to_owned(), milliseconds }
    }

    #[test]
    fn a_deadline_passes_on_its_own_boot_only() {
        let deadline = at("a", 1000).plus(Duration::from_secs(2));
        assert_eq!(deadline.at(&at("a", 2999)), Due::Later);
        assert_eq!(deadline.at(&at("a", 3000)), Due::Now);
        assert_eq!(deadline.at(&at("b", 99_000)), Due::Unknown);
        let left = |boot, time| deadline.left(&at(boot, time)).map(|left| left.as_millis());
        assert_eq!((left("a", 2999), left("a", 3001), left("b", 0)), (Some(1), Some(0), None));
    }

    #[test]
    fn a_deadline_survives_the_disk_and_one_of_format_1_is_given_anew() {
        let deadline = at("a", 1).plus(Duration::from_secs(1));
        let text = serde_json::to_string(&deadline).expect("JSON");
        assert_eq!(serde_json::from_str::<Deadline>(&text).expect("the same"), deadline);
        let old: Deadline = serde_json::from_str("\"2026-01-02T03:04:05Z\"").expect("format 1");
        assert_eq!(old.at(&at("a", u64::MAX)), Due::Unknown);
    }
}
