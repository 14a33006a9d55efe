//! `top users|verbs|resources|agents`: who and what makes the most requests.

use serde::Serialize;

use super::events::{FilterArgs, Shape};
use super::logs::Logs;
use super::output;
use super::{FAILED, OK, Streams};
use crate::trail::top::{By, Count};

/// Counts requests by user, verb, resource or client, with their bytes in the log and how long they took.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What to count by.
    #[arg(value_enum)]
    pub by: By,
    /// Which requests.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How to print them; --limit is the number of lines.
    #[command(flatten)]
    pub shape: Shape,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    name: &'a str,
    requests: u64,
    bytes: u64,
    mean_milliseconds: Option<f64>,
    slowest_milliseconds: f64,
}

/// Prints the counts.
///
/// # Errors
/// The logs cannot be reached, or the words are no time.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut logs = Logs::open(&args.shape.logs)?;
    let (top, coverage) = logs.top(&args.filter.query()?, args.by, streams)?;
    let mut counts = top.into_sorted();
    if args.shape.limit > 0 {
        counts.truncate(args.shape.limit);
    }
    if args.shape.reverse {
        counts.reverse();
    }
    let lines: Vec<Line<'_>> = counts.iter().map(|(name, count)| Line::new(name, count)).collect();
    if args.shape.output.is_table() {
        let head = ["NAME", "REQUESTS", "BYTES", "MEAN-MS", "SLOWEST-MS"].map(str::to_owned).to_vec();
        let rows = lines.iter().map(|line| {
            let mean = line.mean_milliseconds.map_or("-".to_owned(), |mean| format!("{mean:.1}"));
            let slowest = format!("{:.1}", line.slowest_milliseconds);
            (
                vec![line.name.to_owned(), line.requests.to_string(), line.bytes.to_string(), mean, slowest],
                Vec::new(),
            )
        });
        output::table(&std::iter::once((head, Vec::new())).chain(rows).collect::<Vec<_>>(), streams)?;
    } else {
        args.shape.output.list(lines.iter().map(Ok), streams)?;
    }
    if coverage.damaged > 0 {
        writeln!(
            streams.err,
            "{} damaged places could not be read; `grep` names the first",
            coverage.damaged
        )?;
    }
    logs.missing().iter().try_for_each(|missing| writeln!(streams.err, "{missing}"))?;
    Ok(if lines.is_empty() { FAILED } else { OK })
}

impl<'a> Line<'a> {
    fn new(name: &'a str, count: &Count) -> Self {
        // Microseconds of one log fit a float exactly for 285 years.
        #[expect(clippy::cast_precision_loss, reason = "printed with one digit")]
        let milliseconds = |micros: u64| micros as f64 / 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "printed with one digit")]
        let mean = (count.timed > 0).then(|| milliseconds(count.micros) / count.timed as f64);
        Self {
            name,
            requests: count.requests,
            bytes: count.bytes,
            mean_milliseconds: mean,
            slowest_milliseconds: milliseconds(count.slowest),
        }
    }
}
