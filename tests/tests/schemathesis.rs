//! Schemathesis (PyPI) asks a real daemon everything that its OpenAPI document allows and much that it forbids: no answer is
//! undocumented, none says that the daemon has a defect, nothing that needs a key is answered without one, and afterwards
//! it works as before.
//!
//! `TOKENKEEP_SCHEMATHESIS_SECONDS=3600 TOKENKEEP_SCHEMATHESIS_EXAMPLES=500 cargo test --release -p tokenkeep-tests --test
//! schemathesis -- --nocapture` makes it as long as wanted.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokenkeep_tests::daemon::{AdminKey, Installation};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::Running;
use tokenkeep_tests::venv;

/// How long it asks where `TOKENKEEP_SCHEMATHESIS_SECONDS` does not say.
const SECONDS: u64 = 100;
/// Examples for each operation in each round where `TOKENKEEP_SCHEMATHESIS_EXAMPLES` does not say.
const EXAMPLES: u64 = 20;
/// It ends by itself a while after its time is over: it makes the last failures small.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
/// Connections that there are at the beginning, `c0`, `c1`, ...; tests/python/schemathesis.toml names them.
const CONNECTIONS: usize = 10;
/// The same of Atlassian's kind, `j0`, ...
const JIRA_CONNECTIONS: usize = 3;
/// Fewer requests would say nothing.
const REQUESTS_MIN: u64 = 2_000;

#[test]
fn every_answer_is_a_documented_one() {
    let mock = Mock::start();
    let urls = ["authorize_url", "device_url", "introspect_url", "revoke_url"]
        .into_iter()
        .zip(["authorize", "device_authorization", "introspect", "revoke"])
        .map(|(key, path)| format!("{key} = \"http://{}/{path}\"\n", mock.address()));
    let api = format!("api_hosts = [\"http://{}\"]\n", mock.address());
    let mock_section = mock.section("mock", "strict") + &urls.collect::<String>() + &api;
    let cloud_section = mock.section("cloud", "strict") + "preset = \"atlassian\"\n" + &api;
    let installation = Installation::new(&(mock_section + &cloud_section));
    let daemon = installation.start();
    installation.import_lines(&mock.grants("c", CONNECTIONS, 600, "mock"));
    installation.import_lines(&mock.grants("j", JIRA_CONNECTIONS, 600, "cloud"));
    let (url, key) = (format!("http://{}", daemon.tcp()), daemon.admin_key());

    let notes = tempfile::tempdir().expect("a folder for temporary files");
    let ran = Running::start(command(&url, &key, notes.path()), Some(b"")).finish(lasts() + ENDS_WITHIN);
    println!("{}", ran.stdout);
    assert!(generated(&ran.stdout) >= REQUESTS_MIN, "{} requests", generated(&ran.stdout));
    assert!(daemon.ask(Request::get("/readyz")).status == 200, "{}", daemon.stderr());
    let said = daemon.stop().expect_code(0).stderr;
    assert!(!said.contains("panicked"), "{said}");
    ran.expect_code(0);
}

/// Asks at `url` with this key, and does not revoke it. What it found before is not asked again first: it notes that below
/// `notes`.
fn command(url: &str, key: &AdminKey, notes: &Path) -> Command {
    let python = venv::python();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(python.with_file_name("schemathesis"));
    command.current_dir(notes);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", &folder);
    command.arg("--config-file").arg(folder.join("schemathesis.toml"));
    command.args(["--no-color", "run", &format!("{url}/v1/openapi.json"), "--url", url]);
    command.args(["--max-time", &lasts().as_secs().to_string(), "--max-examples", &examples().to_string()]);
    // Pages for browsers answer with pages, and say in them what is wrong.
    command.args(["--exclude-tag", "pages"]);
    command.args(["--header", &format!("Authorization: {}", key.authorization)]);
    command.env("KEEP_API_KEY", &key.id);
    command
}

/// From `  5425 generated, 5425 passed`.
fn generated(said: &str) -> u64 {
    let counts =
        said.lines().find_map(|line| line.trim().split_once(" generated").filter(|(number, _)| !number.contains(' ')));
    counts.and_then(|(number, _)| number.parse().ok()).expect("it says how many requests it made")
}

fn lasts() -> Duration {
    Duration::from_secs(number("TOKENKEEP_SCHEMATHESIS_SECONDS", SECONDS))
}

fn examples() -> u64 {
    number("TOKENKEEP_SCHEMATHESIS_EXAMPLES", EXAMPLES)
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}
