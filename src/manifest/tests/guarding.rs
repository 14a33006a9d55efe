//! The guard: what it lets through, and each kind of wrong edit that it stops.

use super::plan::{ListEdit, Plan, Value};
use super::pod::{List, Pod};
use super::splice::Splice;
use super::*;

const TEXT: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --v=2
";

/// Whether `new` passes as the result of adding `--audit-a=1` behind `--v=2`.
fn passes(new: &str) -> Result<(), Refusal> {
    let root = tree::parse(TEXT).unwrap();
    let pod = Pod::locate(&root).unwrap();
    let mut plan = Plan::default();
    *plan.list(List::Command) =
        ListEdit { insert: vec![(2, Value::Text("--audit-a=1".to_owned()))], ..ListEdit::default() };
    guard::check_meaning(TEXT, new, &pod, &plan)
}

#[test]
fn only_the_planned_meaning_passes() {
    let right = format!("{TEXT}    - --audit-a=1\n");
    assert_eq!(passes(&right), Ok(()));
    assert_eq!(passes(&right.replace("- --v=2", "- \"--v=2\" # same")), Ok(()));
    for wrong in [
        TEXT.to_owned(),
        right.replace("--v=2", "--v=3"),
        right.replace("    - --v=2\n", ""),
        right.replace("    - --v=2\n    - --audit-a=1\n", "    - --audit-a=1\n    - --v=2\n"),
        right.replace("spec:\n", "spec:\n  hostPID: true\n"),
        right.replace("audit-a=1", "audit-a=1 --audit-b=2"),
        format!("{right}    name: twice\n"),
        format!("{right}]"),
        String::new(),
    ] {
        let refusal = passes(&wrong).expect_err(&wrong);
        assert_eq!(refusal.code, "guard", "{wrong}");
    }
}

#[test]
fn lines_that_no_splice_touches_stay_in_order() {
    let lines = |new: &str, range: std::ops::Range<usize>, text: &str| {
        let splice = Splice { range, text: text.to_owned() };
        guard::check_lines("a\nb\nc\n", new, &[splice]).map_err(|refusal| refusal.code)
    };
    assert_eq!(lines("a\nx\nb\nc\n", 2..2, "x\n"), Ok(()), "a line between two");
    assert_eq!(lines("a\nB\nc\n", 2..3, "B"), Ok(()), "a part of a line");
    assert_eq!(lines("a\nxb\nc\n", 2..2, "x"), Ok(()), "the beginning of a line");
    assert_eq!(lines("a\nc\n", 2..4, ""), Ok(()), "a whole line");
    assert_eq!(lines("a\nc\n", 2..2, "x\n"), Err("guard"), "one that was only to be added to");
    assert_eq!(lines("a\nB\nc \n", 2..3, "B"), Err("guard"), "one next to the change");
    assert_eq!(lines("c\nb\na\n", 2..3, "b"), Err("guard"), "another order");
    assert_eq!(lines("a\nb\n", 2..4, ""), Err("guard"), "the line behind the one removed");
}
