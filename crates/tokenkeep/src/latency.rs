//! How long a provider's API and its token endpoint take to answer, and how: a histogram for each provider, of a fixed size.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The upper bounds of the buckets, in milliseconds; one more bucket is for everything above.
pub const BOUNDS_MS: [u64; 12] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];
/// The most providers that are counted; those beyond it are counted together, as `(others)`.
pub const PROVIDERS_MAX: usize = 1_024;
/// Under which name they are counted together.
const OTHERS: &str = "(others)";

/// How calls to one place of a provider, its API or its token endpoint, ended since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Calls {
    /// Answers by the hundreds of their status: `answers[0]` for 1xx to `answers[4]` for 5xx.
    pub answers: [u64; 5],
    /// Calls that were not answered.
    pub failed: u64,
    /// Refreshes that a refused token caused; of calls to an API alone.
    pub mended: u64,
    /// Answers by how long their head took: one bucket for each of [`BOUNDS_MS`], and one for all above.
    pub buckets: [u64; BOUNDS_MS.len() + 1],
    /// How long all of them took together.
    pub sum: Duration,
}

impl Calls {
    /// All calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.failed + self.answers.iter().sum::<u64>()
    }

    /// Within how many milliseconds this share of the answers came, 0.99 of them say: the bound of the bucket where it
    /// is reached. `None` without answers, and above the last bound.
    #[must_use]
    pub fn within_ms(&self, share: f64) -> Option<u64> {
        let answers: u64 = self.buckets.iter().sum();
        let mut before = 0;
        let reached = self.buckets.iter().position(|in_bucket| {
            before += in_bucket;
            answers > 0 && before as f64 >= share * answers as f64
        });
        reached.and_then(|bucket| BOUNDS_MS.get(bucket)).copied()
    }

    /// How long an answer took on average; `None` without answers.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let answers = u32::try_from(self.buckets.iter().sum::<u64>()).unwrap_or(u32::MAX);
        (answers > 0).then(|| self.sum / answers)
    }

    fn answered(&mut self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class] += 1;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.iter().position(|&bound| ms <= bound).unwrap_or(BOUNDS_MS.len());
        self.buckets[bucket] += 1;
        self.sum += took;
    }
}

/// The calls of every provider.
#[derive(Default, Debug)]
pub(crate) struct Latencies(Mutex<BTreeMap<String, Calls>>);

impl Latencies {
    pub fn answered(&self, provider: &str, status: u16, took: Duration) {
        self.of(provider, |calls| calls.answered(status, took));
    }

    pub fn failed(&self, provider: &str) {
        self.of(provider, |calls| calls.failed += 1);
    }

    pub fn mended(&self, provider: &str) {
        self.of(provider, |calls| calls.mended += 1);
    }

    pub fn all(&self) -> BTreeMap<String, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of(&self, provider: &str, note: impl FnOnce(&mut Calls)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = all.get_mut(provider) {
            return note(calls);
        }
        let name = if all.len() < PROVIDERS_MAX { provider } else { OTHERS };
        note(all.entry(name.to_owned()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class_and_by_how_long_they_took() {
        let latencies = Latencies::default();
        for (status, ms) in [(200, 0), (204, 5), (302, 6), (404, 1_000), (503, 30_001)] {
            latencies.answered("jira", status, Duration::from_millis(ms));
        }
        latencies.failed("jira");
        let calls = latencies.all()["jira"];
        assert_eq!((calls.answers, calls.failed, calls.count()), ([0, 2, 1, 1, 1], 1, 6));
        assert_eq!((calls.buckets[0], calls.buckets[1], calls.buckets[7], calls.buckets[12]), (2, 1, 1, 1));
        assert_eq!(calls.sum, Duration::from_millis(31_012));
        assert_eq!(calls.mean(), Some(Duration::from_micros(6_202_400)));
        assert_eq!(
            [0.0, 0.4, 0.5, 0.8, 0.99].map(|share| calls.within_ms(share)),
            [Some(5), Some(5), Some(10), Some(1_000), None]
        );
        assert_eq!((Calls::default().within_ms(0.5), Calls::default().mean()), (None, None));
    }

    #[test]
    fn the_number_of_providers_is_bounded() {
        let latencies = Latencies::default();
        for nth in 0..PROVIDERS_MAX + 10 {
            latencies.failed(&format!("p{nth}"));
        }
        let all = latencies.all();
        assert_eq!((all.len(), all[OTHERS].failed), (PROVIDERS_MAX + 1, 10));
    }
}
