//! A backup: one file with the whole database, sealed under the master key, which is not in it.
//!
//! ```text
//! header (plain)  magic (8) | version (4) | schema version (4) | key check value (16) | number (16)
//!                 | made at, Unix milliseconds (8) | CRC32 of all that (4)              integers little-endian
//! frame           kind (1) | length of the sealed part (4) | sealed part
//! frames          for each part: NAME, DATA ...; at the end one MANIFEST: for each part name, length, SHA-256
//! ```
//! Each frame is sealed together with the header, its number and its kind: frames cannot be changed, moved, left out,
//! taken from another backup or cut off without being noticed. Whoever has no key sees when it was made, and how long
//! it is.

use crate::error::Error;
use crate::files::{remove_if_there, sync_folder_of};
use crate::keys::{KeyFiles, KeySource, MASTER_KEY_FILE, MasterKey, write_file};
use crate::seal::{CheckValue, OVERHEAD_BYTES, Sealer, random_bytes};
use crate::store::lock::{LOCK_FILE, StateLock};
use crate::store::sqlite::{known_version, mark_restored};
use aws_lc_rs::digest;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use tokenkeep_core::Timestamp;

const MAGIC: [u8; 8] = *b"TKBACKUP";
/// The version of the format that this program writes.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 4 + 16 + 16 + 8 + 4;
/// How much of a part is sealed in one frame.
const PIECE_BYTES: usize = 64 * 1024;
/// The longest sealed part of a frame.
const SEALED_BYTES_MAX: usize = PIECE_BYTES + OVERHEAD_BYTES;
/// The one part so far.
const DATABASE: &str = "tokenkeep.db";
/// The database while it is restored; it gets its name at the very end.
const DRAFT_FILE: &str = "tokenkeep.db.restoring";

const NAME: u8 = 1;
const DATA: u8 = 2;
const MANIFEST: u8 = 3;

/// Why a backup cannot be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The system refused something.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is something else.
    #[error("{path} does not begin as a backup does: name a file that `tokenkeep backup` wrote")]
    NotABackup {
        /// The file.
        path: PathBuf,
    },
    /// A newer Tokenkeep wrote it.
    #[error("{path} has {what} {found}, and this Tokenkeep knows {known}: use a newer Tokenkeep")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version of what.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// It was sealed under a master key that is not at hand.
    #[error("{path} was sealed under another master key than {given}: give the key that was in use when it was made")]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// Where the key that was tried came from.
        given: String,
    },
    /// It is not whole.
    #[error("{path} is damaged: {what}; take another copy of it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// The state folder holds something already.
    #[error("{folder} holds {found} already: restore into a new folder, or move the old one away")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// The first thing found.
        found: String,
    },
}

/// What a backup says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Header {
    schema: u32,
    key_check: CheckValue,
    number: [u8; 16],
    made_at: Timestamp,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.schema.to_le_bytes());
        bytes.extend(self.key_check);
        bytes.extend(self.number);
        bytes.extend(self.made_at.as_millis().to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.try_into().expect("these are its fields")
    }

    fn decode(bytes: &[u8; HEADER_BYTES], refuse: &Refuse<'_>) -> Result<Self, BackupError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(BackupError::NotABackup { path: refuse.path() });
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if u32_at(HEADER_BYTES - 4) != crc32fast::hash(&bytes[..HEADER_BYTES - 4]) {
            return Err(refuse.damaged("the check sum of its header is wrong"));
        }
        let newer = |what, found, known| Err(BackupError::Newer { path: refuse.path(), what, found, known });
        if u32_at(8) > VERSION {
            return newer("format version", u32_at(8), VERSION);
        }
        let schema_known = schema_version();
        if u32_at(12) > schema_known {
            return newer("schema version", u32_at(12), schema_known);
        }
        Ok(Self {
            schema: u32_at(12),
            key_check: bytes[16..32].try_into().expect("sixteen bytes"),
            number: bytes[32..48].try_into().expect("sixteen bytes"),
            made_at: Timestamp::from_millis(i64::from_le_bytes(bytes[48..56].try_into().expect("eight bytes"))),
        })
    }
}

