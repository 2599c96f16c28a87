//! `/oauth/`: where the browsers of people come who sign in. Every page works without JavaScript.
//!
//! A sign-in is bound to one browser by a cookie: whoever opens its start link first. The redirect of a sign-in that was
//! begun elsewhere finds no such cookie, and is refused.

use super::Api;
use super::access::About;
use super::problem::Problem;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use tokenkeep::Error;
use tokenkeep::connect::SIGN_INS_MAX;
use tokenkeep_core::model::printable;
use tokenkeep_core::oauth::authorize::state_of;
use tokenkeep_core::{Secret, Timestamp};
use url::Url;

/// Where providers send browsers back to.
pub const CALLBACK: &str = "/oauth/callback";
/// What the cookie of a sign-in is called, before the beginning of its state.
const COOKIE: &str = "tokenkeep_sign_in_";
/// How much of the state is in the cookie's name: enough to tell sign-ins apart.
const COOKIE_STATE: usize = 12;
/// How long the cookie lives, in seconds.
const COOKIE_SECONDS: u64 = 600;
/// What a page may load and do: its own style, nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The links that wait for a browser, and where the daemon is for one.
#[derive(Clone, Debug, Default)]
pub struct SignIns {
    public_url: Option<Arc<Url>>,
    links: Arc<Mutex<BTreeMap<String, Link>>>,
}

#[derive(Debug)]
struct Link {
    url: Url,
    proof: Secret,
    expires_at: Timestamp,
}

impl SignIns {
    /// Browsers find the daemon at this address; `None`: they do not.
    #[must_use]
    pub fn at(public_url: Option<Url>) -> Self {
        Self { public_url: public_url.map(Arc::new), links: Arc::default() }
    }

    fn below(&self, path: &str) -> Result<Url, Problem> {
        let found = self.public_url.as_ref().and_then(|url| url.join(path).ok());
        found.ok_or_else(|| {
            Problem::new(
                StatusCode::CONFLICT,
                "no_public_url",
                "browsers cannot reach this daemon: it does not listen on TCP",
            )
            .next("Start it with --listen, or take the redirect yourself by `redirect_uri`.")
        })
    }

    /// Where providers send browsers back to.
    ///
    /// # Errors
    /// The daemon does not listen on TCP.
    pub fn callback(&self) -> Result<Url, Problem> {
        self.below(CALLBACK)
    }

    /// A link for one browser to a sign-in.
    ///
    /// # Errors
    /// The daemon does not listen on TCP, or too many links wait.
    pub fn start_link(
        &self,
        now: Timestamp,
        id: &str,
        url: Url,
        proof: Secret,
        expires_at: Timestamp,
    ) -> Result<Url, Problem> {
        let link = self.below(&format!("/oauth/start/{id}"))?;
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, link| link.expires_at > now);
        if links.len() >= SIGN_INS_MAX {
            return Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "sign_in_too_many",
                "too many sign-ins are under way",
            ));
        }
        links.insert(id.to_owned(), Link { url, proof, expires_at });
        Ok(link)
    }

    fn take(&self, now: Timestamp, id: &str) -> Option<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.remove(id).filter(|link| link.expires_at > now)
    }

    /// Checks where a browser is to go when all is done: an address below the daemon's own, or on this machine.
    ///
    /// # Errors
    /// It is another.
    pub fn return_url(&self, text: &str) -> Result<String, Problem> {
        let own = self.public_url.as_ref();
        let is_ours = |url: &Url| {
            let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
            matches!(url.scheme(), "http" | "https") && (here || own.is_some_and(|own| own.origin() == url.origin()))
        };
        let url = own.and_then(|own| own.join(text).ok()).or_else(|| Url::parse(text).ok());
        url.filter(is_ours).map(String::from).ok_or_else(|| {
            Problem::invalid(
                format!("the field `return_url` is `{}`", printable(text, 80)),
                "Expected a path, an address below public_url, or one of this machine.",
            )
        })
    }

    /// Where browsers find the daemon.
    #[must_use]
    pub fn public_url(&self) -> Option<&Url> {
        self.public_url.as_deref()
    }

    /// Whether browsers come by https.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| url.scheme() == "https")
    }

    /// Whether browsers know the daemon by this host, with a port or without.
    #[must_use]
    pub fn is_own_host(&self, host: &str) -> bool {
        self.public_url.as_deref().and_then(Url::host_str).is_some_and(|own| {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            own.eq_ignore_ascii_case(name) || own.eq_ignore_ascii_case(host)
        })
    }

    fn is_secure(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| url.scheme() == "https")
    }
}

