//! `tokenkeep config`: whether the configuration is right, and what it comes to.

use crate::api::config::{ConfigJson, DeclaredJson};
use crate::cli::Common;
use crate::client::Client;
use crate::config::files::{self, Given, Loaded};
use crate::env;
use crate::error::{CliError, Exit};
use crate::output::{self, say};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Of `config`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep config check                      the file that `serve` would read
  tokenkeep config check new.toml             before it is put in place and reloaded: systemctl reload tokenkeep
  tokenkeep config show                       what the running daemon works with, and who said so
  TOKENKEEP_PROVIDERS__JIRA__CLIENT_ID=abc tokenkeep config show --config tokenkeep.toml

A flag stands above the environment, that above the file, that above the default. TOKENKEEP_SERVER__LISTEN is the
variable of listen in [server], and TOKENKEEP_SERVER__LISTEN_FILE names a file that holds its value; so for every
setting. SIGHUP makes the daemon read the file again; where it is wrong, the daemon keeps the one before.")]
pub struct ConfigArgs {
    /// What about it
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What about the configuration.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Say everything that is wrong with it
    Check(CheckArgs),
    /// Show every setting in effect, with its source
    Show(ShowArgs),
}

/// Of `config check`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep config check
  tokenkeep config check new.toml")]
pub struct CheckArgs {
    /// The file [default: the one that `serve` would read]
    #[arg(value_name = "F", env = env::CONFIG, hide_env_values = true)]
    pub file: Option<PathBuf>,
}

/// Of `config show`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep config show
  tokenkeep config show --config new.toml
  tokenkeep config show --json | jq .settings")]
