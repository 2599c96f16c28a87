//! The workers: one for each webhook, which sends one message at a time.

use super::decide::{self, Answer, Decision, Health, Outcome, REST_AFTER};
use super::model::{Attempt, Delivery, Look, Message, Next, Secrets, Settings, Subject, Webhook, WebhookId};
use super::sign::{self, ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use super::{Body, Egress, IN_FLIGHT_MAX, PENDING_MAX, Parts, TIMEOUTS};
use crate::endpoint::http::HttpEndpoint;
use crate::endpoint::{Endpoint, Reuse, SendFailure};
use crate::engine::lock;
use crate::seal::random_bytes;
use crate::store::{Event, StoreError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokenkeep_core::oauth::request::{Method, ProviderRequest};
use tokenkeep_core::{Failure, FailureCode, Secret, Timestamp};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use url::Url;

/// How many events that a webhook does not get go by before that is looked at, and noted in the store.
const PASS_EVERY: u64 = 500;
/// How long a store that failed is left alone.
const STORE_RETRY_EVERY: Duration = Duration::from_secs(5);
/// How long an end waits for what is in flight.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long a worker sleeps at most: a machine that was suspended has lost time.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// What the workers share.
pub(super) struct Shared {
    pub parts: Parts,
    egress: Mutex<Egress>,
    body: Mutex<Option<Body>>,
    in_flight: Semaphore,
}

/// The workers by webhook.
#[derive(Default)]
pub(super) struct Workers(Mutex<BTreeMap<WebhookId, Worker>>, watch::Sender<bool>);

struct Worker {
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Workers {
    /// Sees to it that a webhook has its worker.
    pub(super) fn ensure(&self, shared: &Arc<Shared>, id: WebhookId) {
        let mut workers = lock(&self.0);
        workers.retain(|_, worker| !worker.task.is_finished());
        if !shared.speaks() || *self.1.borrow() || workers.contains_key(&id) {
            return;
        }
        let wake = Arc::new(Notify::new());
        let work = Arc::clone(shared).work(id, Arc::clone(&wake), self.1.subscribe());
        workers.insert(id, Worker { wake, task: tokio::spawn(work) });
    }

    /// Lets a webhook's worker look again.
    pub(super) fn wake(&self, id: WebhookId) {
        if let Some(worker) = lock(&self.0).get(&id) {
            worker.wake.notify_one();
        }
    }

    /// Ends all.
    pub(super) async fn stop(&self) {
        self.1.send_replace(true);
        let workers = std::mem::take(&mut *lock(&self.0));
        let ended = async {
            for worker in workers.into_values() {
                // It has no outcome of its own.
                while !worker.task.is_finished() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::info!("webhook deliveries in flight were broken off; they are sent again after the next start");
        }
    }
}

/// What a worker does next.
enum Step {
    /// It looks again.
    Again,
    /// It waits: until a time, and for an event where `news`.
    Wait { until: Option<Timestamp>, news: bool },
    /// The webhook is gone.
    End,
}

impl Shared {
    pub(super) fn new(parts: Parts, egress: Egress) -> Self {
        let (egress, in_flight) = (Mutex::new(egress), Semaphore::new(IN_FLIGHT_MAX));
        Self { parts, egress, body: Mutex::default(), in_flight }
    }

    pub(super) fn speak(&self, body: Body) {
        *lock(&self.body) = Some(body);
    }

    fn speaks(&self) -> bool {
        lock(&self.body).is_some()
    }

    pub(super) fn reach(&self, egress: Egress) {
        *lock(&self.egress) = egress;
    }

    pub(super) fn check(&self, url: &Url) -> Result<(), Failure> {
        HttpEndpoint::new(lock(&self.egress).options.clone()).check(url)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    async fn work(self: Arc<Self>, id: WebhookId, wake: Arc<Notify>, mut stop: watch::Receiver<bool>) {
        let mut news = (self.parts.news)();
        let mut seen = 0;
        let mut wanted = None;
        while !*stop.borrow() {
            // What is published from here on is heard, and what was before is in the store.
            news = news.resubscribe();
            let step = match self.step(id, &mut seen, &mut wanted).await {
                Ok(step) => step,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(webhook = %id, %error, "a webhook waits for the store");
                    Step::Wait { until: Some(self.now() + STORE_RETRY_EVERY), news: false }
                }
            };
            let (until, listens) = match step {
                Step::Again => continue,
                Step::Wait { until, news } => (until, news),
                Step::End => return,
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = wake.notified() => {}
                () = self.sleep_until(until) => {}
                () = heard(&mut news, wanted.as_ref()), if listens => {}
            }
        }
    }

    async fn sleep_until(&self, until: Option<Timestamp>) {
        match until {
            Some(until) => tokio::time::sleep(self.now().until(until).min(SLEEP_MAX)).await,
            None => std::future::pending().await,
        }
    }

    /// Does what is first to be done.
    async fn step(&self, id: WebhookId, seen: &mut u64, wanted: &mut Option<Settings>) -> Result<Step, StoreError> {
        let now = self.now();
        let Some(look) = self.parts.store.look(now, id, *seen).await? else { return Ok(Step::End) };
        let Look { webhook, secrets, due, next_at, event, oldest, newest } = look;
        *wanted = Some(webhook.settings.clone());
        *seen = (*seen).max(webhook.cursor);
        if webhook.disabled.is_some() {
            return Ok(Step::Wait { until: None, news: false });
        }
        if *seen + 1 < oldest {
            tracing::warn!(webhook = %id, first = *seen + 1, last = oldest - 1, "events fell out of the history before a webhook was sent them");
            self.parts.store.note_lost(now, id, *seen + 1, oldest - 1).await?;
            return Ok(Step::Again);
        }
        if let Some(until) = webhook.health.rest_until.filter(|until| *until > now) {
            return Ok(Step::Wait { until: Some(until), news: false });
        }
        if let Some(delivery) = due {
            self.again(&webhook, &secrets, delivery).await?;
            return Ok(Step::Again);
        }
        // While new events come, a receiver that is down is asked after each rest, however late the next retry is.
        let may_hurry = webhook.health.failures >= REST_AFTER && next_at.is_some();
        if webhook.pending >= PENDING_MAX {
            if !(may_hurry && event.is_some()) {
                return Ok(Step::Wait { until: next_at, news: false });
            }
            self.parts.store.hurry(now, id).await?;
            return Ok(Step::Again);
        }
        match event {
            None => {
                *seen = newest;
                if newest - webhook.cursor >= PASS_EVERY {
                    self.parts.store.pass(id, newest).await?;
                }
                return Ok(Step::Wait { until: next_at, news: true });
            }
            Some(Next::Unreadable(event)) => self.parts.store.note_lost(now, id, event, event).await?,
            Some(Next::Held(event)) => {
                self.parts.store.park(now, id, self.message(&event)).await?;
                *seen = event.id;
                if may_hurry {
                    self.parts.store.hurry(now, id).await?;
                }
            }
            Some(Next::Free(event)) => self.first(&webhook, &secrets, self.message(&event)).await?,
        }
        Ok(Step::Again)
    }

    fn message(&self, event: &Event) -> Message {
        let body = lock(&self.body).clone();
        Message::of(event, body.map(|body| body(event, &*self.parts.wall)).unwrap_or_default())
    }

    async fn first(&self, webhook: &Webhook, secrets: &Secrets, message: Message) -> Result<(), StoreError> {
        let at = self.now();
        let sent = self.send(webhook, secrets, &message).await;
        let decided = self.decide(&sent, 1, at, webhook);
        self.note(webhook, Subject::New(message), at, sent, decided).await
    }

    async fn again(&self, webhook: &Webhook, secrets: &Secrets, delivery: Delivery) -> Result<(), StoreError> {
        let Some(message) = &delivery.message else { return Ok(()) };
        let at = self.now();
        let sent = self.send(webhook, secrets, message).await;
        let decided = self.decide(&sent, delivery.attempts.saturating_add(1), delivery.first_at.unwrap_or(at), webhook);
        self.note(webhook, Subject::Stored(delivery.id), at, sent, decided).await
    }

    fn decide(&self, answer: &Answer, attempt: u32, first_at: Timestamp, webhook: &Webhook) -> Decision {
        decide::decide(answer, attempt, first_at, webhook.health, self.now(), self.parts.dice.draw())
    }

    /// [`super::Webhooks::test`].
    pub(super) async fn test(&self, id: WebhookId, kind: &str, body: String) -> Result<Option<Delivery>, StoreError> {
        let Some(Look { webhook, secrets, .. }) = self.parts.store.look(self.now(), id, u64::MAX >> 1).await? else {
            return Ok(None);
        };
        let id = format!("evt_test_{:016x}", u64::from_le_bytes(random_bytes()));
        let message = Message { id, event: None, kind: kind.to_owned(), connection: None, body };
        let at = self.now();
        let sent = self.send(&webhook, &secrets, &message).await;
        let outcome = if sent.error().is_none() { Outcome::Delivered } else { Outcome::GivenUp };
        let decision = Decision { outcome, health: Health::default(), is_back: false, disable: None };
        let attempt = self.attempt(&webhook, Subject::Test(message), at, &sent, decision);
        self.parts.store.note_attempt(self.now(), webhook.id, attempt).await
    }

    /// Writes down what happened. It was sent, so this is tried until it is written or the store is closed: nothing else
    /// would keep it from being sent again.
    async fn note(
        &self,
        webhook: &Webhook,
        subject: Subject,
        at: Timestamp,
        sent: Answer,
        decision: Decision,
    ) -> Result<(), StoreError> {
        if let Some(reason) = &decision.disable {
            tracing::warn!(webhook = %webhook.id, reason, "a webhook was disabled");
        }
        let attempt = self.attempt(webhook, subject, at, &sent, decision);
        loop {
            match self.parts.store.note_attempt(self.now(), webhook.id, attempt.clone()).await {
                Err(StoreError::Unusable(error)) => {
                    tracing::warn!(webhook = %webhook.id, error, "a delivery could not be noted; it is tried again");
                    tokio::time::sleep(STORE_RETRY_EVERY).await;
                }
                noted => return noted.map(drop),
            }
        }
    }

    fn attempt(
        &self,
        webhook: &Webhook,
        subject: Subject,
        at: Timestamp,
        sent: &Answer,
        decision: Decision,
    ) -> Attempt {
        let (took, answer, error) = (self.now().since(at), sent.status(), sent.error());
        tracing::debug!(webhook = %webhook.id, answer, error, ?took, "a webhook was sent a message");
        Attempt { subject, url: webhook.settings.url.clone(), at, took, answer, error, decision }
    }

    async fn send(&self, webhook: &Webhook, secrets: &Secrets, message: &Message) -> Answer {
        // Nobody closes it.
        let _permit = self.in_flight.acquire().await;
        let endpoint = Arc::clone(&lock(&self.egress).endpoint);
        let request = self.request(secrets, message);
        match exchange(&*endpoint, &webhook.settings.url, request).await {
            Ok(answer) => answer,
            Err(failure) => Answer::Nothing(told(&failure)),
        }
    }

    fn request(&self, secrets: &Secrets, message: &Message) -> ProviderRequest {
        let timestamp = sign::timestamp((self.parts.wall)(self.now()));
        let both = std::iter::once(&secrets.current).chain(&secrets.former);
        let signature = sign::signatures(both, &message.id, timestamp, &message.body);
        let headers = vec![
            (Cow::Borrowed(ID_HEADER), Cow::Owned(message.id.clone())),
            (Cow::Borrowed(TIMESTAMP_HEADER), Cow::Owned(timestamp.to_string())),
            (Cow::Borrowed(SIGNATURE_HEADER), Cow::Owned(signature)),
        ];
        ProviderRequest {
            method: Method::Post,
            authorization: None,
            headers: Cow::Owned(headers),
            content_type: Some("application/json"),
            body: Secret::new(message.body.as_str()),
        }
    }
}

async fn exchange(endpoint: &dyn Endpoint, url: &str, request: ProviderRequest) -> Result<Answer, Failure> {
    let url = Url::parse(url).map_err(|error| Failure::new(FailureCode::WrongEndpoint, &error.to_string()))?;
    // Never from a pool: messages are seldom, and a dead connection would cost a retry.
    let channel = endpoint.connect(&url, Reuse::Fresh).await?;
    match channel.send(request, TIMEOUTS.total).await {
        Ok(answer) => Ok(Answer::Status { code: answer.status, retry_after: answer.retry_after }),
        Err(SendFailure::Unsent(failure) | SendFailure::Unknown(failure)) => Err(failure),
    }
}

/// The catalogue speaks of providers; these are receivers.
fn told(failure: &Failure) -> String {
    let what = match failure.code {
        FailureCode::WrongEndpoint => "its URL may not be connected to",
        FailureCode::DnsFailed => "its host's name could not be resolved",
        FailureCode::ConnectFailed | FailureCode::ConnectionDead => "no connection could be opened",
        FailureCode::TlsFailed => "the TLS handshake failed",
        FailureCode::TlsName => "its certificate is not for this host, or not trusted",
        FailureCode::Timeout => "it did not answer in time",
        FailureCode::ConnectionLost => "the connection broke before an answer came",
        _ => "its answer could not be read",
    };
    if failure.detail.is_empty() { what.to_owned() } else { format!("{what} ({})", failure.detail) }
}

/// Returns when there is an event that may be wanted, or many that are not.
async fn heard(news: &mut broadcast::Receiver<Arc<Event>>, wanted: Option<&Settings>) {
    for _ in 0..PASS_EVERY {
        match news.recv().await {
            Ok(event) if wanted.is_some_and(|wanted| !wanted.want(&event.event)) => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
