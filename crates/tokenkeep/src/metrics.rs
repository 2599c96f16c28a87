//! What is counted while an instance works, for a monitoring system that scrapes it.
//!
//! The counters belong to the instance; nothing here is global. Whoever serves them brings a registry and has it filled
//! by [`TokenKeep::register_metrics`](crate::TokenKeep::register_metrics). Labels are names of configured providers and
//! codes of the failure catalogue, so the number of series is bounded by the configuration.

use crate::error::Error;
use crate::latency::{Calls, Latencies};
use crate::tokens::Handed;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokenkeep_core::FailureCode;
use tokenkeep_core::model::Status;

/// The target of the spans that traces are made of: `refresh` for each attempt, with its `provider`, `connection`,
/// `generation` and `outcome`. Their level is `debug`, so that they cost nothing where nobody takes them.
pub const SPANS: &str = "tokenkeep::spans";

/// The `outcome` of a refresh that brought a token set. Every other outcome is the code of its failure.
pub const REFRESHED: &str = "succeeded";

const DURATION_BUCKETS_S: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const LATENESS_BUCKETS_S: [f64; 10] = [0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0];
const SYNC_BUCKETS_S: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfProvider {
    provider: String,
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// How refreshes at one provider ended since the start.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Refreshes {
    /// Those that brought a token set.
    pub succeeded: u64,
    /// Those that brought none, by the code of their failure.
    pub failures: BTreeMap<&'static str, u64>,
    /// Their requests to the token endpoint.
    pub calls: Calls,
}

/// What the engine and the read path count.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    refreshes: Family<OfProvider, Counter>,
    durations: Histogram,
    lateness: Histogram,
    ended: Arc<Mutex<BTreeMap<String, BTreeMap<&'static str, u64>>>>,
    /// Requests to token endpoints.
    pub(crate) endpoints: Arc<Latencies>,
    pub(crate) token_requests: TokenRequests,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            refreshes: Family::default(),
            durations: Histogram::new(DURATION_BUCKETS_S),
            lateness: Histogram::new(LATENESS_BUCKETS_S),
            ended: Arc::default(),
            endpoints: Arc::default(),
            token_requests: TokenRequests::default(),
        }
    }
}

impl Metrics {
    /// An attempt at this provider brought a token set.
    pub(crate) fn refreshed(&self, provider: &str) {
        self.count(provider, REFRESHED);
    }

    /// An attempt at this provider brought none.
    pub(crate) fn failed(&self, provider: &str, code: FailureCode) {
        self.count(provider, code.as_str());
    }

    /// Attempts at this provider are counted from now on: from zero, so that the first one shows.
    pub(crate) fn know(&self, provider: &str) {
        drop(self.refreshes.get_or_create(&OfProvider { provider: provider.to_owned(), outcome: REFRESHED }));
    }

    fn count(&self, provider: &str, outcome: &'static str) {
        // Of the attempt, whose task this is.
        tracing::Span::current().record("outcome", outcome);
        self.refreshes.get_or_create(&OfProvider { provider: provider.to_owned(), outcome }).inc();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended.entry(provider.to_owned()).or_default().entry(outcome).or_default() += 1;
    }

    /// How refreshes at each provider ended, of those that had any.
    pub(crate) fn refreshes(&self) -> BTreeMap<String, Refreshes> {
        let mut calls = self.endpoints.all();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |(provider, mut failures): (String, BTreeMap<&'static str, u64>)| {
            let succeeded = failures.remove(REFRESHED).unwrap_or(0);
            let calls = calls.remove(&provider).unwrap_or_default();
            (provider, Refreshes { succeeded, failures, calls })
        };
        ended.into_iter().map(of).collect()
    }

    /// An attempt took this long from its claim to its end.
    pub(crate) fn took(&self, spent: Duration) {
        self.durations.observe(spent.as_secs_f64());
    }

    /// An attempt was claimed so long after it had been due.
    pub(crate) fn claimed_late(&self, by: Duration) {
        self.lateness.observe(by.as_secs_f64());
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Refresh attempts by provider and outcome: succeeded, or the code of the failure";
        registry.register("refresh", help, self.refreshes.clone());
        let help = "How long an attempt takes from its claim to its commit";
        registry.register_with_unit("refresh_duration", help, Unit::Seconds, self.durations.clone());
        let help = "How long after its due time an attempt was claimed";
        registry.register_with_unit("refresh_lateness", help, Unit::Seconds, self.lateness.clone());
        let help = "Requests for an access token by outcome";
        registry.register("token_requests", help, self.token_requests.outcomes.clone());
    }
}

