//! The configuration file: TOML in, [`tokenkeep::Config`] out (interface section 3).

mod document;

pub use document::{ConfigError, Sources};

use document::{Document, Section, Value, env_setting};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokenkeep::config::{IN_FLIGHT_MAX, REFRESH_IN_FLIGHT_MAX, REFRESH_PER_SECOND};
use tokenkeep_core::Secret;
use tokenkeep_core::catalogue::{PRESETS, Preset, preset};
use tokenkeep_core::model::{check_name, printable};
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::{ClientAuth, Rotation, Rules};
use tokenkeep_core::schedule::Policy;
use url::Url;

/// Where the daemon listens on TCP unless said otherwise.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7878);

/// The largest number that any limit of the configuration takes.
const LIMIT_MAX: u32 = 10_000;
/// The most attempts in flight: each has a journal slot of 80 KiB.
const IN_FLIGHT_LIMIT: u32 = 4_096;

const SECTIONS: &[&str] = &["server", "store", "refresh", "providers", "connections"];
const PROVIDER_KEYS: &[&str] = &[
    "preset",
    "issuer",
    "token_url",
    "authorize_url",
    "revoke_url",
    "device_url",
    "client_id",
    "client_secret",
    "client_auth",
    "rotation",
    "refresh_per_second",
    "refresh_in_flight_max",
];
const SECRET_EXPECTED: &str = "{ env = \"NAME\" } or { file = \"PATH\" }";

/// A configuration that has been read and found right.
#[derive(Debug, Default)]
pub struct Settings {
    /// Where to listen on TCP, if the configuration says.
    pub listen: Option<SocketAddr>,
    /// The address that browsers see, if the configuration says.
    pub public_url: Option<Url>,
    /// How eager refreshing is.
    pub policy: Policy,
    /// How many attempts may be in flight over all providers, if the configuration says.
    pub in_flight_max: Option<u32>,
    /// The providers.
    pub providers: Vec<ProviderSettings>,
}

/// A provider of the configuration.
#[derive(Debug)]
pub struct ProviderSettings {
    /// What the engine needs.
    pub provider: tokenkeep::Provider,
    /// The other endpoints: authorization, revocation, device authorization.
    pub endpoints: Endpoints,
}

/// Endpoints that signing in and revoking need.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Where a person signs in.
    pub authorize_url: Option<Url>,
    /// Where tokens are revoked (RFC 7009).
    pub revoke_url: Option<Url>,
    /// Where a device sign-in starts (RFC 8628).
    pub device_url: Option<Url>,
}

impl Settings {
    /// What the library needs to know, with this state folder.
    #[must_use]
    pub fn into_config(self, state_dir: impl Into<PathBuf>) -> tokenkeep::Config {
        tokenkeep::Config {
            policy: self.policy,
            in_flight_max: self.in_flight_max.unwrap_or(IN_FLIGHT_MAX),
            providers: self.providers.into_iter().map(|p| p.provider).collect(),
            ..tokenkeep::Config::new(state_dir)
        }
    }
}

/// Reads a configuration. `path` names it in errors, and relative secret files stand beside it.
///
/// # Errors
/// The first thing that is wrong: where, what was found, what was expected.
pub fn parse(text: &str, path: &Path, sources: Sources<'_>) -> Result<Settings, ConfigError> {
    let document = Document::parse(text, path, sources)?;
    let root = document.root();
    root.only(SECTIONS)?;
    if let Some(connections) = root.section("connections")? {
        return Err(connections.error(
            "connections cannot be declared in the configuration yet",
            "remove the section and use `tokenkeep import NAME --provider P`",
        ));
    }
    let sections = Sections { root: &root, sources };
    sections.check_store()?;
    let refresh = sections.get("refresh", &["check_interval", "refresh_threshold", "max_retries", "in_flight_max"])?;
    let server = sections.get("server", &["listen", "public_url"])?;
    let secrets = Secrets { sources, folder: path.parent().unwrap_or(Path::new("")) };
    Ok(Settings {
        listen: server.setting("listen")?.map(|v| v.parsed(LISTEN_EXPECTED, parse_listen)).transpose()?,
        public_url: server.setting("public_url")?.map(|v| v.endpoint()).transpose()?,
        policy: policy(&refresh)?,
        in_flight_max: refresh.setting("in_flight_max")?.map(|v| v.number(1..=IN_FLIGHT_LIMIT)).transpose()?,
        providers: providers(&root, &secrets)?,
    })
}

