//! [`TokenKeep`]: the library's face.

use crate::clock::{Clock, SeededDice, SystemClock};
use crate::config::{Config, Provider};
use crate::endpoint::http::HttpEndpoint;
use crate::engine::{Engine, Options, Parts, Started};
use crate::error::Error;
use crate::import::{self, Import, Imported};
use crate::journal::Journal;
use crate::journal::file::FileJournal;
use crate::seal::Sealer;
use crate::store::lock::StateLock;
use crate::store::sqlite::{ClockAnchor, SqliteStore};
use crate::store::{
    Event, EventKind, EventQuery, Flag, Granted, ListQuery, NewEvent, NewGrant, PAGE_MAX, Store, StoreError, Summary,
};
use crate::tokens::{Handed, Hot};
use aws_lc_rs::{digest, rand};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokenkeep_core::lifecycle::{self, Brought, Context};
use tokenkeep_core::model::{Connection, ConnectionKey, Hold, State, Status, Waiting};
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
/// How often the wall clock is compared with steady time.
const SKEW_LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

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
}

impl Drop for Inner {
    /// The last handle is gone without a [`TokenKeep::shutdown`]: as after a crash, the next start settles what was
    /// in flight.
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// What an instance holds that has a state folder.
struct Folder {
    store: Arc<SqliteStore>,
    clock: Arc<SystemClock>,
    skew_ms: AtomicI64,
    _lock: StateLock,
}

impl std::fmt::Debug for TokenKeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKeep").field("unready", &self.unready()).finish_non_exhaustive()
    }
}

