//! `exec`, `export`, `credential` and `doctor` by the real binary, with the programs that they serve.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokenkeep_mock::Rotation;
use tokenkeep_tests::daemon::{COMMAND_WITHIN, Daemon, Installation, binary, command};
use tokenkeep_tests::git_server::{GitServer, Scheme};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::mock::Mock;
use tokenkeep_tests::process::{Ran, Running};

/// A provider and a daemon with the connection `jira`.
struct Place {
    mock: Mock,
    installation: Installation,
    token: Value,
    daemon: Option<Daemon>,
}

impl Place {
    fn with_labels(labels: &[&str]) -> Self {
        let mock = Mock::start();
        let installation = Installation::new(&mock.section("mock", "strict"));
        let daemon = installation.start();
        let mut token = mock.grant("jira", Rotation::Strict, 3_600);
        token["id_token"] = "kept".into();
        let mut arguments = vec!["import", "jira", "--provider", "mock"];
        arguments.extend(labels.iter().flat_map(|label| ["--label", label]));
        installation.run_with(&arguments, token.to_string().as_bytes()).expect_code(0);
        Self { mock, installation, token, daemon: Some(daemon) }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.installation.run(arguments)
    }

    /// What stands behind `--` is the command's, so the state folder comes by the environment.
    fn exec(&self, arguments: &[&str]) -> Ran {
        let mut exec = command();
        exec.arg("exec").args(arguments).env("TOKENKEEP_STATE_DIR", self.installation.state_dir());
        Running::start(exec, Some(b"")).finish(COMMAND_WITHIN)
    }

    fn access_token(&self) -> &str {
        self.token["access_token"].as_str().expect("a text")
    }
}

#[test]
fn exec_gives_the_token_and_ends_as_the_command_does() {
    let place = Place::with_labels(&[]);
    let ran = place.exec(&["jira", "--", "sh", "-c", "echo $ACCESS_TOKEN $ACCESS_TOKEN_EXPIRES_AT; exit 7"]);
    let shown = place.run(&["token", "jira", "--json"]).json();
    let (token, at) = ran.stdout.trim().split_once(' ').expect("two words");
    assert_eq!((ran.code, token), (Some(7), place.access_token()));
    // A millisecond may be lost between the clocks.
    assert_eq!(at[..16], shown["expires_at"].as_str().expect("a time")[..16]);
    assert_eq!(ran.stderr, "");

    for (program, code) in [("no-such-command", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let ran = place.exec(&["jira", "--", program]).expect_code(code);
        assert!(ran.stderr.contains(program) && ran.stderr.contains("next: "), "{}", ran.stderr);
        assert!(!ran.stderr.contains(place.access_token()));
    }
    let touched = place.installation.path("touched");
    place.exec(&["jria", "--", "touch", touched.to_str().expect("a path")]).expect_code(3);
    assert!(!touched.exists(), "a command without a token is not run");
}

#[test]
fn what_is_exported_is_imported_equal_elsewhere() {
    let place = Place::with_labels(&[]);
    let refused = place.run(&["export", "jira"]).expect_code(2);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("--yes"), "{}", refused.stderr);
    let exported = place.run(&["export", "jira", "--yes"]).expect_code(0);
    assert_eq!(exported.json(), place.token, "what came in goes out");
    assert!(!exported.stderr.contains(place.access_token()));
    let daemon = place.daemon.as_ref().expect("it runs");
    let said = daemon.stderr();
    assert!(said.contains("the whole token set was exported"), "{said}");
    assert!(!said.contains(place.access_token()));
    let export = Request::post("/v1/connections/jira/export", &[], "");
    assert_eq!(export.at_address(&daemon.tcp()).expect("it answers").status, 401, "nobody is known to ask");
    let key = daemon.admin_key().authorization;
    let by_key = Request { headers: &[("authorization", &key)], ..export }.at_address(&daemon.tcp());
    let refused = by_key.expect("it answers");
    assert_eq!((refused.status, &refused.json()["code"]), (403, &Value::from("socket_only")), "{refused:?}");

    let elsewhere = Installation::new(&place.mock.section("mock", "strict"));
    let _daemon = elsewhere.start();
    elsewhere.import("other", "mock", &exported.json()).expect_code(0);
    assert_eq!(elsewhere.run(&["export", "other", "--yes"]).json(), exported.json());

    let file = place.installation.path("token.json");
    let path = file.to_str().expect("a path");
    let written = place.run(&["export", "jira", "--yes", "--output", path]).expect_code(0);
    assert_eq!(written.stdout, "");
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&file).expect("text"), exported.stdout);
    fs::write(&file, "precious").expect("it is ours");
    place.run(&["export", "jira", "--yes", "--output", path]).expect_code(1);
    assert_eq!(fs::read_to_string(&file).expect("text"), "precious");
    place.run(&["export", "jira", "--yes", "--output", path, "--force"]).expect_code(0);
    assert_eq!(fs::read_to_string(&file).expect("text"), exported.stdout);
}

