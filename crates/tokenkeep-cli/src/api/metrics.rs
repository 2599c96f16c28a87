//! `/metrics`: what Prometheus scrapes.
//!
//! Counters are read from memory. What must be counted in the store is counted at most once in [`COUNTED_FOR`], by one
//! task however many scrape, from kept counts and indexes; a scrape waits for it no longer than [`WAIT_MAX`] and else
//! serves the counts that there are, with their time. Where a whole large fleet is in trouble a count takes a second:
//! then it is kept for longer, so that counting never takes more than a [`COUNTING_SHARE`]th of the time.

use super::Api;
use crate::config::live::Live;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokenkeep::store::{ListQuery, PAGE_MAX, ProviderSummary};
use tokenkeep::{Error, TokenKeep};
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::{Connection, Status};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long counts of the store are served at least before they are counted again.
pub const COUNTED_FOR: Duration = Duration::from_secs(2);
/// Counts are kept for so many times as long as counting them took.
pub const COUNTING_SHARE: u32 = 20;
/// How long a scrape waits for counts.
pub const WAIT_MAX: Duration = Duration::from_millis(250);
/// The most connections that have series of their own, the first by namespace and name.
pub const CONNECTION_SERIES_MAX: usize = PAGE_MAX;
/// The most providers that have series of their own in what the store counts, the first by name.
pub const PROVIDER_SERIES_MAX: usize = 200;
/// The `provider` of the counts of all further ones.
const FURTHER: &str = "(further)";
/// The setting that gives connections series of their own.
const PER_CONNECTION: &str = "metrics.per_connection";

/// The metrics of one daemon.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    counts: Arc<Counts>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What was counted in the store last, and who counts.
struct Counts {
    kept: watch::Sender<Option<Arc<Fleet>>>,
    turn: Mutex<Turn>,
}

/// Whose turn it is to count.
#[derive(Default)]
struct Turn {
    is_taken: bool,
    /// Until then the counts count as new.
    new_until: Option<Instant>,
}

impl Counts {
    fn turn(&self) -> std::sync::MutexGuard<'_, Turn> {
        // Each change is one assignment: it is whole whatever panicked.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to count, where nobody has it and the counts are no longer new.
    fn begin(self: &Arc<Self>) -> Option<Counting> {
        let mut turn = self.turn();
        let is_new = turn.new_until.is_some_and(|until| Instant::now() < until);
        if turn.is_taken || is_new {
            return None;
        }
        turn.is_taken = true;
        Some(Counting { counts: Arc::clone(self), since: Instant::now() })
    }
}

/// The right to count; it ends however its task ends.
struct Counting {
    counts: Arc<Counts>,
    since: Instant,
}

impl Drop for Counting {
    fn drop(&mut self) {
        let kept_for = COUNTED_FOR.max(self.since.elapsed() * COUNTING_SHARE);
        *self.counts.turn() = Turn { is_taken: false, new_until: Some(Instant::now() + kept_for) };
    }
}

/// What was counted in the store.
#[derive(Debug)]
struct Fleet {
    /// Wall time.
    at: Timestamp,
    providers: BTreeMap<String, ProviderSummary>,
    /// `None`: they have no series.
    connections: Option<Listed>,
}

#[derive(Debug)]
struct Listed {
    connections: Vec<Connection>,
    omitted: u64,
}

impl Metrics {
    /// The metrics of this engine.
    #[must_use]
    pub fn of(keep: &TokenKeep) -> Self {
        let counts = Arc::new(Counts { kept: watch::Sender::new(None), turn: Mutex::default() });
        let mut registry = Registry::with_prefix("tokenkeep");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", build);
        keep.register_metrics(&mut registry);
        registry.register_collector(Box::new(Now { keep: keep.clone(), counts: Arc::clone(&counts) }));
        Self { registry: Arc::new(registry), counts }
    }

    /// Has the store counted again where that is due, and waits a moment for it.
    async fn freshen(&self, api: &Api) {
        let mut kept = self.counts.kept.subscribe();
        if let Some(turn) = self.counts.begin() {
            let (keep, config) = (api.keep.clone(), Arc::clone(&api.config));
            tokio::spawn(async move {
                match count(&keep, &config).await {
                    Ok(fleet) => drop(turn.counts.kept.send_replace(Some(Arc::new(fleet)))),
                    Err(error) => tracing::debug!(%error, "the connections could not be counted"),
                }
                drop(turn);
            });
        }
        let is_taken = self.counts.turn().is_taken;
        if is_taken {
            // Too late is not an error: the counts of before are served.
            let _ = tokio::time::timeout(WAIT_MAX, kept.changed()).await;
        }
    }

    fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Everything, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "health", security(("api_key" = ["status"])),
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")))]
pub async fn get(State(api): State<Api>) -> Response {
    api.metrics.freshen(&api).await;
    match api.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text).into_response(),
        Err(error) => super::problem::Problem::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("the metrics cannot be written: {error}"),
        )
        .into_response(),
    }
}

