//! Running a program to its end, with its own words in the error when it fails.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// Runs to the end and gives standard output; an exit code other than 0 is an error with both outputs' ends.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let ended = command.output().with_context(|| format!("starting `{shown}`"))?;
    said(ended, &shown)
}

/// The same, with something on its standard input.
pub(crate) fn output_of(command: &mut Command, input: &[u8]) -> Result<String> {
    let shown = show(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
    let mut to = child.stdin.take().context("its input is piped")?;
    let ended = thread::scope(|scope| {
        // A program that has ended without reading it all says why itself.
        scope.spawn(move || to.write_all(input));
        child.wait_with_output()
    })?;
    said(ended, &shown)
}

/// What a program says when it refuses; that it does not is an error.
pub(crate) fn refusal(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let ended = command.output().with_context(|| format!("starting `{shown}`"))?;
    ensure!(!ended.status.success(), "`{shown}` was not refused");
    Ok(String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// The last lines of a text: what a program says when it gives up.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("\n  | {line}")).collect()
}

fn said(ended: Output, shown: &str) -> Result<String> {
    let Output { status, stdout, stderr } = ended;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("`{shown}` ended with {status}: {}{}", tail(&stderr), tail(&stdout));
    }
    Ok(stdout)
}

/// The command line without what put the program into its namespaces.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|w| w.to_string_lossy().into_owned()).collect();
    let start = words.iter().position(|w| w == "--").filter(|_| words[0] == "nsenter").map_or(0, |at| at + 1);
    words[start..].join(" ")
}
