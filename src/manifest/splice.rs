//! Carries a plan out on the text: byte ranges and what takes their place, in the style of the neighbourhood.
//!
//! Block lists and maps are edited in whole lines, so that comments and blank lines around stay where they are; flow
//! collections (and JSON) between their brackets. Every addition is written so that its removal leaves the bytes that
//! were there before; for that, a flow collection we had to make has a space inside its brackets (`[ … ]`), one that
//! was there empty gets none.

use std::ops::Range;

use granit_parser::ScalarStyle;

use super::plan::{Annotation, ListEdit, Plan, Value};
use super::pod::{List, Pod};
use super::scalar;
use super::tree::{Entry, Kind, Node};
use super::{REVISION_ANNOTATION, Refusal};

/// `text` takes the place of `range`.
#[derive(Debug)]
pub(super) struct Splice {
    pub(super) range: Range<usize>,
    pub(super) text: String,
}

impl Splice {
    /// Whether it changes anything in this line. Whole lines that are put between two lines change neither.
    pub(super) fn touches(&self, line: &Range<usize>) -> bool {
        let Range { start, end } = self.range;
        if self.range.is_empty() {
            line.contains(&start) && (start > line.start || !self.text.ends_with('\n'))
        } else {
            start < line.end && end > line.start
        }
    }
}

/// The splices of a plan in the order of the text. `text` must end with a line break.
pub(super) fn splices(text: &str, pod: &Pod<'_>, plan: &Plan) -> Result<Vec<Splice>, Refusal> {
    let mut editor = Editor { text, style: Style::of(text, pod), splices: Vec::new() };
    // Inner lists before outer: at the same place, an element comes before the next key.
    for (list, edit) in &plan.lists {
        let (parent, header) = match list {
            List::Command | List::Args | List::VolumeMounts => (pod.container, None),
            List::Volumes => (&pod.spec.value, Some(&pod.spec.key)),
        };
        editor.edit_list(parent, header, list.key(), edit)?;
    }
    if let Some(annotation) = &plan.annotation {
        editor.edit_annotation(pod.metadata, annotation)?;
    }
    editor.splices.sort_by_key(|splice| (splice.range.start, splice.range.end));
    if editor.splices.windows(2).any(|pair| pair[0].range.end > pair[1].range.start) {
        return Err(cannot_edit(pod.container, "the changes overlap"));
    }
    Ok(editor.splices)
}

/// The text with all splices done.
pub(super) fn apply(text: &str, splices: &[Splice]) -> String {
    let mut result = String::with_capacity(text.len() + splices.iter().map(|s| s.text.len()).sum::<usize>());
    let mut done = 0;
    for splice in splices {
        result.push_str(&text[done..splice.range.start]);
        result.push_str(&splice.text);
        done = splice.range.end;
    }
    result.push_str(&text[done..]);
    result
}

fn cannot_edit(node: &Node, why: &str) -> Refusal {
    let message = format!("cannot edit this safely, {why}: write it as a block list, one element a line");
    Refusal::new("cannot-edit", node.line, message)
}

/// How this file is written.
struct Style {
    eol: &'static str,
    /// Columns by which a nested map is indented.
    step: usize,
    /// Columns by which the dashes of a list are indented from its key.
    dash: usize,
    /// Quotes of the flags.
    flag: ScalarStyle,
}

impl Style {
    fn of(text: &str, pod: &Pod<'_>) -> Self {
        let first_line = text.split_inclusive('\n').next().unwrap_or_default();
        let inside = pod.spec.value.entries().and_then(|entries| entries.first());
        let step = inside.map_or(2, |first| column(text, first.key.start)).clamp(1, 8);
        let list = pod.spec.value.entry("containers").and_then(|list| {
            let first = list.value.items()?.first()?;
            let dash = dash(text, first)?;
            column(text, dash).checked_sub(column(text, list.key.start))
        });
        let like = pod.flags.first().map_or(pod.argv.len() - 1, |flag| flag.first);
        Self {
            eol: if first_line.ends_with("\r\n") { "\r\n" } else { "\n" },
            step: if is_flow(&pod.spec.value) { 2 } else { step },
            dash: list.unwrap_or(0),
            flag: match pod.argv[like].node.kind {
                Kind::Scalar { style, .. } => style,
                Kind::Seq { .. } | Kind::Map { .. } | Kind::Alias => ScalarStyle::Plain,
            },
        }
    }
}

fn is_flow(node: &Node) -> bool {
    matches!(node.kind, Kind::Seq { flow: true, .. } | Kind::Map { flow: true, .. })
}

