//! How much room an audit log may take, by the flags of its API server.

use crate::manifest::Manifest;

/// The log file backend's claim on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBudget {
    /// Folder of the log on the node.
    pub folder: String,
    /// File name without its extension: rotated files begin with it.
    stem: String,
    /// Bytes it may grow to: the live file and every rotated one at full size.
    pub bytes: u64,
}

impl LogBudget {
    /// The claim of a manifest; `None` without a log file, or when rotated files are kept without a limit, so that no room is
    /// ever enough.
    pub fn of(manifest: &Manifest) -> Option<Self> {
        let path = manifest.flag("audit-log-path").filter(|path| path.starts_with('/'))?;
        let number = |flag: &str| manifest.flag(flag)?.parse::<u64>().ok().filter(|n| *n > 0);
        let files = number("audit-log-maxbackup")?.saturating_add(1);
        let bytes = files.saturating_mul(number("audit-log-maxsize")?).saturating_mul(1 << 20);
        let (folder, name) = path.rsplit_once('/')?;
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        Some(Self { folder: folder.to_owned(), stem: stem.to_owned(), bytes })
    }

    /// Whether a file of the folder is this log, live or rotated.
    pub fn is_log(&self, name: &str) -> bool {
        name.starts_with(&self.stem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    fn of(flags: &str) -> Option<LogBudget> {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: kube-apiserver}}\nspec: {{containers: [{{name: kube-apiserver, \
             command: [kube-apiserver, {flags}]}}]}}\n"
        );
        LogBudget::of(&manifest::read(&text).expect("a manifest"))
    }

    #[test]
    fn it_is_every_file_at_full_size() {
        let budget =
            of("--audit-log-path=/var/log/k/audit.log, --audit-log-maxbackup=10, --audit-log-maxsize=100");
        let budget = budget.expect("a log file");
        assert_eq!((budget.folder.as_str(), budget.bytes), ("/var/log/k", 1100 << 20));
        assert!(budget.is_log("audit.log") && budget.is_log("audit-2026-01-02T03-04-05.678.log.gz"));
        assert!(!budget.is_log("other.log"));
    }

    #[test]
    fn what_is_not_a_file_or_has_no_limit_has_none() {
        assert_eq!(of("--audit-log-path=-, --audit-log-maxbackup=1, --audit-log-maxsize=1"), None);
        assert_eq!(of("--audit-log-path=/a/b.log, --audit-log-maxbackup=0, --audit-log-maxsize=1"), None);
        assert_eq!(of("--v=2"), None);
    }
}
