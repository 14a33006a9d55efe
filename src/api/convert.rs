//! From a spec to what is rendered: the policy put together, the flags, the mounts. Pure.
//!
//! Whatever CEL in the CRD can say is said there too; here it is always checked, because a file read by the CLI has met
//! no API server. All findings are returned, each with the path of the field in the AuditConfiguration.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

use crate::audit::{Finding, Policy, ServerVersion, Severity, ValidPolicy, lint};
use crate::manifest::{Flag, Mount, PathType};
use crate::revision::{PLACEHOLDER, POLICY_FOLDER, Rendered};

use super::configuration::{AuditConfigurationSpec, LogBackend, LogFormat, LogMode, PolicySource};
use super::{duration, rollout};

/// Volume of the log folder; the name that the usual hand-made set-up uses.
pub const LOG_VOLUME: &str = "audit-log";
/// Volume of the policy file.
pub const POLICY_VOLUME: &str = "audit-policy";
/// Standard output as log path.
const STDOUT: &str = "-";

/// Folders that must never be mounted writable into the API server's Pod as a log folder, nor hold a policy file.
pub(super) const SYSTEM_FOLDERS: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/kubernetes",
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
    "/etc/ssl",
    "/etc/ssl/certs",
    "/home",
    "/lib",
    "/lib64",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/local",
    "/usr/local/bin",
    "/var",
    "/var/lib",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log",
    "/var/log/pods",
    "/var/log/containers",
    "/var/run",
];

/// Renders a spec for a kube-apiserver of `server`. `config_map` is the text under `spec.policy.configMapRef`, when the
/// spec has one. With the rendering come the warnings; without it, every finding.
pub fn render(
    spec: &AuditConfigurationSpec,
    config_map: Option<&str>,
    server: ServerVersion,
) -> Result<(Rendered, Vec<Finding>), Vec<Finding>> {
    let (policy, mut findings) = policy(&spec.policy, config_map, server);
    findings.extend(log_findings(&spec.log));
    if selector(&spec.node_selector).is_none() {
        let message =
            "selects every node or is not a label selector; leave it out to select every control-plane node";
        findings.push(Finding::operator("node-selector", "spec.nodeSelector", message));
    }
    findings.extend(rollout::findings(&spec.rollout, &spec.proof));
    findings.extend(spec.policy.path.as_deref().and_then(policy_path_finding));
    match policy {
        Some(policy) if findings.iter().all(|f| f.severity() != Severity::Error) => {
            let path = match &spec.policy.path {
                Some(path) => path.clone(),
                None => format!("{POLICY_FOLDER}/policy-{PLACEHOLDER}.yaml"),
            };
            let flags = flags(&spec.log, &path);
            let mounts = mounts(&spec.log, &path);
            Ok((Rendered::new(&policy, &path, &flags, &mounts), findings))
        }
        _ => Err(findings),
    }
}

/// The policy with the rules around it, and every finding about it; `None` when one of them is an error.
fn policy(
    source: &PolicySource,
    config_map: Option<&str>,
    server: ServerVersion,
) -> (Option<ValidPolicy>, Vec<Finding>) {
    let given = [source.profile.is_some(), source.inline.is_some(), source.config_map_ref.is_some()];
    if given.iter().filter(|g| **g).count() != 1 {
        let message = "exactly one of `profile`, `inline` and `configMapRef` is needed";
        return (None, vec![Finding::operator("policy-source", "spec.policy", message)]);
    }
    let mut findings = Vec::new();
    let base = if let Some(profile) = source.profile {
        profile.policy()
    } else if let Some(inline) = &source.inline {
        inline.clone()
    } else {
        let Some(text) = config_map else {
            let message = "the ConfigMap's text is needed to render; without a cluster, put the ConfigMap into the same file or give the policy inline";
            return (None, vec![Finding::operator("config-map-unread", "spec.policy.configMapRef", message)]);
        };
        let (valid, found) = ValidPolicy::load(text.as_bytes(), server);
        findings.extend(found.into_iter().map(|f| Finding { path: in_config_map(&f), position: None, ..f }));
        match valid {
            Some(valid) => valid.policy().clone(),
            None => return (None, findings),
        }
    };
    let from_config_map = source.config_map_ref.is_some();
    let (before, within) = (source.prepend.len(), base.rules.len());
    let rules = source.prepend.iter().chain(&base.rules).chain(&source.append).cloned().collect();
    let (valid, found) = match ValidPolicy::new(Policy { rules, ..base }, server) {
        Ok(valid) => {
            let warnings = lint(valid.policy(), server);
            (Some(valid), warnings)
        }
        Err(findings) => (None, findings),
    };
    findings.extend(found.into_iter().filter_map(|f| {
        let path = locate(&f.path, before, within, source);
        // What was said of the ConfigMap's own text, with its line, is not said again.
        let again = from_config_map && findings_of_base(&f.path, before, within);
        (!again).then_some(Finding { path, ..f })
    }));
    (valid, findings)
}

