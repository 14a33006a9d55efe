//! Manifests found in the wild, where the folder with them is at hand: patched right, or refused with a reason.

#![expect(clippy::disallowed_methods, reason = "the corpus is on the disk")]

use std::fs;
use std::path::Path;

use super::*;

/// Of the manifests in the corpus, these many are Pods that can be understood; the others are templates, lists of
/// tasks, shell scripts, or broken.
const UNDERSTOOD: usize = 25;

#[test]
fn manifests_in_the_wild_are_patched_right_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/manifests");
    let Ok(files) = fs::read_dir(folder) else { return };
    let mut understood = 0;
    for file in files {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let text = decode(&bytes).unwrap();
        let has_settings =
            read(text).is_ok_and(|m| m.flags.iter().any(|flag| flag.name.starts_with("audit-")));
        if has_settings {
            let new = patch(text, &versioned("aa11"), Existing::TakeOver)
                .unwrap_or_else(|e| panic!("{path:?}: {e}"));
            check_taken_over(text, &new);
            understood += 1;
        } else if patch(text, &versioned("aa11"), Existing::Refuse).is_ok() {
            check_patch(text, &versioned("aa11"));
            understood += 1;
        }
    }
    assert!(understood >= UNDERSTOOD, "only {understood}");
}

#[track_caller]
fn check_taken_over(text: &str, new: &str) {
    let settings = versioned("aa11");
    assert_eq!(patch(new, &settings, Existing::Refuse).as_deref(), Ok(new));
    let (mut before, mut after) = (parse(text), parse(new));
    // What served the foreign flags: `audit` and `audit-log` by name in the corpus.
    take_out(&mut before, &["audit", "audit-log"]);
    let taken = take_out(&mut after, &["audit-log", "audit-policy"]);
    assert_eq!(after, before);
    let mut flags = taken.flags;
    flags.sort();
    assert_eq!(flags, expected(&settings).sorted().flags);
    assert_eq!(taken.revision.as_deref(), Some("aa11"));
}
