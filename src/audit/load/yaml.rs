//! The first document of a YAML text as a tree, read as `go.yaml.in/yaml/v2` reads it into untyped values.
//!
//! The parser gives events; this puts them together by the rules of `decode.go`: equal keys overwrite one another,
//! `<<` is carried out where it stands (so it overwrites keys above it, which the YAML specification forbids), keys
//! become text, and documents after the first are not looked at.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{
    ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, StructureStyle, Tag, YamlVersion, options,
};

use super::dialect::Dialect;
use super::scalar::{self, Scalar};
use super::tree::{Budget, Entry, MAX_DEPTH, MAX_NODES, Node, OverBudget, Value, join};
use crate::audit::{Finding, Position};

/// Reads the first document; `Ok(None)` when the text has none. What does not stop the reading is added to
/// `findings`, what does is the error.
pub(super) fn read(text: &str, findings: &mut Vec<Finding>) -> Result<Option<Rc<Node>>, Finding> {
    // The same liberties as libyaml takes, whose translation to Go the server uses.
    let options = options! {
        emit_comments: false,
        emit_anchor_events: true,
        block_scalar_eof_without_line_feed: true,
    };
    let mut events = Parser::new_from_str_with_options(text, options);
    let mut dialect = Dialect::new(text);
    dialect.start()?;
    let mut builder = Builder::new(findings);
    let mut last_line = text.lines().count();
    while let Some(event) = events.next() {
        let (event, span) = event.map_err(|error| syntax(&error, builder.in_flow()))?;
        let at = position(span.start);
        if let Some(tag) = span.tag_span() {
            dialect.tag(tag)?;
        }
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_, version) => builder.version(version, at),
            Event::DocumentEnd => {
                last_line = at.line;
                builder.findings.extend(extra_document(events.next()));
                break;
            }
            Event::Scalar(text, style, anchor, tag) => {
                dialect.scalar(style, span, builder.in_flow(), builder.expects_key())?;
                builder.scalar(&text, style, anchor, tag.as_deref(), at)?;
            }
            Event::SequenceStart(style, anchor, _) => {
                builder.open(Content::List(Vec::new()), style, anchor, at)?;
            }
            Event::MappingStart(style, anchor, _) => {
                builder.open(Content::Map(Fields::default()), style, anchor, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(first_line) = builder.close()? {
                    dialect.lines(first_line, at.line);
                }
            }
            Event::Anchor(..) => dialect.anchor(span)?,
            Event::Alias(anchor) => {
                dialect.anchor(span)?;
                builder.alias(anchor, at)?;
            }
            _ => {}
        }
    }
    let root = builder.root;
    findings.extend(dialect.tab(last_line));
    Ok(root)
}

/// What comes after the first document, if anything does.
fn extra_document(next: Option<Result<(Event<'_>, Span), ScanError>>) -> Option<Finding> {
    let mark = match next {
        Some(Ok((Event::StreamEnd, _))) | None => return None,
        Some(Ok((_, span))) => span.start,
        Some(Err(error)) => *error.marker(),
    };
    let message = "kube-apiserver reads the first YAML document and ignores everything from here on: delete it, or \
                   put its rules into the first document";
    Some(Finding::operator("extra-document", "", message).at(position(mark)))
}

fn syntax(error: &ScanError, in_flow: bool) -> Finding {
    let at = position(*error.marker());
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(at),
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            let message = "YAML does not allow tabs for indentation: use spaces";
            // Inside brackets libyaml does allow them.
            let refuse = if in_flow { Finding::operator } else { Finding::server };
            refuse("yaml-syntax", "", message).at(at)
        }
        // libyaml lets these pass.
        kind @ (ErrorKind::CommentNotSeparated
        | ErrorKind::PlainScalarStartsWithDashFlowIndicator
        | ErrorKind::InvalidDocumentEnd
        | ErrorKind::MissingDocumentEndBeforeDirective) => {
            Finding::operator("yaml-syntax", "", format!("not valid YAML: {kind}")).at(at)
        }
        kind => Finding::server("yaml-syntax", "", format!("not valid YAML: {kind}")).at(at),
    }
}

fn too_deep(at: Position) -> Finding {
    let message = format!("nested more than {MAX_DEPTH} levels deep: a policy needs six");
    Finding::operator("too-deep", "", message).at(at)
}

