//! Which headers pass, in each direction.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;

/// What belongs to one connection (RFC 9110 section 7.6.1), whatever `Connection` names besides.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
];

/// What a caller's request must not bring to a provider: credentials, who the caller is, and what we say ourselves.
const CALLERS_OWN: [&str; 11] = [
    "authorization",
    "cookie",
    "cookie2",
    "x-api-key",
    "forwarded",
    "via",
    "x-real-ip",
    "origin",
    "referer",
    "host",
    "content-length",
];

/// All headers that begin so, too.
const CALLERS_OWN_PREFIXES: [&str; 4] = ["proxy-", "x-forwarded-", "sec-", "tokenkeep-"];

/// What a provider's answer must not tell a browser about our origin.
const OF_AN_ORIGIN: [&str; 33] = [
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
    "proxy-authenticate",
    "authentication-info",
    "strict-transport-security",
    "public-key-pins",
    "public-key-pins-report-only",
    "expect-ct",
    "alt-svc",
    "clear-site-data",
    "service-worker-allowed",
    "refresh",
    "content-security-policy",
    "content-security-policy-report-only",
    "x-frame-options",
    "x-xss-protection",
    "x-content-type-options",
    "permissions-policy",
    "feature-policy",
    "referrer-policy",
    "document-policy",
    "origin-agent-cluster",
    "speculation-rules",
    "report-to",
    "reporting-endpoints",
    "nel",
    "sourcemap",
    "x-sourcemap",
    "cache-control",
    "pragma",
    "expires",
    "age",
];

const OF_AN_ORIGIN_PREFIXES: [&str; 4] = ["access-control-", "cross-origin-", "proxy-", "tokenkeep-"];

/// Where the provider points, made whole: under a name of ours, so that no browser and no client follows it.
pub const LOCATION: HeaderName = HeaderName::from_static("tokenkeep-location");
/// The host that answered. An answer without it is Tokenkeep's own.
pub const ANSWERED_BY: HeaderName = HeaderName::from_static("tokenkeep-answered-by");

/// What every answer says instead: it is data, of nobody's origin, and not to be kept.
const SAID: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// The names that `Connection` gives: they are of the connection, too.
fn of_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// The headers without those of `names`, of `prefixes`, and of the connection.
fn without(headers: &HeaderMap, names: &[&str], prefixes: &[&str]) -> HeaderMap {
    let of_connection = of_connection(headers);
    let passes = |name: &str| {
        !HOP_BY_HOP.contains(&name)
            && !names.contains(&name)
            && !prefixes.iter().any(|prefix| name.starts_with(prefix))
            && !of_connection.iter().any(|named| named == name)
    };
    let passing = headers.iter().filter(|(name, _)| passes(name.as_str()));
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in passing {
        kept.append(name.clone(), value.clone());
    }
    kept
}

/// What of a caller's headers goes to a provider.
pub(super) fn to_provider(headers: &HeaderMap) -> HeaderMap {
    without(headers, &CALLERS_OWN, &CALLERS_OWN_PREFIXES)
}

/// What of a provider's headers goes to a caller; `asked` is what was asked for, `target` its host.
pub(super) fn to_caller(headers: &HeaderMap, asked: &str, target: &str) -> HeaderMap {
    let mut kept = without(headers, &OF_AN_ORIGIN, &OF_AN_ORIGIN_PREFIXES);
    if let Some(location) = kept.remove(header::LOCATION)
        && let Some(whole) = whole(&location, asked)
    {
        kept.insert(LOCATION, whole);
    }
    for (name, value) in SAID {
        kept.insert(name, value);
    }
    if let Ok(target) = HeaderValue::from_str(target) {
        kept.insert(ANSWERED_BY, target);
    }
    kept
}

fn whole(location: &HeaderValue, asked: &str) -> Option<HeaderValue> {
    let url = Url::parse(asked).ok()?.join(location.to_str().ok()?).ok()?;
    HeaderValue::from_str(url.as_str()).ok()
}

