//! A model of the kubelet, of its containers, and of the API servers in them.
//!
//! What is modelled is what was seen on real ones (docs/adr/0005, docs/adr/0006): a changed static Pod's old container ends
//! first and the new one is started after a pause; a container that ends is started again, later each time; each start makes a
//! new log file; a kubelet that was started deletes no static Pod before its API server has answered, but starts what is added,
//! and a Pod that is taken out of the folder while it begins it ends two minutes later only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use audit_operator::host::MANIFEST;
use audit_operator::install::pod;
use audit_operator::install::stand_in::PREFIX;
use audit_operator::manifest;

use crate::scenario::{Behaviour, PORT};
use crate::world::World;

pub(crate) const NODE: &str = "n1";
const POD_LOGS: &str = "/var/log/pods";
/// The longest pause before a container that ended is started again.
const LONGEST_BACK_OFF: u64 = 300_000;

/// How long a kubelet that was started takes to begin the Pods that run already: it waits for their volumes.
const BEGINS: u64 = 5_000;
/// How long it waits for those of a Pod that was taken out of the folder meanwhile, which it then ends
/// (`podAttachAndMountTimeout`, 2 min 3 s; seen: 124 s).
pub(crate) const HELD: u64 = 124_000;

/// How long a server may be unhealthy: kubeadm's startup probe, 24 times 10 s.
const UNHEALTHY: u64 = 240_000;

/// What a file in the manifests folder makes the kubelet run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// An API server; `stand_in` when it is not the node's own.
    Server { port: u16, stand_in: bool, etcd: bool, policy: Option<String>, log: Option<String>, delay: u64 },
    /// Our installer, for this order.
    Installer { order: String },
    /// Something else.
    Other,
}

/// A static Pod as the kubelet reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) uid: String,
    container: String,
    pub(crate) runs: Runs,
}

impl Spec {
    /// From a file's bytes; `None` when they are no Pod.
    pub(crate) fn read(name: &str, bytes: &[u8]) -> Option<Self> {
        // Of the same content under another name it makes another Pod, as `applyDefaults` does.
        let digest = manifest::digest(&[name.as_bytes(), bytes].concat());
        let uid = digest.strip_prefix("sha256:")?[..12].to_owned();
        let text = std::str::from_utf8(bytes).ok()?;
        let value = |flag: &str| Some(text.split_once(flag)?.1.split_whitespace().next()?.to_owned());
        if let Some(order) = value("--order=") {
            let name = pod::name(&order);
            // Its last part: a manifest that is cut off has none.
            let whole = text.contains("path: /var/log/pods");
            let runs = Runs::Installer { order };
            return whole.then(|| Self { name, uid, container: "installer".to_owned(), runs });
        }
        if !text.contains("kube-apiserver") {
            return Some(Self { name: uid.clone(), uid, container: "other".to_owned(), runs: Runs::Other });
        }
        let read = manifest::read(text).ok()?;
        let flag = |name: &str| read.flag(name).map(str::to_owned);
        let delay = flag("shutdown-delay-duration").and_then(|d| d.strip_suffix('s')?.parse::<u64>().ok());
        let runs = Runs::Server {
            port: read.secure_port(),
            stand_in: read.name.starts_with(PREFIX),
            etcd: flag("etcd-servers")? == "https://127.0.0.1:2379",
            policy: flag("audit-policy-file"),
            log: flag("audit-log-path"),
            delay: delay.unwrap_or(0) * 1000,
        };
        Some(Self { name: read.name, uid, container: read.container, runs })
    }

    fn logs(&self) -> PathBuf {
        let folder = format!("{POD_LOGS}/kube-system_{}-{NODE}_{}", self.name, self.uid);
        Path::new(&folder).join(&self.container)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Its container is started then.
    Starts {
        at: u64,
    },
    Runs,
    /// It was told to end; the container is gone then.
    Ends {
        at: u64,
    },
    /// All of it is gone then.
    Goes {
        at: u64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) spec: Spec,
    phase: Phase,
    /// How often its container ended by itself since the kubelet runs.
    failures: u32,
    /// Until when the kubelet waits for its volumes.
    held: u64,
}

impl Pod {
    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Runs
    }
}

