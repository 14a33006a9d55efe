//! The network between the nodes: a bridge in a namespace of its own, and a TCP balancer for the control plane's
//! name.
//!
//! One process is both: it holds the namespace while it balances. The namespace has no uplink.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::launch::{self, Lifetime};
use crate::network;
use crate::run::{output, tail};
use crate::state::State;

/// A node that was cut off does not refuse, it says nothing. On a bridge an answer takes microseconds.
const CONNECT: Duration = Duration::from_secs(1);

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
    balance(&listener, backends(nodes)?)
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

fn backends(nodes: u8) -> Result<Vec<SocketAddr>> {
    let socket = |n| format!("{}:{}", network::address(n), network::API_PORT).parse();
    (1..=nodes).map(socket).collect::<Result<_, _>>().context("a node's address")
}

/// Passes each connection to the next node that takes it.
fn balance(listener: &TcpListener, backends: Vec<SocketAddr>) -> Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    for client in listener.incoming() {
        let (client, backends) = (client.context("accepting")?, backends.clone());
        thread::spawn(move || {
            let first = NEXT.fetch_add(1, Ordering::Relaxed);
            let order = (0..backends.len()).map(|i| backends[(first + i) % backends.len()]);
            let taken = order.into_iter().find_map(|to| TcpStream::connect_timeout(&to, CONNECT).ok());
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
    fn a_connection_goes_to_a_node_that_takes_it() {
        let alive = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dead = TcpListener::bind("127.0.0.1:0").expect("a port");
        let backends = vec![dead.local_addr().expect("bound"), alive.local_addr().expect("bound")];
        drop(dead);
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
        for round in 0..4 {
            let mut client = TcpStream::connect(at).expect("the balancer listens");
            write!(client, "round {round}").expect("sent");
            client.shutdown(Shutdown::Write).expect("half closed");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer");
            assert_eq!(answer, format!("re: round {round}"));
        }
    }
}
