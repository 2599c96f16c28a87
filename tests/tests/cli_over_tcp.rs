//! The commands by `--url`, with an API key: over loopback TCP, and over TLS through something in front of the daemon.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{COMMAND_WITHIN, Daemon, Installation, command};
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::{Ran, Running, wait_for};
use tokenkeep_tests::tls_front::TlsFront;

/// How long something may take to be shown.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);

/// A provider, and a daemon with the connection `jira`.
struct Bench {
    mock: Mock,
    installation: Installation,
    daemon: Daemon,
}

impl Bench {
    fn new() -> Self {
        let mock = Mock::start();
        let installation = Installation::new(&mock.section("mock", "strict"));
        let daemon = installation.start();
        installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
        Self { mock, installation, daemon }
    }

    /// Makes a key at the socket.
    fn key(&self, arguments: &[&str]) -> String {
        let made = self.installation.run(&[&["api-key", "create"], arguments].concat()).expect_code(0);
        let key = made.stdout.strip_suffix('\n').expect("a line").to_owned();
        assert!(key.starts_with("tk_") && !key.contains(char::is_whitespace), "the key alone: {}", made.stdout);
        assert!(!made.stderr.contains(&key), "{}", made.stderr);
        key
    }

    fn id_of(&self, name: &str) -> String {
        let keys = self.installation.run(&["api-key", "list", "--json"]).expect_code(0).json();
        let found = keys.as_array().expect("an array").iter().find(|key| key["name"] == name);
        found.unwrap_or_else(|| panic!("no key {name}: {keys}"))["id"].as_str().expect("an id").to_owned()
    }

    fn url(&self) -> String {
        format!("http://{}", self.daemon.tcp())
    }

    fn there<'a>(&self, key: &'a str) -> There<'a> {
        There { url: self.url(), key, trusted: None }
    }
}

/// Somebody who has nothing of the daemon but its address and a key.
struct There<'a> {
    url: String,
    key: &'a str,
    /// A file with a root certificate.
    trusted: Option<String>,
}

impl There<'_> {
    /// In the folder of nobody, so that no socket can be what answers.
    fn start(&self, arguments: &[&str], stdin: &[u8]) -> Running {
        let mut command = command();
        command.args(["--url", &self.url]).args(arguments);
        command.env("TOKENKEEP_API_KEY", self.key).env("TOKENKEEP_STATE_DIR", "/nowhere");
        if let Some(file) = &self.trusted {
            command.env("SSL_CERT_FILE", file);
        }
        let running = Running::start(command, Some(stdin));
        let shown = fs::read(format!("/proc/{}/cmdline", running.pid())).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&shown).contains(self.key), "the key is among the arguments");
        running
    }

    fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Ran {
        let ran = self.start(arguments, stdin).finish(COMMAND_WITHIN);
        assert!(!ran.stdout.contains(self.key) && !ran.stderr.contains(self.key), "the key is shown: {arguments:?}");
        ran
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"")
    }
}

fn last_line(running: &Running) -> Option<Value> {
    let said = running.stdout();
    serde_json::from_str(said.lines().last()?).ok()
}

