//! Printing in one place: colour only where it is seen.

use anstyle::{AnsiColor, Style};

use super::Streams;

/// A unified diff, coloured on a terminal.
pub fn diff(text: &str, streams: &mut Streams<'_>) -> std::io::Result<()> {
    for line in text.lines() {
        let style = match line.as_bytes().first() {
            _ if !streams.color => Style::new(),
            Some(b'+') => AnsiColor::Green.on_default(),
            Some(b'-') => AnsiColor::Red.on_default(),
            Some(b'@') => AnsiColor::Cyan.on_default(),
            _ => Style::new(),
        };
        writeln!(streams.out, "{style}{line}{style:#}")?;
    }
    Ok(())
}
