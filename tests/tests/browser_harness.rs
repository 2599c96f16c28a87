//! What the sign-in tests stand on: a certified server with sign-in pages, and people at a browser. The application
//! here is the test itself.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};
use tokenkeep_tests::browser::{Answer, Browser, Scripts, Visit};
use tokenkeep_tests::oidc::{ClientKey, ClientKind, Oidc, Pages};
use tokenkeep_tests::process::wait_for;
use url::Url;

const STATE: &str = "a-state";
const VERIFIER: &str = "a-verifier-of-at-least-forty-three-letters-and-digits";
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const END_WITHIN: Duration = Duration::from_secs(30);

/// An application on this machine: answers every request with one page, and keeps what was asked for.
struct Application {
    origin: String,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Application {
    fn serve(policy: &'static str, body: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let origin = format!("http://{}", listener.local_addr().expect("it is bound"));
        let targets = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&targets);
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || answer(stream, policy, body, &kept));
            }
        });
        Self { origin, targets }
    }

    fn redirect_uri(&self) -> String {
        format!("{}/callback", self.origin)
    }

    /// The queries that came to the redirect URI.
    fn redirects(&self) -> Vec<HashMap<String, String>> {
        let targets = self.targets.lock().expect("nobody panics with the lock");
        targets.iter().filter(|target| target.starts_with("/callback?")).map(|target| query(target)).collect()
    }
}

fn answer(mut stream: TcpStream, policy: &str, body: &str, targets: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(length @ 1..) => head.extend_from_slice(&piece[..length]),
            _ => return,
        }
    }
    let target = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
    targets.lock().expect("nobody panics with the lock").push(target);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-security-policy: {policy}\r\n\
         set-cookie: tried=1; HttpOnly; SameSite=Lax\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + body).as_bytes());
}

fn query(target: &str) -> HashMap<String, String> {
    let url = Url::parse(&format!("http://localhost{target}")).expect("a browser sends whole targets");
    url.query_pairs().into_owned().collect()
}

fn application() -> Application {
    Application::serve("default-src 'none'", "<!doctype html><title>Back</title><p>Welcome back.")
}

fn authorize_url(oidc: &Oidc, kind: ClientKind, redirect_uri: &str, more: &[(&str, &str)]) -> String {
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
    let mut url = Url::parse(&format!("{}/auth", oidc.issuer())).expect("an issuer is a URL");
    url.query_pairs_mut()
        .extend_pairs([
            ("client_id", oidc.id_of(kind)),
            ("response_type", "code"),
            ("scope", "openid offline_access"),
            ("prompt", "consent"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("state", STATE),
            ("redirect_uri", redirect_uri),
        ])
        .extend_pairs(more);
    url.into()
}

/// Exchanges a code as [`ClientKind::Public`].
fn exchange(oidc: &Oidc, code: &str, redirect_uri: &str) -> Value {
    let client = ("client_id", oidc.id_of(ClientKind::Public));
    let grant = [("grant_type", "authorization_code"), ("code", code)];
    let proof = [("code_verifier", VERIFIER), ("redirect_uri", redirect_uri)];
    oidc.post_with("/token", &[], &[&[client][..], &grant, &proof].concat())
}

#[track_caller]
fn expect_active(oidc: &Oidc, token: &Value) {
    let access_token = token["access_token"].as_str().unwrap_or_else(|| panic!("no access token: {token}"));
    assert!(oidc.is_active(access_token), "{token}");
}

#[test]
fn a_person_signs_in_with_scripts_and_without() {
    let (oidc, browser, application) = (Oidc::with_pages(&Pages::default()), Browser::start(), application());
    let redirect_uri = application.redirect_uri();
    for (nth, scripts) in [Scripts::Run, Scripts::Off].into_iter().enumerate() {
        let url = authorize_url(&oidc, ClientKind::Public, &redirect_uri, &[]);
        let report = browser.profile(scripts).visit(Visit::new(&url, "anna"));
        assert_eq!((report.title.as_str(), report.text.as_str(), report.status), ("Back", "Welcome back.", Some(200)));
        assert!(report.url.starts_with(&redirect_uri) && report.visited[0] == url, "{report:#?}");
        let cookie = report.cookies.iter().find(|cookie| cookie["name"] == "tried").expect("the application's cookie");
        assert_eq!(
            (&cookie["httpOnly"], &cookie["sameSite"], cookie.get("value")),
            (&true.into(), &"Lax".into(), None)
        );

        let redirect = &application.redirects()[nth];
        assert_eq!((redirect["state"].as_str(), redirect["iss"].as_str()), (STATE, oidc.issuer()));
        let token = exchange(&oidc, &redirect["code"], &redirect_uri);
        expect_active(&oidc, &token);
        assert!(token["refresh_token"].is_string() && token["id_token"].is_string(), "{token}");
    }
    assert_eq!((&oidc.seen()["codes"], &oidc.seen()["errors"]), (&2.into(), &json!({})));
}

#[test]
fn the_page_proposes_whom_the_application_expects() {
    let (oidc, browser, application) = (Oidc::with_pages(&Pages::default()), Browser::start(), application());
    let redirect_uri = application.redirect_uri();
    let hint = [("login_hint", "ben")];
    let url = authorize_url(&oidc, ClientKind::Public, &redirect_uri, &hint);
    browser.profile(Scripts::Run).visit(Visit::new(&url, ""));
    let token = exchange(&oidc, &application.redirects()[0]["code"], &redirect_uri);
    let claims = token["id_token"].as_str().and_then(|token| token.split('.').nth(1)).expect("an id token");
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["sub"], "ben");
}

