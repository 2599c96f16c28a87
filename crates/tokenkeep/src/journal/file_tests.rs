use super::*;
use crate::keys::MasterKey;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokenkeep_core::model::{AttemptNumber, ConnectionId, Generation, GrantNumber};
use zeroize::Zeroizing;

const STORE: u64 = 0x5707e;
const CANARY: &str = "canary-3f9a1c";

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&[7; 32]))
}

fn attempt(number: u64) -> AttemptRef {
    AttemptRef {
        connection: ConnectionId(5),
        grant: GrantNumber(2),
        generation: Generation(9),
        attempt: AttemptNumber(number),
    }
}

fn answer(body: impl Into<Vec<u8>>) -> RawAnswer {
    RawAnswer {
        status: 200,
        content_type: Some("application/json".into()),
        retry_after: Some(Duration::from_secs(7)),
        body: Zeroizing::new(body.into()),
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A file in memory whose writes and syncs can fail.
#[derive(Clone, Default)]
struct Memory(Arc<MemoryState>);

#[derive(Default)]
struct MemoryState {
    bytes: Mutex<Vec<u8>>,
    syncs: AtomicUsize,
    sync_takes: Duration,
    fail_sync: AtomicBool,
    fail_write: AtomicBool,
}

impl Memory {
    fn with(bytes: Vec<u8>) -> Self {
        Self(Arc::new(MemoryState { bytes: Mutex::new(bytes), ..MemoryState::default() }))
    }

    fn slow(bytes: Vec<u8>, sync_takes: Duration) -> Self {
        Self(Arc::new(MemoryState { bytes: Mutex::new(bytes), sync_takes, ..MemoryState::default() }))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.bytes.lock().unwrap().clone()
    }
}

impl Disk for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.0.bytes.lock().unwrap()[start..start + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.0.fail_write.load(Ordering::SeqCst) {
            return Err(io::Error::other("EIO"));
        }
        let start = usize::try_from(offset).unwrap();
        self.0.bytes.lock().unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.0.sync_takes);
        // As Linux does: the failure is told once, and the next sync would succeed.
        if self.0.fail_sync.swap(false, Ordering::SeqCst) { Err(io::Error::other("EIO")) } else { Ok(()) }
    }
}

fn header(slots: u32) -> Header {
    let check_value = sealer().check_value();
    Header { places: slots + 1, store_id: STORE, check_value, sequence_floor: 0, answer_floor: 0 }
}

fn blank(slots: u32) -> Vec<u8> {
    let mut bytes = header(slots).encode();
    bytes.resize(usize::try_from(layout::file_bytes(slots + 1)).unwrap(), 0);
    bytes
}

fn over(memory: &Memory, slots: u32) -> FileJournal {
    FileJournal::over(Box::new(memory.clone()), header(slots), sealer()).unwrap()
}

fn open(path: &Path, slots: u32) -> FileJournal {
    FileJournal::open(path, slots, sealer(), Some(STORE)).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("journal")
    }
}

#[tokio::test]
async fn what_was_not_retired_is_there_after_a_restart() {
    let folder = Folder::new();
    let journal = open(&folder.journal(), 4);
    let sent = journal.reserve().unwrap().unwrap();
    journal.sending(&sent, attempt(1), at(10)).unwrap();
    let answered = journal.reserve().unwrap().unwrap();
    journal.sending(&answered, attempt(2), at(20)).unwrap();
    journal.answer(&answered, attempt(2), at(20), &answer(CANARY)).await.unwrap();
    let unmarked = journal.reserve().unwrap().unwrap();
    journal.answer(&unmarked, attempt(3), at(30), &answer("{}")).await.unwrap();
    let retired = journal.reserve().unwrap().unwrap();
    journal.answer(&retired, attempt(4), at(40), &answer("{}")).await.unwrap();
    journal.retire(retired);
    let entry =
        |number, sequence, millis, answer| Entry { attempt: attempt(number), sequence, sent_at: at(millis), answer };
    let expected = [entry(1, 1, 10, None), entry(2, 2, 20, Some(answer(CANARY))), entry(3, 3, 30, Some(answer("{}")))];
    assert_eq!(journal.open_entries(), expected);
    drop(journal);

    let journal = open(&folder.journal(), 4);
    assert_eq!(journal.open_entries(), expected);
    assert_eq!((journal.highest_answer(), journal.damaged_slots()), (4, 0));
    journal.retire_entry(2);
    let next = journal.reserve().unwrap().unwrap();
    assert_eq!(next.sequence, 5, "goes on above everything found");
    let another = journal.reserve().unwrap().unwrap();
    assert!(journal.reserve().unwrap().is_none(), "the places of open entries are not given out");
    journal.release(next);
    journal.retire(another);
    journal.retire_entry(1);
    journal.retire_entry(3);
    drop(journal);
    assert_eq!(open(&folder.journal(), 4).open_entries(), []);
}

