//! The relief: takes the API server's port while that restarts, and passes connections on to the stand-in.
//!
//! Bytes only: TLS ends at the stand-in, which has the same certificate. Each client gets a source address of its own on the
//! loopback network, because the stand-in logs where a request came from; the table of them is on the disk before one
//! is used (see [`crate::install::addresses`]).

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use crate::install::Relief as Seen;
use crate::install::addresses::Addresses;

/// Between two tries to take the port: the time without an answer at the hand-over.
const TRY: Duration = Duration::from_millis(5);
/// Between two looks whether to give it back: the new server binds the port a second after its container is made.
const LOOK: Duration = Duration::from_millis(10);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Connections carried at once; each is two sockets. A kube-apiserver of a large cluster has some thousands.
const CONNECTIONS: usize = 10_000;

/// A forwarder; dropping it ends it and everything it carries.
#[derive(Debug)]
pub(super) struct Relief {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Relief {
    /// Waits for the port of `listen` to become free, takes it, and passes connections on to `to` until `release` says so. What
    /// is carried then goes on.
    pub(super) fn start(
        listen: SocketAddr,
        to: SocketAddr,
        table: PathBuf,
        release: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Seen::Waiting));
        let says = seen.clone();
        let task = tokio::spawn(async move {
            let say = |new: Seen| *says.lock().unwrap_or_else(PoisonError::into_inner) = new;
            let Some(listener) = take(listen, &release, &say).await else {
                say(Seen::Released);
                return;
            };
            info!(%listen, %to, "the stand-in answers");
            say(Seen::Holding);
            let mut carried = serve(listener, to, Clients::new(table), release).await;
            info!(%listen, connections = carried.len(), "the port is given back");
            say(Seen::Released);
            while carried.join_next().await.is_some() {}
        });
        Self { seen, task }
    }

    /// What it does now.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relief {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The port, as soon as it is free; `None` when it is not wanted any more.
async fn take(listen: SocketAddr, release: &impl Fn() -> bool, say: &impl Fn(Seen)) -> Option<TcpListener> {
    while !release() {
        match bind(listen) {
            Ok(listener) => return Some(listener),
            // The old server still has it.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => say(Seen::Waiting),
            Err(error) => say(Seen::Failed(format!("cannot listen on {listen}: {error}"))),
        }
        tokio::time::sleep(TRY).await;
    }
    None
}

/// As kube-apiserver does: an unspecified IPv6 address takes both families (`net.ipv6.bindv6only` is off), and where there
/// is no IPv6 it is IPv4.
fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let bind = |address: SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Connections of the old server are still in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    match bind(listen) {
        Err(error) if listen.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            bind((Ipv4Addr::UNSPECIFIED, listen.port()).into())
        }
        bound => bound,
    }
}

/// Carries connections until the port is wanted back; gives those that are still carried.
async fn serve(
    listener: TcpListener,
    to: SocketAddr,
    mut clients: Clients,
    release: impl Fn() -> bool,
) -> JoinSet<()> {
    let mut carried = JoinSet::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            _ = look.tick() => if release() { return carried },
            Some(_) = carried.join_next() => {}
            accepted = listener.accept(), if carried.len() < CONNECTIONS => match accepted {
                Ok((client, address)) => match clients.source(address.ip()) {
                    Ok(source) => { carried.spawn(carry(client, source, to)); }
                    // Refusing is better than an event that names somebody else.
                    Err(error) => warn!(%error, "a connection was refused: its address cannot be kept"),
                },
                // Out of file descriptors, say: the next one may do.
                Err(error) => debug!(%error, "a connection was not accepted"),
            },
        }
    }
}

async fn carry(mut client: TcpStream, source: Ipv4Addr, to: SocketAddr) {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        socket.connect(to).await
    };
    let result = match connect.await {
        Ok(mut server) => {
            // Small requests and answers must not wait for each other.
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        debug!(%error, "a connection ended");
    }
}

/// The table of addresses, in memory and in its file.
#[derive(Debug)]
struct Clients {
    file: PathBuf,
    table: Option<Addresses>,
    known: HashMap<IpAddr, Ipv4Addr>,
}

impl Clients {
    fn new(file: PathBuf) -> Self {
        Self { file, table: None, known: HashMap::new() }
    }

    /// The address that stands for a client; a new one is in the file before it is returned.
    fn source(&mut self, client: IpAddr) -> io::Result<Ipv4Addr> {
        if let Some(source) = self.known.get(&client) {
            return Ok(*source);
        }
        let source = self.enter(client)?;
        self.known.insert(client, source);
        Ok(source)
    }

