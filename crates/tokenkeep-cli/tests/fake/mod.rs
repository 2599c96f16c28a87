//! The real binary, and a daemon of few words for it to ask.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs a command in a state folder, with nothing else in its environment.
pub fn tokenkeep(state_dir: &Path, arguments: &[&str]) -> Output {
    tokenkeep_at_width(None, state_dir, arguments)
}

fn tokenkeep_at_width(columns: Option<u16>, state_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenkeep"));
    command.args(arguments).env_clear().env("TOKENKEEP_STATE_DIR", state_dir).stdin(Stdio::null());
    if let Some(columns) = columns {
        command.env("COLUMNS", columns.to_string());
    }
    command.output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command against a daemon that gives these answers, one a connection; also what it was asked.
pub fn with_daemon(arguments: &[&str], answers: &[(u16, &str)]) -> (Output, Vec<String>) {
    with_daemon_at_width(None, arguments, answers)
}

/// The same where a line has so many columns.
pub fn with_daemon_at_width(
    columns: Option<u16>,
    arguments: &[&str],
    answers: &[(u16, &str)],
) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("tokenkeep.sock")).unwrap();
    let answers: Vec<(u16, String)> = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
    let daemon = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 64 * 1024];
            let size = stream.read(&mut request).unwrap();
            asked.push(text(&request[..size]).lines().next().unwrap().to_owned());
            let size = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {size}\r\n\r\n{body}");
            // A client that has read enough may be gone; what it makes of the answer is what the test looks at.
            let _ = stream.write_all(answer.as_bytes());
        }
        asked
    });
    let output = tokenkeep_at_width(columns, folder.path(), arguments);
    (output, daemon.join().unwrap())
}

pub fn problem(status: u16, code: &str) -> String {
    format!(
        r#"{{"type":"about:blank","title":"X","status":{status},"detail":"it is so","code":"{code}","next_action":"do it","retry_at":null}}"#
    )
}

/// A connection of the API that needs a human.
pub const CONNECTION: &str = r#"{"name":"jira","namespace":"default","provider":"p","status":"needs_reauth","generation":1,"access_expires_at":null,"refresh_due_at":null,"refresh_expires_at":null,"consent_expires_at":null,"last_refreshed_at":null,"attempts":0,"last_error":null,"stats":{"attempted":0,"succeeded":0,"failed":0},"scopes":[],"labels":{}}"#;

/// A page that is the last one.
pub fn page(items: &[&str]) -> String {
    format!(r#"{{"items":[{}],"next_cursor":null}}"#, items.join(","))
}
