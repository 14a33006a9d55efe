//! Ending: the outcome is certain; what the stand-in leaves behind is put in order.

use super::*;

pub(super) fn next(
    journal: &Journal,
    observed: &Observed,
    outcome: &Outcome,
    deadline: &Deadline,
    now: &Moment,
) -> Step {
    let given_up = deadline.has_passed(now);
    // Its manifest is gone by now; its last events are only in its log once it has ended. Where the kernel tells nothing of Pods,
    // its port has to say that; elsewhere somebody else may have the port by now.
    let pods_are_seen = observed.memory.used_by_server.is_some();
    let listens = observed.stand_in.as_ref().is_some_and(|seen| seen.listening);
    let lives = observed.stand_in_pods || (listens && !pods_are_seen);
    if lives && !given_up {
        return Step::Wait("the stand-in to end".to_owned());
    }
    // A kubelet that has read the manifest starts the Pod although the manifest is gone since, and nothing is seen of it before.
    // One that has served is not waited for again: of an ended Pod the kubelet takes the logs away, and its starts with them.
    let unseen = observed.stand_in.as_ref().is_some_and(|seen| seen.starts == 0);
    if unseen
        && !has_started(journal, outcome)
        && deadline.left(now).is_some_and(|left| left > ENDING - LATE_START)
    {
        return Step::Wait("whether the kubelet still starts the stand-in".to_owned());
    }
    // One that answers still writes; the next install brings its events.
    let writes = listens && (observed.stand_in_pods || !pods_are_seen);
    if observed.stand_in_logs && !writes {
        return Step::MergeLogs;
    }
    Step::Record(outcome.clone().into())
}

/// Whether the stand-in has run: the rehearsal said something of it, or it was ready before the swap. Of one that came to the
/// rescue that does not tell.
fn has_started(journal: &Journal, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused { by, .. } => *by == Refuser::Rehearsal,
        Outcome::Settled | Outcome::RolledBack { .. } | Outcome::Failed { .. } => {
            let rescues = |stand_in: &StandIn| stand_in.role == Role::LastKnownGood;
            journal.rehearsed != Rehearsed::No && !journal.stand_in.as_ref().is_some_and(rescues)
        }
    }
}
