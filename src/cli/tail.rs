//! `tail`: the latest requests, and with `-f` those that come, also over rotations and from every control-plane node.
//!
//! The latest ones come from a search like any other. What follows begins where that search was asked, so nothing is
//! missed, and what both saw is shown once. A request that runs for long is shown when it begins and when it ends.
#![expect(clippy::disallowed_methods, reason = "the edge: waits for a log to grow")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::events::{FilterArgs, say_incomplete};
use super::logs::{self, Logs};
use super::output::{self, Clock, Output};
use super::{OK, Streams};
use crate::trail::event::Stage;
use crate::trail::follow;
use crate::trail::query::{Query, StageName};
use crate::trail::read::{self, Coverage, Entry, Sink};
use crate::trail::request::{Request, Requests};

/// Between two looks at a log.
const PAUSE: Duration = Duration::from_millis(200);
/// How long before the latest event the following begins, on every node: their clocks and logs are not in step.
const OVERLAP: SignedDuration = SignedDuration::from_secs(15);

/// Prints the latest requests, and with -f goes on with those that come.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Go on, until interrupted.
    #[arg(short, long)]
    pub follow: bool,
    /// Which requests.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Where the logs are.
    #[command(flatten)]
    pub logs: logs::Args,
    /// How to print; a list is a value a line, since it has no end.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// How many of the latest to begin with; of standard input that is followed, none.
    #[arg(long, default_value_t = 10, value_name = "NUMBER")]
    pub limit: usize,
    /// Times in UTC and not in the local time zone.
    #[arg(long)]
    pub utc: bool,
}

/// Prints them as they come.
///
/// # Errors
/// The logs cannot be reached, or the words are no time.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut query = args.filter.query()?;
    for filter in &mut query.any {
        if filter.stages.is_empty() {
            filter.stages = vec![StageName::ResponseStarted, StageName::ResponseComplete, StageName::Panic];
        }
    }
    let clock = Clock(if args.utc { TimeZone::UTC } else { TimeZone::system() });
    let mut shown = Shown { clock, output: args.output, recent: Recent::default(), widths: Vec::new() };
    if args.follow && args.logs.log.iter().any(|path| path.as_os_str() == "-") {
        ensure!(
            args.logs.log.len() == 1,
            "`tail -f --log -` follows standard input only; name no other log beside it"
        );
        return standard_input(&query, shown, streams);
    }
    let follows = if args.follow { follow::open(&args.logs.log)? } else { Vec::new() };
    let mut logs = Logs::open(&args.logs)?;
    let mut latest = Latest { requests: Requests::new(args.limit.max(1)), recent: Recent::default() };
    let coverage = logs.scan(&query, streams, &mut latest)?;
    shown.recent = latest.recent;
    if args.limit > 0 {
        for (request, record) in latest.requests.into_sorted() {
            shown.show(&request, &record, streams)?;
        }
    }
    say_incomplete(&coverage, &logs.missing(), streams)?;
    streams.out.flush()?;
    if !args.follow {
        return Ok(OK);
    }
    if follows.is_empty() {
        let since = coverage.last.unwrap_or_else(Timestamp::now) - OVERLAP;
        query.since = Some(query.since.map_or(since, |asked| asked.max(since)));
        logs.follow(&query, &mut |entry, record| shown.take(&entry, record, streams))?;
        return Ok(OK);
    }
    files(follows, &query, shown, streams)
}

