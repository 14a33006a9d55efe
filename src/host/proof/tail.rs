//! What is written to an audit log from now on, across rotation.
//!
//! A file is followed by its open handle, so that it does not matter what it is renamed to, whether it is compressed
//! and removed while it is read, or whether its inode is used again. A file that was not there at the beginning is read
//! from its first byte. Memory is one block and one unfinished line for each file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::install::proof::{Found, Growth, LogPlace, events};

use super::super::disk::RealDisk;
use super::super::server::POD_LOGS;
use super::super::{Host, file};

const BLOCK: usize = 64 << 10;
/// How much of a file is read at once, so that nobody else waits long for the thread.
const AT_ONCE: usize = 1 << 20;
/// A longer line is no event of ours.
const LINE_LIMIT: usize = 1 << 20;

/// A log from where it ended when this was made.
#[derive(Debug)]
pub(super) struct LogTail {
    log: Log,
    /// Files that hold nothing new.
    old: BTreeSet<PathBuf>,
    followed: Vec<Followed>,
    grown: u64,
    trouble: Option<String>,
    /// A file of it that may not be read.
    hidden: Option<PathBuf>,
}

impl LogTail {
    pub(super) fn new(host: &Host, place: &LogPlace) -> Self {
        let log = Log::new(host, place);
        let (live, old) = log.files().into_iter().partition::<Vec<_>, _>(|path| log.is_live(path));
        let old = old.into_iter().flat_map(|path| [packed(&path), path]).collect();
        let mut tail = Self { log, old, followed: Vec::new(), grown: 0, trouble: None, hidden: None };
        for path in live {
            tail.follow(&path, true);
        }
        tail
    }

    /// Adds the events of this id that came since the last time, each once. Whether there is more to read at once.
    pub(super) fn read(&mut self, id: &str, found: &mut Vec<Found>) -> bool {
        let files = self.log.files();
        for path in &files {
            let packed = path.extension().is_some_and(|extension| extension == "gz");
            // Until the plain file is removed, the compressed one may be half of it.
            let unfinished = packed && files.contains(&path.with_extension(""));
            if !unfinished && !self.old.contains(path) {
                self.follow(path, false);
            }
        }
        let mut more = false;
        for followed in &mut self.followed {
            match followed.read(id, found) {
                Ok(read) => {
                    self.grown += read as u64;
                    more |= read >= AT_ONCE;
                }
                Err(error) => self.trouble = Some(error.to_string()),
            }
        }
        more
    }

