//! One machine with one running process, for tests that tell a story on virtual time.

use std::sync::Arc;
use std::time::Duration;

use tokenkeep::connect::Connect;
use tokenkeep::engine::Engine;
use tokenkeep::store::{Event, EventKind, EventQuery, ListQuery};
use tokenkeep::{Changes, Config, Imported, Provider, TokenKeep};
use tokenkeep_core::Secret;
use tokenkeep_core::model::{Connection, ConnectionKey, Status};
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::Rules;
use tokenkeep_mock::{Decision, GrantLedger, ProviderConfig};
use url::Url;

use super::Machine;
use super::parts::Sabotage;
use super::script::{Script, ScriptedEndpoint};

/// A machine and its process.
pub struct Scene {
    /// What survives the process.
    pub machine: Machine,
    /// The process.
    pub keep: TokenKeep,
}

/// The name in the default namespace.
///
/// # Panics
///
/// When it is not well-formed.
#[must_use]
pub fn key(name: &str) -> ConnectionKey {
    ConnectionKey::in_default(name).expect("a well-formed name")
}

/// Lets so much virtual time pass.
pub async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

impl Scene {
    /// Its every chance is decided by `seed`; nothing is imported.
    pub async fn new(seed: u64) -> Self {
        let machine = Machine::new(seed, 1, Sabotage::None);
        let providers = machine.providers();
        Self::of(machine, 0, providers).await
    }

    /// At a provider like `provider`, which is configured with these rules for each class.
    pub async fn at(provider: ProviderConfig, rules: impl Fn(&mut Rules)) -> Self {
        let machine = Machine::at(provider, 1, Sabotage::None);
        let mut providers = machine.providers();
        providers.iter_mut().for_each(|provider| rules(&mut provider.rules));
        Self::of(machine, 0, providers).await
    }

    /// One provider, of which the test writes every answer.
    pub async fn scripted(seed: u64, provider: Provider) -> (Self, Arc<Script>) {
        let (machine, script) = (Machine::new(seed, 1, Sabotage::None), Arc::new(Script::default()));
        let engine = machine.engine_at(0, vec![provider], Arc::new(ScriptedEndpoint(Arc::clone(&script))));
        (Self::on(machine, engine).await, script)
    }

    async fn of(machine: Machine, process: u64, providers: Vec<Provider>) -> Self {
        let engine = machine.engine_with(process, providers);
        Self::on(machine, engine).await
    }

    async fn on(machine: Machine, engine: Arc<Engine>) -> Self {
        let keep = TokenKeep::on_engine(engine).await.expect("the memory store can be used");
        Self { machine, keep }
    }

    /// Stops the process cleanly and starts the next with these providers.
    pub async fn restart(self, providers: Vec<Provider>) -> Self {
        self.keep.shutdown().await;
        let process = self.machine.world.kill();
        Self::of(self.machine, process, providers).await
    }

    /// What a changed configuration with these providers does.
    pub async fn reload(&self, providers: Vec<Provider>) -> Changes {
        self.keep.reload(Config { providers, ..Config::new("unused") }).await.expect("a reload")
    }

    /// A new connection, of a grant at the provider that answers so.
    pub async fn sign_in(&self, name: &str, class: &str, life_s: Option<i64>) {
        let imported = self.keep.import(self.machine.consent(name, class, life_s)).await.expect("a token set");
        assert!(matches!(imported, Imported::Created(_)), "{imported:?}");
    }

    /// A person gives consent in a browser, for a connection of this name.
    pub async fn consent(&self, name: &str, class: &str) -> Connection {
        let redirect = Url::parse("http://127.0.0.1:1/callback").expect("a well-formed address");
        let begun = self.keep.connect(Connect::new(key(name), class), &redirect).expect("a sign-in begins");
        let came_back = {
            let mut provider = self.machine.provider();
            let ask = provider.ask(begun.url.query().unwrap_or_default()).expect("a fit request");
            provider.decide(self.machine.world.now_ms(), &ask, Decision::Allow)
        };
        let came_back = Url::parse(&came_back).expect("a well-formed address");
        let query = came_back.query().unwrap_or_default();
        let finished = self.keep.finish_sign_in(query, &begun.proof).await.expect("a sign-in ends");
        finished.imported.connection().clone()
    }

    /// The connection.
    pub async fn get(&self, name: &str) -> Connection {
        self.keep.get(&key(name)).await.expect("it is there")
    }

    /// How many connections have this status, in which list and summary agree.
    pub async fn with_status(&self, status: Status) -> usize {
        let query = ListQuery { statuses: vec![status], limit: 999, ..ListQuery::default() };
        let listed = self.keep.list(&query).await.expect("a listing").len();
        let counted = self.keep.summary(None).await.expect("counts").by_status.get(&status).copied().unwrap_or(0);
        assert_eq!(listed as u64, counted, "{status:?}");
        listed
    }

    /// How many attempts all connections together have made.
    pub async fn attempts(&self) -> u64 {
        let all = ListQuery { limit: 999, ..ListQuery::default() };
        self.keep.list(&all).await.expect("a listing").iter().map(|connection| connection.stats.attempted).sum()
    }

    /// How many events of this kind the history has.
    pub async fn told(&self, kind: EventKind) -> usize {
        self.events(kind).await.len()
    }

    /// The events of this kind, oldest first.
    pub async fn events(&self, kind: EventKind) -> Vec<Event> {
        let (mut told, mut after) = (Vec::new(), 0);
        loop {
            let query = EventQuery { after, limit: 999, ..EventQuery::default() };
            let page = self.keep.events(&query).await.expect("the history");
            let Some(last) = page.last() else { return told };
            after = last.id;
            told.extend(page.into_iter().filter(|event| event.event.kind == kind));
        }
    }

    /// What the provider knows of the grant behind a connection.
    #[must_use]
    pub fn ledger(&self, name: &str) -> GrantLedger {
        let provider = self.machine.provider();
        provider.find(name).and_then(|grant| provider.ledger(grant)).expect("the ledger knows it")
    }

    /// The shortest time that was left on the newest access token at any refresh.
    #[must_use]
    pub fn shortest_margin(&self, name: &str) -> Duration {
        let millis = self.ledger(name).margin_min_ms.expect("it was refreshed");
        Duration::from_millis(
            u64::try_from(millis).unwrap_or_else(|_| panic!("{name} was refreshed {millis} ms too late")),
        )
    }

    /// The provider ends the grant.
    pub fn kill(&self, name: &str) {
        let mut provider = self.machine.provider();
        let grant = provider.find(name).expect("the ledger knows it");
        assert!(provider.kill(self.machine.world.now_ms(), grant));
    }

    /// The providers, the strict one with this secret.
    #[must_use]
    pub fn with_secret(&self, secret: &str) -> Vec<Provider> {
        let change = |mut provider: Provider| {
            if provider.name == "strict" {
                let client = Client { id: "mock-client".into(), secret: Some(Secret::new(secret)) };
                provider.client = Arc::new(client);
            }
            provider
        };
        self.machine.providers().into_iter().map(change).collect()
    }

    /// The providers but the strict one.
    #[must_use]
    pub fn without_strict(&self) -> Vec<Provider> {
        self.machine.providers().into_iter().filter(|provider| provider.name != "strict").collect()
    }
}
