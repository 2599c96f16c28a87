//! Who is to be told of an end, and when; and whose each connection is.

use super::fault;
use super::ops::Batch;
use super::rows;
use crate::store::{PAGE_MAX, StoreError, WARN_BATCH_MAX, Warned};
use rusqlite::{Connection as Database, params};
use tokenkeep_core::lifecycle::{self, next_warning};
use tokenkeep_core::model::Connection;
use tokenkeep_core::{ConnectionKey, Timestamp};

impl Batch<'_> {
    /// Sees to it that `next` is looked at by the time that people are next to be told of an end. `stored` is what it
    /// was: only what comes earlier than its next warning is written, so that a refresh writes nothing here.
    pub fn note_warning(&self, stored: Option<&Connection>, next: &Connection) -> Result<(), StoreError> {
        let Some(at) = next_warning(next) else { return Ok(()) };
        if stored.and_then(next_warning).is_some_and(|noted| noted <= at) {
            return Ok(());
        }
        let sql = "INSERT INTO warning (id, at) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET at = min(at, excluded.at)";
        self.execute(sql, params![next.id.0, self.base().store(at)])
    }

    /// [`crate::store::Store::warn_due`].
    pub fn warn_due(&mut self, now: Timestamp) -> Result<Warned, StoreError> {
        let ids = due(self.database, self.base().store(now)).map_err(|cause| fault(&cause))?;
        let mut warned = Warned { events: Vec::new(), more: ids.len() == WARN_BATCH_MAX };
        for id in ids {
            self.execute("DELETE FROM warning WHERE id = ?1", [id])?;
            let stored = match rows::load(self.database, self.base(), id) {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(StoreError::Unusable(why)) => return Err(StoreError::Unusable(why)),
                // Its claim will report it.
                Err(_damage) => continue,
            };
            let (next, event) = lifecycle::warned(&stored.connection, now);
            if next != stored.connection {
                rows::update_record(self.database, self.base(), &next, &stored.record)
                    .map_err(|cause| fault(&cause))?;
            }
            self.note_warning(None, &next)?;
            if let Some(event) = event {
                warned.events.push(self.write_event_of(&next, event)?);
            }
        }
        Ok(warned)
    }

    /// Notes whose a connection is.
    pub fn note_account(&self, connection: &Connection) -> Result<(), StoreError> {
        let Some(account) = &connection.origin.account else {
            return self.execute("DELETE FROM account WHERE id = ?1", [connection.id.0]);
        };
        let sql = "INSERT INTO account (id, provider, account) VALUES (?1, ?2, ?3) \
                   ON CONFLICT DO UPDATE SET provider = excluded.provider, account = excluded.account";
        self.execute(sql, params![connection.id.0, connection.provider, account])
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
        let executed = self.database.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
        executed.map(drop).map_err(|cause| fault(&cause))
    }
}

fn due(database: &Database, now: i64) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT id FROM warning WHERE at <= ?1 ORDER BY at LIMIT ?2";
    let limit = i64::try_from(WARN_BATCH_MAX).unwrap_or(i64::MAX);
    database.prepare_cached(sql)?.query_map([now, limit], |row| row.get(0))?.collect()
}

/// [`crate::store::Store::of_account`].
pub fn of_account(database: &Database, provider: &str, account: &str) -> Result<Vec<ConnectionKey>, StoreError> {
    let read = || -> rusqlite::Result<Vec<(String, String)>> {
        let sql = "SELECT c.namespace, c.name FROM account a CROSS JOIN connection c ON c.id = a.id \
                   WHERE a.provider = ?1 AND a.account = ?2 ORDER BY c.namespace, c.name LIMIT ?3";
        let limit = i64::try_from(PAGE_MAX).unwrap_or(i64::MAX);
        let named = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        database.prepare_cached(sql)?.query_map(params![provider, account, limit], named)?.collect()
    };
    let found = read().map_err(|cause| fault(&cause))?;
    // A name that is none is reported by whoever reads the connection itself.
    Ok(found.into_iter().filter_map(|(namespace, name)| ConnectionKey::new(namespace, name).ok()).collect())
}
