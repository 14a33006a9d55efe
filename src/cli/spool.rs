//! Records that were found and are printed later, in the order of time.
//!
//! A few are kept in memory. All there are go into a file without a name, so that memory does not grow with the answer.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use anyhow::Context;

/// Where a record is.
#[derive(Debug)]
pub(super) enum Kept {
    Here(Box<[u8]>),
    /// From this byte of the file on, so many.
    Spooled(u64, usize),
}

/// What keeps records.
#[derive(Debug)]
pub(super) struct Spool {
    /// `None` where they are few.
    file: Option<io::Result<BufWriter<File>>>,
    length: u64,
}

impl Spool {
    /// For at most `limit` records; 0 is for any number.
    pub(super) fn new(limit: usize) -> Self {
        Self { file: (limit == 0).then(|| tempfile::tempfile().map(BufWriter::new)), length: 0 }
    }

    /// Keeps a record. What goes wrong is told by [`Self::finish`].
    pub(super) fn keep(&mut self, record: &[u8]) -> Kept {
        let Some(file) = &mut self.file else { return Kept::Here(record.into()) };
        let written = file.as_mut().map(|writer| writer.write_all(record));
        if let Ok(Err(error)) = written {
            *file = Err(error);
        }
        self.length += record.len() as u64;
        Kept::Spooled(self.length - record.len() as u64, record.len())
    }

    /// What reads them.
    ///
    /// # Errors
    /// The file's, of all that was done to it.
    pub(super) fn finish(self) -> anyhow::Result<Reader> {
        let file = self.file.map(|file| file.and_then(|writer| Ok(writer.into_inner()?))).transpose();
        let why = "what was found does not fit into a temporary file; set TMPDIR to a folder with room, or ask for less with \
                   --limit, --since and --until";
        Ok(Reader(file.context(why)?))
    }
}

/// Reads what was kept.
#[derive(Debug)]
pub(super) struct Reader(Option<File>);

impl Reader {
    /// The record.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn read(&self, kept: Kept) -> io::Result<Vec<u8>> {
        match (kept, &self.0) {
            (Kept::Here(record), _) => Ok(record.into()),
            (Kept::Spooled(at, length), Some(file)) => {
                let mut record = vec![0; length];
                file.read_exact_at(&mut record, at)?;
                Ok(record)
            }
            (Kept::Spooled(..), None) => Err(io::Error::other("kept by another spool")),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a device that is always full")]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_in_any_order() {
        for limit in [0, 3] {
            let mut spool = Spool::new(limit);
            let kept = [&b"one"[..], b"", b"three"].map(|record| spool.keep(record));
            assert_eq!(matches!(kept[0], Kept::Spooled(..)), limit == 0);
            let reader = spool.finish().unwrap();
            let read: Vec<Vec<u8>> = kept.into_iter().rev().map(|kept| reader.read(kept).unwrap()).collect();
            assert_eq!(read, [b"three".to_vec(), b"".to_vec(), b"one".to_vec()]);
        }
    }

    #[test]
    fn a_full_disk_is_told_with_what_to_do() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut spool = Spool { file: Some(Ok(BufWriter::new(full))), length: 0 };
        drop(spool.keep(b"record"));
        let error = format!("{:#}", spool.finish().unwrap_err());
        assert!(error.contains("TMPDIR") && error.contains("No space left"), "{error}");
    }
}
