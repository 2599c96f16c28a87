//! The state folder and its files.

use super::daemon::Daemon;
use super::{Check, Verdict};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tokenkeep::KeySource;
use tokenkeep::journal::file::FileJournal;
use tokenkeep::keys::{KeyError, MASTER_KEY_FILE, sealer_of};
use tokenkeep::seal::Sealer;
use tokenkeep::store::StoreError;
use tokenkeep::store::sqlite::SqliteStore;

/// Less free space than this is a fault: a new journal alone takes 20 MiB, and a log of the database may grow.
const FREE_BYTES_MIN: u64 = 100 * 1024 * 1024;

/// What the state folder is, as far as looking at it tells.
pub struct Folder {
    path: PathBuf,
    found: Found,
}

enum Found {
    /// Nobody has made it yet.
    Missing,
    /// It cannot be looked at.
    Unreadable(std::io::Error),
    /// Something else has its name.
    NoFolder,
    Folder {
        owner: u32,
        mode: u32,
    },
}

impl Folder {
    /// Looks at it.
    pub fn look(path: &Path) -> Self {
        let found = match fs::metadata(path) {
            Ok(found) if !found.is_dir() => Found::NoFolder,
            Ok(found) => Found::Folder { owner: found.uid(), mode: found.permissions().mode() & 0o7777 },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Found::Missing,
            Err(error) => Found::Unreadable(error),
        };
        Self { path: path.to_owned(), found }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there, and this user's.
    pub fn is_ours(&self) -> bool {
        matches!(self.found, Found::Folder { owner, .. } if owner == us())
    }

    /// Exists, is ours, and nobody else may look in.
    pub fn check(&self) -> Check {
        const NAME: &str = "state folder";
        let path = self.path.display();
        match &self.found {
            Found::Missing => Check::fault(
                NAME,
                format!("{path} does not exist"),
                "start the daemon with `tokenkeep serve`, which makes it; or name another with --state-dir",
            ),
            Found::NoFolder => Check::fault(NAME, format!("{path} is no folder"), "name a folder with --state-dir"),
            Found::Unreadable(error) => {
                Check::fault(NAME, format!("{path} cannot be read: {error}"), "run this as the daemon's user")
            }
            Found::Folder { owner, mode } => judge(&path.to_string(), *owner, *mode, us()),
        }
    }

    /// What is in the folder; nothing where there is none.
    pub fn content(&self, daemon: &Daemon, source: &KeySource) -> Vec<Check> {
        if !matches!(self.found, Found::Folder { .. }) {
            return Vec::new();
        }
        let key = Key::look(&self.path, source);
        vec![key.check(), self.journal(&key), self.database(&key, daemon), self.space()]
    }

    /// Reading a journal's header disturbs nobody.
    fn journal(&self, key: &Key) -> Check {
        const NAME: &str = "journal";
        let path = self.path.join("journal");
        let Key::Read(sealer) = key else { return Check::skipped(NAME, "without the master key") };
        if !path.exists() {
            return Check::skipped(NAME, "there is none yet");
        }
        match FileJournal::check_key(&path, sealer) {
            Ok(()) => Check::ok(NAME, "fits the master key"),
            Err(error) => {
                Check::fault(NAME, error.to_string(), "put back the file, or the master key, that belongs here")
            }
        }
    }

    fn database(&self, key: &Key, daemon: &Daemon) -> Check {
        const NAME: &str = "database";
        let path = self.path.join("tokenkeep.db");
        let Key::Read(sealer) = key else { return Check::skipped(NAME, "without the master key") };
        if !path.exists() {
            return Check::skipped(NAME, "there is none yet");
        }
        if let Some(why) = daemon.forbids_looking() {
            return Check::skipped(NAME, why);
        }
        match SqliteStore::check(&path, sealer) {
            Ok(()) => Check::ok(NAME, "whole, and fits the master key"),
            Err(error) => Check::fault(NAME, error.to_string(), mend_store(&error)),
        }
    }

    fn space(&self) -> Check {
        const NAME: &str = "disk space";
        match rustix::fs::statvfs(&self.path) {
            Ok(disk) => {
                space(NAME, disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_files > 0 && disk.f_favail == 0)
            }
            Err(error) => Check::skipped(NAME, format!("the system does not say: {error}")),
        }
    }
}

/// Whose the folder is and who may look in; `us` is who asks.
fn judge(path: &str, owner: u32, mode: u32, us: u32) -> Check {
    const NAME: &str = "state folder";
    if mode & 0o077 != 0 {
        let found = format!("{path} has mode {mode:04o}, so others may look in");
        return Check::fault(NAME, found, format!("`chmod 700 {path}`"));
    }
    if owner == us {
        return Check::ok(NAME, format!("{path}, mode {mode:04o}"));
    }
    // Root may look at everybody's; whether the daemon runs as the owner, its socket will tell.
    let verdict = if us == 0 { Verdict::Note } else { Verdict::Fault };
    let mend =
        format!("run this as the daemon's user; if the owner is wrong, `chown -R` the folder to that user: {path}");
    Check {
        mend: Some(mend),
        ..Check::new(NAME, verdict, format!("{path} belongs to user {owner}, and this is user {us}"))
    }
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn space(name: &str, free_bytes: u64, no_inodes: bool) -> Check {
    let free_mib = free_bytes / 1024 / 1024;
    let mend = "free space on the file system of the state folder, or move the folder while the daemon is stopped";
    if no_inodes {
        return Check::fault(name, "no further file can be made", mend);
    }
    if free_bytes < FREE_BYTES_MIN {
        let least = FREE_BYTES_MIN / 1024 / 1024;
        return Check::fault(name, format!("{free_mib} MiB are free, expected at least {least}"), mend);
    }
    Check::ok(name, format!("{free_mib} MiB free"))
}

fn mend_store(error: &StoreError) -> &'static str {
    match error {
        StoreError::Newer { .. } => "start the newer tokenkeep that wrote it",
        StoreError::Unusable(_) => "make the file readable and writable for the daemon's user, and mend the disk",
        _ => "keep a copy of the state folder before you try anything, then put back what belongs here",
    }
}

/// The master key.
enum Key {
    /// There is none, and nothing that one sealed.
    NotYet,
    /// There is none, and something that it sealed.
    Lost(PathBuf),
    Unusable(KeyError),
    Read(Box<Sealer>),
}

impl Key {
    fn look(folder: &Path, source: &KeySource) -> Self {
        let path = folder.join(MASTER_KEY_FILE);
        if !source.is_ours() || path.symlink_metadata().is_ok() {
            let sealer = sealer_of(folder, source.clone());
            return sealer.map_or_else(Self::Unusable, |sealer| Self::Read(Box::new(sealer)));
        }
        let sealed = ["tokenkeep.db", "journal"].iter().any(|name| folder.join(name).exists());
        if sealed { Self::Lost(path) } else { Self::NotYet }
    }

