//! The audit trail: what the API servers' logs say happened, and the questions it can answer.
//!
//! One way through: [`source`] opens what an administrator names, [`scan`] reads it piece by piece, [`read`] cuts a piece
//! into records and counts what is damaged, [`event`] is one record, and a question such as [`who`] folds the events
//! into an answer or into the reason why there is none. All but `source`, `scan` and `follow` are pure.

pub mod event;
pub mod follow;
pub mod glance;
pub mod query;
pub mod question;
pub mod read;
pub mod request;
pub mod resource;
pub mod scan;
pub mod sieve;
pub mod source;
pub mod top;
pub mod who;