/// Whether the caller wants to speak another protocol on this connection.
pub(super) fn upgrades(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE) || of_connection(headers).iter().any(|name| name == "upgrade")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_caller_s_credentials_and_connection_stay_here() {
        let sent = headers(&[
            ("accept", "application/json"),
            ("accept-encoding", "gzip"),
            ("content-type", "text/plain"),
            ("if-match", "\"1\""),
            ("range", "bytes=0-1"),
            ("user-agent", "curl"),
            ("x-atlassian-token", "no-check"),
            ("prefer", "a"),
            ("prefer", "b"),
            // None of these.
            ("authorization", "Bearer tk_secret"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("cookie", "tk_session=secret"),
            ("x-api-key", "tk_secret"),
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "tokenkeep"),
            ("x-real-ip", "10.0.0.1"),
            ("via", "1.1 x"),
            ("host", "localhost:7878"),
            ("origin", "http://localhost:7878"),
            ("referer", "http://localhost:7878/dashboard"),
            ("sec-fetch-site", "same-origin"),
            ("tokenkeep-target", "https://api.example.com"),
            ("connection", "keep-alive, X-Internal"),
            ("connection", "x-second"),
            ("x-internal", "1"),
            ("x-second", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("expect", "100-continue"),
        ]);
        let passed = to_provider(&sent);
        assert_eq!(
            names(&passed),
            [
                "accept",
                "accept-encoding",
                "content-type",
                "if-match",
                "prefer",
                "range",
                "user-agent",
                "x-atlassian-token"
            ]
        );
        assert_eq!(passed.get_all("prefer").iter().count(), 2);
    }

    #[test]
    fn a_provider_says_nothing_about_our_origin() {
        let answered = headers(&[
            ("content-type", "text/html"),
            ("content-length", "3"),
            ("etag", "\"1\""),
            ("link", "</x>; rel=\"next\""),
            ("retry-after", "5"),
            ("x-ratelimit-remaining", "1"),
            // None of these as they are.
            ("set-cookie", "tk_session=evil; Path=/"),
            ("www-authenticate", "Basic realm=\"Tokenkeep\""),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("content-security-policy", "default-src *"),
            ("x-content-type-options", "none"),
            ("cache-control", "public, max-age=3600"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("clear-site-data", "\"*\""),
            ("service-worker-allowed", "/"),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3=\":443\""),
            ("refresh", "0; url=/v1/session"),
            ("tokenkeep-location", "https://evil.test"),
            ("location", "/v1/connections"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
        ]);
        let passed = to_caller(&answered, "https://api.example.com/a/b?c", "https://api.example.com");
        assert_eq!(
            names(&passed),
            [
                "cache-control",
                "content-length",
                "content-security-policy",
                "content-type",
                "cross-origin-resource-policy",
                "etag",
                "link",
                "referrer-policy",
                "retry-after",
                "tokenkeep-answered-by",
                "tokenkeep-location",
                "x-content-type-options",
                "x-ratelimit-remaining",
            ]
        );
        let value = |name: &str| passed[name].to_str().unwrap();
        assert_eq!(value("tokenkeep-location"), "https://api.example.com/v1/connections");
        assert_eq!(value("tokenkeep-answered-by"), "https://api.example.com");
        assert!(value("content-security-policy").contains("sandbox"));
        assert_eq!((value("cache-control"), value("x-content-type-options")), ("no-store", "nosniff"));
        assert_eq!(value("cross-origin-resource-policy"), "same-origin");
    }

    #[test]
    fn an_upgrade_is_seen_in_either_header() {
        assert!(upgrades(&headers(&[("upgrade", "websocket")])));
        assert!(upgrades(&headers(&[("connection", "keep-alive, Upgrade")])));
        assert!(!upgrades(&headers(&[("connection", "keep-alive")])));
    }
}
