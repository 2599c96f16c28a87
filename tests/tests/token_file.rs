//! Token files: a program that reads one always finds a whole, current token set, and no refresh token that a program
//! put there is lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokenkeep::config::{Declared, TOKEN_FILES_MAX, TokenFile};
use tokenkeep::{Config, RefreshAsk, TokenAsk, TokenKeep};
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::Rules;
use tokenkeep_core::{ConnectionKey, Secret};
use tokenkeep_mock::{Rotation, fingerprint};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::mock::{CLIENT_ID, CLIENT_SECRET, Mock};
use tokenkeep_tests::process::{Running, try_wait_for, wait_for};

/// The longest time from a change to the file that follows it.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(8);
/// The longest time from a truncation to the mended file: it is left alone for 10 s.
const MENDED_WITHIN: Duration = Duration::from_secs(25);

/// An installation with a strict provider and connections as `connections` declares them.
fn installation(mock: &Mock, connections: &str) -> Installation {
    Installation::new(&format!("{}{connections}", mock.section("mock", "strict")))
}

const JIRA: &str = "[connections.jira]\nprovider = \"mock\"\ntoken_file = \"oauth_token.json\"\n";

fn file(installation: &Installation) -> PathBuf {
    installation.path("oauth_token.json")
}

/// Writes as most programs do: the file is truncated first.
fn write(path: &Path, token: &Value) {
    fs::write(path, token.to_string()).expect("the folder is the test's own");
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Waits until the file holds the newest token set of this grant.
#[track_caller]
fn wait_until_current(mock: &Mock, label: &str, path: &Path, daemon: &Daemon) -> Value {
    let found = try_wait_for(FOLLOWS_WITHIN, || read(path).filter(|token| is_newest(mock, label, token)));
    found.unwrap_or_else(|| panic!("{} does not follow {label}: {:?}\n{}", path.display(), read(path), daemon.stderr()))
}

fn is_newest(mock: &Mock, label: &str, token: &Value) -> bool {
    let text = |name: &str| token[name].as_str().map(fingerprint).unwrap_or_default();
    let ledger = mock.ledger(label);
    text("access_token") == ledger.access_token_fingerprint && text("refresh_token") == ledger.refresh_token_fingerprint
}

/// No token of the file is in what the daemon said.
#[track_caller]
fn assert_no_secret(daemon: &Daemon, tokens: &[&Value]) {
    let said = daemon.stderr();
    for token in tokens {
        for name in ["access_token", "refresh_token"] {
            let secret = token[name].as_str().expect("a token");
            assert!(!said.contains(secret), "{name} is in the log:\n{said}");
        }
    }
}

/// Waits for an event of this kind whose message has these words.
#[track_caller]
fn wait_for_event(installation: &Installation, kind: &str, words: &[&str]) -> Value {
    let found = try_wait_for(MENDED_WITHIN, || {
        let events = installation.run(&["events", "--json"]).stdout;
        let mut events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.find(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["type"] == kind && words.iter().all(|word| message.contains(word))
        })
    });
    found.unwrap_or_else(|| panic!("no {kind} with {words:?}:\n{}", installation.run(&["events", "--json"]).stdout))
}

/// The error that `status` shows for the connection's token file.
fn shown_error(installation: &Installation, name: &str) -> Option<String> {
    installation.connection(name)["token_files"][0]["error"].as_str().map(str::to_owned)
}

