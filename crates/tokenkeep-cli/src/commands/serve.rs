//! `tokenkeep serve`: the daemon.

use crate::cli::Common;
use crate::config::parse_listen;
use crate::config::{self, LISTEN_DEFAULT, ProviderSettings, Settings, Sources};
use crate::daemon::{Daemon, Listen, Signals, block_on, harden};
use crate::error::{CliError, Exit};
use crate::logging::{self, Format};
use crate::output::say;
use crate::{env, state_dir};
use clap::Args;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

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
    /// How the log is written, text or json [default: text, or what TOKENKEEP_LOG_FORMAT says]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<Format>,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// It does not start, or cannot go on.
pub fn run(common: &Common, args: &ServeArgs) -> Result<Exit, CliError> {
    logging::start("info", args.log_format)?;
    harden();
    let state_dir = common.state_dir()?;
    state_dir::socket(&state_dir)?;
    let settings = settings(args.config.as_deref())?;
    describe(&settings);
    let listen = match args.listen.or(settings.listen) {
        Some(address) => Listen::Chosen(address),
        None => Listen::Default(LISTEN_DEFAULT),
    };
    block_on(serve(settings.into_config(state_dir), listen))?;
    Ok(Exit::Ok)
}

async fn serve(config: tokenkeep::Config, listen: Listen) -> Result<(), CliError> {
    let signals = Signals::new()?;
    let daemon = Daemon::start(config, listen).await?;
    tracing::info!(socket = %daemon.socket().display(), tcp = ?daemon.tcp(), "listening");
    // Whoever started us waits for this line.
    say!("ready");
    daemon.run(signals).await
}

/// The configuration, or without one the environment and the defaults.
fn settings(path: Option<&Path>) -> Result<Settings, CliError> {
    let text = path.map(read).transpose()?.unwrap_or_default();
    let file = |path: &Path| fs::read_to_string(path);
    let sources = Sources { env: &env::read, file: &file };
    Ok(config::parse(&text, path.unwrap_or(Path::new("(no configuration)")), sources)?)
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|error| {
        CliError::new(format!("the configuration {} cannot be read: {error}", path.display()))
            .next_step("name a readable TOML file with --config, or leave it out for the defaults")
    })
}

/// Says how the configuration was understood.
fn describe(settings: &Settings) {
    if let Some(url) = &settings.public_url {
        tracing::debug!(%url, "public URL");
    }
    if settings.providers.is_empty() {
        tracing::warn!("the configuration has no provider: nothing can be imported");
    }
    for ProviderSettings { provider, endpoints } in &settings.providers {
        tracing::info!(
            name = provider.name,
            token_url = %provider.token_url,
            rotation = %provider.rules.rotation,
            client_auth = provider.rules.client_auth.as_str(),
            "provider"
        );
        tracing::debug!(
            name = provider.name,
            authorize_url = endpoints.authorize_url.as_ref().map(tracing::field::display),
            revoke_url = endpoints.revoke_url.as_ref().map(tracing::field::display),
            device_url = endpoints.device_url.as_ref().map(tracing::field::display),
            "further endpoints"
        );
    }
}
