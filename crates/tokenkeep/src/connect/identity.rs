//! Whose account a token set is for: so that a sign-in by another account cannot take a connection over, and two
//! connections on one grant are noticed.

use serde_json::{Map, Value};
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::response::jwt_claims;
use tokenkeep_core::{Secret, Timestamp};

/// The longest name of an account that is kept, in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 256;
/// How far the provider's clock may be from ours.
const CLOCK_SLACK_S: i64 = 120;

/// Why an id token is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdTokenError {
    /// It cannot be read.
    #[error("the id token cannot be read")]
    Unreadable,
    /// It was issued by somebody else.
    #[error("the id token was issued by another provider")]
    Issuer,
    /// It is for somebody else.
    #[error("the id token is for another client")]
    Audience,
    /// It belongs to another sign-in.
    #[error("the id token belongs to another sign-in")]
    Nonce,
    /// It has ended.
    #[error("the id token has ended")]
    Expired,
}

/// What an id token must say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The issuer, where it is known.
    pub issuer: Option<&'a str>,
    /// Our client id.
    pub client_id: &'a str,
    /// The nonce that was sent, where one was.
    pub nonce: Option<&'a str>,
    /// Now, in wall time.
    pub now: Timestamp,
}

/// The subject of an id token that came straight from the token endpoint over TLS, which stands in for its signature
/// (OpenID Connect Core section 3.1.3.7, item 6).
///
/// # Errors
/// [`IdTokenError`].
pub fn subject_of(id_token: &str, expected: Expected<'_>) -> Result<String, IdTokenError> {
    let claims = jwt_claims(id_token).ok_or(IdTokenError::Unreadable)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if expected.issuer.is_some_and(|issuer| text("iss") != Some(issuer)) {
        return Err(IdTokenError::Issuer);
    }
    let for_us = match claims.get("aud") {
        Some(Value::String(audience)) => audience == expected.client_id,
        Some(Value::Array(audiences)) => audiences.iter().any(|audience| audience == expected.client_id),
        _ => false,
    };
    if !for_us {
        return Err(IdTokenError::Audience);
    }
    if expected.nonce.is_some_and(|nonce| text("nonce") != Some(nonce)) {
        return Err(IdTokenError::Nonce);
    }
    let ends = claims.get("exp").and_then(Value::as_f64).ok_or(IdTokenError::Unreadable)?;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a float")]
    let now = (expected.now.as_millis() / 1_000 - CLOCK_SLACK_S) as f64;
    if ends < now {
        return Err(IdTokenError::Expired);
    }
    text("sub").filter(|subject| fits(subject)).map(str::to_owned).ok_or(IdTokenError::Unreadable)
}

/// The `id_token` among the fields that a provider sent.
#[must_use]
pub fn id_token(extra: &Secret) -> Option<Secret> {
    let fields: Map<String, Value> = serde_json::from_str(extra.expose()).ok()?;
    fields.get("id_token")?.as_str().map(Secret::new)
}

/// The account that an answer of a provider's own endpoint names: the values of `fields`, joined by `/`.
#[must_use]
pub fn account_of(answer: &RawAnswer, fields: &[String]) -> Option<String> {
    if answer.status != 200 || fields.is_empty() {
        return None;
    }
    let object: Value = serde_json::from_slice(&answer.body).ok()?;
    let value = |field: &String| {
        let found = field.split('.').try_fold(&object, |object, part| object.get(part))?;
        match found {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    };
    let account = fields.iter().map(value).collect::<Option<Vec<_>>>()?.join("/");
    fits(&account).then_some(account)
}

/// Whether a name of an account may be kept and shown.
fn fits(account: &str) -> bool {
    (1..=ACCOUNT_BYTES_MAX).contains(&account.len()) && !account.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::json;
    use zeroize::Zeroizing;

    fn token(claims: &Value) -> String {
        format!("e30.{}.sig", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn subject(claims: &Value) -> Result<String, IdTokenError> {
        let now = Timestamp::from_millis(1_000_000);
        let expected = Expected { issuer: Some("https://idp"), client_id: "app", nonce: Some("n"), now };
        subject_of(&token(claims), expected)
    }

    #[test]
    fn an_id_token_is_believed_when_it_is_ours() {
        let good = json!({"iss": "https://idp", "aud": ["x", "app"], "nonce": "n", "exp": 2_000, "sub": "u1"});
        assert_eq!(subject(&good).unwrap(), "u1");
        let with = |name: &str, value: Value| {
            let mut changed = good.clone();
            changed[name] = value;
            subject(&changed)
        };
        assert_eq!(with("iss", "https://evil".into()), Err(IdTokenError::Issuer));
        assert_eq!(with("aud", "other".into()), Err(IdTokenError::Audience));
        assert_eq!(with("nonce", Value::Null), Err(IdTokenError::Nonce));
        assert_eq!(with("exp", 800.into()), Err(IdTokenError::Expired));
        assert!(with("exp", 950.into()).is_ok(), "a clock that is a little off");
        assert_eq!(with("sub", "a\nb".into()), Err(IdTokenError::Unreadable));
        let expected = Expected { issuer: None, client_id: "app", nonce: None, now: Timestamp::EPOCH };
        assert_eq!(subject_of("not-a-jwt", expected), Err(IdTokenError::Unreadable));
    }

    #[test]
    fn an_account_is_read_from_where_the_catalogue_says() {
        let answer = |body: Value| RawAnswer {
            status: 200,
            content_type: None,
            retry_after: None,
            body: Zeroizing::new(body.to_string().into()),
        };
        let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let body = json!({"team_id": "T1", "user_id": "U2", "data": {"id": 7}});
        assert_eq!(account_of(&answer(body.clone()), &fields(&["team_id", "user_id"])).unwrap(), "T1/U2");
        assert_eq!(account_of(&answer(body.clone()), &fields(&["data.id"])).unwrap(), "7");
        assert_eq!(account_of(&answer(body), &fields(&["data.id", "missing"])), None);
        assert_eq!(account_of(&answer(json!({"id": "x".repeat(300)})), &fields(&["id"])), None);
        assert_eq!(account_of(&RawAnswer { status: 401, ..answer(json!({"id": "a"})) }, &fields(&["id"])), None);
    }

    #[test]
    fn the_id_token_is_among_the_other_fields() {
        assert_eq!(id_token(&Secret::new(r#"{"id_token":"a.b.c"}"#)).unwrap().expose(), "a.b.c");
        assert!(id_token(&Secret::new("{}")).is_none());
    }
}
