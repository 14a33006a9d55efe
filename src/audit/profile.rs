//! Policies to start from, and what one can learn from the log that each makes.
//!
//! All are accepted by every kube-apiserver from 1.24 on (none uses the group `*`), write no body of a Secret,
//! ConfigMap, TokenReview or token, keep failed log-ins, and lose no patch on servers before 1.37.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::{GroupResources, Level, Policy, Rule, Stage};

/// A built-in audit policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// Every request, without bodies.
    Metadata,
    /// Every request but the noise that the cluster makes by itself, without bodies.
    Recommended,
    /// Like Recommended, and what was written: the bodies of requests that change something.
    WriteRequestBodies,
    /// Every request, with the bodies of changes and of the answers to them.
    Forensic,
}

/// What the log of a profile is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileDoc {
    /// What is logged, in a sentence.
    pub logs: &'static str,
    /// Questions that the log answers.
    pub answers: &'static str,
    /// Questions that it does not answer.
    pub cannot_answer: &'static str,
}

impl Profile {
    /// All profiles, from the simplest on.
    pub const ALL: [Self; 4] = [Self::Metadata, Self::Recommended, Self::WriteRequestBodies, Self::Forensic];

    /// The name, as in an AuditConfiguration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "Metadata",
            Self::Recommended => "Recommended",
            Self::WriteRequestBodies => "WriteRequestBodies",
            Self::Forensic => "Forensic",
        }
    }

    /// What the log is good for.
    pub fn doc(self) -> ProfileDoc {
        match self {
            Self::Metadata => ProfileDoc {
                logs: "One rule: every request at level Metadata, every stage.",
                answers: "Who did what to which object, when, from where, and how it ended. Nothing is left out.",
                cannot_answer: "What an object was changed to. The log is large: most of it is the cluster talking \
                                to itself.",
            },
            Self::Recommended => ProfileDoc {
                logs: "Every request at level Metadata, except health probes, reads by the cluster's own components \
                       and nodes, lease renewals, events, and the status that nodes report.",
                answers: "Who created, changed, deleted or read an object, who logged in to a Pod, and whose log-in \
                          failed.",
                cannot_answer: "What an object was changed to; and what a node's or a system component's stolen \
                                credential has read.",
            },
            Self::WriteRequestBodies => ProfileDoc {
                logs: "What Recommended logs, and the request bodies of changes; not those of Secrets, ConfigMaps, \
                       token reviews and token requests.",
                answers: "What Recommended answers, and what exactly was written: the image of a Pod, the rules of a \
                          Role.",
                cannot_answer: "What admission made of it, and what was there before; and what a node's or a system \
                                component's stolen credential has read.",
            },
            Self::Forensic => ProfileDoc {
                logs: "Every request but health probes. Changes with the bodies of request and response, and with \
                       their first stage, which is there even if the server dies over them; reads, events, leases, \
                       Secrets, ConfigMaps, token reviews and token requests without bodies.",
                answers: "What WriteRequestBodies answers, and what the object was after admission, and every read.",
                cannot_answer: "What was read, and what is in Secrets and ConfigMaps. The log is very large.",
            },
        }
    }

    /// The policy.
    pub fn policy(self) -> Policy {
        match self {
            Self::Metadata => Policy { rules: vec![at(Level::Metadata)], ..Policy::default() },
            Self::Recommended => {
                let mut rules = noise();
                rules.push(at(Level::Metadata));
                Policy { omit_stages: vec![Stage::RequestReceived], rules, ..Policy::default() }
            }
            Self::WriteRequestBodies => {
                let mut rules = noise();
                rules.extend([
                    once(credentials()),
                    // Keeps RequestReceived: before 1.37 it can be all that there is of a patch.
                    Rule { verbs: texts(&["patch"]), ..at(Level::Request) },
                    once(Rule {
                        verbs: texts(&["create", "update", "delete", "deletecollection"]),
                        ..at(Level::Request)
                    }),
                    once(at(Level::Metadata)),
                ]);
                Policy { omit_managed_fields: true, rules, ..Policy::default() }
            }
            Self::Forensic => {
                let rules = vec![
                    probes(),
                    once(Rule { level: Level::Metadata, ..leases_and_events() }),
                    once(Rule { level: Level::Metadata, ..node_reports() }),
                    once(credentials()),
                    Rule {
                        verbs: texts(&["create", "update", "patch", "delete", "deletecollection"]),
                        ..at(Level::RequestResponse)
                    },
                    once(at(Level::Metadata)),
                ];
                Policy { omit_managed_fields: true, rules, ..Policy::default() }
            }
        }
    }
}

/// What a cluster does all the time by itself.
fn noise() -> Vec<Rule> {
    let reads = || Rule { verbs: texts(&["get", "list", "watch"]), ..at(Level::None) };
    vec![
        probes(),
        Rule {
            users: texts(&[
                "system:apiserver",
                "system:cloud-controller-manager",
                "system:kube-controller-manager",
                "system:kube-proxy",
                "system:kube-scheduler",
            ]),
            ..reads()
        },
        Rule { user_groups: texts(&["system:nodes", "system:serviceaccounts:kube-system"]), ..reads() },
        leases_and_events(),
        node_reports(),
    ]
}

fn probes() -> Rule {
    Rule {
        verbs: texts(&["get", "head"]),
        non_resource_urls: texts(&["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"]),
        ..at(Level::None)
    }
}

/// Renewals and new events. Who deletes them is logged: that can be an attempt to cover up.
fn leases_and_events() -> Rule {
    Rule {
        verbs: texts(&["get", "list", "watch", "create", "update", "patch"]),
        resources: vec![
            resources("coordination.k8s.io", &["leases"]),
            resources("", &["events"]),
            resources("events.k8s.io", &["events"]),
        ],
        ..at(Level::None)
    }
}

