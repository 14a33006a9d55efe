//! How far a long search is: one line on a terminal, with throughput and time left, gone when the search is over.
//!
//! Nothing is shown in the first second, and nothing where standard error is no terminal.
#![expect(clippy::disallowed_methods, reason = "the edge: a clock, and the terminal")]

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::trail::scan::Meter;

/// Before this nobody has begun to wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two lines.
const PAUSE: Duration = Duration::from_millis(200);

/// One search's progress, in bytes as they lie on the disk.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    terminal: bool,
    done: AtomicU64,
    expected: AtomicU64,
    /// When a line was shown last.
    shown: Mutex<Option<Instant>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self::shown(stderr().is_terminal())
    }

    /// Shown to nobody: what has no end is never nearly done.
    pub(super) fn silent() -> Self {
        Self::shown(false)
    }

    fn shown(terminal: bool) -> Self {
        Self {
            begun: Instant::now(),
            terminal,
            done: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            shown: Mutex::new(None),
        }
    }

    fn show(&self) {
        // Another thread is at it.
        let Ok(mut shown) = self.shown.try_lock() else { return };
        let now = Instant::now();
        if now < self.begun + PATIENCE || shown.is_some_and(|shown| now < shown + PAUSE) {
            return;
        }
        *shown = Some(now);
        let (done, expected) = (self.done.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed));
        // A terminal that is gone is no reason to stop.
        let _ = write!(stderr(), "\r\x1b[K{}", said(done, expected, now - self.begun));
    }
}

impl Meter for Progress {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.terminal {
            self.show();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.get_mut().is_ok_and(|shown| shown.is_some()) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// `1.5 of 3.0 GiB, 750 MiB/s, 2 s left`.
fn said(done: u64, expected: u64, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "printed with one digit")]
    let (done, expected) = (done as f64 / MIB, expected as f64 / MIB);
    let speed = done / took.as_secs_f64().max(0.001);
    let left = (expected - done).max(0.0) / speed.max(0.001);
    format!("{done:.0} of {expected:.0} MiB, {speed:.0} MiB/s, {left:.0} s left")
}

const MIB: f64 = (1 << 20) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_and_time_left_are_said() {
        let said = said(512 << 20, 2048 << 20, Duration::from_secs(2));
        assert_eq!(said, "512 of 2048 MiB, 256 MiB/s, 6 s left");
    }
}
