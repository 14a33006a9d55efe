//! What is read out of whole, reshaped and damaged logs.
#![expect(clippy::disallowed_methods, reason = "reads published logs, where there are any")]

use std::io::{BufReader, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// One event on one line.
fn line(id: &str) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"{id}","stage":"ResponseComplete","verb":"create","requestObject":{{"a":{{}},"s":"}}\n{{\"\\"}},"stageTimestamp":"2026-01-02T03:04:05.000000Z"}}"#
    )
}

/// The same event as `jq .` prints it, `indent` deep.
fn pretty(id: &str, indent: usize) -> String {
    let value: serde_json::Value = serde_json::from_str(&line(id)).unwrap();
    let text = serde_json::to_string_pretty(&value).unwrap();
    let margin = " ".repeat(indent);
    text.lines().map(|line| format!("{margin}{line}")).collect::<Vec<_>>().join("\n")
}

fn word(word: &str) -> Sieve {
    Sieve::new(&[vec![vec![word.to_owned()]]])
}

/// Gives one byte at a time, so that every block border is met.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
        buf[0] = *first;
        self.0 = rest;
        Ok(1)
    }
}

fn line_of(place: &Place) -> u64 {
    match place.at {
        At::Line(line) => line,
        At::Byte(byte) => panic!("byte {byte} and no line"),
    }
}

fn everything(input: impl BufRead) -> (Vec<String>, Coverage) {
    let mut coverage = Coverage::default();
    let mut found = Vec::new();
    read("x", input, &Sieve::default(), &mut coverage, &mut |entry: Entry| {
        found.push(format!("{}@{}", entry.event.audit_id, line_of(&entry.place)));
    });
    (found, coverage)
}

/// Reads `input` in one block and byte by byte: events as `id@line`, damage as `line what`.
#[track_caller]
fn check(input: &[u8], events: &[&str], damage: &[&str]) {
    let (found, coverage) = everything(input);
    let said: Vec<String> =
        coverage.damage.iter().map(|damage| format!("{} {}", line_of(&damage.place), damage.what)).collect();
    assert_eq!(found, events);
    assert_eq!(said, damage);
    assert_eq!(coverage.damaged, damage.len() as u64);

    let (trickled, slowly) = everything(BufReader::with_capacity(1, Trickle(input)));
    assert_eq!(trickled, found);
    assert_eq!(slowly.damage, coverage.damage);
}

#[test]
fn one_record_a_line() {
    let [a, b] = [line("a"), line("b")];
    check(format!("{a}\n{b}\n").as_bytes(), &["a@1", "b@2"], &[]);
    check(format!("{a}\r\n\r\n{b}").as_bytes(), &["a@1", "b@3"], &[]);
    check(b"", &[], &[]);
}

#[test]
fn indented_and_joined_records() {
    let [a, b, c] = [line("a"), line("b"), line("c")];
    check(format!("{}\n{}\n{c}\n", pretty("a", 0), pretty("b", 0)).as_bytes(), &["a@1", "b@14", "c@27"], &[]);
    check(format!("{a}{b}\n{c} {a}").as_bytes(), &["a@1", "b@1", "c@2", "a@2"], &[]);
}

