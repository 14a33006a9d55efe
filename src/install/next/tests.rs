//! Tests of [`super::next`]: single decisions.

use super::*;
use crate::install::journal::Rehearsed;
use crate::manifest;

mod going_back;
mod rehearsal;
mod verification;

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
        stand_in_pods: false,
        server: Some(Server {
            containers: logs(&["old/0.log@1"]),
            running: Some("old".to_owned()),
            ended: None,
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
    Seen { in_place: true, starts, listening, health, last_words: String::new() }
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
    State::Swapping { before: logs(&["old/0.log@1"]), ran: logs(&["old"]), deadline: due(30) }
}

fn verifying() -> State {
    State::Verifying {
        before: logs(&["old/0.log@1"]),
        ran: logs(&["old"]),
        deadline: due(300),
        earlier: BTreeSet::new(),
        booted: false,
        beside: None,
    }
}

fn rolling_back(tried: &[&str]) -> State {
    State::RollingBack {
        reason: "why".to_owned(),
        before: logs(&["old/0.log@1", "new/0.log@2"]),
        tried: tried.iter().map(|t| (*t).to_owned()).collect(),
        deadline: due(300),
        stuck: due(20),
        restored: false,
    }
}

fn swapped(containers: &[&str], health: Health) -> Observed {
    let server = Server {
        containers: logs(containers),
        running: Some("old".to_owned()),
        ended: None,
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
        check(&ordered(), &calm(), 0, &Step::Employ(candidate()));
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
        check(&ordered(), &Observed { memory, ..calm() }, 0, &Step::Employ(start_only));
        let memory = Memory { available: Some(380 << 20), ..memory };
        check(&ordered(), &Observed { memory, ..calm() }, 0, &Step::Employ(candidate()));
    }

    #[test]
    fn files_alone_and_a_node_without_a_server_need_no_rehearsal() {
        let only_files = Order { to: order().from, ..order() };
        assert_eq!(next(&only_files, &ordered(), &calm(), &at(0)), Step::Record(State::Settled));
        let without = Observed { server: None, ..calm() };
        let state = State::Swapping { before: BTreeSet::new(), ran: BTreeSet::new(), deadline: due(30) };
        check(&ordered(), &without, 0, &Step::Record(state));
        let by_hand = Order { rehearsal: Rehearsal::None, ..order() };
        assert_eq!(next(&by_hand, &ordered(), &calm(), &at(0)), Step::Record(swapping()));
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
        check(&journal, &calm(), 1, &Step::Swap);
        assert_eq!(journal.wanted_stand_in(&order()), None);
        assert_eq!(relief(&journal, &calm()), None);
    }

    #[test]
    fn what_a_power_cut_took_back_is_done_again_before_the_swap() {
        let journal = journal(swapping(), None);
        check(&journal, &Observed { last_known_good: None, ..calm() }, 1, &Step::KeepLastKnownGood);
        check(&journal, &Observed { staged: false, ..calm() }, 1, &Step::Stage);
        check(&journal, &calm(), 1, &Step::Swap);
    }

    /// History 17583 of the simulation: a backup ran after a power cut, was taken out of the folder, and the old server came back
    /// after the swap, taken for the new one.
    #[test]
    fn what_starts_before_the_swap_is_not_the_change_when_it_starts_again() {
        let journal = journal(swapping(), None);
        let pod = |running: &str, containers: &[&str]| {
            let server = swapped(containers, Health::Ready).server.expect("it has one");
            Some(Server { running: Some(running.to_owned()), ..server })
        };
        let restarted = Observed { server: pod("old", &["old/0.log@1", "old/1.log@2"]), ..calm() };
        check(&journal, &restarted, 1, &Step::Swap);
        let other = pod("rival", &["old/0.log@1", "rival/0.log@2"]);
        let ran = State::Swapping {
            before: logs(&["old/0.log@1"]),
            ran: logs(&["old", "rival"]),
            deadline: due(30),
        };
        let other = Observed { server: other, ..calm() };
        check(&journal, &other, 1, &Step::Record(ran.clone()));
        let journal = super::journal(ran, None);
        check(&journal, &other, 1, &Step::Swap);
        // The swap is made; the old server comes back before the kubelet has seen it.
        let back = pod("old", &["old/0.log@1", "rival/0.log@2", "old/1.log@3"]);
        let back = Observed { server: back, manifest: Some(order().to), ..calm() };
        let Step::Record(verifying @ State::Verifying { .. }) = next(&order(), &journal, &back, &at(2))
        else {
            panic!("a swap that was made is verified")
        };
        let wait = "the kubelet has not started a container from the new manifest".to_owned();
        check(&super::journal(verifying, None), &back, 3, &Step::Wait(wait));
    }

    #[test]
    fn a_file_of_the_same_pod_that_comes_after_the_rehearsal_stops_the_change() {
        let rivals = vec!["kube-apiserver.yaml.bak".to_owned()];
        let beside = Observed { rivals, ..calm() };
        for state in [rehearsing(), swapping()] {
            let journal = journal(state, Some(candidate()));
            check_ends(&next(&order(), &journal, &beside, &at(1)), "Refused", "kube-apiserver.yaml.bak");
        }
    }

    #[test]
    fn a_server_that_is_just_starting_is_not_replaced_before_it_is_ready() {
        let starting = Observed { server: swapped(&["old/0.log@1"], not_ready()).server, ..calm() };
        let waits = Step::Wait("the API server to be ready: /readyz: 500".to_owned());
        check(&journal(swapping(), None), &starting, 29, &waits);
        check(&journal(swapping(), None), &starting, 30, &Step::Swap);
        let relieved =
            Observed { stand_in: Some(seen(1, Health::Ready)), relief: Relief::Waiting, ..starting };
        check(&journal(swapping(), Some(candidate())), &relieved, 29, &waits);
        check(&journal(swapping(), Some(candidate())), &relieved, 30, &Step::Swap);
        // It may be down for good, and the forwarder has its port.
        let answered = Observed { relief: Relief::Holding, ..relieved };
        check(&journal(swapping(), Some(candidate())), &answered, 1, &Step::Swap);
    }

    #[test]
    fn a_node_that_was_just_booted_is_left_alone_for_a_while() {
        let rebooted = |second: u64| Moment { boot: "c".to_owned(), milliseconds: second * 1000 };
        let step = next(&order(), &journal(swapping(), None), &calm(), &rebooted(5));
        let Step::Record(state) = step else { panic!("{step:?}") };
        let booted = journal(state, None);
        let waits = Step::Wait("the node, which was just booted".to_owned());
        assert_eq!(next(&order(), &booted, &calm(), &rebooted(34)), waits);
        assert_eq!(next(&order(), &booted, &calm(), &rebooted(35)), Step::Swap);
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

mod the_end {
    use super::*;

    fn ending() -> Journal {
        let outcome = Outcome::RolledBack { reason: "why".to_owned() };
        journal(State::Ending { outcome, deadline: due(ENDING.as_secs()) }, Some(candidate()))
    }

    #[test]
    fn the_stand_in_goes_then_its_events_are_kept_then_it_is_over() {
        let stray = Observed { stray_stand_ins: vec!["s.yaml".to_owned()], ..calm() };
        check(&ending(), &stray, 0, &Step::RemoveStandIns);
        assert_eq!(ending().wanted_stand_in(&order()), None);
        let listening = Observed { stand_in: Some(seen(1, Health::Ready)), stand_in_logs: true, ..calm() };
        check(&ending(), &listening, 0, &Step::Wait("the stand-in to end".to_owned()));
        let starting = Some(seen(0, not_ready()));
        let starting = Observed { stand_in: starting, stand_in_pods: true, ..calm() };
        check(&ending(), &starting, 0, &Step::Wait("the stand-in to end".to_owned()));
        let ended = Observed { stand_in: Some(seen(1, not_ready())), ..listening.clone() };
        check(&ending(), &ended, 0, &Step::MergeLogs);
        let over = Step::Record(State::RolledBack { reason: "why".to_owned() });
        check(&ending(), &Observed { stand_in_logs: false, ..ended }, 0, &over);
        check(&ending(), &listening, 180, &over);
        // What is left of its Pod then does not keep its events hidden.
        let silent = Observed { stand_in: Some(seen(1, not_ready())), stand_in_pods: true, ..listening };
        check(&ending(), &silent, 179, &Step::Wait("the stand-in to end".to_owned()));
        check(&ending(), &silent, 180, &Step::MergeLogs);
    }

    /// History 501 of the simulation: a stand-in without etcd is out of the journal before it has ended.
    #[test]
    fn one_that_the_journal_names_no_more_is_waited_for() {
        let journal = Journal { stand_in: None, ..ending() };
        let lives = Observed { stand_in_pods: true, stand_in_logs: true, ..calm() };
        check(&journal, &lives, 0, &Step::Wait("the stand-in to end".to_owned()));
        check(&journal, &Observed { stand_in_pods: false, ..lives.clone() }, 0, &Step::MergeLogs);
        // A kubelet that was started while it was taken away looks for its volumes first, for two minutes.
        check(&journal, &lives, 125, &Step::Wait("the stand-in to end".to_owned()));
        check(&journal, &lives, 180, &Step::MergeLogs);
    }

    /// History 928: a kubelet that had read the manifest just before it was taken away.
    #[test]
    fn one_that_was_never_seen_to_start_may_still_do_so() {
        let unseen = Observed { stand_in: Some(seen(0, not_ready())), ..calm() };
        let waits = Step::Wait("whether the kubelet still starts the stand-in".to_owned());
        check(&ending(), &unseen, 0, &waits);
        check(&ending(), &unseen, 9, &waits);
        check(&ending(), &Observed { stand_in_logs: true, ..unseen.clone() }, 10, &Step::MergeLogs);
        let over = Step::Record(State::RolledBack { reason: "why".to_owned() });
        check(&ending(), &unseen, 10, &over);
        // One that was seen has ended, or is seen still.
        check(&ending(), &Observed { stand_in: Some(seen(1, not_ready())), ..calm() }, 0, &over);
        // The kubelet takes away what is seen of an ended one; that it ran the journal knows.
        let rehearsed = Journal { rehearsed: Rehearsed::Full, ..ending() };
        check(&rehearsed, &unseen, 0, &over);
        let rescue = StandIn { role: Role::LastKnownGood, port: 16444 };
        check(&Journal { stand_in: Some(rescue), ..rehearsed }, &unseen, 0, &waits);
        let refused = |by| {
            let outcome = Outcome::Refused { by, reason: "why".to_owned() };
            Journal { state: State::Ending { outcome, deadline: due(ENDING.as_secs()) }, ..ending() }
        };
        check(&refused(Refuser::Checks), &unseen, 0, &waits);
        let over = Step::Record(State::Refused { by: Refuser::Rehearsal, reason: "why".to_owned() });
        check(&refused(Refuser::Rehearsal), &unseen, 0, &over);
    }

    #[test]
    fn who_else_has_its_port_is_not_waited_for_where_pods_are_seen() {
        let memory = Memory { available: None, used_by_server: Some(1) };
        let anothers = Seen { listening: true, ..seen(1, not_ready()) };
        let observed = Observed { stand_in: Some(anothers), stand_in_logs: true, memory, ..calm() };
        check(&ending(), &observed, 0, &Step::MergeLogs);
        let alive = Observed { stand_in_pods: true, ..observed };
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
