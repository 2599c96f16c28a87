//! `/v1/bulk`: one action on many connections: a preview first, then, confirmed, at a pace.
//!
//! A confirmation is a digest of who asks for what on which connections, so it fits only what was previewed. Previews and
//! jobs live in memory: a restart ends them, and what a job has done so far is done.

use super::Api;
use super::access::{About, Caller};
use super::import::whole;
use super::json::wall_text;
use super::openapi::{Name, OfNamespace, Statuses};
use super::params::{Params, key};
use super::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokenkeep::access::Scope;
use tokenkeep::audit::NewRecord;
use tokenkeep::store::{ListQuery, PAGE_MAX};
use tokenkeep::{Error, RefreshAsk, Refreshed};
use tokenkeep_core::model::{DEFAULT_NAMESPACE, Status, check_name, printable};
use tokenkeep_core::{Connection, ConnectionKey};
use tokio::time::{Instant, MissedTickBehavior, interval};
use utoipa::ToSchema;

/// How many connections a job begins with in a second.
pub const PER_SECOND: u32 = 10;
/// With how many connections a job is busy at once.
pub const IN_FLIGHT_MAX: usize = 16;
/// How long a preview can be confirmed.
pub const PREVIEW_LIFE: Duration = Duration::from_secs(10 * 60);
/// The most previews that wait for their confirmation; the oldest makes room.
pub const PREVIEWS_MAX: usize = 1_000;
/// The most jobs at work.
pub const JOBS_MAX: usize = 4;
/// The most jobs that are remembered; the one that was begun first makes room when it has ended.
pub const JOBS_KEPT_MAX: usize = 100;
/// The most names in one request.
pub const NAMES_MAX: usize = 10_000;
/// The most connections of one job.
pub const MATCHED_MAX: usize = 100_000;
/// How many names and failures are shown.
pub const SAMPLE_MAX: usize = 10;

/// What is done to each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BulkAction)]
pub enum Action {
    /// One attempt now.
    Refresh,
    /// No refreshes until it is resumed.
    Pause,
    /// Refreshes again.
    Resume,
    /// It is gone, with its secrets.
    Remove,
}

impl Action {
    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Remove => "remove",
        }
    }

    const fn scope(self) -> Scope {
        match self {
            Self::Refresh => Scope::Refresh,
            Self::Pause | Self::Resume | Self::Remove => Scope::Manage,
        }
    }
}

/// What is to be done, and to which: `names` or `filter`.
#[derive(Deserialize, ToSchema, Debug)]
#[serde(deny_unknown_fields)]
#[schema(as = Bulk)]
struct BulkBody {
    action: Action,
    #[schema(value_type = Option<Vec<Name>>, max_items = 10_000)]
    names: Option<Vec<String>>,
    filter: Option<FilterBody>,
    /// Of the preview; without it, there is one.
    confirm: Option<String>,
}

/// As the parameters of a list; an empty one is everything.
#[derive(Deserialize, ToSchema, Debug, Default)]
#[serde(deny_unknown_fields, default)]
#[schema(as = BulkFilter)]
struct FilterBody {
    #[schema(value_type = Option<Statuses>)]
    status: Option<String>,
    #[schema(value_type = Option<Name>)]
    provider: Option<String>,
    q: Option<String>,
}

/// What would be done.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = BulkPreview)]
pub struct PreviewJson {
    /// To how many connections.
    pub count: usize,
    /// The first of them.
    pub sample: Vec<String>,
    /// The first of those that were named and are not there.
    pub not_found: Vec<String>,
    /// With the same request: it is done. Once.
    pub confirm: String,
    /// Until when.
    #[schema(required)]
    pub expires_at: Option<String>,
}

/// How a job stands.
#[derive(Clone, Serialize, Debug, ToSchema)]
#[schema(as = BulkJob)]
pub struct JobJson {
    /// Its id.
    pub id: String,
    /// What it does.
    pub action: Action,
    /// Where.
    pub namespace: String,
    /// `running`, `ended`, or `stopped`: its key has ended, or the daemon is stopping.
    pub status: &'static str,
    /// To how many connections.
    pub count: usize,
    /// With how many it is done.
    pub done: usize,
    /// Of these, how many went well.
    pub succeeded: usize,
    /// And how many did not.
    pub failed: usize,
    /// The first failures.
    pub failures: Vec<FailureJson>,
    /// Since when.
    #[schema(required)]
    pub started_at: Option<String>,
    /// Until when.
    #[schema(required)]
    pub ended_at: Option<String>,
}

