//! Who asks, and what each route needs: the authorization table as data, and the one place that enforces it.
//!
//! Three kinds of callers are known: whoever reaches the socket (this user or root), an API key, and a browser with a
//! session. What a caller's rights do not reach is answered as if it did not exist, in the same bytes.

use super::Api;
use super::guard;
use super::json::wall_text;
use super::params::{Params, key};
use super::problem::Problem;
use super::session::Session;
use crate::server::{Peer, Place};
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use tokenkeep::Error;
use tokenkeep::access::{Asking, KEY_PREFIX, LiveKey, REQUESTS_AT_ONCE, Rights, Scope, TooMany};
use tokenkeep::audit::{ANONYMOUS, NewRecord};
use tokenkeep::metrics::SPANS;
use tokenkeep_core::model::{DEFAULT_NAMESPACE, printable};
use tokenkeep_core::{ConnectionKey, Timestamp};
use tracing::Instrument as _;
use tracing::field::Empty;

/// What a route needs of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Nothing: it holds no secret and changes nothing, or has a proof of its own.
    Nothing,
    /// Somebody who is known, whatever the rights.
    Known,
    /// This scope, and rights that reach the connection of the path, else something in the namespace of the query.
    Scope(Scope),
    /// This scope, and rights that reach everything.
    Everything(Scope),
    /// This scope; the handler leaves out what the caller's rights do not reach.
    Filtered(Scope),
    /// The socket.
    Socket,
}

/// One route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The method; `*`: any.
    pub method: &'static str,
    /// The path as the router has it.
    pub path: &'static str,
    /// What it needs.
    pub need: Need,
}

const fn rule(method: &'static str, path: &'static str, need: Need) -> Rule {
    Rule { method, path, need }
}

const STATUS: Need = Need::Scope(Scope::Status);
const TOKEN: Need = Need::Scope(Scope::Token);
const MANAGE: Need = Need::Scope(Scope::Manage);
const WEBHOOKS: Need = Need::Everything(Scope::Manage);
const ADMIN: Need = Need::Everything(Scope::Admin);

