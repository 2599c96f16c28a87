//! A token file on its disk: who keeps it, who may touch it now, what lies there, and how it is replaced.
//!
//! Everything here blocks. Beside a token file `FILE` lie
//! - `FILE.keeper`: held by the one daemon that keeps it, as long as it does, and names that daemon;
//! - `FILE.lock`: held by whoever reads, compares and replaces the file. A program that takes it (`flock`) around
//!   its own reading and writing never meets a change of ours half way;
//! - `.FILE.tokenkeep`: for a moment, the next content; after a crash, or after a program wrote at the same moment
//!   without taking the lock, what lay there before.

use super::format::BYTES_MAX;
use crate::files::sync_folder_of;
use crate::store::lock::{self, Taken};
use rustix::fs::OFlags;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokenkeep_core::Secret;
use zeroize::Zeroizing;

/// The most links that are followed to a token file.
const LINKS_MAX: usize = 40;
/// A change may hide behind one that was seen within the file system's tick; after this long it cannot.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Why nothing can be done with the file now: a sentence's end, without secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault(pub(super) String);

impl Fault {
    fn io(doing: impl fmt::Display, path: &Path, cause: &io::Error) -> Self {
        Self(format!("{doing} {}: {cause}", path.display()))
    }
}

/// A path that says where it is, whatever the folder of whoever reads it.
pub(super) fn absolute(path: &Path) -> PathBuf {
    // Only an empty path has none, and that is no file either way.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Follows links to the file itself, which may not be there yet. What is replaced is never the link.
pub(super) fn target(path: &Path) -> Result<PathBuf, Fault> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(Fault(format!("more than {LINKS_MAX} links lead on from {}", path.display())))
}

fn beside(target: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = OsString::from(before);
    name.push(target.file_name().unwrap_or_default());
    name.push(after);
    target.with_file_name(name)
}

/// The right to keep a token file, as long as it lives.
#[derive(Debug)]
pub(crate) struct Keeper {
    target: PathBuf,
    // Closing it releases the lock.
    _lock: File,
}

/// What came of trying to become the [`Keeper`].
pub(crate) enum Keeping {
    /// Nobody else keeps the file.
    Ours(Keeper),
    /// Another daemon does: what it says about itself.
    Theirs(String),
}

impl Keeper {
    /// Takes the right to keep the file at `target`. Never waits.
    pub(super) fn take(target: &Path) -> Result<Keeping, Fault> {
        let path = beside(target, "", ".keeper");
        match lock::take(&path).map_err(|cause| Fault::io("cannot make", &path, &cause))? {
            Taken::Ours(lock) => Ok(Keeping::Ours(Self { target: target.to_owned(), _lock: lock })),
            Taken::Theirs(holder) => Ok(Keeping::Theirs(holder)),
        }
    }

    pub(super) fn keeps(&self, target: &Path) -> bool {
        self.target == target
    }
}

/// Tells one content of a file from the next without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// What lies at `path` now; `None` where nothing does, or nothing that can be looked at.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|found| Self::of(&found))
    }

    /// False while a further change would not change the stamp.
    pub(super) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.changed.0.abs_diff(i64::try_from(now).unwrap_or(i64::MAX)) > SETTLED_AFTER.as_secs()
    }
}

/// What lay at a path when it was read.
pub(super) struct Contents {
    bytes: Option<Zeroizing<Vec<u8>>>,
    found: Option<fs::Metadata>,
}

impl Contents {
    /// The bytes; `None` where there is no file.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_ref().map(|bytes| bytes.as_slice())
    }

    /// Which content it was.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.found.as_ref().map(Stamp::of)
    }
}

/// Reads a whole file, at most a byte more than a token file may have.
fn read(path: &Path) -> Result<Contents, Fault> {
    let failed = |cause: io::Error| Fault::io("cannot read", path, &cause);
    // Opening a pipe would wait for somebody to write into it.
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Contents { bytes: None, found: None }),
        Err(cause) => return Err(failed(cause)),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        let kind = if found.is_dir() { "a folder" } else { "no regular file" };
        return Err(Fault(format!("{} is {kind}", path.display())));
    }
    let most = BYTES_MAX + 1;
    // Large enough from the start: growing would leave parts of secrets behind.
    let expected = usize::try_from(found.len()).unwrap_or(most).saturating_add(1).min(most);
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    file.take(most as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Contents { bytes: Some(bytes), found: Some(found) })
}

