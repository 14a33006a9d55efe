//! The faults the test bed can make, each seen to be one: a test that pauses a kubelet which is not paused proves
//! nothing.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Wanted};
use crate::fault::is_program;
use crate::launch::Lifetime;
use crate::node::Node;
use crate::progress::say;
use crate::suite::Given;
use crate::wait;

/// A static Pod: the kubelet's sign of life.
const SIGN: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: sign, namespace: default}\nspec:\n  hostNetwork: true\n  \
                    containers: [{name: sign, image: nginx, imagePullPolicy: IfNotPresent}]\n";
const SMALL: &str = "/var/log/small";
const SOON: Duration = Duration::from_secs(120);

pub(super) fn run(given: &Given) -> Result<()> {
    let wanted = Wanted { nodes: 1, operator: None, lifetime: Lifetime::OfThisProcess };
    let cluster = Cluster::up(&given.state, &wanted)?;
    let node = &cluster.nodes[0];
    kubelet(node)?;
    network(&cluster, node)?;
    disk(&cluster, node)
}

fn kubelet(node: &Node) -> Result<()> {
    let sign = node.path("/etc/kubernetes/manifests/sign.yaml");
    let started = || node.processes(|a| is_program(a, "workload"));
    // Static Pods start within a second here: ten are enough to see that one does not.
    let nothing_starts = |why: &str| -> Result<()> {
        fs::write(&sign, SIGN)?;
        let until = Instant::now() + Duration::from_secs(10);
        wait::until("ten seconds", SOON, || Ok((Instant::now() > until).then_some(())))?;
        ensure!(started()?.is_empty(), "{why}, and a static Pod was started");
        Ok(())
    };
    let it_starts = |why: &str| -> Result<()> {
        wait::until("the static Pod to start", SOON, || Ok((!started()?.is_empty()).then_some(())))
            .with_context(|| why.to_owned())?;
        fs::remove_file(&sign)?;
        wait::until("the static Pod to end", SOON, || Ok(started()?.is_empty().then_some(())))
    };
    node.pause_kubelet()?;
    nothing_starts("the kubelet is paused")?;
    node.resume_kubelet()?;
    it_starts("the kubelet goes on")?;
    node.stop_kubelet()?;
    nothing_starts("the kubelet is stopped")?;
    node.start_kubelet()?;
    it_starts("the kubelet was started")?;
    let before = node.processes(|a| is_program(a, "kubelet"))?;
    node.restart_kubelet()?;
    wait::until("another kubelet", SOON, || {
        let now = node.processes(|a| is_program(a, "kubelet"))?;
        Ok((!now.is_empty() && now != before).then_some(()))
    })?;
    say!("a kubelet can be paused, stopped and restarted");
    Ok(())
}

fn network(cluster: &Cluster, node: &Node) -> Result<()> {
    let answers = |wanted: bool| {
        wait::until("the API server's answer", SOON, || {
            ensure!(cluster.api_is_ready(node)? == wanted, "it answers: {}", !wanted);
            Ok(Some(()))
        })
    };
    answers(true)?;
    node.unplug()?;
    answers(false)?;
    let server = format!("--server=https://{}:6443", node.address());
    let inside = node.run("kubectl", &[&server, "get", "--raw", "/livez"])?;
    ensure!(inside == "ok", "on the node itself it says {inside}");
    node.plug_in()?;
    answers(true)?;
    say!("a node can be cut from the network and comes back");
    Ok(())
}

fn disk(cluster: &Cluster, node: &Node) -> Result<()> {
    fs::create_dir_all(node.path(SMALL))?;
    fs::write(node.path(SMALL).join("kept"), "from before")?;
    node.cut()?;
    let disk = node.mount_disk(SMALL, "1m")?;
    cluster.switch_on(node, Lifetime::OfThisProcess)?;
    // The file goes away again: writing over it would need no room.
    let script = format!("head -c 65536 /dev/zero > {SMALL}/new; status=$?; rm -f {SMALL}/new; exit $status");
    let write = || node.run("sh", &["-c", &script]);
    ensure!(
        node.run("cat", &[&format!("{SMALL}/kept")])? == "from before",
        "the disk has not what was there"
    );
    write()?;
    disk.fill()?;
    let full = format!("{:#}", write().err().context("a full disk takes more")?);
    ensure!(full.contains("No space left on device"), "a full disk says {full}");
    node.cut()?;
    cluster.switch_on(node, Lifetime::OfThisProcess)?;
    ensure!(write().is_err(), "a power cut made room");
    disk.drain()?;
    write()?;
    disk.remount("ro")?;
    let read_only = format!("{:#}", write().err().context("a read-only disk was written to")?);
    ensure!(read_only.contains("Read-only file system"), "a read-only disk says {read_only}");
    disk.remount("rw")?;
    fs::write(node.path(SMALL).join("mark"), "")?;
    node.cut()?;
    node.unmount_disks()?;
    let gone = fs::read(node.path(SMALL).join("mark")).err().map(|error| error.kind());
    ensure!(gone == Some(ErrorKind::NotFound), "the disk is still there");
    say!("a disk can be full and read-only, and stays so over a power cut");
    Ok(())
}
