//! Whether all is well in the end.

use std::collections::BTreeMap;
use std::path::Path;

use audit_operator::host::{Host, MANIFEST};
use audit_operator::install::next::ENDING;
use audit_operator::install::{Rehearsal, State};

use crate::kubelet::HELD;
use crate::node::Node;
use crate::scenario::{AUDIT_LOG, Behaviour, Change, HEALTH_TIMEOUT, Memory, PORT, Scenario, What};
use crate::world::World;

/// What the end of a stand-in takes where nothing is in its way.
const AT_EASE: u64 = 10_000;

/// Whether nothing will happen any more.
pub(crate) fn is_over(world: &World) -> bool {
    world.agent_is_done
        && !world.faults_to_come()
        && world.kubelet.is_calm()
        && world.our_files().is_empty()
        && world.forwarders.is_empty()
        && world.answers(PORT).is_ok()
}

/// What does not end.
pub(crate) fn never_over(node: &Node, host: &Host) {
    let state = host.journal().ok().flatten().map(|journal| (journal.state, journal.waiting_for));
    let mut world = node.world();
    if !world.violations.is_empty() || excused(&world, state.as_ref().map(|(state, _)| state)) {
        return;
    }
    let (files, calm, answers) = (world.our_files(), world.kubelet.is_calm(), world.answers(PORT));
    let forwarders = world.forwarders.len();
    world.violation(format!(
        "it is not over: {state:?}, files {files:?}, kubelet calm {calm}, server {answers:?}, forwarders {forwarders}"
    ));
}

/// Whether it is known, and said in docs/reliability.md, that this may not end well.
fn excused(world: &World, state: Option<&State>) -> bool {
    let happened = |what: fn(&What) -> bool| world.happened.iter().any(what);
    // A server whose policy file is gone does not come back before that is there again.
    if world.scenario.change == Change::OnlyFiles && !matches!(state, Some(State::Settled)) {
        return happened(|what| matches!(what, What::OtherTool)) || !world.scenario.image;
    }
    // A kubelet that was started while its API server was down does not take another tool's manifest by itself.
    let restarted = happened(|what| matches!(what, What::PowerCut | What::KubeletStops(_)));
    if restarted
        && happened(|what| matches!(what, What::OtherTool))
        && matches!(state, Some(State::Failed { .. }))
    {
        return true;
    }
    // A kubelet that was away for longer than a server gets, and comes back while the manifest is put back, may start the bad one:
    // nothing tells that Pod from the restored one's. Without a stand-in that is given up at last (history 8933).
    if was_away(world) && matches!(state, Some(State::RollingBack { .. } | State::Failed { .. })) {
        return true;
    }
    // It ran, an event landed, and then it died: what came after the end is not ours.
    world.scenario.behaviour == Behaviour::Dies && matches!(state, Some(State::Settled))
}

/// Whether the kubelet started nothing for longer than a server gets to be healthy.
fn was_away(world: &World) -> bool {
    let too_long = u64::from(HEALTH_TIMEOUT) * 1000;
    world.happened.iter().any(|what| matches!(what, What::KubeletStops(time) if *time > too_long))
}

/// Looks at what is left.
pub(crate) fn check(node: &Node, host: &Host) {
    let state = host.journal().ok().flatten().map(|journal| journal.state);
    let mut world = node.world();
    let manifest = world.files.read(Path::new(MANIFEST)).map(<[u8]>::to_vec).unwrap_or_default();
    let is = |text: &str| text.as_bytes() == manifest;
    let template = world.template;
    let (is_from, is_to) = (is(&template.manifest), is(&template.planned.target));
    let touched = world.happened.contains(&What::OtherTool);
    // All that can be done then is to say so (docs/reliability.md).
    let away = was_away(&world);
    let mut wrong = Vec::new();
    let Some(state) = state else {
        if !touched && world.scenario.image {
            world.violation("nothing was ever done".to_owned());
        }
        return;
    };
    match &state {
        State::Settled if !(is_to || touched) => wrong.push("settled, and the manifest is not the new one"),
        State::Refused { .. } | State::RolledBack { .. } if !(is_from || touched) => {
            wrong.push("taken back, and the manifest is not the old one");
        }
        State::Failed { .. } if !touched && !away => {
            wrong.push("failed, though nobody else wrote the manifest")
        }
        state if !state.is_final() => wrong.push("the journal is open"),
        _ => {}
    }
    let runs: Vec<_> = world.servers.iter().map(|server| (server.stand_in, server.policy.clone())).collect();
    let wanted = audit_operator::manifest::read(&String::from_utf8_lossy(&manifest));
    let policy = wanted.ok().and_then(|m| m.flag("audit-policy-file").map(str::to_owned));
    if runs != [(false, policy)] {
        wrong.push("the API server does not run with the manifest on the disk, or not alone");
    }
    let scenario = world.scenario.clone();
    if scenario.behaviour == Behaviour::Good && !may_fail(&scenario, &world) && state != State::Settled {
        wrong.push("a good change did not settle");
    }
    let bad = !matches!(scenario.behaviour, Behaviour::Good | Behaviour::Dies);
    if bad && state == State::Settled {
        wrong.push("a bad change settled");
    }
    if bad && world.swapped && is_found(&scenario, &world) {
        wrong.push("what the rehearsal can find came to the live server");
    }
    for what in wrong {
        world.violation(format!("{what} ({state:?})"));
    }
    // An order that was not given to its end is the agent's, and is replaced by the next one.
    let left =
        |path: &String| path.ends_with(".audit-operator") && !path.ends_with("/.order.json.audit-operator");
    let unfinished: Vec<_> = world.files.paths().filter(left).collect();
    if !unfinished.is_empty() {
        world.violation(format!("{unfinished:?} is left of an interrupted write"));
    }
    check_events(&mut world);
}

