//! Webhooks, and the log of their deliveries.
//!
//! What a webhook still has to send is decided by the table `event` and its cursor there, and by the entries of its log
//! that are pending. So a crash between sending and noting repeats a delivery, and nothing else.

use super::{RECORD_BYTES, SqliteStore, events, fault};
use crate::seal::{Field, Place, Sealer};
use crate::store::record::TimeBase;
use crate::store::webhooks::WebhookStore;
use crate::store::{PAGE_MAX, StoreError};
use crate::webhooks::decide::{Decision, Health, Outcome};
use crate::webhooks::model::{
    Attempt, Change, Delivery, DeliveryId, DeliveryQuery, DeliveryStatus, Disabled, Look, Message, Next, Redelivered,
    Secrets, Settings, Subject, Types, Webhook, WebhookId,
};
use crate::webhooks::sign::SigningSecret;
use crate::webhooks::{DELIVERIES_MAX, PENDING_MAX, WEBHOOKS_MAX};
use async_trait::async_trait;
use rusqlite::{Connection as Database, OptionalExtension as _, Row, params};
use std::sync::Arc;
use std::time::Duration;
use tokenkeep_core::model::{ConnectionId, Generation, GrantNumber};
use tokenkeep_core::{ConnectionKey, Timestamp};

/// The oldest entries of a log go when this many more than [`DELIVERIES_MAX`] may have piled up.
const PRUNE_EVERY: i64 = 64;

/// Statuses as they are stored.
const PENDING: i64 = 0;
const DELIVERED: i64 = 1;
const FAILED: i64 = 2;
const LOST: i64 = 3;

/// What a call works on: inside a transaction, or on a snapshot.
pub struct Desk<'a> {
    /// The database.
    pub database: &'a Database,
    /// What stored times are counted from.
    pub base: TimeBase,
    /// Seals and opens the secrets.
    pub sealer: &'a Sealer,
}

/// Where calls are done.
pub trait Desks: Send + Sync + 'static {
    /// In a transaction. It may be done again after that was rolled back.
    fn in_writer<T: Send + 'static>(
        &self,
        work: impl FnMut(&Desk<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// On a snapshot.
    fn in_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Desk<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;
}

impl Desks for SqliteStore {
    async fn in_writer<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Desk<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write(RECORD_BYTES, move |batch| {
            work(&Desk { database: batch.database, base: batch.base(), sealer: batch.sealer() })
        })
        .await
    }

    async fn in_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Desk<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let sealer = Arc::clone(&self.shared.sealer);
        self.read_much(move |database, base| work(&Desk { database, base, sealer: &sealer })).await
    }
}

#[async_trait]
impl<D: Desks> WebhookStore for D {
    async fn add_webhook(
        &self,
        now: Timestamp,
        settings: Settings,
        secret: SigningSecret,
    ) -> Result<Option<Webhook>, StoreError> {
        self.in_writer(move |desk| desk.add(now, &settings, &secret)).await
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        self.in_reader(|desk| desk.all()).await
    }

    async fn change_webhook(
        &self,
        now: Timestamp,
        id: WebhookId,
        change: Change,
    ) -> Result<Option<Webhook>, StoreError> {
        self.in_writer(move |desk| desk.change(now, id, &change)).await
    }

    async fn remove_webhook(&self, id: WebhookId) -> Result<bool, StoreError> {
        self.in_writer(move |desk| desk.remove(id)).await
    }

    async fn look(&self, now: Timestamp, id: WebhookId, seen: u64) -> Result<Option<Look>, StoreError> {
        self.in_reader(move |desk| desk.look(now, id, seen)).await
    }

    async fn pass(&self, id: WebhookId, seen: u64) -> Result<(), StoreError> {
        self.in_writer(move |desk| desk.pass(id, seen)).await
    }

    async fn park(&self, now: Timestamp, id: WebhookId, message: Message) -> Result<(), StoreError> {
        self.in_writer(move |desk| desk.park(now, id, &message)).await
    }

    async fn hurry(&self, now: Timestamp, id: WebhookId) -> Result<(), StoreError> {
        self.in_writer(move |desk| desk.hurry(now, id)).await
    }

