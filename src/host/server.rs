//! The node's API server, from local facts: its containers' log files, and what its own probes answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::install::{Health, Server};
use crate::manifest::{self, Manifest, Probe};

use super::{CONTROL_GROUPS, Disk, Host, Machine, file, unverified};

/// The kubelet's folder of container logs: `<namespace>_<pod>_<uid>/<container>/<n>.log`.
pub(super) const POD_LOGS: &str = "/var/log/pods";
/// A server that starts can take a connection and let it hang; kubeadm's own probes wait 15 s, ours come again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The threads of a Pod none of whose containers runs: of its sandbox the one of the process that does nothing (`pause`), on some
/// runtimes none. kube-apiserver has some from its first moment on: Go's own.
const SANDBOX: u64 = 1;
/// Bytes of a log that its last words are looked for in.
const TAIL: u64 = 16 << 10;

pub(super) async fn observe(host: &Host, node: &str, bytes: &[u8], port_is_ours: bool) -> Server {
    let manifest = match manifest::decode(bytes).and_then(manifest::read) {
        Ok(manifest) => manifest,
        Err(refusals) => {
            let health = Health::NotReady(format!("its manifest is not understood: {refusals}"));
            let (containers, last_words) = (BTreeSet::new(), String::new());
            return Server { containers, running: None, ended: None, health, last_words };
        }
    };
    let containers = containers(&PodLogs::new(host, node, &manifest));
    let ended = containers.ended(host);
    let last_words = containers.last_words(host.disk(), ended.is_some());
    let health = if port_is_ours {
        Health::NotReady("the stand-in answers in its place".to_owned())
    } else {
        health(host.machine(), &probes(&manifest), manifest.flag("advertise-address")).await
    };
    Server { containers: containers.starts, running: containers.running, ended, health, last_words }
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
    /// The logs of the newest Pod, in the order of their numbers.
    newest: Vec<Log>,
}

/// The log of one start.
#[derive(Debug)]
struct Log {
    /// UID of its Pod.
    pod: String,
    number: u64,
    path: PathBuf,
    /// As in [`Server::containers`].
    name: String,
    /// When it was made; where the file system does not know, when it was written last.
    since: SystemTime,
}

impl Containers {
    /// See [`Server::ended`]. The log is read first: who wrote it may end at any moment, and does not come back.
    fn ended(&self, host: &Host) -> Option<String> {
        let log = self.newest.last()?;
        words_of(host.disk(), log)?;
        let threads = host.machine().threads_of_pod(&host.at(CONTROL_GROUPS), &log.pod)?;
        (threads <= SANDBOX).then(|| log.name.clone())
    }

    /// The last words of the newest container that has ended and said any: each but the last, or it would not have been started,
    /// and the last when that is known.
    pub(super) fn last_words(&self, disk: &dyn Disk, last_has_ended: bool) -> String {
        // One whose start was interrupted has a log with nothing in it.
        let ended = self.newest.iter().rev().skip(usize::from(!last_has_ended));
        ended.filter_map(|log| words_of(disk, log)).next().unwrap_or_default()
    }
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
    let mut written_last: Option<(SystemTime, String)> = None;
    let mut logs: Vec<Log> = Vec::new();
    for name in file::list(disk, folder).unwrap_or_default() {
        let Some(pod) = name.strip_prefix(prefix.as_str()) else { continue };
        let container = folder.join(&name).join(container);
        for log in file::list(disk, &container).unwrap_or_default() {
            let path = container.join(&log);
            // The log is a link into the container runtime's own folder on some runtimes: its own time will do.
            let Ok(about) = disk.about(&path) else { continue };
            if written_last.as_ref().is_none_or(|(time, _)| *time < about.written) {
                written_last = Some((about.written, pod.to_owned()));
            }
            // Rotated logs carry a time after the number: not a start of a container.
            let Some(number) = log.strip_suffix(".log").and_then(|n| n.parse::<u64>().ok()) else { continue };
            let made = about.made.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            let name = format!("{pod}/{log}@{}", made.map_or(0, |time| time.as_millis()));
            let since = about.made.unwrap_or(about.written);
            logs.push(Log { pod: pod.to_owned(), number, path, name, since });
        }
    }
    let starts = logs.iter().map(|log| log.name.clone()).collect();
    let newest_pod = logs.iter().max_by_key(|log| log.since).map(|log| log.pod.clone());
    logs.retain(|log| Some(&log.pod) == newest_pod.as_ref());
    logs.sort_by_key(|log| log.number);
    Containers { starts, running: written_last.map(|(_, pod)| pod), newest: logs }
}

