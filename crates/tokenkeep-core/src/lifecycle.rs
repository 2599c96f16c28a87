//! What a connection becomes: state and outcome in, next state and events out (protocol 2 and 3).

use crate::classify::{Setback, SetbackKind};
use crate::deadline::Deadline;
use crate::event::{EventKind, NewEvent};
use crate::failure::{Failure, FailureCode};
use crate::model::{Connection, Doubt, DoubtStep, Generation, Hold, LastError, Renewal, State, TokenTimes, Waiting};
use crate::oauth::TokenAnswer;
use crate::provider::{Rotation, Rules};
use crate::schedule::{self, Bounds, HOLD_PROBE_EVERY, LIFETIME_ASSUMED, Policy, RECHECK_AFTER, Window};
use crate::time::Timestamp;
use std::time::Duration;

/// What every decision needs besides the connection and what happened.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// How eager refreshing is.
    pub policy: &'a Policy,
    /// The provider's rules.
    pub rules: &'a Rules,
    /// Now.
    pub now: Timestamp,
    /// A random draw in [0, 1).
    pub draw: f64,
    /// Not before this may the retry budget of the endpoint and client pay for another try. A resend
    /// inside a grace window and a probe are outside the budget.
    pub retry_not_before: Timestamp,
}

/// What an attempt made of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The connection as it becomes.
    pub next: Connection,
    /// What becomes of its hold.
    pub hold: HoldChange,
    /// What to tell.
    pub events: Vec<NewEvent>,
}

/// What a commit does with the stored hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HoldChange {
    /// It stays as it is.
    Keep,
    /// The attempt proved that the cause is gone. A hold without `probe_at` stays all the same.
    Clear,
    /// The attempt found a cause. A hold without `probe_at` stays all the same.
    Set(Hold),
}

/// The life that is assumed for a connection's access token.
#[must_use]
pub fn life_of(connection: &Connection) -> Duration {
    connection.times.lifetime.unwrap_or(LIFETIME_ASSUMED)
}

/// A new token set came, asked for at `sent_at`.
#[must_use]
pub fn refreshed(connection: &Connection, sent_at: Timestamp, answer: &TokenAnswer, context: Context<'_>) -> Step {
    let mut next = connection.clone();
    next.generation = Generation(connection.generation.0 + 1);
    next.committed = connection.attempt;
    let (times, window) = times_of(connection, counted_from(connection, sent_at), answer, context);
    next.times = times;
    next.state = State::Ready { due_at: next.times.planned_at, waiting: Waiting::Schedule };
    next.last_success = context.now;
    next.refreshed = true;
    next.last_error = None;
    next.stats.attempted += 1;
    next.stats.succeeded += 1;
    if let Some(scopes) = &answer.scopes {
        next.scopes.clone_from(scopes);
    }
    let mut refreshed = event(EventKind::Refreshed, connection, context, "A new access token is in hand.");
    refreshed.data = format!(
        r#"{{"generation":{},"attempt":{},"life_seconds":{},"life_learned":{},"window_seconds":[{},{}],"refresh_token_rotated":{}}}"#,
        next.generation.0,
        connection.attempt.0,
        life_of(&next).as_secs(),
        next.times.lifetime_learned,
        next.times.issued_at.until(window.early).as_secs(),
        next.times.issued_at.until(window.late).as_secs(),
        answer.refresh_token.is_some(),
    );
    let mut events = vec![refreshed];
    if had_trouble(connection, context.policy) {
        events.push(event(EventKind::Recovered, connection, context, "It is renewed again."));
    }
    Step { next, hold: HoldChange::Clear, events }
}

/// Trouble that was told, and whose end is therefore told too.
fn had_trouble(connection: &Connection, policy: &Policy) -> bool {
    connection.hold.is_some()
        || connection.failures() >= policy.max_retries.max(1)
        || matches!(connection.waiting(), None | Some(Waiting::InDoubt(_) | Waiting::Recheck))
}

/// From when the life of a token set counts. What answers a resend may be the token set whose answer was lost, with
/// the whole life that it had then: django-oauth-toolkit does that within its grace.
fn counted_from(connection: &Connection, sent_at: Timestamp) -> Timestamp {
    match connection.waiting() {
        Some(Waiting::InDoubt(doubt)) if doubt.next == DoubtStep::Resend => doubt.first_sent_at.min(sent_at),
        _ => sent_at,
    }
}

