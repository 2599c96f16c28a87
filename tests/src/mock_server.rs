//! npm `oauth2-mock-server`: a server that nobody here wrote, whose hook rewrites its answers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::http::Request;
use crate::process::{Running, wait_for};

/// The longest time until the server serves.
const SERVES_WITHIN: Duration = Duration::from_secs(60);

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct MockServer {
    described: Value,
    _process: Running,
}

impl MockServer {
    /// Serves on a free loopback port.
    pub fn start() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mock-server");
        let installed = folder.join("node_modules").join("oauth2-mock-server");
        assert!(installed.is_dir(), "oauth2-mock-server is not installed: run `./scripts/test tools` first");
        let mut command = Command::new("node");
        command.arg(folder.join("server.mjs"));
        let mut process = Running::start(command, None);
        let described = wait_for("oauth2-mock-server's first line", SERVES_WITHIN, || {
            if let Some(status) = process.ended() {
                panic!("oauth2-mock-server ended with {status}:\n{}", process.stderr());
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

    /// Has the request that brings this refresh token answered so: see `server.mjs` for what a wish may say.
    #[track_caller]
    pub fn wish(&self, refresh_token: &str, wish: &Value) {
        let body = serde_json::json!({ refresh_token: wish }).to_string();
        let request = Request::post("/control", &[("content-type", "application/json")], &body);
        let answer = request.at_address(self.text("address")).expect("the server answers");
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// How often this refresh token was brought.
    #[track_caller]
    pub fn requests(&self, refresh_token: &str) -> u64 {
        let counts = Request::get("/control").at_address(self.text("address")).expect("the server answers").json();
        counts[refresh_token].as_u64().unwrap_or_default()
    }
}
