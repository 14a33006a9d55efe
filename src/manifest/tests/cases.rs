//! Patching and unpatching by hand-made cases: what exactly changes.

use super::*;

/// `text` with audit settings of somebody else.
fn with_foreign_settings(text: &str) -> String {
    text.replace(
        "    - --secure-port=6443\n",
        "    - --secure-port=6443
    - --audit-policy-file=/etc/audit/policy.yaml
    - --audit-log-path=/var/log/foreign/audit.log
",
    ) + "    volumeMounts:
    - mountPath: /etc/audit/policy.yaml
      name: foreign-policy
      readOnly: true
    - mountPath: /var/log/foreign
      name: foreign-log
  volumes:
  - hostPath:
      path: /etc/audit/policy.yaml
      type: File
    name: foreign-policy
  - hostPath:
      path: /var/log/foreign
    name: foreign-log
"
}

#[track_caller]
fn check_change(from: &str, settings: &Settings, existing: Existing, expected: &str) -> String {
    let new = patch(from, settings, existing).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(changed_lines(from, &new), expected);
    assert_eq!(patch(&new, settings, Existing::Refuse).as_ref(), Ok(&new), "not idempotent");
    new
}

/// kubeadm's own output with the article's `extraArgs` and `extraVolumes`, and our annotation in it.
#[test]
fn the_article_gives_what_kubeadm_gives_and_the_annotation() {
    let kubeadm = data!("kubeadm-1.37.2-audit.yaml");
    let annotation = "  annotations:\n    audit-operator.dev/revision: \"5f3e2a\"\n";
    assert_eq!(check_patch(KUBEADM, &article()), kubeadm.replace("  annotations:\n", annotation));
}

#[test]
fn settings_go_behind_those_the_administrator_gave_kubeadm() {
    let kubeadm = data!("kubeadm-1.37.2-extra-audit.yaml");
    let annotation = "  annotations:\n    audit-operator.dev/revision: \"5f3e2a\"\n";
    let new = check_patch(data!("kubeadm-1.37.2-extra.yaml"), &article());
    assert_eq!(new, kubeadm.replace("  annotations:\n", annotation));
}

#[test]
fn what_kubeadm_wrote_for_the_same_settings_is_adopted() {
    let added = "+    audit-operator.dev/revision: \"5f3e2a\"\n";
    check_change(data!("kubeadm-1.37.2-audit.yaml"), &article(), Existing::Refuse, added);
}

#[test]
fn missing_keys_are_made_at_their_sorted_place() {
    let new = check_patch(SMALL, &article());
    assert_eq!(
        new,
        r#"apiVersion: v1
kind: Pod
metadata:
  annotations:
    audit-operator.dev/revision: "5f3e2a"
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --secure-port=6443
    - --audit-log-maxage=1
    - --audit-log-maxbackup=2
    - --audit-log-maxsize=2
    - --audit-log-path=/var/log/kube-apiserver-audit/audit.log
    - --audit-policy-file=/etc/kubernetes/audit-policy.yaml
    name: kube-apiserver
    volumeMounts:
    - mountPath: /var/log/kube-apiserver-audit
      name: audit-log
    - mountPath: /etc/kubernetes/audit-policy.yaml
      name: audit-policy
      readOnly: true
  volumes:
  - hostPath:
      path: /var/log/kube-apiserver-audit
      type: DirectoryOrCreate
    name: audit-log
  - hostPath:
      path: /etc/kubernetes/audit-policy.yaml
      type: File
    name: audit-policy
"#
    );
}

#[test]
fn crlf_and_a_missing_last_line_break_stay() {
    let crlf = SMALL.replace('\n', "\r\n");
    let new = check_patch(&crlf, &article());
    assert_eq!(new.matches('\n').count(), new.matches("\r\n").count());
    for text in [SMALL, &crlf, KUBEADM] {
        let new = check_patch(text.trim_end(), &article());
        assert!(!new.ends_with('\n'), "{new}");
    }
}

