//! `/metrics`: what is served, that it moves with what happens, and that what others make of it names what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::metrics::{Scrape, run_promtool};
use tokenkeep_tests::mock::{CLIENT_SECRET, Mock};
use tokenkeep_tests::process::{try_wait_for, wait_for};

/// Counts of the store are kept for two seconds.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// The daemon refreshes a token of seconds by itself.
const REFRESHED_WITHIN: Duration = Duration::from_secs(30);
/// Gives each connection series of its own.
const PER_CONNECTION: (&str, &str) = ("TOKENKEEP_METRICS__PER_CONNECTION", "true");

/// Scrapes until a series has this value.
#[track_caller]
fn expect(daemon: &Daemon, series: &str, value: f64) -> Scrape {
    let mut last = Scrape::of(daemon);
    let found = try_wait_for(SHOWN_WITHIN, || {
        last = Scrape::of(daemon);
        (last.get(series) == Some(value)).then_some(())
    });
    assert!(found.is_some(), "{series} is {:?}, not {value}", last.get(series));
    last
}

fn of_status(status: &str) -> String {
    format!(r#"tokenkeep_connections{{provider="mock",status="{status}"}}"#)
}

fn refreshes(outcome: &str) -> String {
    format!(r#"tokenkeep_refresh_total{{provider="mock",outcome="{outcome}"}}"#)
}

fn requests(outcome: &str) -> String {
    format!(r#"tokenkeep_token_requests_total{{outcome="{outcome}"}}"#)
}

#[test]
fn what_happens_is_counted() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    let first = expect(&daemon, &of_status("fresh"), 0.0);
    assert_eq!(first.value(&refreshes("succeeded")), 0.0, "from zero, so that the first one shows");
    assert_eq!(first.value("tokenkeep_ready"), 1.0);
    assert_eq!(first.value(r#"tokenkeep_build_info{version="0.1.0"}"#), 1.0);
    assert_eq!(first.get("tokenkeep_earliest_expiration_timestamp_seconds{provider=\"mock\"}"), None);

    let tokens: BTreeMap<_, _> =
        ["a", "b", "c"].into_iter().map(|name| (name, mock.grant(name, Rotation::Strict, 3_600))).collect();
    for (name, token) in &tokens {
        installation.import(name, "mock", token).expect_code(0);
    }
    let imported = expect(&daemon, &of_status("fresh"), 3.0);
    let counted = imported.value("tokenkeep_counted_timestamp_seconds");
    let earliest = imported.value(r#"tokenkeep_earliest_expiration_timestamp_seconds{provider="mock"}"#);
    assert!((3_500.0..3_601.0).contains(&(earliest - counted)), "{earliest} after {counted}");

    installation.run(&["refresh", "a"]).expect_code(0);
    mock.state().kill("b");
    installation.run(&["refresh", "b"]).expect_code(4);
    installation.run(&["pause", "c"]).expect_code(0);
    installation.run(&["token", "a"]).expect_code(0);
    installation.run(&["token", "nobody"]).expect_code(3);
    expect(&daemon, &of_status("paused"), 1.0);
    let scrape = expect(&daemon, &of_status("needs_reauth"), 1.0);
    assert_eq!(scrape.value(&of_status("fresh")), 1.0);
    assert_eq!((scrape.value(&refreshes("succeeded")), scrape.value(&refreshes("invalid_grant"))), (1.0, 1.0));
    assert_eq!(scrape.value("tokenkeep_refresh_duration_seconds_count"), 2.0);
    assert_eq!((scrape.value(&requests("served")), scrape.value(&requests("not_found"))), (1.0, 1.0));
    assert_eq!(scrape.value("tokenkeep_journal_sync_duration_seconds_count"), 2.0, "each answer was made durable");
    assert!(scrape.value("tokenkeep_journal_writes_total") >= 4.0);
    assert_eq!(scrape.value("tokenkeep_journal_failures_total"), 0.0);
    assert_eq!(scrape.value("tokenkeep_journal_slots"), 256.0);
    assert_eq!(scrape.value("tokenkeep_journal_slots_in_use"), 0.0);
    assert_eq!(scrape.value("tokenkeep_refreshes_in_flight"), 0.0);
    assert!(scrape.value("tokenkeep_scheduler_lag_seconds") < 5.0);
    assert_eq!(scrape.value("tokenkeep_refresh_lateness_seconds_count"), 0.0, "what people ask for is not late");

    let kinds = [("tokenkeep_refresh_total", "counter"), ("tokenkeep_connections", "gauge")];
    for (name, kind) in kinds.into_iter().chain([("tokenkeep_refresh_duration_seconds", "histogram")]) {
        assert_eq!(scrape.types[name], kind, "{name}");
    }
    let said = run_promtool(Path::new("/"), &["check", "metrics"], &scrape.text);
    assert_eq!(said, "", "promtool finds fault with the names or their help");
    for token in tokens.values().flat_map(|token| [&token["access_token"], &token["refresh_token"]]) {
        assert!(!scrape.text.contains(token.as_str().expect("a token")), "a token is shown");
    }
    assert!(!scrape.text.contains(CLIENT_SECRET), "a secret is shown");
    assert!(!scrape.text.contains("tokenkeep_connection_"), "connections have series without being asked for");
}

#[test]
fn what_the_scheduler_does_is_counted() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    installation.import("a", "mock", &mock.grant("a", Rotation::Strict, 8)).expect_code(0);
    let scrape = wait_for("a refresh", REFRESHED_WITHIN, || {
        Some(Scrape::of(&daemon)).filter(|scrape| scrape.value(&refreshes("succeeded")) > 0.0)
    });
    assert!(scrape.value("tokenkeep_refresh_lateness_seconds_count") >= 1.0);
    assert!(scrape.value("tokenkeep_refresh_lateness_seconds_sum") < 8.0, "{}", scrape.text);
}

fn of_connection(what: &str, name: &str) -> String {
    format!(r#"tokenkeep_connection_{what}{{namespace="default",connection="{name}",provider="mock"}}"#)
}

#[test]
fn connections_have_series_of_their_own_where_somebody_wants_them() {
    let mock = Mock::start();
    let section = mock.section("mock", "strict");
    let installation = Installation::new(&format!("{section}\n[metrics]\nper_connection = true\n"));
    let daemon = installation.start();
    installation.import("a", "mock", &mock.grant("a", Rotation::Strict, 3_600)).expect_code(0);
    installation.import("b", "mock", &mock.grant("b", Rotation::Strict, -10)).expect_code(0);
    installation.run(&["pause", "b"]);
    let scrape = expect(&daemon, &of_connection("ready", "a"), 1.0);
    assert_eq!(scrape.value("tokenkeep_connection_series_omitted"), 0.0);
    let (end, renewal) = ("expiration_timestamp_seconds", "renewal_timestamp_seconds");
    let shown = installation.connection("a");
    let time = |value: &Value| {
        let at: jiff::Timestamp = value.as_str().expect("a time").parse().expect("RFC 3339");
        at.as_millisecond() as f64 / 1_000.0
    };
    for (series, field) in [(end, "access_expires_at"), (renewal, "refresh_due_at")] {
        let (served, said) = (scrape.value(&of_connection(series, "a")), time(&shown[field]));
        assert!((served - said).abs() < 0.1, "{field}: {served} is not {said}");
    }
    expect(&daemon, &of_status("paused"), 1.0);

    installation.configure(&section);
    daemon.process().signal(Signal::HUP);
    wait_for("the series to go", SHOWN_WITHIN, || {
        (!Scrape::of(&daemon).text.contains("tokenkeep_connection_")).then_some(())
    });
}

#[test]
fn a_wrong_setting_is_named() {
    let installation = Installation::new("[metrics]\nper_connection = 3\n");
    let said = installation.start_refused().expect_code(1).stderr;
    assert!(said.contains("`metrics.per_connection` is an integer") && said.contains("true or false"), "{said}");
}

// --- What others make of it ---

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every name of a metric in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("tokenkeep_")).map(str::to_owned).collect()
}

/// What each panel of the dashboard asks for.
fn asked_by_the_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/tokenkeep.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut ids = BTreeSet::new();
    let mut asked = Vec::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "two panels have the id {}", panel["id"]);
        let targets = panel["targets"].as_array().expect("a panel asks for something");
        assert!(!targets.is_empty(), "{} asks for nothing", panel["title"]);
        asked.extend(targets.iter().map(|target| target["expr"].as_str().expect("an expression").to_owned()));
    }
    let variables = dashboard["templating"]["list"].as_array().expect("it has variables");
    asked.extend(variables.iter().filter_map(|variable| variable["definition"].as_str().map(str::to_owned)));
    asked
}

#[test]
fn the_dashboard_the_alerts_and_the_manual_name_what_is_served() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start_with(&[PER_CONNECTION]);
    installation.import("a", "mock", &mock.grant("a", Rotation::Strict, 3_600)).expect_code(0);
    let scrape = expect(&daemon, &of_connection("ready", "a"), 1.0);

    let manual = read("docs/operations.md");
    let in_manual = names(&manual);
    let used = [
        ("the dashboard", names(&asked_by_the_dashboard().join("\n"))),
        ("alerts.yml", names(&read("deploy/prometheus/alerts.yml"))),
        ("alerts_test.yml", names(&read("deploy/prometheus/alerts_test.yml"))),
        ("docs/operations.md", in_manual.clone()),
    ];
    for (user, names) in used {
        assert!(names.len() > 5, "{user} names only {names:?}");
        for name in names {
            assert!(scrape.has(&name), "{user} names {name}, which is not served:\n{:?}", scrape.types.keys());
        }
    }
    for name in scrape.types.keys() {
        assert!(in_manual.contains(name), "docs/operations.md does not explain {name}");
    }
}
