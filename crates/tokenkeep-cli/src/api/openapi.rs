//! `/v1/openapi.json`: the API as OpenAPI 3.1, made from the handlers that serve it.
//!
//! Each handler says by `#[utoipa::path]` what it takes and answers, and `routes!` registers both together. What holds
//! everywhere is added by [`complete`]: the form of problems, what any route of `/v1` can answer, the session as the other way
//! to show who asks. In the description of a problem, the words in backticks are the `code`s that it can have.

use super::idempotency::{self, KEY_BYTES_MAX};
use super::params::Named;
use super::problem::{self, Problem};
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response as Answer};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::sync::LazyLock;
use tokenkeep::store::PAGE_MAX;
use tokenkeep_core::event::EventKind;
use tokenkeep_core::model::{NAME_LENGTH_MAX, Status};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{AllOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{OpenApi as Document, PathItem, Ref, RefOr, Required, Schema};
use utoipa::{IntoParams, OpenApi, PartialSchema, ToSchema};

/// An API key.
pub const API_KEY: &str = "api_key";
/// The dashboard's session.
pub const SESSION: &str = "session";
/// The cookie of the dashboard's session.
pub const SESSION_COOKIE: &str = super::session::COOKIE_SECURE;

/// What any route of `/v1` can answer, besides what it says itself.
const EVERYWHERE: [(u16, &str, &str); 6] = [
    (
        400,
        "Invalid",
        "`invalid`: something in the request is not what it must be; `detail` names it, `next_action` what was expected.",
    ),
    (
        401,
        "Unauthenticated",
        "`unauthenticated`, `unknown_key`: on TCP, there is no API key and no session, or none that is good.",
    ),
    (
        403,
        "Forbidden",
        "`forbidden`, `socket_only`: the key's or session's scopes, namespaces or names do not reach this. `host_not_allowed`, \
         `foreign_page`: on TCP, the request names another host, or comes from another site's page.",
    ),
    (
        429,
        "TooMany",
        "`too_many_wrong_keys`: too many wrong keys were tried; right ones are served all the while. `too_many_requests`: \
         too many requests of one key are not answered yet.",
    ),
    (
        500,
        "Broken",
        "`internal`, `store_damaged`, `store_newer`, `master_key`, `folder`: the installation is to be mended.",
    ),
    (
        503,
        "Unavailable",
        "`store_unusable`, `journal`, `locked`, `master_key_rotating`, `shutting_down`: the daemon cannot do it now; trying \
         again may help.",
    ),
];

/// What a route that takes a body can answer.
const WITH_BODY: (u16, &str, &str) = (408, "TooSlow", "`too_slow`: on TCP, the body did not come in time.");

/// What a POST can answer that has an `Idempotency-Key`.
const ONCE: [(u16, &str, &str); 3] = [
    (
        409,
        "Once",
        "`idempotency_key_in_flight`, `idempotency_answer_not_kept`: the same request with the same `Idempotency-Key` is not \
         answered yet, or its answer is not kept, because it has a secret or is long.",
    ),
    (413, "TooLarge", "`too_large`: the body is too long, for one with an `Idempotency-Key` at least."),
    (422, "KeyReused", "`idempotency_key_reused`: the `Idempotency-Key` was given to another request."),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tokenkeep",
        description = "Keeps OAuth tokens fresh in the background. On the socket in the state folder the daemon's own user may do \
                       everything; on TCP an API key or the dashboard's session says who asks, and its scopes what is allowed.",
    ),
    servers((url = "http://localhost:7878", description = "The default address")),
    components(schemas(Problem, Kinds, Name, Order, Span, Statuses, Time)),
    tags(
        (name = "connections", description = "What is kept fresh"),
        (name = "proxy", description = "Calls to providers' APIs for callers who never hold the token"),
        (name = "sign-in", description = "How a person connects an account"),
        (name = "events", description = "What happened"),
        (name = "webhooks", description = "Where events are sent"),
        (name = "fleet", description = "All connections together"),
        (name = "admin", description = "The daemon itself"),
        (name = "health", description = "For whoever watches the process; open to all"),
        (name = "pages", description = "Where the browsers of people come who sign in; open to all"),
        (name = "socket only", description = "Served on the socket in the state folder alone, to its own user"),
    )
)]
struct Whole;

