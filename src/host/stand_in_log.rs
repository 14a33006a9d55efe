//! The stand-in's own audit log made a part of the node's: true source addresses in it, beside the live log, once.
//!
//! Two API servers must not write to one log, so the stand-in has its own. When it has ended, its events come into one file
//! with a rotated log's name, which log shippers, `kubectl audit who` and the API server's own pruning know already.
//!
//! Every step leaves the events in exactly one place that counts, so that stopping between any two and starting again
//! neither loses nor repeats one: raw files are *claimed* (renamed), all that is claimed is *staged* (a whole dot-file
//! beside the live log), the claimed files go, the staged one is *published* (renamed). While there is a staged file
//! nothing is claimed, so what is claimed then is in it.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

use super::disk::Disk;
use super::{Error, file};
use crate::install::addresses::{Addresses, restore};

/// As lumberjack, which rotates the API server's log, writes the time into a name; in UTC.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";
/// What a claimed file's name ends with; it begins with a dot, so no log shipper takes it for a log.
const CLAIMED: &str = ".merging";

/// Moves all events of `raw_log`, the stand-in's log, and of its rotated files into a new file beside `into`, the live log,
/// and returns how many there were.
///
/// The file is 0600 and has the name of a log rotated now (`audit-2026-11-22T10-11-12.345.log` for `audit.log`); of no
/// events none is made. After an error, or when the process ended in between, call it again: it goes on.
///
/// The stand-in must have ended: what a process still writes to a file that is gone is lost.
///
/// # Errors
/// A file or folder that cannot be read, written or renamed.
pub(super) fn merge(disk: &dyn Disk, raw_log: &Path, table: &Addresses, into: &Path) -> Result<u64, Error> {
    let merging = Merging { disk, raw_log, into };
    let mut events = merging.finish()?;
    // First what an earlier call claimed: a new stand-in may have begun files of the same names since.
    events += merging.carry_over(table)?;
    merging.claim()?;
    Ok(events + merging.carry_over(table)?)
}

struct Merging<'a> {
    disk: &'a dyn Disk,
    raw_log: &'a Path,
    into: &'a Path,
}

