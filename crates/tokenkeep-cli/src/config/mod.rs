//! The configuration: TOML and environment in, [`tokenkeep::Config`] out (interface section 3).
//!
//! Flag > environment > file > default, for each setting. Reading goes on after an error, so that all are told at once.

mod connections;
mod document;
pub mod files;
pub mod live;
mod providers;
mod secrets;
pub mod shown;
mod webhooks;

pub use document::{ConfigErrors, Sources, check_endpoint};
pub use shown::{Setting, Source};

use crate::env;
use crate::tls::TlsFiles;
use document::{ConfigError, Document, Section, Value};
use secrets::Secrets;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokenkeep::KeySource;
use tokenkeep::config::{Declared, IN_FLIGHT_MAX};
use tokenkeep_core::model::printable;
use tokenkeep_core::schedule::Policy;
use url::Url;

/// Where the daemon listens on TCP unless said otherwise.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7878);

/// The largest number that any limit of the configuration takes.
const LIMIT_MAX: u32 = 10_000;
/// The most attempts in flight: each has a journal slot of 80 KiB.
const IN_FLIGHT_LIMIT: u32 = 4_096;

/// What only a restart changes; everything else a reload does.
pub const RESTART_SETTINGS: &[&str] =
    &["server.listen", "server.tls_cert", "server.tls_key", "store.url", "store.master_key", "refresh.in_flight_max"];

const SECTIONS: &[&str] = &["server", "store", "refresh", "metrics", "providers", "connections", "webhooks"];
const STORE_KEYS: &[&str] = &["url", "master_key"];
const MASTER_KEY_EXPECTED: &str = "{ file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }";

/// A configuration that has been read and found right.
#[derive(Debug, Default)]
pub struct Settings {
    /// Where to listen on TCP, if the configuration says.
    pub listen: Option<SocketAddr>,
    /// The certificate to listen with.
    pub tls: Option<TlsFiles>,
    /// The address that browsers see, if the configuration says.
    pub public_url: Option<Url>,
    /// Where the master key comes from.
    pub master_key: KeySource,
    /// How eager refreshing is.
    pub policy: Policy,
    /// How many attempts may be in flight over all providers, if the configuration says.
    pub in_flight_max: Option<u32>,
    /// The providers.
    pub providers: Vec<ProviderSettings>,
    /// The connections.
    pub connections: Vec<Declared>,
    /// Where webhooks may lead beside the public Internet.
    pub webhook_hosts: Vec<String>,
    /// Every setting with its source.
    pub shown: Vec<Setting>,
}

/// A provider of the configuration.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// What the engine needs.
    pub provider: tokenkeep::Provider,
    /// The issuer that its endpoints are to be asked of; until then `provider` has none.
    pub discover: Option<String>,
}

impl Settings {
    /// What the library needs to know, with this state folder.
    #[must_use]
    pub fn into_config(self, state_dir: impl Into<PathBuf>) -> tokenkeep::Config {
        tokenkeep::Config {
            master_key: self.master_key,
            policy: self.policy,
            in_flight_max: self.in_flight_max.unwrap_or(IN_FLIGHT_MAX),
            providers: self.providers.into_iter().map(|p| p.provider).collect(),
            connections: self.connections,
            webhook_hosts: self.webhook_hosts,
            ..tokenkeep::Config::new(state_dir)
        }
    }
}

/// Reads a configuration. `path` names it in errors, and relative paths in it start in its folder.
///
/// # Errors
/// Everything that is wrong: where, what was found, what was expected.
pub fn parse(text: &str, path: &Path, sources: Sources<'_>) -> Result<Settings, ConfigErrors> {
    let document = Document::parse(text, path, sources)?;
    let settings = read(&document.root(), &Secrets::new(&document));
    Ok(Settings { shown: document.finish()?, ..settings })
}