/// The document before its routes.
#[must_use]
pub fn frame() -> Document {
    let mut document = Whole::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key, `tk_...`")).build();
    let cookie = ApiKeyValue::with_description(SESSION_COOKIE, "Of the dashboard, after a sign-in at /v1/session");
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(API_KEY, SecurityScheme::Http(bearer));
    components.add_security_scheme(SESSION, SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    for (status, name, text) in EVERYWHERE.into_iter().chain(ONCE).chain([WITH_BODY]) {
        let mut answer = Response::new(text);
        as_problem(&mut answer, status);
        components.responses.insert(name.to_owned(), answer.into());
    }
    document
}

/// Adds what holds everywhere.
#[must_use]
pub fn complete(mut document: Document) -> Document {
    // `{*path}` is the router's way to write it.
    document.paths.paths =
        document.paths.paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    for (path, item) in &mut document.paths.paths {
        name_apart(item);
        for operation in operations(item) {
            // What a provider answers has any form.
            let is_passed_on = operation.responses.responses.contains_key("default");
            if path.starts_with("/v1/") && !is_passed_on {
                everywhere(operation);
            }
        }
        if let Some(post) = item.post.as_mut().filter(|_| idempotency::takes(&Method::POST, path)) {
            once(post);
        }
        for operation in operations(item) {
            for (status, answer) in &mut operation.responses.responses {
                if let RefOr::T(answer) = answer
                    && let Ok(status @ 400..) = status.parse()
                    && answer.content.is_empty()
                {
                    as_problem(answer, status);
                }
            }
            or_session(operation);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, options, .. } = item;
    [get, put, post, delete, patch, options].into_iter().flatten()
}

/// One handler of several methods is as many operations, each with an id of its own.
fn name_apart(item: &mut PathItem) {
    let PathItem { get, put, post, delete, patch, options, .. } = item;
    let all = [("get", get), ("put", put), ("post", post), ("delete", delete), ("patch", patch), ("options", options)];
    let mut ids = BTreeSet::new();
    for (method, operation) in all {
        let Some(id) = operation.as_mut().and_then(|operation| operation.operation_id.as_mut()) else { continue };
        if !ids.insert(id.clone()) {
            *id = format!("{id}_{method}");
        }
    }
}

fn everywhere(operation: &mut Operation) {
    if operation.request_body.is_some() {
        let (status, name, _) = WITH_BODY;
        operation.responses.responses.insert(status.to_string(), Ref::from_response_name(name).into());
    }
    also(operation, &EVERYWHERE);
}

/// An `Idempotency-Key` may come with it.
fn once(operation: &mut Operation) {
    also(operation, &ONCE);
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[!-~]+$"))
        .min_length(Some(1))
        .max_length(Some(KEY_BYTES_MAX));
    let text = "The same key with the same request, within a day: it is done once, and answered again as it was.";
    let parameter = parameter(idempotency::HEADER, ParameterIn::Header, text, key.into());
    operation.parameters.get_or_insert_default().push(parameter.into());
}

/// Adds answers, or what they can be besides what the operation says itself.
fn also(operation: &mut Operation, answers: &[(u16, &str, &str)]) {
    for &(status, name, text) in answers {
        match operation.responses.responses.entry(status.to_string()) {
            Entry::Vacant(place) => {
                place.insert(Ref::from_response_name(name).into());
            }
            Entry::Occupied(mut place) => {
                if let RefOr::T(answer) = place.get_mut() {
                    answer.description = format!("{} {text}", answer.description);
                }
            }
        }
    }
}

fn as_problem(answer: &mut Response, status: u16) {
    let codes: Vec<&str> = answer.description.split('`').skip(1).step_by(2).filter(|word| is_code(word)).collect();
    let problem = RefOr::from(Ref::from_schema_name(Problem::name()));
    let schema: RefOr<Schema> = if codes.is_empty() {
        problem
    } else {
        let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes));
        AllOfBuilder::new().item(problem).item(ObjectBuilder::new().property("code", code)).into()
    };
    let content = ContentBuilder::new().schema(Some(schema)).build();
    answer.content.insert(problem::CONTENT_TYPE.to_owned(), content.into());
    if matches!(status, 429 | 503) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds, where known")).build();
        answer.headers.insert("Retry-After".to_owned(), header.into());
    }
}

/// A field's name would do as well: those that descriptions mention are left out.
fn is_code(word: &str) -> bool {
    let fields = ["detail", "next_action", "retry_at"];
    !fields.contains(&word) && word.bytes().all(|letter| letter.is_ascii_lowercase() || letter == b'_')
}

/// Whoever may ask with a key may ask with a session of the same scope.
fn or_session(operation: &mut Operation) {
    let Some(scope) = operation.security.as_ref().and_then(|all| scope_of(all)) else { return };
    let session = SecurityRequirement::new(SESSION, [scope]);
    operation.security.get_or_insert_default().push(session);
}

fn scope_of(requirements: &[SecurityRequirement]) -> Option<String> {
    let value = serde_json::to_value(requirements.first()?).ok()?;
    value.get(API_KEY)?.get(0)?.as_str().map(str::to_owned)
}

/// The document as text.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let document = serde_json::to_value(super::document()).unwrap_or(Value::Null);
    format!("{document:#}\n")
});

