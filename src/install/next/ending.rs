//! Ending: the outcome is certain; what the stand-in leaves behind is put in order.

use super::*;

pub(super) fn next(observed: &Observed, outcome: &Outcome, deadline: &Deadline, now: &Moment) -> Step {
    let given_up = deadline.has_passed(now);
    // Its manifest is gone by now; its last events are only in its log once it has ended. Where the kernel tells nothing of Pods,
    // its port has to say that; elsewhere somebody else may have the port by now.
    let pods_are_seen = observed.memory.used_by_server.is_some();
    let lives = |seen: &Seen| seen.alive || (seen.listening && !pods_are_seen);
    if observed.stand_in.as_ref().is_some_and(lives) && !given_up {
        return Step::Wait("the stand-in to end".to_owned());
    }
    // One that answers still writes; the next install brings its events.
    let writes = |seen: &Seen| seen.listening && (seen.alive || !pods_are_seen);
    if observed.stand_in_logs && !observed.stand_in.as_ref().is_some_and(writes) {
        return Step::MergeLogs;
    }
    Step::Record(outcome.clone().into())
}
