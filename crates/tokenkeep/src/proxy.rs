//! Calls to a provider's API for those who never hold its token.
//!
//! [`TokenKeep::forward`] adds the access token to a caller's request and streams both bodies. It goes to the provider's
//! API hosts alone ([`crate::config::Provider::api_hosts`]), follows no redirect, and sends nothing twice but for one
//! case: an answer of 401 reports the token as refused, and a body that is in hand whole goes once more with the next.

mod headers;
mod path;

use crate::config::Provider;
use crate::endpoint::SendFailure;
use crate::endpoint::forward::{Answer, Call, Carried, Forwarder};
use crate::endpoint::hosts::{self, NoTarget, Place};
use crate::error::Error;
use crate::jira::SiteCache;
use crate::keep::{TokenAsk, TokenKeep};
use crate::latency::{Calls, Latencies};
use crate::tokens::Handed;
use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokenkeep_core::{ConnectionKey, Failure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

pub use crate::endpoint::forward::{CallerBody, FORWARD_FIRST_BYTE, FORWARD_IDLE, FORWARD_TOTAL};
pub use headers::{ANSWERED_BY, LOCATION};
pub use path::PATH_BYTES_MAX;

/// The largest body that is kept to be sent again after a 401.
pub const REPLAY_BYTES_MAX: usize = 1024 * 1024;
/// How long a body of unknown length is waited for: one that ends by then can be sent again, any other is streamed.
pub const REPLAY_WAIT: Duration = Duration::from_millis(250);
/// How long a body of at most [`REPLAY_BYTES_MAX`] may take to come.
pub const READ_AHEAD_WITHIN: Duration = Duration::from_secs(60);
/// The most calls at once, over all providers.
pub const CALLS_MAX: usize = 256;
/// The most calls at once to one provider, so that a slow one leaves room for the others.
pub const CALLS_PER_PROVIDER_MAX: usize = 64;
/// A token that came of a refused one, and is refused itself, is not reported for this long: its API then means
/// something else than that the token is over (a scope is missing), and each report costs a refresh.
pub const MENDED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long the token of a body lives at least that can be sent only once.
const STREAMED_MIN_TTL: Duration = Duration::from_secs(10);
/// How long a call waits for a token where none is in hand.
const TOKEN_WAIT: Duration = Duration::from_secs(10);
/// The most connections of which is remembered that their token was mended.
const MENDED_MAX: usize = 4_096;
/// The methods that pass. TRACE is not among them: its answer would show the token.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// A caller's request to the API of a connection's provider.
#[derive(Debug)]
pub struct Outgoing {
    /// Its method.
    pub method: Method,
    /// The path, as it was written, from its first slash on.
    pub path: String,
    /// The query, as it was written.
    pub query: Option<String>,
    /// Its headers. Credentials, and what belongs to the caller's own connection, are left out.
    pub headers: HeaderMap,
    /// Which of the provider's API hosts; `None`: the first.
    pub target: Option<String>,
    /// Its body.
    pub body: CallerBody,
}

/// Why a call was not made, or has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// There is no token, or no connection.
    #[error(transparent)]
    Keep(#[from] Error),
    /// A part of the request is not what it must be; nothing was sent.
    #[error("{found}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// What is wrong with it.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The provider has no API hosts; nothing was sent.
    #[error("the provider `{provider}` has no API hosts, so nothing may be sent with its token")]
    NoApiHosts {
        /// The provider.
        provider: String,
    },
    /// The caller named a host that is not one of the provider's; nothing was sent.
    #[error("`{found}` is none of the API hosts of provider `{provider}`")]
    Forbidden {
        /// What was named.
        found: String,
        /// The provider.
        provider: String,
        /// Its API hosts.
        allowed: String,
    },
    /// The method does not pass; nothing was sent.
    #[error("the method {0} is not forwarded")]
    Method(Method),
    /// The caller wants to speak another protocol; nothing was sent.
    #[error("an upgrade to another protocol is not forwarded")]
    Upgrade,
    /// Too many calls at once; nothing was sent.
    #[error("{0} calls are in flight already")]
    Busy(usize),
    /// The caller's body did not come whole; nothing was sent.
    #[error("the request's body did not come whole: {0}")]
    Body(String),
    /// No connection to the provider, or it was dead; nothing was sent.
    #[error("{target} was not reached: {}", .failure.message())]
    Unsent {
        /// The host.
        target: String,
        /// Why.
        failure: Failure,
    },
    /// The request was sent, or may have been, and has no answer.
    #[error("{target} gave no answer: {}", .failure.message())]
    Unanswered {
        /// The host.
        target: String,
        /// Why.
        failure: Failure,
    },
}

/// The body of an answer, streamed.
pub type AnswerBody = Answer<Arc<Slots>>;

/// Calls in flight, and what is remembered between them.
#[derive(Debug)]
pub(crate) struct Proxy {
    forwarder: Forwarder,
    slots: Arc<Semaphore>,
    by_provider: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    /// The generation that a refused token was mended by, and when.
    mended: Mutex<HashMap<ConnectionKey, (u64, Instant)>>,
    pub latencies: Latencies,
    /// Which sites of Jira grants reach.
    pub sites: SiteCache,
}

/// A call's places among all, and among those to its provider.
#[derive(Debug)]
pub struct Slots {
    _all: OwnedSemaphorePermit,
    _provider: OwnedSemaphorePermit,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            forwarder: Forwarder::default(),
            slots: Arc::new(Semaphore::new(CALLS_MAX)),
            by_provider: Mutex::default(),
            mended: Mutex::default(),
            latencies: Latencies::default(),
            sites: SiteCache::default(),
        }
    }
}