fn read(root: &Section<'_>, secrets: &Secrets<'_>) -> Settings {
    root.only(SECTIONS);
    let server = part(root, "server", &["listen", "public_url", "tls_cert", "tls_key"]);
    let store = part(root, "store", STORE_KEYS);
    let refresh = part(root, "refresh", &["check_interval", "refresh_threshold", "max_retries", "in_flight_max"]);
    let tls = tls(&server);
    let listen = listen(&server, tls.is_some());
    let metrics = part(root, "metrics", &["per_connection"]);
    // Who shows metrics asks the settings in use.
    metrics.read_or("per_connection", (false, "false".to_owned()), Value::truth);
    let public_url = server.read("public_url", Value::endpoint);
    store.read_or("url", ((), STORE_DEFAULT.to_owned()), check_store);
    let default = (KeySource::default(), KeySource::default().to_string());
    let master_key = store.read_or("master_key", default, |value| master_key(value, root.document().folder()));
    let policy = policy(&refresh);
    let default = (None, IN_FLIGHT_MAX.to_string());
    let in_flight_max = refresh.read_or("in_flight_max", default, |value| value.number(1..=IN_FLIGHT_LIMIT).map(Some));
    let sections = each(root, "providers", providers::KEYS);
    let names: Vec<&str> = sections.iter().map(|(name, _)| name.as_str()).collect();
    let providers = sections.iter().filter_map(|(name, section)| providers::read(name, section, secrets)).collect();
    let webhook_hosts = webhooks::read(&part(root, "webhooks", webhooks::KEYS));
    let connections = each(root, "connections", connections::KEYS);
    Settings {
        listen,
        tls,
        public_url,
        master_key,
        policy,
        in_flight_max,
        connections: connections::read(&connections, &names),
        providers,
        webhook_hosts,
        shown: Vec::new(),
    }
}

/// A section with settings of these keys.
fn part<'a>(root: &Section<'a>, name: &'static str, keys: &[&str]) -> Section<'a> {
    let section = root.section(name);
    section.settings(keys);
    section
}

/// The sections of `[name]`, those that only variables have included.
fn each<'a>(root: &Section<'a>, name: &'static str, keys: &[&str]) -> Vec<(String, Section<'a>)> {
    let all = root.section(name);
    let mut sections: Vec<_> = all.sections().into_iter().map(|(name, found)| (name.to_owned(), found)).collect();
    let known: Vec<String> = sections.iter().map(|(name, _)| env::segment(name)).collect();
    for (segment, variable) in segments(root.document().sources().variables, name, keys) {
        // A name that is nearly one of the file's is taken for a typing error, and so is nobody's.
        let near = crate::suggest::nearest(&segment, known.iter().map(String::as_str)).is_some();
        if !known.contains(&segment) && !near {
            let name = segment.to_ascii_lowercase();
            let section = all.of_variables(&name, &variable);
            sections.push((name, section));
        }
    }
    for (_, section) in &sections {
        section.settings(keys);
    }
    sections
}

/// The sections of `[name]` that variables are about, each with one of its variables.
fn segments(variables: &[String], name: &str, keys: &[&str]) -> BTreeMap<String, String> {
    let prefix = format!("TOKENKEEP_{}__", env::segment(name));
    let keys: Vec<String> = keys.iter().map(|key| env::segment(key)).collect();
    let is_key =
        |key: &str| keys.iter().any(|known| known == key.strip_suffix(env::FILE_SUFFIX).unwrap_or(key) || known == key);
    let of = |variable: &String| {
        let (segment, key) = variable.strip_prefix(&prefix)?.rsplit_once("__")?;
        (is_key(key) && !segment.is_empty()).then(|| (segment.to_owned(), variable.clone()))
    };
    variables.iter().filter_map(of).collect()
}

fn tls(server: &Section<'_>) -> Option<TlsFiles> {
    let expected = "the path of a PEM file";
    let path = |key| server.read(key, |value| Ok(server.document().folder().join(value.text(expected)?)));
    match (path("tls_cert"), path("tls_key")) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        (None, None) => None,
        _ => {
            let found = "only one of tls_cert and tls_key is given".to_owned();
            server.document().keep::<()>(Err(server.error(found, "both, or neither")));
            None
        }
    }
}

