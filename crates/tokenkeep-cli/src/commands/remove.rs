//! `tokenkeep remove NAME`: forgets a connection. It asks first.

use super::{client, with_suggestion};
use crate::cli::{Common, shown, target};
use crate::client::{Request, TIMEOUT};
use crate::error::{CliError, Exit};
use crate::output::{say, say_on};
use clap::Args;
use std::io::{BufRead, IsTerminal as _};

/// Of `remove`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep remove jira
  tokenkeep remove jira --yes")]
pub struct RemoveArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
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
        if !std::io::stdin().is_terminal() {
            return Err(CliError::usage(format!("removing `{name}` cannot be undone, and nobody can be asked here"))
                .next_step("say --yes"));
        }
        // So that a typing error is found before the question, not after it.
        client.get(&target).map_err(explain)?;
        say_on!("Remove `{name}` and wipe its tokens? This cannot be undone. [y/N] ");
        if !is_yes(&mut std::io::stdin().lock()) {
            return Err(CliError::new("nothing was removed"));
        }
    }
    client.send(Request { method: "DELETE", target: &target, body: None, timeout: TIMEOUT }).map_err(explain)?;
    say!("removed {name}");
    Ok(Exit::Ok)
}

fn is_yes(input: &mut impl BufRead) -> bool {
    let mut line = String::new();
    let read = input.read_line(&mut line);
    read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        for (text, yes) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("no\n", false), ("yep\n", false)]
        {
            assert_eq!(is_yes(&mut text.as_bytes()), yes, "{text:?}");
        }
    }
}
