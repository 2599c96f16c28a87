//! What the daemon says on standard error while it runs: one line an event, as text or as JSON.
//!
//! What comes from outside may hold anything: no character of it ends a line, moves the cursor or turns the direction
//! of writing (security 28).

use crate::env;
use crate::error::CliError;
use rustix::fs::fstat;
use serde_json::Value;
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::str::FromStr;
use tokenkeep_core::model::is_hidden;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The most characters of one value.
const VALUE_MAX: usize = 4_096;

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `TIME LEVEL target: message key=value`, for people.
    Text,
    /// `{"timestamp", "level", "target", "message", "fields": {}}`, for programs.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json".to_owned()),
        }
    }
}

/// Starts logging to standard error: `TOKENKEEP_LOG` filters it, `default` where that is not set; `format` is what
/// was asked for on the command line, and stands above `TOKENKEEP_LOG_FORMAT`.
///
/// # Errors
/// A variable holds something else than it may.
pub fn start(default: &str, format: Option<Format>) -> Result<(), CliError> {
    let text = env::read(env::LOG).unwrap_or_else(|| default.to_owned());
    let filter: Targets = text.parse().map_err(|error| {
        CliError::usage(format!("{} is no filter: {error}", env::LOG))
            .next_step("expected a level (error, warn, info, debug, trace) or target=level, separated by commas")
    })?;
    let format = format.map_or_else(format_of_environment, Ok)?;
    let lines = Lines { format, to: Reader::of_stderr() };
    let log = tracing_subscriber::fmt::layer().event_format(lines).with_writer(std::io::stderr);
    let all = tracing_subscriber::registry().with(log.with_filter(filter));
    #[cfg(feature = "otel")]
    let all = all.with(crate::traces::layer()?);
    all.init();
    #[cfg(not(feature = "otel"))]
    if env::read(env::OTLP_ENDPOINT).or_else(|| env::read(env::OTLP_TRACES_ENDPOINT)).is_some() {
        tracing::info!("an endpoint for traces is named, but this build has none: they need --features otel");
    }
    Ok(())
}

fn format_of_environment() -> Result<Format, CliError> {
    let Some(text) = env::read(env::LOG_FORMAT) else { return Ok(Format::Text) };
    text.parse().map_err(|expected| {
        CliError::usage(format!("{} is `{text}`", env::LOG_FORMAT)).next_step(format!("{expected}, or leave it unset"))
    })
}

/// A report of a failure as whoever reads standard error takes it: the journal gets its priority with each line.
#[must_use]
pub fn for_reader(report: String) -> String {
    match Reader::of_stderr() {
        Reader::Journal => report.lines().map(|line| format!("{}{line}\n", priority(Level::ERROR))).collect(),
        Reader::Terminal | Reader::File => report,
    }
}

/// Who reads standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    /// The journal, which has the time itself and takes the priority from a line's beginning.
    Journal,
    /// A person, who may have colours.
    Terminal,
    /// Anything else.
    File,
}

impl Reader {
    fn of_stderr() -> Self {
        let named = env::read(env::JOURNAL_STREAM);
        let ours = || fstat(rustix::stdio::stderr()).ok().map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        if named.is_some() && named == ours() {
            Self::Journal
        } else if std::io::stderr().is_terminal() && env::read(env::NO_COLOR).is_none() {
            Self::Terminal
        } else {
            Self::File
        }
    }
}

/// The priority of a line as sd-daemon(3) has it.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// The colour of a level, as ANSI has it.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        _ => 35,
    }
}

/// Makes lines of events.
struct Lines {
    format: Format,
    to: Reader,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let line = match self.format {
            Format::Text => self.text(jiff::Timestamp::now(), level, target, &said),
            Format::Json => self.json(jiff::Timestamp::now(), level, target, &said),
        };
        writeln!(writer, "{line}")
    }
}

impl Lines {
    fn text(&self, now: jiff::Timestamp, level: Level, target: &str, said: &Said) -> String {
        let mut line = match self.to {
            Reader::Journal => priority(level).to_owned(),
            Reader::Terminal => format!("\x1b[2m{now:.3}\x1b[0m \x1b[{}m{level:>5}\x1b[0m ", colour(level)),
            Reader::File => format!("{now:.3} {level:>5} "),
        };
        line.push_str(target);
        line.push_str(": ");
        encode(&said.message, &mut line);
        for (name, value) in &said.fields {
            line.push(' ');
            line.push_str(name);
            line.push('=');
            value_as_text(value, &mut line);
        }
        line
    }

