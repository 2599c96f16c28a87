//! `/v1/session`: browsers that signed in, with an API key or with the one-time setup code.
//!
//! Sessions live in memory: a restart ends them all. The cookie's value is a secret of 256 bits, kept here by its hash.

use super::Api;
use super::access::Caller;
use super::import::whole_within;
use super::json::wall_text;
use super::oauth::{SignIns, cookie};
use super::params::Params;
use super::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokenkeep::TokenKeep;
use tokenkeep::access::{LiveKey, Rights};
use tokenkeep_core::{Secret, Timestamp};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// The most sessions at once; the one that was used longest ago makes room.
pub const SESSIONS_MAX: usize = 1_024;
/// A session that is not used for this long ends.
pub const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// A session ends after this long, used or not.
pub const AGE_MAX: Duration = Duration::from_secs(12 * 3_600);
/// The largest body of a sign-in: anybody can send one.
const PROOF_MAX: usize = 16 * 1024;
/// How long a setup code waits for its browser.
pub const SETUP_LIFE: Duration = Duration::from_secs(10 * 60);

/// The cookie where browsers come by https; the prefix binds it to this origin (RFC 6265bis section 4.1.3.2).
pub const COOKIE_SECURE: &str = "__Host-tokenkeep_session";
/// The cookie on http, which is loopback.
const COOKIE_PLAIN: &str = "tokenkeep_session";

static ALL: LazyLock<Rights> = LazyLock::new(Rights::all);

/// A browser that signed in.
#[derive(Debug)]
pub struct Session {
    shown_id: String,
    /// Whose rights it has; `None`: the owner's, by a setup code.
    key: Option<Arc<LiveKey>>,
    began_at: Timestamp,
    used_at_ms: AtomicI64,
}

impl Session {
    /// What it may do.
    #[must_use]
    pub fn rights(&self) -> &Rights {
        self.key.as_ref().map_or(&ALL, |key| &key.key.rights)
    }

    /// The key that it came with.
    #[must_use]
    pub fn key(&self) -> Option<&Arc<LiveKey>> {
        self.key.as_ref()
    }

    /// By which the audit trail names it.
    #[must_use]
    pub fn shown_id(&self) -> &str {
        &self.shown_id
    }

    fn ends_at(&self) -> Timestamp {
        let used_at = Timestamp::from_millis(self.used_at_ms.load(Ordering::Relaxed));
        let end = (self.began_at + AGE_MAX).min(used_at + IDLE_MAX);
        self.key.as_ref().and_then(|key| key.key.expires_at).map_or(end, |key_ends| end.min(key_ends))
    }
}

/// The sessions of one daemon.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<Held>>);

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Held {
    by_hash: BTreeMap<String, Arc<Session>>,
    setup: Option<(String, Timestamp)>,
}

fn hash(secret: &str) -> String {
    tokenkeep::fingerprint(secret)
}

impl Sessions {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session whose cookie a request has, if it has not ended. It is used now.
    #[must_use]
    pub fn of(
        &self,
        headers: &HeaderMap,
        sign_ins: &SignIns,
        keep: &TokenKeep,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let hash = hash(value(headers, sign_ins)?.expose());
        let mut held = self.held();
        let session = Arc::clone(held.by_hash.get(&hash)?);
        let stands = |key: &Arc<LiveKey>| keep.keys().is_some_and(|keys| keys.get(&key.key.id).is_some());
        if session.ends_at() <= now || !session.key.as_ref().is_none_or(stands) {
            held.by_hash.remove(&hash);
            return None;
        }
        session.used_at_ms.fetch_max(now.as_millis(), Ordering::Relaxed);
        Some(session)
    }

    /// Whether this session has not ended: by itself, with its key, or because somebody signed out.
    #[must_use]
    pub fn has(&self, session: &Arc<Session>, keep: &TokenKeep, now: Timestamp) -> bool {
        session.ends_at() > now
            && session.key.as_ref().is_none_or(|key| keep.keys().is_some_and(|keys| keys.has(key, now)))
            && self.held().by_hash.values().any(|held| Arc::ptr_eq(held, session))
    }

