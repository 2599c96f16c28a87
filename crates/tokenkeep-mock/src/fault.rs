//! The ways in which the provider misbehaves, and who decides when.
//!
//! A [`Fault`] says what happens to one request. It comes from a script, which names the next faults of one grant or of
//! all, or from a [`FaultPlan`], which draws faults by probability. [`Faults`] holds both.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answer::Answer;
use crate::random::{keyed, unit};

/// The longest delay of an answer; longer ones are cut to this.
pub const DELAY_MS_MAX: u64 = 600_000;

/// How many scripted faults may wait, over all grants.
pub const SCRIPT_MAX: usize = 1_000_000;

/// The longest body of [`Fault::Oversized`].
pub const OVERSIZED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What happens to one request at the token endpoint.
///
/// *Before* means that the provider did not process the request: the refresh token is as it was. *After* means that it
/// did: the refresh token is rotated and its answer is delayed, spoilt or lost. In JSON, `kind` names the fault in
/// snake case beside its fields: `{"kind": "throttled", "retry_after_s": 3}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// None: the request is processed and answered. Lets a script pass over a request.
    Pass,
    /// Waits before the request is processed. It is processed even if the client has gone away by then.
    Delay {
        /// For how long.
        ms: u64,
    },
    /// Processes the request at once and waits before the answer.
    DelayAnswer {
        /// For how long.
        ms: u64,
    },
    /// Before: 429 with `Retry-After`.
    Throttled {
        /// The seconds of `Retry-After`.
        retry_after_s: u64,
    },
    /// Before: 503, with `Retry-After` if one is given.
    Unavailable {
        /// The seconds of `Retry-After`.
        #[serde(default)]
        retry_after_s: Option<u64>,
    },
    /// Before: a 5xx. Any other status counts as 500.
    ServerErrorBefore {
        /// The status.
        status: u16,
    },
    /// After: a 5xx. Any other status counts as 500.
    ServerErrorAfter {
        /// The status.
        status: u16,
    },
    /// Before: closes the connection without an answer.
    DropBefore,
    /// After: closes the connection without an answer.
    DropAfter,
    /// Before: resets the connection.
    ResetBefore,
    /// After: resets the connection.
    ResetAfter,
    /// After: closes the connection in the middle of the body.
    Truncated,
    /// Before: 200 with a page of HTML, as a captive portal answers.
    Html,
    /// Before: 403 with a page of HTML, as a gateway answers.
    HtmlForbidden,
    /// Before: 307 to another place.
    Redirect {
        /// The place; one on this server that does not exist where it is not given or not fit for a header.
        #[serde(default)]
        location: Option<String>,
    },
    /// Before: an OAuth error of the given status (200 or 400 to 599, else 400).
    Error {
        /// The status.
        status: u16,
        /// The error code.
        error: String,
        /// Its description.
        #[serde(default)]
        description: String,
    },
    /// After: `expires_in` has a form that the standard does not know.
    WrongType {
        /// Which form.
        expires_in: OddExpiry,
    },
    /// After: the answer is form-encoded.
    FormEncoded,
    /// After: 200 with bytes that mean nothing, announced as JSON.
    Garbage,
    /// After: 200 with an empty body.
    Empty,
    /// After: the answer begins with a byte order mark and ends with text that does not belong to it.
    Decorated,
    /// After: the answer carries a further field that makes it longer by this much, at most 64 MiB.
    Oversized {
        /// How much longer.
        bytes: usize,
    },
}

/// A form of `expires_in` that the standard does not know and that servers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OddExpiry {
    /// `"3600"`
    String,
    /// `3600.5`
    Float,
    /// `null`
    Null,
    /// `-3600`
    Negative,
    /// `1e300`
    Huge,
    /// Not there.
    Missing,
}

/// What becomes of an answer on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is sent.
    Answer(Answer),
    /// Only this many bytes of its body are sent; then the connection is closed.
    Truncated(Answer, usize),
    /// The connection is closed and nothing is sent.
    Close,
    /// The connection is reset and nothing is sent.
    Reset,
}

