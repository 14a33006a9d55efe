//! Relief: takes the node's API port the moment the live API server leaves it, and passes connections on to the stand-in.
//!
//! The port is asked for again and again until the old server has let go of it, and given back when the caller says that
//! the new one is coming; connections that are carried then go on. All of it runs in a thread of its own, because what
//! else an install does (files brought to the disk, folders listed) would hold up every client of this node.
//!
//! A client's connection reaches the stand-in from the loopback address that stands for it
//! ([`crate::install::addresses`]). Only TCP is touched: TLS is between the client and the stand-in.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the edge where ports, the clock and the table's file are"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::{debug, warn};

use crate::install::addresses::Addresses;

use super::serve::Route;

/// Between two tries to take the port: nobody answers clients meanwhile, and a try costs some microseconds.
const TRY: Duration = Duration::from_millis(5);
/// Between two questions whether to give it back: the new server needs about a second until it asks for it.
const ASK: Duration = Duration::from_millis(10);
/// Connections carried at once; more wait in the backlog. Bounds memory: each has two buffers of [`BUFFER`] bytes.
const MOST_CONNECTIONS: u32 = 10_000;
/// Bytes read at once.
const BUFFER: usize = 16 << 10;
/// Connections that wait to be accepted, when all clients of a node come back at once; the system has its own limit
/// (`net.core.somaxconn`, 4096).
const BACKLOG: u32 = 4096;

/// How far a relief is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The old server has the port still.
    Waiting {
        /// Why the last try failed, when it was not for that; it is tried again all the same.
        trouble: Option<String>,
    },
    /// It was to be given back before it could be taken, and was never taken.
    NeverHeld,
    /// Connections are passed on.
    Holding {
        /// Since then.
        since: Instant,
    },
    /// The port is free again; connections that were carried go on.
    Released {
        /// Since then.
        since: Instant,
    },
}

/// A relief's state and figures.
#[derive(Clone, Debug)]
pub(super) struct Status {
    /// How far it is.
    pub(super) state: State,
    /// From the start until the port was taken, if it was.
    pub(super) held_after: Option<Duration>,
    /// Connections passed on to the stand-in until now.
    pub(super) carried: u64,
    /// Connections that are open now, those that are still being passed on among them.
    pub(super) open: u64,
    /// Connections that could not be passed on.
    pub(super) failed: u64,
}

/// A relief under way. Dropping it ends everything at once, the connections it carries too.
#[derive(Debug)]
pub(super) struct Relief {
    started: Instant,
    forwarder: Arc<Forwarder>,
    state: watch::Receiver<State>,
    end: Option<oneshot::Sender<Duration>>,
    thread: Option<JoinHandle<()>>,
}

impl Relief {
    /// Begins to ask for the port, and returns at once. `release` says whether to give it back, or not to take it any more; it
    /// is asked all the time, in the thread that carries the connections, so it must be quick.
    ///
    /// # Errors
    /// The table's file cannot be read or written, or there can be no thread. No port was touched.
    pub(super) fn start(route: Route, release: impl Fn() -> bool + Send + 'static) -> io::Result<Self> {
        let forwarder = Arc::new(Forwarder::new(&route)?);
        let (state, watched) = watch::channel(State::Waiting { trouble: None });
        let (end, ended) = oneshot::channel();
        let (begun, begins) = mpsc::channel();
        raise_limit_of_open_files();
        let work = Work { forwarder: forwarder.clone(), listen: route.listen, state };
        let thread = thread::Builder::new().name("relief".to_owned()).spawn(move || {
            // Built where it is used: the caller has a runtime of its own, in which another must not be dropped.
            match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
                Ok(runtime) => {
                    let _ = begun.send(Ok(()));
                    work.run(runtime, release, ended);
                }
                Err(error) => drop(begun.send(Err(error))),
            }
        })?;
        begins.recv().map_err(io::Error::other)??;
        Ok(Self { started: Instant::now(), forwarder, state: watched, end: Some(end), thread: Some(thread) })
    }

    /// Its state, to be looked at or awaited.
    #[cfg(test)]
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// State and figures of this moment.
    pub(super) fn status(&self) -> Status {
        let f = &self.forwarder;
        Status {
            state: self.state.borrow().clone(),
            held_after: f.held.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at - self.started),
            carried: f.carried.load(Ordering::Relaxed),
            open: u64::from(MOST_CONNECTIONS) - f.free.available_permits() as u64,
            failed: f.failed.load(Ordering::Relaxed),
        }
    }

    /// Gives the port back, lets the connections it carries go on for at most `grace`, ends them, and returns the figures from
    /// before that.
    pub(super) async fn finish(mut self, grace: Duration) -> Status {
        if let Some(end) = self.end.take() {
            // The other side is gone only when its thread is.
            let _ = end.send(grace);
        }
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
        self.status()
    }
}

