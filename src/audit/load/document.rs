//! Any Kubernetes objects in a file, read as `kubectl` would read them: YAML 1.1 or JSON, with the place of every field.
//!
//! `kubectl` splits a file at lines that begin with `---` before it parses anything (`YAMLReader` in
//! k8s.io/apimachinery), and so does this.

use std::rc::Rc;

use serde_json::{Map, Number, Value as Json};

use super::tree::{Node, Value};
use super::{parse, text_of};
use crate::audit::{Finding, Position};

/// One object of a file.
#[derive(Debug)]
pub struct Document {
    root: Rc<Node>,
    /// The object, as the API server would get it.
    pub json: Json,
}

impl Document {
    /// Where the field at `path` (as `spec.policy.inline.rules[0].level`) stands, or the nearest part of it that exists.
    pub fn locate(&self, path: &str) -> Position {
        self.root.locate(path)
    }
}

/// The objects in a file, empty documents left out, with everything found while reading them.
pub fn documents(source: &[u8]) -> (Vec<Document>, Vec<Finding>) {
    let (mut documents, mut findings) = (Vec::new(), Vec::new());
    let text = match text_of(source) {
        Ok(text) => text,
        Err(finding) => return (documents, vec![finding]),
    };
    for part in parts(text) {
        match parse(part.as_bytes(), &mut findings) {
            Ok(root) if matches!(root.value, Value::Null) => {}
            Ok(root) => documents.push(Document { json: json(&root), root }),
            Err(finding) => findings.push(finding),
        }
    }
    (documents, findings)
}

/// The documents' texts, each after as many empty lines as were before it, so that positions stay those of the file.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            parts.push("\n".repeat(number + 1));
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
        }
    }
    parts
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number { text, .. } => number(text),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(|item| json(item)).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|e| (e.key.clone(), json(&e.node))).collect::<Map<_, _>>())
        }
    }
}

/// A number of YAML 1.1, which also knows other bases, underscores and leading dots.
fn number(text: &str) -> Json {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let based =
        |prefix: &str, base| digits.strip_prefix(prefix).and_then(|d| i64::from_str_radix(d, base).ok());
    let octal = || digits.starts_with('0').then(|| i64::from_str_radix(digits, 8).ok()).flatten();
    let integer = based("0x", 16).or_else(|| based("0b", 2)).or_else(|| based("0o", 8)).or_else(octal);
    match integer.or_else(|| digits.parse().ok()) {
        Some(integer) => Json::from(sign * integer),
        None => plain.parse().ok().and_then(Number::from_f64).map_or(Json::Null, Json::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_the_file() {
        let (documents, findings) =
            documents(b"# a comment\n---\na: 1\n---\nb:\n  c: [yes, 0x10, 012, .5]\n");
        assert_eq!(findings, []);
        assert_eq!(documents[1].json, serde_json::json!({"b": {"c": [true, 16, 10, 0.5]}}));
        assert_eq!(documents[1].locate("b.c[1]"), Position { line: 6, column: 12 });
    }

    #[test]
    fn one_broken_document_does_not_hide_the_others() {
        let (documents, findings) = documents(b"a: [\n---\nb: 1\n");
        assert_eq!(documents.len(), 1);
        assert_eq!(findings.len(), 1);
    }
}
