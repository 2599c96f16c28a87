//! Every environment variable that the binary reads, in one place.

/// The state folder, where `--state-dir` is not given.
pub const STATE_DIR: &str = "TOKENKEEP_STATE_DIR";
/// What the daemon logs: a level, or levels by target, as in `warn,tokenkeep=trace`.
pub const LOG: &str = "TOKENKEEP_LOG";
/// How the daemon logs: `text` or `json`.
pub const LOG_FORMAT: &str = "TOKENKEEP_LOG_FORMAT";
/// Where standard error leads to the journal: the device and inode of that stream (systemd.exec(5)).
pub const JOURNAL_STREAM: &str = "JOURNAL_STREAM";
/// The service manager listens here (sd_notify(3)); `WATCHDOG_USEC` and `WATCHDOG_PID` belong to it.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Set to anything: no colour.
pub const NO_COLOR: &str = "NO_COLOR";
/// Where state folders live (XDG base directory specification).
pub const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
/// The home folder, for the state folder where [`XDG_STATE_HOME`] is not set.
pub const HOME: &str = "HOME";

/// Values of `[server]`, `[store]` and `[refresh]`: `TOKENKEEP_SERVER__LISTEN` stands above
/// `listen` in the file, and `TOKENKEEP_SERVER__LISTEN_FILE` names a file that holds the value.
#[must_use]
pub fn of_setting(section: &str, key: &str) -> String {
    format!("TOKENKEEP_{}__{}", section.to_ascii_uppercase(), key.to_ascii_uppercase())
}

/// The value of a variable that is set and not empty.
#[must_use]
pub fn read(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_documented_names() {
        assert_eq!(of_setting("server", "listen"), "TOKENKEEP_SERVER__LISTEN");
        assert_eq!(of_setting("refresh", "check_interval"), "TOKENKEEP_REFRESH__CHECK_INTERVAL");
    }
}
