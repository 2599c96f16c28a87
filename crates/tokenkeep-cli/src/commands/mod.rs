//! One file a command: what it takes, and what it does.

pub mod api_key;
pub mod audit;
pub mod backup;
pub mod completions;
pub mod config;
pub mod confirm;
pub mod connect;
pub mod credential;
pub mod demo;
pub mod doctor;
pub mod events;
pub mod exec;
pub mod export;
pub mod import;
pub mod list;
pub mod man;
pub mod master_key;
pub mod mock_provider;
pub mod new_file;
pub mod pause;
pub mod providers;
pub mod ready;
pub mod refresh;
pub mod remove;
pub mod restore;
pub mod serve;
pub mod status;
pub mod token;

use crate::api::json::{ConnectionJson, Page};
use crate::api::problem::NEEDS_REAUTH;
use crate::cli::{Cli, Command, Common, listing, target};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::suggest;

/// Runs a command.
///
/// # Errors
/// It did not do what it was asked: why, and what to do.
pub fn run(cli: Cli) -> Result<Exit, CliError> {
    let common = &cli.common;
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(common, &args),
        Command::Config(args) => config::run(common, &args),
        Command::Connect(args) => connect::run(common, &args),
        Command::Import(args) => import::run(common, &args),
        Command::Export(args) => export::run(common, &args),
        Command::List(args) => list::run(common, &args),
        Command::Status(args) => status::run(common, &args),
        Command::Token(args) => token::run(common, &args),
        Command::Exec(args) => exec::run(common, &args),
        Command::Credential(args) => credential::run(common, &args),
        Command::Refresh(args) => refresh::run(common, &args),
        Command::Pause(args) => pause::pause(common, &args),
        Command::Resume(args) => pause::resume(common, &args),
        Command::Remove(args) => remove::run(common, &args),
        Command::Events(args) => events::run(common, &args),
        Command::ApiKey(args) => api_key::run(common, &args),
        Command::Audit(args) => audit::run(common, &args),
        Command::Ready(args) => ready::run(common, &args),
        Command::MasterKey(args) => master_key::run(common, &args),
        Command::Backup(args) => backup::run(common, &args),
        Command::Restore(args) => restore::run(common, &args),
        Command::Providers(args) => providers::run(&args),
        Command::Doctor(args) => doctor::run(common, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::MockProvider(args) => mock_provider::run(&args),
    }
}

/// A client of the daemon that the command line names.
fn client(common: &Common) -> Result<Client, CliError> {
    common.client()
}

/// A connection by its name.
fn connection(client: &Client, common: &Common, name: &str) -> Result<ConnectionJson, CliError> {
    let answer = client.get(&target(&common.namespace, name, ""));
    answer.map_err(|error| with_suggestion(error, client, common, name))?.json()
}

/// Adds what was probably meant to an error about a name that does not exist.
fn with_suggestion(error: CliError, client: &Client, common: &Common, name: &str) -> CliError {
    if error.exit() != Exit::NotFound {
        return error;
    }
    // One page is enough to help, and cheap enough where there are a million.
    let target = format!("{}&limit=1000", listing(&common.namespace));
    let Ok(page) = client.get(&target).and_then(|answer| answer.json::<Page<ConnectionJson>>()) else {
        return error;
    };
    match suggest::nearest(name, page.items.iter().map(|connection| connection.name.as_str())) {
        Some(meant) => error.next_step(format!("did you mean `{meant}`?")),
        None => error,
    }
}

/// [`Exit::NeedsReauth`] when any of them needs a human.
fn exit_of<'a>(connections: impl IntoIterator<Item = &'a ConnectionJson>) -> Exit {
    if connections.into_iter().any(|connection| connection.status == NEEDS_REAUTH) {
        Exit::NeedsReauth
    } else {
        Exit::Ok
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::api::json::tests::{connection, times};

    pub(crate) fn with_status(status: &str) -> ConnectionJson {
        ConnectionJson { status: status.to_owned(), ..ConnectionJson::new(&connection(), &times()) }
    }

    #[test]
    fn one_connection_that_needs_a_human_decides_the_exit_code() {
        let (fresh, dead) = (with_status("fresh"), with_status("needs_reauth"));
        assert_eq!(exit_of([&fresh, &dead]), Exit::NeedsReauth);
        assert_eq!(exit_of([&fresh, &with_status("expired")]), Exit::Ok);
        assert_eq!(exit_of([]), Exit::Ok);
    }
}