/// `None` for a selector that is not one, or that selects everything: an audit configuration is never meant for
/// workers, and an empty selector is nearly always a mistake.
pub fn selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::try_from(selector.clone()).ok().filter(|s| !s.selects_all())
}

fn in_config_map(finding: &Finding) -> String {
    let place = match &finding.position {
        Some(position) => format!("(line {}, column {}) {}", position.line, position.column, finding.path),
        None => finding.path.clone(),
    };
    format!("spec.policy.configMapRef {place}").trim_end().to_owned()
}

fn rule_index(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix("rules[")?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

fn findings_of_base(path: &str, before: usize, within: usize) -> bool {
    rule_index(path).is_none_or(|(index, _)| (before..before + within).contains(&index))
}

/// The field of the AuditConfiguration that `path`, a field of the policy put together, came from.
fn locate(path: &str, before: usize, within: usize, source: &PolicySource) -> String {
    let base = match source {
        PolicySource { profile: Some(_), .. } => "spec.policy.profile",
        PolicySource { inline: Some(_), .. } => "spec.policy.inline",
        _ => "spec.policy.configMapRef",
    };
    match rule_index(path) {
        Some((i, rest)) if i < before => format!("spec.policy.prepend[{i}]{rest}"),
        Some((i, rest)) if i < before + within => format!("{base}.rules[{}]{rest}", i - before),
        Some((i, rest)) => format!("spec.policy.append[{}]{rest}", i - before - within),
        None if path.is_empty() => base.to_owned(),
        None => format!("{base}.{path}"),
    }
}

/// Why this cannot be a file of ours on a node, if so.
fn path_problem(path: &str) -> Option<&'static str> {
    let folder = folder(path);
    if !path.starts_with('/') {
        Some("must be absolute")
    } else if path.ends_with('/') {
        Some("must name a file, not a folder")
    } else if path[1..].split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        Some("must not contain `//`, `.` or `..`")
    } else if path.contains(PLACEHOLDER) || path.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Some("must not contain spaces, control characters or the revision's placeholder")
    } else if folder.starts_with("/etc/kubernetes/manifests") {
        Some("must not lie where the kubelet looks for static Pods")
    } else {
        None
    }
}

fn policy_path_finding(path: &str) -> Option<Finding> {
    let problem = path_problem(path).or_else(|| {
        (folder(path) == "/etc/kubernetes/pki").then_some("must not lie among the certificates")
    })?;
    Some(Finding::operator("policy-path", "spec.policy.path", format!("`{path}` {problem}")))
}

fn log_findings(log: &LogBackend) -> Vec<Finding> {
    let mut findings = Vec::new();
    if log.path != STDOUT {
        let problem = path_problem(&log.path).or_else(|| {
            SYSTEM_FOLDERS.contains(&folder(&log.path)).then_some(
                "lies in a system folder, which would be mounted writable into the API server; give the log a folder of its own, such as /var/log/kubernetes/audit/",
            )
        });
        findings.extend(
            problem.map(|p| Finding::operator("log-path", "spec.log.path", format!("`{}` {p}", log.path))),
        );
    }
    if log.max_size == 0 {
        let message =
            "must be at least 1: kube-apiserver 1.36 and later never rotate with 0, earlier ones at 100 MiB";
        findings.push(Finding::operator("log-max-size", "spec.log.maxSize", message));
    }
    if let Some(batch) = &log.batch {
        if log.mode != Some(LogMode::Batch) {
            let message = "needs `mode: batch`; kube-apiserver ignores it otherwise";
            findings.push(Finding::operator("log-batch-mode", "spec.log.batch", message));
        }
        if batch.max_wait.as_deref().is_some_and(|wait| duration::parse(wait).is_none()) {
            let message = "is not a duration such as `500ms` or `1m30s`";
            findings.push(Finding::operator("log-batch-wait", "spec.log.batch.maxWait", message));
        }
        if batch.throttle_enable == Some(true)
            && (batch.throttle_qps.is_none() || batch.throttle_burst.is_none())
        {
            let message =
                "needs `throttleQPS` and `throttleBurst`; kube-apiserver does not start without them";
            findings.push(Finding::operator("log-batch-throttle", "spec.log.batch.throttleEnable", message));
        }
    }
    if let Some(truncate) = &log.truncate {
        // kube-apiserver's defaults (apiserver: plugin/pkg/audit/truncate), checked by it even when truncation is off.
        let (batch, event) =
            (truncate.max_batch_size.unwrap_or(10_485_760), truncate.max_event_size.unwrap_or(102_400));
        if batch < event {
            let message =
                format!("{batch} is less than `maxEventSize` {event}; kube-apiserver does not start");
            findings.push(Finding::operator("log-truncate-size", "spec.log.truncate.maxBatchSize", message));
        }
    }
    findings
}

