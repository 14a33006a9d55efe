//! Auditing is off; the operator is installed, shows what it would change, is let, and has done exactly that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::image;
use crate::suite::operator;
use crate::wait;

use super::log;
use super::stage::{NAMESPACE, SOON, STATE, Stage};
use super::telling::figure;
use super::witness::Witness;

/// The simplest policy there is, and the log of a small test. Paused, to look at the plan first.
const FIRST: &str = "\
apiVersion: audit-operator.dev/v1alpha1
kind: AuditConfiguration
metadata:
  name: default
spec:
  policy:
    inline:
      rules:
        - level: Metadata
  log:
    maxAge: 1       # days
    maxBackups: 2   # files
    maxSize: 2      # MiB
  rollout:
    paused: true
";

/// What kubeadm wrote, and nobody has touched.
#[derive(Clone, Debug)]
pub(super) struct Original {
    /// The manifest.
    pub(super) manifest: Vec<u8>,
}

/// Installs the operator's chart.
pub(super) fn install(stage: &Stage<'_>) -> Result<Original> {
    stage.voice.headline("auditing is off: the manifest is what kubeadm wrote");
    let original = Original { manifest: stage.manifest()? };
    let text = String::from_utf8(original.manifest.clone()).context("kubeadm writes UTF-8")?;
    ensure!(!text.contains("--audit-"), "auditing is on:\n{text}");
    stage.voice.found("its manifest has no --audit- flag");

    stage.voice.headline("helm install: a controller, and an agent on each control-plane node");
    let reference = image::operator_reference();
    let (repository, _) = reference.rsplit_once(':').context("an image has a tag")?;
    // The image was imported into the node's containerd: there is no registry.
    let values = format!("image.repository={repository},image.pullPolicy=Never");
    helm(
        stage,
        &[
            "install",
            "audit-operator",
            "charts/audit-operator",
            "-n",
            NAMESPACE,
            "--create-namespace",
            "--set",
            &values,
        ],
    )?;
    for workload in ["deployment/audit-operator-controller", "daemonset/audit-operator-agent"] {
        stage.show(&["rollout", "status", workload, "-n", NAMESPACE, "--timeout=10m"])?;
    }
    let pods = stage.show(&["get", "pods", "-n", NAMESPACE])?;
    ensure!(pods.matches(" 1/1 ").count() == 2, "not one controller and one agent:\n{pods}");
    ensure!(stage.manifest()? == original.manifest, "the manifest was changed with nothing asked for");
    stage.voice.found("both run, and the manifest is untouched");
    Ok(original)
}

/// Shows the plan, and lets it happen.
pub(super) fn switch_on(stage: &Stage<'_>, original: &Original) -> Result<()> {
    stage.voice.headline("what is wanted, paused: the node reports the diff, and nothing is written");
    let witness = Witness::start(stage.node())?;
    stage.apply(FIRST)?;
    stage.reason("auditcfg", "default", "Ready", "Paused")?;
    let diff = wait::until("the node's plan", SOON, || {
        let diff = stage.kubectl(&["get", "auditnode", "n1", "-o", "jsonpath={.status.plan.diff}"])?;
        Ok((!diff.is_empty()).then_some(diff))
    })?;
    stage.voice.command(&["kubectl", "get", "auditnode", "n1", "-o", "jsonpath={.status.plan.diff}"], None);
    stage.voice.diff(&diff);
    ensure!(diff.contains("\n+    - --audit-log-maxage=1\n"), "the diff does not show the flags:\n{diff}");
    ensure!(stage.manifest()? == original.manifest, "the manifest was changed while paused");
    witness.nothing()?;
    stage.voice.found("byte for byte, the manifest is still kubeadm's");

    stage.voice.headline("let it happen: backup, swap, and the kubelet restarts the API server");
    let witness = Witness::start(stage.node())?;
    let started = Instant::now();
    stage.show(&[
        "patch",
        "auditcfg",
        "default",
        "--type=merge",
        "-p",
        r#"{"spec":{"rollout":{"paused":false}}}"#,
    ])?;
    stage.ready()?;
    let seconds = started.elapsed().as_secs_f64();
    let restarted = witness.one_change()?;
    stage.voice.found(&format!("the API server was restarted once, and is healthy ({seconds:.0} s)"));
    figure_of_test(stage, "change-seconds", &format!("{seconds:.1}"));
    stage.show(&["get", "auditcfg,auditnodes"])?;
    runs_with_exactly_that(stage, original)?;
    log_is_written(stage, restarted)
}

