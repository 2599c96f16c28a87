use super::*;
use crate::api::oauth::SignIns;
use crate::server::Peer;
use axum::Extension;
use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokenkeep::access::{NewKey, Pattern, Rights, Scope};
use tokenkeep::{Config, Import, Provider};
use tokenkeep_core::Secret;
use tokenkeep_core::Timestamp;
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::Rules;
use tower::ServiceExt as _;

/// How long a test waits for what must come.
const WITHIN: Duration = Duration::from_secs(20);

struct House {
    keep: TokenKeep,
    streams: Streams,
    stop: watch::Sender<bool>,
    app: Router,
    _folder: TempDir,
}

/// An engine with connections `a` and `b` that needs nothing for an hour: events 1 to 3.
async fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let client = Client { id: "id".to_owned(), secret: None };
    let nowhere = "http://127.0.0.1:1/token".parse().unwrap();
    let provider = Provider::new("p", nowhere, client, Rules::default());
    let keep = TokenKeep::open(Config { providers: vec![provider], ..Config::new(folder.path()) }).await.unwrap();
    for name in ["a", "b"] {
        let token = format!(
            r#"{{"access_token":"{name}","refresh_token":"r-{name}","expires_in":86400,"expires_at":9999999999}}"#
        );
        let import = Import { key: named(name), provider: "p".to_owned(), token: Secret::new(token), labels: None };
        keep.import(import).await.unwrap();
    }
    let (stop, stopped) = watch::channel(false);
    let streams = Streams::new(stopped);
    let api = Api::new(keep.clone(), streams.clone(), Arc::default(), SignIns::default());
    let app = super::super::whole(api).layer(Extension(Peer::User(0)));
    House { keep, streams, stop, app, _folder: folder }
}

fn named(name: &str) -> ConnectionKey {
    ConnectionKey::in_default(name).unwrap()
}

impl House {
    async fn ask(&self, query: &str, last_event_id: Option<&str>) -> Response {
        let mut request = Request::get(format!("/v1/events/stream{query}"));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn read(&self, query: &str, last_event_id: Option<&str>) -> Heard {
        let response = self.ask(query, last_event_id).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Heard { body: response.into_body().into_data_stream() }
    }

    /// Pauses and resumes: two events each time.
    async fn happen(&self, name: &str, times: usize) {
        for _ in 0..times {
            self.keep.pause(&named(name)).await.unwrap();
            self.keep.resume(&named(name)).await.unwrap();
        }
    }
}

struct Heard {
    body: BodyDataStream,
}

impl Heard {
    /// The next frame, as its lines; `None` at the end.
    async fn frame(&mut self) -> Option<String> {
        let next = tokio::time::timeout(WITHIN, self.body.next()).await.expect("a frame in time");
        next.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap())
    }

    /// The next frame of this kind.
    async fn next(&mut self, kind: &str) -> String {
        let search = async {
            loop {
                let frame = self.frame().await.expect("the stream goes on");
                if frame.starts_with(&format!("event: {kind}\n")) {
                    return frame;
                }
            }
        };
        // Heartbeats are frames too.
        tokio::time::timeout(WITHIN, search).await.unwrap_or_else(|_| panic!("no `{kind}` in time"))
    }

    /// The numbers of the next events.
    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let frame = self.next("event").await;
            let id = frame.lines().find_map(|line| line.strip_prefix("id: ")).expect("an event has an id");
            assert!(frame.contains(&format!("\"id\":{id},")), "{frame}");
            ids.push(id.parse().unwrap());
        }
        ids
    }
}

#[tokio::test]
async fn a_reader_hears_hello_and_then_what_happens() {
    let house = house().await;
    let mut all = house.read("", None).await;
    let hello = all.frame().await.unwrap();
    assert!(
        hello.starts_with("event: hello\n") && hello.contains("\"last_id\":3") && hello.contains("id: 3\n"),
        "{hello}"
    );
    let mut only_b = house.read("?connection=b&kinds=event", None).await;
    house.happen("a", 1).await;
    house.happen("b", 1).await;
    assert_eq!(all.ids(4).await, [4, 5, 6, 7]);
    assert_eq!(only_b.ids(2).await, [6, 7]);
}