/// A repository to clone, and git as a user with no other configuration has it.
struct Git {
    folder: tempfile::TempDir,
}

impl Git {
    fn new() -> Self {
        let made = Self { folder: tempfile::tempdir().expect("a folder") };
        made.git(&["init", "--quiet", "served/repo"]).expect_code(0);
        fs::write(made.path("served/repo/file"), "content").expect("a new file");
        made.git(&["-C", "served/repo", "add", "file"]).expect_code(0);
        made.git(&["-C", "served/repo", "commit", "--quiet", "-m", "one"]).expect_code(0);
        made
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn git(&self, arguments: &[&str]) -> Ran {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(self.folder.path());
        git.env("HOME", self.folder.path()).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        for (name, value) in [("user.name", "t"), ("user.email", "t@example.com")] {
            let variable = if name == "user.name" { "NAME" } else { "EMAIL" };
            git.env(format!("GIT_AUTHOR_{variable}"), value).env(format!("GIT_COMMITTER_{variable}"), value);
        }
        Running::start(git, Some(b"")).finish(COMMAND_WITHIN)
    }

    /// As the help text says it is set up.
    fn configure(&self, key: &str, installation: &Installation, arguments: &str) {
        let (binary, state_dir) = (binary(), installation.state_dir());
        let helper =
            format!("!'{}' --state-dir '{}' credential git {arguments}", binary.display(), state_dir.display());
        self.git(&["config", "--global", key, &helper]).expect_code(0);
    }

    fn clone(&self, server: &GitServer, into: &str) -> Ran {
        self.git(&["clone", "--quiet", &server.url("repo/.git"), into])
    }

    fn is_cloned(&self, into: &str) -> bool {
        fs::read_to_string(self.path(into).join("file")).is_ok_and(|text| text == "content")
    }
}

/// The mock says which access tokens are good.
fn is_good(mock: &Mock) -> impl Fn(&str) -> bool + Send + Sync + 'static {
    let state = Arc::clone(mock.state());
    move |token| {
        let now_ms = state.now_ms();
        state.with_provider(|provider| provider.use_access_token(now_ms, token)).is_some()
    }
}

#[test]
fn git_clones_with_a_bearer_token_and_with_one_as_a_password() {
    let place = Place::with_labels(&[]);
    let git = Git::new();
    let bearer = GitServer::start(&git.path("served"), Scheme::Bearer, is_good(&place.mock));
    assert!(git.clone(&bearer, "without").code != Some(0) && !git.is_cloned("without"), "it wants a token");
    git.configure(&format!("credential.http://{}.helper", bearer.host()), &place.installation, "--connection jira");
    git.clone(&bearer, "bearer").expect_code(0);
    assert!(git.is_cloned("bearer"));

    let basic = GitServer::start(&git.path("served"), Scheme::Basic, is_good(&place.mock));
    assert_ne!(git.clone(&basic, "other").code, Some(0), "another host has no helper");
    git.configure(&format!("credential.http://{}.helper", basic.host()), &place.installation, "--connection jira");
    git.clone(&basic, "basic").expect_code(0);
    assert!(git.is_cloned("basic"));
}

