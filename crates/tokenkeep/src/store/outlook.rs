//! What the fleet will do, as counts: when access tokens end, and when refreshes are planned.

use std::collections::BTreeMap;
use std::time::Duration;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::Status;

/// The ends of the classes of [`Outlook::ends`], from now on; before the first: it has ended; behind the last come those
/// that live longer, and those of which nobody knows.
pub const END_CLASSES: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(3_600),
    Duration::from_secs(4 * 3_600),
    Duration::from_secs(12 * 3_600),
    Duration::from_secs(86_400),
    Duration::from_secs(7 * 86_400),
    Duration::from_secs(30 * 86_400),
];
/// How many classes there are.
pub const END_CLASSES_COUNT: usize = END_CLASSES.len() + 2;
/// How long a bin of [`Outlook::planned`] is.
pub const PLAN_BIN: Duration = Duration::from_secs(300);
/// How many bins there are: 24 hours.
pub const PLAN_BINS: usize = 288;

/// Counts of ends and of planned refreshes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outlook {
    /// Of each status, how many access tokens end in each class of [`END_CLASSES`].
    pub ends: BTreeMap<Status, [i64; END_CLASSES_COUNT]>,
    /// Refreshes that are due already.
    pub due: u64,
    /// Refreshes that are planned in each bin from now on.
    pub planned: Vec<u64>,
    /// Refreshes that are planned later.
    pub later: u64,
}

impl Default for Outlook {
    fn default() -> Self {
        Self { ends: BTreeMap::new(), due: 0, planned: vec![0; PLAN_BINS], later: 0 }
    }
}

impl Outlook {
    /// Counts one access token, or with `by` -1 takes it back.
    pub fn end(&mut self, now: Timestamp, status: Status, end: Option<Timestamp>, by: i64) {
        let class = match end {
            None => END_CLASSES_COUNT - 1,
            Some(end) => END_CLASSES.iter().position(|class| end <= now + *class).unwrap_or(END_CLASSES.len()),
        };
        let counts = self.ends.entry(status).or_default();
        counts[class] += by;
        if counts.iter().all(|count| *count == 0) {
            self.ends.remove(&status);
        }
    }

    /// Counts one planned refresh.
    pub fn plan(&mut self, now: Timestamp, at: Timestamp) {
        if at <= now {
            self.due += 1;
            return;
        }
        let bin = usize::try_from(now.until(at).as_millis() / PLAN_BIN.as_millis()).unwrap_or(usize::MAX);
        match self.planned.get_mut(bin) {
            Some(count) => *count += 1,
            None => self.later += 1,
        }
    }
}
