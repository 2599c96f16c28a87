//! [`TokenKeep`]: the library's face.

use crate::access::Keys;
use crate::audit::{Audit, COUNTED_WITHIN};
use crate::backup::Backup;
use crate::clock::{Clock, SeededDice, SystemClock};
use crate::config::{Config, Declared, Provider, TokenFile};
use crate::connect::{self, Pending, SignInError};
use crate::declared::DeclaredConnections;
use crate::endpoint::Endpoint;
use crate::endpoint::http::HttpEndpoint;
use crate::engine::{Changes, Engine, Options, Parts, Started, lock};
use crate::error::Error;
use crate::events::Progress;
use crate::import::{Import, Imported};
use crate::journal::Journal;
use crate::journal::file::FileJournal;
use crate::keys::KeyFiles;
use crate::metrics::{Gauges, Refreshes};
use crate::proxy::Proxy;
use crate::rotation::{KeyState, Rotator};
use crate::seal::random_bytes;
use crate::store::lock::StateLock;
use crate::store::sqlite::{ClockAnchor, SqliteStore};
use crate::store::webhooks::WebhookStore;
use crate::store::{
    Event, EventKind, EventQuery, Flag, Granted, ListQuery, NewEvent, NewGrant, Outlook, PAGE_MAX, ProviderSummary,
    Store, StoreError, Summary,
};
use crate::token_file::{Held, KeptFile, Sinks, TOLD_IN_STEPS_OF_MIN, format, told_end};
use crate::tokens::{Handed, Hot};
use crate::webhooks::{self, Egress, Webhooks};
use aws_lc_rs::digest;
use futures_util::future::try_join_all;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;
use tokenkeep_core::lifecycle::{self, Brought, Context};
use tokenkeep_core::model::{Connection, ConnectionKey, Generation, Hold, Origin, Renewal, State, Status, Waiting};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::schedule::LIFETIME_ASSUMED;
use tokenkeep_core::{FailureCode, Timestamp};
use tokio::sync::{OwnedMutexGuard, broadcast, watch};
use tokio::task::AbortHandle;

/// The longest a caller may wait for a refresh.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long [`TokenKeep::refresh`] waits for the attempt's end.
pub const REFRESH_WAIT: Duration = Duration::from_secs(10);
/// How long a sign-in, an import or a removal waits for an attempt that may have been sent.
pub const SETTLE_WAIT: Duration = Duration::from_secs(61);
/// A wall clock that drifted from steady time by less is not noted.
const SKEW_NOTED_FROM_MS: i64 = 1_000;
/// Two clocks that are read one after the other agree within this.
const CLOCKS_READ_WITHIN_MS: i64 = 20;
/// How often the wall clock is compared with steady time.
const SKEW_LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// How the copies begin that backups are made of.
const COPY_PREFIX: &str = "backup-";

/// What a caller of [`TokenKeep::token`] asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenAsk {
    /// How long the token is to live at least.
    pub min_ttl: Duration,
    /// How long to wait for a refresh where nothing in hand lives that long; at most [`WAIT_MAX`].
    pub wait: Duration,
}

impl Default for TokenAsk {
    /// Any valid token; up to 10 s for a refresh where there is none.
    fn default() -> Self {
        Self { min_ttl: Duration::ZERO, wait: Duration::from_secs(10) }
    }
}

/// What a caller of [`TokenKeep::refresh`] asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RefreshAsk {
    /// Bring the probe of an in-doubt connection forward. It may end the grant.
    pub force: bool,
    /// Only while this is the generation in hand.
    pub if_generation: Option<u64>,
    /// Only while this is the access token in hand, which its API refused: at least the first 16 hex digits of
    /// its SHA-256.
    pub rejected: Option<String>,
}

/// What came of [`TokenKeep::refresh`].
#[derive(Debug)]
pub enum Refreshed {
    /// The one attempt has ended, whatever its outcome (or, with a condition that no longer held, none was made).
    Settled(Connection),
    /// It is still in flight.
    Pending(Connection),
}

/// What [`TokenKeep::export`] gives away. It holds every secret of the connection.
#[derive(Debug)]
pub struct Exported {
    /// The connection, with its times.
    pub connection: Connection,
    /// Its token set, the refresh token included.
    pub tokens: TokenSet,
}

/// Keeps connections fresh in the background, and hands out their access tokens.
///
/// Cheap to clone; all clones are one instance, which works until [`TokenKeep::shutdown`] or until the last of them
/// is dropped.
///
/// ```no_run
/// use tokenkeep::core::{ConnectionKey, Secret, provider::Rules, oauth::request::Client};
/// use tokenkeep::{Config, Import, Provider, TokenAsk, TokenKeep};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::new("/var/lib/example");
/// let client = Client { id: "my-app".into(), secret: Some(Secret::new("...")) };
/// let url = "https://sso.example.com/token".parse()?;
/// config.providers.push(Provider::new("corp", url, client, Rules::default()));
///
/// let keep = TokenKeep::open(config).await?;
/// let key = ConnectionKey::in_default("alice")?;
/// let token = Secret::new(std::fs::read_to_string("token.json")?);
/// keep.import(Import { key: key.clone(), provider: "corp".into(), token, labels: None }).await?;
///
/// let handed = keep.token(&key, TokenAsk::default()).await?;
/// println!("Authorization: Bearer {}", handed.token.access_token.expose());
/// keep.shutdown().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TokenKeep {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    ended: watch::Receiver<Option<Result<(), String>>>,
    work: AbortHandle,
    folder: Option<Folder>,
    declared: DeclaredConnections,
    sign_ins: Mutex<Pending>,
    /// As it was measured last.
    wall_ahead_ms: AtomicI64,
    /// `None` before they are started, and after they have ended.
    sinks: Mutex<Option<Sinks>>,
    proxy: Proxy,
    /// Only an instance with a state folder has them.
    webhooks: OnceLock<Webhooks>,
}

impl Drop for Inner {
    /// The last handle is gone without a [`TokenKeep::shutdown`]: as after a crash, the next start settles what was
    /// in flight.
    fn drop(&mut self) {
        self.work.abort();
        if let Some(folder) = &self.folder {
            folder.rotator.stop();
        }
    }
}

/// What an instance holds that has a state folder.
struct Folder {
    path: PathBuf,
    rotator: Arc<Rotator>,
    store: Arc<SqliteStore>,
    clock: Arc<SystemClock>,
    keys: Keys,
    audit: Arc<Audit>,
    skew_ms: AtomicI64,
    _lock: StateLock,
}

impl std::fmt::Debug for TokenKeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKeep").field("unready", &self.unready()).finish_non_exhaustive()
    }
}

