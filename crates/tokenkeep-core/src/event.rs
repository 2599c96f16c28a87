//! What happened, in words for people and numbers for programs.

use crate::failure::{Failure, FailureCode};
use crate::model::ConnectionKey;
use crate::time::Timestamp;

/// The kinds of [`NewEvent`], as the API writes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "each is described by its text in `as_str`, which is the contract")]
pub enum EventKind {
    Connected,
    Refreshed,
    RefreshFailed,
    InDoubt,
    NeedsReauth,
    Expiring,
    Recovered,
    Paused,
    Resumed,
    Held,
    Removed,
    ProviderDegraded,
    ProviderRecovered,
    SystemStarted,
    SystemStopped,
    StorageDegraded,
    WorkerRestarted,
    KeyRotationStarted,
    KeyRotated,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::Connected,
        Self::Refreshed,
        Self::RefreshFailed,
        Self::InDoubt,
        Self::NeedsReauth,
        Self::Expiring,
        Self::Recovered,
        Self::Paused,
        Self::Resumed,
        Self::Held,
        Self::Removed,
        Self::ProviderDegraded,
        Self::ProviderRecovered,
        Self::SystemStarted,
        Self::SystemStopped,
        Self::StorageDegraded,
        Self::WorkerRestarted,
        Self::KeyRotationStarted,
        Self::KeyRotated,
    ];

    /// The event's `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connection.connected",
            Self::Refreshed => "connection.refreshed",
            Self::RefreshFailed => "connection.refresh_failed",
            Self::InDoubt => "connection.in_doubt",
            Self::NeedsReauth => "connection.needs_reauth",
            Self::Expiring => "connection.expiring",
            Self::Recovered => "connection.recovered",
            Self::Paused => "connection.paused",
            Self::Resumed => "connection.resumed",
            Self::Held => "connection.held",
            Self::Removed => "connection.removed",
            Self::ProviderDegraded => "provider.degraded",
            Self::ProviderRecovered => "provider.recovered",
            Self::SystemStarted => "system.started",
            Self::SystemStopped => "system.stopped",
            Self::StorageDegraded => "system.storage_degraded",
            Self::WorkerRestarted => "system.worker_restarted",
            Self::KeyRotationStarted => "system.key_rotation_started",
            Self::KeyRotated => "system.key_rotated",
        }
    }

    /// Reads what [`EventKind::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Something that happened, before the store has numbered it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEvent {
    /// What kind of thing.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// Whose; `None` for `system` and `provider` events.
    pub connection: Option<ConnectionKey>,
    /// The failure's code, where it is about one.
    pub code: Option<FailureCode>,
    /// One sentence for people; no secrets.
    pub message: String,
    /// Numbers and names for programs: one JSON object as text; no secrets.
    pub data: String,
}

impl NewEvent {
    /// An event without code and data.
    #[must_use]
    pub fn new(kind: EventKind, at: Timestamp, connection: Option<&ConnectionKey>, message: impl Into<String>) -> Self {
        Self { kind, at, connection: connection.cloned(), code: None, message: message.into(), data: "{}".to_owned() }
    }

    /// With what failed.
    #[must_use]
    pub fn with_failure(mut self, failure: &Failure) -> Self {
        self.code = Some(failure.code);
        self
    }
}
