//! The configuration of the real daemon: checked, shown, and read again while it runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{COMMAND_WITHIN, Daemon, Installation, command};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::{CLIENT_SECRET, Mock};
use tokenkeep_tests::process::{Ran, Running, wait_for};

/// The longest time from SIGHUP to its effect.
const SOON: Duration = Duration::from_secs(10);

/// Sends SIGHUP and waits until the daemon has logged `said` once more.
#[track_caller]
fn reload(daemon: &Daemon, said: &str) {
    let times = |text: &str| text.matches(said).count();
    let before = times(&daemon.stderr());
    daemon.process().signal(Signal::HUP);
    wait_for(said, SOON, || (times(&daemon.stderr()) > before).then_some(()));
}

const RELOADED: &str = "the configuration was reloaded";
const KEPT: &str = "the one before stays in use";

fn ready(daemon: &Daemon) -> Value {
    daemon.ask(Request::get("/readyz")).json()
}

/// Runs a command with these variables, beside no daemon.
fn run_with_env(arguments: &[&str], state_dir: &Path, set: &[(&str, &str)]) -> Ran {
    let mut command = command();
    command.args(arguments).arg("--state-dir").arg(state_dir).envs(set.iter().copied());
    Running::start(command, Some(b"")).finish(COMMAND_WITHIN)
}

fn statuses(installation: &Installation) -> Vec<String> {
    let text = |connection: &Value| connection["status"].as_str().expect("a status").to_owned();
    installation.connections().iter().map(text).collect()
}

#[test]
fn a_wrong_file_leaves_the_daemon_on_the_one_before() {
    let mock = Mock::start();
    let good = mock.section("mock", "strict");
    let installation = Installation::new(&good);
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);

    installation.configure(&format!("{good}rotatoin = \"persistent\"\n[refresh]\nmax_retries = \"x\"\n"));
    reload(&daemon, KEPT);
    let log = daemon.stderr();
    assert!(log.contains("tokenkeep.toml:6:1") && log.contains("tokenkeep.toml:8:15"), "{log}");
    assert!(log.contains("did you mean `rotation`?") && log.contains("between 0 and 10000"), "{log}");
    assert_eq!(ready(&daemon)["status"], "ok", "a wrong file makes nobody unready");
    assert!(ready(&daemon)["warnings"][0].to_string().contains("config show"), "{}", ready(&daemon));
    let shown = installation.run(&["config", "show"]).expect_code(0).stdout;
    assert!(shown.contains("The file was refused") && shown.contains("6 | rotatoin"), "{shown}");
    installation.run(&["refresh", "jira"]).expect_code(0);

    for broken in ["folder", "latin", "gone"] {
        fs::remove_file(installation.path("tokenkeep.toml")).expect("it is there");
        match broken {
            "folder" => fs::create_dir(installation.path("tokenkeep.toml")).expect("a folder"),
            "latin" => fs::write(installation.path("tokenkeep.toml"), b"a = \"\xe9\"").expect("a file"),
            _ => {}
        }
        reload(&daemon, KEPT);
        if broken == "folder" {
            fs::remove_dir(installation.path("tokenkeep.toml")).expect("it is empty");
            installation.configure("");
        }
    }
    let log = daemon.stderr();
    for said in ["it is a folder", "it is not UTF-8 text, from line 1 on", "No such file"] {
        assert!(log.contains(said), "{said}: {log}");
    }

    installation.configure(&format!("{good}{}", mock.section("second", "persistent")));
    reload(&daemon, RELOADED);
    assert!(daemon.stderr().contains("added=second"), "{}", daemon.stderr());
    assert_eq!(ready(&daemon).get("warnings"), None);
    installation.import("other", "second", &mock.grant("other", Rotation::Persistent, 3_600)).expect_code(0);
    let log = daemon.stop().expect_code(0).stderr;
    assert!(!log.contains(CLIENT_SECRET), "{log}");
}

#[test]
fn a_wrong_client_is_shown_held_everywhere_and_a_mended_one_is_released_at_once() {
    let mock = Mock::start();
    let installation = Installation::new(&mock.section("mock", "strict"));
    let daemon = installation.start();
    let lines = mock.grants("c", 8, 3_600, "mock");
    installation.import_lines(&lines);
    fs::write(installation.path("secret"), "not-it\n").expect("the folder is ours");
    reload(&daemon, RELOADED);
    for name in ["c0", "c1"] {
        installation.run(&["refresh", name]);
    }
    assert_eq!(statuses(&installation), ["held"; 8]);
    let untried = installation.connection("c7");
    assert_eq!(untried["last_error"]["code"], "provider_held", "{untried}");
    let held = installation.run(&["list", "--status", "held", "--json"]).json();
    assert_eq!(held.as_array().map(Vec::len), Some(8));

    // Also at a restart: with the same mistake it stays held, without it is released.
    daemon.stop().expect_code(0);
    let daemon = installation.start();
    assert_eq!(statuses(&installation), ["held"; 8]);
    fs::write(installation.path("secret"), CLIENT_SECRET).expect("the folder is ours");
    reload(&daemon, "changed=mock");
    wait_for("all of them fresh", SOON, || (statuses(&installation) == ["fresh"; 8]).then_some(()));
    wait_for("those that had been refused", SOON, || (mock.ledger("c0").refreshes == 1).then_some(()));
    daemon.stop().expect_code(0);
}

