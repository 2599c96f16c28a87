//! The catalogue: thirty providers as data, each row with its sources and its date.
//!
//! What the configuration says about a provider stands above its row. A fact that nobody has verified is named in
//! [`Preset::unverified`], and shown as such.

use crate::provider::{BodyFormat, ClientAuth, ErrorRule, Means, Rotation, Rules};
use std::borrow::Cow;
use std::time::Duration;

/// When the rows were last compared with their sources.
pub const CHECKED: &str = "2026-11";

/// A row of the catalogue: a provider that is known by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preset {
    /// Its name in `preset = "..."`.
    pub id: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// Its token endpoint: a template (see [`parameters`]).
    pub token_url: &'static str,
    /// Where refreshes go, if not to `token_url`; a template.
    pub refresh_url: Option<&'static str>,
    /// Where a person signs in; a template.
    pub authorize_url: &'static str,
    /// How tokens are revoked.
    pub revocation: Revocation,
    /// Where a device sign-in starts (RFC 8628); a template.
    pub device_url: Option<&'static str>,
    /// Values of template parameters that need not be given.
    pub template_defaults: &'static [(&'static str, &'static str)],
    /// The ways in which it lets clients authenticate; the first is used unless said otherwise.
    pub client_auths: &'static [ClientAuth],
    /// What stands between scopes.
    pub scope_separator: char,
    /// The scopes without which there is no refresh token.
    pub offline_scopes: &'static [&'static str],
    /// What its authorization request needs besides the standard's parameters.
    pub authorize_params: &'static [(&'static str, &'static str)],
    /// It sends browsers back to any port of this machine (RFC 8252 section 7.3), not to registered addresses alone.
    pub any_loopback: bool,
    /// Where it says whose account a token is for.
    pub identity: Option<Identity>,
    /// The hosts of its API: names, templates, or `*.` before a domain for all below it.
    pub api_hosts: &'static [&'static str],
    /// Its rules.
    pub rules: Rules,
    /// What is peculiar about it, in sentences.
    pub notes: &'static [&'static str],
    /// The facts here that nobody has verified.
    pub unverified: &'static [&'static str],
    /// Where the facts come from.
    pub sources: &'static [Source],
}

/// How a provider revokes tokens. Each address is a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revocation {
    /// Nobody knows of a way.
    None,
    /// RFC 7009.
    Standard(&'static str),
    /// A call of its API with the access token, which ends the grant (Slack, Dropbox).
    AccessToken(&'static str),
    /// `DELETE` with the client's credentials in the header and the access token in a JSON body.
    GitHub(&'static str),
}

impl Revocation {
    /// Where it is done.
    #[must_use]
    pub const fn url(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Standard(url) | Self::AccessToken(url) | Self::GitHub(url) => Some(url),
        }
    }
}

/// Where a provider says whose account a token is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Asked with `GET` and the access token; a template.
    pub url: &'static str,
    /// The fields of the answer that together name the account, `a.b` being `b` in `a`.
    pub fields: &'static [&'static str],
}

/// Where facts come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Who says so.
    pub authority: Authority,
    /// The page.
    pub page: &'static str,
}

/// Who says something about a provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authority {
    /// The provider itself, or its staff.
    Vendor,
    /// Somebody else.
    Secondary,
}

impl Source {
    const fn vendor(page: &'static str) -> Self {
        Self { authority: Authority::Vendor, page }
    }

    const fn secondary(page: &'static str) -> Self {
        Self { authority: Authority::Secondary, page }
    }
}

/// The row of this name.
#[must_use]
pub fn preset(id: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.id == id)
}

/// The parameters of a template, in the order in which they stand: `{subdomain}` gives `subdomain`.
pub fn parameters(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
}

/// A template with its parameters replaced.
///
/// # Errors
/// The first parameter that `value` does not know.
pub fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::with_capacity(template.len()), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(|| after.to_owned())?;
        filled.push_str(before);
        filled.push_str(&value(name).ok_or_else(|| name.to_owned())?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

impl Preset {
    /// Every parameter that its addresses need, each once. The client id is not among them: it is known from elsewhere.
    #[must_use]
    pub fn parameters(&self) -> Vec<&'static str> {
        let addresses = [
            Some(self.token_url),
            self.refresh_url,
            Some(self.authorize_url),
            self.revocation.url(),
            self.device_url,
            self.identity.map(|identity| identity.url),
        ];
        let mut found = Vec::new();
        for name in addresses.into_iter().flatten().flat_map(parameters).filter(|&name| name != "client_id") {
            if !found.contains(&name) {
                found.push(name);
            }
        }
        found
    }
}

const fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

const fn days(days: u64) -> Option<Duration> {
    seconds(days * 86_400)
}

/// What a row is like that says nothing.
const ROW: Preset = Preset {
    id: "",
    name: "",
    token_url: "",
    refresh_url: None,
    authorize_url: "",
    revocation: Revocation::None,
    device_url: None,
    template_defaults: &[],
    client_auths: &[],
    scope_separator: ' ',
    offline_scopes: &[],
    authorize_params: &[],
    any_loopback: false,
    identity: None,
    api_hosts: &[],
    rules: RULES,
    notes: &[],
    unverified: &[],
    sources: &[],
};

const RULES: Rules = Rules::STANDARD;

