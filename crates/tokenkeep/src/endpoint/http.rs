//! The endpoint that speaks HTTP/1.1, over one hyper connection per channel.
//!
//! What can go wrong is told by where it went wrong. Until hyper has taken the request out of our hands (the
//! connection was not ready, or `try_send_request` gives the message back) it is provably unsent; from then on
//! nobody knows.

use super::dial::{self, Stream};
use super::pool::Pool;
use super::target::{self, Origin, RequestBody, Scheme, Server, Target, check_address};
use super::{
    ANSWER_BYTES_MAX, CONNECT_TIMEOUT, Channel, Endpoint, FIRST_BYTE_TIMEOUT, HEADERS_BYTES_MAX, Reuse, SendFailure,
    TLS_TIMEOUT, TOTAL_TIMEOUT,
};
use async_trait::async_trait;
use http::header::{CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::ProviderRequest;
use tokenkeep_core::{Failure, FailureCode};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::Url;
use zeroize::Zeroizing;

/// The most idle connections that are kept to one server.
pub const POOL_IDLE_MAX: usize = 256;
/// How long a connection is kept idle: less than servers usually keep theirs (60 s and more), so that it is
/// seldom they who close it just as a request is written.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most token URLs that are remembered; beyond it all are forgotten and read anew.
pub const TARGETS_MAX: usize = 4096;
/// How long an idle connection may take to say that it can carry a request.
const POOL_READY_TIMEOUT: Duration = Duration::from_millis(100);
/// Room for an answer of unknown length; token answers are seldom larger.
const BODY_BYTES_FIRST: usize = 8 * 1024;
/// A `Retry-After` beyond this is this.
const RETRY_AFTER_SECONDS_MAX: u64 = u32::MAX as u64;

/// How long each step of a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Resolving and connecting.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// From the start of the request to the head of the answer.
    pub first_byte: Duration,
    /// From the start of the request to the end of the answer.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: CONNECT_TIMEOUT, tls: TLS_TIMEOUT, first_byte: FIRST_BYTE_TIMEOUT, total: TOTAL_TIMEOUT }
    }
}

/// Where an [`HttpEndpoint`] may connect to (`security.md` 10 and 11).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// URLs that the configuration names: all but link-local addresses, and plain http on this machine.
    #[default]
    Configured,
    /// URLs that any user may have given: https to addresses of the public Internet. Of these hosts (`host` or
    /// `host:port`) anything, plain http included.
    Public {
        /// The hosts that the configuration names.
        except: Vec<String>,
    },
}

/// How much of an answer is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerLimit {
    /// A longer one is [`FailureCode::AnswerTooLarge`].
    Refuse(usize),
    /// Of a longer or broken one the beginning: its status is what counts.
    Cut(usize),
}

impl Default for AnswerLimit {
    fn default() -> Self {
        Self::Refuse(ANSWER_BYTES_MAX)
    }
}

/// What an [`HttpEndpoint`] may do, and with which limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hosts that may be spoken to in plain http; this machine always may.
    pub allow_http_hosts: Vec<String>,
    /// Hosts that may have link-local addresses.
    pub allow_private_hosts: Vec<String>,
    /// Where it may connect to at all.
    pub reach: Reach,
    /// How much of an answer is read.
    pub answer: AnswerLimit,
    /// Root certificates beside those of the machine.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// The most idle connections to one server.
    pub pool_idle_max: usize,
    /// How long a connection is kept idle.
    pub pool_idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_http_hosts: Vec::new(),
            allow_private_hosts: Vec::new(),
            reach: Reach::default(),
            answer: AnswerLimit::default(),
            extra_roots: Vec::new(),
            timeouts: Timeouts::default(),
            pool_idle_max: POOL_IDLE_MAX,
            pool_idle_timeout: POOL_IDLE_TIMEOUT,
        }
    }
}

/// An [`Endpoint`] over TCP and TLS. It follows no redirect and sends nothing twice.
///
/// It has to be used inside a tokio runtime, where each of its connections is a task.
///
/// ```
/// use tokenkeep::endpoint::http::{HttpEndpoint, Options};
/// let endpoint = HttpEndpoint::new(Options { allow_http_hosts: vec!["idp.test".into()], ..Options::default() });
/// # drop(endpoint);
/// ```
pub struct HttpEndpoint {
    options: Arc<Options>,
    /// Made at the first https request: reading the root certificates takes a while.
    tls: OnceCell<TlsConnector>,
    directory: RwLock<Directory>,
}

#[derive(Default)]
struct Directory {
    /// By the URL's text.
    targets: HashMap<Box<str>, Arc<Target>>,
    origins: HashMap<Server, Arc<Origin>>,
}

impl std::fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpEndpoint").field("options", &self.options).finish_non_exhaustive()
    }
}

