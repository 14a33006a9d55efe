//! Rust source as the guards read it: the words of a file without comments and strings, the paths in them, and the tree
//! of modules from the crates' roots.
//!
//! This is no Rust parser. It knows what the guards ask for (`use` trees, paths, `mod`, `#[cfg(test)]`) and nothing of
//! types or macros' meaning; a path that only a macro builds is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A source file: its path from the repository's root, with `/`, and its text.
pub(crate) type File = (String, String);

/// A word (identifier, keyword, number) or one character of punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Every `.rs` file of the repository's own crates.
pub(crate) fn files() -> Vec<File> {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "e2e"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 10, "only {} source files found: the guards look in the wrong place", found.len());
    found
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, found: &mut Vec<File>) {
    let Ok(entries) = folder.read_dir() else { return };
    for path in entries.map(|e| e.unwrap().path()) {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The roots that Cargo compiles: every `path = "….rs"` of the manifests, and Cargo's own names.
pub(crate) fn crate_roots() -> Vec<String> {
    let mut roots = vec!["src/lib.rs".to_owned(), "e2e/src/main.rs".to_owned()];
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
    roots.extend(paths.filter(|path| path.ends_with(".rs")).map(str::to_owned));
    roots
}

/// The words and punctuation of a text, without comments, strings and characters.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    let peek = |i: usize| chars.get(i).copied().unwrap_or('\0');
    while at < chars.len() {
        let start = at;
        let c = chars[at];
        if c == '/' && peek(at + 1) == '/' {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if c == '/' && peek(at + 1) == '*' {
            at = end_of_block_comment(&chars, at);
        } else if c == '"' {
            at = end_of_string(&chars, at);
        } else if c == '\'' {
            at = match (peek(at + 1), peek(at + 2)) {
                ('\\', _) => 1 + (at + 3..chars.len()).find(|i| chars[*i] == '\'').unwrap_or(chars.len() - 1),
                (_, '\'') => at + 3,
                _ => at + 1, // a lifetime; its name is read as a word
            };
        } else if is_word(c) {
            while is_word(peek(at)) {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br" | "cr") && peek(at + hashes) == '"' {
                at = end_of_raw_string(&chars, at + hashes + 1, hashes);
            } else if word == "r" && hashes == 1 {
                at += 1; // r#type: the word follows
            } else {
                tokens.push(Token { text: word, line });
            }
        } else {
            if !c.is_whitespace() {
                tokens.push(Token { text: c.to_string(), line });
            }
            at += 1;
        }
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn end_of_raw_string(chars: &[char], start: usize, hashes: usize) -> usize {
    let closes = |i: usize| chars[i] == '"' && (1..=hashes).all(|h| chars.get(i + h) == Some(&'#'));
    (start..chars.len()).find(|i| closes(*i)).map_or(chars.len(), |i| i + 1 + hashes)
}

/// The tokens without the items under `#[cfg(test)]`.
pub(crate) fn production(tokens: &[Token]) -> Vec<Token> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if starts_with(&tokens[at..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = end_of_item(tokens, at + 7);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The line of the first module under `#[cfg(test)]`, if there is one.
pub(crate) fn first_line_of_tests(tokens: &[Token]) -> Option<usize> {
    let tests = |w: &&[Token]| starts_with(w, &["#", "[", "cfg", "(", "test", ")", "]", "mod"]);
    tokens.windows(8).find(tests).map(|w| w[0].line)
}

fn starts_with(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(t, w)| t.text == *w)
}

fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let (mut depth, mut attribute) = (0, false);
    for (i, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "#" if depth == 0 => attribute = true,
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 && token.text == "]" && attribute {
                    attribute = false;
                } else if depth == 0 && token.text == "}" {
                    return i + 1;
                }
            }
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// A path as it is written, `use` groups taken apart, with the names of the inline modules it stands in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) segments: Vec<String>,
    pub(crate) inline: Vec<String>,
    pub(crate) line: usize,
}

/// Every path in the tokens; a single word is one too.
pub(crate) fn mentions(tokens: &[Token]) -> Vec<Mention> {
    let (mut found, mut at) = (Vec::new(), 0);
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        if text == "mod" && tokens.get(at + 2).is_some_and(|t| t.text == "{") {
            inline.push((tokens[at + 1].text.clone(), depth));
            (at, depth) = (at + 3, depth + 1);
        } else if text.starts_with(is_word) {
            let (segments, line) = (Vec::new(), tokens[at].line);
            let names: Vec<String> = inline.iter().map(|(name, _)| name.clone()).collect();
            let mut paths = Vec::new();
            at = path(tokens, at, segments, &mut paths);
            found.extend(paths.into_iter().map(|segments| Mention { segments, inline: names.clone(), line }));
        } else {
            match text {
                "{" => depth += 1,
                "}" => {
                    depth = usize::saturating_sub(depth, 1);
                    inline.retain(|(_, opened)| *opened < depth);
                }
                _ => {}
            }
            at += 1;
        }
    }
    found
}

/// Reads one path or `use` tree from `at`; returns where it ends.
fn path(tokens: &[Token], mut at: usize, mut segments: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t| t.text == text);
    loop {
        if is(at, "{") {
            at += 1;
            while at < tokens.len() && !is(at, "}") {
                at = match tokens[at].text.as_str() {
                    "," => at + 1,
                    "as" => at + 2,
                    _ => path(tokens, at, segments.clone(), found),
                };
            }
            return at + 1;
        }
        let Some(token) = tokens.get(at) else { return at };
        segments.push(token.text.clone());
        at += 1;
        if is(at, ":") && is(at + 1, ":") && tokens.get(at + 2).is_some_and(|t| continues_path(&t.text)) {
            at += 2;
        } else {
            found.push(segments);
            return at;
        }
    }
}

fn continues_path(text: &str) -> bool {
    text.starts_with(is_word) || text == "{" || text == "*"
}

/// The module a file is, from its crate's `src`: `src/audit/mod.rs` is `[audit]`, `src/bin/x.rs` is `[bin, x]`.
pub(crate) fn module_of(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut names: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|last| last == "mod") || names == ["lib"] {
        names.pop();
    }
    names
}

/// The files that `mod` declarations reach from the roots; true for those that only tests reach.
pub(crate) fn reached(roots: &[String], files: &[File]) -> BTreeMap<String, bool> {
    let texts: BTreeMap<&str, &str> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let mut reached: BTreeMap<String, bool> = BTreeMap::new();
    let mut open: Vec<(String, bool)> =
        roots.iter().map(|root| (root.clone(), root.starts_with("tests/"))).collect();
    while let Some((path, only_tests)) = open.pop() {
        let Some(text) = texts.get(path.as_str()) else { continue };
        // Seen from production code and from tests is seen from production code.
        if reached.get(&path).is_some_and(|known| !*known || only_tests) {
            continue;
        }
        let is_root = roots.contains(&path);
        let all = tokens(text);
        let in_production = declared(&production(&all));
        for module in declared(&all) {
            let tests = only_tests || !in_production.contains(&module);
            let folder = folder_of_children(&path, is_root);
            let base = [vec![folder], module].concat().join("/");
            for child in [format!("{base}.rs"), format!("{base}/mod.rs")] {
                if texts.contains_key(child.as_str()) {
                    open.push((child, tests));
                }
            }
        }
        reached.insert(path, only_tests);
    }
    reached
}

fn folder_of_children(path: &str, is_root: bool) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name.trim_end_matches(".rs") {
        _ if is_root => folder.to_owned(),
        "mod" => folder.to_owned(),
        stem => format!("{folder}/{stem}"),
    }
}

