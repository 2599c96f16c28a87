//! API keys, and the audit trail.

use super::ops::{Batch, meta, set_meta};
use super::{SqliteStore, fault};
use crate::access::StoredKey;
use crate::audit::{AuditQuery, Chain, NewRecord, PAGE_MAX, RECORDS_MAX, Record, Tag, Verified, tag_of, tag_of_end};
use crate::seal::Sealer;
use crate::store::StoreError;
use crate::store::record::{self, damage_of};
use rusqlite::{Connection as Database, params};
use std::sync::Arc;

/// `meta`: number and tag of the newest record of the trail, and the tag of that.
const AUDIT_HEAD: &str = "audit_head";
/// `meta`: the same of the newest record that is not kept any more.
const AUDIT_BASE: &str = "audit_base";
/// What a record says that stands where the noted end of the trail was lost.
const HEAD_LOST: &str = "audit.head_lost";
/// How many records go at once when there are too many.
const PRUNED_AT_ONCE: u64 = 1_000;
/// Bytes of a key or a record, roughly.
const BYTES: usize = 512;

impl SqliteStore {
    /// Every API key.
    pub(crate) async fn api_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        self.read_much(|database, _| {
            let mut statement =
                database.prepare("SELECT id, hash, record FROM api_key ORDER BY id").map_err(|cause| fault(&cause))?;
            let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let rows = statement.query_map([], read).map_err(|cause| fault(&cause))?;
            let read = |row: rusqlite::Result<(String, [u8; 32], String)>| {
                let (id, hash, text) = row.map_err(|cause| fault(&cause))?;
                Ok(StoredKey { hash, key: record::api_key(id, &text)? })
            };
            rows.map(read).collect()
        })
        .await
    }

    /// Keeps a key.
    pub(crate) async fn put_api_key(&self, stored: StoredKey) -> Result<(), StoreError> {
        self.write(BYTES, move |batch| {
            let text = record::api_key_text(&stored.key);
            let sql = "INSERT INTO api_key (id, hash, record) VALUES (?1, ?2, ?3)";
            let put = batch
                .database
                .prepare_cached(sql)
                .and_then(|mut s| s.execute(params![stored.key.id, stored.hash, text]));
            put.map(drop).map_err(|cause| fault(&cause))
        })
        .await
    }

    /// Forgets a key.
    pub(crate) async fn remove_api_key(&self, id: String) -> Result<(), StoreError> {
        self.write(BYTES, move |batch| {
            let removed =
                batch.database.prepare_cached("DELETE FROM api_key WHERE id = ?1").and_then(|mut s| s.execute([&id]));
            removed.map(drop).map_err(|cause| fault(&cause))
        })
        .await
    }

    /// Adds records to the trail.
    pub(crate) async fn write_audit(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        let sealer = Arc::clone(&self.shared.sealer);
        self.write(records.len() * BYTES, move |batch| batch.write_audit(&sealer, &records)).await
    }

    /// Reads records of the trail.
    pub(crate) async fn audit(&self, query: AuditQuery) -> Result<Vec<Record>, StoreError> {
        self.read_much(move |database, _| read(database, query)).await
    }

    /// Looks at the whole trail.
    pub(crate) async fn verify_audit(&self) -> Result<Verified, StoreError> {
        let sealer = Arc::clone(&self.shared.sealer);
        self.read_much(move |database, _| verify(database, &sealer)).await
    }
}

impl Batch<'_> {
    fn write_audit(&mut self, sealer: &Sealer, records: &[NewRecord]) -> Result<(), StoreError> {
        let base = end(self.database, sealer, AUDIT_BASE)?.unwrap_or_default();
        let mut at = match end(self.database, sealer, AUDIT_HEAD)? {
            Some(head) => head,
            None => self.after_a_lost_head(sealer, base, records)?,
        };
        for record in records {
            at = insert(self.database, sealer, at, record)?;
        }
        note_end(self.database, sealer, AUDIT_HEAD, at)?;
        prune(self.database, sealer, base, at.0)
    }

    /// Where the trail goes on when nothing says where it ended: at its beginning, or behind what is there, with a record
    /// that says so.
    fn after_a_lost_head(
        &self,
        sealer: &Sealer,
        base: (u64, Tag),
        records: &[NewRecord],
    ) -> Result<(u64, Tag), StoreError> {
        let sql = "SELECT id, tag FROM audit ORDER BY id DESC LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?));
        let newest = self
            .database
            .prepare_cached(sql)
            .and_then(|mut statement| rusqlite::OptionalExtension::optional(statement.query_row([], read)));
        let Some(newest) = newest.map_err(|cause| fault(&cause))? else { return Ok(base) };
        tracing::error!(record = newest.0, "the noted end of the audit trail is lost");
        let at = records.first().map_or(tokenkeep_core::Timestamp::EPOCH, |record| record.at);
        let (actor, action) = ("system".to_owned(), HEAD_LOST.to_owned());
        insert(self.database, sealer, newest, &NewRecord { at, actor, action, target: None, outcome: 0 })
    }
}

