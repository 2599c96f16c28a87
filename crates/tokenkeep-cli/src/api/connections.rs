//! `/v1/connections` and what can be done to one.

use super::Api;
use super::access::Caller;
use super::import;
use super::json::{ConnectionJson, Page, ResumedJson, Times};
use super::openapi::{Name, OfNamespace, Order, Paged, Statuses};
use super::params::{Named, Params, key};
use super::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokenkeep::store::{ListQuery, PAGE_MAX};
use tokenkeep::{Error, RefreshAsk, Refreshed};
use tokenkeep_core::Connection;
use tokenkeep_core::model::{DEFAULT_NAMESPACE, Status, check_name};
use utoipa::ToSchema;

/// A page of one namespace, in the order of names.
#[utoipa::path(get, path = "/v1/connections", operation_id = "list_connections", tag = "connections",
    params(
        OfNamespace, Paged,
        ("status" = Option<Statuses>, Query, description = "One or more statuses, separated by commas."),
        ("provider" = Option<Name>, Query, description = "A provider's name in the configuration."),
        ("q" = Option<String>, Query, description = "A part of the name."),
        ("sort" = Option<Order>, Query, description = "The order; there is one."),
    ),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "The page.", body = Page<ConnectionJson>, headers(("ETag" = String))),
    (status = 304, description = "What `If-None-Match` names is still it."),
))]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Page<ConnectionJson>>, Problem> {
    let query = read_list(query.as_deref())?;
    let seen = visible(&api, &caller, &query).await.map_err(|error| api.problem(&error))?;
    let times = api.times();
    let full = seen.len() >= query.limit;
    let next_cursor = seen.last().filter(|_| full).map(|connection| connection.key.name().to_owned());
    let items = seen.iter().map(|connection| with_files(&api, connection, &times)).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// A page of what the caller's rights reach: reads on over the rest, so that no cursor names any of it.
async fn visible(api: &Api, caller: &Caller, query: &ListQuery) -> Result<Vec<Connection>, Error> {
    if caller.sees_all() {
        return api.keep.list(query).await;
    }
    let mut page = ListQuery { limit: PAGE_MAX, ..query.clone() };
    let mut seen = Vec::new();
    loop {
        let found = api.keep.list(&page).await?;
        page.after = found.last().filter(|_| found.len() >= PAGE_MAX).map(|connection| connection.key.clone());
        seen.extend(found.into_iter().filter(|connection| caller.sees(&connection.key)));
        if seen.len() >= query.limit || page.after.is_none() {
            seen.truncate(query.limit);
            return Ok(seen);
        }
    }
}

fn read_list(query: Option<&str>) -> Result<ListQuery, Problem> {
    let mut params = Params::new(query);
    let namespace = params.namespace()?.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let known: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
    let expected = format!("one or more of {}, separated by commas", known.join(", "));
    let statuses = params.parsed("status", &expected, |text| text.split(',').map(Status::parse).collect())?;
    // The store keeps no other order that pages can go on from.
    params.parsed("sort", "name, the one order there is", |text| (text == "name").then_some(()))?;
    let cursor = params.cursor()?;
    let query = ListQuery {
        statuses: statuses.unwrap_or_default(),
        provider: params.parsed("provider", "a provider's name", |t| check_name(t).ok().map(|()| t.to_owned()))?,
        name_contains: params.take("q")?.filter(|text| !text.is_empty()),
        after: cursor.map(|name| key(Some(&namespace), &name)).transpose()?,
        limit: params.limit()?,
        namespace: Some(namespace),
    };
    params.finish()?;
    Ok(query)
}

/// One connection.
#[utoipa::path(get, path = "/v1/connections/{name}", operation_id = "get_connection", tag = "connections", params(Named),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "The connection.", body = ConnectionJson, headers(("ETag" = String))),
    (status = 304, description = "What `If-None-Match` names is still it."),
    (status = 404, description = "`not_found`: there is no such connection."),
))]
pub async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Json<ConnectionJson>, Problem> {
    let key = named.only()?;
    let connection = api.keep.get(&key).await.map_err(|error| api.problem(&error))?;
    let sharing = api.keep.sharing_grant_with(&connection).await.map_err(|error| api.problem(&error))?;
    let shares_grant_with = sharing.iter().filter(|key| caller.sees(key)).map(ToString::to_string).collect();
    Ok(Json(ConnectionJson { shares_grant_with, ..with_files(&api, &connection, &api.times()) }))
}

