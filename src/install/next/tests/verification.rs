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

/// A node whose new server ended before with these words.
fn ended(containers: &[&str], last_words: &str) -> Observed {
    let mut observed = swapped(containers, not_ready());
    if let Some(server) = &mut observed.server {
        server.last_words = last_words.to_owned();
    }
    observed
}

#[test]
fn a_crash_is_not_waited_out() {
    let crashed = ended(&["old/0.log@1", "new/0.log@2", "new/1.log@3"], "unknown flag: --x");
    check_rolls_back(&crashed, 1, "unknown flag: --x");
}

#[test]
fn a_crash_whose_logs_the_kubelet_has_removed_is_counted_by_the_numbers_of_the_others() {
    check_rolls_back(&ended(&["old/0.log@1", "new/4.log@9"], "unknown flag: --x"), 1, "unknown flag: --x");
    // A Pod of the same manifest ran before; then its folder was cleaned away, and it began anew.
    let State::Verifying { ran, deadline, earlier, booted, beside, .. } = verifying() else { panic!() };
    let before = logs(&["old/0.log@1", "new/4.log@2"]);
    let again = journal(State::Verifying { before, ran, deadline, earlier, booted, beside }, None);
    let wait = Step::Wait("the new API server is not ready: /readyz: 500".to_owned());
    check(&again, &ended(&["old/0.log@1", "new/0.log@9"], "unknown flag: --x"), 1, &wait);
    check(&again, &ended(&["old/0.log@1", "new/4.log@2", "new/5.log@9"], "unknown flag: --x"), 1, &wait);
}

#[test]
fn a_server_that_was_booted_before_its_etcd_gets_another_chance() {
    let rebooted = Moment { boot: "c".to_owned(), milliseconds: 5000 };
    let observed = |starts: &[&str]| ended(starts, "etcd grpc connection not ready");
    let step = next(&order(), &here(), &observed(&["new/0.log@2"]), &rebooted);
    let Step::Record(booted) = step else { panic!("{step:?}") };
    let starts = ["new/0.log@2", "new/1.log@3", "new/2.log@4"];
    let wait = Step::Wait("the new API server is not ready: /readyz: 500".to_owned());
    assert_eq!(next(&order(), &journal(booted, None), &observed(&starts), &rebooted), wait);
    check_rolls_back(&observed(&starts), 1, "etcd");
}

#[test]
fn a_server_that_has_ended_is_not_waited_for_until_it_is_started_again() {
    let down = |starts: &[&str], newest: &str, words: &str| {
        let mut observed = ended(starts, words);
        let server = observed.server.as_mut().expect("it has one");
        server.ended = Some(newest.to_owned());
        observed
    };
    let unknown_flag = down(&["old/0.log@1", "new/0.log@2"], "new/0.log@2", "unknown flag: --x");
    check_rolls_back(&unknown_flag, 1, "unknown flag: --x");
    let wait = Step::Wait("the new API server is not ready: /readyz: 500".to_owned());
    let old = down(&["old/0.log@1", "new/0.log@2"], "old/0.log@1", "received signal");
    check(&here(), &old, 1, &wait);
    // Another chance is one, as long as it runs.
    let twice = down(&["new/0.log@2", "new/1.log@3"], "new/1.log@3", "");
    check(&here(), &twice, 1, &wait);
    let starts = ["new/0.log@2", "new/1.log@3", "new/2.log@4"];
    check(&here(), &ended(&starts, ""), 1, &wait);
    check_rolls_back(&down(&starts, "new/2.log@4", ""), 1, "without a word");
    // Whether it ended before the boot or after it nothing tells.
    let rebooted = Moment { boot: "c".to_owned(), milliseconds: 5000 };
    let Step::Record(booted) = next(&order(), &here(), &unknown_flag, &rebooted) else { panic!() };
    let booted = journal(booted, None);
    assert_eq!(next(&order(), &booted, &unknown_flag, &rebooted), wait);
    let again = down(&["old/0.log@1", "new/0.log@2", "new/1.log@9"], "new/1.log@9", "unknown flag: --x");
    match next(&order(), &booted, &again, &rebooted) {
        Step::Record(State::RollingBack { .. }) => {}
        step => panic!("{step:?}"),
    }
}

/// As on a real control plane whose kubelet was restarted while it started the container.
#[test]
fn a_container_that_never_said_a_word_may_never_have_run() {
    let wait = Step::Wait("the new API server is not ready: /readyz: 500".to_owned());
    check(&here(), &ended(&["new/0.log@2", "new/1.log@3"], ""), 1, &wait);
    let every_time = ["new/0.log@2", "new/1.log@3", "new/2.log@4", "new/3.log@5"];
    check_rolls_back(&ended(&every_time, ""), 1, "the new API server ended: without a word in its log");
}

#[test]
fn starts_from_before_a_reboot_are_no_crashes() {
    let rebooted = Moment { boot: "c".to_owned(), milliseconds: 5000 };
    let observed = |containers: &[&str]| ended(containers, "killed");
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
    let words = "listen tcp :6443: bind: address already in use";
    let crashed = ended(&["old/0.log@1", "new/0.log@2", "new/1.log@3"], words);
    let relieved = journal(verifying(), Some(candidate()));
    let wait = Step::Wait("the new API server is not ready: /readyz: 500".to_owned());
    check(&relieved, &crashed, 1, &wait);
    check_rolls_back(&crashed, 1, "address already in use");
}

/// History 772 of the simulation: a backup that somebody left in the folder ran, and logged what the new server did not.
#[test]
fn what_runs_while_another_file_defines_the_same_pod_proves_nothing() {
    let rivals = vec!["kube-apiserver.yaml.bak".to_owned()];
    let containers = ["old/0.log@1", "new/0.log@2", "rival/0.log@3"];
    let beside = Observed { rivals, ..swapped(&containers, Health::Ready) };
    let known = |until| match verifying() {
        State::Verifying { ran, deadline, earlier, booted, .. } => {
            let beside = Some(due(until));
            State::Verifying { before: logs(&containers), ran, deadline, earlier, booted, beside }
        }
        state => panic!("{state:?}"),
    };
    check(&here(), &beside, 1, &Step::Record(known(36)));
    let journal = |until| super::journal(known(until), None);
    check(&journal(36), &beside, 11, &Step::Wait(rivals_message(&beside.rivals)));
    check(&journal(36), &beside, 12, &Step::Record(known(47)));
    // History 36289: the kubelet that sees only later that it is gone starts its Pod after that.
    let late = [&containers[..], &["rival/1.log@4"]].concat();
    let waits = "the kubelet to see that the other file of the same Pod is gone";
    check(&journal(36), &swapped(&late, Health::Ready), 35, &Step::Wait(waits.to_owned()));
    let gone = Observed { rivals: Vec::new(), ..beside.clone() };
    let waits = "the kubelet has not started a container from the new manifest";
    check(&journal(36), &gone, 36, &Step::Wait(waits.to_owned()));
    let started = [&containers[..], &["new/1.log@4"]].concat();
    check(&journal(36), &swapped(&started, Health::Ready), 36, &Step::Prove(Target::Live));
    let known = journal(330);
    match next(&order(), &known, &beside, &at(300)) {
        Step::Record(State::RollingBack { reason, .. }) => assert!(reason.contains(".bak"), "{reason}"),
        step => panic!("{step:?}"),
    }
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
