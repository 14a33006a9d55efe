//! The state folder: order, journal, the last settled order, last known good, backups, and the lock.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::install::order::{self, STATE_FOLDER};
use crate::install::{Journal, Order, journal};
use crate::manifest;

use super::disk::{Disk, Held};
use super::{Error, Host, file};

const ORDER: &str = "order.json";
const JOURNAL: &str = "journal.json";
const SETTLED: &str = "settled.json";
const LOCK: &str = "lock";
const BACKUPS: &str = "backups";
const LAST_KNOWN_GOOD: &str = "last-known-good/kube-apiserver.yaml";

/// Held by the one process that works on this node; given back when dropped, also by a crash.
#[derive(Debug)]
pub struct Lock {
    _held: Box<dyn Held>,
}

impl Host {
    /// The folders, as they are for this process, that an agent writes to.
    pub fn agents_folders(&self) -> Vec<PathBuf> {
        vec![self.manifests_folder(), self.at(STATE_FOLDER)]
    }

    fn state(&self, name: &str) -> PathBuf {
        self.at(STATE_FOLDER).join(name)
    }

    /// Takes the lock, or says at once that another process has it.
    pub fn lock(&self) -> Result<Lock, Error> {
        file::create_folder(self.disk(), &self.at(STATE_FOLDER))?;
        let path = self.state(LOCK);
        match self.disk().lock(&path) {
            Ok(Some(held)) => Ok(Lock { _held: held }),
            Ok(None) => Err(Error::Locked(path)),
            Err(error) => Err(Error::file("lock", &path)(error)),
        }
    }

    /// The order given last.
    pub fn order(&self) -> Result<Option<Order>, Error> {
        let path = self.state(ORDER);
        let order: Option<Order> = read_json(self.disk(), &path)?;
        known(order, |o| o.version, order::VERSION, &path)
    }

    /// Gives an order: from the moment this returns it will be carried out.
    pub fn give(&self, order: &Order) -> Result<(), Error> {
        file::create_folder(self.disk(), &self.at(STATE_FOLDER))?;
        write_json(self.disk(), &self.state(ORDER), order)
    }

    /// The journal of the order given last or of the one before it.
    pub fn journal(&self) -> Result<Option<Journal>, Error> {
        let path = self.state(JOURNAL);
        let journal: Option<Journal> = read_json(self.disk(), &path)?;
        known(journal, |j| j.version, journal::VERSION, &path)
    }

    /// Writes the journal; a settled order is remembered first, since a settled journal is never looked at again.
    pub fn record(&self, order: &Order, journal: &Journal) -> Result<(), Error> {
        if journal.state == journal::State::Settled {
            write_json(self.disk(), &self.state(SETTLED), order)?;
        }
        write_json(self.disk(), &self.state(JOURNAL), journal)
    }

    /// The last order that settled.
    pub fn settled(&self) -> Result<Option<Order>, Error> {
        let path = self.state(SETTLED);
        let order: Option<Order> = read_json(self.disk(), &path)?;
        known(order, |o| o.version, order::VERSION, &path)
    }

    pub(super) fn last_known_good_path(&self) -> PathBuf {
        self.state(LAST_KNOWN_GOOD)
    }

    pub(super) fn last_known_good(&self) -> Result<Option<Vec<u8>>, Error> {
        file::read(self.disk(), &self.last_known_good_path())
    }

    /// Copies the manifest, checked to be the order's `from`, as backup and as last known good.
    pub fn keep_last_known_good(&self, order: &Order) -> Result<(), Error> {
        let path = self.at(&order.manifest);
        let bytes = file::read(self.disk(), &path)?.unwrap_or_default();
        if manifest::digest(&bytes) != order.from {
            return Err(Error::Content { path, problem: "was changed while it was being copied".to_owned() });
        }
        for copy in [self.at(&order.backup()), self.last_known_good_path()] {
            file::create_folder(
                self.disk(),
                copy.parent().expect("a path in the state folder has a folder"),
            )?;
            file::replace(self.disk(), &copy, &bytes)?;
            let read_back = file::read(self.disk(), &copy)?.unwrap_or_default();
            if read_back != bytes {
                return Err(Error::Content {
                    path: copy,
                    problem: "does not hold what was written to it".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Removes backups beyond those kept, and policy files with a revision in their name that nothing kept refers to.
    pub fn prune(&self, order: &Order) -> Result<(), Error> {
        let folder = self.state(BACKUPS);
        let mut backups = file::list(self.disk(), &folder)?;
        // Names begin with the time of the order, so the oldest come first.
        let surplus = backups.len().saturating_sub(order.keep_backups as usize);
        for name in backups.drain(..surplus) {
            file::remove(self.disk(), &folder.join(name))?;
        }
        let original = order.original.as_ref().map(|original| original.clone().into_bytes());
        // The kubelet may run the target still, or again, where somebody else has written the manifest since.
        let target = Some(order.target.clone().into_bytes());
        let manifest = file::read(self.disk(), &self.at(&order.manifest))?;
        let mut kept = vec![manifest, target, self.last_known_good()?, original];
        for name in &backups {
            kept.push(file::read(self.disk(), &folder.join(name))?);
        }
        let kept: Vec<String> =
            kept.into_iter().flatten().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        let policies = self.at(crate::revision::POLICY_FOLDER);
        for name in file::list(self.disk(), &policies)? {
            if crate::revision::is_policy_file(&name) && !kept.iter().any(|text| text.contains(&name)) {
                file::remove(self.disk(), &policies.join(name))?;
            }
        }
        Ok(())
    }
}

fn read_json<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>, Error> {
    let Some(bytes) = file::read(disk, path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Content {
        path: path.to_owned(),
        problem: format!(
            "cannot be understood ({error}): move it away after looking at the node's manifest and `{STATE_FOLDER}/{BACKUPS}`"
        ),
    })
}

fn write_json(disk: &dyn Disk, path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("orders and journals always become JSON");
    bytes.push(b'\n');
    file::replace(disk, path, &bytes)
}

fn known<T>(value: Option<T>, version: fn(&T) -> u32, known: u32, path: &Path) -> Result<Option<T>, Error> {
    match value {
        Some(value) if version(&value) > known => Err(Error::Content {
            path: path.to_owned(),
            problem: format!(
                "has format {}, this program knows up to {known}: it was written by a later version of audit-operator",
                version(&value)
            ),
        }),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::install::next::tests::order;

    /// History 31682 of the simulation: somebody wrote the manifest after the node was booted with the change. The kubelet ran that
    /// still, and replaces no API server that does not come up.
    #[test]
    fn the_policy_of_the_change_stays_although_somebody_else_has_written_the_manifest() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), order().manifest, None);
        let (manifest, policies) = (host.at(&order().manifest), host.at(crate::revision::POLICY_FOLDER));
        let policy = |digit: &str| format!("policy-{}.yaml", digit.repeat(16));
        for folder in [manifest.parent().unwrap(), &policies] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(&manifest, policy("a")).unwrap();
        for digit in ["a", "b", "c"] {
            fs::write(policies.join(policy(digit)), "rules: []").unwrap();
        }
        host.prune(&Order { target: policy("b"), ..order() }).unwrap();
        assert_eq!(file::list(host.disk(), &policies).unwrap(), [policy("a"), policy("b")]);
    }
}
