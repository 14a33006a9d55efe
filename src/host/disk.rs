//! The file operations that an install is made of, and the real disk.
//!
//! They are a trait for one reason: a simulation loses power between any two of them, and forgets what was not brought to the
//! disk. Everything that is built from them (`file`, `state`, ...) is the same code there.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{
    Access, AtFlags, CWD, FlockOperation, Gid, RenameFlags, StatxFlags, StatxTimestamp, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Mode of a file that did not exist: policies and manifests can hold secrets.
const PRIVATE_FILE: u32 = 0o600;
/// Mode of a folder that did not exist.
const PRIVATE_FOLDER: u32 = 0o700;
/// Where SELinux keeps a file's label.
const LABEL: &str = "security.selinux";

/// What is done to files. Errors are those of the operating system.
pub trait Disk: fmt::Debug + Send + Sync {
    /// The bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Makes a file that does not exist, with owner, mode and SELinux label of the file `like` if there is one, else 0600. Its
    /// bytes are on the disk when this returns; its name is not before [`Disk::sync_folder`].
    fn write_new(&self, path: &Path, bytes: &[u8], like: &Path) -> io::Result<()>;
    /// Begins a file that does not exist, 0600, to be written piece by piece.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Opens a file to be read piece by piece.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>>;
    /// The last bytes of a file, at most so many.
    fn read_end(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;
    /// What is known of a file beside its bytes; of a link, not of what it points to.
    fn about(&self, path: &Path) -> io::Result<About>;
    /// Renames a file, over another one if there is one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file to a name that no other file has, else `AlreadyExists`.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder, 0700, and those above it.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Brings the names in a folder to the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether this is a folder.
    fn is_folder(&self, path: &Path) -> bool;
    /// Whether files can be made in a folder: by access(2), which also sees a read-only file system.
    fn check_writable(&self, folder: &Path) -> io::Result<()>;
    /// Bytes that can still be written to the file system of this folder.
    fn free_space(&self, folder: &Path) -> io::Result<u64>;
    /// Takes the lock that this file is, and makes the file; `None` when another process has it. It is given back when what is
    /// returned is dropped, also by a crash.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>>;
}

/// A lock that is held.
pub trait Held: fmt::Debug + Send {}

/// A file that is being written.
pub trait NewFile: Write {
    /// Brings its bytes to the disk; its name is not there before [`Disk::sync_folder`].
    fn sync(&mut self) -> io::Result<()>;
}

/// See [`Disk::about`].
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// In bytes.
    pub length: u64,
    /// When it was made, by the wall clock of then; not every file system knows.
    pub made: Option<SystemTime>,
    /// When it was written last, by the wall clock of then.
    pub written: SystemTime,
}

/// The node's own.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn write_new(&self, path: &Path, bytes: &[u8], like: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(path)?;
        match fs::metadata(like) {
            Ok(old) => {
                let mine = file.metadata()?;
                if (old.uid(), old.gid()) != (mine.uid(), mine.gid()) {
                    let (uid, gid) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
                    rustix::fs::fchown(&file, Some(uid), Some(gid))?;
                }
                file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
                copy_label(like, &file)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(path)?))
    }

    fn read_end(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn about(&self, path: &Path) -> io::Result<About> {
        // Not by std, which does not know it with musl, with which the released program is built.
        let wanted = StatxFlags::SIZE | StatxFlags::MTIME | StatxFlags::BTIME;
        let about = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let has = |what: StatxFlags| about.stx_mask & what.bits() != 0;
        Ok(About {
            length: about.stx_size,
            made: if has(StatxFlags::BTIME) { time(about.stx_btime) } else { None },
            written: time(about.stx_mtime).ok_or(io::ErrorKind::InvalidData)?,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path).and_then(|folder| folder.sync_all())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned())).collect()
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn check_writable(&self, folder: &Path) -> io::Result<()> {
        Ok(rustix::fs::accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
    }

    fn free_space(&self, folder: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(folder)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(PRIVATE_FILE).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Held for File {}

impl NewFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// `None` for what cannot be a time of day.
fn time(at: StatxTimestamp) -> Option<SystemTime> {
    let since = Duration::new(u64::try_from(at.tv_sec).ok()?, at.tv_nsec);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// A new file gets the label that its folder's rules give, which need not be the one an administrator gave the old one.
fn copy_label(from: &Path, to: &File) -> io::Result<()> {
    let mut label = [0; 4096];
    let length = match rustix::fs::getxattr(from, LABEL, &mut label) {
        Ok(length) => length,
        // No label, or a file system or kernel without them.
        Err(Errno::NODATA | Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::fsetxattr(to, LABEL, &label[..length], XattrFlags::empty()) {
        // Without SELinux a label is only an attribute, and needs a right that the installer does not have.
        Err(Errno::PERM | Errno::NOTSUP) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
