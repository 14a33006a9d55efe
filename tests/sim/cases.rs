//! Histories that are told by hand: what was found once, on a real control plane or here.

use audit_operator::install::Rehearsal;

use crate::history::{Report, play};
use crate::rng::Rng;
use crate::scenario::{Behaviour, Change, Fault, Memory, Scenario, What, When};

/// A change that works on a node that works.
fn good() -> Scenario {
    Scenario {
        change: Change::TurnOn,
        behaviour: Behaviour::Good,
        only_live: false,
        rehearsal: Rehearsal::Auto,
        several: false,
        memory: Memory::Plenty,
        image: true,
        slow: 4,
        faults: Vec::new(),
    }
}

fn fault(when: When, what: What) -> Fault {
    Fault { when, what }
}

/// Each with the state it ends in. What settles does so by its first order.
fn cases() -> Vec<(&'static str, &'static str, Scenario)> {
    let with = |faults: Vec<Fault>| Scenario { faults, ..good() };
    let cut = |when| fault(when, What::PowerCut);
    vec![
        ("nothing goes wrong", "Settled", good()),
        (
            "a power cut in the rehearsal is no crash of the stand-in",
            "Settled",
            with(vec![cut(When::Rehearsing)]),
        ),
        (
            "nor are two",
            "Settled",
            with(vec![cut(When::Rehearsing), cut(When::At(60_000)), cut(When::At(62_000))]),
        ),
        (
            "a power cut when the new server starts is no crash loop",
            "Settled",
            with(vec![cut(When::Starting)]),
        ),
        (
            "the same without a stand-in",
            "Settled",
            Scenario { rehearsal: Rehearsal::None, ..with(vec![cut(When::Starting)]) },
        ),
        (
            "a bad policy is refused after a power cut, too",
            "Refused",
            Scenario { behaviour: Behaviour::Refused, ..with(vec![cut(When::Write(45))]) },
        ),
        (
            "somebody has the port of a stand-in that a power cut ended: its events are kept",
            "Settled",
            with(vec![cut(When::Starting), fault(When::At(70_000), What::PortTaken)]),
        ),
        (
            "a stand-in that ends later than the one after it: its last events are kept",
            "RolledBack",
            Scenario { behaviour: Behaviour::NoEvent, only_live: true, several: true, ..good() },
        ),
        (
            "a second installer of the same order waits until the first is done",
            "Settled",
            with(vec![fault(When::Rehearsing, What::Twin)]),
        ),
        (
            "a disk that is full when the change is to be taken back ends no forwarder",
            "RolledBack",
            Scenario {
                behaviour: Behaviour::Refused,
                only_live: true,
                ..with(vec![fault(When::At(41_560), What::DiskFull(30_000))])
            },
        ),
        (
            "an installer that comes back late, killed before the swap, finds the forwarder that it starts",
            "Settled",
            with(vec![
                fault(When::Write(78), What::Kill),
                fault(When::Write(78), What::KubeletStops(40_000)),
            ]),
        ),
        (
            "a backup that ran before the swap, and the old server that comes back after it, prove nothing (number 17583)",
            "RolledBack",
            Scenario {
                change: Change::Another,
                behaviour: Behaviour::NoEvent,
                rehearsal: Rehearsal::None,
                ..with(vec![
                    cut(When::Write(48)),
                    fault(When::At(22_000), What::Rival(20_000)),
                    fault(When::At(70_000), What::KubeletStops(200_000)),
                    fault(When::At(147_000), What::Kill),
                ])
            },
        ),
        (
            "killed before its last word is on the disk: the next one brings it there before it leaves (number 35308)",
            "Settled",
            Scenario {
                change: Change::OnlyFiles,
                ..with(vec![fault(When::Write(50), What::Kill), cut(When::At(70_000))])
            },
        ),
        (
            "a change that only the live server refuses is taken back",
            "RolledBack",
            Scenario { behaviour: Behaviour::Refused, only_live: true, ..good() },
        ),
    ]
}

/// Plays them all; what is wrong with each.
pub(crate) fn run(traced: bool) -> Vec<(&'static str, Report)> {
    let mut found = Vec::new();
    for (name, state, scenario) in cases() {
        for seed in 0..10 {
            let mut report = play(scenario.clone(), Rng::new(seed), traced);
            if report.outcome != state {
                report.violations.push(format!("it ends {} and not {state}", report.outcome));
            }
            if report.outcome == "Settled" && report.orders > 1 {
                report.violations.push(format!("it took {} orders", report.orders));
            }
            if !report.violations.is_empty() {
                found.push((name, report));
                break;
            }
        }
    }
    found
}
