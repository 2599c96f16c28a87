//! Thirty providers as strict servers: each takes only what its documentation names first. Written by hand from the
//! vendors' pages, and from nothing of the product that is tested against it.

use crate::demands::{BodyForm, Demands, RedirectOnRefresh};
use crate::provider::{
    AnswerStyle, ClientAuth, ClientConfig, DeviceStyle, Offline, ProviderConfig, RefusalStyle, RevocationStyle,
};
use crate::rotation::Rotation;

/// A known provider as a strict server. Whether it revokes and has devices stands beside it: the mock always serves both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub id: &'static str,
    /// The one way in which its clients authenticate.
    pub auth: ClientAuth,
    /// What becomes of a used refresh token.
    pub rotation: Rotation,
    /// How long access tokens live, if answers say so.
    pub expires_in: Option<u32>,
    /// How many seconds after a rotation the older access tokens end.
    pub ends_access_after_s: Option<u32>,
    /// How answers with tokens look.
    pub answers: AnswerStyle,
    /// How refusals look.
    pub refusals: RefusalStyle,
    /// What makes a sign-in yield a refresh token.
    pub offline: Offline,
    /// What it demands beyond the standard.
    pub demands: Demands,
    /// The fields in which it names an account, `a.b` being `b` in `a`; none where nobody knows of an endpoint.
    pub identity: &'static [&'static str],
    /// How clients end a grant; `None` where nobody knows of a way.
    pub revocation: Option<RevocationStyle>,
    /// How a device's sign-in begins; `None` where there is none.
    pub device: Option<DeviceStyle>,
}

impl Known {
    /// A provider that is like it.
    pub fn config(&self) -> ProviderConfig {
        ProviderConfig {
            rotation: self.rotation,
            access_ttl_ms: i64::from(self.expires_in.unwrap_or(3_600)) * 1_000,
            clients: vec![ClientConfig { auth: self.auth, ..ClientConfig::default() }],
            expires_in: self.expires_in.is_some(),
            rotation_ends_access_after_s: self.ends_access_after_s,
            answers: self.answers,
            refusals: self.refusals,
            device: self.device.unwrap_or(DeviceStyle::Standard),
            revocation: self.revocation.unwrap_or(RevocationStyle::Standard),
            offline: self.offline,
            demands: self.demands,
            identity: if self.identity.is_empty() { &["sub"] } else { self.identity },
            ..ProviderConfig::default()
        }
    }
}

const FORM: Demands = Demands {
    body: BodyForm::Form,
    params: &[],
    headers: &[],
    authorize: &[],
    redirect_on_refresh: RedirectOnRefresh::Ignored,
};

const POST: Known = Known {
    id: "",
    auth: ClientAuth::Post,
    rotation: Rotation::Strict,
    expires_in: Some(3_600),
    ends_access_after_s: None,
    answers: AnswerStyle::Standard,
    refusals: RefusalStyle::Standard,
    offline: Offline::Always,
    demands: FORM,
    identity: &[],
    revocation: Some(RevocationStyle::Standard),
    device: None,
};

const BASIC: Known = Known { auth: ClientAuth::Basic, ..POST };

const OFFLINE: Offline = Offline::Scope("offline_access");

const REDIRECT: Demands = Demands { redirect_on_refresh: RedirectOnRefresh::Needed, ..FORM };

const fn authorize(pairs: &'static [(&'static str, &'static str)]) -> Demands {
    Demands { authorize: pairs, ..FORM }
}

const fn params(pairs: &'static [(&'static str, &'static str)]) -> Demands {
    Demands { params: pairs, ..FORM }
}

