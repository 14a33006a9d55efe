//! Which mounts and volumes are ours, and what has to happen to them.
//!
//! A mount is known by what it does: it serves the path of an audit flag. "Serves" is what the kernel does, the mount
//! at the longest path that leads there, so a mount that something else reads through is never taken for ours.

use std::collections::BTreeSet;

use super::plan::{Plan, Value, compatible};
use super::pod::{List, Pod};
use super::read::{Volume, VolumeMount};
use super::settings::PATH_FLAGS;
use super::{Mount, Refusal, Settings};

/// A path without doubled or trailing slashes.
pub(super) fn clean(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

/// The folder of a clean path.
pub(super) fn folder(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (folder, _) => Some(folder),
    }
}

fn is_within(path: &str, folder: &str) -> bool {
    folder == "/" || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The mounts of the container, by what they do.
struct Mounts<'p> {
    pod: &'p Pod<'p>,
    /// `mount_path` of each, clean.
    paths: Vec<String>,
    /// Mounts that are ours, by index.
    owned: BTreeSet<usize>,
}

impl<'p> Mounts<'p> {
    fn of(pod: &'p Pod<'p>, ours: bool) -> Self {
        let paths = pod.mounts.iter().map(|mount| clean(&mount.mount_path)).collect();
        let mut mounts = Self { pod, paths, owned: BTreeSet::new() };
        if ours {
            let used: BTreeSet<_> =
                other_paths(pod).iter().filter_map(|(path, _)| mounts.serving(path)).collect();
            mounts.owned = audit_paths(pod)
                .iter()
                .filter_map(|path| mounts.serving(path).map(|i| (path, i)))
                .filter(|(path, i)| {
                    [Some(path.as_str()), folder(path)].contains(&Some(mounts.paths[*i].as_str()))
                })
                .map(|(_, i)| i)
                .filter(|i| !used.contains(i))
                .collect();
        }
        mounts
    }

    /// The mount through which the container reaches `path`.
    fn serving(&self, path: &str) -> Option<usize> {
        let leading = (0..self.paths.len()).filter(|&i| is_within(path, &self.paths[i]));
        leading.max_by_key(|&i| self.paths[i].len())
    }

    /// A hostPath volume that only mounts of ours use.
    fn owns_volume(&self, volume: &Volume) -> bool {
        let mut uses = (0..self.paths.len()).filter(|&i| self.pod.mounts[i].name == volume.name).peekable();
        volume.host_path.is_some()
            && !self.pod.mounted_elsewhere.contains(volume.name.as_str())
            && uses.peek().is_some()
            && uses.all(|i| self.owned.contains(&i))
    }
}

/// Effective values of the audit flags that are paths.
fn audit_paths(pod: &Pod<'_>) -> Vec<String> {
    let last = |name: &&str| pod.audit_flags().filter(|flag| flag.name == **name).last();
    let values = PATH_FLAGS.iter().filter_map(last).map(|flag| flag.value());
    values.filter(|value| value.starts_with('/')).map(clean).collect()
}

/// Every path that another argument or an environment variable of the container names, with its line.
fn other_paths(pod: &Pod<'_>) -> Vec<(String, usize)> {
    let audit: BTreeSet<usize> = pod.audit_flags().flat_map(|flag| flag.first..=flag.last).collect();
    let arguments = pod.argv.iter().enumerate().filter(|(i, _)| !audit.contains(i));
    let arguments = arguments.map(|(_, arg)| (arg.text, arg.node.line));
    let env = pod.container.get("env").and_then(|env| env.items()).unwrap_or_default();
    let env =
        env.iter().filter_map(|var| var.get("value")).filter_map(|value| Some((value.as_str()?, value.line)));
    let words = arguments.chain(env).flat_map(|(text, line)| {
        text.split(['=', ',', ':', ';', ' ', '"', '\'']).map(move |word| (word, line))
    });
    words.filter(|(word, _)| word.starts_with('/')).map(|(word, line)| (clean(word), line)).collect()
}

/// Adds what the wanted mounts need to the plan, and says which of them cannot be had.
pub(super) fn plan(pod: &Pod<'_>, wanted: &Settings, ours: bool, plan: &mut Plan) -> Vec<Refusal> {
    let mut work = Work::new(Mounts::of(pod, ours), plan);
    let missing: Vec<_> = wanted.mounts.iter().filter(|mount| !work.adopt(mount)).collect();
    for mount in missing {
        work.provide(mount);
    }
    work.refuse_covered(wanted);
    work.remove_rest();
    let refused = std::mem::take(&mut work.refused);
    work.insert_added();
    refused
}

/// Adds the removal of every mount and volume that is ours to the plan.
pub(super) fn remove(pod: &Pod<'_>, plan: &mut Plan) {
    Work::new(Mounts::of(pod, true), plan).remove_rest();
}

