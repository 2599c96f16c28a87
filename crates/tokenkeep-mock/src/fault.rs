//! The ways in which the provider misbehaves, and who decides when.
//!
//! A [`Fault`] says what happens to one request. It comes from a script, which names the next faults of one grant or of
//! all, or from a [`FaultPlan`], which draws faults by probability. [`Faults`] holds both. [`catalogue`](entries) lists
//! them all, as `GET /control/faults` and `tokenkeep mock-provider --help` do.

mod catalogue;
mod plan;

use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use catalogue::{Entry, entries};
pub use plan::{Chance, FaultPlan, Faults, ImpossiblePlan, SCRIPT_MAX, ScriptFull, UnknownPlan};

use crate::answer::Answer;

/// The longest delay of an answer; longer ones are cut to this.
pub const DELAY_MS_MAX: u64 = 600_000;

/// The longest body of [`Fault::Oversized`], and the most that [`Fault::HugeHeaders`] adds.
pub const OVERSIZED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The deepest nesting of [`Fault::Deep`].
pub const DEEP_LEVELS_MAX: usize = 1_000_000;

/// The length of one header of [`Fault::HugeHeaders`].
const HEADER_BYTES: usize = 8_000;

/// What happens to one request at the token endpoint or at the API behind it.
///
/// *Before* means that the provider did not process the request: the refresh token is as it was. *After* means that it
/// did: the refresh token is rotated and its answer is delayed, spoilt or lost. In JSON, `kind` names the fault in
/// snake case beside its fields: `{"kind": "throttled", "retry_after_s": 3}`. [`entries`] has an example of each.
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
    /// Before: 429 or 503 (any other status counts as 429) whose `Retry-After` is any text, or missing.
    Busy {
        /// The status.
        status: u16,
        /// The text of `Retry-After`: an HTTP date, or nonsense. One that fits no header is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
    },
    /// Before: 429 as Atlassian's API sends it, with `Retry-After`, `X-RateLimit-*` and `RateLimit-Reason`.
    RateLimited {
        /// The seconds of `Retry-After`.
        retry_after_s: u64,
        /// `RateLimit-Reason`: `jira-burst-based`, `jira-quota-tenant-based`, `jira-quota-global-based` or
        /// `jira-per-issue-on-write`.
        reason: String,
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
    /// After: closes the connection in the middle of the body, whose length was announced.
    Truncated,
    /// After: closes the connection in the middle of a chunked body.
    ChunkedCut,
    /// After: the body comes a few bytes at a time.
    SlowDrip {
        /// How many bytes at a time; 0 counts as 1.
        bytes: usize,
        /// The time between two.
        every_ms: u64,
    },
    /// Before: 200 with a page of HTML, as a captive portal answers.
    Html,
    /// Before: 403 with a page of HTML, as a gateway answers.
    HtmlForbidden,
    /// Before: a redirect to another place.
    Redirect {
        /// The place; one on this server that does not exist where it is not given or not fit for a header.
        #[serde(default)]
        location: Option<String>,
    },
    /// Before: a redirect to the same place with another status.
    RedirectAs {
        /// The status: 301, 302, 303, 307 or 308; any other counts as 302.
        status: u16,
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
    /// After: one field of the answer has another value, of any type, or is not there.
    OddField {
        /// The field.
        field: String,
        /// Its value; `null` is a value too, and the field is removed only where none is given.
        #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
        value: Option<Value>,
    },
    /// After: `token_type` is `bEARER`.
    OddBearer,
    /// After: the status of a success is 201.
    Created,
    /// After: the answer is form-encoded.
    FormEncoded,
    /// After: the answer is announced as another type, or as none.
    ContentType {
        /// The type; one that fits no header is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
    },
    /// After: 200 with bytes that mean nothing, announced as JSON.
    Garbage,
    /// After: 200 with an empty body.
    Empty,
    /// After: the answer begins with a byte order mark and ends with text that does not belong to it.
    Decorated,
    /// After: the answer begins with a byte order mark.
    ByteOrderMark,
    /// After: the answer ends with text that does not belong to it.
    TrailingText,
    /// After: each field comes twice, first with a stale value.
    DuplicateKeys,
    /// After: the answer has a further field whose letters are Latin-1 and not UTF-8.
    Latin1,
    /// After: the answer has a further field of arrays within arrays.
    Deep {
        /// How many, at most a million.
        levels: usize,
    },
    /// After: the answer carries a further field that makes it longer by this much, at most 64 MiB.
    Oversized {
        /// How much longer.
        bytes: usize,
    },
    /// After: the answer carries further headers of this length in all, at most 64 MiB.
    HugeHeaders {
        /// How much longer.
        bytes: usize,
    },
}

/// Tells a field that is `null` from one that is not there.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
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
    /// Its body is sent in chunks, of which the last ones are missing: the connection is closed after this many bytes.
    ChunkedCut(Answer, usize),
    /// Its body is sent slowly.
    Dripped(Answer, Drip),
    /// The connection is closed and nothing is sent.
    Close,
    /// The connection is reset and nothing is sent.
    Reset,
}

