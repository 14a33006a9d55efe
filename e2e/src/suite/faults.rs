//! Everything that may go wrong during an install, done on real control planes: afterwards an API server must run, and run
//! what is on the disk, without a person having done anything.
//!
//! Each case is a row of [`cases::CASES`]. They share a cluster as long as each leaves it as the next needs it, which
//! [`operator::whole`] looks at after every one; after a failure there is a new one.

mod cases;
mod order;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Wanted};
use crate::launch::{self, Lifetime};
use crate::node::Node;
use crate::progress::say;
use crate::suite::Given;
use crate::{teardown, wait};

use super::operator::{self, INSTALLER, Journal, MANIFEST, Wish};
use cases::{CASES, Case};
use order::Template;

/// From an order to its end, everything that can be waited for included: the rehearsal, the new manifest, the old one.
const PATIENCE: Duration = Duration::from_secs(600);
/// After a power cut an API server answers within this.
const BACK: Duration = Duration::from_secs(60);

/// Which cases are run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chosen {
    /// Those whose names contain this.
    pub(crate) only: String,
    /// Those CI runs.
    pub(crate) ci: bool,
}

/// A cluster with the operator, paused, and auditing switched on.
struct Bed {
    cluster: Cluster,
    template: Template,
    /// Counted up with every change, so that no two are the same.
    number: Cell<u32>,
    /// How long it took until an API server answered after a power cut.
    back: RefCell<Vec<Duration>>,
}

/// One row of the table.
struct Row {
    case: &'static Case,
    result: Result<Ended>,
}

/// How a case ended that was survived.
struct Ended {
    state: String,
    /// Seconds without answer on fresh connections.
    down: f64,
    /// Seconds from a power cut's end to an answer.
    back: Vec<Duration>,
}

/// Runs the chosen cases and prints their table. Whether all were survived.
pub(super) fn run(given: &Given, chosen: &Chosen) -> Result<bool> {
    let is_chosen = |case: &&Case| case.name.contains(&chosen.only) && (case.ci || !chosen.ci);
    let cases: Vec<&'static Case> = CASES.iter().filter(is_chosen).collect();
    ensure!(!cases.is_empty(), "no case is called `{}`; there are:{}", chosen.only, names());
    let mut bed = None;
    let mut rows = Vec::new();
    for case in cases {
        say!("fault {}: {}", case.name, case.does);
        let ready = match bed.take() {
            Some(bed) => bed,
            None => Bed::up(given)?,
        };
        let result = ready.case(case);
        ensure!(!launch::is_closed(), "interrupted");
        match &result {
            Ok(ended) => {
                say!("fault {}: survived, {}, {:.1} s without answer", case.name, ended.state, ended.down);
                bed = Some(ready);
            }
            Err(error) => {
                say!("fault {}: NOT SURVIVED: {error:#}", case.name);
                super::keep_evidence(given, &format!("fault-{}", case.name));
                drop(ready);
                teardown::down(&given.state)?;
            }
        }
        rows.push(Row { case, result });
    }
    print(&rows)
}

fn names() -> String {
    CASES.iter().map(|case| format!("\n  {}", case.name)).collect()
}

fn print(rows: &[Row]) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| fault | what happens | what it ends as | seconds without answer | back after a power cut |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    for Row { case, result } in rows {
        let (state, down, back) = match result {
            Ok(Ended { state, down, back }) => {
                let back: Vec<String> = back.iter().map(|b| format!("{:.0} s", b.as_secs_f64())).collect();
                (state.as_str(), format!("{down:.1}"), back.join(", "))
            }
            Err(_) => ("**not survived**", String::new(), String::new()),
        };
        writeln!(out, "| {} | {} | {state} | {down} | {back} |", case.name, case.does)?;
    }
    let survived = rows.iter().filter(|row| row.result.is_ok()).count();
    writeln!(out, "faults={} survived={survived}", rows.len())?;
    Ok(survived == rows.len())
}

impl Bed {
    fn up(given: &Given) -> Result<Self> {
        let binary =
            given.operator.clone().context("needs the operator: --operator-binary or E2E_OPERATOR_BINARY")?;
        let wanted = Wanted { nodes: 1, operator: Some(binary), lifetime: Lifetime::OfThisProcess };
        let cluster = Cluster::up(&given.state, &wanted)?;
        operator::install(&cluster)?;
        operator::wish(&cluster, Wish { max_age: 1, paused: false, soak: 0 })?;
        let installer = cluster.nodes[0].path(INSTALLER);
        let installer =
            wait::until("the installer's manifest", PATIENCE, || Ok(Some(fs::read_to_string(&installer)?)))?;
        operator::ready(&cluster)?;
        operator::pause(&cluster)?;
        let template = Template::new(&cluster.nodes[0], installer)?;
        Ok(Self { cluster, template, number: Cell::new(100), back: RefCell::default() })
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// A number no change before had.
    fn next(&self) -> u32 {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    fn case(&self, case: &Case) -> Result<Ended> {
        let before = fs::read_to_string(self.node().path(MANIFEST))?;
        self.back.borrow_mut().clear();
        let probe = self.cluster.probe(&self.node().address())?;
        let expected = (case.run)(self)?;
        let journal = self.ends(expected.order.as_deref())?;
        let allowed: Vec<&str> = expected.manifests.iter().chain([&before]).map(String::as_str).collect();
        operator::whole(&self.cluster, self.node(), &allowed)?;
        let seen = probe.stop()?;
        ensure!(
            case.ends.contains(&journal.state.as_str()),
            "it ended as {}, not {}: {}",
            journal.state,
            case.ends.join(" or "),
            journal.reason
        );
        if !journal.reason.is_empty() {
            say!("it says: {}", journal.reason);
        }
        if let Some(limit) = case.down {
            ensure!(seen.down() <= limit, "{:.1} s without answer: {:?}", seen.down(), seen.failures);
        }
        Ok(Ended { state: journal.state, down: seen.down(), back: self.back.take() })
    }

    /// Waits for the end of an order; without one, of whatever is under way.
    fn ends(&self, order: Option<&str>) -> Result<Journal> {
        wait::until("the order's end", PATIENCE, || {
            let journal = Journal::of(self.node())?.context("no journal")?;
            ensure!(
                order.is_none_or(|id| id == journal.order) && journal.is_final(),
                "the journal of {} says {}",
                journal.order,
                journal.state
            );
            Ok(Some(journal))
        })
    }

    /// Cuts the power and gives it back; an API server must answer within [`BACK`].
    fn power_cut(&self) -> Result<()> {
        self.node().cut()?;
        self.cluster.switch_on(self.node(), Lifetime::OfThisProcess)?;
        let started = Instant::now();
        wait::until("an API server after the power cut", PATIENCE, || {
            Ok(self.cluster.api_is_ready(self.node())?.then_some(()))
        })?;
        let back = started.elapsed();
        ensure!(back <= BACK, "an API server answers only {:.0} s after the power cut", back.as_secs_f64());
        self.back.borrow_mut().push(back);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cases_have_one_name() {
        let mut names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
    }
}
