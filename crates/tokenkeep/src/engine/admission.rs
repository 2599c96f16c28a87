//! Who may send to a provider, and how fast: one lane for each (endpoint, client).
//!
//! Everything here is arithmetic on a time that the caller brings.

use crate::config::Provider;
use std::collections::BTreeMap;
use std::time::Duration;
use tokenkeep_core::Timestamp;
use tokenkeep_core::classify::{Reach, Setback, SetbackKind};
use tokenkeep_core::model::ConnectionId;
use tokenkeep_core::schedule::HOLD_PROBE_EVERY;

/// Retries that every lane may make, whatever it does otherwise.
pub const RETRIES_PER_MINUTE_MIN: f64 = 10.0;
/// Retries that each first try pays for.
pub const RETRIES_PER_FIRST_TRY: f64 = 0.2;
/// Retries that can be saved up.
pub const RETRIES_SAVED_MAX: f64 = 100.0;
/// After this many failures in a row a lane counts as down, and its next success as its return.
pub const DOWN_AFTER_FAILURES: u32 = 3;

/// Names a lane: the token endpoint and the client id.
pub type LaneKey = (String, String);

/// The lane that a provider's connections use.
#[must_use]
pub fn lane_key(provider: &Provider) -> LaneKey {
    (provider.refreshes_at().to_string(), provider.client.id.clone())
}

/// All lanes, and the attempts in flight over all of them.
#[derive(Debug)]
pub struct Admission {
    lanes: BTreeMap<LaneKey, Lane>,
    in_flight: usize,
    in_flight_max: usize,
    /// Lanes that have something in flight.
    busy: usize,
}

#[derive(Debug)]
struct Lane {
    per_second: f64,
    tokens: f64,
    refilled_at: Timestamp,
    in_flight: usize,
    in_flight_max: usize,
    blocked_until: Timestamp,
    held: bool,
    misconfigured: Option<ConnectionId>,
    failures: u32,
    recover_before: Option<Timestamp>,
    retries: f64,
    retries_refilled_at: Timestamp,
    /// Until when the store knows it to be held.
    told: Option<Timestamp>,
    /// The configuration no longer has it: it goes when nothing is in flight any more.
    retired: bool,
}

impl Lane {
    fn new(provider: &Provider, now: Timestamp) -> Self {
        let per_second = f64::from(provider.refresh_per_second.max(1));
        Self {
            per_second,
            tokens: per_second,
            refilled_at: now,
            in_flight: 0,
            in_flight_max: provider.refresh_in_flight_max.max(1) as usize,
            blocked_until: Timestamp::EPOCH,
            held: false,
            misconfigured: None,
            failures: 0,
            recover_before: None,
            retries: RETRIES_PER_MINUTE_MIN,
            retries_refilled_at: now,
            told: None,
            retired: false,
        }
    }

    /// Takes the limits of this provider; what is in flight beyond them ends by itself.
    fn limit(&mut self, provider: &Provider) {
        self.per_second = f64::from(provider.refresh_per_second.max(1));
        self.tokens = self.tokens.min(self.per_second);
        self.in_flight_max = provider.refresh_in_flight_max.max(1) as usize;
        self.retired = false;
    }

    fn held_until(&self) -> Option<Timestamp> {
        self.held.then_some(self.blocked_until)
    }

    /// One second's worth of tokens is the most that is saved up.
    fn refill(&mut self, now: Timestamp) {
        let passed = self.refilled_at.until(now).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
        self.refilled_at = self.refilled_at.max(now);
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens lie between 0 and u32::MAX")]
    fn quota(&mut self, now: Timestamp) -> usize {
        self.refill(now);
        if now < self.blocked_until {
            return 0;
        }
        let room = self.in_flight_max.saturating_sub(self.in_flight).min(self.tokens.max(0.0) as usize);
        if self.held { room.min(1usize.saturating_sub(self.in_flight)) } else { room }
    }

    /// When the next attempt may start, as far as time alone decides.
    fn open_at(&self, now: Timestamp) -> Timestamp {
        let missing = (1.0 - self.tokens).max(0.0) / self.per_second;
        (now + Duration::from_secs_f64(missing)).max(self.blocked_until)
    }
}

/// What a lane may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// How many attempts may start.
    pub limit: usize,
    /// When it is worth asking again, if that is a matter of time.
    pub open_at: Timestamp,
    /// See [`crate::store::Quota::recover_before`].
    pub recover_before: Option<Timestamp>,
}

