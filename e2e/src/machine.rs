//! A node from the inside: PID 1 of a machine made of namespaces.
//!
//! It builds the node's root (an overlay over this machine's root whose writes go to memory, with the folders
//! that a reboot must not lose bound from the state folder), its network and its configuration, and then does
//! what systemd does on a real node: keep containerd, kubelet and kube-proxy running. When it is killed, every
//! process and mount of the node goes with it, which is a power cut.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    unmount,
};
use rustix::process::{WaitOptions, pivot_root, wait};
use rustix::system::sethostname;

use crate::run::output;
use crate::{cgroup, network, wait as condition};

/// What a node keeps over a power cut. Everything else is as on a freshly booted machine.
pub(crate) const KEPT: [&str; 9] = [
    "/etc/kubernetes",
    "/etc/cni/net.d",
    "/var/lib/audit-operator",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log",
    "/usr/libexec/kubernetes",
];

/// The kubelet sets these for the whole machine, which is not the node's to change. It leaves a value that is
/// right already, so it is shown files that hold the values it wants.
pub(crate) const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What tells one boot of a machine from another, below /proc/sys.
pub(crate) const BOOT: &str = "kernel/random/boot_id";
/// The node's own, made anew whenever it is switched on; this machine's stays the same over all power cuts.
const BOOT_OF_NODE: &str = "/run/boot-id";

/// Where [`base_of_containers`] is.
const BASE: &str = "/etc/containerd/base.json";

/// The folder, in the node's, of files named after services that are not to run.
pub(crate) const HELD: &str = "held";

/// How soon a service that ended is started again (kubeadm's unit file for the kubelet says 10 s).
const RESTART: Duration = Duration::from_secs(2);

/// What PID 1 is told.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The node's folder in the state folder.
    pub(crate) folder: PathBuf,
    /// Its name.
    pub(crate) name: String,
    /// Its number, from 1.
    pub(crate) number: u8,
    /// The pause image containerd makes sandboxes from.
    pub(crate) pause_image: String,
    /// The folders of built programs.
    pub(crate) programs: Vec<PathBuf>,
}

/// `e2e node-init`: never returns but for an error while starting.
pub(crate) fn run(machine: &Machine) -> Result<()> {
    sethostname(machine.name.as_bytes()).context("setting the host name")?;
    // Before the root changes: the control groups are read from this machine's /proc.
    let hierarchies = cgroup::hierarchies()?;
    let root = assemble_root(machine, &hierarchies)?;
    enter(&root)?;
    connect(machine.number)?;
    configure(machine)?;
    supervise(&machine.folder)
}

/// Mounts the node's root below its folder.
fn assemble_root(machine: &Machine, hierarchies: &[cgroup::Hierarchy]) -> Result<PathBuf> {
    let base = machine.folder.join("root");
    fs::create_dir_all(&base)?;
    filesystem("tmpfs", &base, "mode=755")?;
    let (upper, work, root) = (base.join("upper"), base.join("work"), base.join("merged"));
    for folder in [&upper, &work, &root] {
        fs::create_dir(folder)?;
    }
    filesystem(
        "overlay",
        &root,
        &format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display()),
    )?;
    mount_bind_recursive("/dev", root.join("dev")).context("binding /dev")?;
    filesystem("proc", &root.join("proc"), "")?;
    filesystem("sysfs", &root.join("sys"), "")?;
    filesystem("tmpfs", &root.join("run"), "mode=755")?;
    let groups = root.join("sys/fs/cgroup");
    filesystem("tmpfs", &groups, "mode=755")?;
    for hierarchy in hierarchies {
        let point = groups.join(hierarchy.option.trim_start_matches("name="));
        fs::create_dir(&point)?;
        let option = if hierarchy.option.starts_with("name=") { "none," } else { "" };
        filesystem("cgroup", &point, &format!("{option}{}", hierarchy.option))?;
    }
    for folder in machine.programs.iter().chain([&machine.folder]) {
        bind(folder, &root, folder)?;
    }
    for kept in KEPT {
        let source = machine.folder.join("kept").join(kept.trim_start_matches('/'));
        fs::create_dir_all(&source)?;
        let target = root.join(kept.trim_start_matches('/'));
        fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
        // With the small disks that a test has put into it.
        mount_bind_recursive(&source, &target).with_context(|| format!("binding {}", source.display()))?;
    }
    let hide = |name: &str, file: &Path, value: &str| -> Result<()> {
        fs::write(file, format!("{}\n", value.trim()))?;
        mount_bind(file, root.join("proc/sys").join(name))
            .with_context(|| format!("hiding the sysctl {name}"))
    };
    for (name, value) in SYSCTLS {
        hide(name, &root.join("run").join(name.replace('/', "-")), value)?;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/uuid").context("an identity for this boot")?;
    hide(BOOT, &root.join(BOOT_OF_NODE.trim_start_matches('/')), &boot)?;
    Ok(root)
}

/// Makes the assembled root the root of this mount namespace, and lets the old one go.
fn enter(root: &Path) -> Result<()> {
    std::env::set_current_dir(root)?;
    // The same folder twice puts the old root on top of the new one, from where it is taken off (pivot_root(2)).
    pivot_root(".", ".").context("changing the root")?;
    unmount(".", UnmountFlags::DETACH).context("letting the old root go")?;
    std::env::set_current_dir("/")?;
    // Containers with mountPropagation need mounts to travel, as systemd sets it up on a real machine.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("sharing mounts with containers")
}

