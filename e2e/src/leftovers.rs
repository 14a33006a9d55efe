//! What a cluster has taken of this machine, and whether anything of it is still there.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::machine::SYSCTLS;
use crate::state::State;
use crate::{cgroup, process};

/// Everything a running cluster holds, to be looked for after its end.
#[derive(Debug)]
pub(crate) struct Footprint {
    state: State,
    /// Id and start time of each process.
    processes: BTreeSet<(process::Id, u64)>,
    namespaces: BTreeSet<String>,
    cgroups: Vec<PathBuf>,
    sysctls: Vec<Option<String>>,
}

impl Footprint {
    /// What the cluster holds now. The namespaces this process is in itself are not the cluster's.
    pub(crate) fn of(state: &State) -> Self {
        let roots = process::find(|arguments| state.mentions(arguments));
        let ids: BTreeSet<_> = roots.into_iter().flat_map(process::tree).collect();
        let own = process::namespaces(std::process::id() as process::Id);
        Self {
            state: state.clone(),
            processes: ids.iter().filter_map(|&id| Some((id, process::started(id)?))).collect(),
            namespaces: ids
                .iter()
                .flat_map(|&id| process::namespaces(id))
                .filter(|n| !own.contains(n))
                .collect(),
            cgroups: state
                .nodes()
                .iter()
                .flat_map(|n| cgroup::recorded(&state.node(n).join("cgroups")))
                .collect(),
            sysctls: sysctls(),
        }
    }

    /// How many processes, namespaces and control groups there are.
    pub(crate) fn size(&self) -> (usize, usize, usize) {
        (self.processes.len(), self.namespaces.len(), self.cgroups.len())
    }

    /// One line for each thing that is still there; empty after a complete end.
    pub(crate) fn remaining(&self) -> Vec<String> {
        let mut found = Vec::new();
        for &(id, started) in &self.processes {
            if process::started(id) == Some(started) {
                let arguments = process::arguments(id).unwrap_or_else(|| vec!["(zombie)".to_owned()]);
                found.push(format!("process {id}: {}", arguments.join(" ")));
            }
        }
        let root = self.state.root().to_string_lossy();
        for id in process::all() {
            for namespace in process::namespaces(id).intersection(&self.namespaces) {
                found.push(format!("namespace {namespace} of process {id}"));
            }
            let mounts = fs::read_to_string(format!("/proc/{id}/mountinfo")).unwrap_or_default();
            for mount in mounts.lines().filter(|line| line.contains(&*root)) {
                found.push(format!("mount seen by process {id}: {mount}"));
            }
        }
        let cgroups = self.cgroups.iter().filter(|folder| folder.exists());
        found.extend(cgroups.map(|folder| format!("cgroup {}", folder.display())));
        let files = fs::read_dir(self.state.root()).into_iter().flatten().flatten();
        let files = files.filter(|entry| entry.file_name() != "lock");
        found.extend(files.map(|entry| format!("file {}", entry.path().display())));
        if sysctls() != self.sysctls {
            found.push(format!("this machine's settings {SYSCTLS:?} were changed to {:?}", sysctls()));
        }
        found
    }
}

fn sysctls() -> Vec<Option<String>> {
    SYSCTLS.iter().map(|(name, _)| fs::read_to_string(format!("/proc/sys/{name}")).ok()).collect()
}
