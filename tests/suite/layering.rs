//! Arrows between modules point one way, and pure modules stay pure (design: effects at the edge, decisions are
//! functions of facts and `now`).
//!
//! The guard reads the paths that production code mentions. What it cannot see (a method on a value that came from
//! elsewhere), clippy.toml's disallowed methods do.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{self, File, Mention};

/// The modules at the top of `src`, lowest first: each may use those below it, and those beside it without a circle.
const LAYERS: &[&[&str]] = &[
    &["audit", "manifest"],
    &["revision"],
    &["rollout", "install", "condition", "trail"],
    &["api"],
    &["cluster", "host", "telemetry"],
    &["controller", "agent", "installer", "cli"],
    &["bin"],
];

/// Arrows that no layer forbids, with the reason why there is none.
const NEVER: &[(&str, &str, &str)] = &[
    ("controller", "agent", "they meet in `api`"),
    ("agent", "controller", "they meet in `api`"),
    ("agent", "installer", "they meet in the order and the journal, `install`"),
    ("installer", "agent", "they meet in the order and the journal, `install`"),
    ("installer", "controller", "the installer has no API server"),
    ("installer", "cluster", "the installer has no API server"),
];

/// Modules that do no I/O and read no clock.
const PURE: &[&str] = &["audit", "manifest", "revision", "install", "rollout", "condition", "trail", "api"];

/// The edge of a pure module: the files that touch the disk and start threads.
const EDGES: &[&str] = &["src/trail/follow.rs", "src/trail/scan.rs", "src/trail/source.rs"];

/// What a pure module does not name, with the reason.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "it reads and writes no files"),
    ("std::env", "it reads no environment"),
    ("std::process", "it starts and ends no processes"),
    ("std::net", "it opens no connections"),
    ("std::thread", "it starts no threads and does not wait"),
    ("std::time::SystemTime", "`now` is a parameter"),
    ("std::time::Instant", "`now` is a parameter"),
    ("rustix", "it makes no system calls"),
    ("tokio", "it does not wait"),
    ("kube::Api", "it talks to no API server"),
    ("kube::Client", "it talks to no API server"),
    ("kube::Config", "it talks to no API server"),
    ("kube::api::Api", "it talks to no API server"),
    ("kube::client", "it talks to no API server"),
    ("kube::config", "it talks to no API server"),
    ("kube::runtime", "it talks to no API server"),
];

/// Which pure modules may name the API server's types: the API's own for both, conditions for `metav1.Condition`.
const TYPES: &[(&str, &[&str])] = &[("kube", &["api"]), ("k8s_openapi", &["api", "condition"])];

