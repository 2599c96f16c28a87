//! What the real binary says, word for word: help, tables, errors, JSON.
//!
//! Where a change is meant, `INSTA_UPDATE=always cargo test -p tokenkeep-cli --test snapshots` writes the snapshots
//! anew; read the difference before you send it. Help has one file a command, found from `--help` itself.

#![allow(clippy::unwrap_used)]

mod fake;

use fake::{page, problem, text, tokenkeep, with_daemon, with_daemon_at_width};
use insta::{Settings, assert_snapshot};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

/// The widths that tables are shown at.
const WIDTHS: [u16; 3] = [200, 80, 40];

fn within(folder: &str) -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(Path::new("snapshots").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

/// Everything that a command said, and how it ended.
fn whole(output: &Output) -> String {
    let code = output.status.code().unwrap();
    format!("exit code {code}\n--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

fn help(command: &[String]) -> String {
    let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
    let output = tokenkeep(Path::new("/nowhere"), &arguments);
    assert_eq!(output.status.code(), Some(0), "{command:?}");
    text(&output.stdout)
}

/// The commands below `command`, whose help is `help`.
fn commands_in(command: &[String], help: &str) -> Vec<Vec<String>> {
    let Some((_, listed)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.map(|name| command.iter().cloned().chain([name.to_owned()]).collect()).collect()
}

#[test]
fn help_of_every_command() {
    let (mut waiting, mut names) = (vec![Vec::new()], BTreeSet::new());
    while let Some(command) = waiting.pop() {
        let help = help(&command);
        waiting.extend(commands_in(&command, &help));
        let is_group = help.contains("\nCommands:\n");
        assert!(is_group || help.starts_with("Examples:\n"), "`{}` has no examples first", command.join(" "));
        let name = if command.is_empty() { "tokenkeep".to_owned() } else { command.join("-") };
        within("help").bind(|| assert_snapshot!(name.clone(), help));
        names.insert(name);
    }
    assert!(names.len() > 10, "{names:?}");
    assert_eq!(snapshots_in("help"), names, "a command that is gone left its snapshot");
}

fn snapshots_in(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(folder);
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".snap").map(str::to_owned)).collect()
}

/// A connection whose times are so many days from now, and never at the edge of one.
fn connection(name: &str, status: &str, ends_in_days: i64, error: Option<&str>) -> String {
    let end = std::time::SystemTime::now() + std::time::Duration::from_secs(ends_in_days as u64 * 86_400 + 43_200);
    let end = jiff::Timestamp::try_from(end).unwrap();
    let error = error.map_or_else(
        || "null".to_owned(),
        |message| {
            format!(r#"{{"code":"invalid_grant","message":"{message}","at":null,"next_action":"Sign in again."}}"#)
        },
    );
    format!(
        r#"{{"name":"{name}","namespace":"default","provider":"atlassian","status":"{status}","generation":42,"access_expires_at":"{end}","refresh_due_at":"{end}","refresh_expires_at":null,"consent_expires_at":null,"last_refreshed_at":null,"attempts":0,"last_error":{error},"stats":{{"attempted":3,"succeeded":2,"failed":1}},"scopes":["a","b"],"labels":{{"team":"ops"}}}}"#
    )
}

fn three() -> String {
    let refused = Some("The provider says that the refresh token is no longer valid.");
    page(&[
        &connection("jira", "fresh", 20, None),
        &connection("a-connection-with-a-long-name", "needs_reauth", 30, refused),
        &connection("team:github@example.com", "in_doubt", 40, None),
    ])
}

const SUMMARY: &str = r#"{"total":3,"by_status":{"fresh":1,"in_doubt":1,"needs_reauth":1,"held":0},"next_refresh_at":null,"earliest_expiry_at":null}"#;

#[test]
fn tables_at_every_width() {
    let page = three();
    for width in WIDTHS {
        let (listed, _) = with_daemon_at_width(Some(width), &["list"], &[(200, &page)]);
        within("tables").bind(|| assert_snapshot!(format!("list-{width}"), whole(&listed)));
        let longest = text(&listed.stdout).lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(width.into()), "{longest:?} of {width}");
        let (status, _) = with_daemon_at_width(Some(width), &["status"], &[(200, &page), (200, SUMMARY)]);
        within("tables").bind(|| assert_snapshot!(format!("status-{width}"), whole(&status)));
    }
}

#[test]
fn lists_are_filtered() {
    let page = three();
    let arguments = ["list", "--status", "fresh,in_doubt", "--provider", "p", "-q", "a b", "--label", "team=ops"];
    let (output, asked) = with_daemon(&arguments, &[(200, &page)]);
    let target = "/v1/connections?namespace=default&status=fresh%2Cin_doubt&provider=p&q=a%20b&limit=1000";
    assert_eq!(asked, [format!("GET {target} HTTP/1.1")]);
    assert_eq!(text(&output.stdout).lines().count(), 4);
    let (none, _) = with_daemon(&["list", "--label", "team=dev"], &[(200, &page)]);
    within("errors").bind(|| assert_snapshot!("list-nothing-like-that", whole(&none)));
}

#[test]
fn json_shapes() {
    let one = page(&[fake::CONNECTION]);
    let (list, _) = with_daemon(&["list", "--json"], &[(200, &one)]);
    let (status, _) = with_daemon(&["status", "--json"], &[(200, &one), (200, SUMMARY)]);
    let event = r#"{"id":7,"at":"2026-11-23T10:00:00.000Z","namespace":"default","connection":"jira","type":"connection.refreshed","code":null,"message":"It is so.","data":{"generation":2}}"#;
    let events_page = page(&[event]);
    let (events, _) = with_daemon(&["events", "--json"], &[(200, &events_page)]);
    let (line, _) = with_daemon(&["events"], &[(200, &events_page)]);
    for (name, output) in [("list", list), ("status", status), ("events", events), ("events-as-lines", line)] {
        within("json").bind(|| assert_snapshot!(name, whole(&output)));
    }
}

/// What a command says in a state folder, which is shown as `[STATE]`.
fn said_in(state_dir: &Path, arguments: &[&str]) -> String {
    whole(&tokenkeep(state_dir, arguments)).replace(state_dir.to_str().unwrap(), "[STATE]")
}

#[test]
fn errors_say_cause_evidence_and_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("tokenkeep.sock");
    let mut said = vec![("no-daemon", said_in(folder.path(), &["status"]))];
    std::fs::create_dir(&socket).unwrap();
    said.push(("socket-is-a-folder", said_in(folder.path(), &["token", "jira"])));
    said.push((
        "serve-socket-is-a-folder",
        without_log(&said_in(folder.path(), &["serve", "--listen", "127.0.0.1:0"])),
    ));
    std::fs::remove_dir(&socket).unwrap();
    std::fs::write(&socket, "").unwrap();
    said.push(("socket-is-a-file", said_in(folder.path(), &["events", "--follow"])));
    std::fs::remove_file(&socket).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    said.push(("socket-is-left-over", said_in(folder.path(), &["status", "--watch"])));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    said.push(("state-folder-is-a-file", said_in(&file, &["list"])));
    let long = Path::new("/tmp").join("x".repeat(120));
    said.push(("socket-path-too-long", said_in(&long, &["list"])));
    said.push(("command-mistyped", said_in(&long, &["tokn"])));
    said.push(("status-mistyped", said_in(&long, &["list", "--status", "hold"])));
    said.push(("since-is-no-time", said_in(folder.path(), &["events", "--since", "yesterday"])));
    let (absent, _) = with_daemon(&["status", "jria"], &[(404, &problem(404, "not_found")), (200, &three())]);
    said.push(("name-mistyped", whole(&absent)));
    let (watched, _) = with_daemon(&["status", "--watch"], &[(200, "{}")]);
    said.push(("no-stream", whole(&watched)));
    for (name, text) in said {
        within("errors").bind(|| assert_snapshot!(name, text));
    }
}

/// Without lines that begin with a time.
fn without_log(said: &str) -> String {
    said.lines().filter(|line| !line.starts_with("20")).map(|line| format!("{line}\n")).collect()
}
