//! What the rendered chart permits is what SECURITY.md says: each permission, each folder of a node, each container.
//!
//! `deploy/audit-operator.yaml` is the chart with its default values (`make check-generated` compares it with the
//! templates), so nothing of the chart's permissions can change without a change of that file and of SECURITY.md.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::markdown::{document, table};
use crate::rendered::{kind, list, objects, pods, words};

/// As kubectl has it: `auditnodes.audit-operator.dev/status`; the core group has no name.
fn full_name(resource: &str, group: &str) -> String {
    let (name, sub) =
        resource.split_once('/').map_or((resource, String::new()), |(n, s)| (n, format!("/{s}")));
    if group.is_empty() { resource.to_owned() } else { format!("{name}.{group}{sub}") }
}

/// What a role grants, one row for each resource: `WHAT [NAMES]`, verbs.
fn grants(role: &Value) -> Vec<[String; 2]> {
    let mut granted = Vec::new();
    for rule in list(&role["rules"]) {
        assert!(rule["nonResourceURLs"].is_null(), "teach this test {rule}");
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                let mut what = full_name(resource, group);
                for name in words(&rule["resourceNames"]) {
                    what = format!("{what} {name}");
                }
                let verbs = words(&rule["verbs"]).join(", ");
                assert!(
                    !format!("{what} {verbs}").contains('*'),
                    "a wildcard grants what comes later: {rule}"
                );
                granted.push([what, verbs]);
            }
        }
    }
    granted
}

fn short_name(object: &Value) -> String {
    object["name"].as_str().unwrap().trim_start_matches("audit-operator-").to_owned()
}

fn place(object: &Value) -> String {
    object["metadata"]["namespace"].as_str().unwrap_or("everywhere").to_owned()
}

/// The first four columns of a table of SECURITY.md.
fn told(heading: &str) -> BTreeSet<Vec<String>> {
    table(&document("SECURITY.md"), heading).into_iter().map(|row| row[..4].to_vec()).collect()
}

#[test]
fn each_permission_is_in_security_md() {
    let objects = objects();
    let (mut granted, mut offered) = (BTreeSet::new(), BTreeSet::new());
    for role in objects.iter().filter(|o| matches!(kind(o), "Role" | "ClusterRole")) {
        let bindings = objects.iter().filter(|o| {
            kind(o).ends_with("RoleBinding")
                && o["roleRef"]["kind"] == role["kind"]
                && o["roleRef"]["name"] == role["metadata"]["name"]
                && o["metadata"]["namespace"] == role["metadata"]["namespace"]
        });
        let subjects: Vec<&Value> = bindings.flat_map(|b| list(&b["subjects"])).collect();
        for [what, verbs] in grants(role) {
            for subject in &subjects {
                granted.insert(vec![short_name(subject), place(role), what.clone(), verbs.clone()]);
            }
            if subjects.is_empty() {
                offered.insert(vec![short_name(&role["metadata"]), place(role), what, verbs]);
            }
        }
    }
    let bindings = objects.iter().filter(|o| kind(o).ends_with("RoleBinding")).count();
    let roles = objects.iter().filter(|o| kind(o).ends_with("Role")).count();
    assert_eq!(
        (bindings, roles),
        (5, 7),
        "a binding to a role that is not the chart's grants what is not seen here"
    );
    assert_eq!(granted, told("### In the API"), "granted by deploy/audit-operator.yaml (left), told (right)");
    assert_eq!(offered, told("### For people"), "offered by deploy/audit-operator.yaml (left), told (right)");
}