#[tokio::test]
async fn an_answer_of_any_permitted_shape_comes_back() {
    let journal = over(&Memory::with(blank(3)), 3);
    let largest = RawAnswer {
        status: 599,
        content_type: None,
        retry_after: None,
        body: Zeroizing::new(vec![0xff; crate::endpoint::ANSWER_BYTES_MAX]),
    };
    let slot = journal.reserve().unwrap().unwrap();
    journal.answer(&slot, attempt(1), at(1), &largest).await.unwrap();
    let empty = RawAnswer { content_type: Some(String::new()), retry_after: Some(Duration::ZERO), ..answer("") };
    let second = journal.reserve().unwrap().unwrap();
    journal.answer(&second, attempt(2), at(-1), &empty).await.unwrap();
    let answers: Vec<_> = journal.open_entries().into_iter().map(|entry| entry.answer.unwrap()).collect();
    assert_eq!(answers, [largest, empty]);
    let third = journal.reserve().unwrap().unwrap();
    let refused = journal.answer(&third, attempt(3), at(1), &answer(vec![0; 80_000])).await;
    assert!(refused.unwrap_err().0.contains("80000 bytes"));
    journal.release(third);
    assert!(journal.reserve().unwrap().is_some(), "an answer that does not fit is no failure of the file");
}

/// The bytes before and after one answer was written, and the place of its record.
struct TornWrite {
    before: Vec<u8>,
    after: Vec<u8>,
    start: usize,
    end: usize,
}

impl TornWrite {
    /// `old`: an answer of the same connection and generation that was retired in the same place before.
    async fn new(old: Option<&RawAnswer>, new: &RawAnswer, marked: bool) -> Self {
        let memory = Memory::with(blank(2));
        let journal = over(&memory, 2);
        if let Some(old) = old {
            let slot = journal.reserve().unwrap().unwrap();
            journal.answer(&slot, attempt(1), at(1), old).await.unwrap();
            journal.retire(slot);
            // A higher answer elsewhere, so that the first place may be used again.
            let elsewhere = journal.reserve().unwrap().unwrap();
            journal.answer(&elsewhere, attempt(2), at(2), old).await.unwrap();
            journal.retire(elsewhere);
        }
        let slot = journal.reserve().unwrap().unwrap();
        assert_eq!(slot.index, 0);
        if marked {
            journal.sending(&slot, attempt(3), at(3)).unwrap();
        }
        let before = memory.bytes();
        journal.answer(&slot, attempt(3), at(3), new).await.unwrap();
        let after = memory.bytes();
        let start = usize::try_from(answer_offset(0)).unwrap();
        let sealed = AnswerHead::decode(&after[start..start + HEAD_BYTES]).unwrap().sealed_bytes;
        Self { before, after, start, end: start + HEAD_BYTES + sealed }
    }

    /// What a journal finds over these bytes: whether it was sent, and the answer.
    fn found(bytes: Vec<u8>) -> Option<Entry> {
        let journal = over(&Memory::with(bytes), 2);
        let mut entries = journal.open_entries();
        assert!(entries.len() <= 1);
        entries.pop()
    }

    fn check(&self, bytes: Vec<u8>, new: &RawAnswer, marked: bool, what: &str) {
        let whole = bytes[..self.end] == self.after[..self.end];
        let expected = Entry { attempt: attempt(3), sequence: self.sequence(), sent_at: at(3), answer: None };
        let expected = match (whole, marked) {
            (true, _) => Some(Entry { answer: Some(new.clone()), ..expected }),
            (false, true) => Some(expected),
            (false, false) => None,
        };
        assert_eq!(Self::found(bytes), expected, "{what}, marked: {marked}");
    }

    fn sequence(&self) -> u64 {
        AnswerHead::decode(&self.after[self.start..self.start + HEAD_BYTES]).unwrap().sent.sequence
    }

