//! What becomes of a delivery and of its webhook after an attempt: pure functions, told the time and the draw.

use std::time::Duration;
use tokenkeep_core::Timestamp;

/// How long after each failed attempt the next one starts, before jitter; the last is repeated.
pub const RETRY_DELAYS: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(12),
];
/// A delay is this much of itself at the least, and as much longer at the most: receivers that failed together are not
/// asked together.
pub const JITTER: f64 = 0.2;
/// How long after its first attempt a delivery is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_hours(5 * 24);
/// How long nothing may have been delivered before a webhook that fails is disabled.
pub const DISABLE_AFTER: Duration = GIVE_UP_AFTER;
/// The longest `Retry-After` that is honoured.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(12);
/// After so many failures in a row the receiver is taken to be down, and new events wait too.
pub const REST_AFTER: u32 = 3;
/// How long a receiver that is down is left alone before it is asked again, where something new has happened.
pub const REST: Duration = Duration::from_mins(5);

/// What an attempt brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An answer of HTTP.
    Status {
        /// Its status.
        code: u16,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// None came: why.
    Nothing(String),
}

impl Answer {
    /// The status, where there is one.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Nothing(_) => None,
        }
    }

    /// Why it is no success, for a person.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Status { code: 200..=299, .. } => None,
            Self::Status { code: code @ 300..=399, .. } => {
                Some(format!("it answered {code}: redirects are not followed; give the final URL"))
            }
            Self::Status { code: 410, .. } => Some("it answered 410 Gone".to_owned()),
            Self::Status { code, .. } => Some(format!("it answered {code}; expected 200 to 299")),
            Self::Nothing(why) => Some(why.clone()),
        }
    }
}

/// How a receiver has been doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// Failures since the last success.
    pub failures: u32,
    /// When the first of them was.
    pub failing_since: Option<Timestamp>,
    /// Nothing is sent before.
    pub rest_until: Option<Timestamp>,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// It is tried again.
    RetryAt(Timestamp),
    /// It is given up.
    GivenUp,
}

/// What an attempt decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// For the delivery.
    pub outcome: Outcome,
    /// For its webhook.
    pub health: Health,
    /// The receiver is back: whatever waits for a later time is due now.
    pub is_back: bool,
    /// Why the webhook is disabled by it, if it is.
    pub disable: Option<String>,
}

/// What follows from `answer` to the attempt of number `attempt` (from 1) at `now`, where the first was at `first_at`.
/// `draw` is in [0, 1).
#[must_use]
pub fn decide(
    answer: &Answer,
    attempt: u32,
    first_at: Timestamp,
    health: Health,
    now: Timestamp,
    draw: f64,
) -> Decision {
    if answer.error().is_none() {
        let is_back = health.failures >= REST_AFTER;
        return Decision { outcome: Outcome::Delivered, health: Health::default(), is_back, disable: None };
    }
    let asked = match answer {
        Answer::Status { retry_after, .. } => retry_after.map(|span| span.min(RETRY_AFTER_MAX)),
        Answer::Nothing(_) => None,
    };
    let failing_since = health.failing_since.unwrap_or(now);
    let failures = health.failures.saturating_add(1);
    let delay = delay(attempt, draw);
    let rest = (failures >= REST_AFTER).then(|| delay.min(REST)).max(asked);
    let health = Health { failures, failing_since: Some(failing_since), rest_until: rest.map(|rest| now + rest) };
    let next_at = now + delay.max(asked.unwrap_or_default());
    let is_over = next_at.since(first_at) > GIVE_UP_AFTER;
    let nothing_since = failing_since <= first_at && is_over || now.since(failing_since) >= DISABLE_AFTER;
    let days = DISABLE_AFTER.as_secs() / 86_400;
    let disable = if answer.status() == Some(410) {
        Some("The receiver answered 410 Gone.".to_owned())
    } else {
        nothing_since.then(|| {
            let last = answer.error().unwrap_or_default();
            format!("Nothing could be delivered for {days} days; at last {last}.")
        })
    };
    // What a disabled webhook has not delivered, it still owes.
    let outcome = match (&disable, is_over) {
        (Some(_), _) => Outcome::RetryAt(now),
        (None, true) => Outcome::GivenUp,
        (None, false) => Outcome::RetryAt(next_at),
    };
    Decision { outcome, health, is_back: false, disable }
}