#[test]
fn a_configuration_and_a_token_file_are_enough_to_begin() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    let mut token = mock.grant("jira", Rotation::Strict, 3_600);
    // As requests-oauthlib had written it, with a field of the program's own.
    let end = token["expires_at"].as_f64().expect("a time");
    token["expires_at"] = json!(end + 0.25);
    token["scope"] = json!(token["scope"].as_str().expect("a text").split(' ').collect::<Vec<_>>());
    token["cloud_id"] = json!("11223344");
    write(&file(&installation), &token);
    fs::set_permissions(file(&installation), fs::Permissions::from_mode(0o644)).expect("the file is ours");

    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    assert_eq!(read(&file(&installation)), Some(token.clone()), "nothing was to be changed");
    for _ in 0..3 {
        installation.run(&["refresh", "jira"]).expect_code(0);
        let written = wait_until_current(&mock, "jira", &file(&installation), &daemon);
        assert!(written["expires_at"].is_i64() && written["expires_in"].is_i64(), "{written}");
        assert_eq!((&written["scope"], &written["cloud_id"]), (&token["scope"], &token["cloud_id"]));
    }
    let mode = fs::metadata(file(&installation)).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the world could read it");
    let shown = installation.run(&["status", "jira"]).expect_code(0).stdout;
    assert!(shown.contains("oauth_token.json, written 2"), "{shown}");
    let last = read(&file(&installation)).expect("a token set");
    assert_no_secret(&daemon, &[&token, &last]);
    daemon.stop().expect_code(0);
}

#[test]
fn a_stop_and_a_start_bring_the_file_up_to_date() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("jira", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    let old = fs::read(file(&installation)).expect("a file");
    let lock = fs::File::open(installation.path("oauth_token.json.lock")).expect("the lock file");
    lock.lock().expect("the daemon holds it for moments only");
    installation.run(&["refresh", "jira"]).expect_code(0);
    // The file lags behind, and its next try lies ahead.
    drop(lock);
    daemon.stop().expect_code(0);
    let stopped = read(&file(&installation)).expect("a token set");
    assert!(is_newest(&mock, "jira", &stopped), "the last write came with the stop");
    // As a crash between the commit and the write leaves it.
    fs::write(file(&installation), old).expect("the file is ours");
    let daemon = installation.start();
    wait_until_current(&mock, "jira", &file(&installation), &daemon);
    fs::remove_file(file(&installation)).expect("the file is ours");
    wait_until_current(&mock, "jira", &file(&installation), &daemon);
    assert_eq!(mock.totals().reuses, 0);
}

#[test]
fn a_sign_in_that_a_program_wrote_is_adopted() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("first", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    installation.run(&["refresh", "jira"]).expect_code(0);
    let first = wait_until_current(&mock, "first", &file(&installation), &daemon);

    let second = mock.grant("second", Rotation::Strict, 3_600);
    write(&file(&installation), &second);
    wait_for("the adoption", FOLLOWS_WITHIN, || {
        (installation.run(&["token", "jira"]).stdout.trim() == second["access_token"]).then_some(())
    });
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "second", &file(&installation), &daemon);
    assert_eq!((mock.ledger("first").requests, mock.ledger("second").refreshes), (1, 1));

    // A program that still had the first grant in memory saves it again: it does not come back.
    write(&file(&installation), &first);
    wait_until_current(&mock, "second", &file(&installation), &daemon);
    assert_eq!((mock.ledger("first").requests, mock.totals().reuses), (1, 0));
    wait_for_event(&installation, "system.storage_degraded", &["has been used", "written anew", "oauth_token.json"]);
    wait_for_event(&installation, "connection.recovered", &["is over"]);
    assert_no_secret(&daemon, &[&first, &second]);
}

#[test]
fn an_import_at_the_daemon_is_not_undone_by_the_file() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("first", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    for nth in 0..5 {
        let label = format!("grant{nth}");
        installation.import("jira", "mock", &mock.grant(&label, Rotation::Strict, 3_600)).expect_code(0);
        wait_until_current(&mock, &label, &file(&installation), &daemon);
    }
    let events = installation.run(&["events", "--json"]).stdout;
    assert!(!events.contains("storage_degraded"), "{events}");
}

