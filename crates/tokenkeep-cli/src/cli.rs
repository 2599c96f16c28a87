//! The command line: its commands, what they all take, and how values are read.
//!
//! What a command takes alone stands in its own file in [`crate::commands`], its help with examples first.

use crate::client::remote::{self, Remote};
use crate::client::{self, Client};
use crate::commands::{
    api_key::ApiKeyArgs,
    audit::AuditArgs,
    backup::BackupArgs,
    completions::CompletionsArgs,
    config::ConfigArgs,
    connect::ConnectArgs,
    credential::CredentialArgs,
    demo::DemoArgs,
    doctor::DoctorArgs,
    events::EventsArgs,
    exec::ExecArgs,
    export::ExportArgs,
    import::ImportArgs,
    list::ListArgs,
    man::ManArgs,
    master_key::MasterKeyArgs,
    mock_provider::MockArgs,
    pause::{NameArgs, ResumeArgs},
    providers::ProvidersArgs,
    ready::ReadyArgs,
    refresh::RefreshArgs,
    remove::RemoveArgs,
    restore::RestoreArgs,
    serve::ServeArgs,
    status::StatusArgs,
    token::TokenArgs,
};
use crate::env;
use crate::error::CliError;
use crate::span;
use crate::state_dir;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokenkeep_core::ConnectionKey;
use tokenkeep_core::model::{DEFAULT_NAMESPACE, check_name};

/// The heading of what every command takes.
const GLOBAL: &str = "Options of every command";

/// Keeps OAuth tokens fresh in the background, so that whoever asks gets a valid one at once.
#[derive(Parser, Debug)]
#[command(
    name = "tokenkeep",
    version,
    before_help = "Examples:
  tokenkeep demo                              a provider, a daemon and three connections to play with
  tokenkeep serve --config tokenkeep.toml     the daemon
  tokenkeep import jira --provider jira --file oauth_token.json
  tokenkeep token jira                        a valid access token, at once",
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 no such connection, 4 a human must sign in, 75 temporary.",
    disable_help_subcommand = true,
    propagate_version = false
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The daemon's state folder [default: $XDG_STATE_HOME/tokenkeep, as root /var/lib/tokenkeep]
    #[arg(long, global = true, help_heading = GLOBAL, env = env::STATE_DIR, value_name = "D", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// The namespace that names are in
    #[arg(long, short, global = true, help_heading = GLOBAL, default_value = DEFAULT_NAMESPACE, value_name = "NS", value_parser = name)]
    pub namespace: String,
    /// The daemon's address, rather than its socket; TOKENKEEP_API_KEY holds the API key for it, or TOKENKEEP_API_KEY_FILE names a file that does
    #[arg(long, global = true, help_heading = GLOBAL, env = env::URL, value_name = "URL", hide_env_values = true)]
    pub url: Option<String>,
    /// What of it was said on the command line.
    #[arg(skip)]
    pub said: Said,
}

/// What was said on the command line itself, where it stands above the environment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Said {
    /// `--state-dir`.
    pub state_dir: bool,
    /// `--namespace`.
    pub namespace: bool,
    /// `--url`.
    pub url: bool,
}

impl Said {
    fn of(matches: &ArgMatches) -> Self {
        let said = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        Self { state_dir: said("state_dir"), namespace: said("namespace"), url: said("url") }
    }
}

/// Reads a command line.
///
/// # Errors
/// What clap says about it: help is an error, too.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    let said = Said::of(&matches);
    let mut cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    cli.common.said = said;
    Ok(cli)
}

impl Common {
    /// The daemon's URL; `None` where its socket is meant.
    ///
    /// # Errors
    /// The command line names two daemons.
    pub fn url(&self) -> Result<Option<&str>, CliError> {
        let url = self.url.as_deref();
        match (self.said.url, self.said.state_dir) {
            (true, true) => Err(CliError::usage("--url and --state-dir name two daemons").next_step("leave one out")),
            (true, false) => Ok(url),
            (false, true) => Ok(None),
            // A variable that is set to nothing says nothing.
            (false, false) => Ok(url.filter(|url| !url.is_empty())),
        }
    }

    /// A client of the daemon that is meant.
    ///
    /// # Errors
    /// The URL or the key is none, or there is no state folder.
    pub fn client(&self) -> Result<Client, CliError> {
        match self.url()? {
            Some(url) => Ok(Client::at(Remote::read(url, remote::key()?)?)),
            None => Ok(Client::new(self.socket()?)),
        }
    }

    /// A client of the daemon at its socket, for a `command` that is served there alone.
    ///
    /// # Errors
    /// A URL is meant, or there is no state folder.
    pub fn socket_client(&self, command: &str) -> Result<Client, CliError> {
        match self.url()? {
            Some(_) => Err(client::remote::socket_only(command)),
            None => Ok(Client::new(self.socket()?)),
        }
    }

    /// The state folder.
    ///
    /// # Errors
    /// There is nothing to derive it from.
    pub fn state_dir(&self) -> Result<PathBuf, CliError> {
        state_dir::resolve(self.state_dir.as_deref())
    }