/// The document as it is served, and committed as docs/openapi.json.
#[must_use]
pub fn text() -> &'static str {
    &TEXT
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "openapi", tag = "admin", security(("api_key" = [])),
    responses(
    (status = 200, description = "The document.", body = Object, headers(("ETag" = String))),
    (status = 304, description = "What `If-None-Match` names is still it."),
))]
pub async fn get() -> Answer {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text()).into_response()
}

/// A schema of something that is a string in JSON.
macro_rules! string_schema {
    ($(#[$doc:meta])* $name:ident => $build:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let build: fn(ObjectBuilder) -> ObjectBuilder = $build;
                build(ObjectBuilder::new().schema_type(Type::String)).into()
            }
        }

        impl ToSchema for $name {}
    };
}

string_schema! {
    /// A name of a connection, a namespace or a provider.
    Name => |schema| schema
        .pattern(Some("^[A-Za-z0-9][A-Za-z0-9._@+:-]*$"))
        .min_length(Some(1))
        .max_length(Some(NAME_LENGTH_MAX))
}

string_schema! {
    /// A time: RFC 3339, in answers always UTC with milliseconds.
    Time => |schema| schema.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

string_schema! {
    /// A span of time: `300s`, `5m`, `1h30m` or `300` (seconds).
    Span => |schema| schema.pattern(Some("^([0-9]{1,6}|([0-9]{1,6}(ms|s|m|h|d))+)$"))
}

string_schema! {
    /// The status of a connection.
    StatusName => |schema| schema.enum_values(Some(Status::ALL.map(Status::as_str)))
}

string_schema! {
    /// One or more statuses, separated by commas.
    Statuses => |schema| schema.pattern(Some(some_of(&Status::ALL.map(Status::as_str))))
}

string_schema! {
    /// The order of a list.
    Order => |schema| schema.enum_values(Some(["name"]))
}

string_schema! {
    /// One or more kinds of what a stream tells, separated by commas.
    Kinds => |schema| schema.pattern(Some(some_of(&["event", "summary", "step"])))
}

string_schema! {
    /// The type of an event.
    EventType => |schema| schema.enum_values(Some(EventKind::ALL.map(EventKind::as_str)))
}

/// A pattern for one or more of these words, separated by commas.
fn some_of(words: &[&str]) -> String {
    let one = words.join("|");
    format!("^({one})(,({one}))*$")
}

/// A token file (interface section 4): `access_token`, `refresh_token`, `expires_at`, and what else the provider sent.
#[derive(Debug)]
pub struct TokenFile;

impl PartialSchema for TokenFile {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let number = || ObjectBuilder::new().schema_type(Type::Integer);
        let schema = ObjectBuilder::new()
            .property("access_token", text())
            .property("refresh_token", text())
            .property("token_type", text())
            .property("scope", text())
            .property("expires_at", number())
            .property("expires_in", number())
            .required("access_token");
        schema.into()
    }
}

impl ToSchema for TokenFile {}

/// A frame of the stream of events: `data` is JSON as text.
#[derive(Debug)]
pub struct Frame;

impl PartialSchema for Frame {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let kinds = ["hello", "event", "summary", "step", "resync"];
        let schema = ObjectBuilder::new()
            .property("event", text().enum_values(Some(kinds)))
            .property("id", text())
            .property("data", text())
            .required("event")
            .required("data");
        schema.into()
    }
}

impl ToSchema for Frame {}

fn parameter(name: &str, place: ParameterIn, description: &str, schema: RefOr<Schema>) -> Parameter {
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

fn namespace() -> Parameter {
    parameter("namespace", ParameterIn::Query, "A namespace other than `default`.", Name::schema())
}

impl IntoParams for Named {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter("name", ParameterIn::Path, "The connection's name.", Name::schema()), namespace()]
    }
}

/// `?namespace=`.
#[derive(Debug)]
pub struct OfNamespace;

impl IntoParams for OfNamespace {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![namespace()]
    }
}

/// `?limit=` and `?cursor=` of what is in the order of names.
#[derive(Debug)]
pub struct Paged;

impl IntoParams for Paged {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        page(ObjectBuilder::new().schema_type(Type::String).max_length(Some(NAME_LENGTH_MAX)))
    }
}

/// `?limit=` and `?cursor=` of what has numbers.
#[derive(Debug)]
pub struct PagedByNumber;

impl IntoParams for PagedByNumber {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        page(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(i64::MAX)))
    }
}

fn page(cursor: ObjectBuilder) -> Vec<Parameter> {
    let limit = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(PAGE_MAX))
        .default(Some(json!(super::params::PAGE_DEFAULT)));
    vec![
        parameter("limit", ParameterIn::Query, "How many items at most.", limit.into()),
        parameter("cursor", ParameterIn::Query, "The page behind: `next_cursor` of the page before.", cursor.into()),
    ]
}

#[cfg(test)]
mod tests;
