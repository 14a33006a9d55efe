//! The cases: what is ordered, what is done meanwhile, and what it may end as.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::launch::Lifetime;
use crate::suite::operator::{self, Journal, MANIFEST, MANIFESTS, NAMESPACE, Wish, servers};
use crate::{image, wait};

use super::order::{Change, Rehearsal, reaches};
use super::{Bed, PATIENCE};

/// One fault.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// What happens, for the table.
    pub(super) does: &'static str,
    /// The final states that are right.
    pub(super) ends: &'static [&'static str],
    /// Seconds without answer that are right, where there is a limit.
    pub(super) down: Option<f64>,
    /// Whether CI runs it: one of each kind.
    pub(super) ci: bool,
    pub(super) run: fn(&Bed) -> Result<Expected>,
}

/// What there must be in the end.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The order whose journal must be closed; `None` for the newest.
    pub(super) order: Option<String>,
    /// Manifests that may be on the disk, beside the one from before.
    pub(super) manifests: Vec<String>,
}

const SETTLED: &[&str] = &["settled"];
const REFUSED: &[&str] = &["refused"];
const ROLLED_BACK: &[&str] = &["rolledBack"];
/// What is there to be seen only once in a while may be noticed or not.
const EITHER: &[&str] = &["settled", "rolledBack", "refused"];
const LOGS: &str = "/var/log/kubernetes/audit";

const fn case(
    name: &'static str,
    does: &'static str,
    ends: &'static [&'static str],
    run: fn(&Bed) -> Result<Expected>,
) -> Case {
    Case { name, does, ends, down: None, ci: false, run }
}

/// CI runs it, too.
const fn in_ci(case: Case) -> Case {
    Case { ci: true, ..case }
}

/// Nothing live may be touched: the API server answers all the while. Half a second is ten lost packets, not a restart.
const fn no_outage(case: Case) -> Case {
    Case { down: Some(0.5), ..case }
}

