//! Every environment variable that the binary reads or sets, in one place.

/// The state folder, where `--state-dir` is not given.
pub const STATE_DIR: &str = "TOKENKEEP_STATE_DIR";
/// Where the daemon is reached instead of by its socket, where `--url` is not given.
pub const URL: &str = "TOKENKEEP_URL";
/// The API key for [`URL`]; with [`FILE_SUFFIX`] it names a file that holds the key.
pub const API_KEY: &str = "TOKENKEEP_API_KEY";
/// Root certificates instead of the machine's, in PEM (rustls-native-certs reads it).
pub const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// What the daemon logs: a level, or levels by target, as in `warn,tokenkeep=trace`.
pub const LOG: &str = "TOKENKEEP_LOG";
/// How the daemon logs: `text` or `json`.
pub const LOG_FORMAT: &str = "TOKENKEEP_LOG_FORMAT";
/// Where traces go, in a build with the feature `otel`; the SDK reads the other variables of OpenTelemetry.
pub const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The same for traces alone.
pub const OTLP_TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// As what traces are shown, `tokenkeep` unless said otherwise.
#[cfg(feature = "otel")]
pub const OTEL_SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// Where standard error leads to the journal: the device and inode of that stream (systemd.exec(5)).
pub const JOURNAL_STREAM: &str = "JOURNAL_STREAM";
/// The service manager listens here (sd_notify(3)); `WATCHDOG_USEC` and `WATCHDOG_PID` belong to it.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Set to anything: no colour.
pub const NO_COLOR: &str = "NO_COLOR";
/// The width of tables, where standard output is no terminal or another width is wanted.
pub const COLUMNS: &str = "COLUMNS";
/// Where state folders live (XDG base directory specification).
pub const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
/// The home folder, for the state folder where [`XDG_STATE_HOME`] is not set.
pub const HOME: &str = "HOME";

/// The configuration file, where `--config` is not given.
pub const CONFIG: &str = "TOKENKEEP_CONFIG";
/// Where configurations live (XDG base directory specification).
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Where systemd puts a service's credentials (`LoadCredential=`).
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What kubectl tells a credential plugin: an `ExecCredential` as JSON.
pub const KUBERNETES_EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";
/// What `exec` gives its command: the access token.
pub const ACCESS_TOKEN: &str = "ACCESS_TOKEN";
/// What `exec` gives its command: when the token ends, RFC 3339; absent where nobody knows.
pub const ACCESS_TOKEN_EXPIRES_AT: &str = "ACCESS_TOKEN_EXPIRES_AT";

/// What a variable ends with that names a file which holds the value.
pub const FILE_SUFFIX: &str = "_FILE";
/// What the variable of a setting looks like, for messages.
pub const SETTING_EXPECTED: &str = "TOKENKEEP_SECTION__KEY, such as TOKENKEEP_SERVER__LISTEN or \
     TOKENKEEP_PROVIDERS__JIRA__CLIENT_SECRET_FILE";

/// The variable of a setting: `TOKENKEEP_SERVER__LISTEN` stands above `listen` in `[server]`, and
/// `TOKENKEEP_SERVER__LISTEN_FILE` names a file that holds the value. What no variable's name may have becomes `_`.
#[must_use]
pub fn of_setting(path: &[impl AsRef<str>], key: &str) -> String {
    let parts: Vec<String> = path.iter().map(|part| segment(part.as_ref())).chain([segment(key)]).collect();
    format!("TOKENKEEP_{}", parts.join("__"))
}

/// A name as it stands in a variable's.
#[must_use]
pub fn segment(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// True for a variable that looks like a setting's.
#[must_use]
pub fn is_setting(name: &str) -> bool {
    name.strip_prefix("TOKENKEEP_").is_some_and(|rest| rest.contains("__"))
}

/// The names of all variables that are set and not empty.
#[must_use]
pub fn names() -> Vec<String> {
    let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    set.filter_map(|(name, _)| name.into_string().ok()).collect()
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
        assert_eq!(of_setting(&["server"], "listen"), "TOKENKEEP_SERVER__LISTEN");
        assert_eq!(of_setting(&["refresh"], "check_interval"), "TOKENKEEP_REFRESH__CHECK_INTERVAL");
        assert_eq!(of_setting(&["providers", "my-idp.x"], "client_id"), "TOKENKEEP_PROVIDERS__MY_IDP_X__CLIENT_ID");
        assert!(is_setting("TOKENKEEP_SERVER__LISTEN") && !is_setting("TOKENKEEP_STATE_DIR"));
    }
}