impl TokenKeep {
    /// Opens the state folder, settles what an earlier process left open, and starts to work on the current tokio
    /// runtime.
    ///
    /// # Errors
    /// Another process uses the folder; no master key or a wrong one; a store or journal that is damaged or newer.
    /// In each of these cases nothing was changed.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let folder = config.state_dir.as_path();
        make_folder(folder)?;
        let lock = StateLock::acquire(folder).map_err(|error| Error::Locked(error.to_string()))?;
        let journal_path = folder.join("journal");
        let store_path = folder.join("tokenkeep.db");
        let sealer = Arc::new(open_key(folder, &[&journal_path, &store_path])?);
        let journal_error = |error: crate::journal::file::OpenJournalError| Error::Journal(error.to_string());
        FileJournal::check_key(&journal_path, &sealer).map_err(journal_error)?;
        let store = Arc::new(SqliteStore::open(&store_path, Arc::clone(&sealer))?);
        let clock = Arc::new(start_clock(&store).await?);
        // One that is there is opened whatever store it belongs to: that is looked at next.
        let belongs_to = (!journal_path.exists()).then(|| store.store_id());
        let journal =
            FileJournal::open(&journal_path, config.in_flight_max, sealer, belongs_to).map_err(journal_error)?;
        hold_a_restored_copy(&store, &journal, &config.providers, clock.now()).await?;
        let in_flight_max = config.in_flight_max.min(journal.slots()) as usize;
        let parts = Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            journal: Arc::new(journal),
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
        let folder = Folder { store, clock, skew_ms: AtomicI64::new(0), _lock: lock };
        Self::start(Engine::new(parts, options), Some(folder)).await
    }

    /// An instance on an engine whose parts the caller brings, without a state folder of its own.
    ///
    /// # Errors
    /// The store cannot be used.
    pub async fn on_engine(engine: Arc<Engine>) -> Result<Self, Error> {
        Self::start(engine, None).await
    }

    async fn start(engine: Arc<Engine>, folder: Option<Folder>) -> Result<Self, Error> {
        let settled = engine.recover().await?;
        let mut started = NewEvent::new(EventKind::SystemStarted, engine.now(), None, "Tokenkeep has started.");
        started.data = format!(r#"{{"version":"{}","claims_settled":{settled}}}"#, env!("CARGO_PKG_VERSION"));
        engine.record(started).await;
        let (end, ended) = watch::channel(None);
        let running = Arc::clone(&engine);
        let work = tokio::spawn(async move { drop(end.send_replace(Some(running.run().await))) }).abort_handle();
        let inner = Arc::new(Inner { engine, ended, work, folder });
        if inner.folder.is_some() {
            tokio::spawn(watch_the_wall(Arc::downgrade(&inner)));
        }
        Ok(Self { inner })
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
            return Ok(hot.hand_out(now, ask.min_ttl));
        }
        self.cold_token(key, ask).await
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
            let started = self.ask(key, false).await?;
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
            Ok(granted) => granted.into_iter().map(|granted| self.granted(granted)).collect::<Vec<_>>().into_iter(),
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
        let provider =
            self.inner.engine.provider(&import.provider).ok_or_else(|| self.unknown_provider(&import.provider))?;
        let read = import::read(&import.token)?;
        let (now, wall) = (self.now(), self.clock().wall());
        let steady = |at: Timestamp| at.shifted(now.as_millis() - wall.as_millis());
        let brought = Brought {
            expires_at: read.expires_at.map(steady),
            expires_in: read.expires_in,
            has_refresh_token: read.tokens.refresh_token.is_some(),
            in_bulk,
        };
        let context = Context {
            policy: self.inner.engine.policy(),
            rules: &provider.rules,
            now,
            draw: self.inner.engine.parts.dice.draw(),
            retry_not_before: Timestamp::EPOCH,
        };
        let (times, due_at) = lifecycle::brought(brought, context);
        Ok(NewGrant {
            key: import.key,
            provider: import.provider,
            labels: import.labels,
            scopes: read.scopes,
            renewal: lifecycle::renewal_of(brought.has_refresh_token),
            times,
            due_at,
            waiting: Waiting::Schedule,
            tokens: Some(read.tokens),
        })
    }

    fn unknown_provider(&self, found: &str) -> Error {
        let known = self.inner.engine.provider_names().into_iter().collect::<Vec<_>>().join(", ");
        Error::Invalid {
            field: "provider".to_owned(),
            found: format!("found `{}`", tokenkeep_core::model::printable(found, 60)),
            expected: format!("one of the configured providers ({known})"),
        }
    }

    fn granted(&self, granted: Granted) -> Result<Imported, Error> {
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
        })
    }

    /// Waits until no attempt of this connection is between its last check and its outcome, at most
    /// [`SETTLE_WAIT`], and keeps it so while the guard lives. What is in flight after that belongs to a grant that
    /// is about to be superseded.
    async fn wait_for_sent(&self, key: &ConnectionKey) -> Option<OwnedMutexGuard<()>> {
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

    /// Refreshes now, or joins the attempt in flight, and waits up to [`REFRESH_WAIT`] for its end. With
    /// [`RefreshAsk::rejected`] a token that its API refused is reported: only the first report of a token refreshes.
    ///
    /// # Errors
    /// [`Error::NotRefreshed`] when nothing was sent: a human must sign in, it is paused, held, in doubt, or its
    /// provider said to wait.
    pub async fn refresh(&self, key: &ConnectionKey, ask: RefreshAsk) -> Result<Refreshed, Error> {
        if !self.still_wanted(key, &ask).await? {
            return Ok(Refreshed::Settled(self.get(key).await?));
        }
        let attempt = async {
            let started = self.ask(key, ask.force).await?;
            if let Started::InFlight(flight) = &started {
                flight.ended().await;
            }
            Ok::<_, Error>(started)
        };
        match tokio::time::timeout(REFRESH_WAIT, attempt).await {
            Err(_) => Ok(Refreshed::Pending(self.get(key).await?)),
            Ok(started) => match started? {
                Started::InFlight(_) => Ok(Refreshed::Settled(self.get(key).await?)),
                Started::Absent => Err(Error::NotFound(key.clone())),
                Started::Refused { connection, status, code, retry_at } => {
                    Err(Error::NotRefreshed { key: connection.key, status, code, retry_at })
                }
            },
        }
    }

    /// Asks the engine, and does not wait for one that has ended.
    async fn ask(&self, key: &ConnectionKey, force: bool) -> Result<Started, Error> {
        let mut ended = self.inner.ended.clone();
        tokio::select! {
            biased;
            started = self.inner.engine.ask(key, force) => Ok(started?),
            _ = ended.wait_for(Option::is_some) => Err(Error::ShuttingDown),
        }
    }

    /// Whether the conditions of a refresh hold for the token set in hand.
    async fn still_wanted(&self, key: &ConnectionKey, ask: &RefreshAsk) -> Result<bool, Error> {
        let found = self.store().tokens(key).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        let generation_fits = ask.if_generation.is_none_or(|wanted| wanted == found.connection.generation.0);
        let Some(rejected) = &ask.rejected else { return Ok(generation_fits) };
        check_fingerprint(rejected)?;
        let held = found.tokens.map(|tokens| fingerprint(tokens.access_token.expose())).unwrap_or_default();
        Ok(generation_fits && held.starts_with(&rejected.to_ascii_lowercase()))
    }

    /// Stops refreshing this connection until [`TokenKeep::resume`]. An attempt in flight is let finish.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn pause(&self, key: &ConnectionKey) -> Result<Connection, Error> {
        self.flag(key, Flag::Pause).await
    }

    /// Refreshes this connection again: clears a pause and a hold.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resume(&self, key: &ConnectionKey) -> Result<Connection, Error> {
        self.flag(key, Flag::Resume).await
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
    /// [`Error::NotFound`].
    pub async fn remove(&self, key: &ConnectionKey) -> Result<(), Error> {
        let _gate = self.wait_for_sent(key).await;
        let event = self.store().remove(self.now(), key).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        self.inner.engine.tokens.forget(key);
        self.inner.engine.events.publish(event);
        Ok(())
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
        at.shifted(self.clock().wall().as_millis() - self.now().as_millis())
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
        let stopped = NewEvent::new(EventKind::SystemStopped, self.now(), None, "Tokenkeep has stopped.");
        self.inner.engine.record(stopped).await;
        if let Some(folder) = &self.inner.folder {
            // Closed already: by another handle.
            let _ = folder.store.close().await;
        }
    }
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

