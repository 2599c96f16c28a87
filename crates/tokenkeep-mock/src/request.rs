//! Reads what clients post to the token, introspection and revocation endpoints.
//!
//! Stricter than most servers where the standard is strict: a parameter given twice, or credentials given in two ways,
//! is refused, so that a careless client is noticed.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::answer::Refusal;

/// How a request says which client sent it (RFC 6749, 2.3.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Credentials<'a> {
    /// It does not say.
    #[default]
    Missing,
    /// In the `Authorization: Basic` header.
    Basic {
        /// The client id, decoded.
        id: Cow<'a, str>,
        /// The client secret, decoded.
        secret: Cow<'a, str>,
    },
    /// In the body.
    Post {
        /// The client id.
        id: Cow<'a, str>,
        /// The client secret; public clients have none.
        secret: Option<Cow<'a, str>>,
    },
}

impl<'a> Credentials<'a> {
    /// Credentials in the body.
    pub fn post(id: &'a str, secret: &'a str) -> Self {
        Credentials::Post { id: id.into(), secret: Some(secret.into()) }
    }

    /// Credentials in the header.
    pub fn basic(id: &'a str, secret: &'a str) -> Self {
        Credentials::Basic { id: id.into(), secret: secret.into() }
    }

    /// A public client: an id in the body and no secret.
    pub fn public(id: &'a str) -> Self {
        Credentials::Post { id: id.into(), secret: None }
    }
}

/// One request to an endpoint of the provider, as read from its header and body.
///
/// ```
/// use tokenkeep_mock::{Credentials, OAuthRequest};
///
/// let body = b"grant_type=refresh_token&refresh_token=r&client_id=a&client_secret=b";
/// let request = OAuthRequest::read(Some("application/x-www-form-urlencoded"), None, body).unwrap();
/// assert_eq!(request.refresh_token.as_deref(), Some("r"));
/// assert_eq!(request.credentials, Credentials::post("a", "b"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OAuthRequest<'a> {
    /// `grant_type`, at the token endpoint.
    pub grant_type: Option<Cow<'a, str>>,
    /// `refresh_token`, at the token endpoint.
    pub refresh_token: Option<Cow<'a, str>>,
    /// `scope`, at the token endpoint.
    pub scope: Option<Cow<'a, str>>,
    /// `token`, at the introspection and revocation endpoints.
    pub token: Option<Cow<'a, str>>,
    /// `code`, at the token endpoint.
    pub code: Option<Cow<'a, str>>,
    /// `redirect_uri`, at the token endpoint.
    pub redirect_uri: Option<Cow<'a, str>>,
    /// `code_verifier`, at the token endpoint (RFC 7636).
    pub code_verifier: Option<Cow<'a, str>>,
    /// `device_code`, at the token endpoint (RFC 8628).
    pub device_code: Option<Cow<'a, str>>,
    /// Which client sent it.
    pub credentials: Credentials<'a>,
    /// What form of answer it asks for.
    pub accepts: Accepts,
}

/// What form of answer a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accepts {
    /// It does not say.
    #[default]
    Anything,
    /// Its `Accept` header names JSON.
    Json,
}

impl<'a> OAuthRequest<'a> {
    /// Reads a request from the values of its `Content-Type` and `Authorization` headers and its body, a form or a
    /// JSON object. Parameters that it does not know are ignored, as the standard asks.
    pub fn read(content_type: Option<&str>, authorization: Option<&str>, body: &'a [u8]) -> Result<Self, Refusal> {
        let parameters = Parameters::read(content_type, body)?;
        let credentials = credentials(authorization, parameters.client_id, parameters.client_secret)?;
        Ok(Self {
            grant_type: parameters.grant_type,
            refresh_token: parameters.refresh_token,
            scope: parameters.scope,
            token: parameters.token,
            code: parameters.code,
            redirect_uri: parameters.redirect_uri,
            code_verifier: parameters.code_verifier,
            device_code: parameters.device_code,
            credentials,
            accepts: Accepts::Anything,
        })
    }

    /// The same request with the value of its `Accept` header.
    #[must_use]
    pub fn accepting(mut self, accept: Option<&str>) -> Self {
        let names_json = accept.is_some_and(|accept| accept.to_ascii_lowercase().contains("json"));
        self.accepts = if names_json { Accepts::Json } else { Accepts::Anything };
        self
    }
}

/// The parameters that some endpoint reads.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters<'a> {
    grant_type: Option<Cow<'a, str>>,
    refresh_token: Option<Cow<'a, str>>,
    scope: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
    code: Option<Cow<'a, str>>,
    redirect_uri: Option<Cow<'a, str>>,
    code_verifier: Option<Cow<'a, str>>,
    device_code: Option<Cow<'a, str>>,
    client_id: Option<Cow<'a, str>>,
    client_secret: Option<Cow<'a, str>>,
}

