//! Sealing of secrets at rest: AES-256-GCM-SIV under keys derived from a master key.
//!
//! A sealed value is `version (1) | algorithm (1) | key id (4) | nonce (12) | ciphertext | tag (16)`. Where it
//! belongs ([`Place`]) is authenticated with it, so swapping any two sealed values makes both fail to open.
//!
//! While the master key is rotated, values of two keys are about: the key id says which. What is sealed is always
//! sealed under the current one. Only the key of the fingerprints stays through all rotations: used refresh tokens
//! are not kept, so their fingerprints could not be made anew. It is stored sealed under the current key.

use crate::keys::{MASTER_KEY_BYTES, MasterKey};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac, rand};
use std::sync::{Arc, PoisonError, RwLock};
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
/// A value that tells a master key from another and nothing else about it.
pub type CheckValue = [u8; 16];

/// Bytes that nobody can guess.
///
/// # Panics
/// Where the operating system gives none: nothing could be sealed or begun then.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

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
    /// The key of the fingerprints, which belongs to no connection.
    FingerprintKey = 5,
    /// What a webhook's deliveries are signed with. Its connection is the webhook's number, and its generation counts
    /// its secrets.
    WebhookSecret = 6,
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

/// Seals and opens. Cheap to share; the keys are wiped on drop by the crypto library.
pub struct Sealer {
    ring: RwLock<Ring>,
    fingerprints: RwLock<Arc<FingerprintKey>>,
}

/// The keys of one moment.
#[derive(Clone)]
struct Ring {
    /// What is sealed, is sealed under this one.
    current: Arc<Keys>,
    /// What is opened may also be sealed under one of these: the former one during a rotation.
    others: Vec<Arc<Keys>>,
}

/// What is derived from one master key.
struct Keys {
    data: RandomizedNonceKey,
    backup: RandomizedNonceKey,
    id: [u8; 4],
    check_value: CheckValue,
    fingerprint_key: Zeroizing<[u8; 32]>,
}

struct FingerprintKey {
    bytes: Zeroizing<[u8; 32]>,
    key: hmac::Key,
}

impl FingerprintKey {
    fn new(bytes: &[u8; 32]) -> Arc<Self> {
        Arc::new(Self { bytes: Zeroizing::new(*bytes), key: hmac::Key::new(hmac::HMAC_SHA256, bytes) })
    }
}

impl Keys {
    fn new(master_key: &[u8; MASTER_KEY_BYTES]) -> Arc<Self> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tokenkeep v1").extract(master_key);
        let key = |purpose: &[u8]| {
            let bytes = Zeroizing::new(derive::<32>(&root, purpose));
            RandomizedNonceKey::new(&AES_256_GCM_SIV, &*bytes).expect("a 32-byte key fits AES-256")
        };
        Arc::new(Self {
            data: key(b"data"),
            backup: key(b"backup"),
            id: derive(&root, b"id"),
            check_value: derive(&root, b"check"),
            fingerprint_key: Zeroizing::new(derive(&root, b"fingerprint")),
        })
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Derives the working keys from a master key.
    #[must_use]
    pub fn new(master_key: &[u8; MASTER_KEY_BYTES]) -> Self {
        Self::on(Keys::new(master_key), Vec::new())
    }

    /// With keys of which the store says, by [`Sealer::settle`], what each is good for.
    #[must_use]
    pub fn of(configured: &MasterKey, others: &[MasterKey]) -> Self {
        Self::on(Keys::new(configured.expose()), others.iter().map(|key| Keys::new(key.expose())).collect())
    }

    fn on(current: Arc<Keys>, others: Vec<Arc<Keys>>) -> Self {
        let fingerprints = RwLock::new(FingerprintKey::new(&current.fingerprint_key));
        Self { ring: RwLock::new(Ring { current, others }), fingerprints }
    }

    /// A sealer that stays with the key that is current now.
    #[must_use]
    pub fn pinned(&self) -> Self {
        Self::on(self.current(), Vec::new())
    }

    /// A value that tells the current master key from another and nothing else about it.
    #[must_use]
    pub fn check_value(&self) -> CheckValue {
        self.current().check_value
    }

