//! Jira Cloud behind an Atlassian connection: which sites the grant reaches, their projects, and issues by JQL.
//!
//! Everything goes through [`TokenKeep::forward`], so a refused token is mended there.

use crate::config::Provider;
use crate::endpoint::http::retry_after;
use crate::error::Error;
use crate::keep::TokenKeep;
use crate::proxy::{AnswerBody, CallerBody, ForwardError, Outgoing};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokenkeep_core::model::{ConnectionId, GrantNumber, printable};
use tokenkeep_core::{Connection, ConnectionKey};
use tokio::time::Instant;

/// The most items of one page of ours.
pub const PAGE_MAX: usize = 1_000;
/// The most items that Jira is asked for at once.
const JIRA_PAGE_MAX: usize = 100;
/// The most pages of Jira's in one page of ours: Jira may give smaller ones than it is asked for.
const JIRA_PAGES_MAX: usize = 20;
/// The longest JQL.
pub const JQL_BYTES_MAX: usize = 8 * 1024;
/// The longest cursor.
pub const CURSOR_BYTES_MAX: usize = 4 * 1024;
/// The longest answer of Jira that is read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a whole request waits, in all, for limits of Jira's to pass.
const LIMITED_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a 429 is waited for that does not say how long.
const LIMITED_WAIT: Duration = Duration::from_secs(1);
/// How long it is remembered which sites a grant reaches.
const SITES_LIFE: Duration = Duration::from_secs(600);
/// The most connections of which it is remembered.
const SITES_MAX: usize = 4_096;
/// The most sites of one grant.
const SITES_OF_GRANT_MAX: usize = 1_000;
/// The fields of an issue that are asked for.
const FIELDS: [&str; 9] =
    ["summary", "status", "issuetype", "project", "priority", "assignee", "labels", "created", "updated"];
/// The row of the catalogue that Jira Cloud belongs to.
const PRESET: &str = "atlassian";
/// Where its tokens are from.
const TOKEN_HOST: &str = "auth.atlassian.com";

/// A site of Jira Cloud.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// The cloud id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where people find it.
    pub url: String,
}

/// A project.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// Its number.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its name.
    pub name: String,
    /// What kind it is: `software`, `business`, `service_desk`.
    pub kind: Option<String>,
}

/// An issue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// Its number.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its title.
    pub summary: String,
    /// Its status.
    pub status: Option<String>,
    /// What kind it is.
    pub kind: Option<String>,
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

/// Which page of what is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageAsk {
    /// The site: its cloud id, name, or host. `None` where there is one only.
    pub site: Option<String>,
    /// The most items, between 1 and [`PAGE_MAX`].
    pub limit: usize,
    /// Where the page begins; what the page before said.
    pub cursor: Option<String>,
}

/// A page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JiraPage<T> {
    /// The site.
    pub site: Site,
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Why Jira was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JiraError {
    /// The call was not made, or has no answer.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The connection is not Atlassian's.
    #[error("`{key}` is a connection of provider `{provider}`, which is not Atlassian Cloud")]
    NotAtlassian {
        /// The connection.
        key: ConnectionKey,
        /// Its provider.
        provider: String,
    },
    /// The grant reaches no site of Jira.
    #[error("the grant of `{0}` reaches no Jira site")]
    NoSite(ConnectionKey),
    /// The grant reaches several sites, and none or an unknown one was named.
    #[error("{}", .asked.as_ref().map_or_else(|| format!("the grant reaches {} Jira sites, and none is named", .sites.len()), |asked| format!("the grant reaches no Jira site `{asked}`")))]
    Site {
        /// What was named.
        asked: Option<String>,
        /// Those that it reaches.
        sites: Vec<Site>,
    },
    /// The cursor is none of Jira's.
    #[error("the cursor is not one that a page before has given")]
    Cursor,
    /// Jira refused.
    #[error("Jira answered with {status}: {message}")]
    Refused {
        /// Its status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// Jira says to wait, longer than a request does.
    #[error("Jira limits how often it is asked")]
    Limited {
        /// How long.
        retry_after: Duration,
    },
    /// Jira's answer is not what it must be.
    #[error("Jira's answer cannot be read: {0}")]
    Unreadable(String),
}

impl From<Error> for JiraError {
    fn from(error: Error) -> Self {
        Self::Forward(error.into())
    }
}

impl Provider {
    /// Whether its API is Atlassian Cloud's.
    #[must_use]
    pub fn is_atlassian(&self) -> bool {
        self.preset == Some(PRESET) || self.token_url.host_str() == Some(TOKEN_HOST)
    }
}

/// The sites that grants reach.
#[derive(Default, Debug)]
pub(crate) struct SiteCache(Mutex<HashMap<ConnectionId, Known>>);

#[derive(Clone, Debug)]
struct Known {
    grant: GrantNumber,
    at: Instant,
    sites: Arc<[Site]>,
}

impl SiteCache {
    fn get(&self, connection: &Connection) -> Option<Arc<[Site]>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&connection.id).filter(|known| known.grant == connection.grant)?;
        (known.at.elapsed() < SITES_LIFE).then(|| Arc::clone(&known.sites))
    }

    fn put(&self, connection: &Connection, sites: Arc<[Site]>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SITES_MAX {
            known.clear();
        }
        known.insert(connection.id, Known { grant: connection.grant, at: Instant::now(), sites });
    }

    fn forget(&self, connection: &Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection.id);
    }
}

