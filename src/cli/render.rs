//! `kubectl audit render`: what an AuditConfiguration puts on a node, and under which revision.

use serde_json::json;

use crate::audit::ServerVersion;

use super::{Format, OK, Streams, configuration};

/// Arguments of `render`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The AuditConfiguration, `-` for standard input; a ConfigMap it refers to may be in the same file.
    #[arg(short, long, value_name = "FILE")]
    filename: String,
    /// The kube-apiserver version that the policy must suit.
    #[arg(long, value_name = "VERSION", default_value_t = ServerVersion::LATEST)]
    server_version: ServerVersion,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Prints policy, flags, mounts and revision.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let (_, rendered) = configuration::rendered(&args.filename, args.server_version, streams)?;
    match args.output {
        Format::Json => {
            let value = json!({
                "revision": rendered.revision(),
                "policy": rendered.policy,
                "policyPath": rendered.policy_path,
                "flags": rendered.settings.flags.iter().map(|f| format!("--{}={}", f.name, f.value)).collect::<Vec<_>>(),
                "mounts": rendered.settings.mounts,
            });
            writeln!(streams.out, "{}", serde_json::to_string_pretty(&value)?)?;
        }
        Format::Text => {
            writeln!(streams.out, "# revision {}", rendered.revision())?;
            for flag in &rendered.settings.flags {
                writeln!(streams.out, "# --{}={}", flag.name, flag.value)?;
            }
            for mount in &rendered.settings.mounts {
                let access = if mount.read_only { "read-only" } else { "writable" };
                writeln!(streams.out, "# mount {} ({access}) from {}", mount.mount_path, mount.host_path)?;
            }
            writeln!(streams.out, "# {}", rendered.policy_path)?;
            write!(streams.out, "{}", rendered.policy)?;
        }
    }
    Ok(OK)
}
