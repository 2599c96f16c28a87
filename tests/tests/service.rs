//! The daemon as a service: what it tells the service manager, what it writes to the log, and the files in `deploy/`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::process::Signal;
use serde_json::Value;
use tokenkeep_mock::{Fault, Rotation};
use tokenkeep_tests::daemon::{Installation, STOP_WITHIN, command};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::{CLIENT_ID, CLIENT_SECRET, Mock, section};
use tokenkeep_tests::process::Running;

/// Where nobody listens: the discard port, which needs a privileged process.
const NOBODY: &str = "http://127.0.0.1:9/token";
/// The longest time until the service manager is told something.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

// --- The service manager ---

/// A service manager that listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Manager {
    fn in_folder_of(installation: &Installation) -> Self {
        let path = installation.path("notify");
        let socket = UnixDatagram::bind(&path).expect("the folder is new");
        socket.set_read_timeout(Some(TOLD_WITHIN)).expect("a time");
        Self { socket, path, heard: Vec::new() }
    }

    /// Starts the daemon as a service whose watchdog has this patience.
    fn start(&self, installation: &Installation, watchdog: Duration) -> tokenkeep_tests::daemon::Daemon {
        let patience = watchdog.as_micros().to_string();
        let path = self.path.to_str().expect("a path of letters");
        installation.start_with(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", &patience)])
    }

    fn hear(&mut self) -> String {
        let mut message = [0; 4_096];
        let size = self.socket.recv(&mut message).unwrap_or_else(|error| {
            panic!("the daemon says nothing more ({error}) after {:?}", self.heard);
        });
        let text = String::from_utf8_lossy(&message[..size]).trim_end().to_owned();
        self.heard.push(text.clone());
        text
    }

    /// Listens until it is told this; what it is told meanwhile.
    fn hear_until(&mut self, wanted: &str) -> Vec<String> {
        let (started, mut heard) = (Instant::now(), Vec::new());
        loop {
            let message = self.hear();
            let found = message.lines().any(|line| line == wanted);
            heard.push(message);
            if found {
                return heard;
            }
            assert!(started.elapsed() < TOLD_WITHIN, "never told {wanted}, but {heard:?}");
        }
    }
}

#[test]
fn the_service_manager_is_told_that_we_are_ready_how_it_goes_and_that_we_stop() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let mut manager = Manager::in_folder_of(&installation);
    let daemon = manager.start(&installation, Duration::from_secs(2));
    assert_eq!(manager.hear(), "READY=1", "ready comes first");
    Request::get("/livez").at_socket(daemon.socket()).expect("whoever is ready answers");

    manager.hear_until("STATUS=no connections");
    installation.import_lines(&mock.grants("c", 3, 3_600, "mock"));
    manager.hear_until("STATUS=3 fresh");
    mock.state().kill("c1");
    installation.run(&["refresh", "c1"]).expect_code(4);
    manager.hear_until("STATUS=2 fresh, 1 needs you");

    let started = Instant::now();
    manager.hear_until("WATCHDOG=1");
    manager.hear_until("WATCHDOG=1");
    assert!(started.elapsed() < Duration::from_secs(2), "fed too late: after {:?}", started.elapsed());
    daemon.process().signal(Signal::TERM);
    manager.hear_until("STOPPING=1");
}

#[test]
fn a_provider_that_is_down_does_not_stop_the_watchdog_from_being_fed() {
    let mock = Mock::start();
    let installation = Installation::new(&section("mock", NOBODY, "strict"));
    let mut manager = Manager::in_folder_of(&installation);
    let _daemon = manager.start(&installation, Duration::from_secs(1));
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    installation.run(&["refresh", "jira"]).expect_code(75);
    manager.hear_until("STATUS=1 retrying");
    for _ in 0..8 {
        manager.hear_until("WATCHDOG=1");
    }
    installation.run(&["ready"]).expect_code(0);
}

#[test]
fn ready_tells_a_daemon_that_works_from_none() {
    let installation = Installation::new("");
    let none = installation.run(&["ready"]).expect_code(1);
    assert!(none.stderr.contains("tokenkeep serve"), "{}", none.stderr);
    let _daemon = installation.start();
    assert_eq!(installation.run(&["ready"]).expect_code(0).stdout, "ready\n");
}

// --- The log ---

/// What must stand in no log: each secret as it is, and as headers and files may carry it.
struct Canaries(Vec<String>);

impl Canaries {
    fn new() -> Self {
        let mut canaries = Self(Vec::new());
        canaries.add(CLIENT_SECRET);
        canaries.add(&format!("{CLIENT_ID}:{CLIENT_SECRET}"));
        canaries
    }

