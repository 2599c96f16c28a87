//! `tokenkeep api-key`: who else may ask the daemon, and for what.

use super::{client, confirm};
use crate::api::keys::{CONNECTIONS_PER_HOUR_MAX, KeyBody, KeyInfo, MadeKey};
use crate::api::session::{SETUP_LIFE, SetupJson};
use crate::cli::Common;
use crate::client::{Client, Request, TIMEOUT, encode};
use crate::env;
use crate::error::{CliError, Exit};
use crate::output::{self, Column, Field, relative, say};
use crate::{span, suggest};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use std::time::Duration;
use tokenkeep::access::{Pattern, Scope};
use tokenkeep_core::model::printable;
use zeroize::Zeroizing;

/// Of `api-key`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  (umask 077; tokenkeep api-key create ci --scope token --name 'jira*' --expires 90d > ci.key)
  TOKENKEEP_API_KEY_FILE=ci.key tokenkeep --url https://keep.example token jira
  tokenkeep api-key list
  tokenkeep api-key revoke 1f2e3d4c5b6a7980")]
pub struct ApiKeyArgs {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done about keys.
#[derive(Subcommand, Debug)]
pub enum Action {
    /// Make a key, and print it: nobody can see it again
    Create(CreateArgs),
    /// The keys, without what they are
    List(ListArgs),
    /// End a key at once, and every session that began with it
    Revoke(RevokeArgs),
    /// Make a link that signs in one browser
    Setup(SetupArgs),
}

/// Of `api-key create`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  (umask 077; tokenkeep api-key create ci --scope token --name 'jira*' --expires 90d > ci.key)
  tokenkeep api-key create monitor --scope status
  tokenkeep api-key create team-a --scope token,refresh,manage --namespace team-a
  tokenkeep api-key create ops --scope admin --json | jq -r .key

status sees how connections stand, and what happened; token takes access tokens; refresh has them refreshed; manage signs
in, imports, pauses, resumes and removes; admin may do everything. A scope holds no other, but admin all. `export`,
`backup`, `master-key rotate` and `api-key setup` are for no key: they need the socket.

A program sends it as `Authorization: Bearer KEY`; these commands read TOKENKEEP_API_KEY. Where a key asks for keys, those
may do no more than itself.")]
pub struct CreateArgs {
    /// What it is called, for people
    pub name: String,
    /// What it may do; separated by commas, or given many times
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',', value_parser = PossibleValuesParser::new(Scope::ALL.map(Scope::as_str)))]
    pub scopes: Vec<String>,
    /// Only in these namespaces; * stands for anything, and many may be given [default: all]
    // The id is that of the namespace that every command takes, in whose place it stands.
    #[arg(id = "namespace", long, short, value_name = "PATTERN", value_parser = pattern)]
    pub namespaces: Vec<String>,
    /// Only connections of these names; * stands for anything, and many may be given [default: all]
    #[arg(long = "name", value_name = "PATTERN", value_parser = pattern)]
    pub names: Vec<String>,
    /// When it ends by itself, from now on [default: never]
    #[arg(long, value_name = "SPAN", value_parser = life)]
    pub expires: Option<Duration>,
    /// How many connections' tokens it may read within an hour [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_PER_HOUR_MAX)))]
    pub connections_per_hour: Option<u32>,
    /// The key and all that it is, as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `api-key list`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep api-key list
  tokenkeep api-key list --json | jq -r '.[] | select(.expires_at == null).id'")]
