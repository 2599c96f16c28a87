//! The command line: what can be said, and its help, examples first.

use crate::config::parse_listen;
use crate::env;
use crate::error::CliError;
use crate::span;
use crate::state_dir;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
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
#[derive(Args, Debug)]
pub struct Common {
    /// The daemon's state folder [default: $XDG_STATE_HOME/tokenkeep, as root /var/lib/tokenkeep]
    #[arg(long, global = true, help_heading = GLOBAL, env = env::STATE_DIR, value_name = "D", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// The namespace that names are in
    #[arg(long, short, global = true, help_heading = GLOBAL, default_value = DEFAULT_NAMESPACE, value_name = "NS", value_parser = name)]
    pub namespace: String,
}

impl Common {
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

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// A mock provider, a daemon and three connections in a scratch folder: the first minute
    Demo(DemoArgs),
    /// The daemon
    Serve(ServeArgs),
    /// Take over an existing token set, or many
    Import(ImportArgs),
    /// The connections of a namespace
    List(ListArgs),
    /// What is fresh, what is next, what needs you and why
    Status(StatusArgs),
    /// Print a valid access token
    Token(TokenArgs),
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
    /// The catalogue of known providers
    Providers(ProvidersArgs),
    /// A provider that misbehaves on request, in the foreground
    MockProvider(MockArgs),
}

/// Of `demo`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep demo
  tokenkeep demo --access-ttl 20s --listen 127.0.0.1:0")]
pub struct DemoArgs {
    /// Where to serve health and counts over TCP
    #[arg(long, value_name = "A", value_parser = parse_listen)]
    pub listen: Option<SocketAddr>,
    /// How long access tokens live
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = ttl)]
    pub access_ttl: Duration,
}

/// Of `serve`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep serve --config tokenkeep.toml
  tokenkeep serve --state-dir /tmp/tk --listen 127.0.0.1:0
  TOKENKEEP_LOG=debug tokenkeep serve

`ready` on standard error says that the socket answers.")]
pub struct ServeArgs {
    /// The configuration, TOML
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
    /// Where to serve health and counts over TCP [default: 127.0.0.1:7878]
    #[arg(long, value_name = "A", value_parser = parse_listen)]
    pub listen: Option<SocketAddr>,
}

/// Of `import`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep import jira --provider jira --file oauth_token.json
  vault read ... | tokenkeep import jira --provider jira
  tokenkeep import --ndjson tokens.ndjson

