//! PyPI `django-oauth-toolkit`: a server that nobody here wrote, whose refresh tokens rotate with a grace of a minute,
//! and whose reuse after it ends the grant. `anna` and `ben` can sign in at its pages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use url::Url;

use crate::foreign::Foreign;
use crate::http::{Answer, Request};
use crate::process::Running;
use crate::proxy::Proxy;
use crate::venv;

/// How long access tokens live.
pub const ACCESS_TTL: Duration = Duration::from_secs(20);

/// The longest time until the server serves: its database is made first.
const SERVES_WITHIN: Duration = Duration::from_secs(60);
/// The longest time that one command takes.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// A running site with its database. Both are gone when this is dropped.
#[derive(Debug)]
pub struct Django {
    // Before the folder that it works in.
    site: Foreign,
    folder: TempDir,
}

/// What the site's database says of one user's refresh tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// How many families there are: one, unless somebody signed in again.
    pub families: u64,
    /// How many refresh tokens were issued after the first.
    pub renewals: u64,
    /// How many refresh tokens work: one, or none where the family is revoked.
    pub live: u64,
    /// The SHA-256, in hexadecimal digits, of the access token that belongs to the live one.
    pub access_token_sha256: Option<String>,
    /// When that access token ends, in seconds since 1970.
    pub access_expires_at: Option<f64>,
}

impl Django {
    /// Makes a site and serves it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tk").tempdir().expect("a folder for temporary files");
        let site = Foreign::start("the site", script(&folder, &["serve"]), SERVES_WITHIN);
        Self { site, folder }
    }

    /// Where tokens are refreshed.
    pub fn token_url(&self) -> Url {
        self.site.text("token_url").parse().expect("the site says a URL")
    }

    /// Where people sign in.
    pub fn authorize_url(&self) -> &str {
        self.site.text("authorize_url")
    }

    /// Where it says whose access token it is.
    pub fn me_url(&self) -> &str {
        self.site.text("me_url")
    }

    /// The section of the provider `django` in a configuration, whose tokens come through this proxy. The file `secret`
    /// has the client's secret.
    pub fn section(&self, proxy: &Proxy) -> String {
        let mut token_url = self.token_url();
        token_url.set_port(Some(proxy.address().port())).expect("an http URL has a port");
        format!(
            "[providers.django]\n\
             token_url = \"{token_url}\"\n\
             client_id = \"{}\"\n\
             client_secret = {{ file = \"secret\" }}\n\
             rotation = \"grace:60\"\n",
            self.client_id()
        )
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let addresses = self.token_url().socket_addrs(|| None).expect("an address needs no look-up");
        *addresses.first().expect("a URL with an address")
    }

    /// The client's id.
    pub fn client_id(&self) -> &str {
        self.site.text("client_id")
    }

    /// The client's secret.
    pub fn client_secret(&self) -> &str {
        self.site.text("client_secret")
    }

    /// Signs in `PREFIX0`, `PREFIX1`, ..., and gives the lines that import their tokens.
    pub fn grants(&self, prefix: &str, count: usize, provider: &str) -> String {
        self.command(&["grants", prefix, &count.to_string(), provider])
    }

    /// What the site's own database says of each user who has refresh tokens.
    pub fn families(&self) -> BTreeMap<String, Family> {
        let told: Value = serde_json::from_str(&self.command(&["families"])).expect("the script prints JSON");
        let told = told.as_object().expect("an object of users");
        told.iter().map(|(user, family)| (user.clone(), Family::read(family))).collect()
    }

    /// Whose access token this is, by the site's own word; `None` where it takes no such token.
    #[track_caller]
    pub fn account_of(&self, access_token: &str) -> Option<String> {
        let bearer = format!("Bearer {access_token}");
        let url: Url = self.me_url().parse().expect("the site says a URL");
        let request = Request { headers: &[("authorization", &bearer)], ..Request::get(url.path()) };
        let answer = request.at_address(&self.address().to_string()).expect("the site answers");
        match answer.status {
            200 => answer.json()["username"].as_str().map(str::to_owned),
            401 | 403 => None,
            _ => panic!("{answer:?}"),
        }
    }

    /// Refreshes as a client of its own would, and gives what the site says.
    #[track_caller]
    pub fn refresh(&self, refresh_token: &str) -> Answer {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", refresh_token);
        form.append_pair("client_id", self.client_id()).append_pair("client_secret", self.client_secret());
        let body = form.finish();
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let url = self.token_url();
        Request::post(url.path(), &headers, &body).at_address(&self.address().to_string()).expect("the site answers")
    }

    fn command(&self, arguments: &[&str]) -> String {
        Running::start(script(&self.folder, arguments), Some(b"")).finish(COMMAND_WITHIN).expect_code(0).stdout
    }
}

fn script(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = venv::script("django_provider.py");
    command.arg(folder.path()).args(arguments);
    command
}

impl Family {
    fn read(told: &Value) -> Self {
        let count = |name: &str| told[name].as_u64().unwrap_or_else(|| panic!("{name} is missing: {told}"));
        Self {
            families: count("families"),
            renewals: count("renewals"),
            live: count("live"),
            access_token_sha256: told["access_token_sha256"].as_str().map(str::to_owned),
            access_expires_at: told["access_expires_at"].as_f64(),
        }
    }
}
