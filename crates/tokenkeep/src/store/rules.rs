//! What each call makes of a connection: the part of the contract that all stores share.
//!
//! Pure functions. A store brings the rows and makes the result durable; it decides nothing here again.

use super::{Commit, EventKind, Flag, HoldChange, NewEvent, NewGrant};
use std::cmp::Ordering;
use tokenkeep_core::deadline::Deadline;
use tokenkeep_core::model::{
    AttemptNumber, Claim, Connection, ConnectionId, Doubt, DoubtStep, Generation, GrantNumber, Hold, Holder, Renewal,
    State, Stats, TokenTimes, Waiting,
};
use tokenkeep_core::{ConnectionKey, FailureCode, Timestamp};

/// The connection that a first grant makes.
pub fn created(now: Timestamp, id: ConnectionId, grant: &NewGrant) -> Connection {
    Connection {
        id,
        key: grant.key.clone(),
        provider: grant.provider.clone(),
        labels: grant.labels.clone().unwrap_or_default(),
        scopes: grant.scopes.clone(),
        renewal: grant.renewal,
        grant: GrantNumber(1),
        generation: Generation(u64::from(grant.tokens.is_some())),
        attempt: AttemptNumber(0),
        committed: AttemptNumber(0),
        origin: grant.origin.clone(),
        times: grant.times,
        state: first_state(grant),
        paused: false,
        hold: None,
        last_success: now,
        refreshed: false,
        last_error: None,
        stats: Stats::default(),
    }
}

/// The connection that a further grant makes of `stored`. The claim counter goes on, so that no
/// attempt's number is given twice.
pub fn renewed(now: Timestamp, stored: &Connection, grant: &NewGrant) -> Connection {
    Connection {
        labels: grant.labels.clone().unwrap_or_else(|| stored.labels.clone()),
        grant: GrantNumber(stored.grant.0.saturating_add(1)),
        generation: Generation(stored.generation.0.saturating_add(1)),
        attempt: stored.attempt,
        paused: stored.paused,
        stats: stored.stats,
        ..created(now, stored.id, grant)
    }
}

/// Whether a sign-in by another account must not take `stored` over. Where either account is unknown, it may.
pub fn is_another_s(stored: &Connection, grant: &NewGrant) -> bool {
    matches!((&stored.origin.account, &grant.origin.account), (Some(stored), Some(brought)) if stored != brought)
}

fn first_state(grant: &NewGrant) -> State {
    State::Ready { due_at: grant.due_at, waiting: grant.waiting.clone() }
}

/// The connection after a claim; `None` when there is nothing that could be claimed.
pub fn claimed(now: Timestamp, stored: &Connection, holder: Holder) -> Option<Connection> {
    let State::Ready { waiting, .. } = &stored.state else { return None };
    let attempt = AttemptNumber(stored.attempt.0.saturating_add(1));
    let claim = Claim { attempt, holder, claimed_at: now };
    Some(Connection { attempt, state: State::Claimed { claim, waiting: waiting.clone() }, ..stored.clone() })
}

/// Whether [`super::Store::claim_one`] may claim it.
pub fn is_claimable_now(stored: &Connection, seen: &Connection) -> bool {
    stored.id == seen.id
        && (stored.grant, stored.attempt, stored.generation) == (seen.grant, seen.attempt, seen.generation)
        && matches!(stored.state, State::Ready { .. })
        && !stored.paused
        && stored.hold.is_none()
}

/// Whether [`super::Quota::recover_before`] reaches it.
pub fn is_recoverable(stored: &Connection, before: Timestamp) -> bool {
    stored.due_at().is_some()
        && stored.hold.is_none()
        && matches!(stored.waiting(), Some(Waiting::Retry { .. }))
        && stored.last_error.as_ref().is_some_and(|error| error.at < before)
}

