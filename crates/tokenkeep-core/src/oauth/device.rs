//! The device authorization grant (RFC 8628): what the provider answers, and when to ask again.

use super::RawAnswer;
use super::response::{REPEATS_A_SECRET, Reading, read};
use crate::model::printable;
use crate::oauth::TokenAnswer;
use crate::secret::Secret;
use serde_json::Value;
use std::time::Duration;

/// The pause between two questions where the provider names none (RFC 8628 section 3.2).
pub const INTERVAL_ASSUMED: Duration = Duration::from_secs(5);
/// What `slow_down` adds to it (RFC 8628 section 3.5).
pub const SLOW_DOWN_ADDS: Duration = Duration::from_secs(5);
/// The longest pause that is believed.
pub const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// How long a device code lives where the provider does not say, and at most.
pub const LIFE_MAX: Duration = Duration::from_secs(1_800);

/// A device sign-in that a person is to complete elsewhere.
#[derive(Debug)]
pub struct DeviceAuthorization {
    /// What we ask the token endpoint with.
    pub device_code: Secret,
    /// What the person types in.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it, where the provider has such.
    pub verification_uri_complete: Option<String>,
    /// How long both codes live.
    pub expires_in: Duration,
    /// The pause between two questions.
    pub interval: Duration,
}

/// Reads a device authorization answer.
///
/// # Errors
/// A sentence that says what it was instead; the provider's words only where they repeat none of `secrets`.
pub fn read_authorization(answer: &RawAnswer, secrets: &[&Secret]) -> Result<DeviceAuthorization, String> {
    let refused = |reading: Reading| match reading {
        Reading::Error(error) if error.repeats(secrets) => format!("HTTP {}, {REPEATS_A_SECRET}", answer.status),
        Reading::Error(error) => {
            format!("HTTP {}: {} {}", answer.status, printable(&error.error, 60), printable(&error.description, 200))
        }
        _ => format!("HTTP {}, and no device code", answer.status),
    };
    let fields: Value = serde_json::from_slice(&answer.body).map_err(|_| refused(read(answer)))?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(device_code), Some(user_code)) = (text("device_code"), text("user_code")) else {
        return Err(refused(read(answer)));
    };
    // Google wrote `verification_url` before the RFC.
    let uri = text("verification_uri").or_else(|| text("verification_url")).filter(|uri| is_web(uri));
    let uri = uri.ok_or("the answer names no address to sign in at")?;
    let seconds =
        |name: &str| fields.get(name).and_then(Value::as_f64).and_then(|s| Duration::try_from_secs_f64(s).ok());
    Ok(DeviceAuthorization {
        device_code: Secret::new(device_code),
        user_code: printable(user_code, 60),
        verification_uri: uri.to_owned(),
        verification_uri_complete: text("verification_uri_complete").filter(|uri| is_web(uri)).map(str::to_owned),
        expires_in: seconds("expires_in").filter(|life| !life.is_zero()).unwrap_or(LIFE_MAX).min(LIFE_MAX),
        interval: seconds("interval").unwrap_or(INTERVAL_ASSUMED).clamp(Duration::from_secs(1), INTERVAL_MAX),
    })
}

/// An address that may be shown to a person and opened.
fn is_web(uri: &str) -> bool {
    let web = uri.starts_with("https://") || uri.starts_with("http://");
    web && uri.len() <= 2_048 && uri.bytes().all(|b| b.is_ascii_graphic())
}

/// What a question at the token endpoint brought.
#[derive(Debug)]
pub enum Poll {
    /// The person has signed in.
    Signed(Box<TokenAnswer>),
    /// Not yet: ask again after this pause.
    Again(Duration),
    /// The person said no.
    Denied,
    /// The codes have ended.
    Expired,
    /// Anything else, in the provider's words.
    Failed(String),
}

