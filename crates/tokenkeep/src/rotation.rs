//! A new master key for everything, while everything goes on.
//!
//! ```text
//! new key in master.key.next, durable
//!   → the database names it as its next key          from here on both keys are needed, and the new one seals
//!   → every token set sealed anew, in batches        a restart begins again; what is done is passed by
//!   → every secret of a webhook, in one
//!   → every place of the journal wiped once          those in use as soon as they are free
//!   → the journal names the new key as its own
//!   → the database names the new key as its own      from here on the former key opens nothing that is named
//!   → the write-ahead log emptied                    with it goes what was overwritten
//!   → the new key in its place, the former erased
//! ```
//! A process that is killed between any two of these goes on where it was: the database, and which of its two keys each
//! file holds, say where that is ([`crate::keys`]).

use crate::engine::Engine;
use crate::error::Error;
use crate::journal::file::FileJournal;
use crate::keys::{KeyFiles, Lie, MasterKey};
use crate::seal::Sealer;
use crate::store::sqlite::SqliteStore;
use crate::store::{EventKind, NewEvent};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tokio::task::AbortHandle;

/// How many token sets are sealed anew in one transaction.
const RESEAL_BATCH: usize = 256;
/// How often it is looked whether attempts in flight have left the journal.
const JOURNAL_LOOKED_AT_EVERY: Duration = Duration::from_millis(50);
/// How long a step that failed is left alone before it is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// How far a rotation of the master key is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rotation {
    /// How many token sets there are.
    pub total: u64,
    /// How many of them are done with.
    pub resealed: u64,
    /// How many of these could not be read, and were left as they are.
    pub unreadable: u64,
    /// How many places of the journal wait for their attempts to end.
    pub journal_places: usize,
    /// Why it does not go on at the moment: the last step's error.
    pub waits_for: Option<String>,
}

/// The master key in use, and what is being done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyState {
    /// The number by which sealed values name the key. It says nothing else about it.
    pub key_id: u32,
    /// Where the key comes from.
    pub source: String,
    /// The file with the current key, when the configured source still gives the former one.
    pub take_over_from: Option<std::path::PathBuf>,
    /// The rotation that goes on.
    pub rotation: Option<Rotation>,
}

/// What a rotation works on.
pub(crate) struct Rotator {
    engine: Arc<Engine>,
    store: Arc<SqliteStore>,
    journal: Arc<FileJournal>,
    sealer: Arc<Sealer>,
    files: KeyFiles,
    state: Mutex<State>,
    /// Held while a rotation is begun, so that only one is.
    beginning: AsyncMutex<()>,
    #[cfg(test)]
    pub(crate) at_each_step: Mutex<Option<Hook>>,
}

/// What a test does at each step.
#[cfg(test)]
pub(crate) type Hook = Box<dyn Fn(&str) + Send>;

#[derive(Default)]
struct State {
    rotation: Option<Rotation>,
    /// The configured source still gives the former key.
    is_left_behind: bool,
    work: Option<AbortHandle>,
}