async fn count(keep: &TokenKeep, config: &Live) -> Result<Fleet, Error> {
    let mut providers = keep.summary_by_provider().await?;
    for configured in keep.provider_names() {
        providers.entry(configured).or_default();
    }
    let connections = if config.is_true(PER_CONNECTION) { Some(listed(keep, &providers).await?) } else { None };
    Ok(Fleet { at: keep.wall(keep.now()), providers: bounded(providers, PROVIDER_SERIES_MAX), connections })
}

async fn listed(keep: &TokenKeep, providers: &BTreeMap<String, ProviderSummary>) -> Result<Listed, Error> {
    let query = ListQuery { limit: CONNECTION_SERIES_MAX, ..ListQuery::default() };
    let connections = keep.list(&query).await?;
    let all: u64 = providers.values().flat_map(|summary| summary.by_status.values()).sum();
    Ok(Listed { omitted: all.saturating_sub(connections.len() as u64), connections })
}

/// The first `most` by name, and one that has the sum of all further ones.
fn bounded(mut providers: BTreeMap<String, ProviderSummary>, most: usize) -> BTreeMap<String, ProviderSummary> {
    let Some(first_further) = providers.keys().nth(most).cloned() else { return providers };
    let mut sum = ProviderSummary::default();
    for further in providers.split_off(&first_further).into_values() {
        for (status, count) in further.by_status {
            *sum.by_status.entry(status).or_default() += count;
        }
        sum.earliest_expiry = sum.earliest_expiry.into_iter().chain(further.earliest_expiry).min();
    }
    providers.insert(FURTHER.to_owned(), sum);
    providers
}

/// What no counter says, read at each scrape.
struct Now {
    keep: TokenKeep,
    counts: Arc<Counts>,
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Now").finish_non_exhaustive()
    }
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Gauges(&mut encoder);
        let gauges = self.keep.gauges();
        to.one("ready", READY, None, f64::from(u8::from(self.keep.unready().is_none())))?;
        to.one("scheduler_lag", LAG, Some(&Unit::Seconds), gauges.lag.as_secs_f64())?;
        to.one("refreshes_in_flight", "Refresh attempts in flight.", None, float(gauges.in_flight))?;
        to.one("journal_slots", "Attempts that the journal has room for.", None, float(gauges.journal_slots))?;
        to.one("journal_slots_in_use", "Journal slots that attempts hold.", None, float(gauges.journal_slots_in_use))?;
        let fleet = self.counts.kept.borrow().clone();
        fleet.map_or(Ok(()), |fleet| self.fleet(&mut to, &fleet))
    }
}

const READY: &str = "1 while the store can be written, the journal too, and the scheduler moves.";
const LAG: &str = "How long the longest overdue refresh that may start has been waiting, or the scheduler itself.";
const COUNTED: &str = "When the connections were counted.";
const EARLIEST: &str = "When the first access token ends that has not ended yet.";

impl Now {
    fn fleet(&self, to: &mut Gauges<'_, '_>, fleet: &Fleet) -> fmt::Result {
        to.one("counted_timestamp", COUNTED, Some(&Unit::Seconds), seconds(fleet.at))?;
        let counts = fleet.providers.iter().flat_map(|(provider, summary)| {
            let count = |status| summary.by_status.get(&status).copied().unwrap_or(0);
            Status::ALL
                .map(|status| ([("provider", provider.as_str()), ("status", status.as_str())], float(count(status))))
        });
        to.family("connections", "Connections by provider and status.", None, counts)?;
        let ends = fleet.providers.iter().filter_map(|(provider, summary)| {
            Some(([("provider", provider.as_str())], self.wall_seconds(summary.earliest_expiry?)))
        });
        to.family("earliest_expiration_timestamp", EARLIEST, Some(&Unit::Seconds), ends)?;
        fleet.connections.as_ref().map_or(Ok(()), |listed| self.each(to, listed))
    }

    fn each(&self, to: &mut Gauges<'_, '_>, listed: &Listed) -> fmt::Result {
        let now = self.keep.now();
        let help = "Connections that have no series of their own because there are too many.";
        to.one("connection_series_omitted", help, None, float(listed.omitted))?;
        let of = |value: fn(&Self, &Connection, Timestamp) -> Option<f64>| {
            listed
                .connections
                .iter()
                .filter_map(move |connection| Some((named(connection), value(self, connection, now)?)))
        };
        let expiration = of(|this, connection, _| Some(this.wall_seconds(connection.times.expires_at?)));
        let help = "When the access token of a connection ends.";
        to.family("connection_expiration_timestamp", help, Some(&Unit::Seconds), expiration)?;
        let renewal = of(|this, connection, _| Some(this.wall_seconds(connection.due_at()?)));
        let help = "When the next refresh of a connection is due.";
        to.family("connection_renewal_timestamp", help, Some(&Unit::Seconds), renewal)?;
        let ready = of(|_, connection, now| Some(f64::from(u8::from(has_token(connection, now)))));
        to.family("connection_ready", "1 while a connection has an access token that has not ended.", None, ready)
    }

