//! Reading all the logs of a question, on several threads where that is quicker.
//!
//! Plain logs are cut in pieces and compressed ones are a piece each. Each thread takes the next piece that nobody has. What
//! it finds goes through a short queue of its own, and whoever asked empties the queues in the order of the pieces; so
//! answers come in the order of the logs, and memory does not grow with them. Counting needs no order: there each thread
//! counts for itself.
#![expect(clippy::disallowed_methods, reason = "the trail's edge: threads, and a clock to be a good guest")]

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use flate2::bufread::MultiGzDecoder;

use super::query::{Matching, Query};
use super::read::{self, At, Buffers, Coverage, Entry, Sink};
use super::sieve::Sieve;
use super::source::{self, Log, Part};

/// Bytes of a plain log that one thread reads at a time.
pub const PIECE: u64 = 8 << 20;
/// Bytes of found records that are handed over at once.
const BATCH: usize = 256 << 10;
/// Such batches that wait for whoever asked, for each thread.
const QUEUE: usize = 2;
/// Below this many bytes a second a read has come from a disk and not from memory.
const FROM_MEMORY: f64 = 400e6;

/// How a scan is done.
pub struct Scan<'a> {
    /// What is wanted.
    pub query: &'a Query,
    /// How many threads; 1 is the caller's own.
    pub threads: usize,
    /// Bytes of a plain log that one thread reads at a time: [`PIECE`], but in tests.
    pub piece: u64,
    /// Leaves a disk half of the time to others.
    pub gentle: bool,
    /// Is told how far the reading is.
    pub meter: &'a dyn Meter,
}

/// Is told how far a scan is, in bytes as they lie on the disk; from any of its threads.
pub trait Meter: Sync {
    /// So many bytes are to be read.
    fn expect(&self, bytes: u64) {
        let _ = bytes;
    }

    /// So many more have been read.
    fn read(&self, bytes: u64) {
        let _ = bytes;
    }
}

/// Tells nobody.
pub struct Silent;

impl Meter for Silent {}

/// One thread's work at a time.
struct Piece {
    log: usize,
    part: Part,
    /// Whether places in it are counted in lines: it is read from the log's beginning on.
    by_line: bool,
    first: bool,
}

/// What a thread hands over.
enum Found {
    /// Some of what it has found in the piece that it is at.
    Batch(Vec<(Entry, Vec<u8>)>),
    /// That piece is at its end, and the one with this number is begun; there is none when nothing is left to take.
    Next(Option<usize>, Ended),
}

/// What there is to say of a piece that was read to its end; of none before the first.
#[derive(Default)]
struct Ended {
    lines: u64,
    coverage: Coverage,
}

