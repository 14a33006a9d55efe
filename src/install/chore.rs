//! What the agent does about the installer of the order on the disk. Pure; [`crate::host::Host::do_chore`] does it.

use std::time::Duration;

use super::journal::{Journal, Refuser, State};

/// How long the kubelet may take to start the installer. It starts an added static Pod at once; a node under load may need
/// a while.
const INSTALLER_STARTS: Duration = Duration::from_secs(90);

/// How long the installer may take to take its own manifest away after the end.
const INSTALLER_LEAVES: Duration = Duration::from_secs(30);

/// What is to be done about the installer's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Add it: there is an order to carry out and nobody who does.
    AddInstaller,
    /// Take it away, and the order back: the kubelet does not start it.
    Withdraw,
    /// Take it away: the order is carried out, and it did not leave by itself.
    RemoveInstaller,
}

/// What is to be done about the installer of an order with this journal; `unchanged` is how long the order, the journal's state
/// and whether the installer's manifest is there have been as they are.
pub fn chore(journal: Option<&Journal>, installer: bool, unchanged: Duration) -> Option<Chore> {
    let finished = journal.is_some_and(|j| j.state.is_final());
    match (finished, installer) {
        (false, false) => Some(Chore::AddInstaller),
        (false, true) if journal.is_none() && unchanged >= INSTALLER_STARTS => Some(Chore::Withdraw),
        (true, true) if unchanged >= INSTALLER_LEAVES => Some(Chore::RemoveInstaller),
        _ => None,
    }
}

/// The outcome of an order whose installer, of this image, did not start.
pub fn withdrawn(image: &str) -> State {
    State::Refused {
        by: Refuser::Agent,
        reason: format!(
            "the kubelet did not start the installer's static Pod within {} s; is the image `{image}` on this node, \
             and may the node use it without imagePullSecrets? `kubectl describe pod -n kube-system -l app.kubernetes.io/component=installer` tells more",
            INSTALLER_STARTS.as_secs()
        ),
    }
}
