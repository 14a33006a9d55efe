//! The cases: what is ordered, what is done meanwhile, and what it may end as.

mod changes;
mod clock;
mod kubelet;
mod power;
mod processes;
mod stand_in;
mod surroundings;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::wait;

use super::PATIENCE;
use super::bed::Bed;

/// One fault.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// What happens, for the table.
    pub(super) does: &'static str,
    /// The final states that are right.
    pub(super) ends: &'static [&'static str],
    /// How long it may leave the node without answer, where there is a limit.
    pub(super) down: Option<Limit>,
    /// On how many nodes it is done.
    pub(super) on: On,
    /// Whether CI does it, on one node: three control planes beside another one keep two processors so busy that what is late is
    /// no longer told from what is wrong.
    pub(super) ci: bool,
    /// Whether it changes something for the whole machine, so that nothing may be done beside it.
    pub(super) alone: bool,
    pub(super) run: fn(&Bed) -> Result<Expected>,
}

/// For how long a node may be without answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// Seconds.
    Seconds(f64),
    /// As a multiple of what a bare `mv` costs in the same run.
    TimesMv(f64),
}

/// The clusters a case is done on.
#[derive(Clone, Copy, Debug)]
pub(super) enum On {
    One,
    Three,
    Both,
}

/// What there must be in the end.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The order whose journal must be closed; `None` for the newest.
    pub(super) order: Option<String>,
    /// Manifests that may be on the node's disk, beside the one from before.
    pub(super) manifests: Vec<String>,
    /// The only one that may be there.
    pub(super) only: Option<String>,
    /// The age that every node's manifest must have, when all of them were changed.
    pub(super) everywhere: Option<u32>,
}

impl Expected {
    /// After another change of the same case.
    fn after(mut self, before: Self) -> Self {
        self.manifests.extend(before.manifests);
        self
    }
}

const SETTLED: &[&str] = &["settled"];
const REFUSED: &[&str] = &["refused"];
const ROLLED_BACK: &[&str] = &["rolledBack"];
/// What is there to be seen only once in a while may be noticed or not.
const EITHER: &[&str] = &["settled", "rolledBack", "refused"];

/// Every case, in the order of the table.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    let subjects = [
        changes::CASES,
        power::CASES,
        kubelet::CASES,
        processes::CASES,
        stand_in::CASES,
        surroundings::CASES,
        clock::CASES,
    ];
    subjects.into_iter().flatten()
}

const fn case(
    name: &'static str,
    does: &'static str,
    ends: &'static [&'static str],
    run: fn(&Bed) -> Result<Expected>,
) -> Case {
    Case { name, does, ends, down: None, on: On::One, ci: false, alone: false, run }
}

impl Case {
    /// CI does it.
    const fn in_ci(self) -> Self {
        Self { ci: true, ..self }
    }

    /// On three nodes, too.
    const fn on_both(self) -> Self {
        Self { on: On::Both, ..self }
    }

    /// On three nodes only.
    const fn on_three(self) -> Self {
        Self { on: On::Three, ..self }
    }

    /// Nothing live may be touched: the API server answers all the while. Half a second is ten lost packets, not a restart.
    const fn no_outage(self) -> Self {
        Self { down: Some(Limit::Seconds(0.5)), ..self }
    }

    /// The outage of one restart and half of another.
    const fn one_restart_and_a_half(self) -> Self {
        Self { down: Some(Limit::TimesMv(1.5)), ..self }
    }

    /// Nothing else is done meanwhile.
    const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
}

fn nothing(_: &Bed) -> Result<()> {
    Ok(())
}

/// Time in which a fault lasts.
fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    wait::until("the fault's time", PATIENCE, || Ok((Instant::now() > end).then_some(())))
}
