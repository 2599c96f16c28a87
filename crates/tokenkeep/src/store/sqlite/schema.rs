//! The database file: how it is made, recognised, opened and migrated.

use super::fault;
use crate::files::{remove_if_there, sync_folder_of};
use crate::seal::Sealer;
use crate::store::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What tells a Tokenkeep database from others: `TkKp`.
const APPLICATION_ID: i64 = 0x546b_4b70;
/// How long a connection waits for another that holds a lock; ours hold none for long.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Page cache of the connection that writes, in KiB.
const WRITER_CACHE_KIB: i64 = 8 * 1024;
/// Page cache of each connection that reads, in KiB.
const READER_CACHE_KIB: i64 = 2 * 1024;
/// Prepared statements kept by each connection.
const STATEMENTS_MAX: usize = 64;

/// One step for each version; the last one's number is the version that this Tokenkeep writes.
const MIGRATIONS: &[Step] = &[
    Step { sql: VERSION_1, then: nothing },
    Step { sql: "", then: keep_fingerprint_key },
    Step { sql: VERSION_3, then: nothing },
    Step { sql: VERSION_4, then: nothing },
    Step { sql: VERSION_5, then: nothing },
    Step { sql: VERSION_6, then: nothing },
    Step { sql: VERSION_7, then: nothing },
];

/// One step from a version to the next: what SQL can say, and what it cannot.
struct Step {
    sql: &'static str,
    then: fn(&Transaction<'_>, &Sealer) -> rusqlite::Result<()>,
}

fn nothing(_: &Transaction<'_>, _: &Sealer) -> rusqlite::Result<()> {
    Ok(())
}

/// Version 2: the key of the fingerprints is stored, so that it outlives the master key that it was derived from. An
/// earlier Tokenkeep would not know it, nor what a rotation is.
fn keep_fingerprint_key(transaction: &Transaction<'_>, sealer: &Sealer) -> rusqlite::Result<()> {
    let key = sealer.sealed_fingerprint_key();
    transaction.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (FINGERPRINT_KEY, key)).map(drop)
}

/// `meta`: the check value of the master key.
pub const KEY_CHECK: &str = "key_check";
/// `meta`: the check value of the key that a rotation leads to, while one goes on.
pub const NEXT_KEY_CHECK: &str = "next_key_check";
/// `meta`: the key of the fingerprints, sealed under the key of [`KEY_CHECK`].
pub const FINGERPRINT_KEY: &str = "fingerprint_key";
/// The first version that has [`FINGERPRINT_KEY`].
const FINGERPRINT_KEY_SINCE: i64 = 2;
/// `meta`: the backup that this database was restored from, until its connections are held.
pub const RESTORED_FROM: &str = "restored_from";

