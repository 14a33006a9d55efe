//! By Argo CD: docs/install-argocd.md, and what else Argo CD shows of the operator's objects and does to them.

mod health;
mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::progress::say;
use crate::run::output;
use crate::suite::operator::{self, CHANGE};
use crate::wait;

use super::Road;
use super::page::Desk;
use servers::Servers;

const PAGE: &str = "docs/install-argocd.md";
/// The AuditConfiguration in Git.
const CONFIGURATION: &str = "cluster/audit/auditconfig.yaml";
/// What Git has beside it and is applied after it.
const LATER: &str = "cluster/audit/later.yaml";
/// Such an object.
const LATER_OBJECT: &str = "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: later
  annotations:
    argocd.argoproj.io/sync-wave: \"1\"
data: {}
";
/// More than any node has room for: the nodes refuse it, and nothing is written.
const TOO_LARGE: &str = "  log: {maxBackups: 100000, maxSize: 1048576}\n";

pub(super) fn run(road: &Road<'_>) -> Result<()> {
    health::all(&road.cluster.program("argocd")?)?;
    let mut desk = road.desk("argocd")?;
    make_repository(&desk.folder)?;
    let _servers = Servers::start(road.cluster, &mut desk)?;
    let argo = Argo { road, desk: &desk };
    desk.follow(PAGE, |heading, said| match heading {
        "Install" => argo.no_drift("audit-operator"),
        "See what it would change" => {
            ensure!(said.contains("needs `spec.rollout.approvedRevision: "), "it does not say what it needs");
            ensure!(said.contains("\n+    - --audit-policy-file="), "it shows no plan");
            ensure!(argo.configuration()?.health == "Suspended", "it is not Suspended");
            operator::whole(road.cluster, &road.cluster.nodes[0], &[&road.original])
        }
        "Approve it by a commit" => {
            ensure!(was(said, "Progressing"), "it was not Progressing meanwhile");
            road.landed()?;
            argo.no_drift("audit")?;
            argo.heals()
        }
        "See that events land" => {
            ensure!(said.contains(" Landed "), "it tells no landed event");
            Ok(())
        }
        "Change it" => {
            let (removed, added) = difference(said);
            let expected = ["profile: ", "approvedRevision: "];
            let all = |lines: &[&str]| {
                lines.len() == 2 && lines.iter().zip(expected).all(|(line, start)| line.starts_with(start))
            };
            ensure!(all(&removed) && all(&added), "its difference is {removed:?} to {added:?}");
            ensure!(was(said, "Progressing"), "it was not Progressing meanwhile");
            road.landed()?;
            argo.fails_and_recovers()
        }
        _ => Ok(()),
    })?;
    road.cluster.kubectl(&["delete", "namespace", "argocd"])?;
    road.nothing_is_left()
}

/// A Git repository with what the page wants to be in it, checked out at the desk.
fn make_repository(folder: &Path) -> Result<()> {
    let origin = folder.with_extension("git");
    if origin.exists() {
        fs::remove_dir_all(&origin)?;
    }
    let git = |words: &[&str]| output(Command::new("git").arg("-C").arg(folder).args(words)).map(drop);
    output(Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(&origin))?;
    git(&["init", "--quiet", "--initial-branch=main"])?;
    git(&["config", "user.name", "An Administrator"])?;
    git(&["config", "user.email", "admin@example.com"])?;
    git(&["remote", "add", "origin", &format!("file://{}", origin.display())])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "--message", "what is there already"])?;
    git(&["push", "--quiet", "--set-upstream", "origin", "main"])
}

/// Argo CD as the administrator sees it.
struct Argo<'a> {
    road: &'a Road<'a>,
    desk: &'a Desk<'a>,
}

/// The AuditConfiguration as Argo CD sees it.
#[derive(Debug)]
struct Seen {
    health: String,
    message: String,
}