/// What did not go well.
#[derive(Clone, Serialize, Debug, ToSchema, PartialEq, Eq)]
#[schema(as = BulkFailure)]
pub struct FailureJson {
    /// With which connection.
    pub name: String,
    /// The code, as the problem of the single action has it, or the failure of the refresh.
    pub code: String,
    /// The same as a sentence.
    pub message: String,
}

/// The previews and jobs of one daemon.
#[derive(Clone, Default)]
pub struct Bulk(Arc<Mutex<Held>>);

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Held {
    /// By digest, until when.
    previews: BTreeMap<String, Instant>,
    /// As they were begun.
    jobs: Vec<Job>,
}

struct Job {
    actor: String,
    json: JobJson,
}

/// What is to be done, read and looked up.
struct Plan {
    actor: String,
    action: Action,
    namespace: String,
    keys: Vec<ConnectionKey>,
}

impl Plan {
    /// The digest that confirms it.
    fn digest(&self) -> String {
        let Self { actor, action, namespace, keys } = self;
        let names: Vec<&str> = keys.iter().map(ConnectionKey::name).collect();
        // No part has a line break.
        tokenkeep::fingerprint(&format!("{actor}\n{}\n{namespace}\n{}", action.as_str(), names.join("\n")))
    }

    fn sample(&self) -> Vec<String> {
        self.keys.iter().take(SAMPLE_MAX).map(|key| key.name().to_owned()).collect()
    }
}

const UNCONFIRMED: &str = "Ask for a new preview: the same request without `confirm`.";

impl Bulk {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a plan be confirmed for a while.
    fn preview(&self, plan: &Plan) -> String {
        let (digest, now) = (plan.digest(), Instant::now());
        let mut held = self.held();
        held.previews.retain(|_, ends_at| now < *ends_at);
        if held.previews.len() >= PREVIEWS_MAX {
            let oldest = held.previews.iter().min_by_key(|(_, ends_at)| **ends_at).map(|(digest, _)| digest.clone());
            oldest.and_then(|digest| held.previews.remove(&digest));
        }
        held.previews.insert(digest.clone(), now + PREVIEW_LIFE);
        digest
    }

    /// Begins what was previewed.
    fn begin(&self, plan: &Plan, confirm: &str, started_at: Option<String>) -> Result<JobJson, Problem> {
        let mut held = self.held();
        let waits = held.previews.get(confirm).is_some_and(|ends_at| Instant::now() < *ends_at);
        let conflict = |code, detail| Problem::new(StatusCode::CONFLICT, code, detail);
        if !waits {
            return Err(conflict(
                "bulk_unknown_confirm",
                "the field `confirm` is of no preview, was used, or has expired",
            )
            .next(UNCONFIRMED));
        }
        if plan.digest() != confirm {
            return Err(conflict(
                "bulk_changed",
                "this is not what was previewed: the request or the connections differ",
            )
            .next(UNCONFIRMED));
        }
        if held.jobs.iter().filter(|job| job.json.status == RUNNING).count() >= JOBS_MAX {
            return Err(conflict("bulk_busy", "as many jobs are at work as may be")
                .next("Confirm it when one of them has ended; the preview waits."));
        }
        held.previews.remove(confirm);
        let secret = tokenkeep::access::random_secret();
        let json = JobJson {
            id: format!("bulk_{}", &tokenkeep::fingerprint(secret.expose())[..16]),
            action: plan.action,
            namespace: plan.namespace.clone(),
            status: RUNNING,
            count: plan.keys.len(),
            done: 0,
            succeeded: 0,
            failed: 0,
            failures: Vec::new(),
            started_at,
            ended_at: None,
        };
        if held.jobs.len() >= JOBS_KEPT_MAX
            && let Some(first) = held.jobs.iter().position(|job| job.json.status != RUNNING)
        {
            held.jobs.remove(first);
        }
        held.jobs.push(Job { actor: plan.actor.clone(), json: json.clone() });
        Ok(json)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut JobJson)) {
        if let Some(job) = self.held().jobs.iter_mut().find(|job| job.json.id == id) {
            change(&mut job.json);
        }
    }

    fn note(&self, id: &str, failure: Option<FailureJson>) {
        self.change(id, |job| {
            job.done += 1;
            match failure {
                None => job.succeeded += 1,
                Some(failure) => {
                    job.failed += 1;
                    if job.failures.len() < SAMPLE_MAX {
                        job.failures.push(failure);
                    }
                }
            }
        });
    }

    /// A job, for who began it, and for who may do everything.
    fn find(&self, id: &str, caller: &Caller) -> Option<JobJson> {
        let sees_all = caller.sees_all() && caller.rights().is_some_and(|rights| rights.has(Scope::Admin));
        let held = self.held();
        let job = held.jobs.iter().find(|job| job.json.id == id)?;
        (sees_all || job.actor == caller.actor()).then(|| job.json.clone())
    }
}