/// Every route of the API. One that is not here is refused to everybody.
pub const RULES: &[Rule] = &[
    rule("GET", "/livez", Need::Nothing),
    rule("GET", "/readyz", Need::Nothing),
    rule("GET", "/v1/openapi.json", Need::Known),
    // It may name connections of every namespace.
    rule("GET", "/metrics", Need::Everything(Scope::Status)),
    rule("GET", "/v1/fleet/latency", Need::Everything(Scope::Status)),
    rule("GET", "/v1/summary", STATUS),
    rule("GET", "/v1/config", ADMIN),
    rule("GET", "/v1/providers", Need::Known),
    rule("GET", "/v1/providers/{name}", Need::Known),
    rule("GET", "/v1/fleet/histogram", STATUS),
    rule("GET", "/v1/fleet/calendar", STATUS),
    // The handler knows what the action needs, and whose the job is.
    rule("POST", "/v1/bulk", Need::Known),
    rule("GET", "/v1/bulk/{id}", Need::Known),
    rule("GET", "/v1/connections", STATUS),
    rule("POST", "/v1/connections", MANAGE),
    rule("GET", "/v1/connections/{name}", STATUS),
    rule("DELETE", "/v1/connections/{name}", MANAGE),
    rule("GET", "/v1/connections/{name}/token", TOKEN),
    rule("GET", "/v1/connections/{name}/jira/projects", TOKEN),
    rule("GET", "/v1/connections/{name}/jira/issues", TOKEN),
    rule("*", "/v1/connections/{name}/proxy/", TOKEN),
    rule("*", "/v1/connections/{name}/proxy/{*path}", TOKEN),
    rule("PATCH", "/v1/connections/{name}", MANAGE),
    rule("GET", "/v1/connections/{name}/timeline", STATUS),
    rule("POST", "/v1/connections/{name}/refresh", Need::Scope(Scope::Refresh)),
    rule("POST", "/v1/connections/{name}/pause", MANAGE),
    rule("POST", "/v1/connections/{name}/resume", MANAGE),
    rule("POST", "/v1/connections/{name}/introspect", Need::Scope(Scope::Refresh)),
    rule("POST", "/v1/connections/{name}/export", Need::Socket),
    rule("POST", "/v1/resume-sole-copy", ADMIN),
    rule("GET", "/v1/events", Need::Filtered(Scope::Status)),
    rule("GET", "/v1/events/stream", Need::Filtered(Scope::Status)),
    rule("POST", "/v1/connect", MANAGE),
    rule("POST", "/v1/connect/links", MANAGE),
    // Whose sign-in it is, only its handler knows.
    rule("POST", "/v1/connect/finish", Need::Filtered(Scope::Manage)),
    rule("GET", "/v1/connect/{id}", Need::Filtered(Scope::Manage)),
    rule("GET", "/v1/admin/master-key", ADMIN),
    rule("POST", "/v1/admin/master-key/rotate", Need::Socket),
    rule("POST", "/v1/admin/backup", Need::Socket),
    // What they reach is covered by the caller's own rights.
    rule("GET", "/v1/api-keys", Need::Filtered(Scope::Admin)),
    rule("POST", "/v1/api-keys", Need::Filtered(Scope::Admin)),
    rule("GET", "/v1/api-keys/{id}", Need::Filtered(Scope::Admin)),
    rule("DELETE", "/v1/api-keys/{id}", Need::Filtered(Scope::Admin)),
    // A webhook may hear of everything, and its address may be a secret.
    rule("GET", "/v1/webhooks", WEBHOOKS),
    rule("POST", "/v1/webhooks", WEBHOOKS),
    rule("GET", "/v1/webhooks/{id}", WEBHOOKS),
    rule("PATCH", "/v1/webhooks/{id}", WEBHOOKS),
    rule("DELETE", "/v1/webhooks/{id}", WEBHOOKS),
    rule("POST", "/v1/webhooks/{id}/rotate-secret", WEBHOOKS),
    rule("POST", "/v1/webhooks/{id}/test", WEBHOOKS),
    rule("GET", "/v1/webhooks/{id}/deliveries", WEBHOOKS),
    rule("POST", "/v1/webhooks/{id}/deliveries/{delivery}/redeliver", WEBHOOKS),
    rule("GET", "/v1/audit", ADMIN),
    rule("POST", "/v1/audit/verify", ADMIN),
    rule("GET", "/v1/session", Need::Known),
    // Its own proof: an API key or a setup code.
    rule("POST", "/v1/session", Need::Nothing),
    rule("DELETE", "/v1/session", Need::Known),
    rule("POST", "/v1/session/setup", Need::Socket),
];

/// What this route needs; `None`: it is in no rule.
#[must_use]
pub fn need(method: &Method, path: &str) -> Option<Need> {
    // What answers GET answers HEAD.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    BY_ROUTE.get(&(path, method.as_str())).or_else(|| BY_ROUTE.get(&(path, "*"))).copied()
}

/// [`RULES`] by path and method: every request asks.
static BY_ROUTE: LazyLock<HashMap<(&str, &str), Need>> =
    LazyLock::new(|| RULES.iter().map(|rule| ((rule.path, rule.method), rule.need)).collect());

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A process of this user, or of root, on the socket.
    User(u32),
    /// The holder of an API key.
    Key(Arc<LiveKey>),
    /// A browser that signed in.
    Session(Arc<Session>),
    /// Nobody knows.
    Nobody,
}

static ALL: LazyLock<Rights> = LazyLock::new(Rights::all);

impl Caller {
    /// What it may do; `None`: nothing.
    #[must_use]
    pub fn rights(&self) -> Option<&Rights> {
        match self {
            Self::User(_) => Some(&ALL),
            Self::Key(key) => Some(&key.key.rights),
            Self::Session(session) => Some(session.rights()),
            Self::Nobody => None,
        }
    }

