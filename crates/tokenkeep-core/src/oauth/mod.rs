//! OAuth 2.0 messages: requests written, answers read. Nothing here knows a provider by name but where it says so.

pub mod authorize;
pub mod device;
pub mod metadata;
pub mod request;
pub mod response;

use crate::secret::Secret;
use std::time::Duration;
use zeroize::Zeroizing;

/// A token set as it is kept and handed out: the secrets of a connection.
#[derive(Debug)]
pub struct TokenSet {
    /// The access token.
    pub access_token: Secret,
    /// The refresh token, where there is one.
    pub refresh_token: Option<Secret>,
    /// As the provider wrote it; `Bearer` where it wrote none.
    pub token_type: String,
    /// Every other field that the provider sent, as one JSON object. It may hold secrets (`id_token`).
    pub extra: Secret,
}

/// What a readable token answer says.
#[derive(Debug)]
pub struct TokenAnswer {
    /// The access token: printable ASCII without spaces, at most 16 KiB.
    pub access_token: Secret,
    /// A new refresh token; `None` means that the old one stays (Google, Dropbox, Snowflake).
    pub refresh_token: Option<Secret>,
    /// `Bearer` unless the answer says otherwise.
    pub token_type: String,
    /// L, believed only between 1 s and 10 years.
    pub expires_in: Option<Duration>,
    /// The life of the refresh token, by whichever name the provider gives it.
    pub refresh_expires_in: Option<Duration>,
    /// The provider's wish when to refresh.
    pub refresh_in: Option<Duration>,
    /// The granted scopes; `None` means: as before.
    pub scopes: Option<Vec<String>>,
    /// Every field that is not one of the above, as one JSON object.
    pub extra: Secret,
}

/// A whole HTTP answer, unread.
#[derive(Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// `Content-Type`, where there is one.
    pub content_type: Option<String>,
    /// `Retry-After` in seconds from the answer's arrival, whether it came as seconds or as a date.
    pub retry_after: Option<Duration>,
    /// The body: it may hold tokens, so it is wiped on drop and never shown.
    pub body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawAnswer")
            .field("status", &self.status)
            .field("content_type", &self.content_type)
            .field("retry_after", &self.retry_after)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}