/// What a lane's state says to callers who want to send at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Go on.
    Open,
    /// The provider said to wait until then.
    Blocked(Timestamp),
    /// The client is misconfigured; one probe is due then.
    Held(Timestamp),
}

impl Admission {
    /// Lanes for these providers; at most `in_flight_max` attempts over all of them.
    pub fn new<'a>(providers: impl IntoIterator<Item = &'a Provider>, in_flight_max: usize, now: Timestamp) -> Self {
        let lanes = providers.into_iter().map(|p| (lane_key(p), Lane::new(p, now))).collect();
        Self { lanes, in_flight: 0, in_flight_max: in_flight_max.max(1), busy: 0 }
    }

    /// Lanes for these providers from now on. One that stays keeps what it has learned.
    pub fn reconfigure<'a>(&mut self, providers: impl IntoIterator<Item = &'a Provider>, now: Timestamp) {
        self.lanes.values_mut().for_each(|lane| lane.retired = true);
        for provider in providers {
            self.lanes.entry(lane_key(provider)).or_insert_with(|| Lane::new(provider, now)).limit(provider);
        }
        self.lanes.retain(|_, lane| !lane.retired || lane.in_flight > 0);
    }

    /// The configuration changed what held this lane.
    pub fn release(&mut self, lane: &LaneKey, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        if lane.held {
            lane.blocked_until = lane.blocked_until.min(now);
        }
        // The store let go of the hold when it noted the change.
        *lane = Lane { held: false, misconfigured: None, failures: 0, told: None, ..*lane };
    }

    /// The lane was held when the process before this one ended.
    pub fn hold_again(&mut self, lane: &LaneKey, until: Timestamp, now: Timestamp) {
        if let Some(lane) = self.lanes.get_mut(lane).filter(|lane| !lane.held) {
            lane.held = true;
            lane.blocked_until = lane.blocked_until.max(until.min(now + HOLD_PROBE_EVERY));
            lane.told = Some(until);
        }
    }

    /// A held lane need not wait for its probe.
    pub fn probe_at_once(&mut self, lane: &LaneKey, now: Timestamp) {
        if let Some(lane) = self.lanes.get_mut(lane).filter(|lane| lane.held) {
            lane.blocked_until = lane.blocked_until.min(now);
        }
    }

    /// Whether the store does not know yet until when this lane is held.
    #[must_use]
    pub fn is_untold(&self, lane: &LaneKey) -> bool {
        self.untold(lane).is_some()
    }

    /// Until when the store believes this lane to be held, and until when it is, where these differ.
    #[must_use]
    pub fn untold(&self, lane: &LaneKey) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
        let lane = self.lanes.get(lane)?;
        (lane.told != lane.held_until()).then_some((lane.told, lane.held_until()))
    }

    /// The store knows now.
    pub fn told(&mut self, lane: &LaneKey, until: Option<Timestamp>) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.told = until;
        }
    }

    /// How much `lane` may start now.
    ///
    /// One place is kept for each lane that has nothing in flight, and of the rest a lane gets no more than it
    /// leaves free to the others (dynamic thresholds, Choudhury and Hahne 1998): a hundred dead providers cannot
    /// take the last place between them.
    pub fn room(&mut self, lane: &LaneKey, now: Timestamp) -> Room {
        let free = self.in_flight_max.saturating_sub(self.in_flight);
        let (lanes, idle) = (self.lanes.len(), self.lanes.len() - self.busy);
        let Some(lane) = self.lanes.get_mut(lane).filter(|lane| !lane.retired) else {
            return Room { limit: 0, open_at: Timestamp::NEVER, recover_before: None };
        };
        let own = usize::from(lane.in_flight == 0).min(free);
        let spare = free.saturating_sub(idle);
        let fair = if lanes > 1 { own + spare.saturating_sub(lane.in_flight) / 2 } else { free };
        let limit = lane.quota(now).min(fair);
        Room { limit, open_at: lane.open_at(now), recover_before: lane.recover_before }
    }

    /// Takes places for attempts that will start; [`Admission::leave`] gives each back.
    pub fn enter(&mut self, lane: &LaneKey, attempts: usize) {
        self.in_flight += attempts;
        if let Some(lane) = self.lanes.get_mut(lane) {
            self.busy += usize::from(lane.in_flight == 0 && attempts > 0);
            lane.in_flight += attempts;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let taken = attempts as f64;
            lane.tokens -= taken;
        }
    }

    /// Gives back what [`Admission::enter`] took, for an attempt that was sent or at least tried.
    pub fn leave(&mut self, lane: &LaneKey) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(found) = self.lanes.get_mut(lane) else { return };
        self.busy -= usize::from(found.in_flight == 1);
        found.in_flight = found.in_flight.saturating_sub(1);
        if found.retired && found.in_flight == 0 {
            self.lanes.remove(lane);
        }
    }

    /// Gives back what was taken for an attempt that was never made.
    pub fn give_back(&mut self, lane: &LaneKey, attempts: usize) {
        for _ in 0..attempts {
            self.leave(lane);
        }
        if let Some(lane) = self.lanes.get_mut(lane) {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let unused = attempts as f64;
            lane.tokens = (lane.tokens + unused).min(lane.per_second);
        }
    }

    /// Attempts in flight over all lanes.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a caller who wants to send at once may.
    #[must_use]
    pub fn standing(&self, lane: &LaneKey, now: Timestamp) -> Standing {
        match self.lanes.get(lane) {
            Some(lane) if lane.held && now < lane.blocked_until => Standing::Held(lane.blocked_until),
            Some(lane) if now < lane.blocked_until => Standing::Blocked(lane.blocked_until),
            _ => Standing::Open,
        }
    }

    /// The recovery that [`Room::recover_before`] allowed has reached everybody.
    pub fn recovered(&mut self, lane: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.recover_before = None;
        }
    }

    /// A token set came. The first success after an outage lets everything that waits out a pause go.
    pub fn succeeded(&mut self, lane: &LaneKey, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        if lane.failures >= DOWN_AFTER_FAILURES || lane.held {
            lane.recover_before = Some(now);
            lane.retries = lane.retries.max(RETRIES_PER_MINUTE_MIN);
            lane.blocked_until = lane.blocked_until.min(now);
        }
        lane.failures = 0;
        lane.held = false;
        lane.misconfigured = None;
        lane.retries = (lane.retries + RETRIES_PER_FIRST_TRY).min(RETRIES_SAVED_MAX);
    }

    /// An attempt failed. The answer: before when the retry budget pays for no other.
    pub fn failed(&mut self, lane: &LaneKey, connection: ConnectionId, setback: &Setback, now: Timestamp) -> Timestamp {
        let Some(lane) = self.lanes.get_mut(lane) else { return now };
        let fits_all = match setback.kind {
            SetbackKind::Misconfigured { reach: Reach::Pair } => true,
            SetbackKind::Misconfigured { reach: Reach::Connection } => {
                lane.misconfigured.replace(connection).is_some_and(|first| first != connection)
            }
            _ => false,
        };
        if fits_all {
            lane.held = true;
            lane.blocked_until = lane.blocked_until.max(now + HOLD_PROBE_EVERY);
            return now;
        }
        match setback.kind {
            SetbackKind::Throttled { wait } => lane.blocked_until = lane.blocked_until.max(now + wait),
            SetbackKind::Rejected | SetbackKind::Misconfigured { .. } => {
                lane.held = false;
                lane.failures = 0;
                return now;
            }
            SetbackKind::Transient { .. } | SetbackKind::InDoubt { .. } => {}
        }
        lane.failures = lane.failures.saturating_add(1);
        lane.recover_before = None;
        reserve_retry(lane, now)
    }
}

