//! Where connections, their sealed token sets and their events are kept: the timer wheel of the engine.
//!
//! The next due time of each connection is a column with an index, so memory does not grow with the
//! number of connections and a restart forgets nothing. Every store passes the same conformance suite.

#[cfg(any(test, feature = "test-suite"))]
#[doc(hidden)]
pub mod conformance;
pub mod lock;
#[cfg(any(test, feature = "test-suite"))]
#[doc(hidden)]
pub mod memory;
mod outlook;
mod record;
mod rules;
pub mod sqlite;
pub mod webhooks;

use async_trait::async_trait;
use std::collections::BTreeMap;
use tokenkeep_core::model::{
    AttemptNumber, Connection, ConnectionId, ConnectionKey, Hold, Holder, Origin, Renewal, Status, TokenTimes, Waiting,
};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::{Secret, Timestamp};

pub use outlook::{END_CLASSES, END_CLASSES_COUNT, Outlook, PLAN_BIN, PLAN_BINS};
pub use tokenkeep_core::event::{EventKind, NewEvent};
pub use tokenkeep_core::lifecycle::HoldChange;

/// The most connections that one call of [`Store::claim_due`] claims for one provider.
pub const CLAIM_BATCH_MAX: usize = 256;
/// The most connections that one call of [`Store::warn_due`] looks at.
pub const WARN_BATCH_MAX: usize = 256;
/// The most rows that one page of a listing holds.
pub const PAGE_MAX: usize = 1_000;
/// How many fingerprints of used refresh tokens are kept for each connection.
pub const FINGERPRINTS_MAX: usize = 32;
/// How many events are kept; the oldest go first.
pub const EVENTS_MAX: u64 = 1_000_000;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be written or read now: a full disk, an I/O error. Trying again may help.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
    /// What is stored is damaged, or was put there by someone else; nothing was changed.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The store was written by a newer Tokenkeep; nothing was changed.
    #[error(
        "the store has schema version {found}, and this Tokenkeep knows versions up to {known}: use a newer Tokenkeep"
    )]
    Newer {
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// How much may be claimed for one provider now.
#[derive(Clone, Debug)]
pub struct Quota {
    /// The provider's name.
    pub provider: String,
    /// At most this many, and never more than [`CLAIM_BATCH_MAX`].
    pub limit: usize,
    /// After an outage: connections in [`Waiting::Retry`] whose last attempt failed before this are
    /// claimed whether their pause is over or not, earliest deadline first.
    pub recover_before: Option<Timestamp>,
}

/// A claimed connection and what its attempt needs. The refresh token was read inside the claim.
#[derive(Debug)]
pub struct Work {
    /// The connection, in [`tokenkeep_core::model::State::Claimed`].
    pub connection: Connection,
    /// The token set in hand. `None`: there never was one (a client-credentials connection before its first).
    pub tokens: Option<TokenSet>,
    /// When it had been due, before it was claimed.
    pub was_due_at: Option<Timestamp>,
}

/// What [`Store::claim_due`] found.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The claims, earliest deadline first within each provider.
    pub work: Vec<Work>,
    /// For each provider asked about: when its next connection is due ([`Timestamp::NEVER`] if none).
    /// At or before `now` means: there was more than the limit.
    pub next_due: BTreeMap<String, Timestamp>,
}

/// What [`Store::claim_one`] found.
#[derive(Debug)]
pub enum ClaimOne {
    /// It is yours.
    Claimed(Box<Work>),
    /// It is not as it was seen any more, or cannot be claimed: an attempt is in flight, a human must sign
    /// in, it is paused or held.
    NotClaimable,
    /// There is no such connection.
    Absent,
}

/// What an attempt made of a connection.
#[derive(Debug)]
pub struct Commit {
    /// The connection as it becomes. Its `paused`, `hold` and `labels` are ignored: the stored ones stay
    /// (see `hold`).
    pub next: Connection,
    /// The attempt that this is the result of.
    pub attempt: AttemptNumber,
    /// The new token set; `None` when the attempt brought none. `next.generation` is then unchanged.
    pub tokens: Option<TokenSet>,
    /// What to do with the stored hold.
    pub hold: HoldChange,
    /// What to write into the history together with it.
    pub events: Vec<NewEvent>,
    /// The journal's sequence number of the answer, 0 for none. The store keeps the highest, also that of
    /// a result that comes too late: the answer has been seen.
    pub journal_sequence: u64,
}

/// What became of a commit.
#[derive(Debug)]
pub enum Committed {
    /// It is durable; this is the connection now, and the events with their numbers.
    Applied(Box<Connection>, Vec<Event>),
    /// A newer grant or a newer result stands; nothing was changed.
    Superseded,
    /// The connection has been removed; nothing was changed.
    Gone,
}

