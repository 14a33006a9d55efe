//! What `kubectl apply` refuses and warns of is what `kubectl audit validate` says without a cluster: the files of
//! `tests/data/admission`. The end-to-end tests give the same files to a real API server.
//!
//! Each begins with what is expected, a line each: `# error PATH: TEXT` or `# warning PATH: TEXT`; none for a good one.

use audit_operator::audit::{ServerVersion, Severity};
use audit_operator::cli::configuration::render;

use crate::source::root;

/// The oldest that the chart takes: what any server would refuse is refused for this one.
fn oldest_server() -> ServerVersion {
    "v1.30.0".parse().unwrap()
}

/// (name, text) of every file.
fn cases() -> Vec<(String, String)> {
    let folder = root().join("tests/data/admission");
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let read =
        |path: std::path::PathBuf| (path.display().to_string(), std::fs::read_to_string(&path).unwrap());
    let cases: Vec<_> = files.map(read).collect();
    assert!(cases.len() > 30, "only {} cases", cases.len());
    cases
}

/// The paths that a case expects under a word.
fn expected<'t>(text: &'t str, word: &str) -> Vec<&'t str> {
    let lines = text.lines().take_while(|line| line.starts_with("# "));
    let said = lines.filter_map(|line| line.strip_prefix("# ")?.strip_prefix(word)?.strip_prefix(' '));
    said.map(|said| said.split(": ").next().unwrap()).collect()
}

#[test]
fn what_the_api_server_refuses_is_refused_without_one() {
    for (name, text) in cases() {
        let (rendered, findings) = render(text.as_bytes(), oldest_server());
        let (errors, warnings) = (expected(&text, "error"), expected(&text, "warning"));
        assert_eq!(
            rendered.is_none(),
            !errors.is_empty() || name.contains("every-group"),
            "{name}: {findings:#?}"
        );
        for path in errors {
            // CEL reports a rule over two fields at the object that has both.
            let is_there = findings.iter().any(|finding| {
                finding.severity() == Severity::Error
                    && (finding.path.starts_with(path) || path.starts_with(&finding.path))
            });
            assert!(is_there, "{name}: nothing at {path}: {findings:#?}");
        }
        assert_eq!(findings.is_empty(), !text.starts_with("# "), "{name}: {findings:#?}");
        assert!(warnings.is_empty() || !findings.is_empty(), "{name}: no warning");
    }
}
