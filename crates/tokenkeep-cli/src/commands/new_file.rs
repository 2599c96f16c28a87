//! A file that nobody ever sees half of: it has its name when all of it is durable, and is gone otherwise.

use std::fs::File;
use std::io;
use std::path::Path;
use tempfile::NamedTempFile;

/// What becomes of a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays.
    Keep,
    /// It is replaced.
    Replace,
}

/// A new file beside `path`, mode 0600, that is gone again unless it is kept.
///
/// # Errors
/// As the system says.
pub fn draft(path: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".tokenkeep-").tempfile_in(folder_of(path))
}

/// Gives the draft its name, durably.
///
/// # Errors
/// As the system says; `AlreadyExists` where a file is there that stays.
pub fn keep(draft: NamedTempFile, path: &Path, existing: Existing) -> io::Result<()> {
    draft.as_file().sync_all()?;
    let kept = match existing {
        Existing::Replace => draft.persist(path),
        Existing::Keep => draft.persist_noclobber(path),
    };
    kept.map_err(|failed| failed.error)?;
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
