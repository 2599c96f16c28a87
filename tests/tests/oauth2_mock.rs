//! The quirks of real providers, one by one, as a server that nobody here wrote sends them: after each answer the
//! daemon holds what the provider meant, or tells what it was.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokenkeep_core::FailureCode;
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock_server::MockServer;
use tokenkeep_tests::told::expect_told;

/// The providers of the configuration: name, and what its section says besides the endpoint and the client.
const PROVIDERS: [(&str, &str); 5] = [
    ("strict", "rotation = \"strict\""),
    ("persistent", "rotation = \"persistent\""),
    ("github", "preset = \"github-app\""),
    ("atlassian", "preset = \"atlassian\""),
    ("other", "rotation = \"strict\""),
];

/// The life of an access token where the server's answer does not say: as long as the one before.
const LIFE_BEFORE_S: i64 = 3_600;
/// How far a life may be off: it is read some time after it was given.
const OFF_S: i64 = 10;

/// The server, and a daemon that refreshes there.
struct World {
    // Ends before the server does.
    daemon: Daemon,
    installation: Installation,
    server: MockServer,
}

impl World {
    fn start() -> Self {
        let server = MockServer::start();
        let section = |(name, rules): (&str, &str)| {
            // Each has a client of its own, so that no trouble of one is the other's.
            format!(
                "[providers.{name}]\ntoken_url = \"{}\"\nclient_id = \"{name}\"\n\
                 client_secret = {{ file = \"secret\" }}\n{rules}\n",
                server.token_url()
            )
        };
        let installation = Installation::new(&PROVIDERS.map(section).concat());
        let daemon = installation.start();
        Self { daemon, installation, server }
    }

    /// Takes over a token set whose refresh token is `NAME-1`.
    #[track_caller]
    fn import(&self, name: &str, provider: &str) {
        let token = json!({
            "access_token": format!("{name}-old"), "refresh_token": format!("{name}-1"), "scope": "as before",
            "expires_in": LIFE_BEFORE_S, "expires_at": now_s() + LIFE_BEFORE_S,
        });
        self.installation.import(name, provider, &token).expect_code(0);
    }

