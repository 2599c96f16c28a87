//! Where the master key comes from, and the files that hold it.
//!
//! In the state folder, `master.key` is the master key, where no other source is configured. During a rotation
//! `master.key.next` holds the new one; the database says by their check values what each is good for:
//!
//! | database | means | a start |
//! |---|---|---|
//! | key = configured | no rotation; a `master.key.next` was never used | removes `master.key.next` |
//! | key = configured, next key = `master.key.next` | values of both are about | needs both, goes on |
//! | key = `master.key.next` | everything is sealed anew | puts the new key into its place |
//!
//! Where the configured source is not ours to write, the new key stays in `master.key.next` until the source gives it.

use crate::files::{remove_if_there, sync_folder_of};
use crate::seal::CheckValue;
use crate::seal::Sealer;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The master key's length in bytes.
pub const MASTER_KEY_BYTES: usize = 32;
/// The file of the master key in the state folder.
pub const MASTER_KEY_FILE: &str = "master.key";
/// The file of the new master key while it is not in its place yet.
pub const NEXT_KEY_FILE: &str = "master.key.next";
/// What systemd sets to the folder of a service's credentials.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// How much of a key's file is read; the longest form of a key is far shorter.
const FILE_BYTES_MAX: u64 = 4_096;

/// Where the master key comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum KeySource {
    /// `master.key` in the state folder, which is made when the folder is new.
    #[default]
    StateFolder,
    /// A file elsewhere, which must be there.
    File(PathBuf),
    /// An environment variable: base64 or hex digits.
    Environment(String),
    /// A systemd credential of this name (`LoadCredential=`, `LoadCredentialEncrypted=`).
    Credential(String),
}

impl KeySource {
    /// Whether Tokenkeep may write a new key there.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        matches!(self, Self::StateFolder)
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StateFolder => write!(f, "{MASTER_KEY_FILE} in the state folder"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Credential(name) => write!(f, "the systemd credential {name}"),
        }
    }
}

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the master key file {path} cannot be used: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is something, and it is no key.
    #[error(
        "{place} holds {found} bytes that are no master key; expected {MASTER_KEY_BYTES} bytes, raw or as base64 or hex digits: put the right one back, nothing was changed"
    )]
    NoKey {
        /// Which source.
        place: String,
        /// How many bytes it has.
        found: usize,
    },
    /// Others may read the file.
    #[error("the master key file {path} has mode {mode:04o}, so others may read it: `chmod 600` it")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The variable is not set.
    #[error("the environment variable {0} is not set: it must hold the master key as base64 or hex digits")]
    NotSet(String),
    /// The service was given no credentials.
    #[error(
        "there is no systemd credential {0}: {CREDENTIALS_DIRECTORY} is not set; give the unit LoadCredential={0}:/path/of/the/key"
    )]
    NoCredentials(String),
    /// An earlier rotation waits for the source to give the key that it ended with.
    #[error(
        "{configured} still gives the former master key: put the content of {next} there and restart, then rotate again"
    )]
    NotTakenOver {
        /// Which source.
        configured: String,
        /// Where the current key is.
        next: PathBuf,
    },
}

/// A master key. It has no form that shows it, and is wiped on drop.
pub struct MasterKey(Zeroizing<[u8; MASTER_KEY_BYTES]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

impl MasterKey {
    /// A new random one.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        rand::fill(&mut *key).expect("the operating system gives random bytes");
        Self(key)
    }

    /// Of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; MASTER_KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Of its raw bytes, or of its base64 or hex digits with blanks around; `None` for anything else.
    #[must_use]
    pub fn parse(given: &[u8]) -> Option<Self> {
        if let Ok(raw) = <[u8; MASTER_KEY_BYTES]>::try_from(given) {
            return Some(Self::from_bytes(raw));
        }
        let digits = given.trim_ascii();
        let bytes = of_hex(digits).or_else(|| of_base64(digits))?;
        <[u8; MASTER_KEY_BYTES]>::try_from(bytes.as_slice()).ok().map(Self::from_bytes)
    }

    /// Its bytes, for deriving keys and for writing them where they belong.
    pub(crate) fn expose(&self) -> &[u8; MASTER_KEY_BYTES] {
        &self.0
    }

    /// A value that tells it from another and nothing else about it.
    #[must_use]
    pub fn check_value(&self) -> CheckValue {
        Sealer::of(self, &[]).check_value()
    }
}

