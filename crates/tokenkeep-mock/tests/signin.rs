//! Signing in: authorize URLs, codes with PKCE, and the device flow, on the pure provider.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use tokenkeep_mock::{
    Answer, Ask, ClientAuth, ClientConfig, DeathCause, Decision, Demands, DeviceStyle, Dialect, KNOWN, OAuthRequest,
    Provider, ProviderConfig, RedirectOnRefresh, UnfitAsk,
};

const SECRETS: &str = "client_id=mock-client&client_secret=mock-secret";
const CALLBACK: &str = "http%3A%2F%2F127.0.0.1%3A7%2Fcb";
/// The pair of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn provider() -> Provider {
    let public = ClientConfig { id: "public".to_owned(), secret: None, auth: ClientAuth::Public };
    Provider::new(ProviderConfig { clients: vec![ClientConfig::default(), public], ..ProviderConfig::default() })
}

fn url(more: &str) -> String {
    format!("response_type=code&client_id=mock-client&redirect_uri={CALLBACK}&state=s%261{more}")
}

fn ask(provider: &Provider, more: &str) -> Ask {
    provider.ask(&url(more)).unwrap()
}

/// A parameter of a URL.
fn parameter(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?').unwrap();
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn code(provider: &mut Provider, more: &str) -> String {
    let ask = ask(provider, more);
    parameter(&provider.decide(0, &ask, Decision::Allow), "code").unwrap()
}

fn post(provider: &mut Provider, now_ms: i64, body: &str) -> Answer {
    provider.token(now_ms, &OAuthRequest::read(None, None, body.as_bytes()).unwrap())
}

fn exchange(provider: &mut Provider, now_ms: i64, code: &str, more: &str) -> Answer {
    let body = format!("grant_type=authorization_code&{SECRETS}&redirect_uri={CALLBACK}&code={code}{more}");
    post(provider, now_ms, &body)
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn error(answer: &Answer) -> String {
    json(answer)["error"].as_str().unwrap_or("none").to_owned()
}

// --- Codes ---

#[test]
fn a_code_becomes_a_grant_of_the_account_that_was_hinted_at() {
    let mut provider = provider();
    let ask = ask(&provider, "&scope=a+b&login_hint=ada");
    assert_eq!((ask.client_id(), ask.scope(), ask.owner()), ("mock-client", "a b", "ada"));
    let redirected = provider.decide(0, &ask, Decision::Allow);
    assert!(redirected.starts_with("http://127.0.0.1:7/cb?code="), "{redirected}");
    assert_eq!(parameter(&redirected, "state").unwrap(), "s&1");
    let code = parameter(&redirected, "code").unwrap();
    let body = json(&exchange(&mut provider, 59_999, &code, ""));
    assert_eq!((&body["scope"], &body["expires_in"]), (&"a b".into(), &3_600.into()));
    let known = provider.introspect(60_000, body["access_token"].as_str().unwrap());
    assert_eq!((known.username.as_deref(), known.client_id.as_deref()), (Some("ada"), Some("mock-client")));
    assert!(provider.is_current(body["refresh_token"].as_str().unwrap()));
}

#[test]
fn the_same_account_again_is_another_grant_of_it() {
    let mut provider = provider();
    for label in ["user", "user-2"] {
        let code = code(&mut provider, "");
        let body = json(&exchange(&mut provider, 0, &code, ""));
        let known = provider.introspect(0, body["access_token"].as_str().unwrap());
        assert_eq!((known.username.as_deref(), known.sub.as_deref()), (Some("user"), Some(label)));
    }
}

#[test]
fn a_denial_goes_to_the_client() {
    let mut provider = provider();
    let ask = ask(&provider, "");
    let redirected = provider.decide(0, &ask, Decision::Deny);
    assert_eq!(parameter(&redirected, "error").unwrap(), "access_denied");
    assert_eq!(parameter(&redirected, "state").unwrap(), "s&1");
}

#[test]
fn a_code_that_is_used_twice_takes_its_grant_with_it() {
    let mut provider = provider();
    let code = code(&mut provider, "");
    let token = json(&exchange(&mut provider, 0, &code, ""))["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(error(&exchange(&mut provider, 1, &code, "")), "invalid_grant");
    assert!(!provider.is_current(&token));
    assert_eq!(provider.ledgers().next().unwrap().killed.unwrap().cause, DeathCause::CodeReuse);
}

#[test]
fn a_code_is_good_for_its_client_its_time_and_its_redirection_only() {
    let mut provider = provider();
    let code = code(&mut provider, "");
    let elsewhere = format!("grant_type=authorization_code&{SECRETS}&redirect_uri=http%3A%2F%2Fx%2F&code={code}");
    let other = format!("grant_type=authorization_code&client_id=public&redirect_uri={CALLBACK}&code={code}");
    for body in [elsewhere, other, format!("grant_type=authorization_code&{SECRETS}&code={code}x")] {
        assert_eq!(error(&post(&mut provider, 0, &body)), "invalid_grant", "{body}");
    }
    assert_eq!(error(&exchange(&mut provider, 60_000, &code, "")), "invalid_grant");
    assert_eq!(error(&post(&mut provider, 0, &format!("grant_type=authorization_code&{SECRETS}"))), "invalid_request");
    assert_eq!(exchange(&mut provider, 59_999, &code, "").status, 200, "none of that cost the code");
}

#[test]
fn a_challenge_must_be_answered() {
    let mut provider = provider();
    let pkce = format!("&code_challenge={CHALLENGE}&code_challenge_method=S256");
    let code = code(&mut provider, &pkce);
    let wrong = format!("&code_verifier={}", VERIFIER.replace('d', "e"));
    for more in ["", wrong.as_str()] {
        assert_eq!(error(&exchange(&mut provider, 0, &code, more)), "invalid_grant");
    }
    assert_eq!(exchange(&mut provider, 0, &code, &format!("&code_verifier={VERIFIER}")).status, 200);
    let without = self::code(&mut provider, "");
    let answer = exchange(&mut provider, 0, &without, &format!("&code_verifier={VERIFIER}"));
    assert_eq!(error(&answer), "invalid_grant", "a verifier without a challenge is a downgrade");
}

#[test]
fn an_ask_that_cannot_be_trusted_is_told_to_the_person() {
    let provider = provider();
    let cases = [
        "response_type=code&client_id=nobody&redirect_uri=http%3A%2F%2Fx%2F",
        "response_type=code&client_id=mock-client",
        "response_type=code&client_id=mock-client&redirect_uri=%2Fcb",
        "response_type=code&client_id=mock-client&redirect_uri=http%3A%2F%2Fx%2F%23f",
        "response_type=code&client_id=mock-client&redirect_uri=http%3A%2F%2Fx%2F%0D%0Aa",
        "client_id=mock-client&client_id=mock-client",
    ];
    for query in cases {
        assert!(matches!(provider.ask(query), Err(UnfitAsk::Told(_))), "{query}");
    }
}

#[test]
fn an_ask_that_is_wrong_is_told_to_the_client() {
    let provider = provider();
    let public = format!("response_type=code&client_id=public&redirect_uri={CALLBACK}");
    let cases = [
        (url("").replace("=code&", "=token&"), "unsupported_response_type"),
        (url(&format!("&code_challenge={CHALLENGE}")), "invalid_request"),
        (url(&format!("&code_challenge={CHALLENGE}&code_challenge_method=plain")), "invalid_request"),
        (url("&code_challenge_method=S256"), "invalid_request"),
        (public, "invalid_request"),
    ];
    for (query, expected) in cases {
        let Err(UnfitAsk::Redirected(url)) = provider.ask(&query) else { panic!("{query}") };
        assert_eq!(parameter(&url, "error").unwrap(), expected, "{query}");
    }
}

#[test]
fn what_asks_for_offline_access_differs_by_dialect() {
    let cases = [
        (Dialect::Standard, "", true),
        (Dialect::Atlassian, "&scope=read:me", false),
        (Dialect::Atlassian, "&scope=read:me+offline_access", true),
        (Dialect::Google, "", false),
        (Dialect::Google, "&access_type=offline", true),
    ];
    for (dialect, more, expected) in cases {
        let mut provider = Provider::new(dialect.config());
        let code = code(&mut provider, more);
        let body = json(&exchange(&mut provider, 0, &code, ""));
        assert_eq!(body.get("refresh_token").is_some(), expected, "{dialect} {more}");
    }
}

#[test]
fn only_the_newest_codes_are_remembered() {
    let mut provider = provider();
    let first = code(&mut provider, "");
    let second = code(&mut provider, "");
    for _ in 0..9_999 {
        code(&mut provider, "");
    }
    assert_eq!(error(&exchange(&mut provider, 0, &first, "")), "invalid_grant");
    assert_eq!(exchange(&mut provider, 0, &second, "").status, 200);
}

// --- Devices ---

struct Device {
    provider: Provider,
    code: String,
    user_code: String,
}

impl Device {
    fn of(mut provider: Provider) -> Self {
        let body = format!("{SECRETS}&scope=a");
        let request = OAuthRequest::read(None, None, body.as_bytes()).unwrap().accepting(Some("application/json"));
        let answer = json(&provider.device_authorization(0, &request, "http://x"));
        assert_eq!((&answer["expires_in"], &answer["interval"]), (&600.into(), &5.into()));
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        if provider.config().device == DeviceStyle::Google {
            assert_eq!(text("verification_url"), "http://x/device");
            assert!(answer.get("verification_uri").is_none() && answer.get("verification_uri_complete").is_none());
        } else {
            assert_eq!(text("verification_uri"), "http://x/device");
            assert_eq!(text("verification_uri_complete"), format!("http://x/device?user_code={}", text("user_code")));
        }
        Self { provider, code: text("device_code"), user_code: text("user_code") }
    }

    fn poll(&mut self, now_ms: i64) -> Answer {
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";
        let body = format!("grant_type={grant}&{SECRETS}&device_code={}", self.code);
        post(&mut self.provider, now_ms, &body)
    }
}

#[test]
fn a_device_waits_until_its_owner_allows() {
    let mut device = Device::of(provider());
    assert_eq!(error(&device.poll(0)), "authorization_pending");
    let typed = device.user_code.to_lowercase().replace('-', " ");
    assert_eq!(device.provider.device_ask(1_000, &typed), Some(("mock-client", "a")));
    assert!(device.provider.decide_device(1_000, &typed, Decision::Allow));
    let body = json(&device.poll(5_000));
    assert_eq!(body["scope"], "a");
    assert!(device.provider.is_current(body["refresh_token"].as_str().unwrap()));
    assert_eq!(error(&device.poll(10_000)), "invalid_grant", "tokens are given once");
    assert_eq!(device.provider.device_ask(10_000, &typed), None);
}

#[test]
fn a_device_that_asks_too_often_must_wait_longer() {
    let mut device = Device::of(provider());
    assert_eq!(error(&device.poll(0)), "authorization_pending");
    assert_eq!(error(&device.poll(4_000)), "slow_down");
    assert_eq!(error(&device.poll(9_000)), "slow_down", "the interval is 10 seconds now");
    assert_eq!(error(&device.poll(9_000 + 14_600)), "authorization_pending", "and 15 now, less what timers err");
}

#[test]
fn github_says_the_new_interval() {
    let mut device = Device::of(Provider::new(Dialect::GitHub.config()));
    device.poll(0);
    let answer = device.poll(1);
    let fields: Vec<(String, String)> = form_urlencoded::parse(&answer.body).into_owned().collect();
    assert_eq!(answer.status, 200);
    assert!(fields.contains(&("interval".to_owned(), "10".to_owned())), "{fields:?}");
}

#[test]
fn a_device_is_kept_waiting_and_refused_in_the_provider_s_own_words() {
    for (id, waits, too_often, denied) in [
        ("gitlab", (400, "authorization_pending"), (400, "slow_down"), (400, "access_denied")),
        ("google", (428, "authorization_pending"), (403, "slow_down"), (403, "access_denied")),
        ("auth0", (403, "authorization_pending"), (429, "slow_down"), (403, "access_denied")),
        ("microsoft", (400, "authorization_pending"), (400, "slow_down"), (400, "authorization_declined")),
    ] {
        let known = KNOWN.iter().find(|known| known.id == id).unwrap();
        let mut device = Device::of(Provider::new(known.config()));
        let told = |answer: Answer| (answer.status.as_u16(), error(&answer));
        let of = |(status, error): (u16, &str)| (status, error.to_owned());
        assert!(!device.provider.device_has_asked(0, &device.user_code));
        assert_eq!(told(device.poll(0)), of(waits), "{id}");
        assert!(device.provider.device_has_asked(1, &device.user_code));
        assert_eq!(told(device.poll(1)), of(too_often), "{id}");
        assert!(device.provider.decide_device(2, &device.user_code, Decision::Deny));
        assert_eq!(told(device.poll(60_000)), of(denied), "{id}");
    }
}

#[test]
fn a_refresh_repeats_the_redirection_of_its_sign_in_where_that_is_demanded() {
    let demands = Demands { redirect_on_refresh: RedirectOnRefresh::Needed, ..Demands::default() };
    let mut provider = Provider::new(ProviderConfig { demands, ..ProviderConfig::default() });
    let code = code(&mut provider, "");
    let token = json(&exchange(&mut provider, 1, &code, ""))["refresh_token"].as_str().unwrap().to_owned();
    let refresh = format!("grant_type=refresh_token&{SECRETS}&refresh_token={token}");
    assert_eq!(post(&mut provider, 2, &refresh).status, 400);
    for (redirect, status) in [("http%3A%2F%2Fx%2F", 400), (CALLBACK, 200)] {
        assert_eq!(post(&mut provider, 2, &format!("{refresh}&redirect_uri={redirect}")).status, status, "{redirect}");
    }
    // A device is not sent back anywhere.
    let mut device = Device::of(provider);
    assert!(device.provider.decide_device(0, &device.user_code, Decision::Allow));
    let token = json(&device.poll(0))["refresh_token"].as_str().unwrap().to_owned();
    let refresh = format!("grant_type=refresh_token&{SECRETS}&refresh_token={token}");
    assert_eq!(post(&mut device.provider, 1, &refresh).status, 200);
}

#[test]
fn a_denial_and_an_end_are_told() {
    let mut device = Device::of(provider());
    let user_code = device.user_code.clone();
    assert!(device.provider.decide_device(0, &user_code, Decision::Deny));
    assert!(!device.provider.decide_device(0, &user_code, Decision::Allow), "the decision stands");
    assert_eq!(error(&device.poll(0)), "access_denied");
    let mut device = Device::of(provider());
    let user_code = device.user_code.clone();
    assert_eq!(error(&device.poll(600_000)), "expired_token");
    assert!(!device.provider.decide_device(600_000, &user_code, Decision::Allow));
}

#[test]
fn a_device_code_is_its_clients() {
    let mut device = Device::of(provider());
    let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";
    let body = format!("grant_type={grant}&client_id=public&device_code={}", device.code);
    assert_eq!(error(&post(&mut device.provider, 0, &body)), "invalid_grant");
    assert_eq!(error(&post(&mut device.provider, 0, &format!("grant_type={grant}&{SECRETS}"))), "invalid_request");
    let request = OAuthRequest::read(None, None, b"client_id=nobody").unwrap();
    assert_eq!(error(&device.provider.device_authorization(0, &request, "")), "invalid_client");
}