/// Every event of every server is in a log, once, and a stand-in's own log is gone.
fn check_events(world: &mut World) {
    let folder = Path::new(AUDIT_LOG).parent().expect("a file in a folder");
    let (mut found, mut left) = (BTreeMap::new(), Vec::new());
    for name in world.files.list(folder).unwrap_or_default() {
        let text = world.files.read(&folder.join(&name)).map(String::from_utf8_lossy).unwrap_or_default();
        for number in text.lines().filter_map(|line| line.strip_prefix("{\"auditID\":\"")?.split_once('"')) {
            // What a power cut has torn is joined with the next line, and is no number.
            if number.0.parse::<u64>().is_ok() {
                *found.entry(number.0.to_owned()).or_insert(0) += 1;
            }
        }
        if name.starts_with('.') {
            left.push(name);
        }
    }
    let twice: Vec<_> =
        found.iter().filter(|(_, times)| **times > 1).map(|(number, _)| number.clone()).collect();
    if !twice.is_empty() {
        world.violation(format!("events {twice:?} are in the log more than once"));
    }
    // What a server wrote in the seconds before a power cut is the file system's to lose; and a stand-in that does not end
    // is not waited for for ever: three minutes, of which the kubelet can take two and what happens to the node the rest.
    let cut = world.happened.contains(&What::PowerCut);
    let ending = ENDING.as_secs() * 1000;
    let taken = |what: &What| match what {
        What::StandInHangs => ending,
        What::KubeletStops(time) | What::DiskFull(time) => *time,
        _ => 0,
    };
    let stays = world.happened.iter().map(taken).sum::<u64>() + HELD + AT_EASE > ending;
    let missing: Vec<u64> =
        (1..=world.events).filter(|number| !found.contains_key(&number.to_string())).collect();
    // One that the kubelet ends after that writes its last event to a file that is gone (history 7501).
    let outlives = |what: &What| matches!(what, What::KubeletStops(time) if *time > ending);
    let lost = usize::from(world.happened.iter().any(outlives));
    if !cut && missing.len() > lost {
        world.violation(format!("events {missing:?} of {} are in no log", world.events));
    }
    if !left.is_empty() && !stays {
        world.violation(format!("{left:?} is left beside the log"));
    }
}

/// Whether something happened for which a good change may be given up.
fn may_fail(scenario: &Scenario, world: &World) -> bool {
    !scenario.image
        || world.happened.iter().any(|what| match what {
            What::OtherTool
            | What::StandInDies
            | What::StandInHangs
            | What::Rival(_)
            | What::DiskFull(_)
            | What::ServerDies => true,
            What::KubeletStops(time) => *time >= 30_000,
            What::Kill
            | What::PowerCut
            | What::PortTaken
            | What::ClockJumps(_)
            | What::AgentAway(_)
            | What::Twin => false,
        })
}

/// Whether the rehearsal finds what is wrong with the change.
fn is_found(scenario: &Scenario, world: &World) -> bool {
    let full = scenario.rehearsal == Rehearsal::Auto && scenario.memory != Memory::Short;
    // One that hangs refuses nothing, and without etcd it has nothing else to say (history 9882).
    let hangs = world.happened.contains(&What::StandInHangs);
    let start = scenario.rehearsal != Rehearsal::None && scenario.behaviour == Behaviour::Refused && !hangs;
    !scenario.only_live && scenario.change != Change::OnlyFiles && (full || start)
}
