//! What is refused: by which name, at which line, and that there is no text then.

use super::*;

#[track_caller]
fn check(text: &str, expected: &[(&str, Option<usize>)]) {
    check_with(text, &article(), Existing::Refuse, expected);
}

#[track_caller]
fn check_with(text: &str, settings: &Settings, existing: Existing, expected: &[(&str, Option<usize>)]) {
    let refusals = patch(text, settings, existing).expect_err(text);
    let found: Vec<_> = refusals.0.iter().map(|refusal| (refusal.code, refusal.line)).collect();
    assert_eq!(found, expected, "{refusals}\n{text}");
}

/// `SMALL` with other elements in its command, from line 8 on.
fn command(elements: &str) -> String {
    SMALL.replace("    - kube-apiserver\n    - --secure-port=6443\n", elements)
}

/// `SMALL` with mounts from line 12 on, and volumes behind them.
fn mounts(mounts: &str, volumes: &str) -> String {
    format!("{SMALL}    volumeMounts:\n{mounts}  volumes:\n{volumes}")
}

#[test]
fn bytes_the_kubelet_would_not_read() {
    let code = |bytes: &[u8]| {
        let refusal = decode(bytes).expect_err("refused").0.remove(0);
        (refusal.code, refusal.line)
    };
    assert_eq!(code(b""), ("empty", None));
    assert_eq!(code(b" \n\t\n"), ("empty", None));
    assert_eq!(code(b"a: b\nc: \xff\n"), ("not-utf8", Some(2)));
    assert_eq!(code(b"a: b\n\0"), ("nul-byte", Some(2)));
    assert_eq!(code(&vec![b'#'; (10 << 20) + 1]), ("too-long", None));
    assert!(decode(&vec![b'#'; 10 << 20]).is_ok());
    assert_eq!(decode(KUBEADM.as_bytes()), Ok(KUBEADM));
}

#[test]
fn text_that_is_no_manifest() {
    check("# nothing\n", &[("empty", None)]);
    check("a: [", &[("broken-yaml", Some(1))]);
    check("- a\n", &[("not-a-pod", Some(1))]);
    check(&SMALL.replace("kind: Pod", "kind: Deployment"), &[("not-a-pod", Some(1))]);
    check(&SMALL.replace("apiVersion: v1", "apiVersion: v2"), &[("not-a-pod", Some(1))]);
    check(&SMALL.replace("  name: kube-apiserver\nspec", "  labels: {}\nspec"), &[("not-a-pod", Some(3))]);
    check("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n", &[("not-a-pod", Some(4))]);
    check("apiVersion: v1\nkind: Pod\nspec: {}\n", &[("not-a-pod", Some(1))]);
    check(&format!("{SMALL}---\nkind: Pod\n"), &[("second-document", Some(12))]);
    check(&format!("---\n---\n{SMALL}"), &[("second-document", Some(3))]);
    check(&"[".repeat(100_000), &[("broken-yaml", Some(1))]);
}

#[test]
fn text_that_readers_differ_on() {
    check(&format!("\u{feff}{SMALL}"), &[("byte-order-mark", Some(1))]);
    check(&SMALL.replace("    name: kube", "\tname: kube"), &[("tab", Some(10))]);
    check(&SMALL.replace("kind: Pod\n", "kind: Pod\r"), &[("line-break", Some(2))]);
    check(&SMALL.replace("secure-port=6443", "a=b\u{2028}c"), &[("line-break", Some(9))]);
    check(
        &format!("{SMALL}    name: twice\nkind: Pod\n"),
        &[("duplicate-key", Some(11)), ("duplicate-key", Some(12))],
    );
    check(&SMALL.replace("6443", "{{ port }}"), &[("template", Some(9))]);
    assert!(patch(&format!("# {{{{ }}}}\n{SMALL}"), &article(), Existing::Refuse).is_ok(), "only a comment");
}

