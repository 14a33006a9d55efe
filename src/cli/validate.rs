//! `kubectl audit validate`: what kube-apiserver would make of a policy or of an AuditConfiguration, and everything that
//! is wrong with it.
//!
//! Two judgements, because they differ: whether the server would start with the file, and whether we would roll it
//! out. Nothing is changed anywhere; the exit code is for CI.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::{FAILED, Format, OK, Streams, configuration};
use crate::audit::{Finding, MAX_SOURCE_BYTES, ServerVersion, load};

/// Check a policy or an AuditConfiguration as kube-apiserver would, and more strictly.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The policy (audit.k8s.io/v1 Policy) or the AuditConfiguration; `-` for standard input.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub file: PathBuf,
    /// Version of the kube-apiserver that is to read it.
    #[arg(long, value_name = "VERSION", default_value_t = ServerVersion::LATEST)]
    pub server_version: ServerVersion,
    /// How to print the findings.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Runs the verb: [`OK`] when nothing is refused, [`FAILED`] otherwise.
///
/// # Errors
///
/// When the file cannot be read or the result not written.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let source = read_source(&args.file, streams)?;
    let file = if is_stdin(&args.file) { "<stdin>".into() } else { args.file.to_string_lossy() };
    report(&file, &source, args.server_version, args.output, streams)
}

/// Judges the text of a policy or of an AuditConfiguration and prints the result; `file` is what it is called there.
///
/// # Errors
///
/// When the result cannot be written.
pub fn report(
    file: &str,
    source: &[u8],
    server: ServerVersion,
    output: Format,
    streams: &mut Streams<'_>,
) -> anyhow::Result<u8> {
    let configuration = configuration::is_one(source);
    let (accepted_by_server, findings) = if configuration {
        let (_, findings) = configuration::render(source, server);
        (!findings.iter().any(Finding::stops_server), findings)
    } else {
        let loaded = load(source, server);
        (loaded.policy.is_some(), loaded.findings)
    };
    let valid = !findings.iter().any(Finding::is_error);
    let report = Report { file, configuration, server_version: server, valid, accepted_by_server, findings };
    report.print(output, streams).context("writing the result")?;
    Ok(if report.valid { OK } else { FAILED })
}

/// The first bytes of a file or of standard input (`-`): one more than a policy may have, so that a larger one is
/// refused for its size without being read whole.
///
/// # Errors
///
/// When it cannot be read; the message names it.
#[expect(clippy::disallowed_methods, reason = "a verb reads the files that it is given")]
pub fn read_source(file: &Path, streams: &mut Streams<'_>) -> anyhow::Result<Vec<u8>> {
    let mut source = Vec::new();
    let limit = MAX_SOURCE_BYTES as u64 + 1;
    let read = if is_stdin(file) {
        (&mut *streams.input).take(limit).read_to_end(&mut source)
    } else {
        File::open(file).and_then(|opened| opened.take(limit).read_to_end(&mut source))
    };
    read.with_context(|| format!("reading `{}`", file.display()))?;
    Ok(source)
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// What is said of one file; its JSON is stable.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    file: &'a str,
    /// An AuditConfiguration, which no kube-apiserver starts with.
    #[serde(skip)]
    configuration: bool,
    server_version: ServerVersion,
    /// Nothing is refused.
    valid: bool,
    /// That kube-apiserver would start with it.
    accepted_by_server: bool,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn print(&self, output: Format, streams: &mut Streams<'_>) -> anyhow::Result<()> {
        match output {
            Format::Text => self.print_text(streams)?,
            Format::Json => writeln!(streams.out, "{}", serde_json::to_string(self)?)?,
        }
        Ok(())
    }

    /// One line for each finding, as compilers write them, and one for the whole.
    fn print_text(&self, streams: &mut Streams<'_>) -> std::io::Result<()> {
        for finding in &self.findings {
            write_finding(self.file, finding, streams.out)?;
        }
        let (file, server) = (self.file, self.server_version);
        let verdict = match (self.valid, self.accepted_by_server) {
            (true, _) => format!("valid for kube-apiserver {server}"),
            (false, _) if self.configuration => "refused".to_owned(),
            (false, true) => format!("refused, although kube-apiserver {server} would start with it"),
            (false, false) => {
                format!("refused: kube-apiserver {server} would not start with it, or cannot be trusted to")
            }
        };
        let errors = self.findings.iter().filter(|finding| finding.is_error()).count();
        let warnings = self.findings.len() - errors;
        writeln!(
            streams.out,
            "{file}: {verdict} ({}, {})",
            count(errors, "error"),
            count(warnings, "warning")
        )
    }
}

