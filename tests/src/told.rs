//! What people are told of a failure: the same code and the catalogue's words, wherever they look.

use serde_json::Value;
use tokenkeep_core::FailureCode;
use tokenkeep_core::failure::next_step_for;

/// Panics unless `connection`, as the API shows it, has this status and tells of this failure in the catalogue's words.
#[track_caller]
pub fn expect_told(connection: &Value, status: &str, code: FailureCode) {
    let error = &connection["last_error"];
    assert_eq!((&connection["status"], &error["code"]), (&status.into(), &code.as_str().into()), "{connection}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.starts_with(code.sentence()), "not the catalogue's sentence: {connection}");
    let name = connection["name"].as_str().unwrap_or_default();
    assert_eq!(error["next_action"], next_step_for(code.next_step(), name), "{connection}");
}
