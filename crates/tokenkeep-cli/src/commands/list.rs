//! `tokenkeep list`: the connections of a namespace.

use super::{client, exit_of};
use crate::api::json::ConnectionJson;
use crate::cli::{Common, listing, with};
use crate::error::{CliError, Exit};
use crate::output::say;
use crate::output::{self, Column, Field, relative};
use clap::Args;
use clap::builder::PossibleValuesParser;
use tokenkeep_core::model::Status;

/// Of `list`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep list
  tokenkeep list --status needs_reauth,held
  tokenkeep list --provider jira --query team- --label owner=ops
  tokenkeep list --json | jq -r '.[].name'")]
pub struct ListArgs {
    /// Only these statuses, separated by commas
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = PossibleValuesParser::new(statuses()))]
    pub status: Vec<String>,
    /// Only this provider
    #[arg(long, value_name = "P")]
    pub provider: Option<String>,
    /// Only names that contain this text
    #[arg(short, long, value_name = "TEXT")]
    pub query: Option<String>,
    /// Only those with this label; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::cli::label)]
    pub label: Vec<(String, String)>,
    /// An array of connections as JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints a table, or an array as JSON.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub fn run(common: &Common, args: &ListArgs) -> Result<Exit, CliError> {
    let mut connections: Vec<ConnectionJson> = client(common)?.pages(&target(common, args))?;
    connections.retain(|connection| args.label.iter().all(|(key, value)| connection.labels.get(key) == Some(value)));
    if args.json {
        output::write_json(&connections)?;
    } else if connections.is_empty() && is_filtered(args) {
        say!("no connection is like that; `tokenkeep list` shows all");
    } else if connections.is_empty() {
        say!("no connections; `tokenkeep import NAME --provider P` makes one");
    } else {
        output::write(&table(&connections, output::now_ms(), output::width()))?;
    }
    Ok(exit_of(&connections))
}

fn statuses() -> [&'static str; Status::ALL.len()] {
    Status::ALL.map(Status::as_str)
}

fn is_filtered(args: &ListArgs) -> bool {
    !(args.status.is_empty() && args.label.is_empty() && args.provider.is_none() && args.query.is_none())
}

fn target(common: &Common, args: &ListArgs) -> String {
    let mut target = listing(&common.namespace);
    let status = Some(args.status.join(",")).filter(|status| !status.is_empty());
    for (name, value) in [("status", &status), ("provider", &args.provider), ("q", &args.query)] {
        if let Some(value) = value {
            target = with(target, name, value);
        }
    }
    target
}

/// The columns of [`table`].
const COLUMNS: [Column; 6] = [
    Column { title: "NAME", expendable: 0 },
    Column { title: "PROVIDER", expendable: 3 },
    Column { title: "STATUS", expendable: 0 },
    Column { title: "EXPIRES", expendable: 1 },
    Column { title: "REFRESH", expendable: 2 },
    Column { title: "GENERATION", expendable: 4 },
];

/// A line for each connection, of at most `width` characters.
#[must_use]
pub fn table<'a>(
    connections: impl IntoIterator<Item = &'a ConnectionJson>,
    now_ms: i64,
    width: Option<usize>,
) -> String {
    let rows: Vec<Vec<Field>> = connections.into_iter().map(|connection| row(connection, now_ms)).collect();
    output::fitted(&COLUMNS, &rows, width)
}

fn row(connection: &ConnectionJson, now_ms: i64) -> Vec<Field> {
    vec![
        Field::Text(connection.name.clone()),
        Field::Text(connection.provider.clone()),
        Field::Status(connection.status.clone()),
        Field::Text(relative(connection.access_expires_at.as_deref(), now_ms)),
        Field::Text(relative(connection.refresh_due_at.as_deref(), now_ms)),
        Field::Text(connection.generation.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_status;
    use super::*;
    use crate::api::json::parse_time;

    #[test]
    fn a_line_tells_what_is_next() {
        let now = parse_time("2026-11-23T10:00:00Z").unwrap().as_millis();
        assert_eq!(
            table(&[with_status("fresh")], now, None),
            "NAME  PROVIDER   STATUS  EXPIRES   REFRESH  GENERATION\n\
             jira  atlassian  fresh   in 1h 0m  in 40m   3\n"
        );
        assert_eq!(table(&[with_status("fresh")], now, Some(30)), "NAME  STATUS  EXPIRES\njira  fresh   in 1h 0m\n");
    }
}
