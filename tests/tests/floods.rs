//! Whoever opens many connections, or says things slowly, much, or without an end, keeps nobody else waiting (security 24).

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use serde_json::json;
use tokenkeep_tests::callers::Door;
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::wait_for;

/// How long an answer to somebody else may take at most, on a machine that is busy with other tests.
const SERVED_WITHIN: Duration = Duration::from_secs(2);
/// How long something may take that comes by itself: a head has 10 s, a body 20 s.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// By how much the daemon may grow in a flood.
const GROWTH_MAX_KIB: u64 = 64 * 1024;
/// How long a slow client says nothing.
const BETWEEN: Duration = Duration::from_millis(5);
/// How long connections are opened at most.
const FLOOD_MAX: Duration = Duration::from_secs(20);
/// Idle connections at once, where this process may open so many files.
const IDLE: usize = 10_000;

/// A flood: it says when it is on, and is told when it is over.
#[derive(Default)]
struct Flood {
    on: AtomicBool,
    over: AtomicBool,
}

impl Flood {
    fn is_on(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

struct House {
    daemon: Daemon,
    door: Door,
    key: String,
    _installation: Installation,
    _mock: Mock,
}

fn house() -> House {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    installation.import_lines(&mock.grants("c", 1, 3_600, "mock"));
    let door = Door::of(&daemon);
    let key = format!("Bearer {}", door.key(&json!({"name": "k", "scopes": ["token", "status", "manage"]})));
    House { daemon, door, key, _installation: installation, _mock: mock }
}

impl House {
    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.door.address()).expect("the daemon listens")
    }

    /// What the daemon has in memory, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.process().pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// How long a client with a key waits for its token.
    fn read_token(&self) -> Duration {
        let started = Instant::now();
        let headers = [("authorization", self.key.as_str())];
        let request = Request { headers: &headers, ..Request::get("/v1/connections/c0/token") };
        let answer = request.at_address(self.door.address()).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        started.elapsed()
    }

    /// Has a flood go on, and others be served meanwhile.
    fn others_are_served(&self, what: &str, flood: impl FnOnce(&Flood) + Send) {
        let before: Vec<Duration> = (0..50).map(|_| self.read_token()).collect();
        let memory = self.memory();
        let state = Flood::default();
        let (mut during, mut most, mut reads) = (Vec::new(), 0, 0);
        thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&state));
            while !flooding.is_finished() {
                during.push(self.read_token());
                most = most.max(self.memory());
                reads += u32::from(state.on.load(Ordering::Relaxed));
                if reads >= 100 {
                    state.over.store(true, Ordering::Relaxed);
                }
            }
        });
        assert!(reads >= 100, "{what}: the flood was over before it was on");
        let grown = most.saturating_sub(memory);
        println!(
            "{what}: p99 {:?} before, {:?} during ({} reads); {grown} KiB more",
            p99(before),
            p99(during.clone()),
            during.len()
        );
        let slowest = during.iter().max().expect("some");
        assert!(*slowest < SERVED_WITHIN, "{what}: somebody else waited {slowest:?}");
        assert!(grown < GROWTH_MAX_KIB, "{what}: the daemon grew by {grown} KiB");
    }
}

fn p99(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() * 99 / 100]
}

/// What comes on a connection until it ends.
fn until_end(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(ENDS_WITHIN)).expect("a timeout");
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => all.extend_from_slice(&piece[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
            Err(error) => panic!("it does not end: {error}"),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn idle_connections_keep_nobody_out() {
    let house = house();
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = IDLE.min(usize::try_from(files.saturating_sub(500)).unwrap_or(IDLE));
    house.others_are_served("idle connections", |flood| {
        let started = Instant::now();
        let mut idle = Vec::new();
        // The daemon may make some of them wait for a place: then there are fewer.
        while idle.len() < count && started.elapsed() < FLOOD_MAX {
            idle.push(house.connect());
        }
        println!("{} of {count} connections", idle.len());
        assert!(idle.len() > 2_000, "{} are no flood", idle.len());
        flood.is_on();
        while !flood.is_over() {
            thread::sleep(BETWEEN);
        }
    });
}

#[test]
fn slow_heads_keep_nobody_out() {
    let house = house();
    house.others_are_served("slow heads", |flood| {
        let mut slow: Vec<TcpStream> = Vec::new();
        while !flood.is_over() {
            while slow.len() < 700 && !flood.is_over() {
                let mut stream = house.connect();
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-slow: ");
                slow.push(stream);
            }
            flood.is_on();
            // A letter at a time; what was closed is opened again.
            slow.retain_mut(|stream| stream.write_all(b"x").is_ok());
            thread::sleep(BETWEEN);
        }
    });
    let mut stream = house.connect();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: ").expect("it is heard");
    let started = Instant::now();
    until_end(&mut stream);
    assert!(started.elapsed() < ENDS_WITHIN, "a head is waited for without an end");
}

#[test]
fn slow_bodies_keep_nobody_out_and_end() {
    let house = house();
    let head = "POST /v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n{";
    // Each crumb costs more than itself where it is kept as it came.
    let in_crumbs = "POST /v1/session HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
        + &"1\r\n \r\n".repeat(300);
    house.others_are_served("slow bodies", |flood| {
        let mut slow: Vec<TcpStream> = Vec::new();
        while !flood.is_over() {
            while slow.len() < 700 && !flood.is_over() {
                let mut stream = house.connect();
                let _ = stream.write_all(in_crumbs.as_bytes());
                slow.push(stream);
            }
            flood.is_on();
            slow.retain_mut(|stream| stream.write_all(b"1\r\n \r\n").is_ok());
            thread::sleep(BETWEEN);
        }
    });
    let mut stream = house.connect();
    stream.write_all(head.as_bytes()).expect("it is heard");
    let mut dripping = stream.try_clone().expect("a second handle");
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| until_end(&mut stream));
        wait_for("the end of a slow body", ENDS_WITHIN, || {
            // Something comes all the time, and far too little.
            (dripping.write_all(b" ").is_err() || answer.is_finished()).then_some(())
        });
        answer.join().expect("it reads")
    });
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"too_slow\""), "{answer}");
}