#[test]
fn indirection_in_the_parts_to_edit() {
    check(&SMALL.replace("command:", "command: &c"), &[("anchor", Some(8))]);
    check(
        &SMALL.replace("    - --secure-port=6443", "    - !!str --secure-port=6443"),
        &[("anchor", Some(9))],
    );
    check(&SMALL.replace("metadata:\n", "metadata: &m\n"), &[("anchor", Some(4))]);
    let merged = SMALL.replace("    name: kube", "    <<: {image: x}\n    name: kube");
    check(&merged, &[("anchor", Some(10))]);
    let alias = SMALL.replace("apiVersion", "x: &v []\napiVersion") + "    volumeMounts: *v\n  volumes: *v\n";
    check(&alias, &[("anchor", Some(12)), ("anchor", Some(13))]);
    let elsewhere = SMALL.replace("spec:\n", "spec:\n  a: &a {b: c}\n  d: *a\n");
    assert!(patch(&elsewhere, &article(), Existing::Refuse).is_ok(), "not in the way");
}

#[test]
fn containers_that_are_not_kube_apiserver_or_not_the_only_one() {
    check(&SMALL.replace("kube-apiserver\n", "etcd\n"), &[("no-apiserver", Some(6))]);
    let second = format!("{SMALL}  - name: other\n    command: [/usr/bin/kube-apiserver]\n");
    check(&second, &[("two-candidates", Some(7)), ("two-candidates", Some(11))]);
    let mentions = format!(
        "{SMALL}  - name: other\n    command: [tail, --dir=/var/log/kube-apiserver, kube-apiserver-x]\n"
    );
    assert!(patch(&mentions, &article(), Existing::Refuse).is_ok(), "only mentions it");
    let init = format!(
        "{SMALL}  initContainers:\n  - name: kube-apiserver\n    command: [kube-apiserver, --help]\n"
    );
    assert!(patch(&init, &article(), Existing::Refuse).is_ok(), "is not the server");
}

#[test]
fn command_lines_that_are_not_understood() {
    check(
        &command("    - /bin/sh\n    - -c\n    - exec kube-apiserver --v=2\n"),
        &[("shell-command", Some(8))],
    );
    check(&command("    - busybox\n    - sh\n    - kube-apiserver\n"), &[("shell-command", Some(8))]);
    check(&command("    - kube-apiserver --v=2\n"), &[("no-binary", Some(7))]);
    check(&SMALL.replace("command", "commands"), &[("no-binary", Some(7))]);
    check(
        &command("    - kube-apiserver\n    - 6443\n    - true\n"),
        &[("not-a-string", Some(9)), ("not-a-string", Some(10))],
    );
    check(&command("    - kube-apiserver\n    - - a\n"), &[("not-a-string", Some(9))]);
    check(&command("    - kube-apiserver\n    - --v=2\n    - stray\n"), &[("stray-argument", Some(10))]);
    check(
        &command("    - kube-apiserver\n    - --\n    - $(FLAGS)\n"),
        &[("stray-argument", Some(9)), ("stray-argument", Some(10))],
    );
    check(
        &command("    - kube-apiserver\n    - --audit-log-compress\n    - \"false\"\n"),
        &[("stray-argument", Some(10))],
    );
    check(&command("    - kube-apiserver\n    - -audit-log-path=/x\n"), &[("single-dash-flag", Some(9))]);
    check(
        &command("    - kube-apiserver\n    - --audit-log-path\n    - --v=2\n"),
        &[("flag-without-value", Some(9))],
    );
    check(&command("    - kube-apiserver\n    - --audit-log-path\n"), &[("flag-without-value", Some(9))]);
    check(&command("    - kube-apiserver\n    - --audit-log-path=$(LOG)\n"), &[("env-reference", Some(9))]);
    check(
        &command("    - kube-apiserver\n    - --audit-log-path\n    - $(LOG)\n    - -audit-x\n"),
        &[("env-reference", Some(9)), ("stray-argument", Some(10)), ("single-dash-flag", Some(11))],
    );
    check(
        &SMALL.replace(
            "command:\n    - kube-apiserver\n    - --secure-port=6443\n",
            "command: kube-apiserver\n",
        ),
        &[("unexpected-type", Some(7))],
    );
}

#[test]
fn keys_that_are_there_without_a_value() {
    check(&SMALL.replace("metadata:\n", "metadata:\n  annotations:\n"), &[("null-value", Some(4))]);
    check(&format!("{SMALL}  volumes: null\n"), &[("null-value", Some(11))]);
    check(&format!("{SMALL}    volumeMounts:\n    # none\n"), &[("null-value", Some(11))]);
}