    fn add(&mut self, secret: &str) {
        assert!(secret.len() > 8, "too short to be looked for");
        self.0.extend([secret.to_owned(), BASE64_STANDARD.encode(secret)]);
        self.0.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    }

    fn add_token_set(&mut self, token: &Value) {
        for field in ["access_token", "refresh_token"] {
            self.add(token[field].as_str().expect("a token set has both"));
        }
    }

    #[track_caller]
    fn expect_absent(&self, from: &str, said: &str) {
        for canary in &self.0 {
            assert!(!said.contains(canary.as_str()), "{from} shows the secret {canary}:\n{said}");
        }
    }
}

/// Everything that a user does with one connection, the log at its most talkative. Gives what the daemon said.
fn said_in_a_busy_life(format: &str) -> String {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start_with(&[("TOKENKEEP_LOG", "trace"), ("TOKENKEEP_LOG_FORMAT", format)]);
    let (mut canaries, mut talk) = (Canaries::new(), String::new());
    let mut run = |arguments: &[&str]| {
        let ran = installation.run(arguments);
        talk.push_str(&ran.stderr);
        ran.stdout
    };
    let token = mock.grant("jira", Rotation::Strict, 3_600);
    canaries.add_token_set(&token);
    installation.import("jira", "mock", &token).expect_code(0);
    run(&["refresh", "jira"]);
    canaries.add(run(&["token", "jira"]).trim_end());
    run(&["token", "jira", "--header", "--min-ttl", "2h"]);
    run(&["token", "nobody"]);
    run(&["status", "jira"]);
    run(&["events", "jira", "--json"]);

    // A provider that answers with what it was sent, or with an answer that cannot be read.
    let echo = |secret: &str| Fault::Error {
        status: 400,
        error: "invalid_request".to_owned(),
        description: format!("{secret} is \u{1b}[31mwrong\nERROR forged: \u{202e}line"),
    };
    let other = mock.grant("echo", Rotation::Strict, 3_600);
    canaries.add_token_set(&other);
    installation.import("echo", "mock", &other).expect_code(0);
    let sent = other["refresh_token"].as_str().expect("a token");
    let script = vec![echo(sent), echo(CLIENT_SECRET), Fault::Truncated];
    mock.state().script(Some("echo"), script).expect("a short script");
    for _ in 0..3 {
        run(&["refresh", "echo", "--force"]);
    }
    run(&["status"]);
    run(&["remove", "jira", "--yes"]);
    canaries.expect_absent("a command's standard error", &talk);
    let said = daemon.stop().expect_code(0).stderr;
    canaries.expect_absent("the log", &said);
    assert!(said.contains("refresh failed"), "the log is not at its most talkative: {said}");
    said
}

#[test]
fn a_text_log_shows_no_secret_and_no_foreign_character() {
    let said = said_in_a_busy_life("text");
    for line in said.lines().filter(|line| *line != "ready") {
        let time = line.split(' ').next().unwrap_or_default();
        assert!(time.len() == 24 && time.ends_with('Z'), "a line without a time: {line}");
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
}

#[test]
fn a_json_log_is_json_and_shows_no_secret() {
    let said = said_in_a_busy_life("json");
    let lines: Vec<Value> = said
        .lines()
        .filter(|line| *line != "ready")
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let failed = lines.iter().find(|line| line["message"] == "refresh failed").expect("one failed");
    assert_eq!((&failed["level"], &failed["fields"]["connection"]), (&"WARN".into(), &"echo".into()));
}

#[test]
fn the_journal_gets_priorities() {
    let installation = Installation::new("");
    let daemon = command();
    let mut shell = Command::new("sh");
    // Only who is there knows which stream standard error is.
    shell.args(["-c", "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec \"$@\"", "sh"]);
    shell.arg(daemon.get_program()).args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]);
    shell.arg(installation.state_dir()).env_remove("TOKENKEEP_LOG").env_remove("TOKENKEEP_LOG_FORMAT");
    let daemon = Running::start(shell, Some(b""));
    tokenkeep_tests::process::wait_for("`ready`", TOLD_WITHIN, || daemon.stderr().contains("ready\n").then_some(()));
    daemon.signal(Signal::TERM);
    let said = daemon.finish(STOP_WITHIN).expect_code(0).stderr;
    assert!(said.contains("<4>tokenkeep::commands::serve: the configuration has no provider"), "{said}");
    assert!(said.lines().all(|line| line == "ready" || line.starts_with(['<'])), "{said}");
}