const RUNNING: &str = "running";

/// One action on many connections. Without `confirm`: a preview, 200. With that of a preview: a job, 202.
#[utoipa::path(post, path = "/v1/bulk", operation_id = "begin_bulk", tag = "fleet", params(OfNamespace),
    request_body = BulkBody, security(("api_key" = [])), responses(
    (status = 200, description = "What would be done.", body = PreviewJson),
    (status = 202, description = "It is begun; `Location` says where it is told how far it is.", body = JobJson,
        headers(("Location" = String))),
    (status = 409, description = "`bulk_unknown_confirm`, `bulk_changed`: no such preview waits, or it was of something else. \
        `bulk_busy`: too many jobs are at work."),
    (status = 413, description = "`too_large`: the body is too long."),
))]
pub async fn begin(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    let namespace = Params::only_namespace(query.as_deref())?.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let body = whole(body).await?;
    let (body, wanted) = read(&body, &namespace)?;
    caller.check_scope(body.action.scope())?;
    let (keys, not_found) = look_up(&api, &caller, wanted).await?;
    let plan = Plan { actor: caller.actor(), action: body.action, namespace, keys };
    let Some(confirm) = body.confirm else {
        let confirm = api.bulk.preview(&plan);
        let expires_at = wall_text(api.wall() + PREVIEW_LIFE);
        let about = About(format!("preview: {} {}", plan.action.as_str(), plan.keys.len()));
        let preview = PreviewJson { count: plan.keys.len(), sample: plan.sample(), not_found, confirm, expires_at };
        let mut response = Json(preview).into_response();
        response.extensions_mut().insert(about);
        return Ok(response);
    };
    let job = api.bulk.begin(&plan, &confirm, wall_text(api.wall()))?;
    let about = About(format!("{}: {} {}", job.id, job.action.as_str(), job.count));
    let location = [(header::LOCATION, format!("/v1/bulk/{}", job.id))];
    let mut response = (StatusCode::ACCEPTED, location, Json(&job)).into_response();
    response.extensions_mut().insert(about);
    tokio::spawn(work(api, caller, job, plan));
    Ok(response)
}

/// How far a job is.
#[utoipa::path(get, path = "/v1/bulk/{id}", operation_id = "get_bulk", tag = "fleet",
    params(("id" = String, Path, description = "The job's id.")), security(("api_key" = [])), responses(
    (status = 200, description = "The job.", body = JobJson),
    (status = 404, description = "`not_found`: there is no such job, or another caller began it."),
))]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<JobJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    api.bulk.find(&id, &caller).map(Json).ok_or_else(|| {
        Problem::not_found(format!("there is no job `{}`", printable(&id, 60)))
            .next("Jobs end with the daemon, and only the latest are remembered; see GET /v1/audit for what was done.")
    })
}

/// Which connections are meant.
#[derive(Debug)]
enum Wanted {
    Names(BTreeSet<ConnectionKey>),
    Filter(ListQuery),
}

fn read(body: &[u8], namespace: &str) -> Result<(BulkBody, Wanted), Problem> {
    let expected = "Expected {\"action\": \"refresh\", \"pause\", \"resume\" or \"remove\", \"names\": [...]}, or with \
         \"filter\": {\"status\": ..., \"provider\": ..., \"q\": ...} in place of \"names\".";
    let mut body: BulkBody = serde_json::from_slice(body).map_err(|error| Problem::unreadable(&error, expected))?;
    let wanted = match (body.names.take(), body.filter.take()) {
        (Some(names), None) if names.len() > NAMES_MAX => {
            let detail = format!("the field `names` has {} entries", names.len());
            return Err(Problem::invalid(detail, format!("Expected at most {NAMES_MAX}; a filter may match more.")));
        }
        (Some(names), None) => {
            Wanted::Names(names.iter().map(|name| key(Some(namespace), name)).collect::<Result<_, _>>()?)
        }
        (None, Some(filter)) => Wanted::Filter(read_filter(filter, namespace)?),
        _ => return Err(Problem::invalid("the body has neither or both of `names` and `filter`", expected)),
    };
    Ok((body, wanted))
}