fn schema_version() -> u32 {
    u32::try_from(known_version()).unwrap_or(u32::MAX)
}

/// What is sealed together with a frame.
fn context(header: &[u8; HEADER_BYTES], frame: u64, kind: u8) -> [u8; HEADER_BYTES + 9] {
    let mut context = [kind; HEADER_BYTES + 9];
    context[..HEADER_BYTES].copy_from_slice(header);
    context[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&frame.to_le_bytes());
    context
}

/// A part, as the manifest has it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Part {
    name: String,
    bytes: u64,
    sha256: [u8; 32],
}

impl Part {
    fn encode(&self, manifest: &mut Vec<u8>) {
        // Names are ours, and short.
        manifest.push(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
        manifest.extend(self.name.as_bytes());
        manifest.extend(self.bytes.to_le_bytes());
        manifest.extend(self.sha256);
    }
}

/// A copy of the database, ready to be written out as a backup. Its file is gone when this is dropped.
pub struct Backup {
    copy: PathBuf,
    header: Header,
    sealer: Sealer,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup").field("copy", &self.copy).finish_non_exhaustive()
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.copy) {
            tracing::warn!(%error, path = %self.copy.display(), "a copy that a backup was made of could not be removed");
        }
    }
}

impl Backup {
    /// Of a copy that is already made, and is removed at the end.
    pub(crate) fn of(copy: PathBuf, sealer: Sealer, made_at: Timestamp) -> Self {
        let (schema, key_check, number) = (schema_version(), sealer.check_value(), random_bytes());
        let header = Header { schema, key_check, number, made_at };
        Self { copy, header, sealer }
    }

    /// Writes the backup; says how many bytes it has. What was written before an error is no backup, and is noticed.
    ///
    /// # Errors
    /// Of the copy, or of `into`.
    pub fn write(&self, into: &mut dyn Write) -> io::Result<u64> {
        let header = self.header.encode();
        into.write_all(&header)?;
        let mut out = Frames { into, sealer: &self.sealer, header, next: 0, bytes: HEADER_BYTES as u64 };
        let part = out.part(DATABASE, &mut File::open(&self.copy)?)?;
        let mut manifest = Vec::new();
        part.encode(&mut manifest);
        out.frame(MANIFEST, &manifest)?;
        let bytes = out.bytes;
        into.flush()?;
        Ok(bytes)
    }
}

/// Writes frames.
struct Frames<'a> {
    into: &'a mut dyn Write,
    sealer: &'a Sealer,
    header: [u8; HEADER_BYTES],
    next: u64,
    bytes: u64,
}

impl Frames<'_> {
    fn part(&mut self, name: &str, from: &mut impl Read) -> io::Result<Part> {
        self.frame(NAME, name.as_bytes())?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut sum = digest::Context::new(&digest::SHA256);
        let mut bytes = 0;
        loop {
            piece.clear();
            from.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                return Ok(Part { name: name.to_owned(), bytes, sha256: finish(sum) });
            }
            sum.update(&piece);
            bytes += piece.len() as u64;
            self.frame(DATA, &piece)?;
        }
    }

    fn frame(&mut self, kind: u8, plain: &[u8]) -> io::Result<()> {
        let sealed = self.sealer.seal_backup(&context(&self.header, self.next, kind), plain);
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.into.write_all(&[kind])?;
        self.into.write_all(&length.to_le_bytes())?;
        self.into.write_all(&sealed)?;
        self.next += 1;
        self.bytes += 5 + u64::from(length);
        Ok(())
    }
}

fn finish(sum: digest::Context) -> [u8; 32] {
    sum.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Makes errors about one backup.
struct Refuse<'a>(&'a Path);

impl Refuse<'_> {
    fn path(&self) -> PathBuf {
        self.0.to_owned()
    }

    fn damaged(&self, what: impl Into<String>) -> BackupError {
        BackupError::Damaged { path: self.path(), what: what.into() }
    }

    fn file(&self, cause: io::Error) -> BackupError {
        BackupError::File { path: self.path(), cause }
    }

    /// An error of reading: an early end is damage.
    fn read(&self, frame: u64, cause: io::Error) -> BackupError {
        if cause.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged(format!("it is cut off in frame {frame}"));
        }
        self.file(cause)
    }
}

