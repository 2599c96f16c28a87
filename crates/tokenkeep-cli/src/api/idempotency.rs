//! `Idempotency-Key` on POST: a request that was done is answered again as it was, and not done again.
//!
//! Answers are kept in memory, so a restart forgets them, and so is one that had no success: what failed may be sent
//! again under its key. No secret is kept: whoever asks again for such an answer hears that it was given.

use super::access::{About, Caller};
use super::import::whole;
use super::problem::Problem;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokenkeep_core::model::printable;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The header.
pub const HEADER: &str = "Idempotency-Key";
/// What an answer has that was given before.
pub const REPLAYED: &str = "idempotent-replayed";
/// The longest key.
pub const KEY_BYTES_MAX: usize = 255;
/// How long an answer is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// The longest answer that is kept.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Of one caller so many keys are known; the oldest makes room.
pub const CALLER_KEYS_MAX: usize = 1_000;
/// Of one caller's answers so many bytes are kept; the oldest makes room.
pub const CALLER_BYTES_MAX: usize = 1024 * 1024;
/// So many keys are known of all callers together; the oldest makes room.
pub const KEYS_MAX: usize = 10_000;
/// So many bytes of answers are kept for all callers together; the oldest makes room.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whether a route takes the header: the proxy passes it on to the provider, whose it is, and who signs in is nobody yet.
#[must_use]
pub fn takes(method: &Method, path: &str) -> bool {
    *method == Method::POST && path != "/v1/session" && !path.starts_with("/v1/connections/{name}/proxy/")
}

/// The keys that callers gave lately, with what they were answered.
#[derive(Clone, Default)]
pub struct Once(Arc<Mutex<Held>>);

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Held {
    entries: BTreeMap<Id, Entry>,
    numbered: u64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    actor: String,
    key: String,
}

struct Entry {
    number: u64,
    at: Instant,
    /// Of the request, by a hash.
    asked: String,
    stage: Stage,
}

#[derive(Clone)]
enum Stage {
    InFlight,
    Answered(Kept),
    /// With this status; the rest is a secret, or too long.
    NotKept(StatusCode),
}

#[derive(Clone)]
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    about: Option<About>,
    body: Bytes,
}

impl Kept {
    fn again(self) -> Response {
        let mut response = self.first();
        response.headers_mut().insert(HeaderName::from_static(REPLAYED), HeaderValue::from_static("true"));
        response
    }

    fn first(self) -> Response {
        let mut response = (self.status, self.headers, Body::from(self.body)).into_response();
        self.about.and_then(|about| response.extensions_mut().insert(about));
        response
    }
}

impl Entry {
    fn is_in_flight(&self) -> bool {
        matches!(self.stage, Stage::InFlight)
    }

    fn bytes(&self) -> usize {
        match &self.stage {
            Stage::Answered(kept) => kept.body.len(),
            Stage::InFlight | Stage::NotKept(_) => 0,
        }
    }
}

impl Held {
    /// Forgets what is old, and the oldest where there is too much: of this caller, then of all.
    fn make_room(&mut self, actor: &str) {
        let now = Instant::now();
        self.entries.retain(|_, entry| entry.is_in_flight() || now < entry.at + KEPT_FOR);
        self.bound(CALLER_KEYS_MAX, CALLER_BYTES_MAX, |id| id.actor == actor);
        self.bound(KEYS_MAX, BYTES_MAX, |_| true);
    }

    fn bound(&mut self, keys_max: usize, bytes_max: usize, is_counted: impl Fn(&Id) -> bool) {
        loop {
            let counted = || self.entries.iter().filter(|(id, _)| is_counted(id));
            let bytes: usize = counted().map(|(_, entry)| entry.bytes()).sum();
            if counted().count() <= keys_max && bytes <= bytes_max {
                return;
            }
            let ended = counted().filter(|(_, entry)| !entry.is_in_flight());
            let Some(oldest) = ended.min_by_key(|(_, entry)| entry.number).map(|(id, _)| id.clone()) else { return };
            self.entries.remove(&oldest);
        }
    }
}

impl Once {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new request; else what an earlier one with this key comes to.
    fn begin(&self, id: Id, asked: String) -> Result<Place, Box<Response>> {
        let mut held = self.held();
        held.make_room(&id.actor);
        if let Some(known) = held.entries.get(&id) {
            return Err(Box::new(known.met_again(&id.key, &asked)));
        }
        held.numbered += 1;
        let number = held.numbered;
        held.entries.insert(id.clone(), Entry { number, at: Instant::now(), asked, stage: Stage::InFlight });
        Ok(Place { once: self.clone(), id, stage: None })
    }
}

