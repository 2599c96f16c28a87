//! Sign-ins of every flow at a certified server, through a real browser: what comes of each is kept fresh, and whatever
//! goes wrong ends with one clear sentence and leaves the grant in hand as it was.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokenkeep_tests::browser::{Answer, Browser, Profile, Scripts, Visit};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::oidc::{ClientKey, ClientKind, Oidc, Pages, Read};
use tokenkeep_tests::process::{Running, wait_for};
use tokenkeep_tests::sign_in::{
    NAME, OPEN, SignIn, TELLS_WITHIN, altered, expect_page, expect_told, line_after, origin, parameter, told,
};
use url::Url;

const ACCESS_TTL_S: u32 = 10;
/// Three lives of an access token.
const KEPT_FRESH_FOR: Duration = Duration::from_secs(3 * ACCESS_TTL_S as u64);
/// A token of ten seconds is renewed after four and a half of them at the latest.
const RENEWALS_MIN: u64 = 4;
const READ_EVERY: Duration = Duration::from_millis(100);
const INTROSPECT_EVERY: usize = 3;
const SCOPES: &str = "openid offline_access";

/// A certified server, its person's browser, and the daemon between them.
struct World {
    daemon: Daemon,
    installation: Installation,
    browser: Browser,
    oidc: Oidc,
}

fn pages() -> Pages {
    Pages { access_ttl_s: ACCESS_TTL_S, ..Pages::default() }
}

/// The section of a provider, as one of its clients.
fn section(name: &str, oidc: &Oidc, kind: ClientKind) -> String {
    let secret = "client_secret = { file = \"secret\" }";
    let client = match kind {
        ClientKind::Confidential | ClientKind::Machine => format!("client_auth = \"client_secret_basic\"\n{secret}"),
        ClientKind::Web => format!("client_auth = \"client_secret_post\"\n{secret}"),
        ClientKind::Public => "client_auth = \"none\"".to_owned(),
        ClientKind::Key => "client_auth = \"private_key_jwt\"\nclient_key = { file = \"client.pem\" }".to_owned(),
    };
    let (issuer, id) = (oidc.issuer(), oidc.id_of(kind));
    format!("[providers.{name}]\nissuer = \"{issuer}\"\nclient_id = \"{id}\"\n{client}\nrotation = \"strict\"\n")
}

fn installation(oidc: &Oidc, config: &str) -> Installation {
    let installation = Installation::new(config);
    fs::write(installation.path("secret"), oidc.client_secret()).expect("the folder is ours");
    installation
}

impl World {
    fn new(kind: ClientKind) -> Self {
        Self::with(kind, &pages())
    }

    fn with(kind: ClientKind, pages: &Pages) -> Self {
        let oidc = Oidc::with_pages(pages);
        let installation = installation(&oidc, &section("op", &oidc, kind));
        Self { daemon: installation.start(), installation, browser: Browser::start(), oidc }
    }

