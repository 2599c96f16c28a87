//! What a provider is like: its clients, its rotation and its habits.

use http::StatusCode;

use crate::answer::{Answer, Refusal};
use crate::request::Credentials;
use crate::rotation::Rotation;

/// What a provider is like. Everything that it does follows from this, the requests and the times of the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// The rotation class of grants that do not say their own.
    pub rotation: Rotation,
    /// How long access tokens live, for grants that do not say it themselves. Negative counts as 0.
    pub access_ttl_ms: i64,
    /// Decides every token: the same seed and the same requests give the same tokens.
    pub seed: u64,
    /// The registered clients.
    pub clients: Vec<ClientConfig>,
    /// Whether answers carry `expires_in`, for grants that do not say it themselves.
    pub expires_in: bool,
    /// How many seconds after a rotation the older access tokens end: `None` leaves them alone, `Some(0)` ends them at
    /// once (GitHub), `Some(600)` after ten minutes (Atlassian).
    pub rotation_ends_access_after_s: Option<u32>,
    /// How often a spent refresh token may be used again within its grace.
    pub grace_reuse: GraceReuse,
    /// How a dead refresh token is refused.
    pub refusals: RefusalStyle,
}

impl Default for ProviderConfig {
    /// A strict provider with hour-long tokens and one client, `mock-client` with `mock-secret`.
    fn default() -> Self {
        Self {
            rotation: Rotation::Strict,
            access_ttl_ms: 3_600_000,
            seed: 0,
            clients: vec![ClientConfig::default()],
            expires_in: true,
            rotation_ends_access_after_s: None,
            grace_reuse: GraceReuse::Repeated,
            refusals: RefusalStyle::Standard,
        }
    }
}

/// How often a spent refresh token may be used again within its grace ([`Rotation::Grace`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraceReuse {
    /// Any number of times until the grace ends, counted from the first use.
    Repeated,
    /// Once: the third use of one token is reuse, so only one lost answer for each rotation is survived.
    Once,
}

/// How a dead refresh token is refused. Other refusals are the standard's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalStyle {
    /// `400 invalid_grant`.
    Standard,
    /// `403 unauthorized_client` with "refresh_token is invalid".
    Atlassian,
    /// `200` with the error `bad_refresh_token`.
    GitHub,
}

impl RefusalStyle {
    pub(crate) fn answer(self, refusal: Refusal) -> Answer {
        match (self, refusal) {
            (RefusalStyle::Atlassian, Refusal::InvalidGrant(_)) => {
                Answer::error(StatusCode::FORBIDDEN, "unauthorized_client", "refresh_token is invalid")
            }
            (RefusalStyle::GitHub, Refusal::InvalidGrant(_)) => {
                Answer::error(StatusCode::OK, "bad_refresh_token", "The refresh token passed is incorrect or expired.")
            }
            _ => refusal.answer(),
        }
    }
}

/// A registered client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Its id.
    pub id: String,
    /// Its secret; a public client has none.
    pub secret: Option<String>,
    /// How it must authenticate.
    pub auth: ClientAuth,
}

impl Default for ClientConfig {
    /// `mock-client` with `mock-secret`, in the header or in the body.
    fn default() -> Self {
        Self { id: "mock-client".to_owned(), secret: Some("mock-secret".to_owned()), auth: ClientAuth::BasicOrPost }
    }
}

/// How a client must authenticate at the provider's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// In the `Authorization` header or in the body.
    BasicOrPost,
    /// In the `Authorization` header only (`client_secret_basic`).
    Basic,
    /// In the body only (`client_secret_post`).
    Post,
    /// Not at all: a public client, which only names itself.
    Public,
}

impl ClientConfig {
    /// Whether `credentials`, which name this client, prove it.
    pub(crate) fn accepts(&self, credentials: &Credentials<'_>) -> bool {
        let secret = match (credentials, self.auth) {
            (Credentials::Post { secret: None, .. }, ClientAuth::Public) => return true,
            (Credentials::Basic { secret, .. }, ClientAuth::Basic | ClientAuth::BasicOrPost) => secret,
            (Credentials::Post { secret: Some(secret), .. }, ClientAuth::Post | ClientAuth::BasicOrPost) => secret,
            _ => return false,
        };
        self.secret.as_deref() == Some(secret.as_ref())
    }
}
