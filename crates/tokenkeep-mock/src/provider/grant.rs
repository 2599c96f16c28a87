//! One grant at the provider: which of its tokens are good, and what happened to it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::{GraceReuse, ProviderConfig};
use super::ledger::{Death, DeathCause, ReuseEvent};
use crate::rotation::Rotation;

/// How many reuse events of one grant are kept one by one; all of them are counted.
pub(crate) const REUSE_EVENTS_MAX: usize = 16;

/// What a refresh token that was once issued is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was never issued.
    Unknown,
    /// Its grant is dead.
    Dead,
    /// It is the grant's current one.
    Current,
    /// It was used, and may be used again: its grace has not ended, or its successor was not used yet.
    Resendable,
    /// It was issued, never used, and replaced because its predecessor was used again. Using it is reuse.
    Superseded,
    /// It was used, and using it again is reuse.
    Spent,
}

/// The refresh tokens of one grant, by serial number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lineage {
    current: u64,
    /// Whether the current token, or the access token that came with it, was used.
    current_used: bool,
    parent: Option<Parent>,
}

/// The token whose use issued the current one.
#[derive(Debug, Clone, Copy)]
struct Parent {
    serial: u64,
    first_used_at_ms: i64,
    resent: bool,
}

/// The rules by which a used token is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub rotation: Rotation,
    pub grace_reuse: GraceReuse,
}

impl Lineage {
    pub fn current(&self) -> u64 {
        self.current
    }

    pub fn standing(&self, serial: u64, rules: Rules, now_ms: i64) -> Standing {
        if serial > self.current {
            return Standing::Unknown;
        }
        if serial == self.current {
            return Standing::Current;
        }
        match self.parent {
            Some(parent) if serial > parent.serial => Standing::Superseded,
            Some(parent) if serial == parent.serial && self.resendable(parent, rules, now_ms) => Standing::Resendable,
            _ => Standing::Spent,
        }
    }

    fn resendable(&self, parent: Parent, rules: Rules, now_ms: i64) -> bool {
        match rules.rotation {
            Rotation::Persistent | Rotation::Strict => false,
            Rotation::UntilUsed => !self.current_used,
            Rotation::Grace(seconds) => {
                let often = rules.grace_reuse == GraceReuse::Repeated || !parent.resent;
                let age_ms = now_ms.saturating_sub(parent.first_used_at_ms);
                often && age_ms <= i64::from(seconds) * 1_000
            }
        }
    }

    /// The current token was used: it becomes the parent of a new one.
    pub fn rotate(&mut self, now_ms: i64) {
        self.parent = Some(Parent { serial: self.current, first_used_at_ms: now_ms, resent: false });
        self.replace_current();
    }

    /// The parent was used again: another new token replaces the current one.
    pub fn resend(&mut self) {
        if let Some(parent) = &mut self.parent {
            parent.resent = true;
        }
        self.replace_current();
    }

    fn replace_current(&mut self) {
        self.current = self.current.saturating_add(1);
        self.current_used = false;
    }
}

/// The access tokens of one grant, by serial number. A token carries its own end; this knows who ended earlier.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccessTokens {
    /// How many were issued; the newest has this number less one.
    pub issued: u64,
    /// When the newest one ends.
    pub newest_expires_at_ms: i64,
    /// All before this number have ended.
    floor: u64,
    /// When each that a rotation ends will end, in order.
    ending: VecDeque<(u64, i64)>,
}

impl AccessTokens {
    /// The number of the next token, which becomes the newest one.
    pub fn issue(&mut self, expires_at_ms: i64) -> u64 {
        let serial = self.issued;
        self.issued = serial.saturating_add(1);
        self.newest_expires_at_ms = expires_at_ms;
        serial
    }

    /// The number of the newest token, or of the first where none was issued.
    pub fn newest(&self) -> u64 {
        self.issued.saturating_sub(1)
    }

    /// A rotation at `now_ms` ends the newest token `after_s` seconds later.
    pub fn end_newest(&mut self, now_ms: i64, after_s: u32) {
        let ends_at_ms = now_ms.saturating_add(i64::from(after_s) * 1_000);
        self.ending.push_back((self.newest(), ends_at_ms));
        while let Some(&(serial, ends_at_ms)) = self.ending.front() {
            if ends_at_ms > now_ms {
                break;
            }
            self.floor = serial.saturating_add(1);
            self.ending.pop_front();
        }
    }