/// A handle that is good for as long as another works.
pub(crate) struct WeakKeep(Weak<Inner>);

impl WeakKeep {
    pub(crate) fn upgrade(&self) -> Option<TokenKeep> {
        self.0.upgrade().map(|inner| TokenKeep { inner })
    }
}

impl TokenKeep {
    /// Opens the state folder, settles what an earlier process left open, and starts to work on the current tokio
    /// runtime.
    ///
    /// # Errors
    /// Another process uses the folder, or keeps one of the token files; no master key or a wrong one; a store or
    /// journal that is damaged or newer.
    /// In each of these cases nothing was changed.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let folder = config.state_dir.as_path();
        make_folder(folder)?;
        let state_lock = StateLock::acquire(folder).map_err(|error| Error::Locked(error.to_string()))?;
        // Before anything is opened: a grant that another daemon refreshes too would end.
        let keepers = Sinks::claim(&config.connections)?;
        remove_copies(folder)?;
        let journal_path = folder.join("journal");
        let store_path = folder.join("tokenkeep.db");
        let key_files = KeyFiles::new(folder, config.master_key);
        let sealer = Arc::new(key_files.load(&[&journal_path, &store_path])?.sealer());
        let journal_error = |error: crate::journal::file::OpenJournalError| Error::Journal(error.to_string());
        FileJournal::check_key(&journal_path, &sealer).map_err(journal_error)?;
        let store = Arc::new(SqliteStore::open(&store_path, Arc::clone(&sealer))?);
        let clock = Arc::new(start_clock(&store).await?);
        // One that is there is opened whatever store it belongs to: that is looked at next.
        let belongs_to = (!journal_path.exists()).then(|| store.store_id());
        let journal = FileJournal::open(&journal_path, config.in_flight_max, Arc::clone(&sealer), belongs_to);
        let journal = Arc::new(journal.map_err(journal_error)?);
        hold_a_restored_copy(&store, &journal, &config.providers, clock.now()).await?;
        let in_flight_max = config.in_flight_max.min(journal.slots()) as usize;
        let parts = Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            journal: Arc::clone(&journal) as Arc<dyn Journal>,
            endpoint: Arc::new(HttpEndpoint::new(crate::endpoint::http::Options::default())),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            dice: Arc::new(SeededDice::new(random_number())),
        };
        let options = Options {
            policy: config.policy,
            providers: config.providers,
            in_flight_max,
            workers: config.workers,
            boot: clock.boot_id(),
            process: random_number(),
        };
        let engine = Engine::new(parts, options);
        let rotator = Rotator::new(Arc::clone(&engine), Arc::clone(&store), journal, sealer, key_files);
        let path = config.state_dir.clone();
        let keys = Keys::open(Arc::clone(&store)).await?;
        let audit = Arc::new(Audit::new(Arc::clone(&store)));
        let folder = Folder { path, store, clock, rotator, keys, audit, skew_ms: AtomicI64::new(0), _lock: state_lock };
        let keep = Self::start(engine, Some(folder), config.connections.clone()).await?;
        keep.have_webhooks(&config.webhook_hosts);
        keep.start_sinks(Sinks::start(&keep, &config.connections, keepers));
        Ok(keep)
    }

    fn start_sinks(&self, sinks: Sinks) {
        *lock(&self.inner.sinks) = Some(sinks);
    }

    fn have_webhooks(&self, allow_hosts: &[String]) {
        let Some(folder) = &self.inner.folder else { return };
        let (engine, inner) = (Arc::clone(&self.inner.engine), Arc::downgrade(&self.inner));
        let parts = webhooks::Parts {
            store: Arc::clone(&folder.store) as Arc<dyn WebhookStore>,
            clock: Arc::clone(&folder.clock) as Arc<dyn Clock>,
            dice: Arc::clone(&engine.parts.dice),
            wall: Arc::new(move |at| inner.upgrade().map_or(at, |inner| Self { inner }.wall(at))),
            news: Box::new(move || engine.events.subscribe()),
        };
        // Nobody else sets it.
        let _ = self.inner.webhooks.set(Webhooks::new(parts, Egress::to(allow_hosts)));
    }

    /// The webhooks. They send nothing before [`Webhooks::deliver`] is called.
    ///
    /// # Errors
    /// This instance has no state folder.
    pub fn webhooks(&self) -> Result<&Webhooks, Error> {
        self.folder()?;
        self.inner.webhooks.get().ok_or(Error::ShuttingDown)
    }

    /// Keeps the token files of these connections from now on, and no others.
    ///
    /// # Errors
    /// [`Error::TokenFileKept`], or too many; those that were kept before then still are.
    pub async fn keep_token_files(&self, declared: &[Declared]) -> Result<(), Error> {
        if lock(&self.inner.sinks).as_ref().is_some_and(|sinks| sinks.declared() == declared) {
            return Ok(());
        }
        let before = lock(&self.inner.sinks).take();
        // They hold the right to keep their files until they have ended.
        let before = if let Some(sinks) = before { sinks.finish().await } else { Vec::new() };
        let claimed = Sinks::claim(declared);
        let (now, keepers, result) = match claimed {
            Ok(keepers) => (declared, keepers, Ok(())),
            Err(error) => (before.as_slice(), Sinks::claim(&before).unwrap_or_default(), Err(error)),
        };
        self.start_sinks(Sinks::start(self, now, keepers));
        result
    }

    /// The token files that are kept for a connection, and how that goes.
    #[must_use]
    pub fn token_files(&self, key: &ConnectionKey) -> Vec<KeptFile> {
        lock(&self.inner.sinks).as_ref().map(|sinks| sinks.of(key)).unwrap_or_default()
    }

    /// What one token file of a connection is to say; `None` while there is no token set.
    pub(crate) async fn held_for(&self, key: &ConnectionKey, file: &TokenFile) -> Result<Option<Held>, Error> {
        let Some(found) = self.store().tokens(key).await? else { return Ok(None) };
        let Some(tokens) = found.tokens else { return Ok(None) };
        let ends_after = self.inner.engine.ends_after(&found.connection);
        let hot = Hot::new(&found.connection, &tokens, ends_after);
        let times = &found.connection.times;
        let assumed = times.issued_at + times.lifetime.unwrap_or(LIFETIME_ASSUMED);
        let now = self.now();
        let end = told_end(times.expires_at, hot.hand_out(now, Duration::ZERO).expires_at, now);
        Ok(Some(Held {
            issued_at: self.wall(times.issued_at),
            expires_at: end.map(|end| self.wall(end)),
            expires_at_assumed: self.wall(assumed),
            earlier_by: ends_after.map_or(Duration::ZERO, |after| (after / 2).max(TOLD_IN_STEPS_OF_MIN)),
            without_refresh_token: file.without_refresh_token,
            connection: found.connection,
            tokens,
        }))
    }

    /// Stores and publishes an event.
    pub(crate) async fn record(&self, event: NewEvent) {
        self.inner.engine.record(event).await;
    }

    /// A handle that does not keep the instance working.
    pub(crate) fn downgrade(&self) -> WeakKeep {
        WeakKeep(Arc::downgrade(&self.inner))
    }

    /// An instance on an engine whose parts the caller brings, without a state folder of its own.
    ///
    /// # Errors
    /// The store cannot be used.
    pub async fn on_engine(engine: Arc<Engine>) -> Result<Self, Error> {
        Self::start(engine, None, Vec::new()).await
    }

    async fn start(engine: Arc<Engine>, folder: Option<Folder>, declared: Vec<Declared>) -> Result<Self, Error> {
        let settled = engine.recover().await?;
        let mut started = NewEvent::new(EventKind::SystemStarted, engine.now(), None, "Tokenkeep has started.");
        started.data = format!(r#"{{"version":"{}","claims_settled":{settled}}}"#, env!("CARGO_PKG_VERSION"));
        engine.record(started).await;
        let (end, ended) = watch::channel(None);
        let running = Arc::clone(&engine);
        let work = tokio::spawn(async move { drop(end.send_replace(Some(running.run().await))) }).abort_handle();
        let declared = DeclaredConnections::new(declared);
        let inner = Arc::new(Inner {
            engine,
            ended,
            work,
            folder,
            declared,
            sign_ins: Mutex::default(),
            wall_ahead_ms: AtomicI64::new(i64::MAX / 2),
            sinks: Mutex::default(),
            proxy: Proxy::default(),
            webhooks: OnceLock::new(),
        });
        if let Some(folder) = &inner.folder {
            tokio::spawn(watch_the_wall(Arc::downgrade(&inner)));
            tokio::spawn(write_counts(Arc::downgrade(&inner)));
            folder.rotator.resume().await?;
        }
        let keep = Self { inner };
        keep.label_declared().await?;
        Ok(keep)
    }

    /// Goes on with another configuration: its policy, its providers with their admission limits, and the connections
    /// that it declares. Attempts in flight end with the provider that they began with. What was held because of a client,
    /// URL or rules that are others now is released at once; connections of a provider that is gone are held until it is
    /// back. The state folder, `in_flight_max` and `workers` stay as they were opened.
    ///
    /// ```no_run
    /// # async fn example(keep: tokenkeep::TokenKeep, mut config: tokenkeep::Config) -> Result<(), tokenkeep::Error> {
    /// config.policy.max_retries = 5;
    /// let changes = keep.reload(config).await?;
    /// assert!(changes.policy.is_some());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The store cannot be written, or another daemon keeps one of the token files: then those of before are kept. The
    /// configuration is in use all the same; the next reload or start does the rest.
    pub async fn reload(&self, config: Config) -> Result<Changes, Error> {
        self.inner.declared.replace(config.connections.clone());
        if let Some(webhooks) = self.inner.webhooks.get() {
            webhooks.allow_hosts(&config.webhook_hosts);
        }
        let changes = self.inner.engine.reload(config.policy, config.providers).await?;
        self.label_declared().await?;
        self.keep_token_files(&config.connections).await?;
        Ok(changes)
    }

    /// The API keys; `None` for an instance without a state folder.
    #[must_use]
    pub fn keys(&self) -> Option<&Keys> {
        self.inner.folder.as_ref().map(|folder| &folder.keys)
    }

    /// The audit trail; `None` for an instance without a state folder.
    #[must_use]
    pub fn audit(&self) -> Option<&Audit> {
        self.inner.folder.as_ref().map(|folder| &*folder.audit)
    }

    /// The connections that the configuration declares, in the order of their names.
    #[must_use]
    pub fn declared(&self) -> Vec<Declared> {
        self.inner.declared.all()
    }

    /// Gives declared connections that the store has the labels that they are declared with.
    async fn label_declared(&self) -> Result<(), Error> {
        for Declared { key, provider, labels, .. } in self.declared() {
            let Some(stored) = self.store().get(&key).await? else { continue };
            if stored.provider != provider {
                tracing::warn!(connection = %key, declared = provider, stored = stored.provider, "declared for another provider than it was connected to: remove it from the configuration, then remove and import it");
            } else if stored.labels != labels {
                self.store().flag(self.now(), &key, Flag::Labels(labels)).await?;
            }
        }
        Ok(())
    }

    /// A valid access token at once where one is in hand that lives `min_ttl`; else after a refresh that is waited
    /// for; else the best there is, marked [`Handed::stale`].
    ///
    /// ```no_run
    /// # async fn example(keep: tokenkeep::TokenKeep) -> Result<(), Box<dyn std::error::Error>> {
    /// let key = tokenkeep::core::ConnectionKey::in_default("jira")?;
    /// let ask = tokenkeep::TokenAsk { min_ttl: std::time::Duration::from_secs(300), ..Default::default() };
    /// let handed = keep.token(&key, ask).await?;
    /// assert!(!handed.stale || !handed.warnings.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoToken`] when nothing valid is in hand.
    pub async fn token(&self, key: &ConnectionKey, ask: TokenAsk) -> Result<Handed, Error> {
        let now = self.now();
        if let Some(hot) = self.inner.engine.tokens.get(key)
            && lives(&hot, now, ask.min_ttl)
        {
            self.inner.engine.metrics.token_requests.served();
            return Ok(hot.hand_out(now, ask.min_ttl));
        }
        let result = self.cold_token(key, ask).await;
        self.inner.engine.metrics.token_requests.ended(&result);
        result
    }

    async fn cold_token(&self, key: &ConnectionKey, ask: TokenAsk) -> Result<Handed, Error> {
        let hot = self.load(key).await?;
        let now = self.now();
        if let Some(hot) = &hot
            && (lives(hot, now, ask.min_ttl) || (lives(hot, now, Duration::ZERO) && now < hot.refreshable_from))
        {
            return Ok(hot.hand_out(now, ask.min_ttl));
        }
        let refreshed = async {
            let started = self.ask(key, false, None).await?;
            if let Started::InFlight(flight) = &started {
                flight.ended().await;
            }
            Ok::<_, Error>(started)
        };
        // Too late is not an error: what is in hand then is handed out.
        let started = tokio::time::timeout(ask.wait.min(WAIT_MAX), refreshed).await.ok().transpose()?;
        let now = self.now();
        match self.load(key).await? {
            Some(hot) if lives(&hot, now, Duration::ZERO) => Ok(hot.hand_out(now, ask.min_ttl)),
            _ => Err(self.no_token(key, started).await?),
        }
    }

    async fn no_token(&self, key: &ConnectionKey, started: Option<Started>) -> Result<Error, Error> {
        let connection = self.get(key).await?;
        let refused_until = if let Some(Started::Refused { retry_at, .. }) = started { retry_at } else { None };
        Ok(Error::NoToken {
            status: connection.status(self.now()),
            retry_at: refused_until.or(connection.due_at()),
            last_error: connection.last_error.map(Box::new),
            key: connection.key,
        })
    }

    /// The token from the cache, else from the store, from where it goes into the cache.
    async fn load(&self, key: &ConnectionKey) -> Result<Option<Arc<Hot>>, Error> {
        if let Some(hot) = self.inner.engine.tokens.get(key) {
            return Ok(Some(hot));
        }
        let found = self.store().tokens(key).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        let Some(tokens) = found.tokens else { return Ok(None) };
        let ends_after = self.inner.engine.ends_after(&found.connection);
        let hot = Arc::new(Hot::new(&found.connection, &tokens, ends_after));
        self.inner.engine.tokens.put(key, Arc::clone(&hot));
        Ok(Some(hot))
    }

    /// Takes a token set over: as a new connection, or as a new grant of an existing one. Waits for an attempt of
    /// the old grant that may have been sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field; nothing was changed.
    pub async fn import(&self, import: Import) -> Result<Imported, Error> {
        let mut results = self.import_all(vec![import], false).await;
        results.pop().unwrap_or(Err(Error::ShuttingDown))
    }

    /// Takes many token sets over, in order, each on its own. Their first refreshes are spread over the whole time
    /// that each has.
    pub async fn import_many(&self, imports: Vec<Import>) -> Vec<Result<Imported, Error>> {
        self.import_all(imports, true).await
    }

    async fn import_all(&self, imports: Vec<Import>, in_bulk: bool) -> Vec<Result<Imported, Error>> {
        let mut results: Vec<Option<Result<Imported, Error>>> = Vec::new();
        let (mut grants, mut gates) = (Vec::new(), BTreeMap::new());
        for import in imports {
            match self.prepare(import, in_bulk) {
                Ok(grant) => {
                    if !gates.contains_key(&grant.key) {
                        gates.insert(grant.key.clone(), self.wait_for_sent(&grant.key).await);
                    }
                    grants.push(grant);
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut granted = match self.store().grant(self.now(), grants).await {
            Ok(granted) => {
                granted.into_iter().map(|granted| self.granted(granted, None)).collect::<Vec<_>>().into_iter()
            }
            Err(error) => {
                let message = error.to_string();
                let failed = || Err(Error::Store(StoreError::Unusable(message.clone())));
                return results.into_iter().map(|done| done.unwrap_or_else(failed)).collect();
            }
        };
        self.inner.engine.wake();
        let mut next = || granted.next().unwrap_or(Err(Error::ShuttingDown));
        results.into_iter().map(|done| done.unwrap_or_else(&mut next)).collect()
    }

    fn prepare(&self, import: Import, in_bulk: bool) -> Result<NewGrant, Error> {
        let provider = self.provider_of(&import.provider)?;
        let read = format::read(&import.token)?;
        let steady = |at: Timestamp| at.shifted(-self.wall_ahead_ms());
        let brought = Brought {
            expires_at: read.expires_at.map(steady),
            expires_in: read.expires_in,
            has_refresh_token: read.tokens.refresh_token.is_some(),
            in_bulk,
            ..Brought::default()
        };
        let grant = self.new_grant(&provider, import.key, import.labels, brought)?;
        Ok(NewGrant { scopes: read.scopes, tokens: Some(read.tokens), ..grant })
    }

    /// A grant of these times, still without tokens, scopes and origin.
    fn new_grant(
        &self,
        provider: &Provider,
        key: ConnectionKey,
        labels: Option<BTreeMap<String, String>>,
        brought: Brought,
    ) -> Result<NewGrant, Error> {
        let labels = self.inner.declared.labels_of(&key, &provider.name, labels)?;
        let context = Context {
            policy: &self.inner.engine.setup().policy,
            rules: &provider.rules,
            now: self.now(),
            draw: self.inner.engine.parts.dice.draw(),
            retry_not_before: Timestamp::EPOCH,
        };
        let (times, due_at) = lifecycle::brought(brought, context);
        Ok(NewGrant {
            key,
            provider: provider.name.clone(),
            labels,
            scopes: Vec::new(),
            renewal: lifecycle::renewal_of(brought.has_refresh_token),
            origin: Origin::default(),
            times,
            due_at,
            waiting: Waiting::Schedule,
            tokens: None,
        })
    }

    /// Takes over what a sign-in brought.
    pub(crate) async fn take_over(
        &self,
        key: ConnectionKey,
        provider: &Provider,
        labels: Option<BTreeMap<String, String>>,
        signed_in: connect::Brought,
        renewal: Renewal,
    ) -> Result<Imported, Error> {
        let connect::Brought { answer, sent_at, account, redirect_uri, scopes } = signed_in;
        let expires_in = format::stated_life(&answer, self.wall(sent_at));
        // What the client itself gets, it can get again.
        let has_refresh_token = answer.refresh_token.is_some() || renewal.is_by_client();
        let assumed = provider.rules.access_life.unwrap_or(LIFETIME_ASSUMED);
        // A token with neither an end nor a way to renew it does not end (GitHub, Slack).
        let life = expires_in.or(has_refresh_token.then_some(assumed));
        let brought = Brought {
            expires_at: life.map(|life| sent_at + life),
            expires_in,
            has_refresh_token,
            in_bulk: false,
            refresh_expires_in: answer.refresh_expires_in,
            consented_at: (!renewal.is_by_client()).then_some(sent_at),
        };
        let grant = self.new_grant(provider, key, labels, brought)?;
        let renewal = if renewal.is_by_client() { renewal } else { grant.renewal };
        let scopes = answer.scopes.unwrap_or(scopes);
        let tokens = TokenSet {
            access_token: answer.access_token,
            refresh_token: answer.refresh_token,
            token_type: answer.token_type,
            extra: answer.extra,
        };
        if account.is_none()
            && !renewal.is_by_client()
            && let Some(connected) = self.store().get(&grant.key).await?.and_then(|stored| stored.origin.account)
        {
            return Err(SignInError::UnknownAccount { connected }.into());
        }
        let origin = Origin { account, redirect_uri };
        let imported = self.grant(NewGrant { scopes, renewal, origin, tokens: Some(tokens), ..grant }).await?;
        let connection = imported.connection();
        for other in self.sharing_grant_with(connection).await? {
            tracing::warn!(connection = %connection.key, %other, "two connections share one grant of their provider");
        }
        Ok(imported)
    }

    async fn grant(&self, grant: NewGrant) -> Result<Imported, Error> {
        let _gate = self.wait_for_sent(&grant.key).await;
        let account = grant.origin.account.clone();
        let granted = self.store().grant(self.now(), vec![grant]).await?.pop().ok_or(Error::ShuttingDown)?;
        self.inner.engine.wake();
        self.granted(granted, account)
    }

    pub(crate) fn provider_of(&self, name: &str) -> Result<Arc<Provider>, Error> {
        self.inner.engine.provider(name).ok_or_else(|| self.unknown_provider(name))
    }

    pub(crate) fn declared_scopes(&self, key: &ConnectionKey) -> Vec<String> {
        self.inner.declared.scopes_of(key)
    }

    pub(crate) fn check_removal(&self, key: &ConnectionKey) -> Result<(), Error> {
        self.inner.declared.check_removal(key)
    }

    /// The other connections of its grant, where its provider makes one grant of all sign-ins of an account at a client:
    /// what ends the grant ends them all, and where the refresh token rotates they may end each other.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn sharing_grant_with(&self, connection: &Connection) -> Result<Vec<ConnectionKey>, Error> {
        let (Some(account), Some(provider)) =
            (&connection.origin.account, self.inner.engine.provider(&connection.provider))
        else {
            return Ok(Vec::new());
        };
        if !provider.rules.one_grant {
            return Ok(Vec::new());
        }
        let mut sharing = Vec::new();
        for name in self.inner.engine.sections_of_client(&provider) {
            sharing.extend(self.store().of_account(&name, account).await?);
        }
        sharing.retain(|key| *key != connection.key);
        sharing.sort();
        Ok(sharing)
    }

    /// The token set in hand, if there is one.
    pub(crate) async fn token_set(&self, key: &ConnectionKey) -> Result<Option<TokenSet>, Error> {
        Ok(self.store().tokens(key).await?.ok_or_else(|| Error::NotFound(key.clone()))?.tokens)
    }

    pub(crate) fn endpoint(&self) -> &dyn Endpoint {
        &*self.inner.engine.parts.endpoint
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.inner.proxy
    }

    /// Refreshes, unless another token than this one, which an API refused, is in hand by now.
    pub(crate) async fn report_refused(&self, key: &ConnectionKey, refused: &Handed) -> Result<Refreshed, Error> {
        let rejected = Some(fingerprint(refused.token.access_token.expose()));
        self.refresh(key, RefreshAsk { rejected, ..RefreshAsk::default() }).await
    }

    pub(crate) fn sign_ins(&self) -> MutexGuard<'_, Pending> {
        lock(&self.inner.sign_ins)
    }

    fn unknown_provider(&self, found: &str) -> Error {
        let known = self.inner.engine.provider_names().join(", ");
        Error::Invalid {
            field: "provider".to_owned(),
            found: format!("found `{}`", tokenkeep_core::model::printable(found, 60)),
            expected: format!("one of the configured providers ({known})"),
        }
    }

    /// Publishes what became of a grant, which is for `account` where that is known.
    fn granted(&self, granted: Granted, account: Option<String>) -> Result<Imported, Error> {
        let engine = &self.inner.engine;
        let arrived = |connection: &Connection, event: Event| {
            engine.tokens.forget(&connection.key);
            if let Some(due_at) = connection.due_at() {
                engine.due_earlier(&connection.provider, due_at);
            }
            engine.events.publish(event);
        };
        Ok(match granted {
            Granted::Created(connection, event) => {
                arrived(&connection, event);
                Imported::Created(*connection)
            }
            Granted::Renewed(connection, event) => {
                arrived(&connection, event);
                Imported::Renewed(*connection)
            }
            Granted::AlreadyHeld(connection) => Imported::AlreadyHeld(*connection),
            Granted::AlreadyUsed(connection) => Imported::AlreadyUsed(*connection),
            Granted::OtherProvider(connection) => {
                return Err(Error::Invalid {
                    field: "provider".to_owned(),
                    found: format!("`{}` belongs to provider `{}`", connection.key, connection.provider),
                    expected: "that provider, or another name; remove the connection first to reuse its name"
                        .to_owned(),
                });
            }
            Granted::OtherAccount(connection) => {
                return Err(SignInError::OtherAccount {
                    connected: connection.origin.account.unwrap_or_default(),
                    found: account.unwrap_or_default(),
                }
                .into());
            }
        })
    }

    /// Waits until no attempt of this connection is between its last check and its outcome, at most
    /// [`SETTLE_WAIT`], and keeps it so while the guard lives. What is in flight after that belongs to a grant that
    /// is about to be superseded.
    pub(crate) async fn wait_for_sent(&self, key: &ConnectionKey) -> Option<OwnedMutexGuard<()>> {
        if self.inner.engine.is_idle() {
            return None;
        }
        let connection = self.store().get(key).await.ok()??;
        let flight = self.inner.engine.flight(connection.id)?;
        tokio::time::timeout(SETTLE_WAIT, Arc::clone(&flight.gate).lock_owned()).await.ok()
    }

    /// The connection of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get(&self, key: &ConnectionKey) -> Result<Connection, Error> {
        self.store().get(key).await?.ok_or_else(|| Error::NotFound(key.clone()))
    }

    /// A page of connections, in the order of namespace and name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(&self, query: &ListQuery) -> Result<Vec<Connection>, Error> {
        Ok(self.store().list(self.now(), query).await?)
    }

    /// Counts by status, the next refresh, and the earliest end of an access token.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn summary(&self, namespace: Option<&str>) -> Result<Summary, Error> {
        Ok(self.store().summary(self.now(), namespace).await?)
    }

    /// Counts by provider. At most an index is looked through, never the connections.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn summary_by_provider(&self) -> Result<BTreeMap<String, ProviderSummary>, Error> {
        Ok(self.store().summary_by_provider(self.now()).await?)
    }

    /// The names of the providers that are configured.
    #[must_use]
    pub fn provider_names(&self) -> Vec<String> {
        self.inner.engine.provider_names()
    }

    /// Puts what this instance counts into a registry, whose prefix the names get.
    ///
    /// ```no_run
    /// # fn example(keep: &tokenkeep::TokenKeep) -> Result<String, std::fmt::Error> {
    /// use tokenkeep::prometheus_client::{encoding::prometheus_text, registry::Registry};
    /// let mut registry = Registry::with_prefix("tokenkeep");
    /// keep.register_metrics(&mut registry);
    /// let mut text = String::new();
    /// prometheus_text::encode(&mut text, &registry)?;
    /// # Ok(text) }
    /// ```
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.inner.engine.metrics.register(registry);
        self.inner.engine.parts.journal.metrics().register(registry);
    }

    /// How refreshes at each provider ended since the start, and how long its token endpoint took.
    #[must_use]
    pub fn refreshes(&self) -> BTreeMap<String, Refreshes> {
        self.inner.engine.metrics.refreshes()
    }

    /// How it stands now: what no counter says. Asks nothing but memory.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        self.inner.engine.gauges()
    }

    /// When access tokens end, and when refreshes are planned. It looks at each connection: ask seldom.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn outlook(&self, namespace: Option<&str>) -> Result<Outlook, Error> {
        Ok(self.store().outlook(self.now(), namespace).await?)
    }

    /// Gives a connection exactly these labels.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Declared`], where the configuration is master of them.
    pub async fn label(&self, key: &ConnectionKey, labels: BTreeMap<String, String>) -> Result<Connection, Error> {
        if self.declared().iter().any(|declared| declared.key == *key) {
            return Err(Error::Declared(key.clone()));
        }
        self.flag(key, Flag::Labels(labels)).await
    }

    /// Refreshes now, or joins the attempt in flight, and waits up to [`REFRESH_WAIT`] for its end. With
    /// [`RefreshAsk::rejected`] a token that its API refused is reported: only the first report of a token refreshes.
    ///
    /// # Errors
    /// [`Error::NotRefreshed`] when nothing was sent: a human must sign in, it is paused, held, in doubt, or its
    /// provider said to wait.
    pub async fn refresh(&self, key: &ConnectionKey, ask: RefreshAsk) -> Result<Refreshed, Error> {
        let only = match self.wanted_generation(key, &ask).await? {
            Wanted::Any => None,
            Wanted::Only(generation) => Some(generation),
            Wanted::None => return self.already_newer(key).await,
        };
        let attempt = async {
            let started = self.ask(key, ask.force, only).await?;
            if let Started::InFlight(flight) = &started {
                flight.ended().await;
            }
            Ok::<_, Error>(started)
        };
        match tokio::time::timeout(REFRESH_WAIT, attempt).await {
            Err(_) => Ok(Refreshed::Pending(self.get(key).await?)),
            Ok(started) => match started? {
                Started::InFlight(_) => Ok(Refreshed::Settled(self.get(key).await?)),
                Started::Superseded => self.already_newer(key).await,
                Started::Absent => Err(Error::NotFound(key.clone())),
                Started::Refused { connection, status, code, retry_at } => {
                    Err(Error::NotRefreshed { key: connection.key, status, code, retry_at })
                }
            },
        }
    }

    /// The store has a newer token set than somebody asked about. What made it may not have told the readers yet: they look
    /// into the store.
    async fn already_newer(&self, key: &ConnectionKey) -> Result<Refreshed, Error> {
        self.inner.engine.tokens.forget_if_stored(key);
        Ok(Refreshed::Settled(self.get(key).await?))
    }

    /// Asks the engine, and does not wait for one that has ended.
    async fn ask(&self, key: &ConnectionKey, force: bool, only: Option<Generation>) -> Result<Started, Error> {
        let mut ended = self.inner.ended.clone();
        tokio::select! {
            biased;
            started = self.inner.engine.ask(key, force, only) => Ok(started?),
            _ = ended.wait_for(Option::is_some) => Err(Error::ShuttingDown),
        }
    }

    /// Which token set a refresh is wanted for. The engine looks again when it claims: meanwhile, another caller's
    /// refresh may have come to its end.
    async fn wanted_generation(&self, key: &ConnectionKey, ask: &RefreshAsk) -> Result<Wanted, Error> {
        if ask.if_generation.is_none() && ask.rejected.is_none() {
            return Ok(Wanted::Any);
        }
        let found = self.store().tokens(key).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        let generation = found.connection.generation;
        if ask.if_generation.is_some_and(|wanted| wanted != generation.0) {
            return Ok(Wanted::None);
        }
        let Some(rejected) = &ask.rejected else { return Ok(Wanted::Only(generation)) };
        check_fingerprint(rejected)?;
        let held = found.tokens.map(|tokens| fingerprint(tokens.access_token.expose())).unwrap_or_default();
        Ok(if held.starts_with(&rejected.to_ascii_lowercase()) { Wanted::Only(generation) } else { Wanted::None })
    }

    /// Stops refreshing this connection until [`TokenKeep::resume`]. An attempt in flight is let finish.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn pause(&self, key: &ConnectionKey) -> Result<Connection, Error> {
        self.flag(key, Flag::Pause).await
    }

    /// Refreshes this connection again: clears a pause and a hold. Where its whole provider is held, that may be probed
    /// at once.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resume(&self, key: &ConnectionKey) -> Result<Connection, Error> {
        let connection = self.flag(key, Flag::Resume).await?;
        self.inner.engine.probe_at_once(&connection.provider).await;
        Ok(connection)
    }

    async fn flag(&self, key: &ConnectionKey, flag: Flag) -> Result<Connection, Error> {
        let changed = self.store().flag(self.now(), key, flag).await?;
        let (connection, event) = changed.ok_or_else(|| Error::NotFound(key.clone()))?;
        let engine = &self.inner.engine;
        engine.tokens.refresh_warnings(&connection);
        if let Some(due_at) = connection.due_at() {
            engine.due_earlier(&connection.provider, due_at);
            engine.wake();
        }
        if let Some(event) = event {
            engine.events.publish(event);
        }
        Ok(connection)
    }

    /// Resumes every connection that is held because the store looks like a copy; how many they were.
    ///
    /// # Errors
    /// The store cannot be used; those already resumed stay so.
    pub async fn resume_all_sole_copy(&self) -> Result<u64, Error> {
        let (mut after, mut resumed) = (None, 0);
        loop {
            let query = ListQuery { statuses: vec![Status::Held], after, limit: PAGE_MAX, ..ListQuery::default() };
            let page = self.list(&query).await?;
            let Some(last) = page.last() else { return Ok(resumed) };
            after = Some(last.key.clone());
            for connection in page.iter().filter(|c| is_restored_copy(c)) {
                self.resume(&connection.key).await?;
                resumed += 1;
            }
        }
    }

    /// Removes a connection and wipes its secrets. Waits for an attempt that may have been sent.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Declared`], where the configuration would still want it.
    pub async fn remove(&self, key: &ConnectionKey) -> Result<(), Error> {
        self.check_removal(key)?;
        let _gate = self.wait_for_sent(key).await;
        let event = self.store().remove(self.now(), key).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        self.inner.engine.tokens.forget(key);
        self.inner.engine.events.publish(event);
        Ok(())
    }

    /// The whole token set, for another program to go on with. Waits for an attempt that may have been sent, so that
    /// what is given is not about to be used up. Two holders of one rotating refresh token end its grant: pause or
    /// remove the connection before the other one refreshes.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoToken`] when there never was one.
    pub async fn export(&self, key: &ConnectionKey) -> Result<Exported, Error> {
        let _gate = self.wait_for_sent(key).await;
        let found = self.store().tokens(key).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        match found.tokens {
            Some(tokens) => Ok(Exported { connection: found.connection, tokens }),
            None => Err(self.no_token(key, None).await?),
        }
    }

    /// The history, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, Error> {
        Ok(self.store().events(query).await?)
    }

    /// Every event from now on; a receiver that falls behind is told how many it missed.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.engine.events.subscribe()
    }

    /// How far each attempt has come, from now on. It is not kept: a receiver that falls behind misses some.
    #[must_use]
    pub fn subscribe_progress(&self) -> broadcast::Receiver<Arc<Progress>> {
        self.inner.engine.events.subscribe_progress()
    }

    /// The number of the newest event that was published since this instance was opened; 0 for none.
    #[must_use]
    pub fn last_event_id(&self) -> u64 {
        self.inner.engine.events.highest_id()
    }

    /// Calls `handler` with every event from now on, on a thread of its own. A slow or panicking handler harms
    /// nobody: it misses events, and is told so in the log.
    ///
    /// ```no_run
    /// # fn example(keep: tokenkeep::TokenKeep) -> std::io::Result<()> {
    /// keep.on_event(|event| eprintln!("{}: {}", event.event.kind.as_str(), event.event.message))
    /// # }
    /// ```
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn on_event(&self, handler: impl Fn(&Event) + Send + 'static) -> std::io::Result<()> {
        self.inner.engine.events.on_event(handler)
    }

    fn store(&self) -> &dyn Store {
        &*self.inner.engine.parts.store
    }

    fn clock(&self) -> &dyn Clock {
        &*self.inner.engine.parts.clock
    }

    /// Now, on the steady clock that every [`Timestamp`] here is on.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock().now()
    }

    /// A steady time as the wall clock shows it.
    #[must_use]
    pub fn wall(&self, at: Timestamp) -> Timestamp {
        at.shifted(self.wall_ahead_ms())
    }

    /// By how much the wall clock is ahead of steady time. Both are read one after the other, so what differs by no more
    /// than that takes is the same: one time must not be shown as two.
    fn wall_ahead_ms(&self) -> i64 {
        let (measured, noted) = (self.clock().wall().as_millis() - self.now().as_millis(), &self.inner.wall_ahead_ms);
        let before = noted.load(Ordering::Relaxed);
        if (measured - before).abs() <= CLOCKS_READ_WITHIN_MS {
            return before;
        }
        noted.store(measured, Ordering::Relaxed);
        measured
    }

    /// Begins to seal everything under a new master key, or joins the rotation that goes on. It is done in the
    /// background, and by the next process where this one ends; [`TokenKeep::master_key`] says how far it is.
    ///
    /// # Errors
    /// The new key cannot be written, or the configured source does not give the current key yet: nothing was changed.
    pub async fn rotate_master_key(&self) -> Result<(), Error> {
        self.folder()?.rotator.begin().await
    }

    /// Which master key is in use, and how far its rotation is.
    ///
    /// # Errors
    /// This instance has no state folder.
    pub fn master_key(&self) -> Result<KeyState, Error> {
        Ok(self.folder()?.rotator.key_state())
    }

    #[cfg(test)]
    pub(crate) fn rotator(&self) -> &Rotator {
        &self.inner.folder.as_ref().unwrap().rotator
    }

    /// A copy of everything as it is now, to be written out sealed under the master key, which is not in it.
    ///
    /// ```no_run
    /// # async fn example(keep: tokenkeep::TokenKeep) -> Result<(), Box<dyn std::error::Error>> {
    /// let backup = keep.backup().await?;
    /// let mut file = std::fs::File::create_new("tokenkeep.backup")?;
    /// backup.write(&mut file)?;
    /// file.sync_all()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Rotating`]: a backup of now would need two keys. The copy cannot be written: the disk is full.
    pub async fn backup(&self) -> Result<Backup, Error> {
        let folder = self.folder()?;
        let _no_rotation = folder.rotator.hold_off().await?;
        let copy = folder.path.join(format!("{COPY_PREFIX}{:016x}", random_number()));
        folder.store.copy_to(&copy).await?;
        // A rotation may begin while it is written out.
        Ok(Backup::of(copy, folder.rotator.sealer().pinned(), self.clock().wall()))
    }

    fn folder(&self) -> Result<&Folder, Error> {
        self.inner.folder.as_ref().ok_or_else(|| Error::Invalid {
            field: "state_dir".to_owned(),
            found: "this instance has no state folder".to_owned(),
            expected: "one that was opened on a state folder".to_owned(),
        })
    }

    /// `None` while all is well; else why this instance does no work.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        self.inner.engine.unready()
    }

    /// How long the scheduler has stood still, where that is too long: only a new process will help. `None` while it
    /// moves, whatever the store and the providers do.
    #[must_use]
    pub fn stuck_for(&self) -> Option<Duration> {
        self.inner.engine.stuck_for()
    }

    /// Returns when the engine cannot go on, with the reason: the process should then end.
    pub async fn failed(&self) -> String {
        let mut ended = self.inner.ended.clone();
        loop {
            if let Some(Err(why)) = &*ended.borrow_and_update() {
                return why.clone();
            }
            if ended.changed().await.is_err() {
                return "the engine ended without a word".to_owned();
            }
        }
    }

    /// Stops claiming, lets what is in flight come to its end, and closes the store. Loses nothing.
    pub async fn shutdown(&self) {
        self.inner.engine.stop();
        let mut ended = self.inner.ended.clone();
        // An engine that is gone has nothing in flight.
        let _ = ended.wait_for(Option::is_some).await;
        let sinks = lock(&self.inner.sinks).take();
        if let Some(sinks) = sinks {
            sinks.finish().await;
        }
        if let Some(webhooks) = self.inner.webhooks.get() {
            webhooks.stop().await;
        }
        let stopped = NewEvent::new(EventKind::SystemStopped, self.now(), None, "Tokenkeep has stopped.");
        self.inner.engine.record(stopped).await;
        if let Some(folder) = &self.inner.folder {
            folder.rotator.stop();
            if let Err(error) = folder.audit.write_counts(folder.clock.wall()).await {
                tracing::debug!(%error, "the last token reads could not be counted");
            }
            // Closed already: by another handle.
            let _ = folder.store.close().await;
        }
    }
}

