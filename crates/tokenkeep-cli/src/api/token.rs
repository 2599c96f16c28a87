//! `/v1/connections/{name}/token`: the reason for everything else.

use super::Api;
use super::access::Caller;
use super::json::TokenJson;
use super::openapi::Span;
use super::params::Named;
use super::problem::Problem;
use crate::span::SPAN_MAX;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use tokenkeep::{Handed, TokenAsk};

/// The longest time that a request waits for a refresh.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The token: as JSON, or bare for `Accept: text/plain`.
#[utoipa::path(get, path = "/v1/connections/{name}/token", operation_id = "get_token", tag = "connections",
    params(
        Named,
        ("min_ttl" = Option<Span>, Query, description = "How long it is to live at least: `5m`, `300s`, `300`."),
        ("wait" = Option<Span>, Query, description = "How long to wait for a refresh, at most 60 s; 10 s unless given."),
    ),
    security(("api_key" = ["token"])), responses(
    (status = 200, description = "The token; bare for `Accept: text/plain`.",
        content((TokenJson<'_> = "application/json"), (String = "text/plain"))),
    (status = 404, description = "`not_found`: there is no such connection."),
    (status = 409, description = "`needs_reauth`: nothing valid is left, and only a sign-in helps."),
    (status = 503, description = "`expired`, `refreshing`, `retrying`, `in_doubt`, `held`, `paused`, `fresh`: nothing valid is in \
        hand now."),
))]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    mut named: Named,
) -> Result<Response, Problem> {
    let mut ask = TokenAsk { min_ttl: Duration::ZERO, wait: Duration::from_secs(10) };
    ask.min_ttl = named.params.span("min_ttl", SPAN_MAX)?.unwrap_or(ask.min_ttl);
    ask.wait = named.params.span("wait", WAIT_MAX)?.unwrap_or(ask.wait);
    let key = named.only()?;
    let handed = api.keep.token(&key, ask).await.map_err(|error| api.problem(&error))?;
    caller.check_read(&key, &api)?;
    if wants_text(&headers) {
        return Ok(secret("text/plain; charset=utf-8", handed.token.access_token.expose().to_owned()));
    }
    as_json(&api, &handed)
}

fn as_json(api: &Api, handed: &Handed) -> Result<Response, Problem> {
    let body = serde_json::to_string(&TokenJson::new(handed, &api.times()))
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    Ok(secret("application/json", body))
}

/// An answer that nobody on its way may keep.
pub fn secret(content_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

/// True where `Accept` names `text/plain` and not JSON.
fn wants_text(headers: &HeaderMap) -> bool {
    let accepted = || {
        headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|kind| kind.split(';').next().unwrap_or_default().trim())
    };
    let names = |wanted: &str| accepted().any(|kind| kind.eq_ignore_ascii_case(wanted));
    names("text/plain") && !names("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_decides_the_form() {
        for (accept, text) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/json"), false),
            (Some("text/plain"), true),
            (Some("Text/Plain; q=0.9, */*;q=0.1"), true),
            (Some("text/plain, application/json"), false),
            (Some("text/html"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(wants_text(&headers), text, "{accept:?}");
        }
    }

    #[test]
    fn an_answer_with_a_token_is_not_to_be_kept() {
        let response = secret("text/plain", "t".to_owned());
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
}
