//! The CRDs, and a judgement of a value by their schema: every finding, where an API server stops nowhere either.
//!
//! A file that is read without a cluster must be held to the same rules as `kubectl apply --validate=strict`. This walks
//! the structural subset of OpenAPI that our CRDs use; rules in CEL are repeated in [`super::convert`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::audit::Finding;

use super::{AuditConfiguration, AuditNode};

/// Every CRD with its file name under `crds/`.
pub fn crds() -> [(&'static str, CustomResourceDefinition); 2] {
    let configurations = not_observed_at_first(AuditConfiguration::crd());
    [("auditconfigurations.yaml", configurations), ("auditnodes.yaml", AuditNode::crd())]
}

/// An object without a status is taken for finished by kstatus, with which Flux and `helm --wait` judge; so until the
/// controller has looked at it, it says that no generation of it was observed, as Flux's own kinds do.
fn not_observed_at_first(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    let properties = schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()?.properties.as_mut());
    for status in properties.filter_map(|properties| properties.get_mut("status")) {
        status.default = Some(JSON(json!({"observedGeneration": -1})));
    }
    crd
}

/// Judges an AuditConfiguration, as JSON, by its schema.
pub fn check_configuration(object: &Value) -> Vec<Finding> {
    let crd = AuditConfiguration::crd();
    let schema = crd.spec.versions.first().and_then(|v| v.schema.as_ref()?.open_api_v3_schema.clone());
    let schema =
        serde_json::to_value(schema.expect("the derived CRD has a schema")).expect("a schema is JSON");
    let mut findings = Vec::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            // What every object has is not in the CRD's schema.
            "apiVersion" | "kind" | "metadata" => {}
            "status" => {}
            _ => check_field(&schema, key, value, "", &mut findings),
        }
    }
    require(&schema, object, "", &mut findings);
    findings
}

fn check(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let wanted = schema["type"].as_str().unwrap_or_default();
    let fits = match (wanted, value) {
        ("object", Value::Object(_)) | ("array", Value::Array(_)) | ("string", Value::String(_)) => true,
        ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => number.is_i64() || number.is_u64(),
        _ => false,
    };
    if !fits {
        let message = format!("must be {}, but {}", article(wanted), described(value));
        findings.push(Finding::server("wrong-type", path, message));
        return;
    }
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match schema["additionalProperties"].as_object() {
                    Some(_) => {
                        check(&schema["additionalProperties"], field, &format!("{path}.{key}"), findings)
                    }
                    None => check_field(schema, key, field, path, findings),
                }
            }
            require(schema, value, path, findings);
        }
        Value::Array(items) => {
            bound("maxItems", schema, items.len() as f64, "items", path, findings);
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), findings);
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as f64;
            bound("maxLength", schema, length, "characters", path, findings);
            bound("minLength", schema, length, "characters", path, findings);
            check_enum(schema, text, path, findings);
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            bound("maximum", schema, number, "", path, findings);
            bound("minimum", schema, number, "", path, findings);
        }
        Value::Bool(_) | Value::Null => {}
    }
}

fn check_field(schema: &Value, key: &str, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    let full = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let known = schema["properties"].as_object();
    match known.and_then(|known| known.get(key)) {
        Some(field) => check(field, value, &full, findings),
        None => {
            let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let message = format!("unknown field; known here: {}", names.join(", "));
            findings.push(Finding::operator("unknown-field", full, message));
        }
    }
}

fn require(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none_or(Value::is_null) {
            let full = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            findings.push(Finding::server("required", full, "is required"));
        }
    }
}

fn check_enum(schema: &Value, text: &str, path: &str, findings: &mut Vec<Finding>) {
    let Some(allowed) = schema["enum"].as_array() else { return };
    if !allowed.iter().any(|value| value == text) {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let message = format!("`{text}` is not one of {}", allowed.join(", "));
        findings.push(Finding::server("unknown-value", path, message));
    }
}

fn bound(rule: &str, schema: &Value, value: f64, unit: &str, path: &str, findings: &mut Vec<Finding>) {
    let Some(limit) = schema[rule].as_f64() else { return };
    let (word, kept) =
        if rule.starts_with("max") { ("most", value <= limit) } else { ("least", value >= limit) };
    if !kept {
        let message =
            format!("is {value} {unit}; at {word} {limit} are allowed").replace("  ", " ").replace(" ;", ";");
        findings.push(Finding::server("out-of-range", path, message));
    }
}

fn article(type_: &str) -> &'static str {
    match type_ {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "a string",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "something else",
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing is given".to_owned(),
        Value::Bool(value) => {
            format!("{value} is true or false (in YAML yes, no, on, off and y are too: quote it)")
        }
        Value::Number(number) => format!("{number} is a number (quote it to make it a string)"),
        Value::String(_) => "it is a string".to_owned(),
        Value::Array(_) => "it is a list".to_owned(),
        Value::Object(_) => "it is a mapping".to_owned(),
    }
}
