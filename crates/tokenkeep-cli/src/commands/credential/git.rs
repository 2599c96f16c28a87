//! `tokenkeep credential git`: git-credential(1), as git speaks it with its helpers.
//!
//! git 2.46 and later take a scheme and a token (`authtype`, `credential`), earlier ones a user name and a password,
//! which git sends as Basic. A server that offers nothing but Basic gets that from either.

use super::{host_of, labelled_with_host, names_host, read_input, unix_seconds};
use crate::api::guard::is_loopback;
use crate::api::json::TokenJson;
use crate::cli::{Common, target};
use crate::client::TIMEOUT;
use crate::commands::token::{self, Wanted};
use crate::commands::{client, connection, refresh};
use crate::error::{CliError, Exit};
use crate::output;
use clap::Args;
use serde_json::json;
use std::fmt::Write as _;
use zeroize::Zeroizing;

/// The label that names the hosts whose credential a connection is.
const HOST_LABEL: &str = "git.host";

/// Of `credential git`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  git config --global credential.https://git.example.com.helper '!tokenkeep credential git --connection work'
  git config --global --add credential.helper '!tokenkeep credential git'

The first names the connection for one host. The second serves every host that a connection names by its label:
`tokenkeep import work --label git.host=git.example.com ...` (several hosts are separated by commas, a port is
part of the host). A connection that has the label is given to no other host. A token goes out by https only, or
to this machine.

`get` answers with the token and when it ends. `erase`, which git calls when a server refuses the token, has it
refreshed, so that the next command gets a new one. `store` keeps nothing: Tokenkeep has the token already.")]
pub struct GitArgs {
    /// The connection [default: the one whose label git.host names the host]
    #[arg(long, value_name = "NAME", value_parser = crate::cli::name)]
    pub connection: Option<String>,
    /// The user name for servers that want Basic: oauth2 for GitLab, x-token-auth for Bitbucket, anything for GitHub
    #[arg(long, value_name = "USER", default_value = "oauth2", value_parser = username)]
    pub username: String,
    /// How fresh.
    #[command(flatten)]
    pub wanted: Wanted,
    /// What git wants: get, store or erase
    pub operation: String,
}

/// Control characters would be lines of the protocol.
fn username(text: &str) -> Result<String, String> {
    let is_fit = !text.is_empty() && !text.chars().any(char::is_control);
    if is_fit { Ok(text.to_owned()) } else { Err("expected a user name without control characters".to_owned()) }
}

/// Answers git. Operations that are not known are ignored, as gitcredentials(7) wants it.
///
/// # Errors
/// git speaks no git-credential, or there is no token.
pub fn run(common: &Common, args: &GitArgs) -> Result<Exit, CliError> {
    let text = read_input()?;
    let ask = Ask::read(&text)?;
    match args.operation.as_str() {
        "get" => get(common, args, &ask)?,
        "erase" => erase(common, args, &ask)?,
        _ => {}
    }
    Ok(Exit::Ok)
}

/// What git says. It has no `Debug`: an `erase` holds the token.
#[derive(Default)]
struct Ask<'a> {
    protocol: &'a str,
    host: &'a str,
    username: Option<&'a str>,
    /// The `credential` or the `password` that was refused.
    refused: Option<&'a str>,
    takes_authtype: bool,
    /// The challenges of the server, its `WWW-Authenticate` lines.
    challenges: Vec<&'a str>,
}

impl<'a> Ask<'a> {
    fn read(text: &'a str) -> Result<Self, CliError> {
        let mut ask = Self::default();
        for line in text.lines().take_while(|line| !line.is_empty()) {
            // The line itself may be a secret.
            let (key, value) = line.split_once('=').ok_or_else(|| {
                CliError::new("a line on standard input is no `key=value`")
                    .next_step("let git call this command: `tokenkeep credential git --help` says how")
            })?;
            match key {
                "protocol" => ask.protocol = value,
                "host" => ask.host = value,
                "username" => ask.username = Some(value),
                "password" | "credential" => ask.refused = Some(value),
                "capability[]" => ask.takes_authtype |= value == "authtype",
                // An empty value starts the list anew.
                "wwwauth[]" if value.is_empty() => ask.challenges.clear(),
                "wwwauth[]" => ask.challenges.push(value),
                _ => {}
            }
        }
        Ok(ask)
    }

    /// A token in plain text on a network is anybody's (RFC 6750 section 5.3).
    fn check_protocol(&self) -> Result<(), CliError> {
        if self.protocol == "https" || (self.protocol == "http" && is_loopback(self.host)) {
            return Ok(());
        }
        let found = tokenkeep_core::model::printable(self.protocol, 20);
        Err(CliError::new(format!("no token is given over `{found}`; expected https"))
            .next_step("change the remote's URL: `git remote set-url`"))
    }

    /// Whether the token goes under its own scheme; else it is a password.
    fn takes_scheme(&self, scheme: &str) -> bool {
        // One line may hold several challenges; a parameter between them is no scheme, and does no harm.
        let pieces = self.challenges.iter().flat_map(|line| line.split(','));
        let first_word = |piece: &str| piece.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        let offered: Vec<String> = pieces.map(first_word).collect();
        let only_basic = offered.iter().any(|it| it == "basic") && !offered.contains(&scheme.to_ascii_lowercase());
        self.takes_authtype && !only_basic
    }
}

