//! Who may do what: API keys, what each is limited to, and how much one may take.
//!
//! A key is 256 random bits behind `tk_`, with a checksum. It is shown once; what is stored is its SHA-256, so whoever
//! reads the store has no key.

use crate::error::Error;
use crate::seal::random_bytes;
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use papaya::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokenkeep_core::model::{ConnectionKey, check_name};
use tokenkeep_core::{Secret, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How every API key begins.
pub const KEY_PREFIX: &str = "tk_";
/// The most keys of one daemon.
pub const KEYS_MAX: usize = 10_000;
/// The most patterns that limit one key.
pub const PATTERNS_MAX: usize = 64;
/// How many connections' tokens one key may read within an hour, unless it says otherwise.
pub const CONNECTIONS_PER_HOUR: u32 = 1_000;

/// How many requests of one key are answered at a time, those that wait for a token among them.
pub const REQUESTS_AT_ONCE: usize = 1_024;

const KEY_BYTES: usize = 32;
/// Of the checksum, in hex digits.
const CHECK_DIGITS: usize = 8;
const HOUR: Duration = Duration::from_secs(3_600);

/// What a key lets its holder do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// See how connections stand, and what happened.
    Status,
    /// Take access tokens.
    Token,
    /// Have connections refreshed.
    Refresh,
    /// Sign in, import, pause, resume, label and remove connections.
    Manage,
    /// Everything, keys and the audit trail included.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [Self::Status, Self::Token, Self::Refresh, Self::Manage, Self::Admin];

    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Token => "token",
            Self::Refresh => "refresh",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }

    /// Reads what [`Scope::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What somebody may do, and to which connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rights {
    /// What: [`Scope::Admin`] stands for all.
    pub scopes: BTreeSet<Scope>,
    /// Only in namespaces that fit one of these; empty: in all.
    pub namespaces: Vec<Pattern>,
    /// Only connections whose name fits one of these; empty: all.
    pub names: Vec<Pattern>,
}

impl Rights {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { scopes: BTreeSet::from([Scope::Admin]), namespaces: Vec::new(), names: Vec::new() }
    }

    /// Whether `scope` is among them.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Whether they reach this connection.
    #[must_use]
    pub fn reach(&self, key: &ConnectionKey) -> bool {
        self.reach_namespace(key.namespace()) && fits(&self.names, key.name())
    }

    /// Whether they reach anything in this namespace.
    #[must_use]
    pub fn reach_namespace(&self, namespace: &str) -> bool {
        fits(&self.namespaces, namespace)
    }

    /// Whether they reach every connection of every namespace.
    #[must_use]
    pub fn reach_all(&self) -> bool {
        self.namespaces.is_empty() && self.names.is_empty()
    }

    /// Whether nothing in `other` goes beyond these.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        other.scopes.iter().all(|&scope| self.has(scope))
            && covers(&self.namespaces, &other.namespaces)
            && covers(&self.names, &other.names)
    }
}

fn fits(patterns: &[Pattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.fits(text))
}

/// Every pattern of `other` is one of `own`, or a name without `*` that one of them fits.
fn covers(own: &[Pattern], other: &[Pattern]) -> bool {
    let covered = |wanted: &Pattern| own.contains(wanted) || (!wanted.has_star() && fits(own, &wanted.0));
    own.is_empty() || (!other.is_empty() && other.iter().all(covered))
}

/// A name, in which `*` stands for any run of characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pattern(String);

