//! Tests of [`super::plan`]: one decision at a time; `walk` has whole rollouts with delayed messages.

use super::*;

mod walk;

fn pair(to: &str) -> Change {
    Change { from: "a".to_owned(), to: to.to_owned() }
}

/// A node with a plan, nothing against it.
fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        hold: None,
        permit: None,
        acknowledged: true,
        plan: Some(pair("b")),
        install: Install::Idle,
        age: Duration::MAX,
        soak: Duration::from_secs(30),
        trouble: None,
        proof_missing: false,
    }
}

/// A node that settled this many seconds ago.
fn settled(name: &str, age: u64) -> NodeFacts {
    let install = Install::Settled { to: "b".to_owned() };
    NodeFacts { plan: None, install, age: Duration::from_secs(age), ..node(name) }
}

fn failed(name: &str, to: &str) -> NodeFacts {
    let install = Install::Failed { change: pair(to), id: "42".to_owned() };
    NodeFacts { install, ..node(name) }
}

/// Every node is a control-plane node that serves.
fn facts(nodes: Vec<NodeFacts>) -> Facts {
    let server = |n: &NodeFacts| Server { name: n.name.clone(), readiness: Readiness::Ready };
    Facts { servers: nodes.iter().map(server).collect(), nodes, own_node: None }
}

fn unready(mut facts: Facts, name: &str) -> Facts {
    facts.servers.retain(|server| server.name != name);
    let readiness = Readiness::NotReady("connection refused".to_owned());
    facts.servers.push(Server { name: name.to_owned(), readiness });
    facts
}

fn permitted(decision: &Decision) -> Vec<&str> {
    decision.permits.iter().filter(|(_, permit)| permit.is_some()).map(|(name, _)| name.as_str()).collect()
}

/// Checks who has a permit, and what each node that waits says.
#[track_caller]
fn check(facts: &Facts, permits: &[&str], waiting: &[(&str, &str)]) -> Decision {
    let decision = plan(facts);
    assert_eq!(permitted(&decision), permits, "{decision:?}");
    for (name, part) in waiting {
        let text = decision.waiting.get(*name).map(ToString::to_string).unwrap_or_default();
        assert!(text.contains(part), "{name} waits for: {text}");
    }
    decision
}

#[test]
fn one_node_at_a_time_by_name() {
    let facts = facts(vec![node("n2"), node("n1"), node("n3")]);
    check(&facts, &["n1"], &[("n1", "`n1` is next"), ("n2", "`n1` is next"), ("n3", "`n1` is next")]);
}

#[test]
fn the_worst_node_goes_first_and_the_controllers_own_last() {
    let drifted = |name: &str| NodeFacts { install: Install::Settled { to: "x".to_owned() }, ..node(name) };
    let own = |facts: Facts| Facts { own_node: Some("n1".to_owned()), ..facts };
    check(&own(facts(vec![node("n1"), node("n2")])), &["n2"], &[]);
    check(&own(facts(vec![node("n1")])), &["n1"], &[]);
    check(&own(facts(vec![drifted("n1"), node("n2")])), &["n1"], &[]);
    check(&facts(vec![node("n1"), drifted("n2")]), &["n2"], &[]);
    check(&facts(vec![node("n1"), NodeFacts { proof_missing: true, ..node("n2") }]), &["n2"], &[]);
    check(&unready(facts(vec![drifted("n1"), node("n2"), node("n3")]), "n3"), &["n3"], &[]);
}

#[test]
fn a_missing_file_is_drift_though_the_manifest_is_right() {
    let plan = Some(Change { from: "b".to_owned(), to: "b".to_owned() });
    let missing = NodeFacts { plan, ..settled("n2", 3600) };
    check(&facts(vec![node("n1"), missing]), &["n2"], &[]);
}

#[test]
fn a_permit_given_holds_the_others_back() {
    let given = NodeFacts { permit: Some(pair("b")), acknowledged: false, ..node("n2") };
    check(&facts(vec![node("n1"), given.clone()]), &["n2"], &[("n1", "`n2` is next")]);
    let stuck = NodeFacts { trouble: Some("DiskBudget".to_owned()), ..given };
    check(&facts(vec![node("n1"), stuck]), &["n2"], &[("n1", "cannot begin: DiskBudget")]);
}

#[test]
fn a_permit_that_is_taken_back_counts_until_the_agent_has_seen_that_it_is_gone() {
    let outdated = NodeFacts { permit: Some(pair("b")), plan: None, ..node("n2") };
    check(&facts(vec![node("n1"), outdated]), &[], &[("n1", "the agent of node `n2`")]);
    let unseen = NodeFacts { plan: None, acknowledged: false, ..node("n2") };
    check(&facts(vec![node("n1"), unseen]), &[], &[("n1", "the agent of node `n2`")]);
}

#[test]
fn a_permit_is_taken_back_when_another_node_stops_being_ready() {
    let given = NodeFacts { permit: Some(pair("b")), ..node("n1") };
    check(&unready(facts(vec![given, node("n2")]), "n2"), &[], &[("n2", "the agent of node `n1`")]);
    let given = NodeFacts { permit: Some(pair("b")), ..node("n1") };
    let facts = unready(facts(vec![given, settled("n2", 3600)]), "n2");
    check(&facts, &[], &[("n1", "`n2` is not ready: connection refused")]);
}

