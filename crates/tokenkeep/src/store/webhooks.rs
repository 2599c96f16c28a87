//! Where webhooks and the log of their deliveries are kept, beside the events that they send.

use super::StoreError;
use crate::webhooks::model::{
    Attempt, Change, Delivery, DeliveryQuery, Look, Message, Redelivered, Settings, Webhook, WebhookId,
};
use crate::webhooks::sign::SigningSecret;
use async_trait::async_trait;
use tokenkeep_core::Timestamp;

/// What a store of webhooks promises. `now` is always the caller's steady time; what a call answers with success is
/// durable.
#[async_trait]
pub trait WebhookStore: Send + Sync + 'static {
    /// A new webhook, which gets what happens from now on. `None`: there are as many as may be.
    async fn add_webhook(
        &self,
        now: Timestamp,
        settings: Settings,
        secret: SigningSecret,
    ) -> Result<Option<Webhook>, StoreError>;

    /// Every webhook, in the order in which they were made.
    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError>;

    /// Changes a webhook. What it has not sent is judged by its new settings.
    async fn change_webhook(
        &self,
        now: Timestamp,
        id: WebhookId,
        change: Change,
    ) -> Result<Option<Webhook>, StoreError>;

    /// Removes a webhook with its secrets and its log; false where there is none.
    async fn remove_webhook(&self, id: WebhookId) -> Result<bool, StoreError>;

    /// What is to be done for a webhook whose events up to `seen` need no looking at; `None`: there is no such webhook.
    async fn look(&self, now: Timestamp, id: WebhookId, seen: u64) -> Result<Option<Look>, StoreError>;

    /// Notes that the events of a webhook up to this one need no looking at.
    async fn pass(&self, id: WebhookId, seen: u64) -> Result<(), StoreError>;

    /// Writes an event into the log that waits for an earlier one of its connection, and passes it.
    async fn park(&self, now: Timestamp, id: WebhookId, message: Message) -> Result<(), StoreError>;

    /// Makes the first of what waits for its time due now.
    async fn hurry(&self, now: Timestamp, id: WebhookId) -> Result<(), StoreError>;

    /// Writes into the log that the events from `first` to `last` are not there any more, and passes them.
    async fn note_lost(&self, now: Timestamp, id: WebhookId, first: u64, last: u64) -> Result<(), StoreError>;

    /// Writes an attempt, and what it decides; passes its event. What waited for a delivery that is over is due then.
    /// The entry of the log, while there is such a webhook and such an entry.
    async fn note_attempt(
        &self,
        now: Timestamp,
        id: WebhookId,
        attempt: Attempt,
    ) -> Result<Option<Delivery>, StoreError>;

    /// A page of the log; `None`: there is no such webhook.
    async fn deliveries(&self, id: WebhookId, query: DeliveryQuery) -> Result<Option<Vec<Delivery>>, StoreError>;

    /// Queues a delivery once more, outside of all order; one that waits is due at once.
    async fn redeliver(
        &self,
        now: Timestamp,
        id: WebhookId,
        delivery: crate::webhooks::model::DeliveryId,
    ) -> Result<Redelivered, StoreError>;
}
