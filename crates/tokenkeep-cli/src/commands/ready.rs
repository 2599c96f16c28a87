//! `tokenkeep ready`: whether the daemon does its work, for whoever restarts it.

use super::client;
use crate::cli::Common;
use crate::error::{CliError, Exit};
use crate::output;
use clap::Args;

/// Of `ready`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep ready                                       HEALTHCHECK of a container
  tokenkeep ready --live                                a liveness probe: a full disk is no reason to restart
  until tokenkeep ready 2>/dev/null; do sleep 1; done   wait for the daemon

Ready: the store can be written, the key is loaded, the scheduler moves. A provider that is down, or a connection that
needs a sign-in, changes nothing: `status` tells about those.")]
pub struct ReadyArgs {
    /// Only whether the process answers
    #[arg(long)]
    pub live: bool,
}

/// Prints `ready`, or `live`.
///
/// # Errors
/// No daemon answers, or it cannot do its work now: exit code 75.
pub fn run(common: &Common, args: &ReadyArgs) -> Result<Exit, CliError> {
    let (path, said) = if args.live { ("/livez", "live\n") } else { ("/readyz", "ready\n") };
    client(common)?.get(path)?;
    output::write(said)?;
    Ok(Exit::Ok)
}
