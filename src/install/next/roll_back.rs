//! Rolling back: the manifest from before is put back, and verified in its turn.
//!
//! A kubelet that was restarted while its API server was down does not take the restored manifest: it deletes no static Pod
//! before that API server has answered (`pkg/kubelet`: "skipping delete because sources aren't ready yet"). What is
//! added starts at once, so a stand-in with the last known good manifest answers until the restored Pod is started.

use super::*;

/// What the state remembers.
pub(super) struct Began<'a> {
    pub(super) reason: &'a str,
    pub(super) before: &'a BTreeSet<String>,
    pub(super) tried: &'a BTreeSet<String>,
    pub(super) deadline: &'a Deadline,
    pub(super) stuck: &'a Deadline,
    pub(super) restored: bool,
}

pub(super) fn next(
    order: &Order,
    journal: &Journal,
    observed: &Observed,
    began: &Began<'_>,
    now: &Moment,
) -> Step {
    match &observed.manifest {
        Some(digest) if *digest == order.to => return Step::Restore,
        Some(digest) if *digest == order.from => {}
        _ => return end(written_by_another(order), now),
    }
    let Some(server) = &observed.server else {
        return Step::Record(State::RolledBack { reason: began.reason.to_owned() });
    };
    let rolled_back = |reason: String| end(Outcome::RolledBack { reason }, now);
    let started = new_pods(&server.containers, began.before).any(|pod| !began.tried.contains(pod));
    // A kubelet that never took the change has nothing to take back: the old server simply goes on.
    let untouched = began.tried.is_empty() && server.containers == *began.before;
    match &server.health {
        Health::Ready if started => return rolled_back(began.reason.to_owned()),
        Health::Ready if untouched && began.stuck.has_passed(now) => {
            return rolled_back(format!(
                "{}; the kubelet did not react to the manifest at all: is it running?",
                began.reason
            ));
        }
        _ => {}
    }
    if started && !began.restored {
        return Step::Record(restored(order, journal, now));
    }
    if let Some(step) = rescue(order, journal, observed, began, now) {
        return step;
    }
    let serves = observed.stand_in.as_ref().is_some_and(|s| s.health == Health::Ready);
    let waits_for = match &server.health {
        Health::NotReady(answer) if started => format!("the restored API server is not ready: {answer}"),
        _ => "the kubelet has not started the restored manifest".to_owned(),
    };
    if !began.deadline.has_passed(now) {
        return Step::Wait(waits_for);
    }
    if serves {
        // Taking the stand-in away would take the last API server of this node away.
        return Step::Wait(format!(
            "{waits_for}; a stand-in with the manifest from before answers on this node: restart the kubelet"
        ));
    }
    end(
        Outcome::Failed {
            reason: format!(
                "{}; the manifest from before is back in `{}` but no API server of it became healthy: \
                 restart the kubelet on this node and look at its log and at the newest file under /var/log/pods",
                began.reason, order.manifest
            ),
        },
        now,
    )
}

/// The same roll-back, whose API server has just been started. How long the kubelet took for that says nothing of the server.
fn restored(order: &Order, journal: &Journal, now: &Moment) -> State {
    let mut state = journal.state.clone();
    if let State::RollingBack { restored, deadline, .. } = &mut state {
        (*restored, *deadline) = (true, now.plus(timeout(order)));
    }
    state
}

/// The step towards a stand-in that answers meanwhile, `None` when there is nothing to do for it. The one that was rehearsed
/// goes on serving; otherwise one with the manifest from before: at once where a stand-in is wanted anyway, and in any
/// case when the kubelet is stuck, because then nothing else helps. One that was booted with the bad manifest is.
fn rescue(
    order: &Order,
    journal: &Journal,
    observed: &Observed,
    began: &Began<'_>,
    now: &Moment,
) -> Option<Step> {
    let wanted = order.rehearsal == Rehearsal::Auto && observed.memory.has_room();
    let answers = observed.server.as_ref().is_some_and(|s| s.health == Health::Ready);
    let seen = observed.stand_in.as_ref();
    let employ = |port| Step::Employ(StandIn { role: Role::LastKnownGood, port });
    match (&journal.stand_in, seen) {
        (Some(stand_in), Some(seen)) if stand_in.role == Role::LastKnownGood => {
            if !seen.in_place {
                return Some(Step::AddStandIn);
            }
            let again = seen.starts > 1 && stand_in::lost_its_port(&seen.last_words);
            observed.free_port.filter(|_| again).map(employ)
        }
        (Some(stand_in), Some(seen)) if stand_in.serves() && seen.health == Health::Ready => None,
        _ if answers => None,
        _ if wanted || began.stuck.has_passed(now) => observed.free_port.map(employ),
        _ => None,
    }
}
