//! A node from the outside: switched on, cut off, looked into.
//!
//! A node is six namespaces (process, mount, network, host name, IPC, control group) with one process as their
//! PID 1, see [`crate::machine`]. Its disk is a folder of the state folder, so it can be read while it is off.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::launch::{self, Lifetime};
use crate::programs::Programs;
use crate::progress::say;
use crate::run::{output, tail};
use crate::state::State;
use crate::{cgroup, hub, network, process, wait};

/// One node of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) state: State,
    programs: Programs,
    /// Its number, from 1.
    pub(crate) number: u8,
    /// Its name, `n1`.
    pub(crate) name: String,
}

impl Node {
    /// The node with this number, on or off.
    pub(crate) fn new(state: &State, programs: &Programs, number: u8) -> Self {
        Self { state: state.clone(), programs: programs.clone(), number, name: network::name(number) }
    }

    /// Its address on the bridge.
    pub(crate) fn address(&self) -> String {
        network::address(self.number)
    }

    /// A file of the node's disk, by its path on the node; also while the node is off.
    pub(crate) fn path(&self, on_node: &str) -> PathBuf {
        self.folder().join("kept").join(on_node.trim_start_matches('/'))
    }

    /// The node's folder in the state folder, visible on the node under the same path.
    pub(crate) fn folder(&self) -> PathBuf {
        self.state.node(&self.name)
    }

    /// The log of `init`, `services`, `containerd`, `kubelet`, `kube-proxy` or `kubeadm`.
    pub(crate) fn log(&self, of: &str) -> PathBuf {
        self.folder().join("log").join(of).with_extension("log")
    }

    /// Switches the node on and returns when containerd answers. What was on its disk is there again.
    pub(crate) fn up(&self, pause_image: &str, lifetime: Lifetime) -> Result<()> {
        fs::create_dir_all(self.folder().join("log"))?;
        let group = format!("audit-operator-e2e-{}-{}", self.state.mark(), self.name);
        let cgroups = cgroup::make(&self.folder().join("cgroups"), &group)?;
        let log = File::create(self.log("init"))?;
        let mut command = launch::command(lifetime, &cgroups)?;
        command.arg("unshare");
        command.args(["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child"]);
        command.arg(std::env::current_exe().context("finding this program")?);
        command.args(["node-init", "--state"]).arg(self.state.root()).args(["--name", &self.name]);
        command.args(["--pause-image", pause_image]);
        for folder in self.programs.folders() {
            command.arg("--programs").arg(folder);
        }
        command.env_clear().env("PATH", self.programs.search_path()?).env("HOME", "/root");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        launch::start(&mut command)?;

        let deadline = Duration::from_secs(120);
        let appeared = || Ok(self.state.node_init(&self.name));
        let init = wait::until(&format!("{}'s PID 1", self.name), Duration::from_secs(20), appeared)
            .with_context(|| self.last_words("init"))?;
        hub::plug(&self.state, &self.name, init)?;
        let socket = format!("/proc/{init}/root/run/containerd/containerd.sock");
        let answers = || Ok(Some(UnixStream::connect(&socket)?));
        wait::until(&format!("containerd on {}", self.name), deadline, answers)
            .with_context(|| format!("{}{}", self.last_words("init"), self.last_words("containerd")))?;
        say!("{} is on ({}, PID 1 is {init})", self.name, self.address());
        Ok(())
    }

    /// Cuts the power: everything that runs on the node is gone when this returns, its disk stays.
    pub(crate) fn cut(&self) -> Result<()> {
        let ours = |a: &[String]| self.state.mentions(a) && a.windows(2).any(|w| w == ["--name", &self.name]);
        // With PID 1 ends all of the node. The other process is the program around it.
        let processes = process::find(ours);
        if let Some(init) = self.state.node_init(&self.name) {
            process::kill(init, ours)?;
        }
        for around in processes {
            process::kill(around, ours)?;
        }
        cgroup::remove(&self.folder().join("cgroups"))
    }

    /// Its PID 1, by its id on this machine.
    pub(crate) fn init(&self) -> Result<process::Id> {
        self.state.node_init(&self.name).with_context(|| format!("{} is off", self.name))
    }

    /// A command that will run on the node, in all of its namespaces, as its administrator.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let init = self.init()?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &init.to_string()]);
        command.args(["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--", program]);
        command.env_clear().env("PATH", self.programs.search_path()?).env("HOME", "/root");
        command.env("KUBECONFIG", "/etc/kubernetes/admin.conf");
        command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
        Ok(command)
    }

    /// Runs a program on the node to its end.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.command(program)?.args(arguments))
    }

    /// The end of one of the node's logs, for an error message.
    fn last_words(&self, of: &str) -> String {
        let text = fs::read_to_string(self.log(of)).unwrap_or_default();
        if text.is_empty() { String::new() } else { format!("{of} of {} said:{}\n", self.name, tail(&text)) }
    }
}
