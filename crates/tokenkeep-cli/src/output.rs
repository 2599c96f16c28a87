//! Standard output: data, written once and whole.

use crate::api::json::parse_time;
use crate::env;
use crate::error::CliError;
use crate::span;
use comfy_table::{Attribute, Cell, Color, Table, presets};
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Says a line on standard error. Where nobody listens any more, nothing is lost but the line:
/// `eprintln!` would panic.
macro_rules! say {
    ($($words:tt)*) => { $crate::output::to_stderr(&format!("{}\n", format_args!($($words)*))) };
}

/// As [`say!`], without a line break.
macro_rules! say_on {
    ($($words:tt)*) => { $crate::output::to_stderr(&format!($($words)*)) };
}

pub(crate) use {say, say_on};

/// Writes to standard error, as far as that is possible.
pub fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes text to standard output.
///
/// # Errors
/// [`CliError::BrokenPipe`] when the reader has gone.
pub fn write(text: &str) -> Result<(), CliError> {
    write_bytes(text.as_bytes())
}

/// Writes bytes to standard output.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`write()`].
pub fn write_json(value: &impl Serialize) -> Result<(), CliError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::new(format!("the answer cannot be written as JSON: {error}")))?;
    text.push('\n');
    write(&text)
}

/// Writes a value as one line of JSON.
///
/// # Errors
/// As [`write()`].
pub fn write_json_line(value: &impl Serialize) -> Result<(), CliError> {
    let mut text = serde_json::to_string(value)
        .map_err(|error| CliError::new(format!("the answer cannot be written as JSON: {error}")))?;
    text.push('\n');
    write(&text)
}

/// True when standard output may be coloured.
#[must_use]
pub fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os(env::NO_COLOR).is_none_or(|v| v.is_empty())
}

/// A table without borders, two spaces between columns.
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if colour() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The table as text, with a final line break.
#[must_use]
pub fn text_of(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A status, coloured by how much it wants attention.
#[must_use]
pub fn status_cell(status: &str) -> Cell {
    let cell = Cell::new(status);
    match status {
        "fresh" => cell.fg(Color::Green),
        "refreshing" => cell.fg(Color::Cyan),
        "needs_reauth" | "expired" => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        "paused" => cell,
        _ => cell.fg(Color::Yellow),
    }
}

/// A time of the API, told from `now_ms`: `in 12m`, `3s ago`; `-` where there is none.
#[must_use]
pub fn relative(time: Option<&str>, now_ms: i64) -> String {
    let Some(at) = time.and_then(parse_time) else {
        return "-".to_owned();
    };
    let away = at.as_millis().saturating_sub(now_ms);
    let span = span::show(Duration::from_millis(away.unsigned_abs()));
    if away >= 0 { format!("in {span}") } else { format!("{span} ago") }
}

/// Now, in milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let now = parse_time("2026-11-23T10:00:00Z").unwrap().as_millis();
        let told = |time| relative(Some(time), now);
        assert_eq!(told("2026-11-23T10:12:00Z"), "in 12m");
        assert_eq!(told("2026-11-23T09:59:57Z"), "3s ago");
        assert_eq!(relative(None, now), "-");
        assert_eq!(told("rubbish"), "-");
    }

    #[test]
    fn tables_have_no_borders_and_no_trailing_blanks() {
        let mut table = table(&["NAME", "STATUS"]);
        table.force_no_tty();
        table.add_row(["jira", "fresh"]);
        table.add_row(["a-longer-name", "held"]);
        assert_eq!(text_of(&table), "NAME           STATUS\njira           fresh\na-longer-name  held\n");
    }
}
