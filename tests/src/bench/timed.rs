//! Store, journal and endpoint with a stopwatch around what a refresh waits for.

use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokenkeep::endpoint::{Channel, Endpoint, Reuse, SendFailure};
use tokenkeep::journal::{Entry, Journal, JournalError, Slot, Usage};
use tokenkeep::store::{
    ClaimOne, Claimed, Commit, Committed, Event, EventQuery, Flag, Granted, ListQuery, NewEvent, NewGrant, Noted,
    Outlook, ProviderSummary, Quota, Store, StoreError, Summary, Warned, Work,
};
use tokenkeep_core::model::{AttemptRef, Connection, ConnectionId, ConnectionKey, Hold, Holder};
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::ProviderRequest;
use tokenkeep_core::{Failure, Secret, Timestamp};
use url::Url;

/// What a refresh waits for, in its order.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    Claim,
    Connect,
    Revalidate,
    Sending,
    Send,
    Answer,
    Commit,
    Retire,
}

/// Their names, in the same order.
pub const STAGES: [&str; 8] =
    ["claim", "connect", "revalidate", "note sending", "send and answer", "journal answer", "commit", "retire"];

/// The time that all refreshes together have spent in each stage.
#[derive(Debug, Default)]
pub struct Stopwatch {
    nanoseconds: [AtomicU64; STAGES.len()],
    /// From the claim's end to the commit's.
    whole: AtomicU64,
    claimed_at: Mutex<HashMap<ConnectionId, Instant>>,
    claims: AtomicU64,
}

impl Stopwatch {
    fn add(&self, stage: Stage, since: Instant, refreshes: usize) {
        let spent = nanoseconds(since.elapsed()).saturating_mul(refreshes as u64);
        self.nanoseconds[stage as usize].fetch_add(spent, Ordering::Relaxed);
    }

    fn claimed_at(&self) -> MutexGuard<'_, HashMap<ConnectionId, Instant>> {
        self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds of one refresh in each stage, and in the whole of it.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn microseconds(&self, refreshes: usize) -> (Vec<f64>, f64) {
        let mean = |sum: &AtomicU64| sum.load(Ordering::Relaxed) as f64 / 1_000.0 / refreshes as f64;
        let stages: Vec<f64> = self.nanoseconds.iter().map(mean).collect();
        let whole = mean(&self.whole) + stages[Stage::Claim as usize];
        (stages, whole)
    }