/// A token set that somebody brings: a new connection, or a new grant of an existing one.
#[derive(Debug)]
pub struct NewGrant {
    /// Its name.
    pub key: ConnectionKey,
    /// The provider's name.
    pub provider: String,
    /// Labels; on an existing connection `None` keeps the ones it has.
    pub labels: Option<BTreeMap<String, String>>,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// How it will be renewed.
    pub renewal: Renewal,
    /// Where it comes from.
    pub origin: Origin,
    /// The token set's times.
    pub times: TokenTimes,
    /// When the first refresh is due.
    pub due_at: Timestamp,
    /// What is then to be done.
    pub waiting: Waiting,
    /// The tokens; `None` for client credentials that have not been used yet.
    pub tokens: Option<TokenSet>,
}

/// What became of a [`NewGrant`].
#[derive(Debug)]
pub enum Granted {
    /// A new connection: generation 1 (0 when it came without tokens), grant number 1.
    Created(Box<Connection>, Event),
    /// A new grant of an existing one: grant number and generation grew by one, state, failures, holds
    /// and the list of used refresh tokens were reset; `paused`, statistics and history stay.
    Renewed(Box<Connection>, Event),
    /// This refresh token is the one in hand; nothing was changed.
    AlreadyHeld(Box<Connection>),
    /// This refresh token was used before the one in hand; nothing was changed.
    AlreadyUsed(Box<Connection>),
    /// The existing connection belongs to another provider; nothing was changed.
    OtherProvider(Box<Connection>),
    /// The existing connection belongs to another account at its provider; nothing was changed.
    OtherAccount(Box<Connection>),
}

impl Granted {
    /// The same answer about another view of its connection.
    pub(crate) fn map(self, view: impl FnOnce(Connection) -> Connection) -> Self {
        match self {
            Self::Created(connection, event) => Self::Created(Box::new(view(*connection)), event),
            Self::Renewed(connection, event) => Self::Renewed(Box::new(view(*connection)), event),
            Self::AlreadyHeld(connection) => Self::AlreadyHeld(Box::new(view(*connection))),
            Self::AlreadyUsed(connection) => Self::AlreadyUsed(Box::new(view(*connection))),
            Self::OtherProvider(connection) => Self::OtherProvider(Box::new(view(*connection))),
            Self::OtherAccount(connection) => Self::OtherAccount(Box::new(view(*connection))),
        }
    }
}

/// A change that a person or the engine makes to a connection outside an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flag {
    /// No refreshes until [`Flag::Resume`]. An attempt in flight is let finish.
    Pause,
    /// Refreshes again: clears `paused` and a hold. A hold of cause `restored_copy` turns into
    /// [`Waiting::InDoubt`] with a probe due at `now`.
    Resume,
    /// Holds it. Where it is held for the same cause already, only the probe moves, without an event.
    Hold(Hold),
    /// Gives it exactly these labels, without an event.
    Labels(BTreeMap<String, String>),
}

/// What became of a provider's configuration that was noted.
#[derive(Debug)]
pub enum Noted {
    /// It is the one that was noted before.
    Same,
    /// It is another one, or the first: what the old one had held is released, with these events.
    Changed(Vec<Event>),
}

/// What [`Store::warn_due`] told.
#[derive(Debug, Default)]
pub struct Warned {
    /// The events that it wrote.
    pub events: Vec<Event>,
    /// There may be more to tell at once.
    pub more: bool,
}

/// What to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListQuery {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only these statuses, judged at `now`; empty: all.
    pub statuses: Vec<Status>,
    /// Only this provider.
    pub provider: Option<String>,
    /// Only names that contain this text.
    pub name_contains: Option<String>,
    /// Only what comes after this key, in the order of namespace and name.
    pub after: Option<ConnectionKey>,
    /// At most this many, and never more than [`PAGE_MAX`].
    pub limit: usize,
}

/// Counts of the whole store, or of one namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How many connections have each status.
    pub by_status: BTreeMap<Status, u64>,
    /// When the next refresh is due.
    pub next_due_at: Option<Timestamp>,
    /// When the first access token ends that has not ended yet.
    pub earliest_expiry: Option<Timestamp>,
}

/// Counts of one provider's connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProviderSummary {
    /// How many connections have each status.
    pub by_status: BTreeMap<Status, u64>,
    /// When the first access token ends that has not ended yet.
    pub earliest_expiry: Option<Timestamp>,
}

/// One thing that happened, numbered and stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its number: grows, is never used twice.
    pub id: u64,
    /// What happened.
    pub event: NewEvent,
}

/// Which events to read, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventQuery {
    /// Only events with greater numbers.
    pub after: u64,
    /// Only those at or after this time.
    pub since: Option<Timestamp>,
    /// Only those of this connection.
    pub connection: Option<ConnectionKey>,
    /// Where there are more than `limit`: the newest of them, not the oldest.
    pub newest: bool,
    /// At most this many, and never more than [`PAGE_MAX`].
    pub limit: usize,
}

