//! Questions to whoever sits at the terminal.

use crate::error::CliError;
use crate::output::say_on;
use std::io::{BufRead, IsTerminal as _};

/// Refuses to go on where nobody can be asked. `why` is what makes the question needed.
///
/// # Errors
/// Standard input is no terminal.
pub fn somebody_is_there(why: &str) -> Result<(), CliError> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(CliError::usage(format!("{why}, and nobody can be asked here")).next_step("say --yes"))
}

/// Asks on standard error; anything but a yes is a no.
pub fn ask(question: &str) -> bool {
    say_on!("{question} [y/N] ");
    is_yes(&mut std::io::stdin().lock())
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