pub struct ListArgs {
    /// An array of keys as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `api-key revoke`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep api-key revoke 1f2e3d4c5b6a7980
  tokenkeep api-key revoke 1f2e3d4c5b6a7980 --yes")]
pub struct RevokeArgs {
    /// The key's id, as `api-key list` shows it
    pub id: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Of `api-key setup`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep api-key setup
  xdg-open \"$(tokenkeep api-key setup)\"

Whoever opens the link first is signed in as the daemon's user. It serves once, for ten minutes; a new one ends the one
before. Browsers that come later sign in with an API key.")]
pub struct SetupArgs {
    /// The code, the link and when it ends, as JSON
    #[arg(long)]
    pub json: bool,
}

fn pattern(text: &str) -> Result<String, String> {
    Pattern::parse(text).map(|pattern| pattern.to_string())
}

fn life(text: &str) -> Result<Duration, String> {
    span::parse(text)
        .and_then(|span| if span.is_zero() { Err("expected more than nothing".to_owned()) } else { Ok(span) })
}

impl ApiKeyArgs {
    /// The namespaces of a key that is to be made; `None`: none is.
    #[cfg(test)]
    pub fn namespaces_of_create(&self, common: &Common) -> Option<Vec<String>> {
        match &self.action {
            Action::Create(args) => Some(namespaces(common, args)),
            _ => None,
        }
    }
}

/// Where nobody said one, what stands there is the default of every other command.
fn namespaces(common: &Common, args: &CreateArgs) -> Vec<String> {
    if common.said.namespace { args.namespaces.clone() } else { Vec::new() }
}

/// Makes, lists or ends keys.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub fn run(common: &Common, args: &ApiKeyArgs) -> Result<Exit, CliError> {
    match &args.action {
        Action::Create(args) => create(common, args),
        Action::List(args) => list(common, args),
        Action::Revoke(args) => revoke(common, args),
        Action::Setup(args) => setup(common, args),
    }
}

const TARGET: &str = "/v1/api-keys";

fn create(common: &Common, args: &CreateArgs) -> Result<Exit, CliError> {
    let body = KeyBody {
        name: args.name.clone(),
        scopes: args.scopes.clone(),
        namespaces: namespaces(common, args),
        names: args.names.clone(),
        connections_per_hour: args.connections_per_hour,
        expires_in: args.expires.map(|span| format!("{}ms", span.as_millis())),
        expires_at: None,
    };
    let body =
        serde_json::to_vec(&body).map_err(|error| CliError::new(format!("the request cannot be written: {error}")))?;
    let answer = client(common)?.post_json(TARGET, &body, TIMEOUT)?;
    let MadeKey { info, key } = answer.json()?;
    let key = Zeroizing::new(key);
    if args.json {
        output::write_json(&MadeKey { info: info.clone(), key: key.to_string() })?;
    } else {
        output::write(&Zeroizing::new(format!("{}\n", *key)))?;
    }
    say!("made the key {} ({}): {}; {}", info.id, printable(&info.name, 100), may(&info), ends(&info));
    say!(
        "it is shown this once: keep it, for {} or a file that {}{} names",
        env::API_KEY,
        env::API_KEY,
        env::FILE_SUFFIX
    );
    Ok(Exit::Ok)
}

/// What a key may do, in words: `token, refresh for connections jira* in namespaces team-a`.
fn may(key: &KeyInfo) -> String {
    let limit = |noun: &str, patterns: &[String]| match patterns {
        [] => String::new(),
        patterns => format!(" {noun} {}", patterns.join(", ")),
    };
    let names = limit("for connections", &key.names);
    format!("{}{names}{}", key.scopes.join(", "), limit("in namespaces", &key.namespaces))
}

fn ends(key: &KeyInfo) -> String {
    key.expires_at.as_ref().map_or_else(|| "it does not end by itself".to_owned(), |at| format!("it ends at {at}"))
}

fn list(common: &Common, args: &ListArgs) -> Result<Exit, CliError> {
    let keys: Vec<KeyInfo> = client(common)?.pages(TARGET)?;
    if args.json {
        output::write_json(&keys)?;
    } else if keys.is_empty() {
        say!("no API keys; `tokenkeep api-key create NAME --scope token` makes one");
    } else {
        output::write(&table(&keys, output::now_ms(), output::width()))?;
    }
    Ok(Exit::Ok)
}

/// The columns of [`table`].
const COLUMNS: [Column; 8] = [
    Column { title: "ID", expendable: 0 },
    Column { title: "NAME", expendable: 0 },
    Column { title: "SCOPES", expendable: 0 },
    Column { title: "NAMESPACES", expendable: 2 },
    Column { title: "CONNECTIONS", expendable: 2 },
    Column { title: "ENDS", expendable: 1 },
    Column { title: "LAST USED", expendable: 3 },
    Column { title: "MADE BY", expendable: 4 },
];

fn table(keys: &[KeyInfo], now_ms: i64, width: Option<usize>) -> String {
    let patterns = |patterns: &[String]| if patterns.is_empty() { "all".to_owned() } else { patterns.join(",") };
    let row = |key: &KeyInfo| {
        let ends = key.expires_at.as_deref().map_or_else(|| "never".to_owned(), |at| relative(Some(at), now_ms));
        let fields = [
            key.id.clone(),
            printable(&key.name, 100),
            key.scopes.join(","),
            patterns(&key.namespaces),
            patterns(&key.names),
            ends,
            relative(key.last_used_at.as_deref(), now_ms),
            key.created_by.clone(),
        ];
        fields.map(Field::Text).to_vec()
    };
    let rows: Vec<Vec<Field>> = keys.iter().map(row).collect();
    output::fitted(&COLUMNS, &rows, width)
}

fn revoke(common: &Common, args: &RevokeArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    let shown = printable(&args.id, 60);
    let target = format!("{TARGET}/{}", encode(&args.id));
    let explain = |error| with_suggestion(error, &client, &args.id);
    if !args.yes {
        confirm::somebody_is_there(&format!("revoking the key `{shown}` cannot be undone"))?;
        let key: KeyInfo = client.get(&target).map_err(explain)?.json()?;
        let question = format!(
            "Revoke the key {} ({}), which has {}? What asks with it is refused from then on.",
            key.id,
            printable(&key.name, 100),
            may(&key)
        );
        if !confirm::ask(&question) {
            return Err(CliError::new("nothing was revoked"));
        }
    }
    client.send(Request { method: "DELETE", target: &target, body: None, timeout: TIMEOUT }).map_err(explain)?;
    say!("revoked {shown}");
    Ok(Exit::Ok)
}

/// Adds the id that was probably meant: people also give a key's name.
fn with_suggestion(error: CliError, client: &Client, given: &str) -> CliError {
    if error.exit() != Exit::NotFound {
        return error;
    }
    let Ok(keys) = client.pages::<KeyInfo>(TARGET) else { return error };
    let mut named = keys.iter().filter(|key| key.name == given);
    match (named.next(), named.next()) {
        (Some(key), None) => error.next_step(format!("did you mean `{}`, the id of that name's key?", key.id)),
        (Some(_), Some(_)) => error.next_step("several keys have this name: `tokenkeep api-key list` shows their ids"),
        (None, _) => match suggest::nearest(given, keys.iter().map(|key| key.id.as_str())) {
            Some(meant) => error.next_step(format!("did you mean `{meant}`?")),
            None => error,
        },
    }
}

fn setup(common: &Common, args: &SetupArgs) -> Result<Exit, CliError> {
    let client = common.socket_client("api-key setup")?;
    let made: SetupJson = client.post("/v1/session/setup")?.json()?;
    if args.json {
        output::write_json(&made)?;
        return Ok(Exit::Ok);
    }
    let Some(url) = made.url.map(Zeroizing::new) else {
        return Err(CliError::new("browsers cannot reach this daemon: it does not listen on TCP")
            .next_step("start it with --listen, as in `tokenkeep serve --listen 127.0.0.1:7878`"));
    };
    output::write(&Zeroizing::new(format!("{}\n", *url)))?;
    say!("open this link in your browser: it signs in once, within {}", span::show(SETUP_LIFE));
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json::parse_time;

    fn key(id: &str, limited: bool) -> KeyInfo {
        let some = |text: &str| if limited { vec![text.to_owned()] } else { Vec::new() };
        KeyInfo {
            id: id.to_owned(),
            name: "ci".to_owned(),
            scopes: vec!["status".to_owned(), "token".to_owned()],
            namespaces: some("team-*"),
            names: some("jira"),
            connections_per_hour: 1_000,
            created_at: None,
            created_by: "uid:0".to_owned(),
            expires_at: limited.then(|| "2026-11-24T10:00:00Z".to_owned()),
            last_used_at: None,
        }
    }

    #[test]
    fn a_line_tells_what_a_key_may_do() {
        let now = parse_time("2026-11-23T09:30:00Z").unwrap().as_millis();
        assert_eq!(
            table(&[key("1f", true), key("2e", false)], now, None),
            "ID  NAME  SCOPES        NAMESPACES  CONNECTIONS  ENDS      LAST USED  MADE BY\n\
             1f  ci    status,token  team-*      jira         in 1d 0h  -          uid:0\n\
             2e  ci    status,token  all         all          never     -          uid:0\n"
        );
        assert_eq!(may(&key("1f", true)), "status, token for connections jira in namespaces team-*");
        assert_eq!(may(&key("1f", false)), "status, token");
    }
}
