//! The object somebody asks about, and which events speak of it.
//!
//! The name alone proves nothing: bodies, paths and annotations of other objects contain it. Resource, group,
//! namespace and name of the event's own `objectRef` decide; the search for the name's bytes only spares reading
//! records that cannot matter.

use super::event::{Event, ObjectRef};
use super::query::{Filter, Query, StageName};
use super::resource::{NotAResource, Resource, Scope};

/// One object: whom to ask about.
#[derive(Clone, Debug)]
pub struct Question {
    resource: Resource,
    namespace: String,
    name: String,
}

/// Words that are no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAQuestion {
    /// Neither `KIND/NAME` nor `KIND NAME`.
    #[error("`{0}` names no object; say which, such as `pod/my-pod` or `pod my-pod`")]
    Shape(String),
    /// The kind cannot be one.
    #[error(transparent)]
    Resource(#[from] NotAResource),
}

impl Question {
    /// Reads `KIND/NAME` or `KIND NAME`. `namespace` counts only where the object can be in one; the default
    /// there is `default`, as kubectl's is.
    ///
    /// # Errors
    /// The words name no object.
    pub fn parse(words: &[String], namespace: Option<&str>) -> Result<Self, NotAQuestion> {
        let (kind, name) = match words {
            [word] => word.split_once('/'),
            [kind, name] => Some((kind.as_str(), name.as_str())),
            _ => None,
        }
        .filter(|(_, name)| !name.is_empty() && !name.contains('/'))
        .ok_or_else(|| NotAQuestion::Shape(words.join(" ")))?;
        let resource = Resource::parse(kind)?;
        let namespace = match resource.scope {
            Scope::Cluster => "",
            Scope::Namespaced | Scope::Unknown => namespace.unwrap_or("default"),
        };
        Ok(Self { resource, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// About an object whose resource is known.
    pub fn about(resource: Resource, namespace: &str, name: &str) -> Self {
        let namespace = if resource.scope == Scope::Cluster { "" } else { namespace };
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The resource asked about.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The namespace asked about; empty for what cannot be in one.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every event that may name the object, also in a body.
    pub fn named(&self) -> Query {
        let filter = Filter {
            mentions: vec![self.name.clone()],
            resources: vec![self.resource.clone()],
            namespaces: self.namespaces(),
            ..Filter::default()
        };
        Query { any: vec![filter], ..Query::default() }
    }

    /// Every finished create of the resource in the object's place: what is left to look at where no event names it.
    pub fn creates(&self) -> Query {
        let filter = Filter {
            verbs: vec!["create".into()],
            subresources: vec!["".into()],
            stages: vec![StageName::ResponseComplete],
            resources: vec![self.resource.clone()],
            namespaces: self.namespaces(),
            in_earnest: true,
            ..Filter::default()
        };
        Query { any: vec![filter], ..Query::default() }
    }

    /// What these filters take, done to this object by its name; or, without the name, to all of its kind where it
    /// is, from within its namespace or from outside of all.
    pub fn did(&self, filters: Vec<Filter>, by_name: bool) -> Query {
        let mut namespaces = self.namespaces();
        if !by_name && !namespaces.is_empty() {
            namespaces.push("".into());
        }
        let names = vec![if by_name { self.name.as_str().into() } else { "".into() }];
        let resources = vec![self.resource.clone()];
        let narrow = |filter| Filter {
            names: names.clone(),
            resources: resources.clone(),
            namespaces: namespaces.clone(),
            ..filter
        };
        Query { any: filters.into_iter().map(narrow).collect(), ..Query::default() }
    }

    /// Only where the event's own word is to be believed, see [`Self::is_place_of`].
    fn namespaces(&self) -> Vec<super::query::Pattern> {
        match self.resource.scope {
            Scope::Namespaced => vec![self.namespace.as_str().into()],
            Scope::Cluster | Scope::Unknown => Vec::new(),
        }
    }

    /// Whether the event is about the resource asked about, in the namespace asked about, whatever its name.
    pub fn is_place_of(&self, event: &Event, object: &ObjectRef) -> bool {
        self.resource.includes(&object.resource, &object.api_group)
            && match self.resource.scope {
                // The namespace of a cluster-scoped object's event is its sender's fancy.
                Scope::Cluster => true,
                Scope::Namespaced => object.namespace == self.namespace,
                Scope::Unknown => {
                    event.path_is_namespaced() == Some(false)
                        || object.namespace.is_empty()
                        || object.namespace == self.namespace
                }
            }
    }

    /// Whether the server can have made the name out of this `generateName`: at most 58 bytes of it and five
    /// random characters (apiserver `pkg/storage/names/generate.go`).
    pub fn can_come_from(&self, generate_name: &str) -> bool {
        let base = generate_name.as_bytes();
        let base = &base[..base.len().min(58)];
        self.name.as_bytes().strip_prefix(base).is_some_and(is_suffix)
    }

    /// Whether the name can be one the server made up at all.
    pub fn looks_generated(&self) -> bool {
        self.name.as_bytes().last_chunk::<5>().is_some_and(|tail| is_suffix(tail))
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} `{}`", self.resource, self.name),
            namespace => write!(f, "{} `{}` in `{namespace}`", self.resource, self.name),
        }
    }
}

/// The alphabet of `utilrand.String` (apimachinery `pkg/util/rand`): no vowels, no 0, 1 and 3.
pub(super) fn is_suffix(tail: &[u8]) -> bool {
    tail.len() == 5 && tail.iter().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(word: &str, namespace: Option<&str>) -> Question {
        Question::parse(&[word.to_owned()], namespace).unwrap()
    }

    #[test]
    fn a_namespace_counts_only_where_there_can_be_one() {
        assert_eq!(question("pod/a", None).namespace(), "default");
        assert_eq!(question("pod/a", Some("prod")).namespace(), "prod");
        assert_eq!(question("node/a", Some("prod")).namespace(), "");
        assert_eq!(question("widget/a", None).namespace(), "default");
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for words in [&["pod"][..], &["pod/"], &["pod/a/b"], &["pod", "a", "b"], &["pod", "a/b"], &[]] {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            assert!(matches!(Question::parse(&words, None), Err(NotAQuestion::Shape(_))), "{words:?}");
        }
    }

    #[test]
    fn what_may_name_the_object_is_read_and_nothing_else() {
        let sieve = question("pod/web-x7k2p", None).named().sieve();
        assert!(
            sieve.passes(br#"{"objectRef":{"resource":"pods","namespace":"default","name":"web-x7k2p"}}"#)
        );
        assert!(!sieve.passes(br#"{"objectRef":{"resource":"pods","namespace":"default","name":"other"}}"#));
        let sieve = question("pod/web-x7k2p", None).creates().sieve();
        assert!(sieve.passes(
            br#"{"stage":"ResponseComplete","verb": "create","objectRef":{"resource":"pods","namespace":"default"}}"#
        ));
        assert!(!sieve.passes(br#"{"stage":"ResponseComplete","verb":"create","resource":"leases"}"#));
    }

    #[test]
    fn a_name_that_json_escapes_is_looked_for_by_a_part_of_it() {
        let passes = |word: &str, record: &[u8]| question(word, None).named().sieve().passes(record);
        assert!(passes("clusterrole/a&bc", br#"{"resource":"clusterroles","name":"a\u0026bc"}"#));
        assert!(passes("clusterrole/a\u{e9}", br#"{"resource":"clusterroles","name":"a\u00e9"}"#));
    }

    #[test]
    fn generated_names_are_recognised_exactly() {
        let asked = question("pod/web-5d4f-x7k2p", None);
        assert!(asked.can_come_from("web-5d4f-"));
        assert!(!asked.can_come_from("web-"), "the suffix has five characters");
        assert!(!asked.can_come_from("db-"));
        assert!(asked.looks_generated());
        assert!(!question("pod/my-suspicious-pod", None).looks_generated());
        let long = "a".repeat(70);
        assert!(question(&format!("pod/{}bcdfg", &long[..58]), None).can_come_from(&long));
    }

    #[test]
    fn a_cluster_scoped_object_is_found_whatever_namespace_its_body_had() {
        let event = Event::from_json(
            br#"{"auditID":"a","stage":"ResponseComplete","verb":"create","requestURI":"/apis/g/v1/widgets",
                 "objectRef":{"resource":"widgets","namespace":"odd","name":"a","apiGroup":"g"}}"#,
        )
        .unwrap();
        let object = event.object_ref.as_ref().unwrap();
        assert!(question("widget/a", None).is_place_of(&event, object));
        assert!(question("widget.g/a", Some("b")).is_place_of(&event, object));
        assert!(!question("pod/a", None).is_place_of(&event, object));
    }
}
