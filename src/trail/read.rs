//! Reading events from a log: from bytes to [`Entry`]s, with what is damaged counted and stepped over.
//!
//! The API server writes one compact JSON object a line, and that is the fast path; but the file that reaches a
//! person may have been through `jq` (indented objects), a webhook (`EventList`) or `jq -s` (an array), and may end
//! in the middle or have been cut by a full disk. `records` finds where each record begins and ends; here a
//! record becomes an event, unless the caller's sieve says that its bytes cannot matter.
//!
//! Memory is one block and one record of at most [`RECORD_LIMIT`]; lists are taken apart, never held. Damage is
//! looked for in what is parsed, so a broken line that the sieve lets go is not counted.

mod records;

use std::fmt;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;
use memchr::memmem;
use serde::de::IgnoredAny;

use super::event::Event;
use records::{Records, Step};

/// The longest record that is read, in bytes. The API server's own limit for a request body is 3 MiB and an event
/// holds at most two bodies; beyond this it is not a record but a file without line ends.
pub const RECORD_LIMIT: usize = 16 << 20;

/// How many places of damage are remembered; the rest is only counted.
const DAMAGE_SHOWN: usize = 5;

/// An event, and where it was read.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The event.
    pub event: Event,
    /// The record's first line.
    pub place: Place,
}

/// A line of a log; printed as `file:line`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The log, as the user named it.
    pub file: Rc<str>,
    /// Counted from 1; in the unpacked text when the file is compressed.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What has been read: how much, from when to when, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Logs read, to their end or to where they broke.
    pub logs: usize,
    /// Records found, also those the sieve let go. A list on one line that the sieve let go counts as one.
    pub records: u64,
    /// The earliest stage time seen at the logs' ends and in the events parsed.
    pub first: Option<Timestamp>,
    /// The latest of them.
    pub last: Option<Timestamp>,
    /// Places where something could not be read.
    pub damaged: u64,
    /// The first few of them.
    pub damage: Vec<Damage>,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub place: Place,
    /// What is wrong there.
    pub what: String,
}

impl Coverage {
    fn damaged(&mut self, place: Place, what: impl Into<String>) {
        self.damaged += 1;
        if self.damage.len() < DAMAGE_SHOWN {
            self.damage.push(Damage { place, what: what.into() });
        }
    }

    fn saw(&mut self, time: Option<Timestamp>) {
        if let Some(time) = time {
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = Some(self.last.map_or(time, |last| last.max(time)));
        }
    }
}

/// Reads one log to its end, compressed or not, and hands each event whose record passes `sieve` to `each`.
///
/// `name` is how places are called. Nothing stops the reading but the end of the input or an error while reading,
/// which counts as damage: an answer from the other logs is worth more than none.
pub fn read(
    name: &str,
    mut input: impl BufRead,
    sieve: impl Fn(&[u8]) -> bool,
    coverage: &mut Coverage,
    each: impl FnMut(Entry),
) {
    // The first byte of a gzip stream can begin no JSON text, so that the name need not be trusted.
    let packed = input.fill_buf().is_ok_and(|head| head.first() == Some(&0x1f));
    coverage.logs += 1;
    if packed {
        read_plain(name, MultiGzDecoder::new(input), sieve, coverage, each);
    } else {
        read_plain(name, input, sieve, coverage, each);
    }
}

fn read_plain(
    name: &str,
    input: impl Read,
    sieve: impl Fn(&[u8]) -> bool,
    coverage: &mut Coverage,
    each: impl FnMut(Entry),
) {
    let mut log = Log { file: Rc::from(name), sieve, coverage, each, begun: false, last_skipped: Vec::new() };
    let mut records = Records::new(input, RECORD_LIMIT);
    if let Err(error) = log.take(&mut records) {
        let place = log.place(records.line());
        log.coverage.damaged(place, format!("cannot be read from here on: {error}"));
    }
    let last = stage_time(&log.last_skipped, memmem::rfind);
    log.coverage.saw(last);
}

/// One log being read.
struct Log<'a, S, E> {
    file: Rc<str>,
    sieve: S,
    coverage: &'a mut Coverage,
    each: E,
    begun: bool,
    /// The latest record let go: at the end of the log its time is the log's last.
    last_skipped: Vec<u8>,
}

impl<S: Fn(&[u8]) -> bool, E: FnMut(Entry)> Log<'_, S, E> {
    fn take<R: Read>(&mut self, records: &mut Records<R>) -> io::Result<()> {
        loop {
            let (line, len, guessed) = match records.next()? {
                Step::End => return Ok(()),
                Step::Damaged { line, what } => {
                    self.coverage.damaged(self.place(line), what);
                    continue;
                }
                Step::Record { line, len, guessed } => (line, len, guessed),
            };
            let record = records.bytes(len);
            if !self.concerns(record) {
                records.consume(len);
            } else if let Ok(event) = Event::from_json(record) {
                self.coverage.saw(event.stage_timestamp.or(event.request_received_timestamp));
                let place = self.place(line);
                (self.each)(Entry { event, place });
                records.consume(len);
            } else if guessed {
                records.look_inside();
            } else if serde_json::from_slice::<IgnoredAny>(record).is_ok() {
                self.coverage.damaged(self.place(line), "not an audit event");
                records.consume(len);
            } else {
                self.coverage.damaged(self.place(line), "not valid JSON");
                records.resync()?;
            }
        }
    }

    fn concerns(&mut self, record: &[u8]) -> bool {
        self.coverage.records += 1;
        if !self.begun {
            self.begun = true;
            self.coverage.saw(stage_time(record, memmem::find));
        }
        let wanted = (self.sieve)(record);
        self.last_skipped.clear();
        if !wanted {
            self.last_skipped.extend_from_slice(record);
        }
        wanted
    }

    fn place(&self, line: u64) -> Place {
        Place { file: Rc::clone(&self.file), line }
    }
}

/// The stage time in a record that is not parsed: good enough to say what a log covers, not to decide on.
fn stage_time(record: &[u8], find: fn(&[u8], &[u8]) -> Option<usize>) -> Option<Timestamp> {
    const KEY: &[u8] = b"\"stageTimestamp\"";
    let rest = &record[find(record, KEY)? + KEY.len()..];
    let text = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', text)?;
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
