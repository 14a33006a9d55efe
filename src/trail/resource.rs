//! Which resource a person means: `po`, `Pod` and `pods.v1.` are all `pods` of the core group.
//!
//! kubectl asks the API server; here there may be none to ask, so Kubernetes' own resources are a table, and any
//! other word is compared with every plural it can have. An event names a resource by plural and group only.

use serde::{Deserialize, Serialize};

/// What a resource word can stand for in an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Plurals to accept, lower case. One, unless the word had to be guessed.
    plurals: Vec<String>,
    /// Groups to accept; `None` is any.
    groups: Option<Vec<String>>,
    /// Where its objects live.
    pub scope: Scope,
}

/// Where the objects of a resource live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
    /// A custom resource: only the cluster knows.
    Unknown,
}

/// A word that cannot name a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a kind or resource; give one such as `pod`, `deploy` or `certificates.cert-manager.io`"
)]
pub struct NotAResource(String);

impl Resource {
    /// Reads a kind, resource, short name, `resource.group` or `resource.version.group`, in any case.
    ///
    /// # Errors
    /// The word has characters no resource or group has.
    pub fn parse(word: &str) -> Result<Self, NotAResource> {
        let lower = word.to_ascii_lowercase();
        let (name, rest) = match lower.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (lower.as_str(), None),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if name.is_empty() || !lower.bytes().all(fits) || rest == Some("") {
            return Err(NotAResource(word.to_owned()));
        }
        let group = rest.map(|rest| match rest.split_once('.') {
            Some((version, group)) if is_version(version) => group,
            _ => rest,
        });
        let known = KNOWN.iter().find(|known| {
            known.names().any(|known| known == name)
                && group.is_none_or(|group| known.groups.contains(&group))
        });
        Ok(match (known, group) {
            (Some(known), group) => Self {
                plurals: vec![known.plural.to_owned()],
                groups: Some(match group {
                    Some(group) => vec![group.to_owned()],
                    None => known.groups.iter().map(|&group| group.to_owned()).collect(),
                }),
                scope: known.scope,
            },
            (None, group) => Self {
                plurals: plurals(name),
                groups: group.map(|group| vec![group.to_owned()]),
                scope: Scope::Unknown,
            },
        })
    }

    /// Whether an event about `resource` of `group` is about this.
    pub fn includes(&self, resource: &str, group: &str) -> bool {
        self.plurals.iter().any(|plural| plural == resource)
            && self.groups.as_ref().is_none_or(|groups| groups.iter().any(|accepted| accepted == group))
    }

    /// Its group, where only one is meant.
    pub fn group(&self) -> Option<&str> {
        self.groups.as_deref().and_then(|groups| groups.first()).map(String::as_str)
    }

    /// The plurals an event may have; the likeliest first.
    pub fn plurals(&self) -> &[String] {
        &self.plurals
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.plurals[0])?;
        match (self.scope, self.groups.as_deref()) {
            (Scope::Unknown, Some([group, ..])) => write!(f, ".{group}"),
            _ => Ok(()),
        }
    }
}

/// `v1`, `v2beta1`: what kubectl takes for a version between resource and group.
fn is_version(word: &str) -> bool {
    let mut parts = word.strip_prefix('v').unwrap_or("").splitn(2, |c: char| c.is_ascii_alphabetic());
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.next().is_some_and(digits)
        && parts.next().is_none_or(|rest| {
            let number = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            digits(number)
        })
}

/// Every plural a lower-case kind or resource can have: upstream's guess (`UnsafeGuessKindToResource`) makes
/// `gateways` of `gateway` into `gatewaies`, so the plain `s` is accepted beside it.
fn plurals(word: &str) -> Vec<String> {
    let guess = match word.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{word}es"),
    };
    let plain = format!("{word}s");
    if word.ends_with('s') { vec![word.to_owned(), guess] } else { vec![plain, guess, word.to_owned()] }
}

struct Known {
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    /// Groups that serve, or once served, the same objects.
    groups: &'static [&'static str],
    scope: Scope,
}

impl Known {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.plural, self.kind].into_iter().chain(self.short.iter().copied())
    }
}

const fn known(
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    groups: &'static [&'static str],
    scope: Scope,
) -> Known {
    Known { plural, kind, short, groups, scope }
}

const RBAC: &[&str] = &["rbac.authorization.k8s.io"];
const ADMISSION: &[&str] = &["admissionregistration.k8s.io"];
const STORAGE: &[&str] = &["storage.k8s.io"];
const NETWORKING: &[&str] = &["networking.k8s.io", "extensions"];

