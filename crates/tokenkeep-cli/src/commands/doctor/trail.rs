//! Whether the audit trail is whole.

use super::Check;
use crate::api::audit::VerifiedJson;
use crate::client::{Client, Request};
use std::time::Duration;

/// How long a look at every record may take.
const VERIFY_MAX: Duration = Duration::from_secs(300);
/// What it is called in a report.
const NAME: &str = "audit trail";

/// Has the daemon look at every record.
pub fn check(client: &Client) -> Check {
    let asked = Request { method: "POST", target: "/v1/audit/verify", body: None, timeout: VERIFY_MAX };
    match client.send(asked).and_then(|answer| answer.json::<VerifiedJson>()) {
        Ok(found) => told(&found),
        Err(error) => Check::of_error(NAME, &error),
    }
}

/// Where nobody can be asked.
pub fn skipped() -> Check {
    Check::skipped(NAME, "only a daemon that runs can look at it")
}

fn told(found: &VerifiedJson) -> Check {
    let records = found.records;
    let noun = if records == 1 { "record" } else { "records" };
    let head = match (found.head_id, &found.head_tag) {
        (Some(id), Some(tag)) => format!("; its head is record {id}, {tag}"),
        _ => String::new(),
    };
    if found.whole {
        return Check::ok(NAME, format!("whole: {records} {noun}{head}"));
    }
    let message = found.message.as_deref().unwrap_or("it is not as it was written").trim_end_matches('.');
    let behind = found.broken_at.map_or(0, |at| at.saturating_sub(1));
    Check::fault(
        NAME,
        format!("{message}; {records} {noun} before that are whole"),
        format!(
            "somebody or something changed it outside of Tokenkeep: keep a copy of the state folder before anything else, \
             compare with what was exported (`tokenkeep audit --json`) and with heads noted elsewhere, trust nothing in it \
             behind record {behind}, and find out who could write to the folder"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_trail_that_was_changed_is_a_fault_that_names_the_record() {
        let whole = VerifiedJson {
            whole: true,
            records: 9,
            head_id: Some(9),
            head_tag: Some("ab".to_owned()),
            broken_at: None,
            message: None,
        };
        assert_eq!(told(&whole), Check::ok(NAME, "whole: 9 records; its head is record 9, ab"));
        let message = Some("Record 4: it was changed.".to_owned());
        let check = told(&VerifiedJson { whole: false, records: 3, broken_at: Some(4), message, ..whole });
        assert_eq!(check.verdict, Verdict::Fault);
        assert!(check.found.starts_with("Record 4: it was changed; 3 records"), "{}", check.found);
        assert!(check.mend.unwrap().contains("behind record 3"));
    }
}
