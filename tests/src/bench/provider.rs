//! The provider in a second process: this program again, with a hidden subcommand.

use super::Outcome;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::process::{Child, Command, Stdio};
use tokenkeep::Provider;
use tokenkeep_core::Secret;
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::{Rotation as Class, Rules};
use tokenkeep_mock::{FaultPlan, GrantOptions, ProviderConfig, Rotation, Server};

/// The hidden subcommand: `serve-provider CLASS GRANTS`.
pub const SUBCOMMAND: &str = "serve-provider";

/// The name that connections know the provider by.
pub const NAME: &str = "bench";

/// Serves until standard input ends. Prints its token endpoint, then one refresh token on each line.
///
/// # Errors
/// The arguments are wrong, or it cannot listen.
pub fn serve(arguments: &[String]) -> Outcome<()> {
    let [class, grants] = arguments else { return Err(format!("{SUBCOMMAND} CLASS GRANTS").into()) };
    let rotation = class_of(class)?;
    let grants: usize = grants.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let config = ProviderConfig { rotation, ..ProviderConfig::default() };
    let provider = tokenkeep_mock::Provider::new(config);
    let server = runtime.block_on(Server::start(([127, 0, 0, 1], 0).into(), provider, FaultPlan::none()))?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "{}", server.url("/token"))?;
    for number in 0..grants {
        let grant = server.state().grant(GrantOptions { label: format!("g{number}"), ..GrantOptions::default() });
        writeln!(out, "{}", grant.token.refresh_token)?;
    }
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn class_of(text: &str) -> Outcome<Rotation> {
    match text {
        "strict" => Ok(Rotation::Strict),
        "persistent" => Ok(Rotation::Persistent),
        _ => Err(format!("unknown class `{text}`").into()),
    }
}

/// The id of its client.
pub const CLIENT_ID: &str = "mock-client";
/// The secret of its client.
pub const CLIENT_SECRET: &str = "mock-secret";

/// A provider that runs. It ends with this.
pub struct Running {
    process: Child,
    /// How to reach it, without limits that would bind a benchmark.
    pub provider: Provider,
    /// A refresh token of each of its grants.
    pub refresh_tokens: Vec<String>,
}

impl Running {
    /// Starts one with so many grants.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(class: Class, grants: usize) -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([SUBCOMMAND, &class.to_string(), &grants.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = process.stdout.take().ok_or("the provider has no output")?;
        let mut lines = BufReader::new(out).lines();
        let url = lines.next().ok_or("the provider said nothing")??;
        let refresh_tokens = lines.take(grants).collect::<Result<_, _>>()?;
        Ok(Self { process, provider: provider_at(&url, class)?, refresh_tokens })
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It holds nothing that has to be saved; either fails only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A provider at `url` that may be asked as often as it can answer.
///
/// # Errors
/// It is no URL.
pub fn provider_at(url: &str, class: Class) -> Outcome<Provider> {
    let client = Client { id: CLIENT_ID.to_owned(), secret: Some(Secret::new(CLIENT_SECRET)) };
    let mut provider = Provider::new(NAME, url.parse()?, client, Rules { rotation: class, ..Rules::default() });
    provider.refresh_per_second = 1_000_000;
    provider.refresh_in_flight_max = 10_000;
    Ok(provider)
}