    /// The daemon's socket.
    ///
    /// # Errors
    /// There is no state folder, or its path is too long.
    pub fn socket(&self) -> Result<PathBuf, CliError> {
        state_dir::socket(&self.state_dir()?)
    }
}

/// The commands. What each takes is put together only for the one that is run: `token` starts in half the time.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum Command {
    /// A mock provider, a daemon and three connections in a scratch folder: the first minute
    Demo(DemoArgs),
    /// The daemon
    Serve(ServeArgs),
    /// Check and show the configuration
    Config(ConfigArgs),
    /// Sign in: by a browser, at another device, or as the client itself
    Connect(ConnectArgs),
    /// Take over an existing token set, or many
    Import(ImportArgs),
    /// Print the whole token set as a token file
    Export(ExportArgs),
    /// The connections of a namespace
    List(ListArgs),
    /// What is fresh, what is next, what needs you and why
    Status(StatusArgs),
    /// Print a valid access token
    Token(TokenArgs),
    /// Run a command with a valid access token in its environment
    Exec(ExecArgs),
    /// Answer git, kubectl and docker in their own protocols
    Credential(CredentialArgs),
    /// Refresh now
    Refresh(RefreshArgs),
    /// No refreshes until `resume`
    Pause(NameArgs),
    /// Refresh again after `pause`, or after the cause of a hold was cleared
    Resume(ResumeArgs),
    /// Forget a connection and wipe its tokens
    Remove(RemoveArgs),
    /// The history
    Events(EventsArgs),
    /// Whether the daemon does its work, for health checks
    Ready(ReadyArgs),
    /// Who else may ask the daemon, and for what
    ApiKey(ApiKeyArgs),
    /// Who did what: the audit trail
    Audit(AuditArgs),
    /// Which key seals everything, and a new one for it
    MasterKey(MasterKeyArgs),
    /// One sealed file with everything but the master key
    Backup(BackupArgs),
    /// A backup into a new state folder
    Restore(RestoreArgs),
    /// The catalogue of known providers
    Providers(ProvidersArgs),
    /// What is wrong with this installation, and how to mend it
    Doctor(DoctorArgs),
    /// Completions for a shell
    Completions(CompletionsArgs),
    /// Manual pages
    Man(ManArgs),
    /// A provider that misbehaves on request, in the foreground
    MockProvider(MockArgs),
}

/// A name of a connection, a provider or a namespace.
///
/// # Errors
/// A sentence that says what was expected.
pub fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// A label, `KEY=VALUE`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((name(key)?, value.to_owned()))
}

/// The life of a mock's access tokens.
///
/// # Errors
/// A sentence that says what was expected.
pub fn ttl(text: &str) -> Result<Duration, String> {
    span::parse(text).and_then(|span| match span.as_millis() {
        1_000..=86_400_000 => Ok(span),
        _ => Err("expected between 1s and 1d".to_owned()),
    })
}

/// How long a token may be waited for.
///
/// # Errors
/// A sentence that says what was expected.
pub fn wait(text: &str) -> Result<Duration, String> {
    let most = crate::api::token::WAIT_MAX;
    span::parse(text).and_then(|span| if span <= most { Ok(span) } else { Err("expected at most 60s".to_owned()) })
}

/// A rotation class of the mock.
///
/// # Errors
/// A sentence that says what was expected.
pub fn rotation(text: &str) -> Result<tokenkeep_mock::Rotation, String> {
    text.parse().map_err(|error: tokenkeep_mock::UnknownRotation| error.to_string())
}

/// The target of a connection's resource: `/v1/connections/NAME{rest}` with its namespace.
#[must_use]
pub fn target(namespace: &str, name: &str, rest: &str) -> String {
    use crate::client::encode;
    let mut target = format!("/v1/connections/{}{rest}", encode(name));
    if namespace != DEFAULT_NAMESPACE {
        target.push_str("?namespace=");
        target.push_str(&encode(namespace));
    }
    target
}

/// The same with one more parameter.
#[must_use]
pub fn with(target: String, name: &str, value: &str) -> String {
    let separator = if target.contains('?') { '&' } else { '?' };
    target + &format!("{separator}{name}={}", crate::client::encode(value))
}

/// The target of the listing of a namespace.
#[must_use]
pub fn listing(namespace: &str) -> String {
    format!("/v1/connections?namespace={}", crate::client::encode(namespace))
}

