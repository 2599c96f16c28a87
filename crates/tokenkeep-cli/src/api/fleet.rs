//! `/v1/fleet`: when access tokens end, when refreshes are planned, and how providers answer.
//!
//! Counting looks at an index entry of each connection, so an answer is kept for [`KEPT_FOR`] and given to all who ask
//! meanwhile.

use super::Api;
use super::access::Caller;
use super::json::Times;
use super::openapi::{OfNamespace, Time};
use super::params::Params;
use super::problem::Problem;
use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokenkeep::latency::{BOUNDS_MS, Calls};
use tokenkeep::metrics::Refreshes;
use tokenkeep::store::{END_CLASSES, Outlook, PLAN_BIN, PLAN_BINS};
use tokenkeep::{Error, TokenKeep};
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::Status;
use tokio::sync::Mutex;
use utoipa::ToSchema;

/// How long a count is given to whoever asks.
pub const KEPT_FOR: Duration = Duration::from_secs(10);
/// Of how many namespaces counts are kept.
const NAMESPACES_MAX: usize = 64;

/// The counts that are kept. Whoever counts keeps the others waiting: what they want is then there.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<Option<String>, Counted>>>);

#[derive(Clone, Debug)]
struct Counted {
    at: Timestamp,
    outlook: Arc<Outlook>,
}

impl Counts {
    async fn of(&self, keep: &TokenKeep, namespace: Option<String>) -> Result<Counted, Error> {
        let mut counts = self.0.lock().await;
        let now = keep.now();
        counts.retain(|_, counted| counted.at + KEPT_FOR > now);
        if let Some(counted) = counts.get(&namespace) {
            return Ok(counted.clone());
        }
        let counted = Counted { at: now, outlook: Arc::new(keep.outlook(namespace.as_deref()).await?) };
        if counts.len() < NAMESPACES_MAX {
            counts.insert(namespace, counted.clone());
        }
        Ok(counted)
    }
}

/// Of each status, how many access tokens end when.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Histogram)]
pub struct HistogramJson {
    /// When it was counted: up to ten seconds ago.
    #[schema(required, value_type = Option<Time>)]
    pub at: Option<String>,
    /// The classes, in order.
    pub classes: Vec<ClassJson>,
}

/// Access tokens that end within some time.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = HistogramClass)]
pub struct ClassJson {
    /// `ended`, `within`, `later` or `unknown`.
    pub kind: &'static str,
    /// Of `within`: at most so many seconds from now, and more than the class before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_s: Option<u64>,
    /// How many of each status; every status is there.
    pub by_status: BTreeMap<&'static str, u64>,
}

/// How many refreshes are planned when.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Calendar)]
pub struct CalendarJson {
    /// When it was counted, up to ten seconds ago; the first bin begins here.
    #[schema(required, value_type = Option<Time>)]
    pub at: Option<String>,
    /// How long a bin is.
    pub bin_s: u64,
    /// Those that are due already.
    pub due: u64,
    /// Those of each bin, for 24 hours.
    #[schema(min_items = 288, max_items = 288)]
    pub bins: Vec<u64>,
    /// The same by the hour.
    #[schema(min_items = 24, max_items = 24)]
    pub hours: Vec<u64>,
    /// Those that are planned later.
    pub later: u64,
}

/// How refreshes end and how fast answers come, of each provider that was asked since the daemon started.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Latency)]
pub struct LatencyJson {
    /// The upper bounds of the first buckets in milliseconds; one more bucket is for all above.
    pub bounds_ms: [u64; BOUNDS_MS.len()],
    /// By name.
    pub providers: Vec<ProviderLatencyJson>,
}

/// One provider.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = ProviderLatency)]
pub struct ProviderLatencyJson {
    pub provider: String,
    /// Attempts at a refresh, all of them.
    pub refreshes: RefreshesJson,
    /// Requests to its token endpoint for them.
    pub token_endpoint: CallsJson,
    /// Requests to its API that the proxy forwarded.
    pub api: CallsJson,
}

