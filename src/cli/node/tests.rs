//! The engine on files below a root, from plan to restore, and everything that must leave the node as it was.
#![expect(clippy::disallowed_methods, reason = "these tests work on real files")]

use std::fs;
use std::path::PathBuf;

use super::*;

const MANIFEST: &str = include_str!("../../../tests/data/manifests/kubeadm-1.37.2.yaml");
const CONFIGURATION: &str = "apiVersion: audit-operator.dev/v1alpha1\nkind: AuditConfiguration\n\
                             metadata: {name: default}\nspec:\n  policy: {profile: Metadata}\n";

/// A node's files, and an AuditConfiguration beside them.
struct Node {
    root: tempfile::TempDir,
    config: tempfile::NamedTempFile,
}

/// What a verb did.
struct Done {
    code: Result<u8, String>,
    out: String,
    err: String,
}

impl Node {
    fn new() -> Self {
        let node =
            Self { root: tempfile::tempdir().unwrap(), config: tempfile::NamedTempFile::new().unwrap() };
        fs::create_dir_all(node.manifest().parent().unwrap()).unwrap();
        fs::write(node.manifest(), MANIFEST).unwrap();
        node.configure(CONFIGURATION);
        node
    }

    fn configure(&self, text: &str) {
        fs::write(self.config.path(), text).unwrap();
    }

    fn manifest(&self) -> PathBuf {
        self.at(host::MANIFEST)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn place(&self, output: Format) -> Place {
        let root = self.root.path().display().to_string();
        Place { root, manifest: host::MANIFEST.to_owned(), node_name: None, output }
    }

    fn with_config(&self, output: Format) -> WithConfig {
        WithConfig { config: self.config.path().display().to_string(), place: self.place(output) }
    }

    fn run(&self, verb: &Verb) -> Done {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut streams = Streams { input: &mut &b""[..], out: &mut out, err: &mut err, color: false };
        let code = runtime.block_on(run(verb, &mut streams)).map_err(|error| format!("{error:#}"));
        Done { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
    }

    fn apply(&self) -> Done {
        self.run(&Verb::Apply { rehearsal: None, with: self.with_config(Format::Text) })
    }

    /// Every file below the root with its content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut folders = vec![self.root.path().to_owned()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push((path.clone(), fs::read(&path).unwrap()));
                }
            }
        }
        files.sort();
        files
    }

    /// The verb fails with a message that holds `part`, and the manifest is what it was.
    #[track_caller]
    fn check_refuses(&self, part: &str) {
        let before = fs::read(self.manifest()).ok();
        let done = self.apply();
        let said = format!("{}{}", done.err, done.code.as_ref().err().cloned().unwrap_or_default());
        assert!(done.code != Ok(OK), "it was done: {}", done.out);
        assert!(said.contains(part), "{said}");
        assert_eq!(fs::read(self.manifest()).ok(), before, "the manifest was changed");
        let names: Vec<_> = fs::read_dir(self.manifest().parent().unwrap())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(names.iter().all(|n| !n.to_string_lossy().starts_with('.')), "left behind: {names:?}");
    }
}

#[test]
fn plan_apply_plan_restore_ends_where_it_began() {
    let node = Node::new();
    let plan = node.run(&Verb::Plan(node.with_config(Format::Text)));
    assert_eq!(plan.code, Ok(crate::cli::CHANGED));
    assert!(plan.out.contains("+    - --audit-log-path=/var/log/kubernetes/audit/audit.log"), "{}", plan.out);
    assert_eq!(fs::read_to_string(node.manifest()).unwrap(), MANIFEST);

    let done = node.apply();
    assert_eq!(done.code, Ok(OK), "{}", done.err);
    assert_eq!(done.out, plan.out);
    assert_eq!(node.run(&Verb::Plan(node.with_config(Format::Text))).code, Ok(OK));
    let backups: Vec<_> = fs::read_dir(node.at("/var/lib/audit-operator/backups")).unwrap().collect();
    assert_eq!(fs::read_to_string(backups[0].as_ref().unwrap().path()).unwrap(), MANIFEST);

    let before = node.files();
    let again = node.apply();
    assert!(again.err.contains("nothing to do"), "{}", again.err);
    assert_eq!(node.files(), before);

    let status = node.run(&Verb::Status(node.place(Format::Json)));
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(
        (status["state"].as_str(), status["kubeAPIServerVersion"].as_str()),
        (Some("Settled"), Some("v1.37.2"))
    );

    let restored = node.run(&Verb::Restore { rehearsal: Try::Auto, place: node.place(Format::Text) });
    assert_eq!(restored.code, Ok(OK), "{}", restored.err);
    assert_eq!(fs::read_to_string(node.manifest()).unwrap(), MANIFEST);
}