#[test]
fn lists_are_taken_apart_wherever_they_begin() {
    let [a, b, c] = [line("a"), line("b"), line("c")];
    check(format!("[\n{a},\n{b}\n]\n{c}\n").as_bytes(), &["a@2", "b@3", "c@5"], &[]);
    check(format!("[{a},{b}]").as_bytes(), &["a@1", "b@1"], &[]);
    let list = format!(r#"{{"kind":"EventList","metadata":{{"x":[1]}},"items":[{a},{b}],"more":[{{}}]}}"#);
    check(format!("{list}\n{list}\n{c}\n").as_bytes(), &["a@1", "b@1", "a@2", "b@2", "c@3"], &[]);
    check(format!("[{list},{c}]").as_bytes(), &["a@1", "b@1", "c@1"], &[]);
    let list = format!(
        "{{\n  \"items\" : [\n{},\n{}\n  ],\n  \"kind\": \"EventList\"\n}}",
        pretty("a", 4),
        pretty("b", 4)
    );
    check(list.as_bytes(), &["a@3", "b@16"], &[]);
    check(b"{\"kind\":\"EventList\",\"items\":[]}\n[]\n", &[], &[]);
}

#[test]
fn a_record_cut_short_costs_itself_only() {
    let [a, b, c] = [line("a"), line("b"), line("c")];
    for cut in 1..a.len() {
        let input = format!("{b}\n{}\n{c}\n{b}\n", &a[..cut]);
        let (found, coverage) = everything(input.as_bytes());
        assert_eq!(found, ["b@1", "c@3", "b@4"], "cut at {cut}: {}", &a[..cut]);
        assert_eq!(coverage.damaged, 1, "cut at {cut}");
        assert_eq!(coverage.damage[0].place.to_string(), "x:2", "cut at {cut}");
    }
    check(format!("{b}\n{}", &a[..a.len() - 1]).as_bytes(), &["b@1"], &["2 cut short"]);
}

#[test]
fn an_indented_record_cut_short_costs_itself_only() {
    let whole = pretty("a", 0);
    for (lines, _) in whole.lines().enumerate().skip(1) {
        let cut: Vec<&str> = whole.lines().take(lines).collect();
        let (found, coverage) = everything(format!("{}\n{}\n", cut.join("\n"), line("b")).as_bytes());
        assert_eq!(found, [format!("b@{}", lines + 1)], "after {lines} lines");
        assert_eq!(coverage.damaged, 1, "after {lines} lines");
    }
}

#[test]
fn an_event_forged_in_the_body_of_a_damaged_record_is_no_event() {
    for indent in [1, 4] {
        let forged = format!("\"a\":\n{}", pretty("forged", indent));
        let broken = pretty("a", 0).replace("\"a\": {}", &forged);
        let broken = broken.replace("\"level\": \"Request\",", "\"level\": \"Requ");
        assert!(broken.contains("forged"));
        check(format!("{broken}\n{}\n", line("b")).as_bytes(), &["b@27"], &["1 cut short"]);
    }
}

#[test]
fn damage_is_noticed_where_it_is_and_not_a_whole_log_later() {
    let log = format!("{{\"code\":20\n{}", format!("{}\n", line("a")).repeat(9));
    let mut buffers = records::Buffers::default();
    let mut records = Records::new(log.as_bytes(), &mut buffers, line("a").len() * 2, 1);
    assert_eq!(steps(&mut records)[..2], ["1 cut short", "record 2"]);
}

#[test]
fn a_line_that_only_looks_like_a_record_is_not_let_go_alone() {
    let split = line("needle").replacen("},\"s\"", "}\n,\"s\"", 1);
    assert!(split.lines().next().expect("two lines").ends_with('}'));
    let mut coverage = Coverage::default();
    let mut found = Vec::new();
    let sieve = word("stageTimestamp");
    read("x", split.as_bytes(), &sieve, &mut coverage, &mut |entry: Entry| found.push(entry.event.audit_id));
    assert_eq!((found, coverage.damaged), (vec!["needle".to_owned()], 0));
}

#[test]
fn a_list_cut_short_does_not_take_the_rest_along() {
    let [a, b] = [line("a"), line("b")];
    let list = format!(r#"{{"kind":"EventList","items":[{a},{a}"#);
    check(format!("{list}\n{b}\n{b}\n").as_bytes(), &["a@1", "a@1", "b@2", "b@3"], &["2 cut short"]);
    check(
        format!("{}\n{b}\n{b}\n", &list[..list.len() - 9]).as_bytes(),
        &["a@1", "b@2", "b@3"],
        &["1 cut short"],
    );
}

#[test]
fn what_is_no_event_is_said_and_stepped_over() {
    let a = line("a");
    check(format!("hello\n{a}\n").as_bytes(), &["a@2"], &["1 not JSON"]);
    check(format!("{{\"kind\":\"Pod\"}}\n{a}\n").as_bytes(), &["a@2"], &["1 not an audit event"]);
    check(format!("[{{\"kind\":\"Pod\"}},{a}]").as_bytes(), &["a@1"], &["1 not an audit event"]);
    check(format!("{{\"auditID\":nonsense}}\n{a}\n").as_bytes(), &["a@2"], &["1 not valid JSON"]);
    check(
        format!("2026-01-02T03:04:05Z AUDIT: id=\"a\" stage=\"Panic\"\n{a}\n").as_bytes(),
        &["a@2"],
        &["1 in the `legacy` text format, which is not read: set --audit-log-format=json"],
    );
}

#[test]
fn the_hole_a_power_cut_leaves_hides_nothing_behind_it() {
    let [a, b] = [line("a"), line("b")];
    check(
        format!("{a}\n\0\0\0\0{b}\n{a}\n").as_bytes(),
        &["a@1", "b@2", "a@3"],
        &["2 zero bytes, as a power cut leaves them"],
    );
}

#[test]
fn a_record_beyond_the_limit_is_stepped_over_in_bounded_memory() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = buf.len().min(usize::try_from(self.0).unwrap());
            buf[..len].fill(b'x');
            self.0 -= len as u64;
            Ok(len)
        }
    }
    let head = format!("{}\n{{\"auditID\":\"", line("a"));
    let tail = format!("\n{}\n", line("b"));
    let limit = 1 << 20;
    let input = head.as_bytes().chain(Endless(10 << 20)).chain(tail.as_bytes());

    let mut buffers = records::Buffers::default();
    let mut records = Records::new(input, &mut buffers, limit, 1);
    assert_eq!(steps(&mut records), ["record 1", "2 longer than a record can be", "record 3"]);
    assert!(records.held() <= 2 * limit, "{}", records.held());
}

