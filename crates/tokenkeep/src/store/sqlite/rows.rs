//! Rows read and written: SQL on one side, the stored form of [`crate::store::record`] on the other.

use super::fault;
use crate::store::StoreError;
use crate::store::record::{
    self, ClaimRow, Fingerprint, NameRow, RecordRow, ScheduleRow, SealedTokens, TimeBase, damage,
};
use rusqlite::types::Type;
use rusqlite::{Connection as Database, OptionalExtension as _, Row, params};
use tokenkeep_core::model::{Connection, ConnectionId};
use tokenkeep_core::{ConnectionKey, Timestamp};

/// A connection as it is stored, without its sealed values.
pub struct Loaded {
    /// What the rows say.
    pub connection: Connection,
    /// The row beside the sealed tokens.
    pub record: RecordRow,
}

/// A connection with its sealed values.
pub struct SealedWork {
    /// What the rows say.
    pub connection: Connection,
    /// Its token set.
    pub sealed: Option<SealedTokens>,
    /// When it was due as it was read.
    pub was_due_at: Option<Timestamp>,
}

/// The columns that [`loaded`] reads, in its order.
macro_rules! columns {
    () => {
        "s.id, s.grant_number, s.generation, s.attempt, s.committed, s.phase, s.waiting, s.failures, s.doubt_sent_at, \
         s.doubt_step, s.due_at, s.ended_cause, s.ended_at, s.paused, s.hold_cause, s.probe_at, s.claim_at, \
         s.deadline, s.grade, s.failed_at, s.issued_at, s.row_check, \
         cl.attempt, cl.claimed_at, cl.holder_boot, cl.holder_process, cl.holder_worker, cl.holder_incarnation, \
         cl.row_check, c.namespace, c.name, c.provider, c.labels, c.row_check, \
         t.record, t.token_type, t.fingerprint, t.used, t.row_check"
    };
}
/// Columns of the sealed values, after [`columns`].
macro_rules! sealed_columns {
    () => {
        ", t.access, t.refresh, t.extra"
    };
}
/// The tables that belong to a schedule row `s`.
macro_rules! tables {
    () => {
        " CROSS JOIN connection c ON c.id = s.id CROSS JOIN token_set t ON t.id = s.id LEFT JOIN claim cl ON cl.id = s.id "
    };
}
pub(super) use columns;
pub(super) use sealed_columns;
pub(super) use tables;

const BY_ID: &str = concat!("SELECT ", columns!(), " FROM schedule s", tables!(), "WHERE s.id = ?1");
const SEALED_BY_ID: &str =
    concat!("SELECT ", columns!(), sealed_columns!(), " FROM schedule s", tables!(), "WHERE s.id = ?1");
const ID_BY_KEY: &str = "SELECT id FROM connection WHERE namespace = ?1 AND name = ?2";

/// Reads one connection.
pub fn load(database: &Database, base: TimeBase, id: i64) -> Result<Option<Loaded>, StoreError> {
    one(database, BY_ID, id, |row| loaded(base, row))
}

/// Reads one connection with its sealed values.
pub fn load_sealed(database: &Database, base: TimeBase, id: i64) -> Result<Option<SealedWork>, StoreError> {
    one(database, SEALED_BY_ID, id, |row| sealed_work(base, row))
}

fn one<T>(
    database: &Database,
    sql: &str,
    id: i64,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut statement = database.prepare_cached(sql).map_err(|cause| fault(&cause))?;
    let mut rows = statement.query([id]).map_err(|cause| fault(&cause))?;
    rows.next().map_err(|cause| fault(&cause))?.map(read).transpose()
}

/// The number of the connection of this name.
pub fn id_of(database: &Database, key: &ConnectionKey) -> Result<Option<i64>, StoreError> {
    find(database, key).map_err(|cause| fault(&cause))
}

/// The number of the connection of this name, with SQLite's errors.
pub fn find(database: &Database, key: &ConnectionKey) -> rusqlite::Result<Option<i64>> {
    let mut statement = database.prepare_cached(ID_BY_KEY)?;
    statement.query_row([key.namespace(), key.name()], |row| row.get(0)).optional()
}

/// Reads the row that [`columns`] selects, and checks it.
pub fn loaded(base: TimeBase, row: &Row<'_>) -> Result<Loaded, StoreError> {
    let id: i64 = row.get(0).map_err(|cause| fault(&cause))?;
    let unreadable = |cause: rusqlite::Error| match fault(&cause) {
        StoreError::Damaged(what) => damage(id, what),
        other => other,
    };
    let schedule = schedule(row).map_err(unreadable)?;
    let claim = claim(id, row).map_err(unreadable)?;
    let name = name(row).map_err(unreadable)?;
    let record = record(row).map_err(unreadable)?;
    let sums = [
        ("its schedule", 21, Some(record::schedule_check(&schedule))),
        ("its claim", 28, claim.as_ref().map(record::claim_check)),
        ("its name", 33, Some(record::name_check(id, &name))),
        ("its record", 38, Some(record::record_check(id, &record))),
    ];
    for (what, column, expected) in sums {
        let found: Option<i64> = row.get(column).map_err(unreadable)?;
        if found != expected {
            return Err(damage(id, format_args!("({}) {what} does not match its checksum", name.name)));
        }
    }
    let connection = record::connection(base, &schedule, claim.as_ref(), &name, &record)?;
    Ok(Loaded { connection, record })
}

