//! A file that no `mod` reaches is never compiled, and its tests never run: nobody notices, because nothing fails.

use crate::source::{self, File};

#[test]
fn every_file_is_compiled() {
    let lost = orphans(&source::crate_roots(), &source::files());
    assert!(lost.is_empty(), "no `mod` reaches {lost:?}; declare them or delete them");
}

fn orphans(roots: &[String], files: &[File]) -> Vec<String> {
    let reached = source::reached(roots, files);
    files.iter().map(|(path, _)| path.clone()).filter(|path| !reached.contains_key(path)).collect()
}

#[test]
fn a_planted_orphan_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("src/lib.rs", "pub mod a;"),
        file("src/a/mod.rs", "mod tests; /* mod lost; */"),
        file("src/a/tests.rs", ""),
        file("src/a/lost.rs", "mod also_lost;"),
        file("src/a/also_lost.rs", ""),
        file("src/bin/tool.rs", ""),
    ];
    let roots = ["src/lib.rs".to_owned(), "src/bin/tool.rs".to_owned()];
    assert_eq!(orphans(&roots, &files), ["src/a/lost.rs", "src/a/also_lost.rs"]);
    assert_eq!(
        orphans(&roots[..1], &files).len(),
        3,
        "a binary that Cargo.toml does not name is an orphan too"
    );
}