impl HttpEndpoint {
    /// An endpoint with an empty pool.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options), tls: OnceCell::new(), directory: RwLock::default() }
    }

    /// Whether it would connect to this URL, as far as that can be told without asking for the host's addresses.
    ///
    /// # Errors
    /// [`FailureCode::WrongEndpoint`]: why not.
    pub fn check(&self, url: &Url) -> Result<(), Failure> {
        target::check_url(url, &self.options)
    }

    fn target(&self, url: &Url) -> Result<Arc<Target>, Failure> {
        let known = self.directory.read().unwrap_or_else(PoisonError::into_inner).targets.get(url.as_str()).cloned();
        known.map_or_else(|| self.new_target(url), Ok)
    }

    fn new_target(&self, url: &Url) -> Result<Arc<Target>, Failure> {
        let server = Server::of(url, &self.options)?;
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        if directory.targets.len() >= TARGETS_MAX {
            *directory = Directory::default();
        }
        let Options { pool_idle_max, pool_idle_timeout, .. } = *self.options;
        let origin = directory.origins.entry(server).or_insert_with_key(|server| {
            let pool = Pool::new(pool_idle_max, pool_idle_timeout);
            Arc::new(Origin { server: server.clone(), pool })
        });
        let target = Arc::new(Target::new(url, Arc::clone(origin))?);
        directory.targets.insert(url.as_str().into(), Arc::clone(&target));
        Ok(target)
    }

    async fn open(&self, server: &Server) -> Result<Connection, Failure> {
        let timeouts = &self.options.timeouts;
        let check = |address| check_address(server, address, &self.options);
        match server.scheme {
            Scheme::Http => {
                let stream = dial::connect(server, timeouts.connect, check).await?;
                Connection::over(TokioIo::new(stream), timeouts).await
            }
            Scheme::Https => {
                let connector = self.tls_connector().await?;
                let stream = dial::connect(server, timeouts.connect, check).await?;
                let stream = dial::shake_hands(server, connector, stream, timeouts).await?;
                Connection::over(stream, timeouts).await
            }
        }
    }

    async fn tls_connector(&self) -> Result<&TlsConnector, Failure> {
        self.tls.get_or_try_init(|| dial::tls_connector(self.options.extra_roots.clone())).await
    }
}

#[async_trait]
impl Endpoint for HttpEndpoint {
    async fn connect(&self, url: &Url, reuse: Reuse) -> Result<Box<dyn Channel>, Failure> {
        let target = self.target(url)?;
        let Options { timeouts, answer: limit, .. } = *self.options;
        if reuse == Reuse::Pooled
            && let Some(connection) = target.origin.pool.take().await
        {
            return Ok(Box::new(HttpChannel { connection, target, timeouts, limit, reuse, used: true }));
        }
        let connection = self.open(&target.origin.server).await?;
        Ok(Box::new(HttpChannel { connection, target, timeouts, limit, reuse, used: false }))
    }
}

/// One connection, for one request.
struct HttpChannel {
    connection: Connection,
    target: Arc<Target>,
    timeouts: Timeouts,
    limit: AnswerLimit,
    reuse: Reuse,
    /// It has carried requests before.
    used: bool,
}

#[async_trait]
impl Channel for HttpChannel {
    async fn send(self: Box<Self>, request: ProviderRequest, timeout: Duration) -> Result<RawAnswer, SendFailure> {
        let Self { mut connection, target, timeouts, limit, reuse, used } = *self;
        let request = target.request(request).map_err(SendFailure::Unsent)?;
        let total = timeout.min(timeouts.total);
        let first_byte_by = Instant::now() + timeouts.first_byte.min(total);
        let deadline = Instant::now() + total;
        let dead = |detail: &str| SendFailure::Unsent(Failure::new(dead_code(used), detail));
        match timeout_at(first_byte_by, connection.sender.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(dead(&told(&error))),
            Err(_) => return Err(dead("it was not ready in time")),
        }
        let answer = match timeout_at(first_byte_by, connection.send(request)).await {
            Ok(Sending::Answered(answer)) => answer,
            Ok(Sending::GivenBack(error, _)) => return Err(dead(&told(&error))),
            Ok(Sending::Lost(error)) => return Err(SendFailure::Unknown(lost(&error))),
            Err(_) => return Err(SendFailure::Unknown(timed_out("no answer", timeouts.first_byte.min(total)))),
        };
        let answer = timeout_at(deadline, read_answer(answer, limit))
            .await
            .unwrap_or_else(|_| Err(timed_out("no end of the answer", total)))
            .map_err(SendFailure::Unknown)?;
        if reuse == Reuse::Pooled {
            target.origin.pool.put(connection);
        }
        Ok(answer)
    }
}

/// One HTTP/1.1 connection and the task that drives it, which ends with it.
#[derive(Debug)]
pub(super) struct Connection<B = RequestBody> {
    sender: SendRequest<B>,
    _driver: Driver,
}

