//! Delivering on virtual time, from the real tables, to a receiver that does as it is told.

use super::decide::{DISABLE_AFTER, GIVE_UP_AFTER, REST, RETRY_DELAYS};
use super::model::{DeliveryStatus, Types};
use super::*;
use crate::clock::SeededDice;
use crate::endpoint::{Channel, Reuse, SendFailure};
use crate::events::Events;
use crate::store::sqlite::Inline;
use crate::store::{EventKind, NewEvent};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::ProviderRequest;
use tokenkeep_core::{ConnectionKey, Failure, FailureCode};
use tokio::time::Instant;
use zeroize::Zeroizing;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        START + self.0.elapsed()
    }

    fn wall(&self) -> Timestamp {
        self.now()
    }
}

/// What came, and what it was answered.
#[derive(Clone, Debug)]
struct Received {
    after: Duration,
    id: String,
    timestamp: i64,
    signature: String,
    body: String,
    status: Option<u16>,
}

#[derive(Clone)]
enum Reply {
    Status(u16),
    RetryAfter(u16, Duration),
    Refused,
    /// It takes the message, and its answer takes so long.
    Slow(u16, Duration),
}

type Script = Box<dyn FnMut(&str, Duration) -> Reply + Send>;

struct Receiver {
    started: Instant,
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    in_flight: AtomicUsize,
    busiest: AtomicUsize,
    busiest_of_one: AtomicUsize,
    by_url: Mutex<BTreeMap<String, usize>>,
}

impl Receiver {
    fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    fn acknowledged(&self) -> Vec<String> {
        let is_good = |got: &Received| got.status.is_some_and(|status| (200..300).contains(&status));
        self.all().into_iter().filter(is_good).map(|got| got.body).collect()
    }

    fn answer_with(&self, script: impl FnMut(&str, Duration) -> Reply + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }
}

struct Line(Arc<Receiver>, Url);

#[async_trait::async_trait]
impl Endpoint for Line {
    async fn connect(&self, url: &Url, _: Reuse) -> Result<Box<dyn Channel>, Failure> {
        Ok(Box::new(Self(Arc::clone(&self.0), url.clone())))
    }
}

#[async_trait::async_trait]
impl Channel for Line {
    async fn send(self: Box<Self>, request: ProviderRequest, _: Duration) -> Result<RawAnswer, SendFailure> {
        let Self(receiver, url) = *self;
        let header = |wanted: &str| {
            let found = request.headers.iter().find(|(name, _)| name == wanted);
            found.unwrap_or_else(|| panic!("no {wanted}")).1.to_string()
        };
        let body = request.body.expose().to_owned();
        let reply = (receiver.script.lock().unwrap())(&body, receiver.started.elapsed());
        let (status, retry_after, takes) = match reply {
            Reply::Status(status) => (Some(status), None, Duration::ZERO),
            Reply::RetryAfter(status, span) => (Some(status), Some(span), Duration::ZERO),
            Reply::Refused => (None, None, Duration::ZERO),
            Reply::Slow(status, takes) => (Some(status), None, takes),
        };
        receiver.received.lock().unwrap().push(Received {
            after: receiver.started.elapsed(),
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp").parse().unwrap(),
            signature: header("webhook-signature"),
            body,
            status,
        });
        let now = receiver.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        receiver.busiest.fetch_max(now, Ordering::SeqCst);
        let of_one = {
            let mut by_url = receiver.by_url.lock().unwrap();
            let count = by_url.entry(url.to_string()).or_default();
            *count += 1;
            *count
        };
        receiver.busiest_of_one.fetch_max(of_one, Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        receiver.in_flight.fetch_sub(1, Ordering::SeqCst);
        *receiver.by_url.lock().unwrap().get_mut(url.as_str()).unwrap() -= 1;
        let Some(status) = status else {
            return Err(SendFailure::Unsent(Failure::new(FailureCode::ConnectFailed, "refused")));
        };
        Ok(RawAnswer { status, content_type: None, retry_after, body: Zeroizing::new(Vec::new()) })
    }
}

struct Scene {
    _folder: TempDir,
    store: Arc<Inline>,
    events: Arc<Events>,
    receiver: Arc<Receiver>,
    subscribed: Arc<AtomicUsize>,
    started: Instant,
    keep: u64,
    webhooks: Webhooks,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Inline::open(&folder.path().join("tokenkeep.db")));
        let started = Instant::now();
        let receiver = Arc::new(Receiver {
            started,
            script: Mutex::new(Box::new(|_, _| Reply::Status(204))),
            received: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            busiest_of_one: AtomicUsize::new(0),
            by_url: Mutex::default(),
        });
        let (events, subscribed) = (Arc::new(Events::default()), Arc::new(AtomicUsize::new(0)));
        let webhooks = open(&store, &events, &receiver, &subscribed, started);
        let scene = Self { _folder: folder, store, events, receiver, subscribed, started, keep: 1_000_000, webhooks };
        scene.deliver().await;
        scene
    }

    async fn deliver(&self) {
        // Short, so that a test can tell bodies apart: the connection and what is in the event.
        let body: Body = Arc::new(|event, _| {
            let whose = event.event.connection.as_ref().map_or("-", ConnectionKey::name);
            format!("{whose} {}", event.event.message)
        });
        self.webhooks.deliver(body).await.unwrap();
    }

    /// Ends without a word, as by a kill, and starts again on the same store.
    async fn crash(&mut self) {
        self.webhooks = open(&self.store, &self.events, &self.receiver, &self.subscribed, self.started);
        self.deliver().await;
    }

    async fn webhook(&self) -> WebhookId {
        self.webhook_of(&[], None).await
    }

    async fn webhook_of(&self, types: &[&str], namespace: Option<&str>) -> WebhookId {
        self.webhooks.create(settings(types, namespace)).await.unwrap().0.id
    }

    fn happen(&self, kind: EventKind, whose: Option<&str>, message: &str) {
        let key = whose.map(|name| ConnectionKey::in_default(name).unwrap());
        let at = START + self.started.elapsed();
        let event = self.store.write(NewEvent::new(kind, at, key.as_ref(), message), self.keep);
        self.events.publish(event);
    }

    fn refreshed(&self, whose: &str, nth: usize) {
        self.happen(EventKind::Refreshed, Some(whose), &nth.to_string());
    }

    async fn log(&self, id: WebhookId) -> Vec<Delivery> {
        self.webhooks.deliveries(id, DeliveryQuery { limit: 1_000, ..DeliveryQuery::default() }).await.unwrap()
    }
}

