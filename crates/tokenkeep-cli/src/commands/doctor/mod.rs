//! `tokenkeep doctor`: what is wrong with this installation, and how to mend it.
//!
//! It never opens the database beside a daemon: it holds the folder's lock while it looks, and where somebody else
//! has that, it does not look. Nothing is changed but the lock's words.

mod connections;
mod daemon;
mod folder;
mod provider;
mod remote;
mod trail;

use super::serve;
use crate::cli::Common;
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::output;
use clap::Args;
use comfy_table::{Attribute, Cell, Color};
use daemon::Daemon;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tokenkeep::KeySource;

/// Of `doctor`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep doctor
  tokenkeep doctor --config tokenkeep.toml --network
  tokenkeep doctor --audit                                           also whether the audit trail is whole
  tokenkeep doctor --url https://keep.example                        the daemon there, as far as the API key sees
  tokenkeep doctor --json | jq '.checks[] | select(.verdict == \"fault\")'

Run it as the daemon's user. The exit code is 0 when all is well, 1 when there is a fault.")]
pub struct DoctorArgs {
    /// Check this configuration, too
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
    /// Connect to each provider of the configuration, and ask those that can be asked whether access tokens are good
    #[arg(long, requires = "config")]
    pub network: bool,
    /// Look at every record of the audit trail, too
    #[arg(long)]
    pub audit: bool,
    /// As JSON: {summary, checks}
    #[arg(long)]
    pub json: bool,
}

/// What a check came to.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// All is well.
    Ok,
    /// Worth knowing, and no fault.
    Note,
    /// Somebody must mend it.
    Fault,
    /// It could not be looked at, for a reason that another check or the words say.
    Skipped,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Fault, Self::Note, Self::Skipped, Self::Ok];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Fault => "fault",
            Self::Skipped => "skipped",
        }
    }

    fn cell(self) -> Cell {
        let cell = Cell::new(self.as_str());
        match self {
            Self::Ok => cell.fg(Color::Green),
            Self::Note => cell.fg(Color::Yellow),
            Self::Fault => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            Self::Skipped => cell,
        }
    }
}

/// One thing that was looked at.
#[derive(PartialEq, Eq, Serialize, Debug)]
struct Check {
    /// What was looked at.
    name: String,
    /// What it came to.
    verdict: Verdict,
    /// What was found, without secrets.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Check {
    fn new(name: impl Into<String>, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { name: name.into(), verdict, found: found.into(), mend: None }
    }

    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, found)
    }

    fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skipped, why)
    }

    fn fault(name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..Self::new(name, Verdict::Fault, found) }
    }

    /// What a command would have failed with.
    fn of_error(name: impl Into<String>, error: &CliError) -> Self {
        let CliError::Told(told) = error else { return Self::skipped(name, "nobody reads") };
        let said = std::iter::once(&told.cause).chain(&told.evidence).map(|line| line.trim());
        let found = said.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        Self { mend: told.next_step.clone(), ..Self::new(name, Verdict::Fault, found) }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    summary: String,
    checks: Vec<Check>,
}

/// Looks at everything, and tells it.
///
/// # Errors
/// There is nothing to derive the state folder from, or standard output cannot be written.
pub fn run(common: &Common, args: &DoctorArgs) -> Result<Exit, CliError> {
    let settings = match args.config.as_deref() {
        Some(path) => Some((path, serve::settings(path, &common.state_dir()?))),
        None => None,
    };
    let mut checks = if common.url()?.is_some() {
        remote::checks(&common.client()?, common, args.network, args.audit)
    } else {
        let source = settings.as_ref().and_then(|(_, settings)| settings.as_ref().ok());
        let source = source.map(|found| found.master_key.clone()).unwrap_or_default();
        of_folder(common, args, &common.state_dir()?, &source)
    };
    if let Some((path, settings)) = settings {
        checks.extend(provider::configuration(path, settings, args.network));
    }
    let exit = if checks.iter().any(|check| check.verdict == Verdict::Fault) { Exit::Error } else { Exit::Ok };
    let report = Report { summary: summary(&checks), checks };
    if args.json {
        output::write_json(&report)?;
    } else {
        output::write(&told(&report))?;
    }
    Ok(exit)
}

/// The folder, what is in it, and who uses it.
fn of_folder(common: &Common, args: &DoctorArgs, state_dir: &Path, source: &KeySource) -> Vec<Check> {
    let folder = folder::Folder::look(state_dir);
    let mut checks = vec![folder.check()];
    let client = match common.socket() {
        Ok(socket) => Client::new(socket),
        Err(error) => {
            checks.push(Check::of_error("socket", &error));
            return checks;
        }
    };
    let daemon = Daemon::look(&client, &folder);
    checks.extend(daemon.checks(state_dir));
    checks.extend(folder.content(&daemon, source));
    if daemon.answers() {
        checks.extend(connections::checks(&client, &common.namespace, args.network));
    }
    if args.audit {
        checks.push(if daemon.answers() { trail::check(&client) } else { trail::skipped() });
    }
    checks
}

/// `2 faults, 1 note, 7 ok`.
fn summary(checks: &[Check]) -> String {
    let counted = |verdict: Verdict| {
        let count = checks.iter().filter(|check| check.verdict == verdict).count();
        let plural = if count != 1 && matches!(verdict, Verdict::Fault | Verdict::Note) { "s" } else { "" };
        (count > 0 || verdict == Verdict::Fault).then(|| format!("{count} {}{plural}", verdict.as_str()))
    };
    Verdict::ALL.into_iter().filter_map(counted).collect::<Vec<_>>().join(", ")
}

/// A line for each check, what to mend, and how it all adds up.
fn told(report: &Report) -> String {
    let mut table = output::table(&["CHECK", "VERDICT", "FOUND"]);
    for check in &report.checks {
        table.add_row([Cell::new(&check.name), check.verdict.cell(), Cell::new(&check.found)]);
    }
    let mut text = output::text_of(&table);
    for Check { name, mend, .. } in &report.checks {
        if let Some(mend) = mend {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{name}\n  next: {mend}\n");
        }
    }
    text + "\n" + &report.summary + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_to_mend_and_adds_up() {
        let checks =
            vec![Check::ok("lock", "pid 7"), Check::fault("socket", "silent", "start it"), Check::skipped("x", "y")];
        let report = Report { summary: summary(&checks), checks };
        assert_eq!(report.summary, "1 fault, 1 skipped, 1 ok");
        let text = told(&report);
        assert!(text.contains("socket  fault    silent\n"), "{text}");
        assert!(text.ends_with("\nsocket\n  next: start it\n\n1 fault, 1 skipped, 1 ok\n"), "{text}");
        assert_eq!(summary(&[Check::ok("a", "")]), "0 faults, 1 ok");
    }

    #[test]
    fn an_error_of_a_command_becomes_a_fault() {
        let error = CliError::new("it broke").evidence("at 3:1").next_step("mend it");
        assert_eq!(Check::of_error("a", &error), Check::fault("a", "it broke; at 3:1", "mend it"));
    }
}