/// Reads a whole backup and gives the data of its parts to `take`; checks everything on the way.
fn read_through(
    path: &Path,
    sealer: &Sealer,
    given: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<Header, BackupError> {
    let refuse = Refuse(path);
    let file = File::open(path).map_err(|cause| refuse.file(cause))?;
    if !file.metadata().map_err(|cause| refuse.file(cause))?.is_file() {
        return Err(refuse.file(io::Error::other("it is no file")));
    }
    let mut input = BufReader::with_capacity(PIECE_BYTES, file);
    let mut bytes = [0; HEADER_BYTES];
    match input.read_exact(&mut bytes) {
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(BackupError::NotABackup { path: refuse.path() });
        }
        read => read.map_err(|cause| refuse.file(cause))?,
    }
    let header = Header::decode(&bytes, &refuse)?;
    if !sealer.knows(&header.key_check) {
        return Err(BackupError::OtherKey { path: refuse.path(), given: given.to_owned() });
    }
    let mut found = Vec::<(Part, digest::Context)>::new();
    for frame in 0.. {
        let (kind, plain) = read_frame(&mut input, sealer, &bytes, frame, &refuse)?;
        match (kind, found.last_mut()) {
            (NAME, _) => {
                let name = String::from_utf8_lossy(&plain).into_owned();
                found.push((Part { name, bytes: 0, sha256: [0; 32] }, digest::Context::new(&digest::SHA256)));
            }
            (DATA, Some((part, sum))) => {
                part.bytes += plain.len() as u64;
                sum.update(&plain);
                take(&plain)?;
            }
            (MANIFEST, _) => {
                check_manifest(found, &plain, &refuse)?;
                break;
            }
            _ => return Err(refuse.damaged(format!("frame {frame} stands in a wrong place"))),
        }
    }
    match input.read(&mut [0]) {
        Ok(0) => Ok(header),
        Ok(_) => Err(refuse.damaged("something follows its end")),
        Err(cause) => Err(refuse.file(cause)),
    }
}

fn read_frame(
    input: &mut impl Read,
    sealer: &Sealer,
    header: &[u8; HEADER_BYTES],
    frame: u64,
    refuse: &Refuse<'_>,
) -> Result<(u8, zeroize::Zeroizing<Vec<u8>>), BackupError> {
    let mut head = [0; 5];
    input.read_exact(&mut head).map_err(|cause| refuse.read(frame, cause))?;
    let [kind, length @ ..] = head;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if !(OVERHEAD_BYTES..=SEALED_BYTES_MAX).contains(&length) {
        return Err(refuse.damaged(format!("the length of frame {frame} is impossible")));
    }
    let mut sealed = vec![0; length];
    input.read_exact(&mut sealed).map_err(|cause| refuse.read(frame, cause))?;
    let plain = sealer.open_backup(&context(header, frame, kind), &sealed);
    let plain = plain.map_err(|_| refuse.damaged(format!("frame {frame} was changed, or belongs elsewhere")))?;
    Ok((kind, plain))
}

fn check_manifest(
    found: Vec<(Part, digest::Context)>,
    manifest: &[u8],
    refuse: &Refuse<'_>,
) -> Result<(), BackupError> {
    let mut said = Vec::new();
    for (part, sum) in found {
        if part.name != DATABASE {
            return Err(refuse.damaged(format!("it has a part of unknown name ({} bytes)", part.bytes)));
        }
        Part { sha256: finish(sum), ..part }.encode(&mut said);
    }
    if said.is_empty() || said != manifest {
        return Err(refuse.damaged("its parts are not those of its manifest"));
    }
    Ok(())
}

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// When the backup was made, by the wall clock of then.
    pub made_at: Timestamp,
    /// Bytes of the database.
    pub bytes: u64,
}

