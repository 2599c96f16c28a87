//! The daemon and its commands as a user meets them.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{COMMAND_WITHIN, Installation, STOP_WITHIN, command};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::{Mock, section};
use tokenkeep_tests::process::{Running, wait_for};

/// When providers that are not strict are asked once more whether a refresh token is dead (protocol 3).
const RECHECK_AFTER: Duration = Duration::from_secs(60);
/// How much later than planned something may come on a busy machine.
const LATE: Duration = Duration::from_secs(15);
/// Within this, each connection of the demo is renewed.
const DEMO_RENEWS_WITHIN: Duration = Duration::from_secs(90);

#[test]
fn a_token_is_imported_read_refreshed_and_removed() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    let token = mock.grant("jira", Rotation::Strict, 3_600);
    installation.import("jira", "mock", &token).expect_code(0);
    let read = installation.run(&["token", "jira"]).expect_code(0);
    assert_eq!(read.stdout, format!("{}\n", token["access_token"].as_str().expect("a token")));

    installation.run(&["refresh", "jira"]).expect_code(0);
    let renewed = installation.run(&["token", "jira", "--json"]).expect_code(0).json();
    assert_ne!(renewed["access_token"], token["access_token"]);
    assert!(renewed["expires_in"].as_u64() > Some(3_500), "{renewed}");
    assert_eq!((mock.ledger("jira").refreshes, mock.totals().reuses), (1, 0));

    // What was used or is held is not taken again.
    installation.import("jira", "mock", &token);
    assert_eq!(
        installation.run(&["token", "jira", "--json"]).expect_code(0).json()["generation"],
        renewed["generation"]
    );

    let events = installation.run(&["events", "jira", "--json"]).expect_code(0).stdout;
    let types: Vec<Value> =
        events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["type"].clone()).collect();
    assert_eq!(types, ["connection.connected", "connection.refreshed"]);

    installation.run(&["remove", "jira", "--yes"]).expect_code(0);
    installation.run(&["token", "jira"]).expect_code(3);
    daemon.stop().expect_code(0);
}

#[test]
fn what_is_acknowledged_survives_a_kill() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    installation.import_lines(&mock.grants("c", 10, 3_600, "mock"));
    daemon.kill();
    let daemon = installation.start();
    for nth in 0..10 {
        installation.run(&["refresh", &format!("c{nth}")]).expect_code(0);
    }
    daemon.kill();
    let _daemon = installation.start();
    for connection in installation.connections() {
        assert_eq!((&connection["status"], &connection["stats"]["succeeded"]), (&"fresh".into(), &1.into()));
    }
    assert_eq!(mock.totals().reuses, 0);
}

/// The rotation classes, as the configuration and as the mock call them, and how often a dead token is sent.
const CLASSES: [(&str, Rotation, u64); 4] = [
    ("strict", Rotation::Strict, 1),
    ("grace:600", Rotation::Grace(600), 2),
    ("until-used", Rotation::UntilUsed, 2),
    ("persistent", Rotation::Persistent, 2),
];

#[test]
fn a_dead_grant_is_asked_about_as_its_class_allows_and_a_new_one_mends_it() {
    let mock = Mock::start();
    let sections = CLASSES.iter().enumerate().map(|(nth, (class, ..))| mock.section(&format!("p{nth}"), class));
    let installation = Installation::new(&sections.collect::<String>());
    let _daemon = installation.start();
    for (nth, (_, rotation, _)) in CLASSES.iter().enumerate() {
        let (name, provider) = (format!("c{nth}"), format!("p{nth}"));
        installation.import(&name, &provider, &mock.grant(&name, *rotation, 3_600)).expect_code(0);
        assert_eq!(mock.state().kill(&name), Some(true));
    }

    let refused = installation.run(&["refresh", "c0"]).expect_code(4);
    assert!(refused.stderr.contains("tokenkeep import"), "{}", refused.stderr);
    for nth in 1..CLASSES.len() {
        installation.run(&["refresh", &format!("c{nth}")]).expect_code(75);
    }
    requests_follow_the_classes(&mock);
    needs_reauth_is_shown(&installation);
    a_new_grant_mends(&mock, &installation);
}

/// Watches the ledger for longer than any re-check takes.
fn requests_follow_the_classes(mock: &Mock) {
    let started = Instant::now();
    let requests = |nth: usize| mock.ledger(&format!("c{nth}")).requests;
    let mut rechecked_after = [None; CLASSES.len()];
    wait_for("every re-check", RECHECK_AFTER + LATE, || {
        for (_, after) in rechecked_after.iter_mut().enumerate().filter(|(nth, _)| requests(*nth) > 1) {
            after.get_or_insert(started.elapsed());
        }
        rechecked_after[1..].iter().all(Option::is_some).then_some(())
    });
    println!("re-checks came after {rechecked_after:?}");
    for after in rechecked_after[1..].iter().flatten() {
        assert!((RECHECK_AFTER - Duration::from_secs(5)..RECHECK_AFTER + LATE).contains(after), "{after:?}");
    }
    // Nothing more comes: the longest pace of a retry here is seconds.
    let quiet = Instant::now();
    wait_for("the end of a quiet time", LATE * 2, || (quiet.elapsed() > LATE).then_some(()));
    for (nth, (class, _, expected)) in CLASSES.iter().enumerate() {
        assert_eq!(requests(nth), *expected, "requests of {class}");
    }
}

