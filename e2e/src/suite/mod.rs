//! The tests: each brings its own cluster up, and whatever happens to it, the cluster is gone afterwards.

mod bringup;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use crate::launch;
use crate::programs::Programs;
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

struct Test {
    name: &'static str,
    run: fn(&Given) -> Result<()>,
}

const TESTS: [Test; 1] = [Test { name: "bringup", run: bringup::run }];

/// Runs the tests whose names contain `filter`.
pub(crate) fn run(given: &Given, filter: &str) -> Result<()> {
    let chosen: Vec<&Test> = TESTS.iter().filter(|test| test.name.contains(filter)).collect();
    if chosen.is_empty() {
        bail!("no test is called `{filter}`; there are: {}", TESTS.map(|t| t.name).join(", "));
    }
    let mut failed = Vec::new();
    for test in &chosen {
        say!("test {}", test.name);
        let result = (test.run)(given);
        ensure!(!launch::is_closed(), "interrupted");
        if let Err(error) = &result {
            say!("test {} FAILED: {error:#}", test.name);
            failed.push(test.name);
            if let Err(error) = Programs::find().and_then(|p| evidence::collect(&given.state, &p, test.name))
            {
                say!("no evidence: {error:#}");
            }
        } else {
            say!("test {} ok", test.name);
        }
        teardown::down(&given.state)?;
    }
    if !failed.is_empty() {
        bail!("{} of {} tests failed: {}", failed.len(), chosen.len(), failed.join(", "));
    }
    say!("{} tests ok", chosen.len());
    Ok(())
}
