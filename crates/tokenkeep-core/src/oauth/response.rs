//! How an answer is read. All leniency lives here, each with the provider that forced it.

use super::{RawAnswer, TokenAnswer};
use crate::schedule::{LIFETIME_MAX, LIFETIME_MIN};
use crate::secret::Secret;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use zeroize::Zeroizing;

/// The longest token that is taken, in bytes.
pub const TOKEN_LENGTH_MAX: usize = 16 * 1024;

/// What a body says, whatever the status code (quirk 1).
#[derive(Debug)]
pub enum Reading {
    /// A token set.
    Token(Box<TokenAnswer>),
    /// An error in the words of RFC 6749 section 5.2, or near to them.
    Error(ErrorAnswer),
    /// An access token that must not be handed out; why.
    Unusable(&'static str),
    /// Neither a token nor an error: what it looks like instead.
    Neither(&'static str),
}

/// An error answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ErrorAnswer {
    /// `error`: the code.
    pub error: String,
    /// `error_description`, or whatever stands for it. May be empty.
    pub description: String,
}

/// What is said in place of an error's words where they repeat a secret.
pub const REPEATS_A_SECRET: &str = "an error that repeats a secret, so its words are not shown";

impl ErrorAnswer {
    /// Whether it repeats one of `secrets`: some servers answer with what they were sent, and evidence is shown,
    /// logged and stored.
    #[must_use]
    pub fn repeats(&self, secrets: &[&Secret]) -> bool {
        secrets.iter().any(|secret| secret.is_in(&self.error) || secret.is_in(&self.description))
    }
}

/// Reads a body: JSON, or form-encoded as GitHub sends it.
#[must_use]
pub fn read(answer: &RawAnswer) -> Reading {
    let body = answer.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&answer.body);
    let body = body.trim_ascii();
    if body.is_empty() {
        return Reading::Neither("an empty body");
    }
    match object(body, answer.content_type.as_deref()) {
        Some(fields) => read_object(fields, answer.status),
        None if body.starts_with(b"<") => Reading::Neither("an HTML page"),
        None => Reading::Neither("neither JSON nor form-encoded text"),
    }
}

/// The first JSON value, so that text after it does no harm (quirk 10); of duplicate keys the last counts.
fn object(body: &[u8], content_type: Option<&str>) -> Option<Map<String, Value>> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    if let Some(Ok(Value::Object(fields))) = values.next() {
        return Some(fields);
    }
    field_by_field(body).or_else(|| form(body, content_type))
}

/// An object of which one field cannot be read: a number beyond any float (`1e400`), a text in another encoding, half
/// a surrogate pair. It costs itself alone: the rest may be the only copy of a rotated token.
fn field_by_field(body: &[u8]) -> Option<Map<String, Value>> {
    let text = Zeroizing::new(String::from_utf8_lossy(body).into_owned());
    let mut objects = serde_json::Deserializer::from_str(&text).into_iter::<BTreeMap<String, &RawValue>>();
    let fields = objects.next()?.ok()?;
    let read = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or(Value::Null);
    Some(fields.into_iter().map(|(name, raw)| (name, read(raw))).collect())
}

/// Form-encoded, and said to be so or looking like it (GitHub, and servers that announce it as text).
fn form(body: &[u8], content_type: Option<&str>) -> Option<Map<String, Value>> {
    let media_type = content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let says_form = media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded");
    let is_telling = |pair: &[u8]| pair.starts_with(b"access_token=") || pair.starts_with(b"error=");
    (says_form || body.split(|&byte| byte == b'&').any(is_telling)).then(|| {
        form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect()
    })
}

