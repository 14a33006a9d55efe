//! The stand-in: a second kube-apiserver beside the live one, as a static Pod of another name. Its manifest, and when it is used.
//!
//! One thing, three uses: *rehearsal* (the candidate is tried before anything live is touched), *relief* (it serves this
//! node's port while the live one restarts), *rescue* (with the last known good manifest, when that is not started).
//! It listens on a loopback port and registers nowhere, so to Kubernetes it is one more API server of a control plane
//! with several, for a minute.

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use crate::audit::ServerVersion;
use crate::manifest;

use super::order::{Order, label};

/// Name of the files in the manifests folder, and of the Pods, before the order's own part.
pub const PREFIX: &str = "audit-operator-stand-in-";

/// Ports that are tried for it, in this order. 6443 and 16443 are what people know; nothing of Kubernetes uses these.
pub const PORTS: std::ops::Range<u16> = 16443..16543;

/// Seconds a server without etcd must live to count as accepted: what is refused ends within one (testbed: 0.1 to 1.0 s).
pub const START_ONLY_SECONDS: u64 = 5;

/// A loopback address on which no etcd listens (tcpmux, which is long dead).
const NO_ETCD: &str = "https://127.0.0.1:1";

/// Servers from this version on surely know `--shutdown-watch-termination-grace-period`, with which one ends in a second. An
/// older one, or one whose version is not known, ends when the kubelet kills it.
const ENDS_WATCHES: ServerVersion = ServerVersion::release(1, 30);

/// Seconds until the kubelet kills it, beyond its shutdown delay.
const GRACE_SECONDS: u32 = 10;

/// How long it goes on serving beyond the old server's own end: the kubelet starts the new one 2 to 12 s later.
const OUTLIVES_SECONDS: u32 = 20;

/// How long it waits for a server that may take long to end. The end of an install waits for the stand-in's.
const LONGEST_GRACE_SECONDS: u32 = 60;

/// The kubelet's default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: u32 = 30;

/// How long a stand-in goes on serving after it was told to end together with the old server, whose Pod has this
/// `terminationGracePeriodSeconds`: an API server with watches open ends only when it is killed.
pub fn shutdown_delay_seconds(termination_grace_seconds: Option<u32>) -> u32 {
    termination_grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS).min(LONGEST_GRACE_SECONDS) + OUTLIVES_SECONDS
}

/// A stand-in in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StandIn {
    /// What it runs.
    pub role: Role,
    /// Its port on 127.0.0.1. Every stand-in of an install has another one, and its name holds it: a static Pod never has to
    /// wait for one of the same name to end.
    pub port: u16,
}

/// What a stand-in runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The order's target.
    Candidate,
    /// The order's target without etcd: it never gets ready, but what it refuses it refuses at once.
    StartOnly,
    /// The manifest from before.
    LastKnownGood,
}

/// What was seen of the stand-in in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether its manifest is in the manifests folder, whole.
    pub in_place: bool,
    /// Times its container was started.
    pub starts: usize,
    /// Whether it answers on its port, and what.
    pub health: super::Health,
    /// Whether anything listens on its port.
    pub listening: bool,
    /// The last words of the newest one that ended and said any, empty when none did.
    pub last_words: String,
}

/// What the names of the Pods of an order's stand-ins begin with.
pub fn pods_prefix(order_id: &str) -> String {
    format!("{PREFIX}{}-", label(order_id))
}

impl StandIn {
    /// Whether it can answer in the API server's place: one without etcd cannot.
    pub fn serves(&self) -> bool {
        self.role != Role::StartOnly
    }

    /// Name of its Pod, for the order of this identity.
    pub fn pod_name(&self, order_id: &str) -> String {
        format!("{}{}", pods_prefix(order_id), self.port)
    }

    /// Name of its file in the manifests folder.
    pub fn file_name(&self, order_id: &str) -> String {
        format!("{}.yaml", self.pod_name(order_id))
    }

    /// Name of its own audit log, in the folder of the real one. A dot in front: it is nobody's to ship before the true
    /// source addresses are back in it.
    pub fn log_name(&self, order_id: &str) -> String {
        format!(".{}.log", self.pod_name(order_id))
    }

    /// Its manifest for this order, made from a kube-apiserver manifest. Comments and order do not matter here: no person keeps this file.
    ///
    /// # Errors
    /// What is not a manifest of kube-apiserver, in words.
    pub fn manifest(&self, text: &str, order: &Order) -> Result<String, String> {
        let read = manifest::read(text).map_err(|refusals| refusals.to_string())?;
        let mut pod: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let delay = self.shutdown_delay_seconds(order);
        let flags = self.flags(&read, &order.id, delay);
        self.rename(&mut pod, &read, &order.id);
        let spec = pod.get_mut("spec").and_then(Value::as_mapping_mut).ok_or("the Pod has no `spec`")?;
        spec.insert("terminationGracePeriodSeconds".into(), (delay + GRACE_SECONDS).into());
        let containers = spec.get_mut("containers").and_then(Value::as_sequence_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_mapping_mut) {
            // `ports` would be refused beside the live Pod's, probes would ask the live server, and requests could push other
            // Pods off the node.
            for key in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources"]
            {
                container.remove(key);
            }
            if container.get("name").and_then(Value::as_str) == Some(&read.container) {
                set_flags(container, &flags);
            }
        }
        serde_yaml::to_string(&pod).map_err(|error| error.to_string())
    }

