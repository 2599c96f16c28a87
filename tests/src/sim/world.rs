//! The simulated world: time, dice, faults, and a provider of every rotation class.

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokenkeep::clock::{Clock, Dice, SeededDice};
use tokenkeep::endpoint::{Channel, Endpoint, Reuse, SendFailure};
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::ProviderRequest;
use tokenkeep_core::{Failure, FailureCode, Timestamp};
use tokenkeep_mock::{OAuthRequest, Provider};
use tokio::sync::Notify;
use url::Url;
use zeroize::Zeroizing;

/// When every simulation begins: 2027-01-15T08:00:00Z.
pub const BEGINNING_MS: i64 = 1_800_000_000_000;

/// How often each kind of fault strikes, per request or step; all zero in the heal phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// The connection cannot be opened.
    pub unsent: f64,
    /// The request never arrives, and nobody can tell.
    pub lost_before: f64,
    /// The provider answers, and the answer is lost.
    pub lost_after: f64,
    /// A 500 before anything was done.
    pub error_before: f64,
    /// A 502 after the provider rotated.
    pub error_after: f64,
    /// 429 with Retry-After.
    pub throttled: f64,
    /// 503 with Retry-After, before anything was done.
    pub unavailable: f64,
    /// Half an answer, after the provider rotated.
    pub truncated: f64,
    /// A captive portal's page with status 200.
    pub html: f64,
    /// 401 `invalid_client`, before anything was done.
    pub wrong_client: f64,
    /// A write of the store or journal is the process's last.
    pub crash: f64,
    /// Such a crash takes the machine with it, and everything that was not synced.
    pub power_cut: f64,
    /// A part panics, which takes one worker with it.
    pub panic: f64,
    /// The store cannot be written.
    pub store_full: f64,
}

/// Everything that is shared by the parts of one simulated machine and survives its crashes.
pub struct World {
    /// The provider, of all rotation classes.
    pub provider: Mutex<Provider>,
    dice: SeededDice,
    faults: Mutex<Faults>,
    started: tokio::time::Instant,
    trace: Mutex<Trace>,
    /// Counts the starts of the process. Parts of an earlier one do nothing any more.
    process: AtomicU64,
    crashed: Notify,
    /// The machine slept for so long: time passed, timers did not.
    slept_ms: AtomicI64,
    /// The wall clock was stepped by so much.
    wall_step_ms: AtomicI64,
    /// Requests by host and second, and the most in flight at once by host.
    traffic: Mutex<Traffic>,
    /// How many faults of each kind have struck.
    pub struck: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Default)]
struct Traffic {
    by_second: BTreeMap<(String, i64), u32>,
    in_flight: BTreeMap<String, u32>,
    in_flight_max: u32,
}

/// Counts an exchange as in flight while it lives.
struct InFlight {
    world: Arc<World>,
    host: String,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.world.leave(&self.host);
    }
}

#[derive(Default)]
struct Trace {
    hash: u64,
    lines: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl World {
    /// A world that is decided by `seed`.
    #[must_use]
    pub fn new(seed: u64, provider: Provider) -> Arc<Self> {
        Arc::new(Self {
            provider: Mutex::new(provider),
            dice: SeededDice::new(seed),
            faults: Mutex::default(),
            started: tokio::time::Instant::now(),
            trace: Mutex::default(),
            process: AtomicU64::new(0),
            crashed: Notify::new(),
            slept_ms: AtomicI64::new(0),
            wall_step_ms: AtomicI64::new(0),
            traffic: Mutex::default(),
            struck: Mutex::default(),
        })
    }

    /// Sets how often faults strike from now on.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// Now, in simulated milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        let awake = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        BEGINNING_MS + awake + self.slept_ms.load(Ordering::Relaxed)
    }

    /// Suspends the machine: time passes, and no timer notices.
    pub fn suspend(&self, span: Duration) {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.slept_ms.fetch_add(span, Ordering::Relaxed);
    }

