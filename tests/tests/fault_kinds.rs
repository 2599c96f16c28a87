//! Every way in which the mock misbehaves, against one daemon at once: status, event and log say what it was, in the
//! catalogue's words, and what follows is what the provider's rotation class allows.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use tokenkeep_core::FailureCode;
use tokenkeep_mock::{Fault, Rotation};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::http::{Answer, Request};
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::told::expect_told;

/// How many connections meet each fault at each provider.
const COPIES: usize = 5;
/// How many of them are refreshed at once.
const THREADS: usize = 16;
/// So long that nothing is due while the test lasts.
const ACCESS_TTL_S: i64 = 30 * 86_400;

/// What is expected of a fault.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// It does no harm.
    Renewed,
    /// The refresh fails: the status at a strict provider and at a persistent one, and the cause that is told.
    Failed(&'static str, &'static str, FailureCode),
    /// The provider wants to be left alone, and is.
    Throttled,
}

use Expected::{Failed, Renewed, Throttled};
use FailureCode as Code;

/// Every kind of fault, with its fields, and what is expected of it.
const TABLE: &[(&str, Expected)] = &[
    (r#"{"kind":"pass"}"#, Renewed),
    (r#"{"kind":"delay","ms":300}"#, Renewed),
    (r#"{"kind":"delay_answer","ms":300}"#, Renewed),
    (r#"{"kind":"throttled","retry_after_s":60}"#, Throttled),
    (r#"{"kind":"unavailable"}"#, Failed("in_doubt", "retrying", Code::Unavailable)),
    (r#"{"kind":"busy","status":429}"#, Throttled),
    (r#"{"kind":"busy","status":429,"retry_after":"soon"}"#, Throttled),
    (r#"{"kind":"busy","status":503,"retry_after":"soon"}"#, Failed("in_doubt", "retrying", Code::Unavailable)),
    (r#"{"kind":"rate_limited","retry_after_s":60,"reason":"jira-burst-based"}"#, Throttled),
    (r#"{"kind":"server_error_before","status":500}"#, Failed("in_doubt", "retrying", Code::ServerError)),
    (r#"{"kind":"server_error_before","status":504}"#, Failed("in_doubt", "retrying", Code::ServerError)),
    (r#"{"kind":"server_error_after","status":502}"#, Failed("in_doubt", "retrying", Code::ServerError)),
    (r#"{"kind":"drop_before"}"#, Failed("in_doubt", "retrying", Code::ConnectionLost)),
    (r#"{"kind":"drop_after"}"#, Failed("in_doubt", "retrying", Code::ConnectionLost)),
    (r#"{"kind":"reset_before"}"#, Failed("in_doubt", "retrying", Code::ConnectionLost)),
    (r#"{"kind":"reset_after"}"#, Failed("in_doubt", "retrying", Code::ConnectionLost)),
    (r#"{"kind":"truncated"}"#, Failed("in_doubt", "retrying", Code::AnswerTruncated)),
    (r#"{"kind":"chunked_cut"}"#, Failed("in_doubt", "retrying", Code::AnswerTruncated)),
    (r#"{"kind":"slow_drip","bytes":64,"every_ms":20}"#, Renewed),
    (r#"{"kind":"html"}"#, Failed("in_doubt", "retrying", Code::AnswerUnreadable)),
    (r#"{"kind":"html_forbidden"}"#, Failed("retrying", "retrying", Code::UnknownAnswer)),
    (r#"{"kind":"redirect"}"#, Failed("held", "held", Code::WrongEndpoint)),
    (r#"{"kind":"redirect_as","status":302}"#, Failed("held", "held", Code::WrongEndpoint)),
    (r#"{"kind":"error","status":400,"error":"invalid_request"}"#, Failed("held", "held", Code::InvalidRequest)),
    (r#"{"kind":"error","status":400,"error":"invalid_scope"}"#, Failed("held", "held", Code::InvalidScope)),
    (r#"{"kind":"error","status":401,"error":"invalid_client"}"#, Failed("held", "held", Code::InvalidClient)),
    (
        r#"{"kind":"error","status":400,"error":"unauthorized_client"}"#,
        Failed("held", "held", Code::UnauthorizedClient),
    ),
    (r#"{"kind":"error","status":400,"error":"moon_phase"}"#, Failed("retrying", "retrying", Code::UnknownAnswer)),
    (r#"{"kind":"error","status":200,"error":"moon_phase"}"#, Failed("retrying", "retrying", Code::UnknownAnswer)),
    (r#"{"kind":"wrong_type","expires_in":"string"}"#, Renewed),
    (r#"{"kind":"wrong_type","expires_in":"float"}"#, Renewed),
    (r#"{"kind":"wrong_type","expires_in":"null"}"#, Renewed),
    (r#"{"kind":"wrong_type","expires_in":"negative"}"#, Renewed),
    (r#"{"kind":"wrong_type","expires_in":"huge"}"#, Renewed),
    (r#"{"kind":"wrong_type","expires_in":"missing"}"#, Renewed),
    (r#"{"kind":"odd_field","field":"access_token","value":1}"#, Failed("in_doubt", "retrying", Code::AnswerInvalid)),
    (r#"{"kind":"odd_field","field":"access_token"}"#, Failed("in_doubt", "retrying", Code::AnswerUnreadable)),
    (r#"{"kind":"odd_field","field":"scope","value":7}"#, Renewed),
    (r#"{"kind":"odd_bearer"}"#, Renewed),
    (r#"{"kind":"created"}"#, Renewed),
    (r#"{"kind":"form_encoded"}"#, Renewed),
    (r#"{"kind":"content_type","value":"text/html"}"#, Renewed),
    (r#"{"kind":"content_type"}"#, Renewed),
    (r#"{"kind":"garbage"}"#, Failed("in_doubt", "retrying", Code::AnswerUnreadable)),
    (r#"{"kind":"empty"}"#, Failed("in_doubt", "retrying", Code::AnswerUnreadable)),
    (r#"{"kind":"decorated"}"#, Renewed),
    (r#"{"kind":"byte_order_mark"}"#, Renewed),
    (r#"{"kind":"trailing_text"}"#, Renewed),
    (r#"{"kind":"duplicate_keys"}"#, Renewed),
    (r#"{"kind":"latin1"}"#, Renewed),
    (r#"{"kind":"deep","levels":10000}"#, Renewed),
    (r#"{"kind":"oversized","bytes":1000000}"#, Failed("in_doubt", "retrying", Code::AnswerTooLarge)),
    (r#"{"kind":"huge_headers","bytes":100000}"#, Failed("in_doubt", "retrying", Code::AnswerTooLarge)),
];

/// The kinds that this build of the mock knows, as its own error names them.
fn known_kinds() -> BTreeSet<String> {
    let error = serde_json::from_str::<Fault>(r#"{"kind":"?"}"#).expect_err("there is no such kind").to_string();
    error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

fn kind(fault: &str) -> String {
    let fault: Value = serde_json::from_str(fault).expect("the table is JSON");
    fault["kind"].as_str().expect("a kind").to_owned()
}

#[test]
fn the_table_has_every_kind() {
    let (known, told) = (known_kinds(), TABLE.iter().map(|(fault, _)| kind(fault)).collect::<BTreeSet<_>>());
    assert!(known.len() >= 22, "{known:?}");
    let missing: Vec<_> = known.difference(&told).collect();
    assert!(missing.is_empty(), "say in the table what is expected of {missing:?}");
}

/// One connection and the fault that it meets. Its provider is its own, so that no trouble of another is told as its.
#[derive(Debug)]
struct Trial {
    name: String,
    rotation: Rotation,
    fault: Fault,
    expected: Expected,
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (nth, (fault, expected)) in TABLE.iter().enumerate() {
        for (class, rotation) in [("strict", Rotation::Strict), ("persistent", Rotation::Persistent)] {
            for copy in 0..COPIES {
                let name = format!("{}-{nth}-{class}-{copy}", kind(fault).replace('_', "-"));
                let fault = serde_json::from_str(fault).unwrap_or_else(|error| panic!("{fault}: {error}"));
                trials.push(Trial { name, rotation, fault, expected: *expected });
            }
        }
    }
    trials
}

#[test]
fn every_fault_is_told_as_what_it_was() {
    let mock = Mock::start();
    let trials = trials();
    let sections: String = trials.iter().map(|trial| trial.section(&mock)).collect();
    // One failure is enough to be told as an event.
    let installation = Installation::new(&format!("[refresh]\nmax_retries = 1\n{sections}"));
    let daemon = installation.start();
    installation.import_lines(&trials.iter().map(|trial| trial.grant(&mock)).collect::<String>());

    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    trial.run(&mock, &daemon);
                }
            });
        }
    });

    let log = daemon.stderr();
    for trial in &trials {
        trial.expect_logged(&log);
    }
    println!("{} connections, {} kinds", trials.len(), known_kinds().len());
    assert_eq!(next.into_inner(), trials.len() + THREADS, "a trial was left out");
    daemon.stop().expect_code(0);
}

impl Trial {
    fn class(&self) -> &'static str {
        if self.rotation == Rotation::Strict { "strict" } else { "persistent" }
    }

    fn section(&self, mock: &Mock) -> String {
        // Another query is another endpoint, with an admission of its own.
        let section = mock.section(&self.name, self.class());
        section.replace("/token\"", &format!("/token?of={}\"", self.name))
    }

    fn grant(&self, mock: &Mock) -> String {
        let token = mock.grant(&self.name, self.rotation, ACCESS_TTL_S);
        mock.state().script(Some(&self.name), vec![self.fault.clone()]).expect("the script has room");
        json!({"name": self.name, "provider": self.name, "token": token}).to_string() + "\n"
    }

    fn run(&self, mock: &Mock, daemon: &Daemon) {
        let answer = self.post(daemon, "refresh", "");
        assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
        let connection = answer.json();
        match self.failure() {
            None => assert_eq!((&connection["status"], &connection["last_error"]), (&"fresh".into(), &Value::Null)),
            Some((status, code)) => {
                expect_told(&connection, status, code);
                self.expect_event(daemon, status, code);
                self.expect_way_on(mock, daemon, status);
            }
        }
    }

    /// The status and the cause that must be told.
    fn failure(&self) -> Option<(&'static str, FailureCode)> {
        match self.expected {
            Renewed => None,
            Throttled => Some(("retrying", Code::RateLimited)),
            Failed(strict, _, code) if self.rotation == Rotation::Strict => Some((strict, code)),
            Failed(_, persistent, code) => Some((persistent, code)),
        }
    }

    fn post(&self, daemon: &Daemon, action: &str, body: &str) -> Answer {
        let path = format!("/v1/connections/{}/{action}", self.name);
        daemon.ask(Request::post(&path, &[("content-type", "application/json")], body))
    }

    fn expect_event(&self, daemon: &Daemon, status: &str, code: FailureCode) {
        let kind = match status {
            "retrying" => "connection.refresh_failed",
            "in_doubt" => "connection.in_doubt",
            _ => "connection.held",
        };
        let events = daemon.ask(Request::get(&format!("/v1/events?connection={}", self.name))).json();
        let mut events = events["items"].as_array().expect("a list of events").iter();
        let event = events.find(|event| event["type"] == kind).unwrap_or_else(|| panic!("{self:?}: no {kind}"));
        assert_eq!(event["code"], code.as_str(), "{self:?}: {event}");
        assert!(event["message"].as_str().is_some_and(|text| text.starts_with(code.sentence())), "{event}");
    }

    /// What a forced refresh makes of it, when the provider is well again.
    fn expect_way_on(&self, mock: &Mock, daemon: &Daemon, status: &str) {
        if status == "held" {
            assert_eq!(self.post(daemon, "resume", "").status, 200);
        }
        let has_rotated = self.rotation == Rotation::Strict && mock.ledger(&self.name).refreshes == 1;
        let answer = self.post(daemon, "refresh", "{\"force\": true}");
        let told = answer.json();
        match self.expected {
            Throttled => assert_eq!((answer.status, told["retry_at"].is_string()), (503, true), "{self:?}: {answer:?}"),
            // The answer that was lost held the only good refresh token.
            _ if has_rotated => expect_told(&told, "needs_reauth", Code::LostInFlight),
            _ => assert_eq!((answer.status, &told["status"]), (200, &"fresh".into()), "{self:?}: {answer:?}"),
        }
    }

    fn expect_logged(&self, log: &str) {
        let named = format!("connection={} ", self.name);
        let mut lines = log.lines().filter(|line| line.contains(&named) && line.contains("refresh failed"));
        let Some((_, code)) = self.failure() else {
            return assert_eq!(lines.next(), None, "{self:?} was renewed");
        };
        let line = lines.next().unwrap_or_else(|| panic!("{self:?} is not in the log"));
        let words = [format!("code={code} "), code.sentence().to_owned()];
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
}