#[test]
fn connections_of_a_provider_that_is_gone_are_held_until_it_is_back() {
    let mock = Mock::start();
    let section = mock.section("mock", "strict");
    let installation = Installation::new(&section);
    let daemon = installation.start();
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    installation.configure("");
    reload(&daemon, "removed=mock");
    let held = installation.connection("jira");
    assert_eq!((&held["status"], &held["last_error"]["code"]), (&"held".into(), &"unknown_provider".into()), "{held}");
    installation.run(&["token", "jira"]).expect_code(0);
    let refused = installation.run(&["refresh", "jira"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("SIGHUP"), "{refused:?}");
    installation.configure(&section);
    reload(&daemon, "added=mock");
    installation.run(&["refresh", "jira"]).expect_code(0);
    assert_eq!(installation.connection("jira")["status"], "fresh");
    daemon.stop().expect_code(0);
}

#[test]
fn the_file_is_master_of_what_it_declares() {
    let mock = Mock::start();
    let section = mock.section("mock", "strict");
    let declared =
        |team: &str| format!("{section}[connections.jira]\nprovider = \"mock\"\nlabels = {{ team = \"{team}\" }}\n");
    let installation = Installation::new(&declared("core"));
    let daemon = installation.start();
    let shown = installation.run(&["config", "show"]).expect_code(0).stdout;
    assert!(shown.contains("jira") && shown.contains("not connected yet"), "{shown}");
    installation.import("jira", "mock", &mock.grant("jira", Rotation::Strict, 3_600)).expect_code(0);
    installation.import("other", "mock", &mock.grant("other", Rotation::Strict, 3_600)).expect_code(0);
    assert_eq!(installation.connection("jira")["labels"]["team"], "core");
    installation.configure(&declared("ops"));
    reload(&daemon, RELOADED);
    assert_eq!(installation.connection("jira")["labels"]["team"], "ops");
    let config = installation.run(&["config", "show", "--json"]).expect_code(0).json();
    assert_eq!((&config["connections"][0]["connected"], &config["run_time_connections"]), (&true.into(), &1.into()));

    let refused = installation.run(&["remove", "jira", "--yes"]).expect_code(1);
    assert!(refused.stderr.contains("declared in the configuration"), "{}", refused.stderr);
    assert!(refused.stderr.contains("[connections.jira]"), "{}", refused.stderr);
    installation.configure(&section);
    reload(&daemon, RELOADED);
    assert_eq!(installation.connection("jira")["status"], "fresh", "it stays, and is made at run time from now on");
    installation.run(&["remove", "jira", "--yes"]).expect_code(0);
    daemon.stop().expect_code(0);
}

#[test]
fn what_needs_a_restart_is_named_and_stays() {
    let installation = Installation::new("");
    let daemon = installation.start();
    installation.configure("[refresh]\nin_flight_max = 7\nmax_retries = 9\n");
    reload(&daemon, RELOADED);
    assert!(daemon.stderr().contains("setting=refresh.in_flight_max"), "{}", daemon.stderr());
    let shown = installation.run(&["config", "show"]).expect_code(0).stdout;
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).expect("it is shown").to_owned();
    assert!(line("refresh.in_flight_max").contains("256 (after a restart 7)"), "{shown}");
    assert!(line("refresh.max_retries").contains("tokenkeep.toml:3"), "{shown}");
    assert!(line("server.listen").contains("flag --listen"), "{shown}");
    daemon.stop().expect_code(0);
}

#[test]
fn a_check_tells_everything_and_shows_no_secret() {
    let installation = Installation::new("[refresh]\nmax_retries = 1\n");
    let file = installation.path("tokenkeep.toml");
    let file = file.to_str().expect("a plain path");
    let state = installation.state_dir();
    run_with_env(&["config", "check", file], &state, &[]).expect_code(0);
    run_with_env(&["config", "check"], &state, &[("TOKENKEEP_CONFIG", file)]).expect_code(0);
    let variable = [("TOKENKEEP_REFRESH__MAX_RETRIE", "2")];
    let typo = run_with_env(&["config", "check", file], &state, &variable).expect_code(1);
    assert!(typo.stderr.contains("did you mean TOKENKEEP_REFRESH__MAX_RETRIES?"), "{}", typo.stderr);
    run_with_env(&["serve", "--config", file], &state, &variable).expect_code(1);
    let shown = run_with_env(&["config", "show", "--config", file], &state, &[("TOKENKEEP_REFRESH__MAX_RETRIES", "2")]);
    assert!(shown.stdout.contains("env TOKENKEEP_REFRESH__MAX_RETRIES"), "{}", shown.stdout);

    installation.configure("[providers.a]\nclient_secret = \"hunter2\"\n[connections.b]\n[sever]\n");
    let wrong = run_with_env(&["config", "check", file], &state, &[]).expect_code(1);
    for said in ["toml:1:12: this provider has no client_id", "toml:2:17: a secret must not", "toml:3:14", "toml:4:2"] {
        assert!(wrong.stderr.contains(said), "{said}: {}", wrong.stderr);
    }
    assert!(!wrong.stderr.contains("hunter2"), "{}", wrong.stderr);
    let folder = run_with_env(&["config", "check", "/"], &state, &[]).expect_code(1);
    assert!(folder.stderr.contains("it is a folder") && folder.stderr.contains("next: "), "{}", folder.stderr);
    assert!(!state.exists(), "a check makes nothing");
}
