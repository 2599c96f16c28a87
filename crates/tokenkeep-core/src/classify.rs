//! What an answer means (protocol 3: the first match from the top).

use crate::failure::{Failure, FailureCode};
use crate::oauth::response::{ErrorAnswer, REPEATS_A_SECRET, Reading, read};
use crate::oauth::{RawAnswer, TokenAnswer};
use crate::provider::{Means, Rules};
use crate::secret::Secret;
use std::time::Duration;

/// The longest `Retry-After` that is followed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// How long a throttled endpoint rests where it does not say for how long.
pub const RETRY_AFTER_ASSUMED: Duration = Duration::from_secs(30);

/// What came of one attempt, before anybody thought about it.
#[derive(Debug)]
pub enum Observation {
    /// A whole answer.
    Answer(RawAnswer),
    /// Nothing was sent, provably.
    Unsent(Failure),
    /// The request was sent, or may have been, and no whole answer came.
    Unknown(Failure),
}

/// What an attempt's answer means for us.
#[derive(Debug)]
pub enum Outcome {
    /// A new token set.
    Refreshed(Box<TokenAnswer>),
    /// Anything but.
    Failed(Setback),
}

/// An outcome other than a new token set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setback {
    /// What to do about it.
    pub kind: SetbackKind,
    /// What it was, for people.
    pub failure: Failure,
}

/// The ways in which an attempt fails, named by what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetbackKind {
    /// The same request may be sent again soon.
    Transient {
        /// Nobody knows this answer: say so loudly.
        alarm: bool,
    },
    /// The whole (endpoint, client) waits.
    Throttled {
        /// For this long.
        wait: Duration,
    },
    /// The provider may or may not have rotated.
    InDoubt {
        /// The provider's own wish when to come back.
        retry_after: Option<Duration>,
    },
    /// The refresh token is dead, subject to the confirm rules.
    Rejected,
    /// We are at fault: nothing is to be sent until that is mended.
    Misconfigured {
        /// How far the fault reaches.
        reach: Reach,
    },
}

/// How far a misconfiguration reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// This connection, until a second one says the same.
    Connection,
    /// Every connection of this endpoint and client.
    Pair,
}

/// Says what `observation` means at a provider with these rules. Total: each answer has one outcome.
#[must_use]
pub fn classify(rules: &Rules, observation: &Observation) -> Outcome {
    match observation {
        Observation::Unsent(failure) if failure.code == FailureCode::TlsName => {
            setback(SetbackKind::Misconfigured { reach: Reach::Connection }, failure.clone())
        }
        Observation::Unsent(failure) => setback(SetbackKind::Transient { alarm: false }, failure.clone()),
        Observation::Unknown(failure) => doubt(rules, None, failure.clone()),
        Observation::Answer(answer) => classify_answer(rules, answer),
    }
}

fn setback(kind: SetbackKind, failure: Failure) -> Outcome {
    Outcome::Failed(Setback { kind, failure })
}

/// In doubt where rotation makes it one, else transient.
fn doubt(rules: &Rules, retry_after: Option<Duration>, failure: Failure) -> Outcome {
    if rules.rotation.rotates() {
        setback(SetbackKind::InDoubt { retry_after }, failure)
    } else {
        setback(SetbackKind::Transient { alarm: false }, failure)
    }
}

fn classify_answer(rules: &Rules, answer: &RawAnswer) -> Outcome {
    let success = (200..300).contains(&answer.status);
    let reading = read(answer);
    let error = match reading {
        Reading::Token(token) if success => return Outcome::Refreshed(token),
        Reading::Unusable(why) if success => {
            return doubt(rules, None, failure(FailureCode::AnswerInvalid, answer, why));
        }
        Reading::Error(error) => error,
        _ => ErrorAnswer::default(),
    };
    let meaning = rules.meaning(answer.status, &error.error, &error.description);
    if meaning == Some(Means::Reused) || (error.error == "invalid_grant" && tells_of_reuse(&error.description)) {
        return setback(SetbackKind::Rejected, said(FailureCode::ForeignRotation, answer, &error));
    }
    if meaning == Some(Means::Dead) || (meaning.is_none() && error.error == "invalid_grant") {
        return setback(SetbackKind::Rejected, said(FailureCode::InvalidGrant, answer, &error));
    }
    if meaning == Some(Means::Throttled) || is_rate_limit(answer, &error) {
        let wait = answer.retry_after.unwrap_or(RETRY_AFTER_ASSUMED).min(RETRY_AFTER_MAX);
        return setback(SetbackKind::Throttled { wait }, said(FailureCode::RateLimited, answer, &error));
    }
    if meaning == Some(Means::NotProcessed) {
        return setback(SetbackKind::Transient { alarm: false }, said(FailureCode::Unavailable, answer, &error));
    }
    if meaning == Some(Means::WrongClient) {
        let kind = SetbackKind::Misconfigured { reach: Reach::Pair };
        return setback(kind, said(FailureCode::InvalidClient, answer, &error));
    }
    if matches!(answer.status, 408 | 425 | 503) || error.error == "temporarily_unavailable" {
        return unavailable(rules, answer, said(FailureCode::Unavailable, answer, &error));
    }
    if (500..600).contains(&answer.status) {
        return broken(rules, answer, said(FailureCode::ServerError, answer, &error));
    }
    if let Some((code, reach)) = misconfiguration(answer, &error) {
        return setback(SetbackKind::Misconfigured { reach }, said(code, answer, &error));
    }
    if success && error == ErrorAnswer::default() {
        let looks = if let Reading::Neither(looks) = read(answer) { looks } else { "an error without a name" };
        return doubt(rules, None, failure(FailureCode::AnswerUnreadable, answer, looks));
    }
    setback(SetbackKind::Transient { alarm: true }, said(FailureCode::UnknownAnswer, answer, &error))
}