    /// The number by which sealed values name the current key.
    #[must_use]
    pub fn key_id(&self) -> u32 {
        u32::from_be_bytes(self.current().id)
    }

    /// Whether the key of this check value is at hand.
    #[must_use]
    pub fn knows(&self, check_value: &[u8]) -> bool {
        self.keys().any(|keys| keys.check_value == *check_value)
    }

    /// Seals under the key of `current` from now on, opens also what that of `former` sealed, and forgets all others.
    /// False, and nothing is changed, where one of them is not at hand.
    pub fn settle(&self, current: &[u8], former: Option<&[u8]>) -> bool {
        let find = |check: &[u8]| self.keys().find(|keys| keys.check_value == *check);
        let (Some(current), former) = (find(current), former.map(find)) else { return false };
        if matches!(former, Some(None)) {
            return false;
        }
        *self.fingerprints.write().unwrap_or_else(PoisonError::into_inner) =
            FingerprintKey::new(&current.fingerprint_key);
        let others = former.flatten().into_iter().collect();
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Ring { current, others };
        true
    }

    /// Seals under the key of `next` from now on, and opens also what the one before it sealed.
    pub fn rotate_to(&self, next: &MasterKey) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut ring.current, Keys::new(next.expose()));
        ring.others = vec![former];
    }

    /// Forgets every key but the current one.
    pub fn forget_former(&self) {
        self.ring.write().unwrap_or_else(PoisonError::into_inner).others.clear();
    }

    /// Whether a sealed value was sealed under the current key.
    #[must_use]
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.get(2..HEADER_BYTES) == Some(&self.current().id)
    }

    fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner).current)
    }

    fn keys(&self) -> impl Iterator<Item = Arc<Keys>> {
        let Ring { current, others } = self.ring.read().unwrap_or_else(PoisonError::into_inner).clone();
        std::iter::once(current).chain(others)
    }

    /// Seals `plain` for `place`.
    #[must_use]
    pub fn seal(&self, place: &Place, plain: &[u8]) -> Vec<u8> {
        let keys = self.current();
        seal(&keys.data, keys.id, &place.aad(), plain)
    }

    /// Opens what [`Sealer::seal`] sealed for the same place.
    ///
    /// # Errors
    /// [`OpenError`]: damaged, moved from another place, or sealed under a key that is not at hand.
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let keys = self.keys_of(sealed)?;
        open(&keys.data, &place.aad(), sealed)
    }

    /// Seals a piece of a backup; `context` is authenticated with it.
    #[must_use]
    pub fn seal_backup(&self, context: &[u8], plain: &[u8]) -> Vec<u8> {
        let keys = self.current();
        seal(&keys.backup, keys.id, context, plain)
    }

    /// Opens what [`Sealer::seal_backup`] sealed with the same context.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn open_backup(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let keys = self.keys_of(sealed)?;
        open(&keys.backup, context, sealed)
    }

    fn keys_of(&self, sealed: &[u8]) -> Result<Arc<Keys>, OpenError> {
        if sealed.len() < OVERHEAD_BYTES || sealed[..2] != [VERSION, ALGORITHM_AES_256_GCM_SIV] {
            return Err(OpenError("it is too short or of an unknown version"));
        }
        let sealed_under = |keys: &Arc<Keys>| sealed[2..HEADER_BYTES] == keys.id;
        self.keys().find(sealed_under).ok_or(OpenError("it was sealed under another master key"))
    }

    /// The key of the fingerprints, sealed under the current key.
    #[must_use]
    pub fn sealed_fingerprint_key(&self) -> Vec<u8> {
        let fingerprints = self.fingerprint_key();
        self.seal(&FINGERPRINT_KEY, &*fingerprints.bytes)
    }

    /// Makes fingerprints from now on as the key does that [`Sealer::sealed_fingerprint_key`] sealed.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn adopt_fingerprint_key(&self, sealed: &[u8]) -> Result<(), OpenError> {
        let bytes = self.open(&FINGERPRINT_KEY, sealed)?;
        let bytes = bytes.first_chunk().filter(|_| bytes.len() == 32);
        let key = FingerprintKey::new(bytes.ok_or(OpenError("it has not the length of a key"))?);
        *self.fingerprints.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    fn fingerprint_key(&self) -> Arc<FingerprintKey> {
        Arc::clone(&self.fingerprints.read().unwrap_or_else(PoisonError::into_inner))
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

    /// A tag over pieces, made with a key that outlives a rotation of the master key.
    #[must_use]
    pub fn chain_tag(&self, pieces: &[&[u8]]) -> [u8; 32] {
        let chain = hmac::sign(&self.fingerprint_key().key, b"tokenkeep chain");
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, chain.as_ref()));
        for piece in pieces {
            context.update(&(piece.len() as u64).to_be_bytes());
            context.update(piece);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// A keyed fingerprint by which a refresh token is known again without being kept.
    #[must_use]
    pub fn fingerprint(&self, token: &Secret) -> [u8; 16] {
        let tag = hmac::sign(&self.fingerprint_key().key, token.expose().as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&tag.as_ref()[..16]);
        short
    }
}