    async fn note_lost(&self, now: Timestamp, id: WebhookId, first: u64, last: u64) -> Result<(), StoreError> {
        self.in_writer(move |desk| desk.note_lost(now, id, first, last)).await
    }

    async fn note_attempt(
        &self,
        now: Timestamp,
        id: WebhookId,
        attempt: Attempt,
    ) -> Result<Option<Delivery>, StoreError> {
        self.in_writer(move |desk| desk.note_attempt(now, id, &attempt)).await
    }

    async fn deliveries(&self, id: WebhookId, query: DeliveryQuery) -> Result<Option<Vec<Delivery>>, StoreError> {
        self.in_reader(move |desk| desk.deliveries(id, query)).await
    }

    async fn redeliver(&self, now: Timestamp, id: WebhookId, delivery: DeliveryId) -> Result<Redelivered, StoreError> {
        self.in_writer(move |desk| desk.redeliver(now, id, delivery)).await
    }
}

impl SqliteStore {
    /// Seals the secrets of all webhooks under the current key, where they are not yet.
    ///
    /// # Errors
    /// As every write.
    pub async fn reseal_webhooks(&self) -> Result<(), StoreError> {
        self.in_writer(|desk| desk.reseal()).await
    }
}

/// The columns that [`Desk::webhook_of`] reads.
const WEBHOOK: &str = "SELECT id, url, description, types, namespace, disabled_at, disabled_reason, created_at, failures, \
     failing_since, rest_until, delivered_at, former_until, cursor, \
     (SELECT count(*) FROM delivery d WHERE d.webhook = w.id AND d.status = 0) FROM webhook w";

/// The columns that [`Desk::delivery_of`] reads.
const DELIVERY: &str = "SELECT id, message, event, kind, namespace, name, body, status, attempts, created_at, first_at, \
     last_at, next_at, answer, error, took_ms, repeats FROM delivery";

