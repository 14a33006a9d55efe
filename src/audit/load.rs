//! Reads a policy file as kube-apiserver would, and says everything that is wrong with it.
//!
//! The server reads in three steps (`k8s.io/apiserver` `pkg/audit/policy/reader.go`): JSON or YAML 1.1 into untyped
//! values, those into its types (unknown fields and earlier duplicates are dropped, with a line in its log), then
//! validation. [`load`] takes the same steps, but does not stop at the first mistake, and has an opinion of its own
//! about what the server lets pass.
//!
//! Beyond some limits we refuse without knowing what the server would do: files over 1 MiB, text that is not UTF-8,
//! values nested 100 deep, 300,000 nodes, and corners of YAML (`check_characters` here, `dialect`). Such a finding says
//! that it is we who refuse, and there is no policy to go with it.

use std::rc::Rc;
use std::str;

use super::lint::lint;
use super::policy::{GroupResources, Level, Policy, Rule, Stage};
use super::validate::{level_unknown, stage_unknown, validate};
use super::{Finding, Position, ServerVersion};
use tree::{Node, Value};

pub use document::{Document, documents};

mod dialect;
mod document;
mod json;
mod scalar;
mod shape;
mod tree;
mod yaml;

/// Bytes a policy may have: a Kubernetes object cannot carry more, so no larger one could ever be rolled out.
pub const MAX_SOURCE_BYTES: usize = 1024 * 1024;

/// What came of reading a policy file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What kube-apiserver would hold in memory, exactly when it would start with this file.
    pub policy: Option<Policy>,
    /// Everything found: what the server refuses, what only we refuse, and, where nothing is refused, warnings.
    /// Sorted by position.
    pub findings: Vec<Finding>,
}

/// Reads a policy file for a kube-apiserver of version `server`.
pub fn load(source: &[u8], server: ServerVersion) -> Loaded {
    let mut findings = Vec::new();
    let policy = match parse(source, &mut findings) {
        Ok(root) => Some(read(&root, server, &mut findings)),
        Err(finding) => {
            findings.push(finding);
            None
        }
    };
    let policy = policy.filter(|_| !findings.iter().any(Finding::stops_server));
    findings.sort_by_key(|finding| finding.position);
    Loaded { policy, findings }
}

/// The first document as a tree; null when there is none.
fn parse(source: &[u8], findings: &mut Vec<Finding>) -> Result<Rc<Node>, Finding> {
    let text = text_of(source)?;
    if json::is_json(text) {
        return json::read(text, findings);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    check_characters(text)?;
    let nothing = || Rc::new(Node { position: START, value: Value::Null });
    Ok(yaml::read(text, findings)?.unwrap_or_else(nothing))
}

const START: Position = Position { line: 1, column: 1 };

/// The source as text. The server also reads UTF-16, and replaces what is not UTF-8 in JSON; we do not.
fn text_of(source: &[u8]) -> Result<&str, Finding> {
    if source.len() > MAX_SOURCE_BYTES {
        let message = format!(
            "{} bytes are more than the {MAX_SOURCE_BYTES} that a Kubernetes object can carry: shorten the policy",
            source.len()
        );
        return Err(Finding::operator("too-large", "", message));
    }
    str::from_utf8(source).map_err(|error| {
        let before = &source[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let last = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = 1 + String::from_utf8_lossy(last).chars().count();
        let message = "not UTF-8 text: save the file as UTF-8";
        Finding::operator("not-utf8", "", message).at(Position { line, column })
    })
}

/// Refuses what no YAML reader of Kubernetes takes (`readerc.go`), and what YAML 1.1 reads in a way that nobody
/// expects: Unicode's own line breaks end a line there, also in a comment, and a second byte order mark vanishes.
fn check_characters(text: &str) -> Result<(), Finding> {
    let mut at = START;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() != Some(&'\n') => {
                let message =
                    "a carriage return without a line feed: save the file with Unix or Windows line ends";
                return Err(Finding::operator("invisible-character", "", message).at(at));
            }
            '\t' | '\n' | '\r' | ' '..='~' | '\u{a0}'.. if !is_odd(c) => {}
            '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                let message = format!(
                    "the invisible character U+{:04X}, which kube-apiserver reads as a line break or not at all: \
                     delete it, or write it as an escape in double quotes",
                    u32::from(c)
                );
                return Err(Finding::operator("invisible-character", "", message).at(at));
            }
            _ => {
                let message = format!(
                    "the control character U+{:04X} is not allowed in YAML: this is not a text file, or a copy with \
                     a slip in it",
                    u32::from(c)
                );
                return Err(Finding::server("control-character", "", message).at(at));
            }
        }
        at = if c == '\n' {
            Position { line: at.line + 1, column: 1 }
        } else {
            Position { line: at.line, column: at.column + 1 }
        };
    }
    Ok(())
}

