//! What only this store promises; what every store promises is in the conformance suite.

mod access;
mod damage;
mod measure;
mod space;

use super::*;
use crate::keys::MasterKey;
use crate::store::conformance;
use crate::store::conformance::claim_as_seen;
use crate::store::memory::MemoryStore;
use crate::store::{EventKind, HoldChange};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;
use tokenkeep_core::Secret;
use tokenkeep_core::deadline::Deadline;
use tokenkeep_core::model::{Generation, Renewal, TokenTimes, Waiting};
use tokenkeep_core::oauth::TokenSet;

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&[7; 32]))
}

/// Makes stores in a folder, each in a file of its own.
struct Maker {
    folder: TempDir,
    made: AtomicU64,
}

impl Maker {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), made: AtomicU64::new(0) }
    }

    fn make(&self) -> Arc<dyn Store> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Arc::new(SqliteStore::open(&self.folder.path().join(format!("{number}.db")), sealer()).unwrap())
    }
}

/// One file in a folder of its own.
struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenkeep.db");
        Self { _folder: folder, path }
    }

    fn open(&self) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(&self.path, sealer())
    }

    /// The database behind the store's back.
    fn database(&self) -> Database {
        Database::open(&self.path).unwrap()
    }

    fn sql(&self, sql: &str) {
        self.database().execute_batch(sql).unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

const fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + millis)
}

fn key(name: &str) -> ConnectionKey {
    ConnectionKey::in_default(name).unwrap()
}

const HOLDER: Holder = Holder { boot: 1, process: 2, worker: 3, incarnation: 4 };

fn token_set(name: &str) -> TokenSet {
    TokenSet {
        access_token: Secret::new(format!("access-canary-{name}")),
        refresh_token: Some(Secret::new(format!("refresh-canary-{name}"))),
        token_type: "Bearer".to_owned(),
        extra: Secret::new(format!(r#"{{"id_token":"extra-canary-{name}"}}"#)),
    }
}

fn new_grant(name: &str) -> NewGrant {
    let times = TokenTimes {
        issued_at: at(0),
        expires_at: Some(at(3_600_000)),
        lifetime: Some(Duration::from_hours(1)),
        lifetime_learned: false,
        planned_at: at(1_000),
        refresh_end: None,
        consent_end: None,
    };
    NewGrant {
        key: key(name),
        provider: "p".to_owned(),
        labels: None,
        scopes: Vec::new(),
        renewal: Renewal::RefreshToken,
        origin: tokenkeep_core::model::Origin::default(),
        times,
        due_at: at(1_000),
        waiting: Waiting::Schedule,
        tokens: Some(token_set(name)),
    }
}

fn quota(limit: usize) -> Quota {
    Quota { provider: "p".to_owned(), limit, recover_before: None }
}

/// The commit of a successful refresh.
fn success(work: &Work, name: &str) -> Commit {
    let mut next = work.connection.clone();
    next.generation = Generation(next.generation.0 + 1);
    next.state = State::Ready { due_at: at(1_000), waiting: Waiting::Schedule };
    Commit {
        attempt: work.connection.attempt,
        tokens: Some(token_set(name)),
        hold: HoldChange::Keep,
        events: vec![NewEvent::new(EventKind::Refreshed, at(2_000), Some(&next.key), "Refreshed.")],
        next,
        journal_sequence: 5,
    }
}

/// A caller seals before the writer writes: between the two, everything may have been sealed under another key.
#[tokio::test]
async fn what_was_sealed_before_a_rotation_and_comes_after_it_is_sealed_anew() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    let work = store.claim_due(at(2_000), HOLDER, &[quota(1)]).await.unwrap().work.remove(0);
    let mut commit = success(&work, "a2");
    let sealed = record::seal(&store.shared.sealer, &commit.next, &commit.tokens.take().unwrap());
    let next = MasterKey::from_bytes([8; 32]);
    store.begin_rotation(next.check_value()).await.unwrap();
    store.shared.sealer.rotate_to(&next);
    let resealed = store.reseal(i64::MIN, 9).await.unwrap();
    assert_eq!(resealed, Resealed { last: Some(1), done: 1, unreadable: 0 });
    store.write(0, move |batch| batch.commit(&commit, Some(&sealed))).await.unwrap();
    store.finish_rotation().await.unwrap();
    store.shared.sealer.forget_former();
    assert_eq!(refresh_token(&store, "a").await, "refresh-canary-a2");
    store.close().await.unwrap();
    assert!(matches!(place.open(), Err(StoreError::Damaged(_))), "the former key");
    let store = SqliteStore::open(&place.path, Arc::new(Sealer::of(&next, &[]))).unwrap();
    assert_eq!(refresh_token(&store, "a").await, "refresh-canary-a2");
}

/// What cannot be read is told, and keeps the others from nothing.
#[tokio::test]
async fn a_damaged_token_set_does_not_hold_a_rotation_up() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("a"), new_grant("b")]).await.unwrap();
    place.sql("UPDATE token_set SET refresh = zeroblob(60) WHERE id = 1");
    store.shared.sealer.rotate_to(&MasterKey::from_bytes([8; 32]));
    let resealed = store.reseal(i64::MIN, 9).await.unwrap();
    assert_eq!(resealed, Resealed { last: Some(2), done: 1, unreadable: 1 });
    store.shared.sealer.forget_former();
    assert_eq!(refresh_token(&store, "b").await, "refresh-canary-b");
}

