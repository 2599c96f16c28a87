//! What an operator is given: the manual, the alert rules, the Kubernetes manifests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{Installation, STOP_WITHIN, binary, command};
use tokenkeep_tests::metrics::run_promtool;
use tokenkeep_tests::mock::{CLIENT_SECRET, Mock};
use tokenkeep_tests::process::Running;
use tokenkeep_tests::venv;

/// The manual's lines are done after this, even on a busy machine.
const LASTS_AT_MOST: Duration = Duration::from_secs(120);
/// What `timeout` needs to end everything that the lines have started.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The blocks of the manual that are marked so.
fn blocks(mark: &str) -> Vec<String> {
    let manual = read("docs/operations.md");
    let block = |text: &str| text.split_once("\n```").map(|(block, _)| block.to_owned());
    let blocks: Vec<String> = manual.split(&format!("```{mark}\n")).skip(1).filter_map(block).collect();
    assert!(!blocks.is_empty(), "no block is marked {mark}");
    blocks
}

/// A service manager for one daemon.
const SYSTEMCTL: &str = r#"
systemctl() {
    case "$1" in
    start)
        : > log
        tokenkeep serve --config tokenkeep.toml --listen 127.0.0.1:0 2> log &
        daemon=$!
        until grep -q '^ready$' log; do kill -0 "$daemon" || { cat log; exit 1; }; sleep 0.1; done ;;
    stop) kill "$daemon"; wait "$daemon" ;;
    reload) kill -HUP "$daemon" ;;
    esac
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
systemctl start
tokenkeep import jira --provider mock --file token.json
"#;

/// What is seen after each block, in their order.
const SEEN: [&[&str]; 8] = [
    &["ready", "0 faults", "1 connection: 1 fresh"],
    &["### ", "they open only with the master key"],
    &["restored the backup of", "held", "resumed 1 connection"],
    &["rotated: everything is sealed under key", "from      master.key in the state folder"],
    &["providers.mock.token_url"],
    &["ready"],
    &["tokenkeep_ready 1"],
    &["connection.connected"],
];

#[test]
fn the_lines_of_the_manual_do_what_they_say() {
    let mock = Mock::start();
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("the folder is ours");
    write("tokenkeep.toml", &mock.section("mock", "strict"));
    write("secret", CLIENT_SECRET);
    write("token.json", &mock.grant("jira", Rotation::Strict, 3_600).to_string());
    let blocks = blocks("sh");
    assert_eq!(blocks.len(), SEEN.len(), "{blocks:#?}");
    let mut script = format!("exec 2>&1\n{SYSTEMCTL}");
    for block in &blocks {
        script += &format!("echo '### '\n{block}\n");
    }
    let mut command = Command::new("timeout");
    command.args([&LASTS_AT_MOST.as_secs().to_string(), "bash", "-e", "-o", "pipefail", "-c", &script]);
    let binary = binary();
    let bin = binary.parent().expect("a binary lies in a folder").display().to_string();
    command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap_or_default()));
    command.env("TOKENKEEP_STATE_DIR", folder.path().join("state")).env("NO_COLOR", "1").current_dir(folder.path());
    let ran = Running::start(command, Some(b"")).finish(LASTS_AT_MOST + ENDS_WITHIN).expect_code(0);
    let parts: Vec<&str> = ran.stdout.split("### \n").skip(1).collect();
    assert_eq!(parts.len(), SEEN.len(), "{}", ran.stdout);
    for ((block, part), seen) in blocks.iter().zip(parts).zip(SEEN) {
        for words in seen.iter().filter(|words| **words != "### ") {
            assert!(part.contains(words), "`{words}` is not seen:\n{part}\nafter:\n{block}");
        }
    }
    let ledger = mock.ledger("jira");
    assert!(ledger.killed.is_none(), "the grant outlives everything that the manual says: {ledger:?}");
}

/// The arguments of a line that starts `tokenkeep` or has it run by something else after `--`.
fn arguments(line: &str) -> Option<Vec<String>> {
    let command = line.split_once(" -- ").map_or(line, |(_, command)| command).strip_prefix("tokenkeep ")?;
    let command = command.split([';', '|', '#']).next().unwrap_or_default();
    Some(command.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect())
}