#[test]
fn a_token_that_a_git_server_refuses_is_refreshed_once() {
    let place = Place::with_labels(&[]);
    let git = Git::new();
    let (refused, good) = (place.access_token().to_owned(), is_good(&place.mock));
    let server = GitServer::start(&git.path("served"), Scheme::Bearer, move |token| token != refused && good(token));
    git.configure("credential.helper", &place.installation, "--connection jira");
    assert_ne!(git.clone(&server, "first").code, Some(0));
    assert_eq!(place.mock.ledger("jira").refreshes, 1, "git's erase is a report");
    git.clone(&server, "second").expect_code(0);
    assert!(git.is_cloned("second"));
    // The same report again is about a token that is not in hand.
    let erase = format!("protocol=https\nhost=h\nauthtype=Bearer\ncredential={}\n\n", place.access_token());
    let arguments = ["credential", "git", "--connection", "jira", "erase"];
    place.installation.run_with(&arguments, erase.as_bytes()).expect_code(0);
    assert_eq!((place.mock.ledger("jira").refreshes, place.mock.totals().reuses), (1, 0));
}

#[test]
fn a_label_chooses_the_connection_of_a_host_and_no_other_host_gets_it() {
    let git = Git::new();
    let good = Arc::new(Mutex::new(None::<Box<dyn Fn(&str) -> bool + Send>>));
    let judge = Arc::clone(&good);
    let server = GitServer::start(&git.path("served"), Scheme::Bearer, move |token| {
        judge.lock().expect("no panic").as_ref().is_some_and(|is_good| is_good(token))
    });
    let place = Place::with_labels(&[&format!("git.host=git.example.com,{}", server.host())]);
    *good.lock().expect("no panic") = Some(Box::new(is_good(&place.mock)));
    git.configure("credential.helper", &place.installation, "");
    git.clone(&server, "labelled").expect_code(0);
    assert!(git.is_cloned("labelled"));

    let get = |host: &str, arguments: &[&str]| {
        let ask = format!("protocol=https\nhost={host}\ncapability[]=authtype\n\n");
        let arguments = [&["credential", "git"], arguments, &["get"]].concat();
        place.installation.run_with(&arguments, ask.as_bytes())
    };
    assert!(get("git.example.com", &[]).expect_code(0).stdout.contains(place.access_token()));
    for arguments in [&[][..], &["--connection", "jira"]] {
        assert_eq!(get("evil.example.com", arguments).expect_code(0).stdout, "", "{arguments:?}");
    }
    let plain = b"protocol=http\nhost=git.example.com\n\n";
    let refused = place.installation.run_with(&["credential", "git", "get"], plain).expect_code(1);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("expected https"), "{}", refused.stderr);

    let second = place.mock.grant("second", Rotation::Strict, 3_600);
    let import = ["import", "second", "--provider", "mock", "--label", "git.host=git.example.com"];
    place.installation.run_with(&import, second.to_string().as_bytes()).expect_code(0);
    let doubtful = get("git.example.com", &[]).expect_code(2);
    assert!(doubtful.stdout.is_empty() && doubtful.stderr.contains("jira, second"), "{}", doubtful.stderr);
    assert!(get("git.example.com", &["--connection", "jira"]).stdout.contains(place.access_token()));
    // What a later git may want, and what is not needed, is silence.
    for operation in ["store", "some-later-operation"] {
        let ran = place.installation.run_with(&["credential", "git", operation], b"protocol=https\nhost=h\n\n");
        assert_eq!(ran.expect_code(0).stdout, "", "{operation}");
    }
}

