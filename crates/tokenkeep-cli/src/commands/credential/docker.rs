//! `tokenkeep credential docker`: the protocol of docker-credential-helpers.
//!
//! docker runs `docker-credential-NAME OPERATION` with the server's address or a JSON object on standard input, and
//! reads errors from standard output.

use super::{host_of, labelled, labelled_with_host, read_input};
use crate::api::json::{ConnectionJson, TokenJson};
use crate::cli::Common;
use crate::commands::token::{self, Wanted};
use crate::commands::{client, connection};
use crate::error::{CliError, Exit};
use crate::output::{self, say};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// The name under which docker runs this program, as a link to it.
const PROGRAM: &str = "docker-credential-tokenkeep";
/// The label that names the registries whose credential a connection is.
const SERVER_LABEL: &str = "docker.server";
/// The label that names the user that a registry wants beside the token.
const USERNAME_LABEL: &str = "docker.username";
/// The user where no label says.
const USERNAME_DEFAULT: &str = "oauth2";
/// The words by which docker knows that a helper has nothing for a server.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Of `credential docker`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  ln -s \"$(command -v tokenkeep)\" ~/.local/bin/docker-credential-tokenkeep
  tokenkeep import registry --provider corp --label docker.server=registry.example.com --file token.json
  {\"credHelpers\": {\"registry.example.com\": \"tokenkeep\"}}      in ~/.docker/config.json

docker finds helpers by their name, so the link is enough; a state folder other than the default comes by
TOKENKEEP_STATE_DIR, or from a script of that name. The connection is the one whose label docker.server names the
registry. The user name is the label docker.username, else oauth2 (Google: oauth2accesstoken, Quay: $oauthtoken,
Azure: 00000000-0000-0000-0000-000000000000). Tokenkeep stores no passwords: `docker login` with another one fails.")]
pub struct DockerArgs {
    /// The connection [default: the one whose label docker.server names the registry]
    #[arg(long, value_name = "NAME", value_parser = crate::cli::name)]
    pub connection: Option<String>,
    /// How fresh.
    #[command(flatten)]
    pub wanted: Wanted,
    /// What docker wants: get, store, erase, list or version
    pub operation: String,
}

/// The command line; under docker's name for it, that of `credential docker`.
#[must_use]
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = given.into_iter().collect();
    let is_helper = words.first().is_some_and(|program| Path::new(program).file_stem().is_some_and(|n| n == PROGRAM));
    if is_helper {
        words.splice(..1, ["tokenkeep", "credential", "docker"].map(OsString::from));
    }
    words
}

/// Answers docker. Errors stand on both outputs: docker shows the one, people who try it see the other.
///
/// # Errors
/// As standard output says.
pub fn run(common: &Common, args: &DockerArgs) -> Result<Exit, CliError> {
    let helper = Docker { common, args };
    helper.answer().inspect_err(|error| {
        if let CliError::Told(told) = error {
            let next = told.next_step.as_deref().map(|next| format!("; next: {next}")).unwrap_or_default();
            // What cannot be written here stands on standard error.
            let _ = output::write(&format!("{}{next}\n", told.cause));
        }
    })
}

struct Docker<'a> {
    common: &'a Common,
    args: &'a DockerArgs,
}

/// What `get` answers and `store` brings. It has no `Debug`: it holds a secret.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials<'a> {
    #[serde(rename = "ServerURL")]
    server: Cow<'a, str>,
    username: Cow<'a, str>,
    secret: Cow<'a, str>,
}

impl Docker<'_> {
    fn answer(&self) -> Result<Exit, CliError> {
        match self.args.operation.as_str() {
            "get" => self.get(read_input()?.trim()),
            "store" => self.store(&read_input()?),
            "erase" => self.erase(read_input()?.trim()),
            "list" => self.list(),
            "version" => {
                output::write(&format!("{PROGRAM} (tokenkeep) v{}\n", env!("CARGO_PKG_VERSION")))?;
                Ok(Exit::Ok)
            }
            other => Err(CliError::usage(format!("docker's helpers know no `{other}`"))
                .next_step("expected get, store, erase, list or version")),
        }
    }

    fn get(&self, server: &str) -> Result<Exit, CliError> {
        let Some(connection) = self.choose(server)? else {
            output::write(&format!("{NOT_FOUND}\n"))?;
            return Ok(Exit::Error);
        };
        let answer = token::fetch(self.common, &connection.name, self.args.wanted)?;
        let token: TokenJson<'_> = answer.json()?;
        token::say_warnings(&token);
        let (username, secret) = (username(&connection).into(), Cow::from(&*token.access_token));
        output::write_json_line(&Credentials { server: server.into(), username, secret })?;
        Ok(Exit::Ok)
    }

    /// docker stores what it got from `get` after each login; only that is taken, as nothing is stored here.
    fn store(&self, text: &str) -> Result<Exit, CliError> {
        // The text around an error may be the secret.
        let brought: Credentials<'_> = serde_json::from_str(text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            CliError::new(format!("standard input: {place}; expected {{\"ServerURL\", \"Username\", \"Secret\"}}"))
        })?;
        if let Some(connection) = self.choose(&brought.server)? {
            let answer = token::fetch(self.common, &connection.name, Wanted::default())?;
            if answer.json::<TokenJson<'_>>()?.access_token == brought.secret {
                return Ok(Exit::Ok);
            }
        }
        let server = tokenkeep_core::model::printable(&brought.server, 80);
        Err(CliError::new(format!("Tokenkeep stores no passwords: what was given for {server} was not kept"))
            .next_step("leave this server to another helper in ~/.docker/config.json, or `tokenkeep import` its token"))
    }

    fn erase(&self, server: &str) -> Result<Exit, CliError> {
        if let Some(connection) = self.choose(server)? {
            say!("{} is kept; `tokenkeep remove {}` forgets it", connection.name, connection.name);
        }
        Ok(Exit::Ok)
    }

    fn list(&self) -> Result<Exit, CliError> {
        let mut servers: BTreeMap<String, String> = BTreeMap::new();
        for (connection, named) in labelled(self.common, SERVER_LABEL)? {
            let user = username(&connection);
            servers.extend(named.split(',').map(|server| (server.trim().to_owned(), user.to_owned())));
        }
        output::write_json_line(&servers)?;
        Ok(Exit::Ok)
    }

    fn choose(&self, server: &str) -> Result<Option<ConnectionJson>, CliError> {
        let Some(name) = &self.args.connection else {
            return labelled_with_host(self.common, SERVER_LABEL, host_of(server));
        };
        connection(&client(self.common)?, self.common, name).map(Some)
    }
}

fn username(connection: &ConnectionJson) -> &str {
    connection.labels.get(USERNAME_LABEL).map_or(USERNAME_DEFAULT, String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_s_name_stands_for_the_command() {
        let line =
            |words: &[&str]| arguments(words.iter().map(OsString::from)).join(" ".as_ref()).into_string().unwrap();
        assert_eq!(line(&["/usr/bin/docker-credential-tokenkeep", "get"]), "tokenkeep credential docker get");
        assert_eq!(line(&["docker-credential-tokenkeep.exe", "list"]), "tokenkeep credential docker list");
        assert_eq!(line(&["/usr/bin/tokenkeep", "list"]), "/usr/bin/tokenkeep list");
        assert!(arguments([]).is_empty());
    }
}
