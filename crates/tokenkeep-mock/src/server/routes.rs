//! The provider's own endpoints over HTTP. The control interface is beside, in `control`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::{Cut, MockBody};
use super::connection::Connection;
use super::state::{ApiRequest, Begun, State};
use super::{consent, control};
use crate::answer::{Answer, Refusal};
use crate::fault::{Fault, Reply};
use crate::provider::{InFlight, Introspection, Provider, RevocationStyle};
use crate::request::OAuthRequest;

/// The longest request body of the provider's endpoints.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The longest request body of the control interface.
const CONTROL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Answers one request, or cuts its connection.
pub(crate) async fn answer(
    state: Arc<State>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<MockBody>, Cut> {
    let (parts, body) = request.into_parts();
    let controls = parts.uri.path().starts_with("/control/");
    connection.controls.store(controls, Ordering::Relaxed);
    if controls {
        return control_request(&state, &connection, &parts, body).await;
    }
    if state.is_down() {
        return Err(Cut);
    }
    let body = match read(body, REQUEST_BYTES_MAX).await {
        Ok(body) => body,
        Err(too_large) => return Ok(respond(too_large)),
    };
    let path = parts.uri.path();
    match (&parts.method, path) {
        (&Method::POST, "/token") => return token(state, &connection, parts.headers, body).await,
        _ if is_api(path) => return api(&state, &connection, &parts, &body).await,
        _ => {}
    }
    if let Some(answer) = own_revocation(&state, &parts, &body) {
        return Ok(respond(answer));
    }
    Ok(match (&parts.method, path) {
        (&Method::POST, "/introspect") => posted(&state, &parts, &body, Provider::introspection),
        (&Method::POST, "/revoke") => posted(&state, &parts, &body, Provider::revocation),
        (&Method::POST, "/device_authorization") => posted(&state, &parts, &body, |provider, now_ms, request| {
            provider.device_authorization(now_ms, request, &connection.origin)
        }),
        (&Method::GET | &Method::POST, "/authorize") => respond(consent::authorize(&state, &parts, &body)),
        (&Method::GET | &Method::POST, "/device") => respond(consent::device(&state, &parts, &body)),
        (&Method::GET, "/api/whoami") => bearers(&state, &parts, |known| json!(known)),
        (&Method::GET | &Method::POST, "/userinfo") => {
            let fields = state.with_provider(|provider| provider.config().identity);
            bearers(&state, &parts, |known| userinfo(known, fields))
        }
        (&Method::GET, "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration") => {
            metadata(&connection.origin)
        }
        (&Method::GET, "/jwks") => respond(Answer::json(StatusCode::OK, &json!({"keys": []}))),
        (_, "/token" | "/introspect" | "/revoke" | "/device_authorization") => not_allowed("POST"),
        (_, "/authorize" | "/device" | "/userinfo") => not_allowed("GET, POST"),
        (_, "/api/whoami" | "/jwks") => not_allowed("GET"),
        (_, "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration") => not_allowed("GET"),
        _ => not_found(),
    })
}

async fn control_request(
    state: &Arc<State>,
    connection: &Connection,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<MockBody>, Cut> {
    if !connection.is_loopback {
        let status = StatusCode::FORBIDDEN;
        return Ok(respond(Answer::error(status, "forbidden", "Control is for this machine only.")));
    }
    match read(body, CONTROL_BYTES_MAX).await {
        Ok(body) => Ok(control::answer(state, parts, &body)),
        Err(too_large) => Ok(respond(too_large)),
    }
}

async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, Answer> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(Answer::error(status, "invalid_request", "The body is too long or incomplete."))
        }
    }
}

// --- The token endpoint ---

