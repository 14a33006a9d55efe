//! `who KIND/NAME`: who made this object, and who is behind that, or why the logs cannot tell.
//!
//! A thin shell around [`trail::who`](crate::trail::who): words in, logs read, answer printed. What a log says is
//! printed with control characters escaped, since user agents and names are whatever their senders chose.

use std::fmt::Write as _;

use anyhow::bail;
use serde::Serialize;

use super::events::{self, Deed};
use super::logs::{self, Logs};
use super::object;
use super::output::{Output, shown};
use super::{FAILED, OK, Streams};
use crate::trail::question::Question;
use crate::trail::read::{Coverage, Entry};
use crate::trail::who::{Answer, Candidate, Chase, Link, Need};

/// Says who made an object, and who is behind that: from a Pod over its ReplicaSet and Deployment to a person.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which object.
    #[command(flatten)]
    pub object: object::Args,
    /// What was done to it.
    #[arg(long, value_enum, default_value_t)]
    pub did: Deed,
    /// Where the logs are.
    #[command(flatten)]
    pub logs: logs::Args,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The latest so many of what was `--did`, where that is a list; 0 for all [default: 1000].
    #[arg(long, requires = "did", value_name = "NUMBER")]
    pub limit: Option<usize>,
}

/// Answers on `out`: [`OK`]. No answer: [`FAILED`], with the reasons on `err`, or in the JSON on `out`.
///
/// # Errors
/// The object cannot be understood, or the logs cannot be reached.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut logs = match (args.object.parse(None), Logs::open(&args.logs)) {
        (Ok(_), Ok(logs)) => logs,
        (Err(question), Err(logs)) => bail!("{question}\n{logs:#}"),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
    };
    let question = args.object.question(&mut logs, streams)?;
    if args.did != Deed::Created {
        return events::did(args, &question, &mut logs, streams);
    }

    let mut chase = Chase::new(question.clone(), args.object.uid.clone(), logs.has_cluster());
    let mut coverage = Coverage::default();
    loop {
        match chase.next() {
            Need::Nothing => break,
            Need::Live(question) => chase.live(logs.live(&question)),
            Need::Events(query) => {
                coverage = logs.scan(&query, streams, &mut |entry: Entry| chase.see(&entry))?;
                chase.seen(coverage.clone());
            }
        }
    }
    let mut answer = chase.answer();
    match &mut answer.unknown {
        Some(unknown) => unknown.reasons.extend(logs.missing()),
        None => answer.notes.extend(logs.missing()),
    }

    match args.output {
        Output::Table | Output::Wide => {
            streams.out.write_all(known(&answer, args.output == Output::Wide).as_bytes())?;
            if answer.unknown.is_some() {
                streams.err.write_all(unknown(&question, &answer).as_bytes())?;
            }
        }
        output => output.value(&Report::new(&answer, &coverage), streams)?,
    }
    Ok(if answer.unknown.is_none() { OK } else { FAILED })
}

/// The JSON answer; stable.
#[derive(Serialize)]
struct Report<'a> {
    known: bool,
    chain: &'a [Link],
    unknown: Option<String>,
    candidates: &'a [Candidate],
    earlier: usize,
    notes: &'a [String],
    damaged: Damaged<'a>,
}

#[derive(Serialize)]
struct Damaged<'a> {
    count: u64,
    first: Vec<DamagedPlace<'a>>,
}

#[derive(Serialize)]
struct DamagedPlace<'a> {
    source: String,
    what: &'a str,
}

impl<'a> Report<'a> {
    fn new(answer: &'a Answer, coverage: &'a Coverage) -> Self {
        let first = coverage.damage.iter();
        let first = first.map(|damage| DamagedPlace { source: damage.place.to_string(), what: &damage.what });
        Self {
            known: answer.unknown.is_none(),
            chain: &answer.chain,
            unknown: answer.unknown.as_ref().map(|unknown| unknown.reasons.join("; ")),
            candidates: answer.unknown.as_ref().map_or(&answer.alternatives, |unknown| &unknown.candidates),
            earlier: answer.earlier,
            notes: &answer.notes,
            damaged: Damaged { count: coverage.damaged, first: first.collect() },
        }
    }
}

fn known(answer: &Answer, wide: bool) -> String {
    let mut text = String::new();
    for link in &answer.chain {
        let _ = writeln!(text, "{}", shown(&made(link)));
        let groups = wide.then(|| ("groups", link.groups.join(", ")));
        for (name, value) in facts(link).into_iter().chain(groups) {
            let _ = writeln!(text, "  {name:<8} {}", shown(&value));
        }
    }
    if answer.earlier > 0 {
        let _ =
            writeln!(text, "note: the latest of {} creations of this name in these logs", answer.earlier + 1);
    }
    for note in &answer.notes {
        let _ = writeln!(text, "note: {}", shown(note));
    }
    text
}

