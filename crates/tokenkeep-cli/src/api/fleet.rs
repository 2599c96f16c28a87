//! `/v1/fleet`: when access tokens end, and when refreshes are planned.
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
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
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

async fn counted(api: &Api, caller: &Caller, query: Option<&str>) -> Result<Counted, Problem> {
    let mut params = Params::new(query);
    let namespace = params.namespace()?;
    params.finish()?;
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
}