impl Merging<'_> {
    fn carry_over(&self, table: &Addresses) -> Result<u64, Error> {
        self.stage(table)?;
        self.finish()
    }

    /// What there is to do once a staged file is whole; nothing without one.
    fn finish(&self) -> Result<u64, Error> {
        let staged = self.staged();
        if self.disk.about(&staged).is_err() {
            return Ok(0);
        }
        self.drop_claimed()?;
        let opened = self.disk.open(&staged);
        let events = opened.and_then(count_lines).map_err(Error::file("read", &staged))?;
        self.publish()?;
        Ok(events)
    }

    /// Renames the raw files, so that they are not what a new stand-in writes to.
    fn claim(&self) -> Result<(), Error> {
        let folder = folder(self.raw_log);
        let names = file::list(self.disk, folder)?;
        let mut claimed = false;
        for name in names.iter().filter(|name| self.raw_stamp(name).is_some()) {
            let path = folder.join(name);
            // A compression that the stand-in's end interrupted leaves both; the plain one is whole.
            if name.strip_suffix(".gz").is_some_and(|plain| names.iter().any(|other| other == plain)) {
                file::remove(self.disk, &path)?;
                continue;
            }
            let claim = folder.join(format!(".{name}{CLAIMED}"));
            self.disk.rename(&path, &claim).map_err(Error::file("rename", &path))?;
            claimed = true;
        }
        if claimed { file::sync_folder(self.disk, folder) } else { Ok(()) }
    }

    /// Writes the events of all claimed files to a whole dot-file beside the live log. Claimed files without any are removed.
    fn stage(&self, table: &Addresses) -> Result<(), Error> {
        let claimed = self.claimed()?;
        if claimed.is_empty() {
            return Ok(());
        }
        let partial = self.beside("stand-in.partial");
        let bytes = self.copy_all(&claimed, table, &partial)?;
        if bytes == 0 {
            file::remove(self.disk, &partial)?;
            return self.drop_claimed();
        }
        let staged = self.staged();
        self.disk.rename(&partial, &staged).map_err(Error::file("write", &staged))?;
        file::sync_folder(self.disk, folder(self.into))
    }

    /// Copies the files' lines, with the true addresses in them, to a new file that is on the disk then; returns its length.
    fn copy_all(&self, from: &[PathBuf], table: &Addresses, to: &Path) -> Result<u64, Error> {
        file::remove(self.disk, to)?;
        let mut out = BufWriter::new(self.disk.create(to).map_err(Error::file("write", to))?);
        let mut bytes = 0;
        for path in from {
            let opened = self.disk.open(path).map_err(Error::file("read", path))?;
            let mut lines: Box<dyn BufRead> = match is_packed(path) {
                true => Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(opened)))),
                false => Box::new(BufReader::new(opened)),
            };
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).map_err(Error::file("read", path))? > 0 {
                // The line that a killed server did not end must not swallow the next one.
                if line.last() != Some(&b'\n') {
                    line.push(b'\n');
                }
                let restored = restore(&line, table);
                out.write_all(&restored).map_err(Error::file("write", to))?;
                bytes += restored.len() as u64;
                line.clear();
            }
        }
        let written = out.into_inner().map_err(io::IntoInnerError::into_error);
        written.and_then(|mut file| file.sync()).map_err(Error::file("write", to))?;
        Ok(bytes)
    }

    fn drop_claimed(&self) -> Result<(), Error> {
        for path in self.claimed()? {
            file::remove(self.disk, &path)?;
        }
        file::sync_folder(self.disk, folder(self.raw_log))
    }

    /// Gives the staged file a rotated log's name that no other has, compressed or not.
    fn publish(&self) -> Result<(), Error> {
        let staged = self.staged();
        let about = self.disk.about(&staged);
        let mut at = about
            .and_then(|about| Timestamp::try_from(about.written).map_err(io::Error::other))
            .map_err(Error::file("read the time of", &staged))?;
        loop {
            let path = self.into.with_file_name(rotated_name(&name_of(self.into), at));
            let packed = path.with_file_name(format!("{}.gz", name_of(&path)));
            if self.disk.about(&packed).is_err() {
                match self.disk.rename_new(&staged, &path) {
                    Ok(()) => return file::sync_folder(self.disk, folder(self.into)),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(Error::file("write", &path)(error)),
                }
            }
            at += SignedDuration::from_millis(1);
        }
    }

    fn staged(&self) -> PathBuf {
        self.into.with_file_name(staged_name(self.into))
    }

    fn beside(&self, what: &str) -> PathBuf {
        self.into.with_file_name(format!(".{}.{what}", name_of(self.into)))
    }

    /// The claimed files, oldest first.
    fn claimed(&self) -> Result<Vec<PathBuf>, Error> {
        let folder = folder(self.raw_log);
        let mut found = Vec::new();
        for name in file::list(self.disk, folder)? {
            if let Some(stamp) = unclaimed(&name).and_then(|raw| self.raw_stamp(raw)) {
                found.push((stamp, folder.join(name)));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    fn raw_stamp(&self, name: &str) -> Option<civil::DateTime> {
        raw_stamp(self.raw_log, name)
    }
}

/// Whether a file of this name is one of those that [`merge`] moves and removes: the raw log, or what it was rotated or claimed
/// to.
pub(super) fn is_of(raw_log: &Path, name: &str) -> bool {
    raw_stamp(raw_log, unclaimed(name).unwrap_or(name)).is_some()
}

/// The name of a claimed file before it was claimed.
fn unclaimed(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(CLAIMED)
}

/// When a raw file was rotated, if the name is one of a raw file; the live one comes after them all.
fn raw_stamp(raw_log: &Path, name: &str) -> Option<civil::DateTime> {
    let raw = name_of(raw_log);
    if name == raw {
        return Some(civil::DateTime::MAX);
    }
    let (stem, extension) = split(&raw);
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let stamp = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?;
    civil::DateTime::strptime(STAMP, stamp).ok()
}

/// Name of the whole file of events that only lacks its name yet.
pub(super) fn staged_name(into: &Path) -> String {
    format!(".{}.stand-in", name_of(into))
}

fn is_packed(claimed: &Path) -> bool {
    name_of(claimed).ends_with(&format!(".gz{CLAIMED}"))
}

fn count_lines(mut file: Box<dyn Read>) -> io::Result<u64> {
    let (mut block, mut lines) = ([0; 1 << 16], 0);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(lines),
            length => lines += memchr::memchr_iter(b'\n', &block[..length]).count() as u64,
        }
    }
}

/// The name that lumberjack gives the log when it rotates it at this time.
fn rotated_name(log: &str, at: Timestamp) -> String {
    let (stem, extension) = split(log);
    format!("{stem}-{}{extension}", at.to_zoned(TimeZone::UTC).strftime(STAMP))
}

