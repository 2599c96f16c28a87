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
