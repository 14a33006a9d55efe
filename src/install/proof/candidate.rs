//! The requests that may be sent to a live API server to see what it logs.
//!
//! Each stays harmless when its sender may do everything, because two things protect from it at once: what could change
//! something has `dryRun=All`, and either a body that no handler accepts or the name of an object that does not exist.
//! Nothing is read but one object at most. Requests that open connections or run long are not among them.

use std::fmt;

use crate::audit::{GroupResources, Level, Policy, Rule};

/// The name that no object has.
const NAME: &str = "audit-operator-proof";
/// How many requests are made up for one rule at most: a rule can have thousands of combinations, all much alike.
const PER_RULE: usize = 64;
/// Subresources that open connections or run long (`pkg/controlplane/apiserver/config.go`, long-running requests).
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// A request to send; its text is method and URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// HTTP method.
    pub method: &'static str,
    /// Path and query.
    pub url: String,
    /// `Content-Type`, where the method has a body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: &'static str,
}

impl ProbeRequest {
    fn new(verb: &str, collection: &str, name: &str) -> Option<Self> {
        let (method, path, query, content_type, body) = match verb {
            "get" => ("GET", format!("{collection}/{name}"), "", None, ""),
            "list" => ("GET", collection.to_owned(), "?limit=1", None, ""),
            "create" => ("POST", collection.to_owned(), "?dryRun=All", Some("application/json"), ""),
            "update" => ("PUT", format!("{collection}/{name}"), "?dryRun=All", Some("application/json"), ""),
            // Valid JSON, because before 1.37 the event of a patch that is not is lost; it changes nothing.
            "patch" => (
                "PATCH",
                format!("{collection}/{name}"),
                "?dryRun=All",
                Some("application/merge-patch+json"),
                "{}",
            ),
            "delete" => ("DELETE", format!("{collection}/{name}"), "?dryRun=All", None, ""),
            _ => return None,
        };
        Some(Self { method, url: format!("{path}{query}"), content_type, body })
    }

    fn url(method: &'static str, url: String) -> Self {
        Self { method, url, content_type: None, body: "" }
    }

    /// Whether it reaches the server as it is written here.
    fn is_plain(&self) -> bool {
        self.url.starts_with('/')
            && self.url.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/?=&".contains(&b))
    }
}

impl fmt::Display for ProbeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// The requests to try, the least noisy first: three ordinary ones, and then some made for each rule that logs.
pub(super) fn candidates(policy: &Policy) -> impl Iterator<Item = ProbeRequest> {
    let configmaps = "/api/v1/namespaces/default/configmaps";
    let ordinary = [
        Some(ProbeRequest::url("GET", "/version".to_owned())),
        ProbeRequest::new("get", configmaps, NAME),
        ProbeRequest::new("create", configmaps, NAME),
    ];
    let logging = policy.rules.iter().filter(|rule| rule.level != Level::None);
    ordinary.into_iter().flatten().chain(logging.flat_map(|rule| fitting(rule).take(PER_RULE)))
}

/// Requests that the rule matches, if it does not ask for other users.
fn fitting(rule: &Rule) -> impl Iterator<Item = ProbeRequest> {
    let urls = rule.non_resource_urls.iter().flat_map(|pattern| {
        let path = match pattern.strip_suffix('*') {
            Some(prefix) => format!("{}{NAME}", prefix.trim_end_matches('*')),
            None => pattern.clone(),
        };
        let methods = [("get", "GET"), ("head", "HEAD")];
        methods
            .into_iter()
            .filter(|(verb, _)| rule.verbs.is_empty() || rule.verbs.iter().any(|wanted| wanted == verb))
            .map(move |(_, method)| ProbeRequest::url(method, with_root(&path)))
    });
    // A profile of the server is long-running and costs it something.
    let urls = urls.filter(|request| !request.url.starts_with("/debug/"));
    let for_objects = rule.non_resource_urls.is_empty();
    let objects = for_objects.then(|| objects(rule)).into_iter().flatten();
    urls.chain(objects).filter(ProbeRequest::is_plain)
}

/// The path that the pattern `*` makes.
fn with_root(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn objects(rule: &Rule) -> impl Iterator<Item = ProbeRequest> {
    let some = |texts: &[String], default: &[&str]| -> Vec<String> {
        if texts.is_empty() { default.iter().map(|&text| text.to_owned()).collect() } else { texts.to_vec() }
    };
    let verbs = some(&rule.verbs, &["get", "create"]);
    let namespaces = some(&rule.namespaces, &["default"]);
    let any = [GroupResources::default()];
    let entries = if rule.resources.is_empty() { any.to_vec() } else { rule.resources.clone() };
    entries.into_iter().flat_map(move |entry| {
        let (verbs, namespaces) = (verbs.clone(), namespaces.clone());
        let names = some(&entry.resource_names, &[NAME]);
        let named = !entry.resource_names.is_empty();
        some(&entry.resources, &["*"]).into_iter().flat_map(move |pattern| {
            let (resource, subresource) = split(&pattern);
            let group = if entry.group == "*" { String::new() } else { entry.group.clone() };
            let mut requests = Vec::new();
            let streams = STREAMS.contains(&subresource.as_str());
            // A real object is read at most.
            let verbs = verbs.iter().filter(|verb| !streams && (!named || *verb == "get"));
            for verb in verbs {
                for namespace in &namespaces {
                    for name in &names {
                        requests.extend(object(verb, &group, namespace, (&resource, &subresource), name));
                    }
                }
            }
            requests
        })
    })
}

/// One request about objects. The API version is of no account to a policy; where there is no such version or resource,
/// and the sender may do everything, the answer is 404.
fn object(
    verb: &str,
    group: &str,
    namespace: &str,
    (resource, sub): (&str, &str),
    name: &str,
) -> Option<ProbeRequest> {
    let mut path = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
    if !namespace.is_empty() {
        path = format!("{path}/namespaces/{namespace}");
    }
    path = format!("{path}/{resource}");
    if sub.is_empty() {
        return ProbeRequest::new(verb, &path, name);
    }
    match verb {
        "list" => None,
        // Is posted to the object's own path.
        "create" => ProbeRequest::new(verb, &format!("{path}/{name}/{sub}"), name),
        _ => ProbeRequest::new(verb, &format!("{path}/{name}"), sub),
    }
}

/// A resource and a subresource that the pattern of a rule matches.
fn split(pattern: &str) -> (String, String) {
    let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
    let resource = if resource == "*" { "configmaps" } else { resource };
    let subresource = if subresource == "*" { "" } else { subresource };
    (resource.to_owned(), subresource.to_owned())
}
