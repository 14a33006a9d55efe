//! The difference between two manifests for people: unified, bounded, and without other people's secrets.

use std::fmt::Write as _;

use similar::{Algorithm, ChangeTag, TextDiff};

use super::mask;

/// Plans are kept in API objects, where a longer text has no place.
const MAX_BYTES: usize = 64 << 10;

/// A difference to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// Unified diff with three lines of context; empty when the texts are equal.
    pub text: String,
    /// Whether the end was cut off; a note in `text` says so then.
    pub truncated: bool,
}

/// The unified diff of two manifests, with headers `a/<name>` and `b/<name>`.
///
/// Values of environment variables and HTTP headers, and of flags that look like secrets, read `‹masked›` in every
/// line; a line that differs only in such a value is still there, as removed and added.
pub fn diff(from: &str, to: &str, name: &str) -> Diff {
    let (old, new): (Vec<&str>, Vec<&str>) =
        (from.split_inclusive('\n').collect(), to.split_inclusive('\n').collect());
    let (shown_old, shown_new) = (mask::lines(from), mask::lines(to));
    // Of equal lines (`readOnly: true`), this algorithm keeps the ones that are where they were.
    let lines = TextDiff::configure()
        .algorithm(Algorithm::Histogram)
        .newline_terminated(true)
        .diff_slices(&old, &new);
    let mut text = String::new();
    for hunk in lines.unified_diff().context_radius(3).iter_hunks() {
        if text.is_empty() {
            text = format!("--- a/{name}\n+++ b/{name}\n");
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", hunk.header());
        for change in hunk.iter_changes() {
            let (sign, line) = match change.tag() {
                ChangeTag::Delete => ('-', change.old_index().map(|i| &shown_old[i])),
                ChangeTag::Insert => ('+', change.new_index().map(|i| &shown_new[i])),
                ChangeTag::Equal => (' ', change.new_index().map(|i| &shown_new[i])),
            };
            let line = line.map_or("", String::as_str);
            text.push(sign);
            text.push_str(line);
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    cut(text)
}

fn cut(mut text: String) -> Diff {
    let truncated = text.len() > MAX_BYTES;
    if truncated {
        let end =
            text.as_bytes()[..MAX_BYTES].iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
        let left_out = text[end..].lines().count();
        text.truncate(end);
        let _ = writeln!(text, "… {left_out} more lines, left out");
    }
    Diff { text, truncated }
}
