//! `kubectl audit diff`: what an AuditConfiguration would change in a manifest, without a cluster and without writing.

use anyhow::Context;
use serde_json::{Value, json};

use crate::audit::ServerVersion;
use crate::install::{self, NodeFacts, Planned, Wanted};

use super::{CHANGED, Format, OK, Streams, configuration, print};

/// Arguments of `diff`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The AuditConfiguration, `-` for standard input; a ConfigMap it refers to may be in the same file.
    #[arg(short, long, value_name = "FILE")]
    filename: String,
    /// The manifest of a kube-apiserver.
    #[arg(long, value_name = "FILE")]
    manifest: String,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Prints the unified diff; exit code 2 when there is one.
#[expect(clippy::disallowed_methods, reason = "a file the user named on the command line")]
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    // The manifest tells the version that the policy must suit; it is judged by that below.
    let (spec, rendered) = configuration::rendered(&args.filename, ServerVersion::LATEST, streams)?;
    let manifest =
        std::fs::read(&args.manifest).with_context(|| format!("cannot read `{}`", args.manifest))?;
    let facts =
        NodeFacts { manifest_path: args.manifest.clone(), manifest, policy_file: None, settled: None };
    let planned = install::plan(&facts, &Wanted::Audit(Box::new(rendered)), spec.existing_flags.into())?;
    print_plan(&planned, args.output, streams)
}

/// A plan as JSON; `node apply` says what became of it in further fields.
pub(super) fn plan_json(planned: &Planned) -> Value {
    json!({
        "changed": planned.changes(),
        "revision": planned.revision(),
        "from": planned.from(),
        "to": planned.to(),
        "diff": planned.diff().text,
        "files": planned.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
    })
}

/// Prints a plan; [`CHANGED`] when the manifest would change or files are missing.
pub fn print_plan(planned: &Planned, format: Format, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    match format {
        Format::Json => {
            writeln!(streams.out, "{}", serde_json::to_string_pretty(&plan_json(planned))?)?;
        }
        Format::Text => {
            print::diff(&planned.diff().text, streams)?;
            for file in &planned.files {
                writeln!(streams.err, "would write `{}`", file.path)?;
            }
        }
    }
    for warning in &planned.warnings {
        writeln!(streams.err, "{warning}")?;
    }
    Ok(if planned.changes() { CHANGED } else { OK })
}