impl Entry {
    fn met_again(&self, key: &str, asked: &str) -> Response {
        let key = printable(key, 60);
        if self.asked != asked {
            let detail = format!("the {HEADER} `{key}` was given to another request");
            return Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
                .next("Give each request a key of its own; the same key only with the same path, query and body.")
                .into_response();
        }
        let conflict = |code, detail| Problem::new(StatusCode::CONFLICT, code, detail);
        match &self.stage {
            Stage::Answered(kept) => kept.clone().again(),
            Stage::InFlight => conflict(
                "idempotency_key_in_flight",
                format!("the request with the {HEADER} `{key}` is not answered yet"),
            )
            .next("Send it again in a moment.")
            .into_response(),
            Stage::NotKept(status) => conflict(
                "idempotency_answer_not_kept",
                format!("the request with the {HEADER} `{key}` was done and answered {}, once", status.as_u16()),
            )
            .next(
                "Look at what came of it; its answer is not kept, because it has a secret or is long. To have it done \
                 once more, send it with another key.",
            )
            .into_response(),
        }
    }
}

/// The place of a request in flight. Without an end that is kept, its key is free again.
struct Place {
    once: Once,
    id: Id,
    stage: Option<Stage>,
}

impl Place {
    fn end(mut self, stage: Stage) {
        self.stage = Some(stage);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.once.held();
        match (self.stage.take(), held.entries.get_mut(&self.id)) {
            (Some(stage), Some(entry)) => {
                entry.stage = stage;
                entry.at = Instant::now();
                held.make_room(&self.id.actor);
            }
            _ => drop(held.entries.remove(&self.id)),
        }
    }
}

/// Lets a request with an `Idempotency-Key` be done once.
pub async fn once(
    State(once): State<Once>,
    caller: Caller,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    if !takes(request.method(), path.as_str()) || matches!(caller, Caller::Nobody) {
        return next.run(request).await;
    }
    let key = match key_of(request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(problem) => return problem.into_response(),
    };
    let (head, body) = request.into_parts();
    let mut body = match whole(body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let media_type = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let asked = Zeroizing::new(format!("{}\n{}\n{}", head.uri, media_type.escape_ascii(), body.escape_ascii()));
    let place = match once.begin(Id { actor: caller.actor(), key }, tokenkeep::fingerprint(&asked)) {
        Ok(place) => place,
        Err(answer) => return *answer,
    };
    let response = next.run(Request::from_parts(head, Body::from(std::mem::take(&mut *body)))).await;
    keep(place, response).await
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut found = headers.get_all(HEADER).iter();
    let Some(value) = found.next() else { return Ok(None) };
    let expected = format!("Expected it once, with 1 to {KEY_BYTES_MAX} visible ASCII characters, such as a UUID.");
    if found.next().is_some() {
        return Err(Problem::invalid(format!("the header {HEADER} is given twice"), expected));
    }
    let is_key = |text: &&str| (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    match value.to_str().ok().filter(is_key) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Problem::invalid(format!("the header {HEADER} is no key"), expected)),
    }
}

/// What carries a secret says so.
fn is_secret(headers: &HeaderMap) -> bool {
    headers.contains_key(header::SET_COOKIE)
        || headers.get(header::CACHE_CONTROL).is_some_and(|control| control == "no-store")
}

async fn keep(place: Place, response: Response) -> Response {
    let status = response.status();
    if !status.is_success() {
        return response;
    }
    if is_secret(response.headers()) {
        place.end(Stage::NotKept(status));
        return response;
    }
    let (head, body) = response.into_parts();
    let (mut pieces, mut text) = (body.into_data_stream(), BytesMut::new());
    while let Some(piece) = pieces.next().await {
        let fits = match &piece {
            Ok(piece) => text.len() + piece.len() <= ANSWER_BYTES_MAX,
            Err(_) => false,
        };
        match piece {
            Ok(piece) if fits => text.extend_from_slice(&piece),
            piece => {
                place.end(Stage::NotKept(status));
                let begun = stream::iter([Ok(text.freeze()), piece]);
                return Response::from_parts(head, Body::from_stream(begun.chain(pieces)));
            }
        }
    }
    let about = head.extensions.get().cloned();
    let kept = Kept { status, headers: head.headers, about, body: text.freeze() };
    place.end(Stage::Answered(kept.clone()));
    kept.first()
}

