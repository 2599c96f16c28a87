//! Webhooks of the real binary, at a receiver that checks each delivery with the standard's own library.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::foreign::Foreign;
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::wait_for;
use tokenkeep_tests::venv;

/// How long a delivery may take.
const DELIVERED_WITHIN: Duration = Duration::from_secs(30);

struct Receiver(Foreign);

impl Receiver {
    fn start() -> Self {
        Self(Foreign::start("the receiver", venv::script("webhook_receiver.py"), DELIVERED_WITHIN))
    }

    fn host(&self) -> &str {
        self.0.text("url").strip_prefix("http://").expect("a URL")
    }

    fn url(&self) -> String {
        format!("{}/hook", self.0.text("url"))
    }

    fn put(&self, path: &str, value: &Value) {
        let body = value.to_string();
        let request = Request { method: "PUT", path, headers: &[], body: &body };
        assert_eq!(request.at_address(self.host()).expect("it serves").status, 204);
    }

    fn received(&self) -> Vec<Value> {
        let answer = Request::get("/received").at_address(self.host()).expect("it serves");
        answer.json().as_array().expect("an array").clone()
    }

    /// What it took.
    fn taken(&self) -> Vec<Value> {
        self.received().into_iter().filter(|got| got["status"] == 204).collect()
    }
}

fn ask(daemon: &Daemon, method: &str, path: &str, body: &str) -> Answer {
    daemon.ask(Request { method, path, headers: &[("content-type", "application/json")], body })
}