    /// Its key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&Arc<LiveKey>> {
        match self {
            Self::Key(key) => Some(key),
            Self::Session(session) => session.key(),
            Self::User(_) | Self::Nobody => None,
        }
    }

    /// Whether its rights reach this connection.
    #[must_use]
    pub fn sees(&self, key: &ConnectionKey) -> bool {
        self.rights().is_some_and(|rights| rights.reach(key))
    }

    /// Whether its rights reach everything.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.rights().is_some_and(Rights::reach_all)
    }

    /// Whether it may hear of what concerns this connection, or with `None` everybody.
    #[must_use]
    pub fn hears(&self, whose: Option<&ConnectionKey>) -> bool {
        whose.map_or_else(|| self.sees_all(), |key| self.sees(key))
    }

    /// Refuses what needs a scope that it lacks.
    ///
    /// # Errors
    /// It lacks it.
    pub fn check_scope(&self, scope: Scope) -> Result<(), Problem> {
        if self.rights().is_some_and(|rights| rights.has(scope)) { Ok(()) } else { Err(lacks(scope)) }
    }

    /// Refuses counts of this namespace, or with `None` of everything, where they hold what its rights do not reach: counts
    /// cannot leave it out.
    ///
    /// # Errors
    /// They do.
    pub fn check_counted(&self, namespace: Option<&str>) -> Result<(), Problem> {
        let counted = self.rights().is_some_and(|rights| match namespace {
            Some(namespace) => rights.names.is_empty() && rights.reach_namespace(namespace),
            None => rights.reach_all(),
        });
        if counted {
            return Ok(());
        }
        Err(forbidden("this counts connections that the key is not for")
            .next("Name one of its namespaces with ?namespace=; a key for some names can list them."))
    }

    /// Whether it still is who it was: its key was not revoked, its session has not ended.
    #[must_use]
    pub fn stands(&self, api: &Api) -> bool {
        let now = api.wall();
        match self {
            Self::User(_) | Self::Nobody => true,
            Self::Key(key) => api.keep.keys().is_some_and(|keys| keys.has(key, now)),
            Self::Session(session) => api.sessions.has(session, &api.keep, now),
        }
    }

    /// Refuses what goes on for long to a caller whose key or session has ended meanwhile.
    ///
    /// # Errors
    /// It has.
    pub fn check_stands(&self, api: &Api) -> Result<(), Problem> {
        if self.stands(api) { Ok(()) } else { Err(unauthenticated("unauthenticated", "the key or session has ended")) }
    }

    /// Refuses one more connection's token to a key that has read too many within the hour.
    ///
    /// # Errors
    /// It has, or it has ended.
    pub fn check_read(&self, key: &ConnectionKey, api: &Api) -> Result<(), Problem> {
        self.check_stands(api)?;
        let Some(own) = self.key() else { return Ok(()) };
        let now = api.wall();
        own.may_read(key, now).map_err(|TooMany { per_hour, until }| {
            let detail = format!("this key may read the tokens of {per_hour} connections within an hour");
            let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", detail)
                .next("Wait for the next hour, or make a key with a higher `connections_per_hour`.");
            problem.retry_after = Some(now.until(until).as_secs().max(1));
            problem.retry_at = wall_text(until).map(Into::into);
            problem
        })
    }

    /// Its request counts until what is given is dropped; so no key fills the places of all.
    ///
    /// # Errors
    /// So many of its key's are not answered yet that no other is taken.
    fn ask(&self) -> Result<Option<Asking>, Problem> {
        let Some(key) = self.key() else { return Ok(None) };
        key.ask().map(Some).ok_or_else(|| {
            let detail = format!("{REQUESTS_AT_ONCE} requests of this key are not answered yet");
            let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
                .next("Wait for some of them; a key for each program keeps one from hindering another.");
            problem.retry_after = Some(1);
            problem
        })
    }

    /// Refuses what its rights do not reach, where something is to be made: there is nothing yet to be hidden.
    ///
    /// # Errors
    /// They do not reach this name.
    pub fn check_new(&self, key: &ConnectionKey) -> Result<(), Problem> {
        if self.sees(key) {
            return Ok(());
        }
        Err(forbidden(format!("this key is not for the connection `{key}`"))
            .next("Use a name that the key's namespaces and names fit, or another key."))
    }

    /// As the audit trail writes it.
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::User(uid) => format!("uid:{uid}"),
            Self::Key(key) => format!("key:{}", key.key.id),
            Self::Session(session) => format!("session:{}", session.shown_id()),
            Self::Nobody => ANONYMOUS.to_owned(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self::Nobody))
    }
}

/// What somebody may not do, or not to this.
pub fn forbidden(detail: impl Into<Box<str>>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

fn unauthenticated(code: &str, detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, detail).next(
        "Send `Authorization: Bearer tk_...`; `tokenkeep api-key create` makes a key on the daemon's machine, where the \
         socket in the state folder needs none.",
    )
}

