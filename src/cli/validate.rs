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

use super::{FAILED, OK, Streams, configuration};
use crate::audit::{Finding, MAX_SOURCE_BYTES, ServerVersion, load};

/// Check a policy or an AuditConfiguration as kube-apiserver would, and more strictly.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The policy (audit.k8s.io/v1 Policy) or the AuditConfiguration; `-` for standard input. May be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Version of the kube-apiserver that is to read it.
    #[arg(long, value_name = "VERSION", default_value_t = ServerVersion::LATEST)]
    pub server_version: ServerVersion,
    /// How to print the findings.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// How the findings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people; may change between versions.
    #[default]
    Text,
    /// One stable JSON value a file, a line each.
    Json,
    /// What GitHub's runners show beside the lines of a pull request, and the text of it in the log.
    Github,
}

/// Runs the verb: [`OK`] when nothing is refused in any of the files, [`FAILED`] otherwise.
///
/// # Errors
///
/// When a file cannot be read or the result not written.
pub fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let mut code = OK;
    for file in &args.files {
        let source = read_source(file, streams)?;
        let name = if is_stdin(file) { "<stdin>".into() } else { file.to_string_lossy() };
        code = code.max(report(&name, &source, args.server_version, args.output, streams)?);
    }
    Ok(code)
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
    output: Output,
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
    fn print(&self, output: Output, streams: &mut Streams<'_>) -> anyhow::Result<()> {
        match output {
            Output::Text => self.print_text(streams)?,
            Output::Json => writeln!(streams.out, "{}", serde_json::to_string(self)?)?,
            Output::Github => {
                for finding in &self.findings {
                    write_annotation(self.file, finding, streams.out)?;
                }
                self.print_verdict(streams)?;
            }
        }
        Ok(())
    }

    /// One line for each finding, as compilers write them, and one for the whole.
    fn print_text(&self, streams: &mut Streams<'_>) -> std::io::Result<()> {
        for finding in &self.findings {
            write_finding(self.file, finding, streams.out)?;
        }
        self.print_verdict(streams)
    }

    fn print_verdict(&self, streams: &mut Streams<'_>) -> std::io::Result<()> {
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

/// `::error file=FILE,line=3,col=5,title=CODE::rules[0].verb: …`, a workflow command of GitHub Actions.
fn write_annotation(file: &str, finding: &Finding, out: &mut dyn Write) -> std::io::Result<()> {
    let place = finding.position.map(|at| format!(",line={},col={}", at.line, at.column)).unwrap_or_default();
    let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
    let (file, message) = (escaped(file, true), escaped(&format!("{path}{}", finding.message), false));
    writeln!(out, "::{} file={file}{place},title={}::{message}", finding.severity(), finding.code)
}

/// As the runner wants it: what would end a line, and in a property also what would end that.
fn escaped(text: &str, in_property: bool) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    if in_property { text.replace(':', "%3A").replace(',', "%2C") } else { text }
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the verb on standard input: code and result.
    fn run_on(source: &[u8], server: &str, output: Output) -> (u8, String) {
        let (mut input, mut out, mut err) = (source, Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let server_version = server.parse().unwrap();
        let code = run(&Args { files: vec!["-".into()], server_version, output }, &mut streams).unwrap();
        assert!(err.is_empty(), "findings are results");
        (code, String::from_utf8(out).unwrap())
    }

    #[track_caller]
    fn check_text(source: &str, server: &str, code: u8, expected: &str) {
        assert_eq!(run_on(source.as_bytes(), server, Output::Text), (code, expected.to_owned()));
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
        let (code, out) = run_on(format!("{HEAD}rules:\n- level: none\n").as_bytes(), "1.36", Output::Json);
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
    fn annotations_are_what_a_runner_of_github_reads() {
        let source = format!("{HEAD}rules:\n- level: Metadata\n  users: ['*']\n  verb: [get]\n");
        let (code, out) = run_on(source.as_bytes(), "1.37", Output::Github);
        assert_eq!(code, FAILED);
        let expected = "\
::error file=<stdin>,line=6,col=3,title=unknown-field::rules[0].verb: unknown field `verb`, which kube-apiserver ignores; did you mean `verbs`?
<stdin>: refused, although kube-apiserver 1.37.0 would start with it (1 error, 0 warnings)
";
        assert_eq!(out, expected);
        assert_eq!(escaped("a:b,c\r\n100%", true), "a%3Ab%2Cc%0D%0A100%25");
        assert_eq!(escaped("a:b,c\n", false), "a:b,c%0A");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "writes the files that it has read")]
    fn one_bad_file_among_good_ones_fails() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, level: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, format!("{HEAD}rules:\n- level: {level}\n")).unwrap();
            file
        };
        let files = vec![write("bad.yaml", "Meta"), write("good.yaml", "Metadata")];
        let (mut input, mut out, mut err) = (&b""[..], Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let args = Args { files, server_version: ServerVersion::LATEST, output: Output::Json };
        assert_eq!(run(&args, &mut streams).unwrap(), FAILED);
        let out = String::from_utf8(out).unwrap();
        let valid = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        assert_eq!(valid.map(|line| line["valid"] == true).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_huge_file_is_refused_for_its_size_and_not_read_whole() {
        let mut endless = std::io::BufReader::new(std::io::repeat(b' '));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut endless, out: &mut out, err: &mut err, color: false };
        let args =
            Args { files: vec!["-".into()], server_version: ServerVersion::LATEST, output: Output::Text };
        assert_eq!(run(&args, &mut streams).unwrap(), FAILED);
        assert!(String::from_utf8(out).unwrap().contains("[too-large]"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let (mut input, mut out, mut err) = (&b""[..], Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, color: false };
        let args = Args {
            files: vec!["no/such".into()],
            server_version: ServerVersion::LATEST,
            output: Output::Text,
        };
        let error = format!("{:#}", run(&args, &mut streams).unwrap_err());
        assert!(error.starts_with("reading `no/such`: "), "{error}");
    }
}