#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What became of a request that was offered to a connection.
pub(super) enum Sending<B> {
    /// The head of an answer.
    Answered(Response<Incoming>),
    /// Not a byte of it was written.
    GivenBack(hyper::Error, Box<Request<B>>),
    /// Nobody knows.
    Lost(hyper::Error),
}

/// What a request may carry.
pub(super) trait Content:
    Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static
{
}

impl<B> Content for B where B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static {}

impl<B: Content> Connection<B> {
    /// Makes ready to speak HTTP: nothing is sent by it.
    pub(super) async fn over(stream: impl Stream, timeouts: &Timeouts) -> Result<Self, Failure> {
        let failed = |detail: &str| Failure::new(FailureCode::ConnectFailed, detail);
        let (mut sender, driver) = http1::Builder::new()
            .max_buf_size(HEADERS_BYTES_MAX)
            .max_header_size(HEADERS_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(|error| failed(&told(&error)))?;
        let driver = Driver(tokio::spawn(async move {
            // Its error, if it has one, is also the outcome of the request that it carries.
            let _ = driver.await;
        }));
        match timeout(timeouts.connect, sender.ready()).await {
            Ok(Ok(())) => Ok(Self { sender, _driver: driver }),
            Ok(Err(error)) => Err(failed(&told(&error))),
            Err(_) => Err(failed("the connection was not ready in time")),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it can carry another request, as far as anyone can tell.
    pub(super) async fn is_alive(&mut self) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        self.sender.is_ready()
            || timeout(POOL_READY_TIMEOUT, self.sender.ready()).await.is_ok_and(|ready| ready.is_ok())
    }

    pub(super) async fn send(&mut self, request: Request<B>) -> Sending<B> {
        match self.sender.try_send_request(request).await {
            Ok(answer) => Sending::Answered(answer),
            Err(mut refusal) => match refusal.take_message() {
                Some(request) => Sending::GivenBack(refusal.into_error(), Box::new(request)),
                None => Sending::Lost(refusal.into_error()),
            },
        }
    }
}

pub(super) fn dead_code(used: bool) -> FailureCode {
    if used { FailureCode::ConnectionDead } else { FailureCode::ConnectFailed }
}

pub(super) fn timed_out(what: &str, after: Duration) -> Failure {
    Failure::new(FailureCode::Timeout, &format!("{what} within {after:?}"))
}

/// Why there is no head of an answer.
pub(super) fn lost(error: &hyper::Error) -> Failure {
    let code = if error.is_parse_too_large() {
        FailureCode::AnswerTooLarge
    } else if error.is_parse() {
        FailureCode::AnswerUnreadable
    } else {
        FailureCode::ConnectionLost
    };
    Failure::new(code, &told(error))
}

/// An error and its causes.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

async fn read_answer(answer: Response<Incoming>, limit: AnswerLimit) -> Result<RawAnswer, Failure> {
    let (head, body) = answer.into_parts();
    let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = text(CONTENT_TYPE).map(str::to_owned);
    let retry_after = retry_after(&head.headers, SystemTime::now());
    let body = match limit {
        AnswerLimit::Refuse(most) => read_body(body, most).await?,
        AnswerLimit::Cut(most) => read_beginning(body, most).await,
    };
    Ok(RawAnswer { status: head.status.as_u16(), content_type, retry_after, body })
}

async fn read_body(mut body: Incoming, most: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let announced = body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let too_large = || Failure::new(FailureCode::AnswerTooLarge, &format!("more than {most} bytes"));
    if announced.is_some_and(|bytes| bytes > most) {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(BODY_BYTES_FIRST)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::new(FailureCode::AnswerTruncated, &told(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(too_large());
        }
        append(&mut bytes, &data);
    }
    Ok(bytes)
}

async fn read_beginning(mut body: Incoming, most: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::new());
    while bytes.len() < most
        && let Some(Ok(frame)) = body.frame().await
    {
        let Ok(data) = frame.into_data() else { continue };
        let room = most - bytes.len();
        append(&mut bytes, &data[..data.len().min(room)]);
    }
    bytes
}

/// Appends without leaving an unwiped copy behind where the vector has to grow.
fn append(bytes: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let needed = bytes.len() + data.len();
    if needed > bytes.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * bytes.capacity())));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(data);
}

/// `Retry-After` (RFC 9110 section 10.2.3) as a span: seconds, or a date measured against the server's own
/// `Date` where it sends one, so that a wrong clock on either side does not matter.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = text(RETRY_AFTER).filter(|value| !value.is_empty())?;
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = value.parse().unwrap_or(RETRY_AFTER_SECONDS_MAX);
        return Some(Duration::from_secs(seconds.min(RETRY_AFTER_SECONDS_MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let reference = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(at.duration_since(reference).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