/// The manifest has the settings and nothing else is different; the backup is what was there; the journal is closed.
fn runs_with_exactly_that(stage: &Stage<'_>, original: &Original) -> Result<()> {
    let revision = stage.revision()?;
    let manifest = String::from_utf8(stage.manifest()?)?;
    let before = std::str::from_utf8(&original.manifest)?;
    let added = added_lines(before, &manifest).context("lines of the manifest were changed or removed")?;
    let mut wanted = wanted_lines(&revision);
    let mut found: Vec<String> = added.iter().map(|line| line.replace('"', "")).collect();
    wanted.sort();
    found.sort();
    ensure!(
        found == wanted,
        "added to the manifest were\n{}\nwanted:\n{}",
        found.join("\n"),
        wanted.join("\n")
    );

    let backups = stage.node().path(&format!("{STATE}/backups"));
    let backups: Vec<_> = fs::read_dir(&backups)?.collect::<std::io::Result<_>>()?;
    ensure!(backups.len() == 1, "{} backups", backups.len());
    ensure!(fs::read(backups[0].path())? == original.manifest, "the backup is not what was there before");
    let state = stage.journal_state()?;
    ensure!(state == "settled", "the journal says {state}");
    stage
        .voice
        .found(&format!("{} lines were added, none changed; the backup is kubeadm's manifest", found.len()));
    Ok(())
}

/// The flags, mounts and volumes as the article has them, in the operator's own places.
fn wanted_lines(revision: &str) -> Vec<String> {
    let policy = format!("/etc/kubernetes/audit/policy-{revision}.yaml");
    [
        &format!("    audit-operator.dev/revision: {revision}"),
        "    - --audit-log-maxage=1",
        "    - --audit-log-maxbackup=2",
        "    - --audit-log-maxsize=2",
        "    - --audit-log-path=/var/log/kubernetes/audit/audit.log",
        &format!("    - --audit-policy-file={policy}"),
        "    - mountPath: /var/log/kubernetes/audit",
        "      name: audit-log",
        &format!("    - mountPath: {policy}"),
        "      name: audit-policy",
        "      readOnly: true",
        "  - hostPath:",
        "      path: /var/log/kubernetes/audit",
        "      type: DirectoryOrCreate",
        "    name: audit-log",
        "  - hostPath:",
        &format!("      path: {policy}"),
        "      type: File",
        "    name: audit-policy",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The lines of `after` beside those of `before`; `None` when those are not all there, in their order.
fn added_lines<'t>(before: &str, after: &'t str) -> Option<Vec<&'t str>> {
    let mut before = before.lines().peekable();
    let is_new = |line: &&str| before.next_if_eq(line).is_none();
    let added = after.lines().filter(is_new).collect();
    before.peek().is_none().then_some(added)
}

fn log_is_written(stage: &Stage<'_>, since: jiff::Timestamp) -> Result<()> {
    let live = stage.log().live();
    let events = wait::until("lines in the audit log", SOON, || {
        let events = stage.log().events(since, "")?;
        Ok((!events.is_empty()).then_some(events.len()))
    })?;
    for (path, mode) in [(live.as_path(), 0o600), (stage.log().folder(), 0o700)] {
        ensure!(mode_of(path)? == mode, "{} has mode {:o}", path.display(), mode_of(path)?);
    }
    stage
        .voice
        .found(&format!("{}/audit.log has {events} events already, for root's eyes only", log::FOLDER));
    Ok(())
}

fn mode_of(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

/// A figure, when the story is told to somebody who wants figures.
fn figure_of_test(stage: &Stage<'_>, name: &str, value: &str) {
    if stage.voice == super::telling::Voice::Test {
        figure(name, value);
    }
}

/// helm in the repository's top folder, shown with its answer.
pub(super) fn helm(stage: &Stage<'_>, words: &[&str]) -> Result<()> {
    stage.voice.command(&[&["helm"], words].concat(), None);
    let answer = operator::helm(stage.cluster, words)?;
    // Below this are the chart's notes, which tell what the story does next.
    stage.voice.answer(answer.split("\nNOTES:").next().unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_added_lines_count_as_added() {
        assert_eq!(added_lines("a\nb\n", "a\nx\nb\ny\n"), Some(vec!["x", "y"]));
        assert_eq!(added_lines("a\nb\n", "a\nx\n"), None);
        assert_eq!(added_lines("a\nb\n", "b\na\n"), None);
    }
}
