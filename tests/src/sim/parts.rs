//! Store and journal of the simulated machine, with crash points before and after each write.

use super::world::World;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokenkeep::journal::{Entry, Journal, JournalError, Slot, Usage};
use tokenkeep::store::memory::MemoryStore;
use tokenkeep::store::{
    ClaimOne, Claimed, Commit, Committed, Event, EventQuery, Flag, Granted, ListQuery, NewEvent, NewGrant, Noted,
    Outlook, ProviderSummary, Quota, Store, StoreError, Summary, Warned, Work,
};
use tokenkeep_core::model::{AttemptRef, Connection, ConnectionId, ConnectionKey, Hold, Holder};
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::{Secret, Timestamp};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A known bug, planted to see that the simulation finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// The journal keeps nothing.
    NoJournal,
    /// A lost answer of a strict provider is resent as if it were `until-used`.
    BlindResend,
    /// A commit is acknowledged, and so published, before it is durable.
    PublishBeforeCommit,
}

/// The store as one process sees it.
pub struct SimStore {
    /// What is durable.
    pub durable: Arc<MemoryStore>,
    /// The world that it is in.
    pub world: Arc<World>,
    /// The process that uses it.
    pub process: u64,
    /// What is wrong with it.
    pub sabotage: Sabotage,
}

impl SimStore {
    /// A write: the process may die before it and after it, and the disk may be full.
    async fn write<T>(&self, write: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        self.world.crash_point(self.process).await;
        if self.world.strikes("store_full", |f| f.store_full) {
            return Err(StoreError::Unusable("simulated full disk".to_owned()));
        }
        let written = write.await;
        tokio::task::yield_now().await;
        self.world.crash_point(self.process).await;
        written
    }
}

/// A commit that is promised first and done later.
async fn acknowledge_early(store: &SimStore, commit: Commit) -> Result<Committed, StoreError> {
    let mut next = commit.next.clone();
    next.hold = None;
    let (durable, world, process) = (Arc::clone(&store.durable), Arc::clone(&store.world), store.process);
    let copy = Commit { tokens: commit.tokens.as_ref().map(copy_of), ..commit };
    tokio::spawn(async move {
        world.pause(std::time::Duration::from_millis(500)).await;
        world.crash_point(process).await;
        durable.commit(copy).await
    });
    Ok(Committed::Applied(Box::new(next), Vec::new()))
}

fn copy_of(tokens: &TokenSet) -> TokenSet {
    TokenSet {
        access_token: tokens.access_token.duplicate(),
        refresh_token: tokens.refresh_token.as_ref().map(Secret::duplicate),
        token_type: tokens.token_type.clone(),
        extra: tokens.extra.duplicate(),
    }
}

#[async_trait]
impl Store for SimStore {
    async fn claim_due(&self, now: Timestamp, holder: Holder, quotas: &[Quota]) -> Result<Claimed, StoreError> {
        self.world.worker_point(self.process).await;
        let claimed = self.write(self.durable.claim_due(now, holder, quotas)).await?;
        self.world.worker_point(self.process).await;
        Ok(claimed)
    }

    async fn claim_one(&self, now: Timestamp, holder: Holder, seen: &Connection) -> Result<ClaimOne, StoreError> {
        self.write(self.durable.claim_one(now, holder, seen)).await
    }

    async fn revalidate(&self, connection: &Connection) -> Result<bool, StoreError> {
        self.durable.revalidate(connection).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let line = format!("commit {} generation {}", commit.next.key, commit.next.generation.0);
        if self.sabotage == Sabotage::PublishBeforeCommit && commit.tokens.is_some() {
            return acknowledge_early(self, commit).await;
        }
        let committed = self.write(self.durable.commit(commit)).await?;
        self.world.note(&line);
        Ok(committed)
    }

    async fn warn_due(&self, now: Timestamp) -> Result<Warned, StoreError> {
        self.write(self.durable.warn_due(now)).await
    }

    async fn of_account(&self, provider: &str, account: &str) -> Result<Vec<ConnectionKey>, StoreError> {
        self.durable.of_account(provider, account).await
    }

    async fn get(&self, key: &ConnectionKey) -> Result<Option<Connection>, StoreError> {
        self.durable.get(key).await
    }

    async fn tokens(&self, key: &ConnectionKey) -> Result<Option<Work>, StoreError> {
        self.durable.tokens(key).await
    }

    async fn list(&self, now: Timestamp, query: &ListQuery) -> Result<Vec<Connection>, StoreError> {
        self.durable.list(now, query).await
    }

    async fn summary(&self, now: Timestamp, namespace: Option<&str>) -> Result<Summary, StoreError> {
        self.durable.summary(now, namespace).await
    }

    async fn summary_by_provider(&self, now: Timestamp) -> Result<BTreeMap<String, ProviderSummary>, StoreError> {
        self.durable.summary_by_provider(now).await
    }

    async fn outlook(&self, now: Timestamp, namespace: Option<&str>) -> Result<Outlook, StoreError> {
        self.durable.outlook(now, namespace).await
    }