struct Work<'p> {
    mounts: Mounts<'p>,
    plan: &'p mut Plan,
    /// Mounts that are wanted as they are, or changed in place.
    kept: BTreeSet<usize>,
    /// Those of `kept` that go to another path.
    moved: BTreeSet<usize>,
    /// New volumes and mounts, with the volume name they are sorted by.
    new_volumes: Vec<(String, Value)>,
    new_mounts: Vec<(String, Value)>,
    refused: Vec<Refusal>,
}

impl<'p> Work<'p> {
    fn new(mounts: Mounts<'p>, plan: &'p mut Plan) -> Self {
        Self {
            mounts,
            plan,
            kept: BTreeSet::new(),
            moved: BTreeSet::new(),
            new_volumes: Vec::new(),
            new_mounts: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn refuse(&mut self, code: &'static str, line: usize, message: String) {
        self.refused.push(Refusal::new(code, line, message));
    }

    fn volume(&self, name: &str) -> Option<(usize, &Volume)> {
        self.mounts.pod.volumes.iter().enumerate().find(|(_, volume)| volume.name == name)
    }

    /// A mount that already shows the wanted path of the node at the wanted path of the container is left as it is,
    /// whatever its volume is called. Laxer is as good: writable for read-only, or no check of the type.
    fn adopt(&mut self, wanted: &Mount) -> bool {
        let pod = self.mounts.pod;
        let path = clean(&wanted.mount_path);
        let Some(i) = (0..pod.mounts.len()).find(|&i| self.mounts.paths[i] == path) else { return false };
        let mount = &pod.mounts[i];
        let Some((v, volume)) = self.volume(&mount.name) else { return false };
        if !shows(volume, wanted) || mount.sub_path {
            return false;
        }
        let typed = compatible(volume.path_type.as_deref(), wanted.path_type);
        let writable = wanted.read_only || !mount.read_only;
        let ours = self.mounts.owned.contains(&i) && (typed || self.mounts.owns_volume(volume));
        if ours || (typed && writable) {
            self.set_type(v, wanted);
            self.set_writable(i, wanted);
        } else {
            let access = |read_only| if read_only { "read-only" } else { "writable" };
            let message = format!(
                "`{}` is mounted from `{}` already, but as {} and {}; {} and {} is wanted: change it or choose \
                 another path",
                mount.mount_path,
                wanted.host_path,
                volume.path_type.as_deref().unwrap_or("no type"),
                access(mount.read_only),
                wanted.path_type.as_str(),
                access(wanted.read_only),
            );
            self.refuse("mount-differs", mount.line, message);
        }
        self.kept.insert(i);
        true
    }

    /// Changes a mount of ours to the wanted one, or adds it.
    fn provide(&mut self, wanted: &Mount) {
        let pod = self.mounts.pod;
        let path = clean(&wanted.mount_path);
        if let Some(i) = (0..pod.mounts.len()).find(|&i| self.mounts.paths[i] == path)
            && !self.mounts.owned.contains(&i)
        {
            let VolumeMount { name, line, .. } = &pod.mounts[i];
            let message = format!(
                "volume `{name}` is mounted at `{}`, where `{}` of the node is wanted: choose another path",
                wanted.mount_path, wanted.host_path
            );
            return self.refuse("mount-path-taken", *line, message);
        }
        let Some((v, volume)) = self.volume(&wanted.name) else {
            self.new_volumes.push((wanted.name.clone(), Value::volume(wanted)));
            self.new_mounts.push((wanted.name.clone(), Value::mount(wanted)));
            return;
        };
        let of_volume = |i: &usize| pod.mounts[*i].name == wanted.name && !self.kept.contains(i);
        let reusable = self.mounts.owned.iter().copied().find(of_volume);
        let changeable = self.mounts.owns_volume(volume) && reusable.is_some();
        let fits = shows(volume, wanted) && compatible(volume.path_type.as_deref(), wanted.path_type);
        if !changeable && !fits {
            let is = volume.host_path.as_ref().map_or("no hostPath".to_owned(), |path| format!("`{path}`"));
            let message = format!(
                "volume name `{}` is taken by {is}, and `{}` is wanted under it: choose another name, or remove \
                 that volume",
                wanted.name, wanted.host_path
            );
            let line = volume.line;
            return self.refuse("volume-name-taken", line, message);
        }
        if !shows(volume, wanted) {
            let host_path = Value::Text(wanted.host_path.clone());
            self.plan.list(List::Volumes).set.push((v, &["hostPath", "path"], host_path));
        }
        self.set_type(v, wanted);
        match reusable.filter(|&i| !pod.mounts[i].sub_path) {
            Some(i) => {
                if self.mounts.paths[i] != path {
                    self.moved.insert(i);
                    let mount_path = Value::Text(wanted.mount_path.clone());
                    self.plan.list(List::VolumeMounts).set.push((i, &["mountPath"], mount_path));
                }
                self.set_writable(i, wanted);
                self.kept.insert(i);
            }
            None => self.new_mounts.push((wanted.name.clone(), Value::mount(wanted))),
        }
    }

    fn set_type(&mut self, v: usize, wanted: &Mount) {
        let volume = &self.mounts.pod.volumes[v];
        if !compatible(volume.path_type.as_deref(), wanted.path_type) {
            let kind = Value::Text(wanted.path_type.as_str().to_owned());
            self.plan.list(List::Volumes).set.push((v, &["hostPath", "type"], kind));
        }
    }

    fn set_writable(&mut self, i: usize, wanted: &Mount) {
        if self.mounts.pod.mounts[i].read_only && !wanted.read_only {
            self.plan.list(List::VolumeMounts).set.push((i, &["readOnly"], Value::Bool(false)));
        }
    }

    /// A new mount must not hide what another argument reads, nor be hidden itself from the flag it is for.
    fn refuse_covered(&mut self, wanted: &Settings) {
        let pod = self.mounts.pod;
        let stays =
            |i: &usize| !self.moved.contains(i) && (self.kept.contains(i) || !self.mounts.owned.contains(i));
        let stays: Vec<(&str, &VolumeMount)> = (0..pod.mounts.len())
            .filter(stays)
            .map(|i| (self.mounts.paths[i].as_str(), &pod.mounts[i]))
            .collect();
        let files = wanted.flags.iter().filter(|flag| PATH_FLAGS.contains(&flag.name.as_str()));
        let files: Vec<String> = files.map(|flag| clean(&flag.value)).collect();
        let others = other_paths(pod);
        let mut refused = Vec::new();
        for new in &wanted.mounts {
            let path = clean(&new.mount_path);
            if stays.iter().any(|(other, _)| *other == path) {
                continue;
            }
            let hidden = others.iter().find(|(other, _)| {
                let serving = self.mounts.serving(other).map_or(0, |i| self.mounts.paths[i].len());
                is_within(other, &path) && serving < path.len()
            });
            if let Some((other, line)) = hidden {
                let message = format!(
                    "mounting `{path}` would hide `{other}`, which is used here: choose another path"
                );
                refused.push(Refusal::new("mount-path-taken", *line, message));
            }
            let hides = |(inner, _): &&(&str, &VolumeMount)| {
                let serves = |file: &String| is_within(file, inner);
                is_within(inner, &path) && files.iter().any(serves) && !is_wanted(wanted, inner)
            };
            if let Some((inner, mount)) = stays.iter().find(hides) {
                let message = format!(
                    "volume `{}` is mounted at `{inner}`, inside `{path}`, which is wanted: choose another path",
                    mount.name
                );
                refused.push(Refusal::new("mount-path-taken", mount.line, message));
            }
        }
        self.refused.extend(refused);
    }

    fn remove_rest(&mut self) {
        let pod = self.mounts.pod;
        let rest: BTreeSet<_> = self.mounts.owned.difference(&self.kept).copied().collect();
        for (v, volume) in pod.volumes.iter().enumerate() {
            let mut uses = (0..pod.mounts.len()).filter(|&i| pod.mounts[i].name == volume.name);
            let mounted_anew = self.new_mounts.iter().any(|(name, _)| *name == volume.name);
            if !mounted_anew && self.mounts.owns_volume(volume) && uses.all(|i| rest.contains(&i)) {
                self.plan.list(List::Volumes).remove.insert(v);
            }
        }
        if !rest.is_empty() {
            self.plan.list(List::VolumeMounts).remove.extend(rest);
        }
    }

    fn insert_added(self) {
        let pod = self.mounts.pod;
        let volumes: Vec<_> = pod.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let mounts: Vec<_> = pod.mounts.iter().map(|mount| mount.name.as_str()).collect();
        insert_sorted(List::Volumes, &volumes, self.new_volumes, self.plan);
        insert_sorted(List::VolumeMounts, &mounts, self.new_mounts, self.plan);
    }
}

fn is_wanted(wanted: &Settings, path: &str) -> bool {
    wanted.mounts.iter().any(|mount| clean(&mount.mount_path) == path)
}

fn shows(volume: &Volume, wanted: &Mount) -> bool {
    volume.host_path.as_ref().is_some_and(|path| clean(path) == clean(&wanted.host_path))
}

/// To its place in a list that is sorted, and to the end of one that is not.
fn insert_sorted(list: List, names: &[&str], mut added: Vec<(String, Value)>, plan: &mut Plan) {
    if added.is_empty() {
        return;
    }
    let sorted = names.is_sorted();
    if sorted {
        added.sort_by(|a, b| a.0.cmp(&b.0));
    }
    for (name, item) in added {
        let index = if sorted { names.partition_point(|other| *other <= name.as_str()) } else { names.len() };
        plan.list(list).insert.push((index, item));
    }
}