/// One request of ours, for which Jira may be asked several times.
struct Asking<'k> {
    keep: &'k TokenKeep,
    connection: Connection,
    waited: Duration,
}

impl TokenKeep {
    /// A page of the projects of a Jira site, in the order of their keys.
    ///
    /// # Errors
    /// [`JiraError`].
    pub async fn jira_projects(&self, key: &ConnectionKey, ask: &PageAsk) -> Result<JiraPage<Project>, JiraError> {
        let start = ask.cursor.as_deref().unwrap_or("0");
        let start: u64 = start.parse().map_err(|_| JiraError::Cursor)?;
        self.asking(key).await?.paged(ask, Some(start.to_string()), project_call, project_page).await
    }

    /// A page of the issues that a JQL query finds.
    ///
    /// # Errors
    /// [`JiraError`].
    pub async fn jira_issues(
        &self,
        key: &ConnectionKey,
        jql: &str,
        ask: &PageAsk,
    ) -> Result<JiraPage<Issue>, JiraError> {
        let call = |size: usize, from: Option<&str>| issue_call(jql, size, from);
        self.asking(key).await?.paged(ask, ask.cursor.clone(), call, issue_page).await
    }

    async fn asking(&self, key: &ConnectionKey) -> Result<Asking<'_>, JiraError> {
        let connection = self.get(key).await?;
        let provider = self.provider_of(&connection.provider).ok();
        if !provider.is_some_and(|provider| provider.is_atlassian()) {
            return Err(JiraError::NotAtlassian { key: key.clone(), provider: connection.provider });
        }
        Ok(Asking { keep: self, connection, waited: Duration::ZERO })
    }
}

/// A call below `/ex/jira/{cloudid}/rest/api/3/`.
struct RestCall {
    path: &'static str,
    query: Option<String>,
    body: Option<Value>,
}

/// What one page of Jira's says: its items, and where the next begins.
type RawPage<T> = (Vec<T>, Option<String>);

