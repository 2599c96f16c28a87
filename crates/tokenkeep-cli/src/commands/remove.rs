//! `tokenkeep remove NAME`: forgets a connection. It asks first.

use super::{client, confirm, with_suggestion};
use crate::api::json::ConnectionJson;
use crate::cli::{Common, shown, target, with};
use crate::client::{Request, TIMEOUT};
use crate::error::{CliError, Exit};
use crate::output::say;
use clap::Args;

/// Of `remove`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep remove jira
  tokenkeep remove jira --revoke       ends the grant at the provider, too
  tokenkeep remove jira --yes")]
pub struct RemoveArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
    /// End the grant at the provider first; where that fails nothing is removed
    #[arg(long)]
    pub revoke: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Removes a connection.
///
/// # Errors
/// The answer was no, or the daemon does not answer, or there is no such connection.
pub fn run(common: &Common, args: &RemoveArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    let name = shown(&common.namespace, &args.name);
    let target = target(&common.namespace, &args.name, "");
    let explain = |error| with_suggestion(error, &client, common, &args.name);
    if !args.yes {
        confirm::somebody_is_there(&format!("removing `{name}` cannot be undone"))?;
        // So that a typing error is found before the question, not after it.
        let connection: ConnectionJson = client.get(&target).map_err(explain)?.json()?;
        let ends = ends_too(args, &connection.shares_grant_with);
        if !confirm::ask(&format!("Remove `{name}` and wipe its tokens?{ends} This cannot be undone.")) {
            return Err(CliError::new("nothing was removed"));
        }
    }
    let asked = if args.revoke { with(target, "revoke", "true") } else { target };
    client.send(Request { method: "DELETE", target: &asked, body: None, timeout: TIMEOUT * 5 }).map_err(explain)?;
    say!("{} {name}", if args.revoke { "revoked and removed" } else { "removed" });
    Ok(Exit::Ok)
}

/// What revoking ends besides.
fn ends_too(args: &RemoveArgs, sharing: &[String]) -> String {
    if !args.revoke || sharing.is_empty() {
        return String::new();
    }
    format!(" Revoking also ends {}, which share its grant.", sharing.join(", "))
}
