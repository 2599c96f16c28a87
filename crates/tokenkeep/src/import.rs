//! Token sets that people have: a JSON object as requests-oauthlib, Authlib and a plain token answer write it.

use crate::error::Error;
use jiff::Timestamp as Instant;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use tokenkeep_core::model::{Connection, ConnectionKey, printable};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::oauth::response::{is_token, jwt_expires_at, life, scopes};
use tokenkeep_core::schedule::{LIFETIME_MAX, LIFETIME_MIN};
use tokenkeep_core::{Secret, Timestamp};

/// The largest token set that is read, in bytes.
pub const TOKEN_SET_BYTES_MAX: usize = 256 * 1024;
/// A number of seconds this large is taken for milliseconds: as seconds it would be the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;

/// A token set that somebody brings.
#[derive(Debug)]
pub struct Import {
    /// What the connection is or will be called.
    pub key: ConnectionKey,
    /// The provider's name in the configuration.
    pub provider: String,
    /// The token set: the text of a JSON object.
    pub token: Secret,
    /// Labels; `None` keeps those of an existing connection.
    pub labels: Option<BTreeMap<String, String>>,
}

/// What became of an [`Import`].
#[derive(Debug)]
pub enum Imported {
    /// A new connection.
    Created(Connection),
    /// A new grant of an existing one.
    Renewed(Connection),
    /// It is the token set in hand; nothing was changed.
    AlreadyHeld(Connection),
    /// Its refresh token was used before the one in hand; nothing was changed.
    AlreadyUsed(Connection),
}

/// A token set as it was read.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) tokens: TokenSet,
    /// In wall time.
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) scopes: Vec<String>,
}

/// Reads a token set of any shape that interface.md 4 names.
pub(crate) fn read(text: &Secret) -> Result<Brought, Error> {
    let mut fields = object(text.expose())?;
    let access_token = token(&mut fields, "access_token")?
        .ok_or_else(|| invalid("token.access_token", "nothing", "the access token, a text; is this a token file?"))?;
    let refresh_token = token(&mut fields, "refresh_token")?;
    let token_type = match fields.remove("token_type") {
        None | Some(Value::Null) => "Bearer".to_owned(),
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("bearer") || kind.is_empty() => "Bearer".to_owned(),
        Some(Value::String(kind)) if kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => kind,
        Some(other) => return Err(invalid("token.token_type", &kind_of(&other), "a text such as \"Bearer\"")),
    };
    let expires_at = match fields.remove("expires_at") {
        None | Some(Value::Null) => jwt_expires_at(access_token.expose()).map(|s| Timestamp::from_millis(s * 1000)),
        Some(value) => Some(moment(&value)?),
    };
    let expires_in = life(fields.remove("expires_in").as_ref());
    let scope = fields.remove("scope").or_else(|| fields.remove("scopes"));
    let scopes = scope.as_ref().and_then(scopes).unwrap_or_default();
    let extra = Secret::new(Value::Object(fields).to_string());
    Ok(Brought { tokens: TokenSet { access_token, refresh_token, token_type, extra }, expires_at, expires_in, scopes })
}

fn invalid(field: &str, found: &str, expected: &str) -> Error {
    Error::Invalid { field: field.to_owned(), found: format!("found {found}"), expected: expected.to_owned() }
}

fn object(text: &str) -> Result<Map<String, Value>, Error> {
    let expected = "a JSON object such as {\"access_token\": \"...\", \"refresh_token\": \"...\"}; nothing was changed";
    if text.len() > TOKEN_SET_BYTES_MAX {
        return Err(invalid("token", &format!("{} bytes", text.len()), "at most 262144 bytes"));
    }
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(invalid("token", "nothing", expected));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(invalid("token", &kind_of(&other), expected)),
        // The position, and never the text around it: it may hold a token.
        Err(error) => {
            Err(invalid("token", &format!("broken JSON at line {}, column {}", error.line(), error.column()), expected))
        }
    }
}

fn token(fields: &mut Map<String, Value>, name: &str) -> Result<Option<Secret>, Error> {
    let field = format!("token.{name}");
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if is_token(&text) => Ok(Some(Secret::new(text))),
        Some(Value::String(text)) => Err(invalid(
            &field,
            &format!("a text of {} bytes with characters that no header may carry", text.len()),
            "printable ASCII without spaces, at most 16 KiB",
        )),
        Some(other) => Err(invalid(&field, &kind_of(&other), "a text")),
    }
}

/// Seconds since the epoch as integer, float or text; milliseconds; or ISO 8601.
fn moment(value: &Value) -> Result<Timestamp, Error> {
    let expected = "seconds or milliseconds since 1970, or a time such as 2026-11-23T12:00:00Z";
    let wrong = || invalid("token.expires_at", &shown(value), expected);
    let seconds = match value {
        Value::Number(number) => number.as_f64().ok_or_else(wrong)?,
        Value::String(text) => match text.trim().parse() {
            Ok(seconds) => seconds,
            Err(_) => return iso(text.trim()).ok_or_else(wrong),
        },
        _ => return Err(wrong()),
    };
    let millis = if seconds >= MILLISECONDS_FROM { seconds } else { seconds * 1000.0 };
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
    (0.0..253_402_300_800_000.0).contains(&millis).then(|| Timestamp::from_millis(millis as i64)).ok_or_else(wrong)
}

