//! `/v1/api-keys`: who else may ask, and for what.

use super::Api;
use super::access::{About, Caller, forbidden};
use super::import::whole;
use super::json::{Page, parse_time, wall_text};
use super::openapi::Paged;
use super::params::Params;
use super::problem::Problem;
use crate::span;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tokenkeep::access::{ApiKey, CONNECTIONS_PER_HOUR, Keys, LiveKey, NewKey, PATTERNS_MAX, Pattern, Rights, Scope};
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::{NAME_LENGTH_MAX, printable};
use utoipa::ToSchema;

/// The longest name of a key, in characters.
pub const NAME_MAX: usize = 100;
/// The most connections whose tokens a key may be allowed to read within an hour.
pub const CONNECTIONS_PER_HOUR_MAX: u32 = 100_000;

/// A key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
pub struct KeyInfo {
    /// By which it is revoked.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// What it may do; `admin` stands for all.
    pub scopes: Vec<String>,
    /// Only in namespaces that fit one of these; empty: in all.
    pub namespaces: Vec<String>,
    /// Only connections whose name fits one of these; empty: all.
    pub names: Vec<String>,
    /// How many connections' tokens it may read within an hour.
    pub connections_per_hour: u32,
    /// When it was made.
    pub created_at: Option<String>,
    /// By whom.
    pub created_by: String,
    /// When it ends by itself.
    pub expires_at: Option<String>,
    /// When it was last used, since the daemon has started.
    pub last_used_at: Option<String>,
}

impl KeyInfo {
    fn new(key: &ApiKey, last_used_at: Option<Timestamp>) -> Self {
        let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
        Self {
            id: key.id.clone(),
            name: key.name.clone(),
            scopes: key.rights.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            namespaces: texts(&key.rights.namespaces),
            names: texts(&key.rights.names),
            connections_per_hour: key.connections_per_hour,
            created_at: wall_text(key.created_at),
            created_by: key.created_by.clone(),
            expires_at: key.expires_at.and_then(wall_text),
            last_used_at: last_used_at.and_then(wall_text),
        }
    }

    fn of(live: &LiveKey) -> Self {
        Self::new(&live.key, live.last_used_at())
    }
}

/// A key that was just made, with its text: nobody can see that again.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct MadeKey {
    /// What it is.
    #[serde(flatten)]
    pub info: KeyInfo,
    /// The key itself.
    pub key: String,
}

fn keys(api: &Api) -> Result<&Keys, Problem> {
    api.keep.keys().ok_or_else(|| {
        Problem::new(StatusCode::CONFLICT, "no_state_folder", "an instance without a state folder has no API keys")
    })
}

/// What a caller may know of: keys that may do no more than itself.
fn is_visible(caller: &Caller, key: &ApiKey) -> bool {
    caller.rights().is_some_and(|rights| rights.cover(&key.rights))
}

/// A page of keys, in the order of ids.
#[utoipa::path(get, path = "/v1/api-keys", operation_id = "list_api_keys", tag = "admin", params(Paged),
    security(("api_key" = ["admin"])), responses(
    (status = 200, description = "The page: keys that may do no more than the caller.", body = Page<KeyInfo>),
))]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Page<KeyInfo>>, Problem> {
    let mut params = Params::new(query.as_deref());
    let limit = params.limit()?;
    let is_id = |text: &str| text.len() <= NAME_LENGTH_MAX;
    let after = params.parsed("cursor", "the `next_cursor` of the page before", |t| is_id(t).then(|| t.to_owned()))?;
    params.finish()?;
    let all = keys(&api)?.all();
    let visible = all.iter().filter(|live| is_visible(&caller, &live.key));
    let further = visible.filter(|live| after.as_ref().is_none_or(|after| live.key.id > *after));
    let mut items: Vec<KeyInfo> = further.take(limit + 1).map(|live| KeyInfo::of(live)).collect();
    let next_cursor = (items.len() > limit).then(|| items.pop()).flatten().and(items.last()).map(|key| key.id.clone());
    Ok(Json(Page { items, next_cursor }))
}

fn find(api: &Api, caller: &Caller, id: &str) -> Result<std::sync::Arc<LiveKey>, Problem> {
    let found = keys(api)?.get(id).filter(|live| is_visible(caller, &live.key));
    found.ok_or_else(|| {
        Problem::not_found(format!("there is no API key `{}`", printable(id, 60)))
            .next("List the keys with `tokenkeep api-key list`.")
    })
}

/// One key.
#[utoipa::path(get, path = "/v1/api-keys/{id}", operation_id = "get_api_key", tag = "admin",
    params(("id" = String, Path, description = "The key's id.")), security(("api_key" = ["admin"])), responses(
    (status = 200, description = "The key, without its text.", body = KeyInfo),
    (status = 404, description = "`not_found`: there is no such key, or one that may do more than the caller."),
))]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<KeyInfo>, Problem> {
    Params::new(query.as_deref()).finish()?;
    Ok(Json(KeyInfo::of(&*find(&api, &caller, &id)?)))
}

/// Ends a key at once, and every session that came with it: 204.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", operation_id = "revoke_api_key", tag = "admin",
    params(("id" = String, Path, description = "The key's id.")), security(("api_key" = ["admin"])), responses(
    (status = 204, description = "It is ended."),
    (status = 404, description = "`not_found`: there is no such key, or one that may do more than the caller."),
))]
pub async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::new(query.as_deref()).finish()?;
    find(&api, &caller, &id)?;
    keys(&api)?.revoke(&id).await.map_err(|error| api.problem(&error))?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.extensions_mut().insert(About(format!("key:{id}")));
    Ok(response)
}

