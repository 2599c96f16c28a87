//! Where the engine gets its time and its dice from.

use std::sync::Mutex;
use tokenkeep_core::Timestamp;

/// The engine's time.
pub trait Clock: Send + Sync + 'static {
    /// Steady time: the wall clock as it stood when this boot was first seen, counted on by the boot
    /// clock. It goes on through a suspend, and a stepped wall clock does not move it.
    fn now(&self) -> Timestamp;

    /// What the wall clock shows at the same moment. Only what people read and what an import states
    /// is converted with it.
    fn wall(&self) -> Timestamp;
}

/// The machine's clocks.
///
/// ```
/// use tokenkeep::clock::{Clock, SystemClock};
/// let clock = SystemClock::new(None);
/// // The next process of the same boot counts on from the same anchor:
/// let next = SystemClock::new(Some(clock.offset_ms()));
/// assert!(next.now() >= clock.now() || next.boot_id() != clock.boot_id());
/// ```
#[derive(Debug)]
pub struct SystemClock {
    offset_ms: i64,
    boot_id: u64,
}

impl SystemClock {
    /// A clock whose steady time is the boot clock plus `anchor_offset_ms`: what [`SystemClock::offset_ms`] said
    /// when this boot ([`SystemClock::boot_id`]) was first seen. `None`: it is seen now, and the wall clock is
    /// believed once.
    #[must_use]
    pub fn new(anchor_offset_ms: Option<i64>) -> Self {
        let offset_ms = anchor_offset_ms.unwrap_or_else(|| wall_ms().saturating_sub(machine::boot_ms()));
        Self { offset_ms, boot_id: machine::boot_id() }
    }

    /// What is added to the boot clock: to be kept with the boot id, and given to the next process of this boot.
    #[must_use]
    pub const fn offset_ms(&self) -> i64 {
        self.offset_ms
    }

    /// A number that differs between boots.
    #[must_use]
    pub const fn boot_id(&self) -> u64 {
        self.boot_id
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(machine::boot_ms().saturating_add(self.offset_ms))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(wall_ms())
    }
}

/// Milliseconds since the Unix epoch on the wall clock.
fn wall_ms() -> i64 {
    let millis = |span: std::time::Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => millis(since),
        Err(before) => millis(before.duration()).saturating_neg(),
    }
}

/// A boot id where the system has none: when the boot was, to the minute. A stepped wall clock makes it look
/// like another boot, which is the careful side.
#[cfg(any(target_os = "linux", test))]
fn boot_id_of_times(wall_ms: i64, boot_ms: i64) -> u64 {
    const MINUTE_MS: i64 = 60_000;
    let minute = wall_ms.saturating_sub(boot_ms).saturating_add(MINUTE_MS / 2).div_euclid(MINUTE_MS);
    hash(&minute.to_le_bytes())
}

/// The first bytes of a SHA-256: the same in every version of the program.
fn hash(bytes: &[u8]) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(target_os = "linux")]
mod machine {
    use rustix::time::{ClockId, clock_gettime};

    /// Milliseconds since the boot, suspends included.
    pub(super) fn boot_ms() -> i64 {
        let time = clock_gettime(ClockId::Boottime);
        time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
    }

    /// The kernel's own boot id, hashed.
    pub(super) fn boot_id() -> u64 {
        match std::fs::read("/proc/sys/kernel/random/boot_id") {
            Ok(id) if !id.trim_ascii().is_empty() => super::hash(id.trim_ascii()),
            _ => super::boot_id_of_times(super::wall_ms(), boot_ms()),
        }
    }
}

/// Elsewhere each process counts as a boot of its own, which is the careful side.
#[cfg(not(target_os = "linux"))]
mod machine {
    use std::sync::LazyLock;
    use std::time::Instant;

    static START: LazyLock<(Instant, u64)> = LazyLock::new(|| {
        let this_process = super::wall_ms().to_le_bytes().into_iter().chain(std::process::id().to_le_bytes());
        (Instant::now(), super::hash(&this_process.collect::<Vec<u8>>()))
    });

    /// Milliseconds since the clock was first asked.
    pub(super) fn boot_ms() -> i64 {
        i64::try_from(START.0.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn boot_id() -> u64 {
        START.1
    }
}

/// The engine's dice.
pub trait Dice: Send + Sync + 'static {
    /// A number in [0, 1).
    fn draw(&self) -> f64;
}

/// Dice with a seed: the same seed, the same numbers in the same order (`SplitMix64`).
///
/// They decide jitter, nothing else; keys and nonces come from the operating system.
#[derive(Debug)]
pub struct SeededDice(Mutex<u64>);

impl SeededDice {
    /// Dice that start from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Dice for SeededDice {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    fn draw(&self) -> f64 {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_first_sight_shows_the_wall_time() {
        let clock = SystemClock::new(None);
        let (before, now, after) = (clock.wall(), clock.now(), clock.wall());
        let slack = Duration::from_millis(5);
        assert!(before <= now + slack && now <= after + slack, "{before:?} {now:?} {after:?}");
        assert!(now > Timestamp::from_millis(1_700_000_000_000), "{now:?}");
    }

    #[test]
    fn the_anchor_decides_and_not_the_wall_clock() {
        let first = SystemClock::new(None);
        let stepped = SystemClock::new(Some(first.offset_ms() - 3_600_000));
        let apart = first.now().until(stepped.now() + Duration::from_hours(1));
        assert!(apart < Duration::from_secs(5), "{apart:?}");
        assert!(stepped.now() < first.now());
        assert_eq!(stepped.offset_ms(), first.offset_ms() - 3_600_000);
    }

    #[test]
    fn steady_time_goes_on_at_the_pace_of_time() {
        let clock = SystemClock::new(Some(0));
        let (start, measured) = (clock.now(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        let (passed, expected) = (clock.now().since(start), measured.elapsed());
        assert!(passed.abs_diff(expected) < Duration::from_millis(20), "{passed:?}, {expected:?}");
    }

    #[test]
    fn a_boot_keeps_its_id() {
        assert_eq!(SystemClock::new(None).boot_id(), SystemClock::new(Some(1)).boot_id());
        assert_ne!(SystemClock::new(None).boot_id(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_boot_id_is_the_kernels_and_boot_time_counts_from_the_boot() {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(SystemClock::new(None).boot_id(), hash(id.trim().as_bytes()));
        let uptime: f64 = std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
        let expected = Timestamp::from_millis((uptime * 1000.0) as i64);
        let apart = SystemClock::new(Some(0)).now().since(expected);
        assert!(apart < Duration::from_secs(1), "{apart:?}");
    }

    #[test]
    fn without_the_kernels_id_boots_differ_by_when_they_were() {
        let boot = boot_id_of_times(1_000_000_000, 500_000);
        assert_eq!(boot_id_of_times(1_000_600_300, 1_100_000), boot, "later in the same boot");
        assert_ne!(boot_id_of_times(1_000_600_000, 20_000), boot, "another boot");
    }
}
