//! Servers and tools that nobody here wrote, started by a script of ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Running, wait_for};

/// A script of one of the npm projects below `tests`.
///
/// Panics where the package that it needs is not installed: a test that cannot run must not pass.
pub fn npm_script(project: &str, package: &str, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(project);
    let installed = folder.join("node_modules").join(package);
    assert!(installed.is_dir(), "{package} is not installed: run `npm ci` in tests/{project} first");
    folder.join(name)
}

/// A running server that says what it is in a first line of JSON, once it serves. It ends when this is dropped.
#[derive(Debug)]
pub struct Foreign {
    name: &'static str,
    described: Value,
    _process: Running,
}

impl Foreign {
    /// Starts it, and waits for its line.
    pub fn start(name: &'static str, command: Command, serves_within: Duration) -> Self {
        let mut process = Running::start(command, None);
        let described = wait_for(&format!("the first line of {name}"), serves_within, || {
            if let Some(status) = process.ended() {
                panic!("{name} ended with {status}:\n{}", process.stderr());
            }
            process.stdout().split_once('\n').map(|(line, _)| line.to_owned())
        });
        let described = serde_json::from_str(&described).expect("a line of JSON");
        Self { name, described, _process: process }
    }

    /// All that it said of itself.
    pub fn described(&self) -> &Value {
        &self.described
    }

    /// A text that it said of itself.
    pub fn text(&self, field: &str) -> &str {
        self.described[field].as_str().unwrap_or_else(|| panic!("{} did not say its {field}", self.name))
    }
}
