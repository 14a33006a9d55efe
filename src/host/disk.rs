//! The file operations that an install is made of, and the real disk.
//!
//! They are a trait for one reason: a simulation loses power between any two of them, and forgets what was not brought to the
//! disk. Everything that is built from them (`file`, `state`, ...) is the same code there.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Gid, Uid, XattrFlags};
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
    /// Renames a file, over another one if there is one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those above it, 0700.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Brings the names in a folder to the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether this is a folder.
    fn is_folder(&self, path: &Path) -> bool;
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

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
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
