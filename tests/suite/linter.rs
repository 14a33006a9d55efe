//! The rules of kube-linter that apply to what the chart renders: met, or argued in SECURITY.md.
//!
//! The tool itself is not run: it cannot be built from the Go module proxy. These are its built-in checks by their
//! names, those that are off by default too, as its documentation has them (0.8). Left out are those about kinds that
//! the chart has none of, which is asserted.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::markdown::{document, table};
use crate::rendered::{kind, list, objects, words};

/// Kinds for which there are further rules.
const ELSEWHERE: [&str; 9] = [
    "Service",
    "Ingress",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
    "CronJob",
    "ServiceMonitor",
    "ConfigMap",
    "ValidatingWebhookConfiguration",
];

/// The rule's name, and whether an object breaks it; the second argument is all of them.
type Check = (&'static str, fn(&Value, &[Value]) -> bool);

const CHECKS: &[Check] = &[
    ("access-to-create-pods", |o, _| grants(o, &["pods", "deployments", "daemonsets"], &["create"])),
    ("access-to-secrets", |o, _| grants(o, &["secrets"], &["get", "list", "delete", "create", "watch", "*"])),
    ("automount-service-account-token", |o, _| pod(o)["automountServiceAccountToken"] == true),
    ("cluster-admin-role-binding", |o, _| o["roleRef"]["name"] == "cluster-admin"),
    ("default-service-account", |o, _| {
        is_workload(o) && matches!(pod(o)["serviceAccountName"].as_str(), None | Some("" | "default"))
    }),
    ("deprecated-service-account-field", |o, _| !pod(o)["serviceAccount"].is_null()),
    ("dnsconfig-options", |o, _| is_workload(o) && pod(o)["dnsConfig"]["options"].is_null()),
    ("docker-sock", |o, _| paths(o).iter().any(|p| p.ends_with(".sock"))),
    ("drop-net-raw-capability", |o, _| any_container(o, |c| !drops_all(c))),
    ("duplicate-env-var", |o, _| {
        any_container(o, |c| {
            let names: BTreeSet<&str> = list(&c["env"]).iter().filter_map(|e| e["name"].as_str()).collect();
            names.len() != list(&c["env"]).len()
        })
    }),
    ("env-var-secret", |o, _| {
        let named = |e: &Value| e["name"].as_str().unwrap().to_lowercase().contains("secret");
        any_container(o, |c| list(&c["env"]).iter().any(named))
    }),
    ("host-ipc", |o, _| pod(o)["hostIPC"] == true),
    ("host-network", |o, _| pod(o)["hostNetwork"] == true),
    ("host-pid", |o, _| pod(o)["hostPID"] == true),
    ("image-not-pinned-by-digest", |o, _| any_container(o, |c| !image(c).contains('@'))),
    ("latest-tag", |o, _| {
        any_container(o, |c| image(c).ends_with(":latest") || !image(c).contains([':', '@']))
    }),
    ("minimum-three-replicas", |o, _| o["spec"]["replicas"].as_u64().is_some_and(|n| n < 3)),
    ("mismatching-selector", |o, _| {
        let labels = &o["spec"]["template"]["metadata"]["labels"];
        let wanted = o["spec"]["selector"]["matchLabels"].as_object();
        is_workload(o) && wanted.unwrap().iter().any(|(key, value)| labels[key] != *value)
    }),
    ("no-anti-affinity", |o, _| o["spec"]["replicas"].as_u64().is_some_and(|n| n > 1)),
    ("no-liveness-probe", |o, _| any_container(o, |c| c["livenessProbe"].is_null())),
    ("no-node-affinity", |o, _| is_workload(o) && pod(o)["affinity"]["nodeAffinity"].is_null()),
    ("no-read-only-root-fs", |o, _| any_container(o, |c| security(c)["readOnlyRootFilesystem"] != true)),
    ("no-readiness-probe", |o, _| any_container(o, |c| c["readinessProbe"].is_null())),
    ("no-rolling-update-strategy", |o, _| {
        is_workload(o)
            && [&o["spec"]["strategy"], &o["spec"]["updateStrategy"]]
                .iter()
                .all(|s| s["type"] != "RollingUpdate")
    }),
    ("no-startup-probe", |o, _| any_container(o, |c| c["startupProbe"].is_null())),
    ("non-existent-service-account", |o, all| {
        let is_there =
            |a: &Value| kind(a) == "ServiceAccount" && a["metadata"]["name"] == pod(o)["serviceAccountName"];
        is_workload(o) && !all.iter().any(is_there)
    }),
    ("non-isolated-pod", |o, all| is_workload(o) && !all.iter().any(|p| kind(p) == "NetworkPolicy")),
    (
        "pdb-max-unavailable",
        |o, _| matches!(&o["spec"]["maxUnavailable"], Value::Number(n) if kind(o) == "PodDisruptionBudget" && n.as_u64() == Some(0)),
    ),
    ("pdb-min-available", |o, _| kind(o) == "PodDisruptionBudget" && !o["spec"]["minAvailable"].is_null()),
    ("pdb-unhealthy-pod-eviction-policy", |o, _| {
        kind(o) == "PodDisruptionBudget" && o["spec"]["unhealthyPodEvictionPolicy"].is_null()
    }),
    ("priority-class-name", |o, _| is_workload(o) && pod(o)["priorityClassName"].is_null()),
    ("privilege-escalation-container", |o, _| {
        any_container(o, |c| security(c)["allowPrivilegeEscalation"] != false)
    }),
    ("privileged-container", |o, _| any_container(o, |c| security(c)["privileged"] == true)),
    ("privileged-ports", |o, _| {
        let low = |port: &Value| port["containerPort"].as_u64().unwrap() < 1024;
        any_container(o, |c| list(&c["ports"]).iter().any(low))
    }),
    ("read-secret-from-env-var", |o, _| {
        any_container(o, |c| list(&c["env"]).iter().any(|e| !e["valueFrom"]["secretKeyRef"].is_null()))
    }),
    ("required-annotation-email", |o, _| is_workload(o) && o["metadata"]["annotations"]["email"].is_null()),
    ("required-label-owner", |o, _| is_workload(o) && o["metadata"]["labels"]["owner"].is_null()),
    ("restart-policy", |o, _| is_workload(o) && pod(o)["restartPolicy"].is_null()),
    ("run-as-non-root", |o, _| is_workload(o) && pod(o)["securityContext"]["runAsNonRoot"] != true),
    ("sensitive-host-mounts", |o, _| {
        let sensitive = ["/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr"];
        paths(o).iter().any(|path| sensitive.contains(path))
    }),
    ("unsafe-proc-mount", |o, _| any_container(o, |c| !security(c)["procMount"].is_null())),
    ("unsafe-sysctls", |o, _| !pod(o)["securityContext"]["sysctls"].is_null()),
    ("unset-cpu-requirements", |o, _| any_container(o, |c| !has_both(c, "cpu"))),
    ("unset-ephemeral-storage-requirements", |o, _| any_container(o, |c| !has_both(c, "ephemeral-storage"))),
    ("unset-memory-requirements", |o, _| any_container(o, |c| !has_both(c, "memory"))),
    ("use-namespace", |o, _| o["metadata"]["namespace"] == "default"),
    ("wildcard-in-rules", |o, _| {
        let any = |rule: &Value| [&rule["verbs"], &rule["resources"]].iter().any(|l| words(l).contains(&"*"));
        list(&o["rules"]).iter().any(any)
    }),
    ("writable-host-mount", |o, _| {
        any_container(o, |c| list(&c["volumeMounts"]).iter().any(|m| m["readOnly"] != true))
    }),
];

fn pod(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]
}

