//! `kubectl audit diff`: what an AuditConfiguration would change in a manifest, without a cluster and without writing.

use std::path::Path;

use serde_json::json;

use crate::audit::ServerVersion;
use crate::install::{self, NodeFacts, Planned, Wanted};

use super::{CHANGED, Format, OK, Streams, configuration, print, validate};

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
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    // The manifest tells the version that the policy must suit; it is judged by that below.
    let (spec, rendered) = configuration::rendered(&args.filename, ServerVersion::LATEST, streams)?;
    let facts = NodeFacts {
        manifest_path: args.manifest.clone(),
        manifest: validate::read_source(Path::new(&args.manifest), streams)?,
        policy_file: None,
        settled: None,
    };
    let planned = install::plan(&facts, &Wanted::Audit(Box::new(rendered)), spec.existing_flags.into())?;
    print_plan(&planned, args.output, streams)
}

/// Prints a plan; [`CHANGED`] when the manifest would change or files are missing.
pub fn print_plan(planned: &Planned, format: Format, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let diff = planned.diff();
    match format {
        Format::Json => {
            let value = json!({
                "changed": planned.changes(),
                "revision": planned.revision(),
                "from": planned.from(),
                "to": planned.to(),
                "diff": diff.text,
                "files": planned.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
            });
            writeln!(streams.out, "{}", serde_json::to_string_pretty(&value)?)?;
        }
        Format::Text => {
            print::diff(&diff.text, streams)?;
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
