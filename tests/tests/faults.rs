//! What goes wrong around the daemon: each time one clear message, the right exit code, and nothing damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use tokenkeep_mock::{Fault, Rotation};
use tokenkeep_tests::daemon::Installation;
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::{Mock, section};
use tokenkeep_tests::process::Ran;
use tokenkeep_tests::snapshot::Snapshot;

/// Where nobody listens: the discard port, which needs a privileged process.
const NOBODY: &str = "http://127.0.0.1:9/token";

/// One message: what (with every one of `named`), and what to do. No panic, no secret, nothing on standard output.
#[track_caller]
fn expect_message(ran: &Ran, code: i32, named: &[&str]) {
    let said = &ran.stderr;
    assert_eq!(ran.code, Some(code), "{said}");
    let messages = said.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(messages, 1, "not one message: {said}");
    let message = &said[said.find("error: ").unwrap_or_default()..];
    assert!(message.contains("\nnext: ") || message.contains("expected"), "no next step: {said}");
    for word in named {
        assert!(message.contains(word), "`{word}` is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains("hunter2") && !ran.stdout.contains("hunter2"), "a secret is shown: {said}");
    assert_eq!(ran.stdout, "", "standard output is for data");
}

/// An installation whose daemon ran, took over three connections, refreshed one, and stopped.
fn used(mock: &Mock) -> Installation {
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    installation.import_lines(&mock.grants("c", 3, 3_600, "mock"));
    installation.run(&["refresh", "c0"]).expect_code(0);
    daemon.stop().expect_code(0);
    installation
}

/// The daemon refuses to start, says so, and changes nothing but the lock file's note of who held it last.
#[track_caller]
fn expect_refused_start(installation: &Installation, named: &[&str]) {
    let before = Snapshot::of(&installation.state_dir());
    let ran = installation.start_refused();
    expect_message(&ran, 1, named);
    before.expect_unchanged(&installation.state_dir(), &["lock"]);
}

// --- The state folder ---

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let mock = Mock::start();
    let installation = used(&mock);
    let daemon = installation.start();
    let before = Snapshot::of(&installation.state_dir());
    let ran = installation.start_refused();
    let pid = format!("pid {}", daemon.process().pid());
    expect_message(&ran, 1, &["another tokenkeep", &pid, &installation.state_dir().to_string_lossy(), "--state-dir"]);
    before.expect_unchanged(&installation.state_dir(), &[]);
    installation.run(&["refresh", "c1"]).expect_code(0);
    daemon.stop().expect_code(0);
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let installation = used(&Mock::start());
    let database = Connection::open(installation.state_dir().join("tokenkeep.db")).expect("a database");
    let version: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    database.pragma_update(None, "user_version", version + 7).expect("it can be written");
    database.close().expect("it can be closed");
    let found = (version + 7).to_string();
    expect_refused_start(&installation, &["version", &found, "newer Tokenkeep"]);
}

#[test]
fn a_cut_database_is_left_alone() {
    let installation = used(&Mock::start());
    let path = installation.state_dir().join("tokenkeep.db");
    let whole = fs::read(&path).expect("a database");
    for length in [0, 50, 100, 4_096, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("the file is ours");
        println!("cut to {length} of {}", whole.len());
        expect_refused_start(&installation, &["tokenkeep.db", "backup"]);
    }
    fs::write(&path, &whole).expect("the file is ours");
    installation.start().stop().expect_code(0);
}

#[test]
fn a_flipped_header_is_left_alone() {
    let installation = used(&Mock::start());
    let path = installation.state_dir().join("tokenkeep.db");
    let whole = fs::read(&path).expect("a database");
    for at in [0, 15, 16, 68] {
        flip(&path, &whole, at);
        println!("flipped {at}");
        expect_refused_start(&installation, &["tokenkeep.db"]);
    }
}

/// How many bytes of each file are flipped, one at a time.
const FLIPS: usize = 40;

/// A flipped byte either is noticed, or changes nothing that anybody is told.
#[test]
fn a_flipped_byte_never_hands_out_a_wrong_token() {
    let mock = Mock::start();
    let installation = used(&mock);
    for name in ["tokenkeep.db", "journal"] {
        let path = installation.state_dir().join(name);
        let whole = fs::read(&path).expect("a file of the daemon");
        // Empty space is mostly harmless: what was written is of interest.
        let written: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
        let (mut refused, mut told, mut harmless) = (0, 0, 0);
        for nth in 0..FLIPS {
            let before = Snapshot::of(&installation.state_dir());
            flip(&path, &whole, written[nth * written.len() / FLIPS]);
            match served_with_damage(&mock, &installation) {
                Damage::Refused => refused += 1,
                Damage::Told => told += 1,
                Damage::None => harmless += 1,
            }
            before.restore(&installation.state_dir());
        }
        let bytes = written.len();
        println!("{name}: {FLIPS} of {bytes} bytes: {refused} refused, {told} told when asked, {harmless} harmless");
    }
}

enum Damage {
    /// The daemon does not start.
    Refused,
    /// The daemon starts, and some connection answers with an error.
    Told,
    /// Every connection hands out the provider's newest token.
    None,
}

fn served_with_damage(mock: &Mock, installation: &Installation) -> Damage {
    let Some(daemon) = installation.try_start() else {
        return Damage::Refused;
    };
    let mut damage = Damage::None;
    for nth in 0..3 {
        let answer = daemon.ask(Request::get(&format!("/v1/connections/c{nth}/token?wait=0")));
        match answer.status {
            200 => {
                let token = answer.json()["access_token"].as_str().expect("a token").to_owned();
                let expected = mock.ledger(&format!("c{nth}")).access_token_fingerprint;
                assert_eq!(tokenkeep_mock::fingerprint(&token), expected, "a token that the provider did not issue");
            }
            _ => {
                assert!(answer.json()["code"].is_string(), "{answer:?}");
                damage = Damage::Told;
            }
        }
    }
    daemon.kill();
    damage
}

fn flip(path: &Path, whole: &[u8], at: usize) {
    let mut bytes = whole.to_vec();
    bytes[at] ^= 0xff;
    fs::write(path, bytes).expect("the file is ours");
}

// --- The master key ---

#[test]
fn a_wrong_key_a_cut_key_a_readable_key_and_no_key_are_refused() {
    let mock = Mock::start();
    let installation = used(&mock);
    let path = installation.state_dir().join("master.key");
    let key = fs::read(&path).expect("a key file");
    let wrong: Vec<u8> = key.iter().map(|byte| byte ^ 1).collect();

    write_key(&path, &wrong, 0o600);
    expect_refused_start(&installation, &["another master key", "put the right key back"]);
    write_key(&path, &key[..31], 0o600);
    expect_refused_start(&installation, &["master.key", "31 bytes", "32"]);
    write_key(&path, b"", 0o600);
    expect_refused_start(&installation, &["master.key", "0 bytes", "32"]);
    write_key(&path, &key, 0o644);
    expect_refused_start(&installation, &["master.key", "0644", "chmod 600"]);
    fs::remove_file(&path).expect("the file is ours");
    expect_refused_start(&installation, &["master.key"]);
    assert!(!path.exists(), "a new key was made beside an old database");

    write_key(&path, &key, 0o600);
    let daemon = installation.start();
    installation.run(&["refresh", "c0"]).expect_code(0);
    daemon.stop().expect_code(0);
}

fn write_key(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).expect("the file is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the file is ours");
}