/// The life that a token answer states only by its end (`expires_at`, Square), for a request sent at `sent_at` in wall
/// time; `extra` is what else the answer says. Believed only between 1 s and 10 years.
pub(crate) fn stated_life(extra: &Secret, sent_at: Timestamp) -> Option<Duration> {
    let fields: Map<String, Value> = serde_json::from_str(extra.expose()).ok()?;
    let life = sent_at.until(moment(fields.get("expires_at")?).ok()?);
    (LIFETIME_MIN..=LIFETIME_MAX).contains(&life).then_some(life)
}

fn iso(text: &str) -> Option<Timestamp> {
    let zoned = text.parse::<Instant>().ok();
    // Python's datetime.isoformat() of a naive UTC time has no offset.
    let instant = zoned.or_else(|| {
        let naive: jiff::civil::DateTime = text.parse().ok()?;
        jiff::tz::TimeZone::UTC.to_timestamp(naive).ok()
    })?;
    Some(Timestamp::from_millis(instant.as_millisecond()))
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
    .to_owned()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("`{}`", printable(text, 40)),
        other => kind_of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brought(text: &str) -> Brought {
        read(&Secret::new(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_answer_may_state_only_its_end() {
        let at = Timestamp::from_millis(1_800_000_000_000);
        let life = |end: &str| stated_life(&Secret::new(format!(r#"{{"expires_at":{end}}}"#)), at);
        for end in ["1800000600", "1800000600000", "\"1800000600\"", "\"2027-01-15T08:10:00Z\""] {
            assert_eq!(life(end), Some(Duration::from_secs(600)), "{end}");
        }
        for absent in ["null", "1000", "\"next week\"", "[]", "3000000000"] {
            assert_eq!(life(absent), None, "{absent}");
        }
        assert_eq!(stated_life(&Secret::new("{}"), at), None);
    }

    #[test]
    fn the_shapes_that_libraries_write() {
        let requests = brought(
            r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"expires_at":1800000000.25,"token_type":"bearer","scope":["x","y"]}"#,
        );
        assert_eq!(requests.expires_at, Some(Timestamp::from_millis(1_800_000_000_250)));
        assert_eq!(
            (requests.scopes.as_slice(), requests.tokens.token_type.as_str()),
            (&["x".to_owned(), "y".to_owned()][..], "Bearer")
        );
        let authlib = brought(r#"{"access_token":"a","expires_at":1800000000,"scope":"x y","expires_in":"3600"}"#);
        assert_eq!((authlib.scopes.len(), authlib.expires_in), (2, Some(Duration::from_secs(3600))));
        assert!(authlib.tokens.refresh_token.is_none());
    }

    #[test]
    fn expires_at_of_every_shape() {
        let end = Some(Timestamp::from_millis(1_800_000_000_000));
        for text in [
            "1800000000",
            "1800000000.0",
            "1800000000000",
            "\"1800000000\"",
            "\"2027-01-15T08:00:00Z\"",
            "\"2027-01-15T09:00:00+01:00\"",
            "\"2027-01-15T08:00:00\"",
            "\"2027-01-15 08:00:00\"",
        ] {
            assert_eq!(brought(&format!(r#"{{"access_token":"a","expires_at":{text}}}"#)).expires_at, end, "{text}");
        }
        assert_eq!(brought(r#"{"access_token":"a","expires_at":null}"#).expires_at, None);
        for odd in ["-1", "null", "\"x\"", "0"] {
            assert_eq!(brought(&format!(r#"{{"access_token":"a","expires_in":{odd}}}"#)).expires_in, None);
        }
    }

    #[test]
    fn what_is_none_says_where_and_what_was_expected_and_shows_no_secret() {
        for (text, says) in [
            ("", "nothing"),
            ("  ", "nothing"),
            ("[]", "a list"),
            ("\"hunter2\"", "a text"),
            (r#"{"access_token":"hunter2","#, "broken JSON at line 1"),
            (r#"{"refresh_token":"hunter2"}"#, "token.access_token"),
            (r#"{"access_token":7}"#, "a number"),
            (r#"{"access_token":"hunter2 x"}"#, "printable ASCII"),
            (r#"{"access_token":"a","refresh_token":["hunter2"]}"#, "token.refresh_token"),
            (r#"{"access_token":"a","expires_at":"tomorrow"}"#, "`tomorrow`"),
            (r#"{"access_token":"a","expires_at":-5}"#, "-5"),
            (r#"{"access_token":"a","expires_at":true}"#, "true or false"),
            (r#"{"access_token":"a","token_type":3}"#, "token.token_type"),
        ] {
            let message = read(&Secret::new(text)).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains("expected"), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
