//! The master key, backups and copies, with the real binary.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::process::Signal;
use serde_json::Value;
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{COMMAND_WITHIN, Daemon, Installation, READY_WITHIN, STOP_WITHIN, binary, command};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::{Running, wait_for};
use tokenkeep_tests::snapshot::Snapshot;

/// How often a rotation is killed.
const KILLS: u64 = 50;
/// A daemon is killed within this after its rotation began; one takes about as long here.
const LIFE_MAX_MS: u64 = 250;
/// Half of the kills come within this time, in which a rotation on an idle machine ends.
const BEGINNING_MS: u64 = 31;
/// The longest that a rotation of a few connections takes.
const ROTATED_WITHIN: Duration = Duration::from_secs(60);
/// Connections that nobody touches, and ones that are refreshed all the time.
const IDLE: usize = 8;
const BUSY: usize = 4;

/// A daemon with connections of a strict provider, and of a persistent one that is refreshed under fire.
struct Bench {
    mock: Mock,
    installation: Installation,
}

impl Bench {
    fn new() -> Self {
        let mock = Mock::start();
        let installation = Installation::new(&config(&mock));
        let bench = Self { mock, installation };
        let daemon = bench.installation.start();
        for nth in 0..IDLE {
            let token = bench.mock.grant(&format!("idle{nth}"), Rotation::Strict, 3_600);
            bench.installation.import(&format!("idle{nth}"), "strict", &token).expect_code(0);
        }
        for nth in 0..BUSY {
            let token = bench.mock.grant(&format!("busy{nth}"), Rotation::Persistent, 3_600);
            bench.installation.import(&format!("busy{nth}"), "persistent", &token).expect_code(0);
        }
        daemon.stop().expect_code(0);
        bench
    }

    fn names() -> impl Iterator<Item = String> {
        (0..IDLE).map(|nth| format!("idle{nth}")).chain((0..BUSY).map(|nth| format!("busy{nth}")))
    }
}

fn config(mock: &Mock) -> String {
    mock.section("strict", "strict") + &mock.section("persistent", "persistent")
}

fn key_state(daemon: &Daemon) -> Value {
    daemon.ask(Request::get("/v1/admin/master-key")).json()
}

#[track_caller]
fn all_tokens_are_read(daemon: &Daemon) {
    for name in Bench::names() {
        let answer = daemon.ask(Request::get(&format!("/v1/connections/{name}/token")));
        assert_eq!(answer.status, 200, "{name}: {}\n{}", answer.body, daemon.stderr());
    }
}

#[test]
fn a_rotation_killed_at_any_time_loses_nothing() {
    let bench = Bench::new();
    let (mut resumed, mut keys) = (0, std::collections::BTreeSet::new());
    for nth in 0..KILLS {
        let daemon = bench.installation.start();
        all_tokens_are_read(&daemon);
        let state = key_state(&daemon);
        resumed += u64::from(state["rotation"].is_object());
        keys.insert(state["key_id"].to_string());
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (socket, stop) = (daemon.socket().to_owned(), &stop);
            scope.spawn(move || refresh_until(&socket, stop));
            let asked = daemon.socket().to_owned();
            // A daemon that is killed before it answers is no error.
            scope.spawn(move || {
                if let Ok(began) = Request::new("POST", "/v1/admin/master-key/rotate").at_socket(&asked) {
                    assert_eq!(began.status, 202, "{}", began.body);
                }
            });
            // Spread over all that a rotation takes, from when it is asked for, and in no order.
            let life_max_ms = if nth % 2 == 0 { BEGINNING_MS } else { LIFE_MAX_MS };
            thread::sleep(Duration::from_millis(nth * 7_919 % life_max_ms));
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
        });
    }
    println!("{KILLS} kills; found in the middle of a rotation: {resumed}; different keys in use: {}", keys.len());
    assert!(resumed >= 5, "kills hit rotations");
    assert!(keys.len() >= 5, "and some rotations came to their end");
    let daemon = bench.installation.start();
    bench.installation.run(&["master-key", "rotate"]).expect_code(0);
    all_tokens_are_read(&daemon);
    for name in Bench::names() {
        bench.installation.run(&["refresh", &name]).expect_code(0);
    }
    assert_eq!(bench.mock.totals().reuses, 0);
    let folder = bench.installation.state_dir();
    assert!(!folder.join("master.key.next").exists());
    let key_id = u32::from_str_radix(key_state(&daemon)["key_id"].as_str().expect("an id"), 16).expect("hex");
    only_this_key_seals(&folder, key_id);
    daemon.stop().expect_code(0);
}

