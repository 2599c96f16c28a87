//! `tokenkeep mock-provider`: a provider that misbehaves on request, in the foreground.

use crate::config::parse_listen;
use crate::daemon::{Signals, block_on};
use crate::error::{CliError, Exit};
use crate::output;
use crate::output::say;
use clap::Args;
use std::net::SocketAddr;
use std::time::Duration;
use tokenkeep_mock::{FaultPlan, Provider, ProviderConfig, Rotation, Server};

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
    #[arg(long, value_name = "CLASS", default_value = "strict", value_parser = crate::cli::rotation)]
    pub rotation: tokenkeep_mock::Rotation,
    /// How long access tokens live
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = crate::cli::ttl)]
    pub access_ttl: Duration,
    /// The same seed and the same requests give the same tokens
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// Serves until a signal ends it.
///
/// # Errors
/// The address cannot be listened on.
pub fn run(args: &MockArgs) -> Result<Exit, CliError> {
    block_on(serve(args))?;
    Ok(Exit::Ok)
}

async fn serve(args: &MockArgs) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let server = start(args.listen, args.rotation, args.access_ttl, args.seed).await?;
    output::write(&told(&server, args.rotation))?;
    say!("ready");
    signals.next().await;
    server.shutdown().await;
    Ok(())
}

/// A provider without faults.
///
/// # Errors
/// The address cannot be listened on.
pub async fn start(
    listen: SocketAddr,
    rotation: Rotation,
    access_ttl: Duration,
    seed: u64,
) -> Result<Server, CliError> {
    let access_ttl_ms = i64::try_from(access_ttl.as_millis()).unwrap_or(i64::MAX);
    let config = ProviderConfig { rotation, access_ttl_ms, seed, ..ProviderConfig::default() };
    Server::start(listen, Provider::new(config), FaultPlan::none()).await.map_err(|error| {
        CliError::new(format!("{listen} cannot be listened on: {error}"))
            .next_step("choose another address with --listen, or port 0 for any free one")
    })
}

/// Its URL, and what a configuration needs. The client's secret is made up: it guards nothing.
fn told(server: &Server, rotation: Rotation) -> String {
    format!(
        "# {url}\n\
         # the client's secret is mock-secret: MOCK_CLIENT_SECRET=mock-secret tokenkeep serve --config F\n\
         [providers.mock]\n\
         token_url = \"{url}/token\"\n\
         revoke_url = \"{url}/revoke\"\n\
         client_id = \"mock-client\"\n\
         client_secret = {{ env = \"MOCK_CLIENT_SECRET\" }}\n\
         rotation = \"{rotation}\"\n",
        url = server.url("")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};
    use std::path::Path;

    #[tokio::test]
    async fn what_is_printed_is_a_configuration() {
        let ttl = Duration::from_secs(60);
        let server = start(([127, 0, 0, 1], 0).into(), Rotation::Grace(600), ttl, 7).await.unwrap();
        let text = told(&server, Rotation::Grace(600));
        let env = |name: &str| (name == "MOCK_CLIENT_SECRET").then(|| "mock-secret".to_owned());
        let file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let settings = config::parse(&text, Path::new("f"), Sources::new(&env, &file)).unwrap();
        let provider = &settings.providers[0].provider;
        assert_eq!(provider.token_url.as_str(), server.url("/token"));
        assert_eq!(provider.rules.rotation.to_string(), "grace:600");
        server.shutdown().await;
    }
}
