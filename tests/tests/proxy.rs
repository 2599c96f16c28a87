//! Calls to a provider's API by clients that never hold its token, and the Jira routes: the real daemon before the mock
//! provider, and before an API that does what no honest one does.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HyperRequest, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokenkeep_mock::{Endpoint, Fault, ProviderConfig, Rotation};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock::{CLIENT_ID, CLIENT_SECRET, Mock};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// The life of a token where several of them pass by.
const SHORT_LIFE_S: i64 = 9;
/// How many of them.
const LIVES: u64 = 5;
/// How often a token is killed that many callers are using.
const KILLS: u64 = 20;
/// What is streamed in each direction.
const STREAMED_BYTES: u64 = 256 * 1024 * 1024;
/// By how much the daemon may grow meanwhile.
const GROWTH_KIB_MAX: u64 = 24 * 1024;

fn jira() -> Mock {
    Mock::of(ProviderConfig { scope: "read:jira-work read:me offline_access".into(), ..ProviderConfig::default() })
}

/// An Atlassian connection whose API is the mock's, and `more`.
fn section(mock: &Mock, more: &[String]) -> String {
    let hosts = [&[format!("http://{}", mock.address())], more].concat();
    format!("{}preset = \"atlassian\"\napi_hosts = {hosts:?}\n", mock.section("mock", "strict"))
}

#[track_caller]
fn get(daemon: &Daemon, path: &str) -> Answer {
    daemon.ask(Request::get(path))
}