#[test]
fn style_of_a_handmade_manifest_is_kept() {
    let text = data!("handmade.yaml");
    let new = check_patch(text, &article());
    let added = diff(text, &new, "x").text;
    assert!(!added.lines().skip(2).any(|line| line.starts_with('-')), "{added}");
    for line in [
        "+    annotations:\n+        audit-operator.dev/revision: \"5f3e2a\"\n",
        "+              - \"--audit-log-maxage=1\"\n",
        "+              - mountPath: /var/log/kube-apiserver-audit\n+                name: audit-log\n",
        "+        - hostPath:\n+              path: /etc/kubernetes/audit-policy.yaml\n+              type: File\n",
    ] {
        assert!(added.contains(line), "{line}in\n{added}");
    }
}

#[test]
fn flow_lists_and_json_are_edited_between_their_brackets() {
    let new = check_patch(data!("wrapper.yaml"), &article());
    assert!(new.contains("    - -v=2\n    - --audit-log-maxage=1\n"), "{new}");
    assert!(new.contains("annotations: {\"audit-operator.dev/revision\": \"5f3e2a\"}"), "{new}");

    let flow = SMALL.replace(
        "command:\n    - kube-apiserver\n    - --secure-port=6443\n",
        "command: [kube-apiserver, --secure-port=6443]\n",
    );
    let new = check_patch(&flow, &article());
    assert!(new.contains("command: [kube-apiserver, --secure-port=6443, --audit-log-maxage=1, "), "{new}");

    for json in [data!("pretty.json"), data!("compact.json")] {
        let new = check_patch(json, &article());
        serde_json::from_str::<serde_json::Value>(&new).expect("JSON stays JSON");
        assert_eq!(new.lines().count() - json.lines().count() > 3, json.contains('\n'), "one element a line");
    }
}

#[test]
fn empty_collections_in_flow_style_come_back() {
    for (empty, annotations) in [("[]", "{}"), ("[ ]", "{ }"), ("[\n    ]", "{\n  }")] {
        let text = SMALL.replace("metadata:\n", &format!("metadata:\n  annotations: {annotations}\n"))
            + &format!("    volumeMounts: {empty}\n  volumes: {empty}\n");
        check_patch(&text, &article());
    }
    let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "annotations": {}},
"spec": {"containers": [{"name": "kube-apiserver", "volumeMounts": [], "command": ["kube-apiserver"]}], "volumes": [ ]}}"#;
    check_patch(json, &article());
    check_patch(&json.replace(", \"annotations\": {}", "").replace(", \"volumes\": [ ]", ""), &article());
}

#[test]
fn comments_and_blank_lines_stay_where_they_are() {
    let text = "# head
---
apiVersion: v1  # first
kind: Pod
metadata:
  # who it is
  name: kube-apiserver

spec:
  containers:
      # the only one
  - name: kube-apiserver
    command:   # its flags
    # the program
    - kube-apiserver

    # serving
    - --secure-port=6443   # https

    # - --audit-log-path=/commented/out
# far left
    volumeMounts:  # mounts
    # certificates
    - name: pki
      mountPath: /etc/kubernetes/pki   # all of them

  # volumes of the node
  volumes:
  - name: pki
    hostPath:
      path: /etc/kubernetes/pki
  # the end
---
";
    let new = check_patch(text, &article());
    assert!(changed_lines(text, &new).lines().all(|line| line.starts_with('+')), "{new}");
}

#[test]
fn a_new_policy_changes_the_four_lines_that_name_it() {
    let old = check_patch(KUBEADM, &versioned("aa11"));
    let new = check_change(
        &old,
        &versioned("bb22"),
        Existing::Refuse,
        r#"-    audit-operator.dev/revision: "aa11"
+    audit-operator.dev/revision: "bb22"
-    - --audit-policy-file=/etc/kubernetes/audit/policy-aa11.yaml
+    - --audit-policy-file=/etc/kubernetes/audit/policy-bb22.yaml
-    - mountPath: /etc/kubernetes/audit/policy-aa11.yaml
+    - mountPath: /etc/kubernetes/audit/policy-bb22.yaml
-      path: /etc/kubernetes/audit/policy-aa11.yaml
+      path: /etc/kubernetes/audit/policy-bb22.yaml
"#,
    );
    assert_eq!(new, check_patch(KUBEADM, &versioned("bb22")));
    assert_eq!(unpatch(&new).as_deref(), Ok(KUBEADM));
}

