//! `/livez` and `/readyz`: the process, and whether it can do its work. A dead provider changes neither.

use super::Api;
use super::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Said while the configuration file is wrong: it makes nobody unready.
const OUTDATED: &str = "the configuration file is wrong, and the one before stays in use: see `tokenkeep config show`";

/// The process answers, and says what time it is to it.
pub async fn livez(State(api): State<Api>) -> Json<Value> {
    let times = api.times();
    Json(json!({"status": "ok", "time": times.text(times.now)}))
}

/// The store can be written, the key is loaded, the scheduler moves.
pub async fn readyz(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    match api.keep.unready() {
        None if api.config.is_outdated() => Ok(Json(json!({"status": "ok", "warnings": [OUTDATED]}))),
        None => Ok(Json(json!({"status": "ok"}))),
        Some(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unready", reason)
            .next("Read the daemon's log; it goes on by itself when the cause is gone.")),
    }
}