/// Everything that a person does with connections.
fn all_commands(bench: &Bench, there: &There<'_>) {
    there.run(&["ready"]).expect_code(0);
    assert_eq!(there.run(&["list", "--json"]).expect_code(0).json()[0]["name"], "jira");
    let status = there.run(&["status", "jira", "--json"]).expect_code(0).json();
    assert_eq!(status["connections"][0]["status"], "fresh");
    let token = there.run(&["token", "jira"]).expect_code(0).stdout;
    assert_eq!(bench.installation.run(&["token", "jira"]).expect_code(0).stdout, token);

    let follower = there.start(&["events", "--follow", "--json"], b"");
    let watcher = there.start(&["status", "--watch", "--json"], b"");
    wait_for("the first status", SHOWN_WITHIN, || last_line(&watcher));
    let generation = status["connections"][0]["generation"].as_u64().expect("a number");
    // The stream of the follower may not be open yet: what it missed would never come.
    wait_for("an event", SHOWN_WITHIN, || {
        there.run(&["refresh", "jira"]).expect_code(0);
        last_line(&follower).filter(|event| event["type"] == "connection.refreshed")
    });
    wait_for("the new generation", SHOWN_WITHIN, || {
        last_line(&watcher).filter(|connection| connection["generation"].as_u64() > Some(generation))
    });
    for running in [follower, watcher] {
        running.signal(Signal::TERM);
        let ended = running.finish(COMMAND_WITHIN);
        assert!(!ended.stdout.contains(there.key) && !ended.stderr.contains(there.key), "{ended:?}");
    }
    assert_ne!(there.run(&["token", "jira"]).expect_code(0).stdout, token, "it was refreshed");

    there.run(&["pause", "jira"]).expect_code(0);
    assert_eq!(bench.installation.connection("jira")["status"], "paused");
    there.run(&["resume", "jira"]).expect_code(0);
    assert_eq!(bench.installation.connection("jira")["status"], "fresh");
    let other = bench.mock.grant("other", Rotation::Strict, 3_600).to_string();
    there.run_with(&["import", "other", "--provider", "mock", "--file", "-"], other.as_bytes()).expect_code(0);
    there.run(&["exec", "other", "--", "sh", "-c", "test -n \"$ACCESS_TOKEN\""]).expect_code(0);
    there.run(&["remove", "other", "--yes"]).expect_code(0);
    let unknown = there.run(&["status", "jria"]).expect_code(3);
    assert!(unknown.stderr.contains("did you mean `jira`?"), "{}", unknown.stderr);
    assert!(there.run(&["events", "--json"]).expect_code(0).stdout.contains("connection.removed"));
}

#[test]
fn every_command_works_with_a_key_over_tcp() {
    let bench = Bench::new();
    let key = bench.key(&["ops", "--scope", "admin", "--expires", "1d"]);
    let there = bench.there(&key);
    all_commands(&bench, &there);

    let shown = there.run(&["config", "show", "--json"]).expect_code(0).json();
    assert!(shown["since"].is_string(), "that of the daemon: {shown}");
    there.run(&["master-key", "status"]).expect_code(0);
    let report = there.run(&["doctor", "--audit", "--json"]).expect_code(0).json();
    let checks = report["checks"].as_array().expect("an array");
    let check = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{report}"));
    assert_eq!(check("connections")["verdict"], "ok");
    assert_eq!(check("audit trail")["verdict"], "ok");
    assert_eq!(check("API key")["verdict"], "note", "it ends within a day");

    // Another key, made and ended from afar; it ends no later than the one that makes it.
    let longer = there.run(&["api-key", "create", "ci", "--scope", "token"]).expect_code(1);
    assert!(longer.stderr.contains("end no later than itself") && longer.stdout.is_empty(), "{}", longer.stderr);
    let made = there
        .run(&["api-key", "create", "ci", "--scope", "token", "--expires", "1h", "-n", "team-*", "--json"])
        .expect_code(0)
        .json();
    assert_eq!((&made["scopes"], &made["namespaces"]), (&serde_json::json!(["token"]), &serde_json::json!(["team-*"])));
    let by_name = there.run(&["api-key", "revoke", "ci", "--yes"]).expect_code(3);
    let id = made["id"].as_str().expect("an id");
    assert!(by_name.stderr.contains(&format!("did you mean `{id}`")), "{}", by_name.stderr);
    there.run(&["api-key", "revoke", id, "--yes"]).expect_code(0);
    assert_eq!(there.run(&["api-key", "list", "--json"]).expect_code(0).json().as_array().map(Vec::len), Some(1));

    let who = format!("key:{}", bench.id_of("ops"));
    let trail = bench.installation.run(&["audit", "--json"]).expect_code(0).stdout;
    let records: Vec<Value> = trail.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let did = |actor: &str, action: &str| records.iter().any(|r| r["actor"] == actor && r["action"] == action);
    assert!(did(&who, "POST /v1/connections/{name}/refresh") && did(&who, "DELETE /v1/api-keys/{id}"), "{trail}");
    let after = records[1]["id"].to_string();
    let rest = there.run(&["audit", "--json", "--after", &after]).expect_code(0).stdout;
    assert!(rest.starts_with(&format!("{{\"id\":{}", records[2]["id"])), "{rest}");
    assert!(there.run(&["audit"]).expect_code(0).stdout.contains("POST /v1/connections/{name}/pause"));
    assert!(!bench.daemon.stop().expect_code(0).stderr.contains(&key));
}