    /// The new bytes up to `cut`, the old ones from there on.
    fn cut(&self, cut: usize) -> Vec<u8> {
        [&self.after[..cut], &self.before[cut..]].concat()
    }

    /// The old bytes up to `cut`: sectors reach the disk in any order.
    fn cut_backwards(&self, cut: usize) -> Vec<u8> {
        [&self.before[..cut], &self.after[cut..]].concat()
    }
}

#[tokio::test]
async fn an_answer_torn_at_any_byte_is_no_answer() {
    let (old, new) = (answer("{\"access_token\":\"old\"}"), answer("{\"access_token\":\"new\"}"));
    for marked in [true, false] {
        for old in [None, Some(&old)] {
            let torn = TornWrite::new(old, &new, marked).await;
            for cut in torn.start..=torn.end {
                torn.check(torn.cut(cut), &new, marked, &format!("cut at {cut}"));
                torn.check(torn.cut_backwards(cut), &new, marked, &format!("cut backwards at {cut}"));
            }
        }
    }
}

#[tokio::test]
async fn the_largest_answer_torn_at_any_sector_is_no_answer() {
    let old = answer(vec![b'o'; crate::endpoint::ANSWER_BYTES_MAX]);
    let new = answer(vec![b'n'; crate::endpoint::ANSWER_BYTES_MAX]);
    let torn = TornWrite::new(Some(&old), &new, true).await;
    for cut in (torn.start..torn.end).step_by(512) {
        torn.check(torn.cut(cut), &new, true, &format!("cut at {cut}"));
        torn.check(torn.cut_backwards(cut), &new, true, &format!("cut backwards at {cut}"));
        let mut garbled = torn.after.clone();
        garbled[cut..torn.end.min(cut + 512)].fill(0xa5);
        torn.check(garbled, &new, true, &format!("garbled at {cut}"));
    }
}

#[tokio::test]
async fn a_torn_answer_does_not_hide_how_far_the_journal_came() {
    let memory = Memory::with(blank(1));
    let journal = over(&memory, 1);
    for number in 1..=3 {
        let slot = journal.reserve().unwrap().unwrap();
        journal.answer(&slot, attempt(number), at(1), &answer("{}")).await.unwrap();
        journal.retire(slot);
    }
    let before = memory.bytes();
    let slot = journal.reserve().unwrap().unwrap();
    journal.sending(&slot, attempt(4), at(1)).unwrap();
    journal.answer(&slot, attempt(4), at(1), &answer("{}")).await.unwrap();
    let cut = usize::try_from(answer_offset(slot.index)).unwrap() + HEAD_BYTES + 3;
    let torn = [&memory.bytes()[..cut], &before[cut..]].concat();
    let journal = over(&Memory::with(torn), 1);
    assert_eq!((journal.highest_answer(), journal.damaged_slots()), (3, 1));
    assert_eq!(journal.open_entries()[0].answer, None);
    journal.retire_entry(4);
    assert_eq!(journal.reserve().unwrap().unwrap().sequence, 5);
}

#[tokio::test]
async fn a_flipped_bit_is_never_another_answer() {
    let new = answer("{}");
    let torn = TornWrite::new(None, &new, true).await;
    for bit in torn.start * 8..torn.end * 8 {
        let mut flipped = torn.after.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        torn.check(flipped, &new, true, &format!("bit {bit}"));
    }
    let mark = usize::try_from(mark_offset(0)).unwrap();
    for bit in mark * 8..(mark + MARK_BYTES) * 8 {
        let mut flipped = torn.after.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let journal = over(&Memory::with(flipped), 2);
        assert_eq!(journal.open_entries()[0].answer, Some(new.clone()), "an answer outlives its mark");
        assert_eq!(journal.damaged_slots(), 1, "and it is noticed");
    }
}

#[test]
fn every_flipped_bit_of_the_header_is_noticed() {
    let folder = Folder::new();
    drop(open(&folder.journal(), 2));
    let whole = std::fs::read(folder.journal()).unwrap();
    for bit in 0..HEADER_BYTES * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(folder.journal(), &flipped).unwrap();
        assert!(FileJournal::open(&folder.journal(), 2, sealer(), None).is_err(), "bit {bit}");
        assert_eq!(std::fs::read(folder.journal()).unwrap(), flipped);
    }
    std::fs::write(folder.journal(), &whole[..whole.len() - 1]).unwrap();
    let error = FileJournal::open(&folder.journal(), 2, sealer(), None).unwrap_err().to_string();
    assert!(error.contains("its 3 places need"), "{error}");
}