/// A name in its namespace, as people write it.
#[must_use]
pub fn shown(namespace: &str, name: &str) -> String {
    ConnectionKey::new(namespace, name).map_or_else(|_| name.to_owned(), |key| key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        let words = std::iter::once("tokenkeep").chain(line.split_whitespace());
        read(words.map(OsString::from)).map_err(|error| error.kind())
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_documentation_says_can_be_said() {
        for line in [
            "demo",
            "demo --listen 127.0.0.1:0 --access-ttl 20s",
            "serve",
            "serve --log-format json",
            "ready",
            "serve --config f --state-dir d --listen [::1]:7878",
            "--state-dir d token jira",
            "token jira --state-dir d --min-ttl 5m --wait 10s",
            "token jira --header",
            "token jira --json -n team",
            "import jira --provider p",
            "import jira --provider p --file - --label a=b --label c=d=e",
            "import --ndjson -",
            "list --status held,fresh --provider p -q x --label a=b --json",
            "status",
            "status jira --json",
            "status --watch",
            "status jira -w --json",
            "refresh jira --force",
            "export jira",
            "export jira --output f --force --yes",
            "exec jira --min-ttl 5m -- curl -H x --state-dir y",
            "credential git --connection jira get",
            "credential git erase",
            "credential kube jira --wait 5s",
            "credential docker get",
            "doctor --json",
            "doctor --config f --network",
            "completions bash",
            "man",
            "man credential git",
            "man --output d",
            "pause jira",
            "resume jira",
            "resume --all-sole-copy",
            "remove jira --yes",
            "events",
            "events jira --follow --since 1h --json",
            "events --follow --exec cmd --flag",
            "mock-provider --rotation grace:600 --access-ttl 60s --seed 7",
            "providers atlassian --json",
            "token jira --url http://127.0.0.1:7878",
            "--url https://keep.example list --json",
            "api-key create ci --scope token",
            "api-key create ci --scope token,refresh --scope status --namespace team-* -n b --name jira* --name x --expires 90d --connections-per-hour 5 --json",
            "api-key list --json",
            "api-key revoke 0123456789abcdef --yes",
            "api-key setup",
            "audit --after 7 --json",
            "doctor --audit",
            "master-key rotate",
            "master-key status --json",
            "backup --output f",
            "backup -o -",
            "restore f --key-file k --state-dir d",
            "restore f --config c",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "nonsense",
            "token",
            "token a/b",
            "token jira --wait 61s",
            "token jira --header --json",
            "token jira --min-ttl soon",
            "import",
            "import jira",
            "import jira --ndjson f",
            "import --ndjson f --provider p",
            "import jira --provider p --label x",
            "resume",
            "resume jira --all-sole-copy",
            "export jira --force",
            "exec jira",
            "exec jira curl",
            "credential",
            "credential git",
            "credential kube",
            "doctor --network",
            "completions tcsh",
            "man token --output d",
            "demo --listen 0.0.0.0:7878",
            "serve --log-format xml",
            "ready jira",
            "mock-provider --rotation sometimes",
            "demo --access-ttl 0s",
            "list -n a/b",
            "list --status hold",
            "events --json --exec cmd",
            "api-key",
            "api-key create",
            "api-key create ci",
            "api-key create ci --scope tokn",
            "api-key create ci --scope token --expires soon",
            "api-key create ci --scope token --expires 0",
            "api-key create ci --scope token --connections-per-hour 0",
            "api-key create ci --scope token --name a/b",
            "api-key create ci --scope token --namespace a/*",
            "api-key revoke",
            "audit --after x",
            "master-key",
            "backup",
            "restore",
            "restore f --key-file k --config c",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    fn common(line: &str) -> Common {
        parse(line).unwrap().common
    }

    #[test]
    fn one_daemon_is_meant() {
        let url = |line: &str| common(line).url().map(|url| url.map(str::to_owned)).map_err(|error| error.exit());
        assert_eq!(url("list"), Ok(None));
        assert_eq!(url("list --url http://localhost"), Ok(Some("http://localhost".to_owned())));
        assert_eq!(url("--url http://localhost list"), Ok(Some("http://localhost".to_owned())));
        assert_eq!(url("list --url http://localhost --state-dir d"), Err(Exit::Usage));
        // As from the environment, which a flag stands above.
        let of_environment = |line: &str, url: &str| {
            let common = Common { url: Some(url.to_owned()), ..common(line) };
            common.url().map(|url| url.map(str::to_owned)).map_err(|error| error.exit())
        };
        assert_eq!(of_environment("list", "u"), Ok(Some("u".to_owned())));
        assert_eq!(of_environment("list", ""), Ok(None));
        assert_eq!(of_environment("list --state-dir d", "u"), Ok(None));
        let refused = Common { url: Some("u".to_owned()), ..common("list") }.socket_client("backup").unwrap_err();
        assert!(refused.exit() == Exit::Usage && refused.report().contains("`tokenkeep backup`"));
    }

    #[test]
    fn a_namespace_of_a_new_key_is_one_that_was_said() {
        let limits = |line: &str| {
            let cli = parse(line).unwrap();
            let Command::ApiKey(args) = &cli.command else { panic!("another command") };
            args.namespaces_of_create(&cli.common).unwrap()
        };
        assert!(limits("api-key create ci --scope token").is_empty());
        assert_eq!(limits("api-key create ci --scope token --namespace a* -n b"), ["a*", "b"]);
        assert_eq!(limits("-n team api-key create ci --scope token"), ["team"]);
    }

    #[test]
    fn targets_carry_the_namespace_where_it_is_not_the_default() {
        assert_eq!(target("default", "a+b", "/token"), "/v1/connections/a%2Bb/token");
        assert_eq!(target("team", "jira", ""), "/v1/connections/jira?namespace=team");
        assert_eq!((shown("default", "a").as_str(), shown("t", "a").as_str()), ("a", "t/a"));
    }
}
