//! The rate limit of the API: a token bucket, off by default.

use serde::{Deserialize, Serialize};

/// How often the API may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests each second, in the long run: more than 0.
    pub per_s: f64,
    /// Requests at once: at least 1.
    pub burst: u32,
}

/// A full bucket at first; each request takes one, and time fills it again.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    limit: RateLimit,
    left: f64,
    filled_at_ms: i64,
}

/// What a request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may pass; so many more may at once.
    Admitted { left: u32 },
    /// It must wait so many seconds.
    Refused { retry_after_s: u64 },
}

impl Bucket {
    pub fn new(limit: RateLimit, now_ms: i64) -> Self {
        Self { limit, left: f64::from(limit.burst), filled_at_ms: now_ms }
    }

    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    pub fn take(&mut self, now_ms: i64) -> Admission {
        let passed_s = now_ms.saturating_sub(self.filled_at_ms).max(0) as f64 / 1_000.0;
        self.filled_at_ms = now_ms;
        self.left = (self.left + passed_s * self.limit.per_s).min(f64::from(self.limit.burst));
        if self.left < 1.0 {
            let wait_s = ((1.0 - self.left) / self.limit.per_s).ceil();
            return Admission::Refused { retry_after_s: (wait_s as u64).max(1) };
        }
        self.left -= 1.0;
        Admission::Admitted { left: self.left as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_with_time() {
        let mut bucket = Bucket::new(RateLimit { per_s: 0.5, burst: 2 }, 0);
        assert_eq!(bucket.take(0), Admission::Admitted { left: 1 });
        assert_eq!(bucket.take(0), Admission::Admitted { left: 0 });
        assert_eq!(bucket.take(0), Admission::Refused { retry_after_s: 2 });
        assert_eq!(bucket.take(1_999), Admission::Refused { retry_after_s: 1 });
        assert_eq!(bucket.take(2_000), Admission::Admitted { left: 0 });
        assert_eq!(bucket.take(1_000_000), Admission::Admitted { left: 1 });
    }

    #[test]
    fn a_clock_that_goes_back_fills_nothing() {
        let mut bucket = Bucket::new(RateLimit { per_s: 1.0, burst: 1 }, 10_000);
        assert_eq!(bucket.take(10_000), Admission::Admitted { left: 0 });
        assert_eq!(bucket.take(5_000), Admission::Refused { retry_after_s: 1 });
    }
}
