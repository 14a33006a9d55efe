//! Keeps the forwarder as it is wanted: started, stopped, and what it carries alive until the install ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::info;

use crate::host::Host;
use crate::install::next::ReliefWanted;
use crate::install::{Order, Relief as Seen};

use super::relief::Relief;

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
        let to = (std::net::Ipv4Addr::LOCALHOST, wanted.port).into();
        info!(?listen, port = wanted.port, "waiting for the API server's port");
        let relief = Relief::start(listen, to, self.host.addresses_path(self.order), release);
        Some(Current { wanted, relief, stop })
    }

    /// What the forwarder does now.
    pub(super) fn seen(&self) -> Seen {
        self.current.as_ref().map_or(Seen::Off, |current| current.relief.seen())
    }
}
