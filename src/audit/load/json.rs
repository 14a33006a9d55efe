//! A JSON text as a tree with positions.
//!
//! kube-apiserver hands whatever begins with `{` to its JSON decoder alone, so a YAML flow mapping at the top of a
//! file, a comment or a trailing comma stops it. serde_json judges the text; this only walks what it has accepted.

use std::rc::Rc;

use serde::de::IgnoredAny;

use super::tree::{Budget, Entry, MAX_DEPTH, MAX_NODES, Node, Value, join};
use crate::audit::{Finding, Position};

/// Whether kube-apiserver takes the text for JSON (`IsJSONBuffer` in k8s.io/apimachinery).
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Reads the text. What does not stop the reading is added to `findings`, what does is the error.
pub(super) fn read(text: &str, findings: &mut Vec<Finding>) -> Result<Rc<Node>, Finding> {
    if let Some(at) = too_deep(text) {
        let message = format!("nested more than {MAX_DEPTH} levels deep: a policy needs six");
        return Err(Finding::operator("too-deep", "", message).at(at));
    }
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        let message = format!(
            "not valid JSON, which kube-apiserver expects of a file that begins with a brace: {}; write YAML in block \
             style, or correct the JSON",
            error.to_string().split(" at line ").next().unwrap_or_default()
        );
        let at = Position { line: error.line().max(1), column: error.column().max(1) };
        return Err(Finding::server("json-syntax", "", message).at(at));
    }
    let mut walker = Walker { text, offset: 0, at: START, budget: Budget::default(), findings };
    walker.skip_space();
    walker.value("")
}

const START: Position = Position { line: 1, column: 1 };

/// Where the nesting goes too deep, before anything recurses into it.
fn too_deep(text: &str) -> Option<Position> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut at = START;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '{' | '[' if !in_string => depth += 1,
            '}' | ']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Some(at);
        }
        advance(&mut at, c);
    }
    None
}

fn advance(at: &mut Position, c: char) {
    if c == '\n' {
        *at = Position { line: at.line + 1, column: 1 };
    } else {
        at.column += 1;
    }
}

/// Walks a text that is known to be JSON.
struct Walker<'t, 'f> {
    text: &'t str,
    offset: usize,
    at: Position,
    budget: Budget,
    findings: &'f mut Vec<Finding>,
}

impl<'t> Walker<'t, '_> {
    fn value(&mut self, path: &str) -> Result<Rc<Node>, Finding> {
        let position = self.at;
        self.budget.node().map_err(|_| {
            let message = format!("more than {MAX_NODES} values: shorten the policy");
            Finding::operator("too-large", "", message).at(position)
        })?;
        let value = match self.peek() {
            Some('{') => self.object(path)?,
            Some('[') => self.array(path)?,
            Some('"') => Value::Text(self.string(path)?),
            _ => match self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                number => Value::Number { text: number.to_owned(), integer: number.parse::<i64>().is_ok() },
            },
        };
        self.skip_space();
        Ok(Rc::new(Node { position, value }))
    }

    fn array(&mut self, path: &str) -> Result<Value, Finding> {
        let mut items = Vec::new();
        self.skip_token();
        while self.peek() != Some(']') {
            items.push(self.value(&format!("{path}[{}]", items.len()))?);
            self.skip_comma();
        }
        self.skip_token();
        Ok(Value::List(items))
    }

    fn object(&mut self, path: &str) -> Result<Value, Finding> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut index = std::collections::HashMap::new();
        self.skip_token();
        while self.peek() != Some('}') {
            let key_position = self.at;
            let key = self.string(path)?;
            let path = join(path, &key);
            self.skip_space();
            self.skip_token(); // the colon
            let entry = Entry { key_position, node: self.value(&path)?, key };
            match index.get(&entry.key) {
                None => {
                    index.insert(entry.key.clone(), entries.len());
                    entries.push(entry);
                }
                Some(&place) => {
                    let earlier = &mut entries[place];
                    self.findings.push(duplicate(earlier, &entry, &path)?);
                    *earlier = entry;
                }
            }
            self.skip_comma();
        }
        self.skip_token();
        Ok(Value::Map(entries))
    }

    /// A string at a quote, unescaped.
    fn string(&mut self, path: &str) -> Result<String, Finding> {
        let (start, position) = (self.offset, self.at);
        self.next();
        let mut escaped = false;
        while let Some(c) = self.next() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => break,
                _ => {}
            }
        }
        // serde_json has accepted the text; the one thing it looks at only now is half a surrogate pair.
        serde_json::from_str(&self.text[start..self.offset]).map_err(|_| {
            let message =
                "half of a surrogate pair, which kube-apiserver would replace by U+FFFD: correct the escape";
            Finding::operator("json-syntax", path, message).at(position)
        })
    }

    fn peek(&self) -> Option<char> {
        self.text[self.offset..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.offset += c.len_utf8();
        advance(&mut self.at, c);
        Some(c)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let start = self.offset;
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
        &self.text[start..self.offset]
    }

    fn skip_space(&mut self) {
        self.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
    }

    /// Skips one bracket or sign and the space after it.
    fn skip_token(&mut self) {
        self.next();
        self.skip_space();
    }

    fn skip_comma(&mut self) {
        if self.peek() == Some(',') {
            self.skip_token();
        }
    }
}

/// A key that is set twice. Between scalars the later wins. Go's decoder reads a later list or object *over* the
/// earlier one, so that what the later does not mention stays; nobody should run with that, and it is refused.
fn duplicate(earlier: &Entry, later: &Entry, path: &str) -> Result<Finding, Finding> {
    let scalar =
        |entry: &Entry| matches!(entry.node.value, Value::Bool(_) | Value::Number { .. } | Value::Text(_));
    let kept = if scalar(earlier) && scalar(later) { "keeps only the last" } else { "mixes the two" };
    let message = format!(
        "`{}` is already set on line {}, and kube-apiserver {kept}: delete one of them",
        later.key, earlier.key_position.line
    );
    let finding = Finding::operator("duplicate-key", path, message).at(later.key_position);
    if scalar(earlier) && scalar(later) { Ok(finding) } else { Err(finding) }
}