impl<'a> Parameters<'a> {
    fn read(content_type: Option<&str>, body: &'a [u8]) -> Result<Self, Refusal> {
        match media_type(content_type).as_str() {
            "application/json" => Self::from_json(body),
            "application/x-www-form-urlencoded" | "" => Self::from_form(body),
            _ => Err(Refusal::InvalidRequest("The body must be a form or JSON.")),
        }
    }

    fn from_json(body: &'a [u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body).map_err(|_| Refusal::InvalidRequest("The body is not a JSON object of texts."))
    }

    fn from_form(body: &'a [u8]) -> Result<Self, Refusal> {
        let mut parameters = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            let Some(slot) = parameters.slot(&name) else {
                continue;
            };
            if slot.replace(value).is_some() {
                return Err(Refusal::InvalidRequest("A parameter is given twice."));
            }
        }
        Ok(parameters)
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        match name {
            "grant_type" => Some(&mut self.grant_type),
            "refresh_token" => Some(&mut self.refresh_token),
            "scope" => Some(&mut self.scope),
            "token" => Some(&mut self.token),
            "code" => Some(&mut self.code),
            "redirect_uri" => Some(&mut self.redirect_uri),
            "code_verifier" => Some(&mut self.code_verifier),
            "device_code" => Some(&mut self.device_code),
            "client_id" => Some(&mut self.client_id),
            "client_secret" => Some(&mut self.client_secret),
            _ => None,
        }
    }
}

/// The media type without its parameters, in lower case; empty where there is none.
fn media_type(content_type: Option<&str>) -> String {
    let content_type = content_type.unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().to_ascii_lowercase()
}

fn credentials<'a>(
    authorization: Option<&str>,
    id: Option<Cow<'a, str>>,
    secret: Option<Cow<'a, str>>,
) -> Result<Credentials<'a>, Refusal> {
    let Some(authorization) = authorization else {
        return match (id, secret) {
            (Some(id), secret) => Ok(Credentials::Post { id, secret }),
            (None, Some(_)) => Err(Refusal::InvalidClient("A client_secret without client_id.")),
            (None, None) => Ok(Credentials::Missing),
        };
    };
    if secret.is_some() {
        return Err(Refusal::InvalidRequest("Client credentials are given in two ways."));
    }
    let basic = basic(authorization).ok_or(Refusal::InvalidClient("Unreadable Authorization header."))?;
    match (&basic, id) {
        (Credentials::Basic { id: named, .. }, Some(id)) if *named != id => {
            Err(Refusal::InvalidRequest("The client_id differs from the Authorization header."))
        }
        _ => Ok(basic),
    }
}

/// Reads `Basic base64(form(id):form(secret))`.
fn basic(authorization: &str) -> Option<Credentials<'static>> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    Some(Credentials::Basic { id: form_decoded(id).into(), secret: form_decoded(secret).into() })
}

/// Undoes the form encoding of one text. The text is a whole value: `&` and `=` in it stand for themselves.
fn form_decoded(text: &str) -> String {
    let escaped = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(escaped.as_bytes()).next().map(|(text, _)| text.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
    const JSON: Option<&str> = Some("Application/JSON; charset=utf-8");

    fn header(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn form_and_json_read_alike() {
        let form = OAuthRequest::read(FORM, None, b"grant_type=x&client_id=a%26&client_secret=b+c");
        let json = br#"{"grant_type":"x","client_id":"a&","client_secret":"b c","other":[1]}"#;
        assert_eq!(form, OAuthRequest::read(JSON, None, json));
        assert_eq!(form.unwrap().credentials, Credentials::post("a&", "b c"));
    }

    #[test]
    fn basic_is_form_decoded() {
        let header = header("a%3Ab:c%2Bd&e=f");
        let request = OAuthRequest::read(FORM, Some(&header), b"client_id=a:b").unwrap();
        assert_eq!(request.credentials, Credentials::basic("a:b", "c+d&e=f"));
    }

    #[test]
    fn a_careless_client_is_refused() {
        let basic = header("a:b");
        let cases: [(Option<&str>, Option<&str>, &[u8]); 7] = [
            (FORM, None, b"scope=a&scope=a"),
            (JSON, None, br#"{"scope":"a","scope":"a"}"#),
            (JSON, None, br#"{"scope":1}"#),
            (Some("text/plain"), None, b"scope=a"),
            (FORM, Some(&basic), b"client_id=a&client_secret=b"),
            (FORM, Some(&basic), b"client_id=other"),
            (FORM, Some("Bearer x"), b""),
        ];
        for (content_type, authorization, body) in cases {
            let read = OAuthRequest::read(content_type, authorization, body);
            assert!(read.is_err(), "{read:?}");
        }
    }

    #[test]
    fn hostile_bytes_never_panic() {
        for seed in 0..2_000_u64 {
            let body: Vec<u8> = (0..seed % 64).map(|nth| crate::random::keyed(&[seed, nth]) as u8).collect();
            let text = String::from_utf8_lossy(&body).into_owned();
            for content_type in [None, FORM, JSON] {
                let _ = OAuthRequest::read(content_type, Some(&text), &body);
                let _ = OAuthRequest::read(content_type, Some(&header(&text)), &body);
            }
        }
    }
}
