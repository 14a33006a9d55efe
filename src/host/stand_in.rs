//! The stand-in on the node: its manifest in the manifests folder, its Pod, its own audit log.

use std::path::{Path, PathBuf};

use crate::install::addresses::Addresses;
use crate::install::order::{self, STATE_FOLDER};
use crate::install::stand_in::{self, Role, Seen, StandIn};
use crate::install::{Health, Journal, Order};
use crate::manifest;

use super::server::PodLogs;
use super::{CONTROL_GROUPS, Error, Host, file, server, stand_in_log};

/// What the table of a stand-in's clients is called, before the order's label.
const ADDRESSES: &str = "stand-in-addresses-";

/// A stand-in's own audit log.
#[derive(Debug, PartialEq, Eq)]
struct RawLog {
    raw: PathBuf,
    /// The real one.
    into: PathBuf,
    /// Whose addresses are in it.
    table: PathBuf,
}

impl Host {
    pub(super) fn manifests_folder(&self) -> PathBuf {
        let path = self.at(&self.manifest);
        path.parent().map_or_else(|| PathBuf::from("/"), ToOwned::to_owned)
    }

    /// Files of stand-ins in the manifests folder that are not of the one that is wanted.
    pub(super) fn stray_stand_ins(&self, order: &Order, journal: &Journal) -> Result<Vec<String>, Error> {
        let wanted = journal.wanted_stand_in(order).map(|s| s.file_name(&order.id));
        let mut names = file::list(self.disk(), &self.manifests_folder())?;
        names.retain(|name| name.starts_with(stand_in::PREFIX) && Some(name) != wanted.as_ref());
        Ok(names)
    }

    /// Takes the manifests of all stand-ins but the wanted one out of the folder.
    pub fn remove_stand_ins(&self, order: &Order, journal: &Journal) -> Result<(), Error> {
        for name in self.stray_stand_ins(order, journal)? {
            file::remove(self.disk(), &self.manifests_folder().join(name))?;
        }
        Ok(())
    }

    /// Puts the manifest of the journal's stand-in into the folder.
    pub fn add_stand_in(&self, order: &Order, journal: &Journal) -> Result<(), Error> {
        let Some(stand_in) = journal.wanted_stand_in(order) else { return Ok(()) };
        let text = self.stand_in_manifest(order, stand_in)?;
        file::replace(
            self.disk(),
            &self.manifests_folder().join(stand_in.file_name(&order.id)),
            text.as_bytes(),
        )
    }

    pub(super) fn stand_in_manifest(&self, order: &Order, stand_in: &StandIn) -> Result<String, Error> {
        let made_from = match stand_in.role {
            Role::Candidate | Role::StartOnly => order.target.clone(),
            Role::LastKnownGood => {
                String::from_utf8_lossy(&self.last_known_good()?.unwrap_or_default()).into_owned()
            }
        };
        stand_in.manifest(&made_from, order).map_err(|problem| Error::Content {
            path: self.at(&order.manifest),
            problem: format!("cannot be made into a stand-in's: {problem}"),
        })
    }

    /// The table of the clients of an order's stand-ins.
    pub fn addresses_path(&self, order: &Order) -> PathBuf {
        self.addresses_of(&order::label(&order.id))
    }

    fn addresses_of(&self, label: &str) -> PathBuf {
        self.at(STATE_FOLDER).join(format!("{ADDRESSES}{label}"))
    }

    /// The audit logs that the API server has with the order's target and with the manifest from before.
    pub(super) fn audit_logs(&self, order: &Order) -> Result<Vec<PathBuf>, Error> {
        let before = self.last_known_good()?.unwrap_or_default();
        let manifests = [order.target.as_str(), &String::from_utf8_lossy(&before)].map(manifest::read);
        let files = manifests.iter().flatten().filter_map(|manifest| manifest.file_of("audit-log-path"));
        Ok(files.map(|path| self.at(&path)).collect())
    }

    /// Audit logs of stand-ins, whole or partly brought to the real log beside them, each with that; also those an earlier
    /// install had to leave.
    fn stand_in_logs(&self, order: &Order) -> Result<Vec<RawLog>, Error> {
        let mut logs = Vec::new();
        for into in self.audit_logs(order)? {
            for name in file::list(self.disk(), into.parent().unwrap_or(&into))? {
                let (raw, label) = match stand_in::raw_log(&name) {
                    // What is only called nearly so, such as a copy that somebody made, would be there for ever.
                    Some((raw, _)) if !stand_in_log::is_of(Path::new(&raw), &name) => continue,
                    Some(found) => found,
                    // Its raw files are gone already, so any name does.
                    None if name == stand_in_log::staged_name(&into) => (name.clone(), ""),
                    None => continue,
                };
                let raw = into.with_file_name(raw);
                let log = RawLog { raw, into: into.clone(), table: self.addresses_of(label) };
                if !logs.contains(&log) {
                    logs.push(log);
                }
            }
        }
        Ok(logs)
    }

    /// Whether audit events of stand-ins still have to be brought to the real log.
    pub(super) fn has_stand_in_logs(&self, order: &Order) -> Result<bool, Error> {
        Ok(!self.stand_in_logs(order)?.is_empty())
    }

