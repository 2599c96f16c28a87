//! `tokenkeep list`: the connections of a namespace.

use super::{client, exit_of};
use crate::api::json::ConnectionJson;
use crate::cli::Common;
use crate::client::encode;
use crate::error::{CliError, Exit};
use crate::output::say;
use crate::output::{self, relative, status_cell};
use clap::Args;
use comfy_table::Cell;

/// Of `list`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep list
  tokenkeep list --status needs_reauth,held
  tokenkeep list --json | jq -r '.[].name'")]
pub struct ListArgs {
    /// Only these statuses, separated by commas
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Only this provider
    #[arg(long, value_name = "P")]
    pub provider: Option<String>,
    /// Only names that contain this text
    #[arg(short, long, value_name = "TEXT")]
    pub query: Option<String>,
    /// An array of connections as JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints a table, or an array as JSON.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub fn run(common: &Common, args: &ListArgs) -> Result<Exit, CliError> {
    let connections: Vec<ConnectionJson> = client(common)?.pages(&target(common, args))?;
    if args.json {
        output::write_json(&connections)?;
    } else if connections.is_empty() {
        say!("no connections; `tokenkeep import NAME --provider P` makes one");
    } else {
        output::write(&table(&connections, output::now_ms()))?;
    }
    Ok(exit_of(&connections))
}

fn target(common: &Common, args: &ListArgs) -> String {
    let mut target = format!("/v1/connections?namespace={}", encode(&common.namespace));
    for (name, value) in [("status", &args.status), ("provider", &args.provider), ("q", &args.query)] {
        if let Some(value) = value {
            target.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    target
}

/// A line for each connection.
#[must_use]
pub fn table(connections: &[ConnectionJson], now_ms: i64) -> String {
    let mut table = output::table(&["NAME", "PROVIDER", "STATUS", "EXPIRES", "REFRESH", "GENERATION"]);
    for connection in connections {
        table.add_row([
            Cell::new(&connection.name),
            Cell::new(&connection.provider),
            status_cell(&connection.status),
            Cell::new(relative(connection.access_expires_at.as_deref(), now_ms)),
            Cell::new(relative(connection.refresh_due_at.as_deref(), now_ms)),
            Cell::new(connection.generation),
        ]);
    }
    output::text_of(&table)
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
            table(&[with_status("fresh")], now),
            "NAME  PROVIDER   STATUS  EXPIRES   REFRESH  GENERATION\n\
             jira  atlassian  fresh   in 1h 0m  in 40m   3\n"
        );
    }
}
