//! Running a program to its end, with its own words in the error when it fails.
//!
//! Every program has a limit of time: one that hangs, such as a kubectl whose API server took the connection and then
//! lost its power, is ended with everything it started, so that a run ends and says which one it was.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// What a program is given that has no limit of its own: ten times what the slowest of them takes here.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Runs to the end and gives standard output; an exit code other than 0 is an error with both outputs' ends.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    output_within(command, LIMIT)
}

/// The same, of a program that may take longer, or must not take as long.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> Result<String> {
    said(run(command.stdin(Stdio::null()), &[], limit)?, &show(command))
}

/// The same, with something on its standard input.
pub(crate) fn output_of(command: &mut Command, input: &[u8]) -> Result<String> {
    said(run(command.stdin(Stdio::piped()), input, LIMIT)?, &show(command))
}

/// What a program says when it refuses; that it does not is an error.
pub(crate) fn refusal(command: &mut Command) -> Result<String> {
    let ended = run(command.stdin(Stdio::null()), &[], LIMIT)?;
    ensure!(!ended.status.success(), "`{}` was not refused", show(command));
    Ok(String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// Runs to the end, whatever that is.
pub(crate) fn ended(command: &mut Command, limit: Duration) -> Result<Output> {
    run(command.stdin(Stdio::null()), &[], limit)
}

/// The last lines of a text: what a program says when it gives up.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("\n  | {line}")).collect()
}

fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let shown = show(command);
    // A group of its own, to be ended as a whole: `nsenter` runs the program as its child.
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
    let mut child = child.with_context(|| format!("starting `{shown}`"))?;
    let (to, mut out, mut err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        if let Some(mut to) = to {
            // A program that has ended without reading it all says why itself.
            scope.spawn(move || to.write_all(input));
        }
        let stdout = scope.spawn(move || read(&mut out));
        let stderr = scope.spawn(move || read(&mut err));
        let status = wait(&mut child, limit);
        let words = |reader: thread::ScopedJoinHandle<'_, Vec<u8>>| reader.join().unwrap_or_default();
        let (stdout, stderr) = (words(stdout), words(stderr));
        let Some(status) = status.with_context(|| format!("waiting for `{shown}`"))? else {
            let said = String::from_utf8_lossy(&stderr);
            bail!("`{shown}` has not ended in {} s and was killed{}", limit.as_secs(), tail(&said));
        };
        Ok(Output { status, stdout, stderr })
    })
}

fn read(from: &mut Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let _ = from.read_to_end(&mut bytes);
    }
    bytes
}

/// The child's end; `None` when it had to be killed for taking too long.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    if has_ended(&process, limit)? {
        return Ok(Some(child.wait()?));
    }
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait()?;
    Ok(None)
}

fn has_ended(process: &OwnedFd, limit: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    loop {
        match poll(&mut fds, Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_children() {
        let started = Instant::now();
        // The child keeps the output open: as long as it lives, there is more to read.
        let error = output_within(&mut sh("echo waiting >&2; sleep 100 & wait"), Duration::from_millis(200));
        let error = error.expect_err("it hangs").to_string();
        assert!(error.contains("has not ended in") && error.contains("| waiting"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(50), "its child was waited for");
    }

    #[test]
    fn what_goes_in_comes_out_however_much() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(output_of(&mut sh("cat"), &input).expect("cat ends").len(), input.len());
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let error = output(&mut sh("echo because >&2; exit 3")).expect_err("it fails").to_string();
        assert!(error.contains("exit status: 3") && error.contains("| because"), "{error}");
        assert_eq!(refusal(&mut sh("echo because >&2; exit 3")).expect("it refuses"), "because\n");
    }
}