/// In whose words a refused refresh token was used before: of Keycloak, Auth0, doorkeeper and others. Few say so; where
/// nobody does, the cause is `invalid_grant`.
fn tells_of_reuse(description: &str) -> bool {
    let words = description.to_ascii_lowercase();
    ["reuse", "already been used", "already used", "used before", "was used twice", "has been rotated"]
        .iter()
        .any(|said| words.contains(said))
}

fn is_rate_limit(answer: &RawAnswer, error: &ErrorAnswer) -> bool {
    let code = error.error.to_ascii_lowercase();
    answer.status == 429
        || matches!(
            code.as_str(),
            "slow_down" | "rate_limited" | "ratelimited" | "rate_limit_exceeded" | "too_many_requests"
        )
}

/// Busy: wait. But a strict provider may have rotated before it said so, unless the catalogue knows better.
fn unavailable(rules: &Rules, answer: &RawAnswer, failure: Failure) -> Outcome {
    if rules.rotation.is_strict() && !rules.unavailable_is_unprocessed {
        return setback(
            SetbackKind::InDoubt { retry_after: answer.retry_after.map(|t| t.min(RETRY_AFTER_MAX)) },
            failure,
        );
    }
    match answer.retry_after {
        Some(wait) if answer.status == 503 => {
            setback(SetbackKind::Throttled { wait: wait.min(RETRY_AFTER_MAX) }, failure)
        }
        _ => setback(SetbackKind::Transient { alarm: false }, failure),
    }
}

/// It failed while it handled the request; some say when to come back (Atlassian).
fn broken(rules: &Rules, answer: &RawAnswer, failure: Failure) -> Outcome {
    let wait = answer.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
    match wait {
        Some(wait) if !rules.rotation.rotates() => setback(SetbackKind::Throttled { wait }, failure),
        _ => doubt(rules, wait, failure),
    }
}

fn misconfiguration(answer: &RawAnswer, error: &ErrorAnswer) -> Option<(FailureCode, Reach)> {
    Some(match error.error.as_str() {
        "invalid_client" => (FailureCode::InvalidClient, Reach::Pair),
        "unauthorized_client" => (FailureCode::UnauthorizedClient, Reach::Connection),
        "invalid_scope" => (FailureCode::InvalidScope, Reach::Connection),
        "unsupported_grant_type" | "invalid_request" => (FailureCode::InvalidRequest, Reach::Connection),
        _ if (300..400).contains(&answer.status) || matches!(answer.status, 404 | 405) => {
            (FailureCode::WrongEndpoint, Reach::Connection)
        }
        _ => return None,
    })
}

fn failure(code: FailureCode, answer: &RawAnswer, looks: &str) -> Failure {
    Failure::new(code, &format!("HTTP {}, {looks}", answer.status))
}

/// The failure without the provider's words where they repeat one of `secrets`.
#[must_use]
pub fn without_secrets(setback: Setback, observation: &Observation, secrets: &[&Secret]) -> Setback {
    let Observation::Answer(answer) = observation else { return setback };
    let Reading::Error(error) = read(answer) else { return setback };
    if !error.repeats(secrets) {
        return setback;
    }
    Setback { failure: failure(setback.failure.code, answer, REPEATS_A_SECRET), ..setback }
}