    /// Brings the audit events of stand-ins to the real log, with their true source addresses.
    pub fn merge_stand_in_logs(&self, order: &Order) -> Result<(), Error> {
        let logs = self.stand_in_logs(order)?;
        for RawLog { raw, into, table } in &logs {
            let addresses = Addresses::parse(&file::read(self.disk(), table)?.unwrap_or_default());
            stand_in_log::merge(self.disk(), raw, &addresses, into)?;
        }
        // Not before: all stand-ins of an order have the same one.
        logs.iter().try_for_each(|log| file::remove(self.disk(), &log.table))
    }

    /// Whether the kubelet still has a Pod of one of the order's stand-ins. An earlier one may take longer to end than the one
    /// in use, and writes to its log until then.
    pub(super) fn has_stand_in(&self, order: &Order) -> bool {
        let (name, groups) = (stand_in::pods_prefix(&order.id), self.at(CONTROL_GROUPS));
        let pods = file::list(self.disk(), &self.at(server::POD_LOGS)).unwrap_or_default();
        // `<namespace>_<pod>_<uid>`, none of which has an underscore.
        let mut uids =
            pods.iter().filter_map(|pod| pod.split_once('_')?.1.strip_prefix(&name)?.split_once('_'));
        uids.any(|(_, uid)| self.machine().has_pod(&groups, uid))
    }

    /// What there is of the journal's stand-in.
    pub(super) async fn observe_stand_in(
        &self,
        order: &Order,
        node: &str,
        stand_in: &StandIn,
    ) -> Result<Seen, Error> {
        let path = self.manifests_folder().join(stand_in.file_name(&order.id));
        let text = self.stand_in_manifest(order, stand_in)?;
        let in_place = file::read(self.disk(), &path)?.is_some_and(|bytes| bytes == text.as_bytes());
        let (mut starts, mut last_words) = (0, String::new());
        if let Ok(read) = manifest::read(&text) {
            let logs = PodLogs::new(self, node, &read);
            let containers = server::containers(&logs);
            starts = containers.starts.len();
            last_words = containers.last_words(self.disk(), false);
        }
        let listening = self.machine().listens(stand_in.port).await;
        let health = match listening {
            // One without etcd listens after a second and then answers nothing: each question would take its whole time, the
            // one in the swap too.
            true if stand_in.serves() => server::health_at(self.machine(), "127.0.0.1", stand_in.port).await,
            true => Health::NotReady("without etcd it is never ready".to_owned()),
            false => Health::NotReady("nothing listens on its port".to_owned()),
        };
        Ok(Seen { in_place, starts, health, listening, last_words })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use std::fs;

    use super::*;
    use crate::install::next::tests::order;

    /// A manifest that logs to /log/audit.log, which is `/var/log/x` on the node.
    const LOGS: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec:\n  containers:\n  \
                        - name: kube-apiserver\n    command: [kube-apiserver, --audit-log-path=/log/audit.log]\n    volumeMounts: \
                        [{name: log, mountPath: /log}]\n  volumes: [{name: log, hostPath: {path: /var/log/x}}]\n";

    #[test]
    fn all_stand_ins_of_an_order_have_one_table_and_it_goes_when_the_last_is_merged() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), order().manifest, None);
        let order =
            Order { id: "20260102T030405.678901Z-0123abcd".to_owned(), target: LOGS.to_owned(), ..order() };
        let (folder, table) = (root.path().join("var/log/x"), host.addresses_path(&order));
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(table.parent().unwrap()).unwrap();
        let client = "198.51.100.7".parse().unwrap();
        let addresses = Addresses::default();
        let entry = addresses.next(client).unwrap();
        fs::write(&table, format!("{entry}\n")).unwrap();
        for (role, port) in [(Role::Candidate, 16443), (Role::LastKnownGood, 16444)] {
            let event = format!("{{\"auditID\":\"{port}\",\"sourceIPs\":[\"{}\"]}}\n", entry.stand_in);
            fs::write(folder.join(StandIn { role, port }.log_name(&order.id)), event).unwrap();
        }
        assert!(host.has_stand_in_logs(&order).unwrap());
        host.merge_stand_in_logs(&order).unwrap();
        let merged: String = file::list(&crate::host::disk::RealDisk, &folder)
            .unwrap()
            .iter()
            .map(|name| fs::read_to_string(folder.join(name)).unwrap())
            .collect();
        assert_eq!(merged.matches("198.51.100.7").count(), 2, "{merged}");
        assert!(!table.exists() && !host.has_stand_in_logs(&order).unwrap());
    }

    #[tokio::test]
    async fn a_server_without_etcd_is_not_asked_what_it_never_answers() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), order().manifest, None);
        // It takes connections and says nothing, as kube-apiserver does while it waits for etcd.
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let target = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\nspec: {containers: \
                      [{name: kube-apiserver, command: [kube-apiserver]}]}\n";
        let order = Order { target: target.to_owned(), ..order() };
        let stand_in = StandIn { role: Role::StartOnly, port: silent.local_addr().unwrap().port() };
        let seen = host.observe_stand_in(&order, "n1", &stand_in).await.unwrap();
        let health = Health::NotReady("without etcd it is never ready".to_owned());
        assert_eq!((seen.listening, seen.health), (true, health));
    }
}
