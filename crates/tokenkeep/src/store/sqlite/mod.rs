//! One SQLite file: for one process, and for up to a million connections.
//!
//! ```text
//! callers --jobs--> writer thread   one transaction for whatever is queued, one sync, then the answers
//!         --reads-> reader thread   one connection by name: never behind anything slow
//!         --reads-> listing thread  pages, counts, history
//!                   copier thread   moves the write-ahead log into the file (see `checkpoint`)
//! ```
//! Sealing and opening happen on the caller's side, except for new grants, whose numbers only the writer
//! knows. A state lock ([`super::lock`]) guarantees that no other process writes; so which claims are open is
//! known without asking the file.

mod access;
mod checkpoint;
mod copy;
mod events;
mod ops;
mod outlook;
mod providers;
mod reader;
mod rows;
mod schema;
mod shares;
#[cfg(test)]
mod tests;
mod warnings;
mod webhooks;
mod writer;

pub use copy::mark_restored;
pub use schema::known_version;
#[cfg(test)]
pub(crate) use webhooks::Inline;

use super::{
    ClaimOne, Claimed, Commit, Committed, Event, EventQuery, Flag, Granted, ListQuery, NewEvent, NewGrant, Noted,
    Outlook, ProviderSummary, Quota, Store, StoreError, Summary, Warned, Work,
};
use super::{record, rules};
use crate::seal::{CheckValue, Sealer};
use async_trait::async_trait;
use ops::{Batch, SealedClaimOne};
use rows::SealedWork;
use rusqlite::{Connection as Database, ErrorCode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokenkeep_core::model::{AttemptNumber, Connection, ConnectionId, GrantNumber, Hold, Holder, State};
use tokenkeep_core::{ConnectionKey, Secret, Timestamp};
use tokio::sync::{mpsc, oneshot};
use writer::{Job, Task};

/// What a record takes beside its sealed values, roughly.
const RECORD_BYTES: usize = 1_024;

/// Steady time as a boot of the machine counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockAnchor {
    /// The boot, as a number that differs between boots.
    pub boot: u64,
    /// Steady time minus the boot clock, in milliseconds.
    pub offset_ms: i64,
    /// The wall clock minus steady time when it was last looked at, in milliseconds.
    pub skew_ms: i64,
}

/// What one step of sealing token sets anew did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resealed {
    /// The number of the last connection that was looked at; `None` when there is none further.
    pub last: Option<i64>,
    /// How many are now under the current key.
    pub done: u64,
    /// How many could not be read, and were left as they are.
    pub unreadable: u64,
}

/// A store in one SQLite file.
///
/// ```
/// use std::sync::Arc;
/// use tokenkeep::{seal::Sealer, store::{Store, sqlite::SqliteStore}};
///
/// let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("tokenkeep.db");
/// runtime.block_on(async {
///     let store = SqliteStore::open(&path, Arc::new(Sealer::new(&[7; 32]))).unwrap();
///     assert_eq!(store.journal_sequence().await.unwrap(), 0);
///     store.close().await.unwrap();
/// });
/// ```
pub struct SqliteStore {
    path: PathBuf,
    store_id: u64,
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What callers and threads share.
struct Shared {
    sealer: Arc<Sealer>,
    open_claims: Mutex<BTreeMap<i64, OpenClaim>>,
    transactions: AtomicU64,
    events_max: u64,
}

impl Shared {
    /// Makes known what a durable transaction did to claims.
    fn publish_claims(&self, changes: Vec<(i64, Option<OpenClaim>)>) {
        let mut open = self.open_claims.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, claim) in changes {
            match claim {
                Some(claim) => open.insert(id, claim),
                None => open.remove(&id),
            };
        }
    }
}

/// What makes a claim the same claim.
#[derive(Clone, Copy, PartialEq, Eq)]
struct OpenClaim {
    grant: GrantNumber,
    attempt: AttemptNumber,
    holder: Holder,
}

