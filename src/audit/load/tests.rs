//! What the vectors do not cover: our own limits, positions, and the one mistake that must not hide another.

use super::*;

const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

fn load_latest(source: impl AsRef<[u8]>) -> Loaded {
    load(source.as_ref(), ServerVersion::LATEST)
}

/// Each finding as `LINE:COLUMN CODE PATH`, one for what the server refuses marked with `!`.
#[track_caller]
fn check(source: impl AsRef<[u8]>, expected: &[&str]) {
    let findings = load_latest(source).findings;
    let short = |finding: &Finding| {
        let at = finding.position.map(|at| format!("{}:{}", at.line, at.column)).unwrap_or_default();
        let mark = if finding.stops_server() { "!" } else { "" };
        format!("{at} {mark}{} {}", finding.code, finding.path).trim().to_owned()
    };
    assert_eq!(findings.iter().map(short).collect::<Vec<_>>(), expected, "{findings:#?}");
}

#[test]
fn a_source_that_no_object_can_carry_is_refused_before_parsing() {
    let mut source = format!("{HEAD}rules: [{{level: None}}]\n# ").into_bytes();
    source.resize(MAX_SOURCE_BYTES, b'x');
    check(&source, &[]);
    source.push(b'x');
    check(&source, &["too-large"]);
    source.fill(0xff);
    check(&source, &["too-large"]);
}

#[test]
fn what_is_no_text_is_refused_with_its_place() {
    check(b"a: b\nc: \xff", &["2:4 not-utf8"]);
    check("a: é\nb: \0".as_bytes(), &["2:4 !control-character"]);
    check(b"\x7fELF\x02\x01", &["1:1 !control-character"]);
    let utf16: Vec<u8> = HEAD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    check([b"\xff\xfe", utf16.as_slice()].concat(), &["1:1 not-utf8"]);
}

#[test]
fn characters_that_yaml_1_1_takes_for_line_breaks_are_refused() {
    check(format!("{HEAD}# a\u{2028}rules: []\n"), &["3:4 invisible-character"]);
    check(format!("{HEAD}rules: [{{level: None, users: [\"a\u{85}b\"]}}]\n"), &["3:33 invisible-character"]);
    check(format!("{HEAD}\u{feff}rules: []\n"), &["3:1 invisible-character"]);
    check("apiVersion: audit.k8s.io/v1\rrules: []\r", &["1:28 invisible-character"]);
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    for deep in [150, 20_000, 400_000] {
        let nested = "[".repeat(deep) + &"]".repeat(deep);
        let flow = load_latest(format!("{HEAD}foo: {nested}"));
        assert_eq!(flow.findings[0].code, "too-deep", "{deep}");
        let json = load_latest(format!("{{\"foo\": {nested}}}"));
        assert_eq!(json.findings[0].code, "too-deep", "{deep}");
    }
    let block = load_latest(format!("{HEAD}foo:\n{}x\n", "- ".repeat(500)));
    assert_eq!(block.findings[0].code, "too-deep");
    let mut chain = format!("{HEAD}a0: &a0 x\n");
    for link in 1..3000 {
        chain += &format!("a{link}: &a{link} [*a{}]\n", link - 1);
    }
    assert_eq!(load_latest(chain).findings.last().map(|finding| finding.code), Some("too-deep"));
}

#[test]
fn alias_bombs_are_refused_quickly() {
    let mut bomb = format!("{HEAD}a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for link in 1..60 {
        let aliases = vec![format!("*a{}", link - 1); 10].join(",");
        bomb += &format!("a{link}: &a{link} [{aliases}]\n");
    }
    bomb += "rules: [{level: None}]\n";
    assert_eq!(load_latest(&bomb).findings[0].code, "too-many-aliases");
    // Not nearly all of it from aliases, but too much.
    let large = format!("{HEAD}foo: &a [{}]\nbar: [{}]\n", "x,".repeat(4000), "*a,".repeat(80));
    assert_eq!(load_latest(large).findings[0].code, "too-large");
    let json = format!("{{\"foo\": [{}1]}}", "1,".repeat(300_100));
    assert_eq!(load_latest(json).findings[0].code, "too-large");
}

#[test]
fn the_usual_aliases_are_no_bomb() {
    let mut source = format!("{HEAD}rules:\n- level: None\n  users: &u [a, b, c, d, e, f]\n");
    source += &"- level: None\n  userGroups: *u\n".repeat(300);
    assert_eq!(load_latest(source).policy.map(|policy| policy.rules.len()), Some(301));
}

#[test]
fn one_mistake_does_not_hide_another() {
    check(
        format!(
            "{HEAD}rules:\n- level: [x]\n  users: alice\n  verbs: {{a: b}}\n  omitStages: [7, Nope]\n  nope: 1\n"
        ),
        &[
            "4:10 !wrong-type rules[0].level",
            "5:10 !wrong-type rules[0].users",
            "6:10 !wrong-type rules[0].verbs",
            "7:16 !wrong-type rules[0].omitStages[0]",
            "7:19 !stage-unknown rules[0].omitStages[1]",
            "8:3 unknown-field rules[0].nope",
        ],
    );
    check(
        "kind: policy\nrules:\n- level: None\n  level: Nope\n---\nmore\n",
        &[
            "1:1 !api-version apiVersion",
            "1:7 !kind kind",
            "4:3 duplicate-key rules[0].level",
            "4:10 !level-unknown rules[0].level",
            "5:1 extra-document",
        ],
    );
}

