//! Each rule in which a known provider differs from the standard.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use tokenkeep_mock::{
    Answer, ClientConfig, Credentials, DeathCause, Dialect, Grant, GrantOptions, OAuthRequest, Provider,
    ProviderConfig, Standing,
};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

struct World {
    provider: Provider,
    grant: Grant,
}

impl World {
    fn of(dialect: Dialect) -> Self {
        let mut provider = Provider::new(dialect.config());
        let grant = provider.grant(0, GrantOptions { label: "ada".to_owned(), ..GrantOptions::default() });
        Self { provider, grant }
    }

    fn first(&self) -> String {
        self.grant.token.refresh_token.clone()
    }

    fn refresh(&mut self, now_ms: i64, token: &str) -> Answer {
        self.provider.refresh(now_ms, &Credentials::post("mock-client", "mock-secret"), token, None)
    }

    /// Refreshes, and gives the refresh token of the answer.
    fn next(&mut self, now_ms: i64, token: &str) -> String {
        let answer = self.refresh(now_ms, token);
        assert_eq!(answer.status, 200, "{answer:?}");
        json(&answer)["refresh_token"].as_str().unwrap().to_owned()
    }

    fn death(&self) -> Option<DeathCause> {
        self.provider.ledger(self.grant.id).unwrap().killed.map(|death| death.cause)
    }

    fn lives(&self, now_ms: i64, access_token: &str) -> bool {
        self.provider.introspect(now_ms, access_token).active
    }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn access(answer: &Answer) -> String {
    json(answer)["access_token"].as_str().unwrap().to_owned()
}

fn refusal(answer: &Answer) -> (u16, String, String) {
    let body = json(answer);
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), text("error"), text("error_description"))
}

fn posted(provider: &mut Provider, now_ms: i64, content_type: &str, accept: Option<&str>, body: &str) -> Answer {
    let request = OAuthRequest::read(Some(content_type), None, body.as_bytes()).unwrap().accepting(accept);
    provider.token(now_ms, &request)
}

const FORM: &str = "application/x-www-form-urlencoded";
const CLIENT: &str = "client_id=mock-client&client_secret=mock-secret";

// --- Atlassian ---

#[test]
fn atlassian_sends_no_token_type() {
    let mut world = World::of(Dialect::Atlassian);
    let first = world.first();
    let body = json(&world.refresh(0, &first));
    assert_eq!(body.get("token_type"), None);
    assert_eq!(body["scope"], "read:jira-work read:jira-user read:me offline_access");
    assert_eq!(body["expires_in"], 3_600);
    let standard = json(&World::of(Dialect::Standard).refresh(0, &World::of(Dialect::Standard).first()));
    assert_eq!(standard["token_type"], "Bearer");
}

#[test]
fn atlassian_takes_json_and_form_bodies() {
    let mut world = World::of(Dialect::Atlassian);
    let first = world.first();
    let body = serde_json::json!({
        "grant_type": "refresh_token", "client_id": "mock-client", "client_secret": "mock-secret",
        "refresh_token": first,
    });
    let answer = posted(&mut world.provider, 0, "application/json", None, &body.to_string());
    let second = json(&answer)["refresh_token"].as_str().unwrap().to_owned();
    let body = format!("grant_type=refresh_token&{CLIENT}&refresh_token={second}");
    assert_eq!(posted(&mut world.provider, 0, FORM, None, &body).status, 200);
}

#[test]
fn atlassian_takes_the_token_before_for_ten_minutes_and_none_older() {
    let mut world = World::of(Dialect::Atlassian);
    let first = world.first();
    world.next(0, &first);
    let third = world.next(10 * MINUTE_MS, &first);
    let fourth = world.next(11 * MINUTE_MS, &third);
    let answer = world.refresh(11 * MINUTE_MS, &first);
    let refused = (403, "unauthorized_client".to_owned(), "refresh_token is invalid".to_owned());
    assert_eq!(refusal(&answer), refused, "two rotations ago");
    assert_eq!(world.death(), Some(DeathCause::Reuse));
    assert_eq!(refusal(&world.refresh(11 * MINUTE_MS, &fourth)), refused, "the whole family is dead");
}

#[test]
fn atlassian_kills_the_family_for_a_reuse_after_ten_minutes() {
    let mut world = World::of(Dialect::Atlassian);
    let first = world.first();
    world.next(0, &first);
    assert_eq!(refusal(&world.refresh(10 * MINUTE_MS + 1, &first)).0, 403);
    assert_eq!(world.death(), Some(DeathCause::Reuse));
}

#[test]
fn atlassian_ends_the_old_access_token_ten_minutes_after_rotation() {
    let mut world = World::of(Dialect::Atlassian);
    let (first, old) = (world.first(), world.grant.token.access_token.clone());
    let new = access(&world.refresh(MINUTE_MS, &first));
    assert!(world.lives(11 * MINUTE_MS - 1, &old));
    assert!(!world.lives(11 * MINUTE_MS, &old) && world.lives(11 * MINUTE_MS, &new));
}

#[test]
fn atlassian_refuses_an_unknown_token_and_an_outlived_one_alike() {
    let expected = (403, "invalid_grant".to_owned(), "Unknown or invalid refresh token.".to_owned());
    let mut world = World::of(Dialect::Atlassian);
    let first = world.first();
    assert_eq!(refusal(&world.refresh(0, "nonsense")), expected);
    let second = world.next(90 * DAY_MS, &first);
    assert!(world.provider.is_usable(180 * DAY_MS, &second));
    assert_eq!(world.provider.standing(180 * DAY_MS + 1, &second), Standing::Dead);
    assert_eq!(world.death(), None, "asking changes nothing");
    assert_eq!(refusal(&world.refresh(180 * DAY_MS + 1, &second)), expected);
    assert_eq!(world.death(), Some(DeathCause::Idle));
}

