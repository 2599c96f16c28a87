//! `tokenkeep completions SHELL`.

use crate::cli::Cli;
use crate::error::{CliError, Exit};
use crate::output;
use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

/// Of `completions`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep completions bash > ~/.local/share/bash-completion/completions/tokenkeep
  tokenkeep completions zsh > \"${fpath[1]}/_tokenkeep\"
  tokenkeep completions fish > ~/.config/fish/completions/tokenkeep.fish")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "tokenkeep", &mut script);
    output::write_bytes(&script)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_shell_has_a_script_that_knows_the_commands() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            generate(*shell, &mut Cli::command(), "tokenkeep", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["mock-provider", "credential", "docker", "min-ttl"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