/// The evidence: status, code and description.
fn said(code: FailureCode, answer: &RawAnswer, error: &ErrorAnswer) -> Failure {
    let mut detail = format!("HTTP {}", answer.status);
    for part in [&error.error, &error.description] {
        if !part.is_empty() {
            detail.push_str(": ");
            detail.push_str(part);
        }
    }
    Failure::new(code, &detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::preset;
    use crate::provider::Rotation;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    const GRACE: Rotation = Rotation::Grace(Duration::from_secs(60));
    const CLASSES: [Rotation; 5] =
        [Rotation::Persistent, GRACE, Rotation::UntilUsed, Rotation::Strict, Rotation::Unknown];

    fn rules(rotation: Rotation) -> Rules {
        Rules { rotation, ..Rules::default() }
    }

    fn answer(status: u16, body: &str) -> RawAnswer {
        RawAnswer { status, content_type: None, retry_after: None, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    fn meaning(rules: &Rules, answer: RawAnswer) -> (SetbackKind, FailureCode) {
        match classify(rules, &Observation::Answer(answer)) {
            Outcome::Failed(setback) => (setback.kind, setback.failure.code),
            Outcome::Refreshed(_) => panic!("refreshed"),
        }
    }

    #[test]
    fn words_that_repeat_a_secret_are_not_kept() {
        let secrets = [Secret::new("hunter2-token/+"), Secret::new("")];
        let secrets: Vec<&Secret> = secrets.iter().collect();
        let detail = |body: &str| {
            let observation = Observation::Answer(answer(400, body));
            let Outcome::Failed(setback) = classify(&Rules::default(), &observation) else { panic!("refreshed") };
            without_secrets(setback, &observation, &secrets).failure.detail
        };
        let long = "x".repeat(290);
        for body in [
            r#"{"error":"invalid_grant","error_description":"hunter2-token/+ is unknown"}"#.to_owned(),
            r#"{"error":"invalid_grant","error_description":"hunter2-token\/\u002b is unknown"}"#.to_owned(),
            r#"{"error":"no hunter2-token/+","error_description":"x"}"#.to_owned(),
            format!(r#"{{"error":"invalid_grant","error_description":"{long} hunter2-token/+"}}"#),
            "error=invalid_grant&error_description=hunter2-token%2F%2B".to_owned(),
        ] {
            let detail = detail(&body);
            assert!(!detail.contains("hunter2"), "{detail}");
            assert!(detail.starts_with("HTTP 400, ") && detail.contains("not shown"), "{detail}");
        }
        let kept = detail(r#"{"error":"invalid_grant","error_description":"Token is unknown"}"#);
        assert_eq!(kept, "HTTP 400: invalid_grant: Token is unknown");
    }

    #[test]
    fn quirk_1_201_with_a_token_is_a_success() {
        for status in [200, 201, 204] {
            let outcome = classify(&Rules::default(), &Observation::Answer(answer(status, r#"{"access_token":"a"}"#)));
            assert!(matches!(outcome, Outcome::Refreshed(_)));
        }
    }

    #[test]
    fn a_dead_refresh_token_in_every_dialect() {
        let dead = (SetbackKind::Rejected, FailureCode::InvalidGrant);
        for rotation in CLASSES {
            assert_eq!(meaning(&rules(rotation), answer(400, r#"{"error":"invalid_grant"}"#)), dead);
        }
        let atlassian = preset("atlassian").unwrap().rules.clone();
        let both = [
            r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#,
            r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#,
        ];
        for body in both {
            assert_eq!(meaning(&atlassian, answer(403, body)), dead);
        }
        let github = preset("github-app").unwrap().rules.clone();
        assert_eq!(meaning(&github, answer(200, r#"{"error":"bad_refresh_token"}"#)), dead);
        // Without the alias, the second is a wrong client.
        assert_eq!(meaning(&Rules::default(), answer(403, both[1])).1, FailureCode::UnauthorizedClient);
    }

    #[test]
    fn a_token_that_somebody_else_used_is_a_cause_of_its_own() {
        let said = |description: &str| format!(r#"{{"error":"invalid_grant","error_description":"{description}"}}"#);
        for words in ["Maximum allowed refresh token reuse exceeded", "The refresh token has already been used."] {
            for rotation in CLASSES {
                let meant = meaning(&rules(rotation), answer(400, &said(words)));
                assert_eq!(meant, (SetbackKind::Rejected, FailureCode::ForeignRotation), "{words}");
            }
        }
        for words in ["Token has been expired or revoked.", "Session not active", ""] {
            assert_eq!(meaning(&Rules::default(), answer(400, &said(words))).1, FailureCode::InvalidGrant, "{words}");
        }
    }

    #[test]
    fn throttling_is_throttling_in_every_class() {
        for rotation in CLASSES {
            let mut limited = answer(429, "");
            limited.retry_after = Some(Duration::from_secs(86_400));
            assert_eq!(meaning(&rules(rotation), limited).0, SetbackKind::Throttled { wait: RETRY_AFTER_MAX });
            let said = meaning(&rules(rotation), answer(400, r#"{"error":"slow_down"}"#));
            assert_eq!(said.0, SetbackKind::Throttled { wait: RETRY_AFTER_ASSUMED });
        }
    }

    #[test]
    fn a_503_is_doubt_at_a_strict_provider_only() {
        let mut busy = answer(503, "");
        busy.retry_after = Some(Duration::from_secs(7));
        let wait = Duration::from_secs(7);
        for rotation in CLASSES {
            let expected = if rotation.is_strict() {
                SetbackKind::InDoubt { retry_after: Some(wait) }
            } else {
                SetbackKind::Throttled { wait }
            };
            assert_eq!(meaning(&rules(rotation), busy.clone()).0, expected);
        }
        let known = Rules { unavailable_is_unprocessed: true, ..rules(Rotation::Strict) };
        assert_eq!(meaning(&known, answer(503, "")).0, SetbackKind::Transient { alarm: false });
    }

    #[test]
    fn whatever_may_hide_a_rotation_is_in_doubt_unless_nothing_rotates() {
        let lost = || Failure::new(FailureCode::Timeout, "");
        for rotation in CLASSES {
            let expected = if rotation == Rotation::Persistent {
                SetbackKind::Transient { alarm: false }
            } else {
                SetbackKind::InDoubt { retry_after: None }
            };
            for body in ["<html>", "", "{}", r#"{"access_token":"a b"}"#] {
                assert_eq!(meaning(&rules(rotation), answer(200, body)).0, expected, "{rotation} {body}");
            }
            for status in [500, 502, 504, 599] {
                assert_eq!(meaning(&rules(rotation), answer(status, "oops")).0, expected);
            }
            let Outcome::Failed(setback) = classify(&rules(rotation), &Observation::Unknown(lost())) else { panic!() };
            assert_eq!(setback.kind, expected);
            let Outcome::Failed(setback) = classify(&rules(rotation), &Observation::Unsent(lost())) else { panic!() };
            assert_eq!(setback.kind, SetbackKind::Transient { alarm: false });
        }
    }

    #[test]
    fn our_own_faults_never_end_a_grant() {
        let held = |answer| match meaning(&Rules::default(), answer) {
            (SetbackKind::Misconfigured { reach }, code) => (reach, code),
            other => panic!("{other:?}"),
        };
        assert_eq!(held(answer(401, r#"{"error":"invalid_client"}"#)), (Reach::Pair, FailureCode::InvalidClient));
        assert_eq!(held(answer(400, r#"{"error":"unauthorized_client"}"#)).0, Reach::Connection);
        assert_eq!(held(answer(400, r#"{"error":"invalid_scope"}"#)).1, FailureCode::InvalidScope);
        for status in [301, 302, 307, 404, 405] {
            assert_eq!(held(answer(status, "<html>")).1, FailureCode::WrongEndpoint);
        }
    }

    #[test]
    fn atlassian_a_5xx_that_says_when_to_come_back_is_left_alone_until_then() {
        let wait = Duration::from_secs(20);
        for status in [500, 502, 504] {
            let later = RawAnswer { retry_after: Some(wait), ..answer(status, "") };
            for rotation in CLASSES {
                let expected = if rotation.rotates() {
                    SetbackKind::InDoubt { retry_after: Some(wait) }
                } else {
                    SetbackKind::Throttled { wait }
                };
                assert_eq!(
                    meaning(&rules(rotation), later.clone()),
                    (expected, FailureCode::ServerError),
                    "{rotation}"
                );
            }
        }
    }

    #[test]
    fn what_nobody_knows_is_tried_again_loudly() {
        for body in ["", "<html>gateway</html>", r#"{"error":"moon_phase"}"#, r#"{"access_token":"a"}"#] {
            assert_eq!(
                meaning(&Rules::default(), answer(403, body)),
                (SetbackKind::Transient { alarm: true }, FailureCode::UnknownAnswer),
                "{body}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_answer_has_one_outcome(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let raw = RawAnswer { status, content_type: None, retry_after: None, body: Zeroizing::new(body) };
            let seen = Observation::Answer(raw);
            for rotation in CLASSES {
                let (once, again) = (classify(&rules(rotation), &seen), classify(&rules(rotation), &seen));
                prop_assert_eq!(format!("{once:?}"), format!("{again:?}"));
            }
        }
    }
}
