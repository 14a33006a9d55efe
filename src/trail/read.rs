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
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;
use memchr::memmem;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::glance::Glance;
use super::sieve::Sieve;
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

/// A place in a log; printed as `file:line`, or as `file:+byte`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The log, as the user named it.
    #[serde(with = "shared_text")]
    pub file: Arc<str>,
    /// Where in it.
    #[serde(flatten)]
    pub at: At,
}

/// Where in a log; in the unpacked text when the file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// The line, counted from 1.
    Line(u64),
    /// The byte, counted from 1 as `tail -c` does, where the log was not read from its first line on.
    Byte(u64),
}

/// A shared text is a text, wherever it goes.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Line(line) => write!(f, "{}:{line}", self.file),
            At::Byte(byte) => write!(f, "{}:+{byte}", self.file),
        }
    }
}

/// What has been read: how much, from when to when, and what could not be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// A log that could not be read at all.
    pub fn unreadable(&mut self, name: &str, error: &io::Error) {
        self.damaged(Place { file: name.into(), at: At::Line(1) }, format!("cannot be read: {error}"));
    }

    /// Adds what was read elsewhere, whose logs are called `prefix` and their own name.
    pub fn add(&mut self, other: &Self, prefix: &str) {
        self.logs += other.logs;
        self.records += other.records;
        self.saw(other.first);
        self.saw(other.last);
        self.damaged += other.damaged;
        for damage in &other.damage {
            let place = Place { file: format!("{prefix}{}", damage.place.file).into(), at: damage.place.at };
            if self.damage.len() < DAMAGE_SHOWN {
                self.damage.push(Damage { place, what: damage.what.clone() });
            }
        }
    }

    fn saw(&mut self, time: Option<Timestamp>) {
        if let Some(time) = time {
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = Some(self.last.map_or(time, |last| last.max(time)));
        }
    }
}

/// What becomes of the records that pass the sieve.
pub trait Sink {
    /// Whether this record, of so many bytes, is to be read whole.
    fn wants(&mut self, glance: &Glance<'_>, bytes: usize) -> bool {
        let _ = (glance, bytes);
        true
    }

    /// Takes an event that was wanted, with the record it was read from.
    fn take(&mut self, entry: Entry, record: &[u8]);
}

impl<F: FnMut(Entry)> Sink for F {
    fn take(&mut self, entry: Entry, _: &[u8]) {
        self(entry);
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let (records, logs) = (self.records, self.logs as u64);
        let size = format!("({records} record{} in {logs} log{})", plural(records), plural(logs));
        match (self.first, self.last) {
            (Some(first), Some(last)) => write!(f, "the logs given cover {first:.6} to {last:.6} {size}"),
            _ => write!(f, "the logs given do not tell their times {size}"),
        }
    }
}

/// Reads one log to its end, compressed or not, and hands each event whose record passes `sieve` to `sink`.
///
/// `name` is how places are called. Nothing stops the reading but the end of the input or an error while reading,
/// which counts as damage: an answer from the other logs is worth more than none.
pub fn read(
    name: &str,
    mut input: impl BufRead,
    sieve: &Sieve,
    coverage: &mut Coverage,
    sink: &mut impl Sink,
) {
    // The first byte of a gzip stream can begin no JSON text, so that the name need not be trusted.
    let packed = input.fill_buf().is_ok_and(|head| head.first() == Some(&GZIP));
    coverage.logs += 1;
    let whole = Piece { offset: None, until: None, first_line: Some(1) };
    let mut buffers = Buffers::default();
    if packed {
        read_piece(name, whole, MultiGzDecoder::new(input), &mut buffers, sieve, coverage, sink);
    } else {
        read_piece(name, whole, input, &mut buffers, sieve, coverage, sink);
    }
}

/// The first byte of what gzip has packed.
pub(super) const GZIP: u8 = 0x1f;

/// A piece of a plain log: from the first border between records at or after one byte to the first at or after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Where the input begins in the log: two bytes before the piece, so that a border there is seen; `None` is the
    /// log's beginning.
    pub(super) offset: Option<u64>,
    /// Where the piece ends; `None` is the log's end.
    pub(super) until: Option<u64>,
    /// The number of its first line; without one, places are told in bytes.
    pub(super) first_line: Option<u64>,
}

/// What one piece after the other is read with.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    records: records::Buffers,
    /// See [`Log::latest`].
    latest: Vec<u8>,
}

