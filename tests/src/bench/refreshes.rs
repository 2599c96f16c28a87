//! Durable refreshes a second through the whole path, beside the bare pipeline, and where the rest goes.

use super::folder::Folder;
use super::provider::Running;
use super::report::{Report, Target, Unit, median, per_second};
use super::timed::{STAGES, Stopwatch, Timed};
use super::{Options, Outcome, bare, machine};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokenkeep::clock::{Clock, SeededDice, SystemClock};
use tokenkeep::endpoint::Endpoint;
use tokenkeep::endpoint::http::{HttpEndpoint, Options as HttpOptions};
use tokenkeep::engine::{Engine, Options as EngineOptions, Parts};
use tokenkeep::journal::Journal;
use tokenkeep::journal::file::FileJournal;
use tokenkeep::keys;
use tokenkeep::seal::Sealer;
use tokenkeep::store::sqlite::SqliteStore;
use tokenkeep::store::{EventKind, ListQuery, PAGE_MAX, Store};
use tokenkeep::{Config, TokenKeep};
use tokenkeep_core::provider::Rotation;
use tokenkeep_core::schedule::Policy;
use tokio::sync::broadcast::error::TryRecvError;

/// How often the events are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longer takes nothing that works.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Measures both kinds of provider.
///
/// # Errors
/// A refresh did not work.
pub async fn measure(options: &Options, report: &mut Report) -> Outcome<()> {
    let strict = "strict provider, a fresh connection each";
    measure_class(options, report, Rotation::Strict, (strict, 2_500.0)).await?;
    let persistent = "persistent provider, pooled connections";
    measure_class(options, report, Rotation::Persistent, (persistent, 8_000.0)).await
}

async fn measure_class(
    options: &Options,
    report: &mut Report,
    class: Rotation,
    (name, target): (&str, f64),
) -> Outcome<()> {
    println!("\n{name}: {} connections, all due", options.refreshes);
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    let mut used = Used::default();
    // One of each after the other, so that whatever else the machine does meets both.
    for _ in 0..options.repetitions {
        let running = Running::start(class, options.refreshes)?;
        let folder = Folder::all_due(&options.folder, &running.refresh_tokens, options.in_flight).await?;
        let spent = whole_path(options, &running, &folder, &mut used).await?;
        ours.push(per_second(options.refreshes, spent));

        let running = Running::start(class, options.refreshes)?;
        let spent = bare::refresh_all(&options.folder, &running, options.in_flight).await?;
        bares.push(per_second(options.refreshes, spent));
        println!("  whole path {:.0}/s, bare {:.0}/s", ours[ours.len() - 1], bares[bares.len() - 1]);
    }
    stages(options, class).await?;
    let processor = used.print(options);
    let (ours, bare) = (median(ours), median(bares));
    report.add(format!("refreshes, {name}"), Unit::PerSecond, ours, Target::AtLeast(target));
    report.add("- bare pipeline beside it", Unit::PerSecond, bare, Target::None);
    report.add("- our share of the bare pipeline", Unit::Times, ours / bare, Target::None);
    report.add("- processor time of one, without the provider's", Unit::Microseconds, processor, Target::None);
    Ok(())
}

/// Refreshes a second through the whole path, once.
///
/// # Errors
/// A refresh did not work.
pub(super) async fn once(options: &Options, class: Rotation) -> Outcome<f64> {
    let running = Running::start(class, options.refreshes)?;
    let folder = Folder::all_due(&options.folder, &running.refresh_tokens, options.in_flight).await?;
    let spent = whole_path(options, &running, &folder, &mut Used::default()).await?;
    Ok(per_second(options.refreshes, spent))
}

/// From the opening of the state folder until the last connection is refreshed.
async fn whole_path(options: &Options, running: &Running, folder: &Folder, used: &mut Used) -> Outcome<Duration> {
    let mut config = Config::new(folder.path());
    config.providers.push(running.provider.clone());
    config.in_flight_max = options.in_flight;
    let before = Used::begin(running.process())?;
    let started = Instant::now();
    let keep = TokenKeep::open(config).await?;
    all_refreshed(&keep, options.refreshes).await?;
    let spent = started.elapsed();
    used.end(&before, running.process())?;
    check(&keep).await?;
    keep.shutdown().await;
    Ok(spent)
}