// --- The configuration ---

#[test]
fn a_wrong_configuration_is_shown_line_by_line() {
    let good = section("mock", NOBODY, "strict");
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let installation = Installation::new(&good);
    for (config, line, named) in [
        (
            format!("{good}\n[refresh]\nrefesh_threshold = 600\n"),
            8,
            &["refesh_threshold", "did you mean", "refresh_threshold"][..],
        ),
        (format!("{good}\n[sever]\n"), 7, &["sever", "did you mean", "server"]),
        (format!("{good}\n[refresh]\nmax_retries = \"many\"\n"), 8, &["max_retries", "string", "whole number"]),
        (format!("{good}\n[refresh]\ncheck_interval = \"soon\"\n"), 8, &["check_interval", "soon", "300s"]),
        (format!("{good}\n[server]\nlisten = \"0.0.0.0:1\"\n"), 8, &["listen", "0.0.0.0:1", "loopback"]),
        (format!("{good}\n[server\n"), 7, &["not TOML"]),
        (replaced("client_id = \"mock-client\"\n", ""), 1, &["client_id", "add client_id"]),
        (replaced("client_secret = { file = \"secret\" }\n", ""), 1, &["client_secret", "{ env = "]),
        (replaced("{ file = \"secret\" }", "\"hunter2\""), 4, &["secret must not stand", "{ file = "]),
        (replaced("file = \"secret\"", "file = \"gone\""), 4, &["gone", "cannot be read", "No such file"]),
        (replaced("file = \"secret\"", "env = \"NO_SUCH_VARIABLE\""), 4, &["NO_SUCH_VARIABLE", "not set"]),
        (replaced("\"strict\"", "\"sometimes\""), 5, &["sometimes", "until-used"]),
        (replaced("http://127.0.0.1:9", "http://sso.example.com"), 2, &["unencrypted", "https://"]),
        (replaced("token_url", "token_ulr"), 2, &["token_ulr", "did you mean", "token_url"]),
    ] {
        installation.configure(&config);
        let ran = installation.start_refused();
        let place = format!("tokenkeep.toml:{line}:");
        expect_message(&ran, 1, &[&[place.as_str()], named].concat());
        assert!(!installation.state_dir().exists(), "a state folder was made: {config}");
    }
}