/// Reads the answer to a question that was asked at a pause of `interval` (RFC 8628 section 3.5). The provider's words
/// are given on only where they repeat none of `secrets`.
#[must_use]
pub fn read_poll(answer: &RawAnswer, interval: Duration, secrets: &[&Secret]) -> Poll {
    let error = match read(answer) {
        Reading::Token(token) if (200..300).contains(&answer.status) => return Poll::Signed(token),
        Reading::Error(error) => error,
        _ if matches!(answer.status, 429 | 500..=599) => return Poll::Again(slower(interval)),
        _ => return Poll::Failed(format!("HTTP {}, neither a token nor an error", answer.status)),
    };
    match error.error.as_str() {
        "authorization_pending" => Poll::Again(interval),
        "slow_down" => Poll::Again(slower(interval)),
        "access_denied" | "authorization_declined" => Poll::Denied,
        "expired_token" | "code_expired" => Poll::Expired,
        _ if matches!(answer.status, 429 | 500..=599) => Poll::Again(slower(interval)),
        _ if error.repeats(secrets) => Poll::Failed(format!("HTTP {}, {REPEATS_A_SECRET}", answer.status)),
        other => {
            Poll::Failed(format!("{} {}", printable(other, 60), printable(&error.description, 200)).trim().to_owned())
        }
    }
}

/// RFC 8628 section 3.5 asks for the same after a connection that broke.
#[must_use]
pub fn slower(interval: Duration) -> Duration {
    (interval + SLOW_DOWN_ADDS).min(INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn answer(status: u16, body: &str) -> RawAnswer {
        RawAnswer { status, content_type: None, retry_after: None, body: Zeroizing::new(body.into()) }
    }

    #[test]
    fn an_authorization_is_read_with_its_defaults_and_its_limits() {
        let read = |body: &str| read_authorization(&answer(200, body), &[]);
        let plain = read(r#"{"device_code":"d","user_code":"AB-CD","verification_uri":"https://x/d"}"#).unwrap();
        assert_eq!((plain.interval, plain.expires_in), (INTERVAL_ASSUMED, LIFE_MAX));
        let google = read(
            r#"{"device_code":"d","user_code":"AB","verification_url":"https://g/d","interval":0,"expires_in":9e9}"#,
        )
        .unwrap();
        assert_eq!((google.interval, google.expires_in), (Duration::from_secs(1), LIFE_MAX));
        assert_eq!(google.verification_uri, "https://g/d");
        for bad in ["<html>", "{}", r#"{"device_code":"d","user_code":"u","verification_uri":"javascript:x"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let refused = read_authorization(&answer(400, r#"{"error":"unauthorized_client"}"#), &[]).unwrap_err();
        assert!(refused.contains("unauthorized_client"), "{refused}");
    }

    #[test]
    fn each_answer_to_a_question_has_its_meaning() {
        let ten = Duration::from_secs(10);
        let poll = |status, body: &str| read_poll(&answer(status, body), ten, &[]);
        assert!(matches!(poll(200, r#"{"access_token":"a"}"#), Poll::Signed(_)));
        assert!(matches!(poll(400, r#"{"error":"authorization_pending"}"#), Poll::Again(t) if t == ten));
        assert!(matches!(poll(200, r#"{"error":"authorization_pending"}"#), Poll::Again(_)), "GitHub's 200");
        assert!(matches!(poll(400, r#"{"error":"slow_down"}"#), Poll::Again(t) if t == ten + SLOW_DOWN_ADDS));
        assert!(matches!(poll(503, "<html>"), Poll::Again(t) if t > ten));
        assert!(matches!(poll(400, r#"{"error":"access_denied"}"#), Poll::Denied));
        assert!(matches!(poll(400, r#"{"error":"expired_token"}"#), Poll::Expired));
        assert!(matches!(poll(400, r#"{"error":"invalid_grant"}"#), Poll::Failed(why) if why == "invalid_grant"));
        assert!(matches!(poll(200, "<html>"), Poll::Failed(_)));
    }

    #[test]
    fn a_provider_that_repeats_what_it_was_sent_is_not_quoted() {
        let (secret, code) = (Secret::new("s3cret"), Secret::new("d3vice"));
        let secrets = [&secret, &code];
        // The secret begins where the words are cut.
        let padding = "x".repeat(195);
        for words in ["bad client s3cret", "no such code d3vice", &format!("{padding} s3cret")] {
            let body = serde_json::json!({"error": "invalid_request", "error_description": words}).to_string();
            let refused = read_authorization(&answer(400, &body), &secrets).unwrap_err();
            assert!(refused.contains("400") && refused.contains("not shown"), "{refused}");
            assert!(!refused.contains("s3c") && !refused.contains("d3v"), "{refused}");
            let Poll::Failed(why) = read_poll(&answer(400, &body), INTERVAL_ASSUMED, &secrets) else {
                panic!("{body}")
            };
            assert!(why.contains("400") && why.contains("not shown"), "{why}");
            assert!(!why.contains("s3c") && !why.contains("d3v"), "{why}");
        }
    }
}