/// The right to read, compare and replace a token file, as long as it lives.
#[derive(Debug)]
pub(super) struct Locked {
    target: PathBuf,
    next: PathBuf,
    // Closing it releases the lock.
    _lock: File,
}

/// What came of [`Locked::replace`].
#[derive(Debug)]
pub(super) enum Replaced {
    /// It is done and durable.
    Done(Stamp),
    /// Somebody wrote at the same moment without taking the lock. What they wrote is not lost: it is the file, or
    /// [`Locked::displaced`].
    Changed,
}

impl Locked {
    /// Takes `FILE.lock`; `None` while somebody else holds it. Never waits.
    pub(super) fn take(target: &Path) -> Result<Option<Self>, Fault> {
        let path = beside(target, "", ".lock");
        let failed = |cause: io::Error| Fault::io("cannot lock", &path, &cause);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed());
        let lock = options.open(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        Ok(Some(Self { target: target.to_owned(), next: beside(target, ".", ".tokenkeep"), _lock: lock }))
    }

    /// The file as it is.
    pub(super) fn read(&self) -> Result<Contents, Fault> {
        read(&self.target)
    }

    /// What a program wrote while the file was being replaced, or what a crash left behind: to be looked at, then
    /// dropped by [`Locked::drop_displaced`].
    pub(super) fn displaced(&self) -> Result<Contents, Fault> {
        read(&self.next)
    }

    /// Removes what [`Locked::displaced`] showed.
    pub(super) fn drop_displaced(&self) -> Result<(), Fault> {
        fs::remove_file(&self.next).map_err(|cause| Fault::io("cannot remove", &self.next, &cause))
    }

    /// Replaces the file, which was `before`, by `text`: the new file is durable before it takes the name, and the
    /// name before this returns. A reader sees the one or the other, whole.
    pub(super) fn replace(&self, before: &Contents, text: &Secret) -> Result<Replaced, Fault> {
        let failed = |cause: io::Error| Fault::io("cannot write", &self.target, &cause);
        let next = match self.prepare(before, text) {
            Ok(next) => next,
            // Somebody's content, which is looked at first.
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(Replaced::Changed),
            Err(cause) => {
                // Half a file that nobody has seen. Where it cannot be removed, the next look will.
                let _ = fs::remove_file(&self.next);
                return Err(failed(cause));
            }
        };
        match self.swap(before).map_err(failed)? {
            Swapped::Changed => return Ok(Replaced::Changed),
            Swapped::Done => {}
        }
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder_of(&self.target).map_err(|cause| Fault::io("cannot make durable", folder, &cause))?;
        let found = next.metadata().map_err(|cause| Fault::io("cannot look at", &self.target, &cause))?;
        Ok(Replaced::Done(Stamp::of(&found)))
    }

    /// Writes the next content beside the file, with the owner and the mode that the file is to have.
    fn prepare(&self, before: &Contents, text: &Secret) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut next = options.open(&self.next)?;
        if let Some(found) = &before.found {
            give_to(&next, found)?;
            next.set_permissions(fs::Permissions::from_mode(mode_kept(found.mode())))?;
        }
        next.write_all(text.expose().as_bytes())?;
        next.sync_all()?;
        Ok(next)
    }

    /// Gives the next content the file's name, and looks whether what it takes the place of is what was compared.
    fn swap(&self, before: &Contents) -> io::Result<Swapped> {
        let Some(compared) = before.bytes() else {
            return match exchange::into_nothing(&self.next, &self.target) {
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                    fs::remove_file(&self.next)?;
                    Ok(Swapped::Changed)
                }
                done => done.map(|()| Swapped::Done),
            };
        };
        if !exchange::both(&self.next, &self.target)? {
            return fs::rename(&self.next, &self.target).map(|()| Swapped::Done);
        }
        let taken_out = read(&self.next).map_err(|fault| io::Error::other(fault.0))?;
        if taken_out.bytes() != Some(compared) {
            return Ok(Swapped::Changed);
        }
        fs::remove_file(&self.next).map(|()| Swapped::Done)
    }
}

