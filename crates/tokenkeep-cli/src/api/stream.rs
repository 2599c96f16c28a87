//! `/v1/events/stream`: what happens, as server-sent events.
//!
//! One reader gets: `hello`, then each `event` in the order of its number without a gap, `summary` at most once a
//! second and only when it changed, `step` of attempts as they come, and `resync` where its place in the history is
//! not to be had any more. The id of an `event` is its number, so that `Last-Event-ID` resumes behind any that is
//! stored.
//!
//! Attempts end side by side, so events are published out of order; the store has them in order. One [`Feed`], which
//! lives while there are readers, brings them into order and writes each as text once, for all readers together. A reader
//! that finds a gap reads the store. One [`Fleet`], which lives while there are readers of summaries, counts once a second.

use super::Api;
use super::access::Caller;
use super::events::{EVENT_NUMBER, event_number};
use super::json::{EventJson, HelloJson, ResyncJson, StepJson, SummaryJson, Times};
use super::openapi::{self, Name, OfNamespace};
use super::params::{Params, key};
use super::problem::Problem;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokenkeep::events::Progress;
use tokenkeep::store::{Event, EventQuery, PAGE_MAX};
use tokenkeep::{Error, TokenKeep};
use tokenkeep_core::ConnectionKey;
use tokenkeep_core::model::printable;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::task::AbortHandle;

/// The most readers of the stream at once.
pub const READERS_MAX: usize = 2_048;
/// How many events a reader may fall behind the feed before it reads the store instead.
pub const FEED_BEHIND_MAX: usize = 1024;
/// How many stored events a reader that fell behind catches up with; one further behind is told to `resync`.
pub const CATCH_UP_MAX: u64 = 10_000;
/// A stream that has nothing to say says so this often, with a comment line.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// How often a stream that has nothing to say looks whether its reader's key or session has ended.
const CALLER_EVERY: Duration = Duration::from_secs(1);
/// How often the fleet is counted while somebody reads summaries.
pub const SUMMARY_EVERY: Duration = Duration::from_secs(1);
/// The pause before a store is asked again that could not be read.
const STORE_RETRY_EVERY: Duration = Duration::from_secs(1);

/// The readers of the stream, and what they share.
#[derive(Clone, Debug)]
pub struct Streams {
    feed: Arc<Mutex<Weak<Feed>>>,
    fleet: Arc<Mutex<Weak<Fleet>>>,
    seats: Arc<Semaphore>,
    /// True when streams are to end: before the engine does, so that nobody waits for them.
    stop: watch::Receiver<bool>,
}

impl Streams {
    /// Without readers yet. Streams end when `stop` turns true.
    #[must_use]
    pub fn new(stop: watch::Receiver<bool>) -> Self {
        Self { feed: Arc::default(), fleet: Arc::default(), seats: Arc::new(Semaphore::new(READERS_MAX)), stop }
    }
}

/// What the readers that there are share, else a new one.
fn shared<T>(place: &Mutex<Weak<T>>, start: impl FnOnce() -> T) -> Arc<T> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    place.upgrade().unwrap_or_else(|| {
        let started = Arc::new(start());
        *place = Arc::downgrade(&started);
        started
    })
}

/// What all readers get, made once. It works until the last reader drops it.
#[derive(Debug)]
struct Feed {
    /// Events in order, as text.
    events: broadcast::Sender<Told>,
    /// The newest event that was sent to `events`.
    position: Arc<AtomicU64>,
    work: AbortHandle,
}

/// What the readers of summaries get, counted once. It works until the last of them drops it.
#[derive(Debug)]
struct Fleet {
    /// The newest summary of the fleet, as text; empty before the first.
    summary: watch::Sender<Arc<str>>,
    work: AbortHandle,
}

/// An event, and what it is called in the stream.
#[derive(Clone, Debug)]
struct Told {
    event: Arc<Event>,
    text: Arc<str>,
}