/// `FILE:3:5: error: rules[0].verb: … [code]`.
pub(super) fn write_finding(file: &str, finding: &Finding, out: &mut dyn Write) -> std::io::Result<()> {
    let place = finding.position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
    let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
    let Finding { message, code, .. } = finding;
    writeln!(out, "{file}{place}: {}: {path}{message} [{code}]", finding.severity())
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the verb on standard input: code and result.
    fn run_on(source: &[u8], server: &str, output: Format) -> (u8, String) {
        let (mut input, mut out, mut err) = (source, Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let server_version = server.parse().unwrap();
        let code = run(&Args { file: "-".into(), server_version, output }, &mut streams).unwrap();
        assert!(err.is_empty(), "findings are results");
        (code, String::from_utf8(out).unwrap())
    }

    #[track_caller]
    fn check_text(source: &str, server: &str, code: u8, expected: &str) {
        assert_eq!(run_on(source.as_bytes(), server, Format::Text), (code, expected.to_owned()));
    }

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    #[test]
    fn a_valid_policy_is_said_to_be_valid() {
        check_text(
            &format!("{HEAD}rules:\n- level: Metadata\n"),
            "1.37",
            OK,
            "<stdin>: valid for kube-apiserver 1.37.0 (0 errors, 0 warnings)\n",
        );
    }

    #[test]
    fn warnings_alone_do_not_fail() {
        check_text(
            &format!("{HEAD}rules:\n- level: Metadata\n  users: ['*']\n"),
            "1.37",
            OK,
            "<stdin>:5:11: warning: rules[0].users[0]: `*` is no wildcard in `users`, so `*` matches nothing: leave \
             the list out to match all [never-matches]\n\
             <stdin>: valid for kube-apiserver 1.37.0 (0 errors, 1 warning)\n",
        );
    }

    #[test]
    fn what_only_we_refuse_is_told_apart_from_what_the_server_refuses() {
        check_text(
            &format!("{HEAD}rules:\n- level: Metadata\n  verb: [get]\n"),
            "1.37",
            FAILED,
            "<stdin>:5:3: error: rules[0].verb: unknown field `verb`, which kube-apiserver ignores; did you mean \
             `verbs`? [unknown-field]\n\
             <stdin>: refused, although kube-apiserver 1.37.0 would start with it (1 error, 0 warnings)\n",
        );
        check_text(
            &format!("{HEAD}rules:\n- level: None\n  resources:\n  - group: '*'\n"),
            "v1.35.2",
            FAILED,
            "<stdin>:6:12: error: rules[0].resources[0].group: the group `*` needs kube-apiserver 1.36, and 1.35.2 \
             does not start with it: name the groups [wildcard-group]\n\
             <stdin>: refused: kube-apiserver 1.35.2 would not start with it, or cannot be trusted to (1 error, 0 \
             warnings)\n",
        );
    }

    #[test]
    fn json_says_the_same_with_stable_keys() {
        let (code, out) = run_on(format!("{HEAD}rules:\n- level: none\n").as_bytes(), "1.36", Format::Json);
        assert_eq!(code, FAILED);
        let expected = serde_json::json!({
            "file": "<stdin>", "serverVersion": "1.36.0", "valid": false, "acceptedByServer": false,
            "findings": [{
                "code": "level-unknown", "severity": "error", "refusedBy": "server", "path": "rules[0].level",
                "line": 4, "column": 10, "message": "`none` is not a level: capitals count, write `None`",
            }],
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap(), expected);
        assert_eq!(out.lines().count(), 1);
    }

    #[test]
    fn a_huge_file_is_refused_for_its_size_and_not_read_whole() {
        let mut endless = std::io::BufReader::new(std::io::repeat(b' '));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut endless, out: &mut out, err: &mut err, color: false };
        let args = Args { file: "-".into(), server_version: ServerVersion::LATEST, output: Format::Text };
        assert_eq!(run(&args, &mut streams).unwrap(), FAILED);
        assert!(String::from_utf8(out).unwrap().contains("[too-large]"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let (mut input, mut out, mut err) = (&b""[..], Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let args =
            Args { file: "no/such".into(), server_version: ServerVersion::LATEST, output: Format::Text };
        let error = format!("{:#}", run(&args, &mut streams).unwrap_err());
        assert!(error.starts_with("reading `no/such`: "), "{error}");
    }
}
