//! Hides what may be a secret in the lines of a manifest, for texts that leave the node.
//!
//! Rather too much than too little: any `value` beside a `name` (environment variables, HTTP headers of probes), the
//! value of any flag with a telling name, credentials in a URL. In a text that does not parse, everything behind
//! `value:` goes.

use std::ops::Range;

use super::tree::{self, Node};

const MASK: &str = "‹masked›";
const SECRET_WORDS: [&str; 7] = ["password", "passwd", "passphrase", "token", "secret", "key", "credential"];

/// The lines of a text with their line breaks, secrets masked.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut secret = flag_values(text);
    secret.extend(url_credentials(text));
    match tree::parse(text) {
        Ok(root) => secret.extend(values_in(&root)),
        Err(_) => secret.extend(values_by_line(text)),
    }
    secret.retain(|range| !range.is_empty());
    secret.sort_by_key(|range| (range.start, range.end));
    let mut start = 0;
    let mut next = 0;
    let masked = |line: &str| {
        let end = start + line.len();
        let shown = mask_line(line, start, &secret[next..]);
        while secret.get(next).is_some_and(|range| range.end <= end) {
            next += 1;
        }
        start = end;
        shown
    };
    text.split_inclusive('\n').map(masked).collect()
}

/// The line that begins at `start` in its text, without the parts in `secret`. Indentation and line break stay.
fn mask_line(line: &str, start: usize, secret: &[Range<usize>]) -> String {
    let first = line.len() - line.trim_start().len();
    let content = start + first..start + line.trim_end().len();
    let mut shown = String::with_capacity(line.len());
    let mut at = start;
    for range in secret.iter().take_while(|range| range.start < content.end) {
        let (from, to) = (range.start.max(content.start).max(at), range.end.min(content.end));
        if from < to {
            shown.push_str(&line[at - start..from - start]);
            shown.push_str(MASK);
            at = to;
        }
    }
    shown.push_str(&line[at - start..]);
    shown
}

/// Whether a flag of this name has a secret for a value, and not a path to one or a switch.
fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
        && !value.starts_with('/')
        && !matches!(value, "true" | "false")
        && !name.ends_with("-file")
}

/// Values of `--name=value` wherever that stands, also inside a shell string.
fn flag_values(text: &str) -> Vec<Range<usize>> {
    let ends = |c: char| c.is_whitespace() || c == '"' || c == '\'';
    let flags = text.match_indices("--").filter_map(|(dashes, _)| {
        let word = &text[dashes + 2..];
        let word = &word[..word.find(ends).unwrap_or(word.len())];
        let (name, value) = word.split_once('=')?;
        let end = dashes + 2 + word.len();
        is_secret(name, value).then_some(end - value.len()..end)
    });
    flags.collect()
}

/// `user:password` in `scheme://user:password@host`.
fn url_credentials(text: &str) -> Vec<Range<usize>> {
    let urls = text.match_indices("://").filter_map(|(scheme, mark)| {
        let start = scheme + mark.len();
        let authority = &text[start..];
        let end =
            authority.find(|c: char| c.is_whitespace() || "/\"',".contains(c)).unwrap_or(authority.len());
        authority[..end].rfind('@').map(|at| start..start + at)
    });
    urls.collect()
}

fn values_in(root: &Node) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    root.walk(&mut |node| {
        if let (Some(_), Some(value)) = (node.get("name"), node.get("value")) {
            found.push(value.start..value.end);
        }
        // `--token` and its value as two elements of a list.
        for pair in node.items().unwrap_or_default().windows(2) {
            let (Some(flag), Some(value)) = (pair[0].as_scalar(), pair[1].as_scalar()) else { continue };
            if flag.starts_with("--")
                && !flag.contains('=')
                && !value.starts_with('-')
                && is_secret(flag, value)
            {
                found.push(pair[1].start..pair[1].end);
            }
        }
    });
    found
}

/// Everything behind a `value:`, and the lines below it that are indented deeper.
fn values_by_line(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut inside = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let key = line.find("value:").map(|at| (at, at + "value:".len()));
        let key = key.or_else(|| line.find("\"value\"").map(|at| (at, at + "\"value\"".len())));
        if inside.is_some_and(|outer| indent > outer) {
            found.push(start..start + line.len());
        } else if let Some((at, end)) = key {
            found.push(start + end..start + line.len());
            inside = Some(at);
        } else if !line.trim().is_empty() {
            inside = None;
        }
        start += line.len();
    }
    found
}
