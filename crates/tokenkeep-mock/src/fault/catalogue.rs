//! All faults, in one table: what scripts, the control interface and the command line name.

use serde::Serialize;

use super::Fault;

/// One kind of fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name.
    pub kind: &'static str,
    /// What happens, in a few words.
    pub what: &'static str,
    /// An example with all its fields.
    pub example: Fault,
}

/// Every kind of fault but [`Fault::Pass`], in the order of the enum.
pub fn entries() -> Vec<Entry> {
    let entry = |example: Fault, what: &'static str| Entry { kind: example.kind(), what, example };
    let text = |text: &str| text.to_owned();
    vec![
        entry(Fault::Delay { ms: 1_000 }, "waits, then processes and answers"),
        entry(Fault::DelayAnswer { ms: 1_000 }, "processes, waits, then answers"),
        entry(Fault::Throttled { retry_after_s: 1 }, "before: 429 with Retry-After"),
        entry(Fault::Unavailable { retry_after_s: None }, "before: 503 with or without Retry-After"),
        entry(Fault::Busy { status: 429, retry_after: None }, "before: 429 or 503, any text or no Retry-After"),
        entry(
            Fault::RateLimited { retry_after_s: 1, reason: text("jira-burst-based") },
            "before: 429 with the headers of Atlassian's API",
        ),
        entry(Fault::ServerErrorBefore { status: 500 }, "before: a 5xx"),
        entry(Fault::ServerErrorAfter { status: 502 }, "after: a 5xx"),
        entry(Fault::DropBefore, "before: closes the connection"),
        entry(Fault::DropAfter, "after: closes the connection"),
        entry(Fault::ResetBefore, "before: resets the connection"),
        entry(Fault::ResetAfter, "after: resets the connection"),
        entry(Fault::Truncated, "after: half the body, then closes"),
        entry(Fault::ChunkedCut, "after: half a chunked body, then closes"),
        entry(Fault::SlowDrip { bytes: 16, every_ms: 50 }, "after: the body comes slowly"),
        entry(Fault::Html, "before: 200 with HTML, as a captive portal"),
        entry(Fault::HtmlForbidden, "before: 403 with HTML, as a gateway"),
        entry(Fault::Redirect { location: None }, "before: 307 to another place"),
        entry(Fault::RedirectAs { status: 302 }, "before: another 3xx"),
        entry(
            Fault::Error { status: 400, error: text("invalid_request"), description: String::new() },
            "before: an OAuth error",
        ),
        entry(
            Fault::WrongType { expires_in: super::OddExpiry::String },
            "after: expires_in as string, float, null, negative, huge or missing",
        ),
        entry(
            Fault::OddField { field: text("access_token"), value: Some(1.into()) },
            "after: any field with any value, or removed",
        ),
        entry(Fault::OddBearer, "after: token_type is bEARER"),
        entry(Fault::Created, "after: 201 instead of 200"),
        entry(Fault::FormEncoded, "after: form-encoded instead of JSON"),
        entry(Fault::ContentType { value: Some(text("text/plain")) }, "after: another Content-Type, or none"),
        entry(Fault::Garbage, "after: bytes that mean nothing"),
        entry(Fault::Empty, "after: an empty body"),
        entry(Fault::Decorated, "after: a byte order mark and trailing text"),
        entry(Fault::ByteOrderMark, "after: a byte order mark"),
        entry(Fault::TrailingText, "after: trailing text"),
        entry(Fault::DuplicateKeys, "after: each field twice, first with a stale value"),
        entry(Fault::Latin1, "after: a text in Latin-1"),
        entry(Fault::Deep { levels: 10_000 }, "after: arrays within arrays"),
        entry(Fault::Oversized { bytes: 1_000_000 }, "after: a very long body"),
        entry(Fault::HugeHeaders { bytes: 100_000 }, "after: very long headers"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_fault_once() {
        // The error of an unknown kind lists the known ones: the enum itself says what must be there.
        let error = serde_json::from_str::<Fault>(r#"{"kind":"?"}"#).unwrap_err().to_string();
        let known: Vec<&str> = error.split('`').skip(3).step_by(2).filter(|&kind| kind != "pass").collect();
        assert!(known.len() > 30, "{error}");
        assert_eq!(entries().iter().map(|entry| entry.kind).collect::<Vec<_>>(), known);
    }

    #[test]
    fn each_example_reads_back() {
        for entry in entries() {
            let text = serde_json::to_string(&entry.example).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), entry.example);
        }
    }
}
