//! A small Jira behind the provider: enough of the REST API for a client to list, search and page.
//!
//! It is pure, as the provider is: told the time, and the same for the same seed. Under `/ex/jira/{cloudid}` it is a
//! Cloud site, whose classic `search` answers 410 as Atlassian's does since 2025; under `/rest/api/2` it is a Data
//! Center of the same content, where the classic `search` works and `search/jql` does not exist.

mod bucket;
mod jql;
mod world;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

pub use bucket::RateLimit;

use crate::answer::Answer;
use crate::fault::rate_limited;
use crate::provider::{Introspection, fingerprint};
use bucket::{Admission, Bucket};
use jql::Query;
use world::{Issue, Named, PROJECTS, Project, World};

/// The most issues of one page, and the number where a request does not say.
const PAGE_MAX: usize = 100;
const PAGE_DEFAULT: usize = 50;

/// The scope that a token must have for everything below `/rest/api`.
const SCOPE: &str = "read:jira-work";

/// One request to the API, whose bearer's token is good.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: &'a str,
    pub body: &'a [u8],
    /// What the ledger knows about the token.
    pub bearer: &'a Introspection,
    /// The URL of the whole server.
    pub origin: &'a str,
    pub now_ms: i64,
}

/// The small Jira.
#[derive(Debug, Clone)]
pub(crate) struct Jira {
    world: World,
    bucket: Option<Bucket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deployment {
    Cloud,
    DataCenter,
}

/// Where in the API a request leads.
struct Place<'a> {
    deployment: Deployment,
    /// `2` or `3`.
    version: &'a str,
    /// What follows `/rest/api/N/`.
    rest: &'a str,
    /// The URL up to `/rest/api/N/`.
    base: String,
}

impl Jira {
    pub fn new(seed: u64) -> Self {
        Self { world: World::new(seed), bucket: None }
    }

    /// The number of its Cloud site.
    pub fn cloud_id(&self) -> &str {
        &self.world.cloud_id
    }

    /// Limits how often it may be asked from now on; `None` takes the limit away.
    pub fn limit(&mut self, limit: Option<RateLimit>, now_ms: i64) {
        self.bucket = limit.map(|limit| Bucket::new(limit, now_ms));
    }