    fn enter(&mut self, client: IpAddr) -> io::Result<Ipv4Addr> {
        let table = match &mut self.table {
            Some(table) => table,
            // An installer that was started again goes on with the table that is there.
            none => none.insert(match std::fs::read(&self.file) {
                Ok(text) => Addresses::parse(&text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Addresses::default(),
                Err(error) => return Err(error),
            }),
        };
        if let Some(source) = table.stand_in(client) {
            return Ok(source);
        }
        let entry = table.next(client).ok_or_else(|| io::Error::other("more clients than addresses"))?;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
        // In front of it a line may have been left without its end.
        file.write_all(format!("\n{entry}\n").as_bytes())?;
        table.insert(entry);
        Ok(entry.stand_in)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Far more than any of this takes, also on a machine under load.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
    }

    /// A server that sends back what it is sent, after a line with the address it sees; until the connection ends.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, client)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.write_all(format!("{}\n", client.ip()).as_bytes()).await;
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.write_all(b"the end").await;
                });
            }
        });
        address
    }

    struct Stage {
        relief: Relief,
        at: SocketAddr,
        stop: Arc<AtomicBool>,
        folder: tempfile::TempDir,
    }

    /// A relief for a port that somebody holds, and that holder.
    async fn stage() -> (Stage, TcpListener) {
        let folder = tempfile::tempdir().unwrap();
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = holder.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let release = move || asked.load(Ordering::Relaxed);
        let relief = Relief::start(at, echo().await, folder.path().join("table"), release);
        (Stage { relief, at, stop, folder }, holder)
    }

    impl Stage {
        async fn until(&self, wanted: &Seen) {
            patiently(&format!("{wanted:?}"), async {
                while self.relief.seen() != *wanted {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }

        /// A connection, and the address the server saw.
        async fn connect(&self) -> (TcpStream, String) {
            let mut stream = patiently("connecting", TcpStream::connect(self.at)).await.unwrap();
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                line.push(patiently("the server's line", stream.read_u8()).await.unwrap());
            }
            (stream, String::from_utf8(line).unwrap().trim().to_owned())
        }
    }

    #[tokio::test]
    async fn the_port_is_taken_when_it_is_free_and_given_back_while_what_is_carried_goes_on() {
        let (stage, holder) = stage().await;
        stage.until(&Seen::Waiting).await;
        drop(holder);
        stage.until(&Seen::Holding).await;
        let (mut carried, _) = stage.connect().await;
        stage.stop.store(true, Ordering::Relaxed);
        stage.until(&Seen::Released).await;
        let again = TcpListener::bind(stage.at).await.expect("the port is free");
        carried.write_all(b"still there").await.unwrap();
        let mut answer = [0; 11];
        patiently("the answer", carried.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"still there");
        drop(again);
    }

    #[tokio::test]
    async fn an_end_of_one_side_reaches_the_other_and_the_rest_comes_back() {
        let (stage, holder) = stage().await;
        drop(holder);
        stage.until(&Seen::Holding).await;
        let (mut stream, _) = stage.connect().await;
        stream.write_all(b"ping ").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        patiently("the rest", stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "ping the end");
    }

    #[tokio::test]
    async fn a_port_that_is_not_wanted_any_more_is_never_taken() {
        let (stage, holder) = stage().await;
        stage.stop.store(true, Ordering::Relaxed);
        stage.until(&Seen::Released).await;
        drop(holder);
        assert!(TcpListener::bind(stage.at).await.is_ok());
    }

    #[tokio::test]
    async fn a_stand_in_that_is_gone_ends_its_connections_only() {
        let folder = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = nobody.local_addr().unwrap();
        drop(nobody);
        let relief = Relief::start(at, to, folder.path().join("table"), || false);
        let stage = Stage { relief, at, stop: Arc::default(), folder };
        stage.until(&Seen::Holding).await;
        for _ in 0..2 {
            let mut stream = patiently("connecting", TcpStream::connect(at)).await.unwrap();
            let mut nothing = Vec::new();
            let ended = patiently("the end", stream.read_to_end(&mut nothing)).await;
            assert!(nothing.is_empty() && (ended.is_err() || ended.is_ok_and(|n| n == 0)));
        }
        assert_eq!(stage.relief.seen(), Seen::Holding);
        assert!(stage.folder.path().exists());
    }

    #[test]
    fn a_client_has_one_address_and_it_is_in_the_file_before_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table");
        let client: IpAddr = "198.51.100.7".parse().unwrap();
        let mapped: IpAddr = "::ffff:198.51.100.7".parse().unwrap();
        let other: IpAddr = "2001:db8::1".parse().unwrap();
        let mut clients = Clients::new(file.clone());
        let first = clients.source(client).unwrap();
        assert_eq!(clients.source(mapped).unwrap(), first);
        assert_eq!(clients.source("127.0.0.1".parse().unwrap()).unwrap(), Ipv4Addr::LOCALHOST);
        // Somebody else's half of a line, and a new process.
        let mut half = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
        half.write_all(b"127.64.0.9 198.51").unwrap();
        let mut clients = Clients::new(file.clone());
        assert_ne!(clients.source(other).unwrap(), first);
        assert_eq!(clients.source(client).unwrap(), first);
        let table = Addresses::parse(&std::fs::read(&file).unwrap());
        assert_eq!(table.client(first), Some(client));
        assert_eq!(table.stand_in(other).and_then(|a| table.client(a)), Some(other));
    }
}