    fn begin(&self, key: Option<Arc<LiveKey>>, now: Timestamp) -> (Secret, Arc<Session>) {
        let secret = tokenkeep::access::random_secret();
        let hash = hash(secret.expose());
        let session =
            Session { shown_id: hash[..8].to_owned(), key, began_at: now, used_at_ms: AtomicI64::new(now.as_millis()) };
        let session = Arc::new(session);
        let mut held = self.held();
        held.by_hash.retain(|_, session| session.ends_at() > now);
        if held.by_hash.len() >= SESSIONS_MAX {
            let used_at = |session: &Arc<Session>| session.used_at_ms.load(Ordering::Relaxed);
            let oldest = held.by_hash.iter().min_by_key(|(_, session)| used_at(session)).map(|(hash, _)| hash.clone());
            oldest.and_then(|hash| held.by_hash.remove(&hash));
        }
        held.by_hash.insert(hash, Arc::clone(&session));
        (secret, session)
    }

    fn end(&self, headers: &HeaderMap, sign_ins: &SignIns) {
        if let Some(secret) = value(headers, sign_ins) {
            self.held().by_hash.remove(&hash(secret.expose()));
        }
    }

    /// A code that makes one browser the first admin's; it takes the place of one that still waits.
    #[must_use]
    pub fn setup(&self, now: Timestamp) -> (Secret, Timestamp) {
        let (code, ends_at) = (tokenkeep::access::random_secret(), now + SETUP_LIFE);
        self.held().setup = Some((hash(code.expose()), ends_at));
        (code, ends_at)
    }

    fn take_setup(&self, code: &str, now: Timestamp) -> bool {
        let mut held = self.held();
        let fits = held.setup.as_ref().is_some_and(|(waits, ends_at)| *waits == hash(code) && *ends_at > now);
        if fits {
            held.setup = None;
        }
        fits
    }
}

/// What the cookie is called. Where browsers come by https, one without the prefix may be anybody's: pages of http and of
/// hosts beside this one can set it.
fn cookie_name(sign_ins: &SignIns) -> &'static str {
    if sign_ins.is_https() { COOKIE_SECURE } else { COOKIE_PLAIN }
}

fn value(headers: &HeaderMap, sign_ins: &SignIns) -> Option<Secret> {
    cookie(headers, cookie_name(sign_ins))
}

/// Who somebody is, and what they may do.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct CallerJson {
    /// As the audit trail writes it.
    pub actor: String,
    /// What they may do; `admin` stands for all.
    pub scopes: Vec<String>,
    /// Only in namespaces that fit one of these; empty: in all.
    pub namespaces: Vec<String>,
    /// Only connections whose name fits one of these; empty: all.
    pub names: Vec<String>,
    /// When the session or the key ends, if it does.
    pub expires_at: Option<String>,
}

impl CallerJson {
    fn new(caller: &Caller) -> Self {
        let texts = |patterns: &[tokenkeep::access::Pattern]| patterns.iter().map(ToString::to_string).collect();
        let rights = caller.rights();
        let ends_at = match caller {
            Caller::Session(session) => Some(session.ends_at()),
            Caller::Key(key) => key.key.expires_at,
            Caller::User(_) | Caller::Nobody => None,
        };
        Self {
            actor: caller.actor(),
            scopes: rights.iter().flat_map(|rights| &rights.scopes).map(|scope| scope.as_str().to_owned()).collect(),
            namespaces: rights.map(|rights| texts(&rights.namespaces)).unwrap_or_default(),
            names: rights.map(|rights| texts(&rights.names)).unwrap_or_default(),
            expires_at: ends_at.and_then(wall_text),
        }
    }
}

/// Who asks.
#[utoipa::path(get, path = "/v1/session", operation_id = "get_session", tag = "admin", security(("api_key" = [])),
    responses((status = 200, description = "Who asks, and what they may do.", body = CallerJson)))]
pub async fn show(caller: Caller, RawQuery(query): RawQuery) -> Result<Json<CallerJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    Ok(Json(CallerJson::new(&caller)))
}

/// What a browser signs in with: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Proof {
    api_key: Option<String>,
    setup_code: Option<String>,
}

