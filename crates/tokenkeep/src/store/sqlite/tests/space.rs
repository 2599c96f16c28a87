//! A full disk.

use super::*;
use std::process::Command;

/// Lets the database have only so many pages; 0 for what it has.
async fn limit_pages(store: &SqliteStore, pages: i64) {
    let limit = move |batch: &mut Batch<'_>| {
        let limit = batch.database.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()));
        limit.map_err(|cause| fault(&cause))
    };
    store.write(0, limit).await.unwrap();
}

fn large_event() -> NewEvent {
    NewEvent { message: "x".repeat(100_000), ..NewEvent::new(EventKind::SystemStarted, at(0), None, "") }
}

#[tokio::test]
async fn without_space_nothing_is_half_done_and_with_space_it_goes_on() {
    let place = Place::new();
    let store = place.open().unwrap();
    let claimed = filled(&store).await;
    limit_pages(&store, 1).await;
    let (events, flag, commit) = futures_util::future::join3(
        store.record(vec![large_event()]),
        store.flag(at(3_000), name_c(), Flag::Resume),
        store.commit(success(&Work { connection: claimed.clone(), tokens: None, was_due_at: None }, "b2")),
    )
    .await;
    assert!(matches!(events, Err(StoreError::Unusable(_))), "{events:?}");
    // These two shared the transaction, or came after it: done or not done, and said so truly.
    let resumed = !store.get(&key("c")).await.unwrap().unwrap().paused;
    assert_eq!(flag.is_ok(), resumed);
    assert_eq!(commit.is_ok(), refresh_token(&store, "b").await == "refresh-canary-b2");
    assert_eq!(store.revalidate(&claimed).await.unwrap(), commit.is_err());
    assert!(matches!(store.record(vec![large_event()]).await, Err(StoreError::Unusable(_))));
    limit_pages(&store, 1_000_000).await;
    store.record(vec![large_event()]).await.unwrap();
    let again =
        store.commit(success(&Work { connection: claimed, tokens: None, was_due_at: None }, "b2")).await.unwrap();
    assert!(matches!(again, Committed::Applied(..) | Committed::Superseded));
    assert_eq!(refresh_token(&store, "b").await, "refresh-canary-b2");
    let numbers: Vec<_> = store.events(&all_events()).await.unwrap().into_iter().map(|event| event.id).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no number is left out");
}

fn name_c() -> &'static ConnectionKey {
    Box::leak(Box::new(key("c")))
}

/// A file system of one MiB, as long as it lives.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path());
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "mounts a file system, so it needs root"]
async fn a_disk_that_is_full_is_survived() {
    let Some(disk) = Tmpfs::mount() else { panic!("no tmpfs can be mounted: run this as root") };
    let path = disk.0.path().join("tokenkeep.db");
    let store = SqliteStore::open(&path, sealer()).unwrap();
    let claimed = filled(&store).await;
    let ballast = disk.0.path().join("ballast");
    let _ = std::fs::write(&ballast, vec![1; 2 << 20]);
    let mut failed = None;
    for _ in 0..20 {
        if let Err(error) = store.record(vec![large_event()]).await {
            failed = Some(error);
            break;
        }
    }
    assert!(matches!(failed, Some(StoreError::Unusable(_))), "{failed:?}");
    check_filled_tokens(&store).await;
    std::fs::remove_file(&ballast).unwrap();
    store.record(vec![large_event()]).await.unwrap();
    store.commit(success(&Work { connection: claimed, tokens: None, was_due_at: None }, "b2")).await.unwrap();
    store.close().await.unwrap();
    let store = SqliteStore::open(&path, sealer()).unwrap();
    assert_eq!(refresh_token(&store, "b").await, "refresh-canary-b2");
}

async fn check_filled_tokens(store: &SqliteStore) {
    assert_eq!(refresh_token(store, "a").await, "refresh-canary-a2");
    assert_eq!(refresh_token(store, "b").await, "refresh-canary-b");
}
