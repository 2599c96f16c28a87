//! What the daemon says on standard error while it runs.

use crate::env;
use crate::error::CliError;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error: `TOKENKEEP_LOG` filters it, `default` where that is not set.
///
/// # Errors
/// The filter is none.
pub fn start(default: &str) -> Result<(), CliError> {
    let text = env::read(env::LOG).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        CliError::usage(format!("{} is no filter: {error}", env::LOG))
            .next_step("expected a level (error, warn, info, debug, trace) or target=level, separated by commas")
    })?;
    let colour = std::io::stderr().is_terminal() && env::read(env::NO_COLOR).is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    Ok(())
}