#[track_caller]
fn expect(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn refreshed_of(received: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut found = BTreeMap::<String, Vec<u64>>::new();
    for got in received.iter().filter(|got| got["body"]["type"] == "connection.refreshed") {
        let data = &got["body"]["data"];
        let whose = data["connection"].as_str().expect("a name").to_owned();
        found.entry(whose).or_default().push(data["id"].as_u64().expect("a number"));
    }
    found
}

#[test]
fn each_event_reaches_a_receiver_that_checks_it_across_outages_kills_and_rotations() {
    let (receiver, mock) = (Receiver::start(), Mock::start());
    let section = format!("[webhooks]\nallow_hosts = [\"{}\"]\n", receiver.host());
    let installation = Installation::new(&(mock.section("mock", "strict") + &section));
    let daemon = installation.start();
    let made =
        ask(&daemon, "POST", "/v1/webhooks", &json!({"url": receiver.url(), "types": ["connection.*"]}).to_string());
    assert!(made.head.to_ascii_lowercase().contains("cache-control: no-store"), "{}", made.head);
    let made = expect(&made, 201);
    let (id, secret) = (made["id"].as_str().expect("an id"), made["secret"].as_str().expect("a secret").to_owned());
    receiver.put("/secrets", &json!([secret]));
    let path = format!("/v1/webhooks/{id}");

    let grants: Vec<Value> = ["a", "b", "c"].iter().map(|name| mock.grant(name, Rotation::Strict, 3_600)).collect();
    for (name, grant) in ["a", "b", "c"].iter().zip(&grants) {
        installation.import(name, "mock", grant).expect_code(0);
        installation.run(&["refresh", name]).expect_code(0);
    }
    let refresh_all = || ["a", "b", "c"].map(|name| installation.run(&["refresh", name, "--force"]).expect_code(0));
    wait_for("the first deliveries", DELIVERED_WITHIN, || (receiver.taken().len() == 6).then_some(()));

    receiver.put("/status", &json!(500));
    refresh_all();
    wait_for("an attempt", DELIVERED_WITHIN, || {
        receiver.received().iter().any(|got| got["status"] == 500).then_some(())
    });
    daemon.kill();
    let daemon = installation.start();
    refresh_all();
    receiver.put("/status", &json!(302));
    let waiting = expect(&ask(&daemon, "GET", &path, ""), 200);
    assert!(waiting["pending"].as_u64() > Some(0) && waiting["failing_since"].is_string(), "{waiting}");
    let pending = expect(&ask(&daemon, "GET", &format!("{path}/deliveries?status=pending"), ""), 200);
    assert!(pending["items"][0]["next_attempt_at"].is_string() || pending["items"][0]["connection"].is_string());
    receiver.put("/status", &json!(204));
    expect(&ask(&daemon, "PATCH", &path, r#"{"enabled": true}"#), 200);
    let taken = wait_for("everything", DELIVERED_WITHIN, || Some(receiver.taken()).filter(|taken| taken.len() >= 12));
    let got = refreshed_of(&taken);
    for name in ["a", "b", "c"] {
        let history = installation.run(&["events", name, "--json"]).expect_code(0).stdout;
        let events = history.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        let ids: Vec<u64> = events
            .filter(|event| event["type"] == "connection.refreshed")
            .map(|event| event["id"].as_u64().expect("a number"))
            .collect();
        assert_eq!((got[name].as_slice(), ids.len()), (&ids[..], 3), "once and in order");
    }

    let rotated = expect(&ask(&daemon, "POST", &format!("{path}/rotate-secret"), ""), 200);
    let second = rotated["secret"].as_str().expect("a secret").to_owned();
    assert!(rotated["former_secret_until"].is_string() && second != secret);
    receiver.put("/secrets", &json!([secret, second, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]));
    expect(&ask(&daemon, "POST", "/v1/admin/master-key/rotate", ""), 202);
    wait_for("the new master key", DELIVERED_WITHIN, || {
        expect(&ask(&daemon, "GET", "/v1/admin/master-key", ""), 200)["rotation"].is_null().then_some(())
    });
    installation.run(&["refresh", "a"]).expect_code(0);
    let taken = wait_for("one more", DELIVERED_WITHIN, || Some(receiver.taken()).filter(|taken| taken.len() >= 13));
    for (nth, got) in taken.iter().enumerate() {
        let expected = if nth < 12 { json!([true]) } else { json!([true, true, false]) };
        assert_eq!(got["verified"], expected, "{got}");
        assert!(!got["tampered"].to_string().contains("true"), "{got}");
        assert_eq!(got["content_type"], "application/json");
    }

    // The receiver has it a moment before that is noted.
    let log = wait_for("the newest entry", DELIVERED_WITHIN, || {
        let log = expect(&ask(&daemon, "GET", &format!("{path}/deliveries?limit=5"), ""), 200);
        (log["items"][0]["message_id"] == taken[12]["id"]).then_some(log)
    });
    let newest = &log["items"][0];
    assert_eq!((&newest["status"], &newest["answer_status"]), (&json!("delivered"), &json!(204)), "{log}");
    assert!(log["next_cursor"].is_string() && log["items"].as_array().map(Vec::len) == Some(5), "{log}");
    let again = format!("{path}/deliveries/{}/redeliver", newest["id"].as_str().expect("an id"));
    let queued = expect(&ask(&daemon, "POST", &again, ""), 202);
    assert_eq!(queued["repeats"], newest["id"]);
    let taken = wait_for("it again", DELIVERED_WITHIN, || Some(receiver.taken()).filter(|taken| taken.len() >= 14));
    assert_eq!((&taken[13]["id"], &taken[13]["body"]), (&taken[12]["id"], &taken[12]["body"]));

    let bodies = serde_json::to_string(&receiver.received()).expect("JSON");
    for grant in &grants {
        for token in ["access_token", "refresh_token"] {
            assert!(!bodies.contains(grant[token].as_str().expect("a token")), "a token was sent");
        }
    }
    let told = daemon.stop().expect_code(0).stderr;
    for secret in [&secret, &second].map(|secret| secret.strip_prefix("whsec_").expect("the standard's form")) {
        assert!(!told.contains(secret), "a secret was logged");
        for entry in fs::read_dir(installation.state_dir()).expect("a folder") {
            let path = entry.expect("an entry").path();
            let bytes = if path.is_file() { fs::read(&path).expect("ours") } else { Vec::new() };
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
        }
    }
}

#[test]
fn what_is_asked_wrongly_is_refused_and_named() {
    let receiver = Receiver::start();
    let installation = Installation::new(&format!("[webhooks]\nallow_hosts = [\"{}\"]\n", receiver.host()));
    let daemon = installation.start();
    for url in [
        "https://169.254.169.254/latest/meta-data/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://10.0.0.1/",
        "https://2130706433/",
        "http://example.com/",
        "ftp://example.com/",
        "https://user:pass@example.com/",
        "nonsense",
    ] {
        let problem = expect(&ask(&daemon, "POST", "/v1/webhooks", &json!({"url": url}).to_string()), 400);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.starts_with("`url`")), "{problem}");
        let next = problem["next_action"].as_str().expect("what to do");
        assert!(next.contains("allow_hosts") && next.contains("https"), "{problem}");
    }
    for (body, named) in [
        ("{}", "url"),
        (r#"{"url": "https://example.com/", "types": ["connection.refershed"]}"#, "types"),
        (r#"{"url": "https://example.com/", "namespace": "a/b"}"#, "namespace"),
        (r#"{"url": "https://example.com/", "secret": "x"}"#, "secret"),
        ("[", "body"),
    ] {
        let problem = expect(&ask(&daemon, "POST", "/v1/webhooks", body), 400);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(named)), "{problem}");
    }
    for (method, path) in [
        ("GET", "/v1/webhooks/wh_9"),
        ("GET", "/v1/webhooks/nonsense"),
        ("PATCH", "/v1/webhooks/wh_9"),
        ("DELETE", "/v1/webhooks/wh_9"),
        ("POST", "/v1/webhooks/wh_9/test"),
        ("POST", "/v1/webhooks/wh_9/rotate-secret"),
        ("GET", "/v1/webhooks/wh_9/deliveries"),
        ("POST", "/v1/webhooks/wh_9/deliveries/dlv_1/redeliver"),
    ] {
        let problem = expect(&ask(&daemon, method, path, "{}"), 404);
        assert_eq!(problem["code"], "not_found", "{method} {path}");
    }

    let made = expect(&ask(&daemon, "POST", "/v1/webhooks", &json!({"url": receiver.url()}).to_string()), 201);
    let path = format!("/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    receiver.put("/secrets", &json!([made["secret"]]));
    let tested = expect(&ask(&daemon, "POST", &format!("{path}/test"), ""), 200);
    assert_eq!((&tested["status"], &tested["type"]), (&json!("delivered"), &json!("webhook.test")), "{tested}");
    assert_eq!(receiver.received()[0]["verified"], json!([true]));
    receiver.put("/status", &json!(410));
    daemon.stop().expect_code(0);
    let daemon = installation.start();
    let disabled = wait_for("410 to disable it", DELIVERED_WITHIN, || {
        Some(expect(&ask(&daemon, "GET", &path, ""), 200)).filter(|webhook| webhook["enabled"] == false)
    });
    assert!(disabled["disabled_reason"].as_str().is_some_and(|reason| reason.contains("410 Gone")), "{disabled}");
    assert!(disabled["secret"].is_null(), "{disabled}");
    let listed = expect(&ask(&daemon, "GET", "/v1/webhooks", ""), 200);
    assert_eq!(listed["items"], json!([disabled]));

    // What the configuration allows no longer is not connected to, whatever was allowed before.
    installation.configure("");
    daemon.process().signal(rustix::process::Signal::HUP);
    let refused = wait_for("the reload", DELIVERED_WITHIN, || {
        Some(expect(&ask(&daemon, "POST", &format!("{path}/test"), ""), 200))
            .filter(|tested| tested["answer_status"].is_null())
    });
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("allowed host")), "{refused}");
    expect(&ask(&daemon, "DELETE", &path, ""), 204);
    expect(&ask(&daemon, "GET", &path, ""), 404);
}
