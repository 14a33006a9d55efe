//! YAML text as a tree of nodes that know their place: byte range, line, and how they are written.
//!
//! Offsets are what [`super::splice`] works on, so they are taken from the parser's tokens only: the end of a block
//! collection is the end of its last node, not where the parser noticed that it was over. JSON is read the same way.
//!
//! Refused here is what two YAML readers may read differently, or an edit could not respect: tabs in indentation,
//! line breaks other than LF and CRLF, a byte order mark, duplicate keys, templates, a second document.

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StructureStyle, options};

use super::{Refusal, Refusals};

/// More than a Pod has by far; a bound for recursion over the tree.
const MAX_DEPTH: usize = 64;

/// One value.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// First byte: of a block collection, of its first key or item.
    pub(super) start: usize,
    /// One past the last byte: the closing bracket or quote is inside.
    pub(super) end: usize,
    /// Counted from 1.
    pub(super) line: usize,
    /// Has an anchor or a tag in front of `start`.
    pub(super) decorated: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scalar { value: String, style: ScalarStyle },
    Seq { flow: bool, items: Vec<Node> },
    Map { flow: bool, entries: Vec<Entry> },
    Alias,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Node,
    pub(super) value: Node,
}

impl Node {
    /// The text of a scalar that every reader takes for a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { value, style: ScalarStyle::Plain } => {
                super::scalar::plain_is_string(value).then_some(value.as_str())
            }
            Kind::Scalar { value, .. } => Some(value),
            Kind::Seq { .. } | Kind::Map { .. } | Kind::Alias => None,
        }
    }

    /// The text of any scalar, also of a number or boolean.
    pub(super) fn as_scalar(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { value, .. } => Some(value),
            Kind::Seq { .. } | Kind::Map { .. } | Kind::Alias => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Scalar { value, style: ScalarStyle::Plain } => {
                matches!(value.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            Kind::Scalar { .. } | Kind::Seq { .. } | Kind::Map { .. } | Kind::Alias => false,
        }
    }

    pub(super) fn items(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::Seq { items, .. } => Some(items),
            Kind::Scalar { .. } | Kind::Map { .. } | Kind::Alias => None,
        }
    }

    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            Kind::Map { entries, .. } => Some(entries),
            Kind::Scalar { .. } | Kind::Seq { .. } | Kind::Alias => None,
        }
    }

    /// The entry of a map under `key`, also when its value is null.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|e| e.key.as_scalar() == Some(key))
    }

    /// The value of a map under `key`; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.value).filter(|value| !value.is_null())
    }

    /// The value of a map under `key`, when it is a string.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The first node in here, this one included, that has an anchor or tag or is an alias or merge key.
    pub(super) fn first_indirect(&self) -> Option<&Node> {
        if self.decorated {
            return Some(self);
        }
        match &self.kind {
            Kind::Alias => Some(self),
            Kind::Scalar { .. } => None,
            Kind::Seq { items, .. } => items.iter().find_map(Node::first_indirect),
            Kind::Map { entries, .. } => entries.iter().find_map(|e| {
                let merges = e.key.as_scalar() == Some("<<");
                if merges {
                    Some(&e.key)
                } else {
                    e.key.first_indirect().or_else(|| e.value.first_indirect())
                }
            }),
        }
    }

    /// Calls `visit` for this node and every one in it.
    pub(super) fn walk<'t>(&'t self, visit: &mut impl FnMut(&'t Node)) {
        visit(self);
        match &self.kind {
            Kind::Alias | Kind::Scalar { .. } => {}
            Kind::Seq { items, .. } => items.iter().for_each(|item| item.walk(visit)),
            Kind::Map { entries, .. } => entries.iter().for_each(|e| {
                e.key.walk(visit);
                e.value.walk(visit);
            }),
        }
    }
}

/// Reads the one document of `text`.
pub(super) fn parse(text: &str) -> Result<Node, Refusals> {
    refuse_ambiguous_text(text)?;
    let mut documents = parse_documents(text).map_err(|e| broken(text, &e))?.into_iter();
    let Some(root) = documents.next() else {
        return Err(Refusal::new("empty", None, "there is no YAML document in it").into());
    };
    // A trailing `---` with nothing behind it is a document too, an empty one.
    if let Some(second) = documents.find(|d| !d.is_null()) {
        let message = "a second YAML document: the kubelet reads only the first, remove the other";
        return Err(Refusal::new("second-document", second.line, message).into());
    }
    let duplicates = duplicate_keys(&root);
    if duplicates.is_empty() { Ok(root) } else { Err(Refusals(duplicates)) }
}

