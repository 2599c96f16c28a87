//! The journal as one preallocated file.

use super::disk::{self, Disk};
use super::layout::{
    self, AnswerHead, HEAD_BYTES, HEADER_BYTES, Header, HeaderFault, MARK_BYTES, Mark, Sent, answer_offset, mark_offset,
};
use super::places::{Held, Places, Written};
use super::sync::SyncThread;
use super::{Entry, Journal, JournalError, Slot, Usage};
use crate::metrics::JournalMetrics;
use crate::seal::Sealer;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::AttemptRef;
use tokenkeep_core::oauth::RawAnswer;

/// The most places that a journal may have: 1.25 GiB.
pub const SLOTS_MAX: u32 = 16 * 1024;

/// Why there is no journal. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenJournalError {
    /// The system refused something.
    #[error("the journal {path} cannot be {doing}: {cause}; check the folder, its permissions and the free space")]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// There is no such file, and the caller did not say for which store to make one.
    #[error("there is no journal {path}: put it back, or start with the store that it belongs to")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{path} does not begin as a journal does: move that file away, or correct the path")]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The file is a journal that is not whole.
    #[error(
        "the journal {path} is damaged: {found}. Put back a whole copy, or move it away: answers that only it holds are then lost"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The file was written by a later program.
    #[error("the journal {path} has version {found}, and this program knows version {known}: start the newer program", known = layout::VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file was sealed under another master key.
    #[error("the journal {path} was sealed under another master key: put the right key back; nothing was changed")]
    OtherKey {
        /// The file.
        path: PathBuf,
    },
    /// The file belongs to another store.
    #[error(
        "the journal {path} belongs to store {found:016x}, not to store {expected:016x}: put the files that belong together back together"
    )]
    OtherStore {
        /// The file.
        path: PathBuf,
        /// The store in its header.
        found: u64,
        /// The store that was asked for.
        expected: u64,
    },
    /// No journal can have so many places.
    #[error("a journal has 1 to {SLOTS_MAX} places, not {asked}: correct the number of attempts in flight")]
    SlotCount {
        /// How many were asked for.
        asked: u32,
    },
}

/// A [`Journal`] in one preallocated file, mode 0600, on a file system that can be synced.
///
/// An answer is written at its place and made durable by one `fdatasync` for all that wait. A place's first
/// page says whether its attempt was about to be sent or is retired; an answer is open when its sequence
/// number is higher than the retired one. After a failed write or sync the journal stays failed.
///
/// ```
/// # use std::sync::Arc;
/// # use tokenkeep::{journal::{Journal, file::FileJournal}, seal::Sealer};
/// let folder = tempfile::tempdir()?;
/// let sealer = Arc::new(Sealer::new(&[7; 32]));
/// let journal = FileJournal::open(&folder.path().join("journal"), 4, sealer, Some(1))?;
/// let slot = journal.reserve()?.expect("four places are free");
/// assert_eq!(slot.sequence, 1);
/// journal.release(slot);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileJournal {
    shared: Arc<Shared>,
    sync_thread: SyncThread,
}

struct Shared {
    disk: Box<dyn Disk>,
    sealer: Arc<Sealer>,
    header: Mutex<Header>,
    places: Mutex<Places>,
    damaged_slots: u32,
    failed: OnceLock<JournalError>,
    metrics: JournalMetrics,
    /// The system tells a lost write to one sync only: never two at a time, so that all see what it told.
    one_sync: Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("header", &self.header).field("places", &self.places).finish_non_exhaustive()
    }
}