#[test]
fn another_key_is_refused_and_nothing_changes() {
    let folder = Folder::new();
    let other = Arc::new(Sealer::new(&[8; 32]));
    FileJournal::check_key(&folder.journal(), &other).unwrap();
    assert!(!folder.journal().exists(), "asking makes nothing");
    drop(open(&folder.journal(), 2));
    let before = std::fs::read(folder.journal()).unwrap();
    let refused = FileJournal::check_key(&folder.journal(), &other).unwrap_err();
    assert!(matches!(refused, OpenJournalError::OtherKey { .. }));
    let refused = FileJournal::open(&folder.journal(), 9, other, Some(STORE)).unwrap_err();
    assert!(matches!(refused, OpenJournalError::OtherKey { .. }));
    assert_eq!(std::fs::read(folder.journal()).unwrap(), before);
    FileJournal::check_key(&folder.journal(), &sealer()).unwrap();
}

/// What is found in the file of this key.
fn mentions(folder: &Folder, key_id: u32) -> usize {
    let needle = [&[1, 1][..], &key_id.to_be_bytes()].concat();
    std::fs::read(folder.journal()).unwrap().windows(6).filter(|six| *six == needle).count()
}

#[tokio::test]
async fn a_rotated_key_leaves_nothing_of_the_former_and_forgets_nothing() {
    let folder = Folder::new();
    let (former, next) = (MasterKey::from_bytes([7; 32]), MasterKey::from_bytes([8; 32]));
    let rotating = Arc::new(Sealer::of(&former, &[]));
    let journal = FileJournal::open(&folder.journal(), 3, Arc::clone(&rotating), Some(STORE)).unwrap();
    let retired = journal.reserve().unwrap().unwrap();
    journal.answer(&retired, attempt(1), at(1), &answer(CANARY)).await.unwrap();
    let open = journal.reserve().unwrap().unwrap();
    journal.answer(&open, attempt(2), at(2), &answer(CANARY)).await.unwrap();
    journal.retire(retired);
    let (former_id, found) = (rotating.key_id(), mentions(&folder, rotating.key_id()));
    assert_eq!(found, 2);

    rotating.rotate_to(&next);
    journal.begin_wiping();
    assert_eq!(journal.wipe().unwrap(), 1, "the place of the open one");
    assert_eq!(mentions(&folder, former_id), 1);
    assert_eq!(journal.open_entries().len(), 1);
    let restarted = Arc::new(Sealer::of(&former, std::slice::from_ref(&next)));
    FileJournal::check_key(&folder.journal(), &restarted).unwrap();
    // Beside the one that is waited for, work goes on, under the new key.
    let newer = journal.reserve().unwrap().unwrap();
    journal.answer(&newer, attempt(3), at(3), &answer(CANARY)).await.unwrap();
    journal.retire(open);
    assert_eq!(journal.wipe().unwrap(), 0);
    assert_eq!(mentions(&folder, former_id), 0);
    journal.retire(newer);
    journal.begin_wiping();
    assert_eq!(journal.wipe().unwrap(), 0, "the place of the highest answer too");
    journal.adopt_key().unwrap();
    drop(journal);

    assert!(FileJournal::check_key(&folder.journal(), &Sealer::of(&former, &[])).is_err());
    let journal = FileJournal::open(&folder.journal(), 3, Arc::new(Sealer::of(&next, &[])), Some(STORE)).unwrap();
    assert_eq!((journal.highest_answer(), journal.open_entries(), journal.damaged_slots()), (3, vec![], 0));
    let slots: Vec<_> = (0..3).map(|_| journal.reserve().unwrap().unwrap().sequence).collect();
    assert_eq!(slots, [4, 5, 6], "no place is lost, and the numbers go on");
}

#[test]
fn another_store_is_refused_until_it_is_adopted() {
    let folder = Folder::new();
    let missing = FileJournal::open(&folder.journal(), 2, sealer(), None).unwrap_err();
    assert!(matches!(missing, OpenJournalError::Missing { .. }));
    drop(open(&folder.journal(), 2));
    let refused = FileJournal::open(&folder.journal(), 2, sealer(), Some(1)).unwrap_err();
    assert!(matches!(refused, OpenJournalError::OtherStore { found: STORE, expected: 1, .. }));
    let journal = FileJournal::open(&folder.journal(), 2, sealer(), None).unwrap();
    assert_eq!(journal.store_id(), STORE);
    journal.adopt_store(1).unwrap();
    drop(journal);
    assert_eq!(FileJournal::open(&folder.journal(), 2, sealer(), Some(1)).unwrap().store_id(), 1);
}

