//! What can go wrong with a node, done on purpose. A power cut is [`Node::cut`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::HELD;
use crate::node::Node;
use crate::run::output;
use crate::{hub, process, wait};

/// The name of the file that fills a disk.
const FILLER: &str = "filler";
/// A process that is killed or started: seconds here.
const SOON: Duration = Duration::from_secs(60);

impl Node {
    /// The processes of the node for which `is_it` holds of their arguments.
    pub(crate) fn processes(&self, is_it: impl Fn(&[String]) -> bool) -> Result<Vec<process::Id>> {
        let init = self.init()?;
        let mut found = process::tree(init);
        // What was started there from outside is nobody's child on the node.
        let namespace = process::namespace(init, "pid");
        found.extend(process::all().into_iter().filter(|&id| process::namespace(id, "pid") == namespace));
        let mut found: Vec<_> = found.into_iter().collect();
        found.retain(|&id| process::arguments(id).is_some_and(|arguments| is_it(&arguments)));
        Ok(found)
    }

    /// Kills every process of `audit-operator VERB`; how many there were. The kubelet starts their containers again.
    pub(crate) fn kill_operator(&self, verb: &str) -> Result<usize> {
        let ours = |arguments: &[String]| {
            is_program(arguments, "audit-operator") && arguments.get(1).is_some_and(|a| a == verb)
        };
        self.kill(ours)
    }

    /// Kills the processes of a program that are chosen by their arguments; how many there were.
    pub(crate) fn kill(&self, ours: impl Fn(&[String]) -> bool + Copy) -> Result<usize> {
        let found = self.processes(ours)?;
        for &id in &found {
            process::kill(id, ours)?;
        }
        Ok(found.len())
    }

    /// The kubelet hangs: it is there and does nothing, until [`Node::resume_kubelet`].
    pub(crate) fn pause_kubelet(&self) -> Result<()> {
        self.signal_kubelet(Signal::STOP)
    }

    /// It goes on.
    pub(crate) fn resume_kubelet(&self) -> Result<()> {
        self.signal_kubelet(Signal::CONT)
    }

    fn signal_kubelet(&self, signal: Signal) -> Result<()> {
        let kubelets = self.processes(|arguments| is_program(arguments, "kubelet"))?;
        let [kubelet] = kubelets[..] else { anyhow::bail!("{} has the kubelets {kubelets:?}", self.name) };
        let pid = Pid::from_raw(kubelet).context("a process id is not 0")?;
        kill_process(pid, signal).with_context(|| format!("signalling the kubelet of {}", self.name))
    }

    /// Kills the kubelet; its supervisor starts it again after two seconds.
    pub(crate) fn restart_kubelet(&self) -> Result<()> {
        ensure!(
            self.kill(|arguments| is_program(arguments, "kubelet"))? == 1,
            "{} had no kubelet",
            self.name
        );
        Ok(())
    }

    /// `systemctl stop kubelet`: until [`Node::start_kubelet`], over power cuts too.
    pub(crate) fn stop_kubelet(&self) -> Result<()> {
        fs::create_dir_all(self.folder().join(HELD))?;
        fs::write(self.folder().join(HELD).join("kubelet"), "")?;
        self.kill(|arguments| is_program(arguments, "kubelet")).map(drop)
    }

    /// `systemctl start kubelet`, and waits until it runs.
    pub(crate) fn start_kubelet(&self) -> Result<()> {
        fs::remove_file(self.folder().join(HELD).join("kubelet")).context("the kubelet was not stopped")?;
        let runs = || Ok(self.processes(|a| is_program(a, "kubelet"))?.first().copied());
        wait::until(&format!("the kubelet of {}", self.name), SOON, runs).map(drop)
    }

    /// Pulls the network cable: nothing but the node itself reaches the node.
    pub(crate) fn unplug(&self) -> Result<()> {
        hub::link(&self.state, &self.name, "down")
    }

    /// Puts it back.
    pub(crate) fn plug_in(&self) -> Result<()> {
        hub::link(&self.state, &self.name, "up")
    }

    /// Gives a folder of the node a small disk of its own, which outlives power cuts: `size` as in `8m`. The node must
    /// be off; what was in the folder is copied. It ends with [`Node::unmount_disks`].
    pub(crate) fn mount_disk(&self, folder: &str, size: &str) -> Result<Disk> {
        ensure!(self.init().is_err(), "{} is on: it would not see the disk", self.name);
        let (at, copy) = (self.path(folder), self.folder().join("copy"));
        fs::create_dir_all(&at)?;
        output(Command::new("cp").arg("--archive").arg(&at).arg(&copy))?;
        let options = format!("size={size},mode=0700");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at))?;
        output(Command::new("cp").arg("--archive").arg(copy.join(".")).arg(&at))?;
        fs::remove_dir_all(&copy)?;
        Ok(Disk(at))
    }

    /// Takes the disks of [`Node::mount_disk`] away, with what is on them. The node must be off.
    pub(crate) fn unmount_disks(&self) -> Result<()> {
        unmount_below(&self.folder())
    }
}

/// A small disk of a node.
#[derive(Clone, Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Writes until nothing more fits.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.0.join(FILLER))?;
        let part = vec![0; 4096];
        while std::io::Write::write(&mut file, &part).is_ok_and(|written| written == part.len()) {}
        Ok(())
    }

    /// There is room again.
    pub(crate) fn drain(&self) -> Result<()> {
        fs::remove_file(self.0.join(FILLER)).context("the disk was not filled")
    }

    /// `ro` or `rw`, for everybody who has it mounted.
    pub(crate) fn remount(&self, mode: &str) -> Result<()> {
        output(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(&self.0)).map(drop)
    }
}

/// Ends every mount below a folder, as this process sees them; none is no error.
pub(crate) fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut points: Vec<&Path> = points.filter(|point| point.starts_with(folder)).collect();
    points.reverse();
    for point in points {
        output(Command::new("umount").arg(point))?;
    }
    Ok(())
}

/// Whether these are the arguments of a program of this name.
pub(crate) fn is_program(arguments: &[String], name: &str) -> bool {
    arguments.first().is_some_and(|path| Path::new(path).file_name().is_some_and(|file| file == name))
}