const VERSION_1: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;

    CREATE TABLE namespace (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE provider (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

    -- Attempts in flight: few rows, so a claim writes to few pages, and to no index.
    CREATE TABLE claim (
        id INTEGER PRIMARY KEY,
        attempt INTEGER NOT NULL,
        claimed_at INTEGER NOT NULL,
        holder_boot INTEGER NOT NULL,
        holder_process INTEGER NOT NULL,
        holder_worker INTEGER NOT NULL,
        holder_incarnation INTEGER NOT NULL,
        row_check INTEGER NOT NULL
    ) STRICT;

    -- A refresh writes one row here, and one entry of one index.
    CREATE TABLE schedule (
        id INTEGER PRIMARY KEY,
        namespace INTEGER NOT NULL,
        provider INTEGER NOT NULL,
        grant_number INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        committed INTEGER NOT NULL,
        phase INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        doubt_sent_at INTEGER,
        doubt_step INTEGER,
        due_at INTEGER,
        ended_cause TEXT,
        ended_at INTEGER,
        paused INTEGER NOT NULL,
        hold_cause TEXT,
        probe_at INTEGER,
        claim_at INTEGER,
        deadline INTEGER NOT NULL,
        grade INTEGER NOT NULL,
        failed_at INTEGER,
        issued_at INTEGER NOT NULL,
        last_event INTEGER NOT NULL,
        row_check INTEGER NOT NULL
    ) STRICT;
    -- The longest due of a provider, with what chooses among them, and what counts need.
    CREATE INDEX schedule_due ON schedule (provider, claim_at, id, deadline, namespace, grade)
        WHERE claim_at IS NOT NULL;
    -- After an outage: what waits in a retry, by the end of its access token.
    CREATE INDEX schedule_retry ON schedule (provider, deadline, failed_at)
        WHERE waiting = 1 AND hold_cause IS NULL AND claim_at IS NOT NULL;
    -- What needs attention.
    CREATE INDEX schedule_trouble ON schedule (namespace, grade, deadline) WHERE grade < 5;
    -- What is well and yet will not be due before its access token ends.
    CREATE INDEX schedule_late ON schedule (namespace, deadline)
        WHERE grade = 5 AND (claim_at IS NULL OR claim_at > deadline);
    CREATE TABLE tally (
        namespace INTEGER NOT NULL,
        grade INTEGER NOT NULL,
        connections INTEGER NOT NULL,
        PRIMARY KEY (namespace, grade)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE connection (
        id INTEGER PRIMARY KEY,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        provider TEXT NOT NULL,
        labels TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        row_check INTEGER NOT NULL,
        UNIQUE (namespace, name)
    ) STRICT;

    CREATE TABLE token_set (
        id INTEGER PRIMARY KEY,
        record TEXT NOT NULL,
        token_type TEXT,
        fingerprint BLOB,
        used BLOB NOT NULL,
        row_check INTEGER NOT NULL,
        access BLOB,
        refresh BLOB,
        extra BLOB
    ) STRICT;

    -- The newest row is never removed, so no number is used twice. A connection's events form a chain from the
    -- newest to the oldest (0: no further one): an index would cost each refresh a page of its own.
    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        previous INTEGER,
        namespace TEXT,
        name TEXT,
        code TEXT,
        message TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    -- The last event of each name that has no connection now; where there is one, its schedule row has it.
    CREATE TABLE former (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        last_event INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) STRICT, WITHOUT ROWID;
";

const VERSION_3: &str = "
    -- How each provider is configured (a keyed fingerprint), and what holds all of its connections.
    CREATE TABLE provider_note (
        provider TEXT PRIMARY KEY,
        hold_cause TEXT,
        probe_at INTEGER,
        configuration BLOB,
        row_check INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

const VERSION_4: &str = "
    -- Who may have to be told of an end, and not before when. A refresh that puts an end off leaves its row alone: when
    -- its time comes, it is looked at and moved on.
    CREATE TABLE warning (id INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
    CREATE INDEX warning_at ON warning (at);
    INSERT INTO warning (id, at) SELECT id, 0 FROM schedule;

    -- Whose each connection is, where that is known.
    CREATE TABLE account (id INTEGER PRIMARY KEY, provider TEXT NOT NULL, account TEXT NOT NULL) STRICT;
    CREATE INDEX account_of ON account (provider, account);
    INSERT INTO account (id, provider, account)
        SELECT c.id, c.provider, t.record ->> '$.account' FROM connection c JOIN token_set t ON t.id = c.id
        WHERE json_valid(t.record) AND t.record ->> '$.account' IS NOT NULL;
";

const VERSION_5: &str = "
    -- What a key is stored as: its SHA-256.
    CREATE TABLE api_key (id TEXT PRIMARY KEY, hash BLOB NOT NULL, record TEXT NOT NULL) STRICT, WITHOUT ROWID;
    -- Each tag is made over the record and the tag before it.
    CREATE TABLE audit (id INTEGER PRIMARY KEY, record TEXT NOT NULL, tag BLOB NOT NULL) STRICT;
    -- Listings of one provider, in the order of names.
    CREATE INDEX connection_of_provider ON connection (namespace, provider, name);
";

const VERSION_6: &str = "
    -- Counts by provider too, and what corrects them without a look at the rows.
    DROP TABLE tally;
    CREATE TABLE tally (
        namespace INTEGER NOT NULL,
        provider INTEGER NOT NULL,
        grade INTEGER NOT NULL,
        connections INTEGER NOT NULL,
        PRIMARY KEY (namespace, provider, grade)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO tally (namespace, provider, grade, connections)
        SELECT namespace, provider, grade, count(*) FROM schedule GROUP BY namespace, provider, grade;
    DROP INDEX schedule_trouble;
    CREATE INDEX schedule_trouble ON schedule (namespace, grade, deadline, provider) WHERE grade < 5;
    DROP INDEX schedule_late;
    CREATE INDEX schedule_late ON schedule (namespace, deadline, provider)
        WHERE grade = 5 AND (claim_at IS NULL OR claim_at > deadline);
";

const VERSION_7: &str = "
    -- Where events are sent. What a webhook still has to send: the events behind its cursor, and the pending entries of
    -- its log. Numbers are never used twice: the sealed secrets are bound to them.
    CREATE TABLE webhook (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        url TEXT NOT NULL,
        description TEXT NOT NULL,
        types TEXT NOT NULL,
        namespace TEXT,
        disabled_at INTEGER,
        disabled_reason TEXT,
        created_at INTEGER NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0,
        failing_since INTEGER,
        rest_until INTEGER,
        delivered_at INTEGER,
        cursor INTEGER NOT NULL,
        secret BLOB NOT NULL,
        former BLOB,
        secret_number INTEGER NOT NULL,
        former_until INTEGER
    ) STRICT;
    CREATE TABLE delivery (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        webhook INTEGER NOT NULL,
        message TEXT,
        event INTEGER,
        kind TEXT,
        namespace TEXT,
        name TEXT,
        body TEXT,
        ordered INTEGER NOT NULL,
        status INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        first_at INTEGER,
        last_at INTEGER,
        next_at INTEGER,
        answer INTEGER,
        error TEXT,
        took_ms INTEGER,
        repeats INTEGER
    ) STRICT;
    CREATE INDEX delivery_log ON delivery (webhook, id);
    CREATE INDEX delivery_due ON delivery (webhook, next_at, id) WHERE status = 0 AND next_at IS NOT NULL;
    CREATE INDEX delivery_waiting ON delivery (webhook, ordered, namespace, name, id) WHERE status = 0;
";

/// The newest schema version that this Tokenkeep knows.
pub const fn known_version() -> i64 {
    MIGRATIONS.len() as i64
}

/// Makes the database if there is none, checks it, and brings it to the newest version.
///
/// # Errors
/// Whatever is wrong, nothing has been changed: [`StoreError::Damaged`], [`StoreError::Newer`], or
/// [`StoreError::Unusable`].
pub fn prepare(path: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    if !exists(path)? {
        create(path, sealer)?;
    }
    let version = examine(path, sealer)?;
    restrict(path)?;
    if version < known_version() {
        migrate(&mut writer(path)?, version, sealer)?;
    }
    Ok(())
}

/// Whether the database is ours, sealed under this key, of a version that we know, and whole: every page is read.
/// Changes nothing. Nobody else may have it open.
///
/// # Errors
/// As [`prepare`]; also when there is none.
pub fn check(path: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    examine(path, sealer)?;
    let has_log = has_log(path);
    // As in `examine`: a reader would leave the empty log that it made.
    let database = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let damaged = |cause: rusqlite::Error| at_opening(path, &cause);
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log).map_err(damaged)?;
    let said: String = database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(damaged)?;
    if said == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("{} is damaged ({said}); nothing was changed: {RESTORE}", path.display())))
}

fn has_log(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0)
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    let there = |path: &Path| path.try_exists().map_err(|cause| unusable(path, &cause));
    if there(path)? {
        return Ok(true);
    }
    let wal = beside(path, "-wal");
    if there(&wal)? {
        let what = "is there without its database: put the database file back, or move this file away";
        return Err(StoreError::Damaged(format!("{} {what}; nothing was changed", wal.display())));
    }
    Ok(false)
}

/// Makes a database under another name and renames it, so that there is never half of one.
fn create(path: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    let draft = beside(path, ".new");
    for leftover in ["", "-wal", "-shm", "-journal"] {
        let leftover = beside(&draft, leftover);
        remove_if_there(&leftover).map_err(|cause| unusable(&leftover, &cause))?;
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(|cause| unusable(&draft, &cause))?;
    let mut database = writer(&draft)?;
    database.pragma_update(None, "application_id", APPLICATION_ID).map_err(|cause| fault(&cause))?;
    migrate(&mut database, 0, sealer)?;
    identify(&database, sealer)?;
    database.close().map_err(|(_, cause)| fault(&cause))?;
    settle(&draft, path).map_err(|cause| unusable(path, &cause))
}

fn settle(draft: &Path, path: &Path) -> std::io::Result<()> {
    File::open(draft)?.sync_all()?;
    std::fs::rename(draft, path)?;
    sync_folder_of(path)
}

/// The store's identity, and the value by which the right master key is known.
fn identify(database: &Connection, sealer: &Sealer) -> Result<(), StoreError> {
    let mut id = [0; 8];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| StoreError::Unusable("the system gives no random bytes".into()))?;
    let mut put = database.prepare("INSERT INTO meta (key, value) VALUES (?1, ?2)").map_err(|cause| fault(&cause))?;
    put.execute(("store_id", i64::from_le_bytes(id))).map_err(|cause| fault(&cause))?;
    put.execute((KEY_CHECK, sealer.check_value())).map_err(|cause| fault(&cause))?;
    Ok(())
}

/// Reads who wrote the file and for which key; changes nothing, not even by closing it. Tells the sealer which of its
/// keys are good for what.
///
/// # Errors
/// As [`prepare`].
pub fn examine(path: &Path, sealer: &Sealer) -> Result<i64, StoreError> {
    let has_log = has_log(path);
    check_length(path, has_log)?;
    let database = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let damaged = |cause: rusqlite::Error| at_opening(path, &cause);
    // Closing would copy the log into the file; without a log, closing removes the empty one it made.
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log).map_err(damaged)?;
    let found: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(damaged)?;
    let application: i64 = database.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(damaged)?;
    if application != APPLICATION_ID || found < 1 {
        return Err(StoreError::Damaged(format!(
            "{} is a database of another program; nothing was changed: name another file as the store",
            path.display()
        )));
    }
    if found > known_version() {
        return Err(StoreError::Newer { found, known: known_version() });
    }
    let check = |key| meta::<Vec<u8>>(&database, key).map_err(damaged);
    settle_keys(path, sealer, check(KEY_CHECK)?, check(NEXT_KEY_CHECK)?)?;
    if found >= FINGERPRINT_KEY_SINCE {
        let key: Option<Vec<u8>> = meta(&database, FINGERPRINT_KEY).map_err(damaged)?;
        adopt_fingerprint_key(sealer, key).map_err(|what| {
            StoreError::Damaged(format!("{}: {what}; nothing was changed: {RESTORE}", path.display()))
        })?;
    }
    Ok(found)
}

fn adopt_fingerprint_key(sealer: &Sealer, key: Option<Vec<u8>>) -> Result<(), String> {
    let key = key.ok_or("the key of its fingerprints is missing")?;
    sealer.adopt_fingerprint_key(&key).map_err(|cause| format!("the key of its fingerprints: {cause}"))
}

fn settle_keys(
    path: &Path,
    sealer: &Sealer,
    key: Option<Vec<u8>>,
    next_key: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    let key = key.unwrap_or_default();
    let settled = match &next_key {
        Some(next_key) => sealer.settle(next_key, Some(&key)),
        None => sealer.settle(&key, None),
    };
    if settled {
        return Ok(());
    }
    let path = path.display();
    Err(StoreError::Damaged(if next_key.is_some_and(|next_key| sealer.knows(&key) != sealer.knows(&next_key)) {
        format!(
            "{path} is in the middle of a rotation of its master key, and only one of its two keys is at hand; nothing \
             was changed: put both master.key and master.key.next back that belong to it"
        )
    } else {
        format!(
            "{path} was sealed under another master key; nothing was changed: put the master key back that belongs to it"
        )
    }))
}

/// One value of the table `meta`.
///
/// # Errors
/// SQLite's.
pub fn meta<T: FromSql>(database: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    database.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
}

/// What SQLite itself would take for an empty database, or would not notice.
fn check_length(path: &Path, has_log: bool) -> Result<(), StoreError> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut header = Vec::with_capacity(HEADER_BYTES);
    let read = File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        file.take(HEADER_BYTES as u64).read_to_end(&mut header).map(|_| length)
    });
    let length = read.map_err(|cause| unusable(path, &cause))?;
    let what = match header.first_chunk::<HEADER_BYTES>() {
        None => "is cut off",
        Some(header) if !header.starts_with(MAGIC) => "is no database",
        // After a crash the rest may still be in the log; SQLite looks there itself.
        Some(header) if !has_log && length < said_length(header) => "is cut off",
        Some(_) => return Ok(()),
    };
    Err(StoreError::Damaged(format!("{} {what}; nothing was changed: {RESTORE}", path.display())))
}

