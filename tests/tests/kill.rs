//! The real daemon, killed in mid-refresh again and again: what is lost is what the provider's class explains, and
//! each loss is named.
//!
//! `TOKENKEEP_KILLS` sets the number of kills (100).

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokenkeep_mock::{Chance, DeathCause, Fault, FaultPlan, GrantLedger, Rotation, fingerprint};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::{try_wait_for, wait_for};

const CONNECTIONS: usize = 200;
const ACCESS_TTL_S: i64 = 60;
const KILLS: u64 = 100;
/// Kills cost connections: after so many, new ones are made.
const KILLS_OF_A_FLEET: usize = 100;
/// Clean stops beside the kills.
const STOPS: u64 = 20;
/// A daemon lives between these before it is killed.
const LIFE_MS: (u64, u64) = (300, 1_000);
/// Those who refresh by hand, one connection after the other, so that each kill hits something.
const HANDS: usize = 2;
/// Every probe is due within a token's life, and its answer comes at once; retries are seconds.
const PROBES_WITHIN: Duration = Duration::from_secs(150);

#[test]
fn a_killed_daemon_loses_what_the_ledger_says_and_nothing_else() {
    let kills = env::var("TOKENKEEP_KILLS").map_or(KILLS, |text| text.parse().expect("TOKENKEEP_KILLS is a number"));
    for done in (0..kills).step_by(KILLS_OF_A_FLEET) {
        kill_one_fleet((kills - done).min(KILLS_OF_A_FLEET as u64));
    }
}

fn kill_one_fleet(kills: u64) {
    let bench = Bench::new();
    bench.mock.state().set_faults(slow_answers(0.003));
    let doubts = bench.run(kills, |daemon| daemon.kill());
    let refreshes_under_fire = bench.mock.totals().refreshes;
    bench.mock.state().set_faults(FaultPlan::none());

    let daemon = bench.installation.start();
    let settled = bench.settle();
    let ledgers = bench.ledgers();
    let lost = lost(&settled);
    let dead = dead(&ledgers);
    println!(
        "{kills} kills, {refreshes_under_fire} refreshes; kills that left doubt: {}, attempts in doubt: {}; \
         lost: {} of {CONNECTIONS}; totals {:?}",
        doubts.iter().filter(|&&count| count > 0).count(),
        doubts.iter().sum::<usize>(),
        lost.len(),
        bench.mock.totals(),
    );
    assert_eq!(lost, dead, "the daemon's losses and the provider's");
    // Only a kill can lose an answer here; with a few kills, chance may spare them all.
    assert!(kills < 10 || !lost.is_empty(), "no kill came between a rotation and its answer: nothing was shown");
    bench.check_ledgers(&ledgers, &lost);
    bench.check_survivors(&daemon, &settled);
    daemon.stop().expect_code(0);
}

#[test]
fn a_clean_stop_loses_nothing() {
    let bench = Bench::new();
    bench.mock.state().set_faults(slow_answers(0.0));
    let doubts = bench.run(STOPS, |daemon| {
        let ran = daemon.stop();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    });
    println!("{STOPS} stops, {} refreshes", bench.mock.totals().refreshes);
    assert_eq!(doubts, vec![0; doubts.len()], "attempts in doubt after each stop");
    let daemon = bench.installation.start();
    let settled = bench.settle();
    assert_eq!(lost(&settled), BTreeSet::new());
    bench.check_ledgers(&bench.ledgers(), &BTreeSet::new());
    bench.mock.state().set_faults(FaultPlan::none());
    bench.check_survivors(&daemon, &settled);
}

/// Kills the daemon while the provider has rotated and its answer is still on the way.
fn killed_with_an_answer_on_its_way() -> Bench {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    installation.import("c0", "mock", &mock.grant("c0", Rotation::Strict, 3_600)).expect_code(0);
    mock.state().script(Some("c0"), vec![Fault::DelayAnswer { ms: 60_000 }]).expect("the script has room");
    let socket = daemon.socket().to_owned();
    let refresh = thread::spawn(move || Request::new("POST", "/v1/connections/c0/refresh").at_socket(&socket));
    wait_for("the rotation", Duration::from_secs(10), || (mock.ledger("c0").refreshes == 1).then_some(()));
    daemon.kill();
    assert!(refresh.join().expect("it asks").is_err(), "the daemon answered");
    Bench { mock, installation }
}

