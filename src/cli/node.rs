//! `audit-operator node`: the same engine without a cluster. For image builds, for the first control-plane node before
//! there is an API, and for break-glass when the API is down.

use jiff::Timestamp;
use serde_json::json;

use crate::audit::ServerVersion;
use crate::host::{self, Host};
use crate::install::order::HEALTH_TIMEOUT_SECONDS;
use crate::install::plan::Terms;
use crate::install::{self, Journal, Planned, Rehearsal, State, Wanted};
use crate::installer;
use crate::manifest::Existing;

use super::{FAILED, Format, OK, Streams, configuration, diff, print};

/// How a change is made when no AuditConfiguration says.
const TERMS: Terms = Terms {
    keep_backups: 10,
    health_timeout_seconds: HEALTH_TIMEOUT_SECONDS,
    rehearsal: Rehearsal::Auto,
    highly_available: false,
};

/// The verbs of `node`.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Print the change to this node's manifest; exit code 2 when there is one, 0 when none, 1 on error.
    Plan(WithConfig),
    /// Make the change: backup, rehearsal, swap, wait until the API server is healthy and logs an event, or put the
    /// manifest back.
    Apply {
        /// How the change is tried first [default: auto, or start with `spec.rollout.standIn: Never`].
        #[arg(long, value_enum)]
        rehearsal: Option<Try>,
        /// What to apply, and where.
        #[command(flatten)]
        with: WithConfig,
    },
    /// Take the audit settings out again.
    Restore {
        /// How the change is tried first.
        #[arg(long, value_enum, default_value_t)]
        rehearsal: Try,
        /// Where.
        #[command(flatten)]
        place: Place,
    },
    /// Print what is on this node and what became of the last change.
    Status(Place),
}

/// A verb that needs an AuditConfiguration.
#[derive(clap::Args, Debug)]
pub struct WithConfig {
    /// The AuditConfiguration, `-` for standard input; a ConfigMap it refers to may be in the same file.
    #[arg(long, value_name = "FILE")]
    config: String,
    #[command(flatten)]
    place: Place,
}

/// Where to work.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// Root of the node's files. With another root than `/` only files are worked on: there is no API server to wait for.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: String,
    /// The manifest, below the root.
    #[arg(long, value_name = "PATH", default_value = host::MANIFEST)]
    manifest: String,
    /// Name of this node in Kubernetes, when it is not the host name.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How a change is tried before anything live is touched.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub enum Try {
    /// By a second API server that also serves meanwhile; where memory is short, as `start`.
    #[default]
    Auto,
    /// By a start without etcd, which finds bad policies and flags.
    Start,
    /// Not at all.
    None,
}

impl From<Try> for Rehearsal {
    fn from(wanted: Try) -> Self {
        match wanted {
            Try::Auto => Self::Auto,
            Try::Start => Self::StartOnly,
            Try::None => Self::None,
        }
    }
}

impl Place {
    fn host(&self) -> Host {
        let host_name = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        let live = self.root == "/";
        Host::new(&self.root, &self.manifest, live.then(|| self.node_name.clone().unwrap_or_else(host_name)))
    }
}

/// Runs a verb; see each for its exit code.
pub async fn run(verb: &Verb, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    match verb {
        Verb::Plan(args) => {
            let (planned, _) = planned(args, streams)?;
            diff::print_plan(&planned, args.place.output, streams)
        }
        Verb::Apply { rehearsal, with } => {
            let host = with.place.host();
            let lock = host.lock()?;
            let (planned, terms) = planned(with, streams)?;
            let terms = Terms { rehearsal: rehearsal.map_or(terms.rehearsal, Into::into), ..terms };
            carry_out(&host, &lock, &planned, &terms, with.place.output, streams).await
        }
        Verb::Restore { rehearsal, place } => {
            let host = place.host();
            let lock = host.lock()?;
            let planned = install::plan(&host.facts(None)?, &Wanted::Nothing, Existing::Refuse)?;
            let terms = Terms { rehearsal: (*rehearsal).into(), ..TERMS };
            carry_out(&host, &lock, &planned, &terms, place.output, streams).await
        }
        Verb::Status(place) => status(&place.host(), place.output, streams),
    }
}

