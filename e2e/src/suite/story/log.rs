//! The audit log on a node's disk, read as it is being written and rotated.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::node::Node;

/// The operator's default place for the log.
pub(super) const FOLDER: &str = "/var/log/kubernetes/audit";
/// The user of kubeadm's administrator.
pub(super) const ADMIN: &str = "kubernetes-admin";

/// The folder of one node's log.
#[derive(Clone, Debug)]
pub(super) struct AuditLog {
    folder: PathBuf,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// As it is in the log.
    pub(super) line: String,
    json: Value,
}

impl AuditLog {
    /// The log of a node.
    pub(super) fn of(node: &Node) -> Self {
        Self { folder: node.path(FOLDER) }
    }

    /// Its folder on this machine.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that is being written.
    pub(super) fn live(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    /// Every event written from a time on, of which the line contains `needle`; in the order of the files.
    pub(super) fn events(&self, from: Timestamp, needle: &str) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for text in self.texts()? {
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in complete.lines().filter(|line| line.contains(needle)) {
                let json = serde_json::from_str(line).with_context(|| format!("in the audit log: {line}"))?;
                let event = Event { line: line.to_owned(), json };
                if event.time("stageTimestamp")? >= from {
                    events.push(event);
                }
            }
        }
        Ok(events)
    }

    /// The texts of the rotated files, the oldest first, and of the live one. Again when a rotation came between.
    fn texts(&self) -> Result<Vec<String>> {
        loop {
            let names = self.names()?;
            let read = |name: &String| fs::read(self.folder.join(name));
            let texts: Result<Vec<_>, _> = names.iter().map(read).collect();
            if self.names()? == names
                && let Ok(texts) = texts
            {
                return Ok(texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect());
            }
        }
    }

    /// Its files, the oldest first: `audit-TIME.log` sort by time, and before `audit.log`.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder).with_context(|| format!("no {}", self.folder.display()))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        let strangers: Vec<&String> = names.iter().filter(|name| !name.starts_with("audit")).collect();
        ensure!(strangers.is_empty(), "beside the audit log are {strangers:?}");
        names.sort();
        Ok(names)
    }
}

impl Event {
    /// A string field by its JSON pointer; empty when it is not there.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A time field by its name.
    pub(super) fn time(&self, field: &str) -> Result<Timestamp> {
        let text = self.json.get(field).and_then(Value::as_str).unwrap_or_default();
        text.parse().with_context(|| format!("`{field}` of {}", self.line))
    }

    /// What was done to what: `create pods default/web`, `get pods/exec default/web`, `get /version`.
    pub(super) fn deed(&self) -> String {
        let (verb, resource) = (self.text("/verb"), self.text("/objectRef/resource"));
        if resource.is_empty() {
            return format!("{verb} {}", self.text("/requestURI"));
        }
        let part = match self.text("/objectRef/subresource") {
            "" => String::new(),
            part => format!("/{part}"),
        };
        let (namespace, name) = (self.text("/objectRef/namespace"), self.text("/objectRef/name"));
        format!("{verb} {resource}{part} {namespace}/{name}")
    }

    /// Who authenticated.
    pub(super) fn user(&self) -> &str {
        self.text("/user/username")
    }

    /// Whether the user is in a group.
    pub(super) fn is_in(&self, group: &str) -> bool {
        let groups = self.json.pointer("/user/groups").and_then(Value::as_array);
        groups.into_iter().flatten().any(|g| g == group)
    }

    /// At what level it was recorded.
    pub(super) fn level(&self) -> &str {
        self.text("/level")
    }

    /// At which stage.
    pub(super) fn stage(&self) -> &str {
        self.text("/stage")
    }

    /// Whether the body of the request, and of the answer, are in it.
    pub(super) fn bodies(&self) -> (bool, bool) {
        (self.json.get("requestObject").is_some(), self.json.get("responseObject").is_some())
    }
}
