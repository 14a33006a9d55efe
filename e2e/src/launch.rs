//! Starting the processes a cluster is made of: in their control groups, in a session of their own, and bound to
//! this process when the cluster must not outlive it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setsid};

use crate::cgroup;

/// How long a cluster lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Until `e2e down`.
    Kept,
    /// No longer than this process, even when it is killed: the kernel ends the cluster with it.
    OfThisProcess,
}

static CLOSED: Mutex<bool> = Mutex::new(false);

/// From now on nothing is launched: what is taken away next stays away.
pub(crate) fn close() {
    *CLOSED.lock().unwrap_or_else(PoisonError::into_inner) = true;
}

/// Whether [`close`] was called.
pub(crate) fn is_closed() -> bool {
    *CLOSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a command made by [`command`], unless launching is closed.
pub(crate) fn start(command: &mut Command) -> Result<Child> {
    let closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(!*closed, "interrupted");
    command.spawn().context("starting a process of the cluster")
}

/// A command `e2e launch … --`, to which the program to run is added.
pub(crate) fn command(lifetime: Lifetime, cgroups: &[PathBuf]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("launch");
    for folder in cgroups {
        command.arg("--cgroup").arg(folder);
    }
    if lifetime == Lifetime::OfThisProcess {
        command.args(["--parent", &std::process::id().to_string()]);
    }
    command.arg("--");
    Ok(command)
}

/// `e2e launch`: does what [`command`] asked for, then becomes the program.
pub(crate) fn become_program(cgroups: &[PathBuf], parent: Option<i32>, program: &[String]) -> Result<()> {
    for folder in cgroups {
        cgroup::join(folder)?;
    }
    // Not the terminal's Ctrl-C: what ends a cluster is `down`, in order.
    setsid().context("starting a session")?;
    if let Some(parent) = parent {
        set_parent_process_death_signal(Some(Signal::KILL)).context("binding the life to the parent's")?;
        if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
            bail!("the parent {parent} has already ended");
        }
    }
    let (name, arguments) = program.split_first().context("no program to run")?;
    Err(Command::new(name).args(arguments).exec()).with_context(|| format!("running {name}"))
}