#[test]
fn atlassian_ends_the_family_at_365_days_however_often_it_is_refreshed() {
    let mut world = World::of(Dialect::Atlassian);
    let mut token = world.first();
    for day in (30..=360).step_by(30) {
        token = world.next(day * DAY_MS, &token);
    }
    token = world.next(365 * DAY_MS, &token);
    let answer = world.refresh(365 * DAY_MS + 1, &token);
    assert_eq!(refusal(&answer).1, "invalid_grant");
    assert_eq!(world.death(), Some(DeathCause::Expired));
}

#[test]
fn an_aged_grant_is_as_old_as_it_says() {
    let mut provider = Provider::new(Dialect::Atlassian.config());
    let options = GrantOptions { age_ms: 91 * DAY_MS, ..GrantOptions::default() };
    let grant = provider.grant(100 * DAY_MS, options);
    assert_eq!(provider.standing(100 * DAY_MS, &grant.token.refresh_token), Standing::Dead);
}

// --- GitHub ---

#[test]
fn github_answers_errors_with_200_and_its_own_codes() {
    let mut world = World::of(Dialect::GitHub);
    assert_eq!(
        (refusal(&world.refresh(0, "x")).0, refusal(&world.refresh(0, "x")).1.as_str()),
        (200, "bad_refresh_token")
    );
    let wrong = Credentials::post("mock-client", "wrong");
    let first = world.first();
    let answer = world.provider.refresh(0, &wrong, &first, None);
    assert_eq!(refusal(&answer).1, "incorrect_client_credentials");
    let body = format!("grant_type=authorization_code&code=x&{CLIENT}");
    let answer = posted(&mut world.provider, 0, FORM, Some("application/json"), &body);
    assert_eq!((answer.status.as_u16(), refusal(&answer).1.as_str()), (200, "bad_verification_code"));
}

#[test]
fn github_answers_in_form_encoding_unless_json_is_asked_for() {
    let mut world = World::of(Dialect::GitHub);
    let body = format!("grant_type=refresh_token&{CLIENT}&refresh_token={}", world.first());
    let answer = posted(&mut world.provider, 0, FORM, None, &body);
    assert_eq!(answer.headers["content-type"], FORM);
    let fields: std::collections::BTreeMap<String, String> =
        form_urlencoded::parse(&answer.body).into_owned().collect();
    assert_eq!(fields["refresh_token_expires_in"], "15811200");
    assert_eq!((fields["scope"].as_str(), fields["token_type"].as_str()), ("", "Bearer"));
    let body = format!("grant_type=refresh_token&{CLIENT}&refresh_token={}", fields["refresh_token"]);
    let answer = posted(&mut world.provider, 0, FORM, Some("text/html, Application/JSON"), &body);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(json(&answer)["expires_in"], 28_800);
    let answer = posted(&mut world.provider, 0, FORM, None, &body);
    assert!(answer.body.starts_with(b"error=bad_refresh_token&"), "{answer:?}");
}

#[test]
fn github_ends_the_old_access_token_at_once() {
    let mut world = World::of(Dialect::GitHub);
    let (first, old) = (world.first(), world.grant.token.access_token.clone());
    let new = access(&world.refresh(1, &first));
    assert!(!world.lives(1, &old) && world.lives(1, &new));
}

// --- Google ---

#[test]
fn google_repeats_no_refresh_token_and_keeps_it() {
    let mut world = World::of(Dialect::Google);
    let first = world.first();
    for _ in 0..2 {
        let body = json(&world.refresh(0, &first));
        assert_eq!((body.get("refresh_token"), &body["expires_in"]), (None, &3_599.into()));
    }
    world.provider.kill(0, world.grant.id);
    let expected = (400, "invalid_grant".to_owned(), "Token has been expired or revoked.".to_owned());
    assert_eq!(refusal(&world.refresh(0, &first)), expected);
}

// --- Slack ---

#[test]
fn slack_nests_the_tokens_and_says_ok_false() {
    let mut world = World::of(Dialect::Slack);
    let first = world.first();
    let body = json(&world.refresh(0, &first));
    assert_eq!((&body["ok"], body.get("access_token")), (&true.into(), None));
    let user = &body["authed_user"];
    assert_eq!((&user["id"], &user["scope"]), (&"ada".into(), &"channels:read,chat:write".into()));
    assert_eq!((&user["token_type"], &user["expires_in"]), (&"user".into(), &43_200.into()));
    assert!(world.provider.is_current(user["refresh_token"].as_str().unwrap()));
    let answer = world.refresh(0, "x");
    assert_eq!(json(&answer), serde_json::json!({"ok": false, "error": "invalid_refresh_token"}));
    assert_eq!(answer.status, 200);
    let answer = world.provider.refresh(0, &Credentials::Missing, "x", None);
    assert_eq!(json(&answer)["error"], "bad_client_secret");
}

// --- All ---

#[test]
fn every_dialect_has_the_usual_client() {
    for dialect in Dialect::ALL {
        let config: ProviderConfig = dialect.config();
        assert_eq!(config.clients, [ClientConfig::default()], "{dialect}");
        let mut world = World::of(dialect);
        let first = world.first();
        assert_eq!(world.refresh(0, &first).status, 200, "{dialect}");
    }
}