    /// Steps the wall clock.
    pub fn step_wall(&self, by_ms: i64) {
        self.wall_step_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// By how much the wall clock has been stepped in all.
    #[must_use]
    pub fn wall_step_ms(&self) -> i64 {
        self.wall_step_ms.load(Ordering::Relaxed)
    }

    /// The most requests to one host within one second, and the most in flight to one host at once.
    #[must_use]
    pub fn busiest(&self) -> (u32, u32) {
        let traffic = lock(&self.traffic);
        (traffic.by_second.values().copied().max().unwrap_or(0), traffic.in_flight_max)
    }

    fn arrive(&self, host: &str) {
        let second = self.now_ms() / 1000;
        let mut traffic = lock(&self.traffic);
        *traffic.by_second.entry((host.to_owned(), second)).or_default() += 1;
        let in_flight = traffic.in_flight.entry(host.to_owned()).or_default();
        *in_flight += 1;
        traffic.in_flight_max = traffic.in_flight_max.max(*traffic.in_flight.get(host).unwrap_or(&0));
    }

    fn leave(&self, host: &str) {
        if let Some(in_flight) = lock(&self.traffic).in_flight.get_mut(host) {
            *in_flight -= 1;
        }
    }

    /// A number in [0, 1).
    #[must_use]
    pub fn draw(&self) -> f64 {
        self.dice.draw()
    }

    /// Whether a fault strikes that does so with probability `how_often` of the current faults.
    pub fn strikes(&self, kind: &'static str, how_often: impl Fn(&Faults) -> f64) -> bool {
        let likely = how_often(&lock(&self.faults));
        let strikes = likely > 0.0 && self.draw() < likely;
        if strikes {
            *lock(&self.struck).entry(kind).or_default() += 1;
            self.note(kind);
        }
        strikes
    }

    /// Adds a line to the trace, of which a hash is kept (FNV-1a, with the time).
    pub fn note(&self, line: &str) {
        let mut trace = lock(&self.trace);
        let now = self.now_ms().to_le_bytes();
        trace.hash = now.iter().chain(line.as_bytes()).fold(trace.hash ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        trace.lines += 1;
        if std::env::var_os("TOKENKEEP_SIM_TRACE").is_some() {
            eprintln!("{:>12} {line}", self.now_ms() - BEGINNING_MS);
        }
    }

    /// The trace's hash and length: same seed, same trace.
    #[must_use]
    pub fn trace(&self) -> (u64, u64) {
        let trace = lock(&self.trace);
        (trace.hash, trace.lines)
    }

    /// The number of the running process.
    #[must_use]
    pub fn process(&self) -> u64 {
        self.process.load(Ordering::Relaxed)
    }

    /// The process is dead: nothing that belongs to it goes on. Returns the next one's number.
    pub fn kill(&self) -> u64 {
        self.note("killed");
        self.process.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns when a crash strikes.
    pub async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// A point in a worker or one of its attempts, at which it may panic or the process may die.
    pub async fn worker_point(&self, process: u64) {
        if process == self.process() && self.strikes("panic", |f| f.panic) {
            panic!("simulated panic");
        }
        self.crash_point(process).await;
    }

    /// A point at which process `process` may die; a dead one never gets past it.
    pub async fn crash_point(&self, process: u64) {
        if process == self.process() {
            if !self.strikes("crash", |f| f.crash) {
                return;
            }
            self.kill();
            self.crashed.notify_one();
        }
        std::future::pending::<()>().await;
    }

    /// A pause of up to `most`.
    pub async fn pause(&self, most: Duration) {
        tokio::time::sleep(most.mul_f64(self.draw())).await;
    }
}

/// The world's time as the engine's clock.
pub struct SimClock(pub Arc<World>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.now_ms())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.0.now_ms() + self.0.wall_step_ms())
    }
}

/// The world's dice as the engine's.
pub struct SimDice(pub Arc<World>);

impl Dice for SimDice {
    fn draw(&self) -> f64 {
        self.0.draw()
    }
}

/// The network, and the provider at its other end.
pub struct SimEndpoint {
    /// The world that it is in.
    pub world: Arc<World>,
    /// The process that uses it.
    pub process: u64,
}

#[async_trait]
impl Endpoint for SimEndpoint {
    async fn connect(&self, url: &Url, _reuse: Reuse) -> Result<Box<dyn Channel>, Failure> {
        let host = url.host_str().unwrap_or_default().to_owned();
        self.world.arrive(&host);
        let in_flight = InFlight { world: Arc::clone(&self.world), host };
        self.world.worker_point(self.process).await;
        self.world.pause(Duration::from_millis(20)).await;
        if self.world.strikes("unsent", |f| f.unsent) {
            return Err(Failure::new(FailureCode::ConnectFailed, "simulated"));
        }
        Ok(Box::new(SimChannel { world: Arc::clone(&self.world), process: self.process, _in_flight: Some(in_flight) }))
    }
}