fn made(link: &Link) -> String {
    let object = &link.object;
    let group = if object.api_group.is_empty() { String::new() } else { format!(".{}", object.api_group) };
    let namespace =
        if object.namespace.is_empty() { String::new() } else { format!(" in {}", object.namespace) };
    let who = link.impersonated_user.as_ref().unwrap_or(&link.user);
    format!("{}{group} {}{namespace} was created by {who}", object.resource, object.name)
}

fn facts(link: &Link) -> Vec<(&'static str, String)> {
    let who = match &link.impersonated_user {
        Some(user) => format!("{user}, impersonated by {}", link.user),
        None => link.user.clone(),
    };
    let when = match (link.time, link.completed) {
        (Some(time), Some(completed)) => format!("{time:.6}, answered {completed:.6}"),
        (Some(time), None) => format!("{time:.6}"),
        (None, _) => "not told".to_owned(),
    };
    let from = match link.source_ips.as_slice() {
        [] => "not told".to_owned(),
        [address] => address.clone(),
        addresses => format!("{} (only the last is not the client's word)", addresses.join(", ")),
    };
    let client = if link.user_agent.is_empty() { "not told".to_owned() } else { link.user_agent.clone() };
    let allowed = link.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("not told");
    vec![
        ("who", who),
        ("when", when),
        ("from", from),
        ("client", client),
        ("how", format!("{}, {}", link.verb, link.code)),
        ("allowed", allowed.to_owned()),
        ("event", format!("{} at {}", link.audit_id, link.source)),
        ("because", link.how.clone()),
    ]
}

