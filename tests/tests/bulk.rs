//! `POST /v1/bulk` and `Idempotency-Key` of the real binary: what was previewed is done, at a pace, to what the caller's
//! rights reach, once; and the audit trail has it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::wait_for;

/// Connections `a0`, ...; and as many `b0`, ....
const EACH: usize = 12;
/// The pace that docs/api.md states.
const PER_SECOND: u32 = 10;
const ENDED_WITHIN: Duration = Duration::from_secs(60);

struct Bench {
    mock: Mock,
    _installation: Installation,
    daemon: Daemon,
}

impl Bench {
    fn start() -> Self {
        let mock = Mock::start();
        let authorize = format!("authorize_url = \"http://{}/authorize\"\n", mock.address());
        let installation = Installation::new(&(mock.section("mock", "strict") + &authorize));
        let daemon = installation.start();
        for prefix in ["a", "b"] {
            installation.import_lines(&mock.grants(prefix, EACH, 3_600, "mock"));
        }
        Self { mock, _installation: installation, daemon }
    }

    /// A key of these rights, as `Authorization`.
    fn key(&self, scopes: &[&str], names: &[&str]) -> String {
        let body = json!({"name": "k", "scopes": scopes, "names": names}).to_string();
        let made = self.daemon.ask(Request::post("/v1/api-keys", &[], &body));
        assert_eq!(made.status, 201, "{made:?}");
        format!("Bearer {}", made.json()["key"].as_str().expect("a key"))
    }

    fn ask(&self, key: Option<&str>, method: &str, path: &str, body: &Value) -> Answer {
        let authorization = key.map(|key| ("authorization", key));
        let headers: Vec<_> = authorization.into_iter().collect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.daemon.ask(Request { method, path, headers: &headers, body: &body })
    }

    fn bulk(&self, key: Option<&str>, body: &Value) -> Answer {
        self.ask(key, "POST", "/v1/bulk", body)
    }