async fn token(
    state: Arc<State>,
    connection: &Connection,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<MockBody>, Cut> {
    let demands = state.with_provider(|provider| provider.config().demands);
    if let Some(refusal) = demands.refusal(&headers, &body) {
        return Ok(respond(refusal));
    }
    let begun = match oauth_request(&headers, &body) {
        Ok(request) => state.begin(&request),
        Err(refusal) => return Ok(respond(refusal.answer())),
    };
    let reply = match begun {
        Begun::Done(reply) => reply,
        Begun::Waits(fault, arrived) => waited(state, fault, arrived, headers, body).await?,
    };
    deliver(reply, connection)
}

/// Puts a reply on the wire.
fn deliver(reply: Reply, connection: &Connection) -> Result<Response<MockBody>, Cut> {
    match reply {
        Reply::Answer(answer) => Ok(respond(answer)),
        Reply::Truncated(answer, sent) => Ok(cut_short(answer, sent, MockBody::cut)),
        Reply::ChunkedCut(answer, sent) => Ok(cut_short(answer, sent, MockBody::chunked_cut)),
        Reply::Dripped(answer, drip) => {
            let body = MockBody::drip(answer.body, drip);
            Ok(response(answer.status, answer.headers, body))
        }
        Reply::Close => Err(Cut),
        Reply::Reset => {
            connection.reset.store(true, Ordering::Relaxed);
            Err(Cut)
        }
    }
}

/// Processes a request in a task of its own, so that a client that goes away does not stop it: servers do not notice,
/// and rotate all the same.
async fn waited(
    state: Arc<State>,
    fault: Fault,
    arrived: InFlight,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Reply, Cut> {
    let task = tokio::spawn(async move {
        wait(&state, fault.wait_before_ms()).await;
        let reply = match oauth_request(&headers, &body) {
            Ok(request) => state.process(&fault, &request),
            Err(refusal) => Reply::Answer(refusal.answer()),
        };
        wait(&state, fault.wait_after_ms()).await;
        state.leave(arrived);
        reply
    });
    // The task fails only where the runtime ends.
    task.await.map_err(|_| Cut)
}

/// Waits, but not longer than the server serves.
async fn wait(state: &State, ms: u64) {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        () = state.drained() => {}
    }
}

fn oauth_request<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<OAuthRequest<'a>, Refusal> {
    if headers.get_all(AUTHORIZATION).iter().count() > 1 {
        return Err(Refusal::InvalidRequest("More than one Authorization header."));
    }
    let request = OAuthRequest::read(text(headers, CONTENT_TYPE)?, text(headers, AUTHORIZATION)?, body)?;
    Ok(request.accepting(text(headers, ACCEPT)?))
}

/// The text of a header; one that is not text must not count as absent.
fn text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Refusal> {
    let text = headers.get(name).map(HeaderValue::to_str).transpose();
    text.map_err(|_| Refusal::InvalidRequest("A header is not text."))
}

// --- The API behind the provider ---

fn is_api(path: &str) -> bool {
    path == "/me"
        || path == "/oauth/token/accessible-resources"
        || path.starts_with("/ex/jira/")
        || path.starts_with("/rest/api/")
}

async fn api(
    state: &Arc<State>,
    connection: &Connection,
    parts: &Parts,
    body: &[u8],
) -> Result<Response<MockBody>, Cut> {
    let token = bearer(&parts.headers).unwrap_or_default();
    let fault = state.begin_api(token);
    wait(state, fault.wait_before_ms()).await;
    let reply = state.api(&fault, &ApiRequest { parts, token, body, origin: &connection.origin });
    wait(state, fault.wait_after_ms()).await;
    deliver(reply, connection)
}

// --- The other endpoints ---