    fn wall_seconds(&self, steady: Timestamp) -> f64 {
        seconds(self.keep.wall(steady))
    }
}

fn has_token(connection: &Connection, now: Timestamp) -> bool {
    connection.generation.0 > 0 && connection.times.expires_at.is_none_or(|end| end > now)
}

fn named(connection: &Connection) -> [(&str, &str); 3] {
    let key = &connection.key;
    [("namespace", key.namespace()), ("connection", key.name()), ("provider", &connection.provider)]
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 milliseconds")]
fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn float(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

/// Writes gauges.
struct Gauges<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Gauges<'_, '_> {
    fn one(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?)
    }

    /// Nothing is written of a family without members.
    fn family<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        members: impl Iterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut members = members.peekable();
        if members.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in members {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::oauth::SignIns;
    use crate::api::stream::Streams;
    use tokenkeep::{Config, Import, Provider};
    use tokenkeep_core::oauth::request::Client;
    use tokenkeep_core::provider::Rules;
    use tokenkeep_core::{ConnectionKey, Secret};

    #[test]
    fn further_providers_are_counted_together() {
        let summary = |count, end: i64| ProviderSummary {
            by_status: [(Status::Fresh, count)].into(),
            earliest_expiry: Some(Timestamp::from_millis(end)),
        };
        let all: BTreeMap<_, _> = [("a", 1, 10), ("b", 2, 40), ("c", 4, 30), ("d", 8, 20)]
            .map(|(n, c, e)| (n.to_owned(), summary(c, e)))
            .into();
        assert_eq!(bounded(all.clone(), 4), all);
        let two = bounded(all.clone(), 2);
        assert_eq!(two.keys().collect::<Vec<_>>(), [FURTHER, "a", "b"]);
        assert_eq!((&two["a"], &two[FURTHER]), (&all["a"], &summary(12, 20)));
    }

    /// An engine with one connection that needs nothing for an hour.
    async fn api() -> (Api, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let client = Client { id: "id".to_owned(), secret: None };
        let provider = Provider::new("p", "http://127.0.0.1:1/token".parse().unwrap(), client, Rules::default());
        let keep = TokenKeep::open(Config { providers: vec![provider], ..Config::new(folder.path()) }).await.unwrap();
        let token = r#"{"access_token":"a","refresh_token":"r","expires_in":86400,"expires_at":9999999999}"#;
        let key = ConnectionKey::in_default("a").unwrap();
        keep.import(Import { key, provider: "p".to_owned(), token: Secret::new(token), labels: None }).await.unwrap();
        let (_, stopped) = watch::channel(false);
        let api = Api::new(keep, Streams::new(stopped), Arc::default(), SignIns::default());
        (api, folder)
    }

    async fn scraped(api: &Api) -> String {
        let body = get(State(api.clone())).await.into_body();
        String::from_utf8(axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap()
    }

    const FRESH: &str = r#"tokenkeep_connections{provider="p",status="fresh"} 1"#;

    #[tokio::test]
    async fn a_scrape_waits_for_counts_no_longer_than_it_says() {
        let (api, _folder) = api().await;
        tokio::time::pause();
        let somebody = api.metrics.counts.begin().unwrap();
        let started = Instant::now();
        let text = scraped(&api).await;
        let (waited, timer_ms) = (started.elapsed(), Duration::from_millis(2));
        assert!((WAIT_MAX..=WAIT_MAX + timer_ms).contains(&waited), "{waited:?}");
        assert!(text.contains("tokenkeep_ready 1") && !text.contains("tokenkeep_connections"), "{text}");
        tokio::time::advance(COUNTED_FOR).await;
        drop(somebody);
        tokio::time::advance(COUNTED_FOR * 2).await;
        assert!(api.metrics.counts.begin().is_none(), "what takes long is done seldom");
        tokio::time::advance((COUNTED_FOR + WAIT_MAX) * COUNTING_SHARE).await;
        assert!(api.metrics.counts.begin().is_some());
        api.keep.shutdown().await;
    }

    #[tokio::test]
    async fn counts_are_kept_for_a_moment_and_counted_by_one() {
        let (api, _folder) = api().await;
        assert!(scraped(&api).await.contains(FRESH));
        assert!(api.metrics.counts.begin().is_none(), "they are new");
        api.keep.pause(&ConnectionKey::in_default("a").unwrap()).await.unwrap();
        assert!(scraped(&api).await.contains(FRESH), "as they were a moment ago");
        tokio::time::pause();
        tokio::time::advance(COUNTED_FOR).await;
        tokio::time::resume();
        let (one, other) = tokio::join!(scraped(&api), scraped(&api));
        for text in [one, other] {
            assert!(text.contains(r#"tokenkeep_connections{provider="p",status="paused"} 1"#), "{text}");
        }
        api.keep.shutdown().await;
    }
}
