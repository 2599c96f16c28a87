//! What is left behind of what was done: the audit trail, the log, and no secret anywhere else (security 7, 16, 26 to 28).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokenkeep_core::model::is_hidden;
use tokenkeep_mock::{Fault, Rotation};
use tokenkeep_tests::callers::{By, Caller, Door, Reach, cookie_of, header, text};
use tokenkeep_tests::daemon::{Daemon, Installation, READY_WITHIN, command};
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::{Running, try_wait_for, wait_for};

/// How long something may take that comes by itself.
const SOON: Duration = Duration::from_secs(20);
const JSON: (&str, &str) = ("content-type", "application/json");

fn house() -> (Mock, Installation) {
    let mock = Mock::start();
    let authorize = format!("authorize_url = \"http://{}/authorize\"\n", mock.address());
    let installation = Installation::new(&(mock.section("mock", "strict") + &authorize));
    (mock, installation)
}

fn import(mock: &Mock, name: &str) -> String {
    json!({"name": name, "provider": "mock", "token": mock.grant(name, Rotation::Strict, 3_600)}).to_string()
}

/// Who did what to what, with which outcome, as far as the trail says.
fn trail(door: &Door) -> Vec<(String, String, Option<String>, u64)> {
    let mut records = Vec::new();
    let mut after = 0;
    loop {
        let page = door.see(&format!("/v1/audit?after={after}&limit=1000"));
        let items = page["items"].as_array().expect("records").clone();
        let Some(last) = items.last() else { return records };
        after = last["id"].as_u64().expect("a number");
        records.extend(items.iter().map(|record| {
            let target = record["target"].as_str().map(str::to_owned);
            (text(&record["actor"]), text(&record["action"]), target, record["outcome"].as_u64().expect("a number"))
        }));
    }
}

#[test]
fn every_change_is_in_the_trail_before_its_answer_leaves() {
    let (mock, installation) = house();
    let mut daemon = installation.start();
    let mut door = Door::of(&daemon);
    let uid = text(&door.see("/v1/session")["actor"]);
    let owner = Caller { scope: "admin", reach: Reach::All, by: By::Socket, actor: uid };
    let key = door.key_of("admin", Reach::All);
    let mut expected = Vec::new();
    for (nth, with) in [&owner, &key, &key].into_iter().enumerate() {
        let name = format!("c{nth}");
        let path = |rest: &str| format!("/v1/connections/{name}{rest}");
        let imported = import(&mock, &name);
        let like = json!({"name": "k", "scopes": ["status"]}).to_string();
        let link = json!({"name": name, "provider": "mock"}).to_string();
        for (method, path, route, body, target) in [
            ("POST", "/v1/connections".to_owned(), "/v1/connections", imported.as_str(), true),
            ("POST", path("/pause"), "/v1/connections/{name}/pause", "", true),
            ("POST", path("/resume"), "/v1/connections/{name}/resume", "", true),
            ("POST", path("/refresh"), "/v1/connections/{name}/refresh", "", true),
            ("POST", "/v1/api-keys".to_owned(), "/v1/api-keys", &like, false),
            ("POST", "/v1/connect/links".to_owned(), "/v1/connect/links", &link, true),
            ("POST", "/v1/resume-sole-copy".to_owned(), "/v1/resume-sole-copy", "", false),
            ("DELETE", path(""), "/v1/connections/{name}", "", true),
        ] {
            // The last round is a session's, which ends with the daemon.
            let caller = if nth == 2 { door.session_of(with) } else { with.clone() };
            let answer = door.ask(&caller, Request { method, path: &path, headers: &[JSON], body });
            daemon.kill();
            assert!((200..300).contains(&answer.status), "{caller}: {method} {path}: {answer:?}");
            let action = format!("{method} {route}");
            expected.push((caller.actor, action, target.then(|| name.clone()), u64::from(answer.status)));
            daemon = installation.start();
            door = Door::of(&daemon);
        }
    }
    let found: Vec<_> = trail(&door)
        .into_iter()
        .filter(|(_, action, ..)| expected.iter().any(|(_, wanted, ..)| wanted == action))
        .map(|(actor, action, target, outcome)| {
            let named = target.filter(|target| !target.starts_with("key:"));
            (actor, action, named, outcome)
        })
        .collect();
    // The first key of the test was made before.
    assert_eq!(found[1..], expected);
    assert_eq!(door.own("POST", "/v1/audit/verify", "").json()["whole"], true);
}

