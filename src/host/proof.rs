//! Carrying out a proof: one request to the node's API server, and the log watched until its events are there.
//!
//! What is asked and what it proves is decided in [`crate::install::proof`].

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use tokio::time::{Instant, sleep, timeout};

use crate::audit::Policy;
use crate::install::proof::{
    Chosen, Growth, LogBackend, LogPlace, Outcome, Seen, Sender, Unprovable, Verdict, audit_id, choose, judge,
};
use crate::manifest::Manifest;

use super::{Host, Identity, unverified};

mod tail;

use tail::LogTail;

/// For connecting and for the answer's first byte together.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at the log.
const PAUSE: Duration = Duration::from_millis(100);
/// With a token that no authenticator takes: not a JWT, and nobody's.
const WORTHLESS: &str = "Bearer audit-operator-proof";

/// What is to be proved of an API server.
#[derive(Clone, Debug)]
pub struct Proof<'a> {
    /// Its address and port, as `10.0.0.1:6443` or `[::1]:6443`.
    pub authority: &'a str,
    /// The manifest it runs with.
    pub manifest: &'a Manifest,
    /// The policy it holds.
    pub policy: &'a Policy,
    /// As whom it may be asked, in this order: that of `identity`, then [`Sender::without_credentials`].
    pub senders: &'a [Sender],
    /// Whose [`Sender::User`] is, if that is among them.
    pub identity: Option<&'a Identity>,
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
        let answer = timeout(ANSWER_TIMEOUT, send(proof, &chosen, &id))
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
        // What cannot be looked at proves nothing, neither way.
        if let Some(problem) = tail.hidden() {
            return Outcome::Unprovable(Unprovable::Unreadable { log, problem });
        }
        if matches!(backend.place, LogPlace::Container { .. }) && growth == Growth::Absent {
            let problem = "the container runtime keeps it where it cannot be seen from here".to_owned();
            return Outcome::Unprovable(Unprovable::Unreadable { log, problem });
        }
        Outcome::Missing { id, chosen, seen: Seen { answer, found, log, growth, waited: sent.elapsed() } }
    }
}