fn with_files(api: &Api, connection: &tokenkeep_core::Connection, times: &Times) -> ConnectionJson {
    ConnectionJson::new(connection, times).with_token_files(api.keep.token_files(&connection.key), times)
}

/// Removes a connection and wipes its secrets: 204. With `?revoke=true` its grant is ended at the provider first.
#[utoipa::path(delete, path = "/v1/connections/{name}", operation_id = "remove_connection", tag = "connections",
    params(Named, ("revoke" = Option<bool>, Query, description = "End the grant at the provider first.")),
    security(("api_key" = ["manage"])), responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "`not_found`: there is no such connection."),
    (status = 409, description = "`declared`: only the configuration can take it away. `sign_in_failed`, `sign_in_refused`, \
        `sign_in_not_offered`: the grant could not be revoked, and nothing was removed."),
    (status = 502, description = "`sign_in_failed`: the provider could not be reached, and nothing was removed."),
))]
pub async fn remove(State(api): State<Api>, mut named: Named) -> Result<StatusCode, Problem> {
    let revoke = named.params.parsed("revoke", "true or false", |text| text.parse::<bool>().ok())?;
    let key = named.only()?;
    let removed = match revoke {
        Some(true) => api.keep.revoke_and_remove(&key).await,
        _ => api.keep.remove(&key).await,
    };
    removed.map_err(|error| api.problem(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// No refreshes until it is resumed.
#[utoipa::path(post, path = "/v1/connections/{name}/pause", operation_id = "pause_connection", tag = "connections",
    params(Named), security(("api_key" = ["manage"])), responses(
    (status = 200, description = "It is paused.", body = ConnectionJson),
    (status = 404, description = "`not_found`: there is no such connection."),
))]
pub async fn pause(State(api): State<Api>, named: Named) -> Result<Json<ConnectionJson>, Problem> {
    let key = named.only()?;
    let connection = api.keep.pause(&key).await.map_err(|error| api.problem(&error))?;
    Ok(json(&connection, &api.times()))
}

/// Refreshes again.
#[utoipa::path(post, path = "/v1/connections/{name}/resume", operation_id = "resume_connection", tag = "connections",
    params(Named), security(("api_key" = ["manage"])), responses(
    (status = 200, description = "It is resumed.", body = ConnectionJson),
    (status = 404, description = "`not_found`: there is no such connection."),
))]
pub async fn resume(State(api): State<Api>, named: Named) -> Result<Json<ConnectionJson>, Problem> {
    let key = named.only()?;
    let connection = api.keep.resume(&key).await.map_err(|error| api.problem(&error))?;
    Ok(json(&connection, &api.times()))
}

/// Resumes every connection that is held because the database may be a restored copy.
#[utoipa::path(post, path = "/v1/resume-sole-copy", operation_id = "resume_sole_copy", tag = "connections",
    security(("api_key" = ["admin"])), responses(
    (status = 200, description = "How many were resumed.", body = ResumedJson),
))]
pub async fn resume_sole_copy(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<ResumedJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    let resumed = api.keep.resume_all_sole_copy().await.map_err(|error| api.problem(&error))?;
    Ok(Json(ResumedJson { resumed }))
}

/// One attempt: 200 when it ended, whatever its outcome; 202 while it is still in flight.
#[utoipa::path(post, path = "/v1/connections/{name}/refresh", operation_id = "refresh_connection", tag = "connections",
    params(Named), request_body = Option<RefreshBody>, security(("api_key" = ["refresh"])), responses(
    (status = 200, description = "After the attempt, whatever its outcome: `last_error` says.", body = ConnectionJson),
    (status = 202, description = "The attempt is still in flight.", body = ConnectionJson),
    (status = 404, description = "`not_found`: there is no such connection."),
    (status = 409, description = "`needs_reauth`, `held`, `paused`, `in_doubt`: nothing was sent."),
    (status = 413, description = "`too_large`: the body is too long."),
    (status = 503, description = "`retrying`, `expired`, `refreshing`, `fresh`: nothing was sent, because the provider said when \
        to come back: `retry_at`."),
))]
pub async fn refresh(State(api): State<Api>, named: Named, body: Body) -> Result<Response, Problem> {
    let key = named.only()?;
    let body = import::whole(body).await?;
    let ask = read_refresh(&body)?;
    let refreshed = api.keep.refresh(&key, ask).await.map_err(|error| api.problem(&error))?;
    let times = api.times();
    Ok(match refreshed {
        Refreshed::Settled(connection) => json(&connection, &times).into_response(),
        Refreshed::Pending(connection) => (StatusCode::ACCEPTED, json(&connection, &times)).into_response(),
    })
}