/// What `kubectl api-resources` of a plain cluster lists, as far as people create it.
const KNOWN: &[Known] = {
    use Scope::{Cluster, Namespaced};
    &[
        known("pods", "pod", &["po"], &[""], Namespaced),
        known("services", "service", &["svc"], &[""], Namespaced),
        known("configmaps", "configmap", &["cm"], &[""], Namespaced),
        known("secrets", "secret", &[], &[""], Namespaced),
        known("serviceaccounts", "serviceaccount", &["sa"], &[""], Namespaced),
        known("endpoints", "endpoints", &["ep"], &[""], Namespaced),
        known("persistentvolumeclaims", "persistentvolumeclaim", &["pvc"], &[""], Namespaced),
        known("replicationcontrollers", "replicationcontroller", &["rc"], &[""], Namespaced),
        known("resourcequotas", "resourcequota", &["quota"], &[""], Namespaced),
        known("limitranges", "limitrange", &["limits"], &[""], Namespaced),
        known("podtemplates", "podtemplate", &[], &[""], Namespaced),
        known("events", "event", &["ev"], &["", "events.k8s.io"], Namespaced),
        known("namespaces", "namespace", &["ns"], &[""], Cluster),
        known("nodes", "node", &["no"], &[""], Cluster),
        known("persistentvolumes", "persistentvolume", &["pv"], &[""], Cluster),
        known("deployments", "deployment", &["deploy"], &["apps", "extensions"], Namespaced),
        known("replicasets", "replicaset", &["rs"], &["apps", "extensions"], Namespaced),
        known("daemonsets", "daemonset", &["ds"], &["apps", "extensions"], Namespaced),
        known("statefulsets", "statefulset", &["sts"], &["apps"], Namespaced),
        known("controllerrevisions", "controllerrevision", &[], &["apps"], Namespaced),
        known("jobs", "job", &[], &["batch"], Namespaced),
        known("cronjobs", "cronjob", &["cj"], &["batch"], Namespaced),
        known("horizontalpodautoscalers", "horizontalpodautoscaler", &["hpa"], &["autoscaling"], Namespaced),
        known("poddisruptionbudgets", "poddisruptionbudget", &["pdb"], &["policy"], Namespaced),
        known("leases", "lease", &[], &["coordination.k8s.io"], Namespaced),
        known("endpointslices", "endpointslice", &[], &["discovery.k8s.io"], Namespaced),
        known("ingresses", "ingress", &["ing"], NETWORKING, Namespaced),
        known("networkpolicies", "networkpolicy", &["netpol"], NETWORKING, Namespaced),
        known("ingressclasses", "ingressclass", &[], &["networking.k8s.io"], Cluster),
        known("roles", "role", &[], RBAC, Namespaced),
        known("rolebindings", "rolebinding", &[], RBAC, Namespaced),
        known("clusterroles", "clusterrole", &[], RBAC, Cluster),
        known("clusterrolebindings", "clusterrolebinding", &[], RBAC, Cluster),
        known("storageclasses", "storageclass", &["sc"], STORAGE, Cluster),
        known("volumeattachments", "volumeattachment", &[], STORAGE, Cluster),
        known("csidrivers", "csidriver", &[], STORAGE, Cluster),
        known("csinodes", "csinode", &[], STORAGE, Cluster),
        known(
            "customresourcedefinitions",
            "customresourcedefinition",
            &["crd", "crds"],
            &["apiextensions.k8s.io"],
            Cluster,
        ),
        known("apiservices", "apiservice", &[], &["apiregistration.k8s.io"], Cluster),
        known("priorityclasses", "priorityclass", &["pc"], &["scheduling.k8s.io"], Cluster),
        known("runtimeclasses", "runtimeclass", &[], &["node.k8s.io"], Cluster),
        known(
            "certificatesigningrequests",
            "certificatesigningrequest",
            &["csr"],
            &["certificates.k8s.io"],
            Cluster,
        ),
        known("mutatingwebhookconfigurations", "mutatingwebhookconfiguration", &[], ADMISSION, Cluster),
        known("validatingwebhookconfigurations", "validatingwebhookconfiguration", &[], ADMISSION, Cluster),
        known("validatingadmissionpolicies", "validatingadmissionpolicy", &["vap"], ADMISSION, Cluster),
        known(
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
            &[],
            ADMISSION,
            Cluster,
        ),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, resource: &str, group: &str, scope: Scope) {
        let parsed = Resource::parse(word).unwrap();
        assert!(parsed.includes(resource, group), "{word}: {parsed:?}");
        assert_eq!(parsed.scope, scope, "{word}");
    }

    #[test]
    fn kinds_plurals_and_short_names_mean_the_same() {
        for word in ["po", "pod", "pods", "Pod", "PODS", "pods.v1."] {
            check(word, "pods", "", Scope::Namespaced);
        }
        for word in ["deploy", "Deployment", "deployments", "deployments.apps", "deployment.v1.apps"] {
            check(word, "deployments", "apps", Scope::Namespaced);
        }
        check("ing", "ingresses", "networking.k8s.io", Scope::Namespaced);
        check("netpol", "networkpolicies", "networking.k8s.io", Scope::Namespaced);
        check("crd", "customresourcedefinitions", "apiextensions.k8s.io", Scope::Cluster);
        check("ns", "namespaces", "", Scope::Cluster);
        check("endpoints", "endpoints", "", Scope::Namespaced);
    }

    #[test]
    fn custom_kinds_find_their_plural() {
        check("Certificate", "certificates", "cert-manager.io", Scope::Unknown);
        check("gateway", "gateways", "gateway.networking.k8s.io", Scope::Unknown);
        check("policy", "policies", "kyverno.io", Scope::Unknown);
        check("prometheus", "prometheuses", "monitoring.coreos.com", Scope::Unknown);
        check("certificates.cert-manager.io", "certificates", "cert-manager.io", Scope::Unknown);
        check("certificates.v1.cert-manager.io", "certificates", "cert-manager.io", Scope::Unknown);
    }

    #[test]
    fn another_group_is_another_resource() {
        let includes = |word: &str, group: &str| Resource::parse(word).unwrap().includes("pods", group);
        assert!(!includes("pods", "metrics.k8s.io"));
        assert!(includes("pods.metrics.k8s.io", "metrics.k8s.io"));
        assert!(!includes("pods.metrics.k8s.io", ""));
        assert!(!Resource::parse("deployments.apps").unwrap().includes("deployments", "extensions"));
    }

    #[test]
    fn words_that_name_nothing_are_refused() {
        for word in ["", ".apps", "pods.", "pod x", "pods/exec"] {
            assert!(Resource::parse(word).is_err(), "{word:?}");
        }
    }
}