    fn preview(&self, key: Option<&str>, body: &Value) -> Value {
        let answer = self.bulk(key, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Previews it, confirms it, and waits for its end.
    fn done(&self, key: Option<&str>, body: &Value) -> Value {
        let confirmed = confirmed(body, &self.preview(key, body));
        let begun = self.bulk(key, &confirmed);
        assert_eq!(begun.status, 202, "{begun:?}");
        let path = format!("/v1/bulk/{}", begun.json()["id"].as_str().expect("an id"));
        assert!(begun.head.to_lowercase().contains(&format!("location: {path}")), "{}", begun.head);
        wait_for("the job's end", ENDED_WITHIN, || {
            let job = self.ask(key, "GET", &path, &Value::Null).json();
            (job["status"] != "running").then_some(job)
        })
    }

    fn count(&self, status: &str) -> usize {
        let path = format!("/v1/connections?status={status}");
        self.ask(None, "GET", &path, &Value::Null).json()["items"].as_array().expect("a page").len()
    }

    fn audit(&self) -> Vec<Value> {
        let page = self.ask(None, "GET", "/v1/audit?limit=1000", &Value::Null).json();
        page["items"].as_array().expect("a page").clone()
    }
}

fn confirmed(body: &Value, preview: &Value) -> Value {
    let mut confirmed = body.clone();
    confirmed["confirm"] = preview["confirm"].clone();
    confirmed
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().expect("a problem").to_owned())
}

#[test]
fn what_was_previewed_is_done_at_a_pace() {
    let bench = Bench::start();
    let all = json!({"action": "refresh", "filter": {}});
    let preview = bench.preview(None, &all);
    assert_eq!((&preview["count"], &preview["sample"][0]), (&json!(2 * EACH), &json!("a0")));
    assert_eq!(bench.mock.totals().refreshes, 0, "nothing is done yet");

    let began = Instant::now();
    let job = bench.done(None, &all);
    assert_eq!((&job["status"], &job["succeeded"], &job["failed"]), (&json!("ended"), &json!(2 * EACH), &json!(0)));
    let least = Duration::from_secs(1) / PER_SECOND * (2 * EACH as u32 - 1);
    assert!(began.elapsed() >= least, "{:?} is faster than {PER_SECOND} a second", began.elapsed());
    assert_eq!(bench.mock.totals().refreshes, 2 * EACH as u64, "each was refreshed once");

    let paused = bench.done(None, &json!({"action": "pause", "names": ["a0", "a1", "nobody"]}));
    assert_eq!((&paused["count"], bench.count("paused")), (&json!(2), 2));
    let refused = bench.done(None, &json!({"action": "refresh", "filter": {"status": "paused"}}));
    assert_eq!((&refused["failed"], &refused["failures"][0]["code"]), (&json!(2), &json!("paused")));
    bench.done(None, &json!({"action": "resume", "filter": {"status": "paused"}}));
    assert_eq!(bench.count("paused"), 0);
    bench.done(None, &json!({"action": "remove", "filter": {"q": "b"}}));
    assert_eq!(bench.count("fresh"), EACH);

    let trail = bench.audit();
    let ended = trail.iter().find(|record| record["action"] == "bulk.remove ended").expect("its end is noted");
    assert_eq!(ended["outcome"], EACH);
    let id = ended["target"].as_str().expect("a job");
    let begun = trail.iter().find(|record| record["target"] == format!("{id}: remove {EACH}").as_str());
    assert_eq!(begun.expect("its beginning is noted")["outcome"], 202);
}

#[test]
fn a_confirmation_is_for_one_caller_one_action_and_one_set_once() {
    let bench = Bench::start();
    let pause = json!({"action": "pause", "filter": {"q": "a"}});
    let preview = bench.preview(None, &pause);
    let key = bench.key(&["manage"], &[]);
    let changed = (409, "bulk_changed".to_owned());
    assert_eq!(code(&bench.bulk(Some(&key), &confirmed(&pause, &preview))), changed, "another caller");
    let remove = json!({"action": "remove", "filter": {"q": "a"}});
    assert_eq!(code(&bench.bulk(None, &confirmed(&remove, &preview))), changed, "another action");
    let more = json!({"action": "pause", "filter": {}});
    assert_eq!(code(&bench.bulk(None, &confirmed(&more, &preview))), changed, "another set");
    assert_eq!(bench.count("paused"), 0);
    assert_eq!(bench.bulk(None, &confirmed(&pause, &preview)).status, 202);
    let again = bench.bulk(None, &confirmed(&pause, &preview));
    assert_eq!(code(&again), (409, "bulk_unknown_confirm".to_owned()));
}

#[test]
fn a_key_reaches_what_its_rights_reach() {
    let bench = Bench::start();
    let refresher = bench.key(&["refresh"], &["a*"]);
    let pause = json!({"action": "pause", "filter": {}});
    assert_eq!(code(&bench.bulk(Some(&refresher), &pause)), (403, "forbidden".to_owned()));
    let preview = bench.preview(Some(&refresher), &json!({"action": "refresh", "filter": {}}));
    assert_eq!(preview["count"], EACH);
    let names = json!({"action": "refresh", "names": ["a1", "b1", "nobody"]});
    let preview = bench.preview(Some(&refresher), &names);
    assert_eq!((&preview["sample"], &preview["not_found"]), (&json!(["a1"]), &json!(["b1", "nobody"])));

    let begun = bench.bulk(Some(&refresher), &confirmed(&names, &preview)).json();
    let path = format!("/v1/bulk/{}", begun["id"].as_str().expect("an id"));
    let other = bench.key(&["admin"], &["a*"]);
    assert_eq!(bench.ask(Some(&other), "GET", &path, &Value::Null).status, 404, "another caller's job");
    assert_eq!(bench.ask(None, "GET", &path, &Value::Null).status, 200);
}

#[test]
fn a_job_ends_with_its_key() {
    let bench = Bench::start();
    let made = bench.daemon.admin_key();
    let key = Some(made.authorization.as_str());
    let pause = json!({"action": "pause", "filter": {}});
    let begun = bench.bulk(key, &confirmed(&pause, &bench.preview(key, &pause))).json();
    let revoked = bench.ask(None, "DELETE", &format!("/v1/api-keys/{}", made.id), &Value::Null);
    assert_eq!(revoked.status, 204);
    let path = format!("/v1/bulk/{}", begun["id"].as_str().expect("an id"));
    let job = wait_for("the job's end", ENDED_WITHIN, || {
        let job = bench.ask(None, "GET", &path, &Value::Null).json();
        (job["status"] != "running").then_some(job)
    });
    assert_eq!(job["status"], "stopped");
    assert!(bench.count("paused") < 2 * EACH, "{job}");
}

#[test]
fn a_request_with_a_key_of_its_own_is_done_once() {
    let bench = Bench::start();
    let refresh = |path: &str, key: &str| bench.daemon.ask(Request::post(path, &[("idempotency-key", key)], ""));
    let (first, second) = (refresh("/v1/connections/a0/refresh", "k"), refresh("/v1/connections/a0/refresh", "k"));
    assert_eq!((first.status, &first.body), (200, &second.body));
    assert!(!first.head.contains("idempotent-replayed") && second.head.contains("idempotent-replayed: true"));
    assert_eq!(bench.mock.totals().refreshes, 1);
    assert_eq!(code(&refresh("/v1/connections/a1/refresh", "k")), (422, "idempotency_key_reused".to_owned()));
    let make = || {
        let body = r#"{"name": "once", "scopes": ["status"]}"#;
        bench.daemon.ask(Request::post("/v1/api-keys", &[("idempotency-key", "make")], body))
    };
    assert_eq!(make().status, 201);
    let again = make();
    assert_eq!(code(&again), (409, "idempotency_answer_not_kept".to_owned()));
    let keys = bench.ask(None, "GET", "/v1/api-keys", &Value::Null).json();
    assert_eq!(keys["items"].as_array().map(Vec::len), Some(1), "one was made");
    let sign_in = || {
        let body = r#"{"name": "new", "provider": "mock", "redirect_uri": "http://127.0.0.1:9/"}"#;
        bench.daemon.ask(Request::post("/v1/connect", &[("idempotency-key", "sign-in")], body))
    };
    assert_eq!(sign_in().status, 201);
    assert_eq!(code(&sign_in()), (409, "idempotency_answer_not_kept".to_owned()), "its proof is a secret");
}