#[test]
fn a_doubt_outlives_a_restart_in_which_nothing_is_refreshed() {
    let bench = killed_with_an_answer_on_its_way();
    for _ in 0..3 {
        let daemon = bench.installation.start();
        let connection = bench.installation.connection("c0");
        assert_eq!(
            (&connection["status"], &connection["last_error"]["code"]),
            (&"in_doubt".into(), &"answer_lost".into())
        );
        daemon.stop().expect_code(0);
    }
    assert_eq!(bench.mock.ledger("c0").requests, 1);
}

/// Somebody starts the daemon with a wrong configuration, then with the right one.
#[test]
fn a_doubt_outlives_a_configuration_without_its_provider() {
    let bench = killed_with_an_answer_on_its_way();
    bench.installation.configure(&bench.mock.section("other", "strict"));
    bench.installation.start().stop().expect_code(0);
    bench.installation.configure(&bench.mock.section("mock", "strict"));
    let _daemon = bench.installation.start();
    let connection = bench.installation.connection("c0");
    assert_eq!(connection["status"], "in_doubt", "{connection}");
    assert_eq!(bench.mock.ledger("c0").requests, 1, "the used refresh token was sent again");
}

/// Some answers come late, before or after the provider rotates, and some requests get lost: as in real life.
fn slow_answers(lost_requests: f64) -> FaultPlan {
    let chance = |probability, fault| Chance { probability, fault };
    let faults = vec![
        chance(0.03, Fault::Delay { ms: 30 }),
        chance(0.03, Fault::DelayAnswer { ms: 30 }),
        // In doubt, and not lost: the probe must find out.
        chance(lost_requests, Fault::DropBefore),
    ];
    FaultPlan::new(7, faults).expect("probabilities")
}

struct Bench {
    mock: Mock,
    installation: Installation,
}

impl Bench {
    /// Two hundred strict connections, imported.
    fn new() -> Self {
        let mock = Mock::start();
        let limits = "refresh_per_second = 1000\n";
        let installation = Installation::new(&(mock.section("mock", "strict") + limits));
        let lines = mock.grants("c", CONNECTIONS, ACCESS_TTL_S, "mock");
        let daemon = installation.start();
        installation.import_lines(&lines);
        daemon.stop().expect_code(0);
        Self { mock, installation }
    }

    /// Ends the daemon so many times while it refreshes. Gives how many attempts each end left in doubt.
    fn run(&self, ends: u64, end: impl Fn(Daemon)) -> Vec<usize> {
        let mut doubted = BTreeMap::new();
        let mut new_doubts = Vec::new();
        for nth in 0..ends {
            let daemon = self.installation.start();
            new_doubts.push(self.note_doubts(&mut doubted));
            let (ending, attempts) = (AtomicBool::new(false), AtomicU64::new(0));
            thread::scope(|scope| {
                let _end_of_hands = Raised(&ending);
                for hand in 0..HANDS {
                    let (socket, ending, attempts) = (daemon.socket().to_owned(), &ending, &attempts);
                    scope.spawn(move || refresh_by_hand(&socket, nth * 7 + hand as u64 * 101, ending, attempts));
                }
                // The daemon's life: the experiment itself.
                thread::sleep(Duration::from_millis(LIFE_MS.0 + draw(nth) % (LIFE_MS.1 - LIFE_MS.0)));
                end(daemon);
            });
            assert!(attempts.load(Ordering::Relaxed) > 0, "nothing was refreshed in life {nth}");
        }
        let daemon = self.installation.start();
        new_doubts.push(self.note_doubts(&mut doubted));
        // Nothing of this look may be lost: it is not one of the kills.
        daemon.stop().expect_code(0);
        new_doubts.split_off(1)
    }

    /// Counts the connections that came in doubt since the last look: those of another generation, too.
    fn note_doubts(&self, doubted: &mut BTreeMap<String, Value>) -> usize {
        let before = std::mem::take(doubted);
        for connection in self.installation.connections() {
            if connection["status"] == "in_doubt" {
                doubted.insert(name(&connection), connection["generation"].clone());
            }
        }
        doubted.iter().filter(|&(name, generation)| before.get(name) != Some(generation)).count()
    }

