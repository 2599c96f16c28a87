//! The HTTP API (interface section 2): a router for the socket and a smaller one for TCP.
//!
//! Whoever reaches the socket is this user or root, and may do everything. TCP has no sign-in yet,
//! so it serves only what holds no secret and changes nothing.

pub mod admin;
pub mod config;
pub mod connect;
pub mod connections;
pub mod etag;
pub mod events;
pub mod export;
pub mod fleet;
pub mod guard;
pub mod health;
pub mod import;
pub mod json;
pub mod labels;
pub mod ndjson;
pub mod oauth;
pub mod openapi;
pub mod params;
pub mod problem;
pub mod providers;
pub mod stream;
pub mod summary;
pub mod timeline;
pub mod token;
pub mod unread;

use crate::config::live::Live;
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use json::Times;
use oauth::SignIns;
use problem::Problem;
use std::sync::Arc;
use stream::Streams;
use tokenkeep::{Error, TokenKeep};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

/// What every handler has.
#[derive(Clone, Debug)]
pub struct Api {
    /// The engine.
    pub keep: TokenKeep,
    /// Who follows the events.
    pub streams: Streams,
    /// The configuration in use.
    pub config: Arc<Live>,
    /// Where browsers come that sign in.
    pub sign_ins: SignIns,
    /// Counts of the fleet that are kept a while.
    pub counts: fleet::Counts,
}

impl Api {
    /// The times of this moment.
    #[must_use]
    pub fn times(&self) -> Times {
        Times::of(&self.keep)
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

/// Every route; for the socket.
pub fn whole(api: Api) -> Router {
    with_fallbacks(socket_routes().into()).with_state(api)
}

/// What TCP serves to programs and pages of this machine: health and counts, and to browsers the pages of a sign-in,
/// where a provider's page sends them.
pub fn public(api: Api) -> Router {
    let sent = Router::from(page_routes()).layer(middleware::from_fn_with_state(api.sign_ins.clone(), guard::own_host));
    with_fallbacks(public_routes().into()).layer(middleware::from_fn(guard::local_only)).merge(sent).with_state(api)
}

/// Every route, as OpenAPI describes it.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let all = OpenApiRouter::with_openapi(openapi::frame()).merge(socket_routes()).merge(page_routes());
    openapi::complete(all.into_openapi())
}

fn socket_routes() -> OpenApiRouter<Api> {
    let tagged = || middleware::from_fn(etag::tagged);
    public_routes()
        .routes(routes!(openapi::get).layer(tagged()))
        .routes(routes!(connections::list, import::post).layer(tagged()))
        .routes(routes!(connections::show, connections::remove, labels::patch).layer(tagged()))
        .routes(routes!(token::get))
        .routes(routes!(connections::refresh))
        .routes(routes!(timeline::get))
        .routes(routes!(connections::pause))
        .routes(routes!(connections::resume))
        .routes(routes!(export::post))
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
        .routes(routes!(config::get))
        .routes(routes!(providers::list).layer(tagged()))
        .routes(routes!(fleet::histogram))
        .routes(routes!(fleet::calendar))
        .routes(routes!(providers::show).layer(tagged()))
        .routes(routes!(events::list))
        .routes(routes!(stream::get))
}

fn page_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(oauth::start))
        .routes(routes!(oauth::callback))
        .routes(routes!(oauth::style))
}

fn public_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(summary::get))
}

fn with_fallbacks(router: Router<Api>) -> Router<Api> {
    let router = router.fallback(no_such_route).method_not_allowed_fallback(no_such_method);
    router.layer(middleware::from_fn(unread::read_rest))
}

async fn no_such_route(uri: Uri) -> Problem {
    let path = tokenkeep_core::model::printable(uri.path(), 200);
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", format!("there is nothing at {path}"))
        .next("Check the path; on TCP only /livez, /readyz and /v1/summary are served, on the socket everything.")
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let path = tokenkeep_core::model::printable(uri.path(), 200);
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", format!("{path} does not take {method}"))
}
