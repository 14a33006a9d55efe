//! What comes next in an install: a pure function of the order, the journal, what was observed, and the time.
//!
//! Safety rests on four rules that hold in every state: the manifest is swapped only while the one on the disk is the
//! order's `from` and its bytes are kept as last known good; whatever was written by somebody else in between is left
//! alone; no state is left without the next one being on the disk first; and a stand-in is written to the journal before
//! its manifest is written, so that it is always found again and taken away.

use std::collections::BTreeSet;
use std::time::Duration;

use super::clock::{Deadline, Due, Moment};
use super::journal::{Journal, Outcome, Proof, ProofResult, Refuser, Rehearsed, State};
use super::order::{Order, Rehearsal};
use super::stand_in::{self, Role, Seen, StandIn};

mod ending;
mod rehearse;
mod roll_back;
mod verify;

/// How long a rehearsal may take. A stand-in is ready in 4 s on an idle machine; nobody waits for it but the change.
const REHEARSAL: Duration = Duration::from_secs(120);
/// How long a node is left alone that was booted in the middle of a change: its kubelet has to hear from an API server before it
/// replaces one, and whoever waits for the node gets an answer before that one restarts. Most are ready after 10 to 25 s.
const BOOTED: Duration = Duration::from_secs(30);
/// How long a stand-in that was ready may take to be so again before the swap, and the API server to be ready at all.
const STAND_IN_READY: Duration = Duration::from_secs(30);
/// How long a kubelet may take to start the restored manifest: its longest re-queue (15 s) and the end of a crash loop's
/// server. After that it is taken for stuck. One that was booted with a manifest that does not start is so from the beginning.
const STUCK: Duration = Duration::from_secs(20);
/// How long the end of a stand-in may take. A kubelet that is started in the moment in which its manifest is taken away ends it
/// after 124 s (seen, 1.37.2): it waits for the Pod's volumes first (`podAttachAndMountTimeout`, 2 min 3 s).
pub const ENDING: Duration = Duration::from_secs(180);
/// How long a kubelet may take from reading a stand-in's manifest to the first thing that is seen of it: 1 s on an idle machine.
/// One that read it just before it was taken away starts it all the same.
const LATE_START: Duration = Duration::from_secs(10);
/// How often a container may be started that has a reason for having ended which says nothing of the change.
const STARTS_AT_MOST: usize = 3;
/// A stand-in needs as much memory as the live server, and half as much again to be at ease.
const MEMORY_MARGIN_PERCENT: u64 = 150;

/// What was seen on the node just now. Local facts only: none of them needs an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Digest of the manifest, `None` when it is not there.
    pub manifest: Option<String>,
    /// Digest of the last known good manifest that is kept.
    pub last_known_good: Option<String>,
    /// Whether every file of the order is there with the right content.
    pub staged: bool,
    /// Other files in the manifests folder that define the same Pod.
    pub rivals: Vec<String>,
    /// Manifests of stand-ins in the folder that are not wanted (any more).
    pub stray_stand_ins: Vec<String>,
    /// Whether audit logs of stand-ins still have to be brought to the real one.
    pub stand_in_logs: bool,
    /// Whether the kubelet still has a Pod of any of the order's stand-ins, the journal's or an earlier one: one that is just
    /// starting or ending listens nowhere, and writes to its log.
    pub stand_in_pods: bool,
    /// The node's API server; `None` when only files are worked on and there is none to wait for.
    pub server: Option<Server>,
    /// The stand-in of the journal; `None` when there is none.
    pub stand_in: Option<Seen>,
    /// A free port for the next stand-in, higher than that of the one in use: none is ever used twice.
    pub free_port: Option<u16>,
    /// Memory of the node.
    pub memory: Memory,
    /// The forwarder from the API server's port to the stand-in.
    pub relief: Relief,
}

/// The node's API server, seen from the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Starts of its containers, as `<pod uid>/<n>.log@<time the file was made>`: log files under /var/log/pods. Each start of
    /// a container makes a new one: the kubelet counts on from the highest number there is (`calcRestartCountByLogDir`),
    /// and begins anew when the folder was cleaned away.
    pub containers: BTreeSet<String>,
    /// UID of the Pod whose log was written last.
    pub running: Option<String>,
    /// The newest start, one of `containers`, when it has ended: it said something, and nothing of its Pod runs but the sandbox.
    /// `None` also where the kernel does not tell.
    pub ended: Option<String>,
    /// What it answers.
    pub health: Health,
    /// The last words of the newest container that ended and said any, empty when none did.
    pub last_words: String,
}