pub struct ShowArgs {
    /// Of this file, rather than of the running daemon
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

const TARGET: &str = "/v1/config";

/// Checks or shows.
///
/// # Errors
/// The configuration is wrong, or the daemon refuses.
pub fn run(common: &Common, args: &ConfigArgs) -> Result<Exit, CliError> {
    match &args.command {
        ConfigCommand::Check(args) => check(common, args),
        ConfigCommand::Show(args) => show(common, args),
    }
}

/// Without a state folder, nothing can lie in it.
fn given(common: &Common, config: Option<PathBuf>) -> Given {
    Given { config, listen: None, state_dir: common.state_dir().ok() }
}

fn check(common: &Common, args: &CheckArgs) -> Result<Exit, CliError> {
    let Loaded { settings, path } = files::load(&given(common, args.file.clone()))?;
    let what =
        path.map_or_else(|| "no configuration file, and the environment".to_owned(), |p| p.display().to_string());
    say!(
        "{what}: right; {}, {}",
        count(settings.providers.len(), "provider"),
        count(settings.connections.len(), "connection")
    );
    if settings.providers.is_empty() {
        say!("warning: without a provider nothing can be imported; add a section [providers.NAME]");
    }
    Ok(Exit::Ok)
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn show(common: &Common, args: &ShowArgs) -> Result<Exit, CliError> {
    let config = match (&args.config, common.url()?, common.socket()) {
        (None, Some(_), _) => common.client()?.get(TARGET)?.json()?,
        // One that nobody listens on was left behind by a daemon that is gone.
        (None, None, Ok(socket)) if UnixStream::connect(&socket).is_ok() => {
            Client::new(socket).get(TARGET)?.json::<ConfigJson>()?
        }
        (named, ..) => of_file(common, named.clone().or_else(|| env::read(env::CONFIG).map(PathBuf::from)))?,
    };
    if args.json {
        output::write_json(&config)?;
    } else {
        output::write(&told(&config))?;
    }
    Ok(Exit::Ok)
}

fn of_file(common: &Common, config: Option<PathBuf>) -> Result<ConfigJson, CliError> {
    let Loaded { settings, path } = files::load(&given(common, config))?;
    Ok(ConfigJson {
        file: path.map(|path| path.display().to_string()),
        since: None,
        refused: None,
        connections: settings.connections.iter().map(DeclaredJson::new).collect(),
        settings: settings.shown,
        run_time_connections: None,
    })
}

fn told(config: &ConfigJson) -> String {
    let file = config.file.as_deref().unwrap_or("no file");
    let mut text = match &config.since {
        Some(since) => format!("{file}, in use since {since}\n"),
        None => format!("{file}, in use by nobody\n"),
    };
    if let Some(refused) = &config.refused {
        text.push_str(&format!("The file was refused at {}:\n", refused.at.as_deref().unwrap_or("-")));
        refused.report.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text.push('\n');
    let mut settings = output::table(&["SETTING", "VALUE", "SOURCE"]);
    for setting in &config.settings {
        let value = match &setting.after_restart {
            Some(then) => format!("{} (after a restart {then})", setting.value),
            None => setting.value.clone(),
        };
        settings.add_row([Cell::new(&setting.name), Cell::new(value), Cell::new(&setting.source)]);
    }
    text.push_str(&output::text_of(&settings));
    text.push_str(&connections(config));
    text
}

fn connections(config: &ConfigJson) -> String {
    let mut text = String::new();
    if !config.connections.is_empty() {
        let mut table = output::table(&["CONNECTION", "THE FILE IS MASTER OF", "RUN TIME IS MASTER OF", "NOW"]);
        for declared in &config.connections {
            let name = crate::cli::shown(&declared.namespace, &declared.name);
            let file = declared.file_is_master_of.join(", ");
            table.add_row([name.as_str(), file.as_str(), "tokens, times, history", &now(declared)]);
        }
        text = format!("\n{}", output::text_of(&table));
    }
    if let Some(others @ 1..) = config.run_time_connections {
        let noun = if others == 1 { "connection was" } else { "connections were" };
        text.push_str(&format!("\n{others} {noun} made at run time, which is master of all they have.\n"));
    }
    text
}

fn now(declared: &DeclaredJson) -> String {
    match (declared.connected, &declared.connected_to) {
        (None, _) => "-".to_owned(),
        (Some(false), _) => "not connected yet".to_owned(),
        (Some(true), None) => "connected".to_owned(),
        (Some(true), Some(other)) => {
            format!("connected to {other}: remove it from the file, then remove and import it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Setting, Source};

    #[test]
    fn every_setting_is_told_with_its_source() {
        let setting = |name: &str, value: &str, source: Source, after_restart: Option<&str>| Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            source,
            after_restart: after_restart.map(str::to_owned),
        };
        let flag = Source::Flag { name: "--listen".to_owned() };
        let file = Source::File { path: "t.toml".to_owned(), line: 3 };
        let declared = |connected, other: Option<&str>| DeclaredJson {
            name: "jira".to_owned(),
            namespace: "default".to_owned(),
            provider: "p".to_owned(),
            file_is_master_of: vec!["provider".to_owned()],
            connected,
            connected_to: other.map(str::to_owned),
        };
        let config = ConfigJson {
            file: Some("t.toml".to_owned()),
            since: Some("2026-11-23T10:00:00.000Z".to_owned()),
            refused: None,
            settings: vec![
                setting("server.listen", "127.0.0.1:1", flag, Some("127.0.0.1:2")),
                setting("providers.p.client_secret", "(set, from file s)", file, None),
            ],
            connections: vec![declared(Some(false), None), declared(Some(true), Some("q"))],
            run_time_connections: Some(1),
        };
        assert_eq!(
            told(&config),
            "t.toml, in use since 2026-11-23T10:00:00.000Z\n\n\
             SETTING                    VALUE                                      SOURCE\n\
             server.listen              127.0.0.1:1 (after a restart 127.0.0.1:2)  flag --listen\n\
             providers.p.client_secret  (set, from file s)                         t.toml:3\n\n\
             CONNECTION  THE FILE IS MASTER OF  RUN TIME IS MASTER OF   NOW\n\
             jira        provider               tokens, times, history  not connected yet\n\
             jira        provider               tokens, times, history  connected to q: remove it from the file, then remove and import it\n\n\
             1 connection was made at run time, which is master of all they have.\n"
        );
    }
}
