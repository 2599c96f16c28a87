//! Numbers that look random and come out the same for the same seed.
//!
//! Nothing here is a secret worth keeping: the provider is a fake, and speed and repeatability are what its users want.

/// The finalizer of SplitMix64: spreads every bit of `value` over the whole result.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One number from several, in order: the same words give the same number, on every machine.
pub(crate) fn keyed(words: &[u64]) -> u64 {
    words.iter().fold(0, |state, word| mix(state ^ word))
}

/// A number in `[0, 1)` with 53 random bits, as many as an `f64` holds exactly.
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_stays_below_one() {
        assert_eq!(unit(0), 0.0);
        assert!(unit(u64::MAX) < 1.0);
    }

    #[test]
    fn the_order_of_words_matters() {
        assert_ne!(keyed(&[1, 2]), keyed(&[2, 1]));
        assert_eq!(keyed(&[1, 2]), keyed(&[1, 2]));
    }
}