fn get(common: &Common, args: &GitArgs, ask: &Ask<'_>) -> Result<(), CliError> {
    let Some(name) = choose(common, args, ask)? else { return Ok(()) };
    ask.check_protocol()?;
    let answer = token::fetch(common, &name, args.wanted)?;
    let token: TokenJson<'_> = answer.json()?;
    token::say_warnings(&token);
    output::write(&lines(ask, &token, &args.username))
}

/// The connection for this host; `None` leaves git to its other helpers.
fn choose(common: &Common, args: &GitArgs, ask: &Ask<'_>) -> Result<Option<String>, CliError> {
    let host = host_of(ask.host);
    let Some(name) = &args.connection else {
        return Ok(labelled_with_host(common, HOST_LABEL, host)?.map(|connection| connection.name));
    };
    let connection = connection(&client(common)?, common, name)?;
    let is_meant = connection.labels.get(HOST_LABEL).is_none_or(|hosts| names_host(hosts, host));
    Ok(is_meant.then_some(connection.name))
}

fn lines(ask: &Ask<'_>, token: &TokenJson<'_>, username: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(token.access_token.len() + 256));
    let (kind, secret) = (&token.token_type, &token.access_token);
    // Writing to a String cannot fail, here and below.
    let _ = if ask.takes_scheme(kind) {
        // Ephemeral: other helpers need not keep what is gone in an hour.
        writeln!(text, "capability[]=authtype\nauthtype={kind}\ncredential={secret}\nephemeral=1")
    } else {
        writeln!(text, "username={}\npassword={secret}", ask.username.unwrap_or(username))
    };
    if let Some(end) = token.expires_at.as_deref().and_then(unix_seconds) {
        let _ = writeln!(text, "password_expiry_utc={end}");
    }
    text
}

/// Reports the token that a server refused. One that is not in hand any more changes nothing.
fn erase(common: &Common, args: &GitArgs, ask: &Ask<'_>) -> Result<(), CliError> {
    let Some(refused) = ask.refused else { return Ok(()) };
    let Some(name) = choose(common, args, ask)? else { return Ok(()) };
    let body = json!({"rejected": tokenkeep::fingerprint(refused)}).to_string();
    let target = target(&common.namespace, &name, "/refresh");
    let answer = client(common)?.post_json(&target, body.as_bytes(), TIMEOUT)?;
    refresh::check(answer.status, &answer.json()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = r#"{"access_token":"t","token_type":"Bearer","expires_at":"2026-11-23T10:00:00.500Z","expires_in":60,"scope":"","generation":1,"stale":false,"warnings":[]}"#;

    fn answer(input: &str) -> String {
        let token: TokenJson<'_> = serde_json::from_str(TOKEN).unwrap();
        lines(&Ask::read(input).unwrap(), &token, "oauth2").to_string()
    }

    #[test]
    fn new_gits_get_a_scheme_and_old_ones_a_password() {
        let bearer =
            "capability[]=authtype\nauthtype=Bearer\ncredential=t\nephemeral=1\npassword_expiry_utc=1795428000\n";
        let basic = |user: &str| format!("username={user}\npassword=t\npassword_expiry_utc=1795428000\n");
        let new = "capability[]=authtype\ncapability[]=state\nprotocol=https\nhost=h\n";
        assert_eq!(answer(new), bearer);
        assert_eq!(answer(&format!("{new}wwwauth[]=bearer realm=\"x\"\nwwwauth[]=Basic realm=\"x\"\n")), bearer);
        let both = "wwwauth[]=Basic realm=\"x\", charset=\"UTF-8\", Bearer realm=\"x\"";
        assert_eq!(answer(&format!("{new}{both}\n")), bearer);
        assert_eq!(answer(&format!("{new}wwwauth[]=Basic realm=\"GitLab\"\n")), basic("oauth2"));
        assert_eq!(answer(&format!("{new}wwwauth[]=Basic\nwwwauth[]=\nwwwauth[]=Bearer\n")), bearer);
        assert_eq!(answer("protocol=https\nhost=h\n"), basic("oauth2"));
        assert_eq!(answer("protocol=https\nhost=h\nusername=ann\n\nrest=ignored\n"), basic("ann"));
    }

    #[test]
    fn a_token_goes_by_https_or_stays_on_this_machine() {
        for (protocol, host, goes) in [
            ("https", "git.example.com", true),
            ("http", "127.0.0.1:8080", true),
            ("http", "localhost", true),
            ("http", "git.example.com", false),
            ("http", "localhost.evil.test", false),
            ("smtp", "localhost", false),
            ("", "localhost", false),
        ] {
            let ask = Ask { protocol, host, ..Ask::default() };
            assert_eq!(ask.check_protocol().is_ok(), goes, "{protocol}://{host}");
        }
    }

    #[test]
    fn what_is_no_line_of_the_protocol_is_refused_without_being_shown() {
        let report = Ask::read("protocol=https\nhunter2\n").err().unwrap().report();
        assert!(report.contains("key=value") && !report.contains("hunter2"), "{report}");
    }
}
