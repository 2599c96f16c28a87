//! The history: written in the writer's transactions, read by the readers, and kept at a bounded length.

use super::{fault, rows};
use crate::store::{Event, EventKind, EventQuery, NewEvent, PAGE_MAX, StoreError};
use crate::webhooks::model::Settings;
use rusqlite::{Connection as Database, OptionalExtension as _, Row, params};
use std::collections::VecDeque;
use tokenkeep_core::{ConnectionKey, FailureCode, Timestamp};

/// How many rows beyond the limit are let pile up before the oldest are removed together.
const PRUNE_EVERY: i64 = 1_000;

/// The columns that [`event`] reads.
macro_rules! columns {
    () => {
        "SELECT id, at, kind, namespace, name, code, message, data FROM event WHERE "
    };
}

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

    /// Writes one event under the next number, and makes it the last one of its connection, whose number the
    /// caller may know.
    ///
    /// # Errors
    /// SQLite's.
    pub fn write(&mut self, database: &Database, event: NewEvent, whose: Option<i64>) -> rusqlite::Result<Event> {
        let id = self.highest + 1;
        let key = event.connection.as_ref();
        let previous = key.map(|key| replace_last(database, key, whose, id)).transpose()?;
        database
            .prepare_cached(
                "INSERT INTO event (id, at, kind, previous, namespace, name, code, message, data) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                id,
                event.at.as_millis(),
                event.kind.as_str(),
                previous,
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
            database.prepare_cached("DELETE FROM former WHERE last_event <= ?1")?.execute([last_removed])?;
            self.oldest = last_removed + 1;
        }
        Ok(())
    }
}

const LAST_OF_CONNECTION: &str = "SELECT last_event FROM schedule WHERE id = ?1";
const LAST_OF_FORMER: &str = "SELECT last_event FROM former WHERE namespace = ?1 AND name = ?2";

/// Puts `next` at the newest end of a connection's chain of events; says which one was there, 0 for none.
fn replace_last(database: &Database, key: &ConnectionKey, whose: Option<i64>, next: i64) -> rusqlite::Result<i64> {
    let whose = whose.map_or_else(|| rows::find(database, key), |id| Ok(Some(id)))?;
    if let Some(id) = whose {
        let last = database.prepare_cached(LAST_OF_CONNECTION)?.query_row([id], |row| row.get(0))?;
        database.prepare_cached("UPDATE schedule SET last_event = ?2 WHERE id = ?1")?.execute([id, next])?;
        return Ok(last);
    }
    let last = last_of_former(database, key)?;
    keep_former(database, key, next)?;
    Ok(last)
}

fn last_of_former(database: &Database, key: &ConnectionKey) -> rusqlite::Result<i64> {
    let mut statement = database.prepare_cached(LAST_OF_FORMER)?;
    let last = statement.query_row([key.namespace(), key.name()], |row| row.get(0)).optional()?;
    Ok(last.unwrap_or(0))
}

fn keep_former(database: &Database, key: &ConnectionKey, last: i64) -> rusqlite::Result<()> {
    database
        .prepare_cached(
            "INSERT INTO former (namespace, name, last_event) VALUES (?1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET last_event = ?3",
        )?
        .execute(params![key.namespace(), key.name(), last])?;
    Ok(())
}

/// To be called before a connection is removed: its history stays under its name.
///
/// # Errors
/// SQLite's.
pub fn detach(database: &Database, key: &ConnectionKey, id: i64) -> rusqlite::Result<()> {
    let last: Option<i64> =
        database.prepare_cached(LAST_OF_CONNECTION)?.query_row([id], |row| row.get(0)).optional()?;
    keep_former(database, key, last.unwrap_or(0))
}

/// To be called after a connection was made: it takes over the history of its name.
///
/// # Errors
/// SQLite's.
pub fn attach(database: &Database, key: &ConnectionKey, id: i64) -> rusqlite::Result<()> {
    let mut taken =
        database.prepare_cached("DELETE FROM former WHERE namespace = ?1 AND name = ?2 RETURNING last_event")?;
    let mut rows = taken.query([key.namespace(), key.name()])?;
    let Some(last) = rows.next()?.map(|row| row.get::<_, i64>(0)).transpose()? else { return Ok(()) };
    drop(rows);
    database.prepare_cached("UPDATE schedule SET last_event = ?2 WHERE id = ?1")?.execute([id, last])?;
    Ok(())
}

/// [`crate::store::Store::events`].
///
/// # Errors
/// [`StoreError::Damaged`] for a row that is none of ours; SQLite's.
pub fn read(database: &Database, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
    match &query.connection {
        Some(key) => {
            let numbers = chain(database, query, key).map_err(|cause| fault(&cause))?;
            numbers.into_iter().map(|id| one(database, id)).collect()
        }
        None => page(database, query),
    }
}

