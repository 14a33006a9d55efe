//! `kubectl audit`: the kubectl plugin. Parse, call, exit.

use audit_operator::cli::{self, diff, evaluate, render, status, validate, who};

/// Audit policies and audit logs of Kubernetes.
///
/// Exit codes: 0 done; 1 an error, a refusal or bad usage; 2 only from `diff`: there is a difference.
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
    /// Say who created an object, from audit log files.
    Who(who::Args),
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
    })
}