fn refuse_ambiguous_text(text: &str) -> Result<(), Refusals> {
    if text.starts_with('\u{feff}') {
        let message = "a byte order mark at the start: save the file as UTF-8 without one";
        return Err(Refusal::new("byte-order-mark", 1, message).into());
    }
    for (line, content) in text.lines().enumerate() {
        let refuse = |code, message: &str| Err(Refusal::new(code, line + 1, message).into());
        if content.contains(['\r', '\u{85}', '\u{2028}', '\u{2029}']) {
            return refuse(
                "line-break",
                "a line break that is neither LF nor CRLF: YAML readers differ on it, save the file with LF",
            );
        }
        let unindented = content.trim_start_matches([' ', '\t']);
        if content[..content.len() - unindented.len()].contains('\t') {
            return refuse("tab", "a tab in the indentation: YAML indents with spaces only");
        }
        if !unindented.starts_with('#') && content.contains("{{") {
            return refuse(
                "template",
                "`{{`: this is a template, not a manifest; give the file that the kubelet reads",
            );
        }
    }
    Ok(())
}

fn broken(text: &str, error: &ScanError) -> Refusals {
    // The parser prints its own line and column; ours is in front already.
    let what = error.to_string();
    let what = what.split(" at char ").next().unwrap_or(&what);
    let line = error.marker().line().min(text.lines().count());
    Refusal::new("broken-yaml", line, format!("not YAML: {what}")).into()
}

fn duplicate_keys(root: &Node) -> Vec<Refusal> {
    let mut found = Vec::new();
    root.walk(&mut |node| {
        let Some(entries) = node.entries() else { return };
        let mut keys: Vec<_> =
            entries.iter().filter_map(|e| Some((e.key.as_scalar()?, e.key.line))).collect();
        keys.sort_unstable();
        for pair in keys.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let message = format!("key `{}` is already on line {}: remove one of them", pair[1].0, pair[0].1);
            found.push(Refusal::new("duplicate-key", pair[1].1, message));
        }
    });
    found.sort_by_key(|refusal| refusal.line);
    found
}

/// A collection whose end has not been seen.
struct Open {
    node: Node,
    key: Option<Node>,
}

fn parse_documents(text: &str) -> Result<Vec<Node>, ScanError> {
    let mut options = options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
    options.set_emit_comments(false);
    let mut documents = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next?;
        let decorated = event.anchor_id().is_some() || event.tag().is_some();
        let node = |kind| place(text, &span, kind, decorated);
        let complete = match event {
            Event::Scalar(value, style, ..) => {
                // The parser says `~` where nothing is written.
                let value = if span.is_empty() { String::new() } else { value.into_owned() };
                node(Kind::Scalar { value, style })
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => node(Kind::Alias),
            Event::SequenceStart(style, ..) => {
                let kind = Kind::Seq { flow: style == StructureStyle::Flow, items: Vec::new() };
                open.push(Open { node: node(kind), key: None });
                continue;
            }
            Event::MappingStart(style, ..) => {
                let kind = Kind::Map { flow: style == StructureStyle::Flow, entries: Vec::new() };
                open.push(Open { node: node(kind), key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let mut node = open.pop().expect("the parser balances starts and ends").node;
                node.end = closing(&node, &span);
                node
            }
            // Stream and document marks; the enum is not exhaustive.
            _ => continue,
        };
        match open.last_mut() {
            None => documents.push(complete),
            Some(parent) => parent.add(complete),
        }
    }
    Ok(documents)
}

impl Open {
    fn add(&mut self, child: Node) {
        match (&mut self.node.kind, self.key.take()) {
            (Kind::Seq { items, .. }, _) => items.push(child),
            (Kind::Map { entries, .. }, Some(key)) => entries.push(Entry { key, value: child }),
            (Kind::Map { .. } | Kind::Scalar { .. } | Kind::Alias, _) => self.key = Some(child),
        }
    }
}

fn place(text: &str, span: &Span, kind: Kind, decorated: bool) -> Node {
    let range = span.byte_range().expect("a parser over a string knows its offsets");
    let end = match &kind {
        // The span of a block scalar reaches into the indentation of what follows.
        Kind::Scalar { style: ScalarStyle::Literal | ScalarStyle::Folded, .. } => {
            range.start + text[range.clone()].trim_end().len()
        }
        Kind::Scalar { .. } | Kind::Seq { .. } | Kind::Map { .. } | Kind::Alias => range.end,
    };
    Node { kind, start: range.start, end, line: span.start.line(), decorated }
}

fn closing(node: &Node, span: &Span) -> usize {
    let bracket = span.byte_range().expect("a parser over a string knows its offsets").end;
    match &node.kind {
        Kind::Seq { flow: false, items } => items.last().map_or(node.start, |item| item.end),
        Kind::Map { flow: false, entries } => entries.last().map_or(node.start, |e| e.value.end),
        Kind::Seq { .. } | Kind::Map { .. } | Kind::Scalar { .. } | Kind::Alias => bracket,
    }
}
