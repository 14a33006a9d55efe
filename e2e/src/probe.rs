//! Clients of one API server while something is done to it: how long do fresh connections fail, and how often does a
//! connection that stays?
//!
//! They run as a process of their own (`e2e probe`), in the network beside the nodes, until their standard input is
//! closed, and then give every request as a line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _, stdin, stdout};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::client::{Client, Connection};

/// A fresh connection is started this often, whether or not the one before has been answered.
pub(crate) const EVERY: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// How many fresh connections were made.
    pub(crate) fresh: usize,
    /// Of them, when those were started that got no 200: seconds since 1970.
    pub(crate) fresh_failed: Vec<f64>,
    /// Requests on the connection that stays; it is made again after a failure.
    pub(crate) kept: usize,
    /// Those that got no 200.
    pub(crate) kept_failed: usize,
    /// How often the server closed it between two requests.
    pub(crate) kept_closed: usize,
    /// Each kind of failure, the connection closed between two requests among them, and when: seconds since 1970.
    pub(crate) failures: BTreeMap<String, Vec<f64>>,
}

impl Seen {
    /// The time in which fresh connections failed: each stands for the time until the next.
    pub(crate) fn down(&self) -> f64 {
        self.fresh_failed.len() as f64 * EVERY.as_secs_f64()
    }

    /// What a client loses on the connection that stays if it does not look whether that was closed since its last request.
    pub(crate) fn kept_lost(&self) -> usize {
        self.kept_failed + self.kept_closed
    }

    /// How often each kind of failure was seen.
    pub(crate) fn kinds(&self) -> Vec<String> {
        self.failures.iter().map(|(kind, times)| format!("{} x {kind}", times.len())).collect()
    }
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Probe(Child);

impl Probe {
    /// Starts them with a command that runs this program in the network of the nodes; they ask for `path`.
    pub(crate) fn start(mut here: Command, to: SocketAddr, path: &str) -> Result<Self> {
        here.args(["probe", &to.to_string(), path]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self(here.spawn().context("starting the probe")?))
    }

    /// Stops them; gives what they saw.
    pub(crate) fn stop(mut self) -> Result<Seen> {
        drop(self.0.stdin.take());
        let ended = self.0.wait_with_output()?;
        ensure!(ended.status.success(), "the probe ended with {}", ended.status);
        read(&String::from_utf8_lossy(&ended.stdout))
    }
}

/// `e2e probe`.
pub(crate) fn run(to: SocketAddr, path: &str) -> Result<()> {
    let (lines, stop) = (Mutex::new(String::new()), AtomicBool::new(false));
    let client = Client::new()?;
    let note = |kind: &str, at: f64, answer: Result<u16>| {
        let answer = answer.map_or_else(|error| error.root_cause().to_string(), |status| status.to_string());
        let mut lines = lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = writeln!(lines, "{kind} {at:.3} {}", answer.replace('\n', " "));
    };
    thread::scope(|scope| {
        let (client, note, stop) = (&client, &note, &stop);
        scope.spawn(move || {
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                scope.spawn(move || note("fresh", now(), client.get(to, path)));
                next += EVERY;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        scope.spawn(move || {
            let mut connection: Option<Connection> = None;
            while !stop.load(Ordering::Relaxed) {
                if connection.as_mut().is_some_and(|connection| connection.is_closed().unwrap_or(true)) {
                    connection = None;
                    note("closed", now(), Err(anyhow!("between two requests")));
                }
                let at = now();
                let answer = ask(client, &mut connection, to, path);
                if answer.is_err() {
                    connection = None;
                }
                note("kept", at, answer);
                thread::sleep(EVERY);
            }
        });
        let _ = stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    let lines = lines.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    stdout().write_all(lines.as_bytes())?;
    Ok(())
}

/// `e2e latency`: one request after the other on a connection that stays; in milliseconds.
pub(crate) fn latency(to: SocketAddr, time: Duration) -> Result<()> {
    let (client, end) = (Client::new()?, Instant::now() + time);
    let (mut connection, mut taken, mut failed) = (None, Vec::new(), 0);
    while Instant::now() < end {
        let begun = Instant::now();
        match ask(&client, &mut connection, to, "/readyz") {
            Ok(200) => taken.push(begun.elapsed().as_secs_f64() * 1e3),
            Ok(_) => failed += 1,
            Err(_) => {
                failed += 1;
                connection = None;
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    taken.sort_by(f64::total_cmp);
    let at = |share: usize| taken.get((taken.len() * share / 100).min(taken.len().saturating_sub(1)));
    let (median, p99) =
        (at(50).context("no request was answered")?, at(99).context("no request was answered")?);
    writeln!(stdout(), "{median} {p99} {failed}")?;
    Ok(())
}

fn ask(client: &Client, connection: &mut Option<Connection>, to: SocketAddr, path: &str) -> Result<u16> {
    if connection.is_none() {
        *connection = Some(client.connect(to)?);
    }
    connection.as_mut().context("it was just made")?.get(path)
}

fn read(lines: &str) -> Result<Seen> {
    let mut seen = Seen::default();
    for line in lines.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(kind), Some(at), Some(answer)) = (words.next(), words.next(), words.next()) else {
            bail!("the probe says `{line}`");
        };
        let (at, failed) = (at.parse()?, answer != "200");
        match kind {
            "fresh" => {
                seen.fresh += 1;
                seen.fresh_failed.extend(failed.then_some(at));
            }
            "kept" => {
                seen.kept += 1;
                seen.kept_failed += usize::from(failed);
            }
            "closed" => seen.kept_closed += 1,
            _ => bail!("the probe says `{line}`"),
        }
        if failed {
            seen.failures.entry(format!("{kind}: {answer}")).or_default().push(at);
        }
    }
    Ok(seen)
}

/// Seconds since 1970, the same clock in every namespace.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_200_is_a_failure() {
        let lines = "fresh 1.000 200\nfresh 1.050 500\nkept 1.000 200\nfresh 1.100 refused, it says\nclosed 1.1 idle\n";
        let seen = read(lines).expect("well formed");
        assert_eq!((seen.fresh, seen.kept, seen.kept_failed, seen.kept_closed), (3, 1, 0, 1));
        assert_eq!(seen.fresh_failed, [1.05, 1.1]);
        assert!((seen.down() - 0.1).abs() < 1e-9);
        assert_eq!(seen.failures["fresh: refused, it says"], [1.1]);
    }
}
