//! The Helm chart and what has to agree with it: the version, the CRDs, and the three places that know its values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::root;

fn chart() -> std::path::PathBuf {
    root().join("charts/audit-operator")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names and contents of the files of a folder.
fn folder(path: &Path) -> BTreeMap<String, String> {
    let entries = path.read_dir().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    entries.map(|e| e.unwrap()).map(|e| (e.file_name().into_string().unwrap(), read(&e.path()))).collect()
}

#[test]
fn the_version_is_cargos() {
    let chart: serde_yaml::Value = serde_yaml::from_str(&read(&chart().join("Chart.yaml"))).unwrap();
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key].as_str(), Some(env!("CARGO_PKG_VERSION")), "{key} in Chart.yaml");
    }
}

#[test]
fn its_crds_are_copies_of_the_repositorys() {
    let crds = folder(&root().join("crds"));
    assert_eq!(crds.keys().collect::<Vec<_>>(), ["auditconfigurations.yaml", "auditnodes.yaml"]);
    assert_eq!(crds, folder(&chart().join("files/crds")), "`make generate` copies them");
    for (name, crd) in crds {
        assert!(crd.contains("helm.sh/resource-policy: keep"), "{name} would be deleted by `helm uninstall`");
    }
}

#[test]
fn every_value_is_allowed_set_and_used() {
    let schema: serde_json::Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    let mut allowed = BTreeSet::new();
    leaves(&schema, "", &mut allowed);
    // Helm's own; a sub-chart is given it.
    allowed.remove("global");

    let used: BTreeSet<String> =
        templates(&chart().join("templates")).iter().flat_map(|t| values_in(t)).collect();
    assert_eq!(allowed, used, "values.schema.json (left) and templates (right)");

    let values: serde_yaml::Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    for path in allowed {
        let value = path.split('.').try_fold(&values, |value, key| value.get(key));
        assert!(value.is_some(), "{path} has no default in values.yaml");
    }
}

/// Every template's text, those in folders of `folder` too.
fn templates(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { templates(&path) } else { vec![read(&path)] }).collect()
}

fn leaves(schema: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
    match schema.get("properties").and_then(serde_json::Value::as_object) {
        Some(properties) => {
            for (name, inner) in properties {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(inner, &path, found);
            }
        }
        None => drop(found.insert(path.to_owned())),
    }
}

/// What a template mentions as `.Values.a.b`.
fn values_in(template: &str) -> Vec<String> {
    let after = template.split(".Values.").skip(1);
    after
        .map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next().unwrap().to_owned())
        .collect()
}
