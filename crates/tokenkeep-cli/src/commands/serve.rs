//! `tokenkeep serve`: the daemon.

use crate::cli::Common;
use crate::config::files::{self, Given, Loaded};
use crate::config::live::Live;
use crate::config::{LISTEN_DEFAULT, ProviderSettings, Settings, parse_address};
use crate::daemon::{Daemon, Listen, Signals, block_on, harden, raise_limits};
use crate::error::{CliError, Exit};
use crate::logging::{self, Format};
use crate::output::say;
use crate::reload::{Hangups, Reloader};
use crate::tls::Tls;
use crate::{discovered, env, state_dir};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of `serve`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep serve --config tokenkeep.toml
  tokenkeep serve --state-dir /tmp/tk --listen 127.0.0.1:0
  TOKENKEEP_LOG=debug tokenkeep serve

`ready` on standard error says that the socket answers. SIGHUP makes it read the configuration again.")]
pub struct ServeArgs {
    /// The configuration, TOML [default: $XDG_CONFIG_HOME/tokenkeep/tokenkeep.toml, as root /etc/tokenkeep/tokenkeep.toml,
    /// if it is there]
    #[arg(long, env = env::CONFIG, value_name = "F", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Where to serve the API over TCP [default: 127.0.0.1:7878]
    #[arg(long, value_name = "A", value_parser = parse_address)]
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
    raise_limits();
    let state_dir = common.state_dir()?;
    state_dir::socket(&state_dir)?;
    let given = Given { config: args.config.clone(), listen: args.listen, state_dir: Some(state_dir) };
    let loaded = files::load(&given)?;
    describe(&loaded.settings);
    let ended = block_on(serve(given, loaded, common.state_dir()?));
    #[cfg(feature = "otel")]
    crate::traces::end();
    ended.map(|()| Exit::Ok)
}

async fn serve(given: Given, loaded: Loaded, state_dir: PathBuf) -> Result<(), CliError> {
    let (signals, hangups) = (Signals::new()?, Hangups::new()?);
    let Loaded { mut settings, path } = loaded;
    let (providers, lacking) = discovered::complete(std::mem::take(&mut settings.providers), &state_dir).await;
    settings.providers = providers;
    let listen = settings.listen.map_or(Listen::Default(LISTEN_DEFAULT), Listen::Chosen);
    let live = Arc::new(Live::default());
    let shown = settings.shown.clone();
    let public_url = settings.public_url.clone();
    let tls = settings.tls.clone().map(Tls::load).transpose()?;
    let config = settings.into_config(&state_dir);
    let daemon = Daemon::start(config, listen, tls, Arc::clone(&live), public_url).await?;
    // Nothing was in use before, so nothing waits for a restart.
    let _ = live.take(path, shown, daemon.keep().now());
    let reloader = Reloader { given, state_dir, keep: daemon.keep().clone(), live, lacking };
    let reloading = tokio::spawn(reloader.on(hangups));
    tracing::info!(socket = %daemon.socket().display(), tcp = ?daemon.tcp(), "listening");
    // Whoever started us waits for this line.
    say!("ready");
    let ended = daemon.run(signals).await;
    reloading.abort();
    ended
}

/// The configuration of this file, as a daemon with this state folder reads it.
///
/// # Errors
/// It cannot be read, or is wrong: where, and what was expected.
pub fn settings(path: &Path, state_dir: &Path) -> Result<Settings, CliError> {
    let given = Given { config: Some(path.to_owned()), listen: None, state_dir: Some(state_dir.to_owned()) };
    Ok(files::load(&given)?.settings)
}

/// Says how the configuration was understood.
fn describe(settings: &Settings) {
    if let Some(url) = &settings.public_url {
        tracing::debug!(%url, "public URL");
    }
    if settings.providers.is_empty() {
        tracing::warn!("the configuration has no provider: nothing can be imported");
    }
    for ProviderSettings { provider, discover } in &settings.providers {
        tracing::info!(
            name = provider.name,
            token_url = %provider.token_url,
            rotation = %provider.rules.rotation,
            client_auth = provider.rules.client_auth.as_str(),
            discovered_from = discover,
            "provider"
        );
    }
}