#[test]
fn whoever_leaves_at_once_leaves_a_record_of_what_was_done() {
    let (mock, installation) = house();
    let daemon = installation.start();
    let door = Door::of(&daemon);
    installation.import_lines(&mock.grants("c", 60, 3_600, "mock"));
    let By::Key(key) = door.key_of("manage", Reach::All).by else { panic!("a key") };
    for nth in 0..60 {
        let mut stream = TcpStream::connect(door.address()).expect("the daemon listens");
        let request = format!(
            "POST /v1/connections/c{nth}/pause HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it is heard");
        // Not the same moment each time.
        std::thread::sleep(Duration::from_micros(50 * (nth % 20)));
        let _ = stream.shutdown(Shutdown::Both);
    }
    let mut differ = BTreeSet::new();
    try_wait_for(SOON, || {
        let connections = installation.connections();
        let paused = connections.iter().filter(|connection| connection["status"] == "paused");
        let paused: BTreeSet<String> = paused.map(|connection| text(&connection["name"])).collect();
        let noted = trail(&door).into_iter().filter(|(_, action, ..)| action.ends_with("/pause"));
        let noted: BTreeSet<String> = noted.filter_map(|(_, _, target, _)| target).collect();
        differ = paused.symmetric_difference(&noted).cloned().collect();
        (differ.is_empty() && !paused.is_empty()).then_some(())
    });
    assert!(differ.is_empty(), "paused and not noted, or the other way: {differ:?}");
    // What was imported line by line is noted line by line.
    let imported = trail(&door).into_iter().filter(|(_, action, ..)| action == "connection.imported");
    let imported: BTreeSet<String> = imported.filter_map(|(_, _, target, _)| target).collect();
    assert_eq!(imported, (0..60).map(|nth| format!("c{nth}")).collect());
}

#[test]
fn reads_are_counted_within_a_second_and_an_edited_trail_is_noticed() {
    let (mock, installation) = house();
    let daemon = installation.start();
    let door = Door::of(&daemon);
    assert_eq!(door.own("POST", "/v1/connections", &import(&mock, "jira")).status, 201);
    let key = door.key_of("token", Reach::All);
    for _ in 0..5 {
        assert_eq!(door.ask(&key, Request::get("/v1/connections/jira/token")).status, 200);
    }
    // A whole second for the counts, and what a busy machine adds.
    std::thread::sleep(Duration::from_secs(3));
    daemon.kill();
    let daemon = installation.start();
    let door = Door::of(&daemon);
    let counted = |(actor, action, target, outcome): (String, String, Option<String>, u64)| {
        (actor == key.actor && action == "token.read" && target.as_deref() == Some("jira")).then_some(outcome)
    };
    assert_eq!(trail(&door).into_iter().filter_map(counted).sum::<u64>(), 5);

    // Who fails without being known pushes nothing out of the trail, and is counted.
    let before = trail(&door).len();
    for _ in 0..100 {
        let _ = door.sign_in(&json!({"setup_code": "guess"}));
        let _ = Request::get("/oauth/callback?code=x&state=y").at_address(door.address());
        let evil = [("host", "evil.example")];
        let _ = Request { headers: &evil, ..Request::get("/v1/summary") }.as_it_is(door.address());
    }
    let mut refused = 0;
    try_wait_for(SOON, || {
        let of = |(actor, action, _, outcome): (String, String, Option<String>, u64)| {
            (actor == "anonymous" && action == "request.refused").then_some(outcome)
        };
        refused = trail(&door).into_iter().filter_map(of).sum::<u64>();
        (refused == 300).then_some(())
    });
    assert_eq!(refused, 300);
    let grown = trail(&door).len() - before;
    assert!(grown < 60, "{grown} records of 300 refusals");

    let whole = door.own("POST", "/v1/audit/verify", "").json();
    assert_eq!((&whole["whole"], &whole["broken_at"]), (&true.into(), &Value::Null), "{whole}");
    daemon.stop().expect_code(0);
    let database = rusqlite::Connection::open(installation.state_dir().join("tokenkeep.db")).expect("the database");
    let edited = database
        .execute("UPDATE audit SET record = replace(record, 'jira', 'wiki') WHERE id = 1 AND record LIKE '%jira%'", []);
    assert_eq!(edited.expect("the trail is a table"), 1);
    drop(database);
    let daemon = installation.start();
    let found = Door::of(&daemon).own("POST", "/v1/audit/verify", "").json();
    assert_eq!((&found["whole"], &found["broken_at"]), (&false.into(), &1.into()), "{found}");
}

