//! Errors as RFC 9457 problems: one status and one code for each thing that a caller can do about it.

use super::json::Times;
use super::openapi::Time;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokenkeep::Error;
use tokenkeep::connect::SignInError;
use tokenkeep::keys::KeyError;
use tokenkeep::store::StoreError;
use tokenkeep_core::failure::next_step_for;
use tokenkeep_core::model::Status;
use tokenkeep_core::{FailureCode, Timestamp};
use utoipa::ToSchema;

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// The code of what does not exist.
pub const NOT_FOUND: &str = "not_found";
/// The code of a connection that needs a human sign-in.
pub const NEEDS_REAUTH: &str = Status::NeedsReauth.as_str();

/// An error answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
pub struct Problem {
    /// `about:blank`: `code` tells problems apart.
    #[schema(value_type = String)]
    pub r#type: Box<str>,
    /// The status in words.
    #[schema(value_type = String)]
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for a person.
    #[schema(value_type = String)]
    pub detail: Box<str>,
    /// What happened, for a program: stable.
    #[schema(value_type = String)]
    pub code: Box<str>,
    /// What to do.
    #[schema(required, value_type = Option<String>)]
    pub next_action: Option<Box<str>>,
    /// When it may be worth trying again.
    #[schema(required, value_type = Option<Time>)]
    pub retry_at: Option<Box<str>>,
    /// Seconds for `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem without a next action.
    #[must_use]
    pub fn new(status: StatusCode, code: &str, detail: impl Into<Box<str>>) -> Self {
        Self {
            r#type: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.into(),
            next_action: None,
            retry_at: None,
            retry_after: None,
        }
    }

    /// A request that is not what it must be: 400.
    #[must_use]
    pub fn invalid(detail: impl Into<Box<str>>, next_action: impl Into<Box<str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", detail).next(next_action)
    }

    /// A body that is not what it must be: 400.
    #[must_use]
    pub fn unreadable(error: &serde_json::Error, expected: impl Into<Box<str>>) -> Self {
        Self::invalid(format!("the body is not what it must be: {error}"), expected)
    }

    /// The same of a body that is a secret: only the kind of error is told, which shows nothing of the text.
    #[must_use]
    pub fn unreadable_secret(error: &serde_json::Error, expected: impl Into<Box<str>>) -> Self {
        Self::invalid(format!("the body is not what it must be ({:?} error)", error.classify()), expected)
    }

    /// What the path names is not there: 404.
    #[must_use]
    pub fn not_found(detail: impl Into<Box<str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, NOT_FOUND, detail)
    }

    /// With what to do.
    #[must_use]
    pub fn next(mut self, action: impl Into<Box<str>>) -> Self {
        self.next_action = Some(action.into());
        self
    }

    /// With when to try again.
    #[must_use]
    pub fn retry(mut self, at: Option<Timestamp>, times: &Times) -> Self {
        self.retry_at = at.and_then(|at| times.text(at)).map(Into::into);
        let away = |at| times.now.until(at).as_millis().div_ceil(1_000);
        self.retry_after = self.retry_at.as_ref().and(at).map(|at| u64::try_from(away(at)).unwrap_or(u64::MAX).max(1));
        self
    }

    /// What the library's error is to a caller.
    #[must_use]
    pub fn of(error: &Error, times: &Times) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound(_) => Self::not_found(detail).next("List the names with `tokenkeep list`."),
            Error::Invalid { field, found, expected } => {
                Self::invalid(format!("{field}: {found}"), format!("Expected {expected}."))
            }
            Error::NoToken { key, status, last_error, retry_at } => {
                let cause = last_error.as_ref().map(|error| error.failure.code);
                Self::new(no_token_status(*status), status.as_str(), detail)
                    .next(next_step_for(next_action(*status, cause), &key.to_string()))
                    .retry(*retry_at, times)
            }
            Error::NotRefreshed { key, status, code, retry_at } => {
                Self::new(not_refreshed_status(*status), status.as_str(), detail)
                    .next(next_step_for(next_action(*status, *code), &key.to_string()))
                    .retry(*retry_at, times)
            }
            Error::SignIn(error) => Self::new(sign_in_status(error), error.code(), detail).next(error.next_step()),
            Error::Declared(key) => Self::new(StatusCode::CONFLICT, "declared", detail).next(format!(
                "Remove the section [connections.{}] from the configuration and reload it (SIGHUP), then remove the connection.",
                key.name()
            )),
            Error::Store(error) => store_problem(error, detail),
            Error::Key(KeyError::NotTakenOver { .. }) => {
                Self::new(StatusCode::CONFLICT, "master_key_not_taken_over", detail)
                    .next("Let the configured source give the current key, restart the daemon, then rotate again.")
            }
            Error::Rotating { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "master_key_rotating", detail)
                .next("Wait for its end with `tokenkeep master-key rotate`, then try again."),
            Error::Key(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "master_key", detail)
                .next("Put the right master key back, then start the daemon again."),
            Error::Journal(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "journal", detail)
                .next("Mend the disk under the state folder, then restart the daemon."),
            Error::Locked(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "locked", detail),
            Error::Folder { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "folder", detail)
                .next("Make the file or folder usable for the daemon's user."),
            Error::ShuttingDown => shutting_down(detail),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail),
        }
    }
}

