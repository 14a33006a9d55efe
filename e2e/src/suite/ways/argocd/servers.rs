//! Argo CD's own processes beside the cluster: application-controller, repo-server, API server and redis.
//!
//! They are not in Pods, there is no registry for their images. Everything else is as it is installed: its CRDs, its
//! ConfigMaps as they are delivered, and a namespace `argocd`. One program is all of them, ARGOCD_BINARY_NAME says which.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::launch::{self, Lifetime};
use crate::progress::say;
use crate::run::output;
use crate::suite::ways::page::Desk;
use crate::wait;

/// The API server of Argo CD needs its CRDs and a few seconds.
const START: Duration = Duration::from_secs(180);
/// Nobody else is in the network of the cluster.
const PASSWORD: &str = "redis";
const REDIS: &str = "127.0.0.1:6379";
const REPO_SERVER: &str = "127.0.0.1:8081";
const SERVER: &str = "127.0.0.1:8080";
/// Seconds between the end of a sync wave's apply and the look at how healthy it is, by what its watches have brought until
/// then; by default 2. One that is late lets the next wave begin.
const SYNC_WAVE_DELAY: &str = "10";

/// The processes, until this is dropped.
#[derive(Debug)]
pub(super) struct Servers {
    running: Vec<Child>,
}

impl Servers {
    /// Installs Argo CD, starts it, and lets the desk's `argocd` know where it is.
    pub(super) fn start(cluster: &Cluster, desk: &mut Desk<'_>) -> Result<Self> {
        let program = cluster.program("argocd")?;
        install(cluster, program.parent().context("a program is in a folder")?)?;
        let base = desk.folder.with_extension("servers");
        fs::create_dir_all(&base)?;
        let mut servers = Self { running: Vec::new() };
        let redis =
            format!("--port 6379 --bind 127.0.0.1 --requirepass {PASSWORD} --save '' --appendonly no");
        // Debian's redis-server is this program under another name, and a service that nobody here wants.
        let redis = format!("exec -a redis-server redis-check-rdb {redis}");
        servers.launch(cluster, &base, "redis", Path::new("bash"), &["-c", &redis])?;
        let to_redis = ["--redis", REDIS];
        let repo = [&to_redis[..], &["--address", "127.0.0.1"]].concat();
        servers.launch(cluster, &base, "argocd-repo-server", &program, &repo)?;
        let to_both = [&to_redis[..], &["--repo-server", REPO_SERVER]].concat();
        servers.launch(cluster, &base, "argocd-application-controller", &program, &to_both)?;
        // Who may do what in Argo CD is not what is tested here.
        let open = [&to_both[..], &["--insecure", "--disable-auth", "--address", "127.0.0.1"]].concat();
        servers.launch(cluster, &base, "argocd-server", &program, &open)?;
        desk.set("ARGOCD_SERVER", SERVER);
        desk.set("ARGOCD_OPTS", "--plaintext");
        wait::until("Argo CD to answer", START, || desk.enter("argocd version --short").map(Some))
            .map(|version| say!("argocd is {}", version.split_whitespace().collect::<Vec<_>>().join(" ")))?;
        Ok(servers)
    }

    fn launch(
        &mut self,
        cluster: &Cluster,
        base: &Path,
        name: &str,
        program: &Path,
        arguments: &[&str],
    ) -> Result<()> {
        let folder = |of: &str| -> Result<PathBuf> {
            let folder = base.join(of);
            fs::create_dir_all(&folder)?;
            Ok(folder)
        };
        let path = std::iter::once(commands(&folder("bin")?)?);
        let path = std::env::join_paths(path.chain(std::env::split_paths(&cluster.search_path()?)))?;
        let log = File::create(folder("log")?.join(name).with_extension("log"))?;
        let inside = cluster.command(program)?;
        let mut command = launch::command(Lifetime::OfThisProcess, &[])?;
        command.arg(inside.get_program()).args(inside.get_args()).args(arguments);
        command.env("KUBECONFIG", kubeconfig(cluster, base)?);
        command.env("PATH", path).env("HOME", base).env("TMPDIR", folder("tmp")?);
        command.env("REDIS_PASSWORD", PASSWORD).env("ARGOCD_BINARY_NAME", name);
        command.env("ARGOCD_FAKE_IN_CLUSTER", "true").env("ARGOCD_GPG_ENABLED", "false");
        command.env("ARGOCD_TLS_DATA_PATH", folder("tls")?).env("ARGOCD_SSH_DATA_PATH", folder("ssh")?);
        command.env("ARGOCD_PLUGINSOCKFILEPATH", folder("plugins")?);
        command.env("ARGOCD_ASK_PASS_SOCK", base.join("ask-pass.sock"));
        command.env("ARGOCD_SYNC_WAVE_DELAY", SYNC_WAVE_DELAY);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.running.push(launch::start(&mut command).with_context(|| format!("starting {name}"))?);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.running {
            // One that has ended already said so in its log.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The folder with what Argo CD's image has beside its program: a script that looks at signatures, of which there are none here.
fn commands(folder: &Path) -> Result<PathBuf> {
    let script = folder.join("git-verify-wrapper.sh");
    if !script.exists() {
        fs::write(&script, "#!/bin/sh\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(folder.to_owned())
}

/// What its installation page applies, as far as it is no Pod.
fn install(cluster: &Cluster, program: &Path) -> Result<()> {
    let manifests = program.join("manifests");
    let at = |folder: &str| manifests.join(folder).to_string_lossy().into_owned();
    cluster.kubectl(&["create", "namespace", "argocd"])?;
    // The first of them makes an API server on a busy machine work for longer than a request may take.
    let crds = ["apply", "--server-side", "--kustomize", &at("crds")];
    wait::until("Argo CD's CRDs to be taken", START, || cluster.kubectl(&crds).map(Some))?;
    // Its API server gives up when it cannot write one at once.
    let served = ["get", "applications,applicationsets,appprojects", "--namespace=argocd"];
    wait::until("Argo CD's CRDs", START, || cluster.kubectl(&served).map(Some))?;
    cluster.kubectl(&["apply", "--namespace", "argocd", "--kustomize", &at("config")])?;
    Ok(())
}

/// The administrator's, with Argo CD's namespace.
fn kubeconfig(cluster: &Cluster, base: &Path) -> Result<PathBuf> {
    let path = base.join("kubeconfig");
    if !path.exists() {
        let mut view = cluster.kubectl_command()?;
        let usual = output(view.args(["config", "view", "--raw", "--flatten"]))?;
        fs::write(&path, usual)?;
        let mut set = Command::new(cluster.program("kubectl")?);
        set.args(["config", "set-context", "--current", "--namespace", "argocd", "--kubeconfig"]).arg(&path);
        output(&mut set)?;
    }
    Ok(path)
}