fn lacks(scope: Scope) -> Problem {
    forbidden(format!("this needs the scope `{}`", scope.as_str()))
        .next("Use a key that has it; `tokenkeep api-key create --scope` makes one.")
}

/// How the routes begin that are about one connection.
const OF_A_CONNECTION: &str = "/v1/connections/{name}";

/// Finds out who asks, lets nobody ask for more than they may, and writes into the audit trail what was done.
pub async fn enforce(State(api): State<Api>, path: MatchedPath, request: Request, next: Next) -> Response {
    let span = tracing::debug_span!(
        target: SPANS, "request", otel.name = %format_args!("{} {}", request.method(), path.as_str()), otel.kind = "server",
        http.request.method = %request.method(), http.route = path.as_str(), http.response.status_code = Empty
    );
    #[cfg(feature = "otel")]
    crate::traces::follow(&span, request.headers());
    let response = admit(api, path, request, next).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

async fn admit(api: Api, path: MatchedPath, mut request: Request, next: Next) -> Response {
    let now = api.wall();
    let caller = match identify(&api, &request, now) {
        Ok(caller) => caller,
        Err(problem) => {
            count(&api, &Caller::Nobody, "request.refused", None);
            return answer(*problem);
        }
    };
    let asking = match caller.ask() {
        Ok(asking) => asking,
        Err(problem) => {
            count(&api, &caller, "request.refused", None);
            return answer(problem);
        }
    };
    // The handler says what is wrong with a name.
    let named = match path.as_str().starts_with(OF_A_CONNECTION) {
        true => target(&mut request).await.unwrap_or_default(),
        false => None,
    };
    if let Err(problem) = check(&api, &caller, path.as_str(), &request, named.as_ref()) {
        count(&api, &caller, "request.refused", None);
        return answer(problem);
    }
    let action = Action { caller: caller.clone(), method: request.method().clone(), path, target: named };
    request.extensions_mut().insert(caller);
    if action.only_reads() {
        let response = next.run(request).await;
        action.count(&api, &response);
        return response;
    }
    change(api, now, action, request, next, asking).await
}

/// As [`enforce`] for the page that a provider sends a browser to: what it connects is noted.
pub async fn note_page(State(api): State<Api>, path: MatchedPath, request: Request, next: Next) -> Response {
    if path.as_str() != super::oauth::CALLBACK {
        return next.run(request).await;
    }
    let (now, method) = (api.wall(), request.method().clone());
    let action = Action { caller: Caller::Nobody, method, path, target: None };
    change(api, now, action, request, next, None).await
}

/// Counts what [`guard`] refused: nobody has asked who sent it.
pub async fn count_refused(State(api): State<Api>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.extensions().get::<guard::Refused>().is_some() {
        count(&api, &Caller::Nobody, "request.refused", None);
    }
    response
}

/// Makes a change and notes it, also when the client goes away meanwhile: what is begun is ended.
async fn change(
    api: Api,
    now: Timestamp,
    action: Action,
    request: Request,
    next: Next,
    asking: Option<Asking>,
) -> Response {
    // Its place stays taken until the change is made, so that there are only so many of them.
    let place = request.extensions().get::<Arc<Place>>().cloned();
    let work = async move {
        let response = next.run(request).await;
        let response = action.note(&api, now, response).await;
        drop((place, asking));
        response
    };
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request could not be answered");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request could not be answered").into_response()
    })
}

