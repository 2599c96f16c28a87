//! `tokenkeep demo`: the newcomer's first minute.
//!
//! One process runs three mock providers and the daemon, with a connection to each in a scratch folder.

use super::mock_provider;
use crate::api::json::{ConnectionJson, EventJson, Times};
use crate::commands::events;
use crate::config::LISTEN_DEFAULT;
use crate::config::parse_listen;
use crate::daemon::{Daemon, Listen, Signals, block_on, harden};
use crate::error::{CliError, Exit};
use crate::output::{self, relative, status_cell};
use crate::{logging, state_dir};
use clap::Args;
use comfy_table::Cell;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokenkeep::endpoint::hosts::ApiHost;
use tokenkeep::store::ListQuery;
use tokenkeep::{Config, Import, Provider, TokenKeep};
use tokenkeep_core::catalogue::{Preset, preset};
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::{ConnectionKey, Secret};
use tokenkeep_mock::{Dialect, FaultPlan, GrantOptions, Server};
use tokio::sync::broadcast::error::RecvError;
use url::Url;

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
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = crate::cli::ttl)]
    pub access_ttl: Duration,
}

/// How often the live table is drawn.
const DRAW_EVERY: Duration = Duration::from_secs(1);

/// A connection of the demo, and what the mock is to be like.
struct Sample {
    name: &'static str,
    dialect: Dialect,
}

const SAMPLES: [Sample; 3] = [
    Sample { name: "jira", dialect: Dialect::Atlassian },
    Sample { name: "github", dialect: Dialect::GitHub },
    Sample { name: "google", dialect: Dialect::Google },
];

/// Runs the demo until a signal ends it.
///
/// # Errors
/// It does not start, or cannot go on.
pub fn run(args: &DemoArgs) -> Result<Exit, CliError> {
    // The table owns the terminal: only what is wrong may come between.
    logging::start("warn", None)?;
    harden();
    block_on(demo(args))?;
    Ok(Exit::Ok)
}

async fn demo(args: &DemoArgs) -> Result<(), CliError> {
    let signals = Signals::new()?;
    let folder = scratch()?;
    let mocks = start(args.access_ttl).await?;
    let listen = args.listen.map_or(Listen::Default(LISTEN_DEFAULT), Listen::Chosen);
    let daemon = Daemon::start(config(folder.path(), &mocks)?, listen, None, Arc::default(), None).await?;
    let imported = import(daemon.keep(), &mocks).await;
    let watched = match imported {
        Ok(()) => {
            output::write(&told(&daemon, &mocks, folder.path()))?;
            let watching = tokio::spawn(watch(daemon.keep().clone()));
            let ended = daemon.run(signals).await;
            watching.abort();
            ended
        }
        Err(error) => {
            daemon.stop(&crate::daemon::End::Asked).await;
            Err(error)
        }
    };
    for mock in mocks {
        mock.shutdown().await;
    }
    watched
}

/// A provider for each sample.
async fn start(access_ttl: Duration) -> Result<Vec<Server>, CliError> {
    let mut mocks = Vec::new();
    for sample in &SAMPLES {
        let config = mock_provider::config(sample.dialect, None, access_ttl, seed());
        let any = ([127, 0, 0, 1], 0).into();
        mocks.push(mock_provider::start(any, config, FaultPlan::none()).await?);
    }
    Ok(mocks)
}

/// A folder that goes with the demo.
fn scratch() -> Result<TempDir, CliError> {
    let folder = tempfile::Builder::new().prefix("tokenkeep-demo-").tempdir().map_err(|error| {
        CliError::new(format!("no scratch folder can be made: {error}"))
            .next_step("make the folder that TMPDIR names writable")
    })?;
    state_dir::socket(folder.path())?;
    Ok(folder)
}

/// Another one each time, so that no two demos have the same tokens.
fn seed() -> u64 {
    output::now_ms().unsigned_abs()
}