    /// Only the one that was rehearsed is told to end while it is needed; others end when they are not.
    fn shutdown_delay_seconds(&self, order: &Order) -> u32 {
        order.shutdown_delay_seconds.filter(|_| self.role == Role::Candidate).unwrap_or(0)
    }

    /// A name and labels that no controller and nobody takes for the real one's.
    fn rename(&self, pod: &mut Value, read: &manifest::Manifest, order_id: &str) {
        let text = |text: &str| Value::from(text);
        let labels = Mapping::from_iter([
            (text("app.kubernetes.io/name"), text("audit-operator")),
            (text("app.kubernetes.io/component"), text("stand-in")),
        ]);
        let metadata = Mapping::from_iter([
            (text("name"), text(&self.pod_name(order_id))),
            (text("namespace"), text(&read.namespace)),
            (text("labels"), labels.into()),
        ]);
        pod["metadata"] = metadata.into();
    }

    /// The flags that differ; everything else is as in the manifest, also what other people set there.
    fn flags(
        &self,
        read: &manifest::Manifest,
        order_id: &str,
        shutdown_delay: u32,
    ) -> Vec<(&'static str, String)> {
        let mut flags = vec![
            ("secure-port", self.port.to_string()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("shutdown-delay-duration", format!("{shutdown_delay}s")),
        ];
        if read.server_version_tag().and_then(|tag| tag.parse::<ServerVersion>().ok()) >= Some(ENDS_WATCHES) {
            flags.push(("shutdown-watch-termination-grace-period", "2s".to_owned()));
        }
        if let Some(path) = read.flag("audit-log-path").filter(|path| *path != "-")
            && let Some((folder, _)) = path.rsplit_once('/')
        {
            flags.push(("audit-log-path", format!("{folder}/{}", self.log_name(order_id))));
            flags.push(("audit-log-compress", "false".to_owned()));
        }
        if self.role == Role::StartOnly {
            flags.push(("etcd-servers", NO_ETCD.to_owned()));
        }
        flags
    }
}

/// If a file beside the real log is a stand-in's own, or one of those that it was rotated or renamed to: the name that it had
/// first, and the label of its order.
pub fn raw_log(name: &str) -> Option<(String, &str)> {
    let after = name.trim_start_matches('.').strip_prefix(PREFIX)?;
    // `<time>-<fraction>-<digits>-<port>`, then `.log`, or a rotation's time before it.
    let parts: Vec<&str> = after.splitn(5, ['-', '.']).collect();
    let [time, fraction, digits, port, _] = parts[..] else { return None };
    port.parse::<u16>().ok()?;
    let label = &after[..time.len() + fraction.len() + digits.len() + 2];
    Some((format!(".{PREFIX}{label}-{port}.log"), label))
}

/// Replaces flags on a container's command line: every use of them goes, and they are added at the end.
fn set_flags(container: &mut Mapping, flags: &[(&str, String)]) {
    for list in ["command", "args"] {
        let Some(list) = container.get_mut(list).and_then(Value::as_sequence_mut) else { continue };
        let mut value_follows = false;
        list.retain(|element| {
            let text = element.as_str().unwrap_or_default();
            if std::mem::take(&mut value_follows) && !text.starts_with('-') {
                return false;
            }
            let name = text.trim_start_matches('-').split('=').next().unwrap_or_default().replace('_', "-");
            let ours = text.starts_with('-') && flags.iter().any(|(flag, _)| *flag == name);
            value_follows = ours && !text.contains('=');
            !ours
        });
    }
    let list = if container.contains_key("args") { "args" } else { "command" };
    if let Some(list) = container.get_mut(list).and_then(Value::as_sequence_mut) {
        list.extend(flags.iter().map(|(name, value)| Value::from(format!("--{name}={value}"))));
    }
}

/// Whether a server without etcd ended for want of etcd, and so had accepted everything else.
pub(super) fn only_missed_etcd(last_words: &str) -> bool {
    // "etcd grpc connection not ready" since 1.36; the storage layer's own words before.
    last_words.contains("etcd") || last_words.contains("context deadline exceeded")
}

/// Whether it ended because its port was taken meanwhile.
pub(super) fn lost_its_port(last_words: &str) -> bool {
    last_words.contains("address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::next::tests::order;

    const KUBEADM: &str = include_str!("../../tests/data/manifests/kubeadm-1.37.2-audit.yaml");
    const ID: &str = "20260102T030405.678901Z-01234567";

    fn made(role: Role, text: &str) -> Value {
        made_for(&order(), role, text)
    }

    fn made_for(order: &Order, role: Role, text: &str) -> Value {
        let text = StandIn { role, port: 16443 }.manifest(text, order).expect("a manifest");
        serde_yaml::from_str(&text).expect("YAML")
    }

    fn command(pod: &Value) -> Vec<&str> {
        let command = pod["spec"]["containers"][0]["command"].as_sequence().expect("a command");
        command.iter().map(|word| word.as_str().expect("a word")).collect()
    }

    #[test]
    fn it_listens_on_its_own_port_and_registers_nowhere() {
        let pod = made(Role::Candidate, KUBEADM);
        let command = command(&pod);
        for flag in [
            "--secure-port=16443",
            "--bind-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--audit-log-path=/var/log/kube-apiserver-audit/.audit-operator-stand-in-20260102t030405-678901z-01234567-16443.log",
            "--advertise-address=198.51.100.12",
            "--audit-policy-file=/etc/kubernetes/audit-policy.yaml",
        ] {
            assert!(command.contains(&flag), "{flag} not in {command:#?}");
        }
        let times = |name: &str| command.iter().filter(|word| word.starts_with(name)).count();
        assert_eq!(
            [times("--secure-port="), times("--audit-log-path="), times("--etcd-servers=")],
            [1, 1, 1]
        );
        assert!(!command.contains(&"--etcd-servers=https://127.0.0.1:1"));
    }

    #[test]
    fn among_several_it_outlives_the_old_server_once_it_was_told_to_end() {
        assert_eq!([None, Some(5), Some(3600)].map(shutdown_delay_seconds), [50, 25, 80]);
        let several = Order { shutdown_delay_seconds: Some(50), ..order() };
        for (order, role, delay) in [
            (&order(), Role::Candidate, 0),
            (&several, Role::Candidate, 50),
            (&several, Role::StartOnly, 0),
            (&several, Role::LastKnownGood, 0),
        ] {
            let pod = made_for(order, role, KUBEADM);
            let flag = format!("--shutdown-delay-duration={delay}s");
            assert!(command(&pod).contains(&flag.as_str()), "{role:?} has no {flag}");
            assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], delay + 10, "{role:?}");
        }
    }

