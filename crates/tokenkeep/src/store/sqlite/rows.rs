//! Rows read and written: SQL on one side, the stored form of [`crate::store::record`] on the other.

use super::fault;
use crate::store::StoreError;
use crate::store::record::{self, Fingerprint, NameRow, RecordRow, ScheduleRow, SealedTokens, TimeBase, damage};
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
}

/// The columns that [`loaded`] reads, in its order.
macro_rules! columns {
    () => {
        "s.id, s.grant_number, s.generation, s.attempt, s.committed, s.phase, s.waiting, s.failures, s.doubt_sent_at, \
         s.doubt_step, s.due_at, s.claimed_at, s.holder_boot, s.holder_process, s.holder_worker, \
         s.holder_incarnation, s.ended_cause, s.ended_at, s.paused, s.hold_cause, s.probe_at, s.claim_at, s.deadline, \
         s.grade, s.failed_at, s.issued_at, s.row_check, c.namespace, c.name, c.provider, c.labels, c.row_check, \
         t.record, t.token_type, t.fingerprint, t.used, t.row_check"
    };
}
/// Columns of the sealed values, after [`columns`].
macro_rules! sealed_columns {
    () => {
        ", t.access, t.refresh, t.extra"
    };
}
pub(super) use columns;
pub(super) use sealed_columns;

const BY_ID: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM schedule s JOIN connection c ON c.id = s.id JOIN token_set t ON t.id = s.id WHERE s.id = ?1"
);
const SEALED_BY_ID: &str = concat!(
    "SELECT ",
    columns!(),
    sealed_columns!(),
    " FROM schedule s JOIN connection c ON c.id = s.id JOIN token_set t ON t.id = s.id WHERE s.id = ?1"
);
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
    let mut statement = database.prepare_cached(ID_BY_KEY).map_err(|cause| fault(&cause))?;
    statement.query_row([key.namespace(), key.name()], |row| row.get(0)).optional().map_err(|cause| fault(&cause))
}

/// Reads the row that [`columns`] selects, and checks it.
pub fn loaded(base: TimeBase, row: &Row<'_>) -> Result<Loaded, StoreError> {
    let id: i64 = row.get(0).map_err(|cause| fault(&cause))?;
    let unreadable = |cause: rusqlite::Error| match fault(&cause) {
        StoreError::Damaged(what) => damage(id, what),
        other => other,
    };
    let schedule = schedule(row).map_err(unreadable)?;
    let name = NameRow {
        namespace: row.get(27).map_err(unreadable)?,
        name: row.get(28).map_err(unreadable)?,
        provider: row.get(29).map_err(unreadable)?,
        labels: row.get(30).map_err(unreadable)?,
    };
    let used: Vec<u8> = row.get(35).map_err(unreadable)?;
    let (prints, rest) = used.as_chunks();
    let record = RecordRow {
        record: row.get(32).map_err(unreadable)?,
        token_type: row.get(33).map_err(unreadable)?,
        fingerprint: row.get(34).map_err(unreadable)?,
        used: prints.to_vec(),
    };
    let sums = [
        ("its schedule", record::schedule_check(&schedule), 26),
        ("its name", record::name_check(id, &name), 31),
        ("its record", record::record_check(id, &record), 36),
    ];
    for (what, expected, column) in sums {
        let found: i64 = row.get(column).map_err(unreadable)?;
        if found != expected || !rest.is_empty() {
            return Err(damage(id, format_args!("({}) {what} does not match its checksum", name.name)));
        }
    }
    let connection = record::connection(base, &schedule, &name, &record)?;
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
        claimed_at: row.get(11)?,
        holder: holder(row)?,
        ended_cause: row.get(16)?,
        ended_at: row.get(17)?,
        paused: row.get(18)?,
        hold_cause: row.get(19)?,
        probe_at: row.get(20)?,
        claim_at: row.get(21)?,
        deadline: row.get(22)?,
        grade: row.get(23)?,
        failed_at: row.get(24)?,
        issued_at: row.get(25)?,
    })
}