fn read_filter(filter: FilterBody, namespace: &str) -> Result<ListQuery, Problem> {
    let known = Status::ALL.map(Status::as_str).join(", ");
    let wrong = |field: &str, found: &str, expected: &str| {
        let detail = format!("the field `filter.{field}` is `{}`", printable(found, 80));
        Problem::invalid(detail, format!("Expected {expected}."))
    };
    let statuses = match filter.status.as_deref() {
        None => Vec::new(),
        Some(text) => text
            .split(',')
            .map(Status::parse)
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("status", text, &format!("one or more of {known}, separated by commas")))?,
    };
    if let Some(provider) = filter.provider.as_deref().filter(|name| check_name(name).is_err()) {
        return Err(wrong("provider", provider, "a provider's name"));
    }
    Ok(ListQuery {
        statuses,
        provider: filter.provider,
        name_contains: filter.q.filter(|text| !text.is_empty()),
        namespace: Some(namespace.to_owned()),
        limit: PAGE_MAX,
        ..ListQuery::default()
    })
}

/// Those that are there and that the caller's rights reach, in the order of names; and the first names of no such one.
async fn look_up(api: &Api, caller: &Caller, wanted: Wanted) -> Result<(Vec<ConnectionKey>, Vec<String>), Problem> {
    let (mut keys, mut not_found) = (Vec::new(), Vec::new());
    match wanted {
        Wanted::Names(names) => {
            for key in names {
                let found = match caller.sees(&key) {
                    true => api.keep.get(&key).await.map(|_| ()),
                    false => Err(Error::NotFound(key.clone())),
                };
                match found {
                    Ok(()) => keys.push(key),
                    Err(Error::NotFound(key)) if not_found.len() < SAMPLE_MAX => not_found.push(key.name().to_owned()),
                    Err(Error::NotFound(_)) => {}
                    Err(error) => return Err(api.problem(&error)),
                }
            }
        }
        Wanted::Filter(mut query) => loop {
            let page = api.keep.list(&query).await.map_err(|error| api.problem(&error))?;
            query.after = page.last().map(|connection| connection.key.clone());
            let is_last = page.len() < query.limit;
            keys.extend(page.into_iter().map(|connection| connection.key).filter(|key| caller.sees(key)));
            if keys.len() > MATCHED_MAX {
                let detail = format!("the field `filter` matches more than {MATCHED_MAX} connections");
                return Err(Problem::invalid(detail, "Narrow it, by `status`, `provider` or `q`."));
            }
            if is_last {
                break;
            }
        },
    }
    Ok((keys, not_found))
}

/// What came of one connection.
enum Outcome {
    Done(Option<FailureJson>),
    /// Nothing more can be done.
    Stop,
}

/// Does a job. Its end is in the audit trail before anybody is told of it.
async fn work(api: Api, caller: Caller, job: JobJson, plan: Plan) {
    let Plan { actor, action, keys, .. } = plan;
    let each = {
        let api = api.clone();
        move |key: ConnectionKey| {
            let (api, caller) = (api.clone(), caller.clone());
            async move { if caller.stands(&api) { one(&api, action, &key).await } else { Outcome::Stop } }
        }
    };
    let whole = paced(keys, each, |outcome| api.bulk.note(&job.id, outcome)).await;
    let status = if whole { "ended" } else { "stopped" };
    let mut done = 0;
    api.bulk.change(&job.id, |job| done = job.done);
    if let Some(audit) = api.keep.audit() {
        let record = NewRecord {
            at: api.wall(),
            actor,
            action: format!("bulk.{} {status}", action.as_str()),
            target: Some(job.id.clone()),
            outcome: u64::try_from(done).unwrap_or(u64::MAX),
        };
        if let Err(error) = audit.write(record).await {
            tracing::error!(%error, "the audit trail cannot be written");
        }
    }
    let ended_at = wall_text(api.wall());
    api.bulk.change(&job.id, |job| (job.status, job.ended_at) = (status, ended_at));
}