fn fingerprint(token: &str) -> String {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_number() -> u64 {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_le_bytes(bytes)
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|cause| Error::Folder { path: folder.to_owned(), cause })
}

/// The master key; a new one only where there is nothing yet that another one sealed.
fn open_key(folder: &Path, sealed: &[&Path]) -> Result<Sealer, Error> {
    let path = folder.join("master.key");
    if path.exists() || sealed.iter().any(|file| file.exists()) {
        return Ok(Sealer::from_file(&path)?);
    }
    Ok(Sealer::create_file(&path)?)
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
    let fits = stored == answered || (stored < answered && still_open);
    if fits && journal.store_id() == store.store_id() {
        return Ok(());
    }
    tracing::error!("the database does not fit its journal: rotating connections are held");
    let rotates = |c: &Connection| providers.iter().any(|p| p.name == c.provider && p.rules.rotation.rotates());
    let mut after = None;
    loop {
        let query = ListQuery { after, limit: PAGE_MAX, ..ListQuery::default() };
        let page = store.list(now, &query).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        let stands = |c: &&Connection| rotates(c) && !matches!(c.state, State::NeedsReauth { .. });
        for connection in page.iter().filter(stands) {
            let hold = Hold { cause: FailureCode::RestoredCopy, probe_at: None };
            store.flag(now, &connection.key, Flag::Hold(hold)).await?;
        }
    }
    if journal.store_id() != store.store_id() {
        journal.adopt_store(store.store_id()).map_err(|error| Error::Journal(error.to_string()))?;
    }
    Ok(())
}
