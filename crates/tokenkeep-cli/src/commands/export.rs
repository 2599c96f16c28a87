//! `tokenkeep export NAME`: the whole token set, as a token file. It asks first.

use super::new_file::{self, Existing};
use super::{confirm, with_suggestion};
use crate::cli::{Common, shown, target};
use crate::error::{CliError, Exit};
use crate::output::{self, say};
use clap::Args;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

/// Of `export`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep export jira --output oauth_token.json
  tokenkeep export jira --yes | ssh other tokenkeep import jira --provider jira

What is printed holds the refresh token. Two holders of one rotating refresh token fight: the second to
refresh ends the grant for both. `tokenkeep pause NAME` or `remove NAME` before anybody else uses it.
The daemon's log says that it was exported.")]
pub struct ExportArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
    /// Write a new file, mode 0600, instead of standard output
    #[arg(long, short, value_name = "F")]
    pub output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, requires = "output")]
    pub force: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Prints the token set, or writes it into a file.
///
/// # Errors
/// The answer was no, the daemon does not answer, there is no such connection, or the file cannot be written.
pub fn run(common: &Common, args: &ExportArgs) -> Result<Exit, CliError> {
    let client = common.socket_client("export")?;
    let name = shown(&common.namespace, &args.name);
    let explain = |error| with_suggestion(error, &client, common, &args.name);
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    args.output.as_deref().map_or(Ok(()), |path| may_be_written(path, existing))?;
    if !args.yes {
        confirm::somebody_is_there(&format!("exporting `{name}` gives its refresh token away"))?;
        client.get(&target(&common.namespace, &args.name, "")).map_err(explain)?;
        if !confirm::ask(&question(&name)) {
            return Err(CliError::new("nothing was exported"));
        }
    }
    // Before anything is given away: what cannot be written is not asked for.
    let draft = args.output.as_deref().map(draft).transpose()?;
    let answer = client.post(&target(&common.namespace, &args.name, "/export")).map_err(explain)?;
    let text = Zeroizing::new(answer.body);
    match (&args.output, draft) {
        (Some(path), Some(draft)) => {
            keep(draft, &text, path, existing)?;
            say!("exported {name} to {}", path.display());
        }
        _ => output::write_bytes(&text)?,
    }
    say!("note: pause or remove `{name}` here before another program refreshes with this token set");
    Ok(Exit::Ok)
}

fn question(name: &str) -> String {
    format!(
        "Whoever has this token set can act as `{name}`. Two holders of one rotating refresh token fight: the second to\n\
         refresh ends the grant for both, so `tokenkeep pause` or `tokenkeep remove` it first. Export `{name}`?"
    )
}

fn may_be_written(path: &Path, existing: Existing) -> Result<(), CliError> {
    if path.is_dir() {
        return Err(CliError::new(format!("{} is a folder", path.display())).next_step("name a file with --output"));
    }
    if existing == Existing::Keep && path.symlink_metadata().is_ok() {
        return Err(is_there(path));
    }
    Ok(())
}

fn draft(path: &Path) -> Result<NamedTempFile, CliError> {
    new_file::draft(path).map_err(|error| unwritable(path, &error))
}

fn keep(mut draft: NamedTempFile, text: &[u8], path: &Path, existing: Existing) -> Result<(), CliError> {
    let kept = draft.write_all(text).and_then(|()| new_file::keep(draft, path, existing));
    kept.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => is_there(path),
        _ => unwritable(path, &error),
    })
}

fn is_there(path: &Path) -> CliError {
    CliError::new(format!("{} is there already, and was left as it is", path.display()))
        .next_step("name another file with --output, or replace it with --force")
}

fn unwritable(path: &Path, error: &io::Error) -> CliError {
    CliError::new(format!("{} cannot be written: {error}", path.display()))
        .next_step("name a file in a folder that this user can write to")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn write(path: &Path, existing: Existing) -> Result<(), CliError> {
        may_be_written(path, existing)?;
        keep(draft(path)?, b"{}\n", path, existing)
    }

    #[test]
    fn a_file_is_new_and_its_owner_s_alone_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write(&path, Existing::Keep).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "precious").unwrap();
        assert!(write(&path, Existing::Keep).unwrap_err().report().contains("--force"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        write(&path, Existing::Replace).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        assert!(write(folder.path(), Existing::Replace).unwrap_err().report().contains("is a folder"));
        assert!(write(&folder.path().join("no/f"), Existing::Keep).unwrap_err().report().contains("cannot be written"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half done stays");
    }

    #[test]
    fn a_file_that_came_meanwhile_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let draft = draft(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(keep(draft, b"{}", &path, Existing::Keep).unwrap_err().report().contains("--force"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
