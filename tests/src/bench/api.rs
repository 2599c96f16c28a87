//! `GET token` over TCP with a key, beside a bare axum server that returns the same bytes to the same client.
//!
//! Both servers are processes of their own; the client has this one. Latencies at a fixed rate count from when a request
//! was to be sent, so that one that waits for another is not forgotten.

use super::folder::{self, Folder};
use super::processes::Daemon;
use super::provider;
use super::report::{Report, Target, Times, Unit, median, per_second};
use super::{Options, Outcome, million};
use crate::http::Request;
use axum::http::header;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokenkeep::TokenKeep;
use tokenkeep_core::provider::Rotation;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The hidden subcommand: `serve-bare BODY`.
pub const SUBCOMMAND: &str = "serve-bare";

/// How many connections ask at once.
const CONNECTIONS: usize = 64;
/// How many different tokens they ask for.
const NAMES: usize = 1_000;
/// The fixed rate.
const PER_SECOND: u32 = 10_000;
/// How many refreshes run beside it.
const REFRESHES_PER_SECOND: usize = 500;
/// How many readers follow the events, and how many events there are for them.
const READERS: usize = 1_000;
/// See [`READERS`].
const EVENTS_PER_SECOND: u32 = 10;
/// How long what is started beside is left to begin.
const SETTLE: Duration = Duration::from_secs(2);

/// Serves one answer until standard input ends. Prints its address.
///
/// # Errors
/// It cannot listen.
pub fn serve(arguments: &[String]) -> Outcome<()> {
    let [body] = arguments else { return Err(format!("{SUBCOMMAND} BODY").into()) };
    let body = body.clone();
    let answer = move || {
        let body = body.clone();
        async move { ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body) }
    };
    let app = axum::Router::new().route("/v1/connections/{name}/token", axum::routing::get(answer));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            served = axum::serve(listener, app) => served?,
            ended = ended => drop(ended?),
        }
        Ok(())
    })
}

struct Bare {
    process: Child,
    address: SocketAddr,
}

