//! `[webhooks]`: where webhooks may lead beside the public Internet.

use super::document::{ConfigError, Section, Value};
use tokenkeep::webhooks::ALLOW_HOSTS_MAX;
use tokenkeep_core::model::printable;
use url::Url;

/// The keys of the section.
pub const KEYS: &[&str] = &["allow_hosts"];

const EXPECTED: &str = "hosts such as [\"127.0.0.1:9000\", \"hooks.example.internal\"], at most 64, without https://";

/// The hosts that are allowed.
pub fn read(section: &Section<'_>) -> Vec<String> {
    section.read_or("allow_hosts", (Vec::new(), "[]".to_owned()), allow_hosts)
}

fn allow_hosts(value: &Value<'_>) -> Result<Vec<String>, ConfigError> {
    let wrong = |value: &Value<'_>, found: String| value.error(found, format!("expected {EXPECTED}"));
    let one = |value: &Value<'_>, text: &str| match host(text) {
        Some(host) => Ok(host),
        None => Err(wrong(value, format!("`{}` is no host", printable(text, 60)))),
    };
    let found: Vec<String> = match value.of_environment() {
        Some((text, _)) => text
            .split([' ', ','])
            .filter(|text| !text.is_empty())
            .map(|text| one(value, text))
            .collect::<Result<_, _>>()?,
        None => value.items().iter().map(|item| one(item, item.text(EXPECTED)?)).collect::<Result<_, _>>()?,
    };
    if found.len() > ALLOW_HOSTS_MAX {
        return Err(wrong(value, format!("there are {} hosts", found.len())));
    }
    Ok(found)
}

/// `host` or `host:port`, as a URL's host is written.
fn host(text: &str) -> Option<String> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || "/\\@?#*".contains(c)) {
        return None;
    }
    let read = |scheme: &str| Url::parse(&format!("{scheme}://{text}/")).ok();
    let (plain, tls) = (read("http")?, read("https")?);
    // Each hides the port that is its own.
    let port = plain.port().or(tls.port());
    let host = plain.host_str().filter(|host| !host.is_empty())?;
    Some(port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_written_as_urls_write_them() {
        for (text, expected) in [
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("127.1:80", "127.0.0.1:80"),
            ("Hooks.Example.Internal", "hooks.example.internal"),
            ("localhost:443", "localhost:443"),
            ("[::1]:8443", "[::1]:8443"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(host(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", ":80", "http://x", "x/y", "a@b", "x:y", "x:99999", "a b", "*.x", "x?", "x#", "::1"] {
            assert_eq!(host(text), None, "{text}");
        }
    }
}
