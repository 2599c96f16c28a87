//! Keys are kept, and the audit trail shows what was done to it.

use super::*;
use crate::access::Keys;
use crate::access::{ApiKey, NewKey, Pattern, Rights, Scope};
use crate::audit::{Audit, AuditQuery, NewRecord};

fn record(nth: u64) -> NewRecord {
    NewRecord {
        at: at(i64::try_from(nth).unwrap()),
        actor: format!("key:{}", nth % 7),
        action: "POST /v1/connections/{name}/pause".to_owned(),
        target: nth.is_multiple_of(3).then(|| format!("c{nth}")),
        outcome: 200,
    }
}

const RECORDS: u64 = 10_000;

async fn filled() -> Place {
    let place = Place::new();
    let store = Arc::new(place.open().unwrap());
    for batch in (1..=RECORDS).collect::<Vec<_>>().chunks(500) {
        store.write_audit(batch.iter().map(|&nth| record(nth)).collect()).await.unwrap();
    }
    store.close().await.unwrap();
    place
}

/// What the chain says after this was done to the database.
async fn broken_after(place: &Place, sql: &str) -> Option<(u64, String)> {
    place.sql(sql);
    let store = Arc::new(place.open().unwrap());
    let verified = Audit::new(Arc::clone(&store)).verify().await.unwrap();
    store.close().await.unwrap();
    verified.broken
}

#[tokio::test]
async fn the_trail_is_read_back_and_whole() {
    let place = filled().await;
    let store = Arc::new(place.open().unwrap());
    let audit = Audit::new(Arc::clone(&store));
    let verified = audit.verify().await.unwrap();
    assert_eq!((verified.records, verified.broken), (RECORDS, None));
    let page = audit.read(AuditQuery { after: RECORDS - 3, limit: 9 }).await.unwrap();
    assert_eq!(
        page.iter().map(|read| read.record.clone()).collect::<Vec<_>>(),
        [RECORDS - 2, RECORDS - 1, RECORDS].map(record)
    );
    assert_eq!(verified.head.unwrap(), (RECORDS, page[2].tag));
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_empty_trail_is_whole() {
    let place = Place::new();
    let store = Arc::new(place.open().unwrap());
    let verified = Audit::new(Arc::clone(&store)).verify().await.unwrap();
    assert_eq!((verified.records, verified.head, verified.broken), (0, None, None));
}

#[tokio::test]
async fn an_edit_a_removal_a_swap_and_a_cut_among_ten_thousand_records_show() {
    for (sql, at) in [
        ("UPDATE audit SET record = replace(record, 'pause', 'token') WHERE id = 5000", 5_000),
        ("UPDATE audit SET record = replace(record, 'key:2', 'key:3') WHERE id = 9", 9),
        ("UPDATE audit SET tag = randomblob(32) WHERE id = 7000", 7_000),
        ("DELETE FROM audit WHERE id = 6000", 6_000),
        ("DELETE FROM audit WHERE id = 6000; UPDATE audit SET id = id - 1 WHERE id > 6000", 6_000),
        (
            "UPDATE audit SET id = 0 WHERE id = 100; UPDATE audit SET id = 100 WHERE id = 200; \
             UPDATE audit SET id = 200 WHERE id = 0",
            100,
        ),
        ("DELETE FROM audit WHERE id = 1", 1),
        ("DELETE FROM audit WHERE id > 9000", 9_001),
        ("DELETE FROM audit", 1),
        ("INSERT INTO audit SELECT id + 1, record, tag FROM audit WHERE id = 10000", 10_001),
        ("DELETE FROM audit WHERE id > 9000; DELETE FROM meta WHERE key = 'audit_head'", 9_001),
        ("UPDATE meta SET value = randomblob(72) WHERE key = 'audit_head'", 0),
    ] {
        let place = filled().await;
        let found = broken_after(&place, sql).await;
        assert_eq!(found.map(|(id, _)| id), Some(at), "{sql}");
    }
}

#[tokio::test]
async fn a_trail_whose_end_was_lost_goes_on_and_says_so_for_ever() {
    let place = filled().await;
    place.sql("DELETE FROM audit WHERE id > 9000; DELETE FROM meta WHERE key = 'audit_head'");
    let store = Arc::new(place.open().unwrap());
    store.write_audit(vec![record(1)]).await.unwrap();
    store.write_audit(vec![record(2)]).await.unwrap();
    let verified = Audit::new(Arc::clone(&store)).verify().await.unwrap();
    assert_eq!(verified.broken.map(|(id, _)| id), Some(9_001));
}

#[tokio::test]
async fn token_reads_are_counted() {
    let place = Place::new();
    let store = Arc::new(place.open().unwrap());
    let audit = Audit::new(Arc::clone(&store));
    for _ in 0..5 {
        audit.count("key:1", "token.read", Some(&key("jira")));
    }
    audit.count("uid:0", "token.read", Some(&key("jira")));
    audit.write_counts(at(9)).await.unwrap();
    audit.write_counts(at(10)).await.unwrap();
    let mut read: Vec<_> = audit.read(AuditQuery { after: 0, limit: 99 }).await.unwrap();
    read.sort_by_key(|read| read.record.actor.clone());
    let told: Vec<_> = read.iter().map(|read| (read.record.actor.as_str(), read.record.outcome)).collect();
    assert_eq!(told, [("key:1", 5), ("uid:0", 1)]);
    assert_eq!(read[0].record.target.as_deref(), Some("jira"));
}

#[tokio::test]
async fn a_key_is_found_by_its_text_alone_and_until_its_end() {
    let place = Place::new();
    let store = Arc::new(place.open().unwrap());
    let keys = Keys::open(Arc::clone(&store)).await.unwrap();
    let rights = Rights {
        scopes: [Scope::Token, Scope::Status].into(),
        namespaces: vec![Pattern::parse("team-*").unwrap()],
        names: vec![],
    };
    let new = NewKey {
        name: "bot".to_owned(),
        rights,
        connections_per_hour: 5,
        expires_at: Some(at(1_000)),
        created_by: "uid:0".to_owned(),
    };
    let (made, text) = keys.create(new, at(10)).await.unwrap();
    let found: Option<ApiKey> = keys.find(text.expose(), at(999)).map(|live| live.key.clone());
    assert_eq!(found, Some(made.clone()));
    assert!(keys.find(text.expose(), at(1_000)).is_none(), "it has ended");
    store.close().await.unwrap();
    let part = &text.expose().as_bytes()[3..23];
    assert!(!place.bytes().windows(20).any(|piece| piece == part), "its text is in the file");
    let store = Arc::new(place.open().unwrap());
    let keys = Keys::open(Arc::clone(&store)).await.unwrap();
    assert_eq!(keys.find(text.expose(), at(20)).unwrap().key, made);
    assert_eq!(keys.revoke(&made.id).await.unwrap(), Some(made.clone()));
    assert!(keys.find(text.expose(), at(20)).is_none());
    assert_eq!(keys.revoke(&made.id).await.unwrap(), None);
    store.close().await.unwrap();
    let store = Arc::new(place.open().unwrap());
    assert!(Keys::open(store).await.unwrap().all().is_empty());
}
