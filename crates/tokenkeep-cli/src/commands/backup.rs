//! `tokenkeep backup`: one sealed file with everything but the master key.

use super::new_file::{self, Existing};
use crate::cli::Common;
use crate::client::{Client, Received};
use crate::error::{CliError, Exit};
use crate::output::say;
use clap::Args;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the daemon may take to copy the database before the backup begins to come.
const COPY_MAX: Duration = Duration::from_secs(600);

/// Of `backup`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep backup --output tokenkeep.backup
  tokenkeep backup --output - | ssh vault 'cat > tokenkeep.backup'

The backup is sealed and opens only with the master key, which is not in it: keep a copy of the key
(`master.key` in the state folder, unless the configuration says otherwise) in another place.")]
pub struct BackupArgs {
    /// Where to write it: a new file, or `-` for standard output
    #[arg(long, short, value_name = "F")]
    pub output: PathBuf,
}

/// Writes a backup.
///
/// # Errors
/// The daemon does not answer, the file exists or cannot be written; then nothing is left.
pub fn run(common: &Common, args: &BackupArgs) -> Result<Exit, CliError> {
    let client = common.socket_client("backup")?;
    if args.output == Path::new("-") {
        return to_stdout(&client);
    }
    let output = &args.output;
    let failed = |error: io::Error| {
        CliError::new(format!("{} cannot be written: {error}", output.display()))
            .next_step("name a new file in a folder that this user can write, with room for the whole database")
    };
    if output.symlink_metadata().is_ok() {
        return Err(exists(output));
    }
    let mut draft = new_file::draft(output).map_err(failed)?;
    let bytes = receive(&client, &mut draft, failed)?;
    new_file::keep(draft, output, Existing::Keep).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(output),
        _ => failed(error),
    })?;
    say!("wrote {bytes} bytes to {}; they open only with the master key, which is not in them", output.display());
    Ok(Exit::Ok)
}

fn exists(output: &Path) -> CliError {
    CliError::new(format!("{} exists already, and is not overwritten", output.display()))
        .next_step("name a new file with --output, or remove the old one")
}

fn to_stdout(client: &Client) -> Result<Exit, CliError> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        return Err(CliError::usage("a backup is not for a terminal")
            .next_step("name a file with --output, or pipe it somewhere"));
    }
    receive(client, &mut out, |error| match error.kind() {
        // Elsewhere that is no failure of ours; half a backup is one.
        io::ErrorKind::BrokenPipe => {
            CliError::new("whoever reads standard output went away before the backup was whole")
                .next_step("what was written is no backup; make another")
        }
        _ => error.into(),
    })?;
    Ok(Exit::Ok)
}

fn receive(client: &Client, into: &mut impl Write, failed: impl Fn(io::Error) -> CliError) -> Result<u64, CliError> {
    match client.receive("/v1/admin/backup", COPY_MAX, into)? {
        Received::Whole(bytes) => into.flush().map(|()| bytes).map_err(failed),
        Received::NotTaken(error) => Err(failed(error)),
    }
}
