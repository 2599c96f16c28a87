//! `tokenkeep restore`: a backup into a new state folder.

use super::serve;
use crate::api::json::wall_text;
use crate::cli::Common;
use crate::error::{CliError, Exit};
use crate::output::say;
use clap::Args;
use std::path::PathBuf;
use tokenkeep::Error;
use tokenkeep::backup::BackupError;
use tokenkeep::keys;

/// Of `restore`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep restore tokenkeep.backup --key-file vault/master.key --state-dir /var/lib/tokenkeep
  tokenkeep restore tokenkeep.backup --config tokenkeep.toml      the key is where the configuration says

The state folder must be new or empty; it may hold the master.key alone. The whole backup is checked before
anything is written. What was restored starts held where refresh tokens rotate: they may have been used since,
by whatever the backup was made of. `tokenkeep resume NAME` tries one, and where no other copy runs,
`tokenkeep resume --all-sole-copy` all.")]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "F")]
    pub backup: PathBuf,
    /// The master key that was in use when the backup was made; it is copied into the state folder
    #[arg(long, value_name = "K", conflicts_with = "config")]
    pub key_file: Option<PathBuf>,
    /// The configuration that says where the master key comes from
    #[arg(long, value_name = "C")]
    pub config: Option<PathBuf>,
}

/// Restores a backup; no daemon is needed, and none may use the folder.
///
/// # Errors
/// Something is wrong with the backup, the key or the folder; nothing was changed.
pub fn run(common: &Common, args: &RestoreArgs) -> Result<Exit, CliError> {
    let state_dir = common.state_dir()?;
    let source = match &args.config {
        Some(path) => serve::settings(path, &state_dir)?.master_key,
        None => keys::KeySource::default(),
    };
    let key = args.key_file.as_deref().map(keys::read_file).transpose().map_err(|error| explain(error.into()))?;
    let restored = tokenkeep::backup::restore(&args.backup, &state_dir, source, key).map_err(explain)?;
    let made_at = wall_text(restored.made_at).unwrap_or_default();
    say!("restored the backup of {made_at} ({} bytes) into {}", restored.bytes, state_dir.display());
    say!("next: start the daemon; what rotates its refresh tokens is held until `tokenkeep resume` frees it");
    Ok(Exit::Ok)
}

fn explain(error: Error) -> CliError {
    let next = match &error {
        Error::Key(_) => "give the key that was in use when the backup was made: --key-file K; nothing was changed",
        Error::Backup(BackupError::OtherKey { .. }) => {
            "nothing was changed; find the right key and give it with --key-file K"
        }
        Error::Backup(BackupError::NotEmpty { .. }) => "name a new folder with --state-dir; nothing was changed",
        Error::Backup(_) => "nothing was changed",
        _ => return error.into(),
    };
    CliError::new(error.to_string()).next_step(next)
}