fn config(state_dir: &Path, mocks: &[Server]) -> Result<Config, CliError> {
    let providers: Result<Vec<Provider>, CliError> = SAMPLES.iter().zip(mocks).map(provider).collect();
    Ok(Config { providers: providers?, ..Config::new(state_dir) })
}

/// The row of the catalogue that describes a sample's provider.
fn row(sample: &Sample) -> Option<&'static Preset> {
    mock_provider::preset(sample.dialect).and_then(preset)
}

/// The provider of a sample: the catalogue's rules, and the mock's address.
fn provider((sample, mock): (&Sample, &Server)) -> Result<Provider, CliError> {
    let token_url = Url::parse(&mock.url("/token"))
        .map_err(|error| CliError::new(format!("the mock provider's URL is none: {error}")))?;
    let client = Client { id: "mock-client".to_owned(), secret: Some(Secret::new("mock-secret")) };
    let rules = row(sample).map(|preset| preset.rules.clone()).unwrap_or_default();
    Ok(Provider {
        preset: row(sample).map(|preset| preset.id),
        api_hosts: ApiHost::configured(&mock.url("")).into_iter().collect(),
        ..Provider::new(sample.name, token_url, client, rules)
    })
}

/// Makes a grant for each sample and imports it, as a person would import a token file.
async fn import(keep: &TokenKeep, mocks: &[Server]) -> Result<(), CliError> {
    for (sample, mock) in SAMPLES.iter().zip(mocks) {
        let grant = mock.state().grant(GrantOptions { label: sample.name.to_owned(), ..GrantOptions::default() });
        let token = serde_json::to_string(&grant.token)
            .map_err(|error| CliError::new(format!("the mock provider's token cannot be written: {error}")))?;
        let key = ConnectionKey::in_default(sample.name).map_err(|error| CliError::new(error.to_string()))?;
        let provider = sample.name.to_owned();
        keep.import(Import { key, provider, token: Secret::new(token), labels: None }).await?;
    }
    Ok(())
}

/// Where things are, and how to ask.
fn told(daemon: &Daemon, mocks: &[Server], folder: &Path) -> String {
    let http = match daemon.tcp() {
        Some(address) => format!("http://{address}/v1/summary (and /livez, /readyz)"),
        None => "off: the default port is in use".to_owned(),
    };
    let providers = SAMPLES.iter().zip(mocks);
    let providers: String =
        providers.map(|(sample, mock)| format!("  {:<8}  {}\n", sample.name, mock.url(""))).collect();
    let jira = mocks.first().map_or_else(String::new, |mock| jira(mock, folder));
    let folder = folder.display();
    format!(
        "Tokenkeep keeps three connections fresh; Ctrl-C ends it and removes everything.\n\n\
         {providers}  socket    {}\n  http      {http}\n\n\
         Ask from another terminal:\n  \
         tokenkeep --state-dir {folder} token jira\n  \
         tokenkeep --state-dir {folder} status\n  \
         tokenkeep --state-dir {folder} events --follow\n\
         {jira}\n",
        daemon.socket().display()
    )
}

/// How to use and to break the Jira.
fn jira(mock: &Server, folder: &Path) -> String {
    let folder = folder.display();
    let (url, cloud) = (mock.url(""), mock.state().cloud_id());
    format!(
        "Use the token, then lose an answer and see what becomes of it:\n  \
         curl -H \"$(tokenkeep --state-dir {folder} token jira --header)\" '{url}/ex/jira/{cloud}/rest/api/3/search/jql?jql=project%3DTK&fields=summary&maxResults=3'\n  \
         curl -d '{{\"faults\": [{{\"kind\": \"drop_after\"}}]}}' {url}/control/script\n"
    )
}

/// Shows what happens, until it is aborted or nobody reads.
async fn watch(keep: TokenKeep) {
    let shown = if std::io::stdout().is_terminal() { draw(&keep).await } else { print(&keep).await };
    if let Err(error) = shown {
        tracing::debug!(report = error.report(), "nothing is shown any more");
    }
}

