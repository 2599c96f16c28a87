//! What people watch: the stream of events, `events --follow`, `status --watch`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{COMMAND_WITHIN, Daemon, Installation};
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::{Running, wait_for};
use tokenkeep_tests::terminal::Terminal;

/// How long something may take to be shown.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);

/// A provider, and an installation with these connections of an hour.
fn with(names: &[&str]) -> (Mock, Installation, Daemon) {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    for name in names {
        installation.import(name, "mock", &mock.grant(name, Rotation::Strict, 3_600)).expect_code(0);
    }
    (mock, installation, daemon)
}

fn lines_of_json(text: &str) -> Vec<Value> {
    // The last line may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn ids(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["id"].as_u64().expect("a number")).collect()
}

fn history(installation: &Installation) -> Vec<Value> {
    lines_of_json(&installation.run(&["events", "--json"]).expect_code(0).stdout)
}

/// Waits until a follower has told the newest event, and gives all that it told.
fn caught_up(installation: &Installation, follower: &Running) -> Vec<u64> {
    let newest = *ids(&history(installation)).last().expect("something happened");
    wait_for("the follower", SHOWN_WITHIN, || {
        let told = ids(&lines_of_json(&follower.stdout()));
        (told.last() == Some(&newest)).then_some(told)
    })
}

#[test]
fn a_follower_tells_each_event_once_whatever_the_daemon_does() {
    let names: Vec<String> = (0..40).map(|nth| format!("c{nth}")).collect();
    let (_mock, installation, daemon) = with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let follow = installation.command(&["events", "--follow", "--since", "1h", "--json"]);
    let follower = Running::start(follow, Some(b""));
    caught_up(&installation, &follower);

    // Side by side, so that outcomes are published out of order.
    refresh_side_by_side(&installation, &names);
    caught_up(&installation, &follower);
    daemon.kill();
    wait_for("the loss is told", SHOWN_WITHIN, || follower.stderr().contains("waiting for the daemon").then_some(()));
    let daemon = installation.start();
    let is_back = |times: usize| (follower.stderr().matches("the daemon is back").count() == times).then_some(());
    wait_for("the follower's return", SHOWN_WITHIN, || is_back(1));
    refresh_side_by_side(&installation, &names);
    let stopping = Instant::now();
    daemon.stop().expect_code(0);
    assert!(stopping.elapsed() < Duration::from_secs(4), "a stop waits for a stream: {:?}", stopping.elapsed());
    let _daemon = installation.start();
    refresh_side_by_side(&installation, &names);
    let told = caught_up(&installation, &follower);
    assert_eq!(told, ids(&history(&installation)));
    assert!(told.len() > 4 * names.len(), "{}", told.len());
    wait_for("the second return is told", SHOWN_WITHIN, || is_back(2));
}

fn refresh_side_by_side(installation: &Installation, names: &[String]) {
    let running: Vec<Running> =
        names.iter().map(|name| Running::start(installation.command(&["refresh", name]), Some(b""))).collect();
    for refresh in running {
        refresh.finish(COMMAND_WITHIN).expect_code(0);
    }
}

#[test]
fn each_event_is_given_to_a_command_one_after_the_other() {
    let (_mock, installation, _daemon) = with(&["jira"]);
    let log = installation.path("log");
    let script = "read line; echo begin >> \"$0\"; echo \"$line\" >> \"$0\"; echo end >> \"$0\"; echo told >&2; exit 7";
    let log_name = log.to_str().expect("a path of ours");
    let command =
        installation.command(&["events", "jira", "--follow", "--exec", "sh", "-c", script, log_name, "; $(no shell)"]);
    let follower = Running::start(command, Some(b""));
    // It follows once it has a reader's place: what happens before is not told.
    wait_for("the first event", SHOWN_WITHIN, || {
        installation.run(&["refresh", "jira"]).expect_code(0);
        std::fs::read_to_string(&log).ok()
    });
    installation.run(&["refresh", "jira"]).expect_code(0);
    let last = ids(&history(&installation)).pop().expect("an event");
    let text = wait_for("the last event", SHOWN_WITHIN, || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.contains(&format!("{{\"id\":{last},")).then_some(text).filter(|text| text.ends_with("end\n"))
    });
    let lines: Vec<&str> = text.lines().collect();
    for three in lines.chunks(3) {
        assert_eq!((three[0], three[2]), ("begin", "end"), "{text}");
        let event: Value = serde_json::from_str(three[1]).expect("one line of JSON");
        assert_eq!(event["type"], "connection.refreshed");
    }
    wait_for("the report", SHOWN_WITHIN, || {
        let talk = follower.stderr();
        (talk.contains("told\n")
            && talk.contains("`sh` ended with exit code 7")
            && talk.contains(&format!("event {last}: connection.refreshed of jira")))
        .then_some(())
    });
}

#[test]
fn the_steps_of_an_attempt_are_told_in_their_order() {
    let (_mock, installation, daemon) = with(&["jira", "other"]);
    let mut stream = UnixStream::connect(daemon.socket()).expect("the daemon listens");
    stream.set_read_timeout(Some(SHOWN_WITHIN)).expect("a timeout");
    let request = "GET /v1/events/stream?connection=jira HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("the daemon listens");
    let mut text = String::new();
    read_until(&mut stream, &mut text, "event: hello");
    installation.run(&["refresh", "other"]).expect_code(0);
    installation.run(&["refresh", "jira"]).expect_code(0);
    read_until(&mut stream, &mut text, "\"published\"");
    read_until(&mut stream, &mut text, "event: event");
    let steps: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter(|data| data["step"].is_string())
        .collect();
    let told: Vec<&str> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(told, ["claimed", "sent", "answered", "stored", "published"], "{text}");
    assert!(
        steps.iter().all(|step| step["connection"] == "jira" && step["attempt"] == 1 && step["at"].is_string()),
        "{text}"
    );
}