fn of_hex(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if digits.len() != 2 * MASTER_KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = digits.chunks(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?));
    pairs.collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

fn of_base64(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    engines.into_iter().find_map(|engine| engine.decode(digits).ok()).map(Zeroizing::new)
}

/// The keys that a start finds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Of the configured source.
    pub configured: MasterKey,
    /// Of `master.key.next`.
    pub next: Option<MasterKey>,
}

impl Found {
    /// A sealer with all of them.
    pub(crate) fn sealer(&self) -> Sealer {
        Sealer::of(&self.configured, self.next.as_slice())
    }
}

/// How the key files lie now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lie {
    /// The configured source gives the current key, as it did before.
    InOrder,
    /// The new key has come into its place.
    Replaced,
    /// The configured source still gives the former key.
    LeftBehind,
}

/// The keys of one state folder.
#[derive(Clone, Debug)]
pub(crate) struct KeyFiles {
    folder: PathBuf,
    source: KeySource,
}

impl KeyFiles {
    pub(crate) fn new(folder: &Path, source: KeySource) -> Self {
        Self { folder: folder.to_owned(), source }
    }

    pub(crate) const fn source(&self) -> &KeySource {
        &self.source
    }

    fn own(&self) -> PathBuf {
        self.folder.join(MASTER_KEY_FILE)
    }

    pub(crate) fn next(&self) -> PathBuf {
        self.folder.join(NEXT_KEY_FILE)
    }

    /// Reads them; makes a new key only in a state folder without anything that another one sealed.
    pub(crate) fn load(&self, sealed: &[&Path]) -> Result<Found, KeyError> {
        let is_new = self.source.is_ours() && !self.own().exists() && !sealed.iter().any(|file| file.exists());
        if is_new {
            return Ok(Found { configured: create_file(&self.own())?, next: None });
        }
        let next = self.next();
        let next = if next.exists() { Some(read_file(&next)?) } else { None };
        Ok(Found { configured: self.configured()?, next })
    }

    fn configured(&self) -> Result<MasterKey, KeyError> {
        match &self.source {
            KeySource::StateFolder => read_file(&self.own()),
            KeySource::File(path) => read_file(path),
            KeySource::Environment(name) => {
                let text = Zeroizing::new(std::env::var(name).map_err(|_| KeyError::NotSet(name.clone()))?);
                parse(&self.source.to_string(), text.as_bytes())
            }
            KeySource::Credential(name) => {
                let folder = std::env::var_os(CREDENTIALS_DIRECTORY);
                let folder = folder.ok_or_else(|| KeyError::NoCredentials(name.clone()))?;
                // Its access is the service manager's affair: it may come with an access list, which the mode shows.
                let path = Path::new(&folder).join(name);
                let file = File::open(&path).map_err(file_error(&path))?;
                parse(&self.source.to_string(), &read(&path, file)?)
            }
        }
    }

    /// Puts a new key beside the one in use. A key that no rotation has begun with is replaced.
    pub(crate) fn write_next(&self, current: CheckValue, next: &MasterKey) -> Result<(), KeyError> {
        if !self.source.is_ours() && self.configured()?.check_value() != current {
            return Err(KeyError::NotTakenOver { configured: self.source.to_string(), next: self.next() });
        }
        if self.source.is_ours() {
            return write_file(&self.next(), next);
        }
        // As text, which can be put wherever a key comes from.
        let text = Zeroizing::new(STANDARD.encode(next.expose()) + "\n");
        write_whole(&self.next(), text.as_bytes())
    }

