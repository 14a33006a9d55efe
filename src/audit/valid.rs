//! A policy that kube-apiserver is known to accept.

use super::load::{MAX_SOURCE_BYTES, load};
use super::validate::validate;
use super::{Finding, Policy, ServerVersion, emit};

/// A policy that may be given to a node.
///
/// The promise: a kube-apiserver of the version it was made for starts with its text ([`ValidPolicy::to_yaml`]) and
/// holds exactly [`ValidPolicy::policy`]; nothing of what the user wrote was unknown or set twice. The two
/// constructors are the only way to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidPolicy {
    policy: Policy,
}

impl ValidPolicy {
    /// From the text of a policy file. `None` when any finding is an error; warnings come with the policy.
    pub fn load(source: &[u8], server: ServerVersion) -> (Option<Self>, Vec<Finding>) {
        let loaded = load(source, server);
        let refused = loaded.findings.iter().any(Finding::is_error);
        (loaded.policy.filter(|_| !refused).map(|policy| Self { policy }), loaded.findings)
    }

    /// From typed input, as in an AuditConfiguration.
    ///
    /// # Errors
    ///
    /// Everything for which kube-apiserver, or a Kubernetes object that should carry the policy, would refuse it.
    pub fn new(policy: Policy, server: ServerVersion) -> Result<Self, Vec<Finding>> {
        let mut findings = validate(&policy, server);
        let valid = Self { policy };
        let bytes = valid.to_yaml().len();
        if bytes > MAX_SOURCE_BYTES {
            let message = format!(
                "{bytes} bytes are more than the {MAX_SOURCE_BYTES} that a Kubernetes object can carry: shorten the \
                 policy"
            );
            findings.push(Finding::operator("too-large", "", message));
        }
        if findings.is_empty() { Ok(valid) } else { Err(findings) }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The policy file's text: the same for equal policies, on every machine and in every release of ours, because
    /// the revision is a hash of it.
    pub fn to_yaml(&self) -> String {
        emit::to_yaml(&self.policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{GroupResources, Level, Rule};

    fn with_rule(rule: Rule) -> Policy {
        Policy { rules: vec![rule], ..Policy::default() }
    }

    fn codes(policy: Policy, server: &str) -> Vec<&'static str> {
        let findings = ValidPolicy::new(policy, server.parse().unwrap()).err().unwrap_or_default();
        findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn typed_input_is_held_to_the_same_rules() {
        let group = |group: &str| GroupResources { group: group.to_owned(), ..GroupResources::default() };
        assert_eq!(codes(Policy::default(), "1.37"), ["no-rules"]);
        assert_eq!(codes(with_rule(Rule::default()), "1.37"), [""; 0]);
        let everything = with_rule(Rule { resources: vec![group("*")], ..Rule::default() });
        assert_eq!(codes(everything.clone(), "1.36"), [""; 0]);
        assert_eq!(codes(everything, "1.35.7"), ["wildcard-group"]);
        let mixed = Rule {
            resources: vec![group("Apps")],
            non_resource_urls: vec!["x*y".to_owned()],
            ..Rule::default()
        };
        let expected = ["url-without-slash", "url-wildcard", "invalid-group", "urls-with-resources"];
        assert_eq!(codes(with_rule(mixed), "1.37"), expected, "all at once");
    }

    #[test]
    fn a_policy_that_no_object_can_carry_is_refused() {
        let users =
            |count: usize| with_rule(Rule { users: vec!["x".repeat(1000); count], ..Rule::default() });
        assert_eq!(codes(users(1000), "1.37"), [""; 0]);
        assert_eq!(codes(users(1050), "1.37"), ["too-large"]);
    }

    #[test]
    fn the_text_is_spelt_out() {
        let policy = Policy {
            omit_stages: vec![crate::audit::Stage::RequestReceived],
            omit_managed_fields: true,
            rules: vec![
                Rule {
                    level: Level::RequestResponse,
                    users: vec!["yes".to_owned(), "a\"b\\c\n\u{1f600}é".to_owned()],
                    resources: vec![GroupResources {
                        resources: vec!["pods".to_owned()],
                        ..GroupResources::default()
                    }],
                    omit_managed_fields: Some(false),
                    ..Rule::default()
                },
                Rule { non_resource_urls: vec!["/healthz*".to_owned()], ..Rule::default() },
            ],
        };
        let expected = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: RequestResponse
  users: ["yes", "a\"b\\c\n\U0001f600\u00e9"]
  resources:
  - group: ""
    resources: ["pods"]
  omitManagedFields: false
- level: None
  nonResourceURLs: ["/healthz*"]
"#;
        // The revision is a hash of this text: whoever changes it changes every revision there is.
        assert_eq!(ValidPolicy::new(policy, ServerVersion::LATEST).unwrap().to_yaml(), expected);
    }
}