fn folder(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((folder, _)) => folder,
    }
}

/// The flags, sorted by name: `manifest` writes them in this order, and `extraArgs` of a kubeadm configuration must have
/// the same one for kubeadm to write the same manifest.
fn flags(log: &LogBackend, policy_path: &str) -> Vec<Flag> {
    let mut flags = vec![
        ("audit-policy-file", Some(policy_path.to_owned())),
        ("audit-log-path", Some(log.path.clone())),
        ("audit-log-maxage", Some(log.max_age.to_string())),
        ("audit-log-maxbackup", Some(log.max_backups.to_string())),
        ("audit-log-maxsize", Some(log.max_size.to_string())),
        ("audit-log-compress", log.compress.map(|c| c.to_string())),
        (
            "audit-log-format",
            log.format.map(|f| match f {
                LogFormat::Json => "json".to_owned(),
                LogFormat::Legacy => "legacy".to_owned(),
            }),
        ),
        (
            "audit-log-mode",
            log.mode.map(|m| match m {
                LogMode::Blocking => "blocking".to_owned(),
                LogMode::BlockingStrict => "blocking-strict".to_owned(),
                LogMode::Batch => "batch".to_owned(),
            }),
        ),
    ];
    if let Some(batch) = &log.batch {
        flags.extend([
            ("audit-log-batch-buffer-size", batch.buffer_size.map(|v| v.to_string())),
            ("audit-log-batch-max-size", batch.max_size.map(|v| v.to_string())),
            ("audit-log-batch-max-wait", batch.max_wait.clone()),
            ("audit-log-batch-throttle-enable", batch.throttle_enable.map(|v| v.to_string())),
            ("audit-log-batch-throttle-qps", batch.throttle_qps.map(|v| v.to_string())),
            ("audit-log-batch-throttle-burst", batch.throttle_burst.map(|v| v.to_string())),
        ]);
    }
    if let Some(truncate) = &log.truncate {
        flags.extend([
            ("audit-log-truncate-enabled", Some(truncate.enabled.to_string())),
            ("audit-log-truncate-max-batch-size", truncate.max_batch_size.map(|v| v.to_string())),
            ("audit-log-truncate-max-event-size", truncate.max_event_size.map(|v| v.to_string())),
        ]);
    }
    let mut flags: Vec<Flag> = flags
        .into_iter()
        .filter_map(|(name, value)| Some(Flag { name: name.to_owned(), value: value? }))
        .collect();
    flags.sort_by(|a, b| a.name.cmp(&b.name));
    flags
}

fn mounts(log: &LogBackend, policy_path: &str) -> Vec<Mount> {
    let log_folder = (log.path != STDOUT).then(|| Mount {
        name: LOG_VOLUME.to_owned(),
        host_path: folder(&log.path).to_owned(),
        mount_path: folder(&log.path).to_owned(),
        path_type: PathType::DirectoryOrCreate,
        read_only: false,
    });
    let policy_file = Mount {
        name: POLICY_VOLUME.to_owned(),
        host_path: policy_path.to_owned(),
        mount_path: policy_path.to_owned(),
        path_type: PathType::File,
        read_only: true,
    };
    log_folder.into_iter().chain([policy_file]).collect()
}

#[cfg(test)]
mod tests;
