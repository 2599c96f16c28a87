//! `PATCH /v1/connections/{name}`: labels, by a merge patch (RFC 7396).

use super::Api;
use super::import;
use super::json::ConnectionJson;
use super::params::Named;
use super::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use tokenkeep::Error;
use tokio::sync::Mutex;
use utoipa::ToSchema;

const EXPECTED: &str = "Expected {\"labels\": {\"name\": \"value\", \"other\": null}}: null takes a label away.";

/// One patch at a time reads labels and writes them.
static PATCHING: Mutex<()> = Mutex::const_new(());

/// What changes.
#[derive(Deserialize, ToSchema)]
#[schema(as = ConnectionPatch)]
#[serde(deny_unknown_fields)]
pub struct PatchBody {
    /// Labels to set; `null` takes one away. Others stay.
    labels: BTreeMap<String, Option<String>>,
}

/// Changes labels by a merge patch: `null` takes one away, what is not named stays.
#[utoipa::path(patch, path = "/v1/connections/{name}", operation_id = "patch_connection", tag = "connections", params(Named),
    request_body(content((PatchBody = "application/merge-patch+json"), (PatchBody = "application/json"))),
    security(("api_key" = ["manage"])), responses(
    (status = 200, description = "The connection.", body = ConnectionJson),
    (status = 404, description = "`not_found`: there is no such connection."),
    (status = 409, description = "`declared`: the configuration is master of its labels."),
    (status = 413, description = "`too_large`: the body is too long."),
))]
pub async fn patch(State(api): State<Api>, named: Named, body: Body) -> Result<Json<ConnectionJson>, Problem> {
    let key = named.only()?;
    let body = import::whole(body).await?;
    let patch = read(&body)?;
    let _alone = PATCHING.lock().await;
    let connection = api.keep.get(&key).await.map_err(|error| api.problem(&error))?;
    let labels = import::check_labels(merged(connection.labels, patch))?;
    let labelled = api.keep.label(&key, labels).await.map_err(|error| match error {
        Error::Declared(_) => declared(key.name()),
        other => api.problem(&other),
    })?;
    Ok(Json(ConnectionJson::new(&labelled, &api.times())))
}

fn read(body: &[u8]) -> Result<PatchBody, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::unreadable(&error, EXPECTED))
}

fn merged(mut labels: BTreeMap<String, String>, patch: PatchBody) -> BTreeMap<String, String> {
    for (name, value) in patch.labels {
        match value {
            Some(value) => labels.insert(name, value),
            None => labels.remove(&name),
        };
    }
    labels
}

fn declared(name: &str) -> Problem {
    let detail = format!("the labels of `{name}` are declared in the configuration");
    Problem::new(StatusCode::CONFLICT, "declared", detail)
        .next(format!("Change them in [connections.{name}] and reload the configuration (SIGHUP)."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_takes_a_label_away_and_others_stay() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let patch = read(br#"{"labels": {"a": null, "c": "3", "absent": null}}"#).ok().unwrap();
        let expected = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())]);
        assert_eq!(merged(labels, patch), expected);
    }

    #[test]
    fn a_wrong_patch_is_refused() {
        for (body, named) in [
            ("{}", "labels"),
            ("", "the body"),
            (r#"{"labels": {"a": 1}}"#, "the body"),
            (r#"{"labels": {}, "name": "x"}"#, "name"),
            (r#"{"labels": []}"#, "the body"),
        ] {
            let problem = read(body.as_bytes()).err().expect(body);
            assert!(problem.status == 400 && problem.detail.contains(named), "{body}: {}", problem.detail);
        }
    }
}