/// Whether [`super::Store::claim_due`] may claim it.
pub fn is_due(stored: &Connection, now: Timestamp, recover_before: Option<Timestamp>) -> bool {
    stored.due_at().is_some_and(|due_at| due_at <= now)
        || recover_before.is_some_and(|before| is_recoverable(stored, before))
}

/// When the access token ends, as claims are ordered by it: one whose end nobody knows comes last.
pub fn deadline(connection: &Connection) -> Timestamp {
    connection.times.expires_at.unwrap_or(Timestamp::NEVER)
}

/// The order in which claimed connections are handed out.
pub fn by_deadline(left: &Connection, right: &Connection) -> Ordering {
    (deadline(left), left.id).cmp(&(deadline(right), right.id))
}

/// The connection after `commit`; `None` when a newer grant or a newer result stands.
pub fn committed(stored: &Connection, commit: &Commit, tokens: Brought) -> Option<Connection> {
    let applies = match tokens {
        Brought::Tokens => supersedes(stored, commit),
        Brought::Nothing => claim_stands(stored, commit),
    };
    if !applies {
        return None;
    }
    let next = &commit.next;
    let (generation, committed) = match tokens {
        Brought::Tokens => (next.generation, commit.attempt),
        Brought::Nothing => (stored.generation, stored.committed),
    };
    Some(Connection {
        id: stored.id,
        key: stored.key.clone(),
        provider: stored.provider.clone(),
        labels: stored.labels.clone(),
        paused: stored.paused,
        hold: hold_after(stored.hold.as_ref(), &commit.hold),
        attempt: stored.attempt.max(commit.attempt),
        generation,
        committed,
        times: TokenTimes {
            refresh_end: as_told(next.times.refresh_end, stored.times.refresh_end),
            consent_end: as_told(next.times.consent_end, stored.times.consent_end),
            ..next.times
        },
        ..next.clone()
    })
}

/// What was told of the same end while the attempt was in flight stays told.
fn as_told(next: Option<Deadline>, stored: Option<Deadline>) -> Option<Deadline> {
    let told_until = stored.filter(|stored| next.is_some_and(|next| next.at == stored.at)).map(|end| end.told_until);
    next.map(|end| told_until.map_or(end, |until| end.told(until)))
}

/// Whether a commit brings a token set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Brought {
    /// A new token set.
    Tokens,
    /// None: the attempt failed.
    Nothing,
}

impl Brought {
    /// Which of the two.
    pub fn of<T>(tokens: Option<&T>) -> Self {
        if tokens.is_some() { Self::Tokens } else { Self::Nothing }
    }
}

fn supersedes(stored: &Connection, commit: &Commit) -> bool {
    stored.grant == commit.next.grant
        && (stored.generation, stored.committed) < (commit.next.generation, commit.attempt)
}

fn claim_stands(stored: &Connection, commit: &Commit) -> bool {
    let State::Claimed { claim, .. } = &stored.state else { return false };
    stored.grant == commit.next.grant && claim.attempt == commit.attempt
}

/// A hold that only a human may clear outlives every commit.
fn hold_after(stored: Option<&Hold>, change: &HoldChange) -> Option<Hold> {
    if stored.is_some_and(|hold| hold.probe_at.is_none()) {
        return stored.cloned();
    }
    match change {
        HoldChange::Keep => stored.cloned(),
        HoldChange::Clear => None,
        HoldChange::Set(hold) => Some(hold.clone()),
    }
}

/// `stored` as people see it while `held` holds its provider: held too, and due no earlier than the provider's probe.
pub fn shown(stored: Connection, held: Option<&Hold>) -> Connection {
    let Some(held) = held else { return stored };
    let hold = match (&stored.hold, held.probe_at) {
        (Some(own), Some(at)) => Hold { probe_at: own.probe_at.map(|own| own.max(at)), ..own.clone() },
        (Some(own), None) if own.probe_at.is_none() => own.clone(),
        (_, None) => held.clone(),
        (None, Some(at)) => Hold { probe_at: Some(own_due(&stored).max(at)), ..held.clone() },
    };
    Connection { hold: Some(hold), ..stored }
}

