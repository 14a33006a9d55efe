//! What must change nothing: the same object once more, and objects and writes that are refused.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::recipes::recipe;
use super::stage::{AGENT, MANIFEST, STATE, Stage, digest};
use super::witness::Witness;

/// Another one for the same nodes.
const RIVAL: &str = "\
apiVersion: audit-operator.dev/v1alpha1
kind: AuditConfiguration
metadata:
  name: rival
spec:
  policy:
    profile: Forensic
";
/// A policy from two sources.
const TWO_SOURCES: &str = "\
apiVersion: audit-operator.dev/v1alpha1
kind: AuditConfiguration
metadata:
  name: two-sources
spec:
  policy:
    profile: Forensic
    inline:
      rules:
        - level: Metadata
";

/// What an agent might say of a node.
const STATUS: &str = "\
apiVersion: audit-operator.dev/v1alpha1
kind: AuditNode
metadata:
  name: n1
status:
  agentVersion: 0.0.0
";

/// What a write would change.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    manifest: String,
    manifest_inode_and_time: (u64, i64, i64),
    journal: String,
    audit_node: Value,
    status: String,
}

impl Traces {
    fn of(stage: &Stage<'_>) -> Result<Self> {
        let manifest = fs::metadata(stage.node().path(MANIFEST))?;
        let status = stage.object("auditcfg", "default")?["status"].to_string();
        Ok(Self {
            manifest: digest(&stage.manifest()?),
            manifest_inode_and_time: (manifest.ino(), manifest.mtime(), manifest.mtime_nsec()),
            journal: digest(&stage.file(&format!("{STATE}/journal.json"))?),
            audit_node: stage.object("auditnode", "n1")?["metadata"]["resourceVersion"].take(),
            status,
        })
    }
}

/// Applies what is there already; and, to know that the controller has seen it, a rival that it must refuse after it.
pub(super) fn applied_again(stage: &Stage<'_>) -> Result<()> {
    stage
        .voice
        .headline("the same object again changes nothing, and a second one for the same node is told so");
    stage.quiet()?;
    let (before, witness) = (Traces::of(stage)?, Witness::start(stage.node())?);
    let answer = stage.apply(&recipe("nothing-from-controllers")?)?;
    ensure!(answer.trim().ends_with(" unchanged"), "kubectl says {answer}");
    stage.show(&["annotate", "auditcfg", "default", "story=told"])?;
    stage.apply(RIVAL)?;
    let message = stage.reason("auditcfg", "rival", "Degraded", "Conflict")?;
    ensure!(message.contains("`n1` belongs to AuditConfiguration `default`"), "it says: {message}");
    let after = Traces::of(stage)?;
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    witness.nothing()?;
    stage.show(&["delete", "auditcfg", "rival"])?;
    stage.voice.found("nothing was written and nothing restarted");
    Ok(())
}

/// What the API server refuses by the operator's own rules.
pub(super) fn refused(stage: &Stage<'_>) -> Result<()> {
    stage.voice.headline("the API server refuses a policy from two sources");
    let message = stage.refusal_of(&["apply", "-f", "-"], TWO_SOURCES)?;
    let wanted = "exactly one of `profile`, `inline` and `configMapRef` is needed";
    ensure!(message.contains(wanted), "it says: {message}");

    stage.voice.headline("an agent may write the status of its own node only");
    // As the agent does it; a dry run goes through admission, too.
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--subresource=status",
        "--dry-run=server",
        "-f",
        "-",
    ];
    let as_agent = [&apply[..], &["--as", AGENT]].concat();
    let node = |name: &str| format!("authentication.kubernetes.io/node-name={name}");
    let message = stage.refusal_of(&as_agent, STATUS)?;
    ensure!(message.contains("must carry the name of its node"), "it says: {message}");
    let message = stage.refusal_of(&[&as_agent[..], &["--as-user-extra", &node("n2")]].concat(), STATUS)?;
    ensure!(
        message.contains(r#"the agent on node "n2" may only write the AuditNode of that name"#),
        "it says: {message}"
    );
    // That it is refused for this reason alone.
    stage.kubectl_of(&[&as_agent[..], &["--as-user-extra", &node("n1")]].concat(), STATUS)?;
    stage.voice.found("refused without a node's name and with another's, allowed with its own");
    Ok(())
}