impl Fault {
    /// Its name, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Pass => "pass",
            Fault::Delay { .. } => "delay",
            Fault::DelayAnswer { .. } => "delay_answer",
            Fault::Throttled { .. } => "throttled",
            Fault::Unavailable { .. } => "unavailable",
            Fault::ServerErrorBefore { .. } => "server_error_before",
            Fault::ServerErrorAfter { .. } => "server_error_after",
            Fault::DropBefore => "drop_before",
            Fault::DropAfter => "drop_after",
            Fault::ResetBefore => "reset_before",
            Fault::ResetAfter => "reset_after",
            Fault::Truncated => "truncated",
            Fault::Html => "html",
            Fault::HtmlForbidden => "html_forbidden",
            Fault::Redirect { .. } => "redirect",
            Fault::Error { .. } => "error",
            Fault::WrongType { .. } => "wrong_type",
            Fault::FormEncoded => "form_encoded",
            Fault::Garbage => "garbage",
            Fault::Empty => "empty",
            Fault::Decorated => "decorated",
            Fault::Oversized { .. } => "oversized",
        }
    }

    /// How long the request waits before it is processed.
    pub fn wait_before_ms(&self) -> u64 {
        match self {
            Fault::Delay { ms } => (*ms).min(DELAY_MS_MAX),
            _ => 0,
        }
    }

    /// How long the answer waits before it is sent.
    pub fn wait_after_ms(&self) -> u64 {
        match self {
            Fault::DelayAnswer { ms } => (*ms).min(DELAY_MS_MAX),
            _ => 0,
        }
    }

    /// What is sent. Calls `process`, which answers properly, unless the fault comes before. Does not wait: that is the
    /// caller's part.
    pub fn apply(&self, process: impl FnOnce() -> Answer) -> Reply {
        match self.instead() {
            Some(reply) => reply,
            None => self.spoil(process()),
        }
    }

    /// What is sent where the request is not processed.
    fn instead(&self) -> Option<Reply> {
        let answer = match self {
            Fault::DropBefore => return Some(Reply::Close),
            Fault::ResetBefore => return Some(Reply::Reset),
            Fault::Throttled { retry_after_s } => retry_after(
                Answer::error(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests."),
                Some(*retry_after_s),
            ),
            Fault::Unavailable { retry_after_s } => {
                retry_after(Answer::html(StatusCode::SERVICE_UNAVAILABLE), *retry_after_s)
            }
            Fault::ServerErrorBefore { status } => Answer::html(server_error(*status)),
            Fault::Html => Answer::html(StatusCode::OK),
            Fault::HtmlForbidden => Answer::html(StatusCode::FORBIDDEN),
            Fault::Redirect { location } => redirect(location.as_deref()),
            Fault::Error { status, error, description } => Answer::error(oauth_error(*status), error, description),
            _ => return None,
        };
        Some(Reply::Answer(answer))
    }

    /// What is sent where the request was processed and would be answered so.
    fn spoil(&self, mut answer: Answer) -> Reply {
        match self {
            Fault::DropAfter => return Reply::Close,
            Fault::ResetAfter => return Reply::Reset,
            Fault::Truncated => {
                let sent = answer.body.len() / 2;
                return Reply::Truncated(answer, sent);
            }
            Fault::ServerErrorAfter { status } => answer = Answer::html(server_error(*status)),
            Fault::WrongType { expires_in } => edit(&mut answer, |body| expires_in.put(body)),
            Fault::FormEncoded => form_encode(&mut answer),
            Fault::Garbage => set_ok_body(&mut answer, b"\xff\x00{\"access_token\":\x80,,".to_vec()),
            Fault::Empty => set_ok_body(&mut answer, Vec::new()),
            Fault::Decorated => {
                let body = [b"\xef\xbb\xbf", answer.body.as_ref(), b"\r\n<!-- gateway -->\n"].concat();
                answer.body = body.into();
            }
            Fault::Oversized { bytes } => edit(&mut answer, |body| {
                let padding = "x".repeat((*bytes).min(OVERSIZED_BYTES_MAX));
                body.insert("padding".to_owned(), padding.into());
            }),
            _ => {}
        }
        Reply::Answer(answer)
    }
}

impl OddExpiry {
    fn put(self, body: &mut serde_json::Map<String, Value>) {
        let seconds = body.get("expires_in").and_then(Value::as_i64).unwrap_or(3_600);
        let odd = match self {
            OddExpiry::String => seconds.to_string().into(),
            OddExpiry::Float => (seconds as f64 + 0.5).into(),
            OddExpiry::Null => Value::Null,
            OddExpiry::Negative => seconds.saturating_neg().into(),
            OddExpiry::Huge => 1e300.into(),
            OddExpiry::Missing => {
                body.remove("expires_in");
                return;
            }
        };
        body.insert("expires_in".to_owned(), odd);
    }
}

