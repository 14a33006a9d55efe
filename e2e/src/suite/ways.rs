//! The ways in: kubectl, Helm and Argo CD, each followed as its page says it, on a real control plane, from nothing to an
//! audit event in the log and back to nothing.
//!
//! One cluster serves all: each way ends with a node that is byte for byte what it was, and with nothing of ours in the API.

mod admission;
mod argocd;
mod helm;
mod kubectl;
mod page;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, Wanted};
use crate::image;
use crate::launch::Lifetime;
use crate::programs::Programs;
use crate::progress::say;
use crate::suite::Given;
use crate::wait;

use super::operator::{self, CHANGE, MANIFEST};

use page::Desk;

/// The image's name in the pages. Each node has the operator's image under this name too, so that the commands need no
/// change; there is no registry.
const IN_THE_PAGES: &str = "registry.example.com/audit-operator";

/// One way in.
struct Way {
    name: &'static str,
    /// The program it is about, beside what every cluster needs.
    program: &'static str,
    run: fn(&Road<'_>) -> Result<()>,
}

const WAYS: [Way; 3] = [
    Way { name: "kubectl", program: "kubectl", run: kubectl::run },
    Way { name: "helm", program: "helm", run: helm::run },
    Way { name: "argocd", program: "argocd", run: argocd::run },
];

/// What each way is given.
pub(super) struct Road<'a> {
    cluster: &'a Cluster,
    operator: &'a Path,
    /// What kubeadm wrote.
    original: String,
}

/// Which ways are to be taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Taken<'a> {
    /// Those whose names contain this.
    Named(&'a str),
    /// Those whose program is built. Argo CD takes nine minutes, which CI has on a machine that has it from before.
    Built,
}

/// Takes the ways one after the other until one fails. Closes with `ways=N passed=N` on standard output.
pub(super) fn run(given: &Given, taken: Taken<'_>) -> Result<()> {
    let missing = "needs the operator: `make static`, and --operator-binary or E2E_OPERATOR_BINARY";
    let operator = given.operator.as_deref().context(missing)?;
    let chosen = chosen(taken, &Programs::find()?)?;
    let wanted = Wanted { nodes: 1, operator: Some(operator.to_owned()), lifetime: Lifetime::OfThisProcess };
    let cluster = Cluster::up(&given.state, &wanted)?;
    name_the_image_as_in_the_pages(&cluster)?;
    let original = fs::read_to_string(cluster.nodes[0].path(MANIFEST))?;
    let road = Road { cluster: &cluster, operator, original };
    let mut passed = 0;
    let mut result = Ok(());
    for way in &chosen {
        say!("way {}", way.name);
        result = (way.run)(&road).with_context(|| format!("the way by {}", way.name));
        if result.is_err() {
            break;
        }
        say!("way {} ok", way.name);
        passed += 1;
    }
    writeln!(std::io::stdout(), "ways={} passed={passed}", chosen.len())?;
    result
}

fn chosen(taken: Taken<'_>, programs: &Programs) -> Result<Vec<&'static Way>> {
    let mut chosen = Vec::new();
    for way in &WAYS {
        match (taken, programs.path(way.program)) {
            (Taken::Named(name), _) if !way.name.contains(name) => {}
            (Taken::Built, Err(_)) => say!("way {} is left out: {} is not built", way.name, way.program),
            (_, program) => {
                let build = || format!("`e2e/k8s/build {}` builds it", way.program);
                program.with_context(build)?;
                chosen.push(way);
            }
        }
    }
    let names = WAYS.iter().map(|way| way.name).collect::<Vec<_>>().join(", ");
    ensure!(!chosen.is_empty(), "no way is called so; there are: {names}");
    Ok(chosen)
}

fn name_the_image_as_in_the_pages(cluster: &Cluster) -> Result<()> {
    let imported = format!("docker.io/{}", image::operator_reference());
    let named = format!("{IN_THE_PAGES}:{}", env!("CARGO_PKG_VERSION"));
    for node in &cluster.nodes {
        node.run("ctr", &["--namespace", "k8s.io", "images", "tag", "--force", &imported, &named])?;
    }
    Ok(())
}

impl<'a> Road<'a> {
    /// A place to type commands at.
    fn desk(&self, name: &str) -> Result<Desk<'a>> {
        Desk::new(self.cluster, self.operator, name)
    }

    /// Every node says that an event landed, and the event is in its log, which is looked into here.
    fn landed(&self) -> Result<()> {
        let nodes: Value =
            serde_json::from_str(&self.cluster.kubectl(&["get", "auditnodes", "--output=json"])?)?;
        let items = nodes["items"].as_array().context("no list")?;
        ensure!(items.len() == self.cluster.nodes.len(), "{} AuditNodes", items.len());
        for item in items {
            let name = item["metadata"]["name"].as_str().context("a node without name")?;
            let proof = &item["status"]["proof"];
            ensure!(proof["result"] == "Landed", "{name} says {proof}");
            let id = proof["auditID"].as_str().context("a proof without Audit-ID")?;
            let log = self.cluster.node(name)?.path("/var/log/kubernetes/audit/audit.log");
            let log = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
            ensure!(log.contains(&format!("\"auditID\":\"{id}\"")), "no event {id} in {name}'s log");
        }
        Ok(())
    }

    /// The node is what kubeadm made it, and of ours nothing is left in the API.
    fn nothing_is_left(&self) -> Result<()> {
        for node in &self.cluster.nodes {
            operator::whole(self.cluster, node, &[&self.original])?;
        }
        wait::until("nothing of ours in the API", CHANGE, || {
            let ours = self.of_ours()?;
            ensure!(ours.is_empty(), "there are {ours:?}");
            Ok(Some(()))
        })
    }

    /// Names of everything in the API that is the operator's.
    fn of_ours(&self) -> Result<Vec<String>> {
        let kinds = "namespaces,clusterroles,clusterrolebindings,customresourcedefinitions,\
                     validatingadmissionpolicies,validatingadmissionpolicybindings";
        let mut found = self.cluster.kubectl(&["get", kinds, "--output=name"])?;
        let inside = "roles,rolebindings,serviceaccounts,deployments,daemonsets,pods,secrets,leases";
        found.push_str(&self.cluster.kubectl(&[
            "get",
            inside,
            "--all-namespaces",
            "--no-headers",
            "--output=custom-columns=NAME:.metadata.name,IN:.metadata.namespace",
        ])?);
        let ours = found.lines().filter(|line| line.contains("audit-operator"));
        Ok(ours.map(str::to_owned).collect())
    }
}
