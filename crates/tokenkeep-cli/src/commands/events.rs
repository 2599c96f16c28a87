//! `tokenkeep events`: the history, and with `--follow` what happens.

mod hook;

use super::client;
use crate::api::json::{EventJson, Page, ResyncJson, parse_time};
use crate::cli::{Common, shown};
use crate::client::follow::{Follower, News};
use crate::client::{Client, encode};
use crate::error::{CliError, Exit};
use crate::output::{self, say, to_stderr};
use crate::span;
use clap::Args;
use hook::Hook;
use std::ffi::OsString;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::printable;

/// Of `events`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep events --since 1h
  tokenkeep events jira --follow
  tokenkeep events --follow --json | jq -r .message
  tokenkeep events --follow --exec ./notify.sh --channel ops    each event as JSON on its standard input")]
pub struct EventsArgs {
    /// Only this connection; without it, events of every namespace
    #[arg(value_parser = crate::cli::name)]
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
    /// Run CMD for each event, one after the other, without a shell; what follows are its arguments, so this comes last
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true, conflicts_with = "json")]
    pub exec: Vec<OsString>,
}

/// The reason of a `resync` after which numbers mean something else.
const UNKNOWN: &str = "unknown";
/// How many events one request brings.
const PAGE: usize = 1_000;

/// Prints events, oldest first, or gives each to a command.
///
/// # Errors
/// The daemon does not answer; or, without `--follow`, the command failed for an event.
pub fn run(common: &Common, args: &EventsArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    let base = base_target(common, args, output::now_ms())?;
    let mut teller = Teller::new(args);
    if args.follow {
        return follow(&client, common, args, &base, &mut teller);
    }
    history(&client, &base, &mut 0, &mut teller).map_err(Trouble::into_error)?;
    Ok(if teller.failed == 0 { Exit::Ok } else { Exit::Error })
}

/// What can go wrong while events are told.
enum Trouble {
    /// The daemon does not answer.
    Daemon(CliError),
    /// They cannot be written.
    Output(CliError),
}

impl Trouble {
    fn into_error(self) -> CliError {
        let (Self::Daemon(error) | Self::Output(error)) = self;
        error
    }
}

/// Tells every stored event behind `told`, which moves along.
fn history(client: &Client, base: &str, told: &mut u64, teller: &mut Teller) -> Result<(), Trouble> {
    loop {
        let answer = client.get(&format!("{base}&after={told}")).map_err(Trouble::Daemon)?;
        let page: Page<EventJson> = answer.json().map_err(Trouble::Daemon)?;
        for event in &page.items {
            teller.tell(event).map_err(Trouble::Output)?;
            *told = event.id;
        }
        if page.next_cursor.is_none() {
            return Ok(());
        }
    }
}

/// Tells what happens, each event once, whatever the daemon does meanwhile. Ends only with an error.
fn follow(
    client: &Client,
    common: &Common,
    args: &EventsArgs,
    base: &str,
    teller: &mut Teller,
) -> Result<Exit, CliError> {
    let (mut follower, hello) = Follower::start(client, stream_target(common, args))?;
    // Everything up to here has been told.
    let mut told = 0;
    if args.since.is_some() {
        history(client, base, &mut told, teller).map_err(Trouble::into_error)?;
    }
    told = told.max(hello.last_id);
    loop {
        match follower.next() {
            News::Event(event) if event.id > told => {
                teller.tell(&event)?;
                told = event.id;
            }
            News::Resync(resync) => {
                say!("events may be missing here: {}", why(&resync));
                let missed = catch_up(client, &history_target(common, args), &resync, &mut told, teller);
                match missed {
                    Ok(()) => {}
                    Err(Trouble::Daemon(_)) => follower.go_on_behind(told),
                    Err(Trouble::Output(error)) => return Err(error),
                }
            }
            News::Lost(why) => to_stderr(&why.next_step("nothing to do: waiting for the daemon").report()),
            News::Refused(why) => return Err(why),
            News::Back => say!("the daemon is back: going on where it stopped"),
            News::Event(_) | News::Step(_) => {}
        }
    }
}

/// Tells what the stream left out, as far as it is stored.
fn catch_up(
    client: &Client,
    base: &str,
    resync: &ResyncJson,
    told: &mut u64,
    teller: &mut Teller,
) -> Result<(), Trouble> {
    if resync.reason == UNKNOWN {
        // Numbers begin again, or go on elsewhere: what was told says nothing about them.
        *told = resync.last_id;
        return Ok(());
    }
    history(client, base, told, teller)?;
    *told = (*told).max(resync.last_id);
    Ok(())
}

