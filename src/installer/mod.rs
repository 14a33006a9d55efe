//! The installer: carries out the order on the node's disk, one step at a time, and decides nothing.
//!
//! Observe, ask [`install::next()`] for the step, do it, observe again. It needs no API server and no credentials. The
//! agent writes the order and reads the journal; this reads the order and writes the journal; they never talk. It runs as
//! a static Pod that the agent adds for one order, or in the hands of an administrator as `audit-operator node`.
//!
//! What it does goes through [`Host`] and [`Forward`], which a simulation has its own of.

mod relief;
mod serve;

use std::time::Duration;

use futures::Future;
use tracing::{error, info, warn};

use crate::host::{Error, Host, Lock};
use crate::install::{self, Journal, Moment, Observed, Order, State, Step};
use crate::install::{Health, Relief as ReliefSeen};

use serve::Service;
pub use serve::{Forward, Forwarder, RealForward, Route};

/// Between two observations while an API server is away: the time without an answer is counted by them.
const QUICK: Duration = Duration::from_millis(200);
/// Between two observations otherwise.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two tries when something is in the way.
const RETRY: Duration = Duration::from_secs(1);

/// The static Pod's whole life: carries out the order of this identity, takes its own manifest away, and waits to be ended by
/// the kubelet. Being ended before is safe at any moment; it goes on where it was when it is started again.
pub async fn run(host: &Host, order_id: &str, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::select! {
        () = carry_out_and_leave(host, order_id, &RealForward) => {}
        () = shutdown => info!("ended before the order was carried out; going on when started again"),
    }
    Ok(())
}

/// As [`run`], but for being told to end.
pub async fn carry_out_and_leave(host: &Host, order_id: &str, forward: &dyn Forward) {
    let mut said = String::new();
    loop {
        match attempt(host, order_id, forward).await {
            Ok(()) => break,
            // Said once, not every second.
            Err(error) if error.to_string() != said => {
                said = error.to_string();
                error!(order = order_id, said, "cannot go on; trying again");
            }
            Err(_) => {}
        }
        host.machine().pause(RETRY).await;
    }
    info!(order = order_id, "done; waiting for the kubelet to end this Pod");
    std::future::pending::<()>().await;
}

async fn attempt(host: &Host, order_id: &str, forward: &dyn Forward) -> Result<(), Error> {
    let lock = host.lock()?;
    let order = host.order()?.filter(|order| order.id == order_id);
    match &order {
        Some(order) => {
            let journal = carry_out(host, order, &lock, forward).await?;
            info!(order = order.id, state = journal.state.name(), "install ended");
        }
        None => warn!(order = order_id, "the order on the disk is another one"),
    }
    host.remove_installer(order_id)
}

/// Carries out one order to its end and returns its journal. An error means that not even the journal could be written;
/// calling again goes on from where it is.
pub async fn carry_out(
    host: &Host,
    order: &Order,
    _lock: &Lock,
    forward: &dyn Forward,
) -> Result<Journal, Error> {
    let machine = host.machine();
    let mut journal = host.journal_of(order, machine.time_of_day())?;
    host.take_over(order)?;
    // The first sign of life: the agent waits for it. One that comes back after the end has nothing to say.
    if !journal.state.is_final() {
        kept(&journal.state, host.record(order, &journal))?;
    }
    let mut service = Service::new(host, order, forward);
    let mut silence = Silence::default();
    loop {
        let mut observed = host.observe(order, &journal, service.seen()).await?;
        let now = machine.now();
        silence.count(&mut journal, &observed, &now);
        service.follow(install::next::relief(&journal, &observed));
        // An installer that was killed may come back when the deadline has passed: the forwarder it has just started is there.
        if observed.relief == ReliefSeen::Off {
            observed.relief = service.seen();
        }
        let mut step = install::next(order, &journal, &observed, &now);
        if let Err(error) = do_step(host, order, &mut journal, &step).await {
            warn!(order = order.id, ?step, %error, "a step failed");
            let observed = host.observe(order, &journal, service.seen()).await?;
            let now = machine.now();
            step = install::next::after_failure(order, &journal, &observed, &error.to_string(), &now);
        }
        match step {
            Step::Record(state) => {
                info!(order = order.id, state = state.name(), reason = state.reason(), "install");
                let next = journal.clone().record(state, machine.time_of_day());
                if kept(&journal.state, host.record(order, &next))? {
                    journal = next;
                } else {
                    machine.pause(PAUSE).await;
                }
            }
            Step::Wait(reason) => {
                if reason != journal.waiting_for {
                    info!(order = order.id, state = journal.state.name(), reason, "waiting");
                    journal.waiting_for = reason;
                    kept(&journal.state, host.record(order, &journal))?;
                }
                machine.pause(pause(&journal.state)).await;
            }
            Step::Finished => {
                service.finish().await;
                if journal.state == State::Settled
                    && let Err(error) = host.prune(order)
                {
                    warn!(order = order.id, %error, "old backups or policy files are still there");
                }
                return Ok(journal);
            }
            _ => {}
        }
    }
}