enum Swapped {
    Done,
    Changed,
}

/// The mode of a file that took the place of one with `found`. A mode that keeps the world out was chosen by
/// somebody, who may share the file with a group: it stays. One that lets the world in is what a umask made of a
/// program's `open`: it becomes 0600. Nobody executes a token file, and its owner can read it.
fn mode_kept(found: u32) -> u32 {
    let open_to_the_world = found & 0o007 != 0;
    if open_to_the_world { 0o600 } else { found & 0o660 | 0o400 }
}

/// The file keeps its owner and its group, or stays as it is: a new owner would shut out the programs that read it.
fn give_to(next: &File, found: &fs::Metadata) -> io::Result<()> {
    let ours = next.metadata()?;
    let changed = |had: u32, has: u32| (had != has).then_some(had);
    let (owner, group) = (changed(found.uid(), ours.uid()), changed(found.gid(), ours.gid()));
    if owner.is_none() && group.is_none() {
        return Ok(());
    }
    std::os::unix::fs::fchown(next, owner, group).map_err(|cause| {
        let (owner, group) = (found.uid(), found.gid());
        io::Error::new(cause.kind(), format!(
            "it belongs to user {owner} and group {group}, and this user may not give them a new file ({cause}): run the daemon as that user, or make the file anew as this one"
        ))
    })
}

/// Renaming that shows what it replaced.
mod exchange {
    use std::io;
    use std::path::Path;