impl Drop for Relief {
    fn drop(&mut self) {
        drop(self.end.take());
        // So that the port is free when this returns; the thread ends at its next step, which is some milliseconds away.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread of a relief ended with a panic");
        }
    }
}

/// What the thread works on.
struct Work {
    forwarder: Arc<Forwarder>,
    listen: Vec<SocketAddr>,
    state: watch::Sender<State>,
}

impl Work {
    fn run(self, runtime: Runtime, release: impl Fn() -> bool, mut end: oneshot::Receiver<Duration>) {
        runtime.block_on(async {
            let grace = tokio::select! {
                grace = &mut end => grace,
                () = self.hold(&release) => end.await,
            };
            self.released();
            // Without a grace the relief was dropped.
            if let Ok(grace) = grace {
                let _ = tokio::time::timeout(grace, self.forwarder.free.acquire_many(MOST_CONNECTIONS)).await;
            }
        });
        // Ends the connections; then the state's sender goes with `self`, which tells that all is over.
        drop(runtime);
    }

    /// Takes the port, and gives it back when it is time.
    async fn hold(&self, release: &impl Fn() -> bool) {
        let Some(listeners) = self.take(release).await else {
            self.state.send_replace(State::NeverHeld);
            return;
        };
        let since = Instant::now();
        *self.forwarder.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(since);
        self.state.send_replace(State::Holding { since });
        tokio::select! {
            _ = join_all(listeners.iter().map(|listener| self.forwarder.accept(listener))) => {}
            () = asked(release) => {}
        }
        for listener in listeners {
            self.forwarder.close(listener);
        }
        self.released();
    }

    /// The listeners, as soon as they can be had; `None` when the port is wanted back before.
    async fn take(&self, release: &impl Fn() -> bool) -> Option<Vec<TcpListener>> {
        while !release() {
            match self.listen.iter().map(|address| listen(*address)).collect() {
                Ok(listeners) => return Some(listeners),
                Err(error) => self.waiting(&error),
            }
            tokio::time::sleep(TRY).await;
        }
        None
    }

    fn waiting(&self, error: &io::Error) {
        let trouble = (error.kind() != io::ErrorKind::AddrInUse).then(|| error.to_string());
        let new = State::Waiting { trouble };
        self.state.send_if_modified(|state| {
            let changed = *state != new;
            *state = new;
            changed
        });
    }

    fn released(&self) {
        self.state.send_if_modified(|state| {
            let held = matches!(state, State::Holding { .. });
            if held {
                *state = State::Released { since: Instant::now() };
            }
            held
        });
    }
}

fn non_blocking(accepted: std::net::TcpStream) -> io::Result<TcpStream> {
    accepted.set_nonblocking(true)?;
    TcpStream::from_std(accepted)
}

async fn asked(release: &impl Fn() -> bool) {
    while !release() {
        tokio::time::sleep(ASK).await;
    }
}

/// Listens as kube-apiserver does, that is as Go's `net.Listen` does: `SO_REUSEADDR`, because connections of the old server
/// may be about, and IPv4 on the IPv6 wildcard whatever `net.ipv6.bindv6only` says.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = match socket {
        Err(error) if address.ip().is_unspecified() && no_ipv6(&error) && address.is_ipv6() => {
            return listen((Ipv4Addr::UNSPECIFIED, address.port()).into());
        }
        socket => socket?,
    };
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether this is a kernel started with `ipv6.disable=1`.
fn no_ipv6(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

/// A connection needs two open files, and a process may start with a limit of 1024 of them; Go raises its own the same way.
fn raise_limit_of_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, raised) {
        warn!(%errno, "the limit of open files stays as it is, and with it the number of connections");
    }
}

