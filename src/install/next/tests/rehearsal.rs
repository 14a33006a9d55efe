//! What the rehearsal on a second API server decides.

use super::*;

fn with(seen: Seen) -> Observed {
    Observed { stand_in: Some(seen), free_port: Some(16444), ..calm() }
}

#[track_caller]
fn check_full(seen: Seen, proof: Option<Proof>, second: u64, step: &Step) {
    let journal = Journal { proof, ..journal(rehearsing(), Some(candidate())) };
    check(&journal, &with(seen), second, step);
}

#[test]
fn ready_and_proved_is_swapped() {
    check_full(Seen { in_place: false, ..seen(0, not_ready()) }, None, 0, &Step::AddStandIn);
    check_full(seen(1, Health::Ready), None, 4, &Step::Prove(Target::StandIn(16443)));
    let swap = Step::Record(State::Swapping {
        before: logs(&["old/0.log@1"]),
        ran: logs(&["old"]),
        deadline: due(34),
    });
    for result in [ProofResult::Landed, ProofResult::Unprovable] {
        check_full(seen(1, Health::Ready), proved(Some(16443), result), 4, &swap);
    }
    // What was proved on another server says nothing of this one.
    let elsewhere = proved(Some(16440), ProofResult::Landed);
    check_full(seen(1, Health::Ready), elsewhere, 4, &Step::Prove(Target::StandIn(16443)));
}

#[track_caller]
fn check_refused(seen: Seen, proof: Option<Proof>, second: u64, part: &str) {
    let journal = Journal { proof, ..journal(rehearsing(), Some(candidate())) };
    let has_run = seen.starts > 0;
    let step = next(&order(), &journal, &with(seen), &at(second));
    check_ends(&step, "Refused", part);
    // Only what has run says something of the change.
    let of_the_rehearsal = matches!(
        step,
        Step::Record(State::Ending { outcome: Outcome::Refused { by: Refuser::Rehearsal, .. }, .. })
    );
    assert_eq!(of_the_rehearsal, has_run, "{step:?}");
}

#[test]
fn what_ends_hangs_or_logs_nothing_is_refused_with_its_words() {
    let ended = Seen { last_words: "unknown flag: --x".to_owned(), ..seen(2, not_ready()) };
    check_refused(ended, None, 1, "unknown flag: --x");
    check_refused(seen(1, not_ready()), None, 120, "/readyz: 500");
    check_refused(seen(0, not_ready()), None, 120, "the kubelet has not started it");
    let missing = proved(Some(16443), ProofResult::Missing);
    check_refused(seen(1, Health::Ready), missing, 4, "nothing was written");
}

#[test]
fn a_container_that_never_said_a_word_may_never_have_run() {
    let wait = Step::Wait("the stand-in: it is not ready: /readyz: 500".to_owned());
    check_full(seen(2, not_ready()), None, 1, &wait);
    check_refused(seen(4, not_ready()), None, 1, "ended in the rehearsal without a word in its log");
}

#[test]
fn a_port_taken_meanwhile_is_only_another_port() {
    let taken = "failed to create listener: address already in use".to_owned();
    let next = Step::Employ(StandIn { port: 16444, ..candidate() });
    check_full(Seen { last_words: taken, ..seen(2, not_ready()) }, None, 1, &next);
}

#[test]
fn after_a_reboot_another_stand_in_without_a_past_is_tried() {
    let rebooted = Moment { boot: "c".to_owned(), milliseconds: 5000 };
    let before = journal(rehearsing(), Some(candidate()));
    // The kubelet has started it again: its second start, and nothing has crashed.
    let observed = with(Seen { listening: true, ..seen(2, not_ready()) });
    let another = StandIn { port: 16444, ..candidate() };
    assert_eq!(next(&order(), &before, &observed, &rebooted), Step::Employ(another.clone()));
    let employed = journal(rehearsing(), Some(another));
    let observed = with(Seen { in_place: false, ..seen(0, not_ready()) });
    let state = State::Rehearsing { deadline: rebooted.plus(REHEARSAL), started: None };
    assert_eq!(next(&order(), &employed, &observed, &rebooted), Step::Record(state.clone()));
    assert_eq!(next(&order(), &journal(state, Some(candidate())), &observed, &rebooted), Step::AddStandIn);
}

#[test]
fn without_etcd_living_on_is_enough_and_so_is_missing_etcd() {
    let stand_in = StandIn { role: Role::StartOnly, port: 16443 };
    let started = |started| State::Rehearsing { deadline: due(120), started };
    let check_start = |state: State, seen: Seen, second: u64, step: &Step| {
        check(&journal(state, Some(stand_in.clone())), &with(seen), second, step);
    };
    let silent = Seen { listening: false, ..seen(1, not_ready()) };
    check_start(
        started(None),
        silent.clone(),
        6,
        &Step::Wait("the stand-in: it does not listen yet".to_owned()),
    );
    let refused = journal(started(None), Some(stand_in.clone()));
    check_ends(&next(&order(), &refused, &with(silent), &at(120)), "Refused", "it does not listen yet");
    let listens = Seen { listening: true, ..seen(1, not_ready()) };
    check_start(started(None), listens.clone(), 1, &Step::Record(started(Some(at(1)))));
    let wait = Step::Wait("whether it ends".to_owned());
    check_start(started(Some(at(1))), listens.clone(), 5, &wait);
    let swap = |second: u64| {
        Step::Record(State::Swapping {
            before: logs(&["old/0.log@1"]),
            ran: logs(&["old"]),
            deadline: due(second + 30),
        })
    };
    check_start(started(Some(at(1))), listens, 6, &swap(6));
    let no_etcd = Seen { last_words: "etcd grpc connection not ready".to_owned(), ..seen(2, not_ready()) };
    check_start(started(Some(at(1))), no_etcd, 3, &swap(3));
    let ended = Seen { last_words: "unknown flag".to_owned(), ..seen(2, not_ready()) };
    let refused = journal(started(Some(at(1))), Some(stand_in.clone()));
    check_ends(&next(&order(), &refused, &with(ended), &at(2)), "Refused", "unknown flag");
}

#[test]
fn the_journal_says_what_was_rehearsed() {
    let after = |role| {
        let journal = journal(rehearsing(), Some(StandIn { role, port: 1 }));
        journal.record(swapping(), order().created).rehearsed
    };
    assert_eq!(after(Role::Candidate), Rehearsed::Full);
    assert_eq!(after(Role::StartOnly), Rehearsed::StartOnly);
}
