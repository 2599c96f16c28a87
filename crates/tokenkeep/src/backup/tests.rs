use super::*;
use crate::store::{EventQuery, ListQuery};
use crate::{Config, Import, Provider, TokenAsk, TokenKeep};
use tempfile::TempDir;
use tokenkeep_core::model::{State, Status, Waiting};
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::{Rotation, Rules};
use tokenkeep_core::{ConnectionKey, FailureCode, Secret};

const CONNECTIONS: usize = 40;

fn config(folder: &Path) -> Config {
    let mut config = Config::new(folder);
    for (name, rotation) in [("strict", Rotation::Strict), ("persistent", Rotation::Persistent)] {
        let client = Client { id: "c".into(), secret: None };
        let nowhere = "http://127.0.0.1:9/token".parse().unwrap();
        config.providers.push(Provider::new(name, nowhere, client, Rules { rotation, ..Rules::default() }));
    }
    config.in_flight_max = 4;
    config
}

fn key(nth: usize) -> ConnectionKey {
    ConnectionKey::in_default(format!("c{nth:02}")).unwrap()
}

async fn fill(keep: &TokenKeep) {
    let import = |nth: usize| Import {
        key: key(nth),
        provider: if nth == 0 { "persistent" } else { "strict" }.to_owned(),
        token: Secret::new(format!(
            r#"{{"access_token":"access-canary-{nth}","refresh_token":"refresh-canary-{nth}","id_token":"extra-canary","expires_at":4102444800,"expires_in":86400}}"#
        )),
        labels: None,
    };
    for imported in keep.import_many((0..CONNECTIONS).map(import).collect()).await {
        imported.unwrap();
    }
}

/// A folder with a backup of a filled store, and its key.
struct Made {
    folder: TempDir,
    file: PathBuf,
}

