//! A new user's ten minutes: the lines under "Ten minutes" in README.md, run as they stand there.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokenkeep_tests::daemon::binary;
use tokenkeep_tests::process::{Ran, Running};

/// What a reader types last is done after this, even on a busy machine.
const LASTS_AT_MOST: Duration = Duration::from_secs(180);
/// What `timeout` needs to end everything that the lines have started.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What the reader sees at each step, numbered as in the README.
const SEEN: [&[&str]; 11] = [
    &[],
    &["ready"],
    &[],
    &["imported jira", "1 connection: 1 fresh"],
    &["connection.refreshed"],
    &["\"active\":true", "\"sub\":\"jira\""],
    &["{\"down\":true}", "error: `jira` was not refreshed", "in_doubt", "what to do", "{\"down\":false}"],
    &["connection.recovered"],
    &["\"was_alive\":true", "no longer valid", "next: Sign in again", "exit code 4"],
    &["imported jira", "fresh"],
    &[],
];

#[test]
fn the_lines_in_the_readme_do_what_they_say() {
    let steps = steps();
    assert_eq!(steps.len(), SEEN.len(), "{steps:#?}");
    let ran = run(&steps).expect_code(0);
    println!("{}", ran.stdout);
    let mut parts = ran.stdout.split("### ").skip(1);
    for (step, seen) in steps.iter().zip(SEEN) {
        let part = parts.next().unwrap_or_else(|| panic!("it never came to {step}"));
        for words in seen {
            assert!(part.contains(words), "`{words}` is not seen:\n{part}\nafter:\n{step}");
        }
        assert!(!part.contains("mock-rt-"), "a refresh token is shown:\n{part}");
    }
}

/// The paragraphs of the block, each from its numbered comment on.
fn steps() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).expect("there is a README");
    let (_, section) = readme.split_once("\n## Ten minutes\n").expect("README.md has the section `Ten minutes`");
    let (_, block) = section.split_once("```sh\n").expect("the section has a block of lines");
    let (block, _) = block.split_once("```").expect("the block ends");
    let steps: Vec<String> = block.trim().split("\n\n").map(|step| step.to_owned() + "\n").collect();
    for (nth, step) in steps.iter().enumerate() {
        assert!(step.starts_with(&format!("# {}. ", nth + 1)), "not step {}: {step}", nth + 1);
    }
    steps
}

/// Runs the lines in one shell, as a reader would, with the binary under test in place of the installed one.
fn run(steps: &[String]) -> Ran {
    let install = "cargo install --locked --path crates/tokenkeep-cli\n";
    assert!(steps[0].contains(install), "step 1 installs no more: {}", steps[0]);
    let mut script = "exec 2>&1\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    for (nth, step) in steps.iter().enumerate() {
        script += &format!("echo '### {}'\n{}", nth + 1, step.replace(install, ""));
    }
    let binary = binary();
    let folder = binary.parent().expect("a binary lies in a folder").display().to_string();
    let mut command = Command::new("timeout");
    // It ends the whole process group.
    command.args([&LASTS_AT_MOST.as_secs().to_string(), "bash", "-e", "-o", "pipefail", "-c", &script]);
    command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()));
    command.env("port", free_port().to_string()).env("NO_COLOR", "1");
    Running::start(command, Some(b"")).finish(LASTS_AT_MOST + ENDS_WITHIN)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("the listener is bound").port()
}