    /// Whether no rotation has ended the token with this number.
    pub fn lives(&self, serial: u64, now_ms: i64) -> bool {
        let ended = |&(ending, ends_at_ms): &(u64, i64)| ending == serial && ends_at_ms <= now_ms;
        serial >= self.floor && serial < self.issued && !self.ending.iter().any(ended)
    }
}

/// One grant at the provider.
#[derive(Debug, Clone)]
pub(crate) struct GrantState {
    pub label: Arc<str>,
    pub owner: Arc<str>,
    pub client: usize,
    pub scope: Arc<str>,
    pub rotation: Rotation,
    pub access_ttl_ms: i64,
    pub says_expires_in: bool,
    pub lineage: Lineage,
    pub access: AccessTokens,
    pub history: History,
    pub killed: Option<Death>,
    pub made_at_ms: i64,
    /// When its refresh token was last used, or when it was made.
    pub used_at_ms: i64,
    pub refreshable: Refreshable,
    /// Where its sign-in was sent back to; a device's was not.
    pub redirect_uri: Option<String>,
    /// The refresh tokens that are in flight, each once for each request.
    in_flight: Vec<u64>,
}

/// Whether the client of a grant was given its refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refreshable {
    Yes,
    No,
}

/// What happened to a grant, as its ledger tells it.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub requests: u64,
    pub refreshes: u64,
    pub last_refresh_at_ms: Option<i64>,
    pub margin_min_ms: Option<i64>,
    pub grace_reuses: u64,
    pub overlaps: u64,
    pub reuse_count: u64,
    pub reuses: Vec<ReuseEvent>,
}

impl GrantState {
    pub fn new(label: Arc<str>, client: usize, scope: Arc<str>, rotation: Rotation) -> Self {
        Self {
            owner: Arc::clone(&label),
            label,
            client,
            scope,
            rotation,
            access_ttl_ms: 0,
            says_expires_in: true,
            lineage: Lineage::default(),
            access: AccessTokens::default(),
            history: History::default(),
            killed: None,
            made_at_ms: 0,
            used_at_ms: 0,
            refreshable: Refreshable::Yes,
            redirect_uri: None,
            in_flight: Vec::new(),
        }
    }

    /// What time has done to it: the grant is too old, or its refresh token was not used for too long.
    pub fn outlived(&self, config: &ProviderConfig, now_ms: i64) -> Option<DeathCause> {
        let exceeds = |since_ms: i64, limit_s: Option<u64>| {
            let limit_ms = limit_s.map(|limit| i64::try_from(limit.saturating_mul(1_000)).unwrap_or(i64::MAX));
            limit_ms.is_some_and(|limit_ms| now_ms.saturating_sub(since_ms) > limit_ms)
        };
        if exceeds(self.made_at_ms, config.grant_life_s) {
            return Some(DeathCause::Expired);
        }
        exceeds(self.used_at_ms, config.refresh_idle_s).then_some(DeathCause::Idle)
    }

    /// A request with this refresh token came in. Says whether another one with the same token is still in flight.
    pub fn arrive(&mut self, serial: u64) -> bool {
        self.history.requests += 1;
        let overlaps = self.in_flight.contains(&serial);
        self.history.overlaps += u64::from(overlaps);
        self.in_flight.push(serial);
        overlaps
    }

    /// A request with this refresh token was answered, or lost.
    pub fn leave(&mut self, serial: u64) {
        if let Some(at) = self.in_flight.iter().position(|&other| other == serial) {
            self.in_flight.swap_remove(at);
        }
    }

    /// The newest access token was used, so the client has the newest answer.
    pub fn access_used(&mut self, serial: u64) {
        if serial == self.access.newest() {
            self.lineage.current_used = true;
        }
    }

    /// Counts a refresh and how long the newest access token would still have lived.
    pub fn count_refresh(&mut self, now_ms: i64) {
        let margin_ms = self.access.newest_expires_at_ms.saturating_sub(now_ms);
        let history = &mut self.history;
        history.refreshes += 1;
        self.used_at_ms = now_ms;
        history.last_refresh_at_ms = Some(now_ms);
        history.margin_min_ms = Some(history.margin_min_ms.map_or(margin_ms, |min| min.min(margin_ms)));
    }

    /// Counts a reuse, and keeps it while there is room.
    pub fn count_reuse(&mut self, event: ReuseEvent) {
        self.history.reuse_count += 1;
        if self.history.reuses.len() < REUSE_EVENTS_MAX {
            self.history.reuses.push(event);
        }
    }
}
