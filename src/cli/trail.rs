//! `audit-operator trail`: one node's part of a question, run by the agent's container for `kubectl audit`.
//!
//! It reads the node's own logs and prints what matches, a JSON value a line, and at the end what it has read. It is
//! a guest on a control-plane node: lowest priority, one thread, memory that does not grow with the log.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::logs::Counting;
use super::{OK, Streams};
use crate::trail::query::{Matching, Query};
use crate::trail::read::{Coverage, Entry, Place, Sink};
use crate::trail::source;
use crate::trail::top::{By, Top};

/// Searches this node's audit logs for `kubectl audit`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the node's folders are mounted.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The folder of the logs, below the root.
    #[arg(long, value_name = "DIR", default_value = "/var/log/kubernetes/audit")]
    pub log_dir: PathBuf,
    /// What to search for, as `kubectl audit` writes it.
    #[arg(long, value_name = "JSON")]
    pub ask: String,
}

/// What one node is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) query: Query,
    pub(super) top: Option<By>,
}

/// One line of a node's answer; the last one has the coverage.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<Place>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) top: Option<Top>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) coverage: Option<Coverage>,
}

/// Answers on `out`.
///
/// # Errors
/// The question is none, or the logs cannot be opened.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let asked: Asked = serde_json::from_str(&args.ask).context("--ask is not what `kubectl audit` writes")?;
    // The API server goes first. Where the kernel refuses, the search is still right.
    let _ = rustix::process::setpriority_process(None, 19);
    let folder = args.root.join(args.log_dir.strip_prefix("/").unwrap_or(&args.log_dir));
    let mut logs = source::open(std::slice::from_ref(&folder))?;
    let (query, sieve) = (&asked.query, asked.query.sieve());
    let mut coverage = Coverage::default();
    let mut told = Told::default();
    match asked.top {
        Some(by) => {
            let mut counting = Counting { by, top: Top::default() };
            for log in &mut logs {
                let mut sink = Matching { query, sink: &mut counting };
                log.read(streams.input, query, &sieve, &mut coverage, &mut sink);
            }
            told.top = Some(counting.top);
        }
        None => {
            let mut printing = Printing { root: &args.root, out: streams.out, failed: None };
            for log in &mut logs {
                let mut sink = Matching { query, sink: &mut printing };
                log.read(streams.input, query, &sieve, &mut coverage, &mut sink);
                if let Some(error) = printing.failed.take() {
                    return Err(error.into());
                }
            }
        }
    }
    told.coverage = Some(coverage);
    serde_json::to_writer(&mut *streams.out, &told)?;
    writeln!(streams.out)?;
    Ok(OK)
}

struct Printing<'a> {
    root: &'a Path,
    out: &'a mut dyn std::io::Write,
    failed: Option<std::io::Error>,
}

impl Sink for Printing<'_> {
    fn wants(&mut self, _: &crate::trail::glance::Glance<'_>, _: usize) -> bool {
        // Nobody reads any more: the rest is let go unread.
        self.failed.is_none()
    }

    fn take(&mut self, entry: Entry, record: &[u8]) {
        let file = Path::new(&*entry.place.file);
        let file = file.strip_prefix(self.root).map_or(file.to_owned(), |below| Path::new("/").join(below));
        let place = Place { file: file.display().to_string().into(), line: entry.place.line };
        // On one line, whatever the log looks like: in JSON a line end is only ever between values.
        let record = String::from_utf8_lossy(record).replace(['\n', '\r'], " ");
        let event = RawValue::from_string(record).ok();
        let told = Told { place: Some(place), event, ..Told::default() };
        let written = serde_json::to_writer(&mut *self.out, &told).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|()| writeln!(self.out)) {
            self.failed = Some(error);
        }
    }
}
