//! The audit policy in upstream's words: read, checked and evaluated as kube-apiserver does it, and more strictly
//! where kube-apiserver is lenient.
//!
//! kube-apiserver reads its policy once, when it starts: with one mistake it does not start, and with another it
//! starts and logs something else than was meant. So a policy is judged here, before it gets anywhere near a node.
//! [`load()`] says what the server would make of a file and all that is wrong with it, [`ValidPolicy`] is a policy
//! that passed, [`evaluate()`] tells what is logged of a request. `tests/data/vectors` holds upstream's own answers.
//!
//! Everything here is a pure function of its arguments.

mod emit;
mod evaluate;
mod finding;
mod lint;
mod load;
mod policy;
mod profile;
mod request;
mod valid;
mod validate;
mod version;

pub use evaluate::{Decision, StageSet, evaluate};
pub use finding::{Finding, Position, RefusedBy, Severity};
pub use lint::lint;
pub use load::{Document, Loaded, MAX_SOURCE_BYTES, documents, load};
pub use policy::{GroupResources, Level, Policy, Rule, Stage};
pub use profile::{Profile, ProfileDoc};
pub use request::{Attributes, EventRequest, EventUser, RequestError, ResourceTarget, Target, User};
pub use valid::ValidPolicy;
pub use validate::validate;
pub use version::{ParseVersionError, ServerVersion};

#[cfg(test)]
mod tests;
