//! How fast it is with a million connections, and how much memory it takes:
//! `cargo test --release -p tokenkeep measure -- --ignored --nocapture`.

use super::*;
use crate::store::ListQuery;
use std::time::Instant;
use tokenkeep_core::model::Status;

const CONNECTIONS: usize = 1_000_000;
const TOKEN_BYTES: usize = 1_000;

fn large_token_set(number: usize) -> TokenSet {
    TokenSet {
        access_token: Secret::new(format!("{number:0>TOKEN_BYTES$}")),
        refresh_token: Some(Secret::new(format!("refresh-{number:0>300}"))),
        token_type: "Bearer".to_owned(),
        extra: Secret::new("{}"),
    }
}

/// Due at random times of one hour, each with its own end.
fn numbered(number: usize) -> NewGrant {
    let due = i64::try_from(number.wrapping_mul(2_654_435_761) % 3_600_000).unwrap();
    let mut grant = new_grant(&format!("connection-{number:07}"));
    (grant.due_at, grant.times.expires_at) = (at(due), Some(at(due + 900_000)));
    grant.tokens = Some(large_token_set(number));
    grant
}

async fn fill(store: &SqliteStore, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(5_000) {
        let granted = store.grant(at(0), chunk.iter().map(|number| numbered(*number)).collect()).await.unwrap();
        assert!(granted.iter().all(|granted| matches!(granted, Granted::Created(..))));
    }
}

/// Resident memory of this process, in MiB: all of it, and what is neither file nor shared.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
    };
    (value("VmRSS:"), value("RssAnon:"))
}

/// Processor time of each thread of this process so far, in milliseconds, by name.
fn processor_ms() -> BTreeMap<String, u64> {
    let mut spent = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end while this looks at it.
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let ticks = |field: usize| rest.split_whitespace().nth(field).unwrap().parse::<u64>().unwrap();
        *spent.entry(name.to_owned()).or_default() += (ticks(11) + ticks(12)) * 10;
    }
    spent
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let middle = times[times.len() / 2];
    let late = times[times.len() * 99 / 100];
    println!("{what}: median {middle:?}, 99 % {late:?}, most {:?} of {}", times[times.len() - 1], times.len());
}

fn next_commit(work: &Work, number: usize) -> Commit {
    let mut commit = success(work, "");
    let due = i64::try_from(3_600_000 + number * 97 % 3_600_000).unwrap();
    commit.next.state = State::Ready { due_at: at(due), waiting: Waiting::Schedule };
    commit.next.times.expires_at = Some(at(due + 900_000));
    commit.tokens = Some(large_token_set(number));
    commit
}

#[test]
#[ignore = "takes minutes and 3 GB of disk"]
fn measure_a_million_connections() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        println!("resident before: {:?} MiB", resident());
        let place = Place::new();
        let store = Arc::new(place.open().unwrap());
        println!("resident with an open, empty store: {:?} MiB", resident());
        let started = Instant::now();
        fill(&store, CONNECTIONS).await;
        println!("import: {:.0} a second", CONNECTIONS as f64 / started.elapsed().as_secs_f64());
        store.close().await.unwrap();
        println!("file: {} MiB", std::fs::metadata(&place.path).unwrap().len() >> 20);
        let started = Instant::now();
        let store = Arc::new(place.open().unwrap());
        println!("open: {:?}", started.elapsed());
        measure_reads(&store).await;
        measure_claims(&store).await;
        measure_refreshes(&store).await;
        measure_counts(&store, "after refreshes").await;
        let log = std::fs::metadata(schema::beside(&place.path, "-wal")).unwrap().len() >> 20;
        println!("log: {log} MiB; resident: {:?} MiB", resident());
        let started = Instant::now();
        store.close().await.unwrap();
        println!("close: {:?}", started.elapsed());
    });
}

async fn measure_reads(store: &SqliteStore) {
    let mut times = Vec::new();
    for number in 0..2_000 {
        let key = key(&format!("connection-{:07}", number * 499_979 % CONNECTIONS));
        let started = Instant::now();
        store.tokens(&key).await.unwrap().unwrap();
        times.push(started.elapsed());
    }
    report("tokens, each once", times);
    measure_counts(store, "at first").await;
}