#[test]
fn restore_keeps_what_others_changed_since() {
    let node = Node::new();
    node.apply();
    let text = fs::read_to_string(node.manifest()).unwrap();
    fs::write(node.manifest(), text.replace("cpu: 250m", "cpu: 300m")).unwrap();
    assert_eq!(
        node.run(&Verb::Restore { rehearsal: Try::Auto, place: node.place(Format::Text) }).code,
        Ok(OK)
    );
    assert_eq!(fs::read_to_string(node.manifest()).unwrap(), MANIFEST.replace("cpu: 250m", "cpu: 300m"));
}

#[test]
fn a_new_policy_has_a_new_file_and_old_ones_go_with_the_backups_that_need_them() {
    let node = Node::new();
    fs::create_dir_all(node.at("/etc/kubernetes/audit")).unwrap();
    fs::write(node.at("/etc/kubernetes/audit/policy-strict.yaml"), "somebody's").unwrap();
    for age in 1..6 {
        node.configure(&format!("{CONFIGURATION}  log: {{maxAge: {age}}}\n  backups: {{keep: 2}}\n"));
        assert_eq!(node.apply().code, Ok(OK));
    }
    let count = |folder: &str| fs::read_dir(node.at(folder)).unwrap().count();
    assert_eq!(count("/var/lib/audit-operator/backups"), 2);
    // The one that runs, those of the two manifests that could be put back, and somebody's own.
    assert_eq!(count("/etc/kubernetes/audit"), 4);
    assert_eq!(
        node.run(&Verb::Restore { rehearsal: Try::Auto, place: node.place(Format::Text) }).code,
        Ok(OK)
    );
    assert_eq!(fs::read_to_string(node.manifest()).unwrap(), MANIFEST);
}

#[test]
fn json_says_everything_in_one_value() {
    let node = Node::new();
    let value = |done: Done| serde_json::from_str::<serde_json::Value>(&done.out).unwrap();
    let plan = value(node.run(&Verb::Plan(node.with_config(Format::Json))));
    assert_eq!(plan["changed"], true);
    let applied = value(node.run(&Verb::Apply { rehearsal: None, with: node.with_config(Format::Json) }));
    for key in ["revision", "from", "to", "diff"] {
        assert_eq!(plan[key], applied[key], "{key}");
    }
    assert_eq!(applied["state"], "Settled");
}

#[test]
fn a_missing_manifest_is_said() {
    let node = Node::new();
    fs::remove_file(node.manifest()).unwrap();
    node.check_refuses("does not exist: is this a control-plane node");
}

#[test]
fn a_manifest_that_cannot_be_read_is_said() {
    let node = Node::new();
    fs::remove_file(node.manifest()).unwrap();
    // Root may read every file, but nobody a folder as one.
    fs::create_dir(node.manifest()).unwrap();
    node.check_refuses("cannot read");
}

#[test]
fn manifests_that_are_not_understood_are_refused() {
    let node = Node::new();
    for (text, part) in [
        (&b""[..], "empty"),
        (&b"\x7fELF\x02\x01\0\0\xff"[..], "not UTF-8"),
        (&b"apiVersion: v1\nkind: Pod\nspec: [\n"[..], "line"),
        (&b"apiVersion: v1\nkind: ConfigMap\n"[..], "not a Pod"),
    ] {
        fs::write(node.manifest(), text).unwrap();
        node.check_refuses(part);
    }
}

#[test]
fn a_second_manifest_of_the_same_pod_is_refused() {
    let node = Node::new();
    fs::write(node.manifest().with_file_name("kube-apiserver.yaml.bak"), MANIFEST).unwrap();
    node.check_refuses("`kube-apiserver.yaml.bak`");
}

