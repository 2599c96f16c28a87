//! `/v1/summary`: counts by status, the next refresh, the earliest expiry.

use super::Api;
use super::access::Caller;
use super::json::{RotationJson, SummaryJson};
use super::openapi::OfNamespace;
use super::params::Params;
use super::problem::Problem;
use axum::Json;
use axum::extract::{RawQuery, State};

/// Of one namespace with `?namespace=`, else of the whole fleet.
#[utoipa::path(get, path = "/v1/summary", operation_id = "summary", tag = "fleet", params(OfNamespace),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "The counts.", body = SummaryJson),
))]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<SummaryJson>, Problem> {
    let namespace = Params::only_namespace(query.as_deref())?;
    caller.check_counted(namespace.as_deref())?;
    let summary = api.keep.summary(namespace.as_deref()).await.map_err(|error| api.problem(&error))?;
    // An instance without a state folder has no key.
    let rotation = api.keep.master_key().ok().and_then(|key| key.rotation);
    let master_key_rotation = rotation.as_ref().map(RotationJson::new);
    Ok(Json(SummaryJson { master_key_rotation, ..SummaryJson::new(&summary, &api.times()) }))
}
