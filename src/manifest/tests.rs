//! What is promised of manifests, by hand-made cases, by properties, and on manifests found in the wild.
//!
//! Shared here: settings to want, and a reader of plain parsed values that knows nothing of the code under test.

use serde_yaml::Value as Yaml;

use super::*;

/// A file of `tests/data/manifests`.
macro_rules! data {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/manifests/", $name))
    };
}
mod cases;
mod corpus;
mod guarding;
mod properties;
mod reading;
mod refusals;
mod showing;

/// The files `kubeadm-1.37.2*` are what that kubeadm writes (`init phase control-plane apiserver --dry-run`): this one
/// with nothing but addresses, `-audit` with the article's settings as `extraArgs` and `extraVolumes`, `-extra` with
/// some of an administrator's own, and `-extra-audit` with these and the article's behind them.
const KUBEADM: &str = data!("kubeadm-1.37.2.yaml");

/// The smallest manifest, to be changed by the tests.
const SMALL: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --secure-port=6443
    name: kube-apiserver
";

fn flag(name: &str, value: &str) -> Flag {
    Flag { name: name.to_owned(), value: value.to_owned() }
}

fn mount(name: &str, path: &str, path_type: PathType, read_only: bool) -> Mount {
    let path = path.to_owned();
    Mount { name: name.to_owned(), host_path: path.clone(), mount_path: path, path_type, read_only }
}

/// What the article wants that this project automates, its revision aside.
fn article() -> Settings {
    Settings {
        flags: vec![
            flag("audit-log-maxage", "1"),
            flag("audit-log-maxbackup", "2"),
            flag("audit-log-maxsize", "2"),
            flag("audit-log-path", "/var/log/kube-apiserver-audit/audit.log"),
            flag("audit-policy-file", "/etc/kubernetes/audit-policy.yaml"),
        ],
        mounts: vec![
            mount("audit-log", "/var/log/kube-apiserver-audit", PathType::DirectoryOrCreate, false),
            mount("audit-policy", "/etc/kubernetes/audit-policy.yaml", PathType::File, true),
        ],
        revision: "5f3e2a".to_owned(),
    }
}

/// What the operator wants: the policy under a name of its revision.
fn versioned(revision: &str) -> Settings {
    let policy = format!("/etc/kubernetes/audit/policy-{revision}.yaml");
    Settings {
        flags: vec![
            flag("audit-log-maxage", "30"),
            flag("audit-log-path", "/var/log/kubernetes/audit/audit.log"),
            flag("audit-policy-file", &policy),
        ],
        mounts: vec![
            mount("audit-policy", &policy, PathType::File, true),
            mount("audit-log", "/var/log/kubernetes/audit", PathType::DirectoryOrCreate, false),
        ],
        revision: revision.to_owned(),
    }
}

