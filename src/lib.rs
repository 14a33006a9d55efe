//! audit-operator: Kubernetes audit logging on kubeadm clusters as one object in Git.
//!
//! `ARCHITECTURE.md` has the map. Arrows point one way: `controller | agent | installer | cli -> cluster, host, telemetry -> api ->
//! rollout, install, condition, trail -> revision -> audit, manifest`; `tests/suite/layering.rs` reads them.

pub mod agent;
pub mod api;
pub mod audit;
pub mod cli;
pub mod cluster;
pub mod condition;
pub mod controller;
pub mod host;
pub mod install;
pub mod installer;
pub mod manifest;
pub mod revision;
pub mod rollout;
pub mod telemetry;
pub mod trail;
