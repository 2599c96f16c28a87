//! Where the daemon has to live: folders that cannot be written, disks that fill up, paths that are too long, and
//! readers that go away. One clear message each time, and no token lost.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tokenkeep_mock::Fault;
use tokenkeep_tests::daemon::{Daemon, Installation, command};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::{Mock, section};
use tokenkeep_tests::process::{Ran, wait_for};
use tokenkeep_tests::snapshot::Snapshot;

const NOBODY: &str = "http://127.0.0.1:9/token";
const CONNECTIONS: usize = 20;
/// How long the provider keeps its answers back, so that the disk can fill up meanwhile.
const ANSWERS_AFTER_MS: u64 = 3_000;
const WITHIN: Duration = Duration::from_secs(30);

/// A file system of its own, in memory. It is unmounted when this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, with a word, where this user or this machine may not mount.
    fn at(path: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(path).expect("the folder is ours");
        let ran = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output();
        if ran.is_ok_and(|ran| ran.status.success()) {
            return Some(Self(path.to_owned()));
        }
        println!("skipped: this user may not mount a file system");
        None
    }

    fn again(&self, options: &str) {
        let ran = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(ran.is_ok_and(|status| status.success()), "it was mounted before");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What still has files open there ends with the test.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[track_caller]
fn expect_refusal(ran: &Ran, code: i32, named: &[&str]) {
    let said = &ran.stderr;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "not one message: {said}");
    for word in named.iter().chain(&["\nnext: "]) {
        assert!(said.contains(word), "`{word}` is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let installation = Installation::new(&section("mock", NOBODY, "strict"));
    // A file in place of the folder stops everybody, root too.
    fs::write(installation.state_dir(), "a file").expect("the folder is ours");
    let path = installation.state_dir().display().to_string();
    expect_refusal(&installation.start_refused(), 1, &[&path, "--state-dir"]);
    assert_eq!(fs::read(installation.state_dir()).expect("it is left alone"), b"a file");
}

#[test]
fn a_read_only_disk_is_named_and_nothing_is_changed() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let Some(disk) = Mounted::at(&installation.state_dir(), "size=64m,mode=0700") else { return };
    let daemon = installation.start();
    installation.import_lines(&mock.grants("c", 2, 3_600, "mock"));
    daemon.stop().expect_code(0);
    disk.again("ro");
    let before = Snapshot::of(&installation.state_dir());
    expect_refusal(&installation.start_refused(), 1, &[&installation.state_dir().display().to_string(), "Read-only"]);
    before.expect_unchanged(&installation.state_dir(), &[]);
    disk.again("rw");
    let daemon = installation.start();
    installation.run(&["refresh", "c0"]).expect_code(0);
    daemon.stop().expect_code(0);
}

#[test]
fn a_disk_too_small_to_begin_with_is_named_and_a_larger_one_will_do() {
    let installation = Installation::new(&section("mock", NOBODY, "strict"));
    let Some(disk) = Mounted::at(&installation.state_dir(), "size=2m,mode=0700") else { return };
    expect_refusal(&installation.start_refused(), 1, &["journal", "No space left", "free space"]);
    disk.again("size=64m");
    installation.start().stop().expect_code(0);
}

/// The disk fills up after the requests were sent. The answers have their place in the journal: they are handed out,
/// and are still there after a kill.
#[test]
fn a_disk_that_fills_up_costs_no_rotated_token() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let Some(_disk) = Mounted::at(&installation.state_dir(), "size=64m,mode=0700") else { return };
    let daemon = installation.start();
    installation.import_lines(&mock.grants("c", CONNECTIONS, 3_600, "mock"));
    let delayed =
        |nth| mock.state().script(Some(&format!("c{nth}")), vec![Fault::DelayAnswer { ms: ANSWERS_AFTER_MS }]);
    (0..CONNECTIONS).for_each(|nth| delayed(nth).expect("the script has room"));
    thread::scope(|scope| {
        for nth in 0..CONNECTIONS {
            let path = format!("/v1/connections/c{nth}/refresh");
            let daemon = &daemon;
            scope.spawn(move || daemon.ask(Request::new("POST", &path)));
        }
        wait_for("every request", WITHIN, || (mock.totals().requests >= CONNECTIONS as u64).then_some(()));
        fill(&installation.path("state/ballast"));
    });
    wait_for("the newest tokens from memory", WITHIN, || (newest(&mock, &daemon) == CONNECTIONS).then_some(()));
    let told = daemon.stderr();
    assert!(told.contains("the store could not be written"), "the disk was not in the way: {told}");
    daemon.kill();
    fs::remove_file(installation.path("state/ballast")).expect("the file is ours");

    let daemon = installation.start();
    wait_for("the newest tokens from the journal", WITHIN, || (newest(&mock, &daemon) == CONNECTIONS).then_some(()));
    for connection in installation.connections() {
        assert_eq!((&connection["status"], &connection["generation"]), (&"fresh".into(), &2.into()), "{connection}");
    }
    installation.run(&["refresh", "c0"]).expect_code(0);
    assert_eq!(mock.totals().reuses, 0);
    daemon.stop().expect_code(0);
}

/// Writes until nothing more goes.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("there is room for a file");
    for size in [64 * 1024, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// How many connections hand out the token that the provider issued last.
fn newest(mock: &Mock, daemon: &Daemon) -> usize {
    let is_newest = |nth: &usize| {
        let token = daemon.ask(Request::get(&format!("/v1/connections/c{nth}/token?wait=0"))).json();
        let ledger = mock.ledger(&format!("c{nth}"));
        let token = token["access_token"].as_str().map(tokenkeep_mock::fingerprint);
        ledger.refreshes == 1 && token == Some(ledger.access_token_fingerprint)
    };
    (0..CONNECTIONS).filter(is_newest).count()
}

#[test]
fn a_socket_path_that_no_system_takes_is_a_usage_error_and_makes_nothing() {
    let installation = Installation::new("");
    let long = installation.path(&"x".repeat(100));
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["list"], &["token", "jira"]] {
        let mut process = command();
        process.args(arguments).arg("--state-dir").arg(&long);
        let ran = tokenkeep_tests::process::Running::start(process, Some(b"")).finish(WITHIN);
        expect_refusal(&ran, 2, &["socket", "103", "--state-dir"]);
    }
    assert!(!long.exists(), "a folder was made");
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    // More than a pipe holds.
    installation.import_lines(&mock.grants(&"c".repeat(100), 1_500, 86_400, "mock"));
    for arguments in [&["list"][..], &["list", "--json"], &["status"], &["events"], &["events", "--json"]] {
        let ran = read_one_byte(arguments, &installation.state_dir());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
    daemon.stop().expect_code(0);
}

/// Runs a command whose reader takes one byte and goes, as `head -c 1` does.
fn read_one_byte(arguments: &[&str], state_dir: &Path) -> Ran {
    let mut process = command();
    process.args(arguments).arg("--state-dir").arg(state_dir);
    let mut child = process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut pipe = child.stdout.take().expect("a pipe");
    let mut first = [0];
    pipe.read_exact(&mut first).expect("there is something to read");
    drop(pipe);
    let ended = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: ended.status.code(), stdout: text(&first), stderr: text(&ended.stderr) }
}
