//! One node with everything on it: its disk, its clocks, its kubelet and API servers; and what goes wrong with them.
//!
//! Whatever our code does to it goes through [`World::call`], where a fault can come, and what must hold at every moment is
//! looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use audit_operator::host::MANIFEST;
use audit_operator::install::order::STATE_FOLDER;
use audit_operator::install::stand_in::PREFIX;
use audit_operator::install::{Journal, Order, State};

use crate::files::Files;
use crate::kubelet::{Kubelet, Pod, Runs, Server, Spec};
use crate::rng::Rng;
use crate::scenario::{Change, Fault, Scenario, Template, What, When};

/// Wall clock at the start: 2026-01-02.
const EPOCH: u64 = 1_767_312_000_000;
/// The kubelet and the rest of the world go on at least this often.
const TICK: u64 = 100;

/// A process of ours. Every one that is started has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) name: &'static str,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Look,
    Write,
}

/// Why the process that made a call does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Killed,
    PowerCut,
}

/// A forwarder under way.
#[derive(Clone, Debug)]
pub(crate) struct Forwarding {
    pub(crate) number: u64,
    pub(crate) to: u16,
    pub(crate) holds: bool,
    pub(crate) released: bool,
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) template: &'static Template,
    pub(crate) rng: Rng,
    /// Milliseconds since the beginning; never goes back.
    pub(crate) now: u64,
    ticked: u64,
    pub(crate) boot: u64,
    booted: u64,
    clock_is_off_by: i64,
    pub(crate) files: Files,
    pub(crate) kubelet: Kubelet,
    pub(crate) servers: Vec<Server>,
    pub(crate) forwarders: Vec<Forwarding>,
    /// Ports that somebody else listens on.
    pub(crate) taken_ports: Vec<u16>,
    pub(crate) installer_lives: bool,
    /// Whether a second installer is to be started beside it.
    pub(crate) twin: bool,
    /// Who works now; `None` when the world itself does.
    pub(crate) process: Option<Process>,
    /// Who has the lock.
    pub(crate) lock: Option<Process>,
    pub(crate) stop: Option<Stop>,
    pub(crate) agent_away_until: u64,
    disk_full_until: u64,
    rival_until: Option<u64>,
    calls: u64,
    writes: u64,
    faults: Vec<Fault>,
    /// Faults that came, so that they can be held against the outcome.
    pub(crate) happened: Vec<What>,
    pub(crate) last_fault: u64,
    /// Every order that was given.
    pub(crate) orders: Vec<Order>,
    pub(crate) new_policy: Option<String>,
    pub(crate) policy: String,
    pub(crate) events: u64,
    /// Numbers given to processes and forwarders.
    pub(crate) numbers: u64,
    /// Until when a process sleeps.
    pub(crate) sleepers: BTreeMap<u64, u64>,
    /// Whether the agent has nothing more to do.
    pub(crate) agent_is_done: bool,
    /// Whether the manifest was ever the order's target.
    pub(crate) swapped: bool,
    pub(crate) violations: Vec<String>,
    /// What happened, when it is to be told.
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(scenario: Scenario, mut rng: Rng, traced: bool) -> Self {
        let template = Template::of(scenario.change);
        let faults = scenario.faults.clone();
        let target = Spec::read("", template.planned.target.as_bytes()).expect("a manifest");
        let new_policy = match target.runs {
            Runs::Server { policy, .. } => policy,
            Runs::Installer { .. } | Runs::Other => None,
        };
        let policy = template.planned.files.first().map(|file| file.content.clone());
        let policy = policy.or_else(|| template.files.first().map(|(_, text)| text.clone()));
        let mut files = Files::default();
        for folder in ["/etc/kubernetes/pki", "/etc/kubernetes/manifests", "/var/log/pods", "/var/lib"] {
            files.make_folder(Path::new(folder));
        }
        files.put(Path::new(MANIFEST), template.manifest.as_bytes(), EPOCH);
        for (path, text) in &template.files {
            files.put(Path::new(path), text.as_bytes(), EPOCH);
        }
        files.sync_all_names();
        let fork = Rng::new(rng.next());
        let mut world = Self {
            scenario,
            template,
            rng: fork,
            now: 0,
            ticked: 0,
            boot: 1,
            booted: 0,
            clock_is_off_by: 0,
            files,
            kubelet: Kubelet::default(),
            servers: Vec::new(),
            forwarders: Vec::new(),
            taken_ports: Vec::new(),
            installer_lives: false,
            twin: false,
            process: None,
            lock: None,
            stop: None,
            agent_away_until: 0,
            disk_full_until: 0,
            rival_until: None,
            calls: 0,
            writes: 0,
            faults: Vec::new(),
            happened: Vec::new(),
            last_fault: 0,
            orders: Vec::new(),
            new_policy,
            policy: policy.unwrap_or_default(),
            events: 0,
            numbers: 0,
            sleepers: BTreeMap::new(),
            agent_is_done: false,
            swapped: false,
            violations: Vec::new(),
            trace: traced.then(Vec::new),
        };
        world.kubelet.folder_changed(0);
        // The old server runs when the history begins.
        while world.answers(crate::scenario::PORT).is_err() && world.now < 60_000 {
            world.pass(TICK);
        }
        // What is to be written again is gone from now on; the server that runs does not mind.
        if world.scenario.change == Change::OnlyFiles {
            for (path, _) in &template.files {
                world.files.remove_all(Path::new(path));
            }
        }
        world.faults = faults;
        for fault in &mut world.faults {
            if let When::At(at) = &mut fault.when {
                *at += world.now;
            }
        }
        world
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let who = self.process.map_or("", |process| process.name);
            trace.push(format!("{:>9.3} {who:<9} {}", self.now as f64 / 1000.0, what()));
        }
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.note(|| format!("VIOLATION: {what}"));
        if self.violations.len() < 5 {
            self.violations.push(what);
        }
    }

    /// Milliseconds since the boot.
    pub(crate) fn uptime(&self) -> u64 {
        self.now - self.booted
    }

    /// Milliseconds of the wall clock.
    pub(crate) fn wall(&self) -> u64 {
        (EPOCH + self.now).saturating_add_signed(self.clock_is_off_by)
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: u64) {
        self.now += time;
        if self.now < self.ticked + TICK {
            return;
        }
        self.ticked = self.now;
        if self.rival_until.is_some_and(|until| until <= self.now) {
            self.rival_until = None;
            self.files.remove_all(&rival());
            self.folder_changed();
        }
        self.tick();
        let (now, process) = (self.now, self.process);
        let starts = |stand_in: bool| {
            let new = |s: &&Server| s.stand_in == stand_in && s.policy == self.new_policy;
            self.servers.iter().filter(new).any(|server| server.listening && server.health(now).is_err())
        };
        let (rehearsing, starting) = (starts(true), starts(false));
        let due: Vec<Fault> = self
            .faults
            .extract_if(.., |fault| match fault.when {
                When::At(at) => at <= now,
                When::Rehearsing => rehearsing,
                When::Starting => starting,
                When::Call(_) | When::Write(_) => false,
            })
            .collect();
        for fault in due {
            self.happens(fault.what, process);
        }
    }

    /// A call of one of our processes; it does not go on when this says so.
    pub(crate) fn call(&mut self, kind: Kind, name: &str, path: &Path) -> Option<Stop> {
        let process = self.process?;
        self.calls += 1;
        self.writes += u64::from(kind == Kind::Write);
        self.note(|| format!("{name} {}", path.display()));
        let takes = self.rng.between(0, 4);
        self.pass(takes);
        if kind == Kind::Write && self.lock != Some(process) && !is_lock(path) {
            self.violation(format!("{} writes `{}` without the lock", process.name, path.display()));
        }
        let (calls, writes) = (self.calls, self.writes);
        let due: Vec<Fault> = self
            .faults
            .extract_if(.., |fault| match fault.when {
                When::Call(n) => n <= calls,
                When::Write(n) => n <= writes,
                When::At(_) | When::Rehearsing | When::Starting => false,
            })
            .collect();
        for fault in due {
            self.happens(fault.what, Some(process));
        }
        self.stop
    }

    pub(crate) fn disk_is_full(&self) -> bool {
        self.now < self.disk_full_until
    }

    fn happens(&mut self, what: What, process: Option<Process>) {
        self.note(|| format!("FAULT {what:?}"));
        self.last_fault = self.now;
        let now = self.now;
        let mut justified = true;
        match what {
            What::Kill => match process {
                Some(_) => self.stop = Some(Stop::Killed),
                None => self.installer_lives = false,
            },
            What::PowerCut => self.stop = Some(Stop::PowerCut),
            What::KubeletStops(time) => self.stop_kubelet(now + time),
            What::OtherTool => {
                let text = self.template.others.clone();
                let time = self.wall();
                self.files.put(Path::new(MANIFEST), text.as_bytes(), time);
                self.folder_changed();
            }
            What::StandInDies => {
                let there = self.servers.len();
                self.servers.retain(|server| !server.stand_in);
                justified = there != self.servers.len();
            }
            What::StandInHangs => {
                let stand_in = self.servers.iter_mut().find(|server| server.stand_in);
                justified = stand_in.is_some();
                stand_in.into_iter().for_each(|server| server.hangs = true);
            }
            What::PortTaken => {
                let port = audit_operator::install::stand_in::PORTS.start;
                if self.port_is_free(port) {
                    self.taken_ports.push(port);
                }
            }
            What::ClockJumps(seconds) => self.clock_is_off_by += seconds * 1000,
            What::Twin => self.twin = true,
            What::AgentAway(time) => self.agent_away_until = now + time,
            What::Rival(time) => {
                let time_of_day = self.wall();
                let text = self.template.manifest.clone();
                self.files.put(&rival(), text.as_bytes(), time_of_day);
                self.rival_until = Some(now + time);
                self.folder_changed();
            }
            What::DiskFull(time) => self.disk_full_until = now + time,
            What::ServerDies => {
                let policy = self.new_policy.clone();
                let there = self.servers.len();
                self.servers.retain(|server| server.stand_in || server.policy != policy);
                justified = there != self.servers.len();
            }
        }
        if justified {
            self.happened.push(what);
        }
    }

    /// Everything goes off at once, and the machine comes back a little later.
    pub(crate) fn power_cut(&mut self) {
        self.note(|| "POWER CUT".to_owned());
        self.files.lose(&mut self.rng);
        self.now += 15_000;
        self.boot += 1;
        self.booted = self.now;
        self.servers.clear();
        self.forwarders.clear();
        self.taken_ports.clear();
        self.installer_lives = false;
        self.lock = None;
        self.kubelet.stop(self.now + 5_000);
        self.kubelet.pods.clear();
        self.agent_away_until = self.agent_away_until.max(self.now + 20_000);
        let files: Vec<String> = self.files.list(folder()).unwrap_or_default();
        for name in files {
            self.check_manifest_file(&folder().join(name));
        }
        self.check_manifest();
    }

    pub(crate) fn folder_changed(&mut self) {
        let delay = self.rng.of(&[50, 300, 1_000, 20_000]);
        self.kubelet.folder_changed(self.now + delay);
        self.check_manifest();
    }

    /// What is looked at after every change of a name.
    pub(crate) fn changed(&mut self, path: &Path) {
        if path.parent() != Some(folder()) {
            return;
        }
        self.folder_changed();
        self.check_manifest_file(path);
        let target = self.template.planned.target.as_bytes();
        let is_target = self.files.read(Path::new(MANIFEST)).is_ok_and(|bytes| bytes == target);
        if path == Path::new(MANIFEST)
            && is_target
            && self.template.planned.from() != self.template.planned.to()
        {
            self.check_swap();
        }
    }

    /// A kube-apiserver manifest is there at every moment, whole.
    fn check_manifest(&mut self) {
        let known = [&self.template.manifest, &self.template.planned.target, &self.template.others];
        match self.files.read(Path::new(MANIFEST)) {
            Ok(bytes) if known.iter().any(|text| text.as_bytes() == bytes) => {}
            Ok(_) => self.violation("the manifest is half-written".to_owned()),
            Err(_) => self.violation("there is no manifest".to_owned()),
        }
    }

    /// Nothing stray or half-written lies where the kubelet looks.
    fn check_manifest_file(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || path == Path::new(MANIFEST) || path == rival() {
            return;
        }
        let Ok(bytes) = self.files.read(path) else { return };
        let whole = match Spec::read(&name, bytes).map(|spec| spec.runs) {
            Some(Runs::Installer { .. }) => name == audit_operator::install::pod::FILE,
            Some(Runs::Server { stand_in, .. }) => stand_in && name.starts_with(PREFIX),
            Some(Runs::Other) | None => false,
        };
        if !whole {
            self.violation(format!("`{name}` in the manifests folder is stray or half-written"));
        }
    }

    /// No swap without a verified last known good and a journal that says so, both certain to survive a power cut.
    fn check_swap(&mut self) {
        self.swapped = true;
        let kept = Path::new(STATE_FOLDER).join("last-known-good/kube-apiserver.yaml");
        if self.files.read_safe(&kept) != Some(self.template.manifest.as_bytes()) {
            self.violation("swapped without the last known good on the disk".to_owned());
        }
        let journal = Path::new(STATE_FOLDER).join("journal.json");
        let journal = self.files.read_safe(&journal).and_then(|bytes| serde_json::from_slice(bytes).ok());
        let says = journal.is_some_and(|journal: Journal| {
            matches!(journal.state, State::Swapping { .. })
                && self.orders.iter().any(|o| o.id == journal.order)
        });
        if !says {
            self.violation("swapped without the journal saying so on the disk".to_owned());
        }
    }

    /// The port that the forwarder passes connections on to, when it has the API server's.
    pub(crate) fn forwarding(&self) -> Option<u16> {
        self.forwarders.iter().find(|forwarder| forwarder.holds).map(|forwarder| forwarder.to)
    }

    /// The order that the installer which runs now is for. One that a kubelet without an API server does not take away any more has
    /// nothing left to do.
    pub(crate) fn installer(&self) -> Option<String> {
        let running = self.kubelet.pods.values().filter(|pod| pod.is_running());
        let order = |pod: &Pod| match &pod.spec.runs {
            Runs::Installer { order } => Some(order.clone()),
            Runs::Server { .. } | Runs::Other => None,
        };
        let found = running.filter_map(|pod| Some((self.kubelet.wants(pod), order(pod)?))).max();
        found.map(|(_, order)| order).filter(|_| self.installer_lives)
    }

    /// Whether something goes wrong at a time that has not come.
    pub(crate) fn faults_to_come(&self) -> bool {
        self.rival_until.is_some() || self.faults.iter().any(|fault| matches!(fault.when, When::At(_)))
    }

    /// Files in the manifests folder that are ours.
    pub(crate) fn our_files(&self) -> Vec<String> {
        let mut names = self.files.list(folder()).unwrap_or_default();
        names.retain(|name| name != "kube-apiserver.yaml" && folder().join(name) != rival());
        names
    }
}

fn folder() -> &'static Path {
    Path::new(MANIFEST).parent().expect("a file in a folder")
}

fn rival() -> PathBuf {
    folder().join("kube-apiserver.yaml.bak")
}

/// What is written to get the lock.
fn is_lock(path: &Path) -> bool {
    let state = Path::new(STATE_FOLDER);
    path == state || path == state.join("lock") || Some(path) == state.parent()
}
