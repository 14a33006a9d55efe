//! The operator on a cluster, from the outside: installed, told what is wanted, and looked at through its object and
//! its journal.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::fault::is_program;
use crate::image;
use crate::node::Node;
use crate::process;
use crate::run::{output_of, output_within};
use crate::wait;

/// The operator's folder on a node.
pub(super) const STATE: &str = "/var/lib/audit-operator";
/// The manifests folder.
pub(super) const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// The folder of the audit log.
pub(super) const LOGS: &str = "/var/log/kubernetes/audit";
/// kubeadm's manifest of the API server.
pub(super) const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
/// The installer's manifest.
pub(super) const INSTALLER: &str = "/etc/kubernetes/manifests/audit-operator-installer.yaml";
/// The namespace of the operator.
pub(super) const NAMESPACE: &str = "audit-operator";
/// What kubeadm puts into the manifests folder.
const KUBEADM: [&str; 4] =
    ["etcd.yaml", "kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml"];
/// Characters of a reason that fit into a cell of a table.
const FOUND: usize = 120;
/// A change of the manifest takes most of a minute; helm and what waits for the scheduler can take several.
pub(super) const CHANGE: Duration = Duration::from_secs(600);

/// What is wanted of the cluster, as far as the tests change it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// `spec.log.maxAge`: another one is another manifest, and changes nothing else.
    pub(super) max_age: u32,
    /// Soak before the next node, in seconds.
    pub(super) soak: u32,
    /// Whether a second API server rehearses and serves: `Auto` or `Never`.
    pub(super) stand_in: &'static str,
    /// What becomes of audit settings that somebody else made: `Refuse` or `TakeOver`.
    pub(super) existing: &'static str,
}

impl Wish {
    /// A change that is made at once, on one node after the other.
    pub(super) fn now(max_age: u32) -> Self {
        Self { max_age, soak: 0, stand_in: "Auto", existing: "Refuse" }
    }

    fn object(self) -> String {
        let Self { max_age, soak, stand_in, existing } = self;
        format!(
            "apiVersion: audit-operator.dev/v1alpha1\nkind: AuditConfiguration\nmetadata: {{name: default}}\nspec:\n  \
             existingFlags: {existing}\n  policy: {{inline: {{rules: [{{level: Metadata}}]}}}}\n  \
             log: {{maxAge: {max_age}, maxBackups: 2, maxSize: 2}}\n  \
             rollout: {{paused: false, minReadySeconds: {soak}, standIn: {stand_in}}}\n"
        )
    }
}

/// A journal, as far as the tests look at it.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    /// The order's identity.
    pub(super) order: String,
    /// `settled`, `rolledBack`, …
    pub(super) state: String,
    /// Why, when it did not settle.
    pub(super) reason: String,
    /// Who refused it.
    by: String,
    /// How it was rehearsed: `Full` with a stand-in that can serve.
    pub(super) rehearsed: String,
    /// The states it was in, with their times.
    pub(super) history: Vec<(Timestamp, String)>,
}

impl Journal {
    /// The journal on a node's disk; `None` before the first install.
    pub(super) fn of(node: &Node) -> Result<Option<Self>> {
        let path = node.path(&format!("{STATE}/journal.json"));
        if !path.exists() {
            return Ok(None);
        }
        let json: Value = serde_json::from_slice(&fs::read(path)?)?;
        let text =
            |pointer: &str| json.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let history = serde_json::from_value(json["history"].clone()).context("the journal's history")?;
        Ok(Some(Self {
            order: text("/order"),
            state: text("/state/name"),
            reason: text("/state/reason"),
            by: text("/state/by"),
            rehearsed: text("/rehearsed"),
            history,
        }))
    }

    /// Whether it is in a state, by its name there, or was.
    pub(super) fn was(&self, state: &str) -> bool {
        let is_it = |line: &str| line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case(state));
        self.history.iter().any(|(_, line)| is_it(line))
    }

    /// Who found what was wrong with it, and the beginning of what they said; empty when nothing was. For a cell of a table.
    pub(super) fn found(&self) -> String {
        let who = match (self.state.as_str(), self.by.as_str()) {
            ("settled", _) => return String::new(),
            (_, "") => String::new(),
            (_, by) => format!("{}: ", by.to_lowercase()),
        };
        let words: String = self.reason.chars().take(FOUND).map(|c| if c == '|' { '/' } else { c }).collect();
        let more = if self.reason.chars().count() > FOUND { "…" } else { "" };
        format!("{who}{}{more}", words.replace('\n', " "))
    }

    /// When the new manifest was in its place.
    pub(super) fn swapped(&self) -> Result<Timestamp> {
        let verifying = self.history.iter().find(|(_, state)| state == "Verifying");
        verifying.map(|(at, _)| *at).context("the journal knows no swap")
    }

    /// Whether nothing more will be done.
    pub(super) fn is_final(&self) -> bool {
        ["settled", "refused", "rolledBack", "failed"].contains(&self.state.as_str())
    }

    /// From the order to its end.
    pub(super) fn seconds(&self) -> f64 {
        match &self.history[..] {
            [(first, _), .., (last, _)] => last.duration_since(*first).as_secs_f64(),
            _ => 0.0,
        }
    }
}

