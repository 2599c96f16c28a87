//! Copies of the database as a whole: taken while it is in use, and made ready to be used in another place.

use super::ops::set_meta;
use super::schema::{self, RESTORED_FROM};
use super::{SqliteStore, at_file, fault};
use crate::seal::Sealer;
use crate::store::StoreError;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection as Database, DEFAULT_NAME};
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// How long emptying the log may keep the writer from writing at each try.
const LOG_WAIT: Duration = Duration::from_millis(100);
/// How often emptying the log is tried at once.
const LOG_TRIES: usize = 50;

impl SqliteStore {
    /// Writes a copy of the database as it is now to `path`, which must not exist, while others read and write. It
    /// holds what is sealed as it is sealed, and nothing of what was removed.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: a full disk, for instance; then there is no file.
    pub async fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let (from, to) = (self.path.clone(), path.to_owned());
        off_the_runtime(move || copy(&from, &to)).await
    }

    /// Copies the log into the database file and empties it, so that no file holds what was overwritten.
    ///
    /// # Errors
    /// [`StoreError::Unusable`], also when somebody reads or writes all the time: try again.
    pub async fn empty_log(&self) -> Result<(), StoreError> {
        let path = self.path.clone();
        off_the_runtime(move || empty_log(&path)).await
    }
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let gone = |_| StoreError::Unusable("the thread that copies has ended".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(gone)?
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let unusable = |cause: std::io::Error| StoreError::Unusable(format!("{}: {cause}", to.display()));
    // Made by us, so that it is nobody else's to read; SQLite takes an empty file.
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(unusable)?;
    let copied = schema::reader(from).and_then(|database| {
        let path = to.to_str().ok_or_else(|| StoreError::Unusable(format!("{} is not UTF-8", to.display())))?;
        database.execute("VACUUM INTO ?1", [path]).map(drop).map_err(|cause| at_file(to, fault(&cause)))
    });
    if copied.is_err() {
        fs::remove_file(to).map_err(unusable)?;
    }
    copied
}

fn empty_log(path: &Path) -> Result<(), StoreError> {
    let database = schema::writer(path)?;
    let failed = |cause: &rusqlite::Error| at_file(path, fault(cause));
    database.busy_timeout(LOG_WAIT).map_err(|cause| failed(&cause))?;
    for _ in 0..LOG_TRIES {
        if is_log_emptied(&database).map_err(|cause| failed(&cause))? {
            return Ok(());
        }
    }
    Err(at_file(path, StoreError::Unusable("its log cannot be emptied while it is read or written".to_owned())))
}

fn is_log_emptied(database: &Database) -> rusqlite::Result<bool> {
    match database.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::TRUNCATE) {
        Ok((log, _)) => Ok(log == 0),
        Err(cause) if cause.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// Makes a copy at `path` ready to be used in another place: checks it, and marks that it came from the backup of
/// this number, so that its rotating connections start held.
///
/// # Errors
/// [`StoreError::Damaged`], [`StoreError::Newer`] or [`StoreError::Unusable`], as at opening a database.
pub fn mark_restored(path: &Path, sealer: &Sealer, backup: [u8; 16]) -> Result<(), StoreError> {
    schema::examine(path, sealer)?;
    let database = schema::writer(path)?;
    let failed = |cause: rusqlite::Error| at_file(path, fault(&cause));
    let found: String = database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found != "ok" {
        return Err(at_file(path, StoreError::Damaged(found)));
    }
    set_meta(&database, RESTORED_FROM, backup).map_err(|fault| at_file(path, fault))?;
    database.close().map_err(|(_, cause)| failed(cause))
}
