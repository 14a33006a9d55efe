//! Where things are in a kube-apiserver Pod: its container, the flags on its command line, mounts and volumes.
//!
//! The command line is `command` followed by `args`, as the kubelet runs it. The flags begin behind the element that
//! names the binary, since a wrapper such as `go-runner` in front of it has flags of its own.

use std::collections::BTreeSet;

use super::read::{Volume, VolumeMount};
use super::tree::{Entry, Node};
use super::{Refusal, Refusals, scalar};

/// Audit flags that take no value from the next argument.
const BOOLEAN_AUDIT_FLAGS: [&str; 5] = [
    "audit-log-batch-throttle-enable",
    "audit-log-compress",
    "audit-log-truncate-enabled",
    "audit-webhook-batch-throttle-enable",
    "audit-webhook-truncate-enabled",
];

const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "busybox", "zsh"];

/// A list of the Pod that audit settings live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum List {
    Command,
    Args,
    VolumeMounts,
    Volumes,
}

impl List {
    pub(super) fn key(self) -> &'static str {
        match self {
            List::Command => "command",
            List::Args => "args",
            List::VolumeMounts => "volumeMounts",
            List::Volumes => "volumes",
        }
    }
}

/// One element of the command line.
#[derive(Debug)]
pub(super) struct Arg<'t> {
    pub(super) list: List,
    pub(super) index: usize,
    pub(super) node: &'t Node,
    pub(super) text: &'t str,
}

/// One use of a flag of kube-apiserver.
#[derive(Debug)]
pub(super) struct FlagUse {
    /// Without dashes in front, underscores as dashes.
    pub(super) name: String,
    /// None: the flag is only named, which means `true`.
    value: Option<String>,
    /// Elements of the command line it takes up: `last` differs from `first` when the value is an element of its own.
    pub(super) first: usize,
    pub(super) last: usize,
}

impl FlagUse {
    pub(super) fn value(&self) -> &str {
        self.value.as_deref().unwrap_or("true")
    }

    pub(super) fn is_audit(&self) -> bool {
        self.name.starts_with("audit-")
    }
}

/// A Pod that runs kube-apiserver, located.
#[derive(Debug)]
pub(super) struct Pod<'t> {
    pub(super) metadata: &'t Entry,
    pub(super) spec: &'t Entry,
    pub(super) name: &'t str,
    pub(super) container: &'t Node,
    /// Place of `container` in `spec.containers`.
    pub(super) container_index: usize,
    pub(super) argv: Vec<Arg<'t>>,
    /// Every flag of kube-apiserver, in order.
    pub(super) flags: Vec<FlagUse>,
    /// In the order of the list, as are `mounts`.
    pub(super) volumes: Vec<Volume>,
    /// Mounts of `container`.
    pub(super) mounts: Vec<VolumeMount>,
    /// Names of volumes that other containers mount.
    pub(super) mounted_elsewhere: BTreeSet<&'t str>,
}

impl<'t> Pod<'t> {
    pub(super) fn locate(root: &'t Node) -> Result<Self, Refusals> {
        if root.text("apiVersion") != Some("v1") || root.text("kind") != Some("Pod") {
            let message = "not a Pod of `apiVersion: v1`: give the manifest of kube-apiserver";
            return Err(Refusal::new("not-a-pod", root.line, message).into());
        }
        let metadata = map_entry(root, "metadata")?;
        let spec = map_entry(root, "spec")?;
        let Some(name) = metadata.value.text("name") else {
            return Err(Refusal::new("not-a-pod", metadata.key.line, "the Pod has no name").into());
        };
        let (container_index, container) = apiserver_container(&spec.value)?;
        refuse_indirect(root, &metadata.value, &spec.value, container)?;

        let argv = command_line(container)?;
        let binary = binary(&argv, container)?;
        let flags = flags(&argv, binary)?;
        let volumes = volumes(&spec.value)?;
        let mounts = mounts(container)?;
        let mounted_elsewhere = mounted_elsewhere(&spec.value, container);
        Ok(Self {
            metadata,
            spec,
            name,
            container,
            container_index,
            argv,
            flags,
            volumes,
            mounts,
            mounted_elsewhere,
        })
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&'t str> {
        self.metadata.value.get("annotations")?.get(key)?.as_scalar()
    }

    /// The uses of audit flags, in order.
    pub(super) fn audit_flags(&self) -> impl Iterator<Item = &FlagUse> {
        self.flags.iter().filter(|flag| flag.is_audit())
    }
}

fn map_entry<'t>(parent: &'t Node, key: &str) -> Result<&'t Entry, Refusals> {
    match parent.entry(key) {
        Some(entry) if entry.value.entries().is_some() => Ok(entry),
        Some(entry) => Err(Refusal::new("not-a-pod", entry.key.line, format!("`{key}` is not a map")).into()),
        None => Err(Refusal::new("not-a-pod", parent.line, format!("the Pod has no `{key}`")).into()),
    }
}