    /// What of the log may not be looked at, in words.
    pub(super) fn hidden(&self) -> Option<String> {
        let folder = match &self.log.at {
            At::File(path) => path.parent(),
            At::Pods { .. } => None,
        };
        let denied = |folder: &&Path| {
            fs::read_dir(folder).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let hidden = folder.filter(denied).or(self.hidden.as_deref())?;
        Some(format!(
            "root without capabilities may not read `{}`; is it another user's? Give it to root",
            hidden.display()
        ))
    }

    /// Opens a file, if it is not one that is open under another name.
    fn follow(&mut self, path: &Path, from_end: bool) {
        match self.open(path, from_end) {
            Ok(()) => {}
            // Listed a moment ago, renamed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.hidden = Some(path.to_owned());
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    fn open(&mut self, path: &Path, from_end: bool) -> io::Result<()> {
        let inode = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        let named = inode(&fs::metadata(path)?);
        let gz = path.extension().is_some_and(|extension| extension == "gz");
        if self.followed.iter().any(|followed| followed.inode == named) {
            self.settle(path);
            return Ok(());
        }
        let mut file = File::open(path)?;
        let inode = inode(&file.metadata()?);
        let content = if gz {
            Content::Packed(Box::new(MultiGzDecoder::new(BufReader::new(file))))
        } else {
            let offset = if from_end { file.seek(SeekFrom::End(0))? } else { 0 };
            Content::Plain { file, offset }
        };
        self.followed.push(Followed { inode, content, line: Vec::new() });
        self.settle(path);
        Ok(())
    }

    /// Of a rotated file that is open the name says nothing new any more, nor does what it will be compressed to.
    fn settle(&mut self, path: &Path) {
        if !self.log.is_live(path) {
            self.old.extend([path.to_owned(), packed(path)]);
        }
    }

    /// What the log did so far.
    pub(super) fn growth(&self) -> Growth {
        match &self.trouble {
            Some(problem) => Growth::Unreadable(problem.clone()),
            None if self.grown > 0 => Growth::Bytes(self.grown),
            None if self.log.files().iter().any(|path| self.log.is_live(path)) => Growth::Silent,
            None => Growth::Absent,
        }
    }

    /// The log's path on the node.
    pub(super) fn name(&self) -> String {
        self.log.name.clone()
    }
}

fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    PathBuf::from(name)
}

/// A file that is being read.
#[derive(Debug)]
struct Followed {
    /// Device and inode; not used again by others while the file is open.
    inode: (u64, u64),
    content: Content,
    /// The unfinished last line.
    line: Vec<u8>,
}

#[derive(Debug)]
enum Content {
    Plain { file: File, offset: u64 },
    Packed(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Followed {
    /// Reads to the end, or as much as is read at once; how many bytes.
    fn read(&mut self, id: &str, found: &mut Vec<Found>) -> io::Result<usize> {
        if let Content::Plain { file, offset } = &mut self.content
            && file.metadata()?.len() < *offset
        {
            // Emptied in place, which nobody should do to a log (it loses events), and some do.
            *offset = file.seek(SeekFrom::Start(0))?;
            self.line.clear();
        }
        let mut block = vec![0; BLOCK];
        let mut total = 0;
        while total < AT_ONCE {
            let read = match &mut self.content {
                Content::Plain { file, offset } => {
                    let read = file.read(&mut block)?;
                    *offset += read as u64;
                    read
                }
                Content::Packed(decoder) => decoder.read(&mut block)?,
            };
            if read == 0 {
                break;
            }
            total += read;
            self.take(&block[..read], id, found);
        }
        Ok(total)
    }

    fn take(&mut self, bytes: &[u8], id: &str, found: &mut Vec<Found>) {
        let Some(end) = memchr::memrchr(b'\n', bytes) else {
            self.keep(bytes);
            return;
        };
        self.line.extend_from_slice(&bytes[..end]);
        for event in events(&self.line, id) {
            if !found.contains(&event) {
                found.push(event);
            }
        }
        self.line.clear();
        self.keep(&bytes[end + 1..]);
    }

    fn keep(&mut self, bytes: &[u8]) {
        // What is left of a line that was dropped is no event, because its beginning is missing.
        if self.line.len() + bytes.len() > LINE_LIMIT {
            self.line.clear();
        }
        self.line.extend_from_slice(bytes);
    }
}

/// The files of a log.
#[derive(Debug)]
struct Log {
    /// On the node, for messages.
    name: String,
    at: At,
}

#[derive(Debug)]
enum At {
    /// The live file; lumberjack puts the rotated ones beside it.
    File(PathBuf),
    /// Every container of this name in the Pods' folders that begin so, which are replaced with the Pods.
    Pods { folder: PathBuf, prefix: String, container: String },
}

impl Log {
    fn new(host: &Host, place: &LogPlace) -> Self {
        match place {
            LogPlace::File(path) => Self { name: path.clone(), at: At::File(host.at(path)) },
            LogPlace::Container { namespace, pod, container } => {
                let node = host.node_name.as_deref().unwrap_or_default().to_lowercase();
                let prefix = format!("{namespace}_{pod}-{node}_");
                Self {
                    name: format!("{POD_LOGS}/{prefix}*/{container}"),
                    at: At::Pods { folder: host.at(POD_LOGS), prefix, container: container.clone() },
                }
            }
        }
    }

    /// All that are there, live and rotated; what cannot be listed is not there.
    fn files(&self) -> Vec<PathBuf> {
        match &self.at {
            At::File(path) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                let names = file::list(&RealDisk, folder).unwrap_or_default();
                let paths = names.iter().map(|name| folder.join(name));
                paths.filter(|other| other == path || is_rotated(other, path)).collect()
            }
            At::Pods { folder, prefix, container } => {
                let pods = file::list(&RealDisk, folder).unwrap_or_default();
                let folders = pods
                    .iter()
                    .filter(|pod| pod.starts_with(prefix))
                    .map(|pod| folder.join(pod).join(container));
                folders
                    .flat_map(|folder| {
                        let names = file::list(&RealDisk, &folder).unwrap_or_default();
                        names.into_iter().map(move |name| folder.join(name))
                    })
                    // The kubelet compresses into a file of that ending first.
                    .filter(|path| path.extension().is_none_or(|extension| extension != "tmp"))
                    .collect()
            }
        }
    }

    /// Whether the server, or the runtime for it, writes to it, as far as its name tells.
    fn is_live(&self, path: &Path) -> bool {
        match &self.at {
            At::File(live) => path == live,
            At::Pods { .. } => path.extension().is_some_and(|extension| extension == "log"),
        }
    }
}

/// Whether lumberjack gives such a name to `live` when it rotates: `audit-2026-01-02T03-04-05.678.log` for `audit.log`,
/// and `.gz` after that when it has compressed it.
fn is_rotated(path: &Path, live: &Path) -> bool {
    let text =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (name, live) = (text(path), text(live));
    let dot = live.rfind('.').unwrap_or(live.len());
    let (stem, extension) = live.split_at(dot);
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let stamp = name
        .strip_prefix(stem)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(extension));
    stamp.is_some_and(|stamp| {
        stamp.len() == "2026-01-02T03-04-05.678".len() && stamp.starts_with(|c: char| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests;
