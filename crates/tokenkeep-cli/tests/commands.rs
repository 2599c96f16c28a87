//! The real binary, where it needs no engine: against nothing, and against a daemon of few words.

#![allow(clippy::unwrap_used)]

mod fake;

use fake::{CONNECTION, page, problem, text, tokenkeep, with_daemon};
use std::process::{Command, Stdio};

const TOKEN: &str = r#"{"access_token":"secret-1","token_type":"Bearer","expires_at":"2026-11-23T10:00:00Z","expires_in":60,"scope":"a","generation":1,"stale":true,"warnings":["unknown_age"]}"#;

#[test]
fn token_prints_the_token_and_nothing_else_on_standard_output() {
    let (output, asked) = with_daemon(&["token", "jira", "--min-ttl", "5m"], &[(200, TOKEN)]);
    assert_eq!(text(&output.stdout), "secret-1\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(asked, ["GET /v1/connections/jira/token?min_ttl=300000ms HTTP/1.1"]);
    let talk = text(&output.stderr);
    assert!(talk.contains("stale") && talk.contains("unknown_age"));
    assert!(!talk.contains("secret-1"));
    let (output, _) = with_daemon(&["token", "jira", "--header"], &[(200, TOKEN)]);
    assert_eq!(text(&output.stdout), "Authorization: Bearer secret-1\n");
}

#[test]
fn problems_decide_the_exit_code() {
    for (status, code, exit) in
        [(409, "needs_reauth", 4), (503, "expired", 75), (500, "internal", 1), (400, "invalid", 1)]
    {
        let body = problem(status, code);
        let (output, _) = with_daemon(&["token", "jira"], &[(status, &body)]);
        assert_eq!(output.status.code(), Some(exit), "{code}");
        assert_eq!(text(&output.stderr), "error: it is so\nnext: do it\n");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_sign_in_that_nobody_ends_is_waited_for_as_long_as_it_lives() {
    let begun = |proof: &str| {
        format!(r#"{{"id":"s","flow":"code","url":"http://127.0.0.1:9/",{proof}"expires_at":"2026-01-01T00:00:00Z"}}"#)
    };
    let arguments = ["connect", "jira", "--provider", "p", "--no-browser"];
    let (output, _) = with_daemon(&arguments, &[(201, &begun(r#""proof":"mine","#))]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error: nobody has signed in in time\nnext: "), "{output:?}");

    let (output, asked) = with_daemon(&arguments, &[(201, &begun("")), (404, &problem(404, "not_found"))]);
    assert_eq!((output.status.code(), &*asked[1]), (Some(1), "GET /v1/connect/s HTTP/1.1"));
    assert!(text(&output.stderr).contains("error: nobody has signed in in time, or the daemon was"), "{output:?}");
}

#[test]
fn a_name_that_does_not_exist_is_compared_with_those_that_do() {
    let page = page(&[CONNECTION]);
    let answers = [(404, &*problem(404, "not_found")), (200, &*page)];
    let (output, _) = with_daemon(&["pause", "jria"], &answers);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("did you mean `jira`?"));
    let (output, _) = with_daemon(&["list", "--json"], &[(200, &page)]);
    assert_eq!(output.status.code(), Some(4), "one needs a human");
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed[0]["name"], "jira");
}

#[test]
fn without_a_daemon_commands_say_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["token", "jira"][..], &["list"], &["events"], &["status"]] {
        let output = tokenkeep(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains("start one with `tokenkeep serve`"));
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["tokn"][..],
        &["token", "a/b"],
        &["demo", "--listen", "0.0.0.0:1"],
        &["remove", "jira"],
        &["token", "jira", "--url", "localhost:7878"],
        &["token", "jira", "--url", "http://keep.example"],
        &["export", "jira", "--yes", "--url", "http://localhost"],
        &["backup", "-o", "-", "--url", "http://localhost"],
        &["master-key", "rotate", "--url", "http://localhost"],
        &["api-key", "setup", "--url", "http://localhost"],
        &["api-key", "revoke", "x"],
    ] {
        let output = tokenkeep(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_wrong_configuration_is_shown_with_its_place_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenkeep.toml");
    std::fs::write(&path, "[refresh]\nmax_retires = 3\n").unwrap();
    let state = folder.path().join("state");
    let output = tokenkeep(&state, &["serve", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let talk = text(&output.stderr);
    assert!(talk.contains("tokenkeep.toml:2:1: unknown key `max_retires`"));
    assert!(talk.contains("did you mean `max_retries`?"));
    assert!(!state.exists());
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tokenkeep"))
        .args(["providers", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
