//! One thing that is wrong, or worth knowing, in a policy: what, where, why, and what to do next.
//!
//! Mistakes of a user are findings and never errors: all of them are collected and shown at once. A finding that
//! refuses the policy says who refuses it, because kube-apiserver accepts much that it should not (an unknown
//! field is dropped with one line in its log, and the rule then matches more than was meant).

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The policy is refused, see [`RefusedBy`].
    Error,
    /// The policy works, but perhaps not as was meant.
    Warning,
}

/// Who refuses a policy because of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusedBy {
    /// kube-apiserver would exit before it serves.
    Server,
    /// kube-apiserver would start, and silently read something other than what is written; we refuse it.
    AuditOperator,
}

/// A place in a source text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, the first is 1.
    pub line: usize,
    /// Column in characters, the first is 1.
    pub column: usize,
}

/// One thing found in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule of ours this is; kebab-case, and never renamed, so that scripts can rely on it.
    pub code: &'static str,
    /// Who refuses the policy for it; `None` for a warning.
    pub refused_by: Option<RefusedBy>,
    /// The field, as `rules[0].level`; empty for the policy as a whole.
    pub path: String,
    /// Where in the source; `None` when there was no text to point into.
    pub position: Option<Position>,
    /// What is wrong, why, and what to do next; one line, no full stop.
    pub message: String,
}

impl Finding {
    /// A finding for which kube-apiserver would not start.
    pub fn server(code: &'static str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, Some(RefusedBy::Server), path.into(), message.into())
    }

    /// A finding that only we refuse.
    pub fn operator(code: &'static str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, Some(RefusedBy::AuditOperator), path.into(), message.into())
    }

    /// A finding that refuses nothing.
    pub fn warning(code: &'static str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, None, path.into(), message.into())
    }

    fn new(code: &'static str, refused_by: Option<RefusedBy>, path: String, message: String) -> Self {
        Self { code, refused_by, path, position: None, message }
    }

    /// The same finding, at a place in the source.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    /// [`Severity::Error`] exactly when somebody refuses the policy for it.
    pub fn severity(&self) -> Severity {
        if self.refused_by.is_some() { Severity::Error } else { Severity::Warning }
    }

    /// Whether the policy is refused for it.
    pub fn is_error(&self) -> bool {
        self.refused_by.is_some()
    }

    /// Whether kube-apiserver itself would refuse the policy for it.
    pub fn stops_server(&self) -> bool {
        self.refused_by == Some(RefusedBy::Server)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// `line 3, column 5: rules[0].verb: … [code]`; what is not known is left out.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} [{}]", self.message, self.code)
    }
}

/// One flat object with `code`, `severity`, `refusedBy`, `path`, `line`, `column` and `message`; what is not known is
/// null, so that every finding has the same keys.
impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Finding", 7)?;
        out.serialize_field("code", self.code)?;
        out.serialize_field("severity", &self.severity())?;
        out.serialize_field("refusedBy", &self.refused_by)?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("line", &self.position.map(|p| p.line))?;
        out.serialize_field("column", &self.position.map(|p| p.column))?;
        out.serialize_field("message", &self.message)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Finding {
        Finding::operator("unknown-field", "rules[0].verb", "unknown field `verb`")
            .at(Position { line: 3, column: 5 })
    }

    #[test]
    fn text_says_place_field_message_and_code() {
        assert_eq!(
            finding().to_string(),
            "line 3, column 5: rules[0].verb: unknown field `verb` [unknown-field]"
        );
        assert_eq!(
            Finding::server("no-rules", "", "no rules").to_string(),
            "no rules [no-rules]",
            "what is not known is left out"
        );
    }

    #[test]
    fn json_has_every_key_always() {
        let json = serde_json::to_value(finding()).unwrap();
        let expected = serde_json::json!({
            "code": "unknown-field", "severity": "error", "refusedBy": "auditOperator", "path": "rules[0].verb",
            "line": 3, "column": 5, "message": "unknown field `verb`",
        });
        assert_eq!(json, expected);
        let json = serde_json::to_value(Finding::warning("x", "", "y")).unwrap();
        assert_eq!(json["severity"], "warning");
        assert!(json["refusedBy"].is_null() && json["line"].is_null());
    }
}