/// Every provider that is known.
pub const KNOWN: [Known; 30] = [
    Known {
        id: "atlassian",
        rotation: Rotation::Grace(600),
        ends_access_after_s: Some(600),
        answers: AnswerStyle::Atlassian,
        refusals: RefusalStyle::Atlassian,
        offline: OFFLINE,
        demands: Demands {
            body: BodyForm::Json,
            authorize: &[("audience", "api.atlassian.com"), ("prompt", "consent")],
            ..FORM
        },
        identity: &["account_id"],
        revocation: None,
        ..POST
    },
    Known { id: "jira-data-center", demands: REDIRECT, ..POST },
    Known {
        // Replaces and does not revoke: the token before stays good for as long as any.
        id: "microsoft",
        rotation: Rotation::Grace(7_776_000),
        refusals: RefusalStyle::Microsoft,
        expires_in: Some(3_599),
        offline: OFFLINE,
        demands: authorize(&[("response_mode", "query")]),
        identity: &["sub"],
        revocation: None,
        device: Some(DeviceStyle::Standard),
        ..POST
    },
    Known {
        id: "google",
        rotation: Rotation::Persistent,
        expires_in: Some(3_599),
        refusals: RefusalStyle::Google,
        offline: Offline::AccessType,
        demands: authorize(&[("prompt", "consent")]),
        identity: &["sub"],
        device: Some(DeviceStyle::Google),
        ..POST
    },
    Known {
        id: "github-app",
        expires_in: Some(28_800),
        ends_access_after_s: Some(0),
        answers: AnswerStyle::GitHub,
        refusals: RefusalStyle::GitHub,
        identity: &["id"],
        revocation: Some(RevocationStyle::GitHub),
        device: Some(DeviceStyle::Standard),
        ..POST
    },
    Known {
        id: "gitlab",
        expires_in: Some(7_200),
        ends_access_after_s: Some(0),
        demands: REDIRECT,
        identity: &["sub"],
        device: Some(DeviceStyle::Standard),
        ..POST
    },
    Known {
        id: "slack",
        expires_in: Some(43_200),
        answers: AnswerStyle::Slack,
        refusals: RefusalStyle::Slack,
        identity: &["team_id", "user_id"],
        revocation: Some(RevocationStyle::Slack),
        ..POST
    },
    Known {
        id: "salesforce",
        rotation: Rotation::Persistent,
        expires_in: None,
        offline: Offline::Scope("refresh_token"),
        demands: authorize(&[("prompt", "consent")]),
        identity: &["user_id", "organization_id"],
        ..POST
    },
    Known { id: "hubspot", rotation: Rotation::Persistent, expires_in: Some(1_800), revocation: None, ..POST },
    Known { id: "zoom", identity: &["id"], device: Some(DeviceStyle::Standard), ..BASIC },
    Known { id: "box", identity: &["id"], ..POST },
    Known {
        id: "dropbox",
        rotation: Rotation::Persistent,
        expires_in: Some(14_400),
        demands: authorize(&[("token_access_type", "offline")]),
        revocation: Some(RevocationStyle::Dropbox),
        ..POST
    },
    Known { id: "asana", rotation: Rotation::Persistent, identity: &["data.gid"], ..POST },
    Known {
        id: "linear",
        expires_in: Some(86_400),
        answers: AnswerStyle::Commas,
        demands: authorize(&[("prompt", "consent")]),
        ..POST
    },
    Known {
        id: "notion",
        expires_in: None,
        demands: Demands {
            body: BodyForm::Json,
            headers: &[("notion-version", "2022-06-28")],
            authorize: &[("owner", "user")],
            ..FORM
        },
        ..BASIC
    },
    Known {
        id: "okta",
        rotation: Rotation::Grace(30),
        offline: OFFLINE,
        identity: &["sub"],
        device: Some(DeviceStyle::Standard),
        ..BASIC
    },
    Known {
        id: "auth0",
        expires_in: Some(86_400),
        refusals: RefusalStyle::Auth0,
        offline: OFFLINE,
        identity: &["sub"],
        device: Some(DeviceStyle::Standard),
        ..POST
    },
    Known {
        id: "keycloak",
        expires_in: Some(300),
        offline: OFFLINE,
        identity: &["sub"],
        device: Some(DeviceStyle::Standard),
        ..BASIC
    },
    Known { id: "quickbooks", rotation: Rotation::Persistent, identity: &["sub"], ..BASIC },
    Known { id: "xero", rotation: Rotation::Grace(1_800), expires_in: Some(1_800), offline: OFFLINE, ..BASIC },
    Known {
        id: "bitbucket",
        rotation: Rotation::Persistent,
        expires_in: Some(7_200),
        answers: AnswerStyle::Scopes,
        identity: &["uuid"],
        revocation: None,
        ..BASIC
    },
    Known {
        id: "discord",
        expires_in: Some(604_800),
        demands: authorize(&[("prompt", "consent")]),
        identity: &["id"],
        ..POST
    },
    Known { id: "spotify", rotation: Rotation::Persistent, identity: &["id"], revocation: None, ..BASIC },
    Known {
        id: "x",
        expires_in: Some(7_200),
        offline: Offline::Scope("offline.access"),
        demands: authorize(&[("code_challenge_method", "S256")]),
        identity: &["data.id"],
        ..BASIC
    },
    Known {
        id: "linkedin",
        rotation: Rotation::Persistent,
        expires_in: Some(5_184_000),
        identity: &["sub"],
        revocation: None,
        ..POST
    },
    Known {
        id: "shopify",
        rotation: Rotation::UntilUsed,
        answers: AnswerStyle::Commas,
        demands: params(&[("expiring", "1")]),
        revocation: None,
        ..POST
    },
    Known {
        id: "zendesk",
        expires_in: Some(1_800),
        ends_access_after_s: Some(0),
        demands: params(&[("expires_in", "1800")]),
        identity: &["user.id"],
        revocation: None,
        ..POST
    },
    Known { id: "servicenow", rotation: Rotation::Persistent, expires_in: Some(1_800), ..POST },
    Known {
        id: "snowflake",
        expires_in: Some(600),
        ends_access_after_s: Some(0),
        offline: Offline::Scope("refresh_token"),
        revocation: None,
        ..BASIC
    },
    Known { id: "databricks", offline: OFFLINE, revocation: None, ..BASIC },
];
