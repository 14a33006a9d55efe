//! Opening the logs an administrator names: the trail's only contact with the disk.
//!
//! The API server keeps writing, renaming and compressing while we read. So every file is opened before the first
//! is read, the live one before its folder is listed: a rotation in between then shows as a second name of a file
//! already open, and is left out, instead of as a hole. Files are read by blocks and never mapped, because a
//! mapped file that shrinks kills the reader.
#![expect(clippy::disallowed_methods, reason = "the trail's edge: opens files and lists folders")]

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use jiff::{SignedDuration, Timestamp};

use super::glance::Glance;
use super::query::Query;
use super::read::GZIP;

/// A log that is open and can be read from its beginning, as often as a question needs.
#[derive(Debug)]
pub struct Log {
    name: String,
    /// `None` is standard input before it is read; then it is a copy of it without a name.
    file: Option<File>,
}

/// The part of a log that a question can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing of it.
    Nothing,
    /// All of a compressed log of so many bytes.
    Packed(u64),
    /// All of something that does not know its size.
    Stream,
    /// These bytes of a plain log: the first, and the first one after.
    Bytes(u64, u64),
}

/// How far from its place an event is looked for: lines of concurrent requests are not in order.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);

/// How often a log is sampled before a part of it is left out.
const SAMPLES: u64 = 64;
/// Bytes of a log in which a whole line is looked for, and those where there is none in them.
const SHORT_SAMPLE: usize = 8 << 10;
const LONG_SAMPLE: usize = 64 << 10;

/// Everything that was named and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("not every log given can be read:{}", .0.iter().map(|refusal| format!("\n  {refusal}")).collect::<String>())]
pub struct Unreadable(Vec<Refusal>);

/// One path that cannot be read.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("`{}`: {error}; {}", path.display(), what_to_do(error))]
    Io { path: PathBuf, error: io::Error },
    #[error("`{}`: a folder without a log in it; name the folder of --audit-log-path, or the file itself", .0.display())]
    NoLog(PathBuf),
}

fn what_to_do(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "the log is on the control-plane nodes, at the --audit-log-path of their kube-apiserver"
        }
        io::ErrorKind::PermissionDenied => "audit logs are for root only: run this with sudo",
        _ => "check the disk, or leave this one out",
    }
}

/// Opens files, folders (the logs in them: `*.log`, and what lumberjack has rotated) and `-` for standard input.
/// A file reached by two names is read once.
///
/// # Errors
/// All paths that cannot be read, each with what to do about it.
pub fn open(paths: &[PathBuf]) -> Result<Vec<Log>, Unreadable> {
    let mut opening = Opening::default();
    for path in paths {
        let opened = match path {
            path if path == Path::new("-") => {
                opening.standard_input();
                Ok(())
            }
            path if path.is_dir() => opening.folder(path),
            path => opening.file(path),
        };
        if let Err(error) = opened {
            opening.refusals.push(Refusal::Io { path: path.clone(), error });
        }
    }
    if opening.refusals.is_empty() { Ok(opening.logs) } else { Err(Unreadable(opening.refusals)) }
}

impl Log {
    /// Copies standard input into a file without a name, if that is what this log is.
    ///
    /// # Errors
    /// Standard input's, or the disk's.
    pub fn spool(&mut self, standard_input: &mut dyn BufRead) -> io::Result<()> {
        if self.file.is_none() {
            let mut copy = tempfile::tempfile()?;
            io::copy(standard_input, &mut copy)?;
            self.file = Some(copy);
        }
        Ok(())
    }