#[test]
fn flags_come_and_go_and_change_in_place() {
    let old = check_patch(KUBEADM, &versioned("aa11"));
    let mut settings = versioned("aa11");
    settings.flags.remove(0);
    settings.flags.insert(0, flag("audit-log-compress", "true"));
    settings.flags.insert(1, flag("audit-log-maxsize", "100"));
    settings.flags[2].value = "/var/log/kubernetes/audit/other.log".to_owned();
    let new = check_change(
        &old,
        &settings,
        Existing::Refuse,
        "\
-    - --audit-log-maxage=30
-    - --audit-log-path=/var/log/kubernetes/audit/audit.log
+    - --audit-log-compress=true
+    - --audit-log-maxsize=100
+    - --audit-log-path=/var/log/kubernetes/audit/other.log
",
    );
    assert_eq!(new, check_patch(KUBEADM, &settings));
}

#[test]
fn a_webhook_brings_its_mount_and_takes_it_away() {
    let log_only = versioned("aa11");
    let mut both = versioned("aa11");
    let kubeconfig = "/etc/kubernetes/audit/webhook-aa11.kubeconfig";
    both.flags.push(flag("audit-webhook-config-file", kubeconfig));
    both.mounts.push(mount("audit-webhook", kubeconfig, PathType::File, true));
    let old = check_patch(KUBEADM, &log_only);
    let new = patch(&old, &both, Existing::Refuse).unwrap();
    assert_eq!(new, check_patch(KUBEADM, &both));
    assert_eq!(patch(&new, &log_only, Existing::Refuse).unwrap(), old);
}

#[test]
fn every_spelling_of_a_flag_is_found() {
    for spelling in [
        "    - --audit_log_maxage=30\n    - --audit-log-compress\n",
        "    - --audit-log-maxage\n    - \"30\"\n    - --audit-log-compress=true\n",
        "    - '--audit-log-maxage=30' # days\n    - \"--audit-\\x6cog-compress\"\n",
        "    - --audit-log-maxage=7\n    - --audit-log-compress\n    - --audit-log-maxage=30\n",
    ] {
        let old =
            SMALL.replace("    - --secure-port=6443\n", &format!("    - --secure-port=6443\n{spelling}"));
        let mut settings = versioned("aa11");
        settings.flags.insert(0, flag("audit-log-compress", "true"));
        let new = patch(&old, &settings, Existing::Refuse).unwrap_or_else(|e| panic!("{e}\n{old}"));
        assert!(
            spelling.lines().all(|line| new.lines().any(|kept| kept == line)),
            "not adopted as it is:\n{new}"
        );
        assert_eq!(unpatch(&new).as_deref(), Ok(SMALL));
    }
}

#[test]
fn a_changed_flag_keeps_its_form_and_loses_its_repeats() {
    for (old, new) in [
        ("    - --audit_log_maxage=7\n", "    - --audit-log-maxage=30\n"),
        ("    - --audit-log-maxage\n    - '7'  # days\n", "    - --audit-log-maxage\n    - '30'  # days\n"),
        ("    - \"--audit-log-maxage=7\"\n", "    - \"--audit-log-maxage=30\"\n"),
        ("    - --audit-log-maxage=30\n    - --audit-log-maxage=7\n", "    - --audit-log-maxage=30\n"),
        (
            "    - --audit-log-maxage=30\n    - --v=2\n    - --audit-log-maxage\n    - \"7\"\n",
            "    - --v=2\n    - --audit-log-maxage\n    - \"30\"\n",
        ),
    ] {
        let with = |flags: &str| SMALL.replace("    - --secure-port=6443\n", flags);
        let settings = Settings {
            flags: vec![flag("audit-log-maxage", "30")],
            mounts: Vec::new(),
            revision: "r".to_owned(),
        };
        let patched = patch(&with(old), &settings, Existing::TakeOver).unwrap();
        assert_eq!(
            patched.replace("  annotations:\n    audit-operator.dev/revision: \"r\"\n", ""),
            with(new)
        );
    }
    let bare = SMALL.replace("--secure-port=6443", "--audit-log-compress");
    let settings = Settings {
        flags: vec![flag("audit-log-compress", "false")],
        mounts: Vec::new(),
        revision: "r".to_owned(),
    };
    let new = patch(&bare, &settings, Existing::TakeOver).unwrap();
    assert!(new.contains("    - --audit-log-compress=false\n"), "{new}");
}