impl Scan<'_> {
    /// Hands each event that matches to `sink`, in the order of the logs.
    pub fn search(&self, logs: &[Log], sink: &mut impl Sink) -> Coverage {
        let (mut coverage, sieve) = (Coverage::default(), self.query.sieve());
        let pieces = self.pieces(logs, &mut coverage);
        let mut lines = Lines::new(logs);
        let threads = self.threads.clamp(1, pieces.len().max(1));
        if threads == 1 {
            let mut reader = Reader { scan: self, logs, sieve: &sieve, buffers: Buffers::default() };
            for piece in &pieces {
                let mut matching = Matching { query: self.query, sink };
                let counted = reader.read(piece, lines.before(piece) + 1, &mut coverage, &mut matching);
                lines.add(piece, counted);
            }
            return coverage;
        }
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let work = |_| {
                let (sender, receiver) = sync_channel(QUEUE);
                let mut handing = Handing { sender, batch: Vec::new(), bytes: 0 };
                let (pieces, sieve, next) = (&pieces, &sieve, &next);
                scope.spawn(move || {
                    let mut reader = Reader { scan: self, logs, sieve, buffers: Buffers::default() };
                    let mut ended = Ended::default();
                    while let Some((at, piece)) = take(pieces, next) {
                        handing.next(Some(at), std::mem::take(&mut ended));
                        let mut matching = Matching { query: self.query, sink: &mut handing };
                        ended.lines = reader.read(piece, 1, &mut ended.coverage, &mut matching);
                    }
                    handing.next(None, ended);
                });
                receiver
            };
            let receivers: Vec<_> = (0..threads).map(work).collect();
            let mut queues: Vec<Queue> = receivers.into_iter().map(Queue::new).collect();
            for (at, piece) in pieces.iter().enumerate() {
                let before = lines.before(piece);
                // Nobody has the piece only where its thread has panicked, and then the scope does too.
                let Some(queue) = queues.iter_mut().find(|queue| queue.at == Some(at)) else { continue };
                queue.at = None;
                while let Ok(found) = queue.found.recv() {
                    match found {
                        Found::Batch(batch) => batch.into_iter().for_each(|(mut entry, record)| {
                            entry.place.at = entry.place.at.after(before);
                            sink.take(entry, &record);
                        }),
                        Found::Next(next, ended) => {
                            queue.at = next;
                            coverage.add_piece(ended.coverage, before);
                            lines.add(piece, ended.lines);
                            break;
                        }
                    }
                }
            }
        });
        coverage
    }

    /// Shows each event that matches to one of the `sinks`, in no order; each has a thread of its own.
    pub fn fold<S: Sink + Send>(&self, logs: &[Log], sinks: &mut [S]) -> Coverage {
        let (mut coverage, sieve) = (Coverage::default(), self.query.sieve());
        let pieces = self.pieces(logs, &mut coverage);
        let next = AtomicUsize::new(0);
        let work = |sink: &mut S| {
            let mut done = Vec::new();
            let mut reader = Reader { scan: self, logs, sieve: &sieve, buffers: Buffers::default() };
            while let Some((at, piece)) = take(&pieces, &next) {
                let mut coverage = Coverage::default();
                let mut matching = Matching { query: self.query, sink };
                let lines = reader.read(piece, 1, &mut coverage, &mut matching);
                done.push((at, lines, coverage));
            }
            done
        };
        let mut done = match sinks {
            [sink] => work(sink),
            sinks => thread::scope(|scope| {
                let work = &work;
                let running = sinks.iter_mut().map(|sink| scope.spawn(move || work(sink)));
                let running: Vec<_> = running.collect();
                running
                    .into_iter()
                    .flat_map(|running| {
                        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    })
                    .collect()
            }),
        };
        done.sort_by_key(|(at, ..)| *at);
        let mut lines = Lines::new(logs);
        for (at, counted, of_piece) in done {
            let piece = &pieces[at];
            coverage.add_piece(of_piece, lines.before(piece));
            lines.add(piece, counted);
        }
        coverage
    }

    fn pieces(&self, logs: &[Log], coverage: &mut Coverage) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut bytes = 0;
        for (log, file) in logs.iter().enumerate() {
            let part = match file.part(self.query) {
                Ok(part) => part,
                Err(error) => {
                    coverage.unreadable(file.name(), &error);
                    continue;
                }
            };
            let Part::Bytes(begin, end) = part else {
                if let Part::Packed(len) = part {
                    bytes += len;
                }
                if part != Part::Nothing {
                    pieces.push(Piece { log, part, by_line: true, first: true });
                }
                continue;
            };
            bytes += end - begin;
            let mut from = begin;
            while from < end {
                let to = end.min(from + self.piece);
                let part = Part::Bytes(from, to);
                pieces.push(Piece { log, part, by_line: begin == 0, first: from == begin });
                from = to;
            }
        }
        self.meter.expect(bytes);
        pieces
    }
}

/// What reads one piece after the other.
struct Reader<'a> {
    scan: &'a Scan<'a>,
    logs: &'a [Log],
    sieve: &'a Sieve,
    buffers: Buffers,
}