fn times_of(
    connection: &Connection,
    sent_at: Timestamp,
    answer: &TokenAnswer,
    context: Context<'_>,
) -> (TokenTimes, Window) {
    let known = answer.expires_in;
    let life = known.or(context.rules.access_life).or(connection.times.lifetime).unwrap_or(LIFETIME_ASSUMED);
    let (refresh_end, idle_life) = refresh_end(&connection.times, sent_at, answer, context.rules);
    let bounds = Bounds { refresh_in: answer.refresh_in, idle_life };
    let window = schedule::window(sent_at, life, context.policy.refresh_threshold, bounds);
    let times = TokenTimes {
        issued_at: sent_at,
        expires_at: Some(sent_at + life),
        lifetime: Some(life),
        lifetime_learned: known.is_none(),
        planned_at: schedule::planned(window, life, context.now, context.draw),
        refresh_end,
        consent_end: connection.times.consent_end,
    };
    (times, window)
}

/// When the refresh token ends after `answer`, and the life that each refresh gives it anew. An end that the provider
/// states again without putting it off stands: only a human does, so it hurries no refresh.
fn refresh_end(
    before: &TokenTimes,
    sent_at: Timestamp,
    answer: &TokenAnswer,
    rules: &Rules,
) -> (Option<Deadline>, Option<Duration>) {
    let Some(life) = shorter(rules.idle_life, answer.refresh_expires_in) else { return (before.refresh_end, None) };
    let at = sent_at + life;
    let put_off_to = |end: Deadline| at > end.at + before.issued_at.until(sent_at) / 2;
    match before.refresh_end {
        Some(end) if !put_off_to(end) => (Some(Deadline { at, ..end }), rules.idle_life),
        _ => (Some(Deadline::set(sent_at, at)), Some(life)),
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// When people are next to be told of an end of this connection.
#[must_use]
pub fn next_warning(connection: &Connection) -> Option<Timestamp> {
    if matches!(connection.state, State::NeedsReauth { .. }) {
        return None;
    }
    let ends = [connection.times.refresh_end, connection.times.consent_end];
    ends.into_iter().flatten().filter_map(|end| end.next_mark()).min()
}

/// The connection after all that is to be told of its ends until `now` has been told, and the event that tells it.
#[must_use]
pub fn warned(connection: &Connection, now: Timestamp) -> (Connection, Option<NewEvent>) {
    let mut next = connection.clone();
    if next_warning(connection).is_none() {
        return (next, None);
    }
    let mut nearest: Option<(Deadline, FailureCode)> = None;
    for (end, code) in [
        (&mut next.times.consent_end, FailureCode::ConsentEnding),
        (&mut next.times.refresh_end, FailureCode::RefreshTokenEnding),
    ] {
        let Some(end) = end.as_mut().filter(|end| end.next_mark().is_some_and(|mark| mark <= now)) else { continue };
        *end = end.told(now);
        if end.at > now && nearest.is_none_or(|(other, _)| end.at < other.at) {
            nearest = Some((*end, code));
        }
    }
    let event = nearest.map(|(end, code)| {
        let days = end.days_left(now);
        let in_days = if days == 1 { "in 1 day".to_owned() } else { format!("in {days} days") };
        let message = code.sentence().replacen("soon", &in_days, 1);
        let data = format!(r#"{{"days_left":{days}}}"#);
        NewEvent { code: Some(code), data, ..NewEvent::new(EventKind::Expiring, now, Some(&connection.key), message) }
    });
    (next, event)
}

/// An attempt brought no token set. `sent_at` is when its request was (or may have been) sent.
#[must_use]
pub fn failed(connection: &Connection, sent_at: Timestamp, setback: &Setback, context: Context<'_>) -> Step {
    let mut step = match setback.kind {
        SetbackKind::Transient { alarm } => transient(connection, alarm, &setback.failure, context),
        SetbackKind::Throttled { wait } => throttled(connection, wait, &setback.failure, context),
        SetbackKind::InDoubt { retry_after } => in_doubt(connection, sent_at, retry_after, &setback.failure, context),
        SetbackKind::Rejected => rejected(connection, &setback.failure, context),
        SetbackKind::Misconfigured { .. } => misconfigured(connection, &setback.failure, context),
    };
    step.next.stats.attempted += 1;
    step.next.stats.failed += 1;
    if !matches!(step.next.state, State::NeedsReauth { .. }) {
        step.next.last_error = Some(LastError { failure: setback.failure.clone(), at: context.now });
    }
    step
}

/// The next step of an attempt that was claimed and provably never sent, because its worker is gone.
#[must_use]
pub fn interrupted(connection: &Connection, context: Context<'_>) -> Step {
    let waiting = connection.waiting().cloned().unwrap_or(Waiting::Schedule);
    still_waiting(connection, context.now, waiting)
}

/// The turn of a connection that nothing can renew: told once ahead, and again at its end.
#[must_use]
pub fn not_renewable(connection: &Connection, context: Context<'_>) -> Step {
    let failure = Failure::new(FailureCode::NoRefreshToken, "");
    let told = connection.waiting() == Some(&Waiting::End);
    match connection.times.expires_at.filter(|&end| end > context.now) {
        Some(end) if told => still_waiting(connection, end, Waiting::End),
        Some(end) => {
            let ahead = event(EventKind::Expiring, connection, context, failure.code.sentence()).with_failure(&failure);
            Step { events: vec![ahead], ..still_waiting(connection, end, Waiting::End) }
        }
        None => needs_reauth(connection, failure, context),
    }
}

fn still_waiting(connection: &Connection, due_at: Timestamp, waiting: Waiting) -> Step {
    let mut next = connection.clone();
    next.state = State::Ready { due_at, waiting };
    Step { next, hold: HoldChange::Keep, events: Vec::new() }
}

fn pause(connection: &Connection, context: Context<'_>) -> Duration {
    schedule::retry_pause(context.policy, life_of(connection), connection.failures() + 1, context.draw)
}

fn transient(connection: &Connection, alarm: bool, failure: &Failure, context: Context<'_>) -> Step {
    if let Some(Waiting::InDoubt(doubt)) = connection.waiting() {
        return doubt_again(connection, doubt, context.now + pause(connection, context), context);
    }
    let pause = if alarm {
        schedule::retry_cap(life_of(connection)).min(context.policy.check_interval)
    } else {
        pause(connection, context)
    };
    let mut step = retry_at(connection, (context.now + pause).max(context.retry_not_before), failure, context);
    if alarm && connection.failures() == 0 {
        step.events
            .push(event(EventKind::ProviderDegraded, connection, context, &failure.message()).with_failure(failure));
    }
    step
}

fn throttled(connection: &Connection, wait: Duration, failure: &Failure, context: Context<'_>) -> Step {
    // The whole endpoint waits; spreading the return over a tenth of that keeps the herd apart.
    let due_at = context.now + wait + wait.mul_f64(context.draw / 10.0);
    match connection.waiting() {
        Some(Waiting::InDoubt(doubt)) => doubt_again(connection, doubt, due_at, context),
        _ => retry_at(connection, due_at, failure, context),
    }
}

/// A re-check stays a re-check until the provider has answered it.
fn retry_at(connection: &Connection, due_at: Timestamp, failure: &Failure, context: Context<'_>) -> Step {
    let failures = connection.failures() + 1;
    let waiting = match connection.waiting() {
        Some(Waiting::Recheck) => Waiting::Recheck,
        _ => Waiting::Retry { failures },
    };
    let mut step = still_waiting(connection, due_at, waiting);
    if failures == context.policy.max_retries.max(1) {
        step.events
            .push(event(EventKind::RefreshFailed, connection, context, &failure.message()).with_failure(failure));
    }
    step
}

fn in_doubt(
    connection: &Connection,
    sent_at: Timestamp,
    retry_after: Option<Duration>,
    failure: &Failure,
    context: Context<'_>,
) -> Step {
    let wished = context.now + retry_after.unwrap_or_default();
    if let Some(Waiting::InDoubt(doubt)) = connection.waiting() {
        return doubt_again(connection, doubt, (context.now + pause(connection, context)).max(wished), context);
    }
    let doubt = Doubt { first_sent_at: sent_at, failures: connection.failures(), next: DoubtStep::Resend };
    let due_at = (context.now + pause(connection, context)).max(wished);
    let mut step = doubt_again(connection, &doubt, due_at, context);
    let State::Ready { due_at, waiting: Waiting::InDoubt(doubt) } = &mut step.next.state else { return step };
    if doubt.next == DoubtStep::Probe {
        *due_at = schedule::probe_at(sent_at, life_of(connection), connection.times.expires_at).max(wished);
    }
    step.events.push(event(EventKind::InDoubt, connection, context, &failure.message()).with_failure(failure));
    step
}

/// What follows a lost answer: the provider's rotation class decides (protocol 2).
///
/// The first doubt of a strict provider is put off until its probe by [`in_doubt`]; every further one
/// follows at `at`, the retry pace.
fn doubt_again(connection: &Connection, doubt: &Doubt, at: Timestamp, context: Context<'_>) -> Step {
    let (next, due_at) = match context.rules.rotation {
        Rotation::Persistent | Rotation::UntilUsed => (DoubtStep::Resend, at),
        Rotation::Grace(grace) if doubt.next == DoubtStep::Resend => {
            let soon = at.min(context.now + grace / 20);
            if soon <= schedule::grace_end(doubt.first_sent_at, grace) {
                (DoubtStep::Resend, soon)
            } else {
                let probe = schedule::probe_at(context.now, life_of(connection), connection.times.expires_at);
                (DoubtStep::Probe, probe)
            }
        }
        Rotation::Grace(_) | Rotation::Strict | Rotation::Unknown => (DoubtStep::Probe, at),
    };
    let doubt = Doubt { first_sent_at: doubt.first_sent_at, failures: doubt.failures + 1, next };
    still_waiting(connection, due_at, Waiting::InDoubt(doubt))
}

/// The confirm rules (protocol 3): after a doubt the answer was lost; a provider that is not strict is asked
/// exactly once more; a strict one is believed.
fn rejected(connection: &Connection, failure: &Failure, context: Context<'_>) -> Step {
    let code = match connection.waiting() {
        Some(Waiting::InDoubt(_)) => FailureCode::LostInFlight,
        Some(Waiting::Recheck) => failure.code,
        _ if context.rules.rotation.is_strict() => failure.code,
        _ => return still_waiting(connection, context.now + RECHECK_AFTER, Waiting::Recheck),
    };
    needs_reauth(connection, Failure { code, detail: failure.detail.clone() }, context)
}

/// Ends a connection's grant for `failure`'s code; a human must sign in.
#[must_use]
pub fn needs_reauth(connection: &Connection, failure: Failure, context: Context<'_>) -> Step {
    let mut next = connection.clone();
    next.state = State::NeedsReauth { cause: failure.code, at: context.now };
    let told = event(EventKind::NeedsReauth, connection, context, &failure.message()).with_failure(&failure);
    next.last_error = Some(LastError { failure, at: context.now });
    Step { next, hold: HoldChange::Clear, events: vec![told] }
}

fn misconfigured(connection: &Connection, failure: &Failure, context: Context<'_>) -> Step {
    let waiting = connection.waiting().cloned().unwrap_or(Waiting::Schedule);
    let mut step = still_waiting(connection, context.now, waiting);
    if connection.hold.is_none() {
        step.events.push(event(EventKind::Held, connection, context, &failure.message()).with_failure(failure));
    }
    step.hold = HoldChange::Set(Hold { cause: failure.code, probe_at: Some(context.now + HOLD_PROBE_EVERY) });
    step
}

fn event(kind: EventKind, connection: &Connection, context: Context<'_>, message: &str) -> NewEvent {
    NewEvent::new(kind, context.now, Some(&connection.key), message)
}

/// What a token set that was brought (imported, or from a sign-in) says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Brought {
    /// When the access token ends.
    pub expires_at: Option<Timestamp>,
    /// How long it lives.
    pub expires_in: Option<Duration>,
    /// Whether there is a refresh token.
    pub has_refresh_token: bool,
    /// How long that lives.
    pub refresh_expires_in: Option<Duration>,
    /// When a human gave the consent, where that is known.
    pub consented_at: Option<Timestamp>,
    /// Many come at once: their first refreshes are spread over the whole time they have.
    pub in_bulk: bool,
}

/// The times of a token set that was brought, and when it is first due (protocol 1).
///
/// A life without an end is of unknown age: due now, and served meanwhile. A token set that nothing can
/// renew is due at the end of its window, to be told of ahead; one of unknown end is never due.
#[must_use]
pub fn brought(brought: Brought, context: Context<'_>) -> (TokenTimes, Timestamp) {
    let now = context.now;
    let said = brought.expires_in.or(context.rules.access_life);
    let remaining = brought.expires_at.map(|end| now.until(end));
    let life =
        said.into_iter().chain(remaining).max().map(|life| life.clamp(schedule::LIFETIME_MIN, schedule::LIFETIME_MAX));
    let refresh_life = shorter(context.rules.idle_life, brought.refresh_expires_in);
    let bounds = Bounds { refresh_in: None, idle_life: refresh_life };
    let issued_at = match (brought.expires_at, life) {
        (Some(end), Some(life)) => (end - life).min(now),
        _ => now,
    };
    let window =
        schedule::window(issued_at, life.unwrap_or(LIFETIME_ASSUMED), context.policy.refresh_threshold, bounds);
    let due_at = match brought.expires_at {
        None if brought.has_refresh_token => now,
        None => Timestamp::NEVER,
        Some(_) if !brought.has_refresh_token => window.late.max(now),
        Some(_) if brought.in_bulk => schedule::planned_in_bulk(window, now, context.draw),
        Some(_) => schedule::planned_in_bulk(
            schedule::Window { early: window.early, late: window.late },
            window.early.max(now),
            context.draw,
        ),
    };
    let times = TokenTimes {
        issued_at,
        expires_at: brought.expires_at,
        lifetime: life,
        lifetime_learned: brought.expires_in.is_none(),
        planned_at: due_at,
        refresh_end: refresh_life
            .filter(|_| brought.has_refresh_token)
            .map(|life| Deadline::set(issued_at, issued_at + life)),
        consent_end: brought
            .consented_at
            .zip(context.rules.absolute_life)
            .map(|(at, life)| Deadline::set(at, at + life)),
    };
    (times, due_at)
}

/// How a brought token set is renewed.
#[must_use]
pub const fn renewal_of(has_refresh_token: bool) -> Renewal {
    if has_refresh_token { Renewal::RefreshToken } else { Renewal::Impossible }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttemptNumber, Claim, ConnectionId, ConnectionKey, GrantNumber, Holder, Origin, Stats, Status};
    use crate::secret::Secret;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const T0: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn rules(rotation: &str) -> Rules {
        Rules { rotation: Rotation::parse(rotation).unwrap(), ..Rules::default() }
    }

    fn claimed(waiting: Waiting) -> Connection {
        let holder = Holder { boot: 1, process: 1, worker: 0, incarnation: 0 };
        Connection {
            id: ConnectionId(1),
            key: ConnectionKey::in_default("jira").unwrap(),
            provider: "p".into(),
            labels: BTreeMap::new(),
            scopes: vec![],
            renewal: Renewal::RefreshToken,
            grant: GrantNumber(1),
            generation: Generation(4),
            attempt: AttemptNumber(9),
            committed: AttemptNumber(5),
            origin: Origin::default(),
            times: TokenTimes {
                issued_at: T0,
                expires_at: Some(T0 + secs(3600)),
                lifetime: Some(secs(3600)),
                lifetime_learned: false,
                planned_at: T0 + secs(2500),
                refresh_end: None,
                consent_end: None,
            },
            state: State::Claimed {
                claim: Claim { attempt: AttemptNumber(9), holder, claimed_at: T0 + secs(2500) },
                waiting,
            },
            paused: false,
            hold: None,
            last_success: T0,
            refreshed: true,
            last_error: None,
            stats: Stats::default(),
        }
    }

    fn setback(kind: SetbackKind) -> Setback {
        let code = if kind == SetbackKind::Rejected { FailureCode::ForeignRotation } else { FailureCode::Timeout };
        Setback { kind, failure: Failure::new(code, "") }
    }

    fn fail_at(connection: &Connection, rotation: &str, kind: SetbackKind, now: Timestamp) -> Step {
        let (policy, rules) = (Policy::default(), rules(rotation));
        let context = Context { policy: &policy, rules: &rules, now, draw: 0.5, retry_not_before: Timestamp::EPOCH };
        failed(connection, now, &setback(kind), context)
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000 + 2_500_000);
    const LOST: SetbackKind = SetbackKind::InDoubt { retry_after: None };

    fn ready(step: &Step) -> (Duration, Waiting) {
        match &step.next.state {
            State::Ready { due_at, waiting } => (NOW.until(*due_at), waiting.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn doubt(next: DoubtStep) -> Waiting {
        Waiting::InDoubt(Doubt { first_sent_at: NOW, failures: 1, next })
    }

    fn kinds(step: &Step) -> Vec<EventKind> {
        step.events.iter().map(|event| event.kind).collect()
    }

    fn token(expires_in: Option<u64>) -> TokenAnswer {
        TokenAnswer {
            access_token: Secret::new("a"),
            refresh_token: Some(Secret::new("r")),
            token_type: "Bearer".into(),
            expires_in: expires_in.map(secs),
            refresh_expires_in: None,
            refresh_in: None,
            scopes: None,
            extra: Secret::new("{}"),
        }
    }

    #[test]
    fn a_new_token_set_moves_the_generation_and_clears_the_trouble() {
        let (policy, rules) = (Policy::default(), rules("strict"));
        let context = Context { policy: &policy, rules: &rules, now: NOW, draw: 0.5, retry_not_before: T0 };
        let step = refreshed(&claimed(doubt(DoubtStep::Probe)), NOW, &token(Some(3600)), context);
        assert_eq!((step.next.generation.0, step.next.committed.0), (5, 9));
        assert_eq!(kinds(&step), [EventKind::Refreshed, EventKind::Recovered]);
        assert_eq!(step.next.status(NOW), Status::Fresh);
        let unknown_life = refreshed(&claimed(Waiting::Schedule), NOW, &token(None), context).next.times;
        assert_eq!((unknown_life.lifetime, unknown_life.lifetime_learned), (Some(secs(3600)), true));
    }

    #[test]
    fn a_resend_may_bring_the_token_set_that_was_lost_and_its_life_counts_from_then() {
        let (policy, rules) = (Policy::default(), rules("grace:600"));
        let later = NOW + secs(90);
        let context = Context { policy: &policy, rules: &rules, now: later, draw: 0.5, retry_not_before: T0 };
        let ends = |waiting| refreshed(&claimed(waiting), later, &token(Some(3600)), context).next.times.expires_at;
        assert_eq!(ends(doubt(DoubtStep::Resend)), Some(NOW + secs(3600)));
        // A provider that takes a probe had not rotated: what it brings is new.
        assert_eq!(ends(doubt(DoubtStep::Probe)), Some(later + secs(3600)));
        assert_eq!(ends(Waiting::Schedule), Some(later + secs(3600)));
    }

    #[test]
    fn a_lost_answer_is_never_blindly_repeated() {
        // Strict and unknown: one probe, late.
        for rotation in ["strict", "unknown"] {
            let step = fail_at(&claimed(Waiting::Schedule), rotation, LOST, NOW);
            assert_eq!(ready(&step), (secs(1100 - 120), doubt(DoubtStep::Probe)));
            assert_eq!(kinds(&step), [EventKind::InDoubt]);
        }
        // Within the grace: the same token again, soon.
        let (after, waiting) = ready(&fail_at(&claimed(Waiting::Schedule), "grace:600", LOST, NOW));
        assert_eq!((after, waiting), (Duration::from_millis(1500), doubt(DoubtStep::Resend)));
        let (_, waiting) = ready(&fail_at(&claimed(Waiting::Schedule), "until-used", LOST, NOW));
        assert_eq!(waiting, doubt(DoubtStep::Resend));
    }

    #[test]
    fn after_its_grace_a_provider_is_treated_as_strict() {
        let connection = claimed(doubt(DoubtStep::Resend));
        let (after, waiting) = ready(&fail_at(&connection, "grace:600", LOST, NOW + secs(596)));
        assert!(matches!(waiting, Waiting::InDoubt(Doubt { next: DoubtStep::Probe, .. })), "{waiting:?}");
        assert!(after >= secs(596 + 60));
        let (_, waiting) = ready(&fail_at(&connection, "grace:600", LOST, NOW + secs(500)));
        assert!(matches!(waiting, Waiting::InDoubt(Doubt { next: DoubtStep::Resend, .. })), "{waiting:?}");
    }

    #[test]
    fn a_probe_in_doubt_is_followed_by_another_at_the_retry_pace() {
        let step = fail_at(&claimed(doubt(DoubtStep::Probe)), "strict", LOST, NOW);
        let (after, waiting) = ready(&step);
        assert!(after <= secs(300) && after >= secs(1), "{after:?}");
        assert!(matches!(waiting, Waiting::InDoubt(Doubt { next: DoubtStep::Probe, failures: 2, .. })));
        assert!(kinds(&step).is_empty(), "told once");
    }

    #[test]
    fn the_confirm_rules() {
        let cause = |step: Step| match step.next.state {
            State::NeedsReauth { cause, .. } => Some(cause),
            _ => None,
        };
        let reject = |waiting, rotation| fail_at(&claimed(waiting), rotation, SetbackKind::Rejected, NOW);
        // The cause is the one that the provider names, unless an answer of ours was in doubt.
        assert_eq!(cause(reject(Waiting::Schedule, "strict")), Some(FailureCode::ForeignRotation));
        assert_eq!(ready(&reject(Waiting::Schedule, "persistent")), (secs(60), Waiting::Recheck));
        assert_eq!(cause(reject(Waiting::Recheck, "persistent")), Some(FailureCode::ForeignRotation));
        for rotation in ["strict", "grace:600", "until-used"] {
            assert_eq!(cause(reject(doubt(DoubtStep::Resend), rotation)), Some(FailureCode::LostInFlight));
        }
        let step = fail_at(&claimed(Waiting::Recheck), "persistent", SetbackKind::Transient { alarm: false }, NOW);
        assert_eq!(ready(&step).1, Waiting::Recheck);
    }

    #[test]
    fn transient_faults_are_never_given_up_and_told_once() {
        let mut connection = claimed(Waiting::Schedule);
        let mut told = 0;
        for failures in 1..50 {
            let step = fail_at(&connection, "strict", SetbackKind::Transient { alarm: false }, NOW);
            let (after, waiting) = ready(&step);
            assert_eq!(waiting, Waiting::Retry { failures });
            assert!(after <= secs(300));
            told += kinds(&step).len();
            connection = claimed(waiting);
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn our_own_faults_hold_and_keep_what_was_being_waited_for() {
        let kind = SetbackKind::Misconfigured { reach: crate::classify::Reach::Connection };
        let step = fail_at(&claimed(doubt(DoubtStep::Probe)), "strict", kind, NOW);
        assert_eq!(ready(&step).1, doubt(DoubtStep::Probe));
        assert_eq!(step.hold, HoldChange::Set(Hold { cause: FailureCode::Timeout, probe_at: Some(NOW + secs(900)) }));
    }

    #[test]
    fn what_nothing_can_renew_is_told_ahead_and_at_its_end() {
        let (policy, rules) = (Policy::default(), rules("strict"));
        let at = |now| Context { policy: &policy, rules: &rules, now, draw: 0.5, retry_not_before: T0 };
        let mut connection = claimed(Waiting::Schedule);
        connection.renewal = Renewal::Impossible;
        let ahead = not_renewable(&connection, at(NOW));
        assert_eq!((kinds(&ahead), ready(&ahead)), (vec![EventKind::Expiring], (secs(1100), Waiting::End)));
        let end = not_renewable(&claimed(Waiting::End), at(T0 + secs(3600)));
        assert_eq!(end.next.status(NOW), Status::NeedsReauth);
    }

    const DAY: u64 = 86_400;

    /// What becomes of the end of the refresh token when answers state these lives, one a day.
    fn ends_after(idle_life_days: Option<u64>, stated_days: &[u64]) -> TokenTimes {
        let rules = Rules { idle_life: idle_life_days.map(|days| secs(days * DAY)), ..rules("persistent") };
        let policy = Policy::default();
        let mut connection = claimed(Waiting::Schedule);
        for (day, &stated) in (1..).zip(stated_days) {
            let now = T0 + secs(day * DAY);
            let answer = TokenAnswer { refresh_expires_in: Some(secs(stated * DAY)), ..token(Some(60 * DAY)) };
            let context = Context { policy: &policy, rules: &rules, now, draw: 0.5, retry_not_before: T0 };
            connection = refreshed(&connection, now, &answer, context).next;
        }
        connection.times
    }

    #[test]
    fn a_life_that_each_refresh_gives_anew_hurries_the_next_and_is_not_told_of() {
        let times = ends_after(None, &[10, 10, 10]);
        assert_eq!(times.refresh_end, Some(Deadline::set(T0 + secs(3 * DAY), T0 + secs(13 * DAY))));
        assert!(times.planned_at <= T0 + secs(8 * DAY), "half of it is the latest");
    }

    #[test]
    fn an_end_that_no_refresh_puts_off_hurries_none_and_is_told_of() {
        let times = ends_after(None, &[40, 39, 38]);
        let end = Deadline { at: T0 + secs(41 * DAY), told_until: T0 + secs(DAY) + secs(20 * DAY) };
        assert_eq!(times.refresh_end, Some(end));
        assert!(times.planned_at > T0 + secs(40 * DAY), "a token of 60 days is renewed by its own end");
        let idle = ends_after(Some(30), &[40, 39, 38]);
        assert!(idle.planned_at <= T0 + secs(18 * DAY), "what dies of disuse is used in time all the same");
    }

    #[test]
    fn the_end_of_a_consent_is_counted_from_the_sign_in_and_stands() {
        let rules =
            Rules { absolute_life: Some(secs(365 * DAY)), idle_life: Some(secs(90 * DAY)), ..rules("grace:600") };
        let (policy, end) = (Policy::default(), Deadline::set(T0, T0 + secs(365 * DAY)));
        let context = |now| Context { policy: &policy, rules: &rules, now, draw: 0.5, retry_not_before: T0 };
        let signed_in = Brought {
            expires_at: Some(T0 + secs(3600)),
            has_refresh_token: true,
            consented_at: Some(T0),
            ..Brought::default()
        };
        let times = brought(signed_in, context(T0)).0;
        assert_eq!(times.consent_end, Some(end));
        assert_eq!(times.refresh_end, Some(Deadline::set(T0, T0 + secs(90 * DAY))));
        assert_eq!(brought(Brought { consented_at: None, ..signed_in }, context(T0)).0.consent_end, None);
        let mut connection = claimed(Waiting::Schedule);
        connection.times = times;
        let next = refreshed(&connection, NOW, &token(Some(3600)), context(NOW)).next;
        assert_eq!(next.times.consent_end, Some(end), "a refresh does not move it");
    }

    #[test]
    fn people_are_told_of_the_nearest_end_in_days() {
        let mut connection = claimed(Waiting::Schedule);
        connection.times.consent_end = Some(Deadline { at: NOW + secs(14 * DAY), told_until: T0 });
        connection.times.refresh_end = Some(Deadline { at: NOW + secs(DAY - 1), told_until: T0 });
        let (next, told) = warned(&connection, NOW);
        let told = told.unwrap();
        assert_eq!((told.code, told.data.as_str()), (Some(FailureCode::RefreshTokenEnding), r#"{"days_left":1}"#));
        assert_eq!(told.message, "The refresh token ends in 1 day, and no refresh has put that off.");
        assert_eq!(warned(&next, NOW), (next.clone(), None));
        assert_eq!(next_warning(&next), Some(NOW + secs(7 * DAY)));
        assert_eq!(next.sign_in_by(NOW), Some(NOW + secs(DAY - 1)));
        let (_, after_the_end) = warned(&connection, NOW + secs(15 * DAY));
        assert_eq!(after_the_end, None, "what has ended is not about to end");
    }

    #[test]
    fn what_is_brought_is_due_by_what_it_says() {
        let (policy, rules) = (Policy::default(), rules("strict"));
        let context = Context { policy: &policy, rules: &rules, now: NOW, draw: 0.5, retry_not_before: T0 };
        let due = |b: Brought| brought(b, context).1;
        let full = Brought {
            expires_at: Some(NOW + secs(3600)),
            expires_in: Some(secs(3600)),
            has_refresh_token: true,
            ..Brought::default()
        };
        assert!((secs(2430)..=secs(2970)).contains(&NOW.until(due(full))));
        assert!(NOW.until(due(Brought { in_bulk: true, ..full })) == secs(1485));
        assert_eq!(due(Brought { expires_at: None, ..full }), NOW);
        assert_eq!(due(Brought { expires_at: None, has_refresh_token: false, ..full }), Timestamp::NEVER);
        assert_eq!(due(Brought { expires_at: Some(NOW - secs(5)), ..full }), NOW);
        let old = brought(Brought { expires_at: Some(NOW + secs(600)), ..full }, context);
        assert_eq!((old.0.issued_at, old.1), (NOW - secs(3000), NOW));
    }

    proptest! {
        #[test]
        fn every_setback_leaves_a_way_on_or_a_cause(
            kind in prop_oneof![
                Just(SetbackKind::Transient { alarm: false }), Just(SetbackKind::Transient { alarm: true }),
                (0u64..4000).prop_map(|s| SetbackKind::Throttled { wait: secs(s) }),
                proptest::option::of(0u64..4000).prop_map(|s| SetbackKind::InDoubt { retry_after: s.map(secs) }),
                Just(SetbackKind::Rejected),
            ],
            rotation in prop_oneof![Just("strict"), Just("unknown"), Just("grace:600"), Just("grace:7"), Just("until-used"), Just("persistent")],
            waiting in prop_oneof![
                Just(Waiting::Schedule), Just(Waiting::Recheck), (1u32..90).prop_map(|failures| Waiting::Retry { failures }),
                Just(doubt(DoubtStep::Resend)), Just(doubt(DoubtStep::Probe)),
            ],
            late_s in 0u64..100_000,
        ) {
            let now = NOW + secs(late_s);
            let step = fail_at(&claimed(waiting.clone()), rotation, kind, now);
            prop_assert_eq!(&step, &fail_at(&claimed(waiting), rotation, kind, now));
            prop_assert!(step.next.last_error.is_some());
            match step.next.state {
                State::Ready { due_at, .. } => {
                    let throttled = matches!(kind, SetbackKind::Throttled { .. });
                    prop_assert!(throttled || now.until(due_at) >= Duration::from_millis(300));
                    prop_assert!(now.until(due_at) <= secs(4400));
                }
                State::NeedsReauth { .. } => prop_assert_eq!(kind, SetbackKind::Rejected),
                State::Claimed { .. } => prop_assert!(false, "nobody would ever end it"),
            }
        }
    }
}