/// For which token set a refresh is wanted.
enum Wanted {
    Any,
    Only(Generation),
    None,
}

fn lives(hot: &Hot, now: Timestamp, min_ttl: Duration) -> bool {
    hot.remaining(now) >= min_ttl.max(Duration::from_millis(1))
}

fn is_restored_copy(connection: &Connection) -> bool {
    connection.hold.as_ref().is_some_and(|hold| hold.cause == FailureCode::RestoredCopy)
}

fn check_fingerprint(text: &str) -> Result<(), Error> {
    if (16..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(Error::Invalid {
        field: "rejected".to_owned(),
        found: format!("found {} characters", text.len()),
        expected: "16 to 64 hex digits: the beginning of the SHA-256 of the access token".to_owned(),
    })
}

/// The SHA-256 of an access token in 64 hex digits: by it [`RefreshAsk::rejected`] names the token that an API refused.
///
/// ```
/// assert!(tokenkeep::fingerprint("abc").starts_with("ba7816bf8f01cfea"));
/// ```
#[must_use]
pub fn fingerprint(token: &str) -> String {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_number() -> u64 {
    u64::from_le_bytes(random_bytes())
}

pub(crate) fn make_folder(folder: &Path) -> Result<(), Error> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|cause| Error::Folder { path: folder.to_owned(), cause })
}

