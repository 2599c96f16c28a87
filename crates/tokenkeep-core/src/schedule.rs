//! When to refresh (protocol 1).

use crate::time::Timestamp;
use std::time::Duration;

/// The shortest life of an access token that is believed; anything shorter counts as absent.
pub const LIFETIME_MIN: Duration = Duration::from_secs(1);
/// The longest life of an access token that is believed: 10 years.
pub const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The life assumed where neither the provider, its catalogue row, nor the token itself tells one.
pub const LIFETIME_ASSUMED: Duration = Duration::from_secs(55 * 60);
/// The first retry comes after at most this; each further one after at most twice the one before.
pub const RETRY_BASE: Duration = Duration::from_secs(2);
/// A rejection by a provider that does not rotate is checked once more after this long.
pub const RECHECK_AFTER: Duration = Duration::from_secs(60);
/// A cause that holds a connection is probed this often.
pub const HOLD_PROBE_EVERY: Duration = Duration::from_secs(15 * 60);

/// How eager refreshing is; the plan's three numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The longest pause between two looks at one connection that has trouble.
    pub check_interval: Duration,
    /// How long before its end an access token is to be refreshed at the latest.
    pub refresh_threshold: Duration,
    /// After this many failed tries in a row, `refresh_failed` is said and the pace slows down.
    pub max_retries: u32,
}

impl Default for Policy {
    /// 300 s, 600 s and 3: the plan's defaults.
    fn default() -> Self {
        Self { check_interval: Duration::from_secs(300), refresh_threshold: Duration::from_secs(600), max_retries: 3 }
    }
}

/// What bounds a refresh besides the access token's own life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bounds {
    /// The provider's wish (`refresh_in`), counted from the issue.
    pub refresh_in: Option<Duration>,
    /// The refresh token dies when it is not used for this long.
    pub idle_life: Option<Duration>,
}

/// The part of a token's life in which its refresh starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Not before this.
    pub early: Timestamp,
    /// Not after this, unless something fails.
    pub late: Timestamp,
}

/// The window for a token that was issued at `issued_at` and lives for `life`.
///
/// `late` leaves the refresh threshold, scaled to between 5 and 50 % of the life, and a margin of
/// at most 30 s; the window is the 15 % of the life before it.
#[must_use]
pub fn window(issued_at: Timestamp, life: Duration, threshold: Duration, bounds: Bounds) -> Window {
    let life = life.clamp(LIFETIME_MIN, LIFETIME_MAX);
    let threshold = threshold.max(life / 20).min(life / 2);
    let margin = (life / 20).min(Duration::from_secs(30));
    let mut late = life.saturating_sub(threshold + margin);
    if let Some(wish) = bounds.refresh_in.filter(|&wish| wish >= life / 4) {
        late = late.min(wish);
    }
    if let Some(idle) = bounds.idle_life {
        late = late.min(idle / 2);
    }
    let early = late.saturating_sub(life * 3 / 20);
    Window { early: issued_at + early, late: issued_at + late }
}

/// R: when to refresh, drawn once from the window with `draw` in [0, 1) and then stored.
///
/// Never sooner after the last success than [`floor`], so that nothing can storm.
#[must_use]
pub fn planned(window: Window, life: Duration, last_success: Timestamp, draw: f64) -> Timestamp {
    between(window.early, window.late, draw).max(last_success + floor(life))
}

/// R of a token that arrived in bulk: drawn over the whole time from `now` to the window's end.
#[must_use]
pub fn planned_in_bulk(window: Window, now: Timestamp, draw: f64) -> Timestamp {
    between(now, window.late.max(now), draw)
}

fn between(from: Timestamp, to: Timestamp, draw: f64) -> Timestamp {
    from + from.until(to).mul_f64(draw.clamp(0.0, 1.0))
}

/// The shortest time from one scheduled refresh to the next: a quarter of the life, between 1 and 30 s.
#[must_use]
pub fn floor(life: Duration) -> Duration {
    (life / 4).clamp(Duration::from_secs(1), Duration::from_secs(30))
}

/// The earliest time after the last success at which a caller's `min_ttl` may start a refresh.
#[must_use]
pub fn min_ttl_floor(life: Duration) -> Duration {
    (life / 4).max(Duration::from_secs(30))
}

/// The longest pause between two tries: a twelfth of the life, between 5 s and 5 min.
#[must_use]
pub fn retry_cap(life: Duration) -> Duration {
    (life / 12).clamp(Duration::from_secs(5), Duration::from_secs(300))
}

/// How long to wait before the next try when `failures` (at least 1) have failed in a row.
///
/// Doubling from [`RETRY_BASE`] to the cap; from `max_retries` on, the check interval or the cap.
/// `draw` in [0, 1) takes away up to half, so that no herd stays together.
#[must_use]
pub fn retry_pause(policy: &Policy, life: Duration, failures: u32, draw: f64) -> Duration {
    let cap = retry_cap(life);
    let full = if failures > policy.max_retries {
        cap.min(policy.check_interval.max(LIFETIME_MIN))
    } else {
        RETRY_BASE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(cap)
    };
    full.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
}