    /// What places in this log are called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The log's bytes from one offset on.
    pub(super) fn at(&self, offset: u64) -> From<'_> {
        From { file: self.file.as_ref(), offset }
    }

    /// The part of a log that a window of time can be in. All of it, unless samples all over it are lines of one event
    /// each with times in order.
    pub(super) fn part(&self, query: &Query) -> io::Result<Part> {
        let Some(file) = &self.file else { return Ok(Part::Nothing) };
        let metadata = file.metadata()?;
        let len = metadata.len();
        // Written to for the last time before the window begins.
        if let (Some(since), Ok(written)) = (query.since, metadata.modified())
            && Timestamp::try_from(written).is_ok_and(|written| written < since - MARGIN)
        {
            return Ok(Part::Nothing);
        }
        if len == 0 {
            return Ok(Part::Stream);
        }
        let mut head = [0];
        if self.at(0).read(&mut head)? == 1 && head[0] == GZIP {
            let begun = query.until.and_then(|_| first_time(MultiGzDecoder::new(self.at(0))));
            let late = begun.zip(query.until).is_some_and(|(begun, until)| begun - MARGIN > until);
            return Ok(if late { Part::Nothing } else { Part::Packed(len) });
        }
        let whole = Part::Bytes(0, len);
        if (query.since.is_none() && query.until.is_none()) || len < SAMPLES * 4 * LONG_SAMPLE as u64 {
            return Ok(whole);
        }
        let mut samples = Vec::new();
        for at in (0..SAMPLES).map(|sample| len / SAMPLES * sample) {
            match self.sample(at)? {
                Some(sample) => samples.push(sample),
                None => return Ok(whole),
            }
        }
        if !samples.is_sorted_by(|(_, before), (_, after)| *before <= *after + MARGIN) {
            return Ok(whole);
        }
        let before = |time: &Timestamp| query.since.is_some_and(|since| *time + MARGIN < since);
        let after = |time: &Timestamp| query.until.is_some_and(|until| *time - MARGIN > until);
        let first = samples.iter().rev().find(|(_, time)| before(time)).map_or(0, |(at, _)| *at);
        let end = samples.iter().find(|(_, time)| after(time)).map_or(len, |(at, _)| *at);
        Ok(if end > first { Part::Bytes(first, end) } else { Part::Nothing })
    }

    /// Where the first line behind this offset begins, and the time of its event. Most lines are short; those that are not are
    /// looked for in a larger block.
    fn sample(&self, at: u64) -> io::Result<Option<(u64, Timestamp)>> {
        let mut block = Vec::with_capacity(SHORT_SAMPLE);
        for len in [SHORT_SAMPLE, LONG_SAMPLE] {
            block.clear();
            self.at(at).take(len as u64).read_to_end(&mut block)?;
            let found = first_line(&block, at == 0).and_then(|(begin, line)| {
                let time = Glance::of(line)?.stage_time()?;
                Some((at + begin as u64, time))
            });
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// The first whole line of a block, and where it begins; the block's own beginning may be in the middle of one.
fn first_line(block: &[u8], begins: bool) -> Option<(usize, &[u8])> {
    let begin = if begins { 0 } else { memchr::memmem::find(block, b"}\n{\"")? + 2 };
    let line = &block[begin..];
    Some((begin, &line[..memchr::memchr(b'\n', line)?]))
}

/// The time of the first event, where that is on a line of its own and not far.
fn first_time(mut input: impl Read) -> Option<Timestamp> {
    let mut block = Vec::new();
    // To unpack more than is needed of each log of a folder would take longer than many an answer.
    for len in [SHORT_SAMPLE, LONG_SAMPLE] {
        input.by_ref().take((len - block.len()) as u64).read_to_end(&mut block).ok()?;
        if let Some(end) = memchr::memchr(b'\n', &block) {
            return Glance::of(&block[..end])?.stage_time();
        }
    }
    None
}

/// A log's bytes from somewhere on; any number of these may read at once.
#[derive(Debug)]
pub(super) struct From<'a> {
    file: Option<&'a File>,
    offset: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(file) = self.file else { return Ok(0) };
        let got = match file.read_at(buf, self.offset) {
            // A pipe by its name: it has no places.
            Err(error) if error.kind() == io::ErrorKind::NotSeekable => (&mut &*file).read(buf)?,
            got => got?,
        };
        self.offset += got as u64;
        Ok(got)
    }
}

#[derive(Default)]
struct Opening {
    logs: Vec<Log>,
    /// Device and inode of every file in `logs`.
    seen: HashSet<(u64, u64)>,
    refusals: Vec<Refusal>,
}

