//! `tokenkeep token NAME`: a valid access token, and nothing else.

use super::{client, with_suggestion};
use crate::api::json::TokenJson;
use crate::cli::{Common, target, with};
use crate::client::{Answer, Request, TIMEOUT};
use crate::error::{CliError, Exit};
use crate::output;
use crate::output::say;
use clap::Args;
use std::time::Duration;
use zeroize::Zeroizing;

/// Of `token`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep token jira --header | curl -H @- https://api.atlassian.com/me
  tokenkeep token jira --min-ttl 5m
  tokenkeep token jira --json | jq .expires_in")]
pub struct TokenArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
    /// How fresh.
    #[command(flatten)]
    pub wanted: Wanted,
    /// Print `Authorization: Bearer ...`
    #[arg(long, conflicts_with = "json")]
    pub header: bool,
    /// The token with its times as JSON
    #[arg(long)]
    pub json: bool,
}

/// How long a token is to live, and how long it may take: for every command that asks for one.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// How long the token must still live; a shorter one is refreshed first where that may be
    #[arg(long, value_name = "SPAN", value_parser = crate::span::parse)]
    pub min_ttl: Option<Duration>,
    /// How long to wait for a refresh, at most 60s [default: 10s]
    #[arg(long, value_name = "SPAN", value_parser = crate::cli::wait)]
    pub wait: Option<Duration>,
}

/// What the daemon waits for a refresh where nobody says otherwise.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// Prints the token.
///
/// # Errors
/// There is none: no such connection, a human must sign in, or the provider is down.
pub fn run(common: &Common, args: &TokenArgs) -> Result<Exit, CliError> {
    let answer = fetch(common, &args.name, args.wanted)?;
    let token: TokenJson<'_> = answer.json()?;
    if args.json {
        output::write_json(&token)?;
        return Ok(Exit::Ok);
    }
    say_warnings(&token);
    output::write(&line(&token, args.header))?;
    Ok(Exit::Ok)
}

/// Asks the daemon for a token: a [`TokenJson`].
///
/// # Errors
/// As [`run`].
pub fn fetch(common: &Common, name: &str, wanted: Wanted) -> Result<Answer, CliError> {
    let client = client(common)?;
    let request = Request {
        method: "GET",
        target: &full_target(common, name, wanted),
        body: None,
        timeout: TIMEOUT + wanted.wait.unwrap_or(WAIT_DEFAULT),
    };
    client.send(request).map_err(|error| with_suggestion(error, &client, common, name))
}

/// Says on standard error what to know about a token.
pub fn say_warnings(token: &TokenJson<'_>) {
    if token.stale {
        say!("warning: stale: it lives shorter than asked for, and no longer one can be had now");
    }
    for warning in &token.warnings {
        say!("warning: {warning}");
    }
}

fn full_target(common: &Common, name: &str, wanted: Wanted) -> String {
    let mut target = target(&common.namespace, name, "/token");
    for (name, span) in [("min_ttl", wanted.min_ttl), ("wait", wanted.wait)] {
        if let Some(span) = span {
            target = with(target, name, &format!("{}ms", span.as_millis()));
        }
    }
    target
}

fn line(token: &TokenJson<'_>, header: bool) -> Zeroizing<String> {
    let TokenJson { access_token, token_type, .. } = token;
    Zeroizing::new(if header {
        format!("Authorization: {token_type} {access_token}\n")
    } else {
        format!("{access_token}\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn asked(line: &str) -> String {
        let words = std::iter::once("tokenkeep").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        let Command::Token(args) = &cli.command else { panic!("another command") };
        full_target(&cli.common, &args.name, args.wanted)
    }

    #[test]
    fn only_what_was_said_is_asked_for() {
        assert_eq!(asked("token jira"), "/v1/connections/jira/token");
        assert_eq!(asked("token jira --min-ttl 5m"), "/v1/connections/jira/token?min_ttl=300000ms");
        assert_eq!(
            asked("-n team token jira --min-ttl 5m --wait 0"),
            "/v1/connections/jira/token?namespace=team&min_ttl=300000ms&wait=0ms"
        );
    }

    #[test]
    fn a_line_is_the_token_or_the_header() {
        let text = r#"{"access_token":"t","token_type":"Bearer","expires_at":null,"expires_in":null,"scope":"","generation":1,"stale":false,"warnings":[]}"#;
        let token: TokenJson<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(line(&token, false).as_str(), "t\n");
        assert_eq!(line(&token, true).as_str(), "Authorization: Bearer t\n");
    }
}