#[test]
fn a_log_that_cannot_be_is_refused() {
    let serve = |name: &str, value: &str| {
        let installation = Installation::new("");
        let mut serve = command();
        serve.arg("serve").arg("--state-dir").arg(installation.state_dir()).env(name, value);
        let ran = Running::start(serve, Some(b"")).finish(STOP_WITHIN).expect_code(2);
        assert!(!installation.state_dir().exists(), "something was made");
        ran.stderr
    };
    let said = serve("TOKENKEEP_LOG_FORMAT", "xml");
    assert!(said.contains("TOKENKEEP_LOG_FORMAT is `xml`") && said.contains("text or json"), "{said}");
    assert!(serve("TOKENKEEP_LOG", "jira=loud").contains("error, warn, info"));
}

// --- The files in `deploy/` ---

/// The most exposure that `systemd-analyze security` may see (security 32).
const EXPOSURE_MAX: f64 = 2.0;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs `systemd-analyze`, which scripts/test installs; a test that cannot run must not pass.
fn analyze(arguments: &[&str], unit: &Path) -> String {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.unwrap_or_else(|error| panic!("systemd-analyze (Debian package systemd): {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "systemd-analyze {arguments:?}: {said}");
    said.into_owned()
}

#[test]
fn the_unit_is_hardened() {
    let said = analyze(&["security", "--offline=true", "--no-pager"], &root().join("deploy/tokenkeep.service"));
    let exposure = said.rsplit_once(": ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    let exposure = exposure.unwrap_or_else(|| panic!("no figure in {said}"));
    println!("systemd-analyze security: {exposure}");
    assert!(exposure <= EXPOSURE_MAX, "exposure {exposure}:\n{said}");
}

#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let unit = folder.path().join("tokenkeep.service");
    let binary = tokenkeep_tests::daemon::binary();
    let text = read("deploy/tokenkeep.service");
    let start = "ExecStart=/usr/local/bin/tokenkeep ";
    assert!(text.contains(start), "the unit starts something else");
    fs::write(&unit, text.replace(start, &format!("ExecStart={} ", binary.display()))).expect("the folder is ours");
    // Unknown settings and values are warnings, which go to standard error and change no exit code.
    assert_eq!(analyze(&["verify", "--man=no"], &unit), "");
}

/// The arguments of a line of the Dockerfile, continued lines joined.
fn instructions(name: &str) -> Vec<String> {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ').map(|rest| rest.trim().to_owned());
    text.lines().filter_map(of).collect()
}

#[test]
fn the_image_is_built_of_what_is_there_with_our_compiler() {
    let manifest = read("Cargo.toml");
    let version = manifest.split_once("rust-version = \"").and_then(|(_, rest)| rest.split('"').next());
    let builder = &instructions("FROM")[0];
    assert!(builder.contains(&format!("/rust:{}-", version.expect("a version"))), "{builder}");

    let ignored = read(".dockerignore");
    let copies = instructions("COPY");
    let sources = copies.iter().filter(|copy| !copy.contains("--from=")).flat_map(|copy| {
        let words: Vec<&str> = copy.split_whitespace().collect();
        words[..words.len() - 1].iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    });
    for source in sources {
        assert!(root().join(&source).exists(), "COPY {source}, which is not there");
        assert!(ignored.lines().any(|line| line == format!("!{source}")), ".dockerignore leaves {source} out");
    }
    assert_eq!(ignored.lines().find(|line| !line.starts_with('#')), Some("*"), "all but what is named is left out");
}

#[test]
fn the_image_runs_as_nobody_special_and_holds_no_secret() {
    assert_eq!(instructions("USER"), ["65532:65532"]);
    assert_eq!(instructions("VOLUME"), ["/var/lib/tokenkeep"]);
    let environment = instructions("ENV").join(" ") + &instructions("ARG").join(" ");
    for word in ["SECRET", "TOKEN=", "PASSWORD", "KEY"] {
        assert!(!environment.contains(word), "{environment}");
    }
}

#[test]
fn the_commands_of_the_image_and_of_the_unit_exist() {
    let health = instructions("HEALTHCHECK").join(" ");
    let words = |text: &str| -> Vec<String> { serde_json::from_str(text).expect("a list of words") };
    let health = words(health.split_once("CMD ").expect("a command").1);
    let entry = words(&instructions("ENTRYPOINT")[0]);
    let started = words(instructions("CMD").last().expect("a command"));
    let unit = read("deploy/tokenkeep.service");
    let unit = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("the unit starts something");
    let unit: Vec<String> = unit.split(' ').map(str::to_owned).collect();
    assert_eq!((&health[0], &unit[0]), (&entry[0], &entry[0]));
    for arguments in [&health[1..], &started[..], &unit[1..]] {
        let mut command = command();
        // `--help` is answered where everything before it is understood.
        command.args(arguments).arg("--help");
        let ran = Running::start(command, Some(b"")).finish(STOP_WITHIN).expect_code(0);
        assert!(ran.stdout.contains(&format!("tokenkeep {}", arguments[0])), "{}", ran.stdout);
    }
}