    fn json(&self, now: jiff::Timestamp, level: Level, target: &str, said: &Said) -> String {
        let priority = if self.to == Reader::Journal { priority(level) } else { "" };
        let fields: serde_json::Map<String, Value> =
            said.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let (target, message) = (Value::from(target), Value::from(said.message.as_str()));
        let fields = Value::from(fields);
        let line = format!(
            r#"{{"timestamp":"{now:.3}","level":"{level}","target":{target},"message":{message},"fields":{fields}}}"#
        );
        format!("{priority}{}", escaped(&line))
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Said {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.push((field.name(), value.into()));
    }

    fn add_text(&mut self, field: &Field, text: &str) {
        let text = cut(text);
        match field.name() {
            "message" => self.message = text,
            _ => self.add(field, text),
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
}

/// At most [`VALUE_MAX`] characters.
fn cut(text: &str) -> String {
    match text.char_indices().nth(VALUE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A value bare where that is clear, else in quotes.
fn value_as_text(value: &Value, line: &mut String) {
    let Value::String(text) = value else {
        // Writing to a String cannot fail.
        let _ = write!(line, "{value}");
        return;
    };
    if !text.is_empty() && !text.contains([' ', '"', '\\', '=']) && !text.chars().any(is_hidden) {
        return line.push_str(text);
    }
    line.push('"');
    encode(&text.replace('\\', "\\\\").replace('"', "\\\""), line);
    line.push('"');
}

/// Appends text with every hidden character written as Rust writes it in a literal: `\n`, `\u{202e}`.
fn encode(text: &str, line: &mut String) {
    for c in text.chars() {
        if is_hidden(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
}

/// JSON with the hidden characters escaped that it may hold as they are. They stand in strings only.
fn escaped(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) {
            // All of them lie in the basic plane: four digits are enough. Writing to a String cannot fail.
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends a line, colours, turns the direction of writing, and pretends to be another line.
    const HOSTILE: &str = "a\nb\r\x1b[31m\u{9b}2J\u{202e}\u{2028}\t\"q\" \\ ERROR x: y=1";

    fn said() -> Said {
        let fields = vec![
            ("plain", Value::from("jira")),
            ("count", Value::from(3)),
            ("empty", Value::from("")),
            ("detail", Value::from(HOSTILE)),
        ];
        Said { message: format!("it is {HOSTILE}"), fields }
    }

    fn line(format: Format, to: Reader) -> String {
        let lines = Lines { format, to };
        let now = "2026-11-23T10:00:00.1239Z".parse().unwrap();
        match format {
            Format::Text => lines.text(now, Level::WARN, "tokenkeep", &said()),
            Format::Json => lines.json(now, Level::WARN, "tokenkeep", &said()),
        }
    }

    #[test]
    fn no_character_from_outside_reaches_a_reader_as_it_is() {
        for format in [Format::Text, Format::Json] {
            for to in [Reader::File, Reader::Journal] {
                let line = line(format, to);
                assert!(!line.chars().any(is_hidden), "{line:?}");
            }
        }
    }

    #[test]
    fn text_says_time_level_target_message_and_fields() {
        let text = line(Format::Text, Reader::File);
        assert!(text.starts_with(r"2026-11-23T10:00:00.123Z  WARN tokenkeep: it is a\nb\r\u{1b}[31m"), "{text}");
        assert!(text.contains(r#" plain=jira count=3 empty="" detail="a\nb\r\u{1b}[31m\u{9b}2J\u{202e}"#), "{text}");
        assert!(text.ends_with(r#"\t\"q\" \\ ERROR x: y=1""#), "{text}");
    }

    #[test]
    fn json_gives_back_what_went_in() {
        let json: Value = serde_json::from_str(&line(Format::Json, Reader::File)).unwrap();
        assert_eq!(json["timestamp"], "2026-11-23T10:00:00.123Z");
        assert_eq!((&json["level"], &json["target"]), (&"WARN".into(), &"tokenkeep".into()));
        assert_eq!(json["message"], format!("it is {HOSTILE}"));
        assert_eq!(json["fields"]["detail"], HOSTILE);
        assert_eq!(json["fields"]["count"], 3);
    }

    #[test]
    fn the_journal_gets_priorities_and_no_second_time() {
        let text = line(Format::Text, Reader::Journal);
        assert!(text.starts_with("<4>tokenkeep: it is"), "{text}");
        assert!(line(Format::Json, Reader::Journal).starts_with(r#"<4>{"timestamp""#));
        assert_eq!(
            [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(priority),
            ["<3>", "<4>", "<6>", "<7>", "<7>"]
        );
    }

    #[test]
    fn a_value_has_a_most() {
        assert_eq!(cut("short"), "short");
        let cut = cut(&"ä".repeat(VALUE_MAX + 1));
        assert_eq!((cut.chars().count(), cut.ends_with("ä…")), (VALUE_MAX + 1, true));
    }

    #[test]
    fn a_format_is_one_of_two() {
        assert_eq!(("text".parse(), "json".parse()), (Ok(Format::Text), Ok(Format::Json)));
        assert!("JSON".parse::<Format>().unwrap_err().contains("text or json"));
    }
}
