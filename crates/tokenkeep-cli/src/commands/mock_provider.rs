//! `tokenkeep mock-provider`: a provider that misbehaves on request, in the foreground.

use crate::config::parse_listen;
use crate::daemon::{Signals, block_on};
use crate::error::{CliError, Exit};
use crate::output;
use crate::output::say;
use clap::Args;
use std::net::SocketAddr;
use std::time::Duration;
use tokenkeep_mock::{ClientAuth, ClientConfig, Dialect, FaultPlan, Provider, ProviderConfig, Rotation, Server};

/// The id of the client that has no secret, beside `mock-client`.
const PUBLIC_CLIENT: &str = "mock-public";

/// Of `mock-provider`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep mock-provider --dialect atlassian --access-ttl 20s
  tokenkeep mock-provider --listen 127.0.0.1:9000 --seed 7 --faults drop_after=0.2,html=0.1
  tokenkeep mock-provider --help                  lists every fault", after_long_help = faults_told())]
pub struct MockArgs {
    /// Where to listen
    #[arg(long, value_name = "A", default_value = "127.0.0.1:0", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// Which provider to be like: standard, atlassian, github, google, slack
    #[arg(long, value_name = "D", default_value = "standard", value_parser = dialect)]
    pub dialect: Dialect,
    /// What becomes of a used refresh token: strict, grace:SECONDS, until-used, persistent; the dialect's unless given
    #[arg(long, value_name = "CLASS", value_parser = crate::cli::rotation)]
    pub rotation: Option<tokenkeep_mock::Rotation>,
    /// How long access tokens live
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = crate::cli::ttl)]
    pub access_ttl: Duration,
    /// The same seed and the same requests give the same tokens and faults
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// What goes wrong at the token endpoint, and for which part of the requests
    #[arg(long, value_name = "KIND=P,...", value_parser = faults, conflicts_with = "fault_rate")]
    pub faults: Option<String>,
    /// Lets this part of the requests to the token endpoint, 0 to 1, meet a fault of any kind
    #[arg(long, value_name = "P", value_parser = rate)]
    pub fault_rate: Option<f64>,
    /// Listens with TLS too, on another free port, with a certificate made at the start
    #[arg(long)]
    pub tls: bool,
}

fn dialect(text: &str) -> Result<Dialect, String> {
    text.parse().map_err(|error: tokenkeep_mock::UnknownDialect| error.to_string())
}

fn faults(text: &str) -> Result<String, String> {
    FaultPlan::parse(0, text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "expected a number between 0 and 1".to_owned())?;
    FaultPlan::swarm(0, rate).map(|_| rate).map_err(|_| "expected a number between 0 and 1".to_owned())
}

/// Every fault, for the long help.
fn faults_told() -> String {
    let entries = tokenkeep_mock::entries();
    let lines = entries.iter().map(|entry| format!("  {:<20} {}\n", entry.kind, entry.what));
    format!(
        "Faults (before: the refresh token is as it was; after: it is rotated, and the answer is lost or spoilt):\n{}\n\
         GET /control/faults has an example of each; POST /control/script queues the next ones, one by one.",
        lines.collect::<String>()
    )
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
    let config = config(args.dialect, args.rotation, args.access_ttl, args.seed);
    let rotation = config.rotation;
    let mut server = start(args.listen, config, plan(args)?).await?;
    if args.tls {
        listen_tls(&mut server).await?;
    }
    output::write(&told(&server, args.dialect, rotation))?;
    say!("ready");
    signals.next().await;
    server.shutdown().await;
    Ok(())
}

/// What a provider of this dialect is like whose access tokens live this long. A client without a secret is registered
/// beside the usual one.
#[must_use]
pub fn config(dialect: Dialect, rotation: Option<Rotation>, access_ttl: Duration, seed: u64) -> ProviderConfig {
    let mut config = dialect.config();
    config.rotation = rotation.unwrap_or(config.rotation);
    config.access_ttl_ms = i64::try_from(access_ttl.as_millis()).unwrap_or(i64::MAX);
    config.seed = seed;
    config.clients.push(ClientConfig { id: PUBLIC_CLIENT.to_owned(), secret: None, auth: ClientAuth::Public });
    config
}

fn plan(args: &MockArgs) -> Result<FaultPlan, CliError> {
    match (&args.faults, args.fault_rate) {
        (Some(text), _) => FaultPlan::parse(args.seed, text).map_err(|error| CliError::new(error.to_string())),
        (None, Some(rate)) => FaultPlan::swarm(args.seed, rate).map_err(|error| CliError::new(error.to_string())),
        (None, None) => Ok(FaultPlan::none()),
    }
}

/// A provider that serves.
///
/// # Errors
/// The address cannot be listened on.
pub async fn start(listen: SocketAddr, config: ProviderConfig, plan: FaultPlan) -> Result<Server, CliError> {
    Server::start(listen, Provider::new(config), plan).await.map_err(|error| {
        CliError::new(format!("{listen} cannot be listened on: {error}"))
            .next_step("choose another address with --listen, or port 0 for any free one")
    })
}