/// A sign-in as a browser does it, at a provider that consents at once; the answer to the redirect, and all that came by.
fn sign_in(door: &Door, name: &str) -> (Answer, Vec<String>) {
    let like = json!({"name": name, "provider": "mock", "params": {"auto": "allow"}}).to_string();
    let begun = door.own("POST", "/v1/connect", &like).json();
    let at = |url: &str| {
        let (_, rest) = url.split_once("://").expect("a scheme");
        let (host, path) = rest.split_once('/').expect("a path");
        (host.replace("localhost", "127.0.0.1"), format!("/{path}"))
    };
    let (host, path) = at(begun["url"].as_str().expect("a link"));
    let started = Request::get(&path).at_address(&host).expect("an answer");
    let cookie = cookie_of(&started);
    let (provider, path) = at(header(&started, "location").expect("a redirect"));
    let consented = Request::get(&path).at_address(&provider).expect("an answer");
    let (host, path) = at(header(&consented, "location").unwrap_or_else(|| panic!("{consented:?}")));
    let headers = [("cookie", cookie.as_str())];
    let ended = Request { headers: &headers, ..Request::get(&path) }.at_address(&host).expect("an answer");
    let code = path.split_once("code=").expect("a code").1.split('&').next().expect("it").to_owned();
    (ended, vec![code, cookie.split_once('=').expect("a value").1.to_owned()])
}

#[test]
fn a_sign_in_is_in_the_trail() {
    let (_mock, installation) = house();
    let daemon = installation.start();
    let door = Door::of(&daemon);
    let (ended, _) = sign_in(&door, "jira");
    daemon.kill();
    assert_eq!(ended.status, 200, "{ended:?}");
    let daemon = installation.start();
    let door = Door::of(&daemon);
    let noted = trail(&door).into_iter().find(|(_, action, ..)| action == "GET /oauth/callback");
    assert_eq!(noted.expect("a record").2.as_deref(), Some("jira"));
}

/// Ends a line, colours, and turns the direction of writing.
const HOSTILE: &str = "a\r\nERROR forged: \x1b[31mred\u{202e}\u{2066}\u{2028}\u{85}";

