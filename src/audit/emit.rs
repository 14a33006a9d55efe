//! The text of a policy, as it is written to a node.
//!
//! The revision is a hash of this text, so it must never change with a library or with Rust's Unicode tables: the
//! layout is spelt out here, strings are always in double quotes, and whatever is not ASCII is escaped. Both YAML
//! 1.1 (which the server reads) and 1.2 read it alike.

use std::fmt::{self, Display, Write};

use super::policy::{GroupResources, Policy, Rule};

/// The policy as YAML, `apiVersion` and `kind` included.
pub(super) fn to_yaml(policy: &Policy) -> String {
    let mut out = String::from("apiVersion: audit.k8s.io/v1\nkind: Policy\n");
    write_policy(&mut out, policy).expect("a String takes everything");
    out
}

fn write_policy(out: &mut String, policy: &Policy) -> fmt::Result {
    write_list(out, "", "omitStages", &policy.omit_stages)?;
    if policy.omit_managed_fields {
        writeln!(out, "omitManagedFields: true")?;
    }
    if policy.rules.is_empty() {
        return writeln!(out, "rules: []");
    }
    writeln!(out, "rules:")?;
    policy.rules.iter().try_for_each(|rule| write_rule(out, rule))
}

fn write_rule(out: &mut String, rule: &Rule) -> fmt::Result {
    writeln!(out, "- level: {}", rule.level)?;
    write_list(out, "  ", "users", quoted(&rule.users))?;
    write_list(out, "  ", "userGroups", quoted(&rule.user_groups))?;
    write_list(out, "  ", "verbs", quoted(&rule.verbs))?;
    if !rule.resources.is_empty() {
        writeln!(out, "  resources:")?;
    }
    rule.resources.iter().try_for_each(|resources| write_resources(out, resources))?;
    write_list(out, "  ", "namespaces", quoted(&rule.namespaces))?;
    write_list(out, "  ", "nonResourceURLs", quoted(&rule.non_resource_urls))?;
    write_list(out, "  ", "omitStages", &rule.omit_stages)?;
    match rule.omit_managed_fields {
        Some(flag) => writeln!(out, "  omitManagedFields: {flag}"),
        None => Ok(()),
    }
}

fn write_resources(out: &mut String, resources: &GroupResources) -> fmt::Result {
    writeln!(out, "  - group: {}", Quoted(&resources.group))?;
    write_list(out, "    ", "resources", quoted(&resources.resources))?;
    write_list(out, "    ", "resourceNames", quoted(&resources.resource_names))
}

/// `name: [a, b]`, or nothing when there are no items.
fn write_list<T: Display>(
    out: &mut String,
    indent: &str,
    name: &str,
    items: impl IntoIterator<Item = T>,
) -> fmt::Result {
    let mut separator = "";
    for item in items {
        if separator.is_empty() {
            write!(out, "{indent}{name}: [")?;
        }
        write!(out, "{separator}{item}")?;
        separator = ", ";
    }
    if separator.is_empty() { Ok(()) } else { writeln!(out, "]") }
}

fn quoted(texts: &[String]) -> impl Iterator<Item = Quoted<'_>> {
    texts.iter().map(|text| Quoted(text))
}

/// A string in double quotes.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                ' '..='~' => f.write_char(c)?,
                _ if u32::from(c) <= 0xffff => write!(f, "\\u{:04x}", u32::from(c))?,
                // YAML has no surrogate pairs.
                _ => write!(f, "\\U{:08x}", u32::from(c))?,
            }
        }
        f.write_char('"')
    }
}
