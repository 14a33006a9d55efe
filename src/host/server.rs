//! The node's API server, from local facts: its containers' log files, and what its own probes answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::install::{Health, Server};
use crate::manifest::{self, Manifest, Probe};

use super::{Disk, Host, Machine, file, unverified};

/// The kubelet's folder of container logs: `<namespace>_<pod>_<uid>/<container>/<n>.log`.
pub(super) const POD_LOGS: &str = "/var/log/pods";
/// A server that starts can take a connection and let it hang; kubeadm's own probes wait 15 s, ours come again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a log that its last words are looked for in.
const TAIL: u64 = 16 << 10;

pub(super) async fn observe(host: &Host, node: &str, bytes: &[u8], port_is_ours: bool) -> Server {
    let manifest = match manifest::decode(bytes).and_then(manifest::read) {
        Ok(manifest) => manifest,
        Err(refusals) => {
            let health = Health::NotReady(format!("its manifest is not understood: {refusals}"));
            return Server { containers: BTreeSet::new(), running: None, health, last_words: String::new() };
        }
    };
    let Containers { starts, running, last_words } = containers(&PodLogs::new(host, node, &manifest));
    let health = if port_is_ours {
        Health::NotReady("the stand-in answers in its place".to_owned())
    } else {
        health(host.machine(), &probes(&manifest), manifest.flag("advertise-address")).await
    };
    Server { containers: starts, running, health, last_words }
}

impl Host {
    /// The logs of the API server's Pods, and the address it listens on, as its manifest on the disk says; `None` while that
    /// cannot be read, or where there is no server.
    pub fn server(&self) -> Option<(PodLogs, SocketAddr)> {
        let bytes = file::read(self.disk(), &self.at(&self.manifest)).ok()??;
        let manifest = manifest::decode(&bytes).and_then(manifest::read).ok()?;
        // kube-apiserver listens on both families when its address is unspecified.
        let address = manifest.flag("bind-address").and_then(|a| a.parse::<IpAddr>().ok());
        let address = address.filter(|a| !a.is_unspecified()).unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let logs = PodLogs::new(self, self.node_name.as_deref()?, &manifest);
        Some((logs, (address, manifest.secure_port()).into()))
    }
}

/// Where the kubelet keeps the logs of one container of a static Pod, over all its UIDs.
#[derive(Clone, Debug)]
pub struct PodLogs {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Of the folders of its Pods, up to the UID.
    prefix: String,
    container: String,
}

/// The starts of a Pod's main container.
#[derive(Debug, Default)]
pub(super) struct Containers {
    /// See [`Server::containers`].
    pub(super) starts: BTreeSet<String>,
    /// UID of the Pod that wrote last.
    pub(super) running: Option<String>,
    /// The last words of the newest container but the last that said any: those before the last have ended, or it would not have
    /// been started.
    pub(super) last_words: String,
}

impl PodLogs {
    pub(super) fn new(host: &Host, node: &str, manifest: &Manifest) -> Self {
        Self {
            disk: host.disk.clone(),
            folder: host.at(POD_LOGS),
            prefix: format!("{}_{}-{}_", manifest.namespace, manifest.name, node.to_lowercase()),
            container: manifest.container.clone(),
        }
    }

    /// The starts of the container, see [`Server::containers`].
    pub fn starts(&self) -> BTreeSet<String> {
        containers(self).starts
    }
}

/// What cannot be listed is not there: a Pod's folder goes away at any moment.
pub(super) fn containers(logs: &PodLogs) -> Containers {
    let PodLogs { disk, folder, prefix, container } = logs;
    let disk = disk.as_ref();
    let mut starts = BTreeSet::new();
    let mut newest: Option<(SystemTime, String)> = None;
    let mut made = Vec::new();
    for name in file::list(disk, folder).unwrap_or_default() {
        let Some(uid) = name.strip_prefix(prefix.as_str()) else { continue };
        let container = folder.join(&name).join(container);
        for log in file::list(disk, &container).unwrap_or_default() {
            let path = container.join(&log);
            // The log is a link into the container runtime's own folder on some runtimes: its own time will do.
            let Ok(about) = disk.about(&path) else { continue };
            if newest.as_ref().is_none_or(|(time, _)| *time < about.written) {
                newest = Some((about.written, uid.to_owned()));
            }
            // Rotated logs carry a time after the number: not a start of a container.
            let Some(number) = log.strip_suffix(".log").and_then(|n| n.parse::<u64>().ok()) else { continue };
            let birth = about.made;
            let since = birth.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            starts.insert(format!("{uid}/{log}@{}", since.map_or(0, |time| time.as_millis())));
            made.push((birth, number, path));
        }
    }
    let running = newest.map(|(_, uid)| uid);
    made.sort();
    // The same Pod's before the last. One whose start was interrupted has a log with nothing in it.
    let pod = made.last().and_then(|(_, _, path)| path.parent());
    let ended = made.iter().rev().skip(1).take_while(|(_, _, path)| path.parent() == pod);
    let said = ended.filter_map(|(_, _, path)| disk.read_end(path, TAIL).ok());
    let last_words = said
        .map(|log| last_words(&String::from_utf8_lossy(&log)))
        .find(|words| !words.is_empty())
        .unwrap_or_default();
    Containers { starts, running, last_words }
}