    /// Two files take each other's names; false where the file system cannot do that.
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(super) fn both(one: &Path, other: &Path) -> io::Result<bool> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(cause) => Err(cause.into()),
        }
    }

    /// A file takes a name that nobody has; `AlreadyExists` where somebody was faster.
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(super) fn into_nothing(one: &Path, other: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, one, CWD, other, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::rename(one, other),
            done => Ok(done?),
        }
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    pub(super) fn both(_: &Path, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    pub(super) fn into_nothing(one: &Path, other: &Path) -> io::Result<()> {
        std::fs::rename(one, other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn locked(path: &Path) -> Locked {
        Locked::take(path).unwrap().expect("nobody else has it")
    }

    fn said(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Writes `text` as a keeper does that met nobody else.
    #[track_caller]
    fn write(path: &Path, text: &str) -> Stamp {
        let locked = locked(path);
        match locked.replace(&locked.read().unwrap(), &Secret::new(text)).unwrap() {
            Replaced::Done(stamp) => stamp,
            Replaced::Changed => panic!("somebody else wrote"),
        }
    }

    #[test]
    fn a_new_file_is_this_user_s_alone_and_nothing_is_left_beside_it() {
        let folder = folder();
        let path = folder.path().join("token.json");
        let stamp = write(&path, "one");
        assert_eq!((said(&path).as_str(), mode(&path)), ("one", 0o600));
        assert_eq!(Stamp::at(&path), Some(stamp), "our own writing is no change");
        write(&path, "two");
        assert_ne!(Stamp::at(&path), Some(stamp));
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["token.json", "token.json.lock"]);
    }

    #[test]
    fn a_mode_that_somebody_chose_is_kept() {
        let path = folder().keep().join("token.json");
        fs::write(&path, "0").unwrap();
        for (found, kept) in [
            (0o644, 0o600),
            (0o666, 0o600),
            (0o600, 0o600),
            (0o640, 0o640),
            (0o660, 0o660),
            (0o400, 0o400),
            (0o4750, 0o640),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(found)).unwrap();
            write(&path, "1");
            assert_eq!(mode(&path), kept, "{found:o}");
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_file_keeps_its_owner() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let folder = folder();
        let path = folder.path().join("token.json");
        fs::write(&path, "0").unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
        write(&path, "1");
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 2345));
    }

    #[test]
    fn links_are_followed_and_stay() {
        let folder = folder();
        let (real, inner, outer) = ("real/token.json", "inner.json", "outer.json");
        fs::create_dir(folder.path().join("real")).unwrap();
        symlink(real, folder.path().join(inner)).unwrap();
        symlink(folder.path().join(inner), folder.path().join(outer)).unwrap();
        let found = target(&folder.path().join(outer)).unwrap();
        write(&found, "through links");
        assert_eq!(said(&folder.path().join(real)), "through links");
        assert!(fs::symlink_metadata(folder.path().join(outer)).unwrap().is_symlink());
        assert!(fs::symlink_metadata(folder.path().join(inner)).unwrap().is_symlink());
        symlink("loop.json", folder.path().join("loop.json")).unwrap();
        assert!(target(&folder.path().join("loop.json")).unwrap_err().0.contains("40 links"));
    }

    #[test]
    fn what_a_program_wrote_at_the_same_moment_is_not_lost() {
        let folder = folder();
        let path = folder.path().join("token.json");
        // It replaces the file, or writes into it.
        let replace = |path: &Path| {
            fs::write(path.with_extension("tmp"), "foreign").unwrap();
            fs::rename(path.with_extension("tmp"), path).unwrap();
        };
        let write_into = |path: &Path| fs::write(path, "foreign").unwrap();
        for foreign in [&replace as &dyn Fn(&Path), &write_into] {
            fs::write(&path, "before").unwrap();
            let locked = locked(&path);
            let before = locked.read().unwrap();
            foreign(&path);
            assert!(matches!(locked.replace(&before, &Secret::new("ours")).unwrap(), Replaced::Changed));
            assert_eq!(locked.displaced().unwrap().bytes(), Some(&b"foreign"[..]));
            // As long as nobody has looked at it, nothing else is written.
            let again = locked.replace(&locked.read().unwrap(), &Secret::new("ours again")).unwrap();
            assert!(matches!(again, Replaced::Changed));
            assert_eq!(locked.displaced().unwrap().bytes(), Some(&b"foreign"[..]));
            locked.drop_displaced().unwrap();
            assert_eq!(locked.displaced().unwrap().bytes(), None);
        }
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten() {
        let folder = folder();
        let path = folder.path().join("token.json");
        let locked = locked(&path);
        let before = locked.read().unwrap();
        fs::write(&path, "foreign").unwrap();
        assert!(matches!(locked.replace(&before, &Secret::new("ours")).unwrap(), Replaced::Changed));
        assert_eq!((said(&path).as_str(), locked.displaced().unwrap().bytes()), ("foreign", None));
    }

    #[test]
    fn a_program_that_holds_the_lock_is_not_disturbed() {
        let folder = folder();
        let path = folder.path().join("token.json");
        let theirs = File::create(folder.path().join("token.json.lock")).unwrap();
        theirs.lock().unwrap();
        assert!(Locked::take(&path).unwrap().is_none());
        drop(theirs);
        assert!(Locked::take(&path).unwrap().is_some());
    }

    #[test]
    fn a_second_keeper_is_told_who_has_it() {
        let folder = folder();
        let path = folder.path().join("token.json");
        let Keeping::Ours(held) = Keeper::take(&path).unwrap() else { panic!("nobody else has it") };
        assert!(held.keeps(&path) && !held.keeps(folder.path()));
        match Keeper::take(&path).unwrap() {
            Keeping::Theirs(holder) => assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}"),
            Keeping::Ours(_) => panic!("two keepers"),
        }
        drop(held);
        assert!(matches!(Keeper::take(&path).unwrap(), Keeping::Ours(_)));
    }

    #[test]
    fn what_is_no_file_is_named_and_nobody_waits_for_a_pipe() {
        let folder = folder();
        let fault = |path: &Path| read(path).err().map(|fault| fault.0).unwrap_or_default();
        assert!(fault(folder.path()).ends_with("is a folder"));
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(fault(&pipe).ends_with("is no regular file"));
        assert!(fault(Path::new("/dev/zero")).ends_with("is no regular file"));
        let nowhere = folder.path().join("nowhere/token.json");
        let fault = Keeper::take(&nowhere).err().map(|fault| fault.0).unwrap_or_default();
        assert!(fault.contains("nowhere/token.json.keeper") && fault.contains("No such file"), "{fault}");
    }

    #[test]
    fn a_huge_file_is_read_no_further_than_it_may_be() {
        let folder = folder();
        let path = folder.path().join("token.json");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path).unwrap().bytes().unwrap().len(), BYTES_MAX + 1);
    }
}
