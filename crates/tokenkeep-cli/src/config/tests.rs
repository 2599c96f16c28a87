use super::*;
use crate::error::CliError;
use std::io;

const JIRA: &str =
    "[providers.jira]\npreset = \"atlassian\"\nclient_id = \"abc\"\nclient_secret = { env = \"SECRET\" }\n";

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some("hush".to_owned()),
        "MULTILINE" => Some("a\nb".to_owned()),
        _ => None,
    }
}

fn file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("etc/secret") => Ok("from a file\r\n".to_owned()),
        Some("etc/empty") => Ok("\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

const SOURCES: Sources<'static> = Sources { env: &env, file: &file };

fn read(text: &str) -> Result<Settings, ConfigError> {
    parse(text, Path::new("etc/tokenkeep.toml"), SOURCES)
}

fn good(text: &str) -> Settings {
    read(text).unwrap_or_else(|error| panic!("{text}\n{}", CliError::from(error).report()))
}

fn report(text: &str) -> String {
    CliError::from(read(text).expect_err(text)).report()
}

#[test]
fn nothing_at_all_is_the_defaults() {
    let config = good("").into_config("/s");
    assert_eq!(config.policy, Policy::default());
    assert_eq!((config.in_flight_max, config.providers.len()), (IN_FLIGHT_MAX, 0));
    assert_eq!(config.state_dir, Path::new("/s"));
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let settings = good(&format!(
        r#"
        [server]
        listen = "127.0.0.1:7979"
        public_url = "http://localhost:7979"
        [store]
        url = "sqlite:tokenkeep.db"
        [refresh]
        check_interval = "1m"
        refresh_threshold = 120
        max_retries = 5
        in_flight_max = 32
        {JIRA}
        [providers.corp]
        token_url = "https://sso.example.com/token"
        authorize_url = "https://sso.example.com/authorize"
        revoke_url = "https://sso.example.com/revoke"
        device_url = "https://sso.example.com/device"
        client_id = "c"
        client_secret = {{ file = "secret" }}
        client_auth = "client_secret_basic"
        rotation = "grace:30"
        refresh_per_second = 5
        refresh_in_flight_max = 6
        "#
    ));
    assert_eq!(settings.listen, Some("127.0.0.1:7979".parse().unwrap()));
    assert_eq!(settings.public_url.as_ref().unwrap().as_str(), "http://localhost:7979/");
    let corp = &settings.providers[0];
    assert_eq!(corp.endpoints.device_url.as_ref().unwrap().path(), "/device");
    assert_eq!(corp.endpoints.revoke_url.as_ref().unwrap().path(), "/revoke");
    assert_eq!(corp.endpoints.authorize_url.as_ref().unwrap().path(), "/authorize");
    let config = settings.into_config("/s");
    assert_eq!(config.policy.check_interval, Duration::from_secs(60));
    assert_eq!(config.policy.refresh_threshold, Duration::from_secs(120));
    assert_eq!((config.policy.max_retries, config.in_flight_max), (5, 32));
    let [corp, jira] = &config.providers[..] else { panic!("two providers") };
    assert_eq!((corp.name.as_str(), corp.client.id.as_str()), ("corp", "c"));
    assert_eq!(corp.client.secret.as_ref().unwrap().expose(), "from a file");
    assert_eq!(corp.rules.client_auth, ClientAuth::SecretBasic);
    assert_eq!(corp.rules.rotation, Rotation::Grace(Duration::from_secs(30)));
    assert_eq!((corp.refresh_per_second, corp.refresh_in_flight_max), (5, 6));
    assert_eq!(jira.token_url.as_str(), "https://auth.atlassian.com/oauth/token");
    assert_eq!(jira.client.secret.as_ref().unwrap().expose(), "hush");
    assert_eq!(jira.rules.errors.len(), 1);
}

#[test]
fn a_provider_without_preset_is_treated_as_strict() {
    let text = "[providers.x]\ntoken_url = \"https://x.example/t\"\nclient_id = \"c\"\nclient_auth = \"none\"";
    let provider = &good(text).providers[0].provider;
    assert_eq!(provider.rules.rotation, Rotation::Unknown);
    assert!(provider.client.secret.is_none());
    assert_eq!(provider.refresh_per_second, REFRESH_PER_SECOND);
}

#[test]
fn the_environment_stands_above_the_file() {
    let env = |name: &str| match name {
        "TOKENKEEP_REFRESH__MAX_RETRIES" => Some("9".to_owned()),
        "TOKENKEEP_REFRESH__CHECK_INTERVAL" => Some("20".to_owned()),
        "TOKENKEEP_SERVER__LISTEN_FILE" => Some("listen".to_owned()),
        _ => None,
    };
    let file = |path: &Path| match path.to_str() {
        Some("listen") => Ok("[::1]:1\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let sources = Sources { env: &env, file: &file };
    let settings = parse("[refresh]\nmax_retries = 1", Path::new("t"), sources).unwrap();
    assert_eq!((settings.policy.max_retries, settings.policy.check_interval.as_secs()), (9, 20));
    assert_eq!(settings.listen, Some("[::1]:1".parse().unwrap()));
}

#[test]
fn a_wrong_variable_is_named() {
    let env = |name: &str| (name == "TOKENKEEP_REFRESH__MAX_RETRIES").then(|| "many".to_owned());
    let sources = Sources { env: &env, file: &file };
    let error = parse("", Path::new("t"), sources).unwrap_err();
    assert_eq!(error.to_string(), "TOKENKEEP_REFRESH__MAX_RETRIES: `refresh.max_retries` is many");
    let env = |name: &str| (name == "TOKENKEEP_SERVER__LISTEN_FILE").then(|| "gone".to_owned());
    let sources = Sources { env: &env, file: &file };
    let error = parse("", Path::new("t"), sources).unwrap_err().to_string();
    assert!(error.starts_with("TOKENKEEP_SERVER__LISTEN_FILE: the file gone cannot be read"), "{error}");
}

#[test]
fn an_error_shows_the_place_the_line_and_the_remedy() {
    assert_eq!(
        report("[refresh]\n  refesh_threshold = \"600s\"\n"),
        "error: etc/tokenkeep.toml:2:3: unknown key `refesh_threshold` in [refresh]\n\
         \x20 2 |   refesh_threshold\n\
         \x20   |   ^^^^^^^^^^^^^^^^\n\
         next: did you mean `refresh_threshold`?\n"
    );
    assert_eq!(
        report("[refresh]\nmax_retries = \"x\"\n"),
        "error: etc/tokenkeep.toml:2:15: `refresh.max_retries` is a string\n\
         \x20 2 | max_retries = \"x\"\n\
         \x20   |               ^^^\n\
         next: expected a whole number between 0 and 10000\n"
    );
}

#[test]
fn every_wrong_thing_is_refused_with_its_reason() {
    let provider = |lines: &str| format!("[providers.x]\nclient_id = \"c\"\nclient_auth = \"none\"\n{lines}");
    let https = "token_url = \"https://x.example/t\"";
    for (text, found, expected) in [
        ("[sever]".to_owned(), "unknown key `sever`", "did you mean `server`?"),
        ("zzz = 1".to_owned(), "unknown key `zzz`", "server, store"),
        ("server = 1".to_owned(), "`server` is an integer", "[server]"),
        ("[server]\nlisten = \"0.0.0.0:1\"".to_owned(), "`server.listen` is `0.0.0.0:1`", "loopback"),
        ("[server]\nlisten = \"127.0.0.1\"".to_owned(), "`server.listen`", "127.0.0.1:7878"),
        ("[server]\nlisten = 7878".to_owned(), "`server.listen` is an integer", "loopback"),
        ("[server]\npublic_url = \"nonsense\"".to_owned(), "`server.public_url`", "URL"),
        ("[store]\nurl = \"postgres://u:p@h/d\"".to_owned(), "PostgreSQL is not supported yet", "sqlite:tokenkeep.db"),
        ("[store]\nurl = \"sqlite:other.db\"".to_owned(), "not supported", "sqlite:tokenkeep.db"),
        ("[refresh]\ncheck_interval = \"soon\"".to_owned(), "`refresh.check_interval` is `soon`", "between 1s and 1d"),
        ("[refresh]\ncheck_interval = 0".to_owned(), "`refresh.check_interval` is 0", "between 1s"),
        ("[refresh]\nrefresh_threshold = true".to_owned(), "is a boolean", "span of time"),
        ("[refresh]\nmax_retries = -1".to_owned(), "is -1", "between 0 and"),
        ("[refresh]\nmax_retries = 0x10".to_owned(), "`refresh.max_retries` is an integer", "whole number"),
        ("[refresh]\nin_flight_max = 0".to_owned(), "is 0", "between 1 and 4096"),
        ("[connections.jira]\nprovider = \"jira\"".to_owned(), "cannot be declared", "tokenkeep import"),
        ("[providers.\"a b\"]".to_owned(), "`a b` is not a name", "another name"),
        ("[providers]\nx = 1".to_owned(), "`providers.x` is an integer", "[providers.x]"),
        ("[providers.x]".to_owned(), "no client_id", "client_id ="),
        ("[providers.x]\nclient_id = \"\"".to_owned(), "`client_id` is empty", "provider gave it"),
        (format!("[providers.x]\nclient_id = \"c\"\n{https}"), "no client_secret", "{ env = \"NAME\" }"),
        (provider(""), "no token_url", "https://"),
        (provider("issuer = \"https://x\""), "cannot be discovered", "token_url"),
        (provider("preset = \"atlasian\""), "no preset `atlasian`", "did you mean \"atlassian\"?"),
        (provider("preset = \"zzzzzz\""), "no preset `zzzzzz`", "github-app"),
        (provider("token_url = \"http://x.example/t\""), "unencrypted", "loopback"),
        (provider("token_url = \"http://127.0.0.1.evil.example/t\""), "unencrypted", "loopback"),
        (provider("token_url = \"ftp://x/t\""), "scheme `ftp`", "https://"),
        (provider("token_url = \"https://u:p@x/t\""), "user, a password", "plain URL"),
        (provider("token_url = \"/t\""), "`providers.x.token_url` is `/t`", "URL"),
        (provider(&format!("{https}\nrotation = \"sometimes\"")), "is `sometimes`", "until-used"),
        (provider(&format!("{https}\nrefresh_per_second = 0")), "is 0", "between 1 and 10000"),
        (provider(&format!("{https}\nclient_secret = {{ env = \"SECRET\" }}")), "contradict", "remove one"),
        (JIRA.replace("preset", "client_auth = \"private_key_jwt\"\npreset"), "private_key_jwt", "client_secret_post"),
        (JIRA.replace("SECRET", "MISSING"), "MISSING is not set", "tokenkeep serve"),
        (JIRA.replace("SECRET", "MULTILINE"), "control characters", "one line"),
        (JIRA.replace("env = \"SECRET\"", "file = \"gone\""), "etc/gone cannot be read", "configuration's folder"),
        (JIRA.replace("env = \"SECRET\"", "file = \"empty\""), "secret is empty", "alone"),
        (JIRA.replace("env = ", "vault = "), "unknown key `vault`", "{ env = \"NAME\" }"),
        (JIRA.replace("env = \"SECRET\"", ""), "must have one key", "{ env = \"NAME\" }"),
        (JIRA.replace("{ env = \"SECRET\" }", "7"), "is an integer", "{ env = \"NAME\" }"),
        ("[server".to_owned(), "this is not TOML", "toml.io"),
        ("a = 1\na = 2".to_owned(), "this is not TOML", "toml.io"),
    ] {
        let report = report(&text);
        let (cause, next) = report.split_once("next: ").expect("a next step");
        assert!(cause.contains(found), "{text}\n{report}");
        assert!(next.contains(expected), "{text}\n{report}");
    }
}

#[test]
fn http_is_taken_for_loopback_hosts() {
    for host in ["localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]:3", "mock.localhost"] {
        good(&format!("[providers.x]\nclient_id = \"c\"\nclient_auth = \"none\"\ntoken_url = \"http://{host}/t\""));
    }
}

#[test]
fn no_secret_is_ever_shown() {
    for text in [
        "[providers.x]\nclient_id = \"c\"\nclient_secret = \"hunter2\"",
        "[providers.x]\nclient_secret = hunter2",
        "[providers.x]\nclient_secrt = \"hunter2\"",
        "[providers.x]\npwd = \"hunter2\"",
        "[providers]\nx = { client_secret = \"hunter2\", client = \"c\" }",
        "[providers]\nx = { client_secret = \"hunter2\", preset = \"zz\", client_id = \"c\" }",
        "[store]\nurl = \"mysql://u:hunter2@h/d\"",
    ] {
        let report = report(text);
        assert!(!report.contains("hunter2"), "{report}");
    }
    let report = report("[providers.x]\nclient_id = \"c\"\nclient_secret = \"hunter2\"");
    assert!(report.contains("client_secret = \"...\"\n    |                 ^"), "{report}");
}

#[test]
fn odd_places_do_not_panic() {
    for text in
        ["é = 1\u{301}", "\u{feff}[refresh]\nx=1", "[refresh]\r\nx = 1\r\n", "x", "\"", "é\n\n=", "[providers.é]"]
    {
        assert!(report(text).starts_with("error: etc/tokenkeep.toml:"), "{text:?}");
    }
}