impl Argo<'_> {
    fn application(&self, name: &str) -> Result<Value> {
        let said = self.desk.enter(&format!("argocd app get {name} --refresh --output json"))?;
        serde_json::from_str(&said).with_context(|| format!("`argocd app get` prints {said}"))
    }

    fn configuration(&self) -> Result<Seen> {
        let application = self.application("audit")?;
        let resources = application.pointer("/status/resources").and_then(Value::as_array);
        let ours = resources.into_iter().flatten().find(|r| r["kind"] == "AuditConfiguration");
        let health = &ours.context("the Application has no AuditConfiguration")?["health"];
        let text = |of: &str| health[of].as_str().unwrap_or_default().to_owned();
        Ok(Seen { health: text("status"), message: text("message") })
    }

    /// Nothing that Kubernetes or the operator puts into an object is a difference from Git, in either of the ways in which
    /// Argo CD compares.
    fn no_drift(&self, application: &str) -> Result<()> {
        for server_side in [false, true] {
            let annotation = format!("argocd.argoproj.io/compare-options=ServerSideDiff={server_side}");
            let annotate = ["annotate", "--namespace=argocd", "--overwrite", "application", application];
            self.road.cluster.kubectl(&[&annotate[..], &[&annotation]].concat())?;
            wait::until(&format!("{application} to be as in Git"), CHANGE, || {
                let status = &self.application(application)?["status"];
                ensure!(status["sync"]["status"] == "Synced", "it is {}", status["sync"]);
                let differs = |r: &&Value| r["status"] != "Synced";
                let resources = status["resources"].as_array().context("no resources")?;
                let other = resources.iter().find(differs);
                ensure!(other.is_none(), "another is {other:?}");
                Ok(Some(()))
            })?;
            // It compares as the annotation says, and ends with 1 when there is a difference. An API server that has just been
            // restarted may keep it waiting for its schema for too long.
            let what = format!("no difference in {application} with ServerSideDiff={server_side}");
            wait::until(&what, CHANGE, || {
                let said = self.desk.enter(&format!("argocd app diff {application}"))?;
                ensure!(said.is_empty(), "it shows {said}");
                Ok(Some(()))
            })?;
        }
        say!("{application} is as in Git, by a comparison at the client and at the server");
        Ok(())
    }

    /// What somebody changes by hand is put back, before any node has seen it: nobody has approved it.
    fn heals(&self) -> Result<()> {
        let cluster = self.road.cluster;
        let manifest = fs::read_to_string(cluster.nodes[0].path(operator::MANIFEST))?;
        let generation =
            || cluster.kubectl(&["get", "auditcfg", "default", "--output=jsonpath={.metadata.generation}"]);
        let before: i64 = generation()?.parse()?;
        let by_hand = r#"{"spec":{"policy":{"profile":"Forensic"}}}"#;
        cluster.kubectl(&["patch", "auditcfg", "default", "--type=merge", "--patch", by_hand])?;
        wait::until("Argo CD to put the profile back", CHANGE, || {
            let profile = ["get", "auditcfg", "default", "--output=jsonpath={.spec.policy.profile}"];
            let profile = cluster.kubectl(&profile)?;
            ensure!(profile == "Recommended", "it is {profile}");
            Ok(Some(()))
        })?;
        let after: i64 = generation()?.parse()?;
        ensure!(after == before + 2, "there and back are two generations, and not {before} to {after}");
        operator::whole(cluster, &cluster.nodes[0], &[&manifest])?;
        say!("Argo CD put back what was changed by hand");
        Ok(())
    }

    /// A change that the nodes refuse, with an object that is to come after it; then one that is good.
    fn fails_and_recovers(&self) -> Result<()> {
        let cluster = self.road.cluster;
        let manifest = fs::read_to_string(cluster.nodes[0].path(operator::MANIFEST))?;
        let good = fs::read_to_string(self.file(CONFIGURATION))?;
        ensure!(good.contains("  rollout:\n"), "{CONFIGURATION} has no rollout");
        let bad = good.replace("  rollout:\n", &format!("{TOO_LARGE}  rollout:\n"));
        fs::write(self.file(CONFIGURATION), bad)?;
        fs::write(self.file(LATER), LATER_OBJECT)?;
        let revision = self.desk.enter(&format!("kubectl audit render -f {CONFIGURATION}"))?;
        let revision = revision.lines().find_map(|line| line.strip_prefix("# revision "));
        let revision = revision.context("a rendering without revision")?;
        self.desk.enter(&format!(
            "sed -i 's/approvedRevision: .*/approvedRevision: {revision}/' {CONFIGURATION}"
        ))?;
        self.push("more than there is room for")?;
        let later = ["get", "configmap", "later", "--namespace=audit-operator", "--ignore-not-found"];
        let later = || cluster.kubectl(&[&later[..], &["--output=name"]].concat());
        wait::until("the AuditConfiguration to be Degraded", CHANGE, || {
            let seen = self.configuration()?;
            let says_so = seen.message.contains("node `n1`: DiskBudget: ");
            ensure!(seen.health == "Degraded" && says_so, "it is {seen:?}");
            let sync = &self.application("audit")?["status"]["operationState"];
            let failed = sync["message"].as_str().is_some_and(|m| m.contains("completed unsuccessfully"));
            ensure!(failed, "the sync is {sync}");
            Ok(Some(()))
        })?;
        ensure!(later()?.is_empty(), "what is to come later came after a failure");
        operator::whole(cluster, &cluster.nodes[0], &[&manifest])?;
        say!("a change that a node refuses is Degraded, and nothing comes after it");

        fs::write(self.file(CONFIGURATION), good)?;
        self.push("as it was")?;
        self.desk.enter("argocd app wait audit --timeout 300")?;
        ensure!(!later()?.is_empty(), "what is to come later did not come");
        fs::remove_file(self.file(LATER))?;
        self.push("without what came later")?;
        self.desk.enter("argocd app wait audit --timeout 300")?;
        ensure!(later()?.is_empty(), "what Git has no more is still there");
        operator::whole(cluster, &cluster.nodes[0], &[&manifest])?;
        say!("a good one again is Healthy, what comes later came, and what left Git is gone");
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.desk.folder.join(name)
    }

    fn push(&self, message: &str) -> Result<()> {
        let commands = "git add --all cluster && git commit --quiet --message";
        self.desk.enter(&format!("{commands} '{message}' && git push --quiet"))?;
        self.desk.enter("argocd app get audit --refresh").map(drop)
    }
}

/// Whether the AuditConfiguration had this health, in what `argocd app wait` prints while it waits.
fn was(said: &str, health: &str) -> bool {
    let rows = said.lines().filter(|line| line.contains(" AuditConfiguration "));
    rows.into_iter().any(|row| row.split_whitespace().any(|word| word == health))
}

/// The lines that `argocd app diff` says go and come.
fn difference(said: &str) -> (Vec<&str>, Vec<&str>) {
    let lines = |mark: &str| {
        let marked = said.lines().filter_map(|line| line.strip_prefix(mark));
        marked.map(str::trim_start).collect()
    };
    (lines("< "), lines("> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_is_found_in_the_row_of_the_configuration() {
        let said = "2026  audit-operator.dev  AuditConfiguration  default  Synced  Progressing\n2026 Pod x Healthy\n";
        assert!(was(said, "Progressing"));
        assert!(!was(said, "Healthy"), "that is the Pod's");
    }

    #[test]
    fn the_lines_of_a_difference_are_those_with_a_mark() {
        let said = "===== default ======\n10c10\n<     profile: Recommended\n---\n>     profile: Metadata\n";
        assert_eq!(difference(said), (vec!["profile: Recommended"], vec!["profile: Metadata"]));
    }
}
