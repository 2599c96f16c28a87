//! The engine: workers that claim what is due and refresh it.
//!
//! Everything it touches is injected ([`Parts`]), so the same engine runs on a real machine and, on one thread with
//! paused time and one seed, in the simulation.

mod admission;
mod recovery;
mod refresh;
mod setup;

use crate::clock::{Clock, Dice};
use crate::config::Provider;
use crate::endpoint::Endpoint;
use crate::events::{Events, Milestone, Progress};
use crate::journal::{Journal, JournalError};
use crate::metrics::{Gauges, Metrics, SPANS};
use crate::store::{CLAIM_BATCH_MAX, ClaimOne, Event, EventKind, NewEvent, Quota, Store, StoreError, Work};
use crate::tokens::{CACHED_TOKENS_MAX, Hot, Tokens};
use admission::{Admission, LaneKey, Standing};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokenkeep_core::classify::Setback;
use tokenkeep_core::lifecycle::{Context, Step};
use tokenkeep_core::model::{Connection, ConnectionId, ConnectionKey, Generation, Holder, State, Status, Waiting};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::schedule::Policy;
use tokenkeep_core::{FailureCode, Timestamp};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument as _;

pub use admission::{DOWN_AFTER_FAILURES, RETRIES_PER_FIRST_TRY, RETRIES_PER_MINUTE_MIN, RETRIES_SAVED_MAX};
pub use refresh::COMMIT_RETRY_EVERY;
pub use setup::Changes;
pub(crate) use setup::Setup;

/// The shortest pause between two looks at a store that had nothing due.
pub const TICK_MIN: Duration = Duration::from_millis(100);
/// The longest: after a suspend, the timer may be this late.
pub const TICK_MAX: Duration = Duration::from_secs(30);
/// How often the store is asked whom to warn of an end.
pub const WARN_EVERY: Duration = Duration::from_secs(60);
/// The pause before a store is asked again that could not be used.
pub const STORE_RETRY_EVERY: Duration = Duration::from_secs(1);
/// A worker that has not looked at the store for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(90);
/// More worker restarts than this within [`RESTART_WINDOW`] end the engine.
pub const RESTARTS_MAX: usize = 10;
/// See [`RESTARTS_MAX`].
pub const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// What the engine runs on.
#[derive(Clone)]
#[expect(missing_docs, reason = "each part's trait says what it is")]
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub journal: Arc<dyn Journal>,
    pub endpoint: Arc<dyn Endpoint>,
    pub clock: Arc<dyn Clock>,
    pub dice: Arc<dyn Dice>,
}

/// What the engine is told besides its parts.
#[derive(Clone, Debug)]
pub struct Options {
    /// How eager refreshing is.
    pub policy: Policy,
    /// The providers it may refresh at.
    pub providers: Vec<Provider>,
    /// Attempts in flight at once, over all providers; the journal has at least as many slots.
    pub in_flight_max: usize,
    /// Workers side by side.
    pub workers: u32,
    /// This boot of the machine.
    pub boot: u64,
    /// This start of the process.
    pub process: u64,
}

/// The engine. It works while [`Engine::run`] is polled.
pub struct Engine {
    pub(crate) parts: Parts,
    pub(crate) tokens: Tokens,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    setup: Mutex<Arc<Setup>>,
    boot: u64,
    process: u64,
    workers: u32,
    in_flight_max: usize,
    admission: Mutex<Admission>,
    flights: Mutex<BTreeMap<ConnectionId, Arc<Flight>>>,
    asked: Mutex<VecDeque<Ask>>,
    /// For each provider: before this, nothing of it is due.
    next_due: Mutex<BTreeMap<String, Timestamp>>,
    wake: Notify,
    stop: watch::Sender<bool>,
    looked_at: AtomicI64,
    /// When a worker is to look next; while one looks, since when.
    look_at: AtomicI64,
    /// When somebody may next be to be warned.
    warn_at: AtomicI64,
    journal_broken: AtomicBool,
    trouble: Mutex<Option<String>>,
    /// Held by a reload.
    reloading: tokio::sync::Mutex<()>,
    /// Held while the store is told what lanes are held.
    telling: tokio::sync::Mutex<()>,
}