#[test]
fn configurations_that_are_wrong_are_refused_with_every_finding() {
    let node = Node::new();
    let with = |spec: &str| {
        format!("apiVersion: audit-operator.dev/v1alpha1\nkind: AuditConfiguration\nspec:\n{spec}")
    };
    let huge =
        format!("  policy: {{inline: {{rules: [{{level: None, users: [{}]}}]}}}}\n", "x".repeat(2_000_000));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    for (text, parts) in [
        (String::new(), &["no AuditConfiguration"][..]),
        (with("  policy: {}\n"), &["exactly one of"]),
        (with("  policy: {inline: {rules: []}}\n"), &["at least one rule"]),
        (
            with("  polcy: {profile: Metadata}\n"),
            &["line 4, column 10: spec.polcy: unknown field", "spec.policy: is required"],
        ),
        (with("  policy: {profile: Metdata}\n"), &["`Metdata` is not one of Metadata, Recommended"]),
        (with("  policy:\n    profile: Metadata\n    profile: Forensic\n"), &["line 6", "duplicate"]),
        (
            with("  policy: {profile: Metadata}\n  log: {maxSize: 0, maxAge: -1, maxBackups: 99999999999}\n"),
            &[
                "spec.log.maxSize: is 0; at least 1",
                "spec.log.maxAge: is -1; at least 0",
                "spec.log.maxBackups: is 99999999999",
            ],
        ),
        (
            with("  policy: {inline: {rules: [{level: None, users: [yes]}]}}\n"),
            &["users[0]: must be a string"],
        ),
        (
            with("  policy: {inline: {rules: [{level: None, verb: [get]}]}}\n"),
            &["rules[0].verb: unknown field"],
        ),
        (with("  policy: {configMapRef: {namespace: a, name: b, key: c}}\n"), &["give the policy inline"]),
        (
            with("  policy: {profile: Metadata}\n").replace("v1alpha1", "v1"),
            &["must be `audit-operator.dev/v1alpha1`"],
        ),
        (with(&huge), &["1048576"]),
        (with(bomb), &["alias"]),
    ] {
        node.configure(&text);
        for part in parts {
            node.check_refuses(part);
        }
    }
    let missing =
        WithConfig { config: "/nowhere/auditconfig.yaml".to_owned(), place: node.place(Format::Text) };
    let done = node.run(&Verb::Apply { rehearsal: None, with: missing });
    assert!(done.code.unwrap_err().contains("/nowhere/auditconfig.yaml"));
}

#[test]
fn a_config_map_in_the_same_file_is_used() {
    let node = Node::new();
    let policy = "apiVersion: audit.k8s.io/v1\n    kind: Policy\n    rules: [{level: None}]\n";
    node.configure(&format!(
        "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: b, namespace: a}}\ndata:\n  c: |\n    {policy}",
        CONFIGURATION.replace("{profile: Metadata}", "{configMapRef: {namespace: a, name: b, key: c}}")
    ));
    assert_eq!(node.apply().code, Ok(OK));
}

#[test]
fn audit_flags_of_somebody_else_are_named_and_taken_over_only_when_told_to() {
    let node = Node::new();
    let theirs = MANIFEST.replace(
        "    - --allow-privileged=true\n",
        "    - --allow-privileged=true\n    - --audit-log-maxage=7\n",
    );
    fs::write(node.manifest(), &theirs).unwrap();
    node.check_refuses("--audit-log-maxage");
    node.configure(&format!("{CONFIGURATION}  existingFlags: TakeOver\n"));
    assert_eq!(node.apply().code, Ok(OK));
    assert!(!fs::read_to_string(node.manifest()).unwrap().contains("maxage=7"));
    assert_eq!(
        node.run(&Verb::Restore { rehearsal: Try::Auto, place: node.place(Format::Text) }).code,
        Ok(OK)
    );
    assert_eq!(fs::read_to_string(node.manifest()).unwrap(), theirs);
}

#[test]
fn a_manifest_that_changes_between_plan_and_swap_is_refused_and_planned_anew() {
    let node = Node::new();
    let host = node.place(Format::Text).host();
    let done = {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut &b""[..], out: &mut out, err: &mut err, color: false };
        planned(&node.with_config(Format::Text), &mut streams).unwrap().0
    };
    let edited = MANIFEST.replace("cpu: 250m", "cpu: 300m");
    fs::write(node.manifest(), &edited).unwrap();
    let order = done.order(&TERMS, jiff::Timestamp::UNIX_EPOCH);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let journal = runtime
        .block_on(installer::carry_out(&host, &order, &host.lock().unwrap(), &installer::RealForward))
        .unwrap();
    assert_eq!(journal.state.name(), "Refused");
    assert!(journal.state.reason().contains("changed after the plan"), "{}", journal.state.reason());
    assert_eq!(fs::read_to_string(node.manifest()).unwrap(), edited);
    assert_eq!(node.apply().code, Ok(OK));
}

#[test]
fn what_the_configuration_says_of_a_change_is_done_here_too() {
    let node = Node::new();
    let terms = || {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut &b""[..], out: &mut out, err: &mut err, color: false };
        planned(&node.with_config(Format::Text), &mut streams).unwrap().1
    };
    assert_eq!((terms().health_timeout_seconds, terms().rehearsal), (300, Rehearsal::Auto));
    node.configure(&format!("{CONFIGURATION}  rollout: {{healthTimeout: 90s, standIn: Never}}\n"));
    assert_eq!((terms().health_timeout_seconds, terms().rehearsal), (90, Rehearsal::StartOnly));
}

#[test]
fn one_process_at_a_time() {
    let node = Node::new();
    let _held = node.place(Format::Text).host().lock().unwrap();
    node.check_refuses("another process holds");
}