/// Puts a backup into a state folder that holds nothing but, perhaps, its `master.key`. The whole backup is checked
/// before anything is written, and the database appears whole or not at all. Its rotating connections start held:
/// their refresh tokens may have been used since.
///
/// The key is `key` where one is given, which is then written into the folder, else that of `source`.
///
/// # Errors
/// [`Error::Backup`], [`Error::Locked`], [`Error::Key`], [`Error::Store`] or [`Error::Folder`]; nothing was changed.
pub fn restore(backup: &Path, state_dir: &Path, source: KeySource, key: Option<MasterKey>) -> Result<Restored, Error> {
    let given = if key.is_some() { "the one given".to_owned() } else { source.to_string() };
    check_empty(state_dir, key.is_some() && source.is_ours())?;
    let files = KeyFiles::new(state_dir, source.clone());
    let sealer = match &key {
        Some(key) => Sealer::of(key, &[]),
        // A folder with something sealed in it has a key of its own: none is made up.
        None => files.load(&[backup])?.sealer(),
    };
    read_through(backup, &sealer, &given, |_| Ok(()))?;
    let made = make_folder(state_dir)?;
    let restored = (|| {
        let lock = StateLock::acquire(state_dir).map_err(|error| Error::Locked(error.to_string()))?;
        let key = key.filter(|_| source.is_ours());
        let restored = write(backup, state_dir, &sealer, &given, key.as_ref());
        drop(lock);
        restored
    })();
    if restored.is_err() && made {
        // What cannot be removed is empty.
        let _ = std::fs::remove_file(state_dir.join(LOCK_FILE));
        let _ = std::fs::remove_dir(state_dir);
    }
    restored
}

/// Makes the folder unless it is there; says whether it did.
fn make_folder(folder: &Path) -> Result<bool, Error> {
    if folder.exists() {
        return Ok(false);
    }
    crate::keep::make_folder(folder).map(|()| true)
}

fn check_empty(folder: &Path, gets_a_key: bool) -> Result<(), Error> {
    let unusable = |cause| Error::Folder { path: folder.to_owned(), cause };
    let entries = match std::fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(unusable)?,
    };
    for entry in entries {
        let name = entry.map_err(unusable)?.file_name();
        let may_be_there = name == LOCK_FILE || name == DRAFT_FILE || (name == MASTER_KEY_FILE && !gets_a_key);
        if !may_be_there {
            let found = tokenkeep_core::model::printable(&name.to_string_lossy(), 100);
            return Err(BackupError::NotEmpty { folder: folder.to_owned(), found }.into());
        }
    }
    Ok(())
}

/// Under the lock: the database under another name, then the key, then the name.
fn write(
    backup: &Path,
    state_dir: &Path,
    sealer: &Sealer,
    given: &str,
    key: Option<&MasterKey>,
) -> Result<Restored, Error> {
    check_empty(state_dir, key.is_some())?;
    let draft = state_dir.join(DRAFT_FILE);
    let written = write_draft(backup, &draft, sealer, given).and_then(|restored| {
        if let Some(key) = key {
            write_file(&state_dir.join(MASTER_KEY_FILE), key)?;
        }
        let path = state_dir.join(DATABASE);
        let folder = |cause| Error::Folder { path: path.clone(), cause };
        std::fs::rename(&draft, &path).map_err(folder)?;
        sync_folder_of(&path).map_err(folder)?;
        Ok(restored)
    });
    if written.is_err() {
        // It may not have been made; what is left of it is replaced by the next restore.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

fn write_draft(backup: &Path, draft: &Path, sealer: &Sealer, given: &str) -> Result<Restored, Error> {
    let refuse = Refuse(draft);
    remove_if_there(draft).map_err(|cause| refuse.file(cause))?;
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(draft).map_err(|cause| refuse.file(cause))?;
    let mut bytes = 0;
    let header = read_through(backup, sealer, given, |piece| {
        bytes += piece.len() as u64;
        file.write_all(piece).map_err(|cause| refuse.file(cause))
    })?;
    file.sync_all().map_err(|cause| refuse.file(cause))?;
    drop(file);
    mark_restored(draft, sealer, header.number)?;
    File::open(draft).and_then(|file| file.sync_all()).map_err(|cause| refuse.file(cause))?;
    Ok(Restored { made_at: header.made_at, bytes })
}

#[cfg(test)]
mod tests;