#[test]
fn a_stale_copy_is_overwritten_and_never_used() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    let first = mock.grant("jira", Rotation::Strict, 3_600);
    write(&file(&installation), &first);
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    for _ in 0..2 {
        installation.run(&["refresh", "jira"]).expect_code(0);
        wait_until_current(&mock, "jira", &file(&installation), &daemon);
        write(&file(&installation), &first);
        wait_until_current(&mock, "jira", &file(&installation), &daemon);
    }
    wait_for_event(&installation, "system.storage_degraded", &["stale copy", "written anew"]);
    // The daemon has forgotten what it saw, and the store has not.
    daemon.stop().expect_code(0);
    write(&file(&installation), &first);
    let daemon = installation.start();
    wait_until_current(&mock, "jira", &file(&installation), &daemon);
    installation.run(&["refresh", "jira"]).expect_code(0);
    assert_eq!((mock.totals().reuses, mock.ledger("jira").killed), (0, None));
}

#[test]
fn a_truncated_file_is_left_to_its_writer_and_mended_after_a_while() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    let mut token = mock.grant("jira", Rotation::Strict, 3_600);
    token["cloud_id"] = json!("11223344");
    write(&file(&installation), &token);
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));

    // A slow writer: first half of a new sign-in, then the whole.
    let second = mock.grant("second", Rotation::Strict, 3_600);
    let text = second.to_string();
    fs::write(file(&installation), &text[..text.len() / 2]).expect("the file is ours");
    installation.run(&["refresh", "jira"]).expect_code(0);
    let unchanged = |path: &Path| (fs::read(path).ok()? != text.as_bytes()[..text.len() / 2]).then_some(());
    assert_eq!(try_wait_for(Duration::from_secs(3), || unchanged(&file(&installation))), None, "its writer is at it");
    fs::write(file(&installation), &text).expect("the file is ours");
    wait_for("the adoption", FOLLOWS_WITHIN, || {
        (installation.run(&["token", "jira"]).stdout.trim() == second["access_token"]).then_some(())
    });

    // Nobody goes on: after a while the store's token set is written, with the fields that the file had.
    fs::write(file(&installation), "{\"cloud_id\": \"11223344\", \"access_tok").expect("the file is ours");
    let started = Instant::now();
    let mended = wait_for("the mended file", MENDED_WITHIN, || read(&file(&installation)));
    assert!(started.elapsed() > Duration::from_secs(8), "it was left for {:?} only", started.elapsed());
    assert!(is_newest(&mock, "second", &mended), "{mended}");
    wait_for_event(&installation, "system.storage_degraded", &["held no token set", "broken JSON", "written anew"]);
    assert_no_secret(&daemon, &[&token, &second]);
}

#[test]
fn a_file_that_is_something_else_is_never_overwritten() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    fs::write(file(&installation), "[package]\nname = \"precious\"\n").expect("the folder is ours");
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    let error = wait_for("the complaint", MENDED_WITHIN, || shown_error(&installation, "jira"));
    assert!(error.contains("no token file") && error.contains("oauth_token.json"), "{error}");
    assert_eq!(fs::read_to_string(file(&installation)).expect("a file"), "[package]\nname = \"precious\"\n");
    let overview = installation.run(&["status"]).expect_code(0).stdout;
    assert!(overview.contains(&error), "{overview}");
    fs::remove_file(file(&installation)).expect("the file is ours");
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "jira", &file(&installation), &daemon);
    wait_for_event(&installation, "connection.recovered", &["is over"]);
    assert_eq!(shown_error(&installation, "jira"), None);
}

