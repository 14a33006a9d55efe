//! The document as kube-apiserver holds it after parsing: aliases followed, merges done, the last of two equal keys
//! kept; with the position of every value, so that a finding can point at it.
//!
//! Nodes are shared, because an alias is a second road to the same node: a small file can stand for a huge tree. The
//! readers that build a tree therefore count every road ([`Budget`]) and stop early.

use std::rc::Rc;

use crate::audit::Position;

/// How deep lists and mappings may nest; a policy needs six levels.
pub(super) const MAX_DEPTH: usize = 100;

/// How many nodes a document may have with every alias written out. More than fit into the largest text that we write
/// ourselves (an item takes four bytes there), and below 400,000, where kube-apiserver's own limit begins to change.
pub(super) const MAX_NODES: usize = 300_000;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number, as it was written; kube-apiserver never wants one but in `metadata`.
    Number {
        text: String,
        /// Whether a 64-bit signed integer can hold it.
        integer: bool,
    },
    Text(String),
    List(Vec<Rc<Node>>),
    /// Each key once.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_position: Position,
    pub(super) node: Rc<Node>,
}

impl Node {
    /// The value of a key; `None` when absent or when this is no mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &*entry.node)
    }

    /// The entries of a mapping; none when it is something else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none when it is something else.
    pub(super) fn items(&self) -> &[Rc<Node>] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Where the field at `path` (as `rules[0].level`) stands: its value, or the nearest part that exists.
    pub(super) fn locate(&self, path: &str) -> Position {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match step.strip_suffix(']') {
                Some(index) => index.parse::<usize>().ok().and_then(|i| node.items().get(i)).map(|n| &**n),
                None => node.get(step),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.position
    }
}

/// The path of a field of what is at `path`, which is empty for the document.
pub(super) fn join(path: &str, field: &str) -> String {
    match (path, field) {
        ("", field) => field.to_owned(),
        (path, "") => path.to_owned(),
        (path, field) => format!("{path}.{field}"),
    }
}

impl Value {
    /// What it is called in a message.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number { .. } => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Counts the nodes of a document with every alias written out, as `go.yaml.in/yaml/v2` does (`decode.go`): a
/// document that comes nearly all from aliases is refused by the server, a huge one by us.
#[derive(Debug, Default)]
pub(super) struct Budget {
    nodes: usize,
    from_aliases: usize,
}

/// Why a document is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverBudget {
    /// kube-apiserver says "document contains excessive aliasing".
    Aliases,
    /// More than [`MAX_NODES`].
    Nodes,
}

impl Budget {
    /// Nodes counted so far.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Counts one node that is written in the source.
    pub(super) fn node(&mut self) -> Result<(), OverBudget> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(OverBudget::Nodes) } else { Ok(()) }
    }

    /// Counts an alias to a node of `weight` nodes.
    pub(super) fn alias(&mut self, weight: usize) -> Result<(), OverBudget> {
        self.nodes = self.nodes.saturating_add(1).saturating_add(weight);
        self.from_aliases = self.from_aliases.saturating_add(weight);
        // Below 400,000 nodes the server allows 99 in 100 to come from aliases.
        if self.from_aliases > 100 && self.nodes > 1000 && self.from_aliases > self.nodes / 100 * 99 {
            return Err(OverBudget::Aliases);
        }
        if self.nodes > MAX_NODES { Err(OverBudget::Nodes) } else { Ok(()) }
    }
}
