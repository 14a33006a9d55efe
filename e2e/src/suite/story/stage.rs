//! Where the story takes place: one control-plane node, the administrator's tools, and what can be seen of it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::run::{output_of, output_within, refusal};
use crate::wait;

use super::log::AuditLog;
use super::telling::Voice;

/// The manifests folder.
pub(super) const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// kubeadm's manifest of the API server.
pub(super) const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
/// The operator's folder on a node.
pub(super) const STATE: &str = "/var/lib/audit-operator";
/// The namespace of the operator.
pub(super) const NAMESPACE: &str = "audit-operator";
/// The user of the agents.
pub(super) const AGENT: &str = "system:serviceaccount:audit-operator:audit-operator-agent";
/// The user of the controller.
pub(super) const CONTROLLER: &str = "system:serviceaccount:audit-operator:audit-operator-controller";

/// Within seconds here: a reaction to an object, a line in the log.
pub(super) const SOON: Duration = Duration::from_secs(120);
/// A change of the manifest takes about a minute here, most of it the kubelet's. And what waits for the scheduler or
/// the controller manager can take minutes: they end when their API server goes away, and the kubelet starts them again
/// after a longer pause each time.
pub(super) const CHANGE: Duration = Duration::from_secs(600);

/// The cluster, the tools, and whom it is told to.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    /// The cluster of one node.
    pub(super) cluster: &'a Cluster,
    /// How it is told.
    pub(super) voice: Voice,
    programs: PathBuf,
}

impl<'a> Stage<'a> {
    /// With `kubectl-audit` from the folder of the operator's binary.
    pub(super) fn new(cluster: &'a Cluster, operator: &Path, voice: Voice) -> Result<Self> {
        let plugin = operator.with_file_name("kubectl-audit");
        ensure!(plugin.is_file(), "no {}; `make static` builds it", plugin.display());
        let programs = plugin.canonicalize()?.parent().context("a file is in a folder")?.to_owned();
        Ok(Self { cluster, voice, programs })
    }

    /// Its only node.
    pub(super) fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// Its audit log.
    pub(super) fn log(&self) -> AuditLog {
        AuditLog::of(self.node())
    }

    /// kubectl with its plugin, quietly.
    pub(super) fn kubectl(&self, words: &[&str]) -> Result<String> {
        // Longer than what some of them are told to wait for.
        output_within(self.command()?.args(words), CHANGE + SOON)
    }

    /// kubectl with something on its standard input, quietly.
    pub(super) fn kubectl_of(&self, words: &[&str], input: &str) -> Result<String> {
        output_of(self.command()?.args(words), input.as_bytes())
    }

    /// kubectl, shown with its answer to whoever the story is told to.
    pub(super) fn show(&self, words: &[&str]) -> Result<String> {
        self.voice.command(&[&["kubectl"], words].concat(), None);
        let answer = self.kubectl(words)?;
        self.voice.answer(&answer);
        Ok(answer)
    }

    /// `kubectl apply`, shown.
    pub(super) fn apply(&self, object: &str) -> Result<String> {
        let words = ["apply", "-f", "-"];
        self.voice.command(&[&["kubectl"], &words[..]].concat(), Some(object));
        let answer = self.kubectl_of(&words, object)?;
        self.voice.answer(&answer);
        Ok(answer)
    }

    /// What kubectl says to something that must be refused.
    pub(super) fn refusal(&self, words: &[&str]) -> Result<String> {
        refusal(self.command()?.args(words))
    }

    /// The same, of an object on its standard input.
    pub(super) fn refusal_of(&self, words: &[&str], object: &str) -> Result<String> {
        let answer = self.kubectl_of(words, object);
        Ok(answer.err().with_context(|| format!("kubectl {} was not refused", words.join(" ")))?.to_string())
    }

    /// One object.
    pub(super) fn object(&self, kind: &str, name: &str) -> Result<Value> {
        let answer = self.kubectl(&["get", kind, name, "--output=json"])?;
        serde_json::from_str(&answer).with_context(|| format!("{kind} {name}"))
    }

