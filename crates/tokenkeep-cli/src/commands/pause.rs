//! `tokenkeep pause` and `tokenkeep resume`.

use super::{client, exit_of, with_suggestion};
use crate::api::json::{ConnectionJson, ResumedJson};
use crate::cli::{Common, shown, target};
use crate::error::{CliError, Exit};
use crate::output::say;
use clap::Args;

/// Of `pause`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep pause jira
  tokenkeep pause jira --namespace team")]
pub struct NameArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
}

/// Of `resume`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep resume jira
  tokenkeep resume --all-sole-copy     after a restore, when no other copy of the database runs")]
pub struct ResumeArgs {
    /// The connection
    #[arg(required_unless_present = "all_sole_copy", conflicts_with = "all_sole_copy", value_parser = crate::cli::name)]
    pub name: Option<String>,
    /// Everything that is held because the database may be a restored copy, in every namespace
    #[arg(long)]
    pub all_sole_copy: bool,
}

/// No refreshes until it is resumed.
///
/// # Errors
/// The daemon does not answer, or there is no such connection.
pub fn pause(common: &Common, args: &NameArgs) -> Result<Exit, CliError> {
    let connection = change(common, &args.name, "/pause")?;
    let name = shown(&connection.namespace, &connection.name);
    say!("paused {name}; `tokenkeep resume {}` goes on", connection.name);
    Ok(Exit::Ok)
}

/// Refreshes again: one connection, or all that a restored database holds.
///
/// # Errors
/// As [`pause`].
pub fn resume(common: &Common, args: &ResumeArgs) -> Result<Exit, CliError> {
    let Some(name) = &args.name else {
        let resumed: ResumedJson = client(common)?.post("/v1/resume-sole-copy")?.json()?;
        say!("resumed {} connections", resumed.resumed);
        return Ok(Exit::Ok);
    };
    let connection = change(common, name, "/resume")?;
    let shown = shown(&connection.namespace, &connection.name);
    say!("resumed {shown}: it is {}", connection.status);
    Ok(exit_of([&connection]))
}

fn change(common: &Common, name: &str, rest: &str) -> Result<ConnectionJson, CliError> {
    let client = client(common)?;
    client
        .post(&target(&common.namespace, name, rest))
        .map_err(|error| with_suggestion(error, &client, common, name))?
        .json()
}
