//! A log that is still being written, line by line as they come, over rotations.
//!
//! The API server renames its log and begins a new one when it is full. A file is known by its inode, so that a rename
//! takes nothing away: the old file is read to its end, then those between, then the new one.
#![expect(clippy::disallowed_methods, reason = "the trail's edge: looks at files again and again")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::query::{Matching, Query};
use super::read::{self, At, Coverage, Entry, Piece, Sink};
use super::sieve::Sieve;
use super::source;

/// Bytes read at a time.
const BLOCK: usize = 256 << 10;

/// One log that is followed.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    file: File,
    /// Where the next block begins.
    offset: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

/// Opens the live logs among these files and folders, each at its end.
///
/// # Errors
/// One cannot be read.
pub fn open(paths: &[PathBuf]) -> io::Result<Vec<Follow>> {
    let mut follows = Vec::new();
    for path in paths {
        let files = if path.is_dir() { source::live_logs(path)? } else { vec![path.clone()] };
        for path in files {
            let file = File::open(&path)?;
            let len = file.metadata()?.len();
            follows.push(Follow { path, file, offset: len, rest: Vec::new() }.at_a_line()?);
        }
    }
    Ok(follows)
}

impl Follow {
    /// Steps back to where a line begins: what is being written just now is read when it is whole.
    fn at_a_line(mut self) -> io::Result<Self> {
        let mut byte = [0];
        while self.offset > 0 {
            self.file.read_exact_at(&mut byte, self.offset - 1)?;
            if byte[0] == b'\n' {
                break;
            }
            self.offset -= 1;
        }
        Ok(self)
    }