fn insert(database: &Database, sealer: &Sealer, at: (u64, Tag), new: &NewRecord) -> Result<(u64, Tag), StoreError> {
    let (id, text) = (at.0 + 1, record::audit_text(new));
    let tag = tag_of(sealer, &at.1, id, &text);
    let sql = "INSERT INTO audit (id, record, tag) VALUES (?1, ?2, ?3)";
    let inserted =
        database.prepare_cached(sql).and_then(|mut statement| statement.execute(params![id.cast_signed(), text, tag]));
    inserted.map(|_| (id, tag)).map_err(|cause| fault(&cause))
}

/// A noted end of the chain; `None` where none is noted, or not by us.
fn end(database: &Database, sealer: &Sealer, which: &str) -> Result<Option<(u64, Tag)>, StoreError> {
    let Some(noted) = meta::<Vec<u8>>(database, which)? else { return Ok(None) };
    let (Some(id), Some(tag), Some(end_tag)) = (noted.first_chunk(), noted.get(8..40), noted.get(40..)) else {
        return Ok(None);
    };
    let id = u64::from_be_bytes(*id);
    let tag: Tag = tag.try_into().unwrap_or_default();
    Ok((tag_of_end(sealer, which, id, &tag) == *end_tag).then_some((id, tag)))
}

fn note_end(database: &Database, sealer: &Sealer, which: &str, (id, tag): (u64, Tag)) -> Result<(), StoreError> {
    let noted = [&id.to_be_bytes()[..], &tag, &tag_of_end(sealer, which, id, &tag)].concat();
    set_meta(database, which, noted)
}

fn prune(database: &Database, sealer: &Sealer, base: (u64, Tag), head: u64) -> Result<(), StoreError> {
    if head - base.0 < RECORDS_MAX + PRUNED_AT_ONCE {
        return Ok(());
    }
    let last = head - RECORDS_MAX;
    let tag = database
        .query_row("SELECT tag FROM audit WHERE id = ?1", [last.cast_signed()], |row| row.get(0))
        .map_err(|cause| fault(&cause))?;
    note_end(database, sealer, AUDIT_BASE, (last, tag))?;
    let removed = database.execute("DELETE FROM audit WHERE id <= ?1", [last.cast_signed()]);
    removed.map(drop).map_err(|cause| fault(&cause))
}

const AFTER: &str = "SELECT id, record, tag FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2";

fn read(database: &Database, query: AuditQuery) -> Result<Vec<Record>, StoreError> {
    let limit = i64::try_from(query.limit.min(PAGE_MAX)).unwrap_or(i64::MAX);
    let mut statement = database.prepare_cached(AFTER).map_err(|cause| fault(&cause))?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get(2)?));
    let rows = statement.query_map([query.after.cast_signed(), limit], read).map_err(|cause| fault(&cause))?;
    let read = |row: rusqlite::Result<(i64, String, Tag)>| {
        let (id, text, tag) = row.map_err(|cause| fault(&cause))?;
        let record =
            record::audit(&text).map_err(|what| damage_of(format_args!("record {id} of the audit trail: {what}")))?;
        Ok(Record { id: id.cast_unsigned(), record, tag })
    };
    rows.map(read).collect()
}

fn verify(database: &Database, sealer: &Sealer) -> Result<Verified, StoreError> {
    let base = end(database, sealer, AUDIT_BASE)?.unwrap_or_default();
    let mut chain = Chain::behind(sealer, base);
    let mut statement = database.prepare_cached(AFTER).map_err(|cause| fault(&cause))?;
    let mut rows = statement.query([base.0.cast_signed(), i64::MAX]).map_err(|cause| fault(&cause))?;
    while let Some(row) = rows.next().map_err(|cause| fault(&cause))? {
        let read = || Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, Vec<u8>>(2)?));
        let (id, text, tag) = read().map_err(|cause: rusqlite::Error| fault(&cause))?;
        if let Err(broken) = chain.next(id.cast_unsigned(), &text, &tag) {
            return Ok(chain.broken(broken));
        }
        if record::audit(&text).is_ok_and(|record| record.action == HEAD_LOST) {
            return Ok(
                chain.broken((id.cast_unsigned(), "what said where the trail ended was lost before it".to_owned()))
            );
        }
    }
    match end(database, sealer, AUDIT_HEAD)? {
        Some(head) => Ok(chain.end(head)),
        // Nothing was written yet.
        None if meta::<Vec<u8>>(database, AUDIT_HEAD)?.is_none() => Ok(chain.end(base)),
        None => Ok(chain.broken((0, "what says where the trail ends is not as it was written".to_owned()))),
    }
}
