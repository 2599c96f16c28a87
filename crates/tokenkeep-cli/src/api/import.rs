//! `POST /v1/connections`: takes over one token set, or with NDJSON many.
//!
//! No message repeats a value of the body: it holds tokens.

use super::Api;
use super::access::{About, Caller};
use super::json::{ConnectionJson, ImportedJson, Times};
use super::ndjson;
use super::openapi::{Name, OfNamespace, TokenFile};
use super::params::{Params, key};
use super::problem::Problem;
use crate::server::TooSlow;
use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use tokenkeep::{Import, Imported};
use tokenkeep_core::model::{check_name, printable};
use tokenkeep_core::{Connection, Secret};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// The largest JSON body.
pub const JSON_MAX: usize = 1024 * 1024;
/// How much room is made for a body that only says how long it will be.
const FIRST_BYTES_MAX: usize = 16 * 1024;
/// The most labels of a connection.
pub const LABELS_MAX: usize = 64;
/// The longest value of a label, in bytes.
const LABEL_LENGTH_MAX: usize = 256;

/// Takes a token set over: 201 for a new connection, 200 for one that exists.
#[utoipa::path(post, path = "/v1/connections", operation_id = "import_connections", tag = "connections",
    params(OfNamespace),
    request_body(content((ImportBody = "application/json"), (String = "application/x-ndjson")),
        description = "One token set, or with NDJSON many: a line each."),
    security(("api_key" = ["manage"])), responses(
    (status = 200, description = "A new grant of an existing connection, or nothing new; to NDJSON, what became of each line.",
        content((ImportedJson = "application/json"), (String = "application/x-ndjson"))),
    (status = 201, description = "A new connection.", body = ImportedJson),
    (status = 409, description = "`sign_in_other_account`: the connection belongs to another account."),
    (status = 413, description = "`too_large`: the body is too long."),
    (status = 415, description = "`unsupported_media_type`: neither JSON nor NDJSON."),
))]
pub async fn post(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let namespace = Params::only_namespace(query.as_deref())?;
    match content_type(&headers).as_str() {
        "application/json" => one(&api, &caller, namespace.as_deref(), body).await,
        "application/x-ndjson" => Ok(ndjson::import(api, caller, namespace, body)),
        other => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("the Content-Type is `{}`", printable(other, 80)),
        )
        .next("Send application/json for one, application/x-ndjson for many.")),
    }
}

/// The media type without parameters, in lower case.
fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

async fn one(api: &Api, caller: &Caller, namespace: Option<&str>, body: Body) -> Result<Response, Problem> {
    let body = whole(body).await?;
    let import = read(&body, namespace)?;
    caller.check_new(&import.key)?;
    let about = About::connection(&import.key);
    let imported = api.keep.import(import).await.map_err(|error| api.problem(&error))?;
    let status = match imported {
        Imported::Created(_) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    let (result, connection) = parts(&imported);
    Ok((status, about, Json(answer(result, connection, &api.times()))).into_response())
}

/// What is answered to an import.
fn answer(result: &str, connection: &Connection, times: &Times) -> ImportedJson {
    ImportedJson {
        name: connection.key.name().to_owned(),
        result: result.to_owned(),
        connection: Some(ConnectionJson::new(connection, times)),
    }
}

/// The result as the API writes it, and the connection.
#[must_use]
pub fn parts(imported: &Imported) -> (&'static str, &Connection) {
    match imported {
        Imported::Created(connection) => ("created", connection),
        Imported::Renewed(connection) => ("renewed", connection),
        Imported::AlreadyHeld(connection) => ("already_held", connection),
        Imported::AlreadyUsed(connection) => ("already_used", connection),
    }
}

/// A whole body of JSON of at most [`JSON_MAX`] bytes.
///
/// # Errors
/// It is longer, did not come in time, or ended early.
pub async fn whole(body: Body) -> Result<Zeroizing<Vec<u8>>, Problem> {
    whole_within(JSON_MAX, body).await
}

/// The same of at most `most` bytes.
///
/// It is copied as it comes: kept as it came, a body that comes byte by byte would cost a multiple of its length.
///
/// # Errors
/// As [`whole`].
pub async fn whole_within(most: usize, mut body: Body) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut whole = Zeroizing::new(Vec::with_capacity(expected.min(most).min(FIRST_BYTES_MAX)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| if is_too_slow(&error) { too_slow() } else { too_large(most) })?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > most {
            return Err(too_large(most));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

fn is_too_slow(error: &axum::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source()).any(|cause| cause.is::<TooSlow>())
}

/// A body that did not come in time.
#[must_use]
pub fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time")
        .next("Send the request again, its body at once.")
}

fn too_large(most: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("the body is longer than {most} bytes, or ended early"),
    )
}

/// The fields, each still as it was written.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Import)]
struct ImportBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Name)]
    name: &'a RawValue,
    #[serde(borrow)]
    #[schema(value_type = Name)]
    provider: &'a RawValue,
    #[serde(borrow)]
    #[schema(value_type = TokenFile)]
    token: &'a RawValue,
    #[serde(borrow, default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    labels: Option<&'a RawValue>,
}

const EXPECTED: &str = "Expected {\"name\": \"...\", \"provider\": \"...\", \"token\": {\"access_token\": \"...\", ...}, \"labels\": {\"k\": \"v\"}}.";