fn schedule(row: &Row<'_>) -> rusqlite::Result<ScheduleRow> {
    Ok(ScheduleRow {
        id: row.get(0)?,
        grant: row.get(1)?,
        generation: row.get(2)?,
        attempt: row.get(3)?,
        committed: row.get(4)?,
        phase: row.get(5)?,
        waiting: row.get(6)?,
        failures: row.get(7)?,
        doubt_sent_at: row.get(8)?,
        doubt_step: row.get(9)?,
        due_at: row.get(10)?,
        ended_cause: row.get(11)?,
        ended_at: row.get(12)?,
        paused: row.get(13)?,
        hold_cause: row.get(14)?,
        probe_at: row.get(15)?,
        claim_at: row.get(16)?,
        deadline: row.get(17)?,
        grade: row.get(18)?,
        failed_at: row.get(19)?,
        issued_at: row.get(20)?,
    })
}

fn claim(id: i64, row: &Row<'_>) -> rusqlite::Result<Option<ClaimRow>> {
    let Some(attempt) = row.get(22)? else { return Ok(None) };
    let holder = [row.get(24)?, row.get(25)?, row.get(26)?, row.get(27)?];
    Ok(Some(ClaimRow { id, attempt, claimed_at: row.get(23)?, holder }))
}

fn name(row: &Row<'_>) -> rusqlite::Result<NameRow> {
    Ok(NameRow { namespace: row.get(29)?, name: row.get(30)?, provider: row.get(31)?, labels: row.get(32)? })
}

fn record(row: &Row<'_>) -> rusqlite::Result<RecordRow> {
    let used: Vec<u8> = row.get(37)?;
    let (prints, rest) = used.as_chunks();
    if !rest.is_empty() {
        return Err(rusqlite::Error::InvalidColumnType(37, "used".to_owned(), Type::Blob));
    }
    Ok(RecordRow { record: row.get(34)?, token_type: row.get(35)?, fingerprint: row.get(36)?, used: prints.to_vec() })
}

/// Reads the row that [`columns`] and [`sealed_columns`] select, and checks it.
pub fn sealed_work(base: TimeBase, row: &Row<'_>) -> Result<SealedWork, StoreError> {
    let loaded = loaded(base, row)?;
    let sealed = sealed(&loaded, row).map_err(|cause| damage(loaded.connection.id.0, cause))?;
    let was_due_at = loaded.connection.due_at();
    Ok(SealedWork { connection: loaded.connection, sealed, was_due_at })
}

fn sealed(loaded: &Loaded, row: &Row<'_>) -> rusqlite::Result<Option<SealedTokens>> {
    let Some(token_type) = loaded.record.token_type.clone() else { return Ok(None) };
    let refresh: Option<Vec<u8>> = row.get(40)?;
    if refresh.is_some() != loaded.record.fingerprint.is_some() {
        return Err(rusqlite::Error::InvalidColumnType(40, "refresh".to_owned(), Type::Null));
    }
    Ok(Some(SealedTokens {
        token_type,
        access: row.get(39)?,
        refresh,
        extra: row.get(41)?,
        fingerprint: loaded.record.fingerprint,
    }))
}

/// Writes the three rows of a new connection.
pub fn insert(
    database: &Database,
    base: TimeBase,
    (namespace, provider): (i64, i64),
    connection: &Connection,
    sealed: Option<&SealedTokens>,
    now: Timestamp,
) -> Result<(), StoreError> {
    insert_rows(database, base, (namespace, provider), connection, sealed, now).map_err(|cause| fault(&cause))
}

fn insert_rows(
    database: &Database,
    base: TimeBase,
    (namespace, provider): (i64, i64),
    connection: &Connection,
    sealed: Option<&SealedTokens>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let id = connection.id.0;
    let name = record::name_row(connection);
    database
        .prepare_cached(
            "INSERT INTO connection (id, namespace, name, provider, labels, created_at, row_check) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            id,
            name.namespace,
            name.name,
            name.provider,
            name.labels,
            now.as_millis(),
            record::name_check(id, &name)
        ])?;
    database
        .prepare_cached(
            "INSERT INTO schedule (id, namespace, provider, grant_number, generation, attempt, committed, phase, \
             waiting, failures, paused, deadline, grade, issued_at, last_event, row_check) \
             VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
        )?
        .execute([id, namespace, provider])?;
    update_schedule(database, &record::schedule_row(base, connection))?;
    database
        .prepare_cached("INSERT INTO token_set (id, record, used, row_check) VALUES (?1, '', x'', 0)")?
        .execute([id])?;
    update_tokens(database, base, connection, Vec::new(), sealed)
}