/// The `mod name;` of a file, each with the inline modules around it.
fn declared(tokens: &[Token]) -> BTreeSet<Vec<String>> {
    let (mut found, mut inline, mut depth) = (BTreeSet::new(), Vec::<(String, usize)>::new(), 0);
    for (i, token) in tokens.iter().enumerate() {
        let next = |n: usize| tokens.get(i + n).map_or("", |t| t.text.as_str());
        match token.text.as_str() {
            "mod" if next(2) == "{" => inline.push((next(1).to_owned(), depth)),
            "mod" if next(2) == ";" => {
                let around = inline.iter().map(|(name, _)| name.clone());
                found.insert(around.chain([next(1).to_owned()]).collect());
            }
            "{" => depth += 1,
            "}" => {
                depth = usize::saturating_sub(depth, 1);
                inline.retain(|(_, opened)| *opened < depth);
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        tokens(text).iter().map(|t| t.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_strings_and_characters_are_no_tokens() {
        let text = r####"a // std::fs
            /* x /* y */ std::env */ b "std::fs \" tokio" c r#"tokio " x"# d '"' e '\'' f 'g h b"i" r#type"####;
        assert_eq!(words(text), "a b c d e f g h b type");
        assert_eq!(tokens("a\n/*\n*/ \"\n\" b").last().unwrap().line, 4);
    }

    #[track_caller]
    fn check_paths(text: &str, expected: &[&str]) {
        let found: Vec<String> = mentions(&tokens(text))
            .iter()
            .filter(|m| m.segments.len() > 1)
            .map(|m| m.segments.join("::"))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn use_trees_are_taken_apart() {
        check_paths(
            "use std::{fs, io::{self, Read as R}, path::*}; fn f() -> crate::audit::Level { std::fs::read::<X>(x) }",
            &[
                "std::fs",
                "std::io::self",
                "std::io::Read",
                "std::path::*",
                "crate::audit::Level",
                "std::fs::read",
            ],
        );
    }

    #[test]
    fn an_inline_module_is_known_only_inside() {
        let found = mentions(&tokens("mod a { mod b { x::y } p::q } r::s"));
        let of = |first: &str| found.iter().find(|m| m.segments[0] == first).unwrap().inline.join("/");
        assert_eq!((of("x"), of("p"), of("r")), ("a/b".into(), "a".into(), String::new()));
    }

    #[test]
    fn items_under_cfg_test_are_left_out() {
        let text = "a; #[cfg(test)] #[allow(x)] mod tests { b; } c; #[cfg(test)] mod t; d; #[cfg(test)] use x::{y}; e";
        let kept = production(&tokens(text)).iter().map(|t| t.text.clone()).collect::<String>();
        assert_eq!(kept, "a;c;d;;e");
    }

    #[test]
    fn modules_are_followed_through_files_folders_and_inline_modules() {
        let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let files = [
            file("src/lib.rs", "mod a; mod b; mod c { mod d; }"),
            file("src/a.rs", "mod x; #[cfg(test)] mod tests;"),
            file("src/a/x.rs", ""),
            file("src/a/tests.rs", "mod deep;"),
            file("src/a/tests/deep.rs", ""),
            file("src/b/mod.rs", "// mod lost;"),
            file("src/b/lost.rs", ""),
            file("src/c/d.rs", ""),
        ];
        let found = reached(&["src/lib.rs".to_owned()], &files);
        let of =
            |tests: bool| found.iter().filter(|f| *f.1 == tests).map(|f| f.0.as_str()).collect::<Vec<_>>();
        assert_eq!(of(false), ["src/a.rs", "src/a/x.rs", "src/b/mod.rs", "src/c/d.rs", "src/lib.rs"]);
        assert_eq!(of(true), ["src/a/tests.rs", "src/a/tests/deep.rs"]);
    }
}