fn read_object(mut fields: Map<String, Value>, status: u16) -> Reading {
    if let Some(error) = error_of(&fields, status) {
        return Reading::Error(error);
    }
    // Slack puts a user's token one level down.
    if !fields.contains_key("access_token")
        && let Some(Value::Object(nested)) = fields.remove("authed_user")
    {
        fields.extend(nested);
    }
    let access_token = match fields.remove("access_token") {
        Some(Value::String(token)) if !token.is_empty() => Secret::new(token),
        Some(_) => return Reading::Unusable("access_token is empty or no string"),
        None => return Reading::Neither("JSON without access_token and without error"),
    };
    if !is_token(access_token.expose()) {
        return Reading::Unusable("access_token has characters that no header may carry, or is longer than 16 KiB");
    }
    let refresh_token = match fields.remove("refresh_token") {
        Some(Value::String(token)) if is_refresh_token(&token) => Some(Secret::new(token)),
        Some(Value::String(token)) if !token.is_empty() => {
            return Reading::Unusable("refresh_token has control characters, or is longer than 16 KiB");
        }
        _ => None,
    };
    let token_type =
        match fields.remove("token_type") {
            Some(Value::String(kind))
                if !kind.is_empty()
                    && kind.len() <= 40
                    && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
            {
                if kind.eq_ignore_ascii_case("bearer") { "Bearer".to_owned() } else { kind }
            }
            // Atlassian sends none.
            _ => "Bearer".to_owned(),
        };
    let expires_in = life(fields.remove("expires_in").as_ref()).or_else(|| jwt_life(access_token.expose()));
    let refresh_expires_in = ["refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in"]
        .iter()
        .find_map(|name| life(fields.get(*name)));
    let refresh_in = life(fields.get("refresh_in"));
    let scopes = ["scope", "scopes"].iter().filter_map(|name| fields.remove(*name)).find_map(|value| scopes(&value));
    let extra = Secret::new(Value::Object(fields).to_string());
    Reading::Token(Box::new(TokenAnswer {
        access_token,
        refresh_token,
        token_type,
        expires_in,
        refresh_expires_in,
        refresh_in,
        scopes,
        extra,
    }))
}

/// An error may come with any status (GitHub: 200), as a string or an object, or as Slack's `ok: false`; with a status
/// that says so, a message alone will do (GitHub's API).
fn error_of(fields: &Map<String, Value>, status: u16) -> Option<ErrorAnswer> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let first = |map: &Map<String, Value>, names: &[&str]| names.iter().find_map(|n| map.get(*n).and_then(text));
    let description =
        || first(fields, &["error_description", "errorMessage", "message", "errorSummary"]).unwrap_or_default();
    match fields.get("error") {
        Some(Value::String(error)) if !error.is_empty() => {
            Some(ErrorAnswer { error: error.clone(), description: description() })
        }
        // Zoom
        Some(Value::Number(error)) => Some(ErrorAnswer { error: error.to_string(), description: description() }),
        Some(Value::Object(inner)) => Some(ErrorAnswer {
            error: first(inner, &["code", "type", "status"]).unwrap_or_default(),
            description: first(inner, &["message", "description"]).unwrap_or_default(),
        }),
        _ if fields.get("ok") == Some(&Value::Bool(false)) => {
            Some(ErrorAnswer { description: description(), ..ErrorAnswer::default() })
        }
        _ if fields.contains_key("errorCode") && !fields.contains_key("access_token") => {
            Some(ErrorAnswer { error: first(fields, &["errorCode"]).unwrap_or_default(), description: description() })
        }
        _ if status >= 400 && !description().is_empty() => {
            Some(ErrorAnswer { description: description(), ..ErrorAnswer::default() })
        }
        _ => None,
    }
}