/// The length of the header of a database file.
const HEADER_BYTES: usize = 100;

/// How long the file is by its own header: page size times number of pages.
fn said_length(header: &[u8; HEADER_BYTES]) -> u64 {
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes),
    };
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    page_bytes * u64::from(pages)
}

const RESTORE: &str = "restore it from a backup, or move it away to start with an empty store";

/// An error at opening, with the file's name and what to do.
pub fn at_opening(path: &Path, cause: &rusqlite::Error) -> StoreError {
    match fault(cause) {
        StoreError::Damaged(what) => {
            StoreError::Damaged(format!("{}: {what}; nothing was changed: {RESTORE}", path.display()))
        }
        StoreError::Unusable(what) => StoreError::Unusable(format!("{}: {what}", path.display())),
        other => other,
    }
}

/// Applies what is missing, each step in its own transaction together with its number.
fn migrate(database: &mut Connection, from: i64, sealer: &Sealer) -> Result<(), StoreError> {
    for (step, version) in MIGRATIONS.iter().zip(1..).filter(|(_, version)| *version > from) {
        let run = |database: &mut Connection| {
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(step.sql)?;
            (step.then)(&transaction, sealer)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()
        };
        run(database).map_err(|cause: rusqlite::Error| fault(&cause))?;
    }
    Ok(())
}

