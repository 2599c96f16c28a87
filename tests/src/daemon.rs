//! The real binary: an installation with its folders, the daemon in it, and the commands beside it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Answer, Request};
use crate::process::{Ran, Running, wait_for};

/// The longest time from the start to `ready`.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// The longest time that a command may take.
pub const COMMAND_WITHIN: Duration = Duration::from_secs(90);
/// The longest time from SIGTERM to the end.
pub const STOP_WITHIN: Duration = Duration::from_secs(70);

/// The binary under test: `TOKENKEEP_BIN`, else the release build beside this test's own build.
///
/// Panics where there is none: a test that cannot run must not pass.
pub fn binary() -> PathBuf {
    if let Some(given) = env::var_os("TOKENKEEP_BIN") {
        let path = PathBuf::from(given);
        assert!(path.is_file(), "TOKENKEEP_BIN names {}, which is no file", path.display());
        return path;
    }
    let test = env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/TEST
    let target = test.ancestors().nth(3).expect("cargo's folders");
    let binary = target.join("release").join("tokenkeep");
    assert!(binary.is_file(), "there is no release build: run `cargo build --release -p tokenkeep-cli` first");
    binary
}

/// The binary with no variable of ours in its environment.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TOKENKEEP_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    command
}

/// A configuration and a state folder of a test's own. Both are gone when this is dropped.
#[derive(Debug)]
pub struct Installation {
    folder: TempDir,
}

impl Installation {
    /// With this configuration file.
    pub fn new(config: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tk").tempdir().expect("a folder for temporary files");
        let made = Self { folder };
        fs::write(made.path("secret"), format!("{}\n", crate::mock::CLIENT_SECRET)).expect("the folder is new");
        made.configure(config);
        made
    }

    /// Replaces the configuration file.
    pub fn configure(&self, config: &str) {
        fs::write(self.path("tokenkeep.toml"), config).expect("the folder is ours");
    }

    /// A path in the folder that holds everything.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The state folder. Nobody has made it before the daemon does.
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// A command that asks the daemon here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command();
        command.arg("--state-dir").arg(self.state_dir()).args(arguments);
        command
    }

    /// Runs a command beside the daemon.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"")
    }

    /// Runs a command with this standard input.
    #[track_caller]
    pub fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Ran {
        Running::start(self.command(arguments), Some(stdin)).finish(COMMAND_WITHIN)
    }

    /// Starts a command beside the daemon, which waits for something.
    #[track_caller]
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        self.spawn_with(arguments, &[])
    }

    /// As [`Installation::spawn`], with these variables in its environment.
    #[track_caller]
    pub fn spawn_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Running::start(command, Some(b""))
    }

    fn serve(&self) -> Command {
        self.serve_at("127.0.0.1:0")
    }

    fn serve_at(&self, address: &str) -> Command {
        let mut command = self.command(&["serve", "--listen", address]);
        command.arg("--config").arg(self.path("tokenkeep.toml"));
        command
    }

    /// Starts the daemon and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// As [`Installation::start`], with these variables in its environment.
    #[track_caller]
    pub fn start_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let mut command = self.serve();
        command.envs(variables.iter().copied());
        Daemon::ready(Running::start(command, Some(b"")), &self.state_dir())
    }

    /// As [`Installation::start`], at this address.
    #[track_caller]
    pub fn start_at(&self, address: &str) -> Daemon {
        Daemon::ready(Running::start(self.serve_at(address), Some(b"")), &self.state_dir())
    }

    /// Starts the daemon; `None` where it refuses, which it must do with exit code 1 and a message.
    #[track_caller]
    pub fn try_start(&self) -> Option<Daemon> {
        let mut process = Running::start(self.serve(), Some(b""));
        let refused = wait_for("`ready` or a refusal", READY_WITHIN, || match process.ended() {
            Some(_) => Some(true),
            None => is_ready(&process).then_some(false),
        });
        if refused {
            let ran = process.finish(READY_WITHIN).expect_code(1);
            assert!(ran.stderr.contains("error: "), "{}", ran.stderr);
            return None;
        }
        Some(Daemon { process, socket: self.state_dir().join("tokenkeep.sock") })
    }

    /// Starts a daemon that is expected to refuse.
    #[track_caller]
    pub fn start_refused(&self) -> Ran {
        Running::start(self.serve(), Some(b"")).finish(READY_WITHIN)
    }

    /// Imports lines of `{name, provider, token}`.
    #[track_caller]
    pub fn import_lines(&self, lines: &str) {
        self.run_with(&["import", "--ndjson", "-"], lines.as_bytes()).expect_code(0);
    }

    /// Imports one token set.
    #[track_caller]
    pub fn import(&self, name: &str, provider: &str, token: &Value) -> Ran {
        let arguments = ["import", name, "--provider", provider, "--file", "-"];
        self.run_with(&arguments, token.to_string().as_bytes())
    }

    /// Every connection, as `status --json` shows it, whatever its exit code says about them.
    #[track_caller]
    pub fn connections(&self) -> Vec<Value> {
        let status = self.run(&["status", "--json"]);
        assert!(matches!(status.code, Some(0 | 4)), "{status:?}");
        status.json()["connections"].as_array().expect("an array of connections").clone()
    }

    /// One connection, as `status NAME --json` shows it.
    #[track_caller]
    pub fn connection(&self, name: &str) -> Value {
        let found = self.connections().into_iter().find(|connection| connection["name"] == name);
        found.unwrap_or_else(|| panic!("there is no connection {name}"))
    }
}