/// One attempt in flight.
pub(crate) struct Flight {
    /// Held from the last check before sending until the outcome is committed.
    pub(crate) gate: Arc<tokio::sync::Mutex<()>>,
    holder: Holder,
    ended: watch::Sender<bool>,
}

impl Flight {
    /// Returns when the attempt has ended, whatever its outcome.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`: it cannot close first.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// Somebody wants one connection refreshed at once.
struct Ask {
    key: ConnectionKey,
    force: bool,
    only: Option<Generation>,
    answer: oneshot::Sender<Result<Started, StoreError>>,
}

/// What came of asking for a refresh.
pub(crate) enum Started {
    /// An attempt is in flight: this one or another.
    InFlight(Arc<Flight>),
    /// Nothing was sent: why, and when it will be tried by itself.
    Refused { connection: Box<Connection>, status: Status, code: Option<FailureCode>, retry_at: Option<Timestamp> },
    /// There is no such connection.
    Absent,
    /// Another token set is in hand than the one that was meant.
    Superseded,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is whole after every statement, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// An engine on these parts.
    #[must_use]
    pub fn new(parts: Parts, options: Options) -> Arc<Self> {
        let now = parts.clock.now();
        let admission = Admission::new(&options.providers, options.in_flight_max, now);
        Arc::new(Self {
            parts,
            tokens: Tokens::new(CACHED_TOKENS_MAX),
            events: Events::default(),
            metrics: Metrics::default(),
            setup: Mutex::new(Arc::new(Setup::new(options.policy, options.providers))),
            boot: options.boot,
            process: options.process,
            workers: options.workers.max(1),
            in_flight_max: options.in_flight_max.max(1),
            admission: Mutex::new(admission),
            flights: Mutex::default(),
            asked: Mutex::default(),
            next_due: Mutex::default(),
            wake: Notify::new(),
            stop: watch::Sender::new(false),
            looked_at: AtomicI64::new(now.as_millis()),
            look_at: AtomicI64::new(now.as_millis()),
            warn_at: AtomicI64::new(now.as_millis()),
            journal_broken: AtomicBool::new(false),
            trouble: Mutex::new(None),
            reloading: tokio::sync::Mutex::default(),
            telling: tokio::sync::Mutex::default(),
        })
    }

    /// Now, in steady time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// A steady time as the wall clock shows it: for what a provider states in wall time.
    fn wall(&self, at: Timestamp) -> Timestamp {
        at.shifted(self.parts.clock.wall().as_millis() - self.now().as_millis())
    }

    pub(crate) fn provider(&self, name: &str) -> Option<Arc<Provider>> {
        self.setup().providers.get(name).cloned()
    }

    /// Takes up what the store knows of providers, and settles what a process before this one left open. To be called
    /// once, before [`Engine::run`].
    ///
    /// # Errors
    /// The store cannot be used.
    pub async fn recover(&self) -> Result<usize, StoreError> {
        self.adopt(&self.setup()).await?;
        recovery::at_start(self).await
    }

    /// Claims and refreshes until [`Engine::stop`], then drains what is in flight.
    ///
    /// # Errors
    /// The engine cannot go on: its workers keep failing.
    pub async fn run(self: &Arc<Self>) -> Result<(), String> {
        let mut workers = JoinSet::new();
        let mut names: BTreeMap<tokio::task::Id, Holder> = BTreeMap::new();
        let mut restarts: VecDeque<Timestamp> = VecDeque::new();
        let start = |workers: &mut JoinSet<()>, names: &mut BTreeMap<_, _>, holder: Holder| {
            let id = workers.spawn(Arc::clone(self).work(holder)).id();
            names.insert(id, holder);
        };
        for worker in 0..self.workers {
            start(&mut workers, &mut names, Holder { boot: self.boot, process: self.process, worker, incarnation: 0 });
        }
        while let Some(ended) = workers.join_next_with_id().await {
            let Err(error) = ended else { continue };
            let Some(gone) = names.remove(&error.id()) else { continue };
            let now = self.now();
            restarts.push_back(now);
            restarts.retain(|&at| at + RESTART_WINDOW > now);
            if restarts.len() > RESTARTS_MAX {
                return Err(format!("worker {} failed {} times within a minute: {error}", gone.worker, restarts.len()));
            }
            self.tasks_gone(gone).await;
            self.after_failure(gone, &error.to_string()).await;
            start(&mut workers, &mut names, Holder { incarnation: gone.incarnation + 1, ..gone });
        }
        Ok(())
    }