    /// At an address of its own, to which the provider sends browsers back.
    fn with_callback() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let public_url = format!("http://localhost:{port}");
        let oidc = Oidc::with_pages(&Pages { web_redirect: Some(format!("{public_url}/oauth/callback")), ..pages() });
        let server = format!("[server]\npublic_url = \"{public_url}\"\n");
        let installation = installation(&oidc, &(server + &section("op", &oidc, ClientKind::Web)));
        let daemon = installation.start_at(&format!("127.0.0.1:{port}"));
        Self { daemon, installation, browser: Browser::start(), oidc }
    }

    /// The person `anna` connects [`NAME`] through the terminal.
    #[track_caller]
    fn connect(&self) -> Value {
        let sign_in = at_terminal(&self.installation, "op", &[]);
        self.browser.profile(Scripts::Run).visit(Visit::new(&sign_in.url, "anna"));
        sign_in.expect_connected();
        self.grant()
    }

    #[track_caller]
    fn token(&self) -> String {
        let answer = self.daemon.ask(Request::get(&format!("/v1/connections/{NAME}/token")));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["access_token"].as_str().expect("an access token").to_owned()
    }

    /// What must not change when a sign-in fails: whose the grant is, and when it was made.
    #[track_caller]
    fn grant(&self) -> Value {
        let connected = self.history().iter().filter(|event| event["type"] == "connection.connected").count();
        json!({"account": account_of(&self.oidc, &self.token()), "connected": connected})
    }

    /// The events of [`NAME`]. Without their times: these are counted in steady time, and may be shown as another
    /// millisecond of wall time the next time.
    #[track_caller]
    fn history(&self) -> Vec<Value> {
        let events = self.installation.run(&["events", NAME, "--json"]).expect_code(0).stdout;
        let read = |line| {
            let mut event: Value = serde_json::from_str(line).expect("a line of JSON");
            event.as_object_mut().and_then(|event| event.remove("at")).expect("an event has a time");
            event
        };
        events.lines().map(read).collect()
    }

    /// Panics unless the grant is the one of before, its token is good, and it can be renewed.
    #[track_caller]
    fn expect_intact(&self, before: &Value) {
        assert_eq!(&self.grant(), before);
        assert!(self.oidc.is_active(&self.token()));
        self.installation.run(&["refresh", NAME, "--force"]).expect_code(0);
        assert!(self.oidc.is_active(&self.token()));
        self.expect_no_misuse();
    }

    /// Panics where the server saw a refresh token or a code twice, or had to refuse anything else.
    #[track_caller]
    fn expect_no_misuse(&self) {
        let seen = self.oidc.seen();
        assert_eq!((&seen["reuses"], &seen["revoked_grants"]), (&0.into(), &0.into()), "{seen}");
        assert_eq!(seen["errors"], json!({}), "{seen}");
    }

    /// Reads the token all the time, for three of its lives: it is never one that the server does not take.
    #[track_caller]
    fn expect_kept_fresh(&self) {
        let (started, mut read, mut nth) = (Instant::now(), Read::default(), 0);
        while started.elapsed() < KEPT_FRESH_FOR {
            let introspect = usize::is_multiple_of(nth, INTROSPECT_EVERY);
            read.one(&self.daemon, NAME, introspect.then_some(&self.oidc));
            nth += 1;
            // Not a wait for something: this is the reader's pace.
            thread::sleep((READ_EVERY * nth as u32).saturating_sub(started.elapsed()));
        }
        let connection = self.installation.connection(NAME);
        println!("{read:?}, at the server {}, {}", self.oidc.seen(), connection["stats"]);
        read.expect_good();
        assert!(connection["stats"]["succeeded"].as_u64() >= Some(RENEWALS_MIN), "{connection}");
        assert_eq!(connection["stats"]["failed"], 0, "{connection}");
        self.expect_no_misuse();
    }

    /// Begins a sign-in by the API, in a browser.
    #[track_caller]
    fn begin(&self) -> Value {
        let body = json!({
            "name": NAME, "provider": "op", "flow": "code", "scopes": ["openid", "offline_access"],
            "params": {"prompt": "consent"},
        });
        let headers = [("content-type", "application/json")];
        let answer = self.daemon.ask(Request::post("/v1/connect", &headers, &body.to_string()));
        assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
        answer.json()
    }

    /// How a sign-in stands.
    #[track_caller]
    fn standing(&self, begun: &Value) -> Value {
        let id = begun["id"].as_str().expect("an id");
        let answer = self.daemon.ask(Request::get(&format!("/v1/connect/{id}")));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let standing = answer.json();
        assert_eq!((&standing["id"], &standing["name"]), (&id.into(), &NAME.into()));
        standing
    }

    /// Where the daemon is for browsers.
    fn public_url(begun: &Value) -> String {
        origin(begun["url"].as_str().expect("an address"))
    }

    /// Has `anna` sign in, and keeps the redirect.
    #[track_caller]
    fn hold(&self, profile: &Profile<'_>, begun: &Value) -> String {
        let callback = format!("{}/oauth/callback", Self::public_url(begun));
        profile.hold_redirect(begun["url"].as_str().expect("an address"), "anna", &callback)
    }
}

/// Whose account a token is for, by the server's own word.
#[track_caller]
fn account_of(oidc: &Oidc, access_token: &str) -> Value {
    let bearer = format!("Bearer {access_token}");
    let request = Request { headers: &[("authorization", &bearer)], ..Request::get("/me") };
    request.at_address(oidc.address()).expect("oidc-provider answers").json()["sub"].clone()
}

