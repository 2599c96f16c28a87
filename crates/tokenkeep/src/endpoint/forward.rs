//! Requests of callers to a provider's API, and its answers, streamed both ways.
//!
//! It sends nothing twice and follows no redirect. What a caller's data can choose is where below an allowed domain a
//! request goes; so every address is checked, and connected to as it was checked.

use super::SendFailure;
use super::dial;
use super::hosts::Place;
use super::http::{Connection, Sending, Timeouts, dead_code, lost, told};
use super::pool::Pool;
use super::target::{AGENT, Scheme, SecretBytes};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokenkeep_core::{Failure, FailureCode, Secret};
use tokio::sync::OnceCell;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;

/// How long a request may make no progress: neither does the provider take more of its body, nor has an answer begun.
pub const FORWARD_FIRST_BYTE: Duration = super::FIRST_BYTE_TIMEOUT;
/// How long an answer may pause.
pub const FORWARD_IDLE: Duration = Duration::from_secs(60);
/// The longest request from its begin to the answer's last byte.
pub const FORWARD_TOTAL: Duration = Duration::from_secs(3_600);
/// The most idle connections to one API host.
const POOL_IDLE_MAX: usize = 16;
/// The most API hosts that connections are kept to; beyond it all are closed.
const PLACES_MAX: usize = 256;

/// An error of a body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body as it comes from a caller.
pub type CallerBody = UnsyncBoxBody<Bytes, BodyError>;

/// What a request carries: what is in hand of it, and what is still to come.
#[derive(Debug)]
pub(crate) struct Carried {
    pub first: Bytes,
    pub rest: Option<CallerBody>,
}

/// One request to a provider's API, its headers cleaned.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub place: &'a Place,
    pub method: Method,
    pub path: PathAndQuery,
    pub headers: HeaderMap,
    pub token: &'a Secret,
    pub body: Carried,
}

/// Connections to API hosts.
#[derive(Default)]
pub(crate) struct Forwarder {
    tls: OnceCell<TlsConnector>,
    pools: Mutex<HashMap<Place, Arc<Pool<Watched>>>>,
    timeouts: Timeouts,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Sends one request, once. The answer's body holds `held` until its end.
    pub async fn send<T>(&self, call: Call<'_>, held: T) -> Result<Response<Answer<T>>, SendFailure> {
        let pool = self.pool(call.place);
        let (mut connection, used) = match pool.take().await {
            Some(connection) => (connection, true),
            None => (self.open(call.place).await.map_err(SendFailure::Unsent)?, false),
        };
        let progress = Progress::new();
        let deadline = Instant::now() + FORWARD_TOTAL;
        let place = call.place;
        let request = call.request(&progress).map_err(SendFailure::Unsent)?;
        let sent = match progress.watch(connection.send(request), self.timeouts.first_byte, deadline).await {
            Some(Sending::GivenBack(_, request)) if used => {
                // Not a byte of it was sent: it may go by another connection.
                connection = self.open(place).await.map_err(SendFailure::Unsent)?;
                progress.watch(connection.send(*request), self.timeouts.first_byte, deadline).await
            }
            sent => sent,
        };
        let answer = match sent {
            Some(Sending::Answered(answer)) => answer,
            Some(Sending::GivenBack(error, _)) => {
                return Err(SendFailure::Unsent(Failure::new(dead_code(used), &told(&error))));
            }
            Some(Sending::Lost(error)) => return Err(SendFailure::Unknown(lost(&error))),
            None => {
                let detail = format!("neither progress nor an answer within {:?}", self.timeouts.first_byte);
                return Err(SendFailure::Unknown(Failure::new(FailureCode::Timeout, &detail)));
            }
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let detail = "it switches to another protocol, which nobody asked for";
            return Err(SendFailure::Unknown(Failure::new(FailureCode::AnswerUnreadable, detail)));
        }
        Ok(answer.map(|body| Answer {
            body,
            connection: Some(connection),
            pool,
            idle: Box::pin(sleep_until((Instant::now() + FORWARD_IDLE).min(deadline))),
            deadline,
            ended: false,
            held,
        }))
    }

