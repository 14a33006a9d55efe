//! The network between the nodes: a bridge in a namespace of its own, and a TCP balancer for the control plane's
//! name, which asks each API server for its `/readyz`.
//!
//! One process is both: it holds the namespace while it balances. The namespace has no uplink.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::{self, Client};
use crate::launch::{self, Lifetime};
use crate::network;
use crate::run::{output, tail};
use crate::state::State;

/// A node that was cut off does not refuse, it says nothing. On a bridge an answer takes microseconds.
const CONNECT: Duration = Duration::from_secs(1);
/// How often each API server is asked whether it is ready.
const CHECK: Duration = Duration::from_secs(1);

/// Starts the hub for this many nodes and returns when its balancer listens.
pub(crate) fn up(state: &State, nodes: u8, lifetime: Lifetime) -> Result<()> {
    let log = state.root().join("hub.log");
    let me = std::env::current_exe().context("finding this program")?;
    let mut command = launch::command(lifetime, &[])?;
    command.args(["unshare", "--net"]).arg(me).args(["hub", "--state"]).arg(state.root());
    command.args(["--nodes", &nodes.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
    let mut child = launch::start(&mut command)?;
    let mut answer = String::new();
    let stdout = child.stdout.take().expect("its output is piped");
    BufReader::new(stdout).read_line(&mut answer).context("listening to the hub")?;
    if answer.trim() != "ready" {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        bail!("the hub did not start:{}", tail(&said));
    }
    Ok(())
}

/// `e2e hub`: makes the bridge in the namespace it was started in, says `ready`, and balances for ever.
pub(crate) fn serve(nodes: u8) -> Result<()> {
    let bridge = format!("{}/24", network::HUB);
    for step in [
        "link set lo up",
        "link add br0 type bridge",
        &format!("addr add {bridge} dev br0"),
        "link set br0 up",
    ] {
        output(Command::new("ip").args(step.split(' ')))?;
    }
    let listener = TcpListener::bind((network::HUB, network::API_PORT)).context("listening on the bridge")?;
    let mut stdout = io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    let backends: &'static [Backend] = backends(nodes)?.leak();
    let client = Client::new()?;
    for backend in backends {
        let client = client.clone();
        thread::spawn(move || check(&client, backend));
    }
    balance(&listener, backends)
}

/// Puts a node's network card, whose other end is in the namespace of process `init`, on the bridge.
pub(crate) fn plug(state: &State, node: &str, init: crate::process::Id) -> Result<()> {
    let hub = state.hub().context("the hub is not running")?;
    let port = format!("v{node}");
    let ip = |arguments: &str| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &hub.to_string(), "--net", "--", "ip"]).args(arguments.split(' '));
        output(&mut command)
    };
    // After a power cut the kernel takes the old pair away in its own time.
    let _ = ip(&format!("link del {port}"));
    ip(&format!("link add {port} type veth peer name eth0 netns {init}"))?;
    ip(&format!("link set {port} master br0 up"))?;
    Ok(())
}

/// Sets the port of a node `up` or `down`.
pub(crate) fn link(state: &State, node: &str, to: &str) -> Result<()> {
    let hub = state.hub().context("the hub is not running")?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &hub.to_string(), "--net", "--", "ip", "link", "set", &format!("v{node}"), to]);
    output(&mut command).map(drop)
}

/// An API server to pass connections to.
#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    /// Whether its `/readyz` said so when it was last asked.
    ready: AtomicBool,
}

fn backends(nodes: u8) -> Result<Vec<Backend>> {
    let backend = |n| {
        let address = client::socket(&network::address(n), network::API_PORT)?;
        Ok(Backend { address, ready: AtomicBool::new(false) })
    };
    (1..=nodes).map(backend).collect()
}

/// Asks one API server again and again whether it is ready, as a balancer in front of a control plane does.
fn check(client: &Client, backend: &Backend) -> ! {
    loop {
        let ready = client.get(backend.address, "/readyz").is_ok_and(|status| status == 200);
        backend.ready.store(ready, Ordering::Relaxed);
        thread::sleep(CHECK);
    }
}

/// Passes each connection to the next node that is ready and takes it; with none ready, to any that takes it.
fn balance(listener: &TcpListener, backends: &'static [Backend]) -> Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    for client in listener.incoming() {
        let client = client.context("accepting")?;
        thread::spawn(move || {
            let first = NEXT.fetch_add(1, Ordering::Relaxed);
            let order = || (0..backends.len()).map(|i| &backends[(first + i) % backends.len()]);
            let (ready, others): (Vec<_>, Vec<_>) = order().partition(|b| b.ready.load(Ordering::Relaxed));
            let mut order = ready.into_iter().chain(others);
            let taken = order.find_map(|to| TcpStream::connect_timeout(&to.address, CONNECT).ok());
            // No node takes it: the client sees its connection closed, as with any balancer.
            if let Some(server) = taken {
                let _ = join(client, server);
            }
        });
    }
    Ok(())
}

/// Copies both ways until both sides have ended.
fn join(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || pump(client, server));
    pump(server_too, client_too);
    let _ = up.join();
    Ok(())
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_connection_goes_to_a_node_that_is_ready_and_takes_it() {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (alive, unready) = (bind(), bind());
        let backend = |address, ready| Backend { address, ready: AtomicBool::new(ready) };
        let of = |listener: &TcpListener| listener.local_addr().expect("bound");
        // A listener that was dropped lives on for a moment in a process another test is starting; nobody has port 1.
        let dead = client::socket("127.0.0.1", 1).expect("an address");
        let backends: &'static [Backend] =
            vec![backend(of(&unready), false), backend(dead, true), backend(of(&alive), true)].leak();
        let balancer = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = balancer.local_addr().expect("bound");
        thread::spawn(move || balance(&balancer, backends));
        thread::spawn(move || {
            for stream in alive.incoming().flatten() {
                let mut stream = stream;
                let mut question = String::new();
                let _ = stream.read_to_string(&mut question);
                let _ = write!(stream, "re: {question}");
            }
        });
        for round in 0..6 {
            let mut client = TcpStream::connect(at).expect("the balancer listens");
            write!(client, "round {round}").expect("sent");
            client.shutdown(Shutdown::Write).expect("half closed");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer");
            assert_eq!(answer, format!("re: round {round}"));
        }
    }
}
