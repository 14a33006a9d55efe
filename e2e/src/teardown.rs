//! Taking a cluster away: its processes, and with them their mounts and network; its control groups; its files.
//!
//! Works from what is there, not from what this process remembers, so the same function ends a good run, a failed
//! one, one that was interrupted, and one whose process was killed yesterday. Twice does no harm.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

use crate::progress::say;
use crate::state::State;
use crate::{cgroup, fault, process};

/// Ends everything that runs for this state folder and its lanes, and removes what it left. Whether there was anything.
pub(crate) fn down(state: &State) -> Result<bool> {
    let mut found = false;
    for lane in state.lanes() {
        found |= one(&lane)?;
        fs::remove_dir(lane.root()).with_context(|| format!("removing {}", lane.root().display()))?;
        // The folder around the lanes goes with the last of them.
        let _ = lane.root().parent().map(fs::remove_dir);
    }
    Ok(one(state)? || found)
}

/// One cluster, and not its lanes.
fn one(state: &State) -> Result<bool> {
    let nodes = state.nodes();
    let hub = state.hub();
    if nodes.is_empty() && hub.is_none() && !state.images().exists() {
        return Ok(false);
    }
    let ours = |arguments: &[String]| state.mentions(arguments);
    let me = std::process::id() as process::Id;
    // All of them before the first is killed: what then ends by itself is still to be reaped.
    let processes: Vec<_> = process::find(ours).into_iter().filter(|&id| id != me).collect();
    for name in &nodes {
        if let Some(init) = state.node_init(name) {
            process::kill(init, ours).with_context(|| format!("cutting {name} off"))?;
        }
    }
    if let Some(hub) = hub {
        end_guests(hub)?;
    }
    // The hub, and the `unshare` around each node.
    for id in processes {
        process::kill(id, ours)?;
    }
    fault::unmount_below(state.root())?;
    for name in &nodes {
        cgroup::remove(&state.node(name).join("cgroups"))?;
    }
    let rest = [state.root().join("nodes"), state.images(), state.desk(), state.root().join("hub.log")];
    for path in rest {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    say!("down: {}", if nodes.is_empty() { "the hub".to_owned() } else { nodes.join(", ") });
    Ok(true)
}

/// Ends what was started beside the nodes, in the hub's network: a kubectl that still follows a log would keep
/// that namespace.
fn end_guests(hub: process::Id) -> Result<()> {
    let network = process::namespace(hub, "net");
    for id in process::all() {
        if id != hub && network.is_some() && process::namespace(id, "net") == network {
            process::kill(id, |_| process::namespace(id, "net") == network)?;
        }
    }
    Ok(())
}