impl FileJournal {
    /// Opens the journal at `path`, or makes it with `slots` places for `store_id`.
    ///
    /// `store_id: None` opens a journal of whatever store, and makes none: whoever finds
    /// [`OpenJournalError::OtherStore`] (a restored copy) opens it so, looks at [`FileJournal::store_id`] and
    /// the open entries, and then calls [`FileJournal::adopt_store`].
    ///
    /// A journal with another number of places is laid out anew when it has no open entries; otherwise it
    /// stays as it is, and [`FileJournal::slots`] says how many it has.
    ///
    /// # Errors
    /// [`OpenJournalError`]; no byte was changed then.
    pub fn open(path: &Path, slots: u32, sealer: Arc<Sealer>, store_id: Option<u64>) -> Result<Self, OpenJournalError> {
        if slots == 0 || slots > SLOTS_MAX {
            return Err(OpenJournalError::SlotCount { asked: slots });
        }
        if !path.try_exists().map_err(file_error(path, "looked for"))? {
            let store_id = store_id.ok_or_else(|| OpenJournalError::Missing { path: path.to_owned() })?;
            create(path, slots, &sealer, store_id, (0, 0))?;
        }
        let journal = Self::open_existing(path, Arc::clone(&sealer), store_id)?;
        let (last_sequence, highest_answer, idle) = {
            let places = journal.shared.places();
            (places.last_sequence(), places.highest_answer(), places.written().is_empty())
        };
        if journal.slots() == slots || !idle {
            return Ok(journal);
        }
        let store_id = journal.store_id();
        drop(journal);
        create(path, slots, &sealer, store_id, (last_sequence, highest_answer))?;
        Self::open_existing(path, sealer, Some(store_id))
    }

    /// Whether `sealer` has the key of the journal at `path`, if there is one. Reads and changes nothing else,
    /// so it can be asked before anything of the store is opened.
    ///
    /// # Errors
    /// [`OpenJournalError::OtherKey`], or what makes the file unreadable.
    pub fn check_key(path: &Path, sealer: &Sealer) -> Result<(), OpenJournalError> {
        if !path.try_exists().map_err(file_error(path, "looked for"))? {
            return Ok(());
        }
        let file = std::fs::File::open(path).map_err(file_error(path, "opened"))?;
        read_header(path, &file, sealer).map(drop)
    }

    /// The store that the file says it belongs to.
    #[must_use]
    pub fn store_id(&self) -> u64 {
        self.shared.header().store_id
    }

    /// Makes the file belong to another store, durably.
    ///
    /// # Errors
    /// The header cannot be written: the journal has failed.
    pub fn adopt_store(&self, store_id: u64) -> Result<(), JournalError> {
        self.shared.change_header(|header| Header { store_id, ..header.clone() })
    }

    /// Begins to wipe all that earlier answers left in the file; [`FileJournal::wipe`] goes on with it.
    pub fn begin_wiping(&self) {
        self.shared.places().begin_wiping();
    }

    /// Wipes what earlier answers left in every place that no attempt holds, durably; says how many places are left,
    /// which are held: call it again when their attempts have ended.
    ///
    /// # Errors
    /// The journal has failed.
    pub fn wipe(&self) -> Result<usize, JournalError> {
        self.shared.wipe()
    }

    /// Makes the current key the one that the file names as its own, durably. Nothing in it may be sealed under
    /// another.
    ///
    /// # Errors
    /// The header cannot be written: the journal has failed.
    pub fn adopt_key(&self) -> Result<(), JournalError> {
        let check_value = self.shared.sealer.check_value();
        self.shared.change_header(|header| Header { check_value, ..header.clone() })
    }

    /// How many attempts can be in the journal at once.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.shared.header().places.saturating_sub(1)
    }

    /// In how many places the last opening found a record that was torn or flipped. A power cut in the middle
    /// of an answer leaves one; more deserve a look at the disk.
    #[must_use]
    pub fn damaged_slots(&self) -> u32 {
        self.shared.damaged_slots
    }

    fn open_existing(path: &Path, sealer: Arc<Sealer>, store_id: Option<u64>) -> Result<Self, OpenJournalError> {
        let file = disk::open(path).map_err(file_error(path, "opened"))?;
        let header = read_header(path, &file, &sealer)?;
        if let Some(expected) = store_id.filter(|&expected| expected != header.store_id) {
            return Err(OpenJournalError::OtherStore { path: path.to_owned(), found: header.store_id, expected });
        }
        Self::over(Box::new(file), header, sealer).map_err(file_error(path, "read"))
    }

    fn over(disk: Box<dyn Disk>, header: Header, sealer: Arc<Sealer>) -> std::io::Result<Self> {
        let scan = Scan::of(&*disk, &header, &sealer)?;
        let places = Mutex::new(scan.places);
        let (header, failed) = (Mutex::new(header), OnceLock::new());
        let shared = Arc::new(Shared {
            disk,
            sealer,
            header,
            places,
            damaged_slots: scan.damaged_slots,
            failed,
            metrics: JournalMetrics::default(),
            one_sync: Mutex::new(()),
        });
        let syncing = Arc::clone(&shared);
        let sync_thread = SyncThread::start(Box::new(move |sequences| syncing.sync_answers(sequences)))?;
        Ok(Self { shared, sync_thread })
    }
}