#[test]
fn an_unreadable_secret_file_is_named() {
    let installation = Installation::new(&section("mock", NOBODY, "strict"));
    fs::remove_file(installation.path("secret")).expect("the file is ours");
    // A folder cannot be read as a file by anybody, root included.
    fs::create_dir(installation.path("secret")).expect("the folder is ours");
    let ran = installation.start_refused();
    expect_message(&ran, 1, &["tokenkeep.toml:4:", "secret", "cannot be read"]);
}

#[test]
fn a_missing_configuration_file_is_named() {
    let installation = Installation::new("");
    fs::remove_file(installation.path("tokenkeep.toml")).expect("the file is ours");
    let ran = installation.start_refused();
    expect_message(&ran, 1, &["tokenkeep.toml", "cannot be read", "--config"]);
}

// --- Commands ---

#[test]
fn an_unknown_connection_is_not_found_and_the_right_one_suggested() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let _daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    for command in ["token", "refresh", "status", "pause", "resume"] {
        expect_message(&installation.run(&[command, "jria"]), 3, &["jria", "did you mean `jira`?"]);
    }
    expect_message(&installation.run(&["remove", "jria", "--yes"]), 3, &["jria", "did you mean `jira`?"]);
    expect_message(&installation.run(&["token", "something-else"]), 3, &["something-else", "tokenkeep list"]);
}

#[test]
fn commands_without_a_daemon_say_how_to_start_one() {
    let installation = Installation::new("");
    for arguments in [&["status"][..], &["token", "jira"], &["list", "--json"], &["events"], &["refresh", "jira"]] {
        expect_message(&installation.run(arguments), 1, &["no daemon answers", "tokenkeep.sock", "tokenkeep serve"]);
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let installation = Installation::new("");
    for arguments in
        [&["nonsense"][..], &["token"], &["token", "a/b"], &["token", "jira", "--wait", "1000s"], &["import", "jira"]]
    {
        let ran = installation.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.stderr.contains("error: "), "{ran:?}");
    }
}

// --- Imports ---

#[test]
fn bad_token_files_are_refused_and_change_nothing() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    let held = mock.grant("held", Rotation::Strict, 3_600);
    installation.import("held", "mock", &held).expect_code(0);
    let before = Snapshot::of(&installation.state_dir());
    let standing = || {
        let see = |path| Request::get(path).at_socket(daemon.socket()).expect("an answer").json();
        [see("/v1/connections"), see("/v1/events?limit=1000")]
    };
    let stood = standing();
    for bad in [
        "",
        " ",
        "{",
        "nonsense",
        "[]",
        "[{\"access_token\": \"hunter2\"}]",
        "null",
        "7",
        "\"hunter2\"",
        "{}",
        "{\"access_token\": \"hunter2\",}",
        "{\"access_token\": \"hunter2\"",
        "{\"access_token\": \"\"}",
        "{\"access_token\": null, \"refresh_token\": \"hunter2\"}",
        "{\"access_token\": 7, \"refresh_token\": \"hunter2\"}",
        "{\"access_token\": [\"hunter2\"]}",
        "{\"access_token\": \"hunter2\\nhunter2\"}",
        "{\"refresh_token\": 7, \"access_token\": \"hunter2\"}",
        "{\"error\": \"invalid_grant\", \"error_description\": \"hunter2\"}",
        "{\"token\": {\"access_token\": \"hunter2\"}}",
        "\u{0}\u{1}\u{2}",
    ] {
        for name in ["new", "held"] {
            let arguments = ["import", name, "--provider", "mock", "--file", "-"];
            println!("{bad:?} as {name}");
            let ran = installation.run_with(&arguments, bad.as_bytes());
            expect_message(&ran, 1, &[]);
        }
    }
    let binary = [0xff, 0xfe, 0x00, 0x9f];
    expect_message(&installation.run_with(&["import", "new", "--provider", "mock"], &binary), 1, &[]);
    assert_eq!(standing(), stood);
    // The store's log has the refusals in the audit trail, and its shared index the marks of whoever reads.
    before.expect_unchanged(&installation.state_dir(), &["tokenkeep.db-shm", "tokenkeep.db-wal"]);
    let log = fs::read(installation.state_dir().join("tokenkeep.db-wal")).expect("the store is open");
    assert!(!log.windows(7).any(|part| part == b"hunter2"), "a secret is in the audit trail");
    assert_eq!(installation.run(&["token", "held"]).expect_code(0).stdout.trim_end(), held["access_token"]);
    daemon.stop().expect_code(0);
}

