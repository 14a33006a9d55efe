//! Ending: the outcome is certain; what the stand-in leaves behind is put in order.

use super::*;

pub(super) fn next(observed: &Observed, outcome: &Outcome, deadline: &Deadline, now: &Moment) -> Step {
    let given_up = deadline.has_passed(now);
    // Its manifest is gone by now; its last events are only in its log once it has ended.
    if observed.stand_in.as_ref().is_some_and(|seen| seen.listening || seen.alive) && !given_up {
        return Step::Wait("the stand-in to end".to_owned());
    }
    // One that answers still writes; the next install brings its events.
    if observed.stand_in_logs && !observed.stand_in.as_ref().is_some_and(|seen| seen.listening) {
        return Step::MergeLogs;
    }
    Step::Record(outcome.clone().into())
}