/// Requests for a token by what became of them. Each is one atomic increment.
#[derive(Clone, Debug)]
pub(crate) struct TokenRequests {
    outcomes: Family<Outcome, Counter>,
    served: Counter,
    stale: Counter,
    needs_reauth: Counter,
    unavailable: Counter,
    not_found: Counter,
    failed: Counter,
}

impl Default for TokenRequests {
    fn default() -> Self {
        let outcomes = Family::<Outcome, Counter>::default();
        let of = |outcome| outcomes.get_or_create_owned(&Outcome { outcome });
        Self {
            served: of("served"),
            stale: of("stale"),
            needs_reauth: of("needs_reauth"),
            unavailable: of("unavailable"),
            not_found: of("not_found"),
            failed: of("failed"),
            outcomes,
        }
    }
}

impl TokenRequests {
    /// A token from the cache that lives as long as was asked for.
    pub(crate) fn served(&self) {
        self.served.inc();
    }

    /// What came of a request that the cache alone could not serve.
    pub(crate) fn ended(&self, result: &Result<Handed, Error>) {
        let counter = match result {
            Ok(handed) if handed.stale => &self.stale,
            Ok(_) => &self.served,
            Err(Error::NoToken { status: Status::NeedsReauth, .. }) => &self.needs_reauth,
            Err(Error::NoToken { .. }) => &self.unavailable,
            Err(Error::NotFound(_)) => &self.not_found,
            Err(_) => &self.failed,
        };
        counter.inc();
    }
}

/// What a journal counts.
#[derive(Clone, Debug)]
pub struct JournalMetrics {
    /// Writes handed to the operating system.
    pub(crate) writes: Counter,
    /// How long each sync took.
    pub(crate) syncs: Histogram,
    /// Writes and syncs that failed; after the first, the journal stays failed.
    pub(crate) failures: Counter,
}

impl Default for JournalMetrics {
    fn default() -> Self {
        Self { writes: Counter::default(), syncs: Histogram::new(SYNC_BUCKETS_S), failures: Counter::default() }
    }
}

impl JournalMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("journal_writes", "Writes to the journal", self.writes.clone());
        let help = "How long a sync of the journal takes, which makes answers durable";
        registry.register_with_unit("journal_sync_duration", help, Unit::Seconds, self.syncs.clone());
        let help = "Writes and syncs of the journal that failed; after the first it stays failed until a restart";
        registry.register("journal_failures", help, self.failures.clone());
    }
}

/// How an instance stands now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gauges {
    /// How far the scheduler is behind: how long the longest overdue refresh that may start has been waiting, or how
    /// long ago a worker should have looked at the store.
    pub lag: Duration,
    /// Attempts in flight.
    pub in_flight: usize,
    /// Places of the journal that attempts hold.
    pub journal_slots_in_use: usize,
    /// Places of the journal.
    pub journal_slots: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::prometheus_text::encode;

    #[test]
    fn what_is_counted_is_what_is_shown() {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("tokenkeep");
        metrics.register(&mut registry);
        metrics.refreshed("jira");
        metrics.failed("jira", FailureCode::Timeout);
        metrics.failed("jira", FailureCode::Timeout);
        metrics.took(Duration::from_millis(300));
        metrics.claimed_late(Duration::from_secs(7_200));
        metrics.token_requests.served();
        metrics.endpoints.answered("jira", 200, Duration::from_millis(70));
        let refreshes = metrics.refreshes().remove("jira").unwrap();
        assert_eq!((refreshes.succeeded, refreshes.failures), (1, [(FailureCode::Timeout.as_str(), 2)].into()));
        assert_eq!((refreshes.calls.count(), refreshes.calls.within_ms(1.0)), (1, Some(100)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"tokenkeep_refresh_total{provider="jira",outcome="succeeded"} 1"#,
            r#"tokenkeep_refresh_total{provider="jira",outcome="timeout"} 2"#,
            r#"tokenkeep_refresh_duration_seconds_bucket{le="0.25"} 0"#,
            r#"tokenkeep_refresh_duration_seconds_bucket{le="0.5"} 1"#,
            r#"tokenkeep_refresh_lateness_seconds_bucket{le="3600"} 0"#,
            r#"tokenkeep_refresh_lateness_seconds_bucket{le="+Inf"} 1"#,
            r#"tokenkeep_token_requests_total{outcome="served"} 1"#,
            r#"tokenkeep_token_requests_total{outcome="not_found"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
