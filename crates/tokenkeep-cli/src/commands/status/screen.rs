//! The terminal as a screen: taken over, drawn on, and given back as it was.

use crate::error::CliError;
use crate::output;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal as _, stdin};

/// The other screen, without cursor, and without lines that run over their end.
const TAKE: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// What [`TAKE`] did, undone.
const GIVE_BACK: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// What a terminal has that does not say.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// A terminal that was taken over. Dropping it gives it back.
pub struct Screen {
    /// How the keyboard was, where there is one.
    keyboard: Option<Termios>,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn take() -> Result<Self, CliError> {
        // From here on, dropping it undoes whatever was done.
        let screen = Self { keyboard: quiet_keyboard() };
        output::write(TAKE)?;
        Ok(screen)
    }

    /// Columns and rows.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        output::terminal_size().unwrap_or(SIZE_DEFAULT)
    }

    /// Draws lines over what was there; what does not fit is left out.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&self, text: &str) -> Result<(), CliError> {
        output::write(&frame(text, self.size().1))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = output::write(GIVE_BACK);
        if let Some(keyboard) = &self.keyboard {
            let _ = tcsetattr(stdin(), OptionalActions::Drain, keyboard);
        }
    }
}

/// Keys come one by one and are not shown; Ctrl-C and Ctrl-Z stay signals. How it was before.
fn quiet_keyboard() -> Option<Termios> {
    if !stdin().is_terminal() {
        return None;
    }
    let before = tcgetattr(stdin()).ok()?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
    tcsetattr(stdin(), OptionalActions::Drain, &quiet).ok()?;
    Some(before)
}

/// Each line overwrites one; the last is not ended, which would scroll.
fn frame(text: &str, rows: usize) -> String {
    let lines: Vec<String> = text.lines().take(rows).map(|line| format!("{line}\x1b[K")).collect();
    format!("\x1b[H{}\x1b[J", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_overwrites_and_never_scrolls() {
        assert_eq!(frame("a\nb\n", 24), "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J");
        assert_eq!(frame("a\nb\nc\n", 2).matches('\n').count(), 1);
    }
}
