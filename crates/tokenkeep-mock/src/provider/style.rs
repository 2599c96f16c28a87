//! How answers and refusals look: what one provider writes otherwise than the next.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::{Answer, Refusal, Unfit};

/// How an answer with tokens looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerStyle {
    /// RFC 6749, 5.1.
    Standard,
    /// No `token_type`.
    Atlassian,
    /// Form-encoded unless the request accepts JSON, with `refresh_token_expires_in` and an empty `scope`.
    GitHub,
    /// With commas in `scope` (Linear, Shopify).
    Commas,
    /// `scopes` in place of `scope` (Bitbucket).
    Scopes,
    /// `ok: true`, and the tokens in `authed_user`, with commas in `scope`.
    Slack,
}

/// The body of a token answer (RFC 6749, 5.1).
#[derive(Serialize)]
pub(crate) struct TokenBody {
    pub access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token_expires_in: Option<u64>,
    pub scope: String,
}

impl AnswerStyle {
    /// The answer that carries `body`, for the resource owner of this name.
    pub(crate) fn answer(self, body: TokenBody, owner: &str) -> Answer {
        match self {
            AnswerStyle::Standard => {
                Answer::json(StatusCode::OK, &TokenBody { refresh_token_expires_in: None, ..body })
            }
            AnswerStyle::Atlassian => {
                let body = TokenBody { token_type: None, refresh_token_expires_in: None, ..body };
                Answer::json(StatusCode::OK, &body)
            }
            AnswerStyle::GitHub => Answer::json(StatusCode::OK, &TokenBody { scope: String::new(), ..body }),
            AnswerStyle::Commas => {
                let scope = with_commas(&body.scope);
                Answer::json(StatusCode::OK, &TokenBody { scope, refresh_token_expires_in: None, ..body })
            }
            AnswerStyle::Scopes => Answer::json(StatusCode::OK, &scopes(body)),
            AnswerStyle::Slack => Answer::json(StatusCode::OK, &slack(body, owner)),
        }
    }
}

fn with_commas(scope: &str) -> String {
    scope.split_ascii_whitespace().collect::<Vec<_>>().join(",")
}

fn scopes(body: TokenBody) -> Value {
    let mut body = json!(TokenBody { refresh_token_expires_in: None, ..body });
    if let Some(fields) = body.as_object_mut()
        && let Some(scope) = fields.remove("scope")
    {
        fields.insert("scopes".to_owned(), scope);
    }
    body
}

fn slack(body: TokenBody, owner: &str) -> Value {
    let body =
        TokenBody { token_type: Some("user"), refresh_token_expires_in: None, scope: with_commas(&body.scope), ..body };
    let mut user = json!(body);
    user["id"] = owner.into();
    json!({"ok": true, "app_id": "A0MOCK", "team": {"id": "T0MOCK", "name": "Mock"}, "authed_user": user})
}

/// How the answer that begins a device's sign-in looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceStyle {
    /// RFC 8628, 3.2.
    Standard,
    /// `verification_url`, and no address with the code in it.
    Google,
}

/// How a refusal looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalStyle {
    /// RFC 6749, 5.2.
    Standard,
    /// A dead refresh token gets 403, in two forms that are both seen: `invalid_grant` with "Unknown or invalid refresh
    /// token." where it was never issued or has outlived its time, else `unauthorized_client` with "refresh_token is
    /// invalid". Which end gives which form is not documented; this split is ours, so that both occur.
    Atlassian,
    /// A dead refresh token gets `403 invalid_grant` with "Unknown or invalid refresh token."; a device is refused with
    /// 403 too, and with 429 if it asks too often.
    Auth0,
    /// Every refusal has the status 200 and GitHub's own code.
    GitHub,
    /// A dead refresh token gets `400 invalid_grant` with "Token has been expired or revoked."; a device is refused with
    /// 403, and with 428 while it must wait.
    Google,
    /// A person who says no gives a device `authorization_declined`.
    Microsoft,
    /// Every refusal is `200` with `ok: false` and Slack's own code.
    Slack,
}