/// helm in the repository's top folder.
pub(super) fn helm(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let mut command = cluster.command(&cluster.program("helm")?)?;
    command.args(words).args(["--timeout", &format!("{}s", CHANGE.as_secs())]);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    output_within(&mut command, CHANGE * 2)
}

/// Installs the chart and waits until the controller and every agent run.
pub(super) fn install(cluster: &Cluster) -> Result<()> {
    install_with(cluster, "metrics.enabled=false")
}

/// The same with a value of the chart.
pub(super) fn install_with(cluster: &Cluster, value: &str) -> Result<()> {
    let reference = image::operator_reference();
    let (repository, _) = reference.rsplit_once(':').context("an image has a tag")?;
    let values = format!("image.repository={repository},image.pullPolicy=Never,{value}");
    let chart = ["install", "audit-operator", "charts/audit-operator", "-n", NAMESPACE, "--create-namespace"];
    helm(cluster, &[&chart[..], &["--set", &values]].concat())?;
    runs(cluster)
}

/// Waits until the controller and every agent run, in their newest form.
pub(super) fn runs(cluster: &Cluster) -> Result<()> {
    for workload in ["deployment/audit-operator-controller", "daemonset/audit-operator-agent"] {
        let arguments = ["rollout", "status", workload, "-n", NAMESPACE, "--timeout=5s"];
        wait::until(workload, CHANGE, || cluster.kubectl(&arguments).map(Some))?;
    }
    Ok(())
}

/// `kubectl apply` of what is wanted; again when the API server is just away.
pub(super) fn wish(cluster: &Cluster, wish: Wish) -> Result<()> {
    apply(cluster, &wish.object())
}

/// The same of any object.
pub(super) fn apply(cluster: &Cluster, object: &str) -> Result<()> {
    wait::until("kubectl apply", CHANGE, || {
        let mut command = cluster.kubectl_command()?;
        output_of(command.args(["apply", "--request-timeout=5s", "-f", "-"]), object.as_bytes()).map(Some)
    })
    .map(drop)
}

/// What the first node's AuditNode says.
pub(super) fn audit_node(cluster: &Cluster) -> Result<Value> {
    let words = ["--request-timeout=5s", "get", "auditnode", "n1", "--output=json"];
    Ok(serde_json::from_str(&cluster.kubectl(&words)?)?)
}

/// Says that nothing is to be done from now on.
pub(super) fn pause(cluster: &Cluster) -> Result<()> {
    let patch =
        ["patch", "auditcfg", "default", "--type=merge", "-p", r#"{"spec":{"rollout":{"paused":true}}}"#];
    wait::until("kubectl patch", CHANGE, || cluster.kubectl(&patch).map(Some)).map(drop)
}

/// Waits until the AuditConfiguration is Ready as its newest spec wants it.
pub(super) fn ready(cluster: &Cluster) -> Result<()> {
    let get = ["--request-timeout=5s", "get", "auditcfg", "default", "--output=json"];
    wait::until("auditcfg/default to be Ready", CHANGE, || {
        let object: Value = serde_json::from_str(&cluster.kubectl(&get)?)?;
        let conditions =
            object.pointer("/status/conditions").and_then(Value::as_array).context("no conditions")?;
        let ready = conditions.iter().find(|c| c["type"] == "Ready").context("no condition Ready")?;
        let current = ready["observedGeneration"] == object["metadata"]["generation"];
        ensure!(current && ready["status"] == "True", "it says {ready}");
        Ok(Some(()))
    })
}

/// A node that can be down while the operator goes on: kubectl asks the first, and a controller that is down says nothing.
pub(super) fn node_to_lose(cluster: &Cluster) -> Result<&Node> {
    let controller = ["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller"];
    let controller = [&controller[..], &["--output=jsonpath={.items[*].spec.nodeName}"]].concat();
    let controller = cluster.kubectl(&controller)?;
    cluster.nodes[1..].iter().find(|node| node.name != controller).context("there is no other node")
}

/// The processes of kube-apiserver on a node: the live one and a stand-in.
pub(super) fn servers(node: &Node) -> Result<Vec<process::Id>> {
    node.processes(|arguments| is_program(arguments, "kube-apiserver"))
}

/// How often the containers of static Pods have been started, from their log folders `NAMESPACE_POD_UID/NAME/N.log`:
/// the kubelet counts N on from 0, and keeps the newest.
#[derive(Clone, Debug, Default)]
pub(super) struct Starts(BTreeMap<(String, String), u32>);

impl Starts {
    /// Looks, and keeps what was there before: the folder of a Pod that ended goes away.
    pub(super) fn look(&mut self, node: &Node) -> Result<()> {
        for pod in fs::read_dir(node.path("/var/log/pods"))?.flatten() {
            let name = pod.file_name().to_string_lossy().into_owned();
            let Some((pod_name, uid)) = name.strip_prefix("kube-system_").and_then(|n| n.rsplit_once('_'))
            else {
                continue;
            };
            for container in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
                let starts = starts(&container.path());
                let known = self.0.entry((pod_name.to_owned(), uid.to_owned())).or_default();
                *known = starts.max(*known);
            }
        }
        Ok(())
    }

    /// How many starts of a program there were since `before`.
    pub(super) fn since(&self, before: &Self, program: &str, node: &Node) -> u32 {
        let pod = format!("{program}-{}", node.name);
        let of_pod = self.0.iter().filter(|((name, _), _)| *name == pod);
        of_pod.map(|(key, &starts)| starts - before.0.get(key).copied().unwrap_or_default()).sum()
    }
}

