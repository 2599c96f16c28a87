//! `tokenkeep master-key`: which key seals everything, and a new one for it.

use super::client;
use crate::api::json::{KeyJson, RotationJson};
use crate::cli::Common;
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::output::{self, say, say_on};
use clap::{Args, Subcommand};
use std::io::IsTerminal as _;
use std::time::Duration;

/// How often it is asked how far a rotation is.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Of `master-key`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep master-key rotate      a new key for everything, while everything goes on
  tokenkeep master-key status")]
pub struct MasterKeyArgs {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done about the master key.
#[derive(Subcommand, Debug)]
pub enum Action {
    /// Seal everything under a new key; nothing then opens with the former one
    #[command(before_help = "Examples:
  tokenkeep master-key rotate
  tokenkeep master-key rotate && tokenkeep backup --output tokenkeep.backup

Tokens are served and refreshed meanwhile. Interrupting this command does not stop the rotation, nor does a
restart of the daemon. Backups made before open with the former key alone: keep it for as long as you keep them.")]
    Rotate,
    /// Which key is in use, where it comes from, and how far its rotation is
    #[command(before_help = "Examples:
  tokenkeep master-key status
  tokenkeep master-key status --json")]
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Rotates the master key, or shows it as far as it may be shown.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub fn run(common: &Common, args: &MasterKeyArgs) -> Result<Exit, CliError> {
    match args.action {
        Action::Rotate => rotate(&common.socket_client("master-key rotate")?),
        Action::Status { json } => status(&client(common)?, json),
    }
}

const TARGET: &str = "/v1/admin/master-key";

fn rotate(client: &Client) -> Result<Exit, CliError> {
    let mut state: KeyJson = client.post("/v1/admin/master-key/rotate")?.json()?;
    let on_terminal = std::io::stderr().is_terminal();
    let mut told = None;
    while let Some(rotation) = &state.rotation {
        let text = progress(rotation);
        if on_terminal {
            say_on!("\r\x1b[K{text}");
        } else if rotation.waits_for.is_some() && rotation.waits_for != told {
            say!("{text}");
        }
        told.clone_from(&rotation.waits_for);
        std::thread::sleep(ASK_EVERY);
        state = client.get(TARGET)?.json()?;
    }
    if on_terminal {
        say_on!("\r\x1b[K");
    }
    say!("rotated: everything is sealed under key {}, and the former key opens nothing any more", state.key_id);
    if let Some(file) = &state.take_over_from {
        say!("next: put the content of {file} where the daemon takes its key from ({}), and restart it", state.source);
    }
    Ok(Exit::Ok)
}

/// One line on how far a rotation is.
pub(super) fn progress(rotation: &RotationJson) -> String {
    let RotationJson { total, resealed, journal_places, waits_for, .. } = rotation;
    let mut text = match (resealed < total, journal_places) {
        (true, _) => format!("{resealed} of {total} token sets are sealed anew"),
        (false, 0) => format!("all {total} token sets are sealed anew; finishing"),
        (false, left) => format!("all {total} token sets are sealed anew; waiting for {left} places of the journal"),
    };
    if rotation.unreadable > 0 {
        text.push_str(&format!("; {} cannot be read (`tokenkeep events`)", rotation.unreadable));
    }
    if let Some(cause) = waits_for {
        text.push_str(&format!("; held up: {cause}"));
    }
    text
}

fn status(client: &Client, json: bool) -> Result<Exit, CliError> {
    let state: KeyJson = client.get(TARGET)?.json()?;
    if json {
        output::write_json(&state)?;
        return Ok(Exit::Ok);
    }
    let mut text = format!("key       {}\nfrom      {}\n", state.key_id, state.source);
    if let Some(rotation) = &state.rotation {
        text.push_str(&format!("rotation  {}\n", progress(rotation)));
    }
    if let Some(file) = &state.take_over_from {
        text.push_str(&format!("next      put the content of {file} there, and restart the daemon\n"));
    }
    output::write(&text)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_it_waits_for() {
        let mut rotation = RotationJson { total: 1_000, resealed: 256, ..RotationJson::default() };
        assert_eq!(progress(&rotation), "256 of 1000 token sets are sealed anew");
        rotation.resealed = 1_000;
        rotation.journal_places = 2;
        assert!(progress(&rotation).ends_with("waiting for 2 places of the journal"));
        rotation.unreadable = 1;
        rotation.waits_for = Some("the disk is full".to_owned());
        assert!(progress(&rotation).ends_with("1 cannot be read (`tokenkeep events`); held up: the disk is full"));
    }
}
