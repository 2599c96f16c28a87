//! `/livez` and `/readyz`: the process, and whether it can do its work. A dead provider changes neither.

use super::Api;
use super::openapi::Time;
use super::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// Said while the configuration file is wrong: it makes nobody unready.
const OUTDATED: &str = "the configuration file is wrong, and the one before stays in use: see `tokenkeep config show`";

/// A process that answers.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Alive)]
pub struct AliveJson {
    /// `ok`.
    pub status: &'static str,
    /// What time it is to the daemon.
    #[schema(required, value_type = Option<Time>)]
    pub time: Option<String>,
}

/// A daemon that does its work.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Ready)]
pub struct ReadyJson {
    /// `ok`.
    pub status: &'static str,
    /// What to know all the same; left out where there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<&'static str>,
}

/// The process answers, and says what time it is to it.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "health", responses(
    (status = 200, description = "It lives.", body = AliveJson),
))]
pub async fn livez(State(api): State<Api>) -> Json<AliveJson> {
    let times = api.times();
    Json(AliveJson { status: "ok", time: times.text(times.now) })
}

/// The store can be written, the key is loaded, the scheduler moves.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "health", responses(
    (status = 200, description = "It is ready.", body = ReadyJson),
    (status = 503, description = "`unready`: `detail` says why."),
))]
pub async fn readyz(State(api): State<Api>) -> Result<Json<ReadyJson>, Problem> {
    match api.keep.unready() {
        None if api.config.is_outdated() => Ok(Json(ReadyJson { status: "ok", warnings: vec![OUTDATED] })),
        None => Ok(Json(ReadyJson { status: "ok", warnings: Vec::new() })),
        Some(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unready", reason)
            .next("Read the daemon's log; it goes on by itself when the cause is gone.")),
    }
}
