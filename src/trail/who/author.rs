//! Who is behind a user name: a person, or a program that acts for somebody else.
//!
//! A name alone is not believed: a client certificate may carry `system:serviceaccount:...` as its name, but only
//! the API server's own authenticator puts the groups of service accounts to it. And a user who was impersonated is
//! never a program that acts for others: behind it stands whoever impersonated it.

use crate::trail::event::{Event, ObjectMeta, OwnerReference, User};

/// What kind of author a request has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// A person, or a program with a user of its own: nobody else stands behind the request.
    Root,
    /// A controller of kube-controller-manager, by its service account; `None` is all of them under one user.
    Controller(Option<String>),
    /// A kubelet.
    Kubelet,
    /// Another service account: a program, perhaps one that acts for an owner.
    ServiceAccount,
}

impl Author {
    pub(super) fn of(event: &Event) -> Self {
        if event.impersonated_user.is_some() { Self::Root } else { Self::of_user(&event.user) }
    }

    fn of_user(user: &User) -> Self {
        let in_group = |group: &str| user.groups.iter().any(|other| other == group);
        let name = user.username.as_str();
        if name == "system:kube-controller-manager" {
            return Self::Controller(None);
        }
        if name.starts_with("system:node:") && in_group("system:nodes") {
            return Self::Kubelet;
        }
        let account =
            name.strip_prefix("system:serviceaccount:").filter(|_| in_group("system:serviceaccounts"));
        match account.map(|account| account.strip_prefix("kube-system:")) {
            None => Self::Root,
            // What kube-controller-manager calls its controllers under --use-service-account-credentials.
            Some(Some(name)) if name.ends_with("-controller") || name == "root-ca-cert-publisher" => {
                Self::Controller(Some(name.to_owned()))
            }
            Some(_) => Self::ServiceAccount,
        }
    }
}

/// What to add to an answer that names this event's user.
pub(super) fn note(event: &Event) -> Option<String> {
    let user = &event.user.username;
    match Author::of(event) {
        Author::Root if event.impersonated_user.is_none() && user.starts_with("system:serviceaccount:") => {
            Some(format!(
                "`{user}` is named like a service account but is not in the group `system:serviceaccounts`: it is \
                 something else, such as a client certificate of that name"
            ))
        }
        Author::ServiceAccount => Some(format!("`{user}` is a service account, so a program and not a person")),
        Author::Kubelet => owner(event).filter(|owner| owner.kind == "Node").map(|owner| {
            format!(
                "`{user}` is a kubelet, and this object only mirrors a static Pod: who made that wrote a manifest \
                 on the node `{}`, past the API",
                owner.name
            )
        }),
        Author::Root | Author::Controller(_) => None,
    }
}

/// The owner that manages the object, else any owner, as the bodies of its creation tell.
pub(super) fn owner(event: &Event) -> Option<OwnerReference> {
    event.response_meta().or_else(|| event.request_meta()).and_then(managing)
}

/// The owner in what the server has stored: its answer, or the body of an update it took.
pub(super) fn stored_owner(event: &Event) -> Option<OwnerReference> {
    let updated = || event.request_meta().filter(|_| event.verb == "update");
    event.response_meta().or_else(updated).and_then(managing)
}

fn managing(meta: ObjectMeta) -> Option<OwnerReference> {
    let mut owners = meta.owner_references;
    owners.sort_by_key(|owner| !owner.controller);
    owners.into_iter().next()
}