    /// A worker is gone; its tasks go with it, each at its next turn. Nothing of them may be left when their claims
    /// are looked at.
    async fn tasks_gone(&self, gone: Holder) {
        let left: Vec<_> = lock(&self.flights).values().filter(|flight| flight.holder == gone).cloned().collect();
        for flight in left {
            flight.ended().await;
        }
    }

    /// The claims of a worker, or of a task of it, that is gone are treated as after a restart.
    async fn after_failure(&self, gone: Holder, why: &str) {
        tracing::error!(worker = gone.worker, why, "worker restarted");
        // It may have been about to learn what is due.
        lock(&self.next_due).clear();
        while let Err(error) = recovery::settle_claims(self, |holder| *holder == gone).await {
            self.store_failed(&error);
            tokio::time::sleep(STORE_RETRY_EVERY).await;
        }
        let mut event =
            NewEvent::new(EventKind::WorkerRestarted, self.now(), None, "A worker failed and was restarted.");
        event.data = format!(r#"{{"worker":{}}}"#, gone.worker);
        self.record(event).await;
    }

    /// Stores and publishes an event that belongs to no commit. A store that fails loses it, not us.
    pub(crate) async fn record(&self, event: NewEvent) {
        match self.parts.store.record(vec![event]).await {
            Ok(events) => events.into_iter().for_each(|event| self.events.publish(event)),
            Err(error) => self.store_failed(&error),
        }
    }

    /// No new claims; [`Engine::run`] returns when what is in flight has ended.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Something became due earlier than the workers know.
    pub(crate) fn wake(&self) {
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Why this engine does no work now, if it does not.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        if self.journal_broken.load(Ordering::Relaxed) {
            return Some("the journal cannot be written: no rotating token is refreshed until a restart".to_owned());
        }
        if let Some(still) = self.stuck_for() {
            return Some(format!("the scheduler has not moved for {} s", still.as_secs()));
        }
        lock(&self.trouble).clone()
    }

    /// How long no worker has looked at the store, where that is longer than [`STUCK_AFTER`]. A store that fails
    /// or a provider that is down sticks nobody.
    #[must_use]
    pub fn stuck_for(&self) -> Option<Duration> {
        let looked_at = Timestamp::from_millis(self.looked_at.load(Ordering::Relaxed));
        Some(self.now().since(looked_at)).filter(|&still| still > STUCK_AFTER)
    }

    /// How it stands now.
    pub(crate) fn gauges(&self) -> Gauges {
        let journal = self.parts.journal.usage();
        Gauges {
            lag: self.lag(),
            in_flight: lock(&self.flights).len(),
            journal_slots_in_use: journal.in_use,
            journal_slots: journal.slots,
        }
    }

    /// See [`Gauges::lag`]. What a closed lane keeps waiting is not late.
    fn lag(&self) -> Duration {
        let now = self.now();
        let look_at = Timestamp::from_millis(self.look_at.load(Ordering::Relaxed));
        let setup = self.setup();
        let next_due = lock(&self.next_due);
        let mut admission = lock(&self.admission);
        let overdue =
            setup.providers.iter().filter(|(_, provider)| self.may_claim(provider)).filter_map(|(name, provider)| {
                let due_at = *next_due.get(name)?;
                Some(now.since(due_at.max(admission.room(&admission::lane_key(provider), now).open_at)))
            });
        overdue.fold(now.since(look_at), Duration::max)
    }

    pub(crate) fn store_failed(&self, error: &StoreError) {
        tracing::error!(%error, "store");
        *lock(&self.trouble) = Some(error.to_string());
    }

    fn journal_failed(&self, error: &JournalError) {
        tracing::error!(%error, "journal");
        self.journal_broken.store(true, Ordering::Relaxed);
    }

    /// One worker: claims what is due within admission, and looks after its attempts.
    async fn work(self: Arc<Self>, holder: Holder) {
        let mut attempts = JoinSet::new();
        let mut stop = self.stop.subscribe();
        loop {
            if *stop.borrow_and_update() {
                break;
            }
            self.serve_asks(holder, &mut attempts).await;
            self.warn().await;
            let pause = self.claim(holder, &mut attempts).await;
            self.look_at.store((self.now() + pause).as_millis(), Ordering::Relaxed);
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                Some(ended) = attempts.join_next(), if !attempts.is_empty() => self.reap(holder, ended).await,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            while let Some(ended) = attempts.try_join_next() {
                self.reap(holder, ended).await;
            }
        }
        while let Some(ended) = attempts.join_next().await {
            self.reap(holder, ended).await;
        }
    }

    /// A task that panicked left its claim behind.
    async fn reap(&self, holder: Holder, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended
            && error.is_panic()
        {
            self.after_failure(holder, "an attempt panicked").await;
        }
    }

    /// Claims what is due and may start; the answer is how long there will be nothing to do.
    async fn claim(self: &Arc<Self>, holder: Holder, attempts: &mut JoinSet<()>) -> Duration {
        let now = self.now();
        self.looked_at.store(now.as_millis(), Ordering::Relaxed);
        self.look_at.store(now.as_millis(), Ordering::Relaxed);
        let mut entered = self.enter_lanes(now);
        if entered.quotas.is_empty() {
            return self.pause(now);
        }
        match self.parts.store.claim_due(now, holder, &entered.quotas).await {
            Ok(claimed) => {
                *lock(&self.trouble) = None;
                for work in claimed.work {
                    entered.use_one(&work.connection.provider);
                    // What is tried again after an outage is claimed before it is due.
                    if let Some(due_at) = work.was_due_at.filter(|due_at| *due_at <= now) {
                        self.metrics.claimed_late(now.since(due_at));
                    }
                    // Only providers of this setup were asked for.
                    if let Some(provider) = entered.setup.providers.get(&work.connection.provider) {
                        self.launch(holder, work, Arc::clone(provider), attempts);
                    }
                }
                entered.end_recoveries();
                claimed.next_due.into_iter().for_each(|(provider, due_at)| self.due_earlier(&provider, due_at));
                drop(entered);
                self.pause(now)
            }
            Err(error) => {
                self.store_failed(&error);
                entered.quotas.iter().for_each(|quota| self.due_earlier(&quota.provider, now));
                STORE_RETRY_EVERY
            }
        }
    }

    /// Tells of ends that come near. One worker at a time.
    async fn warn(&self) {
        let (now, warn_at) = (self.now(), self.warn_at.load(Ordering::Relaxed));
        let next = (now + WARN_EVERY).as_millis();
        if warn_at > now.as_millis()
            || self.warn_at.compare_exchange(warn_at, next, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        match self.parts.store.warn_due(now).await {
            Ok(warned) => {
                warned.events.into_iter().for_each(|event| self.events.publish(event));
                if warned.more {
                    self.warn_at.store(now.as_millis(), Ordering::Relaxed);
                }
            }
            Err(error) => self.store_failed(&error),
        }
    }

    /// A connection of `provider` is due at `at`.
    pub(crate) fn due_earlier(&self, provider: &str, at: Timestamp) {
        if let Some(due_at) = lock(&self.next_due).get_mut(provider) {
            *due_at = at.min(*due_at);
        }
    }

    /// How long nothing is due that may start.
    fn pause(&self, now: Timestamp) -> Duration {
        let setup = self.setup();
        let next_due = lock(&self.next_due);
        let mut admission = lock(&self.admission);
        let next_look =
            setup.providers.iter().filter(|(_, provider)| self.may_claim(provider)).map(|(name, provider)| {
                let open_at = admission.room(&admission::lane_key(provider), now).open_at;
                next_due.get(name).map_or(now, |&due_at| due_at.max(open_at))
            });
        let asked = !lock(&self.asked).is_empty();
        let next_look = if asked { now } else { next_look.min().unwrap_or(Timestamp::NEVER) };
        now.until(next_look).clamp(TICK_MIN, TICK_MAX)
    }

    /// Without a journal, nothing starts that rotates a token.
    fn may_claim(&self, provider: &Provider) -> bool {
        !(provider.rules.rotation.rotates() && self.journal_broken.load(Ordering::Relaxed))
    }

    /// Takes what each lane that has something due may start now. Two providers of one lane share it.
    fn enter_lanes(&self, now: Timestamp) -> Entered<'_> {
        let mut next_due = lock(&self.next_due);
        let mut admission = lock(&self.admission);
        let mut entered = Entered { engine: self, setup: self.setup(), quotas: Vec::new(), used: BTreeMap::new() };
        let setup = Arc::clone(&entered.setup);
        // While plenty is in flight, small claims cost more than they bring.
        let busy = admission.in_flight() * 2 > self.in_flight_max;
        for (name, provider) in setup.providers.iter().filter(|(_, provider)| self.may_claim(provider)) {
            let room = admission.room(&admission::lane_key(provider), now);
            let due = next_due.get(name).is_none_or(|&due_at| due_at <= now);
            let limit = room.limit.min(CLAIM_BATCH_MAX);
            let worth_it =
                if busy { (self.in_flight_max / 8).min(provider.refresh_in_flight_max as usize / 4) } else { 1 };
            if limit == 0 || limit < worth_it || !(due || room.recover_before.is_some()) {
                continue;
            }
            admission.enter(&admission::lane_key(provider), limit);
            // The claim will say; a commit meanwhile may only make it earlier.
            next_due.insert(name.clone(), Timestamp::NEVER);
            entered.quotas.push(Quota { provider: name.clone(), limit, recover_before: room.recover_before });
        }
        entered
    }

    /// Starts the task of one attempt, whose place in its lane has been taken.
    fn launch(
        self: &Arc<Self>,
        holder: Holder,
        work: Work,
        provider: Arc<Provider>,
        attempts: &mut JoinSet<()>,
    ) -> Arc<Flight> {
        let flight = Arc::new(Flight { gate: Arc::default(), holder, ended: watch::Sender::new(false) });
        let id = work.connection.id;
        lock(&self.flights).insert(id, Arc::clone(&flight));
        let lane = admission::lane_key(&provider);
        let landing = Landing { engine: Arc::clone(self), id, lane, flight: Arc::clone(&flight) };
        let span = tracing::debug_span!(
            target: SPANS, "refresh", provider = provider.name, connection = %work.connection.key,
            generation = work.connection.generation.0, outcome = tracing::field::Empty
        );
        let attempt = async move {
            let engine = &landing.engine;
            let claimed_at = engine.now();
            refresh::refresh(engine, &provider, work, &landing.flight).await;
            engine.metrics.took(engine.now().since(claimed_at));
        };
        attempts.spawn(attempt.instrument(span));
        flight
    }

    pub(crate) fn flight(&self, id: ConnectionId) -> Option<Arc<Flight>> {
        lock(&self.flights).get(&id).cloned()
    }

    /// True while nothing at all is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.flights).is_empty()
    }