/// What the manifest's own probes got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Both livez and readyz answered 200.
    Ready,
    /// Something else, in words.
    NotReady(String),
}

/// Memory of the node, in bytes; `None` what could not be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `MemAvailable` of /proc/meminfo.
    pub available: Option<u64>,
    /// What the live API server's Pod uses.
    pub used_by_server: Option<u64>,
}

impl Memory {
    /// Whether there is room for a second API server. What is not known does not stand in the way.
    fn has_room(self) -> bool {
        match (self.available, self.used_by_server) {
            (Some(available), Some(used)) => available >= used / 100 * MEMORY_MARGIN_PERCENT,
            _ => true,
        }
    }
}

/// What the forwarder does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relief {
    /// There is none.
    Off,
    /// It waits for the port to become free.
    Waiting,
    /// It has the port, and passes connections on.
    Holding,
    /// It has given the port back.
    Released,
    /// It cannot take the port, in words.
    Failed(String),
}

/// The one thing to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copy the manifest, whose digest is the order's `from`, as backup and as last known good.
    KeepLastKnownGood,
    /// Write the order's files.
    Stage,
    /// Put the order's target in place of the manifest, atomically.
    Swap,
    /// Put the last known good manifest back, and before it what fixed paths held.
    Restore,
    /// Write into the journal which stand-in is used from now on.
    Employ(StandIn),
    /// Put the manifest of the journal's stand-in into the manifests folder.
    AddStandIn,
    /// Take the manifests of all other stand-ins out of it.
    RemoveStandIns,
    /// Bring the audit events of stand-ins to the real log, with their true source addresses.
    MergeLogs,
    /// Make a request and look for its event, on the stand-in or on the live server; write what came of it into the
    /// journal.
    Prove(Target),
    /// Write this state into the journal.
    Record(State),
    /// Nothing to do now; observe again soon. What is waited for, in words.
    Wait(String),
    /// Nothing will ever be to do.
    Finished,
}

/// Which API server a proof is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The stand-in on this port.
    StandIn(u16),
    /// The node's own.
    Live,
}

/// The next step of `order`, whose journal is `journal`.
pub fn next(order: &Order, journal: &Journal, observed: &Observed, now: &Moment) -> Step {
    if let Some(step) = after_reboot(order, journal, observed, now) {
        return step;
    }
    if !observed.stray_stand_ins.is_empty() {
        return Step::RemoveStandIns;
    }
    match &journal.state {
        State::Ordered => ordered(order, journal, observed, now),
        State::Rehearsing { deadline, started } => {
            rehearse::next(order, journal, observed, deadline, started.as_ref(), now)
        }
        State::Swapping { before, ran, deadline } => {
            swapping(order, journal, observed, before, ran, deadline, now)
        }
        State::Verifying { before, ran, deadline, earlier, booted, beside } => {
            let (booted, beside) = (*booted, beside.as_ref());
            let began = verify::Began { before, ran, deadline, earlier, booted, beside };
            verify::next(order, journal, observed, &began, now)
        }
        State::RollingBack { reason, before, tried, deadline, stuck, restored } => {
            let restored = *restored;
            let began = roll_back::Began { reason, before, tried, deadline, stuck, restored };
            roll_back::next(order, journal, observed, &began, now)
        }
        State::Ending { outcome, deadline } => ending::next(journal, observed, outcome, deadline, now),
        State::Settled | State::Refused { .. } | State::RolledBack { .. } | State::Failed { .. } => {
            Step::Finished
        }
    }
}