impl Desk<'_> {
    fn add(&self, now: Timestamp, settings: &Settings, secret: &SigningSecret) -> Result<Option<Webhook>, StoreError> {
        let count: i64 = self.one("SELECT count(*) FROM webhook", [])?.unwrap_or(0);
        if usize::try_from(count).unwrap_or(usize::MAX) >= WEBHOOKS_MAX {
            return Ok(None);
        }
        self.execute(
            "INSERT INTO webhook (url, description, types, namespace, created_at, cursor, secret, secret_number) \
             VALUES (?1, ?2, ?3, ?4, ?5, (SELECT coalesce(max(id), 0) FROM event), x'', 1)",
            params![
                settings.url,
                settings.description,
                types_text(&settings.types),
                settings.namespace,
                self.base.store(now)
            ],
        )?;
        let id = WebhookId(self.database.last_insert_rowid());
        let sealed = self.sealer.seal(&place(id, 1), secret.bytes());
        self.execute("UPDATE webhook SET secret = ?2 WHERE id = ?1", params![id.0, sealed])?;
        self.webhook(id)
    }

    fn all(&self) -> Result<Vec<Webhook>, StoreError> {
        self.query(&format!("{WEBHOOK} ORDER BY id"), [], |row| self.webhook_of(row))
    }

    fn webhook(&self, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        Ok(self.query(&format!("{WEBHOOK} WHERE id = ?1"), [id.0], |row| self.webhook_of(row))?.pop())
    }

    fn webhook_of(&self, row: &Row<'_>) -> rusqlite::Result<Webhook> {
        let types: String = row.get(3)?;
        // A type that this version does not know is none that it writes.
        let names = types.split_whitespace().map(str::to_owned);
        let known = names.filter(|name| Types::new(vec![name.clone()]).is_ok()).collect();
        let settings = Settings {
            url: row.get(1)?,
            description: row.get(2)?,
            types: Types::new(known).unwrap_or_default(),
            namespace: row.get(4)?,
        };
        let disabled = self.time(row, 5)?.map(|at| Ok::<_, rusqlite::Error>(Disabled { at, reason: row.get(6)? }));
        Ok(Webhook {
            id: WebhookId(row.get(0)?),
            settings,
            disabled: disabled.transpose()?,
            created_at: self.base.load(row.get(7)?),
            health: Health {
                failures: row.get(8)?,
                failing_since: self.time(row, 9)?,
                rest_until: self.time(row, 10)?,
            },
            delivered_at: self.time(row, 11)?,
            former_until: self.time(row, 12)?,
            cursor: row.get::<_, i64>(13)?.cast_unsigned(),
            pending: row.get::<_, i64>(14)?.cast_unsigned(),
        })
    }

    fn change(&self, now: Timestamp, id: WebhookId, change: &Change) -> Result<Option<Webhook>, StoreError> {
        let Some(webhook) = self.webhook(id)? else { return Ok(None) };
        match change {
            Change::Settings(settings) => {
                self.pass_what_it_does_not_get(&webhook)?;
                self.execute(
                    "UPDATE webhook SET url = ?2, description = ?3, types = ?4, namespace = ?5 WHERE id = ?1",
                    params![id.0, settings.url, settings.description, types_text(&settings.types), settings.namespace],
                )?;
            }
            Change::Enable => {
                let sql = "UPDATE webhook SET disabled_at = NULL, disabled_reason = NULL, failures = 0, \
                           failing_since = NULL, rest_until = NULL WHERE id = ?1";
                self.execute(sql, [id.0])?;
                self.bring_forward(now, id)?;
            }
            Change::Disable(reason) => {
                let sql =
                    "UPDATE webhook SET disabled_at = ?2, disabled_reason = ?3 WHERE id = ?1 AND disabled_at IS NULL";
                self.execute(sql, params![id.0, self.base.store(now), reason])?;
            }
            Change::Secret(secret, former_until) => {
                let number = self.secret_number(id)? + 1;
                let sealed = self.sealer.seal(&place(id, number), secret.bytes());
                let sql = "UPDATE webhook SET former = secret, secret = ?2, secret_number = ?3, former_until = ?4 WHERE id = ?1";
                self.execute(sql, params![id.0, sealed, number.cast_signed(), self.base.store(*former_until)])?;
            }
        }
        self.webhook(id)
    }

    /// By its settings so far, so that other settings do not bring old events.
    fn pass_what_it_does_not_get(&self, webhook: &Webhook) -> Result<(), StoreError> {
        let first = events::first(self.database, webhook.cursor, &webhook.settings)?;
        let (_, newest) = events::bounds(self.database)?;
        self.pass(webhook.id, first.map_or(newest, |(id, _)| id - 1))
    }

    fn remove(&self, id: WebhookId) -> Result<bool, StoreError> {
        self.execute("DELETE FROM delivery WHERE webhook = ?1", [id.0])?;
        Ok(self.execute("DELETE FROM webhook WHERE id = ?1", [id.0])? > 0)
    }

    fn look(&self, now: Timestamp, id: WebhookId, seen: u64) -> Result<Option<Look>, StoreError> {
        let Some(webhook) = self.webhook(id)? else { return Ok(None) };
        let secrets = self.secrets(now, &webhook)?;
        let (oldest, newest) = events::bounds(self.database)?;
        let seen = seen.max(webhook.cursor);
        let next = "WHERE webhook = ?1 AND status = 0 AND next_at IS NOT NULL";
        let due = format!("{DELIVERY} {next} AND next_at <= ?2 ORDER BY next_at, id LIMIT 1");
        let due = self.query(&due, [id.0, self.base.store(now)], |row| self.delivery_of(row))?.pop();
        let next_at = format!("SELECT min(next_at) FROM delivery {next} AND next_at > ?2");
        let next_at: Option<Option<i64>> = self.one(&next_at, [id.0, self.base.store(now)])?;
        let event = match events::first(self.database, seen, &webhook.settings)? {
            None => None,
            Some((id, None)) => Some(Next::Unreadable(id)),
            Some((_, Some(event))) if self.is_held(id, event.event.connection.as_ref())? => Some(Next::Held(event)),
            Some((_, Some(event))) => Some(Next::Free(event)),
        };
        let next_at = next_at.flatten().map(|at| self.base.load(at));
        Ok(Some(Look { webhook, secrets, due, next_at, event, oldest, newest }))
    }

    fn is_held(&self, id: WebhookId, whose: Option<&ConnectionKey>) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM delivery WHERE webhook = ?1 AND status = 0 AND ordered = 1 AND namespace IS ?2 \
                   AND name IS ?3 LIMIT 1";
        let (namespace, name) = (whose.map(ConnectionKey::namespace), whose.map(ConnectionKey::name));
        Ok(self.one::<i64>(sql, params![id.0, namespace, name])?.is_some())
    }

    fn secret_number(&self, id: WebhookId) -> Result<u64, StoreError> {
        let number: Option<i64> = self.one("SELECT secret_number FROM webhook WHERE id = ?1", [id.0])?;
        Ok(number.unwrap_or(0).cast_unsigned())
    }

    fn sealed(&self, id: WebhookId) -> Result<(Vec<u8>, Option<Vec<u8>>), StoreError> {
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let sql = "SELECT secret, former FROM webhook WHERE id = ?1";
        let found = self.query(sql, [id.0], read)?.pop();
        found.ok_or_else(|| StoreError::Damaged(format!("the secrets of {id} are missing")))
    }

    fn secrets(&self, now: Timestamp, webhook: &Webhook) -> Result<Secrets, StoreError> {
        let (number, (current, former)) = (self.secret_number(webhook.id)?, self.sealed(webhook.id)?);
        let open = |number, sealed: &[u8]| {
            let opened = self.sealer.open(&place(webhook.id, number), sealed).map(SigningSecret::of);
            opened.map_err(|cause| StoreError::Damaged(format!("a secret of {}: {cause}", webhook.id)))
        };
        let former = former.filter(|_| webhook.former_until.is_some_and(|until| until > now));
        Ok(Secrets {
            current: open(number, &current)?,
            former: former.map(|former| open(number - 1, &former)).transpose()?,
        })
    }

    fn reseal(&self) -> Result<(), StoreError> {
        for webhook in self.all()? {
            let (id, number) = (webhook.id, self.secret_number(webhook.id)?);
            let (current, former) = self.sealed(id)?;
            let places = [("secret", number, Some(current)), ("former", number.saturating_sub(1), former)];
            for (column, number, sealed) in places {
                let Some(sealed) = sealed.filter(|sealed| !self.sealer.is_current(sealed)) else { continue };
                match self.sealer.open(&place(id, number), &sealed) {
                    Ok(plain) => {
                        let sealed = self.sealer.seal(&place(id, number), &plain);
                        self.execute(
                            &format!("UPDATE webhook SET {column} = ?2 WHERE id = ?1"),
                            params![id.0, sealed],
                        )?;
                    }
                    Err(error) => tracing::error!(webhook = %id, %error, "a webhook's secret cannot be sealed anew"),
                }
            }
        }
        Ok(())
    }

    fn pass(&self, id: WebhookId, seen: u64) -> Result<(), StoreError> {
        let sql = "UPDATE webhook SET cursor = max(cursor, ?2) WHERE id = ?1";
        self.execute(sql, [id.0, seen.cast_signed()]).map(drop)
    }

    fn park(&self, now: Timestamp, id: WebhookId, message: &Message) -> Result<(), StoreError> {
        if self.webhook(id)?.is_none() {
            return Ok(());
        }
        self.insert(now, id, Entry { message: Some(message), ordered: true, ..Entry::default() })?;
        self.pass(id, message.event.unwrap_or(0))
    }

    fn hurry(&self, now: Timestamp, id: WebhookId) -> Result<(), StoreError> {
        let sql = "UPDATE delivery SET next_at = min(next_at, ?2) WHERE id = (SELECT min(id) FROM delivery \
                   WHERE webhook = ?1 AND status = 0 AND next_at IS NOT NULL)";
        self.execute(sql, [id.0, self.base.store(now)]).map(drop)
    }

    fn note_lost(&self, now: Timestamp, id: WebhookId, first: u64, last: u64) -> Result<(), StoreError> {
        if self.webhook(id)?.is_none() {
            return Ok(());
        }
        let error = format!(
            "events {first} to {last} were not sent: they fell out of the history, or cannot be read; some may not have \
             been for this webhook"
        );
        self.insert(now, id, Entry { status: LOST, error: Some(&error), ..Entry::default() })?;
        self.pass(id, last)
    }

    fn note_attempt(&self, now: Timestamp, id: WebhookId, attempt: &Attempt) -> Result<Option<Delivery>, StoreError> {
        let Some(webhook) = self.webhook(id)? else { return Ok(None) };
        let (status, next_at) = match attempt.decision.outcome {
            Outcome::Delivered => (DELIVERED, None),
            Outcome::RetryAt(at) => (PENDING, Some(at)),
            Outcome::GivenUp => (FAILED, None),
        };
        let entry = match &attempt.subject {
            Subject::Stored(delivery) => *delivery,
            Subject::New(message) | Subject::Test(message) => {
                let ordered = matches!(attempt.subject, Subject::New(_));
                let entry = self.insert(now, id, Entry { message: Some(message), ordered, ..Entry::default() })?;
                self.pass(id, message.event.unwrap_or(0))?;
                entry
            }
        };
        let took_ms = i64::try_from(attempt.took.as_millis()).unwrap_or(i64::MAX);
        let at = self.base.store(attempt.at);
        self.execute(
            "UPDATE delivery SET status = ?3, next_at = ?4, attempts = attempts + 1, first_at = coalesce(first_at, ?5), \
             last_at = ?5, answer = ?6, error = ?7, took_ms = ?8 WHERE id = ?1 AND webhook = ?2",
            params![
                entry.0,
                id.0,
                status,
                next_at.map(|at| self.base.store(at)),
                at,
                attempt.answer,
                attempt.error,
                took_ms
            ],
        )?;
        if status != PENDING {
            self.release(now, id, entry)?;
        }
        if status == DELIVERED {
            let sql = "UPDATE webhook SET delivered_at = ?2 WHERE id = ?1";
            self.execute(sql, [id.0, at])?;
        }
        let sql = "UPDATE webhook SET former = NULL, former_until = NULL WHERE id = ?1 AND former_until <= ?2";
        self.execute(sql, [id.0, self.base.store(now)])?;
        // What an old address did says nothing about a new one; a test says nothing at all.
        if webhook.settings.url == attempt.url && !matches!(attempt.subject, Subject::Test(_)) {
            self.note_health(now, id, &attempt.decision)?;
        }
        self.delivery(id, entry)
    }

    fn note_health(&self, now: Timestamp, id: WebhookId, decision: &Decision) -> Result<(), StoreError> {
        let Health { failures, failing_since, rest_until } = decision.health;
        let stored = |at: Option<Timestamp>| at.map(|at| self.base.store(at));
        self.execute(
            "UPDATE webhook SET failures = ?2, failing_since = ?3, rest_until = ?4 WHERE id = ?1",
            params![id.0, failures, stored(failing_since), stored(rest_until)],
        )?;
        if let Some(reason) = &decision.disable {
            self.change(now, id, &Change::Disable(reason.clone()))?;
        }
        if decision.is_back { self.bring_forward(now, id) } else { Ok(()) }
    }

    /// The next event of the same connection waits no longer.
    fn release(&self, now: Timestamp, id: WebhookId, over: DeliveryId) -> Result<(), StoreError> {
        self.execute(
            "UPDATE delivery SET next_at = ?3 WHERE id = (SELECT min(n.id) FROM delivery n, delivery o WHERE o.id = ?2 \
             AND o.ordered = 1 AND n.webhook = ?1 AND n.status = 0 AND n.ordered = 1 AND n.namespace IS o.namespace \
             AND n.name IS o.name) AND next_at IS NULL",
            [id.0, over.0, self.base.store(now)],
        )
        .map(drop)
    }

    fn bring_forward(&self, now: Timestamp, id: WebhookId) -> Result<(), StoreError> {
        let sql = "UPDATE delivery SET next_at = ?2 WHERE webhook = ?1 AND status = 0 AND next_at > ?2";
        self.execute(sql, [id.0, self.base.store(now)]).map(drop)
    }

    fn deliveries(&self, id: WebhookId, query: DeliveryQuery) -> Result<Option<Vec<Delivery>>, StoreError> {
        if self.webhook(id)?.is_none() {
            return Ok(None);
        }
        let sql = format!(
            "{DELIVERY} WHERE webhook = ?1 AND id < ?2 AND (?3 IS NULL OR status = ?3) ORDER BY id DESC LIMIT ?4"
        );
        let before = query.before.map_or(i64::MAX, |before| before.0);
        let limit = i64::try_from(query.limit.min(PAGE_MAX)).unwrap_or(i64::MAX);
        let status = query.status.map(number_of);
        self.query(&sql, params![id.0, before, status, limit], |row| self.delivery_of(row)).map(Some)
    }

    fn delivery(&self, id: WebhookId, delivery: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let sql = format!("{DELIVERY} WHERE webhook = ?1 AND id = ?2");
        Ok(self.query(&sql, [id.0, delivery.0], |row| self.delivery_of(row))?.pop())
    }

    fn delivery_of(&self, row: &Row<'_>) -> rusqlite::Result<Delivery> {
        let key: (Option<String>, Option<String>) = (row.get(4)?, row.get(5)?);
        let connection = match key {
            (Some(namespace), Some(name)) => ConnectionKey::new(namespace, name).ok(),
            _ => None,
        };
        let message = |id: String| {
            Ok::<_, rusqlite::Error>(Message {
                id,
                event: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
                kind: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
                connection,
                body: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
            })
        };
        let status: i64 = row.get(7)?;
        let took_ms: Option<i64> = row.get(15)?;
        Ok(Delivery {
            id: DeliveryId(row.get(0)?),
            message: row.get::<_, Option<String>>(1)?.map(message).transpose()?,
            status: DeliveryStatus::ALL
                .into_iter()
                .find(|known| number_of(*known) == status)
                .ok_or(rusqlite::Error::IntegralValueOutOfRange(7, status))?,
            attempts: row.get(8)?,
            created_at: self.base.load(row.get(9)?),
            first_at: self.time(row, 10)?,
            last_at: self.time(row, 11)?,
            next_at: self.time(row, 12)?,
            answer: row.get(13)?,
            error: row.get(14)?,
            took: took_ms.map(|ms| Duration::from_millis(ms.max(0).cast_unsigned())),
            repeats: row.get::<_, Option<i64>>(16)?.map(DeliveryId),
        })
    }

    fn redeliver(&self, now: Timestamp, id: WebhookId, delivery: DeliveryId) -> Result<Redelivered, StoreError> {
        let Some(webhook) = self.webhook(id)? else { return Ok(Redelivered::NoWebhook) };
        let Some(found) = self.delivery(id, delivery)? else { return Ok(Redelivered::NoDelivery) };
        let Some(message) = &found.message else { return Ok(Redelivered::Lost) };
        if webhook.disabled.is_some() {
            return Ok(Redelivered::Disabled);
        }
        let entry = if found.status == DeliveryStatus::Pending {
            let sql = "UPDATE delivery SET next_at = min(next_at, ?2) WHERE id = ?1";
            self.execute(sql, [delivery.0, self.base.store(now)])?;
            delivery
        } else if webhook.pending >= PENDING_MAX {
            return Ok(Redelivered::Full);
        } else {
            let entry =
                Entry { message: Some(message), next_at: Some(now), repeats: Some(delivery), ..Entry::default() };
            self.insert(now, id, entry)?
        };
        self.execute("UPDATE webhook SET rest_until = NULL WHERE id = ?1", [id.0])?;
        let queued = self.delivery(id, entry)?;
        Ok(queued.map_or(Redelivered::NoDelivery, |queued| Redelivered::Queued(Box::new(queued))))
    }

    /// Writes an entry of the log, and removes the oldest that are over, many at once and seldom.
    fn insert(&self, now: Timestamp, id: WebhookId, entry: Entry<'_>) -> Result<DeliveryId, StoreError> {
        let Entry { message, ordered, status, next_at, error, repeats } = entry;
        let key = message.and_then(|message| message.connection.as_ref());
        self.execute(
            "INSERT INTO delivery (webhook, message, event, kind, namespace, name, body, ordered, status, attempts, \
             created_at, next_at, error, repeats) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10, ?11, ?12, ?13)",
            params![
                id.0,
                message.map(|message| &message.id),
                message.and_then(|message| message.event).map(u64::cast_signed),
                message.map(|message| &message.kind),
                key.map(ConnectionKey::namespace),
                key.map(ConnectionKey::name),
                message.map(|message| &message.body),
                ordered,
                status,
                self.base.store(now),
                next_at.map(|at| self.base.store(at)),
                error,
                repeats.map(|repeats| repeats.0)
            ],
        )?;
        let entry = DeliveryId(self.database.last_insert_rowid());
        if entry.0 % PRUNE_EVERY == 0 {
            self.execute(
                "DELETE FROM delivery WHERE webhook = ?1 AND status <> 0 AND id <= (SELECT id FROM delivery \
                 WHERE webhook = ?1 AND status <> 0 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                params![id.0, i64::try_from(DELIVERIES_MAX).unwrap_or(i64::MAX)],
            )?;
        }
        Ok(entry)
    }

    fn time(&self, row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<i64>>(column)?.map(|at| self.base.load(at)))
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
        let executed = self.database.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
        executed.map_err(|cause| fault(&cause))
    }

    fn query<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let found =
            || self.database.prepare_cached(sql)?.query_map(params, read)?.collect::<rusqlite::Result<Vec<T>>>();
        found().map_err(|cause: rusqlite::Error| fault(&cause))
    }

    fn one<T: rusqlite::types::FromSql>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<Option<T>, StoreError> {
        let found = self
            .database
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, |row| row.get(0)).optional());
        found.map_err(|cause| fault(&cause))
    }
}