impl Proxy {
    fn slots(&self, provider: &str) -> Result<Arc<Slots>, ForwardError> {
        let of_provider = {
            let mut by_provider = self.by_provider.lock().unwrap_or_else(PoisonError::into_inner);
            // Providers come and go with the configuration.
            by_provider.retain(|name, slots| name == provider || slots.available_permits() < CALLS_PER_PROVIDER_MAX);
            let new = || Arc::new(Semaphore::new(CALLS_PER_PROVIDER_MAX));
            Arc::clone(by_provider.entry(provider.to_owned()).or_insert_with(new))
        };
        let busy = |most| move |_| ForwardError::Busy(most);
        let of_provider = of_provider.try_acquire_owned().map_err(busy(CALLS_PER_PROVIDER_MAX))?;
        let all = Arc::clone(&self.slots).try_acquire_owned().map_err(busy(CALLS_MAX))?;
        Ok(Arc::new(Slots { _all: all, _provider: of_provider }))
    }

    /// Whether a token of this generation came of a refused one just now.
    fn was_mended(&self, key: &ConnectionKey, generation: u64) -> bool {
        let mended = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
        mended.get(key).is_some_and(|(by, at)| *by == generation && at.elapsed() < MENDED_AGAIN_AFTER)
    }

    fn note_mended(&self, key: &ConnectionKey, generation: u64) {
        let mut mended = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
        if mended.len() >= MENDED_MAX {
            mended.retain(|_, (_, at)| at.elapsed() < MENDED_AGAIN_AFTER);
        }
        if mended.len() < MENDED_MAX {
            mended.insert(key.clone(), (generation, Instant::now()));
        }
    }