/// Begins with [`PER_SECOND`] keys a second, at most [`IN_FLIGHT_MAX`] at once. Whether it came to the end.
async fn paced<F: Future<Output = Outcome>>(
    keys: Vec<ConnectionKey>,
    each: impl Fn(ConnectionKey) -> F,
    note: impl Fn(Option<FailureJson>),
) -> bool {
    let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = stream::unfold((keys.into_iter(), ticks), |(mut rest, mut ticks)| async {
        let key = rest.next()?;
        ticks.tick().await;
        Some((key, (rest, ticks)))
    });
    let mut outcomes = std::pin::pin!(begun.map(each).buffer_unordered(IN_FLIGHT_MAX));
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Outcome::Done(failure) => note(failure),
            Outcome::Stop => return false,
        }
    }
    true
}

async fn one(api: &Api, action: Action, key: &ConnectionKey) -> Outcome {
    let result = match action {
        Action::Refresh => api.keep.refresh(key, RefreshAsk::default()).await.map(|refreshed| match refreshed {
            Refreshed::Settled(connection) => failed_refresh(&connection),
            Refreshed::Pending(_) => None,
        }),
        Action::Pause => api.keep.pause(key).await.map(|_| None),
        Action::Resume => api.keep.resume(key).await.map(|_| None),
        Action::Remove => api.keep.remove(key).await.map(|()| None),
    };
    match result {
        Ok(failure) => Outcome::Done(failure),
        Err(Error::ShuttingDown) => Outcome::Stop,
        Err(error) => {
            let Problem { code, detail, .. } = api.problem(&error);
            Outcome::Done(Some(FailureJson { name: key.name().to_owned(), code: code.into(), message: detail.into() }))
        }
    }
}