    /// How many claims brought something.
    pub fn claims(&self) -> u64 {
        self.claims.load(Ordering::Relaxed)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A part of the engine with a stopwatch.
pub struct Timed<T> {
    /// What does the work.
    pub inner: T,
    /// What is looked at.
    pub watch: Arc<Stopwatch>,
}

#[async_trait]
impl Store for Timed<Arc<dyn Store>> {
    async fn claim_due(&self, now: Timestamp, holder: Holder, quotas: &[Quota]) -> Result<Claimed, StoreError> {
        let started = Instant::now();
        let claimed = self.inner.claim_due(now, holder, quotas).await?;
        self.watch.add(Stage::Claim, started, claimed.work.len());
        if !claimed.work.is_empty() {
            self.watch.claims.fetch_add(1, Ordering::Relaxed);
        }
        let ended = Instant::now();
        self.watch.claimed_at().extend(claimed.work.iter().map(|work| (work.connection.id, ended)));
        Ok(claimed)
    }

    async fn claim_one(&self, now: Timestamp, holder: Holder, seen: &Connection) -> Result<ClaimOne, StoreError> {
        self.inner.claim_one(now, holder, seen).await
    }

    async fn revalidate(&self, connection: &Connection) -> Result<bool, StoreError> {
        let started = Instant::now();
        let stands = self.inner.revalidate(connection).await;
        self.watch.add(Stage::Revalidate, started, 1);
        stands
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let (started, id) = (Instant::now(), commit.next.id);
        let committed = self.inner.commit(commit).await;
        self.watch.add(Stage::Commit, started, 1);
        if let Some(claimed_at) = self.watch.claimed_at().remove(&id) {
            self.watch.whole.fetch_add(nanoseconds(claimed_at.elapsed()), Ordering::Relaxed);
        }
        committed
    }

    async fn warn_due(&self, now: Timestamp) -> Result<Warned, StoreError> {
        self.inner.warn_due(now).await
    }

    async fn of_account(&self, provider: &str, account: &str) -> Result<Vec<ConnectionKey>, StoreError> {
        self.inner.of_account(provider, account).await
    }

    async fn get(&self, key: &ConnectionKey) -> Result<Option<Connection>, StoreError> {
        self.inner.get(key).await
    }

    async fn tokens(&self, key: &ConnectionKey) -> Result<Option<Work>, StoreError> {
        self.inner.tokens(key).await
    }

    async fn list(&self, now: Timestamp, query: &ListQuery) -> Result<Vec<Connection>, StoreError> {
        self.inner.list(now, query).await
    }

    async fn summary(&self, now: Timestamp, namespace: Option<&str>) -> Result<Summary, StoreError> {
        self.inner.summary(now, namespace).await
    }

    async fn summary_by_provider(&self, now: Timestamp) -> Result<BTreeMap<String, ProviderSummary>, StoreError> {
        self.inner.summary_by_provider(now).await
    }

    async fn outlook(&self, now: Timestamp, namespace: Option<&str>) -> Result<Outlook, StoreError> {
        self.inner.outlook(now, namespace).await
    }

    async fn grant(&self, now: Timestamp, grants: Vec<NewGrant>) -> Result<Vec<Granted>, StoreError> {
        self.inner.grant(now, grants).await
    }

    async fn flag(
        &self,
        now: Timestamp,
        key: &ConnectionKey,
        flag: Flag,
    ) -> Result<Option<(Connection, Option<Event>)>, StoreError> {
        self.inner.flag(now, key, flag).await
    }

    async fn remove(&self, now: Timestamp, key: &ConnectionKey) -> Result<Option<Event>, StoreError> {
        self.inner.remove(now, key).await
    }

    async fn open_claims(&self, after: ConnectionId, limit: usize) -> Result<Vec<Work>, StoreError> {
        self.inner.open_claims(after, limit).await
    }

    async fn record(&self, events: Vec<NewEvent>) -> Result<Vec<Event>, StoreError> {
        self.inner.record(events).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        self.inner.events(query).await
    }

    async fn providers(&self) -> Result<BTreeMap<String, Option<Hold>>, StoreError> {
        self.inner.providers().await
    }

    async fn hold_provider(&self, provider: &str, hold: Option<Hold>) -> Result<(), StoreError> {
        self.inner.hold_provider(provider, hold).await
    }

    async fn note_provider(&self, now: Timestamp, provider: &str, configuration: &Secret) -> Result<Noted, StoreError> {
        self.inner.note_provider(now, provider, configuration).await
    }

    async fn journal_sequence(&self) -> Result<u64, StoreError> {
        self.inner.journal_sequence().await
    }
}

#[async_trait]
impl Journal for Timed<Arc<dyn Journal>> {
    fn reserve(&self) -> Result<Option<Slot>, JournalError> {
        self.inner.reserve()
    }

    fn release(&self, slot: Slot) {
        self.inner.release(slot);
    }

    fn sending(&self, slot: &Slot, attempt: AttemptRef, sent_at: Timestamp) -> Result<(), JournalError> {
        let started = Instant::now();
        let noted = self.inner.sending(slot, attempt, sent_at);
        self.watch.add(Stage::Sending, started, 1);
        noted
    }

    async fn answer(
        &self,
        slot: &Slot,
        attempt: AttemptRef,
        sent_at: Timestamp,
        answer: &RawAnswer,
    ) -> Result<(), JournalError> {
        let started = Instant::now();
        let kept = self.inner.answer(slot, attempt, sent_at, answer).await;
        self.watch.add(Stage::Answer, started, 1);
        kept
    }

    fn retire(&self, slot: Slot) {
        let started = Instant::now();
        self.inner.retire(slot);
        self.watch.add(Stage::Retire, started, 1);
    }

    fn open_entries(&self) -> Vec<Entry> {
        self.inner.open_entries()
    }

    fn retire_entry(&self, sequence: u64) {
        self.inner.retire_entry(sequence);
    }

    fn highest_answer(&self) -> u64 {
        self.inner.highest_answer()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}

#[async_trait]
impl Endpoint for Timed<Arc<dyn Endpoint>> {
    async fn connect(&self, url: &Url, reuse: Reuse) -> Result<Box<dyn Channel>, Failure> {
        let started = Instant::now();
        let inner = self.inner.connect(url, reuse).await?;
        self.watch.add(Stage::Connect, started, 1);
        Ok(Box::new(Timed { inner, watch: Arc::clone(&self.watch) }))
    }
}

#[async_trait]
impl Channel for Timed<Box<dyn Channel>> {
    async fn send(self: Box<Self>, request: ProviderRequest, timeout: Duration) -> Result<RawAnswer, SendFailure> {
        let started = Instant::now();
        let Self { inner, watch } = *self;
        let answer = inner.send(request, timeout).await;
        watch.add(Stage::Send, started, 1);
        answer
    }
}