/// The published definition (kubernetes.io, reference "Client Authentication", v1 and v1beta1), as far as a plugin
/// writes it: `apiVersion` and `kind` name the type; `status` has `token`, or `clientCertificateData` with
/// `clientKeyData`, and `expirationTimestamp`, an RFC 3339 time; `spec` is kubectl's. kubectl decodes strictly enough
/// that a field of another type is an error, and takes no other field.
fn assert_exec_credential(credential: &Value, version: &str) {
    let object = credential.as_object().expect("an object");
    for (key, value) in object {
        match key.as_str() {
            "apiVersion" => assert_eq!(value, &json!(format!("client.authentication.k8s.io/{version}"))),
            "kind" => assert_eq!(value, "ExecCredential"),
            "status" => {}
            other => panic!("{other} is no field that a plugin writes"),
        }
    }
    let status = credential["status"].as_object().expect("status is an object");
    for (key, value) in status {
        let text = value.as_str().unwrap_or_else(|| panic!("status.{key} is a text"));
        match key.as_str() {
            "token" => assert!(!text.is_empty()),
            "expirationTimestamp" => assert_kubernetes_time(text),
            other => panic!("status.{other} is unknown"),
        }
    }
    assert!(object.len() == 3 && status.contains_key("token"), "{object:?}");
}

/// `metav1.Time`: RFC 3339, to the second, in UTC.
fn assert_kubernetes_time(text: &str) {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00Z", "{text}");
}

#[test]
fn kubectl_reads_what_it_asked_for() {
    let place = Place::with_labels(&[]);
    let run = |info: Option<&str>| {
        let mut kube = command();
        kube.args(["credential", "kube", "jira", "--state-dir"]).arg(place.installation.state_dir());
        kube.env_remove("KUBERNETES_EXEC_INFO").envs(info.map(|info| ("KUBERNETES_EXEC_INFO", info)));
        Running::start(kube, Some(b"")).finish(COMMAND_WITHIN)
    };
    let info = |version: &str| {
        json!({"kind": "ExecCredential", "apiVersion": format!("client.authentication.k8s.io/{version}"),
               "spec": {"interactive": false}})
        .to_string()
    };
    for (info, version) in [(None, "v1"), (Some(info("v1")), "v1"), (Some(info("v1beta1")), "v1beta1")] {
        let credential = run(info.as_deref()).expect_code(0).json();
        assert_exec_credential(&credential, version);
        assert_eq!(credential["status"]["token"], place.token["access_token"]);
    }
    let refused = run(Some(&info("v1alpha1"))).expect_code(2);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("v1alpha1"), "{}", refused.stderr);
}

/// Runs the binary as docker does: by a link of the helper's name.
fn docker(installation: &Installation, operation: &str, input: &str) -> Ran {
    let link = installation.path("docker-credential-tokenkeep");
    if !link.exists() {
        symlink(binary(), &link).expect("a folder of ours");
    }
    let mut helper = Command::new(link);
    helper.arg(operation).env("TOKENKEEP_STATE_DIR", installation.state_dir());
    Running::start(helper, Some(input.as_bytes())).finish(COMMAND_WITHIN)
}

#[test]
fn docker_is_answered_under_its_own_name() {
    let place = Place::with_labels(&["docker.server=registry.example.com:5000", "docker.username=$oauthtoken"]);
    let ask = |operation: &str, input: &str| docker(&place.installation, operation, input);
    for server in ["registry.example.com:5000", "https://registry.example.com:5000/v2/\n"] {
        let got = ask("get", server).expect_code(0);
        let expected = json!({"ServerURL": server.trim(), "Username": "$oauthtoken", "Secret": place.access_token()});
        assert_eq!(got.json(), expected);
        ask("store", &got.stdout).expect_code(0);
    }
    assert_eq!(ask("list", "").expect_code(0).json(), json!({"registry.example.com:5000": "$oauthtoken"}));
    let none = ask("get", "registry.example.com").expect_code(1);
    assert_eq!(none.stdout.trim(), "credentials not found in native keychain");
    let password = json!({"ServerURL": "registry.example.com:5000", "Username": "ann", "Secret": "hunter2"});
    let refused = ask("store", &password.to_string()).expect_code(1);
    assert!(refused.stdout.contains("stores no passwords"), "{}", refused.stdout);
    assert!(!(refused.stdout + &refused.stderr).contains("hunter2"));
    ask("erase", "registry.example.com:5000").expect_code(0);
    ask("get", "registry.example.com:5000").expect_code(0);
    assert!(ask("guess", "").expect_code(2).stdout.contains("expected get, store, erase, list or version"));
}

