//! What is generated from another file of the repository, is committed, and is compared here.
//!
//! `make generate` runs these tests with `AUDIT_OPERATOR_GENERATE` set: then they write instead. What needs Helm or a
//! built program is written by `.ci/generate` itself.

use std::fmt::Write as _;

use serde_json::Value;

use crate::markdown::document;
use crate::source::root;

mod argocd;
mod ci;

/// Holds a file against what it has to be, or makes it so.
#[track_caller]
fn generated(path: &str, expected: &str) {
    if std::env::var_os("AUDIT_OPERATOR_GENERATE").is_some() {
        std::fs::write(root().join(path), expected).unwrap();
    } else {
        assert!(document(path) == expected, "{path} is not as it is generated: run make generate");
    }
}

/// The document with another text between the line that begins with `begin` and the line `end`.
fn between(document: &str, begin: &str, end: &str, text: &str) -> String {
    let begin = document.lines().find(|line| line.starts_with(begin)).unwrap();
    let (before, rest) = document.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{begin}\n{text}{end}{after}")
}

#[test]
fn the_table_of_the_charts_values() {
    let schema: Value = serde_json::from_str(&document("charts/audit-operator/values.schema.json")).unwrap();
    let values: serde_yaml::Value =
        serde_yaml::from_str(&document("charts/audit-operator/values.yaml")).unwrap();
    let mut table = "| value | default | meaning |\n| --- | --- | --- |\n".to_owned();
    rows(&schema, &values, "", &mut table);
    let readme = document("charts/audit-operator/README.md");
    let expected = between(&readme, "<!-- values: ", "<!-- end of values -->", &table);
    generated("charts/audit-operator/README.md", &expected);
}

/// In the order of values.yaml, down to where the schema lists no properties.
fn rows(schema: &Value, values: &serde_yaml::Value, path: &str, table: &mut String) {
    for (name, value) in values.as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let schema = &schema["properties"][name];
        if schema["properties"].is_object() {
            rows(schema, value, &path, table);
            continue;
        }
        let meaning = schema["description"].as_str().unwrap_or_else(|| panic!("{path} has no description"));
        let default = serde_json::to_string(value).unwrap();
        let default =
            if default.len() > 100 { "see `values.yaml`".to_owned() } else { format!("`{default}`") };
        assert!(!format!("{default}{meaning}").contains('|'), "{path}: a `|` ends a table's cell");
        writeln!(table, "| `{path}` | {default} | {meaning} |").unwrap();
    }
}

#[test]
fn every_picture_was_drawn_from_what_stands_beside_it() {
    let pictures = std::fs::read_dir(root().join("docs/pictures")).unwrap().map(|file| file.unwrap().path());
    let sources = pictures.filter(|path| path.extension().is_some_and(|end| end == "d2"));
    let names: Vec<String> = sources.map(|s| s.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(names.len() >= 2, "{names:?}");
    for name in names {
        let digest =
            audit_operator::manifest::digest(document(&format!("docs/pictures/{name}.d2")).as_bytes());
        let drawn = format!("<!-- drawn from {name}.d2, {digest} -->\n");
        let picture = document(&format!("docs/pictures/{name}.svg"));
        assert!(picture.ends_with(&drawn), "docs/pictures/{name}.d2 is newer: run make pictures");
    }
}

#[test]
fn only_the_text_between_the_marks_is_another() {
    let made = between("a\n<!-- x: why -->\nold\n<!-- end -->\nb\n", "<!-- x: ", "<!-- end -->", "new\n");
    assert_eq!(made, "a\n<!-- x: why -->\nnew\n<!-- end -->\nb\n");
}
