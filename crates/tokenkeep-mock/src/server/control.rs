//! The control interface: how a test outside this process makes grants, asks for faults and reads the ledger.
//!
//! Unknown fields are refused, so that a misspelt wish does not pass for a granted one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::body::MockBody;
use super::routes::{not_allowed, not_found, respond, response};
use super::state::{Endpoint, State};
use super::tls::TlsFace;
use crate::answer::Answer;
use crate::fault::{Fault, FaultPlan, Faults, entries};
use crate::jira::RateLimit;
use crate::provider::{Grant, GrantId, GrantOptions, TokenSet, Totals};
use crate::rotation::Rotation;

/// The most grants of one request.
const GRANTS_MAX: u64 = 1_000_000;

/// How many grants are made, or told about, in one piece of a body, and so under one lock.
const PIECE_GRANTS: usize = 256;

/// Answers one control request.
pub(crate) fn answer(state: &Arc<State>, parts: &Parts, body: &[u8]) -> Response<MockBody> {
    let path = parts.uri.path().strip_prefix("/control/").unwrap_or_default();
    match parts.method {
        Method::GET => asked(state, parts, path),
        Method::POST => wished(state, parts, path, body),
        _ => not_allowed("GET, POST"),
    }
}

fn asked(state: &Arc<State>, parts: &Parts, path: &str) -> Response<MockBody> {
    match path {
        "ledger" => ledger(state, parts.uri.query().unwrap_or_default()),
        "faults" => ok(&faults_told(state)),
        "tls" => authority(state),
        _ => not_allowed("POST"),
    }
}

fn wished(state: &Arc<State>, parts: &Parts, path: &str, body: &[u8]) -> Response<MockBody> {
    let query = parts.uri.query().unwrap_or_default();
    let answered = match path {
        "ledger" => return not_allowed("GET"),
        "grants" => return parsed_or_default(body).map_or_else(refused, |wish| grants(state, parts, wish)),
        "faults" => endpoint(query).and_then(|at| parsed(body).map(|plan| faults(state, at, plan))),
        "script" => endpoint(query).and_then(|at| parsed(body).and_then(|wish| script(state, at, wish))),
        "rate" => parsed_or_default(body).and_then(|wish| rate(state, &wish)),
        "tls" => parsed(body).map(|wish| tls(state, &wish)),
        "clock" => parsed(body).map(|wish| clock(state, &wish)),
        "down" => parsed(body).and_then(|wish| down(state, &wish)),
        "reset" => Ok(reset(state)),
        _ => match path.strip_prefix("grants/").and_then(|rest| rest.strip_suffix("/kill")) {
            Some(label) => return kill(state, &unescaped(label)),
            None => return not_found(),
        },
    };
    answered.map_or_else(refused, |value| ok(&value))
}

/// An empty body wishes for nothing in particular.
fn parsed_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, String> {
    if body.trim_ascii().is_empty() { Ok(T::default()) } else { parsed(body) }
}

/// Which endpoint faults are for: `at=token`, which is also what an empty query says, or `at=api`.
fn endpoint(query: &str) -> Result<Endpoint, String> {
    match query {
        "" | "at=token" => Ok(Endpoint::Token),
        "at=api" => Ok(Endpoint::Api),
        _ => Err(format!("unknown query {query:?}: expected at=token or at=api")),
    }
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn refused(why: String) -> Response<MockBody> {
    respond(Answer::error(StatusCode::BAD_REQUEST, "invalid_request", &why))
}

fn ok(value: &impl Serialize) -> Response<MockBody> {
    respond(Answer::json(StatusCode::OK, value))
}

/// Undoes the percent encoding of one part of a path.
fn unescaped(part: &str) -> String {
    let whole = part.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let mut pairs = form_urlencoded::parse(whole.as_bytes());
    pairs.next().map(|(text, _)| text.into_owned()).unwrap_or_default()
}

// --- Grants ---

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GrantsWish {
    count: Option<u64>,
    rotation: Option<Rotation>,
    access_ttl_s: Option<f64>,
    label_prefix: Option<String>,
    label: Option<String>,
    client: Option<String>,
    owner: Option<String>,
    scope: Option<String>,
    age_s: f64,
    expires_in: Option<bool>,
}

#[derive(Serialize)]
struct GrantBody<'a> {
    label: &'a str,
    token: &'a TokenSet,
}

impl GrantsWish {
    fn checked(self, state: &State) -> Result<Self, String> {
        let count = self.count.unwrap_or(1);
        if count > GRANTS_MAX {
            return Err(format!("count must not exceed {GRANTS_MAX}"));
        }
        if self.label.is_some() && (count != 1 || self.label_prefix.is_some()) {
            return Err("label names one grant: use label_prefix for more".to_owned());
        }
        let known = |client: &String| state.with_provider(|provider| provider.has_client(client));
        match &self.client {
            Some(client) if !known(client) => Err(format!("client {client:?} is unknown")),
            _ => Ok(self),
        }
    }