/// Asserts that the command line is understood: `--help` is answered where everything before it is.
#[track_caller]
fn expect_understood(arguments: &[String]) {
    let mut command = command();
    // What follows `--exec` is the other program's.
    command.args(arguments.iter().take_while(|word| *word != "--exec")).arg("--help");
    command.env("TOKENKEEP_STATE_DIR", "/nowhere");
    let ran = Running::start(command, Some(b"")).finish(STOP_WITHIN);
    assert_eq!(ran.code, Some(0), "tokenkeep {arguments:?}: {}", ran.stderr);
}

#[test]
fn every_command_that_the_manual_names_exists() {
    let manual = read("docs/operations.md");
    // In prose a command stands between backquotes.
    let inline = manual.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let inline: Vec<Vec<String>> = inline.filter_map(arguments).collect();
    assert!(inline.len() > 10, "{inline:?}");
    let console: Vec<Vec<String>> =
        blocks("console").iter().flat_map(|block| block.lines()).filter_map(arguments).collect();
    assert!(!console.is_empty());
    inline.iter().chain(&console).for_each(|arguments| expect_understood(arguments));
}

// --- Alerts ---

fn alerts() -> Vec<String> {
    let rules = read("deploy/prometheus/alerts.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

#[test]
fn prometheus_understands_the_alert_rules() {
    let folder = root().join("deploy/prometheus");
    let said = run_promtool(&folder, &["check", "rules", "alerts.yml"], "");
    assert!(said.contains(&format!("SUCCESS: {} rules found", alerts().len())), "{said}");
}

#[test]
fn each_alert_comes_when_it_must_and_only_then() {
    let folder = root().join("deploy/prometheus");
    run_promtool(&folder, &["test", "rules", "alerts_test.yml"], "");
}

#[test]
fn each_alert_is_tried_and_the_manual_says_what_to_do() {
    let (tests, manual) = (read("deploy/prometheus/alerts_test.yml"), read("docs/operations.md"));
    let headings: Vec<&str> = manual.lines().filter_map(|line| line.strip_prefix("### Tokenkeep")).collect();
    for alert in alerts() {
        let cases: Vec<&str> = tests.split("alertname: ").filter(|case| case.starts_with(&alert)).collect();
        assert!(cases.iter().any(|case| case.contains("exp_alerts")), "{alert} never comes in a test");
        assert!(cases.iter().any(|case| case[alert.len()..].starts_with('}')), "{alert} never stays away in a test");
        let name = alert.strip_prefix("Tokenkeep").expect("an alert says whose it is");
        assert!(headings.contains(&name), "docs/operations.md does not say what to do about {alert}");
    }
    assert_eq!(headings.len(), alerts().len(), "docs/operations.md explains an alert that is gone: {headings:?}");
}

// --- Kubernetes ---

#[test]
fn the_manifests_are_what_kubernetes_and_tokenkeep_expect() {
    let output = venv::script("kubernetes.py").output().expect("Python starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("the script prints JSON");
    for arguments in found["commands"].as_array().expect("a list of commands") {
        let arguments: Vec<String> = serde_json::from_value(arguments.clone()).expect("a list of words");
        expect_understood(&arguments);
    }
    // The configuration that the ConfigMap holds, with a Secret as Kubernetes mounts it: readable by the group.
    let installation = Installation::new(found["config"].as_str().expect("a text"));
    let credentials = installation.path("credentials");
    fs::create_dir(&credentials).expect("the folder is ours");
    for (name, text) in [("master-key", "ab".repeat(32)), ("jira", "client-secret".to_owned())] {
        let path = credentials.join(name);
        fs::write(&path, text).expect("the folder is ours");
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o440);
        fs::set_permissions(&path, readable).expect("the file is ours");
    }
    let credentials = credentials.to_str().expect("a path of letters");
    let daemon = installation.start_with(&[("CREDENTIALS_DIRECTORY", credentials)]);
    assert_eq!(installation.run(&["ready"]).expect_code(0).stdout, "ready\n");
    assert_eq!(installation.run(&["ready", "--live"]).expect_code(0).stdout, "live\n");
    assert!(!installation.state_dir().join("master.key").exists(), "the key came from somewhere else");
    daemon.stop().expect_code(0);
}