impl Pattern {
    /// Checks that it is a name but for its `*`.
    ///
    /// # Errors
    /// A sentence that says what was found and expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Any letter will do in place of the star.
        match check_name(&text.replace('*', "a")) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("{error}; * stands for any run of them")),
        }
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn has_star(&self) -> bool {
        self.0.contains('*')
    }

    /// Whether `text` is what it stands for.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(head) else { return false };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
            let Some(at) = text.find(piece) else { return false };
            text = &text[at + piece.len()..];
        }
        text.ends_with(tail)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An API key, without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiKey {
    /// By which it is shown and revoked: 16 hex digits.
    pub id: String,
    /// What its maker calls it.
    pub name: String,
    /// What it may do.
    pub rights: Rights,
    /// How many connections' tokens it may read within an hour.
    pub connections_per_hour: u32,
    /// When it was made (wall time, as all times here).
    pub created_at: Timestamp,
    /// By whom, as the audit trail writes it.
    pub created_by: String,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// What a key is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewKey {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub rights: Rights,
    /// How many connections' tokens it may read within an hour.
    pub connections_per_hour: u32,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// By whom it is made.
    pub created_by: String,
}

/// A key as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    pub hash: [u8; 32],
    pub key: ApiKey,
}

/// Why a token is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany {
    /// How many connections' tokens the key may read within an hour.
    pub per_hour: u32,
    /// When the hour is over (wall time).
    pub until: Timestamp,
}

/// A key in use.
pub struct LiveKey {
    /// What it is.
    pub key: ApiKey,
    hash: [u8; 32],
    last_used_ms: AtomicI64,
    /// Whose tokens it has read, and in which hour.
    read: HashMap<ConnectionKey, i64>,
    hour: Mutex<Hour>,
    requests: Arc<Semaphore>,
}

/// A request of a key, until it is answered.
pub type Asking = OwnedSemaphorePermit;

#[derive(Default)]
struct Hour {
    nth: i64,
    connections: u32,
    alarmed: bool,
}

impl fmt::Debug for LiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl LiveKey {
    fn new(stored: StoredKey) -> Arc<Self> {
        let StoredKey { hash, key } = stored;
        let (last_used_ms, read, hour) = (AtomicI64::new(i64::MIN), HashMap::new(), Mutex::default());
        let requests = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        Arc::new(Self { key, hash, last_used_ms, read, hour, requests })
    }

    /// One more request, until what is given is dropped; `None` while [`REQUESTS_AT_ONCE`] are not answered yet.
    #[must_use]
    pub fn ask(&self) -> Option<Asking> {
        Arc::clone(&self.requests).try_acquire_owned().ok()
    }

    /// When it was last used, as far as this process knows.
    #[must_use]
    pub fn last_used_at(&self) -> Option<Timestamp> {
        Some(self.last_used_ms.load(Ordering::Relaxed)).filter(|&at| at > i64::MIN).map(Timestamp::from_millis)
    }

    /// Whether it may read this connection's token now: one connection more counts once an hour.
    ///
    /// # Errors
    /// It has read as many others' within this hour as it may.
    pub fn may_read(&self, connection: &ConnectionKey, now: Timestamp) -> Result<(), TooMany> {
        let length = HOUR.as_millis() as i64;
        let nth = now.as_millis().div_euclid(length);
        let read = self.read.pin();
        if read.get(connection) == Some(&nth) {
            return Ok(());
        }
        let mut hour = self.hour.lock().unwrap_or_else(PoisonError::into_inner);
        if hour.nth != nth {
            *hour = Hour { nth, ..Hour::default() };
            read.clear();
        }
        if hour.connections >= self.key.connections_per_hour {
            if !std::mem::replace(&mut hour.alarmed, true) {
                let (key, name, per_hour) = (&self.key.id, &self.key.name, self.key.connections_per_hour);
                tracing::error!(key, name, per_hour, "a key reads more connections' tokens than it may within an hour");
            }
            let until = Timestamp::from_millis(nth.saturating_add(1).saturating_mul(length));
            return Err(TooMany { per_hour: self.key.connections_per_hour, until });
        }
        if read.insert(connection.clone(), nth).is_none() {
            hour.connections += 1;
        }
        Ok(())
    }
}

