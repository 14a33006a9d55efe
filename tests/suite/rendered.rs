//! The chart as it is rendered with its default values: the objects of `deploy/audit-operator.yaml`.
//!
//! `make check-generated` compares that file with the templates.

use serde::Deserialize as _;
use serde_json::Value;

use crate::markdown::document;

/// Every object.
pub(crate) fn objects() -> Vec<Value> {
    let text = document("deploy/audit-operator.yaml");
    let documents = serde_yaml::Deserializer::from_str(&text).map(|d| Value::deserialize(d).unwrap());
    let objects: Vec<Value> = documents.filter(|d| !d.is_null()).collect();
    assert!(objects.len() > 10, "only {} objects in deploy/audit-operator.yaml", objects.len());
    objects
}

pub(crate) fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

/// The items of a list; none when it is absent.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The items of a list of strings.
pub(crate) fn words(value: &Value) -> Vec<&str> {
    list(value).iter().map(|word| word.as_str().unwrap()).collect()
}

/// Workloads with their Pods' specs.
pub(crate) fn pods(objects: &[Value]) -> Vec<(&str, &Value)> {
    let workloads = objects.iter().filter(|o| !o["spec"]["template"].is_null());
    workloads.map(|o| (o["metadata"]["name"].as_str().unwrap(), &o["spec"]["template"]["spec"])).collect()
}