#[tokio::test]
async fn a_stream_ends_with_the_key_of_its_reader() {
    let house = house().await;
    let keys = house.keep.keys().unwrap();
    let rights =
        Rights { scopes: [Scope::Status].into(), namespaces: vec![], names: vec![Pattern::parse("a").unwrap()] };
    let new = NewKey {
        name: "reader".to_owned(),
        rights,
        connections_per_hour: 1,
        expires_at: None,
        created_by: "test".to_owned(),
    };
    let (key, text) = keys.create(new, Timestamp::EPOCH).await.unwrap();
    let request = Request::get("/v1/events/stream?kinds=event");
    let request = request.header("authorization", format!("Bearer {}", text.expose())).body(Body::empty()).unwrap();
    let response = house.app.clone().oneshot(request).await.unwrap();
    let mut reader = Heard { body: response.into_body().into_data_stream() };
    house.happen("b", 1).await;
    house.happen("a", 1).await;
    assert_eq!(reader.ids(2).await, [6, 7], "of others it hears nothing");
    keys.revoke(&key.id).await.unwrap();
    house.happen("a", 1).await;
    assert_eq!(reader.frame().await, None);
}

#[tokio::test]
async fn a_reader_that_comes_back_goes_on_behind_any_stored_event() {
    let house = house().await;
    house.happen("a", 2).await;
    house.happen("b", 1).await;
    for after in 0..9 {
        let expected: Vec<u64> = (after + 1..=9).collect();
        let mut reader = house.read("", Some(&after.to_string())).await;
        assert_eq!(reader.ids(expected.len()).await, expected);
        assert_eq!(house.read(&format!("?after={after}"), None).await.ids(expected.len()).await, expected);
    }
    let mut only_b = house.read("?connection=b", Some("1")).await;
    assert_eq!(only_b.ids(3).await, [3, 8, 9]);
    let mut namespace = house.read("?namespace=default", Some("0")).await;
    assert_eq!(namespace.ids(2).await, [2, 3], "what belongs to no connection belongs to no namespace");
}

#[tokio::test]
async fn what_is_published_out_of_order_is_told_in_order() {
    let house = house().await;
    house.happen("a", 5).await;
    let stored = house.keep.events(&EventQuery { limit: 100, ..EventQuery::default() }).await.unwrap();
    let by_id = |id: u64| stored.iter().find(|event| event.id == id).cloned().map(Arc::new).unwrap();
    // All of them are heard in the wrong order; or only the last two, because the channel holds no more.
    for heard_at_once in [4, 2] {
        let (publish, news) = broadcast::channel(heard_at_once);
        let (events, mut told) = broadcast::channel(100);
        for id in [4, 3, 6, 5] {
            publish.send(by_id(id)).unwrap();
        }
        let position = Arc::new(AtomicU64::new(2));
        let ordering = tokio::spawn(bring_into_order(house.keep.clone(), news, events, position));
        for id in 3..=13 {
            let next = tokio::time::timeout(WITHIN, told.recv()).await.expect("in time").unwrap();
            assert_eq!(next.event.id, id);
            assert!(next.text.contains(&format!("\"id\":{id},")));
        }
        ordering.abort();
    }
}

#[tokio::test]
async fn a_slow_reader_catches_up_from_the_store() {
    let house = house().await;
    let mut slow = house.read("?kinds=event", None).await;
    let pairs = FEED_BEHIND_MAX / 2 + 20;
    house.happen("a", pairs).await;
    let expected: Vec<u64> = (4..4 + 2 * pairs as u64).collect();
    assert_eq!(slow.ids(2 * pairs).await, expected);
}

