//! Sealing of secrets at rest: AES-256-GCM-SIV under keys derived from one master key (`security.md` 1-3).
//!
//! A sealed value is `version (1) | algorithm (1) | key id (4) | nonce (12) | ciphertext | tag (16)`. Where it
//! belongs ([`Place`]) is authenticated with it, so swapping any two sealed values makes both fail to open.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac, rand};
use rustix::fs::{Mode, OFlags};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tokenkeep_core::Secret;
use tokenkeep_core::model::{ConnectionId, Generation, GrantNumber};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const ALGORITHM_AES_256_GCM_SIV: u8 = 1;
const HEADER_BYTES: usize = 6;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// How many bytes sealing adds.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;
/// The master key's length in bytes.
pub const MASTER_KEY_BYTES: usize = 32;

/// Which secret of a connection a sealed value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Field {
    /// The access token.
    AccessToken = 1,
    /// The refresh token.
    RefreshToken = 2,
    /// The other fields of the token set.
    Extra = 3,
    /// A raw answer in the journal. Its generation is the one that was sent.
    Answer = 4,
}

/// Where a sealed value belongs; authenticated with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The connection.
    pub connection: ConnectionId,
    /// Its grant.
    pub grant: GrantNumber,
    /// Its generation.
    pub generation: Generation,
    /// Which of its secrets.
    pub field: Field,
}

impl Place {
    fn aad(&self) -> [u8; 22] {
        let mut aad = [0; 22];
        aad[0] = VERSION;
        aad[1] = self.field as u8;
        aad[2..10].copy_from_slice(&self.connection.0.to_le_bytes());
        aad[10..14].copy_from_slice(&self.grant.0.to_le_bytes());
        aad[14..22].copy_from_slice(&self.generation.0.to_le_bytes());
        aad
    }
}

/// A sealed value that does not open: damaged, moved, or sealed under another key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a sealed value does not open: {0}")]
pub struct OpenError(&'static str);

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the master key file {path} cannot be used: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is there and is no key.
    #[error(
        "the master key file {path} holds {found} bytes, expected {MASTER_KEY_BYTES}: put the right file back, nothing was changed"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
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
}

/// Seals and opens. Cheap to share; the keys are wiped on drop by the crypto library.
pub struct Sealer {
    key: RandomizedNonceKey,
    key_id: [u8; 4],
    check_value: [u8; 16],
    fingerprint_key: hmac::Key,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("key_id", &u32::from_be_bytes(self.key_id)).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Derives the working keys from a master key.
    #[must_use]
    pub fn new(master_key: &[u8; MASTER_KEY_BYTES]) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tokenkeep v1").extract(master_key);
        let data_key = Zeroizing::new(derive::<32>(&root, b"data"));
        let fingerprint_key = Zeroizing::new(derive::<32>(&root, b"fingerprint"));
        Self {
            key: RandomizedNonceKey::new(&AES_256_GCM_SIV, &*data_key).expect("a 32-byte key fits AES-256"),
            key_id: derive(&root, b"id"),
            check_value: derive(&root, b"check"),
            fingerprint_key: hmac::Key::new(hmac::HMAC_SHA256, &*fingerprint_key),
        }
    }

    /// Reads the master key from `path`.
    ///
    /// # Errors
    /// [`KeyError`]: no such file, not 32 bytes, or readable by others.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let file_error = |cause| KeyError::File { path: path.to_owned(), cause };
        let mut file = std::fs::File::open(path).map_err(file_error)?;
        check_mode(path, &file)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MASTER_KEY_BYTES + 1));
        Read::by_ref(&mut file).take(4096).read_to_end(&mut bytes).map_err(file_error)?;
        let found = bytes.len();
        let key = <&[u8; MASTER_KEY_BYTES]>::try_from(bytes.as_slice())
            .map_err(|_| KeyError::Length { path: path.to_owned(), found })?;
        Ok(Self::new(key))
    }

    /// Makes a new master key file, mode 0600, durable before this returns.
    ///
    /// # Errors
    /// [`KeyError::File`], also when the file exists.
    pub fn create_file(path: &Path) -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        rand::fill(&mut *key).expect("the operating system gives random bytes");
        write_new(path, &*key).map_err(|cause| KeyError::File { path: path.to_owned(), cause })?;
        Ok(Self::new(&key))
    }

    /// A value that tells this master key from another and nothing else about it.
    #[must_use]
    pub const fn check_value(&self) -> [u8; 16] {
        self.check_value
    }

    /// Seals `plain` for `place`.
    #[must_use]
    pub fn seal(&self, place: &Place, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(OVERHEAD_BYTES + plain.len());
        sealed.extend([VERSION, ALGORITHM_AES_256_GCM_SIV]);
        sealed.extend(self.key_id);
        sealed.extend([0; NONCE_BYTES]);
        let mut body = Vec::with_capacity(plain.len() + TAG_BYTES);
        body.extend(plain);
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(place.aad()), &mut body)
            .expect("sealing fails only beyond 2^36 bytes");
        sealed[HEADER_BYTES..HEADER_BYTES + NONCE_BYTES].copy_from_slice(nonce.as_ref());
        sealed.extend(body);
        sealed
    }

    /// Opens what [`Sealer::seal`] sealed for the same place.
    ///
    /// # Errors
    /// [`OpenError`]: damaged, moved from another place, or sealed under another key.
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if sealed.len() < OVERHEAD_BYTES || sealed[..2] != [VERSION, ALGORITHM_AES_256_GCM_SIV] {
            return Err(OpenError("it is too short or of an unknown version"));
        }
        if sealed[2..HEADER_BYTES] != self.key_id {
            return Err(OpenError("it was sealed under another master key"));
        }
        let (nonce, body) = sealed[HEADER_BYTES..].split_at(NONCE_BYTES);
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("the nonce has 12 bytes");
        let mut body = Zeroizing::new(body.to_vec());
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(place.aad()), &mut body)
            .map_err(|_| OpenError("it is damaged, or belongs to another place"))?
            .len();
        body.truncate(plain);
        Ok(body)
    }

    /// Opens a secret text.
    ///
    /// # Errors
    /// [`OpenError`], also when the text is not UTF-8.
    pub fn open_secret(&self, place: &Place, sealed: &[u8]) -> Result<Secret, OpenError> {
        let plain = self.open(place, sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| OpenError("its text is not UTF-8"))?;
        Ok(Secret::new(text))
    }

    /// A keyed fingerprint by which a refresh token is known again without being kept.
    #[must_use]
    pub fn fingerprint(&self, token: &Secret) -> [u8; 16] {
        let tag = hmac::sign(&self.fingerprint_key, token.expose().as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&tag.as_ref()[..16]);
        short
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(root: &hkdf::Prk, purpose: &[u8]) -> [u8; N] {
    let mut key = [0; N];
    root.expand(&[purpose], Length(N)).and_then(|okm| okm.fill(&mut key)).expect("the length is far below 255 hashes");
    key
}

#[cfg(unix)]
fn check_mode(path: &Path, file: &std::fs::File) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt;
    let mode =
        file.metadata().map_err(|cause| KeyError::File { path: path.to_owned(), cause })?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeyError::Mode { path: path.to_owned(), mode }) }
}