#[test]
fn a_person_says_no_or_goes_away() {
    let (oidc, browser, application) = (Oidc::with_pages(&Pages::default()), Browser::start(), application());
    let url = authorize_url(&oidc, ClientKind::Public, &application.redirect_uri(), &[]);
    let profile = browser.profile(Scripts::Off);
    let report = profile.visit(Visit { answer: Answer::Leave, ..Visit::new(&url, "anna") });
    assert!(report.text.contains("Authorize") && report.url.starts_with(oidc.issuer()), "{report:#?}");
    profile.close();
    assert!(application.redirects().is_empty());

    browser.profile(Scripts::Off).visit(Visit { answer: Answer::Deny, ..Visit::new(&url, "anna") });
    let redirects = application.redirects();
    assert_eq!((redirects.len(), redirects[0]["error"].as_str()), (1, "access_denied"));
    assert!(!redirects[0].contains_key("code"));
}

#[test]
fn a_redirect_is_held_and_can_be_sent_later_and_twice() {
    let (oidc, browser, application) = (Oidc::with_pages(&Pages::default()), Browser::start(), application());
    let redirect_uri = application.redirect_uri();
    let profile = browser.profile(Scripts::Run);
    let url = authorize_url(&oidc, ClientKind::Public, &redirect_uri, &[]);
    let redirect = profile.hold_redirect(&url, "anna", &redirect_uri);
    assert!(application.redirects().is_empty(), "it was sent");

    for _ in 0..2 {
        assert_eq!(profile.open(&redirect).title, "Back");
    }
    let codes: Vec<String> = application.redirects().iter().map(|redirect| redirect["code"].clone()).collect();
    assert_eq!(codes.len(), 2);
    let token = exchange(&oidc, &codes[0], &redirect_uri);
    expect_active(&oidc, &token);
    // The server notices a replay, and ends what came of the code: an application that sends a code twice is seen.
    assert_eq!(exchange(&oidc, &codes[1], &redirect_uri)["error"], "invalid_grant");
    assert!(!oidc.is_active(token["access_token"].as_str().unwrap()));
    assert_eq!(oidc.seen()["errors"].as_object().unwrap().len(), 1);
}