    /// Brings the files into the state that belongs to a database without a rotation, whose key has this check value:
    /// puts the new key into its place and erases the former, or removes a new key that was never used.
    pub(crate) fn tidy(&self, current: CheckValue) -> Result<Lie, KeyError> {
        let next = self.next();
        if self.configured()?.check_value() == current {
            if next.exists() {
                erase(&next).map_err(file_error(&next))?;
            }
            return Ok(Lie::InOrder);
        }
        if !self.source.is_ours() {
            return Ok(Lie::LeftBehind);
        }
        replace(&next, &self.own()).map_err(file_error(&self.own()))?;
        Ok(Lie::Replaced)
    }
}

/// What opens everything in a state folder, also in the middle of a rotation. Makes no key.
///
/// # Errors
/// [`KeyError`]: there is no key, or none that may be used.
pub fn sealer_of(folder: &Path, source: KeySource) -> Result<Sealer, KeyError> {
    // A folder that has something sealed, in which no key is made.
    KeyFiles::new(folder, source).load(&[folder]).map(|found| found.sealer())
}

/// Puts a new key into a file, mode 0600, durably.
///
/// # Errors
/// [`KeyError::File`]: it exists, or cannot be written.
pub fn create_file(path: &Path) -> Result<MasterKey, KeyError> {
    if path.symlink_metadata().is_ok() {
        return Err(file_error(path)(io::ErrorKind::AlreadyExists.into()));
    }
    let key = MasterKey::generate();
    write_file(path, &key)?;
    Ok(key)
}

/// Puts this key into a file, in place of whatever is there.
pub(crate) fn write_file(path: &Path, key: &MasterKey) -> Result<(), KeyError> {
    write_whole(path, key.expose())
}

/// Reads a key from a file that only its owner may read.
///
/// # Errors
/// [`KeyError`]: no such file, no key in it, or readable by others.
pub fn read_file(path: &Path) -> Result<MasterKey, KeyError> {
    let file = File::open(path).map_err(file_error(path))?;
    check_mode(path, &file)?;
    parse(&format!("the master key file {}", path.display()), &read(path, file)?)
}

fn read(path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    // Its whole capacity at once: a growing vector would leave unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(file_error(path))?;
    Ok(bytes)
}

fn parse(place: &str, given: &[u8]) -> Result<MasterKey, KeyError> {
    MasterKey::parse(given).ok_or_else(|| KeyError::NoKey { place: place.to_owned(), found: given.len() })
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |cause| KeyError::File { path, cause }
}

#[cfg(unix)]
fn check_mode(path: &Path, file: &File) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().map_err(file_error(path))?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeyError::Mode { path: path.to_owned(), mode }) }
}

/// Writes a key file, mode 0600: it appears whole and durable, or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let write = || {
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        remove_if_there(&draft)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&draft, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        sync_folder_of(path)
    };
    write().map_err(file_error(path))
}

/// Puts `new` where `old` is, durably, and then overwrites what was there.
fn replace(new: &Path, old: &Path) -> io::Result<()> {
    let former = File::options().write(true).open(old)?;
    std::fs::rename(new, old)?;
    sync_folder_of(old)?;
    overwrite(&former)
}

/// Overwrites and removes a file, durably.
fn erase(path: &Path) -> io::Result<()> {
    overwrite(&File::options().write(true).open(path)?)?;
    std::fs::remove_file(path)?;
    sync_folder_of(path)
}