#[track_caller]
fn get_with(daemon: &Daemon, path: &str, headers: &[(&str, &str)]) -> Answer {
    daemon.ask(Request { headers, ..Request::get(path) })
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// Ends an access token at the provider, and nothing else of its grant.
fn revoke_access(mock: &Mock, token: &Value) {
    let token = token["access_token"].as_str().expect("a token");
    let body = format!("token={token}&client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(Request::post("/revoke", &form, &body).at_address(&mock.address()).expect("an answer").status, 200);
}

#[test]
fn a_client_without_a_token_reads_jira_across_five_token_lives() {
    let mock = jira();
    let installation = Installation::new(&section(&mock, &[]));
    let daemon = installation.start();
    let token = mock.grant("jira", Rotation::Strict, SHORT_LIFE_S);
    installation.import("jira", "mock", &token).expect_code(0);

    let (begun, lives) = (Instant::now(), Duration::from_secs(LIVES * SHORT_LIFE_S.unsigned_abs()));
    let search = format!("/v1/connections/jira/proxy/ex/jira/{}/rest/api/3/search/jql", mock.state().cloud_id());
    let (mut calls, mut failed, mut shown) = (0_u64, Vec::new(), String::new());
    while begun.elapsed() < lives {
        let answers = [
            get(&daemon, "/v1/connections/jira/proxy/me"),
            get(&daemon, &format!("{search}?jql=project%20%3D%20TK&maxResults=5&fields=summary")),
            daemon.ask(Request::post(&search, &[("content-type", "application/json")], r#"{"jql": "project = OPS"}"#)),
            get(&daemon, "/v1/connections/jira/jira/projects"),
        ];
        for answer in answers {
            calls += 1;
            shown = format!("{}\n{}", answer.head, answer.body);
            assert!(!shown.contains(token["access_token"].as_str().expect("a token")), "a token is shown");
            if answer.status != 200 {
                failed.push(format!("{:?}: {answer:?}", begun.elapsed()));
            }
        }
        // A pace at which each token is met at every age.
        std::thread::sleep(Duration::from_millis(20));
    }
    let ledger = mock.ledger("jira");
    println!("{calls} calls, {} refreshes; the last answer was {shown}", ledger.refreshes);
    assert!(failed.is_empty(), "{} of {calls} calls failed: {failed:#?}", failed.len());
    assert!(ledger.refreshes >= LIVES, "{} token lives", ledger.refreshes);
    assert_eq!((ledger.reuse_count, mock.totals().reuses), (0, 0));
    assert!(calls > 200, "{calls} calls");
}

#[test]
fn a_token_that_is_killed_is_mended_by_exactly_one_refresh() {
    let mock = jira();
    let installation = Installation::new(&section(&mock, &[]));
    let daemon = installation.start();
    let token = mock.grant("jira", Rotation::Strict, 3_600);
    installation.import("jira", "mock", &token).expect_code(0);
    let me = "/v1/connections/jira/proxy/me";
    assert_eq!(get(&daemon, me).status, 200);
    assert_eq!(mock.ledger("jira").refreshes, 0);

    for round in 1..=KILLS {
        let token = installation.run(&["token", "jira", "--json"]).expect_code(0).json();
        revoke_access(&mock, &token);
        // Many find out at once, and some of them late.
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let ask = |_| scope.spawn(|| get(&daemon, me).status);
            let asked: Vec<_> = (0..16).map(ask).collect();
            asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
        });
        assert_eq!(statuses, [200; 16]);
        assert_eq!((mock.ledger("jira").refreshes, mock.totals().reuses), (round, 0));
    }

    // The Jira routes go the same way.
    let token = installation.run(&["token", "jira", "--json"]).expect_code(0).json();
    revoke_access(&mock, &token);
    assert_eq!(get(&daemon, "/v1/connections/jira/jira/projects").status, 200);
    assert_eq!((mock.ledger("jira").refreshes, mock.totals().reuses), (KILLS + 1, 0));
    daemon.stop().expect_code(0);
}

#[test]
fn an_api_that_refuses_every_token_costs_one_refresh() {
    let mock = jira();
    let installation = Installation::new(&section(&mock, &[]));
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    let refusal = Fault::Error { status: 401, error: "insufficient_scope".to_owned(), description: String::new() };
    mock.state().script_at(Endpoint::Api, Some("jira"), vec![refusal; 12]).expect("room in the script");
    for _ in 0..10 {
        let answer = get(&daemon, "/v1/connections/jira/proxy/me");
        assert_eq!(answer.status, 401, "the provider's own answer: {answer:?}");
        assert!(answer.body.contains("insufficient_scope"), "{answer:?}");
        assert!(!answer.head.to_ascii_lowercase().contains("www-authenticate"), "{answer:?}");
    }
    assert_eq!(mock.ledger("jira").refreshes, 1);
    // A token that is taken again ends that.
    assert_eq!(get(&daemon, "/v1/connections/jira/proxy/me").status, 401);
    assert_eq!(get(&daemon, "/v1/connections/jira/proxy/me").status, 200);
    let token = installation.run(&["token", "jira", "--json"]).expect_code(0).json();
    revoke_access(&mock, &token);
    assert_eq!(get(&daemon, "/v1/connections/jira/proxy/me").status, 200);
    assert_eq!(mock.ledger("jira").refreshes, 2);
}

#[test]
fn without_a_token_the_problems_are_those_of_the_token() {
    let mock = jira();
    let installation = Installation::new(&section(&mock, &[]));
    let daemon = installation.start();
    let mut spent = mock.grant("spent", Rotation::Strict, 3_600);
    spent["expires_at"] = 1_000_000.into();
    assert_eq!(mock.state().kill("spent"), Some(true));
    installation.import("spent", "mock", &spent).expect_code(0);
    // Whichever comes first settles it.
    get(&daemon, "/v1/connections/spent/token");
    for path in ["spent/token", "spent/proxy/me", "spent/jira/projects", "spent/jira/issues?project=TK"] {
        assert_eq!(code(&get(&daemon, &format!("/v1/connections/{path}"))), (409, "needs_reauth".to_owned()), "{path}");
    }
    let unknown = get(&daemon, "/v1/connections/nobody/token");
    for path in ["nobody/proxy/me", "nobody/proxy/../x", "nobody/jira/projects"] {
        let answer = get(&daemon, &format!("/v1/connections/{path}"));
        assert_eq!((answer.status, &answer.body), (404, &unknown.body), "{path}");
    }
}

// --- An API that does what no honest one does ---

/// What an API saw of a request.
#[derive(Debug, Clone, Default)]
struct Seen {
    target: String,
    headers: Vec<(String, String)>,
    bytes: u64,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _runtime: Runtime,
}

impl Upstream {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let shared = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&seen), request));
                // An error is a client that went away.
                tokio::spawn(async move {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await)
                });
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panicked").clone()
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(seen: Arc<Mutex<Vec<Seen>>>, request: HyperRequest<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or("?").to_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    seen.lock().expect("nobody panicked").push(Seen { target: head.uri.to_string(), headers, bytes });
    let full = |text: &'static str| Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync();
    Ok(match head.uri.path() {
        "/download" => {
            const PIECE: u64 = 64 * 1024;
            let piece = Bytes::from(vec![b'x'; PIECE as usize]);
            let pieces = stream::repeat(piece).take((STREAMED_BYTES / PIECE) as usize);
            Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))))))
        }
        "/evil" => Response::builder()
            .header("set-cookie", "tk_session=stolen; Path=/")
            .header("content-type", "text/html")
            .header("access-control-allow-origin", "*")
            .header("content-security-policy", "default-src * 'unsafe-inline'")
            .header("clear-site-data", "\"*\"")
            .body(full("<script>fetch('/v1/connections')</script>"))
            .expect("a response"),
        "/redirect" => {
            Response::builder().status(302).header("location", "/v1/connections").body(full("")).expect("a response")
        }
        "/away" => Response::builder()
            .status(307)
            .header("location", "http://169.254.169.254/latest/meta-data")
            .body(full(""))
            .expect("a response"),
        _ => Response::new(full("{\"ok\":true}")),
    })
}