/// The keys of one daemon.
pub struct Keys {
    store: Arc<SqliteStore>,
    live: RwLock<BTreeMap<String, Arc<LiveKey>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    pub(crate) async fn open(store: Arc<SqliteStore>) -> Result<Self, StoreError> {
        let stored = store.api_keys().await?;
        let live = stored.into_iter().map(|stored| (stored.key.id.clone(), LiveKey::new(stored))).collect();
        Ok(Self { store, live: RwLock::new(live) })
    }

    /// The key that this text is, if it is one that has not ended at `now` (wall time).
    #[must_use]
    pub fn find(&self, text: &str, now: Timestamp) -> Option<Arc<LiveKey>> {
        let hash = hash_of(text)?;
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let found = live.get(&id_of(&hash)).filter(|key| verify_slices_are_equal(&key.hash, &hash).is_ok())?;
        let found = Arc::clone(found);
        drop(live);
        if found.key.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        found.last_used_ms.store(now.as_millis(), Ordering::Relaxed);
        Some(found)
    }

    /// The key of this id, ended or not.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<LiveKey>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Whether this key is held, and has not ended at `now` (wall time).
    #[must_use]
    pub fn has(&self, key: &Arc<LiveKey>, now: Timestamp) -> bool {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.get(&key.key.id).is_some_and(|held| Arc::ptr_eq(held, key))
            && key.key.expires_at.is_none_or(|end| end > now)
    }

    /// Every key, in the order of ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LiveKey>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Makes a key. Its text is in the answer, and nowhere else.
    ///
    /// # Errors
    /// There are too many, or the store cannot be written: then there is no such key.
    pub async fn create(&self, new: NewKey, now: Timestamp) -> Result<(ApiKey, Secret), Error> {
        if self.live.read().unwrap_or_else(PoisonError::into_inner).len() >= KEYS_MAX {
            return Err(Error::Invalid {
                field: "api-keys".to_owned(),
                found: format!("there are {KEYS_MAX} keys"),
                expected: "fewer: revoke some that nobody uses".to_owned(),
            });
        }
        let text = new_text();
        let hash = hash_of(text.expose()).unwrap_or_default();
        let NewKey { name, rights, connections_per_hour, expires_at, created_by } = new;
        let id = id_of(&hash);
        let key = ApiKey { id, name, rights, connections_per_hour, created_at: now, created_by, expires_at };
        let stored = StoredKey { hash, key: key.clone() };
        self.store.put_api_key(stored.clone()).await?;
        self.live.write().unwrap_or_else(PoisonError::into_inner).insert(key.id.clone(), LiveKey::new(stored));
        Ok((key, text))
    }

    /// Ends a key. `None`: there is none of this id.
    ///
    /// # Errors
    /// The store cannot be written: then the key ends with this process.
    pub async fn revoke(&self, id: &str) -> Result<Option<ApiKey>, Error> {
        let removed = self.live.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        let Some(removed) = removed else { return Ok(None) };
        self.store.remove_api_key(id.to_owned()).await?;
        Ok(Some(removed.key.clone()))
    }
}

/// A secret of 256 random bits, in 64 hex digits.
#[must_use]
pub fn random_secret() -> Secret {
    Secret::new(hex(&random_bytes::<KEY_BYTES>()))
}

