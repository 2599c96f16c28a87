//! `/v1/connect`: sign-ins, begun by programs and ended by people; and `/oauth/`, where their browsers come.

use super::Api;
use super::access::{About, Caller};
use super::import;
use super::json::{ConnectionJson, Times};
use super::openapi::{Name, OfNamespace, Time};
use super::params::{Named, Params, key};
use super::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokenkeep::connect::{Begun, BegunDevice, Connect, Redirects, SignInError, Standing};
use tokenkeep_core::Secret;
use tokenkeep_core::model::{check_name, printable};
use tokenkeep_core::oauth::authorize::state_of;
use url::Url;
use utoipa::ToSchema;

/// The longest text of a field.
const FIELD_MAX: usize = 2_048;
/// The most scopes, and the most parameters.
const LIST_MAX: usize = 200;

/// What a sign-in is to be.
#[derive(Debug, Deserialize, Serialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSignIn)]
pub struct ConnectBody {
    /// The connection's name.
    #[schema(value_type = Name)]
    pub name: String,
    /// The provider's name in the configuration.
    #[schema(value_type = Name)]
    pub provider: String,
    /// `code` (a browser), `device` (another device), `client` (nobody: client credentials), or `jwt` (the client acting for
    /// the account of `login_hint`).
    #[serde(default)]
    pub flow: Flow,
    /// Scopes; none asks for the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Further parameters of the authorization request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// Labels; without the field an existing connection keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Who is expected to sign in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_hint: Option<String>,
    /// Where the browser goes when all is done: an address of the daemon's own host, or of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_url: Option<String>,
    /// A loopback address at which the caller takes the redirect itself. Providers that know only registered addresses
    /// are sent to the daemon's own all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
}

/// The ways to sign in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, Default, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// Authorization code with PKCE.
    #[default]
    Code,
    /// Device authorization (RFC 8628).
    Device,
    /// Client credentials (RFC 6749 section 4.4).
    Client,
    /// The client acting for the account of `login_hint`, by an assertion that it signs (RFC 7523).
    Jwt,
}

/// A sign-in that has begun.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = BegunSignIn)]
pub struct BegunJson {
    /// By which it is asked about.
    pub id: String,
    /// The flow.
    pub flow: Flow,
    /// Where the person goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// For the caller's own redirect: what it shows with what the redirect brought. Nobody else may have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// What the person types in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_code: Option<String>,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification_uri: Option<String>,
    /// The same with the code in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification_uri_complete: Option<String>,
    /// When it ends by itself.
    #[schema(value_type = Time)]
    pub expires_at: String,
}

/// How a sign-in stands.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = SignIn)]
pub struct SignInJson {
    /// Its id.
    pub id: String,
    /// The connection that it is for.
    pub name: String,
    /// `waiting`, `connected` or `failed`.
    pub status: String,
    /// What it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionJson>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_action: Option<String>,
}

/// What the program that took a redirect brings.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FinishedRedirect)]
pub struct FinishBody {
    /// The redirect's query, as the browser brought it.
    pub query: String,
    /// The proof.
    pub proof: String,
}

/// Begins a sign-in: 201 with where the person goes, or for flow `client` 200 with the connection.
#[utoipa::path(post, path = "/v1/connect", operation_id = "begin_sign_in", tag = "sign-in", params(OfNamespace),
    request_body = ConnectBody, security(("api_key" = ["manage"])), responses(
    (status = 200, description = "With flow `client` or `jwt`: the connection.", body = ConnectionJson),
    (status = 201, description = "Where the person goes.", body = BegunJson),
    (status = 409, description = "`sign_in_not_offered`, `sign_in_refused`, `sign_in_failed`, `sign_in_denied`, \
        `sign_in_other_account`, `sign_in_unknown_account`, `sign_in_id_token`, `sign_in_expired`: the provider or the configuration does not allow it. \
        `no_public_url`: browsers cannot reach this daemon."),
    (status = 413, description = "`too_large`: the body is too long."),
    (status = 502, description = "`sign_in_failed`: the provider could not be reached."),
    (status = 503, description = "`sign_in_too_many`: too many sign-ins are under way."),
))]
pub async fn begin(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    let namespace = Params::only_namespace(query.as_deref())?;
    begin_at(&api, &caller, namespace, read(body).await?).await
}

