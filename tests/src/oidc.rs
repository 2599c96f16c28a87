//! npm `oidc-provider`, a certified server that nobody here wrote.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use crate::http::Request;
use crate::process::{Running, wait_for};

/// The longest time until the server serves.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// The longest time that the sign-ins take.
const SIGN_INS_WITHIN: Duration = Duration::from_secs(120);

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Oidc {
    described: Value,
    _process: Running,
}

fn script(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc");
    let installed = folder.join("node_modules").join("oidc-provider");
    assert!(installed.is_dir(), "oidc-provider is not installed: run `npm ci` in tests/oidc first");
    folder.join(name)
}

impl Oidc {
    /// Serves access tokens of this life.
    pub fn start(access_ttl_s: u32) -> Self {
        let mut command = Command::new("node");
        command.arg(script("server.mjs")).arg("--access-ttl").arg(access_ttl_s.to_string());
        let mut process = Running::start(command, None);
        let described = wait_for("oidc-provider's first line", SERVES_WITHIN, || {
            if let Some(status) = process.ended() {
                panic!("oidc-provider ended with {status}:\n{}", process.stderr());
            }
            process.stdout().split_once('\n').map(|(line, _)| line.to_owned())
        });
        let described = serde_json::from_str(&described).expect("a line of JSON");
        Self { described, _process: process }
    }

    fn text(&self, field: &str) -> &str {
        self.described[field].as_str().unwrap_or_else(|| panic!("the server did not say its {field}"))
    }

    /// Where tokens are refreshed.
    pub fn token_url(&self) -> &str {
        self.text("token_url")
    }

    /// The client's id.
    pub fn client_id(&self) -> &str {
        self.text("client_id")
    }

    /// The client's secret.
    pub fn client_secret(&self) -> &str {
        self.text("client_secret")
    }

    /// Signs in `PREFIX0`, `PREFIX1`, ... by code flow, and gives the lines that import their tokens.
    pub fn sign_in(&self, prefix: &str, count: usize, provider: &str) -> String {
        let mut command = Command::new("node");
        command.arg(script("signin.mjs")).arg(self.described.to_string());
        command.args(["--prefix", prefix, "--count", &count.to_string(), "--provider", provider]);
        Running::start(command, Some(b"")).finish(SIGN_INS_WITHIN).expect_code(0).stdout
    }

    fn address(&self) -> &str {
        self.text("issuer").trim_start_matches("http://")
    }

    /// What happened at the token endpoint so far.
    #[track_caller]
    pub fn seen(&self) -> Value {
        Request::get("/control").at_address(self.address()).expect("oidc-provider answers").json()
    }

    /// Whether this access token is good now, by the server's own introspection (RFC 7662).
    #[track_caller]
    pub fn is_active(&self, access_token: &str) -> bool {
        self.post("/token/introspection", &[("token", access_token)])["active"] == true
    }

    /// Refreshes as a client of its own would, and gives what the server says.
    #[track_caller]
    pub fn refresh(&self, refresh_token: &str) -> Value {
        self.post("/token", &[("grant_type", "refresh_token"), ("refresh_token", refresh_token)])
    }

    #[track_caller]
    fn post(&self, path: &str, fields: &[(&str, &str)]) -> Value {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("authorization", &*self.basic())];
        // Tokens of this server are base64url: nothing in them needs escaping.
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let body = body.join("&");
        let request = Request::post(path, &headers, &body);
        request.at_address(self.address()).expect("oidc-provider answers").json()
    }

    fn basic(&self) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.client_id(), self.client_secret())))
    }
}
