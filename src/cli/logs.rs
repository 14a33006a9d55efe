//! Where a question's events come from: log files at hand, or every control-plane node through its agent.
//!
//! A verb asks for a query and takes what matches; it does not know which of the two answered.

use std::path::PathBuf;

use anyhow::Context;

use super::Streams;
use super::nodes::Nodes;
use super::progress::Progress;
use crate::trail::query::Query;
use crate::trail::question::Question;
use crate::trail::read::{Coverage, Entry, Sink};
use crate::trail::scan::{PIECE, Scan};
use crate::trail::source::{self, Log};
use crate::trail::top::{By, Top};
use crate::trail::who::Live;

/// Where the logs are.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Logs to read: files, folders (live, rotated and compressed logs in them), `-` for standard input. Each
    /// control-plane node logs the requests it served, so give those of all of them. Without --log the agents on the
    /// control-plane nodes are asked.
    #[arg(long, num_args = 1.., value_name = "FILE|DIR")]
    pub log: Vec<PathBuf>,
    /// The kubeconfig file [default: as kubectl].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig file.
    #[arg(long)]
    pub context: Option<String>,
    /// The namespace of audit-operator, whose agents are asked.
    #[arg(long, value_name = "NAMESPACE", default_value = "audit-operator")]
    pub operator_namespace: String,
    /// A log or a folder of logs on the nodes, instead of what each API server's manifest says.
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "log")]
    pub node_log: Option<String>,
    /// Ask as this user.
    #[arg(long = "as", value_name = "USER", conflicts_with = "log")]
    pub impersonate: Option<String>,
    /// Ask as a member of this group too; may be given several times.
    #[arg(long = "as-group", value_name = "GROUP", requires = "impersonate")]
    pub impersonate_group: Vec<String>,
}

/// The logs of one question.
pub(super) enum Logs {
    Files(Vec<Log>),
    Nodes(Box<Nodes>),
}

impl Logs {
    pub(super) fn open(args: &Args) -> anyhow::Result<Self> {
        if !args.log.is_empty() {
            return Ok(Self::Files(source::open(&args.log)?));
        }
        let nodes = Nodes::connect(args).context(
            "no --log given, so the agents on the control-plane nodes are asked, but they cannot be reached; give \
             --log with the audit log or its folder (--audit-log-path of kube-apiserver, on each control-plane \
             node), or `--log -` to read standard input",
        )?;
        Ok(Self::Nodes(Box::new(nodes)))
    }

    /// Hands each event that matches to `sink`.
    pub(super) fn scan(
        &mut self,
        query: &Query,
        streams: &mut Streams<'_>,
        sink: &mut impl Sink,
    ) -> anyhow::Result<Coverage> {
        match self {
            Self::Files(logs) => {
                spool(logs, streams)?;
                let progress = Progress::new();
                let scan = Scan { query, threads: threads(), piece: PIECE, gentle: false, meter: &progress };
                Ok(scan.search(logs, sink))
            }
            Self::Nodes(nodes) => nodes.scan(query, sink),
        }
    }

    /// Hands on what matches as it comes, from the query's `since` on, until `each` fails or no node is left. Files are
    /// followed by whoever named them.
    pub(super) fn follow(
        &mut self,
        query: &Query,
        each: &mut dyn FnMut(Entry, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Nodes(nodes) => nodes.follow(query, each),
        }
    }

    /// Counts what matches.
    pub(super) fn top(
        &mut self,
        query: &Query,
        by: By,
        streams: &mut Streams<'_>,
    ) -> anyhow::Result<(Top, Coverage)> {
        match self {
            Self::Files(logs) => {
                spool(logs, streams)?;
                let progress = Progress::new();
                let scan = Scan { query, threads: threads(), piece: PIECE, gentle: false, meter: &progress };
                let mut sinks: Vec<Counting> =
                    (0..scan.threads).map(|_| Counting { by, top: Top::default() }).collect();
                let coverage = scan.fold(logs, &mut sinks);
                let mut top = Top::default();
                sinks.into_iter().for_each(|sink| top.add(sink.top));
                Ok((top, coverage))
            }
            Self::Nodes(nodes) => nodes.top(query, by),
        }
    }

    /// The namespace that the user's kubeconfig means where none is given.
    pub(super) fn default_namespace(&self) -> Option<&str> {
        match self {
            Self::Files(_) => None,
            Self::Nodes(nodes) => Some(nodes.default_namespace()),
        }
    }

    /// Whether live objects can be looked at.
    pub(super) fn has_cluster(&self) -> bool {
        matches!(self, Self::Nodes(_))
    }

    /// The object as it is in the cluster.
    pub(super) fn live(&self, question: &Question) -> Option<Live> {
        match self {
            Self::Files(_) => None,
            Self::Nodes(nodes) => nodes.live(question),
        }
    }

    /// Which control-plane nodes have not answered, whole sentences.
    pub(super) fn missing(&self) -> Vec<String> {
        match self {
            Self::Files(_) => Vec::new(),
            Self::Nodes(nodes) => nodes.missing(),
        }
    }
}

/// Standard input is read as often as a question needs.
fn spool(logs: &mut [Log], streams: &mut Streams<'_>) -> anyhow::Result<()> {
    logs.iter_mut().try_for_each(|log| log.spool(streams.input)).context("cannot read standard input")
}

/// More threads than this wait for the memory.
const MOST_THREADS: usize = 8;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}

/// A sink that counts and wants nothing whole.
pub(super) struct Counting {
    pub(super) by: By,
    pub(super) top: Top,
}

impl Sink for Counting {
    fn wants(&mut self, glance: &crate::trail::glance::Glance<'_>, bytes: usize) -> bool {
        self.top.see(self.by, glance, bytes);
        false
    }

    fn take(&mut self, _: Entry, _: &[u8]) {}
}