/// Waits for the network card and gives it its addresses and routes.
fn connect(number: u8) -> Result<()> {
    let card = Path::new("/sys/class/net/eth0");
    condition::until("the network card", Duration::from_secs(60), || Ok(card.exists().then_some(())))?;
    let ip = |arguments: String| output(Command::new("ip").args(arguments.split(' ')));
    ip("link set lo up".to_owned())?;
    ip(format!("addr add {}/24 dev eth0", network::address(number)))?;
    ip("link set eth0 up".to_owned())?;
    // kubelet, kube-apiserver and CNI look for a default route. The hub forwards nothing.
    ip(format!("route add default via {}", network::HUB))?;
    for other in (1..=network::MOST_NODES).filter(|&other| other != number) {
        ip(format!("route add {} via {}", network::pods(other), network::address(other)))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding between Pods and the nodes")
}

fn configure(machine: &Machine) -> Result<()> {
    fs::write("/etc/hosts", network::hosts())?;
    // No name server: asking one must fail at once instead of timing out.
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n")?;
    fs::create_dir_all("/etc/containerd")?;
    fs::write("/etc/containerd/config.toml", containerd_configuration(&machine.pause_image))?;
    fs::write(BASE, base_of_containers(&output(Command::new("ctr").args(["oci", "spec"]))?)?)?;
    fs::write("/etc/cni/net.d/10-bridge.conflist", pod_network(machine.number))
        .context("writing the Pod network")
}

/// What every container begins with: what it has anyway, and the boot of its node. A container has a /proc of its own, and runc
/// takes no mount into that, but what is done to it before it becomes the container's is not undone.
fn base_of_containers(usual: &str) -> Result<String> {
    let mut base: serde_json::Value = serde_json::from_str(usual).context("containerd's usual container")?;
    let script = format!(
        r#"bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/') && mount --bind {BOOT_OF_NODE} "$bundle/rootfs/proc/sys/{BOOT}""#
    );
    base["hooks"] =
        serde_json::json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    Ok(base.to_string())
}

/// Configuration version 3 is containerd 2's. `restrict_oom_score_adj`: without CAP_SYS_RESOURCE runc cannot
/// write the negative value of a critical static Pod, and the Pod would not start.
fn containerd_configuration(pause_image: &str) -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause_image}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{BASE}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "/etc/cni/net.d"
"#
    )
}

/// A bridge for the node's Pods, routed to the other nodes without masquerading.
fn pod_network(number: u8) -> String {
    let pods = network::pods(number);
    let bridge = serde_json::json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
    });
    serde_json::json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}).to_string()
}

/// One service of the node.
struct Service {
    name: &'static str,
    /// The command line, once what it needs is on the disk.
    command: fn() -> Option<Vec<String>>,
    running: Option<u32>,
    not_before: Instant,
}

/// Keeps the services running and reaps every orphan of the node.
fn supervise(folder: &Path) -> Result<()> {
    let (logs, held) = (folder.join("log"), folder.join(HELD));
    let service = |name, command| Service { name, command, running: None, not_before: Instant::now() };
    let mut services =
        [service("containerd", containerd), service("kubelet", kubelet), service("kube-proxy", kube_proxy)];
    let mut journal = append(&logs.join("services.log"))?;
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let ended =
                services.iter_mut().find(|s| s.running == Some(pid.as_raw_nonzero().get().unsigned_abs()));
            if let Some(service) = ended {
                writeln!(journal, "{} ended: {status:?}", service.name)?;
                service.running = None;
                service.not_before = Instant::now() + RESTART;
            }
        }
        for service in services.iter_mut().filter(|s| s.running.is_none() && Instant::now() >= s.not_before) {
            let Some(command) = (service.command)().filter(|_| !held.join(service.name).exists()) else {
                continue;
            };
            let log = append(&logs.join(service.name).with_extension("log"))?;
            let mut program = Command::new(&command[0]);
            program.args(&command[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            match program.spawn() {
                Ok(child) => {
                    writeln!(journal, "{} started as {}", service.name, child.id())?;
                    service.running = Some(child.id());
                }
                Err(error) => {
                    writeln!(journal, "{} did not start: {error}", service.name)?;
                    service.not_before = Instant::now() + RESTART;
                }
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn containerd() -> Option<Vec<String>> {
    Some(words("containerd --config /etc/containerd/config.toml"))
}

/// As kubeadm's unit file has it: the files are kubeadm's, and the kubelet waits for them.
fn kubelet() -> Option<Vec<String>> {
    Path::new("/var/lib/kubelet/config.yaml").exists().then_some(())?;
    let flags = fs::read_to_string("/var/lib/kubelet/kubeadm-flags.env").ok()?;
    let flags = flags.trim().strip_prefix("KUBELET_KUBEADM_ARGS=")?.trim_matches('"').to_owned();
    Some(words(&format!(
        "kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
         --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml --v=2 {flags}"
    )))
}

/// Not a DaemonSet as kubeadm's: its image would need the iptables programs of a distribution.
fn kube_proxy() -> Option<Vec<String>> {
    let configuration = "/etc/kubernetes/kube-proxy.yaml";
    Path::new(configuration).exists().then(|| words(&format!("kube-proxy --config {configuration}")))
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

fn bind(source: &Path, root: &Path, path: &Path) -> Result<()> {
    let target = root.join(path.strip_prefix("/").unwrap_or(path));
    fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
    mount_bind(source, &target)
        .with_context(|| format!("binding {} to {}", source.display(), target.display()))
}

fn filesystem(kind: &str, target: &Path, options: &str) -> Result<()> {
    let data = CString::new(options)?;
    mount(kind, target, kind, MountFlags::empty(), data.as_c_str())
        .with_context(|| format!("mounting {kind} ({options}) on {}", target.display()))
}