async fn refresh_token(store: &SqliteStore, name: &str) -> String {
    let tokens = store.tokens(&key(name)).await.unwrap().unwrap().tokens.unwrap();
    tokens.refresh_token.unwrap().expose().to_owned()
}

fn all_events() -> EventQuery {
    EventQuery { limit: 1_000, ..EventQuery::default() }
}

#[tokio::test]
async fn it_keeps_every_promise() {
    let maker = Maker::new();
    conformance::all(|| maker.make()).await;
}

#[test]
fn it_behaves_like_the_model() {
    let maker = Maker::new();
    conformance::sequences(|| maker.make(), 32);
}

/// A store with a refreshed, a claimed and a paused connection.
async fn filled(store: &SqliteStore) -> Connection {
    store.grant(at(0), ["a", "b", "c"].map(new_grant).into()).await.unwrap();
    let work = store.claim_due(at(1_000), HOLDER, &[quota(2)]).await.unwrap().work;
    store.commit(success(&work[0], "a2")).await.unwrap();
    store.flag(at(2_000), &key("c"), Flag::Pause).await.unwrap();
    work[1].connection.clone()
}

async fn check_filled(store: &SqliteStore, claimed: &Connection) {
    let a = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((a.generation, a.committed), (Generation(2), AttemptNumber(1)));
    assert_eq!(refresh_token(store, "a").await, "refresh-canary-a2");
    assert_eq!(store.get(&key("b")).await.unwrap().as_ref(), Some(claimed));
    assert!(store.revalidate(claimed).await.unwrap());
    assert!(store.get(&key("c")).await.unwrap().unwrap().paused);
    assert_eq!(store.events(&all_events()).await.unwrap().len(), 5);
    assert_eq!(store.journal_sequence().await.unwrap(), 5);
    assert_eq!(store.summary(at(0), None).await.unwrap().by_status.values().sum::<u64>(), 3);
    let used = store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    assert!(matches!(used[..], [Granted::AlreadyUsed(_)]));
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_clean_end() {
    let place = Place::new();
    let store = place.open().unwrap();
    let (claimed, id) = (filled(&store).await, store.store_id());
    store.close().await.unwrap();
    assert!(matches!(store.get(&key("a")).await, Err(StoreError::Closed)));
    assert!(matches!(store.revalidate(&claimed).await, Err(StoreError::Closed)));
    assert!(matches!(store.close().await, Err(StoreError::Closed)));
    assert!(!schema::beside(&place.path, "-wal").exists(), "everything is in one file");
    let store = place.open().unwrap();
    check_filled(&store, &claimed).await;
    assert_eq!(store.store_id(), id);
    let d = store.grant(at(0), vec![new_grant("d")]).await.unwrap();
    let [Granted::Created(d, event)] = &d[..] else { panic!("{d:?}") };
    assert_eq!((d.id, event.id), (ConnectionId(4), 6), "no number is used twice");
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_crash() {
    let place = Place::new();
    let store = place.open().unwrap();
    let claimed = filled(&store).await;
    // What a killed process leaves: the files as they are while the store is open.
    let crashed = Place::new();
    for suffix in ["", "-wal"] {
        std::fs::copy(schema::beside(&place.path, suffix), schema::beside(&crashed.path, suffix)).unwrap();
    }
    check_filled(&crashed.open().unwrap(), &claimed).await;
    drop(store);
    check_filled(&place.open().unwrap(), &claimed).await;
}

#[tokio::test]
async fn a_number_is_not_used_again_after_its_connection_and_a_restart() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    store.remove(at(0), &key("a")).await.unwrap().unwrap();
    store.close().await.unwrap();
    let store = place.open().unwrap();
    let granted = store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    assert!(matches!(&granted[..], [Granted::Created(again, _)] if again.id == ConnectionId(2)), "{granted:?}");
}

#[tokio::test]
async fn only_its_owner_may_read_it() {
    let place = Place::new();
    let mode =
        |suffix: &str| std::fs::metadata(schema::beside(&place.path, suffix)).unwrap().permissions().mode() & 0o7777;
    let store = place.open().unwrap();
    filled(&store).await;
    assert_eq!(["", "-wal", "-shm"].map(mode), [0o600; 3]);
    store.close().await.unwrap();
    std::fs::set_permissions(&place.path, PermissionsExt::from_mode(0o644)).unwrap();
    drop(place.open().unwrap());
    assert_eq!(mode(""), 0o600);
}

#[tokio::test]
async fn the_folder_may_be_a_link() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(place.path.parent().unwrap(), &link).unwrap();
    let store = SqliteStore::open(&link.join("tokenkeep.db"), sealer()).unwrap();
    filled(&store).await;
    store.close().await.unwrap();
    assert!(place.open().is_ok());
}