impl Feed {
    fn start(keep: &TokenKeep) -> Self {
        let events = broadcast::channel(FEED_BEHIND_MAX).0;
        // The order matters: what is published from here on is heard.
        let news = keep.subscribe();
        let position = Arc::new(AtomicU64::new(keep.last_event_id()));
        let ordering = bring_into_order(keep.clone(), news, events.clone(), Arc::clone(&position));
        Self { events, position, work: tokio::spawn(ordering).abort_handle() }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Fleet {
    fn start(keep: &TokenKeep) -> Self {
        let summary = watch::Sender::new(Arc::from(""));
        let work = tokio::spawn(count_the_fleet(keep.clone(), summary.clone())).abort_handle();
        Self { summary, work }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// Sends every event behind `position` in the order of numbers: straight on where the next one comes, from the
/// store where another one does.
async fn bring_into_order(
    keep: TokenKeep,
    mut news: broadcast::Receiver<Arc<Event>>,
    events: broadcast::Sender<Told>,
    position: Arc<AtomicU64>,
) {
    let send = |event: Arc<Event>| {
        let (id, text) = (event.id, json(&EventJson::new(&event, &Times::of(&keep))));
        // The last reader may be leaving.
        let _ = events.send(Told { event, text });
        position.store(id, Ordering::Release);
    };
    loop {
        let last = position.load(Ordering::Acquire);
        match news.recv().await {
            Ok(event) if event.id <= last => {}
            Ok(event) if event.id == last + 1 => send(event),
            Ok(_) | Err(RecvError::Lagged(_)) => {
                let mut missed = stored(&keep, &EventQuery { after: last, ..EventQuery::default() }).await;
                while let Some(after) = missed.last().map(|event| event.id) {
                    missed.into_iter().for_each(|event| send(Arc::new(event)));
                    missed = stored(&keep, &EventQuery { after, ..EventQuery::default() }).await;
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn count_the_fleet(keep: TokenKeep, summary: watch::Sender<Arc<str>>) {
    let mut every = tokio::time::interval(SUMMARY_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = None;
    loop {
        every.tick().await;
        match keep.summary(None).await {
            // Compared in steady time: as text, times differ by the millisecond in which the clocks were read.
            Ok(counted) if known.as_ref() != Some(&counted) => {
                summary.send_replace(json(&SummaryJson::new(&counted, &Times::of(&keep))));
                known = Some(counted);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the fleet could not be counted"),
        }
    }
}

/// A page of stored events, as soon as the store can be read.
async fn stored(keep: &TokenKeep, query: &EventQuery) -> Vec<Event> {
    loop {
        match keep.events(&EventQuery { limit: PAGE_MAX, ..query.clone() }).await {
            Ok(events) => return events,
            Err(error) => {
                tracing::warn!(%error, "a stream waits for the store");
                tokio::time::sleep(STORE_RETRY_EVERY).await;
            }
        }
    }
}

fn json(value: &impl Serialize) -> Arc<str> {
    // What is told here is structs of texts and numbers, which always serialize.
    serde_json::to_string(value).unwrap_or_default().into()
}

/// What one reader wants to hear.
#[derive(Clone, Debug)]
struct Wanted {
    kinds: Kinds,
    namespace: Option<String>,
    connection: Option<ConnectionKey>,
    /// Behind which event to go on; `None`: from now on.
    after: Option<u64>,
    /// Who hears it.
    caller: Caller,
}

/// What `kinds` may name.
const KINDS: &str = "one or more of event, summary, step, separated by commas";

impl Wanted {
    fn read(query: Option<&str>, headers: &HeaderMap, caller: Caller) -> Result<Self, Problem> {
        let mut params = Params::new(query);
        let namespace = params.namespace()?;
        let connection = params.take("connection")?;
        let connection = connection.map(|name| key(namespace.as_deref(), &name)).transpose()?;
        let mut kinds = params.parsed("kinds", KINDS, Kinds::parse)?.unwrap_or(Kinds::ALL);
        let after = params.parsed("after", EVENT_NUMBER, event_number)?;
        params.finish()?;
        // Summaries count the whole fleet: they would mislead a reader of a part.
        kinds.summaries &= namespace.is_none() && connection.is_none() && caller.sees_all();
        Ok(Self { kinds, namespace, connection, after: last_event_id(headers)?.or(after), caller })
    }

    fn covers(&self, whose: Option<&ConnectionKey>) -> bool {
        let asked = match (&self.connection, &self.namespace) {
            (Some(connection), _) => whose == Some(connection),
            (None, Some(namespace)) => whose.is_some_and(|key| key.namespace() == namespace),
            (None, None) => true,
        };
        asked && self.caller.hears(whose)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kinds {
    events: bool,
    summaries: bool,
    steps: bool,
}

impl Kinds {
    const ALL: Self = Self { events: true, summaries: true, steps: true };

    fn parse(text: &str) -> Option<Self> {
        let mut kinds = Self { events: false, summaries: false, steps: false };
        for kind in text.split(',') {
            match kind {
                "event" => kinds.events = true,
                "summary" => kinds.summaries = true,
                "step" => kinds.steps = true,
                _ => return None,
            }
        }
        Some(kinds)
    }
}

/// `Last-Event-ID`, as a browser sends it when it comes back.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.to_str().ok().and_then(event_number) {
        Some(id) => Ok(Some(id)),
        None => Err(Problem::invalid(
            format!("the header `Last-Event-ID` is `{}`", printable(&String::from_utf8_lossy(value.as_bytes()), 80)),
            format!("Expected {EVENT_NUMBER}, as the stream gave it; or leave it out."),
        )),
    }
}

/// The stream: of everything, or with `?namespace=` and `?connection=` of a part; `?kinds=event,step` leaves the
/// others out; `?after=` is `Last-Event-ID` for those who cannot send headers.
#[utoipa::path(get, path = "/v1/events/stream", operation_id = "follow_events", tag = "events",
    params(
        OfNamespace,
        ("connection" = Option<Name>, Query, description = "Of this connection alone."),
        ("kinds" = Option<openapi::Kinds>, Query,
            description = "Some of `event`, `summary` and `step`, separated by commas."),
        ("after" = Option<u64>, Query, description = "As `Last-Event-ID`."),
        ("Last-Event-ID" = Option<u64>, Header, description = "Resume behind the event of this number."),
    ),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "Events named `hello`, `event`, `summary`, `step` and `resync`, each with JSON.",
        body = openapi::Frame, content_type = "text/event-stream"),
    (status = 503, description = "`too_many_readers`: too many follow the stream already."),
))]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = Wanted::read(query.as_deref(), &headers, caller)?;
    let seat = Arc::clone(&api.streams.seats).try_acquire_owned().map_err(|_| too_many(&api.times()))?;
    let reader = Reader::start(&api, wanted, seat).await.map_err(|error| api.problem(&error))?;
    let frames = stream::unfold(reader, |mut reader| async {
        let frame = reader.next().await?;
        Some((Ok::<_, Infallible>(frame), reader))
    });
    Ok(Sse::new(frames).keep_alive(KeepAlive::new().interval(HEARTBEAT_EVERY)).into_response())
}

fn too_many(times: &Times) -> Problem {
    let detail = format!("{READERS_MAX} readers follow the stream already");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_readers", detail)
        .next("Close one, or read /v1/events page by page.")
        .retry(Some(times.now + HEARTBEAT_EVERY), times)
}

/// Why a reader must fetch again what it shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resync {
    /// What it has not heard is not kept any more.
    Gone,
    /// No event has this number: the database is another one.
    Unknown,
    /// It fell behind by more than [`CATCH_UP_MAX`].
    Behind,
}

impl Resync {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Unknown => "unknown",
            Self::Behind => "behind",
        }
    }
}

/// One reader and its place in the history.
struct Reader {
    api: Api,
    keep: TokenKeep,
    wanted: Wanted,
    feed: Arc<Feed>,
    live: broadcast::Receiver<Told>,
    steps: Option<broadcast::Receiver<Arc<Progress>>>,
    summary: Option<watch::Receiver<Arc<str>>>,
    /// Where the summaries come from.
    _fleet: Option<Arc<Fleet>>,
    stop: watch::Receiver<bool>,
    /// Everything up to this event has been told.
    position: u64,
    /// Something behind `position` is to be read from the store.
    is_behind: bool,
    ready: VecDeque<Frame>,
    _seat: OwnedSemaphorePermit,
}

/// What a reader waits for.
enum Heard {
    Event(Result<Told, RecvError>),
    Step(Result<Arc<Progress>, RecvError>),
    Summary(Arc<str>),
    Nothing,
    Stop,
}

impl Reader {
    async fn start(api: &Api, wanted: Wanted, seat: OwnedSemaphorePermit) -> Result<Self, Error> {
        let keep = api.keep.clone();
        let feed = shared(&api.streams.feed, || Feed::start(&keep));
        let fleet = wanted.kinds.summaries.then(|| shared(&api.streams.fleet, || Fleet::start(&keep)));
        let live = feed.events.subscribe();
        let newest = feed.position.load(Ordering::Acquire);
        let place = place(wanted.after, newest, &stored_from(&keep, wanted.after).await?);
        let position = place.unwrap_or(newest);
        let mut reader = Self {
            api: api.clone(),
            live,
            steps: wanted.kinds.steps.then(|| keep.subscribe_progress()),
            summary: fleet.as_ref().map(|fleet| fleet.summary.subscribe()),
            _fleet: fleet,
            stop: api.streams.stop.clone(),
            position,
            is_behind: position < newest,
            ready: VecDeque::new(),
            keep,
            wanted,
            feed,
            _seat: seat,
        };
        if let Some(summary) = &mut reader.summary
            && !summary.borrow().is_empty()
        {
            summary.mark_changed();
        }
        let times = reader.times();
        reader.tell("hello", &HelloJson { at: times.text(times.now), last_id: newest }, Some(position));
        if let Err(why) = place {
            reader.resync(why, newest);
        }
        Ok(reader)
    }

    fn times(&self) -> Times {
        Times::of(&self.keep)
    }

    /// The next thing to tell; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            // A key or session may end while its holder listens.
            if *self.stop.borrow() || !self.wanted.caller.stands(&self.api) {
                return None;
            }
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.is_behind {
                self.read_stored().await;
                continue;
            }
            match self.hear().await {
                Heard::Event(told) => self.heard_event(told)?,
                Heard::Step(step) => self.heard_step(step.ok()),
                Heard::Summary(text) => self.ready.push_back(Frame::default().event("summary").data(text)),
                Heard::Nothing => {}
                Heard::Stop => return None,
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        let step = async {
            match &mut self.steps {
                Some(steps) => steps.recv().await,
                None => std::future::pending().await,
            }
        };
        let summary = async {
            match &mut self.summary {
                Some(summary) => {
                    // The sender lives in `_fleet`.
                    let _ = summary.changed().await;
                    Arc::clone(&summary.borrow_and_update())
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => Heard::Stop,
            told = self.live.recv() => Heard::Event(told),
            step = step => Heard::Step(step),
            text = summary => Heard::Summary(text),
            () = tokio::time::sleep(CALLER_EVERY) => Heard::Nothing,
        }
    }

    /// `None`: the feed has ended.
    fn heard_event(&mut self, told: Result<Told, RecvError>) -> Option<()> {
        let newest = self.feed.position.load(Ordering::Acquire);
        match told {
            Ok(told) if told.event.id <= self.position => {}
            Ok(told) if told.event.id == self.position + 1 => {
                self.position = told.event.id;
                self.tell_event(&told.event, told.text);
            }
            Ok(_) | Err(RecvError::Lagged(_)) if newest.saturating_sub(self.position) > CATCH_UP_MAX => {
                self.position = newest;
                self.resync(Resync::Behind, newest);
            }
            Ok(_) | Err(RecvError::Lagged(_)) => self.is_behind = true,
            Err(RecvError::Closed) => return None,
        }
        Some(())
    }

    /// Steps are not kept: a reader that falls behind misses some.
    fn heard_step(&mut self, step: Option<Arc<Progress>>) {
        if let Some(step) = step.filter(|step| self.wanted.covers(Some(&step.connection))) {
            let told = StepJson::new(&step, &self.times());
            self.tell("step", &told, None);
        }
    }

    /// A page from the store. It is whole up to where the feed was before it was read.
    async fn read_stored(&mut self) {
        let newest = self.feed.position.load(Ordering::Acquire);
        let query =
            EventQuery { after: self.position, connection: self.wanted.connection.clone(), ..EventQuery::default() };
        let page = stored(&self.keep, &query).await;
        let times = self.times();
        for event in &page {
            self.position = event.id;
            self.tell_event(event, json(&EventJson::new(event, &times)));
        }
        if page.len() < PAGE_MAX {
            self.position = self.position.max(newest);
            self.is_behind = false;
        }
    }

    fn tell_event(&mut self, event: &Event, text: Arc<str>) {
        if self.wanted.kinds.events && self.wanted.covers(event.event.connection.as_ref()) {
            self.ready.push_back(Frame::default().event("event").id(event.id.to_string()).data(text));
        }
    }

    fn resync(&mut self, why: Resync, last_id: u64) {
        self.tell("resync", &ResyncJson { reason: why.as_str().to_owned(), last_id }, Some(last_id));
    }

    fn tell(&mut self, kind: &str, value: &impl Serialize, id: Option<u64>) {
        let frame = Frame::default().event(kind).data(json(value));
        self.ready.push_back(match id {
            Some(id) => frame.id(id.to_string()),
            None => frame,
        });
    }
}

/// Where a reader goes on that has heard everything up to `after`, or why it cannot. `stored` holds the numbers of
/// the first two stored events from `after` on.
fn place(after: Option<u64>, newest: u64, stored: &[u64]) -> Result<u64, Resync> {
    match after {
        None => Ok(newest),
        // From the beginning of what is kept.
        Some(0) => Ok(0),
        Some(after) if after == newest || stored.contains(&after) => Ok(after),
        Some(after) if after < newest && stored.contains(&(after + 1)) => Ok(after),
        Some(after) if after < newest => Err(Resync::Gone),
        Some(_) => Err(Resync::Unknown),
    }
}

/// The numbers of the first two stored events from `after` on.
async fn stored_from(keep: &TokenKeep, after: Option<u64>) -> Result<Vec<u64>, Error> {
    let Some(before) = after.and_then(|after| after.checked_sub(1)) else { return Ok(Vec::new()) };
    let query = EventQuery { after: before, limit: 2, ..EventQuery::default() };
    Ok(keep.events(&query).await?.iter().map(|event| event.id).collect())
}

#[cfg(test)]
mod tests;
