//! What the operator costs while nothing happens: memory, and requests to the API server. Measured, not asserted.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};

use crate::process;
use crate::wait;

use super::stage::{AGENT, CONTROLLER, SOON, Stage};
use super::telling::figure;

/// Long enough to see what comes every half minute.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// Prints the figures. The policy must record everything.
pub(super) fn print(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("what it costs while nothing happens");
    let log = stage.log();
    stage.quiet()?;
    let from = Timestamp::now();
    let to = from + WINDOW;
    let patience = SOON + Duration::from_secs(WINDOW.as_secs().unsigned_abs());
    wait::until("a minute of the audit log", patience, || Ok((Timestamp::now() > to).then_some(())))?;
    let events = log.events(from, "")?;
    for (name, user) in [("controller", CONTROLLER), ("agent", AGENT)] {
        let mut requests = BTreeSet::new();
        for event in events.iter().filter(|event| event.user() == user) {
            if event.time("requestReceivedTimestamp")? >= from && event.time("stageTimestamp")? < to {
                requests.insert(event.text("/auditID"));
            }
        }
        figure(&format!("idle-{name}-requests-per-minute"), requests.len());
        figure(&format!("idle-{name}-rss-kib"), resident(stage, name)?);
    }
    let all: BTreeSet<&str> = events.iter().map(|event| event.text("/auditID")).collect();
    let bytes: usize = events.iter().map(|event| event.line.len() + 1).sum();
    figure("idle-cluster-requests-per-minute", all.len());
    figure("idle-log-bytes-per-minute-at-metadata", bytes);
    Ok(())
}

/// Resident memory of `audit-operator VERB` on the node, in KiB.
fn resident(stage: &Stage<'_>, verb: &str) -> Result<u64> {
    let init = stage.node().init()?;
    let ours = |id: &process::Id| {
        let arguments = process::arguments(*id).unwrap_or_default();
        arguments.first().is_some_and(|a| a.ends_with("/audit-operator"))
            && arguments.get(1).is_some_and(|a| a == verb)
    };
    let id =
        process::tree(init).into_iter().find(ours).with_context(|| format!("no process of the {verb}"))?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(words.parse()?)
}