#[test]
fn a_folder_in_its_place_and_a_missing_folder_harm_only_the_file() {
    let mock = Mock::start();
    let connections = JIRA.replace("\"oauth_token.json\"", "[\"oauth_token.json\", \"missing/token.json\"]");
    let installation = installation(&mock, &connections);
    fs::create_dir(file(&installation)).expect("the folder is ours");
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    wait_for_event(&installation, "system.storage_degraded", &["oauth_token.json is a folder"]);
    wait_for_event(&installation, "system.storage_degraded", &["missing/token.json", "No such file"]);
    installation.run(&["refresh", "jira"]).expect_code(0);
    assert_eq!(installation.connection("jira")["status"], "fresh");
    fs::remove_dir(file(&installation)).expect("the folder is ours");
    fs::create_dir(installation.path("missing")).expect("the folder is ours");
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "jira", &file(&installation), &daemon);
    wait_until_current(&mock, "jira", &installation.path("missing/token.json"), &daemon);
    let told = daemon.stderr().lines().filter(|line| line.contains("is a folder")).count();
    assert_eq!(told, 1, "a fault is told once:\n{}", daemon.stderr());
}

/// A small file system of a test's own.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` where this user may not mount, said aloud.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).expect("the folder is ours");
        let mounted = Self::run(&["-t", "tmpfs", "-o", "size=64k,mode=700", "tokenkeep-test"], &at);
        if !mounted {
            eprintln!("skipped: this user may not mount a tmpfs");
        }
        mounted.then_some(Self(at))
    }

    fn run(arguments: &[&str], at: &Path) -> bool {
        let done = Command::new("mount").args(arguments).arg(at).output().expect("`mount` is there");
        done.status.success()
    }

    /// Lays a second mount over it that nobody can write through; the daemon's open files do not hinder that.
    fn make_read_only(&self) {
        assert!(Self::run(&["--bind", &self.0.to_string_lossy()], &self.0), "a second mount");
        assert!(Self::run(&["-o", "remount,bind,ro"], &self.0), "made read-only");
    }

    fn make_writable(&self) {
        let done = Command::new("umount").arg(&self.0).output().expect("`umount` is there");
        assert!(done.status.success(), "{done:?}");
    }

    /// Leaves no byte free; what frees them again.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut size = 64 * 1024;
        let mut bytes = Vec::new();
        while size > 0 {
            match fs::write(&path, vec![b'x'; bytes.len() + size]) {
                Ok(()) => bytes.resize(bytes.len() + size, b'x'),
                Err(_) => size /= 2,
            }
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A daemon may still stand in it, and a failed test have left the second mount.
        while Command::new("umount").arg("-l").arg(&self.0).output().is_ok_and(|done| done.status.success()) {}
    }
}

#[test]
fn a_full_and_a_read_only_disk_under_the_file_are_told_and_got_over() {
    let mock = Mock::start();
    let connections = JIRA.replace("oauth_token.json", "small/oauth_token.json");
    let installation = installation(&mock, &connections);
    let Some(disk) = Tmpfs::mount(installation.path("small")) else { return };
    let path = installation.path("small/oauth_token.json");
    write(&path, &mock.grant("jira", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));

    let ballast = disk.fill();
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_for_event(&installation, "system.storage_degraded", &["small/oauth_token.json", "No space left"]);
    let kept = read(&path).expect("the old file is whole");
    assert!(!is_newest(&mock, "jira", &kept), "it was not to be written");
    assert_eq!(installation.connection("jira")["status"], "fresh", "the connection goes on");
    assert!(shown_error(&installation, "jira").is_some_and(|error| error.contains("No space left")));
    fs::remove_file(ballast).expect("the file is ours");
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "jira", &path, &daemon);
    wait_for_event(&installation, "connection.recovered", &["is over"]);

    disk.make_read_only();
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_for_event(&installation, "system.storage_degraded", &["Read-only file system"]);
    assert_eq!(installation.connection("jira")["status"], "fresh", "the connection goes on");
    disk.make_writable();
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "jira", &path, &daemon);
    daemon.stop().expect_code(0);
    let mut left: Vec<_> = fs::read_dir(&disk.0).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["oauth_token.json", "oauth_token.json.keeper", "oauth_token.json.lock"]);
}