fn holder(row: &Row<'_>) -> rusqlite::Result<Option<[i64; 4]>> {
    let Some(boot) = row.get(12)? else { return Ok(None) };
    Ok(Some([boot, row.get(13)?, row.get(14)?, row.get(15)?]))
}

/// Reads the row that [`columns`] and [`sealed_columns`] select, and checks it.
pub fn sealed_work(base: TimeBase, row: &Row<'_>) -> Result<SealedWork, StoreError> {
    let loaded = loaded(base, row)?;
    let sealed = sealed(&loaded, row).map_err(|cause| damage(loaded.connection.id.0, cause))?;
    Ok(SealedWork { connection: loaded.connection, sealed })
}

fn sealed(loaded: &Loaded, row: &Row<'_>) -> rusqlite::Result<Option<SealedTokens>> {
    let Some(token_type) = loaded.record.token_type.clone() else { return Ok(None) };
    let refresh: Option<Vec<u8>> = row.get(38)?;
    if refresh.is_some() != loaded.record.fingerprint.is_some() {
        return Err(rusqlite::Error::InvalidColumnType(38, "refresh".to_owned(), Type::Null));
    }
    Ok(Some(SealedTokens {
        token_type,
        access: row.get(37)?,
        refresh,
        extra: row.get(39)?,
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
             waiting, failures, paused, deadline, grade, issued_at, row_check) \
             VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
        )?
        .execute([id, namespace, provider])?;
    update_schedule(database, &record::schedule_row(base, connection))?;
    database
        .prepare_cached("INSERT INTO token_set (id, record, used, row_check) VALUES (?1, '', x'', 0)")?
        .execute([id])?;
    update_tokens(database, base, connection, Vec::new(), sealed)
}

/// Writes what a claim changes of the schedule row, and nothing else.
pub fn update_claim(database: &Database, base: TimeBase, claimed: &Connection) -> rusqlite::Result<()> {
    let row = record::schedule_row(base, claimed);
    let [boot, process, worker, incarnation] = row.holder.unwrap_or_default();
    database
        .prepare_cached(
            "UPDATE schedule SET attempt = ?2, phase = ?3, due_at = NULL, claimed_at = ?4, holder_boot = ?5, \
             holder_process = ?6, holder_worker = ?7, holder_incarnation = ?8, claim_at = NULL, row_check = ?9 \
             WHERE id = ?1",
        )?
        .execute(params![
            row.id,
            row.attempt,
            row.phase,
            row.claimed_at,
            boot,
            process,
            worker,
            incarnation,
            record::schedule_check(&row)
        ])?;
    Ok(())
}

/// Writes the whole schedule row.
pub fn update_schedule(database: &Database, row: &ScheduleRow) -> rusqlite::Result<()> {
    let holder = |which: usize| row.holder.map(|holder| holder[which]);
    database
        .prepare_cached(
            "UPDATE schedule SET grant_number = ?2, generation = ?3, attempt = ?4, committed = ?5, phase = ?6, \
             waiting = ?7, failures = ?8, doubt_sent_at = ?9, doubt_step = ?10, due_at = ?11, claimed_at = ?12, \
             holder_boot = ?13, holder_process = ?14, holder_worker = ?15, holder_incarnation = ?16, \
             ended_cause = ?17, ended_at = ?18, paused = ?19, hold_cause = ?20, probe_at = ?21, claim_at = ?22, \
             deadline = ?23, grade = ?24, failed_at = ?25, issued_at = ?26, row_check = ?27 WHERE id = ?1",
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
            row.claimed_at,
            holder(0),
            holder(1),
            holder(2),
            holder(3),
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

/// Removes the three rows; `secure_delete` overwrites what they held.
pub fn delete(database: &Database, id: ConnectionId) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM schedule WHERE id = ?1",
        "DELETE FROM connection WHERE id = ?1",
        "DELETE FROM token_set WHERE id = ?1",
    ] {
        database.prepare_cached(sql)?.execute([id.0])?;
    }
    Ok(())
}