#[test]
fn foreign_flags_are_named_each_with_its_line() {
    let text = command(
        "    - kube-apiserver\n    - --audit-log-maxage=1\n    - --audit_log_path=/var/log/x\n    - --audit-log-mode=batch\n",
    );
    check(&text, &[("foreign-audit-flag", Some(10)), ("foreign-audit-flag", Some(11))]);
    let refusals = patch(&text, &article(), Existing::Refuse).unwrap_err().to_string();
    for part in [
        "line 10: `--audit-log-path` is set to `/var/log/x`",
        "`/var/log/kube-apiserver-audit/audit.log` is wanted",
        "\nline 11: `--audit-log-mode` is set to `batch`",
        "not wanted",
    ] {
        assert!(refusals.contains(part), "{part} in {refusals}");
    }
    assert!(patch(&text, &article(), Existing::TakeOver).is_ok());
    // That the name of their volume is taken would be no news: a take-over solves it.
    let theirs = text.replace("--audit_log_path=/var/log/x", "--audit_log_path=/srv/x")
        + "    volumeMounts:
    - {name: audit-log, mountPath: /srv}
  volumes:
  - {name: audit-log, hostPath: {path: /srv}}
";
    check(&theirs, &[("foreign-audit-flag", Some(10)), ("foreign-audit-flag", Some(11))]);
    assert!(patch(&theirs, &article(), Existing::TakeOver).is_ok());
    let ours = text.replace("metadata:\n", "metadata:\n  annotations: {audit-operator.dev/revision: x}\n");
    assert!(patch(&ours, &article(), Existing::Refuse).is_ok());
}

#[test]
fn names_and_paths_that_are_taken() {
    for existing in [Existing::Refuse, Existing::TakeOver] {
        let text = mounts(
            "    - {name: audit-log, mountPath: /pki}\n",
            "  - {name: audit-log, hostPath: {path: /pki}}\n",
        );
        check_with(&text, &article(), existing, &[("volume-name-taken", Some(14))]);
        let text = format!("{SMALL}  volumes:\n  - {{name: audit-policy, emptyDir: {{}}}}\n");
        check_with(&text, &article(), existing, &[("volume-name-taken", Some(12))]);
        let text = mounts(
            "    - {name: logs, mountPath: /var/log/kube-apiserver-audit/}\n",
            "  - {name: logs, hostPath: {path: /var/log/elsewhere}}\n",
        );
        check_with(&text, &article(), existing, &[("mount-path-taken", Some(12))]);
        // One argument would lose its file, one mount would hide ours.
        let text = command("    - kube-apiserver\n    - --log-file=/var/log/kube-apiserver-audit/x.log\n");
        check_with(&text, &article(), existing, &[("mount-path-taken", Some(9))]);
        let text = mounts(
            "    - {name: file, mountPath: /var/log/kube-apiserver-audit/audit.log}\n",
            "  - {name: file, hostPath: {path: /x}}\n",
        );
        check_with(&text, &article(), existing, &[("mount-path-taken", Some(12))]);
    }
}

#[test]
fn our_volume_that_another_container_mounts_is_not_moved() {
    let patched = patch(KUBEADM, &versioned("aa11"), Existing::Refuse).unwrap();
    let shipper =
        "  - name: shipper\n    volumeMounts:\n    - {name: audit-log, mountPath: /logs}\n  hostNetwork";
    let shared = patched.replace("  hostNetwork", shipper);
    let mut settings = versioned("aa11");
    settings.flags[1].value = "/var/log/other/audit.log".to_owned();
    settings.mounts[1] = mount("audit-log", "/var/log/other", PathType::DirectoryOrCreate, false);
    let line = shared.lines().position(|line| line == "      path: /var/log/kubernetes/audit").unwrap();
    check_with(&shared, &settings, Existing::Refuse, &[("volume-name-taken", Some(line))]);
}

