//! A disk's content, and what of it survives a power cut.
//!
//! The bytes of a file and its name are brought to the disk separately. What was brought there is *safe*; of everything else a
//! power cut keeps any part: of bytes a beginning, of names any of the changes, whichever came first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::rng::Rng;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    File(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// How the bytes are on the disk; `None` as long as none of them is known to be there.
    safe: Option<Vec<u8>>,
    /// Milliseconds of the wall clock.
    made: u64,
    written: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Made(PathBuf, Entry),
    Renamed(PathBuf, PathBuf, Entry),
    Removed(PathBuf),
}

/// Every file by its path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    inodes: Vec<Inode>,
    now: BTreeMap<PathBuf, Entry>,
    safe: BTreeMap<PathBuf, Entry>,
    /// Changes of names that are not safe yet, in their order.
    pending: Vec<Change>,
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Files {
    pub(crate) fn read(&self, path: &Path) -> io::Result<&[u8]> {
        match self.now.get(path) {
            Some(Entry::File(inode)) => Ok(&self.inodes[*inode].bytes),
            Some(Entry::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    /// What a power cut in this moment leaves of a file for certain.
    pub(crate) fn read_safe(&self, path: &Path) -> Option<&[u8]> {
        let touched = self.pending.iter().any(|change| match change {
            Change::Made(at, _) | Change::Removed(at) => at == path,
            Change::Renamed(from, to, _) => from == path || to == path,
        });
        let reachable = path.ancestors().skip(1).all(|above| self.safe.contains_key(above));
        match self.safe.get(path) {
            Some(Entry::File(inode)) if !touched && reachable => {
                let inode = &self.inodes[*inode];
                inode.safe.as_deref().filter(|safe| *safe == inode.bytes)
            }
            _ => None,
        }
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.now.contains_key(path)
    }

    pub(crate) fn is_folder(&self, path: &Path) -> bool {
        self.now.get(path) == Some(&Entry::Folder)
    }

    /// Length, when made and when written.
    pub(crate) fn about(&self, path: &Path) -> io::Result<(u64, u64, u64)> {
        match self.now.get(path) {
            Some(Entry::File(inode)) => {
                let inode = &self.inodes[*inode];
                Ok((inode.bytes.len() as u64, inode.made, inode.written))
            }
            Some(Entry::Folder) => Ok((0, 0, 0)),
            None => Err(not_found()),
        }
    }

    /// Makes a file whose bytes are safe or not; its name is not.
    pub(crate) fn make(&mut self, path: &Path, bytes: &[u8], safe: bool, time: u64) -> io::Result<usize> {
        if self.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !self.is_folder(parent(path)) {
            return Err(not_found());
        }
        let inode = self.inodes.len();
        let bytes = bytes.to_vec();
        self.inodes.push(Inode { safe: safe.then(|| bytes.clone()), bytes, made: time, written: time });
        self.now.insert(path.to_owned(), Entry::File(inode));
        self.pending.push(Change::Made(path.to_owned(), Entry::File(inode)));
        Ok(inode)
    }

    pub(crate) fn append(&mut self, inode: usize, bytes: &[u8], time: u64) {
        self.inodes[inode].bytes.extend_from_slice(bytes);
        self.inodes[inode].written = time;
    }

    pub(crate) fn sync(&mut self, inode: usize) {
        let inode = &mut self.inodes[inode];
        inode.safe = Some(inode.bytes.clone());
    }

    /// Appends to a file, which is made with the folders above it where it is not there, as programs do that bring nothing to
    /// the disk by themselves.
    pub(crate) fn log(&mut self, path: &Path, bytes: &[u8], time: u64) {
        let inode = self.open(path, time);
        self.append(inode, bytes, time);
    }

    /// The file of this name, made if it is not there.
    pub(crate) fn open(&mut self, path: &Path, time: u64) -> usize {
        match self.now.get(path) {
            Some(Entry::File(inode)) => *inode,
            _ => self.make_at_once(path, time),
        }
    }

    /// A whole file by somebody who brings it to the disk in the right order.
    pub(crate) fn put(&mut self, path: &Path, bytes: &[u8], time: u64) {
        let inode = self.make_at_once(path, time);
        self.append(inode, bytes, time);
        self.sync(inode);
    }

    /// A file with the folders above it whose names are safe at once, whatever of ours is not.
    fn make_at_once(&mut self, path: &Path, time: u64) -> usize {
        for folder in path.ancestors().skip(1) {
            if !self.now.contains_key(folder) {
                self.now.insert(folder.to_owned(), Entry::Folder);
                self.safe.insert(folder.to_owned(), Entry::Folder);
            }
        }
        let inode = self.inodes.len();
        self.inodes.push(Inode { bytes: Vec::new(), safe: Some(Vec::new()), made: time, written: time });
        self.now.insert(path.to_owned(), Entry::File(inode));
        self.safe.insert(path.to_owned(), Entry::File(inode));
        self.pending.retain(|change| match change {
            Change::Made(at, _) | Change::Removed(at) | Change::Renamed(_, at, _) => at != path,
        });
        inode
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.is_folder(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let entry = self.now.remove(from).ok_or_else(not_found)?;
        self.now.insert(to.to_owned(), entry.clone());
        self.pending.push(Change::Renamed(from.to_owned(), to.to_owned(), entry));
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.now.get(path) {
            Some(Entry::File(_)) => {}
            Some(Entry::Folder) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(not_found()),
        }
        self.now.remove(path);
        self.pending.push(Change::Removed(path.to_owned()));
        Ok(())
    }

    /// Removes a folder with all that is in it, for good.
    pub(crate) fn remove_all(&mut self, folder: &Path) {
        self.now.retain(|path, _| !path.starts_with(folder));
        self.safe.retain(|path, _| !path.starts_with(folder));
        self.pending.retain(|change| match change {
            Change::Made(at, _) | Change::Removed(at) | Change::Renamed(at, _, _) => !at.starts_with(folder),
        });
    }

    /// Makes a folder and those above it.
    pub(crate) fn make_folder(&mut self, path: &Path) {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|p| !self.now.contains_key(*p)).collect();
        while let Some(folder) = missing.pop() {
            self.now.insert(folder.to_owned(), Entry::Folder);
            self.pending.push(Change::Made(folder.to_owned(), Entry::Folder));
        }
    }

    /// Brings the names in a folder to the disk.
    pub(crate) fn sync_names(&mut self, folder: &Path) {
        let pending = std::mem::take(&mut self.pending);
        for change in pending {
            let at = match &change {
                Change::Made(at, _) | Change::Removed(at) | Change::Renamed(at, _, _) => parent(at),
            };
            if at == folder { self.keep(change) } else { self.pending.push(change) }
        }
    }

    pub(crate) fn sync_all_names(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.keep(change);
        }
    }

    fn keep(&mut self, change: Change) {
        match change {
            Change::Made(path, entry) => drop(self.safe.insert(path, entry)),
            Change::Removed(path) => drop(self.safe.remove(&path)),
            Change::Renamed(from, to, entry) => {
                self.safe.remove(&from);
                self.safe.insert(to, entry);
            }
        }
    }

    /// Every path there is.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        self.now.keys().map(|path| path.to_string_lossy().into_owned())
    }

    /// Names in a folder.
    pub(crate) fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        if !self.is_folder(folder) {
            return Err(not_found());
        }
        let below = self.now.range(folder.to_owned()..).skip(1).map(|(path, _)| path);
        let below = below.take_while(|path| path.starts_with(folder));
        let names = below.filter(|path| path.parent() == Some(folder));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    /// A power cut.
    pub(crate) fn lose(&mut self, rng: &mut Rng) {
        // Mostly some of the changes are lost; all of them and none are the corners.
        let kept_percent = rng.of(&[0, 50, 50, 50, 100]);
        for change in std::mem::take(&mut self.pending) {
            if rng.percent(kept_percent) {
                self.keep(change);
            }
        }
        for inode in &mut self.inodes {
            if inode.safe.as_ref() != Some(&inode.bytes) {
                let least = inode.safe.as_ref().map_or(0, Vec::len).min(inode.bytes.len());
                let kept = rng.between(least as u64, inode.bytes.len() as u64 + 1) as usize;
                inode.bytes.truncate(kept);
                inode.safe = Some(inode.bytes.clone());
            }
        }
        let folders: Vec<PathBuf> =
            self.safe.iter().filter(|(_, e)| **e == Entry::Folder).map(|(p, _)| p.clone()).collect();
        let reachable =
            |path: &Path| path.ancestors().skip(1).all(|above| folders.iter().any(|f| f == above));
        self.safe.retain(|path, _| reachable(path));
        self.now = self.safe.clone();
    }
}