/// The rows.
pub static PRESETS: [Preset; 30] = [
    Preset {
        id: "atlassian",
        name: "Atlassian Cloud (Jira/Confluence 3LO)",
        token_url: "https://auth.atlassian.com/oauth/token",
        authorize_url: "https://auth.atlassian.com/authorize",
        client_auths: &[ClientAuth::SecretPost],
        offline_scopes: &["offline_access"],
        authorize_params: &[("audience", "api.atlassian.com"), ("prompt", "consent")],
        identity: Some(Identity { url: "https://api.atlassian.com/me", fields: &["account_id"] }),
        api_hosts: &["api.atlassian.com"],
        rules: Rules {
            rotation: Rotation::Grace(Duration::from_secs(600)),
            body_format: BodyFormat::Json,
            errors: Cow::Borrowed(&[ErrorRule::known(
                Some(403),
                "unauthorized_client",
                "refresh_token is invalid",
                Means::Dead,
            )]),
            access_life: seconds(3600),
            idle_life: days(90),
            absolute_life: days(365),
            rotation_ends_access_after: seconds(600),
            one_grant: true,
            ..RULES
        },
        notes: &[
            "A dead refresh token is refused with 403, as invalid_grant or as unauthorized_client with \"refresh_token is invalid\".",
            "Only the refresh token before the current one is taken again, for ten minutes; an older one ends every refresh token of the family.",
            "A rotation also ends the old access token, after ten minutes.",
            "There is one grant for each application and account: a later consent for another site joins it.",
            "The consent ends 365 days after it was given; no refresh extends it.",
            "Calls go to https://api.atlassian.com/ex/jira/{cloudid}/..., not to the site.",
            "Answers carry no token_type.",
        ],
        unverified: &["revoke_url", "device_url"],
        sources: &[
            Source::vendor("developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens"),
            Source::vendor("community.developer.atlassian.com/t/54172 and t/60806 (staff)"),
            Source::secondary("github.com/raycast/extensions/issues/11836"),
            Source::secondary("github.com/ParabolInc/parabol/issues/11849"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "jira-data-center",
        name: "Jira / Confluence / Bitbucket Data Center",
        token_url: "{base}/rest/oauth2/latest/token",
        authorize_url: "{base}/rest/oauth2/latest/authorize",
        revocation: Revocation::Standard("{base}/rest/oauth2/latest/revoke"),
        client_auths: &[ClientAuth::SecretPost],
        api_hosts: &["{base}"],
        rules: Rules {
            rotation: Rotation::Unknown,
            access_life: seconds(3600),
            idle_life: days(90),
            redirect_uri_on_refresh: true,
            ..RULES
        },
        notes: &[
            "A refresh must repeat the redirect_uri of the sign-in, else it is refused with a bare invalid_grant.",
            "Lifetimes are set by the administrator.",
            "There is no scope for offline access: refresh tokens are always issued.",
        ],
        unverified: &["revoke_url", "rotation", "grace"],
        sources: &[
            Source::vendor(
                "confluence.atlassian.com/adminjiraserver0916/oauth-2-0-provider-system-properties-1402672002.html",
            ),
            Source::vendor(".../adminjiraserver101/jira-oauth-2-0-provider-api-1455427907.html"),
            Source::secondary("mrrefactoring.github.io/jira.js refreshServerOAuth2Token"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "microsoft",
        name: "Microsoft Entra ID (v2.0)",
        token_url: "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
        authorize_url: "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
        device_url: Some("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/devicecode"),
        client_auths: &[ClientAuth::SecretPost, ClientAuth::SecretBasic, ClientAuth::PrivateKeyJwt],
        offline_scopes: &["offline_access"],
        authorize_params: &[("response_mode", "query")],
        identity: Some(Identity { url: "https://graph.microsoft.com/oidc/userinfo", fields: &["sub"] }),
        any_loopback: true,
        api_hosts: &["graph.microsoft.com"],
        rules: Rules {
            rotation: Rotation::Persistent,
            errors: Cow::Borrowed(&[
                ErrorRule::known(None, "interaction_required", "", Means::Dead),
                ErrorRule::known(None, "consent_required", "", Means::Dead),
            ]),
            access_life: seconds(3599),
            idle_life: days(90),
            ..RULES
        },
        notes: &[
            "Each refresh brings a new refresh token, and the old one stays valid.",
            "The scopes of one refresh must belong to one resource.",
            "Refresh tokens of single-page applications end after 24 hours, whatever happens.",
            "error_description begins with a code such as AADSTS70008.",
        ],
        unverified: &["revoke_url", "identity"],
        sources: &[
            Source::vendor("github MicrosoftDocs/entra-docs docs/identity-platform/v2-oauth2-auth-code-flow.md"),
            Source::vendor("learn.microsoft.com/entra/identity-platform/refresh-tokens"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
            Source::secondary("60-90 min in ServiceNow KB2132135"),
        ],
        ..ROW
    },
    Preset {
        id: "google",
        name: "Google",
        token_url: "https://oauth2.googleapis.com/token",
        authorize_url: "https://accounts.google.com/o/oauth2/v2/auth",
        revocation: Revocation::Standard("https://oauth2.googleapis.com/revoke"),
        device_url: Some("https://oauth2.googleapis.com/device/code"),
        client_auths: &[ClientAuth::SecretPost],
        authorize_params: &[("access_type", "offline"), ("prompt", "consent")],
        identity: Some(Identity { url: "https://openidconnect.googleapis.com/v1/userinfo", fields: &["sub"] }),
        any_loopback: true,
        api_hosts: &["*.googleapis.com"],
        rules: Rules {
            rotation: Rotation::Persistent,
            access_life: seconds(3599),
            idle_life: days(180),
            one_grant: true,
            ..RULES
        },
        notes: &[
            "An answer to a refresh has no refresh token: the one in hand stays.",
            "A refresh token is issued at the first consent only, unless prompt=consent asks again.",
            "All refresh tokens of one account and client are one grant: revoking one ends them all.",
            "While the application is in status Testing, refresh tokens end after 7 days.",
            "Beyond 50 to 100 refresh tokens for one account and client, the oldest end silently.",
        ],
        unverified: &["idle_life", "identity"],
        sources: &[
            Source::secondary("qiita.com/croquette0212 quoting developers.google.com/identity/protocols/oauth2"),
            Source::secondary("docs.gitguardian.com google_oauth2_refresh_token"),
            Source::secondary("unipile.com"),
            Source::secondary("github.com/dolfim/django-gmailapi-backend/issues/9"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "github-app",
        name: "GitHub Apps (expiring user tokens)",
        token_url: "https://github.com/login/oauth/access_token",
        authorize_url: "https://github.com/login/oauth/authorize",
        revocation: Revocation::GitHub("https://api.github.com/applications/{client_id}/grant"),
        device_url: Some("https://github.com/login/device/code"),
        client_auths: &[ClientAuth::SecretPost],
        identity: Some(Identity { url: "https://api.github.com/user", fields: &["id"] }),
        any_loopback: true,
        api_hosts: &["api.github.com"],
        rules: Rules {
            rotation: Rotation::Strict,
            errors: Cow::Borrowed(&[
                ErrorRule::known(None, "bad_refresh_token", "", Means::Dead),
                ErrorRule::known(None, "incorrect_client_credentials", "", Means::WrongClient),
            ]),
            access_life: seconds(28800),
            idle_life: days(183),
            rotation_ends_access_after: seconds(0),
            ..RULES
        },
        notes: &[
            "Errors come with status 200.",
            "A refresh ends the old access token at once.",
            "Answers are form-encoded unless JSON is asked for.",
            "Revoking ends all that the account gave to this application, other connections of the two included.",
            "Where the application does not let tokens expire there are neither expires_in nor refresh_token.",
        ],
        unverified: &["identity"],
        sources: &[
            Source::vendor(
                "github/docs refreshing-user-access-tokens.md, user-access-token-response-parameters.md, generating-a-user-access-token-for-a-github-app.md, troubleshooting-oauth-app-access-token-request-errors.md",
            ),
            Source::vendor("docs.github.com/rest/apps/oauth-applications#delete-an-app-authorization"),
            Source::secondary("github.com/orgs/community/discussions/24745"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
        ],
        ..ROW
    },
    Preset {
        id: "gitlab",
        name: "GitLab (.com and self-managed)",
        token_url: "https://{host}/oauth/token",
        authorize_url: "https://{host}/oauth/authorize",
        revocation: Revocation::Standard("https://{host}/oauth/revoke"),
        device_url: Some("https://{host}/oauth/authorize_device"),
        template_defaults: &[("host", "gitlab.com")],
        client_auths: &[ClientAuth::SecretPost, ClientAuth::None],
        identity: Some(Identity { url: "https://{host}/oauth/userinfo", fields: &["sub"] }),
        api_hosts: &["{host}"],
        rules: Rules {
            rotation: Rotation::Strict,
            access_life: seconds(7200),
            rotation_ends_access_after: seconds(0),
            redirect_uri_on_refresh: true,
            ..RULES
        },
        notes: &[
            "A refresh ends both the old access token and the old refresh token.",
            "A refresh must repeat the redirect_uri of the sign-in.",
        ],
        unverified: &["refresh token life", "grace", "identity"],
        sources: &[
            Source::vendor("gitlabhq/gitlabhq doc/api/oauth2.md"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
        ],
        ..ROW
    },
    Preset {
        id: "slack",
        name: "Slack (token rotation on)",
        token_url: "https://slack.com/api/oauth.v2.access",
        authorize_url: "https://slack.com/oauth/v2/authorize",
        revocation: Revocation::AccessToken("https://slack.com/api/auth.revoke"),
        client_auths: &[ClientAuth::SecretPost, ClientAuth::SecretBasic],
        scope_separator: ',',
        identity: Some(Identity { url: "https://slack.com/api/auth.test", fields: &["team_id", "user_id"] }),
        api_hosts: &["slack.com"],
        rules: Rules {
            rotation: Rotation::Strict,
            errors: Cow::Borrowed(&[
                ErrorRule::known(None, "invalid_refresh_token", "", Means::Dead),
                ErrorRule::known(None, "token_expired", "", Means::Dead),
                ErrorRule::known(None, "token_revoked", "", Means::Dead),
                ErrorRule::known(None, "bad_client_secret", "", Means::WrongClient),
            ]),
            access_life: seconds(43200),
            ..RULES
        },
        notes: &[
            "Errors come with status 200, as {\"ok\": false, \"error\": \"...\"}.",
            "The token of a user lies in authed_user, with a refresh token of its own.",
            "Without token rotation tokens never end and there is no refresh token.",
        ],
        unverified: &["revocation ends the refresh token", "rotation", "identity"],
        sources: &[
            Source::vendor("docs.slack.dev/authentication/using-token-rotation"),
            Source::vendor("api.slack.com/methods/oauth.v2.exchange and auth.revoke"),
            Source::secondary("github.com/slackapi/node-slack-sdk/issues/2504"),
            Source::secondary("nango provider.client.ts createSlackToken/refreshSlackToken"),
            Source::secondary("slack-web-api-client token-rotator"),
        ],
        ..ROW
    },
    Preset {
        id: "salesforce",
        name: "Salesforce",
        token_url: "https://login.salesforce.com/services/oauth2/token",
        authorize_url: "https://login.salesforce.com/services/oauth2/authorize",
        revocation: Revocation::Standard("https://login.salesforce.com/services/oauth2/revoke"),
        client_auths: &[ClientAuth::SecretPost],
        offline_scopes: &["refresh_token"],
        authorize_params: &[("prompt", "consent")],
        identity: Some(Identity {
            url: "https://login.salesforce.com/services/oauth2/userinfo",
            fields: &["user_id", "organization_id"],
        }),
        api_hosts: &["*.salesforce.com"],
        rules: Rules { rotation: Rotation::Unknown, ..RULES },
        notes: &[
            "Answers have no expires_in: the life is the session timeout of the organization.",
            "instance_url is the host of the API, and is kept.",
            "A sixth grant for one user and application ends the first.",
            "Rotation is a setting of the application; the old refresh token then ends at once.",
        ],
        unverified: &["revoke_url", "identity"],
        sources: &[
            Source::vendor("help.salesforce.com remoteaccess_oauth_refresh_token_flow"),
            Source::vendor("developer.salesforce.com isvforce secure-code-ac-eca"),
            Source::secondary("nango.dev/blog/salesforce-oauth-refresh-token-invalid-grant"),
            Source::secondary("nango shouldIntrospectToken"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "hubspot",
        name: "HubSpot",
        token_url: "https://api.hubapi.com/oauth/2026-03/token",
        authorize_url: "https://app.hubspot.com/oauth/authorize",
        client_auths: &[ClientAuth::SecretPost],
        api_hosts: &["api.hubapi.com"],
        rules: Rules { rotation: Rotation::Unknown, access_life: seconds(1800), ..RULES },
        notes: &[
            "The address carries a version: those below /oauth/v1/ end on 2027-02-16.",
            "Lives have been shortened before: expires_in counts, not the catalogue.",
        ],
        unverified: &["rotation", "refresh token life", "token_url"],
        sources: &[
            Source::vendor("developers.hubspot.com ... oauth-tokens/v1/migration-guide"),
            Source::vendor("developers.hubspot.com/docs/api-reference/auth-oauth-v3/guide"),
            Source::vendor("developers.hubspot.com/changelog/upcoming-expiration-of-oauth-access-tokens-is-changing"),
        ],
        ..ROW
    },
    Preset {
        id: "zoom",
        name: "Zoom",
        token_url: "https://zoom.us/oauth/token",
        authorize_url: "https://zoom.us/oauth/authorize",
        revocation: Revocation::Standard("https://zoom.us/oauth/revoke"),
        device_url: Some("https://zoom.us/oauth/devicecode"),
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::SecretPost],
        identity: Some(Identity { url: "https://api.zoom.us/v2/users/me", fields: &["id"] }),
        api_hosts: &["api.zoom.us"],
        rules: Rules {
            rotation: Rotation::Strict,
            client_auth: ClientAuth::SecretBasic,
            errors: Cow::Borrowed(&[
                ErrorRule::known(None, "4702", "", Means::WrongClient),
                ErrorRule::known(None, "4704", "", Means::WrongClient),
            ]),
            access_life: seconds(3600),
            idle_life: days(90),
            ..RULES
        },
        notes: &[
            "Every refresh brings a new refresh token and ends the old one.",
            "Server-to-server applications use grant_type account_credentials, which Tokenkeep does not speak.",
        ],
        unverified: &["revoke_url", "device_url", "idle_life", "identity"],
        sources: &[
            Source::vendor("developers.zoom.us/docs/rooms/oauth"),
            Source::secondary("anthropics/knowledge-work-plugins zoom-plugin token-lifecycle.md + oauth-errors.md"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "box",
        name: "Box",
        token_url: "https://api.box.com/oauth2/token",
        authorize_url: "https://account.box.com/api/oauth2/authorize",
        revocation: Revocation::Standard("https://api.box.com/oauth2/revoke"),
        client_auths: &[ClientAuth::SecretPost],
        identity: Some(Identity { url: "https://api.box.com/2.0/users/me", fields: &["id"] }),
        api_hosts: &["api.box.com"],
        rules: Rules { rotation: Rotation::Strict, idle_life: days(60), ..RULES },
        notes: &["A refresh token is used once, and lives 60 days."],
        unverified: &["access_life", "revoke_url", "identity"],
        sources: &[
            Source::vendor("box/developer.box.com content/guides/authentication/tokens/refresh.md"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "dropbox",
        name: "Dropbox",
        token_url: "https://api.dropboxapi.com/oauth2/token",
        authorize_url: "https://www.dropbox.com/oauth2/authorize",
        revocation: Revocation::AccessToken("https://api.dropboxapi.com/2/auth/token/revoke"),
        client_auths: &[ClientAuth::SecretPost, ClientAuth::SecretBasic],
        authorize_params: &[("token_access_type", "offline")],
        api_hosts: &["api.dropboxapi.com", "content.dropboxapi.com"],
        rules: Rules { rotation: Rotation::Persistent, access_life: seconds(14400), ..RULES },
        notes: &[
            "An answer to a refresh has no refresh token: the one in hand stays.",
            "Without token_access_type=offline there is no refresh token.",
            "Revoking an access token ends its refresh token and every other access token of that.",
            "Credentials go into the body or into the header, never both.",
        ],
        unverified: &[],
        sources: &[
            Source::vendor("dropbox.tech/developers/using-oauth-2-0-with-offline-access"),
            Source::vendor("dropbox-sdk-java DbxRefreshResult, DbxUserAuthRequests.tokenRevoke"),
            Source::secondary("golang/oauth2 internal/token.go comment"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "asana",
        name: "Asana",
        token_url: "https://app.asana.com/-/oauth_token",
        authorize_url: "https://app.asana.com/-/oauth_authorize",
        revocation: Revocation::Standard("https://app.asana.com/-/oauth_revoke"),
        client_auths: &[ClientAuth::SecretPost],
        identity: Some(Identity { url: "https://app.asana.com/api/1.0/users/me", fields: &["data.gid"] }),
        api_hosts: &["app.asana.com"],
        rules: Rules { rotation: Rotation::Unknown, access_life: seconds(3600), ..RULES },
        notes: &["The scope of applications with all permissions is `default`."],
        unverified: &["revoke_url", "rotation", "refresh token life", "identity"],
        sources: &[
            Source::secondary("github.com/oauth-io/oauthd/issues/178 (1h)"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "linear",
        name: "Linear",
        token_url: "https://api.linear.app/oauth/token",
        authorize_url: "https://linear.app/oauth/authorize",
        revocation: Revocation::Standard("https://api.linear.app/oauth/revoke"),
        client_auths: &[ClientAuth::SecretPost, ClientAuth::None],
        scope_separator: ',',
        authorize_params: &[("prompt", "consent")],
        api_hosts: &["api.linear.app"],
        rules: Rules { rotation: Rotation::Strict, ..RULES },
        notes: &[
            "Since 2026-04-01 tokens are short-lived and come with a refresh token.",
            "A grace of 30 minutes after a rotation is told of, but not confirmed.",
        ],
        unverified: &["access_life", "revoke_url", "grace"],
        sources: &[
            Source::vendor("linear.app/developers/oauth-2-0-authentication(.md)"),
            Source::secondary("chat-adapter linear source (30 days)"),
            Source::secondary("github.com/linear/linear/issues/251 (10 years before)"),
            Source::secondary("a Linear CLI changelog in the code index ('rotating refresh tokens')"),
        ],
        ..ROW
    },
    Preset {
        id: "notion",
        name: "Notion",
        token_url: "https://api.notion.com/v1/oauth/token",
        authorize_url: "https://api.notion.com/v1/oauth/authorize",
        revocation: Revocation::Standard("https://api.notion.com/v1/oauth/revoke"),
        client_auths: &[ClientAuth::SecretBasic],
        authorize_params: &[("owner", "user")],
        api_hosts: &["api.notion.com"],
        rules: Rules {
            rotation: Rotation::Strict,
            client_auth: ClientAuth::SecretBasic,
            body_format: BodyFormat::Json,
            headers: Cow::Borrowed(&[(Cow::Borrowed("notion-version"), Cow::Borrowed("2022-06-28"))]),
            ..RULES
        },
        notes: &["Answers have no expires_in.", "A refresh brings a new access token and a new refresh token."],
        unverified: &["access_life", "revoke_url"],
        sources: &[
            Source::vendor("developers.notion.com/reference/refresh-a-token.md"),
            Source::secondary("tessl.io @notionhq/client oauth types"),
            Source::secondary("mintlify makenotion/notion-sdk-js oauth guide (token/introspect/revoke)"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "okta",
        name: "Okta",
        token_url: "https://{domain}/oauth2/default/v1/token",
        authorize_url: "https://{domain}/oauth2/default/v1/authorize",
        revocation: Revocation::Standard("https://{domain}/oauth2/default/v1/revoke"),
        device_url: Some("https://{domain}/oauth2/default/v1/device/authorize"),
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::SecretPost],
        offline_scopes: &["offline_access"],
        identity: Some(Identity { url: "https://{domain}/oauth2/default/v1/userinfo", fields: &["sub"] }),
        api_hosts: &["{domain}"],
        rules: Rules {
            rotation: Rotation::Grace(Duration::from_secs(30)),
            client_auth: ClientAuth::SecretBasic,
            access_life: seconds(3600),
            idle_life: days(7),
            ..RULES
        },
        notes: &[
            "Rotation is a setting of the application; the grace is 0 to 60 s, 30 by default.",
            "Reuse after the grace ends the newest refresh token and every access token since the sign-in.",
            "offline_access must be asked for at the sign-in.",
            "The organization's own server lies below /oauth2/v1/.",
        ],
        unverified: &["revoke_url", "device_url", "identity"],
        sources: &[
            Source::vendor("okta/okta-developer-docs guides/refresh-tokens"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "auth0",
        name: "Auth0",
        token_url: "https://{domain}/oauth/token",
        authorize_url: "https://{domain}/authorize",
        revocation: Revocation::Standard("https://{domain}/oauth/revoke"),
        device_url: Some("https://{domain}/oauth/device/code"),
        client_auths: &[ClientAuth::SecretPost, ClientAuth::SecretBasic],
        offline_scopes: &["offline_access"],
        identity: Some(Identity { url: "https://{domain}/userinfo", fields: &["sub"] }),
        api_hosts: &["{domain}"],
        rules: Rules { rotation: Rotation::Unknown, ..RULES },
        notes: &[
            "A dead refresh token is refused with 403 invalid_grant.",
            "Rotation and its overlap are settings of the application; only the token before the current one is taken in the overlap.",
            "Beyond about 200 refresh tokens for one user and application the oldest end.",
        ],
        unverified: &["access_life", "revoke_url", "device_url", "identity"],
        sources: &[
            Source::vendor("support.auth0.com 'Troubleshoot Refresh Token Unknown or Invalid'"),
            Source::vendor("auth0.com/docs/.../configure-refresh-token-rotation and -expiration"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "keycloak",
        name: "Keycloak",
        token_url: "{base}/realms/{realm}/protocol/openid-connect/token",
        authorize_url: "{base}/realms/{realm}/protocol/openid-connect/auth",
        revocation: Revocation::Standard("{base}/realms/{realm}/protocol/openid-connect/revoke"),
        device_url: Some("{base}/realms/{realm}/protocol/openid-connect/auth/device"),
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::SecretPost, ClientAuth::PrivateKeyJwt],
        offline_scopes: &["offline_access"],
        identity: Some(Identity { url: "{base}/realms/{realm}/protocol/openid-connect/userinfo", fields: &["sub"] }),
        api_hosts: &["{base}"],
        rules: Rules {
            rotation: Rotation::Strict,
            client_auth: ClientAuth::SecretBasic,
            access_life: seconds(300),
            idle_life: seconds(1800),
            ..RULES
        },
        notes: &[
            "Rotation is a setting of the realm (Revoke Refresh Token, Refresh Token Max Reuse); reuse ends the session.",
            "Without offline_access a refresh token ends with the session.",
            "Idle times are two minutes longer than configured.",
        ],
        unverified: &["token_url", "identity"],
        sources: &[
            Source::vendor("keycloak/keycloak docs server_admin/topics/sessions/timeouts.adoc"),
            Source::vendor("keycloak TokenManager.java (validateTokenReuse)"),
            Source::secondary("requirementyogi docs (expires_in 300, refresh_expires_in 1800)"),
        ],
        ..ROW
    },
    Preset {
        id: "quickbooks",
        name: "Intuit QuickBooks Online",
        token_url: "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
        authorize_url: "https://appcenter.intuit.com/connect/oauth2",
        revocation: Revocation::Standard("https://developer.api.intuit.com/v2/oauth2/tokens/revoke"),
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::SecretPost],
        identity: Some(Identity {
            url: "https://accounts.platform.intuit.com/v1/openid_connect/userinfo",
            fields: &["sub"],
        }),
        api_hosts: &["quickbooks.api.intuit.com"],
        rules: Rules {
            rotation: Rotation::Unknown,
            client_auth: ClientAuth::SecretBasic,
            access_life: seconds(3600),
            idle_life: days(100),
            absolute_life: days(1825),
            ..RULES
        },
        notes: &[
            "The refresh token changes about once a day, not at each refresh: what comes back is kept.",
            "realmId comes with the redirect of the sign-in.",
            "The consent ends after five years.",
        ],
        unverified: &["revoke_url", "identity_url", "old refresh token stays valid for 24 h", "identity"],
        sources: &[
            Source::vendor("intuit/QuickBooks-V3-Java-SDK release v6.5.4"),
            Source::vendor("IntuitDeveloper/OAuth2-Dotnet_UsingSDK docs/help/Tokens.md"),
            Source::secondary("github.com/intuit/oauth-jsclient/issues/128"),
            Source::secondary("docs.devart.com"),
            Source::secondary("airbyte#7296"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "xero",
        name: "Xero",
        token_url: "https://identity.xero.com/connect/token",
        authorize_url: "https://login.xero.com/identity/connect/authorize",
        revocation: Revocation::Standard("https://identity.xero.com/connect/revocation"),
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::SecretPost],
        offline_scopes: &["offline_access"],
        api_hosts: &["api.xero.com"],
        rules: Rules {
            rotation: Rotation::Grace(Duration::from_secs(1800)),
            client_auth: ClientAuth::SecretBasic,
            access_life: seconds(1800),
            idle_life: days(60),
            ..RULES
        },
        notes: &["The old refresh token may be used again for 30 minutes, as often as needed."],
        unverified: &["revoke_url"],
        sources: &[
            Source::vendor("community.xero.com/developer/discussion/105714701 and /127920775 (staff)"),
            Source::secondary("tessl airbyte source-xero"),
            Source::secondary("nango blog"),
            Source::secondary("nango providers.yaml@2f4c0af"),
            Source::secondary("60 days in thread /125347287"),
        ],
        ..ROW
    },
    Preset {
        id: "bitbucket",
        name: "Bitbucket Cloud",
        token_url: "https://bitbucket.org/site/oauth2/access_token",
        authorize_url: "https://bitbucket.org/site/oauth2/authorize",
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::SecretPost],
        identity: Some(Identity { url: "https://api.bitbucket.org/2.0/user", fields: &["uuid"] }),
        api_hosts: &["api.bitbucket.org"],
        rules: Rules {
            rotation: Rotation::Unknown,
            client_auth: ClientAuth::SecretBasic,
            access_life: seconds(7200),
            ..RULES
        },
        notes: &[
            "This is not Atlassian 3LO: there is no audience, no offline_access and no cloud id.",
            "Answers name the scopes `scopes`; they come from the settings of the consumer.",
        ],
        unverified: &["rotation", "revoke_url", "identity"],
        sources: &[
            Source::vendor("docs bitbucket.org/site/master/issues/16249 (curl -u)"),
            Source::secondary("docs.unified.to bitbucket-oauth-app"),
            Source::secondary("nango docs bitbucket.mdx (2h)"),
            Source::secondary("gist droidMakk (scopes)"),
            Source::secondary("github.com/ktrysmt/go-bitbucket/pull/218 (no expiry)"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
        ],
        ..ROW
    },
    Preset {
        id: "discord",
        name: "Discord",
        token_url: "https://discord.com/api/oauth2/token",
        authorize_url: "https://discord.com/oauth2/authorize",
        revocation: Revocation::Standard("https://discord.com/api/oauth2/token/revoke"),
        client_auths: &[ClientAuth::SecretPost, ClientAuth::SecretBasic],
        authorize_params: &[("prompt", "consent")],
        identity: Some(Identity { url: "https://discord.com/api/users/@me", fields: &["id"] }),
        api_hosts: &["discord.com"],
        rules: Rules { rotation: Rotation::Unknown, access_life: seconds(604800), ..RULES },
        notes: &["Bodies must be form-encoded; JSON is an error."],
        unverified: &["rotation", "refresh token life", "identity"],
        sources: &[
            Source::vendor("discord/discord-api-docs docs/topics/OAuth2.md"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
        ],
        ..ROW
    },
    Preset {
        id: "spotify",
        name: "Spotify",
        token_url: "https://accounts.spotify.com/api/token",
        authorize_url: "https://accounts.spotify.com/authorize",
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::SecretPost, ClientAuth::None],
        identity: Some(Identity { url: "https://api.spotify.com/v1/me", fields: &["id"] }),
        api_hosts: &["api.spotify.com"],
        rules: Rules {
            rotation: Rotation::Unknown,
            client_auth: ClientAuth::SecretBasic,
            access_life: seconds(3600),
            absolute_life: days(180),
            ..RULES
        },
        notes: &[
            "Since 2026-07-20 every refresh token ends six months after the consent; no refresh extends it.",
            "An answer to a refresh may have no refresh token: the one in hand stays.",
        ],
        unverified: &["rotation", "identity"],
        sources: &[
            Source::vendor("developer.spotify.com/blog/2026-06-18-refresh-token-expiration"),
            Source::secondary("github.com/spotify/web-api/issues/374 (before: unlimited)"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
        ],
        ..ROW
    },
    Preset {
        id: "x",
        name: "X (Twitter) API v2",
        token_url: "https://api.x.com/2/oauth2/token",
        authorize_url: "https://x.com/i/oauth2/authorize",
        revocation: Revocation::Standard("https://api.x.com/2/oauth2/revoke"),
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::None],
        offline_scopes: &["offline.access"],
        identity: Some(Identity { url: "https://api.x.com/2/users/me", fields: &["data.id"] }),
        api_hosts: &["api.x.com"],
        rules: Rules {
            rotation: Rotation::Unknown,
            client_auth: ClientAuth::SecretBasic,
            access_life: seconds(7200),
            ..RULES
        },
        notes: &[
            "The scope of offline access is offline.access, with a dot.",
            "PKCE is required; confidential clients authenticate in the header alone.",
        ],
        unverified: &["rotation", "revoke_url", "refresh token life", "identity"],
        sources: &[
            Source::vendor(
                "docs.x.com/fundamentals/authentication/oauth-2-0/authorization-code and user-access-token.md",
            ),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
        ],
        ..ROW
    },
    Preset {
        id: "linkedin",
        name: "LinkedIn",
        token_url: "https://www.linkedin.com/oauth/v2/accessToken",
        authorize_url: "https://www.linkedin.com/oauth/v2/authorization",
        client_auths: &[ClientAuth::SecretPost],
        identity: Some(Identity { url: "https://api.linkedin.com/v2/userinfo", fields: &["sub"] }),
        api_hosts: &["api.linkedin.com"],
        rules: Rules {
            rotation: Rotation::Persistent,
            access_life: seconds(5184000),
            absolute_life: days(365),
            ..RULES
        },
        notes: &[
            "Refresh tokens are for approved partners alone.",
            "The refresh token ends 365 days after the consent; near its end access tokens live shorter.",
        ],
        unverified: &["rotation", "identity"],
        sources: &[
            Source::vendor("learn.microsoft.com/linkedin/shared/authentication/programmatic-refresh-tokens"),
            Source::secondary("golang/oauth2 endpoints.go@89ff2e1"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "shopify",
        name: "Shopify (expiring offline tokens)",
        token_url: "https://{shop}.myshopify.com/admin/oauth/access_token",
        authorize_url: "https://{shop}.myshopify.com/admin/oauth/authorize",
        client_auths: &[ClientAuth::SecretPost],
        scope_separator: ',',
        api_hosts: &["{shop}.myshopify.com"],
        rules: Rules {
            rotation: Rotation::UntilUsed,
            access_life: seconds(3600),
            idle_life: days(90),
            token_params: Cow::Borrowed(&[(Cow::Borrowed("expiring"), Cow::Borrowed("1"))]),
            ..RULES
        },
        notes: &[
            "Without expiring=1 on the token request the token never ends and there is no refresh token.",
            "The old refresh token is taken until the new one is first used, at most 30 days.",
            "Public applications must use tokens that end from 2027-01-01.",
        ],
        unverified: &["scope_separator"],
        sources: &[
            Source::vendor("shopify.dev/changelog/offline-access-tokens-now-support-expiry-and-refresh"),
            Source::vendor("shopify.dev/changelog/more-resilient-refreshes-for-expiring-offline-access-tokens"),
            Source::vendor("shopify.dev ... offline-access-tokens"),
            Source::secondary("Shopify/shopify-app-php#12"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "zendesk",
        name: "Zendesk",
        token_url: "https://{subdomain}.zendesk.com/oauth/tokens",
        authorize_url: "https://{subdomain}.zendesk.com/oauth/authorizations/new",
        client_auths: &[ClientAuth::SecretPost],
        identity: Some(Identity { url: "https://{subdomain}.zendesk.com/api/v2/users/me.json", fields: &["user.id"] }),
        api_hosts: &["{subdomain}.zendesk.com"],
        rules: Rules {
            rotation: Rotation::Strict,
            rotation_ends_access_after: seconds(0),
            token_params: Cow::Borrowed(&[(Cow::Borrowed("expires_in"), Cow::Borrowed("1800"))]),
            ..RULES
        },
        notes: &[
            "A refresh ends the old access token and the old refresh token.",
            "The client says in each token request how long tokens are to live.",
        ],
        unverified: &["access_life", "identity"],
        sources: &[
            Source::vendor("support.zendesk.com/hc/en-us/articles/9182123625370"),
            Source::vendor("developer.zendesk.com/rest_api/docs/support/grant_type_tokens"),
            Source::secondary("nango providers.yaml@2f4c0af (sends expires_in=1800)"),
        ],
        ..ROW
    },
    Preset {
        id: "servicenow",
        name: "ServiceNow",
        token_url: "https://{instance}.service-now.com/oauth_token.do",
        authorize_url: "https://{instance}.service-now.com/oauth_auth.do",
        revocation: Revocation::Standard("https://{instance}.service-now.com/oauth_revoke_token.do"),
        client_auths: &[ClientAuth::SecretPost],
        api_hosts: &["{instance}.service-now.com"],
        rules: Rules { rotation: Rotation::Unknown, access_life: seconds(1800), idle_life: days(100), ..RULES },
        notes: &[
            "Lives are settings of the application.",
            "A new sign-in while an access token is valid returns the same one with a longer life.",
        ],
        unverified: &["rotation", "revoke_url"],
        sources: &[
            Source::vendor("support.servicenow.com KB0791140"),
            Source::vendor("servicenow docs t_ManageTokens"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "snowflake",
        name: "Snowflake OAuth",
        token_url: "https://{account}.snowflakecomputing.com/oauth/token-request",
        authorize_url: "https://{account}.snowflakecomputing.com/oauth/authorize",
        client_auths: &[ClientAuth::SecretBasic],
        offline_scopes: &["refresh_token"],
        api_hosts: &["{account}.snowflakecomputing.com"],
        rules: Rules {
            rotation: Rotation::Strict,
            client_auth: ClientAuth::SecretBasic,
            absolute_life: days(90),
            ..RULES
        },
        notes: &[
            "By default the refresh token stays the same for 90 days and answers have none; then rotation = \"persistent\" is right.",
            "In single-use mode a refresh ends all earlier tokens, and reuse ends every token.",
            "The role is chosen by the scope session:role:NAME.",
        ],
        unverified: &["access_life"],
        sources: &[
            Source::vendor("docs.snowflake.com/en/user-guide/single-use-refresh-tokens"),
            Source::vendor("docs.snowflake.com create-security-integration-oauth-snowflake"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
    Preset {
        id: "databricks",
        name: "Databricks (U2M)",
        token_url: "https://{workspace}/oidc/v1/token",
        authorize_url: "https://{workspace}/oidc/v1/authorize",
        client_auths: &[ClientAuth::SecretBasic, ClientAuth::None],
        offline_scopes: &["offline_access"],
        api_hosts: &["{workspace}"],
        rules: Rules { rotation: Rotation::Strict, client_auth: ClientAuth::SecretBasic, ..RULES },
        notes: &[
            "Lives, rotation and the end of the session are set by token_access_policy.",
            "Service principals use client credentials, without refresh token.",
        ],
        unverified: &["access_life", "grace"],
        sources: &[
            Source::vendor("docs.databricks.com/aws/en/integrations/single-use-tokens"),
            Source::secondary("databrickslabs.github.io oauth-reference"),
            Source::secondary("nango providers.yaml@2f4c0af"),
        ],
        ..ROW
    },
];

#[cfg(test)]
mod tests;
