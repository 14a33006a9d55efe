//! The object a question is about: by kind and name in a namespace, in whatever namespace it is, or by its UID.
//!
//! Where the words leave something open, the logs are asked first. What they cannot settle is said, with what to type.

use std::collections::BTreeSet;

use anyhow::bail;

use super::Streams;
use super::logs::Logs;
use crate::trail::event::{Event, Outcome};
use crate::trail::query::{Filter, Query};
use crate::trail::question::Question;
use crate::trail::read::Entry;
use crate::trail::resource::Resource;

/// Which object.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The object: KIND/NAME or KIND NAME. KIND is what kubectl takes, such as `pod`, `deploy` or
    /// `certificates.cert-manager.io`. It may be gone.
    #[arg(required_unless_present = "uid", num_args = 1..=2, value_name = "OBJECT")]
    pub object: Vec<String>,
    /// The object's namespace, where it has one [default: the kubeconfig's, else default].
    #[arg(short, long, visible_alias = "ns")]
    pub namespace: Option<String>,
    /// In whatever namespace it is.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The object's UID, instead of its kind and name.
    #[arg(long, conflicts_with_all = ["object", "namespace", "all_namespaces"])]
    pub uid: Option<String>,
}

impl Args {
    /// What is asked about, as far as the words alone tell.
    ///
    /// # Errors
    /// They name no object.
    pub(super) fn parse(&self, default_namespace: Option<&str>) -> anyhow::Result<Option<Question>> {
        if self.object.is_empty() {
            return Ok(None);
        }
        Ok(Some(Question::parse(&self.object, self.namespace.as_deref().or(default_namespace))?))
    }

    /// What is asked about; the logs say where it is, if the words do not.
    ///
    /// # Errors
    /// The words name no object, or several.
    pub(super) fn question(&self, logs: &mut Logs, streams: &mut Streams<'_>) -> anyhow::Result<Question> {
        let default = logs.default_namespace().map(str::to_owned);
        let question = self.parse(default.as_deref())?;
        let (filter, what) = match (&question, &self.uid) {
            (Some(question), _) if !self.all_namespaces => return Ok(question.clone()),
            (Some(question), _) => {
                let filter = Filter {
                    names: vec![question.name().into()],
                    resources: vec![question.resource().clone()],
                    in_earnest: true,
                    ..Filter::default()
                };
                (filter, format!("{} `{}`", question.resource(), question.name()))
            }
            (None, Some(uid)) => {
                (Filter { mentions: vec![uid.clone()], ..Filter::default() }, format!("the UID `{uid}`"))
            }
            (None, None) => bail!("say which object, such as `pod/my-pod`, or give --uid"),
        };
        let query = Query { any: vec![filter], ..Query::default() };
        let mut found = BTreeSet::new();
        let uid = self.uid.as_deref().filter(|_| question.is_none());
        logs.scan(&query, streams, &mut |entry: Entry| found.extend(place(&entry.event, uid)))?;
        let found: Vec<_> = found.into_iter().collect();
        match (&found[..], question) {
            ([(resource, namespace, name)], _) => {
                Ok(Question::about(Resource::parse(resource)?, namespace, name))
            }
            ([], Some(question)) => Ok(question),
            ([], None) => bail!("no event in the logs tells which object has {what}"),
            (several, _) => {
                let places = several.iter().map(|(resource, namespace, name)| match namespace.as_str() {
                    "" => format!("{resource}/{name}"),
                    namespace => format!("{resource}/{name} -n {namespace}"),
                });
                bail!(
                    "{what} is more than one object in these logs; ask for one:\n  {}",
                    places.collect::<Vec<_>>().join("\n  ")
                )
            }
        }
    }
}

/// Resource, namespace and name of the object that an event is about, if the server has vouched for it: it did what it
/// was asked, and where a UID is asked for, that is the object's by the server's own word.
fn place(event: &Event, uid: Option<&str>) -> Option<(String, String, String)> {
    let object = event.object_ref.as_ref().filter(|_| event.outcome() == Outcome::Done)?;
    let answer = event.response_meta().filter(|_| matches!(object.subresource.as_str(), "" | "status"));
    if let Some(uid) = uid {
        let compared = event.verb == "update" || object.subresource == "binding";
        let is_it = answer.as_ref().is_some_and(|meta| meta.uid == uid) || (compared && object.uid == uid);
        is_it.then_some(())?;
    }
    let name = if object.name.is_empty() {
        answer.map(|meta| meta.name).unwrap_or_default()
    } else {
        object.name.clone()
    };
    let resource = match object.api_group.as_str() {
        "" => format!("{}.v1.", object.resource),
        group => format!("{}.{group}", object.resource),
    };
    (!name.is_empty()).then(|| (resource, object.namespace.clone(), name))
}
