//! Requests that are made on purpose, and what a policy must have recorded of each; and the evaluator's word on
//! every other line.

use std::fs;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::wait;

use super::log::{ADMIN, Event};
use super::stage::{SOON, Stage};

/// One request of the administrator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    /// What is typed after `kubectl`; after a `! ` what must fail.
    pub(super) words: &'static str,
    /// What is on its standard input.
    pub(super) input: &'static str,
    /// What the API server calls it, see [`Event::deed`].
    pub(super) deed: &'static str,
    /// The level it must be recorded at; `None` when there must be no event of it.
    pub(super) level: &'static str,
}

/// `kubectl WORDS` does DEED, which is recorded at LEVEL.
pub(super) const fn act(words: &'static str, deed: &'static str, level: &'static str) -> Act {
    Act { words, input: "", deed, level }
}

/// Does all of them, the last of which must be one that is recorded, and compares the log.
pub(super) fn check(stage: &Stage<'_>, since: Timestamp, acts: &[Act]) -> Result<()> {
    for Act { words, input, .. } in acts {
        let list = |words: &'static str| words.split(' ').collect::<Vec<_>>();
        match words.strip_prefix("! ") {
            Some(words) => stage.refusal(&list(words)).map(drop)?,
            None => stage.kubectl_of(&list(words), input).map(drop)?,
        }
    }
    // Requests were made one after the other: when the last is in the log, so is every other that ever will be.
    let last = acts.last().context("no acts")?;
    ensure!(last.level != "None", "the last act must be one that is recorded");
    wait::until(&format!("`{}` in the log", last.deed), SOON, || {
        Ok((!of(&stage.log().events(since, ADMIN)?, last).is_empty()).then_some(()))
    })?;
    let events = stage.log().events(since, ADMIN)?;
    for act in acts {
        is_recorded_as_wanted(act, &of(&events, act))?;
    }
    let recorded = acts.iter().filter(|act| act.level != "None").count();
    stage.voice.found(&format!("of {} requests, the {recorded} that must be are in the log", acts.len()));
    Ok(())
}

/// The events of what an act's answer left.
fn of<'e>(events: &'e [Event], act: &Act) -> Vec<&'e Event> {
    let is_it = |e: &&Event| e.user() == ADMIN && e.deed() == act.deed && e.stage() == "ResponseComplete";
    events.iter().filter(is_it).collect()
}

fn is_recorded_as_wanted(act: &Act, events: &[&Event]) -> Result<()> {
    if act.level == "None" {
        ensure!(events.is_empty(), "`{}` must not be recorded: {}", act.deed, events[0].line);
        return Ok(());
    }
    ensure!(!events.is_empty(), "`{}` is not recorded", act.deed);
    let bodies = match act.level {
        "Metadata" => (false, false),
        "Request" => (true, false),
        _ => (true, true),
    };
    // kubectl may ask more than once: it looks whether what it deletes is gone.
    for event in events {
        ensure!(
            event.level() == act.level && event.bodies() == bodies,
            "`{}` must be recorded at {} with bodies {bodies:?}: {}",
            act.deed,
            act.level,
            event.line
        );
    }
    Ok(())
}

/// Requires that `kubectl audit evaluate` says of each line since the server's start what the server has done:
/// this level, at a stage that is not omitted. Gives the events.
pub(super) fn agree(stage: &Stage<'_>, since: Timestamp) -> Result<Vec<Event>> {
    let revision = stage.revision()?;
    let policy = stage.node().path(&format!("/etc/kubernetes/audit/policy-{revision}.yaml"));
    ensure!(fs::exists(&policy)?, "no {}", policy.display());
    let events = stage.log().events(since, "")?;
    let lines: String = events.iter().map(|event| format!("{}\n", event.line)).collect();
    let policy = policy.display().to_string();
    let answers = stage.kubectl_of(&["audit", "evaluate", "--policy", &policy, "-o", "json"], &lines)?;
    let answers: Vec<Value> = answers.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(answers.len() == events.len(), "{} answers to {} lines", answers.len(), events.len());
    for (event, answer) in events.iter().zip(&answers) {
        ensure!(answer["level"] == event.level(), "the evaluator says {answer} of {}", event.line);
        let omitted =
            answer["omitStages"].as_array().with_context(|| format!("no omitStages in {answer}"))?;
        ensure!(omitted.iter().all(|s| s != event.stage()), "the evaluator says {answer} of {}", event.line);
    }
    stage
        .voice
        .found(&format!("every one of {} lines is what `kubectl audit evaluate` predicts", events.len()));
    Ok(events)
}