/// In the order they are run: what needs a cluster of its own afterwards comes last.
pub(super) const CASES: &[Case] = &[
    in_ci(no_outage(case(
        "unknown-flag",
        "a flag kube-apiserver does not know, past our checks",
        REFUSED,
        |b| order(b, Change::UnknownFlag, Rehearsal::Auto, "rehearsing", nothing),
    ))),
    no_outage(case("bad-policy", "a policy the API server refuses, past our checks", REFUSED, |b| {
        order(b, Change::BadPolicy, Rehearsal::Auto, "rehearsing", nothing)
    })),
    no_outage(case("read-only-log", "a log path on a read-only mount", REFUSED, |b| {
        order(b, Change::ReadOnlyLog, Rehearsal::Auto, "rehearsing", nothing)
    })),
    no_outage(case("missing-mount", "a mount of a file that is not there", REFUSED, |b| {
        order(b, Change::MissingMount, Rehearsal::Auto, "rehearsing", nothing)
    })),
    in_ci(case("unknown-flag-unrehearsed", "the same flag with the rehearsal off", ROLLED_BACK, |b| {
        order(b, Change::UnknownFlag, Rehearsal::None, "verifying", nothing)
    })),
    case("bad-policy-unrehearsed", "the same policy with the rehearsal off", ROLLED_BACK, |b| {
        order(b, Change::BadPolicy, Rehearsal::None, "verifying", nothing)
    }),
    case(
        "missing-mount-unrehearsed",
        "the same mount with the rehearsal off: no process at all",
        ROLLED_BACK,
        |b| order(b, Change::MissingMount, Rehearsal::None, "verifying", nothing),
    ),
    case("log-folder-deleted", "the log's folder is deleted while the change is rehearsed", EITHER, |b| {
        order(b, Change::Good, Rehearsal::Auto, "rehearsing", |b| {
            Ok(fs::remove_dir_all(b.node().path(LOGS))?)
        })
    }),
    case("power-cut-ordered", "power cut when the order was just given", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "ordered", Bed::power_cut)
    }),
    case("power-cut-rehearsing", "power cut during the rehearsal", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "rehearsing", Bed::power_cut)
    }),
    case("power-cut-swapping", "power cut at the swap", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "swapping", Bed::power_cut)
    }),
    case("power-cut-verifying", "power cut while the new API server starts", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "verifying", Bed::power_cut)
    }),
    case("power-cut-ending", "power cut while the stand-in is taken away", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "ending", Bed::power_cut)
    }),
    case("power-cut-rehearsing-bad", "power cut during the rehearsal of an unknown flag", REFUSED, |b| {
        order(b, Change::UnknownFlag, Rehearsal::Auto, "rehearsing", Bed::power_cut)
    }),
    in_ci(case(
        "power-cut-verifying-bad",
        "power cut with an unknown flag in the manifest",
        ROLLED_BACK,
        |b| order(b, Change::UnknownFlag, Rehearsal::None, "verifying", Bed::power_cut),
    )),
    case("power-cut-rolling-back", "power cut while the last known good is put back", ROLLED_BACK, |b| {
        order(b, Change::UnknownFlag, Rehearsal::None, "rollingBack", Bed::power_cut)
    }),
    case(
        "two-power-cuts",
        "power cut with an unknown flag in the manifest, and again while it is put back",
        ROLLED_BACK,
        |b| {
            order(b, Change::UnknownFlag, Rehearsal::None, "verifying", |b| {
                b.power_cut()?;
                b.power_cut()
            })
        },
    ),
    case("kubelet-stopped-at-the-swap", "kubelet stopped at the swap, started after 30 s", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "swapping", |b| {
            b.node().stop_kubelet()?;
            pause(Duration::from_secs(30))?;
            b.node().start_kubelet()
        })
    }),
    case("kubelet-hangs", "kubelet paused while the new API server starts, for 30 s", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "verifying", |b| {
            b.node().pause_kubelet()?;
            pause(Duration::from_secs(30))?;
            b.node().resume_kubelet()
        })
    }),
    in_ci(case(
        "kubelet-restarted-while-down",
        "kubelet restarted while an unknown flag keeps the API server down",
        ROLLED_BACK,
        |b| {
            order(b, Change::UnknownFlag, Rehearsal::None, "verifying", |b| {
                wait::until("the old API server's end", PATIENCE, || {
                    Ok(servers(b.node())?.is_empty().then_some(()))
                })?;
                b.node().restart_kubelet()
            })
        },
    )),
    case(
        "kubelet-and-agent-restarted",
        "kubelet and agent restarted during the restart of the API server",
        SETTLED,
        |b| {
            order(b, Change::Good, Rehearsal::Auto, "verifying", |b| {
                b.node().kill_operator("agent")?;
                b.node().restart_kubelet()
            })
        },
    ),
    in_ci(case("installer-killed", "installer killed in every state", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "ordered", |b| at_every_state(b, &["installer"]))
    })),
    case(
        "installer-killed-rolling-back",
        "installer killed in every state of a roll-back",
        ROLLED_BACK,
        |b| order(b, Change::UnknownFlag, Rehearsal::None, "ordered", |b| at_every_state(b, &["installer"])),
    ),
    in_ci(case("agent-and-controller-killed", "agent and controller killed in every state", SETTLED, |b| {
        object(b, |b| at_every_state(b, &["agent", "controller"]))
    })),
    case("stand-in-killed", "stand-in killed while it serves", SETTLED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "verifying", |b| b.node().kill(is_stand_in).map(drop))
    }),
    no_outage(case("rehearsal-hangs", "stand-in hangs during the rehearsal", REFUSED, |b| {
        order(b, Change::Good, Rehearsal::Auto, "rehearsing", |b| {
            let stand_in =
                wait::until("the stand-in", PATIENCE, || Ok(b.node().processes(is_stand_in)?.pop()))?;
            let pid = Pid::from_raw(stand_in).context("a process id is not 0")?;
            kill_process(pid, Signal::STOP).context("pausing the stand-in")
        })
    })),
    case("port-taken", "somebody listens on the stand-in's first port", SETTLED, |b| {
        let listener = ["TCP-LISTEN:16443,fork,reuseaddr", "EXEC:cat"];
        let mut socat = b.node().command("socat")?.args(listener).stdin(Stdio::null()).spawn()?;
        let ended = order(b, Change::Good, Rehearsal::Auto, "verifying", nothing);
        let is_socat = |arguments: &[String]| arguments.first().is_some_and(|a| a == "socat");
        b.node().kill(is_socat)?;
        let _ = socat.wait();
        ended
    }),
    case("server-dies-after-ready", "the new API server becomes ready and is killed at once", EITHER, |b| {
        order(b, Change::Good, Rehearsal::Auto, "verifying", |b| {
            let old = servers(b.node())?;
            wait::until("the new API server", PATIENCE, || {
                let new = servers(b.node())?.into_iter().find(|id| !old.contains(id));
                Ok(new.filter(|_| b.cluster.api_is_ready(b.node()).unwrap_or(false)))
            })?;
            b.node().kill(|a| crate::fault::is_program(a, "kube-apiserver") && !is_stand_in(a)).map(drop)
        })
    }),
    in_ci(case(
        "another-writer",
        "somebody else writes the manifest while the new API server starts",
        &["failed", "refused"],
        |b| {
            let theirs = operator::with_max_age(&fs::read_to_string(b.node().path(MANIFEST))?, b.next())?;
            let mut expected = order(b, Change::Good, Rehearsal::Auto, "verifying", nothing)?;
            operator::swap_by_hand(b.node(), &theirs)?;
            // Theirs is not ours to undo.
            expected.manifests = vec![theirs];
            Ok(expected)
        },
    )),
    case(
        "bak-file",
        "a copy of the manifest is left in the folder while the change is rehearsed, and taken away after a minute",
        &["settled", "refused", "rolledBack"],
        |b| {
            order(b, Change::Good, Rehearsal::Auto, "rehearsing", |b| {
                let copy = b.node().path(&format!("{MANIFESTS}/kube-apiserver.yaml.bak"));
                fs::copy(b.node().path(MANIFEST), &copy)?;
                pause(Duration::from_secs(60))?;
                Ok(fs::remove_file(copy)?)
            })
        },
    ),
    case("network-cut", "the node's network is cut during the whole install", SETTLED, |b| {
        b.node().unplug()?;
        let expected = order(b, Change::Good, Rehearsal::Auto, "verifying", nothing);
        let ended = expected.and_then(|expected| b.ends(expected.order.as_deref()).map(|_| expected));
        b.node().plug_in()?;
        ended
    }),
    no_outage(case("image-missing", "the installer's image is gone from the node", REFUSED, |b| {
        let images = ["--namespace", "k8s.io", "images"];
        let reference = format!("docker.io/{}", image::operator_reference());
        b.node().run("ctr", &[&images[..], &["remove", &reference]].concat())?;
        let ended = object(b, |b| b.ends_after_order().map(drop));
        for archive in fs::read_dir(b.node().state.images())?.flatten() {
            b.node().run("ctr", &[&images[..], &["import", &archive.path().to_string_lossy()]].concat())?;
        }
        ended
    })),
    case("disk-full-logging", "the log's disk is full", &["refused"], |b| {
        b.node().cut()?;
        let disk = b.node().mount_disk(LOGS, "16m")?;
        b.cluster.switch_on(b.node(), Lifetime::OfThisProcess)?;
        b.is_back()?;
        disk.fill()?;
        let expected = order(b, Change::Good, Rehearsal::Auto, "rehearsing", nothing)?;
        b.ends(expected.order.as_deref())?;
        b.node().cut()?;
        b.node().unmount_disks()?;
        b.cluster.switch_on(b.node(), Lifetime::OfThisProcess)?;
        b.is_back()?;
        Ok(expected)
    }),
    case("disk-full-staging", "the disk of the policy files is full", &["refused"], |b| {
        b.node().cut()?;
        let disk = b.node().mount_disk("/etc/kubernetes/audit", "1m")?;
        b.cluster.switch_on(b.node(), Lifetime::OfThisProcess)?;
        b.is_back()?;
        disk.fill()?;
        let expected = order(b, Change::BadPolicy, Rehearsal::None, "ordered", nothing)?;
        b.ends(expected.order.as_deref())?;
        disk.drain()?;
        // The policy that runs goes back to the node's own disk.
        let kept: Vec<_> =
            fs::read_dir(b.node().path("/etc/kubernetes/audit"))?.flatten().map(|f| f.path()).collect();
        let kept: Vec<_> = kept.into_iter().map(|p| Ok((p.clone(), fs::read(p)?))).collect::<Result<_>>()?;
        b.node().cut()?;
        b.node().unmount_disks()?;
        for (path, text) in kept {
            fs::write(path, text)?;
        }
        b.cluster.switch_on(b.node(), Lifetime::OfThisProcess)?;
        b.is_back()?;
        Ok(expected)
    }),
    case(
        "helm-uninstall",
        "helm uninstall while the new API server starts; installed again afterwards",
        SETTLED,
        |b| {
            let expected = order(b, Change::Good, Rehearsal::Auto, "verifying", |b| {
                let uninstall = ["uninstall", "audit-operator", "-n", NAMESPACE];
                wait::until("helm uninstall", PATIENCE, || operator::helm(&b.cluster, &uninstall).map(Some))
                    .map(drop)
            })?;
            b.ends(expected.order.as_deref())?;
            operator::install(&b.cluster)?;
            Ok(expected)
        },
    ),
];