#[test]
fn no_secret_is_where_it_need_not_be_and_no_line_is_forged() {
    let (mock, installation) = house();
    let daemon = installation.start_with(&[("TOKENKEEP_LOG", "trace")]);
    let door = Door::of(&daemon);
    // What must not be seen; and what was answered, but for the answers that must carry it.
    let mut secrets: Vec<String> = vec![tokenkeep_tests::mock::CLIENT_SECRET.to_owned()];
    let mut answers: Vec<Answer> = Vec::new();
    let mut remember = |token: &Value| {
        secrets.extend(["access_token", "refresh_token"].map(|name| text(&token[name])));
    };

    for name in ["jira", "wiki", "git"] {
        let token = mock.grant(name, Rotation::Strict, 3_600);
        remember(&token);
        let body = json!({"name": name, "provider": "mock", "token": token, "labels": {"l": "\u{202e}x"}}).to_string();
        answers.push(door.own("POST", "/v1/connections", &body));
        answers.push(door.own("POST", &format!("/v1/connections/{name}/refresh"), ""));
    }
    let lines: Vec<Value> = (0..5).map(|nth| mock.grant(&format!("n{nth}"), Rotation::Strict, 3_600)).collect();
    let ndjson: String = lines
        .iter()
        .enumerate()
        .map(|(nth, token)| {
            remember(token);
            json!({"name": format!("n{nth}"), "provider": "mock", "token": token}).to_string() + "\n"
        })
        .chain(["{\"name\": \"broken\", \"token\": \"canary-of-a-broken-line\n".to_owned()])
        .collect();
    let kind = [("content-type", "application/x-ndjson")];
    answers.push(Request::post("/v1/connections", &kind, &ndjson).at_socket(daemon.socket()).expect("an answer"));
    let (ended, of_sign_in) = sign_in(&door, "signed");
    assert_eq!(ended.status, 200, "{ended:?}");
    answers.push(ended);
    for name in ["jira", "signed", "n1"] {
        remember(&door.own("POST", &format!("/v1/connections/{name}/export"), "").json());
        let read = door.own("GET", &format!("/v1/connections/{name}/token"), "");
        assert_eq!(header(&read, "cache-control"), Some("no-store"));
    }

    // A provider that fails, one that leaves, and one that has ended a grant.
    for (name, fault) in [("wiki", Fault::ServerErrorBefore { status: 500 }), ("git", Fault::ResetAfter)] {
        mock.state().script(Some(name), vec![fault]).expect("a script");
        answers.push(door.own("POST", &format!("/v1/connections/{name}/refresh"), ""));
    }
    assert_eq!(mock.state().kill("n2"), Some(true));
    answers.push(door.own("POST", "/v1/connections/n2/refresh", ""));

    let key = door.key_of("admin", Reach::All);
    let session = door.session_of(&key);
    let code = text(&door.own("POST", "/v1/session/setup", "").json()["setup_code"]);
    let (By::Key(key_text), By::Cookie(cookie)) = (key.by.clone(), session.by.clone()) else {
        panic!("a key, a cookie")
    };
    let cookie = cookie.split_once('=').expect("a value").1.to_owned();
    secrets.extend(of_sign_in);
    secrets.extend([key_text.clone(), cookie, code.clone(), "canary-of-a-broken-line".to_owned()]);

    // Requests that are wrong, with secrets in the wrong places.
    for (path, body) in [
        ("/v1/connections", format!("{{\"name\": \"{key_text}\", \"provider\": \"mock\", \"token\": \"{code}\"}}")),
        (
            "/v1/connections",
            format!(
                "{{\"name\": \"x\", \"provider\": \"mock\", \"token\": {{\"access_token\": 7, \"refresh_token\": [\"{code}\"]}}}}"
            ),
        ),
        ("/v1/session", format!("{{\"api_key\": \"{code}\"}}")),
        ("/v1/session", format!("{{\"setup_code\": \"{key_text}\", \"x\": 1}}")),
        ("/v1/session", format!("\"{code}\"")),
        ("/v1/connect/finish", format!("{{\"query\": \"code={code}&state={code}\", \"proof\": \"{code}\"}}")),
    ] {
        answers.push(door.ask(&key, Request::post(path, &[JSON], &body)));
    }
    for path in [
        "/v1/connections",
        "/v1/api-keys",
        "/v1/events?limit=1000",
        "/v1/audit?limit=1000",
        "/v1/config",
        "/v1/session",
        "/v1/admin/master-key",
        "/v1/summary",
        "/v1/openapi.json",
    ] {
        answers.push(door.ask(&session, Request::get(path)));
    }
    for name in ["jira", "wiki", "n2", "signed"] {
        answers.push(door.ask(&key, Request::get(&format!("/v1/connections/{name}"))));
    }
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for path in [
        format!("/v1/connections/{encoded}"),
        format!("/v1/connections?q={encoded}"),
        format!("/v1/{encoded}"),
        format!("/v1/events?after={encoded}"),
    ] {
        let bidi = [("user-agent", "\u{202e}agent\u{9b}"), ("accept", "\u{2028}"), ("last-event-id", "\u{202e}")];
        answers.push(door.ask(&key, Request { headers: &bidi, ..Request::get(&path) }));
    }
    let hostile = json!({"name": HOSTILE, "provider": HOSTILE, "scopes": [HOSTILE], "token": {}}).to_string();
    for path in ["/v1/connections", "/v1/connect", "/v1/api-keys"] {
        answers.push(door.own("POST", path, &hostile));
    }

    // What is no HTTP ends its connection, and is told of at the lowest level only.
    let mut stream = TcpStream::connect(door.address()).expect("the daemon listens");
    stream.write_all(format!("{HOSTILE} {key_text}\r\n\r\n").as_bytes()).expect("it is heard");
    wait_for("the end of that connection", SOON, || daemon.stderr().contains("ended early").then_some(()));

    for answer in &answers {
        let found = secrets.iter().find(|secret| answer.head.contains(*secret) || answer.body.contains(*secret));
        assert_eq!(found, None, "it is answered: {answer:?}");
    }
    let said = daemon.stop().expect_code(0).stderr;
    assert!(said.contains(" DEBUG "), "the log does not tell all: {said}");
    let told: Vec<&String> = secrets.iter().filter(|secret| said.contains(*secret)).collect();
    assert!(told.is_empty(), "in the log: {told:?}");
    let hidden: Vec<char> = said.chars().filter(|&letter| letter != '\n' && is_hidden(letter)).collect();
    assert!(hidden.is_empty() && !said.lines().any(|line| line.starts_with("ERROR forged")), "in the log: {hidden:?}");
    nothing_on_disk(&installation.state_dir(), &secrets);
    // The one place where one of them is as it is: where the daemon was told to read it.
    assert!(held_by(&installation.path("secret"), &secrets).is_some(), "this test would find nothing");
}

/// Panics where a file of this folder holds one of these.
#[track_caller]
fn nothing_on_disk(folder: &Path, secrets: &[String]) {
    let files = files_of(folder);
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let found = held_by(&path, secrets);
        assert_eq!(found, None, "{}", path.display());
    }
}

