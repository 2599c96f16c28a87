//! Three minutes against a certified server that nobody here wrote: every token that is handed out is good, and no
//! refresh token is used twice.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::oidc::{Oidc, Read};

const CONNECTIONS: usize = 50;
const READERS: usize = 4;
const READ_EVERY: Duration = Duration::from_millis(100);
const LASTS: Duration = Duration::from_secs(180);
const ACCESS_TTL_S: u32 = 20;
/// Each reader has one of so many tokens checked by the server.
const INTROSPECT_EVERY: usize = 4;
const RENEWALS_MIN: u64 = 8;

#[test]
fn every_token_read_is_valid_and_no_refresh_token_is_used_twice() {
    let oidc = Oidc::start(ACCESS_TTL_S);
    let installation = Installation::new(&config(&oidc));
    std::fs::write(installation.path("secret"), oidc.client_secret()).expect("the folder is ours");
    let daemon = installation.start();
    installation.import_lines(&oidc.sign_in("c", CONNECTIONS, "oidc"));

    let read = read_for_a_while(&daemon, &oidc);

    let seen = oidc.seen();
    let renewals = renewals(&installation);
    println!("{read:?}, at the server {seen}, renewals of a connection {:?}", extremes(&renewals));
    read.expect_good();
    assert_eq!(seen["codes"], CONNECTIONS);
    assert_eq!((&seen["reuses"], &seen["revoked_grants"]), (&0.into(), &0.into()), "{seen}");
    assert_eq!(seen["errors"], serde_json::json!({}));
    assert_eq!(renewals.len(), CONNECTIONS);
    assert!(renewals.iter().all(|&count| count >= RENEWALS_MIN), "{renewals:?}");
    let at_server: Vec<_> = seen["refreshes_by_account"].as_object().expect("a count for each").values().collect();
    assert!(at_server.iter().all(|count| count.as_u64() >= Some(RENEWALS_MIN)), "{seen}");
    installation.run(&["status"]).expect_code(0);
    daemon.stop().expect_code(0);
    the_server_would_have_noticed(&oidc);
}

fn config(oidc: &Oidc) -> String {
    format!(
        "[providers.oidc]\n\
         token_url = \"{}\"\n\
         client_id = \"{}\"\n\
         client_secret = {{ file = \"secret\" }}\n\
         client_auth = \"client_secret_basic\"\n\
         rotation = \"strict\"\n",
        oidc.token_url(),
        oidc.client_id()
    )
}

fn read_for_a_while(daemon: &Daemon, oidc: &Oidc) -> Read {
    let whole = Mutex::new(Read::default());
    thread::scope(|scope| {
        for reader in 0..READERS {
            let whole = &whole;
            scope.spawn(move || {
                let read = read_as(reader, daemon, oidc);
                whole.lock().expect("no reader panics with the lock").add(read);
            });
        }
    });
    whole.into_inner().expect("no reader panics with the lock")
}

/// One reader: goes round the connections, each reader from another one on.
fn read_as(reader: usize, daemon: &Daemon, oidc: &Oidc) -> Read {
    let mut read = Read::default();
    let (started, mut nth) = (Instant::now(), 0);
    while started.elapsed() < LASTS {
        let name = format!("c{}", (reader * CONNECTIONS / READERS + nth) % CONNECTIONS);
        read.one(daemon, &name, nth.is_multiple_of(INTROSPECT_EVERY).then_some(oidc));
        nth += 1;
        // Not a wait for something: this is the readers' pace.
        thread::sleep((READ_EVERY * nth as u32).saturating_sub(started.elapsed()));
    }
    read
}

fn renewals(installation: &Installation) -> Vec<u64> {
    let succeeded = |connection: Value| connection["stats"]["succeeded"].as_u64().unwrap_or_default();
    installation.connections().into_iter().map(succeeded).collect()
}

fn extremes(counts: &[u64]) -> Option<(u64, u64)> {
    Some((*counts.iter().min()?, *counts.iter().max()?))
}

/// Uses a refresh token twice: without this, no count above could have come out otherwise.
fn the_server_would_have_noticed(oidc: &Oidc) {
    let line: Value = serde_json::from_str(&oidc.sign_in("witness", 1, "oidc")).expect("a line of JSON");
    let first = line["token"]["refresh_token"].as_str().expect("a refresh token");
    let second = oidc.refresh(first);
    assert!(oidc.is_active(second["access_token"].as_str().expect("an access token")));
    assert_eq!(oidc.refresh(first)["error"], "invalid_grant");
    assert!(!oidc.is_active(second["access_token"].as_str().expect("an access token")));
    let seen = oidc.seen();
    assert_eq!((&seen["reuses"], &seen["revoked_grants"]), (&1.into(), &1.into()), "{seen}");
}
