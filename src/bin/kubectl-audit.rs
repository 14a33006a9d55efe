//! `kubectl audit`: the kubectl plugin. Parse, call, exit.

use std::path::PathBuf;

use audit_operator::cli::{self, diff, evaluate, events, render, status, tail, top, validate, who};
use clap::CommandFactory as _;

/// Audit policies and audit logs of Kubernetes.
///
/// Exit codes: 0 done; 1 an error, a refusal, bad usage, or nothing found (but `tail`); 2 only from `diff`: there is a difference.
#[derive(clap::Parser)]
#[command(name = "kubectl-audit", bin_name = "kubectl audit", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Check a policy or an AuditConfiguration: everything kube-apiserver would refuse or silently misread.
    Validate(validate::Args),
    /// Print what an AuditConfiguration puts on a node: policy, flags, mounts, revision.
    Render(render::Args),
    /// Print what an AuditConfiguration would change in a manifest; exit code 2 when there is a difference.
    Diff(diff::Args),
    /// Say for each request which rule decides and at what level; one JSON request a line on standard input.
    Evaluate(evaluate::Args),
    /// Show the fleet: what is wanted, what runs, what each node waits for; exit code 1 when something needs a person.
    Status(status::Args),
    /// Say who created an object and who is behind that, or who changed, deleted, read or entered it.
    Who(who::Args),
    /// Print every write to an object, with what it changed.
    History(events::HistoryArgs),
    /// Print everything a user did.
    By(events::ByArgs),
    /// Print what was refused: 401 and 403.
    Failed(events::FailedArgs),
    /// Count requests by user, verb, resource or client.
    Top(top::Args),
    /// Print the requests that match all flags.
    Grep(events::GrepArgs),
    /// Print the latest requests, and with -f those that come.
    Tail(tail::Args),
    /// Print the completion script of a shell.
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: PathBuf,
    },
}

fn main() -> std::process::ExitCode {
    let cli: Cli = cli::parse();
    cli::main(|streams| match &cli.verb {
        Verb::Validate(args) => validate::run(args, streams),
        Verb::Render(args) => render::run(args, streams),
        Verb::Diff(args) => diff::run(args, streams),
        Verb::Evaluate(args) => evaluate::run(args, streams),
        Verb::Status(args) => status::run(args, streams),
        Verb::Who(args) => who::run(args, streams),
        Verb::History(args) => events::history(args, streams),
        Verb::By(args) => events::by(args, streams),
        Verb::Failed(args) => events::failed(args, streams),
        Verb::Top(args) => top::run(args, streams),
        Verb::Grep(args) => events::grep(args, streams),
        Verb::Tail(args) => tail::run(args, streams),
        Verb::Completion { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(
                *shell,
                &mut Cli::command().bin_name("kubectl-audit"),
                "kubectl-audit",
                &mut out,
            );
            streams.out.write_all(&out)?;
            Ok(cli::OK)
        }
        Verb::Man { folder } => {
            clap_mangen::generate_to(Cli::command().bin_name("kubectl-audit"), folder)?;
            Ok(cli::OK)
        }
    })
}
