//! The simulation at its CI size, and the planted bugs that it must find.

use tokenkeep_tests::sim::parts::Sabotage;
use tokenkeep_tests::sim::{Size, run};

/// Seeds that CI runs; `cargo run --release -p tokenkeep-tests --bin tokenkeep-sim -- SEEDS` runs any number.
const SEEDS: u64 = 60;

#[test]
fn no_seed_breaks_an_invariant() {
    let mut refreshes = 0;
    for seed in 0..SEEDS {
        let report = run(seed, Size::default(), Sabotage::None);
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
        refreshes += report.refreshes;
    }
    assert!(refreshes > 1_000 * SEEDS, "the simulation hardly did anything: {refreshes} refreshes");
}

#[test]
fn the_same_seed_has_the_same_trace() {
    for seed in [3, 4] {
        let once = run(seed, Size::default(), Sabotage::None);
        assert_eq!(once, run(seed, Size::default(), Sabotage::None));
        assert_ne!(once.trace, run(seed + 100, Size::default(), Sabotage::None).trace);
    }
}

fn is_caught(sabotage: Sabotage) {
    let caught = (0..SEEDS).find(|&seed| !run(seed, Size::default(), sabotage).violations.is_empty());
    assert!(caught.is_some(), "{sabotage:?} survived {SEEDS} seeds");
}

#[test]
fn a_journal_that_keeps_nothing_is_caught() {
    is_caught(Sabotage::NoJournal);
}

#[test]
fn a_blind_resend_to_a_strict_provider_is_caught() {
    is_caught(Sabotage::BlindResend);
}

#[test]
fn a_token_that_is_published_before_its_commit_is_caught() {
    is_caught(Sabotage::PublishBeforeCommit);
}