/// How slowly a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drip {
    /// So many bytes at a time, at least one.
    pub bytes: usize,
    /// The time between two.
    pub every_ms: u64,
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
            Fault::Busy { .. } => "busy",
            Fault::RateLimited { .. } => "rate_limited",
            Fault::ServerErrorBefore { .. } => "server_error_before",
            Fault::ServerErrorAfter { .. } => "server_error_after",
            Fault::DropBefore => "drop_before",
            Fault::DropAfter => "drop_after",
            Fault::ResetBefore => "reset_before",
            Fault::ResetAfter => "reset_after",
            Fault::Truncated => "truncated",
            Fault::ChunkedCut => "chunked_cut",
            Fault::SlowDrip { .. } => "slow_drip",
            Fault::Html => "html",
            Fault::HtmlForbidden => "html_forbidden",
            Fault::Redirect { .. } => "redirect",
            Fault::RedirectAs { .. } => "redirect_as",
            Fault::Error { .. } => "error",
            Fault::WrongType { .. } => "wrong_type",
            Fault::OddField { .. } => "odd_field",
            Fault::OddBearer => "odd_bearer",
            Fault::Created => "created",
            Fault::FormEncoded => "form_encoded",
            Fault::ContentType { .. } => "content_type",
            Fault::Garbage => "garbage",
            Fault::Empty => "empty",
            Fault::Decorated => "decorated",
            Fault::ByteOrderMark => "byte_order_mark",
            Fault::TrailingText => "trailing_text",
            Fault::DuplicateKeys => "duplicate_keys",
            Fault::Latin1 => "latin1",
            Fault::Deep { .. } => "deep",
            Fault::Oversized { .. } => "oversized",
            Fault::HugeHeaders { .. } => "huge_headers",
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
            Fault::Throttled { retry_after_s } => retry_after(throttled(), Some(*retry_after_s)),
            Fault::Unavailable { retry_after_s } => {
                retry_after(Answer::html(StatusCode::SERVICE_UNAVAILABLE), *retry_after_s)
            }
            Fault::Busy { status, retry_after } => busy(*status, retry_after.as_deref()),
            Fault::RateLimited { retry_after_s, reason } => rate_limited(*retry_after_s, reason),
            Fault::ServerErrorBefore { status } => Answer::html(server_error(*status)),
            Fault::Html => Answer::html(StatusCode::OK),
            Fault::HtmlForbidden => Answer::html(StatusCode::FORBIDDEN),
            Fault::Redirect { location } => redirect(StatusCode::TEMPORARY_REDIRECT, location.as_deref()),
            Fault::RedirectAs { status } => redirect(redirection(*status), None),
            Fault::Error { status, error, description } => Answer::error(oauth_error(*status), error, description),
            _ => return None,
        };
        Some(Reply::Answer(answer))
    }

    /// What is sent where the request was processed and would be answered so.
    fn spoil(&self, mut answer: Answer) -> Reply {
        let half = answer.body.len() / 2;
        match self {
            Fault::DropAfter => return Reply::Close,
            Fault::ResetAfter => return Reply::Reset,
            Fault::Truncated => return Reply::Truncated(answer, half),
            Fault::ChunkedCut => return Reply::ChunkedCut(answer, half),
            Fault::SlowDrip { bytes, every_ms } => {
                let drip = Drip { bytes: (*bytes).max(1), every_ms: (*every_ms).min(DELAY_MS_MAX) };
                return Reply::Dripped(answer, drip);
            }
            Fault::ServerErrorAfter { status } => answer = Answer::html(server_error(*status)),
            Fault::FormEncoded => answer = answer.form_encoded(),
            Fault::ContentType { value } => announce(&mut answer, value.as_deref()),
            Fault::HugeHeaders { bytes } => lengthen_headers(&mut answer, *bytes),
            Fault::Decorated => frame(&mut answer, BYTE_ORDER_MARK, TRAILING_TEXT),
            Fault::ByteOrderMark => frame(&mut answer, BYTE_ORDER_MARK, b""),
            Fault::TrailingText => frame(&mut answer, b"", TRAILING_TEXT),
            _ if answer.status == StatusCode::OK => self.spoil_success(&mut answer),
            _ => {}
        }
        Reply::Answer(answer)
    }

    /// Changes an answer with tokens; a refusal stays what it is.
    fn spoil_success(&self, answer: &mut Answer) {
        match self {
            Fault::Garbage => answer.body = b"\xff\x00{\"access_token\":\x80,,".as_slice().into(),
            Fault::Empty => answer.body = "".into(),
            Fault::Created => answer.status = StatusCode::CREATED,
            Fault::WrongType { expires_in } => edit(answer, |body| expires_in.put(body)),
            Fault::OddField { field, value } => edit(answer, |body| match value {
                Some(value) => _ = body.insert(field.clone(), value.clone()),
                None => _ = body.remove(field),
            }),
            Fault::OddBearer => edit(answer, |body| _ = body.insert("token_type".to_owned(), "bEARER".into())),
            Fault::Oversized { bytes } => edit(answer, |body| {
                let padding = "x".repeat((*bytes).min(OVERSIZED_BYTES_MAX));
                body.insert("padding".to_owned(), padding.into());
            }),
            Fault::DuplicateKeys => duplicate_keys(answer),
            Fault::Latin1 => add_raw_field(answer, b"\"message\":\"Zugriff gew\xe4hrt\""),
            Fault::Deep { levels } => {
                let levels = (*levels).min(DEEP_LEVELS_MAX);
                let field = format!("\"deep\":{}{}", "[".repeat(levels), "]".repeat(levels));
                add_raw_field(answer, field.as_bytes());
            }
            _ => {}
        }
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const TRAILING_TEXT: &[u8] = b"\r\n<!-- gateway -->\n";

impl OddExpiry {
    fn put(self, body: &mut Map<String, Value>) {
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

// --- Answers that are sent instead ---

fn throttled() -> Answer {
    Answer::error(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests.")
}

fn retry_after(answer: Answer, seconds: Option<u64>) -> Answer {
    match seconds {
        Some(seconds) => answer.with_header(RETRY_AFTER, HeaderValue::from(seconds)),
        None => answer,
    }
}

fn busy(status: u16, retry_after: Option<&str>) -> Answer {
    let answer = if status == 503 { Answer::html(StatusCode::SERVICE_UNAVAILABLE) } else { throttled() };
    match retry_after.and_then(|text| HeaderValue::from_str(text).ok()) {
        Some(text) => answer.with_header(RETRY_AFTER, text),
        None => answer,
    }
}

/// The 429 of Atlassian's API. `X-RateLimit-Reset` is added where the time is known.
pub(crate) fn rate_limited(retry_after_s: u64, reason: &str) -> Answer {
    let body = json!({"errorMessages": ["Rate limit exceeded."], "errors": {}});
    let reason = HeaderValue::from_str(reason).unwrap_or(HeaderValue::from_static("jira-burst-based"));
    retry_after(Answer::json(StatusCode::TOO_MANY_REQUESTS, &body), Some(retry_after_s))
        .with_header(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(0))
        .with_header(HeaderName::from_static("x-ratelimit-nearlimit"), HeaderValue::from_static("true"))
        .with_header(HeaderName::from_static("ratelimit-reason"), reason)
}

fn redirect(status: StatusCode, location: Option<&str>) -> Answer {
    let location = location.and_then(|location| HeaderValue::from_str(location).ok());
    let location = location.unwrap_or(HeaderValue::from_static("/elsewhere"));
    Answer::html(status).with_header(LOCATION, location)
}

fn redirection(status: u16) -> StatusCode {
    match status {
        301 => StatusCode::MOVED_PERMANENTLY,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        _ => StatusCode::FOUND,
    }
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

// --- Answers that are spoilt ---

fn edit(answer: &mut Answer, change: impl FnOnce(&mut Map<String, Value>)) {
    if let Ok(Value::Object(mut body)) = serde_json::from_slice(&answer.body) {
        change(&mut body);
        answer.body = Value::Object(body).to_string().into();
    }
}

fn frame(answer: &mut Answer, before: &[u8], after: &[u8]) {
    answer.body = [before, answer.body.as_ref(), after].concat().into();
}

fn announce(answer: &mut Answer, content_type: Option<&str>) {
    answer.headers.remove(CONTENT_TYPE);
    if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(text).ok()) {
        answer.headers.insert(CONTENT_TYPE, value);
    }
}

fn lengthen_headers(answer: &mut Answer, bytes: usize) {
    let mut left = bytes.min(OVERSIZED_BYTES_MAX);
    while left > 0 {
        let length = left.min(HEADER_BYTES);
        left -= length;
        if let Ok(padding) = HeaderValue::from_str(&"x".repeat(length)) {
            answer.headers.append(HeaderName::from_static("x-padding"), padding);
        }
    }
}

/// Puts a field before the others, without asking whether it is JSON.
fn add_raw_field(answer: &mut Answer, field: &[u8]) {
    if let Some(fields) = answer.body.strip_prefix(b"{") {
        answer.body = [b"{".as_slice(), field, b",", fields].concat().into();
    }
}

fn duplicate_keys(answer: &mut Answer) {
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(&answer.body) else {
        return;
    };
    let stale: Map<String, Value> = body.into_iter().map(|(name, _)| (name, "stale".into())).collect();
    let stale = Value::Object(stale).to_string();
    add_raw_field(answer, stale.trim_start_matches('{').trim_end_matches('}').as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok() -> Answer {
        let body = serde_json::json!({"access_token": "a", "expires_in": 60});
        Answer::json(StatusCode::OK, &body)
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
