//! Ending: the outcome is certain; what the stand-in leaves behind is put in order.

use super::*;

pub(super) fn next(observed: &Observed, outcome: &Outcome, deadline: &Deadline, now: &Moment) -> Step {
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
    let unseen = observed.stand_in.as_ref().is_some_and(|seen| seen.starts == 0);
    if unseen && deadline.left(now).is_some_and(|left| left > ENDING - LATE_START) {
        return Step::Wait("whether the kubelet still starts the stand-in".to_owned());
    }
    // One that answers still writes; the next install brings its events.
    let writes = listens && (observed.stand_in_pods || !pods_are_seen);
    if observed.stand_in_logs && !writes {
        return Step::MergeLogs;
    }
    Step::Record(outcome.clone().into())
}