/// Removes the copies that backups were made of when an earlier process was killed.
fn remove_copies(folder: &Path) -> Result<(), Error> {
    let unusable = |cause| Error::Folder { path: folder.to_owned(), cause };
    for entry in std::fs::read_dir(folder).map_err(unusable)? {
        let entry = entry.map_err(unusable)?;
        if entry.file_name().to_string_lossy().starts_with(COPY_PREFIX) {
            std::fs::remove_file(entry.path()).map_err(unusable)?;
        }
    }
    Ok(())
}

/// Steady time goes on within a boot. After another boot wall time is what is left: what the wall clock was
/// stepped by in the boot before is made up for, and what then seems to come from the future is due now.
async fn start_clock(store: &SqliteStore) -> Result<SystemClock, StoreError> {
    let boot = SystemClock::new(None).boot_id();
    let anchor = store.clock_anchor().await?;
    if let Some(anchor) = anchor.filter(|anchor| anchor.boot == boot) {
        return Ok(SystemClock::new(Some(anchor.offset_ms)));
    }
    let clock = SystemClock::new(None);
    if let Some(before) = anchor {
        if before.skew_ms.abs() >= SKEW_NOTED_FROM_MS {
            store.shift_times(before.skew_ms).await?;
        }
        store.due_if_issued_after(clock.now()).await?;
    }
    store.set_clock_anchor(ClockAnchor { boot, offset_ms: clock.offset_ms(), skew_ms: 0 }).await?;
    Ok(clock)
}

