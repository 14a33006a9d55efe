//! The node's API server, from local facts: its containers' log files, and what its own probes answer.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use crate::install::{Health, Server};
use crate::manifest::{self, Manifest, Probe};

use super::{Host, file};

/// The kubelet's folder of container logs: `<namespace>_<pod>_<uid>/<container>/<n>.log`.
pub(super) const POD_LOGS: &str = "/var/log/pods";
/// A server that starts can take a connection and let it hang; kubeadm's own probes wait 15 s, ours come again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn observe(host: &Host, node: &str, bytes: &[u8]) -> Server {
    let manifest = match manifest::decode(bytes).and_then(manifest::read) {
        Ok(manifest) => manifest,
        Err(refusals) => {
            let health = Health::NotReady(format!("its manifest is not understood: {refusals}"));
            return Server { containers: BTreeSet::new(), running: None, health };
        }
    };
    let (containers, running) = containers(host, node, &manifest);
    Server { containers, running, health: health(&manifest).await }
}

/// The containers' log files, and the Pod that wrote last. What cannot be listed is not there: a Pod's folder goes away
/// at any moment.
fn containers(host: &Host, node: &str, manifest: &Manifest) -> (BTreeSet<String>, Option<String>) {
    let folder = host.at(POD_LOGS);
    let prefix = format!("{}_{}-{}_", manifest.namespace, manifest.name, node.to_lowercase());
    let mut logs = BTreeSet::new();
    let mut newest: Option<(SystemTime, String)> = None;
    for name in file::list(&folder).unwrap_or_default() {
        let Some(uid) = name.strip_prefix(&prefix) else { continue };
        let container = folder.join(&name).join(&manifest.container);
        for log in file::list(&container).unwrap_or_default() {
            // The log is a link into the container runtime's own folder on some runtimes: its own time will do.
            let written = fs::symlink_metadata(container.join(&log)).and_then(|m| m.modified());
            if let Ok(written) = written
                && newest.as_ref().is_none_or(|(time, _)| *time < written)
            {
                newest = Some((written, uid.to_owned()));
            }
            // Rotated logs carry a time after the number: not a start of a container.
            if log.ends_with(".log") {
                logs.insert(format!("{uid}/{log}"));
            }
        }
    }
    (logs, newest.map(|(_, uid)| uid))
}

async fn health(manifest: &Manifest) -> Health {
    for probe in probes(manifest) {
        let answer = tokio::time::timeout(PROBE_TIMEOUT, ask(manifest, &probe)).await;
        let problem = match answer {
            Ok(Ok(())) => continue,
            Ok(Err(problem)) => problem,
            Err(_) => format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
        };
        return Health::NotReady(format!("{}: {problem}", probe.path));
    }
    Health::Ready
}

/// The manifest's own probes, else kube-apiserver's endpoints on its secure port.
fn probes(manifest: &Manifest) -> Vec<Probe> {
    let port = manifest.flag("secure-port").and_then(|p| p.parse().ok()).unwrap_or(6443);
    let endpoint = |path: &str| Probe { scheme: "HTTPS".to_owned(), host: None, port, path: path.to_owned() };
    vec![
        manifest.liveness.clone().unwrap_or_else(|| endpoint("/livez")),
        manifest.readiness.clone().unwrap_or_else(|| endpoint("/readyz")),
    ]
}

/// One request as the kubelet's own probe makes it: to the node's own address, without credentials, the certificate not
/// verified (`pkg/probe/http`).
async fn ask(manifest: &Manifest, probe: &Probe) -> Result<(), String> {
    let host = probe
        .host
        .as_deref()
        .filter(|host| !host.is_empty())
        .or_else(|| manifest.flag("advertise-address"))
        .unwrap_or("127.0.0.1");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let url = format!("{}://{host}:{}", probe.scheme.to_lowercase(), probe.port);
    let mut config = kube::Config::new(url.parse().map_err(|e| format!("`{url}`: {e}"))?);
    config.accept_invalid_certs = true;
    // None of the system's certificates either: our image has none, and the client does not start without.
    config.root_cert = Some(Vec::new());
    let client = kube::Client::try_from(config).map_err(|e| e.to_string())?;
    let request = http::Request::get(&probe.path).body(Vec::new()).map_err(|e| e.to_string())?;
    match client.request_text(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(format!("{} {}", status.code, status.message)),
        Err(error) => Err(cause(&error)),
    }
}

/// The innermost cause: "connection refused" says more than the layers around it.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