fn answer(problem: Problem) -> Response {
    let unauthenticated = problem.status == StatusCode::UNAUTHORIZED.as_u16();
    let mut response = problem.into_response();
    if unauthenticated {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}

/// What somebody asked for, until it is known what came of it.
struct Action {
    caller: Caller,
    method: Method,
    path: MatchedPath,
    target: Option<ConnectionKey>,
}

impl Action {
    fn only_reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    /// What only reads is counted.
    fn count(&self, api: &Api, response: &Response) {
        let action = match (response.status(), self.path.as_str()) {
            (StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => {
                return count(api, &self.caller, "request.refused", None);
            }
            (status, _) if !status.is_success() => return,
            (_, path) if path.ends_with("/token") => "token.read",
            (_, path) if path.contains("/proxy/") || path.contains("/jira/") => "api.called",
            _ if self.caller.key().is_some() => "status.read",
            _ => return,
        };
        count(api, &self.caller, action, self.target.as_ref());
    }

    /// Changes are durable in the trail before the answer leaves.
    async fn note(self, api: &Api, now: Timestamp, response: Response) -> Response {
        let Some(audit) = api.keep.audit() else { return response };
        let failed = response.status().is_client_error() || response.status().is_server_error();
        if failed && matches!(self.caller, Caller::Nobody) {
            // A record each would let anybody push the others out of the trail.
            count(api, &self.caller, "request.refused", None);
            return response;
        }
        let mut action = self.method.to_string();
        // Writing to a String cannot fail.
        let _ = write!(action, " {}", self.path.as_str());
        let target = self.target.as_ref().map(ToString::to_string).or_else(|| noted(&response));
        let outcome = u64::from(response.status().as_u16());
        let record = NewRecord { at: now, actor: self.caller.actor(), action, target, outcome };
        match audit.write(record).await {
            Ok(()) => response,
            // The caller may have what was done, but must not take it for done and noted.
            Err(error) => unwritable(&error).into_response(),
        }
    }
}

/// The answer where something was done and could not be noted.
pub fn unwritable(error: &Error) -> Problem {
    tracing::error!(%error, "the audit trail cannot be written");
    let detail = "what was done could not be noted in the audit trail";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unwritable", detail)
        .next("Look at what came of it, and free space or mend the disk under the state folder.")
}

/// What a handler says its request was about, where the path does not.
#[derive(Clone, Debug)]
pub struct About(pub String);

impl About {
    /// This connection.
    pub fn connection(key: &ConnectionKey) -> axum::Extension<Self> {
        axum::Extension(Self(key.to_string()))
    }
}

fn noted(response: &Response) -> Option<String> {
    response.extensions().get::<About>().map(|about| about.0.clone())
}

fn count(api: &Api, caller: &Caller, action: &'static str, target: Option<&ConnectionKey>) {
    if let Some(audit) = api.keep.audit() {
        audit.count(&caller.actor(), action, target);
    }
}

/// Who asks. A key stands above everything else, also on the socket, where it may only take rights away.
fn identify(api: &Api, request: &Request, now: Timestamp) -> Result<Caller, Box<Problem>> {
    let peer = request.extensions().get::<Peer>().copied();
    let shown = match (peer, bearer(request.headers())) {
        // Whoever reaches the socket needs no key: other credentials are for somebody else.
        (Some(Peer::User(_)), shown) => shown.ok().flatten().filter(|text| text.starts_with(KEY_PREFIX)),
        (_, shown) => shown?,
    };
    if let Some(text) = shown {
        let found = api.keep.keys().and_then(|keys| keys.find(text, now));
        return match found {
            Some(key) => Ok(Caller::Key(key)),
            None => Err(Box::new(unknown_key(api, text))),
        };
    }
    match peer {
        Some(Peer::User(uid)) => Ok(Caller::User(uid)),
        _ => match api.sessions.of(request.headers(), &api.sign_ins, &api.keep, now) {
            Some(session) => {
                guard::same_origin(request.method(), request.headers(), &api.sign_ins).map_err(Box::new)?;
                Ok(Caller::Session(session))
            }
            None => Ok(Caller::Nobody),
        },
    }
}

/// The answer to a wrong key.
pub fn unknown_key(api: &Api, text: &str) -> Problem {
    if let Some(problem) = too_many(api) {
        return problem;
    }
    if text.starts_with(KEY_PREFIX) {
        return unauthenticated("unknown_key", "this API key is unknown, revoked or expired, or mistyped");
    }
    unauthenticated("unknown_key", "the Authorization header has no API key of this daemon")
}

/// The answer to a wrong setup code.
pub fn unknown_code(api: &Api) -> Problem {
    too_many(api).unwrap_or_else(|| {
        Problem::new(StatusCode::UNAUTHORIZED, "unknown_code", "this setup code is unknown, used or expired")
            .next("Make another with `tokenkeep api-key setup` on the daemon's machine.")
    })
}

fn too_many(api: &Api) -> Option<Problem> {
    let wait = api.failures.one_more()?;
    let mut problem =
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_wrong_keys", "too many wrong keys were tried")
            .next("Wait, then send the right key; right keys are served all the while.");
    problem.retry_after = Some(wait.as_secs().max(1));
    Some(problem)
}

/// The text after `Bearer`; `None` where there is no such header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Box<Problem>> {
    let mut found = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = found.next() else { return Ok(None) };
    let wrong = || Box::new(unauthenticated("unauthenticated", "the Authorization header is not `Bearer KEY`, once"));
    if found.next().is_some() {
        return Err(wrong());
    }
    let (scheme, key) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(wrong());
    }
    Ok(Some(key.trim()))
}

