//! Keeps the forwarder as it is wanted: started, stopped, and what it carries alive until the install ends.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tracing::{info, warn};

use crate::host::Host;
use crate::install::next::ReliefWanted;
use crate::install::{Order, Relief as Seen};

use super::relief::{Relief, State, Status};

/// How long connections may take to end by themselves.
const GRACE: Duration = Duration::from_secs(1);

/// Begins to forward connections.
pub trait Forward: fmt::Debug + Send + Sync {
    /// Begins to ask for the port, and returns at once. `release` says whether to give it back, or not to take it any more; it
    /// is asked all the time.
    ///
    /// # Errors
    /// There can be no forwarder. No port was touched.
    fn start(&self, route: Route, release: Box<dyn Fn() -> bool + Send>) -> io::Result<Box<dyn Forwarder>>;
}

/// A forwarder under way. Dropping it ends everything at once, the connections it carries too.
pub trait Forwarder: fmt::Debug + Send {
    /// What it does now.
    fn seen(&self) -> Seen;
    /// Gives the port back, lets the connections it carries go on for a moment, and ends them.
    fn finish(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// From where to where connections are passed on.
#[derive(Clone, Debug)]
pub struct Route {
    /// The addresses of the API port, all of them or none taken. `[::]` takes IPv4 too, as Go does for both wildcards, and is
    /// `0.0.0.0` on a machine without IPv6.
    pub listen: Vec<SocketAddr>,
    /// Where the stand-in listens, on loopback.
    pub to: SocketAddrV4,
    /// The file of the table of addresses. Of the same stand-in every relief must have the same one; it goes on from what is
    /// in it.
    pub table: PathBuf,
}

/// Forwards on this machine's ports.
#[derive(Clone, Copy, Debug)]
pub struct RealForward;

impl Forward for RealForward {
    fn start(&self, route: Route, release: Box<dyn Fn() -> bool + Send>) -> io::Result<Box<dyn Forwarder>> {
        Ok(Box::new(Relief::start(route, release)?))
    }
}

impl Forwarder for Relief {
    fn seen(&self) -> Seen {
        match self.status().state {
            State::Waiting { trouble: None } => Seen::Waiting,
            State::Waiting { trouble: Some(trouble) } => Seen::Failed(trouble),
            State::Holding { .. } => Seen::Holding,
            State::NeverHeld | State::Released { .. } => Seen::Released,
        }
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            let Status { held_after, carried, failed, open, .. } = Relief::finish(*self, GRACE).await;
            info!(?held_after, carried, failed, still_open = open, "the forwarder ended");
        }
        .boxed()
    }
}

/// The forwarder of one install.
pub(super) struct Service<'a> {
    host: &'a Host,
    order: &'a Order,
    forward: &'a dyn Forward,
    current: Option<Current>,
    /// Those that gave the port back still carry connections.
    retired: Vec<Box<dyn Forwarder>>,
}

struct Current {
    wanted: ReliefWanted,
    forwarder: Box<dyn Forwarder>,
    stop: Arc<AtomicBool>,
}

impl<'a> Service<'a> {
    pub(super) fn new(host: &'a Host, order: &'a Order, forward: &'a dyn Forward) -> Self {
        Self { host, order, forward, current: None, retired: Vec::new() }
    }

    /// Starts or stops the forwarder, so that it is as wanted.
    pub(super) fn follow(&mut self, wanted: Option<ReliefWanted>) {
        if self.current.as_ref().map(|c| &c.wanted) == wanted.as_ref() {
            return;
        }
        if let Some(current) = self.current.take() {
            current.stop.store(true, Ordering::Relaxed);
            self.retired.push(current.forwarder);
        }
        if let Some(wanted) = wanted {
            self.current = self.start(wanted);
        }
    }

    fn start(&self, wanted: ReliefWanted) -> Option<Current> {
        let (logs, listen) = self.host.server()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, ends) = (stop.clone(), wanted.clone());
        let release = move || asked.load(Ordering::Relaxed) || ends.ends_with(&logs.starts());
        let route = Route {
            listen: vec![listen],
            to: SocketAddrV4::new(Ipv4Addr::LOCALHOST, wanted.port),
            table: self.host.addresses_path(self.order),
        };
        info!(%listen, port = wanted.port, "waiting for the API server's port");
        match self.forward.start(route, Box::new(release)) {
            Ok(forwarder) => Some(Current { wanted, forwarder, stop }),
            Err(error) => {
                warn!(%error, "the stand-in cannot answer in the API server's place");
                None
            }
        }
    }

    /// Ends what is still carried; the stand-in has ended by now, and with it most connections.
    pub(super) async fn finish(self) {
        for forwarder in self.retired.into_iter().chain(self.current.map(|c| c.forwarder)) {
            forwarder.finish().await;
        }
    }

    /// What the forwarder does now.
    pub(super) fn seen(&self) -> Seen {
        self.current.as_ref().map_or(Seen::Off, |current| current.forwarder.seen())
    }
}