fn retry_after(answer: Answer, seconds: Option<u64>) -> Answer {
    match seconds {
        Some(seconds) => answer.with_header(RETRY_AFTER, HeaderValue::from(seconds)),
        None => answer,
    }
}

fn redirect(location: Option<&str>) -> Answer {
    let location = location.and_then(|location| HeaderValue::from_str(location).ok());
    let location = location.unwrap_or(HeaderValue::from_static("/elsewhere"));
    Answer::html(StatusCode::TEMPORARY_REDIRECT).with_header(LOCATION, location)
}

fn server_error(status: u16) -> StatusCode {
    let status = StatusCode::from_u16(status).ok();
    let fitting = status.filter(StatusCode::is_server_error);
    fitting.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn oauth_error(status: u16) -> StatusCode {
    let fits = |status: &StatusCode| *status == StatusCode::OK || status.is_client_error() || status.is_server_error();
    let status = StatusCode::from_u16(status).ok().filter(fits);
    status.unwrap_or(StatusCode::BAD_REQUEST)
}

/// Replaces the body of a token answer; a refusal stays what it is.
fn set_ok_body(answer: &mut Answer, body: Vec<u8>) {
    if answer.status == StatusCode::OK {
        answer.body = body.into();
    }
}

/// Changes the fields of a token answer; a refusal stays what it is.
fn edit(answer: &mut Answer, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    if answer.status != StatusCode::OK {
        return;
    }
    if let Ok(Value::Object(mut body)) = serde_json::from_slice(&answer.body) {
        change(&mut body);
        answer.body = Value::Object(body).to_string().into();
    }
}

fn form_encode(answer: &mut Answer) {
    let Ok(Value::Object(body)) = serde_json::from_slice(&answer.body) else {
        return;
    };
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in &body {
        match value {
            Value::String(text) => form.append_pair(name, text),
            other => form.append_pair(name, &other.to_string()),
        };
    }
    let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    answer.headers.insert(http::header::CONTENT_TYPE, content_type);
    answer.body = form.finish().into();
}

/// Draws faults by probability.
///
/// What is drawn for a request follows from the seed, the grant and the number of the grant's request, and from nothing
/// else: the same plan treats the same grant alike, in whatever order the grants come.
///
/// ```
/// use tokenkeep_mock::FaultPlan;
///
/// let json = r#"{"seed": 7, "faults": [{"probability": 0.25, "fault": {"kind": "drop_after"}}]}"#;
/// let plan: FaultPlan = serde_json::from_str(json).unwrap();
/// let drops = (0..10_000).filter(|&nth| plan.decide(0, nth).is_some()).count();
/// assert!((2_300..2_700).contains(&drops));
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "PlanForm")]
pub struct FaultPlan {
    seed: u64,
    faults: Vec<Chance>,
}

/// One fault and how often it happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chance {
    /// The part of all requests, between 0 and 1.
    pub probability: f64,
    /// What happens to them.
    pub fault: Fault,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanForm {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    faults: Vec<Chance>,
}

/// A plan whose probabilities are none: one is not between 0 and 1, or they are more than 1 together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImpossiblePlan;

impl fmt::Display for ImpossiblePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("each probability must lie between 0 and 1, and all together must not exceed 1")
    }
}

impl std::error::Error for ImpossiblePlan {}

impl TryFrom<PlanForm> for FaultPlan {
    type Error = ImpossiblePlan;

    fn try_from(form: PlanForm) -> Result<Self, Self::Error> {
        Self::new(form.seed, form.faults)
    }
}

impl FaultPlan {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// Draws from `faults` with this seed.
    pub fn new(seed: u64, faults: Vec<Chance>) -> Result<Self, ImpossiblePlan> {
        let possible = |chance: &Chance| (0.0..=1.0).contains(&chance.probability);
        let total: f64 = faults.iter().map(|chance| chance.probability).sum();
        // Ten times 0.1 is a little more than 1 in binary fractions.
        if !faults.iter().all(possible) || total > 1.0 + 1e-9 {
            return Err(ImpossiblePlan);
        }
        Ok(Self { seed, faults })
    }

    /// What happens to the `nth` request of the grant with the number `key`, if anything. The same arguments always
    /// give the same fault.
    pub fn decide(&self, key: u64, nth: u64) -> Option<&Fault> {
        if self.faults.is_empty() {
            return None;
        }
        let mut draw = unit(keyed(&[self.seed, key, nth]));
        for chance in &self.faults {
            if draw < chance.probability {
                return Some(&chance.fault);
            }
            draw -= chance.probability;
        }
        None
    }
}