fn is_odd(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// The policy in a tree, with findings for everything that is wrong with it. When there are any, the policy is only
/// good for finding more.
fn read(root: &Node, server: ServerVersion, findings: &mut Vec<Finding>) -> Policy {
    let first = findings.len();
    check_kind(root, findings);
    shape::check(root, findings);
    let policy = policy(root, findings);
    let reported: Vec<String> = findings[first..].iter().map(|finding| finding.path.clone()).collect();
    // A value of the wrong type was replaced by an empty one; what is said of that would be noise.
    findings
        .extend(validate(&policy, server).into_iter().filter(|finding| !reported.contains(&finding.path)));
    if !findings.iter().any(Finding::is_error) {
        findings.extend(lint(&policy, server));
    }
    for finding in &mut findings[first..] {
        if finding.position.is_none() {
            finding.position = Some(root.locate(&finding.path));
        }
    }
    policy
}

/// `apiVersion` and `kind`. The server looks these two up whatever the case of their letters (and then drops what
/// is not spelt right), the last of several in alphabetical order.
fn check_kind(root: &Node, findings: &mut Vec<Finding>) {
    let lookup = |name: &str| {
        let same = |key: &str| key.chars().map(fold).eq(name.chars().map(fold));
        let mut found: Vec<_> = root.entries().iter().filter(|entry| same(&entry.key)).collect();
        found.sort_by_key(|entry| &entry.key);
        found.iter().rev().find_map(|entry| match &entry.node.value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
    };
    let api_version = lookup("apiVersion").unwrap_or_default();
    let advice = "write `apiVersion: audit.k8s.io/v1`";
    let message = match api_version.as_str() {
        "audit.k8s.io/v1" => None,
        "" => Some(format!("the file does not say what it is: {advice}")),
        "audit.k8s.io/v1beta1" | "audit.k8s.io/v1alpha1" => {
            Some(format!("kube-apiserver has not read `{api_version}` since 1.24: {advice}"))
        }
        _ => Some(format!("`{api_version}` has no audit policies: {advice}")),
    };
    findings.extend(message.map(|message| Finding::server("api-version", "apiVersion", message)));
    let kind = lookup("kind").unwrap_or_default();
    if !matches!(kind.as_str(), "" | "Policy") {
        let message = format!("`{kind}` is not an audit policy: write `kind: Policy`");
        findings.push(Finding::server("kind", "kind", message));
    }
}

/// Go's case folding of keys in JSON: ASCII, and the two other letters that fold to ASCII.
fn fold(c: char) -> char {
    match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    }
}

fn policy(root: &Node, findings: &mut Vec<Finding>) -> Policy {
    let rules = root.get("rules").map(Node::items).unwrap_or_default();
    Policy {
        omit_stages: stages(root, "", findings),
        omit_managed_fields: flag(root, "omitManagedFields").unwrap_or_default(),
        rules: rules.iter().enumerate().map(|(index, node)| rule(node, index, findings)).collect(),
    }
}

fn rule(node: &Node, index: usize, findings: &mut Vec<Finding>) -> Rule {
    let path = format!("rules[{index}]");
    let resources = node.get("resources").map(Node::items).unwrap_or_default();
    Rule {
        level: level(node, &path, findings),
        users: texts(node, "users"),
        user_groups: texts(node, "userGroups"),
        verbs: texts(node, "verbs"),
        resources: resources.iter().map(|node| group_resources(node)).collect(),
        namespaces: texts(node, "namespaces"),
        non_resource_urls: texts(node, "nonResourceURLs"),
        omit_stages: stages(node, &format!("{path}."), findings),
        omit_managed_fields: flag(node, "omitManagedFields"),
    }
}

fn group_resources(node: &Node) -> GroupResources {
    let group = node.get("group").map(text).unwrap_or_default();
    GroupResources {
        group: group.to_owned(),
        resources: texts(node, "resources"),
        resource_names: texts(node, "resourceNames"),
    }
}

fn level(rule: &Node, path: &str, findings: &mut Vec<Finding>) -> Level {
    let node = rule.get("level");
    if node.is_some_and(|node| !matches!(node.value, Value::Text(_) | Value::Null)) {
        return Level::None; // reported as a wrong type
    }
    let name = node.map(text).unwrap_or_default();
    Level::ALL.into_iter().find(|level| level.as_str() == name).unwrap_or_else(|| {
        findings.push(level_unknown(format!("{path}.level"), name));
        Level::None
    })
}

fn stages(node: &Node, prefix: &str, findings: &mut Vec<Finding>) -> Vec<Stage> {
    let mut stages = Vec::new();
    for (index, item) in list_items(node, "omitStages").enumerate() {
        if !matches!(item.value, Value::Text(_) | Value::Null) {
            continue; // reported as a wrong type
        }
        let name = text(item);
        match Stage::ALL.into_iter().find(|stage| stage.as_str() == name) {
            Some(stage) => stages.push(stage),
            None => findings.push(stage_unknown(format!("{prefix}omitStages[{index}]"), name)),
        }
    }
    stages
}

fn flag(node: &Node, key: &str) -> Option<bool> {
    match node.get(key)?.value {
        Value::Bool(flag) => Some(flag),
        _ => None,
    }
}

/// A list of strings; null in it is the empty string.
fn texts(node: &Node, key: &str) -> Vec<String> {
    list_items(node, key).map(|item| text(item).to_owned()).collect()
}

/// The items of a list. A single string is taken for a list of it, which it was surely meant to be: that is
/// reported as a wrong type, and this way more can be found.
fn list_items<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Node> {
    let value = node.get(key);
    let single = value.filter(|value| matches!(value.value, Value::Text(_)));
    let items = value.map(Node::items).unwrap_or_default();
    single.into_iter().chain(items.iter().map(|item| &**item))
}

fn text(node: &Node) -> &str {
    match &node.value {
        Value::Text(text) => text,
        _ => "",
    }
}

#[cfg(test)]
mod tests;