struct Scene {
    installation: Installation,
    daemon: Daemon,
    upstream: Upstream,
    _mock: Mock,
    token: String,
}

impl Scene {
    fn new() -> Self {
        let (mock, upstream) = (jira(), Upstream::start());
        let installation = Installation::new(&section(&mock, &[upstream.url()]));
        let daemon = installation.start();
        let token = mock.grant("jira", Rotation::Strict, 3_600);
        installation.import("jira", "mock", &token).expect_code(0);
        let token = token["access_token"].as_str().expect("a token").to_owned();
        Self { installation, daemon, upstream, _mock: mock, token }
    }

    fn call(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let url = self.upstream.url();
        let headers: Vec<(&str, &str)> = headers.iter().copied().chain([("Tokenkeep-Target", url.as_str())]).collect();
        get_with(&self.daemon, &format!("/v1/connections/jira/proxy/{path}"), &headers)
    }
}

#[test]
fn a_provider_learns_nothing_of_the_caller_and_acts_in_nobody_s_name() {
    let scene = Scene::new();
    let mine = [
        ("Authorization", "Bearer callers_key"),
        ("Cookie", "tk_session=mine"),
        ("X-Api-Key", "callers_key"),
        ("X-Forwarded-For", "10.1.2.3"),
        ("Forwarded", "for=10.1.2.3"),
        ("X-Hop", "1"),
        ("Accept", "application/json"),
        ("If-Match", "\"1\""),
    ];
    let answer = scene.call("items/a%2Fb?x=%20y&namespace=default&z", &mine);
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"ok\":true}"));
    let seen = &scene.upstream.seen()[0];
    assert_eq!(seen.target, "/items/a%2Fb?x=%20y&z");
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", scene.token).as_str()));
    assert_eq!(seen.header("host"), Some(scene.upstream.address.to_string().as_str()));
    assert_eq!((seen.header("accept"), seen.header("if-match")), (Some("application/json"), Some("\"1\"")));
    let told = format!("{seen:?}");
    for secret in ["callers_key", "tk_session", "10.1.2.3", "x-forwarded", "tokenkeep-target"] {
        assert!(!told.to_ascii_lowercase().contains(secret), "{secret}: {told}");
    }

    let evil = scene.call("evil", &[]);
    let head = evil.head.to_ascii_lowercase();
    for said in ["set-cookie", "access-control-allow-origin", "clear-site-data", "unsafe-inline"] {
        assert!(!head.contains(said), "{said}: {head}");
    }
    for said in
        ["sandbox", "x-content-type-options: nosniff", "cache-control: no-store", "tokenkeep-answered-by: http://"]
    {
        assert!(head.contains(said), "{said}: {head}");
    }
}

#[test]
fn no_redirect_is_followed_or_passed_on() {
    let scene = Scene::new();
    let answer = scene.call("redirect", &[]);
    assert_eq!(answer.status, 302);
    let whole = format!("tokenkeep-location: {}/v1/connections", scene.upstream.url());
    assert!(answer.head.contains(&whole) && !answer.head.contains("\r\nlocation:"), "{}", answer.head);
    let away = scene.call("away", &[]);
    assert!(away.status == 307 && away.head.contains("tokenkeep-location: http://169.254.169.254/"), "{}", away.head);
    assert_eq!(scene.upstream.seen().len(), 2);
}

