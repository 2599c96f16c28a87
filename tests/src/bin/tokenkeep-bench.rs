//! Measures Tokenkeep beside what it is compared with: `tokenkeep-bench [--quick] [--dir FOLDER] [--only PART]...`.
//!
//! It needs the release build of `tokenkeep` beside itself. Nothing is asserted about time: the exit code is 0
//! whatever the figures are.

use std::process::ExitCode;
use tokenkeep_tests::bench::{self, Options, api, provider};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.split_first() {
        Some((first, rest)) if first == provider::SUBCOMMAND => provider::serve(rest),
        Some((first, rest)) if first == api::SUBCOMMAND => api::serve(rest),
        _ => Options::parse(&arguments).and_then(|options| bench::run(&options)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tokenkeep-bench: {error}");
            ExitCode::from(2)
        }
    }
}