#[tokio::test]
async fn it_is_laid_out_anew_only_when_nothing_is_open() {
    let folder = Folder::new();
    let journal = open(&folder.journal(), 2);
    let slot = journal.reserve().unwrap().unwrap();
    journal.answer(&slot, attempt(1), at(1), &answer("{}")).await.unwrap();
    drop(journal);
    let journal = open(&folder.journal(), 5);
    assert_eq!((journal.slots(), journal.open_entries().len()), (2, 1));
    journal.retire_entry(1);
    drop(journal);
    let journal = open(&folder.journal(), 5);
    assert_eq!((journal.slots(), journal.highest_answer()), (5, 1));
    assert_eq!(journal.reserve().unwrap().unwrap().sequence, 2);
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1, "no draft is left behind");
    for asked in [0, SLOTS_MAX + 1] {
        let refused = FileJournal::open(&folder.journal(), asked, sealer(), None).unwrap_err();
        assert!(matches!(refused, OpenJournalError::SlotCount { .. }));
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_ours_alone_and_takes_all_its_room_at_once() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    drop(open(&folder.journal(), 3));
    let metadata = std::fs::metadata(folder.journal()).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert_eq!(metadata.len(), 4096 + 4 * 80 * 1024);
    assert!(metadata.blocks() * 512 >= metadata.len(), "a hole would need room later");
}

#[tokio::test]
async fn places_run_out_and_come_back() {
    let journal = over(&Memory::with(blank(3)), 3);
    let mut slots: Vec<_> = (0..3).map(|_| journal.reserve().unwrap().unwrap()).collect();
    assert!(journal.reserve().unwrap().is_none());
    journal.release(slots.pop().unwrap());
    let again = journal.reserve().unwrap().unwrap();
    assert_eq!(again.sequence, 4);
    journal.answer(&again, attempt(1), at(1), &answer("{}")).await.unwrap();
    journal.retire(again);
    slots.push(journal.reserve().unwrap().unwrap());
    assert!(journal.reserve().unwrap().is_none());
    let mut indices: Vec<_> = slots.iter().map(|slot| slot.index).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 3, "no place is given out twice");
}

#[test]
fn a_place_that_was_retired_as_an_entry_is_not_freed_twice() {
    let journal = over(&Memory::with(blank(2)), 2);
    let slot = journal.reserve().unwrap().unwrap();
    journal.sending(&slot, attempt(1), at(1)).unwrap();
    journal.retire_entry(slot.sequence);
    assert!(journal.sending(&slot, attempt(1), at(1)).is_err(), "it is somebody else's now");
    journal.retire(slot);
    let first = journal.reserve().unwrap().unwrap();
    let second = journal.reserve().unwrap().unwrap();
    assert_ne!(first.index, second.index);
    assert!(journal.reserve().unwrap().is_none());
}

#[test]
fn a_slot_that_was_written_in_cannot_be_released() {
    let journal = over(&Memory::with(blank(1)), 1);
    let slot = journal.reserve().unwrap().unwrap();
    journal.sending(&slot, attempt(1), at(1)).unwrap();
    journal.release(slot);
    assert_eq!(journal.open_entries().len(), 1);
    assert!(journal.reserve().unwrap().is_none());
}

