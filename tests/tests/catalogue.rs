//! Every row of the catalogue against a strict server of that provider's dialect: signed in by browser and by device,
//! refreshed, guarded against another account, revoked, and told apart from dead. The servers' table is written by hand and shares nothing with the
//! catalogue, so that a mistake in one of them is seen here.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenkeep_core::catalogue::{PRESETS, Revocation};
use tokenkeep_mock::{AnswerStyle, DeathCause, KNOWN, Known, ProviderConfig, RevocationStyle, Rotation};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock::{CLIENT_ID, Mock};
use tokenkeep_tests::process::wait_for;
use url::Url;

/// All rows together.
const WITHIN: Duration = Duration::from_secs(90);
/// One device's sign-in: the provider is asked every second.
const DEVICE_WITHIN: Duration = Duration::from_secs(60);
const SCOPES: [&str; 2] = ["one", "two"];
const OWNER: &str = "ada";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// One row, its server, and the daemon that is asked.
struct Row<'a> {
    known: &'a Known,
    mock: &'a Mock,
    daemon: &'a Daemon,
}

#[test]
fn every_row_makes_its_round_trip() {
    let known: BTreeSet<&str> = KNOWN.iter().map(|known| known.id).collect();
    assert_eq!(known, PRESETS.iter().map(|preset| preset.id).collect());
    // A seed each: equal codes of two servers would be one code that is brought twice.
    let server =
        |(seed, known): (u64, &Known)| Mock::of(ProviderConfig { seed, device_interval_s: 1, ..known.config() });
    let mocks: Vec<Mock> = (0..).zip(&KNOWN).map(server).collect();
    let config: String = KNOWN.iter().zip(&mocks).map(|(known, mock)| section(known, mock)).collect();
    let installation = Installation::new(&config);
    let daemon = installation.start();

    let started = Instant::now();
    let failed: Vec<&str> = thread::scope(|scope| {
        let rows = KNOWN.iter().zip(&mocks).map(|(known, mock)| Row { known, mock, daemon: &daemon });
        let running: Vec<_> = rows.map(|row| (row.known.id, scope.spawn(move || row.round_trip()))).collect();
        // A panic is told by its own thread, which names the row's answers.
        running.into_iter().filter_map(|(id, row)| row.join().is_err().then_some(id)).collect()
    });
    assert!(failed.is_empty(), "these rows failed: {failed:?}");
    assert!(started.elapsed() < WITHIN, "{:?}", started.elapsed());
}

#[test]
fn what_a_row_knows_of_revocation_and_devices_its_server_has() {
    for preset in &PRESETS {
        let known = KNOWN.iter().find(|known| known.id == preset.id).expect("each row has its server");
        let style = match preset.revocation {
            Revocation::None => None,
            Revocation::Standard(_) => Some(RevocationStyle::Standard),
            Revocation::GitHub(_) => Some(RevocationStyle::GitHub),
            Revocation::AccessToken(url) => {
                let same = |style: &RevocationStyle| url.ends_with(&style.path(CLIENT_ID));
                [RevocationStyle::Slack, RevocationStyle::Dropbox].into_iter().find(same)
            }
        };
        assert_eq!(style, known.revocation, "{}", preset.id);
        assert_eq!(preset.device_url.is_some(), known.device.is_some(), "{}", preset.id);
    }
}

/// The addresses are the server's, everything else the preset's.
fn section(known: &Known, mock: &Mock) -> String {
    let (id, at) = (known.id, mock.address());
    let identity =
        if known.identity.is_empty() { String::new() } else { format!("identity_url = \"http://{at}/userinfo\"\n") };
    let line = |key: &str, path: &str| format!("{key} = \"http://{at}{path}\"\n");
    let revoke = known.revocation.map(|style| line("revoke_url", &style.path(CLIENT_ID))).unwrap_or_default();
    let device = known.device.map(|_| line("device_url", "/device_authorization")).unwrap_or_default();
    format!(
        "[providers.{id}]\npreset = \"{id}\"\ntoken_url = \"http://{at}/token\"\n\
         authorize_url = \"http://{at}/authorize\"\nclient_id = \"{CLIENT_ID}\"\n\
         client_secret = {{ file = \"secret\" }}\n{identity}{revoke}{device}"
    )
}

