//! Damaged, foreign and newer files.

use super::*;
use crate::store::conformance::claim_as_seen;
use tokenkeep_core::FailureCode;
use tokenkeep_core::model::Status;

/// A closed store with one connection, checkpointed into one file.
async fn closed(place: &Place) {
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    store.close().await.unwrap();
}

/// Asserts that opening fails as damage, says which file, and changes nothing.
fn refused(place: &Place, says: &str) {
    let before = place.bytes();
    let error = place.open().unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, StoreError::Damaged(_)), "{message}");
    assert!(message.contains("tokenkeep.db") && message.contains("nothing was changed: "), "{message}");
    assert!(message.contains(says), "{message}");
    assert_eq!(place.bytes(), before, "{message}");
    assert!(!schema::beside(&place.path, "-wal").exists());
}

/// Takes away what later versions brought.
const SINCE_VERSION_4: &str = "DROP INDEX connection_of_provider; DROP TABLE api_key; DROP TABLE audit; \
    DROP TABLE webhook; DROP TABLE delivery; DROP TABLE warning; DROP TABLE account;";
const TO_VERSION_1: &str = "DROP TABLE provider_note;
    DELETE FROM meta WHERE key = 'fingerprint_key'; PRAGMA user_version = 1";

/// A database as the first version wrote it: it did not store the key of its fingerprints.
#[tokio::test]
async fn what_version_1_wrote_is_taken_over_with_its_fingerprints() {
    let place = Place::new();
    closed(&place).await;
    place.sql(&format!("{SINCE_VERSION_4} {TO_VERSION_1}"));
    let store = place.open().unwrap();
    assert_eq!(refresh_token(&store, "a").await, "refresh-canary-a");
    let again = store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    assert!(matches!(again[0], Granted::AlreadyHeld(_)));
    store.close().await.unwrap();
    let version: i64 = place.database().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, schema::known_version());
    place.sql("DELETE FROM meta WHERE key = 'fingerprint_key'");
    refused(&place, "the key of its fingerprints is missing");
}

#[tokio::test]
async fn what_version_3_wrote_is_told_of_and_known_by_its_account() {
    let place = Place::new();
    let store = place.open().unwrap();
    let mut grant = new_grant("a");
    grant.origin.account = Some("anna".to_owned());
    grant.times.consent_end = Some(Deadline { at: at(DAY_MS), told_until: at(-1) });
    store.grant(at(0), vec![grant, new_grant("b")]).await.unwrap();
    store.close().await.unwrap();
    place.sql(&format!("{SINCE_VERSION_4} PRAGMA user_version = 3"));
    let store = place.open().unwrap();
    assert_eq!(store.of_account("p", "anna").await.unwrap(), [key("a")]);
    let warned = store.warn_due(at(0)).await.unwrap();
    assert_eq!(warned.events.iter().map(|told| told.event.connection.clone()).collect::<Vec<_>>(), [Some(key("a"))]);
    assert!(store.warn_due(at(DAY_MS / 2)).await.unwrap().events.is_empty(), "once");
}

/// What counted before counts were kept by provider too.
const COUNTS_BY_NAMESPACE: &str = "DROP TABLE tally; DROP INDEX schedule_trouble; DROP INDEX schedule_late;
    CREATE TABLE tally (namespace INTEGER NOT NULL, grade INTEGER NOT NULL, connections INTEGER NOT NULL,
        PRIMARY KEY (namespace, grade)) STRICT, WITHOUT ROWID;
    INSERT INTO tally SELECT namespace, grade, count(*) FROM schedule GROUP BY namespace, grade;
    CREATE INDEX schedule_trouble ON schedule (namespace, grade, deadline) WHERE grade < 5;
    CREATE INDEX schedule_late ON schedule (namespace, deadline)
        WHERE grade = 5 AND (claim_at IS NULL OR claim_at > deadline);";