#[async_trait]
impl Journal for FileJournal {
    fn reserve(&self) -> Result<Option<Slot>, JournalError> {
        self.shared.check()?;
        Ok(self.shared.places().reserve().map(|(index, sequence)| Slot { index, sequence }))
    }

    fn release(&self, slot: Slot) {
        let mut places = self.shared.places();
        if let Some(held) = places.take_unwritten(slot.sequence) {
            places.give_back(held.index);
        }
    }

    fn sending(&self, slot: &Slot, attempt: AttemptRef, sent_at: Timestamp) -> Result<(), JournalError> {
        let sent = Sent { sequence: slot.sequence, attempt, at: sent_at };
        self.shared.check_held(slot)?;
        self.shared.write(&Mark::Sending(sent).encode(), mark_offset(slot.index))?;
        self.shared.places().note_written(Written { sent, answered: false });
        Ok(())
    }

    async fn answer(
        &self,
        slot: &Slot,
        attempt: AttemptRef,
        sent_at: Timestamp,
        answer: &RawAnswer,
    ) -> Result<(), JournalError> {
        let sent = Sent { sequence: slot.sequence, attempt, at: sent_at };
        self.shared.write_answer(slot, sent, answer)?;
        self.sync_thread.synced(slot.sequence).await
    }

    fn retire(&self, slot: Slot) {
        self.shared.retire(slot.sequence);
    }

    fn open_entries(&self) -> Vec<Entry> {
        let written = self.shared.places().written();
        written.into_iter().map(|(index, written)| self.shared.entry(index, &written)).collect()
    }

    fn retire_entry(&self, sequence: u64) {
        self.shared.retire(sequence);
    }

    fn highest_answer(&self) -> u64 {
        self.shared.places().highest_answer()
    }

    fn usage(&self) -> Usage {
        Usage { in_use: self.shared.places().count_held(), slots: self.slots() as usize }
    }

    fn metrics(&self) -> JournalMetrics {
        self.shared.metrics.clone()
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), JournalError> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn check_held(&self, slot: &Slot) -> Result<(), JournalError> {
        self.check()?;
        if self.places().holds(slot.index, slot.sequence) {
            return Ok(());
        }
        Err(JournalError(format!("attempt {} no longer holds place {}", slot.sequence, slot.index)))
    }

    /// The first failure stays: what the system says afterwards proves nothing about what was lost.
    fn fail(&self, doing: &str, cause: &std::io::Error) -> JournalError {
        self.metrics.failures.inc();
        self.failed.get_or_init(|| JournalError(format!("{doing} failed: {cause}"))).clone()
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), JournalError> {
        self.check()?;
        self.metrics.writes.inc();
        self.disk.write_at(bytes, offset).map_err(|cause| self.fail("a write", &cause))
    }

    /// Never tried again: a second sync would report success for pages that the first one dropped.
    fn sync(&self) -> Result<(), JournalError> {
        let _alone = self.one_sync.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        let started = Instant::now();
        let synced = self.disk.sync().map_err(|cause| self.fail("a sync", &cause));
        self.metrics.syncs.observe(started.elapsed().as_secs_f64());
        synced
    }

    fn sync_answers(&self, sequences: &[u64]) -> Result<(), JournalError> {
        self.sync()?;
        let mut places = self.places();
        sequences.iter().for_each(|&sequence| places.note_durable(sequence));
        Ok(())
    }

    fn write_answer(&self, slot: &Slot, sent: Sent, answer: &RawAnswer) -> Result<(), JournalError> {
        self.check_held(slot)?;
        let record = layout::answer_record(&self.sealer, &sent, answer)
            .ok_or_else(|| JournalError(format!("an answer of {} bytes does not fit", answer.body.len())))?;
        self.write(&record, answer_offset(slot.index))?;
        self.places().note_written(Written { sent, answered: true });
        Ok(())
    }

    fn change_header(&self, change: impl FnOnce(&Header) -> Header) -> Result<(), JournalError> {
        self.check()?;
        let mut header = self.header();
        let changed = change(&header);
        self.write(&changed.encode(), 0)?;
        self.sync()?;
        *header = changed;
        Ok(())
    }