/// Last part of a path that may name a program; empty for a flag, whose value may end in anything.
fn program(word: &str) -> &str {
    if word.starts_with('-') { "" } else { word.rsplit('/').next().unwrap_or(word) }
}

/// The container that is named kube-apiserver, or runs it. A sidecar that only mentions the name is none.
fn apiserver_container(spec: &Node) -> Result<(usize, &Node), Refusals> {
    let containers = spec.get("containers").and_then(Node::items).unwrap_or_default();
    let candidates: Vec<_> = containers.iter().enumerate().filter(|(_, c)| is_candidate(c)).collect();
    match candidates[..] {
        [one] => Ok(one),
        [] => {
            let message = "no container is named kube-apiserver or starts it";
            Err(Refusal::new("no-apiserver", spec.line, message).into())
        }
        [..] => {
            let refuse = |(_, c): &(usize, &Node)| {
                let name = c.text("name").unwrap_or("without a name");
                let message = format!("container `{name}` is one of several that look like kube-apiserver");
                Refusal::new("two-candidates", c.line, message)
            };
            Err(Refusals(candidates.iter().map(refuse).collect()))
        }
    }
}

fn is_candidate(container: &Node) -> bool {
    let elements = ["command", "args"].into_iter().filter_map(|key| container.get(key)?.items()).flatten();
    let mut words = elements.filter_map(Node::as_str).flat_map(str::split_whitespace).map(program).peekable();
    let mut runs = false;
    while let Some(word) = words.next() {
        runs |= word == "kube-apiserver" || (word == "hyperkube" && words.peek() == Some(&"apiserver"));
    }
    runs || container.text("name") == Some("kube-apiserver")
}

/// What an anchor, alias, merge key or tag stands for may be used elsewhere too, or be more than it looks.
fn refuse_indirect(root: &Node, metadata: &Node, spec: &Node, container: &Node) -> Result<(), Refusals> {
    let containers = spec.get("containers");
    let itself = [Some(root), Some(metadata), Some(spec), containers, Some(container)].into_iter().flatten();
    let whole = ["command", "args", "volumeMounts"].into_iter().filter_map(|key| container.get(key));
    let whole = whole.chain(spec.get("volumes")).chain(metadata.get("annotations"));
    let merge = |node: &'_ Node| node.entry("<<").map(|e| e.key.line);
    let lines: BTreeSet<usize> = itself
        .filter_map(|node| if node.decorated { Some(node.line) } else { merge(node) })
        .chain(whole.filter_map(Node::first_indirect).map(|node| node.line))
        .collect();
    let refuse = |line| {
        let message = "an anchor, alias, merge key or tag in the parts to edit: write them out in full";
        Refusal::new("anchor", line, message)
    };
    if lines.is_empty() { Ok(()) } else { Err(Refusals(lines.into_iter().map(refuse).collect())) }
}

fn list_items<'t>(parent: &'t Node, key: &str) -> Result<&'t [Node], Refusals> {
    match parent.get(key) {
        None => Ok(&[]),
        Some(node) => node.items().ok_or_else(|| {
            Refusal::new("unexpected-type", node.line, format!("`{key}` is not a list")).into()
        }),
    }
}

fn command_line(container: &Node) -> Result<Vec<Arg<'_>>, Refusals> {
    let mut argv = Vec::new();
    let mut refused = Vec::new();
    for list in [List::Command, List::Args] {
        for (index, node) in list_items(container, list.key())?.iter().enumerate() {
            match node.as_str() {
                Some(text) => argv.push(Arg { list, index, node, text }),
                None => {
                    let message = format!("an element of `{}` that is not a string: quote it", list.key());
                    refused.push(Refusal::new("not-a-string", node.line, message));
                }
            }
        }
    }
    if refused.is_empty() { Ok(argv) } else { Err(Refusals(refused)) }
}

