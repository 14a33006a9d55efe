//! The recipes in docs/recipes.md are what they say: each is rendered as the controller does it, and its answers, gaps
//! and traps are asked of the evaluator. The end-to-end tests run the same blocks by the same names.

use audit_operator::api::AuditConfiguration;
use audit_operator::api::convert::render;
use audit_operator::audit::{Attributes, Finding, Level, Policy, ServerVersion, User, ValidPolicy, evaluate};

use crate::markdown;

const NAMES: [&str; 5] = [
    "one-namespace",
    "no-secrets-configmaps",
    "metadata-of-everything",
    "nothing-from-controllers",
    "practical",
];

fn recipes() -> Vec<(String, String)> {
    markdown::recipes(&markdown::document("docs/recipes.md"))
}

/// The newest server a recipe must work on is tomorrow's, the oldest the chart's: nothing in them differs between.
fn oldest_server() -> ServerVersion {
    "v1.30.0".parse().unwrap()
}

fn configuration(recipe: &str) -> AuditConfiguration {
    let (_, text) = recipes().into_iter().find(|(name, _)| name == recipe).unwrap();
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{recipe}: {e}"))
}

/// The policy that reaches the nodes, and the warnings about it.
fn rendered(configuration: &AuditConfiguration) -> (Policy, Vec<Finding>) {
    let (rendered, warnings) = render(&configuration.spec, None, oldest_server())
        .unwrap_or_else(|findings| panic!("refused: {findings:#?}"));
    let (valid, _) = ValidPolicy::load(rendered.policy.as_bytes(), oldest_server());
    (valid.unwrap().policy().clone(), warnings)
}

/// The people of the story, by name; nobody is a request that failed authentication.
fn user(name: &str) -> Option<User> {
    let groups: &[&str] = match name {
        "nobody" => return None,
        "system:anonymous" => &["system:unauthenticated"],
        "system:node:n1" => &["system:nodes", "system:authenticated"],
        name if name.starts_with("system:serviceaccount:kube-system:") => {
            &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]
        }
        _ => &["system:authenticated"],
    };
    Some(User { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect() })
}

const REPLICA_SETS: &str = "system:serviceaccount:kube-system:replicaset-controller";
const KUBE_PROXY: &str = "system:serviceaccount:kube-system:kube-proxy";

/// What `recipe` records of each `user METHOD url`.
#[track_caller]
fn check(recipe: &str, expected: &[(&str, &str, Level)]) {
    let (policy, warnings) = rendered(&configuration(recipe));
    assert!(warnings.is_empty(), "{recipe}: {warnings:#?}");
    for (who, request, level) in expected {
        let (method, url) = request.split_once(' ').unwrap();
        let request_seen = Attributes::from_request(user(who), method, url).unwrap();
        assert_eq!(evaluate(&policy, &request_seen).level, *level, "{recipe}: {who} {request}");
    }
}

#[test]
fn they_are_the_ones_that_are_promised() {
    let names: Vec<String> = recipes().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, NAMES);
    for name in names {
        // One object, so that applying another recipe replaces it instead of conflicting with it.
        assert_eq!(configuration(&name).metadata.name.as_deref(), Some("default"), "{name}");
    }
}

#[test]
fn one_namespace_records_its_pods_and_nothing_else() {
    let pods = "/api/v1/namespaces/production/pods";
    check(
        "one-namespace",
        &[
            ("foobar", &format!("POST {pods}"), Level::Metadata),
            ("foobar", &format!("DELETE {pods}/web"), Level::Metadata),
            ("foobar", &format!("GET {pods}/web/exec?command=sh"), Level::Metadata),
            ("nobody", &format!("GET {pods}"), Level::Metadata),
            (REPLICA_SETS, &format!("POST {pods}"), Level::Metadata),
            ("system:node:n1", &format!("PATCH {pods}/web/status"), Level::None),
            ("foobar", "GET /api/v1/pods", Level::None),
            ("foobar", "POST /api/v1/namespaces/default/pods", Level::None),
            ("foobar", "POST /apis/apps/v1/namespaces/production/deployments", Level::None),
            ("foobar", "DELETE /api/v1/namespaces/production", Level::None),
        ],
    );
}