    /// Waits until no connection is in doubt or waits for a retry.
    fn settle(&self) -> Vec<Value> {
        let started = Instant::now();
        let is_settled = |connection: &Value| {
            // Not `refreshing`: it may be a probe.
            matches!(connection["status"].as_str(), Some("fresh" | "needs_reauth"))
        };
        let mut unsettled = Vec::new();
        let settled = try_wait_for(PROBES_WITHIN, || {
            let connections = self.installation.connections();
            unsettled = connections.iter().filter(|connection| !is_settled(connection)).cloned().collect();
            unsettled.is_empty().then_some(connections)
        });
        let settled = settled.unwrap_or_else(|| panic!("the probes are not over: {unsettled:#?}"));
        println!("the probes were over after {:?}", started.elapsed());
        assert_eq!(settled.len(), CONNECTIONS);
        settled
    }

    fn ledgers(&self) -> BTreeMap<String, GrantLedger> {
        self.mock.ledgers((0..CONNECTIONS).map(|nth| format!("c{nth}")))
    }

    /// The provider saw each lost refresh token once more, by the one probe, and no other twice.
    fn check_ledgers(&self, ledgers: &BTreeMap<String, GrantLedger>, lost: &BTreeSet<String>) {
        for (name, ledger) in ledgers {
            assert_eq!(ledger.reuse_count, u64::from(lost.contains(name)), "reuses of {name}: {ledger:?}");
            assert_eq!(ledger.overlaps, 0, "overlaps of {name}: {ledger:?}");
            let cause = ledger.killed.map(|death| death.cause);
            assert_eq!(cause, lost.contains(name).then_some(DeathCause::Reuse), "{name}");
        }
    }

    /// Each connection that is not lost hands out the provider's newest token, and renews it.
    fn check_survivors(&self, daemon: &Daemon, settled: &[Value]) {
        for connection in settled.iter().filter(|connection| connection["status"] != "needs_reauth") {
            let name = name(connection);
            wait_for(&format!("the newest token of {name}"), Duration::from_secs(5), || {
                let token = daemon.ask(Request::get(&format!("/v1/connections/{name}/token"))).json();
                let handed = fingerprint(token["access_token"].as_str()?);
                (handed == self.mock.ledger(&name).access_token_fingerprint).then_some(())
            });
            let refreshes = self.mock.ledger(&name).refreshes;
            let answer = daemon.ask(Request::new("POST", &format!("/v1/connections/{name}/refresh")));
            let shown = answer.json();
            assert_eq!((answer.status, &shown["last_error"]), (200, &Value::Null), "{name}: {answer:?}");
            assert!(self.mock.ledger(&name).refreshes > refreshes, "{name} was not refreshed");
            assert!(self.mock.ledger(&name).killed.is_none(), "{name} died of a refresh");
        }
    }
}

/// A flag that goes up when this is dropped: also when the test panics, so that nobody waits for ever.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Refreshes one connection after the other until the daemon is gone. A refusal says that it must not be, for now.
fn refresh_by_hand(socket: &Path, first: u64, ending: &AtomicBool, attempts: &AtomicU64) {
    let mut nth = first;
    while !ending.load(Ordering::Relaxed) {
        nth += 1;
        let path = format!("/v1/connections/c{}/refresh", draw(nth) % CONNECTIONS as u64);
        match Request::new("POST", &path).at_socket(socket) {
            Ok(answer) if answer.status == 200 => {
                attempts.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            // It is being killed: the flag comes next.
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// A number that looks random and is the same in each run (SplitMix64).
fn draw(nth: u64) -> u64 {
    let mut z = nth.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn name(connection: &Value) -> String {
    connection["name"].as_str().expect("a name").to_owned()
}

/// The connections that need a sign-in; each must say that its answer was lost in flight.
fn lost(connections: &[Value]) -> BTreeSet<String> {
    let needs_reauth = connections.iter().filter(|connection| connection["status"] == "needs_reauth");
    needs_reauth
        .map(|connection| {
            assert_eq!(connection["last_error"]["code"], "lost_in_flight", "{connection}");
            name(connection)
        })
        .collect()
}

fn dead(ledgers: &BTreeMap<String, GrantLedger>) -> BTreeSet<String> {
    let dead = ledgers.iter().filter(|(_, ledger)| ledger.killed.is_some());
    dead.map(|(name, _)| name.clone()).collect()
}
