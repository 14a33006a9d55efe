//! One file: read it, or replace it so that no reader ever sees half of it.

use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use super::disk::Disk;

/// The file's bytes, `None` when it does not exist.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// Replaces a file's content, or makes the file.
///
/// The bytes go to a dot-file in the same folder (the kubelet ignores those, and a rename needs the same file system),
/// which gets the old file's owner, mode and label, is on the disk before it is renamed, and is renamed before the
/// folder is on the disk. After an error the old file is as it was and the dot-file is gone.
pub(super) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = temporary(path)?;
    let removed = match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let written = removed
        .and_then(|()| disk.write_new(&temporary, bytes, path))
        .and_then(|()| disk.rename(&temporary, path));
    if let Err(error) = written {
        // What cannot be removed either is a dot-file, which nothing reads and the next try replaces.
        let _ = disk.remove(&temporary);
        return Err(Error::file("write", path)(error));
    }
    sync_name(disk, path)
}

/// What the dot-file's name ends with: nobody else makes one that does.
const TEMPORARY: &str = ".audit-operator";

fn temporary(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().ok_or_else(|| Error::Content {
        path: path.to_owned(),
        problem: "does not name a file".to_owned(),
    })?;
    Ok(path.with_file_name(format!(".{}{TEMPORARY}", name.to_string_lossy())))
}

/// Removes the dot-files that [`replace`] left in a folder because its process ended in the middle of it. Only who has the lock may
/// do this: others may be in the middle of theirs.
pub(super) fn sweep(disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
    let is_ours = |name: &&String| {
        let of = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
        of.is_some_and(|of| !of.is_empty())
    };
    list(disk, folder)?.iter().filter(is_ours).try_for_each(|name| remove(disk, &folder.join(name)))
}

/// Brings the name of a file or folder to the disk.
fn sync_name(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    disk.sync_folder(folder).map_err(Error::file("bring to the disk", folder))
}

/// Brings the names in a folder to the disk; a folder that does not exist has none.
pub(super) fn sync_folder(disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
    match disk.sync_folder(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("bring to the disk", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Makes a folder and those above it, 0700; one that exists is left as it is. Their names are on the disk then: what is brought
/// to a folder that a power cut takes away is gone with it.
pub(super) fn create_folder(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !disk.is_folder(folder)).collect();
    if missing.is_empty() {
        // Who made it may have ended before that. Where the folder above is not ours to bring to the disk, it was not ours to make.
        let _ = sync_name(disk, path);
        return Ok(());
    }
    disk.create_folder(path).map_err(Error::file("make the folder", path))?;
    missing.into_iter().rev().try_for_each(|folder| sync_name(disk, folder))
}

/// Whether files can be made in a folder.
pub(super) fn check_writable(disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
    disk.check_writable(folder).map_err(Error::file("write into", folder))
}

/// Removes a file for good; one that is not there is fine.
pub(super) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    match disk.remove(path) {
        Ok(()) => sync_name(disk, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}

/// Names of the files in a folder, sorted; none when the folder does not exist.
pub(super) fn list(disk: &dyn Disk, folder: &Path) -> Result<Vec<String>, Error> {
    match disk.list(folder) {
        Ok(mut names) => {
            names.sort();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file("list", folder)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::host::disk::RealDisk;

    #[test]
    fn replacing_keeps_the_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kube-apiserver.yaml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&RealDisk, &path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(list(&RealDisk, folder.path()).unwrap(), ["kube-apiserver.yaml"]);
    }

    #[test]
    fn a_new_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        replace(&RealDisk, &path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_dot_file_left_by_a_crash_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.yaml");
        fs::write(temporary(&path).unwrap(), "half of it").unwrap();
        replace(&RealDisk, &path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(list(&RealDisk, folder.path()).unwrap(), ["m.yaml"]);
    }

    #[test]
    fn only_dot_files_left_by_a_crash_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let left = temporary(&folder.path().join("audit-operator-stand-in-1.yaml")).unwrap();
        for name in ["m.yaml", ".m.yaml.swp", ".audit-operator", "m.yaml.audit-operator"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::write(&left, "half of it").unwrap();
        sweep(&RealDisk, folder.path()).unwrap();
        assert!(!left.exists());
        assert_eq!(list(&RealDisk, folder.path()).unwrap().len(), 4);
        sweep(&RealDisk, &folder.path().join("none")).unwrap();
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_no_dot_file() {
        let folder = tempfile::tempdir().unwrap();
        // A folder in the place of the file makes the rename fail after everything else has worked.
        let path = folder.path().join("m.yaml");
        fs::create_dir(&path).unwrap();
        let error = replace(&RealDisk, &path, b"new").unwrap_err().to_string();
        assert!(error.contains("m.yaml"), "{error}");
        assert!(path.is_dir());
        assert_eq!(list(&RealDisk, folder.path()).unwrap(), ["m.yaml"]);
    }
}
