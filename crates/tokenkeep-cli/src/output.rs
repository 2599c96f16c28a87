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
    std::io::stdout().is_terminal() && env::read(env::NO_COLOR).is_none()
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
    // Not behind the last: blanks there can make a line too long.
    for column in table.column_iter_mut().rev().skip(1) {
        column.set_padding((0, 2));
    }
    if let Some(last) = table.column_iter_mut().next_back() {
        last.set_padding((0, 0));
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

/// The narrowest a column becomes.
const COLUMN_MIN: usize = 4;
/// The blanks between columns.
const GAP: usize = 2;

/// How many characters a line may have: what `COLUMNS` says, else the terminal's width; `None` where standard
/// output is no terminal.
#[must_use]
pub fn width() -> Option<usize> {
    let chosen = env::read(env::COLUMNS).and_then(|text| text.parse().ok());
    chosen.or_else(|| terminal_size().map(|(columns, _)| columns))
}

/// The terminal's columns and rows, where standard output is one.
#[must_use]
pub fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// A column of a table that fits any width.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its title.
    pub title: &'static str,
    /// Where a line is too long, the column with the highest number goes first; 0 stays.
    pub expendable: u8,
}

/// What stands in a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Field {
    /// Text.
    Text(String),
    /// A status, which is coloured.
    Status(String),
}

impl Field {
    fn text(&self) -> &str {
        let (Self::Text(text) | Self::Status(text)) = self;
        text
    }

    /// Cut at `width` characters.
    fn cell(&self, width: usize) -> Cell {
        match self {
            Self::Text(text) => Cell::new(cut(text, width)),
            // The colour is that of the whole word.
            Self::Status(text) => status_look(Cell::new(cut(text, width)), text),
        }
    }
}

/// Text of at most `width` characters; an ellipsis stands for what is missing.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A table as text whose lines have at most `width` characters: columns go as [`Column::expendable`] says, then the
/// others are cut, from the first on.
#[must_use]
pub fn fitted(columns: &[Column], rows: &[Vec<Field>], width: Option<usize>) -> String {
    let widest = |at: usize, column: &Column| {
        let widths = rows.iter().filter_map(|row| row.get(at)).map(|field| field.text().chars().count());
        widths.chain([column.title.len()]).max().unwrap_or(0)
    };
    let mut kept: Vec<(usize, usize)> = columns.iter().enumerate().map(|(at, c)| (at, widest(at, c))).collect();
    shrink(columns, &mut kept, width.unwrap_or(usize::MAX));
    let titles: Vec<String> = kept.iter().map(|&(at, width)| cut(columns[at].title, width)).collect();
    let mut table = table(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        table.add_row(kept.iter().filter_map(|&(at, width)| Some(row.get(at)?.cell(width))));
    }
    text_of(&table)
}

/// Takes columns away, and width from those that stay.
fn shrink(columns: &[Column], kept: &mut Vec<(usize, usize)>, width: usize) {
    let excess = |kept: &[(usize, usize)]| {
        let whole = kept.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP);
        whole.saturating_sub(width)
    };
    while excess(kept) > 0
        && let Some(most) = kept.iter().map(|&(at, _)| columns[at].expendable).max().filter(|&most| most > 0)
    {
        kept.retain(|&(at, _)| columns[at].expendable != most);
    }
    for at in 0..kept.len() {
        let given = excess(kept).min(kept[at].1.saturating_sub(COLUMN_MIN));
        kept[at].1 -= given;
    }
}

/// A status, coloured by how much it wants attention.
#[must_use]
pub fn status_cell(status: &str) -> Cell {
    status_look(Cell::new(status), status)
}

fn status_look(cell: Cell, status: &str) -> Cell {
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

    const COLUMNS: [Column; 3] = [
        Column { title: "NAME", expendable: 0 },
        Column { title: "PROVIDER", expendable: 1 },
        Column { title: "STATUS", expendable: 0 },
    ];

    fn row(name: &str, provider: &str, status: &str) -> Vec<Field> {
        vec![Field::Text(name.to_owned()), Field::Text(provider.to_owned()), Field::Status(status.to_owned())]
    }

    #[test]
    fn a_narrow_table_loses_columns_and_then_letters() {
        let rows = [row("a-longer-name", "atlassian", "needs_reauth"), row("jira", "github", "fresh")];
        let at = |width: usize| fitted(&COLUMNS, &rows, Some(width));
        let whole = fitted(&COLUMNS, &rows, None);
        assert_eq!(whole.lines().map(str::len).max(), Some(38));
        assert_eq!(at(38), whole);
        assert_eq!(at(37), "NAME           STATUS\na-longer-name  needs_reauth\njira           fresh\n");
        assert_eq!(at(20), "NAME    STATUS\na-lon…  needs_reauth\njira    fresh\n");
        for width in 10..60 {
            let text = at(width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert_eq!(text.lines().count(), 3, "{text}");
        }
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