impl Asking<'_> {
    /// As many pages of Jira's as fill one of ours.
    async fn paged<T>(
        &mut self,
        ask: &PageAsk,
        first: Option<String>,
        call: impl Fn(usize, Option<&str>) -> RestCall,
        read: impl Fn(&Value, Option<&str>) -> Option<RawPage<T>>,
    ) -> Result<JiraPage<T>, JiraError> {
        let (mut items, mut from, mut found_at) = (Vec::new(), first, None);
        for _ in 0..JIRA_PAGES_MAX {
            let size = (ask.limit - items.len()).min(JIRA_PAGE_MAX);
            let (site, page) = self.rest(ask.site.as_deref(), || call(size, from.as_deref())).await?;
            let (some, next) = read(&page, from.as_deref())
                .ok_or_else(|| JiraError::Unreadable("it is no page of what was asked for".to_owned()))?;
            let none = some.is_empty();
            items.extend(some);
            (from, found_at) = (next, Some(site));
            if from.is_none() || none || items.len() >= ask.limit {
                break;
            }
        }
        let site = found_at.ok_or_else(|| JiraError::NoSite(self.connection.key.clone()))?;
        Ok(JiraPage { site, items, next: from })
    }

    /// Asks the API of a site. Where a remembered site refuses, the sites are asked for anew: a consent may have ended, or
    /// another site have joined.
    async fn rest(&mut self, asked: Option<&str>, call: impl Fn() -> RestCall) -> Result<(Site, Value), JiraError> {
        let remembered = self.keep.proxy().sites.get(&self.connection);
        let is_remembered = remembered.is_some();
        let sites = match remembered {
            Some(sites) => sites,
            None => self.sites().await?,
        };
        let found = match choose(&self.connection.key, &sites, asked) {
            Ok(site) => self.at(site, call()).await.map(|answer| (site.clone(), answer)),
            Err(error) => Err(error),
        };
        let is_stale = |error: &JiraError| {
            matches!(
                error,
                JiraError::Refused { status: 403 | 404, .. } | JiraError::Site { .. } | JiraError::NoSite(_)
            )
        };
        match found {
            Err(error) if is_remembered && is_stale(&error) => {
                self.keep.proxy().sites.forget(&self.connection);
                let now = self.sites().await?;
                if now == sites {
                    return Err(error);
                }
                let site = choose(&self.connection.key, &now, asked)?.clone();
                let answer = self.at(&site, call()).await?;
                Ok((site, answer))
            }
            found => found,
        }
    }

    async fn at(&mut self, site: &Site, call: RestCall) -> Result<Value, JiraError> {
        let path = format!("/ex/jira/{}/rest/api/3/{}", site.id, call.path);
        self.json(&path, call.query, call.body.as_ref()).await
    }

    async fn sites(&mut self) -> Result<Arc<[Site]>, JiraError> {
        let found = self.json("/oauth/token/accessible-resources", None, None).await?;
        let sites: Arc<[Site]> =
            read_sites(&found).ok_or_else(|| JiraError::Unreadable("it names no sites".to_owned()))?.into();
        self.keep.proxy().sites.put(&self.connection, Arc::clone(&sites));
        Ok(sites)
    }

    /// Asks, and asks again after a limit that passes soon.
    async fn json(&mut self, path: &str, query: Option<String>, body: Option<&Value>) -> Result<Value, JiraError> {
        loop {
            let answer = self.keep.forward(&self.connection.key, outgoing(path, query.clone(), body)).await?;
            if answer.status() != StatusCode::TOO_MANY_REQUESTS {
                return read(answer).await;
            }
            let wait = retry_after(answer.headers(), SystemTime::now()).unwrap_or(LIMITED_WAIT).max(LIMITED_WAIT);
            // Its place is free while it waits.
            drop(answer);
            self.waited += wait;
            if self.waited > LIMITED_WAIT_MAX {
                return Err(JiraError::Limited { retry_after: wait });
            }
            tokio::time::sleep(wait).await;
        }
    }
}

fn outgoing(path: &str, query: Option<String>, body: Option<&Value>) -> Outgoing {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    Outgoing {
        method: if body.is_some() { Method::POST } else { Method::GET },
        path: path.to_owned(),
        query,
        headers,
        target: None,
        body: CallerBody::new(Full::new(bytes).map_err(|never| match never {})),
    }
}

async fn read(answer: Response<AnswerBody>) -> Result<Value, JiraError> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| JiraError::Unreadable(printable(&error.to_string(), 200)))?.to_bytes();
    let found: Result<Value, _> = serde_json::from_slice(&body);
    if !status.is_success() {
        let message = found.ok().as_ref().and_then(message).unwrap_or_else(|| "it does not say why".to_owned());
        return Err(JiraError::Refused { status: status.as_u16(), message });
    }
    // What does not parse is not quoted.
    found.map_err(|_| JiraError::Unreadable("it is no JSON".to_owned()))
}

