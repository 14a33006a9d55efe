//! The node as our code sees it: [`Disk`], [`Machine`] and [`Forward`] over a [`World`].

use std::any::Any;
use std::fmt;
use std::io::{self, Cursor, Read, Write};
use std::panic;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use audit_operator::host::{About, Disk, Held, Host, Machine, NewFile, Proof};
use audit_operator::install::proof::{Growth, Outcome, Seen, Unprovable, audit_id, choose};
use audit_operator::install::stand_in::PORTS;
use audit_operator::install::{Moment, Relief};
use audit_operator::installer::{Forward, Forwarder, Route};
use audit_operator::manifest::Probe;
use futures::future::{BoxFuture, FutureExt, poll_fn, ready};
use jiff::Timestamp;
use std::task::Poll;

use crate::scenario::{Memory, PORT};
use crate::world::{Forwarding, Kind, Process, Stop, World};

/// What a process is unwound with that is killed: nothing of it goes on, as under SIGKILL.
pub(crate) struct Stopped;

/// Whether a panic is one of ours.
pub(crate) fn is_stop(panic: &(dyn Any + Send)) -> bool {
    panic.is::<Stopped>()
}

type Release = Box<dyn Fn() -> bool + Send>;

/// Shared by everything that works on the node.
#[derive(Clone)]
pub(crate) struct Node {
    world: Arc<Mutex<World>>,
    releases: Arc<Mutex<Vec<(u64, Release)>>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

impl Node {
    pub(crate) fn new(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), releases: Arc::default() }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call; when a fault stops the process it does not return.
    fn call(&self, kind: Kind, name: &str, path: &Path) -> MutexGuard<'_, World> {
        let mut world = self.world();
        match world.call(kind, name, path) {
            None => world,
            Some(_) => {
                drop(world);
                stop()
            }
        }
    }

    fn look(&self, name: &str, path: &Path) -> MutexGuard<'_, World> {
        self.call(Kind::Look, name, path)
    }

    fn write(&self, name: &str, path: &Path) -> io::Result<MutexGuard<'_, World>> {
        let world = self.call(Kind::Write, name, path);
        if world.disk_is_full() && matches!(name, "write" | "create" | "mkdir") {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(world)
    }

    /// Asks every forwarder whether it is to end, and lets those that may take the port.
    pub(crate) fn forward(&self) {
        let releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, release) in releases.iter() {
            let ends = release();
            let mut world = self.world();
            let free = world.port_is_free(PORT);
            let Some(i) = world.forwarders.iter().position(|f| f.number == *number) else { continue };
            let forwarder = &mut world.forwarders[i];
            if ends && !forwarder.released {
                forwarder.released = true;
                forwarder.holds = false;
                world.note(|| "the forwarder gives the port back".to_owned());
            } else if !forwarder.released && !forwarder.holds && free {
                forwarder.holds = true;
                world.note(|| "the forwarder has the port".to_owned());
            }
        }
    }
}

fn stop() -> ! {
    panic::resume_unwind(Box::new(Stopped))
}

