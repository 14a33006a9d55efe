//! The questions whose answer is a list of requests: `grep`, `by`, `failed`, `history`, and `who --did`.
//!
//! Each is a query with a name; the filter flags narrow any of them.
#![expect(clippy::disallowed_methods, reason = "the edge: durations count from now, times are shown as here")]

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::value::RawValue;

use super::logs::{self, Logs};
use super::object;
use super::output::{self, Clock, Output};
use super::spool::{Kept, Spool};
use super::{FAILED, OK, Streams, who};
use crate::trail::event::Event;
use crate::trail::query::{self, Codes, Filter, Pattern, Query, StageName};
use crate::trail::question::Question;
use crate::trail::read::{Coverage, Entry, Sink};
use crate::trail::request::{self, Request, Requests};
use crate::trail::resource::Resource;

/// What was done to an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Deed {
    /// Made it; the answer is a chain to the root.
    #[default]
    Created,
    /// Updated or patched it, or a subresource of it.
    Changed,
    /// Deleted or evicted it, or all of its kind in its namespace.
    Deleted,
    /// Got, listed or watched it.
    Read,
    /// Ran a command in it, attached to it, or forwarded a port or a request.
    Exec,
}

/// Which events.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FilterArgs {
    /// User, or the user it acted as; `*` stands for anything, here and below.
    #[arg(long, value_name = "PATTERN")]
    pub user: Vec<Pattern>,
    /// Verb, such as `create` or `deletecollection`.
    #[arg(long, value_name = "PATTERN")]
    pub verb: Vec<Pattern>,
    /// Resource, as kubectl takes it: `pods`, `deploy`, `certificates.cert-manager.io`.
    #[arg(long, value_name = "RESOURCE", value_parser = Resource::parse)]
    pub resource: Vec<Resource>,
    /// Subresource, such as `exec`; empty for the object itself.
    #[arg(long, value_name = "PATTERN")]
    pub subresource: Vec<Pattern>,
    /// Namespace [default: all].
    #[arg(short, long, visible_alias = "ns", value_name = "PATTERN")]
    pub namespace: Vec<Pattern>,
    /// All namespaces; the default, and known to kubectl's users.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Name of the object.
    #[arg(long, value_name = "PATTERN")]
    pub name: Vec<Pattern>,
    /// Status code: `403`, `4xx`, `400-403`.
    #[arg(long)]
    pub code: Vec<Codes>,
    /// Source address.
    #[arg(long, value_name = "PATTERN")]
    pub ip: Vec<Pattern>,
    /// Part of the user agent, in any case.
    #[arg(long, value_name = "TEXT")]
    pub agent: Vec<String>,
    /// Stage.
    #[arg(long, value_enum, ignore_case = true)]
    pub stage: Vec<StageName>,
    /// Audit ID.
    #[arg(long, value_name = "PATTERN")]
    pub audit_id: Vec<Pattern>,
    /// From this time on: a duration before now (`90m`, `2h30m`, `3d`), or a time such as `2026-01-02T03:04:05Z`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// Requests shown when nobody says how many.
const SHOWN: usize = 1000;

/// How to print requests.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Shape {
    /// Where the logs are.
    #[command(flatten)]
    pub logs: logs::Args,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The latest so many requests; 0 for all.
    #[arg(long, default_value_t = SHOWN, value_name = "NUMBER")]
    pub limit: usize,
    /// The latest first.
    #[arg(long)]
    pub reverse: bool,
    /// Times in UTC and not in the local time zone; JSON and YAML always have UTC.
    #[arg(long)]
    pub utc: bool,
}

/// Prints the requests that match all the flags given.
///
/// JSON and YAML are the events as they were logged, so that the answer is a log again: `--log` takes it.
#[derive(Clone, Debug, clap::Args)]
pub struct GrepArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How to print them.
    #[command(flatten)]
    pub shape: Shape,
}

