//! `/v1/connections/{name}/jira/...`: projects and issues of Jira Cloud, for Atlassian connections.

use super::Api;
use super::openapi::Paged;
use super::params::Named;
use super::problem::Problem;
use super::proxy;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokenkeep::jira::{self, CURSOR_BYTES_MAX, Issue, JQL_BYTES_MAX, JiraError, JiraPage, PageAsk, Project, Site};
use tokenkeep_core::model::printable;
use utoipa::openapi::{RefOr, Response as DocumentedResponse};
use utoipa::{IntoResponses, ToSchema};

const ISSUES_EXPECTED: &str = "Give project=KEY, or jql=QUERY for anything else.";

/// A page of what is on a site.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct JiraPageJson<T> {
    /// The page.
    pub items: Vec<T>,
    /// Where the next page starts; `null` at the end.
    pub next_cursor: Option<String>,
    /// The site.
    pub site: SiteJson,
}

/// A site of Jira Cloud.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct SiteJson {
    /// Its cloud id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where people find it.
    pub url: String,
}

/// A project.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct ProjectJson {
    /// Its number.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its name.
    pub name: String,
    /// `software`, `business`, `service_desk` or another.
    pub r#type: Option<String>,
}

/// An issue.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct IssueJson {
    /// Its number.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Where people find it.
    pub url: String,
    /// Its title.
    pub summary: String,
    /// Its status.
    pub status: Option<String>,
    /// What kind it is.
    pub r#type: Option<String>,
    /// Its priority.
    pub priority: Option<String>,
    /// Who it is assigned to.
    pub assignee: Option<String>,
    /// The key of its project.
    pub project: Option<String>,
    /// Its labels.
    pub labels: Vec<String>,
    /// When it was made, as Jira writes it.
    pub created: Option<String>,
    /// When it was last changed, as Jira writes it.
    pub updated: Option<String>,
}

/// What is answered where Jira gives no page.
const REFUSALS: [(&str, &str); 6] = [
    ("403", "`target_forbidden`: the configuration does not name Jira's host."),
    ("404", "`not_found`: there is no such connection."),
    (
        "409",
        "`not_atlassian`, `no_jira_site`, `jira_site_needed`, `jira_refused`, `no_api_hosts`, `needs_reauth`: \
            Jira cannot be asked with this connection as it is, or does not answer such a question.",
    ),
    (
        "502",
        "`jira_failed`, `bad_gateway`, `dns_failed`, `connect_failed`, `tls_failed`, `tls_name`, \
            `connection_dead`, `connection_lost`, `answer_truncated`, `answer_too_large`: Jira could not be asked, or its answer was none.",
    ),
    (
        "503",
        "`rate_limited`, `busy`: Jira or the daemon has too much to do. `expired`, `refreshing`, \
            `retrying`, `in_doubt`, `held`, `paused`, `fresh`: nothing valid is in hand now.",
    ),
    ("504", "`timeout`: Jira did not answer in time."),
];

/// [`REFUSALS`], as the document has them.
struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<DocumentedResponse>> {
        let documented =
            |(status, description): (&str, &str)| (status.to_owned(), RefOr::T(DocumentedResponse::new(description)));
        REFUSALS.into_iter().map(documented).collect()
    }
}

/// The projects of a site.
#[utoipa::path(get, path = "/v1/connections/{name}/jira/projects", operation_id = "jira_projects", tag = "proxy",
    params(Named, Paged, ("site" = Option<String>, Query, description = "A site's cloud id, name or host; needed where there are several.")),
    security(("api_key" = ["token"])), responses(
        (status = 200, description = "The page.", body = JiraPageJson<ProjectJson>),
        Refusals,
    ))]
pub async fn projects(State(api): State<Api>, mut named: Named) -> Result<Json<JiraPageJson<ProjectJson>>, Problem> {
    let ask = page_ask(&mut named)?;
    let key = named.only()?;
    let page = api.keep.jira_projects(&key, &ask).await.map_err(|error| problem(&api, &error))?;
    Ok(json(page, |_, project| ProjectJson::from(project)))
}

/// The issues of a project, or those that a JQL query finds.
#[utoipa::path(get, path = "/v1/connections/{name}/jira/issues", operation_id = "jira_issues", tag = "proxy",
    params(
        Named, Paged,
        ("site" = Option<String>, Query, description = "A site's cloud id, name or host; needed where there are several."),
        ("project" = Option<String>, Query, description = "A project's key; or `jql`."),
        ("jql" = Option<String>, Query, description = "A query in JQL; or `project`."),
    ),
    security(("api_key" = ["token"])), responses(
        (status = 200, description = "The page.", body = JiraPageJson<IssueJson>),
        Refusals,
    ))]