#[tokio::test]
async fn no_token_is_in_the_file() {
    let folder = Folder::new();
    let journal = open(&folder.journal(), 2);
    let slot = journal.reserve().unwrap().unwrap();
    journal.sending(&slot, attempt(1), at(1)).unwrap();
    journal.answer(&slot, attempt(1), at(1), &answer(CANARY)).await.unwrap();
    let bytes = std::fs::read(folder.journal()).unwrap();
    assert!(bytes.windows(4).any(|window| window == b"TKJA"), "the answer is in the file");
    assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    assert!(!format!("{journal:?}").contains(CANARY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sync_serves_all_who_wait() {
    const ANSWERS: usize = 200;
    let memory = Memory::slow(blank(200), Duration::from_millis(2));
    let journal = Arc::new(over(&memory, 200));
    let tasks: Vec<_> = (0..ANSWERS)
        .map(|_| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                let slot = journal.reserve().unwrap().unwrap();
                journal.answer(&slot, attempt(slot.sequence), at(1), &answer("{}")).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let syncs = memory.0.syncs.load(Ordering::SeqCst);
    assert!((1..=ANSWERS / 4).contains(&syncs), "{syncs} syncs");
    assert_eq!((journal.open_entries().len(), journal.highest_answer()), (ANSWERS, 200));
}

#[tokio::test]
async fn an_answer_is_not_acknowledged_before_a_sync() {
    let memory = Memory::with(blank(1));
    let journal = over(&memory, 1);
    let slot = journal.reserve().unwrap().unwrap();
    journal.sending(&slot, attempt(1), at(1)).unwrap();
    assert_eq!(memory.0.syncs.load(Ordering::SeqCst), 0, "a mark is not synced");
    journal.answer(&slot, attempt(1), at(1), &answer("{}")).await.unwrap();
    assert_eq!(memory.0.syncs.load(Ordering::SeqCst), 1);
    journal.retire(slot);
    assert_eq!(memory.0.syncs.load(Ordering::SeqCst), 1, "nor is a retirement");
}

#[tokio::test]
async fn an_answer_survives_whoever_stopped_waiting_for_its_sync() {
    let memory = Memory::slow(blank(1), Duration::from_millis(20));
    let journal = over(&memory, 1);
    let slot = journal.reserve().unwrap().unwrap();
    let raw = answer("{}");
    let waiting = journal.answer(&slot, attempt(1), at(1), &raw);
    assert!(tokio::time::timeout(Duration::from_millis(1), waiting).await.is_err());
    assert_eq!(journal.open_entries()[0].answer, Some(answer("{}")));
}

#[tokio::test]
async fn a_failed_sync_is_final() {
    let memory = Memory::with(blank(3));
    let journal = over(&memory, 3);
    let slot = journal.reserve().unwrap().unwrap();
    memory.0.fail_sync.store(true, Ordering::SeqCst);
    assert!(journal.answer(&slot, attempt(1), at(1), &answer("{}")).await.is_err());
    assert_eq!(journal.highest_answer(), 0);
    let told = journal.reserve().unwrap_err().to_string();
    assert!(told.contains("a sync failed: EIO"), "{told}");
    assert!(journal.sending(&slot, attempt(1), at(1)).is_err());
    assert!(journal.answer(&slot, attempt(1), at(1), &answer("{}")).await.is_err());
    assert!(journal.adopt_store(1).is_err());
    assert_eq!(memory.0.syncs.load(Ordering::SeqCst), 1, "it is never tried again");
    assert_eq!(journal.open_entries().len(), 1, "what is known stays known");
}

#[tokio::test]
async fn a_failed_write_is_final() {
    let memory = Memory::with(blank(2));
    let journal = over(&memory, 2);
    let slot = journal.reserve().unwrap().unwrap();
    memory.0.fail_write.store(true, Ordering::SeqCst);
    assert!(journal.sending(&slot, attempt(1), at(1)).is_err());
    memory.0.fail_write.store(false, Ordering::SeqCst);
    assert!(journal.answer(&slot, attempt(1), at(1), &answer("{}")).await.is_err());
    assert!(journal.reserve().unwrap_err().to_string().contains("a write failed: EIO"));
}

/// A small file system of its own; gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_no_answer() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a small file system can be mounted by root only");
        return;
    };
    let path = disk.0.path().join("journal");
    let journal = open(&path, 8);
    let filled = std::fs::write(disk.0.path().join("filler"), vec![1; 4 << 20]).unwrap_err();
    assert_eq!(filled.kind(), io::ErrorKind::StorageFull);
    let largest = answer(vec![b'x'; crate::endpoint::ANSWER_BYTES_MAX]);
    for _ in 0..8 {
        let slot = journal.reserve().unwrap().unwrap();
        journal.sending(&slot, attempt(slot.sequence), at(1)).unwrap();
        journal.answer(&slot, attempt(slot.sequence), at(1), &largest).await.unwrap();
    }
    drop(journal);
    assert!(open(&path, 8).open_entries().iter().all(|entry| entry.answer.as_ref() == Some(&largest)));
    let no_room = FileJournal::open(&disk.0.path().join("second"), 64, sealer(), Some(STORE)).unwrap_err();
    assert!(matches!(no_room, OpenJournalError::File { doing: "laid out", .. }));
    assert!(!disk.0.path().join("second.new").exists());
}
