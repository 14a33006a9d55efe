//! `kubectl audit evaluate`: which rule of a policy decides about a request, and what is logged of it.
//!
//! One request a line on standard input, one answer a line on standard output, so that a whole audit log can be
//! piped through a policy that is not in force yet. The policy is taken as kube-apiserver would hold it, lenience
//! included: the question is what the server does.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

use super::validate::{read_source, write_finding};
use super::{FAILED, Format, OK, Streams};
use crate::audit::{
    Attributes, Decision, EventRequest, EventUser, Finding, Policy, ServerVersion, Stage, User, evaluate,
    load,
};

/// Tell what an audit policy logs of requests.
///
/// Requests are read from standard input, one JSON object a line: {"user","groups","method","url"}, without a user
/// for a failed log-in; or an event of an audit log.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The policy file (audit.k8s.io/v1 Policy).
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Version of the kube-apiserver that is to read it.
    #[arg(long, value_name = "VERSION", default_value_t = ServerVersion::LATEST)]
    pub server_version: ServerVersion,
    /// How to print the answers: text, or one JSON object a line.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Runs the verb: [`FAILED`] when the policy is refused by the server, or a line was not understood.
///
/// # Errors
///
/// When something cannot be read or written.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    anyhow::ensure!(
        args.policy.as_os_str() != "-",
        "standard input is for the requests: write the policy to a file and give its name"
    );
    let source = read_source(&args.policy, streams)?;
    let Some(policy) = policy(args, &source, streams)? else { return Ok(FAILED) };
    let mut line = Vec::new();
    let mut code = OK;
    for number in 1_usize.. {
        line.clear();
        if streams.input.read_until(b'\n', &mut line).context("reading the requests")? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match attributes(&line) {
            Ok(request) => answer(&evaluate(&policy, &request), args.output, streams.out)?,
            Err(error) => {
                writeln!(streams.err, "line {number}: {error:#}")?;
                code = FAILED;
            }
        }
    }
    Ok(code)
}

/// The policy as the server holds it. Findings are for a person: on `err`, those that the server does not share as
/// warnings.
fn policy(args: &Args, source: &[u8], streams: &mut Streams<'_>) -> anyhow::Result<Option<Policy>> {
    let loaded = load(source, args.server_version);
    let refused = loaded.policy.is_none();
    for finding in loaded.findings.into_iter().filter(Finding::is_error) {
        let shown = if refused { finding } else { Finding { refused_by: None, ..finding } };
        write_finding(&args.policy.to_string_lossy(), &shown, streams.err)?;
    }
    Ok(loaded.policy)
}