#[tokio::test]
async fn what_was_counted_by_namespace_alone_is_counted_by_provider() {
    let place = Place::new();
    let store = place.open().unwrap();
    let other = NewGrant { provider: "q".to_owned(), ..new_grant("c") };
    store.grant(at(0), vec![new_grant("a"), new_grant("b"), other]).await.unwrap();
    store.flag(at(0), &key("b"), Flag::Pause).await.unwrap();
    let before = store.summary_by_provider(at(0)).await.unwrap();
    assert_eq!(before["p"].by_status, [(Status::Paused, 1), (Status::Fresh, 1)].into());
    store.close().await.unwrap();
    place.sql(&format!("{COUNTS_BY_NAMESPACE} DROP TABLE webhook; DROP TABLE delivery; PRAGMA user_version = 5"));
    let store = place.open().unwrap();
    assert_eq!(store.summary_by_provider(at(0)).await.unwrap(), before);
    store.remove(at(1), &key("c")).await.unwrap();
    assert!(!store.summary_by_provider(at(1)).await.unwrap().contains_key("q"));
}

const DAY_MS: i64 = 86_400_000;

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let place = Place::new();
    closed(&place).await;
    place.sql("PRAGMA user_version = 99");
    let before = place.bytes();
    let error = place.open().unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, known: 7 }), "{error}");
    assert_eq!(place.bytes(), before);
    assert!(!schema::beside(&place.path, "-wal").exists());
}

#[tokio::test]
async fn a_newer_schema_in_the_log_is_refused_and_left_alone() {
    let place = Place::new();
    closed(&place).await;
    let newer = place.database();
    newer.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA user_version = 99").unwrap();
    let crashed = Place::new();
    for suffix in ["", "-wal"] {
        std::fs::copy(schema::beside(&place.path, suffix), schema::beside(&crashed.path, suffix)).unwrap();
    }
    let log = || std::fs::read(schema::beside(&crashed.path, "-wal")).unwrap();
    let before = (crashed.bytes(), log());
    assert!(matches!(crashed.open().unwrap_err(), StoreError::Newer { found: 99, known: 7 }));
    assert_eq!((crashed.bytes(), log()), before);
}

#[tokio::test]
async fn a_file_cut_off_anywhere_is_refused() {
    let place = Place::new();
    closed(&place).await;
    let whole = place.bytes();
    for length in [0, 1, 99, 100, 512, 4_095, 4_096, 4_097, whole.len() / 2, whole.len() - 4_096, whole.len() - 1] {
        std::fs::write(&place.path, &whole[..length]).unwrap();
        refused(&place, "");
    }
    std::fs::write(&place.path, &whole).unwrap();
    assert!(place.open().is_ok());
}

#[tokio::test]
async fn files_of_others_are_refused() {
    let place = Place::new();
    std::fs::write(&place.path, "token,value\n".repeat(1_000)).unwrap();
    refused(&place, "no database");
    std::fs::remove_file(&place.path).unwrap();
    place.sql("CREATE TABLE theirs (x)");
    refused(&place, "another program");
}

#[tokio::test]
async fn a_log_without_its_database_is_not_overwritten() {
    let place = Place::new();
    std::fs::write(schema::beside(&place.path, "-wal"), "what was not yet copied").unwrap();
    let error = place.open().unwrap_err().to_string();
    assert!(error.contains("without its database"), "{error}");
    assert!(!place.path.exists());
}

#[tokio::test]
async fn another_master_key_is_refused() {
    let place = Place::new();
    closed(&place).await;
    let before = place.bytes();
    let error = SqliteStore::open(&place.path, Arc::new(Sealer::new(&[8; 32]))).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)));
    assert!(error.to_string().contains("another master key; nothing was changed: put the master key back"), "{error}");
    assert_eq!(place.bytes(), before);
    assert_eq!(refresh_token(&place.open().unwrap(), "a").await, "refresh-canary-a");
}

