//! The authorization server as pure state: rotation, clients, scope, revocation, the ledger, and hostile input.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use tokenkeep_mock::{
    Answer, ClientAuth, ClientConfig, Credentials, DeathCause, GraceReuse, Grant, GrantOptions, OAuthRequest, Provider,
    ProviderConfig, RefusalStyle, ReusedToken, Rotation, Standing, fingerprint,
};

fn config(rotation: Rotation) -> ProviderConfig {
    ProviderConfig { rotation, access_ttl_ms: 60_000, ..ProviderConfig::default() }
}

fn client() -> Credentials<'static> {
    Credentials::post("mock-client", "mock-secret")
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn error(answer: &Answer) -> (u16, String) {
    let error = json(answer)["error"].as_str().unwrap().to_owned();
    (answer.status.as_u16(), error)
}

/// A provider with one grant, and the time.
struct World {
    provider: Provider,
    grant: Grant,
    first: String,
    now_ms: i64,
}

impl World {
    fn new(config: ProviderConfig) -> Self {
        let mut provider = Provider::new(config);
        let grant = provider.grant(0, GrantOptions::default());
        let first = grant.token.refresh_token.clone();
        Self { provider, grant, first, now_ms: 0 }
    }

    fn of(rotation: Rotation) -> Self {
        Self::new(config(rotation))
    }

    fn at(&mut self, now_ms: i64) -> &mut Self {
        self.now_ms = now_ms;
        self
    }

    fn answer(&mut self, refresh_token: &str) -> Answer {
        self.provider.refresh(self.now_ms, &client(), refresh_token, None)
    }

    /// Refreshes, and gives the new access token and the refresh token to use next.
    fn refresh(&mut self, refresh_token: &str) -> (String, String) {
        let answer = self.answer(refresh_token);
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = json(&answer);
        let refresh = body["refresh_token"].as_str().unwrap_or(refresh_token);
        let access = body["access_token"].as_str().unwrap();
        (access.to_owned(), refresh.to_owned())
    }

    fn refused(&mut self, refresh_token: &str) {
        let answer = self.answer(refresh_token);
        assert_eq!(error(&answer), (400, "invalid_grant".to_owned()));
    }

    fn ledger(&self) -> tokenkeep_mock::GrantLedger {
        self.provider.ledger(self.grant.id).unwrap()
    }

    fn is_dead(&self) -> bool {
        self.ledger().killed.is_some()
    }

    fn lives(&self, access_token: &str) -> bool {
        self.provider.introspect(self.now_ms, access_token).active
    }
}

// --- Rotation ---

#[test]
fn persistent_never_changes_the_refresh_token_and_does_not_repeat_it() {
    let mut world = World::of(Rotation::Persistent);
    let first = world.first.clone();
    for _ in 0..3 {
        let answer = world.answer(&first);
        assert_eq!(answer.status, 200);
        assert_eq!(json(&answer).get("refresh_token"), None);
    }
    assert!(world.provider.is_current(&first));
    let ledger = world.ledger();
    assert_eq!((ledger.issues, ledger.refreshes, ledger.grace_reuses), (4, 3, 0));
}

#[test]
fn strict_ends_the_grant_and_its_access_tokens_on_reuse() {
    let mut world = World::of(Rotation::Strict);
    let first = world.first.clone();
    let (access, second) = world.at(1_000).refresh(&first);
    assert!(world.lives(&access) && world.provider.is_current(&second));
    world.at(2_000).refused(&first);
    assert!(world.is_dead() && !world.lives(&access));
    world.refused(&second);

    let ledger = world.ledger();
    let death = ledger.killed.unwrap();
    assert_eq!((death.cause, death.at_ms), (DeathCause::Reuse, 2_000));
    assert_eq!(ledger.reuse_count, 1, "the current token of a dead grant is refused, not reused");
    assert_eq!(ledger.reuses[0].fingerprint, fingerprint(&first));
    assert_eq!(ledger.reuses[0].token, ReusedToken::Spent);
    assert_eq!(ledger.refresh_token_fingerprint, fingerprint(&second));
    assert_eq!(world.provider.totals().dead_families, 1);
}

