//! An identity with which a node's own API server may be asked: the service account of the Pod that asks.
//!
//! The rule: its token goes to no address whose certificate the cluster's own authority has not signed for that
//! address. So it is asked over a connection that is verified before anything is sent, and without it where that fails.

use crate::install::proof::Sender;

/// A service account, and what its requests need.
#[derive(Clone, Debug)]
pub struct Identity {
    sender: Sender,
    /// The cluster's authority and where the token is; of no address yet.
    config: kube::Config,
}

impl Identity {
    /// The service account that the Pod of this process runs as, by its namespace and name.
    ///
    /// # Errors
    /// This is no Pod with a service account, in words.
    pub fn of_this_pod(namespace: &str, service_account: &str) -> Result<Self, String> {
        let config = kube::Config::incluster_env().map_err(|error| error.to_string())?;
        Ok(Self { sender: Sender::service_account(namespace, service_account), config })
    }

    /// Another one than a Pod's: the authority's certificates and a file with the token.
    #[cfg(test)]
    pub(super) fn of(sender: Sender, authority: Vec<Vec<u8>>, token: &std::path::Path) -> Self {
        let mut config = kube::Config::new(http::Uri::from_static("https://192.0.2.1"));
        config.root_cert = Some(authority);
        config.auth_info.token_file = Some(token.to_string_lossy().into_owned());
        Self { sender, config }
    }

    /// Whom a server takes it for.
    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    /// What a client of the server at `url` is made of. The token is read anew each time: a Pod's is replaced within an hour.
    pub(super) fn config(&self, url: &str) -> Result<kube::Config, String> {
        let mut config = self.config.clone();
        config.cluster_url = url.parse().map_err(|error| format!("`{url}`: {error}"))?;
        Ok(config)
    }
}
