//! What the controller remembers between two decisions, and could forget: how long installs have been as they are, and
//! what it wrote that its stores do not show yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::AuditNode;

use super::observe::World;

#[derive(Default)]
pub(super) struct Memory {
    /// Each node's install by identity and state, when it was first seen so, and how old it was then.
    installs: BTreeMap<String, ((String, String), Instant, Duration)>,
    /// AuditNodes as the API server answered when they were written.
    written: BTreeMap<String, AuditNode>,
    started: bool,
}

impl Memory {
    /// How long each node's install has been in its state. Counted here, because the nodes' clocks may be an hour off;
    /// only of what was so already when the controller started, the node's own time is believed.
    pub(super) fn ages(
        &mut self,
        world: &World,
        now: Timestamp,
        instant: Instant,
    ) -> BTreeMap<String, Duration> {
        let mut installs = BTreeMap::new();
        for node in &world.audit_nodes {
            let Some(install) = node.status.as_ref().and_then(|s| s.install.as_ref()) else { continue };
            let key = (install.id.clone(), install.state.clone());
            let known = self.installs.remove(&node.name_any()).filter(|(known, ..)| *known == key);
            let reported = || now.duration_since(install.since.0).unsigned_abs();
            let before = if self.started || install.since.0 > now { Duration::ZERO } else { reported() };
            installs.insert(node.name_any(), known.unwrap_or((key, instant, before)));
        }
        self.started = true;
        self.installs = installs;
        let age = |(_, since, before): &(_, Instant, Duration)| {
            instant.saturating_duration_since(*since).saturating_add(*before)
        };
        self.installs.iter().map(|(name, seen)| (name.clone(), age(seen))).collect()
    }

    /// Keeps what an API server answered to a write.
    pub(super) fn wrote(&mut self, node: AuditNode) {
        self.written.insert(node.name_any(), node);
    }

    /// Puts into the snapshot what was written and has not come back through the watch: a permit that is out must not be
    /// forgotten for a moment.
    pub(super) fn overlay(&mut self, world: &mut World) {
        for node in &mut world.audit_nodes {
            let name = node.name_any();
            let Some(written) = self.written.get(&name) else { continue };
            if written.uid() != node.uid() || written.metadata.generation <= node.metadata.generation {
                self.written.remove(&name);
                continue;
            }
            *node = Arc::new(AuditNode { status: node.status.clone(), ..written.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(generation: i64, revision: &str, since: &str) -> AuditNode {
        serde_json::from_value(json!({
            "apiVersion": "audit-operator.dev/v1alpha1", "kind": "AuditNode",
            "metadata": {"name": "n1", "uid": "u", "generation": generation}, "spec": {"revision": revision},
            "status": {"install": {"id": "1", "state": "Settled", "from": "a", "to": "b", "since": since}},
        }))
        .unwrap()
    }

    fn world(node: AuditNode) -> World {
        World {
            configurations: Vec::new(),
            audit_nodes: vec![Arc::new(node)],
            nodes: Vec::new(),
            bundles: Vec::new(),
            config_maps: BTreeMap::new(),
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn ages_are_counted_here_but_for_what_was_so_at_the_start() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(7));
        let age = |memory: &mut Memory, since: &str, instant| {
            memory.ages(&world(node(1, "r", since)), now, instant)["n1"].as_secs()
        };
        let mut memory = Memory::default();
        assert_eq!(age(&mut memory, "2026-01-01T11:59:00Z", start), 60);
        assert_eq!(age(&mut memory, "2026-01-01T11:59:00Z", later), 67);
        let mut memory = Memory::default();
        assert_eq!(age(&mut memory, "2026-01-01T13:00:00Z", start), 0, "a clock that is ahead");
        let mut memory = Memory { started: true, ..Memory::default() };
        assert_eq!(age(&mut memory, "2026-01-01T11:00:00Z", start), 0, "a clock that is behind");
        assert_eq!(age(&mut memory, "2026-01-01T11:00:00Z", later), 7);
    }

    #[test]
    fn what_was_written_is_seen_until_the_store_has_it() {
        let mut memory = Memory::default();
        memory.wrote(node(2, "new", "2026-01-01T00:00:00Z"));
        let revision = |memory: &mut Memory, stored: AuditNode| {
            let mut world = world(stored);
            memory.overlay(&mut world);
            world.audit_nodes[0].spec.revision.clone().unwrap()
        };
        assert_eq!(revision(&mut memory, node(1, "old", "2026-01-01T00:00:00Z")), "new");
        assert_eq!(revision(&mut memory, node(3, "newest", "2026-01-01T00:00:00Z")), "newest");
        assert_eq!(revision(&mut memory, node(1, "old", "2026-01-01T00:00:00Z")), "old");
    }
}
