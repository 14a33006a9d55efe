//! What every file owes its reader: a first line that says what it is for, and one subject.

use crate::source::{self, File};

/// Lines of production code after which the question is what the second subject of the file is.
const MOST_LINES: usize = 600;

#[test]
fn every_file_says_what_it_is_for_and_has_one_subject() {
    let files = source::files();
    let reached = source::reached(&source::crate_roots(), &files);
    let found: Vec<String> =
        files.iter().flat_map(|file| complaints(file, reached.get(&file.0) == Some(&true))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn complaints((path, text): &File, only_tests: bool) -> Vec<String> {
    let mut found = Vec::new();
    if !text.lines().next().is_some_and(|first| first.starts_with("//! ")) {
        found.push(format!("{path}: the first line is no `//!` that says what the file is for"));
    }
    let tests_from = source::first_line_of_tests(&source::tokens(text));
    let lines = tests_from.map_or(text.lines().count(), |line| line - 1);
    if !only_tests && lines > MOST_LINES {
        found.push(format!(
            "{path}: {lines} lines before its tests, more than {MOST_LINES}: what is its second subject?"
        ));
    }
    found
}

#[test]
fn planted_complaints_are_found() {
    let check = |text: String, expected: usize| {
        assert_eq!(complaints(&("src/x.rs".to_owned(), text.clone()), false).len(), expected, "{text}");
    };
    check("//! What it is for.\n".to_owned(), 0);
    check("use std::fmt;\n//! late\n".to_owned(), 1);
    check(String::new(), 1);
    let code = |lines: usize| format!("//! x\n{}", "fn f() {}\n".repeat(lines));
    check(code(MOST_LINES), 1);
    check(code(MOST_LINES - 1), 0);
    check(format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", code(10), code(MOST_LINES)), 0);
}
