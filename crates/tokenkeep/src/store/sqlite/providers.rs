//! What is known of providers: how each is configured, and what holds all of its connections.
//!
//! One row for each provider, so that a provider of a million connections is held and released by one write.

use super::fault;
use super::ops::Batch;
use super::rows;
use crate::store::record::{self, Fingerprint, ProviderRow, TimeBase};
use crate::store::{Event, Noted, StoreError, rules};
use rusqlite::{Connection as Database, OptionalExtension as _, Row, params};
use std::collections::BTreeMap;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::{Connection, Hold};

const COLUMNS: &str = "n.provider, n.hold_cause, n.probe_at, n.configuration, n.row_check";

/// A held provider, by its number in the schedule.
pub struct Held {
    /// Its number there.
    pub number: i64,
    /// Its name.
    pub name: String,
    /// What holds it.
    pub hold: Hold,
}

fn note(row: &Row<'_>) -> rusqlite::Result<Option<ProviderRow>> {
    let found = ProviderRow {
        provider: row.get(0)?,
        hold_cause: row.get(1)?,
        probe_at: row.get(2)?,
        configuration: row.get(3)?,
    };
    if row.get::<_, i64>(4)? == record::provider_check(&found) {
        return Ok(Some(found));
    }
    // Everything in it can be learned again, so it stops nobody.
    tracing::error!(provider = found.provider, "what was noted of a provider does not match its checksum: forgotten");
    Ok(None)
}

fn noted(database: &Database, provider: &str) -> rusqlite::Result<Option<ProviderRow>> {
    let sql = format!("SELECT {COLUMNS} FROM provider_note n WHERE n.provider = ?1");
    Ok(database.prepare_cached(&sql)?.query_row([provider], note).optional()?.flatten())
}

/// What holds every connection of this provider.
pub fn hold_of(database: &Database, base: TimeBase, provider: &str) -> Result<Option<Hold>, StoreError> {
    let note = noted(database, provider).map_err(|cause| fault(&cause))?;
    Ok(note.and_then(|note| note.hold(base)))
}

/// The connection as people see it: held, where its provider is.
pub fn shown(database: &Database, base: TimeBase, connection: Connection) -> Result<Connection, StoreError> {
    let held = hold_of(database, base, &connection.provider)?;
    Ok(rules::shown(connection, held.as_ref()))
}

/// The providers that are held and have connections.
pub fn held(database: &Database, base: TimeBase) -> rusqlite::Result<Vec<Held>> {
    let sql = format!(
        "SELECT {COLUMNS}, p.id FROM provider_note n CROSS JOIN provider p ON p.name = n.provider \
         WHERE n.hold_cause IS NOT NULL ORDER BY p.id"
    );
    let read = |row: &Row<'_>| {
        let number = row.get(5)?;
        Ok(note(row)?.and_then(|note| Some(Held { number, hold: note.hold(base)?, name: note.provider })))
    };
    database.prepare_cached(&sql)?.query_map([], read)?.filter_map(Result::transpose).collect()
}

/// [`crate::store::Store::providers`].
pub fn all(database: &Database, base: TimeBase) -> Result<BTreeMap<String, Option<Hold>>, StoreError> {
    let read = || {
        let mut known: BTreeMap<String, Option<Hold>> = database
            .prepare_cached("SELECT name FROM provider")?
            .query_map([], |row| Ok((row.get(0)?, None)))?
            .collect::<rusqlite::Result<_>>()?;
        let sql = format!("SELECT {COLUMNS} FROM provider_note n");
        for found in database.prepare_cached(&sql)?.query_map([], note)? {
            let Some(note) = found? else { continue };
            let hold = note.hold(base);
            known.insert(note.provider, hold);
        }
        Ok(known)
    };
    read().map_err(|cause: rusqlite::Error| fault(&cause))
}

fn write(database: &Database, row: &ProviderRow) -> rusqlite::Result<()> {
    database
        .prepare_cached(
            "INSERT INTO provider_note (provider, hold_cause, probe_at, configuration, row_check) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET hold_cause = excluded.hold_cause, \
             probe_at = excluded.probe_at, configuration = excluded.configuration, row_check = excluded.row_check",
        )?
        .execute(params![row.provider, row.hold_cause, row.probe_at, row.configuration, record::provider_check(row)])?;
    Ok(())
}

/// The connections of a provider that have a hold which a probe may clear.
fn probed(database: &Database, provider: i64) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT id FROM schedule INDEXED BY schedule_trouble \
               WHERE namespace IN (SELECT id FROM namespace) AND grade IN (0, 1, 2) AND grade < 5 \
               AND provider = ?1 AND probe_at IS NOT NULL ORDER BY id";
    database.prepare_cached(sql)?.query_map([provider], |row| row.get(0))?.collect()
}

impl Batch<'_> {
    /// [`crate::store::Store::hold_provider`].
    pub fn hold_provider(&mut self, provider: &str, hold: Option<&Hold>) -> Result<(), StoreError> {
        let base = self.base();
        let run = || {
            let before = noted(self.database, provider)?;
            write(self.database, &record::provider_row(base, provider, hold, before.and_then(|row| row.configuration)))
        };
        run().map_err(|cause: rusqlite::Error| fault(&cause))
    }

    /// [`crate::store::Store::note_provider`]. `print` is the configuration's.
    pub fn note_provider(&mut self, now: Timestamp, provider: &str, print: Fingerprint) -> Result<Noted, StoreError> {
        let before = noted(self.database, provider).map_err(|cause| fault(&cause))?;
        if before.is_some_and(|row| row.configuration == Some(print)) {
            return Ok(Noted::Same);
        }
        write(self.database, &record::provider_row(self.base(), provider, None, Some(print)))
            .map_err(|cause| fault(&cause))?;
        let Some(number) = self.known_provider(provider) else { return Ok(Noted::Changed(Vec::new())) };
        let ids = probed(self.database, number).map_err(|cause| fault(&cause))?;
        let mut events = Vec::new();
        for id in ids {
            events.extend(self.release(now, id)?);
        }
        Ok(Noted::Changed(events))
    }

    fn release(&mut self, now: Timestamp, id: i64) -> Result<Option<Event>, StoreError> {
        let stored = match rows::load(self.database, self.base(), id) {
            Ok(stored) => stored,
            // It is reported when it is claimed or read; the others go free.
            Err(StoreError::Damaged(_)) => None,
            Err(other) => return Err(other),
        };
        let Some(stored) = stored else { return Ok(None) };
        let Some((next, event)) = rules::released(now, &stored.connection) else { return Ok(None) };
        self.replace_schedule(&stored.connection, &next)?;
        self.write_event(event).map(Some)
    }
}