/// What an address to listen on looks like.
pub const LISTEN_EXPECTED: &str =
    "a loopback address such as 127.0.0.1:7878 or [::1]:7878 (other addresses need TLS, which comes later)";

/// Reads an address to listen on; only loopback ones are taken.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric
        .as_deref()
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|address: &SocketAddr| address.ip().is_loopback())
        .ok_or_else(|| format!("`{}` cannot be listened on: expected {LISTEN_EXPECTED}", printable(text, 60)))
}

/// A named section with the environment above it; the section itself may be missing.
struct Named<'a> {
    name: &'static str,
    section: Option<Section<'a>>,
    sources: Sources<'a>,
}

impl<'a> Named<'a> {
    fn setting(&self, key: &str) -> Result<Option<Value<'a>>, ConfigError> {
        match &self.section {
            Some(section) => section.setting(key),
            None => env_setting(self.sources, self.name, key),
        }
    }
}

struct Sections<'a> {
    root: &'a Section<'a>,
    sources: Sources<'a>,
}

impl<'a> Sections<'a> {
    fn get(&self, name: &'static str, keys: &[&str]) -> Result<Named<'a>, ConfigError> {
        let section = self.root.section(name)?;
        if let Some(section) = &section {
            section.only(keys)?;
        }
        Ok(Named { name, section, sources: self.sources })
    }

    /// There is one store so far, and its file has one name.
    fn check_store(&self) -> Result<(), ConfigError> {
        let Some(url) = self.get("store", &["url"])?.setting("url")? else {
            return Ok(());
        };
        let expected = "\"sqlite:tokenkeep.db\", the database in the state folder";
        match url.text(expected)? {
            "sqlite:tokenkeep.db" => Ok(()),
            text if text.starts_with("postgres:") || text.starts_with("postgresql:") => {
                Err(url.error("PostgreSQL is not supported yet", format!("expected {expected}, until it is")))
            }
            // The URL of another database may hold a password: it is not repeated in words.
            _ => Err(url.error("`store.url` names a database that is not supported", format!("expected {expected}"))),
        }
    }
}

fn policy(refresh: &Named<'_>) -> Result<Policy, ConfigError> {
    let default = Policy::default();
    let seconds = Duration::from_secs;
    Ok(Policy {
        check_interval: match refresh.setting("check_interval")? {
            Some(value) => value.span(seconds(1)..=seconds(86_400))?,
            None => default.check_interval,
        },
        refresh_threshold: match refresh.setting("refresh_threshold")? {
            Some(value) => value.span(seconds(1)..=seconds(30 * 86_400))?,
            None => default.refresh_threshold,
        },
        max_retries: match refresh.setting("max_retries")? {
            Some(value) => value.number(0..=LIMIT_MAX)?,
            None => default.max_retries,
        },
    })
}

fn providers(root: &Section<'_>, secrets: &Secrets<'_>) -> Result<Vec<ProviderSettings>, ConfigError> {
    let Some(all) = root.section("providers")? else {
        return Ok(Vec::new());
    };
    all.sections()?.into_iter().map(|(name, section)| provider(name, &section, secrets)).collect()
}

fn provider(name: &str, section: &Section<'_>, secrets: &Secrets<'_>) -> Result<ProviderSettings, ConfigError> {
    check_name(name).map_err(|error| section.error(error.to_string(), "give the provider another name"))?;
    section.only(PROVIDER_KEYS)?;
    if let Some(issuer) = section.value("issuer") {
        return Err(issuer.error(
            "endpoints cannot be discovered from an issuer yet",
            "give token_url itself: it is token_endpoint in ISSUER/.well-known/openid-configuration",
        ));
    }
    let preset = section.value("preset").map(|value| known_preset(&value)).transpose()?;
    let rules = rules(section, preset)?;
    let client = client(section, secrets, rules.client_auth)?;
    let endpoint = |key: &str| section.value(key).map(|value| value.endpoint()).transpose();
    let limit = |key: &str, default: u32| section.value(key).map_or(Ok(default), |value| value.number(1..=LIMIT_MAX));
    let mut provider = tokenkeep::Provider::new(name, token_url(section, preset)?, client, rules);
    provider.refresh_per_second = limit("refresh_per_second", REFRESH_PER_SECOND)?;
    provider.refresh_in_flight_max = limit("refresh_in_flight_max", REFRESH_IN_FLIGHT_MAX)?;
    let endpoints = Endpoints {
        authorize_url: endpoint("authorize_url")?,
        revoke_url: endpoint("revoke_url")?,
        device_url: endpoint("device_url")?,
    };
    Ok(ProviderSettings { provider, endpoints })
}

fn known_preset(value: &Value<'_>) -> Result<&'static Preset, ConfigError> {
    let ids: Vec<&str> = PRESETS.iter().map(|preset| preset.id).collect();
    let expected = format!("one of: {}", ids.join(", "));
    let id = value.text(&expected)?;
    preset(id).ok_or_else(|| {
        let expected = match crate::suggest::nearest(id, ids) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => {
                format!("expected {expected}; any other provider needs no preset, only token_url")
            }
        };
        value.error(format!("there is no preset `{}`", printable(id, 60)), expected)
    })
}

fn token_url(section: &Section<'_>, preset: Option<&Preset>) -> Result<Url, ConfigError> {
    if let Some(value) = section.value("token_url") {
        return value.endpoint();
    }
    preset.and_then(|preset| Url::parse(preset.token_url).ok()).ok_or_else(|| {
        section.error("this provider has no token_url", "add token_url = \"https://...\", or a preset that knows it")
    })
}

fn rules(section: &Section<'_>, preset: Option<&Preset>) -> Result<Rules, ConfigError> {
    let mut rules = preset.map_or_else(Rules::default, |preset| preset.rules.clone());
    if let Some(value) = section.value("client_auth") {
        let expected = "client_secret_post, client_secret_basic or none";
        rules.client_auth = value.parsed(expected, ClientAuth::parse)?;
    }
    if let Some(value) = section.value("rotation") {
        let expected = "persistent, grace:SECONDS (1 to 86400), until-used, strict or unknown";
        rules.rotation = value.parsed(expected, Rotation::parse)?;
    }
    Ok(rules)
}

fn client(section: &Section<'_>, secrets: &Secrets<'_>, auth: ClientAuth) -> Result<Client, ConfigError> {
    let Some(id) = section.value("client_id") else {
        return Err(section.error("this provider has no client_id", "add client_id = \"...\", as the provider gave it"));
    };
    let text = id.text("a string")?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(id.error(
            "`client_id` is empty or has control characters",
            "expected the client id as the provider gave it",
        ));
    }
    let secret = section.value("client_secret").map(|value| secrets.read(&value)).transpose()?;
    match (auth, &secret) {
        (ClientAuth::None, Some(_)) => Err(section.error(
            "client_auth = \"none\" and a client_secret contradict each other",
            "remove one of them: a public client has no secret",
        )),
        (ClientAuth::SecretPost | ClientAuth::SecretBasic, None) => Err(section.error(
            "this provider has no client_secret",
            format!("add client_secret = {SECRET_EXPECTED}, or client_auth = \"none\" for a public client"),
        )),
        _ => Ok(Client { id: text.to_owned(), secret }),
    }
}

