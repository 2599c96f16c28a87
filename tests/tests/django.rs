//! Minutes against a server that nobody here wrote, behind a network that eats one answer in five after the server has
//! rotated: no grant is lost, and no token that is handed out is anything but the server's newest.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::django::{Django, Family};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::process::wait_for;
use tokenkeep_tests::proxy::Proxy;

const CONNECTIONS: usize = 30;
/// How long it lasts where `TOKENKEEP_DJANGO_SECONDS` does not say.
const LASTS: Duration = Duration::from_secs(75);
/// A token of 20 s is renewed 11 to 14 s before its end: each connection at least so often.
const SECONDS_FOR_EACH_RENEWAL: u64 = 12;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Within this, an eaten answer is asked for again.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);
/// Within this, each connection stands still once while the server's database is read.
const COMPARED_WITHIN: Duration = Duration::from_secs(60);
/// Ends are compared to this many seconds: the daemon's are whole milliseconds, and counted from its own request.
const CLOCK_S: f64 = 0.1;
const SEED: u64 = 20_261_125;

#[test]
fn no_grant_is_lost_where_one_answer_in_five_is() {
    let django = Django::start();
    let proxy = Proxy::start(django.address(), SEED);
    let installation = Installation::new(&django.section(&proxy));
    std::fs::write(installation.path("secret"), django.client_secret()).expect("the folder is ours");
    let daemon = installation.start();
    installation.import_lines(&django.grants("c", CONNECTIONS, "django"));

    let lasts = lasts();
    let seen = watch(&daemon, lasts);
    everything_becomes_fresh(&daemon);

    let passed = proxy.passed();
    let families = django.families();
    let renewals: Vec<u64> = families.values().map(|family| family.renewals).collect();
    let part = passed.dropped as f64 / passed.renewals as f64;
    println!(
        "{passed:?}, {part:.3} of the renewals eaten; of each connection {:?} to {:?} renewals; {seen:?}",
        renewals.iter().min(),
        renewals.iter().max()
    );
    assert!(passed.dropped as usize >= CONNECTIONS && (0.12..0.28).contains(&part), "{passed:?}");
    assert_eq!(passed.repeated, passed.dropped, "each eaten answer was asked for again");
    assert_eq!(families.len(), CONNECTIONS);
    for (user, family) in &families {
        assert_eq!((family.families, family.live), (1, 1), "{user} was revoked: {family:?}");
        assert!(family.renewals >= lasts.as_secs() / SECONDS_FOR_EACH_RENEWAL, "{user}: {family:?}");
    }
    assert!(seen.in_doubt > 0, "no eaten answer was ever seen in the status");
    assert!(seen.wrong.is_empty(), "{:?}", seen.wrong);
    installation.run(&["status"]).expect_code(0);
    what_is_handed_out_is_the_newest(&daemon, &django);
    daemon.stop().expect_code(0);
    the_server_would_have_noticed(&django);
}

fn lasts() -> Duration {
    let Ok(given) = env::var("TOKENKEEP_DJANGO_SECONDS") else { return LASTS };
    Duration::from_secs(given.parse().expect("TOKENKEEP_DJANGO_SECONDS is a whole number of seconds"))
}

/// What the status said meanwhile.
#[derive(Debug, Default)]
struct Seen {
    looks: usize,
    /// How often a connection was in doubt.
    in_doubt: usize,
    /// Connections that were anything else but fresh or about to be.
    wrong: Vec<String>,
}

fn watch(daemon: &Daemon, lasts: Duration) -> Seen {
    let (started, mut seen) = (Instant::now(), Seen::default());
    while started.elapsed() < lasts {
        for connection in connections(daemon) {
            match connection["status"].as_str() {
                Some("fresh" | "refreshing") => {}
                Some("in_doubt") => seen.in_doubt += 1,
                _ => seen.wrong.push(connection.to_string()),
            }
        }
        seen.looks += 1;
        // Not a wait for something: this is the watcher's pace.
        thread::sleep((LOOK_EVERY * seen.looks as u32).saturating_sub(started.elapsed()));
    }
    seen
}

fn connections(daemon: &Daemon) -> Vec<Value> {
    let page = daemon.ask(Request::get("/v1/connections?limit=1000")).json();
    let items = page["items"].as_array().expect("a list of connections");
    assert_eq!(items.len(), CONNECTIONS);
    items.clone()
}

fn everything_becomes_fresh(daemon: &Daemon) {
    wait_for("all fresh", SETTLES_WITHIN, || {
        connections(daemon).iter().all(|connection| connection["status"] == "fresh").then_some(())
    });
}

/// Compares what the daemon hands out with the server's database: each time those that were not renewed meanwhile, until
/// each connection had its turn.
fn what_is_handed_out_is_the_newest(daemon: &Daemon, django: &Django) {
    let mut compared = BTreeSet::new();
    wait_for("a comparison of every token", COMPARED_WITHIN, || {
        let before = fresh_tokens(daemon);
        let families = django.families();
        let after = fresh_tokens(daemon);
        for (name, token) in before.into_iter().filter(|(name, token)| after.get(name) == Some(token)) {
            token.expect_newest(&name, &families[&name]);
            compared.insert(name);
        }
        (compared.len() == CONNECTIONS).then_some(())
    });
}

#[derive(Debug, PartialEq)]
struct Token {
    access_token: String,
    /// In seconds since 1970.
    expires_at: f64,
}

impl Token {
    fn expect_newest(&self, name: &str, family: &Family) {
        let newest = family.access_token_sha256.as_deref();
        assert_eq!(Some(sha256(&self.access_token).as_str()), newest, "{name} hands out another than the newest");
        let ends = family.access_expires_at.expect("the newest has an end");
        assert!(self.expires_at <= ends + CLOCK_S, "{name}: {} is said to end later than {ends}", self.expires_at);
    }
}

/// Of the connections for which no answer is on its way.
fn fresh_tokens(daemon: &Daemon) -> BTreeMap<String, Token> {
    let fresh = connections(daemon).into_iter().filter(|connection| connection["status"] == "fresh");
    let names: Vec<String> = fresh.filter_map(|connection| Some(connection["name"].as_str()?.to_owned())).collect();
    let read = |name: String| {
        let token = daemon.ask(Request::get(&format!("/v1/connections/{name}/token?wait=0"))).json();
        let access_token = token["access_token"].as_str().expect("a fresh one has a token").to_owned();
        let expires_at: jiff::Timestamp = token["expires_at"].as_str().expect("a time").parse().expect("RFC 3339");
        (name, Token { access_token, expires_at: expires_at.as_millisecond() as f64 / 1_000.0 })
    };
    names.into_iter().map(read).collect()
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Uses a refresh token again two rotations later: without this, no count above could have come out otherwise.
fn the_server_would_have_noticed(django: &Django) {
    let line: Value = serde_json::from_str(&django.grants("witness", 1, "django")).expect("a line of JSON");
    let first = line["token"]["refresh_token"].as_str().expect("a refresh token");
    let second = django.refresh(first).json();
    let second = second["refresh_token"].as_str().expect("a refresh token");
    assert_eq!(django.refresh(second).status, 200);
    assert_eq!(django.families()["witness0"].live, 1);
    let refused = django.refresh(first);
    assert_eq!((refused.status, &refused.json()["error"]), (400, &"invalid_grant".into()));
    assert_eq!(django.families()["witness0"].live, 0, "the family of a token that was used again is revoked");
}
