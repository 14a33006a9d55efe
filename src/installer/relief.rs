//! stub
use std::net::SocketAddr;
use std::path::PathBuf;
pub(super) struct Relief;
impl Relief {
    pub(super) fn start(
        _: Vec<SocketAddr>,
        _: SocketAddr,
        _: PathBuf,
        _: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        Self
    }
    pub(super) fn seen(&self) -> crate::install::Relief {
        crate::install::Relief::Waiting
    }
}
