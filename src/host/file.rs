//! One file: read it, or replace it so that no reader ever sees half of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Gid, Uid};

use super::Error;

/// Mode of a file that did not exist: policies and manifests can hold secrets.
const PRIVATE_FILE: u32 = 0o600;
/// Mode of a folder that did not exist.
const PRIVATE_FOLDER: u32 = 0o700;

/// The file's bytes, `None` when it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// Replaces a file's content, or makes the file.
///
/// The bytes go to a dot-file in the same folder (the kubelet ignores those, and a rename needs the same file system),
/// which gets the old file's owner and mode, is on the disk before it is renamed, and is renamed before the folder is
/// on the disk. After an error the old file is as it was and the dot-file is gone.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = temporary(path)?;
    let written = write_new(&temporary, path, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // What cannot be removed either is a dot-file, which nothing reads and the next try replaces.
        let _ = fs::remove_file(&temporary);
        return Err(Error::file("write", path)(error));
    }
    sync_folder(path)
}

fn temporary(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().ok_or_else(|| Error::Content {
        path: path.to_owned(),
        problem: "does not name a file".to_owned(),
    })?;
    Ok(path.with_file_name(format!(".{}.audit-operator", name.to_string_lossy())))
}

fn write_new(temporary: &Path, like: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(temporary)?;
    match fs::metadata(like) {
        Ok(old) => {
            let mine = file.metadata()?;
            if (old.uid(), old.gid()) != (mine.uid(), mine.gid()) {
                rustix::fs::fchown(&file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())))?;
            }
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::file("bring to the disk", folder))
}

/// Makes a folder and those above it, 0700; one that exists is left as it is.
pub(super) fn create_folder(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(path)
        .map_err(Error::file("make the folder", path))?;
    sync_folder(path)
}

/// Whether files can be made in a folder: by access(2), which also sees a read-only file system.
pub(super) fn check_writable(folder: &Path) -> Result<(), Error> {
    rustix::fs::accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| Error::file("write into", folder)(errno.into()))
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Names of the files in a folder, sorted; none when the folder does not exist.
pub(super) fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", folder)(error)),
    };
    let mut names = entries
        .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::file("list", folder))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_keeps_the_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kube-apiserver.yaml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(list(folder.path()).unwrap(), ["kube-apiserver.yaml"]);
    }

    #[test]
    fn a_new_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        replace(&path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_dot_file_left_by_a_crash_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.yaml");
        fs::write(temporary(&path).unwrap(), "half of it").unwrap();
        replace(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(list(folder.path()).unwrap(), ["m.yaml"]);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_no_dot_file() {
        let folder = tempfile::tempdir().unwrap();
        // A folder in the place of the file makes the rename fail after everything else has worked.
        let path = folder.path().join("m.yaml");
        fs::create_dir(&path).unwrap();
        let error = replace(&path, b"new").unwrap_err().to_string();
        assert!(error.contains("m.yaml"), "{error}");
        assert!(path.is_dir());
        assert_eq!(list(folder.path()).unwrap(), ["m.yaml"]);
    }
}