fn needs_reauth_is_shown(installation: &Installation) {
    let status = installation.run(&["status"]).expect_code(4);
    installation.run(&["list"]).expect_code(4);
    assert!(status.stdout.contains("tokenkeep import"), "{}", status.stdout);
    for nth in 0..CLASSES.len() {
        let one = installation.run(&["status", &format!("c{nth}")]).expect_code(4);
        assert!(one.stdout.contains("needs_reauth") && one.stdout.contains("tokenkeep import"), "{}", one.stdout);
        let connection = installation.connection(&format!("c{nth}"));
        assert_eq!(connection["last_error"]["code"], "invalid_grant");
        // The access token still lives, as far as we know: it is served, with a warning (interface 2).
        let token = installation.run(&["token", &format!("c{nth}"), "--json"]).expect_code(0).json();
        assert_eq!(token["warnings"], serde_json::json!(["needs_reauth"]), "{token}");
    }
}

fn a_new_grant_mends(mock: &Mock, installation: &Installation) {
    for (nth, (_, rotation, _)) in CLASSES.iter().enumerate() {
        let (name, provider) = (format!("c{nth}"), format!("p{nth}"));
        let token = mock.grant(&format!("{name}-again"), *rotation, 3_600);
        installation.import(&name, &provider, &token).expect_code(0);
        installation.run(&["status", &name]).expect_code(0);
        let read = installation.run(&["token", &name]).expect_code(0).stdout;
        assert_eq!(read.trim_end(), token["access_token"]);
        installation.run(&["refresh", &name]).expect_code(0);
    }
    installation.run(&["status"]).expect_code(0);
    assert_eq!(mock.totals().reuses, 0);
}

#[test]
fn the_demo_renews_three_connections_and_stops_on_interrupt() {
    let mut demo = command();
    demo.args(["demo", "--listen", "127.0.0.1:0"]);
    let demo = Running::start(demo, Some(b""));
    let state_dir = wait_for("the demo's state folder", COMMAND_WITHIN, || {
        let told = demo.stdout();
        let after = told.split_once("--state-dir ")?.1;
        Some(after.split_whitespace().next()?.to_owned())
    });
    wait_for("three renewals", DEMO_RENEWS_WITHIN, || {
        let mut status = command();
        status.args(["--state-dir", &state_dir, "status", "--json"]);
        let shown = Running::start(status, Some(b"")).finish(COMMAND_WITHIN).expect_code(0).json();
        let connections = shown["connections"].as_array()?;
        let renewed = |connection: &&Value| connection["stats"]["succeeded"].as_u64() >= Some(1);
        (connections.len() == 3 && connections.iter().filter(renewed).count() == 3).then_some(())
    });
    demo.signal(Signal::INT);
    let ran = demo.finish(STOP_WITHIN).expect_code(0);
    for name in ["jira", "github", "google"] {
        assert!(ran.stdout.contains(name), "{}", ran.stdout);
    }
    assert!(!std::path::Path::new(&state_dir).exists(), "the scratch folder is left behind");
}

#[test]
fn the_mock_provider_serves_in_a_process_of_its_own() {
    let mut provider = command();
    provider.args(["mock-provider", "--listen", "127.0.0.1:0", "--rotation", "grace:600", "--access-ttl", "20s"]);
    let provider = Running::start(provider, Some(b""));
    let address = wait_for("the mock's address", COMMAND_WITHIN, || {
        let told = provider.stdout() + &provider.stderr();
        let after = told.split_once("http://")?.1;
        let end = after.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c)))?;
        Some(after[..end].to_owned())
    });
    let json = [("content-type", "application/json")];
    let request = Request::post("/control/grants", &json, "{\"label\": \"jira\"}");
    let grants = request.at_address(&address).expect("the mock answers").json();

    let installation = Installation::new(&section("mock", &format!("http://{address}/token"), "grace:600"));
    let daemon = installation.start();
    installation.import("jira", "mock", &grants[0]["token"]).expect_code(0);
    installation.run(&["refresh", "jira"]).expect_code(0);
    let ledger = Request::get("/control/ledger?label=jira").at_address(&address).expect("the mock answers").json();
    assert_eq!((&ledger["refreshes"], &ledger["access_ttl_ms"]), (&1.into(), &20_000.into()), "{ledger}");
    daemon.stop().expect_code(0);
    provider.signal(Signal::INT);
    provider.finish(STOP_WITHIN).expect_code(0);
}

#[test]
fn the_doctor_asks_providers_whether_their_tokens_are_good() {
    let mock = Mock::start();
    let introspects = format!("introspect_url = \"{}\"\n", format_args!("http://{}/introspect", mock.address()));
    let installation = Installation::new(&format!("{}{introspects}", mock.section("mock", "strict")));
    let _daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    let config = installation.path("tokenkeep.toml");
    let asked = |code| {
        let arguments = ["doctor", "--json", "--network", "--config", config.to_str().expect("UTF-8")];
        let report = installation.run(&arguments).expect_code(code).json();
        let checks = report["checks"].as_array().expect("checks").clone();
        checks.into_iter().find(|check| check["name"] == "token of jira").expect("it was asked about")
    };
    assert_eq!(asked(0)["verdict"], "ok");
    assert_eq!(mock.state().kill("jira"), Some(true));
    let fault = asked(1);
    assert!(fault["mend"].as_str().expect("a mend").contains("tokenkeep connect jira"), "{fault}");
}