/// An API server's process.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) uid: String,
    pub(crate) port: u16,
    pub(crate) stand_in: bool,
    pub(crate) policy: Option<String>,
    audit_log: Option<String>,
    /// That file, open since its first event.
    audit_file: Option<usize>,
    /// Its container's log.
    log: PathBuf,
    listens: u64,
    pub(crate) listening: bool,
    ready: Option<u64>,
    pub(crate) logs_events: bool,
    /// Since when the kubelet's probe asks.
    looked_at: u64,
    /// When it ends by itself, and what it says.
    ends: Option<(u64, &'static str)>,
    /// When it was told to end, and when it closes its port then.
    told: Option<(u64, u64)>,
    pub(crate) hangs: bool,
}

impl Server {
    /// Nothing, or what is wrong, as its /livez and /readyz say.
    pub(crate) fn health(&self, now: u64) -> Result<(), String> {
        if self.hangs {
            return Err("no answer within 2 s".to_owned());
        }
        match self.ready {
            Some(ready) if ready <= now && self.told.is_none() => Ok(()),
            Some(ready) if ready <= now => Err("500 shutdown".to_owned()),
            _ => Err("500 poststarthook/start-apiextensions-controllers failed".to_owned()),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Kubelet {
    /// When it is started; `None` while it runs.
    pub(crate) starts: Option<u64>,
    /// When it was started last.
    started: u64,
    /// Whether its API server has answered since it was started.
    sources_ready: bool,
    /// When it looks at the folder again.
    look: Option<u64>,
    wanted: BTreeMap<String, Spec>,
    pub(crate) pods: BTreeMap<String, Pod>,
    /// When the next Pod of that name may start.
    requeue: BTreeMap<String, u64>,
    /// Folders of logs that go then.
    cleanup: Vec<(u64, PathBuf)>,
}

impl Kubelet {
    pub(crate) fn runs(&self) -> bool {
        self.starts.is_none()
    }

    pub(crate) fn folder_changed(&mut self, at: u64) {
        self.look.get_or_insert(at);
    }

    /// Whether a Pod is one that the folder defines.
    pub(crate) fn wants(&self, pod: &Pod) -> bool {
        self.wanted.values().any(|spec| *spec == pod.spec)
    }

    /// Whether nothing is about to change by itself: every Pod is wanted and runs.
    pub(crate) fn is_calm(&self) -> bool {
        self.runs()
            && self.look.is_none()
            && self.pods.len() == self.wanted.len()
            && self.pods.values().all(|pod| pod.is_running() && self.wants(pod))
    }

    pub(crate) fn stop(&mut self, until: u64) {
        self.starts = Some(until);
        self.sources_ready = false;
        // What only it knows is forgotten; containers go on.
        self.pods.retain(|_, pod| !matches!(pod.phase, Phase::Starts { .. }));
        self.requeue.clear();
        self.look = Some(0);
    }
}

impl World {
    /// Stops the kubelet until then; one that was about to start a container may leave a log of it and nothing that ran.
    pub(crate) fn stop_kubelet(&mut self, until: u64) {
        let pods = self.kubelet.pods.values();
        let starting: Vec<Spec> = pods
            .filter(|pod| matches!(pod.phase, Phase::Starts { .. }))
            .map(|pod| pod.spec.clone())
            .collect();
        for spec in starting {
            if self.rng.once_in(2) {
                let (log, time) = (self.next_log(&spec), self.wall());
                self.files.log(&log, b"", time);
                self.note(|| format!("the kubelet is stopped while it starts {}", log.display()));
            }
        }
        self.kubelet.stop(until);
    }

    /// Everything that is due.
    pub(crate) fn tick(&mut self) {
        self.servers_go_on();
        if self.kubelet.starts.is_some_and(|at| at <= self.now) {
            self.kubelet.starts = None;
            self.kubelet.started = self.now;
            self.note(|| "the kubelet starts".to_owned());
            for pod in self.kubelet.pods.values_mut() {
                (pod.failures, pod.held) = (0, 0);
            }
        }
        if !self.kubelet.runs() {
            return;
        }
        if !self.kubelet.sources_ready && self.answers(PORT).is_ok() {
            self.kubelet.sources_ready = true;
        }
        if self.kubelet.look.is_some_and(|at| at <= self.now) {
            self.kubelet.look = None;
            self.look_at_folder();
            self.hold_what_is_begun();
        }
        self.pods_go_on();
        self.pods_start_and_end();
        let due: Vec<PathBuf> =
            self.kubelet.cleanup.extract_if(.., |(at, _)| *at <= self.now).map(|c| c.1).collect();
        for folder in due {
            if !self.kubelet.pods.values().any(|pod| pod.spec.logs().starts_with(&folder)) {
                self.files.remove_all(&folder);
            }
        }
    }

    fn look_at_folder(&mut self) {
        let folder = Path::new(MANIFEST).parent().expect("a file in a folder");
        let mut wanted = BTreeMap::new();
        for name in self.files.list(folder).unwrap_or_default() {
            let path = folder.join(&name);
            if name.starts_with('.') || self.files.is_folder(&path) {
                continue;
            }
            if let Some(spec) = self.files.read(&path).ok().and_then(|bytes| Spec::read(&name, bytes)) {
                wanted.insert(spec.name.clone(), spec);
            }
        }
        wanted.retain(|_, spec| spec.runs != Runs::Other);
        self.kubelet.wanted = wanted;
    }

    /// A stand-in that is taken out of the folder between the kubelet's start and its first look at that Pod's volumes is held.
    fn hold_what_is_begun(&mut self) {
        let (now, started) = (self.now, self.kubelet.started);
        if started == 0 || now == started || now > started + BEGINS {
            return;
        }
        let kubelet = &self.kubelet;
        let begun = kubelet.pods.values().filter(|pod| {
            pod.held == 0 && pod.is_running() && pod.spec.name.starts_with(PREFIX) && !kubelet.wants(pod)
        });
        let begun: Vec<String> = begun.map(|pod| pod.spec.uid.clone()).collect();
        for uid in begun {
            let held = now + HELD;
            self.kubelet.pods.get_mut(&uid).expect("it is there").held = held;
            self.note(|| format!("the kubelet waits for the volumes of {uid} before it ends it"));
        }
    }

    /// Containers that ended are started again; Pods that were told to end go.
    fn pods_go_on(&mut self) {
        let uids: Vec<String> = self.kubelet.pods.keys().cloned().collect();
        for uid in uids {
            let pod = &self.kubelet.pods[&uid];
            let (now, phase, spec) = (self.now, pod.phase.clone(), pod.spec.clone());
            let next = match phase {
                Phase::Starts { at } if at <= now => {
                    self.start_container(&spec);
                    Phase::Runs
                }
                Phase::Runs if !self.container_lives(&spec) => {
                    let failures = pod.failures;
                    let pause = match failures {
                        0 => self.rng.between(500, 1_500),
                        n => (10_000 << (n - 1).min(6)).min(LONGEST_BACK_OFF),
                    };
                    self.kubelet.pods.get_mut(&uid).expect("it is there").failures += 1;
                    Phase::Starts { at: now + pause }
                }
                Phase::Ends { at } if at <= now || !self.container_lives(&spec) => {
                    // Its last requests are answered before it is gone.
                    if let Some(server) = self.servers.iter().position(|server| server.uid == uid) {
                        self.audit(server, "system:node");
                    }
                    self.servers.retain(|server| server.uid != uid);
                    Phase::Goes { at: now + self.rng.between(400, 1_500) }
                }
                Phase::Goes { at } if at <= now => {
                    self.kubelet.pods.remove(&uid);
                    let requeue = now + self.rng.of(&[0, 2_000, 8_000, 15_000]);
                    self.kubelet.requeue.insert(spec.name.clone(), requeue);
                    let folder = spec.logs().parent().expect("a folder in one").to_owned();
                    self.kubelet.cleanup.push((now + self.rng.of(&[1_000, 20_000, 120_000]), folder));
                    continue;
                }
                _ => continue,
            };
            self.kubelet.pods.get_mut(&uid).expect("it is there").phase = next;
        }
    }

    fn pods_start_and_end(&mut self) {
        let wanted: BTreeSet<String> = self.kubelet.wanted.values().map(|spec| spec.uid.clone()).collect();
        let unwanted: Vec<String> =
            self.kubelet.pods.keys().filter(|uid| !wanted.contains(*uid)).cloned().collect();
        for uid in unwanted {
            let phase = self.kubelet.pods[&uid].phase.clone();
            let is_held = self.kubelet.pods[&uid].held > self.now;
            if !self.kubelet.sources_ready
                || is_held
                || matches!(phase, Phase::Ends { .. } | Phase::Goes { .. })
            {
                continue;
            }
            let spec = self.kubelet.pods[&uid].spec.clone();
            self.note(|| format!("the kubelet ends {}", spec.name));
            let ends = self.tell_to_end(&spec);
            self.kubelet.pods.get_mut(&uid).expect("it is there").phase = Phase::Ends { at: ends };
        }
        let specs: Vec<Spec> = self.kubelet.wanted.values().cloned().collect();
        for spec in specs {
            let there = self.kubelet.pods.values().any(|pod| pod.spec.name == spec.name);
            let waits = self.kubelet.requeue.get(&spec.name).is_some_and(|at| *at > self.now);
            if there || waits {
                continue;
            }
            if matches!(spec.runs, Runs::Installer { .. }) && !self.scenario.image {
                continue;
            }
            self.kubelet.requeue.remove(&spec.name);
            let at = self.now + self.rng.between(300, 1_500);
            self.kubelet
                .pods
                .insert(spec.uid.clone(), Pod { spec, phase: Phase::Starts { at }, failures: 0, held: 0 });
        }
    }

    fn container_lives(&self, spec: &Spec) -> bool {
        match &spec.runs {
            Runs::Server { .. } => self.servers.iter().any(|server| server.uid == spec.uid),
            Runs::Installer { .. } => self.installer_lives,
            Runs::Other => true,
        }
    }

    fn next_log(&self, spec: &Spec) -> PathBuf {
        let folder = spec.logs();
        let names = self.files.list(&folder).unwrap_or_default();
        let next = names.iter().filter_map(|n| n.strip_suffix(".log")?.parse::<u64>().ok()).max();
        folder.join(format!("{}.log", next.map_or(0, |n| n + 1)))
    }

    fn start_container(&mut self, spec: &Spec) {
        let (log, time) = (self.next_log(spec), self.wall());
        self.files.log(&log, b"t stderr F I0102 03:04:05.678901       1 starting\n", time);
        self.note(|| format!("the kubelet starts {}", log.display()));
        match &spec.runs {
            Runs::Installer { .. } => self.installer_lives = true,
            Runs::Server { .. } => self.start_server(spec, log),
            Runs::Other => {}
        }
    }

    fn start_server(&mut self, spec: &Spec, log: PathBuf) {
        let Runs::Server { port, stand_in, etcd, policy, log: audit_log, .. } = &spec.runs else { return };
        let is_new = *policy == self.new_policy;
        let behaviour = match self.scenario.behaviour {
            behaviour if is_new && !(*stand_in && self.scenario.only_live) => behaviour,
            _ => Behaviour::Good,
        };
        let listens = self.now + self.rng.between(600, 1_500);
        let mut server = Server {
            uid: spec.uid.clone(),
            port: *port,
            stand_in: *stand_in,
            policy: policy.clone(),
            audit_log: audit_log.clone(),
            audit_file: None,
            log,
            listens,
            listening: false,
            ready: Some(listens + self.rng.between(1_500, 4_000)),
            logs_events: behaviour != Behaviour::NoEvent && audit_log.is_some(),
            looked_at: self.now,
            ends: None,
            told: None,
            hangs: false,
        };
        let expected =
            |path: &String| self.files.read(Path::new(path)).is_ok_and(|b| b == self.policy.as_bytes());
        let refuse = self.now + self.rng.between(100, 1_000);
        match behaviour {
            _ if !policy.iter().all(expected) => {
                server.ends =
                    Some((refuse, "\"command failed\" err=\"loading audit policy file: no such file\""));
                server.ready = None;
            }
            Behaviour::Refused => {
                server.ends = Some((refuse, "Error: unknown flag: --audit-bad"));
                server.ready = None;
            }
            _ if !etcd => {
                server.ready = None;
                server.ends = Some((self.now + 20_600, "etcd grpc connection not ready"));
            }
            Behaviour::NeverReady => server.ready = None,
            Behaviour::Hangs => server.listens = u64::MAX,
            Behaviour::Dies => {
                let after = self.rng.between(10, 3_000);
                server.ends = server.ready.map(|ready| (ready + after, "panic: it dies"));
            }
            Behaviour::Good | Behaviour::NoEvent => {}
        }
        self.servers.push(server);
    }

    /// When its container is gone.
    fn tell_to_end(&mut self, spec: &Spec) -> u64 {
        let delay = match &spec.runs {
            Runs::Server { delay, .. } => *delay,
            Runs::Installer { .. } | Runs::Other => {
                self.installer_lives = false;
                return self.now;
            }
        };
        let now = self.now;
        // A server with watches open ends only when it is killed.
        let lasts = if spec.name.starts_with(PREFIX) { 1_200 } else { self.rng.of(&[1_000, 30_000, 30_000]) };
        if let Some(server) = self.servers.iter_mut().find(|server| server.uid == spec.uid) {
            server.told = Some((now, now + delay));
        }
        now + delay + lasts
    }

    fn servers_go_on(&mut self) {
        let now = self.now;
        for i in 0..self.servers.len() {
            let server = &self.servers[i];
            let started = server.listens.min(server.looked_at);
            if !server.stand_in
                && server.health(now).is_err()
                && server.told.is_none()
                && now > started + UNHEALTHY
            {
                // Its startup probe: the kubelet ends it and starts it again.
                let lasts = self.rng.of(&[1_000, 30_000]);
                let server = &mut self.servers[i];
                server.told = Some((now, now));
                server.listening = false;
                server.hangs = false;
                server.ends = Some((now + lasts, "killed"));
                self.note(|| "the kubelet ends a server that does not get healthy".to_owned());
            } else if server.told.is_some_and(|(_, closes)| closes <= now) {
                self.servers[i].listening = false;
            } else if !server.listening && server.listens <= now && server.told.is_none() && !server.hangs {
                if self.port_is_free(server.port) {
                    self.servers[i].listening = true;
                    if self.servers[i].policy.is_some() {
                        self.audit(i, "system:apiserver");
                    }
                } else {
                    self.servers[i].ends =
                        Some((now, "failed to create listener: bind: address already in use"));
                }
            }
        }
        let ended: Vec<Server> = self
            .servers
            .extract_if(.., |server| server.ends.is_some_and(|(at, _)| at <= now) && !server.hangs)
            .collect();
        for server in ended {
            let (_, words) = server.ends.expect("that is why");
            self.note(|| format!("{} ends: {words}", server.log.display()));
            let line = format!("t stderr F E0102 03:04:05.678901       1 run.go:72] {words}\n");
            let time = self.wall();
            self.files.log(&server.log, line.as_bytes(), time);
        }
    }

    /// An event in a server's audit log.
    pub(crate) fn audit(&mut self, server: usize, user: &str) {
        let Some(log) = self.servers[server].audit_log.clone() else { return };
        self.events += 1;
        let (number, time) = (self.events, self.wall());
        let file = self.servers[server].audit_file.unwrap_or_else(|| self.files.open(Path::new(&log), time));
        self.servers[server].audit_file = Some(file);
        let line =
            format!("{{\"auditID\":\"{number}\",\"user\":\"{user}\",\"sourceIPs\":[\"127.0.0.1\"]}}\n");
        // Whatever the file is called by now.
        self.files.append(file, line.as_bytes(), time);
    }

    /// Whether nobody listens there.
    pub(crate) fn port_is_free(&self, port: u16) -> bool {
        let is_taken = self.servers.iter().any(|server| server.listening && server.port == port)
            || self.taken_ports.contains(&port)
            || (port == PORT && self.forwarding().is_some());
        !is_taken
    }

    /// What a probe of that port gets, through the forwarder where that has it.
    pub(crate) fn answers(&self, port: u16) -> Result<(), String> {
        let at = |port: u16| self.servers.iter().find(|server| server.listening && server.port == port);
        let refused = || "connection refused".to_owned();
        match self.forwarding().filter(|_| port == PORT) {
            Some(to) => at(to).ok_or_else(refused)?.health(self.now),
            None => at(port).ok_or_else(refused)?.health(self.now),
        }
    }
}
