//! Several clusters side by side, each in a lane with a thread and a state folder of its own: most of a fault's time is
//! waiting.
//!
//! A lane keeps its cluster as long as each case leaves it as the next needs it; after one that was not survived, or
//! for another number of nodes, it takes a new one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, anyhow, ensure};

use crate::progress::{self, say};
use crate::suite::{Given, keep_evidence};
use crate::{launch, teardown};

use super::Job;
use super::bed::{Bed, Ended};
use super::cases::Limit;
use super::table::Row;

/// What the lanes share.
pub(super) struct Work {
    waiting: Mutex<VecDeque<Job>>,
    rows: Mutex<Vec<Row>>,
    /// What a bare `mv` costs: measured once, when the first case is compared with it.
    mv: Mutex<Option<f64>>,
    /// Whether it is measured at all.
    compare: bool,
}

impl Work {
    pub(super) fn new(compare: bool) -> Self {
        Self { waiting: Mutex::default(), rows: Mutex::default(), mv: Mutex::default(), compare }
    }

    /// Does these jobs in so many lanes, and returns when all are done or no lane is left.
    pub(super) fn run(&self, given: &Given, jobs: Vec<Job>, lanes: usize) -> Result<()> {
        let lanes = lanes.min(jobs.len());
        *locked(&self.waiting) = jobs.into();
        thread::scope(|scope| {
            for number in 0..lanes {
                scope.spawn(move || {
                    progress::about(&format!("lane {number}"));
                    if let Err(error) = self.lane(given, number) {
                        say!("this lane ends: {error:#}");
                    }
                });
            }
        });
        ensure!(!launch::is_closed(), "interrupted");
        let missed = std::mem::take(&mut *locked(&self.waiting));
        let rows = missed.into_iter().map(|job| Row { job, result: Err(anyhow!("not run")) });
        locked(&self.rows).extend(rows);
        Ok(())
    }

    /// Every row, and what a bare `mv` costs.
    pub(super) fn done(self) -> (Vec<Row>, Option<f64>) {
        let into = |poisoned: PoisonError<_>| poisoned.into_inner();
        (self.rows.into_inner().unwrap_or_else(into), *locked(&self.mv))
    }

    fn lane(&self, given: &Given, number: usize) -> Result<()> {
        let state = given.state.lane(number)?;
        let given = Given { state: state.clone(), operator: given.operator.clone() };
        let mut bed: Option<Bed> = None;
        while let Some(job) = self.next(number, bed.as_ref().map(Bed::nodes)) {
            say!("fault {}: {}", job.name(), job.case.does);
            let result = self.job(&given, &mut bed, &job);
            ensure!(!launch::is_closed(), "interrupted");
            match &result {
                Ok(ended) => say!(
                    "fault {}: survived, {} after {:.0} s, {:.1} s without answer",
                    job.name(),
                    ended.state,
                    ended.took.as_secs_f64(),
                    ended.down
                ),
                Err(error) => {
                    say!("fault {}: NOT SURVIVED: {error:#}", job.name());
                    keep_evidence(&given, &format!("fault-{}", job.name()), error);
                    bed = None;
                    teardown::down(&state)?;
                }
            }
            locked(&self.rows).push(Row { job, result });
        }
        teardown::down(&state).map(drop)
    }

    fn job(&self, given: &Given, bed: &mut Option<Bed>, job: &Job) -> Result<Ended> {
        if bed.as_ref().is_some_and(|bed| bed.nodes() != job.nodes) {
            *bed = None;
            teardown::down(&given.state)?;
        }
        let ready = match bed.take() {
            Some(ready) => ready,
            None => Bed::up(&given.state, given.operator.clone(), job.nodes)?,
        };
        if self.compare && matches!(job.case.down, Some(Limit::TimesMv(_))) {
            // Another lane that needs it waits meanwhile.
            let mut mv = locked(&self.mv);
            if mv.is_none() {
                let seconds = ready.by_hand()?;
                say!("a bare mv: {seconds:.1} s without answer");
                *mv = Some(seconds);
            }
        }
        let ended = ready.case(job.case)?;
        *bed = Some(ready);
        Ok(ended)
    }

    /// The next job for a lane: one for the cluster it has, else the first lane takes those of three nodes first.
    fn next(&self, lane: usize, nodes: Option<u8>) -> Option<Job> {
        let mut waiting = locked(&self.waiting);
        let wanted = nodes.unwrap_or(if lane == 0 { 3 } else { 1 });
        let at = waiting.iter().position(|job| job.nodes == wanted).unwrap_or(0);
        waiting.remove(at)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::faults::cases;

    #[test]
    fn a_lane_keeps_its_cluster_as_long_as_there_is_work_for_it() {
        let work = Work::new(false);
        let case = cases::all().next().expect("a case");
        let job = |nodes| Job { case, nodes };
        *locked(&work.waiting) = VecDeque::from([job(1), job(3), job(1)]);
        let nodes = |job: Option<Job>| job.map(|job| job.nodes);
        assert_eq!(nodes(work.next(0, None)), Some(3), "the first lane begins with three");
        assert_eq!(nodes(work.next(0, Some(3))), Some(1), "and helps with the rest");
        assert_eq!(nodes(work.next(1, Some(1))), Some(1));
        assert_eq!(nodes(work.next(1, Some(1))), None);
    }
}