fn is_workload(object: &Value) -> bool {
    !pod(object).is_null()
}

fn any_container(object: &Value, breaks: impl Fn(&Value) -> bool) -> bool {
    list(&pod(object)["containers"]).iter().any(breaks)
}

fn security(container: &Value) -> &Value {
    &container["securityContext"]
}

fn drops_all(container: &Value) -> bool {
    words(&security(container)["capabilities"]["drop"]) == ["ALL"]
}

fn image(container: &Value) -> &str {
    container["image"].as_str().unwrap()
}

fn paths(object: &Value) -> Vec<&str> {
    list(&pod(object)["volumes"]).iter().filter_map(|v| v["hostPath"]["path"].as_str()).collect()
}

fn has_both(container: &Value, resource: &str) -> bool {
    ["requests", "limits"].iter().all(|what| !container["resources"][what][resource].is_null())
}

fn grants(role: &Value, resources: &[&str], verbs: &[&str]) -> bool {
    list(&role["rules"]).iter().any(|rule| {
        words(&rule["resources"]).iter().any(|r| resources.contains(r))
            && words(&rule["verbs"]).iter().any(|v| verbs.contains(v))
    })
}

#[test]
fn each_rule_is_met_or_argued() {
    let objects = objects();
    for object in &objects {
        assert!(
            !ELSEWHERE.contains(&kind(object)),
            "there are rules about {}: teach this test",
            kind(object)
        );
    }
    let mut broken = BTreeSet::new();
    for (rule, breaks) in CHECKS {
        for object in objects.iter().filter(|o| breaks(o, &objects)) {
            let name = object["metadata"]["name"].as_str().unwrap().trim_start_matches("audit-operator-");
            broken.insert((format!("{} {name}", kind(object)), (*rule).to_owned()));
        }
    }
    let rows = table(&document("SECURITY.md"), "## Rules of scanners that are not met");
    let argued: BTreeSet<(String, String)> = rows
        .into_iter()
        .flat_map(|row| {
            let rules: Vec<String> = row[1].split(", ").map(str::to_owned).collect();
            rules.into_iter().map(move |rule| (row[0].clone(), rule))
        })
        .collect();
    assert_eq!(broken, argued, "broken by deploy/audit-operator.yaml (left), argued in SECURITY.md (right)");
}