/// Too many scripted faults wait: more than [`SCRIPT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptFull;

impl fmt::Display for ScriptFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {SCRIPT_MAX} scripted faults may wait")
    }
}

impl std::error::Error for ScriptFull {}

/// The plan, the script, and how often each kind of fault has happened.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    plan: FaultPlan,
    for_all: VecDeque<Fault>,
    /// Never iterated: its order would differ from run to run.
    by_label: HashMap<String, VecDeque<Fault>>,
    waiting: usize,
    counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    /// Faults by plan, and an empty script.
    pub fn new(plan: FaultPlan) -> Self {
        Self { plan, ..Self::default() }
    }

    /// Replaces the plan. The script stays.
    pub fn set_plan(&mut self, plan: FaultPlan) {
        self.plan = plan;
    }

    /// Appends to the script of one grant, or to the one of all requests: each request takes one fault from its grant's
    /// script, else from the common one, else from the plan.
    pub fn script(&mut self, label: Option<&str>, faults: Vec<Fault>) -> Result<(), ScriptFull> {
        if self.waiting.saturating_add(faults.len()) > SCRIPT_MAX {
            return Err(ScriptFull);
        }
        self.waiting += faults.len();
        let queue = match label {
            Some(label) => self.by_label.entry(label.to_owned()).or_default(),
            None => &mut self.for_all,
        };
        queue.extend(faults);
        Ok(())
    }

    /// What happens to the `nth` request of a grant, given its name and number. Requests without a grant have no name
    /// and the number [`u64::MAX`].
    pub fn next(&mut self, label: Option<&str>, key: u64, nth: u64) -> Fault {
        let fault = match self.next_scripted(label) {
            Some(fault) => fault,
            None => match self.plan.decide(key, nth) {
                Some(fault) => fault.clone(),
                None => return Fault::Pass,
            },
        };
        if fault != Fault::Pass {
            *self.counts.entry(fault.kind()).or_default() += 1;
        }
        fault
    }

    fn next_scripted(&mut self, label: Option<&str>) -> Option<Fault> {
        if self.waiting == 0 {
            return None;
        }
        let of_grant = label.and_then(|label| self.next_of_grant(label));
        let fault = of_grant.or_else(|| self.for_all.pop_front())?;
        self.waiting -= 1;
        Some(fault)
    }

    fn next_of_grant(&mut self, label: &str) -> Option<Fault> {
        let queue = self.by_label.get_mut(label)?;
        let fault = queue.pop_front();
        if queue.is_empty() {
            self.by_label.remove(label);
        }
        fault
    }

    /// How often each kind of fault has happened.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// How many scripted faults wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok() -> Answer {
        let body = serde_json::json!({"access_token": "a", "expires_in": 60});
        Answer::json(StatusCode::OK, &body)
    }

    fn plan(faults: &[(f64, Fault)]) -> Result<FaultPlan, ImpossiblePlan> {
        let chance = |(probability, fault): &(f64, Fault)| Chance { probability: *probability, fault: fault.clone() };
        FaultPlan::new(1, faults.iter().map(chance).collect())
    }

    #[test]
    fn before_means_that_nothing_is_processed() {
        let before = [
            Fault::Throttled { retry_after_s: 1 },
            Fault::Unavailable { retry_after_s: None },
            Fault::ServerErrorBefore { status: 502 },
            Fault::DropBefore,
            Fault::ResetBefore,
            Fault::Html,
            Fault::HtmlForbidden,
            Fault::Redirect { location: None },
        ];
        for fault in before {
            fault.apply(|| unreachable!("{fault:?} must not process"));
        }
    }

    #[test]
    fn after_means_that_the_request_is_processed_once() {
        let after = [
            Fault::Pass,
            Fault::Delay { ms: 1 },
            Fault::DelayAnswer { ms: 1 },
            Fault::ServerErrorAfter { status: 500 },
            Fault::DropAfter,
            Fault::ResetAfter,
            Fault::Truncated,
            Fault::FormEncoded,
            Fault::Garbage,
            Fault::Empty,
            Fault::Decorated,
            Fault::Oversized { bytes: 9 },
        ];
        for fault in after {
            let mut processed = 0;
            fault.apply(|| {
                processed += 1;
                ok()
            });
            assert_eq!(processed, 1, "{fault:?}");
        }
    }

    #[test]
    fn a_status_that_does_not_fit_is_replaced() {
        for status in [0, 99, 101, 200, 404, 1_000, u16::MAX] {
            assert_eq!(server_error(status), StatusCode::INTERNAL_SERVER_ERROR);
        }
        for status in [0, 100, 204, 304, 1_000] {
            assert_eq!(oauth_error(status), StatusCode::BAD_REQUEST);
        }
        assert_eq!(oauth_error(200), StatusCode::OK);
    }

    #[test]
    fn a_script_goes_before_the_plan_and_a_grants_script_before_the_common_one() {
        let mut faults = Faults::new(plan(&[(1.0, Fault::Html)]).unwrap());
        faults.script(None, vec![Fault::DropAfter]).unwrap();
        faults.script(Some("a"), vec![Fault::Pass, Fault::Truncated]).unwrap();
        let drawn: Vec<Fault> = (0..4).map(|nth| faults.next(Some("a"), 0, nth)).collect();
        assert_eq!(drawn, [Fault::Pass, Fault::Truncated, Fault::DropAfter, Fault::Html]);
        assert_eq!(faults.waiting(), 0);
        assert_eq!(faults.counts().get("html"), Some(&1));
        assert_eq!(faults.counts().get("pass"), None);
    }

    #[test]
    fn a_script_has_a_limit() {
        let mut faults = Faults::default();
        faults.script(None, vec![Fault::Pass; SCRIPT_MAX]).unwrap();
        assert_eq!(faults.script(Some("a"), vec![Fault::Pass]), Err(ScriptFull));
    }

    #[test]
    fn impossible_probabilities_are_refused() {
        for probability in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(plan(&[(probability, Fault::Html)]), Err(ImpossiblePlan));
        }
        assert!(plan(&[(0.6, Fault::Html), (0.6, Fault::DropAfter)]).is_err());
        assert!(plan(&vec![(0.1, Fault::Html); 10]).is_ok());
    }

    #[test]
    fn a_plan_gives_each_grant_the_same_faults_in_any_order() {
        let plan = plan(&[(0.3, Fault::Html), (0.3, Fault::DropAfter)]).unwrap();
        let forwards: Vec<_> = (0..100).map(|nth| plan.decide(nth % 10, nth / 10)).collect();
        let mut backwards: Vec<_> = (0..100).rev().map(|nth| plan.decide(nth % 10, nth / 10)).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards);
        assert!(forwards.contains(&None) && forwards.contains(&Some(&Fault::DropAfter)));
    }

    #[test]
    fn json_names_each_fault_by_its_kind() {
        let texts = [
            r#"{"kind":"pass"}"#,
            r#"{"kind":"delay","ms":5}"#,
            r#"{"kind":"delay_answer","ms":5}"#,
            r#"{"kind":"throttled","retry_after_s":3}"#,
            r#"{"kind":"unavailable","retry_after_s":null}"#,
            r#"{"kind":"server_error_before","status":500}"#,
            r#"{"kind":"server_error_after","status":500}"#,
            r#"{"kind":"drop_before"}"#,
            r#"{"kind":"drop_after"}"#,
            r#"{"kind":"reset_before"}"#,
            r#"{"kind":"reset_after"}"#,
            r#"{"kind":"truncated"}"#,
            r#"{"kind":"html"}"#,
            r#"{"kind":"html_forbidden"}"#,
            r#"{"kind":"redirect","location":"/x"}"#,
            r#"{"kind":"error","status":403,"error":"e","description":""}"#,
            r#"{"kind":"wrong_type","expires_in":"float"}"#,
            r#"{"kind":"form_encoded"}"#,
            r#"{"kind":"garbage"}"#,
            r#"{"kind":"empty"}"#,
            r#"{"kind":"decorated"}"#,
            r#"{"kind":"oversized","bytes":1}"#,
        ];
        for text in texts {
            let fault: Fault = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&fault).unwrap(), text);
            assert!(text.contains(&format!("{:?}", fault.kind())), "{text}");
        }
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"delay"}"#).is_err());
    }

    #[test]
    fn odd_expiries_are_what_they_say() {
        let cases = [
            (OddExpiry::String, r#""60""#),
            (OddExpiry::Float, "60.5"),
            (OddExpiry::Null, "null"),
            (OddExpiry::Negative, "-60"),
            (OddExpiry::Huge, "1e"),
        ];
        for (expires_in, text) in cases {
            let Reply::Answer(answer) = (Fault::WrongType { expires_in }).apply(ok) else {
                panic!("an answer is sent");
            };
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            assert!(body.contains(&format!(r#""expires_in":{text}"#)), "{body}");
        }
    }
}