/// Binds the sign-in to the browser that opens its link, and sends it on to the provider.
#[utoipa::path(get, path = "/oauth/start/{id}", operation_id = "start_page", tag = "pages",
    params(("id" = String, Path, description = "The sign-in's id.")), responses(
    (status = 303, description = "To the provider."),
    (status = 403, description = "`host_not_allowed`: the Host header names another host."),
    (status = 404, description = "The link is used up.", body = String, content_type = "text/html"),
))]
pub async fn start(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let Some(link) = api.sign_ins.take(api.keep.now(), &id) else {
        return page(
            StatusCode::NOT_FOUND,
            "This link is used up",
            "A sign-in link works once, in one browser, for ten minutes.",
            "Begin again with `tokenkeep connect NAME`.",
        );
    };
    let secure = if api.sign_ins.is_secure() { "; Secure" } else { "" };
    let cookie = format!(
        "{}={}; Path=/oauth/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax{secure}",
        cookie_name(&id),
        link.proof.expose()
    );
    let mut response = sent_to(link.url.as_str());
    // The state and the proof are base64url, so it fits.
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn cookie_name(state: &str) -> String {
    let start: String = state.chars().filter(|c| c.is_ascii_alphanumeric()).take(COOKIE_STATE).collect();
    format!("{COOKIE}{start}")
}

/// The redirect of a sign-in that the daemon takes itself.
#[utoipa::path(get, path = "/oauth/callback", operation_id = "callback_page", tag = "pages", responses(
    (status = 200, description = "Connected.", body = String, content_type = "text/html"),
    (status = 303, description = "Connected; on to `return_url`."),
    (status = 400, description = "Not connected: the redirect cannot be read.", body = String, content_type = "text/html"),
    (status = 403, description = "Not connected: begun elsewhere.", body = String, content_type = "text/html"),
    (status = 404, description = "Not connected: no such sign-in.", body = String, content_type = "text/html"),
    (status = 409, description = "Not connected: refused.", body = String, content_type = "text/html"),
    (status = 502, description = "Not connected: the provider cannot be reached.", body = String, content_type = "text/html"),
    (status = 503, description = "Not connected: the daemon cannot.", body = String, content_type = "text/html"),
))]
pub async fn callback(State(api): State<Api>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let query = query.unwrap_or_default();
    let state = state_of(&query);
    let name = state.as_ref().map(|state| cookie_name(state.expose()));
    // Without the cookie there is no proof, and no proof is none of ours.
    let proof = name.as_deref().and_then(|name| cookie(&headers, name)).unwrap_or_else(|| Secret::new(""));
    let mut response = match api.keep.finish_sign_in(&query, &proof).await {
        Ok(finished) => {
            let key = &finished.imported.connection().key;
            let mut response = match finished.return_url {
                Some(url) => sent_to(&url),
                None => page(
                    StatusCode::OK,
                    "Connected",
                    &format!("{key} is connected, and will be kept fresh."),
                    "You may close this page.",
                ),
            };
            response.extensions_mut().insert(About(key.to_string()));
            response
        }
        Err(error) => failed(&api, &error),
    };
    if let Some(value) = name.and_then(|name| HeaderValue::try_from(format!("{name}=; Path=/oauth/; Max-Age=0")).ok()) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

fn failed(api: &Api, error: &Error) -> Response {
    let problem = api.problem(error);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
    let next = problem.next_action.as_deref().unwrap_or("Begin again.");
    page(status, "Not connected", &format!("{}.", capitalized(&problem.detail)), next)
}

fn capitalized(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn sent_to(url: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(value) = HeaderValue::try_from(url) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    guarded(response)
}

/// The value of a cookie; one that stands twice is none.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<Secret> {
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split("; "))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(found, _)| *found == name);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(Secret::new(value)),
        _ => None,
    }
}