/// What a new entry of the log says; the rest is what an attempt brings.
#[derive(Default)]
struct Entry<'a> {
    message: Option<&'a Message>,
    /// It stands in the order of its connection.
    ordered: bool,
    status: i64,
    next_at: Option<Timestamp>,
    error: Option<&'a str>,
    repeats: Option<DeliveryId>,
}

/// Where a webhook's secret of this number is sealed.
fn place(id: WebhookId, number: u64) -> Place {
    Place {
        connection: ConnectionId(id.0),
        grant: GrantNumber(0),
        generation: Generation(number),
        field: Field::WebhookSecret,
    }
}

fn types_text(types: &Types) -> String {
    types.names().join(" ")
}

const fn number_of(status: DeliveryStatus) -> i64 {
    match status {
        DeliveryStatus::Pending => PENDING,
        DeliveryStatus::Delivered => DELIVERED,
        DeliveryStatus::Failed => FAILED,
        DeliveryStatus::Lost => LOST,
    }
}

/// The same calls without threads, so that a test's virtual clock does not run while they are done.
#[cfg(test)]
pub struct Inline {
    database: std::sync::Mutex<Database>,
    sealer: Sealer,
    looks: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl Inline {
    /// On the file at `path`, made where it is missing.
    pub fn open(path: &std::path::Path) -> Self {
        let sealer = Sealer::new(&[7; 32]);
        super::schema::prepare(path, &sealer).unwrap();
        let database = super::schema::writer(path).unwrap();
        database.pragma_update(None, "synchronous", "OFF").unwrap();
        Self { database: database.into(), sealer, looks: Default::default() }
    }

    /// Writes an event, and forgets the oldest beyond `keep`.
    pub fn write(&self, event: crate::store::NewEvent, keep: u64) -> crate::store::Event {
        let database = self.database.lock().unwrap();
        let mut numbers = events::Numbers::load(&database).unwrap();
        let written = numbers.write(&database, event, None).unwrap();
        numbers.prune(&database, keep).unwrap();
        written
    }

    /// How often it was read.
    pub fn reads(&self) -> u64 {
        self.looks.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn desk<T>(&self, work: impl FnOnce(&Desk<'_>) -> T) -> T {
        let database = self.database.lock().unwrap();
        let transaction = database.unchecked_transaction().unwrap();
        let base = super::ops::time_base(&transaction).unwrap();
        let done = work(&Desk { database: &transaction, base, sealer: &self.sealer });
        transaction.commit().unwrap();
        done
    }
}

#[cfg(test)]
impl Desks for Inline {
    async fn in_writer<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Desk<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.desk(|desk| work(desk))
    }

    async fn in_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Desk<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.desk(work)
    }
}
