//! Running a program to its end, with its own words in the error when it fails.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Runs to the end and gives standard output; an exit code other than 0 is an error with both outputs' ends.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("starting `{shown}`"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("`{shown}` ended with {status}: {}{}", tail(&stderr), tail(&stdout));
    }
    Ok(stdout)
}

/// The last lines of a text: what a program says when it gives up.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("\n  | {line}")).collect()
}

/// The command line without what put the program into its namespaces.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|w| w.to_string_lossy().into_owned()).collect();
    let start = words.iter().position(|w| w == "--").filter(|_| words[0] == "nsenter").map_or(0, |at| at + 1);
    words[start..].join(" ")
}