async fn begin_at(
    api: &Api,
    caller: &Caller,
    namespace: Option<String>,
    body: ConnectBody,
) -> Result<Response, Problem> {
    let (flow, redirect_uri) = (body.flow, body.redirect_uri.clone());
    let connect = checked(body, namespace.as_deref(), api)?;
    caller.check_new(&connect.key)?;
    let about = About::connection(&connect.key);
    let begun = match flow {
        Flow::Client | Flow::Jwt => return as_client(api, connect, flow).await,
        Flow::Device => {
            let begun = api.keep.connect_at_device(connect).await.map_err(|error| api.problem(&error))?;
            at_device(begun, &api.times())
        }
        Flow::Code => in_browser(api, connect, redirect_uri)?,
    };
    // The link, the code and the proof are each a secret.
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::CREATED, about, no_store, Json(begun)).into_response())
}

async fn as_client(api: &Api, connect: Connect, flow: Flow) -> Result<Response, Problem> {
    let account = connect.login_hint.clone();
    let connected = match (flow, account) {
        (Flow::Jwt, Some(account)) => api.keep.connect_for(connect, &account).await,
        (Flow::Jwt, None) => {
            let expected = "Give the account that the client is to act for.";
            return Err(Problem::invalid("the field `login_hint` is missing", expected));
        }
        _ => api.keep.connect_as_client(connect).await,
    };
    let imported = connected.map_err(|error| api.problem(&error))?;
    let connection = imported.connection();
    Ok((About::connection(&connection.key), Json(ConnectionJson::new(connection, &api.times()))).into_response())
}

fn at_device(begun: BegunDevice, times: &Times) -> BegunJson {
    BegunJson {
        id: begun.id,
        flow: Flow::Device,
        url: None,
        proof: None,
        user_code: Some(begun.user_code),
        verification_uri: Some(begun.verification_uri),
        verification_uri_complete: begun.verification_uri_complete,
        expires_at: times.text(begun.expires_at).unwrap_or_default(),
    }
}

/// To the caller's own address where it has one and the provider takes any loopback address; else to the daemon's.
fn in_browser(api: &Api, connect: Connect, redirect_uri: Option<String>) -> Result<BegunJson, Problem> {
    let own = redirect_uri.as_deref().map(own_redirect).transpose()?;
    let takes_any =
        api.keep.redirects(&connect.provider).map_err(|error| api.problem(&error))? == Redirects::AnyLoopback;
    let (at, ends_here) = match own.filter(|_| takes_any) {
        Some(own) => (own, false),
        None => (api.sign_ins.callback()?, true),
    };
    let begun = api.keep.connect(connect, &at).map_err(|error| api.problem(&error))?;
    let Begun { id, url, proof, expires_at } = begun;
    let expires = api.times().text(expires_at).unwrap_or_default();
    let (url, proof) = if ends_here {
        (api.sign_ins.start_link(api.keep.now(), &id, url, proof, expires_at)?.to_string(), None)
    } else {
        (url.to_string(), Some(proof.expose().to_owned()))
    };
    let (user_code, verification_uri, verification_uri_complete) = (None, None, None);
    Ok(BegunJson {
        id,
        flow: Flow::Code,
        url: Some(url),
        proof,
        user_code,
        verification_uri,
        verification_uri_complete,
        expires_at: expires,
    })
}

/// RFC 8252 section 7.3: plain http, to an address of this machine.
fn own_redirect(text: &str) -> Result<Url, Problem> {
    let is_loopback = |url: &Url| match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    };
    Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.query().is_none() && is_loopback(url)).ok_or_else(|| {
        Problem::invalid(
            format!("the field `redirect_uri` is `{}`", printable(text, 80)),
            "Expected a loopback address such as http://127.0.0.1:8080/callback, or leave it out for the daemon's own.",
        )
    })
}