impl Opening {
    fn standard_input(&mut self) {
        if self.logs.iter().all(|log| log.file.is_some()) {
            self.logs.push(Log { name: "-".to_owned(), file: None });
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if self.seen.insert((metadata.dev(), metadata.ino())) {
            self.logs.push(Log { name: path.display().to_string(), file: Some(file) });
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let live_at = self.logs.len();
        for name in in_order(names(folder)?).iter().filter(|name| name.is_live()) {
            self.file_in(folder, name);
        }
        let live = self.logs.split_off(live_at);
        let rotated_by_now = in_order(names(folder)?);
        if rotated_by_now.is_empty() {
            self.refusals.push(Refusal::NoLog(folder.to_owned()));
        }
        for name in &rotated_by_now {
            self.file_in(folder, name);
        }
        self.logs.extend(live);
        Ok(())
    }

    fn file_in(&mut self, folder: &Path, name: &Name) {
        let path = folder.join(&name.file);
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let opened = match self.file(&path) {
            // Listed a moment ago: the server has compressed it since, or pruned it.
            Err(error) if gone(&error) && !name.packed => {
                self.file(&folder.join(format!("{}.gz", name.file)))
            }
            opened => opened,
        };
        if let Err(error) = opened
            && !gone(&error)
        {
            self.refusals.push(Refusal::Io { path, error });
        }
    }
}

/// The live logs of a folder.
pub(super) fn live_logs(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let names = in_order(names(folder)?);
    Ok(names.iter().filter(|name| name.is_live()).map(|name| folder.join(&name.file)).collect())
}

/// The plain files that a live log was rotated to, oldest first.
pub(super) fn rotated_logs(live: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = live.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let base = live.file_name().unwrap_or_default().to_string_lossy();
    let names = in_order(names(folder)?);
    let ours = names.iter().filter(|name| name.base == base && !name.current && !name.packed);
    Ok(ours.map(|name| folder.join(&name.file)).collect())
}

/// The regular files in a folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// A log file's name, as lumberjack makes it when the API server rotates: `audit.log` becomes
/// `audit-2026-01-02T03-04-05.678.log` and, compressed, `audit-2026-01-02T03-04-05.678.log.gz`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    /// The live file's name.
    base: String,
    /// Whether the server still writes to it, as far as the name tells; after the rotated ones.
    current: bool,
    /// When it was rotated, in UTC; sorts as text.
    stamp: String,
    packed: bool,
    file: String,
}

impl Name {
    fn parse(file: &str) -> Self {
        let plain = file.strip_suffix(".gz").unwrap_or(file);
        let (stem, extension) = match plain.rfind('.') {
            // A path without an extension is rotated to a name that ends with the stamp.
            Some(dot) if !is_stamped(plain) => plain.split_at(dot),
            _ => (plain, ""),
        };
        let (base, stamp) = match is_stamped(stem) {
            true => stem.split_at(stem.len() - STAMP.len()),
            false => (stem, ""),
        };
        Self {
            base: format!("{base}{extension}"),
            current: stamp.is_empty(),
            stamp: stamp.to_owned(),
            packed: plain.len() < file.len(),
            file: file.to_owned(),
        }
    }