#[test]
fn no_secrets_configmaps_never_sees_their_content() {
    check(
        "no-secrets-configmaps",
        &[
            ("foobar", "GET /api/v1/namespaces/default/secrets/s", Level::None),
            ("foobar", "POST /api/v1/namespaces/default/secrets", Level::None),
            ("foobar", "PATCH /api/v1/namespaces/kube-system/configmaps/kubeadm-config", Level::None),
            ("foobar", "POST /api/v1/namespaces/default/serviceaccounts/sa/token", Level::Metadata),
            ("foobar", "POST /apis/authentication.k8s.io/v1/tokenreviews", Level::Metadata),
            ("foobar", "POST /api/v1/namespaces/default/pods", Level::Request),
            ("foobar", "DELETE /apis/apps/v1/namespaces/default/deployments", Level::Request),
            ("foobar", "GET /api/v1/pods", Level::Metadata),
            ("foobar", "GET /version", Level::Metadata),
        ],
    );
}

#[test]
fn metadata_of_everything_leaves_nothing_out() {
    check(
        "metadata-of-everything",
        &[
            ("foobar", "GET /api/v1/namespaces/default/secrets/s", Level::Metadata),
            (REPLICA_SETS, "POST /api/v1/namespaces/default/pods", Level::Metadata),
            ("system:anonymous", "GET /readyz", Level::Metadata),
            ("nobody", "GET /version", Level::Metadata),
        ],
    );
}

#[test]
fn nothing_from_controllers_keeps_what_people_and_applications_do() {
    check(
        "nothing-from-controllers",
        &[
            ("foobar", "POST /apis/apps/v1/namespaces/default/deployments", Level::Metadata),
            ("foobar", "GET /api/v1/namespaces/default/secrets/s", Level::Metadata),
            (
                "system:serviceaccount:argocd:argocd-application-controller",
                "POST /api/v1/namespaces/a/pods",
                Level::Metadata,
            ),
            ("nobody", "GET /readyz", Level::Metadata),
            ("system:anonymous", "GET /version", Level::Metadata),
            ("system:anonymous", "GET /readyz?verbose", Level::None),
            ("system:anonymous", "GET /livez/etcd", Level::None),
            (REPLICA_SETS, "POST /api/v1/namespaces/default/pods", Level::None),
            (KUBE_PROXY, "GET /apis/discovery.k8s.io/v1/endpointslices?watch=true", Level::None),
            ("system:kube-scheduler", "POST /api/v1/namespaces/default/pods/web/binding", Level::None),
            ("system:apiserver", "GET /api/v1/namespaces", Level::None),
            ("system:node:n1", "PATCH /api/v1/nodes/n1/status", Level::None),
        ],
    );
}

#[test]
fn practical_records_writes_with_bodies_but_no_secrets() {
    check(
        "practical",
        &[
            ("foobar", "POST /api/v1/namespaces/default/pods", Level::RequestResponse),
            (REPLICA_SETS, "POST /api/v1/namespaces/default/pods", Level::RequestResponse),
            ("nobody", "POST /api/v1/namespaces/default/pods", Level::RequestResponse),
            ("foobar", "POST /apis/events.k8s.io/v1/namespaces/default/events", Level::RequestResponse),
            ("foobar", "POST /api/v1/namespaces/default/secrets", Level::Metadata),
            ("foobar", "GET /api/v1/namespaces/default/pods/web/exec?command=sh", Level::Metadata),
            ("foobar", "GET /api/v1/namespaces/default/secrets/s", Level::None),
            ("foobar", "POST /api/v1/namespaces/default/events", Level::None),
            ("system:kube-scheduler", "POST /api/v1/namespaces/default/pods/web/binding", Level::None),
            ("system:node:n1", "PATCH /api/v1/nodes/n1/status", Level::None),
        ],
    );
}

#[test]
fn practical_without_prepend_has_the_two_holes_that_are_told() {
    let mut configuration = configuration("practical");
    configuration.spec.policy.prepend.clear();
    let (policy, warnings) = rendered(&configuration);
    assert!(warnings.iter().any(|w| w.code == "sensitive-bodies"), "{warnings:#?}");
    let exec = "/api/v1/namespaces/default/pods/web/exec?command=sh";
    let exec = Attributes::from_request(user("foobar"), "GET", exec).unwrap();
    assert_eq!(evaluate(&policy, &exec).level, Level::None);
}
