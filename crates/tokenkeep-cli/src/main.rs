//! The binary `tokenkeep`: the daemon, and the commands that ask it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod cli;
mod client;
mod commands;
mod config;
mod daemon;
mod discovered;
mod env;
mod error;
mod logging;
mod notify;
mod output;
mod reload;
mod server;
mod span;
mod state_dir;
mod suggest;
mod tls;
#[cfg(feature = "otel")]
mod traces;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = commands::credential::docker::arguments(std::env::args_os());
    match commands::run(cli::read(arguments).unwrap_or_else(|error| error.exit())) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::to_stderr(&logging::for_reader(error.report()));
            error.exit().into()
        }
    }
}
