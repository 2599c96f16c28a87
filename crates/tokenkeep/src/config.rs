//! What [`TokenKeep::open`](crate::TokenKeep::open) needs to know.

use crate::connect::settings::SignIn;
use crate::endpoint::hosts::ApiHost;
use crate::keys::KeySource;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::{ClientAuth, Rules};
use tokenkeep_core::schedule::Policy;
use tokenkeep_core::{ConnectionKey, Secret, Timestamp};
use url::Url;

/// The most attempts that may be in flight at once unless said otherwise; the journal has as many slots.
pub const IN_FLIGHT_MAX: u32 = 256;
/// The most refreshes a second for one endpoint and client unless said otherwise.
pub const REFRESH_PER_SECOND: u32 = 50;
/// The most refreshes in flight for one endpoint and client unless said otherwise.
pub const REFRESH_IN_FLIGHT_MAX: u32 = 64;
/// The most token files that one instance keeps: each may hold a thread up while its file system does not answer.
pub const TOKEN_FILES_MAX: usize = 256;

/// Everything about one instance.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where database, journal, key and lock live. Made when it is missing, mode 0700.
    pub state_dir: PathBuf,
    /// Where the master key comes from.
    pub master_key: KeySource,
    /// How eager refreshing is.
    pub policy: Policy,
    /// The providers that connections may name.
    pub providers: Vec<Provider>,
    /// The connections that the configuration declares, beside those that are made at run time.
    pub connections: Vec<Declared>,
    /// How many attempts may be in flight at once, over all providers.
    pub in_flight_max: u32,
    /// How many workers claim and refresh side by side.
    pub workers: u32,
    /// Hosts (`host` or `host:port`) that webhooks may lead to although they are not of the public Internet, or not https.
    pub webhook_hosts: Vec<String>,
}

impl Config {
    /// The defaults, without providers.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            master_key: KeySource::default(),
            policy: Policy::default(),
            providers: Vec::new(),
            connections: Vec::new(),
            in_flight_max: IN_FLIGHT_MAX,
            workers: 1,
            webhook_hosts: Vec::new(),
        }
    }
}

/// A connection that the configuration declares. What it says here, the configuration is master of; its token set, times
/// and history are the store's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Declared {
    /// Its name.
    pub key: ConnectionKey,
    /// The provider's name.
    pub provider: String,
    /// The scopes that a sign-in asks for.
    pub scopes: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The token files that are kept current with it.
    pub token_files: Vec<TokenFile>,
}

/// A file that other programs read a connection's token set from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenFile {
    /// Where it is.
    pub path: PathBuf,
    /// The refresh token is left out, for programs that would otherwise refresh on their own.
    pub without_refresh_token: bool,
}

/// A provider as it is used: where it is, who we are there, and its rules.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The name that connections refer to.
    pub name: String,
    /// The token endpoint.
    pub token_url: Url,
    /// Our registration.
    pub client: Arc<Client>,
    /// Its rules.
    pub rules: Rules,
    /// Where refreshes go, if not to the token endpoint.
    pub refresh_url: Option<Url>,
    /// How people, and the client itself, sign in at it.
    pub sign_in: SignIn,
    /// The row of the catalogue that it was made of.
    pub preset: Option<&'static str>,
    /// The hosts of its API: where requests with an access token may be forwarded to. The first is meant where a
    /// caller names none.
    pub api_hosts: Vec<ApiHost>,
    /// Admission: refreshes a second at this endpoint with this client.
    pub refresh_per_second: u32,
    /// Admission: refreshes in flight at this endpoint with this client.
    pub refresh_in_flight_max: u32,
}

impl Provider {
    /// A provider with the default admission limits.
    #[must_use]
    pub fn new(name: impl Into<String>, token_url: Url, client: Client, rules: Rules) -> Self {
        Self {
            name: name.into(),
            token_url,
            client: Arc::new(client),
            rules,
            refresh_url: None,
            sign_in: SignIn::default(),
            preset: None,
            api_hosts: Vec::new(),
            refresh_per_second: REFRESH_PER_SECOND,
            refresh_in_flight_max: REFRESH_IN_FLIGHT_MAX,
        }
    }

    /// Where refreshes go.
    #[must_use]
    pub fn refreshes_at(&self) -> &Url {
        self.refresh_url.as_ref().unwrap_or(&self.token_url)
    }

    /// The client's signed assertion for one request to `url` at `now`, in wall time, where it authenticates by a key.
    #[must_use]
    pub fn client_assertion(&self, url: &Url, now: Timestamp) -> Option<Secret> {
        let key = self.sign_in.signing_key.as_ref().filter(|_| self.rules.client_auth == ClientAuth::PrivateKeyJwt)?;
        // RFC 7523 section 3 takes the issuer as audience too, and providers of today prefer it.
        let audience = self.sign_in.issuer.as_deref().unwrap_or(url.as_str());
        Some(key.assert(&self.client.id, None, audience, now))
    }

    /// What the client signs to act for `account` at `now`, in wall time; `None` without a signing key.
    #[must_use]
    pub fn assertion_for(&self, account: &str, now: Timestamp) -> Option<Secret> {
        let audience = self.sign_in.issuer.as_deref().unwrap_or(self.token_url.as_str());
        Some(self.sign_in.signing_key.as_ref()?.assert(&self.client.id, Some(account), audience, now))
    }

    /// Everything that decides what the provider thinks of our requests, as one text: by it, a change is known that
    /// may clear the cause of a hold. Admission limits are not in it.
    #[must_use]
    pub fn configuration(&self) -> Secret {
        let key = self.sign_in.signing_key.as_ref().map(|key| key.public_key());
        self.client.described(&format!("{} {:?} {key:?}", self.refreshes_at(), self.rules))
    }
}