/// What an access token must be to travel in a header: printable ASCII without space (RFC 6750 section 2.1, and a
/// little more), at most [`TOKEN_LENGTH_MAX`] bytes.
#[must_use]
pub fn is_token(text: &str) -> bool {
    (1..=TOKEN_LENGTH_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A refresh token travels in a body, which carries anything: RFC 6749 appendix A.17 allows spaces, and no rotated one
/// is worth losing over its letters. At most [`TOKEN_LENGTH_MAX`] bytes, without control characters.
fn is_refresh_token(text: &str) -> bool {
    (1..=TOKEN_LENGTH_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

/// A life in seconds as an integer, a float or a string; anything outside 1 s to 10 years counts as absent.
#[must_use]
pub fn life(value: Option<&Value>) -> Option<Duration> {
    let seconds = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    (LIFETIME_MIN..=LIFETIME_MAX).contains(&span).then_some(span)
}

/// Scopes as a list, or a string split at spaces and commas (Linear and GitHub use commas).
#[must_use]
pub fn scopes(value: &Value) -> Option<Vec<String>> {
    let owned = |list: Vec<&str>| list.into_iter().filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let found = match value {
        Value::String(text) => owned(text.split([' ', ',']).collect()),
        Value::Array(list) => owned(list.iter().filter_map(Value::as_str).collect()),
        _ => return None,
    };
    (!found.is_empty()).then_some(found)
}

/// `exp - iat` of an access token that is a JWT (RFC 7519).
fn jwt_life(token: &str) -> Option<Duration> {
    let claims = jwt_claims(token)?;
    let seconds = claims.get("exp")?.as_f64()? - claims.get("iat")?.as_f64()?;
    life(Some(&seconds.into()))
}

/// `exp` of an access token that is a JWT, in seconds since the Unix epoch.
#[must_use]
pub fn jwt_expires_at(token: &str) -> Option<i64> {
    jwt_claims(token)?.get("exp")?.as_i64().filter(|exp| (1..=253_402_300_799).contains(exp))
}

/// The claims of a JWT (RFC 7519). Its signature is not our business.
#[must_use]
pub fn jwt_claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&claims).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(body: &[u8]) -> RawAnswer {
        RawAnswer { status: 200, content_type: None, retry_after: None, body: Zeroizing::new(body.to_vec()) }
    }

    fn token(body: &str) -> TokenAnswer {
        match read(&answer(body.as_bytes())) {
            Reading::Token(token) => *token,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn error(body: &str) -> ErrorAnswer {
        match read(&answer(body.as_bytes())) {
            Reading::Error(error) => error,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn quirk_1_an_error_is_an_error_whatever_the_status() {
        assert_eq!(error(r#"{"error":"bad_refresh_token","error_description":"gone"}"#).error, "bad_refresh_token");
        assert_eq!(error(r#"{"ok":false,"error":"invalid_refresh_token"}"#).error, "invalid_refresh_token");
        assert_eq!(error(r#"{"ok":false}"#).error, "");
        assert_eq!(error("error=bad_refresh_token&error_description=The+token").description, "The token");
        assert_eq!(
            error(r#"{"error":{"code":401,"message":"no"}}"#),
            ErrorAnswer { error: "401".into(), description: "no".into() }
        );
    }

    #[test]
    fn quirk_1_a_message_alone_is_an_error_where_the_status_says_so() {
        let said = |status| read(&RawAnswer { status, ..answer(br#"{"message":"API rate limit exceeded"}"#) });
        assert!(matches!(said(403), Reading::Error(error) if error.description == "API rate limit exceeded"));
        assert!(matches!(said(200), Reading::Neither(_)));
    }

    /// `expires_in`, written so.
    fn life_of(written: &str) -> Option<Duration> {
        token(&format!(r#"{{"access_token":"a","expires_in":{written}}}"#)).expires_in
    }

    #[test]
    fn quirk_2_expires_in_missing_or_null_is_no_life() {
        assert_eq!(token(r#"{"access_token":"a"}"#).expires_in, None);
        assert_eq!(life_of("null"), None);
    }

    #[test]
    fn quirk_2_expires_in_as_a_string() {
        assert_eq!((life_of("3600"), life_of("\"3600\"")), (Some(Duration::from_secs(3600)), life_of("3600")));
        assert_eq!((life_of("\"\""), life_of("\"soon\"")), (None, None));
    }

    #[test]
    fn quirk_2_expires_in_as_a_float() {
        assert_eq!(life_of("59.5"), Some(Duration::from_millis(59_500)));
        assert_eq!(life_of("\"59.5\""), life_of("59.5"));
    }

    #[test]
    fn quirk_2_expires_in_negative_or_zero_is_no_life() {
        for absent in ["0", "-1", "-3600", "\"-1\"", "0.5"] {
            assert_eq!(life_of(absent), None, "{absent}");
        }
    }

    #[test]
    fn quirk_2_expires_in_huge_or_of_another_kind_is_no_life() {
        for absent in ["1e300", "1e400", "315360001", "99999999999999999999999999", "true", "[]"] {
            assert_eq!(life_of(absent), None, "{absent}");
        }
    }

    #[test]
    fn quirk_2_created_at_moves_no_end_and_is_kept() {
        let answer = token(r#"{"access_token":"a","expires_in":7200,"created_at":1000}"#);
        assert_eq!(answer.expires_in, Some(Duration::from_secs(7200)));
        assert!(answer.extra.expose().contains("created_at"));
    }

    #[test]
    fn quirk_2_the_refresh_token_s_life_by_each_of_its_names() {
        for name in ["refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in"] {
            for written in ["86400", "\"86400\""] {
                let body = format!(r#"{{"access_token":"a","{name}":{written}}}"#);
                assert_eq!(token(&body).refresh_expires_in, Some(Duration::from_secs(86_400)), "{name}");
            }
            // Keycloak writes 0 for a token that does not end.
            assert_eq!(token(&format!(r#"{{"access_token":"a","{name}":0}}"#)).refresh_expires_in, None, "{name}");
        }
    }

    #[test]
    fn quirk_3_form_encoded_answers() {
        let form = token("access_token=a%2Fb&expires_in=28800&refresh_token=r&scope=repo%2Cuser&token_type=bearer");
        assert_eq!((form.access_token.expose(), form.token_type.as_str()), ("a/b", "Bearer"));
        assert_eq!(form.expires_in, Some(Duration::from_secs(28_800)));
        assert_eq!(form.refresh_token.unwrap().expose(), "r");
        assert_eq!(form.scopes.unwrap(), ["repo", "user"]);
    }

    #[test]
    fn quirk_3_slack_s_token_of_a_user_lies_in_authed_user() {
        let nested = token(r#"{"ok":true,"authed_user":{"access_token":"xoxp","refresh_token":"r","expires_in":9}}"#);
        assert_eq!((nested.access_token.expose(), nested.expires_in), ("xoxp", Some(Duration::from_secs(9))));
        assert_eq!(nested.refresh_token.unwrap().expose(), "r");
        let bot = token(r#"{"ok":true,"access_token":"xoxb","authed_user":{"access_token":"xoxp"}}"#);
        assert_eq!(bot.access_token.expose(), "xoxb", "the one at the top is the bot's");
    }

    #[test]
    fn quirk_3_scopes_for_scope() {
        assert_eq!(token(r#"{"access_token":"a","scopes":["x","y z"]}"#).scopes.unwrap(), ["x", "y z"]);
        assert_eq!(token(r#"{"access_token":"a","scopes":"x y"}"#).scopes.unwrap(), ["x", "y"]);
        assert_eq!(token(r#"{"access_token":"a","scope":null,"scopes":"x"}"#).scopes.unwrap(), ["x"]);
        assert_eq!(token(r#"{"access_token":"a","scope":""}"#).scopes, None);
    }

    #[test]
    fn quirk_3_scopes_with_commas() {
        for written in ["read,write", "read, write", "read write"] {
            let body = format!(r#"{{"access_token":"a","scope":"{written}"}}"#);
            assert_eq!(token(&body).scopes.unwrap(), ["read", "write"], "{written}");
        }
    }

    #[test]
    fn quirk_3_forms_that_do_not_say_so() {
        assert_eq!(token("token_type=bearer&access_token=a%2Fb").access_token.expose(), "a/b");
        let shouted = RawAnswer {
            content_type: Some("Application/X-WWW-Form-URLEncoded;charset=utf-8".to_owned()),
            ..answer(b"token_type=bearer&error=")
        };
        assert!(matches!(read(&shouted), Reading::Neither("JSON without access_token and without error")));
        assert!(matches!(read(&answer(b"token_type=bearer")), Reading::Neither(_)));
    }

    #[test]
    fn quirk_4_a_missing_refresh_token_is_said_to_be_missing() {
        for body in [
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"a","refresh_token":null}"#,
            r#"{"access_token":"a","refresh_token":""}"#,
        ] {
            assert!(token(body).refresh_token.is_none(), "{body}");
        }
    }

    #[test]
    fn quirk_4_a_new_refresh_token_may_have_any_letters() {
        for (written, read) in [("n 2", "n 2"), ("n\\u00e9w+&=", "n\u{e9}w+&=")] {
            let body = format!(r#"{{"access_token":"a","refresh_token":"{written}"}}"#);
            assert_eq!(token(&body).refresh_token.unwrap().expose(), read);
        }
        let bad = br#"{"access_token":"a","refresh_token":"r\r\nX: y"}"#;
        assert!(matches!(read(&answer(bad)), Reading::Unusable(_)));
    }

    #[test]
    fn quirk_10_a_field_that_nobody_can_read_costs_itself_alone() {
        for body in [
            &b"{\"access_token\":\"a\",\"user\":\"Jos\xe9\"}"[..],
            br#"{"access_token":"a","user":"\ud83d"} tail"#,
            br#"{"access_token":"old","access_token":"a","size":1e999}"#,
            format!(r#"{{"access_token":"a","x":{}{}}}"#, "[".repeat(500), "]".repeat(500)).as_bytes(),
        ] {
            let Reading::Token(token) = read(&answer(body)) else { panic!("{}", String::from_utf8_lossy(body)) };
            assert_eq!(token.access_token.expose(), "a");
        }
        // The token itself may be that field.
        assert!(matches!(read(&answer(b"{\"access_token\":\"\xe9\"}")), Reading::Unusable(_)));
        assert!(matches!(read(&answer(b"{\"access_token\":\"a\",\"x\":1e999")), Reading::Neither(_)));
    }

    #[test]
    fn quirk_10_a_page_is_no_answer() {
        for page in ["<html>Sign in to Wi-Fi</html>", "\r\n <!DOCTYPE html><h1>403</h1>"] {
            assert!(matches!(read(&answer(page.as_bytes())), Reading::Neither("an HTML page")), "{page}");
        }
        assert!(matches!(read(&answer(b"  ")), Reading::Neither("an empty body")));
        assert!(matches!(read(&answer(b"{\"access_tok")), Reading::Neither(_)));
        assert!(matches!(read(&answer(b"[1]")), Reading::Neither(_)));
    }

    #[test]
    fn quirk_10_bearer_in_any_case() {
        for written in ["bearer", "Bearer", "BEARER", "bEaReR"] {
            let body = format!(r#"{{"access_token":"a","token_type":"{written}"}}"#);
            assert_eq!(token(&body).token_type, "Bearer");
        }
        assert_eq!(token(r#"{"access_token":"a","token_type":"DPoP"}"#).token_type, "DPoP");
    }

    #[test]
    fn atlassian_no_token_type_is_bearer() {
        assert_eq!(token(r#"{"access_token":"a"}"#).token_type, "Bearer");
    }

    #[test]
    fn quirk_10_a_byte_order_mark() {
        assert_eq!(token("\u{feff}{\"access_token\":\"a\"}").access_token.expose(), "a");
    }

    #[test]
    fn quirk_10_of_duplicate_keys_the_last_counts() {
        let doubled = token(r#"{"access_token":"a","access_token":"b","refresh_token":"r","refresh_token":"s"}"#);
        assert_eq!((doubled.access_token.expose(), doubled.refresh_token.unwrap().expose()), ("b", "s"));
    }

    #[test]
    fn quirk_10_trailing_text() {
        for tail in [" trailing", "\r\n<!-- gateway 7 -->", "{}"] {
            assert_eq!(token(&format!(r#"{{"access_token":"a"}}{tail}"#)).access_token.expose(), "a", "{tail}");
        }
    }

    #[test]
    fn a_token_that_no_header_may_carry_is_refused() {
        for bad in [r#""a b""#, r#""a\r\nX: y""#, r#""ä""#, r#""""#, "7", "null"] {
            let body = format!(r#"{{"access_token":{bad}}}"#);
            assert!(matches!(read(&answer(body.as_bytes())), Reading::Unusable(_)), "{bad}");
        }
        let long = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(TOKEN_LENGTH_MAX + 1));
        assert!(matches!(read(&answer(long.as_bytes())), Reading::Unusable(_)));
    }

    #[test]
    fn a_jwt_tells_its_own_life() {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":4600}"#);
        let found = token(&format!(r#"{{"access_token":"e30.{claims}.sig"}}"#));
        assert_eq!(found.expires_in, Some(Duration::from_secs(3600)));
        assert_eq!(jwt_expires_at(&format!("e30.{claims}.sig")), Some(4600));
        assert_eq!(jwt_expires_at("not.a-jwt.x"), None);
    }

    #[test]
    fn fields_that_we_do_not_know_are_kept_and_tokens_are_not_among_them() {
        let kept =
            token(r#"{"access_token":"aaa","refresh_token":"rrr","instance_url":"https://x","id_token":"i"}"#).extra;
        let kept: Value = serde_json::from_str(kept.expose()).unwrap();
        assert_eq!(kept, serde_json::json!({"instance_url": "https://x", "id_token": "i"}));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&answer(&body));
        }

        #[test]
        fn no_object_makes_it_panic(value in "[\\[\\]{}\",:0-9eE.+-]{0,40}") {
            let _ = read(&answer(format!(r#"{{"access_token":"a","expires_in":{value}}}"#).as_bytes()));
        }
    }
}