pub async fn issues(State(api): State<Api>, mut named: Named) -> Result<Json<JiraPageJson<IssueJson>>, Problem> {
    let ask = page_ask(&mut named)?;
    let project = named.params.parsed("project", "the key of a project, such as TK", jira::jql_of_project)?;
    let expected = format!("a JQL query of at most {JQL_BYTES_MAX} bytes, without control characters");
    let given = named.params.parsed("jql", &expected, |text| {
        let fits = !text.trim().is_empty() && text.len() <= JQL_BYTES_MAX && !text.contains(char::is_control);
        fits.then(|| text.to_owned())
    })?;
    let key = named.only()?;
    let jql = match (project, given) {
        (Some(jql), None) | (None, Some(jql)) => jql,
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "the parameters `project` and `jql` are both given",
                "Give one of them: a project is named in JQL by `project = KEY AND ...`.",
            ));
        }
        (None, None) => {
            return Err(Problem::invalid("neither `project` nor `jql` is given", ISSUES_EXPECTED));
        }
    };
    let page = api.keep.jira_issues(&key, &jql, &ask).await.map_err(|error| problem(&api, &error))?;
    Ok(json(page, IssueJson::new))
}

fn page_ask(named: &mut Named) -> Result<PageAsk, Problem> {
    let fits = |text: &str| {
        let fits = (1..=CURSOR_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
        fits.then(|| text.to_owned())
    };
    Ok(PageAsk {
        site: named.params.parsed("site", "a site's cloud id, name or host", fits)?,
        limit: named.params.limit()?.min(jira::PAGE_MAX),
        cursor: named.params.parsed("cursor", "the next_cursor of the page before", fits)?,
    })
}

fn json<T, J>(page: JiraPage<T>, each: impl Fn(&Site, T) -> J) -> Json<JiraPageJson<J>> {
    let JiraPage { site, items, next } = page;
    let items = items.into_iter().map(|item| each(&site, item)).collect();
    Json(JiraPageJson { items, next_cursor: next, site: site.into() })
}

impl From<Site> for SiteJson {
    fn from(Site { id, name, url }: Site) -> Self {
        Self { id, name, url }
    }
}

impl From<Project> for ProjectJson {
    fn from(Project { id, key, name, kind }: Project) -> Self {
        Self { id, key, name, r#type: kind }
    }
}

impl IssueJson {
    fn new(site: &Site, issue: Issue) -> Self {
        Self {
            url: format!("{}/browse/{}", site.url.trim_end_matches('/'), issue.key),
            id: issue.id,
            key: issue.key,
            summary: issue.summary,
            status: issue.status,
            r#type: issue.kind,
            priority: issue.priority,
            assignee: issue.assignee,
            project: issue.project,
            labels: issue.labels,
            created: issue.created,
            updated: issue.updated,
        }
    }
}

fn problem(api: &Api, error: &JiraError) -> Problem {
    let detail = printable(&error.to_string(), 500);
    let conflict = |code: &str| Problem::new(StatusCode::CONFLICT, code, detail.clone());
    match error {
        JiraError::Forward(error) => proxy::problem(api, error),
        JiraError::NotAtlassian { .. } => conflict("not_atlassian")
            .next("Name a connection whose provider has preset = \"atlassian\"; other APIs are reached by /proxy/."),
        JiraError::NoSite(key) => conflict("no_jira_site").next(format!(
            "Sign in again (`tokenkeep connect {key}`) with a scope of Jira such as read:jira-work, and choose a site there."
        )),
        JiraError::Site { sites, .. } => {
            let names: Vec<String> = sites.iter().map(|site| format!("{} ({})", site.name, site.id)).collect();
            conflict("jira_site_needed").next(format!("Add site= with one of: {}.", printable(&names.join(", "), 1_000)))
        }
        JiraError::Cursor => Problem::invalid("the parameter `cursor` is none", "Give the next_cursor of the page before."),
        JiraError::Refused { status: 400, .. } => Problem::invalid(detail, "Correct what Jira names, or the cursor."),
        JiraError::Refused { status: 401 | 403, .. } => conflict("jira_refused").next(
            "Check that the connection has the scope read:jira-work, and that its account may see this in Jira.",
        ),
        JiraError::Refused { status: 404, .. } => {
            conflict("jira_refused").next("Check the site: its Jira may be closed, or not reached by this grant any more.")
        }
        JiraError::Limited { retry_after } => Problem {
            retry_after: Some(retry_after.as_secs().max(1)),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "rate_limited", detail)
                .next("Ask again after Retry-After, for less at once.")
                .retry(Some(api.keep.now() + *retry_after), &api.times())
        },
        _ => Problem::new(StatusCode::BAD_GATEWAY, "jira_failed", detail)
            .next("Check https://status.atlassian.com, and try again."),
    }
}