    async fn grant(&self, now: Timestamp, grants: Vec<NewGrant>) -> Result<Vec<Granted>, StoreError> {
        self.write(self.durable.grant(now, grants)).await
    }

    async fn flag(
        &self,
        now: Timestamp,
        key: &ConnectionKey,
        flag: Flag,
    ) -> Result<Option<(Connection, Option<Event>)>, StoreError> {
        self.write(self.durable.flag(now, key, flag)).await
    }

    async fn remove(&self, now: Timestamp, key: &ConnectionKey) -> Result<Option<Event>, StoreError> {
        self.write(self.durable.remove(now, key)).await
    }

    async fn open_claims(&self, after: ConnectionId, limit: usize) -> Result<Vec<Work>, StoreError> {
        self.durable.open_claims(after, limit).await
    }

    async fn record(&self, events: Vec<NewEvent>) -> Result<Vec<Event>, StoreError> {
        self.write(self.durable.record(events)).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        self.durable.events(query).await
    }

    async fn providers(&self) -> Result<BTreeMap<String, Option<Hold>>, StoreError> {
        self.durable.providers().await
    }

    async fn hold_provider(&self, provider: &str, hold: Option<Hold>) -> Result<(), StoreError> {
        self.write(self.durable.hold_provider(provider, hold)).await
    }

    async fn note_provider(&self, now: Timestamp, provider: &str, configuration: &Secret) -> Result<Noted, StoreError> {
        self.write(self.durable.note_provider(now, provider, configuration)).await
    }

    async fn journal_sequence(&self) -> Result<u64, StoreError> {
        self.durable.journal_sequence().await
    }
}

/// The journal's disk: what survives the process, and what survives the machine.
#[derive(Default)]
pub struct JournalDisk {
    entries: BTreeMap<u64, OnDisk>,
    sequence: u64,
    highest_answer: u64,
}

#[derive(Clone)]
struct OnDisk {
    entry: Entry,
    synced: bool,
}

impl JournalDisk {
    /// The machine dies: whatever was not synced may be gone.
    pub fn power_cut(&mut self, world: &World) {
        self.entries.retain(|_, on_disk| on_disk.synced || world.draw() < 0.5);
    }
}

/// The journal as one process sees it.
pub struct SimJournal {
    /// What outlives the process.
    pub disk: Arc<Mutex<JournalDisk>>,
    /// The world that it is in.
    pub world: Arc<World>,
    /// The process that uses it.
    pub process: u64,
    /// What is wrong with it.
    pub sabotage: Sabotage,
    /// How many places there are.
    pub places: usize,
    /// The sequence numbers of the places that are taken.
    pub taken: Mutex<BTreeSet<u64>>,
}

impl SimJournal {
    fn keep(&self, slot: &Slot, entry: Entry, synced: bool) {
        if self.sabotage != Sabotage::NoJournal && self.process == self.world.process() {
            let mut disk = lock(&self.disk);
            if synced {
                disk.highest_answer = disk.highest_answer.max(slot.sequence);
            }
            disk.entries.insert(slot.sequence, OnDisk { entry, synced });
        }
    }
}

#[async_trait]
impl Journal for SimJournal {
    fn reserve(&self) -> Result<Option<Slot>, JournalError> {
        let mut taken = lock(&self.taken);
        if taken.len() >= self.places {
            return Ok(None);
        }
        let mut disk = lock(&self.disk);
        disk.sequence += 1;
        taken.insert(disk.sequence);
        Ok(Some(Slot { index: 0, sequence: disk.sequence }))
    }

    fn release(&self, slot: Slot) {
        if !lock(&self.disk).entries.contains_key(&slot.sequence) {
            lock(&self.taken).remove(&slot.sequence);
        }
    }

    fn sending(&self, slot: &Slot, attempt: AttemptRef, sent_at: Timestamp) -> Result<(), JournalError> {
        self.keep(slot, Entry { attempt, sequence: slot.sequence, sent_at, answer: None }, false);
        Ok(())
    }

    async fn answer(
        &self,
        slot: &Slot,
        attempt: AttemptRef,
        sent_at: Timestamp,
        answer: &RawAnswer,
    ) -> Result<(), JournalError> {
        self.world.crash_point(self.process).await;
        self.keep(slot, Entry { attempt, sequence: slot.sequence, sent_at, answer: Some(answer.clone()) }, true);
        tokio::task::yield_now().await;
        self.world.crash_point(self.process).await;
        Ok(())
    }

    fn retire(&self, slot: Slot) {
        self.retire_entry(slot.sequence);
    }

    fn open_entries(&self) -> Vec<Entry> {
        lock(&self.disk).entries.values().map(|on_disk| on_disk.entry.clone()).collect()
    }

    fn retire_entry(&self, sequence: u64) {
        if self.process == self.world.process() {
            lock(&self.disk).entries.remove(&sequence);
            lock(&self.taken).remove(&sequence);
        }
    }

    fn highest_answer(&self) -> u64 {
        lock(&self.disk).highest_answer
    }

    fn usage(&self) -> Usage {
        Usage { in_use: lock(&self.taken).len(), slots: self.places }
    }
}