fn new_text() -> Secret {
    let bytes = random_bytes::<KEY_BYTES>();
    let check = crc32fast::hash(&bytes);
    Secret::new(format!("{KEY_PREFIX}{}{check:0width$x}", hex(&bytes), width = CHECK_DIGITS))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hash of a well-formed key: one with a typing error is none, and costs no look-up.
fn hash_of(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(KEY_PREFIX)?.as_bytes();
    if digits.len() != 2 * KEY_BYTES + CHECK_DIGITS {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
    let mut bytes = zeroize::Zeroizing::new([0_u8; KEY_BYTES + CHECK_DIGITS / 2]);
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
    }
    let (key, check) = bytes.split_at(KEY_BYTES);
    if crc32fast::hash(key).to_be_bytes() != *check {
        return None;
    }
    digest(&SHA256, key).as_ref().try_into().ok()
}

fn id_of(hash: &[u8; 32]) -> String {
    hex(&hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
    }

    fn rights(scopes: &[Scope], namespaces: &[&str], names: &[&str]) -> Rights {
        let scopes = scopes.iter().copied().collect();
        Rights { scopes, namespaces: patterns(namespaces), names: patterns(names) }
    }

    #[test]
    fn a_pattern_fits_whole_names() {
        let fits = |pattern: &str, text: &str| Pattern::parse(pattern).unwrap().fits(text);
        for (pattern, good) in [
            ("jira", "jira"),
            ("*", "x"),
            ("jira-*", "jira-"),
            ("*-prod", "a-prod"),
            ("a*b*c", "axbxc"),
            ("a*b*c", "abc"),
        ] {
            assert!(fits(pattern, good), "{pattern} {good}");
        }
        for (pattern, bad) in
            [("jira", "jira2"), ("jira-*", "jira"), ("*-prod", "a-prod2"), ("a*b*c", "acb"), ("ab*ba", "aba")]
        {
            assert!(!fits(pattern, bad), "{pattern} {bad}");
        }
        for bad in ["", "a b", "/", "a\n", "ä*"] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_can_make_only_lesser_keys() {
        use Scope::{Admin, Manage, Status, Token};
        let own = rights(&[Status, Token], &["team-*"], &["jira*", "wiki"]);
        for lesser in [
            rights(&[Token], &["team-*"], &["wiki"]),
            rights(&[Status], &["team-a"], &["jira*"]),
            rights(&[], &["team-a", "team-b"], &["jira-1"]),
        ] {
            assert!(own.cover(&lesser), "{lesser:?}");
        }
        for more in [
            rights(&[Manage], &["team-a"], &["wiki"]),
            rights(&[Token], &[], &["wiki"]),
            rights(&[Token], &["team-a"], &[]),
            rights(&[Token], &["other"], &["wiki"]),
            rights(&[Token], &["team*"], &["wiki"]),
            rights(&[Admin], &["team-a"], &["wiki"]),
        ] {
            assert!(!own.cover(&more), "{more:?}");
        }
        assert!(Rights::all().cover(&rights(&Scope::ALL, &[], &[])));
    }

    #[test]
    fn a_key_has_a_checksum_and_256_random_bits() {
        let text = new_text();
        let text = text.expose();
        assert_eq!(text.len(), 3 + 64 + 8);
        let hash = hash_of(text).unwrap();
        assert_ne!(hash_of(new_text().expose()).unwrap(), hash);
        for at in 3..text.len() {
            let mut wrong = text.to_owned().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(hash_of(std::str::from_utf8(&wrong).unwrap()), None, "one digit is wrong");
        }
        for bad in ["", "tk_", &text[..text.len() - 1], &format!("{text}0"), &text.to_uppercase(), &format!(" {text}")]
        {
            assert_eq!(hash_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn one_key_does_not_drain_the_fleet() {
        let key = ApiKey {
            id: "1".into(),
            name: "n".into(),
            rights: Rights::all(),
            connections_per_hour: 3,
            created_at: Timestamp::EPOCH,
            created_by: "t".into(),
            expires_at: None,
        };
        let live = LiveKey::new(StoredKey { hash: [0; 32], key });
        let at = |minutes: u64| Timestamp::EPOCH + Duration::from_secs(60 * minutes);
        let read = |nth: u64, minute| live.may_read(&ConnectionKey::in_default(format!("c{nth}")).unwrap(), at(minute));
        for minute in 0..59 {
            assert_eq!(read(minute % 3, minute), Ok(()), "the same three all the time");
        }
        assert_eq!(read(7, 59), Err(TooMany { per_hour: 3, until: at(60) }));
        assert_eq!(read(1, 59), Ok(()));
        assert_eq!(read(7, 60), Ok(()), "another hour");
    }
}
