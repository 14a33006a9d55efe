//! The installer's manifest in the manifests folder, which the agent adds and the installer takes away.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::install::chore::{self, Chore};
use crate::install::order::STATE_FOLDER;
use crate::install::pod::{self, InstallerPod};
use crate::install::{Journal, Order};

use super::{Error, Host, file};

impl Host {
    fn installer_path(&self) -> PathBuf {
        self.manifests_folder().join(pod::FILE)
    }

    /// Whether the installer of the order of this identity is in the manifests folder.
    pub fn has_installer(&self, order_id: &str) -> Result<bool, Error> {
        let text = file::read(self.disk(), &self.installer_path())?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).contains(&pod::name(order_id)))
    }

    /// Whether a folder that the installer of this order writes to, or a log's own, is another user's than root's.
    pub fn has_strange_folders(&self, order: &Order) -> bool {
        let written = pod::written_folders(order).into_iter().chain(order.log_folders.iter().cloned());
        let strange =
            |path: String| std::fs::metadata(self.at(&path)).is_ok_and(|metadata| metadata.uid() != 0);
        written.into_iter().any(strange)
    }

    /// The folders, as they are for this process, that the installer of the order on the disk writes to.
    pub fn installers_folders(&self) -> Vec<PathBuf> {
        let order = self.order().ok().flatten();
        let mut folders = order.as_ref().map(pod::written_folders).unwrap_or_default();
        // Without an order it still takes its own manifest away.
        folders.extend([STATE_FOLDER.to_owned()]);
        let below = |path: &String| self.at(path);
        folders.iter().map(below).chain([self.manifests_folder()]).collect()
    }

    /// Checks the node, gives an order and adds its installer; somebody who works on the node right now is not disturbed.
    pub fn hand_over(&self, order: &Order, pod: &InstallerPod<'_>) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.preflight(order)?;
        self.give(order)?;
        self.add_installer(order, pod)
    }

    /// Does what is to be done about the installer of the order that was given last.
    pub fn do_chore(&self, chore: &Chore, order: &Order, pod: &InstallerPod<'_>) -> Result<(), Error> {
        let _lock = self.lock()?;
        match chore {
            Chore::AddInstaller => self.add_installer(order, pod),
            // Under the lock nobody begins it; somebody may just have done so.
            Chore::Withdraw if self.journal()?.is_some_and(|journal| journal.order == order.id) => Ok(()),
            Chore::Withdraw => {
                let now = self.machine().time_of_day();
                let journal = Journal::begin(&order.id, now).record(chore::withdrawn(pod.image), now);
                self.record(order, &journal)?;
                self.remove_installer(&order.id)
            }
            Chore::RemoveInstaller => self.remove_installer(&order.id),
        }
    }

    /// Adds the installer for an order: from now on the kubelet runs it, also after a reboot.
    fn add_installer(&self, order: &Order, pod: &InstallerPod<'_>) -> Result<(), Error> {
        file::replace(self.disk(), &self.installer_path(), pod::manifest(order, pod).as_bytes())
    }

    /// Takes the installer of this order out of the manifests folder; that of another order stays.
    pub fn remove_installer(&self, order_id: &str) -> Result<(), Error> {
        if self.has_installer(order_id)? {
            file::remove(self.disk(), &self.installer_path())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::next::tests::order;

    #[test]
    fn only_its_own_manifest_is_taken_away() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), "/m.yaml", None);
        let pod = InstallerPod { node_name: "n1", image: "i", port: 6443, strange_folders: false };
        host.add_installer(&order(), &pod).unwrap();
        assert!(host.has_installer(&order().id).unwrap());
        host.remove_installer("another").unwrap();
        assert!(host.has_installer(&order().id).unwrap(), "another order's");
        host.remove_installer(&order().id).unwrap();
        assert!(!host.has_installer(&order().id).unwrap());
    }
}