/// What kubelets report and ask all the time.
fn node_reports() -> Rule {
    Rule {
        user_groups: texts(&["system:nodes"]),
        verbs: texts(&["create", "update", "patch"]),
        resources: vec![
            resources("", &["nodes/status", "pods/status"]),
            resources("authentication.k8s.io", &["tokenreviews"]),
            resources("authorization.k8s.io", &["subjectaccessreviews"]),
        ],
        ..at(Level::None)
    }
}

/// Whose bodies must not be in a log.
fn credentials() -> Rule {
    Rule {
        resources: vec![
            resources("", &["secrets", "configmaps", "serviceaccounts/token"]),
            resources("authentication.k8s.io", &["tokenreviews"]),
        ],
        ..at(Level::Metadata)
    }
}

fn at(level: Level) -> Rule {
    Rule { level, ..Rule::default() }
}

/// One line for each request instead of two.
fn once(rule: Rule) -> Rule {
    Rule { omit_stages: vec![Stage::RequestReceived], ..rule }
}

fn resources(group: &str, resources: &[&str]) -> GroupResources {
    GroupResources { group: group.to_owned(), resources: texts(resources), resource_names: Vec::new() }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Attributes, Decision, ServerVersion, User, ValidPolicy, evaluate};

    fn decide(profile: Profile, user: &str, groups: &[&str], method: &str, url: &str) -> Decision {
        let user = (!user.is_empty()).then(|| User { name: user.to_owned(), groups: texts(groups) });
        evaluate(&profile.policy(), &Attributes::from_request(user, method, url).unwrap())
    }

    /// The levels that the four profiles give to a request.
    #[track_caller]
    fn check(user: &str, groups: &[&str], method: &str, url: &str, expected: [Level; 4]) {
        let levels = Profile::ALL.map(|profile| decide(profile, user, groups, method, url).level);
        assert_eq!(levels, expected, "{user} {method} {url}");
    }

    use Level::{Metadata, None, Request, RequestResponse};

    #[test]
    fn every_server_since_1_24_accepts_every_profile() {
        for profile in Profile::ALL {
            let valid = ValidPolicy::new(profile.policy(), ServerVersion::release(1, 24)).unwrap();
            let (loaded, findings) =
                ValidPolicy::load(valid.to_yaml().as_bytes(), ServerVersion::release(1, 24));
            assert_eq!((loaded, findings), (Some(valid), vec![]), "{profile:?}");
        }
    }

    #[test]
    fn what_people_do_is_logged_and_changes_with_their_bodies() {
        let pods = "/api/v1/namespaces/default/pods";
        check("alice", &[], "POST", pods, [Metadata, Metadata, Request, RequestResponse]);
        check("alice", &[], "PATCH", &format!("{pods}/x"), [Metadata, Metadata, Request, RequestResponse]);
        check("alice", &[], "DELETE", pods, [Metadata, Metadata, Request, RequestResponse]);
        check("alice", &[], "GET", pods, [Metadata; 4]);
        check("alice", &[], "GET", &format!("{pods}/x/exec?command=sh"), [Metadata; 4]);
        check("", &[], "GET", pods, [Metadata; 4]);
    }

    #[test]
    fn no_body_of_a_credential_is_logged() {
        for url in [
            "/api/v1/namespaces/a/secrets",
            "/api/v1/namespaces/a/configmaps",
            "/api/v1/namespaces/a/serviceaccounts/x/token",
            "/apis/authentication.k8s.io/v1/tokenreviews",
        ] {
            check("alice", &[], "POST", url, [Metadata; 4]);
        }
    }

    #[test]
    fn the_clusters_own_noise_is_left_out() {
        let node = ["system:nodes", "system:authenticated"];
        let quiet = [Metadata, None, None, Metadata];
        check("system:kube-scheduler", &[], "GET", "/api/v1/pods?watch=1", quiet);
        check("system:node:a", &node, "GET", "/api/v1/pods?watch=1", quiet);
        check("system:node:a", &node, "PATCH", "/api/v1/nodes/a/status", quiet);
        check("x", &[], "PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", quiet);
        check("x", &[], "POST", "/apis/events.k8s.io/v1/namespaces/n/events", quiet);
        check("system:anonymous", &[], "GET", "/readyz?verbose", [Metadata, None, None, None]);
    }

    #[test]
    fn noise_that_could_be_an_attack_is_kept() {
        let node = ["system:nodes"];
        check(
            "x",
            &[],
            "DELETE",
            "/api/v1/namespaces/n/events",
            [Metadata, Metadata, Request, RequestResponse],
        );
        check(
            "system:node:a",
            &node,
            "PATCH",
            "/api/v1/nodes/b",
            [Metadata, Metadata, Request, RequestResponse],
        );
        check(
            "system:kube-scheduler",
            &[],
            "DELETE",
            "/api/v1/namespaces/a/pods/x",
            [Metadata, Metadata, Request, RequestResponse],
        );
    }

    #[test]
    fn a_patch_leaves_a_line_even_where_its_event_is_lost() {
        for profile in Profile::ALL {
            let decision = decide(profile, "alice", &[], "PATCH", "/apis/apps/v1/namespaces/a/deployments/x");
            let kept = decision.level < Request || decision.logs(Stage::RequestReceived);
            assert!(kept, "{profile:?}: {decision:?}");
        }
    }

    #[test]
    fn the_name_is_the_one_in_an_audit_configuration() {
        for profile in Profile::ALL {
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.as_str());
        }
    }
}