/// Found by the properties: the place of each new flag is behind another neighbour, and what is between them goes.
#[test]
fn new_flags_keep_their_order_where_others_are_removed_between_them() {
    let old = "command: [kube-apiserver, --audit-log-maxage=1, --audit-log-mode=x, --audit-log-maxsize=1]\n";
    let new = "command: [kube-apiserver, --audit-log-maxage=1, --audit-log-format=json, --audit-log-compress=true, \
               --audit-log-maxsize=1]\n";
    let with = |command| {
        SMALL
            .replace("command:\n    - kube-apiserver\n    - --secure-port=6443\n", command)
            .replace("metadata:\n", "metadata:\n  annotations: {audit-operator.dev/revision: \"r\"}\n")
    };
    let flags = ["compress=true", "maxsize=1", "maxage=1", "format=json"].map(|flag_| {
        let (name, value) = flag_.split_once('=').unwrap();
        flag(&format!("audit-log-{name}"), value)
    });
    let settings = Settings { flags: flags.to_vec(), mounts: Vec::new(), revision: "r".to_owned() };
    assert_eq!(patch(&with(old), &settings, Existing::Refuse), Ok(with(new)));
}

#[test]
fn taking_over_removes_the_settings_that_were_there() {
    let foreign = with_foreign_settings(SMALL);
    let new = check_change(
        &foreign,
        &versioned("aa11"),
        Existing::TakeOver,
        r#"+  annotations:
+    audit-operator.dev/revision: "aa11"
-    - --audit-policy-file=/etc/audit/policy.yaml
-    - --audit-log-path=/var/log/foreign/audit.log
+    - --audit-policy-file=/etc/kubernetes/audit/policy-aa11.yaml
+    - --audit-log-maxage=30
+    - --audit-log-path=/var/log/kubernetes/audit/audit.log
-    - mountPath: /etc/audit/policy.yaml
-      name: foreign-policy
+    - mountPath: /etc/kubernetes/audit/policy-aa11.yaml
+      name: audit-policy
-    - mountPath: /var/log/foreign
-      name: foreign-log
+    - mountPath: /var/log/kubernetes/audit
+      name: audit-log
-      path: /etc/audit/policy.yaml
+      path: /etc/kubernetes/audit/policy-aa11.yaml
-    name: foreign-policy
+    name: audit-policy
-      path: /var/log/foreign
-    name: foreign-log
+      path: /var/log/kubernetes/audit
+      type: DirectoryOrCreate
+    name: audit-log
"#,
    );
    assert_eq!(unpatch(&new).as_deref(), Ok(SMALL));
}

#[test]
fn mounts_that_something_else_uses_are_left_alone() {
    // An argument, an environment variable and another container each keep one.
    let shared = with_foreign_settings(SMALL)
        .replace("    - --secure-port=6443\n", "    - --log-file=/var/log/foreign/server.log\n");
    let new = patch(&shared, &versioned("aa11"), Existing::TakeOver).unwrap();
    assert!(new.matches("name: foreign-log\n").count() == 2 && !new.contains("foreign-policy"), "{new}");

    let env = "    env:\n    - name: POLICY\n      value: file:///etc/audit/policy.yaml\n    volumeMounts:\n";
    let shared = with_foreign_settings(SMALL).replace("    volumeMounts:\n", env);
    let new = patch(&shared, &versioned("aa11"), Existing::TakeOver).unwrap();
    assert_eq!((new.matches("foreign-policy").count(), new.matches("foreign-log").count()), (2, 0), "{new}");

    let shipper =
        "  - name: shipper\n    volumeMounts:\n    - {name: foreign-log, mountPath: /logs}\n  volumes:\n";
    let shared = with_foreign_settings(SMALL).replace("  volumes:\n", shipper);
    let new = patch(&shared, &versioned("aa11"), Existing::TakeOver).unwrap();
    assert_eq!(new.matches("name: foreign-log").count(), 2, "its volume and the shipper's mount: {new}");
    assert!(!new.contains("- mountPath: /var/log/foreign\n"), "{new}");
}