/// Every byte of a small database is flipped in turn: what is then read is right, or it is refused.
#[tokio::test]
async fn no_flipped_byte_makes_a_wrong_token() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("a"), new_grant("b")]).await.unwrap();
    let expected = store.get(&key("a")).await.unwrap().unwrap();
    store.close().await.unwrap();
    let whole = place.bytes();
    let (mut refused, mut right, mut missing) = (0, 0, 0);
    for position in flips(&whole) {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x21;
        std::fs::write(&place.path, &damaged).unwrap();
        let Ok(store) = place.open() else {
            refused += 1;
            continue;
        };
        match store.tokens(&key("a")).await {
            Err(StoreError::Damaged(_)) => refused += 1,
            Err(other) => panic!("byte {position}: {other}"),
            Ok(None) => missing += 1,
            Ok(Some(work)) => {
                right += 1;
                assert_eq!(work.connection, expected, "byte {position}");
                let tokens = work.tokens.unwrap();
                assert_eq!(tokens.access_token.expose(), "access-canary-a", "byte {position}");
                assert_eq!(tokens.refresh_token.unwrap().expose(), "refresh-canary-a", "byte {position}");
            }
        }
        store.close().await.unwrap();
    }
    assert!(refused > 50 && right > 50, "{refused} refused, {right} right, {missing} missing");
}

/// Every third byte that is not zero, and a few that are.
fn flips(whole: &[u8]) -> impl Iterator<Item = usize> {
    let used = (0..whole.len()).filter(|at| whole[*at] != 0).step_by(3);
    used.chain((0..whole.len()).step_by(1_009)).collect::<Vec<_>>().into_iter()
}

#[tokio::test]
async fn a_row_changed_behind_our_back_is_named() {
    for sql in [
        "UPDATE schedule SET attempt = 7 WHERE id = 1",
        "UPDATE schedule SET paused = 1 WHERE id = 1",
        "UPDATE connection SET provider = 'q' WHERE id = 1",
        "UPDATE token_set SET record = replace(record, 'scopes', 'scopeS') WHERE id = 1",
        "UPDATE token_set SET used = x'00' WHERE id = 1",
        "UPDATE token_set SET access = (SELECT access FROM token_set WHERE id = 2) WHERE id = 1",
        "UPDATE token_set SET access = refresh, refresh = access WHERE id = 1",
    ] {
        let place = Place::new();
        let store = place.open().unwrap();
        store.grant(at(0), vec![new_grant("a"), new_grant("b")]).await.unwrap();
        place.sql(sql);
        let error = store.tokens(&key("a")).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_)), "{sql}: {error}");
        let message = error.to_string();
        assert!(message.contains("tokenkeep.db: connection number 1"), "{sql}: {message}");
        // The others go on, and the damaged one is taken out of the schedule and reported once.
        let work = store.claim_due(at(2_000), HOLDER, &[quota(9)]).await.unwrap().work;
        assert_eq!(work.len(), 1, "{sql}");
        let claimed = store.claim_due(at(2_000), HOLDER, &[quota(9)]).await.unwrap();
        assert!(claimed.work.is_empty() && claimed.next_due["p"] == Timestamp::NEVER, "{sql}");
        let events = store.events(&all_events()).await.unwrap();
        let reports: Vec<_> = events.iter().filter(|event| event.event.kind == EventKind::StorageDegraded).collect();
        assert_eq!(reports.len(), 1, "{sql}");
        assert!(reports[0].event.message.contains("connection number 1"));
        // And it can be removed and brought anew.
        store.remove(at(2_000), &key("a")).await.unwrap().unwrap();
        store.grant(at(2_000), vec![new_grant("a")]).await.unwrap();
        assert_eq!(refresh_token(&store, "a").await, "refresh-canary-a");
        let counts = store.summary(at(2_000), None).await.unwrap().by_status;
        assert_eq!(counts, BTreeMap::from([(Status::Refreshing, 1), (Status::Fresh, 1)]), "{sql}");
    }
}

#[tokio::test]
async fn a_claim_by_name_of_damaged_secrets_is_given_back() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    place.sql("UPDATE token_set SET refresh = zeroblob(60)");
    let error = claim_as_seen(&store, at(1), HOLDER, &key("a")).await.unwrap_err();
    assert!(error.to_string().contains("refresh token"), "{error}");
    let connection = store.get(&key("a")).await.unwrap().unwrap();
    assert!(matches!(connection.state, State::Ready { .. }), "{connection:?}");
    assert!(store.open_claims(ConnectionId(0), 9).await.unwrap().is_empty());
    assert!(store.claim_due(at(5_000), HOLDER, &[quota(9)]).await.unwrap().work.is_empty());
}