/// What a reboot asks for first: the deadlines are counted from now on, and what was started before says nothing any more.
fn after_reboot(order: &Order, journal: &Journal, observed: &Observed, now: &Moment) -> Option<Step> {
    let unknown = |deadline: &Deadline| deadline.at(now) == Due::Unknown;
    let booted_with_target = observed.manifest.as_deref() == Some(&order.to);
    let mut state = journal.state.clone();
    let anew = match &mut state {
        // The kubelet starts the stand-in again, which looks like the restart of one that crashed. Another one has no past.
        State::Rehearsing { deadline, .. }
            if unknown(deadline)
                && observed.stand_in.as_ref().is_some_and(|seen| seen.in_place || seen.starts > 0)
                && let (Some(stand_in), Some(port)) = (&journal.stand_in, observed.free_port) =>
        {
            return Some(Step::Employ(StandIn { port, ..stand_in.clone() }));
        }
        State::Rehearsing { deadline, started } if unknown(deadline) => {
            *started = None;
            vec![(deadline, REHEARSAL)]
        }
        State::Swapping { before, ran, deadline } if unknown(deadline) && booted_with_target => {
            let verifying = verifying(order, observed, before, ran, true, now);
            return Some(Step::Record(verifying));
        }
        // All of the node starts beside it.
        State::Swapping { deadline, .. } if unknown(deadline) => vec![(deadline, REHEARSAL)],
        State::Verifying { deadline, earlier, booted, .. } if unknown(deadline) => {
            (*earlier, *booted) = (containers(observed), booted_with_target);
            vec![(deadline, timeout(order))]
        }
        State::RollingBack { deadline, stuck, restored, .. } if unknown(deadline) || unknown(stuck) => {
            *restored = false;
            let patience = if booted_with_target { Duration::ZERO } else { STUCK };
            vec![(deadline, timeout(order)), (stuck, patience)]
        }
        State::Ending { deadline, .. } if unknown(deadline) => vec![(deadline, ENDING)],
        _ => return None,
    };
    for (deadline, time) in anew {
        *deadline = now.plus(time);
    }
    Some(Step::Record(state))
}

/// The starts of the API server's containers that there are now.
fn containers(observed: &Observed) -> BTreeSet<String> {
    observed.server.as_ref().map(|server| server.containers.clone()).unwrap_or_default()
}

/// What follows when a step could not be done; `observed` is what was seen after it. Before the swap nothing was
/// changed, so the install is refused. A manifest that cannot be put back is tried again for as long as it takes.
pub fn after_failure(
    order: &Order,
    journal: &Journal,
    observed: &Observed,
    error: &str,
    now: &Moment,
) -> Step {
    match &journal.state {
        State::Ordered | State::Rehearsing { .. } => refuse(Refuser::Checks, error.to_owned(), now),
        State::Swapping { .. } if observed.manifest.as_deref() == Some(&order.from) => {
            refuse(Refuser::Checks, error.to_owned(), now)
        }
        State::Ending { outcome, deadline } if deadline.has_passed(now) => {
            Step::Record(outcome.clone().into())
        }
        State::Swapping { .. }
        | State::Verifying { .. }
        | State::RollingBack { .. }
        | State::Ending { .. } => Step::Wait(error.to_owned()),
        State::Settled | State::Refused { .. } | State::RolledBack { .. } | State::Failed { .. } => {
            Step::Finished
        }
    }
}

/// When the forwarder shall have the API server's port, and what ends that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReliefWanted {
    /// The stand-in's port.
    pub port: u16,
    /// Containers that are known: a start that is not among them ends the relief, ...
    pub known: BTreeSet<String>,
    /// ... unless it is of one of these Pods.
    pub but_pods: BTreeSet<String>,
}

impl ReliefWanted {
    /// Whether these starts of containers end it.
    pub fn ends_with(&self, containers: &BTreeSet<String>) -> bool {
        new_pods(containers, &self.known).any(|pod| !self.but_pods.contains(pod))
    }
}

/// Whether the forwarder is wanted now. It waits for the port from before the swap on, so that it has it the moment the old
/// server lets go.
pub fn relief(journal: &Journal, observed: &Observed) -> Option<ReliefWanted> {
    let stand_in = journal.stand_in.as_ref().filter(|s| s.serves())?;
    let (known, but_pods) = match &journal.state {
        State::Swapping { before, ran, .. } | State::Verifying { before, ran, .. } => (before, ran.clone()),
        State::RollingBack { before, tried, .. } => (before, tried.clone()),
        _ => return None,
    };
    // A stand-in that is not ready yet is better than nothing: its port refuses, and clients try again.
    observed.stand_in.as_ref().filter(|s| s.listening)?;
    Some(ReliefWanted { port: stand_in.port, known: known.clone(), but_pods })
}