impl Reader<'_> {
    /// Reads one piece; gives how many lines it has.
    fn read(&mut self, piece: &Piece, first_line: u64, coverage: &mut Coverage, sink: &mut impl Sink) -> u64 {
        coverage.logs += usize::from(piece.first);
        let log = &self.logs[piece.log];
        let (offset, until) = match piece.part {
            Part::Bytes(0, to) => (None, Some(to)),
            Part::Bytes(from, to) => (Some(from.saturating_sub(2)), Some(to)),
            Part::Packed(_) | Part::Stream | Part::Nothing => (None, None),
        };
        let first_line = piece.by_line.then_some(first_line);
        let cut = read::Piece { offset, until, first_line };
        let input = Metered { input: log.at(offset.unwrap_or(0)), scan: self.scan };
        let buffers = &mut self.buffers;
        if matches!(piece.part, Part::Packed(_)) {
            let input = MultiGzDecoder::new(BufReader::with_capacity(64 << 10, input));
            read::read_piece(log.name(), cut, input, buffers, self.sieve, coverage, sink)
        } else {
            read::read_piece(log.name(), cut, input, buffers, self.sieve, coverage, sink)
        }
    }
}

/// The next piece that nobody has.
fn take<'p>(pieces: &'p [Piece], next: &AtomicUsize) -> Option<(usize, &'p Piece)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    pieces.get(at).map(|piece| (at, piece))
}

/// What one thread hands over, and the piece that it is at. A thread says what it takes together with the end of what it had,
/// so that of every piece the taker is known once all before it have been taken out.
struct Queue {
    found: Receiver<Found>,
    at: Option<usize>,
}

impl Queue {
    /// Waits for the thread's first piece.
    fn new(found: Receiver<Found>) -> Self {
        let at = match found.recv() {
            Ok(Found::Next(at, _)) => at,
            Ok(Found::Batch(_)) | Err(_) => None,
        };
        Self { found, at }
    }
}

/// The lines of each log so far.
struct Lines(Vec<u64>);

impl Lines {
    fn new(logs: &[Log]) -> Self {
        Self(vec![0; logs.len()])
    }

    fn before(&self, piece: &Piece) -> u64 {
        if piece.by_line { self.0[piece.log] } else { 0 }
    }

    fn add(&mut self, piece: &Piece, lines: u64) {
        self.0[piece.log] += lines;
    }
}

impl At {
    fn after(self, lines: u64) -> Self {
        match self {
            Self::Line(line) => Self::Line(line + lines),
            Self::Byte(byte) => Self::Byte(byte),
        }
    }
}

impl Coverage {
    /// Adds what was read of a piece that comes after so many lines.
    fn add_piece(&mut self, mut piece: Self, lines: u64) {
        for damage in &mut piece.damage {
            damage.place.at = damage.place.at.after(lines);
        }
        self.add(&piece, "");
    }
}

/// Collects what a thread finds and hands it over in batches.
struct Handing {
    sender: SyncSender<Found>,
    batch: Vec<(Entry, Vec<u8>)>,
    bytes: usize,
}

impl Handing {
    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if !batch.is_empty() {
            self.send(Found::Batch(batch));
        }
    }

    fn next(&mut self, piece: Option<usize>, ended: Ended) {
        self.hand_over();
        self.send(Found::Next(piece, ended));
    }

    fn send(&self, found: Found) {
        // Whoever asked has panicked; what is found then is nobody's.
        let _ = self.sender.send(found);
    }
}

impl Sink for Handing {
    fn take(&mut self, entry: Entry, record: &[u8]) {
        self.batch.push((entry, record.to_vec()));
        self.bytes += record.len();
        if self.bytes >= BATCH {
            self.hand_over();
        }
    }
}

/// A log's bytes, counted, and slowly where that is asked for.
struct Metered<'a> {
    input: source::From<'a>,
    scan: &'a Scan<'a>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.scan.gentle {
            let got = self.input.read(buf)?;
            self.scan.meter.read(got as u64);
            return Ok(got);
        }
        let begun = Instant::now();
        let got = self.input.read(buf)?;
        self.scan.meter.read(got as u64);
        #[expect(clippy::cast_precision_loss, reason = "a block's size")]
        let from_memory = Duration::from_secs_f64(got as f64 / FROM_MEMORY);
        let took = begun.elapsed();
        if took > from_memory {
            thread::sleep(took);
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
