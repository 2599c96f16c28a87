//! `/v1/connections/{name}/proxy/{path}`: calls to the provider's API for callers who never hold its token.
//!
//! Path and query go on as they were written; only `namespace` in the query is ours, here as everywhere. The header
//! `Tokenkeep-Target: https://HOST` chooses among the provider's API hosts; without it the first is meant. An answer of
//! the provider has `Tokenkeep-Answered-By`; one without it is our own problem. Where the provider redirects, nothing
//! is followed: `Tokenkeep-Location` says where to, and no `Location` does.

use super::Api;
use super::params::{self, Named, Params};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use std::collections::HashMap;
use tokenkeep::proxy::{CallerBody, ForwardError, Outgoing};
use tokenkeep_core::ConnectionKey;
use tokenkeep_core::FailureCode;
use tokenkeep_core::model::printable;
use url::form_urlencoded;

/// The header that names the API host.
const TARGET: &str = "tokenkeep-target";
/// When a call may be tried again that found all places taken.
const BUSY_RETRY_SECONDS: u64 = 1;

/// Forwards one call to the top of the provider's API.
#[utoipa::path(method(get, post, put, patch, delete, options), path = "/v1/connections/{name}/proxy/",
    operation_id = "proxy_top", tag = "proxy",
    params(Named, ("Tokenkeep-Target" = Option<String>, Header, description = "`https://HOST`: another of the API hosts.")),
    security(("api_key" = ["token"])), responses(
    (status = "default", description = "Whatever the provider answers, with `Tokenkeep-Answered-By`; without it, a problem."),
))]
pub async fn forward_root(
    state: State<Api>,
    parts: Path<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    forward(state, parts, request).await
}

/// Forwards one call to the provider's API, with the token added.
#[utoipa::path(method(get, post, put, patch, delete, options), path = "/v1/connections/{name}/proxy/{*path}",
    operation_id = "proxy", tag = "proxy",
    params(
        Named,
        ("path" = String, Path, description = "The path at the provider, as it is written."),
        ("Tokenkeep-Target" = Option<String>, Header, description = "`https://HOST`: another of the API hosts."),
    ),
    security(("api_key" = ["token"])), responses(
    (status = "default", description = "Whatever the provider answers, with `Tokenkeep-Answered-By`; without it, a problem."),
))]
pub async fn forward(
    State(api): State<Api>,
    Path(parts): Path<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let name = parts.get("name").map(String::as_str).unwrap_or_default();
    let (key, query) = of_query(name, head.uri.query())?;
    let outgoing = Outgoing {
        method: head.method,
        path: path_at_provider(head.uri.path()).to_owned(),
        query,
        target: target(&head.headers)?,
        headers: head.headers,
        body: CallerBody::new(body.map_err(Into::into)),
    };
    let answer = api.keep.forward(&key, outgoing).await.map_err(|error| problem(&api, &error))?;
    Ok(answer.map(Body::new))
}

/// What follows `proxy` in `/v1/connections/NAME/proxy/PATH`, as it was written.
fn path_at_provider(path: &str) -> &str {
    // The route has matched: five slashes are there.
    path.match_indices('/').nth(4).map_or("/", |(at, _)| &path[at..])
}

/// The connection, and the query without what is ours.
fn of_query(name: &str, query: Option<&str>) -> Result<(ConnectionKey, Option<String>), Problem> {
    let namespace = Params::new(query).namespace()?;
    let key = params::key(namespace.as_deref(), name)?;
    let is_ours = |pair: &str| form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name == "namespace");
    let theirs = |query: &str| query.split('&').filter(|pair| !is_ours(pair)).collect::<Vec<_>>().join("&");
    let theirs = match (query, namespace) {
        (Some(query), Some(_)) => Some(theirs(query)).filter(|query| !query.is_empty()),
        (query, _) => query.map(str::to_owned),
    };
    Ok((key, theirs))
}