fn read_until(stream: &mut UnixStream, text: &mut String, word: &str) {
    let mut piece = [0; 4096];
    while !text.contains(word) {
        let length = stream.read(&mut piece).unwrap_or_else(|error| panic!("{error}: no {word} in {text}"));
        assert!(length > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
}

#[test]
fn without_a_terminal_each_change_is_a_line() {
    let (_mock, installation, daemon) = with(&["jira", "github"]);
    let watch = Running::start(installation.command(&["status", "--watch"]), Some(b""));
    let shows = |text: &str| wait_for(text, SHOWN_WITHIN, || watch.stdout().contains(text).then_some(()));
    shows("jira  fresh  generation 1");
    shows("github  fresh  generation 1");
    installation.run(&["refresh", "jira"]).expect_code(0);
    shows("jira  fresh  generation 2");
    daemon.kill();
    wait_for("the loss is told", SHOWN_WITHIN, || watch.stderr().contains("waiting for the daemon").then_some(()));
    let _daemon = installation.start();
    installation.run(&["pause", "github"]).expect_code(0);
    shows("github  paused  generation 1");
    installation.run(&["remove", "github", "--yes"]).expect_code(0);
    shows("github  removed");
    assert_eq!(watch.stdout().lines().filter(|line| line.contains("jira")).count(), 2, "{}", watch.stdout());
    assert!(!watch.stdout().contains('\x1b'), "{}", watch.stdout());
}

#[test]
fn on_a_terminal_a_table_is_drawn_over_itself_and_the_terminal_given_back() {
    let (_mock, installation, daemon) = with(&["jira", "github", "google"]);
    installation.run(&["pause", "google"]).expect_code(0);
    let mut terminal = Terminal::start(installation.command(&["status", "--watch"]), 100, 24);
    let shows = |terminal: &Terminal, word: &str| {
        wait_for(word, SHOWN_WITHIN, || terminal.picture().filter(|picture| picture.contains(word)))
    };
    let picture = shows(&terminal, "GENERATION");
    assert!(picture.find("google") > picture.find("jira"), "what is paused wants nothing: {picture}");
    assert!(!terminal.echoes());
    let drawn = terminal.shown().matches("\x1b[H").count();
    wait_for("a countdown", SHOWN_WITHIN, || (terminal.shown().matches("\x1b[H").count() > drawn).then_some(()));

    terminal.resize(30, 6);
    let narrow = wait_for("a narrow table", SHOWN_WITHIN, || {
        terminal.picture().filter(|picture| picture.contains("STATUS") && !picture.contains("GENERATION"))
    });
    assert!(narrow.contains("and 2 more"), "{narrow}");
    let lines: Vec<String> = narrow.lines().map(|line| line.replace("\x1b[K", "")).collect();
    assert!(lines.len() <= 6 && lines.iter().all(|line| line.chars().count() <= 30), "{narrow}");

    terminal.resize(100, 24);
    daemon.kill();
    shows(&terminal, "OLD: ");
    let _daemon = installation.start();
    installation.run(&["refresh", "jira"]).expect_code(0);
    wait_for("what happened since", SHOWN_WITHIN, || {
        let picture = terminal.picture()?;
        let jira = picture.lines().find(|line| line.starts_with("jira"))?.replace("\x1b[K", "");
        (!picture.contains("OLD: ") && jira.trim_end().ends_with('2')).then_some(())
    });

    terminal.press(b"q");
    let code = wait_for("the end", SHOWN_WITHIN, || terminal.ended());
    assert_eq!(code, Some(0));
    given_back(&terminal);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let (_mock, installation, _daemon) = with(&["jira"]);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut terminal = Terminal::start(installation.command(&["status", "jira", "--watch"]), 80, 24);
        wait_for("a picture", SHOWN_WITHIN, || {
            terminal.picture().filter(|picture| picture.contains("access token ends"))
        });
        terminal.signal(signal);
        assert_eq!(wait_for("the end", SHOWN_WITHIN, || terminal.ended()), Some(0), "{signal:?}");
        given_back(&terminal);
    }
}

#[test]
fn a_watcher_sleeps_and_wakes_as_the_shell_says() {
    let (_mock, installation, _daemon) = with(&["jira"]);
    let mut terminal = Terminal::start(installation.command(&["status", "--watch"]), 80, 24);
    let pictures = |terminal: &Terminal| terminal.shown().matches("\x1b[H").count();
    wait_for("a picture", SHOWN_WITHIN, || terminal.picture());
    terminal.signal(Signal::TSTP);
    given_back(&terminal);
    let before = pictures(&terminal);
    terminal.signal(Signal::CONT);
    wait_for("another picture", SHOWN_WITHIN, || (pictures(&terminal) > before).then_some(()));
    assert!(!terminal.echoes());
    terminal.press(b"q");
    assert_eq!(wait_for("the end", SHOWN_WITHIN, || terminal.ended()), Some(0));
    given_back(&terminal);
}

/// The first screen, a cursor, lines that run over, an echo: as it was.
fn given_back(terminal: &Terminal) {
    wait_for("the terminal back", SHOWN_WITHIN, || {
        terminal.shown().ends_with("\x1b[?7h\x1b[?25h\x1b[?1049l").then_some(())
    });
    assert!(terminal.echoes());
}