    fn options(&self, nth: u64) -> GrantOptions {
        GrantOptions {
            label: match &self.label {
                Some(label) => label.clone(),
                None => format!("{}{nth}", self.label_prefix.as_deref().unwrap_or("c")),
            },
            client: self.client.clone(),
            owner: self.owner.as_deref().map(Arc::from),
            rotation: self.rotation,
            access_ttl_ms: self.access_ttl_s.map(milliseconds),
            scope: None,
            expires_in: self.expires_in,
            age_ms: milliseconds(self.age_s),
        }
    }
}

/// Whole milliseconds; what is too large becomes the largest.
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1_000.0) as i64
}

fn grants(state: &Arc<State>, parts: &Parts, wish: GrantsWish) -> Response<MockBody> {
    let wish = match wish.checked(state) {
        Ok(wish) => wish,
        Err(why) => return refused(why),
    };
    match parts.uri.query() {
        None | Some("") => {}
        Some("as=token") => return token_file(state, &wish),
        Some(query) => return refused(format!("unknown query {query:?}: expected as=token")),
    }
    let list = List::accepted(&parts.headers);
    let mut left = 0..wish.count.unwrap_or(1);
    let scope: Option<Arc<str>> = wish.scope.as_deref().map(Arc::from);
    let state = Arc::clone(state);
    list.respond("", "", move |out| {
        let now_ms = state.now_ms();
        let piece = left.by_ref().take(PIECE_GRANTS);
        state.with_provider(|provider| {
            for nth in piece {
                let options = GrantOptions { scope: scope.clone(), ..wish.options(nth) };
                let Grant { label, token, .. } = provider.grant(now_ms, options);
                out.item(&GrantBody { label: &label, token: &token });
            }
        });
        !left.is_empty()
    })
}

/// One grant's token set alone, as a token file has it.
fn token_file(state: &State, wish: &GrantsWish) -> Response<MockBody> {
    if wish.count.is_some_and(|count| count != 1) {
        return refused("as=token gives one token set: leave count out".to_owned());
    }
    let options = GrantOptions { scope: wish.scope.as_deref().map(Arc::from), ..wish.options(0) };
    ok(&state.grant(options).token)
}

fn kill(state: &State, label: &str) -> Response<MockBody> {
    match state.kill(label) {
        Some(was_alive) => ok(&json!({"label": label, "was_alive": was_alive})),
        None => not_found(),
    }
}

// --- The ledger ---

#[derive(Serialize)]
struct TotalsBody<'a> {
    #[serde(flatten)]
    totals: Totals,
    faults: &'a BTreeMap<&'static str, u64>,
    scripted_waiting: usize,
}

fn ledger(state: &Arc<State>, query: &str) -> Response<MockBody> {
    let mut label = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match (name.as_ref(), value.as_ref()) {
            ("summary", "" | "1" | "true") => return summary(state),
            ("label", _) => label = Some(value.into_owned()),
            _ => {
                return refused(format!("unknown parameter {name:?}, or an unknown value of it"));
            }
        }
    }
    match label {
        Some(label) => state.ledger(&label).map_or_else(not_found, |ledger| ok(&ledger)),
        None => whole_ledger(state),
    }
}

fn totals_json(state: &State) -> String {
    let core = state.core();
    let body = TotalsBody {
        totals: core.provider.totals(),
        faults: core.faults.counts(),
        scripted_waiting: core.faults.waiting(),
    };
    // Proof: numbers and string keys only.
    serde_json::to_string(&body).unwrap_or_default()
}

fn summary(state: &State) -> Response<MockBody> {
    let body = format!("{{\"totals\":{}}}", totals_json(state));
    let json = HeaderValue::from_static("application/json");
    respond(Answer::new(StatusCode::OK, json, body))
}

fn whole_ledger(state: &Arc<State>) -> Response<MockBody> {
    let before = format!("{{\"totals\":{},\"grants\":", totals_json(state));
    let count = state.with_provider(|provider| provider.grant_count());
    let mut left = 0..count;
    let state = Arc::clone(state);
    List::Array.respond(&before, "}", move |out| {
        let piece = left.by_ref().take(PIECE_GRANTS);
        state.with_provider(|provider| {
            for ledger in piece.filter_map(|id| provider.ledger(GrantId(id))) {
                out.item(&ledger);
            }
        });
        !left.is_empty()
    })
}

