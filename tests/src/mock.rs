//! The provider that misbehaves, in this process, and what the daemon must know about it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokenkeep_mock::{
    FaultPlan, Grant, GrantLedger, GrantOptions, Provider, ProviderConfig, Rotation, Server, State, Totals,
};
use tokio::runtime::Runtime;

/// The id of the mock's client.
pub const CLIENT_ID: &str = "mock-client";
/// The secret of the mock's client; [`crate::daemon::Installation`] puts it into the file `secret`.
pub const CLIENT_SECRET: &str = "mock-secret";

/// A provider that serves from a thread of its own.
#[derive(Debug)]
pub struct Mock {
    server: Server,
    // Dropped after the server, which it runs.
    _runtime: Runtime,
}

impl Mock {
    /// A strict provider with tokens of an hour, on a free loopback port.
    pub fn start() -> Self {
        Self::of(ProviderConfig::default())
    }

    /// A provider that is so, on a free loopback port.
    pub fn of(config: ProviderConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread for the mock");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let provider = Provider::new(config);
        let server = runtime.block_on(Server::start(loopback, provider, FaultPlan::none()));
        Self { server: server.expect("a free port"), _runtime: runtime }
    }

    /// Its state: grants, faults, ledger.
    pub fn state(&self) -> &Arc<State> {
        self.server.state()
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.server.addr().to_string()
    }

    /// The section of a configuration that names it as a provider of this rotation class.
    pub fn section(&self, name: &str, rotation: &str) -> String {
        section(name, &self.server.url("/token"), rotation)
    }

    /// Makes a grant and gives its token set as a token file has it.
    pub fn grant(&self, label: &str, rotation: Rotation, access_ttl_s: i64) -> Value {
        token_file(&self.make(label, rotation, access_ttl_s, 0))
    }

    /// Makes grants `PREFIX0`, `PREFIX1`, ... of ages spread over a third of their life, and gives the lines that
    /// import them under the same names.
    pub fn grants(&self, prefix: &str, count: usize, access_ttl_s: i64, provider: &str) -> String {
        let line = |nth: usize| {
            let age_ms = access_ttl_s * 1_000 / 3 * nth as i64 / count as i64;
            let name = format!("{prefix}{nth}");
            let grant = self.make(&name, Rotation::Strict, access_ttl_s, age_ms);
            json!({"name": name, "provider": provider, "token": token_file(&grant)}).to_string() + "\n"
        };
        (0..count).map(line).collect()
    }

    fn make(&self, label: &str, rotation: Rotation, access_ttl_s: i64, age_ms: i64) -> Grant {
        let grant = self.state().grant(GrantOptions {
            label: label.to_owned(),
            rotation: Some(rotation),
            access_ttl_ms: Some(access_ttl_s * 1_000),
            age_ms,
            ..GrantOptions::default()
        });
        assert_eq!(grant.label, label, "the label is taken");
        grant
    }

    /// What happened to one grant.
    #[track_caller]
    pub fn ledger(&self, label: &str) -> GrantLedger {
        self.state().ledger(label).unwrap_or_else(|| panic!("there is no grant {label}"))
    }

    /// What happened to these grants, by name.
    pub fn ledgers(&self, labels: impl IntoIterator<Item = String>) -> BTreeMap<String, GrantLedger> {
        labels.into_iter().map(|label| (label.clone(), self.ledger(&label))).collect()
    }

    /// What happened, counted over all grants.
    pub fn totals(&self) -> Totals {
        self.state().totals()
    }
}

fn token_file(grant: &Grant) -> Value {
    serde_json::to_value(&grant.token).expect("a token set is JSON")
}

/// A provider's section with the mock's client.
pub fn section(name: &str, token_url: &str, rotation: &str) -> String {
    format!(
        "[providers.{name}]\n\
         token_url = \"{token_url}\"\n\
         client_id = \"{CLIENT_ID}\"\n\
         client_secret = {{ file = \"secret\" }}\n\
         rotation = \"{rotation}\"\n"
    )
}