#[test]
fn imports_of_files_and_providers_that_are_not_there_say_so() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let _daemon = installation.start();
    let gone = installation.path("gone.json");
    let gone = gone.to_string_lossy();
    expect_message(&installation.run(&["import", "a", "--provider", "mock", "--file", &gone]), 1, &[&gone]);
    let folder = installation.path("");
    let folder = folder.to_string_lossy();
    expect_message(&installation.run(&["import", "a", "--provider", "mock", "--file", &folder]), 1, &[&folder]);
    let token = mock.grant("a", Rotation::Strict, 3_600);
    expect_message(&installation.import("a", "mokc", &token), 1, &["mokc"]);
    assert_eq!(installation.connections().len(), 0);
}

#[test]
fn a_bad_line_costs_itself_alone() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let _daemon = installation.start();
    let good = mock.grants("c", 2, 3_600, "mock");
    let (first, second) = good.split_once('\n').expect("two lines");
    let lines = format!(
        "{first}\n{{broken hunter2\n[]\n\n{{\"name\":\"x\",\"provider\":\"nobody\",\"token\":{{\"access_token\":\"hunter2\"}}}}\n{second}"
    );
    let ran = installation.run_with(&["import", "--ndjson", "-"], lines.as_bytes());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(!ran.stderr.contains("hunter2") && !ran.stdout.contains("hunter2"), "{ran:?}");
    for named in ["line 2", "line 3", "line 5", "nobody"] {
        assert!(ran.stderr.contains(named), "`{named}` is missing: {}", ran.stderr);
    }
    let names: Vec<_> = installation.connections().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["c0", "c1"]);
}

// --- The provider ---

#[test]
fn a_provider_that_is_down_is_temporary_and_the_token_is_served_on() {
    let mock = Mock::start();
    let installation = Installation::new(&section("mock", NOBODY, "strict"));
    let _daemon = installation.start();
    let token = mock.grant("jira", Rotation::Strict, 3_600);
    installation.import("jira", "mock", &token).expect_code(0);
    let ran = installation.run(&["refresh", "jira"]);
    expect_message(&ran, 75, &["jira", "No connection to the provider", "keeps trying"]);
    let connection = installation.connection("jira");
    assert_eq!(
        (&connection["status"], &connection["last_error"]["code"]),
        (&"retrying".into(), &"connect_failed".into())
    );
    assert_eq!(installation.run(&["token", "jira"]).expect_code(0).stdout.trim_end(), token["access_token"]);
    assert_eq!(mock.ledger("jira").requests, 0);
}

#[test]
fn an_expired_token_of_a_provider_that_is_down_is_temporary() {
    let mock = Mock::start();
    let installation = Installation::new(&section("mock", NOBODY, "strict"));
    let _daemon = installation.start();
    let mut token = mock.grant("jira", Rotation::Strict, 3_600);
    token["expires_at"] = 1_000_000_000.into();
    installation.import("jira", "mock", &token).expect_code(0);
    let ran = installation.run(&["token", "jira", "--wait", "1s"]);
    expect_message(&ran, 75, &["jira", "expired"]);
}