/// Carries connections, whoever accepts them.
#[derive(Debug)]
struct Forwarder {
    to: SocketAddrV4,
    table: Mutex<Table>,
    /// One permit for each connection that may still come.
    free: Arc<Semaphore>,
    held: Mutex<Option<Instant>>,
    carried: AtomicU64,
    failed: AtomicU64,
}

impl Forwarder {
    fn new(route: &Route) -> io::Result<Self> {
        Ok(Self {
            to: route.to,
            table: Mutex::new(Table::open(route)?),
            free: Arc::new(Semaphore::new(MOST_CONNECTIONS as usize)),
            held: Mutex::new(None),
            carried: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Accepts until it is dropped.
    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, address)) => {
                    let Ok(permit) = self.free.clone().acquire_owned().await else { return };
                    tokio::spawn(self.clone().carry(client, address.ip(), permit));
                }
                // A client that has gone again, or too many open files: then others must end first.
                Err(error) => {
                    self.fail(&error);
                    tokio::time::sleep(TRY).await;
                }
            }
        }
    }

    /// Closes a listener, but carries those that wait to be accepted: closing resets them, and a busy machine has some.
    fn close(self: &Arc<Self>, listener: TcpListener) {
        // Not tokio's `accept`: it answers from what it was told last, and need not know of all that wait.
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return self.fail(&error),
        };
        while let Ok(permit) = self.free.clone().try_acquire_owned() {
            let accepted = match listener.accept() {
                Ok((client, address)) => non_blocking(client).map(|client| (client, address)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => Err(error),
            };
            match accepted {
                Ok((client, address)) => drop(tokio::spawn(self.clone().carry(client, address.ip(), permit))),
                Err(error) => return self.fail(&error),
            }
        }
    }

    /// Carries one connection to its end, which is when its permit is free again.
    async fn carry(self: Arc<Self>, mut client: TcpStream, address: IpAddr, _permit: OwnedSemaphorePermit) {
        let mut server = match self.connect(&client, address).await {
            Ok(server) => server,
            Err(error) => return self.fail(&error),
        };
        self.carried.fetch_add(1, Ordering::Relaxed);
        // One that breaks has broken for both sides, and they know better why than we do.
        let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
    }

    /// Connects to the stand-in from the address that stands for the client.
    async fn connect(&self, client: &TcpStream, address: IpAddr) -> io::Result<TcpStream> {
        let stand_in = self.table.lock().unwrap_or_else(PoisonError::into_inner).stand_in(address)?;
        client.set_nodelay(true)?;
        let socket = TcpSocket::new_v4()?;
        // Or a client's ports run out after 28 000 connections, each of which stays in TIME_WAIT for a minute.
        socket.set_reuseaddr(true)?;
        socket.bind((stand_in, 0).into())?;
        let server = socket.connect(self.to.into()).await?;
        server.set_nodelay(true)?;
        Ok(server)
    }

    /// Said aloud once: when the stand-in is away, every connection fails.
    fn fail(&self, error: &io::Error) {
        match self.failed.fetch_add(1, Ordering::Relaxed) {
            0 => {
                warn!(%error, "a connection could not be passed on to the stand-in; others are counted only")
            }
            _ => debug!(%error, "a connection could not be passed on to the stand-in"),
        }
    }
}

/// The table of addresses and its file, which is always ahead of it.
#[derive(Debug)]
struct Table {
    addresses: Addresses,
    file: File,
    /// Length of the file's whole lines.
    length: u64,
}

impl Table {
    fn open(route: &Route) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&route.table)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let length = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        // A half line was never used, and must not become the beginning of the next one.
        file.set_len(length)?;
        Ok(Self { addresses: Addresses::parse(&text), file, length })
    }

    /// The address that stands for a client. A new one is in the file when this returns.
    fn stand_in(&mut self, client: IpAddr) -> io::Result<Ipv4Addr> {
        if let Some(known) = self.addresses.stand_in(client) {
            return Ok(known);
        }
        let full =
            || io::Error::other("too many different clients: no loopback address is left for a new one");
        let entry = self.addresses.next(client).ok_or_else(full)?;
        let line = format!("{entry}\n");
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        self.addresses.insert(entry);
        Ok(entry.stand_in)
    }
}

#[cfg(test)]
mod tests;