#[test]
fn a_folder_above_the_audit_files_is_nobodys_to_remove() {
    let foreign =
        with_foreign_settings(SMALL).replace("- mountPath: /var/log/foreign\n", "- mountPath: /var/log\n");
    let new = patch(&foreign, &versioned("aa11"), Existing::TakeOver).unwrap();
    assert!(new.contains("- mountPath: /var/log\n"), "{new}");
}

#[test]
fn a_mount_that_does_the_same_is_adopted_under_its_own_name() {
    let mut settings = versioned("aa11");
    settings.mounts.remove(0);
    settings.flags.pop();
    let theirs = "    volumeMounts:
    - name: logs
      mountPath: /var/log/kubernetes/audit/
  volumes:
  - {name: logs, hostPath: {path: /var/log/kubernetes/audit}}
";
    let text = format!("{SMALL}{theirs}");
    let new = patch(&text, &settings, Existing::Refuse).unwrap();
    assert!(new.ends_with(theirs), "{new}");
    assert_eq!(patch(&new, &settings, Existing::Refuse).as_ref(), Ok(&new));
}

#[test]
fn a_volume_shared_with_a_log_shipper_only_gets_our_mount() {
    let shipper = "  - name: shipper
    volumeMounts:
    - {name: audit-log, mountPath: /logs, readOnly: true}
  volumes:
  - {name: audit-log, hostPath: {path: /var/log/kubernetes/audit, type: DirectoryOrCreate}}
";
    let text = format!("{SMALL}{shipper}");
    let new = patch(&text, &versioned("aa11"), Existing::Refuse).unwrap();
    assert_eq!(new.matches("path: /var/log/kubernetes/audit,").count(), 1, "{new}");
    assert!(new.contains("    - mountPath: /var/log/kubernetes/audit\n      name: audit-log\n"), "{new}");
    assert_eq!(unpatch(&new).as_deref(), Ok(&*text));
}

#[test]
fn type_and_access_of_our_own_mounts_are_put_right() {
    let patched = patch(SMALL, &versioned("aa11"), Existing::Refuse).unwrap();
    let broken = patched
        .replace("      type: DirectoryOrCreate\n", "      type: File\n")
        .replace("      name: audit-log\n", "      name: audit-log\n      readOnly: true\n");
    check_change(
        &broken,
        &versioned("aa11"),
        Existing::Refuse,
        "-      readOnly: true\n+      readOnly: false\n-      type: File\n+      type: DirectoryOrCreate\n",
    );
}

#[test]
fn unpatch_leaves_a_manifest_that_is_not_ours() {
    let foreign = with_foreign_settings(SMALL);
    for text in [SMALL, KUBEADM, &foreign, "{{ not: understood"] {
        assert_eq!(unpatch(text).as_deref(), Ok(text));
    }
    let ours = format!("{SMALL}# {REVISION_ANNOTATION}\n\tx");
    assert!(unpatch(&ours).is_err(), "it may be ours, and is not understood");
}

#[test]
fn a_revision_that_looks_like_a_number_stays_a_string() {
    for revision in ["1e3", "0644", "12:30:45", "yes", "null", "2026-11-22", "a\"b\\c"] {
        let settings = Settings { revision: revision.to_owned(), ..versioned("aa11") };
        let new = check_patch(KUBEADM, &settings);
        let quoted = serde_json::to_string(revision).unwrap();
        assert!(new.contains(&format!("audit-operator.dev/revision: {quoted}\n")), "{new}");
        assert_eq!(read(&new).unwrap().revision.as_deref(), Some(revision));
    }
}