impl Bare {
    fn start(body: &str) -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([SUBCOMMAND, body])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = process.stdout.take().ok_or("the bare server has no output")?;
        let line = BufReader::new(out).lines().next().ok_or("the bare server said nothing")??;
        Ok(Self { process, address: line.parse()? })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Either fails only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Measures the API.
///
/// # Errors
/// A server did not do what it should.
pub fn measure(runtime: &tokio::runtime::Runtime, options: &Options, report: &mut Report) -> Outcome<()> {
    println!("\nthe API on TCP");
    let folder = Folder::empty(&options.folder)?;
    let seconds = options.api_seconds;
    let grants = REFRESHES_PER_SECOND * (seconds as usize + 2 * SETTLE.as_secs() as usize);
    let running = provider::Running::start(Rotation::Persistent, grants)?;
    runtime.block_on(async {
        let keep = TokenKeep::open(million::config(&folder)?).await?;
        million::import(&keep, NAMES).await?;
        keep.shutdown().await;
        Outcome::Ok(())
    })?;
    let daemon = Daemon::start_with(folder.path(), &configuration(&running))?;
    let socket = folder.path().join("tokenkeep.sock");
    let key = new_key(&socket)?;
    let ours = Server { address: daemon.tcp().ok_or("the daemon does not listen on TCP")?, key: Some(key) };
    let body = ours.once()?;
    let bare = Bare::start(&body)?;
    let theirs = Server { address: bare.address, key: None };

    let (mut rates, mut bare_rates, mut late, mut bare_late) = (vec![], vec![], vec![], vec![]);
    for _ in 0..options.repetitions {
        let (rate, p99) = runtime.block_on(as_fast_as_it_goes(&theirs, seconds))?;
        bare_rates.push(rate);
        bare_late.push(p99);
        let (rate, p99) = runtime.block_on(as_fast_as_it_goes(&ours, seconds))?;
        rates.push(rate);
        late.push(p99);
    }
    let (rate, bare_rate) = (median(rates), median(bare_rates));
    let (p99, bare_p99) = (median(late), median(bare_late));
    report.add(format!("`GET token` with a key, {CONNECTIONS} connections"), Unit::PerSecond, rate, Target::None);
    report.add("- a bare axum server with the same bytes", Unit::PerSecond, bare_rate, Target::None);
    report.add("- ours to bare's", Unit::Times, rate / bare_rate, Target::AtLeast(0.8));
    report.add("- p99", Unit::Microseconds, p99, Target::None);
    report.add("- p99 of the bare one", Unit::Microseconds, bare_p99, Target::None);
    report.add("- ours to bare's p99", Unit::Times, p99 / bare_p99, Target::AtMost(1.3));
    drop(bare);

    let idle = runtime.block_on(at_a_rate(&ours, seconds))?;
    report.add(format!("`GET token` at {PER_SECOND}/s, p99"), Unit::Microseconds, idle, Target::None);
    import_due(&socket, &running)?;
    std::thread::sleep(SETTLE);
    let before = refreshed(&socket)?;
    let started = Instant::now();
    let busy = runtime.block_on(at_a_rate(&ours, seconds))?;
    let refreshes = per_second(refreshed(&socket)? - before, started.elapsed());
    report.add(format!("- beside {refreshes:.0} refreshes/s"), Unit::Microseconds, busy, Target::None);
    report.add("- to the idle p99", Unit::Times, busy / idle, Target::AtMost(1.5));
    let (watched, heard) = runtime.block_on(beside_readers(&ours, &socket, seconds))?;
    let beside = format!("- beside {READERS} readers of {EVENTS_PER_SECOND} events/s ({heard} bytes heard)");
    report.add(beside, Unit::Microseconds, watched, Target::None);
    report.add("- to the idle p99", Unit::Times, watched / idle, Target::AtMost(1.5));
    daemon.stop()
}

fn configuration(running: &provider::Running) -> String {
    format!(
        "[providers.quiet]\ntoken_url = \"http://127.0.0.1:9/token\"\nclient_id = \"c\"\nclient_auth = \"none\"\n\
         rotation = \"persistent\"\n\n\
         [providers.bench]\ntoken_url = \"{}\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n\
         rotation = \"persistent\"\nrefresh_per_second = {REFRESHES_PER_SECOND}\n",
        running.provider.token_url,
        provider::CLIENT_ID,
    )
}

fn asked(socket: &Path, request: Request<'_>) -> Outcome<String> {
    let answer = request.at_socket(socket)?;
    if (200..300).contains(&answer.status) { Ok(answer.body) } else { Err(format!("HTTP {}", answer.status).into()) }
}

fn new_key(socket: &Path) -> Outcome<String> {
    let body = r#"{"name":"bench","scopes":["token","status"],"connections_per_hour":100000}"#;
    let made = asked(socket, Request::post("/v1/api-keys", &[("content-type", "application/json")], body))?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    Ok(made["key"].as_str().ok_or("no key was made")?.to_owned())
}

/// Imports a connection for each grant of the provider, all due at once.
fn import_due(socket: &Path, running: &provider::Running) -> Outcome<()> {
    let line = |(number, token): (usize, &String)| {
        format!(
            "{{\"name\":\"busy{number}\",\"provider\":\"bench\",\"token\":{{\"access_token\":\"a\",\"refresh_token\":\"{token}\",\
             \"expires_at\":1}}}}\n"
        )
    };
    let body: String = running.refresh_tokens.iter().enumerate().map(line).collect();
    asked(socket, Request::post("/v1/connections", &[("content-type", "application/x-ndjson")], &body)).map(drop)
}

/// How many of the due connections have been refreshed.
fn refreshed(socket: &Path) -> Outcome<usize> {
    let summary: serde_json::Value = serde_json::from_str(&asked(socket, Request::get("/v1/summary"))?)?;
    let fresh = summary["by_status"]["fresh"].as_u64().unwrap_or(0);
    Ok(usize::try_from(fresh)?)
}

/// Where tokens are had.
struct Server {
    address: SocketAddr,
    key: Option<String>,
}

impl Server {
    fn request(&self, name: usize) -> Outcome<Vec<u8>> {
        let name = folder::key(name)?.name().to_owned();
        let key = self.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        Ok(format!("GET /v1/connections/{name}/token HTTP/1.1\r\nhost: localhost\r\n{key}\r\n").into_bytes())
    }

    fn requests(&self) -> Outcome<Arc<Vec<Vec<u8>>>> {
        Ok(Arc::new((0..NAMES).map(|name| self.request(name)).collect::<Outcome<_>>()?))
    }

    fn once(&self) -> Outcome<String> {
        let authorization = self.key.as_ref().map(|key| format!("Bearer {key}")).unwrap_or_default();
        let path = format!("/v1/connections/{}/token", folder::key(0)?.name());
        let request = Request { headers: &[("authorization", &authorization)], ..Request::get(&path) };
        let answer = request.at_address(&self.address.to_string())?;
        if answer.status == 200 { Ok(answer.body) } else { Err(format!("{}: {}", answer.status, answer.body).into()) }
    }
}

/// One connection that is used again and again.
struct Line {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Line {
    async fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(4_096) })
    }

    /// Asks, and reads the whole answer.
    async fn ask(&mut self, request: &[u8]) -> Outcome<()> {
        self.stream.write_all(request).await?;
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("the server closed a connection".into());
            }
            let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let length = content_length(&self.read[..end])?;
            if self.read.len() >= end + 4 + length {
                break;
            }
        }
        if self.read.starts_with(b"HTTP/1.1 200 ") {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&self.read).into_owned().into())
    }
}