    fn is_in_flight(&self, id: ConnectionId) -> bool {
        lock(&self.flights).contains_key(&id)
    }

    /// Refreshes `key` at once, due or not, unless one is in flight or something forbids it. `force` overrides
    /// only a doubt. With `only`, not when another token set than this is in hand by the time of the claim.
    pub(crate) async fn ask(
        &self,
        key: &ConnectionKey,
        force: bool,
        only: Option<Generation>,
    ) -> Result<Started, StoreError> {
        loop {
            if *self.stop.borrow() {
                return Err(StoreError::Closed);
            }
            let (answer, answered) = oneshot::channel();
            lock(&self.asked).push_back(Ask { key: key.clone(), force, only, answer });
            self.wake();
            // A worker that failed drops the question: another one will answer it.
            if let Ok(answer) = answered.await {
                return answer;
            }
        }
    }

    async fn serve_asks(self: &Arc<Self>, holder: Holder, attempts: &mut JoinSet<()>) {
        let waiting = std::mem::take(&mut *lock(&self.asked));
        for ask in waiting {
            match self.start_at_once(holder, attempts, &ask).await {
                // A caller that went away changes nothing: the attempt goes on.
                Ok(Some(started)) => drop(ask.answer.send(Ok(started))),
                Ok(None) => lock(&self.asked).push_back(ask),
                Err(error) => drop(ask.answer.send(Err(error))),
            }
        }
    }