/// How refreshes ended.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = RefreshCounts)]
pub struct RefreshesJson {
    /// Those that brought a token set.
    pub succeeded: u64,
    /// Those that did not.
    pub failed: u64,
    /// The latter by the code of their failure.
    pub failures: BTreeMap<&'static str, u64>,
}

/// Requests to one place.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Calls)]
pub struct CallsJson {
    /// Answers by class: `1xx` to `5xx`.
    pub answers: BTreeMap<&'static str, u64>,
    /// Those that were not answered.
    pub unanswered: u64,
    /// Answers by how long they took; see `bounds_ms`.
    pub buckets: [u64; BOUNDS_MS.len() + 1],
    /// How long an answer took on average; `null` without one.
    #[schema(required)]
    pub mean_ms: Option<u64>,
    /// Half of the answers came within so many milliseconds, to the bucket; `null` above the last bound and without one.
    #[schema(required)]
    pub p50_ms: Option<u64>,
    /// The same for 99 of 100.
    #[schema(required)]
    pub p99_ms: Option<u64>,
}

/// Time to expiry by status: of one namespace with `?namespace=`, else of the whole fleet.
#[utoipa::path(get, path = "/v1/fleet/histogram", operation_id = "fleet_histogram", tag = "fleet", params(OfNamespace),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "The classes.", body = HistogramJson),
))]
pub async fn histogram(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<HistogramJson>, Problem> {
    let counted = counted(&api, &caller, query.as_deref()).await?;
    Ok(Json(HistogramJson { at: api.times().text(counted.at), classes: classes(&counted.outlook) }))
}

/// The refreshes that are planned for the next 24 hours: the next one of each connection.
#[utoipa::path(get, path = "/v1/fleet/calendar", operation_id = "fleet_calendar", tag = "fleet", params(OfNamespace),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "The bins.", body = CalendarJson),
))]
pub async fn calendar(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<CalendarJson>, Problem> {
    let counted = counted(&api, &caller, query.as_deref()).await?;
    Ok(Json(bins(counted.at, &counted.outlook, &api.times())))
}

/// Success and latency by provider, since the daemon started.
#[utoipa::path(get, path = "/v1/fleet/latency", operation_id = "fleet_latency", tag = "fleet",
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "Every provider that was asked.", body = LatencyJson),
))]
pub async fn latency(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<LatencyJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    Ok(Json(by_provider(&api.keep.refreshes(), &api.keep.api_calls())))
}

fn by_provider(refreshes: &BTreeMap<String, Refreshes>, calls: &BTreeMap<String, Calls>) -> LatencyJson {
    let names: BTreeSet<&String> = refreshes.keys().chain(calls.keys()).collect();
    let of = |provider: &String| {
        let of_refreshes = refreshes.get(provider).cloned().unwrap_or_default();
        ProviderLatencyJson {
            provider: provider.clone(),
            token_endpoint: CallsJson::new(&of_refreshes.calls),
            refreshes: RefreshesJson {
                succeeded: of_refreshes.succeeded,
                failed: of_refreshes.failures.values().sum(),
                failures: of_refreshes.failures,
            },
            api: CallsJson::new(&calls.get(provider).copied().unwrap_or_default()),
        }
    };
    LatencyJson { bounds_ms: BOUNDS_MS, providers: names.into_iter().map(of).collect() }
}

impl CallsJson {
    fn new(calls: &Calls) -> Self {
        Self {
            answers: ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(calls.answers).collect(),
            unanswered: calls.failed,
            buckets: calls.buckets,
            mean_ms: calls.mean().map(|mean| u64::try_from(mean.as_millis()).unwrap_or(u64::MAX)),
            p50_ms: calls.within_ms(0.5),
            p99_ms: calls.within_ms(0.99),
        }
    }
}

async fn counted(api: &Api, caller: &Caller, query: Option<&str>) -> Result<Counted, Problem> {
    let namespace = Params::only_namespace(query)?;
    caller.check_counted(namespace.as_deref())?;
    api.counts.of(&api.keep, namespace).await.map_err(|error| api.problem(&error))
}

