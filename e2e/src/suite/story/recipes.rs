//! The recipes of `docs/recipes.md`, from that page: each is applied, and the log is compared with what it promises.

use std::fs;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::wait;

use super::log::Event;
use super::stage::{CHANGE, Stage};
use super::traffic::{self, act};
use super::witness::Witness;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/recipes.md");

/// A recipe's block of YAML.
pub(super) fn recipe(name: &str) -> Result<String> {
    let page = fs::read_to_string(PAGE).context("reading docs/recipes.md")?;
    block(&page, name).map(str::to_owned).with_context(|| format!("docs/recipes.md has no recipe `{name}`"))
}

fn block<'p>(page: &'p str, name: &str) -> Option<&'p str> {
    let (_, rest) = page.split_once(&format!("<!-- recipe: {name} -->\n```yaml\n"))?;
    Some(rest.split_once("```\n")?.0)
}

/// Applies an AuditConfiguration that changes the policy, and waits until the API server runs with it.
pub(super) fn change(stage: &Stage<'_>, object: &str) -> Result<Timestamp> {
    let before = stage.revision()?;
    let witness = Witness::start(stage.node())?;
    stage.apply(object)?;
    stage.ready()?;
    let after = stage.revision()?;
    ensure!(after != before, "the revision is still {before}");
    let started = witness.one_change()?;
    stage.voice.found(&format!("revision {after} instead of {before}, and one restart of the API server"));
    Ok(started)
}

/// All but `practical`, which the story has told by then.
pub(super) fn all(stage: &Stage<'_>) -> Result<()> {
    stage.kubectl(&["create", "namespace", "production"])?;
    // The controller manager makes it, and no Pod is admitted without it.
    let account = ["get", "serviceaccount", "default", "-n", "production"];
    wait::until("production's service account", CHANGE, || stage.kubectl(&account).map(Some))?;
    one_namespace(stage)?;
    no_secrets_configmaps(stage)?;
    metadata_of_everything(stage)?;
    nothing_from_controllers(stage)
}

fn one_namespace(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("recipe one-namespace");
    let started = change(stage, &recipe("one-namespace")?)?;
    let acts = [
        act("create configmap one -n production", "create configmaps production/one", "None"),
        act(
            "run one -n default --image=nginx --image-pull-policy=IfNotPresent",
            "create pods default/one",
            "None",
        ),
        act("get pods --all-namespaces", "list pods /", "None"),
        act("get pods -n production", "list pods production/", "Metadata"),
        act(
            "run one -n production --image=nginx --image-pull-policy=IfNotPresent",
            "create pods production/one",
            "Metadata",
        ),
        act("delete pod one -n production --now", "delete pods production/one", "Metadata"),
    ];
    traffic::check(stage, started, &acts)?;
    let events = traffic::agree(stage, started)?;
    nobody(&events, "a kubelet", |e| e.is_in("system:nodes"))
}

fn no_secrets_configmaps(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("recipe no-secrets-configmaps");
    let started = change(stage, &recipe("no-secrets-configmaps")?)?;
    let acts = [
        act("create configmap two -n default", "create configmaps default/two", "None"),
        act("create secret generic two -n default --from-literal=a=b", "create secrets default/two", "None"),
        act("get secret two -n default", "get secrets default/two", "None"),
        act("create token default -n default", "create serviceaccounts/token default/default", "Metadata"),
        act("get pods -n production", "list pods production/", "Metadata"),
        act("create serviceaccount two -n default", "create serviceaccounts default/two", "Request"),
    ];
    traffic::check(stage, started, &acts)?;
    let events = traffic::agree(stage, started)?;
    nobody(&events, "a Secret or ConfigMap", |e| {
        let resource = e.text("/objectRef/resource");
        e.text("/objectRef/apiGroup").is_empty() && ["secrets", "configmaps"].contains(&resource)
    })
}