impl Made {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("tk.backup");
        let keep = TokenKeep::open(config(&folder.path().join("state"))).await.unwrap();
        fill(&keep).await;
        let backup = keep.backup().await.unwrap();
        backup.write(&mut File::create_new(&file).unwrap()).unwrap();
        drop(backup);
        keep.shutdown().await;
        Self { folder, file }
    }

    fn key(&self) -> MasterKey {
        crate::keys::read_file(&self.folder.path().join("state").join(MASTER_KEY_FILE)).unwrap()
    }

    fn target(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn restore(&self, name: &str) -> Result<Restored, Error> {
        restore(&self.file, &self.target(name), KeySource::StateFolder, Some(self.key()))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_starts_held_says_why_and_is_freed_one_by_one() {
    let made = Made::new().await;
    let restored = made.restore("second").unwrap();
    assert!(restored.bytes > 10_000 && restored.made_at.as_millis() > 1_700_000_000_000);
    let folder = made.target("second");
    assert_eq!(names(&folder), ["lock", "master.key", "tokenkeep.db"]);
    let keep = TokenKeep::open(config(&folder)).await.unwrap();
    let page = keep.list(&ListQuery { limit: 1_000, ..ListQuery::default() }).await.unwrap();
    assert_eq!(page.len(), CONNECTIONS);
    assert!(page[0].hold.is_none(), "what does not rotate needs no hold");
    for connection in &page[1..] {
        assert_eq!(connection.status(keep.now()), Status::Held);
        assert_eq!(connection.hold.as_ref().unwrap().cause, FailureCode::RestoredCopy);
    }
    let query = EventQuery { connection: Some(key(1)), limit: 9, ..EventQuery::default() };
    let events = keep.events(&query).await.unwrap();
    let last = &events.last().unwrap().event;
    assert_eq!((last.kind.as_str(), last.code), ("connection.held", Some(FailureCode::RestoredCopy)));
    assert!(last.message.contains("restored copy"), "{}", last.message);
    let handed = keep.token(&key(5), TokenAsk::default()).await.unwrap();
    assert_eq!(handed.token.access_token.expose(), "access-canary-5", "what is valid is handed out");

    let freed = keep.resume(&key(7)).await.unwrap();
    assert!(matches!(freed.state, State::Ready { waiting: Waiting::InDoubt(_), .. } | State::Claimed { .. }));
    keep.shutdown().await;
    drop(keep);
    // The next start holds nothing again, and frees nothing.
    let keep = TokenKeep::open(config(&folder)).await.unwrap();
    assert_eq!(keep.get(&key(7)).await.unwrap().hold, None);
    assert_eq!(keep.get(&key(8)).await.unwrap().status(keep.now()), Status::Held);
    assert_eq!(keep.resume_all_sole_copy().await.unwrap(), CONNECTIONS as u64 - 2);
    keep.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_copied_after_a_clean_stop_just_works() {
    let made = Made::new().await;
    let moved = made.target("moved");
    std::fs::create_dir(&moved).unwrap();
    for name in names(&made.target("state")) {
        std::fs::copy(made.target("state").join(&name), moved.join(&name)).unwrap();
    }
    let keep = TokenKeep::open(config(&moved)).await.unwrap();
    let held = keep.list(&ListQuery { limit: 1_000, statuses: vec![Status::Held], ..ListQuery::default() }).await;
    assert_eq!(held.unwrap(), []);
    keep.shutdown().await;
}

/// Bytes of every kind: each of the header, the heads of frames, and some of what they hold.
fn positions(bytes: &[u8]) -> Vec<usize> {
    let mut positions: Vec<_> = (0..HEADER_BYTES).collect();
    let mut frame = HEADER_BYTES;
    while frame < bytes.len() {
        let length = u32::from_le_bytes(bytes[frame + 1..frame + 5].try_into().unwrap()) as usize;
        let end = frame + 5 + length;
        positions.extend((frame..frame + 5 + 18).chain([frame + 5 + length / 2]).chain(end - 16..end));
        frame = end;
    }
    positions
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_and_every_cut_is_noticed_before_anything_is_written() {
    let made = Made::new().await;
    let whole = std::fs::read(&made.file).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&made.file, bytes).unwrap();
        let error = made.restore("second").expect_err(what);
        assert!(matches!(error, Error::Backup(_)), "{what}: {error}");
        assert!(error.to_string().contains("tk.backup"), "{what}: {error}");
        assert!(!made.target("second").exists(), "{what}");
        error.to_string()
    };
    for position in positions(&whole) {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x21;
        refused(&damaged, &format!("byte {position}"));
    }
    for length in [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 4, whole.len() / 2, whole.len() - 1] {
        let said = refused(&whole[..length], &format!("cut at {length}"));
        assert!(said.contains("cut off") || length < HEADER_BYTES, "{said}");
    }
    assert!(refused(&[&whole[..], b"x"].concat(), "more").contains("follows its end"));
    assert!(refused(&b"hello ".repeat(100), "text").contains("does not begin as a backup"));
    let mut newer = whole[..HEADER_BYTES].to_vec();
    newer[8] = 9;
    let sum = crc32fast::hash(&newer[..HEADER_BYTES - 4]).to_le_bytes();
    newer[HEADER_BYTES - 4..].copy_from_slice(&sum);
    assert!(refused(&newer, "newer").contains("format version 9"));
    // Somebody who can make check sums still cannot say when it was made, nor put frames in another order.
    let mut later = whole.clone();
    later[50] ^= 1;
    let sum = crc32fast::hash(&later[..HEADER_BYTES - 4]).to_le_bytes();
    later[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum);
    assert!(refused(&later, "later").contains("frame 0 was changed"));
    let (head, frames) = whole.split_at(HEADER_BYTES);
    let name_bytes = 5 + OVERHEAD_BYTES + DATABASE.len();
    let (name, rest) = frames.split_at(name_bytes);
    let (first, rest) = rest.split_at(5 + SEALED_BYTES_MAX);
    // The second piece is shorter, so its own head says where it ends.
    let length = u32::from_le_bytes(rest[1..5].try_into().unwrap()) as usize;
    let (second, rest) = rest.split_at(5 + length);
    assert!(refused(&[head, name, second, first, rest].concat(), "swapped").contains("frame 1"));
    std::fs::write(&made.file, &whole).unwrap();
    made.restore("second").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_folder_in_use_are_refused() {
    let made = Made::new().await;
    let other = restore(&made.file, &made.target("second"), KeySource::StateFolder, Some(MasterKey::generate()));
    let other = other.unwrap_err().to_string();
    assert!(other.contains("another master key than the one given"), "{other}");
    let none = restore(&made.file, &made.target("second"), KeySource::StateFolder, None).unwrap_err().to_string();
    assert!(none.contains("master.key cannot be used"), "{none}");
    assert!(!made.target("second").exists());
    let before = names(&made.target("state"));
    let in_use = made.restore("state").unwrap_err().to_string();
    assert!(in_use.contains("already: restore into a new folder"), "{in_use}");
    assert_eq!(names(&made.target("state")), before);
    // The key may lie there already.
    let prepared = made.target("prepared");
    std::fs::create_dir(&prepared).unwrap();
    write_file(&prepared.join(MASTER_KEY_FILE), &made.key()).unwrap();
    restore(&made.file, &prepared, KeySource::StateFolder, None).unwrap();
    let keep = TokenKeep::open(config(&prepared)).await.unwrap();
    keep.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_holds_no_token_in_any_encoding_and_leaves_no_copy() {
    use base64::Engine as _;
    let made = Made::new().await;
    assert_eq!(names(&made.target("state")), ["journal", "lock", "master.key", "tokenkeep.db"]);
    let bytes = std::fs::read(&made.file).unwrap();
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|found| found == needle);
    for canary in ["access-canary", "refresh-canary", "extra-canary", "c07", "SQLite"] {
        let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
        let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(canary);
        assert!(!holds(canary.as_bytes()) && !holds(hex.as_bytes()) && !holds(base64.as_bytes()), "{canary}");
    }
    assert!(holds(b"TKBACKUP"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_while_it_is_written_out_leaves_it_under_the_key_of_its_making() {
    let made = Made::new().await;
    let former = made.key();
    let keep = TokenKeep::open(config(&made.target("state"))).await.unwrap();
    let backup = keep.backup().await.unwrap();
    keep.rotate_master_key().await.unwrap();
    while keep.master_key().unwrap().rotation.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let file = made.target("later.backup");
    backup.write(&mut File::create_new(&file).unwrap()).unwrap();
    drop(backup);
    keep.shutdown().await;
    let new = restore(&file, &made.target("second"), KeySource::StateFolder, Some(made.key())).unwrap_err();
    assert!(matches!(new, Error::Backup(BackupError::OtherKey { .. })), "{new}");
    restore(&file, &made.target("second"), KeySource::StateFolder, Some(former)).unwrap();
}

/// A disk that is full after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backup_is_made_during_a_rotation_and_an_error_of_writing_is_told() {
    let folder = TempDir::new().unwrap();
    let keep = TokenKeep::open(config(folder.path())).await.unwrap();
    fill(&keep).await;
    let backup = keep.backup().await.unwrap();
    assert_eq!(backup.write(&mut Full(10_000)).unwrap_err().kind(), io::ErrorKind::StorageFull);
    drop(backup);
    keep.rotate_master_key().await.unwrap();
    match keep.backup().await {
        Err(Error::Rotating { .. }) => {}
        Err(other) => panic!("{other}"),
        // It was over already.
        Ok(_) => assert_eq!(keep.master_key().unwrap().rotation, None),
    }
    keep.shutdown().await;
}