/// When a strict provider may be asked whether it rotated: late, because the probe may end the
/// grant together with the access token in hand.
#[must_use]
pub fn probe_at(sent_at: Timestamp, life: Duration, expires_at: Option<Timestamp>) -> Timestamp {
    let soon = sent_at + (life / 10).min(Duration::from_secs(60));
    match expires_at {
        Some(end) => soon.max(end - (life / 5).min(Duration::from_secs(120))),
        None => soon,
    }
}

/// Until when a provider with a grace of `grace` still takes the refresh token that was first sent
/// at `first_sent_at`.
#[must_use]
pub fn grace_end(first_sent_at: Timestamp, grace: Duration) -> Timestamp {
    first_sent_at + grace.saturating_sub((grace / 4).min(Duration::from_secs(5)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn window_of(life: u64) -> Window {
        window(T0, secs(life), Policy::default().refresh_threshold, Bounds::default())
    }

    #[test]
    fn a_one_hour_token_is_refreshed_19_and_a_half_to_10_and_a_half_minutes_before_its_end() {
        let w = window_of(3600);
        assert_eq!(w.late.until(T0 + secs(3600)), secs(630));
        assert_eq!(w.early.until(T0 + secs(3600)), secs(1170));
    }

    #[test]
    fn a_minute_token_is_refreshed_42_to_33_s_before_its_end() {
        let w = window_of(60);
        assert_eq!((w.early.until(T0 + secs(60)), w.late.until(T0 + secs(60))), (secs(42), secs(33)));
    }

    #[test]
    fn the_providers_wish_and_the_idle_life_bound_the_window() {
        let bounds = Bounds { refresh_in: Some(secs(1800)), idle_life: None };
        assert_eq!(window(T0, secs(3600), secs(600), bounds).late, T0 + secs(1800));
        let too_soon = Bounds { refresh_in: Some(secs(10)), idle_life: None };
        assert_eq!(window(T0, secs(3600), secs(600), too_soon).late, T0 + secs(2970));
        let idle = Bounds { refresh_in: None, idle_life: Some(secs(1000)) };
        assert_eq!(window(T0, secs(3600), secs(600), idle).late, T0 + secs(500));
    }

    #[test]
    fn retries_double_up_to_the_cap_and_then_keep_the_pace() {
        let policy = Policy::default();
        let pause = |failures| retry_pause(&policy, secs(3600), failures, 0.999_999_999).as_millis().div_ceil(1000);
        assert_eq!([1, 2, 3, 4, 5].map(pause), [2, 4, 8, 300, 300]);
        assert_eq!(retry_pause(&policy, secs(60), 4, 0.0), secs(5) / 2);
    }

    #[test]
    fn a_probe_comes_late_but_before_the_end() {
        assert_eq!(probe_at(T0, secs(3600), Some(T0 + secs(1000))), T0 + secs(880));
        assert_eq!(probe_at(T0, secs(3600), Some(T0)), T0 + secs(60));
        assert_eq!(probe_at(T0, secs(60), Some(T0 + secs(36))), T0 + secs(24));
    }

    proptest! {
        #[test]
        fn nothing_starts_later_than_late_or_storms(
            life_ms in 1_000u64..400_000_000_000, threshold in 0u64..100_000, draw in 0.0f64..1.0,
            refresh_in in proptest::option::of(0u64..1_000_000), idle in proptest::option::of(60u64..10_000_000),
        ) {
            let life = Duration::from_millis(life_ms);
            let bounds = Bounds { refresh_in: refresh_in.map(secs), idle_life: idle.map(secs) };
            let w = window(T0, life, secs(threshold), bounds);
            prop_assert!(T0 <= w.early && w.early <= w.late && w.late < T0 + life);
            let r = planned(w, life, T0, draw);
            prop_assert!(r <= w.late.max(T0 + floor(life)));
            prop_assert!(T0.until(r) >= floor(life));
            prop_assert_eq!(r, planned(w, life, T0, draw));
        }

        #[test]
        fn a_token_twice_as_long_as_the_threshold_is_refreshed_a_threshold_before_its_end(
            threshold in 1u64..10_000, factor in 2.0f64..100.0, draw in 0.0f64..1.0,
        ) {
            let life = secs(threshold).mul_f64(factor);
            let w = window(T0, life, secs(threshold), Bounds::default());
            // The floor binds only where a quarter of the life is less than a second.
            prop_assume!(life >= secs(4));
            prop_assert!(planned(w, life, T0, draw) + secs(threshold) <= T0 + life);
        }

        #[test]
        fn retries_never_pause_longer_than_five_minutes_nor_storm(
            life in 1u64..1_000_000, failures in 1u32..10_000, draw in 0.0f64..1.0,
        ) {
            let pause = retry_pause(&Policy::default(), secs(life), failures, draw);
            prop_assert!(pause >= secs(1) && pause <= secs(300));
        }
    }
}
