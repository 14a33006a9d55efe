//! Where one record ends and the next begins, in a stream of JSON that may be damaged.
//!
//! Two facts of JSON make this safe and quick. A string holds no raw line end, so a line never begins inside one.
//! And inside a value `}` is never followed by `{` without a comma. So a line that begins with `{`, ends with `}`
//! and is followed by a line that begins with `{` is whole records, found without looking at what is between
//! ([`Step::Record`] with `guessed`); everything else is scanned bracket by bracket.
//!
//! After damage the next record is looked for only where a line begins, indented no deeper than the damaged
//! record: bodies are written by whoever sent them, and an event forged inside one must not be taken for a record
//! because the record around it is broken.

use std::io::{self, Read};
use std::ops::Range;

/// Bytes asked of the input at a time.
const BLOCK: usize = 128 << 10;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next `len` bytes are one JSON object with balanced brackets.
    Record {
        /// Its first line, from 1.
        line: u64,
        /// Its length in bytes, see [`Records::bytes`].
        len: usize,
        /// Known by the ends of its line only: it may be a list, or several records.
        guessed: bool,
    },
    /// What comes next are lines, each with its end, and each whole records as far as its ends tell.
    Lines {
        /// The first line, from 1.
        line: u64,
    },
    /// Something here cannot be read, and has been stepped over.
    Damaged {
        /// The line it begins at, from 1.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The input is at its end.
    End,
}

/// What a record is an element of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// A JSON array.
    Array,
    /// The `items` of an object, such as an `EventList`.
    Items,
}

enum Extent {
    Record(usize),
    /// An object whose `items` array opens just before this offset.
    Items(usize),
    Damaged(&'static str),
}

const CUT_SHORT: &str = "cut short";
const TOO_LONG: &str = "longer than a record can be";
const LEGACY: &str = "in the `legacy` text format, which is not read: set --audit-log-format=json";

/// Finds the records of one input.
///
/// `next` says what is there; a record stays until [`Self::consume`], [`Self::look_inside`] or [`Self::resync`]
/// says what to do with it.
pub(super) struct Records<'b, R> {
    input: R,
    limit: usize,
    /// `buf[start..end]` is read and not yet consumed.
    buf: &'b mut Vec<u8>,
    start: usize,
    end: usize,
    line: u64,
    /// Where `start` is in the log, in bytes.
    offset: u64,
    /// Where to end: at the first border from here on, see [`BORDER`].
    until: Option<u64>,
    /// The byte before `start`.
    last: u8,
    /// The line before this one ended with `}`.
    closed: bool,
    /// Only blanks so far on this line.
    at_line_start: bool,
    /// Blanks at the beginning of this line.
    indent: usize,
    /// Scan what is next, even where the ends of its line look good.
    inside: bool,
    lists: Vec<List>,
    damage_seen: bool,
    /// Where the lines of [`Step::Lines`] end, from `start` on.
    ends: &'b mut Vec<usize>,
}

/// Memory to read by way of, whatever is in it. It outlives a log's piece, of which there are hundreds: new memory is dearer
/// than what is read into it, and to give it back stops every thread for a moment.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    block: Vec<u8>,
    ends: Vec<usize>,
}

/// Where a log can be cut in pieces: between these two brackets one record ends and the next begins, whatever came
/// before. In a whole record there is a comma between them, and in a string no line end.
const BORDER: &[u8] = b"}\n{";

impl<'b, R: Read> Records<'b, R> {
    pub(super) fn new(input: R, buffers: &'b mut Buffers, limit: usize, line: u64) -> Self {
        let Buffers { block: buf, ends } = buffers;
        // A long record is no reason to keep so much.
        buf.truncate(BLOCK);
        buf.shrink_to(BLOCK);
        buf.resize(BLOCK, 0);
        Self {
            input,
            limit,
            buf,
            start: 0,
            end: 0,
            line,
            offset: 0,
            until: None,
            last: 0,
            closed: false,
            at_line_start: true,
            indent: 0,
            inside: false,
            lists: Vec::new(),
            damage_seen: false,
            ends,
        }
    }

