//! The clock jumps. A node of the test bed has the machine's clock, so the whole machine's is set, for as long as the change
//! takes; [`crate::clock`] sees to it that it is put right whatever happens.

use std::time::Duration;

use crate::clock::Shifted;
use crate::suite::faults::order::{Change, Rehearsal};

use super::{Case, SETTLED, case};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) const CASES: &[Case] = &[
    case(
        "clock-forward",
        "the clock jumps forward by an hour while the new API server starts",
        SETTLED,
        |b| {
            let mut shifted = None;
            let expected = b.order(Change::Good, Rehearsal::Auto, "verifying", |_| {
                shifted = Some(Shifted::by(HOUR)?);
                Ok(())
            })?;
            b.ends(expected.order.as_deref())?;
            Ok(expected)
        },
    )
    .alone(),
    // From an hour in the future back to now: before now the cluster's certificates are not valid yet.
    case("clock-back", "the clock jumps back by an hour while the new API server starts", SETTLED, |b| {
        let shifted = Shifted::by(HOUR)?;
        b.order(Change::Good, Rehearsal::Auto, "verifying", |_| shifted.back())
    })
    .alone(),
];
