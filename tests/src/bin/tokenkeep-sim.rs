//! Runs any number of seeds of the simulation: `tokenkeep-sim [SEEDS] [FIRST]`. One seed with its trace:
//! `TOKENKEEP_SIM_TRACE=1 tokenkeep-sim 1 SEED`.

use std::process::ExitCode;
use tokenkeep_tests::sim::parts::Sabotage;
use tokenkeep_tests::sim::{Size, run};

/// Refreshes of an hour's token in a year.
const REFRESHES_PER_TOKEN_YEAR: f64 = 8_760.0;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Ok(seeds), Ok(first)) = (numbers.next().unwrap_or(Ok(100)), numbers.next().unwrap_or(Ok(0))) else {
        eprintln!("usage: tokenkeep-sim [SEEDS] [FIRST]: two whole numbers");
        return ExitCode::from(2);
    };
    let (mut refreshes, mut crashes, mut lost, mut faults, mut broken) = (0, 0, 0, 0, 0);
    for seed in first..first + seeds {
        let report = run(seed, Size::default(), Sabotage::None);
        for violation in &report.violations {
            println!("seed {seed}: {violation}");
        }
        broken += u64::from(!report.violations.is_empty());
        refreshes += report.refreshes;
        crashes += report.crashes;
        lost += report.lost;
        faults += report.faults.values().sum::<u64>();
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let years = refreshes as f64 / REFRESHES_PER_TOKEN_YEAR;
    println!(
        "{seeds} seeds: {refreshes} refreshes ({years:.1} token-years), {faults} faults, {crashes} crashes, {lost} grants lost in flight and flagged, {broken} seeds with violations"
    );
    ExitCode::from(u8::from(broken > 0))
}