fn overwrite(mut file: &File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len().min(FILE_BYTES_MAX)).map_err(io::Error::other)?;
    file.write_all(&vec![0; length])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_read_in_each_of_its_forms() {
        let bytes: [u8; 32] = std::array::from_fn(|nth| 7 * nth as u8);
        let forms = [bytes.to_vec(), hex(&bytes).into_bytes(), STANDARD.encode(bytes).into_bytes()];
        for form in forms.iter().chain([&format!(" {}\n", URL_SAFE_NO_PAD.encode(bytes)).into_bytes()]) {
            assert_eq!(MasterKey::parse(form).unwrap().expose(), &bytes);
        }
        for wrong in [&b""[..], b"short", &[7; 31], &[7; 33], &hex(&bytes).as_bytes()[1..], &[b'g'; 64]] {
            assert!(MasterKey::parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_only_for_us() {
        let folder = tempfile::tempdir().unwrap();
        let (path, files) = (folder.path().join("master.key"), KeyFiles::new(folder.path(), KeySource::StateFolder));
        let made = files.load(&[]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create_file(&path), Err(KeyError::File { .. })));
        let again = files.load(&[]).unwrap();
        assert_eq!(again.configured.check_value(), made.configured.check_value());
        mode(&path, 0o644);
        assert!(matches!(files.load(&[]), Err(KeyError::Mode { mode: 0o644, .. })));
        std::fs::write(&path, b"short").unwrap();
        mode(&path, 0o600);
        assert!(matches!(files.load(&[]), Err(KeyError::NoKey { found: 5, .. })));
        std::fs::remove_file(&path).unwrap();
        let sealed = folder.path().join("journal");
        std::fs::write(&sealed, b"x").unwrap();
        assert!(matches!(files.load(&[&sealed]), Err(KeyError::File { .. })));
        assert!(!path.exists());
    }

    #[test]
    fn sources_that_are_not_there_say_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |source| KeyFiles::new(folder.path(), source).load(&[]).unwrap_err().to_string();
        let missing = refused(KeySource::File(folder.path().join("nowhere")));
        assert!(missing.contains("nowhere cannot be used"), "{missing}");
        let unset = refused(KeySource::Environment("TOKENKEEP_TEST_UNSET".into()));
        assert!(unset.contains("TOKENKEEP_TEST_UNSET is not set"), "{unset}");
        let no_credential = refused(KeySource::Credential("tk".into()));
        assert!(no_credential.contains("LoadCredential=tk"), "{no_credential}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    }

    #[test]
    fn a_new_key_comes_into_its_place_and_the_former_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let files = KeyFiles::new(folder.path(), KeySource::StateFolder);
        let old = files.load(&[]).unwrap().configured;
        let next = MasterKey::generate();
        files.write_next(old.check_value(), &next).unwrap();
        // A rotation that never began.
        assert_eq!(files.tidy(old.check_value()).unwrap(), Lie::InOrder);
        assert!(!files.next().exists());
        files.write_next(old.check_value(), &next).unwrap();
        let former = File::open(files.own()).unwrap();
        assert_eq!(files.tidy(next.check_value()).unwrap(), Lie::Replaced);
        assert_eq!(read_file(&files.own()).unwrap().check_value(), next.check_value());
        assert!(!files.next().exists());
        assert_eq!(**read(&files.own(), former).unwrap(), [0; 32], "the former key is overwritten");
    }

    #[test]
    fn a_foreign_source_is_not_written_and_the_new_key_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let foreign = folder.path().join("foreign.key");
        let (old, next) = (MasterKey::generate(), MasterKey::generate());
        write_whole(&foreign, old.expose()).unwrap();
        let files = KeyFiles::new(folder.path(), KeySource::File(foreign.clone()));
        files.write_next(old.check_value(), &next).unwrap();
        assert_eq!(files.tidy(next.check_value()).unwrap(), Lie::LeftBehind);
        assert_eq!(files.load(&[]).unwrap().next.unwrap().check_value(), next.check_value());
        let refused = files.write_next(next.check_value(), &MasterKey::generate()).unwrap_err().to_string();
        assert!(refused.contains("master.key.next there and restart"), "{refused}");
        write_whole(&foreign, next.expose()).unwrap();
        assert_eq!(files.tidy(next.check_value()).unwrap(), Lie::InOrder);
        assert!(!files.next().exists());
    }
}
