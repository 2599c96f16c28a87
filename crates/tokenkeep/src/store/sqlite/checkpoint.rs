//! Moving what the write-ahead log holds into the database file, beside the writer rather than in its way.
//!
//! A thread with a connection of its own copies the bulk while writing goes on. What was written meanwhile is
//! a short tail; the writer copies that between two transactions, and the next one starts the log anew.

use rusqlite::hooks::Wal;
use rusqlite::{Connection as Database, DEFAULT_NAME, wal::CheckpointMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// From this many pages in the log on, the bulk is copied: 32 MiB.
const BULK_PAGES: i32 = 8_192;
/// A tail of fewer pages than this is left to the writer.
const TAIL_PAGES: i32 = 512;
/// How often the bulk is copied again when writing outpaces copying.
const PASSES_MAX: usize = 12;
/// From this many pages on, the writer copies all of it at once rather than let the log grow: 256 MiB.
const LOG_PAGES_MAX: i32 = 65_536;

/// The writer's side: watches the log grow.
pub struct Schedule {
    pages: Arc<AtomicI32>,
    tail: Arc<AtomicBool>,
    bulk: SyncSender<()>,
}

/// The copying thread's side.
pub struct Copier {
    database: Database,
    tail: Arc<AtomicBool>,
    wanted: Receiver<()>,
}

/// Joins the writer's connection with a copying connection.
///
/// # Errors
/// SQLite's, when the hook cannot be set.
pub fn pair(writer: &mut Database, copier: Database) -> rusqlite::Result<(Schedule, Copier)> {
    let pages = Arc::new(AtomicI32::new(0));
    let tail = Arc::new(AtomicBool::new(false));
    let (bulk, wanted) = sync_channel(1);
    let seen = Arc::clone(&pages);
    writer.wal_hook(Some(move |_: &mut Wal, count: i32| {
        seen.store(count, Ordering::Relaxed);
        Ok(())
    }))?;
    Ok((Schedule { pages, tail: Arc::clone(&tail), bulk }, Copier { database: copier, tail, wanted }))
}

impl Schedule {
    /// To be called by the writer after each transaction.
    pub fn after_commit(&self, database: &Database) {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < BULK_PAGES {
            return;
        }
        if self.tail.swap(false, Ordering::Acquire) || pages >= LOG_PAGES_MAX {
            copy(database);
        } else {
            // A full channel means that the thread has been told already.
            let _ = self.bulk.try_send(());
        }
    }
}

impl Copier {
    /// Copies whenever it is asked to, until the writer has gone.
    pub fn run(self) {
        while self.wanted.recv().is_ok() {
            let short = (0..PASSES_MAX).map_while(|_| copy(&self.database)).any(|left| left < TAIL_PAGES);
            self.tail.store(short, Ordering::Release);
        }
    }
}

/// Copies what can be copied without waiting for anybody; says how many pages were left.
fn copy(database: &Database) -> Option<i32> {
    match database.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE) {
        Ok((log, copied)) => Some(log - copied),
        Err(cause) => {
            // Nothing is lost: the log still has it, and the next transaction asks again.
            tracing::warn!(error = %cause, "a checkpoint of the store failed");
            None
        }
    }
}

/// Copies everything and empties the log, for a clean end.
pub fn truncate(database: &Database) {
    if let Err(cause) = database.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::TRUNCATE) {
        tracing::warn!(error = %cause, "the last checkpoint of the store failed; the next start does it");
    }
}
