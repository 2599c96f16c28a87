//! What the provider can tell about its grants afterwards, without naming a token.

use std::fmt::Write as _;

use serde::Serialize;

use crate::rotation::Rotation;

/// Names a token without showing it: the first 32 hexadecimal digits of its SHA-256.
///
/// ```
/// assert_eq!(tokenkeep_mock::fingerprint("abc"), "ba7816bf8f01cfea414140de5dae2223");
/// ```
pub fn fingerprint(token: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let half = digest.as_ref().iter().take(16);
    half.fold(String::with_capacity(32), |mut text, byte| {
        // Proof: writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The number of a grant at its provider, counted from 0 in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct GrantId(pub(crate) usize);

/// What happened at a provider, counted over all its grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// Grants made.
    pub grants: u64,
    /// Requests that arrived at the token endpoint.
    pub requests: u64,
    /// Refreshes that issued tokens, whether or not the answer reached anyone.
    pub refreshes: u64,
    /// Refreshes with a used refresh token that the rotation class tolerates (`grace`, `until-used`).
    pub grace_reuses: u64,
    /// Uses of a spent refresh token that no rotation class tolerates.
    pub reuses: u64,
    /// Requests that arrived while another one with the same refresh token was in flight.
    pub overlaps: u64,
    /// Grants that ended, for whatever cause.
    pub dead_families: u64,
    /// Refusals of a client.
    pub client_refusals: u64,
    /// Refusals of a refresh token, reuses included.
    pub grant_refusals: u64,
    /// Tokens issued to clients for themselves.
    pub client_tokens: u64,
}

/// What happened to one grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GrantLedger {
    /// Its number.
    pub id: GrantId,
    /// Its name.
    pub label: String,
    /// Its rotation class.
    pub rotation: Rotation,
    /// How long its access tokens live.
    pub access_ttl_ms: i64,
    /// The fingerprint of its current refresh token.
    pub refresh_token_fingerprint: String,
    /// The fingerprint of its newest access token.
    pub access_token_fingerprint: String,
    /// When its newest access token ends.
    pub access_expires_at_ms: i64,
    /// Token sets issued, the first one included.
    pub issues: u64,
    /// Requests that arrived with one of its refresh tokens, whatever became of them.
    pub requests: u64,
    /// Refreshes that issued tokens.
    pub refreshes: u64,
    /// When the last of them was.
    pub last_refresh_at_ms: Option<i64>,
    /// The shortest time that the newest access token still had to live at a refresh; negative where it had ended.
    pub margin_min_ms: Option<i64>,
    /// Refreshes with a used refresh token that its rotation class tolerates.
    pub grace_reuses: u64,
    /// Requests that arrived while another one with the same refresh token was in flight.
    pub overlaps: u64,
    /// Uses of a spent refresh token that its rotation class does not tolerate.
    pub reuse_count: u64,
    /// The first 16 of them.
    pub reuses: Vec<ReuseEvent>,
    /// Why and when it ended, if it did.
    pub killed: Option<Death>,
}

/// One use of a spent refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReuseEvent {
    /// When.
    pub at_ms: i64,
    /// The fingerprint of the token.
    pub fingerprint: String,
    /// What the token was.
    pub token: ReusedToken,
}

/// What a reused refresh token was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReusedToken {
    /// It had been used.
    Spent,
    /// It had been replaced before it was used, because its predecessor was used again.
    Superseded,
}

/// The end of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Death {
    /// Why it ended.
    pub cause: DeathCause,
    /// When.
    pub at_ms: i64,
}

/// Why a grant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeathCause {
    /// A spent refresh token was used.
    Reuse,
    /// Its client revoked it.
    Revoked,
    /// Its refresh token was not used for too long.
    Idle,
    /// It reached the age at which its provider ends every grant.
    Expired,
    /// The code that made it was used a second time (RFC 6749, 4.1.2).
    CodeReuse,
    /// The test ended it, as an administrator or the resource owner would.
    Killed,
}