/// Begins at the terminal, with `more` arguments.
#[track_caller]
fn at_terminal(installation: &Installation, provider: &str, more: &[&str]) -> SignIn {
    SignIn::begin(installation, &[&asked(provider)[..], more].concat())
}

/// Begins at a device.
#[track_caller]
fn at_device(installation: &Installation) -> Running {
    installation.spawn(&[&["connect", NAME, "--device"], &asked("op")[..]].concat())
}

fn asked(provider: &str) -> [&str; 6] {
    ["--provider", provider, "--scopes", SCOPES, "--param", "prompt=consent"]
}

/// The query of one redirect at the address of another sign-in.
fn brought_to(redirect: &str, redirect_uri: &str) -> String {
    let mut url = Url::parse(redirect_uri).expect("a URL");
    url.set_query(Url::parse(redirect).expect("a URL").query());
    url.into()
}

#[test]
fn code_with_pkce_through_a_terminal_is_kept_fresh() {
    let world = World::new(ClientKind::Public);
    let sign_in = at_terminal(&world.installation, "op", &[]);
    assert_eq!(
        (sign_in.parameter("code_challenge_method").as_str(), sign_in.parameter("scope").as_str()),
        ("S256", SCOPES)
    );
    let redirect_uri = Url::parse(&sign_in.redirect_uri()).expect("a URL");
    assert_eq!((redirect_uri.host_str(), redirect_uri.path()), (Some("127.0.0.1"), "/callback"));

    let report = world.browser.profile(Scripts::Run).visit(Visit::new(&sign_in.url, "anna"));
    report.expect_clean(&redirect_uri.origin().ascii_serialization());
    assert_eq!(report.status, Some(200), "{report:#?}");
    assert!(report.text.contains(NAME) && report.title.contains("Connected"), "{report:#?}");
    let ran = sign_in.expect_connected();
    assert_eq!(ran.stdout, "");
    for secret in [parameter(&report.url, "code"), world.token()] {
        assert!(!(ran.stderr.clone() + &world.daemon.stderr()).contains(&secret));
    }
    assert_eq!(account_of(&world.oidc, &world.token()), "anna");
    world.expect_kept_fresh();
}

#[test]
fn code_with_a_secret_a_hint_and_no_scripts_ends_with_the_connection_as_json() {
    let world = World::new(ClientKind::Confidential);
    let sign_in = at_terminal(&world.installation, "op", &["--json", "--login-hint", "ben", "--label", "team=a"]);
    let report = world.browser.profile(Scripts::Off).visit(Visit::new(&sign_in.url, ""));
    assert!(report.text.contains(NAME), "{report:#?}");
    let connection = sign_in.expect_connected().json();
    assert_eq!((&connection["name"], &connection["provider"]), (&NAME.into(), &"op".into()));
    assert_eq!(connection["labels"], json!({"team": "a"}));
    assert_eq!(account_of(&world.oidc, &world.token()), "ben");
}