    /// Ends at the first border at or after `until`, where the next piece begins. The input is at the log's beginning, or
    /// at `offset`, two bytes before the piece: then what is before the first border belongs to the piece before.
    ///
    /// # Errors
    /// The input's own.
    pub(super) fn piece(&mut self, offset: Option<u64>, until: Option<u64>) -> io::Result<()> {
        (self.offset, self.until) = (offset.unwrap_or(0), until);
        let border = memchr::memmem::Finder::new(BORDER);
        while offset.is_some() {
            let unread = &self.buf[self.start..self.end];
            if let Some(at) = border.find(unread) {
                self.step(at + 2);
                self.closed = true;
                break;
            }
            self.step(unread.len().saturating_sub(2));
            if !self.fill()? {
                self.step(self.end - self.start);
                break;
            }
        }
        Ok(())
    }

    /// The line that comes next, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Where in the log what comes next is, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `len` bytes, of a record that `next` has announced.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        &self.buf[self.start..self.start + len]
    }

    /// The lines that `next` has announced, and where in them each line ends.
    pub(super) fn lines(&self) -> (&[u8], &[usize]) {
        let len = self.ends.last().map_or(0, |end| end + 1);
        (self.bytes(len), self.ends)
    }

    /// Steps over the next `len` bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.line += memchr::memchr_iter(b'\n', self.bytes(len)).count() as u64;
        self.step(len);
        self.at_line_start = false;
        self.inside = false;
    }

    /// Steps over the first `count` of the lines that `next` has announced.
    pub(super) fn consume_lines(&mut self, count: usize) {
        self.line += count as u64;
        if count > 0 {
            self.step(self.ends[count - 1] + 1);
            self.closed = true;
        }
    }

    fn step(&mut self, len: usize) {
        if len > 0 {
            self.last = self.buf[self.start + len - 1];
        }
        self.start += len;
        self.offset += len as u64;
    }

    /// The record known by its line's ends is not an event: have it scanned.
    pub(super) fn look_inside(&mut self) {
        self.inside = true;
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buf.capacity()
    }

    /// Says what comes next, and steps over damage.
    ///
    /// # Errors
    /// The input's own.
    pub(super) fn next(&mut self) -> io::Result<Step> {
        loop {
            let Some(byte) = self.at(0)? else {
                // After damage nobody knows which lists are still open.
                let cut = !self.lists.is_empty() && !self.damage_seen;
                self.lists.clear();
                return Ok(if cut { Step::Damaged { line: self.line, what: CUT_SHORT } } else { Step::End });
            };
            let is_border = byte == b'{' && self.closed && self.at_line_start && self.indent == 0;
            if is_border {
                // In a list that is whole there would be a comma: none is open any more, whatever came before.
                let cut = !self.lists.is_empty() && !self.damage_seen;
                self.lists.clear();
                self.damage_seen = false;
                if cut {
                    return Ok(Step::Damaged { line: self.line, what: CUT_SHORT });
                }
                if self.until.is_some_and(|until| self.offset >= until) {
                    return Ok(Step::End);
                }
            }
            match byte {
                b'\n' => self.begin_line(),
                b' ' | b'\t' | b'\r' => {
                    let indent = self.indent + usize::from(self.at_line_start);
                    let at_line_start = self.at_line_start;
                    self.consume(1);
                    (self.indent, self.at_line_start) = (indent, at_line_start);
                }
                b',' => self.consume(1),
                b'[' => {
                    self.lists.push(List::Array);
                    self.consume(1);
                }
                b']' if self.lists.last() == Some(&List::Array) => {
                    self.lists.pop();
                    self.consume(1);
                }
                b']' if self.lists.last() == Some(&List::Items) => {
                    self.lists.pop();
                    self.consume(1);
                    // What is left of the object around the items.
                    match self.scan(1)? {
                        Extent::Record(len) => self.consume(len),
                        Extent::Items(len) => self.enter_items(len),
                        Extent::Damaged(what) => return self.damaged(what),
                    }
                }
                b'{' => {
                    if self.whole_lines() {
                        return Ok(Step::Lines { line: self.line });
                    }
                    if let Some(len) = self.whole_line()? {
                        return Ok(Step::Record { line: self.line, len, guessed: true });
                    }
                    match self.scan(0)? {
                        Extent::Record(len) => {
                            return Ok(Step::Record { line: self.line, len, guessed: false });
                        }
                        Extent::Items(len) => self.enter_items(len),
                        Extent::Damaged(what) => return self.damaged(what),
                    }
                }
                0 => return self.hole(),
                _ => {
                    let what = if self.is_legacy_line()? { LEGACY } else { "not JSON" };
                    return self.damaged(what);
                }
            }
        }
    }

    /// Steps over what is damaged, to the next line that can begin a record.
    ///
    /// # Errors
    /// The input's own.
    pub(super) fn resync(&mut self) -> io::Result<()> {
        let deepest = self.indent;
        self.damage_seen = true;
        loop {
            if !self.skip_line()? {
                return Ok(());
            }
            let mut indent = 0;
            while indent <= deepest && matches!(self.at(indent)?, Some(b' ' | b'\t')) {
                indent += 1;
            }
            if indent <= deepest && matches!(self.at(indent)?, Some(b'{' | 0)) {
                return Ok(());
            }
        }
    }

    fn damaged(&mut self, what: &'static str) -> io::Result<Step> {
        let line = self.line;
        self.resync()?;
        Ok(Step::Damaged { line, what })
    }

    /// Zero bytes are what a file system leaves of writes that a power cut lost; the server then goes on behind
    /// them on the same line.
    fn hole(&mut self) -> io::Result<Step> {
        let line = self.line;
        while self.at(0)? == Some(0) {
            self.consume(1);
        }
        Ok(Step::Damaged { line, what: "zero bytes, as a power cut leaves them" })
    }

    fn enter_items(&mut self, len: usize) {
        self.lists.push(List::Items);
        self.consume(len);
    }

    fn begin_line(&mut self) {
        self.closed = self.last == b'}';
        self.consume(1);
        self.at_line_start = true;
        self.indent = 0;
    }

    /// Finds the lines that are already here and are whole records, as in [`Self::whole_line`]; whether there are any.
    fn whole_lines(&mut self) -> bool {
        self.ends.clear();
        if self.inside || !self.at_line_start || self.indent > 0 {
            return false;
        }
        let unread = &self.buf[self.start..self.end];
        for end in memchr::memchr_iter(b'\n', unread) {
            if unread[..end].last() != Some(&b'}') || unread.get(end + 1) != Some(&b'{') {
                break;
            }
            self.ends.push(end);
            if self.until.is_some_and(|until| self.offset + end as u64 + 1 >= until) {
                break;
            }
        }
        !self.ends.is_empty()
    }

    /// The length of the line that comes next if its ends say that it is whole records.
    fn whole_line(&mut self) -> io::Result<Option<usize>> {
        if self.inside || !self.at_line_start {
            return Ok(None);
        }
        let Some(end) = self.line_end()? else { return Ok(None) };
        let len = self.bytes(end).trim_ascii_end().len();
        let whole = self.bytes(len).ends_with(b"}") && matches!(self.at(end + 1)?, None | Some(b'{'));
        Ok(whole.then_some(len))
    }

    /// As apiserver `pkg/audit/format.go` writes it.
    fn is_legacy_line(&mut self) -> io::Result<bool> {
        let end = self.line_end()?.unwrap_or(0);
        Ok(memchr::memmem::find(self.bytes(end), b" AUDIT: id=").is_some())
    }

    /// Where this line ends, or the input; `None` beyond the limit.
    fn line_end(&mut self) -> io::Result<Option<usize>> {
        let mut from = 0;
        loop {
            let unread = &self.buf[self.start..self.end];
            if let Some(at) = memchr::memchr(b'\n', &unread[from..]) {
                return Ok(Some(from + at));
            }
            from = unread.len();
            if from > self.limit {
                return Ok(None);
            }
            if !self.fill()? {
                return Ok(Some(from));
            }
        }
    }

    /// Scans from here to the bracket that brings `depth` to zero.
    fn scan(&mut self, mut depth: usize) -> io::Result<Extent> {
        let mut at = 0;
        // The latest string at depth 1; before a bracket that opens there it is that member's key.
        let mut key = 0..0;
        let mut before = 0;
        let mut blanks = None;
        loop {
            if at > self.limit {
                return Ok(Extent::Damaged(TOO_LONG));
            }
            let Some(byte) = self.at(at)? else { return Ok(Extent::Damaged(CUT_SHORT)) };
            match byte {
                b'\n' => {
                    blanks = Some(0);
                    at += 1;
                    continue;
                }
                b' ' | b'\t' | b'\r' => {
                    blanks = blanks.map(|blanks| blanks + 1);
                    at += 1;
                    continue;
                }
                b'"' => match self.string(at + 1)? {
                    Ok(string) => {
                        at = string.end;
                        if depth == 1 {
                            key = string;
                        }
                    }
                    Err(what) => return Ok(Extent::Damaged(what)),
                },
                // No value begins here, so the one before was never finished.
                b'{' if depth > 0
                    && blanks.is_some_and(|blanks| blanks <= self.indent)
                    && !matches!(before, b',' | b':' | b'[') =>
                {
                    return Ok(Extent::Damaged(CUT_SHORT));
                }
                b'[' if depth == 1 && &self.buf[self.start..][key.clone()] == b"items" => {
                    return Ok(Extent::Items(at + 1));
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(Extent::Record(at + 1));
                    }
                }
                _ => {}
            }
            before = byte;
            blanks = None;
            at += 1;
        }
    }

    /// What is between the quotes, given where it begins.
    fn string(&mut self, begin: usize) -> io::Result<Result<Range<usize>, &'static str>> {
        let mut at = begin;
        loop {
            if at > self.limit {
                return Ok(Err(TOO_LONG));
            }
            let unread = &self.buf[self.start..self.end];
            match memchr::memchr3(b'"', b'\\', b'\n', unread.get(at..).unwrap_or(&[])) {
                Some(found) => match unread[at + found] {
                    b'"' => return Ok(Ok(begin..at + found)),
                    b'\\' => at += found + 2,
                    _ => return Ok(Err(CUT_SHORT)),
                },
                None => {
                    at = at.max(unread.len());
                    if !self.fill()? {
                        return Ok(Err(CUT_SHORT));
                    }
                }
            }
        }
    }

    /// Steps over the rest of this line, however long; `false` at the end of the input.
    fn skip_line(&mut self) -> io::Result<bool> {
        loop {
            let unread = &self.buf[self.start..self.end];
            if let Some(at) = memchr::memchr(b'\n', unread) {
                self.consume(at);
                self.begin_line();
                return Ok(true);
            }
            self.consume(self.end - self.start);
            if !self.fill()? {
                return Ok(false);
            }
        }
    }

    /// The byte at this offset from here.
    fn at(&mut self, offset: usize) -> io::Result<Option<u8>> {
        while self.end - self.start <= offset {
            if !self.fill()? {
                return Ok(None);
            }
        }
        Ok(Some(self.buf[self.start + offset]))
    }

    /// Reads more behind what is there; `false` at the end of the input.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buf.len() < self.end + BLOCK / 2 {
            self.buf.resize(self.end + BLOCK, 0);
        }
        loop {
            match self.input.read(&mut self.buf[self.end..]) {
                Ok(got) => {
                    self.end += got;
                    return Ok(got > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
