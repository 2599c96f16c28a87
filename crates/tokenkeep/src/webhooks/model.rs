//! What a webhook is, and what a delivery is.

use super::decide::{Decision, Health};
use super::sign::SigningSecret;
use crate::store::Event;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokenkeep_core::event::{EventKind, NewEvent};
use tokenkeep_core::{ConnectionKey, Timestamp};

/// The number of a webhook: never used twice. Its text is `wh_7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WebhookId(pub i64);

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wh_{}", self.0)
    }
}

/// The number of a delivery: never used twice. Its text is `dlv_7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DeliveryId(pub i64);

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dlv_{}", self.0)
    }
}

fn number(text: &str, prefix: &str) -> Option<i64> {
    let digits = text.strip_prefix(prefix)?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain)
}

impl FromStr for WebhookId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        number(text, "wh_").map(Self).ok_or(())
    }
}

impl FromStr for DeliveryId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        number(text, "dlv_").map(Self).ok_or(())
    }
}

/// Which events a webhook gets: types such as `connection.held`, or all of a kind such as `connection.*`. Empty: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Types(Vec<String>);

impl Types {
    /// From names.
    ///
    /// # Errors
    /// The first name that no type of event has.
    pub fn new(names: Vec<String>) -> Result<Self, String> {
        match names.iter().find(|name| !EventKind::ALL.iter().any(|kind| covers(name, *kind))) {
            Some(unknown) => Err(unknown.clone()),
            None => Ok(Self(names)),
        }
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The types that are meant; `None`: all.
    #[must_use]
    pub fn kinds(&self) -> Option<Vec<EventKind>> {
        let is_meant = |kind: &EventKind| self.0.iter().any(|name| covers(name, *kind));
        (!self.0.is_empty()).then(|| EventKind::ALL.into_iter().filter(is_meant).collect())
    }
}

fn covers(name: &str, kind: EventKind) -> bool {
    let kind = kind.as_str();
    match name.strip_suffix('*') {
        Some(family) => family.ends_with('.') && kind.starts_with(family),
        None => name == kind,
    }
}

/// What somebody says about a webhook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where its deliveries go.
    pub url: String,
    /// A word for people; may be empty.
    pub description: String,
    /// Which events it gets.
    pub types: Types,
    /// Only those of connections of this namespace.
    pub namespace: Option<String>,
}

impl Settings {
    /// Whether it gets this event.
    #[must_use]
    pub fn want(&self, event: &NewEvent) -> bool {
        let whose = event.connection.as_ref().map(ConnectionKey::namespace);
        let is_meant = |name: &String| covers(name, event.kind);
        (self.types.0.is_empty() || self.types.0.iter().any(is_meant))
            && (self.namespace.is_none() || self.namespace.as_deref() == whose)
    }
}

/// Since when a webhook is disabled, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disabled {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// A webhook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// Its number.
    pub id: WebhookId,
    /// What somebody said about it.
    pub settings: Settings,
    /// Nothing is sent.
    pub disabled: Option<Disabled>,
    /// When it was made.
    pub created_at: Timestamp,
    /// How its receiver has been doing.
    pub health: Health,
    /// The last success.
    pub delivered_at: Option<Timestamp>,
    /// Until when the secret before the current one signs too.
    pub former_until: Option<Timestamp>,
    /// The newest event that needs no looking at.
    pub cursor: u64,
    /// How many deliveries wait.
    pub pending: u64,
}

/// What a webhook's deliveries are signed with at a moment.
#[derive(Debug)]
pub struct Secrets {
    /// The current secret.
    pub current: SigningSecret,
    /// The one before it, while that is good.
    pub former: Option<SigningSecret>,
}

/// How a delivery stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryStatus {
    /// It waits for its first or next attempt.
    Pending,
    /// The receiver has it.
    Delivered,
    /// It was given up.
    Failed,
    /// Events that fell out of the history before they could be sent.
    Lost,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Delivered, Self::Failed, Self::Lost];

    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// Reads what [`DeliveryStatus::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// What is sent, to be written into the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The `webhook-id`: the same in every delivery of it.
    pub id: String,
    /// The event's number; `None` for a test.
    pub event: Option<u64>,
    /// The event's type.
    pub kind: String,
    /// Whose event it is.
    pub connection: Option<ConnectionKey>,
    /// The body, to the letter.
    pub body: String,
}

impl Message {
    /// Of a stored event, with the body that is made of it.
    #[must_use]
    pub fn of(event: &Event, body: String) -> Self {
        Self {
            // A restored database gives numbers anew, but not at the same time.
            id: format!("evt_{}_{:x}", event.id, event.event.at.as_millis()),
            event: Some(event.id),
            kind: event.event.kind.as_str().to_owned(),
            connection: event.event.connection.clone(),
            body,
        }
    }
}

