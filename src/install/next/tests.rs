//! Tests of [`super::next`]: single decisions.

use super::*;
use crate::install::journal::Rehearsed;
use crate::manifest;

pub(crate) fn order() -> Order {
    Order {
        version: super::super::order::VERSION,
        id: "20260102T030405.678901Z-01234567".to_owned(),
        created: jiff::Timestamp::UNIX_EPOCH,
        revision: Some("r".to_owned()),
        manifest: "/etc/kubernetes/manifests/kube-apiserver.yaml".to_owned(),
        from: manifest::digest(b"from"),
        to: manifest::digest(b"to"),
        target: "to".to_owned(),
        original: None,
        log_folders: Vec::new(),
        files: Vec::new(),
        keep_backups: 3,
        health_timeout_seconds: 300,
        rehearsal: Rehearsal::Auto,
        shutdown_delay_seconds: None,
    }
}

fn at(second: u64) -> Moment {
    Moment { boot: "b".to_owned(), milliseconds: second * 1000 }
}

fn due(second: u64) -> Deadline {
    at(0).plus(Duration::from_secs(second))
}

fn logs(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn not_ready() -> Health {
    Health::NotReady("/readyz: 500".to_owned())
}

/// A node with the old manifest, whose server `old` is healthy.
fn calm() -> Observed {
    Observed {
        manifest: Some(order().from),
        last_known_good: Some(order().from),
        staged: true,
        rivals: Vec::new(),
        stray_stand_ins: Vec::new(),
        stand_in_logs: false,
        server: Some(Server {
            containers: logs(&["old/0.log@1"]),
            running: Some("old".to_owned()),
            health: Health::Ready,
            last_words: String::new(),
        }),
        stand_in: None,
        free_port: Some(16443),
        memory: Memory::default(),
        relief: Relief::Off,
    }
}

fn seen(starts: usize, health: Health) -> Seen {
    let listening = health == Health::Ready;
    Seen { in_place: true, starts, listening, alive: listening, health, last_words: String::new() }
}

fn candidate() -> StandIn {
    StandIn { role: Role::Candidate, port: 16443 }
}

fn journal(state: State, stand_in: Option<StandIn>) -> Journal {
    Journal { state, stand_in, ..Journal::begin(&order().id, order().created) }
}

fn rehearsing() -> State {
    State::Rehearsing { deadline: due(120), started: None }
}

fn swapping() -> State {
    State::Swapping { before: logs(&["old/0.log@1"]), running: Some("old".to_owned()), deadline: due(30) }
}

fn verifying() -> State {
    State::Verifying {
        before: logs(&["old/0.log@1"]),
        running: Some("old".to_owned()),
        deadline: due(300),
        earlier: BTreeSet::new(),
    }
}

fn rolling_back(tried: &[&str]) -> State {
    State::RollingBack {
        reason: "why".to_owned(),
        before: logs(&["old/0.log@1", "new/0.log@2"]),
        tried: tried.iter().map(|t| (*t).to_owned()).collect(),
        deadline: due(300),
        stuck: due(20),
    }
}

fn swapped(containers: &[&str], health: Health) -> Observed {
    let server = Server {
        containers: logs(containers),
        running: Some("old".to_owned()),
        health,
        last_words: String::new(),
    };
    Observed { manifest: Some(order().to), server: Some(server), ..calm() }
}

fn proved(stand_in: Option<u16>, result: ProofResult) -> Option<Proof> {
    Some(Proof {
        stand_in,
        time: order().created,
        audit_id: "id".to_owned(),
        request: "POST".to_owned(),
        level: Some(crate::audit::Level::Metadata),
        rule: Some(0),
        latency_milliseconds: 1,
        result,
        message: "nothing was written".to_owned(),
    })
}

#[track_caller]
fn check(journal: &Journal, observed: &Observed, second: u64, step: &Step) {
    assert_eq!(next(&order(), journal, observed, &at(second)), *step);
}

/// The outcome the step leads to, and its reason.
#[track_caller]
fn check_ends(step: &Step, name: &str, part: &str) {
    match step {
        Step::Record(State::Ending { outcome, .. }) => {
            let state = State::from(outcome.clone());
            assert_eq!(state.name(), name);
            assert!(state.reason().contains(part), "{}", state.reason());
        }
        step => panic!("{step:?}"),
    }
}

mod before {
    use super::*;

    fn ordered() -> Journal {
        journal(State::Ordered, None)
    }

    #[test]
    fn the_manifest_is_kept_then_files_are_staged_then_it_is_rehearsed() {
        let unkept = Observed { last_known_good: None, staged: false, ..calm() };
        check(&ordered(), &unkept, 0, &Step::KeepLastKnownGood);
        check(&ordered(), &Observed { staged: false, ..calm() }, 0, &Step::Stage);
        check(&ordered(), &calm(), 0, &Step::Employ(Some(candidate())));
        let employed = journal(State::Ordered, Some(candidate()));
        check(&employed, &calm(), 0, &Step::Record(rehearsing()));
    }

    #[test]
    fn nothing_is_done_to_a_manifest_that_is_not_the_plans() {
        for manifest in [None, Some(order().to), Some("sha256:other".to_owned())] {
            let observed = Observed { manifest, ..calm() };
            for journal in [ordered(), journal(rehearsing(), Some(candidate()))] {
                check_ends(&next(&order(), &journal, &observed, &at(0)), "Refused", "kube-apiserver.yaml");
            }
        }
    }

    #[test]
    fn a_rival_is_refused_by_name() {
        let observed = Observed { rivals: vec!["kube-apiserver.yaml.bak".to_owned()], ..calm() };
        check_ends(&next(&order(), &ordered(), &observed, &at(0)), "Refused", "kube-apiserver.yaml.bak");
    }

    #[test]
    fn where_memory_is_short_only_the_start_is_tried() {
        let memory = Memory { available: Some(300 << 20), used_by_server: Some(250 << 20) };
        let start_only = StandIn { role: Role::StartOnly, port: 16443 };
        check(&ordered(), &Observed { memory, ..calm() }, 0, &Step::Employ(Some(start_only)));
        let memory = Memory { available: Some(380 << 20), ..memory };
        check(&ordered(), &Observed { memory, ..calm() }, 0, &Step::Employ(Some(candidate())));
    }

    #[test]
    fn files_alone_and_a_node_without_a_server_need_no_rehearsal() {
        let only_files = Order { to: order().from, ..order() };
        assert_eq!(next(&only_files, &ordered(), &calm(), &at(0)), Step::Record(State::Settled));
        let without = Observed { server: None, ..calm() };
        let state = State::Swapping { before: BTreeSet::new(), running: None, deadline: due(30) };
        check(&ordered(), &without, 0, &Step::Record(state));
        let by_hand = Order { rehearsal: Rehearsal::None, ..order() };
        assert_eq!(next(&by_hand, &ordered(), &calm(), &at(0)), Step::Record(swapping()));
    }
}

mod rehearsal {
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
            running: Some("old".to_owned()),
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
        check_ends(&next(&order(), &journal, &with(seen), &at(second)), "Refused", part);
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
    fn a_port_taken_meanwhile_is_only_another_port() {
        let taken = "failed to create listener: address already in use".to_owned();
        let next = Step::Employ(Some(StandIn { port: 16444, ..candidate() }));
        check_full(Seen { last_words: taken, ..seen(2, not_ready()) }, None, 1, &next);
    }

    #[test]
    fn after_a_reboot_another_stand_in_without_a_past_is_tried() {
        let rebooted = Moment { boot: "c".to_owned(), milliseconds: 5000 };
        let before = journal(rehearsing(), Some(candidate()));
        // The kubelet has started it again: its second start, and nothing has crashed.
        let observed = with(Seen { listening: true, ..seen(2, not_ready()) });
        let another = StandIn { port: 16444, ..candidate() };
        assert_eq!(next(&order(), &before, &observed, &rebooted), Step::Employ(Some(another.clone())));
        let employed = journal(rehearsing(), Some(another));
        let observed = with(Seen { in_place: false, ..seen(0, not_ready()) });
        let state = State::Rehearsing { deadline: rebooted.plus(REHEARSAL), started: None };
        assert_eq!(next(&order(), &employed, &observed, &rebooted), Step::Record(state.clone()));
        assert_eq!(
            next(&order(), &journal(state, Some(candidate())), &observed, &rebooted),
            Step::AddStandIn
        );
    }

    #[test]
    fn without_etcd_living_on_is_enough_and_so_is_missing_etcd() {
        let stand_in = StandIn { role: Role::StartOnly, port: 16443 };
        let started = |started| State::Rehearsing { deadline: due(120), started };
        let check_start = |state: State, seen: Seen, second: u64, step: &Step| {
            check(&journal(state, Some(stand_in.clone())), &with(seen), second, step);
        };
        check_start(started(None), seen(1, not_ready()), 1, &Step::Record(started(Some(at(1)))));
        let wait = Step::Wait("whether it ends".to_owned());
        check_start(started(Some(at(1))), seen(1, not_ready()), 5, &wait);
        let swap = |second: u64| {
            Step::Record(State::Swapping {
                before: logs(&["old/0.log@1"]),
                running: Some("old".to_owned()),
                deadline: due(second + 30),
            })
        };
        check_start(started(Some(at(1))), seen(1, not_ready()), 6, &swap(6));
        let no_etcd =
            Seen { last_words: "etcd grpc connection not ready".to_owned(), ..seen(2, not_ready()) };
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
}

mod swap {
    use super::*;

    #[test]
    fn the_stand_in_serves_before_the_live_one_is_touched() {
        let journal = journal(swapping(), Some(candidate()));
        let ready = Observed { stand_in: Some(seen(1, Health::Ready)), ..calm() };
        check(&journal, &ready, 1, &Step::Wait("the forwarder is not there yet".to_owned()));
        let wanted = relief(&journal, &ready).expect("relief is wanted before the swap");
        assert_eq!(wanted.port, 16443);
        assert!(!wanted.ends_with(&logs(&["old/0.log@1", "old/1.log@2"])), "the old Pod's own restart");
        assert!(wanted.ends_with(&logs(&["old/0.log@1", "new/0.log@2"])));
        check(&journal, &Observed { relief: Relief::Waiting, ..ready.clone() }, 1, &Step::Swap);
        let dead = Observed { stand_in: Some(seen(1, not_ready())), ..ready };
        check(&journal, &dead, 1, &Step::Wait("it is not ready: /readyz: 500".to_owned()));
        check_ends(&next(&order(), &journal, &dead, &at(30)), "Refused", "did not keep running");
    }

    #[test]
    fn a_start_without_etcd_is_taken_away_before_the_swap() {
        let journal = journal(swapping(), Some(StandIn { role: Role::StartOnly, port: 16443 }));
        check(&journal, &calm(), 1, &Step::Employ(None));
        assert_eq!(relief(&journal, &calm()), None);
    }

    #[test]
    fn what_a_power_cut_took_back_is_done_again_before_the_swap() {
        let journal = journal(swapping(), None);
        check(&journal, &Observed { last_known_good: None, ..calm() }, 1, &Step::KeepLastKnownGood);
        check(&journal, &Observed { staged: false, ..calm() }, 1, &Step::Stage);
        check(&journal, &calm(), 1, &Step::Swap);
    }

    #[test]
    fn deadlines_of_another_boot_are_given_anew() {
        let rebooted = Moment { boot: "c".to_owned(), milliseconds: 0 };
        for state in [rehearsing(), swapping(), verifying(), rolling_back(&[])] {
            let name = state.name();
            match next(&order(), &journal(state, Some(candidate())), &calm(), &rebooted) {
                Step::Record(state) => assert_eq!(state.name(), name),
                step => panic!("{name}: {step:?}"),
            }
        }
    }

    #[test]
    fn after_a_reboot_a_stand_in_has_as_long_to_be_ready_again_as_in_the_rehearsal() {
        // etcd, the live server and all other Pods of the node start with it.
        let rebooted = Moment { boot: "c".to_owned(), milliseconds: 0 };
        let step = next(&order(), &journal(swapping(), Some(candidate())), &calm(), &rebooted);
        let Step::Record(State::Swapping { deadline, .. }) = step else { panic!("{step:?}") };
        assert_eq!(deadline, rebooted.plus(REHEARSAL));
    }
}

mod verification {
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
}

mod among_several {
    use super::*;

    fn several() -> Order {
        Order { shutdown_delay_seconds: Some(50), ..order() }
    }

    #[test]
    fn the_stand_in_is_told_to_end_with_the_old_server_and_serves_on() {
        let wanted = |state| journal(state, Some(candidate())).wanted_stand_in(&several()).is_some();
        assert!(wanted(swapping()), "it must be ready before anything is touched");
        assert!(!wanted(verifying()), "its manifest goes");
        let journal = journal(verifying(), Some(candidate()));
        let leaving = Seen { listening: true, in_place: false, ..seen(1, not_ready()) };
        let leaving = Observed { stand_in: Some(leaving), ..swapped(&["old/0.log@1"], not_ready()) };
        assert_eq!(relief(&journal, &leaving).map(|wanted| wanted.port), Some(16443), "it serves on");
        let wait = Step::Wait("the kubelet has not started a container from the new manifest".to_owned());
        assert_eq!(next(&several(), &journal, &leaving, &at(1)), wait);
    }

    #[test]
    fn alone_it_stays_until_the_end() {
        let wanted = |state| journal(state, Some(candidate())).wanted_stand_in(&order()).is_some();
        assert!(wanted(swapping()) && wanted(verifying()));
    }
}

mod going_back {
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
        check(&journal, &down, 1, &Step::Employ(Some(rescue)));
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
        check(&journal, &leaving, 1, &Step::Employ(Some(rescue)));
    }

    #[test]
    fn a_stuck_kubelet_is_rescued_also_where_no_stand_in_was_wanted() {
        let alone = Order { rehearsal: Rehearsal::StartOnly, ..order() };
        let journal = journal(rolling_back(&["new"]), None);
        let down = restored(&["old/0.log@1", "new/0.log@2"], not_ready());
        let wait = Step::Wait("the kubelet has not started the restored manifest".to_owned());
        assert_eq!(next(&alone, &journal, &down, &at(19)), wait);
        let rescue = StandIn { role: Role::LastKnownGood, port: 16443 };
        assert_eq!(next(&alone, &journal, &down, &at(20)), Step::Employ(Some(rescue)));
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
}

mod the_end {
    use super::*;

    fn ending() -> Journal {
        let outcome = Outcome::RolledBack { reason: "why".to_owned() };
        journal(State::Ending { outcome, deadline: due(90) }, Some(candidate()))
    }

    #[test]
    fn the_stand_in_goes_then_its_events_are_kept_then_it_is_over() {
        let stray = Observed { stray_stand_ins: vec!["s.yaml".to_owned()], ..calm() };
        check(&ending(), &stray, 0, &Step::RemoveStandIns);
        assert_eq!(ending().wanted_stand_in(&order()), None);
        let listening = Observed { stand_in: Some(seen(1, Health::Ready)), stand_in_logs: true, ..calm() };
        check(&ending(), &listening, 0, &Step::Wait("the stand-in to end".to_owned()));
        let starting = Seen { alive: true, ..seen(0, not_ready()) };
        let starting = Observed { stand_in: Some(starting), stand_in_logs: false, ..calm() };
        check(&ending(), &starting, 0, &Step::Wait("the stand-in to end".to_owned()));
        let ended = Observed { stand_in: Some(seen(1, not_ready())), ..listening.clone() };
        check(&ending(), &ended, 0, &Step::MergeLogs);
        let over = Step::Record(State::RolledBack { reason: "why".to_owned() });
        check(&ending(), &Observed { stand_in_logs: false, ..ended }, 0, &over);
        check(&ending(), &listening, 90, &over);
        // What is left of its Pod then does not keep its events hidden.
        let silent = Seen { alive: true, ..seen(1, not_ready()) };
        let silent = Observed { stand_in: Some(silent), ..listening };
        check(&ending(), &silent, 89, &Step::Wait("the stand-in to end".to_owned()));
        check(&ending(), &silent, 90, &Step::MergeLogs);
    }

    #[test]
    fn who_else_has_its_port_is_not_waited_for_where_pods_are_seen() {
        let memory = Memory { available: None, used_by_server: Some(1) };
        let anothers = Seen { listening: true, ..seen(1, not_ready()) };
        let observed = Observed { stand_in: Some(anothers.clone()), stand_in_logs: true, memory, ..calm() };
        check(&ending(), &observed, 0, &Step::MergeLogs);
        let alive = Observed { stand_in: Some(Seen { alive: true, ..anothers }), ..observed };
        check(&ending(), &alive, 0, &Step::Wait("the stand-in to end".to_owned()));
    }

    #[test]
    fn a_step_that_fails_refuses_before_the_swap_and_is_tried_again_after_it() {
        let failed = |state, observed: &Observed| {
            after_failure(&order(), &journal(state, None), observed, "disk full", &at(1))
        };
        check_ends(&failed(State::Ordered, &calm()), "Refused", "disk full");
        check_ends(&failed(rehearsing(), &calm()), "Refused", "disk full");
        check_ends(&failed(swapping(), &calm()), "Refused", "disk full");
        let swapped = swapped(&["old/0.log@1"], not_ready());
        for state in [swapping(), verifying(), rolling_back(&[])] {
            assert_eq!(failed(state, &swapped), Step::Wait("disk full".to_owned()));
        }
    }
}
