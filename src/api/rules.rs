//! Rules in CEL that no attribute can hold, because they repeat a constant or belong to a type of somebody else.
//!
//! Each repeats what [`super::convert`] checks, so that `kubectl apply` already refuses it; that one is the truth, and the
//! e2e tests compare the two. CEL's `self` is the field.

use schemars::Schema;
use serde_json::{Value, json};

use super::convert::SYSTEM_FOLDERS;

/// Most items of a label selector's lists: an API server evaluates no expression over a list without a bound.
const MOST_EXPRESSIONS: u32 = 64;

const FOLDER: &str = "self.substring(0, self.lastIndexOf('/'))";

/// `spec.log.path`; `-` is no path.
pub(super) fn of_log_path(schema: &mut Schema) {
    let system = SYSTEM_FOLDERS.iter().map(|folder| format!("'{folder}'")).collect::<Vec<_>>().join(", ");
    let system = rule(
        &format!("self == '-' || !({FOLDER} in [{system}])"),
        "lies in a system folder, which would be mounted writable into the API server; give the log a folder of its own, \
         such as /var/log/kubernetes/audit/",
    );
    extend(schema, of_path("self == '-' || ").into_iter().chain([system]));
}

/// `spec.policy.path`.
pub(super) fn of_policy_path(schema: &mut Schema) {
    let certificates =
        rule(&format!("{FOLDER} != '/etc/kubernetes/pki'"), "must not lie among the certificates");
    extend(schema, of_path("").into_iter().chain([certificates]));
}

/// `spec.nodeSelector`, which is Kubernetes' own type and comes without bounds.
pub(super) fn of_selector(schema: &mut Schema) {
    let expressions = schema.pointer_mut("/properties/matchExpressions").and_then(Value::as_object_mut);
    let expressions = expressions.expect("a LabelSelector has matchExpressions");
    expressions.insert("maxItems".to_owned(), MOST_EXPRESSIONS.into());
    let requirement = expressions.get_mut("items").and_then(Value::as_object_mut);
    let requirement = requirement.expect("matchExpressions is a list of objects");
    let fields = [
        ("/operator/enum", json!(["In", "NotIn", "Exists", "DoesNotExist"])),
        ("/operator/maxLength", json!(16)),
        ("/values/maxItems", MOST_EXPRESSIONS.into()),
    ];
    for (pointer, value) in fields {
        let (field, key) = pointer[1..].split_once('/').expect("each is a field and its key");
        requirement["properties"][field][key] = value;
    }
    let values = rule(
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
        "`In` and `NotIn` need `values`, `Exists` and `DoesNotExist` take none",
    );
    requirement.insert("x-kubernetes-validations".to_owned(), json!([values]));
    let not_all = rule(
        "(has(self.matchLabels) && self.matchLabels.size() > 0) || \
         (has(self.matchExpressions) && self.matchExpressions.size() > 0)",
        "selects every node; leave it out to select every control-plane node of kubeadm",
    );
    extend(schema, [not_all]);
}

fn of_path(unless: &str) -> [Value; 2] {
    [
        rule(&format!("{unless}!self.matches('/(/|[.]{{1,2}}(/|$))')"), "must not contain `//`, `.` or `..`"),
        rule(
            &format!("{unless}!{FOLDER}.startsWith('/etc/kubernetes/manifests')"),
            "must not lie where the kubelet looks for static Pods",
        ),
    ]
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

fn extend(schema: &mut Schema, rules: impl IntoIterator<Item = Value>) {
    let rules: Vec<Value> = rules.into_iter().collect();
    schema.insert("x-kubernetes-validations".to_owned(), rules.into());
}