/// A page of a few words.
pub fn page(status: StatusCode, title: &str, text: &str, next: &str) -> Response {
    let mut response = Response::new(Body::from(html(Look::Styled, title, text, next)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    guarded(response)
}

/// Whether a page has somebody to serve its style.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// The daemon.
    Styled,
    /// Nobody: a command that answers one request.
    Plain,
}

/// The text of a page; what is given is escaped.
#[must_use]
pub fn html(look: Look, title: &str, text: &str, next: &str) -> String {
    let (title, text, next) = (escaped(title), escaped(text), escaped(next));
    let style = match look {
        Look::Styled => "<link rel=\"stylesheet\" href=\"/oauth/page.css\">\n",
        Look::Plain => "",
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title} - Tokenkeep</title>\n\
         {style}<main>\n<h1>{title}</h1>\n<p>{text}</p>\n<p>{next}</p>\n</main>\n"
    )
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '"' | '\'' => {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "&#{};", u32::from(letter));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// What keeps a page to itself: no script, no frame, no cache, and no trace of its address elsewhere.
fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// How the pages look.
#[utoipa::path(get, path = "/oauth/page.css", operation_id = "page_style", tag = "pages", responses(
    (status = 200, description = "The style.", body = String, content_type = "text/css"),
))]
pub async fn style() -> Response {
    let mut response = Response::new(Body::from(STYLE));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
    guarded(response)
}

const STYLE: &str = "\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 34rem; margin: 18vh auto 0; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
p { margin: 0 0 .75rem; }
p:last-child { opacity: .7; }
";

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SignIns {
        SignIns::at(Some(text.parse().unwrap()))
    }

    #[test]
    fn a_link_works_once_and_not_for_ever() {
        let sign_ins = at("http://localhost:7878");
        let (now, later) = (Timestamp::EPOCH, Timestamp::from_millis(600_000));
        let give = || sign_ins.start_link(now, "id", "https://idp/".parse().unwrap(), Secret::new("p"), later).unwrap();
        assert_eq!(give().as_str(), "http://localhost:7878/oauth/start/id");
        assert!(sign_ins.take(now, "id").is_some());
        assert!(sign_ins.take(now, "id").is_none());
        give();
        assert!(sign_ins.take(later, "id").is_none());
        assert!(SignIns::default().callback().is_err());
    }

    #[test]
    fn a_browser_is_sent_nowhere_else() {
        let sign_ins = at("https://tokens.example.com");
        assert_eq!(sign_ins.return_url("/done?x=1").unwrap(), "https://tokens.example.com/done?x=1");
        assert!(sign_ins.return_url("http://localhost:3000/back").is_ok());
        for evil in [
            "https://evil.example/",
            "//evil.example/",
            "javascript:alert(1)",
            "https://tokens.example.com.evil.example/",
            "data:text/html,x",
        ] {
            assert!(sign_ins.return_url(evil).is_err(), "{evil}");
        }
    }

    #[test]
    fn a_page_shows_text_and_runs_nothing() {
        let text = html(Look::Styled, "T", "<script>alert('x')</script>", "\"&");
        assert!(!text.contains("<script") && text.contains("&#60;script&#62;alert(&#39;x&#39;)"), "{text}");
        let response = page(StatusCode::OK, "T", "x", "y");
        assert!(
            response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'")
        );
    }

    #[test]
    fn a_cookie_is_read_when_it_stands_once() {
        let headers = |text: &str| HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(text).unwrap())]);
        assert_eq!(cookie(&headers("a=1; tk=x"), "tk").unwrap().expose(), "x");
        assert!(cookie(&headers("tk=x; tk=y"), "tk").is_none());
        assert!(cookie(&headers("atk=x"), "tk").is_none());
    }
}