    /// Answers one request.
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        let Some(bucket) = &mut self.bucket else {
            return self.admitted(call);
        };
        let limit = HeaderValue::from(bucket.limit().burst);
        let answer = match bucket.take(call.now_ms) {
            Admission::Refused { retry_after_s } => {
                stamped(rate_limited(retry_after_s, "jira-burst-based"), call.now_ms)
            }
            Admission::Admitted { left } => self
                .admitted(call)
                .with_header(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(left)),
        };
        answer.with_header(HeaderName::from_static("x-ratelimit-limit"), limit)
    }

    fn admitted(&self, call: &Call<'_>) -> Answer {
        if call.path == "/oauth/token/accessible-resources" {
            return self.accessible_resources(call);
        }
        if call.path == "/me" {
            return ok(&me(call.bearer));
        }
        match self.place(call) {
            Some(_) if !has_scope(call.bearer, SCOPE) => {
                gateway(StatusCode::UNAUTHORIZED, "Unauthorized; scope does not match")
            }
            Some(place) => self.rest(call, &place),
            None => gateway(StatusCode::NOT_FOUND, "Not Found"),
        }
    }

    fn place<'a>(&self, call: &Call<'a>) -> Option<Place<'a>> {
        let (deployment, path) = match call.path.strip_prefix("/ex/jira/") {
            Some(path) => (Deployment::Cloud, path.strip_prefix(self.cloud_id())?),
            None => (Deployment::DataCenter, call.path),
        };
        let (version, rest) = path.strip_prefix("/rest/api/")?.split_once('/')?;
        let is_served = matches!((deployment, version), (Deployment::Cloud, "2" | "3") | (_, "2" | "latest"));
        let before = call.path.strip_suffix(rest)?;
        is_served.then(|| Place { deployment, version, rest, base: format!("{}{before}", call.origin) })
    }

    fn accessible_resources(&self, call: &Call<'_>) -> Answer {
        let scopes: Vec<&str> = call.bearer.scope.as_deref().unwrap_or_default().split_ascii_whitespace().collect();
        let scopes: Vec<&str> = scopes.into_iter().filter(|scope| scope.contains(":jira")).collect();
        ok(&json!([{
            "id": self.cloud_id(),
            "name": "mock",
            "url": call.origin,
            "scopes": scopes,
            "avatarUrl": format!("{}/avatar.png", call.origin),
        }]))
    }

    fn rest(&self, call: &Call<'_>, place: &Place<'_>) -> Answer {
        let parameters = match Parameters::read(call) {
            Ok(parameters) => parameters,
            Err(why) => return bad(&why),
        };
        let posts = call.method == Method::POST;
        if !posts && call.method != Method::GET {
            return errors(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        match place.rest {
            "search" => self.search(call, place, &parameters),
            "search/jql" if place.deployment == Deployment::Cloud => self.search_pages(call, place, &parameters),
            _ if posts => errors(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
            "serverInfo" => ok(&server_info(call, place)),
            "myself" => ok(&person(place, &owner(call.bearer))),
            "project" => ok(&PROJECTS.map(|project| project_body(place, project))),
            "project/search" if place.deployment == Deployment::Cloud => project_pages(place, &parameters),
            rest => match rest.split_once('/') {
                Some(("issue", key)) => self.issue(place, key, &parameters),
                Some(("project", key)) => project(place, key),
                _ => errors(StatusCode::NOT_FOUND, "There is nothing here."),
            },
        }
    }

    fn issue(&self, place: &Place<'_>, key: &str, parameters: &Parameters) -> Answer {
        match self.world.issue(key) {
            Some(issue) => ok(&issue_body(place, issue, parameters.get("fields").unwrap_or("*all"))),
            None => {
                let why = "Issue does not exist or you do not have permission to see it.";
                errors(StatusCode::NOT_FOUND, why)
            }
        }
    }

    /// The classic search: pages by `startAt`, and gone from Cloud.
    fn search(&self, call: &Call<'_>, place: &Place<'_>, parameters: &Parameters) -> Answer {
        if place.deployment == Deployment::Cloud {
            let why = "The requested API has been removed. Please migrate to the /rest/api/3/search/jql API. A full \
                       migration guideline is available at https://developer.atlassian.com/changelog/#CHANGE-2046";
            return errors(StatusCode::GONE, why);
        }
        let answered = || -> Result<Value, String> {
            let query = Query::read(parameters.get("jql").unwrap_or_default(), call.now_ms)?;
            let (from, size) = (parameters.number("startAt", 0)?, parameters.page_size()?);
            let fields = parameters.get("fields").unwrap_or("*all");
            let found = query.run(&self.world.issues);
            let page: Vec<Value> =
                found.iter().skip(from).take(size).map(|issue| issue_body(place, issue, fields)).collect();
            Ok(json!({"startAt": from, "maxResults": size, "total": found.len(), "issues": page}))
        };
        answered().map_or_else(|why| bad(&why), |body| ok(&body))
    }

    /// The search of today's Cloud: pages by token, only ids unless fields are asked for, and no unbounded queries.
    fn search_pages(&self, call: &Call<'_>, place: &Place<'_>, parameters: &Parameters) -> Answer {
        let answered = || -> Result<Value, String> {
            let jql = parameters.get("jql").unwrap_or_default();
            let query = Query::read(jql, call.now_ms)?;
            if query.is_unbounded() {
                let why = "Unbounded JQL queries are not allowed here. Please add a search restriction to your query.";
                return Err(why.to_owned());
            }
            let size = parameters.page_size()?;
            let from = match parameters.get("nextPageToken") {
                Some(token) => page_start(token, jql).ok_or("The nextPageToken is invalid for this query.")?,
                None => 0,
            };
            let fields = parameters.get("fields").unwrap_or("id");
            let found = query.run(&self.world.issues);
            let page: Vec<Value> =
                found.iter().skip(from).take(size).map(|issue| issue_body(place, issue, fields)).collect();
            let next = from.saturating_add(size);
            let is_last = next >= found.len();
            let mut body = json!({"issues": page, "isLast": is_last});
            if !is_last {
                body["nextPageToken"] = page_token(next, jql).into();
            }
            Ok(body)
        };
        answered().map_or_else(|why| bad(&why), |body| ok(&body))
    }
}

// --- Parameters ---

/// What a request asks, in its query or in its JSON body.
struct Parameters(BTreeMap<String, String>);

impl Parameters {
    fn read(call: &Call<'_>) -> Result<Self, String> {
        let mut found: BTreeMap<String, String> = form_urlencoded::parse(call.query.as_bytes()).into_owned().collect();
        if call.method == Method::POST {
            let body: Map<String, Value> =
                serde_json::from_slice(call.body).map_err(|_| "The body is not a JSON object.".to_owned())?;
            found.extend(body.into_iter().map(|(name, value)| (name, text(value))));
        }
        Ok(Self(found))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number(&self, name: &str, default: usize) -> Result<usize, String> {
        let not_one = |text: &str| format!("{name} is {text:?}: expected a number that is not negative.");
        self.get(name).map_or(Ok(default), |text| text.parse().map_err(|_| not_one(text)))
    }

    fn page_size(&self) -> Result<usize, String> {
        Ok(self.number("maxResults", PAGE_DEFAULT)?.clamp(1, PAGE_MAX))
    }
}

/// A JSON value as a query would write it: lists with commas.
fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Array(values) => values.into_iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A token that leads on in the pages of one query only.
fn page_token(start: usize, jql: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{start}:{}", fingerprint(jql)))
}

fn page_start(token: &str, jql: &str) -> Option<usize> {
    let token = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (start, of) = token.split_once(':')?;
    (of == fingerprint(jql)).then(|| start.parse().ok()).flatten()
}

// --- Bodies ---

fn owner(bearer: &Introspection) -> String {
    bearer.username.clone().or_else(|| bearer.client_id.clone()).unwrap_or_default()
}

fn has_scope(bearer: &Introspection, needed: &str) -> bool {
    bearer.scope.as_deref().unwrap_or_default().split_ascii_whitespace().any(|scope| scope == needed)
}

fn account_id(name: &str) -> String {
    format!("712020:{}", fingerprint(name))
}

/// An address that no mail reaches (RFC 2606).
fn email(name: &str) -> String {
    let local = name.to_lowercase().replace(|letter: char| !letter.is_ascii_alphanumeric(), ".");
    format!("{local}@example.com")
}

fn me(bearer: &Introspection) -> Value {
    let name = owner(bearer);
    json!({
        "account_type": "atlassian",
        "account_id": account_id(&name),
        "email": email(&name),
        "name": name,
        "nickname": name,
        "account_status": "active",
        "email_verified": true,
    })
}

fn person(place: &Place<'_>, name: &str) -> Value {
    let id = account_id(name);
    json!({
        "self": format!("{}user?accountId={id}", place.base),
        "accountId": id,
        "accountType": "atlassian",
        "emailAddress": email(name),
        "displayName": name,
        "active": true,
        "timeZone": "Etc/UTC",
        "locale": "en_US",
    })
}

fn server_info(call: &Call<'_>, place: &Place<'_>) -> Value {
    let deployment = if place.deployment == Deployment::Cloud { "Cloud" } else { "Server" };
    json!({
        "baseUrl": call.origin,
        "version": "1001.0.0-SNAPSHOT",
        "versionNumbers": [1001, 0, 0],
        "deploymentType": deployment,
        "buildNumber": 100_287,
        "serverTime": moment(call.now_ms),
        "serverTitle": "Mock Jira",
    })
}

fn project_body(place: &Place<'_>, project: Project) -> Value {
    json!({
        "self": format!("{}project/{}", place.base, project.id),
        "id": project.id.to_string(),
        "key": project.key,
        "name": project.name,
        "projectTypeKey": "software",
        "simplified": false,
        "isPrivate": false,
    })
}

fn project(place: &Place<'_>, key_or_id: &str) -> Answer {
    let is_it = |project: &Project| project.key.eq_ignore_ascii_case(key_or_id) || project.id.to_string() == key_or_id;
    match PROJECTS.into_iter().find(is_it) {
        Some(project) => ok(&project_body(place, project)),
        None => errors(StatusCode::NOT_FOUND, &format!("No project could be found with key '{key_or_id}'.")),
    }
}

fn project_pages(place: &Place<'_>, parameters: &Parameters) -> Answer {
    let answered = || -> Result<Value, String> {
        let (from, size) = (parameters.number("startAt", 0)?, parameters.page_size()?);
        let wanted = parameters.get("query").unwrap_or_default().to_lowercase();
        let fits = |project: &Project| {
            project.key.to_lowercase().contains(&wanted) || project.name.to_lowercase().contains(&wanted)
        };
        let found: Vec<Project> = PROJECTS.into_iter().filter(fits).collect();
        let page: Vec<Value> =
            found.iter().skip(from).take(size).map(|project| project_body(place, *project)).collect();
        let url = |start: usize| format!("{}project/search?maxResults={size}&startAt={start}", place.base);
        let is_last = from.saturating_add(size) >= found.len();
        let mut body = json!({
            "self": url(from), "maxResults": size, "startAt": from, "total": found.len(), "isLast": is_last,
            "values": page,
        });
        if !is_last {
            body["nextPage"] = url(from.saturating_add(size)).into();
        }
        Ok(body)
    };
    answered().map_or_else(|why| bad(&why), |body| ok(&body))
}

/// An issue with the fields that are asked for: `*all`, `*navigable`, or names with commas. Only `id` gives no more.
fn issue_body(place: &Place<'_>, issue: &Issue, fields: &str) -> Value {
    let id = issue.id.to_string();
    let asked: Vec<&str> = fields.split(',').map(str::trim).collect();
    if asked == ["id"] {
        return json!({"id": id});
    }
    let wants_all = asked.iter().any(|name| matches!(*name, "*all" | "*navigable"));
    let mut shown = all_fields(place, issue);
    shown.retain(|name, _| wants_all || asked.contains(&name.as_str()));
    json!({
        "expand": "renderedFields,names,schema,operations,editmeta,changelog,versionedRepresentations",
        "id": id,
        "self": format!("{}issue/{}", place.base, issue.id),
        "key": issue.key(),
        "fields": shown,
    })
}

fn all_fields(place: &Place<'_>, issue: &Issue) -> Map<String, Value> {
    let named = |value: Named| json!({"id": value.id.to_string(), "name": value.name});
    let mut status = named(issue.status);
    status["statusCategory"] = json!({"key": category(issue.status), "name": issue.status.name});
    let mut kind = named(issue.kind);
    kind["subtask"] = false.into();
    let fields = [
        ("summary", issue.summary.as_str().into()),
        ("description", description(place, &issue.summary)),
        ("status", status),
        ("issuetype", kind),
        ("project", project_body(place, issue.project)),
        ("priority", named(issue.priority())),
        ("assignee", issue.assignee.map_or(Value::Null, |name| person(place, name))),
        ("labels", json!([])),
        ("created", moment(issue.created_ms).into()),
        ("updated", moment(issue.updated_ms).into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn category(status: Named) -> &'static str {
    match status.name {
        "Done" => "done",
        "In Progress" => "indeterminate",
        _ => "new",
    }
}

/// A text in version 2, a document in version 3.
fn description(place: &Place<'_>, summary: &str) -> Value {
    let text = format!("{summary}. Nobody wrote this; the seed did.");
    if place.version != "3" {
        return text.into();
    }
    json!({
        "type": "doc",
        "version": 1,
        "content": [{"type": "paragraph", "content": [{"type": "text", "text": text}]}],
    })
}

/// A time as Jira writes it.
fn moment(at_ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S.%3f+0000").to_string()
}

// --- Answers ---

fn ok(body: &impl serde::Serialize) -> Answer {
    Answer::json(StatusCode::OK, body)
}

/// A refusal of Jira itself.
fn errors(status: StatusCode, why: &str) -> Answer {
    Answer::json(status, &json!({"errorMessages": [why], "errors": {}}))
}

fn bad(why: &str) -> Answer {
    errors(StatusCode::BAD_REQUEST, why)
}

/// A refusal of the gateway before it.
fn gateway(status: StatusCode, why: &str) -> Answer {
    Answer::json(status, &json!({"code": status.as_u16(), "message": why}))
}

/// The answer to a token that the ledger does not hold valid.
pub(crate) fn unauthorized() -> Answer {
    gateway(StatusCode::UNAUTHORIZED, "Unauthorized")
}

/// The same answer with the time at which the limit ends, where it is a refusal of a limit.
pub(crate) fn stamped(answer: Answer, now_ms: i64) -> Answer {
    let seconds = answer.headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let (Some(seconds), true) = (seconds, answer.headers.contains_key("ratelimit-reason")) else {
        return answer;
    };
    let seconds: i64 = seconds;
    let reset_ms = now_ms.saturating_add(seconds.saturating_mul(1_000));
    let reset = jiff::Timestamp::from_millisecond(reset_ms).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ");
    match HeaderValue::from_str(&reset.to_string()) {
        Ok(reset) => answer.with_header(HeaderName::from_static("x-ratelimit-reset"), reset),
        Err(_) => answer,
    }
}
