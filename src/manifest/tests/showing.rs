//! The diff that people see: exact, bounded, without secrets.

use super::*;

#[test]
fn equal_texts_have_no_diff() {
    assert_eq!(diff(KUBEADM, KUBEADM, "x"), Diff { text: String::new(), truncated: false });
}

#[test]
fn headers_context_and_the_missing_line_break() {
    let Diff { text, truncated } = diff("a\nb\nc\nd\ne\nf", "a\nb\nc\nd\nE\nf\n", "kube-apiserver.yaml");
    let expected = "--- a/kube-apiserver.yaml
+++ b/kube-apiserver.yaml
@@ -2,5 +2,5 @@
 b
 c
 d
-e
-f
\\ No newline at end of file
+E
+f
";
    assert_eq!((text.as_str(), truncated), (expected, false));
}

/// The lines of `text` as a diff shows them, taken from one that adds them all.
fn shown(text: &str) -> String {
    let diff = diff("", text, "x").text;
    diff.lines().skip(3).map(|line| format!("{}\n", &line[1..])).collect()
}

#[test]
fn secrets_are_masked_in_every_line() {
    let text = r#"kind: Pod
spec:
  containers:
  - command:
    - kube-apiserver
    - --oidc-client-secret=hunter2
    - "--api-token=hunter2"
    - --token
    - hunter2
    - --tls-private-key-file=/etc/kubernetes/pki/apiserver.key
    - --kubelet-client-key=/etc/kubernetes/pki/client.key
    - --enable-bootstrap-token-auth=true
    - --etcd-servers=https://root:hunter2@192.0.2.1:2379,https://192.0.2.2:2379
    env:
    - name: PASSWORD
      value: hunter2
    - {name: B, value: "hunter2", x: y}
    - name: C
      value: |
        hunter2
          hunter2
    - name: D
      valueFrom: {secretKeyRef: {name: x, key: y}}
"#;
    let expected = r#"kind: Pod
spec:
  containers:
  - command:
    - kube-apiserver
    - --oidc-client-secret=‹masked›
    - "--api-token=‹masked›"
    - --token
    - ‹masked›
    - --tls-private-key-file=/etc/kubernetes/pki/apiserver.key
    - --kubelet-client-key=/etc/kubernetes/pki/client.key
    - --enable-bootstrap-token-auth=true
    - --etcd-servers=https://‹masked›@192.0.2.1:2379,https://192.0.2.2:2379
    env:
    - name: PASSWORD
      value: ‹masked›
    - {name: B, value: ‹masked›, x: y}
    - name: C
      value: |
        ‹masked›
          ‹masked›
    - name: D
      valueFrom: {secretKeyRef: {name: x, key: y}}
"#;
    assert_eq!(shown(text), expected);
    // Neither does JSON show them, nor a text that is no YAML.
    let json = serde_json::to_string(&parse(text)).unwrap();
    assert!(!shown(&json).contains("hunter2"), "{}", shown(&json));
    let broken = shown(&format!("{text}  ]\n"));
    assert_eq!(broken.matches("hunter2").count(), 1, "only the argument behind --token: {broken}");
}

#[test]
fn a_changed_secret_is_a_change_all_the_same() {
    let pod = |value: &str| format!("a:\n- name: x\n  value: {value}\n");
    let Diff { text, .. } = diff(&pod("one"), &pod("two"), "x");
    assert!(text.ends_with("-  value: ‹masked›\n+  value: ‹masked›\n"), "{text}");
}

#[test]
fn a_long_diff_is_cut_at_a_line() {
    let long: String = (0..10_000).map(|i| format!("- line {i}\n")).collect();
    let Diff { text, truncated } = diff("", &long, "x");
    assert!(truncated);
    assert!(text.len() < (64 << 10) + 100, "{}", text.len());
    let (last, kept) = text.lines().rev().fold((None, 0), |(last, n), line| (last.or(Some(line)), n + 1));
    assert_eq!(last, Some(&*format!("… {} more lines, left out", 10_000 - (kept - 1 - 3))));
}
