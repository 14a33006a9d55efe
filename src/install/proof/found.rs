//! Our events in the text of a log: JSON or legacy lines, bare or in a container runtime's log.
//!
//! Only whole lines of the audit backend count: the id also stands in the server's ordinary log, which shares the
//! container's output with an audit log written to `-`.

use std::fmt;

use memchr::memmem;
use serde::Deserialize;

use crate::audit::{Level, Stage};

/// An event with the id looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its level; a legacy line has none.
    pub level: Option<Level>,
    /// Its stage.
    pub stage: Stage,
    /// The HTTP status, from the stage on at which there is one.
    pub code: Option<u16>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage)?;
        match self.level {
            Some(level) => write!(f, " at {level}"),
            None => Ok(()),
        }
    }
}

/// The events of this id in whole lines of a log.
pub fn events(text: &[u8], id: &str) -> Vec<Found> {
    let holding_it = |line: &&[u8]| memmem::find(line, id.as_bytes()).is_some();
    text.split(|byte| *byte == b'\n').filter(holding_it).filter_map(|line| event(line, id)).collect()
}

#[derive(Deserialize)]
struct Json {
    level: Level,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: Stage,
    #[serde(rename = "responseStatus", default)]
    response_status: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    code: Option<u16>,
}

fn event(line: &[u8], id: &str) -> Option<Found> {
    let line = content(std::str::from_utf8(line).ok()?.trim_end());
    if !line.starts_with('{') {
        return legacy(line, id);
    }
    let event: Json = serde_json::from_str(line).ok()?;
    (event.audit_id == id).then_some(Found {
        level: Some(event.level),
        stage: event.stage,
        code: event.response_status.code,
    })
}

/// What a container wrote, from a line of its CRI log: `2026-01-02T03:04:05.678901234Z stdout F …`.
fn content(line: &str) -> &str {
    let mut parts = line.splitn(4, ' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some("stdout"), Some("F"), Some(content)) => content,
        _ => line,
    }
}

/// `2026-01-02T03:04:05.678901Z AUDIT: id="…" stage="…" … response="403"` (`pkg/audit/format.go`).
fn legacy(line: &str, id: &str) -> Option<Found> {
    let (_time, fields) = line.split_once(" AUDIT: ")?;
    let fields = fields.strip_prefix(&format!("id=\"{id}\" stage=\""))?;
    let (stage, rest) = fields.split_once('"')?;
    let stage = Stage::ALL.into_iter().find(|known| known.as_str() == stage)?;
    let code = rest.rsplit_once("response=\"").and_then(|(_, code)| code.trim_end_matches('"').parse().ok());
    Some(Found { level: None, stage, code })
}
