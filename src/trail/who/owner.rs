//! What an object may belong to, when only names tell: the naming rules of Kubernetes' own controllers.
//!
//! A rule is a last resort and marked as such: it counts only for an object that the controller itself has made, and
//! only together with an event that made the owner it names.

use crate::trail::event::OwnerReference;
use crate::trail::resource::{Resource, Scope};

/// How one controller names what it makes.
struct Rule {
    /// The controller's service account in kube-system.
    controller: &'static str,
    /// What it makes.
    makes: &'static str,
    /// What that belongs to.
    owner: &'static str,
    /// The owner's possible names, given the name and namespace of what was made.
    names: fn(&str, &str) -> Vec<String>,
    /// In words.
    says: &'static str,
}

/// An owner by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) resource: Resource,
    pub(super) name: String,
    /// The rule in words.
    pub(super) says: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        controller: "replicaset-controller",
        makes: "pods",
        owner: "replicaset.apps",
        names: generated,
        says: "a ReplicaSet's Pods are named REPLICASET-xxxxx",
    },
    Rule {
        controller: "deployment-controller",
        makes: "replicasets",
        owner: "deployment.apps",
        names: before_dash,
        says: "a Deployment's ReplicaSets are named DEPLOYMENT-HASH",
    },
    Rule {
        controller: "daemon-set-controller",
        makes: "pods",
        owner: "daemonset.apps",
        names: generated,
        says: "a DaemonSet's Pods are named DAEMONSET-xxxxx",
    },
    Rule {
        controller: "statefulset-controller",
        makes: "pods",
        owner: "statefulset.apps",
        names: before_number,
        says: "a StatefulSet's Pods are named STATEFULSET-NUMBER",
    },
    Rule {
        controller: "job-controller",
        makes: "pods",
        owner: "job.batch",
        names: of_job,
        says: "a Job's Pods are named JOB-xxxxx or JOB-INDEX-xxxxx",
    },
    Rule {
        controller: "cronjob-controller",
        makes: "jobs",
        owner: "cronjob.batch",
        names: before_number,
        says: "a CronJob's Jobs are named CRONJOB-NUMBER",
    },
    Rule {
        controller: "replication-controller",
        makes: "pods",
        owner: "replicationcontroller",
        names: generated,
        says: "a ReplicationController's Pods are named CONTROLLER-xxxxx",
    },
    Rule {
        controller: "endpointslice-controller",
        makes: "endpointslices",
        owner: "service",
        names: generated,
        says: "a Service's EndpointSlices are named SERVICE-xxxxx",
    },
    Rule {
        controller: "endpoint-controller",
        makes: "endpoints",
        owner: "service",
        names: same,
        says: "a Service's Endpoints have its name",
    },
    Rule {
        controller: "service-account-controller",
        makes: "serviceaccounts",
        owner: "namespace",
        names: its_namespace,
        says: "each Namespace gets a service account `default`",
    },
    Rule {
        controller: "root-ca-cert-publisher",
        makes: "configmaps",
        owner: "namespace",
        names: its_namespace,
        says: "each Namespace gets a ConfigMap `kube-root-ca.crt`",
    },
];

/// What an object of this resource can belong to if `controller` has made it: a name of [`controllers`], or `None`
/// for kube-controller-manager as a whole.
pub(super) fn guesses(controller: Option<&str>, resource: &str, namespace: &str, name: &str) -> Vec<Guess> {
    let fits = |rule: &&Rule| rule.makes == resource && controller.is_none_or(|by| by == rule.controller);
    let guess = |rule: &Rule| {
        let resource = Resource::parse(rule.owner).expect("the rules name known resources");
        let names = (rule.names)(name, namespace).into_iter();
        names.map(|name| Guess { resource: resource.clone(), name, says: rule.says }).collect::<Vec<_>>()
    };
    RULES.iter().filter(fits).flat_map(guess).collect()
}

/// The resource that an owner reference names.
pub(super) fn resource_of(owner: &OwnerReference) -> Option<Resource> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let word = match group {
        "" => owner.kind.clone(),
        group => format!("{}.{group}", owner.kind),
    };
    Resource::parse(&word).ok()
}

/// The namespace of an owner: its object's, unless it lives outside of all.
pub(super) fn namespace_of<'n>(resource: &Resource, namespace: &'n str) -> &'n str {
    if resource.scope == Scope::Cluster { "" } else { namespace }
}

fn generated(name: &str, _: &str) -> Vec<String> {
    let is_made_up = |tail: &str| super::super::question::is_suffix(tail.as_bytes());
    name.rsplit_once('-')
        .filter(|(_, tail)| is_made_up(tail))
        .map(|(owner, _)| owner.to_owned())
        .into_iter()
        .collect()
}

fn before_dash(name: &str, _: &str) -> Vec<String> {
    name.rsplit_once('-').map(|(owner, _)| owner.to_owned()).into_iter().collect()
}

fn before_number(name: &str, _: &str) -> Vec<String> {
    let is_number = |tail: &str| !tail.is_empty() && tail.bytes().all(|byte| byte.is_ascii_digit());
    name.rsplit_once('-')
        .filter(|(_, tail)| is_number(tail))
        .map(|(owner, _)| owner.to_owned())
        .into_iter()
        .collect()
}

fn of_job(name: &str, namespace: &str) -> Vec<String> {
    let mut names = generated(name, namespace);
    names.extend(names.first().map(|job| before_number(job, namespace)).unwrap_or_default());
    names
}

fn same(name: &str, _: &str) -> Vec<String> {
    vec![name.to_owned()]
}

fn its_namespace(_: &str, namespace: &str) -> Vec<String> {
    vec![namespace.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(controller: &str, resource: &str, name: &str, expected: &[&str]) {
        let guesses = guesses(Some(controller), resource, "ns", name);
        let said: Vec<String> =
            guesses.iter().map(|guess| format!("{}/{}", guess.resource, guess.name)).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn names_tell_what_a_controllers_object_belongs_to() {
        check("replicaset-controller", "pods", "web-5d4f8c7b9-x7k2p", &["replicasets/web-5d4f8c7b9"]);
        check("deployment-controller", "replicasets", "web-5d4f8c7b9", &["deployments/web"]);
        check("statefulset-controller", "pods", "db-0", &["statefulsets/db"]);
        check("cronjob-controller", "jobs", "backup-29012345", &["cronjobs/backup"]);
        check("job-controller", "pods", "work-3-x7k2p", &["jobs/work-3", "jobs/work"]);
        check("root-ca-cert-publisher", "configmaps", "kube-root-ca.crt", &["namespaces/ns"]);
    }

    #[test]
    fn a_name_that_no_controller_makes_tells_nothing() {
        check("replicaset-controller", "pods", "my-suspicious-pod", &[]);
        check("statefulset-controller", "pods", "db-x", &[]);
        check("deployment-controller", "pods", "web-5d4f8c7b9-x7k2p", &[]);
    }
}
