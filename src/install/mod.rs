//! One node's install: the order, the journal, and what comes next. Pure.
//!
//! An install carries out one plan as a journalled transaction. The [`Order`] says what shall be, the [`Journal`] how far
//! it is; both are files on the node, so that the process that writes the order, the one that carries it out and the
//! one that reports never need to be the same, nor alive at the same time. [`next`] looks at both, at what was
//! observed and at the clock, and names the one step to do; whoever does it decides nothing. The process may die and the
//! machine may lose power between any two steps.

pub mod addresses;
pub mod budget;
pub mod chore;
pub mod clock;
pub mod journal;
pub mod next;
pub mod order;
pub mod plan;
pub mod pod;
pub mod proof;
pub mod stand_in;

pub use clock::Moment;
pub use journal::{Journal, State};
pub use next::{Health, Memory, Observed, Relief, Server, Step, Target, next};
pub use order::{Order, OrderedFile, Rehearsal};
pub use plan::{NodeFacts, Planned, Wanted, plan};