#[test]
fn what_is_served_on_the_socket_alone_is_refused_before_anything_else() {
    let bench = Bench::new();
    let key = bench.key(&["ops", "--scope", "admin"]);
    let there = bench.there(&key);
    let output = bench.installation.path("out");
    let path = output.to_str().expect("UTF-8");
    for arguments in [
        &["export", "jira", "--output", path][..],
        &["backup", "--output", path],
        &["master-key", "rotate"],
        &["api-key", "setup"],
    ] {
        let refused = there.run(arguments).expect_code(2);
        assert!(refused.stderr.contains("socket alone") && refused.stdout.is_empty(), "{}", refused.stderr);
        assert!(!output.exists(), "{arguments:?}");
    }
    // At the socket, the link is one for a browser.
    let link = bench.installation.run(&["api-key", "setup"]).expect_code(0).stdout;
    assert!(link.starts_with("http://") && link.contains("#setup_code="), "{link}");
}

#[test]
fn a_key_may_do_no_more_than_it_says() {
    let bench = Bench::new();
    let other = bench.mock.grant("github", Rotation::Strict, 3_600);
    bench.installation.import("github", "mock", &other).expect_code(0);
    let status = bench.key(&["monitor", "--scope", "status"]);
    let there = bench.there(&status);
    there.run(&["list"]).expect_code(0);
    for arguments in
        [&["token", "jira"][..], &["refresh", "jira"], &["pause", "jira"], &["audit"], &["api-key", "list"]]
    {
        let refused = there.run(arguments).expect_code(1);
        assert!(refused.stderr.starts_with("error: this needs the scope `"), "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("\nnext: ") && refused.stdout.is_empty(), "{}", refused.stderr);
    }

    let limited = bench.key(&["jira-only", "--scope", "status,token", "--name", "ji*"]);
    let there = bench.there(&limited);
    there.run(&["token", "jira"]).expect_code(0);
    let hidden = there.run(&["token", "github"]).expect_code(3);
    let absent = there.run(&["token", "nobody"]).expect_code(3);
    assert_eq!(hidden.stderr.replace("github", "nobody"), absent.stderr, "foreign is as absent");
    assert_eq!(there.run(&["list", "--json"]).expect_code(0).json().as_array().map(Vec::len), Some(1));

    // It ends at once, also for who follows with it.
    let follower = there.start(&["events", "--follow"], b"");
    wait_for("an event", SHOWN_WITHIN, || {
        bench.installation.run(&["refresh", "jira"]).expect_code(0);
        (!follower.stdout().is_empty()).then_some(())
    });
    bench.installation.run(&["api-key", "revoke", &bench.id_of("jira-only"), "--yes"]).expect_code(0);
    let refused = there.run(&["token", "jira"]).expect_code(1);
    assert!(refused.stderr.contains("unknown, revoked or expired"), "{}", refused.stderr);
    assert!(refused.stderr.contains("check TOKENKEEP_API_KEY"), "{}", refused.stderr);
    bench.daemon.stop().expect_code(0);
    let _daemon = bench.installation.start_at(there.url.trim_start_matches("http://"));
    let ended = follower.finish(COMMAND_WITHIN).expect_code(1);
    assert!(ended.stderr.contains("unknown, revoked or expired"), "{}", ended.stderr);
}

#[test]
fn who_is_not_there_is_told_with_what_to_do() {
    let bench = Bench::new();
    let key = bench.key(&["ops", "--scope", "admin"]);
    let told = |url: String, code: i32, says: &str| {
        let ran = There { url, key: &key, trusted: None }.run(&["list"]).expect_code(code);
        assert!(ran.stderr.contains(says) && ran.stderr.contains("next: "), "{says}: {}", ran.stderr);
    };
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    told(format!("http://{free}"), 1, "nobody listens at");
    told(format!("http://{}", bench.mock.address()), 1, "is no Tokenkeep: 404");
    told(bench.url().replace("http:", "https:"), 1, "speaks no TLS");
    told(format!("{}/keep", bench.url()), 1, "there is nothing at /keep/v1/connections");
    told("http://192.0.2.1:7878".to_owned(), 2, "plain http to another machine");
    told("http://:hunter2@127.0.0.1".to_owned(), 2, "password in it");

    let mut unset = command();
    unset.args(["list", "--url", &bench.url()]);
    let unset = Running::start(unset, Some(b"")).finish(COMMAND_WITHIN).expect_code(1);
    assert!(unset.stderr.contains("TOKENKEEP_API_KEY is not set"), "{}", unset.stderr);
    let other = There { url: bench.url(), key: "hunter2", trusted: None }.run(&["list"]).expect_code(2);
    assert!(other.stderr.contains("no API key"), "{}", other.stderr);

    // From the environment, which --state-dir stands above; and the key from a file.
    let file = bench.installation.path("key");
    fs::write(&file, format!("{key}\n")).expect("the folder is ours");
    let run = |arguments: &[&str], both: bool| {
        let mut command = command();
        command.args(arguments).env("TOKENKEEP_URL", bench.url()).env("TOKENKEEP_API_KEY_FILE", &file);
        if both {
            command.env("TOKENKEEP_API_KEY", &key);
        }
        Running::start(command, Some(b"")).finish(COMMAND_WITHIN)
    };
    run(&["token", "jira"], false).expect_code(0);
    assert!(run(&["token", "jira"], true).expect_code(2).stderr.contains("both set"));
    let state_dir = bench.installation.state_dir();
    let state_dir = state_dir.to_str().expect("UTF-8");
    run(&["export", "jira", "--yes", "--state-dir", state_dir], false).expect_code(0);
    run(&["list", "--state-dir", state_dir, "--url", &bench.url()], false).expect_code(2);
}

#[test]
fn over_tls_the_certificate_and_the_path_count() {
    let bench = Bench::new();
    let key = bench.key(&["ops", "--scope", "admin"]);
    let front = TlsFront::start(bench.daemon.tcp(), "/keep");
    let trusted = Some(front.certificate().to_str().expect("UTF-8").to_owned());
    let at = |host: &str, path: &str, trusted: &Option<String>| There {
        url: format!("https://{host}:{}{path}", front.port()),
        key: &key,
        trusted: trusted.clone(),
    };
    all_commands(&bench, &at("localhost", "/keep/", &trusted));
    let beside = at("localhost", "", &trusted).run(&["list"]).expect_code(1);
    assert!(beside.stderr.contains("is no Tokenkeep: 404"), "{}", beside.stderr);

    let misnamed = at("127.0.0.1", "/keep", &trusted).run(&["list"]).expect_code(1);
    assert!(misnamed.stderr.contains("is for another host"), "{}", misnamed.stderr);
    let another = TlsFront::start(bench.daemon.tcp(), "");
    let other = Some(another.certificate().to_str().expect("UTF-8").to_owned());
    let untrusted = at("localhost", "/keep", &other).run(&["list"]).expect_code(1);
    assert!(untrusted.stderr.contains("is not trusted") && untrusted.stderr.contains("SSL_CERT_FILE"), "{untrusted:?}");
}

#[test]
fn a_daemon_with_a_certificate_of_its_own_is_reached_by_it() {
    let mock = Mock::start();
    let config = "[server]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n".to_owned();
    let installation = Installation::new(&(config + &mock.section("mock", "strict")));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(installation.path("cert.pem"), made.cert.pem()).expect("the folder is ours");
    fs::write(installation.path("key.pem"), made.signing_key.serialize_pem()).expect("the folder is ours");
    fs::set_permissions(installation.path("key.pem"), fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    let bench = Bench { mock, installation, daemon };
    let key = bench.key(&["ops", "--scope", "admin"]);
    let url = bench.url().replace("http://127.0.0.1", "https://localhost");
    let trusted = bench.installation.path("cert.pem").to_str().map(str::to_owned);
    all_commands(&bench, &There { url, key: &key, trusted });
    let in_the_clear = bench.there(&key).run(&["list"]);
    assert!(in_the_clear.code != Some(0) && in_the_clear.stderr.contains("next: "), "{in_the_clear:?}");
}

#[test]
fn a_trail_that_somebody_changed_is_a_fault() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench.installation.run(&["refresh", "jira"]).expect_code(0);
    }
    bench.installation.run(&["doctor", "--audit"]).expect_code(0);
    bench.daemon.stop().expect_code(0);
    let database = rusqlite::Connection::open(bench.installation.state_dir().join("tokenkeep.db")).expect("a database");
    let changed = database
        .execute("UPDATE audit SET record = replace(record, 'uid:', 'uid:4') WHERE id = 2", [])
        .expect("our table");
    assert_eq!(changed, 1);
    drop(database);
    let _daemon = bench.installation.start();
    let report = bench.installation.run(&["doctor", "--audit"]).expect_code(1).stdout;
    assert!(report.contains("Record 2: ") && report.contains("trust nothing in it behind record 1"), "{report}");
}
