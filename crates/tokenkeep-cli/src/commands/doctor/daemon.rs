//! Who uses the state folder: the lock, the socket, the daemon's version and clock.

use super::folder::Folder;
use super::{Check, Verdict};
use crate::api::json::parse_time;
use crate::client::{Client, Request};
use crate::error::CliError;
use crate::output::now_ms;
use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokenkeep::store::lock::{LOCK_FILE, LockError, StateLock};

/// A daemon that is well answers in a millisecond.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Clocks that differ by less are the same one, read twice.
const CLOCK_DIFFERS_FROM: Duration = Duration::from_secs(5);
/// 2026-01-01, before which this program did not exist.
const CLOCK_MIN_MS: i64 = 1_767_225_600_000;

/// The daemon of a state folder.
pub enum Daemon {
    /// It answers at its socket.
    Answers {
        /// What it wrote into its lock.
        lock: Holder,
        /// Its wall clock beside ours, in milliseconds since the Unix epoch.
        clocks_ms: Option<(i64, i64)>,
        /// Why it does no work, if so.
        unready: Option<CliError>,
    },
    /// It holds the lock and does not answer: who it is.
    Silent { holder: String, error: CliError },
    /// None runs. While this lives, none can start: so its files may be looked at.
    Absent { error: CliError, _lock: StateLock },
    /// None answers, and whether one runs cannot be told.
    Unknown { error: CliError, why: Option<LockError> },
}

/// What a daemon writes about itself into its lock.
#[derive(Default)]
pub struct Holder {
    pid: Option<String>,
    since: Option<String>,
    version: Option<String>,
}

/// What `/livez` says.
#[derive(Deserialize)]
pub(super) struct Alive {
    time: Option<String>,
}

impl Alive {
    /// What time it is to the daemon.
    pub fn time(&self) -> Option<&str> {
        self.time.as_deref()
    }
}

impl Daemon {
    /// Asks at the socket first: a lock is only tried where nobody answers, so no daemon finds it taken.
    pub fn look(client: &Client, folder: &Folder) -> Self {
        let alive = Request { method: "GET", target: "/livez", body: None, timeout: ANSWERS_WITHIN };
        match client.send(alive) {
            Ok(answer) => {
                let time = answer.json::<Alive>().ok().and_then(|alive| alive.time);
                let clocks_ms = time.as_deref().and_then(parse_time).map(|at| (at.as_millis(), now_ms()));
                Self::Answers { lock: Holder::read(folder.path()), clocks_ms, unready: client.get("/readyz").err() }
            }
            Err(error) if !folder.is_ours() => Self::Unknown { error, why: None },
            Err(error) => match StateLock::acquire(folder.path()) {
                Ok(lock) => Self::Absent { error, _lock: lock },
                Err(LockError::Held { holder, .. }) => Self::Silent { holder, error },
                Err(why) => Self::Unknown { error, why: Some(why) },
            },
        }
    }

    /// Whether it can be asked.
    pub fn answers(&self) -> bool {
        matches!(self, Self::Answers { .. })
    }

    /// Why its files are not to be opened; `None` where none runs, and none can start while this lives.
    pub fn forbids_looking(&self) -> Option<&'static str> {
        match self {
            Self::Answers { .. } | Self::Silent { .. } => Some("not looked at beside a daemon, which has it open"),
            Self::Unknown { .. } => Some("not looked at: whether a daemon has it open cannot be told"),
            Self::Absent { .. } => None,
        }
    }

    /// What can be said about it.
    pub fn checks(&self, state_dir: &Path) -> Vec<Check> {
        match self {
            Self::Answers { lock, clocks_ms, unready } => {
                let ready = readiness(unready.as_ref());
                vec![lock.check(), Check::ok("socket", "the daemon answers"), lock.version(), ready, clock(*clocks_ms)]
            }
            Self::Silent { holder, error } => vec![
                Check::ok("lock", format!("a daemon holds it: {holder}")),
                Check {
                    mend: Some(format!(
                        "wait if it is just starting or stopping; else read its log, stop it and start it again: {holder}"
                    )),
                    ..Check::of_error("socket", error)
                },
                clock(None),
            ],
            Self::Absent { error, .. } => {
                vec![Check::ok("lock", "free: no daemon runs"), Check::of_error("socket", error), clock(None)]
            }
            Self::Unknown { error, why } => {
                let lock = match why {
                    None => Check::skipped("lock", format!("{} is no folder of this user's", state_dir.display())),
                    Some(why) => Check::fault("lock", why.to_string(), "make the file this user's own, mode 0600"),
                };
                vec![lock, Check::of_error("socket", error), clock(None)]
            }
        }
    }
}

