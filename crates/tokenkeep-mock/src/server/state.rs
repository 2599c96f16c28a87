//! What a running server shares with its connections and with the test that started it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::request::Parts;
use tokio::sync::watch;

use super::tls::TlsFace;
use crate::answer::Answer;
use crate::fault::{Fault, FaultPlan, Faults, Reply, ScriptFull};
use crate::jira::{self, Call, Jira, RateLimit};
use crate::provider::{Grant, GrantLedger, GrantOptions, InFlight, Provider, Totals};
use crate::request::OAuthRequest;

/// The value of `down_until_ms` while the provider is up.
const UP: i64 = i64::MIN;

/// The state of a running [`Server`](crate::Server). Every method may be called from any thread, beside its requests.
#[derive(Debug)]
pub struct State {
    /// Held only for one pure call at a time, never across a wait.
    core: Mutex<Core>,
    offset_ms: AtomicI64,
    /// In the machine's time, which no shift moves.
    down_until_ms: AtomicI64,
    /// Tells every connection to finish, or to end at once.
    signal: watch::Sender<Signal>,
    /// The certificate of the TLS listener's authority, once there is such a listener.
    authority_pem: OnceLock<String>,
}

/// Which of the server's endpoints faults are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The token endpoint.
    Token,
    /// The API behind the provider: the small Jira.
    Api,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub provider: Provider,
    pub faults: Faults,
    pub api_faults: Faults,
    /// How many requests reached the API.
    pub api_requests: u64,
    pub jira: Jira,
    pub tls_face: TlsFace,
}

/// What connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Signal {
    /// The server is shutting down: finish what is in flight and close.
    pub draining: bool,
    /// How often the provider went down: each time, its connections end at once.
    pub cuts: u64,
}

impl State {
    pub(crate) fn new(provider: Provider, plan: FaultPlan) -> Self {
        Self {
            core: Mutex::new(Core::new(provider, Faults::new(plan))),
            offset_ms: AtomicI64::new(0),
            down_until_ms: AtomicI64::new(UP),
            signal: watch::Sender::new(Signal::default()),
            authority_pem: OnceLock::new(),
        }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        // A panic of a caller's closure leaves whole grants behind: each method keeps its own promises.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn signal(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }

    /// Returns when the server shuts down.
    pub(crate) async fn drained(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.signal().wait_for(|signal| signal.draining).await;
    }

    // --- The provider ---

    /// Calls `f` with the provider, for what has no method here. The server's requests wait meanwhile.
    pub fn with_provider<T>(&self, f: impl FnOnce(&mut Provider) -> T) -> T {
        f(&mut self.core().provider)
    }

    /// Makes a grant at this time.
    pub fn grant(&self, options: GrantOptions) -> Grant {
        let now_ms = self.now_ms();
        self.core().provider.grant(now_ms, options)
    }

    /// Ends the grant with this name. Says whether it was alive; `None` if there is none.
    pub fn kill(&self, label: &str) -> Option<bool> {
        let now_ms = self.now_ms();
        let mut core = self.core();
        let grant = core.provider.find(label)?;
        Some(core.provider.kill(now_ms, grant))
    }

    /// What happened to the grant with this name.
    pub fn ledger(&self, label: &str) -> Option<GrantLedger> {
        let core = self.core();
        core.provider.ledger(core.provider.find(label)?)
    }

    /// What happened, counted over all grants.
    pub fn totals(&self) -> Totals {
        self.core().provider.totals()
    }

    /// Forgets every grant, count and script, ends plans, limits, the shift of the clock and whatever TLS does wrong, and
    /// brings the provider up.
    pub fn reset(&self) {
        self.set_clock_offset_ms(0);
        self.up();
        let mut core = self.core();
        core.provider.reset();
        *core = Core::new(core.provider.clone(), Faults::default());
    }

    // --- Faults ---

    /// Replaces the plan of faults of the token endpoint.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.set_faults_at(Endpoint::Token, plan);
    }

    /// Replaces the plan of faults of one endpoint.
    pub fn set_faults_at(&self, endpoint: Endpoint, plan: FaultPlan) {
        self.core().faults_at(endpoint).set_plan(plan);
    }

    /// Names the next faults of one grant, or of all requests, at the token endpoint: see [`Faults::script`].
    pub fn script(&self, label: Option<&str>, faults: Vec<Fault>) -> Result<(), ScriptFull> {
        self.script_at(Endpoint::Token, label, faults)
    }

    /// Names the next faults at one endpoint. The API knows a grant by its access tokens.
    pub fn script_at(&self, endpoint: Endpoint, label: Option<&str>, faults: Vec<Fault>) -> Result<(), ScriptFull> {
        self.core().faults_at(endpoint).script(label, faults)
    }

    /// Limits how often the API may be asked from now on; `None` takes the limit away.
    pub fn set_rate_limit(&self, limit: Option<RateLimit>) {
        let now_ms = self.now_ms();
        self.core().jira.limit(limit, now_ms);
    }

    /// The number of the small Jira's Cloud site, as its URLs have it.
    pub fn cloud_id(&self) -> String {
        self.core().jira.cloud_id().to_owned()
    }

    // --- TLS ---

    /// How the TLS listener presents itself.
    pub fn tls_face(&self) -> TlsFace {
        self.core().tls_face
    }

    /// Sets how the TLS listener presents itself to new connections.
    pub fn set_tls_face(&self, face: TlsFace) {
        self.core().tls_face = face;
    }

