//! `tokenkeep credential`: a helper for programs that have a protocol of their own for credentials.

pub mod docker;
pub mod git;
pub mod kube;

use super::client;
use crate::api::json::{ConnectionJson, parse_time};
use crate::cli::{Common, listing};
use crate::error::{CliError, Exit};
use clap::{Args, Subcommand};
use std::io::Read as _;
use zeroize::Zeroizing;

/// The most bytes that a program may send; what it has to say is far shorter.
const INPUT_MAX: u64 = 64 * 1024;

/// Of `credential`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  git config --global credential.https://git.example.com.helper '!tokenkeep credential git --connection work'
  kubectl config set-credentials me --exec-command=tokenkeep --exec-arg=credential --exec-arg=kube --exec-arg=cluster \\
      --exec-api-version=client.authentication.k8s.io/v1
  ln -s \"$(command -v tokenkeep)\" ~/.local/bin/docker-credential-tokenkeep")]
pub struct CredentialArgs {
    /// Whose protocol.
    #[command(subcommand)]
    pub helper: Helper,
}

/// The protocols.
#[derive(Subcommand, Debug)]
pub enum Helper {
    /// git's: gitcredentials(7), git-credential(1)
    Git(git::GitArgs),
    /// kubectl's: ExecCredential of client.authentication.k8s.io
    Kube(kube::KubeArgs),
    /// docker's: docker-credential-helpers
    Docker(docker::DockerArgs),
}

/// Answers the program.
///
/// # Errors
/// There is no token for it, or it does not speak its protocol.
pub fn run(common: &Common, args: &CredentialArgs) -> Result<Exit, CliError> {
    match &args.helper {
        Helper::Git(args) => git::run(common, args),
        Helper::Kube(args) => kube::run(common, args),
        Helper::Docker(args) => docker::run(common, args),
    }
}

/// What the program wrote to standard input, all of it: it may hold a secret.
fn read_input() -> Result<Zeroizing<String>, CliError> {
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(INPUT_MAX + 1).read_to_string(&mut text);
    let why = match read {
        Ok(length) if length as u64 <= INPUT_MAX => return Ok(text),
        Ok(_) => format!("it has more than {INPUT_MAX} bytes"),
        Err(error) => error.to_string(),
    };
    Err(CliError::new("standard input is not what this protocol sends")
        .evidence(why)
        .next_step("let git, kubectl or docker call this command; `--help` says how"))
}

/// The connections of the namespace that have this label, with its value.
fn labelled(common: &Common, label: &str) -> Result<Vec<(ConnectionJson, String)>, CliError> {
    let all: Vec<ConnectionJson> = client(common)?.pages(&listing(&common.namespace))?;
    let value = |connection: &ConnectionJson| connection.labels.get(label).cloned();
    Ok(all.into_iter().filter_map(|connection| value(&connection).map(|value| (connection, value))).collect())
}

/// The one connection whose label names this host; `None` where there is none.
///
/// # Errors
/// Several do: which one is meant cannot be guessed.
fn labelled_with_host(common: &Common, label: &str, host: &str) -> Result<Option<ConnectionJson>, CliError> {
    let mut found: Vec<ConnectionJson> =
        labelled(common, label)?.into_iter().filter(|(_, value)| names_host(value, host)).map(|(c, _)| c).collect();
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let names: Vec<&str> = found.iter().map(|connection| connection.name.as_str()).collect();
    Err(CliError::usage(format!("{} connections have the label {label}={host}", found.len()))
        .evidence(names.join(", "))
        .next_step("leave the label to one of them, or name the connection with --connection"))
}

/// Whether a label's value, one or more hosts separated by commas, has this one.
fn names_host(value: &str, host: &str) -> bool {
    value.split(',').any(|named| host_of(named.trim()).eq_ignore_ascii_case(host))
}

/// The host of an address, with its port where it has one; the scheme and the path may be missing.
fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// A time of the API in seconds since the Unix epoch, rounded down.
fn unix_seconds(at: &str) -> Option<i64> {
    parse_time(at).map(|at| at.as_millis().div_euclid(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_names_whole_hosts() {
        for (value, host, named) in [
            ("git.example.com", "git.example.com", true),
            ("Git.Example.com", "git.example.com", true),
            ("a.test, b.test:8443", "b.test:8443", true),
            ("https://index.docker.io/v1/", "index.docker.io", true),
            ("example.com", "git.example.com", false),
            ("git.example.com", "git.example.com.evil.test", false),
            ("b.test:8443", "b.test", false),
            ("", "a.test", false),
        ] {
            assert_eq!(names_host(value, host), named, "{value} {host}");
        }
    }

    #[test]
    fn times_are_rounded_down() {
        assert_eq!(unix_seconds("2026-11-23T10:00:00.999Z"), Some(1_795_428_000));
        assert_eq!(unix_seconds("soon"), None);
    }
}