#[test]
fn grace_tolerates_the_token_before_until_its_time_has_passed() {
    let mut world = World::of(Rotation::Grace(600));
    let first = world.first.clone();
    world.at(1_000).refresh(&first);
    let (_, third) = world.at(601_000).refresh(&first);
    assert!(world.provider.is_current(&third));
    assert_eq!(world.ledger().grace_reuses, 1);
    world.at(601_001).refused(&first);
    assert!(world.is_dead());
}

#[test]
fn grace_does_not_tolerate_an_older_token() {
    let mut world = World::of(Rotation::Grace(600));
    let first = world.first.clone();
    let (_, second) = world.refresh(&first);
    world.refresh(&second);
    world.refused(&first);
    assert!(world.is_dead());
}

#[test]
fn grace_ends_the_grant_when_a_superseded_token_is_used() {
    let mut world = World::of(Rotation::Grace(600));
    let first = world.first.clone();
    let (_, lost) = world.refresh(&first);
    world.refresh(&first);
    assert_eq!(world.provider.standing(0, &lost), Standing::Superseded);
    world.refused(&lost);
    assert_eq!(world.ledger().reuses[0].token, ReusedToken::Superseded);
}

#[test]
fn grace_can_be_for_one_lost_answer_or_for_many() {
    let mut many = World::of(Rotation::Grace(600));
    let mut one = World::new(ProviderConfig { grace_reuse: GraceReuse::Once, ..config(Rotation::Grace(600)) });
    let first = many.first.clone();
    for world in [&mut many, &mut one] {
        world.refresh(&first);
        world.refresh(&first);
    }
    many.refresh(&first);
    one.refused(&first);
}

#[test]
fn a_longer_grace_does_not_begin_again_with_a_resend() {
    let mut world = World::of(Rotation::Grace(10));
    let first = world.first.clone();
    world.refresh(&first);
    world.at(9_000).refresh(&first);
    world.at(10_001).refused(&first);
}

#[test]
fn until_used_tolerates_the_old_token_until_the_new_one_is_used() {
    let mut world = World::of(Rotation::UntilUsed);
    let first = world.first.clone();
    world.refresh(&first);
    let (_, third) = world.at(i64::MAX).refresh(&first);
    assert_eq!(world.ledger().grace_reuses, 1);
    world.refresh(&third);
    world.refused(&first);
    assert!(world.is_dead());
}

#[test]
fn until_used_counts_the_use_of_the_new_access_token_but_not_a_question_about_it() {
    let mut world = World::of(Rotation::UntilUsed);
    let first = world.first.clone();
    let (access, _) = world.refresh(&first);
    assert!(world.lives(&access));
    let (access, _) = world.refresh(&first);
    assert!(world.provider.use_access_token(0, &access).is_some());
    world.refused(&first);
}

#[test]
fn until_used_ignores_the_use_of_an_older_access_token() {
    let mut world = World::of(Rotation::UntilUsed);
    let first = world.first.clone();
    let old = world.grant.token.access_token.clone();
    world.refresh(&first);
    assert!(world.provider.use_access_token(0, &old).is_some());
    world.refresh(&first);
}

#[test]
fn one_provider_holds_grants_of_every_class() {
    let mut provider = Provider::new(ProviderConfig::default());
    let classes = [
        (Rotation::Persistent, true),
        (Rotation::Grace(600), true),
        (Rotation::UntilUsed, true),
        (Rotation::Strict, false),
    ];
    for (rotation, is_tolerant) in classes {
        let options = GrantOptions { rotation: Some(rotation), ..GrantOptions::default() };
        let token = provider.grant(0, options).token.refresh_token;
        assert_eq!(provider.refresh(0, &client(), &token, None).status, 200);
        let again = provider.refresh(0, &client(), &token, None);
        assert_eq!(again.status == 200, is_tolerant, "{rotation}");
    }
}

#[test]
fn a_rotation_can_end_the_older_access_tokens() {
    for (after_s, lives_after_ms) in [(Some(0), 0), (Some(10), 10_000), (None, 59_000)] {
        let mut world =
            World::new(ProviderConfig { rotation_ends_access_after_s: after_s, ..config(Rotation::Strict) });
        let old = world.grant.token.access_token.clone();
        let first = world.first.clone();
        let (new, second) = world.refresh(&first);
        assert_eq!(world.at(lives_after_ms - 1).lives(&old), lives_after_ms > 0);
        if after_s.is_some() {
            assert!(!world.at(lives_after_ms).lives(&old));
        }
        assert!(world.lives(&new));
        world.refresh(&second);
        assert_eq!(world.lives(&old), after_s.is_none());
    }
}

