//! `TokenKeep::token` in process: hot, cold, and hot beside running refreshes.

use super::Outcome;
use super::folder;
use super::provider::{self, Running};
use super::report::{Report, Target, Times, Unit, median};
use std::time::{Duration, Instant};
use tokenkeep::{Import, TokenAsk, TokenKeep};
use tokenkeep_core::Secret;
use tokenkeep_core::model::ConnectionKey;
use tokio::sync::broadcast::error::TryRecvError;

/// How many connections are asked for again and again.
const HOT: usize = 10_000;
/// How many are asked for once.
const COLD: usize = 2_000;
/// How often all hot ones are asked for.
const ROUNDS: usize = 50;
/// How long a store is left alone after an import.
const SETTLE: Duration = Duration::from_secs(2);
/// A step that visits all connections, in an order that no cache foresees.
const STRIDE: usize = 499_979;

/// Measures reads of a store with so many connections.
///
/// # Errors
/// A token could not be had.
pub async fn measure(keep: &TokenKeep, running: &Running, connections: usize, report: &mut Report) -> Outcome<()> {
    let hot = keys(0, HOT.min(connections / 2), connections)?;
    for key in &hot {
        keep.token(key, TokenAsk::default()).await?;
    }
    // What importing left behind is written by then, and the processor's caches are warm.
    tokio::time::sleep(SETTLE).await;
    read(keep, &hot, ROUNDS / 10).await?;
    let (p50, p99, mean) = read(keep, &hot, ROUNDS).await?;
    let name = format!("`token` in process, hot, {connections} stored, {} hot", hot.len());
    report.add(format!("{name}, p50"), Unit::Nanoseconds, p50, Target::AtMost(400.0));
    report.add("- p99", Unit::Nanoseconds, p99, Target::None);
    report.add("- mean of a round, without a clock around each call", Unit::Nanoseconds, mean, Target::None);

    import_due(keep, running).await?;
    let mut events = keep.subscribe();
    let started = Instant::now();
    let (p50, p99, mean) = read(keep, &hot, ROUNDS).await?;
    let spent = started.elapsed();
    let refreshed = count(&mut events)?;
    println!("  {refreshed} refreshes in the {:.2} s of reading", spent.as_secs_f64());
    report.add("- p50 beside running refreshes", Unit::Nanoseconds, p50, Target::AtMost(400.0));
    report.add("- p99 beside running refreshes", Unit::Nanoseconds, p99, Target::None);
    report.add("- mean of a round beside running refreshes", Unit::Nanoseconds, mean, Target::None);
    let mut refreshed = refreshed;
    while refreshed < running.refresh_tokens.len() as u64 && started.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        refreshed += count(&mut events)?;
    }

    let mut times = Times::default();
    for key in keys(hot.len(), COLD.min(connections / 2), connections)? {
        let started = Instant::now();
        keep.token(&key, TokenAsk::default()).await?;
        times.push(started.elapsed());
    }
    let (p50, p99) = times.p50_p99();
    report.add("`token` in process, cold, p50", Unit::Microseconds, p50 / 1e3, Target::AtMost(100.0));
    report.add("- p99", Unit::Microseconds, p99 / 1e3, Target::None);
    Ok(())
}

/// Keys far from each other.
fn keys(first: usize, count: usize, connections: usize) -> Outcome<Vec<ConnectionKey>> {
    (first..first + count).map(|number| folder::key(number * STRIDE % connections)).collect()
}

/// The nanoseconds of one call, p50 and p99, and the median of the means of whole rounds.
async fn read(keep: &TokenKeep, hot: &[ConnectionKey], rounds: usize) -> Outcome<(f64, f64, f64)> {
    let (mut times, mut means) = (Times::default(), Vec::new());
    for _ in 0..rounds {
        for key in hot {
            let started = Instant::now();
            let handed = keep.token(key, TokenAsk::default()).await;
            times.push(started.elapsed());
            handed?;
        }
        let started = Instant::now();
        for key in hot {
            std::hint::black_box(keep.token(key, TokenAsk::default()).await?);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        means.push(started.elapsed().as_nanos() as f64 / hot.len() as f64);
    }
    let (p50, p99) = times.p50_p99();
    Ok((p50, p99, median(means)))
}

/// Imports a connection for each grant of the provider, all due at once.
async fn import_due(keep: &TokenKeep, running: &Running) -> Outcome<()> {
    let imports: Outcome<Vec<Import>> = (0..)
        .zip(&running.refresh_tokens)
        .map(|(number, token): (usize, _)| {
            let token = format!(r#"{{"access_token":"a","refresh_token":"{token}","expires_at":1}}"#);
            Ok(Import {
                key: ConnectionKey::in_default(format!("busy{number}"))?,
                provider: provider::NAME.to_owned(),
                token: Secret::new(token),
                labels: None,
            })
        })
        .collect();
    keep.import_many(imports?).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

/// How many events have come; the only ones here are refreshes.
fn count(events: &mut tokio::sync::broadcast::Receiver<std::sync::Arc<tokenkeep::store::Event>>) -> Outcome<u64> {
    let mut seen = 0;
    loop {
        match events.try_recv() {
            Ok(_) => seen += 1,
            Err(TryRecvError::Lagged(missed)) => seen += missed,
            Err(TryRecvError::Empty) => return Ok(seen),
            Err(error) => return Err(error.into()),
        }
    }
}
