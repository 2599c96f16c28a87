//! `tokenkeep man`: manual pages, one for each command.

use crate::cli::Cli;
use crate::error::{CliError, Exit};
use crate::output::{self, say};
use crate::suggest;
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;
use roff::{Roff, roman};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Of `man`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep man token | man -l -
  tokenkeep man --output ~/.local/share/man/man1")]
pub struct ManArgs {
    /// The command whose page is printed [default: tokenkeep itself]
    #[arg(value_name = "COMMAND", conflicts_with = "output")]
    pub command: Vec<String>,
    /// Write every page into this folder, which is made if it is not there
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// Prints a page, or writes them all.
///
/// # Errors
/// There is no such command, or the folder cannot be written.
pub fn run(args: &ManArgs) -> Result<Exit, CliError> {
    let whole = whole();
    match &args.output {
        None => output::write_bytes(&page(find(&whole, &args.command)?)?)?,
        Some(folder) => write_all(&whole, folder)?,
    }
    Ok(Exit::Ok)
}

/// The command line with the full name of each command in it.
fn whole() -> Command {
    let mut whole = Cli::command();
    whole.build();
    whole
}

fn find<'a>(whole: &'a Command, words: &[String]) -> Result<&'a Command, CliError> {
    words.iter().try_fold(whole, |command, word| {
        command.find_subcommand(word).ok_or_else(|| {
            let names = command.get_subcommands().map(Command::get_name);
            let error = CliError::usage(format!("`{}` has no command `{word}`", full_name(command)));
            match suggest::nearest(word, names) {
                Some(meant) => error.next_step(format!("did you mean `{meant}`?")),
                None => error.next_step("`tokenkeep --help` lists the commands"),
            }
        })
    })
}

fn full_name(command: &Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).to_owned()
}

/// The name of a command's page: `tokenkeep-credential-git`.
fn page_name(command: &Command) -> String {
    full_name(command).replace(' ', "-")
}

fn page(command: &Command) -> Result<Vec<u8>, CliError> {
    let titled = command.clone().display_name(page_name(command)).version(env!("CARGO_PKG_VERSION"));
    let mut page = Vec::new();
    Man::new(titled).source(concat!("tokenkeep ", env!("CARGO_PKG_VERSION"))).render(&mut page)?;
    page.extend(examples(command).render().into_bytes());
    Ok(page)
}

/// What `--help` shows first: lines that stay as they are.
fn examples(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let Some(help) = command.get_before_help().map(ToString::to_string) else { return roff };
    roff.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in help.lines().filter(|line| *line != "Examples:") {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}

fn write_all(whole: &Command, folder: &Path) -> Result<(), CliError> {
    let pages = commands(whole);
    let unwritable = |path: &Path, error: io::Error| {
        CliError::new(format!("{} cannot be written: {error}", path.display()))
            .next_step("name a folder that this user can write to")
    };
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
    for command in &pages {
        let path = folder.join(format!("{}.1", page_name(command)));
        fs::write(&path, page(command)?).map_err(|error| unwritable(&path, error))?;
    }
    say!("wrote {} pages to {}", pages.len(), folder.display());
    Ok(())
}

/// A command and all below it.
fn commands(command: &Command) -> Vec<&Command> {
    std::iter::once(command).chain(command.get_subcommands().flat_map(commands)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("man/man1");
        write_all(&whole(), &made).unwrap();
        for name in ["tokenkeep", "tokenkeep-token", "tokenkeep-credential-git"] {
            let page = fs::read_to_string(made.join(format!("{name}.1"))).unwrap();
            assert!(page.contains(".TH") && page.contains(".SH EXAMPLES"), "{name}: {page}");
        }
        assert!(write_all(&whole(), &made.join("tokenkeep.1")).unwrap_err().report().contains("cannot be written"));
    }

    #[test]
    fn a_page_is_found_by_the_command_s_words() {
        let whole = whole();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(full_name(find(&whole, &words("credential git")).unwrap()), "tokenkeep credential git");
        assert!(find(&whole, &words("credential gti")).unwrap_err().report().contains("did you mean `git`?"));
    }
}