#[test]
fn a_volume_that_serves_another_wanted_mount_keeps_its_name() {
    // Its owner gave the mount of our policy the name that we want for the log.
    let patched = patch(SMALL, &versioned("aa11"), Existing::Refuse).unwrap();
    let renamed = patched
        .replace("name: audit-log\n", "name: x\n")
        .replace("name: audit-policy\n", "name: audit-log\n");
    let mut settings = versioned("aa11");
    settings.flags[1].value = "/var/log/other/audit.log".to_owned();
    settings.mounts[1] = mount("audit-log", "/var/log/other", PathType::DirectoryOrCreate, false);
    let line = renamed
        .lines()
        .position(|line| line == "      path: /etc/kubernetes/audit/policy-aa11.yaml")
        .unwrap();
    check_with(&renamed, &settings, Existing::Refuse, &[("volume-name-taken", Some(line))]);
}

#[test]
fn mounts_that_could_not_be_written_or_are_of_another_kind() {
    for (access, kind) in [(", readOnly: true", "Directory"), ("", "File")] {
        let text = mounts(
            &format!("    - {{name: logs, mountPath: /var/log/kube-apiserver-audit{access}}}\n"),
            &format!("  - {{name: logs, hostPath: {{path: /var/log/kube-apiserver-audit, type: {kind}}}}}\n"),
        );
        check(&text, &[("mount-differs", Some(12))]);
    }
}

#[test]
fn pods_that_the_kubelet_refuses() {
    let text = mounts(
        "    - {name: a, mountPath: /a}\n    - {name: b, mountPath: /a}\n",
        "  - {name: a, emptyDir: {}}\n",
    );
    check(&text, &[("duplicate-mount", Some(13))]);
    check(&format!("{SMALL}  volumes:\n  - name: a\n  - name: a\n"), &[("duplicate-volume", Some(13))]);
    check(&format!("{SMALL}  volumes:\n  - hostPath: {{path: /a}}\n"), &[("unexpected-type", Some(12))]);
    check(
        &format!("{SMALL}    volumeMounts:\n    - name: a\n      mountPath: {{X}}\n"),
        &[("unexpected-type", Some(12))],
    );
}

#[test]
fn settings_that_could_not_be_taken_out_again() {
    let faults = |change: fn(&mut Settings)| {
        let mut settings = article();
        change(&mut settings);
        let refusals = patch(SMALL, &settings, Existing::Refuse).expect_err("refused").0;
        assert!(refusals.iter().all(|refusal| refusal.code == "settings"), "{refusals:?}");
        refusals.len()
    };
    assert_eq!(faults(|s| s.revision = String::new()), 1);
    assert_eq!(faults(|s| s.flags[0].name = "profiling".to_owned()), 1);
    assert_eq!(faults(|s| s.flags[0].value = "1\n- --x".to_owned()), 1);
    assert_eq!(faults(|s| s.flags[0].value = "$(AGE)".to_owned()), 1);
    assert_eq!(faults(|s| s.flags[1].name = s.flags[0].name.clone()), 1);
    assert_eq!(faults(|s| s.mounts[1].name = s.mounts[0].name.clone()), 1);
    assert_eq!(faults(|s| s.mounts[0].host_path = "relative".to_owned()), 1);
    assert_eq!(faults(|s| s.mounts[0].host_path = "/var/../etc".to_owned()), 1);
    assert_eq!(faults(|s| drop(s.mounts.pop())), 1);
    assert_eq!(faults(|s| s.mounts[0].mount_path = "/var/log".to_owned()), 2);
}

#[test]
fn edits_that_would_lose_a_comment_or_a_neighbour() {
    let flow = SMALL.replace(
        "command:\n    - kube-apiserver\n    - --secure-port=6443\n",
        "command: [kube-apiserver, # why\n      --audit-log-mode=batch, --v=2]\n",
    );
    check_with(&flow, &article(), Existing::TakeOver, &[("cannot-edit", Some(7))]);
    let folded = command("    - kube-apiserver\n    - >-\n      --audit-log-maxage=7\n");
    check_with(&folded, &article(), Existing::TakeOver, &[("cannot-edit", Some(10))]);
    let first = "apiVersion: v1
kind: Pod
metadata: {name: a, annotations: {audit-operator.dev/revision: x}}
spec:
  containers:
  - args:
    - --audit-log-maxage=7
    command: [kube-apiserver]
";
    assert_eq!(unpatch(first).unwrap_err().0[0].code, "cannot-edit");
}