#[tokio::test]
async fn a_wrong_column_that_follows_from_others_is_written_anew() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("a")]).await.unwrap();
    place.sql("UPDATE schedule SET claim_at = 1");
    assert!(store.claim_due(at(500), HOLDER, &[quota(9)]).await.unwrap().work.is_empty(), "it is not due");
    let claimed = store.claim_due(at(500), HOLDER, &[quota(9)]).await.unwrap();
    assert_eq!(claimed.next_due["p"], at(1_000));
}

#[tokio::test]
async fn a_job_that_fails_spoils_nothing_for_its_neighbours() {
    let place = Place::new();
    let store = place.open().unwrap();
    let names: Vec<_> = (0..50).map(|number| format!("c{number:02}")).collect();
    store.grant(at(0), names.iter().map(|name| new_grant(name)).collect()).await.unwrap();
    place.sql("UPDATE schedule SET attempt = 7 WHERE id IN (20, 40)");
    let calls = names.iter().map(|name| store.flag(at(1), name_key(name), Flag::Pause));
    let outcomes = futures_util::future::join_all(calls).await;
    for (number, outcome) in (1..).zip(outcomes) {
        match outcome {
            Err(StoreError::Damaged(what)) => assert!([20, 40].contains(&number), "{number}: {what}"),
            other => assert!(other.unwrap().unwrap().0.paused, "{number}"),
        }
    }
    let paused = store.summary(at(0), None).await.unwrap().by_status;
    assert_eq!(paused, BTreeMap::from([(Status::Paused, 48), (Status::Fresh, 2)]));
    assert_eq!(store.events(&all_events()).await.unwrap().len(), 98);
}

/// A key that lives as long as the test.
fn name_key(name: &str) -> &'static ConnectionKey {
    Box::leak(Box::new(key(name)))
}

#[tokio::test]
async fn a_check_reads_every_page_and_changes_nothing() {
    let place = Place::new();
    assert!(SqliteStore::check(&place.path, &sealer()).is_err(), "there is none");
    assert!(!place.path.exists());
    closed(&place).await;
    let whole = place.bytes();
    SqliteStore::check(&place.path, &sealer()).unwrap();
    assert!(SqliteStore::check(&place.path, &Sealer::new(&[8; 32])).is_err(), "another master key");
    assert_eq!(place.bytes(), whole);
    for suffix in ["-wal", "-shm"] {
        assert!(!schema::beside(&place.path, suffix).exists(), "{suffix} is left behind");
    }
    // The first page is what opening reads; the damage is behind it.
    let mut damaged = whole;
    damaged[8_192..12_288].fill(0x55);
    std::fs::write(&place.path, &damaged).unwrap();
    let error = SqliteStore::check(&place.path, &sealer()).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert_eq!(place.bytes(), damaged);
}

fn provider_hold() -> Hold {
    Hold { cause: FailureCode::ProviderHeld, probe_at: Some(at(9_000)) }
}

#[tokio::test]
async fn what_is_known_of_a_provider_is_forgotten_where_it_is_damaged() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("jira")]).await.unwrap();
    store.hold_provider("p", Some(provider_hold())).await.unwrap();
    assert_eq!(store.get(&key("jira")).await.unwrap().unwrap().hold, Some(provider_hold()));
    place.sql("UPDATE provider_note SET probe_at = probe_at + 1");
    assert_eq!(store.get(&key("jira")).await.unwrap().unwrap().hold, None, "it will be found out again");
    let fresh = store.summary(at(0), None).await.unwrap().by_status;
    assert_eq!(fresh, BTreeMap::from([(Status::Fresh, 1)]));
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.grant(at(0), vec![new_grant("jira")]).await.unwrap();
    let before = store.get(&key("jira")).await.unwrap();
    store.close().await.unwrap();
    place.sql(&format!("{SINCE_VERSION_4} {TO_VERSION_1}"));
    let store = place.open().unwrap();
    assert_eq!(store.get(&key("jira")).await.unwrap(), before);
    store.hold_provider("p", Some(provider_hold())).await.unwrap();
    store.shift_times(500).await.unwrap();
    let moved = Hold { probe_at: Some(at(9_500)), ..provider_hold() };
    assert_eq!(store.providers().await.unwrap()["p"], Some(moved), "its time moves with the others");
}