#[test]
fn nothing_is_sent_where_it_may_not() {
    let scene = Scene::new();
    let proxy = "/v1/connections/jira/proxy";
    for target in [
        "https://evil.test",
        "http://localhost:9400",
        "http://2130706433",
        "http://0x7f000001",
        "http://[::ffff:127.0.0.1]",
        "http://169.254.169.254",
        "https://auth.atlassian.com",
    ] {
        let answer = get_with(&scene.daemon, &format!("{proxy}/me"), &[("Tokenkeep-Target", target)]);
        let (status, code) = code(&answer);
        assert!(
            matches!((status, code.as_str()), (403, "target_forbidden") | (400, "invalid")),
            "{target}: {answer:?}"
        );
        assert!(answer.body.contains(&scene.upstream.url()), "it names the allowed hosts: {answer:?}");
    }
    let twice = [("Tokenkeep-Target", scene.upstream.url()), ("Tokenkeep-Target", scene.upstream.url())];
    let twice: Vec<(&str, &str)> = twice.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(get_with(&scene.daemon, &format!("{proxy}/me"), &twice).status, 400);
    for path in ["..", "a/../b", "a/%2e%2e/b", "a%2f..%2fb", "/evil.test/x", "https://evil.test/x", "a%0d%0ab", "a%00"]
    {
        let answer = scene.call(path, &[]);
        assert_eq!(code(&answer), (400, "invalid".to_owned()), "{path}: {answer:?}");
        assert!(answer.body.contains("the path"), "{answer:?}");
    }
    let upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")];
    assert_eq!(code(&scene.call("me", &upgrade)), (400, "upgrade_not_forwarded".to_owned()));
    for method in ["TRACE", "TRACK", "CONNECT"] {
        let path = format!("{proxy}/me");
        let answer = scene.daemon.ask(Request::new(method, &path));
        assert!(matches!(answer.status, 400 | 405), "{method}: {answer:?}");
    }
    assert!(scene.upstream.seen().is_empty(), "{:?}", scene.upstream.seen());
}

#[test]
fn a_provider_without_api_hosts_gets_nothing_and_the_catalogue_s_never_are_private() {
    let mock = jira();
    let catalogue = "[providers.zendesk]\npreset = \"zendesk\"\nparameters = { subdomain = \"acme\" }\n\
                     client_id = \"x\"\nclient_secret = { file = \"secret\" }\n";
    let installation = Installation::new(&format!("{}{catalogue}", mock.section("mock", "strict")));
    let daemon = installation.start();
    let token = mock.grant("c", Rotation::Strict, 3_600);
    installation.import("c", "mock", &token).expect_code(0);
    assert_eq!(code(&get(&daemon, "/v1/connections/c/proxy/me")), (409, "no_api_hosts".to_owned()));
    assert_eq!(code(&get(&daemon, "/v1/connections/c/jira/projects")), (409, "not_atlassian".to_owned()));
    installation.import("z", "zendesk", &token).expect_code(0);
    let named = get_with(&daemon, "/v1/connections/z/proxy/api", &[("Tokenkeep-Target", "http://127.0.0.1:9400")]);
    assert_eq!(code(&named), (403, "target_forbidden".to_owned()));
    assert!(named.body.contains("https://acme.zendesk.com"), "{named:?}");
}