fn posted(
    state: &State,
    parts: &Parts,
    body: &[u8],
    endpoint: impl FnOnce(&mut Provider, i64, &OAuthRequest<'_>) -> Answer,
) -> Response<MockBody> {
    let now_ms = state.now_ms();
    match oauth_request(&parts.headers, body) {
        Ok(request) => respond(state.with_provider(|provider| endpoint(provider, now_ms, &request))),
        Err(refusal) => respond(refusal.answer()),
    }
}

/// The answer of a dialect that ends grants by a call of its own API; `None`: this is not the call.
fn own_revocation(state: &State, parts: &Parts, body: &[u8]) -> Option<Answer> {
    let (now_ms, path) = (state.now_ms(), parts.uri.path());
    let token = bearer(&parts.headers);
    state.with_provider(|provider| {
        let style = provider.config().revocation;
        let client_id = provider.config().clients.first().map(|client| client.id.clone())?;
        if style == RevocationStyle::Standard || path != style.path(&client_id) {
            return None;
        }
        match (style, &parts.method) {
            (RevocationStyle::Slack, &Method::GET | &Method::POST) => Some(provider.revoke_at_slack(now_ms, token)),
            (RevocationStyle::Dropbox, &Method::POST) => Some(provider.revoke_at_dropbox(now_ms, token, body)),
            (RevocationStyle::GitHub, &Method::DELETE) => {
                let request = oauth_request(&parts.headers, body);
                Some(request.map_or_else(Refusal::answer, |request| {
                    provider.revoke_at_github(now_ms, &client_id, &request.credentials, body)
                }))
            }
            _ => Some(Answer::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "")),
        }
    })
}

/// What `tell` says about the bearer's token, or 401.
fn bearers(state: &State, parts: &Parts, tell: impl FnOnce(&Introspection) -> Value) -> Response<MockBody> {
    let now_ms = state.now_ms();
    let token = bearer(&parts.headers).unwrap_or_default();
    let known = state.with_provider(|provider| provider.use_access_token(now_ms, token));
    match known {
        Some(known) => respond(Answer::json(StatusCode::OK, &tell(&known))),
        None => {
            let status = StatusCode::UNAUTHORIZED;
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            let answer = Answer::error(status, "invalid_token", "The access token is not good now.");
            respond(answer.with_header(WWW_AUTHENTICATE, challenge))
        }
    }
}

/// The account, in each of these fields.
fn userinfo(known: &Introspection, fields: &[&str]) -> Value {
    let account = known.username.as_ref().or(known.client_id.as_ref());
    let mut told = json!({});
    for field in fields {
        // Indexing makes the objects on the way: each step is an object or not there yet.
        let place = field.split('.').fold(&mut told, |object, name| &mut object[name]);
        *place = json!(account);
    }
    told
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// RFC 8414, and what OpenID Connect Discovery demands beyond it. No ID tokens are issued, so there are no keys.
fn metadata(origin: &str) -> Response<MockBody> {
    let metadata = json!({
        "issuer": origin,
        "authorization_endpoint": format!("{origin}/authorize"),
        "token_endpoint": format!("{origin}/token"),
        "introspection_endpoint": format!("{origin}/introspect"),
        "revocation_endpoint": format!("{origin}/revoke"),
        "device_authorization_endpoint": format!("{origin}/device_authorization"),
        "userinfo_endpoint": format!("{origin}/userinfo"),
        "jwks_uri": format!("{origin}/jwks"),
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:device_code",
        ],
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["none"],
    });
    respond(Answer::json(StatusCode::OK, &metadata))
}

// --- Responses ---

pub(crate) fn not_found() -> Response<MockBody> {
    respond(Answer::error(StatusCode::NOT_FOUND, "not_found", "There is nothing here."))
}

pub(crate) fn not_allowed(method: &'static str) -> Response<MockBody> {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let answer = Answer::error(status, "method_not_allowed", "This method is not served here.");
    respond(answer.with_header(http::header::ALLOW, HeaderValue::from_static(method)))
}

pub(crate) fn respond(answer: Answer) -> Response<MockBody> {
    let body = MockBody::whole(answer.body);
    response(answer.status, answer.headers, body)
}

fn cut_short(answer: Answer, sent: usize, cut: fn(Bytes, usize) -> MockBody) -> Response<MockBody> {
    response(answer.status, answer.headers, cut(answer.body, sent))
}

pub(crate) fn response(status: StatusCode, headers: HeaderMap, body: MockBody) -> Response<MockBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