async fn listen_tls(server: &mut Server) -> Result<(), CliError> {
    let any = SocketAddr::new(server.addr().ip(), 0);
    let listening = server.listen_tls(any).await;
    listening.map(|_| ()).map_err(|error| CliError::new(format!("no TLS listener can be started: {error}")))
}

/// What it serves and how to use it, as comments of a configuration that reaches it. The client's secret is made up: it
/// guards nothing.
fn told(server: &Server, dialect: Dialect, rotation: Rotation) -> String {
    let url = server.url("");
    let cloud = server.state().cloud_id();
    let preset = preset(dialect).map_or_else(String::new, |preset| format!("preset = \"{preset}\"\n"));
    format!(
        "# A provider that misbehaves on request (dialect {dialect}, rotation {rotation}). Ctrl-C ends it.\n\
         #\n\
         #   token      {url}/token\n\
         #   sign in    {url}/authorize, {url}/device_authorization\n\
         #   discovery  {url}/.well-known/openid-configuration\n\
         #   jira       {url}/ex/jira/{cloud}/rest/api/3/ (as a Data Center: {url}/rest/api/2/)\n\
         #   control    {url}/control/ledger, {url}/control/faults\n\
         #   client     mock-client with the secret mock-secret; {PUBLIC_CLIENT} without one\n\
         {tls}\
         #\n\
         # Make a grant:   curl -sX POST '{url}/control/grants?as=token' > token.json\n\
         # Serve:          save this as mock.toml; MOCK_CLIENT_SECRET=mock-secret tokenkeep serve --config mock.toml\n\
         # Take it over:   tokenkeep import mock --provider mock --file token.json\n\
         # Use it:         curl -H \"$(tokenkeep token mock --header)\" {url}/api/whoami\n\
         # Break it:       curl -d '{{\"faults\": [{{\"kind\": \"drop_after\"}}]}}' {url}/control/script\n\
         [providers.mock]\n\
         {preset}\
         token_url = \"{url}/token\"\n\
         authorize_url = \"{url}/authorize\"\n\
         device_url = \"{url}/device_authorization\"\n\
         revoke_url = \"{url}{revoke}\"\n\
         api_hosts = [\"{url}\"]\n\
         client_id = \"mock-client\"\n\
         client_secret = {{ env = \"MOCK_CLIENT_SECRET\" }}\n\
         rotation = \"{rotation}\"\n",
        tls = tls_told(server),
        revoke = dialect.config().revocation.path("mock-client")
    )
}

fn tls_told(server: &Server) -> String {
    let url = server.url("");
    server.tls_addr().map_or_else(String::new, |addr| {
        format!(
            "#   tls        https://{addr}\n\
             #              trust it: curl -s {url}/control/tls > mock-ca.pem, then SSL_CERT_FILE=mock-ca.pem\n\
             #              break it: curl -d '{{\"face\": \"expired\"}}' {url}/control/tls\n\
             #              (good, wrong_name, expired, untrusted, cut, plain)\n"
        )
    })
}

/// The catalogue's name of a dialect.
pub const fn preset(dialect: Dialect) -> Option<&'static str> {
    match dialect {
        Dialect::Atlassian => Some("atlassian"),
        Dialect::GitHub => Some("github-app"),
        Dialect::Google => Some("google"),
        Dialect::Standard | Dialect::Slack => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};
    use std::path::Path;

    const TTL: Duration = Duration::from_secs(60);

    fn loopback() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[tokio::test]
    async fn what_is_printed_is_a_configuration() {
        for dialect in Dialect::ALL {
            let wanted = super::config(dialect, None, TTL, 7);
            let rotation = wanted.rotation;
            let mut server = start(loopback(), wanted, FaultPlan::none()).await.unwrap();
            listen_tls(&mut server).await.unwrap();
            let text = told(&server, dialect, rotation);
            let env = |name: &str| (name == "MOCK_CLIENT_SECRET").then(|| "mock-secret".to_owned());
            let file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
            let settings = config::parse(&text, Path::new("f"), Sources::new(&env, &file)).unwrap();
            let provider = &settings.providers[0].provider;
            assert_eq!(provider.token_url.as_str(), server.url("/token"));
            assert_eq!(provider.api_hosts[0].to_string(), server.url(""));
            assert_eq!(provider.rules.rotation.to_string(), rotation.to_string());
            assert!(text.contains(&format!("https://{}", server.tls_addr().unwrap())), "{text}");
            server.shutdown().await;
        }
    }

    #[test]
    fn a_given_rotation_goes_before_the_dialect_s() {
        assert_eq!(config(Dialect::Atlassian, None, TTL, 0).rotation, Rotation::Grace(600));
        assert_eq!(config(Dialect::Atlassian, Some(Rotation::Strict), TTL, 0).rotation, Rotation::Strict);
    }

    #[test]
    fn a_wrong_fault_is_told_with_the_right_ones() {
        assert!(faults("drop_aftr=0.1").unwrap_err().contains("drop_after"));
        assert!(rate("1.5").is_err() && rate("x").is_err() && rate("0.5").is_ok());
        assert!(dialect("jira").unwrap_err().contains("atlassian"));
        assert!(faults_told().contains("slow_drip"));
    }
}