/// A delivery: an entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Its number.
    pub id: DeliveryId,
    /// What is sent; `None` for what was lost.
    pub message: Option<Message>,
    /// How it stands.
    pub status: DeliveryStatus,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was written into the log.
    pub created_at: Timestamp,
    /// When the first attempt began.
    pub first_at: Option<Timestamp>,
    /// When the last attempt began.
    pub last_at: Option<Timestamp>,
    /// When the next attempt may begin; `None` while it waits for an earlier event of its connection, or is over.
    pub next_at: Option<Timestamp>,
    /// The status of the last answer.
    pub answer: Option<u16>,
    /// What went wrong last.
    pub error: Option<String>,
    /// How long the last attempt took.
    pub took: Option<Duration>,
    /// The delivery that this one repeats because somebody asked.
    pub repeats: Option<DeliveryId>,
}

/// Which deliveries to read, newest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeliveryQuery {
    /// Only these.
    pub status: Option<DeliveryStatus>,
    /// Only those with smaller numbers.
    pub before: Option<DeliveryId>,
    /// At most this many, and never more than [`crate::store::PAGE_MAX`].
    pub limit: usize,
}

/// What is to be done for a webhook.
#[derive(Debug)]
pub struct Look {
    /// The webhook.
    pub webhook: Webhook,
    /// Its secrets.
    pub secrets: Secrets,
    /// The first delivery whose time has come.
    pub due: Option<Delivery>,
    /// When the first of the others is due.
    pub next_at: Option<Timestamp>,
    /// The first event behind the given number that it gets.
    pub event: Option<Next>,
    /// The number of the oldest event that is stored.
    pub oldest: u64,
    /// The number of the newest one.
    pub newest: u64,
}

/// The next event of a webhook.
#[derive(Debug)]
pub enum Next {
    /// It may be sent.
    Free(Event),
    /// It has to wait for an earlier one of its connection.
    Held(Event),
    /// It is stored, and cannot be read.
    Unreadable(u64),
}

/// What was attempted.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An event that has no entry in the log yet.
    New(Message),
    /// An entry of the log.
    Stored(DeliveryId),
    /// A message outside of all order, tried once.
    Test(Message),
}

/// An attempt and what became of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What was attempted.
    pub subject: Subject,
    /// Where it was sent.
    pub url: String,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// The status of the answer.
    pub answer: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// What follows.
    pub decision: Decision,
}

/// What somebody changes about a webhook.
#[derive(Debug)]
pub enum Change {
    /// What was said about it.
    Settings(Settings),
    /// It sends from now on, whatever waits at once.
    Enable,
    /// It sends nothing.
    Disable(String),
    /// Another secret; the one in use signs too until then.
    Secret(SigningSecret, Timestamp),
}

/// What became of the wish to repeat a delivery.
#[derive(Debug)]
pub enum Redelivered {
    /// It will be sent: this entry.
    Queued(Box<Delivery>),
    /// There is no such webhook.
    NoWebhook,
    /// There is no such delivery.
    NoDelivery,
    /// It stands for events that are not there any more.
    Lost,
    /// The webhook is disabled.
    Disabled,
    /// Too many wait.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_names_of_events_or_of_their_families() {
        let new = |names: &[&str]| Types::new(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(new(&[]).unwrap().kinds(), None);
        let kinds = new(&["provider.*", "connection.held"]).unwrap().kinds().unwrap();
        assert_eq!(kinds, [EventKind::Held, EventKind::ProviderDegraded, EventKind::ProviderRecovered]);
        for wrong in ["connection", "*", "conn*", "connection.hel*", "connection.gone", "webhook.*", ""] {
            assert_eq!(new(&["connection.held", wrong]).unwrap_err(), wrong);
        }
    }

    #[test]
    fn a_webhook_wants_what_its_filter_names() {
        let settings = |types: &[&str], namespace: Option<&str>| Settings {
            url: String::new(),
            description: String::new(),
            types: Types::new(types.iter().map(|name| (*name).to_owned()).collect()).unwrap(),
            namespace: namespace.map(str::to_owned),
        };
        let of = |kind, namespace: Option<&str>| {
            let key = namespace.map(|namespace| ConnectionKey::new(namespace, "a").unwrap());
            NewEvent::new(kind, Timestamp::EPOCH, key.as_ref(), "")
        };
        let (held, started) = (of(EventKind::Held, Some("team")), of(EventKind::SystemStarted, None));
        assert!(settings(&[], None).want(&held) && settings(&[], None).want(&started));
        assert!(settings(&["connection.*"], Some("team")).want(&held));
        assert!(!settings(&["system.*"], None).want(&held) && settings(&["system.*"], None).want(&started));
        assert!(!settings(&[], Some("other")).want(&held) && !settings(&[], Some("team")).want(&started));
    }

    #[test]
    fn numbers_read_back_from_their_texts() {
        assert_eq!(WebhookId(7).to_string().parse(), Ok(WebhookId(7)));
        assert_eq!(DeliveryId(12).to_string().parse(), Ok(DeliveryId(12)));
        for wrong in ["7", "wh_", "wh_0", "wh_07", "wh_-1", "wh_+1", "wh_9223372036854775808", "dlv_1", "WH_1"] {
            assert_eq!(wrong.parse::<WebhookId>(), Err(()), "{wrong}");
        }
    }
}