/// Notes how far the wall clock was stepped, for the next boot.
async fn watch_the_wall(inner: std::sync::Weak<Inner>) {
    loop {
        tokio::time::sleep(SKEW_LOOKED_AT_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let Some(Folder { store, clock, skew_ms: noted_ms, .. }) = &inner.folder else { return };
        let skew_ms = clock.wall().as_millis() - clock.now().as_millis();
        if (skew_ms - noted_ms.load(Ordering::Relaxed)).abs() < SKEW_NOTED_FROM_MS {
            continue;
        }
        match store.set_clock_anchor(ClockAnchor { boot: clock.boot_id(), offset_ms: clock.offset_ms(), skew_ms }).await
        {
            Ok(()) => noted_ms.store(skew_ms, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the wall clock's step could not be noted"),
        }
    }
}

/// Makes the counts of token reads durable.
async fn write_counts(inner: std::sync::Weak<Inner>) {
    loop {
        tokio::time::sleep(COUNTED_WITHIN / 2).await;
        let Some(inner) = inner.upgrade() else { return };
        let Some(Folder { audit, clock, .. }) = &inner.folder else { return };
        match audit.write_counts(clock.wall()).await {
            Ok(()) => {}
            Err(Error::Store(StoreError::Closed)) => return,
            Err(error) => tracing::error!(%error, "token reads could not be counted in the audit trail"),
        }
    }
}

/// A store that does not fit its journal was put back from an older copy: its refresh tokens may have been used.
/// Every rotating connection is held until somebody says that this is the only copy.
async fn hold_a_restored_copy(
    store: &SqliteStore,
    journal: &FileJournal,
    providers: &[Provider],
    now: Timestamp,
) -> Result<(), Error> {
    let (stored, answered) = (store.journal_sequence().await?, journal.highest_answer());
    // An answer is retired only after the store has it; an open one it need not have.
    let still_open = journal.open_entries().iter().any(|entry| entry.answer.is_some() && entry.sequence > stored);
    let fits = (stored == answered || (stored < answered && still_open)) && !store.is_restored().await?;
    if fits && journal.store_id() == store.store_id() {
        return Ok(());
    }
    tracing::error!("the database is a restored copy, or older than its journal: rotating connections are held");
    // Of a provider that the configuration lacks, nobody knows that it does not rotate.
    let rotates = |c: &Connection| {
        let provider = providers.iter().find(|provider| provider.name == c.provider);
        provider.is_none_or(|provider| provider.rules.rotation.rotates())
    };
    let mut after = None;
    loop {
        let query = ListQuery { after, limit: PAGE_MAX, ..ListQuery::default() };
        let page = store.list(now, &query).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        let stands = |c: &&Connection| rotates(c) && !matches!(c.state, State::NeedsReauth { .. });
        let hold = || Flag::Hold(Hold { cause: FailureCode::RestoredCopy, probe_at: None });
        // Together, so that they share their syncs.
        try_join_all(page.iter().filter(stands).map(|c| store.flag(now, &c.key, hold()))).await?;
    }
    if journal.store_id() != store.store_id() {
        journal.adopt_store(store.store_id()).map_err(|error| Error::Journal(error.to_string()))?;
    }
    // Said once: what is resumed is not held again at the next start.
    store.accept_journal(if still_open { stored } else { answered }).await?;
    Ok(())
}
