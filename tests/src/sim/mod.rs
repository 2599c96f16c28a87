//! Deterministic simulation: the real engine on one thread, with paused time, an injected store, journal, network,
//! clock and dice, and a provider of every rotation class whose ledger is the oracle.
//!
//! One seed is one trace. A seed runs a phase of faults (a few seeds have none), then a phase without any, after which
//! every connection must be fresh, or be flagged with a cause that the ledger confirms.

pub mod parts;
pub mod scene;
pub mod script;
pub mod world;

use parts::{JournalDisk, Sabotage, SimJournal, SimStore};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokenkeep::endpoint::Endpoint;
use tokenkeep::engine::{Engine, Options, Parts};
use tokenkeep::store::memory::MemoryStore;
use tokenkeep::store::{ListQuery, PAGE_MAX, Store};
use tokenkeep::{Import, Provider, TokenAsk, TokenKeep, Warning};
use tokenkeep_core::model::{Connection, ConnectionKey, State, Status};
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::{Rotation, Rules};
use tokenkeep_core::schedule::{self, Policy};
use tokenkeep_core::{FailureCode, Secret};
use tokenkeep_mock::{GrantOptions, Provider as MockProvider, ProviderConfig};
use world::{Faults, SimClock, SimDice, SimEndpoint, World};

/// The size of one seed's run.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Connections, over all rotation classes.
    pub connections: usize,
    /// Workers of the engine.
    pub workers: u32,
    /// How long faults strike.
    pub faults_for: Duration,
    /// How long it has to heal: two longest lives, the longest hold and probe.
    pub heal_for: Duration,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            connections: 50,
            workers: 3,
            faults_for: Duration::from_secs(4 * 3600),
            heal_for: Duration::from_secs(4 * 3600),
        }
    }
}

/// What one seed's run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the oracle found wrong; empty is good.
    pub violations: Vec<String>,
    /// The trace's hash: same seed, same hash.
    pub trace: (u64, u64),
    /// Refreshes that the provider made.
    pub refreshes: u64,
    /// Grants that were lost in flight, as flagged and as the ledger confirms.
    pub lost: u64,
    /// Crashes of the whole process.
    pub crashes: u64,
    /// Tokens read.
    pub reads: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

const CLASSES: [&str; 5] = ["persistent", "grace:600", "until-used", "strict", "unknown"];
const LIVES_S: [i64; 3] = [60, 600, 3600];

/// Runs one seed on a thread of its own with paused time.
#[must_use]
pub fn run(seed: u64, size: Size, sabotage: Sabotage) -> Report {
    on_virtual_time(async {
        let machine = Machine::new(seed, size.workers, sabotage);
        let run = Run { machine, size, generations: BTreeMap::new(), report: Report::default() };
        run.run().await
    })
}

/// Runs a future on one thread with time that passes only while everybody waits.
pub fn on_virtual_time<T>(future: impl Future<Output = T>) -> T {
    // A planted panic is part of the simulation, not news.
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("simulated panic") {
            eprintln!("{info}");
        }
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be built");
    runtime.block_on(future)
}

/// One simulated machine: what survives its crashes, and how to start its process.
pub struct Machine {
    /// Time, dice, faults, network, provider.
    pub world: Arc<World>,
    /// What is durable.
    pub store: Arc<MemoryStore>,
    disk: Arc<Mutex<JournalDisk>>,
    workers: u32,
    sabotage: Sabotage,
    boot: u64,
}

struct Run {
    machine: Machine,
    size: Size,
    generations: BTreeMap<ConnectionKey, u64>,
    report: Report,
}

impl Machine {
    /// A machine whose every chance is decided by `seed`.
    #[must_use]
    pub fn new(seed: u64, workers: u32, sabotage: Sabotage) -> Self {
        Self::at(ProviderConfig { seed, ..ProviderConfig::default() }, workers, sabotage)
    }

    /// A machine that has to do with a provider like this.
    #[must_use]
    pub fn at(provider: ProviderConfig, workers: u32, sabotage: Sabotage) -> Self {
        Self {
            world: World::new(provider.seed, MockProvider::new(provider)),
            store: Arc::new(MemoryStore::new()),
            disk: Arc::default(),
            workers,
            sabotage,
            boot: 1,
        }
    }