fn own_due(stored: &Connection) -> Timestamp {
    if let State::Ready { due_at, .. } = stored.state { due_at } else { Timestamp::EPOCH }
}

/// The connection after its provider's configuration changed, and the event; `None` where that releases nothing.
pub fn released(now: Timestamp, stored: &Connection) -> Option<(Connection, NewEvent)> {
    stored.hold.as_ref()?.probe_at?;
    let why = "Its provider's configuration has changed: refreshes go on.";
    Some((Connection { hold: None, ..stored.clone() }, event(EventKind::Resumed, now, &stored.key, why)))
}

/// The connection after `flag`, and the event if that changed anything that people care about.
pub fn flagged(now: Timestamp, stored: &Connection, flag: &Flag) -> (Connection, Option<NewEvent>) {
    let mut next = stored.clone();
    let event = match flag {
        Flag::Pause => {
            next.paused = true;
            (!stored.paused).then(|| event(EventKind::Paused, now, &stored.key, "Refreshes are paused."))
        }
        Flag::Resume => {
            resume(now, &mut next);
            (next != *stored).then(|| event(EventKind::Resumed, now, &stored.key, "Refreshes go on."))
        }
        Flag::Hold(hold) => {
            next.hold = Some(hold.clone());
            let same_cause = stored.hold.as_ref().is_some_and(|before| before.cause == hold.cause);
            (!same_cause).then(|| NewEvent {
                code: Some(hold.cause),
                ..event(EventKind::Held, now, &stored.key, hold.cause.sentence())
            })
        }
        Flag::Labels(labels) => {
            next.labels.clone_from(labels);
            None
        }
    };
    (next, event)
}

fn resume(now: Timestamp, next: &mut Connection) {
    next.paused = false;
    let hold = next.hold.take();
    let restored = hold.is_some_and(|hold| hold.cause == FailureCode::RestoredCopy);
    if restored && next.renewal == Renewal::RefreshToken && matches!(next.state, State::Ready { .. }) {
        let first_sent_at = match next.waiting() {
            Some(Waiting::InDoubt(doubt)) => doubt.first_sent_at,
            _ => now,
        };
        let doubt = Doubt { first_sent_at, failures: next.failures(), next: DoubtStep::Probe };
        next.state = State::Ready { due_at: now, waiting: Waiting::InDoubt(doubt) };
    }
}

/// `connection.connected`.
pub fn connected_event(now: Timestamp, connection: &Connection) -> NewEvent {
    let message = format!("Connected to {}.", connection.provider);
    let data = format!(r#"{{"grant":{},"generation":{}}}"#, connection.grant.0, connection.generation.0);
    NewEvent { data, ..event(EventKind::Connected, now, &connection.key, &message) }
}

/// `connection.removed`.
pub fn removed_event(now: Timestamp, key: &ConnectionKey) -> NewEvent {
    event(EventKind::Removed, now, key, "Removed, and its tokens wiped.")
}

fn event(kind: EventKind, now: Timestamp, key: &ConnectionKey, message: &str) -> NewEvent {
    NewEvent::new(kind, now, Some(key), message)
}

/// `stored` made due at `now`, when its token set claims to have been issued after that and its planned
/// refresh or its retry lies ahead. What an answer in doubt waits for is never brought forward.
pub fn due_if_issued_after(now: Timestamp, stored: &Connection) -> Option<Connection> {
    let State::Ready { due_at, waiting: waiting @ (Waiting::Schedule | Waiting::Retry { .. }) } = &stored.state else {
        return None;
    };
    let concerned = stored.renewal != Renewal::Impossible && stored.times.issued_at > now && *due_at > now;
    concerned.then(|| Connection { state: State::Ready { due_at: now, waiting: waiting.clone() }, ..stored.clone() })
}
