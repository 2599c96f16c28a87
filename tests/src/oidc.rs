//! npm `oidc-provider`, a certified server that nobody here wrote.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::foreign::{Foreign, npm_script};
use crate::http::Request;
use crate::process::Running;

/// The longest time until the server serves.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// The longest time that the sign-ins take.
const SIGN_INS_WITHIN: Duration = Duration::from_secs(120);

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Oidc(Foreign);

/// How a server is to be that shows sign-in pages.
#[derive(Debug, Clone)]
pub struct Pages {
    /// How long access tokens live, in seconds.
    pub access_ttl_s: u32,
    /// How long the codes of a device live, in seconds.
    pub device_ttl_s: u32,
    /// Where [`ClientKind::Web`] is.
    pub web_redirect: Option<String>,
    /// The public key of [`ClientKind::Key`], as JWK.
    pub client_jwk: Option<Value>,
}

impl Default for Pages {
    fn default() -> Self {
        Self { access_ttl_s: 20, device_ttl_s: 600, web_redirect: None, client_jwk: None }
    }
}

/// The clients that are registered at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// An application on its user's machine, with a secret. It may introspect any token.
    Confidential,
    /// An application on its user's machine, without one; also a device.
    Public,
    /// An application with an address of its own, and a secret.
    Web,
    /// An application that acts for itself.
    Machine,
    /// As `Confidential`, with a key instead of a secret.
    Key,
}

impl ClientKind {
    fn name(self) -> &'static str {
        match self {
            Self::Confidential => "confidential",
            Self::Public => "public",
            Self::Web => "web",
            Self::Machine => "machine",
            Self::Key => "key",
        }
    }
}

fn script(name: &str) -> PathBuf {
    npm_script("oidc", "oidc-provider", name)
}

impl Oidc {
    /// Serves access tokens of this life, and grants every request at once.
    pub fn start(access_ttl_s: u32) -> Self {
        Self::serve(&["--access-ttl", &access_ttl_s.to_string()])
    }

    /// Shows sign-in pages.
    pub fn with_pages(pages: &Pages) -> Self {
        let (access, device) = (pages.access_ttl_s.to_string(), pages.device_ttl_s.to_string());
        let jwk = pages.client_jwk.as_ref().map(Value::to_string);
        let mut options = vec!["--pages", "--access-ttl", &access, "--device-ttl", &device];
        options.extend(pages.web_redirect.iter().flat_map(|uri| ["--web-redirect", uri]));
        options.extend(jwk.iter().flat_map(|jwk| ["--client-jwk", jwk]));
        Self::serve(&options)
    }

    fn serve(options: &[&str]) -> Self {
        let mut command = Command::new("node");
        command.arg(script("server.mjs")).args(options);
        Self(Foreign::start("oidc-provider", command, SERVES_WITHIN))
    }

    /// The server's name, and its address.
    pub fn issuer(&self) -> &str {
        self.0.text("issuer")
    }

    /// The id of a client.
    #[track_caller]
    pub fn id_of(&self, kind: ClientKind) -> &str {
        let id = self.0.described()["clients"][kind.name()]["client_id"].as_str();
        id.unwrap_or_else(|| panic!("the server has no client of the kind {kind:?}"))
    }

    /// Where tokens are refreshed.
    pub fn token_url(&self) -> &str {
        self.0.text("token_url")
    }

    /// The client's id.
    pub fn client_id(&self) -> &str {
        self.0.text("client_id")
    }

    /// The client's secret.
    pub fn client_secret(&self) -> &str {
        self.0.text("client_secret")
    }

    /// Signs in `PREFIX0`, `PREFIX1`, ... by code flow, and gives the lines that import their tokens.
    pub fn sign_in(&self, prefix: &str, count: usize, provider: &str) -> String {
        let mut command = Command::new("node");
        command.arg(script("signin.mjs")).arg(self.0.described().to_string());
        command.args(["--prefix", prefix, "--count", &count.to_string(), "--provider", provider]);
        Running::start(command, Some(b"")).finish(SIGN_INS_WITHIN).expect_code(0).stdout
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        self.issuer().trim_start_matches("http://")
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

    /// Posts a form as [`ClientKind::Confidential`], and gives what the server says.
    #[track_caller]
    fn post(&self, path: &str, fields: &[(&str, &str)]) -> Value {
        self.post_with(path, &[("authorization", &self.basic_of(ClientKind::Confidential))], fields)
    }

    /// Posts a form with these headers, and gives what the server says; `null` where it says nothing.
    #[track_caller]
    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Value {
        let headers = [&[("content-type", "application/x-www-form-urlencoded")], headers].concat();
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = Request::post(path, &headers, &body);
        let answer = request.at_address(self.address()).expect("oidc-provider answers");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// How a client with a secret authenticates itself.
    #[track_caller]
    pub fn basic_of(&self, kind: ClientKind) -> String {
        // Every client with a secret has the same one. Neither id nor secret has a letter that needs escaping.
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.id_of(kind), self.client_secret())))
    }
}

/// The key of a client, on P-256.
#[derive(Debug)]
pub struct ClientKey {
    pem: String,
    pair: EcdsaKeyPair,
}

impl ClientKey {
    /// A new one.
    pub fn generate() -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key can be made");
        let text = BASE64_STANDARD.encode(made.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        Self { pem, pair: EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref()).expect("it was just made") }
    }

    /// The private half, as a file has it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The public half (RFC 7517).
    pub fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
    }

    /// Signs claims (RFC 7519).
    pub fn sign(&self, claims: &Value) -> String {
        let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encoded(&json!({"alg": "ES256"})), encoded(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("a sound key signs");
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What the readers of tokens saw.
#[derive(Debug, Default)]
pub struct Read {
    /// Tokens that were handed out.
    pub tokens: usize,
    /// Of these, how many the server was asked about.
    pub introspected: usize,
    /// Answers that brought no token.
    pub refused: Vec<String>,
    /// Tokens that were not good, and why.
    pub invalid: Vec<String>,
}

impl Read {
    /// What another reader saw, too.
    pub fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.introspected += other.introspected;
        self.refused.extend(other.refused);
        self.invalid.extend(other.invalid);
    }

    /// Reads the token of a connection; with an `oidc`, asks it whether the token is good.
    pub fn one(&mut self, daemon: &Daemon, name: &str, oidc: Option<&Oidc>) {
        let answer = daemon.ask(Request::get(&format!("/v1/connections/{name}/token")));
        if answer.status != 200 {
            return self.refused.push(format!("{name}: {} {}", answer.status, answer.body));
        }
        let token = answer.json();
        self.tokens += 1;
        if token["expires_in"].as_u64().is_none_or(|seconds| seconds == 0) || token["stale"] != false {
            let told = (&token["expires_in"], &token["stale"], &token["warnings"]);
            self.invalid.push(format!("{name}: expires_in, stale, warnings {told:?}"));
        }
        if let Some(oidc) = oidc {
            self.introspected += 1;
            if !oidc.is_active(token["access_token"].as_str().unwrap_or_default()) {
                self.invalid.push(format!("{name}: the server says that the token is not active"));
            }
        }
    }

    /// Panics unless every answer brought a good token.
    #[track_caller]
    pub fn expect_good(&self) {
        assert!(self.refused.is_empty(), "{:?}", self.refused);
        assert!(self.invalid.is_empty(), "{:?}", self.invalid);
        assert!(self.introspected > 0, "nothing was asked about: {self:?}");
    }
}
