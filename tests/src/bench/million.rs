//! A million connections in one file, and ten thousand beside them.

use super::folder::{self, Folder};
use super::processes::Daemon;
use super::provider::{self, provider_at};
use super::report::{Report, Target, Times, Unit, per_second};
use super::{Options, Outcome, machine, reads};
use crate::http::Request;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokenkeep::clock::{Clock, SystemClock};
use tokenkeep::keys;
use tokenkeep::seal::Sealer;
use tokenkeep::store::sqlite::SqliteStore;
use tokenkeep::store::{CLAIM_BATCH_MAX, Quota, Store};
use tokenkeep::{Config, Import, Provider, TokenKeep};
use tokenkeep_core::Secret;
use tokenkeep_core::model::Holder;
use tokenkeep_core::provider::Rotation;
use tokio::runtime::Runtime;

/// The provider whose connections are not due for a long time.
pub const QUIET: &str = "quiet";
/// How many imports make one batch.
const BATCH: usize = 5_000;
/// How long the imported tokens live: their refreshes are spread over it, so that hardly one comes up here.
const LIFE: Duration = Duration::from_secs(9 * 365 * 86_400);
/// How many pages are timed.
const LISTS: usize = 200;
/// A step that visits all connections, in an order that no cache foresees.
const STRIDE: usize = 499_979;
/// How many claims are timed.
const CLAIMS: usize = 20;

/// Measures the large store, and the small one beside it.
///
/// # Errors
/// Something did not work.
pub fn measure(runtime: &Runtime, options: &Options, report: &mut Report) -> Outcome<()> {
    let small = measure_size(runtime, options, options.small, None)?;
    let large = measure_size(runtime, options, options.large, Some(report))?;
    if !options.wants("million") {
        return Ok(());
    }
    let sizes = format!("{} connections", options.large);
    let rows = [
        ("import_many", Unit::PerSecond, small.imports, large.imports, Target::None),
        ("idle daemon, resident", Unit::Mebibytes, small.memory, large.memory, Target::AtMost(150.0)),
        ("daemon ready after", Unit::Seconds, small.ready, large.ready, Target::AtMost(2.0)),
        ("claim of 256 due ones", Unit::Milliseconds, small.claim, large.claim, Target::AtMost(20.0)),
        ("list of 100 with a filter, p99", Unit::Milliseconds, small.list, large.list, Target::AtMost(20.0)),
    ];
    for (what, unit, small, large, target) in rows {
        report.add(format!("{what}, {sizes}"), unit, large, target);
        report.add(format!("- with {} beside it", options.small), unit, small, Target::None);
        report.add("- large to small", Unit::Times, large / small, Target::None);
    }
    Ok(())
}

/// What one size of store does.
struct Figures {
    imports: f64,
    memory: f64,
    ready: f64,
    list: f64,
    claim: f64,
}

fn measure_size(
    runtime: &Runtime,
    options: &Options,
    connections: usize,
    report: Option<&mut Report>,
) -> Outcome<Figures> {
    println!("\n{connections} connections");
    let folder = Folder::empty(&options.folder)?;
    let running = provider::Running::start(Rotation::Persistent, options.refreshes)?;
    let mut config = config(&folder)?;
    config.in_flight_max = options.in_flight;
    config.providers.push(running.provider.clone());
    let spent = runtime.block_on(async {
        let keep = TokenKeep::open(config).await?;
        let spent = import(&keep, connections).await?;
        if let Some(report) = report
            && options.wants("reads")
        {
            reads::measure(&keep, &running, connections, report).await?;
        }
        keep.shutdown().await;
        Outcome::Ok(spent)
    })?;
    drop(running);
    println!("  files: {} MiB", machine::files_mib(folder.path())?);
    let daemon = Daemon::start(folder.path())?;
    let figures = Figures {
        imports: per_second(connections, spent),
        memory: daemon.idle_memory()?,
        ready: daemon.ready_after.as_secs_f64(),
        list: list(&folder, connections)?,
        claim: 0.0,
    };
    daemon.stop()?;
    Ok(Figures { claim: runtime.block_on(claim(&folder))?, ..figures })
}

/// A configuration with the quiet provider.
///
/// # Errors
/// None: the URL is good.
pub fn config(folder: &Folder) -> Outcome<Config> {
    let mut config = Config::new(folder.path());
    let quiet = Provider { name: QUIET.to_owned(), ..provider_at("http://127.0.0.1:9/token", Rotation::Persistent)? };
    config.providers.push(quiet);
    Ok(config)
}

/// Imports quiet connections, with a token set of 1 KB each; how long that took.
///
/// # Errors
/// One was refused.
pub async fn import(keep: &TokenKeep, connections: usize) -> Outcome<Duration> {
    let expires_at = (keep.wall(keep.now()) + LIFE).as_millis() / 1_000;
    let mut spent = Duration::ZERO;
    for first in (0..connections).step_by(BATCH) {
        let numbers = first..connections.min(first + BATCH);
        let imports: Outcome<Vec<Import>> = numbers
            .map(|number| {
                let token = format!(
                    r#"{{"access_token":"{number:0>800}","refresh_token":"r{number:0>199}","expires_at":{expires_at}}}"#
                );
                Ok(Import {
                    key: folder::key(number)?,
                    provider: QUIET.to_owned(),
                    token: Secret::new(token),
                    labels: None,
                })
            })
            .collect();
        let imports = imports?;
        let started = Instant::now();
        let imported = keep.import_many(imports).await;
        spent += started.elapsed();
        imported.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    Ok(spent)
}

/// The p99 of pages of a filtered listing over the API, from all over the store, in milliseconds.
fn list(folder: &Folder, connections: usize) -> Outcome<f64> {
    let socket = folder.path().join("tokenkeep.sock");
    let mut times = Times::default();
    for turn in 0..LISTS {
        let from = folder::key(turn * STRIDE % connections)?;
        let path = format!("/v1/connections?provider={QUIET}&status=fresh&limit=100&cursor={}", from.name());
        let started = Instant::now();
        let answer = Request::get(&path).at_socket(&socket)?;
        times.push(started.elapsed());
        if answer.status != 200 {
            return Err(format!("HTTP {}: {}", answer.status, answer.body).into());
        }
    }
    Ok(times.p50_p99().1 / 1e6)
}

/// The median of claims of as many as one claim takes, in milliseconds.
async fn claim(folder: &Folder) -> Outcome<f64> {
    let sealer = Arc::new(Sealer::of(&keys::read_file(&folder.path().join("master.key"))?, &[]));
    let store = SqliteStore::open(&folder.store(), sealer)?;
    let holder = Holder { boot: 1, process: 1, worker: 0, incarnation: 0 };
    let quota = Quota { provider: QUIET.to_owned(), limit: CLAIM_BATCH_MAX, recover_before: None };
    // By then all are due: a claim has the most to choose from.
    let then = SystemClock::new(None).now() + LIFE;
    let mut times = Times::default();
    let mut claimed = 0;
    for _ in 0..CLAIMS {
        let started = Instant::now();
        let work = store.claim_due(then, holder, std::slice::from_ref(&quota)).await?.work;
        if work.len() < CLAIM_BATCH_MAX {
            break;
        }
        times.push(started.elapsed());
        claimed += work.len();
    }
    store.close().await?;
    let (median, late) = times.p50_p99();
    println!("  {claimed} claimed; the slowest claim took {:.1} ms", late / 1e6);
    Ok(median / 1e6)
}