fn nothing(_: &Bed) -> Result<()> {
    Ok(())
}

/// Gives an order by hand, waits until it is in a state, and does the fault.
fn order(
    bed: &Bed,
    change: Change,
    rehearsal: Rehearsal,
    at: &str,
    fault: fn(&Bed) -> Result<()>,
) -> Result<Expected> {
    let given = bed.template.give(bed.node(), change, rehearsal, bed.next())?;
    reaches(bed.node(), &given.id, at)?;
    fault(bed)?;
    let manifests = if change == Change::Good { vec![given.target] } else { Vec::new() };
    Ok(Expected { order: Some(given.id), manifests })
}

/// Changes the object, and does the fault when its order is there. Paused again afterwards.
fn object(bed: &Bed, fault: fn(&Bed) -> Result<()>) -> Result<Expected> {
    let before = Journal::of(bed.node())?.context("no journal")?;
    operator::wish(&bed.cluster, Wish { max_age: bed.next(), paused: false, soak: 0 })?;
    let path = bed.node().path(&format!("{}/order.json", operator::STATE));
    let order: serde_json::Value = wait::until("an order", PATIENCE, || {
        let order: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        Ok(order["id"].as_str().is_some_and(|id| id != before.order).then_some(order))
    })?;
    let ended = fault(bed);
    let text = |field: &str| order[field].as_str().unwrap_or_default().to_owned();
    bed.ends(Some(&text("id")))?;
    operator::pause(&bed.cluster)?;
    ended.map(|()| Expected { order: Some(text("id")), manifests: vec![text("target")] })
}