/// Refreshes the busy ones, one after the other; a killed daemon is no error.
fn refresh_until(socket: &Path, stop: &AtomicBool) {
    for nth in (0..BUSY).cycle() {
        let path = format!("/v1/connections/busy{nth}/refresh");
        if stop.load(Ordering::Relaxed) || Request::new("POST", &path).at_socket(socket).is_err() {
            return;
        }
    }
}

/// Every sealed value of the database names this key.
fn only_this_key_seals(folder: &Path, key_id: u32) {
    let database = rusqlite::Connection::open(folder.join("tokenkeep.db")).expect("a database");
    let sql =
        "SELECT access FROM token_set UNION ALL SELECT refresh FROM token_set UNION ALL SELECT extra FROM token_set";
    let mut statement = database.prepare(sql).expect("our tables");
    let sealed = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).expect("rows");
    let mut count = 0;
    for sealed in sealed {
        assert_eq!(sealed.expect("a blob")[2..6], key_id.to_be_bytes());
        count += 1;
    }
    assert_eq!(count, 3 * (IDLE + BUSY));
}

#[test]
fn a_rotation_is_told_as_it_goes_and_in_the_history() {
    let bench = Bench::new();
    let daemon = bench.installation.start();
    let before = key_state(&daemon)["key_id"].clone();
    let master_key = || fs::read(bench.installation.state_dir().join("master.key")).expect("the key file");
    let former = master_key();
    let rotated = bench.installation.run(&["master-key", "rotate"]).expect_code(0);
    assert!(rotated.stderr.starts_with("rotated: ") && rotated.stdout.is_empty(), "{rotated:?}");
    assert_ne!(master_key(), former);
    let shown = bench.installation.run(&["master-key", "status", "--json"]).expect_code(0).json();
    assert!(shown["key_id"] != before && shown["rotation"].is_null(), "{shown}");
    let events = bench.installation.run(&["events", "--json"]).expect_code(0).stdout;
    assert!(events.contains("system.key_rotation_started") && events.contains("system.key_rotated"), "{events}");
    daemon.stop().expect_code(0);
    // Neither key file alone opens what belongs to another.
    fs::write(bench.installation.state_dir().join("master.key"), former).expect("the folder is ours");
    let snapshot = Snapshot::of(&bench.installation.state_dir());
    let refused = bench.installation.start_refused().expect_code(1);
    assert!(refused.stderr.contains("another master key"), "{}", refused.stderr);
    snapshot.expect_unchanged(&bench.installation.state_dir(), &["lock"]);
}

#[test]
fn on_tcp_there_is_no_admin() {
    let bench = Bench::new();
    let daemon = bench.installation.start();
    for (method, path) in
        [("POST", "/v1/admin/backup"), ("POST", "/v1/admin/master-key/rotate"), ("GET", "/v1/admin/master-key")]
    {
        let answer = Request::new(method, path).at_address(&daemon.tcp()).expect("it answers");
        assert_eq!(answer.status, 401, "{path}");
    }
}

/// Makes a backup and says where it and its key are.
fn back_up(bench: &Bench) -> (PathBuf, PathBuf) {
    let file = bench.installation.path("tk.backup");
    let made = bench.installation.run(&["backup", "--output", file.to_str().expect("UTF-8")]).expect_code(0);
    assert!(made.stdout.is_empty() && made.stderr.contains("the master key, which is not in them"), "{made:?}");
    assert_eq!(fs::metadata(&file).expect("the backup").permissions().mode() & 0o777, 0o600);
    (file, bench.installation.state_dir().join("master.key"))
}

fn restore(second: &Installation, backup: &Path, key: &Path) -> tokenkeep_tests::process::Ran {
    let [backup, key] = [backup, key].map(|path| path.to_str().expect("UTF-8"));
    second.run(&["restore", backup, "--key-file", key])
}

