//! How requests to a provider are written.

use crate::provider::{BodyFormat, ClientAuth, Param, Rules};
use crate::secret::Secret;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::borrow::Cow;

/// Our registration at a provider.
#[derive(Debug)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// The client secret; a public client has none.
    pub secret: Option<Secret>,
}

impl Client {
    /// The registration and what is said `of` it, as one text by which a change is known. It holds the secret.
    #[must_use]
    pub fn described(&self, of: &str) -> Secret {
        let secret = self.secret.as_ref().map(Secret::expose);
        Secret::new(format!("{of} {:?} {secret:?}", self.id))
    }
}

/// What asks for a token set.
#[derive(Clone, Copy, Debug)]
pub enum Grant<'a> {
    /// RFC 6749 section 6. The scope is left out: it then stays as it was.
    RefreshToken {
        /// The refresh token.
        token: &'a Secret,
        /// The redirect URI of the sign-in; sent where the provider's rules ask for it.
        redirect_uri: Option<&'a str>,
    },
    /// RFC 6749 section 4.4, with these scopes.
    ClientCredentials {
        /// The scopes; none is left out.
        scopes: &'a [String],
    },
    /// RFC 6749 section 4.1.3 with RFC 7636 section 4.5.
    AuthorizationCode {
        /// The code.
        code: &'a Secret,
        /// The very redirect URI of the authorization request.
        redirect_uri: &'a str,
        /// The PKCE verifier.
        verifier: &'a Secret,
    },
    /// RFC 8628 section 3.4.
    DeviceCode {
        /// The device code.
        device_code: &'a Secret,
    },
    /// RFC 7523 section 2.1.
    JwtBearer {
        /// The signed assertion.
        assertion: &'a Secret,
        /// The scopes; none is left out.
        scopes: &'a [String],
    },
}

/// What a request carries besides what its kind asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// The client's signed assertion, for `private_key_jwt`.
    pub client_assertion: Option<&'a Secret>,
    /// Further parameters, such as `resource` (RFC 8707).
    pub params: &'a [(&'a str, &'a str)],
}

/// The methods that are used with providers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Every token request.
    Post,
    /// Metadata, and who somebody is.
    Get,
    /// How GitHub ends a grant.
    Delete,
}

/// A request to a provider, ready to be sent once.
#[derive(Debug)]
pub struct ProviderRequest {
    /// The method.
    pub method: Method,
    /// The whole `Authorization` header, where there is one.
    pub authorization: Option<Secret>,
    /// Further headers, their names in lower case.
    pub headers: Cow<'static, [Param]>,
    /// `Content-Type`, where there is a body.
    pub content_type: Option<&'static str>,
    /// The body; empty where there is none.
    pub body: Secret,
}

impl ProviderRequest {
    /// A `GET`, with an access token or without.
    #[must_use]
    pub fn get(access_token: Option<&Secret>) -> Self {
        Self {
            method: Method::Get,
            authorization: access_token.map(bearer),
            headers: Cow::Borrowed(&[]),
            content_type: None,
            body: Secret::new(""),
        }
    }
}

/// Writes the request that `grant` needs at a provider with these rules.
///
/// One style of client authentication, never a second try with another: the failed first try can
/// burn a rotating token (quirk 5).
#[must_use]
pub fn token_request(rules: &Rules, client: &Client, grant: Grant<'_>, extras: Extras<'_>) -> ProviderRequest {
    let scope;
    let mut fields: Vec<(&str, &str)> = Vec::with_capacity(8);
    match grant {
        Grant::RefreshToken { token, redirect_uri } => {
            fields.extend([("grant_type", "refresh_token"), ("refresh_token", token.expose())]);
            fields.extend(redirect_uri.filter(|_| rules.redirect_uri_on_refresh).map(|uri| ("redirect_uri", uri)));
        }
        Grant::ClientCredentials { scopes } => {
            scope = scopes.join(" ");
            fields.push(("grant_type", "client_credentials"));
            fields.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        }
        Grant::AuthorizationCode { code, redirect_uri, verifier } => fields.extend([
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier.expose()),
        ]),
        Grant::DeviceCode { device_code } => fields.extend([
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device_code.expose()),
        ]),
        Grant::JwtBearer { assertion, scopes } => {
            scope = scopes.join(" ");
            fields.extend([
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", assertion.expose()),
            ]);
            fields.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        }
    }
    fields.extend(rules.token_params.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
    client_request(rules, client, fields, extras, rules.body_format)
}

/// The device authorization request (RFC 8628 section 3.1).
#[must_use]
pub fn device_request(rules: &Rules, client: &Client, scope: &str, extras: Extras<'_>) -> ProviderRequest {
    let fields = if scope.is_empty() { Vec::new() } else { vec![("scope", scope)] };
    client_request(rules, client, fields, extras, BodyFormat::Form)
}

/// The revocation request (RFC 7009 section 2.1). Revoking a refresh token ends the access tokens of its grant too.
#[must_use]
pub fn revocation_request(
    rules: &Rules,
    client: &Client,
    token: &Secret,
    hint: TokenHint,
    extras: Extras<'_>,
) -> ProviderRequest {
    let fields = vec![("token", token.expose()), ("token_type_hint", hint.as_str())];
    client_request(rules, client, fields, extras, BodyFormat::Form)
}