fn target(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut named = headers.get_all(TARGET).iter();
    let (first, second) = (named.next(), named.next());
    let text = first.map(|value| value.to_str().map(str::to_owned)).transpose();
    match (text, second) {
        (Ok(text), None) => Ok(text),
        (_, Some(_)) => Err(Problem::invalid("the header Tokenkeep-Target is given twice", "Give it once.")),
        (Err(_), _) => Err(Problem::invalid(
            "the header Tokenkeep-Target is not plain text",
            "Expected https://HOST, one of the provider's API hosts.",
        )),
    }
}

/// What a call that was not made, or has no answer, is to a caller.
pub fn problem(api: &Api, error: &ForwardError) -> Problem {
    let detail = printable(&error.to_string(), 500);
    match error {
        ForwardError::Keep(error) => api.problem(error),
        ForwardError::Invalid { expected, .. } => Problem::invalid(detail, expected.as_str()),
        ForwardError::NoApiHosts { provider } => Problem::new(StatusCode::CONFLICT, "no_api_hosts", detail)
            .next(format!("Add api_hosts = [\"api.example.com\"] to [providers.{provider}] and reload (SIGHUP).")),
        ForwardError::Forbidden { allowed, provider, .. } => {
            Problem::new(StatusCode::FORBIDDEN, "target_forbidden", detail).next(format!(
                "Name one of {allowed}, plainly written; others must be added to api_hosts of [providers.{provider}]."
            ))
        }
        ForwardError::Method(_) => Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_forwarded", detail)
            .next("Use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS."),
        ForwardError::Upgrade => Problem::new(StatusCode::BAD_REQUEST, "upgrade_not_forwarded", detail)
            .next("Leave out the header Upgrade (with curl: --http1.1); for a WebSocket, ask for the token itself."),
        ForwardError::Busy(_) => Problem {
            retry_after: Some(BUSY_RETRY_SECONDS),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                .next("Try again when some of them have ended.")
        },
        ForwardError::Body(_) => Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", detail)
            .next("Send the whole body, without long pauses. Nothing was sent to the provider."),
        ForwardError::Unsent { failure, .. } => no_answer(failure.code, detail)
            .next("Nothing was sent to the provider: check its host and status page, and try again."),
        ForwardError::Unanswered { failure, .. } => no_answer(failure.code, detail)
            .next("The provider may have done what was asked: look there before it is sent again."),
        _ => Problem::new(StatusCode::BAD_GATEWAY, "bad_gateway", detail),
    }
}

fn no_answer(code: FailureCode, detail: String) -> Problem {
    let status = if code == FailureCode::Timeout { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
    Problem::new(status, code.as_str(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_goes_on_as_it_was_written() {
        for (path, sent) in [
            ("/v1/connections/jira/proxy/", "/"),
            ("/v1/connections/jira/proxy/me", "/me"),
            ("/v1/connections/a%2Fb/proxy/x%2Fy/../z", "/x%2Fy/../z"),
            ("/v1/connections/jira/proxy//evil.test", "//evil.test"),
        ] {
            assert_eq!(path_at_provider(path), sent);
        }
    }

    #[test]
    fn only_the_namespace_of_a_query_is_ours() {
        for (query, key, theirs) in [
            (None, "jira", None),
            (Some("a=1&b=%20&c"), "jira", Some("a=1&b=%20&c")),
            (Some(""), "jira", Some("")),
            (Some("namespace=team"), "team/jira", None),
            (Some("a=%2F+&name%73pace=team&b=1"), "team/jira", Some("a=%2F+&b=1")),
        ] {
            let (found, rest) = of_query("jira", query).unwrap();
            assert_eq!((found.to_string().as_str(), rest.as_deref()), (key, theirs), "{query:?}");
        }
        for wrong in ["namespace=a&namespace=b", "namespace=%2F", "namespace="] {
            assert_eq!(of_query("jira", Some(wrong)).unwrap_err().status, 400, "{wrong}");
        }
    }
}