    #[test]
    fn without_etcd_it_has_only_the_address_where_none_listens() {
        let pod = made(Role::StartOnly, KUBEADM);
        let etcd: Vec<_> = command(&pod).into_iter().filter(|w| w.starts_with("--etcd-servers")).collect();
        assert_eq!(etcd, ["--etcd-servers=https://127.0.0.1:1"]);
    }

    #[test]
    fn its_log_is_found_again_whatever_it_was_renamed_to() {
        let log = StandIn { role: Role::Candidate, port: 16443 }.log_name(ID);
        let rotated = log.replace(".log", "-2026-01-02T03-04-05.678.log");
        for name in
            [log.clone(), format!(".{log}.merging"), rotated.clone(), format!(".{rotated}.gz.merging")]
        {
            assert_eq!(raw_log(&name), Some((log.clone(), label(ID).as_str())), "{name}");
        }
        for other in ["audit.log", ".audit-operator-stand-in-x.log", ".audit.log.stand-in"] {
            assert_eq!(raw_log(other), None, "{other}");
        }
    }

    #[test]
    fn nobody_takes_it_for_the_real_one() {
        let pod = made(Role::Candidate, KUBEADM);
        assert_eq!(pod["metadata"]["name"], "audit-operator-stand-in-20260102t030405-678901z-01234567-16443");
        assert_eq!(pod["metadata"]["labels"].get("component"), None);
        assert_eq!(pod["metadata"].get("annotations"), None);
        let container = &pod["spec"]["containers"][0];
        for key in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "resources"] {
            assert_eq!(container.get(key), None, "{key}");
        }
        assert_eq!(pod["spec"]["hostNetwork"], true);
        assert_eq!(
            pod["spec"]["volumes"].as_sequence().map(Vec::len),
            Some(7),
            "its files are the real one's"
        );
    }

    #[test]
    fn flags_of_other_people_stay_also_with_their_value_as_a_word_of_its_own() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec:\n  \
                    containers:\n  - name: kube-apiserver\n    command: [kube-apiserver]\n    args:\n    - \
                    --secure_port\n    - '443'\n    - --v\n    - '4'\n    - '--bind-address=::'\n";
        let pod = made(Role::Candidate, text);
        let args = pod["spec"]["containers"][0]["args"].as_sequence().expect("args");
        let args: Vec<_> = args.iter().filter_map(Value::as_str).collect();
        assert_eq!(args[..2], ["--v", "4"]);
        assert!(args.contains(&"--secure-port=16443") && !args.contains(&"443"), "{args:?}");
        assert!(!args.contains(&"--bind-address=::"), "{args:?}");
    }
}