/// What every store promises. `now` is always the caller's steady time.
///
/// What a call answers with success is durable. Nothing here retries.
///
/// While a provider is held ([`Store::hold_provider`]), `get`, `tokens`, `list`, the summaries, `grant` and `flag` show each
/// of its connections as held too, and as due no earlier than the provider's probe; one that has a hold of its own keeps
/// its cause, unless only the configuration can release the provider. No row of a connection says so: claims and commits
/// see connections as they are.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Claims what is due: ready, neither paused nor held (unless the hold's probe is due), due at or
    /// before `now`. One transaction. For each quota it looks at the `4 * limit` longest due, and at what
    /// [`Quota::recover_before`] reaches, and takes those whose access tokens end first (last: those whose end
    /// nobody knows). A connection that cannot be read is left out, reported by an event of kind
    /// [`EventKind::StorageDegraded`], and not looked at again until it is written anew.
    async fn claim_due(&self, now: Timestamp, holder: Holder, quotas: &[Quota]) -> Result<Claimed, StoreError>;

    /// Claims this one, due or not, unless it is claimed, needs a sign-in, is paused, or is held, or its
    /// grant, attempt or generation differs from those of `seen`: an attempt that was seen in flight may have ended.
    async fn claim_one(&self, now: Timestamp, holder: Holder, seen: &Connection) -> Result<ClaimOne, StoreError>;

    /// True while `work`'s claim stands: same grant, same attempt, still claimed by the same holder.
    async fn revalidate(&self, connection: &Connection) -> Result<bool, StoreError>;

    /// Writes what an attempt made of a connection, grouped with whatever else is waiting.
    ///
    /// With tokens the guard is: same grant number, and `(stored generation, attempt that committed it)` <
    /// `(next.generation, attempt)`; no claim is asked for, and it wins over every state. Without tokens: the
    /// claim of this attempt still stands. Running a commit again changes nothing ([`Committed::Superseded`]).
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError>;

    /// Tells of the ends of at most [`WARN_BATCH_MAX`] connections whose mark has come
    /// ([`tokenkeep_core::lifecycle::warned`]); no mark is told twice.
    async fn warn_due(&self, now: Timestamp) -> Result<Warned, StoreError>;

    /// The connections of this account at this provider, at most [`PAGE_MAX`], in the order of namespace and name.
    async fn of_account(&self, provider: &str, account: &str) -> Result<Vec<ConnectionKey>, StoreError>;

    /// The connection of this name.
    async fn get(&self, key: &ConnectionKey) -> Result<Option<Connection>, StoreError>;

    /// The connection of this name with its token set.
    async fn tokens(&self, key: &ConnectionKey) -> Result<Option<Work>, StoreError>;

    /// A page of connections, in the order of namespace and name.
    async fn list(&self, now: Timestamp, query: &ListQuery) -> Result<Vec<Connection>, StoreError>;

    /// Counts, by statuses judged at `now`.
    async fn summary(&self, now: Timestamp, namespace: Option<&str>) -> Result<Summary, StoreError>;

    /// Counts for each provider that has connections, by statuses judged at `now`: together what
    /// [`Store::summary`] says of the whole store.
    async fn summary_by_provider(&self, now: Timestamp) -> Result<BTreeMap<String, ProviderSummary>, StoreError>;

    /// Counts ends and planned refreshes, by statuses judged at `now`. It looks at each connection, if only at its entry
    /// of an index: it is to be asked seldom.
    async fn outlook(&self, now: Timestamp, namespace: Option<&str>) -> Result<Outlook, StoreError>;

    /// Takes token sets over, all in one transaction, in the order given; each writes
    /// `connection.connected`.
    async fn grant(&self, now: Timestamp, grants: Vec<NewGrant>) -> Result<Vec<Granted>, StoreError>;

    /// Sets a flag, with its event. `None`: no such connection. Setting what is set writes no event.
    async fn flag(
        &self,
        now: Timestamp,
        key: &ConnectionKey,
        flag: Flag,
    ) -> Result<Option<(Connection, Option<Event>)>, StoreError>;

    /// Removes the connection and wipes its secrets; its history stays, with `connection.removed`.
    async fn remove(&self, now: Timestamp, key: &ConnectionKey) -> Result<Option<Event>, StoreError>;

    /// Every open claim, with the token set in hand, at most `limit`, ordered by id after `after`.
    async fn open_claims(&self, after: ConnectionId, limit: usize) -> Result<Vec<Work>, StoreError>;

    /// Writes events that belong to no change of a connection.
    async fn record(&self, events: Vec<NewEvent>) -> Result<Vec<Event>, StoreError>;

    /// Reads events, oldest first.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError>;

    /// Every provider that a connection names or named, or that was configured, with what holds it.
    async fn providers(&self) -> Result<BTreeMap<String, Option<Hold>>, StoreError>;

    /// Holds every connection of this provider, or with `None` holds them no longer, by one row.
    async fn hold_provider(&self, provider: &str, hold: Option<Hold>) -> Result<(), StoreError>;

    /// Notes how `provider` is configured, without keeping `configuration` readable. Where that is not what was noted
    /// before, one transaction also releases what the old configuration may have caused: the provider's hold, and of its
    /// connections each hold that a probe may clear; these write `connection.resumed`. Due times stay.
    async fn note_provider(&self, now: Timestamp, provider: &str, configuration: &Secret) -> Result<Noted, StoreError>;

    /// The highest journal sequence number that a commit has brought.
    async fn journal_sequence(&self) -> Result<u64, StoreError>;
}