/// Writes a file that must not exist yet, mode 0600, and syncs it and its folder.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes)?;
    file.sync_all()?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(connection: i64, field: Field) -> Place {
        Place { connection: ConnectionId(connection), grant: GrantNumber(1), generation: Generation(1), field }
    }

    #[test]
    fn what_is_sealed_opens_at_its_place_and_nowhere_else() {
        let sealer = Sealer::new(&[7; 32]);
        let here = place(1, Field::AccessToken);
        let sealed = sealer.seal(&here, b"secret");
        assert_eq!(&**sealer.open(&here, &sealed).unwrap(), b"secret");
        assert_eq!(sealed.len(), 6 + OVERHEAD_BYTES);
        let elsewhere = [
            place(2, Field::AccessToken),
            place(1, Field::RefreshToken),
            Place { grant: GrantNumber(2), ..here },
            Place { generation: Generation(2), ..here },
        ];
        for other in elsewhere {
            assert!(sealer.open(&other, &sealed).is_err(), "{other:?}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealer = Sealer::new(&[7; 32]);
        let here = place(1, Field::Extra);
        let sealed = sealer.seal(&here, b"x");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(&here, &damaged).is_err(), "bit {bit}");
        }
        assert!(sealer.open(&here, &sealed[..sealed.len() - 1]).is_err());
        assert!(sealer.open(&here, &[]).is_err());
    }

    #[test]
    fn another_master_key_says_so() {
        let here = place(1, Field::AccessToken);
        let sealed = Sealer::new(&[1; 32]).seal(&here, b"x");
        let error = Sealer::new(&[2; 32]).open(&here, &sealed).unwrap_err();
        assert!(error.to_string().contains("another master key"));
        assert_ne!(Sealer::new(&[1; 32]).check_value(), Sealer::new(&[2; 32]).check_value());
    }

    #[test]
    fn a_key_file_is_made_once_and_only_for_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let made = Sealer::create_file(&path).unwrap();
        assert_eq!(Sealer::from_file(&path).unwrap().check_value(), made.check_value());
        assert!(matches!(Sealer::create_file(&path), Err(KeyError::File { .. })));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(Sealer::from_file(&path), Err(KeyError::Mode { mode: 0o644, .. })));
        std::fs::write(&path, b"short").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(Sealer::from_file(&path), Err(KeyError::Length { found: 5, .. })));
    }
}