fn ordered(order: &Order, journal: &Journal, observed: &Observed, now: &Moment) -> Step {
    let refuse = |reason: String| refuse(Refuser::Checks, reason, now);
    if let Some(reason) = not_as_planned(order, observed) {
        return refuse(reason);
    }
    if observed.last_known_good.as_deref() != Some(&order.from) {
        return Step::KeepLastKnownGood;
    }
    if !observed.staged {
        return Step::Stage;
    }
    if order.only_files() {
        return Step::Record(State::Settled);
    }
    let Some(server) = &observed.server else { return Step::Record(swapping_state(None, now)) };
    let role = match order.rehearsal {
        Rehearsal::None => return Step::Record(swapping_state(Some(server), now)),
        Rehearsal::Auto if observed.memory.has_room() => Role::Candidate,
        Rehearsal::Auto | Rehearsal::StartOnly => Role::StartOnly,
    };
    match (&journal.stand_in, observed.free_port) {
        (Some(stand_in), _) if stand_in.role == role => {
            Step::Record(State::Rehearsing { deadline: now.plus(REHEARSAL), started: None })
        }
        (_, Some(port)) => Step::Employ(StandIn { role, port }),
        (_, None) => refuse(format!(
            "no port of 127.0.0.1 between {} and {} is free for a rehearsal",
            stand_in::PORTS.start,
            stand_in::PORTS.end - 1
        )),
    }
}

fn swapping_state(server: Option<&Server>, now: &Moment) -> State {
    let (before, ran) = match server {
        Some(server) => (server.containers.clone(), server.running.iter().cloned().collect()),
        None => Default::default(),
    };
    State::Swapping { before, ran, deadline: now.plus(STAND_IN_READY) }
}

/// The verification of a swap that was made, be it by an installer that was ended before it could say so.
fn verifying(
    order: &Order,
    observed: &Observed,
    before: &BTreeSet<String>,
    ran: &BTreeSet<String>,
    booted: bool,
    now: &Moment,
) -> State {
    State::Verifying {
        before: before.clone(),
        ran: ran.clone(),
        deadline: now.plus(timeout(order)),
        earlier: containers(observed),
        booted,
        beside: None,
    }
}

fn swapping(
    order: &Order,
    journal: &Journal,
    observed: &Observed,
    before: &BTreeSet<String>,
    ran: &BTreeSet<String>,
    deadline: &Deadline,
    now: &Moment,
) -> Step {
    match &observed.manifest {
        Some(digest) if *digest == order.from => {}
        Some(digest) if *digest == order.to => {
            return Step::Record(verifying(order, observed, before, ran, false, now));
        }
        _ => return end(written_by_another(order), now),
    }
    if !observed.rivals.is_empty() {
        return refuse(Refuser::Checks, rivals_message(&observed.rivals), now);
    }
    // What starts before the swap is not the change, and may start again after it.
    let known = pods_until_now(observed, before, ran);
    if known != *ran {
        let deadline = deadline.clone();
        return Step::Record(State::Swapping { before: before.clone(), ran: known, deadline });
    }
    // A power cut may have taken back what was not on the disk yet: everything is checked again.
    if observed.last_known_good.as_deref() != Some(&order.from) {
        return Step::KeepLastKnownGood;
    }
    if !observed.staged {
        return Step::Stage;
    }
    let serves = match &journal.stand_in {
        // It has said what it had to say. It stays in the journal, so that no later one gets its port and with it its name.
        Some(StandIn { role: Role::StartOnly, .. }) | None => Ok(()),
        Some(_) => ready_to_serve(observed),
    };
    // Only a boot gives so much time.
    let was_booted = deadline.left(now).is_some_and(|left| left > REHEARSAL - BOOTED);
    match (serves, starting(observed)) {
        (Ok(()), None) if was_booted => Step::Wait("the node, which was just booted".to_owned()),
        (Ok(()), Some(answer)) if !deadline.has_passed(now) => {
            Step::Wait(format!("the API server to be ready: {answer}"))
        }
        (Ok(()), _) => Step::Swap,
        // Nothing is wrong with the change: a power cut or a busy node may have held it up.
        (Err(problem), _) if deadline.has_passed(now) => {
            refuse(Refuser::Checks, format!("the stand-in did not keep running: {problem}"), now)
        }
        (Err(problem), _) => Step::Wait(problem),
    }
}