/// The place of the key of the fingerprints.
const FINGERPRINT_KEY: Place = Place {
    connection: ConnectionId(0),
    grant: GrantNumber(0),
    generation: Generation(0),
    field: Field::FingerprintKey,
};

fn seal(key: &RandomizedNonceKey, key_id: [u8; 4], context: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(OVERHEAD_BYTES + plain.len());
    sealed.extend([VERSION, ALGORITHM_AES_256_GCM_SIV]);
    sealed.extend(key_id);
    sealed.extend([0; NONCE_BYTES]);
    let mut body = Vec::with_capacity(plain.len() + TAG_BYTES);
    body.extend(plain);
    let nonce =
        key.seal_in_place_append_tag(Aad::from(context), &mut body).expect("sealing fails only beyond 2^36 bytes");
    sealed[HEADER_BYTES..HEADER_BYTES + NONCE_BYTES].copy_from_slice(nonce.as_ref());
    sealed.extend(body);
    sealed
}

/// Opens a value that is long enough and sealed under this key.
fn open(key: &RandomizedNonceKey, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (nonce, body) = sealed[HEADER_BYTES..].split_at(NONCE_BYTES);
    let nonce = Nonce::try_assume_unique_for_key(nonce).expect("the nonce has 12 bytes");
    let mut body = Zeroizing::new(body.to_vec());
    let plain = key
        .open_in_place(nonce, Aad::from(context), &mut body)
        .map_err(|_| OpenError("it is damaged, or belongs to another place"))?
        .len();
    body.truncate(plain);
    Ok(body)
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
    fn during_a_rotation_both_keys_open_and_the_new_one_seals() {
        let here = place(1, Field::AccessToken);
        let (old, new) = (MasterKey::from_bytes([1; 32]), MasterKey::from_bytes([2; 32]));
        let sealer = Sealer::of(&old, &[]);
        let (before, print) = (sealer.seal(&here, b"x"), sealer.fingerprint(&Secret::new("t")));
        assert!(sealer.is_current(&before));
        sealer.rotate_to(&new);
        let after = sealer.seal(&here, b"x");
        assert!(!sealer.is_current(&before) && sealer.is_current(&after));
        assert_eq!(sealer.open(&here, &before).unwrap(), sealer.open(&here, &after).unwrap());
        assert_eq!(sealer.fingerprint(&Secret::new("t")), print, "used refresh tokens are known again");
        let fingerprint_key = sealer.sealed_fingerprint_key();
        sealer.forget_former();
        assert!(sealer.open(&here, &before).is_err());

        let restarted = Sealer::of(&old, std::slice::from_ref(&new));
        assert!(!restarted.settle(&[0; 16], None) && !restarted.settle(&sealer.check_value(), Some(&[0; 16])));
        assert!(restarted.settle(&sealer.check_value(), None));
        assert!(restarted.open(&here, &after).is_ok() && restarted.open(&here, &before).is_err());
        assert_ne!(restarted.fingerprint(&Secret::new("t")), print);
        restarted.adopt_fingerprint_key(&fingerprint_key).unwrap();
        assert_eq!(restarted.fingerprint(&Secret::new("t")), print);
        assert!(Sealer::new(&[1; 32]).adopt_fingerprint_key(&fingerprint_key).is_err());
    }
}