    /// Hands on what has been written since the last time.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn poll(
        &mut self,
        query: &Query,
        sieve: &Sieve,
        coverage: &mut Coverage,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        self.drain(query, sieve, coverage, sink)?;
        let now = match fs::metadata(&self.path) {
            // Renamed a moment ago; the new one is about to be made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            now => now?,
        };
        let ours = self.file.metadata()?;
        if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) {
            if now.len() < self.offset {
                coverage
                    .unreadable(&self.name(), &io::Error::other("it was cut; read from its beginning again"));
                self.go_to(self.file.try_clone()?);
            }
            return Ok(());
        }
        // Nothing is written to a log that has been renamed, but something may have been before.
        self.drain(query, sieve, coverage, sink)?;
        for path in self.later(ours.ino())? {
            let Ok(file) = File::open(&path) else {
                coverage.unreadable(
                    &path.display().to_string(),
                    &io::Error::other("rotated away before it was read"),
                );
                continue;
            };
            self.go_to(file);
            self.drain(query, sieve, coverage, sink)?;
        }
        self.go_to(File::open(&self.path)?);
        self.drain(query, sieve, coverage, sink)
    }

    /// The logs that were rotated after the one with this inode.
    fn later(&self, ours: u64) -> io::Result<Vec<PathBuf>> {
        let logs = source::rotated_logs(&self.path)?;
        let is_ours = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == ours);
        let at = logs.iter().position(is_ours).map_or(logs.len(), |at| at + 1);
        Ok(logs[at..].to_vec())
    }

    fn go_to(&mut self, file: File) {
        (self.file, self.offset) = (file, 0);
        self.rest.clear();
    }

    fn drain(
        &mut self,
        query: &Query,
        sieve: &Sieve,
        coverage: &mut Coverage,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        loop {
            let got = self.file.read_at(&mut block, self.offset)?;
            if got == 0 {
                return Ok(());
            }
            let begin = self.offset - self.rest.len() as u64;
            self.offset += got as u64;
            self.rest.extend_from_slice(&block[..got]);
            let Some(end) = memchr::memrchr(b'\n', &self.rest) else {
                if self.rest.len() > read::RECORD_LIMIT {
                    coverage
                        .unreadable(&self.name(), &io::Error::other("a line longer than a record can be"));
                    self.rest.clear();
                }
                continue;
            };
            let lines: Vec<u8> = self.rest.drain(..=end).collect();
            let name = self.name();
            let mut from = From { begin, sink };
            let mut matching = Matching { query, sink: &mut from };
            let piece = Piece { offset: None, until: None, first_line: None };
            read::read_piece(
                &name,
                piece,
                &lines[..],
                &mut read::Buffers::default(),
                sieve,
                coverage,
                &mut matching,
            );
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Moves places by where the lines begin in the log.
struct From<'a, S> {
    begin: u64,
    sink: &'a mut S,
}

impl<S: Sink> Sink for From<'_, S> {
    fn take(&mut self, mut entry: Entry, record: &[u8]) {
        if let At::Byte(byte) = &mut entry.place.at {
            *byte += self.begin;
        }
        self.sink.take(entry, record);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::trail::query::Filter;

    fn line(id: usize) -> String {
        format!("{{\"auditID\":\"{id}\",\"stage\":\"Panic\",\"verb\":\"get\"}}\n")
    }

    struct Log {
        folder: tempfile::TempDir,
        live: File,
        follow: Follow,
    }

    impl Log {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("audit.log");
            let mut live = File::create(&path).unwrap();
            live.write_all(line(0).as_bytes()).unwrap();
            let follow = open(&[folder.path().to_owned()]).unwrap().remove(0);
            Self { folder, live, follow }
        }

        fn write(&mut self, text: &str) {
            self.live.write_all(text.as_bytes()).unwrap();
        }

        fn rotate(&mut self, second: usize) {
            let path = self.folder.path().join("audit.log");
            let stamped = self.folder.path().join(format!("audit-2026-01-02T03-04-{second:02}.678.log"));
            fs::rename(&path, stamped).unwrap();
            self.live = File::create(path).unwrap();
        }

        #[track_caller]
        fn check(&mut self, ids: &[&str]) {
            let query = Query { any: vec![Filter::default()], ..Query::default() };
            let (mut coverage, mut found) = (Coverage::default(), Vec::new());
            let mut sink = |entry: Entry| found.push(entry.event.audit_id);
            self.follow.poll(&query, &query.sieve(), &mut coverage, &mut sink).unwrap();
            assert_eq!(found, ids);
            assert_eq!(coverage.damaged, 0, "{coverage:?}");
        }
    }

    #[test]
    fn only_what_is_new_comes_and_only_when_its_line_is_whole() {
        let mut log = Log::new();
        log.check(&[]);
        log.write(&format!("{}{}", line(1), &line(2)[..20]));
        log.check(&["1"]);
        log.write(&line(2)[20..]);
        log.check(&["2"]);
        log.check(&[]);
    }

    #[test]
    fn rotations_lose_nothing_however_many_there_were() {
        let mut log = Log::new();
        log.write(&line(1));
        log.rotate(1);
        log.write(&line(2));
        log.check(&["1", "2"]);
        log.write(&line(3));
        log.rotate(2);
        log.write(&line(4));
        log.rotate(3);
        log.write(&line(5));
        log.check(&["3", "4", "5"]);
    }

    #[test]
    fn between_the_two_halves_of_a_rotation_nothing_is_lost() {
        let mut log = Log::new();
        let path = log.folder.path().join("audit.log");
        log.write(&line(1));
        fs::rename(&path, log.folder.path().join("audit-2026-01-02T03-04-05.678.log")).unwrap();
        log.check(&["1"]);
        log.live = File::create(path).unwrap();
        log.write(&line(2));
        log.check(&["2"]);
    }

    #[test]
    fn a_log_that_was_cut_is_read_from_its_beginning() {
        let mut log = Log::new();
        log.live.set_len(0).unwrap();
        std::io::Seek::rewind(&mut log.live).unwrap();
        let query = Query { any: vec![Filter::default()], ..Query::default() };
        let mut coverage = Coverage::default();
        log.follow.poll(&query, &query.sieve(), &mut coverage, &mut |_: Entry| {}).unwrap();
        assert_eq!(coverage.damaged, 1);
        log.write(&line(1));
        log.check(&["1"]);
    }
}
