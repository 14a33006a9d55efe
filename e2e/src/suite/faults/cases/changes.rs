//! Changes that no API server can run with, past every check the operator makes before it gives an order.

use crate::suite::faults::order::{Change, Rehearsal};

use super::{Case, REFUSED, ROLLED_BACK, case, nothing};

pub(super) const CASES: &[Case] = &[
    case("unknown-flag", "a flag kube-apiserver does not know, past our checks", REFUSED, |b| {
        b.order(Change::UnknownFlag, Rehearsal::Auto, "rehearsing", nothing)
    })
    .no_outage()
    .on_both()
    .in_ci(),
    case("bad-policy", "a policy the API server refuses, past our checks", REFUSED, |b| {
        b.order(Change::BadPolicy, Rehearsal::Auto, "rehearsing", nothing)
    })
    .no_outage(),
    case("read-only-log", "a log path on a read-only mount", REFUSED, |b| {
        b.order(Change::ReadOnlyLog, Rehearsal::Auto, "rehearsing", nothing)
    })
    .no_outage(),
    case("missing-mount", "a mount of a file that is not there", REFUSED, |b| {
        b.order(Change::MissingMount, Rehearsal::Auto, "rehearsing", nothing)
    })
    .no_outage(),
    case("unknown-flag-unrehearsed", "the same flag with the rehearsal off", ROLLED_BACK, |b| {
        b.order(Change::UnknownFlag, Rehearsal::None, "verifying", nothing)
    })
    .one_restart_and_a_half()
    .on_both(),
    case("bad-policy-unrehearsed", "the same policy with the rehearsal off", ROLLED_BACK, |b| {
        b.order(Change::BadPolicy, Rehearsal::None, "verifying", nothing)
    })
    .one_restart_and_a_half(),
    case("read-only-log-unrehearsed", "the same log path with the rehearsal off", ROLLED_BACK, |b| {
        b.order(Change::ReadOnlyLog, Rehearsal::None, "verifying", nothing)
    })
    .one_restart_and_a_half(),
    // No process ever starts, so nothing can be seen before the deadline.
    case(
        "missing-mount-unrehearsed",
        "the same mount with the rehearsal off: no process at all",
        ROLLED_BACK,
        |b| b.order(Change::MissingMount, Rehearsal::None, "verifying", nothing),
    ),
];