/// Waits for so many refreshes. To be called at once: the first one takes milliseconds.
async fn all_refreshed(keep: &TokenKeep, wanted: usize) -> Outcome<()> {
    let mut events = keep.subscribe();
    let (mut seen, started) = (0, Instant::now());
    while seen < wanted as u64 {
        match events.try_recv() {
            Ok(event) => seen += u64::from(event.event.kind == EventKind::Refreshed),
            // Nothing else happens here.
            Err(TryRecvError::Lagged(missed)) => seen += missed,
            Err(TryRecvError::Empty) if started.elapsed() < RUN_MAX => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => return Err(format!("{seen} of {wanted} refreshed: {error}").into()),
        }
    }
    Ok(())
}

/// Every connection has its second token set.
async fn check(keep: &TokenKeep) -> Outcome<()> {
    let mut after = None;
    loop {
        let query = ListQuery { after, limit: PAGE_MAX, ..ListQuery::default() };
        let page = keep.list(&query).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        if let Some(odd) = page.iter().find(|connection| connection.generation.0 != 2) {
            return Err(format!("{} has generation {}: {:?}", odd.key, odd.generation.0, odd.last_error).into());
        }
    }
}

/// The same once more, with a stopwatch around each part.
async fn stages(options: &Options, class: Rotation) -> Outcome<()> {
    let running = Running::start(class, options.refreshes)?;
    let folder = Folder::all_due(&options.folder, &running.refresh_tokens, options.in_flight).await?;
    let watch = Arc::new(Stopwatch::default());
    let sealer = Arc::new(Sealer::of(&keys::read_file(&folder.path().join("master.key"))?, &[]));
    let store = Arc::new(SqliteStore::open(&folder.store(), Arc::clone(&sealer))?);
    let journal = FileJournal::open(&folder.journal(), options.in_flight, sealer, Some(store.store_id()))?;
    let clock = SystemClock::new(None);
    let boot = clock.boot_id();
    let parts = Parts {
        store: Arc::new(Timed { inner: Arc::clone(&store) as Arc<dyn Store>, watch: Arc::clone(&watch) }),
        journal: Arc::new(Timed { inner: Arc::new(journal) as Arc<dyn Journal>, watch: Arc::clone(&watch) }),
        endpoint: Arc::new(Timed {
            inner: Arc::new(HttpEndpoint::new(HttpOptions::default())) as Arc<dyn Endpoint>,
            watch: Arc::clone(&watch),
        }),
        clock: Arc::new(clock) as Arc<dyn Clock>,
        dice: Arc::new(SeededDice::new(1)),
    };
    let engine_options = EngineOptions {
        policy: Policy::default(),
        providers: vec![running.provider.clone()],
        in_flight_max: options.in_flight as usize,
        workers: 1,
        boot,
        process: 1,
    };
    let keep = TokenKeep::on_engine(Engine::new(parts, engine_options)).await?;
    all_refreshed(&keep, options.refreshes).await?;
    keep.shutdown().await;
    let transactions = store.transactions();
    store.close().await?;
    let (each, whole) = watch.microseconds(options.refreshes);
    let rest = whole - each.iter().take(7).sum::<f64>();
    println!("  one refresh waits for ({} claims, {transactions} transactions):", watch.claims());
    for (name, spent) in STAGES.into_iter().chain(["everything else"]).zip(each.iter().copied().chain([rest])) {
        println!("    {name:<16} {spent:>9.1} µs {:>5.1} %", 100.0 * spent / whole);
    }
    Ok(())
}

/// The processor time that our runs have used.
#[derive(Default)]
struct Used {
    threads: BTreeMap<String, Duration>,
    provider: Duration,
}

type Before = (BTreeMap<String, Duration>, Duration);

impl Used {
    fn begin(provider: u32) -> Outcome<Before> {
        Ok((machine::processor_time(std::process::id())?, machine::processor_time(provider)?.values().sum()))
    }

    fn end(&mut self, (threads, provider): &Before, provider_process: u32) -> Outcome<()> {
        for (name, after) in machine::processor_time(std::process::id())? {
            let before = threads.get(&name).copied().unwrap_or_default();
            *self.threads.entry(name).or_default() += after.saturating_sub(before);
        }
        let after: Duration = machine::processor_time(provider_process)?.values().sum();
        self.provider += after.saturating_sub(*provider);
        Ok(())
    }

    /// Says what it went into; the microseconds of one refresh on our side.
    fn print(&self, options: &Options) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let runs = (options.repetitions * options.refreshes) as f64;
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / runs;
        println!("  processor time of one refresh: provider {:.1} µs; ours by thread:", each(self.provider));
        for (name, &spent) in self.threads.iter().filter(|(_, spent)| **spent > Duration::ZERO) {
            println!("    {name:<16} {:>9.1} µs", each(spent));
        }
        each(self.threads.values().sum())
    }
}