/// What of these a file holds: as it is, in base64 or in hex.
fn held_by(path: &Path, secrets: &[String]) -> Option<String> {
    let bytes = fs::read(path).expect("the file is the test's own");
    let letters: String = bytes.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect();
    let forms = |secret: &String| {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        [secret.clone(), BASE64_STANDARD_NO_PAD.encode(secret), BASE64_URL_SAFE_NO_PAD.encode(secret), hex]
    };
    secrets.iter().flat_map(forms).find(|form| letters.contains(form))
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] })
        .filter(|path| path.is_file())
        .collect()
}

/// Addresses that others reach too, however they are written.
const OPEN: [&str; 14] = [
    "0.0.0.0:0",
    "0.0.0.0:7979",
    "[::]:0",
    "[::ffff:0.0.0.0]:0",
    "[::ffff:127.0.0.1]:0",
    "[0:0:0:0:0:0:0:0]:0",
    "192.0.2.1:0",
    "[fe80::1]:0",
    "0:0",
    "0x0:0",
    ":0",
    "*:0",
    "example.com:0",
    "localhost.:0",
];

#[test]
fn other_machines_are_listened_to_nowhere() {
    let installation = Installation::new("");
    let refused = |what: &str, address: &str, process: Running| {
        let ran = process.finish(READY_WITHIN);
        assert!(matches!(ran.code, Some(1 | 2)), "{what} {address}: {ran:?}");
        assert!(ran.stderr.contains("loopback"), "{what} {address}: {}", ran.stderr);
        assert!(!ran.stderr.lines().any(|line| line == "ready"), "{what} {address}");
    };
    let config = installation.path("tokenkeep.toml");
    let serve = |more: &[&str]| {
        let mut serve = command();
        serve.arg("--state-dir").arg(installation.state_dir()).arg("serve").arg("--config").arg(&config).args(more);
        serve
    };
    for address in OPEN {
        installation.configure("");
        refused("--listen", address, Running::start(serve(&["--listen", address]), Some(b"")));
        let mut by_variable = serve(&[]);
        by_variable.env("TOKENKEEP_SERVER__LISTEN", address);
        refused("TOKENKEEP_SERVER__LISTEN", address, Running::start(by_variable, Some(b"")));
        let file = installation.path("address");
        fs::write(&file, address).expect("the folder is ours");
        let mut by_file = serve(&[]);
        by_file.env("TOKENKEEP_SERVER__LISTEN_FILE", &file);
        refused("TOKENKEEP_SERVER__LISTEN_FILE", address, Running::start(by_file, Some(b"")));
        installation.configure(&format!("[server]\nlisten = \"{address}\"\n"));
        refused("the file", address, Running::start(serve(&[]), Some(b"")));
        // What the flag stands above is looked at all the same.
        refused("the file below the flag", address, Running::start(serve(&["--listen", "127.0.0.1:0"]), Some(b"")));
        let mut demo = command();
        demo.args(["demo", "--listen", address]);
        refused("demo --listen", address, Running::start(demo, Some(b"")));
    }
    assert!(!installation.state_dir().join("tokenkeep.db").exists(), "something was begun");

    // And what is taken is loopback: nothing listens elsewhere.
    installation.configure("");
    for address in ["127.0.0.1:0", "localhost:0", "127.3.2.1:0"] {
        let daemon: Daemon = installation.start_at(address);
        assert!(daemon.tcp().starts_with("127."), "{}", daemon.tcp());
        let port: u16 = daemon.tcp().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        assert!(!listens_everywhere(port), "{address}");
        daemon.stop().expect_code(0);
    }
}

/// Whether anything listens at this port on an address that is not loopback, as the kernel sees it.
fn listens_everywhere(port: u16) -> bool {
    let here = |table: &str, loopback: fn(&str) -> bool| {
        let text = fs::read_to_string(table).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let at = fields.get(1).and_then(|local| local.split_once(':'));
            // 0A: LISTEN.
            fields.get(3) == Some(&"0A")
                && at.is_some_and(|(ip, hex)| u16::from_str_radix(hex, 16) == Ok(port) && !loopback(ip))
        })
    };
    here("/proc/net/tcp", |ip| ip.ends_with("7F"))
        || here("/proc/net/tcp6", |ip| ip == "00000000000000000000000001000000")
}

#[test]
fn a_test_that_looks_for_listeners_finds_them() {
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").expect("a free port");
    assert!(listens_everywhere(everywhere.local_addr().expect("it has one").port()));
    let here = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = here.local_addr().expect("it has one").port();
    wait_for("the kernel's table", SOON, || (!listens_everywhere(port)).then_some(()));
}