async fn measure_counts(store: &SqliteStore, when: &str) {
    for (what, now, namespace) in
        [("now", 0, None), ("all ended", 9_999_999, None), ("of a namespace", 0, Some("default"))]
    {
        let started = Instant::now();
        let summary = store.summary(at(now), namespace).await.unwrap();
        println!("summary {when}, {what}: {:?} {:?}", started.elapsed(), summary.by_status);
    }
    for (what, now) in [("now", 0), ("all ended", 9_999_999)] {
        let started = Instant::now();
        let shares = store.summary_by_provider(at(now)).await.unwrap();
        println!("summary by provider {when}, {what}: {:?} of {}", started.elapsed(), shares.len());
    }
    let started = Instant::now();
    let outlook = store.outlook(at(0), None).await.unwrap();
    println!("outlook {when}: {:?}, {} due, {} later", started.elapsed(), outlook.due, outlook.later);
    for status in [Status::NeedsReauth, Status::Refreshing, Status::Fresh] {
        let query = ListQuery { statuses: vec![status], limit: 100, ..ListQuery::default() };
        let started = Instant::now();
        let found = store.list(at(0), &query).await.unwrap();
        println!("list of {status:?} {when}: {:?} for {}", started.elapsed(), found.len());
    }
}

async fn measure_claims(store: &SqliteStore) {
    let mut times = Vec::new();
    let mut claimed = Vec::new();
    for _ in 0..40 {
        let started = Instant::now();
        let work = store.claim_due(at(3_000_000), HOLDER, &[quota(256)]).await.unwrap().work;
        times.push(started.elapsed());
        assert_eq!(work.len(), 256);
        claimed.extend(work);
    }
    report("claim of 256", times);
    let mut times = Vec::new();
    for (number, work) in claimed.iter().enumerate() {
        if number % 64 == 0 {
            let started = Instant::now();
            store.commit(next_commit(work, number)).await.unwrap();
            times.push(started.elapsed());
        } else {
            store.commit(next_commit(work, number)).await.unwrap();
        }
    }
    report("commit alone", times);
}

/// The engine's pattern: one task claims batches, 256 tasks commit.
async fn measure_refreshes(store: &Arc<SqliteStore>) {
    const ROUNDS: usize = 600;
    let (before, processor) = (store.transactions(), processor_ms());
    let in_flight = Arc::new(tokio::sync::Semaphore::new(512));
    let started = Instant::now();
    let mut claims = Vec::new();
    let mut number = 0;
    for _ in 0..ROUNDS {
        let wait = Arc::clone(&in_flight).acquire_many_owned(256).await.unwrap();
        let claiming = Instant::now();
        let work = store.claim_due(at(3_600_000), HOLDER, &[quota(256)]).await.unwrap().work;
        claims.push(claiming.elapsed());
        drop(wait);
        for work in work {
            number += 1;
            let (store, commit) = (Arc::clone(store), next_commit(&work, number));
            let permit = Arc::clone(&in_flight).acquire_owned().await.unwrap();
            tokio::spawn(async move {
                assert!(matches!(store.commit(commit).await.unwrap(), Committed::Applied(..)));
                drop(permit);
            });
        }
    }
    let _all = in_flight.acquire_many(512).await.unwrap();
    let spent = started.elapsed();
    println!(
        "{number} refreshes in {spent:?}: {:.0} claim+commit a second in {} transactions",
        number as f64 / spent.as_secs_f64(),
        store.transactions() - before
    );
    for (name, spent) in processor_ms() {
        let spent = spent - processor.get(&name).copied().unwrap_or(0);
        println!("  {name}: {:.1} us of processor time a refresh", spent as f64 * 1_000.0 / number as f64);
    }
    report("claim of 256 under load", claims);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_ten_connections() {
    let place = Place::new();
    let before = resident();
    let store = place.open().unwrap();
    fill(&store, 10).await;
    for _ in 0..100 {
        store.claim_due(at(0), HOLDER, &[quota(9)]).await.unwrap();
        store.summary(at(0), None).await.unwrap();
    }
    println!("resident before {before:?} MiB, with ten connections {:?} MiB", resident());
}