/// Prints everything a user did, also by impersonating somebody or as the one impersonated.
#[derive(Clone, Debug, clap::Args)]
pub struct ByArgs {
    /// The user; `*` stands for anything.
    #[arg(value_name = "USER")]
    pub who: Pattern,
    /// Which of it.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How to print it.
    #[command(flatten)]
    pub shape: Shape,
}

/// Prints what was refused: not authenticated (401) or not allowed (403).
#[derive(Clone, Debug, clap::Args)]
pub struct FailedArgs {
    /// Which of it.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How to print it.
    #[command(flatten)]
    pub shape: Shape,
}

/// Prints every write to an object, with what it changed where the log has bodies.
#[derive(Clone, Debug, clap::Args)]
pub struct HistoryArgs {
    /// Which object.
    #[command(flatten)]
    pub object: object::Args,
    /// How to print it.
    #[command(flatten)]
    pub shape: Shape,
}

/// `grep`.
///
/// # Errors
/// The logs cannot be reached, or the words are no time.
pub fn grep(args: &GrepArgs, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let whole = !args.shape.output.is_table();
    answer(&args.filter.query()?, &args.shape, whole, streams)
}

/// `by`.
///
/// # Errors
/// As [`grep`].
pub fn by(args: &ByArgs, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut query = args.filter.query()?;
    query.any.iter_mut().for_each(|filter| filter.users.push(args.who.clone()));
    answer(&query, &args.shape, false, streams)
}

/// `failed`.
///
/// # Errors
/// As [`grep`].
pub fn failed(args: &FailedArgs, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut query = args.filter.query()?;
    for filter in &mut query.any {
        if filter.codes.is_empty() {
            filter.codes = vec![Codes::one(401), Codes::one(403)];
        }
    }
    answer(&query, &args.shape, false, streams)
}

/// `history`.
///
/// # Errors
/// The logs cannot be reached, or the words name no object.
pub fn history(args: &HistoryArgs, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut logs = Logs::open(&args.shape.logs)?;
    let question = args.object.question(&mut logs, streams)?;
    let patterns = |words: &[&str]| words.iter().map(|&word| word.into()).collect::<Vec<Pattern>>();
    let earnest = Filter { in_earnest: true, ..Filter::default() };
    // What is created below an object may be no change of it: exec, attach, portforward.
    let creates = Filter {
        verbs: patterns(&["create"]),
        subresources: patterns(&["", "binding", "eviction"]),
        ..earnest.clone()
    };
    let writes = Filter { verbs: patterns(&["update", "patch", "delete"]), ..earnest.clone() };
    let all = Filter { verbs: patterns(&["deletecollection"]), ..earnest };
    let mut query = question.did(vec![creates, writes], true);
    query.any.extend(question.did(vec![all], false).any);
    print(&query, &args.shape, true, &mut logs, streams)
}