    /// The certificate that clients of the TLS listener must trust, as PEM; `None` where there is no such listener.
    pub fn authority_pem(&self) -> Option<&str> {
        self.authority_pem.get().map(String::as_str)
    }

    pub(crate) fn set_authority(&self, pem: &str) {
        // A second listener has an authority of its own; the first one's stays the one that is told.
        let _ = self.authority_pem.set(pem.to_owned());
    }

    // --- Time ---

    /// The provider's time: the machine's, shifted.
    pub fn now_ms(&self) -> i64 {
        machine_ms().saturating_add(self.clock_offset_ms())
    }

    /// How far the provider's clock is ahead of the machine's.
    pub fn clock_offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }

    /// Sets how far the provider's clock is ahead of the machine's; negative where it is behind.
    pub fn set_clock_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    // --- Down and up ---

    /// Takes the provider down, for ever or for a time: each connection that carries no control request ends at once,
    /// and each request on a new one is answered with its end.
    pub fn down(&self, for_ms: Option<u64>) {
        let for_ms = for_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let until_ms = for_ms.map_or(i64::MAX, |ms| machine_ms().saturating_add(ms));
        self.down_until_ms.store(until_ms, Ordering::Relaxed);
        self.signal.send_modify(|signal| signal.cuts += 1);
    }

    /// Brings the provider up again.
    pub fn up(&self) {
        self.down_until_ms.store(UP, Ordering::Relaxed);
    }

    /// Whether the provider is down.
    pub fn is_down(&self) -> bool {
        let until_ms = self.down_until_ms.load(Ordering::Relaxed);
        until_ms != UP && machine_ms() < until_ms
    }

    /// Lets connections finish, and cuts every wait short.
    pub(crate) fn drain(&self) {
        self.signal.send_modify(|signal| signal.draining = true);
    }

    // --- One request at the token endpoint ---

    /// Notes a request and says what happens to it. If nothing makes it wait, it is processed under the same lock.
    pub(crate) fn begin(&self, request: &OAuthRequest<'_>) -> Begun {
        let now_ms = self.now_ms();
        let mut core = self.core();
        let arrived = core.provider.arrive(request.refresh_token.as_deref());
        let fault = core.next_fault(&arrived);
        if fault.wait_before_ms() > 0 || fault.wait_after_ms() > 0 {
            return Begun::Waits(fault, arrived);
        }
        let reply = fault.apply(|| core.provider.token(now_ms, request));
        core.provider.leave(arrived);
        Begun::Done(reply)
    }

    /// Processes a request that waited.
    pub(crate) fn process(&self, fault: &Fault, request: &OAuthRequest<'_>) -> Reply {
        let now_ms = self.now_ms();
        fault.apply(|| self.core().provider.token(now_ms, request))
    }

    // --- One request at the API ---

    /// Notes a request and says what happens to it.
    pub(crate) fn begin_api(&self, token: &str) -> Fault {
        let now_ms = self.now_ms();
        let core = &mut *self.core();
        let nth = core.api_requests;
        core.api_requests += 1;
        let label = core.provider.introspect(now_ms, token).sub;
        let grant = label.as_deref().and_then(|label| core.provider.find(label));
        core.api_faults.next(label.as_deref(), grant.map_or(u64::MAX, |grant| grant.0 as u64), nth)
    }

    /// Answers a request, as its fault allows.
    pub(crate) fn api(&self, fault: &Fault, request: &ApiRequest<'_>) -> Reply {
        let now_ms = self.now_ms();
        let reply = fault.apply(|| self.core().api(now_ms, request));
        match reply {
            Reply::Answer(answer) => Reply::Answer(jira::stamped(answer, now_ms)),
            other => other,
        }
    }

    // --- After either ---

    /// Notes that a request that waited is over.
    pub(crate) fn leave(&self, arrived: InFlight) {
        self.core().provider.leave(arrived);
    }
}

/// One request to the API, as it came.
pub(crate) struct ApiRequest<'a> {
    pub parts: &'a Parts,
    pub token: &'a str,
    pub body: &'a [u8],
    pub origin: &'a str,
}

/// How far a request at the token endpoint has come.
pub(crate) enum Begun {
    /// It is processed.
    Done(Reply),
    /// It waits before or after it is processed.
    Waits(Fault, InFlight),
}

impl Core {
    fn new(provider: Provider, faults: Faults) -> Self {
        let jira = Jira::new(provider.config().seed);
        let (api_faults, tls_face) = (Faults::default(), TlsFace::default());
        Self { provider, faults, api_faults, api_requests: 0, jira, tls_face }
    }

    fn faults_at(&mut self, endpoint: Endpoint) -> &mut Faults {
        match endpoint {
            Endpoint::Token => &mut self.faults,
            Endpoint::Api => &mut self.api_faults,
        }
    }

    fn api(&mut self, now_ms: i64, request: &ApiRequest<'_>) -> Answer {
        let Some(bearer) = self.provider.use_access_token(now_ms, request.token) else {
            return jira::unauthorized();
        };
        self.jira.answer(&Call {
            method: &request.parts.method,
            path: request.parts.uri.path(),
            query: request.parts.uri.query().unwrap_or_default(),
            body: request.body,
            bearer: &bearer,
            origin: request.origin,
            now_ms,
        })
    }

    fn next_fault(&mut self, arrived: &InFlight) -> Fault {
        let label = arrived.grant().and_then(|grant| self.provider.label(grant));
        let key = arrived.grant().map_or(u64::MAX, |grant| grant.0 as u64);
        self.faults.next(label, key, arrived.nth())
    }
}

/// The machine's time in milliseconds since 1970.
fn machine_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
