//! npm `oauth2-mock-server`: a server that nobody here wrote, whose hook rewrites its answers.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::foreign::{Foreign, npm_script};
use crate::http::Request;

/// The longest time until the server serves.
const SERVES_WITHIN: Duration = Duration::from_secs(60);

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct MockServer(Foreign);

impl MockServer {
    /// Serves on a free loopback port.
    pub fn start() -> Self {
        let mut command = Command::new("node");
        command.arg(npm_script("mock-server", "oauth2-mock-server", "server.mjs"));
        Self(Foreign::start("oauth2-mock-server", command, SERVES_WITHIN))
    }

    /// Where tokens are refreshed.
    pub fn token_url(&self) -> &str {
        self.0.text("token_url")
    }

    /// Has the request that brings this refresh token answered so: see `server.mjs` for what a wish may say.
    #[track_caller]
    pub fn wish(&self, refresh_token: &str, wish: &Value) {
        let body = serde_json::json!({ refresh_token: wish }).to_string();
        let request = Request::post("/control", &[("content-type", "application/json")], &body);
        let answer = request.at_address(self.0.text("address")).expect("the server answers");
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// How often this refresh token was brought.
    #[track_caller]
    pub fn requests(&self, refresh_token: &str) -> u64 {
        let counts = Request::get("/control").at_address(self.0.text("address")).expect("the server answers").json();
        counts[refresh_token].as_u64().unwrap_or_default()
    }
}