impl RefusalStyle {
    pub(crate) fn answer(self, refusal: Refusal) -> Answer {
        match self {
            RefusalStyle::Standard => refusal.answer(),
            RefusalStyle::Atlassian => atlassian(refusal),
            RefusalStyle::Auth0 => auth0(refusal),
            RefusalStyle::GitHub => github(refusal),
            RefusalStyle::Google => google(refusal),
            RefusalStyle::Microsoft => microsoft(refusal),
            RefusalStyle::Slack => Answer::json(StatusCode::OK, &json!({"ok": false, "error": slack_code(refusal)})),
        }
    }
}

fn atlassian(refusal: Refusal) -> Answer {
    let forbidden = StatusCode::FORBIDDEN;
    match refusal {
        Refusal::InvalidGrant(Unfit::Unknown | Unfit::Outlived) => {
            Answer::error(forbidden, "invalid_grant", "Unknown or invalid refresh token.")
        }
        Refusal::InvalidGrant(Unfit::Reused | Unfit::Ended | Unfit::OtherClient) => {
            Answer::error(forbidden, "unauthorized_client", "refresh_token is invalid")
        }
        _ => refusal.answer(),
    }
}

fn auth0(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::InvalidGrant(why) if why.is_refresh_token() => {
            Answer::error(StatusCode::FORBIDDEN, "invalid_grant", Unfit::Unknown.why())
        }
        Refusal::AuthorizationPending | Refusal::AccessDenied | Refusal::ExpiredToken => {
            Answer::error(StatusCode::FORBIDDEN, refusal.code(), refusal.why())
        }
        Refusal::SlowDown { .. } => Answer::error(StatusCode::TOO_MANY_REQUESTS, refusal.code(), refusal.why()),
        _ => refusal.answer(),
    }
}

fn google(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::InvalidGrant(why) if why.is_refresh_token() => {
            Answer::error(StatusCode::BAD_REQUEST, "invalid_grant", "Token has been expired or revoked.")
        }
        Refusal::AuthorizationPending => {
            Answer::error(StatusCode::PRECONDITION_REQUIRED, refusal.code(), "Precondition Required")
        }
        Refusal::SlowDown { .. } | Refusal::AccessDenied => {
            Answer::error(StatusCode::FORBIDDEN, refusal.code(), "Forbidden")
        }
        _ => refusal.answer(),
    }
}

fn microsoft(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::AccessDenied => {
            Answer::error(StatusCode::BAD_REQUEST, "authorization_declined", "AADSTS70016: the user said no.")
        }
        _ => refusal.answer(),
    }
}

fn github(refusal: Refusal) -> Answer {
    let ok = StatusCode::OK;
    match refusal {
        Refusal::InvalidGrant(Unfit::Code(_)) => {
            Answer::error(ok, "bad_verification_code", "The code passed is incorrect or expired.")
        }
        Refusal::InvalidGrant(_) => {
            Answer::error(ok, "bad_refresh_token", "The refresh token passed is incorrect or expired.")
        }
        Refusal::InvalidClient(_) => {
            let why = "The client_id and/or client_secret passed are incorrect.";
            Answer::error(ok, "incorrect_client_credentials", why)
        }
        Refusal::SlowDown { interval_s } => {
            let body = json!({"error": refusal.code(), "error_description": refusal.why(), "interval": interval_s});
            Answer::json(ok, &body)
        }
        _ => Answer::error(ok, refusal.code(), refusal.why()),
    }
}

fn slack_code(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::InvalidGrant(Unfit::Code(_)) => "invalid_code",
        Refusal::InvalidGrant(Unfit::Outlived) => "token_expired",
        Refusal::InvalidGrant(Unfit::Ended) => "token_revoked",
        Refusal::InvalidGrant(_) => "invalid_refresh_token",
        Refusal::InvalidClient(_) => "bad_client_secret",
        Refusal::InvalidRequest(_) => "invalid_arguments",
        Refusal::UnsupportedGrantType => "invalid_grant_type",
        _ => refusal.code(),
    }
}
