//! `audit-operator proofs`: has an event of every node landed in its log? `helm test` runs it.
//!
//! It asks the agents' reports and makes no request of its own: an event can only be found by whom the log's folder is
//! mounted to, and that shall be the agent alone. So the one permission it needs is to list our two kinds.

use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::output::shown;
use super::{FAILED, OK, Streams};
use crate::api::node::ProofResult;
use crate::api::{AuditConfiguration, AuditNode};
use crate::condition::{self, Type};

/// How often the API server is asked.
const POLL: Duration = Duration::from_secs(2);
/// How much later than due a proof may be before it is old: agents spread theirs over the interval.
const INTERVALS: u32 = 2;
const SLACK: SignedDuration = SignedDuration::from_secs(60);

/// Wait until every node that an AuditConfiguration has says that an event landed in its log.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How long to wait for nodes that are still being changed, such as 4m.
    #[arg(long, value_name = "DURATION", default_value = "4m")]
    timeout: SignedDuration,
}

/// Prints a line for each node: [`OK`] when an event of each has landed, or none is to; [`FAILED`] when that is not so by the
/// deadline, or when a node says that it will not be so without a person.
///
/// # Errors
/// The deadline passed without an answer of the API server.
#[expect(clippy::disallowed_methods, reason = "it waits, until a deadline")]
pub async fn run(args: &Args, streams: &mut Streams<'_>) -> anyhow::Result<u8> {
    let client = Client::try_default().await.context("no way to an API server")?;
    let deadline = Timestamp::now().saturating_add(args.timeout).context("the timeout is too long")?;
    loop {
        let verdict = match fleet(&client).await {
            Ok((configurations, nodes)) => Ok(judge(&configurations, &nodes, Timestamp::now())),
            Err(error) => Err(error),
        };
        let over = Timestamp::now() >= deadline;
        match verdict {
            Ok(Verdict { outlook: Outlook::Waiting, .. }) if !over => {}
            Ok(verdict) => {
                writeln!(streams.out, "{}", verdict.lines.join("\n"))?;
                if verdict.outlook == Outlook::Waiting {
                    writeln!(streams.err, "error: not all of it within {:#}", args.timeout)?;
                }
                return Ok(if verdict.outlook == Outlook::Good { OK } else { FAILED });
            }
            // An API server that is being restarted is no failed test.
            Err(error) if over => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn fleet(client: &Client) -> anyhow::Result<(Vec<AuditConfiguration>, Vec<AuditNode>)> {
    let all = ListParams::default();
    let configurations = Api::<AuditConfiguration>::all(client.clone()).list(&all).await;
    let configurations = configurations.context("cannot list AuditConfigurations")?;
    let nodes = Api::<AuditNode>::all(client.clone()).list(&all).await.context("cannot list AuditNodes")?;
    Ok((configurations.items, nodes.items))
}

/// What there is to say, and what to do about it.
#[derive(Debug, PartialEq)]
struct Verdict {
    outlook: Outlook,
    lines: Vec<String>,
}

/// The worst of what is said, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outlook {
    /// An event has landed, or none is to.
    Good,
    /// It may become so by itself.
    Waiting,
    /// It will not without a person.
    Bad,
}

fn judge(configurations: &[AuditConfiguration], nodes: &[AuditNode], now: Timestamp) -> Verdict {
    if configurations.is_empty() {
        let line = "there is no AuditConfiguration, so nothing is to be logged: nothing to prove";
        return Verdict { outlook: Outlook::Good, lines: vec![line.to_owned()] };
    }
    let mut found: Vec<(Outlook, String)> = Vec::new();
    for configuration in configurations {
        let name = configuration.name_any();
        if !nodes.iter().any(|node| node.spec.configuration.as_ref() == Some(&name)) {
            let conditions =
                configuration.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
            let degraded = condition::get(conditions, Type::Degraded).filter(|c| c.status == "True");
            found.push(match degraded {
                Some(c) => (Outlook::Bad, format!("AuditConfiguration {name}: {}: {}", c.reason, c.message)),
                None => (Outlook::Waiting, format!("AuditConfiguration {name}: no node yet")),
            });
        }
    }
    for node in nodes.iter().filter(|node| node.spec.configuration.is_some()) {
        let (outlook, said) = of_node(node, now);
        found.push((outlook, format!("{}: {said}", node.name_any())));
    }
    found.sort_by(|(_, a), (_, b)| a.cmp(b));
    let outlook = found.iter().map(|(outlook, _)| *outlook).max().unwrap_or(Outlook::Waiting);
    Verdict { outlook, lines: found.into_iter().map(|(_, line)| shown(&line)).collect() }
}

fn of_node(node: &AuditNode, now: Timestamp) -> (Outlook, String) {
    let Some(status) = &node.status else {
        return (Outlook::Waiting, "its agent has not reported".to_owned());
    };
    let condition = |type_| condition::get(&status.conditions, type_);
    let not_so = [Type::Ready, Type::Proven].into_iter().filter_map(condition).find(|c| c.status != "True");
    if let Some(c) = not_so {
        let unprovable = c.reason == condition::Reason::Unprovable.as_str();
        let bad = unprovable || condition::needs_a_person(&c.reason);
        let outlook = if bad { Outlook::Bad } else { Outlook::Waiting };
        return (outlook, format!("{}: {}", c.reason, c.message));
    }
    let current = node.spec.revision.is_some()
        && status.revision == node.spec.revision
        && status.observed_generation == node.metadata.generation;
    let Some(proof) = status.proof.as_ref().filter(|p| current && p.result == ProofResult::Landed) else {
        return (Outlook::Waiting, "no proof of its newest settings yet".to_owned());
    };
    let age = now.duration_since(proof.time.0);
    let interval = node.spec.proof_interval_seconds;
    let oldest = SignedDuration::from_secs(i64::from(interval * INTERVALS)) + SLACK;
    if interval > 0 && age > oldest {
        let since = proof.time.0;
        return (Outlook::Waiting, format!("the last proof is of {since}; is the agent's Pod running?"));
    }
    let request = proof.request.as_deref().unwrap_or("a request");
    let id = proof.audit_id.as_deref().unwrap_or("-");
    (Outlook::Good, format!("an event landed at {}: {request}, Audit-ID {id}", proof.time.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "why", "lastTransitionTime": NOW})
    }

    /// A node on which all is well, but for what `change` says (by JSON pointer).
    fn node(change: &[(&str, Value)]) -> AuditNode {
        let mut node = json!({
            "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditNode",
            "metadata": {"name": "n1", "generation": 2},
            "spec": {"configuration": "default", "revision": "r2", "proofIntervalSeconds": 600},
            "status": {
                "observedGeneration": 2, "revision": "r2",
                "conditions": [condition("Ready", "True", "Settled"), condition("Proven", "True", "ProofLanded")],
                "proof": {
                    "time": "2026-01-01T00:55:00Z", "result": "Landed", "auditID": "id-1",
                    "request": "create configmaps",
                },
            },
        });
        for (pointer, value) in change {
            *node.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value.clone();
        }
        serde_json::from_value(node).unwrap()
    }

    fn configuration() -> AuditConfiguration {
        let configuration = json!({
            "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditConfiguration",
            "metadata": {"name": "default"}, "spec": {"policy": {"profile": "Metadata"}},
        });
        serde_json::from_value(configuration).unwrap()
    }

    #[track_caller]
    fn check(change: &[(&str, Value)], outlook: Outlook, line: &str) {
        let verdict = judge(&[configuration()], &[node(change)], NOW.parse().unwrap());
        assert_eq!(verdict, Verdict { outlook, lines: vec![line.to_owned()] });
    }

    #[test]
    fn a_landed_event_is_told_with_its_id() {
        let line = "n1: an event landed at 2026-01-01T00:55:00Z: create configmaps, Audit-ID id-1";
        check(&[], Outlook::Good, line);
    }

    #[test]
    fn an_old_proof_is_none() {
        let line = "n1: the last proof is of 2026-01-01T00:38:59Z; is the agent's Pod running?";
        let time = json!("2026-01-01T00:38:59Z");
        check(&[("/status/proof/time", time.clone())], Outlook::Waiting, line);
        // Nobody repeats it, so there is no newer one.
        let off = ("/spec/proofIntervalSeconds", json!(0));
        let line = "n1: an event landed at 2026-01-01T00:38:59Z: create configmaps, Audit-ID id-1";
        check(&[("/status/proof/time", time), off], Outlook::Good, line);
    }

    #[test]
    fn a_proof_of_other_settings_is_none() {
        let line = "n1: no proof of its newest settings yet";
        check(&[("/status/revision", json!("r1"))], Outlook::Waiting, line);
        check(&[("/status/observedGeneration", json!(1))], Outlook::Waiting, line);
        check(&[("/status/proof/result", json!("Missing"))], Outlook::Waiting, line);
    }

    #[test]
    fn what_passes_is_waited_for_and_what_does_not_is_told_at_once() {
        let ready = |reason| [("/status/conditions/0", condition("Ready", "False", reason))];
        check(&ready("Installing"), Outlook::Waiting, "n1: Installing: why");
        check(&ready("RolledBack"), Outlook::Bad, "n1: RolledBack: why");
        let proven = |reason| [("/status/conditions/1", condition("Proven", "False", reason))];
        check(&proven("ProofPending"), Outlook::Waiting, "n1: ProofPending: why");
        check(&proven("ProofMissing"), Outlook::Bad, "n1: ProofMissing: why");
        check(&proven("Unprovable"), Outlook::Bad, "n1: Unprovable: why");
    }

    #[test]
    fn without_a_configuration_there_is_nothing_to_prove() {
        let verdict = judge(&[], &[], NOW.parse().unwrap());
        assert_eq!(verdict.outlook, Outlook::Good);
        let verdict = judge(&[configuration()], &[], NOW.parse().unwrap());
        assert_eq!(verdict.outlook, Outlook::Waiting, "its nodes are not known yet");
    }
}