fn classes(outlook: &Outlook) -> Vec<ClassJson> {
    let within = END_CLASSES.iter().skip(1).map(|end| ("within", Some(end.as_secs())));
    let kinds = [("ended", None)].into_iter().chain(within).chain([("later", None), ("unknown", None)]);
    let of = |status: Status, class: usize| outlook.ends.get(&status).and_then(|counts| counts.get(class)).copied();
    let count = |status, class| u64::try_from(of(status, class).unwrap_or(0)).unwrap_or(0);
    kinds
        .enumerate()
        .map(|(class, (kind, within_s))| ClassJson {
            kind,
            within_s,
            by_status: Status::ALL.into_iter().map(|status| (status.as_str(), count(status, class))).collect(),
        })
        .collect()
}

fn bins(at: Timestamp, outlook: &Outlook, times: &Times) -> CalendarJson {
    CalendarJson {
        at: times.text(at),
        bin_s: PLAN_BIN.as_secs(),
        due: outlook.due,
        bins: outlook.planned.clone(),
        hours: outlook.planned.chunks(PLAN_BINS / 24).map(|hour| hour.iter().sum()).collect(),
        later: outlook.later,
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::times;
    use super::*;

    #[test]
    fn ends_are_in_their_classes() {
        let (now, mut outlook) = (times().now, Outlook::default());
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        for end in [after(0), after(60), after(61), after(40 * 86_400), None] {
            outlook.end(now, Status::Fresh, end, 1);
        }
        let classes = classes(&outlook);
        let fresh: Vec<u64> = classes.iter().map(|class| class.by_status["fresh"]).collect();
        assert_eq!(fresh, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        let ends: Vec<_> = classes.iter().map(|class| (class.kind, class.within_s)).collect();
        assert_eq!(
            (ends[0], ends[1], ends[10], ends[11]),
            (("ended", None), ("within", Some(60)), ("later", None), ("unknown", None))
        );
        assert!(classes.iter().all(|class| class.by_status.len() == Status::ALL.len()));
    }

    #[test]
    fn planned_refreshes_are_in_their_bins() {
        let (now, mut outlook) = (times().now, Outlook::default());
        for seconds in [0, 1, 299, 300, 3_599, 3_600, 86_399, 86_400] {
            outlook.plan(now, now + Duration::from_secs(seconds));
        }
        let calendar = bins(now, &outlook, &times());
        assert_eq!((calendar.due, calendar.bins[0], calendar.bins[1], calendar.later), (1, 2, 1, 1));
        assert_eq!((calendar.hours[0], calendar.hours[1], calendar.hours[23], calendar.hours.len()), (4, 1, 1, 24));
    }

    #[test]
    fn each_provider_that_was_asked_is_told_with_both_of_its_places() {
        let mut calls = Calls { failed: 1, ..Calls::default() };
        (calls.answers[1], calls.buckets[3], calls.sum) = (2, 2, Duration::from_millis(90));
        let refreshes = Refreshes { succeeded: 2, failures: [("timeout", 1)].into(), calls };
        let told = by_provider(&[("b".to_owned(), refreshes)].into(), &[("a".to_owned(), calls)].into());
        let told = serde_json::to_value(&told).unwrap();
        let (a, b) = (&told["providers"][0], &told["providers"][1]);
        assert_eq!((&a["provider"], &b["provider"]), (&"a".into(), &"b".into()));
        assert_eq!(a["api"], b["token_endpoint"]);
        assert_eq!(b["refreshes"], serde_json::json!({"succeeded": 2, "failed": 1, "failures": {"timeout": 1}}));
        assert_eq!(
            (&b["token_endpoint"]["answers"]["2xx"], &b["token_endpoint"]["unanswered"]),
            (&2.into(), &1.into())
        );
        assert_eq!((&b["token_endpoint"]["mean_ms"], &b["token_endpoint"]["p50_ms"]), (&45.into(), &50.into()));
        assert_eq!((&b["api"]["mean_ms"], &a["refreshes"]["succeeded"]), (&serde_json::Value::Null, &0.into()));
    }
}
