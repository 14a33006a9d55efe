//! Where a question's events come from: log files at hand, or every control-plane node through its agent.
//!
//! A verb asks for a query and takes what matches; it does not know which of the two answered.

use std::path::PathBuf;

use anyhow::Context;

use super::Streams;
use super::nodes::Nodes;
use crate::trail::query::{Matching, Query};
use crate::trail::question::Question;
use crate::trail::read::{Coverage, Sink};
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
    /// The folder of the logs on the nodes, as in the AuditConfiguration's `spec.log.path`.
    #[arg(long, value_name = "DIR", default_value = "/var/log/kubernetes/audit")]
    pub log_dir: String,
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
                let mut coverage = Coverage::default();
                let sieve = query.sieve();
                for log in logs {
                    let mut sink = Matching { query, sink };
                    log.read(streams.input, query, &sieve, &mut coverage, &mut sink);
                }
                Ok(coverage)
            }
            Self::Nodes(nodes) => nodes.scan(query, sink),
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
            Self::Files(_) => {
                let mut counting = Counting { by, top: Top::default() };
                let coverage = self.scan(query, streams, &mut counting)?;
                Ok((counting.top, coverage))
            }
            Self::Nodes(nodes) => nodes.top(query, by),
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

    fn take(&mut self, _: crate::trail::read::Entry, _: &[u8]) {}
}
