//! The installer: carries out the order on the node's disk, one step at a time, and decides nothing.
//!
//! Observe, ask [`install::next()`] for the step, do it, observe again. It needs no API server and no credentials. The
//! agent writes the order and reads the journal; this reads the order and writes the journal; they never talk.
#![expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read and time passes")]

use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, info, warn};

use crate::host::{Error, Host, Lock};
use crate::install::{self, Journal, Order, State, Step};

pub mod relief;

/// Between two observations while something is waited for: well below what a restart of an API server takes, and far
/// from being a load on it.
const PAUSE: Duration = Duration::from_secs(1);

/// Carries out whatever order is on the disk and unfinished, now and whenever a new one comes; ends only by being
/// dropped, which is safe at any moment.
pub async fn serve(host: &Host) {
    let mut trouble = String::new();
    loop {
        match unfinished(host) {
            Ok(Some(order)) => match take_up(host, &order).await {
                // `audit-operator node` is at work; what it leaves unfinished is taken up after it.
                Err(Error::Locked(_)) => {}
                Ok(journal) => info!(order = order.id, state = journal.state.name(), "install ended"),
                Err(error) => error!(order = order.id, %error, "install cannot go on; trying again"),
            },
            Ok(None) => {}
            // Said once, not every second.
            Err(error) if error.to_string() != trouble => {
                trouble = error.to_string();
                error!(trouble, "the order or the journal cannot be read");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn take_up(host: &Host, order: &Order) -> Result<Journal, Error> {
    let lock = host.lock()?;
    carry_out(host, order, &lock).await
}

fn unfinished(host: &Host) -> Result<Option<Order>, Error> {
    let Some(order) = host.order()? else { return Ok(None) };
    let finished = host.journal()?.is_some_and(|j| j.order == order.id && j.state.is_final());
    Ok((!finished).then_some(order))
}

/// Carries out one order to its end and returns its journal. An error means that not even the journal could be written;
/// calling again goes on from where it is.
pub async fn carry_out(host: &Host, order: &Order, _lock: &Lock) -> Result<Journal, Error> {
    let mut journal = host.journal_of(order, Timestamp::now())?;
    loop {
        let observed = host.observe(order).await?;
        let now = Timestamp::now();
        let mut step = install::next(order, &journal.state, &observed, now);
        if let Err(error) = do_step(host, order, &step) {
            warn!(order = order.id, ?step, %error, "a step failed");
            let observed = host.observe(order).await?;
            step = install::next::after_failure(order, &journal.state, &observed, &error.to_string());
        }
        match step {
            Step::Record(state) => {
                info!(order = order.id, state = state.name(), reason = state.reason(), "install");
                let next = journal.record(state, now);
                host.record(order, &next)?;
                journal = next;
            }
            Step::Wait(reason) => {
                if reason != journal.waiting_for {
                    info!(order = order.id, state = journal.state.name(), reason, "waiting");
                    journal.waiting_for = reason;
                    host.record(order, &journal)?;
                }
                tokio::time::sleep(PAUSE).await;
            }
            Step::Finished => {
                if journal.state == State::Settled
                    && let Err(error) = host.prune(order)
                {
                    warn!(order = order.id, %error, "old backups or policy files are still there");
                }
                return Ok(journal);
            }
            Step::KeepLastKnownGood | Step::Stage | Step::Swap | Step::Restore => {}
        }
    }
}

fn do_step(host: &Host, order: &Order, step: &Step) -> Result<(), Error> {
    match step {
        Step::KeepLastKnownGood => host.keep_last_known_good(order),
        Step::Stage => host.stage(order),
        Step::Swap => host.swap(order),
        Step::Restore => host.restore(order),
        Step::Record(_) | Step::Wait(_) | Step::Finished => Ok(()),
    }
}
