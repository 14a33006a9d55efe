//! The command lines: one file per verb, typed arguments in, an exit code out.
//!
//! A verb reads and writes only through [`Streams`], so that a test can hold all three ends. Results go to `out`,
//! messages for a person to `err`. Errors are returned, and printed once, at the edge (`bin/`).
//!
//! Exit codes, the same for every verb: [`OK`] done and nothing to report; [`FAILED`] an error or a refusal (also
//! bad usage); [`CHANGED`] only for verbs that compare: there is a difference.

use std::io::{BufRead, Write};

pub mod configuration;
pub mod diff;
pub mod evaluate;
pub mod events;
pub mod generate;
pub mod logs;
pub mod node;
mod nodes;
pub mod object;
pub mod output;
pub mod print;
mod progress;
pub mod proofs;
pub mod render;
mod spool;
pub mod status;
pub mod tail;
pub mod top;
pub mod trail;
pub mod validate;
pub mod who;

/// Done, and nothing to report.
pub const OK: u8 = 0;
/// An error, a refusal, or bad usage; the message says what to do next.
pub const FAILED: u8 = 1;
/// Only from verbs that compare (`plan`, `diff`): there is a difference.
pub const CHANGED: u8 = 2;

/// How a verb prints its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; may change between versions.
    #[default]
    Text,
    /// One stable JSON value (or one a line where the verb says so).
    Json,
}

/// The ends a verb is connected to.
pub struct Streams<'a> {
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Results.
    pub out: &'a mut dyn Write,
    /// Messages for a person.
    pub err: &'a mut dyn Write,
    /// Whether `out` is a terminal that shows colour.
    pub color: bool,
}

/// Parses a command line: help and version are printed, and bad usage exits with [`FAILED`], because clap's own 2 would
/// be read as [`CHANGED`].
#[expect(clippy::disallowed_methods, reason = "the edge of the process")]
pub fn parse<T: clap::Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        let code = if error.use_stderr() { FAILED } else { OK };
        // A closed terminal is no reason for another exit code.
        let _ = error.print();
        std::process::exit(code.into());
    })
}

/// Runs a verb on the process's own streams and turns its outcome into the exit code; an error is printed once, whole.
pub fn main(verb: impl FnOnce(&mut Streams<'_>) -> anyhow::Result<u8>) -> std::process::ExitCode {
    use std::io::{BufWriter, IsTerminal, stderr, stdin, stdout};
    let mut out = BufWriter::new(stdout().lock());
    let color =
        stdout().is_terminal() && anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never;
    // Standard error is not locked: other threads write there, such as the one that has the API server's port.
    let mut streams = Streams { input: &mut stdin().lock(), out: &mut out, err: &mut stderr(), color };
    let outcome = verb(&mut streams).and_then(|code| Ok(streams.out.flush().map(|()| code)?));
    match outcome {
        Ok(code) => code.into(),
        // The reader has seen enough (`| head`): that is its right, and no error.
        Err(error) if is_broken_pipe(&error) => OK.into(),
        Err(error) => {
            let _ = writeln!(streams.err, "error: {error:#}");
            FAILED.into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forwarder of an install logged from its thread, waited for the lock of this one for ever, and kept the API
    /// server's port.
    #[test]
    fn other_threads_can_write_to_standard_error_meanwhile() {
        let mut written = false;
        main(|_| {
            let (done, waits) = std::sync::mpsc::channel();
            std::thread::spawn(move || done.send(writeln!(std::io::stderr(), "a line of a log").is_ok()));
            written = waits.recv_timeout(std::time::Duration::from_secs(10))?;
            Ok(OK)
        });
        assert!(written, "standard error is locked");
    }
}
