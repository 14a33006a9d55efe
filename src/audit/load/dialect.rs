//! Where kube-apiserver's YAML is narrower than that of our parser.
//!
//! The server reads YAML 1.1 with a translation of libyaml (`go.yaml.in/yaml/v2`, `scannerc.go`), the parser here
//! reads YAML 1.2. Texts that only the latter takes were found by giving both a few hundred thousand mutilated
//! policies; they are refused here, or a policy that passed would keep a server from starting.

use granit_parser::{ScalarStyle, Span};

use super::yaml::position;
use crate::audit::{Finding, Position};

/// Watches the events go by.
pub(super) struct Dialect<'t> {
    text: &'t str,
    /// Lines inside a quoted or block scalar or a flow collection, where tabs may lead; from (exclusive) to.
    free_lines: Vec<(usize, usize)>,
}

impl<'t> Dialect<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, free_lines: Vec::new() }
    }

    /// Before anything is read.
    pub(super) fn start(&self) -> Result<(), Finding> {
        let is_content = |line: &&str| !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
        match self.text.lines().enumerate().find(|(_, line)| is_content(line)) {
            Some((index, line)) if line.split([' ', '\t']).next() == Some("...") => {
                let message = "not valid YAML 1.1: `...` ends a document that has not begun: delete the line";
                let at = Position { line: index + 1, column: 1 };
                Err(Finding::server("yaml-syntax", "", message).at(at))
            }
            _ => Ok(()),
        }
    }

    /// A scalar was read.
    pub(super) fn scalar(
        &mut self,
        style: ScalarStyle,
        span: Span,
        in_flow: bool,
        is_key: bool,
    ) -> Result<(), Finding> {
        let plain = style == ScalarStyle::Plain;
        if !plain {
            self.lines(span.start.line(), span.end.line());
        }
        let source = span.slice(self.text).unwrap_or_default();
        let message = if style == ScalarStyle::DoubleQuoted && has_foreign_escape(source) {
            "an escape that YAML 1.1 does not have (`\\/`, or half a surrogate pair): write the character itself"
        } else if is_key && span.start.line() != span.end.line() {
            "a field name over several lines: is a quote or a comma missing?"
        } else if plain && in_flow && source.starts_with(':') {
            "a colon before a text inside brackets: put the text in quotes"
        } else if plain && in_flow && is_ambiguous(source, self.rest(span)) {
            let message =
                "YAML 1.1 and 1.2 read this differently: put the text in quotes, and a space after colons";
            return Err(Finding::operator("yaml-syntax", "", message).at(position(span.start)));
        } else {
            return Ok(());
        };
        Err(refuse(message, span))
    }

    /// A tag was read.
    pub(super) fn tag(&self, span: Span) -> Result<(), Finding> {
        let rest = self.rest(span);
        if !rest.is_empty() && !rest.starts_with([' ', '\t', '\r', '\n']) {
            return Err(refuse("a tag without a space after it: add one, or delete the tag", span));
        }
        Ok(())
    }

    /// An anchor or alias was read, sign included.
    pub(super) fn anchor(&self, span: Span) -> Result<(), Finding> {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name = span.slice(self.text).unwrap_or_default().trim_start_matches(['&', '*']);
        let ends = [' ', '\t', '\r', '\n', '?', ':', ',', ']', '}', '%', '@', '`'];
        let rest = self.rest(span);
        let cut_off = !rest.is_empty() && !rest.starts_with(ends);
        if name.is_empty() || !name.chars().all(is_letter) || cut_off {
            return Err(refuse(
                "anchors are of letters, digits, dashes and underscores, and end with a space",
                span,
            ));
        }
        Ok(())
    }

    /// The text after a span.
    fn rest(&self, span: Span) -> &'t str {
        span.byte_range().and_then(|range| self.text.get(range.end..)).unwrap_or_default()
    }

    /// A flow collection, or a scalar that is not plain, went over these lines.
    pub(super) fn lines(&mut self, first: usize, last: usize) {
        if first < last {
            self.free_lines.push((first, last));
        }
    }

    /// The document ended on `last_line`: was there a tab in the indentation? Only the first is told. (In the blank
    /// space after an unquoted string the server lets some tabs pass; telling which is not worth the code.)
    pub(super) fn tab(mut self, last_line: usize) -> Option<Finding> {
        if !self.text.contains('\t') {
            return None;
        }
        self.free_lines.sort_unstable();
        let mut free = self.free_lines.iter().peekable();
        let mut free_until = 0;
        for (index, line) in self.text.lines().enumerate().take(last_line) {
            let number = index + 1;
            while let Some((_, last)) = free.next_if(|(first, _)| *first < number) {
                free_until = free_until.max(*last);
            }
            let Some(column) = leading_tab(line).filter(|_| number > free_until) else { continue };
            let at = Position { line: number, column };
            let message =
                "YAML does not allow tabs for indentation, after a dash, or on blank lines: use spaces";
            return Some(Finding::server("yaml-syntax", "", message).at(at));
        }
        None
    }
}

/// In flow style a question mark ends a text in libyaml, and a colon belongs to it unless a space follows.
fn is_ambiguous(source: &str, rest: &str) -> bool {
    let glued = |rest: &str| rest.starts_with([',', '[', ']', '{', '}']);
    source.contains('?') || !source.is_empty() && rest.strip_prefix(':').is_some_and(glued)
}

fn refuse(message: &str, span: Span) -> Finding {
    Finding::server("yaml-syntax", "", format!("not valid YAML 1.1: {message}")).at(position(span.start))
}

/// The column of a tab in the space before the text of a line, dashes of a list counting as space.
fn leading_tab(line: &str) -> Option<usize> {
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches(' ');
        if rest.starts_with('\t') {
            return Some(line.len() - rest.len() + 1);
        }
        rest = rest.strip_prefix(['-', '?']).filter(|rest| rest.starts_with([' ', '\t']))?;
    }
}

/// `\/`, and UTF-16 surrogates written as `\uD83D\uDE00`, are of YAML 1.2 and JSON.
fn has_foreign_escape(source: &str) -> bool {
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            continue;
        }
        match chars.next() {
            Some('/') => return true,
            Some('u') => {
                let digits = chars.as_str().get(..2).unwrap_or_default();
                if u8::from_str_radix(digits, 16).is_ok_and(|high| (0xd8..=0xdf).contains(&high)) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}
