//! Rehearsing: the stand-in tries the change while the live server goes on.

use super::*;

pub(super) fn next(
    order: &Order,
    journal: &Journal,
    observed: &Observed,
    deadline: &Deadline,
    started: Option<&Moment>,
    now: &Moment,
) -> Step {
    if let Some(reason) = not_as_planned(order, observed) {
        return refuse(Refuser::Checks, reason, now);
    }
    let (Some(stand_in), Some(seen)) = (&journal.stand_in, &observed.stand_in) else {
        return refuse(Refuser::Rehearsal, "the journal names no stand-in".to_owned(), now);
    };
    if !seen.in_place {
        return Step::AddStandIn;
    }
    // A second start means that the first has ended; but for one that said nothing, see `STARTS_AT_MOST`.
    let allowed = if seen.last_words.is_empty() { STARTS_AT_MOST } else { 1 };
    if seen.starts > allowed {
        return match observed.free_port {
            Some(port) if stand_in::lost_its_port(&seen.last_words) && !deadline.has_passed(now) => {
                Step::Employ(StandIn { port, ..stand_in.clone() })
            }
            _ if stand_in.role == Role::StartOnly && stand_in::only_missed_etcd(&seen.last_words) => {
                accept(observed, now)
            }
            _ => refuse(Refuser::Rehearsal, ended(&seen.last_words), now),
        };
    }
    if stand_in.role == Role::StartOnly {
        start_only(observed, seen, deadline, started, now)
    } else {
        full(order, journal, observed, (stand_in, seen), deadline, now)
    }
}

fn start_only(
    observed: &Observed,
    seen: &Seen,
    deadline: &Deadline,
    started: Option<&Moment>,
    now: &Moment,
) -> Step {
    let lives = started.and_then(|started| now.since(started)).unwrap_or(0);
    if seen.starts == 0 {
        wait_or_refuse(Refuser::Checks, "the kubelet has not started it", deadline, now)
    } else if !seen.listening {
        // It reads policy and flags after that; a busy machine needs its time until then, and one that has ended never listens.
        wait_or_refuse(Refuser::Rehearsal, "it does not listen yet", deadline, now)
    } else if started.is_none() {
        Step::Record(State::Rehearsing { deadline: deadline.clone(), started: Some(now.clone()) })
    } else if lives < stand_in::START_ONLY_SECONDS * 1000 {
        Step::Wait("whether it ends".to_owned())
    } else {
        accept(observed, now)
    }
}

fn full(
    order: &Order,
    journal: &Journal,
    observed: &Observed,
    (stand_in, seen): (&StandIn, &Seen),
    deadline: &Deadline,
    now: &Moment,
) -> Step {
    match &seen.health {
        Health::NotReady(_) if seen.starts == 0 => {
            wait_or_refuse(Refuser::Checks, "the kubelet has not started it", deadline, now)
        }
        Health::NotReady(answer) => {
            wait_or_refuse(Refuser::Rehearsal, &format!("it is not ready: {answer}"), deadline, now)
        }
        Health::Ready if logs_nothing(order) => accept(observed, now),
        Health::Ready => match proof(journal, Target::StandIn(stand_in.port)) {
            None => Step::Prove(Target::StandIn(stand_in.port)),
            Some(Proof { result: ProofResult::Missing, message, .. }) => {
                refuse(Refuser::Rehearsal, format!("no audit event landed in the rehearsal: {message}"), now)
            }
            Some(_) => accept(observed, now),
        },
    }
}

fn accept(observed: &Observed, now: &Moment) -> Step {
    Step::Record(swapping_state(observed.server.as_ref(), now))
}

/// A kubelet that does not start the stand-in has said nothing of the change, and may do so the next time.
fn wait_or_refuse(by: Refuser, what: &str, deadline: &Deadline, now: &Moment) -> Step {
    if deadline.has_passed(now) {
        let seconds = REHEARSAL.as_secs();
        refuse(by, format!("after {seconds} s of rehearsal {what}"), now)
    } else {
        Step::Wait(format!("the stand-in: {what}"))
    }
}

fn ended(last_words: &str) -> String {
    match last_words {
        "" => format!("kube-apiserver ended in the rehearsal {}", words("")),
        words => format!("kube-apiserver refused it in the rehearsal: {words}"),
    }
}
