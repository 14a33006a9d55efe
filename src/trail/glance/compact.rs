//! The head of a record that is written as the API server writes it: JSON without blanks, the bodies before the times.
//!
//! Several times as quick as a general parser, because it looks at nothing that a question does not ask about; whatever is
//! not as expected is left to that parser ([`super::Glance::of`]), which also decides what is no event.
//!
//! Bodies are stepped over unread: the last `"requestReceivedTimestamp":"` of a record is its own if all that follows
//! closes the record and nothing else. An annotation cannot hold these bytes, since quotes in a text are escaped, and
//! inside a body more would have to be closed.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::{Finder, FinderRev};

use super::{Glance, Name, Raw, Status, Target, Text};
use crate::trail::event::Stage;

static TIMES: LazyLock<FinderRev<'static>> =
    LazyLock::new(|| FinderRev::new(r#","requestReceivedTimestamp":""#));
/// How a record begins. Inside another one it is what a crash in the middle of a line has joined.
static BEGINNING: LazyLock<Finder<'static>> =
    LazyLock::new(|| Finder::new(r#"{"kind":"Event","apiVersion":"audit.k8s.io/"#));

/// Reads the head; `None` where the record is not as the API server writes it.
pub(super) fn read(record: &[u8]) -> Option<Glance<'_>> {
    let mut cursor = Cursor { text: record, at: 0 };
    let mut head = Head::default();
    cursor.object(|cursor, key| head.take(cursor, key))?;
    if cursor.at != record.len() {
        return None;
    }
    head.into_glance()
}

/// The fields found so far; each at most once.
#[derive(Default)]
struct Head<'a> {
    kind: Option<Text<'a>>,
    api_version: Option<Text<'a>>,
    audit_id: Option<Text<'a>>,
    stage: Option<Stage>,
    request_uri: Option<Raw<'a>>,
    verb: Option<Text<'a>>,
    user: Option<Name<'a>>,
    impersonated_user: Option<Name<'a>>,
    source_ips: Option<Raw<'a>>,
    user_agent: Option<Text<'a>>,
    object_ref: Option<Target<'a>>,
    response_status: Option<Status<'a>>,
    request_received_timestamp: Option<Text<'a>>,
    stage_timestamp: Option<Text<'a>>,
}

impl<'a> Head<'a> {
    fn take(&mut self, cursor: &mut Cursor<'a>, key: &[u8]) -> Option<()> {
        match key {
            b"kind" => once(&mut self.kind, cursor.text()?),
            b"apiVersion" => once(&mut self.api_version, cursor.text()?),
            b"auditID" => once(&mut self.audit_id, cursor.text()?),
            b"stage" => {
                let stage = match cursor.raw_text()? {
                    b"RequestReceived" => Stage::RequestReceived,
                    b"ResponseStarted" => Stage::ResponseStarted,
                    b"ResponseComplete" => Stage::ResponseComplete,
                    b"Panic" => Stage::Panic,
                    _ => return None,
                };
                once(&mut self.stage, stage)
            }
            b"requestURI" => once(&mut self.request_uri, cursor.raw()?),
            b"verb" => once(&mut self.verb, cursor.text()?),
            b"user" => once(&mut self.user, cursor.name()?),
            b"impersonatedUser" => once(&mut self.impersonated_user, cursor.name()?),
            b"sourceIPs" => once(&mut self.source_ips, cursor.raw()?),
            b"userAgent" => once(&mut self.user_agent, cursor.text()?),
            b"objectRef" => once(&mut self.object_ref, cursor.target()?),
            b"responseStatus" => once(&mut self.response_status, cursor.status()?),
            b"requestReceivedTimestamp" => once(&mut self.request_received_timestamp, cursor.text()?),
            b"stageTimestamp" => once(&mut self.stage_timestamp, cursor.text()?),
            b"requestObject" | b"responseObject" => cursor.skip_bodies(),
            _ => cursor.skip(),
        }
    }

    fn into_glance(self) -> Option<Glance<'a>> {
        Some(Glance {
            kind: self.kind,
            api_version: self.api_version,
            audit_id: self.audit_id?,
            stage: self.stage?,
            request_uri: self.request_uri,
            verb: self.verb?,
            user: self.user,
            impersonated_user: self.impersonated_user,
            source_ips: self.source_ips,
            user_agent: self.user_agent,
            object_ref: self.object_ref,
            response_status: self.response_status,
            request_received_timestamp: self.request_received_timestamp,
            stage_timestamp: self.stage_timestamp,
        })
    }
}

fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// An object, each of whose values `member` takes.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.raw_text()?;
            self.expect(b':')?;
            member(self, key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// A text without its quotes, which may have escapes.
    fn escaped_text(&mut self) -> Option<(&'a [u8], bool)> {
        self.expect(b'"')?;
        let begin = self.at;
        let mut escaped = false;
        loop {
            let found = memchr::memchr2(b'"', b'\\', self.text.get(self.at..)?)?;
            self.at += found + 1;
            if self.text[self.at - 1] == b'"' {
                return Some((&self.text[begin..self.at - 1], escaped));
            }
            escaped = true;
            self.at += 1;
        }
    }

    /// A text that has no escapes.
    fn raw_text(&mut self) -> Option<&'a [u8]> {
        self.escaped_text().and_then(|(text, escaped)| (!escaped).then_some(text))
    }

    fn skip_text(&mut self) -> Option<()> {
        self.escaped_text().map(drop)
    }

    fn text(&mut self) -> Option<Text<'a>> {
        let begin = self.at;
        let (text, escaped) = self.escaped_text()?;
        if escaped {
            return serde_json::from_slice(&self.text[begin..self.at]).ok().map(Cow::Owned);
        }
        std::str::from_utf8(text).ok().map(Cow::Borrowed)
    }

    /// Any value, unread.
    fn raw(&mut self) -> Option<Raw<'a>> {
        let begin = self.at;
        self.skip()?;
        std::str::from_utf8(&self.text[begin..self.at]).ok().map(Raw)
    }

    fn name(&mut self) -> Option<Name<'a>> {
        let mut username = None;
        self.object(|cursor, key| match key {
            b"username" => once(&mut username, cursor.text()?),
            _ => cursor.skip(),
        })?;
        Some(Name { username: username.unwrap_or_default() })
    }

    fn target(&mut self) -> Option<Target<'a>> {
        let (mut resource, mut namespace, mut name, mut uid) = (None, None, None, None);
        let (mut api_group, mut subresource) = (None, None);
        self.object(|cursor, key| {
            let field = match key {
                b"resource" => &mut resource,
                b"namespace" => &mut namespace,
                b"name" => &mut name,
                b"uid" => &mut uid,
                b"apiGroup" => &mut api_group,
                b"subresource" => &mut subresource,
                _ => return cursor.skip(),
            };
            once(field, cursor.text()?)
        })?;
        Some(Target {
            resource: resource.unwrap_or_default(),
            namespace: namespace.unwrap_or_default(),
            name: name.unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            api_group: api_group.unwrap_or_default(),
            subresource: subresource.unwrap_or_default(),
        })
    }

    fn status(&mut self) -> Option<Status<'a>> {
        let (mut code, mut message) = (None, None);
        self.object(|cursor, key| match key {
            b"code" => once(&mut code, cursor.code()?),
            b"message" => once(&mut message, cursor.text()?),
            _ => cursor.skip(),
        })?;
        Some(Status { code: code.unwrap_or_default(), message })
    }

    /// A status code: a few digits.
    fn code(&mut self) -> Option<i32> {
        let begin = self.at;
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        let digits = &self.text[begin..self.at];
        let is_number = !digits.is_empty() && digits.len() < 10 && (digits[0] != b'0' || digits.len() == 1);
        is_number.then(|| digits.iter().fold(0, |code, digit| code * 10 + i32::from(digit - b'0')))
    }

    /// Any value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_text()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b'0'..=b'9' | b'-' | b't' | b'f' | b'n' => {
                    while matches!(self.peek()?, b'0'..=b'9' | b'a'..=b'z' | b'.' | b'-' | b'+' | b'E') {
                        self.at += 1;
                    }
                }
                _ => return None,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// From a body to the record's own times, past the other body too.
    fn skip_bodies(&mut self) -> Option<()> {
        let rest = &self.text[self.at..];
        let times = TIMES.rfind(rest)?;
        if BEGINNING.find(&rest[..times]).is_some() {
            return None;
        }
        self.at += times;
        Some(())
    }
}