#[test]
fn a_backup_on_a_second_machine_starts_held_and_is_freed_one_by_one() {
    let bench = Bench::new();
    let daemon = bench.installation.start();
    let (backup, key) = back_up(&bench);
    daemon.stop().expect_code(0);
    let second = Installation::new(&config(&bench.mock));
    let restored = restore(&second, &backup, &key).expect_code(0);
    assert!(restored.stderr.contains("held until `tokenkeep resume`"), "{}", restored.stderr);
    let daemon = second.start();
    let status = second.run(&["status"]).expect_code(0).stdout;
    assert!(status.contains(&format!("{IDLE} held")), "{status}");
    assert!(status.contains("restored copy") && status.contains("tokenkeep resume idle0"), "{status}");
    let requests = || (0..IDLE).map(|nth| bench.mock.ledger(&format!("idle{nth}")).requests).collect::<Vec<_>>();
    assert_eq!(requests(), [0; IDLE]);
    second.run(&["resume", "idle3"]).expect_code(0);
    wait_for("the probe of the one that was freed", ROTATED_WITHIN, || {
        (second.connection("idle3")["status"] == "fresh" && requests()[3] == 1).then_some(())
    });
    let expected: Vec<_> = (0..IDLE).map(|nth| u64::from(nth == 3)).collect();
    assert_eq!(requests(), expected, "one probe, and nothing of the others");
    assert_eq!(second.connection("idle4")["status"], "held");
    second.run(&["resume", "--all-sole-copy"]).expect_code(0);
    wait_for("the others", ROTATED_WITHIN, || {
        second.connections().iter().all(|connection| connection["status"] == "fresh").then_some(())
    });
    assert_eq!((requests(), bench.mock.totals().reuses), (vec![1; IDLE], 0));
    daemon.stop().expect_code(0);
}

#[test]
fn what_cannot_be_restored_is_refused_and_nothing_changes() {
    let bench = Bench::new();
    let _daemon = bench.installation.start();
    let (backup, key) = back_up(&bench);
    let second = Installation::new(&config(&bench.mock));
    let refused = |backup: &Path, key: &Path, says: &str| {
        let refused = restore(&second, backup, key).expect_code(1);
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
        assert!(!second.state_dir().exists(), "{says}");
    };
    let whole = fs::read(&backup).expect("the backup");
    let damaged = second.path("damaged");
    for position in [3, 10, 20, 40, 57, 61, 70, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x40;
        fs::write(&damaged, bytes).expect("the folder is ours");
        refused(&damaged, &key, "damaged");
    }
    fs::write(&damaged, &whole[..whole.len() - 1]).expect("the folder is ours");
    refused(&damaged, &key, "cut off");
    refused(&second.path("tokenkeep.toml"), &key, "does not begin as a backup");
    refused(Path::new("/nowhere/b"), &key, "/nowhere/b");
    refused(&bench.installation.state_dir(), &key, "it is no file");
    let other = second.path("other.key");
    fs::write(&other, [7; 32]).expect("the folder is ours");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    refused(&backup, &other, "another master key");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    refused(&backup, &other, "others may read it");
    let in_use = bench.installation.run(&["restore", backup.to_str().expect("UTF-8")]).expect_code(1);
    assert!(in_use.stderr.contains("already"), "{}", in_use.stderr);
}