fn starts(folder: &Path) -> u32 {
    let logs = fs::read_dir(folder).into_iter().flatten().flatten();
    let numbers = logs.filter_map(|log| log.file_name().to_str()?.split('.').next()?.parse::<u32>().ok());
    numbers.max().map_or(0, |newest| newest + 1)
}

/// Renames a manifest into its place, as a careful person does it by hand.
pub(super) fn swap_by_hand(node: &Node, manifest: &str) -> Result<()> {
    let (hidden, place) = (node.path("/etc/kubernetes/.by-hand.yaml"), node.path(MANIFEST));
    fs::write(&hidden, manifest)?;
    fs::set_permissions(&hidden, fs::metadata(&place)?.permissions())?;
    fs::rename(&hidden, &place).context("renaming the manifest into its place")
}

/// The same manifest with another `--audit-log-maxage`.
pub(super) fn with_max_age(manifest: &str, days: u32) -> Result<String> {
    let flag = "    - --audit-log-maxage=";
    ensure!(manifest.matches(flag).count() == 1, "not one {flag} in the manifest");
    let lines = manifest
        .lines()
        .map(|l| if l.starts_with(flag) { format!("{flag}{days}\n") } else { format!("{l}\n") });
    Ok(lines.collect())
}

/// Waits until a new API server has taken the place of those before and is ready, as a person would by `curl` or
/// `kubectl get --raw /readyz`.
pub(super) fn restarted(
    cluster: &Cluster,
    node: &Node,
    before: &[process::Id],
    starts: &mut Starts,
) -> Result<()> {
    wait::until(&format!("a new API server on {}", node.name), CHANGE, || {
        starts.look(node)?;
        let now = servers(node)?;
        ensure!(!now.is_empty() && now.iter().all(|id| !before.contains(id)), "it is not there yet");
        ensure!(cluster.api_is_ready(node)?, "it is not ready yet");
        Ok(Some(()))
    })
}

/// What must hold after everything: nothing is left in the manifests folder and beside the log, the manifest is one of
/// these, one API server runs, ready, with exactly that, and no installer does.
pub(super) fn whole(cluster: &Cluster, node: &Node, manifests: &[&str]) -> Result<()> {
    wait::until(&format!("{} to be whole", node.name), CHANGE, || {
        let entries = fs::read_dir(node.path(MANIFESTS))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<Result<_>>()?;
        names.sort();
        ensure!(names == KUBEADM, "in the manifests folder are {names:?}");
        let logs = fs::read_dir(node.path(LOGS)).into_iter().flatten().flatten();
        let hidden: Vec<_> =
            logs.map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with('.')).collect();
        ensure!(hidden.is_empty(), "beside the log are {hidden:?}");
        let installer =
            |a: &[String]| is_program(a, "audit-operator") && a.get(1).is_some_and(|a| a == "installer");
        ensure!(node.processes(installer)?.is_empty(), "an installer runs");
        let manifest = fs::read_to_string(node.path(MANIFEST))?;
        ensure!(manifests.contains(&manifest.as_str()), "the manifest is neither the old nor the new one");
        let servers = servers(node)?;
        let [server] = servers[..] else { bail!("there are {} API servers", servers.len()) };
        let runs = process::arguments(server).context("it has just ended")?;
        ensure!(runs[1..] == flags(&manifest), "it runs with {runs:?}, not with what the manifest says");
        ensure!(cluster.api_is_ready(node)?, "the API server is not ready");
        Ok(Some(()))
    })
}

/// The flags of a manifest as kubeadm writes it: the lines of the list that begins with the program.
fn flags(manifest: &str) -> Vec<String> {
    let list = manifest.lines().skip_while(|line| *line != "    - kube-apiserver").skip(1);
    let flags = list.map_while(|line| line.strip_prefix("    - "));
    flags.map(|flag| flag.trim_matches('"').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_those_of_the_program_alone() {
        let manifest =
            "  - command:\n    - kube-apiserver\n    - --a=1\n    - \"--b=2\"\n    image: x\n    - --c=3\n";
        assert_eq!(flags(manifest), ["--a=1", "--b=2"]);
    }

    #[test]
    fn only_the_age_is_another() {
        let manifest = "a\n    - --audit-log-maxage=1\nb\n";
        assert_eq!(with_max_age(manifest, 30).unwrap(), "a\n    - --audit-log-maxage=30\nb\n");
        assert!(with_max_age("a\n", 30).is_err(), "auditing is off");
    }
}
