//! How a command fails: what happened, the evidence, the next step, and the exit code.

use std::fmt::Write as _;
use std::io;

/// The exit codes of interface section 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed, and trying again will not help.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No connection has this name.
    NotFound = 3,
    /// A human must sign in.
    NeedsReauth = 4,
    /// It failed for now: try again (`EX_TEMPFAIL`).
    Temporary = 75,
    /// Of `exec`, as shells do: the command is there and cannot be run.
    NotExecutable = 126,
    /// Of `exec`, as shells do: there is no such command.
    CommandNotFound = 127,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended without doing what it was asked.
#[derive(Debug)]
pub enum CliError {
    /// Whoever read our standard output has gone: nobody is left to tell.
    BrokenPipe,
    /// Something to tell.
    Told(Box<Told>),
}

/// What the person at the terminal is told.
#[derive(PartialEq, Eq, Debug)]
pub struct Told {
    /// How the process ends.
    pub exit: Exit,
    /// What happened: one sentence, without a final stop.
    pub cause: String,
    /// Lines that show it: a place in a file, the words of the system.
    pub evidence: Vec<String>,
    /// What to do.
    pub next_step: Option<String>,
}

impl CliError {
    /// An error with exit code 1.
    #[must_use]
    pub fn new(cause: impl Into<String>) -> Self {
        Self::with_exit(Exit::Error, cause)
    }

    /// A wrong command line: exit code 2.
    #[must_use]
    pub fn usage(cause: impl Into<String>) -> Self {
        Self::with_exit(Exit::Usage, cause)
    }

    /// An error that may be gone the next time: exit code 75.
    #[must_use]
    pub fn temporary(cause: impl Into<String>) -> Self {
        Self::with_exit(Exit::Temporary, cause)
    }

    /// An error with this exit code.
    #[must_use]
    pub fn with_exit(exit: Exit, cause: impl Into<String>) -> Self {
        Self::Told(Box::new(Told { exit, cause: cause.into(), evidence: Vec::new(), next_step: None }))
    }

    /// With a line of evidence.
    #[must_use]
    pub fn evidence(mut self, line: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.evidence.push(line.into());
        }
        self
    }

    /// With what to do.
    #[must_use]
    pub fn next_step(mut self, step: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.next_step = Some(step.into());
        }
        self
    }

    /// What happened, in one sentence without a final stop; nothing where nobody is left to tell.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self {
            Self::BrokenPipe => "",
            Self::Told(told) => &told.cause,
        }
    }

    /// How the process ends. A reader that went away is no failure of ours.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::BrokenPipe => Exit::Ok,
            Self::Told(told) => told.exit,
        }
    }

    /// What goes to standard error.
    #[must_use]
    pub fn report(&self) -> String {
        let Self::Told(told) = self else {
            return String::new();
        };
        let mut text = format!("error: {}\n", told.cause);
        for line in &told.evidence {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", format!("  {line}").trim_end());
        }
        if let Some(step) = &told.next_step {
            let _ = writeln!(text, "next: {step}");
        }
        text
    }
}

/// An error of writing to standard output.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::new("standard output cannot be written").evidence(error.to_string())
    }
}

/// An error of the library, for commands that run the engine themselves.
impl From<tokenkeep::Error> for CliError {
    fn from(error: tokenkeep::Error) -> Self {
        use tokenkeep::Error as E;
        use tokenkeep::store::StoreError;
        let next = match &error {
            E::Locked(_) => "stop the other `tokenkeep serve`, or choose another folder with --state-dir",
            E::TokenFileKept { .. } => {
                "stop the other `tokenkeep serve`, or take token_file out of one of the two configurations"
            }
            E::Folder { .. } => "make the folder usable for this user, or choose another with --state-dir",
            E::Store(StoreError::Newer { .. }) => {
                "nothing was changed; start the newer tokenkeep, or choose another folder with --state-dir"
            }
            E::Key(_) | E::Store(StoreError::Damaged(_)) | E::Journal(_) => {
                "nothing was changed; keep a copy of the state folder before you try anything"
            }
            _ => return Self::new(error.to_string()),
        };
        Self::new(error.to_string()).next_step(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [Exit::Ok, Exit::Error, Exit::Usage, Exit::NotFound, Exit::NeedsReauth, Exit::Temporary];
        assert_eq!(codes.map(|exit| exit as u8), [0, 1, 2, 3, 4, 75]);
        assert_eq!([Exit::NotExecutable as u8, Exit::CommandNotFound as u8], [126, 127]);
        assert_eq!(CliError::new("x").exit(), Exit::Error);
        assert_eq!(CliError::usage("x").exit(), Exit::Usage);
        assert_eq!(CliError::temporary("x").exit(), Exit::Temporary);
    }

    #[test]
    fn a_report_has_cause_evidence_and_next_step() {
        let error = CliError::new("it broke").evidence("at 3:1").next_step("mend it");
        assert_eq!(error.report(), "error: it broke\n  at 3:1\nnext: mend it\n");
    }

    #[test]
    fn a_reader_that_went_away_is_silent() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((error.exit(), error.report().as_str()), (Exit::Ok, ""));
        let error = CliError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.exit(), Exit::Error);
    }
}