pub(super) fn position(mark: Marker) -> Position {
    Position { line: mark.line().max(1), column: mark.col() + 1 }
}

/// A finished node that an alias can stand for.
struct Anchor {
    node: Rc<Node>,
    /// Nodes in it with aliases written out.
    weight: usize,
    /// Levels below and including it.
    height: usize,
}

/// A list or mapping whose end has not been seen.
struct Open {
    position: Position,
    style: StructureStyle,
    anchor: usize,
    nodes_before: usize,
    height: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map(Fields),
}

/// The entries of a mapping so far.
#[derive(Default)]
struct Fields {
    entries: Vec<Entry>,
    /// Where in `entries` a key is, and whether it was written here rather than merged in.
    index: HashMap<String, (usize, bool)>,
    /// The key whose value comes next.
    key: Option<Key>,
    merges: usize,
}

enum Key {
    Field(String, Position),
    /// `<<`.
    Merge(Position),
    /// Already reported; its value is read and dropped.
    Unusable,
}

struct Builder<'f> {
    findings: &'f mut Vec<Finding>,
    budget: Budget,
    anchors: HashMap<usize, Anchor>,
    open: Vec<Open>,
    root: Option<Rc<Node>>,
}

impl<'f> Builder<'f> {
    fn new(findings: &'f mut Vec<Finding>) -> Self {
        Self { findings, budget: Budget::default(), anchors: HashMap::new(), open: Vec::new(), root: None }
    }

    fn version(&mut self, version: Option<YamlVersion>, at: Position) {
        if version.is_some_and(|v| (v.major, v.minor) != (1, 1)) {
            let message = "kube-apiserver reads YAML 1.1 only: delete the `%YAML` line";
            self.findings.push(Finding::server("yaml-version", "", message).at(at));
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Position,
    ) -> Result<(), Finding> {
        self.budget.node().map_err(|over| over_budget(over, at))?;
        let plain = style == ScalarStyle::Plain;
        if text == "<<"
            && self.expects_key()
            && (plain && tag.is_none() || tag.is_some_and(|t| is(t, "merge")))
        {
            self.set_key(Key::Merge(at));
            return Ok(());
        }
        let scalar = match tag {
            Some(tag) => self.tagged(tag, text, at)?,
            None if plain => scalar::resolve(text),
            None => Scalar::Text(text.to_owned()),
        };
        if self.expects_key() {
            let key = self.key(scalar, at);
            self.set_key(key);
            return Ok(());
        }
        let value = self.value(scalar, text, at);
        let node = Rc::new(Node { position: at, value });
        self.remember(anchor, &node, 1, 1);
        self.add(node, 1, false)
    }

    /// A scalar with an explicit tag, as `!!str 5`.
    fn tagged(&mut self, tag: &Tag, text: &str, at: Position) -> Result<Scalar, Finding> {
        let resolved = scalar::resolve(text);
        let fits = match core_suffix(tag) {
            Some("bool") => matches!(resolved, Scalar::Bool(_)),
            Some("int") => matches!(resolved, Scalar::Integer(_)),
            Some("float") => matches!(resolved, Scalar::Integer(_) | Scalar::Float(_)),
            Some("null") => matches!(resolved, Scalar::Null),
            Some("binary" | "timestamp") => {
                let message =
                    format!("the tag `{}` is not supported here: write the text itself", tag.original());
                return Err(Finding::operator("yaml-tag", self.path(), message).at(at));
            }
            _ => return Ok(Scalar::Text(text.to_owned())),
        };
        if fits {
            return Ok(resolved);
        }
        let message = format!("`{text}` is not what its tag `{}` says: delete the tag", tag.original());
        Err(Finding::server("yaml-tag", self.path(), message).at(at))
    }

    fn value(&mut self, scalar: Scalar, text: &str, at: Position) -> Value {
        match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(flag) => Value::Bool(flag),
            Scalar::Integer(number) => {
                Value::Number { text: text.to_owned(), integer: i64::try_from(number).is_ok() }
            }
            Scalar::Float(number) => {
                if !number.is_finite() {
                    let message = format!("`{text}` is a number that JSON cannot hold: quote it");
                    self.findings.push(Finding::server("wrong-type", self.path(), message).at(at));
                }
                // On its way through JSON a whole float becomes an integer, as long as it is not written with an
                // exponent, which Go does from 1e21 on.
                let integer = number.fract() == 0.0 && number.abs() < 9.2e18;
                Value::Number { text: text.to_owned(), integer }
            }
            Scalar::Text(text) => Value::Text(text),
        }
    }

