//! Who is behind a user name: a person, or a program that acts for somebody else.
//!
//! The answer to "who made it" stays true either way; these notes keep a reader from stopping at a controller.
//! A name alone is not believed: a client certificate may carry `system:serviceaccount:...` as its name, but only
//! the API server's own authenticator puts the groups of service accounts to it.

use super::Object;
use crate::trail::event::{Event, OwnerReference, User};
use crate::trail::resource::{Resource, Scope};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Controller,
    Kubelet,
    ServiceAccount,
}

/// What to add to an answer that names this event's user.
pub(super) fn note(event: &Event, object: &Object) -> Option<String> {
    // Then the user is only the messenger, and the answer names whom it acted as.
    if event.impersonated_user.is_some() {
        return None;
    }
    let user = &event.user.username;
    let Some(program) = program(&event.user) else {
        return user.starts_with("system:serviceaccount:").then(|| {
            format!(
                "`{user}` is named like a service account but is not in the group `system:serviceaccounts`: it is \
                 something else, such as a client certificate of that name"
            )
        });
    };
    let what = match program {
        Program::Controller => "a controller",
        Program::Kubelet => "a kubelet",
        Program::ServiceAccount => "a service account, so a program and not a person",
    };
    Some(match owner(event) {
        Some(owner) if program == Program::Kubelet && owner.kind == "Node" => format!(
            "`{user}` is {what}, and this object only mirrors a static Pod: who made that wrote a manifest on the \
             node `{}`, past the API",
            owner.name
        ),
        Some(OwnerReference { kind, name, .. }) => {
            let resource = kind.to_ascii_lowercase();
            let in_cluster =
                Resource::parse(&resource).is_ok_and(|resource| resource.scope == Scope::Cluster);
            let namespace = match object.namespace.as_str() {
                namespace if in_cluster || namespace.is_empty() => String::new(),
                namespace => format!(" -n {namespace}"),
            };
            format!(
                "`{user}` is {what}; the object belongs to {kind} `{name}`, and owners are not followed yet: ask \
                 for `{resource}/{name}{namespace}`"
            )
        }
        None if program == Program::ServiceAccount => format!("`{user}` is {what}"),
        None => format!(
            "`{user}` is {what}, which makes objects on behalf of others; the owner behind it is not followed yet"
        ),
    })
}

fn program(user: &User) -> Option<Program> {
    let in_group = |group: &str| user.groups.iter().any(|other| other == group);
    let name = user.username.as_str();
    if name == "system:kube-controller-manager" {
        return Some(Program::Controller);
    }
    if name.starts_with("system:node:") && in_group("system:nodes") {
        return Some(Program::Kubelet);
    }
    let account =
        name.strip_prefix("system:serviceaccount:").filter(|_| in_group("system:serviceaccounts"))?;
    // What kube-controller-manager calls its controllers under --use-service-account-credentials.
    let controller = account.starts_with("kube-system:") && account.ends_with("-controller");
    Some(if controller { Program::Controller } else { Program::ServiceAccount })
}

/// The owner that manages the object, else any owner, as the bodies tell.
fn owner(event: &Event) -> Option<OwnerReference> {
    let mut owners = event.response_meta().or_else(|| event.request_meta())?.owner_references;
    owners.sort_by_key(|owner| !owner.controller);
    owners.into_iter().next()
}