/// By way of a ConfigMap that is missing at first. The recipe itself is the same revision and then changes nothing.
fn metadata_of_everything(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("a policy in a ConfigMap, which is noticed when it appears");
    let recipe = recipe("metadata-of-everything")?;
    let (before, old_revision) = (stage.manifest()?, stage.revision()?);
    stage.apply(BY_CONFIG_MAP)?;
    let message = stage.reason("auditcfg", "default", "Degraded", "ConfigMapMissing")?;
    ensure!(message.contains("no ConfigMap `policies`"), "it says: {message}");
    ensure!(stage.manifest()? == before, "the manifest was changed without a policy");
    let witness = Witness::start(stage.node())?;
    stage.kubectl_of(&["create", "-f", "-"], &config_map(stage, &recipe)?)?;
    // The AuditConfiguration is as it was, so its last verdict is about its newest spec too, and not Ready.
    stage.ready()?;
    let started = witness.one_change()?;
    ensure!(stage.revision()? != old_revision, "the revision is still {old_revision}");

    stage.voice.headline("recipe metadata-of-everything");
    let (revision, witness) = (stage.revision()?, Witness::start(stage.node())?);
    stage.apply(&recipe)?;
    stage.ready()?;
    ensure!(stage.revision()? == revision, "the same policy from elsewhere is another revision");
    witness.nothing()?;
    stage.voice.found("it is the same revision: nothing to do");
    let acts = [
        act(
            "create secret generic three -n default --from-literal=a=b",
            "create secrets default/three",
            "Metadata",
        ),
        act("get secret three -n default", "get secrets default/three", "Metadata"),
        act("get --raw /version", "get /version", "Metadata"),
        act("delete secret three -n default", "delete secrets default/three", "Metadata"),
    ];
    traffic::check(stage, started, &acts)?;
    let events = traffic::agree(stage, started)?;
    ensure!(events.iter().any(|e| e.is_in("system:nodes")), "nothing of the kubelet");
    nobody(&events, "a request with a body", |e| e.bodies() != (false, false))
}

const BY_CONFIG_MAP: &str = "\
apiVersion: audit-operator.dev/v1alpha1
kind: AuditConfiguration
metadata:
  name: default
spec:
  policy:
    configMapRef:
      namespace: audit-operator
      name: policies
      key: policy.yaml
";

/// A ConfigMap with a recipe's `inline` policy as a whole policy file.
fn config_map(stage: &Stage<'_>, recipe: &str) -> Result<String> {
    let as_json = stage.kubectl_of(&["create", "--dry-run=client", "--output=json", "-f", "-"], recipe)?;
    let mut recipe: Value = serde_json::from_str(&as_json)?;
    let mut policy = recipe["spec"]["policy"]["inline"].take();
    policy["apiVersion"] = json!("audit.k8s.io/v1");
    policy["kind"] = json!("Policy");
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "audit-operator", "name": "policies"},
        "data": {"policy.yaml": policy.to_string()},
    })
    .to_string())
}

fn nothing_from_controllers(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("recipe nothing-from-controllers");
    let started = change(stage, &recipe("nothing-from-controllers")?)?;
    let acts = [
        act("get --raw /livez", "get /livez", "Metadata"),
        act("get pods -n production", "list pods production/", "Metadata"),
        act(
            "create deployment four -n default --image=nginx --replicas=1",
            "create deployments default/four",
            "Metadata",
        ),
        act("get deployment four -n default", "get deployments default/four", "Metadata"),
        act("delete deployment four -n default", "delete deployments default/four", "Metadata"),
    ];
    traffic::check(stage, started, &acts)?;
    let events = traffic::agree(stage, started)?;
    nobody(&events, "a component of the cluster", |e| {
        let components = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];
        components.contains(&e.user())
            || e.is_in("system:nodes")
            || e.is_in("system:serviceaccounts:kube-system")
            || (e.is_in("system:unauthenticated") && e.text("/requestURI").starts_with("/readyz"))
    })
}

/// Requires that no event is one of these.
pub(super) fn nobody(events: &[Event], who: &str, is_one: impl Fn(&Event) -> bool) -> Result<()> {
    match events.iter().find(|event| is_one(event)) {
        Some(event) => anyhow::bail!("{who} is recorded: {}", event.line),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_recipes_of_the_story() {
        for name in [
            "practical",
            "one-namespace",
            "no-secrets-configmaps",
            "metadata-of-everything",
            "nothing-from-controllers",
        ] {
            assert!(recipe(name).unwrap().starts_with("apiVersion: audit-operator.dev/"), "{name}");
        }
        assert!(block("<!-- recipe: a -->\ntext", "a").is_none());
    }
}