impl Row<'_> {
    fn round_trip(&self) {
        let id = self.known.id;
        assert_eq!(self.sign_in(id, OWNER), "connected", "{id}");
        self.expect_scopes();
        let first = self.token();
        self.refresh();
        assert_ne!(self.token(), first, "{id}");
        self.refresh();
        self.expect_rotated();
        if !self.known.identity.is_empty() {
            assert_eq!(self.sign_in(id, "ben"), "failed", "{id} let another account take the connection over");
            assert_eq!(self.sign_in(id, OWNER), "connected", "{id}: the same account comes back");
        }
        if self.known.device.is_some() {
            self.expect_device();
        }
        if self.known.revocation.is_some() {
            self.expect_revoked();
        }
        self.expect_dead();
    }

    fn ask(&self, request: Request<'_>) -> Answer {
        let answer = self.daemon.ask(request);
        assert!((200..300).contains(&answer.status), "{} {}: {}", self.known.id, request.path, answer.body);
        answer
    }

    /// Signs this owner in, and tells how the sign-in ended.
    fn sign_in(&self, name: &str, owner: &str) -> String {
        let body = json!({
            "name": name, "provider": self.known.id, "scopes": SCOPES, "login_hint": owner,
            "redirect_uri": "http://127.0.0.1:9/callback",
        });
        let begun = self.ask(Request::post("/v1/connect", &JSON, &body.to_string())).json();
        let url = begun["url"].as_str().expect("an address");
        match begun["proof"].as_str() {
            Some(proof) => self.finish(&self.allowed(url), proof),
            None => self.follow(url),
        }
        let standing = self.standing(&begun);
        println!("{name} as {owner}: {} {}", standing["status"], standing["message"]);
        standing["status"].as_str().expect("a status").to_owned()
    }

    /// How the sign-in that was begun stands.
    fn standing(&self, begun: &Value) -> Value {
        self.ask(Request::get(&format!("/v1/connect/{}", begun["id"].as_str().expect("an id")))).json()
    }

    /// The redirect of an authorization that its owner allows.
    fn allowed(&self, url: &str) -> String {
        let location = location(&get(&format!("{url}&auto=allow"), &[]));
        assert!(location.contains("code="), "{}: {location}", self.known.id);
        location
    }

    /// As a program that takes the redirect itself. A refusal is told by the sign-in.
    fn finish(&self, redirect: &str, proof: &str) {
        let query = Url::parse(redirect).expect("a URL").query().expect("a query").to_owned();
        let body = json!({"query": query, "proof": proof}).to_string();
        self.daemon.ask(Request::post("/v1/connect/finish", &JSON, &body));
    }

    /// As a browser, which brings the cookie of the daemon's link to the daemon's callback.
    fn follow(&self, link: &str) {
        let started = get(link, &[]);
        let cookie = header(&started, "set-cookie");
        let cookie = cookie.split(';').next().expect("a cookie");
        get(&self.allowed(&location(&started)), &[("cookie", cookie)]);
    }

    fn connection(&self) -> Value {
        self.connection_of(self.known.id)
    }

    fn connection_of(&self, name: &str) -> Value {
        self.ask(Request::get(&format!("/v1/connections/{name}"))).json()
    }

    fn token(&self) -> String {
        let token = self.ask(Request::get(&format!("/v1/connections/{}/token", self.known.id))).json();
        token["access_token"].as_str().expect("an access token").to_owned()
    }

    fn refresh(&self) -> Value {
        self.refresh_of(self.known.id)
    }

    fn refresh_of(&self, name: &str) -> Value {
        let path = format!("/v1/connections/{name}/refresh");
        self.ask(Request::post(&path, &JSON, r#"{"force": true}"#)).json()
    }

    /// GitHub names no scopes; every other row's are read whatever stands between them.
    fn expect_scopes(&self) {
        if self.known.answers == AnswerStyle::GitHub {
            return;
        }
        let scopes = self.connection()["scopes"].clone();
        let scopes = scopes.as_array().expect("an array");
        assert!(SCOPES.iter().all(|scope| scopes.contains(&json!(scope))), "{}: {scopes:?}", self.known.id);
    }

    /// Both refreshes came, once each, and nothing was used twice.
    fn expect_rotated(&self) {
        let (ledger, totals) = (self.mock.ledger(OWNER), self.mock.totals());
        assert_eq!((ledger.requests, ledger.refreshes), (2, 2), "{}: {ledger:?}", self.known.id);
        assert_eq!((totals.reuses, totals.grace_reuses, totals.client_refusals), (0, 0, 0), "{}", self.known.id);
        assert_eq!(self.connection()["stats"]["succeeded"], 2, "{}", self.known.id);
    }

    /// A device is told to wait, then its person allows; what it gets is a connection like any other.
    fn expect_device(&self) {
        let name = format!("{}-device", self.known.id);
        let body = json!({"name": name, "provider": self.known.id, "scopes": SCOPES, "flow": "device"});
        let begun = self.ask(Request::post("/v1/connect", &JSON, &body.to_string())).json();
        let code = begun["user_code"].as_str().expect("a code to type in");
        wait_for("the device's first question", DEVICE_WITHIN, || {
            let state = self.mock.state();
            let now_ms = state.now_ms();
            state.with_provider(|provider| provider.device_has_asked(now_ms, code)).then_some(())
        });
        assert_eq!(self.standing(&begun)["status"], "waiting", "{name}");
        let page = begun["verification_uri"].as_str().expect("an address");
        get(&format!("{page}?user_code={code}&auto=allow"), &[]);
        let ended = wait_for("the device's sign-in", DEVICE_WITHIN, || {
            let standing = self.standing(&begun);
            (standing["status"] != "waiting").then_some(standing)
        });
        println!("{name}: {} {}", ended["status"], ended["message"]);
        assert_eq!(ended["status"], "connected", "{name}: {ended}");
        let renewed = self.refresh_of(&name);
        assert_eq!((&renewed["status"], &renewed["generation"]), (&json!("fresh"), &json!(2)), "{name}: {renewed}");
    }

    /// Removing a connection of its own ends its grant at the provider.
    fn expect_revoked(&self) {
        let name = format!("{}-gone", self.known.id);
        assert_eq!(self.sign_in(&name, "eve"), "connected", "{name}");
        self.ask(Request::new("DELETE", &format!("/v1/connections/{name}?revoke=true")));
        assert_eq!(self.mock.ledger("eve").killed.map(|death| death.cause), Some(DeathCause::Revoked), "{name}");
    }

    /// A strict or unknown class is believed at once; every other is asked exactly once more.
    fn expect_dead(&self) {
        for ledger in self.mock.state().with_provider(|provider| provider.ledgers().collect::<Vec<_>>()) {
            self.mock.state().kill(&ledger.label);
        }
        let mut told = self.refresh();
        if self.is_asked_again() {
            assert_ne!(told["status"], "needs_reauth", "{}: {told}", self.known.id);
            told = self.refresh();
        }
        assert_eq!(told["status"], "needs_reauth", "{}: {told}", self.known.id);
        assert_eq!(told["last_error"]["code"], "invalid_grant", "{}: {told}", self.known.id);
    }

    fn is_asked_again(&self) -> bool {
        let preset = PRESETS.iter().find(|preset| preset.id == self.known.id).expect("each row has its preset");
        let is_strict = preset.rules.rotation.is_strict();
        // What the server does is what the class promises, or the class is careful.
        assert!(is_strict || self.known.rotation != Rotation::Strict, "{} is stricter than its row", self.known.id);
        !is_strict
    }
}

fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    let url = Url::parse(url).expect("a URL");
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let address = format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"));
    let request = Request { headers, ..Request::get(&path) };
    request.at_address(&address).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn header(answer: &Answer, name: &str) -> String {
    let of_name = |line: &str| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then(|| value.to_owned())
    };
    answer.head.lines().find_map(of_name).unwrap_or_else(|| panic!("no {name}: {answer:?}"))
}

fn location(answer: &Answer) -> String {
    header(answer, "location")
}