// --- Clients ---

#[test]
fn a_wrong_client_costs_nothing() {
    let mut world = World::of(Rotation::Strict);
    let wrong = [
        Credentials::Missing,
        Credentials::post("mock-client", "wrong"),
        Credentials::basic("mock-client", ""),
        Credentials::public("mock-client"),
        Credentials::post("nobody", "mock-secret"),
    ];
    let first = world.first.clone();
    for credentials in &wrong {
        let answer = world.provider.refresh(0, credentials, &first, None);
        assert_eq!(error(&answer), (401, "invalid_client".to_owned()));
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    assert_eq!(world.provider.totals().client_refusals, wrong.len() as u64);
    world.refresh(&first);
}

#[test]
fn a_client_must_authenticate_in_its_own_way() {
    let registered = |id: &str, auth: ClientAuth| ClientConfig {
        id: id.to_owned(),
        secret: (auth != ClientAuth::Public).then(|| "s".to_owned()),
        auth,
    };
    let mut provider = Provider::new(ProviderConfig {
        clients: vec![
            registered("basic", ClientAuth::Basic),
            registered("post", ClientAuth::Post),
            registered("public", ClientAuth::Public),
        ],
        ..ProviderConfig::default()
    });
    let cases = [
        (Credentials::basic("basic", "s"), true),
        (Credentials::post("basic", "s"), false),
        (Credentials::post("post", "s"), true),
        (Credentials::basic("post", "s"), false),
        (Credentials::public("public"), true),
        (Credentials::post("public", "s"), false),
        (Credentials::basic("public", ""), false),
    ];
    for (credentials, is_accepted) in cases {
        let answer = provider.client_credentials(0, &credentials, None);
        assert_eq!(answer.status == 200, is_accepted, "{credentials:?}");
    }
}

#[test]
fn another_clients_refresh_token_is_refused_and_left_alone() {
    let other = ClientConfig { id: "other".to_owned(), ..ClientConfig::default() };
    let mut world =
        World::new(ProviderConfig { clients: vec![ClientConfig::default(), other], ..ProviderConfig::default() });
    let first = world.first.clone();
    let other = Credentials::post("other", "mock-secret");
    let answer = world.provider.refresh(0, &other, &first, None);
    assert_eq!(error(&answer), (400, "invalid_grant".to_owned()));
    world.provider.revoke(0, &other, &first);
    assert!(world.provider.is_current(&first));
}

#[test]
fn a_dead_token_is_refused_in_the_providers_style() {
    let cases = [
        (RefusalStyle::Standard, 400, "invalid_grant"),
        (RefusalStyle::Atlassian, 403, "invalid_grant"),
        (RefusalStyle::GitHub, 200, "bad_refresh_token"),
        (RefusalStyle::Google, 400, "invalid_grant"),
        (RefusalStyle::Slack, 200, "invalid_refresh_token"),
    ];
    for (refusals, status, code) in cases {
        let mut world = World::new(ProviderConfig { refusals, ..ProviderConfig::default() });
        assert_eq!(error(&world.answer("unknown")), (status, code.to_owned()));
    }
}

// --- Scope, other grant types ---

#[test]
fn a_narrower_scope_is_granted_and_a_wider_one_costs_nothing() {
    let mut world = World::of(Rotation::Strict);
    let first = world.first.clone();
    let wider = world.provider.refresh(0, &client(), &first, Some("read:jira-work admin"));
    assert_eq!(error(&wider), (400, "invalid_scope".to_owned()));
    let narrower = world.provider.refresh(0, &client(), &first, Some("read:jira-work"));
    assert_eq!(json(&narrower)["scope"], "read:jira-work");
}

#[test]
fn the_token_endpoint_tells_what_is_missing() {
    let mut provider = Provider::new(ProviderConfig::default());
    let cases = [
        ("", "invalid_request"),
        ("grant_type=refresh_token", "invalid_request"),
        ("grant_type=password", "unsupported_grant_type"),
        ("grant_type=client_credentials", "invalid_client"),
    ];
    for (body, code) in cases {
        let request = OAuthRequest::read(None, None, body.as_bytes()).unwrap();
        assert_eq!(error(&provider.token(0, &request)).1, code);
    }
}

#[test]
fn client_credentials_give_a_token_without_refresh_token() {
    let mut provider = Provider::new(config(Rotation::Strict));
    let body = json(&provider.client_credentials(0, &client(), Some("a b")));
    assert_eq!((&body["scope"], &body["expires_in"]), (&"a b".into(), &60.into()));
    assert_eq!(body.get("refresh_token"), None);
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(provider.introspect(59_999, token).client_id.unwrap(), "mock-client");
    assert!(!provider.introspect(60_000, token).active);
    provider.revoke(0, &client(), token);
    assert!(!provider.introspect(0, token).active);
}

#[test]
fn expires_in_can_be_left_out() {
    let mut provider = Provider::new(config(Rotation::Strict));
    let options = GrantOptions { expires_in: Some(false), ..GrantOptions::default() };
    let token = provider.grant(0, options).token;
    assert_eq!((token.expires_in, token.expires_at), (None, None));
    let body = json(&provider.refresh(0, &client(), &token.refresh_token, None));
    assert_eq!(body.get("expires_in"), None);
}

#[test]
fn an_aged_grant_has_less_time_left() {
    let mut provider = Provider::new(config(Rotation::Strict));
    let options = GrantOptions { age_ms: 50_000, ..GrantOptions::default() };
    let token = provider.grant(100_000, options).token;
    assert_eq!((token.expires_in, token.expires_at), (Some(60), Some(110)));
    assert!(provider.introspect(109_999, &token.access_token).active);
    assert!(!provider.introspect(110_000, &token.access_token).active);
}

// --- Revocation and ending ---

#[test]
fn revoking_a_refresh_token_ends_the_grant_and_an_access_token_only_itself() {
    let mut world = World::of(Rotation::Persistent);
    let first = world.first.clone();
    let old = world.grant.token.access_token.clone();
    let (new, _) = world.refresh(&first);
    world.provider.revoke(0, &client(), &old);
    assert!(!world.lives(&old) && world.lives(&new));
    assert_eq!(world.provider.revoke(0, &client(), "unknown").status, 200);
    world.provider.revoke(0, &client(), &first);
    assert!(!world.lives(&new));
    assert_eq!(world.ledger().killed.unwrap().cause, DeathCause::Revoked);
    world.refused(&first);
}

#[test]
fn the_first_cause_of_an_end_stays() {
    let mut world = World::of(Rotation::Strict);
    let first = world.first.clone();
    assert!(world.provider.kill(5, world.grant.id));
    assert!(!world.provider.kill(6, world.grant.id));
    world.provider.revoke(7, &client(), &first);
    let death = world.ledger().killed.unwrap();
    assert_eq!((death.cause, death.at_ms), (DeathCause::Killed, 5));
    assert_eq!(world.provider.totals().dead_families, 1);
    assert_eq!(world.provider.standing(8, &first), Standing::Dead);
}

// --- The ledger ---

#[test]
fn overlapping_requests_with_one_token_are_counted() {
    let mut world = World::of(Rotation::Persistent);
    let first = world.first.clone();
    let one = world.provider.arrive(Some(&first));
    world.provider.leave(one);
    let one = world.provider.arrive(Some(&first));
    let other = world.provider.grant(0, GrantOptions::default());
    let elsewhere = world.provider.arrive(Some(&other.token.refresh_token));
    assert_eq!(world.provider.totals().overlaps, 0);
    let two = world.provider.arrive(Some(&first));
    assert_eq!((one.nth(), two.nth(), elsewhere.nth()), (1, 2, 0));
    for request in [one, two, elsewhere] {
        world.provider.leave(request);
    }
    let three = world.provider.arrive(Some(&first));
    world.provider.leave(three);
    assert_eq!(world.ledger().overlaps, 1);
    assert_eq!((world.provider.totals().overlaps, world.provider.totals().requests), (1, 5));
}

#[test]
fn a_new_token_does_not_overlap_with_the_one_before() {
    let mut world = World::of(Rotation::Strict);
    let first = world.first.clone();
    let one = world.provider.arrive(Some(&first));
    let (_, second) = world.refresh(&first);
    let two = world.provider.arrive(Some(&second));
    assert_eq!(world.provider.totals().overlaps, 0);
    world.provider.leave(one);
    world.provider.leave(two);
}

#[test]
fn the_ledger_keeps_the_shortest_time_left_at_a_refresh() {
    let mut world = World::of(Rotation::Persistent);
    let first = world.first.clone();
    assert_eq!(world.ledger().margin_min_ms, None);
    world.at(50_000).refresh(&first);
    world.at(60_000).refresh(&first);
    assert_eq!(world.ledger().margin_min_ms, Some(10_000));
    world.at(130_000).refresh(&first);
    let ledger = world.ledger();
    assert_eq!(ledger.margin_min_ms, Some(-10_000));
    assert_eq!((ledger.last_refresh_at_ms, ledger.access_expires_at_ms), (Some(130_000), 190_000));
}

#[test]
fn every_grant_has_a_name_of_its_own() {
    let mut provider = Provider::new(ProviderConfig::default());
    let labels: Vec<String> = ["c", "c-2", "c", "c", "c-2"]
        .map(|label| {
            let label = label.to_owned();
            let options = GrantOptions { label, ..GrantOptions::default() };
            provider.grant(0, options).label
        })
        .into();
    assert_eq!(labels, ["c", "c-2", "c-3", "c-4", "c-2-2"]);
    assert_eq!(provider.ledgers().map(|ledger| ledger.label).collect::<Vec<_>>(), labels);
    assert_eq!(provider.label(provider.find("c-4").unwrap()), Some("c-4"));
}

#[test]
fn the_ledger_names_no_token() {
    let mut world = World::of(Rotation::Strict);
    let first = world.first.clone();
    world.refresh(&first);
    world.refused(&first);
    let text = serde_json::to_string(&world.ledger()).unwrap();
    assert!(!text.contains("mock-rt-") && !text.contains("mock-at-"), "{text}");
}

// --- Determinism and hostile input ---

#[test]
fn the_same_seed_and_calls_give_the_same_answers() {
    let run = |seed: u64| {
        let mut world = World::new(ProviderConfig { seed, ..config(Rotation::Grace(5)) });
        let mut token = world.first.clone();
        let mut answers = Vec::new();
        for step in 0..50 {
            let answer = world.at(step * 1_000).answer(&token);
            if step % 3 != 0 {
                token = json(&answer)["refresh_token"].as_str().unwrap().to_owned();
            }
            answers.push(answer);
        }
        (answers, world.ledger())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn a_reset_begins_anew() {
    let mut world = World::of(Rotation::Strict);
    let first = world.first.clone();
    let (_, second) = world.refresh(&first);
    world.provider.reset();
    assert_eq!(world.provider.standing(0, &first), Standing::Unknown);
    assert_eq!(world.provider.totals(), Default::default());
    let again = world.provider.grant(0, GrantOptions::default());
    assert_eq!(again, world.grant);
    assert_eq!(world.provider.standing(0, &second), Standing::Unknown);
}

#[test]
fn extreme_times_and_options_do_not_panic() {
    for now_ms in [i64::MIN, -1, 0, i64::MAX] {
        for extreme in [i64::MIN, -1, 0, i64::MAX] {
            let mut world = World::new(ProviderConfig {
                access_ttl_ms: extreme,
                rotation_ends_access_after_s: Some(u32::MAX),
                ..config(Rotation::Grace(u32::MAX))
            });
            let options = GrantOptions { access_ttl_ms: Some(extreme), age_ms: extreme, ..GrantOptions::default() };
            let grant = world.provider.grant(now_ms, options);
            for token in [grant.token.refresh_token.as_str(), &world.first.clone(), "", "\u{0}é"] {
                world.at(now_ms).answer(token);
                world.at(extreme).answer(token);
                world.provider.introspect(now_ms, token);
                world.provider.client_credentials(now_ms, &client(), Some(token));
                world.provider.use_access_token(extreme, &grant.token.access_token);
            }
        }
    }
}

#[test]
fn a_provider_without_clients_refuses_everyone() {
    let mut provider = Provider::new(ProviderConfig { clients: Vec::new(), ..ProviderConfig::default() });
    let token = provider.grant(0, GrantOptions::default()).token;
    assert_eq!(provider.refresh(0, &client(), &token.refresh_token, None).status, 401);
    assert!(provider.introspect(0, &token.access_token).active);
}