fn open(
    store: &Arc<Inline>,
    events: &Arc<Events>,
    receiver: &Arc<Receiver>,
    subscribed: &Arc<AtomicUsize>,
    started: Instant,
) -> Webhooks {
    let (events, subscribed) = (Arc::clone(events), Arc::clone(subscribed));
    let parts = Parts {
        store: Arc::clone(store) as Arc<dyn WebhookStore>,
        clock: Arc::new(VirtualClock(started)),
        dice: Arc::new(SeededDice::new(7)),
        wall: Arc::new(|at| at),
        news: Box::new(move || {
            subscribed.fetch_add(1, Ordering::SeqCst);
            events.subscribe()
        }),
    };
    let line = Line(Arc::clone(receiver), "https://example.com/".parse().unwrap());
    Webhooks::new(parts, Egress { endpoint: Arc::new(line), ..Egress::to(&[]) })
}

fn settings(types: &[&str], namespace: Option<&str>) -> Settings {
    Settings {
        url: "https://example.com/hook".to_owned(),
        description: String::new(),
        types: Types::new(types.iter().map(|name| (*name).to_owned()).collect()).unwrap(),
        namespace: namespace.map(str::to_owned),
    }
}

async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

/// The numbers of each connection's messages, in the order in which they came.
fn by_connection(bodies: &[String]) -> BTreeMap<String, Vec<usize>> {
    let mut found = BTreeMap::<String, Vec<usize>>::new();
    for body in bodies {
        let (whose, nth) = body.split_once(' ').unwrap();
        found.entry(whose.to_owned()).or_default().push(nth.parse().unwrap());
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_was_down_for_hours_gets_each_event_once_and_in_order() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.receiver.answer_with(|_, after| if after < 9 * HOUR { Reply::Refused } else { Reply::Status(200) });
    for nth in 0..10 {
        for whose in ["a", "b", "c"] {
            scene.refreshed(whose, nth);
        }
        pass(HOUR).await;
    }
    let attempts = scene.receiver.all().iter().filter(|got| got.after < 9 * HOUR).count();
    let most = 9 * 3_600 / REST.as_secs() as usize + 3;
    assert!((20..=most * 5 / 4).contains(&attempts), "{attempts} attempts at a receiver that was down");
    pass(HOUR).await;
    let expected: Vec<usize> = (0..10).collect();
    let got = by_connection(&scene.receiver.acknowledged());
    assert_eq!(got, ["a", "b", "c"].map(|whose| (whose.to_owned(), expected.clone())).into());
    let log = scene.log(id).await;
    assert!(log.len() == 30 && log.iter().all(|delivery| delivery.status == DeliveryStatus::Delivered));
    let webhook = scene.webhooks.get(id).await.unwrap();
    assert!(webhook.health == decide::Health::default() && webhook.pending == 0 && webhook.delivered_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn one_event_that_is_refused_holds_its_connection_alone_and_is_given_up() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.receiver.answer_with(|body, _| Reply::Status(if body == "bad 1" { 500 } else { 200 }));
    for nth in 0..3 {
        scene.refreshed("bad", nth);
        scene.refreshed("good", nth);
    }
    pass(HOUR).await;
    let got = by_connection(&scene.receiver.acknowledged());
    assert_eq!((got["bad"].as_slice(), got["good"].as_slice()), (&[0][..], &[0, 1, 2][..]));
    // Now and then something arrives, so the receiver is not taken to be gone.
    for nth in 3..130 {
        scene.refreshed("good", nth);
        pass(HOUR).await;
    }
    let got = by_connection(&scene.receiver.acknowledged());
    assert_eq!((got["bad"].as_slice(), got["good"].len()), (&[0, 2][..], 130));
    let failed: Vec<Delivery> =
        scene.log(id).await.into_iter().filter(|delivery| delivery.status == DeliveryStatus::Failed).collect();
    let [failed] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((failed.answer, failed.next_at), (Some(500), None));
    assert!(failed.error.as_deref().is_some_and(|error| error.contains("500")), "{failed:?}");
    assert!((12..=20).contains(&failed.attempts), "{failed:?}");
    assert!(failed.last_at.unwrap().since(failed.first_at.unwrap()) <= GIVE_UP_AFTER);
    assert!(scene.webhooks.get(id).await.unwrap().disabled.is_none());
}

#[tokio::test(start_paused = true)]
async fn receivers_that_failed_together_are_not_asked_together() {
    let scene = Scene::new().await;
    for _ in 0..40 {
        scene.webhook().await;
    }
    scene.receiver.answer_with(|_, _| Reply::Refused);
    scene.refreshed("a", 0);
    pass(Duration::from_secs(60)).await;
    let second: Vec<Duration> = scene.receiver.all()[40..].iter().map(|got| got.after).collect();
    assert_eq!(second.len(), 40);
    let (first, last) = (*second.iter().min().unwrap(), *second.iter().max().unwrap());
    assert!(first >= RETRY_DELAYS[0].mul_f64(0.8) && last <= RETRY_DELAYS[0].mul_f64(1.21), "{second:?}");
    assert!(last - first > RETRY_DELAYS[0].mul_f64(0.25), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_with_everything() {
    let scene = Scene::new().await;
    scene.webhook().await;
    let span = Duration::from_secs(1_800);
    scene.receiver.answer_with(move |_, after| match after < span {
        true => Reply::RetryAfter(503, span),
        false => Reply::Status(200),
    });
    scene.refreshed("a", 0);
    pass(Duration::from_secs(60)).await;
    scene.refreshed("b", 0);
    pass(HOUR).await;
    let times: Vec<u64> = scene.receiver.all().iter().map(|got| got.after.as_secs()).collect();
    assert_eq!(times, [0, 1_800, 1_800]);
}

#[tokio::test(start_paused = true)]
async fn gone_disables_at_once_and_enabling_goes_on_where_it_stopped() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.receiver.answer_with(|_, _| Reply::Status(410));
    scene.refreshed("a", 0);
    scene.refreshed("b", 0);
    pass(48 * HOUR).await;
    assert_eq!(scene.receiver.all().len(), 1);
    let webhook = scene.webhooks.get(id).await.unwrap();
    assert!(webhook.disabled.is_some_and(|disabled| disabled.reason.contains("410") && disabled.at == START));
    scene.receiver.answer_with(|_, _| Reply::Status(200));
    let webhook = scene.webhooks.enable(id).await.unwrap();
    assert_eq!(webhook.disabled, None);
    pass(Duration::from_secs(1)).await;
    assert_eq!(scene.receiver.acknowledged(), ["a 0", "b 0"]);
}

#[tokio::test(start_paused = true)]
async fn days_of_failures_disable_with_a_reason() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.receiver.answer_with(|_, _| Reply::Refused);
    scene.refreshed("a", 0);
    pass(DISABLE_AFTER - 20 * HOUR).await;
    assert_eq!(scene.webhooks.get(id).await.unwrap().disabled, None);
    pass(40 * HOUR).await;
    let attempts = scene.receiver.all().len();
    let disabled = scene.webhooks.get(id).await.unwrap().disabled.expect("nobody was there for 5 days");
    assert!(disabled.reason.contains("5 days") && disabled.reason.contains("no connection"), "{disabled:?}");
    scene.refreshed("b", 0);
    pass(48 * HOUR).await;
    assert_eq!(scene.receiver.all().len(), attempts);
    assert_eq!(scene.webhooks.get(id).await.unwrap().pending, 1, "it is still owed");
}

#[tokio::test(start_paused = true)]
async fn during_a_rotation_both_secrets_sign_and_afterwards_the_new_one_alone() {
    let scene = Scene::new().await;
    let (webhook, old) = scene.webhooks.create(settings(&[], None)).await.unwrap();
    let verify = |got: &Received, text: &Secret| {
        let encoded = text.expose().strip_prefix("whsec_").unwrap();
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).unwrap();
        let secret = SigningSecret::of(Zeroizing::new(bytes));
        let expected = sign::signatures([&secret], &got.id, got.timestamp, &got.body);
        got.signature.split(' ').position(|signature| signature == expected)
    };
    scene.refreshed("a", 0);
    pass(HOUR).await;
    let (rotated, new) = scene.webhooks.rotate_secret(webhook.id).await.unwrap();
    assert_eq!(rotated.former_until, Some(START + 25 * HOUR));
    scene.refreshed("a", 1);
    pass(25 * HOUR).await;
    scene.refreshed("a", 2);
    pass(HOUR).await;
    let all = scene.receiver.all();
    assert_eq!((verify(&all[0], &old), verify(&all[0], &new)), (Some(0), None));
    assert_eq!((verify(&all[1], &new), verify(&all[1], &old)), (Some(0), Some(1)));
    assert_eq!((verify(&all[2], &new), verify(&all[2], &old)), (Some(0), None));
    assert_eq!(all[1].timestamp, START.as_millis() / 1_000 + 3_600);
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_sending_and_noting_sends_again_under_the_same_id() {
    let mut scene = Scene::new().await;
    scene.webhook().await;
    scene.receiver.answer_with(|_, _| Reply::Slow(200, Duration::from_secs(10)));
    scene.refreshed("a", 0);
    scene.refreshed("a", 1);
    pass(Duration::from_secs(5)).await;
    scene.crash().await;
    scene.receiver.answer_with(|_, _| Reply::Status(200));
    pass(HOUR).await;
    let all = scene.receiver.all();
    assert_eq!(all.iter().map(|got| got.body.as_str()).collect::<Vec<_>>(), ["a 0", "a 0", "a 1"]);
    assert!(all[0].id == all[1].id && all[1].id != all[2].id);
}

#[tokio::test(start_paused = true)]
async fn what_waits_survives_a_crash() {
    let mut scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.receiver.answer_with(|_, _| Reply::Status(500));
    for nth in 0..5 {
        scene.refreshed("a", nth);
        scene.refreshed("b", nth);
    }
    pass(2 * HOUR).await;
    scene.crash().await;
    scene.receiver.answer_with(|_, _| Reply::Status(200));
    pass(HOUR).await;
    let expected: Vec<usize> = (0..5).collect();
    let got = by_connection(&scene.receiver.acknowledged());
    assert_eq!(got, ["a", "b"].map(|whose| (whose.to_owned(), expected.clone())).into());
    assert_eq!(scene.log(id).await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_fell_out_of_the_history_is_reported_as_lost() {
    let mut scene = Scene::new().await;
    scene.keep = 10;
    let id = scene.webhook().await;
    scene.webhooks.disable(id, "for a while").await.unwrap();
    for nth in 0..1_500 {
        scene.refreshed("a", nth);
    }
    scene.webhooks.enable(id).await.unwrap();
    pass(HOUR).await;
    let log = scene.log(id).await;
    let lost: Vec<&Delivery> = log.iter().filter(|delivery| delivery.status == DeliveryStatus::Lost).collect();
    let [lost] = lost[..] else { panic!("{lost:?}") };
    let first = by_connection(&scene.receiver.acknowledged())["a"][0];
    assert!(first > 0 && lost.message.is_none(), "{first}");
    let said = lost.error.as_deref().unwrap();
    assert!(said.contains(&format!("events 1 to {first} were not sent")), "{said}");
    assert_eq!(scene.receiver.acknowledged().len(), 1_500 - first);
    assert!(matches!(scene.webhooks.redeliver(id, lost.id).await, Err(WebhookError::Lost)));
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_is_bounded_and_nothing_is_forgotten() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.receiver.answer_with(|_, _| Reply::Status(503));
    let total = PENDING_MAX as usize + 300;
    for nth in 0..total {
        scene.refreshed("a", nth);
    }
    pass(12 * HOUR).await;
    assert_eq!(scene.webhooks.get(id).await.unwrap().pending, PENDING_MAX);
    scene.receiver.answer_with(|_, _| Reply::Status(200));
    pass(HOUR).await;
    assert_eq!(by_connection(&scene.receiver.acknowledged())["a"], (0..total).collect::<Vec<_>>());
    let kept = scene.log(id).await.len() as u64;
    assert!(kept <= DELIVERIES_MAX, "{kept}");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_gets_what_it_names_from_when_it_names_it() {
    let scene = Scene::new().await;
    scene.refreshed("a", 0);
    let id = scene.webhook_of(&["connection.held"], None).await;
    scene.refreshed("a", 1);
    scene.happen(EventKind::Held, Some("a"), "2");
    pass(HOUR).await;
    scene.refreshed("a", 3);
    pass(HOUR).await;
    scene.webhooks.set(id, settings(&["connection.refreshed", "system.*"], None)).await.unwrap();
    pass(HOUR).await;
    scene.refreshed("a", 4);
    scene.happen(EventKind::SystemStarted, None, "5");
    scene.happen(EventKind::Held, Some("a"), "6");
    pass(HOUR).await;
    scene.webhooks.set(id, settings(&[], Some("team"))).await.unwrap();
    scene.refreshed("a", 7);
    pass(HOUR).await;
    assert_eq!(scene.receiver.acknowledged(), ["a 2", "a 4", "- 5"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_webhook_does_not_get_costs_it_no_history() {
    let mut scene = Scene::new().await;
    scene.keep = 1_000;
    let id = scene.webhook_of(&["connection.held"], None).await;
    for nth in 0..10_000 {
        scene.refreshed("a", nth);
        tokio::task::yield_now().await;
    }
    pass(HOUR).await;
    scene.crash().await;
    scene.happen(EventKind::Held, Some("a"), "0");
    pass(HOUR).await;
    assert_eq!(scene.receiver.acknowledged(), ["a 0"]);
    assert_eq!(scene.log(id).await.len(), 1, "nothing was lost that it would have got");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_can_be_repeated_and_one_that_waits_hurried() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.refreshed("a", 0);
    pass(HOUR).await;
    let first = scene.log(id).await.remove(0);
    let queued = scene.webhooks.redeliver(id, first.id).await.unwrap();
    assert_eq!((queued.status, queued.repeats), (DeliveryStatus::Pending, Some(first.id)));
    pass(Duration::from_secs(1)).await;
    let all = scene.receiver.all();
    assert!(all.len() == 2 && all[0].id == all[1].id && all[0].body == all[1].body);

    scene.receiver.answer_with(|_, _| Reply::Status(500));
    scene.refreshed("a", 1);
    pass(HOUR).await;
    scene.receiver.answer_with(|_, _| Reply::Status(200));
    let waiting = scene.log(id).await.remove(0);
    scene.webhooks.redeliver(id, waiting.id).await.unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(scene.receiver.acknowledged(), ["a 0", "a 0", "a 1"]);
    let no_such = scene.webhooks.redeliver(id, DeliveryId(999)).await;
    assert!(matches!(no_such, Err(WebhookError::NoDelivery(_))));
    scene.webhooks.disable(id, "x").await.unwrap();
    assert!(matches!(scene.webhooks.redeliver(id, first.id).await, Err(WebhookError::Disabled)));
}

#[tokio::test(start_paused = true)]
async fn a_test_is_sent_once_and_says_nothing_about_the_webhook() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.webhooks.disable(id, "x").await.unwrap();
    scene.receiver.answer_with(|_, _| Reply::Status(410));
    let tested = scene.webhooks.test(id, "webhook.test", "body".to_owned()).await.unwrap();
    assert_eq!((tested.status, tested.answer, tested.attempts), (DeliveryStatus::Failed, Some(410), 1));
    scene.receiver.answer_with(|_, _| Reply::Status(200));
    let tested = scene.webhooks.test(id, "webhook.test", "body".to_owned()).await.unwrap();
    assert_eq!(tested.status, DeliveryStatus::Delivered);
    assert_eq!(scene.webhooks.get(id).await.unwrap().disabled.unwrap().reason, "x");
    pass(48 * HOUR).await;
    assert_eq!(scene.receiver.all().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_for_each_and_a_few_over_all() {
    let scene = Scene::new().await;
    for nth in 0..IN_FLIGHT_MAX + 10 {
        let url = format!("https://example.com/{nth}");
        scene.webhooks.create(Settings { url, ..settings(&[], None) }).await.unwrap();
    }
    scene.receiver.answer_with(|_, _| Reply::Slow(200, Duration::from_secs(5)));
    for nth in 0..3 {
        scene.refreshed("a", nth);
        scene.refreshed("b", nth);
    }
    pass(HOUR).await;
    assert_eq!(scene.receiver.acknowledged().len(), 6 * (IN_FLIGHT_MAX + 10));
    assert_eq!(scene.receiver.busiest.load(Ordering::SeqCst), IN_FLIGHT_MAX);
    assert_eq!(scene.receiver.busiest_of_one.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn without_webhooks_nothing_is_done() {
    let scene = Scene::new().await;
    let reads = scene.store.reads();
    for nth in 0..100 {
        scene.refreshed("a", nth);
        pass(HOUR).await;
    }
    assert_eq!((scene.store.reads(), scene.subscribed.load(Ordering::SeqCst)), (reads, 0));
    let id = scene.webhook().await;
    pass(HOUR).await;
    scene.webhooks.remove(id).await.unwrap();
    pass(HOUR).await;
    let reads = scene.store.reads();
    scene.refreshed("a", 100);
    pass(HOUR).await;
    assert_eq!((scene.store.reads(), scene.receiver.all().len()), (reads, 0));
}

#[tokio::test(start_paused = true)]
async fn settings_are_checked_and_webhooks_counted() {
    let scene = Scene::new().await;
    let with = |url: &str| Settings { url: url.to_owned(), ..settings(&[], None) };
    for (wrong, named) in [
        (with("nonsense"), "url"),
        (with("http://example.com/"), "url"),
        (with("https://127.0.0.1/"), "url"),
        (with("https://localhost:9000/"), "url"),
        (with("https://example.com/#x"), "url"),
        (with(&format!("https://example.com/{}", "x".repeat(URL_BYTES_MAX))), "url"),
        (Settings { description: "a\nb".to_owned(), ..settings(&[], None) }, "description"),
        (settings(&["connection.*"; TYPES_MAX + 1], None), "types"),
    ] {
        let error = scene.webhooks.create(wrong.clone()).await.unwrap_err();
        assert!(matches!(&error, WebhookError::Invalid { field, .. } if *field == named), "{wrong:?}: {error}");
    }
    for _ in 0..WEBHOOKS_MAX {
        scene.webhook().await;
    }
    assert!(matches!(scene.webhooks.create(settings(&[], None)).await, Err(WebhookError::TooMany)));
    let last = scene.webhooks.list().await.unwrap().pop().unwrap().id;
    scene.webhooks.remove(last).await.unwrap();
    assert!(matches!(scene.webhooks.remove(last).await, Err(WebhookError::NotFound(_))));
    assert!(scene.webhook().await > last, "no number is used twice");
    assert!(matches!(scene.webhooks.deliveries(last, DeliveryQuery::default()).await, Err(WebhookError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_a_moment_for_what_is_in_flight() {
    let scene = Scene::new().await;
    let id = scene.webhook().await;
    scene.receiver.answer_with(|_, _| Reply::Slow(200, Duration::from_secs(2)));
    scene.refreshed("a", 0);
    pass(Duration::from_secs(1)).await;
    scene.webhooks.stop().await;
    assert_eq!(scene.log(id).await[0].status, DeliveryStatus::Delivered);
    scene.refreshed("a", 1);
    pass(HOUR).await;
    assert_eq!(scene.receiver.all().len(), 1);
}