fn store_problem(error: &StoreError, detail: String) -> Problem {
    match error {
        StoreError::Unusable(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unusable", detail)
            .next("Free space or mend the disk under the state folder; Tokenkeep keeps trying."),
        StoreError::Damaged(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_damaged", detail)
            .next("Keep a copy of the state folder, and restore a backup."),
        StoreError::Newer { .. } => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_newer", detail),
        StoreError::Closed => shutting_down(detail),
    }
}

/// What may be different a moment later, without anybody's doing.
const fn may_pass(code: FailureCode) -> bool {
    matches!(
        code,
        FailureCode::DnsFailed
            | FailureCode::ConnectFailed
            | FailureCode::TlsFailed
            | FailureCode::ConnectionDead
            | FailureCode::ConnectionLost
            | FailureCode::Timeout
            | FailureCode::AnswerTruncated
            | FailureCode::RateLimited
            | FailureCode::Unavailable
            | FailureCode::ServerError
    )
}

fn sign_in_status(error: &SignInError) -> StatusCode {
    match error {
        SignInError::Unknown => StatusCode::NOT_FOUND,
        SignInError::OtherBrowser | SignInError::OtherIssuer => StatusCode::FORBIDDEN,
        SignInError::Malformed => StatusCode::BAD_REQUEST,
        SignInError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
        SignInError::Failed(failure) if may_pass(failure.code) => StatusCode::BAD_GATEWAY,
        _ => StatusCode::CONFLICT,
    }
}

fn shutting_down(detail: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", detail)
        .next("Try again when the daemon has started again.")
}

/// Only a human ends `needs_reauth`; whatever else it is may pass.
fn no_token_status(status: Status) -> StatusCode {
    match status {
        Status::NeedsReauth => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn not_refreshed_status(status: Status) -> StatusCode {
    match status {
        Status::NeedsReauth | Status::Paused | Status::Held | Status::InDoubt => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A cause knows best what to do about it; but a pause is ended in one way only.
fn next_action(status: Status, cause: Option<FailureCode>) -> &'static str {
    match (status, cause) {
        (Status::Paused, _) => "Resume it: `tokenkeep resume NAME`.",
        (_, Some(cause)) => cause.next_step(),
        (Status::NeedsReauth, None) => FailureCode::InvalidGrant.next_step(),
        (Status::Held, None) => "Clear the cause that `tokenkeep status NAME` shows, then `tokenkeep resume NAME`.",
        (Status::InDoubt, None) => {
            "Wait for the probe; `tokenkeep refresh NAME --force` sends at once and may end the grant."
        }
        _ => "Try again later; `tokenkeep status NAME` shows what Tokenkeep waits for.",
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A struct of strings and numbers always serializes.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after.filter(|_| matches!(self.status, 429 | 503)) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::times;
    use super::*;
    use std::time::Duration;
    use tokenkeep_core::Failure;
    use tokenkeep_core::model::ConnectionKey;
    use tokenkeep_core::model::LastError;

    fn key() -> ConnectionKey {
        ConnectionKey::in_default("jira").unwrap()
    }

    fn of(error: &Error) -> Problem {
        Problem::of(error, &times())
    }

    fn no_token(status: Status) -> Problem {
        let retry_at = Some(times().now + Duration::from_millis(1_500));
        of(&Error::NoToken { key: key(), status, last_error: None, retry_at })
    }

    fn not_refreshed(status: Status) -> Problem {
        of(&Error::NotRefreshed { key: key(), status, code: None, retry_at: None })
    }

    #[test]
    fn statuses_are_the_documented_ones() {
        assert_eq!((of(&Error::NotFound(key())).status, &*of(&Error::NotFound(key())).code), (404, "not_found"));
        for status in Status::ALL {
            let problem = no_token(status);
            let expected = if status == Status::NeedsReauth { 409 } else { 503 };
            assert_eq!((problem.status, &*problem.code), (expected, status.as_str()));
        }
        for (status, expected) in [
            (Status::NeedsReauth, 409),
            (Status::Paused, 409),
            (Status::Held, 409),
            (Status::InDoubt, 409),
            (Status::Retrying, 503),
        ] {
            let problem = not_refreshed(status);
            assert_eq!((problem.status, &*problem.code), (expected, status.as_str()));
            assert!(problem.next_action.is_some());
        }
        for (error, expected) in [
            (Error::ShuttingDown, 503),
            (Error::Journal("j".to_owned()), 503),
            (StoreError::Unusable("full".to_owned()).into(), 503),
            (StoreError::Closed.into(), 503),
            (StoreError::Damaged("x".to_owned()).into(), 500),
        ] {
            assert_eq!(of(&error).status, expected, "{error}");
        }
    }

    #[test]
    fn a_cause_says_what_to_do() {
        let failure = Failure::new(FailureCode::LostInFlight, "");
        let last_error = Some(Box::new(LastError { failure, at: times().now }));
        let error = Error::NoToken { key: key(), status: Status::NeedsReauth, last_error, retry_at: None };
        let next = of(&error).next_action.unwrap_or_default();
        assert!(next.contains(&format!("`tokenkeep import {}`", key())), "{next}");
        let error = Error::NotRefreshed {
            key: key(),
            status: Status::Paused,
            code: Some(FailureCode::Timeout),
            retry_at: None,
        };
        assert!(of(&error).next_action.unwrap().contains("tokenkeep resume"));
    }

    #[test]
    fn retry_after_is_rounded_up_and_only_with_429_and_503() {
        let response = no_token(Status::Expired).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let response = no_token(Status::NeedsReauth).into_response();
        assert_eq!(response.headers().get(header::RETRY_AFTER), None);
        let past = Problem::of(
            &Error::NoToken { key: key(), status: Status::Expired, last_error: None, retry_at: Some(Timestamp::EPOCH) },
            &times(),
        );
        assert_eq!(past.retry_after, Some(1));
        let never = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "x", "x").retry(Some(Timestamp::NEVER), &times());
        assert_eq!((never.retry_at, never.retry_after), (None, None));
    }

    #[test]
    fn a_problem_has_the_fields_of_rfc_9457_and_ours() {
        let value = serde_json::to_value(no_token(Status::Expired)).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "type": "about:blank", "title": "Service Unavailable", "status": 503,
                "detail": "`jira` is expired: there is no token yet", "code": "expired",
                "next_action": "Try again later; `tokenkeep status jira` shows what Tokenkeep waits for.",
                "retry_at": "2026-11-23T10:00:01.500Z"
            })
        );
    }
}
