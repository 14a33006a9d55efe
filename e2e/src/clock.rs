//! The machine's clock, set by somebody: shifted for a while, and put right.
//!
//! A process of its own (`e2e shift-clock`) sets it, and puts it right as soon as its standard input is closed, which it is
//! when this process ends, however it ends. What is right it knows from the clock that runs since the machine was
//! booted, which nobody sets.

use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::progress::say;

/// The clock is shifted; it is put right when this is dropped.
#[derive(Debug)]
pub(crate) struct Shifted(Child);

impl Shifted {
    /// Shifts the whole machine's clock into the future.
    pub(crate) fn by(time: Duration) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.args(["shift-clock", &time.as_secs().to_string()]);
        // A group of its own: Ctrl-C ends this process, and so its input.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("starting the one who sets the clock")?;
        let mut answer = String::new();
        let out = child.stdout.take().context("its output is piped")?;
        BufReader::new(out).read_line(&mut answer)?;
        let shifted = Self(child);
        ensure!(answer.trim() == "shifted", "the machine's clock cannot be set");
        say!("the machine's clock is {} s ahead", time.as_secs());
        Ok(shifted)
    }

    /// Puts it right.
    pub(crate) fn back(self) -> Result<()> {
        drop(self);
        Ok(())
    }
}

impl Drop for Shifted {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        match self.0.wait() {
            Ok(status) if status.success() => say!("the machine's clock is right again"),
            ended => say!("the machine's clock may be wrong: {ended:?}"),
        }
    }
}

/// `e2e shift-clock`.
pub(crate) fn run(seconds: u32) -> Result<()> {
    let right = nanoseconds(ClockId::Realtime) - nanoseconds(ClockId::Boottime);
    set(nanoseconds(ClockId::Boottime) + right + i128::from(seconds) * 1_000_000_000)?;
    let mut out = stdout();
    writeln!(out, "shifted").and_then(|()| out.flush()).context("saying so")?;
    let _ = stdin().read_to_end(&mut Vec::new());
    set(nanoseconds(ClockId::Boottime) + right)
}

fn nanoseconds(clock: ClockId) -> i128 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    i128::from(tv_sec) * 1_000_000_000 + i128::from(tv_nsec)
}

fn set(to: i128) -> Result<()> {
    let seconds = i64::try_from(to.div_euclid(1_000_000_000)).context("a time far away")?;
    let rest = i64::try_from(to.rem_euclid(1_000_000_000)).context("less than a second")?;
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: rest }).context("setting the clock")
}