/// What a key is to be like.
#[derive(Deserialize, Serialize, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Only in namespaces that fit one of these; empty or left out: in all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Only connections whose name fits one of these; empty or left out: all.
    #[serde(default)]
    pub names: Vec<String>,
    /// How many connections' tokens it may read within an hour; 1,000 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_hour: Option<u32>,
    /// How long it lives, such as `90d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<String>,
    /// When it ends by itself, instead of `expires_in`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Makes a key: 201, with its text.
#[utoipa::path(post, path = "/v1/api-keys", operation_id = "create_api_key", tag = "admin", request_body = KeyBody,
    security(("api_key" = ["admin"])), responses(
    (status = 201, description = "The key, with its text.", body = MadeKey),
    (status = 413, description = "`too_large`: the body is too long."),
))]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    Params::new(query.as_deref()).finish()?;
    let body = whole(body).await?;
    let expected = "Expected {\"name\": \"...\", \"scopes\": [\"token\"], ...}.";
    let body: KeyBody = serde_json::from_slice(&body).map_err(|error| Problem::unreadable(&error, expected))?;
    let now = api.wall();
    let new = read(body, &caller, now)?;
    check_lesser(&caller, &new)?;
    let (key, text) = keys(&api)?.create(new, now).await.map_err(|error| api.problem(&error))?;
    let about = About(format!("key:{}", key.id));
    let made = MadeKey { info: KeyInfo::new(&key, None), key: text.expose().to_owned() };
    let mut response = (StatusCode::CREATED, Json(made)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(about);
    Ok(response)
}

/// A key makes only keys that may do no more, read no more and live no longer than itself.
fn check_lesser(caller: &Caller, new: &NewKey) -> Result<(), Problem> {
    if !caller.rights().is_some_and(|rights| rights.cover(&new.rights)) {
        return Err(forbidden("a key can only make keys that may do no more than itself")
            .next("Leave out scopes that it lacks, and name namespaces and names within its own."));
    }
    let Some(own) = caller.key() else { return Ok(()) };
    if new.connections_per_hour > own.key.connections_per_hour {
        return Err(forbidden(format!(
            "the field `connections_per_hour` is {}, and the key that asks has {}",
            new.connections_per_hour, own.key.connections_per_hour
        )));
    }
    match own.key.expires_at {
        Some(end) if new.expires_at.is_none_or(|wanted| wanted > end) => {
            Err(forbidden("a key can only make keys that end no later than itself")
                .next("Give `expires_in` or `expires_at` within its own life."))
        }
        _ => Ok(()),
    }
}

fn read(body: KeyBody, caller: &Caller, now: Timestamp) -> Result<NewKey, Problem> {
    let wrong = |field: &str, found: &str, expected: &str| {
        Problem::invalid(format!("the field `{field}` {found}"), format!("Expected {expected}."))
    };
    let name_is_good =
        (1..=NAME_MAX).contains(&body.name.chars().count()) && !body.name.chars().any(tokenkeep_core::model::is_hidden);
    if !name_is_good {
        let found = format!("is `{}`", printable(&body.name, 40));
        return Err(wrong("name", &found, &format!("1 to {NAME_MAX} visible characters")));
    }
    let known = Scope::ALL.map(Scope::as_str).join(", ");
    let scope = |text: &String| {
        let found = format!("has `{}`", printable(text, 40));
        Scope::parse(text).ok_or_else(|| wrong("scopes", &found, &format!("one or more of {known}")))
    };
    let scopes: BTreeSet<Scope> = body.scopes.iter().map(scope).collect::<Result<_, _>>()?;
    if scopes.is_empty() {
        return Err(wrong("scopes", "is empty", &format!("one or more of {known}")));
    }
    let patterns = |field: &str, texts: &[String]| -> Result<Vec<Pattern>, Problem> {
        if texts.len() > PATTERNS_MAX {
            return Err(wrong(field, &format!("has {} entries", texts.len()), &format!("at most {PATTERNS_MAX}")));
        }
        let read =
            |text: &String| Pattern::parse(text).map_err(|error| wrong(field, &error, "names, with * for any run"));
        texts.iter().map(read).collect()
    };
    let rights = Rights {
        scopes,
        namespaces: patterns("namespaces", &body.namespaces)?,
        names: patterns("names", &body.names)?,
    };
    let connections_per_hour = body.connections_per_hour.unwrap_or(CONNECTIONS_PER_HOUR);
    if !(1..=CONNECTIONS_PER_HOUR_MAX).contains(&connections_per_hour) {
        let expected = format!("1 to {CONNECTIONS_PER_HOUR_MAX}");
        return Err(wrong("connections_per_hour", &format!("is {connections_per_hour}"), &expected));
    }
    let expires_at = match (body.expires_in.as_deref(), body.expires_at.as_deref()) {
        (None, None) => None,
        (Some(span), None) => {
            Some(now + span::parse(span).map_err(|error| wrong("expires_in", &error, span::EXPECTED))?)
        }
        (None, Some(time)) => Some(parse_time(time).filter(|&end| end > now).ok_or_else(|| {
            wrong("expires_at", &format!("is `{}`", printable(time, 40)), "an RFC 3339 time to come")
        })?),
        (Some(_), Some(_)) => return Err(wrong("expires_at", "is given besides `expires_in`", "one of the two")),
    };
    let created_by = caller.actor();
    Ok(NewKey { name: body.name, rights, connections_per_hour, expires_at, created_by })
}