    /// A scalar as the key of a mapping (`convertToJSONableObject` in sigs.k8s.io/yaml).
    fn key(&mut self, scalar: Scalar, at: Position) -> Key {
        let text = match scalar {
            Scalar::Text(text) => text,
            Scalar::Bool(flag) => flag.to_string(),
            Scalar::Integer(number) if i64::try_from(number).is_ok() => number.to_string(),
            Scalar::Float(number) => number.to_string(),
            Scalar::Null | Scalar::Integer(_) => return self.unusable_key(at),
        };
        Key::Field(text, at)
    }

    fn unusable_key(&mut self, at: Position) -> Key {
        let message = "this cannot be the name of a field: write a plain word";
        let finding = Finding::server("invalid-key", self.path(), message).at(at);
        self.findings.push(finding);
        Key::Unusable
    }

    fn open(
        &mut self,
        content: Content,
        style: StructureStyle,
        anchor: usize,
        position: Position,
    ) -> Result<(), Finding> {
        self.budget.node().map_err(|over| over_budget(over, position))?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(position));
        }
        let nodes_before = self.budget.nodes() - 1;
        self.open.push(Open { position, style, anchor, nodes_before, height: 1, content });
        Ok(())
    }

    /// The end of a list or mapping; the line it began on when it is in flow style.
    fn close(&mut self) -> Result<Option<usize>, Finding> {
        let Some(Open { position, style, anchor, nodes_before, height, content }) = self.open.pop() else {
            return Ok(None);
        };
        let first_line = (style == StructureStyle::Flow).then_some(position.line);
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Map(fields) => Value::Map(fields.entries),
        };
        let node = Rc::new(Node { position, value });
        self.remember(anchor, &node, self.budget.nodes() - nodes_before, height);
        if self.expects_key() {
            let key = self.unusable_key(position);
            self.set_key(key);
        } else {
            self.add(node, height, false)?;
        }
        Ok(first_line)
    }

    fn alias(&mut self, id: usize, at: Position) -> Result<(), Finding> {
        let Some(Anchor { node, weight, height }) = self.anchors.get(&id) else {
            // The parser knows the anchor, so it is one that is still open.
            let message = "an alias inside the value that it stands for";
            return Err(Finding::server("yaml-syntax", self.path(), message).at(at));
        };
        let (node, weight, height) = (Rc::clone(node), *weight, *height);
        self.budget.alias(weight).map_err(|over| over_budget(over, at))?;
        if self.open.len() + height > MAX_DEPTH {
            return Err(too_deep(at));
        }
        if self.expects_key() {
            let key = match &node.value {
                Value::Text(text) => Key::Field(text.clone(), at),
                Value::Bool(flag) => Key::Field(flag.to_string(), at),
                Value::Number { text, integer: true } => Key::Field(text.clone(), at),
                Value::Number { .. } | Value::Null | Value::List(_) | Value::Map(_) => self.unusable_key(at),
            };
            self.set_key(key);
            return Ok(());
        }
        self.add(node, height, true)
    }

    fn remember(&mut self, anchor: usize, node: &Rc<Node>, weight: usize, height: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Anchor { node: Rc::clone(node), weight, height });
        }
    }

    fn in_flow(&self) -> bool {
        self.open.last().is_some_and(|open| open.style == StructureStyle::Flow)
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map(Fields { key: None, .. }), .. }))
    }

    fn set_key(&mut self, key: Key) {
        if let Some(Open { content: Content::Map(fields), .. }) = self.open.last_mut() {
            fields.key = Some(key);
        }
    }

    /// A finished value goes into the list or mapping that is open, or is the document.
    fn add(&mut self, node: Rc<Node>, height: usize, is_alias: bool) -> Result<(), Finding> {
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.height = parent.height.max(height + 1);
        let found = match &mut parent.content {
            Content::List(items) => {
                items.push(node);
                Vec::new()
            }
            Content::Map(fields) => match fields.key.take() {
                Some(Key::Field(key, key_position)) => {
                    fields.set(Entry { key, key_position, node }).into_iter().collect()
                }
                Some(Key::Merge(at)) => {
                    let Some(sources) = merge_sources(&node, is_alias) else {
                        let message = "`<<` wants a mapping, an alias to one, or a list of those";
                        return Err(Finding::server("yaml-merge", self.path(), message).at(at));
                    };
                    fields.merge(&sources, at)
                }
                Some(Key::Unusable) | None => Vec::new(),
            },
        };
        for mut finding in found {
            finding.path = join(&self.path(), &finding.path);
            self.findings.push(finding);
        }
        Ok(())
    }

    /// The field that is being read, as `rules[0].level`.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.content {
                Content::List(items) => path.push_str(&format!("[{}]", items.len())),
                Content::Map(Fields { key: Some(Key::Field(key, _)), .. }) => path = join(&path, key),
                Content::Map(_) => {}
            }
        }
        path
    }
}