    /// Refreshes once, and gives the connection as it is then.
    #[track_caller]
    fn refresh(&self, name: &str) -> Value {
        let path = format!("/v1/connections/{name}/refresh");
        let answer = self.daemon.ask(Request::new("POST", &path));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// A connection of this provider whose one refresh was answered so.
    #[track_caller]
    fn answered(&self, name: &str, provider: &str, wish: Value) -> Value {
        self.import(name, provider);
        self.server.wish(&format!("{name}-1"), &wish);
        self.refresh(name)
    }

    fn token(&self, name: &str) -> Answer {
        self.daemon.ask(Request::get(&format!("/v1/connections/{name}/token?wait=0")))
    }

    /// The refresh worked, and this is the access token that is handed out now.
    #[track_caller]
    fn expect_fresh(&self, connection: &Value, access_token: &str) -> Value {
        assert_eq!((&connection["status"], &connection["generation"]), (&"fresh".into(), &2.into()), "{connection}");
        assert_eq!(connection["last_error"], Value::Null, "{connection}");
        let token = self.token(connection["name"].as_str().expect("a name")).json();
        assert_eq!(token["access_token"], access_token, "{token}");
        token
    }

    /// The refresh did not work: this is told, and the access token from before is handed out.
    #[track_caller]
    fn expect_setback(&self, connection: &Value, status: &str, code: FailureCode) {
        expect_told(connection, status, code);
        let name = connection["name"].as_str().expect("a name");
        assert_eq!(self.token(name).json()["access_token"], format!("{name}-old"));
        assert_eq!(self.server.requests(&format!("{name}-1")), 1, "{name} was asked for again at once");
    }
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs() as i64
}

/// Seconds from now to a time that the API tells.
#[track_caller]
fn seconds_until(time: &Value) -> i64 {
    let time: jiff::Timestamp = time.as_str().expect("a time").parse().expect("RFC 3339");
    time.as_second() - now_s()
}

#[track_caller]
fn expect_about(found_s: i64, expected_s: i64, what: &str) {
    assert!((expected_s - OFF_S..=expected_s + 1).contains(&found_s), "{what}: {found_s} s, not {expected_s} s");
}

#[test]
fn quirk_1_the_body_says_whether_it_worked() {
    let world = World::start();
    let created = world.answered("created", "strict", json!({"status": 201, "set": {"access_token": "new"}}));
    world.expect_fresh(&created, "new");

    let github = json!({"raw": r#"{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect or expired.","error_uri":"https://docs.example.com"}"#});
    let github = world.answered("github", "github", github);
    world.expect_setback(&github, "needs_reauth", FailureCode::InvalidGrant);

    let form = json!({"raw": "error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect",
                      "headers": {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}});
    let form = world.answered("github-form", "github", form);
    world.expect_setback(&form, "needs_reauth", FailureCode::InvalidGrant);

    let slack = json!({"raw": r#"{"ok":false,"error":"invalid_client_id"}"#});
    let slack = world.answered("slack", "strict", slack);
    world.expect_setback(&slack, "retrying", FailureCode::UnknownAnswer);
    assert!(slack["last_error"]["message"].as_str().expect("a text").contains("invalid_client_id"), "{slack}");

    for (name, body) in [
        ("atlassian", r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#),
        ("atlassian-other", r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#),
    ] {
        let dead = world.answered(name, "atlassian", json!({"status": 403, "raw": body}));
        // Not strict: asked once more, a minute later, before a person is sent to sign in.
        world.expect_setback(&dead, "retrying", FailureCode::InvalidGrant);
    }

    let message = r#"{"message":"API rate limit exceeded for this client."}"#;
    let nameless = world.answered("nameless", "persistent", json!({"status": 403, "raw": message}));
    world.expect_setback(&nameless, "retrying", FailureCode::UnknownAnswer);
    assert!(nameless["last_error"]["message"].as_str().expect("a text").contains("API rate limit"), "{nameless}");
}

#[test]
fn quirk_2_expires_in_of_every_shape() {
    let world = World::start();
    let lives = [
        ("number", "1800", 1_800),
        ("text", "\"1800\"", 1_800),
        ("float", "1800.5", 1_800),
        ("float-text", "\"1800.0\"", 1_800),
        ("null", "null", LIFE_BEFORE_S),
        ("negative", "-1800", LIFE_BEFORE_S),
        ("zero", "0", LIFE_BEFORE_S),
        ("huge", "1e300", LIFE_BEFORE_S),
        ("beyond-any-number", "1e400", LIFE_BEFORE_S),
        ("many-digits", "99999999999999999999999999", LIFE_BEFORE_S),
        ("word", "\"soon\"", LIFE_BEFORE_S),
        ("list", "[1800]", LIFE_BEFORE_S),
    ];
    for (name, written, life_s) in lives {
        let raw = format!("{{\"access_token\":\"{name}-new\",\"refresh_token\":\"r\",\"expires_in\":{written}}}");
        let connection = world.answered(name, "strict", json!({ "raw": raw }));
        world.expect_fresh(&connection, &format!("{name}-new"));
        expect_about(seconds_until(&connection["access_expires_at"]), life_s, name);
    }
    let jwt = world.answered("jwt", "strict", json!({"remove": ["expires_in"]}));
    assert_eq!(jwt["status"], "fresh");
    expect_about(seconds_until(&jwt["access_expires_at"]), 3_600, "the life of a JWT");
}

#[test]
fn quirk_2_ends_and_lives_by_other_names() {
    let world = World::start();
    let end_s = now_s() + 1_800;
    let iso = jiff::Timestamp::from_second(end_s).expect("a time").to_string();
    let ends = [
        ("seconds", json!(end_s)),
        ("milliseconds", json!(end_s * 1_000)),
        ("text", json!(end_s.to_string())),
        ("iso", json!(iso)),
    ];
    for (name, end) in ends {
        let set = json!({"access_token": format!("{name}-new"), "expires_at": end});
        let connection = world.answered(name, "strict", json!({"set": set, "remove": ["expires_in"]}));
        world.expect_fresh(&connection, &format!("{name}-new"));
        expect_about(seconds_until(&connection["access_expires_at"]), 1_800, name);
    }
    for (name, end) in [("past", json!(1_000)), ("nonsense", json!("next week")), ("nothing", Value::Null)] {
        let set = json!({"access_token": format!("{name}-new"), "expires_at": end});
        let connection = world.answered(name, "strict", json!({"set": set, "remove": ["expires_in"]}));
        world.expect_fresh(&connection, &format!("{name}-new"));
        expect_about(seconds_until(&connection["access_expires_at"]), LIFE_BEFORE_S, name);
    }
    let set = json!({"access_token": "created-new", "created_at": now_s() - 100, "expires_in": 1_800});
    let connection = world.answered("created", "strict", json!({ "set": set }));
    expect_about(seconds_until(&connection["access_expires_at"]), 1_800, "expires_in beside created_at");
    for name in ["refresh_expires_in", "x_refresh_token_expires_in", "refresh_token_expires_in"] {
        let connection = name.replace('_', "-");
        let set = json!({"access_token": "new", name: "86400"});
        let connection = world.answered(&connection, "strict", json!({ "set": set }));
        expect_about(seconds_until(&connection["refresh_expires_at"]), 86_400, name);
    }
}

#[test]
fn quirk_3_forms_nesting_and_scopes() {
    let world = World::start();
    let form = "application/x-www-form-urlencoded";
    for (name, content_type, raw) in [
        ("form", form, "access_token=a%2Fb&refresh_token=r&expires_in=1800&scope=repo%2Cuser&token_type=bearer"),
        ("form-shouted", "Application/X-WWW-Form-URLEncoded", "token_type=bearer&access_token=a%2Fb&scope=repo,user"),
        ("form-unsaid", "text/plain", "token_type=bearer&scope=repo%2Cuser&access_token=a%2Fb&refresh_token=r"),
    ] {
        let wish = json!({"raw": raw, "headers": {"content-type": content_type}});
        let connection = world.answered(name, "strict", wish);
        let token = world.expect_fresh(&connection, "a/b");
        assert_eq!((&connection["scopes"], &token["token_type"]), (&json!(["repo", "user"]), &"Bearer".into()));
    }

    let slack = r#"{"ok":true,"app_id":"A1","authed_user":{"id":"U1","access_token":"xoxp","refresh_token":"xoxe-2","token_type":"user","expires_in":1800,"scope":"chat:write,im:read"}}"#;
    let slack = world.answered("slack", "strict", json!({ "raw": slack }));
    world.expect_fresh(&slack, "xoxp");
    assert_eq!(slack["scopes"], json!(["chat:write", "im:read"]));
    world.refresh("slack");
    assert_eq!(world.server.requests("xoxe-2"), 1, "the refresh token one level down is the next one");

    for (name, set, scopes) in [
        ("scopes", json!({"scopes": ["read", "write"]}), json!(["read", "write"])),
        ("scope-null", json!({"scope": null, "scopes": "read write"}), json!(["read", "write"])),
        ("scope-list", json!({"scope": ["read", "write"]}), json!(["read", "write"])),
        ("scope-commas", json!({"scope": "read,write"}), json!(["read", "write"])),
        ("scope-both", json!({"scope": "read, write"}), json!(["read", "write"])),
        ("scope-empty", json!({"scope": ""}), json!(["as", "before"])),
    ] {
        let remove = if set.get("scope").is_some() { json!([]) } else { json!(["scope"]) };
        let connection = world.answered(name, "strict", json!({"set": set, "remove": remove}));
        assert_eq!((&connection["status"], &connection["scopes"]), (&"fresh".into(), &scopes), "{name}");
    }
}

#[test]
fn quirk_4_without_a_new_refresh_token_the_old_one_stays() {
    let world = World::start();
    for (name, set, remove) in [
        ("missing", json!({}), json!(["refresh_token"])),
        ("null", json!({"refresh_token": null}), json!([])),
        ("empty", json!({"refresh_token": ""}), json!([])),
    ] {
        let connection = world.answered(name, "strict", json!({"set": set, "remove": remove}));
        assert_eq!(connection["status"], "fresh", "{connection}");
        assert_eq!(world.refresh(name)["generation"], 3);
        assert_eq!(world.server.requests(&format!("{name}-1")), 2, "{name}: the old one is used again");
    }
    // A new one of any shape is used: RFC 6749 allows spaces, and a form carries everything else.
    for (name, new) in [("rotated", "new-1"), ("space", "new 2"), ("accents", "n\u{e9}w+&=3")] {
        let connection = world.answered(name, "strict", json!({"set": {"refresh_token": new}}));
        assert_eq!(connection["status"], "fresh", "{connection}");
        world.refresh(name);
        assert_eq!((world.server.requests(&format!("{name}-1")), world.server.requests(new)), (1, 1), "{name}");
    }
}

#[test]
fn quirk_5_a_refused_client_is_not_tried_in_another_style() {
    let world = World::start();
    let refused = json!({"status": 401, "raw": r#"{"error":"invalid_client"}"#,
                         "headers": {"www-authenticate": "Basic realm=\"oauth\""}});
    let connection = world.answered("client", "other", refused);
    world.expect_setback(&connection, "held", FailureCode::InvalidClient);
    assert_eq!(connection["stats"], json!({"attempted": 1, "succeeded": 0, "failed": 1}));
}

#[test]
fn quirk_10_pages_in_place_of_answers() {
    let world = World::start();
    let page = "<!DOCTYPE html><html><body>Sign in to the Wi-Fi</body></html>";
    let html = json!({"content-type": "text/html"});
    for (name, status, strict, persistent, code) in [
        ("portal", 200, "in_doubt", "retrying", FailureCode::AnswerUnreadable),
        ("gateway", 403, "retrying", "retrying", FailureCode::UnknownAnswer),
        ("moved", 302, "held", "held", FailureCode::WrongEndpoint),
        ("broken", 502, "in_doubt", "retrying", FailureCode::ServerError),
    ] {
        for (provider, shown) in [("strict", strict), ("persistent", persistent)] {
            let wish = json!({"status": status, "raw": page, "headers": html});
            let connection = world.answered(&format!("{name}-{provider}"), provider, wish);
            world.expect_setback(&connection, shown, code);
        }
    }
    for (name, raw) in [("empty", ""), ("null", "null"), ("list", "[]"), ("nothing", "{}"), ("cut", "{\"access_tok")] {
        let connection = world.answered(name, "strict", json!({ "raw": raw }));
        world.expect_setback(&connection, "in_doubt", FailureCode::AnswerUnreadable);
    }
    for (name, token) in [("spaced", json!("a b")), ("object", json!({"a": 1})), ("line", json!("a\r\nX-Evil: 1"))] {
        let connection = world.answered(name, "strict", json!({"set": {"access_token": token}}));
        world.expect_setback(&connection, "in_doubt", FailureCode::AnswerInvalid);
    }
}

#[test]
fn quirk_10_decorated_answers() {
    let world = World::start();
    let raw = |text: &str| json!({ "raw": text });
    for (name, wish) in [
        ("mark", raw("\u{feff}{\"access_token\":\"new\",\"refresh_token\":\"r\"}")),
        ("tail", raw("{\"access_token\":\"new\",\"refresh_token\":\"r\"}\r\n<!-- served by gateway 7 -->")),
        ("doubled", raw("{\"access_token\":\"old\",\"access_token\":\"new\",\"refresh_token\":\"r\"}")),
        ("spaces", raw("\r\n\r\n  {\"access_token\":\"new\",\"refresh_token\":\"r\"}  ")),
        ("bearer", raw("{\"access_token\":\"new\",\"token_type\":\"bEaReR\"}")),
        ("no-type", json!({"set": {"access_token": "new"}, "remove": ["token_type"]})),
        ("html-said", json!({"raw": "{\"access_token\":\"new\"}", "headers": {"content-type": "text/html"}})),
        ("latin-1", json!({"raw": "{\"access_token\":\"new\",\"user\":\"Jos\u{e9}\"}", "encoding": "latin1"})),
        ("half-emoji", raw("{\"access_token\":\"new\",\"user\":\"\\ud83d\"}")),
        ("deep", raw(&format!("{{\"access_token\":\"new\",\"x\":{}{}}}", "[".repeat(200), "]".repeat(200)))),
        ("error-null", raw("{\"access_token\":\"new\",\"error\":null,\"error_description\":\"\"}")),
    ] {
        let connection = world.answered(name, "strict", wish);
        let token = world.expect_fresh(&connection, "new");
        assert_eq!(token["token_type"], "Bearer", "{name}: {token}");
    }
}

#[test]
fn busy_providers_are_waited_for_as_they_wish() {
    let world = World::start();
    let later = json!({"retry-after": "120"});
    let unavailable = json!({"status": 503, "raw": "busy", "headers": later});
    let doubted = world.answered("busy-strict", "strict", unavailable.clone());
    world.expect_setback(&doubted, "in_doubt", FailureCode::Unavailable);
    let waited = world.answered("busy-persistent", "persistent", unavailable);
    world.expect_setback(&waited, "retrying", FailureCode::Unavailable);
    let due_s = seconds_until(&waited["refresh_due_at"]);
    assert!((120 - OFF_S..=133).contains(&due_s), "due in {due_s} s");
    let slow_down = json!({"status": 429, "raw": r#"{"error":"slow_down"}"#, "headers": later});
    let limited = world.answered("limited", "other", slow_down);
    world.expect_setback(&limited, "retrying", FailureCode::RateLimited);
    let due_s = seconds_until(&limited["refresh_due_at"]);
    assert!((120 - OFF_S..=133).contains(&due_s), "due in {due_s} s");
}