/// A name before its last dot, and from it on.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.rfind('.').unwrap_or(name.len()))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::host::disk::RealDisk;

    const ROTATED: &str = "stand-in-2026-11-22T10-11-12.345.log";

    /// A node's log folder and a stand-in's beside it.
    struct Logs(tempfile::TempDir);

    impl Logs {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("raw")).unwrap();
            fs::create_dir(root.path().join("audit")).unwrap();
            fs::write(root.path().join("audit/audit.log"), "live\n").unwrap();
            Self(root)
        }

        fn raw(&self, name: &str) -> PathBuf {
            self.0.path().join("raw").join(name)
        }

        fn live(&self) -> PathBuf {
            self.0.path().join("audit/audit.log")
        }

        fn write(&self, name: &str, events: &[u32]) {
            let lines: String = events.iter().map(|number| event(*number, "127.64.0.1")).collect();
            fs::write(self.raw(name), lines).unwrap();
        }

        fn merge(&self) -> u64 {
            merge(&RealDisk, &self.raw("stand-in.log"), &table(), &self.live()).unwrap()
        }

        /// Carries out the first steps only.
        fn begin(&self, steps: usize) {
            let (raw, into) = (self.raw("stand-in.log"), self.live());
            let merging = Merging { disk: &RealDisk, raw_log: &raw, into: &into };
            let all: [&dyn Fn() -> Result<(), Error>; 4] =
                [&|| merging.claim(), &|| merging.stage(&table()), &|| merging.drop_claimed(), &|| {
                    merging.publish()
                }];
            for step in &all[..steps] {
                step().unwrap();
            }
        }

        /// The files beside the live log, and what is in them, in the order of their names.
        fn published(&self) -> Vec<(String, String)> {
            let names = file::list(&RealDisk, folder(&self.live())).unwrap();
            let read = |name: String| {
                let text = fs::read_to_string(self.live().with_file_name(&name)).unwrap();
                (name, text)
            };
            names.into_iter().filter(|name| name != "audit.log").map(read).collect()
        }

        /// Each of these events is there once, in this order, with its true address, and no other file is anywhere.
        #[track_caller]
        fn check(&self, events: &[u32]) {
            let text: String = self.published().into_iter().map(|(_, text)| text).collect();
            let expected: String = events.iter().map(|number| event(*number, "198.51.100.7")).collect();
            assert_eq!(text, expected);
            assert_eq!(fs::read_to_string(self.live()).unwrap(), "live\n");
            assert_eq!(file::list(&RealDisk, &self.raw("")).unwrap(), [""; 0]);
            assert!(
                self.published().iter().all(|(name, _)| !name.starts_with('.')),
                "{:?}",
                self.published()
            );
        }
    }

    fn event(number: u32, source: &str) -> String {
        format!("{{\"auditID\":\"{number}\",\"sourceIPs\":[\"{source}\"]}}\n")
    }

    fn table() -> Addresses {
        Addresses::parse(b"127.64.0.1 198.51.100.7\n")
    }

    fn pack(path: &Path) {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&fs::read(path).unwrap()).unwrap();
        fs::write(path.with_file_name(format!("{}.gz", name_of(path))), packed.finish().unwrap()).unwrap();
    }

    #[test]
    fn what_somebody_else_put_beside_a_raw_log_is_none() {
        let is_of = |name: &str| is_of(Path::new("/x/stand-in.log"), name);
        for name in ["stand-in.log", ROTATED, &format!("{ROTATED}.gz"), ".stand-in.log.merging"] {
            assert!(is_of(name), "{name}");
        }
        for name in
            ["stand-in.log.bak", ".stand-in.log.swp", "stand-in-old.log", "stand-in.log.gz", "x.merging"]
        {
            assert!(!is_of(name), "{name}");
        }
    }

    #[test]
    fn events_come_beside_the_live_log_as_a_rotated_one() {
        let logs = Logs::new();
        logs.write("stand-in.log", &[1, 2]);
        assert_eq!(logs.merge(), 2);
        logs.check(&[1, 2]);
        let [(name, _)] = &logs.published()[..] else { panic!("{:?}", logs.published()) };
        let stamp = name.strip_prefix("audit-").unwrap().strip_suffix(".log").unwrap();
        assert_eq!(stamp.len(), "2026-11-22T10-11-12.345".len(), "{name}");
        civil::DateTime::strptime(STAMP, stamp).unwrap();
        let mode = fs::metadata(logs.live().with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn rotated_names_are_lumberjacks() {
        let at: Timestamp = "2026-11-22T12:11:12.3456+02:00".parse().unwrap();
        assert_eq!(rotated_name("audit.log", at), "audit-2026-11-22T10-11-12.345.log");
        assert_eq!(rotated_name("kube.audit.json", at), "kube.audit-2026-11-22T10-11-12.345.json");
        assert_eq!(rotated_name("audit", at), "audit-2026-11-22T10-11-12.345");
    }

    #[test]
    fn rotated_raw_files_come_first_and_others_are_left_alone() {
        let logs = Logs::new();
        logs.write("stand-in.log", &[3]);
        logs.write(ROTATED, &[2]);
        logs.write("stand-in-2026-11-21T10-11-12.345.log", &[1]);
        pack(&logs.raw("stand-in-2026-11-21T10-11-12.345.log"));
        fs::remove_file(logs.raw("stand-in-2026-11-21T10-11-12.345.log")).unwrap();
        for other in ["stand-in-of-mine.log", "stand-in.log.bak", "another.log"] {
            logs.write(other, &[9]);
        }
        assert_eq!(logs.merge(), 3);
        assert_eq!(
            file::list(&RealDisk, &logs.raw("")).unwrap(),
            ["another.log", "stand-in-of-mine.log", "stand-in.log.bak"]
        );
        for other in file::list(&RealDisk, &logs.raw("")).unwrap() {
            fs::remove_file(logs.raw(&other)).unwrap();
        }
        logs.check(&[1, 2, 3]);
    }

    #[test]
    fn an_interrupted_compression_is_taken_once() {
        let logs = Logs::new();
        logs.write(ROTATED, &[1]);
        fs::write(logs.raw(&format!("{ROTATED}.gz")), "half of it").unwrap();
        assert_eq!(logs.merge(), 1);
        logs.check(&[1]);
    }

    #[test]
    fn no_events_make_no_file() {
        let logs = Logs::new();
        assert_eq!(logs.merge(), 0);
        logs.check(&[]);
        logs.write("stand-in.log", &[]);
        assert_eq!(logs.merge(), 0);
        logs.check(&[]);
        fs::remove_dir(logs.raw("")).unwrap();
        assert_eq!(logs.merge(), 0);
    }

    #[test]
    fn a_line_cut_off_stays_a_line_of_its_own() {
        let logs = Logs::new();
        fs::write(logs.raw(ROTATED), "{\"auditID\":\"1\",\"sour").unwrap();
        logs.write("stand-in.log", &[2]);
        assert_eq!(logs.merge(), 2);
        let expected = format!("{{\"auditID\":\"1\",\"sour\n{}", event(2, "198.51.100.7"));
        assert_eq!(logs.published()[0].1, expected);
    }

    #[test]
    fn stopped_after_any_step_it_goes_on_when_called_again() {
        for steps in 0..=4 {
            let logs = Logs::new();
            logs.write(ROTATED, &[1]);
            logs.write("stand-in.log", &[2]);
            logs.begin(steps);
            assert_eq!(logs.merge(), if steps < 4 { 2 } else { 0 }, "after {steps} steps");
            logs.check(&[1, 2]);
            assert_eq!(logs.merge(), 0);
            logs.check(&[1, 2]);
        }
    }

    #[test]
    fn a_new_stand_in_may_run_before_it_is_called_again() {
        for steps in 1..=4 {
            let logs = Logs::new();
            logs.write(ROTATED, &[1]);
            logs.write("stand-in.log", &[2]);
            logs.begin(steps);
            logs.write("stand-in.log", &[3]);
            logs.merge();
            logs.check(&[1, 2, 3]);
        }
    }

    #[test]
    fn stopped_in_the_middle_of_a_step_it_goes_on_when_called_again() {
        let half_claimed = Logs::new();
        half_claimed.write(&format!(".{ROTATED}{CLAIMED}"), &[1]);
        half_claimed.write("stand-in.log", &[2]);
        assert_eq!(half_claimed.merge(), 2);
        half_claimed.check(&[1, 2]);

        let half_staged = Logs::new();
        half_staged.write("stand-in.log", &[1]);
        half_staged.begin(1);
        fs::write(half_staged.live().with_file_name(".audit.log.stand-in.partial"), "half of it").unwrap();
        assert_eq!(half_staged.merge(), 1);
        half_staged.check(&[1]);

        let half_dropped = Logs::new();
        half_dropped.write(ROTATED, &[1]);
        half_dropped.write("stand-in.log", &[2]);
        half_dropped.begin(2);
        fs::remove_file(half_dropped.raw(&format!(".{ROTATED}{CLAIMED}"))).unwrap();
        assert_eq!(half_dropped.merge(), 2);
        half_dropped.check(&[1, 2]);
    }

    #[test]
    fn a_name_that_is_taken_is_never_written_over() {
        let logs = Logs::new();
        logs.write("stand-in.log", &[1]);
        logs.begin(3);
        let staged = logs.live().with_file_name(".audit.log.stand-in");
        let at = Timestamp::try_from(fs::metadata(&staged).unwrap().modified().unwrap()).unwrap();
        let after =
            |millis| rotated_name("audit.log", at.checked_add(SignedDuration::from_millis(millis)).unwrap());
        fs::write(logs.live().with_file_name(after(0)), "").unwrap();
        fs::write(logs.live().with_file_name(format!("{}.gz", after(1))), "").unwrap();
        assert_eq!(logs.merge(), 1);
        logs.check(&[1]);
        assert_eq!(logs.published().last().unwrap().0, after(2));
    }
}