impl Rotator {
    pub(crate) fn new(
        engine: Arc<Engine>,
        store: Arc<SqliteStore>,
        journal: Arc<FileJournal>,
        sealer: Arc<Sealer>,
        files: KeyFiles,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            store,
            journal,
            sealer,
            files,
            state: Mutex::default(),
            beginning: AsyncMutex::default(),
            #[cfg(test)]
            at_each_step: Mutex::default(),
        })
    }

    /// Goes on with a rotation that an earlier process began, or puts the files in order.
    pub(crate) async fn resume(self: &Arc<Self>) -> Result<(), Error> {
        if self.store.is_rotating().await? {
            self.go_on_in_background();
        } else if let Err(error) = self.rotate().await {
            tracing::warn!(%error, "the key files cannot be put in order; it is tried again");
            self.go_on_in_background();
        }
        Ok(())
    }

    /// Begins a rotation unless one goes on; the rest is done in the background.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<(), Error> {
        let _only = self.beginning.lock().await;
        if self.state().rotation.is_some() {
            return Ok(());
        }
        let next = MasterKey::generate();
        self.files.write_next(self.sealer.check_value(), &next)?;
        self.step("the new key is written");
        self.store.begin_rotation(next.check_value()).await?;
        self.sealer.rotate_to(&next);
        self.step("the database names the new key");
        self.tell(EventKind::KeyRotationStarted, "The master key is being rotated: everything is sealed anew.").await;
        self.go_on_in_background();
        Ok(())
    }

    /// Keeps a rotation from being begun while the guard lives.
    pub(crate) async fn hold_off(&self) -> Result<MutexGuard<'_, ()>, Error> {
        let guard = self.beginning.lock().await;
        match &self.state().rotation {
            Some(Rotation { resealed, total, .. }) => Err(Error::Rotating { resealed: *resealed, total: *total }),
            None => Ok(guard),
        }
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The key and how far its rotation is.
    pub(crate) fn key_state(&self) -> KeyState {
        let state = self.state();
        KeyState {
            key_id: self.sealer.key_id(),
            source: self.files.source().to_string(),
            take_over_from: state.is_left_behind.then(|| self.files.next()),
            rotation: state.rotation.clone(),
        }
    }

    /// Ends the work in the background; another process goes on with it.
    pub(crate) fn stop(&self) {
        if let Some(work) = self.state().work.take() {
            work.abort();
        }
    }

    fn go_on_in_background(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.state().rotation = Some(Rotation::default());
        let work = tokio::spawn(async move { this.run().await }).abort_handle();
        self.state().work = Some(work);
    }

    async fn run(self: Arc<Self>) {
        while let Err(error) = self.rotate().await {
            tracing::warn!(%error, "the rotation of the master key is held up");
            self.note(|rotation| rotation.waits_for = Some(error.to_string()));
            tokio::time::sleep(RETRY_EVERY).await;
        }
        self.state().rotation = None;
    }

    async fn rotate(&self) -> Result<(), Error> {
        let is_rotating = self.store.is_rotating().await?;
        if is_rotating {
            self.reseal_token_sets().await?;
            self.store.reseal_webhooks().await?;
            self.step("the secrets of webhooks are sealed anew");
            self.wipe_journal().await?;
            self.journal.adopt_key().map_err(journal_error)?;
            self.step("the journal names the new key");
            self.store.finish_rotation().await?;
            self.step("the database names the new key alone");
        }
        let lie = self.finish().await?;
        if is_rotating || lie == Lie::Replaced {
            self.tell(EventKind::KeyRotated, &self.last_words()).await;
        }
        Ok(())
    }

    async fn reseal_token_sets(&self) -> Result<(), Error> {
        let total = self.store.count().await?;
        self.note(|rotation| *rotation = Rotation { total, ..Rotation::default() });
        let mut after = i64::MIN;
        loop {
            let batch = self.store.reseal(after, RESEAL_BATCH).await?;
            let Some(last) = batch.last else { return Ok(()) };
            after = last;
            self.note(|rotation| {
                rotation.resealed += batch.done + batch.unreadable;
                rotation.unreadable += batch.unreadable;
                rotation.total = rotation.total.max(rotation.resealed);
            });
            self.step("a batch is sealed anew");
        }
    }

    /// Attempts in flight end within their time limits; what a store that cannot be written keeps in the journal ends
    /// when it can.
    async fn wipe_journal(&self) -> Result<(), Error> {
        self.journal.begin_wiping();
        loop {
            let journal = Arc::clone(&self.journal);
            let left = tokio::task::spawn_blocking(move || journal.wipe()).await;
            let left = left.map_err(|_| Error::ShuttingDown)?.map_err(journal_error)?;
            self.note(|rotation| rotation.journal_places = left);
            self.step("the journal is wiped where it is free");
            if left == 0 {
                return Ok(());
            }
            tokio::time::sleep(JOURNAL_LOOKED_AT_EVERY).await;
        }
    }

    /// What is left to do when the database names one key alone. Doing it again changes nothing.
    async fn finish(&self) -> Result<Lie, Error> {
        self.sealer.forget_former();
        if self.files.next().exists() {
            self.store.empty_log().await?;
            self.step("the log is empty");
        }
        let lie = self.files.tidy(self.sealer.check_value())?;
        self.step("the key files are in order");
        self.state().is_left_behind = lie == Lie::LeftBehind;
        if lie == Lie::LeftBehind {
            tracing::warn!("{}", self.last_words());
        }
        Ok(lie)
    }

    fn last_words(&self) -> String {
        let state = self.key_state();
        match state.take_over_from {
            None => "The master key has been rotated: nothing here opens with the former one.".to_owned(),
            Some(next) => format!(
                "The master key has been rotated, and {} still gives the former one: put the content of {} there and \
                 restart; that file is then removed.",
                state.source,
                next.display()
            ),
        }
    }

    async fn tell(&self, kind: EventKind, message: &str) {
        let mut event = NewEvent::new(kind, self.engine.now(), None, message);
        event.data = format!(r#"{{"key_id":"{:08x}"}}"#, self.sealer.key_id());
        self.engine.record(event).await;
    }

    fn note(&self, change: impl FnOnce(&mut Rotation)) {
        if let Some(rotation) = &mut self.state().rotation {
            change(rotation);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(not(test))]
    fn step(&self, _: &str) {}

    #[cfg(test)]
    fn step(&self, name: &str) {
        if let Some(hook) = &*self.at_each_step.lock().unwrap() {
            hook(name);
        }
    }
}

fn journal_error(error: crate::journal::JournalError) -> Error {
    Error::Journal(error.to_string())
}

#[cfg(test)]
mod tests;
