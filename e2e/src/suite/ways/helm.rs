//! By Helm: docs/install-helm.md, and what else Helm does to a release.

use std::fs;

use anyhow::{Result, ensure};

use crate::progress::say;
use crate::suite::operator::{self, CHANGE, Journal, LOGS, MANIFEST};
use crate::wait;

use super::Road;
use super::page::Desk;

const PAGE: &str = "docs/install-helm.md";
/// Everything at once and the wrong way round: first what describes the objects, and with it the objects; then the operator;
/// then what is around it. The last kubectl may lose an API server that restarts, and is repeated.
const WRONG_ORDER: [&str; 3] = [
    "kubectl delete crd auditconfigurations.audit-operator.dev auditnodes.audit-operator.dev --ignore-not-found --timeout=2m",
    "helm uninstall audit-operator --namespace audit-operator --ignore-not-found --wait --timeout 3m",
    "kubectl delete namespace audit-operator --ignore-not-found --timeout=3m",
];

pub(super) fn run(road: &Road<'_>) -> Result<()> {
    let desk = road.desk("helm")?;
    desk.follow(PAGE, |heading, said| match heading {
        "Say what is to be recorded" => road.landed(),
        "See that events land" => {
            ensure!(said.contains("n1: an event landed at "), "the test tells no landed event");
            Ok(())
        }
        _ => Ok(()),
    })?;
    road.nothing_is_left()?;
    in_the_wrong_order(road, &desk)
}

/// Everything is taken away in the middle of a change. The node ends it by itself, goes on logging, and is found again by an
/// operator that is installed later.
fn in_the_wrong_order(road: &Road<'_>, desk: &Desk<'_>) -> Result<()> {
    let (cluster, node) = (road.cluster, &road.cluster.nodes[0]);
    let before = Journal::of(node)?.map(|journal| journal.order);
    desk.section(PAGE, "Install")?;
    desk.enter("kubectl apply -f cluster/auditconfig.yaml")?;
    let journal = || -> Result<Option<Journal>> {
        Ok(Journal::of(node)?.filter(|journal| Some(&journal.order) != before.as_ref()))
    };
    let verifying = |journal: &Journal| journal.state == "verifying";
    wait::until("the manifest to be swapped", CHANGE, || Ok(journal()?.filter(verifying)))?;
    for command in WRONG_ORDER {
        wait::until(command, CHANGE, || desk.enter(command).map(Some))?;
        say!("{command}");
    }
    let ended = wait::until("the change to end", CHANGE, || Ok(journal()?.filter(Journal::is_final)))?;
    ensure!(ended.state == "settled", "it ended as {ended:?}");
    let manifest = fs::read_to_string(node.path(MANIFEST))?;
    ensure!(manifest.contains("    - --audit-policy-file="), "the settings are gone");
    operator::whole(cluster, node, &[&manifest])?;
    wait::until("an event after all that", CHANGE, || {
        cluster.kubectl(&["create", "namespace", "is-it-logged", "--dry-run=server"])?;
        let log = fs::read_to_string(node.path(LOGS).join("audit.log"))?;
        Ok(log.contains("is-it-logged").then_some(()))
    })?;
    say!("everything was taken away in the middle of a change: the node ended it and goes on logging");

    let servers = operator::servers(node)?;
    desk.section(PAGE, "Install")?;
    desk.section(PAGE, "Say what is to be recorded")?;
    road.landed()?;
    ensure!(operator::servers(node)? == servers, "the API server was restarted for what it ran already");
    desk.section(PAGE, "Remove it")?;
    road.nothing_is_left()
}