    /// The provider, to look into its ledger.
    pub fn provider(&self) -> std::sync::MutexGuard<'_, MockProvider> {
        self.world.provider.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The engine of process number `process`.
    #[must_use]
    pub fn engine(&self, process: u64) -> Arc<Engine> {
        self.engine_with(process, self.providers())
    }

    /// The engine of process number `process`, with these providers.
    #[must_use]
    pub fn engine_with(&self, process: u64, providers: Vec<Provider>) -> Arc<Engine> {
        self.engine_at(process, providers, Arc::new(SimEndpoint { world: Arc::clone(&self.world), process }))
    }

    /// As [`Machine::engine_with`], at the end of this network.
    #[must_use]
    pub fn engine_at(&self, process: u64, providers: Vec<Provider>, endpoint: Arc<dyn Endpoint>) -> Arc<Engine> {
        let world = || Arc::clone(&self.world);
        let in_flight_max = 32;
        let store = SimStore { durable: Arc::clone(&self.store), world: world(), process, sabotage: self.sabotage };
        let journal = SimJournal {
            disk: Arc::clone(&self.disk),
            world: world(),
            process,
            sabotage: self.sabotage,
            places: in_flight_max,
            taken: Mutex::default(),
        };
        let parts = Parts {
            store: Arc::new(store),
            journal: Arc::new(journal),
            endpoint,
            clock: Arc::new(SimClock(world())),
            dice: Arc::new(SimDice(world())),
        };
        let options = Options {
            policy: Policy::default(),
            providers,
            in_flight_max,
            workers: self.workers,
            boot: self.boot,
            process,
        };
        Engine::new(parts, options)
    }

    /// A provider of each rotation class, as it is configured rightly.
    #[must_use]
    pub fn providers(&self) -> Vec<Provider> {
        CLASSES.iter().map(|class| self.provider_of(class)).collect()
    }

    fn provider_of(&self, class: &str) -> Provider {
        let mut rotation = Rotation::parse(class).expect("the classes are spelled right");
        if self.sabotage == Sabotage::BlindResend && rotation == Rotation::Strict {
            rotation = Rotation::UntilUsed;
        }
        let name = class.replace(':', "-");
        let url = format!("https://{name}.example/token").parse().expect("a well-formed address");
        let client = Client { id: "mock-client".into(), secret: Some(Secret::new("mock-secret")) };
        let mut provider = Provider::new(name, url, client, Rules { rotation, ..Rules::default() });
        provider.sign_in.authorize_url = Some(provider.token_url.join("authorize").expect("a well-formed address"));
        provider
    }

    /// A grant at the provider, and the import of its token set. `life_s: None` leaves `expires_in` out.
    pub fn consent(&self, name: &str, class: &str, life_s: Option<i64>) -> Import {
        let rotation = if class == "unknown" { "strict" } else { class };
        let options = GrantOptions {
            label: name.to_owned(),
            rotation: Some(rotation.parse().expect("the provider knows the classes")),
            access_ttl_ms: Some(life_s.unwrap_or(3600) * 1000),
            expires_in: Some(life_s.is_some()),
            ..GrantOptions::default()
        };
        let granted = self.provider().grant(self.world.now_ms(), options).token;
        let expires_at = granted.expires_at.map(|at| at + self.world.wall_step_ms() / 1000);
        let token = serde_json::json!({
            "access_token": granted.access_token, "refresh_token": granted.refresh_token,
            "expires_in": granted.expires_in, "expires_at": expires_at,
        });
        let key = ConnectionKey::in_default(name).expect("a well-formed name");
        Import { key, provider: class.replace(':', "-"), token: Secret::new(token.to_string()), labels: None }
    }
}

