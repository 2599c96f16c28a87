//! Webhooks: events, sent to whoever asked for them, in the form of Standard Webhooks.
//!
//! ```text
//! stored events ──cursor──▶ one worker for each webhook ──signed──▶ receiver
//!                             ▲        │ noted
//!                             └── log of deliveries: what waits, and what became of the rest
//! ```
//! Each event reaches each webhook that wants it at least once, and those of one connection in their order: a later one
//! is not sent before the earlier was acknowledged or given up. What is to be sent is read from the store, so neither a
//! restart nor a kill loses any, and a receiver that is down costs no memory. [`decide`] says what an answer means.

pub mod decide;
mod deliver;
pub mod model;
pub mod sign;
#[cfg(test)]
mod tests;

use crate::clock::{Clock, Dice};
use crate::endpoint::Endpoint;
use crate::endpoint::http::{AnswerLimit, HttpEndpoint, Options, Reach, Timeouts};
use crate::store::webhooks::WebhookStore;
use crate::store::{Event, StoreError};
use deliver::{Shared, Workers};
use model::{Change, Delivery, DeliveryId, DeliveryQuery, Redelivered, Settings, Webhook, WebhookId};
use sign::SigningSecret;
use std::sync::Arc;
use std::time::Duration;
use tokenkeep_core::{Secret, Timestamp};
use tokio::sync::broadcast;
use url::Url;

/// The most webhooks of a store.
pub const WEBHOOKS_MAX: usize = 64;
/// The most deliveries of a webhook that wait; beyond it the events stay where they are, in the history.
pub const PENDING_MAX: u64 = 1_000;
/// How many deliveries of a webhook are kept in its log after they are over, roughly.
pub const DELIVERIES_MAX: u64 = 1_000;
/// The most requests in flight over all webhooks; of one webhook there is one at a time.
pub const IN_FLIGHT_MAX: usize = 16;
/// The longest URL, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;
/// The longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 256;
/// The most types that a webhook names.
pub const TYPES_MAX: usize = 32;
/// The most hosts that the configuration allows.
pub const ALLOW_HOSTS_MAX: usize = 64;
/// How much of an answer is read.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// How long a secret signs after another has taken its place.
pub const FORMER_SECRET_FOR: Duration = Duration::from_hours(24);
/// How long each step of a request may take.
pub const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    tls: Duration::from_secs(5),
    first_byte: Duration::from_secs(20),
    total: Duration::from_secs(25),
};

/// Makes the body that is sent of an event; its times are the wall clock's.
pub type Body = Arc<dyn Fn(&Event, &dyn Fn(Timestamp) -> Timestamp) -> String + Send + Sync>;

/// Why something about a webhook was not done; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// There is no such webhook.
    #[error("there is no webhook `{0}`")]
    NotFound(String),
    /// There is no such delivery.
    #[error("there is no delivery `{0}` of this webhook")]
    NoDelivery(String),
    /// A field is not what it must be.
    #[error("`{field}`: {found}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What was found.
        found: String,
        /// What was expected, and what to do.
        expected: String,
    },
    /// There are as many as may be.
    #[error("there are {WEBHOOKS_MAX} webhooks already")]
    TooMany,
    /// As many of its deliveries wait as may.
    #[error("{PENDING_MAX} deliveries of this webhook wait already")]
    Full,
    /// It is disabled.
    #[error("the webhook is disabled")]
    Disabled,
    /// The entry stands for events that are not there any more.
    #[error("what this entry stands for is not there any more")]
    Lost,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What delivering works with.
pub(crate) struct Parts {
    pub store: Arc<dyn WebhookStore>,
    pub clock: Arc<dyn Clock>,
    pub dice: Arc<dyn Dice>,
    /// A steady time as the wall clock shows it.
    pub wall: Arc<dyn Fn(Timestamp) -> Timestamp + Send + Sync>,
    /// Hears of every event from the call on.
    pub news: Box<dyn Fn() -> broadcast::Receiver<Arc<Event>> + Send + Sync>,
}

/// Where deliveries may go.
#[derive(Clone)]
pub(crate) struct Egress {
    pub options: Options,
    pub endpoint: Arc<dyn Endpoint>,
}

