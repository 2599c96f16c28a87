//! What of a path and a query may go to a provider: as the caller wrote it, or not at all.

use http::uri::PathAndQuery;

/// The longest path with its query.
pub const PATH_BYTES_MAX: usize = 16 * 1024;
/// How often a path is decoded to look for what is hidden in it: servers behind servers decode more than once.
const DECODED_TIMES: usize = 3;

/// The path and query as they are sent.
///
/// An encoded slash passes, for APIs have it in names (`group%2Fproject`). What does not pass are segments that climb
/// (`.` and `..`, in any encoding and between any slashes), control characters, and what reads as another authority.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn read(path: &str, query: Option<&str>) -> Result<PathAndQuery, &'static str> {
    if path.len() + query.map_or(0, str::len) > PATH_BYTES_MAX {
        return Err("it is longer than 16 KiB");
    }
    let Some(rest) = path.strip_prefix('/') else { return Err("it does not begin with a slash") };
    if rest.starts_with(['/', '\\']) {
        return Err("it begins with two slashes, which names a host");
    }
    let scheme = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    if matches!(scheme.as_str(), "http:" | "https:") {
        return Err("it is a whole URL");
    }
    let mut decoded = path.as_bytes().to_vec();
    for nth in 0..=DECODED_TIMES {
        check(&decoded)?;
        match decode(&decoded) {
            // Overlong forms of a dot or a slash (%c0%ae) are no UTF-8.
            Some(next) if std::str::from_utf8(&next).is_err() => return Err("it is not UTF-8"),
            Some(next) => decoded = next,
            // What was encoded may hold a percent sign that means itself.
            None if nth > 0 => break,
            None => return Err("a percent sign is not followed by two hex digits"),
        }
    }
    let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    PathAndQuery::try_from(whole).map_err(|_| "it has a character that must be encoded")
}

fn check(path: &[u8]) -> Result<(), &'static str> {
    if path.iter().any(u8::is_ascii_control) {
        return Err("it has a control character");
    }
    let mut segments = path.split(|byte| matches!(byte, b'/' | b'\\'));
    // Servlet containers cut a segment at its parameters before they climb.
    let name = |segment: &[u8]| segment.split(|&byte| byte == b';').next().unwrap_or_default().to_vec();
    if segments.any(|segment| matches!(name(segment).as_slice(), b"." | b"..")) {
        return Err("it has a segment that is `.` or `..`");
    }
    Ok(())
}

/// Decoded once; `None` where it is not an encoding.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        decoded.push(u8::try_from(value).ok()?);
        rest = after;
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_sent_as_it_was_written() {
        for (path, query, sent) in [
            ("/", None, "/"),
            ("/me", None, "/me"),
            ("/me", Some(""), "/me?"),
            (
                "/ex/jira/1/rest/api/3/search",
                Some("jql=a%20%3D%201&x=%0d%0a"),
                "/ex/jira/1/rest/api/3/search?jql=a%20%3D%201&x=%0d%0a",
            ),
            ("/projects/group%2Fproject/repository", None, "/projects/group%2Fproject/repository"),
            ("/a/...", None, "/a/..."),
            ("/a/.hidden/..b", None, "/a/.hidden/..b"),
            ("/files/100%25", None, "/files/100%25"),
            ("/v1/items:batch;v=1", None, "/v1/items:batch;v=1"),
            ("/x/https://a.example", None, "/x/https://a.example"),
            ("/a//b", None, "/a//b"),
        ] {
            assert_eq!(read(path, query).unwrap().as_str(), sent, "{path}");
        }
    }

    #[test]
    fn nothing_climbs_or_names_another_host() {
        for path in [
            "",
            "me",
            "//evil.test/x",
            "/\\evil.test/x",
            "/http://evil.test/",
            "/HTTPS://evil.test/",
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/a/%2e%2e/b",
            "/a/%2E./b",
            "/a/.%2e/b",
            "/a/%2e",
            "/a/..%2fb",
            "/a%2f..%2fb",
            "/a%2F%2e%2e%2Fb",
            "/a%5c..%5cb",
            "/a\\..\\b",
            "/a/%252e%252e/b",
            "/a/%25252e%25252e/b",
            "/a%252f..%252fb",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/%2e%2e%3b/b",
            "/a%00b",
            "/a%0d%0aHost:%20evil.test",
            "/a%0ab",
            "/a%7fb",
            "/a%250d%250ab",
            "/a/%c0%ae%c0%ae/b",
            "/a%c0%afb",
            "/a%2",
            "/a%zz",
            "/a%",
        ] {
            assert!(read(path, None).is_err(), "{path:?}");
        }
        assert!(read(&"/x".repeat(PATH_BYTES_MAX), None).unwrap_err().contains("longer"));
    }
}