#[tokio::test]
async fn a_place_that_is_not_to_be_had_is_told() {
    let house = house().await;
    let mut lost = house.read("?kinds=event", Some("77")).await;
    assert!(lost.frame().await.unwrap().starts_with("event: hello\n"));
    let resync = lost.frame().await.unwrap();
    assert!(
        resync.starts_with("event: resync\n") && resync.contains(r#"{"reason":"unknown","last_id":3}"#),
        "{resync}"
    );
    house.happen("a", 1).await;
    assert_eq!(lost.ids(2).await, [4, 5]);

    assert_eq!(place(Some(5), 20, &[7, 8]), Err(Resync::Gone));
    assert_eq!(place(Some(6), 20, &[7, 8]), Ok(6));
    assert_eq!(place(Some(0), 20, &[7, 8]), Ok(0), "from the beginning of what is kept");
    assert_eq!(place(Some(21), 20, &[21, 22]), Ok(21), "stored and about to be published");
}

#[tokio::test]
async fn summaries_come_when_they_changed_and_to_who_reads_everything() {
    let house = house().await;
    let mut all = house.read("?kinds=summary", None).await;
    assert!(all.next("summary").await.contains("\"paused\":0"));
    house.keep.pause(&named("a")).await.unwrap();
    assert!(all.next("summary").await.contains("\"paused\":1"));
    // Nothing changes, so nothing is said, until something does.
    let quiet = tokio::time::timeout(SUMMARY_EVERY * 2, all.body.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let part = Wanted::read(Some("namespace=default"), &HeaderMap::new(), Caller::User(0)).unwrap();
    assert!(!part.kinds.summaries && part.kinds.events);
}

#[tokio::test]
async fn feed_and_count_live_while_there_are_readers() {
    let house = house().await;
    let streams = Streams::new(house.stop.subscribe());
    let feed = || shared(&streams.feed, || Feed::start(&house.keep));
    let fleet = || shared(&streams.fleet, || Fleet::start(&house.keep));
    let (first, counted) = (feed(), fleet());
    assert!(Arc::ptr_eq(&first, &feed()) && Arc::ptr_eq(&counted, &fleet()));
    let work = [first.work.clone(), counted.work.clone()];
    drop((first, counted));
    let ended = async {
        while !work.iter().all(AbortHandle::is_finished) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WITHIN, ended).await.expect("nobody reads, nobody works");
}

#[tokio::test]
async fn the_fleet_is_counted_for_readers_of_summaries_alone() {
    let house = house().await;
    let mut events = house.read("?kinds=event,step", None).await;
    events.next("hello").await;
    assert!(house.streams.fleet.lock().unwrap().upgrade().is_none());
    let mut summaries = house.read("?kinds=summary", None).await;
    summaries.next("summary").await;
    assert!(house.streams.fleet.lock().unwrap().upgrade().is_some());
}

#[tokio::test]
async fn readers_are_limited_and_leave_their_places() {
    let house = house().await;
    let mut readers = Vec::new();
    for _ in 0..READERS_MAX {
        readers.push(house.read("", None).await);
    }
    let refused = house.ask("", None).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    readers.pop();
    house.read("", None).await;
}

#[tokio::test]
async fn a_stop_ends_every_stream() {
    let house = house().await;
    let mut reader = house.read("?kinds=event", None).await;
    reader.next("hello").await;
    house.stop.send(true).unwrap();
    assert_eq!(reader.frame().await, None);
}

#[test]
fn a_wrong_question_is_refused() {
    for query in ["kinds=events", "kinds=", "after=x", "namespace=a/b", "colour=red"] {
        assert_eq!(Wanted::read(Some(query), &HeaderMap::new(), Caller::User(0)).unwrap_err().status, 400, "{query}");
    }
    let headers =
        HeaderMap::from_iter([("last-event-id".parse().unwrap(), "x\u{7f}".parse().unwrap_or("x".parse().unwrap()))]);
    let problem = Wanted::read(None, &headers, Caller::User(0)).unwrap_err();
    assert!(problem.detail.contains("Last-Event-ID"), "{}", problem.detail);
}