fn failed_refresh(connection: &Connection) -> Option<FailureJson> {
    let failure = &connection.last_error.as_ref()?.failure;
    let (code, message) = (failure.code.as_str().to_owned(), failure.code.sentence().to_owned());
    Some(FailureJson { name: connection.key.name().to_owned(), code, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn keys(count: usize) -> Vec<ConnectionKey> {
        (0..count).map(|nth| ConnectionKey::in_default(format!("c{nth:03}")).unwrap()).collect()
    }

    fn plan() -> Plan {
        let (actor, namespace) = ("uid:1".to_owned(), DEFAULT_NAMESPACE.to_owned());
        Plan { actor, action: Action::Pause, namespace, keys: keys(3) }
    }

    fn code(result: Result<JobJson, Problem>) -> String {
        result.map_or_else(|problem| problem.code.to_string(), |_| "begun".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_preview_is_confirmed_once_within_its_life() {
        let bulk = Bulk::default();
        let confirm = bulk.preview(&plan());
        tokio::time::advance(PREVIEW_LIFE).await;
        assert_eq!(code(bulk.begin(&plan(), &confirm, None)), "bulk_unknown_confirm", "expired");
        let confirm = bulk.preview(&plan());
        tokio::time::advance(PREVIEW_LIFE - Duration::from_millis(1)).await;
        assert_eq!(code(bulk.begin(&plan(), &confirm, None)), "begun");
        assert_eq!(code(bulk.begin(&plan(), &confirm, None)), "bulk_unknown_confirm", "used");
    }

    #[tokio::test]
    async fn a_confirmation_fits_what_was_previewed_alone() {
        let bulk = Bulk::default();
        let confirm = bulk.preview(&plan());
        let others = [
            Plan { actor: "uid:2".to_owned(), ..plan() },
            Plan { action: Action::Remove, ..plan() },
            Plan { namespace: "other".to_owned(), ..plan() },
            Plan { keys: keys(4), ..plan() },
        ];
        for other in others {
            assert_eq!(code(bulk.begin(&other, &confirm, None)), "bulk_changed");
        }
        assert_eq!(code(bulk.begin(&plan(), &confirm, None)), "begun");
    }

    #[tokio::test]
    async fn previews_and_jobs_are_bounded() {
        let bulk = Bulk::default();
        let nth = |nth: usize| Plan { actor: format!("uid:{nth}"), ..plan() };
        let first = bulk.preview(&nth(0));
        for other in 1..=PREVIEWS_MAX {
            bulk.preview(&nth(other));
        }
        assert_eq!(code(bulk.begin(&nth(0), &first, None)), "bulk_unknown_confirm", "the oldest made room");
        let begin = |plan: &Plan| bulk.begin(plan, &bulk.preview(plan), None);
        let running: Vec<JobJson> = (0..JOBS_MAX).map(|job| begin(&nth(job)).unwrap()).collect();
        let next = nth(JOBS_MAX);
        let confirm = bulk.preview(&next);
        assert_eq!(code(bulk.begin(&next, &confirm, None)), "bulk_busy");
        bulk.change(&running[1].id, |job| job.status = "ended");
        assert_eq!(code(bulk.begin(&next, &confirm, None)), "begun", "its preview has waited");
        for job in 0..JOBS_KEPT_MAX {
            bulk.change(&running[2].id, |job| job.status = "ended");
            let latest = bulk.held().jobs.last().map(|job| job.json.id.clone()).unwrap();
            bulk.change(&latest, |job| job.status = "ended");
            begin(&nth(job)).unwrap();
        }
        assert_eq!(bulk.held().jobs.len(), JOBS_KEPT_MAX);
        assert!(bulk.find(&running[0].id, &Caller::User(0)).is_some(), "one at work stays");
        assert!(bulk.find(&running[1].id, &Caller::User(0)).is_none());
        assert!(bulk.find(&running[0].id, &Caller::Nobody).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_keeps_its_pace_and_is_busy_with_few_at_once() {
        let began = Instant::now();
        let (at_once, most, done) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let each = |_| async {
            at_once.set(at_once.get() + 1);
            most.set(most.get().max(at_once.get()));
            tokio::time::sleep(Duration::from_secs(4)).await;
            at_once.set(at_once.get() - 1);
            Outcome::Done(None)
        };
        assert!(paced(keys(2 * IN_FLIGHT_MAX), each, |_| done.set(done.get() + 1)).await);
        assert_eq!((most.get(), done.get()), (IN_FLIGHT_MAX, 2 * IN_FLIGHT_MAX));
        let began_quickly = Instant::now();
        assert!(began_quickly - began > Duration::from_secs(8), "two rounds");
        paced(keys(31), |_| async { Outcome::Done(None) }, |_| ()).await;
        let took = began_quickly.elapsed();
        assert!((Duration::from_millis(3_000)..Duration::from_millis(3_050)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_stops_where_nothing_more_can_be_done() {
        let begun = RefCell::new(Vec::new());
        let each = |key: ConnectionKey| {
            begun.borrow_mut().push(key.name().to_owned());
            let stop = begun.borrow().len() == 3;
            async move { if stop { Outcome::Stop } else { Outcome::Done(None) } }
        };
        assert!(!paced(keys(9), each, |_| ()).await);
        assert_eq!(*begun.borrow(), ["c000", "c001", "c002"]);
    }

    #[test]
    fn a_wrong_body_is_refused_with_its_field() {
        let many = format!(r#"{{"action": "pause", "names": [{}"x"]}}"#, r#""x","#.repeat(NAMES_MAX));
        for (body, named) in [
            (r#"{"action": "stop", "names": []}"#, "stop"),
            (r#"{"action": "pause"}"#, "`names` and `filter`"),
            (r#"{"action": "pause", "names": [], "filter": {}}"#, "`names` and `filter`"),
            (r#"{"action": "pause", "names": ["a/b"]}"#, "a/b"),
            (r#"{"action": "pause", "filter": {"status": "good"}}"#, "`filter.status`"),
            (r#"{"action": "pause", "filter": {"provider": "a b"}}"#, "`filter.provider`"),
            (r#"{"action": "pause", "filter": {"colour": "red"}}"#, "colour"),
            (&many, "`names`"),
        ] {
            let problem = read(body.as_bytes(), "default").unwrap_err();
            let next = problem.next_action.unwrap_or_default();
            assert!(problem.status == 400 && problem.detail.contains(named) && !next.is_empty(), "{}", problem.detail);
        }
        let (body, wanted) =
            read(br#"{"action": "refresh", "filter": {"status": "held,paused", "q": "j"}}"#, "t").unwrap();
        let Wanted::Filter(query) = wanted else { panic!("{wanted:?}") };
        assert_eq!((query.statuses.len(), query.name_contains.as_deref()), (2, Some("j")));
        assert_eq!((query.namespace.as_deref(), body.action.scope()), (Some("t"), Scope::Refresh));
    }
}
