//! The control groups of a node: one below this process's own in every v1 hierarchy.
//!
//! A node sees its group as the root (cgroup namespace), so that its kubelet makes `kubepods` there and not in
//! this machine's root. Every folder is written to a ledger before it is made, so that whatever happens later,
//! `remove` finds it. Unified hierarchies (cgroup v2) are refused: nothing here was run on one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{process, wait};

/// One v1 hierarchy of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Its mount option: `memory`, `cpu,cpuacct`, `name=systemd`.
    pub(crate) option: String,
    /// The process's group in it.
    pub(crate) own: PathBuf,
}

/// The groups a process is in, by its id on this machine.
pub(crate) fn of(id: process::Id) -> Result<Vec<Hierarchy>> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
    Ok(parse(&read(&format!("/proc/{id}/cgroup"))?, &read("/proc/self/mountinfo")?))
}

/// The hierarchies this process is in.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let found = of(std::process::id() as process::Id)?;
    let has = |name: &str| found.iter().any(|h| h.option.split(',').any(|o| o == name));
    ensure!(
        has("memory") && has("cpuset") && has("devices"),
        "this machine has no cgroup v1 hierarchies for memory, cpuset and devices; the test bed was only built for v1 \
         (boot with systemd.unified_cgroup_hierarchy=0, or run it on a machine that has them)"
    );
    Ok(found)
}

/// Reads /proc/self/cgroup (`ID:OPTION:PATH`) and /proc/self/mountinfo.
fn parse(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let mounted_at = |option: &str| {
        mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let (mut before, mut after) = (before.split(' '), after.split(' '));
            let (kind, options) = (after.next()?, after.nth(1)?);
            let point = before.nth(4)?;
            let all = |o: &str| options.split(',').any(|have| have == o);
            (kind == "cgroup" && option.split(',').all(all)).then(|| PathBuf::from(point))
        })
    };
    let hierarchy = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (option, path) = (fields.next()?, fields.next()?);
        let root = (!option.is_empty()).then(|| mounted_at(option))??;
        Some(Hierarchy { option: option.to_owned(), own: root.join(path.trim_start_matches('/')) })
    };
    groups.lines().filter_map(hierarchy).collect()
}

/// Makes the groups of a node and gives their folders.
///
/// `name` is seen by the whole machine: it must tell the node from those of other clusters.
pub(crate) fn make(ledger: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let hierarchies = hierarchies()?;
    let folders: Vec<PathBuf> = hierarchies.iter().map(|h| h.own.join(name)).collect();
    let mut file = fs::File::create(ledger).with_context(|| format!("writing {}", ledger.display()))?;
    for folder in &folders {
        writeln!(file, "{}", folder.display())?;
    }
    file.sync_all()?;
    for folder in &folders {
        fs::create_dir_all(folder).with_context(|| format!("making the cgroup {}", folder.display()))?;
        // A new cpuset group is empty, and nothing can be put into it before it is given processors and memory.
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = folder.parent().map(|own| own.join(setting)).filter(|path| path.exists());
            if let Some(inherited) = inherited {
                fs::write(folder.join(setting), fs::read(&inherited)?)
                    .with_context(|| format!("setting {setting} of {}", folder.display()))?;
            }
        }
    }
    Ok(folders)
}

/// Puts this process into a group.
pub(crate) fn join(folder: &Path) -> Result<()> {
    fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("joining the cgroup {}", folder.display()))
}

/// The folders a ledger names; none when there is no ledger.
pub(crate) fn recorded(ledger: &Path) -> Vec<PathBuf> {
    fs::read_to_string(ledger).unwrap_or_default().lines().map(PathBuf::from).collect()
}

/// Removes the groups a ledger names, with all groups below them. Their processes must have ended; the kernel may
/// need a moment to let go of them.
pub(crate) fn remove(ledger: &Path) -> Result<()> {
    for folder in recorded(ledger) {
        wait::until(
            &format!("the cgroup {} to become empty", folder.display()),
            Duration::from_secs(60),
            || remove_tree(&folder).map(Some),
        )?;
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", folder.display())),
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(folder).with_context(|| format!("removing {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_own_groups_in_every_v1_hierarchy_and_no_other() {
        let groups = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/\n0::/\n";
        let mounts = "30 29 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpuacct,cpu\n\
                      31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      33 29 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found: Vec<(String, PathBuf)> =
            parse(groups, mounts).into_iter().map(|h| (h.option, h.own)).collect();
        let want = [
            ("name=systemd", "/sys/fs/cgroup/systemd"),
            ("memory", "/sys/fs/cgroup/memory/a/b"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu"),
        ];
        assert_eq!(found, want.map(|(o, p)| (o.to_owned(), PathBuf::from(p))));
    }
}
