//! Who may do what: every route for every kind of caller, and every way past the door (security 17 to 23).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tokenkeep_mock::Rotation;
use tokenkeep_tests::callers::{By, Caller, Door, Reach, cookie_of, header, text};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::wait_for;

/// How long something may take that comes by itself.
const SOON: Duration = Duration::from_secs(20);
const JSON: (&str, &str) = ("content-type", "application/json");

/// What the table of the daemon says of a route, in the words of a test that does not read that table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// Nobody is asked who they are.
    Nothing,
    /// A page for a browser: on TCP alone.
    Page,
    /// Whoever is known.
    Known,
    /// A scope, and rights that reach the connection of the path.
    Of(&'static str),
    /// A scope; the answer leaves out what the rights do not reach.
    Filtered(&'static str),
    /// A scope; what is in a namespace that the rights do not reach is refused, the rest left out.
    Listed(&'static str),
    /// A scope; counts of what the rights do not reach are refused.
    Counted(&'static str),
    /// A scope, and rights that reach what the body names.
    New(&'static str),
    /// A scope, and rights that reach what the id of the path stands for.
    ById(&'static str),
    /// Whoever began what the id of the path stands for, here the socket; and the scope `admin` with rights that reach
    /// everything.
    Begun,
    /// A scope, and rights that reach everything.
    Whole(&'static str),
    /// The socket.
    Socket,
}

/// Every operation, what it needs, and a body that it takes. What ends the caller's own session comes last.
const TABLE: &[(&str, &str, Need, &str)] = &[
    ("GET", "/livez", Need::Nothing, ""),
    ("GET", "/readyz", Need::Nothing, ""),
    ("GET", "/oauth/callback", Need::Page, ""),
    ("GET", "/oauth/page.css", Need::Page, ""),
    ("GET", "/oauth/start/{id}", Need::Page, ""),
    ("GET", "/v1/openapi.json", Need::Known, ""),
    ("GET", "/v1/summary", Need::Counted("status"), ""),
    ("GET", "/v1/config", Need::Whole("admin"), ""),
    ("GET", "/v1/connections", Need::Listed("status"), ""),
    (
        "POST",
        "/v1/connections",
        Need::New("manage"),
        r#"{"name": "new", "provider": "mock", "token": {"access_token": "a", "refresh_token": "r", "expires_in": 3600}}"#,
    ),
    ("GET", "/v1/connections/{name}", Need::Of("status"), ""),
    ("GET", "/v1/connections/{name}/token", Need::Of("token"), ""),
    ("POST", "/v1/connections/{name}/refresh", Need::Of("refresh"), r#"{"if_generation": 1}"#),
    ("POST", "/v1/connections/{name}/pause", Need::Of("manage"), ""),
    ("POST", "/v1/connections/{name}/resume", Need::Of("manage"), ""),
    ("POST", "/v1/connections/{name}/introspect", Need::Of("refresh"), ""),
    ("DELETE", "/v1/connections/{name}", Need::Of("manage"), ""),
    ("POST", "/v1/connections/{name}/export", Need::Socket, ""),
    ("POST", "/v1/resume-sole-copy", Need::Whole("admin"), ""),
    ("GET", "/v1/events", Need::Filtered("status"), ""),
    ("GET", "/v1/events/stream", Need::Filtered("status"), ""),
    ("POST", "/v1/connect", Need::New("manage"), r#"{"name": "new", "provider": "mock"}"#),
    ("POST", "/v1/connect/links", Need::New("manage"), r#"{"name": "new", "provider": "mock"}"#),
    // Who has no proof, which only the beginner has, is told that there is no such sign-in.
    ("POST", "/v1/connect/finish", Need::Filtered("manage"), "{}"),
    ("GET", "/v1/connect/{id}", Need::ById("manage"), ""),
    ("GET", "/v1/admin/master-key", Need::Whole("admin"), ""),
    ("POST", "/v1/admin/backup", Need::Socket, ""),
    ("POST", "/v1/admin/master-key/rotate", Need::Socket, ""),
    ("GET", "/v1/api-keys", Need::Filtered("admin"), ""),
    ("POST", "/v1/api-keys", Need::New("admin"), r#"{"name": "n", "scopes": ["status"], "names": ["mine"]}"#),
    ("GET", "/v1/api-keys/{id}", Need::ById("admin"), ""),
    ("DELETE", "/v1/api-keys/{id}", Need::ById("admin"), ""),
    ("GET", "/v1/audit", Need::Whole("admin"), ""),
    ("POST", "/v1/audit/verify", Need::Whole("admin"), ""),
    ("GET", "/metrics", Need::Whole("status"), ""),
    ("PATCH", "/v1/connections/{name}", Need::Of("manage"), r#"{"labels": {"a": "b"}}"#),
    ("GET", "/v1/connections/{name}/timeline", Need::Of("status"), ""),
    ("GET", "/v1/connections/{name}/jira/projects", Need::Of("token"), ""),
    ("GET", "/v1/connections/{name}/jira/issues", Need::Of("token"), ""),
    // The provider of these has no API hosts.
    ("GET", "/v1/connections/{name}/proxy/", Need::Of("token"), ""),
    ("POST", "/v1/connections/{name}/proxy/", Need::Of("token"), ""),
    ("PUT", "/v1/connections/{name}/proxy/", Need::Of("token"), ""),
    ("PATCH", "/v1/connections/{name}/proxy/", Need::Of("token"), ""),
    ("DELETE", "/v1/connections/{name}/proxy/", Need::Of("token"), ""),
    ("OPTIONS", "/v1/connections/{name}/proxy/", Need::Of("token"), ""),
    ("GET", "/v1/connections/{name}/proxy/{path}", Need::Of("token"), ""),
    ("POST", "/v1/connections/{name}/proxy/{path}", Need::Of("token"), ""),
    ("PUT", "/v1/connections/{name}/proxy/{path}", Need::Of("token"), ""),
    ("PATCH", "/v1/connections/{name}/proxy/{path}", Need::Of("token"), ""),
    ("DELETE", "/v1/connections/{name}/proxy/{path}", Need::Of("token"), ""),
    ("OPTIONS", "/v1/connections/{name}/proxy/{path}", Need::Of("token"), ""),
    ("GET", "/v1/providers", Need::Known, ""),
    ("GET", "/v1/providers/{name}", Need::Known, ""),
    ("GET", "/v1/fleet/histogram", Need::Counted("status"), ""),
    ("GET", "/v1/fleet/calendar", Need::Counted("status"), ""),
    ("GET", "/v1/fleet/latency", Need::Whole("status"), ""),
    ("POST", "/v1/bulk", Need::Filtered("refresh"), r#"{"action": "refresh", "names": ["mine"]}"#),
    ("GET", "/v1/bulk/{id}", Need::Begun, ""),
    ("GET", "/v1/webhooks", Need::Whole("manage"), ""),
    ("POST", "/v1/webhooks", Need::Whole("manage"), r#"{"url": "https://hooks.example.com/", "enabled": false}"#),
    ("GET", "/v1/webhooks/{id}", Need::Whole("manage"), ""),
    ("PATCH", "/v1/webhooks/{id}", Need::Whole("manage"), r#"{"description": "d"}"#),
    ("POST", "/v1/webhooks/{id}/rotate-secret", Need::Whole("manage"), ""),
    // A disabled one sends nothing.
    ("POST", "/v1/webhooks/{id}/test", Need::Whole("manage"), ""),
    ("GET", "/v1/webhooks/{id}/deliveries", Need::Whole("manage"), ""),
    ("POST", "/v1/webhooks/{id}/deliveries/{delivery}/redeliver", Need::Whole("manage"), ""),
    ("DELETE", "/v1/webhooks/{id}", Need::Whole("manage"), ""),
    ("POST", "/v1/session/setup", Need::Socket, ""),
    ("GET", "/v1/session", Need::Known, ""),
    // Without a key or a code in it: who has one needs nothing else.
    ("POST", "/v1/session", Need::Nothing, "{}"),
    ("DELETE", "/v1/session", Need::Known, ""),
];

/// What is answered to a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Let,
    Unknown,
    Refused,
    /// As if there were no such thing.
    Hidden,
}

impl Class {
    fn expected(need: Need, caller: &Caller) -> Self {
        let (all, lacks) = (caller.reach == Reach::All, |scope| !caller.has(scope));
        match (need, &caller.by) {
            (Need::Nothing | Need::Page, _) | (_, By::Socket) => Self::Let,
            (_, By::Nothing) => Self::Unknown,
            (Need::Known, _) => Self::Let,
            (Need::Socket, _) => Self::Refused,
            (Need::Begun, _) => {
                if caller.has("admin") && all {
                    Self::Let
                } else {
                    Self::Hidden
                }
            }
            (Need::Whole(scope), _) if lacks(scope) || !all => Self::Refused,
            (
                Need::Of(scope)
                | Need::Filtered(scope)
                | Need::Listed(scope)
                | Need::Counted(scope)
                | Need::New(scope)
                | Need::ById(scope),
                _,
            ) if lacks(scope) => Self::Refused,
            (Need::Of(_) | Need::ById(_), _) if !all => Self::Hidden,
            (Need::New(_) | Need::Counted(_), _) if !all => Self::Refused,
            (Need::Listed(_), _) if caller.reach == Reach::OtherNamespace => Self::Refused,
            _ => Self::Let,
        }
    }

    fn of(status: u16) -> Option<Self> {
        match status {
            401 => Some(Self::Unknown),
            403 => Some(Self::Refused),
            404 => Some(Self::Hidden),
            // A method that is not taken was never refused.
            405 => None,
            _ => Some(Self::Let),
        }
    }
}

/// A daemon with a provider that people can sign in at, and the connections `mine`, `other-1` and `other/other-2`.
fn house() -> (Mock, Installation, Daemon, Door) {
    let mock = Mock::start();
    let authorize = format!("authorize_url = \"http://{}/authorize\"\n", mock.address());
    let installation = Installation::new(&(mock.section("mock", "strict") + &authorize));
    let daemon = installation.start();
    let door = Door::of(&daemon);
    import(&mock, &door, "", "mine");
    import(&mock, &door, "", "other-1");
    import(&mock, &door, "?namespace=other", "other-2");
    (mock, installation, daemon, door)
}

#[track_caller]
fn import(mock: &Mock, door: &Door, query: &str, name: &str) {
    let token = mock.grant(name, Rotation::Strict, 3_600);
    let body = json!({"name": name, "provider": "mock", "token": token}).to_string();
    let imported = door.own("POST", &format!("/v1/connections{query}"), &body);
    assert_eq!(imported.status, 201, "{imported:?}");
}

/// What the placeholders of a path stand for, and what of the same length does not exist.
struct Things {
    sign_in: String,
    keys: Vec<String>,
    webhooks: Vec<String>,
    job: String,
}

impl Things {
    fn of(door: &Door) -> Self {
        let begun = door.own("POST", "/v1/connect", r#"{"name": "mine", "provider": "mock"}"#);
        assert_eq!(begun.status, 201, "{begun:?}");
        let key = || door.make_key(&json!({"name": "victim", "scopes": ["status"], "names": ["mine"]}));
        let webhook = || {
            let body = r#"{"url": "https://hooks.example.com/", "enabled": false}"#;
            text(&door.own("POST", "/v1/webhooks", body).json()["id"])
        };
        let bulk = |confirm: &Value| {
            let mut body = json!({"action": "resume", "names": ["nope"]});
            if !confirm.is_null() {
                body["confirm"] = confirm.clone();
            }
            door.own("POST", "/v1/bulk", &body.to_string()).json()
        };
        let job = bulk(&bulk(&Value::Null)["confirm"]);
        Self {
            job: text(&job["id"]),
            sign_in: text(&begun.json()["id"]),
            keys: (0..4).map(|_| text(&key()["id"])).collect(),
            webhooks: (0..8).map(|_| webhook()).collect(),
        }
    }

    /// With the how manyth of the things that are removed.
    fn path(&self, path: &str, name: &str, nth: usize) -> String {
        let id = match path {
            path if path.contains("api-keys") => &self.keys[nth],
            path if path.contains("webhooks") => &self.webhooks[nth],
            path if path.contains("bulk") => &self.job,
            _ => &self.sign_in,
        };
        let name = if path.contains("/v1/providers") { "atlassian" } else { name };
        path.replace("{name}", name).replace("{id}", id).replace("{path}", "a").replace("{delivery}", "dlv_1")
    }

    /// The same path with a thing in it that does not exist; and what its answer would be called there.
    fn unknown(&self, path: &str) -> (String, String, String) {
        let reversed = |text: &String| text.chars().rev().collect::<String>();
        let (real, unreal) = match path {
            path if path.contains("{name}") => ("mine".to_owned(), "nope".to_owned()),
            path if path.contains("api-keys") => (self.keys[0].clone(), reversed(&self.keys[0])),
            path if path.contains("bulk") => (self.job.clone(), reversed(&self.job)),
            _ => (self.sign_in.clone(), reversed(&self.sign_in)),
        };
        let placeholder = if path.contains("{name}") { "{name}" } else { "{id}" };
        (path.replace(placeholder, &unreal).replace("{path}", "a"), unreal, real)
    }
}

/// Everything that a request may have changed.
fn standing(door: &Door) -> Vec<Value> {
    ["/v1/connections", "/v1/connections?namespace=other", "/v1/events?limit=1000", "/v1/admin/master-key"]
        .map(|path| door.see(path))
        .into_iter()
        .chain([without_use(door.see("/v1/api-keys?limit=1000"))])
        .collect()
}

/// Keys, without when they were used.
fn without_use(mut keys: Value) -> Value {
    for key in keys["items"].as_array_mut().expect("keys") {
        key.as_object_mut().expect("a key").remove("last_used_at");
    }
    keys
}

fn operations(door: &Door) -> BTreeSet<(String, String)> {
    let document = door.see("/v1/openapi.json");
    let paths = document["paths"].as_object().expect("paths");
    let methods = |(path, operations): (&String, &Value)| {
        let methods = operations.as_object().expect("operations").keys().cloned().collect::<Vec<_>>();
        methods.into_iter().map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(methods).collect()
}

#[test]
fn every_route_lets_those_in_whom_the_table_names_and_nobody_else() {
    let (mock, _installation, _daemon, door) = house();
    let tabled = TABLE.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(operations(&door), tabled, "the API and the table of this test differ");
    let (things, callers) = (Things::of(&door), door.callers());

    let before = standing(&door);
    let audited = last_audited(&door);
    let mut refused = BTreeMap::<String, u64>::new();
    for caller in &callers {
        for &(method, path, need, body) in TABLE {
            let expected = Class::expected(need, caller);
            if expected == Class::Let {
                continue;
            }
            let real = things.path(path, "mine", 0);
            let answer = door.ask(caller, Request { method, path: &real, headers: &[JSON], body });
            assert_eq!(Class::of(answer.status), Some(expected), "{caller}: {method} {path}: {answer:?}");
            expect_problem(&answer);
            *refused.entry(caller.actor.clone()).or_default() += 1;
            if expected == Class::Hidden {
                let (unreal, called, name) = things.unknown(path);
                let other = door.ask(caller, Request { method, path: &unreal, headers: &[JSON], body });
                let as_unknown = without_date(&other).replace(&called, &name);
                assert_eq!(without_date(&answer), as_unknown, "{caller}: {method} {path} tells that it is there");
                *refused.entry(caller.actor.clone()).or_default() += 1;
            }
            if method == "GET" {
                let head = door.ask(caller, Request { method: "HEAD", path: &real, headers: &[JSON], body: "" });
                assert_eq!(head.status, answer.status, "{caller}: HEAD {path}");
                *refused.entry(caller.actor.clone()).or_default() += 1;
            }
        }
    }
    assert_eq!(standing(&door), before, "a refused request had an effect");
    for caller in &callers {
        let met = door.ask(caller, Request::get("/v1/session"));
        assert_eq!(met.status, if caller.by == By::Nothing { 401 } else { 200 }, "{caller} is not known any more");
        if caller.by == By::Nothing {
            *refused.entry(caller.actor.clone()).or_default() += 1;
        }
    }
    refusals_are_counted(&door, audited, &refused);

    let owns = |caller: &&Caller| caller.reach == Reach::All && caller.has("manage");
    for nth in 0..callers.iter().filter(owns).count() {
        import(&mock, &door, "", &format!("gone{nth}"));
    }
    let (mut removed, mut revoked, mut unhooked) = (0, 0, 0);
    for &(method, path, need, body) in TABLE {
        for caller in &callers {
            if Class::expected(need, caller) != Class::Let || (need == Need::Page && caller.by == By::Socket) {
                continue;
            }
            let removes = method == "DELETE" && path.ends_with("{name}");
            let revokes = method == "DELETE" && path.contains("api-keys");
            let unhooks = method == "DELETE" && path.contains("webhooks");
            let name = if removes { format!("gone{removed}") } else { "mine".to_owned() };
            let real = things.path(path, &name, if path.contains("webhooks") { unhooked } else { revoked });
            let answer = door.ask(caller, Request { method, path: &real, headers: &[JSON], body });
            let told = format!("{caller}: {method} {real}: {answer:?}");
            assert!(answer.status < 500, "{told}");
            if need == Need::Page {
                assert!(!answer.body.contains("\"code\""), "{told}");
            } else {
                assert_eq!(Class::of(answer.status), Some(Class::Let), "{told}");
            }
            (removed, revoked) = (removed + usize::from(removes), revoked + usize::from(revokes));
            unhooked += usize::from(unhooks);
        }
    }
}

/// A problem as RFC 9457 has it, that says what to do, and of a 401 that a key is wanted.
#[track_caller]
fn expect_problem(answer: &Answer) {
    assert_eq!(header(answer, "content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.json()["status"], answer.status, "{answer:?}");
    assert_eq!(header(answer, "www-authenticate").is_some(), answer.status == 401, "{answer:?}");
}

fn without_date(answer: &Answer) -> String {
    let head: String =
        answer.head.lines().filter(|line| !line.starts_with("date:")).map(|line| format!("{line}\n")).collect();
    head + &answer.body
}

fn audit(door: &Door, after: u64) -> Vec<Value> {
    let mut records = Vec::new();
    let mut last = after;
    loop {
        let page = door.see(&format!("/v1/audit?after={last}&limit=1000"));
        let items = page["items"].as_array().expect("records").clone();
        let Some(newest) = items.last() else { return records };
        last = newest["id"].as_u64().expect("a number");
        records.extend(items);
    }
}

fn last_audited(door: &Door) -> u64 {
    audit(door, 0).last().and_then(|record| record["id"].as_u64()).unwrap_or(0)
}

/// Each refused request is in the trail: counted, or where its handler refused it as a record of its own.
#[track_caller]
fn refusals_are_counted(door: &Door, after: u64, expected: &BTreeMap<String, u64>) {
    let counted = || {
        let mut counted = BTreeMap::<String, u64>::new();
        for record in audit(door, after) {
            let outcome = record["outcome"].as_u64().expect("a number");
            let times = match record["action"].as_str() {
                Some("request.refused") => outcome,
                Some("status.read") => 0,
                _ => u64::from((400..500).contains(&outcome)),
            };
            *counted.entry(text(&record["actor"])).or_default() += times;
        }
        counted.retain(|_, times| *times > 0);
        counted
    };
    let mut last = BTreeMap::new();
    tokenkeep_tests::process::try_wait_for(SOON, || {
        last = counted();
        (last == *expected).then_some(())
    });
    assert_eq!(last, *expected, "refused requests in the audit trail");
}

#[test]
fn other_methods_and_spellings_open_nothing() {
    let (_mock, _installation, _daemon, door) = house();
    let foreign = door.key_of("admin", Reach::OtherNames);
    for path in [
        "/v1/connections/%6dine",
        "/v1/connections/mine/",
        "/v1/connections/mine%00",
        "/v1/connections/mine%2f",
        "/v1//connections/mine",
        "/v1/connections//mine",
        "/v1/connections/./mine",
        "/v1/connections/other-1/../mine",
        "/v1/connections/other-1%2f..%2fmine",
        "/v1/connections/other-1;/mine",
        "/v1/connections/mine?namespace=default",
        "/v1/connections/mine?namespace=default&namespace=other",
        "/v1/connections/other-1?namespace=other&namespace=default",
        "/v1/connections/mine?name=other-1",
        "/v1/connections/default%2fmine",
        "/v1/connections/Mine",
        "//v1/connections/mine",
        "/V1/connections/mine",
        "/v1/connections/mine#/other-1",
    ] {
        for path in [path.to_owned(), path.replacen("mine", "mine/token", 1)] {
            let answer = door.ask(&foreign, Request::get(&path));
            assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
            assert!(!answer.body.contains("access_expires_at") && !answer.body.contains("access_token"), "{answer:?}");
        }
    }
    for method in ["OPTIONS", "TRACE", "PUT", "PATCH", "CONNECT", "get", "X"] {
        for (_, path, ..) in TABLE {
            let path = path.replace("{name}", "mine").replace("{id}", "x");
            let answer = Request::new(method, &path).at_address(door.address()).expect("an answer");
            assert!((400..500).contains(&answer.status), "{method} {path}: {answer:?}");
            assert_eq!(header(&answer, "access-control-allow-origin"), None);
        }
    }
}

fn names(page: &Value) -> Vec<String> {
    page["items"].as_array().expect("items").iter().map(|item| text(&item["name"])).collect()
}

#[test]
fn lists_events_and_counts_show_nothing_of_what_is_foreign() {
    let (mock, installation, _daemon, door) = house();
    for name in ["a-first", "other-3", "p", "q", "z-last"] {
        import(&mock, &door, "", name);
    }
    let foreign = door.key_of("status", Reach::OtherNames);
    let get = |path: &str| door.ask(&foreign, Request::get(path));

    // Page by page, nothing else is named on the way.
    for limit in [1, 2, 100] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let answer = get(&format!("/v1/connections?limit={limit}{cursor}"));
            let page = answer.json();
            seen.extend(names(&page));
            for hidden in ["a-first", "mine", "\"p\"", "\"q\"", "z-last", "other-2"] {
                assert!(!answer.body.contains(hidden), "{hidden} is told: {answer:?}");
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, ["other-1", "other-3"], "limit {limit}");
    }
    assert_eq!(names(&get("/v1/connections?q=mine").json()), Vec::<String>::new());

    // Events: its own, whatever is asked for; of a foreign connection the same as of none.
    installation.run(&["refresh", "mine"]).expect_code(0);
    let events = get("/v1/events?limit=1000").json();
    let of: BTreeSet<&str> =
        events["items"].as_array().expect("events").iter().filter_map(|event| event["connection"].as_str()).collect();
    assert_eq!(of, BTreeSet::from(["other-1", "other-2", "other-3"]));
    for query in ["", "&limit=1", "&after=0", "&since=2020-01-01T00:00:00Z"] {
        let [foreign, none] = ["mine", "nope"].map(|name| get(&format!("/v1/events?connection={name}{query}")));
        assert_eq!(without_date(&foreign), without_date(&none), "{query}");
    }
    let [foreign_stream, none] = ["mine", "nope"].map(|name| stream(&door, &foreign, name, || ()));
    assert_eq!(kinds(&foreign_stream), kinds(&none));

    // The stream, while something happens to both.
    let told = stream(&door, &foreign, "", || {
        for name in ["mine", "other-1"] {
            installation.run(&["refresh", name]).expect_code(0);
        }
    });
    assert!(told.contains("\"connection\":\"other-1\""), "{told}");
    assert!(!told.contains("mine") && !told.contains("event: summary"), "{told}");
    let answer = get("/v1/summary");
    assert_eq!(answer.status, 403, "{answer:?}");
}

/// What the stream tells until an event of `other-1` that `happens`, or without one for a while.
fn stream(door: &Door, caller: &Caller, connection: &str, happens: impl FnOnce()) -> String {
    let By::Key(key) = &caller.by else { panic!("{caller} is no key") };
    let mut stream = TcpStream::connect(door.address()).expect("the daemon listens");
    let query = if connection.is_empty() { String::new() } else { format!("?connection={connection}") };
    let request =
        format!("GET /v1/events/stream{query} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the daemon listens");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut told = String::new();
    wait_for("hello", SOON, || {
        hear(&mut stream, &mut told);
        told.contains("event: hello").then_some(())
    });
    happens();
    tokenkeep_tests::process::try_wait_for(
        if connection.is_empty() { SOON } else { Duration::from_millis(300) },
        || {
            hear(&mut stream, &mut told);
            told.contains("connection.refreshed").then_some(())
        },
    );
    told
}

fn hear(stream: &mut TcpStream, told: &mut String) {
    let mut piece = [0; 16 * 1024];
    if let Ok(length) = stream.read(&mut piece) {
        told.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
}

fn kinds(told: &str) -> Vec<&str> {
    told.lines().filter(|line| line.starts_with("event:")).collect()
}

#[test]
fn what_is_imported_line_by_line_is_refused_line_by_line() {
    let (mock, _installation, _daemon, door) = house();
    let manage = door.key_of("manage", Reach::OtherNames);
    let line = |name: &str| {
        let token = mock.grant(&format!("line-{name}"), Rotation::Strict, 3_600);
        json!({"name": name, "provider": "mock", "token": token}).to_string() + "\n"
    };
    let before = door.see("/v1/connections/mine");
    let lines: String = ["other-7", "mine", "nope", "other-8"].map(line).concat();
    let ndjson = [("content-type", "application/x-ndjson")];
    let answer = door.ask(&manage, Request::post("/v1/connections", &ndjson, &lines));
    let answers: Vec<Value> =
        answer.body.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(answers.len(), 4, "{answer:?}");
    assert_eq!((&answers[0]["result"], &answers[3]["result"]), (&"created".into(), &"created".into()));
    for (nth, name) in [(1, "mine"), (2, "nope")] {
        assert_eq!(answers[nth]["error"]["status"], 403, "{answer:?}");
        assert_eq!(answers[nth]["name"], name);
    }
    let like = |nth: usize, name: &str| {
        let at = format!("\"line\":{}", nth + 1);
        answers[nth].to_string().replace(name, "X").replace(&at, "")
    };
    assert_eq!(like(1, "mine"), like(2, "nope"), "it tells whether the name is taken");
    assert_eq!(door.see("/v1/connections/mine"), before);
    assert_eq!(names(&door.see("/v1/connections")), ["mine", "other-1", "other-7", "other-8"]);
}

/// The key and the cookie that a request has: neither, the cookie, the key, both.
const PROOFS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// `Origin` and `Sec-Fetch-Site` at our host, and what is answered to GET and to POST for each of [`PROOFS`]: `2` is 200, `1`
/// is 401, `3` is 403. `OWN` is this origin, `PORT` another one of this machine.
const DOOR: &[(&str, &str, &str)] = &[
    ("", "", "1222 1322"),
    ("", "same-origin", "1222 1222"),
    ("", "none", "1222 1322"),
    ("", "same-site", "3333 3333"),
    ("", "cross-site", "3333 3333"),
    ("", "SAME-ORIGIN", "3333 3333"),
    ("OWN", "", "1222 1222"),
    ("OWN", "same-origin", "1222 1222"),
    ("OWN", "none", "1222 1222"),
    ("OWN", "same-site", "3333 3333"),
    ("OWN", "cross-site", "3333 3333"),
    ("PORT", "", "1222 1322"),
    ("PORT", "same-origin", "1222 1222"),
    ("PORT", "none", "1222 1322"),
    ("PORT", "same-site", "3333 3333"),
    ("PORT", "cross-site", "3333 3333"),
    ("null", "", "3333 3333"),
    ("null", "same-origin", "3333 3333"),
    ("null", "none", "3333 3333"),
    ("null", "cross-site", "3333 3333"),
    ("https://evil.example", "", "3333 3333"),
    ("https://evil.example", "same-origin", "3333 3333"),
    ("https://evil.example", "none", "3333 3333"),
    ("https://evil.example", "cross-site", "3333 3333"),
];

/// Whoever holds a key and a cookie.
struct Visitor {
    door: Door,
    key: String,
    cookie: String,
}

impl Visitor {
    fn of(door: Door) -> Self {
        let key = door.key_of("admin", Reach::All);
        let (By::Key(text), By::Cookie(cookie)) = (key.by.clone(), door.session_of(&key).by) else {
            panic!("a key and a session")
        };
        Self { door, key: format!("Bearer {text}"), cookie }
    }

    /// The status of what is answered to a request of these headers.
    #[track_caller]
    fn try_door(&self, method: &str, path: &str, (key, cookie): (bool, bool), headers: &[(&str, &str)]) -> Answer {
        let mut all: Vec<(&str, &str)> = headers.iter().copied().filter(|(_, value)| !value.is_empty()).collect();
        if key {
            all.push(("authorization", &self.key));
        }
        if cookie {
            all.push(("cookie", &self.cookie));
        }
        let request = Request { method, path, headers: &all, body: "" };
        request.as_it_is(self.door.address()).unwrap_or_else(|error| panic!("{request:?}: {error}"))
    }
}

const READ: (&str, &str) = ("GET", "/v1/connections/mine");
const CHANGE: (&str, &str) = ("POST", "/v1/connections/mine/resume");

#[test]
fn requests_of_other_hosts_and_pages_are_turned_away() {
    let (_mock, _installation, _daemon, door) = house();
    let visitor = Visitor::of(door);
    let host = visitor.door.address().to_owned();
    let own = format!("http://{host}");
    let mut tried = 0;
    for (ours, host) in [(true, host.as_str()), (false, "rebound.example"), (false, "127.0.0.1.nip.example:7878")] {
        for &(origin, site, expected) in DOOR {
            let origin = origin.replace("OWN", &own).replace("PORT", "http://localhost:3000");
            let answers = [READ, CHANGE].map(|(method, path)| {
                PROOFS.map(|proof| {
                    tried += 1;
                    let headers = [("host", host), ("origin", &origin), ("sec-fetch-site", site)];
                    visitor.try_door(method, path, proof, &headers).status
                })
            });
            let code = |status: u16| match status {
                200 => '2',
                401 => '1',
                403 => '3',
                _ => '?',
            };
            let [read, change] = answers.map(|statuses| statuses.map(code).iter().collect::<String>());
            let expected = if ours { expected } else { "3333 3333" };
            assert_eq!(format!("{read} {change}"), expected, "Host: {host}, Origin: {origin}, Sec-Fetch-Site: {site}");
        }
    }
    assert!(tried >= 64, "{tried}");
}

#[test]
fn no_header_but_these_opens_the_door() {
    let (_mock, installation, _daemon, door) = house();
    let visitor = Visitor::of(door);
    let own = visitor.door.address().to_owned();
    let both = (true, true);
    let status = |path: &str, headers: &[(&str, &str)]| visitor.try_door("GET", path, both, headers).status;

    // Another host than ours, whatever else says that it is.
    for forwarded in
        ["x-forwarded-host", "x-host", "x-original-host", "x-forwarded-server", "x-rewrite-url", "x-original-url"]
    {
        assert_eq!(status(READ.1, &[("host", "evil.example"), (forwarded, &own)]), 403, "{forwarded}");
    }
    let forwarded = "for=127.0.0.1;host=localhost;proto=https";
    assert_eq!(status(READ.1, &[("host", "evil.example"), ("forwarded", forwarded)]), 403);
    for wrong in [
        &[][..],
        &[("host", own.as_str()), ("host", "evil.example")],
        &[("host", "evil.example"), ("host", own.as_str())],
        &[("host", own.as_str()), ("host", own.as_str())],
        &[("host", "user@localhost")],
        &[("host", "localhost,evil.example")],
        &[("host", "0.0.0.0")],
        &[("host", "2130706433")],
        &[("host", "0x7f.1")],
        &[("host", "[::ffff:10.0.0.1]")],
    ] {
        let status = status(READ.1, wrong);
        assert!(matches!(status, 400 | 403), "{wrong:?}: {status}");
    }
    // A request target with a host in it stands above the header (RFC 9112 section 3.2.2).
    assert_eq!(status(&format!("http://evil.example{}", READ.1), &[("host", &own)]), 403);
    assert_eq!(status(&format!("http://{own}{}", READ.1), &[("host", "evil.example")]), 403);
    assert_eq!(status(&format!("http://{own}{}", READ.1), &[("host", &own)]), 200);

    // Where a request says that it comes from makes nobody known.
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-user", "root"),
        ("x-remote-user", "root"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=127.0.0.1"),
        ("authorization", "Basic cm9vdDpyb290"),
        ("proxy-authorization", &visitor.key),
        ("x-api-key", &visitor.key["Bearer ".len()..]),
        ("authorization", &format!("{}, {}", visitor.key, visitor.key)),
    ] {
        let answer = visitor.try_door("GET", READ.1, (false, false), &[("host", &own), (name, value)]);
        assert_eq!(answer.status, 401, "{name}: {value}");
    }
    let query = format!("{}?access_token={}&api_key={}", READ.1, &visitor.key["Bearer ".len()..], "x");
    assert_eq!(visitor.try_door("GET", &query, (false, false), &[("host", &own)]).status, 401);
    // Nor does one header make another method of it.
    let before = visitor.door.see(READ.1);
    for name in ["x-http-method-override", "x-method-override", "x-http-method"] {
        let answer = visitor.try_door("GET", READ.1, both, &[("host", &own), (name, "DELETE")]);
        assert_eq!((answer.status, answer.json()), (200, before.clone()));
    }
    assert_eq!(installation.connections().len(), 2);

    // The page of another site sends a form, which its browser lets it do, with our cookie.
    let form = r#"{"name": "evil", "provider": "mock", "token": {"access_token": "a", "x": "="}}"#;
    for (origin, site) in [("https://evil.example", "cross-site"), ("null", "cross-site"), ("", ""), ("", "none")] {
        let headers = [
            ("host", own.as_str()),
            ("content-type", "text/plain"),
            ("origin", origin),
            ("sec-fetch-site", site),
            ("cookie", &visitor.cookie),
        ];
        let headers: Vec<(&str, &str)> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        for path in ["/v1/connections", "/v1/connections/mine/pause", "/v1/api-keys", "/v1/session"] {
            let request = Request { method: "POST", path, headers: &headers, body: form };
            let answer = request.as_it_is(&own).expect("an answer");
            assert_eq!(answer.status, 403, "{request:?}: {answer:?}");
        }
    }
    assert_eq!(visitor.door.see(READ.1), before);
}

#[test]
fn a_session_is_a_cookie_that_only_its_browser_has() {
    let (mock, installation, daemon, door) = house();
    let key = door.key_of("manage", Reach::All);
    let By::Key(text) = &key.by else { panic!("a key") };
    let begun = door.sign_in(&json!({"api_key": text}));
    let cookie = header(&begun, "set-cookie").expect("a cookie").to_owned();
    let (pair, attributes) = cookie.split_once("; ").expect("attributes");
    let (name, value) = pair.split_once('=').expect("a value");
    assert_eq!((name, value.len()), ("tokenkeep_session", 64));
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict; Max-Age=43200");
    assert_eq!(header(&begun, "cache-control"), Some("no-store"));
    assert!(!begun.body.contains(value) && !begun.body.contains(text.as_str()), "{begun:?}");
    let session = door.session_of(&key);
    let twin = door.session_of(&key);
    assert_ne!(session.by, twin.by);

    // It ends where somebody signs out, and no other does.
    let met = |caller: &Caller| door.ask(caller, Request::get("/v1/session")).status;
    let ended = door.ask(&session, Request::new("DELETE", "/v1/session"));
    assert_eq!(ended.status, 204);
    assert!(header(&ended, "set-cookie").expect("a cookie").starts_with("tokenkeep_session=; "), "{ended:?}");
    assert_eq!((met(&session), met(&twin)), (401, 200));

    // A code from the socket serves once; a newer one takes its place.
    let code = || text_of(&door.own("POST", "/v1/session/setup", ""), "setup_code");
    let (first, second) = (code(), code());
    let with = |code: &str| door.sign_in(&json!({"setup_code": code})).status;
    assert_eq!((with(&first), with(&second), with(&second)), (401, 201, 401));
    assert_eq!(with(""), 401);

    // A restart ends all of them.
    daemon.kill();
    let daemon = installation.start();
    let door = Door::of(&daemon);
    assert_eq!(door.ask(&twin, Request::get("/v1/session")).status, 401);
    assert_eq!(door.ask(&key, Request::get("/v1/session")).status, 200, "keys stay");
    daemon.stop().expect_code(0);

    // Behind https the cookie is bound to the host, and a bare one is nobody's.
    installation.configure(&(mock.section("mock", "strict") + "[server]\npublic_url = \"https://keep.example\"\n"));
    let daemon = installation.start();
    let door = Door::of(&daemon);
    let begun = door.sign_in(&json!({"api_key": text}));
    let cookie = header(&begun, "set-cookie").expect("a cookie");
    assert!(cookie.starts_with("__Host-tokenkeep_session=") && cookie.ends_with("; Secure"), "{cookie}");
    assert!(cookie.contains("; Path=/; HttpOnly; SameSite=Strict;") && !cookie.contains("Domain"), "{cookie}");
    let pair = cookie_of(&begun);
    let met = |cookie: &str| {
        let headers = [("host", "keep.example"), ("cookie", cookie)];
        Request { headers: &headers, ..Request::get("/v1/session") }.as_it_is(door.address()).expect("an answer").status
    };
    assert_eq!((met(&pair), met(pair.trim_start_matches("__Host-"))), (200, 401));
}

#[track_caller]
fn text_of(answer: &Answer, field: &str) -> String {
    text(&answer.json()[field])
}

#[test]
fn a_key_ends_at_once_with_all_that_came_of_it() {
    let (_mock, installation, _daemon, door) = house();
    for how in ["revoked", "expired"] {
        let life = if how == "expired" { "3s" } else { "1h" };
        let made = door.make_key(&json!({"name": "k", "scopes": ["admin"], "expires_in": life}));
        let key = Caller { scope: "admin", reach: Reach::All, by: By::Key(text(&made["key"])), actor: String::new() };
        let session = door.session_of(&key);
        let mut streams: Vec<TcpStream> = [&key, &session].map(|caller| follow(&door, caller)).into();
        if how == "revoked" {
            let id = text(&made["id"]);
            let before = door.ask(&session, Request::get("/v1/session")).status;
            let own = door.ask(&key, Request::new("DELETE", &format!("/v1/api-keys/{id}"))).status;
            assert_eq!((before, own), (200, 204));
            let after = [&key, &session].map(|caller| door.ask(caller, Request::get("/v1/session")).status);
            assert_eq!(after, [401, 401], "it serves after it was revoked");
        }
        wait_for("the end of key and session", SOON, || {
            let met = [&key, &session].map(|caller| door.ask(caller, Request::get("/v1/connections/mine")).status);
            (met == [401, 401]).then_some(())
        });
        for stream in &mut streams {
            wait_for("the end of a stream", SOON, || {
                let mut piece = [0; 4096];
                // The chunk that ends it, and then the end of the connection or another wait.
                stream
                    .read(&mut piece)
                    .is_ok_and(|length| piece[..length].ends_with(b"0\r\n\r\n") || length == 0)
                    .then_some(())
            });
        }
        assert_eq!(door.sign_in(&json!({"api_key": made["key"]})).status, 401, "{how}");
    }
    installation.run(&["status"]).expect_code(0);
}

/// A reader of the stream.
fn follow(door: &Door, caller: &Caller) -> TcpStream {
    let proof = match &caller.by {
        By::Key(key) => format!("authorization: Bearer {key}"),
        By::Cookie(cookie) => format!("cookie: {cookie}"),
        By::Nothing | By::Socket => panic!("{caller} has no proof"),
    };
    let mut stream = TcpStream::connect(door.address()).expect("the daemon listens");
    let request = format!("GET /v1/events/stream HTTP/1.1\r\nhost: localhost\r\n{proof}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the daemon listens");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut told = String::new();
    wait_for("hello", SOON, || {
        hear(&mut stream, &mut told);
        told.contains("event: hello").then_some(())
    });
    stream
}

#[test]
fn a_key_makes_only_lesser_keys() {
    let (_mock, _installation, _daemon, door) = house();
    let like = json!({
        "name": "team", "scopes": ["admin"], "namespaces": ["team-*"], "names": ["a*", "b"],
        "connections_per_hour": 10, "expires_in": "1h",
    });
    let made = door.make_key(&like);
    let own =
        Caller { scope: "admin", reach: Reach::OtherNames, by: By::Key(text(&made["key"])), actor: String::new() };
    let make = |changes: &Value| {
        let mut like = json!({
            "name": "k", "scopes": ["status"], "namespaces": ["team-1"], "names": ["a1"], "connections_per_hour": 1,
            "expires_in": "30m",
        });
        for (name, value) in changes.as_object().expect("changes") {
            like[name] = value.clone();
        }
        let body = like.to_string();
        door.ask(&own, Request::post("/v1/api-keys", &[JSON], &body)).status
    };
    for lesser in [json!({}), json!({"names": ["a*"]}), json!({"namespaces": ["team-*"]}), json!({"scopes": ["admin"]})]
    {
        assert_eq!(make(&lesser), 201, "{lesser}");
    }
    for more in [
        json!({"names": []}),
        json!({"names": ["*"]}),
        json!({"names": ["c"]}),
        json!({"names": ["a*", "c"]}),
        json!({"namespaces": []}),
        json!({"namespaces": ["team*"]}),
        json!({"namespaces": ["default"]}),
        json!({"connections_per_hour": 11}),
        json!({"expires_in": "2h"}),
        json!({"expires_in": null}),
    ] {
        assert_eq!(make(&more), 403, "{more}");
    }
    // Its session makes no more than itself either, and it sees no greater key.
    let session = door.session_of(&own);
    let body = json!({"name": "k", "scopes": ["status"]}).to_string();
    assert_eq!(door.ask(&session, Request::post("/v1/api-keys", &[JSON], &body)).status, 403);
    let greater = door.make_key(&json!({"name": "greater", "scopes": ["status"]}));
    let path = format!("/v1/api-keys/{}", text(&greater["id"]));
    assert_eq!(door.ask(&own, Request::new("DELETE", &path)).status, 404);
    let listed = door.ask(&own, Request::get("/v1/api-keys")).body;
    assert!(!listed.contains("greater") && listed.contains("team"), "{listed}");
}

#[test]
fn wrong_keys_are_answered_alike_and_slowed_down_and_right_ones_served() {
    let (_mock, _installation, _daemon, door) = house();
    let right = door.key_of("admin", Reach::All);
    let session = door.session_of(&right);
    let By::Key(text_of_right) = &right.by else { panic!("a key") };
    let revoked = door.make_key(&json!({"name": "r", "scopes": ["admin"]}));
    assert_eq!(door.own("DELETE", &format!("/v1/api-keys/{}", text(&revoked["id"])), "").status, 204);
    let mistyped = |at: usize| {
        let other = if text_of_right.as_bytes()[at] == b'0' { "1" } else { "0" };
        format!("{}{other}{}", &text_of_right[..at], &text_of_right[at + 1..])
    };
    let wrong = [
        mistyped(3),
        mistyped(40),
        mistyped(74),
        text(&revoked["key"]),
        "tk_".to_owned(),
        format!("tk_{}", "0".repeat(72)),
        text_of_right[..74].to_owned(),
        format!("{text_of_right}0"),
        format!("tk_{}", "x".repeat(5_000)),
    ];
    let ask = |key: &str| {
        let caller = Caller { by: By::Key(key.to_owned()), ..right.clone() };
        door.ask(&caller, Request::get("/v1/connections/mine"))
    };
    let answers: BTreeSet<String> = wrong.iter().map(|key| without_date(&ask(key))).collect();
    assert_eq!(answers.len(), 1, "it tells what is wrong with a key: {answers:?}");
    assert!(answers.iter().all(|answer| answer.contains(" 401 ") && answer.contains("\"unknown_key\"")), "{answers:?}");

    let slowed: Vec<Answer> = (0..30).map(|_| ask(&wrong[0])).filter(|answer| answer.status == 429).collect();
    assert!(slowed.len() >= 10, "{} of 39 wrong keys were slowed down", slowed.len());
    let wait: u64 = header(&slowed[0], "retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(door.sign_in(&json!({"api_key": wrong[0]})).status, 429);
    assert_eq!(door.sign_in(&json!({"setup_code": "guess"})).status, 429);
    for caller in [&right, &session] {
        assert_eq!(door.ask(caller, Request::get("/v1/connections/mine")).status, 200, "{caller} is locked out");
    }
    assert_eq!(door.sign_in(&json!({"api_key": text_of_right})).status, 201);
    assert_eq!(Request::get("/livez").at_address(door.address()).expect("an answer").status, 200);
}

#[test]
fn one_key_does_not_drain_the_fleet() {
    let (mock, _installation, daemon, door) = house();
    for nth in 0..4 {
        import(&mock, &door, "", &format!("c{nth}"));
    }
    let made = door.make_key(&json!({"name": "reader", "scopes": ["token"], "connections_per_hour": 3}));
    let key = Caller { scope: "token", reach: Reach::All, by: By::Key(text(&made["key"])), actor: String::new() };
    let session = door.session_of(&key);
    let read = |caller: &Caller, name: &str| door.ask(caller, Request::get(&format!("/v1/connections/{name}/token")));
    // An hour may end in the middle: then it is tried once more.
    let tried = |_| {
        for (caller, name) in [(&key, "c0"), (&key, "c1"), (&session, "c2"), (&key, "c0"), (&session, "c1")] {
            assert_eq!(read(caller, name).status, 200, "{name}");
        }
        let refused = [read(&key, "c3"), read(&session, "c3")];
        (refused[0].status == 429).then_some(refused)
    };
    let refused = (0..2).find_map(tried).expect("the fourth connection is refused");
    for answer in refused {
        assert_eq!((answer.status, text_of(&answer, "code")), (429, "too_many_connections".to_owned()));
        assert!(header(&answer, "retry-after").is_some() && !answer.body.contains("access_token"), "{answer:?}");
    }
    assert_eq!(read(&key, "c0").status, 200, "what it has read already");
    let alarms = || {
        let said = daemon.stderr();
        said.lines().filter(|line| line.contains("ERROR") && line.contains("more connections' tokens")).count()
    };
    // What is logged comes through a pipe.
    wait_for("the alarm", SOON, || (alarms() > 0).then_some(()));
    assert_eq!(alarms(), 1, "{}", daemon.stderr());
}