/// What a kube-apiserver said last, out of a log of the container runtime: the lines that tell an error, without the
/// runtime's and the logger's prefixes; its very last line when none does.
fn last_words(log: &str) -> String {
    let lines = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let tells = |line: &&&str| {
        let klog = line.starts_with(['E', 'F']) && line[1..].starts_with(|c: char| c.is_ascii_digit());
        klog || line.starts_with("Error:") || line.starts_with("error:") || line.starts_with("panic:")
    };
    let mut said: Vec<&str> = lines.iter().rev().filter(tells).take(2).copied().collect();
    said.reverse();
    if said.is_empty() {
        said.extend(lines.last());
    }
    // `E0102 03:04:05.678901       1 run.go:72] "command failed" err="..."`: from the bracket on.
    let words: Vec<&str> =
        said.iter().map(|line| line.split_once("] ").map_or(*line, |(_, words)| words)).collect();
    words.join("; ").chars().take(600).collect()
}

async fn health(machine: &dyn Machine, probes: &[Probe], address: Option<&str>) -> Health {
    for probe in probes {
        if let Err(problem) = machine.ask(probe, address).await {
            return Health::NotReady(format!("{}: {problem}", probe.path));
        }
    }
    Health::Ready
}

/// What kube-apiserver's own endpoints say at this address.
pub(super) async fn health_at(machine: &dyn Machine, host: &str, port: u16) -> Health {
    let probe = |path: &str| Probe {
        scheme: "HTTPS".to_owned(),
        host: Some(host.to_owned()),
        port,
        path: path.to_owned(),
    };
    health(machine, &[probe("/livez"), probe("/readyz")], None).await
}

/// The manifest's own probes, else kube-apiserver's endpoints on its secure port.
fn probes(manifest: &Manifest) -> Vec<Probe> {
    let port = manifest.secure_port();
    let endpoint = |path: &str| Probe { scheme: "HTTPS".to_owned(), host: None, port, path: path.to_owned() };
    vec![
        manifest.liveness.clone().unwrap_or_else(|| endpoint("/livez")),
        manifest.readiness.clone().unwrap_or_else(|| endpoint("/readyz")),
    ]
}

/// One request as the kubelet's own probe makes it: to the node's own address, without credentials, the certificate not
/// verified (`pkg/probe/http`).
pub(super) async fn ask(probe: &Probe, address: Option<&str>) -> Result<(), String> {
    let answer = tokio::time::timeout(PROBE_TIMEOUT, request(probe, address)).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())))
}

async fn request(probe: &Probe, address: Option<&str>) -> Result<(), String> {
    let host = probe.host.as_deref().filter(|host| !host.is_empty()).or(address).unwrap_or("127.0.0.1");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let url = format!("{}://{host}:{}", probe.scheme.to_lowercase(), probe.port);
    let client = kube::Client::try_from(unverified::config(&url)?).map_err(|e| e.to_string())?;
    let request = http::Request::get(&probe.path).body(Vec::new()).map_err(|e| e.to_string())?;
    match client.request_text(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(format!("{} {}", status.code, failing(&status.message))),
        Err(error) => Err(unverified::cause(&error)),
    }
}

/// The checks that fail, out of an answer that lists them all.
fn failing(answer: &str) -> String {
    let failed: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    if failed.is_empty() { answer.to_owned() } else { failed.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[track_caller]
    fn check(log: &str, words: &str) {
        assert_eq!(last_words(log), words);
    }

    #[test]
    fn last_words_are_the_error_without_prefixes() {
        check(
            "2026-01-02T03:04:05.6Z stderr F I0102 03:04:05.678901       1 options.go:263] external host was not specified\n\
             2026-01-02T03:04:05.7Z stderr F E0102 03:04:05.778901       1 run.go:72] \"command failed\" err=\"loading audit policy file: bad\"\n",
            "\"command failed\" err=\"loading audit policy file: bad\"",
        );
        check(
            "2026-01-02T03:04:05.6Z stderr F Usage:\n2026-01-02T03:04:05.6Z stderr F Error: unknown flag: --audit-foo\n\
             2026-01-02T03:04:05.6Z stderr F \n",
            "Error: unknown flag: --audit-foo",
        );
        check("2026-01-02T03:04:05.6Z stderr F killed\n", "killed");
        check("", "");
    }

    #[test]
    fn of_many_checks_only_those_that_fail_are_said() {
        let answer = "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\nreadyz check failed";
        assert_eq!(failing(answer), "etcd failed: reason withheld");
        assert_eq!(failing("forbidden"), "forbidden");
    }

    #[test]
    fn only_a_container_that_was_started_again_has_last_words() {
        let root = tempfile::tempdir().unwrap();
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec: {containers: \
                    [{name: kube-apiserver, command: [kube-apiserver]}]}\n";
        let manifest = manifest::read(text).unwrap();
        let host = Host::new(root.path(), "/m.yaml", None);
        let folder = root.path().join("var/log/pods/kube-system_kube-apiserver-n1_u/kube-apiserver");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("0.log"), "t stderr F Error: unknown flag: --x\n").unwrap();
        let once = containers(&PodLogs::new(&host, "n1", &manifest));
        assert_eq!(
            (once.starts.len(), once.running.as_deref(), once.last_words.as_str()),
            (1, Some("u"), "")
        );
        fs::write(folder.join("1.log"), "t stderr F starting\n").unwrap();
        fs::write(folder.join("0.log.20260102-030405"), "rotated").unwrap();
        let again = containers(&PodLogs::new(&host, "n1", &manifest));
        assert_eq!((again.starts.len(), again.last_words.as_str()), (2, "Error: unknown flag: --x"));
        // A kubelet that was stopped while it started a container.
        fs::write(folder.join("1.log"), "").unwrap();
        fs::write(folder.join("2.log"), "t stderr F starting\n").unwrap();
        let silent = containers(&PodLogs::new(&host, "n1", &manifest));
        assert_eq!((silent.starts.len(), silent.last_words.as_str()), (3, "Error: unknown flag: --x"));
    }
}
