//! The small preallocated file where a raw answer is made durable before anything reads it (protocol 4).

mod disk;
pub mod file;
mod layout;
mod places;
mod sync;

use crate::metrics::JournalMetrics;
use async_trait::async_trait;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::AttemptRef;
use tokenkeep_core::oauth::RawAnswer;

/// Why the journal could not do what it was asked. After a failed sync the journal stays failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the journal cannot be written: {0}")]
pub struct JournalError(pub String);

/// A place in the journal for one attempt; how many there are bounds the attempts in flight.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which place.
    pub index: u32,
    /// This attempt's number in the journal: grows with every reservation, survives restarts.
    pub sequence: u64,
}

/// What the journal knows of an attempt that was not retired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The attempt.
    pub attempt: AttemptRef,
    /// Its number in the journal.
    pub sequence: u64,
    /// t0: just before it was sent.
    pub sent_at: Timestamp,
    /// The answer, if it had come. `None`: the request was about to be sent, or had been.
    pub answer: Option<RawAnswer>,
}

/// How much of a journal is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Places that attempts hold.
    pub in_use: usize,
    /// Places that attempts may hold at once.
    pub slots: usize,
}

/// What every journal promises.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Reserves a place; `None` when all are taken.
    ///
    /// # Errors
    /// The journal has failed: no attempt may start that rotates a token.
    fn reserve(&self) -> Result<Option<Slot>, JournalError>;

    /// Gives a place back in which nothing was written. What was written keeps it, until
    /// [`Journal::retire_entry`].
    fn release(&self, slot: Slot);

    /// Notes that `attempt` is about to be sent. Handed to the operating system, not synced: a killed
    /// process keeps it, a dead machine may not (then every open claim counts as sent).
    fn sending(&self, slot: &Slot, attempt: AttemptRef, sent_at: Timestamp) -> Result<(), JournalError>;

    /// Makes the raw answer durable, sealed. One sync serves all that wait for one.
    async fn answer(
        &self,
        slot: &Slot,
        attempt: AttemptRef,
        sent_at: Timestamp,
        answer: &RawAnswer,
    ) -> Result<(), JournalError>;

    /// The store has what became of it: the place is free, and the record is dead even after a crash
    /// of the process.
    fn retire(&self, slot: Slot);

    /// Every attempt that was not retired, from before this process and from this one, by sequence.
    fn open_entries(&self) -> Vec<Entry>;

    /// Retires what [`Journal::open_entries`] showed under this sequence number.
    fn retire_entry(&self, sequence: u64);

    /// The highest sequence number of an answer that was ever made durable here; 0 for none.
    fn highest_answer(&self) -> u64;

    /// How much of it is taken.
    fn usage(&self) -> Usage;

    /// What it counts; nothing, unless it says otherwise.
    fn metrics(&self) -> JournalMetrics {
        JournalMetrics::default()
    }
}