/// Reads `{name, provider, token, labels}`.
///
/// # Errors
/// What is wrong with it, without a value of it.
pub fn read(body: &[u8], namespace: Option<&str>) -> Result<Import, Problem> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::invalid("the body is no JSON object", EXPECTED));
    }
    let body: ImportBody<'_> = serde_json::from_slice(body).map_err(|error| Problem::unreadable(&error, EXPECTED))?;
    let name: String = field("name", body.name, "a string")?;
    let provider: String = field("provider", body.provider, "a string")?;
    check_name(&provider).map_err(|error| Problem::invalid(error.to_string(), "Correct the provider's name."))?;
    if !body.token.get().starts_with('{') {
        return Err(wrong_field("token", "an object, as in a token file"));
    }
    Ok(Import {
        key: key(namespace, &name)?,
        provider,
        token: Secret::new(body.token.get()),
        labels: body.labels.map(labels).transpose()?,
    })
}

/// The name alone, of a body that may be wrong otherwise.
#[must_use]
pub fn name_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    serde_json::from_slice::<Name>(body).ok().map(|body| printable(&body.name, 128))
}

fn field<T: DeserializeOwned>(name: &str, value: &RawValue, expected: &str) -> Result<T, Problem> {
    serde_json::from_str(value.get()).map_err(|_| wrong_field(name, expected))
}

fn wrong_field(name: &str, expected: &str) -> Problem {
    Problem::invalid(format!("the field `{name}` is not {expected}"), EXPECTED)
}

/// Whether a connection may have this label.
#[must_use]
pub fn is_label(name: &str, value: &str) -> bool {
    check_name(name).is_ok() && value.len() <= LABEL_LENGTH_MAX && !value.contains(char::is_control)
}

fn labels(value: &RawValue) -> Result<BTreeMap<String, String>, Problem> {
    check_labels(field("labels", value, "an object of strings")?)
}

/// Labels as they may be.
///
/// # Errors
/// Too many, or one that is no name or too long.
pub fn check_labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Problem> {
    if labels.len() <= LABELS_MAX && labels.iter().all(|(name, value)| is_label(name, value)) {
        return Ok(labels);
    }
    Err(wrong_field(
        "labels",
        "at most 64 labels with names of letters, digits and . _ - @ + :, and values of at most 256 bytes without control characters",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Problem {
        read(body.as_bytes(), None).expect_err(body)
    }

    #[test]
    fn an_import_is_read_and_the_token_kept_as_written() {
        let body = r#" {"name": "jira", "provider": "p", "token": {"access_token": "a", "x": 1.0}, "labels": {"team": "ops"}}"#;
        let import = read(body.as_bytes(), Some("team")).unwrap();
        assert_eq!((import.key.to_string().as_str(), import.provider.as_str()), ("team/jira", "p"));
        assert_eq!(import.token.expose(), r#"{"access_token": "a", "x": 1.0}"#);
        assert_eq!(import.labels.unwrap()["team"], "ops");
        let body = r#"{"name":"j","provider":"p","token":{},"labels":null}"#;
        assert!(read(body.as_bytes(), None).unwrap().labels.is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, named) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{", "the body"),
            (r#"{"name":"j","provider":"p"}"#, "token"),
            (r#"{"name":"j","provider":"p","token":{},"colour":1}"#, "colour"),
            (r#"{"name":"j","name":"k","provider":"p","token":{}}"#, "name"),
            (r#"{"name":7,"provider":"p","token":{}}"#, "`name`"),
            (r#"{"name":"a/b","provider":"p","token":{}}"#, "a/b"),
            (r#"{"name":"j","provider":"p q","token":{}}"#, "p q"),
            (r#"{"name":"j","provider":"p","token":{},"labels":[]}"#, "`labels`"),
            (r#"{"name":"j","provider":"p","token":{},"labels":{"a b":"x"}}"#, "`labels`"),
            (r#"{"name":"j","provider":"p","token":{},"labels":{"a":"x\ny"}}"#, "`labels`"),
            (r#"{"name":"j","provider":"p","token":{}} tail"#, "the body"),
        ] {
            let problem = refused(body);
            assert!(problem.status == 400 && problem.detail.contains(named), "{body}: {}", problem.detail);
        }
    }

    #[test]
    fn no_secret_comes_back() {
        for body in [
            r#""hunter2""#,
            r#"{"name":"j","provider":"p","token":"hunter2"}"#,
            r#"{"name":"j","provider":"p","token":{"access_token":"hunter2"}"#,
            r#"{"name":"j","provider":"p","token":{"access_token":"hunter2"},}"#,
            r#"{"name":["hunter2"],"provider":"p","token":{}}"#,
            r#"{"name":"j","provider":"p","token":{},"labels":"hunter2"}"#,
        ] {
            let problem = serde_json::to_string(&refused(body)).unwrap();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn the_media_type_is_read_without_parameters() {
        let mut headers = HeaderMap::new();
        assert_eq!(content_type(&headers), "");
        headers.insert(header::CONTENT_TYPE, "Application/JSON; charset=utf-8".parse().unwrap());
        assert_eq!(content_type(&headers), "application/json");
    }

    #[test]
    fn a_name_is_found_in_a_wrong_line() {
        assert_eq!(name_of(br#"{"name":"j","token":7}"#).as_deref(), Some("j"));
        assert_eq!(name_of(b"{"), None);
    }
}