/// Writes the claim row of a connection in flight.
pub fn insert_claim(database: &Database, base: TimeBase, claimed: &Connection) -> rusqlite::Result<()> {
    let Some(row) = record::claim_row(base, claimed) else { return Ok(()) };
    let [boot, process, worker, incarnation] = row.holder;
    database
        .prepare_cached(
            "INSERT INTO claim (id, attempt, claimed_at, holder_boot, holder_process, holder_worker, \
             holder_incarnation, row_check) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            row.id,
            row.attempt,
            row.claimed_at,
            boot,
            process,
            worker,
            incarnation,
            record::claim_check(&row)
        ])?;
    Ok(())
}

/// Removes the claim row.
pub fn delete_claim(database: &Database, id: i64) -> rusqlite::Result<()> {
    database.prepare_cached("DELETE FROM claim WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Writes the schedule row.
pub fn update_schedule(database: &Database, row: &ScheduleRow) -> rusqlite::Result<()> {
    database
        .prepare_cached(
            "UPDATE schedule SET grant_number = ?2, generation = ?3, attempt = ?4, committed = ?5, phase = ?6, \
             waiting = ?7, failures = ?8, doubt_sent_at = ?9, doubt_step = ?10, due_at = ?11, ended_cause = ?12, \
             ended_at = ?13, paused = ?14, hold_cause = ?15, probe_at = ?16, claim_at = ?17, deadline = ?18, \
             grade = ?19, failed_at = ?20, issued_at = ?21, row_check = ?22 WHERE id = ?1",
        )?
        .execute(params![
            row.id,
            row.grant,
            row.generation,
            row.attempt,
            row.committed,
            row.phase,
            row.waiting,
            row.failures,
            row.doubt_sent_at,
            row.doubt_step,
            row.due_at,
            row.ended_cause,
            row.ended_at,
            row.paused,
            row.hold_cause,
            row.probe_at,
            row.claim_at,
            row.deadline,
            row.grade,
            row.failed_at,
            row.issued_at,
            record::schedule_check(row)
        ])?;
    Ok(())
}

/// Writes the labels.
pub fn update_name(database: &Database, connection: &Connection) -> rusqlite::Result<()> {
    let (id, name) = (connection.id.0, record::name_row(connection));
    database.prepare_cached("UPDATE connection SET labels = ?2, row_check = ?3 WHERE id = ?1")?.execute(params![
        id,
        name.labels,
        record::name_check(id, &name)
    ])?;
    Ok(())
}

/// Writes a token set with the record beside it; without one, wipes what was there.
pub fn update_tokens(
    database: &Database,
    base: TimeBase,
    connection: &Connection,
    used: Vec<Fingerprint>,
    sealed: Option<&SealedTokens>,
) -> rusqlite::Result<()> {
    let id = connection.id.0;
    let row = RecordRow {
        token_type: sealed.map(|sealed| sealed.token_type.clone()),
        record: record::record_json(base, connection),
        fingerprint: sealed.and_then(|sealed| sealed.fingerprint),
        used,
    };
    database
        .prepare_cached(
            "UPDATE token_set SET record = ?2, token_type = ?3, fingerprint = ?4, used = ?5, row_check = ?6, \
             access = ?7, refresh = ?8, extra = ?9 WHERE id = ?1",
        )?
        .execute(params![
            id,
            row.record,
            row.token_type,
            row.fingerprint,
            row.used.as_flattened(),
            record::record_check(id, &row),
            sealed.map(|sealed| &sealed.access),
            sealed.and_then(|sealed| sealed.refresh.as_ref()),
            sealed.map(|sealed| &sealed.extra)
        ])?;
    Ok(())
}

/// Writes the same token set, sealed anew.
pub fn update_sealed(database: &Database, id: i64, sealed: &SealedTokens) -> rusqlite::Result<()> {
    database
        .prepare_cached("UPDATE token_set SET access = ?2, refresh = ?3, extra = ?4 WHERE id = ?1")?
        .execute(params![id, sealed.access, sealed.refresh, sealed.extra])?;
    Ok(())
}

/// Writes the record, and leaves the token set beside it alone.
pub fn update_record(
    database: &Database,
    base: TimeBase,
    connection: &Connection,
    stored: &RecordRow,
) -> rusqlite::Result<()> {
    let id = connection.id.0;
    let row = RecordRow { record: record::record_json(base, connection), ..stored.clone() };
    database.prepare_cached("UPDATE token_set SET record = ?2, row_check = ?3 WHERE id = ?1")?.execute(params![
        id,
        row.record,
        record::record_check(id, &row)
    ])?;
    Ok(())
}

/// Removes all rows; `secure_delete` overwrites what they held.
pub fn delete(database: &Database, id: ConnectionId) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM claim WHERE id = ?1",
        "DELETE FROM schedule WHERE id = ?1",
        "DELETE FROM connection WHERE id = ?1",
        "DELETE FROM token_set WHERE id = ?1",
        "DELETE FROM warning WHERE id = ?1",
        "DELETE FROM account WHERE id = ?1",
    ] {
        database.prepare_cached(sql)?.execute([id.0])?;
    }
    Ok(())
}