    /// Waits until an object's condition has a reason for its newest spec; gives the condition's message.
    pub(super) fn reason(&self, kind: &str, name: &str, condition: &str, reason: &str) -> Result<String> {
        let waited = format!("{kind} {name} to say {condition}: {reason}");
        wait::until(&waited, SOON, || {
            let object = self.object(kind, name)?;
            let found = find_condition(&object, condition)?;
            let current = found["observedGeneration"] == object["metadata"]["generation"];
            ensure!(current && found["reason"] == reason, "it says {found}");
            Ok(Some(found["message"].as_str().unwrap_or_default().to_owned()))
        })
    }

    /// Waits until `auditcfg/default` is Ready as its newest spec wants it, and tells what the node says meanwhile.
    pub(super) fn ready(&self) -> Result<()> {
        let words = ["wait", "--for=condition=Ready", "auditcfg/default", "--timeout=5s"];
        self.voice.command(&["kubectl", words[0], words[1], words[2], "--timeout=10m"], None);
        self.voice.explain(
            "When the manifest changes, the kubelet needs most of a minute to restart the API server.",
        );
        let mut told = String::new();
        let answer = wait::until("auditcfg/default to be Ready", CHANGE, || {
            let state = self.node_state();
            if !state.is_empty() && state != told {
                self.voice.found(&state);
                told = state;
            }
            // kubectl gives up when its API server goes away, and this cluster has one.
            Ok(Some(self.kubectl(&words)?))
        })?;
        self.voice.answer(&answer);
        Ok(())
    }

    /// Waits until operator and agent have said all there is to say: after a change the permit is taken back, and the
    /// agent reports that it has seen that.
    pub(super) fn quiet(&self) -> Result<()> {
        wait::until("n1 to have nothing more to say", SOON, || {
            let node = self.object("auditnode", "n1")?;
            let seen = node["status"]["observedGeneration"] == node["metadata"]["generation"];
            ensure!(seen && node["spec"]["permit"].is_null(), "it is {node}");
            Ok(Some(()))
        })
    }

    /// What the only node says about itself, in a line; that nobody answers is something, too.
    fn node_state(&self) -> String {
        let Ok(node) = self.object("auditnode", "n1") else {
            return "n1: its API server does not answer".to_owned();
        };
        let Ok(ready) = find_condition(&node, "Ready") else { return String::new() };
        let word = |field: &str| {
            ready[field].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned()
        };
        format!("n1: {}: {}", word("reason"), word("message"))
    }

    /// The revision that `auditcfg/default` renders to.
    pub(super) fn revision(&self) -> Result<String> {
        let configuration = self.object("auditcfg", "default")?;
        let revision = configuration["status"]["revision"].as_str();
        revision.map(str::to_owned).with_context(|| format!("no revision in {}", configuration["status"]))
    }

    /// The API server's manifest as it is on the disk.
    pub(super) fn manifest(&self) -> Result<Vec<u8>> {
        self.file(MANIFEST)
    }

    /// A file of the node.
    pub(super) fn file(&self, on_node: &str) -> Result<Vec<u8>> {
        let path = self.node().path(on_node);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The state in the journal on the node.
    pub(super) fn journal_state(&self) -> Result<String> {
        let journal: Value = serde_json::from_slice(&self.file(&format!("{STATE}/journal.json"))?)?;
        let name = journal.pointer("/state/name").and_then(Value::as_str);
        name.map(str::to_owned).with_context(|| format!("a journal without a state: {journal}"))
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.cluster.kubectl_command()?;
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.programs.clone()).chain(env::split_paths(&path));
        command
            .env("PATH", env::join_paths(folders).context("a folder of programs has a colon in its path")?);
        Ok(command)
    }
}

fn find_condition<'v>(object: &'v Value, condition: &str) -> Result<&'v Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|c| c["type"] == condition);
    found.with_context(|| format!("no condition {condition} yet"))
}

/// SHA-256 in hexadecimal, to compare and to show what is long.
pub(in crate::suite) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