/// Whether the journal is written. On a full disk it is not: once the live manifest may have been touched, whoever forwards
/// connections meanwhile must not end for that. A new state is decided again until it can be written; a text of what is waited for
/// comes with the next.
///
/// # Errors
/// It is not, and nothing live was touched.
fn kept(state: &State, written: Result<(), Error>) -> Result<bool, Error> {
    match written {
        Err(error) if state.may_be_live() => {
            warn!(state = state.name(), %error, "the journal cannot be written; free space on its disk, it goes on by itself");
            Ok(false)
        }
        written => written.map(|()| true),
    }
}

fn pause(state: &State) -> Duration {
    match state {
        State::Swapping { .. } | State::Verifying { .. } | State::RollingBack { .. } => QUICK,
        _ => PAUSE,
    }
}

async fn do_step(host: &Host, order: &Order, journal: &mut Journal, step: &Step) -> Result<(), Error> {
    match step {
        Step::KeepLastKnownGood => host.keep_last_known_good(order),
        Step::Stage => host.stage(order),
        Step::Swap => host.swap(order),
        Step::Restore => host.restore(order),
        Step::Employ(stand_in) => {
            let next = Journal { stand_in: Some(stand_in.clone()), ..journal.clone() };
            host.record(order, &next)?;
            *journal = next;
            Ok(())
        }
        Step::AddStandIn => host.add_stand_in(order, journal),
        Step::RemoveStandIns => host.remove_stand_ins(order, journal),
        Step::MergeLogs => host.merge_stand_in_logs(order),
        Step::Prove(target) => {
            let proof = host.prove_install(order, journal, *target, host.machine().time_of_day()).await;
            info!(order = order.id, ?target, result = ?proof.result, message = proof.message, "proof");
            let next = Journal { proof: Some(proof), ..journal.clone() };
            host.record(order, &next)?;
            *journal = next;
            Ok(())
        }
        Step::Record(_) | Step::Wait(_) | Step::Finished => Ok(()),
    }
}

/// The time in which nothing answered on this node's port, as far as it was seen.
#[derive(Default)]
struct Silence {
    since: Option<Moment>,
}

impl Silence {
    fn count(&mut self, journal: &mut Journal, observed: &Observed, now: &Moment) {
        let counts = matches!(
            journal.state,
            State::Swapping { .. } | State::Verifying { .. } | State::RollingBack { .. }
        );
        let answered = observed.relief == ReliefSeen::Holding
            || observed.server.as_ref().is_none_or(|server| server.health == Health::Ready);
        if let Some(since) = self.since.take() {
            journal.unanswered_milliseconds += now.since(&since).unwrap_or(0);
        }
        if counts && !answered {
            self.since = Some(now.clone());
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "this test works on real files")]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::install::next::tests::order;
    use crate::install::order::STATE_FOLDER;

    /// History 20858 of the simulation: its manifest was gone by then, and nobody came to what a power cut left half-written.
    #[tokio::test]
    async fn one_that_comes_back_after_the_end_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let order = order();
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        let host = Host::new(root.path(), &order.manifest, None);
        for path in
            [&order.manifest, &order.backup(), &"/var/lib/audit-operator/last-known-good/x".to_owned()]
        {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        }
        fs::write(at(&order.manifest), &order.target).unwrap();
        let lock = host.lock().unwrap();
        let done = Journal::begin(&order.id, order.created).record(State::Settled, order.created);
        host.record(&order, &done).unwrap();
        let files = || {
            ["journal.json", "settled.json"]
                .map(|name| fs::metadata(at(STATE_FOLDER).join(name)).unwrap().ino())
        };
        let before = files();
        let journal = carry_out(&host, &order, &lock, &RealForward).await.unwrap();
        assert_eq!((journal.state, files()), (State::Settled, before));
    }
}