fn is_ready(process: &Running) -> bool {
    process.stderr().lines().any(|line| line == "ready")
}

/// An API key.
#[derive(Debug, Clone)]
pub struct AdminKey {
    /// Its id.
    pub id: String,
    /// The value of the header `Authorization`.
    pub authorization: String,
}

/// A running daemon. It is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Running,
    socket: PathBuf,
}

impl Daemon {
    #[track_caller]
    fn ready(mut process: Running, state_dir: &Path) -> Self {
        wait_for("the daemon's `ready`", READY_WITHIN, || {
            if let Some(status) = process.ended() {
                panic!("the daemon ended with {status}:\n{}", process.stderr());
            }
            is_ready(&process).then_some(())
        });
        Self { process, socket: state_dir.join("tokenkeep.sock") }
    }

    /// The socket in its state folder.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens on TCP, as its log says: `127.0.0.1:PORT`.
    #[track_caller]
    pub fn tcp(&self) -> String {
        let said = self.stderr();
        let after = said.split_once("tcp=Some(").unwrap_or_else(|| panic!("it logs no address:\n{said}")).1;
        after.split(')').next().unwrap_or_default().to_owned()
    }

    /// What it has said so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Its process.
    pub fn process(&self) -> &Running {
        &self.process
    }

    /// A new API key of scope `admin`.
    #[track_caller]
    pub fn admin_key(&self) -> AdminKey {
        let body = r#"{"name": "tests", "scopes": ["admin"], "connections_per_hour": 100000}"#;
        let made = self.ask(Request::post("/v1/api-keys", &[], body));
        assert_eq!(made.status, 201, "{made:?}");
        let text = |field: &str| made.json()[field].as_str().expect("a text").to_owned();
        AdminKey { id: text("id"), authorization: format!("Bearer {}", text("key")) }
    }

    /// Asks at its socket.
    #[track_caller]
    pub fn ask(&self, request: Request<'_>) -> Answer {
        request.at_socket(&self.socket).unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.stderr()))
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Stops it with SIGTERM and waits for its end.
    #[track_caller]
    pub fn stop(self) -> Ran {
        self.process.signal(Signal::TERM);
        self.process.finish(STOP_WITHIN)
    }
}