/// The last words in a log, `None` when there are none.
fn words_of(disk: &dyn Disk, log: &Log) -> Option<String> {
    let end = disk.read_end(&log.path, TAIL).ok()?;
    Some(last_words(&String::from_utf8_lossy(&end))).filter(|words| !words.is_empty())
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
        // With --anonymous-auth=false nobody gets another answer without credentials, and this one as soon as it serves.
        Err(kube::Error::Api(status)) if status.code == http::StatusCode::UNAUTHORIZED => Ok(()),
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
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[track_caller]
    fn check(log: &str, words: &str) {
        assert_eq!(last_words(log), words);
    }

    /// What is said of an API server that answers so.
    async fn asked(answer: &str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = Probe { scheme: "HTTP".to_owned(), host: None, port, path: "/livez".to_owned() };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(ask(&probe, None), serve).0
    }

    #[tokio::test]
    async fn one_that_knows_nobody_without_credentials_serves() {
        let unauthorized = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 12\r\n\r\nUnauthorized";
        assert_eq!(asked(unauthorized).await, Ok(()));
        let failing = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 11\r\n\r\n[-]etcd bad\n";
        assert_eq!(asked(failing).await, Err("500 etcd bad".to_owned()));
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

    fn pod_logs(host: &Host) -> PodLogs {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec: {containers: \
                    [{name: kube-apiserver, command: [kube-apiserver]}]}\n";
        PodLogs::new(host, "n1", &manifest::read(text).unwrap())
    }

    /// The folder of a Pod's logs.
    fn pod(root: &Path, uid: &str) -> PathBuf {
        let folder = root.join(format!("var/log/pods/kube-system_kube-apiserver-n1_{uid}/kube-apiserver"));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn only_a_container_that_was_started_again_has_last_words() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), "/m.yaml", None);
        let folder = pod(root.path(), "u");
        fs::write(folder.join("0.log"), "t stderr F Error: unknown flag: --x\n").unwrap();
        let look = || {
            let seen = containers(&pod_logs(&host));
            (seen.starts.len(), seen.last_words(host.disk(), false), seen.running)
        };
        assert_eq!(look(), (1, String::new(), Some("u".to_owned())));
        fs::write(folder.join("1.log"), "t stderr F starting\n").unwrap();
        fs::write(folder.join("0.log.20260102-030405"), "rotated").unwrap();
        let words = "Error: unknown flag: --x".to_owned();
        assert_eq!(look(), (2, words.clone(), Some("u".to_owned())));
        // A kubelet that was stopped while it started a container.
        fs::write(folder.join("1.log"), "").unwrap();
        fs::write(folder.join("2.log"), "t stderr F starting\n").unwrap();
        assert_eq!(look(), (3, words, Some("u".to_owned())));
    }

    #[test]
    fn the_newest_pod_is_the_one_whose_log_was_made_last_whatever_its_number() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), "/m.yaml", None);
        let old = pod(root.path(), "old");
        fs::write(old.join("6.log"), "t stderr F killed\n").unwrap();
        fs::write(old.join("7.log"), "t stderr F starting\n").unwrap();
        let new = pod(root.path(), "new");
        let made = |path: &Path| host.disk().about(path).unwrap().made.expect("this file system tells");
        // The kernel's clock for files goes by milliseconds.
        while !new.join("0.log").exists() || made(&new.join("0.log")) == made(&old.join("7.log")) {
            fs::remove_dir_all(&new).unwrap();
            let new = pod(root.path(), "new");
            fs::write(new.join("0.log"), "t stderr F Error: unknown flag: --x\n").unwrap();
        }
        fs::write(new.join("1.log"), "t stderr F starting\n").unwrap();
        let seen = containers(&pod_logs(&host));
        assert_eq!(seen.last_words(host.disk(), false), "Error: unknown flag: --x");
        assert!(seen.starts.iter().all(|start| !start.ends_with("@0")), "{:?}", seen.starts);
    }

    #[test]
    fn it_has_ended_when_it_said_something_and_only_the_sandbox_is_left() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), "/m.yaml", None);
        let folder = pod(root.path(), "u");
        fs::write(folder.join("0.log"), "t stderr F Error: unknown flag: --x\n").unwrap();
        let ended = || {
            let seen = containers(&pod_logs(&host));
            let ended = seen.ended(&host);
            let last_words = seen.last_words(host.disk(), ended.is_some());
            (ended.map(|start| start.split_once('@').unwrap().0.to_owned()), last_words)
        };
        assert_eq!(ended(), (None, String::new()), "nothing is known of control groups");
        let group = root.path().join("sys/fs/cgroup/kubepods/burstable/podu");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("pids.current"), "9\n").unwrap();
        assert_eq!(ended(), (None, String::new()));
        fs::write(group.join("pids.current"), "1\n").unwrap();
        assert_eq!(ended(), (Some("u/0.log".to_owned()), "Error: unknown flag: --x".to_owned()));
        // The kubelet makes the log before the container runs.
        fs::write(folder.join("1.log"), "").unwrap();
        assert_eq!(ended(), (None, "Error: unknown flag: --x".to_owned()));
    }
}