fn time(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

impl Disk for Node {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.look("read", path).files.read(path).map(<[u8]>::to_vec)
    }

    fn write_new(&self, path: &Path, bytes: &[u8], _: &Path) -> io::Result<()> {
        let mut world = self.world();
        let stopped = world.call(Kind::Write, "write", path);
        let wall = world.wall();
        if stopped.is_some() {
            // It was in the middle of it.
            let part = world.rng.between(0, bytes.len() as u64 + 1) as usize;
            if world.rng.once_in(2) && world.files.make(path, &bytes[..part], false, wall).is_ok() {
                world.changed(path);
            }
            drop(world);
            stop();
        }
        if world.disk_is_full() {
            // As a real one: the file is there, and nothing or some of it in it.
            let _ = world.files.make(path, &bytes[..bytes.len() / 2], false, wall);
            world.changed(path);
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.files.make(path, bytes, true, wall)?;
        world.changed(path);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut world = self.write("create", path)?;
        let wall = world.wall();
        let inode = world.files.make(path, &[], false, wall)?;
        world.changed(path);
        Ok(Box::new(File { node: self.clone(), inode, path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        let bytes = self.look("open", path).files.read(path)?.to_vec();
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn read_end(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let world = self.look("tail", path);
        let bytes = world.files.read(path)?;
        Ok(bytes[bytes.len().saturating_sub(most as usize)..].to_vec())
    }

    fn about(&self, path: &Path) -> io::Result<About> {
        let (length, made, written) = self.look("stat", path).files.about(path)?;
        Ok(About { length, made: Some(time(made)), written: time(written) })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.write("rename to", to)?;
        world.files.rename(from, to)?;
        world.changed(from);
        world.changed(to);
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.write("rename to the new", to)?;
        if world.files.exists(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.files.rename(from, to)?;
        world.changed(to);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.write("remove", path)?;
        world.files.remove(path)?;
        world.changed(path);
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.write("mkdir", path)?.files.make_folder(path);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut world = self.write("sync", path)?;
        if !world.files.is_folder(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.files.sync_names(path);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.look("list", path).files.list(path)
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.look("is folder", path).files.is_folder(path)
    }

    fn check_writable(&self, folder: &Path) -> io::Result<()> {
        match self.look("access", folder).files.is_folder(folder) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>> {
        let mut world = self.write("lock", path)?;
        if !world.files.exists(path) {
            let wall = world.wall();
            world.files.make(path, &[], true, wall)?;
        }
        if world.lock.is_some() {
            return Ok(None);
        }
        let process = world.process.expect("only a process locks");
        world.lock = Some(process);
        Ok(Some(Box::new(Locked { node: self.clone(), process })))
    }
}

#[derive(Debug)]
struct Locked {
    node: Node,
    process: Process,
}

impl Held for Locked {}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut world = self.node.world();
        if world.lock == Some(self.process) {
            world.lock = None;
        }
    }
}

struct File {
    node: Node,
    inode: usize,
    path: std::path::PathBuf,
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut world = self.node.write("append to", &self.path)?;
        let wall = world.wall();
        world.files.append(self.inode, bytes, wall);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.node.write("fsync", &self.path)?.files.sync(self.inode);
        Ok(())
    }
}

impl Machine for Node {
    fn now(&self) -> Moment {
        let world = self.world();
        Moment { boot: format!("boot {}", world.boot), milliseconds: world.uptime() }
    }

    fn time_of_day(&self) -> Timestamp {
        Timestamp::from_millisecond(self.world().wall() as i64).expect("a time of this century")
    }

    fn pause(&self, time: Duration) -> BoxFuture<'_, ()> {
        let mut until = None;
        poll_fn(move |_| {
            let mut world = self.world();
            let takes = time.as_millis() as u64 * world.scenario.slow;
            let until = *until.get_or_insert(world.now + takes);
            if world.now >= until {
                return Poll::Ready(());
            }
            if let Some(process) = world.process {
                world.sleepers.insert(process.number, until);
            }
            Poll::Pending
        })
        .boxed()
    }

    fn available_memory(&self) -> Option<u64> {
        match self.world().scenario.memory {
            Memory::Plenty => Some(4 << 30),
            Memory::Short => Some(100 << 20),
            Memory::Unknown => None,
        }
    }

    fn memory_of_pod(&self, _: &Path, _: &str) -> Option<u64> {
        Some(250 << 20)
    }

    fn threads_of_pod(&self, _: &Path, uid: &str) -> Option<u64> {
        let world = self.look("count the threads of the Pod", Path::new(uid));
        let runs = world.servers.iter().any(|server| server.uid == uid);
        world.kubelet.pods.contains_key(uid).then_some(if runs { 12 } else { 1 })
    }

    fn has_pod(&self, _: &Path, uid: &str) -> bool {
        self.look("ask for the Pod", Path::new(uid)).kubelet.pods.contains_key(uid)
    }

    fn free_port(&self, after: Option<u16>) -> Option<u16> {
        let world = self.look("find a port", Path::new(""));
        PORTS.filter(|port| Some(*port) > after).find(|port| world.port_is_free(*port))
    }

    fn listens(&self, port: u16) -> BoxFuture<'_, bool> {
        ready(!self.look("connect to", Path::new(&port.to_string())).port_is_free(port)).boxed()
    }

    fn ask<'a>(&'a self, probe: &'a Probe, _: Option<&'a str>) -> BoxFuture<'a, Result<(), String>> {
        let world = self.look("ask", Path::new(&format!("{}{}", probe.port, probe.path)));
        ready(world.answers(probe.port)).boxed()
    }

    fn prove<'a>(&'a self, _: &'a Host, proof: &'a Proof<'a>, seed: &'a str) -> BoxFuture<'a, Outcome> {
        async move {
            let chosen = match choose(proof.policy, proof.senders) {
                Ok(chosen) => chosen,
                Err(reason) => return Outcome::Unprovable(reason),
            };
            if proof.manifest.flag("audit-policy-file").is_none() {
                return Outcome::Unprovable(Unprovable::NoPolicy);
            }
            let id = audit_id(seed, 1);
            self.pause(Duration::from_millis(100)).await;
            let answer = {
                let mut world = self.look("prove on", Path::new(proof.authority));
                let port = proof.authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                let port = port.expect("an authority has a port");
                let (to, now) = (world.forwarding().filter(|_| port == PORT).unwrap_or(port), world.now);
                let server = world.servers.iter().position(|s| s.listening && s.port == to);
                match server.map(|server| (server, world.servers[server].health(now))) {
                    None => Err("connection refused".to_owned()),
                    Some((_, Err(problem))) => Err(problem),
                    Some((server, Ok(()))) => {
                        let logs = world.servers[server].logs_events;
                        if logs {
                            world.audit(server, "system:anonymous");
                        }
                        Ok(logs)
                    }
                }
            };
            match answer {
                Ok(true) => Outcome::Landed { id, chosen, latency: Duration::from_millis(100) },
                other => {
                    self.pause(Duration::from_secs(2)).await;
                    let seen = Seen {
                        answer: other.map(|_| 403),
                        found: Vec::new(),
                        log: "the log".to_owned(),
                        growth: Growth::Silent,
                        waited: Duration::from_secs(10),
                    };
                    Outcome::Missing { id, chosen, seen }
                }
            }
        }
        .boxed()
    }
}

