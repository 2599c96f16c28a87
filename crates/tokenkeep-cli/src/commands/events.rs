//! `tokenkeep events`: the history, and with `--follow` what happens.

use super::client;
use crate::api::json::{EventJson, Page, parse_time};
use crate::cli::{Common, shown};
use crate::client::{Client, encode};
use crate::error::{CliError, Exit};
use crate::{output, span};
use clap::Args;
use std::time::Duration;
use tokenkeep_core::Timestamp;

/// Of `events`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep events --since 1h
  tokenkeep events jira --follow
  tokenkeep events --follow --json | jq -r .message")]
pub struct EventsArgs {
    /// Only this connection; without it, events of every namespace
    #[arg(value_parser = crate::cli::name)]
    pub name: Option<String>,
    /// Go on with what happens, until interrupted; without --since, from now on
    #[arg(long, short)]
    pub follow: bool,
    /// From this time on: 2026-11-23T10:00:00Z, or a span before now such as 1h
    #[arg(long, value_name = "T")]
    pub since: Option<String>,
    /// A line of JSON for each event
    #[arg(long)]
    pub json: bool,
}

/// How often `--follow` asks.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// How many events one request brings.
const PAGE: usize = 1_000;

/// Prints events, oldest first.
///
/// # Errors
/// The daemon does not answer.
pub fn run(common: &Common, args: &EventsArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    let base = base_target(common, args, output::now_ms())?;
    let mut after = 0;
    loop {
        let more = print_page(&client, &base, &mut after, args.json)?;
        match (more, args.follow) {
            (true, _) => {}
            (false, true) => std::thread::sleep(POLL_EVERY),
            (false, false) => return Ok(Exit::Ok),
        }
    }
}

/// True when more is waiting.
fn print_page(client: &Client, base: &str, after: &mut u64, json: bool) -> Result<bool, CliError> {
    let page: Page<EventJson> = client.get(&format!("{base}&after={after}"))?.json()?;
    for event in &page.items {
        *after = event.id;
        if json {
            output::write_json_line(event)?;
        } else {
            output::write(&line(event))?;
        }
    }
    Ok(page.next_cursor.is_some())
}

fn base_target(common: &Common, args: &EventsArgs, now_ms: i64) -> Result<String, CliError> {
    let mut target = format!("/v1/events?limit={PAGE}");
    if let Some(name) = &args.name {
        target.push_str(&format!("&connection={}&namespace={}", encode(name), encode(&common.namespace)));
    }
    let since = match (&args.since, args.follow) {
        (Some(text), _) => Some(parse_since(text, now_ms)?),
        // What happened before is asked for with --since.
        (None, true) => Some(Timestamp::from_millis(now_ms)),
        (None, false) => None,
    };
    if let Some(since) = since
        && let Ok(date) = jiff::Timestamp::from_millisecond(since.as_millis())
    {
        target.push_str(&format!("&since={}", encode(&date.to_string())));
    }
    Ok(target)
}

fn parse_since(text: &str, now_ms: i64) -> Result<Timestamp, CliError> {
    if let Ok(span) = span::parse(text) {
        return Ok(Timestamp::from_millis(now_ms) - span);
    }
    parse_time(text).ok_or_else(|| {
        CliError::usage("--since is neither a time nor a span of time")
            .next_step("expected 2026-11-23T10:00:00Z, or a span before now such as 1h")
    })
}

/// An event as people read it.
#[must_use]
pub fn line(event: &EventJson) -> String {
    let namespace = event.namespace.as_deref().unwrap_or_default();
    let connection = event.connection.as_deref().map(|name| shown(namespace, name));
    format!(
        "{}  {:<26}  {}  {}\n",
        event.at.as_deref().unwrap_or("-"),
        event.r#type,
        connection.as_deref().unwrap_or("-"),
        event.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn asked(line: &str) -> Result<String, Exit> {
        let words = std::iter::once("tokenkeep").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        let Command::Events(args) = &cli.command else { panic!("another command") };
        base_target(&cli.common, args, NOW_MS).map_err(|error| error.exit())
    }

    #[test]
    fn the_history_is_whole_unless_a_time_is_given() {
        assert_eq!(asked("events").unwrap(), "/v1/events?limit=1000");
        assert_eq!(asked("events jira").unwrap(), "/v1/events?limit=1000&connection=jira&namespace=default");
        assert_eq!(asked("events --since 1h").unwrap(), "/v1/events?limit=1000&since=2027-01-15T07:00:00Z");
        assert_eq!(
            asked("events --since 2026-01-01T00:00:00Z").unwrap(),
            "/v1/events?limit=1000&since=2026-01-01T00:00:00Z"
        );
        assert_eq!(asked("events --since yesterday"), Err(Exit::Usage));
    }

    #[test]
    fn following_starts_now() {
        assert_eq!(asked("events -f").unwrap(), "/v1/events?limit=1000&since=2027-01-15T08:00:00Z");
    }
}
