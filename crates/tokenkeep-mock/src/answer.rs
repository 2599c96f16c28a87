//! What the provider answers: a status, headers and a body, not yet on any wire.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

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

    /// The same answer as a form instead of a JSON object; values that are no texts are written as JSON.
    pub(crate) fn form_encoded(mut self) -> Self {
        let Ok(Value::Object(body)) = serde_json::from_slice(&self.body) else {
            return self;
        };
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (name, value) in &body {
            match value {
                Value::String(text) => form.append_pair(name, text),
                other => form.append_pair(name, &other.to_string()),
            };
        }
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.body = form.finish().into();
        self
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
    /// The refresh token or code is not good.
    InvalidGrant(Unfit),
    /// A scope was asked for that the resource owner did not grant.
    InvalidScope,
    /// The grant type is not served here.
    UnsupportedGrantType,
    /// The resource owner has not decided yet (RFC 8628, 3.5).
    AuthorizationPending,
    /// The device asks too often; from now on it must wait this long between two questions (RFC 8628, 3.5).
    SlowDown {
        /// The new interval.
        interval_s: u32,
    },
    /// The resource owner said no.
    AccessDenied,
    /// The device code has outlived its time (RFC 8628, 3.5).
    ExpiredToken,
}

/// Why a refresh token or a code is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It was never issued.
    Unknown,
    /// It is another client's.
    OtherClient,
    /// It was used before, which has ended its grant.
    Reused,
    /// Its grant was ended.
    Ended,
    /// It was not used for too long, or its grant is too old.
    Outlived,
    /// It is a code; says what is wrong with it.
    Code(&'static str),
}

impl Unfit {
    /// Whether it is a refresh token, and no code.
    pub fn is_refresh_token(self) -> bool {
        !matches!(self, Unfit::Code(_))
    }

    /// In words.
    pub fn why(self) -> &'static str {
        match self {
            Unfit::Unknown => "Unknown or invalid refresh token.",
            Unfit::OtherClient => "The refresh token is another client's.",
            Unfit::Reused => "The refresh token was used before; the grant is revoked.",
            Unfit::Ended => "The grant was revoked.",
            Unfit::Outlived => "The refresh token has expired.",
            Unfit::Code(why) => why,
        }
    }
}

impl Refusal {
    /// Its code (RFC 6749, 5.2; RFC 8628, 3.5).
    pub fn code(self) -> &'static str {
        match self {
            Refusal::InvalidRequest(_) => "invalid_request",
            Refusal::InvalidClient(_) => "invalid_client",
            Refusal::InvalidGrant(_) => "invalid_grant",
            Refusal::InvalidScope => "invalid_scope",
            Refusal::UnsupportedGrantType => "unsupported_grant_type",
            Refusal::AuthorizationPending => "authorization_pending",
            Refusal::SlowDown { .. } => "slow_down",
            Refusal::AccessDenied => "access_denied",
            Refusal::ExpiredToken => "expired_token",
        }
    }

    /// In words.
    pub fn why(self) -> &'static str {
        match self {
            Refusal::InvalidRequest(why) | Refusal::InvalidClient(why) => why,
            Refusal::InvalidGrant(unfit) => unfit.why(),
            Refusal::InvalidScope => "The scope exceeds what was granted.",
            Refusal::UnsupportedGrantType => {
                "Only authorization_code, refresh_token, client_credentials and device_code are served."
            }
            Refusal::AuthorizationPending => "The resource owner has not decided yet.",
            Refusal::SlowDown { .. } => "Too many requests: wait longer between two.",
            Refusal::AccessDenied => "The resource owner said no.",
            Refusal::ExpiredToken => "The device code has expired.",
        }
    }

    /// The answer in the standard's form (RFC 6749, 5.2): 401 for a wrong client, else 400.
    pub fn answer(self) -> Answer {
        match self {
            Refusal::InvalidClient(why) => Answer::error(StatusCode::UNAUTHORIZED, self.code(), why)
                .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"mock\"")),
            _ => Answer::error(StatusCode::BAD_REQUEST, self.code(), self.why()),
        }
    }
}