fn why(resync: &ResyncJson) -> &'static str {
    match resync.reason.as_str() {
        UNKNOWN => "the daemon's history is another one than before; going on with what happens now",
        "gone" => "the daemon does not keep the oldest of them any more",
        _ => "the stream fell behind; reading what is stored",
    }
}

/// Where events go.
struct Teller {
    form: Form,
    /// How many events a command failed for.
    failed: u64,
}

enum Form {
    Lines,
    Json,
    Hook(Hook),
}

impl Teller {
    fn new(args: &EventsArgs) -> Self {
        let form = match (Hook::new(&args.exec), args.json) {
            (Some(hook), _) => Form::Hook(hook),
            (None, true) => Form::Json,
            (None, false) => Form::Lines,
        };
        Self { form, failed: 0 }
    }

    /// A command that fails is reported, and the next event comes.
    fn tell(&mut self, event: &EventJson) -> Result<(), CliError> {
        match &self.form {
            Form::Lines => output::write(&line(event)),
            Form::Json => output::write_json_line(event),
            Form::Hook(hook) => {
                if let Err(error) = hook.call(event) {
                    self.failed += 1;
                    to_stderr(&error.report());
                }
                Ok(())
            }
        }
    }
}

/// The connection that is asked about, as parameters.
fn whose(common: &Common, args: &EventsArgs) -> String {
    let whose = |name| format!("&connection={}&namespace={}", encode(name), encode(&common.namespace));
    args.name.as_deref().map(whose).unwrap_or_default()
}

fn stream_target(common: &Common, args: &EventsArgs) -> String {
    format!("/v1/events/stream?kinds=event{}", whose(common, args))
}

fn history_target(common: &Common, args: &EventsArgs) -> String {
    format!("/v1/events?limit={PAGE}{}", whose(common, args))
}

fn base_target(common: &Common, args: &EventsArgs, now_ms: i64) -> Result<String, CliError> {
    let mut target = history_target(common, args);
    let since = args.since.as_deref().map(|text| parse_since(text, now_ms)).transpose()?;
    if let Some(since) = since
        && let Ok(date) = jiff::Timestamp::from_millisecond(since.as_millis())
    {
        target.push_str(&format!("&since={}", encode(&date.to_string())));
    }
    Ok(target)
}

fn parse_since(text: &str, now_ms: i64) -> Result<Timestamp, CliError> {
    if let Ok(span) = span::parse(text) {
        return Ok(Timestamp::from_millis(now_ms) - span);
    }
    parse_time(text).ok_or_else(|| {
        CliError::usage("--since is neither a time nor a span of time")
            .evidence(format!("found `{}`", printable(text, 60)))
            .next_step("expected 2026-11-23T10:00:00Z, or a span before now such as 1h")
    })
}

/// An event as people read it.
#[must_use]
pub fn line(event: &EventJson) -> String {
    let namespace = event.namespace.as_deref().unwrap_or_default();
    let connection = event.connection.as_deref().map(|name| shown(namespace, name));
    format!(
        "{}  {:<26}  {}  {}\n",
        event.at.as_deref().unwrap_or("-"),
        event.r#type,
        connection.as_deref().unwrap_or("-"),
        event.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn asked(line: &str) -> Result<String, Exit> {
        let words = std::iter::once("tokenkeep").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        let Command::Events(args) = &cli.command else { panic!("another command") };
        base_target(&cli.common, args, NOW_MS).map_err(|error| error.exit())
    }

    #[test]
    fn the_history_is_whole_unless_a_time_is_given() {
        assert_eq!(asked("events").unwrap(), "/v1/events?limit=1000");
        assert_eq!(asked("events jira").unwrap(), "/v1/events?limit=1000&connection=jira&namespace=default");
        assert_eq!(asked("events --since 1h").unwrap(), "/v1/events?limit=1000&since=2027-01-15T07:00:00Z");
        assert_eq!(
            asked("events --since 2026-01-01T00:00:00Z").unwrap(),
            "/v1/events?limit=1000&since=2026-01-01T00:00:00Z"
        );
        assert_eq!(asked("events --since yesterday"), Err(Exit::Usage));
    }

    #[test]
    fn what_follows_exec_is_the_commands() {
        let words = "tokenkeep events jira -f --exec ./notify.sh --json -x jira".split_whitespace();
        let Command::Events(args) = Cli::try_parse_from(words).unwrap().command else { panic!("another command") };
        assert_eq!(args.exec, ["./notify.sh", "--json", "-x", "jira"]);
        assert!(args.follow && !args.json);
    }
}