fn binary(argv: &[Arg<'_>], container: &Node) -> Result<usize, Refusals> {
    let named = |i: usize| {
        let name = program(argv[i].text);
        name == "kube-apiserver" || (name == "apiserver" && i > 0 && program(argv[i - 1].text) == "hyperkube")
    };
    let found = (0..argv.len()).find(|&i| named(i));
    let in_front = &argv[..found.unwrap_or(argv.len())];
    if let Some(shell) = in_front.iter().find(|arg| SHELLS.contains(&program(arg.text))) {
        let message = "a shell starts kube-apiserver: write its flags as elements of `command`, one each";
        return Err(Refusal::new("shell-command", shell.node.line, message).into());
    }
    found.ok_or_else(|| {
        let message =
            "no element of `command` or `args` is the kube-apiserver binary, so its flags are unknown";
        Refusal::new("no-binary", container.line, message).into()
    })
}

fn flags(argv: &[Arg<'_>], binary: usize) -> Result<Vec<FlagUse>, Refusals> {
    let mut flags = Vec::new();
    let mut refused = Vec::new();
    let mut at = binary + 1;
    while at < argv.len() {
        match flag(argv, at) {
            Ok(flag) => {
                at = flag.last + 1;
                flags.push(flag);
            }
            Err(refusal) => {
                at += 1;
                refused.push(refusal);
            }
        }
    }
    if refused.is_empty() { Ok(flags) } else { Err(Refusals(refused)) }
}

/// The flag that begins at `at`, read as pflag reads it (facts: `--x=v`, `--x v`, a boolean never takes the next).
fn flag(argv: &[Arg<'_>], at: usize) -> Result<FlagUse, Refusal> {
    let text = argv[at].text;
    let refuse = |code, message: String| Err(Refusal::new(code, argv[at].node.line, message));
    let Some(named) = text.strip_prefix('-').filter(|rest| !rest.is_empty() && *rest != "-") else {
        return refuse("stray-argument", format!("`{text}` is no flag and no flag's value: remove it"));
    };
    let long = named.strip_prefix('-');
    let named = long.unwrap_or(named);
    let (name, value) = named.split_once('=').map_or((named, None), |(name, value)| (name, Some(value)));
    let name = name.replace('_', "-");
    let audit = name.starts_with("audit-");
    if audit && long.is_none() {
        return refuse(
            "single-dash-flag",
            format!("`{text}`: write `--{named}`, the server refuses one dash"),
        );
    }
    let next = argv.get(at + 1).map(|arg| arg.text);
    let takes_next = value.is_none()
        && !BOOLEAN_AUDIT_FLAGS.contains(&name.as_str())
        && next.is_some_and(|n| !n.starts_with('-'));
    if audit && value.is_none() && !takes_next && !BOOLEAN_AUDIT_FLAGS.contains(&name.as_str()) {
        return refuse("flag-without-value", format!("`--{name}` has no value: give it one or remove it"));
    }
    let value = if takes_next { next } else { value };
    if audit && (name.contains("$(") || value.is_some_and(|v| v.contains("$("))) {
        return refuse(
            "env-reference",
            format!("`--{name}` depends on an environment variable: write its value"),
        );
    }
    Ok(FlagUse { name, value: value.map(str::to_owned), first: at, last: at + usize::from(takes_next) })
}

fn volumes(spec: &Node) -> Result<Vec<Volume>, Refusals> {
    let mut volumes: Vec<Volume> = Vec::new();
    for node in list_items(spec, "volumes")? {
        let Some(name) = node.text("name") else {
            return Err(Refusal::new("unexpected-type", node.line, "a volume without a name").into());
        };
        if let Some(same) = volumes.iter().find(|v| v.name == name) {
            let message =
                format!("volume `{name}` is already on line {}: the kubelet refuses this Pod", same.line);
            return Err(Refusal::new("duplicate-volume", node.line, message).into());
        }
        let host = node.get("hostPath");
        volumes.push(Volume {
            name: name.to_owned(),
            host_path: host.and_then(|h| h.text("path")).map(str::to_owned),
            path_type: host.and_then(|h| h.text("type")).filter(|t| !t.is_empty()).map(str::to_owned),
            line: node.line,
        });
    }
    Ok(volumes)
}

fn mounts(container: &Node) -> Result<Vec<VolumeMount>, Refusals> {
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for node in list_items(container, "volumeMounts")? {
        let (Some(name), Some(mount_path)) = (node.text("name"), node.text("mountPath")) else {
            let message = "a volume mount without a name or mountPath that is a string";
            return Err(Refusal::new("unexpected-type", node.line, message).into());
        };
        if let Some(same) = mounts.iter().find(|m| m.mount_path == mount_path) {
            let message = format!(
                "`{mount_path}` is already mounted on line {}: the kubelet refuses this Pod",
                same.line
            );
            return Err(Refusal::new("duplicate-mount", node.line, message).into());
        }
        mounts.push(VolumeMount {
            name: name.to_owned(),
            mount_path: mount_path.to_owned(),
            read_only: node.get("readOnly").and_then(Node::as_scalar).is_some_and(scalar::is_true),
            sub_path: node.get("subPath").is_some() || node.get("subPathExpr").is_some(),
            line: node.line,
        });
    }
    Ok(mounts)
}

fn mounted_elsewhere<'t>(spec: &'t Node, container: &Node) -> BTreeSet<&'t str> {
    ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .filter_map(|key| spec.get(key)?.items())
        .flatten()
        .filter(|other| !std::ptr::eq(*other, container))
        .filter_map(|other| other.get("volumeMounts")?.items())
        .flatten()
        .filter_map(|mount| mount.get("name")?.as_scalar())
        .collect()
}