fn planned(args: &WithConfig, streams: &mut Streams<'_>) -> anyhow::Result<(Planned, Terms)> {
    // The manifest's image tells the version that the policy must suit; the plan judges by that.
    let (spec, rendered) = configuration::rendered(&args.config, ServerVersion::LATEST, streams)?;
    let facts = args.place.host().facts(Some(&rendered.policy_path))?;
    let wanted = Wanted::Audit(Box::new(rendered));
    let terms = Terms {
        keep_backups: spec.backups.keep,
        // What is rendered has been validated, and with it the duration.
        health_timeout_seconds: spec.rollout.health_timeout_seconds().unwrap_or(HEALTH_TIMEOUT_SECONDS),
        rehearsal: spec.rollout.stand_in.into(),
        ..TERMS
    };
    Ok((install::plan(&facts, &wanted, spec.existing_flags.into())?, terms))
}

#[expect(clippy::disallowed_methods, reason = "the clock is read at the edge")]
async fn carry_out(
    host: &Host,
    lock: &host::Lock,
    planned: &Planned,
    terms: &Terms,
    format: Format,
    streams: &mut Streams<'_>,
) -> anyhow::Result<u8> {
    if format == Format::Text {
        print::diff(&planned.diff().text, streams)?;
        streams.out.flush()?;
    }
    let journal = if planned.changes() {
        let order = planned.order(terms, Timestamp::now());
        host.preflight(&order)?;
        host.give(&order)?;
        Some((installer::carry_out(host, &order, lock, &installer::RealForward).await?, order.backup()))
    } else {
        None
    };
    let settled = journal.as_ref().is_none_or(|(j, _)| j.state == State::Settled);
    match format {
        Format::Json => {
            let mut value = diff::plan_json(planned);
            value["state"] = json!(journal.as_ref().map(|(j, _)| j.state.name()));
            value["reason"] = json!(journal.as_ref().map(|(j, _)| j.state.reason()));
            value["backup"] = json!(journal.as_ref().map(|(_, backup)| backup));
            writeln!(streams.out, "{}", serde_json::to_string_pretty(&value)?)?;
        }
        Format::Text => match &journal {
            None => writeln!(streams.err, "nothing to do: the node is as wanted")?,
            Some((journal, backup)) => say_end(journal, backup, streams)?,
        },
    }
    Ok(if settled { OK } else { FAILED })
}

fn say_end(journal: &Journal, backup: &str, streams: &mut Streams<'_>) -> std::io::Result<()> {
    match &journal.state {
        State::Settled => writeln!(
            streams.err,
            "done; the manifest from before is `{backup}`, and `audit-operator node restore` takes the settings out again"
        ),
        state => writeln!(streams.err, "{}: {}", state.name(), state.reason()),
    }
}

fn status(host: &Host, format: Format, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let planned = install::plan(&host.facts(None)?, &Wanted::Nothing, Existing::Refuse)?;
    let (order, journal) = (host.order()?, host.journal()?);
    let read = &planned.manifest;
    match format {
        Format::Json => {
            let value = json!({
                "manifest": host.manifest_path(),
                "digest": planned.from(),
                "kubeAPIServerVersion": read.server_version_tag(),
                "revision": read.revision,
                "order": order.as_ref().map(|o| json!({
                    "id": o.id, "revision": o.revision, "from": o.from, "to": o.to, "backup": o.backup(),
                })),
                "state": journal.as_ref().map(|j| j.state.name()),
                "reason": journal.as_ref().map(|j| j.state.reason()),
                "history": journal.as_ref().map(|j| &j.history),
            });
            writeln!(streams.out, "{}", serde_json::to_string_pretty(&value)?)?;
        }
        Format::Text => {
            writeln!(streams.out, "manifest   {} ({})", host.manifest_path(), planned.from())?;
            writeln!(streams.out, "server     {}", read.server_version_tag().unwrap_or("version unknown"))?;
            writeln!(
                streams.out,
                "revision   {}",
                read.revision.as_deref().unwrap_or("none of audit-operator")
            )?;
            if let Some(order) = &order {
                writeln!(streams.out, "last order {} (backup {})", order.id, order.backup())?;
            }
            for (time, line) in journal.iter().flat_map(|j| &j.history) {
                writeln!(streams.out, "           {time}  {line}")?;
            }
        }
    }
    Ok(OK)
}

#[cfg(test)]
mod tests;