/// The connection that the path and `?namespace=` name.
async fn target(request: &mut Request) -> Result<Option<ConnectionKey>, Problem> {
    let (mut parts, body) = std::mem::take(request).into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let name = params
        .ok()
        .and_then(|params| params.iter().find(|(param, _)| *param == "name").map(|(_, value)| value.to_owned()));
    let namespace = namespace(parts.uri.query());
    *request = Request::from_parts(parts, body);
    name.map(|name| key(namespace?.as_deref(), &name)).transpose()
}

fn namespace(query: Option<&str>) -> Result<Option<String>, Problem> {
    Params::new(query).namespace()
}

fn check(
    api: &Api,
    caller: &Caller,
    path: &str,
    request: &Request,
    named: Option<&ConnectionKey>,
) -> Result<(), Problem> {
    let Some(need) = need(request.method(), path) else {
        tracing::error!(path, method = %request.method(), "a route is in no rule of the authorization table");
        return Err(forbidden("nobody may ask for this"));
    };
    if need == Need::Nothing {
        return Ok(());
    }
    let Some(rights) = caller.rights() else {
        return Err(unauthenticated("unauthenticated", "nobody is known to ask"));
    };
    match need {
        Need::Socket if !matches!(caller, Caller::User(_)) => {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "socket_only",
                "this is served on the socket alone, to this user",
            )
            .next("Run the command on the daemon's machine, as its user and without --url."));
        }
        Need::Scope(scope) | Need::Filtered(scope) | Need::Everything(scope) if !rights.has(scope) => {
            return Err(lacks(scope));
        }
        Need::Everything(_) if !rights.reach_all() => {
            return Err(forbidden("this concerns every connection, and the key only some")
                .next("Use a key that is limited to no namespaces and names."));
        }
        _ => {}
    }
    match named {
        Some(key) if !rights.reach(key) => Err(api.problem(&Error::NotFound(key.clone()))),
        Some(_) => Ok(()),
        None if matches!(need, Need::Scope(_)) => check_namespace(rights, request.uri().query()),
        None => Ok(()),
    }
}