    fn wipe(&self) -> Result<usize, JournalError> {
        if self.places().is_kept_back_from_wiping() {
            self.remember_how_far_it_came()?;
        }
        let mut is_changed = false;
        loop {
            let Some(index) = self.places().next_to_wipe() else { break };
            is_changed = true;
            self.wipe_answer(index)?;
            self.places().wiped(index);
        }
        // While a place is waited for, nothing is written, and the answers of others need the disk.
        if is_changed {
            self.sync()?
        } else {
            self.check()?
        }
        Ok(self.places().left_to_wipe())
    }

    /// So that the place of the highest answer need not be kept.
    fn remember_how_far_it_came(&self) -> Result<(), JournalError> {
        let (sequence_floor, answer_floor) = {
            let places = self.places();
            (places.last_sequence(), places.highest_answer())
        };
        self.change_header(|header| Header { sequence_floor, answer_floor, ..header.clone() })?;
        self.places().let_go_of(answer_floor);
        Ok(())
    }

    fn wipe_answer(&self, index: u32) -> Result<(), JournalError> {
        let zeros = vec![0; (layout::SLOT_BYTES - layout::PAGE_BYTES) as usize];
        let mut found = zeros.clone();
        self.disk.read_at(&mut found, answer_offset(index)).map_err(|cause| self.fail("a read", &cause))?;
        if found == zeros { Ok(()) } else { self.write(&zeros, answer_offset(index)) }
    }

    /// The hold ends first, and the place is free last: nobody else can be in it while the mark is written.
    fn retire(&self, sequence: u64) {
        if self.check().is_err() {
            return;
        }
        let Some(held) = self.places().take(sequence) else { return };
        if self.write(&Mark::Retired(sequence).encode(), mark_offset(held.index)).is_ok() {
            self.places().give_back(held.index);
        }
    }

    fn entry(&self, index: u32, written: &Written) -> Entry {
        let Sent { sequence, attempt, at: sent_at } = written.sent;
        let answer = if written.answered { self.read_answer(index, sequence) } else { None };
        Entry { attempt, sequence, sent_at, answer }
    }

    fn read_answer(&self, index: u32, sequence: u64) -> Option<RawAnswer> {
        let head = read_head(&*self.disk, index).ok()?.head.filter(|head| head.sent.sequence == sequence)?;
        read_body(&*self.disk, &self.sealer, index, &head).ok()?
    }
}

/// What the places held when the file was opened.
struct Scan {
    places: Places,
    damaged_slots: u32,
}

/// A place's records, heads only.
struct Found {
    index: u32,
    mark: Mark,
    head: Option<AnswerHead>,
    head_damaged: bool,
}

impl Scan {
    fn of(disk: &dyn Disk, header: &Header, sealer: &Sealer) -> std::io::Result<Self> {
        let found = (0..header.places).map(|index| Found::read(disk, index)).collect::<Result<Vec<_>, _>>()?;
        let mut held = BTreeMap::new();
        let mut damaged_slots = 0;
        for place in &found {
            let (written, damaged) = place.open_record(disk, sealer)?;
            damaged_slots += u32::from(damaged);
            if let Some(written) = written {
                held.insert(written.sent.sequence, Held { index: place.index, written: Some(written) });
            }
        }
        let last_sequence = found.iter().map(Found::last_sequence).max().unwrap_or(0).max(header.sequence_floor);
        let highest = highest_answer(disk, sealer, &found)?.unwrap_or((0, None));
        let highest = if highest.0 > header.answer_floor { highest } else { (header.answer_floor, None) };
        let places = Places::new(header.places, held, last_sequence + 1, highest);
        Ok(Self { places, damaged_slots })
    }
}

impl Found {
    fn read(disk: &dyn Disk, index: u32) -> std::io::Result<Self> {
        let mut mark = [0; MARK_BYTES];
        disk.read_at(&mut mark, mark_offset(index))?;
        let HeadRead { head, damaged } = read_head(disk, index)?;
        Ok(Self { index, mark: Mark::decode(&mark), head, head_damaged: damaged })
    }

