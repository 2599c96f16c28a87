//! `tokenkeep exec NAME -- COMMAND`: a command with a valid access token in its environment.

use super::token::{self, Wanted};
use crate::api::json::TokenJson;
use crate::cli::Common;
use crate::env;
use crate::error::{CliError, Exit};
use clap::Args;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;

/// Of `exec`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep exec jira -- ./sync.py
  tokenkeep exec jira --min-ttl 10m -- sh -c 'curl -H \"Authorization: Bearer $ACCESS_TOKEN\" https://api.atlassian.com/me'

COMMAND finds the token in ACCESS_TOKEN, and in ACCESS_TOKEN_EXPIRES_AT when it ends (RFC 3339; not set
where nobody knows). The token does not follow a refresh: for work that outlives it, ask `tokenkeep token`
when it is needed. The exit code is COMMAND's, 127 where there is none, 126 where it cannot be run.")]
pub struct ExecArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
    /// How fresh.
    #[command(flatten)]
    pub wanted: Wanted,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Becomes the command.
///
/// # Errors
/// There is no token, or the command cannot be started.
pub fn run(common: &Common, args: &ExecArgs) -> Result<Exit, CliError> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(CliError::usage("expected a command after `--`"));
    };
    let answer = token::fetch(common, &args.name, args.wanted)?;
    let token: TokenJson<'_> = answer.json()?;
    token::say_warnings(&token);
    let mut command = Command::new(program);
    command.args(arguments).env(env::ACCESS_TOKEN, &*token.access_token);
    match &token.expires_at {
        Some(at) => command.env(env::ACCESS_TOKEN_EXPIRES_AT, at),
        // One of another token would mislead.
        None => command.env_remove(env::ACCESS_TOKEN_EXPIRES_AT),
    };
    Err(not_started(Path::new(program), &become_it(command)))
}

/// Replaces this process, so that signals, terminal and exit code are the command's own. Returns only when it fails.
#[cfg(unix)]
fn become_it(mut command: Command) -> io::Error {
    std::os::unix::process::CommandExt::exec(&mut command)
}

/// Runs the command and ends with its exit code. Returns only when it cannot be started.
#[cfg(not(unix))]
fn become_it(mut command: Command) -> io::Error {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

fn not_started(program: &Path, error: &io::Error) -> CliError {
    let shown = program.display();
    if error.kind() == io::ErrorKind::NotFound {
        return CliError::with_exit(Exit::CommandNotFound, format!("there is no command `{shown}`"))
            .evidence(error.to_string())
            .next_step("check its name; one that is not on PATH needs its path, a script also its interpreter");
    }
    CliError::with_exit(Exit::NotExecutable, format!("the command `{shown}` cannot be run"))
        .evidence(error.to_string())
        .next_step("make it executable, or name its interpreter first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_start_ends_as_in_a_shell() {
        for (kind, exit) in [
            (io::ErrorKind::NotFound, Exit::CommandNotFound),
            (io::ErrorKind::PermissionDenied, Exit::NotExecutable),
            (io::ErrorKind::Other, Exit::NotExecutable),
        ] {
            let error = not_started(Path::new("mend"), &kind.into());
            assert_eq!(error.exit(), exit);
            assert!(error.report().contains("`mend`") && error.report().contains("next: "), "{}", error.report());
        }
    }
}