/// One line of the input: `user` (a name), `groups`, `method` and `url`; or, of an audit event, `user` (an object),
/// `verb` and `requestURI`. One type for both, so that an event's bodies are skipped and never held.
#[derive(Deserialize)]
struct Line {
    user: Option<LineUser>,
    groups: Option<Vec<String>>,
    method: Option<String>,
    url: Option<String>,
    verb: Option<String>,
    #[serde(rename = "requestURI")]
    request_uri: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LineUser {
    Name(String),
    Account(EventUser),
}

fn attributes(line: &[u8]) -> anyhow::Result<Attributes> {
    let line: Line =
        serde_json::from_slice(line).context("not a JSON object with a request or an audit event")?;
    let attributes = match line {
        Line { request_uri: Some(request_uri), verb: Some(verb), user, .. } => {
            let user = match user {
                Some(LineUser::Account(user)) => user,
                Some(LineUser::Name(_)) => anyhow::bail!("`user` of an audit event must be an object"),
                None => EventUser::default(),
            };
            Attributes::from_event(EventRequest { request_uri, verb, user })
        }
        Line { method: Some(method), url: Some(url), user, groups, .. } => {
            let user = match user {
                Some(LineUser::Name(name)) => Some(User { name, groups: groups.unwrap_or_default() }),
                Some(LineUser::Account(_)) => anyhow::bail!("`user` of a request must be a name"),
                None => None,
            };
            Attributes::from_request(user, &method, &url)
        }
        _ => anyhow::bail!("a request needs `method` and `url`, an audit event `verb` and `requestURI`"),
    };
    Ok(attributes?)
}

fn answer(decision: &Decision, output: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    match output {
        Format::Json => writeln!(out, "{}", serde_json::to_string(decision)?),
        Format::Text => writeln!(out, "{}", text(decision)),
    }
    .context("writing the answer")
}

/// `Metadata, by rules[2], omitting RequestReceived`.
fn text(decision: &Decision) -> String {
    let mut text = match decision.rule {
        Some(index) => format!("{}, by rules[{index}]", decision.level),
        None => format!("{}, no rule matches", decision.level),
    };
    let stages: Vec<&str> = decision.omit_stages.iter().map(Stage::as_str).collect();
    if !stages.is_empty() {
        text += &format!(", omitting {}", stages.join(" and "));
    }
    if decision.omit_managed_fields {
        text += ", without managed fields";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code, results and messages.
    #[expect(clippy::disallowed_methods, reason = "the policy is a file")]
    fn run_on(policy: &str, output: Format, requests: &str) -> (u8, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, policy).unwrap();
        let (mut input, mut out, mut err) = (requests.as_bytes(), Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let args = Args { policy: file.clone(), server_version: ServerVersion::LATEST, output };
        let code = run(&args, &mut streams).unwrap();
        let err = String::from_utf8(err).unwrap().replace(&*file.to_string_lossy(), "FILE");
        (code, String::from_utf8(out).unwrap(), err)
    }

    const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
        - {level: None, users: [bob]}\n\
        - {level: Request, verbs: [create], omitStages: [Panic], omitManagedFields: true}\n\
        - {level: Metadata, userGroups: [dev]}\n";

    #[test]
    fn each_request_gets_one_json_line() {
        let requests = r#"{"user":"bob","groups":[],"method":"GET","url":"/version"}
{"user":"alice","groups":["dev"],"method":"POST","url":"/api/v1/namespaces/a/pods"}

{"user":"alice","groups":["dev"],"method":"GET","url":"/api/v1/pods?watch=1"}
{"user":null,"method":"GET","url":"/api/v1/pods"}
{"method":"GET","url":"/api/v1/pods"}
"#;
        let (code, out, err) = run_on(POLICY, Format::Json, requests);
        let expected = r#"{"level":"None","omitStages":["RequestReceived"],"omitManagedFields":false,"rule":0}
{"level":"Request","omitStages":["Panic","RequestReceived"],"omitManagedFields":true,"rule":1}
{"level":"Metadata","omitStages":["RequestReceived"],"omitManagedFields":false,"rule":2}
{"level":"None","omitStages":["RequestReceived"],"omitManagedFields":false,"rule":null}
{"level":"None","omitStages":["RequestReceived"],"omitManagedFields":false,"rule":null}
"#;
        assert_eq!((code, out.as_str(), err.as_str()), (OK, expected, ""));
    }

    #[test]
    fn an_audit_event_is_evaluated_by_its_uri_and_verb() {
        let events = r#"{"kind":"Event","requestURI":"/api/v1/namespaces/a/pods","verb":"create","user":{"username":"alice","groups":["dev"]},"objectRef":{"resource":"pods","name":"x"},"requestObject":{"a":[1]}}
{"kind":"Event","requestURI":"/api/v1/pods","verb":"list","user":{"username":"alice","groups":["dev"]}}
{"kind":"Event","requestURI":"/api/v1/pods","verb":"list","user":{}}
"#;
        let (code, out, err) = run_on(POLICY, Format::Text, events);
        let expected = "Request, by rules[1], omitting Panic and RequestReceived, without managed fields\n\
                        Metadata, by rules[2], omitting RequestReceived\n\
                        None, no rule matches, omitting RequestReceived\n";
        assert_eq!((code, out.as_str(), err.as_str()), (OK, expected, ""));
    }

    #[test]
    fn a_bad_line_is_told_and_the_rest_goes_on() {
        let requests = "{\n{\"user\":\"bob\",\"method\":\"GET\",\"url\":\"/version\"}\n{\"method\":\"GET\"}\n\
                        {\"method\":\"GET\",\"url\":\"version\"}\n[]\n";
        let (code, out, err) = run_on(POLICY, Format::Text, requests);
        assert_eq!((code, out.as_str()), (FAILED, "None, by rules[0], omitting RequestReceived\n"));
        let lines: Vec<&str> = err.lines().collect();
        assert!(
            lines[0].starts_with("line 1: not a JSON object with a request or an audit event: EOF"),
            "{err}"
        );
        assert_eq!(
            lines[1],
            "line 3: a request needs `method` and `url`, an audit event `verb` and `requestURI`"
        );
        assert!(lines[2].starts_with("line 4: `version` is not the URL of a request"), "{err}");
        assert!(lines[3].starts_with("line 5: "), "{err}");
    }

    #[test]
    fn what_the_server_lets_pass_is_a_warning_here() {
        let policy = "apiVersion: audit.k8s.io/v1\nrules:\n- {level: Metadata, level2: 1}\n";
        let request = r#"{"user":"bob","method":"GET","url":"/version"}"#;
        let (code, out, err) = run_on(policy, Format::Text, request);
        assert_eq!((code, out.as_str()), (OK, "Metadata, by rules[0]\n"));
        assert!(err.starts_with("FILE:3:21: warning: rules[0].level2: unknown field"), "{err}");
    }

    #[test]
    fn a_policy_that_the_server_refuses_is_refused_with_all_its_findings() {
        let policy = "apiVersion: audit.k8s.io/v1\nrules:\n- {level: x, users: [1], verb: [get]}\n";
        let (code, out, err) = run_on(policy, Format::Json, "{}");
        assert_eq!((code, out.as_str()), (FAILED, ""));
        let codes: Vec<_> =
            err.lines().filter_map(|line| line.rsplit_once(" [")).map(|(_, code)| code).collect();
        assert_eq!(codes, ["level-unknown]", "wrong-type]", "unknown-field]"], "{err}");
        assert!(err.lines().all(|line| line.contains(": error: ")), "{err}");
    }

    #[test]
    fn the_policy_does_not_come_from_standard_input() {
        let (mut input, mut out, mut err) = (&b""[..], Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let args =
            Args { policy: "-".into(), server_version: ServerVersion::LATEST, output: Format::default() };
        assert!(
            run(&args, &mut streams).unwrap_err().to_string().contains("standard input is for the requests")
        );
    }
}