impl Forward for Node {
    fn start(&self, route: Route, release: Release) -> io::Result<Box<dyn Forwarder>> {
        let number = {
            let mut world = self.look("forward to", Path::new(&route.to.to_string()));
            world.numbers += 1;
            let number = world.numbers;
            let to = route.to.port();
            world.forwarders.push(Forwarding { number, to, holds: false, released: false });
            number
        };
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).push((number, release));
        Ok(Box::new(Carries { node: self.clone(), number }))
    }
}

#[derive(Debug)]
struct Carries {
    node: Node,
    number: u64,
}

impl Forwarder for Carries {
    fn seen(&self) -> Relief {
        let world = self.node.world();
        match world.forwarders.iter().find(|f| f.number == self.number) {
            Some(Forwarding { holds: true, .. }) => Relief::Holding,
            Some(Forwarding { released: true, .. }) => Relief::Released,
            Some(_) => Relief::Waiting,
            None => Relief::Off,
        }
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, ()> {
        // One that still waits for the port has nothing to give back, and never will have.
        let waits = |f: &&mut Forwarding| f.number == self.number && !f.holds;
        if let Some(forwarder) = self.node.world().forwarders.iter_mut().find(waits) {
            forwarder.released = true;
        }
        ready(()).boxed()
    }
}

impl Drop for Carries {
    fn drop(&mut self) {
        let mut world = self.node.world();
        let at_work = world.forwarders.iter().any(|f| f.number == self.number && !f.released);
        // By its own program, which goes on, and not because that is ended.
        if at_work && world.process.is_some() && world.stop.is_none() {
            world.violation("a forwarder was dropped that had not given the port back".to_owned());
        }
        world.forwarders.retain(|f| f.number != self.number);
        drop(world);
        let mut releases = self.node.releases.lock().unwrap_or_else(PoisonError::into_inner);
        releases.retain(|(number, _)| *number != self.number);
    }
}

/// What a process that was stopped is stopped by, and that it is.
pub(crate) fn taken(world: &mut World) -> Option<Stop> {
    world.stop.take()
}
