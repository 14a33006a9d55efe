//! The questions whose answer is a list, asked as a person does.

use clap::Parser;

use super::*;

#[derive(Parser)]
enum Cli {
    History(HistoryArgs),
    Grep(Box<GrepArgs>),
    Who(who::Args),
}

struct Said {
    code: u8,
    out: String,
    err: String,
}

fn run(log: &str, words: &[&str]) -> Said {
    let words = [&["audit"], words, &["--log", "-"]].concat();
    let cli = Cli::try_parse_from(words).unwrap();
    let (mut input, mut out, mut err) = (log.as_bytes(), Vec::new(), Vec::new());
    let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
    let code = match cli {
        Cli::History(args) => history(&args, &mut streams),
        Cli::Grep(args) => grep(&args, &mut streams),
        Cli::Who(args) => who::run(&args, &mut streams),
    };
    let code = code.unwrap_or_else(|error| {
        writeln!(streams.err, "{error:#}").unwrap();
        FAILED
    });
    Said { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn line(id: &str, second: u32, verb: &str, user: &str, object: &str) -> String {
    format!(
        "{{\"auditID\":\"{id}\",\"stage\":\"ResponseComplete\",\"verb\":\"{verb}\",\"user\":{{\"username\":\"{user}\"}},\
         \"objectRef\":{{{object}}},\"responseStatus\":{{\"code\":200}},\
         \"requestReceivedTimestamp\":\"2026-01-02T03:04:{second:02}.000000Z\"}}\n"
    )
}

const POD: &str = r#""resource":"pods","namespace":"default","name":"web""#;
const CONTROLLERS: &str = "system:serviceaccount:kube-system:";

#[test]
fn a_history_has_what_changed_the_object_and_nothing_else() {
    let all = r#""resource":"pods","namespace":"default""#;
    let elsewhere = r#""resource":"pods","namespace":"other""#;
    let log = [
        line("created", 1, "create", "jane", POD),
        line("bound", 2, "create", "s", &format!("{POD},\"subresource\":\"binding\"")),
        line("entered", 3, "create", "jane", &format!("{POD},\"subresource\":\"exec\"")),
        line("read", 4, "get", "jane", POD),
        line("status", 5, "patch", "k", &format!("{POD},\"subresource\":\"status\"")),
        line("all", 6, "deletecollection", "jane", all),
        line("all-elsewhere", 7, "deletecollection", "jane", elsewhere),
    ];
    let said = run(&log.concat(), &["history", "pod/web", "-o", "jsonl"]);
    let ids: Vec<String> = (said.out.lines())
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["auditID"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids, ["created", "bound", "status", "all"]);
}

#[test]
fn behind_a_controller_that_deletes_stands_somebody_else() {
    let collector = format!("{CONTROLLERS}generic-garbage-collector");
    let said = run(&line("a", 1, "delete", &collector, POD), &["who", "pod/web", "--did", "deleted"]);
    assert_eq!(said.code, OK);
    assert!(said.err.contains("lost its owner: ask who deleted that"), "{}", said.err);
    let emptied = line("a", 1, "deletecollection", &format!("{CONTROLLERS}namespace-controller"), POD);
    let said = run(&emptied.replace(",\"name\":\"web\"", ""), &["who", "pod/web", "--did", "deleted"]);
    assert!(said.err.contains("kubectl audit who namespace/default --did deleted"), "{}", said.err);
    let said = run(&line("a", 1, "delete", "jane", POD), &["who", "pod/web", "--did", "deleted"]);
    assert_eq!(said.err, "");
}

#[test]
fn an_object_is_found_in_whatever_namespace_it_is_or_by_its_uid() {
    let in_prod = POD.replace("default", "prod");
    let log = line("made", 1, "create", "jane", &in_prod)
        + &line(
            "updated",
            2,
            "update",
            "kubelet",
            &format!("{in_prod},\"uid\":\"u-1\",\"subresource\":\"status\""),
        )
        + &line(
            "claimed",
            3,
            "create",
            "mallory",
            &format!("{},\"uid\":\"u-1\"", POD.replace("web", "other")),
        );
    for words in [&["who", "pod/web", "-A"][..], &["who", "--uid", "u-1"]] {
        let said = run(&log, words);
        assert!(said.out.starts_with("pods web in prod was created by jane\n"), "{}{}", said.out, said.err);
    }
    let said = run(&log, &["who", "--uid", "u-2"]);
    assert!(said.code == FAILED && said.err.contains("no event in the logs tells"), "{}", said.err);
    let twice = log + &line("again", 4, "create", "jane", POD);
    let said = run(&twice, &["who", "pod/web", "-A"]);
    assert!(said.err.contains("pods.v1./web -n default\n  pods.v1./web -n prod"), "{}", said.err);
}

#[test]
fn events_are_printed_as_they_were_logged_however_many_are_kept() {
    let pod = r#""resource":"pods","namespace":"default","name":"web-1""#;
    let lines = [line("b", 2, "update", "jane", pod), line("a", 1, "create", "max", pod)];
    for limit in ["0", "10"] {
        let said = run(&lines.concat(), &["grep", "-o", "jsonl", "--limit", limit]);
        assert_eq!((said.code, said.out), (OK, [&*lines[1], &*lines[0]].concat()), "{}", said.err);
        let said = run(&lines.concat(), &["grep", "-o", "json", "--limit", limit, "--reverse"]);
        let events: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
        let ids: Vec<_> = events.iter().map(|event| event["auditID"].as_str().unwrap()).collect();
        assert_eq!(ids, ["b", "a"]);
        let said = run(&lines.concat(), &["grep", "-o", "yaml", "--limit", limit]);
        let events: Vec<serde_json::Value> = serde_yaml::from_str(&said.out).unwrap();
        assert_eq!(events[1]["user"]["username"], "jane");
    }
    let said = run(&lines.concat(), &["grep", "-o", "json", "--user", "nobody"]);
    assert_eq!((said.code, said.out.as_str()), (FAILED, "[]\n"));
    // One that `jq` has indented is a line again.
    let indented = lines[0].replace(r#","stage""#, ",\n  \"stage\"").replace('}', "\n}");
    let said = run(&indented, &["grep", "-o", "jsonl"]);
    assert_eq!((said.code, said.out), (OK, lines[0].clone()), "{}", said.err);
}
