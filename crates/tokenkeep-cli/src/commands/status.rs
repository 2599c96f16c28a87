//! `tokenkeep status`: what is fresh, what is next, what needs you and why.

mod fleet;
mod screen;
mod watch;

use super::{client, connection, exit_of, list};
use crate::api::json::{ConnectionJson, SummaryJson};
use crate::cli::{Common, listing, shown};
use crate::client::encode;
use crate::error::{CliError, Exit};
use crate::output::{self, relative};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;

/// Of `status`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep status
  tokenkeep status jira
  tokenkeep status --watch                      a live table; q or Ctrl-C ends it
  tokenkeep status --watch --json | jq .status  a line for each change
  tokenkeep status --json | jq .summary")]
pub struct StatusArgs {
    /// One connection, in detail
    #[arg(value_parser = crate::cli::name)]
    pub name: Option<String>,
    /// Go on, until interrupted: on a terminal a live table, else a line for each change
    #[arg(long, short)]
    pub watch: bool,
    /// As JSON: {summary, connections}; with --watch a line for each connection that changes
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Status {
    summary: SummaryJson,
    connections: Vec<ConnectionJson>,
}

/// Prints the state of a namespace, or of one connection.
///
/// # Errors
/// The daemon does not answer, or there is no such connection.
pub fn run(common: &Common, args: &StatusArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    if args.watch {
        return watch::run(&client, common, args);
    }
    let connections = match &args.name {
        Some(name) => vec![connection(&client, common, name)?],
        None => client.pages(&listing(&common.namespace))?,
    };
    let exit = exit_of(&connections);
    if args.name.is_some() && !args.json {
        let now_ms = output::now_ms();
        output::write(&connections.iter().map(|connection| detail(connection, now_ms)).collect::<String>())?;
        return Ok(exit);
    }
    let summary = client.get(&format!("/v1/summary?namespace={}", encode(&common.namespace)))?.json()?;
    let status = Status { summary, connections };
    if args.json {
        output::write_json(&status)?;
    } else {
        output::write(&overview(&status, output::now_ms(), output::width()))?;
    }
    Ok(exit)
}

/// Counts, a line for each connection, and below what needs somebody.
fn overview(status: &Status, now_ms: i64, width: Option<usize>) -> String {
    let Status { summary, connections } = status;
    let mut text = counts(summary, now_ms);
    if let Some(rotation) = &summary.master_key_rotation {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "master key rotation: {}", super::master_key::progress(rotation));
    }
    if !connections.is_empty() {
        let _ = write!(text, "\n{}", list::table(connections, now_ms, width));
    }
    for connection in connections {
        if let Some(error) = &connection.last_error {
            let name = shown(&connection.namespace, &connection.name);
            let _ = write!(text, "\n{name}: {}\n  next: {}\n", error.message, error.next_action);
        }
        if let Some(by) = &connection.sign_in_by {
            let (name, when) = (shown(&connection.namespace, &connection.name), relative(Some(by), now_ms));
            let _ = write!(text, "\n{name}: its grant ends {when}, at {by}\n  next: {}\n", again(&name));
        }
        for error in connection.token_files.iter().filter_map(|file| file.error.as_ref()) {
            let _ = write!(text, "\n{}: {error}\n", shown(&connection.namespace, &connection.name));
        }
    }
    text
}

fn again(name: &str) -> String {
    format!("Sign in again before that: `tokenkeep connect {name}`.")
}

/// How many there are of each status, and what is next.
fn counts(summary: &SummaryJson, now_ms: i64) -> String {
    let counts = summary.by_status.iter().filter(|(_, count)| **count > 0);
    let counts: Vec<String> = counts.map(|(status, count)| format!("{count} {status}")).collect();
    let noun = if summary.total == 1 { "connection" } else { "connections" };
    let colon = if counts.is_empty() { "" } else { ": " };
    format!(
        "{} {noun}{colon}{}\nnext refresh {}, first expiry {}\n",
        summary.total,
        counts.join(", "),
        relative(summary.next_refresh_at.as_deref(), now_ms),
        relative(summary.earliest_expiry_at.as_deref(), now_ms)
    )
}