fn checked(body: ConnectBody, namespace: Option<&str>, api: &Api) -> Result<Connect, Problem> {
    let wrong = |field: &str, expected: &str| {
        Problem::invalid(format!("the field `{field}` is not what it must be"), expected.to_owned())
    };
    let key = key(namespace, &body.name)?;
    check_name(&body.provider).map_err(|error| {
        Problem::invalid(format!("the field `provider`: {error}"), "Give the provider's name in the configuration.")
    })?;
    let fits = |text: &str| !text.is_empty() && text.len() <= FIELD_MAX && !text.chars().any(char::is_control);
    if body.scopes.len() > LIST_MAX || !body.scopes.iter().all(|scope| fits(scope) && !scope.contains(' ')) {
        return Err(wrong("scopes", "Expected an array of scopes, each without spaces."));
    }
    if body.params.len() > LIST_MAX || !body.params.iter().all(|(name, value)| fits(name) && value.len() <= FIELD_MAX) {
        return Err(wrong("params", "Expected an object of short strings."));
    }
    if body.login_hint.as_deref().is_some_and(|hint| !fits(hint)) {
        return Err(wrong("login_hint", "Expected a short text, such as an address of electronic mail."));
    }
    let labels = body.labels.map(import::check_labels).transpose()?;
    let return_url = body.return_url.map(|text| api.sign_ins.return_url(&text)).transpose()?;
    Ok(Connect {
        key,
        provider: body.provider,
        scopes: body.scopes,
        params: body.params.into_iter().collect(),
        labels,
        login_hint: body.login_hint,
        return_url,
    })
}

/// A link for a colleague: whoever opens it first, once, signs in. 201 as [`begin`] with flow `code`, always by the daemon's
/// own address.
#[utoipa::path(post, path = "/v1/connect/links", operation_id = "make_sign_in_link", tag = "sign-in", params(OfNamespace),
    request_body = ConnectBody, security(("api_key" = ["manage"])), responses(
    (status = 201, description = "The link.", body = BegunJson),
    (status = 409, description = "`sign_in_not_offered`: the provider has no such flow in the configuration. `no_public_url`: \
        browsers cannot reach this daemon."),
    (status = 413, description = "`too_large`: the body is too long."),
    (status = 503, description = "`sign_in_too_many`: too many sign-ins are under way."),
))]
pub async fn link(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    let wish = read(body).await?;
    if wish.flow != Flow::Code || wish.redirect_uri.is_some() {
        return Err(Problem::invalid(
            "a link is for flow `code`, and ends at the daemon's own address",
            "Leave `flow` and `redirect_uri` out.",
        ));
    }
    begin_at(&api, &caller, Params::only_namespace(query.as_deref())?, wish).await
}

async fn read(body: Body) -> Result<ConnectBody, Problem> {
    let expected = "Expected {\"name\": \"...\", \"provider\": \"...\", \"flow\": \"code\", \"device\", \"client\" or \"jwt\", ...}.";
    let body = import::whole(body).await?;
    serde_json::from_slice(&body).map_err(|error| Problem::unreadable(&error, expected))
}

/// What a provider says of a token.
#[derive(Serialize, ToSchema)]
#[schema(as = Introspected)]
pub struct ActiveJson {
    /// Whether it is good; `null` where there is none.
    #[schema(required)]
    pub active: Option<bool>,
}

