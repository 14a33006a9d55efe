//! What has to change in a manifest, in terms of the Pod: elements of its lists, and the annotation.
//!
//! A plan knows nothing of text. [`super::splice`] carries it out on the text and [`super::guard`] on the parsed
//! value, and the two have to agree.

use std::collections::{BTreeMap, BTreeSet};

use super::pod::{FlagUse, List, Pod};
use super::{
    Existing, Flag, Mount, PathType, REVISION_ANNOTATION, Refusal, Refusals, Settings, mounts, settings,
};

/// What to do; the default is nothing.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) annotation: Option<Annotation>,
    pub(super) lists: BTreeMap<List, ListEdit>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Annotation {
    Set(String),
    Remove,
}

/// Changes to one list. Indexes are those of the list before any change.
#[derive(Debug, Default)]
pub(super) struct ListEdit {
    pub(super) remove: BTreeSet<usize>,
    /// Element, keys that lead to a scalar in it (none: itself), and what that becomes.
    pub(super) set: Vec<(usize, &'static [&'static str], Value)>,
    /// In front of which element, in the order to write them.
    pub(super) insert: Vec<(usize, Value)>,
}

/// What is written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// Text in double quotes even where it could do without: a revision may look like a number.
    Quoted(String),
    Bool(bool),
    /// Keys sorted, as kubeadm writes them.
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}

impl Value {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn flag(flag: &Flag) -> Self {
        Self::Text(format!("--{}={}", flag.name, flag.value))
    }

    pub(super) fn volume(mount: &Mount) -> Self {
        let kind = Self::text(mount.path_type.as_str());
        let host = vec![("path", Self::text(&mount.host_path)), ("type", kind)];
        Self::Map(vec![("hostPath", Self::Map(host)), ("name", Self::text(&mount.name))])
    }

    /// `readOnly: false` is the default, and kubeadm leaves it out.
    pub(super) fn mount(mount: &Mount) -> Self {
        let mut entries =
            vec![("mountPath", Self::text(&mount.mount_path)), ("name", Self::text(&mount.name))];
        if mount.read_only {
            entries.push(("readOnly", Self::Bool(true)));
        }
        Self::Map(entries)
    }
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.annotation.is_none() && self.lists.is_empty()
    }

    /// The edit of a list, to add to.
    pub(super) fn list(&mut self, list: List) -> &mut ListEdit {
        self.lists.entry(list).or_default()
    }
}

/// What turns the Pod into one with the wanted settings.
pub(super) fn toward(pod: &Pod<'_>, wanted: &Settings, existing: Existing) -> Result<Plan, Refusals> {
    settings::check(wanted)?;
    let revision = pod.annotation(REVISION_ANNOTATION);
    let ours = revision.is_some() || existing == Existing::TakeOver;
    let mut plan = Plan::default();
    let mut refused = if ours { Vec::new() } else { foreign_flags(pod, wanted) };
    plan_flags(pod, &wanted.flags, ours, &mut plan);
    // With foreign flags in the way, the mounts that a take-over would solve are no news.
    let ours = ours || !refused.is_empty();
    refused.extend(mounts::plan(pod, wanted, ours, &mut plan));
    if revision != Some(&wanted.revision) {
        plan.annotation = Some(Annotation::Set(wanted.revision.clone()));
    }
    if refused.is_empty() { Ok(plan) } else { Err(Refusals(refused)) }
}

/// What takes all audit settings out of a Pod that has our annotation.
pub(super) fn away(pod: &Pod<'_>) -> Plan {
    let mut plan = Plan { annotation: Some(Annotation::Remove), ..Plan::default() };
    plan_flags(pod, &[], true, &mut plan);
    mounts::remove(pod, &mut plan);
    plan
}

/// Audit flags of somebody else that say something else, each with its effective value.
fn foreign_flags(pod: &Pod<'_>, wanted: &Settings) -> Vec<Refusal> {
    let mut last: BTreeMap<&str, &FlagUse> = BTreeMap::new();
    last.extend(pod.audit_flags().map(|flag| (flag.name.as_str(), flag)));
    let mut effective: Vec<_> = last.into_values().collect();
    effective.sort_by_key(|flag| flag.first);
    let differs = |flag: &&FlagUse| value_of(&wanted.flags, &flag.name) != Some(flag.value());
    let refuse = |flag: &FlagUse| {
        let wish = match value_of(&wanted.flags, &flag.name) {
            Some(value) => format!("`{value}` is wanted"),
            None => "the flag is not wanted".to_owned(),
        };
        let message = format!(
            "`--{}` is set to `{}` already and not by audit-operator, and {wish}: remove the flag, want the same, or \
             allow existing settings to be taken over",
            flag.name,
            flag.value()
        );
        Refusal::new("foreign-audit-flag", pod.argv[flag.first].node.line, message)
    };
    effective.into_iter().filter(differs).map(refuse).collect()
}

fn value_of<'w>(wanted: &'w [Flag], name: &str) -> Option<&'w str> {
    wanted.iter().find(|flag| flag.name == name).map(|flag| flag.value.as_str())
}

fn plan_flags(pod: &Pod<'_>, wanted: &[Flag], ours: bool, plan: &mut Plan) {
    if ours {
        for stale in pod.audit_flags().filter(|flag| value_of(wanted, &flag.name).is_none()) {
            remove_flag(pod, stale, plan);
        }
    }
    for flag in wanted {
        let mut uses: Vec<_> = pod.audit_flags().filter(|used| used.name == flag.name).collect();
        match uses.pop() {
            None => {
                let after = &pod.argv[place_after(pod, wanted, flag)];
                plan.list(after.list).insert.push((after.index + 1, Value::flag(flag)));
            }
            Some(last) if last.value() == flag.value => {}
            Some(last) => {
                let value =
                    if last.first == last.last { Value::flag(flag) } else { Value::text(&flag.value) };
                let arg = &pod.argv[last.last];
                plan.list(arg.list).set.push((arg.index, &[], value));
                uses.iter().for_each(|earlier| remove_flag(pod, earlier, plan));
            }
        }
    }
}

fn remove_flag(pod: &Pod<'_>, flag: &FlagUse, plan: &mut Plan) {
    for arg in &pod.argv[flag.first..=flag.last] {
        plan.list(arg.list).remove.insert(arg.index);
    }
}

/// The argument behind which a new flag goes: beside the wanted flags that are there, in their order, else the last.
fn place_after(pod: &Pod<'_>, wanted: &[Flag], new: &Flag) -> usize {
    let at = wanted.iter().position(|flag| flag.name == new.name).unwrap_or(wanted.len());
    let last_use = |flag: &Flag| pod.audit_flags().filter(|used| used.name == flag.name).last();
    let before = wanted[..at].iter().rev().find_map(last_use).map(|used| used.last);
    // The binary comes before every flag.
    let behind = || wanted[at..].iter().find_map(last_use).map(|used| used.first - 1);
    before.or_else(behind).unwrap_or(pod.argv.len() - 1)
}

/// Whether the kubelet's check for the one type lets through what the other wants. A type that is not given is no check.
pub(super) fn compatible(existing: Option<&str>, wanted: PathType) -> bool {
    match wanted {
        PathType::File | PathType::FileOrCreate => matches!(existing, None | Some("File" | "FileOrCreate")),
        PathType::Directory | PathType::DirectoryOrCreate => {
            matches!(existing, None | Some("Directory" | "DirectoryOrCreate"))
        }
    }
}