/// Everything about one connection, a line each.
fn detail(connection: &ConnectionJson, now_ms: i64) -> String {
    let time = |at: &Option<String>| match at {
        Some(text) => format!("{text} ({})", relative(Some(text), now_ms)),
        None => "-".to_owned(),
    };
    let labels: Vec<String> = connection.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let stats = &connection.stats;
    let lines = [
        ("name", shown(&connection.namespace, &connection.name)),
        ("provider", connection.provider.clone()),
        ("status", connection.status.clone()),
        ("generation", connection.generation.to_string()),
        ("access token ends", time(&connection.access_expires_at)),
        ("next refresh", time(&connection.refresh_due_at)),
        ("refresh token ends", time(&connection.refresh_expires_at)),
        ("consent ends", time(&connection.consent_expires_at)),
        ("sign in again by", connection.sign_in_by.as_ref().map(|_| time(&connection.sign_in_by)).unwrap_or_default()),
        ("last refreshed", time(&connection.last_refreshed_at)),
        ("attempts", format!("{} tried, {} succeeded, {} failed", stats.attempted, stats.succeeded, stats.failed)),
        ("scopes", connection.scopes.join(" ")),
        ("labels", labels.join(" ")),
        ("one grant with", connection.shares_grant_with.join(" ")),
    ];
    let mut text = String::new();
    for (title, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{title:<20}{value}");
    }
    for file in &connection.token_files {
        let written = file.written_at.as_ref().map(|_| format!(", written {}", time(&file.written_at)));
        let _ = writeln!(text, "{:<20}{}{}", "token file", file.path, written.unwrap_or_default());
        if let Some(error) = &file.error {
            let _ = writeln!(text, "{:<20}{error}", "");
        }
    }
    if let Some(error) = &connection.last_error {
        let _ = writeln!(text, "{:<20}{} ({})", "last error", error.message, error.code);
        let _ = writeln!(text, "{:<20}{}", "when", time(&error.at));
        let _ = writeln!(text, "{:<20}{}", "what to do", error.next_action);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_status;
    use super::*;
    use crate::api::json::{LastErrorJson, TokenFileJson, parse_time};
    use std::collections::BTreeMap;

    fn now() -> i64 {
        parse_time("2026-11-23T10:00:00Z").unwrap().as_millis()
    }

    fn failed() -> ConnectionJson {
        let error = LastErrorJson {
            code: "invalid_grant".to_owned(),
            message: "The provider says no.".to_owned(),
            at: None,
            next_action: "Sign in again.".to_owned(),
        };
        ConnectionJson { last_error: Some(error), ..with_status("needs_reauth") }
    }

    #[test]
    fn an_overview_counts_lists_and_says_what_to_do() {
        let summary = SummaryJson {
            total: 1,
            by_status: BTreeMap::from([("fresh".to_owned(), 0), ("needs_reauth".to_owned(), 1)]),
            next_refresh_at: None,
            earliest_expiry_at: Some("2026-11-23T11:00:00Z".to_owned()),
            master_key_rotation: None,
        };
        let text = overview(&Status { summary, connections: vec![failed()] }, now(), None);
        assert!(text.starts_with("1 connection: 1 needs_reauth\nnext refresh -, first expiry in 1h 0m\n"), "{text}");
        assert!(text.ends_with("\njira: The provider says no.\n  next: Sign in again.\n"), "{text}");
    }

    #[test]
    fn a_token_file_that_is_not_current_is_told_of() {
        let file = TokenFileJson {
            path: "/app/token.json".to_owned(),
            written_at: Some("2026-11-23T09:59:00Z".to_owned()),
            error: Some("The token file /app/token.json is not current.".to_owned()),
        };
        let connection = ConnectionJson { token_files: vec![file], ..with_status("fresh") };
        let text = detail(&connection, now());
        let said = "token file          /app/token.json, written 2026-11-23T09:59:00Z (1m 0s ago)\n";
        assert!(text.contains(said) && text.contains("                    The token file /app"), "{text}");
        let summary = SummaryJson {
            total: 1,
            by_status: BTreeMap::new(),
            next_refresh_at: None,
            earliest_expiry_at: None,
            master_key_rotation: None,
        };
        let text = overview(&Status { summary, connections: vec![connection] }, now(), None);
        assert!(text.ends_with("\njira: The token file /app/token.json is not current.\n"), "{text}");
    }

    #[test]
    fn a_detail_leaves_out_what_there_is_not() {
        let text = detail(&failed(), now());
        assert!(text.contains("status              needs_reauth\n"), "{text}");
        assert!(text.contains("labels              team=a\n"), "{text}");
        assert!(text.contains("what to do          Sign in again.\n"), "{text}");
        let bare = ConnectionJson { labels: BTreeMap::new(), ..with_status("fresh") };
        assert!(!detail(&bare, now()).contains("labels"));
    }
}
