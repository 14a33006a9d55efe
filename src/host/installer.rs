//! The installer's manifest in the manifests folder, which the agent adds and the installer takes away.

use std::path::PathBuf;

use crate::install::Order;
use crate::install::pod::{self, InstallerPod};

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

    /// Adds the installer for an order: from now on the kubelet runs it, also after a reboot.
    pub fn add_installer(&self, order: &Order, pod: &InstallerPod<'_>) -> Result<(), Error> {
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
        let pod = InstallerPod { node_name: "n1", image: "i", port: 6443 };
        host.add_installer(&order(), &pod).unwrap();
        assert!(host.has_installer(&order().id).unwrap());
        host.remove_installer("another").unwrap();
        assert!(host.has_installer(&order().id).unwrap(), "another order's");
        host.remove_installer(&order().id).unwrap();
        assert!(!host.has_installer(&order().id).unwrap());
    }
}