#[tokio::test]
async fn no_secret_is_readable_in_any_file() {
    let place = Place::new();
    let store = place.open().unwrap();
    filled(&store).await;
    let work = store.tokens(&key("a")).await.unwrap().unwrap();
    let sealed = record::seal(&sealer(), &work.connection, &work.tokens.unwrap());
    let holds = |needle: &[u8]| {
        ["", "-wal", "-shm"].iter().any(|suffix| {
            let bytes = std::fs::read(schema::beside(&place.path, suffix)).unwrap_or_default();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    assert!(!holds(b"canary"));
    assert!(holds(&sealed.fingerprint.unwrap()), "this test would find what is there");
    store.remove(at(3_000), &key("a")).await.unwrap().unwrap();
    store.close().await.unwrap();
    assert!(!holds(&sealed.fingerprint.unwrap()), "what is removed is overwritten");
}

#[tokio::test]
async fn concurrent_writes_share_transactions() {
    let store = Place::new().open().unwrap();
    let names: Vec<_> = (0..200).map(|number| format!("c{number:03}")).collect();
    store.grant(at(0), names.iter().map(|name| new_grant(name)).collect()).await.unwrap();
    let work = store.claim_due(at(1_000), HOLDER, &[quota(200)]).await.unwrap().work;
    let before = store.transactions();
    let commits = work.iter().rev().map(|work| store.commit(success(work, "new")));
    for committed in futures_util::future::join_all(commits).await {
        assert!(matches!(committed.unwrap(), Committed::Applied(..)));
    }
    let transactions = store.transactions() - before;
    assert!(transactions <= 20, "200 commits took {transactions} transactions");
}

#[tokio::test]
async fn the_clock_anchor_is_kept() {
    let place = Place::new();
    let store = place.open().unwrap();
    assert_eq!(store.clock_anchor().await.unwrap(), None);
    let anchor = ClockAnchor { boot: u64::MAX, offset_ms: i64::MIN, skew_ms: -1 };
    store.set_clock_anchor(ClockAnchor { skew_ms: 7, ..anchor }).await.unwrap();
    store.set_clock_anchor(anchor).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(place.open().unwrap().clock_anchor().await.unwrap(), Some(anchor));
}

const CONSENT_END: Deadline = Deadline { at: at(9), told_until: at(4) };

#[tokio::test]
async fn times_move_together_as_in_the_store_in_memory() {
    let place = Place::new();
    let (store, model) = (place.open().unwrap(), MemoryStore::new());
    for store in [&store as &dyn Store, &model] {
        let mut c = new_grant("c");
        (c.due_at, c.times.expires_at) = (Timestamp::NEVER, None);
        c.times.consent_end = Some(CONSENT_END);
        store.grant(at(0), vec![new_grant("a"), new_grant("b"), c]).await.unwrap();
        claim_as_seen(store, at(1), HOLDER, &key("b")).await.unwrap();
    }
    store.shift_times(-5_000).await.unwrap();
    model.shift_times(-5_000);
    let compare = async |store: &SqliteStore| {
        for name in ["a", "b", "c"] {
            assert_eq!(store.get(&key(name)).await.unwrap(), model.get(&key(name)).await.unwrap());
        }
        let (found, expected) = (store.summary(at(0), None).await.unwrap(), model.summary(at(0), None).await.unwrap());
        assert_eq!(found, expected);
        assert_eq!(store.events(&all_events()).await.unwrap()[0].event.at, at(0), "history stays");
    };
    compare(&store).await;
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().due_at(), Some(at(-4_000)));
    store.close().await.unwrap();
    let store = place.open().unwrap();
    compare(&store).await;
    let work = store.claim_due(at(-4_000), HOLDER, &[quota(9)]).await.unwrap().work;
    assert_eq!(work.len(), 1);
    store.shift_times(5_000).await.unwrap();
    assert_eq!(store.get(&key("c")).await.unwrap().unwrap().times.consent_end, Some(CONSENT_END));
}

#[tokio::test]
async fn a_token_set_from_the_future_is_due_now() {
    let (store, model) = (Place::new().open().unwrap(), MemoryStore::new());
    let grant = |name: &str, issued: i64, due: i64| {
        let mut grant = new_grant(name);
        (grant.times.issued_at, grant.due_at) = (at(issued), at(due));
        grant
    };
    for store in [&store as &dyn Store, &model] {
        let fixed = NewGrant { renewal: Renewal::Impossible, ..grant("fixed", 500, 900) };
        let grants = vec![grant("past", 50, 900), grant("future", 101, 900), grant("due", 101, 90), fixed];
        store.grant(at(0), grants).await.unwrap();
    }
    assert_eq!(store.due_if_issued_after(at(100)).await.unwrap(), 1);
    assert_eq!(model.due_if_issued_after(at(100)), 1);
    for name in ["past", "future", "due", "fixed"] {
        assert_eq!(store.get(&key(name)).await.unwrap(), model.get(&key(name)).await.unwrap());
    }
    let claimed = store.claim_due(at(100), HOLDER, &[quota(9)]).await.unwrap();
    assert_eq!(claimed.work.len(), 2);
    assert_eq!(claimed.next_due["p"], at(900));
}

#[tokio::test]
async fn the_oldest_events_go_and_no_number_comes_back() {
    let place = Place::new();
    let store = SqliteStore::open_with(&place.path, sealer(), 10).unwrap();
    let event = NewEvent::new(EventKind::SystemStarted, at(0), None, "Started.");
    for _ in 0..30 {
        store.record(vec![event.clone(); 100]).await.unwrap();
    }
    let kept = store.events(&all_events()).await.unwrap();
    assert_eq!(kept.last().unwrap().id, 3_000);
    let oldest = store.events(&EventQuery { limit: 1, ..all_events() }).await.unwrap()[0].id;
    assert!((1_990..=2_991).contains(&oldest), "{oldest}");
    store.close().await.unwrap();
    let store = place.open().unwrap();
    assert_eq!(store.record(vec![event]).await.unwrap()[0].id, 3_001);
}

#[tokio::test]
async fn the_log_does_not_grow_without_bound() {
    let place = Place::new();
    let store = place.open().unwrap();
    let event = NewEvent { message: "x".repeat(1_000), ..NewEvent::new(EventKind::SystemStarted, at(0), None, "") };
    let mut longest = 0;
    // 128 MiB of history in 512 transactions.
    for _ in 0..512 {
        store.record(vec![event.clone(); 256]).await.unwrap();
        longest = longest.max(std::fs::metadata(schema::beside(&place.path, "-wal")).unwrap().len());
    }
    assert!(longest < 100 << 20, "the log grew to {} MiB", longest >> 20);
}
