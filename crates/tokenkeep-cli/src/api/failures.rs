//! How many wrong keys were tried lately. Right keys are looked at first, so whoever guesses locks nobody out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many wrong keys are answered plainly within [`WINDOW`].
pub const WRONG_KEYS_MAX: u32 = 20;
/// See [`WRONG_KEYS_MAX`].
pub const WINDOW: Duration = Duration::from_secs(60);

/// Counts wrong keys.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<Option<Window>>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    wrong: u32,
}

impl Failures {
    /// Notes one more. Where that are too many: when to try again.
    #[must_use]
    pub fn one_more(&self) -> Option<Duration> {
        self.one_more_at(Instant::now())
    }

    fn one_more_at(&self, now: Instant) -> Option<Duration> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = window.take().filter(|window| now.duration_since(window.began) < WINDOW);
        let Window { began, wrong } = current.unwrap_or(Window { began: now, wrong: 0 });
        *window = Some(Window { began, wrong: wrong.saturating_add(1) });
        if wrong == WRONG_KEYS_MAX {
            tracing::warn!(within = ?WINDOW, "{WRONG_KEYS_MAX} wrong API keys were tried");
        }
        (wrong >= WRONG_KEYS_MAX).then(|| WINDOW.saturating_sub(now.duration_since(began)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_too_many_wrong_keys_one_waits() {
        let (failures, start) = (Failures::default(), Instant::now());
        for _ in 0..WRONG_KEYS_MAX {
            assert_eq!(failures.one_more_at(start), None);
        }
        assert_eq!(failures.one_more_at(start + WINDOW / 4), Some(WINDOW * 3 / 4));
        assert_eq!(failures.one_more_at(start + WINDOW), None, "the next minute");
    }
}