/// Opens a connection that writes.
///
/// # Errors
/// [`StoreError`] as SQLite gave it.
pub fn writer(path: &Path) -> Result<Connection, StoreError> {
    let database = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let configure = || {
        database.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        database.pragma_update(None, "synchronous", "FULL")?;
        database.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
        database.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
        database.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)
    };
    configure().map_err(|cause| at_opening(path, &cause))?;
    Ok(database)
}

/// Opens a connection that only reads.
///
/// # Errors
/// [`StoreError`] as SQLite gave it.
pub fn reader(path: &Path) -> Result<Connection, StoreError> {
    let database = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    database.pragma_update(None, "cache_size", -READER_CACHE_KIB).map_err(|cause| at_opening(path, &cause))?;
    Ok(database)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let configured = Connection::open_with_flags(path, flags).and_then(|database| {
        database.busy_timeout(BUSY_WAIT)?;
        // Without this, SQLite looks at the values bound to a statement and plans it anew for each.
        database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        database.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(database)
    });
    configured.map_err(|cause| at_opening(path, &cause))
}

/// Takes the file away from everybody else; SQLite gives its companions the same mode.
fn restrict(path: &Path) -> Result<(), StoreError> {
    let restrict = || {
        let found = std::fs::metadata(path)?.permissions().mode() & 0o7777;
        if found == 0o600 { Ok(()) } else { std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)) }
    };
    restrict().map_err(|cause| unusable(path, &cause))
}

/// The path of a companion of the database file.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn unusable(path: &Path, cause: &std::io::Error) -> StoreError {
    StoreError::Unusable(format!("{}: {cause}", path.display()))
}
