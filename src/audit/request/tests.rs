//! What the vectors do not cover: URLs that are none, and events.

use super::*;

fn event(verb: &str, request_uri: &str, username: &str) -> EventRequest {
    let user = EventUser { username: username.to_owned(), groups: Vec::new() };
    EventRequest { request_uri: request_uri.to_owned(), verb: verb.to_owned(), user }
}

#[track_caller]
fn check_error(url: &str, expected: &RequestError) {
    assert_eq!(Attributes::from_request(None, "GET", url).as_ref(), Err(expected));
    assert_eq!(Attributes::from_event(event("get", url, "")).as_ref(), Err(expected));
}

#[test]
fn what_the_http_server_refuses_is_no_request() {
    for url in ["", "api/v1/pods", "/a%zz", "/a%4", "/a\n", "/a\u{7f}", "?watch=1"] {
        check_error(url, &RequestError::InvalidUrl(url.to_owned()));
    }
}

#[test]
fn what_is_answered_before_auditing_is_no_request() {
    check_error("/api/v1/watch", &RequestError::Incomplete("/api/v1/watch".to_owned()));
    check_error("/apis/apps/v1/proxy/", &RequestError::Incomplete("/apis/apps/v1/proxy/".to_owned()));
}

#[test]
fn an_absolute_url_is_as_good_as_its_path() {
    let get = |url| Attributes::from_request(None, "GET", url);
    assert_eq!(get("https://10.0.0.1:6443/api/v1/pods?watch=1"), get("/api/v1/pods?watch=1"));
    assert_eq!(
        get("https://10.0.0.1:6443?x"),
        Ok(Attributes { user: None, verb: "get".to_owned(), target: Target::Url { path: String::new() } })
    );
}

#[test]
fn an_event_without_a_user_name_is_a_failed_log_in() {
    assert_eq!(Attributes::from_event(event("get", "/version", "")).unwrap().user, None);
    let user = Attributes::from_event(event("get", "/version", "alice")).unwrap().user;
    assert_eq!(user.map(|user| user.name), Some("alice".to_owned()));
}

#[test]
fn an_event_is_read_from_its_json_and_its_object_is_not_looked_at() {
    let line = r#"{"kind":"Event","level":"Metadata","requestURI":"/api/v1/namespaces/a/pods","verb":"create",
        "user":{"username":"alice","uid":"1","groups":["dev"]},"objectRef":{"resource":"pods","name":"from-body"}}"#;
    let attributes = Attributes::from_event(serde_json::from_str(line).unwrap()).unwrap();
    let target = ResourceTarget {
        resource: "pods".to_owned(),
        namespace: "a".to_owned(),
        ..ResourceTarget::default()
    };
    assert_eq!(
        attributes,
        Attributes {
            user: Some(User { name: "alice".to_owned(), groups: vec!["dev".to_owned()] }),
            verb: "create".to_owned(),
            target: Target::Resource(target),
        }
    );
    let failed = r#"{"requestURI":"/","verb":"get","user":{}}"#;
    assert_eq!(Attributes::from_event(serde_json::from_str(failed).unwrap()).unwrap().user, None);
}