#[test]
fn a_node_being_changed_keeps_its_permit_whatever_it_plans_next() {
    let changing = NodeFacts {
        permit: Some(pair("b")),
        plan: Some(pair("c")),
        install: Install::UnderWay,
        ..node("n2")
    };
    let facts = facts(vec![node("n1"), changing]);
    let decision =
        check(&facts, &["n2"], &[("n1", "`n2` is being changed"), ("n2", "`n2` is being changed")]);
    assert_eq!(decision.permits["n2"], Some(pair("b")));
}

#[test]
fn a_newer_plan_gets_a_new_permit_once_the_agent_is_up_to_date() {
    let moved = NodeFacts { permit: Some(pair("b")), plan: Some(pair("c")), ..node("n1") };
    assert_eq!(plan(&facts(vec![moved.clone()])).permits["n1"], Some(pair("c")));
    check(&facts(vec![NodeFacts { acknowledged: false, ..moved }]), &[], &[]);
}

#[test]
fn a_failed_node_stops_the_fleet_until_its_plan_is_another_and_then_it_goes_first() {
    let waits = "kubectl annotate auditnode n2 --overwrite audit-operator.dev/retry=42";
    check(&facts(vec![failed("n2", "b"), node("n1")]), &[], &[("n1", waits), ("n2", waits)]);
    let trouble = Some("RolledBack".to_owned());
    check(&facts(vec![NodeFacts { trouble, ..failed("n2", "old") }, node("n1")]), &["n2"], &[]);
}

#[test]
fn a_refused_change_is_tried_again_after_a_minute_and_before_any_other_node() {
    let refused = |age: u64| NodeFacts {
        install: Install::Refused(pair("b")),
        permit: Some(pair("b")),
        age: Duration::from_secs(age),
        ..node("n2")
    };
    let decision = check(&facts(vec![node("n1"), refused(20)]), &[], &[("n1", "`n2` refused the change")]);
    assert_eq!(decision.look_again, Some(Duration::from_secs(40)));
    check(&facts(vec![node("n1"), refused(60)]), &["n2"], &[]);
}

#[test]
fn no_node_is_next_while_another_is_not_ready_also_one_that_nobody_selects() {
    let facts = unready(facts(vec![node("n1"), node("n2")]), "elsewhere");
    let decision = check(&facts, &[], &[("n1", "`elsewhere` is not ready"), ("n2", "connection refused")]);
    assert_eq!(decision.look_again, Some(ASK_AGAIN));
}

#[test]
fn a_node_that_is_not_ready_may_itself_be_mended() {
    check(&unready(facts(vec![node("n1"), node("n2")]), "n2"), &["n2"], &[]);
}

#[test]
fn servers_are_asked_only_when_a_permit_is_about_to_be_given() {
    let unasked = |mut facts: Facts| {
        facts.servers.iter_mut().for_each(|server| server.readiness = Readiness::NotAsked);
        facts
    };
    assert!(check(&unasked(facts(vec![node("n1"), node("n2")])), &[], &[]).ask);
    for nodes in [
        vec![settled("n1", 3600)],
        vec![node("n1"), settled("n2", 1)],
        vec![node("n1"), failed("n2", "b")],
        vec![NodeFacts { permit: Some(pair("b")), ..node("n1") }, node("n2")],
    ] {
        assert!(!plan(&unasked(facts(nodes))).ask);
    }
}

#[test]
fn the_next_node_waits_until_the_last_one_has_been_settled_for_a_while() {
    let nodes = vec![node("n1"), settled("n2", 10), settled("n3", 25)];
    let decision = check(&facts(nodes), &[], &[("n1", "`n2` was changed and has to stay ready for 30 s")]);
    assert_eq!(decision.look_again, Some(Duration::from_secs(20)));
    check(&facts(vec![node("n1"), settled("n2", 30)]), &["n1"], &[]);
}

#[test]
fn an_event_that_does_not_land_stops_the_fleet_but_not_its_own_nodes_mending() {
    let silent = NodeFacts { proof_missing: true, ..settled("n2", 3600) };
    check(&facts(vec![node("n1"), silent.clone()]), &[], &[("n1", "node `n2` is missing in its log")]);
    check(&facts(vec![node("n1"), NodeFacts { plan: Some(pair("c")), ..silent }]), &["n2"], &[]);
}

#[test]
fn a_node_that_is_held_says_what_to_do_and_does_not_hold_back_others() {
    let configuration = || "default".to_owned();
    let approval = Hold::Approval { configuration: configuration(), revision: "r1".to_owned() };
    for (hold, part) in [
        (Hold::Paused { configuration: configuration() }, "`spec.rollout.paused: true`"),
        (approval, "AuditConfiguration `default` needs `spec.rollout.approvedRevision: r1`"),
        (Hold::Removal { configuration: configuration() }, "`spec.rollout.approvedRevision: none`"),
    ] {
        let held = NodeFacts { hold: Some(hold), permit: Some(pair("b")), ..node("n1") };
        check(&facts(vec![held.clone()]), &[], &[("n1", part)]);
        let held = NodeFacts { permit: None, ..held };
        check(&facts(vec![held, node("n2")]), &["n2"], &[("n1", part), ("n2", "`n2` is next")]);
    }
}

#[test]
fn nothing_to_do_waits_on_nothing() {
    let decision = plan(&unready(facts(vec![settled("n1", 1), settled("n2", 1)]), "n2"));
    assert_eq!((permitted(&decision), decision.waiting.len()), (vec![], 0));
    assert_eq!((decision.ask, decision.look_again), (false, None));
}