/// How often a kind of fault strikes, out of the current faults.
type HowOften = fn(&Faults) -> f64;

struct SimChannel {
    world: Arc<World>,
    process: u64,
    _in_flight: Option<InFlight>,
}

/// What the network and the provider do with one request.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Answered,
    LostBefore,
    LostAfter,
    ErrorBefore,
    ErrorAfter,
    Throttled,
    Unavailable,
    Truncated,
    Html,
    WrongClient,
}

impl SimChannel {
    fn fate(&self) -> Fate {
        let fates: [(&'static str, HowOften, Fate); 9] = [
            ("lost_before", |f| f.lost_before, Fate::LostBefore),
            ("lost_after", |f| f.lost_after, Fate::LostAfter),
            ("error_before", |f| f.error_before, Fate::ErrorBefore),
            ("error_after", |f| f.error_after, Fate::ErrorAfter),
            ("throttled", |f| f.throttled, Fate::Throttled),
            ("unavailable", |f| f.unavailable, Fate::Unavailable),
            ("truncated", |f| f.truncated, Fate::Truncated),
            ("html", |f| f.html, Fate::Html),
            ("wrong_client", |f| f.wrong_client, Fate::WrongClient),
        ];
        let struck = fates.into_iter().find(|(kind, how_often, _)| self.world.strikes(kind, how_often));
        struck.map_or(Fate::Answered, |(.., fate)| fate)
    }

    /// The provider's side of the exchange; it goes on when the client dies.
    async fn serve(&self, request: &ProviderRequest, fate: Fate) -> RawAnswer {
        match fate {
            Fate::ErrorBefore => return answer(500, "boom", None),
            Fate::Throttled => return answer(429, "", Some(Duration::from_secs(20))),
            Fate::Unavailable => return answer(503, "", Some(Duration::from_secs(15))),
            Fate::Html => return answer(200, "<html>Sign in to the Wi-Fi</html>", None),
            Fate::WrongClient => return answer(401, r#"{"error":"invalid_client"}"#, None),
            _ => {}
        }
        let body = request.body.expose().as_bytes();
        let read = OAuthRequest::read(request.content_type, None, body).expect("our own requests are well formed");
        let arrived = lock(&self.world.provider).arrive(read.refresh_token.as_deref());
        self.world.pause(Duration::from_millis(200)).await;
        let mut provider = lock(&self.world.provider);
        let answered = provider.token(self.world.now_ms(), &read);
        provider.leave(arrived);
        drop(provider);
        self.world.note(&format!("provider answered {}", answered.status.as_u16()));
        RawAnswer {
            status: answered.status.as_u16(),
            content_type: Some("application/json".to_owned()),
            retry_after: None,
            body: Zeroizing::new(answered.body.to_vec()),
        }
    }
}

fn answer(status: u16, body: &str, retry_after: Option<Duration>) -> RawAnswer {
    RawAnswer { status, content_type: None, retry_after, body: Zeroizing::new(body.as_bytes().to_vec()) }
}

fn unknown(code: FailureCode) -> SendFailure {
    SendFailure::Unknown(Failure::new(code, "simulated"))
}

#[async_trait]
impl Channel for SimChannel {
    async fn send(self: Box<Self>, request: ProviderRequest, timeout: Duration) -> Result<RawAnswer, SendFailure> {
        self.world.worker_point(self.process).await;
        let fate = self.fate();
        if fate == Fate::LostBefore {
            tokio::time::sleep(timeout).await;
            return Err(unknown(FailureCode::Timeout));
        }
        // The exchange is a task of its own: a client that dies does not take the provider with it.
        let (process, world) = (self.process, Arc::clone(&self.world));
        let channel = Self { world: Arc::clone(&world), process, _in_flight: None };
        let answered = tokio::spawn(async move { channel.serve(&request, fate).await }).await;
        world.worker_point(process).await;
        let answered = answered.expect("the simulated provider does not panic");
        match fate {
            Fate::LostAfter => {
                tokio::time::sleep(timeout).await;
                Err(unknown(FailureCode::Timeout))
            }
            Fate::Truncated => Err(unknown(FailureCode::AnswerTruncated)),
            Fate::ErrorAfter => Ok(answer(502, "bad gateway", None)),
            _ => Ok(answered),
        }
    }
}
