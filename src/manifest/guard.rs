//! The last look at an edited manifest, by other means than the edit: nothing leaves this module without it.
//!
//! The old text is parsed by another parser into plain values, the plan is carried out on those, and the new text has
//! to parse to exactly that. Every old line that no splice touched has to be there still, in order.

use serde::Deserialize as _;
use serde_yaml::Value as Yaml;

use super::plan::{Annotation, ListEdit, Plan, Value};
use super::pod::{List, Pod};
use super::splice::Splice;
use super::{REVISION_ANNOTATION, Refusal};

fn refuse(message: impl Into<String>) -> Refusal {
    let message: String = message.into();
    Refusal::new(
        "guard",
        None,
        format!("the edited manifest is not what was planned, and was dropped: {message}"),
    )
}

/// Whether `new` means what the plan makes of `old`.
pub(super) fn check_meaning(old: &str, new: &str, pod: &Pod<'_>, plan: &Plan) -> Result<(), Refusal> {
    let mut expected = parse(old).map_err(|e| {
        let line = e.location().map(|place| place.line());
        Refusal::new("broken-yaml", line, format!("not YAML to every reader: {e}"))
    })?;
    carry_out(&mut expected, pod, plan)
        .ok_or_else(|| refuse("the old one reads differently to two parsers"))?;
    let mut found = parse(new).map_err(|e| refuse(format!("not YAML: {e}")))?;
    drop_empty(&mut expected, pod);
    drop_empty(&mut found, pod);
    if found == expected { Ok(()) } else { Err(refuse("it has another meaning")) }
}

/// Whether every line of `old` that the splices leave alone is in `new`, in order.
pub(super) fn check_lines(old: &str, new: &str, splices: &[Splice]) -> Result<(), Refusal> {
    let mut new_lines = new.split_inclusive('\n');
    let mut at = 0;
    for line in old.split_inclusive('\n') {
        let lines = at..at + line.len();
        at = lines.end;
        if !splices.iter().any(|splice| splice.touches(&lines)) && !new_lines.any(|new| new == line) {
            return Err(refuse(format!("this line is gone: `{}`", line.trim())));
        }
    }
    Ok(())
}

/// Duplicate keys are an error in this type. An empty second document is not looked at.
fn parse(text: &str) -> Result<Yaml, serde_yaml::Error> {
    serde_yaml::Deserializer::from_str(text).next().map_or(Ok(Yaml::Null), Yaml::deserialize)
}

/// None when the value has not the shape that the tree has.
fn carry_out(root: &mut Yaml, pod: &Pod<'_>, plan: &Plan) -> Option<()> {
    for (list, edit) in &plan.lists {
        carry_out_list(slot(root, pod, *list)?, edit)?;
    }
    let metadata = root.get_mut("metadata")?.as_mapping_mut()?;
    match &plan.annotation {
        None => {}
        Some(Annotation::Remove) => {
            drop(metadata.get_mut("annotations")?.as_mapping_mut()?.remove(REVISION_ANNOTATION))
        }
        Some(Annotation::Set(revision)) => {
            let annotations =
                metadata.entry("annotations".into()).or_insert_with(|| Yaml::Mapping(Default::default()));
            annotations.as_mapping_mut()?.insert(REVISION_ANNOTATION.into(), revision.as_str().into());
        }
    }
    Some(())
}

/// The place of a list: the value under its key, made when missing.
fn slot<'v>(root: &'v mut Yaml, pod: &Pod<'_>, list: List) -> Option<&'v mut Yaml> {
    let spec = root.get_mut("spec")?;
    let parent = match list {
        List::Command | List::Args | List::VolumeMounts => {
            spec.get_mut("containers")?.get_mut(pod.container_index)?
        }
        List::Volumes => spec,
    };
    Some(parent.as_mapping_mut()?.entry(list.key().into()).or_insert_with(|| Yaml::Sequence(Vec::new())))
}

fn carry_out_list(list: &mut Yaml, edit: &ListEdit) -> Option<()> {
    let mut old: Vec<Option<Yaml>> = std::mem::take(list.as_sequence_mut()?).into_iter().map(Some).collect();
    for (index, keys, value) in &edit.set {
        let mut target = old.get_mut(*index)?.as_mut()?;
        for key in *keys {
            target = target.get_mut(key)?;
        }
        *target = yaml(value);
    }
    for index in &edit.remove {
        old.get_mut(*index)?.take()?;
    }
    let mut new = Vec::with_capacity(old.len() + edit.insert.len());
    for (index, element) in old.into_iter().chain([None]).enumerate() {
        new.extend(edit.insert.iter().filter(|(at, _)| *at == index).map(|(_, value)| yaml(value)));
        new.extend(element);
    }
    *list = Yaml::Sequence(new);
    Some(())
}

fn yaml(value: &Value) -> Yaml {
    match value {
        Value::Text(text) | Value::Quoted(text) => text.as_str().into(),
        Value::Bool(value) => (*value).into(),
        Value::Map(entries) => {
            Yaml::Mapping(entries.iter().map(|(key, value)| ((*key).into(), yaml(value))).collect())
        }
        Value::List(items) => Yaml::Sequence(items.iter().map(yaml).collect()),
    }
}

/// A list or the annotations that are empty mean the same as none.
fn drop_empty(root: &mut Yaml, pod: &Pod<'_>) {
    let is_empty = |value: &Yaml| match value {
        Yaml::Null => true,
        Yaml::Sequence(items) => items.is_empty(),
        Yaml::Mapping(entries) => entries.is_empty(),
        Yaml::Bool(_) | Yaml::Number(_) | Yaml::String(_) | Yaml::Tagged(_) => false,
    };
    let drop_from = |parent: Option<&mut Yaml>, keys: &[&str]| {
        if let Some(map) = parent.and_then(Yaml::as_mapping_mut) {
            for key in keys {
                if map.get(*key).is_some_and(is_empty) {
                    map.remove(*key);
                }
            }
        }
    };
    drop_from(root.get_mut("metadata"), &["annotations"]);
    drop_from(root.get_mut("spec"), &["volumes"]);
    let container = root
        .get_mut("spec")
        .and_then(|s| s.get_mut("containers"))
        .and_then(|c| c.get_mut(pod.container_index));
    drop_from(container, &["command", "args", "volumeMounts"]);
}