    fn is_live(&self) -> bool {
        self.current && !self.packed
    }
}

const STAMP: &str = "-0000-00-00T00-00-00.000";

fn is_stamped(stem: &str) -> bool {
    let fits = |(byte, model): (&u8, u8)| if model == b'0' { byte.is_ascii_digit() } else { *byte == model };
    stem.len() > STAMP.len()
        && stem.as_bytes()[stem.len() - STAMP.len()..].iter().zip(STAMP.bytes()).all(fits)
}

/// The logs among the files of a folder, each log's rotated files oldest first and then its live one: what is
/// named `*.log`, what lumberjack has rotated, and the live file that belongs to it. Of a rotated file and its
/// compressed copy, which an interrupted compression leaves side by side, the plain one is whole.
fn in_order(files: Vec<String>) -> Vec<Name> {
    let mut names: Vec<Name> = files.iter().map(|file| Name::parse(file)).collect();
    let rotated: BTreeSet<String> =
        names.iter().filter(|name| !name.current).map(|name| name.base.clone()).collect();
    names.retain(|name| name.base.ends_with(".log") || rotated.contains(&name.base));
    names.sort();
    names.dedup_by(|second, first| {
        !first.current && (&second.base, &second.stamp) == (&first.base, &first.stamp)
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_order(files: &[&str], expected: &[&str]) {
        let names = in_order(files.iter().map(|&file| file.to_owned()).collect());
        let files: Vec<&str> = names.iter().map(|name| name.file.as_str()).collect();
        assert_eq!(files, expected);
    }

    #[test]
    fn rotated_files_come_oldest_first_and_the_live_one_last() {
        check_order(
            &[
                "audit.log",
                "audit-2026-01-02T03-04-05.678.log",
                "audit-2025-12-31T23-59-59.999.log.gz",
                "audit-2026-01-02T03-04-05.079.log.gz",
            ],
            &[
                "audit-2025-12-31T23-59-59.999.log.gz",
                "audit-2026-01-02T03-04-05.079.log.gz",
                "audit-2026-01-02T03-04-05.678.log",
                "audit.log",
            ],
        );
    }

    #[test]
    fn an_interrupted_compression_is_read_once() {
        check_order(
            &["audit-2026-01-02T03-04-05.678.log.gz", "audit-2026-01-02T03-04-05.678.log"],
            &["audit-2026-01-02T03-04-05.678.log"],
        );
    }

    #[test]
    fn logs_of_other_names_are_found_by_their_rotated_files() {
        check_order(
            &["audit", "audit-2026-01-02T03-04-05.678", "notes.txt", "audit-2026-01-02.txt"],
            &["audit-2026-01-02T03-04-05.678", "audit"],
        );
        check_order(
            &["kube.json", "kube-2026-01-02T03-04-05.678.json.gz", "other.json"],
            &["kube-2026-01-02T03-04-05.678.json.gz", "kube.json"],
        );
        check_order(
            &["b.log", "a.log", "a-2026-01-02T03-04-05.678.log", "-2026-01-02T03-04-05.678"],
            &["a-2026-01-02T03-04-05.678.log", "a.log", "b.log"],
        );
    }

    #[test]
    fn a_folder_is_read_once_however_often_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let rotated = dir.path().join("audit-2026-01-02T03-04-05.678.log");
        fs::write(&rotated, "").unwrap();
        fs::write(dir.path().join("audit.log"), "").unwrap();
        std::os::unix::fs::symlink(&rotated, dir.path().join("latest.log")).unwrap();
        fs::create_dir(dir.path().join("folder.log")).unwrap();

        let dash = PathBuf::from("-");
        let logs =
            open(&[dash.clone(), dir.path().to_owned(), rotated, dash, dir.path().to_owned()]).unwrap();

        let names: Vec<&str> =
            logs.iter().map(|log| log.name().rsplit('/').next().expect("one part at least")).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names.contains(&"-") && names.contains(&"audit.log"), "{names:?}");
    }

    #[test]
    fn what_is_rotated_away_while_we_look_is_found_packed_or_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let (packed, gone) = ("audit-2026-01-02T03-04-05.678.log", "audit-2026-01-01T03-04-05.678.log");
        fs::write(dir.path().join(format!("{packed}.gz")), "").unwrap();
        let mut opening = Opening::default();
        for listed in [packed, gone, &format!("{gone}.gz"), "audit.log"] {
            opening.file_in(dir.path(), &Name::parse(listed));
        }
        assert_eq!((opening.logs.len(), opening.refusals.len()), (1, 0));
    }

    #[test]
    fn a_folder_is_read_from_its_oldest_file_to_its_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["audit-2026-01-01T03-04-05.678.log", "audit-2026-01-02T03-04-05.678.log", "audit.log"];
        for file in files {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let logs = open(&[dir.path().to_owned()]).unwrap();
        let expected = files.map(|file| dir.path().join(file).display().to_string());
        assert!(logs.iter().map(Log::name).eq(expected.iter().map(String::as_str)), "{logs:?}");
    }

    #[test]
    fn when_a_log_begins_is_told_by_its_first_line_unless_that_is_very_long() {
        let line = |padding: usize| {
            let body = "x".repeat(padding);
            format!(
                r#"{{"auditID":"a","stage":"Panic","verb":"get","requestObject":"{body}","stageTimestamp":"2026-01-02T03:04:05Z"}}"#
            ) + "\n"
        };
        let time = "2026-01-02T03:04:05Z".parse().ok();
        for (padding, expected) in [(0, time), (SHORT_SAMPLE, time), (LONG_SAMPLE, None)] {
            let log = line(padding) + &line(0);
            assert_eq!(first_time(log.as_bytes()), expected, "{padding}");
        }
        assert_eq!(first_time(line(0).trim_end().as_bytes()), None, "it may be cut off");
    }

    #[test]
    fn all_that_cannot_be_read_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        let missing = dir.path().join("missing.log");

        let error = open(&[missing.clone(), dir.path().to_owned()]).unwrap_err().to_string();

        assert!(error.contains(&format!("`{}`: ", missing.display())), "{error}");
        assert!(error.contains("--audit-log-path"), "{error}");
        assert!(error.contains("a folder without a log in it"), "{error}");
    }
}