/// Signs a browser in: 201, with the cookie.
#[utoipa::path(post, path = "/v1/session", operation_id = "begin_session", tag = "admin", request_body = Proof, security(()),
    responses(
    (status = 201, description = "Signed in; the cookie is set.", body = CallerJson),
    (status = 401, description = "`unknown_code`: the setup code is unknown, used or expired."),
    (status = 413, description = "`too_large`: the body is too long."),
))]
pub async fn begin(State(api): State<Api>, RawQuery(query): RawQuery, body: Body) -> Result<Response, Problem> {
    Params::new(query.as_deref()).finish()?;
    let body = whole_within(PROOF_MAX, body).await?;
    let expected = "Expected {\"api_key\": \"tk_...\"} or {\"setup_code\": \"...\"}.";
    let proof: Proof = serde_json::from_slice(&body).map_err(|error| Problem::unreadable_secret(&error, expected))?;
    let now = api.wall();
    let key = match (proof.api_key.map(Zeroizing::new), proof.setup_code.map(Zeroizing::new)) {
        (Some(text), None) => match api.keep.keys().and_then(|keys| keys.find(&text, now)) {
            Some(key) => Some(key),
            None => return Err(super::access::unknown_key(&api, &text)),
        },
        (None, Some(code)) if api.sessions.take_setup(&code, now) => None,
        (None, Some(_)) => return Err(super::access::unknown_code(&api)),
        _ => return Err(Problem::invalid("the body has neither or both of `api_key` and `setup_code`", expected)),
    };
    let (secret, session) = api.sessions.begin(key, now);
    let about = super::access::About(format!("session:{}", session.shown_id));
    let mut response = (StatusCode::CREATED, Json(CallerJson::new(&Caller::Session(session)))).into_response();
    response.extensions_mut().insert(about);
    set_cookie(&api, &mut response, &secret, AGE_MAX);
    Ok(response)
}

/// Signs a browser out: 204.
#[utoipa::path(delete, path = "/v1/session", operation_id = "end_session", tag = "admin", security(("api_key" = [])),
    responses((status = 204, description = "Signed out.")))]
pub async fn end(State(api): State<Api>, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    Params::new(query.as_deref()).finish()?;
    api.sessions.end(&headers, &api.sign_ins);
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&api, &mut response, &Secret::new(""), Duration::ZERO);
    Ok(response)
}

fn set_cookie(api: &Api, response: &mut Response, secret: &Secret, life: Duration) {
    let name = cookie_name(&api.sign_ins);
    let secure = if api.sign_ins.is_https() { "; Secure" } else { "" };
    let (value, seconds) = (secret.expose(), life.as_secs());
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// A code that signs the first browser in.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct SetupJson {
    /// The code.
    pub setup_code: String,
    /// Where the browser goes with it; `null` where the daemon does not listen on TCP. The code is behind `#`, which
    /// browsers send to nobody.
    pub url: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<String>,
}

/// Makes a setup code: 201. On the socket alone.
#[utoipa::path(post, path = "/v1/session/setup", operation_id = "make_setup_code", tag = "socket only",
    responses((status = 201, description = "The code.", body = SetupJson)))]
pub async fn setup(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    Params::new(query.as_deref()).finish()?;
    let (code, ends_at) = api.sessions.setup(api.wall());
    let setup_code = code.expose().to_owned();
    let url = api.sign_ins.public_url().map(|url| format!("{url}#setup_code={setup_code}"));
    let json = SetupJson { setup_code, url, expires_at: wall_text(ends_at) };
    let mut response = (StatusCode::CREATED, Json(json)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000) + Duration::from_secs(60 * minutes)
    }

    #[test]
    fn a_setup_code_serves_once_and_for_ten_minutes() {
        let sessions = Sessions::default();
        let (code, ends_at) = sessions.setup(at(0));
        assert_eq!(ends_at, at(10));
        assert!(!sessions.take_setup("other", at(1)));
        assert!(!sessions.take_setup(code.expose(), at(10)), "it has ended");
        assert!(sessions.take_setup(code.expose(), at(9)));
        assert!(!sessions.take_setup(code.expose(), at(9)), "once");
        let (first, _) = sessions.setup(at(0));
        let (second, _) = sessions.setup(at(0));
        assert!(!sessions.take_setup(first.expose(), at(1)) && sessions.take_setup(second.expose(), at(1)));
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let (_, session) = Sessions::default().begin(None, at(0));
        assert_eq!(session.ends_at(), at(30));
        session.used_at_ms.store(at(29).as_millis(), Ordering::Relaxed);
        assert_eq!(session.ends_at(), at(59));
        session.used_at_ms.store(at(710).as_millis(), Ordering::Relaxed);
        assert_eq!(session.ends_at(), at(720), "twelve hours");
    }

    #[test]
    fn there_are_only_so_many_sessions() {
        let sessions = Sessions::default();
        let (first, _) = sessions.begin(None, at(0));
        for _ in 0..SESSIONS_MAX {
            let _ = sessions.begin(None, at(1));
        }
        let held = sessions.held();
        assert_eq!(held.by_hash.len(), SESSIONS_MAX);
        assert!(!held.by_hash.contains_key(&hash(first.expose())), "the one used longest ago made room");
    }
}