/// A check of `doctor --json` by its name.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("an array");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}

#[track_caller]
fn assert_fault(report: &Value, name: &str, found: &str, mend: &str) {
    let check = check(report, name);
    let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
    assert_eq!(check["verdict"], "fault", "{check}");
    assert!(text("found").contains(found) && text("mend").contains(mend), "{check}");
}

#[test]
fn doctor_finds_each_fault_and_names_its_mend() {
    let mut place = Place::with_labels(&[]);
    let config = place.installation.path("tokenkeep.toml");
    let config = config.to_str().expect("a path");
    let well = place.run(&["doctor", "--config", config, "--network", "--json"]).expect_code(0).json();
    for name in ["state folder", "lock", "socket", "version", "readiness", "clock", "master key", "journal"] {
        assert_eq!(check(&well, name)["verdict"], "ok", "{name}");
    }
    assert_eq!(
        (&check(&well, "provider mock")["verdict"], &check(&well, "database")["verdict"]),
        (&json!("ok"), &json!("skipped"))
    );

    assert_eq!(place.mock.state().kill("jira"), Some(true));
    place.run(&["refresh", "jira"]).expect_code(4);
    let dead = place.run(&["doctor", "--json"]).expect_code(1);
    assert_fault(&dead.json(), "jira", "needs_reauth", "tokenkeep import jira");
    let told = place.run(&["doctor"]).expect_code(1).stdout;
    assert!(told.contains("needs_reauth") && told.lines().last().expect("a line").starts_with("2 faults"), "{told}");
    for secret in ["access_token", "refresh_token"] {
        assert!(!(dead.stdout.clone() + &told).contains(place.token[secret].as_str().expect("a text")));
    }

    place.daemon.take().expect("it runs").kill();
    let state_dir = place.installation.state_dir();
    let stopped = place.run(&["doctor", "--json"]).expect_code(1).json();
    assert_fault(&stopped, "socket", "no daemon answers", "tokenkeep serve");
    assert_eq!(check(&stopped, "database")["verdict"], "ok");
    let right = fs::read_to_string(config).expect("it is ours");
    fs::write(config, "[providers.mock]\ntokn_url = 3\n").expect("it is ours");
    let wrong = place.run(&["doctor", "--json", "--config", config]).expect_code(1).json();
    assert_fault(&wrong, "configuration", "tokenkeep.toml:2:1", "config check");
    place.installation.configure(&right);
    damage(&place.installation, &state_dir);
}

/// What is wrong with the files is told, and none of them is changed.
fn damage(installation: &Installation, state_dir: &Path) {
    let report = || installation.run(&["doctor", "--json"]).expect_code(1).json();
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    let (key, database) = (state_dir.join("master.key"), state_dir.join("tokenkeep.db"));
    set_mode(state_dir, 0o755);
    assert_fault(&report(), "state folder", "0755", "chmod 700");
    set_mode(state_dir, 0o700);
    set_mode(&key, 0o644);
    assert_fault(&report(), "master key", "0644", "chmod 600");
    set_mode(&key, 0o600);

    let right = fs::read(&key).expect("it is ours");
    fs::write(&key, [7; 32]).expect("it is ours");
    assert_fault(&report(), "journal", "another master key", "put back");
    assert_fault(&report(), "database", "another master key", "put back");
    fs::write(&key, &right[..5]).expect("it is ours");
    assert_fault(&report(), "master key", "holds 5 bytes", "put the right key back");
    fs::remove_file(&key).expect("it is ours");
    assert_fault(&report(), "master key", "does not exist", "put the master key back");
    assert!(!key.exists(), "doctor makes nothing");
    fs::write(&key, &right).expect("it is ours");
    set_mode(&key, 0o600);

    let whole = fs::read(&database).expect("it is ours");
    fs::write(&database, &whole[..whole.len() / 2]).expect("it is ours");
    assert_fault(&report(), "database", "tokenkeep.db", "keep a copy");
    assert_eq!(fs::read(&database).expect("it is ours"), whole[..whole.len() / 2]);
    fs::write(&database, &whole).expect("it is ours");
    installation.start();
}
