//! How the story is told: as progress lines of a test, or to a newcomer on standard output (`e2e demo`).

use std::io::{IsTerminal, Write, stdout};

use crate::progress::say;

/// To whom it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// Somebody who reads a test's log: the steps, and what was found.
    Test,
    /// Somebody who sees it for the first time: the commands as they would be typed and what they say, too.
    Demo,
}

impl Voice {
    /// What happens next.
    pub(super) fn headline(self, text: &str) {
        match self {
            Self::Test => say!("step: {text}"),
            Self::Demo => print(&format!("\n{}\n", coloured("1;36", &format!("== {text}")))),
        }
    }

    /// Why it is done, or what to look at; for the newcomer alone.
    pub(super) fn explain(self, text: &str) {
        if self == Self::Demo {
            print(&format!("{}\n", coloured("2", text)));
        }
    }

    /// What was found.
    pub(super) fn found(self, text: &str) {
        match self {
            Self::Test => say!("{text}"),
            Self::Demo => print(&format!("{} {text}\n", coloured("32", "->"))),
        }
    }

    /// A command, as it would be typed.
    pub(super) fn command(self, words: &[&str], input: Option<&str>) {
        if self == Self::Demo {
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            let input = input.map(|text| format!(" <<EOF\n{}\nEOF", text.trim_end())).unwrap_or_default();
            print(&format!("{}\n", coloured("1", &format!("$ {}{input}", words.join(" ")))));
        }
    }

    /// What it answered.
    pub(super) fn answer(self, text: &str) {
        if self == Self::Demo && !text.trim().is_empty() {
            print(&format!("{}\n", text.trim_end()));
        }
    }

    /// A unified diff.
    pub(super) fn diff(self, text: &str) {
        let line = |line: &str| match line.as_bytes().first() {
            _ if line.starts_with("---") || line.starts_with("+++") => coloured("1", line),
            Some(b'+') => coloured("32", line),
            Some(b'-') => coloured("31", line),
            Some(b'@') => coloured("36", line),
            _ => line.to_owned(),
        };
        self.answer(&text.lines().map(line).collect::<Vec<_>>().join("\n"));
    }
}

/// A line of results on standard output, where a test's reader (CI) looks for it.
pub(super) fn figure(name: &str, value: impl std::fmt::Display) {
    print(&format!("figure {name} {value}\n"));
}

/// A closed standard output must not end a run, so a failure to write is ignored.
fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// In an SGR colour, on a terminal whose user has not said NO_COLOR.
fn coloured(sgr: &str, text: &str) -> String {
    if stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{sgr}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// As a shell would want it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_needs_them() {
        let words = ["get", "{.status.plan.diff}", "it's", ""].map(quoted);
        assert_eq!(words, ["get", "'{.status.plan.diff}'", r"'it'\''s'", "''"]);
    }
}