impl Fields {
    /// Sets a key that is written in this mapping. The path of a finding begins here.
    fn set(&mut self, entry: Entry) -> Option<Finding> {
        let Some((place, written_here)) = self.index.get(&entry.key).copied() else {
            self.index.insert(entry.key.clone(), (self.entries.len(), true));
            self.entries.push(entry);
            return None;
        };
        self.index.insert(entry.key.clone(), (place, true));
        let at = entry.key_position;
        let earlier = std::mem::replace(&mut self.entries[place], entry);
        // To write a key after `<<` is how one overrides what is merged in, and the server reads it so.
        written_here.then(|| {
            let message = format!(
                "`{}` is already set on line {}, and kube-apiserver keeps only the last: delete one of them",
                earlier.key, earlier.key_position.line
            );
            Finding::operator("duplicate-key", earlier.key, message).at(at)
        })
    }

    /// Carries out `<<`: what is merged overwrites what is there, as in the server.
    fn merge(&mut self, sources: &[Rc<Node>], at: Position) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.merges += 1;
        if self.merges > 1 {
            let message = "`<<` twice in one mapping: write one `<<` with a list of the aliases";
            findings.push(Finding::operator("duplicate-key", "", message).at(at));
        }
        for entry in sources.iter().flat_map(|source| source.entries()) {
            match self.index.get(&entry.key) {
                Some(&(place, written_here)) => {
                    if written_here {
                        let message = format!(
                            "kube-apiserver lets this `<<` overwrite `{}` from line {}: move `<<` to the top of the \
                             mapping",
                            entry.key, self.entries[place].key_position.line
                        );
                        findings.push(Finding::operator("merge-overwrites", "", message).at(at));
                    }
                    self.entries[place] = entry.clone();
                    self.index.insert(entry.key.clone(), (place, false));
                }
                None => {
                    self.index.insert(entry.key.clone(), (self.entries.len(), false));
                    self.entries.push(entry.clone());
                }
            }
        }
        findings
    }
}

/// The mappings that `<<` merges, in the order in which the server sets their keys: the first of a list is set last,
/// and so wins. `None` when it is anything else; an alias to a list is.
fn merge_sources(node: &Rc<Node>, is_alias: bool) -> Option<Vec<Rc<Node>>> {
    let is_map = |node: &Rc<Node>| matches!(node.value, Value::Map(_));
    match &node.value {
        Value::Map(_) => Some(vec![Rc::clone(node)]),
        Value::List(items) if !is_alias && items.iter().all(is_map) => {
            Some(items.iter().rev().map(Rc::clone).collect())
        }
        _ => None,
    }
}

fn over_budget(over: OverBudget, at: Position) -> Finding {
    match over {
        OverBudget::Aliases => {
            let message = "nearly all of this document comes from aliases, which kube-apiserver takes for an attack: \
                           write the values out";
            Finding::server("too-many-aliases", "", message).at(at)
        }
        OverBudget::Nodes => {
            let message =
                format!("more than {MAX_NODES} values, with aliases written out: shorten the policy");
            Finding::operator("too-large", "", message).at(at)
        }
    }
}

fn is(tag: &Tag, suffix: &str) -> bool {
    core_suffix(tag) == Some(suffix)
}

/// `int` of `!!int`.
fn core_suffix(tag: &Tag) -> Option<&str> {
    if tag.handle() == "tag:yaml.org,2002:" { Some(tag.suffix()) } else { None }
}