/// How long to wait after the failed attempt of this number.
#[must_use]
pub fn delay(attempt: u32, draw: f64) -> Duration {
    let step = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX).min(RETRY_DELAYS.len() - 1);
    RETRY_DELAYS[step].mul_f64(1.0 - JITTER + 2.0 * JITTER * draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);

    fn status(code: u16) -> Answer {
        Answer::Status { code, retry_after: None }
    }

    fn after(answer: &Answer, attempt: u32, health: Health) -> Decision {
        decide(answer, attempt, NOW, health, NOW, 0.5)
    }

    #[test]
    fn what_an_answer_means() {
        for code in [200, 202, 204, 299] {
            assert_eq!(after(&status(code), 1, Health::default()).outcome, Outcome::Delivered, "{code}");
        }
        for answer in
            [301, 302, 400, 401, 404, 429, 500, 503].map(status).into_iter().chain([Answer::Nothing("x".into())])
        {
            let decision = after(&answer, 1, Health::default());
            assert_eq!(decision.outcome, Outcome::RetryAt(NOW + RETRY_DELAYS[0]), "{answer:?}");
            assert_eq!((decision.health.failures, decision.health.rest_until), (1, None), "{answer:?}");
            assert_eq!(decision.disable, None);
        }
    }

    #[test]
    fn gone_disables_at_once_and_is_still_owed() {
        let decision = after(&status(410), 1, Health::default());
        assert!(decision.disable.is_some_and(|why| why.contains("410 Gone")));
        assert_eq!(decision.outcome, Outcome::RetryAt(NOW));
    }

    #[test]
    fn retry_after_is_honoured_and_clamped() {
        let asks = |span| Answer::Status { code: 503, retry_after: Some(span) };
        let decision = after(&asks(Duration::from_secs(90)), 1, Health::default());
        assert_eq!(decision.outcome, Outcome::RetryAt(NOW + Duration::from_secs(90)));
        assert_eq!(decision.health.rest_until, Some(NOW + Duration::from_secs(90)));
        let shorter = after(&asks(Duration::from_secs(1)), 2, Health::default());
        assert_eq!(shorter.outcome, Outcome::RetryAt(NOW + RETRY_DELAYS[1]));
        let longer = after(&asks(Duration::MAX), 1, Health::default());
        assert_eq!(longer.outcome, Outcome::RetryAt(NOW + RETRY_AFTER_MAX));
    }

    #[test]
    fn jitter_spreads_each_delay_evenly() {
        for (attempt, plain) in (1..).zip(RETRY_DELAYS) {
            assert_eq!(delay(attempt, 0.0), plain.mul_f64(0.8));
            assert_eq!(delay(attempt, 0.5), plain);
            assert!(delay(attempt, 0.999) > plain.mul_f64(1.19) && delay(attempt, 0.999) < plain.mul_f64(1.2));
        }
        assert_eq!(delay(100, 0.5), RETRY_DELAYS[6]);
    }

    #[test]
    fn a_delivery_is_tried_for_days_and_given_up_where_others_arrive() {
        let (mut now, mut attempt) = (NOW, 1);
        // Something else arrives between.
        let other = |now: Timestamp| Health {
            failures: 1,
            failing_since: Some(now - Duration::from_secs(1)),
            rest_until: None,
        };
        loop {
            let decision = decide(&status(500), attempt, NOW, other(now), now, 0.5);
            assert_eq!(decision.disable, None);
            match decision.outcome {
                Outcome::RetryAt(at) => (now, attempt) = (at, attempt + 1),
                outcome => break assert_eq!(outcome, Outcome::GivenUp),
            }
        }
        assert!(now.since(NOW) > Duration::from_hours(4 * 24) && now.since(NOW) <= GIVE_UP_AFTER);
        assert!((12..=16).contains(&attempt), "{attempt}");
    }

    #[test]
    fn days_without_any_delivery_disable() {
        let since = |ago: Duration| Health { failures: 9, failing_since: Some(NOW - ago), rest_until: None };
        let young = after(&status(500), 1, since(DISABLE_AFTER - Duration::from_secs(1)));
        assert_eq!(young.disable, None);
        let old = after(&status(500), 1, since(DISABLE_AFTER));
        assert!(old.disable.is_some_and(|why| why.contains("5 days") && why.contains("500")));
        let first_at = NOW - (GIVE_UP_AFTER - Duration::from_secs(1));
        let health = Health { failures: 13, failing_since: Some(first_at), rest_until: None };
        let alone = decide(&status(500), 14, first_at, health, NOW, 0.5);
        assert!(alone.disable.is_some(), "the only one that there was ends with its webhook");
    }

    #[test]
    fn a_receiver_that_is_down_is_left_alone_and_one_that_is_back_gets_everything() {
        let second = Health { failures: 2, failing_since: Some(NOW), rest_until: None };
        let third = after(&status(500), 3, second).health;
        assert_eq!((third.failures, third.rest_until), (3, Some(NOW + REST)));
        assert_eq!(after(&status(500), 1, second).health.rest_until, Some(NOW + RETRY_DELAYS[0]));
        let back = after(&status(200), 1, third);
        assert!(back.is_back && back.health == Health::default());
        assert!(!after(&status(200), 1, second).is_back);
    }
}