async fn connections(keep: &TokenKeep) -> Result<Vec<ConnectionJson>, CliError> {
    let query = ListQuery { limit: tokenkeep::store::PAGE_MAX, ..ListQuery::default() };
    let found = keep.list(&query).await?;
    let times = Times::of(keep);
    Ok(found.iter().map(|connection| ConnectionJson::new(connection, &times)).collect())
}

/// A table that is drawn over itself.
async fn draw(keep: &TokenKeep) -> Result<(), CliError> {
    let mut every = tokio::time::interval(DRAW_EVERY);
    let mut lines = 0;
    loop {
        every.tick().await;
        let text = table(&connections(keep).await?, output::now_ms());
        output::write(&over(lines, &text))?;
        lines = text.lines().count();
    }
}

/// The text behind what goes to its beginning and clears what was there.
fn over(lines: usize, text: &str) -> String {
    if lines == 0 { text.to_owned() } else { format!("\x1b[{lines}A\x1b[J{text}") }
}

fn table(connections: &[ConnectionJson], now_ms: i64) -> String {
    let mut table = output::table(&["NAME", "CLASS", "STATUS", "GENERATION", "EXPIRES", "REFRESH", "RENEWED"]);
    for connection in connections {
        table.add_row([
            Cell::new(&connection.name),
            Cell::new(class(&connection.provider)),
            status_cell(&connection.status),
            Cell::new(connection.generation),
            Cell::new(relative(connection.access_expires_at.as_deref(), now_ms)),
            Cell::new(relative(connection.refresh_due_at.as_deref(), now_ms)),
            Cell::new(connection.stats.succeeded),
        ]);
    }
    output::text_of(&table)
}

fn class(provider: &str) -> String {
    let sample = SAMPLES.iter().find(|sample| sample.name == provider);
    sample.and_then(row).map_or_else(|| "-".to_owned(), |preset| preset.rules.rotation.to_string())
}

/// A line for each connection, then one for each event.
async fn print(keep: &TokenKeep) -> Result<(), CliError> {
    let mut news = keep.subscribe();
    for connection in connections(keep).await? {
        let expires = relative(connection.access_expires_at.as_deref(), output::now_ms());
        let class = class(&connection.provider);
        output::write(&format!("{}  {class}  {}  expires {expires}\n", connection.name, connection.status))?;
    }
    loop {
        match news.recv().await {
            Ok(event) => output::write(&events::line(&EventJson::new(&event, &Times::of(keep))))?,
            Err(RecvError::Lagged(missed)) => output::write(&format!("({missed} events were not shown)\n"))?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_status;
    use super::*;

    #[tokio::test]
    async fn each_sample_s_mock_has_the_rules_of_the_catalogue() {
        let mocks = start(Duration::from_secs(60)).await.unwrap();
        let config = config(Path::new("/s"), &mocks).unwrap();
        for ((sample, mock), provider) in SAMPLES.iter().zip(&mocks).zip(&config.providers) {
            let like = mock.state().with_provider(|provider| provider.config().clone());
            let rules = &provider.rules;
            assert_eq!(provider.name, sample.name);
            assert_eq!(rules.rotation.to_string(), like.rotation.to_string());
            let seconds = |span: Option<Duration>| span.map(|span| span.as_secs());
            assert_eq!(seconds(rules.idle_life), like.refresh_idle_s, "{}", sample.name);
            assert_eq!(seconds(rules.absolute_life), like.grant_life_s, "{}", sample.name);
            let ends_after = like.rotation_ends_access_after_s.map(u64::from);
            assert_eq!(seconds(rules.rotation_ends_access_after), ends_after, "{}", sample.name);
        }
        for mock in mocks {
            mock.shutdown().await;
        }
    }

    #[test]
    fn the_table_shows_the_class_and_is_drawn_over_itself() {
        let jira = ConnectionJson { provider: "jira".to_owned(), ..with_status("fresh") };
        let text = table(&[jira], 0);
        assert!(text.contains("grace:600"), "{text}");
        assert_eq!(over(0, "x"), "x");
        assert_eq!(over(4, "x"), "\x1b[4A\x1b[Jx");
    }
}