fn listen(server: &Section<'_>, with_tls: bool) -> Option<SocketAddr> {
    let read = |value: &Value<'_>| {
        let address = value.parsed(LISTEN_EXPECTED, parse_address)?;
        check_address(address, with_tls).map_err(|found| value.error(found, LISTEN_EXPECTED))?;
        Ok(Some(address))
    };
    let Some(flag) = server.document().sources().listen else {
        return server.read_or("listen", (None, LISTEN_DEFAULT.to_string()), read);
    };
    // What stands below the flag must be right all the same: without the flag it would count.
    if let Some(value) = server.value("listen") {
        server.document().keep(read(&value));
    }
    let checked = check_address(flag, with_tls).map_err(|found| server.error(found, LISTEN_EXPECTED));
    server.document().keep(checked);
    let source = Source::Flag { name: "--listen".to_owned() };
    server.document().note("server", "listen", flag.to_string(), source);
    Some(flag)
}

/// Beyond this machine nothing travels in the clear.
fn check_address(address: SocketAddr, with_tls: bool) -> Result<(), String> {
    if with_tls || address.ip().is_loopback() {
        return Ok(());
    }
    Err(format!("{address} is not of this machine alone, and there is no tls_cert"))
}

/// What an address to listen on looks like.
pub const LISTEN_EXPECTED: &str =
    "a loopback address such as 127.0.0.1:7878 or [::1]:7878, or another one together with tls_cert and tls_key";

/// Reads an address to listen on. Whether it may be listened on, the rest of the configuration decides.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address = numeric.as_deref().unwrap_or(text).parse();
    address.map_err(|_| format!("`{}` cannot be listened on: expected {LISTEN_EXPECTED}", printable(text, 60)))
}

/// Reads a loopback address to listen on.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let expected = "a loopback address such as 127.0.0.1:7878 or [::1]:7878";
    let found = parse_address(text).ok().filter(|address| address.ip().is_loopback());
    found.ok_or_else(|| format!("`{}` cannot be listened on: expected {expected}", printable(text, 60)))
}

/// The one store that there is so far.
const STORE_DEFAULT: &str = "sqlite:tokenkeep.db";

/// There is one store so far, and its file has one name.
fn check_store(url: &Value<'_>) -> Result<(), ConfigError> {
    let expected = format!("\"{STORE_DEFAULT}\", the database in the state folder");
    match url.text(&expected)? {
        STORE_DEFAULT => Ok(()),
        text if text.starts_with("postgres:") || text.starts_with("postgresql:") => {
            Err(url.error("PostgreSQL is not supported yet", format!("expected {expected}, until it is")))
        }
        // The URL of another database may hold a password: it is not repeated in words.
        _ => Err(url.error("`store.url` names a database that is not supported", format!("expected {expected}"))),
    }
}

/// Where the master key comes from; never the key itself.
fn master_key(value: &Value<'_>, folder: &Path) -> Result<KeySource, ConfigError> {
    if value.is_text() || value.of_environment().is_some() {
        return Err(value.error(
            "a master key must not stand in the configuration itself, where copies and backups spread it",
            format!("expected master_key = {MASTER_KEY_EXPECTED}"),
        ));
    }
    let (kind, place) = value.choice(&["file", "env", "credential"], MASTER_KEY_EXPECTED)?;
    let name = place.text("a string")?;
    if name.is_empty() || name.contains(char::is_control) || (kind == "credential" && name.contains('/')) {
        return Err(place.error("this names no master key", format!("expected {MASTER_KEY_EXPECTED}")));
    }
    Ok(match kind {
        "file" => KeySource::File(folder.join(name)),
        "env" => KeySource::Environment(name.to_owned()),
        _ => KeySource::Credential(name.to_owned()),
    })
}

fn policy(refresh: &Section<'_>) -> Policy {
    let default = Policy::default();
    let span = |key: &str, default: Duration, most_s: u64| {
        let bounds = Duration::from_secs(1)..=Duration::from_secs(most_s);
        refresh.read_or(key, (default, format!("{}s", default.as_secs())), |value| value.span(bounds))
    };
    let retries = (default.max_retries, default.max_retries.to_string());
    Policy {
        check_interval: span("check_interval", default.check_interval, 86_400),
        refresh_threshold: span("refresh_threshold", default.refresh_threshold, 30 * 86_400),
        max_retries: refresh.read_or("max_retries", retries, |value| value.number(0..=LIMIT_MAX)),
    }
}

#[cfg(test)]
mod tests;