#[test]
fn a_value_of_the_wrong_type_gives_one_finding() {
    check(format!("{HEAD}rules: none\n"), &["3:8 !wrong-type rules"]);
    check(
        format!("{HEAD}rules:\n- level: None\n  nonResourceURLs: [1]\n"),
        &["5:21 !wrong-type rules[0].nonResourceURLs[0]"],
    );
    // What was meant is clear, so that names do not seem to lack resources.
    check(
        format!("{HEAD}rules:\n- level: None\n  resources:\n  - resources: pods\n    resourceNames: [x]\n"),
        &["6:16 !wrong-type rules[0].resources[0].resources"],
    );
    check("- a\n", &["1:1 !api-version apiVersion", "1:1 !wrong-type", "1:1 !no-rules rules"]);
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    let missing = ["1:1 !api-version apiVersion", "1:1 !no-rules rules"];
    check("", &missing);
    check("# nothing\n", &missing);
}

#[test]
fn positions_count_characters_in_every_style() {
    check(
        format!("\u{feff}# é\n{HEAD}rules: [{{level: None, users: [é, 1]}}]\n"),
        &["4:34 !wrong-type rules[0].users[1]"],
    );
    check("apiVersion: audit.k8s.io/v1\r\nrules:\r\n- level: x\r\n", &["3:10 !level-unknown rules[0].level"]);
    check(
        "{\"apiVersion\": \"audit.k8s.io/v1\",\n \"rules\": [{\"é\\\"\": \"\", \"level\": 1,\n  \"level\": \"None\"}]}",
        &["2:13 unknown-field rules[0].é\"", "3:3 duplicate-key rules[0].level"],
    );
    // Through an alias, a mistake is where it is written.
    check(
        format!("{HEAD}rules:\n- &r\n  level: none\n- *r\n"),
        &["5:10 !level-unknown rules[0].level", "5:10 !level-unknown rules[1].level"],
    );
}

#[test]
fn json_is_refused_where_go_would_mix_two_values() {
    let twice = r#"{"apiVersion":"audit.k8s.io/v1","rules":[{"level":"None","users":["x"]}],"rules":[{"level":"Metadata"}]}"#;
    // kube-apiserver holds {level: Metadata, users: [x]} then.
    let loaded = load_latest(twice);
    assert_eq!((loaded.policy, loaded.findings[0].code), (None, "duplicate-key"));
    check("{\"a\": \"\\ud800\"}", &["1:7 json-syntax a"]);
    check(
        "{\"apiVersion\": \"audit.k8s.io/v1\",\n\"rules\": [{\"level\": \"None\"},]}",
        &["2:29 !json-syntax"],
    );
    check("\n{kind: Policy}", &["2:2 !json-syntax"]);
}

#[test]
fn what_only_libyaml_takes_is_refused_by_us_alone() {
    for source in ["users: [-]", "users: [a]#b", "users: [a:]", "users: [a?b]", "users: [\n\ta]"] {
        let loaded = load_latest(format!("{HEAD}rules:\n- level: None\n  {source}\n"));
        assert!(loaded.policy.is_none(), "{source:?}");
        assert!(!loaded.findings[0].stops_server(), "{source:?}: {:?}", loaded.findings);
    }
}

#[test]
fn what_follows_the_first_document_is_not_read() {
    check(format!("{HEAD}rules: [{{level: None}}]\n---\n\tx: [\n"), &["4:1 extra-document"]);
    check(format!("{HEAD}rules: [{{level: None}}]\n...\n*x\n"), &["5:1 extra-document"]);
}

#[test]
fn two_merges_and_late_merges_are_told() {
    check(format!("{HEAD}x: &l [{{level: None}}]\nrules:\n- <<: *l\n"), &["5:3 !yaml-merge rules[0]"]);
    let anchors = "- &a {level: None, users: [x]}\n- &b {level: Metadata, users: [w], userGroups: [g]}\n";
    check(format!("{HEAD}rules:\n{anchors}- <<: [*a, *b]\n  level: Metadata\n  users: [z]\n"), &[]);
    check(format!("{HEAD}rules:\n{anchors}- <<: *a\n  <<: *b\n"), &["7:3 duplicate-key rules[2]"]);
    check(
        format!("{HEAD}rules:\n{anchors}- level: Metadata\n  <<: *a\n"),
        &["7:3 merge-overwrites rules[2]"],
    );
    check(
        format!("{HEAD}rules:\n{anchors}- <<: *a\n  level: Metadata\n  level: None\n"),
        &["8:3 duplicate-key rules[2].level"],
    );
}