/// The first document as plain values. Duplicate keys are an error here.
#[track_caller]
fn parse(text: &str) -> Yaml {
    use serde::Deserialize as _;
    let document = serde_yaml::Deserializer::from_str(text).next().expect("a document");
    Yaml::deserialize(document).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn apiserver(root: &mut Yaml) -> &mut Yaml {
    let containers = root["spec"]["containers"].as_sequence_mut().unwrap();
    let is_it = |c: &Yaml| {
        let all = ["command", "args"].into_iter().filter_map(|key| c[key].as_sequence()).flatten();
        let name = |arg: &Yaml| arg.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        c["name"] == "kube-apiserver" || all.map(name).any(|n| n.ends_with("apiserver"))
    };
    containers.iter_mut().find(|c| is_it(c)).unwrap()
}

/// The audit settings of a Pod, taken out of its value.
#[derive(Debug, PartialEq)]
struct Taken {
    flags: Vec<(String, String)>,
    mounts: Vec<Yaml>,
    volumes: Vec<Yaml>,
    revision: Option<String>,
}

/// Takes audit flags, our annotation and everything of the named volumes out of `root`; lists that are empty then go
/// too, since that means the same.
fn take_out(root: &mut Yaml, names: &[&str]) -> Taken {
    let mut taken = Taken { flags: Vec::new(), mounts: Vec::new(), volumes: Vec::new(), revision: None };
    let take = |list: &mut Yaml| -> Vec<Yaml> {
        let Some(items) = list.as_sequence_mut() else { return Vec::new() };
        let named = |item: &Yaml| names.iter().any(|name| item["name"] == **name);
        let (out, rest) = items.drain(..).partition(named);
        *items = rest;
        out
    };
    if let Some(annotations) = root["metadata"].get_mut("annotations").and_then(Yaml::as_mapping_mut) {
        taken.revision =
            annotations.remove(REVISION_ANNOTATION).map(|value| value.as_str().unwrap().to_owned());
    }
    if let Some(volumes) = root["spec"].get_mut("volumes") {
        taken.volumes = take(volumes);
    }
    let container = apiserver(root);
    if let Some(mounts) = container.get_mut("volumeMounts") {
        taken.mounts = take(mounts);
    }
    let mut started = false;
    for key in ["command", "args"] {
        let Some(list) = container.get_mut(key).and_then(Yaml::as_sequence_mut) else { continue };
        let mut rest = Vec::new();
        let mut items = std::mem::take(list).into_iter();
        while let Some(item) = items.next() {
            let text = item.as_str().unwrap().replace("--audit_", "--audit-");
            // A wrapper in front of the binary has flags of its own.
            started |= !text.starts_with('-') && text.ends_with("apiserver");
            match text.strip_prefix("--audit-").filter(|_| started) {
                None => rest.push(item),
                Some(flag) => {
                    let (name, value) = match flag.split_once('=') {
                        Some((name, value)) => (name, value.to_owned()),
                        None if flag.ends_with("compress") => (flag, "true".to_owned()),
                        None => (flag, items.next().unwrap().as_str().unwrap().to_owned()),
                    };
                    taken.flags.push((format!("audit-{}", name.replace('_', "-")), value));
                }
            }
        }
        *list = rest;
    }
    drop_empty(container, &["command", "args", "volumeMounts"]);
    drop_empty(&mut root["spec"], &["volumes"]);
    drop_empty(&mut root["metadata"], &["annotations"]);
    taken
}

fn drop_empty(map: &mut Yaml, keys: &[&str]) {
    for key in keys {
        let empty = match &map[*key] {
            Yaml::Sequence(items) => items.is_empty(),
            Yaml::Mapping(entries) => entries.is_empty(),
            _ => false,
        };
        if empty {
            map.as_mapping_mut().unwrap().remove(*key);
        }
    }
}

/// What `settings` are once they are in a manifest that had none.
fn expected(settings: &Settings) -> Taken {
    let mut mounts: Vec<_> = settings.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.name.clone());
    let volume = |m: &&Mount| {
        parse(&format!(
            "{{name: {:?}, hostPath: {{path: {:?}, type: {}}}}}",
            m.name,
            m.host_path,
            m.path_type.as_str()
        ))
    };
    let mounted = |m: &&Mount| {
        let access = if m.read_only { ", readOnly: true" } else { "" };
        parse(&format!("{{name: {:?}, mountPath: {:?}{access}}}", m.name, m.mount_path))
    };
    Taken {
        flags: settings.flags.iter().map(|f| (f.name.clone(), f.value.clone())).collect(),
        mounts: mounts.iter().map(mounted).collect(),
        volumes: mounts.iter().map(volume).collect(),
        revision: Some(settings.revision.clone()),
    }
}

impl Taken {
    /// With the lists in an order that does not depend on the place of their elements.
    fn sorted(mut self) -> Self {
        self.flags.sort();
        self.mounts.sort_by_key(|mount| mount["name"].as_str().unwrap().to_owned());
        self.volumes.sort_by_key(|volume| volume["name"].as_str().unwrap().to_owned());
        self
    }
}

/// Patches a manifest without audit settings, and checks everything that holds for every such manifest.
#[track_caller]
fn check_patch(text: &str, settings: &Settings) -> String {
    let new = patch(text, settings, Existing::Refuse).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(patch(&new, settings, Existing::Refuse).as_ref(), Ok(&new), "not idempotent");
    assert_eq!(unpatch(&new).as_deref(), Ok(text), "not undone");
    let names: Vec<_> = settings.mounts.iter().map(|mount| mount.name.as_str()).collect();
    let (mut before, mut after) = (parse(text), parse(&new));
    take_out(&mut before, &[]);
    let taken = take_out(&mut after, &names);
    assert_eq!(taken.sorted(), expected(settings).sorted(), "{new}");
    assert_eq!(after, before, "{new}");
    new
}

/// The lines that a change removes and adds, without its context.
fn changed_lines(from: &str, to: &str) -> String {
    let text = diff(from, to, "x").text;
    let lines = text.lines().skip(2).filter(|line| line.starts_with(['-', '+']));
    lines.map(|line| format!("{line}\n")).collect()
}