/// Takes one retry from the budget, from the future's if none is left.
fn reserve_retry(lane: &mut Lane, now: Timestamp) -> Timestamp {
    let per_second = RETRIES_PER_MINUTE_MIN / 60.0;
    let passed = lane.retries_refilled_at.until(now).as_secs_f64();
    lane.retries = (lane.retries + passed * per_second).min(RETRIES_SAVED_MAX) - 1.0;
    lane.retries_refilled_at = lane.retries_refilled_at.max(now);
    now + Duration::from_secs_f64((-lane.retries).max(0.0) / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenkeep_core::oauth::request::Client;
    use tokenkeep_core::provider::Rules;
    use tokenkeep_core::{Failure, FailureCode};

    const T0: Timestamp = Timestamp::from_millis(1_000_000);

    fn provider(name: &str) -> Provider {
        let url = format!("https://{name}.example/token").parse().unwrap();
        Provider::new(name, url, Client { id: "id".into(), secret: None }, Rules::default())
    }

    fn setback(kind: SetbackKind) -> Setback {
        Setback { kind, failure: Failure::new(FailureCode::Timeout, "") }
    }

    const DOWN: SetbackKind = SetbackKind::Transient { alarm: false };
    const ONE: ConnectionId = ConnectionId(1);

    #[test]
    fn a_lane_keeps_to_its_rate_and_its_places() {
        let (a, lane) = (provider("a"), lane_key(&provider("a")));
        let mut admission = Admission::new([&a], 1000, T0);
        assert_eq!(admission.room(&lane, T0).limit, 50);
        admission.enter(&lane, 50);
        assert_eq!(admission.room(&lane, T0).limit, 0);
        let later = T0 + Duration::from_secs(1);
        assert_eq!(admission.room(&lane, later).limit, 14, "64 places, 50 taken");
        admission.give_back(&lane, 50);
        assert_eq!(admission.room(&lane, later).limit, 50, "no more than a second's worth is saved up");
    }

    #[test]
    fn dead_providers_leave_places_for_the_living() {
        let providers: Vec<Provider> = (0..100).map(|i| provider(&format!("p{i}"))).collect();
        let mut admission = Admission::new(&providers, 256, T0);
        for dead in &providers[1..] {
            let lane = lane_key(dead);
            for _ in 0..10 {
                let room = admission.room(&lane, T0).limit;
                admission.enter(&lane, room);
            }
        }
        assert!(admission.room(&lane_key(&providers[0]), T0).limit >= 1);
    }

    #[test]
    fn a_retry_after_binds_the_whole_lane_and_nobody_else() {
        let (a, b) = (provider("a"), provider("b"));
        let mut admission = Admission::new([&a, &b], 100, T0);
        let wait = Duration::from_secs(30);
        admission.failed(&lane_key(&a), ONE, &setback(SetbackKind::Throttled { wait }), T0);
        assert_eq!(admission.room(&lane_key(&a), T0).limit, 0);
        assert_eq!(admission.standing(&lane_key(&a), T0), Standing::Blocked(T0 + wait));
        assert!(admission.room(&lane_key(&b), T0).limit > 0);
        assert!(admission.room(&lane_key(&a), T0 + wait).limit > 0);
    }

    #[test]
    fn a_wrong_client_holds_the_pair_and_one_probe_finds_out() {
        let a = provider("a");
        let lane = lane_key(&a);
        let mut admission = Admission::new([&a], 100, T0);
        let alone = setback(SetbackKind::Misconfigured { reach: Reach::Connection });
        admission.failed(&lane, ONE, &alone, T0);
        admission.failed(&lane, ONE, &alone, T0);
        assert_eq!(admission.standing(&lane, T0), Standing::Open, "one connection's own fault");
        admission.failed(&lane, ConnectionId(2), &alone, T0);
        let probe = T0 + HOLD_PROBE_EVERY;
        assert_eq!(admission.standing(&lane, T0), Standing::Held(probe));
        assert_eq!(admission.room(&lane, T0).limit, 0);
        assert_eq!(admission.room(&lane, probe).limit, 1);
        admission.enter(&lane, 1);
        assert_eq!(admission.room(&lane, probe).limit, 0);
        admission.leave(&lane);
        admission.succeeded(&lane, probe);
        assert!(admission.room(&lane, probe).limit > 1);
    }

    #[test]
    fn a_reload_keeps_what_lanes_have_learned_and_lets_what_is_in_flight_end() {
        let (a, b) = (provider("a"), provider("b"));
        let (lane_a, lane_b) = (lane_key(&a), lane_key(&b));
        let mut admission = Admission::new([&a, &b], 100, T0);
        let wait = Duration::from_secs(30);
        admission.failed(&lane_a, ONE, &setback(SetbackKind::Throttled { wait }), T0);
        admission.enter(&lane_b, 2);
        let slower = Provider { refresh_per_second: 5, refresh_in_flight_max: 3, ..a.clone() };
        admission.reconfigure([&slower], T0);
        assert_eq!(admission.standing(&lane_a, T0), Standing::Blocked(T0 + wait), "it was told to wait");
        assert_eq!(admission.room(&lane_a, T0 + wait).limit, 3);
        assert_eq!(admission.room(&lane_b, T0).limit, 0, "it is gone");
        admission.leave(&lane_b);
        admission.leave(&lane_b);
        assert_eq!((admission.in_flight(), admission.busy, admission.lanes.len()), (0, 0, 1));
        admission.reconfigure([&slower, &b], T0);
        assert!(admission.room(&lane_b, T0).limit > 0, "it is back");
    }

    #[test]
    fn a_changed_configuration_releases_a_held_lane_and_a_restart_holds_it_again() {
        let a = provider("a");
        let lane = lane_key(&a);
        let mut admission = Admission::new([&a], 100, T0);
        admission.failed(&lane, ONE, &setback(SetbackKind::Misconfigured { reach: Reach::Pair }), T0);
        let probe = T0 + HOLD_PROBE_EVERY;
        assert_eq!(admission.untold(&lane), Some((None, Some(probe))));
        admission.told(&lane, Some(probe));
        assert!(!admission.is_untold(&lane));
        admission.release(&lane, T0);
        assert!(!admission.is_untold(&lane), "the store has let go by itself");
        assert!(admission.room(&lane, T0).limit > 1);
        admission.hold_again(&lane, Timestamp::NEVER, T0);
        assert_eq!(admission.standing(&lane, T0), Standing::Held(probe), "no longer than any hold");
        admission.probe_at_once(&lane, T0);
        assert_eq!((admission.standing(&lane, T0), admission.room(&lane, T0).limit), (Standing::Open, 1));
    }

    #[test]
    fn retries_are_paid_for_and_the_first_success_lets_all_go() {
        let a = provider("a");
        let lane = lane_key(&a);
        let mut admission = Admission::new([&a], 100, T0);
        let mut last = T0;
        for _ in 0..70 {
            last = admission.failed(&lane, ONE, &setback(DOWN), T0);
        }
        assert_eq!(T0.until(last), Duration::from_secs(360), "60 beyond the 10 saved, 10 a minute");
        assert_eq!(admission.room(&lane, T0).recover_before, None);
        admission.succeeded(&lane, last);
        assert_eq!(admission.room(&lane, last).recover_before, Some(last));
        admission.recovered(&lane);
        assert_eq!(admission.room(&lane, last).recover_before, None);
    }
}