impl Run {
    async fn run(mut self) -> Report {
        let keep = self.start(0).await;
        self.sign_in(&keep.1).await;
        self.machine.world.set_faults(self.draw_faults());
        let keep = self.live(keep, self.size.faults_for).await;
        self.machine.world.set_faults(Faults::default());
        let keep = self.live(keep, self.size.heal_for).await;
        self.judge().await;
        keep.1.shutdown().await;
        self.report.trace = self.machine.world.trace();
        let totals = self.machine.provider().totals();
        self.report.refreshes = totals.refreshes;
        self.report.faults = self.machine.world.struck.lock().expect("no panic holds it").clone();
        self.report
    }

    /// Swarm: each seed has its own mix, and one in eight has none at all.
    fn draw_faults(&self) -> Faults {
        if self.machine.world.draw() < 0.125 {
            return Faults::default();
        }
        let some = |most: f64| if self.machine.world.draw() < 0.5 { 0.0 } else { most * self.machine.world.draw() };
        Faults {
            unsent: some(0.3),
            lost_before: some(0.05),
            lost_after: some(0.05),
            error_before: some(0.1),
            error_after: some(0.05),
            throttled: some(0.1),
            unavailable: some(0.05),
            truncated: some(0.05),
            html: some(0.05),
            wrong_client: some(0.02),
            crash: some(0.002),
            power_cut: some(0.5),
            panic: some(0.002),
            store_full: some(0.05),
        }
    }

    /// Starts the process, as often as it takes: it may crash while it recovers.
    async fn start(&mut self, mut process: u64) -> (Arc<Engine>, TokenKeep) {
        loop {
            let engine = self.machine.engine(process);
            let world = Arc::clone(&self.machine.world);
            tokio::select! {
                biased;
                () = world.crashed() => process = self.after_crash(),
                started = TokenKeep::on_engine(Arc::clone(&engine)) => match started {
                    Ok(keep) => return (engine, keep),
                    // A full disk at start: the service manager tries again.
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                },
            }
        }
    }

    async fn sign_in(&mut self, keep: &TokenKeep) {
        let consents = (0..self.size.connections).map(|n| {
            let life_s = LIVES_S[n / CLASSES.len() % LIVES_S.len()];
            self.machine.consent(&format!("c{n}"), CLASSES[n % CLASSES.len()], Some(life_s))
        });
        let imports = consents.collect();
        for imported in keep.import_many(imports).await {
            if let Err(error) = imported {
                self.report.violations.push(format!("import failed: {error}"));
            }
        }
    }

    /// Lives for `span`, with a reader, through every crash.
    async fn live(&mut self, mut running: (Arc<Engine>, TokenKeep), span: Duration) -> (Arc<Engine>, TokenKeep) {
        let end = tokio::time::Instant::now() + span;
        let world = Arc::clone(&self.machine.world);
        while tokio::time::Instant::now() < end {
            let keep = running.1.clone();
            let crashed = tokio::select! {
                biased;
                () = world.crashed() => true,
                () = self.read_one(&keep) => false,
            };
            if crashed {
                drop((keep, running));
                let process = self.after_crash();
                // Whoever was in the middle of something is dropped before the next process begins.
                tokio::time::sleep(Duration::from_secs(1)).await;
                running = self.start(process).await;
            }
        }
        running
    }

