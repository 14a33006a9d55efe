//! Tests of [`super::next`]: single decisions, and a simulated node that loses power between any two steps.

use proptest::prelude::*;

use super::*;
use crate::manifest;

const START: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn order() -> Order {
    Order {
        version: super::super::order::VERSION,
        id: "o".to_owned(),
        created: at(0),
        revision: Some("r".to_owned()),
        manifest: "/m.yaml".to_owned(),
        from: manifest::digest(b"from"),
        to: manifest::digest(b"to"),
        target: "to".to_owned(),
        original: None,
        log_folders: Vec::new(),
        files: Vec::new(),
        keep_backups: 3,
        health_timeout_seconds: 300,
    }
}

fn logs(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// A node with the old manifest, whose server `old` is healthy.
fn calm() -> Observed {
    Observed {
        manifest: Some(order().from),
        last_known_good: Some(order().from),
        staged: true,
        rivals: Vec::new(),
        server: Some(Server {
            containers: logs(&["old/0.log"]),
            running: Some("old".to_owned()),
            health: Health::Ready,
        }),
    }
}

fn verifying() -> State {
    State::Verifying { before: logs(&["old/0.log"]), running: Some("old".to_owned()), deadline: at(300) }
}

fn swapped(containers: &[&str], health: Health) -> Observed {
    let server = Server { containers: logs(containers), running: Some("old".to_owned()), health };
    Observed { manifest: Some(order().to), server: Some(server), ..calm() }
}

#[track_caller]
fn check_state(state: &State, observed: &Observed, second: i64, expected: &str) {
    match next(&order(), state, observed, at(second)) {
        Step::Record(state) => assert_eq!(state.name(), expected, "{state:?}"),
        step => panic!("expected the state {expected}, got {step:?}"),
    }
}

#[track_caller]
fn check_step(state: &State, observed: &Observed, second: i64, expected: &Step) {
    assert_eq!(next(&order(), state, observed, at(second)), *expected);
}

#[track_caller]
fn check_waits(state: &State, observed: &Observed, second: i64, for_what: &str) {
    match next(&order(), state, observed, at(second)) {
        Step::Wait(reason) => assert!(reason.contains(for_what), "{reason}"),
        step => panic!("expected to wait, got {step:?}"),
    }
}

#[test]
fn refuses_when_the_manifest_is_no_longer_the_plans() {
    let edited = Observed { manifest: Some(manifest::digest(b"edited")), ..calm() };
    check_state(&State::Ordered, &edited, 0, "Refused");
    check_state(&State::Ordered, &Observed { manifest: None, ..calm() }, 0, "Refused");
}

#[test]
fn refuses_beside_another_manifest_of_the_same_pod() {
    let rival = Observed { rivals: vec!["kube-apiserver.yaml.bak".to_owned()], ..calm() };
    check_state(&State::Ordered, &rival, 0, "Refused");
}

#[test]
fn keeps_the_last_known_good_before_anything_else_and_stages_before_it_swaps() {
    let fresh = Observed { last_known_good: Some(manifest::digest(b"older")), staged: false, ..calm() };
    check_step(&State::Ordered, &fresh, 0, &Step::KeepLastKnownGood);
    check_step(&State::Ordered, &Observed { staged: false, ..calm() }, 0, &Step::Stage);
    check_state(&State::Ordered, &calm(), 0, "Swapping");
}

#[test]
fn never_swaps_without_the_last_known_good_or_the_files() {
    let State::Verifying { before, running, .. } = verifying() else { unreachable!() };
    let swapping = State::Swapping { before, running };
    check_step(&swapping, &Observed { last_known_good: None, ..calm() }, 0, &Step::KeepLastKnownGood);
    check_step(&swapping, &Observed { staged: false, ..calm() }, 0, &Step::Stage);
    check_step(&swapping, &calm(), 0, &Step::Swap);
    check_state(&swapping, &swapped(&["old/0.log"], Health::Ready), 0, "Verifying");
    check_state(&swapping, &Observed { manifest: Some(manifest::digest(b"edited")), ..calm() }, 0, "Failed");
}

#[test]
fn settles_only_when_a_new_container_answers() {
    // The old server goes on answering until the kubelet has seen the file.
    check_waits(&verifying(), &swapped(&["old/0.log"], Health::Ready), 1, "kubelet");
    // A restart of the old Pod is no new Pod.
    check_waits(&verifying(), &swapped(&["old/0.log", "old/1.log"], Health::Ready), 1, "kubelet");
    let starting = swapped(&["old/0.log", "new/0.log"], Health::NotReady("500".to_owned()));
    check_waits(&verifying(), &starting, 1, "not ready: 500");
    check_state(&verifying(), &swapped(&["old/0.log", "new/0.log"], Health::Ready), 1, "Settled");
}

#[test]
fn a_pod_that_ran_before_may_come_back_under_its_old_uid() {
    let State::Verifying { running, deadline, .. } = verifying() else { unreachable!() };
    let state = State::Verifying { before: logs(&["old/0.log", "earlier/0.log"]), running, deadline };
    let back = swapped(&["old/0.log", "earlier/0.log", "earlier/1.log"], Health::Ready);
    check_state(&state, &back, 1, "Settled");
}

#[test]
fn a_server_that_is_not_healthy_in_time_is_rolled_back() {
    let crashing = swapped(&["old/0.log", "new/0.log"], Health::NotReady("refused".to_owned()));
    check_state(&verifying(), &crashing, 300, "RollingBack");
    let Step::Record(rolling) = next(&order(), &verifying(), &crashing, at(300)) else { unreachable!() };
    check_step(&rolling, &crashing, 301, &Step::Restore);
    let restored = Observed { manifest: Some(order().from), ..crashing.clone() };
    check_waits(&rolling, &restored, 302, "restored");
    // The new server dying slowly is not the old one back.
    let late = swapped(&["old/0.log", "new/0.log", "new/1.log"], Health::Ready);
    check_waits(&rolling, &Observed { manifest: Some(order().from), ..late }, 302, "restored");
    let back = swapped(&["old/0.log", "new/0.log", "old/1.log"], Health::Ready);
    check_state(&rolling, &Observed { manifest: Some(order().from), ..back }, 303, "RolledBack");
    check_state(&rolling, &restored, 601, "Failed");
}

#[test]
fn a_kubelet_that_never_reacted_is_told_apart() {
    let deaf = swapped(&["old/0.log"], Health::Ready);
    let Step::Record(rolling) = next(&order(), &verifying(), &deaf, at(300)) else { panic!() };
    let restored = Observed { manifest: Some(order().from), ..deaf };
    let Step::Record(State::RolledBack { reason }) = next(&order(), &rolling, &restored, at(600)) else {
        panic!()
    };
    assert!(reason.contains("did not react"), "{reason}");
}

#[test]
fn what_somebody_else_wrote_meanwhile_is_left_alone() {
    let edited = Observed { manifest: Some(manifest::digest(b"edited")), ..calm() };
    check_state(&verifying(), &edited, 1, "Failed");
    let rolling =
        State::RollingBack { reason: "r".to_owned(), before: logs(&[]), tried: logs(&[]), deadline: at(600) };
    check_state(&rolling, &edited, 1, "Failed");
}

#[test]
fn with_files_only_there_is_no_server_to_wait_for() {
    let files = Observed { server: None, ..swapped(&[], Health::Ready) };
    check_state(&verifying(), &files, 1, "Settled");
}

#[test]
fn an_order_for_files_alone_never_touches_the_manifest() {
    let order = Order { to: order().from, ..order() };
    let missing = Observed { staged: false, ..calm() };
    assert_eq!(next(&order, &State::Ordered, &missing, at(0)), Step::Stage);
    assert_eq!(next(&order, &State::Ordered, &calm(), at(0)), Step::Record(State::Settled));
}

#[test]
fn a_failed_step_before_the_swap_refuses_and_after_it_is_tried_again() {
    let swapping = State::Swapping { before: logs(&[]), running: None };
    let failed = |state: &State, observed: &Observed| after_failure(&order(), state, observed, "disk full");
    let refused = Step::Record(State::Refused { reason: "disk full".to_owned() });
    assert_eq!(failed(&State::Ordered, &calm()), refused);
    assert_eq!(failed(&swapping, &calm()), refused);
    // The rename was done, and only then something failed: the change is on the disk.
    assert!(matches!(failed(&swapping, &swapped(&[], Health::Ready)), Step::Wait(_)));
    let rolling =
        State::RollingBack { reason: "r".to_owned(), before: logs(&[]), tried: logs(&[]), deadline: at(600) };
    assert!(matches!(failed(&rolling, &calm()), Step::Wait(_)));
}

/// A node whose kubelet starts whatever manifest it sees, and whose new server is healthy or is not.
struct Node {
    manifest: String,
    last_known_good: Option<String>,
    staged: bool,
    /// What the kubelet runs, as the manifest's digest.
    running: String,
    containers: BTreeSet<String>,
    new_is_healthy: bool,
    restarts: u32,
}

impl Node {
    fn observe(&self, order: &Order) -> Observed {
        let health = match self.running == order.from || self.new_is_healthy {
            true => Health::Ready,
            false => Health::NotReady("crash loop".to_owned()),
        };
        Observed {
            manifest: Some(self.manifest.clone()),
            last_known_good: self.last_known_good.clone(),
            staged: self.staged,
            rivals: Vec::new(),
            server: Some(Server {
                containers: self.containers.clone(),
                running: Some(self.running.clone()),
                health,
            }),
        }
    }

    /// The kubelet acts on what is in the folder: a Pod of the manifest's own UID, a new log for each container.
    fn kubelet(&mut self) {
        if self.running != self.manifest {
            self.running = self.manifest.clone();
            self.restarts += 1;
            self.containers.insert(format!("{}/{}.log", self.running, self.restarts));
        }
    }

    fn do_step(&mut self, order: &Order, step: &Step) {
        match step {
            Step::KeepLastKnownGood => self.last_known_good = Some(self.manifest.clone()),
            Step::Stage => self.staged = true,
            Step::Swap => {
                assert_eq!(
                    self.last_known_good.as_ref(),
                    Some(&order.from),
                    "swapped without last known good"
                );
                assert_eq!(self.manifest, order.from, "swapped something that is not the plan's manifest");
                assert!(self.staged, "swapped before the files were there");
                self.manifest = order.to.clone();
            }
            Step::Restore => self.manifest = self.last_known_good.clone().expect("restored from nothing"),
            Step::Record(_) | Step::Wait(_) | Step::Finished => {}
        }
    }
}

proptest! {
    /// At each step the process dies before it, after it but before its record, or not at all; the kubelet may be slow;
    /// somebody may edit the manifest once. Whatever happens, the end is reached and says what is on the disk.
    #[test]
    fn every_interrupted_install_ends_well(
        events in prop::collection::vec(0u8..8, 0..60),
        healthy: bool,
        edit_at in prop::option::of(0usize..40),
    ) {
        let order = order();
        let mut node = Node {
            manifest: order.from.clone(), last_known_good: None, staged: false, running: order.from.clone(),
            containers: logs(&[]), new_is_healthy: healthy, restarts: 0,
        };
        node.containers.insert(format!("{}/0.log", order.from));
        let mut state = State::Ordered;
        let mut second = 0;
        for round in 0..2000usize {
            second += 1;
            if edit_at == Some(round) { node.manifest = manifest::digest(b"edited"); }
            let event = events.get(round).copied().unwrap_or(7);
            if event != 0 { node.kubelet(); }
            let step = next(&order, &state, &node.observe(&order), at(second));
            if event == 1 { continue; }
            node.do_step(&order, &step);
            if event == 2 && !matches!(step, Step::Record(_)) { continue; }
            if let Step::Record(new) = step { state = new; }
            if state.is_final() { break; }
        }
        match &state {
            State::Settled => prop_assert!(healthy || node.manifest != order.to, "settled on a server that is not healthy"),
            State::Refused { .. } => prop_assert!(node.manifest != order.to, "refused, but the manifest was changed"),
            State::RolledBack { .. } => {
                prop_assert!(!healthy);
                prop_assert!(node.manifest == order.from || edit_at.is_some());
            }
            State::Failed { .. } => prop_assert!(edit_at.is_some(), "failed though nobody interfered: {state:?}"),
            state => prop_assert!(false, "did not end: {state:?}"),
        }
        if edit_at.is_none() {
            let expected = if healthy { &order.to } else { &order.from };
            prop_assert_eq!(&node.manifest, expected);
        }
    }
}