fn content_length(head: &[u8]) -> Outcome<usize> {
    let head = std::str::from_utf8(head)?;
    let line = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    Ok(line.ok_or("an answer without a length")?.parse()?)
}

/// Requests for each second, and the p99 in microseconds.
async fn as_fast_as_it_goes(server: &Server, seconds: u32) -> Outcome<(f64, f64)> {
    let (requests, length) = (server.requests()?, Duration::from_secs(seconds.into()));
    let mut lines = JoinSet::new();
    for nth in 0..CONNECTIONS {
        let (requests, mut line) = (Arc::clone(&requests), Line::open(server.address).await?);
        lines.spawn(async move {
            let (mut spent, mut name, began) = (Vec::new(), nth, Instant::now());
            while began.elapsed() < length {
                let started = Instant::now();
                line.ask(&requests[name % NAMES]).await?;
                spent.push(started.elapsed());
                name += CONNECTIONS;
            }
            Outcome::Ok(spent)
        });
    }
    let times = gather(lines).await?;
    let rate = per_second(times.len(), length);
    Ok((rate, p99(times)))
}

/// The p99 in microseconds of requests that are sent at [`PER_SECOND`], whatever becomes of the others.
async fn at_a_rate(server: &Server, seconds: u32) -> Outcome<f64> {
    let requests = server.requests()?;
    let (each, each_line) = (Duration::from_secs(1) / PER_SECOND, PER_SECOND as usize * seconds as usize / CONNECTIONS);
    let mut opened = Vec::new();
    for _ in 0..CONNECTIONS {
        opened.push(Line::open(server.address).await?);
    }
    let began = Instant::now() + Duration::from_millis(50);
    let mut lines = JoinSet::new();
    for (nth, mut line) in opened.into_iter().enumerate() {
        let requests = Arc::clone(&requests);
        lines.spawn(async move {
            let mut spent = Vec::with_capacity(each_line);
            for turn in 0..each_line {
                let number = turn * CONNECTIONS + nth;
                let due = began + each * u32::try_from(number)?;
                // The timer is coarse: the rest of a millisecond is waited for by giving way.
                let wait = due.saturating_duration_since(Instant::now());
                if wait > Duration::from_millis(2) {
                    tokio::time::sleep(wait - Duration::from_millis(1)).await;
                }
                while Instant::now() < due {
                    tokio::task::yield_now().await;
                }
                line.ask(&requests[number % NAMES]).await?;
                spent.push(due.elapsed());
            }
            Outcome::Ok(spent)
        });
    }
    Ok(p99(gather(lines).await?))
}

async fn gather(mut lines: JoinSet<Outcome<Vec<Duration>>>) -> Outcome<Vec<Duration>> {
    let mut all = Vec::new();
    while let Some(ended) = lines.join_next().await {
        all.extend(ended??);
    }
    Ok(all)
}

fn p99(spent: Vec<Duration>) -> f64 {
    let mut times = Times::default();
    spent.into_iter().for_each(|time| times.push(time));
    times.p50_p99().1 / 1e3
}

/// The p99 beside readers of the events, and how many bytes they have heard.
async fn beside_readers(server: &Server, socket: &Path, seconds: u32) -> Outcome<(f64, u64)> {
    let heard = Arc::new(AtomicU64::new(0));
    let key = server.key.as_deref().unwrap_or_default();
    let request =
        format!("GET /v1/events/stream?kinds=event HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n");
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(server.address).await?;
        stream.write_all(request.as_bytes()).await?;
        let heard = Arc::clone(&heard);
        readers.spawn(async move {
            let mut piece = vec![0; 16 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut piece).await {
                heard.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }
    let (stop, socket) = (Arc::new(AtomicBool::new(false)), socket.to_owned());
    let happening = {
        let stop = Arc::clone(&stop);
        tokio::task::spawn_blocking(move || make_events(&socket, &stop))
    };
    tokio::time::sleep(SETTLE).await;
    let p99 = at_a_rate(server, seconds).await;
    stop.store(true, Ordering::Relaxed);
    happening.await??;
    if readers.len() < READERS || readers.try_join_next().is_some() {
        return Err("a reader of the events was dropped".into());
    }
    readers.shutdown().await;
    Ok((p99?, heard.load(Ordering::Relaxed)))
}

/// Pauses and resumes one connection.
fn make_events(socket: &Path, stop: &AtomicBool) -> Outcome<()> {
    let name = folder::key(0)?.name().to_owned();
    for verb in ["pause", "resume"].into_iter().cycle() {
        if stop.load(Ordering::Relaxed) && verb == "pause" {
            return Ok(());
        }
        asked(socket, Request::post(&format!("/v1/connections/{name}/{verb}"), &[], ""))?;
        std::thread::sleep(Duration::from_secs(1) / EVENTS_PER_SECOND);
    }
    Ok(())
}
