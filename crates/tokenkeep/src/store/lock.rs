//! One daemon for each state folder.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The lock's file in the state folder.
pub const LOCK_FILE: &str = "lock";
/// How much of the file is read; its holder writes less.
const CONTENT_BYTES_MAX: u64 = 1_024;

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process uses it. `holder` is what that one wrote about itself.
    #[error("another tokenkeep ({holder}) uses this state folder: {folder}")]
    Held {
        /// The folder.
        folder: PathBuf,
        /// `pid N, since T`.
        holder: String,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("the lock {path} cannot be taken: {cause}")]
    Unusable {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// The right to use a state folder, as long as it lives. The kernel takes it back when the process ends,
/// however it ends.
///
/// ```
/// use tokenkeep::store::lock::StateLock;
/// let folder = tempfile::tempdir().unwrap();
/// let held = StateLock::acquire(folder.path()).unwrap();
/// assert!(StateLock::acquire(folder.path()).is_err());
/// drop(held);
/// assert!(StateLock::acquire(folder.path()).is_ok());
/// ```
#[derive(Debug)]
pub struct StateLock {
    // Closing it releases the lock.
    _file: File,
}

impl StateLock {
    /// Takes the lock of `folder`, which must exist, and writes into it who holds it. Never waits.
    ///
    /// # Errors
    /// [`LockError::Held`] while another process has it, else [`LockError::Unusable`].
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(LOCK_FILE);
        match take(&path) {
            Ok(Taken::Ours(file)) => Ok(Self { _file: file }),
            Ok(Taken::Theirs(holder)) => Err(LockError::Held { folder: folder.to_owned(), holder }),
            Err(cause) => Err(LockError::Unusable { path, cause }),
        }
    }
}

/// What came of trying to [`take`] a lock.
pub(crate) enum Taken {
    /// It is ours while the file is open.
    Ours(File),
    /// Somebody has it: what that one wrote about itself.
    Theirs(String),
}

/// Takes the lock at `path`, and writes into it who holds it. Never waits.
pub(crate) fn take(path: &Path) -> std::io::Result<Taken> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return holder(&file).map(Taken::Theirs),
        Err(cause) => return Err(cause.into()),
    }
    file.set_len(0)?;
    file.rewind()?;
    let (pid, since, version) = (std::process::id(), started(), env!("CARGO_PKG_VERSION"));
    write!(file, "pid {pid}\nsince {since}\nversion {version}\n")?;
    file.sync_all()?;
    Ok(Taken::Ours(file))
}

/// Now, to the second: when this process took the lock.
fn started() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// What the holder wrote about itself, made printable.
fn holder(file: &File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.take(CONTENT_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let said = match (value("pid"), value("since")) {
        (Some(pid), Some(since)) => format!("pid {pid}, since {since}"),
        // It has the lock and has not written yet.
        _ => "just starting".to_owned(),
    };
    Ok(tokenkeep_core::model::printable(&said, 120))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_second_one_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateLock::acquire(folder.path()).unwrap();
        let error = StateLock::acquire(folder.path()).unwrap_err().to_string();
        let expected = format!("another tokenkeep (pid {}, since 2", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains(") uses this state folder"), "{error}");
        drop(held);
        let _again = StateLock::acquire(folder.path()).unwrap();
        let path = folder.path().join(LOCK_FILE);
        let content = std::fs::read_to_string(&path).unwrap();
        assert!(content.ends_with(concat!("version ", env!("CARGO_PKG_VERSION"), "\n")), "{content}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lock_file_left_by_a_dead_process_is_taken_over_whatever_it_says() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(LOCK_FILE), "pid 1\nsince for ever\n".repeat(100)).unwrap();
        let _held = StateLock::acquire(folder.path()).unwrap();
        let error = StateLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = StateLock::acquire(Path::new("/nowhere/at/all")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all/lock"), "{error}");
    }
}
