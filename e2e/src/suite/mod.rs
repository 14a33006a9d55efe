//! The tests: each brings its own cluster up, and whatever happens to it, the cluster is gone afterwards.

mod bringup;
mod disk;
mod existing;
mod faults;
mod fleet;
mod operator;
mod outage;
mod proof;
mod rollout;
mod story;
mod trouble;
mod ways;
mod who;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cluster::{Cluster, Wanted};
use crate::launch::{self, Lifetime};
use crate::progress::say;
use crate::state::State;
use crate::{evidence, teardown};

/// What the tests are given.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// The state folder, empty at the start of each test.
    pub(crate) state: State,
    /// The operator's static binary.
    pub(crate) operator: Option<PathBuf>,
}

impl Given {
    /// A cluster of so many nodes that have the operator's image.
    fn cluster(&self, nodes: u8) -> Result<Cluster> {
        let missing = "needs the operator: --operator-binary or E2E_OPERATOR_BINARY";
        let operator = Some(self.operator.clone().context(missing)?);
        Cluster::up(&self.state, &Wanted { nodes, operator, lifetime: Lifetime::OfThisProcess })
    }
}

/// Clusters side by side in CI, whose machine may have two processors.
const LANES_OF_CI: usize = 2;

struct Test {
    name: &'static str,
    /// Whether it runs unasked, as in CI; the others are run by name. They take long, or shake the machine.
    unasked: bool,
    run: fn(&Given) -> Result<()>,
}

const TESTS: [Test; 12] = [
    Test { name: "disk", unasked: true, run: disk::run },
    Test { name: "bringup", unasked: true, run: bringup::run },
    Test { name: "trouble", unasked: false, run: trouble::run },
    Test { name: "story", unasked: true, run: story::run },
    Test { name: "ways", unasked: true, run: ways_of_ci },
    Test { name: "rollout", unasked: false, run: rollout::run },
    Test { name: "faults", unasked: true, run: faults_of_ci },
    Test { name: "fleet", unasked: false, run: fleet::run },
    Test { name: "existing", unasked: false, run: existing::run },
    Test { name: "proof", unasked: false, run: proof::run },
    Test { name: "relief", unasked: false, run: rollout::relief },
    Test { name: "who", unasked: true, run: who::run },
];

/// Runs the tests whose names contain `filter`, and closes with what failed and `N passed, N failed` on standard
/// output. Whether all passed.
pub(crate) fn run(given: &Given, filter: &str) -> Result<bool> {
    let chosen: Vec<&Test> = TESTS
        .iter()
        .filter(|test| if filter.is_empty() { test.unasked } else { test.name.contains(filter) })
        .collect();
    if chosen.is_empty() {
        bail!("no test is called `{filter}`; there are: {}", TESTS.map(|t| t.name).join(", "));
    }
    let mut failed = Vec::new();
    for test in &chosen {
        say!("test {}", test.name);
        let started = Instant::now();
        let result = (test.run)(given);
        ensure!(!launch::is_closed(), "interrupted");
        if let Err(error) = &result {
            let failure = format!("test {} FAILED: {error:#}", test.name);
            say!("{failure}");
            keep_evidence(given, test.name, error);
            failed.push(failure);
        } else {
            say!("test {} ok after {:.0} s", test.name, started.elapsed().as_secs_f64());
        }
        teardown::down(&given.state)?;
    }
    // Once more at the end: of a long run this is often all that is looked at.
    let mut out = std::io::stdout().lock();
    for failure in &failed {
        writeln!(out, "{failure}")?;
    }
    writeln!(out, "{} passed, {} failed", chosen.len() - failed.len(), failed.len())?;
    Ok(failed.is_empty())
}

pub(crate) use faults::Chosen;

/// Does the chosen faults, see [`faults`]; whether all were survived, and within their limits.
pub(crate) fn faults(given: &Given, chosen: &Chosen) -> Result<bool> {
    let result = faults::run(given, chosen);
    ensure!(!launch::is_closed(), "interrupted");
    teardown::down(&given.state)?;
    result.map(|wrong| wrong.is_empty())
}

/// A selection of them, as one test.
fn faults_of_ci(given: &Given) -> Result<()> {
    let chosen = Chosen { only: Vec::new(), nodes: None, ci: true, lanes: LANES_OF_CI, leave_clock: true };
    let wrong = faults::run(given, &chosen)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Takes the ways in whose names contain `only`, and out again, see [`ways`].
pub(crate) fn ways(given: &Given, only: &str) -> Result<()> {
    let result = ways::run(given, ways::Taken::Named(only));
    ensure!(!launch::is_closed(), "interrupted");
    if let Err(error) = &result {
        keep_evidence(given, "ways", error);
    }
    teardown::down(&given.state)?;
    result
}

fn ways_of_ci(given: &Given) -> Result<()> {
    ways::run(given, ways::Taken::Built)
}

/// Measures what a change costs, see [`outage`]; whether it is within the limits.
pub(crate) fn outage(given: &Given, rounds: u32) -> Result<bool> {
    let result = outage::run(given, rounds);
    ensure!(!launch::is_closed(), "interrupted");
    if let Err(error) = &result {
        keep_evidence(given, "outage", error);
    }
    teardown::down(&given.state)?;
    result
}

/// Tells the story on a cluster that stays; one on which it failed does not.
pub(crate) fn demo(given: &Given) -> Result<()> {
    let result = story::demo(given);
    ensure!(!launch::is_closed(), "interrupted");
    if let Err(error) = &result {
        keep_evidence(given, "demo", error);
        teardown::down(&given.state)?;
    }
    result
}

fn keep_evidence(given: &Given, name: &str, why: &anyhow::Error) {
    evidence::keep(&given.state, name, &format!("{why:#}\n"));
}
