//! Keeps the forwarder as it is wanted: started, stopped, and its carried connections alive until the install ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::host::Host;
use crate::install::Relief as Seen;
use crate::install::next::ReliefWanted;

use super::relief::Relief;

/// The forwarder of one install.
pub(super) struct Service {
    host: Host,
    current: Option<(ReliefWanted, Relief, Arc<AtomicBool>)>,
    /// Those that gave the port back still carry connections.
    retired: Vec<Relief>,
}
