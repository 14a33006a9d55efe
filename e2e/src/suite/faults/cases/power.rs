//! Power cuts, in every state of the journal, with a change that works and with one that does not.

use anyhow::Result;

use crate::suite::faults::bed::Bed;
use crate::suite::faults::order::{Change, Rehearsal};

use super::surroundings::{Alive, kill_new_server, new_server};
use super::{Case, EITHER, REFUSED, ROLLED_BACK, SETTLED, case, stand_in};

pub(super) const CASES: &[Case] = &[
    case("power-cut-ordered", "power cut when the order was just given", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "ordered", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-rehearsing", "power cut during the rehearsal", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "rehearsing", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-swapping", "power cut at the swap", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "swapping", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-verifying", "power cut while the new API server starts", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", Bed::power_cut)
    })
    .on_both()
    .in_ci(),
    case("power-cut-started", "power cut when the new API server runs, and is not ready yet", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
            new_server(b, Alive::Runs)?;
            b.power_cut()
        })
    })
    .on_both(),
    case("power-cut-ending", "power cut while the stand-in is taken away", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "ending", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-ordered-bad", "power cut when an unknown flag was just ordered", REFUSED, |b| {
        b.order(Change::UnknownFlag, Rehearsal::Auto, "ordered", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-rehearsing-bad", "power cut during the rehearsal of an unknown flag", REFUSED, |b| {
        b.order(Change::UnknownFlag, Rehearsal::Auto, "rehearsing", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-ending-bad", "power cut while the refused stand-in is taken away", REFUSED, |b| {
        b.order(Change::UnknownFlag, Rehearsal::Auto, "ending", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-swapping-bad", "power cut at the swap to an unknown flag", ROLLED_BACK, |b| {
        b.order(Change::UnknownFlag, Rehearsal::None, "swapping", Bed::power_cut)
    })
    .on_both(),
    case("power-cut-verifying-bad", "power cut with an unknown flag in the manifest", ROLLED_BACK, |b| {
        b.order(Change::UnknownFlag, Rehearsal::None, "verifying", Bed::power_cut)
    })
    .on_both()
    .in_ci(),
    case("power-cut-rolling-back", "power cut while the last known good is put back", ROLLED_BACK, |b| {
        b.order(Change::UnknownFlag, Rehearsal::None, "rollingBack", Bed::power_cut)
    })
    .on_both(),
    case(
        "power-cut-rolling-back-relieved",
        "the same while a stand-in serves: the new API server was killed",
        ROLLED_BACK,
        |b| {
            b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
                kill_new_server(b, Alive::Listens)?;
                b.reaches("rollingBack")?;
                b.power_cut()
            })
        },
    )
    .on_both(),
    case(
        "two-power-cuts",
        "power cut with an unknown flag in the manifest, and again while it is put back",
        ROLLED_BACK,
        |b| {
            b.order(Change::UnknownFlag, Rehearsal::None, "verifying", |b| {
                b.power_cut()?;
                b.power_cut()
            })
        },
    )
    .on_both(),
    case("power-cut-port-taken", "power cut while somebody has the stand-in's port", SETTLED, |b| {
        let listener = stand_in::Listener::start(b.node())?;
        let expected = b.order(Change::Good, Rehearsal::Auto, "rehearsing", Bed::power_cut);
        listener.gone()?;
        expected
    }),
    case(
        "power-cut-stand-in-killed",
        "power cut after the stand-in was killed while it serves",
        SETTLED,
        |b| {
            b.order(Change::Good, Rehearsal::Auto, "verifying", |b| {
                stand_in::serves(b)?;
                stand_in::kill(b)?;
                b.power_cut()
            })
        },
    ),
    case("power-cut-rehearsal-hangs", "power cut while the stand-in hangs", SETTLED, |b| {
        b.order(Change::Good, Rehearsal::Auto, "rehearsing", |b| {
            stand_in::hangs(b)?;
            b.power_cut()
        })
    }),
    case(
        "power-cut-server-dies",
        "power cut after the new API server became ready and was killed",
        EITHER,
        |b| {
            b.order(Change::Good, Rehearsal::Auto, "verifying", |b| -> Result<()> {
                kill_new_server(b, Alive::Ready)?;
                b.power_cut()
            })
        },
    ),
];
