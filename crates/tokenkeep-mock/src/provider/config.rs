//! What a provider is like: its clients, its rotation and its habits.

use std::sync::Arc;

use crate::demands::Demands;

use super::revocation::RevocationStyle;
use super::style::{AnswerStyle, DeviceStyle, RefusalStyle};
use crate::request::Credentials;
use crate::rotation::Rotation;

/// The scope of a standard provider's grants.
pub const DEFAULT_SCOPE: &str = "read:jira-work offline_access";

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
    /// A refresh token that was not used for longer than this is dead, and its grant with it.
    pub refresh_idle_s: Option<u64>,
    /// A grant ends this long after it was made, however often it is refreshed.
    pub grant_life_s: Option<u64>,
    /// How answers with tokens look.
    pub answers: AnswerStyle,
    /// How refusals look.
    pub refusals: RefusalStyle,
    /// How the answer that begins a device's sign-in looks.
    pub device: DeviceStyle,
    /// How clients end a grant, beside RFC 7009, which is always served.
    pub revocation: RevocationStyle,
    /// What makes a sign-in yield a refresh token.
    pub offline: Offline,
    /// What it demands of requests beyond the standard.
    pub demands: Demands,
    /// The fields of `/userinfo` that carry the account, `a.b` being `b` in `a`.
    pub identity: &'static [&'static str],
    /// The scope of grants that do not say theirs.
    pub scope: Arc<str>,
    /// How long the device flow waits for the resource owner.
    pub device_ttl_s: u32,
    /// How long a device must wait between two questions, at first.
    pub device_interval_s: u32,
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
            refresh_idle_s: None,
            grant_life_s: None,
            answers: AnswerStyle::Standard,
            refusals: RefusalStyle::Standard,
            device: DeviceStyle::Standard,
            revocation: RevocationStyle::Standard,
            offline: Offline::Always,
            demands: Demands::default(),
            identity: &["sub", "name"],
            scope: DEFAULT_SCOPE.into(),
            device_ttl_s: 600,
            device_interval_s: 5,
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

/// What makes a sign-in yield a refresh token. Grants that a test makes always have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offline {
    /// Every sign-in does.
    Always,
    /// Only one that asks for this scope (Atlassian: `offline_access`).
    Scope(&'static str),
    /// Only one that asks with `access_type=offline` (Google).
    AccessType,
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