    /// Claims and launches what somebody asked for. `None`: it changed since it was seen, or a claim without a
    /// worker is about to be settled; to be looked at again soon.
    async fn start_at_once(
        self: &Arc<Self>,
        holder: Holder,
        attempts: &mut JoinSet<()>,
        ask: &Ask,
    ) -> Result<Option<Started>, StoreError> {
        let Some(seen) = self.parts.store.get(&ask.key).await? else { return Ok(Some(Started::Absent)) };
        if ask.only.is_some_and(|only| only != seen.generation) {
            return Ok(Some(Started::Superseded));
        }
        if let Some(flight) = self.flight(seen.id) {
            return Ok(Some(Started::InFlight(flight)));
        }
        let provider = match self.admit(&seen, ask.force) {
            Ok(provider) => provider,
            Err(refused) => return Ok(Some(*refused)),
        };
        Ok(match self.parts.store.claim_one(self.now(), holder, &seen).await? {
            ClaimOne::Claimed(work) => {
                lock(&self.admission).enter(&admission::lane_key(&provider), 1);
                Some(Started::InFlight(self.launch(holder, *work, provider, attempts)))
            }
            ClaimOne::Absent => Some(Started::Absent),
            ClaimOne::NotClaimable => None,
        })
    }

    /// Where a refresh that somebody asks for is sent, or why it is not.
    fn admit(&self, seen: &Connection, force: bool) -> Result<Arc<Provider>, Box<Started>> {
        let refused = |status, code, retry_at| {
            Err(Box::new(Started::Refused { connection: Box::new(seen.clone()), status, code, retry_at }))
        };
        if let State::NeedsReauth { cause, .. } = seen.state {
            return refused(Status::NeedsReauth, Some(cause), None);
        }
        if seen.paused {
            return refused(Status::Paused, None, None);
        }
        // What holds the whole provider, its lane knows best.
        if let Some(hold) = seen.hold.as_ref().filter(|hold| hold.cause != FailureCode::ProviderHeld) {
            return refused(Status::Held, Some(hold.cause), hold.probe_at);
        }
        let Some(provider) = self.provider(&seen.provider) else {
            return refused(Status::Held, Some(FailureCode::UnknownProvider), None);
        };
        match lock(&self.admission).standing(&admission::lane_key(&provider), self.now()) {
            Standing::Blocked(until) => return refused(Status::Retrying, Some(FailureCode::RateLimited), Some(until)),
            Standing::Held(until) => return refused(Status::Held, Some(FailureCode::ProviderHeld), Some(until)),
            Standing::Open => {}
        }
        match seen.waiting() {
            Some(Waiting::InDoubt(_)) if !force => {
                let code = seen.last_error.as_ref().map(|error| error.failure.code);
                refused(Status::InDoubt, code, seen.due_at())
            }
            _ => Ok(provider),
        }
    }