    fn check(&self) -> Check {
        const NAME: &str = "master key";
        match self {
            Self::NotYet => Check::new(NAME, Verdict::Skipped, "there is none yet; the daemon makes one"),
            Self::Lost(path) => Check::fault(
                NAME,
                format!("{} does not exist, and the database was sealed with it", path.display()),
                "put the master key back: without it nothing here can be read",
            ),
            Self::Unusable(error) => Check::fault(NAME, error.to_string(), mend_key(error)),
            Self::Read(_) => Check::ok(NAME, "there, of the right length, and its owner's alone"),
        }
    }
}

fn mend_key(error: &KeyError) -> String {
    match error {
        KeyError::Mode { path, .. } => format!("`chmod 600 {}`", path.display()),
        KeyError::NoKey { .. } => "put the right key back; a cut-off key cannot be made whole".to_owned(),
        KeyError::File { path, .. } => format!("make {} readable for the daemon's user", path.display()),
        KeyError::NotSet(_) | KeyError::NoCredentials(_) => {
            "the daemon may have it: run this in its environment, or correct [store] master_key".to_owned()
        }
        KeyError::NotTakenOver { next, .. } => format!("put the content of {} there", next.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_is_there_and_its_owner_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &Path| Folder::look(path).check();
        set_mode(folder.path(), 0o700);
        assert_eq!(check(folder.path()).verdict, Verdict::Ok);
        set_mode(folder.path(), 0o750);
        let open = check(folder.path());
        assert!(open.found.contains("0750") && open.mend.unwrap().contains("chmod 700"));
        assert!(check(&folder.path().join("none")).found.contains("does not exist"));
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check(&file).found.contains("is no folder"));
    }

    #[test]
    fn another_s_folder_is_a_fault_and_for_root_worth_knowing() {
        let verdict = |owner, mode, us| judge("/s", owner, mode, us).verdict;
        assert_eq!(verdict(7, 0o700, 7), Verdict::Ok);
        assert_eq!(verdict(7, 0o700, 8), Verdict::Fault);
        assert_eq!(verdict(7, 0o700, 0), Verdict::Note);
        assert_eq!(verdict(7, 0o701, 0), Verdict::Fault);
    }

    #[test]
    fn a_key_is_there_of_the_right_length_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let check = || Key::look(folder.path(), &KeySource::StateFolder).check();
        assert_eq!(check().verdict, Verdict::Skipped);
        fs::write(folder.path().join("journal"), "").unwrap();
        assert!(check().found.contains("sealed with it"));
        tokenkeep::keys::create_file(&path).unwrap();
        assert_eq!(check().verdict, Verdict::Ok);
        set_mode(&path, 0o640);
        assert!(check().mend.unwrap().contains("chmod 600"));
        set_mode(&path, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(check().found.contains("holds 5 bytes"));
    }

    #[test]
    fn a_nearly_full_disk_is_a_fault() {
        assert_eq!(space("d", FREE_BYTES_MIN, false).verdict, Verdict::Ok);
        assert!(space("d", FREE_BYTES_MIN - 1, false).found.starts_with("99 MiB"));
        assert_eq!(space("d", u64::MAX, true).verdict, Verdict::Fault);
    }
}
