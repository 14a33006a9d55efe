//! The head of a record that is written as the API server writes it: JSON without blanks, its fields in their order, the
//! bodies before the times.
//!
//! Several times as quick as a general parser, because it knows what comes next and steps over what few questions ask about:
//! the client's description ([`Aside`], read when it is asked about), the bodies and the annotations. Whatever is not as
//! expected is left to that parser ([`super::Glance::of`]), which also decides what is no event. The order is that of the
//! fields in apiserver `pkg/apis/audit/v1/types.go`.
//!
//! What is stepped over ends where the next field begins, and that is found by its bytes: inside a text each quote is
//! escaped, so that none of them can hold a field's beginning. A body can, but no body comes before `objectRef`, and of the
//! times those are the record's own that come last. What a crash in the middle of a line has joined would be taken for one
//! record; so one that holds the beginning of another is left to the general parser too.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::{Finder, FinderRev};

use super::{ANOTHER, Aside, BEGINNING, Client, Glance, Raw, Status, Target, Text};
use crate::trail::event::Stage;

static TIMES: LazyLock<FinderRev<'static>> =
    LazyLock::new(|| FinderRev::new(r#","requestReceivedTimestamp":""#));
static OBJECT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#","objectRef":{"resource":""#));

/// Reads the head; `None` where the record is not as the API server writes it.
#[inline]
pub(super) fn read(record: &[u8]) -> Option<Glance<'_>> {
    if ANOTHER.find(record.get(1..)?).is_some() {
        return None;
    }
    // What is not UTF-8 is looked at only after it was made so, or what is stepped over could not be read when it is asked for.
    let record = simdutf8::basic::from_utf8(record).ok()?;
    let mut cursor = Cursor::new(record);
    // In two parts, each short enough to be compared in place.
    let (kind, version) = BEGINNING.split_at(16);
    if cursor.expect(kind).is_some() {
        cursor.expect(version)?;
        cursor.end_text()?;
        cursor.expect(br#","level":"#)?;
    } else {
        // An item of a list.
        cursor.expect(br#"{"level":"#)?;
    }
    cursor.skip_text()?;
    cursor.expect(br#","auditID":"#)?;
    let audit_id = cursor.text()?;
    cursor.expect(br#","stage":"#)?;
    let stage = cursor.stage()?;
    let request_uri = cursor.if_next(br#","requestURI":"#, Cursor::raw)?;
    cursor.expect(br#","verb":"#)?;
    let verb = cursor.text()?;
    let user = if cursor.expect(br#","user":{}"#).is_some() { None } else { Some(cursor.username()?) };
    let (begin, within_user) = (cursor.at, user.is_some());
    match OBJECT.find(&cursor.text[begin..]) {
        Some(len) => cursor.at += len,
        None => drop(cursor.client(within_user)?),
    }
    let aside = Aside::Unread { record, place: begin..cursor.at, within_user };
    let object_ref = cursor.target()?;
    let response_status = cursor.if_next(br#","responseStatus":"#, Cursor::status)?;
    if cursor.is_next(br#","requestObject":"#) || cursor.is_next(br#","responseObject":"#) {
        cursor.at += TIMES.rfind(&cursor.text[cursor.at..])?;
    }
    let request_received_timestamp = cursor.if_next(br#","requestReceivedTimestamp":"#, Cursor::text)?;
    let stage_timestamp = cursor.if_next(br#","stageTimestamp":"#, Cursor::text)?;
    if cursor.expect(br#","annotations":{"#).is_some() {
        cursor.at = cursor.at.max(record.len() - 2);
        cursor.expect(b"}")?;
    }
    cursor.expect(b"}")?;
    if cursor.at != record.len() {
        return None;
    }
    Some(Glance {
        audit_id,
        stage,
        request_uri,
        verb,
        user: user.unwrap_or_default(),
        aside,
        object_ref,
        response_status,
        request_received_timestamp,
        stage_timestamp,
    })
}

/// Reads what was stepped over: a part of the record, which begins behind the user's name or behind the user.
pub(super) fn client(text: &str, within_user: bool) -> Option<Client<'_>> {
    let mut cursor = Cursor::new(text);
    let client = cursor.client(within_user)?;
    (cursor.at == text.len()).then_some(client)
}

struct Cursor<'a> {
    record: &'a str,
    /// Its bytes.
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(record: &'a str) -> Self {
        Self { record, text: record.as_bytes(), at: 0 }
    }

    // Inlined, so that what is compared with is known and no loop.
    #[inline(always)]
    fn is_next(&self, what: &[u8]) -> bool {
        self.text.get(self.at..).is_some_and(|rest| rest.starts_with(what))
    }

    #[inline(always)]
    fn expect(&mut self, what: &[u8]) -> Option<()> {
        self.is_next(what).then(|| self.at += what.len())
    }

    /// The value of a member that may be left out; `None` where it is there and cannot be read.
    #[inline(always)]
    fn if_next<T>(&mut self, key: &[u8], read: fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.expect(key).is_none() {
            return Some(None);
        }
        read(self).map(Some)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Goes behind a text's end, from behind its beginning. Whether it has escapes.
    fn end_text(&mut self) -> Option<bool> {
        let mut escaped = false;
        loop {
            self.at += quote_or_backslash(self.text.get(self.at..)?)?;
            let found = self.text[self.at];
            self.at += 1;
            if found == b'"' {
                return Some(escaped);
            }
            escaped = true;
            self.at += 1;
        }
    }

    fn skip_text(&mut self) -> Option<()> {
        self.expect(b"\"")?;
        self.end_text().map(drop)
    }

    fn text(&mut self) -> Option<Text<'a>> {
        let begin = self.at;
        self.expect(b"\"")?;
        Some(Text(if self.end_text()? {
            Cow::Owned(serde_json::from_slice(&self.text[begin..self.at]).ok()?)
        } else {
            Cow::Borrowed(&self.record[begin + 1..self.at - 1])
        }))
    }

    fn stage(&mut self) -> Option<Stage> {
        // One after the other, so that each is compared with what is known.
        let is = |cursor: &mut Self, name: &[u8], stage| cursor.expect(name).map(|()| stage);
        is(self, br#""ResponseComplete""#, Stage::ResponseComplete)
            .or_else(|| is(self, br#""RequestReceived""#, Stage::RequestReceived))
            .or_else(|| is(self, br#""ResponseStarted""#, Stage::ResponseStarted))
            .or_else(|| is(self, br#""Panic""#, Stage::Panic))
    }

    /// Any value, unread.
    fn raw(&mut self) -> Option<Raw<'a>> {
        let begin = self.at;
        self.skip()?;
        Some(Raw(&self.text[begin..self.at]))
    }

    /// From the member `user` to behind its name.
    fn username(&mut self) -> Option<Text<'a>> {
        self.expect(br#","user":{"username":"#)?;
        self.text()
    }

    /// From behind the user's name to the object: what else the user is, and what the client is.
    fn client(&mut self, within_user: bool) -> Option<Client<'a>> {
        if within_user {
            self.skip_from(1)?;
        }
        let impersonated_user = self.if_next(br#","impersonatedUser":{"username":"#, |cursor| {
            let name = cursor.text()?;
            cursor.skip_from(1)?;
            Some(name)
        })?;
        self.if_next(br#","authenticationMetadata":"#, Self::skip)?;
        let source_ips = self.if_next(br#","sourceIPs":"#, Self::raw)?;
        let user_agent = self.if_next(br#","userAgent":"#, Self::text)?;
        Some(Client { impersonated_user, source_ips, user_agent })
    }

    /// The member `objectRef`, which may be left out; inlined, because what it gives is large.
    #[inline(always)]
    fn target(&mut self) -> Option<Option<Target<'a>>> {
        if self.expect(br#","objectRef":"#).is_none() {
            return Some(None);
        }
        self.expect(br#"{"resource":"#)?;
        let resource = self.text()?;
        let namespace = self.if_next(br#","namespace":"#, Self::text)?;
        let name = self.if_next(br#","name":"#, Self::text)?;
        let uid = self.if_next(br#","uid":"#, Self::text)?;
        let api_group = self.if_next(br#","apiGroup":"#, Self::text)?;
        self.if_next(br#","apiVersion":"#, Self::skip_text)?;
        self.if_next(br#","resourceVersion":"#, Self::skip_text)?;
        let subresource = self.if_next(br#","subresource":"#, Self::text)?;
        self.expect(b"}")?;
        Some(Some(Target {
            resource,
            namespace: namespace.unwrap_or_default(),
            name: name.unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            api_group: api_group.unwrap_or_default(),
            subresource: subresource.unwrap_or_default(),
        }))
    }

    fn status(&mut self) -> Option<Status<'a>> {
        if self.expect(br#"{"metadata":{}"#).is_none() {
            self.expect(br#"{"metadata":"#)?;
            self.skip()?;
        }
        self.if_next(br#","status":"#, Self::skip_text)?;
        let message = self.if_next(br#","message":"#, Self::text)?;
        self.if_next(br#","reason":"#, Self::skip_text)?;
        self.if_next(br#","details":"#, Self::skip)?;
        let code = self.if_next(br#","code":"#, Self::code)?;
        self.expect(b"}")?;
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
        self.skip_from(0)
    }

    /// What is left of a value of which so many brackets are open.
    fn skip_from(&mut self, mut depth: usize) -> Option<()> {
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
}

/// The highest bit of each byte.
const HIGH: u64 = 0x8080_8080_8080_8080;
const EACH: u64 = 0x0101_0101_0101_0101;
/// Words that are looked at one by one before a text counts as long.
const SHORT: usize = 6;

/// Where the first `"` or `\` is. Most texts are of ten or twenty bytes, where eight at a time are quicker than thirty-two with
/// what these need to begin.
fn quote_or_backslash(text: &[u8]) -> Option<usize> {
    /// Marks the bytes of the word that are zero: the lowest mark is right, those above it may be wrong.
    fn zeros(word: u64) -> u64 {
        word.wrapping_sub(EACH) & !word & HIGH
    }
    let mut at = 0;
    for _ in 0..SHORT {
        let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) else { break };
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (EACH * b'"' as u64)) | zeros(word ^ (EACH * b'\\' as u64));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', &text[at..]).map(|found| at + found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_end_of_a_text_is_found_wherever_it_is(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let end = text.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(quote_or_backslash(&text), end);
        }
    }
}