#[cfg(test)]
mod tests {
    use super::super::import::JSON_MAX;
    use super::*;
    use axum::body::to_bytes;
    use axum::extract::RawQuery;
    use axum::routing::post;
    use axum::{Extension, Router, middleware};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;
    use tower::ServiceExt as _;

    /// Counts what is done, and answers as the query says.
    #[derive(Clone, Default)]
    struct Work {
        done: Arc<AtomicUsize>,
        go_on: Arc<Notify>,
    }

    impl Work {
        fn done(&self) -> usize {
            self.done.load(Ordering::Relaxed)
        }
    }

    async fn work(Extension(work): Extension<Work>, RawQuery(query): RawQuery, body: String) -> Response {
        let nth = work.done.fetch_add(1, Ordering::Relaxed) + 1;
        let text = format!("{nth}: {body}");
        match query.as_deref() {
            Some("failed") => Problem::invalid("no", "yes").into_response(),
            Some("secret") => ([(header::CACHE_CONTROL, "no-store")], text).into_response(),
            Some("cookie") => ([(header::SET_COOKIE, "a=b")], text).into_response(),
            Some("long") => "x".repeat(ANSWER_BYTES_MAX + 1).into_response(),
            Some("full") => "x".repeat(ANSWER_BYTES_MAX).into_response(),
            Some("slow") => {
                work.go_on.notified().await;
                text.into_response()
            }
            _ => (StatusCode::CREATED, [("location", "/there")], text).into_response(),
        }
    }

    struct Asker {
        router: Router,
        work: Work,
        once: Once,
    }

    impl Asker {
        fn new() -> Self {
            let (work_done, once) = (Work::default(), Once::default());
            let router = Router::new()
                .route("/v1/bulk", post(work))
                .route("/v1/session", post(work))
                .route("/v1/connections/{name}/proxy/{*path}", post(work))
                .route_layer(middleware::from_fn_with_state(once.clone(), super::once))
                .layer(Extension(work_done.clone()));
            Self { router, work: work_done, once }
        }

        async fn ask_as(&self, caller: Caller, uri: &str, keys: &[&str], body: &str) -> (u16, bool, String) {
            let mut request = Request::post(uri);
            for key in keys {
                request = request.header(HEADER, *key);
            }
            let request = request.extension(caller).body(Body::from(body.to_owned())).unwrap();
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (status, replayed) = (response.status().as_u16(), response.headers().contains_key(REPLAYED));
            if replayed && status == 201 {
                assert_eq!(response.headers()["location"], "/there");
            }
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            (status, replayed, String::from_utf8(body.to_vec()).unwrap())
        }

        async fn ask(&self, uri: &str, key: &str, body: &str) -> (u16, bool, String) {
            self.ask_as(Caller::User(1), uri, &[key], body).await
        }

        #[track_caller]
        fn done(&self, times: usize) {
            assert_eq!(self.work.done(), times);
        }
    }