fn steps<R: Read>(records: &mut Records<'_, R>) -> Vec<String> {
    let mut steps = Vec::new();
    loop {
        match records.next().unwrap() {
            Step::End => return steps,
            Step::Record { guessed: true, .. } => records.look_inside(),
            Step::Record { line, len, .. } => {
                steps.push(format!("record {line}"));
                records.consume(len);
            }
            Step::Lines { line } => {
                let count = records.lines().1.len();
                steps.extend((line..line + count as u64).map(|line| format!("record {line}")));
                records.consume_lines(count);
            }
            Step::Damaged { line, what } => steps.push(format!("{line} {what}")),
        }
    }
}

#[test]
fn a_list_longer_than_a_record_is_no_trouble() {
    let element = line("a");
    let list = format!("[{}]", vec![element.as_str(); 20].join(","));
    let mut buffers = records::Buffers::default();
    let mut records = Records::new(list.as_bytes(), &mut buffers, element.len() + 1, 1);
    assert_eq!(steps(&mut records), vec!["record 1"; 20]);
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_logs_are_known_by_their_content() {
    let [a, b] = [line("a"), line("b")];
    let packed = gzip(&format!("{a}\n{b}\n"));
    check(&packed, &["a@1", "b@2"], &[]);
    check(&[packed.clone(), gzip(&a)].concat(), &["a@1", "b@2", "a@3"], &[]);
}

#[test]
fn a_compressed_log_cut_short_gives_what_it_has() {
    let text: String = (0..2000).map(|n| format!("{}\n", line(&n.to_string()))).collect();
    let packed = gzip(&text);
    let (found, coverage) = everything(&packed[..packed.len() / 2]);
    assert!((100..2000).contains(&found.len()), "{}", found.len());
    assert_eq!(coverage.damaged, 1);
    assert!(coverage.damage[0].what.starts_with("cannot be read from here on"), "{:?}", coverage.damage);
}

#[test]
fn a_sieve_spares_the_parsing_but_not_the_account() {
    let input: String = ["first", "x", "needle", "x", "last"]
        .iter()
        .enumerate()
        .map(|(second, id)| line(id).replace("03:04:05", &format!("03:04:1{second}")) + "\n")
        .collect();
    let mut coverage = Coverage::default();
    let mut found = Vec::new();
    let sieve = word("needle");
    read("x", input.as_bytes(), &sieve, &mut coverage, &mut |entry: Entry| {
        found.push(entry.place.to_string())
    });
    assert_eq!(found, ["x:3"]);
    assert_eq!((coverage.logs, coverage.records, coverage.damaged), (1, 5, 0));
    assert_eq!(coverage.first.unwrap().to_string(), "2026-01-02T03:04:10Z");
    assert_eq!(coverage.last.unwrap().to_string(), "2026-01-02T03:04:14Z");
}

/// Logs published by others: each count was taken with another JSON reader. Not part of the repository.
#[test]
fn published_logs_are_read_completely() {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/logs");
    for (name, events) in [
        (
            "FairwindsOps__insights-plugins__plugins__event-watcher__pkg__samples__kyverno-policy-executed.json",
            1,
        ),
        ("alcideio__rbac-tool__testdata__auditgen__testdata-01.json", 3),
        ("liggitt__audit2rbac__testdata__demo.log", 37),
        ("openshift__cluster-logging-operator__hack__logsamples__viaq_audit_openshift.json", 1),
        ("openshift__cluster-logging-operator__test__functional__filters__apiaudit__testdata__audit.log", 5),
        ("rminchakov-ctrl__architecture-pro-propdevelopment__Task6__audit-extract.json", 511),
        ("searchlight__auditsink-to-rbac__audit.log", 35),
        ("searchlight__auditsink-to-rbac__demo.json", 1),
        ("tutugodfrey__cks-prep__course__18__p.auster.audit.log", 2),
        ("tutugodfrey__cks-prep__p.auster.json", 24),
    ] {
        let Ok(text) = std::fs::read(logs.join(name)) else { continue };
        let (found, coverage) = everything(text.as_slice());
        assert_eq!((found.len(), coverage.damaged), (events, 0), "{name}: {:?}", coverage.damage);
    }
}