/// Whether the provider calls the access token in hand good.
#[utoipa::path(post, path = "/v1/connections/{name}/introspect", operation_id = "introspect_connection", tag = "connections",
    params(Named), security(("api_key" = ["refresh"])), responses(
    (status = 200, description = "What the provider says.", body = ActiveJson),
    (status = 404, description = "`not_found`: there is no such connection."),
    (status = 409, description = "`sign_in_not_offered`, `sign_in_refused`, `sign_in_failed`: the provider does not say."),
    (status = 502, description = "`sign_in_failed`: the provider could not be reached."),
))]
pub async fn introspect(State(api): State<Api>, named: Named) -> Result<Json<ActiveJson>, Problem> {
    let key = named.only()?;
    let active = api.keep.introspect(&key).await.map_err(|error| api.problem(&error))?;
    Ok(Json(ActiveJson { active }))
}

/// How a sign-in stands.
#[utoipa::path(get, path = "/v1/connect/{id}", operation_id = "get_sign_in", tag = "sign-in",
    params(("id" = String, Path, description = "The sign-in's id.")), security(("api_key" = ["manage"])), responses(
    (status = 200, description = "How it stands.", body = SignInJson),
    (status = 404, description = "`not_found`: there is no such sign-in."),
))]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<SignInJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    let found = api.keep.sign_in(&id).filter(|(key, _)| caller.sees(key));
    let (key, standing) = found.ok_or_else(|| {
        Problem::not_found("there is no such sign-in, or it ended a while ago").next("Begin one with POST /v1/connect.")
    })?;
    Ok(Json(told(id, key.name(), &standing, &api.times())))
}

fn told(id: String, name: &str, standing: &Standing, times: &Times) -> SignInJson {
    let mut told = SignInJson {
        id,
        name: name.to_owned(),
        status: "waiting".to_owned(),
        connection: None,
        code: None,
        message: None,
        next_action: None,
    };
    match standing {
        Standing::Waiting => {}
        Standing::Connected(connection) => {
            "connected".clone_into(&mut told.status);
            told.connection = Some(ConnectionJson::new(connection, times));
        }
        Standing::Failed(error) => {
            "failed".clone_into(&mut told.status);
            told.code = Some(error.code().to_owned());
            told.message = Some(error.to_string());
            told.next_action = Some(tokenkeep_core::failure::next_step_for(error.next_step(), name));
        }
    }
    told
}

/// Takes up a redirect that the caller took itself: 200 with the connection.
#[utoipa::path(post, path = "/v1/connect/finish", operation_id = "finish_sign_in", tag = "sign-in",
    request_body = FinishBody, security(("api_key" = ["manage"])), responses(
    (status = 200, description = "The connection.", body = ConnectionJson),
    (status = 400, description = "`sign_in_malformed`: the redirect cannot be read."),
    (status = 403, description = "`sign_in_other_browser`, `sign_in_other_issuer`: it is not this sign-in's."),
    (status = 404, description = "`sign_in_unknown`: there is no such sign-in any more."),
    (status = 409, description = "`sign_in_denied`, `sign_in_refused`, `sign_in_expired`, `sign_in_failed`, `sign_in_id_token`, \
        `sign_in_other_account`, `sign_in_unknown_account`, `sign_in_not_offered`: nothing was connected."),
    (status = 413, description = "`too_large`: the body is too long."),
    (status = 502, description = "`sign_in_failed`: the provider could not be reached."),
))]
pub async fn finish(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    Params::new(query.as_deref()).finish()?;
    let body = import::whole(body).await?;
    let expected = "Expected {\"query\": \"code=...&state=...\", \"proof\": \"...\"}.";
    let FinishBody { query, proof } =
        serde_json::from_slice(&body).map_err(|error| Problem::unreadable_secret(&error, expected))?;
    let whose = state_of(&query).and_then(|state| api.keep.sign_in(state.expose()));
    if whose.is_some_and(|(key, _)| !caller.sees(&key)) {
        return Err(api.problem(&SignInError::Unknown.into()));
    }
    let finished = api.keep.finish_sign_in(&query, &Secret::new(proof)).await.map_err(|error| api.problem(&error))?;
    let connection = finished.imported.connection();
    Ok((About::connection(&connection.key), Json(ConnectionJson::new(connection, &api.times()))).into_response())
}