    fn code(answer: &(u16, bool, String)) -> (u16, String) {
        let problem: serde_json::Value = serde_json::from_str(&answer.2).unwrap();
        assert!(problem["next_action"].is_string(), "{problem}");
        (answer.0, problem["code"].as_str().unwrap().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_done_once_for_a_day() {
        let asker = Asker::new();
        assert_eq!(asker.ask("/v1/bulk", "k", "a").await, (201, false, "1: a".to_owned()));
        tokio::time::advance(KEPT_FOR - Duration::from_millis(1)).await;
        assert_eq!(asker.ask("/v1/bulk", "k", "a").await, (201, true, "1: a".to_owned()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(asker.ask("/v1/bulk", "k", "b").await, (201, false, "2: b".to_owned()));
        assert_eq!(asker.ask("/v1/bulk", "other", "b").await, (201, false, "3: b".to_owned()));
        assert_eq!(asker.ask_as(Caller::User(2), "/v1/bulk", &["k"], "b").await, (201, false, "4: b".to_owned()));
    }

    #[tokio::test]
    async fn a_key_is_for_one_request() {
        let asker = Asker::new();
        asker.ask("/v1/bulk", "k", "a").await;
        for (uri, body) in [("/v1/bulk", "b"), ("/v1/bulk?x", "a")] {
            let answer = asker.ask(uri, "k", body).await;
            assert_eq!(code(&answer), (422, "idempotency_key_reused".to_owned()), "{uri}");
        }
        asker.done(1);
    }

    #[tokio::test]
    async fn while_it_is_done_it_is_not_begun_again() {
        let asker = Asker::new();
        let (first, second) = tokio::join!(asker.ask("/v1/bulk?slow", "k", ""), async {
            let second = asker.ask("/v1/bulk?slow", "k", "").await;
            asker.work.go_on.notify_one();
            second
        });
        assert_eq!(code(&second), (409, "idempotency_key_in_flight".to_owned()));
        assert_eq!((first.0, asker.ask("/v1/bulk?slow", "k", "").await.1), (200, true));
        let never = tokio::time::timeout(Duration::from_millis(10), asker.ask("/v1/bulk?slow", "left", "")).await;
        assert!(never.is_err() && asker.once.held().entries.len() == 1, "what was broken off may be sent again");
    }

    #[tokio::test]
    async fn what_failed_may_be_sent_again() {
        let asker = Asker::new();
        for times in [1, 2] {
            assert_eq!(asker.ask("/v1/bulk?failed", "k", "").await.0, 400);
            asker.done(times);
        }
    }

    #[tokio::test]
    async fn secrets_and_long_answers_are_not_kept() {
        let asker = Asker::new();
        for (nth, uri) in ["/v1/bulk?secret", "/v1/bulk?cookie", "/v1/bulk?long"].into_iter().enumerate() {
            let first = asker.ask(uri, uri, "").await;
            assert!(first.0 == 200 && (first.2.len() == ANSWER_BYTES_MAX + 1 || first.2.starts_with(char::is_numeric)));
            assert_eq!(code(&asker.ask(uri, uri, "").await), (409, "idempotency_answer_not_kept".to_owned()), "{uri}");
            asker.done(nth + 1);
        }
        asker.ask("/v1/bulk?full", "k", "").await;
        let again = asker.ask("/v1/bulk?full", "k", "").await;
        assert_eq!((again.1, again.2.len()), (true, ANSWER_BYTES_MAX));
    }

    #[tokio::test]
    async fn keys_that_are_none_are_refused() {
        let asker = Asker::new();
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        for wrong in [&[""][..], &["a b"], &["ü"], &[&long], &["a", "b"]] {
            let answer = asker.ask_as(Caller::User(1), "/v1/bulk", wrong, "").await;
            assert_eq!(code(&answer), (400, "invalid".to_owned()), "{wrong:?}");
        }
        let longest = "k".repeat(KEY_BYTES_MAX);
        assert_eq!(asker.ask("/v1/bulk", &longest, "").await.0, 201);
        let huge = "x".repeat(JSON_MAX + 1);
        assert_eq!(asker.ask("/v1/bulk", "huge", &huge).await.0, 413);
        asker.done(1);
    }

    #[tokio::test]
    async fn the_provider_s_keys_and_nobody_s_are_left_alone() {
        let asker = Asker::new();
        for uri in ["/v1/session", "/v1/connections/a/proxy/pay"] {
            for _ in 0..2 {
                assert!(!asker.ask(uri, "k", "").await.1, "{uri}");
            }
        }
        for _ in 0..2 {
            assert!(!asker.ask_as(Caller::Nobody, "/v1/bulk", &["k"], "").await.1);
        }
        asker.done(6);
    }

    #[tokio::test]
    async fn a_caller_s_oldest_keys_make_room_and_nobody_else_s() {
        let asker = Asker::new();
        asker.ask_as(Caller::User(2), "/v1/bulk", &["k"], "").await;
        for nth in 0..=CALLER_KEYS_MAX {
            asker.ask("/v1/bulk", &nth.to_string(), "").await;
        }
        assert!(asker.ask_as(Caller::User(2), "/v1/bulk", &["k"], "").await.1);
        assert!(asker.ask("/v1/bulk", "1", "").await.1, "the thousand newest are known");
        assert!(!asker.ask("/v1/bulk", "0", "").await.1, "the oldest made room");
        for nth in 0..=CALLER_BYTES_MAX / ANSWER_BYTES_MAX {
            asker.ask("/v1/bulk?full", &format!("full{nth}"), "").await;
        }
        assert!(!asker.ask("/v1/bulk?full", "full0", "").await.1, "so many bytes are too many");
        let held = asker.once.held();
        let bytes: usize = held.entries.iter().filter(|(id, _)| id.actor == "uid:1").map(|(_, e)| e.bytes()).sum();
        assert!(bytes <= CALLER_BYTES_MAX && held.entries.keys().any(|id| id.actor == "uid:2"), "{bytes}");
    }
}
