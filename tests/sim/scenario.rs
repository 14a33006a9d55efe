//! What a history is about: the change, how its API server takes it, the node, and what goes wrong when. All from one number.

use std::sync::OnceLock;

use audit_operator::audit::{Profile, ServerVersion, ValidPolicy};
use audit_operator::host::MANIFEST;
use audit_operator::install::plan::{NodeFacts, Planned, Terms, Wanted, plan};
use audit_operator::install::{Order, Rehearsal};
use audit_operator::manifest::{Existing, Flag, Mount, PathType};
use audit_operator::revision::{PLACEHOLDER, POLICY_FOLDER, Rendered};
use jiff::Timestamp;

use crate::rng::Rng;

/// Its API server's port.
pub(crate) const PORT: u16 = 6443;
/// Where its API server logs to, on the node and in the container.
pub(crate) const AUDIT_LOG: &str = "/var/log/kubernetes/audit/audit.log";
/// Seconds a server has to be healthy. Less than the default, so that a history is short.
pub(crate) const HEALTH_TIMEOUT: u32 = 150;

/// Calls that write, in an install that goes well: about so many.
const WRITES: u64 = 110;

/// What the order changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Auditing is turned on.
    TurnOn,
    /// Another policy.
    Another,
    /// The settings are taken out.
    TakeOut,
    /// A policy file that is gone is written again.
    OnlyFiles,
}

/// How an API server takes the new manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Good,
    /// It ends at once and says why.
    Refused,
    /// It answers 500.
    NeverReady,
    /// It never listens.
    Hangs,
    /// It is ready and logs nothing.
    NoEvent,
    /// It is ready and ends a little later, every time.
    Dies,
}

/// Memory of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Plenty,
    Short,
    Unknown,
}

/// When something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// At this call of our processes.
    Call(u64),
    /// At this call that changes the disk.
    Write(u64),
    /// At this time, in milliseconds.
    At(u64),
    /// When the stand-in listens and is not ready.
    Rehearsing,
    /// When the new live server listens and is not ready.
    Starting,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The process that works is killed.
    Kill,
    PowerCut,
    /// The kubelet is stopped for so long, in milliseconds.
    KubeletStops(u64),
    /// Another tool writes the manifest.
    OtherTool,
    /// The process of the stand-in is killed.
    StandInDies,
    /// The process of the stand-in stops without ending.
    StandInHangs,
    /// Somebody takes the port that the stand-in is about to have.
    PortTaken,
    /// Somebody sets the clock, by so many seconds.
    ClockJumps(i64),
    /// The agent is away for so long, in milliseconds.
    AgentAway(u64),
    /// Somebody leaves a backup in the manifests folder, and takes it out after so long.
    Rival(u64),
    /// Nothing can be written for so long.
    DiskFull(u64),
    /// The new live server is killed, once.
    ServerDies,
    /// A second installer of the same order is started beside the first. Only told by hand.
    Twin,
}

#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) when: When,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) change: Change,
    pub(crate) behaviour: Behaviour,
    /// Whether only the live server takes it so, and a stand-in does not mind.
    pub(crate) only_live: bool,
    pub(crate) rehearsal: Rehearsal,
    /// Whether other nodes have API servers, too.
    pub(crate) several: bool,
    pub(crate) memory: Memory,
    /// The kubelet has our image.
    pub(crate) image: bool,
    /// How many times as long as asked for a pause takes: a busy machine.
    pub(crate) slow: u64,
    pub(crate) faults: Vec<Fault>,
}

impl Scenario {
    /// By chance; every fifth one stops after one of the calls that write, one after the other.
    pub(crate) fn new(seed: u64, rng: &mut Rng) -> Self {
        let change =
            rng.of(&[Change::TurnOn, Change::Another, Change::Another, Change::TakeOut, Change::OnlyFiles]);
        let bad = [
            Behaviour::Refused,
            Behaviour::NeverReady,
            Behaviour::Hangs,
            Behaviour::NoEvent,
            Behaviour::Dies,
        ];
        let behaviour = match change {
            Change::OnlyFiles => Behaviour::Good,
            // Of a server that logs nothing no event is expected.
            Change::TakeOut => rng.of(&[Behaviour::Good, Behaviour::Good, Behaviour::Refused]),
            _ if rng.percent(55) => Behaviour::Good,
            _ => rng.of(&bad),
        };
        let rehearsal = rng.of(&[
            Rehearsal::Auto,
            Rehearsal::Auto,
            Rehearsal::Auto,
            Rehearsal::StartOnly,
            Rehearsal::None,
        ]);
        let mut scenario = Self {
            change,
            behaviour,
            only_live: rng.percent(30),
            rehearsal,
            several: rng.percent(40),
            memory: rng.of(&[Memory::Plenty, Memory::Plenty, Memory::Unknown, Memory::Short]),
            image: true,
            slow: rng.of(&[4, 8, 16]),
            faults: Vec::new(),
        };
        let faults = rng.of(&[0, 1, 1, 1, 1, 2, 2, 3, 4]);
        for _ in 0..faults {
            let fault = scenario.fault(rng);
            scenario.faults.push(fault);
        }
        if rng.once_in(60) {
            scenario.image = false;
        }
        if seed.is_multiple_of(5) {
            scenario.image = true;
            scenario.faults = Self::sweep(seed / 5, rng);
        }
        scenario
    }

