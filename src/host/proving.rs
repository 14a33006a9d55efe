//! Proofs of this node's API servers: the live one and an install's stand-in.

use jiff::Timestamp;

use crate::audit::{Policy, ServerVersion, ValidPolicy};
use crate::install::journal::{Proof as Record, ProofResult};
use crate::install::proof::{LogBackend, LogPlace, Outcome, Sender};
use crate::install::{Journal, Order, Target};
use crate::manifest::{self, Manifest};

use super::{Error, Host, Identity, Proof, file};

impl Host {
    /// Proves that an event lands on the API server an install asks about.
    pub async fn prove_install(
        &self,
        order: &Order,
        journal: &Journal,
        target: Target,
        now: Timestamp,
    ) -> Record {
        let (text, stand_in) = match (target, &journal.stand_in) {
            (Target::StandIn(port), Some(stand_in)) => {
                (self.stand_in_manifest(order, stand_in), Some((format!("127.0.0.1:{port}"), port)))
            }
            _ => (self.live_manifest(), None),
        };
        let authority = stand_in.as_ref().map(|(authority, _)| authority.as_str());
        let record = self.prove_on(text, authority, None, now).await;
        Record { stand_in: stand_in.map(|(_, port)| port), ..record }
    }

    /// Proves that an event lands on the live API server, as the agent does from time to time: with its own identity, where it
    /// has one and the policy logs what that does, else without.
    pub async fn prove_live(&self, identity: Option<&Identity>, now: Timestamp) -> Record {
        self.prove_on(self.live_manifest(), None, identity, now).await
    }

    /// Whether it can be seen without any request that events are being lost: the log's file is gone, or there is no room
    /// for another line.
    pub fn log_is_in_trouble(&self) -> bool {
        let text = self.live_manifest().unwrap_or_default();
        let backend = manifest::read(&text).ok().and_then(|manifest| LogBackend::of(&manifest).ok());
        let Some(LogBackend { place: LogPlace::File(path), .. }) = backend else { return false };
        let path = self.at(&path);
        let full = |folder| rustix::fs::statvfs(folder).is_ok_and(|space| space.f_bavail == 0);
        !path.exists() || path.parent().is_some_and(full)
    }

    fn live_manifest(&self) -> Result<String, Error> {
        let bytes = file::read(self.disk(), &self.at(&self.manifest))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn prove_on(
        &self,
        text: Result<String, Error>,
        authority: Option<&str>,
        identity: Option<&Identity>,
        now: Timestamp,
    ) -> Record {
        let ready = text.map_err(|e| e.to_string()).and_then(|text| {
            let manifest = manifest::read(&text).map_err(|refusals| refusals.to_string())?;
            let policy = self.policy_of(&manifest)?;
            let own = manifest
                .server_url()
                .unwrap_or_else(|| format!("https://127.0.0.1:{}", manifest.secure_port()));
            let authority = authority.unwrap_or(own.trim_start_matches("https://")).to_owned();
            Ok((manifest, policy, authority))
        });
        let (manifest, policy, authority) = match ready {
            Ok(ready) => ready,
            Err(problem) => return record(now, ProofResult::Unprovable, problem),
        };
        let own = identity.map(|identity| identity.sender().clone());
        let senders: Vec<Sender> = own.into_iter().chain(Sender::without_credentials(&manifest)).collect();
        let proof = Proof {
            authority: &authority,
            manifest: &manifest,
            policy: &policy,
            senders: &senders,
            identity,
        };
        let seed = now.strftime("%Y%m%dT%H%M%S-%6f").to_string();
        written(self.prove(&proof, &seed).await, now)
    }

    /// The policy that a manifest's server holds. A server without one logs nothing, which the proof says by itself.
    fn policy_of(&self, manifest: &Manifest) -> Result<Policy, String> {
        let Some(path) = manifest.flag("audit-policy-file") else { return Ok(Policy::default()) };
        let path = manifest.file_of("audit-policy-file").unwrap_or_else(|| path.to_owned());
        let bytes = file::read(self.disk(), &self.at(&path)).map_err(|e| e.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("the policy file `{path}` is not on this node"))?;
        let version =
            manifest.server_version_tag().and_then(|tag| tag.parse().ok()).unwrap_or(ServerVersion::LATEST);
        let (policy, findings) = ValidPolicy::load(&bytes, version);
        policy.map(|policy| policy.policy().clone()).ok_or_else(|| {
            let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
            format!("the policy file `{path}` is not valid: {}", findings.join("; "))
        })
    }
}

fn record(now: Timestamp, result: ProofResult, message: String) -> Record {
    Record {
        stand_in: None,
        time: now,
        audit_id: String::new(),
        request: String::new(),
        level: None,
        rule: None,
        latency_milliseconds: 0,
        result,
        message,
    }
}

/// The outcome as the journal and the API have it.
fn written(outcome: Outcome, now: Timestamp) -> Record {
    let message = outcome.to_string();
    let (result, id, chosen, latency) = match outcome {
        Outcome::Landed { id, chosen, latency } => (ProofResult::Landed, id, chosen, latency),
        Outcome::Differs { id, chosen, .. } => (ProofResult::Missing, id, chosen, Default::default()),
        Outcome::Missing { id, chosen, .. } => (ProofResult::Missing, id, chosen, Default::default()),
        Outcome::Unprovable(_) => return record(now, ProofResult::Unprovable, message),
    };
    Record {
        audit_id: id,
        request: chosen.request.to_string(),
        level: Some(chosen.level),
        rule: Some(chosen.rule),
        latency_milliseconds: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
        ..record(now, result, if result == ProofResult::Landed { String::new() } else { message })
    }
}