/// The numbers of the oldest and the newest event; 0 where there is none.
///
/// # Errors
/// SQLite's.
pub fn bounds(database: &Database) -> Result<(u64, u64), StoreError> {
    let end = |sql: &str| -> rusqlite::Result<u64> {
        let id: Option<i64> = database.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(id.unwrap_or(0).cast_unsigned())
    };
    let bounds = || Ok((end("SELECT min(id) FROM event")?, end("SELECT max(id) FROM event")?));
    bounds().map_err(|cause: rusqlite::Error| fault(&cause))
}

/// The first event behind `after` that a webhook gets, with its number; without the event itself where that is damaged.
///
/// # Errors
/// SQLite's.
pub fn first(database: &Database, after: u64, wanted: &Settings) -> Result<Option<(u64, Option<Event>)>, StoreError> {
    let kinds = wanted.types.kinds().map(|kinds| {
        let names: Vec<&str> = kinds.into_iter().map(EventKind::as_str).collect();
        format!(" {} ", names.join(" "))
    });
    let sql = "SELECT id FROM event WHERE id > ?1 AND (?2 IS NULL OR instr(?2, ' ' || kind || ' ') > 0) \
               AND (?3 IS NULL OR namespace = ?3) ORDER BY id LIMIT 1";
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let found = database.prepare_cached(sql).and_then(|mut statement| {
        statement.query_row(params![after, kinds, wanted.namespace], |row| row.get(0)).optional()
    });
    let Some(id) = found.map_err(|cause| fault(&cause))? else { return Ok(None) };
    let event = match one(database, id) {
        Ok(event) => Some(event),
        Err(StoreError::Damaged(what)) => {
            tracing::error!(error = %what, "an event cannot be read");
            None
        }
        Err(other) => return Err(other),
    };
    Ok(Some((id.cast_unsigned(), event)))
}

fn page(database: &Database, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
    let sql = match query.newest {
        false => concat!(columns!(), "id > ?1 AND at >= ?2 ORDER BY id LIMIT ?3"),
        true => concat!(columns!(), "id > ?1 AND at >= ?2 ORDER BY id DESC LIMIT ?3"),
    };
    let after = i64::try_from(query.after).unwrap_or(i64::MAX);
    let since = query.since.map_or(i64::MIN, Timestamp::as_millis);
    let limit = i64::try_from(query.limit.min(PAGE_MAX)).unwrap_or(i64::MAX);
    let mut statement = database.prepare_cached(sql).map_err(|cause| fault(&cause))?;
    let mut rows = statement.query([after, since, limit]).map_err(|cause| fault(&cause))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(|cause| fault(&cause))? {
        found.push(event(row)?);
    }
    if query.newest {
        found.reverse();
    }
    Ok(found)
}

/// The numbers of a connection's events, from the oldest that is asked for: its chain is walked from the
/// newest, and only as many as are asked for are kept.
fn chain(database: &Database, query: &EventQuery, key: &ConnectionKey) -> rusqlite::Result<VecDeque<i64>> {
    let limit = query.limit.min(PAGE_MAX);
    let mut numbers = VecDeque::with_capacity(limit + 1);
    let mut next = match rows::find(database, key)? {
        Some(id) => database.prepare_cached(LAST_OF_CONNECTION)?.query_row([id], |row| row.get(0))?,
        None => last_of_former(database, key)?,
    };
    let mut step = database.prepare_cached("SELECT previous, at FROM event WHERE id = ?1")?;
    while next > i64::try_from(query.after).unwrap_or(i64::MAX) {
        let found = step.query_row([next], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, i64>(1)?)));
        // What is missing was removed with the oldest.
        let Some((previous, at)) = found.optional()? else { break };
        if query.since.is_none_or(|since| at >= since.as_millis()) {
            numbers.push_front(next);
            numbers.truncate(limit);
        }
        if query.newest && numbers.len() >= limit {
            break;
        }
        // Only damage can lead forward.
        next = previous.unwrap_or(0).min(next - 1);
    }
    Ok(numbers)
}

fn one(database: &Database, id: i64) -> Result<Event, StoreError> {
    let mut statement = database.prepare_cached(concat!(columns!(), "id = ?1")).map_err(|cause| fault(&cause))?;
    let mut rows = statement.query([id]).map_err(|cause| fault(&cause))?;
    match rows.next().map_err(|cause| fault(&cause))? {
        Some(row) => event(row),
        None => Err(StoreError::Damaged(format!("event number {id} is missing"))),
    }
}

fn event(row: &Row<'_>) -> Result<Event, StoreError> {
    let id: i64 = row.get(0).map_err(|cause| fault(&cause))?;
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
