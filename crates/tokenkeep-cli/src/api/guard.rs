//! Who may ask over TCP: programs and pages of this machine (security 17, DNS rebinding).

use super::oauth::SignIns;
use super::problem::Problem;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// Refuses requests whose `Host` is neither a loopback name nor the one that browsers know the daemon by, and those that
/// another site's page sent.
pub async fn own_pages(State(sign_ins): State<SignIns>, request: Request, next: Next) -> Response {
    match check(request.uri(), request.headers(), &sign_ins) {
        Ok(()) => next.run(request).await,
        Err(problem) => turned_away(problem),
    }
}

/// Refuses requests whose `Host` is neither a loopback name nor the one that browsers know the daemon by. What a
/// provider's page sends is let through: the sign-in's own cookie and state tell whose it is.
pub async fn own_host(State(sign_ins): State<SignIns>, request: Request, next: Next) -> Response {
    if !has_host(request.uri(), request.headers(), |host| is_ours(host, &sign_ins)) {
        return turned_away(foreign_host());
    }
    next.run(request).await
}

/// Marks the answer to what was refused here.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

fn turned_away(problem: Problem) -> Response {
    let mut response = problem.into_response();
    response.extensions_mut().insert(Refused);
    response
}

/// Refuses a change by a session whose browser does not say that a page of ours asked for it: a cookie goes along with
/// whatever page sends a request.
///
/// # Errors
/// It does not say so.
pub fn same_origin(method: &Method, headers: &HeaderMap, sign_ins: &SignIns) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_site = text("sec-fetch-site") == Some("same-origin");
    let by_origin = text("origin").zip(text("host")).is_some_and(|(origin, host)| {
        origin.split_once("://").is_some_and(|(_, named)| named.eq_ignore_ascii_case(host)) && is_ours(host, sign_ins)
    });
    if by_site || by_origin {
        return Ok(());
    }
    Err(refused("foreign_page", "the browser does not say that a page of this daemon sent the request"))
}

fn check(uri: &Uri, headers: &HeaderMap, sign_ins: &SignIns) -> Result<(), Problem> {
    if !has_host(uri, headers, |host| is_ours(host, sign_ins)) {
        return Err(foreign_host());
    }
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    if !matches!(text("sec-fetch-site"), None | Some("same-origin" | "none")) {
        return Err(refused("foreign_page", "another site's page sent this request"));
    }
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, host)| is_ours(host, sign_ins));
    match text("origin") {
        Some(origin) if !own(origin) => Err(refused("foreign_page", "the Origin header names another host")),
        _ => Ok(()),
    }
}

fn is_ours(host: &str, sign_ins: &SignIns) -> bool {
    is_loopback(host) || sign_ins.is_own_host(host)
}

fn foreign_host() -> Problem {
    refused("host_not_allowed", "the Host header names another host")
}

/// Whether there is one `Host`, and it is a good one; so is the one of an absolute request target, which stands above it
/// (RFC 9112 section 3.2.2).
fn has_host(uri: &Uri, headers: &HeaderMap, is_good: impl Fn(&str) -> bool) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let target_is_good = uri.authority().is_none_or(|authority| is_good(authority.as_str()));
    hosts.next().is_none() && target_is_good && host.is_some_and(is_good)
}

fn refused(code: &str, detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code, detail)
        .next("Ask by http://localhost, http://127.0.0.1, http://[::1] or public_url.")
}

/// `localhost` or a loopback address, with a port or without.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && (name.ends_with(']') || !name.contains(':')) => name,
        _ => host,
    };
    let address = match name.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']'),
        None => Some(name).filter(|name| !name.contains(':')),
    };
    let Some(address) = address else { return false };
    address.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::middleware;
    use axum::routing::get;
    use tower::ServiceExt as _;

    #[test]
    fn only_loopback_names_are_hosts() {
        for good in ["localhost", "LOCALHOST:7878", "127.0.0.1", "127.0.0.1:1", "127.1.2.3:80", "[::1]", "[::1]:7878"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "::1",
            "[::2]:1",
            "localhost:x",
            "localhost:1:2",
            "localhost:+1",
            "evil.example:7878",
            "[localhost",
            "0.0.0.0:7878",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }

    async fn ask(headers: &[(&str, &str)]) -> u16 {
        let guard = middleware::from_fn_with_state(SignIns::at("https://keep.example".parse().ok()), own_pages);
        let app = Router::new().route("/", get(|| async { "yes" })).layer(guard);
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn other_sites_are_refused() {
        assert_eq!(ask(&[("host", "localhost:7878")]).await, 200);
        assert_eq!(ask(&[("host", "127.0.0.1"), ("origin", "http://localhost:7878")]).await, 200);
        assert_eq!(ask(&[("host", "127.0.0.1"), ("sec-fetch-site", "none")]).await, 200);
        assert_eq!(ask(&[("host", "keep.example"), ("origin", "https://keep.example")]).await, 200);
        for refused in [
            &[][..],
            &[("host", "rebound.example")],
            &[("host", "localhost"), ("host", "evil.example")],
            &[("host", "localhost"), ("origin", "https://evil.example")],
            &[("host", "localhost"), ("origin", "null")],
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost"), ("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(ask(refused).await, 403, "{refused:?}");
        }
    }
}