/// Kills processes of the operator in every state the journal comes to, until the last.
fn at_every_state(bed: &Bed, verbs: &[&str]) -> Result<()> {
    let (mut seen, mut killed) = (String::new(), 0);
    let end = Instant::now() + PATIENCE;
    loop {
        let journal = Journal::of(bed.node())?.context("no journal")?;
        if journal.state != seen {
            for verb in verbs {
                killed += bed.node().kill_operator(verb)?;
            }
            seen.clone_from(&journal.state);
        }
        if journal.is_final() && killed > 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "it does not end; it is {}", journal.state);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_stand_in(arguments: &[String]) -> bool {
    crate::fault::is_program(arguments, "kube-apiserver")
        && arguments.iter().any(|a| a == "--endpoint-reconciler-type=none")
}

/// Time in which a fault lasts.
fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    wait::until("the fault's time", PATIENCE, || Ok((Instant::now() > end).then_some(())))
}

impl Bed {
    /// Until the API server answers again.
    fn is_back(&self) -> Result<()> {
        wait::until("the API server", PATIENCE, || Ok(self.cluster.api_is_ready(self.node())?.then_some(())))
    }

    fn ends_after_order(&self) -> Result<Journal> {
        let path = self.node().path(&format!("{}/order.json", operator::STATE));
        let order: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
        self.ends(Some(order["id"].as_str().context("an order has an id")?))
    }
}