#[test]
fn what_is_too_much_is_refused_and_costs_little() {
    let house = house();
    let long = "x".repeat(64 * 1024);
    let many = "x-many: 1\r\n".repeat(200);
    for (what, head) in [
        ("a long path", format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n")),
        ("a long header", format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-long: {long}\r\n\r\n")),
        ("many headers", format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n")),
        ("no HTTP", format!("{long}\r\n\r\n")),
        (
            "two lengths",
            "POST /v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"
                .to_owned(),
        ),
        (
            "a length that is none",
            "POST /v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n{}".to_owned(),
        ),
        (
            "a coding that is none",
            "POST /v1/session HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n{}".to_owned(),
        ),
        ("a header over two lines", "GET /livez HTTP/1.1\r\nhost: localhost\r\nx-a: b\r\n c: d\r\n\r\n".to_owned()),
        ("a bare line feed in a value", "GET /livez HTTP/1.1\r\nhost: localhost\r\nx-a: b\x0bc\r\n\r\n".to_owned()),
        ("a space before the colon", "GET /livez HTTP/1.1\r\nhost : localhost\r\n\r\n".to_owned()),
        ("HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
    ] {
        let mut stream = house.connect();
        // It may be refused before it is all said.
        let _ = stream.write_all(head.as_bytes());
        let answer = until_end(&mut stream);
        let refused = answer.is_empty()
            || ["400", "414", "431", "501"].iter().any(|status| answer.starts_with(&format!("HTTP/1.1 {status} ")));
        assert!(refused, "{what}: {answer}");
    }

    let long = format!("{{\"api_key\": \"{}\"}}", "x".repeat(17 * 1024));
    let answer = Request::post("/v1/session", &[], &long).at_address(house.door.address()).expect("an answer");
    assert_eq!(answer.status, 413, "{answer:?}");

    // Lengths and codings together are how one request is smuggled behind another: its connection serves nothing more.
    let mut stream = house.connect();
    let smuggled = "POST /v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(smuggled.as_bytes()).expect("it is heard");
    let answer = until_end(&mut stream);
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");

    house.others_are_served("endless bodies", |flood| {
        let bearer = format!("authorization: {}", house.key);
        let heads = [
            "POST /v1/session HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "POST /v1/connections HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            format!("POST /v1/connections HTTP/1.1\r\nhost: localhost\r\n{bearer}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"),
            format!("POST /v1/connections HTTP/1.1\r\nhost: localhost\r\n{bearer}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"),
        ];
        let chunk = format!("10000\r\n{}\r\n", "z".repeat(0x10000));
        thread::scope(|scope| {
            for head in &heads {
                scope.spawn(|| {
                    while !flood.is_over() {
                        let mut stream = house.connect();
                        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
                        let _ = stream.write_all(head.as_bytes());
                        flood.is_on();
                        // 64 MiB, unless it is refused before.
                        for _ in 0..1_000 {
                            if flood.is_over() || stream.write_all(chunk.as_bytes()).is_err() {
                                break;
                            }
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn requests_in_one_go_are_answered_in_order() {
    let house = house();
    let bearer = format!("authorization: {}", house.key);
    let one = format!("GET /v1/connections/c0 HTTP/1.1\r\nhost: localhost\r\n{bearer}\r\n\r\n");
    let last = format!("GET /v1/connections/none HTTP/1.1\r\nhost: localhost\r\n{bearer}\r\nconnection: close\r\n\r\n");
    let mut stream = house.connect();
    stream.write_all((one.repeat(200) + &last).as_bytes()).expect("they are heard");
    let answers = until_end(&mut stream);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 200);
    assert_eq!(answers.matches("HTTP/1.1 404").count(), 1);
    assert!(answers.rfind("HTTP/1.1 404") > answers.rfind("HTTP/1.1 200"), "not in order");

    house.others_are_served("pipelining without reading", |flood| {
        let mut streams: Vec<TcpStream> = (0..50).map(|_| house.connect()).collect();
        for stream in &streams {
            stream.set_nonblocking(true).expect("a mode");
        }
        while !flood.is_over() {
            for stream in &mut streams {
                // Full, because the answers are not read: that is the point.
                let _ = stream.write(one.repeat(20).as_bytes());
            }
            flood.is_on();
            thread::sleep(Duration::from_millis(1));
        }
    });
}
