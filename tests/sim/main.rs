//! The simulation: the real installer on a node that does not exist, thousands of times, with everything that can go wrong.
//!
//! What is simulated is below [`Host`](audit_operator::host::Host): the disk, which a power cut takes back to what was brought
//! to it; the clocks; the kubelet, the containers and their API servers; the forwarder. Everything above is the code that
//! runs on nodes. With each node goes a fleet of three, for the rollout. Each history is made from one number, so that `make sim SEEDS=1 SEED0=…` plays it again.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]
#![expect(clippy::disallowed_methods, reason = "it takes its arguments and says how it ended")]

mod agent;
mod cases;
mod files;
mod fleet;
mod history;
mod kubelet;
mod node;
mod rng;
mod scenario;
mod verdict;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Histories when nobody says how many: for `cargo test`.
const FEW: u64 = 40;
/// Violations of which the whole history is told.
const TOLD: usize = 1;

fn main() -> ExitCode {
    let argument = |name: &str| {
        std::env::args()
            .find_map(|argument| argument.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    let (seeds, first) = (argument("--seeds").unwrap_or(FEW), argument("--seed0").unwrap_or(0));
    // What is written about is played every time.
    let told = cases::run(false);
    if !told.is_empty() {
        for (name, report) in cases::run(true) {
            report.trace.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("{name}: {:?}: {:?}", report.scenario, report.violations);
        }
    }
    let (next, found) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let outcomes = Mutex::new(BTreeMap::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let report = history::run(seed, false);
                    *outcomes.lock().expect("no panic").entry(report.outcome).or_insert(0_u64) += 1;
                    if !report.violations.is_empty() || !fleet::run(seed).0.is_empty() {
                        found.lock().expect("no panic").push(seed);
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().expect("no panic");
    found.sort_unstable();
    for (i, seed) in found.iter().enumerate() {
        tell(*seed, i < TOLD);
    }
    println!("outcomes {:?}", outcomes.into_inner().expect("no panic"));
    println!("histories={seeds} violations={}", found.len() + told.len());
    if found.is_empty() && told.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays a history again and tells what happened.
fn tell(seed: u64, whole: bool) {
    let report = history::run(seed, whole);
    for line in &report.trace {
        eprintln!("{line}");
    }
    eprintln!("seed {seed}: {:?}", report.scenario);
    for violation in &report.violations {
        eprintln!("seed {seed}: {violation}");
    }
    let (violations, trace) = fleet::run(seed);
    if !violations.is_empty() {
        trace.iter().filter(|_| whole).for_each(|line| eprintln!("{line}"));
        violations.iter().for_each(|violation| eprintln!("seed {seed}, fleet: {violation}"));
    }
    eprintln!("again: make sim SEEDS=1 SEED0={seed}");
}