impl OpenClaim {
    fn of(connection: &Connection) -> Option<Self> {
        let State::Claimed { claim, .. } = &connection.state else { return None };
        Some(Self { grant: connection.grant, attempt: claim.attempt, holder: claim.holder })
    }
}

/// The ways to the threads, and how each says that it has ended.
struct Threads {
    writer: mpsc::Sender<Box<dyn Job>>,
    reader: mpsc::Sender<reader::Read>,
    listing: mpsc::Sender<reader::Read>,
    readers_ended: Vec<oneshot::Receiver<()>>,
    writer_ended: Vec<oneshot::Receiver<()>>,
}

impl SqliteStore {
    /// Opens the database at `path`, or makes it, readable by its owner alone.
    ///
    /// The caller holds the state lock of the folder.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: the file is cut off, is no database, or belongs to another master key.
    /// [`StoreError::Newer`]: a newer Tokenkeep wrote it. [`StoreError::Unusable`]: it cannot be read or
    /// written. In none of these cases has anything been changed.
    pub fn open(path: &Path, sealer: Arc<Sealer>) -> Result<Self, StoreError> {
        Self::open_with(path, sealer, super::EVENTS_MAX)
    }

    /// Whether the database at `path` is whole and sealed under this key. Reads every page and changes nothing.
    ///
    /// The caller holds the state lock of the folder.
    ///
    /// # Errors
    /// As [`SqliteStore::open`]; also when there is no such file.
    pub fn check(path: &Path, sealer: &Sealer) -> Result<(), StoreError> {
        schema::check(path, sealer)
    }

    fn open_with(path: &Path, sealer: Arc<Sealer>, events_max: u64) -> Result<Self, StoreError> {
        schema::prepare(path, &sealer)?;
        let mut writer = schema::writer(path)?;
        let in_file = |error| at_file(path, error);
        let store_id = ops::meta::<i64>(&writer, "store_id").map_err(in_file)?;
        let store_id = store_id.ok_or_else(|| in_file(StoreError::Damaged("its identity is missing".into())))?;
        let claims = open_claims(&writer).map_err(in_file)?;
        let shared =
            Arc::new(Shared { sealer, open_claims: Mutex::new(claims), transactions: AtomicU64::new(0), events_max });
        let (schedule, copier) =
            checkpoint::pair(&mut writer, schema::writer(path)?).map_err(|cause| in_file(fault(&cause)))?;
        let (jobs, queue) = mpsc::channel(writer::QUEUE_MAX);
        let writer = writer::Writer::new(writer, queue, Arc::clone(&shared), schedule);
        let (reader, reader_ended) = start_reader("store-reader", schema::reader(path)?)?;
        let (listing, listing_ended) = start_reader("store-listing", schema::reader(path)?)?;
        let writer_ended = vec![start("store-writer", || writer.run())?, start("store-copier", || copier.run())?];
        let readers_ended = vec![reader_ended, listing_ended];
        let threads = Threads { writer: jobs, reader, listing, readers_ended, writer_ended };
        Ok(Self {
            path: path.to_owned(),
            store_id: store_id.cast_unsigned(),
            shared,
            threads: Mutex::new(Some(threads)),
        })
    }