#[test]
fn arrows_point_one_way_and_pure_modules_stay_pure() {
    let files = source::files();
    let reached = source::reached(&source::crate_roots(), &files);
    let production: Vec<File> =
        files.into_iter().filter(|(p, _)| p.starts_with("src/") && reached.get(p) == Some(&false)).collect();
    let found = violations(&production);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

/// Every arrow that points back and every impure name, in the production code of these files.
fn violations(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    let mut beside: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in files {
        let module = source::module_of(path);
        let Some(top) = module.first() else { continue }; // lib.rs only declares
        if layer(top).is_none() {
            found.push(format!(
                "{path}: `{top}` has no place in LAYERS (tests/suite/layering.rs); give it one"
            ));
            continue;
        }
        let pure = PURE.contains(&top.as_str()) && !EDGES.iter().any(|edge| path == edge);
        for mention in source::mentions(&source::production(&source::tokens(text))) {
            let at = format!("{path}:{}: `{}`", mention.line, mention.segments.join("::"));
            if let Some(target) = target(&module, &mention).filter(|target| target != top) {
                match arrow(top, &target) {
                    Err(why) => found.push(format!("{at}: {why}")),
                    Ok(true) => drop(beside.entry(top.clone()).or_default().insert(target)),
                    Ok(false) => {}
                }
            }
            if pure && let Some(why) = impure(top, &mention.segments) {
                found.push(format!("{at}: `{top}` is pure, {why}"));
            }
        }
    }
    found.extend(circle(beside));
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Whether the arrow is beside (same layer), or why it must not be.
fn arrow(from: &str, to: &str) -> Result<bool, String> {
    if let Some((.., why)) = NEVER.iter().find(|(f, t, _)| (*f, *t) == (from, to)) {
        return Err(format!("`{from}` never uses `{to}`: {why}"));
    }
    match (layer(from), layer(to)) {
        (_, None) => Err(format!("`{to}` has no place in LAYERS (tests/suite/layering.rs); give it one")),
        (from_layer, to_layer) if from_layer < to_layer => {
            Err(format!("`{from}` is below `{to}`; the arrow points back"))
        }
        (from_layer, to_layer) => Ok(from_layer == to_layer),
    }
}

/// The module at the top of `src` that a path in `module` leads to, if it leads into this crate.
fn target(module: &[String], mention: &Mention) -> Option<String> {
    let mut segments = mention.segments.as_slice();
    let here = [module, mention.inline.as_slice()].concat();
    match segments.first()?.as_str() {
        "crate" | "audit_operator" => segments.get(1).cloned(),
        "self" | "super" => {
            let mut base = here.len();
            while let Some(word @ ("self" | "super")) = segments.first().map(String::as_str) {
                base = base.checked_sub(usize::from(word == "super"))?;
                segments = &segments[1..];
            }
            here[..base].iter().chain(segments).next().cloned()
        }
        _ => None,
    }
}

fn impure(top: &str, segments: &[String]) -> Option<String> {
    let written = segments.join("::");
    let names = |prefix: &str| written == prefix || written.starts_with(&format!("{prefix}::"));
    if let Some((_, why)) = IMPURE.iter().find(|(prefix, _)| names(prefix)) {
        return Some((*why).to_owned());
    }
    let (_, allowed) = TYPES.iter().find(|(prefix, allowed)| names(prefix) && !allowed.contains(&top))?;
    Some(format!("it knows no types of the API server; only {allowed:?} do"))
}

/// A circle among modules of one layer: what is left when those that lead nowhere are taken away again and again.
fn circle(mut arrows: BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    loop {
        let open: BTreeSet<String> = arrows.keys().cloned().collect();
        arrows.values_mut().for_each(|to| to.retain(|module| open.contains(module)));
        let before = arrows.len();
        arrows.retain(|_, to| !to.is_empty());
        if arrows.is_empty() {
            return None;
        }
        if arrows.len() == before {
            return Some(format!("modules of one layer use each other in a circle: {arrows:?}"));
        }
    }
}

mod planted {
    //! What the guard must find, and what it must leave alone.

    use super::*;

    /// The violations in one file, each cut to what follows the path and line.
    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        check_all(&[(path, text)], expected);
    }

    #[track_caller]
    fn check_all(files: &[(&str, &str)], expected: &[&str]) {
        let files: Vec<File> = files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
        let found = violations(&files);
        assert_eq!(found.len(), expected.len(), "found {found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "`{found}` does not say `{expected}`");
        }
    }

    #[test]
    fn an_arrow_down_is_fine() {
        check("src/api/mod.rs", "use crate::{audit::Level, revision};", &[]);
        check("src/bin/kubectl-audit.rs", "use audit_operator::cli;", &[]);
        check("src/rollout/mod.rs", "use crate::condition::Reason; use super::install::Outcome;", &[]);
    }

    #[test]
    fn an_arrow_back_is_found_however_it_is_written() {
        check(
            "src/audit/mod.rs",
            "use crate::{manifest, api::node};",
            &["src/audit/mod.rs:1: `crate::api::node`"],
        );
        check("src/revision.rs", "fn f() { super::host::write() }", &["points back"]);
        check("src/host/file.rs", "\n\nuse super::super::agent::x;", &["src/host/file.rs:3"]);
        check("src/revision.rs", "mod a { fn f() { super::super::cli::x() } }", &["points back"]);
    }

    #[test]
    fn neighbours_may_not_form_a_circle() {
        let install = ("src/install/mod.rs", "use crate::condition;");
        check_all(&[install, ("src/condition.rs", "use crate::trail::x;"), ("src/trail/mod.rs", "")], &[]);
        check_all(&[install, ("src/condition.rs", "use crate::install::x;")], &["in a circle"]);
    }

    #[test]
    fn the_processes_do_not_import_each_other() {
        check("src/controller/mod.rs", "use crate::agent::x;", &["`controller` never uses `agent`"]);
        check("src/agent/mod.rs", "use crate::controller::x;", &["never"]);
        check("src/installer/mod.rs", "use crate::{host, cluster};", &["has no API server"]);
    }

    #[test]
    fn a_module_without_a_layer_is_found() {
        check("src/clock.rs", "", &["`clock` has no place"]);
        check("src/cli/who.rs", "use crate::clock::now;", &["`clock` has no place"]);
    }

    #[test]
    fn impure_names_are_found_in_pure_modules_only() {
        check(
            "src/rollout/mod.rs",
            "use std::{fmt, fs, time::{Duration, SystemTime}};",
            &["no files", "`now`"],
        );
        check(
            "src/install/next.rs",
            "fn f() { std::env::var(x); tokio::spawn(y) }",
            &["environment", "does not wait"],
        );
        check("src/trail/query.rs", "use std::fs::File;", &["no files"]);
        check("src/trail/source.rs", "use std::fs::File;", &[]);
        check("src/host/file.rs", "use std::fs::File;", &[]);
    }

    #[test]
    fn the_api_has_kubes_derive_and_no_client() {
        check("src/api/node.rs", "use kube::CustomResource; use k8s_openapi::api::core::v1::Secret;", &[]);
        check("src/api/node.rs", "use kube::{Client, CustomResource};", &["no API server"]);
        check("src/audit/policy.rs", "use kube::CustomResource;", &["only [\"api\"] do"]);
        check("src/condition.rs", "use k8s_openapi::apimachinery::x;", &[]);
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        check("src/audit/mod.rs", "//! std::fs and crate::api\nconst A: &str = \"tokio::spawn\";", &[]);
        check("src/audit/mod.rs", "#[cfg(test)]\nmod tests { use std::fs; use crate::api; }", &[]);
    }
}
