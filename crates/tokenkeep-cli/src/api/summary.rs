//! `/v1/summary`: counts by status, the next refresh, the earliest expiry.

use super::Api;
use super::json::SummaryJson;
use super::params::Params;
use super::problem::Problem;
use axum::Json;
use axum::extract::{RawQuery, State};

/// Of one namespace with `?namespace=`, else of the whole fleet.
pub async fn get(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<SummaryJson>, Problem> {
    let mut params = Params::new(query.as_deref());
    let namespace = params.namespace()?;
    params.finish()?;
    let summary = api.keep.summary(namespace.as_deref()).await.map_err(|error| api.problem(&error))?;
    Ok(Json(SummaryJson::new(&summary, &api.times())))
}
