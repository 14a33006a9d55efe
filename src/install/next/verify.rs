//! Verifying: the new manifest is in place; does its API server get healthy, and does an event land?

use super::*;

/// How long a kubelet may take to see what changed in the manifests folder: mostly it is told at once, otherwise it looks every 20 s
/// (`fileCheckFrequency`).
const FOLDER_SEEN: Duration = Duration::from_secs(25);
/// How often it is written again that another file is still there.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// What the state remembers.
pub(super) struct Began<'a> {
    pub(super) before: &'a BTreeSet<String>,
    pub(super) ran: &'a BTreeSet<String>,
    pub(super) deadline: &'a Deadline,
    pub(super) earlier: &'a BTreeSet<String>,
    pub(super) booted: bool,
    pub(super) beside: Option<&'a Deadline>,
}

pub(super) fn next(
    order: &Order,
    journal: &Journal,
    observed: &Observed,
    began: &Began<'_>,
    now: &Moment,
) -> Step {
    let Began { before, ran, deadline, earlier, booted, beside } = *began;
    if observed.manifest.as_deref() != Some(&order.to) {
        return end(written_by_another(order), now);
    }
    let Some(server) = &observed.server else { return Step::Record(State::Settled) };
    let started: Vec<&str> = new_pods(&server.containers, before).filter(|pod| !ran.contains(*pod)).collect();
    let roll_back = |reason: String| {
        Step::Record(State::RollingBack {
            reason,
            before: server.containers.clone(),
            tried: started.iter().map(|pod| (*pod).to_owned()).collect(),
            deadline: now.plus(timeout(order)),
            stuck: now.plus(if booted { Duration::ZERO } else { STUCK }),
            restored: false,
        })
    };
    if !observed.rivals.is_empty() {
        // The kubelet may run another file's Pod, which looks like ours: what starts until that is gone says nothing. Nor does what
        // runs before the kubelet has seen that it is gone.
        let known = before | &server.containers;
        let is_near = beside.and_then(|beside| beside.left(now)).is_none_or(|left| left < FOLDER_SEEN);
        if known != *before || is_near {
            return Step::Record(State::Verifying {
                before: known,
                ran: ran.clone(),
                deadline: deadline.clone(),
                earlier: earlier.clone(),
                booted,
                beside: Some(now.plus(FOLDER_SEEN + SAID_AGAIN)),
            });
        }
        let message = rivals_message(&observed.rivals);
        return if deadline.has_passed(now) { roll_back(message) } else { Step::Wait(message) };
    }
    let relieved = journal.stand_in.as_ref().is_some_and(StandIn::serves);
    let waits_for = match &server.health {
        _ if beside.is_some_and(|beside| beside.at(now) == Due::Later) => {
            "the kubelet to see that the other file of the same Pod is gone".to_owned()
        }
        Health::Ready if !started.is_empty() => match proof(journal, Target::Live) {
            _ if logs_nothing(order) => return end(Outcome::Settled, now),
            None => return Step::Prove(Target::Live),
            Some(Proof { result: ProofResult::Missing, message, .. }) => {
                return roll_back(format!("the API server runs, but no audit event landed: {message}"));
            }
            Some(_) => return end(Outcome::Settled, now),
        },
        Health::NotReady(answer) if !started.is_empty() => {
            if has_crashed(server, began, relieved) {
                return roll_back(format!("the new API server ended: {}", words(&server.last_words)));
            }
            format!("the new API server is not ready: {answer}")
        }
        _ => "the kubelet has not started a container from the new manifest".to_owned(),
    };
    if !deadline.has_passed(now) {
        return Step::Wait(waits_for);
    }
    roll_back(format!("not healthy {} s after the change: {waits_for}", order.health_timeout_seconds))
}

/// Whether the new server ended by itself. One that found its port still taken by the forwarder or its predecessor gets another
/// chance, and so does one that ended without a word: a kubelet that is stopped while it starts a container leaves one that
/// never ran. So does one that missed its etcd after a boot, which starts at the same time.
fn has_crashed(server: &Server, began: &Began<'_>, relieved: bool) -> bool {
    let known = began.before | began.earlier;
    let pods = new_pods(&server.containers, &known).filter(|pod| !began.ran.contains(*pod));
    let ends = pods.map(|pod| ends(pod, server, &known)).max().unwrap_or(0);
    let words = &server.last_words;
    let is_excused = words.is_empty()
        || (relieved && stand_in::lost_its_port(words))
        || (began.booted && stand_in::only_missed_etcd(words));
    ends >= if is_excused { STARTS_AT_MOST } else { 1 }
}

/// How many starts of a container of this Pod have ended besides the known ones: those after which it was started again, and the
/// newest when nothing of it runs. The kubelet waits for longer and longer before it starts it again.
fn ends(pod: &str, server: &Server, known: &BTreeSet<String>) -> usize {
    let is_new =
        |log: &&String| log.split_once('/').is_some_and(|(of, _)| of == pod) && !known.contains(*log);
    let newest = usize::from(server.ended.as_ref().filter(is_new).is_some());
    (starts(pod, &server.containers, known) + newest).saturating_sub(1)
}

/// How often a container of this Pod was started besides the known starts. The kubelet keeps the logs of two starts and removes
/// older ones, but numbers them on; unless it began anew in a folder that was cleaned away.
fn starts(pod: &str, containers: &BTreeSet<String>, known: &BTreeSet<String>) -> usize {
    let number = |log: &String| {
        let (of, log) = log.split_once('/')?;
        log.split_once(".log").filter(|_| of == pod)?.0.parse::<usize>().ok()
    };
    let numbered =
        |logs: &BTreeSet<String>| logs.iter().filter_map(number).max().map_or(0, |number| number + 1);
    let left = containers.difference(known).filter(|log| number(log).is_some()).count();
    numbered(containers).saturating_sub(numbered(known)).max(left)
}