    /// The record that was not retired, if there is one, and whether something here is torn or flipped.
    fn open_record(&self, disk: &dyn Disk, sealer: &Sealer) -> std::io::Result<(Option<Written>, bool)> {
        let mut damaged = self.head_damaged || self.mark == Mark::Damaged;
        if let Some(head) = self.head.filter(|head| head.sent.sequence > self.mark.dead_up_to()) {
            if read_body(disk, sealer, self.index, &head)?.is_some() {
                return Ok((Some(Written { sent: head.sent, answered: true }), damaged));
            }
            damaged = true;
        }
        let sending = match self.mark {
            Mark::Sending(sent) => Some(Written { sent, answered: false }),
            Mark::Blank | Mark::Retired(_) | Mark::Damaged => None,
        };
        Ok((sending, damaged))
    }

    fn last_sequence(&self) -> u64 {
        let marked = match self.mark {
            Mark::Sending(sent) => sent.sequence,
            Mark::Retired(sequence) => sequence,
            Mark::Blank | Mark::Damaged => 0,
        };
        marked.max(self.head.map_or(0, |head| head.sent.sequence))
    }
}

/// The highest answer whose body is whole, and where it is. Usually one body is read.
fn highest_answer(disk: &dyn Disk, sealer: &Sealer, found: &[Found]) -> std::io::Result<Option<(u64, Option<u32>)>> {
    let mut heads: Vec<_> = found.iter().filter_map(|place| Some((place.head?, place.index))).collect();
    heads.sort_unstable_by_key(|(head, _)| std::cmp::Reverse(head.sent.sequence));
    for (head, index) in heads {
        if read_body(disk, sealer, index, &head)?.is_some() {
            return Ok(Some((head.sent.sequence, Some(index))));
        }
    }
    Ok(None)
}

struct HeadRead {
    head: Option<AnswerHead>,
    /// There are bytes, and they are no head.
    damaged: bool,
}

fn read_head(disk: &dyn Disk, index: u32) -> std::io::Result<HeadRead> {
    let mut bytes = [0; HEAD_BYTES];
    disk.read_at(&mut bytes, answer_offset(index))?;
    let head = AnswerHead::decode(&bytes);
    Ok(HeadRead { head, damaged: head.is_none() && bytes.iter().any(|&byte| byte != 0) })
}

fn read_body(disk: &dyn Disk, sealer: &Sealer, index: u32, head: &AnswerHead) -> std::io::Result<Option<RawAnswer>> {
    let mut sealed = vec![0; head.sealed_bytes];
    disk.read_at(&mut sealed, answer_offset(index) + HEAD_BYTES as u64)?;
    Ok(head.open(sealer, &sealed))
}

/// Lays the file out with `slots` places and the one that is kept back.
fn create(
    path: &Path,
    slots: u32,
    sealer: &Sealer,
    store_id: u64,
    (sequence_floor, answer_floor): (u64, u64),
) -> Result<(), OpenJournalError> {
    let check_value = sealer.check_value();
    let header = Header { places: slots + 1, store_id, check_value, sequence_floor, answer_floor };
    disk::create(path, &header.encode(), layout::file_bytes(header.places)).map_err(file_error(path, "laid out"))
}

fn read_header(path: &Path, file: &std::fs::File, sealer: &Sealer) -> Result<Header, OpenJournalError> {
    let path = || path.to_owned();
    let length = file.metadata().map_err(file_error(&path(), "read"))?.len();
    if length < HEADER_BYTES as u64 {
        return Err(OpenJournalError::Damaged { path: path(), found: format!("it has only {length} bytes") });
    }
    let mut bytes = [0; HEADER_BYTES];
    Disk::read_at(file, &mut bytes, 0).map_err(file_error(&path(), "read"))?;
    let header = Header::decode(&bytes).map_err(|fault| match fault {
        HeaderFault::NotAJournal => OpenJournalError::NotAJournal { path: path() },
        HeaderFault::Damaged => {
            OpenJournalError::Damaged { path: path(), found: "the check sum of its header is wrong".into() }
        }
        HeaderFault::Version(found) => OpenJournalError::Version { path: path(), found },
    })?;
    if !sealer.knows(&header.check_value) {
        return Err(OpenJournalError::OtherKey { path: path() });
    }
    let expected = layout::file_bytes(header.places);
    if length < expected || header.places < 2 {
        let found = format!("it has {length} bytes, and its {} places need {expected}", header.places);
        return Err(OpenJournalError::Damaged { path: path(), found });
    }
    Ok(header)
}

fn file_error(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> OpenJournalError {
    let path = path.to_owned();
    move |cause| OpenJournalError::File { path, doing, cause }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
