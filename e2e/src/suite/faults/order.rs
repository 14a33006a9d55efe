//! Orders written by hand into a node's folder, as the agent writes them: the way past every check the operator makes
//! before it gives one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::node::Node;
use crate::suite::operator::{INSTALLER, Journal, MANIFEST, STATE, with_max_age};
use crate::suite::story::digest;

/// What an order brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Another `--audit-log-maxage`.
    Good,
    /// A flag that no kube-apiserver knows.
    UnknownFlag,
    /// A policy with a level that there is not.
    BadPolicy,
    /// The log where the API server must not write.
    ReadOnlyLog,
    /// A mount of a file that is not there: the Pod never starts.
    MissingMount,
}

/// How it is tried first, in the order's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rehearsal {
    /// By a stand-in.
    Auto,
    /// Not at all.
    None,
}

/// The order of an install that settled, and the installer's manifest of it.
#[derive(Clone, Debug)]
pub(super) struct Template {
    order: Value,
    installer: String,
}

/// An order that was given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Its identity.
    pub(super) id: String,
    /// The one it brings.
    pub(super) target: String,
}

impl Template {
    /// From what an install of the agent's leaves, and the installer's manifest seen meanwhile.
    pub(super) fn new(node: &Node, installer: String) -> Result<Self> {
        let order: Value = serde_json::from_slice(&fs::read(node.path(&format!("{STATE}/order.json")))?)?;
        let template = Self { order, installer };
        ensure!(template.installer.contains(template.id()?), "the installer's manifest is of another order");
        Ok(template)
    }

    fn id(&self) -> Result<&str> {
        self.order["id"].as_str().context("an order has an id")
    }

    /// Writes an order onto the node and adds the installer. `number` makes its manifest another one than any before.
    pub(super) fn give(
        &self,
        node: &Node,
        change: Change,
        rehearsal: Rehearsal,
        number: u32,
    ) -> Result<Given> {
        let before = fs::read_to_string(node.path(MANIFEST))?;
        let mut order = self.order.clone();
        let target = target(&before, change, number, &mut order)?;
        let now = Timestamp::now();
        let to = digest(target.as_bytes());
        let id = format!("{}-{}", now.strftime("%Y%m%dT%H%M%S%.6fZ"), &to[..8]);
        for (field, value) in [
            ("id", json!(id)),
            ("created", json!(now)),
            ("from", json!(format!("sha256:{}", digest(before.as_bytes())))),
            ("to", json!(format!("sha256:{to}"))),
            ("target", json!(target)),
            // Long enough for a start here, short enough to wait for in vain.
            ("healthTimeoutSeconds", json!(90)),
            ("rehearsal", json!(if rehearsal == Rehearsal::Auto { "Auto" } else { "None" })),
        ] {
            order[field] = value;
        }
        replace(&node.path(&format!("{STATE}/order.json")), &order.to_string())?;
        let label = |id: &str| id.to_lowercase().replace('.', "-");
        let installer = self.installer.replace(self.id()?, &id).replace(&label(self.id()?), &label(&id));
        replace(&node.path(INSTALLER), &installer)?;
        Ok(Given { id, target })
    }
}

fn target(before: &str, change: Change, number: u32, order: &mut Value) -> Result<String> {
    let good = with_max_age(before, number)?;
    let age = format!("    - --audit-log-maxage={number}\n");
    Ok(match change {
        Change::Good => good,
        Change::UnknownFlag => good.replace(&age, &format!("{age}    - --audit-log-typo=1\n")),
        Change::ReadOnlyLog => {
            let path = "/var/log/kubernetes/audit/audit.log";
            good.replace(
                &format!("--audit-log-path={path}"),
                "--audit-log-path=/etc/kubernetes/pki/audit.log",
            )
        }
        Change::BadPolicy => {
            let old = order["files"][0]["path"].as_str().context("an order has a policy")?.to_owned();
            let new = format!("/etc/kubernetes/audit/policy-{number}.yaml");
            let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Everything\n";
            order["files"] = json!([{"path": new, "content": policy, "previous": null}]);
            good.replace(&old, &new)
        }
        Change::MissingMount => {
            let path = order["files"][0]["path"].as_str().context("an order has a policy")?;
            good.replace(&format!("path: {path}"), "path: /etc/kubernetes/audit/none.yaml")
        }
    })
}

/// Waits until the order's journal is in a state, or has been, and is not at its end.
pub(super) fn reaches(node: &Node, id: &str, state: &str) -> Result<()> {
    let end = std::time::Instant::now() + super::PATIENCE;
    loop {
        // Not with the pauses of `wait`: some states last for a fraction of a second.
        let journal = Journal::of(node).ok().flatten().filter(|journal| journal.order == id);
        match journal {
            Some(journal) if journal.is_final() => {
                anyhow::bail!("it was never seen {state}, but {:?}: {}", journal.history, journal.reason)
            }
            Some(journal) if journal.was(state) => return Ok(()),
            _ if std::time::Instant::now() > end => anyhow::bail!("it does not become {state}: {journal:?}"),
            _ => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
}

/// As the operator writes: a hidden file, then a rename.
fn replace(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().context("a file has a name")?.to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.by-hand"));
    fs::write(&hidden, text)?;
    fs::rename(&hidden, path).with_context(|| format!("writing {}", path.display()))
}
