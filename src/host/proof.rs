//! Carrying out a proof: one request to the node's API server, and the log watched until its events are there.
//!
//! What is asked and what it proves is decided in [`crate::install::proof`].

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use tokio::time::{Instant, sleep, timeout};

use crate::audit::Policy;
use crate::install::proof::{
    Chosen, LogBackend, Outcome, ProbeRequest, Seen, Sender, Verdict, audit_id, choose, judge,
};
use crate::manifest::Manifest;

use super::{Host, unverified};

mod tail;

use tail::LogTail;

/// For connecting and for the answer's first byte together.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at the log.
const PAUSE: Duration = Duration::from_millis(100);
/// A bearer token that no authenticator takes: not a JWT, and nobody's.
const WORTHLESS: &str = "audit-operator-proof";

/// What is to be proved of an API server.
#[derive(Clone, Debug)]
pub struct Proof<'a> {
    /// Its address and port, as `10.0.0.1:6443` or `[::1]:6443`.
    pub authority: &'a str,
    /// The manifest it runs with.
    pub manifest: &'a Manifest,
    /// The policy it holds.
    pub policy: &'a Policy,
    /// As whom it may be asked, in this order: [`Sender::without_credentials`], and before them whose `token` it is.
    pub senders: &'a [Sender],
    /// The bearer token of [`Sender::User`], if that is among them.
    pub token: Option<&'a str>,
}

impl Host {
    /// Sends a marked, harmless request and looks for its events in the log, for as long as the log's mode may need
    /// ([`LogBackend::patience`]); a server that does not answer is not waited for. `seed` must be another one each time:
    /// the request's `Audit-ID` is made of it.
    pub async fn prove(&self, proof: &Proof<'_>, seed: &str) -> Outcome {
        self.machine().prove(self, proof, seed).await
    }

    /// Remembers where the log ends, and sends the request.
    async fn attempt(&self, proof: &Proof<'_>, backend: &LogBackend, chosen: Chosen, id: String) -> Attempt {
        let tail = LogTail::new(self, &backend.place);
        let sent = Instant::now();
        let token = match chosen.sender {
            Sender::Anonymous => None,
            Sender::Nobody => Some(WORTHLESS),
            Sender::User(_) => proof.token,
        };
        let answer = timeout(ANSWER_TIMEOUT, send(proof.authority, &chosen.request, &id, token))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())));
        Attempt { id, chosen, tail, sent, answer }
    }

    async fn watch(&self, backend: &LogBackend, attempt: Attempt) -> Outcome {
        let Attempt { id, chosen, mut tail, sent, answer } = attempt;
        let mut found = Vec::new();
        loop {
            let more = tail.read(&id, &mut found);
            match judge(&chosen, &found) {
                Verdict::Landed => return Outcome::Landed { id, chosen, latency: sent.elapsed() },
                Verdict::Differs => return Outcome::Differs { id, chosen, found },
                Verdict::Incomplete if more => tokio::task::yield_now().await,
                Verdict::Incomplete if answer.is_err() || sent.elapsed() >= backend.patience => break,
                Verdict::Incomplete => sleep(PAUSE).await,
            }
        }
        let (log, growth) = (tail.name(), tail.growth());
        Outcome::Missing { id, chosen, seen: Seen { answer, found, log, growth, waited: sent.elapsed() } }
    }
}

/// See [`Host::prove`].
pub(super) async fn carry_out(host: &Host, proof: &Proof<'_>, seed: &str) -> Outcome {
    let backend = match LogBackend::of(proof.manifest) {
        Ok(backend) => backend,
        Err(reason) => return Outcome::Unprovable(reason),
    };
    let chosen = match choose(proof.policy, proof.senders) {
        Ok(chosen) => chosen,
        Err(reason) => return Outcome::Unprovable(reason),
    };
    let first = host.attempt(proof, &backend, chosen, audit_id(seed, 1)).await;
    let refused = match &first {
        Attempt { chosen, answer: Ok(401), .. } => chosen.sender != Sender::Nobody,
        _ => false,
    };
    if !refused {
        return host.watch(&backend, first).await;
    }
    // An expired token, or anonymous access is off by other means than the flag: the policy saw no user.
    match choose(proof.policy, &[Sender::Nobody]) {
        Ok(chosen) => {
            let second = host.attempt(proof, &backend, chosen, audit_id(seed, 2)).await;
            host.watch(&backend, second).await
        }
        Err(reason) => Outcome::Unprovable(reason),
    }
}

/// A request that was sent.
struct Attempt {
    id: String,
    chosen: Chosen,
    tail: LogTail,
    sent: Instant,
    /// HTTP status, or why there is none.
    answer: Result<u16, String>,
}

/// Sends one request over a connection of its own and does not read the answer's body. The certificate is not verified,
/// as by the kubelet's own probes: what counts is in the log.
async fn send(authority: &str, request: &ProbeRequest, id: &str, token: Option<&str>) -> Result<u16, String> {
    let mut config = unverified::config(&format!("https://{authority}"))?;
    // A request sent again would leave its events twice.
    config.default_retry = false;
    let client = kube::Client::try_from(config).map_err(|e| e.to_string())?;
    let mut message = http::Request::builder()
        .method(request.method)
        .uri(&request.url)
        .header("Audit-ID", id)
        .header(USER_AGENT, concat!("audit-operator/", env!("CARGO_PKG_VERSION"), " proof"));
    if let Some(content_type) = request.content_type {
        message = message.header(CONTENT_TYPE, content_type);
    }
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| "the token cannot be sent in a header".to_owned())?;
        value.set_sensitive(true);
        message = message.header(AUTHORIZATION, value);
    }
    let message = message.body(request.body.as_bytes().to_vec().into()).map_err(|e| e.to_string())?;
    let answer = client.send(message).await.map_err(|error| unverified::cause(&error))?;
    Ok(answer.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::proof::Growth;
    use crate::manifest;

    const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --audit-policy-file=/policy.yaml, --audit-log-path=/log/audit.log]
    volumeMounts: [{mountPath: /log, name: log}]
  volumes: [{name: log, hostPath: {path: /log}}]
";

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), "/kube-apiserver.yaml", None);
        // A port that was free a moment ago and that nobody listens on now.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        drop(listener);
        let proof = Proof {
            authority: &authority,
            manifest: &manifest::read(MANIFEST).unwrap(),
            policy: &crate::audit::Profile::Metadata.policy(),
            senders: &[Sender::Anonymous],
            token: None,
        };
        let outcome = host.prove(&proof, "x").await;
        let Outcome::Missing { id, seen, .. } = outcome else { panic!("{outcome}") };
        assert_eq!((id.as_str(), &seen.growth), ("audit-operator-x-1", &Growth::Absent));
        assert!(seen.answer.clone().is_err_and(|problem| problem.contains("refused")), "{seen}");
        assert!(seen.waited < ANSWER_TIMEOUT);
    }
}