/// Lists and counts are of one namespace, the default one unless said otherwise.
fn check_namespace(rights: &Rights, query: Option<&str>) -> Result<(), Problem> {
    // The handler says what is wrong with it.
    let Ok(namespace) = namespace(query) else { return Ok(()) };
    let namespace = namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    if rights.reach_namespace(namespace) {
        return Ok(());
    }
    Err(forbidden(format!("this key is not for the namespace `{}`", printable(namespace, 60)))
        .next("Name one of its namespaces with ?namespace=, or use another key."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::keys::KeyBody;
    use crate::api::oauth::SignIns;
    use crate::api::stream::Streams;
    use axum::Router;
    use axum::body::Body;
    use axum::middleware;
    use axum::routing::post;
    use std::time::Duration;
    use tokenkeep::access::NewKey;
    use tokenkeep::audit::AuditQuery;
    use tokenkeep::{Config, TokenKeep};
    use tokio::sync::{Notify, watch};
    use tower::ServiceExt as _;

    async fn api() -> (Api, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let keep = TokenKeep::open(Config::new(folder.path())).await.unwrap();
        let (_, stopped) = watch::channel(false);
        (Api::new(keep, Streams::new(stopped), Arc::default(), SignIns::default()), folder)
    }

    #[tokio::test]
    async fn a_change_is_noted_also_when_nobody_waits_for_its_answer() {
        let (api, _folder) = api().await;
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go_on));
        let work = move || async move {
            tell.notify_one();
            wait.notified().await;
            "done"
        };
        let router = Router::new()
            .route("/v1/audit/verify", post(work))
            .route_layer(middleware::from_fn_with_state(api.clone(), enforce));
        let mut request = Request::post("/v1/audit/verify").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer::User(7));
        let asker = tokio::spawn(router.oneshot(request));
        begun.notified().await;
        asker.abort();
        assert!(asker.await.is_err());
        go_on.notify_one();
        let noted = async {
            loop {
                let found = api.keep.audit().unwrap().read(AuditQuery { after: 0, limit: 10 }).await.unwrap();
                if let Some(record) = found.first() {
                    return record.record.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        let record = tokio::time::timeout(Duration::from_secs(10), noted).await.expect("it is noted");
        assert_eq!((&*record.actor, &*record.action, record.outcome), ("uid:7", "POST /v1/audit/verify", 200));
        api.keep.shutdown().await;
    }

    #[tokio::test]
    async fn a_key_of_other_namespaces_asks_what_is_of_none() {
        let (api, _folder) = api().await;
        let app = crate::api::whole(api.clone());
        let ask = async |method: &str, path: &str, key: Option<&str>, body: String| {
            let mut request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
            request.extensions_mut().insert(Peer::User(7));
            if let Some(key) = key {
                request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
            }
            let response = app.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            (status, serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default())
        };
        let wish = KeyBody {
            name: "team".to_owned(),
            scopes: vec!["admin".to_owned()],
            namespaces: vec!["team".to_owned()],
            names: Vec::new(),
            connections_per_hour: None,
            expires_in: None,
            expires_at: None,
        };
        let made = ask("POST", "/v1/api-keys", None, serde_json::to_string(&wish).unwrap()).await.1;
        let key = made["key"].as_str();
        for path in
            ["/v1/session", "/v1/openapi.json", "/v1/providers", "/v1/api-keys", "/v1/connections?namespace=team"]
        {
            assert_eq!(ask("GET", path, key, String::new()).await.0, 200, "{path}");
        }
        assert_eq!(ask("GET", "/v1/connect/none", key, String::new()).await.0, 404);
        assert_eq!(ask("GET", "/v1/connections", key, String::new()).await.0, 403, "it is not for `default`");
        api.keep.shutdown().await;
    }

    #[tokio::test]
    async fn one_key_fills_not_all_places() {
        let (api, _folder) = api().await;
        let new = NewKey {
            name: "busy".to_owned(),
            rights: Rights::all(),
            connections_per_hour: 1,
            expires_at: None,
            created_by: "t".to_owned(),
        };
        let keys = api.keep.keys().unwrap();
        let (key, secret) = keys.create(new, api.wall()).await.unwrap();
        let live = keys.get(&key.id).unwrap();
        let app = crate::api::whole(api.clone());
        let ask = async || {
            let request =
                Request::get("/v1/providers").header(header::AUTHORIZATION, format!("Bearer {}", secret.expose()));
            let mut request = request.body(Body::empty()).unwrap();
            request.extensions_mut().insert(Peer::User(7));
            app.clone().oneshot(request).await.unwrap()
        };
        let mut waiting: Vec<_> = (0..REQUESTS_AT_ONCE).map(|_| live.ask().unwrap()).collect();
        let refused = ask().await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
        waiting.pop();
        for _ in 0..3 {
            assert_eq!(ask().await.status(), StatusCode::OK, "each is over when it is answered");
        }
        api.keep.shutdown().await;
    }

    #[test]
    fn each_route_has_one_rule() {
        for (nth, rule) in RULES.iter().enumerate() {
            let same = |other: &&Rule| (other.method, other.path) == (rule.method, rule.path);
            assert_eq!(RULES.iter().position(|other| same(&other)), Some(nth), "{rule:?}");
        }
        assert_eq!(need(&Method::HEAD, "/v1/summary"), Some(STATUS));
        assert_eq!(need(&Method::PUT, "/v1/summary"), None);
    }

    #[test]
    fn one_key_is_read_from_one_header() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(|key| key.map(str::to_owned)).map_err(|problem| problem.status)
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["Bearer tk_1"]), Ok(Some("tk_1".to_owned())));
        assert_eq!(read(&["bearer  tk_1 "]), Ok(Some("tk_1".to_owned())));
        for wrong in [&["Basic dGs="][..], &["tk_1"], &["Bearer a", "Bearer b"], &[""]] {
            assert_eq!(read(wrong), Err(401), "{wrong:?}");
        }
    }
}