    /// A token was taken: whatever refused it before is over.
    fn note_taken(&self, key: &ConnectionKey) {
        self.mended.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// A request that has been checked.
struct Checked {
    key: ConnectionKey,
    provider: Arc<Provider>,
    place: Place,
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
}

impl TokenKeep {
    /// Sends a request to the API of a connection's provider with its access token, and gives the answer as it comes.
    /// A token that the API refuses with 401 is refreshed, once, and the request sent once more where its body was in
    /// hand whole (at most [`REPLAY_BYTES_MAX`]).
    ///
    /// # Errors
    /// [`ForwardError`]; the errors of [`TokenKeep::token`] where there is none.
    pub async fn forward(&self, key: &ConnectionKey, outgoing: Outgoing) -> Result<Response<AnswerBody>, ForwardError> {
        let connection = self.get(key).await?;
        let (call, body) = self.check(key, &connection.provider, outgoing)?;
        let slots = self.proxy().slots(&connection.provider)?;
        match read_ahead(body).await? {
            Carried { first, rest: None } => self.replayable(&call, first, slots).await,
            carried => self.streamed(&call, carried, slots).await,
        }
    }

    /// How calls to each provider's API ended since the start, and how long their answers took.
    #[must_use]
    pub fn api_calls(&self) -> BTreeMap<String, Calls> {
        self.proxy().latencies.all()
    }

    fn check(
        &self,
        key: &ConnectionKey,
        provider: &str,
        outgoing: Outgoing,
    ) -> Result<(Checked, CallerBody), ForwardError> {
        let Outgoing { method, path, query, headers, target, body } = outgoing;
        if headers::upgrades(&headers) {
            return Err(ForwardError::Upgrade);
        }
        if !METHODS.contains(&method) {
            return Err(ForwardError::Method(method));
        }
        let unknown = |_| ForwardError::NoApiHosts { provider: provider.to_owned() };
        let provider = self.provider_of(provider).map_err(unknown)?;
        let place = place(&provider, target.as_deref())?;
        let path = path::read(&path, query.as_deref()).map_err(|found| ForwardError::Invalid {
            field: "path",
            found: format!("the path cannot be forwarded: {found}"),
            expected: "Expected the path at the provider, such as `me` or `rest/api/3/project/search`; another host of its API is named by the header Tokenkeep-Target.".to_owned(),
        })?;
        let headers = headers::to_provider(&headers);
        Ok((Checked { key: key.clone(), provider, place, method, path, headers }, body))
    }

    async fn replayable(
        &self,
        call: &Checked,
        body: Bytes,
        slots: Arc<Slots>,
    ) -> Result<Response<AnswerBody>, ForwardError> {
        let carried = || Carried { first: body.clone(), rest: None };
        let handed = self.token(&call.key, TokenAsk { min_ttl: Duration::ZERO, wait: TOKEN_WAIT }).await?;
        let answer = self.send_once(call, carried(), &handed, Arc::clone(&slots)).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        match self.mend(call, &handed).await? {
            Some(next) => self.send_once(call, carried(), &next, slots).await,
            None => Ok(answer),
        }
    }

    /// What can be sent only once is not sent again after a 401; but the next call then has another token.
    async fn streamed(
        &self,
        call: &Checked,
        body: Carried,
        slots: Arc<Slots>,
    ) -> Result<Response<AnswerBody>, ForwardError> {
        let handed = self.token(&call.key, TokenAsk { min_ttl: STREAMED_MIN_TTL, wait: TOKEN_WAIT }).await?;
        let answer = self.send_once(call, body, &handed, slots).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.mend(call, &handed).await?;
        }
        Ok(answer)
    }

    async fn send_once(
        &self,
        call: &Checked,
        body: Carried,
        handed: &Handed,
        slots: Arc<Slots>,
    ) -> Result<Response<AnswerBody>, ForwardError> {
        let (proxy, provider, target) = (self.proxy(), &call.provider.name, call.place.to_string());
        let asked = format!("{target}{}", call.path);
        let begun = Instant::now();
        let sending = Call {
            place: &call.place,
            method: call.method.clone(),
            path: call.path.clone(),
            headers: call.headers.clone(),
            token: &handed.token.access_token,
            body,
        };
        match proxy.forwarder.send(sending, slots).await {
            Ok(mut answer) => {
                let (status, took) = (answer.status(), begun.elapsed());
                proxy.latencies.answered(provider, status.as_u16(), took);
                tracing::debug!(connection = %call.key, provider, status = status.as_u16(), ?took, "a call was answered");
                if status != StatusCode::UNAUTHORIZED {
                    proxy.note_taken(&call.key);
                }
                *answer.headers_mut() = headers::to_caller(answer.headers(), &asked, &target);
                Ok(answer)
            }
            Err(failed) => {
                proxy.latencies.failed(provider);
                let (SendFailure::Unsent(failure) | SendFailure::Unknown(failure)) = &failed;
                tracing::debug!(connection = %call.key, provider, code = failure.code.as_str(), "a call failed");
                Err(match failed {
                    SendFailure::Unsent(failure) => ForwardError::Unsent { target, failure },
                    SendFailure::Unknown(failure) => ForwardError::Unanswered { target, failure },
                })
            }
        }
    }

    /// Reports a refused token. `Some` is another one; `None`: there is none, and the refusal stands.
    async fn mend(&self, call: &Checked, refused: &Handed) -> Result<Option<Handed>, ForwardError> {
        let proxy = self.proxy();
        if proxy.was_mended(&call.key, refused.token.generation) {
            return Ok(None);
        }
        match self.report_refused(&call.key, refused).await {
            Err(error @ Error::ShuttingDown) => return Err(error.into()),
            Err(error) => tracing::debug!(connection = %call.key, %error, "a refused token was not refreshed"),
            Ok(_) => {}
        }
        let next = self.token(&call.key, TokenAsk { min_ttl: Duration::ZERO, wait: TOKEN_WAIT }).await?;
        if next.token.generation == refused.token.generation {
            return Ok(None);
        }
        proxy.latencies.mended(&call.provider.name);
        proxy.note_mended(&call.key, next.token.generation);
        Ok(Some(next))
    }
}

fn place(provider: &Provider, asked: Option<&str>) -> Result<Place, ForwardError> {
    let allowed = || provider.api_hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let found = || tokenkeep_core::model::printable(asked.unwrap_or_default(), 100);
    hosts::target(&provider.api_hosts, asked).map_err(|why| match why {
        NoTarget::Unknown => ForwardError::NoApiHosts { provider: provider.name.clone() },
        NoTarget::Needed => ForwardError::Invalid {
            field: "Tokenkeep-Target",
            found: format!("the provider `{}` has many API hosts, and none is named", provider.name),
            expected: format!("Name one in the header Tokenkeep-Target: {}.", allowed()),
        },
        NoTarget::Malformed => ForwardError::Invalid {
            field: "Tokenkeep-Target",
            found: format!("the header Tokenkeep-Target is `{}`", found()),
            expected: format!("Expected https://HOST, plainly written, of these: {}.", allowed()),
        },
        NoTarget::Forbidden => {
            ForwardError::Forbidden { found: found(), provider: provider.name.clone(), allowed: allowed() }
        }
    })
}

/// Takes into hand what may have to be sent again: the whole of a small body, the first piece of one whose length
/// nobody has told.
async fn read_ahead(mut body: CallerBody) -> Result<Carried, ForwardError> {
    let told = body.size_hint().exact();
    if told.is_some_and(|bytes| bytes > REPLAY_BYTES_MAX as u64) {
        return Ok(Carried { first: Bytes::new(), rest: Some(body) });
    }
    let mut first = BytesMut::new();
    let deadline = Instant::now() + if told.is_some() { READ_AHEAD_WITHIN } else { REPLAY_WAIT };
    while first.len() <= REPLAY_BYTES_MAX {
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(None) => return Ok(Carried { first: first.freeze(), rest: None }),
            Ok(Some(frame)) => frame.map_err(|error| ForwardError::Body(error.to_string()))?,
            Err(_) if told.is_none() => break,
            Err(_) => return Err(ForwardError::Body(format!("it was not there within {READ_AHEAD_WITHIN:?}"))),
        };
        if let Some(data) = frame.data_ref() {
            first.extend_from_slice(data);
        }
    }
    Ok(Carried { first: first.freeze(), rest: Some(body) })
}

#[cfg(test)]
mod tests;
