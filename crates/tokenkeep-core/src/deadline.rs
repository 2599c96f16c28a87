//! Ends that only a person can put off, and when people are told of them ahead (protocol 1).

use crate::time::Timestamp;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// How long before an end people are told of it, the longest first.
pub const MARKS: [Duration; 4] = [DAY.saturating_mul(30), DAY.saturating_mul(14), DAY.saturating_mul(7), DAY];

/// An end of a refresh token or of a consent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    /// When it ends.
    pub at: Timestamp,
    /// Marks until then have been told, or need not be.
    pub told_until: Timestamp,
}

impl Deadline {
    /// An end that was set at `since`. No mark in the first half of the time until then is told: what each refresh puts
    /// off is refreshed by then ([`crate::schedule::Bounds::idle_life`]).
    #[must_use]
    pub fn set(since: Timestamp, at: Timestamp) -> Self {
        Self { at, told_until: since + since.until(at) / 2 }
    }

    /// The next mark that people are to be told of.
    #[must_use]
    pub fn next_mark(&self) -> Option<Timestamp> {
        MARKS.iter().map(|&ahead| self.at - ahead).find(|&mark| mark > self.told_until)
    }

    /// True from when the first mark could be told on: it is time for somebody to act.
    #[must_use]
    pub fn is_near(&self, now: Timestamp) -> bool {
        self.told_until <= now && now.until(self.at) <= MARKS[0]
    }

    /// The same end, when all marks until `now` have been told.
    #[must_use]
    pub fn told(self, now: Timestamp) -> Self {
        Self { told_until: self.told_until.max(now), ..self }
    }

    /// Whole days from `now` to the end, a part of one counted as one.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> u64 {
        now.until(self.at).as_millis().div_ceil(DAY.as_millis()).try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn day(n: u32) -> Timestamp {
        T0 + DAY * n
    }

    /// The days before the end at which marks are told, one by one.
    fn marks_of(mut deadline: Deadline) -> Vec<u64> {
        let mut told = Vec::new();
        while let Some(mark) = deadline.next_mark() {
            told.push(deadline.days_left(mark));
            deadline = deadline.told(mark);
        }
        told
    }

    #[test]
    fn a_years_consent_is_told_of_at_30_14_7_and_1_day() {
        assert_eq!(marks_of(Deadline::set(T0, day(365))), [30, 14, 7, 1]);
    }

    #[test]
    fn what_every_refresh_puts_off_is_not_told_before_half_of_its_time() {
        assert_eq!(marks_of(Deadline::set(T0, day(90))), [30, 14, 7, 1]);
        assert_eq!(marks_of(Deadline::set(T0, day(60))), [14, 7, 1], "the 30th day is the half");
        assert_eq!(marks_of(Deadline::set(T0, day(7))), [1]);
        assert_eq!(marks_of(Deadline::set(T0, day(1))), [0_u64; 0]);
    }

    #[test]
    fn marks_that_were_slept_through_are_told_as_one() {
        let deadline = Deadline::set(T0, day(365)).told(day(360));
        assert_eq!(marks_of(deadline), [1]);
    }

    #[test]
    fn an_end_is_near_from_its_first_mark_on() {
        let (year, week) = (Deadline::set(T0, day(365)), Deadline::set(T0, day(7)));
        assert_eq!([334, 335, 366].map(|n| year.is_near(day(n))), [false, true, true]);
        assert_eq!([3, 4].map(|n| week.is_near(day(n))), [false, true]);
    }
}
