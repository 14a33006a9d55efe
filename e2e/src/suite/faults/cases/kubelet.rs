//! The kubelet, which is the only one who starts and ends API servers: stopped, hung, restarted.

use std::time::Duration;

use crate::suite::faults::PATIENCE;
use crate::suite::faults::order::{Change, Rehearsal};
use crate::suite::operator::servers;
use crate::wait;

use super::{Case, EITHER, ROLLED_BACK, SETTLED, case, pause};

/// Longer than the orders' health timeout.
const TOO_LONG: Duration = Duration::from_secs(110);
const SHORT: Duration = Duration::from_secs(30);

pub(super) const CASES: &[Case] = &[
    case("kubelet-stopped-at-the-swap", "kubelet stopped at the swap, started after 30 s", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "swapping", |b| {
            b.node().stop_kubelet()?;
            pause(SHORT)?;
            b.node().start_kubelet()
        })
    })
    .on_both(),
    case(
        "kubelet-stopped-too-long",
        "kubelet stopped at the swap, started after the health timeout",
        EITHER,
        |b| {
            b.order(Change::Good, Rehearsal::Auto, "swapping", |b| {
                b.node().stop_kubelet()?;
                pause(TOO_LONG)?;
                b.node().start_kubelet()
            })
        },
    ),
    case("kubelet-stopped-too-long-bad", "the same with an unknown flag in the manifest", ROLLED_BACK, |b| {
        b.order(Change::UnknownFlag, Rehearsal::None, "verifying", |b| {
            b.node().stop_kubelet()?;
            pause(TOO_LONG)?;
            b.node().start_kubelet()
        })
    }),
    case("kubelet-hangs", "kubelet paused while the new API server starts, for 30 s", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
            b.node().pause_kubelet()?;
            pause(SHORT)?;
            b.node().resume_kubelet()
        })
    }),
    case("kubelet-restarted-rehearsing", "kubelet restarted during the rehearsal", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "rehearsing", |b| b.node().restart_kubelet())
    }),
    case(
        "kubelet-restarted-while-down",
        "kubelet restarted while an unknown flag keeps the API server down",
        ROLLED_BACK,
        |b| {
            b.order(Change::UnknownFlag, Rehearsal::None, "verifying", |b| {
                wait::until("the old API server's end", PATIENCE, || {
                    Ok(servers(b.node())?.is_empty().then_some(()))
                })?;
                b.node().restart_kubelet()
            })
        },
    )
    .on_both()
    .in_ci(),
    case(
        "kubelet-and-agent-restarted",
        "kubelet and agent restarted during the restart of the API server",
        SETTLED,
        |b| {
            b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
                b.node().kill_operator("agent")?;
                b.node().restart_kubelet()
            })
        },
    )
    .on_both(),
];