fn line_start(text: &str, offset: usize) -> usize {
    text[..offset].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Start of the line after the one of `offset`.
fn next_line(text: &str, offset: usize) -> usize {
    text[offset..].find('\n').map_or(text.len(), |newline| offset + newline + 1)
}

fn column(text: &str, offset: usize) -> usize {
    offset - line_start(text, offset)
}

/// Offset of the dash of a block list's element, which has only spaces in front of it.
fn dash(text: &str, item: &Node) -> Option<usize> {
    let mut end = item.start;
    loop {
        let start = line_start(text, end);
        let line = text[start..end].trim();
        if let Some(rest) = line.strip_prefix('-') {
            // `- - x` and `- &anchor` are not edited.
            let rest = rest.trim_start();
            let dash = start + text[start..end].find('-')?;
            return (rest.is_empty() || rest.starts_with('#')).then_some(dash);
        }
        if start == 0 || !(line.is_empty() || line.starts_with('#')) {
            return None;
        }
        end = start - 1;
    }
}

struct Editor<'t> {
    text: &'t str,
    style: Style,
    splices: Vec<Splice>,
}

impl Editor<'_> {
    fn splice(&mut self, range: Range<usize>, mut text: String) {
        // What stays at the end is no part of the change.
        let stays = text.ends_with(&self.text[range.clone()]);
        let end = if stays { range.start } else { range.end };
        text.truncate(text.len() - (range.end - end));
        self.splices.push(Splice { range: range.start..end, text });
    }

    /// `header` is the key of `parent`; a container has none.
    fn edit_list(
        &mut self,
        parent: &Node,
        header: Option<&Node>,
        key: &str,
        edit: &ListEdit,
    ) -> Result<(), Refusal> {
        let Some(entry) = parent.entry(key) else {
            let new = edit.insert.iter().map(|(_, value)| value.clone()).collect();
            return self.add_key(parent, header, key, &Value::List(new));
        };
        let Some(items) = entry.value.items() else { return Err(null_value(entry)) };
        for (index, keys, value) in &edit.set {
            let target = keys.iter().try_fold(&items[*index], |node, key| node.get(key));
            let target = target.ok_or_else(|| cannot_edit(&items[*index], "it has not the expected keys"))?;
            // A scalar deeper down may be in a flow map.
            self.replace(target, value, !keys.is_empty() || is_flow(&entry.value))?;
        }
        let spans: Vec<_> = items.iter().map(|item| item.start..item.end).collect();
        let emptied = edit.insert.is_empty() && edit.remove.len() == items.len();
        if emptied && self.is_made_by_us(entry) {
            self.remove_key(parent, entry)
        } else if is_flow(&entry.value) {
            let new = edit.insert.iter().map(|(at, value)| (*at, self.flow_item(value))).collect();
            self.edit_flow(&entry.value, &spans, |i| edit.remove.contains(&i), new)
        } else {
            self.edit_block_list(entry, items, edit)
        }
    }

    fn edit_block_list(&mut self, entry: &Entry, items: &[Node], edit: &ListEdit) -> Result<(), Refusal> {
        let dashes: Option<Vec<usize>> = items.iter().map(|item| dash(self.text, item)).collect();
        let dashes = dashes.ok_or_else(|| cannot_edit(&entry.key, "a dash is not the first on its line"))?;
        for (index, value) in &edit.insert {
            let before = if *index == 0 { entry.key.end } else { items[*index - 1].end };
            let at = next_line(self.text, before);
            self.splice(at..at, self.block_item(value, column(self.text, dashes[0])));
        }
        for &index in &edit.remove {
            let lines = line_start(self.text, dashes[index])..next_line(self.text, items[index].end);
            self.splice(lines, String::new());
        }
        Ok(())
    }

    fn edit_annotation(&mut self, metadata: &Entry, annotation: &Annotation) -> Result<(), Refusal> {
        let annotations = metadata.value.entry("annotations");
        let ours = annotations.and_then(|entry| entry.value.entry(REVISION_ANNOTATION));
        match (annotation, annotations, ours) {
            (Annotation::Set(revision), _, Some(ours)) => {
                self.replace(&ours.value, &Value::Quoted(revision.clone()), true)
            }
            (Annotation::Set(revision), Some(entry), None) => {
                if entry.value.entries().is_none() {
                    return Err(null_value(entry));
                }
                let revision = Value::Quoted(revision.clone());
                self.add_key(&entry.value, Some(&entry.key), REVISION_ANNOTATION, &revision)
            }
            (Annotation::Set(revision), None, None) => {
                let map = Value::Map(vec![(REVISION_ANNOTATION, Value::Quoted(revision.clone()))]);
                self.add_key(&metadata.value, Some(&metadata.key), "annotations", &map)
            }
            (Annotation::Remove, Some(entry), Some(ours)) => {
                let alone = entry.value.entries().is_some_and(|entries| entries.len() == 1);
                if alone && self.is_made_by_us(entry) {
                    self.remove_key(&metadata.value, entry)
                } else {
                    self.remove_key(&entry.value, ours)
                }
            }
            (Annotation::Remove, _, _) => Ok(()),
        }
    }

    /// Of a collection that loses all it has: whether it was not there before us. A block collection cannot be empty,
    /// so it was not; of a flow collection our mark says it.
    fn is_made_by_us(&self, entry: &Entry) -> bool {
        let Node { start, end, .. } = entry.value;
        !is_flow(&entry.value) || {
            let inside = &self.text[start + 1..end - 1];
            inside.starts_with(' ') && inside.ends_with(' ') && inside.trim().len() + 2 == inside.len()
        }
    }

    fn add_key(
        &mut self,
        parent: &Node,
        header: Option<&Node>,
        key: &str,
        value: &Value,
    ) -> Result<(), Refusal> {
        let entries = parent.entries().unwrap_or_default();
        let keys: Vec<_> = entries.iter().filter_map(|entry| entry.key.as_scalar()).collect();
        let sorted = keys.len() == entries.len() && keys.is_sorted();
        let index = if sorted { keys.partition_point(|other| *other < key) } else { entries.len() };
        if is_flow(parent) {
            let spans: Vec<_> = entries.iter().map(|entry| entry.key.start..entry.value.end).collect();
            let new = format!("{}: {}", scalar::double_quoted(key), flow(value));
            return self.edit_flow(parent, &spans, |_| false, vec![(index, new)]);
        }
        let before = match index.checked_sub(1) {
            Some(previous) => entries[previous].value.end,
            None => header.map_or(entries[entries.len() - 1].value.end, |header| header.end),
        };
        let at = next_line(self.text, before);
        self.splice(at..at, self.block_entry(key, value, column(self.text, entries[0].key.start)));
        Ok(())
    }

    fn remove_key(&mut self, parent: &Node, entry: &Entry) -> Result<(), Refusal> {
        if is_flow(parent) {
            let entries = parent.entries().unwrap_or_default();
            let spans: Vec<_> = entries.iter().map(|e| e.key.start..e.value.end).collect();
            let gone = |i: usize| entries[i].key.start == entry.key.start;
            return self.edit_flow(parent, &spans, gone, Vec::new());
        }
        let start = line_start(self.text, entry.key.start);
        if !self.text[start..entry.key.start].trim().is_empty() {
            return Err(cannot_edit(&entry.key, "other things are in front of this key"));
        }
        self.splice(start..next_line(self.text, entry.value.end), String::new());
        Ok(())
    }

    fn replace(&mut self, node: &Node, value: &Value, in_flow: bool) -> Result<(), Refusal> {
        let Kind::Scalar { style, .. } = &node.kind else {
            return Err(cannot_edit(node, "it is not a scalar"));
        };
        if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
            return Err(cannot_edit(node, "it is a block scalar"));
        }
        self.splice(node.start..node.end, in_style(value, *style, in_flow));
        Ok(())
    }

    /// Replaces what is removed or added between the brackets of `node`, and leaves every separator it can. The
    /// separator in front of an element goes with it; the first element has none.
    fn edit_flow(
        &mut self,
        node: &Node,
        spans: &[Range<usize>],
        removed: impl Fn(usize) -> bool,
        mut new: Vec<(usize, String)>,
    ) -> Result<(), Refusal> {
        // Two places become one when all between them is removed.
        new.sort_by_key(|(at, _)| *at);
        let separator = self.flow_separator(node, spans);
        let kept: Vec<usize> = (0..spans.len()).filter(|&i| !removed(i)).collect();
        let (Some(&first), Some(&last)) = (kept.first(), kept.last()) else {
            let inside = match spans {
                [] => node.start + 1..node.start + 1,
                [first, .., last] => first.start..last.end,
                [only] => only.clone(),
            };
            let texts: Vec<_> = new.into_iter().map(|(_, text)| text).collect();
            self.splice(inside, texts.join(&separator));
            return Ok(());
        };
        let between = |low: usize, high: usize| {
            new.iter().filter(move |(at, _)| (low..=high).contains(at)).map(|(_, text)| text.as_str())
        };
        let mut splices = Vec::new();
        let leading: String = between(0, first).flat_map(|text| [text, separator.as_str()]).collect();
        splices.push((spans[0].start..spans[first].start, leading));
        for pair in kept.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let mut text: String = between(a + 1, b).flat_map(|text| [separator.as_str(), text]).collect();
            text.push_str(&self.text[spans[b - 1].end..spans[b].start]);
            splices.push((spans[a].end..spans[b].start, text));
        }
        let trailing = between(last + 1, usize::MAX).flat_map(|text| [separator.as_str(), text]).collect();
        splices.push((spans[last].end..spans[spans.len() - 1].end, trailing));

        for (range, text) in splices.into_iter().filter(|(range, text)| self.text[range.clone()] != *text) {
            let gaps = spans.windows(2).map(|pair| pair[0].end..pair[1].start);
            let mut lost = gaps.filter(|gap| {
                let within = range.start <= gap.start && gap.end <= range.end;
                within && !text.ends_with(&self.text[gap.clone()])
            });
            if lost.any(|gap| self.text[gap].contains('#')) {
                return Err(cannot_edit(node, "there is a comment between its elements"));
            }
            self.splice(range, text);
        }
        Ok(())
    }

    /// As between the last two elements, so that a list with one element a line stays one.
    fn flow_separator(&self, node: &Node, spans: &[Range<usize>]) -> String {
        let like = match spans {
            [.., a, b] => self.text[a.end..b.start].to_owned(),
            [only] => format!(",{}", &self.text[node.start + 1..only.start]),
            [] => String::new(),
        };
        let plain = like.strip_prefix(',').is_some_and(|rest| rest.trim().is_empty());
        if plain && (spans.len() > 1 || like.contains('\n')) { like } else { ", ".to_owned() }
    }

    fn block_entry(&self, key: &str, value: &Value, column: usize) -> String {
        let (indent, eol) = (" ".repeat(column), self.style.eol);
        match value {
            Value::Map(entries) => {
                let entries =
                    entries.iter().map(|(key, value)| self.block_entry(key, value, column + self.style.step));
                format!("{indent}{key}:{eol}{}", entries.collect::<String>())
            }
            Value::List(items) => {
                let items = items.iter().map(|item| self.block_item(item, column + self.style.dash));
                format!("{indent}{key}:{eol}{}", items.collect::<String>())
            }
            Value::Text(_) | Value::Quoted(_) | Value::Bool(_) => {
                format!("{indent}{key}: {}{eol}", in_style(value, ScalarStyle::Plain, false))
            }
        }
    }

    fn block_item(&self, value: &Value, dash: usize) -> String {
        let indent = " ".repeat(dash);
        match value {
            Value::Map(entries) => {
                let lines = entries.iter().map(|(key, value)| self.block_entry(key, value, dash + 2));
                let lines: String = lines.collect();
                format!("{indent}- {}", &lines[dash + 2..])
            }
            Value::List(_) | Value::Text(_) | Value::Quoted(_) | Value::Bool(_) => {
                format!("{indent}- {}{}", in_style(value, self.style.flag, false), self.style.eol)
            }
        }
    }

    fn flow_item(&self, value: &Value) -> String {
        match value {
            Value::Text(_) => in_style(value, self.style.flag, true),
            Value::Quoted(_) | Value::Bool(_) | Value::Map(_) | Value::List(_) => flow(value),
        }
    }
}

fn null_value(entry: &Entry) -> Refusal {
    let key = entry.key.as_scalar().unwrap_or_default();
    let message =
        format!("`{key}` has no value to add to: remove the key, or write `{key}: []` (`{{}}` for a map)");
    Refusal::new("null-value", entry.key.line, message)
}

fn in_style(value: &Value, style: ScalarStyle, in_flow: bool) -> String {
    match value {
        Value::Text(text) => scalar::write(text, style, in_flow),
        Value::Quoted(_) | Value::Bool(_) | Value::Map(_) | Value::List(_) => flow(value),
    }
}

/// As JSON, which is YAML too, with a space inside the brackets.
fn flow(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Quoted(text) => scalar::double_quoted(text),
        Value::Bool(value) => value.to_string(),
        Value::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", scalar::double_quoted(key), flow(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(flow).collect();
            format!("[ {} ]", items.join(", "))
        }
    }
}
