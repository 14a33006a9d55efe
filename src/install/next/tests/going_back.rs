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

#[test]
fn a_kubelet_that_took_nothing_has_nothing_to_take_back() {
    let journal = journal(rolling_back(&[]), None);
    let calm = restored(&["old/0.log@1", "new/0.log@2"], Health::Ready);
    let wait = Step::Wait("the kubelet has not started the restored manifest".to_owned());
    check(&journal, &calm, 1, &wait);
    check_ends(&next(&order(), &journal, &calm, &at(20)), "RolledBack", "is it running?");
}