#[test]
fn each_folder_of_a_node_is_in_security_md() {
    let objects = objects();
    let mut mounted = BTreeSet::new();
    for (name, pod) in pods(&objects) {
        for volume in list(&pod["volumes"]) {
            assert!(name.ends_with("-agent"), "{name} mounts {volume}; only the agent touches the node");
            let mount = (list(&pod["containers"][0]["volumeMounts"]).iter())
                .find(|m| m["name"] == volume["name"])
                .unwrap_or_else(|| panic!("{volume} is not mounted"));
            let path =
                volume["hostPath"]["path"].as_str().unwrap_or_else(|| panic!("{volume} is no hostPath"));
            assert_eq!(mount["mountPath"].as_str(), Some(format!("/host{path}").as_str()));
            let access = if mount["readOnly"] == true { "read" } else { "read, write" };
            mounted.insert(vec![path.to_owned(), access.to_owned()]);
        }
    }
    let told: BTreeSet<Vec<String>> =
        table(&document("SECURITY.md"), "### On the node").into_iter().map(|row| row[..2].to_vec()).collect();
    assert_eq!(mounted, told, "mounted in deploy/audit-operator.yaml (left) and told in SECURITY.md (right)");
}

#[test]
fn no_container_has_more_than_it_needs() {
    let objects = objects();
    let pods = pods(&objects);
    assert_eq!(pods.len(), 2);
    for (name, pod) in pods {
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert!(pod["hostPID"].is_null() && pod["hostIPC"].is_null(), "{name} shares the node's processes");
        assert_eq!(list(&pod["containers"]).len(), 1, "{name}");
        let context = &pod["containers"][0]["securityContext"];
        let expected = serde_json::json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(context, &expected, "{name}");
        let is_agent = name.ends_with("-agent");
        assert_eq!(pod["hostNetwork"] == true, is_agent, "{name}: the node's network is for the agent alone");
        assert_eq!(
            pod["securityContext"]["runAsNonRoot"] == true,
            !is_agent,
            "{name}: only the agent is root"
        );
    }
}

#[test]
fn an_agent_is_tied_to_its_own_node() {
    let objects = objects();
    let (policy, binding) = policy(&objects, "audit-operator-agent-own-node");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
    assert_eq!(words(&rule["resources"]), ["auditnodes", "auditnodes/*"]);
    assert_eq!(words(&rule["operations"]), ["CREATE", "UPDATE", "DELETE"]);
    let agent = "request.userInfo.username == 'system:serviceaccount:audit-operator:audit-operator-agent'";
    assert_eq!(policy["spec"]["matchConditions"][0]["expression"], agent);
    assert!(
        objects
            .iter()
            .any(|o| kind(o) == "ServiceAccount" && o["metadata"]["name"] == "audit-operator-agent")
    );
    assert_eq!(words(&binding["spec"]["validationActions"]), ["Deny"]);
}

#[test]
fn nothing_but_the_search_is_run_in_the_operators_pods() {
    let objects = objects();
    let (policy, binding) = policy(&objects, "audit-operator-log-reader");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
    assert_eq!(words(&rule["resources"]), ["pods/exec"]);
    assert_eq!(words(&rule["operations"]), ["CONNECT"]);
    let matched = policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap();
    for (name, _) in pods(&objects) {
        assert!(matched.contains(&format!("request.name.startsWith('{name}-')")), "{name} is left out");
    }
    let validations: Vec<&str> =
        list(&policy["spec"]["validations"]).iter().map(|v| v["expression"].as_str().unwrap()).collect();
    assert_eq!(validations.len(), 2);
    assert!(validations[0].contains("object.command[1] == 'trail'"), "{validations:?}");
    assert!(validations[1].contains("subresource('log').check('get')"), "{validations:?}");
    assert_eq!(words(&binding["spec"]["validationActions"]), ["Deny"]);
}

/// An admission policy and its binding, by their name.
fn policy<'o>(objects: &'o [Value], name: &str) -> (&'o Value, &'o Value) {
    let only = |wanted: &str| {
        let found: Vec<&Value> =
            objects.iter().filter(|o| kind(o) == wanted && o["metadata"]["name"] == name).collect();
        assert_eq!(found.len(), 1, "{wanted} {name}");
        found[0]
    };
    let binding = only("ValidatingAdmissionPolicyBinding");
    assert_eq!(binding["spec"]["policyName"], name);
    (only("ValidatingAdmissionPolicy"), binding)
}