/// The call of a provider's own API that ends the grant of the access token which it is made with: Slack's `auth.revoke`,
/// Dropbox's `auth/token/revoke`. Neither takes arguments, and Dropbox refuses a body.
#[must_use]
pub fn self_revocation_request(access_token: &Secret) -> ProviderRequest {
    ProviderRequest { method: Method::Post, ..ProviderRequest::get(Some(access_token)) }
}

/// GitHub's way to end a grant: the client names an access token of it, and shows who it is in the header, whichever way
/// it takes at the token endpoint (<https://docs.github.com/rest/apps/oauth-applications#delete-an-app-authorization>).
#[must_use]
pub fn grant_deletion_request(client: &Client, access_token: &Secret) -> ProviderRequest {
    let secret = client.secret.as_ref().map(Secret::expose).unwrap_or_default();
    ProviderRequest {
        method: Method::Delete,
        authorization: Some(basic(&client.id, secret)),
        headers: Cow::Borrowed(&[]),
        content_type: Some("application/json"),
        body: Secret::new(json(&[("access_token", access_token.expose())])),
    }
}

/// The introspection request (RFC 7662 section 2.1).
#[must_use]
pub fn introspection_request(rules: &Rules, client: &Client, token: &Secret, extras: Extras<'_>) -> ProviderRequest {
    client_request(rules, client, vec![("token", token.expose())], extras, BodyFormat::Form)
}

/// Which of a grant's tokens is meant (RFC 7009 section 2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenHint {
    /// The access token.
    AccessToken,
    /// The refresh token.
    RefreshToken,
}

impl TokenHint {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::RefreshToken => "refresh_token",
        }
    }
}

/// A request of the client's own: `fields`, and who it is.
fn client_request<'a>(
    rules: &'a Rules,
    client: &'a Client,
    mut fields: Vec<(&'a str, &'a str)>,
    extras: Extras<'a>,
    format: BodyFormat,
) -> ProviderRequest {
    fields.extend_from_slice(extras.params);
    match (rules.client_auth, client.secret.as_ref().map(Secret::expose)) {
        (ClientAuth::SecretBasic, _) => {}
        (ClientAuth::SecretPost, Some(secret)) => {
            fields.extend([("client_id", client.id.as_str()), ("client_secret", secret)]);
        }
        (ClientAuth::PrivateKeyJwt, _) => {
            fields.extend([("client_id", client.id.as_str()), ("client_assertion_type", ASSERTION_TYPE)]);
            fields.extend(extras.client_assertion.map(|assertion| ("client_assertion", assertion.expose())));
        }
        (ClientAuth::SecretPost | ClientAuth::None, _) => {
            fields.push(("client_id", &client.id));
        }
    }
    let (content_type, body) = match format {
        BodyFormat::Form => ("application/x-www-form-urlencoded", form(&fields)),
        BodyFormat::Json => ("application/json", json(&fields)),
    };
    ProviderRequest {
        method: Method::Post,
        authorization: authorization(rules, client),
        headers: rules.headers.clone(),
        content_type: Some(content_type),
        body: Secret::new(body),
    }
}

/// The whole `Authorization` header by which the client shows who it is, where it does so by one (RFC 6749 section
/// 2.3.1).
#[must_use]
pub fn authorization(rules: &Rules, client: &Client) -> Option<Secret> {
    let secret = client.secret.as_ref().map(Secret::expose).unwrap_or_default();
    (rules.client_auth == ClientAuth::SecretBasic).then(|| basic(&client.id, secret))
}

/// RFC 7523 section 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.expose()))
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::with_capacity(512)).extend_pairs(fields).finish()
}

fn json(fields: &[(&str, &str)]) -> String {
    let object: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::Value::Object(object).to_string()
}

/// RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
fn basic(id: &str, secret: &str) -> Secret {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(rules: Rules, grant: Grant<'_>) -> ProviderRequest {
        let client = Client { id: "my app".into(), secret: Some(Secret::new("s:ec&ret")) };
        token_request(&rules, &client, grant, Extras::default())
    }

    #[test]
    fn a_refresh_carries_the_token_and_the_client_and_no_scope() {
        let token = Secret::new("r/1+2");
        let written =
            request(Rules::default(), Grant::RefreshToken { token: &token, redirect_uri: Some("https://us/back") });
        assert_eq!(
            written.body.expose(),
            "grant_type=refresh_token&refresh_token=r%2F1%2B2&client_id=my+app&client_secret=s%3Aec%26ret"
        );
        assert!(written.authorization.is_none());
    }

    #[test]
    fn basic_authentication_encodes_both_parts_and_keeps_them_out_of_the_body() {
        let token = Secret::new("r");
        let rules = Rules { client_auth: ClientAuth::SecretBasic, ..Rules::default() };
        let written = request(rules, Grant::RefreshToken { token: &token, redirect_uri: Some("https://us/back") });
        assert_eq!(written.body.expose(), "grant_type=refresh_token&refresh_token=r");
        let expected = format!("Basic {}", BASE64_STANDARD.encode("my+app:s%3Aec%26ret"));
        assert_eq!(written.authorization.unwrap().expose(), expected);
    }

    #[test]
    fn a_public_client_sends_its_id_alone() {
        let token = Secret::new("r");
        let rules = Rules { client_auth: ClientAuth::None, ..Rules::default() };
        let body = request(rules, Grant::RefreshToken { token: &token, redirect_uri: Some("https://us/back") }).body;
        assert!(body.expose().ends_with("client_id=my+app") && !body.expose().contains("secret"));
    }

    #[test]
    fn atlassian_takes_json() {
        let token = Secret::new("r\"1");
        let rules = Rules { body_format: BodyFormat::Json, ..Rules::default() };
        let written = request(rules, Grant::RefreshToken { token: &token, redirect_uri: Some("https://us/back") });
        let body: serde_json::Value = serde_json::from_str(written.body.expose()).unwrap();
        assert_eq!(body["refresh_token"], "r\"1");
        assert_eq!(written.content_type, Some("application/json"));
    }

    #[test]
    fn client_credentials_carry_the_scopes() {
        let scopes = ["a".to_owned(), "b".to_owned()];
        let body = request(Rules::default(), Grant::ClientCredentials { scopes: &scopes }).body;
        assert!(body.expose().starts_with("grant_type=client_credentials&scope=a+b&"));
    }

    #[test]
    fn a_code_goes_with_its_redirect_uri_and_its_verifier() {
        let (code, verifier) = (Secret::new("c"), Secret::new("v"));
        let grant =
            Grant::AuthorizationCode { code: &code, redirect_uri: "http://127.0.0.1:1/cb", verifier: &verifier };
        let rules = Rules { client_auth: ClientAuth::None, ..Rules::default() };
        let client = Client { id: "app".into(), secret: None };
        let extras = Extras { params: &[("resource", "https://api")], ..Extras::default() };
        assert_eq!(
            token_request(&rules, &client, grant, extras).body.expose(),
            "grant_type=authorization_code&code=c&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcb&code_verifier=v\
             &resource=https%3A%2F%2Fapi&client_id=app"
        );
    }

    #[test]
    fn a_refresh_repeats_the_redirect_uri_where_the_provider_asks_for_it() {
        let token = Secret::new("r");
        let grant = Grant::RefreshToken { token: &token, redirect_uri: Some("https://us/back") };
        let rules = |asks| Rules { redirect_uri_on_refresh: asks, ..Rules::default() };
        assert!(request(rules(true), grant).body.expose().contains("redirect_uri=https%3A%2F%2Fus%2Fback"));
        assert!(!request(rules(false), grant).body.expose().contains("redirect_uri"));
    }

    #[test]
    fn a_provider_s_own_revocation_shows_the_access_token_and_nothing_else() {
        let written = self_revocation_request(&Secret::new("xoxp-1"));
        assert_eq!((written.method, written.content_type, written.body.expose()), (Method::Post, None, ""));
        assert_eq!(written.authorization.unwrap().expose(), "Bearer xoxp-1");
    }

    #[test]
    fn github_s_revocation_shows_the_client_in_the_header_and_the_token_in_json() {
        let client = Client { id: "Iv1.8a61".into(), secret: Some(Secret::new("s3cret")) };
        let written = grant_deletion_request(&client, &Secret::new("ghu_\"1"));
        assert_eq!((written.method, written.content_type), (Method::Delete, Some("application/json")));
        assert_eq!(written.body.expose(), r#"{"access_token":"ghu_\"1"}"#);
        let expected = format!("Basic {}", BASE64_STANDARD.encode("Iv1.8a61:s3cret"));
        assert_eq!(written.authorization.unwrap().expose(), expected);
    }

    #[test]
    fn an_assertion_stands_for_the_secret() {
        let token = Secret::new("r");
        let assertion = Secret::new("a.b.c");
        let rules = Rules { client_auth: ClientAuth::PrivateKeyJwt, ..Rules::default() };
        let client = Client { id: "app".into(), secret: None };
        let extras = Extras { client_assertion: Some(&assertion), ..Extras::default() };
        let written = revocation_request(&rules, &client, &token, TokenHint::RefreshToken, extras);
        assert_eq!(
            written.body.expose(),
            "token=r&token_type_hint=refresh_token&client_id=app\
             &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=a.b.c"
        );
    }

    #[test]
    fn what_a_provider_wants_besides_goes_with_every_token_request() {
        let token = Secret::new("r");
        let shopify = &crate::catalogue::preset("shopify").unwrap().rules;
        let notion = &crate::catalogue::preset("notion").unwrap().rules;
        let client = Client { id: "app".into(), secret: Some(Secret::new("s")) };
        let grant = Grant::RefreshToken { token: &token, redirect_uri: None };
        let extras = Extras::default();
        assert!(token_request(shopify, &client, grant, extras).body.expose().contains("expiring=1"));
        assert_eq!(token_request(notion, &client, grant, extras).headers[0].0, "notion-version");
    }
}
