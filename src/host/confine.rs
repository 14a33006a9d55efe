//! Landlock: this process gives up the rights it has no use for, where the kernel can take them (Linux 5.13 and later).
//!
//! A container's mounts say what can be written at all; this says it once more from the inside, and what no mount option
//! says: nothing is ever executed, and in the folder that the kubelet reads nothing is made but plain files. It holds for
//! the calling thread and all that it starts, so it is done before there are others, and cannot be undone.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, make_bitflags, path_beneath_rules,
};

/// The newest rights that are asked for; an older kernel takes those it knows.
const NEWEST: ABI = ABI::V6;

/// Gives up, for good: to execute anything, to write anywhere but in `folders` and the files in them, and to make anything
/// there but files and folders. What comes of it, in words for the log.
pub fn confine(folders: &[PathBuf]) -> String {
    match restrict(folders) {
        Ok(RulesetStatus::FullyEnforced) => "enforced".to_owned(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            "enforced as far as this kernel knows it, which is an older one".to_owned()
        }
        Ok(RulesetStatus::NotEnforced) => {
            "not enforced: this kernel has no Landlock, or it is switched off".to_owned()
        }
        Err(error) => format!("not enforced: {error}"),
    }
}

fn restrict(folders: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::from_read(NEWEST) & !AccessFs::Execute;
    let write = make_bitflags!(AccessFs::{
        WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir
    });
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(["/"], read))?
        // One that is not there cannot be written to either.
        .add_rules(path_beneath_rules(folders, read | write))?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_was_given_up_is_refused_to_this_thread_alone() {
        let root = tempfile::tempdir().unwrap();
        let (ours, other) = (root.path().join("ours"), root.path().join("other"));
        fs::create_dir_all(&ours).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("there"), "read").unwrap();
        let (writable, elsewhere) = (ours.clone(), other.clone());
        let confined = std::thread::spawn(move || {
            let said = confine(&[writable.clone(), PathBuf::from("/no/such/folder")]);
            if said.starts_with("not enforced") {
                return said;
            }
            let denied = |result: std::io::Result<()>| {
                assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::PermissionDenied));
            };
            fs::write(writable.join(".a"), "1").unwrap();
            fs::rename(writable.join(".a"), writable.join("a")).unwrap();
            fs::remove_file(writable.join("a")).unwrap();
            assert_eq!(fs::read_to_string(elsewhere.join("there")).unwrap(), "read");
            denied(fs::write(elsewhere.join("new"), "2"));
            denied(fs::write(elsewhere.join("there"), "2"));
            denied(fs::remove_file(elsewhere.join("there")));
            denied(std::os::unix::fs::symlink("/", writable.join("link")));
            denied(Command::new("/bin/true").status().map(drop));
            said
        });
        let said = confined.join().unwrap();
        assert!(said.starts_with("enforced") || said.contains("no Landlock"), "{said}");
        fs::write(other.join("new"), "other threads are free").unwrap();
    }
}