#[test]
fn the_terminal_starts_a_browser() {
    let world = World::new(ClientKind::Public);
    let (folder, opened) = (world.installation.path("bin"), world.installation.path("opened"));
    fs::create_dir(&folder).expect("the folder is ours");
    let opener = folder.join("xdg-open");
    fs::write(&opener, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{}'\n", opened.display())).expect("it is ours");
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").expect("a PATH"));

    let mut process =
        world.installation.spawn_with(&[&["connect", NAME], &asked("op")[..]].concat(), &[("PATH", &path)]);
    let url = line_after(&mut process, OPEN);
    let asked =
        wait_for("the opener", TELLS_WITHIN, || fs::read_to_string(&opened).ok().filter(|text| !text.is_empty()));
    assert_eq!(asked, format!("{url}\n"));
    world.browser.profile(Scripts::Run).visit(Visit::new(&url, "anna"));
    SignIn { process, url }.expect_connected();
}

#[test]
fn code_through_the_daemon_s_own_callback_is_kept_fresh() {
    let world = World::with_callback();
    let begun = world.begin();
    let origin = World::public_url(&begun);
    let url = begun["url"].as_str().expect("an address");
    assert!(url.starts_with(&format!("{origin}/oauth/start/")) && origin.starts_with("http://localhost:"), "{begun}");
    assert_eq!((&begun["flow"], &world.standing(&begun)["status"]), (&"code".into(), &"waiting".into()));

    let profile = world.browser.profile(Scripts::Off);
    let report = profile.visit(Visit { answer: Answer::Leave, ..Visit::new(url, "anna") });
    let cookie = report.cookies.iter().find(|cookie| cookie["domain"] == "localhost").expect("the sign-in's cookie");
    // Lax: the provider's redirect must bring it along.
    assert_eq!((&cookie["httpOnly"], &cookie["sameSite"]), (&true.into(), &"Lax".into()));
    // A link works once.
    let again = world.browser.profile(Scripts::Off).open(url);
    assert!(again.url.starts_with(&origin) && again.status.is_some_and(|status| status >= 400), "{again:#?}");

    let begun = world.begin();
    let report = world.browser.profile(Scripts::Off).visit(Visit::new(begun["url"].as_str().expect("a URL"), "anna"));
    report.expect_clean(&origin);
    assert_eq!(report.status, Some(200), "{report:#?}");
    assert!(report.url.starts_with(&format!("{origin}/oauth/callback")) && report.text.contains(NAME), "{report:#?}");
    let standing = world.standing(&begun);
    assert_eq!((&standing["status"], &standing["connection"]["name"]), (&"connected".into(), &NAME.into()));
    world.expect_kept_fresh();
}

/// Where the code of a device is typed in, and the code.
fn device_told(process: &mut Running, oidc: &Oidc) -> (String, String) {
    let uri = format!("{}/device", oidc.issuer());
    let after = line_after(process, &uri);
    // oidc-provider's codes are two groups of four letters.
    let is_code = |word: &&str| word.len() == 9 && word.as_bytes()[4] == b'-';
    let code = after.split_whitespace().find(is_code).unwrap_or_else(|| panic!("no code: {}", process.stderr()));
    (uri, code.to_owned())
}

#[test]
fn a_device_s_sign_in_is_kept_fresh() {
    let world = World::new(ClientKind::Public);
    let mut process = at_device(&world.installation);
    let (url, user_code) = device_told(&mut process, &world.oidc);
    let report = world.browser.profile(Scripts::Run).visit(Visit { user_code: &user_code, ..Visit::new(&url, "anna") });
    assert!(report.text.contains("Sign-in Success"), "{report:#?}");
    SignIn { process, url }.expect_connected();
    assert_eq!(account_of(&world.oidc, &world.token()), "anna");
    world.expect_kept_fresh();
}

#[test]
fn a_client_s_own_token_is_kept_fresh() {
    let world = World::new(ClientKind::Machine);
    let ran = world.installation.run(&["connect", NAME, "--provider", "op", "--client"]).expect_code(0);
    assert!(ran.stderr.lines().any(|line| line == format!("connected {NAME}")), "{ran:?}");
    world.expect_kept_fresh();
    let seen = world.oidc.seen();
    assert!(seen["client_credentials"].as_u64() > Some(RENEWALS_MIN) && seen["refreshes"] == 0, "{seen}");
}

#[test]
fn a_client_that_may_not_act_for_itself_ends_with_a_sentence() {
    let world = World::new(ClientKind::Public);
    let ran = world.installation.run(&["connect", NAME, "--provider", "op", "--client"]);
    assert!(!ran.stderr.contains("connected"), "{ran:?}");
    expect_told(ran, "");
    assert!(world.installation.connections().is_empty(), "something half done stays");
}

#[test]
fn a_client_with_a_key_is_kept_fresh() {
    let key = ClientKey::generate();
    let oidc = Oidc::with_pages(&Pages { client_jwk: Some(key.jwk()), ..pages() });
    let installation = installation(&oidc, &section("op", &oidc, ClientKind::Key));
    fs::write(installation.path("client.pem"), key.pem()).expect("the folder is ours");
    fs::set_permissions(installation.path("client.pem"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let world = World { daemon: installation.start(), installation, browser: Browser::start(), oidc };
    world.connect();
    world.expect_kept_fresh();
}

#[test]
fn a_removed_grant_is_revoked_where_that_is_asked() {
    let world = World::new(ClientKind::Confidential);
    let mut tokens = Vec::new();
    for arguments in [&["remove", NAME, "--yes"][..], &["remove", NAME, "--revoke", "--yes"]] {
        world.connect();
        tokens.push(world.token());
        assert!(world.oidc.is_active(&tokens[tokens.len() - 1]));
        world.installation.run(arguments).expect_code(0);
        world.installation.run(&["token", NAME]).expect_code(3);
    }
    assert_eq!((world.oidc.is_active(&tokens[0]), world.oidc.is_active(&tokens[1])), (true, false));
}

#[test]
fn reconnecting_keeps_name_and_history_and_refuses_another_account() {
    let world = World::new(ClientKind::Public);
    world.connect();
    world.installation.run(&["refresh", NAME, "--force"]).expect_code(0);
    let (history, generation) = (world.history(), world.installation.connection(NAME)["generation"].as_u64());

    let again = world.connect();
    assert_eq!((&again["account"], &again["connected"]), (&"anna".into(), &2.into()));
    let now = world.history();
    assert!(history.len() >= 2 && now.starts_with(&history), "before: {history:#?}\nnow: {now:#?}");
    assert_eq!(world.installation.connections().len(), 1);
    assert!(world.installation.connection(NAME)["generation"].as_u64() > generation);

    let sign_in = at_terminal(&world.installation, "op", &[]);
    let origin = sign_in.origin();
    let report = world.browser.profile(Scripts::Run).visit(Visit::new(&sign_in.url, "ben"));
    expect_page(&report, &origin, "anna");
    expect_told(sign_in.end(), "`ben`");
    world.expect_intact(&again);
}

#[test]
fn connections_that_share_one_grant_are_named() {
    let oidc = Oidc::with_pages(&pages());
    let sections: String =
        ["op", "op2"].map(|name| section(name, &oidc, ClientKind::Public) + "one_grant = true\n").concat();
    let installation = installation(&oidc, &sections);
    let world = World { daemon: installation.start(), installation, browser: Browser::start(), oidc };
    world.connect();
    let alone = world.installation.run(&["status", NAME]).expect_code(0);
    assert!(!alone.stdout.contains("one grant"), "{}", alone.stdout);

    let sign_in = SignIn::of(&world.installation, "wiki", &asked("op2"));
    world.browser.profile(Scripts::Run).visit(Visit::new(&sign_in.url, "anna"));
    let ran = sign_in.end().expect_code(0);
    assert!(ran.stderr.contains(&format!("it is one grant at op2 with {NAME}")), "{}", ran.stderr);
    let shared = world.installation.run(&["status", NAME]).expect_code(0);
    assert!(shared.stdout.contains("one grant with      wiki\n"), "{}", shared.stdout);
}

#[test]
fn denied_consent_ends_with_a_sentence() {
    let world = World::new(ClientKind::Public);
    let before = world.connect();
    let sign_in = at_terminal(&world.installation, "op", &[]);
    let origin = sign_in.origin();
    let deny = Visit { answer: Answer::Deny, ..Visit::new(&sign_in.url, "anna") };
    expect_page(&world.browser.profile(Scripts::Off).visit(deny), &origin, told::DENIED);
    expect_told(sign_in.end(), told::DENIED);

    let mut process = at_device(&world.installation);
    let (url, user_code) = device_told(&mut process, &world.oidc);
    let deny = Visit { user_code: &user_code, answer: Answer::Deny, ..Visit::new(&url, "anna") };
    world.browser.profile(Scripts::Run).visit(deny);
    expect_told(SignIn { process, url }.end(), told::DENIED);
    // The server counts the poll that learned of the denial among its refusals, and nothing else.
    let seen = world.oidc.seen();
    let refusals: Vec<_> = seen["errors"].as_object().expect("counts").values().collect();
    assert_eq!(refusals, [1], "{seen}");
    assert_eq!(world.grant(), before);
    world.installation.run(&["refresh", NAME, "--force"]).expect_code(0);
}

#[test]
fn denied_consent_shows_at_the_daemon_s_callback_too() {
    let world = World::with_callback();
    let begun = world.begin();
    let deny = Visit { answer: Answer::Deny, ..Visit::new(begun["url"].as_str().expect("a URL"), "anna") };
    let report = world.browser.profile(Scripts::Off).visit(deny);
    expect_page(&report, &World::public_url(&begun), told::DENIED);
    let standing = world.standing(&begun);
    assert_eq!(standing["status"], "failed");
    assert!(standing["message"].as_str().is_some_and(|message| message.contains(told::DENIED)), "{standing}");
    assert!(standing["code"].is_string() && standing["next_action"].is_string(), "{standing}");
    assert!(world.installation.connections().is_empty());
}

#[test]
fn a_forged_state_ends_with_a_sentence() {
    let world = World::new(ClientKind::Public);
    let before = world.connect();
    for forged in [Some("0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"), None] {
        let profile = world.browser.profile(Scripts::Run);
        let sign_in = at_terminal(&world.installation, "op", &[]);
        let redirect = altered(&sign_in.hold(&profile), &[("state", forged)]);
        sign_in.expect_refused(&profile, &redirect, told::UNKNOWN);
    }
    assert_eq!(world.oidc.seen()["codes"], 1, "a code was sent");
    world.expect_intact(&before);
}

#[test]
fn a_wrong_issuer_ends_with_a_sentence() {
    let world = World::new(ClientKind::Public);
    let before = world.connect();
    // The server says that it always names itself, so a redirect that names nobody is not its own.
    for forged in [Some("https://evil.example"), None] {
        let profile = world.browser.profile(Scripts::Run);
        let sign_in = at_terminal(&world.installation, "op", &[]);
        let redirect = altered(&sign_in.hold(&profile), &[("iss", forged)]);
        sign_in.expect_refused(&profile, &redirect, told::OTHER_ISSUER);
    }
    assert_eq!(world.oidc.seen()["codes"], 1, "a code was sent");
    world.expect_intact(&before);
}

#[test]
fn a_redirect_of_another_provider_ends_with_a_sentence() {
    let (other, oidc) = (Oidc::with_pages(&pages()), Oidc::with_pages(&pages()));
    let sections = [section("op", &oidc, ClientKind::Public), section("other", &other, ClientKind::Public)];
    let installation = installation(&oidc, &sections.concat());
    let world = World { daemon: installation.start(), installation, browser: Browser::start(), oidc };
    let before = world.connect();

    // The person is made to sign in at the other provider, and its redirect is brought to the sign-in at ours: as it
    // is, and with our state, as the one who mixes them up would know it.
    for knows_state in [false, true] {
        let profile = world.browser.profile(Scripts::Run);
        let decoy = at_terminal(&world.installation, "other", &[]);
        let redirect = decoy.hold(&profile);
        let sign_in = at_terminal(&world.installation, "op", &[]);
        let brought = brought_to(&redirect, &sign_in.redirect_uri());
        let state = sign_in.parameter("state");
        if knows_state {
            sign_in.expect_refused(&profile, &altered(&brought, &[("state", Some(&state))]), told::OTHER_ISSUER);
        } else {
            let origin = origin(&brought);
            let report = profile.open(&brought);
            report.expect_clean(&origin);
            assert!(report.status.is_some_and(|status| (400..500).contains(&status)), "{report:#?}");
            // Which of the sentences it is depends on whether the other sign-in is still known.
            expect_told(sign_in.end(), "");
        }
    }
    assert_eq!((&world.oidc.seen()["codes"], &other.seen()["codes"]), (&1.into(), &0.into()), "a code was sent");
    assert_eq!(other.seen()["errors"], json!({}));
    world.expect_intact(&before);
}

#[test]
fn a_redirect_that_comes_twice_ends_with_a_sentence() {
    let world = World::with_callback();
    let (begun, profile) = (world.begin(), world.browser.profile(Scripts::Run));
    let origin = World::public_url(&begun);
    let redirect = world.hold(&profile, &begun);
    assert_eq!(profile.open(&redirect).status, Some(200));
    let before = world.grant();
    expect_page(&profile.open(&redirect), &origin, told::UNKNOWN);
    assert_eq!(world.standing(&begun)["status"], "connected");
    // A code that came twice would have made the server end the grant.
    world.expect_intact(&before);
}

#[test]
fn a_code_that_was_exchanged_ends_the_next_sign_in_with_a_sentence() {
    let world = World::new(ClientKind::Public);
    let (profile, first) = (world.browser.profile(Scripts::Run), at_terminal(&world.installation, "op", &[]));
    let redirect = first.hold(&profile);
    profile.open(&redirect);
    first.expect_connected();
    let before = world.grant();

    let second = at_terminal(&world.installation, "op", &[]);
    let state = second.parameter("state");
    let replayed = altered(&brought_to(&redirect, &second.redirect_uri()), &[("state", Some(&state))]);
    second.expect_refused(&profile, &replayed, told::UNKNOWN);
    assert_eq!(world.oidc.seen()["codes"], 1, "it was sent again");
    // Else the server would have ended the grant.
    world.expect_intact(&before);
}

#[test]
fn a_code_of_another_sign_in_ends_with_a_sentence() {
    let world = World::with_callback();
    let profile = world.browser.profile(Scripts::Run);
    profile.open(&world.hold(&profile, &world.begin()));
    let before = world.grant();

    // Somebody else's code, brought to our sign-in: nothing but PKCE can tell.
    let code = parameter(&world.hold(&world.browser.profile(Scripts::Run), &world.begin()), "code");
    let begun = world.begin();
    let redirect = world.hold(&profile, &begun);
    let report = profile.open(&altered(&redirect, &[("code", Some(&code))]));
    report.expect_clean(&World::public_url(&begun));
    assert!(report.status.is_some_and(|status| status >= 400), "{report:#?}");
    let standing = world.standing(&begun);
    assert_eq!(standing["status"], "failed");
    let message = standing["message"].as_str().expect("a sentence");
    let seen = world.oidc.seen();
    assert_eq!((&seen["codes"], seen["errors"].as_object().map(serde_json::Map::len)), (&1.into(), Some(1)), "{seen}");
    assert_eq!(world.grant(), before);
    world.installation.run(&["refresh", NAME, "--force"]).expect_code(0);
    assert!(world.oidc.is_active(&world.token()));
    // What the provider refused is a code: the refresh token in hand is as good as before.
    assert!(!message.contains("refresh token"), "{message}");
    assert!(report.text.to_lowercase().contains(&message.to_lowercase()), "{report:#?}");
}

#[test]
fn a_redirect_in_another_browser_ends_with_a_sentence() {
    let world = World::with_callback();
    let profile = world.browser.profile(Scripts::Run);
    let connected = world.hold(&profile, &world.begin());
    profile.open(&connected);
    let before = world.grant();

    let begun = world.begin();
    let redirect = world.hold(&profile, &begun);
    let victim = world.browser.profile(Scripts::Run);
    let report = victim.open(&redirect);
    report.expect_clean(&World::public_url(&begun));
    assert!(report.text.contains(told::OTHER_BROWSER) && report.status.is_some_and(|s| s >= 400), "{report:#?}");
    assert_eq!(world.oidc.seen()["codes"], 1, "a code was sent");
    world.expect_intact(&before);
}

#[test]
fn an_expired_device_code_ends_with_a_sentence() {
    let world = World::with(ClientKind::Public, &Pages { device_ttl_s: 6, ..pages() });
    let before = world.connect();
    let mut process = at_device(&world.installation);
    let (url, _) = device_told(&mut process, &world.oidc);
    expect_told(SignIn { process, url }.end(), told::EXPIRED);
    assert_eq!(world.grant(), before);
    world.installation.run(&["refresh", NAME, "--force"]).expect_code(0);
}

#[test]
fn a_closed_browser_leaves_all_as_it_was() {
    let world = World::new(ClientKind::Public);
    let before = world.connect();
    let mut sign_in = at_terminal(&world.installation, "op", &[]);
    let profile = world.browser.profile(Scripts::Run);
    profile.visit(Visit { answer: Answer::Leave, ..Visit::new(&sign_in.url, "anna") });
    profile.close();
    // Nobody comes back: the terminal waits until its person ends it (or ten minutes are over).
    assert!(sign_in.process.ended().is_none(), "{}", sign_in.process.stderr());
    world.expect_intact(&before);
    sign_in.process.signal(Signal::INT);
    expect_told(sign_in.end(), told::GIVEN_UP);
    world.expect_intact(&before);
    let mut process = at_device(&world.installation);
    let (url, _) = device_told(&mut process, &world.oidc);
    process.signal(Signal::INT);
    // The daemon goes on asking.
    expect_told(SignIn { process, url }.end(), told::WAITS_NO_LONGER);
    assert_eq!(world.grant(), before);
    assert_eq!(world.connect()["connected"], 2);
}
