//! What a running server shares with its connections and with the test that started it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::fault::{Fault, FaultPlan, Faults, Reply, ScriptFull};
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
}

#[derive(Debug)]
pub(crate) struct Core {
    pub provider: Provider,
    pub faults: Faults,
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
            core: Mutex::new(Core { provider, faults: Faults::new(plan) }),
            offset_ms: AtomicI64::new(0),
            down_until_ms: AtomicI64::new(UP),
            signal: watch::Sender::new(Signal::default()),
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

    /// Forgets every grant, count and script, ends the plan and the shift of the clock, and brings the provider up.
    pub fn reset(&self) {
        self.set_clock_offset_ms(0);
        self.up();
        let mut core = self.core();
        core.provider.reset();
        core.faults = Faults::default();
    }

    // --- Faults ---

    /// Replaces the plan of faults.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.core().faults.set_plan(plan);
    }

    /// Names the next faults of one grant, or of all requests: see [`Faults::script`].
    pub fn script(&self, label: Option<&str>, faults: Vec<Fault>) -> Result<(), ScriptFull> {
        self.core().faults.script(label, faults)
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

    /// Notes that a request that waited is over.
    pub(crate) fn leave(&self, arrived: InFlight) {
        self.core().provider.leave(arrived);
    }
}

/// How far a request at the token endpoint has come.
pub(crate) enum Begun {
    /// It is processed.
    Done(Reply),
    /// It waits before or after it is processed.
    Waits(Fault, InFlight),
}

impl Core {
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
