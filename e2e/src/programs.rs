//! Where the programs of a control plane are: the folders `e2e/k8s/build` made from the Go module proxy.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;

use crate::run::{LIMIT, ended, output};

/// What every cluster needs.
const NEEDED: [&str; 4] = ["kubernetes", "etcd", "containerd", "helm"];

/// The folders of built programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folders: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Asks the build script; refuses when something is not built.
    pub(crate) fn find() -> Result<Self> {
        let answer = output(Command::new(k8s_folder().join("build")).arg("--where"))?;
        let folders: BTreeMap<String, PathBuf> = answer
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, folder)| (name.to_owned(), PathBuf::from(folder)))
            .collect();
        let is_built = |name: &str| folders.get(name).is_some_and(|folder| folder.is_dir());
        let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !is_built(name)).collect();
        if !missing.is_empty() {
            bail!("not built: {}; run e2e/k8s/build (`make k8s`)", missing.join(", "));
        }
        // What only some targets need may not be there; whoever asks for such a program is told.
        let folders = folders.into_iter().filter(|(_, folder)| folder.is_dir()).collect();
        Ok(Self { folders })
    }

    /// The folders, to be made visible on a node.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.values().map(PathBuf::as_path)
    }

    /// A search path with the built programs before this machine's own.
    pub(crate) fn search_path(&self) -> Result<OsString> {
        let own = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let all = self.folders().chain(own.iter().map(Path::new));
        env::join_paths(all).context("a folder of built programs has a colon in its path")
    }

    /// The full path of one built program.
    pub(crate) fn path(&self, program: &str) -> Result<PathBuf> {
        let found = self.folders().map(|folder| folder.join(program)).find(|path| path.is_file());
        found.with_context(|| format!("`{program}` is in none of the folders `e2e/k8s/build --where` names"))
    }
}

/// Refuses when a cluster cannot be made here: without root, or without Debian's programs.
pub(crate) fn check_machine() -> Result<()> {
    ensure!(geteuid().is_root(), "namespaces, mounts and control groups need root");
    let check = ended(Command::new(k8s_folder().join("prerequisites")).arg("--check"), LIMIT)?;
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr).trim());
    Ok(())
}

/// The folder of the scripts and C sources, in the repository this program was built from.
pub(crate) fn k8s_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/k8s"))
}
