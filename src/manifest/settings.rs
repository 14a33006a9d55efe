//! Whether wanted settings can be put into a manifest and found again in it. Ours to get right, so a failure here is
//! a mistake of the caller and not of the administrator.

use std::collections::BTreeSet;

use super::mounts::{clean, folder};
use super::{Refusal, Refusals, Settings};

/// The audit flags whose value is a path the server has to reach through a mount.
pub(super) const PATH_FLAGS: [&str; 3] = ["audit-log-path", "audit-policy-file", "audit-webhook-config-file"];

/// Finds every fault, with code `settings`.
pub(super) fn check(wanted: &Settings) -> Result<(), Refusals> {
    let mut faults = Vec::new();
    if !is_one_line(&wanted.revision) || wanted.revision.is_empty() {
        faults.push(format!("revision `{}` is not a line of text", wanted.revision.escape_debug()));
    }
    let mut names = BTreeSet::new();
    for flag in &wanted.flags {
        let in_charset = flag.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !flag.name.starts_with("audit-") || !in_charset {
            faults.push(format!("`{}` is not the name of an audit flag", flag.name.escape_debug()));
        }
        // The kubelet would put the environment variable's value in its place.
        if !is_one_line(&flag.value) || flag.value.contains("$(") {
            faults.push(format!("`--{}` has an impossible value `{}`", flag.name, flag.value.escape_debug()));
        }
        if !names.insert(&flag.name) {
            faults.push(format!("`--{}` is there twice", flag.name));
        }
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for mount in &wanted.mounts {
        for path in [&mount.host_path, &mount.mount_path] {
            if !is_one_line(path) || !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                faults.push(format!("mount `{}`: `{}` is no absolute path", mount.name, path.escape_debug()));
            }
        }
        if !is_one_line(&mount.name) || mount.name.is_empty() || !names.insert(&mount.name) {
            faults.push(format!("mount name `{}` is empty or there twice", mount.name.escape_debug()));
        }
        if !paths.insert(clean(&mount.mount_path)) {
            faults.push(format!("`{}` is mounted twice", mount.mount_path));
        }
    }
    // A mount of ours is known by the flag it serves, so each needs one, and each path its own mount.
    let mut serving_paths = BTreeSet::new();
    let files =
        wanted.flags.iter().filter(|f| PATH_FLAGS.contains(&f.name.as_str()) && f.value.starts_with('/'));
    for flag in files {
        let file = clean(&flag.value);
        let serving =
            [Some(file.as_str()), folder(&file)].into_iter().flatten().find(|path| paths.contains(*path));
        match serving.map(str::to_owned) {
            Some(path) => drop(serving_paths.insert(path)),
            None => faults.push(format!("no mount for `--{}={}`", flag.name, flag.value)),
        }
    }
    for path in paths.difference(&serving_paths) {
        faults.push(format!("mount `{path}` is neither the path of an audit flag nor its folder"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Refusals(faults.into_iter().map(|fault| Refusal::new("settings", None, fault)).collect()))
}

fn is_one_line(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}'))
}