#[test]
fn jira_is_listed_and_searched_in_pages() {
    let mock = jira();
    let installation = Installation::new(&section(&mock, &[]));
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    let base = "/v1/connections/jira/jira";
    let first = get(&daemon, &format!("{base}/projects?limit=2")).json();
    assert_eq!((&first["items"][0]["key"], &first["next_cursor"]), (&json!("TK"), &json!("2")), "{first}");
    let second = get(&daemon, &format!("{base}/projects?limit=2&cursor=2")).json();
    assert_eq!((second["items"].as_array().map(Vec::len), &second["next_cursor"]), (Some(1), &Value::Null), "{second}");
    assert_eq!(second["site"]["id"], json!(mock.state().cloud_id()));

    let (mut keys, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&daemon, &format!("{base}/issues?project=TK&limit=10{cursor}")).json();
        let items = page["items"].as_array().unwrap_or_else(|| panic!("{page}")).clone();
        assert!(
            items.iter().all(|issue| issue["project"] == "TK" && !issue["summary"].as_str().expect("one").is_empty())
        );
        keys.extend(items.iter().map(|issue| issue["key"].as_str().expect("a key").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 24);
    let by_site = get(&daemon, &format!("{base}/issues?jql=project%20%3D%20WEB&site=mock"));
    assert_eq!(by_site.json()["items"].as_array().map(Vec::len), Some(12), "{by_site:?}");

    for (query, named) in [
        ("issues", "project"),
        ("issues?project=TK&jql=a", "jql"),
        ("issues?project=TK%22", "project"),
        ("issues?jql=nonsense%20%3D", "Jira"),
        ("issues?project=TK&colour=red", "colour"),
        ("projects?cursor=x", "cursor"),
        ("projects?limit=0", "limit"),
    ] {
        let answer = get(&daemon, &format!("{base}/{query}"));
        assert_eq!(code(&answer), (400, "invalid".to_owned()), "{query}: {answer:?}");
        assert!(answer.body.contains(named), "{query}: {answer:?}");
    }
    let other = get(&daemon, &format!("{base}/projects?site=other"));
    assert_eq!(code(&other), (409, "jira_site_needed".to_owned()));
    assert!(other.body.contains("mock"), "it names the sites: {other:?}");
}

#[test]
fn limits_of_jira_s_are_waited_for_when_they_pass_soon() {
    let mock = jira();
    let installation = Installation::new(&section(&mock, &[]));
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    let limited = |retry_after_s| Fault::RateLimited { retry_after_s, reason: "jira-burst-based".to_owned() };
    mock.state().script_at(Endpoint::Api, None, vec![Fault::Pass, limited(1)]).expect("room in the script");
    let begun = Instant::now();
    assert_eq!(get(&daemon, "/v1/connections/jira/jira/projects").status, 200);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    mock.state().script_at(Endpoint::Api, None, vec![limited(120)]).expect("room in the script");
    let answer = get(&daemon, "/v1/connections/jira/jira/projects");
    assert_eq!(code(&answer), (503, "rate_limited".to_owned()), "{answer:?}");
    assert!(answer.head.to_ascii_lowercase().contains("retry-after: 120"), "{answer:?}");
}

// --- Streams ---

/// The most memory that the process has had, in KiB.
fn peak_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process().pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn connect(socket: &Path, head: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("the daemon listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    stream.write_all(head.as_bytes()).expect("a head");
    stream
}

#[test]
fn large_bodies_pass_in_both_directions_without_being_held() {
    let scene = Scene::new();
    assert_eq!(scene.call("warm", &[]).status, 200);
    let before = peak_kib(&scene.daemon);
    let target = scene.upstream.url();
    let head = |method: &str, path: &str, more: &str| {
        format!(
            "{method} /v1/connections/jira/proxy/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             tokenkeep-target: {target}\r\n{more}\r\n"
        )
    };
    let mut stream =
        connect(scene.daemon.socket(), &head("PUT", "upload", &format!("content-length: {STREAMED_BYTES}\r\n")));
    let piece = vec![b'u'; 256 * 1024];
    for _ in 0..STREAMED_BYTES / piece.len() as u64 {
        stream.write_all(&piece).expect("the daemon takes it");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let upload = scene.upstream.seen().pop().expect("it was seen");
    assert_eq!((upload.target.as_str(), upload.bytes), ("/upload", STREAMED_BYTES));
    assert_eq!(upload.header("content-length"), Some(STREAMED_BYTES.to_string().as_str()));

    let mut stream = connect(scene.daemon.socket(), &head("GET", "download", ""));
    let (mut taken, mut buffer) = (0, vec![0; 256 * 1024]);
    loop {
        match stream.read(&mut buffer).expect("the answer goes on") {
            0 => break,
            bytes => taken += bytes as u64,
        }
    }
    assert!(taken >= STREAMED_BYTES, "{taken} bytes");
    let grown = peak_kib(&scene.daemon) - before;
    println!("{STREAMED_BYTES} bytes in each direction: the daemon grew by {grown} KiB from {before} KiB");
    assert!(grown < GROWTH_KIB_MAX, "it grew by {grown} KiB");
    assert_eq!(scene.installation.connection("jira")["status"], "fresh");
}