/// `who --did`, but for `created`.
pub(super) fn did(
    args: &who::Args,
    question: &Question,
    logs: &mut Logs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<u8> {
    let verbs = |verbs: &[&str]| verbs.iter().map(|&verb| verb.into()).collect::<Vec<Pattern>>();
    let earnest = Filter { in_earnest: true, ..Filter::default() };
    let one = match args.did {
        Deed::Created => Vec::new(),
        Deed::Changed => vec![Filter { verbs: verbs(&["update", "patch"]), ..earnest.clone() }],
        Deed::Deleted => vec![
            Filter { verbs: verbs(&["delete"]), ..earnest.clone() },
            Filter { verbs: verbs(&["create"]), subresources: verbs(&["eviction"]), ..earnest.clone() },
        ],
        Deed::Read => vec![Filter { verbs: verbs(&["get"]), ..Filter::default() }],
        Deed::Exec => {
            vec![Filter {
                subresources: verbs(&["exec", "attach", "portforward", "proxy", "ephemeralcontainers"]),
                ..Filter::default()
            }]
        }
    };
    let mut query = question.did(one, true);
    let all = match args.did {
        Deed::Deleted => verbs(&["deletecollection"]),
        Deed::Read => verbs(&["list", "watch"]),
        Deed::Created | Deed::Changed | Deed::Exec => Vec::new(),
    };
    if !all.is_empty() {
        query.any.extend(question.did(vec![Filter { verbs: all, ..earnest }], false).any);
    }
    let shape = Shape { output: args.output, limit: args.limit.unwrap_or(SHOWN), ..Shape::default() };
    print(&query, &shape, false, logs, streams)
}

impl FilterArgs {
    pub(super) fn query(&self) -> anyhow::Result<Query> {
        let now = Timestamp::now();
        let time = |text: &Option<String>| text.as_deref().map(|text| query::time(text, now)).transpose();
        let filter = Filter {
            users: self.user.clone(),
            verbs: self.verb.clone(),
            resources: self.resource.clone(),
            subresources: self.subresource.clone(),
            namespaces: self.namespace.clone(),
            names: self.name.clone(),
            codes: self.code.clone(),
            addresses: self.ip.clone(),
            agents: self.agent.clone(),
            stages: self.stage.clone(),
            audit_ids: self.audit_id.clone(),
            ..Filter::default()
        };
        Ok(Query { any: vec![filter], since: time(&self.since)?, until: time(&self.until)? })
    }
}

impl Shape {
    pub(super) fn clock(&self) -> Clock {
        Clock(if self.utc { TimeZone::UTC } else { TimeZone::system() })
    }
}

fn answer(query: &Query, shape: &Shape, whole: bool, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut logs = Logs::open(&shape.logs)?;
    if whole {
        events(query, shape, &mut logs, streams)
    } else {
        print(query, shape, false, &mut logs, streams)
    }
}

/// Keeps what a table, or an answer of our own shape, is made of.
struct Keeping {
    requests: Requests<Request>,
    bodies: bool,
}

impl Sink for Keeping {
    fn take(&mut self, entry: Entry, _: &[u8]) {
        let keep = if self.bodies { Request::with_body } else { Request::of };
        self.requests.see(&entry.event, || keep(&entry));
    }
}

/// Prints what matches; [`FAILED`] where nothing does, as grep has it.
fn print(
    query: &Query,
    shape: &Shape,
    bodies: bool,
    logs: &mut Logs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<u8> {
    let mut keeping = Keeping { requests: Requests::new(shape.limit), bodies };
    let coverage = logs.scan(query, streams, &mut keeping)?;
    let let_go = keeping.requests.let_go();
    let mut requests = keeping.requests.into_sorted();
    request::tell_changes(&mut requests);
    if shape.reverse {
        requests.reverse();
    }
    let output = shape.output;
    if output.is_table() {
        let wide = output == Output::Wide;
        let clock = shape.clock();
        let rows =
            requests.iter().map(|request| (output::row(request, &clock, wide), request.changes.clone()));
        let rows: Vec<_> = std::iter::once((output::head(wide), Vec::new())).chain(rows).collect();
        if !requests.is_empty() {
            output::table(&rows, streams)?;
        }
    } else {
        output.list(requests.iter().map(Ok), streams)?;
    }
    let behind = requests.iter().filter_map(|request| {
        let impersonated = request.impersonated_user.is_some();
        behind_deletion(&request.verb, &request.user, impersonated, &request.namespace)
    });
    let behind = behind.collect();
    let told = Told { requests: requests.len(), let_go, behind };
    remarks(&told, &coverage, &logs.missing(), streams)
}

/// Keeps the records themselves.
struct Spooling {
    requests: Requests<Kept>,
    spool: Spool,
}

impl Sink for Spooling {
    fn take(&mut self, entry: Entry, record: &[u8]) {
        self.requests.see(&entry.event, || self.spool.keep(record));
    }
}

/// Prints the events that match, as they were logged.
fn events(query: &Query, shape: &Shape, logs: &mut Logs, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut spooling = Spooling { requests: Requests::new(shape.limit), spool: Spool::new(shape.limit) };
    let coverage = logs.scan(query, streams, &mut spooling)?;
    let (let_go, reader) = (spooling.requests.let_go(), spooling.spool.finish()?);
    let mut kept = spooling.requests.into_sorted();
    if shape.reverse {
        kept.reverse();
    }
    let mut told = Told { requests: kept.len(), let_go, behind: BTreeSet::new() };
    let records = kept.into_iter().map(|kept| {
        let record = reader.read(kept)?;
        let record = output::on_one_line(&record);
        let text = String::from_utf8_lossy(&record);
        if let Ok(event) = Event::from_json(text.as_bytes()) {
            let impersonated = event.impersonated_user.is_some();
            let namespace = event.object_ref.as_ref().map_or("", |object| &object.namespace);
            told.behind.extend(behind_deletion(&event.verb, &event.user.username, impersonated, namespace));
        }
        Ok(text.into_owned())
    });
    match shape.output {
        // YAML knows nothing of raw JSON.
        Output::Yaml => {
            let parse = |text: anyhow::Result<String>| Ok(serde_json::from_str::<serde_json::Value>(&text?)?);
            shape.output.list(records.map(parse), streams)?;
        }
        _ => shape.output.list(records.map(|text| Ok(RawValue::from_string(text?)?)), streams)?,
    }
    remarks(&told, &coverage, &logs.missing(), streams)
}

/// What a controller that deletes does it for: behind it stands somebody else.
fn behind_deletion(verb: &str, user: &str, impersonated: bool, namespace: &str) -> Option<String> {
    if !verb.starts_with("delete") || impersonated {
        return None;
    }
    let controller = user.strip_prefix("system:serviceaccount:kube-system:")?;
    let says = match controller {
        "generic-garbage-collector" => "deletes what has lost its owner: ask who deleted that".to_owned(),
        "namespace-controller" => format!(
            "empties a Namespace that was deleted: kubectl audit who namespace/{namespace} --did deleted"
        ),
        "pod-garbage-collector" => "deletes Pods that have ended or whose Node is gone".to_owned(),
        "ttl-after-finished-controller" => "deletes Jobs that ended long enough ago".to_owned(),
        _ if controller.ends_with("-controller") => {
            "does what its object's owner asks for: kubectl audit history OWNER".to_owned()
        }
        _ => return None,
    };
    Some(format!("note: `{controller}` {says}"))
}

/// What was printed.
struct Told {
    requests: usize,
    let_go: u64,
    /// What to know of controllers that deleted.
    behind: BTreeSet<String>,
}

/// What a reader should know besides the answer; the exit code.
fn remarks(
    told: &Told,
    coverage: &Coverage,
    missing: &[String],
    streams: &mut Streams<'_>,
) -> anyhow::Result<u8> {
    if told.requests == 0 {
        writeln!(streams.err, "nothing found; {coverage}")?;
    }
    told.behind.iter().try_for_each(|note| writeln!(streams.err, "{}", output::shown(note)))?;
    if told.let_go > 0 {
        writeln!(streams.err, "only the latest {} are shown; --limit 0 shows all", told.requests)?;
    }
    say_incomplete(coverage, missing, streams)?;
    Ok(if told.requests == 0 { FAILED } else { OK })
}

/// What the answer may lack: what could not be read, and who has not answered.
pub(super) fn say_incomplete(
    coverage: &Coverage,
    missing: &[String],
    streams: &mut Streams<'_>,
) -> std::io::Result<()> {
    if coverage.damaged > 0 {
        writeln!(streams.err, "{} damaged places could not be read, the first of them:", coverage.damaged)?;
        for damage in &coverage.damage {
            writeln!(streams.err, "  {}: {}", damage.place, damage.what)?;
        }
    }
    missing.iter().try_for_each(|missing| writeln!(streams.err, "{missing}"))
}

#[cfg(test)]
mod tests;