/// What Jira, or the gateway before it, says about a refusal.
fn message(body: &Value) -> Option<String> {
    let listed = body["errorMessages"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let named = body["errors"].as_object().into_iter().flatten().filter_map(|(_, why)| why.as_str());
    let said: Vec<&str> = listed.chain(named).chain(body["message"].as_str()).collect();
    (!said.is_empty()).then(|| printable(&said.join(" "), 300))
}

// --- Sites ---

/// The sites of Jira among what a grant reaches; a site that has other products, too, may be named more than once.
fn read_sites(found: &Value) -> Option<Vec<Site>> {
    let mut sites: Vec<Site> = Vec::new();
    for resource in found.as_array()?.iter().take(SITES_OF_GRANT_MAX) {
        let text = |name: &str| resource[name].as_str().map(|text| printable(text, 200));
        let id = resource["id"].as_str().filter(|id| is_cloud_id(id))?.to_owned();
        let mut scopes = resource["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).peekable();
        let is_jira = scopes.peek().is_none() || scopes.any(|scope| scope.contains("jira"));
        if is_jira && !sites.iter().any(|site| site.id == id) {
            sites.push(Site { name: text("name").unwrap_or_default(), url: text("url").unwrap_or_default(), id });
        }
    }
    Some(sites)
}

/// It becomes a part of a path.
fn is_cloud_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn choose<'s>(key: &ConnectionKey, sites: &'s [Site], asked: Option<&str>) -> Result<&'s Site, JiraError> {
    let host = |site: &Site| site.url.split_once("://").map_or("", |(_, host)| host).to_owned();
    let is_it = |site: &&Site, asked: &str| {
        [&site.id, &site.name, &site.url, &host(site)].into_iter().any(|name| name.eq_ignore_ascii_case(asked))
    };
    let site = match (asked, sites) {
        (_, []) => return Err(JiraError::NoSite(key.clone())),
        (Some(asked), _) => sites.iter().find(|site| is_it(site, asked.trim_end_matches('/'))),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let asked = || asked.map(|asked| printable(asked, 100));
    site.ok_or_else(|| JiraError::Site { asked: asked(), sites: sites.to_vec() })
}

// --- Projects and issues ---

fn project_call(size: usize, from: Option<&str>) -> RestCall {
    let query = format!("startAt={}&maxResults={size}&orderBy=key", from.unwrap_or("0"));
    RestCall { path: "project/search", query: Some(query), body: None }
}

fn project_page(page: &Value, from: Option<&str>) -> Option<RawPage<Project>> {
    let values = page["values"].as_array()?;
    let text = |value: &Value, name: &str| value[name].as_str().map(str::to_owned);
    let project = |value: &Value| {
        Some(Project {
            id: text(value, "id")?,
            key: text(value, "key")?,
            name: text(value, "name").unwrap_or_default(),
            kind: text(value, "projectTypeKey"),
        })
    };
    let projects: Option<Vec<Project>> = values.iter().map(project).collect();
    let start: u64 = from.unwrap_or("0").parse().ok()?;
    let next = (page["isLast"] != Value::Bool(true)).then(|| (start + values.len() as u64).to_string());
    Some((projects?, next))
}

fn issue_call(jql: &str, size: usize, from: Option<&str>) -> RestCall {
    let mut body = json!({"jql": jql, "maxResults": size, "fields": FIELDS});
    if let Some(from) = from {
        body["nextPageToken"] = from.into();
    }
    RestCall { path: "search/jql", query: None, body: Some(body) }
}

fn issue_page(page: &Value, _from: Option<&str>) -> Option<RawPage<Issue>> {
    let issues: Option<Vec<Issue>> = page["issues"].as_array()?.iter().map(issue).collect();
    let next = page["nextPageToken"].as_str().filter(|_| page["isLast"] != Value::Bool(true));
    Some((issues?, next.map(str::to_owned)))
}

fn issue(value: &Value) -> Option<Issue> {
    let fields = &value["fields"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let name = |field: &str| text(&fields[field]["name"]);
    Some(Issue {
        id: text(&value["id"])?,
        key: text(&value["key"])?,
        summary: text(&fields["summary"]).unwrap_or_default(),
        status: name("status"),
        kind: name("issuetype"),
        priority: name("priority"),
        assignee: text(&fields["assignee"]["displayName"]),
        project: text(&fields["project"]["key"]),
        labels: fields["labels"].as_array().into_iter().flatten().filter_map(text).collect(),
        created: text(&fields["created"]),
        updated: text(&fields["updated"]),
    })
}

/// The JQL that finds the issues of a project, the last changed first; `None` where it is no key or number of one.
///
/// ```
/// assert_eq!(tokenkeep::jira::jql_of_project("TK").unwrap(), "project = \"TK\" ORDER BY updated DESC");
/// assert!(tokenkeep::jira::jql_of_project("TK\" OR x = \"").is_none());
/// ```
#[must_use]
pub fn jql_of_project(key: &str) -> Option<String> {
    let fits =
        (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    fits.then(|| format!("project = \"{key}\" ORDER BY updated DESC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ConnectionKey {
        ConnectionKey::in_default("jira").unwrap()
    }

    fn site(id: &str, name: &str) -> Site {
        Site { id: id.to_owned(), name: name.to_owned(), url: format!("https://{name}.atlassian.net") }
    }

    #[test]
    fn a_site_is_chosen_by_any_of_its_names() {
        let sites = [site("1a-b", "acme"), site("2c-d", "globex")];
        for asked in ["2c-d", "globex", "GLOBEX", "globex.atlassian.net", "https://globex.atlassian.net/"] {
            assert_eq!(choose(&key(), &sites, Some(asked)).unwrap(), &sites[1], "{asked}");
        }
        assert_eq!(choose(&key(), &sites[..1], None).unwrap(), &sites[0]);
        let told = |found: Result<&Site, JiraError>| match found.unwrap_err() {
            JiraError::Site { asked, sites } => (asked, sites.len()),
            other => panic!("{other}"),
        };
        assert_eq!(told(choose(&key(), &sites, None)), (None, 2));
        assert_eq!(told(choose(&key(), &sites[..1], Some("other"))), (Some("other".to_owned()), 1));
        assert!(matches!(choose(&key(), &[], None), Err(JiraError::NoSite(_))));
    }

    #[test]
    fn sites_of_other_products_and_doubles_are_left_out() {
        let found = json!([
            {"id": "1a-b", "name": "acme", "url": "https://acme.atlassian.net", "scopes": ["read:jira-work"]},
            {"id": "1a-b", "name": "acme", "url": "https://acme.atlassian.net", "scopes": ["read:confluence-content.all"]},
            {"id": "2c-d", "name": "wiki", "url": "https://wiki.atlassian.net", "scopes": ["read:confluence-content.all"]},
            {"id": "3e-f", "name": "new", "url": "https://new.atlassian.net", "scopes": ["read:issue:jira"]},
        ]);
        let names: Vec<String> = read_sites(&found).unwrap().into_iter().map(|site| site.name).collect();
        assert_eq!(names, ["acme", "new"]);
        for wrong in [json!({}), json!([{"name": "x"}]), json!([{"id": "../../oauth"}]), json!([{"id": ""}])] {
            assert_eq!(read_sites(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pages_say_where_the_next_begins() {
        let project = json!({"id": "10000", "key": "TK", "name": "Tokenkeep", "projectTypeKey": "software"});
        let page = json!({"values": [project, project], "isLast": false});
        let (projects, next) = project_page(&page, Some("40")).unwrap();
        assert_eq!((projects.len(), projects[0].key.as_str(), next.as_deref()), (2, "TK", Some("42")));
        assert_eq!(project_page(&json!({"values": [], "isLast": true}), None).unwrap().1, None);
        assert_eq!(project_page(&json!({"values": [{"key": "TK"}]}), None), None);

        let bare =
            json!({"id": "1", "key": "TK-1", "fields": {"summary": "s", "assignee": null, "status": {"name": "Done"}}});
        let (issues, next) = issue_page(&json!({"issues": [bare], "nextPageToken": "t"}), None).unwrap();
        assert_eq!((issues[0].status.as_deref(), issues[0].assignee.as_deref()), (Some("Done"), None));
        assert_eq!(next.as_deref(), Some("t"));
        assert_eq!(issue_page(&json!({"issues": [], "isLast": true, "nextPageToken": "t"}), None).unwrap().1, None);
    }

    #[test]
    fn a_refusal_is_told_in_jira_s_words() {
        let refusal = json!({"errorMessages": ["The value 'X' does not exist.\r\n"], "errors": {"jql": "bad"}});
        assert!(message(&refusal).unwrap().starts_with("The value 'X' does not exist."));
        assert!(!message(&refusal).unwrap().contains('\n'));
        assert_eq!(message(&json!({"code": 401, "message": "Unauthorized"})).as_deref(), Some("Unauthorized"));
        assert_eq!(message(&json!("x")), None);
    }
}
