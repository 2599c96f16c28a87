//! The HTTP API (interface section 2), on the socket and on TCP. [`access`] says who may do what.

pub mod access;
pub mod admin;
pub mod audit;
pub mod bulk;
pub mod config;
pub mod connect;
pub mod connections;
pub mod etag;
pub mod events;
pub mod export;
pub mod failures;
pub mod fleet;
pub mod guard;
pub mod health;
pub mod idempotency;
pub mod import;
pub mod jira;
pub mod json;
pub mod keys;
pub mod labels;
pub mod metrics;
pub mod ndjson;
pub mod oauth;
pub mod openapi;
pub mod params;
pub mod problem;
pub mod providers;
pub mod proxy;
pub mod session;
pub mod stream;
pub mod summary;
pub mod timeline;
pub mod token;
pub mod unread;
pub mod webhooks;

use crate::config::live::Live;
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use bulk::Bulk;
use failures::Failures;
use fleet::Counts;
use idempotency::Once;
use json::Times;
use metrics::Metrics;
use oauth::SignIns;
use problem::Problem;
use session::Sessions;
use std::ops::Deref;
use std::sync::Arc;
use stream::Streams;
use tokenkeep::{Error, TokenKeep};
use tokenkeep_core::Timestamp;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

/// What every handler and layer has, each a clone of it for each request: one count, whatever the parts are.
#[derive(Clone, Debug)]
pub struct Api(Arc<Parts>);

/// What the API works with.
#[derive(Debug)]
pub struct Parts {
    /// The engine.
    pub keep: TokenKeep,
    /// Who follows the events.
    pub streams: Streams,
    /// The configuration in use.
    pub config: Arc<Live>,
    /// Where browsers come that sign in.
    pub sign_ins: SignIns,
    /// The browsers that are signed in here.
    pub sessions: Sessions,
    /// The wrong keys of late.
    pub failures: Failures,
    /// What is done once.
    pub once: Once,
    /// What is done to many.
    pub bulk: Bulk,
    /// What Prometheus scrapes.
    pub metrics: Metrics,
    /// Counts of the fleet that are kept a while.
    pub counts: Counts,
}

impl Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    /// With nobody signed in yet.
    #[must_use]
    pub fn new(keep: TokenKeep, streams: Streams, config: Arc<Live>, sign_ins: SignIns) -> Self {
        let (sessions, failures, counts) = (Sessions::default(), Failures::default(), Counts::default());
        let metrics = Metrics::of(&keep);
        let (once, bulk) = (Once::default(), Bulk::default());
        Self(Arc::new(Parts { keep, streams, config, sign_ins, sessions, failures, once, bulk, metrics, counts }))
    }

    /// The times of this moment.
    #[must_use]
    pub fn times(&self) -> Times {
        Times::of(&self.keep)
    }

    /// Now, on the wall clock.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        self.keep.wall(self.keep.now())
    }

    /// The problem that an error of the library is now.
    #[must_use]
    pub fn problem(&self, error: &Error) -> Problem {
        let problem = Problem::of(error, &self.times());
        if problem.status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16() {
            tracing::debug!(code = problem.code, detail = problem.detail, "a request failed");
        }
        problem
    }
}

/// The whole API, for whoever [`access`] lets: on the socket, and on TCP behind [`guarded`].
pub fn whole(api: Api) -> Router {
    Router::from(routes())
        .route_layer(middleware::from_fn_with_state(api.once.clone(), idempotency::once))
        .route_layer(middleware::from_fn_with_state(api.clone(), access::enforce))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn(unread::read_rest))
        .with_state(api)
}

/// What TCP serves to programs and pages of this machine: the API, and to browsers the pages of a sign-in, where a
/// provider's page sends them.
pub fn guarded(api: Api) -> Router {
    let own_host = middleware::from_fn_with_state(api.sign_ins.clone(), guard::own_host);
    let own_pages = middleware::from_fn_with_state(api.sign_ins.clone(), guard::own_pages);
    let noted = middleware::from_fn_with_state(api.clone(), access::note_page);
    let refusals = middleware::from_fn_with_state(api.clone(), access::count_refused);
    let pages = Router::from(pages()).route_layer(noted).layer(own_host).with_state(api.clone());
    whole(api).layer(own_pages).merge(pages).layer(refusals)
}

/// Every route, as OpenAPI describes it.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let all = OpenApiRouter::with_openapi(openapi::frame()).merge(routes()).merge(pages());
    openapi::complete(all.into_openapi())
}

/// Each of them has a rule in [`access::RULES`].
fn routes() -> OpenApiRouter<Api> {
    let tagged = || middleware::from_fn(etag::tagged);
    OpenApiRouter::default()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(openapi::get).layer(tagged()))
        .routes(routes!(metrics::get))
        .routes(routes!(summary::get))
        .routes(routes!(connections::list, import::post).layer(tagged()))
        .routes(routes!(connections::show, connections::remove, labels::patch).layer(tagged()))
        .routes(routes!(token::get))
        .routes(routes!(connections::refresh))
        .routes(routes!(timeline::get))
        .routes(routes!(connections::pause))
        .routes(routes!(connections::resume))
        .routes(routes!(export::post))
        .routes(routes!(jira::projects))
        .routes(routes!(jira::issues))
        .routes(routes!(proxy::forward_root))
        .routes(routes!(proxy::forward))
        // Not below /v1/connections, where it would take a name from somebody.
        .routes(routes!(connections::resume_sole_copy))
        .routes(routes!(connect::begin))
        .routes(routes!(connect::link))
        .routes(routes!(connect::introspect))
        .routes(routes!(connect::finish))
        .routes(routes!(connect::show))
        .routes(routes!(admin::master_key))
        .routes(routes!(admin::rotate))
        .routes(routes!(admin::backup))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .routes(routes!(session::show, session::begin, session::end))
        .routes(routes!(session::setup))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show, webhooks::change, webhooks::remove))
        .routes(routes!(webhooks::rotate_secret))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::redeliver))
        .routes(routes!(config::get))
        .routes(routes!(providers::list).layer(tagged()))
        .routes(routes!(fleet::histogram))
        .routes(routes!(fleet::calendar))
        .routes(routes!(fleet::latency))
        .routes(routes!(bulk::begin))
        .routes(routes!(bulk::show))
        .routes(routes!(providers::show).layer(tagged()))
        .routes(routes!(events::list))
        .routes(routes!(stream::get))
}

fn pages() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(oauth::start))
        .routes(routes!(oauth::callback))
        .routes(routes!(oauth::style))
}

async fn no_such_route(uri: Uri) -> Problem {
    let path = tokenkeep_core::model::printable(uri.path(), 200);
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", format!("there is nothing at {path}"))
        .next("Check the path; /v1/openapi.json has them all.")
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let path = tokenkeep_core::model::printable(uri.path(), 200);
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", format!("{path} does not take {method}"))
}