    /// A connection left the reach of its lane's other attempts: nothing is in flight for it any more.
    fn landed(&self, landing: &Landing) {
        lock(&self.flights).remove(&landing.id);
        lock(&self.admission).leave(&landing.lane);
        landing.flight.ended.send_replace(true);
    }

    fn reserve_place(&self) -> Result<refresh::Place, String> {
        match self.parts.journal.reserve() {
            Ok(Some(slot)) => Ok(refresh::Place::new(Arc::clone(&self.parts.journal), slot)),
            Ok(None) => Err("every place in the journal is taken".to_owned()),
            Err(error) => {
                self.journal_failed(&error);
                Err(error.to_string())
            }
        }
    }

    fn decide(
        &self,
        provider: &Provider,
        retry_not_before: Timestamp,
        decide: impl FnOnce(Context<'_>) -> Step,
    ) -> Step {
        decide(Context {
            policy: &self.setup().policy,
            rules: &provider.rules,
            now: self.now(),
            draw: self.parts.dice.draw(),
            retry_not_before,
        })
    }

    fn admission_succeeded(&self, provider: &Provider) {
        lock(&self.admission).succeeded(&admission::lane_key(provider), self.now());
    }

    fn admission_failed(&self, provider: &Provider, connection: ConnectionId, setback: &Setback) -> Timestamp {
        lock(&self.admission).failed(&admission::lane_key(provider), connection, setback, self.now())
    }

    fn progress(&self, connection: &Connection, milestone: Milestone) {
        self.events.progress(|| Progress {
            connection: connection.key.clone(),
            attempt: connection.attempt,
            milestone,
            at: self.now(),
        });
    }

    /// What a commit made is durable: the read path and the listeners may have it.
    fn publish(&self, connection: Connection, tokens: Option<TokenSet>, events: Vec<Event>) {
        if let Some(due_at) = connection.due_at() {
            self.due_earlier(&connection.provider, due_at);
        }
        match tokens {
            Some(tokens) => {
                let ends_after = self.ends_after(&connection);
                self.tokens.replace_if_cached(&connection.key, || Hot::new(&connection, &tokens, ends_after));
            }
            None => self.tokens.refresh_warnings(&connection),
        }
        events.into_iter().for_each(|event| self.events.publish(event));
    }

    /// How long after a rotation the old access token still works, where the provider ends it.
    pub(crate) fn ends_after(&self, connection: &Connection) -> Option<Duration> {
        self.provider(&connection.provider)?.rules.rotation_ends_access_after
    }

    /// The names of the providers that are the same client at the same endpoint, this one's among them.
    pub(crate) fn sections_of_client(&self, provider: &Provider) -> Vec<String> {
        let setup = self.setup();
        let same = |other: &Provider| other.token_url == provider.token_url && other.client.id == provider.client.id;
        setup.providers.iter().filter(|(_, other)| same(other)).map(|(name, _)| name.clone()).collect()
    }

    /// The names of all providers.
    #[must_use]
    pub fn provider_names(&self) -> Vec<String> {
        self.setup().providers.keys().cloned().collect()
    }
}

/// Places taken in lanes for attempts that are about to be claimed; what is not used goes back.
struct Entered<'a> {
    engine: &'a Engine,
    setup: Arc<Setup>,
    quotas: Vec<Quota>,
    used: BTreeMap<String, usize>,
}

impl Entered<'_> {
    fn use_one(&mut self, provider: &str) {
        *self.used.entry(provider.to_owned()).or_default() += 1;
    }

    fn unused(&self, quota: &Quota) -> usize {
        quota.limit.saturating_sub(self.used.get(&quota.provider).copied().unwrap_or(0))
    }

    /// A recovery that found fewer than it might has reached everybody.
    fn end_recoveries(&self) {
        let over = |quota: &&Quota| quota.recover_before.is_some() && self.unused(quota) > 0;
        for quota in self.quotas.iter().filter(over) {
            if let Some(provider) = self.setup.providers.get(&quota.provider) {
                lock(&self.engine.admission).recovered(&admission::lane_key(provider));
            }
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        for quota in &self.quotas {
            if let Some(provider) = self.setup.providers.get(&quota.provider) {
                lock(&self.engine.admission).give_back(&admission::lane_key(provider), self.unused(quota));
            }
        }
    }
}

/// Takes an attempt out of the engine's books when its task ends, however it ends.
struct Landing {
    engine: Arc<Engine>,
    id: ConnectionId,
    lane: LaneKey,
    flight: Arc<Flight>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.engine.landed(self);
    }
}