#[test]
fn what_a_page_may_not_do_and_what_is_missing_is_reported() {
    let page = "<!doctype html><title>Wrong</title><style>p { color: red }</style><script>alert(1)</script><p>Hm.";
    let application = Application::serve("default-src 'none'", page);
    let broken = Application::serve("script-src 'unsafe-inline'", "<!doctype html><script>nothing()</script>");
    let browser = Browser::start();
    for scripts in [Scripts::Run, Scripts::Off] {
        let report = browser.profile(scripts).open(&application.redirect_uri());
        assert!(report.csp_violations.iter().any(|one| one["directive"] == "style-src-elem"), "{report:#?}");
        assert!(std::panic::catch_unwind(|| report.expect_clean(&application.origin).url.clone()).is_err());
        report.expect_clean("http://elsewhere");
    }
    let report = browser.profile(Scripts::Run).open(&broken.origin);
    assert!(report.csp_violations.is_empty());
    assert!(std::panic::catch_unwind(|| report.expect_clean(&broken.origin).url.clone()).is_err(), "{report:#?}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = browser.profile(Scripts::Run).open(&format!("http://{nobody}/"));
    assert!(report.failure.is_some_and(|failure| failure.contains("ERR_CONNECTION_REFUSED")));
    let report = browser.profile(Scripts::Run).open("http://an.address.elsewhere.example/");
    assert!(report.failure.is_some_and(|failure| failure.contains("ERR_NAME_NOT_RESOLVED")));
}

fn device(oidc: &Oidc) -> Value {
    let fields = [("client_id", oidc.id_of(ClientKind::Public)), ("scope", "openid offline_access")];
    oidc.post_with("/device/auth", &[], &fields)
}

fn poll(oidc: &Oidc, device: &Value) -> Value {
    let code = device["device_code"].as_str().expect("a device code");
    let fields = [("client_id", oidc.id_of(ClientKind::Public)), ("grant_type", DEVICE), ("device_code", code)];
    oidc.post_with("/token", &[], &fields)
}

#[test]
fn a_person_types_in_the_code_of_a_device() {
    let (oidc, browser) = (Oidc::with_pages(&Pages::default()), Browser::start());
    for scripts in [Scripts::Run, Scripts::Off] {
        let device = device(&oidc);
        assert_eq!(poll(&oidc, &device)["error"], "authorization_pending");
        let uri = device["verification_uri"].as_str().expect("an address");
        let user_code = device["user_code"].as_str().expect("a code");
        let report = browser.profile(scripts).visit(Visit { user_code, ..Visit::new(uri, "anna") });
        assert!(report.text.contains("Sign-in Success"), "{report:#?}");
        expect_active(&oidc, &poll(&oidc, &device));
    }
    let device = device(&oidc);
    let (uri, user_code) = (device["verification_uri"].as_str().unwrap(), device["user_code"].as_str().unwrap());
    let deny = Visit { user_code, answer: Answer::Deny, ..Visit::new(uri, "anna") };
    browser.profile(Scripts::Run).visit(deny);
    assert_eq!(poll(&oidc, &device)["error"], "access_denied");
    assert_eq!((&oidc.seen()["devices"], &oidc.seen()["pending_polls"]), (&2.into(), &2.into()));
}

#[test]
fn the_code_of_a_device_expires() {
    let oidc = Oidc::with_pages(&Pages { device_ttl_s: 1, ..Pages::default() });
    let device = device(&oidc);
    let error = wait_for("the end of the code", END_WITHIN, || {
        let error = poll(&oidc, &device)["error"].clone();
        (error != "authorization_pending").then_some(error)
    });
    assert_eq!(error, "expired_token");
}

#[test]
fn clients_act_for_themselves_and_revoke() {
    let key = ClientKey::generate();
    let oidc = Oidc::with_pages(&Pages { client_jwk: Some(key.jwk()), ..Pages::default() });
    let basic = oidc.basic_of(ClientKind::Machine);
    let authorization = [("authorization", basic.as_str())];
    let token = oidc.post_with("/token", &authorization, &[("grant_type", "client_credentials")]);
    expect_active(&oidc, &token);
    assert!(token.get("refresh_token").is_none());
    assert_eq!(oidc.seen()["client_credentials"], 1);

    let access_token = token["access_token"].as_str().expect("it was active");
    assert!(oidc.post_with("/token/revocation", &authorization, &[("token", access_token)]).is_null());
    assert!(!oidc.is_active(access_token));
}

#[test]
fn a_client_shows_its_key_instead_of_a_secret() {
    let key = ClientKey::generate();
    let oidc = Oidc::with_pages(&Pages { client_jwk: Some(key.jwk()), ..Pages::default() });
    let (browser, application) = (Browser::start(), application());
    let redirect_uri = application.redirect_uri();
    let url = authorize_url(&oidc, ClientKind::Key, &redirect_uri, &[]);
    browser.profile(Scripts::Run).visit(Visit::new(&url, "anna"));
    let code = application.redirects()[0]["code"].clone();
    let exchange = |key: &ClientKey| {
        let assertion = key.sign(&claims(&oidc));
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", &redirect_uri),
            ("client_assertion_type", ASSERTION),
            ("client_assertion", &assertion),
        ];
        oidc.post_with("/token", &[], &fields)
    };
    assert_eq!(exchange(&ClientKey::generate())["error"], "invalid_client");
    expect_active(&oidc, &exchange(&key));
}

fn claims(oidc: &Oidc) -> Value {
    let client = oidc.id_of(ClientKind::Key);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
    json!({"iss": client, "sub": client, "aud": oidc.issuer(), "jti": now.to_string(), "iat": now, "exp": now + 60})
}
