//! What the provider answers: a status, headers and a body, not yet on any wire.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

/// One answer of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The headers, without `content-length`: that belongs to the wire.
    pub headers: HeaderMap,
    /// The body, complete.
    pub body: Bytes,
}

impl Answer {
    /// `value` as JSON, not to be cached (RFC 6749, 5.1).
    pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        // Proof: only structs with string keys, and `serde_json::Value`, come here; a failure would yield an empty body.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self::new(status, HeaderValue::from_static("application/json"), body)
    }

    /// A body of the given type, not to be cached.
    pub(crate) fn new(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        Self { status, headers, body: body.into() }
    }

    /// An OAuth error (RFC 6749, 5.2).
    pub(crate) fn error(status: StatusCode, error: &str, description: &str) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            error_description: &'a str,
        }
        let body = Body { error, error_description: description };
        Self::json(status, &body)
    }

    /// A page as a gateway or captive portal shows it.
    pub(crate) fn html(status: StatusCode) -> Self {
        let page = format!("<!doctype html><title>{status}</title><h1>{status}</h1>\n");
        Self::new(status, HeaderValue::from_static("text/html; charset=utf-8"), page)
    }

    /// The same answer with one more header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// Why the provider refuses a request: always an answer, never an error of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request is malformed; says how.
    InvalidRequest(&'static str),
    /// The client is unknown or did not authenticate as it must; says how.
    InvalidClient(&'static str),
    /// The refresh token is unknown, spent, another client's, or its grant is dead; says which.
    InvalidGrant(&'static str),
    /// A scope was asked for that the resource owner did not grant.
    InvalidScope,
    /// The grant type is not served here.
    UnsupportedGrantType,
}

impl Refusal {
    /// The answer in the standard's form (RFC 6749, 5.2): 401 for a wrong client, else 400.
    pub fn answer(self) -> Answer {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Refusal::InvalidRequest(why) => Answer::error(bad, "invalid_request", why),
            Refusal::InvalidGrant(why) => Answer::error(bad, "invalid_grant", why),
            Refusal::InvalidScope => Answer::error(bad, "invalid_scope", "The scope exceeds what was granted."),
            Refusal::UnsupportedGrantType => {
                Answer::error(bad, "unsupported_grant_type", "Only refresh_token and client_credentials are served.")
            }
            Refusal::InvalidClient(why) => Answer::error(StatusCode::UNAUTHORIZED, "invalid_client", why)
                .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"mock\"")),
        }
    }
}
