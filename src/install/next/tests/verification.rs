//! What is asked of the new API server after the swap.

use super::*;

fn here() -> Journal {
    journal(verifying(), None)
}

#[test]
fn a_ready_server_is_the_new_one_only_if_the_kubelet_started_a_new_pod() {
    let wait = Step::Wait("the kubelet has not started a container from the new manifest".to_owned());
    check(&here(), &swapped(&["old/0.log@1"], Health::Ready), 1, &wait);
    check(&here(), &swapped(&["old/0.log@1", "old/1.log@2"], Health::Ready), 1, &wait);
    let new = swapped(&["old/0.log@1", "new/0.log@2"], Health::Ready);
    check(&here(), &new, 1, &Step::Prove(Target::Live));
}

#[test]
fn it_settles_only_when_an_event_landed() {
    let new = swapped(&["old/0.log@1", "new/0.log@2"], Health::Ready);
    let with = |result| Journal { proof: proved(None, result), ..here() };
    for result in [ProofResult::Landed, ProofResult::Unprovable] {
        check_ends(&next(&order(), &with(result), &new, &at(1)), "Settled", "");
    }
    match next(&order(), &with(ProofResult::Missing), &new, &at(1)) {
        Step::Record(State::RollingBack { reason, .. }) => {
            assert!(reason.contains("no audit event landed"), "{reason}");
        }
        step => panic!("{step:?}"),
    }
    let rehearsed = Journal { proof: proved(Some(16443), ProofResult::Landed), ..here() };
    check(&rehearsed, &new, 1, &Step::Prove(Target::Live));
    let taken_out = Order { revision: None, ..order() };
    check_ends(&next(&taken_out, &here(), &new, &at(1)), "Settled", "");
}

#[track_caller]
fn check_rolls_back(observed: &Observed, second: u64, part: &str) {
    match next(&order(), &here(), observed, &at(second)) {
        Step::Record(State::RollingBack { reason, .. }) => assert!(reason.contains(part), "{reason}"),
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_crash_is_not_waited_out() {
    let mut crashed = swapped(&["old/0.log@1", "new/0.log@2", "new/1.log@3"], not_ready());
    if let Some(server) = &mut crashed.server {
        server.last_words = "unknown flag: --x".to_owned();
    }
    check_rolls_back(&crashed, 1, "unknown flag: --x");
}

#[test]
fn starts_from_before_a_reboot_are_no_crashes() {
    let rebooted = Moment { boot: "c".to_owned(), milliseconds: 5000 };
    let observed = |containers: &[&str]| swapped(containers, not_ready());
    let step = next(&order(), &here(), &observed(&["old/0.log@1", "new/0.log@2"]), &rebooted);
    let Step::Record(state) = step else { panic!("{step:?}") };
    let wait = Step::Wait("the new API server is not ready: /readyz: 500".to_owned());
    let again = ["old/0.log@1", "new/0.log@2", "new/1.log@9"];
    let step = next(&order(), &journal(state.clone(), None), &observed(&again), &rebooted);
    assert_eq!(step, wait, "the start after the reboot");
    let crashed = ["old/0.log@1", "new/0.log@2", "new/1.log@9", "new/2.log@10"];
    match next(&order(), &journal(state, None), &observed(&crashed), &rebooted) {
        Step::Record(State::RollingBack { .. }) => {}
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_server_whose_port_the_forwarder_still_had_gets_another_chance() {
    let mut crashed = swapped(&["old/0.log@1", "new/0.log@2", "new/1.log@3"], not_ready());
    if let Some(server) = &mut crashed.server {
        server.last_words = "listen tcp :6443: bind: address already in use".to_owned();
    }
    let relieved = journal(verifying(), Some(candidate()));
    let wait = Step::Wait("the new API server is not ready: /readyz: 500".to_owned());
    check(&relieved, &crashed, 1, &wait);
    check_rolls_back(&crashed, 1, "address already in use");
}

#[test]
fn a_deadline_that_passes_says_what_was_waited_for() {
    check_rolls_back(&swapped(&["old/0.log@1"], Health::Ready), 300, "the kubelet has not started");
    check_rolls_back(&swapped(&["new/0.log@2"], not_ready()), 300, "/readyz: 500");
}

#[test]
fn what_somebody_else_wrote_is_left_alone() {
    for state in [swapping(), verifying(), rolling_back(&["new"])] {
        let other = Observed { manifest: Some("sha256:other".to_owned()), ..calm() };
        let step = next(&order(), &journal(state, None), &other, &at(1));
        check_ends(&step, "Failed", "written by somebody else");
    }
}