fn unknown(question: &Question, answer: &Answer) -> String {
    let mut text = format!("who created {} cannot be known from these logs:\n", shown(&question.to_string()));
    let Some(unknown) = &answer.unknown else { return text };
    for reason in &unknown.reasons {
        let _ = writeln!(text, "  - {}", shown(reason));
    }
    for candidate in &unknown.candidates {
        let _ = writeln!(text, "candidate: {}; {}", shown(&candidate.link.to_string()), candidate.why);
    }
    text
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "writes the logs it reads")]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;

    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        who: Args,
    }

    struct Said {
        code: u8,
        out: String,
        err: String,
    }

    fn run_with(input: &[u8], words: &[&str]) -> anyhow::Result<Said> {
        let args = Cli::try_parse_from(std::iter::once(&"who").chain(words))?.who;
        let (mut input, mut out, mut err) = (input, Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let code = run(&args, &mut streams)?;
        Ok(Said { code, out: String::from_utf8(out)?, err: String::from_utf8(err)? })
    }

    fn data(log: &str) -> String {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trail").join(log).display().to_string()
    }

    #[test]
    fn the_suspicious_pod_is_answered_for_people() {
        let said =
            run_with(b"", &["pod/my-suspicious-pod", "--log", &data("node-b"), &data("node-a")]).unwrap();
        let at = data("node-a/audit-2026-03-04T10-21-00.000.log:4");
        let expected = format!(
            "pods my-suspicious-pod in default was created by foobar\n  \
               who      foobar, impersonated by kubernetes-admin\n  \
               when     2026-03-04T10:20:30.123400Z, answered 2026-03-04T10:20:30.151000Z\n  \
               from     192.168.56.1\n  \
               client   kubectl/v1.33.2 (linux/amd64) kubernetes/a57b6f7\n  \
               how      create, 201\n  \
               allowed  RBAC: allowed by RoleBinding \"foobar-admin/default\" of ClusterRole \"admin\" to User \"foobar\"\n  \
               event    3f1c7a52-6c0e-4a0b-9a6e-5a7f3e1d2c4b at {at}\n  \
               because  the event of its creation names it\n"
        );
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (OK, expected.as_str(), ""));
    }

    #[test]
    fn the_suspicious_pod_is_answered_for_programs() {
        let words = ["pod", "my-suspicious-pod", "-n", "default", "-o", "json", "--log", &data("node-a")];
        let said = run_with(b"", &words).unwrap();
        let report: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(said.code, OK);
        assert_eq!(
            (&report["known"], &report["unknown"], &report["earlier"]),
            (&json!(true), &json!(null), &json!(0))
        );
        assert_eq!(report["damaged"], json!({"count": 0, "first": []}));
        assert_eq!(report["chain"].as_array().unwrap().len(), 1);
        let link = &report["chain"][0];
        assert_eq!(link["user"], "kubernetes-admin");
        assert_eq!(link["impersonatedUser"], "foobar");
        assert_eq!(link["time"], "2026-03-04T10:20:30.123400Z");
        assert_eq!(link["sourceIPs"], json!(["192.168.56.1"]));
        assert_eq!(link["auditID"], "3f1c7a52-6c0e-4a0b-9a6e-5a7f3e1d2c4b");
        assert_eq!(link["source"], data("node-a/audit-2026-03-04T10-21-00.000.log:4"));
    }

    #[test]
    fn no_answer_is_a_failure_with_its_reasons() {
        let live = data("node-a/audit.log");
        let said = run_with(b"", &["pod/my-suspicious-pod", "--log", &live]).unwrap();
        assert_eq!((said.code, said.out.as_str()), (FAILED, ""));
        assert!(
            said.err.starts_with("who created pods `my-suspicious-pod` in `default` cannot be known from these logs:\n  - 2 events are about"),
            "{}",
            said.err
        );

        let said = run_with(b"", &["pod/my-suspicious-pod", "-o", "json", "--log", &live]).unwrap();
        let report: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((said.code, &report["known"], &report["chain"]), (FAILED, &json!(false), &json!([])));
        assert!(report["unknown"].as_str().unwrap().contains("2026-03-04T10:24:00.003000Z"), "{report}");
    }

    #[test]
    fn rotated_packed_indented_and_damaged_logs_give_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let lines = fs::read_to_string(data("node-a/audit-2026-03-04T10-21-00.000.log")).unwrap();
        let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": events});
        let packed = dir.path().join("audit-2026-03-04T10-21-00.000.log.gz");
        let mut packed =
            flate2::write::GzEncoder::new(fs::File::create(packed).unwrap(), flate2::Compression::fast());
        packed.write_all(serde_json::to_string_pretty(&list).unwrap().as_bytes()).unwrap();
        packed.finish().unwrap();
        let live = fs::read_to_string(data("node-a/audit.log")).unwrap();
        fs::write(dir.path().join("audit.log"), format!("{}\n{live}", &lines[..100])).unwrap();

        let words = ["pod/my-suspicious-pod", "-o", "json", "--log", &dir.path().display().to_string()];
        let report: Value = serde_json::from_str(&run_with(b"", &words).unwrap().out).unwrap();

        assert_eq!(report["chain"][0]["auditID"], "3f1c7a52-6c0e-4a0b-9a6e-5a7f3e1d2c4b");
        let source = report["chain"][0]["source"].as_str().unwrap();
        assert!(source.contains("audit-2026-03-04T10-21-00.000.log.gz:"), "{source}");
        assert_eq!(report["damaged"]["count"], 1);
        let damaged = report["damaged"]["first"][0]["source"].as_str().unwrap();
        assert!(damaged.ends_with("/audit.log:1"), "{damaged}");
        assert!(report["notes"][0].as_str().unwrap().contains("1 damaged place"), "{report}");
    }

    #[test]
    fn standard_input_is_a_log() {
        let log = fs::read(data("node-b/audit.log")).unwrap();
        let said = run_with(&log, &["po/my-suspicious-pod", "-n", "prod", "--log", "-"]).unwrap();
        assert_eq!(said.code, OK);
        assert!(said.out.contains(" created by jane\n") && said.out.contains(" at -:1\n"), "{}", said.out);
    }

    #[test]
    fn mistakes_are_told_together() {
        let error = |words: &[&str]| format!("{:#}", run_with(b"", words).map(|said| said.code).unwrap_err());
        let said = error(&["pod", "--kubeconfig", "no-such-file"]);
        assert!(said.contains("`pod` names no object") && said.contains("give --log"), "{said}");
        let said = error(&["pod/a/b", "--log", "no-such-log", "nor-this"]);
        assert!(
            said.contains("`pod/a/b`") && said.contains("`no-such-log`") && said.contains("`nor-this`"),
            "{said}"
        );
    }

    #[test]
    fn a_log_cannot_write_to_the_terminal() {
        let log = fs::read_to_string(data("node-b/audit.log"))
            .unwrap()
            .replace("kubectl/v1", r"\u001b[2Jkubectl\u202e/v1");
        let said = run_with(log.as_bytes(), &["po/my-suspicious-pod", "-n", "prod", "--log", "-"]).unwrap();
        assert!(said.out.contains(r"\u{1b}[2Jkubectl\u{202e}/v1"), "{}", said.out);
    }
}
