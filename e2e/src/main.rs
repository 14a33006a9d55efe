//! The test bed: a real kubeadm control plane in namespaces of this machine, and tests on it.
//!
//! `e2e up` starts a cluster that stays, `e2e test` one for each test; both leave nothing behind. The programs
//! come from `e2e/k8s/build`, Debian's from `e2e/k8s/prerequisites`; nothing is pulled, and no address outside
//! the namespaces is reached.

mod cgroup;
mod client;
mod clock;
mod cluster;
mod evidence;
mod fault;
mod hub;
mod image;
mod kubeadm;
mod launch;
mod leftovers;
mod machine;
mod network;
mod node;
mod probe;
mod process;
mod programs;
mod progress;
mod run;
mod state;
mod suite;
mod teardown;
mod wait;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cluster::{Cluster, Wanted};
use crate::launch::Lifetime;
use crate::machine::Machine;
use crate::progress::say;
use crate::state::{Lock, State};
use crate::suite::{Chosen, Given};

/// A real kubeadm control plane in namespaces of this machine. Needs root.
#[derive(Debug, Parser)]
#[command(name = "e2e", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a cluster up that stays until `e2e down`
    Up {
        /// How many control-plane nodes
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(network::MOST_NODES)))]
        nodes: u8,
        #[command(flatten)]
        operator: Operator,
    },
    /// Take the cluster away, also what a killed run left
    Down,
    /// Run kubectl as the cluster's administrator
    Kubectl {
        /// What kubectl is to do
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A shell on a node, or a command there
    Shell {
        /// The node, such as n1
        node: String,
        /// The command; bash when there is none
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run the tests, each on its own cluster
    Test {
        /// Only those whose names contain this
        #[arg(default_value = "")]
        filter: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Measure for how long a change leaves a single control plane without API server, beside a bare `mv`
    Outage {
        /// How many changes of each kind; an even number, as every second round goes the other way round
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20))]
        rounds: u32,
        #[command(flatten)]
        operator: Operator,
    },
    /// Do everything that may go wrong during an install, and see the API server come back
    Faults {
        /// Only those whose names contain one of these; a fault on three nodes ends with -3
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Only on so many nodes, 1 or 3
        #[arg(long)]
        nodes: Option<u8>,
        /// Only those CI runs: one of each kind, without limits for their figures
        #[arg(long)]
        ci: bool,
        /// Clusters side by side: most of a fault's time is waiting
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
        jobs: u8,
        /// Leave out the two that set the clock of this whole machine
        #[arg(long)]
        leave_clock: bool,
        #[command(flatten)]
        operator: Operator,
    },
    /// Take the ways in that the pages docs/install-*.md describe, command by command, and every way out
    Ways {
        /// Only those whose names contain this
        #[arg(long, default_value = "")]
        only: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Tell the whole story on a cluster that stays until `e2e down`
    Demo {
        #[command(flatten)]
        operator: Operator,
    },
    /// Hold the network between the nodes
    #[command(hide = true)]
    Hub {
        #[arg(long)]
        state: PathBuf,
        #[arg(long)]
        nodes: u8,
    },
    /// Ask an API server the same again and again, until standard input is closed
    #[command(hide = true)]
    Probe { address: SocketAddr, path: String },
    /// Set this machine's clock into the future until standard input is closed
    #[command(hide = true)]
    ShiftClock { seconds: u32 },
    /// How long an API server takes to answer, for some seconds: the median, the 99th percentile, the failures
    #[command(hide = true)]
    Latency { address: SocketAddr, seconds: u64 },
    /// Be a node's PID 1
    #[command(hide = true)]
    NodeInit {
        #[arg(long)]
        state: PathBuf,
        #[arg(long)]
        name: String,
        #[arg(long)]
        pause_image: String,
        #[arg(long)]
        programs: Vec<PathBuf>,
    },
    /// Become another program, in control groups and bound to a parent
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        cgroup: Vec<PathBuf>,
        #[arg(long)]
        parent: Option<i32>,
        #[arg(last = true)]
        program: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Operator {
    /// The operator's static binary, to be imported as its image
    #[arg(long = "operator-binary", env = "E2E_OPERATOR_BINARY")]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    progress::start();
    let result = run(Cli::parse().verb);
    while launch::is_closed() {
        // The thread that takes the cluster away ends the process.
        thread::park();
    }
    match result {
        Ok(code) => code,
        Err(error) => {
            say!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Up { nodes, operator } => up(nodes, operator.binary)?,
        Verb::Down => {
            let state = State::open()?;
            let _lock = state.lock()?;
            if !teardown::down(&state)? {
                say!("nothing is up in {}", state.root().display());
            }
        }
        Verb::Kubectl { arguments } => {
            let cluster = Cluster::running(&State::open()?)?;
            return exit_code(cluster.kubectl_command()?.args(arguments));
        }
        Verb::Shell { node, command } => {
            let cluster = Cluster::running(&State::open()?)?;
            let (program, arguments) = command.split_first().map_or(("bash", &[][..]), |(p, a)| (p, a));
            return exit_code(cluster.node(&node)?.command(program)?.args(arguments));
        }
        Verb::Test { filter, operator } => {
            let (given, _lock) = given(operator)?;
            let passed = suite::run(&given, &filter)?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Verb::Outage { rounds, operator } => {
            let (given, _lock) = given(operator)?;
            return Ok(if suite::outage(&given, rounds)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Verb::Faults { only, nodes, ci, jobs, leave_clock, operator } => {
            let (given, _lock) = given(operator)?;
            let chosen = Chosen { only, nodes, ci, lanes: jobs.into(), leave_clock };
            let survived = suite::faults(&given, &chosen)?;
            return Ok(if survived { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Verb::Ways { only, operator } => {
            let (given, _lock) = given(operator)?;
            suite::ways(&given, &only)?;
        }
        Verb::Demo { operator } => {
            let (given, _lock) = given(operator)?;
            suite::demo(&given)?;
        }
        Verb::Hub { state: _, nodes } => hub::serve(nodes)?,
        Verb::Probe { address, path } => probe::run(address, &path)?,
        Verb::ShiftClock { seconds } => clock::run(seconds)?,
        Verb::Latency { address, seconds } => {
            probe::latency(address, std::time::Duration::from_secs(seconds))?
        }
        Verb::NodeInit { state, name, pause_image, programs } => {
            let number = network::number(&name).with_context(|| format!("{name} is no node's name"))?;
            let folder = State::at(&state)?.node(&name);
            machine::run(&Machine { folder, name, number, pause_image, programs })?;
        }
        Verb::Launch { cgroup, parent, program } => launch::become_program(&cgroup, parent, &program)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// An empty state folder for tests, which is taken away when they are interrupted.
fn given(operator: Operator) -> Result<(Given, Lock)> {
    let state = State::open()?;
    let lock = state.lock()?;
    refuse_or_clean(&state)?;
    clean_up_when_interrupted(&state)?;
    Ok((Given { state, operator: operator.binary }, lock))
}

fn up(nodes: u8, operator: Option<PathBuf>) -> Result<()> {
    let state = State::open()?;
    let _lock = state.lock()?;
    if let Some(found) = alive(&state) {
        let asked = state.nodes().len() == usize::from(nodes);
        ensure!(asked, "already up with {found}, not {nodes} nodes; `e2e down` first");
        say!("already up: {found}");
        return Ok(());
    }
    refuse_or_clean(&state)?;
    clean_up_when_interrupted(&state)?;
    let wanted = Wanted { nodes, operator, lifetime: Lifetime::Kept };
    if let Err(error) = Cluster::up(&state, &wanted) {
        teardown::down(&state)?;
        return Err(error);
    }
    say!("up: `e2e kubectl get nodes`, `e2e shell n1`, `e2e down`");
    Ok(())
}

/// The nodes of a cluster of which every process is there.
fn alive(state: &State) -> Option<String> {
    let nodes = state.nodes();
    let whole =
        !nodes.is_empty() && state.hub().is_some() && nodes.iter().all(|n| state.node_init(n).is_some());
    whole.then(|| nodes.join(", "))
}

/// A whole cluster is somebody's; the rest of one is cleaned away.
fn refuse_or_clean(state: &State) -> Result<()> {
    if let Some(found) = alive(state) {
        bail!("a cluster is up in {} ({found}); `e2e down` first", state.root().display());
    }
    if teardown::down(state)? {
        say!("that was left by an earlier run which did not end in order");
    }
    Ok(())
}

/// Takes the cluster away on Ctrl-C and on SIGTERM, when evidence of it is kept, and on a panic (which may abort without
/// unwinding).
fn clean_up_when_interrupted(state: &State) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listening for signals")?;
    let interrupted = state.clone();
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            launch::close();
            say!("interrupted: keeping evidence and taking the cluster away");
            evidence::keep_of_interrupted(&interrupted);
            if let Err(error) = teardown::down(&interrupted) {
                say!("{error:#}");
            }
            std::process::exit(128 + signal);
        }
    });
    let (usual, panicked) = (std::panic::take_hook(), state.clone());
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        launch::close();
        if let Err(error) = teardown::down(&panicked) {
            say!("{error:#}");
        }
    }));
    Ok(())
}

fn exit_code(command: &mut std::process::Command) -> Result<ExitCode> {
    let status = command.status().context("starting the program")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