/// Reads one piece of a log by way of `buffers`; gives how many lines it has.
pub(super) fn read_piece(
    name: &str,
    piece: Piece,
    input: impl Read,
    buffers: &mut Buffers,
    sieve: &Sieve,
    coverage: &mut Coverage,
    sink: &mut impl Sink,
) -> u64 {
    let by_byte = piece.first_line.is_none();
    let Buffers { records: buffers, latest } = buffers;
    latest.clear();
    let mut log = Log { file: Arc::from(name), by_byte, sieve, coverage, sink, begun: false, latest };
    let first_line = piece.first_line.unwrap_or(1);
    let mut records = Records::new(input, buffers, RECORD_LIMIT, first_line);
    let begun = records.piece(piece.offset, piece.until);
    if let Err(error) = begun.and_then(|()| log.take(&mut records)) {
        let place = log.place(records.line(), records.offset());
        log.coverage.damaged(place, format!("cannot be read from here on: {error}"));
    }
    let last = stage_time(log.latest, memmem::rfind);
    log.coverage.saw(last);
    records.line() - first_line
}

/// One log being read.
struct Log<'a, S> {
    file: Arc<str>,
    by_byte: bool,
    sieve: &'a Sieve,
    coverage: &'a mut Coverage,
    sink: &'a mut S,
    begun: bool,
    /// The latest record: at the end of the log its time is the log's last.
    latest: &'a mut Vec<u8>,
}

impl<S: Sink> Log<'_, S> {
    fn take<R: Read>(&mut self, records: &mut Records<'_, R>) -> io::Result<()> {
        loop {
            let before = records.offset();
            let (line, len, guessed) = match records.next()? {
                Step::End => return Ok(()),
                Step::Damaged { line, what } => {
                    self.coverage.damaged(self.place(line, before), what);
                    continue;
                }
                Step::Lines { line } => {
                    self.take_lines(records, line);
                    continue;
                }
                Step::Record { line, len, guessed } => (line, len, guessed),
            };
            let record = records.bytes(len);
            let offset = records.offset();
            self.begin(record);
            self.coverage.records += 1;
            if !self.sieve.passes(record) || self.take_record(record, line, offset) {
                self.latest.clear();
                self.latest.extend_from_slice(record);
                records.consume(len);
            } else if guessed {
                // What is in it is counted instead.
                self.coverage.records -= 1;
                records.look_inside();
            } else if serde_json::from_slice::<IgnoredAny>(record).is_ok() {
                self.coverage.damaged(self.place(line, offset), "not an audit event");
                records.consume(len);
            } else {
                self.coverage.damaged(self.place(line, offset), "not valid JSON");
                records.resync()?;
            }
        }
    }

    /// Takes whole lines at once, up to one that is not an event by itself.
    fn take_lines<R: Read>(&mut self, records: &mut Records<'_, R>, first_line: u64) {
        let (lines, ends) = records.lines();
        self.begin(&lines[..ends[0]]);
        let begin_of = |line: usize| if line == 0 { 0 } else { ends[line - 1] + 1 };
        let mut line = 0;
        while line < ends.len()
            && let Some(at) = self.sieve.find(lines, begin_of(line))
        {
            // Mostly it is this one, or none for long.
            line += if at < ends[line] { 0 } else { ends[line..].partition_point(|end| *end < at) };
            let begin = begin_of(line);
            let record = lines[begin..ends[line]].trim_ascii_end();
            let (number, offset) = (first_line + line as u64, records.offset() + begin as u64);
            if self.sieve.passes(record) && !self.take_record(record, number, offset) {
                self.coverage.records += line as u64;
                records.consume_lines(line);
                records.look_inside();
                return;
            }
            line += 1;
        }
        self.coverage.records += ends.len() as u64;
        self.latest.clear();
        self.latest.extend_from_slice(&lines[begin_of(ends.len() - 1)..]);
        let count = ends.len();
        records.consume_lines(count);
    }

    /// `false` where the record is no event.
    fn take_record(&mut self, record: &[u8], line: u64, offset: u64) -> bool {
        // Looked at where it is: a glance is large, and most are looked at once.
        match &Glance::of(record) {
            Some(glance) => {
                if !self.sink.wants(glance, record.len()) {
                    return true;
                }
            }
            // The server copies a patch into the event byte by byte, so that its text need not be UTF-8.
            None if std::str::from_utf8(record).is_err() => {
                let text = String::from_utf8_lossy(record);
                match Glance::of(text.as_bytes()) {
                    Some(glance) if !self.sink.wants(&glance, record.len()) => return true,
                    Some(_) => {}
                    None => return false,
                }
            }
            None => return false,
        }
        let Ok(event) = Event::from_json(record) else { return false };
        self.coverage.saw(event.stage_timestamp.or(event.request_received_timestamp));
        self.sink.take(Entry { event, place: self.place(line, offset) }, record);
        true
    }

    fn begin(&mut self, record: &[u8]) {
        if !self.begun {
            self.begun = true;
            self.coverage.saw(stage_time(record, memmem::find));
        }
    }

    fn place(&self, line: u64, offset: u64) -> Place {
        let at = if self.by_byte { At::Byte(offset + 1) } else { At::Line(line) };
        Place { file: Arc::clone(&self.file), at }
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
