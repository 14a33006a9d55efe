//! Everything that may go wrong during an install, done on real control planes: afterwards an API server must run, and run
//! what is on the disk, without a person having done anything.
//!
//! Each case is a row of [`cases`], done on one node, on three, or on both. Safety is asserted for each; its figures are
//! printed in a table, and those beyond their limits under it.

mod bed;
mod cases;
mod lanes;
mod order;
mod table;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::progress::say;
use crate::suite::Given;

use cases::{Case, On};
use lanes::Work;
use table::Row;

/// From an order to its end, everything that can be waited for included: the rehearsal, the new manifest, the old one; and a
/// machine five times slower.
const PATIENCE: Duration = Duration::from_secs(900);
/// After a power cut an API server is to answer within this.
const BACK: Duration = Duration::from_secs(60);

/// Which cases are run, and how.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// Those whose names contain one of these; all when there is none.
    pub(crate) only: Vec<String>,
    /// On so many nodes only.
    pub(crate) nodes: Option<u8>,
    /// Those CI runs. There figures are told, and not held to their limits: its machine may be any.
    pub(crate) ci: bool,
    /// Clusters side by side.
    pub(crate) lanes: usize,
    /// Whether the cases that set the machine's clock are left out.
    pub(crate) leave_clock: bool,
}

/// A case on a cluster of so many nodes.
#[derive(Clone, Copy)]
struct Job {
    case: &'static Case,
    nodes: u8,
}

impl Job {
    /// The case's name, with its nodes where they are three.
    fn name(&self) -> String {
        if self.nodes == 1 { self.case.name.to_owned() } else { format!("{}-{}", self.case.name, self.nodes) }
    }
}

/// Runs the chosen cases and prints their table. What was not survived is returned, and what is beyond its limit.
pub(super) fn run(given: &Given, chosen: &Chosen) -> Result<Vec<String>> {
    let jobs = jobs(chosen);
    ensure!(!jobs.is_empty(), "no case is called {:?}; there are:{}", chosen.only, names());
    let work = Work::new(!chosen.ci);
    // Those that change something for the whole machine come last, alone.
    let (alone, beside): (Vec<Job>, Vec<Job>) = jobs.iter().partition(|job| job.case.alone);
    work.run(given, beside, chosen.lanes)?;
    work.run(given, alone, 1)?;
    let (mut rows, mv) = work.done();
    let place = |job: &Job| jobs.iter().position(|other| other.name() == job.name());
    rows.sort_by_key(|row| place(&row.job));
    let mut out = std::io::stdout().lock();
    table::write(&mut out, &rows, mv)?;
    let beyond: Vec<String> = rows.iter().flat_map(|row| row.beyond(mv)).collect();
    for figure in &beyond {
        say!("beyond its limit: {figure}");
    }
    let mut wrong: Vec<String> = rows.iter().filter_map(Row::not_survived).collect();
    for fault in &wrong {
        writeln!(out, "{fault}")?;
    }
    writeln!(out, "faults={} survived={}", rows.len(), rows.len() - wrong.len())?;
    if !chosen.ci {
        wrong.extend(beyond);
    }
    Ok(wrong)
}

fn jobs(chosen: &Chosen) -> Vec<Job> {
    let on = |case: &'static Case| match case.on {
        On::One => vec![1],
        On::Three => vec![3],
        On::Both => vec![1, 3],
    };
    let jobs = cases::all().flat_map(|case| on(case).into_iter().map(move |nodes| Job { case, nodes }));
    let is_named = |job: &Job| chosen.only.iter().any(|only| job.name().contains(only));
    jobs.filter(|job| chosen.only.is_empty() || is_named(job))
        .filter(|job| chosen.nodes.is_none_or(|nodes| nodes == job.nodes))
        .filter(|job| !chosen.ci || (job.case.ci && job.nodes == 1))
        .filter(|job| !chosen.leave_clock || !job.case.alone)
        .collect()
}

fn names() -> String {
    cases::all().map(|case| format!("\n  {}", case.name)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn chosen() -> Chosen {
        Chosen { only: Vec::new(), nodes: None, ci: false, lanes: 1, leave_clock: false }
    }

    #[test]
    fn no_two_cases_have_one_name() {
        let mut names: Vec<&str> = cases::all().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases::all().count());
    }

    #[test]
    fn cases_are_chosen_by_name_nodes_and_for_ci() {
        let names = |chosen: Chosen| jobs(&chosen).iter().map(Job::name).collect::<Vec<_>>();
        let all = names(chosen());
        let only = |only: &str| names(Chosen { only: vec![only.to_owned()], ..chosen() });
        assert!(only("power-cut-verifying-bad").len() == 2 && only("power-cut-verifying-bad-3").len() == 1);
        assert!(names(Chosen { nodes: Some(3), ..chosen() }).iter().all(|name| name.ends_with("-3")));
        let ci = names(Chosen { ci: true, ..chosen() });
        assert!(!ci.is_empty() && ci.len() < all.len() / 3, "CI runs a selection");
        let page = include_str!("../../../docs/reliability.md");
        let (_, told) = page.split_once("`make e2e`, and so CI, does").expect("the page says which");
        let (told, _) = told.split_once("\n\n").expect("it has more to say");
        let told: BTreeSet<&str> = told.split('`').skip(1).step_by(2).collect();
        assert_eq!(told, ci.iter().map(String::as_str).collect(), "docs/reliability.md");
        assert!(all.iter().any(|name| name.contains("clock")));
        assert!(!names(Chosen { leave_clock: true, ..chosen() }).iter().any(|name| name.contains("clock")));
    }
}
