//! Waiting for a condition, with a deadline.
//!
//! Deadlines are chosen for a machine five times slower than the one this was written on: they end a run that
//! is stuck, they are no measure of speed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at: short against what is waited for (seconds), long against a look's cost.
const POLL: Duration = Duration::from_millis(250);

/// Looks until `look` finds something. `Ok(None)` and `Err` both mean "not yet"; the error of the last look is
/// part of the message when the deadline passes.
pub(crate) fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let seen = look();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if Instant::now() >= end {
            let last = seen.err().map(|e| format!("; last seen: {e:#}")).unwrap_or_default();
            bail!("waited {} s for {what}{last}", deadline.as_secs());
        }
        thread::sleep(POLL);
    }
}