#[test]
fn a_backup_overwrites_nothing_and_leaves_no_half() {
    let bench = Bench::new();
    let daemon = bench.installation.start();
    let (backup, _) = back_up(&bench);
    let before = fs::read(&backup).expect("the backup");
    let again = bench.installation.run(&["backup", "-o", backup.to_str().expect("UTF-8")]).expect_code(1);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    assert_eq!(fs::read(&backup).expect("the backup"), before);
    let nowhere = bench.installation.run(&["backup", "-o", "/nowhere/b"]).expect_code(1);
    assert!(nowhere.stderr.contains("/nowhere/b cannot be written"), "{}", nowhere.stderr);
    // Every write there finds the disk full.
    let to = |out: Stdio| {
        let mut backup = command();
        backup.args(["backup", "-o", "-", "--state-dir"]).arg(bench.installation.state_dir());
        backup.stdout(out).output().expect("it runs")
    };
    let full = to(fs::File::options().write(true).open("/dev/full").expect("Linux").into());
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let closed = to(writer.into());
    assert_eq!(closed.status.code(), Some(1), "{closed:?}");
    assert!(String::from_utf8_lossy(&closed.stderr).contains("before the backup was whole"), "{closed:?}");
    wait_for("the end of every copy", COMMAND_WITHIN, || {
        let names = fs::read_dir(bench.installation.state_dir()).expect("a folder").flatten().map(|e| e.file_name());
        (!names.into_iter().any(|name| name.to_string_lossy().starts_with("backup-"))).then_some(())
    });
    daemon.stop().expect_code(0);
    let stopped = bench.installation.run(&["backup", "-o", "x.backup"]).expect_code(1);
    assert!(stopped.stderr.contains("no daemon answers"), "{}", stopped.stderr);
    assert!(!Path::new("x.backup").exists());
}

#[test]
fn no_token_is_in_any_file_in_any_encoding() {
    let bench = Bench::new();
    let daemon = bench.installation.start();
    let mut canaries = Vec::new();
    for name in Bench::names() {
        bench.installation.run(&["refresh", &name]).expect_code(0);
        let token = bench.installation.run(&["token", &name]).expect_code(0).stdout;
        canaries.push(token.trim_end().to_owned());
    }
    let (backup, _) = back_up(&bench);
    bench.installation.run(&["master-key", "rotate"]).expect_code(0);
    bench.installation.run(&["refresh", "idle0"]).expect_code(0);
    let files = fs::read_dir(bench.installation.state_dir()).expect("a folder").flatten().map(|entry| entry.path());
    let mut looked_at = Vec::new();
    for path in files.filter(|path| path.is_file()).chain([backup]) {
        let bytes = fs::read(&path).expect("a file");
        for canary in &canaries {
            let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
            // However the token is aligned, one of these is inside.
            let base64 = (0..3).map(|cut| STANDARD_NO_PAD.encode(&canary.as_bytes()[cut..cut + 12]));
            for form in [canary.clone(), hex.to_uppercase(), hex].into_iter().chain(base64) {
                let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
                assert!(!found, "{} holds a token", path.display());
            }
        }
        looked_at.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    for name in ["tokenkeep.db", "tokenkeep.db-wal", "journal", "tk.backup"] {
        assert!(looked_at.iter().any(|found| found == name), "{name} was not looked at: {looked_at:?}");
    }
    let said = daemon.stop().expect_code(0).stderr;
    assert!(canaries.iter().all(|canary| !said.contains(canary)));
}

/// As another user than root, for whom the kernel shows by the owner of /proc files who may look into a process.
#[test]
fn the_daemon_dumps_no_core_and_lets_nobody_look_into_it() {
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().expect("a folder");
    let (program, state) = (folder.path().join("tokenkeep"), folder.path().join("state"));
    fs::copy(binary(), &program).expect("the binary can be copied");
    fs::create_dir(&state).expect("the folder is new");
    let mut daemon = command();
    let environment: Vec<_> =
        daemon.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    daemon = std::process::Command::new(&program);
    for (name, value) in environment {
        match value {
            Some(value) => daemon.env(name, value),
            None => daemon.env_remove(name),
        };
    }
    daemon.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(&state);
    if rustix::process::geteuid().is_root() {
        for path in [folder.path(), &state, &program] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        daemon.uid(NOBODY).gid(NOBODY);
    }
    let daemon = Running::start(daemon, Some(b""));
    wait_for("`ready`", READY_WITHIN, || daemon.stderr().lines().any(|line| line == "ready").then_some(()));
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let limits = fs::read_to_string(proc.join("limits")).expect("Linux");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The files of a dumpable process belong to its user; those of others to root.
    assert_eq!(fs::metadata(proc.join("mem")).expect("Linux").uid(), 0);
    daemon.signal(Signal::TERM);
    daemon.finish(STOP_WITHIN).expect_code(0);
}
