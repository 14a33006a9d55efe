//! What a rule sees of a request: user, verb, and either an object or a URL path.
//!
//! kube-apiserver derives it from method and URL alone (`k8s.io/apiserver` `pkg/endpoints/request/requestinfo.go`);
//! the body plays no part, so a create has no name. From an audit event it is derived in the same way, and not from
//! its `objectRef`: that is completed from the body after the policy was evaluated.

use serde::Deserialize;

mod query;

/// A request as a rule sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Who was authenticated (not who was impersonated); `None` when authentication failed.
    pub user: Option<User>,
    /// Verb: get, list, watch, create, update, patch, delete, deletecollection for objects (or proxy, or empty for
    /// other methods), the lower-case HTTP method for other URLs.
    pub verb: String,
    /// What it is about.
    pub target: Target,
}

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name, as `system:serviceaccount:kube-system:default`.
    pub name: String,
    /// Groups, as `system:authenticated`.
    pub groups: Vec<String>,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Objects of the API.
    Resource(ResourceTarget),
    /// Anything else, discovery and health included.
    Url {
        /// The path without the query, percent-decoded.
        path: String,
    },
}

/// The objects that a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceTarget {
    /// API group without version; empty for the core group.
    pub group: String,
    /// Plural name, as `pods`.
    pub resource: String,
    /// As `log`; empty for the object itself.
    pub subresource: String,
    /// Empty for cluster-scoped objects and for lists across namespaces. A Namespace is in itself.
    pub namespace: String,
    /// Empty where the URL has none: lists, creates, deletes of collections.
    pub name: String,
}

/// The request never gets as far as the audit policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The HTTP server refuses the URL.
    #[error("`{0}` is not the URL of a request: write it as /api/v1/pods?watch=true")]
    InvalidUrl(String),
    /// The API server refuses the path before auditing.
    #[error("`{0}` is answered before auditing: nothing follows `watch` or `proxy`")]
    Incomplete(String),
}

/// The fields of an audit event that its evaluation depends on.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRequest {
    /// `requestURI` of the event.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// `verb` of the event.
    pub verb: String,
    /// `user` of the event.
    #[serde(default)]
    pub user: EventUser,
}

/// The authenticated user of an audit event; empty when authentication failed.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EventUser {
    /// Name.
    #[serde(default)]
    pub username: String,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

impl Attributes {
    /// From what the client sent: HTTP method, and the URL as in the request line (an absolute one will do too).
    ///
    /// # Errors
    ///
    /// When kube-apiserver answers such a request without consulting the audit policy.
    pub fn from_request(user: Option<User>, method: &str, url: &str) -> Result<Self, RequestError> {
        let (path, query) = split_url(url)?;
        let Some(parts) = Parts::of(&path)? else {
            return Ok(Self { user, verb: method.to_lowercase(), target: Target::Url { path } });
        };
        let verb = match (parts.verb, method) {
            (Some(verb), _) => verb,
            (None, "POST") => "create",
            (None, "GET" | "HEAD") if !parts.target.name.is_empty() => "get",
            (None, "GET" | "HEAD") if query::asks_to_watch(query) => "watch",
            (None, "GET" | "HEAD") => "list",
            (None, "PUT") => "update",
            (None, "PATCH") => "patch",
            (None, "DELETE") if parts.target.name.is_empty() => "deletecollection",
            (None, "DELETE") => "delete",
            (None, _) => "",
        };
        Ok(parts.attributes(user, verb.to_owned(), query))
    }

    /// From the event that kube-apiserver wrote about the request; its own evaluation saw the same.
    ///
    /// # Errors
    ///
    /// When the `requestURI` cannot come from a request that was audited.
    pub fn from_event(event: EventRequest) -> Result<Self, RequestError> {
        let EventUser { username, groups } = event.user;
        let user = (!username.is_empty()).then_some(User { name: username, groups });
        let (path, query) = split_url(&event.request_uri)?;
        Ok(match Parts::of(&path)? {
            Some(parts) => parts.attributes(user, event.verb, query),
            None => Self { user, verb: event.verb, target: Target::Url { path } },
        })
    }
}

/// What the path of a resource request says.
struct Parts<'p> {
    /// From the deprecated forms `/api/v1/watch/…` and `/api/v1/proxy/…`.
    verb: Option<&'p str>,
    target: ResourceTarget,
}

impl<'p> Parts<'p> {
    /// `None` for a path that is not about objects. `/api/V/…` and `/apis/G/V/…` are.
    fn of(path: &'p str) -> Result<Option<Self>, RequestError> {
        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = trimmed.split('/').collect();
        let (group, parts) = match parts.as_slice() {
            ["api", _version, rest @ ..] if !rest.is_empty() => ("", rest),
            ["apis", group, _version, rest @ ..] if !rest.is_empty() => (*group, rest),
            _ => return Ok(None),
        };
        let (verb, parts) = match parts {
            ["watch" | "proxy"] => return Err(RequestError::Incomplete(path.to_owned())),
            [verb @ ("watch" | "proxy"), rest @ ..] => (Some(*verb), rest),
            _ => (None, parts),
        };
        let (namespace, parts) = match parts {
            // A Namespace itself, or a subresource of it.
            ["namespaces", namespace] | ["namespaces", namespace, "status" | "finalize", ..] => {
                (*namespace, parts)
            }
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            _ => ("", parts),
        };
        let part = |index: usize| parts.get(index).copied().unwrap_or_default().to_owned();
        // Whatever comes after the subresource is not looked at.
        let subresource = if verb == Some("proxy") { String::new() } else { part(2) };
        let namespace = namespace.to_owned();
        let target = ResourceTarget {
            group: group.to_owned(),
            resource: part(0),
            subresource,
            namespace,
            name: part(1),
        };
        Ok(Some(Self { verb, target }))
    }

    /// A list or watch of one name, by field selector, counts as about that name.
    fn attributes(self, user: Option<User>, verb: String, query: &str) -> Attributes {
        let mut target = self.target;
        if target.name.is_empty() && self.verb.is_none() && matches!(verb.as_str(), "list" | "watch") {
            target.name = query::selected_name(query).unwrap_or_default();
        }
        Attributes { user, verb, target: Target::Resource(target) }
    }
}

/// Path, percent-decoded, and raw query of a URL (Go's `url.ParseRequestURI`).
fn split_url(url: &str) -> Result<(String, &str), RequestError> {
    let error = || RequestError::InvalidUrl(url.to_owned());
    let path_and_query = if url.starts_with('/') {
        url
    } else {
        let (_, authority) = url.split_once("://").ok_or_else(error)?;
        authority.find(['/', '?']).map_or("", |start| &authority[start..])
    };
    if url.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(error());
    }
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    Ok((query::percent_decode(path).ok_or_else(error)?, query))
}

#[cfg(test)]
mod tests;
