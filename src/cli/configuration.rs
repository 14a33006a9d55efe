//! Reads an AuditConfiguration from a file as an API server would, without one.
//!
//! The file may hold further documents, as files in Git do: a ConfigMap among them that `spec.policy.configMapRef` names
//! is used; everything else is passed over.

use std::path::Path;

use anyhow::bail;
use serde_json::Value;

use crate::api::{AuditConfigurationSpec, convert, schema};
use crate::audit::{Document, Finding, ServerVersion, Severity, documents};
use crate::revision::Rendered;

use super::{Streams, validate};

/// The kind, as it stands in a file.
pub const KIND: &str = "AuditConfiguration";
const API_VERSION: &str = "audit-operator.dev/v1alpha1";

/// Whether a file is meant to be an AuditConfiguration (and not, say, a policy).
pub fn is_one(bytes: &[u8]) -> bool {
    let (documents, _) = documents(bytes);
    documents.iter().any(|d| d.json["kind"] == KIND)
}

/// The spec in a file with everything that its schema finds.
pub fn parse(bytes: &[u8]) -> (Option<(AuditConfigurationSpec, Option<String>)>, Vec<Finding>) {
    let (documents, mut findings) = documents(bytes);
    let ours: Vec<&Document> = documents.iter().filter(|d| d.json["kind"] == KIND).collect();
    let document = match ours.as_slice() {
        [document] => *document,
        [] => {
            if findings.is_empty() {
                findings.push(Finding::operator(
                    "no-configuration",
                    "",
                    format!("there is no {KIND} in the file"),
                ));
            }
            return (None, findings);
        }
        [_, second, ..] => {
            let message = format!("a second {KIND}; give one a file");
            findings
                .push(Finding::operator("second-configuration", "kind", message).at(second.locate("kind")));
            return (None, findings);
        }
    };
    if document.json["apiVersion"] != API_VERSION {
        let message = format!("must be `{API_VERSION}`");
        findings
            .push(Finding::server("api-version", "apiVersion", message).at(document.locate("apiVersion")));
    }
    for finding in schema::check_configuration(&document.json) {
        let position = document.locate(&finding.path);
        findings.push(finding.at(position));
    }
    if findings.iter().any(|f| f.severity() == Severity::Error) {
        return (None, findings);
    }
    match serde_json::from_value::<AuditConfigurationSpec>(document.json["spec"].clone()) {
        Ok(spec) => {
            let config_map = config_map_text(&spec, &documents);
            (Some((spec, config_map)), findings)
        }
        Err(error) => {
            findings
                .push(Finding::server("undecodable", "spec", error.to_string()).at(document.locate("spec")));
            (None, findings)
        }
    }
}

fn config_map_text(spec: &AuditConfigurationSpec, documents: &[Document]) -> Option<String> {
    let reference = spec.policy.config_map_ref.as_ref()?;
    let document = documents.iter().map(|d| &d.json).find(|json| {
        json["kind"] == "ConfigMap"
            && json["metadata"]["name"] == reference.name.as_str()
            && json["metadata"]["namespace"] == reference.namespace.as_str()
    })?;
    document["data"].get(&reference.key).and_then(Value::as_str).map(str::to_owned)
}

/// The spec of a file and what it renders to, or every finding.
pub fn render(
    bytes: &[u8],
    server: ServerVersion,
) -> (Option<(AuditConfigurationSpec, Rendered)>, Vec<Finding>) {
    let (parsed, mut findings) = parse(bytes);
    let Some((spec, config_map)) = parsed else { return (None, findings) };
    let located = |finding: Finding| {
        let (documents, _) = documents(bytes);
        match documents.iter().find(|d| d.json["kind"] == KIND) {
            Some(document) if finding.position.is_none() => {
                let position = document.locate(&finding.path);
                finding.at(position)
            }
            _ => finding,
        }
    };
    match convert::render(&spec, config_map.as_deref(), server) {
        Ok((rendered, warnings)) => {
            findings.extend(warnings.into_iter().map(located));
            (Some((spec, rendered)), findings)
        }
        Err(errors) => {
            findings.extend(errors.into_iter().map(located));
            (None, findings)
        }
    }
}

/// The same for a verb that needs the rendering: findings are printed, and an error when there is none.
pub fn rendered(
    name: &str,
    server: ServerVersion,
    streams: &mut Streams<'_>,
) -> anyhow::Result<(AuditConfigurationSpec, Rendered)> {
    let bytes = validate::read_source(Path::new(name), streams)?;
    let (result, findings) = render(&bytes, server);
    for finding in &findings {
        writeln!(streams.err, "{name}: {finding}")?;
    }
    match result {
        Some(result) => Ok(result),
        None => bail!("`{name}` cannot be used; nothing was written"),
    }
}
