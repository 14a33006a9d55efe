//! How answers about the audit trail are printed: tables for people, JSON and YAML for programs.

use std::borrow::Cow;

use serde::Serialize;

use super::Streams;
use crate::trail::request::Request;

/// How to print an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people; may change between versions.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For people, with more columns.
    Wide,
    /// One JSON value; stable.
    Json,
    /// A JSON value a line; stable.
    Jsonl,
    /// YAML; stable.
    Yaml,
}

impl Output {
    /// Prints one value, where this is not a table.
    pub(super) fn value(self, value: &impl Serialize, streams: &mut Streams<'_>) -> anyhow::Result<()> {
        match self {
            Self::Jsonl => writeln!(streams.out, "{}", serde_json::to_string(value)?)?,
            Self::Yaml => write!(streams.out, "{}", serde_yaml::to_string(value)?)?,
            Self::Table | Self::Wide | Self::Json => {
                writeln!(streams.out, "{}", serde_json::to_string_pretty(value)?)?;
            }
        }
        Ok(())
    }

    /// Prints a list of values, where this is not a table: a line each, or one list. Each is let go before the next is
    /// taken.
    pub(super) fn list<T: Serialize>(
        self,
        values: impl IntoIterator<Item = anyhow::Result<T>>,
        streams: &mut Streams<'_>,
    ) -> anyhow::Result<()> {
        let mut values = values.into_iter();
        if self == Self::Jsonl {
            return values.try_for_each(|value| self.value(&value?, streams));
        }
        let mut failed = None;
        let rest = std::iter::from_fn(|| values.next()?.map_err(|error| failed = Some(error)).ok());
        let list = Listed(std::cell::RefCell::new(rest));
        match self {
            Self::Yaml => serde_yaml::to_writer(&mut *streams.out, &list)?,
            _ => {
                serde_json::to_writer_pretty(&mut *streams.out, &list)?;
                writeln!(streams.out)?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    pub(super) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// A record on one line: where it was indented, a line may end anywhere between its parts, and never in a text.
pub(super) fn on_one_line(record: &[u8]) -> Cow<'_, [u8]> {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !record.iter().any(is_end) {
        return Cow::Borrowed(record);
    }
    record.split(is_end).map(<[u8]>::trim_ascii).collect::<Vec<_>>().concat().into()
}

/// A list that is printed once, as it is made.
struct Listed<I>(std::cell::RefCell<I>);

impl<T: Serialize, I: Iterator<Item = T>> Serialize for Listed<I> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&mut *self.0.borrow_mut())
    }
}

/// How times are shown.
#[derive(Clone, Debug)]
pub(super) struct Clock(pub(super) jiff::tz::TimeZone);

impl Clock {
    fn shown(&self, time: Option<jiff::Timestamp>) -> String {
        let in_zone =
            |time: jiff::Timestamp| time.to_zoned(self.0.clone()).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z");
        time.map_or("-".to_owned(), |time| in_zone(time).to_string().replace("+00:00", "Z"))
    }
}

/// The rows of a table of requests, without its head.
pub(super) fn row(request: &Request, clock: &Clock, wide: bool) -> Vec<String> {
    let user = match &request.impersonated_user {
        Some(user) => format!("{user} (by {})", request.user),
        None => request.user.clone(),
    };
    let place = [&request.namespace, &request.name].into_iter().filter(|part| !part.is_empty());
    let place: Vec<&str> = place.map(String::as_str).collect();
    let object = match request.resource.as_str() {
        "" => request.request_uri.clone(),
        resource => format!("{resource} {}", place.join("/")).trim_end().to_owned(),
    };
    let code = if request.code == 0 { "-".to_owned() } else { request.code.to_string() };
    let from = request.source_ips.last().cloned().unwrap_or_default();
    let mut row = vec![clock.shown(request.time), user, request.verb.clone(), object, code, from];
    if wide {
        let stage = format!("{:?}", request.stage);
        row.extend([
            stage,
            request.user_agent.clone(),
            request.reason.clone(),
            request.audit_id.clone(),
            request.source.clone(),
        ]);
    }
    row
}

/// The head of that table.
pub(super) fn head(wide: bool) -> Vec<String> {
    let names =
        ["TIME", "USER", "VERB", "OBJECT", "CODE", "FROM", "STAGE", "AGENT", "REASON", "AUDIT-ID", "SOURCE"];
    names.iter().take(if wide { names.len() } else { 6 }).map(|&name| name.to_owned()).collect()
}

/// Prints rows in columns; each row is followed by its own further lines.
pub(super) fn table(rows: &[(Vec<String>, Vec<String>)], streams: &mut Streams<'_>) -> std::io::Result<()> {
    let rows: Vec<(Vec<String>, &Vec<String>)> =
        rows.iter().map(|(row, below)| (row.iter().map(|cell| shown(cell)).collect(), below)).collect();
    let columns = rows.first().map_or(0, |(row, _)| row.len());
    let width = |column: usize| rows.iter().map(|(row, _)| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let bold = if streams.color { anstyle::Style::new().bold() } else { anstyle::Style::new() };
    for (at, (row, below)) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let style = if at == 0 { bold } else { anstyle::Style::new() };
        writeln!(streams.out, "{style}{}{style:#}", line.trim_end())?;
        for line in *below {
            writeln!(streams.out, "    {}", shown(line))?;
        }
    }
    Ok(())
}

/// Text from a log, without the control characters that could rewrite a terminal.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        // Besides the controls: the marks that turn the direction of writing.
        if char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}
