//! How the last known good manifest is put back.

use super::*;

fn restored(containers: &[&str], health: Health) -> Observed {
    Observed { manifest: Some(order().from), ..swapped(containers, health) }
}

#[test]
fn the_manifest_comes_first_then_a_stand_in_then_the_restored_server() {
    let journal = journal(rolling_back(&["new"]), None);
    check(&journal, &swapped(&["old/0.log@1", "new/0.log@2"], not_ready()), 1, &Step::Restore);
    let rescue = StandIn { role: Role::LastKnownGood, port: 16443 };
    let down = restored(&["old/0.log@1", "new/0.log@2"], not_ready());
    check(&journal, &down, 1, &Step::Employ(rescue));
    let up = restored(&["old/1.log@3", "new/0.log@2"], Health::Ready);
    check_ends(&next(&order(), &journal, &up, &at(20)), "RolledBack", "why");
}

#[test]
fn the_stand_in_that_was_rehearsed_serves_meanwhile() {
    let journal = journal(rolling_back(&["new"]), Some(candidate()));
    let serving = Observed {
        stand_in: Some(seen(1, Health::Ready)),
        ..restored(&["old/0.log@1", "new/0.log@2"], not_ready())
    };
    let wait = Step::Wait("the kubelet has not started the restored manifest".to_owned());
    check(&journal, &serving, 1, &wait);
    let wanted = relief(&journal, &serving).expect("relief");
    assert!(!wanted.ends_with(&logs(&["new/0.log@2", "new/1.log@3"])), "the bad server's own restart");
    assert!(wanted.ends_with(&logs(&["old/0.log@9"])));
}

#[test]
fn one_that_was_told_to_end_already_is_followed_by_another() {
    let journal = journal(rolling_back(&["new"]), Some(candidate()));
    let leaving = Seen { listening: true, in_place: false, ..seen(1, not_ready()) };
    let leaving =
        Observed { stand_in: Some(leaving), ..restored(&["old/0.log@1", "new/0.log@2"], not_ready()) };
    let rescue = StandIn { role: Role::LastKnownGood, port: 16443 };
    check(&journal, &leaving, 1, &Step::Employ(rescue));
}

#[test]
fn a_stuck_kubelet_is_rescued_also_where_no_stand_in_was_wanted() {
    let alone = Order { rehearsal: Rehearsal::StartOnly, ..order() };
    let journal = journal(rolling_back(&["new"]), None);
    let down = restored(&["old/0.log@1", "new/0.log@2"], not_ready());
    let wait = Step::Wait("the kubelet has not started the restored manifest".to_owned());
    assert_eq!(next(&alone, &journal, &down, &at(19)), wait);
    let rescue = StandIn { role: Role::LastKnownGood, port: 16443 };
    assert_eq!(next(&alone, &journal, &down, &at(20)), Step::Employ(rescue));
}

#[test]
fn a_kubelet_that_was_booted_with_the_bad_manifest_is_rescued_at_once() {
    let alone = Order { rehearsal: Rehearsal::StartOnly, ..order() };
    let rebooted = |second: u64| Moment { boot: "c".to_owned(), milliseconds: second * 1000 };
    let recorded = |state: State, observed: &Observed, second| {
        let step = next(&alone, &journal(state, None), observed, &rebooted(second));
        let Step::Record(state) = step else { panic!("{step:?}") };
        state
    };
    let rescue = Step::Employ(StandIn { role: Role::LastKnownGood, port: 16443 });
    let down = |starts: &[&str]| {
        let mut observed = swapped(starts, not_ready());
        observed.server.as_mut().unwrap().last_words = "unknown flag: --x".to_owned();
        observed
    };
    // The power was cut while the manifest was swapped, or when it was: the kubelet starts the bad one.
    for cut in [swapping(), verifying()] {
        let verifying = recorded(cut, &down(&["old/0.log@1"]), 1);
        let crashed = ["old/0.log@1", "new/0.log@2", "new/1.log@3"];
        let rolling_back = recorded(verifying, &down(&crashed), 20);
        assert_eq!(rolling_back.name(), "RollingBack");
        let restored = restored(&crashed, not_ready());
        assert_eq!(next(&alone, &journal(rolling_back, None), &restored, &rebooted(20)), rescue);
    }
    // It was cut before the manifest was put back.
    let crashed = ["old/0.log@1", "new/0.log@2"];
    let bad = recorded(rolling_back(&["new"]), &down(&crashed), 1);
    let restored = restored(&crashed, not_ready());
    assert_eq!(next(&alone, &journal(bad, None), &restored, &rebooted(1)), rescue);
    // It was cut afterwards: the kubelet starts the good one, as it would on any day.
    let good = recorded(rolling_back(&["new"]), &restored, 1);
    let wait = Step::Wait("the kubelet has not started the restored manifest".to_owned());
    assert_eq!(next(&alone, &journal(good.clone(), None), &restored, &rebooted(20)), wait);
    assert_eq!(next(&alone, &journal(good, None), &restored, &rebooted(21)), rescue);
}

#[test]
fn a_stand_in_that_is_the_last_server_is_never_taken_away() {
    let rescue = StandIn { role: Role::LastKnownGood, port: 16443 };
    let journal = journal(rolling_back(&["new"]), Some(rescue));
    let down = restored(&["old/0.log@1", "new/0.log@2"], not_ready());
    let serving = Observed { stand_in: Some(seen(1, Health::Ready)), ..down.clone() };
    match next(&order(), &journal, &serving, &at(9999)) {
        Step::Wait(reason) => assert!(reason.contains("restart the kubelet"), "{reason}"),
        step => panic!("{step:?}"),
    }
    let dead = Observed { stand_in: Some(seen(1, not_ready())), ..down };
    check_ends(&next(&order(), &journal, &dead, &at(9999)), "Failed", "restart the kubelet");
}

/// As on a node with a load of 37, whose kubelet took a minute of the 90 s to start the restored manifest.
#[test]
fn the_restored_server_has_its_time_from_its_start_on() {
    let starting = restored(&["old/0.log@1", "new/0.log@2", "old/0.log@9"], not_ready());
    let step = next(&order(), &journal(rolling_back(&["new"]), None), &starting, &at(299));
    let Step::Record(state) = step else { panic!("{step:?}") };
    let dead = Observed { stand_in: Some(seen(1, not_ready())), ..starting };
    let rescue = StandIn { role: Role::LastKnownGood, port: 16443 };
    let started = journal(state, Some(rescue));
    let wait = Step::Wait("the restored API server is not ready: /readyz: 500".to_owned());
    check(&started, &dead, 598, &wait);
    check_ends(&next(&order(), &started, &dead, &at(599)), "Failed", "restart the kubelet");
}

#[test]
fn a_kubelet_that_took_nothing_has_nothing_to_take_back() {
    let journal = journal(rolling_back(&[]), None);
    let calm = restored(&["old/0.log@1", "new/0.log@2"], Health::Ready);
    let wait = Step::Wait("the kubelet has not started the restored manifest".to_owned());
    check(&journal, &calm, 1, &wait);
    check_ends(&next(&order(), &journal, &calm, &at(20)), "RolledBack", "is it running?");
}
