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

/// The spec of a file and what it renders to, or every finding, each with its place in the file.
pub fn render(
    bytes: &[u8],
    server: ServerVersion,
) -> (Option<(AuditConfigurationSpec, Rendered)>, Vec<Finding>) {
    let (documents, mut findings) = documents(bytes);
    let Some(document) = only_one(&documents, &mut findings) else { return (None, findings) };
    let located = |finding: Finding| match finding.position {
        Some(_) => finding,
        None => {
            let position = document.locate(&finding.path);
            finding.at(position)
        }
    };
    if document.json["apiVersion"] != API_VERSION {
        let message = format!("must be `{API_VERSION}`");
        findings.push(located(Finding::server("api-version", "apiVersion", message)));
    }
    findings.extend(schema::check_configuration(&document.json).into_iter().map(located));
    if findings.iter().any(|f| f.severity() == Severity::Error) {
        return (None, findings);
    }
    let spec = match serde_json::from_value::<AuditConfigurationSpec>(document.json["spec"].clone()) {
        Ok(spec) => spec,
        Err(error) => {
            findings.push(located(Finding::server("undecodable", "spec", error.to_string())));
            return (None, findings);
        }
    };
    match convert::render(&spec, config_map_text(&spec, &documents).as_deref(), server) {
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

/// The file's one AuditConfiguration; none, or a second one, is a finding.
fn only_one<'d>(documents: &'d [Document], findings: &mut Vec<Finding>) -> Option<&'d Document> {
    let ours: Vec<&Document> = documents.iter().filter(|d| d.json["kind"] == KIND).collect();
    match ours.as_slice() {
        [document] => return Some(document),
        [] if findings.is_empty() => {
            let message = format!("there is no {KIND} in the file");
            findings.push(Finding::operator("no-configuration", "", message));
        }
        // What could not be read has been said, and may have been it.
        [] => {}
        [_, second, ..] => {
            let message = format!("a second {KIND}; give one a file");
            let finding = Finding::operator("second-configuration", "kind", message);
            findings.push(finding.at(second.locate("kind")));
        }
    }
    None
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