    fn pool(&self, place: &Place) -> Arc<Pool<Watched>> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= PLACES_MAX && !pools.contains_key(place) {
            pools.clear();
        }
        let new = || Pool::new(POOL_IDLE_MAX, super::http::POOL_IDLE_TIMEOUT);
        Arc::clone(pools.entry(place.clone()).or_insert_with(new))
    }

    async fn open(&self, place: &Place) -> Result<Connection<Watched>, Failure> {
        let (server, timeouts) = (&place.server, &self.timeouts);
        let check = |address| place.check(address);
        match server.scheme {
            Scheme::Http => {
                let stream = dial::connect(server, timeouts.connect, check).await?;
                Connection::over(TokioIo::new(stream), timeouts).await
            }
            Scheme::Https => {
                let connector = self.tls.get_or_try_init(|| dial::tls_connector(Vec::new())).await?;
                let stream = dial::connect(server, timeouts.connect, check).await?;
                let stream = dial::shake_hands(server, connector, stream, timeouts).await?;
                Connection::over(stream, timeouts).await
            }
        }
    }
}

impl Call<'_> {
    fn request(self, progress: &Progress) -> Result<Request<Watched>, Failure> {
        let unfit = |what: &str| Failure::new(FailureCode::AnswerInvalid, &format!("{what} does not fit a header"));
        let Carried { first, rest } = self.body;
        let mut request = Request::new(Watched { first: Some(first), rest, progress: progress.clone() });
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.into();
        *request.headers_mut() = self.headers;
        let headers = request.headers_mut();
        let host = self.place.authority().parse().map_err(|_| unfit("the host"))?;
        headers.insert(HOST, host);
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        let bearer = Secret::new(format!("Bearer {}", self.token.expose()));
        let mut bearer = HeaderValue::from_maybe_shared(Bytes::from_owner(SecretBytes(bearer)))
            .map_err(|_| unfit("the access token"))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        Ok(request)
    }
}

/// When a request last made progress.
#[derive(Clone, Debug)]
struct Progress {
    begun: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Progress {
    fn new() -> Self {
        Self { begun: Instant::now(), last_ms: Arc::default() }
    }

    fn made(&self) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// What `sending` comes to; `None` where it makes no progress `within` this, or is not over by `deadline`.
    async fn watch<T>(&self, sending: impl Future<Output = T>, within: Duration, deadline: Instant) -> Option<T> {
        let mut sending = pin!(sending);
        self.made();
        loop {
            let until = (self.last() + within).min(deadline);
            match timeout_at(until, &mut sending).await {
                Ok(sent) => return Some(sent),
                Err(_) if (self.last() + within).min(deadline) <= until => return None,
                Err(_) => {}
            }
        }
    }
}

/// The body of a request, which notes each piece that the connection takes.
#[derive(Debug)]
pub(crate) struct Watched {
    first: Option<Bytes>,
    rest: Option<CallerBody>,
    progress: Progress,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            self.progress.made();
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
            match std::task::ready!(Pin::new(rest).poll_frame(cx)) {
                // Trailers are of one connection, as the headers are that announce them.
                Some(Ok(frame)) if !frame.is_data() => {}
                frame => {
                    self.progress.made();
                    return Poll::Ready(frame);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.as_ref().is_none_or(Bytes::is_empty) && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(first));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint
    }
}

/// The body of an answer. At its end the connection is kept for the next request; where it is dropped before, it is
/// closed.
#[derive(Debug)]
pub struct Answer<T = ()> {
    body: Incoming,
    connection: Option<Connection<Watched>>,
    pool: Arc<Pool<Watched>>,
    idle: Pin<Box<Sleep>>,
    deadline: Instant,
    ended: bool,
    #[expect(dead_code, reason = "it is held, not read")]
    held: T,
}

impl<T: Unpin> Body for Answer<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if !frame.is_data() => {}
                Poll::Ready(Some(Ok(frame))) => {
                    let next = (Instant::now() + FORWARD_IDLE).min(self.deadline);
                    self.idle.as_mut().reset(next);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    std::task::ready!(self.idle.as_mut().poll(cx));
                    return Poll::Ready(Some(Err("the provider's answer did not go on in time".into())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let is_over = self.ended || self.body.is_end_stream();
        if let Some(connection) = self.connection.take().filter(|_| is_over)
            && tokio::runtime::Handle::try_current().is_ok()
        {
            self.pool.put(connection);
        }
    }
}

#[cfg(test)]
mod tests;
