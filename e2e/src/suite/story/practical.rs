//! The policy people end up with: writes with what was sent and what came back, nothing of reads and of the cluster's
//! own components.

use anyhow::Result;

use super::recipes::{change, nobody, recipe};
use super::stage::Stage;
use super::traffic::{self, Act, act};

/// A core Event, which nobody wants in an audit log.
const EVENT: &str = r#"{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "story", "namespace": "default"},
    "involvedObject": {"kind": "Pod", "namespace": "default", "name": "my-suspicious-pod"}}"#;
const REPLACED: &str = r#"{"apiVersion": "v1", "kind": "ServiceAccount",
    "metadata": {"name": "story", "namespace": "default", "labels": {"told": "twice"}}}"#;

/// Changes to it, works with the cluster, and compares every line that was written since.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("the practical policy, from docs/recipes.md");
    let started = change(stage, &recipe("practical")?)?;
    stage.voice.explain(
        "Now some traffic: reads, an Event, a ConfigMap, a Secret, and a ServiceAccount's whole life.",
    );
    let acts = [
        act("get pod my-suspicious-pod -n default", "get pods default/my-suspicious-pod", "None"),
        act("get pods -n default", "list pods default/", "None"),
        Act { words: "create -f -", input: EVENT, deed: "create events default/story", level: "None" },
        act(
            "create configmap story -n default --from-literal=a=b",
            "create configmaps default/story",
            "Metadata",
        ),
        act(
            "create secret generic story -n default --from-literal=a=b",
            "create secrets default/story",
            "Metadata",
        ),
        act(
            "! exec my-suspicious-pod -n default -- /no-such-program",
            "get pods/exec default/my-suspicious-pod",
            "Metadata",
        ),
        act(
            "create serviceaccount story -n default",
            "create serviceaccounts default/story",
            "RequestResponse",
        ),
        act(
            "label serviceaccount story -n default told=once",
            "patch serviceaccounts default/story",
            "RequestResponse",
        ),
        Act {
            words: "replace -f -",
            input: REPLACED,
            deed: "update serviceaccounts default/story",
            level: "RequestResponse",
        },
        act(
            "delete serviceaccount story -n default",
            "delete serviceaccounts default/story",
            "RequestResponse",
        ),
    ];
    traffic::check(stage, started, &acts)?;
    let events = traffic::agree(stage, started)?;
    // The rules in `prepend` come first: Secrets, ConfigMaps and tokens are recorded whoever writes them.
    nobody(&events, "a component of the cluster, with what it sent,", |e| {
        let users = [
            "system:kube-scheduler",
            "system:kube-proxy",
            "system:apiserver",
            "system:kube-controller-manager",
        ];
        e.level() != "Metadata" && (users.contains(&e.user()) || e.is_in("system:nodes"))
    })?;
    nobody(&events, "a read", |e| {
        ["get", "list", "watch"].contains(&e.text("/verb")) && e.text("/objectRef/subresource") != "exec"
    })
}