#[test]
fn a_second_daemon_on_one_token_file_is_refused() {
    let mock = Mock::start();
    let one = installation(&mock, JIRA);
    write(&file(&one), &mock.grant("jira", Rotation::Strict, 3_600));
    let other = installation(&mock, &JIRA.replace("oauth_token.json", &file(&one).to_string_lossy()));
    let first = one.start();
    wait_for("the import", FOLLOWS_WITHIN, || one.run(&["token", "jira"]).code.filter(|&code| code == 0));
    let refused = other.start_refused().expect_code(1).stderr;
    let pid = format!("pid {}", first.process().pid());
    for word in ["error: another tokenkeep", &pid, "oauth_token.json", "\nnext: ", "token_file"] {
        assert!(refused.contains(word), "`{word}` is missing: {refused}");
    }
    one.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "jira", &file(&one), &first);
    // Its holder is gone, even without a word: the next may have it.
    first.kill();
    let second = other.start();
    wait_for("the import", FOLLOWS_WITHIN, || other.run(&["token", "jira"]).code.filter(|&code| code == 0));
    other.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "jira", &file(&one), &second);
    one.start_refused().expect_code(1);
    assert_eq!((mock.totals().reuses, mock.ledger("jira").killed), (0, None));
}

#[test]
fn several_connections_with_several_files_each() {
    let mock = Mock::start();
    let mut connections = String::new();
    for name in ["a", "b", "c"] {
        connections += &format!(
            "[connections.{name}]\nprovider = \"mock\"\ntoken_file = [\"{name}.json\", \"link-{name}.json\", {{ path = \"{name}-bare.json\", without_refresh_token = true }}]\n"
        );
    }
    let installation = installation(&mock, &connections);
    for name in ["a", "b", "c"] {
        write(&installation.path(&format!("{name}.json")), &mock.grant(name, Rotation::Strict, 3_600));
        symlink(format!("real-{name}.json"), installation.path(&format!("link-{name}.json"))).expect("a link");
    }
    let daemon = installation.start();
    for name in ["a", "b", "c"] {
        let path = |suffix: &str| installation.path(&format!("{suffix}{name}.json"));
        wait_until_current(&mock, name, &path("real-"), &daemon);
        installation.run(&["refresh", name]).expect_code(0);
        let first = wait_until_current(&mock, name, &path(""), &daemon);
        let linked = wait_until_current(&mock, name, &path("real-"), &daemon);
        assert_eq!(linked["access_token"], first["access_token"]);
        assert!(fs::symlink_metadata(path("link-")).expect("a link").is_symlink());
        let bare = installation.path(&format!("{name}-bare.json"));
        let bare = wait_for("the bare file", FOLLOWS_WITHIN, || {
            read(&bare).filter(|token| token["access_token"] == first["access_token"])
        });
        assert_eq!(bare.get("refresh_token"), None, "{name}");
        assert!(bare["expires_at"].is_i64());
    }
    assert_eq!(installation.connection("b")["token_files"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_declared_connection_is_removed_from_the_configuration_first_and_then_stays_away() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("jira", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    let refused = installation.run(&["remove", "jira", "--yes"]).expect_code(1).stderr;
    assert!(refused.contains("declared in the configuration"), "{refused}");

    installation.configure(&mock.section("mock", "strict"));
    daemon.process().signal(Signal::HUP);
    let reloaded = || daemon.stderr().contains("the configuration was reloaded").then_some(());
    wait_for("the reload", FOLLOWS_WITHIN, reloaded);
    installation.run(&["remove", "jira", "--yes"]).expect_code(0);
    write(&file(&installation), &mock.grant("again", Rotation::Strict, 3_600));
    let back = || (installation.run(&["token", "jira"]).code != Some(3)).then_some(());
    assert_eq!(try_wait_for(Duration::from_secs(3), back), None, "it came back");
}

/// How many sign-ins are written into the file while the daemon writes it.
const SIGN_INS: usize = 25;

/// A program that knows nothing of locks signs in again and again and writes the file, at the very time when the daemon
/// writes it: its last grant is the one that lives on.
#[test]
fn no_sign_in_is_lost_that_is_written_while_the_daemon_writes() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("g0", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    for nth in 1..=SIGN_INS {
        let label = format!("g{nth}");
        let token = mock.grant(&label, Rotation::Strict, 3_600);
        std::thread::scope(|scope| {
            let refresh = scope.spawn(|| installation.run(&["refresh", "jira"]));
            // Spread over the few milliseconds that a refresh takes.
            std::thread::sleep(Duration::from_micros(400 * nth as u64));
            if nth % 2 == 0 {
                write(&file(&installation), &token);
            } else {
                write(&installation.path("new.json"), &token);
                fs::rename(installation.path("new.json"), file(&installation)).expect("the folder is ours");
            }
            refresh.join().expect("the command runs");
        });
        wait_for("the adoption", FOLLOWS_WITHIN, || {
            let ledger = mock.ledger(&label);
            let held = installation.run(&["token", "jira"]).stdout;
            (fingerprint(held.trim()) == ledger.access_token_fingerprint).then_some(())
        });
    }
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, &format!("g{SIGN_INS}"), &file(&installation), &daemon);
    assert_eq!(mock.totals().reuses, 0, "{}", daemon.stderr());
}

/// A crash came just after the exchange: what a program had written lies where the next content was prepared.
#[test]
fn a_sign_in_that_a_crash_left_aside_is_adopted() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("first", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    daemon.kill();
    let aside = installation.path(".oauth_token.json.tokenkeep");
    write(&aside, &mock.grant("second", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_until_current(&mock, "second", &file(&installation), &daemon);
    wait_for("the tidying up", FOLLOWS_WITHIN, || (!aside.exists()).then_some(()));
    // Half of a next content is nothing.
    daemon.kill();
    fs::write(&aside, "{\"access_tok").expect("the folder is ours");
    let daemon = installation.start();
    wait_for("the tidying up", MENDED_WITHIN, || (!aside.exists()).then_some(()));
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_until_current(&mock, "second", &file(&installation), &daemon);
}

/// A program that takes the lock keeps the daemon away from the file, and from nothing else.
#[test]
fn a_program_that_holds_the_lock_delays_the_file_and_no_refresh() {
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("jira", Rotation::Strict, 3_600));
    let daemon = installation.start();
    wait_for("the import", FOLLOWS_WITHIN, || installation.run(&["token", "jira"]).code.filter(|&code| code == 0));
    let lock = fs::File::open(installation.path("oauth_token.json.lock")).expect("the lock file");
    lock.lock().expect("a lock");
    let before = read(&file(&installation));
    for _ in 0..3 {
        installation.run(&["refresh", "jira"]).expect_code(0);
    }
    assert_eq!((read(&file(&installation)), mock.ledger("jira").refreshes), (before, 3));
    drop(lock);
    wait_until_current(&mock, "jira", &file(&installation), &daemon);
}

/// What a reload of the configuration does.
#[test]
fn other_files_can_be_kept_from_now_on() {
    let mock = Mock::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let key = ConnectionKey::in_default("jira").expect("a name");
    let declared = |names: &[&str]| {
        let file = |name: &&str| TokenFile { path: path(name), without_refresh_token: false };
        vec![Declared {
            key: key.clone(),
            provider: "mock".to_owned(),
            scopes: Vec::new(),
            labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
            token_files: names.iter().map(file).collect(),
        }]
    };
    write(&path("one.json"), &mock.grant("jira", Rotation::Strict, 3_600));
    let client = Client { id: CLIENT_ID.to_owned(), secret: Some(Secret::new(CLIENT_SECRET)) };
    let url = format!("http://{}/token", mock.address()).parse().expect("a URL");
    let mut config = Config::new(path("state"));
    config.providers.push(tokenkeep::Provider::new("mock", url, client, Rules::default()));
    config.connections = declared(&["one.json"]);

    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let keep = runtime.block_on(TokenKeep::open(config)).expect("a new state folder");
    let current = |name: &str| {
        let held = runtime.block_on(keep.token(&key, TokenAsk::default())).ok()?;
        let token = held.token.access_token.expose().to_owned();
        read(&path(name)).filter(|found| found["access_token"] == token.as_str())
    };
    let refresh = || runtime.block_on(keep.refresh(&key, RefreshAsk::default())).expect("a refresh");
    wait_for("the first file", FOLLOWS_WITHIN, || current("one.json"));
    assert_eq!(runtime.block_on(keep.get(&key)).expect("it is there").labels["team"], "a");
    runtime.block_on(keep.keep_token_files(&declared(&["two.json"]))).expect("nobody keeps it");
    refresh();
    wait_for("the second file", FOLLOWS_WITHIN, || current("two.json"));
    assert!(current("one.json").is_none(), "it is not kept any more");
    let told = || runtime.block_on(async { keep.token_files(&key) });
    let before = wait_for("its time", FOLLOWS_WITHIN, || Some(told()).filter(|told| told[0].written_at.is_some()));
    runtime.block_on(keep.keep_token_files(&declared(&["two.json"]))).expect("it is kept already");
    assert_eq!(told(), before, "what is kept already goes on as it was");

    let many: Vec<String> = (0..=TOKEN_FILES_MAX).map(|nth| format!("{nth}.json")).collect();
    let many = declared(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = runtime.block_on(keep.keep_token_files(&many)).expect_err("too many").to_string();
    assert!(refused.contains("token_file") && refused.contains("257"), "{refused}");
    assert!(!path("0.json.keeper").exists(), "none is begun with");

    // Somebody else keeps the third: what was kept still is.
    let other = fs::File::create(path("three.json.keeper")).expect("a file");
    other.lock().expect("nobody has it");
    let refused = runtime.block_on(keep.keep_token_files(&declared(&["one.json", "three.json"])));
    assert!(matches!(&refused, Err(tokenkeep::Error::TokenFileKept { path, .. }) if path.ends_with("three.json")));
    refresh();
    wait_for("the second file", FOLLOWS_WITHIN, || current("two.json"));
    assert_eq!(told().len(), 1);
    runtime.block_on(keep.shutdown());
    assert_eq!(mock.totals().reuses, 0);
}

/// How long the Python program reads, and how long its tokens live.
const PYTHON_READS_FOR_S: u64 = 30;
const PYTHON_TTL_S: i64 = 20;

/// A program of requests-oauthlib that reads the file again and again while the daemon rotates: each read gives a whole
/// token set that has not ended, and that the provider takes.
#[test]
fn a_requests_oauthlib_program_never_reads_a_broken_or_ended_token() {
    let Some(python) = std::env::var_os("TOKENKEEP_PYTHON") else {
        panic!("TOKENKEEP_PYTHON must name a Python with requests-oauthlib: `./scripts/test` makes one");
    };
    let mock = Mock::start();
    let installation = installation(&mock, JIRA);
    write(&file(&installation), &mock.grant("jira", Rotation::Strict, PYTHON_TTL_S));
    let daemon = installation.start();
    let mut command = Command::new(python);
    command.arg("-c").arg(include_str!("../python/read_token_file.py"));
    command.arg(file(&installation)).arg(PYTHON_READS_FOR_S.to_string());
    let ran = Running::start(command, Some(b"")).finish(Duration::from_secs(PYTHON_READS_FOR_S + 30));
    let ran = ran.expect_code(0);
    println!("{}", ran.stdout.trim());
    let report = ran.json();
    assert!(report["reads"].as_u64() > Some(1_000), "{report}");
    let tokens = report["tokens"].as_u64().expect("a number");
    assert!(tokens >= 3, "the daemon has hardly rotated: {report}");
    assert_eq!(mock.totals().reuses, 0);
    daemon.stop().expect_code(0);
}