A token file is a JSON object as requests-oauthlib and Authlib write it. A line of NDJSON is
{\"name\": .., \"provider\": .., \"token\": {..}, \"labels\": {..}}. A token set that Tokenkeep holds
already, or has used, changes nothing, and the command says so.")]
pub struct ImportArgs {
    /// The connection's name; a new one, or one that gets a new grant
    #[arg(required_unless_present = "ndjson", conflicts_with = "ndjson", value_parser = name)]
    pub name: Option<String>,
    /// The provider's name in the daemon's configuration
    #[arg(long, value_name = "P", required_unless_present = "ndjson", conflicts_with = "ndjson", value_parser = name)]
    pub provider: Option<String>,
    /// The token file; `-` is standard input
    #[arg(long, value_name = "F", conflicts_with = "ndjson", default_value = "-", hide_default_value = true)]
    pub file: PathBuf,
    /// A label; may be given many times
    #[arg(long = "label", value_name = "K=V", conflicts_with = "ndjson", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Many, a line each; `-` is standard input
    #[arg(long, value_name = "F")]
    pub ndjson: Option<PathBuf>,
    /// Print what became of it as JSON (with --ndjson: a line each)
    #[arg(long)]
    pub json: bool,
}

/// Of `list`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep list
  tokenkeep list --status needs_reauth,held
  tokenkeep list --json | jq -r '.[].name'")]
pub struct ListArgs {
    /// Only these statuses, separated by commas
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Only this provider
    #[arg(long, value_name = "P")]
    pub provider: Option<String>,
    /// Only names that contain this text
    #[arg(short, long, value_name = "TEXT")]
    pub query: Option<String>,
    /// An array of connections as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `status`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep status
  tokenkeep status jira
  tokenkeep status --json | jq .summary")]
pub struct StatusArgs {
    /// One connection, in detail
    #[arg(value_parser = name)]
    pub name: Option<String>,
    /// As JSON: {summary, connections}
    #[arg(long)]
    pub json: bool,
}

/// Of `token`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep token jira --header | curl -H @- https://api.atlassian.com/me
  tokenkeep token jira --min-ttl 5m
  tokenkeep token jira --json | jq .expires_in")]
pub struct TokenArgs {
    /// The connection
    #[arg(value_parser = name)]
    pub name: String,
    /// How long the token must still live; a shorter one is refreshed first where that may be
    #[arg(long, value_name = "SPAN", value_parser = span::parse)]
    pub min_ttl: Option<Duration>,
    /// How long to wait for a refresh, at most 60s [default: 10s]
    #[arg(long, value_name = "SPAN", value_parser = wait)]
    pub wait: Option<Duration>,
    /// Print `Authorization: Bearer ...`
    #[arg(long, conflicts_with = "json")]
    pub header: bool,
    /// The token with its times as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `refresh`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep refresh jira")]
pub struct RefreshArgs {
    /// The connection
    #[arg(value_parser = name)]
    pub name: String,
    /// Even while an answer is in doubt; it may end the grant
    #[arg(long)]
    pub force: bool,
    /// The connection as JSON
    #[arg(long)]
    pub json: bool,
}

/// A name.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// The connection
    #[arg(value_parser = name)]
    pub name: String,
}

/// Of `resume`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep resume jira
  tokenkeep resume --all-sole-copy     after a restore, when no other copy of the database runs")]
pub struct ResumeArgs {
    /// The connection
    #[arg(required_unless_present = "all_sole_copy", conflicts_with = "all_sole_copy", value_parser = name)]
    pub name: Option<String>,
    /// Everything that is held because the database may be a restored copy, in every namespace
    #[arg(long)]
    pub all_sole_copy: bool,
}

/// Of `remove`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep remove jira
  tokenkeep remove jira --yes")]
pub struct RemoveArgs {
    /// The connection
    #[arg(value_parser = name)]
    pub name: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Of `events`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep events --since 1h
  tokenkeep events jira --follow
  tokenkeep events --follow --json | jq -r .message")]
pub struct EventsArgs {
    /// Only this connection; without it, events of every namespace
    #[arg(value_parser = name)]
    pub name: Option<String>,
    /// Go on with what happens, until interrupted; without --since, from now on
    #[arg(long, short)]
    pub follow: bool,
    /// From this time on: 2026-11-23T10:00:00Z, or a span before now such as 1h
    #[arg(long, value_name = "T")]
    pub since: Option<String>,
    /// A line of JSON for each event
    #[arg(long)]
    pub json: bool,
}

/// Of `providers`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep providers
  tokenkeep providers atlassian")]
pub struct ProvidersArgs {
    /// One of them, in detail
    pub name: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `mock-provider`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep mock-provider --rotation grace:600 --access-ttl 20s
  tokenkeep mock-provider --listen 127.0.0.1:9000 --seed 7")]
pub struct MockArgs {
    /// Where to listen
    #[arg(long, value_name = "A", default_value = "127.0.0.1:0", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// What becomes of a used refresh token: strict, grace:SECONDS, until-used, persistent
    #[arg(long, value_name = "CLASS", default_value = "strict", value_parser = rotation)]
    pub rotation: tokenkeep_mock::Rotation,
    /// How long access tokens live
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = ttl)]
    pub access_ttl: Duration,
    /// The same seed and the same requests give the same tokens
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((name(key)?, value.to_owned()))
}

fn ttl(text: &str) -> Result<Duration, String> {
    span::parse(text).and_then(|span| match span.as_millis() {
        1_000..=86_400_000 => Ok(span),
        _ => Err("expected between 1s and 1d".to_owned()),
    })
}

fn wait(text: &str) -> Result<Duration, String> {
    let most = crate::api::token::WAIT_MAX;
    span::parse(text).and_then(|span| if span <= most { Ok(span) } else { Err("expected at most 60s".to_owned()) })
}

fn rotation(text: &str) -> Result<tokenkeep_mock::Rotation, String> {
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

/// A name in its namespace, as people write it.
#[must_use]
pub fn shown(namespace: &str, name: &str) -> String {
    ConnectionKey::new(namespace, name).map_or_else(|_| name.to_owned(), |key| key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        let words = std::iter::once("tokenkeep").chain(line.split_whitespace());
        Cli::try_parse_from(words).map_err(|error| error.kind())
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
            "serve --config f --state-dir d --listen [::1]:7878",
            "--state-dir d token jira",
            "token jira --state-dir d --min-ttl 5m --wait 10s",
            "token jira --header",
            "token jira --json -n team",
            "import jira --provider p",
            "import jira --provider p --file - --label a=b --label c=d=e",
            "import --ndjson -",
            "list --status held,fresh --provider p -q x --json",
            "status",
            "status jira --json",
            "refresh jira --force",
            "pause jira",
            "resume jira",
            "resume --all-sole-copy",
            "remove jira --yes",
            "events",
            "events jira --follow --since 1h --json",
            "mock-provider --rotation grace:600 --access-ttl 60s --seed 7",
            "providers atlassian --json",
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
            "token jira --url http://x",
            "import",
            "import jira",
            "import jira --ndjson f",
            "import --ndjson f --provider p",
            "import jira --provider p --label x",
            "resume",
            "resume jira --all-sole-copy",
            "serve --listen 0.0.0.0:7878",
            "mock-provider --rotation sometimes",
            "demo --access-ttl 0s",
            "list -n a/b",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn targets_carry_the_namespace_where_it_is_not_the_default() {
        assert_eq!(target("default", "a+b", "/token"), "/v1/connections/a%2Bb/token");
        assert_eq!(target("team", "jira", ""), "/v1/connections/jira?namespace=team");
        assert_eq!((shown("default", "a").as_str(), shown("t", "a").as_str()), ("a", "t/a"));
    }
}
