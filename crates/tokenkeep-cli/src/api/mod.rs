//! The HTTP API (interface section 2): a router for the socket and a smaller one for TCP.
//!
//! Whoever reaches the socket is this user or root, and may do everything. TCP has no sign-in yet,
//! so it serves only what holds no secret and changes nothing.

pub mod admin;
pub mod config;
pub mod connect;
pub mod connections;
pub mod events;
pub mod export;
pub mod guard;
pub mod health;
pub mod import;
pub mod json;
pub mod ndjson;
pub mod oauth;
pub mod params;
pub mod problem;
pub mod stream;
pub mod summary;
pub mod token;
pub mod webhooks;

use crate::config::live::Live;
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::routing::{get, post};
use json::Times;
use oauth::SignIns;
use problem::Problem;
use std::sync::Arc;
use stream::Streams;
use tokenkeep::{Error, TokenKeep};

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
    let router = public_routes()
        .route("/v1/connections", get(connections::list).post(import::post))
        .route("/v1/connections/{name}", get(connections::show).delete(connections::remove))
        .route("/v1/connections/{name}/token", get(token::get))
        .route("/v1/connections/{name}/refresh", post(connections::refresh))
        .route("/v1/connections/{name}/pause", post(connections::pause))
        .route("/v1/connections/{name}/resume", post(connections::resume))
        .route("/v1/connections/{name}/export", post(export::post))
        // Not below /v1/connections, where it would take a name from somebody.
        .route("/v1/resume-sole-copy", post(connections::resume_sole_copy))
        .route("/v1/connect", post(connect::begin))
        .route("/v1/connect/links", post(connect::link))
        .route("/v1/connections/{name}/introspect", post(connect::introspect))
        .route("/v1/connect/finish", post(connect::finish))
        .route("/v1/connect/{id}", get(connect::show))
        .route("/v1/admin/master-key", get(admin::master_key))
        .route("/v1/admin/master-key/rotate", post(admin::rotate))
        .route("/v1/admin/backup", post(admin::backup))
        .route("/v1/config", get(config::get))
        .route("/v1/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/v1/webhooks/{id}", get(webhooks::show).patch(webhooks::change).delete(webhooks::remove))
        .route("/v1/webhooks/{id}/rotate-secret", post(webhooks::rotate_secret))
        .route("/v1/webhooks/{id}/test", post(webhooks::test))
        .route("/v1/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/v1/webhooks/{id}/deliveries/{delivery}/redeliver", post(webhooks::redeliver))
        .route("/v1/events", get(events::list))
        .route("/v1/events/stream", get(stream::get));
    with_fallbacks(router).with_state(api)
}

/// What TCP serves to programs and pages of this machine: health and counts, and to browsers the pages of a sign-in,
/// where a provider's page sends them.
pub fn public(api: Api) -> Router {
    let sent = Router::new()
        .route("/oauth/start/{id}", get(oauth::start))
        .route("/oauth/callback", get(oauth::callback))
        .route("/oauth/page.css", get(oauth::style))
        .layer(middleware::from_fn_with_state(api.sign_ins.clone(), guard::own_host));
    with_fallbacks(public_routes()).layer(middleware::from_fn(guard::local_only)).merge(sent).with_state(api)
}

fn public_routes() -> Router<Api> {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/v1/summary", get(summary::get))
}

fn with_fallbacks(router: Router<Api>) -> Router<Api> {
    router.fallback(no_such_route).method_not_allowed_fallback(no_such_method)
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