    fn after_crash(&mut self) -> u64 {
        self.report.crashes += 1;
        if self.machine.world.strikes("power_cut", |f| f.power_cut) {
            self.machine.boot += 1;
            self.machine.disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner).power_cut(&self.machine.world);
        }
        self.machine.world.process()
    }

    /// After a while a caller asks for the token of one connection, and the oracle looks at what it gets (I6, I7).
    async fn read_one(&mut self, keep: &TokenKeep) {
        tokio::time::sleep(Duration::from_secs(7)).await;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a small index"
        )]
        let n = (self.machine.world.draw() * self.size.connections as f64) as usize;
        let key = ConnectionKey::in_default(format!("c{n}")).expect("a well-formed name");
        let min_ttl = if self.machine.world.draw() < 0.5 { Duration::ZERO } else { Duration::from_secs(20) };
        let Ok(handed) = keep.token(&key, TokenAsk { min_ttl, wait: Duration::from_secs(5) }).await else { return };
        self.report.reads += 1;
        let durable = self.machine.store.get(&key).await.ok().flatten().map_or(0, |connection| connection.generation.0);
        let now = keep.now();
        let wrong = |what: &str| format!("{key}: {what}");
        if handed.token.generation > durable && !handed.warnings.contains(&Warning::NotDurable) {
            self.report.violations.push(wrong("I6: a token was handed out before its commit"));
        }
        let remaining = handed.token.ends_at.map_or(Duration::MAX, |end| now.until(end));
        if remaining.is_zero() || (remaining < min_ttl && !handed.stale) {
            self.report.violations.push(wrong("I6: a token lives shorter than was asked for"));
        }
        let seen = self.generations.entry(key.clone()).or_default();
        if durable < *seen {
            self.report.violations.push(wrong("I7: the generation went back"));
        }
        *seen = durable.max(*seen);
    }

    /// What must be true after healing (I1 to I5, I10).
    async fn judge(&mut self) {
        let query = ListQuery { limit: PAGE_MAX, ..ListQuery::default() };
        let now = tokenkeep_core::Timestamp::from_millis(self.machine.world.now_ms());
        let connections = self.machine.store.list(now, &query).await.expect("the memory store can always be read");
        let mut violations = Vec::new();
        for connection in &connections {
            if let Err(violation) = self.judge_one(connection, now).await {
                violations.push(format!("{}: {violation}", connection.key));
            }
        }
        let overlaps: u64 = self
            .machine
            .provider()
            .ledgers()
            .filter(|grant| grant.rotation.rotates())
            .map(|grant| grant.overlaps)
            .sum();
        if overlaps > 0 {
            violations.push(format!("I3: {overlaps} overlapping requests with one rotating refresh token"));
        }
        self.report.violations.extend(violations);
    }

    async fn judge_one(&mut self, connection: &Connection, now: tokenkeep_core::Timestamp) -> Result<(), String> {
        let work = self.machine.store.tokens(&connection.key).await.ok().flatten().ok_or("it is gone")?;
        let refresh_token = work.tokens.and_then(|tokens| tokens.refresh_token).ok_or("its refresh token is gone")?;
        let (usable, current, reused, reused_at) = {
            let provider = self.machine.provider();
            let token = refresh_token.expose();
            let ledger = provider.find(connection.key.name()).and_then(|grant| provider.ledger(grant));
            let (reused, first) =
                ledger.map_or((0, None), |l| (l.reuse_count, l.reuses.first().map(|reuse| reuse.at_ms)));
            (provider.is_usable(now.as_millis(), token), provider.is_current(token), reused, first)
        };
        match &connection.state {
            State::NeedsReauth { cause: FailureCode::LostInFlight, .. } if !usable => {
                self.report.lost += 1;
                let class = connection.provider.as_str();
                if matches!(class, "persistent" | "until-used") {
                    return Err(format!("P1: a {class} provider's grant was lost"));
                }
                // A probe that is in doubt itself is followed by others; none of them comes before the first may.
                let life = tokenkeep_core::lifecycle::life_of(connection);
                let probe_at = schedule::probe_at(connection.times.issued_at, life, connection.times.expires_at);
                match reused_at {
                    Some(at) if at < probe_at.as_millis() => Err(format!(
                        "I4: a spent refresh token was used {} ms before its probe",
                        probe_at.as_millis() - at
                    )),
                    _ => Ok(()),
                }
            }
            State::NeedsReauth { cause, .. } => {
                Err(format!("I2: flagged {cause}, the ledger says usable: {usable}, uses of spent tokens: {reused}"))
            }
            _ if reused > 0 => Err("I4: a spent refresh token was used and nobody was told".to_owned()),
            _ if !current => Err("I1: the stored refresh token is not the provider's current one".to_owned()),
            state => match connection.status(now) {
                Status::Fresh | Status::Refreshing => Ok(()),
                status => {
                    Err(format!("I10: {} after healing: {state:?}, {:?}", status.as_str(), connection.last_error))
                }
            },
        }
    }
}