/// Follows files, for ever.
fn files(
    mut follows: Vec<follow::Follow>,
    query: &Query,
    mut shown: Shown,
    streams: &mut Streams<'_>,
) -> anyhow::Result<u8> {
    let sieve = query.sieve();
    loop {
        let (mut coverage, mut found) = (Coverage::default(), Found(Vec::new()));
        for follow in &mut follows {
            follow.poll(query, &sieve, &mut coverage, &mut found)?;
        }
        for (entry, record) in found.0 {
            shown.take(&entry, &record, streams)?;
        }
        for damage in &coverage.damage {
            writeln!(streams.err, "{}: {}", damage.place, damage.what)?;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Standard input to its end, line by line as they come. A line that is no event is let go: an API server that logs events to
/// its standard output says other things there too.
fn standard_input(query: &Query, mut shown: Shown, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let (sieve, mut coverage, mut line) = (query.sieve(), Coverage::default(), Vec::new());
    while streams.input.read_until(b'\n', &mut line)? > 0 {
        let mut found = Found(Vec::new());
        let mut matching = crate::trail::query::Matching { query, sink: &mut found };
        read::read("-", &line[..], &sieve, &mut coverage, &mut matching);
        for (entry, record) in found.0 {
            shown.take(&entry, &record, streams)?;
        }
        line.clear();
    }
    Ok(OK)
}

struct Found(Vec<(Entry, Vec<u8>)>);

impl Sink for Found {
    fn take(&mut self, entry: Entry, record: &[u8]) {
        self.0.push((entry, record.to_vec()));
    }
}

/// What the search found that the following begins with.
struct Latest {
    requests: Requests<(Request, Vec<u8>)>,
    recent: Recent,
}

impl Sink for Latest {
    fn take(&mut self, entry: Entry, record: &[u8]) {
        self.recent.is_new(&entry);
        self.requests.see(&entry.event, || (Request::of(&entry), record.to_vec()));
    }
}

/// The stages seen of late.
#[derive(Debug, Default)]
struct Recent(BTreeSet<(Option<Timestamp>, String, u8)>);

impl Recent {
    fn is_new(&mut self, entry: &Entry) -> bool {
        let event = &entry.event;
        let stage = match event.stage {
            Stage::ResponseStarted => 1,
            Stage::ResponseComplete => 2,
            Stage::Panic => 3,
            Stage::RequestReceived | Stage::Other => 0,
        };
        let is_new = self.0.insert((event.stage_timestamp, event.audit_id.clone(), stage));
        if let Some((Some(latest), ..)) = self.0.last() {
            let horizon = *latest - OVERLAP * 2;
            while self.0.first().is_some_and(|(time, ..)| time.is_some_and(|time| time < horizon)) {
                self.0.pop_first();
            }
        }
        is_new
    }
}

struct Shown {
    clock: Clock,
    output: Output,
    recent: Recent,
    /// Columns only ever get wider.
    widths: Vec<usize>,
}

impl Shown {
    fn take(&mut self, entry: &Entry, record: &[u8], streams: &mut Streams<'_>) -> anyhow::Result<()> {
        if self.recent.is_new(entry) {
            self.show(&Request::of(entry), record, streams)?;
            streams.out.flush()?;
        }
        Ok(())
    }

    fn show(&mut self, request: &Request, record: &[u8], streams: &mut Streams<'_>) -> anyhow::Result<()> {
        match self.output {
            Output::Table | Output::Wide => {
                let wide = self.output == Output::Wide;
                if self.widths.is_empty() {
                    let head = output::head(wide);
                    self.widths = head.iter().map(|name| name.chars().count()).collect();
                    self.row(&head, streams)?;
                }
                let row: Vec<String> =
                    output::row(request, &self.clock, wide).iter().map(|cell| output::shown(cell)).collect();
                self.row(&row, streams)?;
            }
            Output::Yaml => {
                let event: serde_json::Value = serde_json::from_slice(record)?;
                writeln!(streams.out, "---")?;
                self.output.value(&event, streams)?;
            }
            Output::Json | Output::Jsonl => {
                streams.out.write_all(&output::on_one_line(record))?;
                writeln!(streams.out)?;
            }
        }
        Ok(())
    }

    fn row(&mut self, row: &[String], streams: &mut Streams<'_>) -> std::io::Result<()> {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
        let cells = row.iter().zip(&self.widths).map(|(cell, &width)| format!("{cell:<width$}"));
        writeln!(streams.out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "writes the logs it reads")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tail: Args,
    }

    fn line(id: &str, second: u32, stage: &str) -> String {
        format!(
            "{{\"auditID\":\"{id}\",\"stage\":\"{stage}\",\"verb\":\"get\",\"requestURI\":\"/{id}\",\"user\":{{\"username\":\"jane\"}},\
             \"requestReceivedTimestamp\":\"2026-01-02T03:04:{second:02}.000000Z\",\
             \"stageTimestamp\":\"2026-01-02T03:04:{second:02}.000000Z\"}}\n"
        )
    }

    fn run_with(input: &str, words: &[&str]) -> String {
        let (said, remarks) = run_and_hear(input, words);
        assert_eq!(remarks, "");
        said
    }

    fn run_and_hear(input: &str, words: &[&str]) -> (String, String) {
        let args = Cli::try_parse_from(std::iter::once(&"tail").chain(words)).unwrap().tail;
        let (mut input, mut out, mut err) = (input.as_bytes(), Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        assert_eq!(run(&args, &mut streams).unwrap(), OK);
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_latest_are_shown_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        let lines: String =
            (0..30).map(|second| line(&format!("r{second}"), second, "ResponseComplete")).collect();
        std::fs::write(&log, lines).unwrap();
        let said = run_with("", &["--limit", "2", "--utc", "--log", &log.display().to_string()]);
        let expected = "TIME  USER  VERB  OBJECT  CODE  FROM\n\
                        2026-01-02T03:04:28.000Z  jane  get   /r28    -\n\
                        2026-01-02T03:04:29.000Z  jane  get   /r29    -\n";
        assert_eq!(said, expected);
    }

    #[test]
    fn standard_input_is_shown_as_it_comes_and_a_request_once() {
        let log = [
            line("a", 1, "RequestReceived"),
            line("a", 1, "ResponseComplete"),
            line("b", 2, "ResponseStarted"),
        ];
        let said = run_with(&log.concat(), &["-f", "--log", "-", "-o", "jsonl"]);
        assert_eq!(said, log[1..].concat());
    }

    #[test]
    fn the_latest_of_standard_input_and_what_could_not_be_read() {
        let log = [
            line("b", 2, "ResponseComplete"),
            "what is this\n".to_owned(),
            line("c", 3, "ResponseComplete"),
            line("a", 1, "ResponseComplete"),
        ];
        let (said, remarks) = run_and_hear(&log.concat(), &["--limit", "2", "--log", "-", "-o", "jsonl"]);
        assert_eq!(said, [&log[0][..], &log[2]].concat());
        assert!(remarks.starts_with("1 damaged places could not be read"), "{remarks}");
        assert!(remarks.contains("-:2: "), "{remarks}");
    }

    #[test]
    fn standard_input_is_followed_alone() {
        let args = Cli::try_parse_from(["tail", "-f", "--log", "-", "n2/"]).unwrap().tail;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut &b""[..], out: &mut out, err: &mut err, color: false };
        let error = run(&args, &mut streams).unwrap_err().to_string();
        assert!(error.contains("standard input only"), "{error}");
    }

    #[test]
    fn the_latest_of_an_indented_log_are_lines() {
        let log = [line("a", 1, "ResponseComplete"), line("b", 2, "ResponseComplete")].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, log.replace(r#","stage""#, ",\r\n  \"stage\"")).unwrap();
        let said = run_with("", &["--log", file.path().to_str().unwrap(), "-o", "jsonl"]);
        assert_eq!(said, log);
    }

    #[test]
    fn what_has_been_seen_is_not_new() {
        let entry = |id: &str, second| {
            let mut entries = Vec::new();
            let text = line(id, second, "ResponseComplete");
            let mut sink = |entry: Entry| entries.push(entry);
            read::read("x", text.as_bytes(), &Default::default(), &mut Coverage::default(), &mut sink);
            entries.remove(0)
        };
        let mut recent = Recent::default();
        assert!(recent.is_new(&entry("a", 1)) && recent.is_new(&entry("b", 1)));
        assert!(!recent.is_new(&entry("a", 1)));
        assert!(recent.is_new(&entry("c", 59)));
        assert_eq!(recent.0.len(), 1, "what is long ago is forgotten");
    }
}