    /// Finishes what is queued, and leaves everything in one file. Later calls answer [`StoreError::Closed`].
    ///
    /// Dropping the store without this loses nothing that was answered; the next start has more to do.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when it has been closed already.
    pub async fn close(&self) -> Result<(), StoreError> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { writer, reader, listing, readers_ended, writer_ended }) = threads else {
            return Err(StoreError::Closed);
        };
        // The readers first: only without them can the log be emptied.
        drop((reader, listing));
        for ended in readers_ended {
            // An error means that the thread has ended without saying so.
            let _ = ended.await;
        }
        drop(writer);
        for ended in writer_ended {
            let _ = ended.await;
        }
        Ok(())
    }

    /// A number that this store got when it was made: a journal that knows another belongs to another store.
    #[must_use]
    pub const fn store_id(&self) -> u64 {
        self.store_id
    }

    /// The clock anchor that was kept last.
    ///
    /// # Errors
    /// As every read.
    pub async fn clock_anchor(&self) -> Result<Option<ClockAnchor>, StoreError> {
        self.read(|database, _| ops::clock_anchor(database)).await
    }

    /// Keeps a clock anchor.
    ///
    /// # Errors
    /// As every write.
    pub async fn set_clock_anchor(&self, anchor: ClockAnchor) -> Result<(), StoreError> {
        self.write(RECORD_BYTES, move |batch| batch.set_clock_anchor(anchor)).await
    }

    /// Moves every stored time of every connection by so many milliseconds, at once: for a reboot during
    /// which the wall clock was set. The history stays as it is.
    ///
    /// # Errors
    /// As every write.
    pub async fn shift_times(&self, by_ms: i64) -> Result<(), StoreError> {
        self.write(RECORD_BYTES, move |batch| batch.shift_times(by_ms)).await
    }

    /// Makes due at `now` what waits for its planned refresh or a retry and can be renewed, and whose token
    /// set claims to have been issued after `now`; says how many that were. What an answer in doubt waits for
    /// is never brought forward.
    ///
    /// # Errors
    /// As every write.
    pub async fn due_if_issued_after(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.write(RECORD_BYTES, move |batch| batch.due_if_issued_after(now)).await
    }

    /// Whether a rotation of the master key goes on.
    ///
    /// # Errors
    /// As every read.
    pub async fn is_rotating(&self) -> Result<bool, StoreError> {
        let next = |database: &Database, _| ops::meta::<Vec<u8>>(database, schema::NEXT_KEY_CHECK);
        Ok(self.read(next).await?.is_some())
    }

    /// Notes that a rotation goes on to the key of this check value. From then on the sealer must have both.
    ///
    /// # Errors
    /// As every write.
    pub async fn begin_rotation(&self, next: CheckValue) -> Result<(), StoreError> {
        self.write(RECORD_BYTES, move |batch| batch.begin_rotation(next)).await
    }

    /// Seals the next `limit` token sets after the connection of number `after` under the current key.
    ///
    /// # Errors
    /// As every write.
    pub async fn reseal(&self, after: i64, limit: usize) -> Result<Resealed, StoreError> {
        self.write(limit.saturating_mul(RECORD_BYTES), move |batch| batch.reseal(after, limit)).await
    }

    /// Notes that everything is sealed under the current key.
    ///
    /// # Errors
    /// As every write.
    pub async fn finish_rotation(&self) -> Result<(), StoreError> {
        self.write(RECORD_BYTES, |batch| batch.finish_rotation()).await
    }

    /// How many connections there are.
    ///
    /// # Errors
    /// As every read.
    pub async fn count(&self) -> Result<u64, StoreError> {
        self.read_much(|database, _| reader::count_token_sets(database)).await
    }

    /// Whether it was restored from a backup, and [`SqliteStore::accept_journal`] has not been called since.
    ///
    /// # Errors
    /// As every read.
    pub async fn is_restored(&self) -> Result<bool, StoreError> {
        let from = |database: &Database, _| ops::meta::<Vec<u8>>(database, schema::RESTORED_FROM);
        Ok(self.read(from).await?.is_some())
    }

    /// Notes that from now on the journal whose highest answer this is belongs to it, whatever was before.
    ///
    /// # Errors
    /// As every write.
    pub async fn accept_journal(&self, highest_answer: u64) -> Result<(), StoreError> {
        self.write(RECORD_BYTES, move |batch| batch.accept_journal(highest_answer)).await
    }

    /// How many transactions have been committed since the store was opened: under load, far fewer than
    /// writes.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.shared.transactions.load(Ordering::Relaxed)
    }

    async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Box::new(Task::new(bytes, work, reply)), answer).await
    }

    async fn enqueue<T>(
        &self,
        job: Box<dyn Job>,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let writer = self.way(|threads| threads.writer.clone())?;
        self.answered(writer.send(job).await.is_ok(), answer).await
    }

    /// Reads from a snapshot that has everything that was answered before.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database, record::TimeBase) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let reader = self.way(|threads| threads.reader.clone())?;
        self.answered(reader.send(reader::read(work, reply)).await.is_ok(), answer).await
    }

    /// Like [`SqliteStore::read`], for what may take long.
    async fn read_much<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database, record::TimeBase) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let listing = self.way(|threads| threads.listing.clone())?;
        self.answered(listing.send(reader::read(work, reply)).await.is_ok(), answer).await
    }

    fn way<T>(&self, choose: impl FnOnce(&Threads) -> T) -> Result<T, StoreError> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.as_ref().map(choose).ok_or(StoreError::Closed)
    }

    async fn answered<T>(&self, sent: bool, answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
        let gone = || StoreError::Unusable("a thread of the store has ended: restart Tokenkeep".to_owned());
        let answer = if sent { answer.await.map_err(|_| gone()) } else { Err(gone()) };
        answer.flatten().map_err(|error| at_file(&self.path, error))
    }

    fn open_work(&self, work: SealedWork) -> Result<Work, StoreError> {
        let SealedWork { connection, sealed, was_due_at } = work;
        let tokens = sealed.map(|sealed| record::open(&self.shared.sealer, &connection, &sealed)).transpose();
        let tokens = tokens.map_err(|error| at_file(&self.path, error))?;
        Ok(Work { connection, tokens, was_due_at })
    }

    /// Opens claimed work; what does not open is unclaimed again, reported, and left out.
    async fn open_all(&self, now: Timestamp, sealed: Vec<SealedWork>) -> Result<Vec<Work>, StoreError> {
        let mut opened = Vec::with_capacity(sealed.len());
        for work in sealed {
            let (id, attempt) = (work.connection.id, work.connection.attempt);
            match self.open_work(work) {
                Ok(work) => opened.push(work),
                Err(damage) => {
                    let set_aside = move |batch: &mut Batch<'_>| batch.set_aside_claimed(now, id, attempt, &damage);
                    self.write(RECORD_BYTES, set_aside).await?;
                }
            }
        }
        Ok(opened)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn claim_due(&self, now: Timestamp, holder: Holder, quotas: &[Quota]) -> Result<Claimed, StoreError> {
        let quotas = quotas.to_vec();
        let claims = self.write(RECORD_BYTES, move |batch| batch.claim_due(now, holder, &quotas)).await?;
        Ok(Claimed { work: self.open_all(now, claims.work).await?, next_due: claims.next_due })
    }

    async fn claim_one(&self, now: Timestamp, holder: Holder, seen: &Connection) -> Result<ClaimOne, StoreError> {
        let seen = seen.clone();
        let work = match self.write(RECORD_BYTES, move |batch| batch.claim_one(now, holder, &seen)).await? {
            SealedClaimOne::Claimed(work) => *work,
            SealedClaimOne::NotClaimable => return Ok(ClaimOne::NotClaimable),
            SealedClaimOne::Absent => return Ok(ClaimOne::Absent),
        };
        let (id, attempt) = (work.connection.id, work.connection.attempt);
        match self.open_work(work) {
            Ok(work) => Ok(ClaimOne::Claimed(Box::new(work))),
            Err(damage) => {
                let what = StoreError::Damaged(damage.to_string());
                self.write(RECORD_BYTES, move |batch| batch.set_aside_claimed(now, id, attempt, &what)).await?;
                Err(damage)
            }
        }
    }

    async fn revalidate(&self, connection: &Connection) -> Result<bool, StoreError> {
        self.way(|_| ())?;
        let open = self.shared.open_claims.lock().unwrap_or_else(PoisonError::into_inner);
        let stands = open.get(&connection.id.0);
        Ok(stands.is_some() && stands == OpenClaim::of(connection).as_ref())
    }

    async fn commit(&self, mut commit: Commit) -> Result<Committed, StoreError> {
        let tokens = commit.tokens.take();
        let sealed = tokens.map(|tokens| record::seal(&self.shared.sealer, &commit.next, &tokens));
        let bytes = RECORD_BYTES + sealed.as_ref().map_or(0, |sealed| sealed.access.len() + sealed.extra.len());
        let subject = commit.next.id.0;
        let (reply, answer) = oneshot::channel();
        let task = Task::new(bytes, move |batch: &mut Batch<'_>| batch.commit(&commit, sealed.as_ref()), reply);
        self.enqueue(Box::new(task.about(subject)), answer).await
    }

    async fn warn_due(&self, now: Timestamp) -> Result<Warned, StoreError> {
        self.write(RECORD_BYTES, move |batch| batch.warn_due(now)).await
    }

    async fn of_account(&self, provider: &str, account: &str) -> Result<Vec<ConnectionKey>, StoreError> {
        let (provider, account) = (provider.to_owned(), account.to_owned());
        self.read_much(move |database, _| warnings::of_account(database, &provider, &account)).await
    }

    async fn get(&self, key: &ConnectionKey) -> Result<Option<Connection>, StoreError> {
        let key = key.clone();
        self.read(move |database, base| {
            let Some(id) = rows::id_of(database, &key)? else { return Ok(None) };
            let found = rows::load(database, base, id)?.map(|loaded| loaded.connection);
            found.map(|connection| providers::shown(database, base, connection)).transpose()
        })
        .await
    }

    async fn tokens(&self, key: &ConnectionKey) -> Result<Option<Work>, StoreError> {
        let key = key.clone();
        let sealed = self.read(move |database, base| {
            let Some(id) = rows::id_of(database, &key)? else { return Ok(None) };
            let Some(work) = rows::load_sealed(database, base, id)? else { return Ok(None) };
            let held = providers::hold_of(database, base, &work.connection.provider)?;
            Ok(Some((work, held)))
        });
        let Some((sealed, held)) = sealed.await? else { return Ok(None) };
        let work = self.open_work(sealed)?;
        Ok(Some(Work { connection: rules::shown(work.connection, held.as_ref()), ..work }))
    }

    async fn list(&self, now: Timestamp, query: &ListQuery) -> Result<Vec<Connection>, StoreError> {
        let query = query.clone();
        self.read_much(move |database, base| reader::list(database, base, now, &query)).await
    }

    async fn summary(&self, now: Timestamp, namespace: Option<&str>) -> Result<Summary, StoreError> {
        let namespace = namespace.map(str::to_owned);
        self.read_much(move |database, base| reader::summary(database, base, now, namespace.as_deref())).await
    }

    async fn summary_by_provider(&self, now: Timestamp) -> Result<BTreeMap<String, ProviderSummary>, StoreError> {
        self.read_much(move |database, base| shares::by_provider(database, base, now)).await
    }

    async fn outlook(&self, now: Timestamp, namespace: Option<&str>) -> Result<Outlook, StoreError> {
        let namespace = namespace.map(str::to_owned);
        self.read_much(move |database, base| outlook::outlook(database, base, now, namespace.as_deref())).await
    }

    async fn grant(&self, now: Timestamp, grants: Vec<NewGrant>) -> Result<Vec<Granted>, StoreError> {
        let sealer = &self.shared.sealer;
        let print = |grant: &NewGrant| Some(sealer.fingerprint(grant.tokens.as_ref()?.refresh_token.as_ref()?));
        let grants: Vec<_> = grants.into_iter().map(|grant| (print(&grant), grant)).collect();
        let bytes = grants.len().saturating_mul(2 * RECORD_BYTES);
        self.write(bytes, move |batch| {
            grants.iter().map(|(fingerprint, grant)| batch.grant(now, grant, *fingerprint)).collect()
        })
        .await
    }

    async fn flag(
        &self,
        now: Timestamp,
        key: &ConnectionKey,
        flag: Flag,
    ) -> Result<Option<(Connection, Option<Event>)>, StoreError> {
        let key = key.clone();
        self.write(RECORD_BYTES, move |batch| batch.flag(now, &key, &flag)).await
    }

    async fn remove(&self, now: Timestamp, key: &ConnectionKey) -> Result<Option<Event>, StoreError> {
        let key = key.clone();
        self.write(RECORD_BYTES, move |batch| batch.remove(now, &key)).await
    }

    async fn open_claims(&self, after: ConnectionId, limit: usize) -> Result<Vec<Work>, StoreError> {
        let claims = self.read_much(move |database, base| reader::open_claims(database, base, after, limit)).await?;
        // Set aside at the time of the claim: this call is not told the time.
        let now = |work: &SealedWork| match &work.connection.state {
            State::Claimed { claim, .. } => claim.claimed_at,
            _ => Timestamp::EPOCH,
        };
        let now = claims.iter().map(now).max().unwrap_or(Timestamp::EPOCH);
        self.open_all(now, claims).await
    }

    async fn record(&self, events: Vec<NewEvent>) -> Result<Vec<Event>, StoreError> {
        self.write(events.len().saturating_mul(RECORD_BYTES), move |batch| batch.write_events(&events)).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let query = query.clone();
        self.read_much(move |database, _| events::read(database, &query)).await
    }

    async fn providers(&self) -> Result<BTreeMap<String, Option<Hold>>, StoreError> {
        self.read(providers::all).await
    }

    async fn hold_provider(&self, provider: &str, hold: Option<Hold>) -> Result<(), StoreError> {
        let provider = provider.to_owned();
        self.write(RECORD_BYTES, move |batch| batch.hold_provider(&provider, hold.as_ref())).await
    }

    async fn note_provider(&self, now: Timestamp, provider: &str, configuration: &Secret) -> Result<Noted, StoreError> {
        let (provider, print) = (provider.to_owned(), self.shared.sealer.fingerprint(configuration));
        self.write(RECORD_BYTES, move |batch| batch.note_provider(now, &provider, print)).await
    }

    async fn journal_sequence(&self) -> Result<u64, StoreError> {
        self.read(|database, _| ops::journal_sequence(database)).await
    }
}

fn open_claims(database: &Database) -> Result<BTreeMap<i64, OpenClaim>, StoreError> {
    let base = ops::time_base(database)?;
    let open = reader::open_claims(database, base, ConnectionId(i64::MIN), usize::MAX)?;
    Ok(open.iter().filter_map(|work| Some((work.connection.id.0, OpenClaim::of(&work.connection)?))).collect())
}

fn start_reader(
    name: &str,
    database: Database,
) -> Result<(mpsc::Sender<reader::Read>, oneshot::Receiver<()>), StoreError> {
    let (reads, queue) = mpsc::channel(reader::QUEUE_MAX);
    Ok((reads, start(name, move || reader::run(&database, queue))?))
}

/// Starts a thread; the receiver resolves when it has ended, whatever the reason.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<oneshot::Receiver<()>, StoreError> {
    let (ended, wait) = oneshot::channel();
    let body = move || {
        let _ended: oneshot::Sender<()> = ended;
        work();
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(|_| wait).map_err(|cause| StoreError::Unusable(format!("no thread can be started: {cause}")))
}

/// An error with the file's name, so that whoever reads it knows which.
fn at_file(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Unusable(what) => StoreError::Unusable(format!("{}: {what}", path.display())),
        StoreError::Damaged(what) => StoreError::Damaged(format!("{}: {what}", path.display())),
        other => other,
    }
}

/// What an error of SQLite means: the file cannot be used now, or its contents are not what we wrote.
fn fault(cause: &rusqlite::Error) -> StoreError {
    use rusqlite::Error;
    let damaged = match cause {
        Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::Unknown
        ),
        Error::SqlInputError { .. }
        | Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::QueryReturnedNoRows
        | Error::Utf8Error(..) => true,
        _ => false,
    };
    if damaged { StoreError::Damaged(cause.to_string()) } else { StoreError::Unusable(cause.to_string()) }
}
