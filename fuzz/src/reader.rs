//! Whatever bytes a log has: the reader does not panic, a log in pieces is the same log, and what is seen at a glance is what
//! the event says.
#![no_main]
#![allow(missing_docs, dead_code, unused_imports, unreachable_pub, clippy::disallowed_methods, reason = "src/trail is compiled in here")]

#[path = "../../src/trail/mod.rs"]
mod trail;

use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use trail::event::Event;
use trail::glance::Glance;
use trail::query::{Filter, Query};
use trail::question::Question;
use trail::read::{self, Coverage, Entry};
use trail::request::{self, Request, Requests};
use trail::scan::{Scan, Silent};
use trail::sieve::Sieve;
use trail::source;
use trail::who::{Chase, Need};

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, log)) = bytes.split_first() else { return };
    let whole = read_whole(log);
    glances(log);
    match how % 4 {
        0 => pieces(log, &whole, u64::from(how / 4) + 3),
        1 => questions(log),
        _ => {}
    }
});

fn read_whole(log: &[u8]) -> (Vec<String>, u64) {
    let (mut coverage, mut found) = (Coverage::default(), Vec::new());
    read::read("x", log, &Sieve::default(), &mut coverage, &mut |entry: Entry| {
        found.push(format!("{} {}", entry.event.audit_id, entry.place));
    });
    (found, coverage.damaged)
}

/// Through a file, as the command reads it.
fn pieces(log: &[u8], whole: &(Vec<String>, u64), piece: u64) {
    if log.is_empty() || log[0] == 0x1f {
        return;
    }
    let mut file = tempfile::Builder::new().suffix(".log").tempfile().expect("a file can be made");
    file.write_all(log).expect("it can be written");
    let logs = source::open(&[file.path().to_owned()]).expect("it is there");
    let query = Query { any: vec![Filter::default()], ..Query::default() };
    for threads in [1, 2] {
        let scan = Scan { query: &query, threads, piece, gentle: false, meter: &Silent };
        let mut found = Vec::new();
        let coverage = scan.search(&logs, &mut |mut entry: Entry| {
            entry.place.file = "x".into();
            found.push(format!("{} {}", entry.event.audit_id, entry.place));
        });
        assert_eq!((&found, coverage.damaged), (&whole.0, whole.1), "{threads} threads, pieces of {piece}");
    }
}

fn glances(log: &[u8]) {
    for record in log.split(|byte| *byte == b'\n') {
        let (glance, event) = (Glance::of(record), Event::from_json(record));
        let Ok(event) = event else { continue };
        // A log whose text is not UTF-8 is made so before it is looked at again.
        let Some(glance) = glance else {
            assert!(std::str::from_utf8(record).is_err(), "an event without a head");
            continue;
        };
        assert_eq!(glance.audit_id.as_str(), event.audit_id);
        assert_eq!(glance.verb.as_str(), event.verb);
        assert_eq!(glance.stage, event.stage);
        assert_eq!(glance.user.as_str(), event.user.username);
        assert_eq!(glance.code(), event.code());
        assert_eq!(glance.outcome(), event.outcome());
        assert_eq!(glance.time(), event.time());
        let name = event.object_ref.as_ref().map_or("", |object| &object.name);
        assert_eq!(glance.object_ref.as_ref().map_or("", |object| object.name.as_str()), name);
        let uri = glance.request_uri.map(|uri| uri.text()).unwrap_or_default();
        assert_eq!(uri, event.request_uri);
        let client = glance.client().expect("what is an event has a client");
        let impersonated = event.impersonated_user.as_ref().map(|user| user.username.as_str());
        assert_eq!(client.impersonated_user.as_ref().map(|name| name.as_str()), impersonated);
        assert_eq!(client.user_agent.as_ref().map_or("", |agent| agent.as_str()), event.user_agent);
        assert_eq!(client.source_ips.map(|ips| ips.texts()).unwrap_or_default(), event.source_ips);
    }
}

fn questions(log: &[u8]) {
    let mut requests = Requests::new(3);
    read::read("x", log, &Sieve::default(), &mut Coverage::default(), &mut |entry: Entry| {
        requests.see(&entry.event, || Request::with_body(&entry));
    });
    request::tell_changes(&mut requests.into_sorted());
    let question = Question::parse(&["pod/my-suspicious-pod".to_owned()], None).expect("it is one");
    let mut chase = Chase::new(question, None, false);
    loop {
        match chase.next() {
            Need::Nothing => break,
            Need::Live(_) => chase.live(None),
            Need::Events(query) => {
                let mut coverage = Coverage::default();
                let sieve = query.sieve();
                let mut take = |entry: Entry| chase.see(&entry);
                let mut matching = trail::query::Matching { query: &query, sink: &mut take };
                read::read("x", log, &sieve, &mut coverage, &mut matching);
                chase.seen(coverage);
            }
        }
    }
    drop(chase.answer());
}