impl Egress {
    /// To the public Internet, and to these hosts.
    pub(crate) fn to(allow_hosts: &[String]) -> Self {
        let options = Options {
            reach: Reach::Public { except: allow_hosts.to_vec() },
            answer: AnswerLimit::Cut(ANSWER_BYTES_MAX),
            timeouts: TIMEOUTS,
            pool_idle_max: 0,
            ..Options::default()
        };
        Self { endpoint: Arc::new(HttpEndpoint::new(options.clone())), options }
    }
}

/// The webhooks of one instance. Dropping it ends what it does; what was in flight is sent again by the next.
pub struct Webhooks {
    shared: Arc<Shared>,
    workers: Workers,
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhooks").finish_non_exhaustive()
    }
}

impl Webhooks {
    pub(crate) fn new(parts: Parts, egress: Egress) -> Self {
        Self { shared: Arc::new(Shared::new(parts, egress)), workers: Workers::default() }
    }

    /// Sends from now on what there is to send, with bodies that `body` makes. Where there is no webhook, nothing is
    /// done until there is one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn deliver(&self, body: Body) -> Result<(), WebhookError> {
        self.shared.speak(body);
        for webhook in self.shared.parts.store.webhooks().await? {
            self.workers.ensure(&self.shared, webhook.id);
        }
        Ok(())
    }

    /// Ends sending: what is in flight may come to its end within a few seconds.
    pub async fn stop(&self) {
        self.workers.stop().await;
    }

    pub(crate) fn allow_hosts(&self, hosts: &[String]) {
        self.shared.reach(Egress::to(hosts));
    }

    /// Every webhook.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(&self) -> Result<Vec<Webhook>, WebhookError> {
        Ok(self.shared.parts.store.webhooks().await?)
    }

    /// One webhook.
    ///
    /// # Errors
    /// There is none; the store cannot be read.
    pub async fn get(&self, id: WebhookId) -> Result<Webhook, WebhookError> {
        self.list().await?.into_iter().find(|webhook| webhook.id == id).ok_or_else(|| not_found(id))
    }

    /// A new webhook, which gets what happens from now on, and the secret that it is signed with.
    ///
    /// # Errors
    /// Its settings are not what they must be; there are too many; the store cannot be written.
    pub async fn create(&self, settings: Settings) -> Result<(Webhook, Secret), WebhookError> {
        self.check(&settings)?;
        let secret = SigningSecret::generate();
        let text = secret.text();
        let now = self.shared.now();
        let made = self.shared.parts.store.add_webhook(now, settings, secret).await?;
        let webhook = made.ok_or(WebhookError::TooMany)?;
        self.workers.ensure(&self.shared, webhook.id);
        Ok((webhook, text))
    }

    /// Gives a webhook other settings. What it has not been sent is judged by them.
    ///
    /// # Errors
    /// As [`Webhooks::create`]; there is none.
    pub async fn set(&self, id: WebhookId, settings: Settings) -> Result<Webhook, WebhookError> {
        self.check(&settings)?;
        self.change(id, Change::Settings(settings)).await
    }

    /// Lets a webhook send: it goes on where it stopped.
    ///
    /// # Errors
    /// There is none; the store cannot be written.
    pub async fn enable(&self, id: WebhookId) -> Result<Webhook, WebhookError> {
        self.change(id, Change::Enable).await
    }

    /// Lets a webhook send nothing. What happens meanwhile is sent when it is enabled again, as far as the history
    /// reaches then.
    ///
    /// # Errors
    /// There is none; the store cannot be written.
    pub async fn disable(&self, id: WebhookId, reason: &str) -> Result<Webhook, WebhookError> {
        self.change(id, Change::Disable(reason.to_owned())).await
    }

    /// A new secret. The one in use signs too for [`FORMER_SECRET_FOR`]; one before that signs no more.
    ///
    /// # Errors
    /// There is no such webhook; the store cannot be written.
    pub async fn rotate_secret(&self, id: WebhookId) -> Result<(Webhook, Secret), WebhookError> {
        let secret = SigningSecret::generate();
        let text = secret.text();
        let webhook = self.change(id, Change::Secret(secret, self.shared.now() + FORMER_SECRET_FOR)).await?;
        Ok((webhook, text))
    }

    async fn change(&self, id: WebhookId, change: Change) -> Result<Webhook, WebhookError> {
        let changed = self.shared.parts.store.change_webhook(self.shared.now(), id, change).await?;
        self.workers.wake(id);
        changed.ok_or_else(|| not_found(id))
    }

    /// Removes a webhook with its secrets and its log.
    ///
    /// # Errors
    /// There is none; the store cannot be written.
    pub async fn remove(&self, id: WebhookId) -> Result<(), WebhookError> {
        let is_removed = self.shared.parts.store.remove_webhook(id).await?;
        self.workers.wake(id);
        if is_removed { Ok(()) } else { Err(not_found(id)) }
    }

    /// Sends one message of this type and body, once, whether the webhook is enabled or not, and says what came of it.
    ///
    /// # Errors
    /// There is no such webhook; the store cannot be read or written.
    pub async fn test(&self, id: WebhookId, kind: &str, body: String) -> Result<Delivery, WebhookError> {
        self.shared.test(id, kind, body).await?.ok_or_else(|| not_found(id))
    }

    /// A page of a webhook's log, newest first.
    ///
    /// # Errors
    /// There is no such webhook; the store cannot be read.
    pub async fn deliveries(&self, id: WebhookId, query: DeliveryQuery) -> Result<Vec<Delivery>, WebhookError> {
        self.shared.parts.store.deliveries(id, query).await?.ok_or_else(|| not_found(id))
    }

    /// Sends a delivery once more, as soon as may be; of one that waits, the next attempt begins at once.
    ///
    /// # Errors
    /// There is no such webhook or delivery; it is disabled; there is nothing to send, or too much.
    pub async fn redeliver(&self, id: WebhookId, delivery: DeliveryId) -> Result<Delivery, WebhookError> {
        let queued = match self.shared.parts.store.redeliver(self.shared.now(), id, delivery).await? {
            Redelivered::Queued(queued) => *queued,
            Redelivered::NoWebhook => return Err(not_found(id)),
            Redelivered::NoDelivery => return Err(WebhookError::NoDelivery(delivery.to_string())),
            Redelivered::Lost => return Err(WebhookError::Lost),
            Redelivered::Disabled => return Err(WebhookError::Disabled),
            Redelivered::Full => return Err(WebhookError::Full),
        };
        self.workers.wake(id);
        Ok(queued)
    }

    fn check(&self, settings: &Settings) -> Result<(), WebhookError> {
        let Settings { url, description, types, .. } = settings;
        let invalid = |field, found: String, expected: String| Err(WebhookError::Invalid { field, found, expected });
        if description.len() > DESCRIPTION_BYTES_MAX || description.contains(char::is_control) {
            let found = format!("it has {} bytes, or control characters", description.len());
            return invalid(
                "description",
                found,
                format!("Expected one line of at most {DESCRIPTION_BYTES_MAX} bytes."),
            );
        }
        if types.names().len() > TYPES_MAX {
            let found = format!("{} types are named", types.names().len());
            return invalid("types", found, format!("Expected at most {TYPES_MAX}; `connection.*` names a family."));
        }
        if url.len() > URL_BYTES_MAX {
            let found = format!("it has {} bytes", url.len());
            return invalid("url", found, format!("Expected at most {URL_BYTES_MAX} bytes."));
        }
        let expected = "Expected an https URL that leads to the public Internet, without user, password or fragment. \
                        Other hosts must be named in the configuration: [webhooks] allow_hosts = [\"HOST:PORT\"].";
        match Url::parse(url) {
            Err(error) => invalid("url", format!("it is no URL: {error}"), expected.to_owned()),
            Ok(parsed) if parsed.fragment().is_some() => {
                invalid("url", "it has a fragment".to_owned(), expected.to_owned())
            }
            Ok(parsed) => match self.shared.check(&parsed) {
                Ok(()) => Ok(()),
                Err(failure) => invalid("url", failure.detail, expected.to_owned()),
            },
        }
    }
}

fn not_found(id: WebhookId) -> WebhookError {
    WebhookError::NotFound(id.to_string())
}
