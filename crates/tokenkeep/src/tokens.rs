//! The read path: a bounded cache of access tokens in memory that every commit replaces.
//!
//! A read takes no lock and never waits for a refresh while the token in hand lives long enough.

use papaya::{Equivalent, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokenkeep_core::model::{Connection, ConnectionKey, State, Waiting};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::schedule;
use tokenkeep_core::{Secret, Timestamp, lifecycle};

/// How many access tokens are kept in memory; a colder one is read from the store.
pub const CACHED_TOKENS_MAX: usize = 65_536;

/// An access token and what a caller needs to use it.
#[derive(Debug)]
pub struct Token {
    /// The token.
    pub access_token: Secret,
    /// `Bearer`, or as the provider wrote it.
    pub token_type: String,
    /// When it ends by itself (steady time). `None`: nobody knows. What a caller may count on is
    /// [`Handed::expires_at`].
    pub ends_at: Option<Timestamp>,
    /// What the provider granted.
    pub scopes: Vec<String>,
    /// Which of the connection's token sets it belongs to.
    pub generation: u64,
}

/// A warning that goes with a token: a stable code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Warning {
    /// Nobody knows when the token ends.
    UnknownAge,
    /// The token's life was learned or assumed: the provider did not say.
    LifeLearned,
    /// The token set is not in the store yet: a crash now would fall back on the journal.
    NotDurable,
    /// A human must sign in before this token ends.
    NeedsReauth,
    /// Refreshing is paused.
    Paused,
    /// Refreshing is held until a cause is cleared.
    Held,
    /// An answer was lost: whether this token will be renewed is not known yet.
    InDoubt,
    /// Nothing can renew it.
    NoRefreshToken,
}

impl Warning {
    /// The code as the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownAge => "unknown_age",
            Self::LifeLearned => "life_learned",
            Self::NotDurable => "not_durable",
            Self::NeedsReauth => "needs_reauth",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::InDoubt => "in_doubt",
            Self::NoRefreshToken => "no_refresh_token",
        }
    }
}

/// A token as it is handed out.
#[derive(Clone, Debug)]
pub struct Handed {
    /// The token.
    pub token: Arc<Token>,
    /// Until when the caller may count on it (steady time): its end, or earlier where the next refresh ends it
    /// too. `None`: nobody knows.
    pub expires_at: Option<Timestamp>,
    /// True when it lives shorter than was asked for and nothing longer can be had now.
    pub stale: bool,
    /// What the caller should know.
    pub warnings: Arc<[Warning]>,
}

/// A token in the cache, with what its readers decide by.
#[derive(Debug)]
pub(crate) struct Hot {
    token: Arc<Token>,
    warnings: Arc<[Warning]>,
    /// Before this, a caller's `min_ttl` starts no refresh.
    pub(crate) refreshable_from: Timestamp,
    planned_at: Timestamp,
    /// How long after the next refresh this token still works, where the provider ends it.
    ends_after: Option<Duration>,
    recently_read: AtomicBool,
}

impl Hot {
    pub(crate) fn new(connection: &Connection, tokens: &TokenSet, ends_after: Option<Duration>) -> Self {
        let token = Token {
            access_token: tokens.access_token.duplicate(),
            token_type: tokens.token_type.clone(),
            ends_at: connection.times.expires_at,
            scopes: connection.scopes.clone(),
            generation: connection.generation.0,
        };
        Self::with_token(connection, Arc::new(token), ends_after)
    }

    fn with_token(connection: &Connection, token: Arc<Token>, ends_after: Option<Duration>) -> Self {
        let floor = schedule::min_ttl_floor(lifecycle::life_of(connection));
        Self {
            token,
            warnings: warnings(connection).into(),
            refreshable_from: if connection.refreshed { connection.last_success + floor } else { Timestamp::EPOCH },
            planned_at: connection.times.planned_at,
            ends_after,
            recently_read: AtomicBool::new(true),
        }
    }

    fn not_durable(mut self) -> Self {
        self.warnings = self.warnings.iter().copied().chain([Warning::NotDurable]).collect();
        self
    }

    /// How long it still lives at `now`; [`Duration::MAX`] where nobody knows.
    pub(crate) fn remaining(&self, now: Timestamp) -> Duration {
        self.token.ends_at.map_or(Duration::MAX, |end| now.until(end))
    }

    /// The token for a caller who asked at `now` for a life of `min_ttl`.
    pub(crate) fn hand_out(&self, now: Timestamp, min_ttl: Duration) -> Handed {
        let cap = self.ends_after.map_or(Timestamp::NEVER, |after| self.planned_at.max(now) + after);
        Handed {
            token: Arc::clone(&self.token),
            expires_at: self.token.ends_at.map(|end| end.min(cap)),
            stale: self.remaining(now) < min_ttl,
            warnings: Arc::clone(&self.warnings),
        }
    }
}

