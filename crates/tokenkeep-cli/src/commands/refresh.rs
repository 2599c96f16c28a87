//! `tokenkeep refresh NAME`: one attempt, now.

use super::{client, with_suggestion};
use crate::api::json::ConnectionJson;
use crate::api::problem::NEEDS_REAUTH;
use crate::cli::{Common, shown, target};
use crate::client::TIMEOUT;
use crate::error::{CliError, Exit};
use crate::output::say;
use crate::output::{self, relative};
use clap::Args;

/// Of `refresh`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep refresh jira")]
pub struct RefreshArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
    /// Even while an answer is in doubt; it may end the grant
    #[arg(long)]
    pub force: bool,
    /// The connection as JSON
    #[arg(long)]
    pub json: bool,
}

/// Refreshes, and tells what came of it.
///
/// # Errors
/// Nothing was sent, or the attempt failed.
pub fn run(common: &Common, args: &RefreshArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    let body: &[u8] = if args.force { br#"{"force":true}"# } else { b"{}" };
    let target = target(&common.namespace, &args.name, "/refresh");
    let answer = client
        .post_json(&target, body, TIMEOUT)
        .map_err(|error| with_suggestion(error, &client, common, &args.name))?;
    let connection: ConnectionJson = answer.json()?;
    if args.json {
        output::write_json(&connection)?;
    }
    check(answer.status, &connection)?;
    let expires = relative(connection.access_expires_at.as_deref(), output::now_ms());
    let name = shown(&connection.namespace, &connection.name);
    say!("refreshed {name}: generation {}, expires {expires}", connection.generation);
    Ok(Exit::Ok)
}

/// An error for an attempt that brought no token set.
///
/// # Errors
/// It is still in flight, or failed: the exit code says whether trying again helps.
pub fn check(http_status: u16, connection: &ConnectionJson) -> Result<(), CliError> {
    let name = shown(&connection.namespace, &connection.name);
    if http_status == 202 {
        return Err(CliError::temporary(format!("the refresh of `{name}` is still in flight"))
            .next_step(format!("`tokenkeep status {}` shows what comes of it", connection.name)));
    }
    let Some(error) = &connection.last_error else {
        return Ok(());
    };
    let exit = match connection.status.as_str() {
        NEEDS_REAUTH => Exit::NeedsReauth,
        "held" | "paused" => Exit::Error,
        _ => Exit::Temporary,
    };
    Err(CliError::with_exit(exit, format!("`{name}` was not refreshed: it is {}", connection.status))
        .evidence(error.message.clone())
        .next_step(error.next_action.clone()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_status;
    use super::*;
    use crate::api::json::LastErrorJson;

    fn exit(http_status: u16, status: &str, failed: bool) -> Exit {
        let error = || LastErrorJson {
            code: "timeout".to_owned(),
            message: "No answer.".to_owned(),
            at: None,
            next_action: "Wait.".to_owned(),
        };
        let connection = ConnectionJson { last_error: failed.then(error), ..with_status(status) };
        check(http_status, &connection).map_or_else(|error| error.exit(), |()| Exit::Ok)
    }

    #[test]
    fn the_outcome_decides_the_exit_code() {
        assert_eq!(exit(200, "fresh", false), Exit::Ok);
        assert_eq!(exit(200, "needs_reauth", true), Exit::NeedsReauth);
        assert_eq!(exit(200, "retrying", true), Exit::Temporary);
        assert_eq!(exit(200, "in_doubt", true), Exit::Temporary);
        assert_eq!(exit(200, "held", true), Exit::Error);
        assert_eq!(exit(202, "refreshing", false), Exit::Temporary);
    }
}