impl Holder {
    /// Only reads; a daemon that runs has written it.
    fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join(LOCK_FILE)).unwrap_or_default();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let shown = |name: &str| value(name).map(|text| tokenkeep_core::model::printable(text, 40));
        Self { pid: shown("pid"), since: shown("since"), version: shown("version") }
    }

    fn check(&self) -> Check {
        match (&self.pid, &self.since) {
            (Some(pid), Some(since)) => Check::ok("lock", format!("a daemon holds it: pid {pid}, since {since}")),
            _ => Check::new("lock", Verdict::Note, "a daemon answers, and did not write who it is"),
        }
    }

    fn version(&self) -> Check {
        let ours = env!("CARGO_PKG_VERSION");
        match self.version.as_deref() {
            Some(theirs) if theirs == ours => Check::ok("version", format!("{ours}, daemon and command")),
            Some(theirs) => Check::fault(
                "version",
                format!("the daemon is {theirs}, this command is {ours}"),
                "restart the daemon with this version, or use the command that came with it",
            ),
            None => Check::skipped("version", "the daemon did not write which it is"),
        }
    }
}

/// What `/readyz` says.
pub(super) fn readiness(unready: Option<&CliError>) -> Check {
    unready.map_or_else(
        || Check::ok("readiness", "the store can be written, and the scheduler moves"),
        |error| Check::of_error("readiness", error),
    )
}

/// Wrong wall clocks cost no token: times are counted by the boot clock. But imported times and people are misled.
pub(super) fn clock(clocks_ms: Option<(i64, i64)>) -> Check {
    const MEND: &str =
        "set this machine's clock (`timedatectl set-ntp true`); Tokenkeep itself counts by the boot clock";
    let ours_ms = clocks_ms.map_or_else(now_ms, |(_, ours)| ours);
    if ours_ms < CLOCK_MIN_MS {
        return Check::fault("clock", "this machine's clock is before 2026", MEND);
    }
    match clocks_ms {
        Some((theirs, ours)) if u128::from(theirs.abs_diff(ours)) >= CLOCK_DIFFERS_FROM.as_millis() => {
            let apart = crate::span::show(Duration::from_millis(theirs.abs_diff(ours)));
            Check::fault("clock", format!("the daemon's clock and this one are {apart} apart"), MEND)
        }
        Some(_) => Check::ok("clock", "the daemon's and this one agree"),
        None => Check::ok("clock", "after 2026 began; there is no daemon's to compare"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn look(folder: &TempDir) -> Daemon {
        let client = Client::new(folder.path().join("tokenkeep.sock"));
        Daemon::look(&client, &Folder::look(folder.path()))
    }

    fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn where_no_daemon_runs_the_lock_is_held_while_we_look() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = look(&folder);
        assert!(daemon.forbids_looking().is_none() && StateLock::acquire(folder.path()).is_err());
        let checks = daemon.checks(folder.path());
        assert!(find(&checks, "socket").mend.as_deref().unwrap().contains("tokenkeep serve"));
        drop(daemon);
        assert!(StateLock::acquire(folder.path()).is_ok());
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = StateLock::acquire(folder.path()).unwrap();
        let daemon = look(&folder);
        assert!(daemon.forbids_looking().is_some());
        let checks = daemon.checks(folder.path());
        let pid = format!("pid {}", std::process::id());
        assert!(find(&checks, "lock").found.contains(&pid));
        assert_eq!(find(&checks, "socket").verdict, Verdict::Fault);
    }

    #[test]
    fn another_version_is_a_fault() {
        let version = |text: &str| Holder { version: Some(text.to_owned()), ..Holder::default() }.version().verdict;
        assert_eq!(version(env!("CARGO_PKG_VERSION")), Verdict::Ok);
        assert_eq!(version("0.0.0"), Verdict::Fault);
    }

    #[test]
    fn clocks_that_differ_are_a_fault() {
        let now = CLOCK_MIN_MS + 1_000_000;
        assert_eq!(clock(Some((now, now + 4_999))).verdict, Verdict::Ok);
        assert!(clock(Some((now, now + 7_200_000))).found.contains("2h"));
        assert_eq!(clock(Some((0, 0))).verdict, Verdict::Fault);
        assert_eq!(clock(None).verdict, Verdict::Ok);
    }
}