fn warnings(connection: &Connection) -> Vec<Warning> {
    let waiting = connection.waiting();
    [
        (connection.times.expires_at.is_none(), Warning::UnknownAge),
        (connection.times.lifetime_learned && connection.refreshed, Warning::LifeLearned),
        (matches!(connection.state, State::NeedsReauth { .. }), Warning::NeedsReauth),
        (connection.paused, Warning::Paused),
        (connection.hold.is_some(), Warning::Held),
        (matches!(waiting, Some(Waiting::InDoubt(_))), Warning::InDoubt),
        (connection.renewal == tokenkeep_core::model::Renewal::Impossible, Warning::NoRefreshToken),
    ]
    .into_iter()
    .filter_map(|(applies, warning)| applies.then_some(warning))
    .collect()
}

/// A key that is looked up without being owned.
struct KeyRef<'a>(&'a ConnectionKey);

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<ConnectionKey> for KeyRef<'_> {
    fn equivalent(&self, key: &ConnectionKey) -> bool {
        self.0 == key
    }
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Tokens {
    hot: HashMap<ConnectionKey, Arc<Hot>>,
    limit: usize,
}

impl Tokens {
    pub(crate) fn new(limit: usize) -> Self {
        Self { hot: HashMap::new(), limit: limit.max(1) }
    }

    /// The cached token of this connection. Lock-free.
    pub(crate) fn get(&self, key: &ConnectionKey) -> Option<Arc<Hot>> {
        let hot = self.hot.pin().get(&KeyRef(key)).cloned()?;
        // A store only when it changes something keeps the line shared between readers.
        if !hot.recently_read.load(Ordering::Relaxed) {
            hot.recently_read.store(true, Ordering::Relaxed);
        }
        Some(hot)
    }

    /// Puts a token into the cache unless a newer generation is there.
    pub(crate) fn put(&self, key: &ConnectionKey, hot: Arc<Hot>) {
        if self.hot.len() >= self.limit {
            self.make_room();
        }
        let generation = hot.token.generation;
        self.hot.pin().update_or_insert(
            key.clone(),
            |held| if held.token.generation > generation { held.clone() } else { hot.clone() },
            hot.clone(),
        );
    }

    /// A commit without new tokens: the cached token stays, its warnings change.
    pub(crate) fn refresh_warnings(&self, connection: &Connection) {
        let pinned = self.hot.pin();
        pinned.update(connection.key.clone(), |held| {
            if held.token.generation == connection.generation.0 {
                Arc::new(Hot::with_token(connection, held.token.clone(), held.ends_after))
            } else {
                held.clone()
            }
        });
    }

    /// Replaces a cached token by a commit's. A connection that nobody asks for stays out.
    pub(crate) fn replace_if_cached(&self, key: &ConnectionKey, hot: impl FnOnce() -> Hot) {
        if self.hot.pin().contains_key(&KeyRef(key)) {
            self.put(key, Arc::new(hot()));
        }
    }

    /// A token that is not in the store yet: kept whether somebody asked or not.
    pub(crate) fn publish_not_durable(&self, connection: &Connection, tokens: &TokenSet) {
        self.put(&connection.key, Arc::new(Hot::new(connection, tokens, None).not_durable()));
    }

    /// Forgets every token that the store has too: what their readers are told has changed.
    pub(crate) fn forget_stored(&self) {
        self.hot.pin().retain(|_, hot| hot.warnings.contains(&Warning::NotDurable));
    }

    /// Forgets a connection whose token the store has too, or a newer one.
    pub(crate) fn forget_if_stored(&self, key: &ConnectionKey) {
        let hot = self.hot.pin();
        if hot.get(&KeyRef(key)).is_some_and(|hot| !hot.warnings.contains(&Warning::NotDurable)) {
            hot.remove(&KeyRef(key));
        }
    }

    /// Forgets a connection.
    pub(crate) fn forget(&self, key: &ConnectionKey) {
        self.hot.pin().remove(&KeyRef(key));
    }

    /// Second chance: what was not read since the last round goes, until an eighth is free.
    fn make_room(&self) {
        let pinned = self.hot.pin();
        let target = self.limit - self.limit / 8;
        for round in 0..2 {
            for (key, hot) in &pinned {
                if pinned.len() <= target {
                    return;
                }
                if round == 1 || !hot.recently_read.swap(false, Ordering::Relaxed) {
                    pinned.remove(key);
                }
            }
        }
    }
}