#[test]
fn a_provider_that_lies_is_told_and_does_not_cost_the_token() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "persistent"));
    let _daemon = installation.start();
    let token = mock.grant("jira", Rotation::Persistent, 3_600);
    installation.import("jira", "mock", &token).expect_code(0);
    for (fault, code) in [
        (Fault::Html, "answer_unreadable"),
        (Fault::HtmlForbidden, "unknown_answer"),
        (Fault::Garbage, "answer_unreadable"),
        (Fault::Empty, "answer_unreadable"),
        (Fault::Truncated, "answer_truncated"),
        (Fault::ServerErrorBefore { status: 500 }, "server_error"),
        (Fault::DropBefore, "connection_lost"),
        (Fault::ResetBefore, "connection_lost"),
    ] {
        mock.state().script(Some("jira"), vec![fault.clone()]).expect("the script has room");
        println!("{fault:?}");
        let ran = installation.run(&["refresh", "jira"]);
        expect_message(&ran, 75, &["jira"]);
        assert_eq!(installation.connection("jira")["last_error"]["code"], code, "{fault:?}: {}", ran.stderr);
        installation.run(&["token", "jira"]).expect_code(0);
    }
    installation.run(&["refresh", "jira"]).expect_code(0);
    assert_eq!(installation.connection("jira")["status"], "fresh");
}

/// A captive portal answers in place of a strict provider: nobody knows whether it rotated, so nothing is sent again
/// until the probe, unless forced.
#[test]
fn a_lying_strict_provider_is_in_doubt_until_its_probe() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let _daemon = installation.start();
    let token = mock.grant("jira", Rotation::Strict, 3_600);
    installation.import("jira", "mock", &token).expect_code(0);
    mock.state().script(Some("jira"), vec![Fault::Html]).expect("the script has room");
    expect_message(&installation.run(&["refresh", "jira"]), 75, &["in_doubt"]);
    expect_message(&installation.run(&["refresh", "jira"]), 75, &["in_doubt"]);
    assert_eq!(mock.ledger("jira").requests, 1);
    assert_eq!(installation.run(&["token", "jira"]).expect_code(0).stdout.trim_end(), token["access_token"]);
    installation.run(&["refresh", "jira", "--force"]).expect_code(0);
    assert_eq!((mock.ledger("jira").requests, mock.totals().reuses), (2, 0));
    assert_eq!(installation.connection("jira")["status"], "fresh");
}

#[test]
fn a_slow_provider_keeps_nobody_waiting_for_ever() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    mock.state().script(Some("jira"), vec![Fault::DelayAnswer { ms: 14_000 }]).expect("the script has room");
    let started = std::time::Instant::now();
    expect_message(&installation.run(&["refresh", "jira"]), 75, &["jira", "in flight", "tokenkeep status"]);
    assert!((9..13).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    // The one in flight is joined, and its answer is kept: nothing else is sent.
    installation.run(&["token", "jira"]).expect_code(0);
    installation.run(&["refresh", "jira"]).expect_code(0);
    assert_eq!((mock.ledger("jira").requests, mock.totals().reuses), (1, 0));
    let renewed = installation.connection("jira");
    assert_eq!((&renewed["status"], &renewed["generation"]), (&"fresh".into(), &2.into()));
    daemon.stop().expect_code(0);
}

#[test]
fn a_stop_waits_for_the_answer_in_flight() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    mock.state().script(Some("jira"), vec![Fault::DelayAnswer { ms: 3_000 }]).expect("the script has room");
    std::thread::scope(|scope| {
        let refresh = scope.spawn(|| installation.run(&["refresh", "jira"]));
        tokenkeep_tests::process::wait_for("the request", Duration::from_secs(10), || {
            (mock.ledger("jira").requests == 1).then_some(())
        });
        daemon.stop().expect_code(0);
        let ran = refresh.join().expect("the command runs");
        println!("the refresh that the stop met ended with {:?}: {}", ran.code, ran.stderr);
    });
    let _daemon = installation.start();
    assert_eq!(installation.connection("jira")["status"], "fresh");
    installation.run(&["refresh", "jira"]).expect_code(0);
    assert_eq!((mock.ledger("jira").refreshes, mock.totals().reuses), (2, 0));
}

#[test]
fn a_wrong_client_holds_the_connection_and_asks_nobody_to_sign_in() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    fs::write(installation.path("secret"), "hunter2\n").expect("the file is ours");
    let _daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    expect_message(&installation.run(&["refresh", "jira"]), 1, &["held", "client_secret"]);
    let connection = installation.connection("jira");
    assert_eq!((&connection["status"], &connection["last_error"]["code"]), (&"held".into(), &"invalid_client".into()));
    installation.run(&["status"]).expect_code(0);
    assert!(mock.ledger("jira").killed.is_none());
}
