//! `audit-operator trail`: one node's part of a question, run by the agent's container for `kubectl audit`.
//!
//! It reads the node's own log, which it finds as the API server does, by the manifest's `--audit-log-path`, and prints
//! what matches, a JSON value a line, and at the end what it has read. It is a guest on a control-plane node: lowest
//! priority for processor and disk, one thread, memory that does not grow with the log, and it ends when whoever asked
//! is gone. The container's CPU limit bounds all such guests together.
#![expect(clippy::disallowed_methods, reason = "the edge on a node: reads the manifest and ends the process")]

use std::fs;
use std::io::{Read, Write as _, stderr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::logs::Counting;
use super::{FAILED, OK, Streams};
use crate::host;
use crate::install::proof::{LogBackend, LogPlace};
use crate::manifest;
use crate::trail::follow;
use crate::trail::query::Query;
use crate::trail::read::{Coverage, Entry, Place, Sink};
use crate::trail::scan::{Meter, PIECE, Scan};
use crate::trail::source;
use crate::trail::top::{By, Top};

/// Searches this node's audit logs for `kubectl audit`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the node's folders are mounted.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The API server's manifest, below the root.
    #[arg(long, value_name = "PATH", default_value = host::MANIFEST)]
    pub manifest: PathBuf,
    /// A log or a folder of logs below the root, instead of the one that the manifest names.
    #[arg(long, value_name = "FILE|DIR")]
    pub log: Option<PathBuf>,
    /// End when standard input does: nobody is there any more who asked.
    #[arg(long)]
    pub attended: bool,
    /// What to search for, as `kubectl audit` writes it.
    #[arg(long, value_name = "JSON")]
    pub ask: String,
}

/// What one node is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) query: Query,
    pub(super) top: Option<By>,
    /// Go on with what is written from now on, for as long as somebody is there.
    #[serde(default)]
    pub(super) follow: bool,
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
    step_back();
    if args.attended {
        end_with_standard_input()?;
    }
    let place = args.place()?;
    // Before the search: what is written meanwhile is seen by both, and whoever asked shows it once.
    let mut follows = if asked.follow { follow::open(std::slice::from_ref(&place))? } else { Vec::new() };
    let logs = source::open(std::slice::from_ref(&place))?;
    let scan = Scan { query: &asked.query, threads: 1, piece: PIECE, gentle: true, meter: &Heartbeat::new() };
    let mut told = Told::default();
    let coverage = match asked.top {
        Some(by) => {
            let mut counting = [Counting { by, top: Top::default() }];
            let coverage = scan.fold(&logs, &mut counting);
            let [Counting { top, .. }] = counting;
            told.top = Some(top);
            coverage
        }
        None => {
            let mut printing = Printing { root: &args.root, out: streams.out, failed: None };
            let coverage = scan.search(&logs, &mut printing);
            if let Some(error) = printing.failed.take() {
                return Err(error.into());
            }
            coverage
        }
    };
    drop(logs);
    if !follows.is_empty() {
        follow_on(&mut follows, &asked.query, &args.root, streams)?;
    }
    told.coverage = Some(coverage);
    serde_json::to_writer(&mut *streams.out, &told)?;
    writeln!(streams.out)?;
    Ok(OK)
}

/// Prints what is written from now on, for ever; the process ends with standard input.
fn follow_on(
    follows: &mut [follow::Follow],
    query: &Query,
    root: &Path,
    streams: &mut Streams<'_>,
) -> anyhow::Result<()> {
    let (sieve, mut beaten) = (query.sieve(), Instant::now());
    loop {
        let mut coverage = Coverage::default();
        let mut printing = Printing { root, out: streams.out, failed: None };
        for follow in &mut *follows {
            follow.poll(query, &sieve, &mut coverage, &mut printing)?;
        }
        if let Some(error) = printing.failed {
            return Err(error.into());
        }
        streams.out.flush()?;
        if beaten.elapsed() > Duration::from_secs(1) {
            beaten = Instant::now();
            writeln!(stderr(), "{PROGRESS}0 0")?;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Between two looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(250);

impl Args {
    fn below_root(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What is to be read: the folder of the log, for its rotated files.
    fn place(&self) -> anyhow::Result<PathBuf> {
        if let Some(log) = &self.log {
            return Ok(self.below_root(log));
        }
        let path = self.below_root(&self.manifest);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let manifest = manifest::read(&text)?;
        let log = match LogBackend::of(&manifest)?.place {
            LogPlace::File(log) => PathBuf::from(log),
            LogPlace::Container { namespace, pod, container } => bail!(
                "the API server writes its audit log to its standard output: `kubectl logs -n {namespace} {pod}-NODE \
                 -c {container} | kubectl audit ... --log -` reads what the node still has of it"
            ),
        };
        let folder = log.parent().unwrap_or(Path::new("/"));
        let below = self.below_root(folder);
        if !below.exists() {
            bail!(
                "the API server logs to `{}`, but the agent has no mount of that folder: set agent.logDirectory of the \
                 chart to it, or add it to agent.extraHostPaths",
                log.display()
            );
        }
        Ok(below)
    }
}

/// Says on standard error how far the search is, every second: `progress DONE EXPECTED` in bytes. Whoever asked shows it,
/// and knows that the node is there.
struct Heartbeat {
    done: AtomicU64,
    expected: AtomicU64,
    said: Mutex<Instant>,
}

/// What its lines begin with.
pub(super) const PROGRESS: &str = "progress ";

impl Heartbeat {
    fn new() -> Self {
        Self { done: AtomicU64::new(0), expected: AtomicU64::new(0), said: Mutex::new(Instant::now()) }
    }
}

impl Meter for Heartbeat {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Ok(mut said) = self.said.lock() else { return };
        if said.elapsed() >= Duration::from_secs(1) {
            *said = Instant::now();
            // Nobody listens: standard input's end will say so too.
            let _ = writeln!(stderr(), "{PROGRESS}{done} {}", self.expected.load(Ordering::Relaxed));
        }
    }
}

/// The API server and etcd go first, for the processor, and for the disk too, whose priority follows from this one (the
/// kernel's `task_nice_ioprio`). Where the kernel refuses, the search is still right.
fn step_back() {
    let _ = rustix::process::setpriority_process(None, 19);
}

/// Ends this process when standard input ends. `pods/exec` closes it when its client is gone; a search that finds nothing
/// would not notice by writing.
fn end_with_standard_input() -> anyhow::Result<()> {
    let mut input = fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while input.read(&mut bytes).is_ok_and(|got| got > 0) {}
        std::process::exit(FAILED.into());
    });
    Ok(())
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
        let place = Place { file: file.display().to_string().into(), at: entry.place.at };
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
