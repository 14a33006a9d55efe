//! The addresses of the test bed. All lie in ranges set aside for documentation and benchmarks (RFC 5737,
//! RFC 2544), in network namespaces without an uplink: nothing sent there can leave this machine.

/// The hub: the bridge's own address, where the balancer listens.
pub(crate) const HUB: &str = "198.51.100.1";
/// The range of the nodes.
pub(crate) const NODES: &str = "198.51.100";
/// The range of Services.
pub(crate) const SERVICES: &str = "203.0.113.0/24";
/// Service `kubernetes`, by which Pods reach an API server.
pub(crate) const SERVICE: &str = "203.0.113.1";
/// The port of it.
pub(crate) const SERVICE_PORT: u16 = 443;
/// The range of Pods; each node has a /24 of it.
pub(crate) const PODS: &str = "198.18.0.0/16";
/// The name of the control plane, which the hub balances over the nodes.
pub(crate) const CONTROL_PLANE: &str = "cp.test";
/// The port of every API server and of the balancer.
pub(crate) const API_PORT: u16 = 6443;
/// How many nodes there can be.
pub(crate) const MOST_NODES: u8 = 3;

/// The name of the node with this number, from 1.
pub(crate) fn name(number: u8) -> String {
    format!("n{number}")
}

/// The number of the node with this name.
pub(crate) fn number(name: &str) -> Option<u8> {
    name.strip_prefix('n')?.parse().ok().filter(|n| (1..=MOST_NODES).contains(n))
}

/// A node's address: .11 and up.
pub(crate) fn address(number: u8) -> String {
    format!("{NODES}.{}", 10 + number)
}

/// The range of a node's Pods.
pub(crate) fn pods(number: u8) -> String {
    format!("198.18.{}.0/24", 10 + number)
}

/// /etc/hosts of every node.
pub(crate) fn hosts() -> String {
    let nodes = (1..=MOST_NODES).map(|n| format!("{} {}\n", address(n), name(n)));
    format!("127.0.0.1 localhost\n{HUB} {CONTROL_PLANE}\n{}", nodes.collect::<String>())
}