    fn sweep(number: u64, rng: &mut Rng) -> Vec<Fault> {
        let write = number % WRITES + 1;
        let at = |write, what| Fault { when: When::Write(write), what };
        match number / WRITES % 3 {
            0 => vec![at(write, What::PowerCut)],
            1 => vec![at(write, What::Kill)],
            _ => vec![at(write, What::Kill), at(write + rng.between(1, 40), What::PowerCut)],
        }
    }

    fn fault(&self, rng: &mut Rng) -> Fault {
        let what = match rng.between(0, 22) {
            0..=5 => What::Kill,
            6..=11 => What::PowerCut,
            12..=13 => What::KubeletStops(rng.of(&[500, 5_000, 30_000, 200_000])),
            14 => What::OtherTool,
            15 => What::StandInDies,
            16 => What::StandInHangs,
            17 => What::PortTaken,
            18 => What::ClockJumps(rng.of(&[-3600, 3600, -5, 5])),
            19 => What::AgentAway(rng.of(&[5_000, 300_000])),
            20 => rng.of(&[What::Rival(20_000), What::DiskFull(3_000), What::DiskFull(60_000)]),
            _ => What::ServerDies,
        };
        let when = match rng.between(0, 10) {
            0..=4 => When::Write(rng.between(1, 120)),
            5..=6 => When::Call(rng.between(1, 3_000)),
            7 => rng.of(&[When::Rehearsing, When::Starting]),
            _ => When::At(rng.between(0, 150_000)),
        };
        Fault { when, what }
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms {
            keep_backups: 2,
            health_timeout_seconds: HEALTH_TIMEOUT,
            rehearsal: self.rehearsal,
            highly_available: self.several,
        }
    }
}

/// The node before the order, and the plan.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) manifest: String,
    pub(crate) files: Vec<(String, String)>,
    pub(crate) planned: Planned,
    /// What another tool would write: neither side of the plan.
    pub(crate) others: String,
}

impl Template {
    pub(crate) fn order(&self, terms: &Terms, now: Timestamp) -> Order {
        self.planned.order(terms, now)
    }

    pub(crate) fn of(change: Change) -> &'static Self {
        static ALL: OnceLock<Vec<Template>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            [Change::TurnOn, Change::Another, Change::TakeOut, Change::OnlyFiles].map(Template::new).into()
        });
        &all[change as usize]
    }

    fn new(change: Change) -> Self {
        let bare = include_str!("kube-apiserver.yaml").to_owned();
        let (old, new) = (rendered("30"), rendered("31"));
        let patched = |text: &str, rendered: &Rendered| {
            audit_operator::manifest::patch(text, &rendered.settings, Existing::Refuse)
                .expect("it is understood")
        };
        let with_old = patched(&bare, &old);
        let old_file = (old.policy_path.clone(), old.policy.clone());
        let (manifest, files, wanted) = match change {
            Change::TurnOn => (bare, vec![], Wanted::Audit(Box::new(new))),
            Change::Another => (with_old, vec![old_file], Wanted::Audit(Box::new(new))),
            Change::TakeOut => (with_old, vec![old_file], Wanted::Nothing),
            Change::OnlyFiles => (with_old, vec![old_file], Wanted::Audit(Box::new(old))),
        };
        let facts = NodeFacts {
            manifest_path: MANIFEST.to_owned(),
            manifest: manifest.clone().into_bytes(),
            policy_file: None,
            settled: None,
        };
        let planned = plan(&facts, &wanted, Existing::Refuse).expect("it is understood");
        Self { others: manifest.replace("--v=2", "--v=4"), manifest, files, planned }
    }
}

fn rendered(age: &str) -> Rendered {
    let policy = ValidPolicy::new(Profile::Metadata.policy(), ServerVersion::LATEST).expect("a valid policy");
    let path = format!("{POLICY_FOLDER}/policy-{PLACEHOLDER}.yaml");
    let (folder, _) = AUDIT_LOG.rsplit_once('/').expect("a path");
    let flag = |name: &str, value: &str| Flag { name: name.to_owned(), value: value.to_owned() };
    let flags = [
        flag("audit-policy-file", &path),
        flag("audit-log-path", AUDIT_LOG),
        flag("audit-log-maxage", age),
        flag("audit-log-maxbackup", "1"),
        flag("audit-log-maxsize", "1"),
    ];
    let mount = |name: &str, path: &str, path_type, read_only| Mount {
        name: name.to_owned(),
        host_path: path.to_owned(),
        mount_path: path.to_owned(),
        path_type,
        read_only,
    };
    let mounts = [
        mount("audit-policy", &path, PathType::File, true),
        mount("audit-log", folder, PathType::DirectoryOrCreate, false),
    ];
    Rendered::new(&policy, &path, &flags, &mounts)
}
