//! The history: written in the writer's transactions, read by the readers, and kept at a bounded length.

use crate::store::{Event, EventKind, EventQuery, NewEvent, PAGE_MAX, StoreError};
use rusqlite::{Connection as Database, Row, params, params_from_iter};
use tokenkeep_core::{ConnectionKey, FailureCode, Timestamp};

/// How many rows beyond the limit are let pile up before the oldest are removed together.
const PRUNE_EVERY: i64 = 1_000;

/// Which numbers the stored events have.
#[derive(Clone, Copy)]
pub struct Numbers {
    oldest: i64,
    highest: i64,
}

impl Numbers {
    /// Reads them.
    ///
    /// # Errors
    /// SQLite's.
    pub fn load(database: &Database) -> rusqlite::Result<Self> {
        let end = |sql: &str| database.query_row(sql, [], |row| row.get(0));
        let highest: Option<i64> = end("SELECT max(id) FROM event")?;
        let oldest: Option<i64> = end("SELECT min(id) FROM event")?;
        Ok(Self { oldest: oldest.unwrap_or(1), highest: highest.unwrap_or(0) })
    }

    /// Writes one event under the next number.
    ///
    /// # Errors
    /// SQLite's.
    pub fn write(&mut self, database: &Database, event: NewEvent) -> rusqlite::Result<Event> {
        let id = self.highest + 1;
        let key = event.connection.as_ref();
        database
            .prepare_cached(
                "INSERT INTO event (id, at, kind, subject, namespace, name, code, message, data) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                id,
                event.at.as_millis(),
                event.kind.as_str(),
                key.map(subject),
                key.map(ConnectionKey::namespace),
                key.map(ConnectionKey::name),
                event.code.map(FailureCode::as_str),
                event.message,
                event.data
            ])?;
        self.highest = id;
        Ok(Event { id: id.cast_unsigned(), event })
    }

    /// Removes the oldest beyond `keep`, many at once and seldom.
    ///
    /// # Errors
    /// SQLite's.
    pub fn prune(&mut self, database: &Database, keep: u64) -> rusqlite::Result<()> {
        let keep = i64::try_from(keep).unwrap_or(i64::MAX);
        let last_removed = self.highest.saturating_sub(keep);
        if last_removed - self.oldest >= PRUNE_EVERY {
            database.prepare_cached("DELETE FROM event WHERE id <= ?1")?.execute([last_removed])?;
            self.oldest = last_removed + 1;
        }
        Ok(())
    }
}

/// A number by which a connection's events are found; two names may share one (FNV-1a).
fn subject(key: &ConnectionKey) -> i64 {
    let bytes = key.namespace().bytes().chain([0]).chain(key.name().bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash.cast_signed()
}

/// [`crate::store::Store::events`].
///
/// # Errors
/// [`StoreError::Damaged`] for a row that is none of ours; SQLite's.
pub fn read(database: &Database, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
    let mut sql = String::from("SELECT id, at, kind, namespace, name, code, message, data FROM event WHERE id > ?1");
    let mut values = vec![i64::try_from(query.after).unwrap_or(i64::MAX)];
    if let Some(since) = query.since {
        sql.push_str(" AND at >= ?2");
        values.push(since.as_millis());
    }
    if let Some(key) = &query.connection {
        sql.push_str(if query.since.is_some() { " AND subject = ?3" } else { " AND subject = ?2" });
        values.push(subject(key));
    }
    sql.push_str(" ORDER BY id");
    let mut statement = database.prepare_cached(&sql).map_err(|cause| super::fault(&cause))?;
    let mut rows = statement.query(params_from_iter(values)).map_err(|cause| super::fault(&cause))?;
    let mut found = Vec::new();
    while found.len() < query.limit.min(PAGE_MAX)
        && let Some(row) = rows.next().map_err(|cause| super::fault(&cause))?
    {
        let event = event(row)?;
        if query.connection.is_none() || event.event.connection == query.connection {
            found.push(event);
        }
    }
    Ok(found)
}

fn event(row: &Row<'_>) -> Result<Event, StoreError> {
    let id: i64 = row.get(0).map_err(|cause| super::fault(&cause))?;
    let damaged = |what: String| StoreError::Damaged(format!("event number {id}: {what}"));
    let texts = || -> rusqlite::Result<_> {
        let key: (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
        let (kind, code): (String, Option<String>) = (row.get(2)?, row.get(5)?);
        Ok((row.get(1)?, kind, key, code, row.get(6)?, row.get(7)?))
    };
    let (at, kind, key, code, message, data) = texts().map_err(|cause| damaged(cause.to_string()))?;
    let connection = match key {
        (Some(namespace), Some(name)) => {
            Some(ConnectionKey::new(namespace, name).map_err(|cause| damaged(cause.to_string()))?)
        }
        _ => None,
    };
    let code = code.map(|code| FailureCode::parse(&code).ok_or_else(|| damaged(format!("`{code}` is no code"))));
    Ok(Event {
        id: id.cast_unsigned(),
        event: NewEvent {
            kind: EventKind::parse(&kind).ok_or_else(|| damaged(format!("`{kind}` is no kind")))?,
            at: Timestamp::from_millis(at),
            connection,
            code: code.transpose()?,
            message,
            data,
        },
    })
}