// --- Lists that are made while they are sent ---

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    /// One JSON array.
    Array,
    /// One JSON object in each line.
    Lines,
}

/// One piece of a list.
struct Piece {
    list: List,
    is_first: bool,
    text: Vec<u8>,
}

impl Piece {
    fn item(&mut self, value: &impl Serialize) {
        if self.list == List::Array && !self.is_first {
            self.text.push(b',');
        }
        self.is_first = false;
        // Proof: writing to a `Vec` cannot fail, and the values have string keys only.
        let _ = serde_json::to_writer(&mut self.text, value);
        if self.list == List::Lines {
            self.text.push(b'\n');
        }
    }
}

impl List {
    fn accepted(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        match accept {
            Some(accept) if accept.contains("application/x-ndjson") => List::Lines,
            _ => List::Array,
        }
    }

    /// A list between `before` and `after`. `fill` writes the next piece and says whether more follow.
    fn respond(
        self,
        before: &str,
        after: &'static str,
        mut fill: impl FnMut(&mut Piece) -> bool + Send + 'static,
    ) -> Response<MockBody> {
        let (open, close, media_type) = match self {
            List::Array => ("[", "]", "application/json"),
            List::Lines => ("", "", "application/x-ndjson"),
        };
        let mut text = Some(format!("{before}{open}").into_bytes());
        let mut is_first = true;
        let pieces = Box::new(move || {
            let mut piece = Piece { list: self, is_first, text: text.take()? };
            if fill(&mut piece) {
                text = Some(Vec::new());
            } else {
                piece.text.extend_from_slice(close.as_bytes());
                piece.text.extend_from_slice(after.as_bytes());
            }
            is_first = piece.is_first;
            Some(Bytes::from(piece.text))
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        response(StatusCode::OK, headers, MockBody::Pieces(pieces))
    }
}

// --- Faults, clock, down, reset ---

fn faults(state: &State, at: Endpoint, plan: FaultPlan) -> Value {
    state.set_faults_at(at, plan);
    json!({})
}

/// All that there is, all that is planned, and all that has happened.
fn faults_told(state: &State) -> Value {
    let told = |faults: &Faults| json!({"plan": faults.plan(), "counts": faults.counts(), "waiting": faults.waiting()});
    let core = state.core();
    json!({"kinds": entries(), "token": told(&core.faults), "api": told(&core.api_faults)})
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RateWish {
    per_s: Option<f64>,
    burst: Option<u32>,
}

fn rate(state: &State, wish: &RateWish) -> Result<Value, String> {
    let limit = match (wish.per_s, wish.burst) {
        (None, None) => None,
        (Some(per_s), burst) if per_s.is_finite() && per_s > 0.0 && burst != Some(0) => {
            Some(RateLimit { per_s, burst: burst.unwrap_or(1) })
        }
        _ => return Err("say {\"per_s\": 5, \"burst\": 10}, both above 0, or {} for no limit".to_owned()),
    };
    state.set_rate_limit(limit);
    Ok(json!({"limit": limit}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsWish {
    face: TlsFace,
}

fn tls(state: &State, wish: &TlsWish) -> Value {
    state.set_tls_face(wish.face);
    json!({"face": wish.face})
}

fn authority(state: &State) -> Response<MockBody> {
    match state.authority_pem() {
        Some(pem) => {
            let pem_file = HeaderValue::from_static("application/x-pem-file");
            respond(Answer::new(StatusCode::OK, pem_file, pem.to_owned()))
        }
        None => not_found(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptWish {
    label: Option<String>,
    faults: Vec<Fault>,
}

fn script(state: &State, at: Endpoint, wish: ScriptWish) -> Result<Value, String> {
    let queued = wish.faults.len();
    let label = wish.label.as_deref();
    state.script_at(at, label, wish.faults).map_err(|full| full.to_string())?;
    Ok(json!({"queued": queued}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockWish {
    offset_ms: i64,
}

fn clock(state: &State, wish: &ClockWish) -> Value {
    state.set_clock_offset_ms(wish.offset_ms);
    json!({"offset_ms": wish.offset_ms, "now_ms": state.now_ms()})
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DownWish {
    down: Option<bool>,
    for_ms: Option<u64>,
}

fn down(state: &State, wish: &DownWish) -> Result<Value, String> {
    match (wish.down, wish.for_ms) {
        (Some(false), None) => state.up(),
        (Some(true), None) => state.down(None),
        (Some(true) | None, Some(for_ms)) => state.down(Some(for_ms)),
        _ => return Err("say {\"down\": true}, {\"down\": false} or {\"for_ms\": n}".to_owned()),
    }
    Ok(json!({"down": state.is_down()}))
}

fn reset(state: &State) -> Value {
    state.reset();
    json!({})
}