/// The Pods that ran, and those that run now or were started since.
fn pods_until_now(
    observed: &Observed,
    before: &BTreeSet<String>,
    ran: &BTreeSet<String>,
) -> BTreeSet<String> {
    let Some(server) = &observed.server else { return ran.clone() };
    let started = new_pods(&server.containers, before).map(str::to_owned);
    ran.iter().cloned().chain(server.running.clone()).chain(started).collect()
}

/// What the live API server answers while it is not ready and nothing answers in its place. A kubelet that was just started
/// replaces no static Pod before an API server has answered it: to swap sooner gains nothing, and takes that one away. It is
/// waited for until a deadline only, because it may be broken already.
fn starting(observed: &Observed) -> Option<&str> {
    match observed.server.as_ref().map(|server| &server.health) {
        Some(Health::NotReady(answer)) if observed.relief != Relief::Holding => Some(answer),
        _ => None,
    }
}

/// Whether the stand-in and the forwarder in front of it can take over.
fn ready_to_serve(observed: &Observed) -> Result<(), String> {
    let seen = observed.stand_in.as_ref().ok_or("it is not there")?;
    if !seen.in_place {
        return Err("its manifest was taken out of the manifests folder".to_owned());
    }
    match (&seen.health, &observed.relief) {
        (Health::NotReady(answer), _) => Err(format!("it is not ready: {answer}")),
        (Health::Ready, Relief::Off) => Err("the forwarder is not there yet".to_owned()),
        // What it cannot do, the change can do without: it would only be answered for a little less of the time.
        (Health::Ready, _) => Ok(()),
    }
}

/// Whether no event is to be expected from the order's target: it takes the settings out.
fn logs_nothing(order: &Order) -> bool {
    order.revision.is_none()
}

/// What is known of an event's landing on this server.
fn proof(journal: &Journal, target: Target) -> Option<&Proof> {
    let port = match target {
        Target::StandIn(port) => Some(port),
        Target::Live => None,
    };
    journal.proof.as_ref().filter(|proof| proof.stand_in == port)
}

/// Why the manifests folder is not as the plan has it: the manifest on the disk is not the one that the plan was made from, or not
/// the only one of its Pod. `None` when it is.
fn not_as_planned(order: &Order, observed: &Observed) -> Option<String> {
    match &observed.manifest {
        None => Some(format!("`{}` is gone", order.manifest)),
        Some(digest) if *digest != order.from => {
            Some(format!("`{}` was changed after the plan was made", order.manifest))
        }
        Some(_) if !observed.rivals.is_empty() => Some(rivals_message(&observed.rivals)),
        Some(_) => None,
    }
}

fn end(outcome: Outcome, now: &Moment) -> Step {
    Step::Record(State::Ending { outcome, deadline: now.plus(ENDING) })
}

fn refuse(by: Refuser, reason: String, now: &Moment) -> Step {
    end(Outcome::Refused { by, reason }, now)
}

/// Pods of the containers that are there now and were not before.
fn new_pods<'a>(
    containers: &'a BTreeSet<String>,
    before: &'a BTreeSet<String>,
) -> impl Iterator<Item = &'a str> {
    containers.difference(before).map(|log| log.split_once('/').map_or(log.as_str(), |(pod, _)| pod))
}

/// A server's last words, in a sentence.
fn words(last_words: &str) -> &str {
    if last_words.is_empty() { "without a word in its log" } else { last_words }
}

fn timeout(order: &Order) -> Duration {
    Duration::from_secs(order.health_timeout_seconds.into())
}

fn written_by_another(order: &Order) -> Outcome {
    Outcome::Failed {
        reason: format!(
            "`{}` was written by somebody else while the change was under way; it was left as it is, and a new plan \
             will be made from it",
            order.manifest
        ),
    }
}

/// Why another manifest of the same Pod stands in the way.
pub fn rivals_message(rivals: &[String]) -> String {
    format!(
        "{} in the manifests folder defines the same Pod, and the kubelet would run the last one by name: move it out \
         of the folder (a backup does not belong there)",
        rivals.iter().map(|r| format!("`{r}`")).collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
pub(crate) mod tests;
