//! The repository's own guards and data-driven tests, as one binary: linking once is quicker than once a file.
//!
//! Tests of one module stand beside its code. Here stand those of the whole: which way the arrows point, files that
//! nobody compiles, the chart, what the documents promise.

#![expect(clippy::unwrap_used, reason = "a guard that cannot read the repository has failed")]
#![expect(clippy::disallowed_methods, reason = "these tests read the repository")]

mod admission;
mod chart;
mod generated;
mod layering;
mod linter;
mod markdown;
mod orphan;
mod permissions;
mod recipes;
mod rendered;
mod source;
mod style;
