//! Keeps the forwarder as it is wanted: started, stopped, and what it carries alive until the install ends.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use crate::host::Host;
use crate::install::next::ReliefWanted;
use crate::install::{Order, Relief as Seen};

use super::relief::{Options, Relief, State, Status};

/// How long connections may take to end by themselves.
const GRACE: Duration = Duration::from_secs(1);

/// The forwarder of one install.
pub(super) struct Service<'a> {
    host: &'a Host,
    order: &'a Order,
    current: Option<Current>,
    /// Those that gave the port back still carry connections.
    retired: Vec<Relief>,
}

struct Current {
    wanted: ReliefWanted,
    relief: Relief,
    stop: Arc<AtomicBool>,
}

impl<'a> Service<'a> {
    pub(super) fn new(host: &'a Host, order: &'a Order) -> Self {
        Self { host, order, current: None, retired: Vec::new() }
    }

    /// Starts or stops the forwarder, so that it is as wanted.
    pub(super) fn follow(&mut self, wanted: Option<ReliefWanted>) {
        if self.current.as_ref().map(|c| &c.wanted) == wanted.as_ref() {
            return;
        }
        if let Some(current) = self.current.take() {
            current.stop.store(true, Ordering::Relaxed);
            self.retired.push(current.relief);
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
        let options = Options {
            listen: vec![listen],
            to: SocketAddrV4::new(Ipv4Addr::LOCALHOST, wanted.port),
            table: self.host.addresses_path(self.order),
        };
        info!(%listen, port = wanted.port, "waiting for the API server's port");
        match Relief::start(options, release) {
            Ok(relief) => Some(Current { wanted, relief, stop }),
            Err(error) => {
                warn!(%error, "the stand-in cannot answer in the API server's place");
                None
            }
        }
    }

    /// Ends what is still carried; the stand-in has ended by now, and with it most connections.
    pub(super) async fn finish(self) {
        for relief in self.retired.into_iter().chain(self.current.map(|c| c.relief)) {
            let Status { held_after, carried, failed, open, .. } = relief.finish(GRACE).await;
            info!(?held_after, carried, failed, still_open = open, "the forwarder ended");
        }
    }

    /// What the forwarder does now.
    pub(super) fn seen(&self) -> Seen {
        let Some(current) = &self.current else { return Seen::Off };
        match current.relief.status().state {
            State::Waiting { trouble: None } => Seen::Waiting,
            State::Waiting { trouble: Some(trouble) } => Seen::Failed(trouble),
            State::Holding { .. } => Seen::Holding,
            State::NeverHeld | State::Released { .. } => Seen::Released,
        }
    }
}