#[test]
fn names_and_paths_are_quoted_where_plain_text_would_mean_something_else() {
    let mut settings = article();
    settings.mounts[0].name = "on".to_owned();
    settings.mounts[1].name = "0123".to_owned();
    settings.mounts[1].host_path = "/etc/it's: \"a\" #file".to_owned();
    let new = check_patch(SMALL, &settings);
    for line in ["    name: \"on\"\n", "    name: \"0123\"\n", "      path: \"/etc/it's: \\\"a\\\" #file\"\n"]
    {
        assert!(new.contains(line), "{line}in\n{new}");
    }
}

#[test]
fn a_wide_mount_that_was_there_stays_beside_ours() {
    let wide = "    volumeMounts:
    - {name: etc, mountPath: /etc/kubernetes, readOnly: true}
    - {name: log, mountPath: /var/log}
  volumes:
  - {name: etc, hostPath: {path: /etc/kubernetes}}
  - {name: log, hostPath: {path: /var/log}}
";
    check_patch(&format!("{SMALL}{wide}"), &article());
    check_patch(&format!("{SMALL}{wide}"), &versioned("aa11"));
}

#[test]
fn a_part_of_our_volume_is_replaced_by_all_of_it() {
    let patched = patch(SMALL, &versioned("aa11"), Existing::Refuse).unwrap();
    let part = patched.replace("      name: audit-log\n", "      name: audit-log\n      subPath: x\n");
    check_change(&part, &versioned("aa11"), Existing::Refuse, "-      subPath: x\n");
}

#[test]
fn one_wanted_mount_may_be_inside_another() {
    let policy = "/var/log/audit/policy.yaml";
    let settings = Settings {
        flags: vec![flag("audit-log-path", "/var/log/audit/audit.log"), flag("audit-policy-file", policy)],
        mounts: vec![
            mount("audit-log", "/var/log/audit", PathType::Directory, false),
            mount("audit-policy", policy, PathType::File, true),
        ],
        revision: "r".to_owned(),
    };
    let patched = check_patch(SMALL, &settings);
    let without_log =
        patched.replace("    - mountPath: /var/log/audit\n      name: audit-log\n", "").replace(
            "  - hostPath:\n      path: /var/log/audit\n      type: Directory\n    name: audit-log\n",
            "",
        );
    assert_eq!(patch(&without_log, &settings, Existing::Refuse), Ok(patched));
}

#[test]
fn a_hyperkube_of_any_name_is_found() {
    let text = SMALL
        .replace("    - kube-apiserver\n", "    - /hyperkube\n    - apiserver\n")
        .replace("    name: kube-apiserver\n", "    name: api\n");
    check_patch(&text, &article());
}

#[test]
fn a_comma_in_a_flow_list_is_quoted() {
    let mut settings = article();
    settings.flags.push(flag("audit-webhook-mode", "a,b"));
    let text = SMALL.replace(
        "command:\n    - kube-apiserver\n    - --secure-port=6443\n",
        "command: [kube-apiserver, --secure-port=6443]\n",
    );
    assert!(check_patch(&text, &settings).contains(", \"--audit-webhook-mode=a,b\"]"));
    assert!(check_patch(SMALL, &settings).contains("    - --audit-webhook-mode=a,b\n"));
}

#[test]
fn what_comes_behind_a_block_scalar_stays_behind_its_blank_lines() {
    let text =
        SMALL.replace("metadata:\n", "metadata:\n  annotations:\n    a: |\n      text\n\n      more\n\n");
    let new = check_patch(&text, &article());
    assert!(new.contains("      more\n    audit-operator.dev/revision: \"5f3e2a\"\n\n"), "{new}");
}

#[test]
fn a_list_that_is_not_sorted_is_added_to_at_its_end() {
    let unsorted = "    volumeMounts:
    - {name: z, mountPath: /z}
    - {name: b, mountPath: /b}
  volumes:
  - {name: z, emptyDir: {}}
  - {name: b, emptyDir: {}}
";
    let new = check_patch(&format!("{SMALL}{unsorted}"), &versioned("aa11"));
    let places = [
        "/z}",
        "/b}",
        "name: audit-policy",
        "name: audit-log",
        "{name: z, e",
        "{name: b, e",
        "name: audit-policy",
    ];
    let mut from = 0;
    for place in places {
        from += new[from..].find(place).unwrap_or_else(|| panic!("{place} in {new}"));
    }
}