/// The body of a refresh request; all of it may be left out.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Refresh)]
struct RefreshBody {
    force: bool,
    if_generation: Option<u64>,
    #[schema(min_length = 16, max_length = 64, pattern = "^[0-9A-Fa-f]*$")]
    rejected: Option<String>,
}

fn read_refresh(body: &[u8]) -> Result<RefreshAsk, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(RefreshAsk::default());
    }
    let expected =
        "Expected {\"if_generation\": N}, {\"rejected\": \"16 or more hex digits\"}, {\"force\": true}, or nothing.";
    let body: Option<RefreshBody> =
        serde_json::from_slice(body).map_err(|error| Problem::unreadable(&error, expected))?;
    let body = body.unwrap_or_default();
    let is_fingerprint = |text: &str| (16..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if body.rejected.as_deref().is_some_and(|text| !is_fingerprint(text)) {
        return Err(Problem::invalid("the field `rejected` is no fingerprint of an access token", expected));
    }
    if body.rejected.is_some() && body.if_generation.is_some() {
        return Err(Problem::invalid("`rejected` and `if_generation` are both given", expected));
    }
    Ok(RefreshAsk { force: body.force, if_generation: body.if_generation, rejected: body.rejected })
}

fn json(connection: &tokenkeep_core::Connection, times: &Times) -> Json<ConnectionJson> {
    Json(ConnectionJson::new(connection, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_asked_for() {
        let query =
            read_list(Some("sort=name&status=held,needs_reauth&provider=jira&q=a&limit=3&cursor=b&namespace=team"))
                .unwrap();
        assert_eq!(query.statuses, [Status::Held, Status::NeedsReauth]);
        assert_eq!((query.provider.as_deref(), query.name_contains.as_deref()), (Some("jira"), Some("a")));
        assert_eq!(query.after.unwrap().to_string(), "team/b");
        assert_eq!((query.namespace.as_deref(), query.limit), (Some("team"), 3));
        assert_eq!(read_list(None).unwrap().namespace.as_deref(), Some("default"));
        for wrong in ["status=good", "status=", "provider=a%20b", "cursor=/", "sort=expires", "limit=x"] {
            assert_eq!(read_list(Some(wrong)).unwrap_err().status, 400, "{wrong}");
        }
    }

    fn refresh(body: &'static str) -> Result<RefreshAsk, Problem> {
        read_refresh(body.as_bytes())
    }

    #[test]
    fn a_refresh_body_may_be_left_out() {
        for nothing in ["", " ", "{}", "null"] {
            let ask = refresh(nothing).unwrap();
            assert!(!ask.force && ask.if_generation.is_none() && ask.rejected.is_none());
        }
        assert!(refresh(r#"{"force": true}"#).unwrap().force);
        assert_eq!(refresh(r#"{"if_generation": 7}"#).unwrap().if_generation, Some(7));
        let ask = refresh(r#"{"rejected": "0123456789abcdef"}"#).unwrap();
        assert_eq!(ask.rejected.as_deref(), Some("0123456789abcdef"));
    }

    #[test]
    fn a_wrong_refresh_body_is_refused() {
        for (wrong, named) in [
            (r#"{"forced": true}"#, "forced"),
            (r#"{"rejected": "0123"}"#, "rejected"),
            (r#"{"rejected": "0123456789abcdeg"}"#, "rejected"),
            (r#"{"rejected": "0123456789abcdef", "if_generation": 1}"#, "both"),
            ("[1", "the body"),
            ("nonsense", "the body"),
        ] {
            let problem = refresh(wrong).unwrap_err();
            assert!(problem.status == 400 && problem.detail.contains(named), "{wrong}: {}", problem.detail);
        }
    }
}
