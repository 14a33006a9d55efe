//! The story the operator exists for, on a real control-plane node: auditing is switched on by one object, answers who
//! made a Pod, changes its policy, refuses what is wrong, and goes without a trace.
//!
//! `e2e test story` tells all of it and compares everything; `e2e demo` tells the first half to a newcomer and leaves
//! the cluster up.

mod figures;
mod install;
mod leave;
mod log;
mod practical;
mod question;
mod recipes;
mod stage;
mod steady;
mod telling;
mod traffic;
mod witness;

use std::path::Path;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, Wanted};
use crate::launch::Lifetime;
use crate::suite::Given;

pub(super) use stage::digest;

use stage::Stage;
use telling::Voice;

/// The test.
pub(super) fn run(given: &Given) -> Result<()> {
    let operator = operator(given)?;
    let cluster = bring_up(given, operator, Lifetime::OfThisProcess)?;
    let stage = Stage::new(&cluster, operator, Voice::Test)?;
    let original = install::install(&stage)?;
    install::switch_on(&stage, &original)?;
    figures::print(&stage)?;
    question::pose(&stage)?;
    question::answer(&stage)?;
    practical::run(&stage)?;
    recipes::all(&stage)?;
    steady::applied_again(&stage)?;
    steady::refused(&stage)?;
    leave::restore(&stage, &original)?;
    leave::uninstall(&stage)?;
    leave::one_file(&stage)
}

/// The demonstration.
pub(super) fn demo(given: &Given) -> Result<()> {
    let operator = operator(given)?;
    let cluster = bring_up(given, operator, Lifetime::Kept)?;
    let stage = Stage::new(&cluster, operator, Voice::Demo)?;
    stage.voice.explain(
        "This is a control-plane node as kubeadm makes it: a real kubelet, containerd, etcd and kube-apiserver, in\n\
         namespaces of this machine. Lines with $ are commands as you would type them.",
    );
    let original = install::install(&stage)?;
    install::switch_on(&stage, &original)?;
    question::pose(&stage)?;
    practical::run(&stage)?;
    question::answer(&stage)?;
    stage.voice.headline("the cluster stays up: try it");
    let program = std::env::current_exe().context("finding this program")?;
    let here = std::env::current_dir().unwrap_or_default();
    let program = program.strip_prefix(&here).unwrap_or(&program).display();
    stage.voice.answer(&format!(
        "{program} kubectl -- get auditcfg,auditnodes\n\
         {program} shell n1 -- tail /var/log/kubernetes/audit/audit.log\n\
         {program} kubectl -- delete auditcfg default   # takes the settings out again\n\n\
         To stop it, completely: make down"
    ));
    Ok(())
}

fn operator(given: &Given) -> Result<&Path> {
    let missing = "the story needs the operator: `make static`, and --operator-binary or E2E_OPERATOR_BINARY";
    given.operator.as_deref().context(missing)
}

fn bring_up(given: &Given, operator: &Path, lifetime: Lifetime) -> Result<Cluster> {
    let wanted = Wanted { nodes: 1, operator: Some(operator.to_owned()), lifetime };
    Cluster::up(&given.state, &wanted)
}