/// See [`Host::prove`].
pub(super) async fn carry_out(host: &Host, proof: &Proof<'_>, seed: &str) -> Outcome {
    let backend = match LogBackend::of(proof.manifest) {
        Ok(backend) => backend,
        Err(reason) => return Outcome::Unprovable(reason),
    };
    let (mut senders, mut n, mut not_asked) = (proof.senders, 0, None);
    loop {
        let chosen = match (choose(proof.policy, senders), not_asked) {
            (Ok(chosen), _) => chosen,
            (Err(_), Some(reason)) | (Err(reason), None) => return Outcome::Unprovable(reason),
        };
        n += 1;
        let attempt = host.attempt(proof, &backend, chosen, audit_id(seed, n)).await;
        let sender = attempt.chosen.sender.clone();
        let problem = match (&sender, &attempt.answer) {
            // The certificate is not one that the cluster's authority signed for this address, or nobody answers.
            (Sender::User(_), Err(problem)) => problem.clone(),
            // A token that has run out, or anonymous access is off by other means than the flag: the policy saw no user.
            (Sender::User(_) | Sender::Anonymous, Ok(401)) => "401 Unauthorized".to_owned(),
            _ => return host.watch(&backend, attempt).await,
        };
        let tried = senders.iter().position(|other| *other == sender).map_or(senders.len(), |at| at + 1);
        senders = &senders[tried..];
        not_asked = Some(Unprovable::NotAsked { sender, problem });
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

/// Sends one request over a connection of its own and does not read the answer's body. Without credentials the certificate
/// is not verified, as by the kubelet's own probes: what counts is in the log.
async fn send(proof: &Proof<'_>, chosen: &Chosen, id: &str) -> Result<u16, String> {
    let url = format!("https://{}", proof.authority);
    let mut config = match (&chosen.sender, proof.identity) {
        (Sender::User(_), Some(identity)) => identity.config(&url)?,
        _ => unverified::config(&url)?,
    };
    // A request sent again would leave its events twice.
    config.default_retry = false;
    let client = kube::Client::try_from(config).map_err(|e| unverified::cause(&e))?;
    let request = &chosen.request;
    let mut message = http::Request::builder()
        .method(request.method)
        .uri(&request.url)
        .header("Audit-ID", id)
        .header(USER_AGENT, concat!("audit-operator/", env!("CARGO_PKG_VERSION"), " proof"));
    if let Some(content_type) = request.content_type {
        message = message.header(CONTENT_TYPE, content_type);
    }
    if chosen.sender == Sender::Nobody {
        message = message.header(AUTHORIZATION, WORTHLESS);
    }
    let message = message.body(request.body.as_bytes().to_vec().into()).map_err(|e| e.to_string())?;
    let answer = client.send(message).await.map_err(|error| unverified::cause(&error))?;
    Ok(answer.status().as_u16())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::{Arc, Mutex};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::crypto::ring;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
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

    /// A listener that takes connections, says nothing and ends them; what it was sent.
    async fn overheard(prove: impl Future<Output = Outcome>, listener: TcpListener) -> (Outcome, Vec<u8>) {
        let mut heard = Vec::new();
        let listen = async {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.unwrap_or(0);
                heard.extend_from_slice(&part[..read]);
            }
        };
        let outcome = tokio::select! {
            outcome = prove => outcome,
            () = listen => panic!("it listens for ever"),
        };
        (outcome, heard)
    }

    /// A TLS server at a port of its own, and the authority that signed its certificate. It answers nothing, which nobody
    /// waits for, and keeps what it was told in `heard`.
    fn server(heard: &Arc<Mutex<String>>) -> (String, Vec<u8>) {
        let (key, authority_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&authority_key).unwrap().der().to_vec();
        let issuer = Issuer::new(authority, authority_key);
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let own = own.signed_by(&key, &issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into());
        let config = Arc::new(config.unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let heard = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
                let mut part = [0; 4096];
                // A client that does not trust the certificate ends the connection here.
                let Ok(read) = stream.read(&mut part) else { continue };
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..read]));
            }
        });
        (at, root)
    }

    #[tokio::test]
    async fn a_token_goes_only_to_a_server_that_the_clusters_authority_vouches_for() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), "/kube-apiserver.yaml", None);
        let token = root.path().join("token");
        std::fs::write(&token, "secret-of-the-agent").unwrap();
        let agent = Sender::service_account("audit-operator", "agent");
        let heard = Arc::new(Mutex::new(String::new()));
        let (authority, vouches) = server(&heard);
        let (_, another) = server(&Arc::default());
        let manifest = manifest::read(MANIFEST).unwrap();
        let ask = async |by: Vec<u8>, policy: &Policy| {
            heard.lock().unwrap().clear();
            let identity = Identity::of(agent.clone(), vec![by], &token);
            let senders = [agent.clone(), Sender::Anonymous];
            let proof = Proof {
                authority: &authority,
                manifest: &manifest,
                policy,
                senders: &senders,
                identity: Some(&identity),
            };
            (host.prove(&proof, "x").await, heard.lock().unwrap().clone())
        };
        let everybody = crate::audit::Profile::Metadata.policy();
        let (_, told) = ask(vouches, &everybody).await;
        assert!(told.to_lowercase().contains("authorization: bearer secret-of-the-agent"), "{told}");
        let (outcome, told) = ask(another.clone(), &everybody).await;
        assert!(told.contains("audit-operator-x-2") && !told.contains("secret"), "{told}");
        assert!(
            matches!(&outcome, Outcome::Missing { chosen, .. } if chosen.sender == Sender::Anonymous),
            "{outcome}"
        );
        // Where only the agent's own requests are logged, nothing is pretended.
        let users = vec![agent.to_string()];
        let rule = crate::audit::Rule { level: crate::audit::Level::Metadata, users, ..Default::default() };
        let (outcome, told) = ask(another, &Policy { rules: vec![rule], ..Policy::default() }).await;
        assert_eq!(told, "");
        assert!(
            matches!(&outcome, Outcome::Unprovable(Unprovable::NotAsked { sender, .. }) if *sender == agent),
            "{outcome}"
        );
    }

    #[tokio::test]
    async fn a_container_log_that_is_kept_elsewhere_is_no_missing_event() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), "/kube-apiserver.yaml", Some("n1".to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let proof = Proof {
            authority: &authority,
            manifest: &manifest::read(&MANIFEST.replace("/log/audit.log", "-")).unwrap(),
            policy: &crate::audit::Profile::Metadata.policy(),
            senders: &[Sender::Anonymous],
            identity: None,
        };
        let (outcome, _) = overheard(host.prove(&proof, "x"), listener).await;
        let Outcome::Unprovable(reason) = outcome else { panic!("{outcome}") };
        assert!(
            reason
                .to_string()
                .starts_with("`/var/log/pods/kube-system_kube-apiserver-n1_*/kube-apiserver` cannot")
        );
    }

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
            identity: None,
        };
        let outcome = host.prove(&proof, "x").await;
        let Outcome::Missing { id, seen, .. } = outcome else { panic!("{outcome}") };
        assert_eq!((id.as_str(), &seen.growth), ("audit-operator-x-1", &Growth::Absent));
        assert!(seen.answer.clone().is_err_and(|problem| problem.contains("refused")), "{seen}");
        assert!(seen.waited < ANSWER_TIMEOUT);
    }
}
