//! Pieces and threads change nothing: what is found, where, in which order, and what is damaged.
#![expect(clippy::disallowed_methods, reason = "writes the logs it reads")]

use std::fs;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::trail::query::Filter;

fn event(id: usize, body: &str) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"{id}","stage":"ResponseComplete","verb":"create","requestObject":{body},"stageTimestamp":"2026-01-02T03:04:05.000000Z"}}"#
    )
}

/// What log files are made of, whole and broken.
fn part(kind: usize, id: usize) -> String {
    let line = event(id, r#"{"a":{},"s":"}\n{"}"#);
    let value = || serde_json::from_str::<serde_json::Value>(&line).unwrap();
    match kind {
        0..4 => format!("{line}\n"),
        4 => format!("{}\n", serde_json::to_string_pretty(&value()).unwrap()),
        5 => format!("[{line},\n{line}]\n"),
        6 => format!("{{\"kind\":\"EventList\",\"items\":[{line},\n{line}]}}\n"),
        7 => format!("{}\n", &line[..line.len() - 60]),
        8 => format!("{line}{line}\r\n"),
        9 => format!("\0\0\0{line}\n"),
        10 => "} {\n".to_owned(),
        11 => format!("{{\"a\": {{}}\n{line}\n"),
        12 => format!("{}\n{}", serde_json::to_string_pretty(&value()).unwrap(), &line[..40]),
        _ => "\n}\n".to_owned(),
    }
}

#[derive(Debug, PartialEq)]
struct Seen {
    found: Vec<String>,
    records: u64,
    logs: usize,
    damaged: u64,
    damage: Vec<String>,
}

fn seen(logs: &[Log], threads: usize, piece: u64) -> Seen {
    let query = Query { any: vec![Filter::default()], ..Query::default() };
    let scan = Scan { query: &query, threads, piece, gentle: false, meter: &Silent };
    let mut found = Vec::new();
    let coverage = scan.search(logs, &mut |entry: Entry| {
        found.push(format!("{} {}", entry.event.audit_id, entry.place));
    });
    let damage = coverage.damage.iter().map(|damage| format!("{} {}", damage.place, damage.what)).collect();
    Seen { found, records: coverage.records, logs: coverage.logs, damaged: coverage.damaged, damage }
}

struct Counting(u64);

impl Sink for Counting {
    fn wants(&mut self, _: &crate::trail::glance::Glance<'_>, _: usize) -> bool {
        self.0 += 1;
        false
    }

    fn take(&mut self, _: Entry, _: &[u8]) {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn pieces_and_threads_change_nothing(kinds in prop::collection::vec(0usize..14, 1..12), piece in 3u64..2000) {
        let folder = tempfile::tempdir().unwrap();
        let text: String = kinds.iter().enumerate().map(|(id, &kind)| part(kind, id)).collect();
        fs::write(folder.path().join("audit.log"), &text).unwrap();
        let packed = fs::File::create(folder.path().join("audit-2026-01-02T03-04-05.678.log.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap();
        let logs = source::open(&[folder.path().to_owned()]).unwrap();

        let whole = seen(&logs, 1, 1 << 30);
        for (threads, piece) in [(1, piece), (2, piece), (3, 500)] {
            prop_assert_eq!(&seen(&logs, threads, piece), &whole, "{} threads, pieces of {}", threads, piece);
        }
        let query = Query { any: vec![Filter::default()], ..Query::default() };
        let scan = Scan { query: &query, threads: 3, piece, gentle: false, meter: &Silent };
        let mut sinks = [Counting(0), Counting(0), Counting(0)];
        let coverage = scan.fold(&logs, &mut sinks);
        prop_assert_eq!(sinks.iter().map(|sink| sink.0).sum::<u64>(), whole.found.len() as u64);
        prop_assert_eq!((coverage.records, coverage.damaged), (whole.records, whole.damaged));
    }
}

#[test]
fn a_window_is_read_from_its_middle_and_says_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let filler = "x".repeat(20_000);
    let line = |minute: usize| {
        let (hour, minute) = (minute / 60, minute % 60);
        let event = event(minute, &format!("{{\"filler\":\"{filler}\"}}"));
        event.replace("T03:04:05.000000Z", &format!("T{hour:02}:{minute:02}:00.000000Z"))
    };
    let text: String = (0..1200).map(|minute| line(minute) + "\n").collect();
    fs::write(&path, &text).unwrap();
    let logs = source::open(&[path]).unwrap();
    let query = Query {
        any: vec![Filter::default()],
        since: Some("2026-01-02T10:00:00Z".parse().unwrap()),
        until: Some("2026-01-02T10:03:00Z".parse().unwrap()),
    };
    struct Bytes(std::sync::atomic::AtomicU64);
    impl Meter for Bytes {
        fn read(&self, bytes: u64) {
            self.0.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let bytes = Bytes(std::sync::atomic::AtomicU64::new(0));
    let scan = Scan { query: &query, threads: 2, piece: 100_000, gentle: false, meter: &bytes };
    let mut found = Vec::new();
    scan.search(&logs, &mut |entry: Entry| {
        let At::Byte(byte) = entry.place.at else { panic!("{}", entry.place) };
        let from = usize::try_from(byte).unwrap() - 1;
        assert!(text[from..].starts_with("{\"kind\":\"Event\""), "{}", entry.place);
        found.push(entry.event.stage_timestamp.unwrap().to_string());
    });
    assert_eq!(found, ["2026-01-02T10:00:00Z", "2026-01-02T10:01:00Z", "2026-01-02T10:02:00Z"]);
    let read = bytes.0.into_inner();
    assert!(read < text.len() as u64 / 10, "{read} of {} bytes were read", text.len());
}

/// Found by fuzzing: what is left of a list after damage was its end where the log was read at once, and no JSON where it was read
/// in pieces.
#[test]
fn a_list_that_is_cut_is_as_damaged_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let record = event(0, "{}");
    for cut in [r#"{"items":["#, r#"{"items":[{"a" 1},"#] {
        let path = folder.path().join("audit.log");
        fs::write(&path, format!("{cut}{record}\n{record}]}}\n{record}\n")).unwrap();
        let logs = source::open(&[path]).unwrap();
        let whole = seen(&logs, 1, 1 << 30);
        assert_eq!(seen(&logs, 1, 3), whole, "{cut}");
        assert!(whole.damaged > 0, "{cut}");
    }
}