/// Where secrets come from.
struct Secrets<'a> {
    sources: Sources<'a>,
    folder: &'a Path,
}

impl Secrets<'_> {
    fn read(&self, value: &Value<'_>) -> Result<Secret, ConfigError> {
        if value.is_text() {
            return Err(value.error(
                "a secret must not stand in the configuration itself, where copies and backups spread it",
                format!("expected client_secret = {SECRET_EXPECTED}"),
            ));
        }
        let (kind, place) = value.choice(&["env", "file"], SECRET_EXPECTED)?;
        let name = place.text("a string")?;
        let text = if kind == "env" { self.of_variable(name, &place)? } else { self.of_file(name, &place)? };
        if text.is_empty() || text.contains(char::is_control) {
            return Err(
                place.error("the secret is empty or has control characters", "put the secret there alone, on one line")
            );
        }
        Ok(Secret::new(text))
    }

    fn of_variable(&self, name: &str, place: &Value<'_>) -> Result<String, ConfigError> {
        (self.sources.env)(name).ok_or_else(|| {
            place.error(
                format!("the environment variable {} is not set", printable(name, 80)),
                "set it in the environment of `tokenkeep serve`",
            )
        })
    }

    fn of_file(&self, name: &str, place: &Value<'_>) -> Result<String, ConfigError> {
        let path = self.folder.join(name);
        match (self.sources.file)(&path) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(cause) => Err(place.error(
                format!("the secret file {} cannot be read: {cause}", path.display()),
                "name a file that this user can read; relative paths start at the configuration's folder",
            )),
        }
    }
}

#[cfg(test)]
mod tests;
